"""Read text and JSON files."""

from __future__ import annotations

import json
from typing import Annotated, Any

from imagen_flow import File, Json, Range, Text, node

LARGEST = 1 << 30
"""No text file above this many bytes is read, whatever the port says."""


@node("text.load", version=1)
def load_text(file: File, *, max_bytes: Annotated[int, Range(1, LARGEST)] = 10_000_000) -> Text:
    """Load a text file, for example a prompt.

    Inputs:
        file: UTF-8 text; a byte order mark is dropped.

    Params:
        max_bytes: refuse a larger file.

    Outputs:
        the text, line ends as ``\\n`` whatever they were.

    Raises:
        ValueError: the file is too large or not UTF-8 (the message says at which byte).
    """
    return _text(file, max_bytes).replace("\r\n", "\n").replace("\r", "\n")


@node("json.load", version=1)
def load_json(file: File, *, max_bytes: Annotated[int, Range(1, LARGEST)] = 10_000_000) -> Json:
    """Load a JSON file as data.

    Inputs:
        file: JSON in UTF-8 (RFC 8259); a byte order mark is dropped.

    Params:
        max_bytes: refuse a larger file.

    Raises:
        ValueError: the file is too large, not UTF-8, not JSON, holds NaN or a key twice.
    """
    content = _text(file, max_bytes)
    name = file.name or file.path.name
    try:
        return json.loads(content, object_pairs_hook=_mapping, parse_constant=_refuse_constant)
    except json.JSONDecodeError as bad:
        raise ValueError(
            f"'{name}' is not JSON: {bad.msg.lower()} at line {bad.lineno}, column {bad.colno};"
            " mend the file"
        ) from bad
    except RecursionError as deep:
        raise ValueError(f"'{name}' is nested too deeply to be read; flatten the data") from deep
    except ValueError as odd:
        raise ValueError(f"'{name}' cannot be used: {odd}; mend the file") from odd


def _text(file: File, max_bytes: int) -> str:
    name = file.name or file.path.name
    if file.size > max_bytes:
        raise ValueError(
            f"'{name}' has {file.size:,} bytes, more than max_bytes allows ({max_bytes:,}); raise"
            " max_bytes or give a shorter file"
        )
    try:
        return file.read_text()
    except UnicodeDecodeError as bad:
        raise ValueError(
            f"'{name}' is not UTF-8 text (byte {bad.start + 1:,} is odd); save it as UTF-8, or is"
            " it another kind of file?"
        ) from bad


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' stands twice in one mapping")
        found[key] = value
    return found


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")
