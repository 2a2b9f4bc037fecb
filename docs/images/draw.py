"""Draw the pictures of the documents: python docs/images/draw.py [sheet] [graph] [session].

All of them are made by imagen-flow itself: the sheet by the demo's graph, the others of a plan and of
a terminal session.
"""

from __future__ import annotations

import base64
import html
import os
import pty
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import imagen_flow as flow

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GRAPH = "graphs/imagen.yaml"

#: What is typed in the session. The output of each command is shown as the terminal shows it.
SESSION = [
    ["run", GRAPH],
    ["plan", GRAPH, "--set", "instruction=make the circle a star"],
    ["run", GRAPH, "--set", "instruction=make the circle a star"],
]

STYLE = "font-family='ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace'"


def main(wanted: list[str]) -> None:
    """Draw all, or those that are named, in a store and a folder of their own."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place, "store")
        if "sheet" in wanted:
            drawn = flow.run(ROOT / "graphs/demo.yaml", store=store)["sheet"]
            drawn.to_pil().save(HERE / "sheet.jpg", quality=88)
        if "graph" in wanted:
            given = {"instruction": "make the circle green"}
            outputs = flow.run(ROOT / GRAPH, given, store=store)
            (HERE / "graph.svg").write_text(draw_graph(outputs), "utf-8")
        if "session" in wanted:
            work = Path(place, "work")
            work.mkdir()
            (work / "graphs").symlink_to(ROOT / "graphs")
            screen = session(work, {"XDG_CACHE_HOME": place, "XDG_CONFIG_HOME": place})
            (HERE / "session.svg").write_text(draw_session(screen), "utf-8")


# --- the graph
# -----------------------------------------------------------------------------------------------------------------


def draw_graph(outputs: dict[str, Any]) -> str:
    """Draw the plan of the main graph from left to right, with the pictures that came of it."""
    plan = flow.plan(ROOT / GRAPH, store=None)
    nodes = plan.graph.nodes
    level: dict[str, int] = {}
    for name, node in nodes.items():
        level[name] = 1 + max((level[a] for a in node.after), default=-1)
    wide, high, gap, top = 152, 44, 40, 78
    left = {name: 12 + level[name] * (wide + gap) for name in nodes}
    parts = []
    for name, node in nodes.items():
        for source in node.after:
            start, end = left[source] + wide, left[name]
            middle = top + high / 2
            if level[name] == level[source] + 1:
                path = f"M{start},{middle} L{end - 6},{middle}"
            else:
                path = (
                    f"M{start - 30},{top} C{start},{top - 34} {end},{top - 34} {end + 26},{top - 7}"
                )
            parts.append(f"<path d='{path}' class='edge' marker-end='url(#tip)'/>")
        x = left[name]
        parts.append(
            f"<rect x='{x}' y='{top}' width='{wide}' height='{high}' rx='7' class='node'/>"
        )
        parts.append(f"<text x='{x + wide / 2}' y='{top + 18}' class='name'>{name}</text>")
        kind = getattr(node.type, "name", "")
        parts.append(f"<text x='{x + wide / 2}' y='{top + 34}' class='type'>{kind}</text>")
        reads = [b.name for b in node.bindings.values() if type(b).__name__ == "FromInput"]
        if reads:
            parts.append(
                f"<text x='{x + wide / 2}' y='{top + high + 17}' class='input'>"
                f"{' · '.join(reads)}</text>"
            )
    pictures = {"large": ("drawn", outputs["drawn"]), "edited": ("picture", outputs["picture"])}
    for name, (label, picture) in pictures.items():
        x = left[name] + (wide - 104) / 2
        parts.append(
            f"<image x='{x}' y='{top + high + 28}' width='104' height='104' "
            f"href='data:image/webp;base64,{encoded(picture)}'/>"
            f"<text x='{x + 52}' y='{top + high + 149}' class='input'>output: {label}</text>"
        )
    x, words = left["words"] + wide / 2, str(outputs["caption"]).split()
    lines = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    for number, line in enumerate(lines):
        parts.append(
            f"<text x='{x}' y='{top + high + 46 + 17 * number}' class='words'>{line}</text>"
        )
    parts.append(f"<text x='{x}' y='{top + high + 149}' class='input'>output: caption</text>")
    prompt = html.escape(str(plan.inputs["prompt"]))
    parts.append(
        f"<text x='12' y='26' class='given'>prompt: {prompt}</text>"
        f"<text x='12' y='44' class='given'>instruction: {plan.inputs['instruction']}</text>"
    )
    width, height = max(left.values()) + wide + 12, top + high + 160
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {STYLE}>"
        "<style>.node{fill:#eef4ff;stroke:#4a6fa5;stroke-width:1.5}.edge{fill:none;stroke:#4a6fa5;"
        "stroke-width:1.5}text{text-anchor:middle;font-size:12px;fill:#1f2933}.name{font-weight:"
        "bold;font-size:13px}.type{fill:#52606d;font-size:9px}.input{fill:#7b5e00;font-size:11px}"
        ".given{text-anchor:start;fill:#7b5e00}.words{font-size:11px}</style>"
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='2' refY='4' markerWidth='7' markerHeight='7' "
        "orient='auto'><path d='M0,0 L8,4 L0,8 z' fill='#4a6fa5'/></marker></defs>"
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>{''.join(parts)}</svg>\n"
    )


def encoded(picture: flow.Image) -> str:
    data = BytesIO()
    picture.to_pil().save(data, "webp", quality=88)
    return base64.b64encode(data.getvalue()).decode()


# --- the session
# -----------------------------------------------------------------------------------------------------------------


def session(work: Path, environ: dict[str, str]) -> list[str]:
    """Type the commands into a terminal and give the lines that stay on its screen."""
    lines: list[str] = []
    environ = {**os.environ, **environ, "COLUMNS": "92", "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    for words in SESSION:
        typed = " ".join(f'"{w}"' if " " in w else w for w in words).replace(
            '"instruction=', 'instruction="'
        )
        lines.append(f"\x1b[32m$\x1b[0m \x1b[1mimagen-flow {typed}\x1b[0m")
        outer, inner = pty.openpty()
        ran = subprocess.Popen(
            [sys.executable, "-m", "imagen_flow", *words],
            cwd=work,
            env=environ,
            stdout=inner,
            stderr=inner,
            stdin=inner,
        )
        os.close(inner)
        said = b""
        while True:
            try:
                more = os.read(outer, 65536)
            except OSError:
                break
            if not more:
                break
            said += more
        ran.wait()
        lines += [*settled(said.decode()), ""]
    return lines[:-1]


def settled(said: str) -> list[str]:
    """What a screen shows after all that was said: lines that were moved over are gone."""
    screen = [""]
    row = 0
    for part in re.split(r"(\r|\n|\x1b\[\d*[AK]|\x1b\[\?\d+[hl])", said):
        if part == "\n":
            row += 1
            screen += [""] * (row + 1 - len(screen))
        elif part.endswith("A") and part.startswith("\x1b["):
            row = max(0, row - int(part[2:-1] or 1))
        elif part.endswith("K") and part.startswith("\x1b["):
            screen[row] = ""
        elif part and part != "\r" and not part.startswith("\x1b[?"):
            screen[row] += part
    return [line for line in screen if line.strip()]


COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "90": "#6e7681"}


def draw_session(lines: list[str]) -> str:
    """Draw lines with colours as a window of a terminal."""
    texts = []
    for number, line in enumerate(lines):
        spans, bold, dim, hue = [], False, False, "#e6edf3"
        for code, text in re.findall(r"(?:\x1b\[([\d;]*)m)?([^\x1b]*)", line):
            for one in code.split(";") if code else ():
                if one in ("", "0"):
                    bold, dim, hue = False, False, "#e6edf3"
                bold, dim = bold or one == "1", dim or one == "2"
                hue = COLOURS.get(one, hue)
            if text:
                style = (" font-weight='bold'" if bold else "") + (" opacity='.65'" if dim else "")
                spans.append(f"<tspan fill='{hue}'{style}>{html.escape(text)}</tspan>")
        texts.append(f"<text x='18' y='{58 + 18 * number}'>{''.join(spans)}</text>")
    width, height = 776, 58 + 18 * len(lines)
    dots = "".join(
        f"<circle cx='{22 + 20 * i}' cy='20' r='6' fill='{c}'/>"
        for i, c in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' {STYLE} font-size='13'><style>text{{white-space:pre}}</style>"
        f"<rect width='{width}' height='{height}' rx='9' fill='#0d1117'/>{dots}{''.join(texts)}</svg>\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or ["sheet", "graph", "session"])
