"""Key every step, ask the store, and say why the rest must run. Nothing runs here, torch is not imported, the network is not used.

A **step** is one node for one item. Its key is over what it would compute from: see `KEY_FORMAT`. Inputs enter by the digest of their *values*, so planning walks
as far as digests are known; beyond a step that must run it can only say *waits*: whether the next one runs depends on what comes out.

The same walk serves the run. `Planner.settle` works out a node's steps from what is known now; the runner runs what must run, and settles again. A graph used as a node has a
`Frame` of its own: one for each element or repetition, with its own node states.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from . import devices, models
from .artifact import Artifact
from .codec import Codecs
from .digest import SIZE, canonical, digest_value, tagged
from .errors import GraphError, ImagenFlowError, Mark, Problem, nearest
from .filememo import FileMemo
from .graph import RANDOM, Binding, FileAt, FromInput, FromNode, Given, Graph, Input, Joined, Listed, Mapped, ModelAt, Node
from .node import NodeType
from .plugins import Registry
from .ports import BadValue, Port, PortType
from .store import Damaged, Store
from .values import Absent, File, FileChanged, Folder, Model

__all__ = ["KEY_FORMAT", "Frame", "Plan", "Planner", "Step", "Unknown", "from_text", "make_plan"]

#: The version of what enters a key. Raise it when that changes: every stored step is then computed anew.
#:
#: key = H(KEY_FORMAT, node type, node version, digest of the plugin's source, versions of the libraries in `uses`, determinism class) followed by
#: (port, value digest) for every input port in alphabetical order: literals, defaults, references and models alike. So it makes no difference how a value came to a port.
KEY_FORMAT = 1

ABSENT = Artifact(digest_value(Absent.value), "absent")

#: The value of an output whose step failed. It flows like an absent one, but nothing takes its place.
FAILED = Artifact(tagged("failed"), "failed")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known yet: it comes `after` these nodes have run."""

    after: tuple[str, ...]


Slot = Artifact | Unknown


class FailedStep(ImagenFlowError):
    """A node's steps cannot be worked out, e.g. because its lists differ in length; `problems` are those of the files that it names."""

    step: Step

    def __init__(self, frame: Frame, node: Node, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.frame = frame
        self.node = node
        self.problems = tuple(problems)


@dataclass(slots=True, eq=False)
class Step:
    """One node for one item.

    `status`: *cached* (the store has it), *runs*, *waits* (it cannot be said yet), *absent* (it will have no value), *idle* (not cached, and not needed),
    *unresolved* (its model is not on this machine), *failed* (it cannot be worked out), *skipped* (what it needs failed); after a run also *ran*.
    """

    name: str
    item: str
    node: Node
    frame: Frame
    index: int | None
    status: str
    reason: str = ""
    key: str | None = None
    slots: dict[str, Artifact] | None = None
    outputs: dict[str, Artifact] | None = None

    @property
    def type_name(self) -> str:
        """The name of the step's node type."""
        return self.node.type.name  # of a node type, or of a graph whose steps are not known yet


@dataclass(slots=True, eq=False)
class NodeState:
    """What is known of a node in a frame: its steps or the frames below it, and its outputs as far as they are known."""

    steps: list[Step] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    #: The frames by element and repetition, counted through: elements without a value have none.
    places: dict[int, Frame] = field(default_factory=dict)
    outputs: dict[str, Slot] | None = None  # None: not known
    waits: Unknown | None = None
    many: bool = False
    done: bool = False  # nothing about it can change any more


@dataclass(slots=True, eq=False)
class Frame:
    """A graph with values for its inputs: the top one, or a graph used as a node."""

    graph: Graph
    prefix: str
    item: str
    inputs: dict[str, Slot]
    states: dict[str, NodeState] = field(default_factory=dict)
    #: The frame around it, and the node there that it belongs to.
    parent: tuple[Frame, Node] | None = None

    def full(self, node: str) -> str:
        """A node's name as it is shown, with those of the nodes around it."""
        return self.prefix + node


class Constants:
    """Values that a plan brings along: literals, inputs, files. By digest."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self.by_digest: dict[str, Any] = {ABSENT.digest: Absent.value}

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


class Planner:
    """Works out steps and their keys. Shared by planning and running; knows the store but never runs a node."""

    def __init__(
        self,
        registry: Registry,
        store: Store | None,
        *,
        device: str,
        dtype: str,
        files: FileMemo,
        force: Iterable[str] = (),
    ) -> None:
        self.registry = registry
        self.store = store
        self.device = device
        self.dtype = dtype
        self.files = files
        self.force = frozenset(force)
        self.codecs = registry.codecs
        self.constants = Constants(self.codecs)
        #: Which step makes a value, should its object prove damaged.
        self.makers: dict[str, Step] = {}
        #: Live values of outputs; filled by the runner.
        self.live: Mapping[str, Any] = {}
        self.problems: list[Problem] = []
        self.top: Frame | None = None
        #: Files and folders that were given to inputs, each as itself: two of equal content are one constant.
        self.given: dict[str, Any] = {}
        #: Nodes whose steps could not be worked out.
        self.failed: list[FailedStep] = []
        #: Values that the store did not have although it said so: records that name them are not believed.
        self.lost: set[str] = set()
        #: Where a value comes from that is not at hand; the runner makes lost ones again.
        self.fetch: Callable[[Artifact], Any] = self._load
        self.models: dict[tuple[str, Path], Model | Problem] = {}
        self.history: dict[str, str] = {}
        self._ports: dict[int, list[tuple[str, Port, Artifact | None]]] = {}
        self._computing: dict[tuple[int, str, str], tuple[str, dict[str, Any]]] = {}
        self._given: dict[int, tuple[Any, Artifact]] = {}

    # -- values ------------------------------------------------------------------------------------------------------------------

    def value(self, artifact: Artifact) -> Any:
        """Give a small value that planning itself needs (a flag, a number in a text).

        Raises:
            Damaged: the store held it and no longer does.
        """
        if artifact.items is not None:
            return [self.value(item) for item in artifact.items]
        found = self.constants.by_digest.get(artifact.digest, _MISSING)
        if found is _MISSING:
            found = self.live.get(artifact.digest, _MISSING)
        return self.fetch(artifact) if found is _MISSING else found

    def _load(self, artifact: Artifact) -> Any:
        if self.store is None:
            raise Damaged(artifact, "is in no store")
        return self.store.load(artifact)

    def bind(self, frame: Frame, binding: Binding) -> Slot:
        """Work out what a binding gives in this frame."""
        if isinstance(binding, FromNode):
            state = frame.states.get(binding.node)
            if state is None or state.outputs is None:
                return Unknown((frame.full(binding.node),))
            return state.outputs[binding.port]
        if isinstance(binding, FromInput):
            return frame.inputs[binding.name]
        if isinstance(binding, Joined):
            return self._joined(frame, binding)
        if isinstance(binding, Listed):
            return _listed([self.bind(frame, item) for item in binding.items])
        if isinstance(binding, Mapped):
            return self._mapped(frame, binding)
        # What is left depends on no frame.
        held = self._given.get(id(binding))
        if held is None:
            held = self._given[id(binding)] = (binding, self._constant(binding))
        return held[1]

    def _constant(self, binding: Given | FileAt | ModelAt) -> Artifact:
        if isinstance(binding, Given):
            return self.constants.add(binding.value)
        if isinstance(binding, FileAt):
            return self.constants.add(self.read_path(binding))
        return self.constants.add(self.model(binding.reference, binding.folder, binding.mark))

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
            raise GraphError([_unreadable(at, path, failed)]) from failed

    def model(self, reference: str, folder: Path, mark: Mark | None) -> Model:
        """Resolve a model reference; one that is not on this machine gets an empty digest and is a problem of the plan."""
        found = self.models.get((reference, folder))
        if found is None:
            embedded = self.registry.models if reference.startswith("embedded/") else {}
            try:
                found = models.resolve(reference, folder=folder, embedded=embedded, digest=self.files.digest_file)
            except (models.BadReference, models.UnresolvedModel, models.UnusableModel) as missing:
                found = missing.problem(mark)
                self.problems.append(found)
            self.models[reference, folder] = found
        return found if isinstance(found, Model) else Model(Path(reference), "unresolved", reference)

    def _joined(self, frame: Frame, binding: Joined) -> Slot:
        texts: list[str] = []
        waits: list[str] = []
        for part in binding.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            slot = self.bind(frame, part)
            if isinstance(slot, Unknown):
                waits += slot.after
            elif slot.kind in ("absent", "failed"):
                return slot
            elif slot.kind not in ("text", "int", "float", "bool"):
                raise BadValue(f"takes text, numbers and truth values inside text, not {slot.kind}")
            else:
                texts.append(_as_text(self.value(slot)))
        return Unknown(tuple(dict.fromkeys(waits))) if waits else self.constants.add("".join(texts))

    def _mapped(self, frame: Frame, binding: Mapped) -> Slot:
        found: dict[str, Any] = {}
        waits: list[str] = []
        for name, item in binding.items:
            slot = self.bind(frame, item)
            if isinstance(slot, Unknown):
                waits += slot.after
            elif slot.kind == "failed":
                return slot
            elif any(leaf.kind not in ("absent", "json", "text", "int", "float", "bool") for leaf in leaves(slot)):
                raise BadValue(f"takes JSON data, not {slot.kind}")
            else:
                found[name] = None if slot.kind == "absent" else self.value(slot)
        return Unknown(tuple(dict.fromkeys(waits))) if waits else self.constants.add(found)

    # -- nodes -------------------------------------------------------------------------------------------------------------------

    def settle(self, frame: Frame, node: Node) -> NodeState:
        """Work out a node's steps as far as is known now. Called again, it goes on from where it stood.

        Raises:
            FailedStep: they cannot be worked out.
            Damaged: a value that says so (a flag, a number in a text) is lost.
        """
        try:
            state = frame.states.get(node.name)
            if state is None:
                state = frame.states[node.name] = NodeState()
            elif state.done:
                return state
            if not node.each and node.when is None and node.repeat is None and isinstance(node.type, NodeType):
                step = state.steps[0] if state.steps else None
                if step is None or step.status == "waits":
                    step = self.step(frame, node, None, {})
                    state.steps = [step]
                state.outputs = step.outputs  # type: ignore[assignment]
                state.done = step.outputs is not None
                state.waits = None
                return state
            self._settle_many(frame, node, state)
            return state
        except GraphError as missing:
            raise FailedStep(frame, node, missing.problems[0].message, missing.problems) from missing
        except ValueError as odd:
            raise FailedStep(frame, node, f"it {odd}" if isinstance(odd, BadValue) else str(odd)) from odd

    def _settle_many(self, frame: Frame, node: Node, state: NodeState) -> None:
        """Settle a node with `each`, `when` or `repeat`, or whose type is a graph."""
        state.outputs, state.waits = None, None
        state.many = bool(node.each)
        flags = self.bind(frame, node.when) if node.when is not None else None
        lists: dict[str, Slot] = {port: self.bind(frame, node.bindings[port]) for port in node.each}
        if isinstance(flags, Unknown):
            state.waits = flags
            return
        if flags is not None and (flags.items is None or not node.each) and not self._flag(flags):
            why = "its 'when' is false" if flags.kind == "bool" else f"its 'when' is {flags.kind}"
            self._all_without(frame, node, state, flags.kind, why)
            return
        sizes: dict[str, int] = {}
        for port, slot in lists.items():
            if isinstance(slot, Unknown):
                state.waits = slot
                return
            if slot.kind in ("absent", "failed"):
                self._all_without(frame, node, state, slot.kind, f"its '{port}' is {slot.kind}")
                return
            if slot.items is None:
                raise BadValue(f"takes a list for '{port}' of 'each', not {slot.kind}")
            sizes[port] = len(slot.items)
        if flags is not None and flags.items is not None:
            sizes["when"] = len(flags.items)
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"'{port}' has {n}" for port, n in sizes.items())
            raise FailedStep(frame, node, f"the lists of 'each' differ in length: {said}")
        count = next(iter(sizes.values())) if node.each else 1
        results: list[dict[str, Slot] | None] = []
        for i in range(count):
            elements = {port: slot.items[i] for port, slot in lists.items()}  # type: ignore[union-attr,index]
            flag = flags.items[i] if flags is not None and flags.items is not None else None
            if flag is not None and not self._flag(flag):
                results.append(self._settle_off(frame, node, state, i, flag))
            else:
                results.append(self._settle_one(frame, node, state, i, elements))
        self._gather(node, state, results)

    def _flag(self, flag: Artifact) -> bool:
        """Tell whether a `when` lets its node run; an absent or failed one does not."""
        if flag.kind == "bool":
            return bool(self.value(flag))
        if flag.kind not in ("absent", "failed"):
            raise BadValue(f"takes true or false for 'when', not {flag.kind}")
        return False

    def _settle_off(self, frame: Frame, node: Node, state: NodeState, i: int, flag: Artifact) -> dict[str, Slot]:
        """Settle element `i` of a node that its `when` leaves out."""
        outputs = dict.fromkeys(node.type.outputs, FAILED if flag.kind == "failed" else ABSENT)
        if isinstance(node.type, NodeType) and len(state.steps) <= i:
            why = "its 'when' is false" if flag.kind == "bool" else f"its 'when' is {flag.kind}"
            status = "skipped" if flag.kind == "failed" else "absent"
            state.steps.append(Step(frame.full(node.name), f"{frame.item}[{i}]", node, frame, i, status, why, outputs=outputs))
        return dict(outputs)

    def _settle_one(self, frame: Frame, node: Node, state: NodeState, i: int, elements: dict[str, Artifact]) -> dict[str, Slot] | None:
        """Settle element `i` of a node; None if its outputs are not known."""
        index = i if node.each else None
        if isinstance(node.type, NodeType):
            if len(state.steps) <= i:
                state.steps.append(self.step(frame, node, index, elements))
            elif state.steps[i].status == "waits":
                state.steps[i] = self.step(frame, node, index, elements)
            return state.steps[i].outputs  # type: ignore[return-value]
        times = node.repeat.times if node.repeat else 1
        outs: list[dict[str, Slot] | None] = []
        for r in range(times):
            place = i * times + r
            inputs = self._child_inputs(frame, node, elements, r if node.repeat else None)
            if inputs is None:
                return dict.fromkeys(node.type.outputs, ABSENT)
            if place not in state.places:
                parts = [f"[{n}]" for n, on in ((i, bool(node.each)), (r, node.repeat is not None)) if on]
                prefix = f"{frame.full(node.name)}{''.join(parts)}/"
                state.places[place] = Frame(node.type, prefix, frame.item, inputs, parent=(frame, node))
                state.frames.append(state.places[place])
            child = state.places[place]
            child.inputs = inputs
            self.walk(child)
            slots = {name: self.bind(child, o.source) for name, o in node.type.outputs.items()}
            outs.append(slots)
        if node.repeat is None:
            return outs[0]
        return self._kept(node, [o for o in outs if o is not None])

    def _kept(self, node: Node, outs: list[dict[str, Slot]]) -> dict[str, Slot]:
        """Choose among repetitions: the best by its score, or all of them as lists."""
        assert node.repeat is not None and isinstance(node.type, Graph)
        if node.repeat.best is None:
            return {name: _listed([o[name] for o in outs]) for name in node.type.outputs}
        scores = [o[node.repeat.best] for o in outs]
        waits = [a for s in scores if isinstance(s, Unknown) for a in s.after]
        if waits:
            return dict.fromkeys(node.type.outputs, Unknown(tuple(dict.fromkeys(waits))))
        kinds = {s.kind for s in scores if isinstance(s, Artifact)}
        if odd := sorted(kinds - {"int", "float", "absent", "failed"}):
            raise BadValue(f"takes a number to say which is best, not {odd[0]}")
        present = [(self.value(s), -i) for i, s in enumerate(scores) if isinstance(s, Artifact) and s.kind in ("int", "float")]
        return outs[-max(present)[1]] if present else dict.fromkeys(node.type.outputs, FAILED if "failed" in kinds else ABSENT)

    def _child_inputs(self, frame: Frame, node: Node, elements: dict[str, Artifact], repetition: int | None) -> dict[str, Slot] | None:
        """Give a graph used as a node its inputs; None if a required one is absent."""
        inner = node.type
        assert isinstance(inner, Graph)
        inputs: dict[str, Slot] = {}
        for name, wanted in inner.inputs.items():
            binding = node.bindings.get(name)
            slot = elements.get(name) or (self.bind(frame, binding) if binding is not None else ABSENT)
            if isinstance(slot, Artifact) and slot.kind == "absent":
                if wanted.default is not None:
                    slot = self._default(wanted)
                elif not wanted.type.optional:
                    return None
            if wanted.type.seed and repetition is not None and isinstance(slot, Artifact) and slot.kind == "int":
                slot = self.constants.add(derived_seed(self.value(slot), str(repetition)))
            if isinstance(slot, Artifact):
                slot = self._converted(slot, wanted.type)
                self._check_narrow(name, slot, wanted.type)
            inputs[name] = slot
        return inputs

    def _check_narrow(self, name: str, slot: Artifact, type_: PortType) -> None:
        """Hold a value that came on an edge to the bounds and choices of an included graph's input."""
        inner = type_.element if type_.kind == "list" and type_.element else type_
        if (inner.range or inner.choices) and not any(leaf.kind in ("absent", "failed") for leaf in leaves(slot)):
            try:
                type_.check(self.value(slot))
            except BadValue as odd:
                raise BadValue(f"gives a value to '{name}', which {odd}") from None

    def _default(self, wanted: Input) -> Artifact:
        binding = wanted.default
        if isinstance(binding, Given) and binding.value == RANDOM and wanted.type.seed:
            held = self._given.get(id(binding))
            if held is None:
                held = self._given[id(binding)] = (binding, self.constants.add(secrets.randbelow(2**32)))
            return held[1]
        slot = self.bind(_NOWHERE, binding)  # type: ignore[arg-type]
        assert isinstance(slot, Artifact)
        return slot

    def _all_without(self, frame: Frame, node: Node, state: NodeState, kind: str, why: str) -> None:
        """Give a node no values: its `when` is false, or what it needs is absent or has failed."""
        given = FAILED if kind == "failed" else ABSENT
        outputs = dict.fromkeys(node.type.outputs, given)
        if isinstance(node.type, NodeType):
            status = "skipped" if kind == "failed" else "absent"
            state.steps = [Step(frame.full(node.name), frame.item, node, frame, None, status, why, outputs=outputs)]
        state.outputs = dict(outputs)
        state.done = True

    def _gather(self, node: Node, state: NodeState, results: list[dict[str, Slot] | None]) -> None:
        """Make a node's outputs of those of its elements."""
        waits = Unknown((node.name,))
        if not state.many:
            state.outputs = results[0]
        elif all(r is not None for r in results):
            state.outputs = {name: _listed([r[name] for r in results if r is not None]) for name in node.type.outputs}
        if state.outputs is not None:
            unknown = [s for s in state.outputs.values() if isinstance(s, Unknown)]
            state.done = not unknown
            state.waits = unknown[0] if unknown else None
        else:
            state.waits = waits

    def walk(self, frame: Frame) -> None:
        """Settle every needed node of a frame, in topological order."""
        unneeded = frame.graph.unneeded
        for node in frame.graph.nodes.values():
            if node.name not in unneeded:
                try:
                    self.settle(frame, node)
                except FailedStep as failed:
                    self.fail(failed)

    def fail(self, failed: FailedStep) -> Step:
        """Give a node that cannot be worked out the outputs of one that failed; what needs them is skipped, and the rest goes on."""
        frame, node = failed.frame, failed.node
        outputs = dict.fromkeys(node.type.outputs, FAILED)
        step = Step(frame.full(node.name), frame.item, node, frame, None, "failed", str(failed), outputs=outputs)
        frame.states[node.name] = NodeState(steps=[step], outputs=dict(outputs), done=True)
        failed.step = step
        self.failed.append(failed)
        return step

    # -- steps -------------------------------------------------------------------------------------------------------------------

    def step(self, frame: Frame, node: Node, index: int | None, elements: dict[str, Artifact]) -> Step:
        """Key one node for one item, and ask the store."""
        name = frame.full(node.name)
        item = frame.item if index is None else f"{frame.item}[{index}]"
        type_: NodeType = node.type  # type: ignore[assignment]
        slots: dict[str, Artifact] = {}
        lines = [self.prefix(node)]
        waits: list[str] = []
        unresolved = False
        failed = ""
        bindings = node.bindings
        for port_name, port, default in self.ports(type_):
            slot: Slot
            if elements and port_name in elements:
                slot = elements[port_name]
            elif (binding := bindings.get(port_name)) is None:
                slot = default  # type: ignore[assignment]
            else:
                slot = self.bind(frame, binding)
                if type(slot) is Unknown:
                    waits += slot.after
                    continue
            if slot.kind == "failed" or (slot.items is not None and any(i.kind == "failed" for i in slot.items)):  # type: ignore[union-attr]
                failed = port_name
                continue
            if slot.kind == "absent":  # type: ignore[union-attr]
                if default is None:
                    return Step(name, item, node, frame, index, "absent", f"its '{port_name}' is absent", outputs=dict.fromkeys(type_.outputs, ABSENT))
                slot = default
            elif slot.kind != port.type.kind:  # type: ignore[union-attr]
                slot = self._converted(slot, port.type, node)  # type: ignore[arg-type]
            elif slot.items is not None:  # type: ignore[union-attr]
                slot = self._converted(slot, port.type, node)  # type: ignore[arg-type]
            if slot.kind == "model":  # type: ignore[union-attr]
                unresolved |= self.constants.by_digest.get(slot.digest, _NO_MODEL).digest == "unresolved"  # type: ignore[union-attr]
            slots[port_name] = slot  # type: ignore[assignment]
            lines.append(f"{port_name}={slot.digest}")  # type: ignore[union-attr]
        if failed:
            outputs = dict.fromkeys(type_.outputs, FAILED)
            return Step(name, item, node, frame, index, "skipped", f"what gives its '{failed}' failed", outputs=outputs)
        if waits:
            after = tuple(dict.fromkeys(waits))
            return Step(name, item, node, frame, index, "waits", f"unless {' and '.join(after)} {'comes' if len(after) == 1 else 'come'} out the same")
        if unresolved:
            return Step(name, item, node, frame, index, "unresolved", "its model is not on this machine", slots=slots)
        key = blake2b("\n".join(lines).encode(), digest_size=SIZE).hexdigest()
        step = Step(name, item, node, frame, index, "runs", "", key, slots)
        if not node.cache:
            step.reason = "it says cache: false"
            return step
        if self.force and self._is_forced(name):
            step.reason = "it is forced"
            return step
        self.look_up(step)
        return step

    def _is_forced(self, name: str) -> bool:
        """Whether a step's node, or a graph around it, is among those to force; each by its own name or by all of them."""
        parts = [part.partition("[")[0] for part in name.split("/")]
        return any(part in self.force or "/".join(parts[: i + 1]) in self.force for i, part in enumerate(parts)) or name in self.force

    def reread(self, step: Step) -> bool:
        """Digest anew all files that the graphs name and that were given to them; give whether those that a step reads are others now.

        All, since files of equal content are one value: which of them has changed, a step cannot tell. One that is gone stays as it was: who reads it says so.
        """
        assert self.top is not None
        known: set[str] = set()
        for at, (binding, artifact) in list(self._given.items()):
            if isinstance(binding, FileAt):
                with contextlib.suppress(GraphError):
                    artifact = self.constants.add(self.read_path(binding))
                self._given[at] = (binding, artifact)
                known.add(artifact.digest)
        for name, wanted in self.top.graph.inputs.items():
            if name in self.given:
                self.given[name] = self._again(self.given[name])
                self.top.inputs[name] = self.constants.add(self.given[name])
            elif not isinstance(wanted.default, Given) and wanted.default is not None:
                self.top.inputs[name] = self._converted(self._default(wanted), wanted.type)
            known.update(leaf.digest for leaf in leaves(self.top.inputs[name]))  # type: ignore[arg-type]  # all are known
        read = {leaf.digest for slot in (step.slots or {}).values() for leaf in leaves(slot)}
        return any(isinstance(self.constants.by_digest.get(digest), File | Folder) for digest in read - known)

    def _again(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._again(item) for item in value]
        with contextlib.suppress(OSError, ValueError, FileChanged):
            return self.files.folder_value(value.path) if isinstance(value, Folder) else self.files.file_value(value.path, value.name)
        return value

    def look_up(self, step: Step) -> bool:
        """Ask the store for a step's outputs; when they are there the step is *cached*."""
        record = self.store.lookup(step.key) if self.store is not None else None  # type: ignore[arg-type]
        if record is None or record.outputs.keys() != step.node.type.outputs.keys():
            return False
        if self.lost and any(leaf.digest in self.lost for artifact in record.outputs.values() for leaf in leaves(artifact)):
            return False
        step.status = "cached"
        self.gave(step, record.outputs)
        return True

    def gave(self, step: Step, outputs: dict[str, Artifact]) -> None:
        """Note what a step gave, and that it was this step that gave it."""
        step.outputs = outputs
        if self.lost:
            self.lost.difference_update(leaf.digest for artifact in outputs.values() for leaf in leaves(artifact))
        for artifact in outputs.values():
            self.makers[artifact.digest] = step
            if artifact.items is not None:
                for leaf in leaves(artifact):
                    self.makers[leaf.digest] = step

    def ports(self, type_: NodeType) -> list[tuple[str, Port, Artifact | None]]:
        """List a node type's ports in the order of keys, each with the artifact of its default."""
        found = self._ports.get(id(type_))
        if found is None:
            found = [(name, port, None if port.required else self.port_default(port)) for name, port in sorted(type_.inputs.items())]
            self._ports[id(type_)] = found
        return found

    def port_default(self, port: Port) -> Artifact:
        held: tuple[Any, Artifact] | None = self._given.get(id(port))
        if held is None:
            default = port.default
            if port.type.kind == "model" and isinstance(default, str):
                default = self.model(default, Path(), None)
            held = self._given[id(port)] = (port, self.constants.add(default))
        return held[1]

    def prefix(self, node: Node) -> str:
        """The part of a key that says what computes: node type, source, libraries, determinism class."""
        return self._computes(node)[0]

    def computes_with(self, node: Node) -> dict[str, Any]:
        """What computes a node's steps, as it enters their keys. Shared by all of them: not to be changed."""
        return self._computes(node)[1]

    def _computes(self, node: Node) -> tuple[str, dict[str, Any]]:
        type_: NodeType = node.type  # type: ignore[assignment]
        at = (id(type_), node.device or "", node.dtype or "")
        found = self._computing.get(at)
        if found is None:
            device, dtype = self.place(node)
            said = {
                "format": KEY_FORMAT,
                "type": type_.name,
                "version": type_.version,
                "source": type_.source_digest,
                "uses": {library: self.registry.version_of(library) for library in type_.uses},
                "determinism": devices.determinism_class(device, dtype) if type_.uses_torch else None,
            }
            found = self._computing[at] = (canonical(said).decode(), said)
        return found

    def place(self, node: Node) -> tuple[str, str]:
        """The device and dtype that a node computes on and in."""
        if node.device is None and node.dtype is None:
            return self.device, self.dtype
        try:
            device = devices.resolve_device(node.device) if node.device else self.device
        except ValueError as missing:
            raise GraphError([Problem("bad-setting", str(missing), node.mark)]) from missing
        if node.dtype is not None and node.dtype != "auto":
            return device, node.dtype
        return device, devices.resolve_dtype("auto", device) if node.device else self.dtype

    def _converted(self, slot: Artifact, port: PortType, node: Node | None = None) -> Artifact:
        """A whole number into a port of numbers is that number; an input's text into a model port names a model."""
        if slot.items is not None and port.kind == "list" and port.element is not None:
            items = [self._converted(item, port.element, node) for item in slot.items]
            if any(a is not b for a, b in zip(items, slot.items, strict=True)):
                slot = _listed(items)  # type: ignore[assignment,arg-type]
            return _present(slot)
        if slot.kind == "int" and port.kind == "float":
            return self.constants.add(float(self.value(slot)))
        if slot.kind == "text" and port.kind == "model":
            return self.constants.add(self.model(self.value(slot), Path(), node.mark if node else None))
        return _present(slot) if slot.items is not None else slot

    def why(self, step: Step) -> str:
        """Say why a step runs, by comparing it with what was kept when this node last ran."""
        if step.reason:
            return step.reason
        before = self.history.get(f"{step.name}{step.item}")
        if before is None or self.store is None:
            return "it has not run before"
        if before == step.key:
            return "the store no longer holds it"
        record = self.store.lookup(before)
        if record is None:
            return "what it depends on changed"
        then = record.provenance.get("made_with", {})
        now = self.computes_with(step.node)
        changed = []
        if then.get("type") != now["type"]:
            changed.append(f"its type was {then.get('type')}")
        if then.get("version") != now["version"]:
            changed.append(f"{now['type']} is now version {now['version']}")
        elif then.get("source") != now["source"]:
            changed.append("its plugin's source changed")
        for library, version in now["uses"].items():
            if (old := then.get("uses", {}).get(library)) != version:
                changed.append(f"{library} went from {old} to {version}")
        if then.get("determinism") != now["determinism"]:
            changed.append("the device or dtype changed")
        inputs = record.provenance.get("inputs", {})
        ports = sorted(p for p, slot in (step.slots or {}).items() if inputs.get(p) != slot.digest)
        if ports:
            changed.append(" and ".join(f"'{p}'" for p in ports) + " changed")
        return ", ".join(changed) or "what it depends on changed"


def _present(slot: Artifact) -> Artifact:
    """Leave absent elements out of a list that goes into one port."""
    if slot.items is not None and any(i.kind == "absent" for i in slot.items):
        listed = _listed([i for i in slot.items if i.kind != "absent"])
        assert isinstance(listed, Artifact)
        return listed
    return slot


def leaves(artifact: Artifact) -> Iterator[Artifact]:
    """Give what a list holds, lists in lists gone through; a value that is no list is its own leaf."""
    if artifact.items is None:
        yield artifact
    else:
        for item in artifact.items:
            yield from leaves(item)


def _listed(slots: list[Slot]) -> Slot:
    waits = [a for s in slots if isinstance(s, Unknown) for a in s.after]
    if waits:
        return Unknown(tuple(dict.fromkeys(waits)))
    items = tuple(s for s in slots if isinstance(s, Artifact))
    return Artifact(tagged("list", *(bytes.fromhex(i.digest) for i in items)), "list", items)


def _as_text(value: Any) -> str:
    """Format a value inside text: text as it is, numbers shortest, truth values as in the graph file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def derived_seed(seed: int, label: str) -> int:
    """Derive a seed that has nothing to do with the first but always comes out the same: H(seed, label), 63 bits."""
    return int.from_bytes(blake2b(f"{seed}\0{label}".encode(), digest_size=8).digest(), "big") >> 1


def _unreadable(at: FileAt, path: Path, failed: Exception) -> Problem:
    if not path.exists():
        near = nearest(path.name, (p.name for p in path.parent.iterdir()) if path.parent.is_dir() else ())
        return Problem("missing-file", f"there is no {at.kind} '{at.path}'", at.mark, why=f"it was looked for as {os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}", fix=near if near.startswith("did") else "")
    return Problem("missing-file", f"the {at.kind} '{at.path}' cannot be read", at.mark, why=str(failed))


_MISSING = object()
_NO_MODEL = Model(Path(), "none")
_NOWHERE: Any = None


@dataclass(eq=False)
class Plan:
    """What a run would do: ordered steps, each with what the store holds or why it must run. Carry it out with `execute`."""

    graph: Graph
    planner: Planner
    frame: Frame
    base: Path
    #: The values of the graph's inputs, as given or by default.
    inputs: dict[str, Any]
    #: Seeds that were drawn because an input's seed is `random`.
    seeds: dict[str, int]
    steps: list[Step]
    problems: tuple[Problem, ...]

    @property
    def device(self) -> str:
        return self.planner.device

    @property
    def dtype(self) -> str:
        return self.planner.dtype

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that the plan names: reference, size in bytes and, where it is not on this machine, what is wrong."""
        found: list[dict[str, Any]] = []
        for (reference, _), model in sorted(self.planner.models.items(), key=lambda item: str(item[0])):
            if isinstance(model, Problem):
                found.append({"reference": reference, "size_bytes": None, "fingerprint": None, "fault": model.message})
            else:
                found.append({"reference": reference, "size_bytes": models.size_of(model), "fingerprint": model.digest, "fault": None})
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many steps have which status."""
        counts: dict[str, int] = {}
        for step in self.steps:
            counts[step.status] = counts.get(step.status, 0) + 1
        return counts

    @property
    def at_least(self) -> bool:
        """Whether there may be more steps than are listed, because a list is not known yet."""
        return any(_uncounted(frame) for frame in _frames(self.frame))

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain data."""
        return {
            "graph": self.graph.spec.source.name,
            "device": self.device,
            "dtype": self.dtype,
            "at_least": self.at_least,
            "inputs": {k: v if isinstance(v, bool | int | float | str | list) else str(v) for k, v in self.inputs.items()},
            "seeds": self.seeds,
            "models": self.models,
            "steps": [{"node": s.name, "item": s.item, "type": s.type_name, "status": s.status, "reason": s.reason, "key": s.key} for s in self.steps],
            "problems": [str(p) for p in self.problems],
        }


def _frames(frame: Frame) -> Iterator[Frame]:
    yield frame
    for state in frame.states.values():
        for child in state.frames:
            yield from _frames(child)


def _uncounted(frame: Frame) -> bool:
    return any(s.waits is not None and not s.steps and not s.frames for s in frame.states.values())


def make_plan(
    graph: Graph,
    values: Mapping[str, Any] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    registry: Registry | None = None,
    store: Store | None = None,
    device: str | None = None,
    dtype: str | None = None,
    force: Iterable[str] = (),
    base: Path | None = None,
    files: FileMemo | None = None,
) -> Plan:
    """Plan a graph for these values of its inputs.

    Params:
        values: live values by input; a file, folder may be given by path, relative to `base` (default: the working directory).
        texts: values as text, as ``--set`` gives them; read by the input's type.
        device, dtype: given ones win over the graph's settings; else ``auto``.
        force: names of nodes that run even if the store holds them.

    Raises:
        GraphError: a value is missing, unknown or does not fit; a file is not there; a device does not exist.
    """
    base = base or Path.cwd()
    registry = registry or graph.registry
    assert registry is not None, "a resolved graph knows its registry"
    asked = device or graph.settings.get("device") or "auto"
    try:
        resolved = devices.resolve_device(asked)
        in_dtype = devices.resolve_dtype(dtype or graph.settings.get("dtype") or "auto", resolved)
    except ValueError as missing:
        raise GraphError([Problem("bad-setting", str(missing))]) from missing
    files = files or (store.files if store else FileMemo())
    planner = Planner(registry, store, device=resolved, dtype=in_dtype, files=files, force=force)
    unknown = sorted(planner.force - _node_names(graph))
    if unknown:
        raise GraphError([Problem("unknown-reference", f"there is no node '{name}' to force", fix=nearest(name, graph.nodes, what="nodes are")) for name in unknown])
    slots, plain, seeds = _take_inputs(planner, graph, values or {}, texts or {}, base)
    if store is not None:
        planner.history = store.history(history_name(graph))
    while True:
        frame = planner.top = Frame(graph, "", "", dict(slots))
        planner.failed.clear()
        planner.makers.clear()
        try:
            planner.walk(frame)
            break
        except Damaged as damaged:
            planner.lost.add(damaged.artifact.digest)  # plan anew, so that the step that gives it runs
    # What a user can mend before anything runs refuses the plan; what came out of nodes fails the steps that cannot use it.
    wrong = [p for failed in planner.failed for p in failed.problems or _static(failed)]
    if wrong:
        raise GraphError(wrong)
    plan = Plan(graph, planner, frame, base, plain, seeds, list(_steps(frame)), (*graph.warnings, *planner.problems))
    _explain(plan)
    return plan


def _static(failed: FailedStep) -> list[Problem]:
    if failed.node.after or failed.frame.prefix:
        return []
    return [Problem("bad-input", f"{failed.node.name}: {failed}", failed.node.mark)]


def history_name(graph: Graph) -> str:
    """Name a graph's runs, so that the next plan can say what changed since."""
    return str(graph.spec.path.resolve()) if graph.spec.path else graph.spec.source.name


def _node_names(graph: Graph) -> set[str]:
    names: set[str] = set()
    pending: list[tuple[str, Graph]] = [("", graph)]
    while pending:
        prefix, current = pending.pop()
        for node in current.nodes.values():
            names |= {node.name, prefix + node.name}
            if isinstance(node.type, Graph):
                pending.append((f"{prefix}{node.name}/", node.type))
    return names


def _steps(frame: Frame) -> Iterator[Step]:
    for name in frame.graph.nodes:
        state = frame.states.get(name)
        if state is not None:
            yield from state.steps
            for child in state.frames:
                yield from _steps(child)
            if state.waits is not None and not state.steps and not state.frames:
                after = " and ".join(state.waits.after)
                item = f"{frame.item}[?]" if state.many else frame.item
                yield Step(frame.full(name), item, frame.graph.nodes[name], frame, None, "waits", f"after {after}")


def _explain(plan: Plan) -> None:
    """Say why steps run, and mark those that need not: not in the store, but nothing that runs asks for them."""
    demanded: set[int] = set()
    _demand(plan.frame, {o.source.node for o in plan.graph.outputs.values() if isinstance(o.source, FromNode)}, demanded)
    for step in plan.steps:
        if step.status == "runs" and id(step) not in demanded:
            step.status, step.reason = "idle", "nothing that runs needs it"
        elif step.status == "runs":
            step.reason = plan.planner.why(step)


def _demand(frame: Frame, wanted: set[str], demanded: set[int]) -> None:
    """Collect the steps that a run would visit, going back from the wanted nodes through all that is not cached."""
    for name in reversed(frame.graph.nodes):
        if name not in wanted:
            continue
        node, state = frame.graph.nodes[name], frame.states[name]
        demanded.update(id(s) for s in state.steps)
        for child in state.frames:
            _demand(child, {o.source.node for o in child.graph.outputs.values() if isinstance(o.source, FromNode)}, demanded)
        if not is_settled(state):
            wanted.update(node.after)


def is_settled(state: NodeState) -> bool:
    """Whether a node, and all below it, needs nothing more to run."""
    if state.outputs is None or any(s.status not in ("cached", "absent", "ran") for s in state.steps):
        return False
    return all(is_settled(state_) for f in state.frames for n, state_ in f.states.items())


def _take_inputs(planner: Planner, graph: Graph, values: Mapping[str, Any], texts: Mapping[str, str], base: Path) -> tuple[dict[str, Slot], dict[str, Any], dict[str, int]]:
    """Turn given values and defaults into artifacts. Gathers all problems before it raises them."""
    problems: list[Problem] = []
    slots: dict[str, Slot] = {}
    plain: dict[str, Any] = {}
    seeds: dict[str, int] = {}
    for name in sorted((values.keys() | texts.keys()) - graph.inputs.keys()):
        problems.append(Problem("unknown-input", f"the graph has no input '{name}'", fix=nearest(name, graph.inputs, what="its inputs are")))
    for name, wanted in graph.inputs.items():
        try:
            given = from_text(wanted.type, texts[name]) if name in texts else values.get(name, _MISSING)
            random = wanted.type.seed and isinstance(wanted.default, Given) and wanted.default.value == RANDOM
            if given is not _MISSING and not (wanted.type.seed and given == RANDOM):
                value = _given(planner, wanted.type, given, base)
                if _holds_files(value):
                    planner.given[name] = value
                slots[name] = planner._converted(planner.constants.add(value), wanted.type)
            elif random or given is not _MISSING:
                seeds[name] = secrets.randbelow(2**32)
                slots[name] = planner.constants.add(seeds[name])
            elif wanted.default is not None:
                slots[name] = planner._converted(planner._default(wanted), wanted.type)
            elif wanted.type.optional:
                slots[name] = planner.constants.add(None)
            else:
                problems.append(Problem("missing-input", f"input '{name}' ({wanted.type}) is given nothing", wanted.mark, why=wanted.help, fix=f"say --set {name}=…, or give it a default"))
                continue
            plain[name] = planner.value(slots[name])  # type: ignore[arg-type]
        except ValueError as odd:
            fix = nearest(odd.given, odd.known) if isinstance(odd, BadValue) and odd.known else ""
            problems.append(Problem("bad-input", f"input '{name}' {odd}" if isinstance(odd, BadValue) else f"input '{name}': {odd}", wanted.mark, fix=fix))
        except GraphError as missing:
            problems += missing.problems
    if problems:
        raise GraphError(problems)
    return slots, plain, seeds


def _holds_files(value: Any) -> bool:
    return isinstance(value, File | Folder) or (isinstance(value, list) and bool(value) and all(map(_holds_files, value)))


def _given(planner: Planner, type_: PortType, value: Any, base: Path) -> Any:
    if type_.kind in ("file", "folder") and isinstance(value, str | Path):
        return planner.read_path(FileAt(str(value), type_.kind, base))
    if type_.kind == "list" and type_.element and type_.element.kind in ("file", "folder") and isinstance(value, list | tuple):
        return [_given(planner, type_.element, item, base) for item in value]
    return type_.check(value)


def from_text(type_: PortType, text: str) -> Any:
    """Read the value of an input from text, as ``--set`` gives it: by the input's type, never by guessing from its looks.

    Raises:
        BadValue: the text is no such value.
    """
    kind = type_.kind
    if kind in ("text", "file", "folder"):
        return text
    if type_.seed and text == RANDOM:
        return text
    if kind == "list":
        try:
            read = json.loads(text)
        except ValueError:
            read = [from_text(type_.element, part.strip()) for part in text.split(",")] if type_.element else None
        return read if isinstance(read, list) else [read]
    try:
        if kind == "bool" and text in ("true", "false"):
            return text == "true"
        if kind == "int":
            return int(text)
        if kind in ("float", "number"):
            return float(text) if kind == "float" or not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        pass
    raise BadValue(f"takes {type_.words}, not the text '{text}'")
