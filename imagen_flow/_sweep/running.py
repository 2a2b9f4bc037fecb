"""Run a sweep: some items at a time, with one pool of models and one store for all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import events
from .._models import ModelPool
from .._outputs.disk import ImmediateChanges
from .._outputs.writer import OutFolder, OutputWriter
from .._plan import Plan, PlannedItem
from .._run import DROPPED_ELEMENT, collect, execute, leave_out_dropped
from .._store import Store
from .._types.codec import Codecs
from .._types.models import Model
from .._types.values import File, Folder
from ..errors import OutputError, Problem
from ..events import Event
from .index import IndexFile, command_of, plain_inputs
from .items import Item, PathNames
from .planning import PreparedSweep, chunks

__all__ = ["ItemResult", "SweepRun", "run_sweep"]


@dataclass
class ItemResult:
    """One item of a sweep that has ended.

    `outputs` are its values by name; an absent one is None. `row` is its line in the index.
    """

    index: int
    label: str
    #: The values of the inputs that vary, and the seeds of its own.
    axes: dict[str, Any]
    seeds: dict[str, int]
    status: str = "done"
    error: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)


class SweepRun:
    """A running sweep: an iterator of its events. After each ItemFinished, `last` is that item."""

    def __init__(
        self,
        sweep: PreparedSweep,
        *,
        out: OutFolder | None,
        cancel: threading.Event,
        fail_fast: bool,
        pool: ModelPool | None,
        parquet: bool,
    ) -> None:
        self.sweep = sweep
        self.last: ItemResult | None = None
        #: What is wrong with the graph without refusing it, known once the first items are planned.
        self.warnings: tuple[Problem, ...] = ()
        #: Why the sweep stopped before its last item, if it did.
        self.stopped = ""
        self.done = self.failed = 0
        self._out = out
        self._cancel = cancel
        self._fail_fast = fail_fast
        self._pool = pool
        self._parquet = parquet
        self._start_s = time.monotonic()
        self._ran = self._cached = self._steps_failed = self._tolerated = 0
        self._names = PathNames(sweep.request.graph, sweep.rows.names)
        self._paths = {o.path for o in sweep.request.graph.outputs.values() if o.path is not None}
        self._disk = _FailureLog()
        self._own_store: Store | None = None
        self._events = self._run()

    def __iter__(self) -> SweepRun:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop reading and cancel the items that are running."""
        self._events.close()

    def _now(self) -> float:
        return time.monotonic() - self._start_s

    def _run(self) -> Generator[Event, None, None]:
        with ExitStack() as stack:
            sweep = self._with_store(stack)
            pool = self._pool
            if pool is None:
                pool = ModelPool()
                stack.callback(pool.close)
            index: IndexFile | None = None
            started = False
            for items, plan in chunks(sweep):
                if not started:
                    started = True
                    # Only now: what is wrong with all items leaves no file.
                    if self._out is not None:
                        index = stack.enter_context(
                            IndexFile(self._out, len(sweep), parquet=self._parquet)
                        )
                    self.warnings = tuple(p for p in plan.problems if p.severity == "warning")
                    yield self._started(plan.device)
                yield from self._run_chunk(items, plan, pool, index)
                if self.stopped or self._cancel.is_set() or (self._fail_fast and self.failed):
                    break
            if index is not None:
                try:
                    index.finish()
                except OutputError as error:
                    self.stopped = self.stopped or str(error)
        yield events.RunFinished(
            self._status(),
            self._ran,
            self._cached,
            self._steps_failed,
            self._now(),
            self._tolerated,
        )

    def _with_store(self, stack: ExitStack) -> PreparedSweep:
        """Open the store for as long as the sweep runs; where there is none, a temporary one, so that
        what items share is computed once.
        """
        request = self.sweep.request
        store = request.store
        if store is not None:
            stack.enter_context(store.in_use())
            return self.sweep
        codecs = request.graph.registry.codecs if request.graph.registry else Codecs()
        store = self._own_store = stack.enter_context(Store.temporary(codecs))
        return replace(self.sweep, request=replace(request, store=store))

    def _started(self, device: str) -> Event:
        graph = self.sweep.request.graph
        return events.RunStarted(graph.spec.source.name, 0, 0, device, 0.0, items=len(self.sweep))

    def _status(self) -> str:
        if self.stopped:
            return "failed"
        if self._cancel.is_set():
            return "cancelled"
        return "failed" if self.failed else "done"

    def _run_chunk(
        self, items: list[Item], plan: Plan, pool: ModelPool, index: IndexFile | None
    ) -> Generator[Event, None, None]:
        """Run some items, and record each as it ends."""
        running: dict[str, _Running] = {}
        for item, planned in zip(items, plan.items, strict=True):
            writer, own_folder = None, None
            if self._out is not None:
                unlabelled = self._names.plain(item)
                # Alone, it would write to a path of another item, or of several.
                is_labelled = not self._paths <= unlabelled
                own_folder = self._out.path / item.label if is_labelled else self._out.path
                writer = OutputWriter(
                    self._out,
                    codecs=plan.values.codecs,
                    item=item.label,
                    unlabelled=unlabelled,
                    changes=self._disk,
                )
            running[item.label] = _Running(item, planned, writer, own_folder, _result_of(item))
        offset_s = self._now()
        run = execute(
            plan,
            out=lambda label: running[label].writer,
            cancel=self._cancel,
            fail_fast=self._fail_fast,
            pool=pool,
        )
        try:
            for event in run:
                if isinstance(event, events.RunFinished):
                    self._ran += event.ran
                    self._cached += event.cached
                    self._steps_failed += event.failed
                    self._tolerated += event.tolerated
                elif isinstance(event, events.ItemFinished):
                    one = running.pop(event.item)
                    yield self._ended(one, event, plan, index)
                    if self._must_stop():
                        return
                elif not isinstance(event, events.RunStarted | events.StepsKnown):
                    self._take(event, running)
                    yield replace(event, at_s=event.at_s + offset_s)
        finally:
            run.close()
        if self._fail_fast:
            # The run stopped at once, before the failed item had ended.
            for label, one in running.items():
                if one.result.error:
                    yield self._ended(
                        one, events.ItemFinished(label, "failed", "", 0.0), plan, index
                    )

    def _take(self, event: Event, running: Mapping[str, _Running]) -> None:
        """Keep what an event says of its item."""
        label, bracket, rest = getattr(event, "item", "").partition("[")
        one = running.get(label)
        if one is None:
            return
        result, element = one.result, bracket + rest
        if isinstance(event, events.StepNote) or (
            isinstance(event, events.StepFailed) and event.is_tolerated
        ):
            result.notes.append(str(replace(event, item=element)))
        elif isinstance(event, events.StepFailed):
            result.error = result.error or f"{event.node}{element}: {event.message}"
        elif isinstance(event, events.OutputFailed):
            result.error = result.error or f"output {event.output}{element}: {event.message}"
        elif isinstance(event, events.StepSkipped):
            one.skipped = one.skipped or f"{event.node}{element}: {event.because}"
        elif isinstance(event, events.OutputWritten):
            collect(result.outputs, event.output, element, event.value)
            one.outputs[event.output + element] = self._told(event)
            if self._own_store is not None and _holds_paths(event.value):
                self._own_store.keep_until_exit()
        elif isinstance(event, events.OutputAbsent):
            name, _, number = event.output.partition("[")
            value = DROPPED_ELEMENT if event.dropped else None
            collect(result.outputs, name, f"[{number}" if number else "", value)

    def _told(self, event: events.OutputWritten) -> dict[str, Any]:
        """Give what the index says of an output."""
        told: dict[str, Any] = {}
        if event.path is not None and self._out is not None:
            told["path"] = Path(os.path.relpath(event.path, self._out.path)).as_posix()
        elif events.is_data(event.value):
            told["value"] = event.value
        told |= {"digest": event.digest, "kind": event.kind}
        return told | ({"key": event.key} if event.key else {})

    def _ended(
        self, one: _Running, event: events.ItemFinished, plan: Plan, index: IndexFile | None
    ) -> Event:
        """Record that an item has ended."""
        item, result = one.item, one.result
        leave_out_dropped(result.outputs)
        order = list(self.sweep.request.graph.outputs)
        result.outputs = {name: result.outputs[name] for name in order if name in result.outputs}
        one.outputs = dict(
            sorted(one.outputs.items(), key=lambda told: order.index(told[0].partition("[")[0]))
        )
        result.status = "failed" if event.status == "failed" else "done"
        if result.status == "failed":
            result.error = result.error or event.message or one.skipped or "what it needs failed"
        is_absent = not one.outputs and result.status == "done" and bool(result.outputs)
        result.row = {
            "index": item.index,
            "item": item.label,
            "axes": result.axes,
            "inputs": plain_inputs(one.planned.inputs, self._out.path if self._out else None),
            "seeds": {**item.seeds, **one.planned.seeds, **plan.drawn},
            "status": "absent" if is_absent else result.status,
            "error": result.error,
            "notes": result.notes,
            "outputs": one.outputs,
            "command": command_of(self.sweep.request, item, one.own_folder),
        }
        self.last = result
        self.failed += result.status == "failed"
        self.done += result.status != "failed"
        if index is not None:
            try:
                index.add(result.row)
            except OutputError as error:
                self.stopped = str(error)
        return events.ItemFinished(item.label, result.status, result.error, self._now())

    def _must_stop(self) -> bool:
        """Tell whether no further item can succeed."""
        if not self.stopped and self._disk.was_full and self.failed:
            left = len(self.sweep) - self.done - self.failed
            self.stopped = (
                f"the disk of {self._out.path if self._out else ''} is full:"
                f" {left:,} {'item was' if left == 1 else 'items were'} not made\n"
                "  = fix: free disk space and run the same command again: what is done is not"
                " computed twice"
            )
        return bool(self.stopped)


@dataclass
class _Running:
    """An item that is running, and what is known of it."""

    item: Item
    planned: PlannedItem
    writer: OutputWriter | None
    #: Where the item alone writes without replacing what others wrote.
    own_folder: Path | None
    result: ItemResult
    #: What the index says of its outputs.
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Why a step of it was not run.
    skipped: str = ""


def _result_of(item: Item) -> ItemResult:
    axes = {name: cell.written for name, cell in item.cells.items()}
    return ItemResult(item.index, item.label, axes, dict(item.seeds))


class _FailureLog(ImmediateChanges):
    """Changes the disk at once, and remembers whether it was full."""

    def __init__(self) -> None:
        self.was_full = False

    def record_failure(self, error: OSError) -> None:
        self.was_full = self.was_full or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _holds_paths(value: Any) -> bool:
    """Tell whether a value is, or contains, files that lie where the store put them."""
    if isinstance(value, list):
        return any(map(_holds_paths, value))
    return isinstance(value, File | Folder | Model)


def run_sweep(
    sweep: PreparedSweep,
    *,
    out: OutFolder | None = None,
    cancel: threading.Event | None = None,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
    parquet: bool = False,
) -> SweepRun:
    """Run the items of a sweep, and yield their events: RunStarted once, those of each item with its
    label, ItemFinished after each, and RunFinished at the end.

    Params:
        out: where outputs and the index are written; None writes nothing.
        cancel: set it, from any thread or signal handler, to stop.
        fail_fast: stop at the first item that fails.
        pool: loaded models to share with other runs.
        parquet: write the index as a Parquet file, too.
    Raises:
        GraphError: what is wrong with all items, when the first event is asked for.
        OutputError: the index cannot be written.
    """
    return SweepRun(
        sweep,
        out=out,
        cancel=cancel or threading.Event(),
        fail_fast=fail_fast,
        pool=pool,
        parquet=parquet,
    )
