"""Run again what made a picture, from what the picture carries, and say whether the same comes out.

::

    again = replay.prepare(Path("picture.png"), registry=registry, store=store, values={"prompt": "a
    red star"})
    print("\\n".join(again.words()))     # which picture, which inputs, what is missing or changed
    ...                                 # print again.plan, and ask
    again.check()                       # raises GraphError if files are missing
    run = execute(again.plan, out=out)
    for event in run: ...
    print(again.verify(run))            # "identical", or what drifted

The picture is untrusted. Its graph, and every graph that it includes, are read from the document,
never from the disk. A file, folder or model folder that it names is never opened by that
name: it is taken from the store, by its digest, or from where the user says (``--set NAME=PATH``;
    what the graph itself names is called by the path written there). What cannot be found is no
    obstacle as
long as everything that is made from it is in the store.

Preparing plans with the recorded device and dtype, and reads no file but those that the user names,
the store, and models that plugins bring or the hub's cache holds. With `fresh`
nothing is taken from the store but files: everything is computed again, so that `verify` has
    something to compare.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

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
from .._plan.request import Options, Request
from .._plan.request import prepare as plan_request
from .._plugins.registry import Registry
from .._provenance import embedding
from .._provenance.document import FileSeen, InputSeen, Provenance, parse
from .._run import Run
from .._run.recorder import file_name, portable_name
from .._settings import devices
from .._store import Store
from .._store.file_digests import FileDigests, folder_digest
from .._text import spec
from .._text.spec import GraphSpec
from .._types.artifact import Artifact
from .._types.models import Model
from .._types.node import NodeType
from .._types.ports import BadValue, PortType
from .._types.values import File, Folder
from ..errors import GraphError, Mark, Problem, ProvenanceError, Source, nearest

__all__ = ["Comparison", "Drift", "Missing", "Replay", "compare", "prepare", "read"]

#: Where graphs from pictures are said to lie: deep in a folder that is not there, so that a path in
#: them that climbs stays inside.
_NOWHERE = Path("/imagen_flow-replay")
_DEPTH = 32

#: The path of something that is known by its digest but is not available.
_ABSENT = Path("/imagen_flow-replay/missing")


@dataclass(frozen=True, slots=True)
class Missing:
    """A file, folder or model that is needed and not at hand: give it by ``--set NAME=PATH``."""

    name: str
    kind: str
    digest: str

    def problem(self) -> Problem:
        return Problem(
            "missing-file",
            f"the {self.kind} '{self.name}' is not available",
            why=(
                "a picture's graph opens no file of this machine by its name, and the store does"
                f" not hold its content ({self.digest[:8] or 'unknown'})"
            ),
            fix=f"pass --set {self.name}=PATH",
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """Something that differs from then: `what` says which ingredient, in words."""

    ingredient: str
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return (
            f"{self.what}: was {self.then}, is {self.now}" if self.then != self.now else self.what
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the same value came out, and what drifted, in the order of the steps: the first is
    the likely cause.
    """

    identical: bool
    drifts: tuple[Drift, ...]

    def __str__(self) -> str:
        if self.identical:
            return "identical"
        return "\n".join(
            [
                "not identical",
                *(
                    f"  {'drifted first: ' if i == 0 else 'then: '}{d}"
                    for i, d in enumerate(self.drifts)
                ),
            ]
        )


@dataclass(eq=False)
class Replay:
    """A picture's graph, ready to be run again. Carry out `plan` by `execute`."""

    picture: Path
    provenance: Provenance
    #: Whether the file is as it was written.
    intact: bool
    plan: Plan
    output: Output
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]

    def words(self) -> list[str]:
        """Say what is going to be run, one line each."""
        said = self.provenance
        assert said.graph is not None
        index = "" if said.output.index is None else f"[{said.output.index}]"
        lines = [
            f"{self.picture.name}: output '{said.output.name}{index}' of {said.graph.file}, made by"
            f" imagen_flow {said.version}"
        ]
        if not self.intact:
            lines.append(
                "note: the file was changed after it was written; this is about what was written"
            )
        lines += [f"note: {note}" for note in self.notes]
        return lines

    def check(self) -> None:
        """Raise GraphError if something is missing that the run would have to read."""
        if self.missing:
            raise GraphError([m.problem() for m in self.missing])

    def verify(self, run: Run) -> Comparison:
        """Compare what came out of a run of the plan with what the picture says.

        Raises:
            ProvenanceError: it gave no value to compare.
        """
        text = run.provenance(replace(self.output, provenance="full"), self.provenance.output.index)
        if text is None:
            raise ProvenanceError(
                f"there is nothing to compare: output '{self.output.name}' has no value this time"
            )
        return compare(self.provenance, parse(text))


def read(picture: Path) -> tuple[Provenance, bool]:
    """Read the provenance of a file, and whether the file is as it was written. Nothing is decoded.

    Raises:
        ProvenanceError: the file cannot be read, carries none, or what it carries is damaged.
    """
    try:
        label = embedding.read_embedded(picture)
    except OSError as failed:
        raise ProvenanceError(
            f"{picture} cannot be read\n  = why: {(failed.strerror or str(failed)).lower()}"
        ) from failed
    except ValueError as odd:
        raise ProvenanceError(
            f"the provenance of {picture} cannot be read\n  = why: {odd}"
        ) from odd
    if label is None and embedding.mentions_provenance(picture):
        raise ProvenanceError(
            f"the provenance of {picture} cannot be read\n  = why: words of it stand in the file,"
            " in a form that another program gave it (Exif or XMP, say); in a PNG every kind of"
            " text chunk is read\n  = fix: use the file as it was written"
        )
    if label is None:
        beside = f"and there is no {picture.name}{embedding.SIDECAR} beside it"
        raise ProvenanceError(
            f"{picture} carries no provenance of imagen_flow\n  = why: there is none in it,"
            f" {beside}; some programs drop it when they save a picture\n  = fix: use the file as"
            " it was written"
        )
    return parse(label.text), label.intact


def prepare(
    picture: Path,
    options: Options | None = None,
    *,
    registry: Registry,
    store: Store | None = None,
    values: Mapping[str, str] | None = None,
    base: Path | None = None,
    fresh: bool = False,
    may_replace: bool = False,
) -> Replay:
    """Read a picture and plan what made it. Nothing runs.

    Params:
        options: as at every way in; where they do not say, device, dtype and whether models are
            tiny are as recorded. If this machine has no such device, ``auto``.
        values: as ``--set`` gives them: inputs as text, and paths for files that the graph names
            (by the path that it writes).
        base: what relative paths in `values` are relative to, and where the lock is looked for;
            default: the working directory.
        fresh: compute everything again.
        may_replace: let outputs replace files that no run wrote, where the picture's graph says
            ``exists: replace``.
    Raises:
        ProvenanceError: there is no provenance that can be run again.
        GraphError: the graph does not fit the plugins that are installed, or a value does not fit.
    """
    options = options or Options()
    said, intact = read(picture)
    if said.graph is None:
        raise ProvenanceError(
            f"{picture} cannot be run again\n  = why: it carries keys only (provenance: keys), not"
            " the graph"
        )
    tiny = options.tiny or any(models.is_tiny(model.reference) for model in said.models)
    maker = _Maker(said, registry, store, dict(values or {}), base or Path.cwd(), tiny=tiny)
    graph, output = maker.graph(may_replace=may_replace)
    inputs = maker.inputs(graph)
    notes: list[str] = []
    device, dtype = options.device or said.settings.device, options.dtype or said.settings.dtype
    try:
        devices.resolve_device(device)
    except ValueError as none:
        notes.append(f"it was made on {device}, which is not to be had here ({none}); auto is used")
        device, dtype = "auto", "auto"
    maker.refuse()
    # It stands in the place of the memo that it asks: what it does not know of, no plan reads.
    files = cast(FileDigests, maker.files)
    if tiny and not options.tiny:
        notes.append("it was made with --tiny, so small models with random weights are taken again")
    chosen = replace(options, device=device, dtype=dtype, tiny=tiny)
    plan = plan_request(
        Request(
            graph,
            chosen,
            inputs,
            store=None if fresh else store,
            files=files,
            base=maker.base,
            folder=maker.base,
        )
    )
    return Replay(
        picture, said, intact, plan, output, tuple(maker.missing(plan)), tuple(notes + maker.notes)
    )


class _AtHand:
    """Gives files by the paths that a picture's graph names: those the user gave in their place,
    those the store holds, or what stands in for them. No others are opened.
    """

    def __init__(self, memo: FileDigests) -> None:
        self.memo = memo
        self.known: dict[Path, File | Folder] = {}
        #: Where the user says that a path leads; what the user named leads to itself.
        self.leads: dict[Path, Path] = {}
        self.refused: dict[Path, Problem] = {}

    def file_value(
        self, path: Path, name: str | None = None, *, check: Callable[[], None] | None = None
    ) -> File:
        value = self.known.get(path)
        if isinstance(value, File):
            return value if name is None else replace(value, name=name)
        return self.memo.file_value(self._led(path), name, check=check)

    def folder_value(self, path: Path, *, check: Callable[[], None] | None = None) -> Folder:
        value = self.known.get(path)
        return (
            value
            if isinstance(value, Folder)
            else self.memo.folder_value(self._led(path), check=check)
        )

    def digest_file(self, path: Path, *, check: Callable[[], None] | None = None) -> str:
        """Digest a file of a model: which models are looked for is settled before."""
        return self.memo.digest_file(path, check=check)

    def suspend(self) -> None:
        self.memo.suspend()

    def _led(self, path: Path) -> Path:
        if path not in self.leads:
            raise GraphError([self.refused.get(path) or Missing(path.name, "file", "").problem()])
        return self.leads[path]


class _Maker:
    """Makes a graph and its inputs out of a document, without opening what they name."""

    def __init__(
        self,
        said: Provenance,
        registry: Registry,
        store: Store | None,
        given: dict[str, str],
        base: Path,
        *,
        tiny: bool,
    ) -> None:
        assert said.graph is not None
        self.said = said
        self.text = said.graph
        self.registry = registry
        self.store = store
        self.given = given
        self.base = base
        self.tiny = tiny
        self.used: set[str] = set()
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.files = _AtHand(store.files if store else FileDigests())
        #: What stands in for things that are not at hand, by the digest of its value.
        self.absent: dict[str, set[Missing]] = {}
        self.made: dict[int, Graph] = {}

    # -- the graph

    def graph(self, *, may_replace: bool) -> tuple[Graph, Output]:
        """Resolve the graph from the document, keep of its outputs the one in question, and bind
        what it names on the disk to what is at hand.
        """
        main = self.text.file
        unique = hashlib.blake2b(
            self.text.files[main].encode("utf-8", "surrogatepass"), digest_size=8
        ).hexdigest()
        place = _NOWHERE.joinpath(unique, *["in"] * _DEPTH, posixpath.basename(main))
        resolved = resolve(self.parse(main, place), self.registry, read=self.included)
        wanted = self.said.output.name
        if wanted not in resolved.outputs:
            raise ProvenanceError(
                f"the provenance is damaged or forged\n  = why: its graph has no output '{wanted}'"
            )
        output = resolved.outputs[wanted]
        if output.exists == "replace" and not may_replace:
            output = replace(output, exists="error")
            self.notes.append(
                "its graph says 'exists: replace'; a file that no run wrote is replaced only with"
                " --replace"
            )
        resolved = replace(
            resolved,
            name=self.text.name,
            outputs={wanted: output},
            unneeded=_unneeded(resolved, output),
        )
        return self.rebound(resolved, main), output

    def parse(self, name: str, path: Path) -> GraphSpec:
        return spec.parse(self.text.files[name], name=name, path=path)

    def included(self, path: Path, name: str) -> GraphSpec:
        """Give an included graph: its text stands in the document, or it is not there."""
        key = file_name("", name)
        if key in self.text.files:
            return self.parse(key, path)
        source = Source(name, "")
        why = (
            "a picture's graph reads no graph from the disk, and the picture does not carry"
            " this one"
        )
        return GraphSpec(
            source,
            path,
            problems=(Problem("unreadable", "the file cannot be read", Mark(source, 1, 1), why),),
            whole=False,
        )

    def rebound(self, graph: Graph, file: str) -> Graph:
        """Bind the files and models that a graph names to what is at hand; included graphs too,
        each once.
        """
        done = self.made.get(id(graph))
        if done is not None:
            return done
        inputs = {name: self.input(i, file) for name, i in graph.inputs.items()}
        nodes: dict[str, Node] = {}
        for name, node in graph.nodes.items():
            type_: NodeType | Graph = node.type
            if name in graph.unneeded:
                nodes[name] = node
                continue
            if isinstance(type_, Graph):
                type_ = self.rebound(type_, file_name(file, str(graph.spec.nodes[name].type.value)))
                self.check_models(node, type_, file)
            ports = node.inputs
            bindings = {
                port: self.bind(b, file, ports[port].type) for port, b in node.bindings.items()
            }
            nodes[name] = replace(node, type=type_, bindings=bindings)
        made = self.made[id(graph)] = replace(graph, inputs=inputs, nodes=nodes)
        return made

    def input(self, wanted: Input, file: str) -> Input:
        if wanted.default is None:
            return wanted
        if (
            file == self.text.file
            and isinstance(wanted.default, FileAt | Listed)
            and (wanted.name in self.said.inputs or wanted.name in self.given)
        ):
            return replace(
                wanted, default=None
            )  # it has its value, so nothing that the default names is looked for
        if (
            isinstance(wanted.default, Given)
            and wanted.default.value == RANDOM
            and wanted.type.seed
        ):
            drawn = self.said.seeds.get(f"{file}#{wanted.name}")
            return wanted if drawn is None else replace(wanted, default=Given(drawn))
        return replace(wanted, default=self.bind(wanted.default, file, wanted.type))

    def bind(self, binding: Binding, file: str, type_: PortType) -> Binding:
        if isinstance(binding, FileAt):
            return self.file_at(binding, file)
        if isinstance(binding, ModelAt):
            return self.model_at(binding, file)
        return rebound(binding, lambda one: self.bind(one, file, type_))

    def file_at(self, at: FileAt, file: str) -> Binding:
        """Settle what a path in a graph leads to; the binding stays as it is."""
        name = file_name(file, at.path)
        place = at.folder / Path(at.path).expanduser()
        given = self.take(at.path, name)
        if given is not None:
            self.allow(given, place)
            return at
        seen = self.said.files.get(name)
        if seen is None or seen.kind != at.kind:
            self.files.refused[place] = replace(
                Missing(at.path, at.kind, "").problem(), mark=at.mark
            )
        else:
            self.files.known[place] = self.at_hand(seen, at.path)
        return at

    def allow(self, given: str, instead_of: Path | None = None) -> None:
        """Let a path that the user named be read, and read instead of one that the graph names."""
        path = self.base / Path(given).expanduser()
        self.files.leads[path] = path
        if instead_of is not None:
            self.files.leads[instead_of] = path

    def model_at(self, at: ModelAt, file: str) -> Binding:
        if not _is_place(at.reference):
            return at
        given = self.take(at.reference, file_name(file, at.reference))
        if given is not None:
            return replace(
                at, reference=str(self.base / Path(given).expanduser()), folder=self.base
            )
        # its name says of what kind the small model is that stands for it; the place is not looked
        # at
        if self.tiny:
            return replace(
                at, reference=f"./{posixpath.basename(at.reference.rstrip('/'))}", folder=_NOWHERE
            )
        known = next(
            (m.fingerprint for m in self.said.models if m.reference == portable_name(at.reference)),
            "",
        )
        model = models.with_significant_name(
            at.loader, Model(_ABSENT, known or "unresolved", at.reference)
        )
        self.absent.setdefault(self.registry.codecs.digest(model), set()).add(
            Missing(at.reference, "model", known)
        )
        return Given(model)

    def take(self, *names: str) -> str | None:
        """Give what the user gave under one of these names."""
        for name in names:
            if name in self.given:
                self.used.add(name)
                return self.given[name]
        return None

    def at_hand(self, seen: FileSeen, name: str) -> File | Folder:
        """Give a file or folder by its content: from the store, or one that stands in for it."""
        found = self.find(seen)
        if found is not None:
            return found
        if seen.kind == "folder":
            files = tuple(File(_ABSENT / n, d, 0, n) for n, d in sorted(seen.files.items()))
            if folder_digest(files) != seen.digest:
                raise ProvenanceError(
                    f"the provenance is damaged or forged\n  = why: the folder '{name}' is not what"
                    " its digest says"
                )
            value: File | Folder = Folder(_ABSENT, seen.digest, files)
        else:
            value = File(_ABSENT, seen.digest, seen.size, seen.name)
        self.absent.setdefault(self.registry.codecs.digest(value), set()).add(
            Missing(name, seen.kind, seen.digest)
        )
        return value

    def find(self, seen: FileSeen) -> File | Folder | None:
        if self.store is None:
            return None
        if seen.kind == "folder":
            return self.store.find_folder(seen.digest)
        place = self.store.find_file(seen.digest, seen.size)
        return None if place is None else File(place, seen.digest, seen.size, seen.name)

    # -- models that are named by text

    def check_models(self, node: Node, inner: Graph, file: str) -> None:
        """Refuse places on the disk that come to a model port of an included graph as text."""
        for name in sorted(_model_inputs(inner)):
            wanted = inner.inputs[name]
            binding = node.bindings.get(name, wanted.default)
            for part in binding.items if isinstance(binding, Listed) else (binding,):
                if isinstance(part, FromNode | Joined):
                    self.problems.append(
                        Problem(
                            "bad-model",
                            "a value that nodes make would choose which model of this machine is"
                            f" opened ('{name}')",
                            node.mark,
                        )
                    )
                elif (
                    isinstance(part, Given)
                    and isinstance(part.value, str)
                    and _is_place(part.value)
                ):
                    self.problems.append(
                        replace(Missing(part.value, "model", "").problem(), mark=node.mark)
                    )

    # -- inputs

    def inputs(self, graph: Graph) -> dict[str, Any]:
        """Give the inputs their values: the user's, else the document's."""
        values: dict[str, Any] = {}
        naming = _model_inputs(graph)
        for name, wanted in graph.inputs.items():
            if name in self.given:
                self.used.add(name)
                try:
                    value = values[name] = from_text(wanted.type, self.given[name])
                    element = (
                        wanted.type.element
                        if wanted.type.kind == "list" and wanted.type.element
                        else wanted.type
                    )
                    if element.kind in ("file", "folder"):
                        for path in value if isinstance(value, list) else [value]:
                            self.allow(str(path))
                except BadValue as odd:
                    fix = nearest(odd.given, odd.known) if odd.known else ""
                    self.problems.append(Problem("bad-input", f"input '{name}' {odd}", fix=fix))
                continue
            seen = self.said.inputs.get(name)
            if seen is None:
                continue
            if seen.model is not None or (
                name in naming and isinstance(seen.value, str) and _is_place(seen.value)
            ):
                self.problems.append(Missing(name, "model", "").problem())
            else:
                values[name] = self.value(seen, name)
        for name in sorted(self.given.keys() - self.used):
            known = [*graph.inputs, *self.said.files]
            self.problems.append(
                Problem(
                    "unknown-input",
                    f"the picture's graph has no input or file '{name}'",
                    fix=nearest(name, known, what="it has"),
                )
            )
        return values

    def value(self, seen: InputSeen, name: str) -> Any:
        if seen.files is None:
            return seen.value
        found = [self.at_hand(f, name) for f in seen.files]
        return found if seen.type.startswith("list") else found[0] if found else None

    # -- the end

    def refuse(self) -> None:
        if self.problems:
            raise GraphError(self.problems)

    def missing(self, plan: Plan) -> Iterator[Missing]:
        """Name what is not available and would be read: by a step that is not in the store, or as
        an output itself.
        """
        if plan.at_least:  # there will be steps of which nothing is known yet
            yield from sorted({m for ms in self.absent.values() for m in ms}, key=lambda m: m.name)
            return
        wanted: set[str] = set()
        for artifact in plan.unread():
            wanted.update(_digests(artifact))
        yield from sorted(
            {m for d, ms in self.absent.items() if d in wanted for m in ms}, key=lambda m: m.name
        )


def _digests(artifact: Artifact) -> Iterator[str]:
    yield artifact.digest
    for item in artifact.items or ():
        yield from _digests(item)


def _is_place(reference: str) -> bool:
    """Whether a reference to a model is a path on this machine."""
    try:
        return models.parse_reference(reference).kind == "path"
    except models.BadReference:
        return os.sep in reference or reference.startswith((".", "~"))


def _model_inputs(graph: Graph) -> set[str]:
    """Name the inputs of a graph whose text comes to a port that takes a model, maybe in a graph
    within it.
    """
    found: set[str] = set()
    for node in graph.nodes.values():
        if isinstance(node.type, Graph):
            inner = _model_inputs(node.type)
            bound = [binding for port, binding in node.bindings.items() if port in inner]
        else:
            bound = list(_to_models(node, node.type))
        found.update(
            read.name for one in bound for read in readings(one) if isinstance(read, FromInput)
        )
    return found


def _to_models(node: Node, type_: NodeType) -> Iterator[Binding]:
    """Give what is bound to ports that take models, and to such fields of records."""
    for port, binding in node.bindings.items():
        wanted, record = type_.inputs[port].type, type_.records.get(port)
        if "model" in (wanted.kind, wanted.element and wanted.element.kind):
            yield binding
        for field in record.fields.values() if record is not None else ():
            if "model" in (field.type.kind, field.type.element and field.type.element.kind):
                is_first = record is not None and field is record.first
                yield from filter(None, fields_of(binding, field.name, is_first=is_first))


def _unneeded(graph: Graph, output: Output) -> frozenset[str]:
    """Name the nodes that one output does not need."""
    needed: set[str] = {output.source.node} if isinstance(output.source, FromNode) else set()
    for name in reversed(graph.nodes):
        if name in needed:
            needed.update(graph.nodes[name].after)
    return frozenset(graph.nodes.keys() - needed)


# -- comparing


def compare(then: Provenance, now: Provenance) -> Comparison:
    """Compare two documents of one output: whether the value is the same and, if not, which
    ingredients differ, the first one first.

    The order is that of the steps; within a step inputs come before models, models before plugins,
    plugins before libraries, libraries before device and dtype. A step
    that gives another result from the same ingredients is a drift of its own, with what differs
    about the machine.
    """
    identical = then.output.digest == now.output.digest
    return Comparison(identical, () if identical else tuple(_drifts(then, now)))


def _drifts(then: Provenance, now: Provenance) -> Iterator[Drift]:
    if then.provenance == "full" == now.provenance:
        yield from _input_drifts(then, now)
    fingerprints = {m.reference: m.fingerprint for m in now.models}
    for model in then.models:
        if fingerprints.get(model.reference, model.fingerprint) != model.fingerprint:
            yield Drift(
                "model",
                f"the model '{model.reference}'",
                model.fingerprint[:8],
                fingerprints[model.reference][:8],
            )
    before = {(s.node, s.item): s for s in then.steps}
    made_of = {d for s in then.steps for d in s.outputs.values()}
    told: set[tuple[str, ...]] = set()
    drifted = False
    for step in now.steps:
        old = before.get((step.node, step.item))
        if old is None:
            drifted = True
            yield Drift("graph", f"{step.node}{step.item} was no part of it", "absent", "a step")
            continue
        a, b = then.made_with[old.made_with], now.made_with[step.made_with]
        for drift in _maker_drifts(a, b, step.node):
            drifted = True
            if (drift.ingredient, drift.what) not in told:
                told.add((drift.ingredient, drift.what))
                yield drift
        if old.key == step.key and old.outputs != step.outputs:
            yield from _machine_drifts(then, now, old, step)
            return  # all that follows differs because of it
        ports = sorted(
            p
            for p in step.inputs
            if old.inputs.get(p) != step.inputs[p] and old.inputs.get(p) not in made_of
        )
        if ports and not drifted and then.provenance == "keys":
            yield Drift(
                "input",
                f"the input {' and '.join(ports)} of {step.node}{step.item}",
                "another value",
                "this one",
            )
    if now.output.index != then.output.index or now.output.name != then.output.name:
        yield Drift("output", "it is another output", f"{then.output.name}", f"{now.output.name}")


def _input_drifts(then: Provenance, now: Provenance) -> Iterator[Drift]:
    for name in sorted(then.inputs.keys() | now.inputs.keys()):
        a, b = then.inputs.get(name), now.inputs.get(name)
        if a is None or b is None:
            yield Drift(
                "input",
                f"the input '{name}'",
                "absent" if a is None else _shown(a),
                "absent" if b is None else _shown(b),
            )
        elif (a.value, [f.digest for f in a.files or ()], a.model) != (
            b.value,
            [f.digest for f in b.files or ()],
            b.model,
        ):
            kind = "seed" if name in then.seeds else "input"
            yield Drift(kind, f"the {kind} '{name}'", _shown(a), _shown(b))
    for name in sorted(then.files.keys() & now.files.keys()):
        if then.files[name].digest != now.files[name].digest:
            yield Drift(
                "file",
                f"the file '{name}'",
                then.files[name].digest[:8],
                now.files[name].digest[:8],
            )
    if then.graph and now.graph and then.graph.files != now.graph.files:
        yield Drift("graph", "the text of the graph differs", "", "")


def _maker_drifts(then: Any, now: Any, node: str) -> Iterator[Drift]:
    if then.type != now.type:
        yield Drift("plugin", f"the type of node '{node}'", then.type, now.type)
    elif then.version != now.version:
        yield Drift(
            "plugin",
            f"the version of the node type {now.type}",
            str(then.version),
            str(now.version),
        )
    elif then.source != now.source:
        yield Drift(
            "plugin",
            f"the source of the plugin that offers {now.type}",
            then.source[:8],
            now.source[:8],
        )
    for library in sorted(then.uses.keys() | now.uses.keys()):
        if then.uses.get(library) != now.uses.get(library):
            yield Drift(
                "library",
                f"the library {library}",
                then.uses.get(library, "absent"),
                now.uses.get(library, "absent"),
            )
    for word in sorted((then.determinism or {}).keys() | (now.determinism or {}).keys()):
        a, b = (then.determinism or {}).get(word), (now.determinism or {}).get(word)
        if a != b:
            yield Drift("device", f"the {word}", str(a), str(b))


def _machine_drifts(then: Provenance, now: Provenance, old: Any, new: Any) -> Iterator[Drift]:
    """Say what differs about the machine, where a step made something else of the same ingredients."""
    a = then.conditions[old.conditions] if old.conditions is not None and then.conditions else {}
    b = now.conditions[new.conditions] if new.conditions is not None and now.conditions else {}
    words = [w for w in sorted(a.keys() & b.keys()) if a[w] != b[w]]
    for word in words:
        yield Drift("machine", f"{word} where {new.node} ran", str(a[word]), str(b[word]))
    if old.rungs != new.rungs:
        yield Drift(
            "machine",
            f"what was done for lack of memory at {new.node}",
            ", ".join(old.rungs) or "nothing",
            ", ".join(new.rungs) or "nothing",
        )
    yield Drift(
        "result", f"{new.node}{new.item} gives another result from the same ingredients", "", ""
    )


def _shown(seen: InputSeen) -> str:
    if seen.files is not None:
        return ", ".join(f"{f.name} ({f.digest[:8]})" for f in seen.files)
    text = seen.model if seen.model is not None else repr(seen.value)
    return text if len(text) <= 60 else text[:57] + "…"
