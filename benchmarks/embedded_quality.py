"""Measure what the embedded models can do on held-out combinations: pictures from prompts, edits,
captions, and the whole loop.

    python benchmarks/embedded_quality.py [--count 200] [--seed 2024]

The judge is `imagen_flow_embedded.checker`, which renders and matches and is none of the models.
The figures are written into RESULTS.md as they are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagen_flow as flow

sys.path.insert(0, str(Path(__file__).parent))
from _results import record

GRAPH = Path(__file__).parent.parent / "graphs" / "training" / "evaluate.yaml"
KINDS = ("background", "colour", "shape", "size", "relation")


def main() -> None:
    """Run the graph, print the table and record it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--seed", type=int, default=2024)
    asked = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "evaluate.yaml"
        graph.write_text(
            GRAPH.read_text(encoding="utf-8").rstrip()
            + '\n  scenes: "${drawn_from.scenes}"\n  expected: "${asked.expected}"\n',
            encoding="utf-8",
        )
        found = flow.run(
            graph, count=asked.count, seed=asked.seed, store=Path(folder) / "store", device="cpu"
        )
    text = table(found, asked.count, asked.seed, time.monotonic() - started)
    print(text)
    record("Embedded models", text)


def table(found: Mapping[str, Any], count: int, seed: int, seconds: float) -> str:
    """Lay the four reports out as Markdown."""
    reports = {name: plain(found[name]) for name in ("drawing", "editing", "captioning", "loop")}
    scenes, expected = plain(found["scenes"]), plain(found["expected"])
    rows = [
        row("base + super-resolution: words right", reports["drawing"], scenes, "90 %"),
        row("captioner, on rendered pictures", reports["captioning"], scenes, "97 %"),
        row("whole loop: prompt, edit, caption", reports["loop"], expected, "80 %"),
    ]
    head = ["measured", "all words", "wanted", *KINDS, "(count)", "all right a picture"]
    lines = [
        f"{count} held-out combinations, seed {seed}; {seconds:.0f} s for everything.",
        "",
        *markdown(head, rows),
        "",
    ]
    editing = reports["editing"]
    edits = {
        kind: f"{percent(part['carried_out'])} of {part['count']}"
        for kind, part in editing["kinds"].items()
    }
    head = ["measured", "all", "wanted", *edits, "mean difference outside"]
    lines += markdown(
        head,
        [
            [
                "edits carried out, nothing else changed",
                percent(editing["carried_out"]),
                "85 %",
                *edits.values(),
                f"{editing['outside']:.4f}",
            ]
        ],
    )
    return "\n".join(lines)


def row(
    name: str, report: Mapping[str, Any], scenes: Sequence[Mapping[str, Any]], wanted: str
) -> list[str]:
    """Give a line of the table; the count of things, which no word says, is shown but left out of
    the words.
    """
    words = Counter({"background": len(scenes)})
    for scene in scenes:
        words.update({kind: len(scene["things"]) for kind in ("colour", "shape", "size")})
        words["relation"] += len(scene["things"]) - 1
    kinds = report["kinds"]
    share = sum(kinds.get(kind, 0) * words[kind] for kind in KINDS) / sum(
        words[kind] for kind in KINDS
    )
    return [
        name,
        percent(share),
        wanted,
        *[percent(kinds[kind]) if kind in kinds else "-" for kind in KINDS],
        percent(kinds["count"]),
        percent(report["all_right"]),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def plain(value: Any) -> Any:
    """Take what a run returns out of its wrapping."""
    if isinstance(value, (list, tuple)):
        return [plain(element) for element in value]
    return getattr(value, "data", getattr(value, "value", value))


if __name__ == "__main__":
    main()
