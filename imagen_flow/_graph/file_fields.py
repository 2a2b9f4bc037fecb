"""Find the files whose names the path of an output may use: ``{photos.stem}``.

That is an input of the graph, or the output of a node that the output is made of. Of a list of files
it is the one that the element was made of, which is certain only where each node on the way goes
through its list by `each`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._outputs.templates import FILE_PARTS, FileField, TemplateFault, file_fields_of
from .._types.ports import PortType
from .bindings import FromInput, FromNode, sizing
from .graph import ROUNDS, Input, Node

__all__ = ["FileNames"]

Source = FromInput | FromNode


class FileNames:
    """Knows the files of a graph that the path of one of its outputs may name.

    Params:
        nodes: None for those that have problems of their own; nothing is said about them.
        source, type: of the output.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        nodes: Mapping[str, Node | None],
        source: Source,
        type: PortType,
    ) -> None:
        self._inputs = inputs
        self._nodes = nodes
        self._source = source
        self._type = type

    def used(self, template: str) -> dict[str, Source]:
        """Give what the fields of a checked template refer to, by what is written before the part."""
        found = {name: self._find(name) for name in file_fields_of(template)}
        return {name: source[0] for name, source in found.items() if source is not None}

    def __call__(self, name: str) -> FileField | TemplateFault | None:
        """Say whether a path may use the name of a file: None if there is nothing of this name."""
        found = self._find(name)
        if found is None:
            return None
        source, type_ = found
        if type_ is None:  # its node has a problem, which has been said
            return FileField(per_element=True)
        of_list = type_.kind == "list"
        file = type_.element if of_list and type_.element is not None else type_
        if not any(m.kind in ("file", "any") for m in file.members or (file,)):
            return TemplateFault(
                f"'{name}' is {type_.name}, not a file",
                f"only a file has a {', '.join(FILE_PARTS[:-1])} and {FILE_PARTS[-1]}",
            )
        if file.kind == "file" and file.names == "dropped":
            return TemplateFault(
                f"the names of the files of '{name}' are not known",
                "its node type gives files by content alone",
                "use the files that it was given, or an output of type named file",
            )
        if not of_list:
            if isinstance(source, FromNode) and source.node not in self._before():
                return TemplateFault(
                    f"the output does not come from '{name}'",
                    "the file might not be known when the output is written",
                    "use a file that the output is made of, or an input of the graph",
                )
            return FileField(per_element=False)
        if self._type.kind != "list":
            return TemplateFault(
                f"'{name}' is a list of files, and the output is one value",
                "it is not known which of the files is meant",
                "use {graph} or {output}, or take one file of the list with list.get",
            )
        if not self._goes_along(source):
            return TemplateFault(
                f"it is not known which file of '{name}' an element of the output comes from",
                "between the two, some node does not go through its list by 'each'",
                "put that node before the list of files, or use {index}",
            )
        return FileField(per_element=True)

    def _find(self, name: str) -> tuple[Source, PortType | None] | None:
        if name in self._inputs:
            return FromInput(name), self._inputs[name].type
        node_name, _, port = name.partition(".")
        if node_name not in self._nodes:
            return None
        node = self._nodes[node_name]
        if node is None:
            return FromNode(node_name, port), None
        port = port or node.type.primary
        if port not in node.outputs:
            return None
        return FromNode(node_name, port), _given(node, port)

    def _before(self) -> set[str]:
        """The nodes that the output is made of."""
        pending = [self._source.node] if isinstance(self._source, FromNode) else []
        found: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                node = self._nodes.get(name)
                pending += node.after if node is not None else ()
        return found

    def _goes_along(self, target: Source) -> bool:
        """Whether element i of the output comes from element i of a list, by `each` alone."""
        pending: list[object] = [self._source]
        seen: set[object] = set()
        while pending:
            source = pending.pop()
            if source == target:
                return True
            if not isinstance(source, FromNode) or source in seen:
                continue
            seen.add(source)
            node = self._nodes.get(source.node)
            if node is None:  # what it reads is not known
                return True
            pending += [size for port in node.each for size in sizing(node.bindings[port])]
        return False


def _given(node: Node, port: str) -> PortType:
    """The type of what a node's output gives in all."""
    if port == ROUNDS and port not in node.type.outputs:
        type_, repeats = PortType("int"), 0
    else:
        type_ = node.type.outputs[port].type
        repeats = int(node.repeat is not None and node.repeat.gives_lists)
    for _ in range(repeats + node.depth):
        type_ = PortType("list", element=type_)
    return type_
