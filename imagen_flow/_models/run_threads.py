"""Threads that outlast a run, so that successive runs compute in the same one.

A thread that computes with torch on the CPU gets a team of OpenMP threads of its own, and caches. A
run in a new thread starts without them; worse, while two threads have teams there are more threads
than cores, and GNU's OpenMP then puts every thread to sleep between two operations: a fifth of the
time of a small denoiser.

The number of threads in a team is fixed once a thread has computed, so a run thread takes over the
number of whoever starts a run in it. The model pool owns the run threads: a run takes the one used
last or, if all are busy (with a run beside it, with the run whose node runs this graph, with one
that was left behind in a call that nobody can interrupt), a new one. Nothing ever waits for one.

Source: GCC's libgomp, wait.h: a waiting thread spins long only while there are no more managed
    threads than processors.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

__all__ = ["RunThreads", "STARTED_IN"]

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


class _RunThread(NamedTuple):
    handle: threading.Thread
    jobs: SimpleQueue[_Job | None]


class RunThreads:
    """Threads for runs. Any thread may use it; `close` lets them end."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[_RunThread] = []
        self._closed = False

    def start(self, work: Callable[[], None], over: threading.Event) -> None:
        """Begin work in the thread that was used last, or in a new one where none is idle. `over` is
        set when the thread is free again, or the work has raised.
        """
        with self._lock:
            thread = self._idle.pop() if self._idle else None
            # A fork copies this list, but not the threads in it.
            while thread is not None and not thread.handle.is_alive():
                thread = self._idle.pop() if self._idle else None
        if thread is None:
            jobs: SimpleQueue[_Job | None] = SimpleQueue()
            thread = _RunThread(
                threading.Thread(
                    target=self._serve, args=(jobs,), name="imagen_flow run", daemon=True
                ),
                jobs,
            )
            thread.handle.start()
        context = Context()
        context.run(STARTED_IN.set, STARTED_IN.get())
        thread.jobs.put(_Job(work, over, context, _threads()))

    def close(self) -> None:
        """Let idle threads end now, and the others when they have done their work. A run may still
        start: its thread ends with it.
        """
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.jobs.put(None)

    def _serve(self, jobs: SimpleQueue[_Job | None]) -> None:
        thread = _RunThread(threading.current_thread(), jobs)
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if thread in self._idle:
                        self._idle.remove(thread)
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
                    self._idle.append(thread)
            over.set()  # only now, so that whoever waited finds this thread idle
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
