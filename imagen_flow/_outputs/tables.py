"""Write lists as tables: JSON Lines and CSV.

A row is a mapping; any other value is a mapping with the one key ``value``. Columns come in the order
in which they are first seen, row by row; within a row their names are sorted, as those of all JSON
data are. `columns` chooses them and their order.

* JSON Lines: UTF-8, a JSON object and a line feed for each row, with no byte order mark. What is
  absent from a row is left out of it.
* CSV (RFC 4180): UTF-8, a header, fields separated by commas, lines ended by CR LF, no byte order
  mark unless `bom` asks for it. A field is quoted if it holds a comma, a quote or a line end, or is an
  empty text; null and what is absent are empty and not quoted. Numbers are in their shortest form,
  booleans are ``true`` and ``false``, lists and mappings JSON.

Spreadsheets compute a field that begins with ``=``, ``+``, ``-`` or ``@``, also behind a tab or line
end, and a text may come from anyone. So texts like that get an apostrophe in front, which
spreadsheets take as *this is text*; ``formulas: keep`` leaves them alone. Numbers are never changed.

Source: RFC 4180; JSON Lines (jsonlines.org); OWASP, "CSV Injection".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._types.values import Absent

__all__ = ["encode_table"]

#: The column of values that are not mappings.
VALUE = "value"

#: What a spreadsheet takes for the beginning of a formula; the wide forms too, as some convert them.
_FORMULA = r"[\s\0]*[=+\-@＝＋－＠]"

#: Ends of lines for some readers, though not for JSON.
_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"})


def encode_table(value: Any, ending: str, options: Mapping[str, Any]) -> bytes:
    """Encode a list as a table; any other value as its only row.

    Params:
        options: those of the format that were given.

    Raises:
        ValueError: a text is not valid Unicode.
    """
    written = list(value) if isinstance(value, list | tuple) else [value]
    if options.get("absent", "drop") == "drop":
        written = [row for row in written if row is not Absent.value]
    rows = [_row(row) for row in written]
    columns = options.get("columns")
    if ending == ".jsonl":
        return "".join(f"{_json(_chosen(row, columns))}\n" for row in rows).encode()
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row or ()))
    escape = options.get("formulas", "escape") == "escape"
    lines = [columns, *([(row or {}).get(column) for column in columns] for row in rows)]
    text = "".join(_line(line, escape=escape) for line in lines if columns)
    return (b"\xef\xbb\xbf" if options.get("bom") else b"") + text.encode()


def _row(value: Any) -> dict[str, Any] | None:
    if value is Absent.value:
        return None
    return value if isinstance(value, dict) else {VALUE: value}


def _chosen(row: dict[str, Any] | None, columns: Sequence[str] | None) -> dict[str, Any] | None:
    if row is None or columns is None:
        return row
    return {column: row[column] for column in columns if column in row}


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False).translate(_ENDS)


def _line(fields: Sequence[Any], *, escape: bool) -> str:
    texts = [_field(field, escape=escape) for field in fields]
    if texts == [""]:  # an empty line is no row
        texts = ['""']
    return ",".join(texts) + "\r\n"


def _field(value: Any, *, escape: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else _json(value)
    if escape and re.match(_FORMULA, text):
        text = f"'{text}"
    if not text or any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
