"""Carry out one step: claim its key, call its function as often as its `retry` allows, take in what
it gives. And give values, making again what is damaged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .._models import ModelPool
from .._plan import ABSENT, FAILED, FORCED, Frame, State, Step, leaves, why
from .._store import Damaged, Store
from .._types.artifact import Artifact
from .._types.node import NodeType
from .._types.ports import BadValue
from .._types.values import Absent, FileChanged
from ..errors import Cancelled, ImagenFlowError
from ..events import StepRetried
from .call import Called, Caller
from .event_queue import Report, words
from .model_lookahead import Ahead
from .value_cache import LiveValues

__all__ = ["Rekey", "Steps"]

#: How long a retry waits at most, however often the wait was doubled.
MAX_WAIT_S = 86_400

#: How long the store is waited for at a time while another process has a step in the making.
LEASE_S = 0.2

#: Reasons for which a step runs whatever the store holds.
_DAMAGED = "the store's copy is damaged"


class Rekey(Exception):
    """What steps were keyed by is no longer so: settle them again. Names the step whose value or
    file is another now.
    """


class _Failure(NamedTuple):
    """How a step failed: others of the same key fail so too, unless they may be tried more often,
    or for longer.
    """

    cause: Exception
    attempts: int
    timeout_s: float | None


class Steps:
    """Runs the steps of one run, and gives their values. Steps of equal key are one: it runs once,
    whether it is forced, fails or both; those that say `cache: false` each for itself.

    Params:
        inputs: the values of the graph's inputs; files that changed are put there anew.
    """

    def __init__(
        self,
        state: State,
        store: Store,
        pool: ModelPool,
        report: Report,
        *,
        inputs: dict[str, Any],
        live: LiveValues,
        cancel: threading.Event,
    ) -> None:
        self.state = state
        self.store = store
        self.report = report
        self.inputs = inputs
        self.live = live
        self.cancel = cancel
        self.caller = Caller(
            state.keys, store, pool, report, value=self.value, ahead=Ahead(state), cancel=cancel
        )
        self._constants = state.values.constants.by_digest
        self._lost = state.keying.lost
        #: What steps gave in this run, by key; of those that are not kept by name too, since each
        # is one for itself.
        self._made: dict[str, dict[str, Artifact]] = {}
        self._failed: dict[str, _Failure] = {}
        #: Which step gives a value; made when the first is damaged.
        self._makers: dict[str, tuple[Frame, Step]] | None = None

    # -- values
    # ------------------------------------------------------------------------------------------------------------------

    def value(self, artifact: Artifact) -> Any:
        """Give a value: from memory, else from the store; one that is damaged there is made again
        first.

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
        """Run again the step whose kept value is damaged, and before it those whose values it needs
        and that are damaged too.
        """
        pending = [(artifact, damaged)]
        while True:
            lost, damage = pending[-1]
            self._lost.add(lost.digest)
            if self._makers is None:
                self._makers = self.state.makers()
            frame, step = self._makers.get(lost.digest, (None, None))
            if frame is None or step is None or step.slots is None:
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
                again = self.run(frame, step._replace(status="runs", reason=_DAMAGED, outputs=None))
                if lost.digest not in self.live:
                    # It came out otherwise this time, or not at all: whoever asked for the old
                    # value is keyed anew.
                    raise Rekey(again.name + again.item)
                pending.pop()
                if not pending:
                    return self.live[lost.digest]

    # -- one step
    # ----------------------------------------------------------------------------------------------------------------

    def run(self, frame: Frame, step: Step, *, fresh: bool = False) -> Step:
        """Run a step, or take what another process has made of it since the store was asked (unless
        that is `fresh`). Gives the step with its outputs; its failure is an event, not an
        exception.

        Raises:
            Cancelled: the run was cancelled.
            Rekey: a file that it reads, or a value that it needs, is another now.
            Damaged: a value that it needs is lost for good.
        """
        key = step.key
        assert key is not None
        shared = key if step.node.cache else f"{key} {step.name}{step.item}"
        is_again = step.reason == _DAMAGED
        if not is_again:
            if (made := self._made.get(shared)) is not None and not self._lacks(made):
                return self._found(step, made)
            if (failure := self._failed.get(shared)) is not None and _is_final(failure, step):
                if not self.report.has_said(step):
                    self.report.fail(step, failure.cause)
                return _failed(step, failure.cause)
        if (
            step.node.cache
            and (
                found := self._claim(
                    step, key, look_up=not is_again and step.reason != FORCED, fresh=fresh
                )
            )
            is not None
        ):
            return self._found(step, found)
        if not step.reason:
            step = Step(
                step.name,
                step.item,
                step.node,
                step.element,
                step.status,
                why(self.state, step),
                key,
                step.slots,
            )
        if step.reason == FORCED:
            self.state.keying.forced.add(key)
        self.report.started(step)
        began = time.monotonic()
        try:
            outputs = self._attempt(frame, step, shared)
        except (Cancelled, Rekey, Damaged):
            raise
        except Exception as failed:
            self.report.fail(step, failed)
            return _failed(step, failed)
        finally:
            if step.node.cache:
                self.store.release(key)
        self._made[shared] = outputs
        self._failed.pop(shared, None)
        self.report.finished(step, time.monotonic() - began)
        return Step(
            step.name,
            step.item,
            step.node,
            step.element,
            "ran",
            step.reason,
            key,
            step.slots,
            outputs,
        )

    def _found(self, step: Step, outputs: dict[str, Artifact]) -> Step:
        """Say of a step that it need not run: one of equal key has, in this run or another."""
        found = step._replace(status="cached", outputs=outputs)
        self.report.settled(found)
        return found

    def _lacks(self, outputs: dict[str, Artifact]) -> bool:
        return bool(self._lost) and any(
            leaf.digest in self._lost for artifact in outputs.values() for leaf in leaves(artifact)
        )

    def _claim(
        self, step: Step, key: str, *, look_up: bool, fresh: bool
    ) -> dict[str, Artifact] | None:
        """Claim the making of a step, waiting for another process that makes it; give its outputs
        if it has been made by then.
        """
        waited = False
        while not self.store.lease(key, wait_s=LEASE_S if waited else 0.0, cancel=self.cancel):
            waited = True
            if self.cancel.is_set():
                raise Cancelled
        assert isinstance(step.node.type, NodeType)
        if (
            look_up
            and (waited or not fresh)
            and (found := self.state.keying.look_up(key, step.node.type)) is not None
        ):
            self.store.release(key)
            return found
        return None

    def _attempt(self, frame: Frame, step: Step, shared: str) -> dict[str, Artifact]:
        """Run a step as often as its `retry` allows; give its outputs."""
        node = step.node
        before = self._failed.get(shared)
        for attempt in range(
            before.attempts if before is not None and node.timeout_s == before.timeout_s else 0,
            node.retries + 1,
        ):
            try:
                return self._take(step, self.caller.call(frame, step))
            except (Cancelled, Rekey, Damaged):
                raise
            except FileChanged as changed:
                if not self.state.values.reread(self.state.top, step):
                    raise ValueError(str(changed)) from changed
                self.inputs.update(self.state.values.given)
                raise Rekey(step.name + step.item) from changed
            except Exception as failed:
                if attempt == node.retries:
                    self._failed[shared] = _Failure(failed, attempt + 1, node.timeout_s)
                    raise
                self.report.say(
                    StepRetried(step.name, step.item, attempt + 1, words(failed), self.report.now())
                )
            if self.cancel.wait(min(node.backoff_s * 2**attempt, MAX_WAIT_S)):
                raise Cancelled
        raise AssertionError("the last attempt returns or raises")

    def _take(self, step: Step, called: Called) -> dict[str, Artifact]:
        """Check, digest and keep what a node gave."""
        type_ = step.node.type
        assert isinstance(type_, NodeType) and step.key is not None
        names = list(type_.outputs)
        result = called.result
        if type_.named_outputs:
            if not isinstance(result, tuple) or len(result) != len(names):
                raise ImagenFlowError(
                    f"it gave {type(result).__name__}, not its outputs {', '.join(names)}"
                )
            values = dict(zip(names, result, strict=True))
        else:
            values = {names[0]: result}
        kept = {name: self._taken(type_, name, value) for name, value in values.items()}
        if step.node.cache:
            inputs = {name: slot.digest for name, slot in (step.slots or {}).items()}
            provenance: dict[str, Any] = {
                "made_with": self.state.keys.computes_with(step.node),
                "inputs": inputs,
                "took_s": round(called.took_s, 6),
            }
            if type_.uses_torch:
                provenance |= {"conditions": dict(called.conditions), "rungs": list(called.rungs)}
            if called.notes:
                provenance["notes"] = list(called.notes)
            self.store.keep(step.key, kept, provenance)
        outputs = {name: artifact for name, (artifact, _) in kept.items()}
        if self._lost:
            self._lost.difference_update(
                leaf.digest for artifact in outputs.values() for leaf in leaves(artifact)
            )
        if "scratch" in type_.injected.values():
            if step.node.cache:
                self.store.flush()
            self.store.drop_scratch(step.key)
        return outputs

    def _taken(self, type_: NodeType, name: str, value: Any) -> tuple[Artifact, Any]:
        """Check and digest one output, and hold it in memory."""
        if value is Absent or value is Absent.value:
            return ABSENT, Absent.value
        try:
            value = type_.outputs[name].type.check(value)
        except BadValue as error:
            raise ImagenFlowError(
                f"its output '{name}' {error}".replace(
                    "takes the output of a node that gives", "takes"
                ).replace("takes", "must be")
            ) from None
        value = self.store.adopt(value)
        artifact = self.state.values.codecs.artifact(value)
        if artifact.items is None:
            self.live.put(artifact.digest, value)
        else:
            for leaf, item in zip(leaves(artifact), _flat(artifact, value), strict=True):
                self.live.put(leaf.digest, item)
        return artifact, value

    def learned(self, frame: Frame, steps: Iterable[Step]) -> None:
        """Note which steps give values, where that is asked already."""
        if self._makers is not None:
            for step in steps:
                for artifact in (step.outputs or {}).values():
                    for leaf in leaves(artifact):
                        self._makers.setdefault(leaf.digest, (frame, step))

    def restart(self) -> None:
        """Let everything be settled again: something that steps were keyed by is another now. What
        ran does not run again unless it is another step now.
        """
        self.state.restart()
        self._makers = None


def _failed(step: Step, cause: Exception) -> Step:
    return step._replace(
        status="failed", reason=words(cause), outputs=dict.fromkeys(step.node.type.outputs, FAILED)
    )


def _is_final(failure: _Failure, step: Step) -> bool:
    """Whether a step fails for certain where one of equal key did."""
    return step.node.retries < failure.attempts and (
        not isinstance(failure.cause, TimeoutError) or step.node.timeout_s == failure.timeout_s
    )


def _flat(artifact: Artifact, value: Any) -> Iterator[Any]:
    if artifact.items is None:
        yield value
    else:
        for item, element in zip(artifact.items, value, strict=True):
            yield from _flat(item, element)
