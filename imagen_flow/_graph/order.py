"""Put nodes in order, find cycles, and see which nodes no output needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .._text.spec import Reference, Template
from .binder import Binder
from .bindings import FromNode, readings
from .graph import Graph, Node, Output

__all__ = ["asked_alone", "order", "unneeded"]


#: How many names of a circle of nodes are printed.
LONGEST = 24


def order(binder: Binder, nodes: dict[str, Node | None]) -> list[str]:
    """Sort nodes topologically, as written among equals; a cycle is a problem, printed closed and
    in order.
    """
    names = list(nodes)
    position = {name: i for i, name in enumerate(names)}
    if all(
        position[n] < i for i, name in enumerate(names) for n in _reads(binder, name, nodes[name])
    ):
        return names  # written from the top down: sorting would change nothing
    import networkx

    drawn: networkx.DiGraph[int] = networkx.DiGraph()
    drawn.add_nodes_from(range(len(names)))
    drawn.add_edges_from(
        (position[n], i) for i, name in enumerate(names) for n in _reads(binder, name, nodes[name])
    )
    try:
        return [names[i] for i in networkx.lexicographical_topological_sort(drawn)]
    except networkx.NetworkXUnfeasible:
        pass
    knots = [
        c
        for c in networkx.strongly_connected_components(drawn)
        if len(c) > 1 or drawn.has_edge(min(c), min(c))
    ]
    for knot in sorted(knots, key=min):
        edges = networkx.find_cycle(drawn.subgraph(knot), min(knot))
        circle = [names[a] for a, _ in edges]
        first = circle.index(min(circle, key=position.__getitem__))
        circle = circle[first:] + circle[: first + 1]
        mark = binder.spec.nodes[circle[0]].name.mark
        binder.say(
            "cycle",
            "nodes depend on each other:"
            f" {' -> '.join(circle if len(circle) <= LONGEST else [*circle[: LONGEST - 3], '…', *circle[-2:]])}",
            mark,
            why="a node runs once all its inputs are available",
            fix="remove one of these references",
        )
    return names


def _reads(binder: Binder, name: str, node: Node | None) -> Iterable[str]:
    """Name the nodes that a node reads: by its bindings, or as written where it did not resolve."""
    return node.after if node is not None else _written_reads(binder, name)


def _written_reads(binder: Binder, name: str) -> Iterator[str]:
    written = binder.spec.nodes[name]
    pending = [p.value for p in (*written.arguments.values(), *written.reserved.values())]
    while pending:
        value = pending.pop().value
        if isinstance(value, Reference):
            found = [value.name]
        elif isinstance(value, Template):
            found = [p.name for p in value.parts if isinstance(p, Reference)]
        else:
            found = []
        yield from (n for n in found if n in binder.spec.nodes and n not in binder.spec.inputs)
        if isinstance(value, tuple):
            pending += value
        elif isinstance(value, dict):
            pending += [p.value for p in value.values()]


def unneeded(nodes: dict[str, Node], outputs: dict[str, Output]) -> frozenset[str]:
    needed: set[str] = {o.source.node for o in outputs.values() if isinstance(o.source, FromNode)}
    for name in reversed(nodes):
        if name in needed:
            needed.update(nodes[name].after)
    return frozenset(nodes.keys() - needed)


#: How many forms of included graphs are made for the outputs that are asked for; beyond that they
# are taken whole, which only makes plans longer.
NARROWED = 1000


def asked_alone(
    nodes: dict[str, Node],
    outputs: dict[str, Output],
    narrowed: dict[tuple[int, frozenset[str]], tuple[Graph, Graph]] | None = None,
) -> dict[str, Node]:
    """Leave out of graphs used as nodes the outputs that nothing asks for, so that no plan lists
    what only they need. `narrowed` holds what has been done already, so that a graph that is used
    often is looked at once.
    """
    for node in nodes.values():
        if type(node.type) is Graph:
            break
    else:
        return nodes
    narrowed = {} if narrowed is None else narrowed
    asked: dict[str, set[str]] = {name: set() for name in nodes}
    for output in outputs.values():
        if isinstance(output.source, FromNode):
            asked[output.source.node].add(output.source.port)
    narrow = dict(nodes)
    for name, node in reversed(nodes.items()):
        if not asked[name]:
            continue
        for source in (
            s for b in (*node.bindings.values(), node.when) if b is not None for s in readings(b)
        ):
            if isinstance(source, FromNode):
                asked[source.node].add(source.port)
        if isinstance(node.type, Graph):
            ports = asked[name] | (node.repeat.decides if node.repeat else set())
            narrow[name] = replace(node, type=_narrow(node.type, frozenset(ports), narrowed))
    return narrow


def _narrow(
    graph: Graph,
    ports: frozenset[str],
    narrowed: dict[tuple[int, frozenset[str]], tuple[Graph, Graph]],
) -> Graph:
    if ports >= graph.outputs.keys():
        return graph
    found = narrowed.get((id(graph), ports))
    if found is None:
        if len(narrowed) >= NARROWED:
            return graph
        outputs = {name: output for name, output in graph.outputs.items() if name in ports}
        nodes = asked_alone(graph.nodes, outputs, narrowed)
        # The graph itself is held too, so that no other can have its identity.
        found = narrowed[id(graph), ports] = (
            graph,
            replace(graph, nodes=nodes, outputs=outputs, unneeded=unneeded(nodes, outputs)),
        )
    return found[1]
