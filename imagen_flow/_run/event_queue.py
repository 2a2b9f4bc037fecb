"""Queue the events of a run for its reader, and remember the outcome of each step.

One thread runs and puts events, another one reads them. The run does not wait for the reader:
results queue up, progress is coalesced to the latest of each step.
"""

from __future__ import annotations

import linecache
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

from .. import events
from .._graph import Graph
from .._plan import Step
from .._types.node import NodeType
from .._types.values import FileChanged, Progress
from ..errors import ImagenFlowError, NodeError
from ..events import Event, step_title

__all__ = ["FailFast", "EventQueue", "describe_error"]

#: How often the reader looks for new events. Waking it for each event would cost a trivial step
#: more than its work.
POLL_S = 0.02


class FailFast(Exception):
    """A step failed and the user wants the run to stop then."""


class EventQueue:
    """The events of a run that are not read yet; what has been reported of each step, how many ran,
    and with which keys.

    Params:
        fail_fast: reporting the first failure raises FailFast.
    """

    def __init__(self, *, fail_fast: bool = False) -> None:
        self.fail_fast = fail_fast
        #: Gives the stored notes of a cached step.
        self.kept_notes: Callable[[Step], tuple[str, ...]] = lambda step: ()
        #: Names the file that an element was made from.
        self.about: Callable[[Step], str] = lambda step: ""
        #: Says what becomes of a step that fails.
        self.on_error: Callable[[Step], str] = lambda step: step.node.on_error
        self.ran = self.cached = self.failed = self.tolerated = 0
        #: The keys of steps that ran or were cached, by step.
        self.keys: dict[str, str] = {}
        #: The keys of steps that have started.
        self.begun: dict[str, str] = {}
        self._began = time.monotonic()
        self._queue: deque[Any] = deque()
        self._latest: dict[str, events.StepProgress] = {}
        self._lock = threading.Lock()
        #: The reported outcome of each step.
        self._outcomes: dict[str, str] = {}
        #: The number of steps of each node, as far as it is known; in all, and of each item.
        self._step_counts: dict[str, int] = {}
        self._item_counts: dict[tuple[str, str], int] = {}
        #: The labels of items of which a step or output failed.
        self.failed_items: set[str] = set()
        self._loading: dict[str, str] = {}
        self._given_notes: set[tuple[str, str]] = set()
        #: Adds an event, or, as the last item, the exception that ended the run.
        self.put = self._queue.append

    def now(self) -> float:
        return time.monotonic() - self._began

    # ---- what happens

    def add_cached(self, steps: list[Step]) -> None:
        """Report the steps that are cached before anything runs."""
        now_s = self.now()
        for step in steps:
            self.put(events.StepCached(step.name, step.item, now_s))
            self._repeat_notes(step)
        self.cached += len(steps)
        self.keys.update([(step_title(s.name, s.item), s.key or "") for s in steps])
        self._outcomes.update(dict.fromkeys(self.keys, "cached"))

    def settled(self, step: Step) -> None:
        """Report, once, that a step need not or cannot run."""
        name = step_title(step.name, step.item)
        if name in self._outcomes or step.status not in ("cached", "absent", "skipped", "failed"):
            return
        self._outcomes[name] = step.status
        if step.status == "cached":
            self.cached += 1
            self.put(events.StepCached(step.name, step.item, self.now()))
            self._repeat_notes(step)
            self.keys[name] = step.key or ""
        elif step.status == "absent":
            self.put(events.StepAbsent(step.name, step.item, step.reason, self.now()))
        elif step.status == "failed":
            self.fail(step, ImagenFlowError(step.reason))
        else:
            self.put(events.StepSkipped(step.name, step.item, step.reason, self.now()))

    def has_outcome(self, step: Step) -> bool:
        """Tell whether a step's outcome has been reported."""
        return step_title(step.name, step.item) in self._outcomes

    def _set_outcome(self, name: str, to: str) -> None:
        """Set a step's outcome. A step that was reported as cached but runs after all is counted by
        its new outcome.
        """
        if self._outcomes.get(name) == "cached":
            self.cached -= 1
        self._outcomes[name] = to

    def damaged(self, step: Step, damage: Exception) -> None:
        """Report that a step runs although the store had its key."""
        self.put(events.StepDamaged(step.name, step.item, str(damage), self.now()))

    def started(self, step: Step, reason: str) -> None:
        self.begun[step_title(step.name, step.item)] = step.key or ""
        self.put(events.StepStarted(step.name, step.item, reason, self.now()))

    def progress(self, step: Step, progress: Progress) -> None:
        """Queue progress; it replaces older progress of the same step that is not read yet."""
        name = step_title(step.name, step.item)
        event = events.StepProgress(
            step.name,
            step.item,
            progress.done,
            progress.total,
            progress.note,
            self.now(),
            progress.preview,
            progress.status,
        )
        with self._lock:
            if name not in self._latest:
                self._queue.append(name)
            self._latest[name] = event

    def count_steps(self, plan_steps: Iterable[Step]) -> dict[str, int]:
        """Count the planned steps that may be needed, by node."""
        for step in plan_steps:
            if step.status != "idle":
                self._step_counts[step.name] = self._step_counts.get(step.name, 0) + 1
                at = step.name, step.item and item_label(step.item)
                self._item_counts[at] = self._item_counts.get(at, 0) + 1
        return dict(self._step_counts)

    def set_step_count(self, node: str, item: str, steps: int, *, at_least: bool = False) -> None:
        """Report how many steps a node has, if that is new for an item."""
        known = self._item_counts.get((node, item))
        if known == steps or (at_least and known is not None):
            return
        self._item_counts[node, item] = steps
        total = self._step_counts[node] = self._step_counts.get(node, 0) + steps - (known or 0)
        self.put(events.StepsKnown(node, total, self.now()))

    def loading(self, step: Step, what: str) -> None:
        """Report what a step waits for; the same text only once in a row."""
        name = step_title(step.name, step.item)
        if self._loading.get(name) == what:
            return
        self._loading[name] = what
        self.put(events.StepLoading(step.name, step.item, what, self.now()))

    def note(self, step: Step, message: str) -> None:
        """Report a step's note on its result, once."""
        if (step_title(step.name, step.item), message) in self._given_notes:
            return
        self._given_notes.add((step_title(step.name, step.item), message))
        self.put(events.StepNote(step.name, step.item, message, self.now(), self.about(step)))

    def _repeat_notes(self, step: Step) -> None:
        """Report the notes of a step that is cached."""
        for message in self.kept_notes(step):
            self.note(step, message)

    def finished(self, step: Step, took_s: float) -> None:
        name = step_title(step.name, step.item)
        self._set_outcome(name, "ran")
        self.ran += 1
        self.keys[name] = step.key or ""
        self.put(events.StepFinished(step.name, step.item, took_s, self.now()))

    def fail(self, step: Step, cause: Exception) -> None:
        """Report that a step failed. If its node, or a graph around it, does without, the run and
        the item have not failed.

        Raises:
            FailFast: the user wants the run to stop then.
        """
        on_error = self.on_error(step)
        error = (
            cause
            if isinstance(cause, NodeError)
            else NodeError(
                step.name,
                describe_error(cause),
                mark=step.node.mark,
                item=step.item,
                raised_at=error_location(cause, step.node.type),
            )
        )
        error.__cause__ = cause if error is not cause else cause.__cause__
        self._set_outcome(step_title(step.name, step.item), "failed")
        message = describe_error(cause)
        self.put(
            events.StepFailed(
                step.name, step.item, message, error, self.now(), on_error, self.about(step)
            )
        )
        if on_error != "fail":
            self.tolerated += 1
            return
        self.failed += 1
        self.failed_items.add(item_label(step.item))
        if self.fail_fast:
            raise FailFast

    def output_failed(self, output: str, item: str, message: str) -> None:
        """Report that an output cannot be written."""
        self.failed += 1
        self.failed_items.add(item_label(item))
        self.put(events.OutputFailed(output, item, message, self.now()))

    def item_finished(self, item: str) -> None:
        """Report that all outputs of an item have been delivered."""
        status = "failed" if item in self.failed_items else "done"
        self.put(events.ItemFinished(item, status, "", self.now()))

    def item_refused(self, item: str, message: str) -> None:
        """Report an item that is not run, because something is wrong with its values.

        Raises:
            FailFast: the user wants the run to stop then.
        """
        self.failed += 1
        self.put(events.ItemFinished(item, "failed", message, self.now()))
        if self.fail_fast:
            raise FailFast

    def finished_event(self, status: str) -> events.RunFinished:
        return events.RunFinished(
            status, self.ran, self.cached, self.failed, self.now(), self.tolerated
        )

    # ---- the other end

    def read(
        self, finished: threading.Event, cancel: threading.Event, grace_s: float
    ) -> Generator[Event, None, bool]:
        """Yield events until the run is finished; once it is cancelled, for at most `grace_s` more:
        then it is abandoned, and RunFinished is yielded on its behalf. Returns whether it was
        abandoned.
        """
        is_over = False
        while not is_over:
            is_over = finished.wait(POLL_S)
            while self._queue:
                item = self._queue.popleft()
                if type(item) is str:
                    with self._lock:
                        item = self._latest.pop(item)
                if isinstance(item, BaseException):
                    raise item
                yield item
            if cancel.is_set() and not is_over:
                grace_s -= POLL_S
                if grace_s < 0:
                    # A node that cannot be interrupted (an import, a load) goes on and finds the
                    # store closed.
                    yield self.finished_event("cancelled")
                    return True
        return False


def item_label(item: str) -> str:
    """Give the label of the plan's item out of that of a step or output."""
    return item.partition("[")[0]


def error_location(error: BaseException, type_: NodeType | Graph) -> str:
    """Give the location in a node's own code where an exception was raised: file, line, function
    and source text. Empty for exceptions that an installed plugin raises deliberately, because
    their message is sufficient.
    """
    if not isinstance(type_, NodeType) or (
        _is_deliberate(error) and not type_.plugin.endswith(".py")
    ):
        return ""
    import traceback

    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own_frames = [frame for frame in frames if frame[0] == type_.file] or [
        frame for frame in frames if frame[0].startswith(os.path.dirname(type_.file) + os.sep)
    ]
    if not own_frames:
        return ""
    file, line, function = own_frames[-1]
    text = linecache.getline(file, line).strip()
    return (
        f"{os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file}:{line} in"
        f" {function}{f': {text}' if text else ''}"
    )


def describe_error(error: BaseException) -> str:
    """Describe an exception: its message alone if it was raised deliberately, else preceded by its
    type.
    """
    message = str(error).strip()
    if _is_deliberate(error):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _is_deliberate(error: BaseException) -> bool:
    return isinstance(
        error, ValueError | ImagenFlowError | TimeoutError | FileChanged | OSError
    ) and bool(str(error).strip())
