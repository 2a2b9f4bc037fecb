"""The values that a plan is made with: literals, inputs, files and models, and what bindings give
of them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
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
    Place,
    RecordOf,
    element_of,
)
from .._plugins.registry import Registry
from .._store import Damaged, Store
from .._store.file_digests import FileDigests
from .._types.artifact import Artifact
from .._types.codec import Codecs
from .._types.models import Model
from .._types.ports import BadValue, Port, PortType, is_exact_float
from .._types.values import Absent, File, FileChanged, Folder
from ..errors import MAX_PROBLEMS, GraphError, Problem, nearest
from .named_models import NamedModels
from .step import (
    ABSENT,
    DROPPED,
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

__all__ = ["Constants", "Values", "derived_seed", "drawn_seed", "is_drawn"]

_MISSING = object()
_NOWHERE: Any = None


class Constants:
    """Values that a plan brings along: literals, inputs, files. By digest."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self.by_digest: dict[str, Any] = {ABSENT.digest: Absent.value, DROPPED.digest: Absent.value}

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
        model_policy: models.ModelPolicy = models.STRICT,
    ) -> None:
        self.registry = registry
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
        #: Files and folders that were given to inputs, each as itself, by item and input: two of
        # equal content are one constant.
        self.given: dict[tuple[str, str], Any] = {}
        #: Seeds that included graphs drew for themselves, by node and input.
        self.drawn: dict[str, int] = {}
        #: What is wrong with what the graphs name.
        self.problems: list[Problem] = []
        self.models = NamedModels(registry, files, model_policy, self.problems)
        self._unread = 0
        self._held: dict[int, tuple[Any, Artifact]] = {}
        #: Files without their names, by the digests with them.
        self._nameless: dict[str, Artifact] = {}
        #: Files of nodes with their names, by the digests without them: their values are in the
        # store under these.
        self.named: dict[str, Artifact] = {}

    def copy(self, store: Store | None, live: Mapping[str, Any]) -> Values:
        """Copy them for a run, which learns more."""
        made = Values(
            self.registry, store, self.files, base=self.base, model_policy=self.models.model_policy
        )
        made.constants, made.live = self.constants.copy(), live
        made.given, made.drawn, made.problems = (
            dict(self.given),
            dict(self.drawn),
            list(self.problems),
        )
        made.models = self.models.copy(made.problems)
        made._held = dict(self._held)
        made._nameless, made.named = dict(self._nameless), dict(self.named)
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
        if found is _MISSING and (named := self.named.get(artifact.digest)) is not None:
            return replace(self.value(named), significant_name="")
        return self.fetch(artifact) if found is _MISSING else found

    def model_of(self, artifact: Artifact) -> Model | None:
        """Give the model that an artifact is, if it is one that the plan knows."""
        found = self.constants.by_digest.get(artifact.digest)
        return found if isinstance(found, Model) else None

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
        held = self._held.get(id(binding))
        if held is not None:
            return held[1]
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
        constant = self._constant(binding)
        self._held[id(binding)] = (binding, constant)
        return constant

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

    def element(self, frame: Frame, node: Node, port: str, element: Place | None) -> Slot:
        """Work out what a node's port is given, for one element of its `each`."""
        binding = node.bindings[port]
        if port not in node.each:
            return self.bind(frame, binding)
        if element is None:  # it is not known yet how many there are
            return Unknown((frame.full(node.name),))
        place = element[: node.each[port]]
        if isinstance(binding, PerElement):
            return self.bind(frame, element_of(binding, place))
        while place and isinstance(binding, Listed):
            binding, place = binding.items[place[0]], place[1:]
        slot = self.bind(frame, binding)
        for index in place:
            if isinstance(slot, Unknown) or slot.items is None:
                break
            slot = slot.items[index]
        return slot

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
                binding.loader, self.models.resolve(binding.reference, binding.folder, binding.mark)
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
            return replace(self.files.file_value(path, at.path), significant_name=path.name)
        except (OSError, ValueError, RuntimeError, FileChanged) as failed:
            self._unread += 1
            raise GraphError(
                [_unreadable(at, path, failed, list_files=self._unread <= MAX_PROBLEMS)]
            ) from failed

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
                raise BadValue(
                    f"takes only text, numbers and booleans inside text, not {slot.kind}"
                )
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
                    self.constants.add(drawn_seed()),
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
                    port.type.loader, self.models.resolve(default, Path(), None)
                )
            held = self._held[id(port)] = (port, self.constants.add(default))
        return held[1]

    def converted(self, slot: Artifact, port: PortType) -> Artifact:
        """A whole number into a port of numbers is that number. One that a float would round stays
        what it is: the port refuses it when the node is called.
        """
        if slot.items is not None and port.kind == "list" and port.element is not None:
            items = [self.converted(item, port.element) for item in slot.items]
            if any(a is not b for a, b in zip(items, slot.items, strict=True)):
                slot = list_of(items)
        elif slot.kind == "int" and port.kind == "float" and is_exact_float(self.value(slot)):
            return self.constants.add(float(self.value(slot)))
        elif slot.kind == "file" and port.drops_names:
            return self._without_name(slot)
        return present(slot)

    def _without_name(self, slot: Artifact) -> Artifact:
        """A file at a port that takes no names: files of equal content are one value there."""
        plain = self._nameless.get(slot.digest)
        if plain is None:
            file = self.value(slot)
            plain = slot
            if isinstance(file, File) and file.significant_name:
                file = replace(file, significant_name="")
                if slot.digest in self.constants.by_digest:
                    plain = self.constants.add(file)
                else:
                    plain = self.codecs.artifact(file)
                    self.named.setdefault(plain.digest, slot)
            self._nameless[slot.digest] = plain
        return plain

    def reread(self, tops: Iterable[Frame], step: Step) -> bool:
        """Digest anew all files and models that the graphs name and that were given to them; give
        whether those that a step reads are others now.

        All, since files of equal content are one value: which of them has changed, a step cannot
        tell. One that is gone stays as it was: who reads it says so.
        """
        known: set[str] = set()
        self.models.forget_changed()
        for at, (binding, artifact) in list(self._held.items()):
            if isinstance(binding, FileAt):
                with contextlib.suppress(GraphError):
                    artifact = self.constants.add(self.read_path(binding))
            elif isinstance(binding, ModelAt):
                artifact = self._constant(binding)
            else:
                continue
            self._held[at] = (binding, artifact)
            known.update(self._digests(artifact))
        for top in tops:
            for name, wanted in top.graph.inputs.items():
                if (top.item, name) in self.given:
                    again = self._again(self.given[top.item, name])
                    self.given[top.item, name] = again
                    top.inputs[name] = self.constants.add(again)
                elif not isinstance(wanted.default, Given) and wanted.default is not None:
                    top.inputs[name] = self.converted(self.default(wanted), wanted.type)
                known.update(self._digests(top.inputs[name]))
        read = {leaf.digest for slot in (step.slots or {}).values() for leaf in leaves(slot)}
        held = [self.constants.by_digest.get(digest) for digest in read - known]
        return any(
            isinstance(value, File | Folder)
            or (isinstance(value, Model) and not models.is_unchanged(value))
            for value in held
        )

    def _digests(self, slot: Artifact) -> Iterator[str]:
        """Give the digests of a value's leaves, of files also without their names."""
        for leaf in leaves(slot):
            yield leaf.digest
            if leaf.kind == "file":
                yield self._without_name(leaf).digest

    def _again(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._again(item) for item in value]
        with contextlib.suppress(OSError, ValueError, FileChanged):
            return (
                self.files.folder_value(value.path)
                if isinstance(value, Folder)
                else replace(
                    self.files.file_value(value.path, value.name),
                    significant_name=value.significant_name,
                )
            )
        return value


def drawn_seed() -> int:
    """Draw a seed."""
    return int.from_bytes(os.urandom(4), "big")


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
                "it was searched for as"
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
