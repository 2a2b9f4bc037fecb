"""Say what a node needs before it can be settled or run: nodes beside it, around its graph, or in the graphs below it."""

from __future__ import annotations

from ..graph import FromInput, FromNode, Node, readings, sources
from ..plan import Frame, NodeState, Unknown, Values

__all__ = ["Place", "asked", "below", "first", "is_done", "outside", "producers"]

Place = tuple[Frame, Node]


def is_done(frame: Frame, name: str) -> bool:
    """Tell whether nothing about a node can change any more."""
    state = frame.states.get(name)
    return state is not None and state.done


def asked(frame: Frame) -> list[Place]:
    """Name the nodes that a graph's outputs come from."""
    nodes = frame.graph.nodes
    return [(frame, nodes[n]) for n in dict.fromkeys(o.source.node for o in frame.graph.outputs.values() if isinstance(o.source, FromNode))]


def first(values: Values, frame: Frame, node: Node) -> list[Place]:
    """Name the nodes that must come before a node is settled again: those that decide whether and how often it runs; where nothing does, all that it reads."""
    if node.when is None and not node.each:
        return producers(values, frame, node)
    nodes = frame.graph.nodes
    for binding in (node.when, *(node.bindings[p] for p in node.each)):
        if binding is not None and isinstance(values.bind(frame, binding), Unknown):
            return [(frame, nodes[n]) for n in dict.fromkeys(sources(binding)) if not is_done(frame, n)]
    return []


def producers(values: Values, frame: Frame, node: Node) -> list[Place]:
    """Name the nodes beside it that a node still waits for: first those that decide about it, then all."""
    if (node.when is not None or node.each) and (deciding := first(values, frame, node)):
        return deciding
    nodes, states = frame.graph.nodes, frame.states
    return [(frame, nodes[n]) for n in node.after if n not in states or not states[n].done]


def outside(frame: Frame, node: Node, stack: list[Place]) -> list[Place]:
    """Name the nodes around a graph that give it an input that a node in it waits for. The stack is taken back to the graph, which must be settled again after them."""
    read = [source for binding in (node.when, *node.bindings.values()) if binding is not None for source in readings(binding)]
    while frame.parent is not None:
        unknown = {s.name for s in read if isinstance(s, FromInput) and isinstance(frame.inputs[s.name], Unknown)}
        frame, node = frame.parent
        while stack[-1] != (frame, node):
            stack.pop()
        read = [source for name in unknown if name in node.bindings for source in readings(node.bindings[name])]
        found = [(frame, frame.graph.nodes[s.node]) for s in read if isinstance(s, FromNode) and not is_done(frame, s.node)]
        if found:
            return found
    return []


def below(state: NodeState) -> list[Place]:
    """Name the nodes of the graphs below that their outputs need."""
    return [(child, node) for frame in state.frames for child, node in asked(frame) if not is_done(child, node.name)]
