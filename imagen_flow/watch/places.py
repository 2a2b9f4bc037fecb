"""Say which files and folders a graph's result depends on, besides the graph files themselves and the code of its plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..graph import Binding, FileAt, Graph, Listed, Mapped, ModelAt
from ..models import BadReference, parse_reference
from ..plan import from_text
from ..ports import BadValue, PortType
from ..values import File, Folder

__all__ = ["places_of"]


def places_of(graph: Graph, values: Mapping[str, Any], texts: Mapping[str, str], base: Path) -> Iterator[Path]:
    """Name what a graph reads: the files, folders and local models that it and the graphs in it name, and those given to its inputs.

    Params:
        values, texts, base: what its inputs are given, as for `make_plan`.
    """
    for name, wanted in graph.inputs.items():
        try:
            given = from_text(wanted.type, texts[name]) if name in texts else values.get(name)
        except BadValue:
            continue
        if given is not None:
            yield from _given(wanted.type, given, base)
        elif wanted.default is not None:
            yield from _bound(wanted.default)
    yield from _named(graph, set())


def _named(graph: Graph, seen: set[int]) -> Iterator[Path]:
    if id(graph) in seen:
        return
    seen.add(id(graph))
    for node in graph.nodes.values():
        for binding in (*node.bindings.values(), *((node.when,) if node.when is not None else ())):
            yield from _bound(binding)
        if isinstance(node.type, Graph):
            for wanted in node.type.inputs.values():
                if wanted.default is not None:
                    yield from _bound(wanted.default)
            yield from _named(node.type, seen)


def _bound(binding: Binding) -> Iterator[Path]:
    if isinstance(binding, FileAt):
        yield from _path(binding.folder, binding.path)
    elif isinstance(binding, ModelAt):
        try:
            reference = parse_reference(binding.reference)
        except BadReference:
            return
        if reference.kind == "path":
            yield from _path(binding.folder, reference.name)
    elif isinstance(binding, Listed):
        for item in binding.items:
            yield from _bound(item)
    elif isinstance(binding, Mapped):
        for _, item in binding.items:
            yield from _bound(item)


def _given(type_: PortType, value: Any, base: Path) -> Iterator[Path]:
    if isinstance(value, File | Folder):
        yield value.path
    elif type_.kind in ("file", "folder") and isinstance(value, str | Path):
        yield from _path(base, str(value))
    elif type_.element is not None and isinstance(value, list | tuple):
        for item in value:
            yield from _given(type_.element, item, base)


def _path(folder: Path, name: str) -> Iterator[Path]:
    try:
        yield folder.absolute() / Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return
