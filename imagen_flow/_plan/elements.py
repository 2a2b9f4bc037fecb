"""Say for which elements a node runs: `when` decides first, then the lists of `each`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .._graph import Binding, ElementOf, Listed, Node, PerElement, RecordOf, sizing
from .._types.artifact import Artifact
from .._types.ports import BadValue
from .step import DROPPED, Frame, Step, Unknown, after_error, without_value
from .values import Values

__all__ = ["Elements", "elements", "is_off", "off_step"]


class Off(NamedTuple):
    """An element that does not run, since something is ``absent``, ``failed`` or ``dropped``; and
    what.
    """

    kind: str
    why: str


class Elements(NamedTuple):
    """The elements of a node: how many, and which of them do not run."""

    size: int
    off: Mapping[int, Off]


def elements(values: Values, frame: Frame, node: Node) -> Elements | Step | Unknown:
    """Say for which elements a node runs; one without `each` has one. A Step if for none: it is
    absent or skipped.

    Raises:
        BadValue: a flag is no truth value, or a list is none.
        ValueError: the lists differ in length.
    """
    flags: tuple[Artifact, ...] | None = None
    if node.when is not None:
        slot = values.bind(frame, node.when)
        if isinstance(slot, Unknown):
            return slot
        if slot.items is not None and node.each:
            flags = slot.items
        elif not _is_on(values, slot):
            return _without(frame, node, slot.kind, _why_off(slot))
    if not node.each:
        return Elements(1, {})
    off = {
        i: Off(_kind(flag), _why_off(flag))
        for i, flag in enumerate(flags or ())
        if not _is_on(values, flag)
    }
    kinds: dict[str, str] = {}
    sizes: dict[str, int] = {}
    waits: list[str] = []
    for port in node.each:
        for path, binding in _lists(port, node.bindings[port]):
            if isinstance(binding, Listed):
                sizes[path] = len(binding.items)
                continue
            slot = values.bind(frame, binding)
            if isinstance(slot, Unknown):
                waits += slot.after
            elif slot.items is not None:
                sizes[path] = len(slot.items)
                # What was dropped from one list is dropped with what is paired with it.
                off |= {
                    i: Off("dropped", f"its '{path}' was dropped")
                    for i, item in enumerate(slot.items)
                    if item is DROPPED
                }
            else:
                kinds[path] = slot.kind
    if waits:
        return Unknown(tuple(dict.fromkeys(waits)))
    for kind in ("absent", "failed"):
        if port := next((port for port in sorted(kinds) if kinds[port] == kind), ""):
            return _without(frame, node, kind, f"its '{port}' is {kind}")
    for port, kind in sorted(kinds.items()):
        raise BadValue(f"takes a list for '{port}' of 'each', not {kind}")
    if flags is not None:
        sizes["when"] = len(flags)
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"'{port}' has {n}" for port, n in sorted(sizes.items()))
        raise ValueError(f"the lists of 'each' differ in length: {lengths}")
    return Elements(next(iter(sizes.values())), off)


def _lists(path: str, binding: Binding) -> Iterator[tuple[str, Binding]]:
    """Give the lists of a port of `each`, each with where it stands: the port itself, or fields of
    the records that it takes (``controls[0].image``).
    """
    if not isinstance(binding, PerElement | ElementOf | RecordOf):
        yield path, binding
    elif isinstance(binding, ElementOf):
        yield path, binding.of
    elif isinstance(binding, RecordOf):
        for name, item in binding.fields:
            if any(sizing(PerElement(item))):
                yield from _lists(f"{path}.{name}", item)
    elif isinstance(binding.each, Listed):
        for i, item in enumerate(binding.each.items):
            if any(sizing(PerElement(item))):
                yield from _lists(f"{path}[{i}]", item)
    else:
        yield from _lists(path, binding.each)


def is_off(values: Values, frame: Frame, node: Node) -> bool:
    """Whether a node's `when`, which is known, leaves all of it out."""
    slot = values.bind(frame, node.when) if node.when is not None else None
    return (
        isinstance(slot, Artifact)
        and (slot.items is None or not node.each)
        and slot.kind in ("bool", "absent", "failed")
        and not _is_on(values, slot)
    )


def off_step(frame: Frame, node: Node, found: Elements, i: int) -> Step:
    """Give the step of an element that does not run."""
    off = found.off[i]
    slot = after_error(without_value(off.kind), node.on_error)
    step = _without(frame, node, off.kind, off.why)
    return step._replace(
        item=f"{frame.item}[{i}]", element=i, outputs=dict.fromkeys(node.outputs, slot)
    )


def _is_on(values: Values, flag: Artifact) -> bool:
    """Tell whether a `when` lets its node run; an absent or failed one does not."""
    if flag.kind == "bool":
        return bool(values.value(flag))
    if flag.kind not in ("absent", "failed"):
        raise BadValue(f"takes true or false for 'when', not {flag.kind}")
    return False


def _kind(flag: Artifact) -> str:
    return "dropped" if flag is DROPPED else flag.kind


def _why_off(flag: Artifact) -> str:
    if flag.kind == "bool":
        return "its 'when' is false"
    return f"its 'when' {'was' if flag is DROPPED else 'is'} {_kind(flag)}"


def _without(frame: Frame, node: Node, kind: str, why: str) -> Step:
    """The one step of a node that has no values: its `when` is false, or a list of its `each` is
    absent or failed.
    """
    slot = without_value(kind)
    if not node.each:  # it is its own only element
        slot = after_error(slot, node.on_error)
    outputs = dict.fromkeys(node.outputs, slot)
    return Step(
        frame.full(node.name),
        frame.item,
        node,
        None,
        "skipped" if kind == "failed" else "absent",
        why,
        outputs=outputs,
    )
