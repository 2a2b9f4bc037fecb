"""The values that a plan is made with: literals, inputs, files and models, and what bindings give
of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .. import _models as models
from .._graph import (
    RANDOM,
    Binding,
    ElementOf,
    FileAt,
    FromInput,
    FromNode,
    Given,
    Input,
    Joined,
    Listed,
    Mapped,
    ModelAt,
    Node,
    PerElement,
    RecordOf,
    element_of,
    parts_of,
)
from .._plugins.registry import Registry
from .._settings.devices import Policy
from .._store import Damaged, Store
from .._store.file_digests import FileDigests
from .._types.artifact import Artifact
from .._types.codec import Codecs
from .._types.models import Loader, Model, name_of
from .._types.node import NodeType
from .._types.ports import BadValue, Port, PortType
from .._types.values import Absent, File, FileChanged, Folder
from ..errors import MAX_PROBLEMS, GraphError, Mark, ModelError, Problem, nearest
from .step import (
    ABSENT,
    FAILED,
    Frame,
    Slot,
    Step,
    Unknown,
    holds,
    leaves,
    list_of,
    listed,
    present,
    record_of,
    together,
)

__all__ = ["Constants", "Values", "derived_seed", "is_drawn"]

_MISSING = object()
_NOWHERE: Any = None


class Constants:
    """Values that a plan brings along: literals, inputs, files. By digest."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self.by_digest: dict[str, Any] = {ABSENT.digest: Absent.value}

    def copy(self) -> Constants:
        made = Constants(self.codecs)
        made.by_digest = dict(self.by_digest)
        return made

    def add(self, value: Any) -> Artifact:
        artifact = self.codecs.artifact(value)
        if artifact.items is None:
            self.by_digest[artifact.digest] = value
        else:
            self._remember(artifact, value)
        return artifact

    def _remember(self, artifact: Artifact, value: Any) -> None:
        if artifact.items is not None:
            for item, element in zip(artifact.items, value, strict=True):
                self._remember(item, element)
        else:
            self.by_digest[artifact.digest] = value


class Values:
    """Gives the values that planning needs, and what bindings give in a frame."""

    def __init__(
        self,
        registry: Registry,
        store: Store | None,
        files: FileDigests,
        *,
        base: Path,
        terms: models.Terms = models.STRICT,
    ) -> None:
        self.registry = registry
        self.terms = terms
        #: The folder that paths given to the graph's inputs are relative to.
        self.base = base
        self.store = store
        self.files = files
        self.codecs = registry.codecs
        self.constants = Constants(self.codecs)
        #: Live values of outputs; filled by the runner.
        self.live: Mapping[str, Any] = {}
        #: Where a value comes from that is not available; the runner makes lost ones again.
        self.fetch: Callable[[Artifact], Any] = self.load
        # : Files and folders that were given to inputs, each as itself: two of equal content are
        # one constant.
        self.given: dict[str, Any] = {}
        #: Seeds that included graphs drew for themselves, by node and input.
        self.drawn: dict[str, int] = {}
        self.models: dict[tuple[str, Path], Model | Problem] = {}
        #: What is wrong with models that are named.
        self.problems: list[Problem] = []
        self._unread = 0
        self._held: dict[int, tuple[Any, Artifact]] = {}
        #: What of a model its steps lease, and the loader of each, by the model's fingerprint.
        self.leased: dict[str, dict[models.Identity, tuple[Any, Model]]] = {}
        self._checked: dict[tuple[Any, ...], str] = {}

    def copy(self, store: Store | None, live: Mapping[str, Any]) -> Values:
        """Copy them for a run, which learns more."""
        made = Values(self.registry, store, self.files, base=self.base, terms=self.terms)
        made.constants, made.live = self.constants.copy(), live
        made.given, made.drawn, made.models, made.problems = (
            dict(self.given),
            dict(self.drawn),
            dict(self.models),
            list(self.problems),
        )
        made._held, made._checked = dict(self._held), dict(self._checked)
        made.leased = {digest: dict(leased) for digest, leased in self.leased.items()}
        return made

    def value(self, artifact: Artifact) -> Any:
        """Give a small value that planning itself needs (a flag, a number in a text).

        Raises:
            Damaged: the store held it and no longer does.
        """
        if artifact.items is not None:
            items = [self.value(item) for item in artifact.items]
            return dict(zip(artifact.fields, items, strict=True)) if artifact.fields else items
        found = self.constants.by_digest.get(artifact.digest, _MISSING)
        if found is _MISSING:
            found = self.live.get(artifact.digest, _MISSING)
        return self.fetch(artifact) if found is _MISSING else found

    def load(self, artifact: Artifact) -> Any:
        if self.store is None:
            raise Damaged(artifact, "is in no store")
        return self.store.load(artifact)

    def bind(self, frame: Frame, binding: Binding) -> Slot:
        """Work out what a binding gives in this frame."""
        if isinstance(binding, FromNode):
            state = frame.states.get(binding.node)
            if state is None:
                return Unknown((frame.full(binding.node),))
            slot: Slot | None = state.outputs.get(binding.port)
            if slot is None:
                slot = (state.pending and state.pending.get(binding.port)) or Unknown(
                    (frame.full(binding.node),)
                )
            return slot
        if isinstance(binding, FromInput):
            return frame.inputs.get(binding.name) or self.input(frame, binding.name)
        if isinstance(binding, Joined):
            return self._joined(frame, binding)
        if isinstance(binding, Listed):
            return listed([self.bind(frame, item) for item in binding.items])
        if isinstance(binding, Mapped):
            return self._mapped(frame, binding)
        if isinstance(binding, RecordOf):
            fields = together([self.bind(frame, item) for _, item in binding.fields])
            names = [name for name, _ in binding.fields]
            return (
                fields
                if isinstance(fields, Unknown)
                else record_of(zip(names, fields, strict=True))
            )
        if isinstance(binding, ElementOf):
            slot = self.bind(frame, binding.of)
            if isinstance(slot, Unknown) or slot.items is None or binding.index is None:
                return slot
            return slot.items[binding.index]
        if isinstance(binding, PerElement):  # it is not known yet how many elements there are
            return self.bind(frame, binding.each)
        # What is left depends on no frame.
        held = self._held.get(id(binding))
        if held is None:
            held = self._held[id(binding)] = (binding, self._constant(binding))
        return held[1]

    def input(self, frame: Frame, name: str, *, check: bool = False) -> Slot:
        """Work out the value of an included graph's input: what its node is given there, or the
        default.

        Raises:
            BadValue: with `check`, it is out of the input's bounds.
        """
        assert frame.parent is not None, "the inputs of the graph itself are known"
        outer, node = frame.parent
        wanted = frame.graph.inputs[name]
        slot = self.element(outer, node, name, frame.element) if name in node.bindings else ABSENT
        if isinstance(slot, Unknown):
            return slot
        if slot.kind == "absent" and wanted.default is not None:
            slot = self.default(wanted)
            frame.by_default.add(name)
            if is_drawn(wanted):
                self.drawn[f"{outer.full(node.name)}/{name}"] = self.value(slot)
        if wanted.type.seed and frame.repetition is not None and slot.kind == "int":
            slot = self.constants.add(derived_seed(self.value(slot), str(frame.repetition)))
        slot = self.converted(slot, wanted.type)
        if check and slot.kind not in ("absent", "failed") and not holds(slot, "failed"):
            try:
                wanted.type.check(self.value(slot))
            except BadValue as error:
                raise BadValue(f"gives a value to '{name}', which {error}") from None
        frame.inputs[name] = slot
        return slot

    def element(self, frame: Frame, node: Node, port: str, element: int | None) -> Slot:
        """Work out what a node's port is given, for one element of its `each`."""
        binding = node.bindings[port]
        if port not in node.each:
            return self.bind(frame, binding)
        if element is None:  # it is not known yet how many there are
            return Unknown((frame.full(node.name),))
        if isinstance(binding, Listed | PerElement):
            return self.bind(frame, element_of(binding, element))
        slot = self.bind(frame, binding)
        return (
            slot.items[element] if isinstance(slot, Artifact) and slot.items is not None else slot
        )

    def held(self, binding: Binding | None) -> Artifact | None:
        """What a binding that depends on no frame gave, if it was asked."""
        found = self._held.get(id(binding))
        return None if found is None else found[1]

    def _constant(self, binding: Given | FileAt | ModelAt) -> Artifact:
        if isinstance(binding, Given):
            return self.constants.add(binding.value)
        if isinstance(binding, FileAt):
            return self.constants.add(self.read_path(binding))
        return self.constants.add(
            models.with_significant_name(
                binding.loader, self.model(binding.reference, binding.folder, binding.mark)
            )
        )

    def read_path(self, at: FileAt) -> File | Folder:
        """Digest a file or folder that a graph names.

        Raises:
            GraphError: it is not there, or cannot be read.
        """
        path = at.folder / at.path
        try:
            path = at.folder / Path(at.path).expanduser()
            if at.kind == "folder":
                return self.files.folder_value(path)
            return self.files.file_value(path, at.path)
        except (OSError, ValueError, RuntimeError, FileChanged) as failed:
            self._unread += 1
            raise GraphError(
                [_unreadable(at, path, failed, list_files=self._unread <= MAX_PROBLEMS)]
            ) from failed

    def model(self, reference: str, folder: Path, mark: Mark | None) -> Model:
        """Resolve a model reference; one that is not on this machine gets an empty digest and is a
        problem of the plan.
        """
        found = self.models.get((reference, folder))
        if found is None:
            embedded = self.registry.models if reference.startswith("embedded/") else {}
            try:
                found = models.resolve(
                    reference,
                    folder=folder,
                    embedded=embedded,
                    digest=self.files.digest_file,
                    terms=self.terms,
                    base_of=self.registry.base_of,
                )
            except (models.BadReference, models.UnresolvedModel, models.UnusableModel) as missing:
                found = missing.problem(mark)
                self.problems.append(found)
            self.models[reference, folder] = found
        return (
            found if isinstance(found, Model) else Model(Path(reference), "unresolved", reference)
        )

    def unusable(
        self,
        artifact: Artifact,
        loader: Loader[Any],
        port: str,
        given: Mapping[str, Model],
        node: Node,
        policy: Callable[[Node], Policy],
    ) -> str:
        """Say why a step cannot run with a model at a port, given those at its other ports: it is
        not here, it is of a kind that the step's loader refuses, or it cannot be loaded as the
        step's policy says; the last two are problems of the plan. Nothing if it can.
        """
        model = self.constants.by_digest.get(artifact.digest)
        if not isinstance(model, Model):
            return ""
        if model.digest == "unresolved":
            return "its model is not on this machine"
        at = (artifact.digest, loader, id(node), *(one.digest for one in given.values()))
        if at not in self._checked:
            here = {name: one for name, one in given.items() if one.digest != "unresolved"}
            self._checked[at] = self._of_another_kind(model, loader, node) or self._unfit(
                loader, port, {**here, port: model}, node, policy(node)
            )
        return self._checked[at]

    def _unfit(
        self, loader: Loader[Any], port: str, given: Mapping[str, Model], node: Node, policy: Policy
    ) -> str:
        """Ask a loader whether it can load a model under a policy, and note what it would lease."""
        place: dict[str, Any] = {
            "device": policy.device,
            "dtype": policy.dtype,
            "settings": policy.settings,
        }
        try:
            fitted = models.with_replaced_parts(loader, port, given)
            models.check_support(loader, fitted, **place)
        except ModelError as refused:
            self.problems.append(
                Problem(
                    "bad-model",
                    str(refused),
                    node.mark,
                    why=getattr(refused, "why", ""),
                    fix=getattr(refused, "fix", ""),
                )
            )
            return "its model cannot be loaded so"
        for leaf in models.leaves(loader, fitted):
            read = set(leaf.folders(fitted) or ()) if fitted.replaced_parts else set()
            of = next((other for name, other in fitted.replaced_parts if name in read), given[port])
            self.leased.setdefault(of.digest, {})[models.identity_of(leaf, fitted, **place)] = (
                leaf,
                fitted,
            )
        return ""

    def _of_another_kind(self, model: Model, loader: Loader[Any], node: Node) -> str:
        at = (name_of(loader), model.digest)
        if at not in self._checked:
            self._checked[at] = ""
            try:
                loader.check(model)
            except models.UnresolvedModel as missing:
                self._checked[at] = "its model is not on this machine"
                if all(problem.message != str(missing) for problem in self.problems):
                    self.problems.append(missing.problem(node.mark))
            except ModelError as refused:
                self._checked[at] = "its model is of another kind"
                self.problems.append(
                    Problem(
                        "bad-model",
                        str(refused),
                        node.mark,
                        why=getattr(refused, "why", ""),
                        fix=getattr(refused, "fix", ""),
                    )
                )
        return self._checked[at]

    def _joined(self, frame: Frame, binding: Joined) -> Slot:
        """Make a text of what stands in it. The first value in it that is absent or failed decides
        about the whole.
        """
        slots = [
            part if isinstance(part, str) else self.bind(frame, part) for part in binding.parts
        ]
        if any(isinstance(slot, Unknown) for slot in slots):
            return Unknown(
                tuple(
                    dict.fromkeys(
                        a for slot in slots if isinstance(slot, Unknown) for a in slot.after
                    )
                )
            )
        texts: list[str] = []
        for slot in slots:
            if isinstance(slot, str):
                texts.append(slot)
            elif isinstance(slot, Unknown) or slot.kind in ("absent", "failed"):
                return slot
            elif slot.kind not in ("text", "int", "float", "bool"):
                raise BadValue(f"takes text, numbers and truth values inside text, not {slot.kind}")
            else:
                texts.append(_as_text(self.value(slot)))
        return self.constants.add("".join(texts))

    def _mapped(self, frame: Frame, binding: Mapped) -> Slot:
        """Make a mapping of what stands in it: a failed value anywhere in it fails the whole, an
        absent one is null, an absent element of a list in it is left out.
        """
        found: dict[str, Any] = {}
        waits: list[str] = []
        failed = False
        for name, item in binding.items:
            slot = self.bind(frame, item)
            if isinstance(slot, Unknown):
                waits += slot.after
            elif slot.kind == "failed" or holds(slot, "failed"):
                failed = True
            elif slot.kind == "absent":
                found[name] = None
            else:
                slot = present(slot)
                other = next(
                    (
                        leaf.kind
                        for leaf in leaves(slot)
                        if leaf.kind not in ("json", "text", "int", "float", "bool")
                    ),
                    None,
                )
                if other is not None:
                    raise BadValue(f"takes JSON data, not {other}")
                found[name] = self.value(slot)
        if waits:
            return Unknown(tuple(dict.fromkeys(waits)))
        return FAILED if failed else self.constants.add(found)

    def default(self, wanted: Input) -> Artifact:
        """Give an input's default; a seed that is `random` is drawn, once for the plan."""
        binding = wanted.default
        if is_drawn(wanted):
            held = self._held.get(id(binding))
            if held is None:
                held = self._held[id(binding)] = (
                    binding,
                    self.constants.add(secrets.randbelow(2**32)),
                )
            return held[1]
        assert binding is not None
        slot = self.bind(_NOWHERE, binding)
        assert isinstance(slot, Artifact)
        return slot

    def port_default(self, port: Port) -> Artifact:
        held: tuple[Any, Artifact] | None = self._held.get(id(port))
        if held is None:
            default = port.default
            if port.type.kind == "model" and isinstance(default, str):
                default = models.with_significant_name(
                    port.type.loader, self.model(default, Path(), None)
                )
            held = self._held[id(port)] = (port, self.constants.add(default))
        return held[1]

    def named(
        self,
        frame: Frame,
        binding: Binding | None,
        slot: Artifact,
        node: Node,
        loader: Loader[Any] | None,
    ) -> Artifact:
        """An input's text into a port of models names a model."""
        if slot.items is not None:
            bindings = binding.items if isinstance(binding, Listed) else [binding] * len(slot.items)
            return list_of(
                [
                    self.named(frame, one, item, node, loader)
                    for one, item in zip(bindings, slot.items, strict=True)
                ]
            )
        return (
            self.constants.add(
                models.with_significant_name(
                    loader, self.model(self.value(slot), self._home(frame, binding), node.mark)
                )
            )
            if slot.kind == "text"
            else slot
        )

    def in_records(
        self, frame: Frame, binding: Binding | None, slot: Artifact, port: PortType, node: Node
    ) -> Artifact:
        """Complete the records that a port of records receives: a value that is none is a first
        field, and a field that is left out or absent has its default. A field that has none stays
        absent.
        """
        if slot.kind in ("absent", "failed") or (port.optional and self._is_nothing(slot)):
            return slot
        if port.element is not None:
            items = slot.items
            if items is None:  # it is refused when the node is called
                return slot
            bindings = binding.items if isinstance(binding, Listed) else [binding] * len(items)
            return list_of(
                [
                    self.in_records(frame, one, item, port.element, node)
                    for one, item in zip(bindings, items, strict=True)
                    if item.kind != "absent"
                ]
            )
        record = port.record
        if record is None:
            return slot
        if slot.kind == "record":
            given = dict(zip(slot.fields, slot.items or (), strict=True))
            bound = dict(binding.fields) if isinstance(binding, RecordOf) else {}
        else:
            given = {record.first.name: slot}
            bound = {record.first.name: binding} if binding is not None else {}
        fields: list[tuple[str, Artifact]] = []
        for name, field in record.fields.items():
            one = given.get(name, ABSENT)
            if one.kind == "absent" and not field.required:
                one = self.port_default(field)
            elif one.kind != "failed":
                if field.type.lends is not None:
                    one = self.named(frame, bound.get(name), one, node, field.type.lends)
                one = self.converted(one, field.type)
            fields.append((name, one))
        return record_of(fields)

    def models_at(self, frame: Frame, node: Node, type_: NodeType, port: str) -> Artifact | None:
        """Give what is known of a port that takes models, or records with models: as much of the
        records as is written, whatever else of them is not known yet.
        """
        binding, wanted = node.bindings.get(port), type_.inputs[port]
        if binding is None:
            return None if wanted.required else self.port_default(wanted)
        written: Sequence[Binding] = (binding,)
        if port in node.each and isinstance(binding, Listed | PerElement):
            written = parts_of(binding)
        is_list = written == (binding,) and port in node.each
        found: list[Artifact] = []
        for one in written:
            if port in type_.records:
                one = _with_models_alone(one, wanted.type)
            slot = self.bind(frame, one)
            if isinstance(slot, Unknown):
                continue
            for item in (slot.items or ()) if is_list else (slot,):
                if item.kind in ("absent", "failed"):
                    continue
                if port in type_.records:
                    found.append(self.in_records(frame, one, item, wanted.type, node))
                else:
                    found.append(self.named(frame, one, item, node, type_.loaders[port]))
        return found[0] if len(found) == 1 else list_of(found) if found else None

    def _is_nothing(self, slot: Artifact) -> bool:
        return slot.kind == "json" and self.constants.by_digest.get(slot.digest, ABSENT) is None

    def _home(self, frame: Frame, binding: Binding | None) -> Path:
        """The folder that a path in a text starts from: that of the graph in which it is written,
        or `base` if it was given from outside.
        """
        while isinstance(binding, ElementOf):
            binding = binding.of
        while isinstance(binding, FromInput) and binding.name not in frame.by_default:
            if frame.parent is None:
                return self.base
            name, element = binding.name, frame.element
            frame, node = frame.parent
            binding = node.bindings.get(name)
            if name in node.each and binding is not None:
                binding = element_of(binding, element)
        return frame.graph.folder

    def converted(self, slot: Artifact, port: PortType) -> Artifact:
        """A whole number into a port of numbers is that number."""
        if slot.items is not None and port.kind == "list" and port.element is not None:
            items = [self.converted(item, port.element) for item in slot.items]
            if any(a is not b for a, b in zip(items, slot.items, strict=True)):
                slot = list_of(items)
        elif slot.kind == "int" and port.kind == "float":
            return self.constants.add(float(self.value(slot)))
        return present(slot)

    def reread(self, top: Frame, step: Step) -> bool:
        """Digest anew all files and models that the graphs name and that were given to them; give
        whether those that a step reads are others now.

        All, since files of equal content are one value: which of them has changed, a step cannot
        tell. One that is gone stays as it was: who reads it says so.
        """
        known: set[str] = set()
        for named, model in list(self.models.items()):
            if isinstance(model, Model) and not models.is_unchanged(model):
                del self.models[named]
        for at, (binding, artifact) in list(self._held.items()):
            if isinstance(binding, FileAt):
                with contextlib.suppress(GraphError):
                    artifact = self.constants.add(self.read_path(binding))
            elif isinstance(binding, ModelAt):
                artifact = self._constant(binding)
            else:
                continue
            self._held[at] = (binding, artifact)
            known.add(artifact.digest)
        for name, wanted in top.graph.inputs.items():
            if name in self.given:
                self.given[name] = self._again(self.given[name])
                top.inputs[name] = self.constants.add(self.given[name])
            elif not isinstance(wanted.default, Given) and wanted.default is not None:
                top.inputs[name] = self.converted(self.default(wanted), wanted.type)
            known.update(leaf.digest for leaf in leaves(top.inputs[name]))
        read = {leaf.digest for slot in (step.slots or {}).values() for leaf in leaves(slot)}
        held = [self.constants.by_digest.get(digest) for digest in read - known]
        return any(
            isinstance(value, File | Folder)
            or (isinstance(value, Model) and not models.is_unchanged(value))
            for value in held
        )

    def _again(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._again(item) for item in value]
        with contextlib.suppress(OSError, ValueError, FileChanged):
            return (
                self.files.folder_value(value.path)
                if isinstance(value, Folder)
                else self.files.file_value(value.path, value.name)
            )
        return value


def _with_models_alone(binding: Binding, port: PortType) -> Binding:
    """Leave out of written records the fields that take no model."""
    if isinstance(binding, Listed):
        element = port.element or port
        return Listed(tuple([_with_models_alone(item, element) for item in binding.items]))
    if not isinstance(binding, RecordOf) or port.record is None:
        return binding
    fields = port.record.fields
    return RecordOf(tuple([(n, b) for n, b in binding.fields if fields[n].type.lends is not None]))


def derived_seed(seed: int, label: str) -> int:
    """Derive a seed that has nothing to do with the first but always comes out the same: H(seed,
    label), 63 bits.
    """
    return int.from_bytes(blake2b(f"{seed}\0{label}".encode(), digest_size=8).digest(), "big") >> 1


def is_drawn(wanted: Input) -> bool:
    """Whether an input's default is a seed that is drawn for every plan."""
    return wanted.type.seed and isinstance(wanted.default, Given) and wanted.default.value == RANDOM


def _as_text(value: Any) -> str:
    """Format a value inside text: text as it is, numbers shortest, truth values as in the graph
    file.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _unreadable(at: FileAt, path: Path, failed: Exception, *, list_files: bool) -> Problem:
    if re.match(r"[a-z][a-z0-9+.-]+://", at.path, re.IGNORECASE):
        why = f"nothing is downloaded: a graph reads {at.kind}s of this machine"
        return Problem(
            "missing-file",
            f"'{at.path}' is an address, not a {at.kind}",
            at.mark,
            why=why,
            fix=f"download it first, and give the path of the {at.kind}",
        )
    missing = False
    with contextlib.suppress(OSError):  # a name that is too long, a folder that is closed
        missing = not path.exists()
    if missing:
        near = nearest(
            path.name,
            (p.name for p in path.parent.iterdir()) if list_files and path.parent.is_dir() else (),
        )
        return Problem(
            "missing-file",
            f"there is no {at.kind} '{at.path}'",
            at.mark,
            why=(
                "it was looked for as"
                f" {os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}"
            ),
            fix=near if near.startswith("did") else "",
        )
    why = failed.strerror if isinstance(failed, OSError) and failed.strerror else str(failed)
    return Problem(
        "missing-file",
        f"the {at.kind} '{at.path}' cannot be read",
        at.mark,
        why=why[:1].lower() + why[1:],
    )
