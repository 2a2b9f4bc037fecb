"""Read tables: CSV and JSON Lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from io import StringIO
from typing import Annotated, Any, Literal

from imagen_flow import File, Json, List, Range, Text, node

from .documents import MAX_FILE_BYTES, STRICT, has_long_number, text_of

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_WORDS = {"true": True, "false": False, "": None}


@node("table.load", version=1)
def load_table(
    file: File,
    *,
    cells: Literal["text", "values"] = "text",
    delimiter: Text = "",
    limit: Annotated[int, Range(1, 1_000_000)] = 100_000,
    max_bytes: Annotated[int, Range(1, MAX_FILE_BYTES)] = 100_000_000,
) -> List[Json]:
    """Load the rows of a table, so that `each` can go through them; `json.get` gives a column.

    Inputs:
        file: in UTF-8, a byte order mark is removed. ``.jsonl`` or ``.ndjson``: JSON on each line.
            Any other extension: CSV (RFC 4180) whose first row names the columns.

    Params:
        cells: what the cells of a CSV file are: ``text`` as they stand, or ``values``: numbers and
            booleans where they are written like those of JSON, and null where they are empty.
        delimiter: what separates the cells of a CSV file; without it, a tab in a ``.tsv`` file and
            otherwise a comma.
        limit: refuse a longer table.
        max_bytes: refuse a larger file.

    Outputs:
        a mapping for each row, by column; of a JSON Lines file, the value of each line. Empty lines
            are skipped.

    Raises:
        ValueError: the file is not such a table; the message says in which line.
    """
    text = text_of(file, max_bytes)
    name = file.name or file.path.name
    if len(delimiter) > 1:
        raise ValueError(f"port 'delimiter' is one character, not '{delimiter}'")
    rows: list[Any] = []
    read = (
        _json_lines(text)
        if file.suffix in (".jsonl", ".ndjson")
        else _csv(text, delimiter or ("\t" if file.suffix == ".tsv" else ","), cells)
    )
    try:
        for row in read:
            if len(rows) == limit:
                raise ValueError(f"it has more than {limit:,} rows; raise limit")
            rows.append(row)
    except ValueError as error:
        raise ValueError(f"'{name}' cannot be used: {error}") from error
    return rows


def _json_lines(text: str) -> Iterator[Any]:
    # Lines end at line feeds only: other ends may stand inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, **STRICT)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number} is not JSON: {error.msg.lower()} at column {error.colno}"
            ) from error
        except RecursionError as error:
            raise ValueError(f"line {number} is nested too deeply") from error
        except ValueError as error:
            if has_long_number(error):
                raise ValueError(f"line {number} has a number with too many digits") from error
            raise ValueError(f"line {number}: {error}") from error


def _csv(text: str, delimiter: str, cells: str) -> Iterator[dict[str, Any]]:
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    line = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            why = str(error)
            if "field limit" in why:
                why = (
                    f"it has a cell of more than {csv.field_size_limit():,} characters, or a double"
                    " quote that is not closed; write longer texts into a JSON Lines file"
                )
            elif "unexpected end" in why:
                why = "it has a double quote that is not closed"
            raise ValueError(f"the row in line {line} cannot be read: {why}") from error
        if row and columns is None:
            columns = _columns(row, line)
        elif row and columns is not None:
            if len(row) != len(columns):
                raise ValueError(
                    f"the row in line {line} has {len(row)} cells instead of {len(columns)}; put"
                    " cells that hold the delimiter into double quotes"
                )
            values = [_value(cell) for cell in row] if cells == "values" else row
            yield dict(zip(columns, values, strict=True))
        line = reader.line_num + 1
    if columns is None:
        raise ValueError("it has no row that names the columns")


def _columns(row: list[str], line: int) -> list[str]:
    columns = [cell.strip() for cell in row]
    seen: set[str] = set()
    for number, column in enumerate(columns, 1):
        if not column:
            raise ValueError(f"column {number} has no name in line {line}")
        if column in seen:
            raise ValueError(f"two columns are named '{column}' in line {line}")
        seen.add(column)
    return columns


def _value(cell: str) -> Any:
    text = cell.strip()
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.match(text) and len(text) < 300:
        number = json.loads(text)
        return number if number not in (float("inf"), float("-inf")) else cell
    return cell
