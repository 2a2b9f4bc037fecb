"""Tell others of items that ended, by a command or a post, without ever holding up the line.

A thread of its own, a queue of a thousand, a time limit each. What finds the queue full is dropped
and counted; what fails is logged and not tried again: the log and the journal are the record, this
is a bell.
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

_MOST = 1000


class Notifier:
    """Rings. `close` lets what is queued end within a few seconds, and drops the rest."""

    def __init__(self, notify: Notify, log: Log) -> None:
        self._notify = notify
        self._log = log
        self._queue: Queue[dict[str, Any]] = Queue(_MOST)
        self._closing = threading.Event()
        self._dropped = 0
        self._thread: threading.Thread | None = None
        if notify.command or notify.url:
            self._thread = threading.Thread(
                target=self._work, name="imagen_flow notify", daemon=True
            )
            self._thread.start()

    def tell(self, said: dict[str, Any]) -> None:
        """Queue what happened to an item."""
        if self._thread is None or said["event"] not in self._notify.on:
            return
        try:
            self._queue.put_nowait(said)
        except Full:
            self._dropped += 1
            if self._dropped in (1, 10, 100) or self._dropped % 1000 == 0:
                self._log.say("notify-dropped", count=self._dropped)

    def close(self, patience_s: float = 5.0) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(patience_s)

    def _work(self) -> None:
        while True:
            try:
                said = self._queue.get(timeout=0.2)
            except Empty:
                if self._closing.is_set():
                    return
                continue
            for ring in (self._call, self._post):
                try:
                    ring(json.dumps(said).encode())
                except Exception as failed:  # whatever it is, the next one may be heard
                    self._log.say(
                        "notify-failed",
                        about=said.get("item"),
                        reason=f"{type(failed).__name__}: {failed}",
                    )

    def _call(self, data: bytes) -> None:
        if not self._notify.command:
            return
        command = list(self._notify.command)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                process.communicate(data + b"\n", timeout=self._notify.timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    # Its children too, or they would hold it up as well.
                    (
                        os.killpg(process.pid, signal.SIGKILL)
                        if hasattr(os, "killpg")
                        else process.kill()
                    )
                process.wait()
                raise TimeoutError(
                    f"the command took longer than {self._notify.timeout_s:g} s"
                ) from None
        if process.returncode:
            raise RuntimeError(f"the command ended with {process.returncode}")

    def _post(self, data: bytes) -> None:
        if not self._notify.url:
            return
        request = urllib.request.Request(
            self._notify.url, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self._notify.timeout_s) as answer:
            answer.read(1 << 16)
