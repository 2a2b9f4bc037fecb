"""Read text and JSON files."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from imagen_flow import File, Json, Range, Text, node

MAX_FILE_BYTES = 1 << 30
"""The upper limit of max_bytes."""


@node("text.load", version=1)
def load_text(
    file: File, *, max_bytes: Annotated[int, Range(1, MAX_FILE_BYTES)] = 10_000_000
) -> Text:
    """Load a text file, for example a prompt.

    Inputs:
        file: UTF-8 text; a byte order mark is removed.

    Params:
        max_bytes: refuse a larger file.

    Outputs:
        the text, with line ends converted to ``\n``.

    Raises:
        ValueError: the file is too large or not UTF-8 (the message says at which byte).
    """
    return text_of(file, max_bytes).replace("\r\n", "\n").replace("\r", "\n")


@node("json.load", version=1)
def load_json(
    file: File, *, max_bytes: Annotated[int, Range(1, MAX_FILE_BYTES)] = 10_000_000
) -> Json:
    """Load a JSON file as data.

    Inputs:
        file: JSON in UTF-8 (RFC 8259); a byte order mark is removed.

    Params:
        max_bytes: refuse a larger file.

    Raises:
        ValueError: the file is too large, not UTF-8 or not JSON, or contains NaN, a number that
            is too large or a duplicate key.
    """
    content = text_of(file, max_bytes)
    name = file.name or file.path.name
    try:
        return json.loads(content, **STRICT)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"'{name}' is not JSON: {error.msg.lower()} at line {error.lineno}, column"
            f" {error.colno};"
            " fix the file"
        ) from error
    except RecursionError as error:
        raise ValueError(f"'{name}' is nested too deeply; flatten the data") from error
    except ValueError as error:
        why = "it has a number with too many digits" if has_long_number(error) else error
        raise ValueError(f"'{name}' cannot be used: {why}; fix the file") from error


def text_of(file: File, max_bytes: int) -> str:
    name = file.name or file.path.name
    if file.size > max_bytes:
        raise ValueError(
            f"'{name}' has {file.size:,} bytes, more than max_bytes allows ({max_bytes:,}); raise"
            " max_bytes or use a smaller file"
        )
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{name}' is not UTF-8 text (byte {error.start + 1:,} is invalid); save it as UTF-8,"
            " or"
            " is it another kind of file?"
        ) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"the key '{key}' appears twice in one mapping")
        mapping[key] = value
    return mapping


def refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def has_long_number(error: ValueError) -> bool:
    """Tell whether JSON was refused because Python does not convert so many digits."""
    return "set_int_max_str_digits" in str(error)


#: How JSON is read: what RFC 8259 leaves to chance is refused.
STRICT: dict[str, Any] = {
    "object_pairs_hook": unique_keys,
    "parse_constant": refuse_constant,
    "parse_float": finite,
}
