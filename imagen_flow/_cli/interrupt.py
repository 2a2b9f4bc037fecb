"""Handle interrupts: the first stops cleanly, the second exits at once.

The first sets the run's `cancel`. The second has to work whatever the main thread is doing, so a
thread waits for signals at the end of a socket. The interpreter's C code writes to it, even if no
Python code can run in the main thread.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]

INTERRUPTED = 130

#: A signal that comes again within this time is the same one: `timeout` signals the process and then
#: its group, to which the process belongs.
_SAME_SIGNAL_S = 0.1


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Within this block, the first SIGINT or SIGTERM calls `stop` in another thread, and the second
    ends the process with exit code 130. Yields the list of received signals.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signals = [
        s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN
    ]
    previous_handlers = {s: signal.signal(s, lambda *_: None) for s in signals}
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        stopped_s = 0.0
        while data := reader.recv(1):
            if data[0] not in signals:
                continue
            if not received:
                received.append(data[0])
                stop()
                stopped_s = time.monotonic()
            elif data[0] != received[0] or time.monotonic() > stopped_s + _SAME_SIGNAL_S:
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h\n")  # a live display may have hidden the cursor
                os._exit(INTERRUPTED)

    listener = threading.Thread(target=listen, name="imagen_flow signals", daemon=True)
    listener.start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        writer.close()
        listener.join(1)
        reader.close()
