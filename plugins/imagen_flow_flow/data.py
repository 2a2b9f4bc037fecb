"""Look into JSON data, and change it."""

from __future__ import annotations

import json
import re
from typing import Any

from imagen_flow import Json, Text, Value, node

_PART = re.compile(r"\.([^.\[\]]+)|\[(-?[0-9]{1,9})\]")


@node("json.get", version=1)
def get(data: Json, path: Text, *, default: Json = None) -> Value:
    """Take a part out of JSON data.

    Params:
        path: names joined by points, places in lists in brackets from 0: ``people[0].name``;
            ``[-1]`` is the last.
        default: the value where there is no such part; without it, that is an error.

    Outputs:
        the part, of whatever kind; whether it fits what it flows into is checked when it flows.

    Raises:
        ValueError: there is no such part; the message says how far the path leads and what is
            there.
    """
    found = data
    done = ""
    for part in _parts(path):
        if isinstance(found, dict) and isinstance(part, str) and part in found:
            found = found[part]
        elif (
            isinstance(found, list | tuple)
            and isinstance(part, int)
            and -len(found) <= part < len(found)
        ):
            found = found[part]
        elif default is not None:
            return default
        else:
            where = f"'{done}'" if done else "the data"
            raise ValueError(
                f"port 'path': {_spelt(part)} is not in {where}, which is {_shape(found)}; mend the"
                " path or give a default"
            )
        done = f"{done}[{part}]" if isinstance(part, int) else f"{done}.{part}" if done else part
    return found


@node("json.set", version=1)
def set_(data: Json, path: Text, *, value: Json) -> Json:
    """Give JSON data with one part changed or added.

    Params:
        path: as in `json.get`; mappings that are missing on the way are made, lists are not.

    Raises:
        ValueError: the path leads through something that is neither mapping nor list, or past the
            end of a list.
    """
    return _with(data, _parts(path), value)


@node("json.parse", version=1)
def parse(text: Text) -> Json:
    """Read JSON out of a text, for example out of a model's answer.

    A fence of backquotes around it (with or without ``json``) is taken off.

    Raises:
        ValueError: the text is not JSON; the message says where.
    """
    word = text.strip()
    if fenced := re.fullmatch(r"```[a-z]*\s*\n(.*?)\n?\s*```", word, re.DOTALL):
        word = fenced[1]
    try:
        return json.loads(word, parse_constant=_refuse_constant)
    except json.JSONDecodeError as bad:
        raise ValueError(
            f"port 'text' is not JSON: {bad.msg.lower()} at line {bad.lineno}, column {bad.colno}"
        ) from bad
    except RecursionError as deep:
        raise ValueError("port 'text' is nested too deeply to be read") from deep


@node("json.to_text", version=1)
def to_text(data: Json, *, indented: bool = False) -> Text:
    """Write data as JSON text, with sorted keys.

    Params:
        indented: on many lines, for people; else on one.
    """
    return json.dumps(
        data, sort_keys=True, ensure_ascii=False, indent=2 if indented else None, allow_nan=False
    )


def _parts(path: str) -> list[str | int]:
    whole = path if path.startswith("[") else f".{path}"
    parts: list[str | int] = []
    at = 0
    while at < len(whole):
        found = _PART.match(whole, at)
        if found is None:
            raise ValueError(
                f"port 'path': '{path}' cannot be read; write for example people[0].name"
            )
        parts.append(found[1] if found[1] is not None else int(found[2]))
        at = found.end()
    return parts


def _with(data: Any, parts: list[str | int], value: Any) -> Any:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if isinstance(part, int):
        if not isinstance(data, list | tuple) or not -len(data) <= part < len(data):
            raise ValueError(f"port 'path': {_spelt(part)} leads nowhere in what is {_shape(data)}")
        changed = list(data)
        changed[part] = _with(changed[part], rest, value)
        return changed
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"port 'path': {_spelt(part)} leads nowhere in what is {_shape(data)}")
    return {**(data or {}), part: _with((data or {}).get(part), rest, value)}


def _spelt(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f"'{part}'"


def _shape(data: Any) -> str:
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


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"port 'text': {word} is no JSON number")
