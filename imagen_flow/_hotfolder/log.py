"""Say what a line does: a JSON object a line into a file, and to whoever listens."""

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
    """Appends to a file that may be rotated at any time by renaming it. What cannot be written is
    let go: a log must not stop a line.
    """

    def __init__(
        self, place: Path, *, line: str, listen: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.place = place
        self._line = line
        self._listen = listen
        self._lock = threading.Lock()

    def say(self, event: str, **about: Any) -> None:
        """Write down an event."""
        said = {
            "at": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "line": self._line,
            "event": event,
            **about,
        }
        with self._lock:
            with contextlib.suppress(OSError):
                # Never waits, should it be a pipe that nobody reads. Opened each time, so that a
                # rotated file is let go; one write, so that the lines of several processes do not
                # mix.
                handle = os.open(
                    self.place,
                    os.O_WRONLY
                    | os.O_CREAT
                    | os.O_APPEND
                    | getattr(os, "O_CLOEXEC", 0)
                    | getattr(os, "O_NONBLOCK", 0),
                    0o666,
                )
                try:
                    os.write(handle, json.dumps(said).encode() + b"\n")
                finally:
                    os.close(handle)
            if self._listen is not None:
                self._listen(said)
