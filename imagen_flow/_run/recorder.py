"""Record how outputs came to be: turn an executed plan into provenance documents.

What all outputs of a run share is written once (see `ProvenanceRecorder`); what differs are the
steps that an output was made by, found by following the graph back from it, for an element of a
list only those that it comes from. `_provenance` describes the format of a document.
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
    ElementOf,
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
    PerElement,
    RecordOf,
    Repeat,
)
from .._plan import Frame, Plan, State, Step, element_part, leaves
from .._provenance.embedding import FORMAT
from .._types.artifact import Artifact
from .._types.digest import canonical
from .._types.models import Model
from .._types.node import NodeType
from .._types.values import File, Folder
from .lineage import UsedBinding, steps_at, trace

__all__ = ["ProvenanceRecorder", "file_name", "graphs_of", "portable_name"]


class ProvenanceRecorder:
    """Writes the provenance of a run's outputs: of an item of several what a run of that item alone
    would write.

    ::

        recorder = ProvenanceRecorder(plan, state, inputs)
        text = recorder.document(top, output, artifact, index)  # None with provenance: none

    Params:
        state: what the run knows.
        inputs: the values of the graph's inputs, by item.
        conditions: the current hardware and library settings, for steps whose stored record has
            none.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        inputs: Mapping[str, Mapping[str, Any]],
        *,
        conditions: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.plan = plan
        self.state = state
        self.values = state.values
        self.inputs = inputs
        self.conditions = conditions or dict
        self._graph_texts: tuple[str, str] | None = None
        #: The item whose run was described last, and the description.
        self._run_text: tuple[str, str] | None = None
        self._names: dict[int, list[str]] = {}
        for name, graph in _all_named(plan.graph):
            self._names.setdefault(id(graph), []).append(name)

    def document(
        self, top: Frame, output: Output, artifact: Artifact, index: int | None = None
    ) -> str | None:
        """Write the document of an item's output, or of element `index` of a list output."""
        level = output.provenance
        if level == "none":
            return None
        steps, used = trace(self.state, top, output, index)
        document = {
            "imagen_flow": FORMAT,
            "version": __version__,
            "provenance": level,
            "output": {
                "name": output.name,
                "kind": artifact.kind,
                "digest": artifact.digest,
                "index": index,
                **({"options": dict(output.options)} if output.options else {}),
            },
            "settings": {
                "device": self.plan.device,
                "dtype": self.plan.dtype,
                **({"batch": str(self.plan.batch)} if self.plan.batch is not None else {}),
            },
            **self._describe_steps(steps, level),
        }
        if level == "keys":
            return self._text(document)
        inputs = self.inputs[top.item]
        document |= {"seeds": self._seeds(inputs, used), "files": self._files(used)}
        if self._run_text is None or self._run_text[0] != top.item:
            self._run_text = (top.item, self._describe_run(inputs))
        return f"{self._text(document)[:-1]},{self._run_text[1]}"

    def key(self, top: Frame, output: Output, index: int | None = None) -> str:
        """Give the key of the step that made an item's output; empty if it is an input."""
        steps = steps_at(top, output.source, None if index is None else (index,))
        if not steps:  # of a graph used as a node, the last step in it
            steps, _ = trace(self.state, top, output, index)
        return steps[-1].key or "" if steps else ""

    @staticmethod
    def _text(data: Any) -> str:
        # Text that is not valid Unicode (a lone surrogate, in a node's output) is written as a JSON
        # escape.
        return (
            canonical(data)
            .decode("utf-8", "surrogatepass")
            .encode("utf-8", "backslashreplace")
            .decode()
        )

    # ---- what the outputs of a run share

    def _describe_run(self, inputs: Mapping[str, Any]) -> str:
        """Describe the graph, the values of its inputs, and what it was resolved to. The graph is
        the same for all items.
        """
        if self._graph_texts is None:
            graphs = graphs_of(self.plan.graph)
            graph = {
                "name": self.plan.graph.name,
                "file": next(iter(graphs)),
                "files": {name: g.spec.source.text for name, g in graphs.items()},
            }
            resolved = {name: _describe_graph(g, name) for name, g in graphs.items()}
            self._graph_texts = (self._text(graph), self._text(resolved))
        graph_text, resolved_text = self._graph_texts
        described = {name: self._describe_input(name, value) for name, value in inputs.items()}
        return f'"graph":{graph_text},"inputs":{self._text(described)},"resolved":{resolved_text}}}'

    def _describe_input(self, name: str, value: Any) -> dict[str, Any]:
        type_ = self.plan.graph.inputs[name].type
        described: dict[str, Any] = {"type": str(type_)}
        if isinstance(value, File | Folder):
            return described | {"files": [_describe_file(value)]}
        if (
            isinstance(value, list | tuple)
            and value
            and all(isinstance(v, File | Folder) for v in value)
        ):
            return described | {"files": [_describe_file(v) for v in value]}
        if (
            isinstance(value, str)
            and _is_absolute(value)
            and any(value == reference for reference, _ in self.values.models.resolved)
        ):
            return described | {"model": portable_name(value)}
        return described | {"value": _plain(value)}

    def _seeds(self, inputs: Mapping[str, Any], used: list[UsedBinding]) -> dict[str, int]:
        """Give the seeds by input; those that an included graph drew for itself by its file and
        input.
        """
        seeds = {
            name: inputs[name]
            for name, i in self.plan.graph.inputs.items()
            if i.type.seed and isinstance(inputs[name], int)
        }
        for graph, name, binding in used:
            if (
                name
                and graph.inputs[name].type.seed
                and isinstance(binding, Given)
                and (known := self._known_value(binding)) is not None
            ):
                seeds |= {
                    f"{file}#{name}": self.values.value(known) for file in self._names[id(graph)]
                }
        return seeds

    def _files(self, used: list[UsedBinding]) -> dict[str, Any]:
        """Describe the files that the graph names, by name."""
        files: dict[str, Any] = {}
        for graph, _, binding in used:
            if isinstance(binding, FileAt) and (known := self._known_value(binding)) is not None:
                described = _describe_file(self.values.constants.by_digest[known.digest])
                files |= {
                    file_name(file, binding.path): described for file in self._names[id(graph)]
                }
        return files

    def _known_value(self, binding: Binding | None) -> Artifact | None:
        """Give the value that a binding had in this plan. It is not evaluated: that could open a
        file or draw a seed that was not needed.
        """
        return self.values.held(binding)

    # ---- the steps of one output

    def _describe_steps(self, steps: list[Step], level: str) -> dict[str, Any]:
        made: dict[str, int] = {}
        made_with: list[dict[str, Any]] = []
        conditions: list[dict[str, Any]] = []
        models: dict[str, str] = {}
        plugins: dict[str, str] = {}
        steps_json = []
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
                    models[portable_name(model.reference)] = model.digest
            entry: dict[str, Any] = {
                "node": step.name,
                "item": element_part(step.item),
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
                entry["notes"] = list(record.notes)
            if type_.uses_torch:
                kept = record.provenance if record is not None else {}
                step_conditions = kept.get("conditions") or self.conditions()
                if step_conditions:
                    if step_conditions not in conditions:
                        conditions.append(step_conditions)
                    entry["conditions"] = conditions.index(step_conditions)
                entry["rungs"] = list(kept.get("rungs", ()))
            steps_json.append(entry)
        return {
            "steps": steps_json,
            "made_with": made_with,
            "conditions": conditions,
            "models": [{"reference": r, "fingerprint": f} for r, f in sorted(models.items())],
            "plugins": [{"name": n, "version": v} for n, v in sorted(plugins.items())],
        }


def graphs_of(graph: Graph) -> dict[str, Graph]:
    """Give a graph and all graphs that it includes by their files, relative to the main one, which
    comes first.
    """
    found: dict[str, Graph] = {}
    for name, current in _all_named(graph):
        found.setdefault(name, current)
    return found


def _all_named(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """Yield a graph and all graphs that it includes, with the names of their files. One file may be
    several graphs, and one graph may have several names.
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
    """Name a file that a graph file refers to, relative to the main graph file; an absolute path is
    returned as it is.
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


def portable_name(reference: str) -> str:
    """Reduce a model reference that is an absolute path to its last name: the rest concerns only
    this machine.
    """
    return PurePath(reference.replace("\\", "/")).name if _is_absolute(reference) else reference


def _describe_file(value: Any) -> dict[str, Any]:
    if isinstance(value, Folder):
        return {
            "kind": "folder",
            "digest": value.digest,
            "name": value.path.name,
            "files": {f.name: f.digest for f in value.files},
        }
    name = portable_name((value.name or value.path.name).rstrip("/")).rpartition("/")[2]
    return {
        "kind": "file",
        "digest": value.digest,
        "name": name,
        **(
            {"significant_name": value.significant_name}
            if value.significant_name not in ("", name)
            else {}
        ),
        "size": value.size,
    }


def _plugin(type_: NodeType) -> str:
    return portable_name(type_.plugin)


def _plain(value: Any) -> Any:
    """Give a value as JSON data; anything else by its type's name."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return {"kind": type(value).__name__.lower()}


def _describe_graph(graph: Graph, name: str) -> dict[str, Any]:
    """Describe a resolved graph: types, bindings and defaults, without marks."""
    return {
        "inputs": {
            i.name: {
                "type": str(i.type),
                "default": None if i.default is None else _describe_binding(i.default),
            }
            for i in graph.inputs.values()
        },
        "nodes": {node.name: _describe_node(graph, node, name) for node in graph.nodes.values()},
        "outputs": {
            o.name: {
                "from": _describe_binding(o.source),
                "type": str(o.type),
                "path": o.path,
                "exists": o.exists,
                "provenance": o.provenance,
            }
            for o in graph.outputs.values()
        },
        "settings": {key: _plain(value) for key, value in graph.settings.items()},
    }


def _describe_node(graph: Graph, node: Node, name: str) -> dict[str, Any]:
    if isinstance(node.type, Graph):
        type_: dict[str, Any] = {
            "graph": file_name(name, str(graph.spec.nodes[node.name].type.value))
        }
    else:
        type_ = {"type": node.type.name, "version": node.type.version}
    ports = {port: _describe_binding(binding) for port, binding in node.bindings.items()}
    defaults = {
        port.name: _plain(port.default)
        for port in node.inputs.values()
        if port.name not in ports and not port.required
    }
    describe_error: dict[str, Any] = {
        "each": list(node.each),
        "retries": node.retries,
        "timeout_s": node.timeout_s,
        "device": node.device,
        "dtype": node.dtype,
    }
    describe_error |= {"when": _describe_binding(node.when) if node.when is not None else None}
    describe_error |= {"repeat": _describe_repeat(node.repeat) if node.repeat else None}
    describe_error |= {"on_error": None if node.on_error == "fail" else node.on_error}
    describe_error |= {"cache": None if node.cache else False}
    return {
        **type_,
        "ports": ports,
        "defaults": defaults,
        **{k: v for k, v in describe_error.items() if v not in (None, [], 0) or v is False},
    }


def _describe_repeat(repeat: Repeat) -> dict[str, Any]:
    found: dict[str, Any] = {"times": repeat.times, "best": repeat.best}
    if repeat.until is not None:
        found["until"] = repeat.until
    return {**found, "last": True} if repeat.last else found


def _describe_binding(binding: Binding | str) -> Any:
    if isinstance(binding, FromNode):
        return {"node": binding.node, "port": binding.port}
    if isinstance(binding, FromInput):
        return {"input": binding.name}
    if isinstance(binding, Given):
        return {"value": _plain(binding.value)}
    if isinstance(binding, Joined):
        return {"text": [p if isinstance(p, str) else _describe_binding(p) for p in binding.parts]}
    if isinstance(binding, Listed):
        return {"list": [_describe_binding(i) for i in binding.items]}
    if isinstance(binding, Mapped):
        return {"map": {k: _describe_binding(i) for k, i in binding.items}}
    if isinstance(binding, RecordOf):
        return {"record": {name: _describe_binding(item) for name, item in binding.fields}}
    if isinstance(binding, PerElement):
        return {"per_element": _describe_binding(binding.each)}
    if isinstance(binding, ElementOf):
        return {"element_of": _describe_binding(binding.of)}
    if isinstance(binding, FileAt):
        return {binding.kind: binding.path}
    if isinstance(binding, ModelAt):
        return {"model": portable_name(binding.reference)}
    return binding
