"""Notify a command or a URL of finished items without ever delaying the line.

Notifications have a thread of their own, a bounded queue and a time limit. If the queue is full
they are dropped and counted; if one fails it is logged and not retried. The log and the journal are
the record.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.request
from queue import Empty, Full, Queue
from typing import Any

from .config import Notify
from .log import Log

__all__ = ["Notifier"]

MAX_QUEUED = 1000


class Notifier:
    """Sends notifications. `close` lets the queued ones finish for a few seconds, then drops the
    rest.
    """

    def __init__(self, settings: Notify, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._queue: Queue[dict[str, Any]] = Queue(MAX_QUEUED)
        self._closing = threading.Event()
        self._dropped = 0
        self._thread: threading.Thread | None = None
        if settings.command or settings.url:
            self._thread = threading.Thread(
                target=self._work, name="imagen_flow notify", daemon=True
            )
            self._thread.start()

    def notify(self, event: dict[str, Any]) -> None:
        """Queue a notification about an item."""
        if self._thread is None or event["event"] not in self._settings.on:
            return
        try:
            self._queue.put_nowait(event)
        except Full:
            self._dropped += 1
            if self._dropped in (1, 10, 100) or self._dropped % 1000 == 0:
                self._log.write("notify-dropped", count=self._dropped)

    def close(self, timeout_s: float = 5.0) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=0.2)
            except Empty:
                if self._closing.is_set():
                    return
                continue
            for send in (self._run_command, self._post_to_url):
                try:
                    send(json.dumps(event).encode())
                except Exception as error:  # the next notification may succeed
                    self._log.write(
                        "notify-failed",
                        about=event.get("item"),
                        reason=f"{type(error).__name__}: {error}",
                    )

    def _run_command(self, data: bytes) -> None:
        if not self._settings.command:
            return
        command = list(self._settings.command)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                process.communicate(data + b"\n", timeout=self._settings.timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    # Kill its children too, or they could delay it as well.
                    (
                        os.killpg(process.pid, signal.SIGKILL)
                        if hasattr(os, "killpg")
                        else process.kill()
                    )
                process.wait()
                raise TimeoutError(
                    f"the command took longer than {self._settings.timeout_s:g} s"
                ) from None
        if process.returncode:
            raise RuntimeError(f"the command exited with code {process.returncode}")

    def _post_to_url(self, data: bytes) -> None:
        if not self._settings.url:
            return
        request = urllib.request.Request(
            self._settings.url, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self._settings.timeout_s) as response:
            response.read(1 << 16)
