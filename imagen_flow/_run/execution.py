"""Put a run together: what it has open while it goes, the thread that it works in, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .._graph import Output
from .._models import ModelPool
from .._outputs.writer import OutFolder, Writer
from .._plan import ABSENT, Plan, State, Unknown, history_name
from .._store import Store
from .._types.artifact import Artifact
from ..errors import Cancelled, GraphError
from ..events import Event, RunStarted
from .event_queue import EventQueue, FailFast
from .notes import kept_notes
from .output_delivery import OutputDelivery
from .recorder import ProvenanceRecorder
from .scheduler import Scheduler
from .step_runner import StepRunner
from .value_cache import ValueCache

__all__ = ["Run", "execute"]

#: How long a cancelled run may take to stop by itself before it is left behind.
CANCEL_S = 0.7

#: For how many nodes it is looked up how long they took, and what is believed of that.
MAX_TIMES, MAX_STEP_S = 200, 30 * 86_400


def execute(
    plan: Plan,
    *,
    out: Path | OutFolder | Writer | None = None,
    cancel: threading.Event | None = None,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
) -> Run:
    """Carry out a plan and yield its events; the last is RunFinished.

    Params:
        out: the folder that outputs with a path are written to, or what writes them; None writes
            nothing.
        cancel: set it, from any thread or signal handler, and the run stops at the next yield,
            denoising step or node.
        fail_fast: stop at the first step that fails; else what does not depend on it goes on.
        pool: loaded models to share with other runs, and the threads to compute in; default: the
            run's own.

    Raises:
        GraphError: the plan has unresolved problems. Nothing has run.
    """
    errors = [p for p in plan.problems if p.severity == "error"]
    if errors:
        raise GraphError(errors)
    return Run(plan, out, cancel or threading.Event(), fail_fast, pool)


def _last_durations(state: State, store: Store, plan: Plan) -> dict[str, float]:
    """Say how long a step of each node took when the graph was run last, for those that are going
    to run; of very many nodes, for some.
    """
    durations: dict[str, float] = {}
    for step in plan.steps:
        if step.status not in ("runs", "waits") or step.name in durations:
            continue
        if len(durations) == MAX_TIMES:
            break
        # The first of several elements waited for the model; of a list that is not known yet, it
        # was there if any was.
        keys = [
            state.history.get(step.name + step.item.replace("[?]", f"[{element}]"))
            for element in (1, 0)
        ]
        key = next(filter(None, keys), None)
        record = store.lookup(key) if key else None
        last_s = record.provenance.get("took_s") if record is not None else None
        if isinstance(last_s, int | float) and 0 <= last_s < MAX_STEP_S:
            durations[step.name] = float(last_s)
    return durations


class Run:
    """One run of a plan: an iterator of its events. Whoever stops reading, or drops it, stops the
    run.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path | OutFolder | Writer | None,
        cancel: threading.Event,
        fail_fast: bool,
        pool: ModelPool | None,
    ) -> None:
        self.plan = plan
        # The thread of the run holds the work alone: so the events end with the last reader.
        self._thread = _RunThread(plan, out, cancel, fail_fast, pool)
        self._events = _read_events(self._thread)

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop reading: the run is cancelled."""
        self._events.close()

    def key(self, name: str, item: str) -> str | None:
        """Give the key of a step that has begun, or None."""
        return self._thread.queue.begun.get(name + item)

    def provenance(self, output: Output, element: int | None = None) -> str | None:
        """Write the provenance of an output that was given, or of an element of one that is a list;
        None if it has no value.
        """
        state, recorder = self._thread.state, self._thread.recorder
        if state is None or recorder is None:
            return None
        slot = state.values.bind(state.top, output.source)
        if isinstance(slot, Artifact) and element is not None:
            slot = (
                slot.items[element]
                if slot.items is not None and element < len(slot.items)
                else ABSENT
            )
        if isinstance(slot, Unknown) or slot.kind in ("absent", "failed"):
            return None
        return recorder.document(output, slot, element)


def _read_events(thread: _RunThread) -> Generator[Event, None, None]:
    """Begin the work, and give what it says until it is over."""
    is_over = threading.Event()
    is_abandoned = False
    thread.pool.lanes.start(thread.run, is_over)
    try:
        is_abandoned = yield from thread.queue.read(is_over, thread.cancel, CANCEL_S)
    finally:
        if not is_over.is_set() and not is_abandoned:
            thread.cancel.set()
            is_over.wait(CANCEL_S)


class _RunThread:
    """What a run does, in a thread of its own. What it learns is its own; the plan stays as it is."""

    def __init__(
        self,
        plan: Plan,
        out: Path | OutFolder | Writer | None,
        cancel: threading.Event,
        fail_fast: bool,
        pool: ModelPool | None,
    ) -> None:
        self.plan = plan
        self.out = out
        self.cancel = cancel
        self.own_pool = pool is None
        self.pool = pool or ModelPool()
        self.queue = EventQueue(fail_fast=fail_fast)
        #: The values of the graph's inputs; of files that changed meanwhile, as they were read.
        self.inputs = dict(plan.inputs)
        #: What the run knows, and the provenance of what it gives; None before it begins.
        self.state: State | None = None
        self.recorder: ProvenanceRecorder | None = None

    def run(self) -> None:
        """Do it. Whatever happens, the last thing said is RunFinished or an exception."""
        try:
            status = self._run()
        except FailFast:
            status = "failed"
        except Cancelled:
            status = "cancelled"
        except BaseException as error:
            self.queue.put(error)
            return
        self.queue.put(self.queue.finished_event(status))

    def _run(self) -> str:
        plan, queue = self.plan, self.queue
        with ExitStack() as stack:
            if plan.store is None:
                store = stack.enter_context(Store.temporary(plan.values.codecs))
            else:
                store = stack.enter_context(plan.store.in_use())
            queue.kept_notes = partial(kept_notes, store)
            cache = ValueCache()
            state = self.state = plan.state.copy(store, cache)
            stack.callback(setattr, state.values, "store", plan.store)
            stack.callback(state.values.files.suspend)
            pin = f"run {id(self)}"
            stack.callback(store.unpin, pin)
            runner = StepRunner(
                state, store, self.pool, queue, inputs=self.inputs, cache=cache, cancel=self.cancel
            )
            stack.callback(self.pool.plan_ahead, (), of=runner.caller)
            stack.callback(runner.caller.anonymous.close)
            state.values.fetch = runner.value
            stack.callback(setattr, state.values, "fetch", state.values.load)
            stack.callback(self._record_history, state, store)
            if self.own_pool:
                stack.callback(self.pool.close)
            recorder = self.recorder = ProvenanceRecorder(
                plan, state, self.inputs, conditions=lambda: runner.caller.conditions
            )
            delivery = OutputDelivery(
                plan, state, self.inputs, self.out, queue, value=runner.value, recorder=recorder
            )
            stack.callback(self._release_values, state, recorder, runner)
            stack.callback(self._close, delivery, store)
            todo = sum(s.status in ("runs", "waits") for s in plan.steps)
            queue.put(
                RunStarted(
                    plan.graph.spec.source.name,
                    len(plan.steps),
                    todo,
                    plan.device,
                    0.0,
                    queue.count_steps(plan.steps),
                    _last_durations(state, store, plan),
                )
            )
            cached = [s for s in plan.steps if s.status == "cached"]
            queue.add_cached(cached)
            store.pin(pin, (s.key or "" for s in cached))
            Scheduler(state, runner, delivery, queue, cancel=self.cancel).run()
            delivery.wait()
        return "failed" if queue.failed else "done"

    def _close(self, delivery: OutputDelivery, store: Store) -> None:
        """Let queued writes end. A store of this run's own goes with it, but not the files in it
        that were handed out.
        """
        delivery.close(cancelled=self.cancel.is_set())
        if delivery.has_delivered_from(store.folder):
            store.keep_until_exit()

    def _release_values(
        self, state: State, recorder: ProvenanceRecorder, runner: StepRunner
    ) -> None:
        """Hold the values that were made no longer: whoever keeps the run may still ask for the
        provenance of its outputs.
        """
        conditions = runner.caller.conditions
        recorder.conditions = lambda: conditions
        state.values.live = {}

    def _record_history(self, state: State, store: Store) -> None:
        """Write down what the next plan compares with, once what it names is kept."""
        keys = self.queue.keys
        if any(state.history.get(name) != key for name, key in keys.items()):
            store.flush()
            store.record_history(history_name(self.plan.graph), {**state.history, **keys})
