"""Put a run together: what it has open while it goes, the thread that it works in, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..errors import Cancelled, GraphError
from ..events import Event, RunStarted
from ..models import ModelPool
from ..outputs import OutFolder, Writer
from ..plan import Plan, history_name
from ..store import Store
from .delivery import Delivery
from .live import LiveValues
from .report import FailedFast, Report
from .steps import Steps
from .walk import Walk

__all__ = ["execute"]

#: How long a cancelled run may take to stop by itself before it is left behind.
CANCEL_S = 0.7


def execute(
    plan: Plan,
    *,
    out: Path | OutFolder | Writer | None = None,
    cancel: threading.Event | None = None,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
) -> Iterator[Event]:
    """Carry out a plan and yield its events; the last is RunFinished.

    Params:
        out: the folder that outputs with a path are written to, or what writes them; None writes nothing.
        cancel: set it, from any thread or signal handler, and the run stops at the next yield, denoising step or node.
        fail_fast: stop at the first step that fails; else what does not depend on it goes on.
        pool: loaded models to share with other runs, and the threads to compute in; default: the run's own.

    Raises:
        GraphError: the plan has unresolved problems. Nothing has run.
    """
    wrong = [p for p in plan.problems if p.severity == "error"]
    if wrong:
        raise GraphError(wrong)
    return _Execution(plan, out, cancel or threading.Event(), fail_fast, pool).events()


class _Execution:
    """One run of one plan."""

    def __init__(self, plan: Plan, out: Path | OutFolder | Writer | None, cancel: threading.Event, fail_fast: bool, pool: ModelPool | None) -> None:
        self.plan = plan
        self.out = out
        self.cancel = cancel
        self.own_pool = pool is None
        self.pool = pool or ModelPool()
        self.report = Report(fail_fast=fail_fast)

    def events(self) -> Iterator[Event]:
        over = threading.Event()
        is_left = False
        self.pool.lanes.start(self.work, over)
        try:
            is_left = yield from self.report.read(over, self.cancel, CANCEL_S)
        finally:
            if not over.is_set() and not is_left:
                self.cancel.set()
                over.wait(CANCEL_S)

    def work(self) -> None:
        """The run itself, in a thread of its own. Whatever happens, the last thing said is RunFinished or an exception."""
        try:
            status = self.run()
        except FailedFast:
            status = "failed"
        except Cancelled:
            status = "cancelled"
        except BaseException as odd:
            self.report.say(odd)
            return
        self.report.say(self.report.over(status))

    def run(self) -> str:
        plan, values, report = self.plan, self.plan.planner.values, self.report
        with ExitStack() as stack:
            if values.store is None:
                values.store = stack.enter_context(Store.temporary(values.codecs))
                stack.callback(setattr, values, "store", None)
            else:
                stack.enter_context(values.store.in_use())
            stack.callback(values.files.rest)
            store, pin = values.store, f"run {id(self)}"
            stack.callback(store.unpin, pin)
            values.live = live = LiveValues()
            steps = Steps(plan, store, self.pool, report, live=live, cancel=self.cancel)
            stack.callback(self.pool.plan_ahead, (), of=steps.caller)
            values.fetch = steps.value
            stack.callback(setattr, values, "fetch", values.load)
            stack.callback(self.remember, store)
            if self.own_pool:
                stack.callback(self.pool.close)
            delivery = Delivery(plan, self.out, report, value=steps.value, conditions=lambda: steps.caller.conditions)
            stack.callback(self.close, delivery, store)
            todo = sum(s.status in ("runs", "waits") for s in plan.steps)
            report.say(RunStarted(plan.graph.spec.source.name, len(plan.steps), todo, plan.device, 0.0))
            cached = [s for s in plan.steps if s.status == "cached"]
            report.known(cached)
            store.pin(pin, (s.key or "" for s in cached))
            Walk(plan, steps, delivery, report, cancel=self.cancel).go()
            delivery.wait()
        return "failed" if report.failed else "done"

    def close(self, delivery: Delivery, store: Store) -> None:
        """Let queued writes end. A store of this run's own goes with it, but not the files in it that were handed out."""
        delivery.close(cancelled=self.cancel.is_set())
        if delivery.gave_from(store.folder):
            store.outlive()

    def remember(self, store: Store) -> None:
        """Write down what the next plan compares with."""
        history, keys = self.plan.planner.history, self.report.keys
        if any(history.get(name) != key for name, key in keys.items()):
            store.remember(history_name(self.plan.graph), {**history, **keys})
