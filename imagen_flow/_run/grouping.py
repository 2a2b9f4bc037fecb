"""Compute steps of one node type together, where it can and the user's settings allow it.

Steps make a group if they differ only in the values of ports that may vary, and these have equal
sizes. The first group with a model on a machine is checked against its items alone: some models
give other results in groups (padding that is not masked, positions that shift), and these are
computed one by one from then on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from .._graph import Node
from .._models import ModelPool, give_back, is_out_of_memory
from .._plan import Frame, State, Step, at_port
from .._store import Damaged, Store
from .._types.digest import SIZE, canonical
from .._types.node import Many, NodeType
from .._types.values import Audio, Image, Mask, Tensor
from ..errors import Cancelled, ImagenFlowError
from .call import CallResult
from .event_queue import EventQueue, describe_error
from .step_runner import Rekey, StepRunner

__all__ = ["Group", "Grouping", "agree"]

#: The largest group unless the user names another size.
LARGEST = 16

#: How many items of the first group are also computed alone, to see whether grouping is sound.
CHECKED = 4

_DIFFERS = (
    "computed one by one: with this model, items that are computed together come out differently"
)


class Group(NamedTuple):
    """What steps have in common that can be computed together: what computes them and the values of
    their other ports, and the sizes of those that vary.
    """

    computes: str
    shared: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, Hashable], ...]


class Member(NamedTuple):
    """A step that is ready to run, and whether the store was asked for it just now."""

    frame: Frame
    step: Step
    fresh: bool


class Grouping:
    """Forms groups of the steps of one run, and computes them."""

    def __init__(
        self,
        state: State,
        runner: StepRunner,
        pool: ModelPool,
        store: Store,
        queue: EventQueue,
    ) -> None:
        self.state = state
        self.runner = runner
        self.pool = pool
        self.store = store
        self.queue = queue
        self._groups: dict[str, Group | None] = {}
        #: Groups that their node type cannot compute together.
        self._refused: set[Group] = set()
        self._noted: set[tuple[str, str]] = set()
        #: Steps that could not be computed together, and what was raised.
        self._raised: list[tuple[list[Step], str]] = []

    def group_of(self, step: Step) -> Group | None:
        """Give what a step must have in common with others to be computed with them; None if it is
        computed alone.
        """
        node, type_ = step.node, step.node.type
        assert isinstance(type_, NodeType)
        if type_.many is None or step.key is None or not node.cache or node.timeout_s is not None:
            return None
        if self._largest(node, type_.many) < 2:
            return None
        if step.key not in self._groups:
            self._groups[step.key] = self._find_group(step, type_.many)
        group = self._groups[step.key]
        return None if group in self._refused else group

    def largest(self, step: Step) -> int:
        """Give how many steps may be computed together with this one, itself included."""
        assert isinstance(step.node.type, NodeType) and step.node.type.many is not None
        largest = self._largest(step.node, step.node.type.many)
        if self.pool.group_sizes:
            largest = min(largest, self.pool.group_sizes.get(self._identity(step), largest))
        return largest

    def _largest(self, node: Node, many: Many) -> int:
        assert isinstance(node.type, NodeType)
        policy = self.state.keys.policy(node) if node.type.uses_torch else None
        if policy is not None and policy.alone:
            return 1
        asked = policy.batch if policy is not None else "exact"
        if isinstance(asked, int):
            return asked
        return LARGEST if many.exact or asked == "auto" else 1

    def _find_group(self, step: Step, many: Many) -> Group | None:
        slots = step.slots or {}
        try:
            sizes = [
                (port, _size_of(self.runner.value(slot)))
                for port, slot in sorted(slots.items())
                if port in many.varies
            ]
        except (Rekey, Damaged):
            return None  # running it alone makes the value again
        shared = [(port, s.digest) for port, s in sorted(slots.items()) if port not in many.varies]
        return Group(self.state.keys.prefix(step.node), tuple(shared), tuple(sizes))

    # ---- computing

    def run(self, members: Sequence[Member]) -> list[Step | None]:
        """Compute steps of one group together. Returns each with its outputs; None for those that
        are to be run alone.

        Raises:
            Cancelled: the run was cancelled.
            Rekey, Damaged: as when a step is run alone.
        """
        found: list[Step | None] = []
        claimed: dict[int, Member] = {}
        try:
            for place, member in enumerate(members):
                step = self.runner.claim(member.step, fresh=member.fresh)
                if step is not None and step.status == "runs":
                    claimed[place] = member._replace(step=step)
                found.append(None if place in claimed else step)
            if len(claimed) > 1:
                done = self._run_claimed(list(claimed.values()))
                for place, result in zip(claimed, done, strict=True):
                    found[place] = result
        finally:
            for member in claimed.values():
                self.store.release(member.step.key or "")
        return found

    def _run_claimed(self, members: list[Member]) -> list[Step | None]:
        first = members[0].step
        assert isinstance(first.node.type, NodeType)
        many = first.node.type.many
        assert many is not None
        identity = self._identity(first)
        is_sound = self._known_soundness(identity)
        if is_sound is False:
            self._note(first, _DIFFERS)
            return [None] * len(members)
        for member in members:
            self.queue.started(member.step, member.step.reason)
        if is_sound is None:
            checked, is_sound = self._check(members[:CHECKED], many, identity)
            rest = members[len(checked) :]
            if not is_sound or not rest:
                return [*checked, *[None] * len(rest)]
            return [*checked, *self._compute(rest, many, identity)]
        return self._compute(members, many, identity)

    def _compute(self, members: list[Member], many: Many, identity: str) -> list[Step | None]:
        """Call the node's function for many items; in halves if memory runs out."""
        if len(members) < 2:
            return [None] * len(members)
        calls, ran_out = self._call(members, many)
        if ran_out:
            half = len(members) // 2
            self.pool.group_sizes[identity] = half
            return [
                *self._compute(members[:half], many, identity),
                *self._compute(members[half:], many, identity),
            ]
        if calls is None:
            return [None] * len(members)
        return self._complete(members, calls)

    def _call(self, members: list[Member], many: Many) -> tuple[list[CallResult] | None, bool]:
        """Call it, and tell whether memory ran out. What else it raises is left to the steps alone:
        it may be the fault of one of them (see `review`).
        """
        ran_out = False
        try:
            calls = self.runner.caller.call_group([(m.frame, m.step) for m in members], many)
        except (Cancelled, Rekey, Damaged):
            raise
        except Exception as error:
            ran_out = is_out_of_memory(error)
            calls = None
            # It breaks the rules of such functions, which no item alone would show. (Subclasses
            # are about models and the store.)
            if type(error) is ImagenFlowError:
                self._note(members[0].step, f"computed one by one: {error}")
            elif not ran_out:
                self._raised.append(([m.step for m in members], describe_error(error)))
        else:
            if calls is None and (group := self.group_of(members[0].step)) is not None:
                self._refused.add(group)
        if ran_out and not self.pool.evict_idle():
            # Only here is the traceback gone that kept the tensors of the failed call.
            give_back()
        return calls, ran_out

    def _complete(self, members: list[Member], calls: Sequence[CallResult]) -> list[Step | None]:
        done: list[Step | None] = []
        for member, call in zip(members, calls, strict=True):
            try:
                done.append(self.runner.complete(member.step, call))
            except (Cancelled, Rekey, Damaged):
                raise
            except Exception:  # its result does not fit; run alone, it says so
                done.append(None)
        return done

    def review(self) -> None:
        """Look back at what was raised, now that the steps have run alone: where none of them
        failed, the function for many items did. It is told, and not asked for the like again.
        """
        raised, self._raised = self._raised, []
        for steps, error in raised:
            if all(self.runner.has_run(step) for step in steps):
                if (group := self.group_of(steps[0])) is not None:
                    self._refused.add(group)
                self._note(
                    steps[0], f"computed one by one: its function for many items raised {error}"
                )

    # ---- whether groups are sound

    def _check(
        self, members: list[Member], many: Many, identity: str
    ) -> tuple[list[Step | None], bool]:
        """Compute items together and alone, and keep whether the results agree. Returns the steps,
        and whether more can be computed together.
        """
        nothing: list[Step | None] = [None] * len(members)
        together, _ = self._call(members, many)
        if together is None:
            return nothing, False
        alone: list[CallResult] = []
        for member in members:
            try:
                alone.append(self.runner.caller.call(member.frame, member.step))
            except (Cancelled, Rekey, Damaged):
                raise
            except Exception:
                return nothing, False
        is_sound = all(
            agree(lone.result, grouped.result, exact=many.exact)
            for lone, grouped in zip(alone, together, strict=True)
        )
        self._keep_soundness(identity, is_sound)
        if not is_sound:
            self._note(members[0].step, _DIFFERS)
        return self._complete(members, together if is_sound else alone), is_sound

    def _identity(self, step: Step) -> str:
        """Name what decides whether groups are sound: what computes, the models, and the machine."""
        type_ = step.node.type
        assert isinstance(type_, NodeType)
        slots = step.slots or {}
        models = {port: [leaf.digest for leaf in at_port(slots, port)] for port in type_.loaders}
        conditions = self.runner.caller.known_conditions(step)
        parts = ["grouping", self.state.keys.prefix(step.node), models, dict(conditions)]
        return blake2b(canonical(parts), digest_size=SIZE).hexdigest()

    def _known_soundness(self, identity: str) -> bool | None:
        known = self.pool.sound_groups.get(identity)
        if known is None and (record := self.store.lookup(identity)) is not None:
            digests = {self.state.values.codecs.artifact(b).digest: b for b in (True, False)}
            answer = record.outputs.get("sound")
            known = digests.get(answer.digest) if answer is not None else None
        return known

    def _keep_soundness(self, identity: str, is_sound: bool) -> None:
        self.pool.sound_groups[identity] = is_sound
        artifact = self.state.values.codecs.artifact(is_sound)
        self.store.keep(identity, {"sound": (artifact, is_sound)}, {})

    def _note(self, step: Step, note: str) -> None:
        """Say once of a node type and its models why they are not grouped."""
        said = (self._identity(step), note)
        if said not in self._noted:
            self._noted.add(said)
            self.queue.note(step, note)


def _size_of(value: Any) -> Hashable:
    """Give what of a value must agree in a group: the size of a picture, the shape and tags of a
    tensor, whether there is a value at all.
    """
    if isinstance(value, list | tuple):
        return tuple(_size_of(item) for item in value)
    if isinstance(value, Image | Mask):
        return (type(value).__name__, value.pixels.shape, str(value.pixels.dtype))
    if isinstance(value, Tensor):
        return ("Tensor", value.shape, value.dtype, tuple(sorted(value.tags.items())))
    if isinstance(value, Audio):
        return ("Audio", value.samples.shape, value.rate)
    return value is None


def agree(a: Any, b: Any, *, exact: bool) -> bool:
    """Tell whether two results are equal: to the bit, or in numbers within one level of 8 bits."""
    import numpy as np

    if isinstance(a, list | tuple):
        return (
            isinstance(b, list | tuple)
            and len(a) == len(b)
            and all(agree(one, other, exact=exact) for one, other in zip(a, b, strict=True))
        )
    if isinstance(a, Mapping):
        return (
            isinstance(b, Mapping)
            and a.keys() == b.keys()
            and all(agree(a[name], b[name], exact=exact) for name in a)
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        if a.tags != b.tags or a.dtype != b.dtype:
            return False
        x, y = a.numpy(), b.numpy()
    elif isinstance(a, Image | Mask):
        x, y = a.pixels, b.pixels
    elif isinstance(a, Audio):
        x, y = a.samples, b.samples
    elif isinstance(a, float) and not exact:
        return abs(a - b) <= max(1.0, abs(a)) / 255
    else:
        return bool(a == b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if exact or not x.size or x.dtype.kind == "b":
        return x.tobytes() == y.tobytes()
    if x.dtype.kind in "iu":
        level = 1.0 if x.dtype.itemsize == 1 else (int(np.iinfo(x.dtype).max) + 1) / 256 + 1
    else:
        level = max(1.0, float(np.abs(x).max())) / 255
    return bool(np.abs(x.astype("float64") - y.astype("float64")).max() <= level)
