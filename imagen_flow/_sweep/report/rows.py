"""Read ``index.jsonl``: one JSON object per line, one line per item.

The file may come from anyone. What is not as expected is skipped and counted, never an exception,
and no more than a bounded part of it is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..._system.dataclass import dataclass
from ..._system.regular_files import open_regular
from ..items import INDEX

__all__ = ["INDEX", "MAX_ROWS", "Index", "Output", "Row", "read_index", "text_of"]

#: At most this many items are shown.
MAX_ROWS = 10_000

#: A longer line is not read: it would be a value, not a description of one.
_MAX_LINE = 4 << 20
_TOO_LONG = b"too long"

#: At most this much of the index is read.
_MAX_BYTES = 256 << 20

#: Longer texts are cut; the index has the whole.
MAX_TEXT = 20_000

#: At most so many outputs, inputs and axes there are, of an item and of all together: the page has
#: a place for each of them with every item.
_MAX_NAMES = 256


@dataclass(frozen=True, slots=True)
class Output:
    """An output of an item: a file (`paths`, relative to the index), or a value as text.

    `score` is the value if it is a finite number.
    """

    name: str
    paths: tuple[str, ...] = ()
    text: str | None = None
    score: float | None = None
    kind: str = ""
    digest: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """An item: what was put in, what came out, and how to make it again. All values are text."""

    number: int
    item: str
    axes: Mapping[str, str]
    inputs: Mapping[str, str]
    seeds: Mapping[str, str]
    status: str
    error: str
    notes: tuple[str, ...]
    outputs: tuple[Output, ...]
    command: str


@dataclass(frozen=True, slots=True)
class Index:
    """The items of an index in order, how many it has in all, and the lines that are not items."""

    rows: tuple[Row, ...]
    total: int
    #: A line number and a reason each; at most ten.
    bad_lines: tuple[tuple[int, str], ...] = field(default=())
    bad_count: int = 0
    is_cut: bool = False


def read_index(path: Path) -> Index:
    """Read an index. If several lines describe one item, the last one counts: a run that was
    continued appends.

    Raises:
        OSError: the file cannot be read.
    """
    rows: dict[str, Row] = {}
    bad: list[tuple[int, str]] = []
    bad_count, is_cut = 0, False
    seen: set[str] = set()
    for number, line in _lines(path):
        if line is None:
            is_cut = True
            break
        if not line.strip():
            continue
        try:
            if line is _TOO_LONG:
                raise ValueError(f"it is longer than {_MAX_LINE >> 20} MiB")
            row = _row(json.loads(line.decode("utf-8-sig", "surrogatepass")), default=len(seen))
        except (ValueError, RecursionError) as error:
            bad_count += 1
            if len(bad) < 10:
                bad.append((number, _reason(error)))
            continue
        seen.add(row.item)
        if row.item in rows or len(rows) < MAX_ROWS:
            rows[row.item] = row
    ordered = sorted(_with_few_names(rows.values()), key=lambda row: row.number)
    return Index(tuple(ordered), len(seen), tuple(bad), bad_count, is_cut)


def _with_few_names(rows: Collection[Row]) -> Iterator[Row]:
    """Leave out what has names beyond the limit, in order of appearance."""
    axes = _first_names(row.axes for row in rows)
    inputs = _first_names(row.inputs for row in rows)
    seeds = _first_names(row.seeds for row in rows)
    outputs = _first_names([output.name for output in row.outputs] for row in rows)
    for row in rows:
        yield replace(
            row,
            axes={name: value for name, value in row.axes.items() if name in axes},
            inputs={name: value for name, value in row.inputs.items() if name in inputs},
            seeds={name: value for name, value in row.seeds.items() if name in seeds},
            outputs=tuple(output for output in row.outputs if output.name in outputs),
        )


def _first_names(names: Iterable[Iterable[str]]) -> Collection[str]:
    return set(islice(dict.fromkeys(chain.from_iterable(names)), _MAX_NAMES))


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines by number; `_TOO_LONG` for one that is too long, and None where reading
    stops.
    """
    read = 0
    with open_regular(path) as stream:
        number = 0
        while line := stream.readline(_MAX_LINE + 1):
            number += 1
            read += len(line)
            if len(line) > _MAX_LINE:
                while (rest := stream.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    read += len(rest)
                line = _TOO_LONG
            if read > _MAX_BYTES:
                yield number, None
                return
            yield number, line


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    if "set_int_max_str_digits" in str(error):
        return "it has a number with too many digits"
    return str(error)


def _row(data: Any, *, default: int) -> Row:
    if not isinstance(data, dict):
        raise ValueError("it is not an object")
    number = data.get("index", default)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 53:
        raise ValueError("its 'index' is not a row number")
    outputs = data.get("outputs")
    return Row(
        number=number,
        item=_cut(text_of(data.get("item", number)), 200),
        axes=_texts(data.get("axes")),
        inputs=_texts(data.get("inputs")),
        seeds=_texts(data.get("seeds")),
        status=_cut(text_of(data.get("status", "done")), 40),
        error=_cut(text_of(data.get("error") or "")),
        notes=tuple(_cut(text_of(note)) for note in _list(data.get("notes"))[:100]),
        outputs=tuple(
            _output(str(name), value)
            for name, value in list(outputs.items() if isinstance(outputs, dict) else ())[
                :_MAX_NAMES
            ]
        ),
        # A command that is cut would be another one.
        command=command if len(command := text_of(data.get("command") or "")) <= MAX_TEXT else "",
    )


def _output(name: str, data: Any) -> Output:
    if not isinstance(data, dict):
        data = {"value": data}
    paths = tuple(p for p in _list(data.get("path"))[:_MAX_NAMES] if isinstance(p, str) and p)
    value = data.get("value")
    return Output(
        name=_cut(name, 200),
        paths=paths,
        text=_cut(text_of(value)) if "value" in data else None,
        score=_score(value),
        kind=_cut(text_of(data.get("kind") or ""), 40),
        digest=_cut(text_of(data.get("digest") or ""), 200),
        key=_cut(text_of(data.get("key") or ""), 200),
    )


def _score(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _texts(value: Any) -> dict[str, str]:
    pairs = list(value.items())[:_MAX_NAMES] if isinstance(value, dict) else ()
    return {_cut(str(name), 200): _cut(text_of(content)) for name, content in pairs}


def text_of(value: Any) -> str:
    """Write a JSON value as one would on the command line; of a file, its path."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return str(value["path"])
    try:
        return json.dumps(value, ensure_ascii=False)
    except ValueError:  # more digits than Python converts
        return "a number with too many digits"


def _cut(text: str, limit: int = MAX_TEXT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
