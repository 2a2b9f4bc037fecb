"""Execute a plan: open what a run needs, start its thread, and end it cleanly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from functools import partial

from .._graph import Output
from .._models import ModelPool
from .._plan import ABSENT, Plan, State, Unknown, element_part, history_name
from .._store import Store
from .._types.artifact import Artifact
from ..errors import Cancelled, GraphError
from ..events import Event, RunFinished, RunStarted, step_title
from .event_queue import EventQueue, FailFast, item_label
from .grouping import Grouping
from .lineage import file_behind
from .notes import kept_notes
from .output_delivery import Out, OutputDelivery
from .recorder import ProvenanceRecorder
from .scheduler import Scheduler
from .step_runner import StepRunner
from .value_cache import ValueCache

__all__ = ["Run", "execute"]

#: How long a cancelled run may take to stop by itself before it is abandoned.
CANCEL_S = 0.7

#: For how many nodes the last duration is looked up, and the longest duration that is plausible.
MAX_TIMES, MAX_STEP_S = 200, 30 * 86_400


def execute(
    plan: Plan,
    *,
    out: Out = None,
    cancel: threading.Event | None = None,
    stop: Callable[[], bool] = lambda: False,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
) -> Run:
    """Execute a plan and yield its events; the last one is RunFinished.

    Params:
        out: the folder for outputs with a path, or a writer, or for a plan of several items a
            function that gives one for an item's label; None writes no files.
        cancel: set it, from any thread or signal handler, to stop the run at the next yield,
            denoising step or node.
        stop: whether no further item may start; those that have go on.
        fail_fast: stop at the first step that fails; otherwise everything that does not depend on
            it goes on.
        pool: loaded models to share with other runs, and the threads to compute in; default: a pool
            of the run's own.

    Raises:
        GraphError: the plan has errors. Nothing has run.
    """
    errors = [p for p in plan.problems if p.severity == "error"]
    if errors:
        raise GraphError(errors)
    return Run(plan, out, cancel or threading.Event(), stop, fail_fast, pool)


def _last_durations(state: State, store: Store, plan: Plan) -> dict[str, float]:
    """Give how long a step of each node that is going to run took when the graph last ran; with
    very many nodes, for some of them.
    """
    durations: dict[str, float] = {}
    for step in plan.steps if state.history else ():
        if step.status not in ("runs", "waits") or step.name in durations:
            continue
        if len(durations) == MAX_TIMES:
            break
        # The first of several elements waited for the model, so prefer the second. In a list that
        # is not known yet, it existed if any element did.
        keys = [
            state.history.get(step.name + element_part(step.item).replace("[?]", f"[{element}]"))
            for element in (1, 0)
        ]
        key = next(filter(None, keys), None)
        record = store.lookup(key) if key else None
        last_s = record.provenance.get("took_s") if record is not None else None
        if isinstance(last_s, int | float) and 0 <= last_s < MAX_STEP_S:
            durations[step.name] = float(last_s)
    return durations


class Run:
    """One run of a plan: an iterator of its events. Closing or dropping it cancels the run."""

    def __init__(
        self,
        plan: Plan,
        out: Out,
        cancel: threading.Event,
        stop: Callable[[], bool],
        fail_fast: bool,
        pool: ModelPool | None,
    ) -> None:
        self.plan = plan
        # The run's thread refers to this object alone, so the events end when the last reader drops
        # the Run.
        self._thread = _RunThread(plan, out, cancel, stop, fail_fast, pool)
        self._events = _read_events(self._thread)

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop reading and cancel the run."""
        self._events.close()

    def key(self, name: str, item: str) -> str | None:
        """Give the key of a step that has started, or None."""
        return self._thread.queue.begun.get(step_title(name, item))

    def provenance(self, output: Output, element: int | None = None) -> str | None:
        """Give the provenance of an output that was delivered, or of one element of a list output;
        None if it has no value, or the plan has several items, which are released when finished.
        """
        state, recorder = self._thread.state, self._thread.recorder
        if state is None or recorder is None or self.plan.has_items:
            return None
        (top,) = state.tops
        slot = state.values.bind(top, output.source)
        if isinstance(slot, Artifact) and element is not None:
            slot = (
                slot.items[element]
                if slot.items is not None and element < len(slot.items)
                else ABSENT
            )
        if isinstance(slot, Unknown) or slot.kind in ("absent", "failed"):
            return None
        return recorder.document(top, output, slot, element)


def _keys_of_first(plan: Plan, keys: Mapping[str, str]) -> dict[str, str]:
    """Give the keys of the first item's steps: of several items, the next plan compares with it."""
    titles = {
        step_title(step.name, step.item): step.name + element_part(step.item)
        for step in plan.steps
        if item_label(step.item) == plan.items[0].label
    }
    return {titles[title]: key for title, key in keys.items() if title in titles}


def _read_events(thread: _RunThread) -> Generator[Event, None, None]:
    """Start the run's thread, and yield its events until it is finished."""
    is_over = threading.Event()
    is_abandoned = False
    thread.pool.run_threads.start(thread.run, is_over)
    try:
        is_abandoned = yield from thread.queue.read(is_over, thread.cancel, CANCEL_S)
    finally:
        # `cancel` is the caller's, who may use it for other runs: one that has ended leaves it alone.
        if not (thread.has_ended or is_abandoned):
            thread.cancel.set()
            is_over.wait(CANCEL_S)


class _RunThread:
    """The work of a run, in a thread of its own. What it learns is its own; the plan is not
    modified.
    """

    def __init__(
        self,
        plan: Plan,
        out: Out,
        cancel: threading.Event,
        stop: Callable[[], bool],
        fail_fast: bool,
        pool: ModelPool | None,
    ) -> None:
        self.plan = plan
        self.out = out
        self.cancel = cancel
        self.stop = stop
        self.own_pool = pool is None
        self.pool = pool or ModelPool()
        self.queue = EventQueue(fail_fast=fail_fast)
        #: Whether nothing is left to do but to hand over the last of its events.
        self.has_ended = False
        #: The values of the graph's inputs, by item; files that changed since planning are replaced.
        self.inputs = {item.label: dict(item.inputs) for item in plan.items}
        #: What the run knows, and the recorder of its provenance; None before it starts.
        self.state: State | None = None
        self.recorder: ProvenanceRecorder | None = None

    def run(self) -> None:
        """Execute the plan. The last item of the queue is always RunFinished or an exception."""
        last: RunFinished | BaseException
        try:
            last = self.queue.finished_event(self._run())
        except FailFast:
            last = self.queue.finished_event("failed")
        except Cancelled:
            last = self.queue.finished_event("cancelled")
        except BaseException as error:
            last = error
        self.has_ended = True
        self.queue.put(last)

    def _run(self) -> str:
        plan, queue = self.plan, self.queue
        with ExitStack() as stack:
            if plan.store is None:
                store = stack.enter_context(Store.temporary(plan.values.codecs))
            else:
                store = stack.enter_context(plan.store.in_use())
            queue.kept_notes = partial(kept_notes, store)
            queue.on_error = lambda step: plan.graph.on_error(
                step.name, is_whole=step.element is None and bool(step.node.each)
            )
            cache = ValueCache()
            state = self.state = plan.state.copy(store, cache)
            queue.about = partial(file_behind, state)
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
            for item in plan.items:
                if item.problems:
                    queue.item_refused(item.label, item.problems[0].message)
            grouping = Grouping(state, runner, self.pool, store, queue)
            scheduler = Scheduler(
                state,
                runner,
                self.pool,
                grouping,
                delivery,
                queue,
                cancel=self.cancel,
                has_valueless=todo + len(cached) < len(plan.steps),
            )
            scheduler.run(stop=self.stop)
            delivery.wait()
        return "failed" if queue.failed else "done"

    def _close(self, delivery: OutputDelivery, store: Store) -> None:
        """Finish queued writes. A temporary store is removed with its run, unless files in it were
        delivered.
        """
        delivery.close(cancelled=self.cancel.is_set())
        if delivery.has_delivered_from(store.folder):
            store.keep_until_exit()

    def _release_values(
        self, state: State, recorder: ProvenanceRecorder, runner: StepRunner
    ) -> None:
        """Release the values that were computed, because whoever keeps the Run may still ask for
        provenance.
        """
        conditions = runner.caller.conditions
        recorder.conditions = lambda: conditions
        state.values.live = {}

    def _record_history(self, state: State, store: Store) -> None:
        """Record the keys that the next plan compares with, once the records that they refer to are
        written.
        """
        keys = self.queue.keys
        if self.plan.has_items:
            keys = _keys_of_first(self.plan, keys)
        if any(state.history.get(name) != key for name, key in keys.items()):
            store.flush()
            store.record_history(history_name(self.plan.graph), {**state.history, **keys})
