"""Run a sweep: its items one after another, with one pool of models and one store for all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import events
from .._models import ModelPool
from .._outputs.disk import ImmediateChanges
from .._outputs.writer import OutFolder, OutputWriter
from .._plan import Plan
from .._run import Run, execute
from .._run.lineage import trace
from .._types.artifact import Artifact
from ..errors import GraphError, OutputError
from ..events import Event
from .index import IndexFile, command_of, plain_inputs
from .items import Item, PathNames
from .planning import PreparedSweep, plans

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
        #: Why the sweep stopped before its last item, if it did.
        self.stopped = ""
        self.done = self.failed = 0
        self._out = out
        self._cancel = cancel
        self._fail_fast = fail_fast
        self._pool = pool
        self._parquet = parquet
        self._start_s = time.monotonic()
        self._ran = self._cached = self._steps_failed = 0
        self._names = PathNames(sweep.request.graph, sweep.rows.names)
        self._disk = _FailureLog()
        self._events = self._run()

    def __iter__(self) -> SweepRun:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop reading and cancel the item that is running."""
        self._events.close()

    def _now(self) -> float:
        return time.monotonic() - self._start_s

    def _run(self) -> Generator[Event, None, None]:
        request = self.sweep.request
        with ExitStack() as stack:
            if request.store is not None:
                stack.enter_context(request.store.in_use())
            pool = self._pool
            if pool is None:
                pool = ModelPool()
                stack.callback(pool.close)
            index: IndexFile | None = None
            started = False
            for item, plan in plans(self.sweep):
                if not started:
                    started = True
                    # Only now: what is wrong with all items leaves no file.
                    if self._out is not None:
                        index = stack.enter_context(
                            IndexFile(self._out, len(self.sweep), parquet=self._parquet)
                        )
                    yield self._started(plan.device if isinstance(plan, Plan) else "")
                result = ItemResult(
                    item.index,
                    item.label,
                    {name: cell.written for name, cell in item.cells.items()},
                    dict(item.seeds),
                )
                if isinstance(plan, GraphError):
                    result.status, result.error = "failed", plan.problems[0].message
                    self._names.plain(item)
                elif (yield from self._run_item(item, plan, result, pool)) == "cancelled":
                    break
                yield self._ended(item, result, index)
                if self._stop_early(result):
                    break
            if index is not None:
                try:
                    index.finish()
                except OutputError as error:
                    self.stopped = self.stopped or str(error)
        yield events.RunFinished(
            self._status(), self._ran, self._cached, self._steps_failed, self._now()
        )

    def _started(self, device: str) -> Event:
        graph = self.sweep.request.graph
        return events.RunStarted(graph.spec.source.name, 0, 0, device, 0.0, items=len(self.sweep))

    def _status(self) -> str:
        if self._cancel.is_set():
            return "cancelled"
        return "failed" if self.failed or self.stopped else "done"

    def _run_item(
        self, item: Item, plan: Plan, result: ItemResult, pool: ModelPool
    ) -> Generator[Event, None, str]:
        """Run one item, and give how it ended."""
        writer = None
        if self._out is not None:
            writer = OutputWriter(
                self._out,
                codecs=plan.values.codecs,
                item=item.label,
                unlabelled=self._names.plain(item),
                changes=self._disk,
            )
        offset_s = self._now()
        status = ""
        run = execute(plan, out=writer, cancel=self._cancel, fail_fast=self._fail_fast, pool=pool)
        outputs: dict[str, dict[str, Any]] = {}
        for event in run:
            if isinstance(event, events.RunFinished):
                status = event.status
                self._ran += event.ran
                self._cached += event.cached
                self._steps_failed += event.failed
                continue
            if isinstance(event, events.RunStarted | events.StepsKnown):
                continue
            self._take(event, run, result, outputs)
            yield _of_item(event, item.label, offset_s)
        result.status = "failed" if result.error or status == "failed" else "done"
        result.row = self._row(item, plan, result, outputs)
        return status

    def _take(
        self, event: Event, run: Run, result: ItemResult, outputs: dict[str, dict[str, Any]]
    ) -> None:
        """Keep what an event says of its item."""
        if isinstance(event, events.StepNote):
            result.notes.append(str(event))
        elif isinstance(event, events.StepFailed):
            result.error = result.error or f"{event.node}{event.item}: {event.message}"
        elif isinstance(event, events.OutputFailed):
            result.error = result.error or f"output {event.output}{event.item}: {event.message}"
        elif isinstance(event, events.OutputWritten):
            _collect(result.outputs, event.output, event.item, event.value)
            told = outputs[event.output + event.item] = _facts(run, event)
            if event.path is not None and self._out is not None:
                told["path"] = _relative(event.path, self._out.path)
            elif events.is_data(event.value):
                told["value"] = event.value
        elif isinstance(event, events.OutputAbsent):
            name, _, element = event.output.partition("[")
            _collect(result.outputs, name, f"[{element}" if element else "", None)

    def _row(
        self, item: Item, plan: Plan | None, result: ItemResult, outputs: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        folder = self._out.path if self._out is not None else None
        absent = outputs == {} and result.status == "done" and bool(result.outputs)
        return {
            "index": item.index,
            "item": item.label,
            "axes": result.axes,
            "inputs": plain_inputs(plan.inputs, folder) if plan is not None else {},
            "seeds": {**item.seeds, **(plan.drawn if plan is not None else {})},
            "status": "absent" if absent else result.status,
            "error": result.error,
            "notes": result.notes,
            "outputs": outputs,
            "command": command_of(self.sweep.request, item),
        }

    def _ended(self, item: Item, result: ItemResult, index: IndexFile | None) -> Event:
        """Record that an item has ended."""
        result.row = result.row or self._row(item, None, result, {})
        self.last = result
        self.failed += result.status == "failed"
        self.done += result.status != "failed"
        if index is not None:
            try:
                index.add(result.row)
            except OutputError as error:
                self.stopped = str(error)
        return events.ItemFinished(item.label, result.status, result.error, self._now())

    def _stop_early(self, result: ItemResult) -> bool:
        """Tell whether no further item can succeed, or shall run."""
        if result.status == "failed" and not self.stopped and self._disk.was_full:
            left = len(self.sweep) - result.index - 1
            self.stopped = (
                f"the disk of {self._out.path if self._out else ''} is full: {left:,} items were not"
                " started\n  = fix: free disk space and run the same command again: what is done is"
                " not computed twice"
            )
        return bool(
            self.stopped or self._cancel.is_set() or (self._fail_fast and result.status == "failed")
        )


class _FailureLog(ImmediateChanges):
    """Changes the disk at once, and remembers whether it was full."""

    def __init__(self) -> None:
        self.was_full = False

    def record_failure(self, error: OSError) -> None:
        self.was_full = self.was_full or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _of_item(event: Event, label: str, offset_s: float) -> Event:
    """Name the item in an event of its run."""
    changes: dict[str, Any] = {"at_s": event.at_s + offset_s}
    if hasattr(event, "item"):
        changes["item"] = label + event.item
    return replace(event, **changes)


def _facts(run: Run, event: events.OutputWritten) -> dict[str, Any]:
    """Give the digest and kind of an output that was delivered, and the key of the step that made
    it.
    """
    state = run._thread.state
    assert state is not None
    output = run.plan.graph.outputs[event.output]
    (top,) = state.tops
    slot = state.values.bind(top, output.source)
    assert isinstance(slot, Artifact)
    element = int(event.item.strip("[]")) if event.item else None
    if element is not None and slot.items is not None:
        slot = slot.items[element]
    steps, _ = trace(state, top, output, element)
    key = steps[-1].key if steps else None
    return {"digest": slot.digest, "kind": slot.kind, **({"key": key} if key else {})}


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _collect(outputs: dict[str, Any], name: str, item: str, value: Any) -> None:
    """Store an output's value; the elements of a list arrive one by one, in any order."""
    if not item:
        outputs[name] = value
        return
    index = int(item.strip("[]"))
    elements = outputs[name] if isinstance(outputs.get(name), list) else []
    elements += [None] * (index + 1 - len(elements))
    elements[index] = value
    outputs[name] = elements


def run_sweep(
    sweep: PreparedSweep,
    *,
    out: OutFolder | None = None,
    cancel: threading.Event | None = None,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
    parquet: bool = False,
) -> SweepRun:
    """Run the items of a sweep in order, and yield their events: RunStarted once, those of each item
    with its name, ItemFinished after each, and RunFinished at the end.

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
