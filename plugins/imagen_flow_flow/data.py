"""Read and change JSON data."""

from __future__ import annotations

import json
import re
from typing import Any

from imagen_flow import Json, Text, Value, node

_PART = re.compile(r"\.([^.\[\]]+)|\[(-?[0-9]{1,9})\]")


@node("json.get", version=1)
def get(data: Json, path: Text, *, default: Json = None) -> Value:
    """Extract a part of JSON data.

    Params:
        path: names separated by dots, list indexes in brackets from 0: ``people[0].name``; ``[-1]``
            is the last.
        default: the value if there is no such part; without it, that is an error.

    Outputs:
        the part, of any kind; its type is checked against the port that it flows into.

    Raises:
        ValueError: there is no such part; the message says how far the path leads and what is
            there.
    """
    current = data
    path_so_far = ""
    for part in _parts(path):
        if isinstance(current, dict) and isinstance(part, str) and part in current:
            current = current[part]
        elif (
            isinstance(current, list | tuple)
            and isinstance(part, int)
            and -len(current) <= part < len(current)
        ):
            current = current[part]
        elif default is not None:
            return default
        else:
            container = f"'{path_so_far}'" if path_so_far else "the data"
            raise ValueError(
                f"port 'path': {_show_part(part)} is not in {container}, which is"
                f" {_describe(current)}; fix the"
                " path or give a default"
            )
        path_so_far = (
            f"{path_so_far}[{part}]"
            if isinstance(part, int)
            else f"{path_so_far}.{part}"
            if path_so_far
            else part
        )
    return current


@node("json.set", version=1)
def set_(data: Json, path: Text, *, value: Json) -> Json:
    """Return JSON data with one part changed or added.

    Params:
        path: as in `json.get`; missing mappings on the way are created, lists are not.

    Raises:
        ValueError: the path leads through something that is neither a mapping nor a list, or past
            the end of a list.
    """
    return _replaced(data, _parts(path), value)


@node("json.parse", version=1)
def parse(text: Text) -> Json:
    """Parse a text as JSON, for example a model's answer.

    A fence of backquotes around it (with or without ``json``) is removed.

    Raises:
        ValueError: the text is not JSON; the message says where.
    """
    content = text.strip()
    if fenced := re.fullmatch(r"```[a-z]*\s*\n(.*?)\n?\s*```", content, re.DOTALL):
        content = fenced[1]
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"port 'text' is not JSON: {error.msg.lower()} at line {error.lineno}, column"
            f" {error.colno}"
        ) from error
    except RecursionError as error:
        raise ValueError("port 'text' is nested too deeply") from error


@node("json.to_text", version=1)
def to_text(data: Json, *, indented: bool = False) -> Text:
    """Write data as JSON text with sorted keys.

    Params:
        indented: on several lines, for people; otherwise on one.
    """
    return json.dumps(
        data, sort_keys=True, ensure_ascii=False, indent=2 if indented else None, allow_nan=False
    )


def _parts(path: str) -> list[str | int]:
    full_path = path if path.startswith("[") else f".{path}"
    parts: list[str | int] = []
    at = 0
    while at < len(full_path):
        match = _PART.match(full_path, at)
        if match is None:
            raise ValueError(
                f"port 'path': '{path}' is not a valid path; write for example people[0].name"
            )
        parts.append(match[1] if match[1] is not None else int(match[2]))
        at = match.end()
    return parts


def _replaced(data: Any, parts: list[str | int], value: Any) -> Any:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if isinstance(part, int):
        if not isinstance(data, list | tuple) or not -len(data) <= part < len(data):
            raise ValueError(f"port 'path': {_show_part(part)} does not exist in {_describe(data)}")
        changed = list(data)
        changed[part] = _replaced(changed[part], rest, value)
        return changed
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"port 'path': {_show_part(part)} does not exist in {_describe(data)}")
    return {**(data or {}), part: _replaced((data or {}).get(part), rest, value)}


def _show_part(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f"'{part}'"


def _describe(data: Any) -> str:
    if isinstance(data, dict):
        keys = sorted(data)
        return (
            f"a mapping with {', '.join(keys[:12])}{', …' if len(keys) > 12 else ''}"
            if keys
            else "an empty mapping"
        )
    if isinstance(data, list | tuple):
        return f"a list of {len(data)}"
    return "null" if data is None else f"the value {json.dumps(data, ensure_ascii=False)[:60]}"


def _refuse_constant(content: str) -> Any:
    raise ValueError(f"port 'text': {content} is not a JSON number")
