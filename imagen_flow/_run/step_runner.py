"""Run one step: claim its key, call its function as often as its `retry` allows, and keep its
result. Also read values, recomputing those that are damaged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from .._models import ModelPool
from .._plan import FAILED, FORCED, Frame, State, Step, after_error, leaves, why
from .._store import Damaged, Store
from .._types.artifact import Artifact
from .._types.node import NodeType
from .._types.values import FileChanged
from ..errors import Cancelled
from ..events import StepRetried, step_title
from .call import Caller, CallResult
from .event_queue import EventQueue, describe_error
from .model_lookahead import ModelLookahead
from .results import Results
from .value_cache import ValueCache

__all__ = ["Rekey", "StepRunner"]

#: The longest wait before a retry, however often it was doubled.
MAX_WAIT_S = 86_400

#: How long to wait at a time for another process that is computing the step.
LEASE_S = 0.2

#: The reason of a step that runs although the store has its key.
_DAMAGED_REASON = "the store's copy is damaged"


class Rekey(Exception):
    """The keys of steps are outdated: settle the steps again. Names the step whose value or file
    has changed.
    """


class _Failure(NamedTuple):
    """How a step failed. Other steps with the same key fail likewise, unless they allow more
    attempts or more time.
    """

    cause: Exception
    attempts: int
    timeout_s: float | None


class StepRunner:
    """Runs the steps of one run, and gives their values. Steps with equal keys are one step and run
    once, whether forced, failing or both; steps with `cache: false` each run for themselves.

    Params:
        inputs: the values of the graph's inputs, by item; files that changed are replaced here.
    """

    def __init__(
        self,
        state: State,
        store: Store,
        pool: ModelPool,
        queue: EventQueue,
        *,
        inputs: Mapping[str, dict[str, Any]],
        cache: ValueCache,
        cancel: threading.Event,
    ) -> None:
        self.state = state
        self.store = store
        self.queue = queue
        self.inputs = inputs
        self.cache = cache
        self.cancel = cancel
        self.caller = Caller(
            state.keys,
            store,
            pool,
            queue,
            value=self.value,
            lookahead=ModelLookahead(state),
            cancel=cancel,
        )
        self._results = Results(state, store, cache)
        self._constants = state.values.constants.by_digest
        self._lost_digests = state.keying.lost
        #: The outputs of the steps of this run, by key, or by key and name if a step is not cached.
        self._outputs: dict[str, dict[str, Artifact]] = {}
        self._failures: dict[str, _Failure] = {}
        #: Keys that steps of several items have, as far as is known.
        self._shared_keys = shared_keys(state)
        #: The steps that produce values, by digest; collected when the first value is damaged.
        self._producers: dict[str, tuple[Frame, Step]] | None = None
        #: How often all steps had to be settled again.
        self.restarts = 0

    # ---- values

    def value(self, artifact: Artifact) -> Any:
        """Give a value from memory or from the store; recompute it if the stored one is damaged.

        Raises:
            Rekey: the recomputed value is different.
            Damaged: no step of this run produces it.
        """
        if artifact.items is not None:
            items = [self.value(item) for item in artifact.items]
            return dict(zip(artifact.fields, items, strict=True)) if artifact.fields else items
        digest = artifact.digest
        if digest in self._constants:
            return self._constants[digest]
        if digest in self.cache:
            return self.cache[digest]
        if (named := self.state.values.named.get(digest)) is not None:
            return replace(self.value(named), significant_name="")
        try:
            value = self.store.load(artifact)
        except Damaged as error:
            value = self._recompute(artifact, error)
        self.cache.add(digest, value)
        return value

    def _recompute(self, artifact: Artifact, damaged: Damaged) -> Any:
        """Run the step again whose stored value is damaged, and before it those whose values it
        needs and that are damaged too.
        """
        pending = [(artifact, damaged)]
        while True:
            current, current_error = pending[-1]
            self._lost_digests.add(current.digest)
            if self._producers is None:
                self._producers = self.state.makers()
            frame, step = self._producers.get(current.digest, (None, None))
            if frame is None or step is None or step.slots is None:
                raise current_error
            for slot in (leaf for s in step.slots.values() for leaf in leaves(s)):
                slot = self.state.values.named.get(slot.digest, slot)
                if slot.digest in self._constants or slot.digest in self.cache:
                    continue
                try:
                    self.cache.add(slot.digest, self.store.load(slot))
                except Damaged as also_damaged:
                    pending.append((slot, also_damaged))
                    break
            else:
                self.queue.damaged(step, current_error)
                rerun_step = self.run(
                    frame, step._replace(status="runs", reason=_DAMAGED_REASON, outputs=None)
                )
                if current.digest not in self.cache:
                    # The value is different this time, or absent: whoever needed the old one is
                    # keyed again.
                    raise Rekey(step_title(rerun_step.name, rerun_step.item))
                pending.pop()
                if not pending:
                    return self.cache[current.digest]

    # ---- one step

    def run(self, frame: Frame, step: Step, *, fresh: bool = False) -> Step:
        """Run a step, or use its result if another process has produced it since the store was
        asked (unless the lookup is `fresh`). Returns the step with its outputs; a failure is an
        event, not an exception.

        Raises:
            Cancelled: the run was cancelled.
            Rekey: a file that it reads, or a value that it needs, has changed.
            Damaged: a value that it needs is lost for good.
        """
        key = step.key
        assert key is not None
        run_key = key if step.node.cache else f"{key} {step_title(step.name, step.item)}"
        if (known := self._known_without_claim(step, run_key)) is not None:
            return known
        if step.node.cache:
            look_up = step.reason not in (_DAMAGED_REASON, FORCED)
            stored = self._claim(step, key, look_up=look_up, fresh=fresh)
            if stored is not None:
                return self._reuse(step, stored)
        reason = why(self.state, step)
        if reason == FORCED:
            self.state.keying.forced.add(key)
        self.queue.started(step, reason)
        began = time.monotonic()
        try:
            outputs = self._run_with_retries(frame, step, run_key)
        except (Cancelled, Rekey, Damaged):
            raise
        except Exception as error:
            self.queue.fail(step, error)
            return _as_failed(step, error)
        finally:
            if step.node.cache:
                self.store.release(key)
        self._outputs[run_key] = outputs
        self._failures.pop(run_key, None)
        self.queue.finished(step, time.monotonic() - began)
        return Step(
            step.name,
            step.item,
            step.node,
            step.element,
            "ran",
            reason,
            key,
            step.slots,
            outputs,
        )

    def claim(self, step: Step, *, fresh: bool) -> Step | None:
        """Claim the key of a step that is cached, to run it with others; return it if its outcome is
        known, or with its reason to run. None if another process is computing it.
        """
        key = step.key
        assert key is not None and step.node.cache
        if (known := self._known_without_claim(step, key)) is not None:
            return known
        if not self.store.lease(key, wait_s=0.0, cancel=self.cancel):
            return None
        assert isinstance(step.node.type, NodeType)
        if step.reason != FORCED and not fresh:
            found = self.state.keying.look_up(key, step.node.type)
            if found is not None:
                self.store.release(key)
                return self._reuse(step, found)
        if step.reason == FORCED:
            self.state.keying.forced.add(key)
        return step._replace(reason=why(self.state, step))

    def complete(self, step: Step, call: CallResult) -> Step:
        """Keep the result of a step that was claimed and run with others."""
        assert step.key is not None
        outputs = self._results.keep(step, call)
        self._outputs[step.key] = outputs
        self._failures.pop(step.key, None)
        self.queue.finished(step, call.took_s)
        return step._replace(status="ran", outputs=outputs)

    def has_run(self, step: Step) -> bool:
        """Tell whether a step has run, or one with the same key."""
        return step.key in self._outputs

    def _known_without_claim(self, step: Step, run_key: str) -> Step | None:
        """Return a step whose outcome is known from this run."""
        is_remake = step.reason == _DAMAGED_REASON
        if not is_remake:
            outputs = self._outputs.get(run_key)
            if outputs is not None and not self._is_lost(outputs):
                return self._reuse(step, outputs)
            failure = self._failures.get(run_key)
            if failure is not None and _is_final(failure, step):
                if not self.queue.has_outcome(step):
                    self.queue.fail(step, failure.cause)
                return _as_failed(step, failure.cause)
        return None

    def _reuse(self, step: Step, outputs: dict[str, Artifact]) -> Step:
        """Report that a step need not run, because one with the same key has run, in this run or
        another.
        """
        if step.key is not None:
            self._shared_keys.add(step.key)
        found = step._replace(status="cached", outputs=outputs)
        self.queue.settled(found)
        return found

    def _is_lost(self, outputs: dict[str, Artifact]) -> bool:
        return bool(self._lost_digests) and any(
            leaf.digest in self._lost_digests
            for artifact in outputs.values()
            for leaf in leaves(artifact)
        )

    def _claim(
        self, step: Step, key: str, *, look_up: bool, fresh: bool
    ) -> dict[str, Artifact] | None:
        """Claim the key of a step, waiting for another process that is computing it; return the
        outputs if they exist by then.
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

    def _run_with_retries(self, frame: Frame, step: Step, run_key: str) -> dict[str, Artifact]:
        """Run a step as often as its `retry` allows; return its outputs."""
        node = step.node
        earlier_failure = self._failures.get(run_key)
        for attempt in range(
            earlier_failure.attempts
            if earlier_failure is not None and node.timeout_s == earlier_failure.timeout_s
            else 0,
            node.retries + 1,
        ):
            try:
                return self._results.keep(step, self.caller.call(frame, step))
            except (Cancelled, Rekey, Damaged):
                raise
            except FileChanged as changed:
                if not self.state.values.reread(self.state.tops, step):
                    raise ValueError(str(changed)) from changed
                for (item, name), value in self.state.values.given.items():
                    self.inputs[item][name] = value
                raise Rekey(step_title(step.name, step.item)) from changed
            except Exception as error:
                if attempt == node.retries:
                    self._failures[run_key] = _Failure(error, attempt + 1, node.timeout_s)
                    raise
                self.queue.put(
                    StepRetried(
                        step.name, step.item, attempt + 1, describe_error(error), self.queue.now()
                    )
                )
            if self.cancel.wait(min(node.backoff_s * 2**attempt, MAX_WAIT_S)):
                raise Cancelled
        raise AssertionError("the last attempt returns or raises")

    def index_outputs(self, frame: Frame, steps: Iterable[Step]) -> None:
        """Add steps to the index of which step produces which value, if there is one."""
        if self._producers is not None:
            for step in steps:
                for artifact in (step.outputs or {}).values():
                    for leaf in leaves(artifact):
                        self._producers.setdefault(leaf.digest, (frame, step))

    def restart(self) -> None:
        """Have all steps settled again, because something that keys depend on has changed. Steps
        that ran do not run again unless their keys change.
        """
        self.state.restart()
        self._producers = None
        self.restarts += 1

    def release(self, top: Frame) -> None:
        """Let go of what an item that is finished held in memory, unless others share it."""
        kept = {leaf.digest for slot in top.inputs.values() for leaf in leaves(slot)}
        for frame in top.all():
            for known in frame.states.values():
                for step in known.steps:
                    if step.key in self._shared_keys:
                        continue
                    for artifact in (step.outputs or {}).values():
                        for leaf in leaves(artifact):
                            if leaf.digest not in kept:
                                self.cache.drop(leaf.digest)
        self.state.release(top)


def shared_keys(state: State) -> set[str]:
    """Give the keys that steps of several items have."""
    if len(state.tops) == 1:
        return set()
    first: dict[str, str] = {}
    return {
        step.key
        for frame, step in state.steps()
        if step.key is not None and first.setdefault(step.key, frame.item) != frame.item
    }


def _as_failed(step: Step, cause: Exception) -> Step:
    return step._replace(
        status="failed",
        reason=describe_error(cause),
        outputs=dict.fromkeys(step.node.type.outputs, after_error(FAILED, step.node.on_error)),
    )


def _is_final(failure: _Failure, step: Step) -> bool:
    """Tell whether a step is certain to fail where another one with the same key failed."""
    return step.node.retries < failure.attempts and (
        not isinstance(failure.cause, TimeoutError) or step.node.timeout_s == failure.timeout_s
    )
