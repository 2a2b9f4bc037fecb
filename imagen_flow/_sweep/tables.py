"""Read tables and files of lines: rows of cells, each with its place in the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from .._system.regular_files import read_regular
from ..errors import MAX_PROBLEMS, GraphError, Mark, Problem, Source

__all__ = ["TABLE_SUFFIXES", "Table", "read_lines", "read_table"]

#: What a table's name ends in.
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

#: The largest file of values that is read.
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Table:
    """A table as written. Cells of a CSV file are text, those of a JSONL file are values."""

    source: Source
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    #: The line that each row begins in.
    lines: list[int]
    is_text: bool

    def mark(self, row: int) -> Mark:
        """Mark a row."""
        line = self.lines[row]
        return Mark(self.source, line, 1, max(1, len(self.source.line(line))))

    @property
    def head(self) -> Mark:
        """Mark the line that names the columns; in a JSONL file, the first row."""
        line = 1 if self.is_text or not self.lines else self.lines[0]
        return Mark(self.source, line, 1, max(1, len(self.source.line(line))))


def read_table(path: Path, shown: str, mark: Mark | None) -> Table:
    """Read a table.

    Params:
        shown: the file's name in problems.
        mark: where the graph names it.
    Raises:
        GraphError: it cannot be read, or its rows do not have the same columns.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise GraphError(
            [
                Problem(
                    "bad-sweep",
                    f"'{shown}' is not a table",
                    mark,
                    f"the name of a table ends in {', '.join(TABLE_SUFFIXES)}",
                    "write NAME=@FILE for a file with a value on each line" if mark is None else "",
                )
            ]
        )
    source = Source(shown, _read_text(path, shown, mark))
    table = (
        _read_csv(source, "\t" if suffix == ".tsv" else ",")
        if suffix in (".csv", ".tsv")
        else _read_jsonl(source)
    )
    if not table.rows:
        raise GraphError(
            [
                Problem(
                    "bad-sweep",
                    f"the table '{shown}' has no rows",
                    mark,
                    fix="add a row for each item",
                )
            ]
        )
    return table


def read_lines(path: Path, shown: str, mark: Mark | None) -> list[tuple[str, Mark]]:
    """Read the lines of a file, without empty ones and without the space around them.

    Raises:
        GraphError: it cannot be read.
    """
    source = Source(shown, _read_text(path, shown, mark))
    return [
        (text, Mark(source, number, 1, max(1, len(line))))
        for number, line in enumerate(source.lines, 1)
        if (text := line.strip())
    ]


def _read_text(path: Path, shown: str, mark: Mark | None) -> str:
    try:
        data = read_regular(path, max_bytes=MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        code = "missing-file" if isinstance(error, FileNotFoundError) else "unreadable"
        message = (
            f"there is no file '{shown}'"
            if code == "missing-file"
            else f"the file '{shown}' cannot be read"
        )
        why = "" if code == "missing-file" else reason[:1].lower() + reason[1:]
        raise GraphError([Problem(code, message, mark, why)]) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GraphError(
            [
                Problem(
                    "not-utf8",
                    f"the file '{shown}' is not UTF-8 text",
                    mark,
                    f"line {line} has the byte 0x{data[error.start]:02x}",
                    "save it as UTF-8",
                )
            ]
        ) from error


def _read_csv(source: Source, delimiter: str) -> Table:
    reader = csv.reader(StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    header: tuple[str, ...] | None = None
    rows: list[tuple[Any, ...]] = []
    lines: list[int] = []
    problems: list[Problem] = []
    for line, cells in _csv_rows(reader, source):
        if len(problems) >= MAX_PROBLEMS:
            break
        if header is None:
            header = tuple(cell.strip() for cell in cells)
            problems += islice(_bad_header(source, header, line), MAX_PROBLEMS)
        elif len(cells) != len(header):
            mark = Mark(source, line, 1, max(1, len(source.line(line))))
            wanted = f"{len(header)} column{'s' if len(header) != 1 else ''}"
            problems.append(
                Problem(
                    "bad-sweep",
                    f"the row has {len(cells)} cell{'s' if len(cells) != 1 else ''}, and the table"
                    f" has {wanted}: {', '.join(header)}",
                    mark,
                    fix="put a cell that contains a comma into double quotes"
                    if len(cells) > len(header)
                    else "",
                )
            )
        else:
            rows.append(tuple(cells))
            lines.append(line)
    if problems:
        raise GraphError(problems)
    return Table(source, header or (), rows, lines, True)


def _csv_rows(reader: Any, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the line that it begins in."""
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            at = Mark(source, line, 1, max(1, len(source.line(line))))
            why = str(error)
            if "unexpected end" in why:
                why = "a double quote is not closed"
            problem = Problem("bad-sweep", "the table cannot be read from here on", at, why)
            if "field limit" in why:
                problem = Problem(
                    "bad-sweep",
                    "the row has a cell that is too long, or a double quote that is not closed",
                    at,
                    f"a cell of a CSV file has at most {csv.field_size_limit():,} characters",
                    "write longer texts into a JSON Lines table (.jsonl)",
                )
            raise GraphError([problem]) from error
        if cells:
            yield line, cells
        line = reader.line_num + 1


def _bad_header(source: Source, header: tuple[str, ...], line: int) -> Iterator[Problem]:
    mark = Mark(source, line, 1, max(1, len(source.line(line))))
    if len(header) == 1 and ";" in header[0]:  # which no input has in its name
        yield Problem(
            "bad-sweep",
            "the columns of the table are separated by semicolons",
            mark,
            fix="save it with commas between the cells",
        )
        return
    seen: set[str] = set()
    for number, name in enumerate(header, 1):
        if not name:
            yield Problem("bad-sweep", f"column {number} of the table has no name", mark)
        elif name in seen:
            yield Problem("bad-sweep", f"the table has two columns named '{name}'", mark)
        seen.add(name)


def _read_jsonl(source: Source) -> Table:
    columns: tuple[str, ...] | None = None
    rows: list[tuple[Any, ...]] = []
    lines: list[int] = []
    problems: list[Problem] = []
    for number, line in enumerate(source.lines, 1):
        if not line.strip():
            continue
        if len(problems) >= MAX_PROBLEMS:
            break
        mark = Mark(source, number, 1, max(1, len(line)))
        try:
            row = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            problems.append(
                Problem("bad-sweep", "the line cannot be read as JSON", mark, _why_not_json(error))
            )
            continue
        if not isinstance(row, dict):
            problems.append(
                Problem(
                    "bad-sweep",
                    "a line of the table is an object with a value for each input",
                    mark,
                    fix='write {"seed": 1, "prompt": "a fox"}',
                )
            )
            continue
        columns = tuple(row) if columns is None else columns
        if row.keys() != set(columns):
            missing = [name for name in columns if name not in row]
            extra = [name for name in row if name not in columns]
            problems.append(
                Problem(
                    "bad-sweep",
                    f"the row lacks '{missing[0]}', which the first row has"
                    if missing
                    else f"the row has '{extra[0]}', which the first row lacks",
                    mark,
                    fix="give every row the same keys",
                )
            )
            continue
        rows.append(tuple(row[name] for name in columns))
        lines.append(number)
    if problems:
        raise GraphError(problems)
    return Table(source, columns or (), rows, lines, False)


def _why_not_json(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at column {error.colno}"
    text = str(error)
    if "set_int_max_str_digits" in text:
        return "it has a number with too many digits"
    return text[:1].lower() + text[1:]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has the same key twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"'{word}' is not JSON")
