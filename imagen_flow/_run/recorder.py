"""Give an account of how outputs came to be: a plan that was carried out, turned into provenance
documents.

What is the same for every output of a run is written once (see `Accounts`); what differs are the
steps an output was made by, found by going back from it through the graph: of a
list's element only those that it comes from. `provenance` says the document's shape.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from .. import __version__
from .._graph import (
    Binding,
    FileAt,
    FromInput,
    FromNode,
    Given,
    Graph,
    Joined,
    Listed,
    Mapped,
    ModelAt,
    Node,
    Output,
)
from .._plan import Frame, Plan, State, Step, leaves
from .._provenance.embedding import FORMAT
from .._types.artifact import Artifact
from .._types.digest import canonical
from .._types.node import NodeType
from .._types.values import File, Folder, Model

__all__ = ["Accounts", "file_name", "graphs_of", "place_name"]


class Accounts:
    """Writes the provenance of a run's outputs.

    ::

        accounts = Accounts(plan, state, inputs)
        text = accounts.of(output, artifact, index)  # once the output has its value; None where the
        graph says provenance: none

    Params:
        state: what the run knows.
        inputs: the values of the graph's inputs.
        conditions: what steps run on now, for steps of which the store does not say it.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        inputs: Mapping[str, Any],
        *,
        conditions: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.plan = plan
        self.state = state
        self.values = state.values
        self.inputs = inputs
        self.conditions = conditions or dict
        self._shared: str | None = None
        self._names: dict[int, list[str]] = {}
        for name, graph in _all_named(plan.graph):
            self._names.setdefault(id(graph), []).append(name)

    def of(self, output: Output, artifact: Artifact, index: int | None = None) -> str | None:
        """Write the document of an output, or of element `index` of one that is a list."""
        level = output.provenance
        if level == "none":
            return None
        if self._shared is None and level == "full":
            self._shared = self._text(self._full())
        steps, used = self._walk(output, index)
        said = {
            "imagen_flow": FORMAT,
            "version": __version__,
            "provenance": level,
            "output": {
                "name": output.name,
                "kind": artifact.kind,
                "digest": artifact.digest,
                "index": index,
            },
            "settings": {"device": self.plan.device, "dtype": self.plan.dtype},
            **self._made(steps, level),
        }
        if level == "keys" or self._shared is None:
            return self._text(said)
        said |= {"seeds": self._seeds(used), "files": self._files(used)}
        return f"{self._text(said)[:-1]},{self._shared[1:]}"

    @staticmethod
    def _text(data: Any) -> str:
        # What is no Unicode (half of a pair of surrogates, in a text that some node made) is
        # written as JSON's escape.
        return (
            canonical(data)
            .decode("utf-8", "surrogatepass")
            .encode("utf-8", "backslashreplace")
            .decode()
        )

    # -- what a run has in common
    # ------------------------------------------------------------------------------------------------

    def _full(self) -> dict[str, Any]:
        graphs = graphs_of(self.plan.graph)
        main = next(iter(graphs))
        return {
            "graph": {
                "name": self.plan.graph.name,
                "file": main,
                "files": {name: g.spec.source.text for name, g in graphs.items()},
            },
            "resolved": {name: _resolved(g, name) for name, g in graphs.items()},
            "inputs": {name: self._input(name, value) for name, value in self.inputs.items()},
        }

    def _input(self, name: str, value: Any) -> dict[str, Any]:
        type_ = self.plan.graph.inputs[name].type
        seen: dict[str, Any] = {"type": str(type_)}
        if isinstance(value, File | Folder):
            return seen | {"files": [_file(value)]}
        if (
            isinstance(value, list | tuple)
            and value
            and all(isinstance(v, File | Folder) for v in value)
        ):
            return seen | {"files": [_file(v) for v in value]}
        if (
            isinstance(value, str)
            and _is_absolute(value)
            and any(value == reference for reference, _ in self.values.models)
        ):
            return seen | {"model": place_name(value)}
        return seen | {"value": _plain(value)}

    def _seeds(self, used: list[_Used]) -> dict[str, int]:
        """Seeds by input; those that an included graph drew for itself by its file and input."""
        seeds = {
            name: self.inputs[name]
            for name, i in self.plan.graph.inputs.items()
            if i.type.seed and isinstance(self.inputs[name], int)
        }
        for graph, name, binding in used:
            if (
                name
                and graph.inputs[name].type.seed
                and isinstance(binding, Given)
                and (held := self._held(binding)) is not None
            ):
                seeds |= {
                    f"{file}#{name}": self.values.value(held) for file in self._names[id(graph)]
                }
        return seeds

    def _files(self, used: list[_Used]) -> dict[str, Any]:
        """Files that the graph names, by name."""
        files: dict[str, Any] = {}
        for graph, _, binding in used:
            if isinstance(binding, FileAt) and (held := self._held(binding)) is not None:
                seen = _file(self.values.constants.by_digest[held.digest])
                files |= {file_name(file, binding.path): seen for file in self._names[id(graph)]}
        return files

    def _held(self, binding: Binding | None) -> Artifact | None:
        """What a binding gave in this plan. Read, not asked for: asking would open a file, or draw
        a seed, where none was needed.
        """
        return self.values.held(binding)

    # -- what an output was made by
    # ----------------------------------------------------------------------------------------------

    def _made(self, steps: list[Step], level: str) -> dict[str, Any]:
        made: dict[str, int] = {}
        made_with: list[dict[str, Any]] = []
        conditions: list[dict[str, Any]] = []
        models: dict[str, str] = {}
        plugins: dict[str, str] = {}
        told = []
        for step in steps:
            type_ = step.node.type
            assert isinstance(type_, NodeType) and step.outputs is not None
            prefix = self.state.keys.prefix(step.node)
            if prefix not in made:
                made[prefix] = len(made_with)
                made_with.append(
                    {**self.state.keys.computes_with(step.node), "plugin": _plugin(type_)}
                )
                found = self.values.registry.plugins.get(type_.plugin)
                plugins[_plugin(type_)] = found.version if found else ""
            for leaf in (leaf for slot in (step.slots or {}).values() for leaf in leaves(slot)):
                model = (
                    self.values.constants.by_digest.get(leaf.digest)
                    if leaf.kind == "model"
                    else None
                )
                if isinstance(model, Model):
                    models[place_name(model.reference)] = model.digest
            one: dict[str, Any] = {
                "node": step.name,
                "item": step.item,
                "key": step.key,
                "made_with": made[prefix],
                "inputs": {port: slot.digest for port, slot in (step.slots or {}).items()},
                "outputs": {port: artifact.digest for port, artifact in step.outputs.items()},
            }
            reads = type_.uses_torch or (type_.is_generator and level == "full")
            record = (
                self.values.store.lookup(step.key)
                if reads and self.values.store is not None and step.key
                else None
            )
            if record is not None and record.notes and level == "full":
                one["notes"] = list(record.notes)
            if type_.uses_torch:
                kept = record.provenance if record is not None else {}
                ran_on = kept.get("conditions") or self.conditions()
                if ran_on:
                    if ran_on not in conditions:
                        conditions.append(ran_on)
                    one["conditions"] = conditions.index(ran_on)
                one["rungs"] = list(kept.get("rungs", ()))
            told.append(one)
        return {
            "steps": told,
            "made_with": made_with,
            "conditions": conditions,
            "models": [{"reference": r, "fingerprint": f} for r, f in sorted(models.items())],
            "plugins": [{"name": n, "version": v} for n, v in sorted(plugins.items())],
        }

    def _walk(self, output: Output, index: int | None) -> tuple[list[Step], list[_Used]]:
        """List the steps that an output was made by, each after those that it needs, and what of
        the graph's own they used. The walk has a stack of its own.
        """
        found: dict[int, Step] = {}
        used: dict[int, _Used] = {}
        seen: set[tuple[Any, ...]] = set()
        stack: list[tuple[_Place, bool]] = [((self.state.top, output.source, index), False)]
        while stack:
            place, is_done = stack.pop()
            frame, source, element = place
            at = (id(frame), source, element)
            if is_done:
                found.update((id(s), s) for s in self._own(frame, source, element))
            elif at not in seen:
                seen.add(at)
                stack.append((place, True))
                for graph, name, binding in self._uses(frame, source):
                    used[id(binding)] = (graph, name, binding)
                stack += [(p, False) for p in self._needs(frame, source, element)][::-1]
        return list(found.values()), list(used.values())

    def _uses(self, frame: Frame, source: FromNode | FromInput) -> Iterator[_Used]:
        """What a node is bound to in its own graph, or an input of an included graph by default."""
        if isinstance(source, FromNode):
            for binding in frame.graph.nodes[source.node].bindings.values():
                yield from ((frame.graph, "", leaf) for leaf in _leaves(binding))
        elif frame.parent is not None and source.name not in frame.parent[1].bindings:
            yield from (
                (frame.graph, source.name, leaf)
                for leaf in _leaves(frame.graph.inputs[source.name].default)
            )

    def _own(self, frame: Frame, source: FromNode | FromInput, element: int | None) -> list[Step]:
        state = frame.states.get(source.node) if isinstance(source, FromNode) else None
        if state is None or not isinstance(source, FromNode):
            return []
        steps = (
            state.steps[element : element + 1]
            if element is not None and frame.graph.nodes[source.node].each
            else state.steps
        )
        return [
            s
            for s in steps
            if s.key is not None and s.outputs is not None and s.status in ("cached", "ran")
        ]

    def _needs(
        self, frame: Frame, source: FromNode | FromInput, element: int | None
    ) -> Iterator[_Place]:
        if isinstance(source, FromInput):
            if frame.parent is not None:
                outer, node = frame.parent
                if source.name in node.bindings:
                    yield from _places(
                        outer,
                        node.bindings[source.name],
                        frame.element if source.name in node.each else element,
                    )
            return
        node = frame.graph.nodes[source.node]
        if node.when is not None:
            yield from _places(frame, node.when, None)
        if isinstance(node.type, NodeType):
            for name, binding in node.bindings.items():
                yield from _places(frame, binding, element if name in node.each else None)
            return
        below = [
            child
            for child in frame.below.get(source.node, {}).values()
            if element is None or not node.each or child.element == element
        ]
        if node.repeat is not None and node.repeat.best is not None:
            for child in below:
                yield child, node.type.outputs[node.repeat.best].source, None
            groups = {
                child.element: [c for c in below if c.element == child.element] for child in below
            }
            below = [
                best
                for group in groups.values()
                if isinstance(best := self.state.best(node, group), Frame)
            ]
        for child in below:
            yield (
                child,
                node.type.outputs[source.port].source,
                None if node.each or node.repeat else element,
            )


_Place = tuple[Frame, "FromNode | FromInput", "int | None"]
#: A graph, which of its inputs' defaults this is (if it is one), and the binding.
_Used = tuple[Graph, str, Binding]


def _places(frame: Frame, binding: Binding | str, element: int | None) -> Iterator[_Place]:
    """What a binding reads; of a list that is written out, only the element in question."""
    if isinstance(binding, FromNode | FromInput):
        yield frame, binding, element
    elif isinstance(binding, Joined):
        for part in binding.parts:
            yield from _places(frame, part, None)
    elif isinstance(binding, Listed):
        for item in binding.items if element is None else binding.items[element : element + 1]:
            yield from _places(frame, item, None)
    elif isinstance(binding, Mapped):
        for _, item in binding.items:
            yield from _places(frame, item, None)


def graphs_of(graph: Graph) -> dict[str, Graph]:
    """Name a graph and all that it includes by their files, relative to the main one, which comes
    first.
    """
    found: dict[str, Graph] = {}
    for name, current in _all_named(graph):
        found.setdefault(name, current)
    return found


def _all_named(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """Give a graph and all that it includes, with the names of their files. One file may be several
    graphs, and one graph may have several names.
    """
    seen: set[tuple[str, int]] = set()
    pending = [(PurePath(graph.spec.source.name).name or "graph", graph)]
    while pending:
        name, current = pending.pop()
        if (name, id(current)) in seen:
            continue
        seen.add((name, id(current)))
        yield name, current
        for node in current.nodes.values():
            if isinstance(node.type, Graph):
                pending.append(
                    (file_name(name, str(current.spec.nodes[node.name].type.value)), node.type)
                )


def file_name(graph: str, path: str) -> str:
    """Name a file that a graph file names, relative to the main graph file; an absolute path stays
    as it was written.
    """
    return (
        path
        if _is_absolute(path)
        else posixpath.normpath(
            posixpath.join(
                posixpath.dirname(graph),
                path.replace("\\", "/") if path.startswith((".\\", "..\\")) else path,
            )
        )
    )


def _is_absolute(path: str) -> bool:
    return (
        path.startswith("~")
        or PurePosixPath(path).is_absolute()
        or bool(PureWindowsPath(path).drive)
    )


def place_name(reference: str) -> str:
    """A reference that is an absolute path tells its last name only: the rest is about one machine."""
    return PurePath(reference.replace("\\", "/")).name if _is_absolute(reference) else reference


def _file(value: Any) -> dict[str, Any]:
    if isinstance(value, Folder):
        return {
            "kind": "folder",
            "digest": value.digest,
            "name": value.path.name,
            "files": {f.name: f.digest for f in value.files},
        }
    return {
        "kind": "file",
        "digest": value.digest,
        "name": place_name((value.name or value.path.name).rstrip("/")).rpartition("/")[2],
        "size": value.size,
    }


def _plugin(type_: NodeType) -> str:
    return place_name(type_.plugin)


def _plain(value: Any) -> Any:
    """Give a value as JSON data; what is none, by its name."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return {"kind": type(value).__name__.lower()}


def _leaves(binding: Binding | None) -> Iterator[Binding]:
    """Every binding in one that has none within it."""
    pending: list[Any] = [binding]
    while pending:
        binding = pending.pop()
        if isinstance(binding, Listed):
            pending += binding.items
        elif isinstance(binding, Mapped):
            pending += [item for _, item in binding.items]
        elif binding is not None:
            yield binding


def _resolved(graph: Graph, name: str) -> dict[str, Any]:
    """A graph as resolved: types, bindings and defaults, without marks."""
    return {
        "inputs": {
            i.name: {
                "type": str(i.type),
                "default": None if i.default is None else _spelt(i.default),
            }
            for i in graph.inputs.values()
        },
        "nodes": {node.name: _node(graph, node, name) for node in graph.nodes.values()},
        "outputs": {
            o.name: {
                "from": _spelt(o.source),
                "type": str(o.type),
                "path": o.path,
                "exists": o.exists,
                "provenance": o.provenance,
            }
            for o in graph.outputs.values()
        },
        "settings": {key: _plain(value) for key, value in graph.settings.items()},
    }


def _node(graph: Graph, node: Node, name: str) -> dict[str, Any]:
    if isinstance(node.type, Graph):
        type_: dict[str, Any] = {
            "graph": file_name(name, str(graph.spec.nodes[node.name].type.value))
        }
    else:
        type_ = {"type": node.type.name, "version": node.type.version}
    ports = {port: _spelt(binding) for port, binding in node.bindings.items()}
    defaults = {
        port.name: _plain(port.default)
        for port in node.inputs.values()
        if port.name not in ports and not port.required
    }
    words: dict[str, Any] = {
        "each": list(node.each),
        "retries": node.retries,
        "timeout_s": node.timeout_s,
        "device": node.device,
        "dtype": node.dtype,
    }
    words |= {"when": _spelt(node.when) if node.when is not None else None}
    words |= {
        "repeat": {"times": node.repeat.times, "best": node.repeat.best} if node.repeat else None
    }
    words |= {"cache": None if node.cache else False}
    return {
        **type_,
        "ports": ports,
        "defaults": defaults,
        **{k: v for k, v in words.items() if v not in (None, [], 0) or v is False},
    }


def _spelt(binding: Binding | str) -> Any:
    if isinstance(binding, FromNode):
        return {"node": binding.node, "port": binding.port}
    if isinstance(binding, FromInput):
        return {"input": binding.name}
    if isinstance(binding, Given):
        return {"value": _plain(binding.value)}
    if isinstance(binding, Joined):
        return {"text": [p if isinstance(p, str) else _spelt(p) for p in binding.parts]}
    if isinstance(binding, Listed):
        return {"list": [_spelt(i) for i in binding.items]}
    if isinstance(binding, Mapped):
        return {"map": {k: _spelt(i) for k, i in binding.items}}
    if isinstance(binding, FileAt):
        return {binding.kind: binding.path}
    if isinstance(binding, ModelAt):
        return {"model": place_name(binding.reference)}
    return binding
