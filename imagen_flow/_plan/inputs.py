"""Take the values of a graph's inputs: given live, given as text, or by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from .._graph import RANDOM, FileAt, Given, Graph
from .._text.words import plain_scalar
from .._types.artifact import Artifact
from .._types.ports import BadValue, PortType, describe
from .._types.values import File, Folder
from ..errors import GraphError, Problem, nearest
from .values import Values, drawn_seed, is_drawn

__all__ = ["from_text", "take_inputs"]

_MISSING = object()


@dataclass(slots=True)
class Taken:
    """The values of a graph's inputs: as artifacts and as they are, which of them are defaults, and
    the seeds that were drawn.
    """

    slots: dict[str, Artifact] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    by_default: set[str] = field(default_factory=set)
    seeds: dict[str, int] = field(default_factory=dict)


def take_inputs(
    held: Values,
    graph: Graph,
    values: Mapping[str, Any],
    texts: Mapping[str, str],
    *,
    item: str = "",
) -> Taken:
    """Turn given values and defaults into artifacts.

    Params:
        item: the label of the plan's item that they are for, if it has several.

    Raises:
        GraphError: all problems of the values.
    """
    problems: list[Problem] = []
    taken = Taken()
    slots = taken.slots
    for name in sorted((values.keys() | texts.keys()) - graph.inputs.keys()):
        problems.append(
            Problem(
                "unknown-input",
                f"the graph has no input '{name}'",
                fix=nearest(name, graph.inputs, what="its inputs are"),
            )
        )
    for name, wanted in graph.inputs.items():
        try:
            given = (
                from_text(wanted.type, texts[name]) if name in texts else values.get(name, _MISSING)
            )
            if given is not _MISSING and not (wanted.type.seed and given == RANDOM):
                value = _given(held, wanted.type, given)
                if _holds_files(value):
                    held.given[item, name] = value
                slots[name] = held.converted(held.constants.add(value), wanted.type)
            elif is_drawn(wanted) or given is not _MISSING:
                taken.seeds[name] = drawn_seed()
                slots[name] = held.constants.add(taken.seeds[name])
            elif wanted.default is not None:
                slots[name] = held.converted(held.default(wanted), wanted.type)
                taken.by_default.add(name)
            elif wanted.type.optional:
                slots[name] = held.constants.add(None)
            else:
                problems.append(
                    Problem(
                        "missing-input",
                        f"input '{name}' ({wanted.type}) has no value",
                        wanted.mark,
                        why=wanted.help,
                        fix=f"pass --set {name}=…, or give it a default",
                    )
                )
                continue
            taken.plain[name] = held.value(slots[name])
        except ValueError as error:
            fix = (
                nearest(error.given, error.known)
                if isinstance(error, BadValue) and error.known
                else f"pass {error.instead}"
                if isinstance(error, BadValue) and error.instead
                else ""
            )
            if texts.get(name, values.get(name)) == RANDOM and wanted.type.kind in (
                "int",
                "number",
            ):
                default = (
                    f", default: {wanted.default.value}"
                    if isinstance(wanted.default, Given)
                    else ""
                )
                fix = f"only a seed is drawn: declare it as {name}: {{type: seed{default}}}"
            problems.append(
                Problem(
                    "bad-input",
                    (
                        f"input '{name}' {error}"
                        if isinstance(error, BadValue)
                        else f"input '{name}': {error}"
                    ),
                    wanted.mark,
                    fix=fix,
                )
            )
        except GraphError as missing:
            problems += missing.problems
    if problems:
        raise GraphError(problems)
    return taken


def _holds_files(value: Any) -> bool:
    return isinstance(value, File | Folder) or (
        isinstance(value, list) and bool(value) and all(map(_holds_files, value))
    )


def _given(held: Values, type_: PortType, value: Any) -> Any:
    if type_.kind in ("file", "folder") and isinstance(value, str | Path):
        if not str(value).strip():
            raise BadValue(f"takes {type_.words}, not {describe(value)}")
        return held.read_path(FileAt(str(value), type_.kind, held.base))
    if (
        type_.kind == "list"
        and type_.element
        and type_.element.kind in ("file", "folder")
        and isinstance(value, list | tuple)
    ):
        return [_given(held, type_.element, item) for item in value]
    if type_.kind == "file" and isinstance(value, File) and not value.significant_name:
        return replace(value, significant_name=PurePath(value.name).name or value.path.name)
    return type_.check(value)


def from_text(type_: PortType, text: str) -> Any:
    """Read the value of an input from text, as ``--set`` gives it: by the input's type, never by
    guessing from its looks. Numbers and truth values are spelt as in a graph.

    Raises:
        BadValue: the text is no such value.
    """
    kind = type_.kind
    if kind in ("text", "file", "folder"):
        return text
    if type_.seed and text == RANDOM:
        return text
    if kind == "list":
        assert type_.element is not None
        if text.strip()[:1] + text.strip()[-1:] != "[]":
            return [_element(type_.element, part.strip()) for part in text.split(",")]
        try:
            return json.loads(text)
        except ValueError:
            raise BadValue(
                f'takes {type_.words}, as a,b or as JSON like ["a", "b"], not the text \'{text}\''
            ) from None
    value = plain_scalar(text.strip())
    if isinstance(value, bool):
        if kind == "bool":
            return value
    elif isinstance(value, int) and kind in ("int", "number"):
        return value
    elif isinstance(value, int | float) and kind in ("float", "number"):
        with suppress(OverflowError):
            return float(value)
    raise BadValue(f"takes {type_.words}, not the text '{text}'")


def _element(type_: PortType, text: str) -> Any:
    """Read an element; one that cannot be read stays text, and is refused with its place when the
    list is checked.
    """
    try:
        return from_text(type_, text)
    except BadValue:
        return text
