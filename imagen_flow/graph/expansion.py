"""See, without making them, how many steps a graph comes to: graphs that include each other several times multiply."""

from __future__ import annotations

from ..errors import Problem
from .graph import Graph

__all__ = ["STEPS", "expanded_too_far"]

#: How many steps a graph may come to. Beyond it lies a mistake or an attack (graphs that include each other several times, thirty deep), which would fill the memory before anything is said.
STEPS = 500_000

#: How many of the files that multiply are named.
_NAMED = 4


def expanded_too_far(graph: Graph) -> Problem | None:
    """Say so if a graph comes to more steps than may be planned, and where they come from; lists of `each` are counted as one."""
    sizes: dict[int, int] = {}
    if _size(graph, sizes) <= STEPS:
        return None
    chain: list[str] = []
    mark = None
    current = graph
    while len(chain) < _NAMED:
        uses: dict[int, int] = {}
        for node in current.nodes.values():
            if isinstance(node.type, Graph):
                uses[id(node.type)] = uses.get(id(node.type), 0) + (node.repeat.times if node.repeat else 1)
        if not uses:
            break
        heaviest = max((n for n in current.nodes.values() if isinstance(n.type, Graph)), key=lambda n: sizes[id(n.type)] * uses[id(n.type)])
        mark = mark or heaviest.mark
        assert isinstance(heaviest.type, Graph)
        times = uses[id(heaviest.type)]
        chain.append(f"{current.spec.source.name} includes {heaviest.type.spec.source.name}{f' {times:,} times' if times > 1 else ''}")
        current = heaviest.type
    more = ", and so on" if any(isinstance(n.type, Graph) for n in current.nodes.values()) else ""
    return Problem("too-many-steps", f"the graph comes to more than {STEPS:,} steps", mark, why=", ".join(chain) + more, fix="include each graph fewer times")


def _size(graph: Graph, sizes: dict[int, int]) -> int:
    """Count the steps that a graph can come to; each included graph is looked at once."""
    if id(graph) not in sizes:
        count = 0
        for node in graph.nodes.values():
            times = node.repeat.times if node.repeat else 1
            count += times * (1 + _size(node.type, sizes)) if isinstance(node.type, Graph) else 1
        sizes[id(graph)] = count
    return sizes[id(graph)]
