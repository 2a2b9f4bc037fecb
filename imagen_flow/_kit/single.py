"""Make a graph of one node, whose arguments may be values that no graph file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._graph import Graph, resolve
from .._plugins.registry import Registry
from .._text.spec import parse_mapping
from .._types.models import Model
from .._types.node import NodeType, node
from .._types.values import File, Folder

__all__ = ["NAME", "single_graph"]

#: The name of the node in the graph.
NAME = "tried"


def single_graph(type_: NodeType, arguments: Mapping[str, Any], registry: Registry) -> Graph:
    """Give a graph of this node alone, with all its outputs.

    Params:
        arguments: by port; literals as a graph file has them, or values. These come from nodes made
            for them, which are added to the registry.
    Raises:
        GraphError: they do not fit.
    """
    nodes: dict[str, Any] = {}
    written = {name: _written(name, value, nodes, registry) for name, value in arguments.items()}
    nodes[NAME] = {"type": type_.name, **written}
    outputs = {name: f"${{{NAME}.{name}}}" for name in type_.outputs}
    return resolve(parse_mapping({"imagen_flow": 1, "nodes": nodes, "outputs": outputs}), registry)


def _written(name: str, value: Any, nodes: dict[str, Any], registry: Registry) -> Any:
    if _is_plain(value):
        return value
    if isinstance(value, dict):
        return {key: _written(f"{name}_{key}", v, nodes, registry) for key, v in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return [_written(f"{name}_{i}", item, nodes, registry) for i, item in enumerate(value)]
    is_list = isinstance(value, list | tuple)
    kind: Any = type(value[0] if is_list else value)
    annotation = list[kind] if is_list else kind

    def give() -> Any:
        return _copied(value, registry)

    give.__annotations__ = {"return": annotation}
    source = node(f"sample.{name}", version=1)(give)
    # The key of a sample must tell it from another: its code does not hold the value.
    registry.add(source, plugin="samples", source_digest=registry.codecs.digest(value))
    nodes[f"sample_{name}"] = {"type": source.type.name}
    return f"${{sample_{name}}}"


def _copied(value: Any, registry: Registry) -> Any:
    """Copy a value: a node that changes its inputs must not change it for the next."""
    if isinstance(value, list | tuple):
        return [_copied(item, registry) for item in value]
    if isinstance(value, File | Folder | Model) or _is_plain(value):
        return value
    kind, _, data = registry.codecs.encode(value)
    return registry.codecs.decode(kind, data)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)
