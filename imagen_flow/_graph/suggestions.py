"""Word a problem: quote what was written as the user wrote it, and suggest what was meant."""

from __future__ import annotations

import sys
from typing import Any

from .._text.spec import Reference, Template, Word
from .._types.ports import Port, PortType, Record, fits, is_exact_float

__all__ = [
    "mend_edge",
    "mend_literal",
    "suggest",
    "suggest_record",
    "only_suggestion",
    "plain",
    "reference_text",
]


def plain(word: Word) -> Any:
    """Return what a word says as plain data; references stand as they were written."""
    value = word.value
    if isinstance(value, tuple):
        return [plain(w) for w in value]
    if isinstance(value, dict):
        return {k: plain(p.value) for k, p in value.items()}
    if isinstance(value, Reference):
        return f"${{{reference_text(value)}}}"
    if isinstance(value, Template):
        return "".join(
            p if isinstance(p, str) else f"${{{reference_text(p)}}}" for p in value.parts
        )
    return value


def reference_text(reference: Reference) -> str:
    return f"{reference.name}.{reference.port}" if reference.port else reference.name


def only_suggestion(fix: str) -> str:
    """Offer the nearest port, but not the whole list: the line above it already shows that."""
    return fix if fix.startswith("did you mean") else ""


def suggest(port: Port) -> str:
    """Offer a line that gives a port a value."""
    return f"add {port.name}: {_sample(port.type)}"


def suggest_record(record: Record) -> str:
    """Show how a record is written, with the fields that it needs."""
    needed = [field for field in record.fields.values() if field.required] or [record.first]
    return f"{{{', '.join(f'{field.name}: …' for field in needed)}}}"


def _sample(type_: PortType) -> str:
    if type_.record is not None:
        return suggest_record(type_.record)
    if type_.element is not None and type_.element.record is not None:
        return f"[{suggest_record(type_.element.record)}]"
    sample = {
        "int": "1",
        "float": "1.0",
        "number": "1",
        "bool": "true",
        "text": "some text",
        "file": "./file",
        "folder": "./folder",
        "model": "embedded/NAME",
    }.get(type_.kind, '"${node}"')
    return str(type_.choices[0] if type_.choices else sample)


def mend_literal(value: Any, port: PortType) -> str:
    if isinstance(value, float) and port.kind == "int" and value.is_integer():
        return f"write {int(value)}"
    if type(value) is int and port.kind == "float" and abs(value) <= sys.float_info.max:
        return "" if is_exact_float(value) else f"write {int(float(value))}"
    if isinstance(value, str) and port.kind in ("int", "float", "number", "bool"):
        try:
            float(value)
        except ValueError:
            return ""
        return "remove the quotes"
    if isinstance(value, bool | int | float) and port.kind == "text" and not port.choices:
        return f'quote it: "{str(value).lower() if isinstance(value, bool) else value}"'
    if port.kind == "list" and (
        not isinstance(value, list | dict) or port.innermost_record is not None
    ):
        return "put it into brackets: […]"
    if isinstance(value, str) and not port.is_scalar and port.kind != "json":
        return f'refer to a node that gives {port.name}: "${{node}}"'
    return ""


def mend_edge(source: PortType, port: PortType, written: str) -> str:
    if port.kind == "list" and port.element is not None and fits(source, port.element):
        return f'make it a list of one: ["${{{written}}}"]'
    if port.record is not None and source.kind == "list":
        return f"write a record that takes one of its elements: {suggest_record(port.record)}"
    if port.kind in ("file", "folder") and source.kind == "text":
        return f"declare the input as type: {port.kind}; a path cannot be passed as text"
    if port.kind == "int" and source.kind in ("float", "number"):
        return "round it by math.round"
    return ""
