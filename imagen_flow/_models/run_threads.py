"""Threads that outlast a run, so that runs one after another compute in the same one.

A thread that computes with torch on the processor gathers a team of OpenMP threads of its own, and
caches. A run in a new thread begins without them; worse, while two threads
have teams there are more threads than cores, and GNU's OpenMP then sends every thread to sleep
between two operations: a fifth of the time of a small denoiser.
How many threads there are in a team is fixed for a thread once it has computed, so a lane takes
over the number of whoever starts a run in it.
So whoever owns the models owns lanes too: a run takes the one that was used last, or, where all are
    taken (by a run beside it, by the run whose node runs this
graph, by one that was left behind in a call that nobody can interrupt), a new one. Nothing ever
waits for a lane.

Source: GCC's libgomp, wait.h: who waits spins long only while there are no more managed threads
    than processors.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

__all__ = ["Lanes", "STARTED_IN"]

#: What the step holds in which a run was started: all else of its context a run begins anew.
STARTED_IN: ContextVar[Any] = ContextVar("started_in", default=None)

#: How long a thread waits for the next run before it ends, and leaves the processor to others.
IDLE_S = 5.0


class _Job(NamedTuple):
    work: Callable[[], None]
    over: threading.Event
    context: Context
    #: How many threads torch uses in the thread that started this; None: torch is not loaded.
    threads: int | None


class _Lane(NamedTuple):
    thread: threading.Thread
    jobs: SimpleQueue[_Job | None]


class Lanes:
    """Threads for runs. Any thread may use it; `close` lets them end."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[_Lane] = []
        self._closed = False

    def start(self, work: Callable[[], None], over: threading.Event) -> None:
        """Begin work in the lane that was used last, or in a new one where none is idle. `over` is
        set when the lane is free again, or the work has raised.
        """
        with self._lock:
            lane = self._idle.pop() if self._idle else None
            while (
                lane is not None and not lane.thread.is_alive()
            ):  # a fork took the lanes along, but not their threads
                lane = self._idle.pop() if self._idle else None
        if lane is None:
            jobs: SimpleQueue[_Job | None] = SimpleQueue()
            lane = _Lane(
                threading.Thread(
                    target=self._serve, args=(jobs,), name="imagen_flow run", daemon=True
                ),
                jobs,
            )
            lane.thread.start()
        context = Context()
        context.run(STARTED_IN.set, STARTED_IN.get())
        lane.jobs.put(_Job(work, over, context, _threads()))

    def close(self) -> None:
        """Let idle threads end now, and the others when they have done their work. A run may still
        start: its thread ends with it.
        """
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for lane in idle:
            lane.jobs.put(None)

    def _serve(self, jobs: SimpleQueue[_Job | None]) -> None:
        lane = _Lane(threading.current_thread(), jobs)
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if lane in self._idle:
                        self._idle.remove(lane)
                        return
                continue  # it was taken just now, and its job is on the way
            if job is None:
                return
            over = job.over
            _use_threads(job.threads)
            try:
                job.context.run(job.work)
            except BaseException:
                over.set()
                raise
            del job  # and with it whatever the run held
            with self._lock:
                is_last = self._closed
                if not is_last:
                    self._idle.append(lane)
            over.set()  # only now, so that whoever waited finds this lane idle
            if is_last:
                return


def _threads() -> int | None:
    """How many threads torch uses for one operation in this thread."""
    torch = sys.modules.get("torch")
    return (
        int(torch.get_num_threads())
        if torch is not None and hasattr(torch, "get_num_threads")
        else None
    )


def _use_threads(count: int | None) -> None:
    if count is not None and _threads() != count:
        sys.modules["torch"].set_num_threads(count)
