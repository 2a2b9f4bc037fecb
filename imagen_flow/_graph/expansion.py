"""See, without making them, how many steps a graph comes to: graphs that include each other several
times multiply.
"""

from __future__ import annotations

from ..errors import Problem
from .bindings import Given, Listed, sizing
from .graph import Graph, Node

__all__ = ["STEPS", "expanded_too_far"]

#: How many steps a graph may come to. Beyond it lies a mistake or an attack (graphs that include
# each other several times, thirty deep), which would fill the memory before any problem is reported.
STEPS = 200_000

#: How many of the files that multiply are named.
_NAMED = 4


def expanded_too_far(graph: Graph) -> Problem | None:
    """Say so if a graph comes to more steps than may be planned, and where they come from; lists of
    `each` that are not written out are counted as one.
    """
    sizes: dict[int, int] = {}
    if _size(graph, sizes) <= STEPS:
        return None
    chain: list[str] = []
    mark = None
    current = graph
    while len(chain) < _NAMED:
        uses: dict[str, int] = {}
        included = [
            (node, node.type) for node in current.nodes.values() if isinstance(node.type, Graph)
        ]
        for node, inner in included:
            name = inner.spec.source.name
            uses[name] = uses.get(name, 0) + (node.repeat.times if node.repeat else 1)
        if not included:
            break
        node, heaviest = max(
            included, key=lambda one: sizes[id(one[1])] * uses[one[1].spec.source.name]
        )
        mark = mark or node.mark
        times = uses[heaviest.spec.source.name]
        chain.append(
            f"{current.spec.source.name} includes"
            f" {heaviest.spec.source.name}{f' {times:,} times' if times > 1 else ''}"
        )
        current = heaviest
    more = (
        ", and so on"
        if any(isinstance(node.type, Graph) for node in current.nodes.values())
        else ""
    )
    return Problem(
        "too-many-steps",
        f"the graph has more than {STEPS:,} steps",
        mark,
        why=", ".join(chain) + more,
        fix="include each graph fewer times",
    )


def _elements(node: Node) -> int:
    """Count the elements of an `each` over a list that is written out; any other is counted as one."""
    if not node.each:
        return 1
    written = [
        (size, depth)
        for port, depth in node.each.items()
        if depth == node.depth and port in node.bindings
        for size in sizing(node.bindings[port])
    ]
    sizes = [
        _written(b, depth)
        for b, depth in written
        if isinstance(b, Listed) or (isinstance(b, Given) and isinstance(b.value, list))
    ]
    return min(sizes, default=1)


def _written(binding: object, depth: int) -> int:
    """Count the elements of a list that is written out, so many lists deep."""
    value = binding.value if isinstance(binding, Given) else binding
    items = value.items if isinstance(value, Listed) else value
    if not isinstance(items, list | tuple):
        return 1
    return len(items) if depth == 1 else sum(_written(item, depth - 1) for item in items)


def _size(graph: Graph, sizes: dict[int, int]) -> int:
    """Count the steps that a graph can come to; each included graph is looked at once."""
    if id(graph) not in sizes:
        count = 0
        for node in graph.nodes.values():
            times = _elements(node) * (node.repeat.times if node.repeat else 1)
            count += (
                times * (1 + _size(node.type, sizes)) if isinstance(node.type, Graph) else times
            )
        sizes[id(graph)] = count
    return sizes[id(graph)]
