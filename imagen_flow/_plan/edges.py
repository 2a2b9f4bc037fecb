"""Give the edges of a graph as plain names, through the graphs that it includes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .._graph import ROUNDS, Binding, FromNode, Graph, readings

__all__ = ["Edge", "Origin", "edges_of"]


class Origin(NamedTuple):
    """An output of a plugin's node, by the node's full name (without the numbers of elements and
    repetitions).
    """

    node: str
    output: str


class Edge(NamedTuple):
    """Which output goes into which input port of which node. `when` is a port of its own, also of a
    graph used as a node.
    """

    origin: Origin
    node: str
    port: str


_Origins = tuple[Origin, ...]


def edges_of(graph: Graph) -> tuple[list[Edge], dict[str, _Origins]]:
    """Give a graph's edges, each once, and what each of its outputs comes from. Nodes that no
    output needs are left out.
    """
    found: dict[Edge, None] = {}
    outputs = _collect(graph, "", {}, found)
    return list(found), outputs


def _collect(
    graph: Graph, prefix: str, given: Mapping[str, _Origins], found: dict[Edge, None]
) -> dict[str, _Origins]:
    """Collect the edges of a graph whose inputs come from `given`; give what its outputs come from."""
    gives: dict[str, Mapping[str, _Origins]] = {}

    def origins(binding: Binding) -> Iterator[Origin]:
        for read in readings(binding):
            yield from (
                gives[read.node][read.port]
                if isinstance(read, FromNode)
                else given.get(read.name, ())
            )

    for node in graph.nodes.values():
        if node.name in graph.unneeded:
            continue
        name = prefix + node.name
        bound = {
            port: tuple(dict.fromkeys(origins(binding))) for port, binding in node.bindings.items()
        }
        if isinstance(node.type, Graph):
            gives[node.name] = inner = _collect(node.type, f"{name}/", bound, found)
            if node.repeat is not None and node.repeat.until is not None:
                gives[node.name] = {ROUNDS: inner[node.repeat.until], **inner}
        else:
            gives[node.name] = {port: (Origin(name, port),) for port in node.type.outputs}
            found.update(
                dict.fromkeys(
                    Edge(origin, name, port) for port, from_ in bound.items() for origin in from_
                )
            )
        if node.when is not None:
            found.update(dict.fromkeys(Edge(origin, name, "when") for origin in origins(node.when)))
    return {
        output.name: tuple(dict.fromkeys(origins(output.source)))
        for output in graph.outputs.values()
    }
