"""Take the first interrupt as *stop cleanly*, the second as *exit at once*.

The first sets the run's `cancel`. The second has to work whatever the main thread is doing, so a
thread of its own waits for signals at the end of a socket that the
interpreter's C code writes to, which does not depend on Python code being able to run in the main
thread.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]

INTERRUPTED = 130


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Within this block, the first SIGINT or SIGTERM calls `stop` (in another thread) and the
    second ends the process with exit code 130. Gives the list of the signals that came.
    """
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signals = [
        s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN
    ]
    before = {s: signal.signal(s, lambda *_: None) for s in signals}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while said := ours.recv(1):
            if said[0] not in signals:
                continue
            heard.append(said[0])
            if len(heard) == 1:
                stop()
            else:
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h\n")  # a live display may have hidden the cursor
                os._exit(INTERRUPTED)

    listener = threading.Thread(target=listen, name="imagen_flow signals", daemon=True)
    listener.start()
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        listener.join(1)
        ours.close()
