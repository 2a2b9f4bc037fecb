"""List what the result of a graph depends on besides the graph files: files, folders, local models,
and plugins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._graph import Binding, FileAt, Graph, ModelAt, parts_of
from .._models import BadReference, parse_reference
from .._plan import from_text
from .._plugins.registry import Registry
from .._types.node import NodeType
from .._types.ports import BadValue, PortType
from .._types.values import File, Folder

__all__ = ["paths_of", "plugins_of"]


def paths_of(
    graph: Graph, values: Mapping[str, Any], texts: Mapping[str, str], base: Path
) -> Iterator[Path]:
    """List what a graph reads: the files, folders and local models that it and the graphs in it
    name, and those that are given as inputs.

    Params:
        values, texts, base: the values of its inputs, as for `make_plan`.
    """
    for name, declared in graph.inputs.items():
        try:
            value = from_text(declared.type, texts[name]) if name in texts else values.get(name)
        except BadValue:
            continue
        if value is not None:
            yield from _paths_of_value(declared.type, value, base)
        elif declared.default is not None:
            yield from (
                path
                for literal in _literals_in(declared.default)
                for path in _paths_of_literal(literal)
            )
    yield from (path for literal in _literals(graph) for path in _paths_of_literal(literal))


def plugins_of(graph: Graph, registry: Registry) -> Iterator[str]:
    """List the plugins that affect the result of a graph: those of its node types, those that bring
    its models, and those with codecs.
    """
    models = {literal.reference for literal in _literals(graph) if isinstance(literal, ModelAt)}
    yield from (
        plugin.name
        for plugin in registry.plugins.values()
        if plugin.has_codecs or not models.isdisjoint(plugin.model_names)
    )
    yield from (
        node.type.plugin
        for inner in graph.all()
        for node in inner.nodes.values()
        if isinstance(node.type, NodeType)
    )


def _literals(graph: Graph) -> Iterator[FileAt | ModelAt]:
    """Yield the files and models that a graph and those in it name, except the defaults of the top
    graph's inputs, which may be overridden.
    """
    for one in graph.all():
        for node in one.nodes.values():
            for binding in (
                *node.bindings.values(),
                *((node.when,) if node.when is not None else ()),
            ):
                yield from _literals_in(binding)
        for declared in one.inputs.values() if one is not graph else ():
            if declared.default is not None:
                yield from _literals_in(declared.default)


def _literals_in(binding: Binding) -> Iterator[FileAt | ModelAt]:
    if isinstance(binding, FileAt | ModelAt):
        yield binding
    else:
        for item in parts_of(binding):
            yield from _literals_in(item)


def _paths_of_literal(named: FileAt | ModelAt) -> Iterator[Path]:
    if isinstance(named, FileAt):
        yield from _path(named.folder, named.path)
        return
    try:
        reference = parse_reference(named.reference)
    except BadReference:
        return
    if reference.kind == "path":
        for path in _path(named.folder, reference.name):
            yield path
            if path.suffix.lower() in (".safetensors", ".gguf"):
                yield path.with_suffix("")  # the folder with companions of a single-file checkpoint


def _paths_of_value(type_: PortType, value: Any, base: Path) -> Iterator[Path]:
    if isinstance(value, File | Folder):
        yield value.path
    elif type_.kind in ("file", "folder") and isinstance(value, str | Path):
        yield from _path(base, str(value))
    elif type_.element is not None and isinstance(value, list | tuple):
        for item in value:
            yield from _paths_of_value(type_.element, item, base)


def _path(folder: Path, name: str) -> Iterator[Path]:
    try:
        yield folder.absolute() / Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return
