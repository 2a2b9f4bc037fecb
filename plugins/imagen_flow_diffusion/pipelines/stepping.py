"""Turn a library call that reports each step to a callback into a generator, so that a long node
can yield its progress and be stopped.

Pipelines run their loop inside one call. Here the call runs in a thread of its own, at most one
step ahead of whoever listens; closing the generator ends the call at its next step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Stopped(BaseException):
    """Raised inside the call to end it. It is not an Exception, so that no library handles it."""


def stepping(call: Callable[[Callable[[Any], None]], T]) -> Generator[Any, None, T]:
    """Yield what `call` reports, and return what it returns or raise what it raises.

    Inputs:
        call: gets a function to report with; calls it once a step.
    """
    reports: queue.Queue[Any] = queue.Queue(maxsize=1)
    over = object()
    stop = threading.Event()
    result: list[T] = []
    failure: list[BaseException] = []

    def put(report: Any) -> None:
        while not stop.is_set():
            try:
                return reports.put(report, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def work() -> None:
        try:
            result.append(call(put))
        except _Stopped:
            return
        except BaseException as error:
            failure.append(error)
        try:
            put(over)
        except _Stopped:
            return

    worker = threading.Thread(target=work, name="sampling", daemon=True)
    worker.start()
    try:
        while (report := reports.get()) is not over:
            yield report
    finally:
        stop.set()
        worker.join()
    if failure:
        # Popped: a frame that holds its own traceback would keep the tensors of a failed call
        # alive.
        raise failure.pop()
    return result.pop()
