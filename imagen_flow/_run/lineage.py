"""Find the steps that an output came from, by following the graph back from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .._graph import (
    Binding,
    ElementOf,
    FromInput,
    FromNode,
    Graph,
    Joined,
    Listed,
    Mapped,
    Output,
    PerElement,
    Place,
    RecordOf,
    element_of,
    parts_of,
)
from .._plan import Frame, State, Step, Unknown
from .._store import Damaged
from .._types.node import NodeType

__all__ = ["UsedBinding", "file_behind", "steps_at", "trace"]

#: How many values are looked at in search of the file that an element was made from.
MOST_SOURCES = 100

#: A value, and where in its lists the element is that is looked at.
_SourceAt = tuple[Frame, "FromNode | FromInput", "Place | None"]
#: A graph, the name of the input whose default this is (if it is one), and the binding.
UsedBinding = tuple[Graph, str, Binding]


def trace(
    state: State, top: Frame, output: Output, index: int | None
) -> tuple[list[Step], list[UsedBinding]]:
    """List the steps that an output of an item was made by, each after its dependencies, and the bindings
    of the graph that they used. It has its own stack, so a graph may be arbitrarily deep.
    """
    found: dict[int, Step] = {}
    used: dict[int, UsedBinding] = {}
    seen: set[tuple[Any, ...]] = set()
    stack: list[tuple[_SourceAt, bool]] = [
        ((top, output.source, None if index is None else (index,)), False)
    ]
    while stack:
        source_at, is_done = stack.pop()
        frame, source, element = source_at
        identity = (id(frame), source, element)
        if is_done:
            found.update((id(s), s) for s in steps_at(frame, source, element))
        elif identity not in seen:
            seen.add(identity)
            stack.append((source_at, True))
            for graph, name, binding in _bindings_at(frame, source):
                used[id(binding)] = (graph, name, binding)
            stack += [(p, False) for p in _dependencies(state, frame, source, element)][::-1]
    return list(found.values()), list(used.values())


def file_behind(state: State, step: Step) -> str:
    """Name the file that an element of a node was made from: of the nearest that its lists come
    from, with as many elements. Empty if there is none, or its name is not known.
    """
    found = _frame_of(state, step)
    if found is None:
        return ""
    stack: list[_SourceAt] = [(found, FromNode(step.node.name, ""), step.element)]
    seen: set[tuple[Any, ...]] = set()
    while stack and len(seen) < MOST_SOURCES:
        frame, source, element = stack.pop()
        identity = (id(frame), source, element)
        if identity in seen:
            continue
        seen.add(identity)
        if element and (name := _file_name(state, frame, source, element)):
            return name
        stack += list(_dependencies(state, frame, source, element))[::-1]
    return ""


def _frame_of(state: State, step: Step) -> Frame | None:
    """Find the graph that a step is in."""
    label = step.item.partition("[")[0]
    frame = next((top for top in state.tops if top.item == label), None)
    while frame is not None and frame.full(step.node.name) != step.name:
        below = (child for name in frame.below for child in frame.inside(name))
        frame = next((child for child in below if step.name.startswith(child.prefix)), None)
    return frame


def _file_name(state: State, frame: Frame, source: FromNode | FromInput, element: Place) -> str:
    """Name the file that is one element of a value; empty if it is none."""
    if isinstance(source, FromNode) and not source.port:
        return ""
    slot = state.values.bind(frame, source)
    for index in element:
        if isinstance(slot, Unknown) or slot.items is None or index >= len(slot.items):
            return ""
        slot = slot.items[index]
    if isinstance(slot, Unknown) or slot.kind != "file":
        return ""
    try:
        return str(state.values.value(slot).significant_name)
    except Damaged:
        return ""


def _bindings_at(frame: Frame, source: FromNode | FromInput) -> Iterator[UsedBinding]:
    """Yield the bindings of a node in its own graph, or of an input of an included graph its
    default.
    """
    if isinstance(source, FromNode):
        for binding in frame.graph.nodes[source.node].bindings.values():
            yield from ((frame.graph, "", leaf) for leaf in _leaves(binding))
    elif frame.parent is not None and source.name not in frame.parent[1].bindings:
        yield from (
            (frame.graph, source.name, leaf)
            for leaf in _leaves(frame.graph.inputs[source.name].default)
        )


def steps_at(frame: Frame, source: FromNode | FromInput, element: Place | None) -> list[Step]:
    """List the steps of a node, or those of one element, that have given an output of it."""
    node_state = frame.states.get(source.node) if isinstance(source, FromNode) else None
    if node_state is None or not isinstance(source, FromNode):
        return []
    steps: Iterable[Step] = node_state.steps
    depth = frame.graph.nodes[source.node].depth
    if element and depth == 1:
        steps = node_state.steps[element[0] : element[0] + 1]
    elif element and depth:
        steps = [s for s in steps if s.element and _is_at(s.element, element)]
    return [
        s
        for s in steps
        if s.key is not None and s.outputs is not None and s.status in ("cached", "ran")
    ]


def _dependencies(
    state: State, frame: Frame, source: FromNode | FromInput, element: Place | None
) -> Iterator[_SourceAt]:
    if isinstance(source, FromInput):
        if frame.parent is not None:
            outer, node = frame.parent
            if source.name in node.bindings:
                yield from _sources(
                    outer,
                    node.bindings[source.name],
                    frame.element and frame.element[: node.each[source.name]]
                    if source.name in node.each
                    else element,
                )
        return
    node = frame.graph.nodes[source.node]
    if node.when is not None:
        yield from _sources(frame, node.when, None)
    if isinstance(node.type, NodeType):
        for name, binding in node.bindings.items():
            depth = node.each.get(name, 0)
            yield from _sources(frame, binding, element[:depth] if element and depth else None)
        return
    below = [
        child
        for child in frame.inside(source.node)
        if element is None or child.element is None or _is_at(child.element, element)
    ]
    if node.repeat is not None and node.repeat.decides:
        groups: dict[Place | None, list[Frame]] = {}
        for child in below:
            groups.setdefault(child.element, []).append(child)
            for name in sorted(node.repeat.decides):
                yield child, node.type.outputs[name].source, None
        below = [child for group in groups.values() for child in state.kept(node, group)]
    for child in below if source.port in node.type.outputs else ():
        yield (
            child,
            node.type.outputs[source.port].source,
            None if node.each or node.repeat else element,
        )


def _is_at(place: Place, element: Place) -> bool:
    """Whether one of two places is in the other."""
    depth = min(len(place), len(element))
    return place[:depth] == element[:depth]


def _sources(frame: Frame, binding: Binding | str, element: Place | None) -> Iterator[_SourceAt]:
    """Yield what a binding reads; of a list literal only the element in question."""
    if isinstance(binding, FromNode | FromInput):
        yield frame, binding, element
    elif isinstance(binding, Joined):
        for part in binding.parts:
            yield from _sources(frame, part, None)
    elif isinstance(binding, Listed):
        for item in binding.items[element[0] : element[0] + 1] if element else binding.items:
            yield from _sources(frame, item, (element and element[1:]) or None)
    elif isinstance(binding, PerElement):
        one = binding.each if element is None else element_of(binding, element)
        yield from _sources(frame, one, None)
    elif isinstance(binding, ElementOf):
        yield from _sources(frame, binding.of, None if binding.index is None else (binding.index,))
    elif not isinstance(binding, str):
        for item in parts_of(binding):
            yield from _sources(frame, item, None)


def _leaves(binding: Binding | None) -> Iterator[Binding]:
    """Yield every binding inside a binding that contains no other."""
    pending: list[Any] = [binding]
    while pending:
        binding = pending.pop()
        if isinstance(binding, Listed | Mapped | RecordOf | ElementOf | PerElement):
            pending += parts_of(binding)
        elif binding is not None:
            yield binding
