"""Describe the graph language as a JSON Schema, with every node type that is installed: for editors,
which complete names, show help and mark what is wrong while a graph is written.

The schema is never stricter than the language: what it marks is wrong. What a schema cannot say
(whether a reference exists, whether an edge fits) the graph's own problems say.

Source: JSON Schema draft 7, which yaml-language-server reads.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._outputs.formats import OPTIONS
from .._text.spec import CHOICES, OF_SWEEP, VERSION
from .._types.node import NodeType, port_help
from .._types.ports import INPUT_TYPES, Port, PortType
from .nodes import DTYPE, LOADING, ON_ERROR

__all__ = ["schema"]

Schema = dict[str, Any]

#: A value that holds a reference, or text with values inserted.
_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}
#: What may stand for a node type: the path of a graph.
_PATH = r"^(\.{1,2}/|/|~).*\.(ya?ml|json)$"
_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

#: The reserved words of a node: their values, and what they do.
_RESERVED: dict[str, tuple[Schema, str]] = {
    "when": (
        {"anyOf": [{"type": "boolean"}, {"type": "array"}, _REFERENCE]},
        "Skip the node where it is false.",
    ),
    "retry": (
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {
                    "type": "object",
                    "properties": {
                        "times": {"type": "integer", "minimum": 0},
                        "backoff_s": {"type": "number", "minimum": 0},
                    },
                    "additionalProperties": False,
                },
            ]
        },
        "Try again when the node fails: the number of tries after the first.",
    ),
    "timeout": (
        {"type": "number", "exclusiveMinimum": 0},
        "Fail when it takes longer, in seconds.",
    ),
    "cache": ({"type": "boolean"}, "false: compute it in every run."),
    "device": (
        {"type": "string", "examples": ["auto", "cpu", "cuda", "cuda:1", "mps"]},
        "Compute on this device.",
    ),
}


def schema(types: Iterable[NodeType]) -> Schema:
    """Give the JSON Schema of graphs that use these node types.

    Params:
        types: the node types to complete and to check.
    """
    known = sorted(types, key=lambda type_: type_.name)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "required": ["imagen_flow", "outputs"],
        "additionalProperties": False,
        "properties": {
            "$schema": {"type": "string"},
            "imagen_flow": {"const": VERSION, "description": "The version of the format."},
            "inputs": _named(_input(), "Values that can be given from outside, by name."),
            "nodes": _named({"$ref": "#/definitions/node"}, "What is computed, by name."),
            "outputs": _named(_output(), "The results; only what they need is computed."),
            "settings": _settings(("device", "dtype", *LOADING)),
            "sweep": {
                "type": "object",
                "description": "Values to run the graph for.",
                "properties": {name: {} for name in OF_SWEEP},
                "additionalProperties": False,
            },
        },
        "definitions": {
            "node": _node(known),
            **{f"node.{type_.name}": _node_of(type_) for type_ in known},
        },
    }


def _named(value: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": value,
    }


def _input() -> Schema:
    return {
        "anyOf": [
            {"type": ["string", "number", "boolean", "array"]},
            {
                "type": "object",
                "properties": {
                    "type": {
                        "description": "Inferred from the default if it is left out.",
                        "enum": [*INPUT_TYPES, *(f"list[{name}]" for name in INPUT_TYPES)],
                    },
                    "default": {"description": "An input without one must be given."},
                    "help": {"type": "string", "description": "For the person who runs the graph."},
                    "min": {"type": "number"},
                    "max": {"type": "number"},
                    "choices": {"type": "array", "minItems": 1},
                },
                "additionalProperties": False,
            },
        ]
    }


def _output() -> Schema:
    options: dict[str, Schema] = {}
    for ending, ports in OPTIONS.items():
        for name, port in ports.items():
            option = options.setdefault(name, {"anyOf": [], "description": "Of "})
            if (plain := _plain(port)) not in option["anyOf"]:
                option["anyOf"].append(plain)
            option["description"] += f"{'' if option['description'] == 'Of ' else ', '}{ending}"
    return {
        "anyOf": [
            _REFERENCE,
            {
                "type": "object",
                "required": ["from"],
                "properties": {
                    "from": {**_REFERENCE, "description": 'A reference, such as "${node}".'},
                    "path": {
                        "type": "string",
                        "description": "Where it is written, below the output folder.",
                    },
                    **{name: {"enum": list(words)} for name, words in CHOICES.items()},
                    **options,
                },
                "additionalProperties": False,
            },
        ]
    }


def _node(known: list[NodeType]) -> Schema:
    """A node by its type. Each type has a branch of its own: alternatives would be told apart by
    guesses, and every fault reported for each.
    """
    return {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {
                "description": "The node type, or the path of a graph.",
                "anyOf": [
                    *(
                        {"const": type_.name, "description": type_.doc.partition("\n")[0]}
                        for type_ in known
                    ),
                    {"type": "string", "pattern": _PATH},
                ],
            }
        },
        "allOf": [
            {
                "if": {
                    "required": ["type"],
                    # Not a const: the server takes what begins like one for it.
                    "properties": {"type": {"pattern": f"^{re.escape(type_.name)}$"}},
                },
                "then": {"$ref": f"#/definitions/node.{type_.name}"},
            }
            for type_ in known
        ],
    }


def _node_of(type_: NodeType) -> Schema:
    told = port_help(type_)
    ports = {
        name: {"description": _described(port, told.get(name, "")), **_port(port.type)}
        for name, port in type_.inputs.items()
    }
    for name, port in type_.inputs.items():
        if not port.required and port.default is not None:
            value = port.default.value if isinstance(port.default, enum.Enum) else port.default
            if isinstance(value, str | int | float | bool):
                ports[name]["default"] = value
    required = [name for name, port in type_.inputs.items() if port.required]
    return {
        "description": type_.doc,
        "properties": {
            "type": {},
            **ports,
            "each": {
                "type": "object",
                "description": "Run the node for each element of lists, by port.",
                "properties": {
                    name: {"anyOf": [{"type": "array"}, _REFERENCE]} for name in type_.inputs
                },
                "additionalProperties": False,
            },
            "on_error": {
                "enum": list(ON_ERROR.choices),
                "description": "What becomes of an element that fails.",
            },
            "settings": _settings(
                name for name in ("dtype", *LOADING) if name == "dtype" or type_.uses_setting(name)
            ),
            **{name: {"description": told, **plain} for name, (plain, told) in _RESERVED.items()},
        },
        "additionalProperties": False,
        # Ports may be bound in 'each' as well.
        "if": {"not": {"required": ["each"]}},
        "then": {"required": required},
    }


def _settings(names: Iterable[str]) -> Schema:
    known: Mapping[str, PortType] = {"dtype": DTYPE, **LOADING}
    return {
        "type": "object",
        "description": "How models are loaded and called.",
        "properties": {
            name: _plain(known[name]) if name in known else {"type": "string"} for name in names
        },
        "additionalProperties": False,
    }


def _described(port: Port, told: str) -> str:
    return f"{port.type}{f': {told}' if told else ''}"


def _port(type_: PortType) -> Schema:
    """What may be written at a port: a literal that fits, or a reference."""
    plain = _plain(type_)
    if not plain:
        return {}
    nothing = [{"type": "null"}] if type_.optional else []
    literal = [plain] if plain != _REFERENCE else []
    return {"anyOf": [*literal, _REFERENCE, *nothing]}


def _plain(type_: PortType) -> Schema:
    """The literals of a type; anything, where a schema could be stricter than the language is."""
    if type_.kind == "union":
        members = [_plain(member) for member in type_.members]
        return {"anyOf": members} if all(members) else {}
    if type_.choices:
        return {"enum": list(type_.choices)}
    if type_.record is not None:
        fields = type_.record.fields
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {name: _port(field.type) for name, field in fields.items()},
                    "required": [name for name, field in fields.items() if field.required],
                    "additionalProperties": False,
                },
                _port(next(iter(fields.values())).type),
            ]
        }
    if type_.kind == "list":
        assert type_.element is not None
        return {"type": "array", "items": _port(type_.element)}
    bounds = {
        name: bound
        for name, bound in (
            ("minimum", type_.range.min if type_.range else None),
            ("maximum", type_.range.max if type_.range else None),
        )
        if bound is not None
    }
    if type_.seed:
        return {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    literals: dict[str, Schema] = {
        "bool": {"type": "boolean"},
        "int": {"type": "integer", **bounds},
        "float": {"type": "number", **bounds},
        "number": {"type": "number", **bounds},
        "text": {"type": "string"},
        "file": {"type": "string"},
        "folder": {"type": "string"},
        "model": {"type": "string"},
        "json": {},
        "any": {},
    }
    return literals.get(type_.kind, _REFERENCE)
