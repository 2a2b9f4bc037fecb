"""What each item of a sweep is called, which seeds it has, and which of its output paths need its
name.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

from .._graph import Graph, Output
from .._outputs.templates import fields_of, fill_template
from .._plan import derived_seed
from .._system.dataclass import dataclass
from .axes import Cell, Part
from .rows import Rows

__all__ = ["INDEX", "PARQUET", "Item", "PathNames", "count_equal", "iter_items", "shown_text"]

#: The names of the files that list the items.
INDEX, PARQUET = "index.jsonl", "index.parquet"

#: The longest label in characters and bytes, and the longest value in it.
_LABEL, _LABEL_BYTES, _VALUE = 64, 128, 24


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its number, its name, and what varies in it."""

    index: int
    label: str
    cells: Mapping[str, Cell]
    #: The seeds of its own.
    seeds: Mapping[str, int]
    #: How many equal items came before.
    repeats: int

    @property
    def values(self) -> dict[str, Any]:
        """The values of its inputs, as planning takes them."""
        return {**{name: cell.value for name, cell in self.cells.items()}, **self.seeds}


def iter_items(rows: Rows, seeds: Mapping[str, int]) -> Iterator[Item]:
    """Yield the items of a sweep in order.

    Params:
        seeds: for inputs whose seed is derived for each item, the seed that it is derived from.
    """
    count_repeats = may_repeat(rows)
    seen: dict[bytes, int] = {}
    for index, cells in enumerate(rows):
        value = canonical_value(cells)
        repeats = 0
        if count_repeats:
            digest = blake2b(value.encode(), digest_size=16).digest()
            repeats = seen.get(digest, 0)
            seen[digest] = repeats + 1
        yield Item(
            index,
            label_of(cells, value, repeats),
            cells,
            {name: derived_seed(seed, f"{value}\0{repeats}") for name, seed in seeds.items()},
            repeats,
        )


def may_repeat(rows: Rows) -> bool:
    """Tell whether a row may equal an earlier one. One zipped part without equal values is enough
    to make all rows distinct.
    """
    repeats = [_distinct(part) < len(part.rows) for part in rows.parts]
    return all(repeats) if rows.how == "zip" else any(repeats)


def count_equal(rows: Rows) -> int:
    """Count the rows that equal an earlier one, before a sample is taken."""
    if not may_repeat(rows):
        return 0
    if rows.how == "zip":
        every = range(rows.total)
        return rows.total - len({canonical_value(rows.at(number)) for number in every})
    distinct = 1
    for part in rows.parts:
        distinct *= _distinct(part)
    return rows.total - distinct


def _distinct(part: Part) -> int:
    """Count the distinct values of a part. The numbers of a range are distinct."""
    if hasattr(part.rows, "span"):
        return len(part.rows)
    return len({canonical_value(dict(zip(part.names, row, strict=True))) for row in part.rows})


def canonical_value(cells: Mapping[str, Cell]) -> str:
    """Write what varies in an item: the same text for equal items, whatever the order of axes. A
    file is named as it was written.
    """
    return json.dumps(
        {name: cell.written for name, cell in cells.items()}, sort_keys=True, separators=(",", ":")
    )


def label_of(cells: Mapping[str, Cell], value: str, repeats: int) -> str:
    """Name an item after its values: short, safe in file names, and the same whatever other items
    there are. Where the values do not fit, a digest of them tells items apart.
    """
    is_whole = True
    parts = []
    for name, cell in cells.items():
        text = shown_text(cell.written)
        short = re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", text)).strip("-.")
        short = f"{'-' if re.match(r'-[0-9]', text) else ''}{short}"[:_VALUE]
        is_whole = is_whole and short == text
        parts.append(f"{name}={short}")
    label = ",".join(parts)
    if len(label) > _LABEL or len(label.encode()) > _LABEL_BYTES:
        is_whole = False
        label = label[: _LABEL - 14]
        while len(label.encode()) > _LABEL_BYTES - 14:
            label = label[:-1]
    if not is_whole:
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        label = f"{label.rstrip('-.,=')}-{base64.b32encode(digest).decode().lower()[:12]}"
    return f"{label}~{repeats + 1}" if repeats else label


def shown_text(value: Any) -> str:
    """Write a value as ``--set`` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else repr(value) if value is not None else ""


class PathNames:
    """Decides which outputs of which items get the item's name into their path: those whose path
    does not name every input that varies, and those that would be written where an earlier item's
    output is.
    """

    def __init__(self, graph: Graph, names: tuple[str, ...]) -> None:
        self._graph = graph
        self._templates: dict[str, bool] = {}
        for output in graph.outputs.values():
            if output.path is not None:
                self._templates[output.path] = _tells_apart(output, frozenset(names))
        self._claimed = {_claim(INDEX), _claim(PARQUET)}

    def plain(self, item: Item) -> frozenset[str]:
        """Give the paths of the graph that tell an item's outputs apart as they are. Items have to
        be asked for in order.
        """
        found = []
        for template, names_all in self._templates.items():
            if not names_all:
                continue
            claims = {
                _claim(fill_template(template, _Fields(item, graph=self._graph.name, output=name)))
                for name, output in self._graph.outputs.items()
                if output.path == template
            }
            if claims.isdisjoint(self._claimed):
                self._claimed |= claims
                found.append(template)
        return frozenset(found)


def _tells_apart(output: Output, names: frozenset[str]) -> bool:
    """Tell whether an output's path names every input that varies. In a list, the part of the path
    that tells elements apart must not tell items apart, too: ``{seed}{index}`` may be 1 and 11, or 11
    and 1.
    """
    assert output.path is not None
    used = fields_of(output.path)
    if "item" in used or not names <= {field.partition(".")[0] for field in used}:
        return False
    if output.type.kind != "list":
        return True
    parts = [
        {field.partition(".")[0] for field in fields_of(part)} for part in output.path.split("/")
    ]
    return not any(part & names and part - names - {"graph", "output"} for part in parts)


class _Fields(dict[str, object]):
    """The fields of a path that vary from item to item; others have the same text in all."""

    def __init__(self, item: Item, **known: object) -> None:
        super().__init__(known)
        for name, value in item.values.items():
            self[name] = value
            if isinstance(value, str):
                path = PurePath(value)
                self[f"{name}.name"] = path.name
                self[f"{name}.stem"] = path.stem
                self[f"{name}.suffix"] = path.suffix
                self[f"{name}.folder"] = ""  # a file that is given has no folder in its name

    def __missing__(self, name: str) -> object:
        return "0"


def _claim(path: str) -> bytes:
    """Digest a path; on some systems two names that differ only in case are one file."""
    text = unicodedata.normalize("NFC", path).casefold()
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()
