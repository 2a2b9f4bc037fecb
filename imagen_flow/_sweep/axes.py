"""Where the values of a sweep come from, and these values: read, checked and counted.

An axis is written in the graph's `sweep:`, on the command line or in Python. All three become the
same `Axis`; `expand` reads the files that it names, and gives the values as `Part`s. The values of a
range are computed when they are asked for.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .._graph import (
    PER_ITEM,
    RANDOM,
    Axis,
    Binding,
    FileAt,
    FilesIn,
    Given,
    Graph,
    LinesOf,
    Listed,
    PerItem,
    Span,
    TableAt,
    Values,
    parse_span,
)
from .._plan import from_text
from .._system.dataclass import dataclass
from .._types.ports import BadValue, PortType, describe
from ..errors import MAX_PROBLEMS, GraphError, Mark, Problem, nearest
from .tables import TABLE_SUFFIXES, Table, read_lines, read_table

__all__ = [
    "MAX_ITEMS",
    "Cell",
    "Part",
    "expand",
    "list_files",
    "read_axes",
    "read_axis_texts",
]

#: The most items of one sweep.
MAX_ITEMS = 1_000_000

#: Files that systems put into folders.
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


class Cell(NamedTuple):
    """A value of an input: what planning takes (of a file its whole path), and how it was written,
    which names the item.
    """

    value: Any
    written: Any


@dataclass(frozen=True)
class Part:
    """Inputs that vary together: one, or the columns of a table."""

    names: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    #: What it is called in messages.
    title: str
    mark: Mark | None = None
    #: The folder that was listed for it.
    folder: FilesIn | None = None


class _SpanRows(Sequence[tuple[Cell, ...]]):
    """The values of a range, each made when it is asked for."""

    def __init__(self, span: Span) -> None:
        self.span = span

    def __len__(self) -> int:
        return self.span.count

    def __getitem__(self, index: Any) -> Any:
        value = self.span[index]
        return (Cell(value, value),)


# --- what is written


def read_axis_texts(
    graph: Graph, texts: Iterable[str], *, base: Path
) -> tuple[Axis | TableAt, ...]:
    """Read what ``--sweep`` was given: ``name=values`` or ``@table``.

    Raises:
        GraphError: all problems of these texts.
    """
    found: list[Axis | TableAt] = []
    problems: list[Problem] = []
    for text in texts:
        name, equals, values = text.partition("=")
        if text.startswith("@"):
            found.append(TableAt(text[1:], base))
        elif not equals or not name.strip():
            problems.append(
                Problem(
                    "bad-sweep",
                    f"'--sweep {text}' is neither NAME=VALUES nor @TABLE",
                    fix="write --sweep seed=1..4 or --sweep @table.csv",
                )
            )
        else:
            _read_axis(graph, name.strip(), values, base, found, problems)
    if problems:
        raise GraphError(problems)
    return tuple(found)


def read_axes(graph: Graph, axes: Mapping[str, Any], *, base: Path) -> tuple[Axis | TableAt, ...]:
    """Read axes given in Python: a text, as on the command line, or the values.

    Raises:
        GraphError: all problems of the axes.
    """
    found: list[Axis | TableAt] = []
    problems: list[Problem] = []
    for name, values in axes.items():
        _read_axis(graph, name, values, base, found, problems)
    if problems:
        raise GraphError(problems)
    return tuple(found)


def _read_axis(
    graph: Graph,
    name: str,
    values: Any,
    base: Path,
    found: list[Axis | TableAt],
    problems: list[Problem],
) -> None:
    wanted = graph.inputs.get(name)
    if wanted is None:
        problems.append(_unknown(graph, name, None, "the sweep varies"))
        return
    if any(isinstance(axis, Axis) and axis.name == name for axis in found):
        problems.append(
            Problem(
                "bad-sweep",
                f"the sweep has two axes named '{name}'",
                fix=f"list all values in one: {name}=1,2,3",
            )
        )
        return
    try:
        if isinstance(values, str):
            source = _from_text(wanted.type, values, base)
        else:
            source = _from_values(wanted.type, values, base)
    except BadValue as error:
        fix = nearest(error.given, error.known) if error.known else ""
        problems.append(Problem("bad-sweep", f"the axis '{name}' {error}", wanted.mark, fix=fix))
    else:
        found.append(Axis(name, source))


def _unknown(graph: Graph, name: str, mark: Mark | None, what: str) -> Problem:
    return Problem(
        "unknown-axis",
        f"{what} '{name}', and the graph has no such input",
        mark,
        fix=nearest(name, graph.inputs, what="its inputs are"),
    )


def _from_text(type_: PortType, text: str, base: Path) -> Any:
    """Read the values of an axis from text: a range, a file of lines, a folder, or a list."""
    if type_.seed and text.strip() == PER_ITEM:
        return PerItem()
    if (span := parse_span(text, type_)) is not None:
        return span
    if text.startswith("@"):
        if text.lower().endswith(TABLE_SUFFIXES):
            raise BadValue(
                f"cannot be read from the table '{text[1:]}' alone: write --sweep {text} to use all"
                " of its columns"
            )
        return LinesOf(text[1:], base)
    if not text.strip():
        raise BadValue('has no values; an empty text is written as JSON: [""]')
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] == "[]":
        try:
            values = json.loads(stripped)
        except (ValueError, RecursionError):
            raise BadValue(
                f'takes values as a,b or as a list in JSON like ["a", "b"], not {describe(text)}'
            ) from None
        if not isinstance(values, list) or not values:
            raise BadValue("has no values")
        return Values(tuple((_bound(type_, value, base), None) for value in values))
    parts = [part.strip() for part in text.split(",")]
    if type_.kind == "file" and len(parts) == 1 and (files := _files_in(text.strip(), base)):
        return files
    return Values(tuple((_bound(type_, from_text(type_, part), base), None) for part in parts))


def _files_in(text: str, base: Path) -> FilesIn | None:
    """Tell whether a text names a folder, or files by a pattern."""
    path = base / Path(text).expanduser()
    with suppress(OSError, ValueError):
        if path.is_dir():
            return FilesIn(text, "*", base)
        if any(c in path.name for c in "*?[") and not path.exists():
            return FilesIn(os.path.dirname(text) or ".", path.name, base)
    return None


def _from_values(type_: PortType, values: Any, base: Path) -> Any:
    """Take the values of an axis that were given in Python."""
    if isinstance(values, range) and type_.kind in ("int", "float", "number"):
        from fractions import Fraction

        if not values:
            raise BadValue("has no values")
        for end in (values[0], values[-1]):
            type_.check(end)
        return Span(Fraction(values.start), Fraction(values.step), len(values), type_.kind == "int")
    if isinstance(values, Path):
        if type_.kind == "file":
            return _files_in(str(values), base) or Values(
                ((FileAt(str(values), "file", base), None),)
            )
        if type_.kind != "folder":
            return LinesOf(str(values), base)
        values = [values]
    if isinstance(values, Mapping | bytes) or not isinstance(values, Iterable):
        raise BadValue(f"takes a list of values, not {describe(values)}")
    listed = list(itertools.islice(values, MAX_ITEMS + 1))
    if not listed:
        raise BadValue("has no values")
    return Values(tuple((_bound(type_, value, base), None) for value in listed))


def _bound(type_: PortType, value: Any, base: Path) -> Binding:
    """Check a value, and make it one that a graph may hold."""
    if type_.kind in ("file", "folder"):
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            raise BadValue(f"takes {type_.words}, not {describe(value)}")
        return FileAt(str(value), type_.kind, base)
    if type_.kind == "list" and type_.element and type_.element.kind in ("file", "folder"):
        if not isinstance(value, list | tuple):
            raise BadValue(f"takes {type_.words}, not {describe(value)}")
        return Listed(tuple(_bound(type_.element, item, base) for item in value))
    if type_.seed and value == RANDOM:
        raise BadValue(f"takes seeds, not '{RANDOM}'; {PER_ITEM} gives each item a seed of its own")
    return Given(type_.check(value))


# --- what it comes to


@dataclass(frozen=True)
class Expanded:
    """The parts of a sweep, and the seeds that each item has of its own."""

    parts: tuple[Part, ...]
    per_item: frozenset[str]


def expand(
    graph: Graph, axes: Iterable[Axis | TableAt], *, fixed: frozenset[str] = frozenset()
) -> Expanded:
    """Read the values of all axes.

    Params:
        fixed: inputs that are given, whose axes and columns do not count.
    Raises:
        GraphError: the problems of all axes.
    """
    parts: list[Part] = []
    per_item: set[str] = set()
    problems: list[Problem] = []
    for axis in axes:
        try:
            if isinstance(axis, TableAt):
                if part := _table_part(graph, axis, fixed):
                    parts.append(part)
            elif isinstance(axis.source, PerItem):
                per_item.add(axis.name)
            elif axis.name not in fixed:
                parts.append(_axis_part(graph, axis))
        except GraphError as wrong:
            problems += wrong.problems
    problems += _named_twice(parts)
    if problems:
        raise GraphError(problems)
    return Expanded(tuple(parts), frozenset(per_item))


def _named_twice(parts: Sequence[Part]) -> Iterator[Problem]:
    seen: dict[str, Part] = {}
    for part in parts:
        for name in part.names:
            if (other := seen.setdefault(name, part)) is not part:
                yield Problem(
                    "bad-sweep",
                    f"'{name}' is varied by {other.title} and by {part.title}",
                    part.mark,
                    fix="remove one of them",
                )


def _axis_part(graph: Graph, axis: Axis) -> Part:
    type_, source, title = graph.inputs[axis.name].type, axis.source, f"'{axis.name}'"
    names = (axis.name,)
    if isinstance(source, Span):
        if type_.choices and source.count <= MAX_ITEMS:
            for index in range(source.count):
                try:
                    type_.check(source[index])
                except BadValue as error:
                    raise GraphError(
                        [Problem("bad-sweep", f"the axis {title} {error}", axis.mark)]
                    ) from None
        return Part(names, _SpanRows(source), title, axis.mark)
    if isinstance(source, FilesIn):
        return Part(names, _folder_cells(source, title), title, axis.mark, source)
    reader = _CellReader()
    rows: list[tuple[Cell, ...]] = []
    if isinstance(source, LinesOf):
        path = source.folder / Path(source.path).expanduser()
        for text, mark in read_lines(path, source.path, source.mark):
            if (cell := reader.text(type_, text, path.parent, mark, title)) is not None:
                rows.append((cell,))
        if not rows and not reader.problems:
            reader.problems.append(
                Problem("bad-sweep", f"the file '{source.path}' has no lines", source.mark)
            )
    else:
        assert isinstance(source, Values)
        for binding, place in source.items:
            if (cell := reader.bound(binding, place or axis.mark, title)) is not None:
                rows.append((cell,))
    reader.finish()
    return Part(names, rows, title, axis.mark)


def _folder_cells(source: FilesIn, title: str) -> list[tuple[Cell, ...]]:
    folder = source.folder / Path(source.path).expanduser()
    try:
        files = list_files(source)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            problem = Problem("missing-file", f"there is no folder '{source.path}'", source.mark)
        else:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            problem = Problem(
                "missing-file",
                f"the folder '{source.path}' cannot be read",
                source.mark,
                why[:1].lower() + why[1:],
            )
        raise GraphError([problem]) from error
    if not files:
        what = "files" if source.pattern == "*" else f"files that match '{source.pattern}'"
        raise GraphError(
            [
                Problem(
                    "bad-sweep",
                    f"the axis {title} has no values: the folder '{source.path}' has no {what}",
                    source.mark,
                )
            ]
        )
    return [(Cell(str(folder / name), name),) for name in files]


def list_files(source: FilesIn) -> list[str]:
    """List the names of the files of an axis, sorted. Hidden files are skipped.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = source.folder / Path(source.path).expanduser()
    patterns = [p.strip() for p in source.pattern.split(",") if p.strip()]
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in itertools.islice(entries, MAX_ITEMS + 1)
            if not entry.name.startswith(".")
            and entry.name.lower() not in _SYSTEM_FILES
            and any(fnmatch.fnmatch(entry.name, pattern) for pattern in patterns)
            and entry.is_file()
        )


def _table_part(graph: Graph, at: TableAt, fixed: frozenset[str]) -> Part | None:
    """Read a table; None if all its columns are fixed."""
    path = at.folder / Path(at.path).expanduser()
    table = read_table(path, at.path, at.mark)
    unknown = (name for name in table.columns if name not in graph.inputs)
    problems = [
        _unknown(graph, name, table.head, f"the table '{at.path}' has the column")
        for name in itertools.islice(unknown, MAX_PROBLEMS)
    ]
    if problems:
        raise GraphError(problems)
    chosen = [i for i, name in enumerate(table.columns) if name not in fixed]
    if not chosen:
        return None
    return Part(
        tuple(table.columns[i] for i in chosen),
        _table_cells(graph, table, chosen, path.parent),
        f"the table '{at.path}'",
        at.mark or table.head,
    )


def _table_cells(
    graph: Graph, table: Table, chosen: list[int], base: Path
) -> list[tuple[Cell, ...]]:
    reader = _CellReader()
    types = [(table.columns[i], graph.inputs[table.columns[i]].type, i) for i in chosen]
    rows: list[tuple[Cell, ...]] = []
    for number, written in enumerate(table.rows):
        cells = []
        for name, type_, i in types:
            place, title = partial(table.mark, number), f"'{name}'"
            cell = (
                reader.text(type_, written[i], base, place, title)
                if table.is_text
                else reader.value(type_, written[i], base, place, title)
            )
            if cell is not None:
                cells.append(cell)
        rows.append(tuple(cells))
        if len(reader.problems) >= MAX_PROBLEMS:
            break
    reader.finish()
    return rows


#: A place in a file, worked out only for a problem.
_Place = Mark | Callable[[], Mark] | None


class _CellReader:
    """Turns what is written into cells, and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def finish(self) -> None:
        """Raise what was wrong."""
        if self.problems:
            raise GraphError(self.problems)

    def text(self, type_: PortType, text: str, base: Path, mark: _Place, title: str) -> Cell | None:
        """Read a cell from text, as ``--set`` gives it."""
        try:
            return self.bound(_bound(type_, from_text(type_, text), base), mark, title)
        except BadValue as error:
            self._say(error, mark, title)
            return None

    def value(
        self, type_: PortType, value: Any, base: Path, mark: _Place, title: str
    ) -> Cell | None:
        """Read a cell from JSON data."""
        try:
            return self.bound(_bound(type_, value, base), mark, title)
        except BadValue as error:
            self._say(error, mark, title)
            return None

    def bound(self, binding: Binding, mark: _Place, title: str) -> Cell | None:
        """Turn a checked value into a cell; files have to be there."""
        if isinstance(binding, Given):
            return Cell(binding.value, binding.value)
        if isinstance(binding, Listed):
            cells = [self.bound(item, mark, title) for item in binding.items]
            found = [cell for cell in cells if cell is not None]
            return Cell([c.value for c in found], [c.written for c in found])
        assert isinstance(binding, FileAt)
        try:
            path = binding.folder / Path(binding.path).expanduser()
            if path.is_dir() if binding.kind == "folder" else path.is_file():
                return Cell(str(path), binding.path)
        except (OSError, ValueError, RuntimeError):
            pass
        self._add(Problem("missing-file", f"there is no {binding.kind} '{binding.path}'"), mark)
        return None

    def _say(self, error: BadValue, mark: _Place, title: str) -> None:
        fix = nearest(error.given, error.known) if error.known else ""
        self._add(Problem("bad-sweep", f"{title} {error}", fix=fix), mark)

    def _add(self, problem: Problem, mark: _Place) -> None:
        self.problems.append(replace(problem, mark=mark() if callable(mark) else mark))
