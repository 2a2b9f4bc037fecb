"""Read the inputs that a graph declares: their types, bounds and defaults."""

from __future__ import annotations

import math
from dataclasses import replace

from .._text.spec import UNREADABLE, InputSpec, Word
from .._types.ports import INPUT_TYPES, BadValue, PortType, describe, parse_type
from .._types.values import Range
from .binder import Binder
from .bindings import Binding, Given
from .graph import RANDOM, Input
from .suggestions import plain

__all__ = ["read_input"]

#: What the types of inputs are called elsewhere.
_ALSO_CALLED = {
    "string": "text",
    "str": "text",
    "number": "float",
    "double": "float",
    "integer": "int",
    "boolean": "bool",
    "image": "file",
    "picture": "file",
    "path": "file",
    "directory": "folder",
    "dir": "folder",
}


def read_input(binder: Binder, written: InputSpec) -> Input | None:
    """Read one input; None if it is of no use (the problem is recorded)."""
    default = written.options.get("default")
    word = default.value if default else None
    if word is not None and word.value is UNREADABLE:
        return None
    if written.type is not None:
        spelling = written.type.value
        if spelling is UNREADABLE:
            return None
        port = parse_type(spelling) if isinstance(spelling, str) else None
        if port is None:
            binder.say(
                "bad-literal",
                f"input '{written.name.value}' has an unknown type:"
                f" {describe(plain(written.type))}",
                written.type.mark,
                fix=_nearest_type(binder, str(spelling), word),
            )
            return None
    else:
        port = _type_of(word)
        if (
            port is None
            and word is not None
            and isinstance(word.value, tuple)
            and any(w.value is UNREADABLE for w in word.value)
        ):
            return None
        if port is None or word is None:
            mark = word.mark if word else written.mark
            binder.say(
                "bad-literal",
                f"the type of input '{written.name.value}' cannot be inferred",
                mark,
                fix="write {type: …, default: …}",
            )
            return None
    port = _narrowed(binder, written, port)
    help_ = written.options.get("help")
    bound: Binding | None = None
    if word is not None:
        if port.seed and word.value == RANDOM:
            bound = Given(RANDOM)
        else:
            bound = binder.bind(word, port, f"the default of input '{written.name.value}'")
            if bound is None:
                return None
    return Input(
        written.name.value, port, bound, str(help_.value.value) if help_ else "", written.name.mark
    )


def _narrowed(binder: Binder, written: InputSpec, port: PortType) -> PortType:
    """Narrow an input's type by its min, max and choices."""
    inner = port.element if port.kind == "list" and port.element else port
    bounds = {}
    for key in ("min", "max"):
        pair = written.options.get(key)
        if pair is None:
            continue
        value = pair.value.value
        if inner.kind not in ("int", "float", "number"):
            binder.say(
                "bad-literal",
                f"'{key}' is for numbers, and input '{written.name.value}' is {port}",
                pair.key.mark,
            )
        elif (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            binder.say(
                "bad-literal",
                f"'{key}' takes a number, not {describe(plain(pair.value))}",
                pair.value.mark,
            )
        else:
            bounds[key] = value
    if bounds:
        inner = replace(
            inner,
            range=Range(
                bounds.get("min", inner.range.min if inner.range else None),
                bounds.get("max", inner.range.max if inner.range else None),
            ),
        )
    choices = written.options.get("choices")
    if choices is not None:
        values = plain(choices.value)
        if not isinstance(values, list) or not values:
            binder.say(
                "bad-literal", f"'choices' takes a list, not {describe(values)}", choices.value.mark
            )
        elif not inner.is_scalar:
            binder.say(
                "bad-literal",
                f"'choices' is for plain values, and input '{written.name.value}' is {port}",
                choices.key.mark,
            )
        else:
            kept = []
            for word in choices.value.value:
                try:
                    kept.append(inner.check(plain(word)))
                except BadValue as error:
                    binder.say(
                        "bad-literal",
                        f"a choice of input '{written.name.value}' {error}",
                        word.mark,
                    )
            inner = replace(inner, choices=tuple(kept), range=None)
    return replace(port, element=inner) if port.kind == "list" else inner


def _nearest_type(binder: Binder, spelling: str, default: Word | None) -> str:
    """Say which type is meant: by what it is called elsewhere, by the default's elements if it is a
    bare list, else the nearest.
    """
    if known := _ALSO_CALLED.get(spelling.lower()):
        return f"did you mean '{known}'?"
    if (
        spelling.lower() in ("list", "array")
        and (type_ := _type_of(default)) is not None
        and type_.element is not None
    ):
        of_files = " or 'list[file]'" if type_.element.kind == "text" else ""
        return f"did you mean 'list[{type_.element.kind}]'{of_files}?"
    return binder.nearest(
        spelling, [*INPUT_TYPES, "list[int]", "list[text]", "list[file]"], what="types are"
    )


def _type_of(word: Word | None) -> PortType | None:
    """Tell the type of a bare value: it is its own."""
    value = word.value if word else None
    if isinstance(value, bool):
        return PortType("bool")
    if isinstance(value, int):
        return PortType("int")
    if isinstance(value, float):
        return PortType("float")
    if isinstance(value, str):
        return PortType("text")
    if isinstance(value, tuple) and value:
        kinds = {t.kind if (t := _type_of(w)) else "" for w in value}
        kind = "float" if kinds == {"int", "float"} else kinds.pop() if len(kinds) == 1 else ""
        if kind in ("bool", "int", "float", "text"):
            return PortType("list", element=PortType(kind))
    return None
