"""Write the events of a line to a log file, one JSON object per line, and to a callback."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["Log"]


class Log:
    """Appends to a file, which may be rotated by renaming it at any time. Write errors are ignored:
    logging must not stop a line.
    """

    def __init__(
        self, path: Path, *, line: str, on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.path = path
        self._line = line
        self._on_event = on_event
        self._lock = threading.Lock()

    def write(self, event: str, **details: Any) -> None:
        """Write an event."""
        entry = {
            "at": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "line": self._line,
            "event": event,
            **details,
        }
        with self._lock:
            with contextlib.suppress(OSError):
                # Non-blocking, in case it is a pipe that nobody reads. Opened each time because of
                # rotation, and written in one call so that the lines of several processes do not
                # interleave.
                handle = os.open(
                    self.path,
                    os.O_WRONLY
                    | os.O_CREAT
                    | os.O_APPEND
                    | getattr(os, "O_CLOEXEC", 0)
                    | getattr(os, "O_NONBLOCK", 0),
                    0o666,
                )
                try:
                    os.write(handle, json.dumps(entry).encode() + b"\n")
                finally:
                    os.close(handle)
            if self._on_event is not None:
                self._on_event(entry)
