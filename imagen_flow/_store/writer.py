"""Write records in a thread of their own, and serve them from memory until they are written.

A key is recorded only after its objects are in place; records are committed in groups of at most 50
ms or 256 steps. The queue is bounded in bytes. A record that cannot be written (a full disk) stays
in memory while the store is open, with a warning: a run does not fail because of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .._types.artifact import Artifact
from ..errors import StoreError
from .index import StepRow, ValueRow
from .records import leaves, write_json, write_outputs
from .values import PLAIN_KINDS, ValueStore

__all__ = ["PendingRecord", "RecordWriter"]

#: A group of records is committed when it has this age or size.
GROUP_S = 0.05
GROUP_STEPS = 256

_Pair = tuple[Artifact, Any]


class PendingRecord:
    """A record that is not written yet, with its live values."""

    __slots__ = ("pairs", "failed", "key", "outputs", "provenance", "callbacks", "size_bytes")

    def __init__(
        self,
        key: str,
        outputs: dict[str, Artifact],
        provenance: Mapping[str, Any],
        pairs: list[_Pair],
        size_bytes: int,
    ) -> None:
        self.key = key
        self.outputs = outputs
        self.provenance = provenance
        self.pairs = pairs
        self.size_bytes = size_bytes
        #: Whether writing failed, so that it is only in memory.
        self.failed = False
        #: What to call once that is decided.
        self.callbacks: list[Callable[[bool], None]] = []


class RecordWriter:
    """The queue of records and the thread that writes them.

    `pending` holds the records by key, and `live` the values by digest, that are not written (yet,
    or at all). Any thread may read them: whatever leaves them is in the index by then.

    Params:
        limit: how many bytes may be queued.
        pin: protects keys from garbage collection; called before they are recorded.
    """

    def __init__(
        self,
        folder: Path,
        value_store: ValueStore,
        *,
        clock: Callable[[], float],
        limit: int,
        pin: Callable[[Iterable[str]], None],
        warn: Callable[[str], None],
    ) -> None:
        self.pending: dict[str, PendingRecord] = {}
        self.live: dict[str, _Pair] = {}
        #: The size of what is queued: at most `limit`, unless a single record is larger.
        self.queued_bytes = 0
        self._folder = folder
        self._values = value_store
        self._clock = clock
        self._limit = limit
        self._pin = pin
        self._warn = warn
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._queue: deque[PendingRecord] = deque()
        self._writing = 0
        self._flush_requested = False
        self._closing = False
        self._failed: deque[PendingRecord] = deque()
        self._failed_bytes = 0
        self._last_uses: dict[str, int] = {}

    # ---- for any thread

    def keep(self, key: str, outputs: Mapping[str, _Pair], provenance: Mapping[str, Any]) -> None:
        """Queue a record; wait while the queue is full."""
        artifacts: dict[str, Artifact] = {}
        pairs: list[_Pair] = []
        size_bytes = 500
        for port, pair in outputs.items():
            artifact = pair[0]
            artifacts[port] = artifact
            if artifact.items is None:
                pairs.append(pair)
                size_bytes += _size_in_memory(pair)
            else:
                for element in leaves(artifact, pair[1]):
                    pairs.append(element)
                    size_bytes += _size_in_memory(element)
        record = PendingRecord(key, artifacts, provenance, pairs, size_bytes)
        with self._lock:
            if self._closing:
                raise StoreError(f"the store {self._folder} is closed")
            while self.queued_bytes and self.queued_bytes + size_bytes > self._limit:
                self._flush_requested = True
                self._changed.notify_all()
                self._changed.wait()
            self.queued_bytes += size_bytes
            self.pending[key] = record
            for element in pairs:
                self.live[element[0].digest] = element
            self._queue.append(record)
            waiting = len(self._queue)
            if waiting == 1 or waiting == GROUP_STEPS:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._write_queued, name="imagen_flow store", daemon=True
                    )
                    self._thread.start()
                self._changed.notify_all()

    def note_use(self, key: str, used_at: int) -> None:
        """Record a step's last use with the next group."""
        self._last_uses[key] = used_at

    def when_settled(self, key: str, callback: Callable[[bool], None]) -> None:
        """Call `callback` once it is decided whether the record of this key is written: with True
        if it is (or there is none to write), with False if it cannot be.
        """
        with self._lock:
            record = self.pending.get(key)
            if record is not None and not record.failed:
                record.callbacks.append(callback)
                return
        callback(record is None)

    def flush(self) -> None:
        """Wait until all queued records are written or have failed."""
        with self._lock:
            while self._queue or self._writing:
                self._flush_requested = True
                self._changed.notify_all()
                self._changed.wait()
        self._write_used()

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._write_used()

    # ---- the thread

    def _write_queued(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                if (
                    not self._flush_requested
                    and not self._closing
                    and len(self._queue) < GROUP_STEPS
                ):
                    self._changed.wait(GROUP_S)
                group = [self._queue.popleft() for _ in range(min(GROUP_STEPS, len(self._queue)))]
                self._writing = len(group)
            try:
                self._write_group(group)
            finally:
                with self._lock:
                    self._writing = 0
                    if not self._queue:
                        self._flush_requested = False
                    self._changed.notify_all()

    def _write_group(self, group: list[PendingRecord]) -> None:
        now = int(self._clock())
        until = time.monotonic() + GROUP_S
        encoded: list[PendingRecord] = []
        steps: list[StepRow] = []
        values: dict[str, ValueRow] = {}
        for record in group:
            try:
                own = {row[0]: row for pair in record.pairs if (row := self._values.encode(*pair))}
                steps.append(
                    (record.key, write_outputs(record.outputs), write_json(record.provenance), now)
                )
            except Exception as error:
                # a record that cannot be encoded or written must not stop the run
                self._fail([record], error)
                continue
            values.update(own)
            encoded.append(record)
            if time.monotonic() > until:
                self._commit(encoded, steps, list(values.values()))
                encoded, steps, values = [], [], {}
                until = time.monotonic() + GROUP_S
        if encoded:
            self._commit(encoded, steps, list(values.values()))

    def _commit(
        self, encoded: list[PendingRecord], steps: list[StepRow], values: list[ValueRow]
    ) -> None:
        self._pin(record.key for record in encoded)
        try:
            self._values.index.write(steps=steps, values=values, used=self._take_used())
        except sqlite3.Error as error:
            self._fail(encoded, error)
            return
        with self._lock:
            for record in encoded:
                self.queued_bytes -= record.size_bytes
                self._release(record)
            self._changed.notify_all()
        self._settle(encoded, written=True)

    def _fail(self, group: list[PendingRecord], error: BaseException) -> None:
        """Keep in memory what could not be written, up to the size of the queue; the oldest records
        are dropped.
        """
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else f"{error}"
        self._warn(
            f"the store {self._folder} cannot write results: {reason}; they stay in memory until"
            " the run ends"
        )
        with self._lock:
            for record in group:
                record.failed = True
                self.queued_bytes -= record.size_bytes
                self._failed_bytes += record.size_bytes
                self._failed.append(record)
            while self._failed_bytes > self._limit:
                oldest = self._failed.popleft()
                self._failed_bytes -= oldest.size_bytes
                self._release(oldest)
            self._changed.notify_all()
        self._settle(group, written=False)

    def _release(self, record: PendingRecord) -> None:
        """Stop serving a record from memory, unless a later one replaced it."""
        if self.pending.get(record.key) is record:
            del self.pending[record.key]
        for pair in record.pairs:
            if self.live.get(pair[0].digest) is pair:
                del self.live[pair[0].digest]

    def _settle(self, group: list[PendingRecord], *, written: bool) -> None:
        for record in group:
            for callback in record.callbacks:
                callback(written)

    def _write_used(self) -> None:
        used = self._take_used()
        if used:
            try:
                self._values.index.write(used=used)
            except sqlite3.Error as error:
                self._warn(f"the store {self._folder} cannot be written ({error})")

    def _take_used(self) -> list[tuple[int, str]]:
        used, self._last_uses = self._last_uses, {}
        # Copy in one operation: a lookup may be adding to it.
        return [(used_at, key) for key, used_at in list(used.items())]


def _size_in_memory(pair: _Pair) -> int:
    """Estimate how many bytes a live value takes."""
    artifact, value = pair
    kind = artifact.kind
    if kind in ("image", "mask"):
        return int(value.pixels.nbytes)
    if kind == "tensor":
        return int(value.data.nbytes)
    if kind == "audio":
        return int(value.samples.nbytes)
    if kind == "text":
        return 100 + 4 * len(value)
    return 100 if kind in PLAIN_KINDS else 2000
