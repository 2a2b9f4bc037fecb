"""Draw the report: one HTML file that needs no network.

Thumbnails are in the file, so that it can be sent to somebody; whole pictures are linked by paths
relative to it. All thumbnails together have a budget, whatever the number of pictures, and nothing
is parsed or decoded before it is looked at.

The page's policy allows its own script and style by their digests, and nothing else. Everything
from the index goes into JSON, in which no character can end the script element, and from there into
text nodes.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..._types.thumbnails import Thumbnail, make_thumbnails
from .labels import Axis, axes_of, choose_grid, values_on
from .pictures import Picture
from .rows import Index, Row

__all__ = ["GENERATOR", "draw_page"]

#: How a page of ours is recognised before it is replaced.
GENERATOR = b'<meta name="generator" content="imagen-flow report">'

#: The size of all thumbnails together, before they are written as base64.
_MAX_THUMBNAILS = 24 << 20

#: The size of all details (inputs, errors, commands) together.
_MAX_DETAILS = 48 << 20

#: A card shows so many outputs that are texts.
_MAX_TEXTS = 16

#: So many entries are parsed at once.
_CHUNK = 100

#: What browsers show.
_SHOWN = (".png", ".jpg", ".jpeg", ".webp")

#: Options of a command that let code run which did not come with imagen_flow.
_RUNS_CODE = ("--plugin", "--allow-pickle", "--trust-remote-code")

_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
#: Characters that are invisible, or change the order in which others are shown.
_MISLEADING = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def draw_page(index: Index, pictures: Mapping[str, Sequence[Picture]], *, title: str) -> bytes:
    """Return the report of an index as HTML."""
    rows = index.rows
    axes = axes_of(rows)
    names = _in_order(p.name for row in rows for p in pictures[row.item])
    paths = _in_order(p.path for row in rows for p in pictures[row.item] if p.path)
    side = _side(len(paths))
    small = make_thumbnails(paths, side=side, max_bytes=_MAX_THUMBNAILS // max(1, len(paths)))
    made = dict(zip(paths, small, strict=True))
    places = {path: number for number, path in enumerate(p for p in paths if made[p].data)}
    scores = _in_order(o.name for row in rows for o in row.outputs if o.score is not None)
    texts = _in_order(
        o.name for row in rows for o in row.outputs if o.text is not None and o.kind == "text"
    )[:_MAX_TEXTS]
    common = _common(rows)
    numbers = {name: number for number, name in enumerate(names)}
    data = {
        "total": index.total,
        "chunk": _CHUNK,
        "size": min(256, side, max(96, *(max(t.width, t.height) for t in small), 96)),
        "layout": choose_grid(rows, axes),
        "axes": [{"name": a.name, "full": a.values, "short": a.short} for a in axes],
        "pictures": names,
        "scores": scores,
        "statuses": _in_order(row.status for row in rows),
        "missing": sum(bool(p.missing) for row in rows for p in pictures[row.item]),
        "common": list(common.items()),
        "items": [
            _item(row, axes, pictures[row.item], numbers, scores, texts, made, places)
            for row in rows
        ],
    }
    details, left = [], _MAX_DETAILS
    for row in rows:
        detail = _details(row, common, pictures[row.item])
        left -= len(json.dumps(detail))
        details.append(detail if left > 0 else {"cut": True})
    encoded = [base64.b64encode(made[path].data).decode() for path in places]
    chunks = [*_chunks("details", details), *_chunks("thumbnails", encoded)]
    script, style = _asset("page.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}';"
        " img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "summary": html.escape(f"{len(rows):,} items"),
        "style": style,
        "data": _json(data),
        "script": script,
        "chunks": "".join(chunks),
    }
    # In one pass: what is put in is not searched.
    page = re.sub(
        r"\{(policy|title|summary|style|data|script|chunks)\}",
        lambda found: parts[found[1]],
        _asset("page.html"),
    )
    return page.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """Write JSON that no HTML parser takes for markup: ASCII, without <, > and &."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _chunks(kind: str, entries: Sequence[Any]) -> Iterable[str]:
    for start in range(0, len(entries), _CHUNK):
        yield (
            f'<script type="application/json" id="{kind}-{start // _CHUNK}">'
            f"{_json(entries[start : start + _CHUNK])}</script>\n"
        )


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _side(count: int) -> int:
    """Return the longer side of thumbnails, in pixels: the more there are, the smaller."""
    return next(
        (side for limit, side in ((250, 320), (1_000, 224), (4_000, 160)) if count <= limit), 112
    )


def _common(rows: Sequence[Row]) -> dict[str, str]:
    """Return the inputs that are equal in all rows."""
    if len(rows) < 2:
        return {}
    return {
        name: value
        for name, value in rows[0].inputs.items()
        if all(row.inputs.get(name) == value for row in rows)
    }


def _item(
    row: Row,
    axes: Sequence[Axis],
    pictures: Sequence[Picture],
    numbers: Mapping[str, int],
    scores: Sequence[str],
    texts: Sequence[str],
    made: Mapping[Path, Thumbnail],
    places: Mapping[Path, int],
) -> dict[str, Any]:
    """Describe an item as a card shows it."""
    outputs = {output.name: output for output in row.outputs}
    on_axes = values_on(row, axes)
    shown = {}
    for picture in pictures:
        thumbnail = made[picture.path] if picture.path else Thumbnail(fault=picture.missing)
        shown[numbers[picture.name]] = (
            places.get(picture.path, -1) if picture.path else -1,
            picture.url,
            thumbnail.width,
            thumbnail.height,
            thumbnail.fault,
            picture.url.lower().endswith(_SHOWN),
            picture.listed,
        )
    return {
        "i": row.item,
        "s": row.status,
        "a": [
            -1 if value is None else axis.position(value)
            for axis, value in zip(axes, on_axes, strict=True)
        ],
        "p": shown,
        "v": [outputs[name].score if name in outputs else None for name in scores],
        "t": [(outputs[name].text or "")[:300] if name in outputs else "" for name in texts],
        "c": " · ".join(f"{name} {value}" for name, value in row.seeds.items())
        if set(row.seeds) - {axis.name for axis in axes}
        else "",
        "k": len(row.notes),
        "e": row.error.partition("\n")[0][:300],
        "q": " ".join((row.error, *row.notes))[:1000],
    }


def _details(row: Row, common: Mapping[str, str], pictures: Sequence[Picture]) -> dict[str, Any]:
    """Describe an item as it is shown when it is opened; what is empty is left out."""
    urls = {picture.listed: picture.url for picture in pictures if picture.url}
    detail: dict[str, Any] = {
        "error": row.error,
        "notes": row.notes,
        "inputs": [(n, v) for n, v in row.inputs.items() if n not in common],
        "seeds": list(row.seeds.items()),
        "values": [(o.name, o.text) for o in row.outputs if o.text is not None],
        "files": [(o.name, p, urls.get(p, "")) for o in row.outputs for p in o.paths],
        "keys": [
            ("item", row.item),
            ("row", f"{row.number}"),
            *(
                (f"{output.name}: {what}", value)
                for output in row.outputs
                for what, value in (("key", output.key), ("digest", output.digest))
                if value
            ),
        ],
        **_command(row.command),
    }
    return {name: value for name, value in detail.items() if value}


def _command(command: str) -> dict[str, Any]:
    """Describe a command, and whether it may be copied: what is pasted into a shell must be one
    command of imagen-flow, without anything that a shell acts on.
    """
    if not command:
        return {}
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    is_plain = (
        words[:1] == ["imagen-flow"]
        and shlex.join(words) == command
        and not _CONTROLS.search(command)
    )
    shown = _MISLEADING.sub(lambda found: f"\\u{ord(found[0]):04x}", _CONTROLS.sub("�", command))
    if not is_plain:
        warning = (
            "This is not a plain imagen-flow command, so it has no copy button: a shell could run"
            " something else."
        )
    elif shown != command:
        warning = (
            "It contains invisible characters, shown here as \\uXXXX, so it has no copy button."
        )
        is_plain = False
    elif risky := [w for w in words if w.partition("=")[0] in _RUNS_CODE]:
        warning = f"Read it first: {', '.join(dict.fromkeys(risky))} lets other code run."
    else:
        warning = ""
    return {"command": shown, "warning": warning, "copy": is_plain}
