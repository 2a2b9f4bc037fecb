"""Carry out one step: claim its key, call its function as often as its `retry` allows, take in what it gives. And give values, making again what is damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from ..artifact import Artifact
from ..errors import Cancelled, ImagenFlowError
from ..events import StepRetried
from ..models import ModelPool
from ..node import NodeType
from ..plan import ABSENT, Frame, Plan, Step, leaves, why
from ..ports import BadValue
from ..store import Damaged, Store
from ..values import Absent, FileChanged
from .ahead import Ahead
from .call import Called, Caller
from .live import LiveValues
from .report import Report, words

__all__ = ["Rekey", "Steps", "reopen_above"]

#: How long a retry waits at most, however often the wait was doubled.
LONGEST_WAIT_S = 86_400

#: How long the store is waited for at a time while another process has a step in the making.
LEASE_S = 0.2

#: Reasons for which a step runs whatever the store holds.
_FORCED = "it is forced"
_DAMAGED = "the store's copy is damaged"


class Rekey(Exception):
    """What a step was keyed by is no longer so: settle it again. Names the step whose value or file is another now."""


class Steps:
    """Runs the steps of a plan, and gives their values."""

    def __init__(self, plan: Plan, store: Store, pool: ModelPool, report: Report, *, live: LiveValues, cancel: threading.Event) -> None:
        self.plan = plan
        self.planner = plan.planner
        self.store = store
        self.report = report
        self.live = live
        self.cancel = cancel
        self.caller = Caller(self.planner.keys, store, pool, report, value=self.value, ahead=Ahead(plan), cancel=cancel)
        self._constants = self.planner.values.constants.by_digest
        self._made: set[str] = set()

    # -- values ------------------------------------------------------------------------------------------------------------------

    def value(self, artifact: Artifact) -> Any:
        """Give a value: from memory, else from the store; one that is damaged there is made again first.

        Raises:
            Rekey: made again it came out otherwise.
            Damaged: nothing of this run makes it.
        """
        if artifact.items is not None:
            return [self.value(item) for item in artifact.items]
        digest = artifact.digest
        if digest in self._constants:
            return self._constants[digest]
        if digest in self.live:
            return self.live[digest]
        try:
            value = self.store.load(artifact)
        except Damaged as damaged:
            value = self._remake(artifact, damaged)
        self.live.put(digest, value)
        return value

    def _remake(self, artifact: Artifact, damaged: Damaged) -> Any:
        """Run again the step whose kept value is damaged, and before it those whose values it needs and that are damaged too."""
        pending = [(artifact, damaged)]
        while True:
            lost, damage = pending[-1]
            step = self.planner.makers.get(lost.digest)
            if step is None or step.slots is None:
                raise damage
            for slot in (leaf for s in step.slots.values() for leaf in leaves(s)):
                if slot.digest in self._constants or slot.digest in self.live:
                    continue
                try:
                    self.live.put(slot.digest, self.store.load(slot))
                except Damaged as also:
                    pending.append((slot, also))
                    break
            else:
                self.report.damaged(step, damage)
                step.reason = _DAMAGED
                try:
                    self.run(step)
                except Rekey:
                    for needing, _ in pending:
                        _reopen(self.planner.makers[needing.digest])
                    self._reopen_holders(lost)
                    raise
                if lost.digest not in self.live:
                    # It came out otherwise this time: whoever asked for the old value is keyed anew.
                    self._revise(step)
                    for needing, _ in pending[:-1]:
                        _reopen(self.planner.makers[needing.digest])
                    self._reopen_holders(lost)
                    raise Rekey(step.name + step.item)
                pending.pop()
                if not pending:
                    return self.live[lost.digest]

    def _revise(self, step: Step) -> None:
        """Let what reads a step see what it gave this time."""
        step.frame.states[step.node.name].done = False
        self.planner.settle(step.frame, step.node)
        reopen_above(step.frame)

    def _reopen_holders(self, lost: Artifact) -> None:
        """Key anew the steps that handed on a value which cannot be had any more."""
        pending = [self.plan.frame]
        while pending:
            for state in pending.pop().states.values():
                pending += state.frames
                for step in state.steps:
                    if any(leaf.digest == lost.digest for slot in (step.outputs or {}).values() for leaf in leaves(slot)):
                        _reopen(step)

    # -- one step ----------------------------------------------------------------------------------------------------------------

    def run(self, step: Step, *, fresh: bool = False) -> None:
        """Run a step, or take what another process has made of it since the store was asked (unless that is `fresh`). Its failure is an event, not an exception.

        Raises:
            Cancelled: the run was cancelled.
            Rekey: a file that it reads, or a value that it needs, is another now.
            Damaged: a value that it needs is lost for good.
        """
        key = step.key
        assert key is not None
        is_forced = step.reason in (_FORCED, _DAMAGED)
        if key in self._made and not is_forced and self.planner.look_up(step):
            self.report.settled(step)  # a step of equal key has run; its claim ends only when its record is written
            return
        cache = step.node.cache
        if cache and self._claim(step, key, look_up=not is_forced, fresh=fresh):
            return
        if not step.reason:
            step.reason = why(self.planner, step)
        self.report.started(step)
        began = time.monotonic()
        try:
            self._attempt(step)
        except (Cancelled, Rekey, Damaged):
            raise
        except Exception as failed:
            self.report.fail(step, failed)
            return
        finally:
            if cache:
                self.store.release(key)
        step.status = "ran"
        if cache:
            self._made.add(key)
        self.report.finished(step, time.monotonic() - began)

    def _claim(self, step: Step, key: str, *, look_up: bool, fresh: bool) -> bool:
        """Claim the making of a step, waiting for another process that makes it; give True if it has been made by then."""
        waited = False
        while not self.store.lease(key, wait_s=LEASE_S if waited else 0.0, cancel=self.cancel):
            waited = True
            if self.cancel.is_set():
                raise Cancelled
        if look_up and (waited or not fresh) and self.planner.look_up(step):
            self.store.release(key)
            self.report.settled(step)
            return True
        return False

    def _attempt(self, step: Step) -> None:
        """Run a step as often as its `retry` allows."""
        node = step.node
        for attempt in range(node.retries + 1):
            try:
                self._take(step, self.caller.call(step))
                return
            except (Cancelled, Rekey, Damaged):
                raise
            except FileChanged as changed:
                if not self.planner.values.reread(self.plan.frame, step):
                    raise ValueError(str(changed)) from changed
                self.plan.inputs.update(self.planner.values.given)
                raise Rekey(step.name + step.item) from changed
            except Exception as failed:
                if attempt == node.retries:
                    raise
                self.report.say(StepRetried(step.name, step.item, attempt + 1, words(failed), self.report.now()))
            if self.cancel.wait(min(node.backoff_s * 2**attempt, LONGEST_WAIT_S)):
                raise Cancelled

    def _take(self, step: Step, called: Called) -> None:
        """Check, digest and keep what a node gave."""
        type_ = step.node.type
        assert isinstance(type_, NodeType) and step.key is not None
        names = list(type_.outputs)
        result = called.result
        if type_.named_outputs:
            if not isinstance(result, tuple) or len(result) != len(names):
                raise ImagenFlowError(f"it gave {type(result).__name__}, not its outputs {', '.join(names)}")
            values = dict(zip(names, result, strict=True))
        else:
            values = {names[0]: result}
        kept = {name: self._taken(type_, name, value) for name, value in values.items()}
        if step.node.cache:
            inputs = {name: slot.digest for name, slot in (step.slots or {}).items()}
            provenance = {"made_with": self.planner.keys.computes_with(step.node), "inputs": inputs, "took_s": round(called.took_s, 6)}
            if type_.uses_torch:
                provenance |= {"conditions": self.caller.conditions, "rungs": list(called.rungs)}
            self.store.keep(step.key, kept, provenance)
        self.planner.gave(step, {name: artifact for name, (artifact, _) in kept.items()})
        if "scratch" in type_.injected.values():
            if step.node.cache:
                self.store.flush()
            self.store.drop_scratch(step.key)

    def _taken(self, type_: NodeType, name: str, value: Any) -> tuple[Artifact, Any]:
        """Check and digest one output, and hold it in memory."""
        if value is Absent or value is Absent.value:
            return ABSENT, Absent.value
        try:
            value = type_.outputs[name].type.check(value)
        except BadValue as odd:
            raise ImagenFlowError(f"its output '{name}' {odd}".replace("takes the output of a node that gives", "takes").replace("takes", "is to be")) from None
        value = self.store.adopt(value)
        artifact = self.planner.values.codecs.artifact(value)
        if artifact.items is None:
            self.live.put(artifact.digest, value)
        else:
            for leaf, item in zip(leaves(artifact), _flat(artifact, value), strict=True):
                self.live.put(leaf.digest, item)
        return artifact, value


def reopen_above(frame: Frame) -> None:
    """Let the nodes around a frame be settled again."""
    while frame.parent is not None:
        frame, node = frame.parent
        state = frame.states[node.name]
        state.outputs, state.done = None, False


def _reopen(step: Step) -> None:
    """Key a step anew the next time it is asked for."""
    step.status, step.outputs = "waits", None
    state = step.frame.states[step.node.name]
    state.outputs, state.done = None, False
    reopen_above(step.frame)


def _flat(artifact: Artifact, value: Any) -> Iterator[Any]:
    if artifact.items is None:
        yield value
    else:
        for item, element in zip(artifact.items, value, strict=True):
            yield from _flat(item, element)
