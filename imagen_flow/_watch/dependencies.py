"""Say what a graph's result depends on besides the graph files: files, folders and local models,
and plugins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._graph import Binding, FileAt, Graph, Listed, Mapped, ModelAt
from .._models import BadReference, parse_reference
from .._plan import from_text
from .._plugins.registry import Registry
from .._types.node import NodeType
from .._types.ports import BadValue, PortType
from .._types.values import File, Folder

__all__ = ["places_of", "plugins_of"]


def places_of(
    graph: Graph, values: Mapping[str, Any], texts: Mapping[str, str], base: Path
) -> Iterator[Path]:
    """Name what a graph reads: the files, folders and local models that it and the graphs in it
    name, and those given to its inputs.

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
            yield from (path for leaf in _leaves(wanted.default) for path in _place(leaf))
    yield from (path for leaf in _named(graph) for path in _place(leaf))


def plugins_of(graph: Graph, registry: Registry) -> Iterator[str]:
    """Name the plugins that have a say in what a graph gives: those of its node types, those that
    bring its models, and those with codecs.
    """
    models = {leaf.reference for leaf in _named(graph) if isinstance(leaf, ModelAt)}
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


def _named(graph: Graph) -> Iterator[FileAt | ModelAt]:
    """Give what a graph and those in it name; of the top one's inputs, which may be given
    otherwise, not the defaults.
    """
    for inner in graph.all():
        for node in inner.nodes.values():
            for binding in (
                *node.bindings.values(),
                *((node.when,) if node.when is not None else ()),
            ):
                yield from _leaves(binding)
        for wanted in inner.inputs.values() if inner is not graph else ():
            if wanted.default is not None:
                yield from _leaves(wanted.default)


def _leaves(binding: Binding) -> Iterator[FileAt | ModelAt]:
    if isinstance(binding, FileAt | ModelAt):
        yield binding
    elif isinstance(binding, Listed):
        for item in binding.items:
            yield from _leaves(item)
    elif isinstance(binding, Mapped):
        for _, item in binding.items:
            yield from _leaves(item)


def _place(named: FileAt | ModelAt) -> Iterator[Path]:
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
                yield path.with_suffix("")  # where what completes a checkpoint of one file may lie


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
