"""Work out steps and their keys, from the values that are known, and ask the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

from ..artifact import Artifact
from ..digest import SIZE
from ..errors import GraphError, ModelError, Problem
from ..graph import Binding, FromNode, Graph, Listed, ModelAt, Node
from ..models import UnresolvedModel
from ..node import Fed, NodeType
from ..ports import BadValue, PortType
from ..values import Model
from .keys import Keys
from .step import ABSENT, FAILED, FailedStep, Frame, NodeState, Slot, Step, Unknown, leaves, listed
from .values import Values, is_drawn

__all__ = ["Planner", "derived_seed"]


class Planner:
    """Works out steps and their keys. Shared by planning and running; knows the store but never runs a node."""

    def __init__(self, values: Values, keys: Keys, *, force: Iterable[str] = ()) -> None:
        self.values = values
        self.keys = keys
        self.force = frozenset(force)
        #: Which step makes a value, should its object prove damaged.
        self.makers: dict[str, Step] = {}
        #: Nodes whose steps could not be worked out.
        self.failed: list[FailedStep] = []
        #: Values that the store did not have although it said so: records that name them are not believed.
        self.lost: set[str] = set()
        #: The keys of the graph's last run, by step.
        self.history: dict[str, str] = {}

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
        flags = self.values.bind(frame, node.when) if node.when is not None else None
        lists: dict[str, Slot] = {port: self.values.bind(frame, node.bindings[port]) for port in node.each}
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
            return bool(self.values.value(flag))
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
            given = self._child_inputs(frame, node, elements, r if node.repeat else None)
            if given is None:
                return dict.fromkeys(node.type.outputs, ABSENT)
            inputs, by_default = given
            if place not in state.places:
                parts = [f"[{n}]" for n, on in ((i, bool(node.each)), (r, node.repeat is not None)) if on]
                prefix = f"{frame.full(node.name)}{''.join(parts)}/"
                state.places[place] = Frame(node.type, prefix, frame.item, inputs, parent=(frame, node))
                state.frames.append(state.places[place])
            child = state.places[place]
            child.inputs, child.by_default = inputs, by_default
            self.walk(child)
            slots = {name: self.values.bind(child, o.source) for name, o in node.type.outputs.items()}
            outs.append(slots)
        if node.repeat is None:
            return outs[0]
        return self._kept(node, [o for o in outs if o is not None])

    def _kept(self, node: Node, outs: list[dict[str, Slot]]) -> dict[str, Slot]:
        """Choose among repetitions: the best by its score, or all of them as lists."""
        assert node.repeat is not None and isinstance(node.type, Graph)
        if node.repeat.best is None:
            return {name: listed([o[name] for o in outs]) for name in node.type.outputs}
        scores = [o[node.repeat.best] for o in outs]
        waits = [a for s in scores if isinstance(s, Unknown) for a in s.after]
        if waits:
            return dict.fromkeys(node.type.outputs, Unknown(tuple(dict.fromkeys(waits))))
        kinds = {s.kind for s in scores if isinstance(s, Artifact)}
        if odd := sorted(kinds - {"int", "float", "absent", "failed"}):
            raise BadValue(f"takes a number to say which is best, not {odd[0]}")
        present = [(self.values.value(s), -i) for i, s in enumerate(scores) if isinstance(s, Artifact) and s.kind in ("int", "float")]
        return outs[-max(present)[1]] if present else dict.fromkeys(node.type.outputs, FAILED if "failed" in kinds else ABSENT)

    def _child_inputs(self, frame: Frame, node: Node, elements: dict[str, Artifact], repetition: int | None) -> tuple[dict[str, Slot], frozenset[str]] | None:
        """Give a graph used as a node its inputs, and the names of those that have their defaults; None if a required one is absent."""
        inner = node.type
        assert isinstance(inner, Graph)
        inputs: dict[str, Slot] = {}
        by_default = set()
        for name, wanted in inner.inputs.items():
            binding = node.bindings.get(name)
            slot = elements.get(name) or (self.values.bind(frame, binding) if binding is not None else ABSENT)
            if isinstance(slot, Artifact) and slot.kind == "absent":
                if wanted.default is not None:
                    slot = self.values.default(wanted)
                    by_default.add(name)
                    if is_drawn(wanted):
                        self.values.drawn[f"{frame.full(node.name)}/{name}"] = self.values.value(slot)
                elif not wanted.type.optional:
                    return None
            if wanted.type.seed and repetition is not None and isinstance(slot, Artifact) and slot.kind == "int":
                slot = self.values.constants.add(derived_seed(self.values.value(slot), str(repetition)))
            if isinstance(slot, Artifact):
                slot = self.values.converted(slot, wanted.type)
                self._check_narrow(name, slot, wanted.type)
            inputs[name] = slot
        return inputs, frozenset(by_default)

    def _check_narrow(self, name: str, slot: Artifact, type_: PortType) -> None:
        """Hold a value that came on an edge to the bounds and choices of an included graph's input."""
        inner = type_.element if type_.kind == "list" and type_.element else type_
        if (inner.range or inner.choices) and not any(leaf.kind in ("absent", "failed") for leaf in leaves(slot)):
            try:
                type_.check(self.values.value(slot))
            except BadValue as odd:
                raise BadValue(f"gives a value to '{name}', which {odd}") from None

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
            state.outputs = {name: listed([r[name] for r in results if r is not None]) for name in node.type.outputs}
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

    def _foresee(self, frame: Frame, node: Node, foresee: Callable[..., None]) -> str:
        """Let a node type refuse models that do not work together; give why its step cannot run, or nothing."""
        known = self._fed(frame, node)
        try:
            foresee(known.models, known.fed)
        except UnresolvedModel:  # a problem of the node that names it
            return "its model is not on this machine"
        except ModelError as refused:
            problem = Problem("bad-model", str(refused), node.mark)
            if problem not in self.values.problems:
                self.values.problems.append(problem)
            return "its models do not work together"
        return ""

    def _fed(self, frame: Frame, node: Node, depth: int = 8) -> Fed:
        """Gather which models a node names, and the nodes that feed it."""
        models: dict[str, Model | tuple[Model, ...]] = {}
        fed: dict[str, Fed] = {}

        def model(binding: Binding) -> Model | None:
            found = self.values.constants.by_digest.get(self.values.bind(frame, binding).digest) if isinstance(binding, ModelAt) else None  # type: ignore[union-attr]
            return found if isinstance(found, Model) and found.digest != "unresolved" and not found.incomplete else None

        for port, binding in node.bindings.items():
            if (one := model(binding)) is not None:
                models[port] = one
            elif isinstance(binding, Listed) and (several := tuple(filter(None, map(model, binding.items)))):
                models[port] = several
            elif isinstance(binding, FromNode) and depth:
                fed[port] = self._fed(frame, frame.graph.nodes[binding.node], depth - 1)
        return Fed(node.type.name, models, fed)

    def step(self, frame: Frame, node: Node, index: int | None, elements: dict[str, Artifact]) -> Step:
        """Key one node for one item, and ask the store."""
        name = frame.full(node.name)
        item = frame.item if index is None else f"{frame.item}[{index}]"
        type_: NodeType = node.type  # type: ignore[assignment]
        slots: dict[str, Artifact] = {}
        lines = [self.keys.prefix(node)]
        waits: list[str] = []
        failed = ""
        bindings = node.bindings
        for port_name, port, default in self.keys.ports(type_):
            slot: Slot
            binding = bindings.get(port_name)
            if elements and port_name in elements:
                slot = elements[port_name]
                binding = binding.items[index] if isinstance(binding, Listed) and index is not None else binding
            elif binding is None:
                slot = default  # type: ignore[assignment]
            else:
                slot = self.values.bind(frame, binding)
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
            elif slot.kind != port.type.kind or slot.items is not None:  # type: ignore[union-attr]
                if "model" in (port.type.kind, port.type.element and port.type.element.kind):
                    slot = self.values.named(frame, binding, slot, node, type_.loaders.get(port_name))  # type: ignore[arg-type]
                slot = self.values.converted(slot, port.type)  # type: ignore[arg-type]
            slots[port_name] = slot  # type: ignore[assignment]
            lines.append(f"{port_name}={slot.digest}")  # type: ignore[union-attr]
        unresolved = self._unusable(node, type_, slots) if type_.loaders else ""
        if failed:
            outputs = dict.fromkeys(type_.outputs, FAILED)
            return Step(name, item, node, frame, index, "skipped", f"what gives its '{failed}' failed", outputs=outputs)
        if type_.foresee is not None and (why := self._foresee(frame, node, type_.foresee)):
            return Step(name, item, node, frame, index, "unresolved", why, slots=slots)
        if waits:
            after = tuple(dict.fromkeys(waits))
            return Step(name, item, node, frame, index, "waits", f"unless {' and '.join(after)} {'comes' if len(after) == 1 else 'come'} out the same")
        if unresolved:
            return Step(name, item, node, frame, index, "unresolved", unresolved, slots=slots)
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

    def _unusable(self, node: Node, type_: NodeType, slots: Mapping[str, Artifact]) -> str:
        """Say why a step cannot run with its models; nothing if it can."""
        given = {port: found for port in type_.loaders if port in slots and isinstance(found := self.values.constants.by_digest.get(slots[port].digest), Model)}
        named = ((leaf, port) for port in type_.loaders if port in slots for leaf in leaves(slots[port]))
        return next(filter(None, (self.values.unusable(leaf, type_.loaders[port], port, given, node, self.keys.policy) for leaf, port in named)), "")

    def _is_forced(self, name: str) -> bool:
        """Whether a step's node, or a graph around it, is among those to force; each by its own name or by all of them."""
        parts = [part.partition("[")[0] for part in name.split("/")]
        return any(part in self.force or "/".join(parts[: i + 1]) in self.force for i, part in enumerate(parts)) or name in self.force

    def look_up(self, step: Step) -> bool:
        """Ask the store for a step's outputs; when they are there the step is *cached*."""
        record = self.values.store.lookup(step.key) if self.values.store is not None else None  # type: ignore[arg-type]
        if record is None or record.outputs.keys() != step.node.type.outputs.keys():
            return False
        if self.lost and any(leaf.digest in self.lost for artifact in record.outputs.values() for leaf in leaves(artifact)):
            return False
        step.status = "cached"
        self.gave(step, record.outputs)
        return True

    def gave(self, step: Step, outputs: dict[str, Artifact]) -> None:
        """Note what a step gave, and that it was this step that made it (what it was given and passes on, another did)."""
        step.outputs = outputs
        if self.lost:
            self.lost.difference_update(leaf.digest for artifact in outputs.values() for leaf in leaves(artifact))
        for artifact in outputs.values():
            for leaf in (artifact,) if artifact.items is None else leaves(artifact):
                if leaf.digest not in self.makers or not _is_given(step, leaf):
                    self.makers[leaf.digest] = step


def _is_given(step: Step, value: Artifact) -> bool:
    return any(leaf.digest == value.digest for slot in (step.slots or {}).values() for leaf in leaves(slot))


def derived_seed(seed: int, label: str) -> int:
    """Derive a seed that has nothing to do with the first but always comes out the same: H(seed, label), 63 bits."""
    return int.from_bytes(blake2b(f"{seed}\0{label}".encode(), digest_size=8).digest(), "big") >> 1
