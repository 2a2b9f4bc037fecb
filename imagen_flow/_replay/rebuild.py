"""Rebuild a graph and its inputs from a provenance document, without opening what they name."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import _models as models
from .._graph import (
    RANDOM,
    Binding,
    FileAt,
    FromInput,
    FromNode,
    Given,
    Graph,
    Input,
    Joined,
    Listed,
    ModelAt,
    Node,
    Output,
    fields_of,
    readings,
    rebound,
    resolve,
)
from .._plan import Plan, from_text
from .._plugins.registry import Registry
from .._provenance.document import FileSeen, InputSeen, Provenance
from .._run.recorder import file_name, portable_name
from .._store import Store
from .._store.file_digests import FileDigests, folder_digest
from .._system.dataclass import dataclass
from .._text import spec
from .._text.spec import GraphSpec
from .._types.artifact import Artifact
from .._types.models import Model
from .._types.node import NodeType
from .._types.ports import BadValue, PortType
from .._types.values import File, Folder
from ..errors import GraphError, Mark, Problem, ProvenanceError, Source, nearest

__all__ = ["Missing", "PictureFiles", "Rebuilder"]

#: The pretended folder of graphs from pictures: it does not exist, and is deep enough that paths
#: with '..' stay inside.
_VIRTUAL_FOLDER = Path("/imagen_flow-replay")
_DEPTH = 32

#: The path of a file whose digest is known but which is not available.
_PLACEHOLDER = Path("/imagen_flow-replay/missing")


@dataclass(frozen=True, slots=True)
class Missing:
    """A file, folder or model that is needed but not available; the user can pass ``--set
    NAME=PATH``.
    """

    name: str
    kind: str
    digest: str

    def problem(self) -> Problem:
        return Problem(
            "missing-file",
            f"the {self.kind} '{self.name}' is not available",
            why=(
                "files of this machine are not opened because a picture names them, and"
                f" the store does not have its content ({self.digest[:8] or 'unknown'})"
            ),
            fix=f"pass --set {self.name}=PATH",
        )


class PictureFiles:
    """The files that a picture's graph names: files that the user passed instead, files in the
    store, or placeholders. No others are opened.
    """

    def __init__(self, digests: FileDigests) -> None:
        self.digests = digests
        self.known: dict[Path, File | Folder] = {}
        #: The paths that the user passed, by the paths that they replace and by themselves.
        self.actual_paths: dict[Path, Path] = {}
        self.refused: dict[Path, Problem] = {}

    def file_value(
        self, path: Path, name: str | None = None, *, check: Callable[[], None] | None = None
    ) -> File:
        value = self.known.get(path)
        if isinstance(value, File):
            return value if name is None else replace(value, name=name)
        return self.digests.file_value(self._actual_path(path), name, check=check)

    def folder_value(self, path: Path, *, check: Callable[[], None] | None = None) -> Folder:
        value = self.known.get(path)
        return (
            value
            if isinstance(value, Folder)
            else self.digests.folder_value(self._actual_path(path), check=check)
        )

    def digest_file(self, path: Path, *, check: Callable[[], None] | None = None) -> str:
        """Digest a file of a model. Which models may be opened has been decided before."""
        return self.digests.digest_file(path, check=check)

    def suspend(self) -> None:
        self.digests.suspend()

    def _actual_path(self, path: Path) -> Path:
        if path not in self.actual_paths:
            raise GraphError([self.refused.get(path) or Missing(path.name, "file", "").problem()])
        return self.actual_paths[path]


class Rebuilder:
    """Rebuilds a graph and its inputs from a document, without opening what they name."""

    def __init__(
        self,
        provenance: Provenance,
        registry: Registry,
        store: Store | None,
        user_values: dict[str, str],
        base: Path,
        *,
        tiny: bool,
    ) -> None:
        assert provenance.graph is not None
        self.provenance = provenance
        self.recorded = provenance.graph
        self.registry = registry
        self.store = store
        self.user_values = user_values
        self.base = base
        self.tiny = tiny
        self.used_values: set[str] = set()
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.files = PictureFiles(store.files if store else FileDigests())
        #: What each placeholder stands for, by the digest of its value.
        self.placeholders: dict[str, set[Missing]] = {}
        self.rebound: dict[int, Graph] = {}

    # -- the graph

    def rebuild_graph(self, *, may_replace: bool) -> tuple[Graph, Output]:
        """Resolve the graph from the document, reduce it to the picture's output, and bind the
        files that it names to what is available. Returns the graph and the output.
        """
        main = self.recorded.file
        unique = hashlib.blake2b(
            self.recorded.files[main].encode("utf-8", "surrogatepass"), digest_size=8
        ).hexdigest()
        path = _VIRTUAL_FOLDER.joinpath(unique, *["in"] * _DEPTH, posixpath.basename(main))
        resolved = resolve(self.parse_recorded(main, path), self.registry, read=self.read_included)
        name = self.provenance.output.name
        if name not in resolved.outputs:
            raise ProvenanceError(
                f"the provenance is damaged or forged\n  = why: its graph has no output '{name}'"
            )
        output = resolved.outputs[name]
        if output.exists == "replace" and not may_replace:
            output = replace(output, exists="error")
            self.notes.append(
                "its graph says 'exists: replace'; files that no run wrote are only"
                " replaced with --replace"
            )
        resolved = replace(
            resolved,
            name=self.recorded.name,
            outputs={name: output},
            unneeded=_nodes_not_needed(resolved, output),
        )
        return self.rebind(resolved, main), output

    def parse_recorded(self, name: str, path: Path) -> GraphSpec:
        return spec.parse(self.recorded.files[name], name=name, path=path)

    def read_included(self, path: Path, name: str) -> GraphSpec:
        """Return an included graph from the document; it is never read from the disk."""
        key = file_name("", name)
        if key in self.recorded.files:
            return self.parse_recorded(key, path)
        source = Source(name, "")
        why = (
            "graphs named by a picture are not read from the disk, and the picture does not"
            " contain this one"
        )
        return GraphSpec(
            source,
            path,
            problems=(Problem("unreadable", "the file cannot be read", Mark(source, 1, 1), why),),
            whole=False,
        )

    def rebind(self, graph: Graph, file: str) -> Graph:
        """Bind the files and models that a graph names to what is available; included graphs too,
        each once.
        """
        known = self.rebound.get(id(graph))
        if known is not None:
            return known
        inputs = {name: self.bind_input(i, file) for name, i in graph.inputs.items()}
        nodes: dict[str, Node] = {}
        for name, node in graph.nodes.items():
            type_: NodeType | Graph = node.type
            if name in graph.unneeded:
                nodes[name] = node
                continue
            if isinstance(type_, Graph):
                type_ = self.rebind(type_, file_name(file, str(graph.spec.nodes[name].type.value)))
                self.check_models(node, type_, file)
            ports = node.inputs
            bindings = {
                port: self.bind(b, file, ports[port].type) for port, b in node.bindings.items()
            }
            nodes[name] = replace(node, type=type_, bindings=bindings)
        result = self.rebound[id(graph)] = replace(graph, inputs=inputs, nodes=nodes)
        return result

    def bind_input(self, declared: Input, file: str) -> Input:
        if declared.default is None:
            return declared
        if (
            file == self.recorded.file
            and isinstance(declared.default, FileAt | Listed)
            and (declared.name in self.provenance.inputs or declared.name in self.user_values)
        ):
            # It has a value, so the files that the default names are not needed.
            return replace(declared, default=None)
        if (
            isinstance(declared.default, Given)
            and declared.default.value == RANDOM
            and declared.type.seed
        ):
            drawn = self.provenance.seeds.get(f"{file}#{declared.name}")
            return declared if drawn is None else replace(declared, default=Given(drawn))
        return replace(declared, default=self.bind(declared.default, file, declared.type))

    def bind(self, binding: Binding, file: str, type_: PortType) -> Binding:
        if isinstance(binding, FileAt):
            return self.bind_file(binding, file)
        if isinstance(binding, ModelAt):
            return self.bind_model(binding, file)
        return rebound(binding, lambda one: self.bind(one, file, type_))

    def bind_file(self, at: FileAt, file: str) -> Binding:
        """Decide which file a path in a graph stands for; the binding itself is unchanged."""
        name = file_name(file, at.path)
        path = at.folder / Path(at.path).expanduser()
        replacement = self.take_value(at.path, name)
        if replacement is not None:
            self.allow_path(replacement, path)
            return at
        recorded = self.provenance.files.get(name)
        if recorded is None or recorded.kind != at.kind:
            self.files.refused[path] = replace(
                Missing(at.path, at.kind, "").problem(), mark=at.mark
            )
        else:
            self.files.known[path] = self.find_or_placeholder(recorded, at.path)
        return at

    def allow_path(self, user_path: str, instead_of: Path | None = None) -> None:
        """Allow reading a path that the user passed, also instead of a path in the graph."""
        path = self.base / Path(user_path).expanduser()
        self.files.actual_paths[path] = path
        if instead_of is not None:
            self.files.actual_paths[instead_of] = path

    def bind_model(self, at: ModelAt, file: str) -> Binding:
        if not _is_local_path(at.reference):
            return at
        replacement = self.take_value(at.reference, file_name(file, at.reference))
        if replacement is not None:
            return replace(
                at, reference=str(self.base / Path(replacement).expanduser()), folder=self.base
            )
        # its name decides which kind of small model replaces it; the path is not opened
        if self.tiny:
            return replace(
                at,
                reference=f"./{posixpath.basename(at.reference.rstrip('/'))}",
                folder=_VIRTUAL_FOLDER,
            )
        fingerprint = next(
            (
                m.fingerprint
                for m in self.provenance.models
                if m.reference == portable_name(at.reference)
            ),
            "",
        )
        model = models.with_significant_name(
            at.loader, Model(_PLACEHOLDER, fingerprint or "unresolved", at.reference)
        )
        self.placeholders.setdefault(self.registry.codecs.digest(model), set()).add(
            Missing(at.reference, "model", fingerprint)
        )
        return Given(model)

    def take_value(self, *names: str) -> str | None:
        """Return the value that the user passed under one of these names."""
        for name in names:
            if name in self.user_values:
                self.used_values.add(name)
                return self.user_values[name]
        return None

    def find_or_placeholder(self, recorded: FileSeen, name: str) -> File | Folder:
        """Return a file or folder with recorded content: from the store, or a placeholder."""
        stored = self.find_in_store(recorded)
        if stored is not None:
            return stored
        if recorded.kind == "folder":
            files = tuple(
                File(_PLACEHOLDER / n, d, 0, n) for n, d in sorted(recorded.files.items())
            )
            if folder_digest(files) != recorded.digest:
                raise ProvenanceError(
                    f"the provenance is damaged or forged\n  = why: the folder '{name}' is not what"
                    " its digest says"
                )
            value: File | Folder = Folder(_PLACEHOLDER, recorded.digest, files)
        else:
            value = _recorded_file(recorded, _PLACEHOLDER)
        self.placeholders.setdefault(self.registry.codecs.digest(value), set()).add(
            Missing(name, recorded.kind, recorded.digest)
        )
        return value

    def find_in_store(self, recorded: FileSeen) -> File | Folder | None:
        if self.store is None:
            return None
        if recorded.kind == "folder":
            return self.store.find_folder(recorded.digest)
        path = self.store.find_file(recorded.digest, recorded.size)
        return None if path is None else _recorded_file(recorded, path)

    # -- models given as text

    def check_models(self, node: Node, inner: Graph, file: str) -> None:
        """Refuse local paths that reach a model port of an included graph as text."""
        for name in sorted(_model_inputs(inner)):
            declared = inner.inputs[name]
            binding = node.bindings.get(name, declared.default)
            for part in binding.items if isinstance(binding, Listed) else (binding,):
                if isinstance(part, FromNode | Joined):
                    self.problems.append(
                        Problem(
                            "bad-model",
                            (
                                "a value computed by nodes would choose which model of this"
                                f" machine is opened ('{name}')"
                            ),
                            node.mark,
                        )
                    )
                elif (
                    isinstance(part, Given)
                    and isinstance(part.value, str)
                    and _is_local_path(part.value)
                ):
                    self.problems.append(
                        replace(Missing(part.value, "model", "").problem(), mark=node.mark)
                    )

    # -- inputs

    def input_values(self, graph: Graph) -> dict[str, Any]:
        """Return the values of the inputs: the user's, else the recorded ones."""
        values: dict[str, Any] = {}
        model_inputs = _model_inputs(graph)
        for name, declared in graph.inputs.items():
            if name in self.user_values:
                self.used_values.add(name)
                try:
                    value = values[name] = from_text(declared.type, self.user_values[name])
                    element = (
                        declared.type.element
                        if declared.type.kind == "list" and declared.type.element
                        else declared.type
                    )
                    if element.kind in ("file", "folder"):
                        for path in value if isinstance(value, list) else [value]:
                            self.allow_path(str(path))
                except BadValue as error:
                    fix = nearest(error.given, error.known) if error.known else ""
                    self.problems.append(Problem("bad-input", f"input '{name}' {error}", fix=fix))
                continue
            recorded = self.provenance.inputs.get(name)
            if recorded is None:
                continue
            if recorded.model is not None or (
                name in model_inputs
                and isinstance(recorded.value, str)
                and _is_local_path(recorded.value)
            ):
                self.problems.append(Missing(name, "model", "").problem())
            else:
                values[name] = self.recorded_value(recorded, name)
        for name in sorted(self.user_values.keys() - self.used_values):
            names = [*graph.inputs, *self.provenance.files]
            self.problems.append(
                Problem(
                    "unknown-input",
                    f"the picture's graph has no input or file '{name}'",
                    fix=nearest(name, names, what="it has"),
                )
            )
        return values

    def recorded_value(self, recorded: InputSeen, name: str) -> Any:
        if recorded.files is None:
            return recorded.value
        files = [self.find_or_placeholder(f, name) for f in recorded.files]
        return files if recorded.type.startswith("list") else files[0] if files else None

    # -- results

    def raise_problems(self) -> None:
        if self.problems:
            raise GraphError(self.problems)

    def missing_files(self, plan: Plan) -> Iterator[Missing]:
        """List what is missing and would be read: by a step that is not in the store, or as an
        output itself.
        """
        if plan.at_least:  # some steps are not known yet
            yield from sorted(
                {one for missing in self.placeholders.values() for one in missing},
                key=lambda one: one.name,
            )
            return
        needed: set[str] = set()
        for artifact in plan.unread():
            needed.update(_digests(artifact))
        yield from sorted(
            {
                one
                for digest, missing in self.placeholders.items()
                if digest in needed
                for one in missing
            },
            key=lambda one: one.name,
        )


def _recorded_file(recorded: FileSeen, path: Path) -> File:
    name = recorded.significant_name or recorded.name
    try:
        return File(path, recorded.digest, recorded.size, recorded.name, name)
    except ValueError as error:
        raise ProvenanceError(f"the provenance is damaged or forged\n  = why: {error}") from error


def _digests(artifact: Artifact) -> Iterator[str]:
    yield artifact.digest
    for item in artifact.items or ():
        yield from _digests(item)


def _is_local_path(reference: str) -> bool:
    """Return whether a model reference is a path on this machine."""
    try:
        return models.parse_reference(reference).kind == "path"
    except models.BadReference:
        return os.sep in reference or reference.startswith((".", "~"))


def _model_inputs(graph: Graph) -> set[str]:
    """List the inputs of a graph whose text reaches a port that takes a model, possibly in an
    included graph.
    """
    found: set[str] = set()
    for node in graph.nodes.values():
        if isinstance(node.type, Graph):
            inner = _model_inputs(node.type)
            bindings = [binding for port, binding in node.bindings.items() if port in inner]
        else:
            bindings = list(_model_bindings(node, node.type))
        found.update(
            reading.name
            for binding in bindings
            for reading in readings(binding)
            if isinstance(reading, FromInput)
        )
    return found


def _model_bindings(node: Node, type_: NodeType) -> Iterator[Binding]:
    """Yield what is bound to ports that take models, and to such fields of records."""
    for port, binding in node.bindings.items():
        port_type, record = type_.inputs[port].type, type_.records.get(port)
        if "model" in (port_type.kind, port_type.element and port_type.element.kind):
            yield binding
        for field in record.fields.values() if record is not None else ():
            if "model" in (field.type.kind, field.type.element and field.type.element.kind):
                is_first = record is not None and field is record.first
                yield from filter(None, fields_of(binding, field.name, is_first=is_first))


def _nodes_not_needed(graph: Graph, output: Output) -> frozenset[str]:
    """List the nodes that an output does not need."""
    needed: set[str] = {output.source.node} if isinstance(output.source, FromNode) else set()
    for name in reversed(graph.nodes):
        if name in needed:
            needed.update(graph.nodes[name].after)
    return frozenset(graph.nodes.keys() - needed)
