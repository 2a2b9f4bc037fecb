"""Bring records to the disk in a thread of their own, and serve them from memory until they are
there.

A key is recorded only after its objects are in place; records are committed at most 50 ms or 256
steps at a time. The queue is bounded by bytes. A record that cannot be written
(a full disk) stays in memory for as long as the store is open, and a warning says so: a run does
not fail because of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._types.artifact import Artifact
from ..errors import StoreError
from .index import StepRow, ValueRow
from .records import leaves, write_json, write_outputs
from .values import PLAIN_KINDS, ValueStore

__all__ = ["PendingRecord", "RecordWriter"]

#: A group of records is committed when it is this old or this large.
GROUP_S = 0.05
GROUP_STEPS = 256

_Leaf = tuple[Artifact, Any]


class PendingRecord:
    """A record on its way to the disk, with its live values."""

    __slots__ = ("cells", "failed", "key", "outputs", "provenance", "then", "weight")

    def __init__(
        self,
        key: str,
        outputs: dict[str, Artifact],
        provenance: Mapping[str, Any],
        cells: list[_Leaf],
        weight: int,
    ) -> None:
        self.key = key
        self.outputs = outputs
        self.provenance = provenance
        self.cells = cells
        self.weight = weight
        #: It could not be written, and is only in memory.
        self.failed = False
        #: What is to be done once that is settled.
        self.then: list[Callable[[bool], None]] = []


class RecordWriter:
    """The queue of records and the thread that writes them.

    `pending` holds by key the records, and `live` by digest the values, that are not written (yet,
    or at all). Any thread may read them: what leaves them is in the index by then.
    """

    def __init__(
        self,
        folder: Path,
        value_store: ValueStore,
        *,
        clock: Callable[[], float],
        limit: int,
        warn: Callable[[str], None],
    ) -> None:
        self.pending: dict[str, PendingRecord] = {}
        self.live: dict[str, _Leaf] = {}
        #: The weight of what is queued: at most `limit`, but for a single record that is larger.
        self.queued_bytes = 0
        self._folder = folder
        self._values = value_store
        self._clock = clock
        self._limit = limit
        self._warn = warn
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: deque[PendingRecord] = deque()
        self._writing = 0
        self._hurry = False
        self._closing = False
        self._unwritten: deque[PendingRecord] = deque()
        self._unwritten_bytes = 0
        self._used: dict[str, int] = {}

    # ---- for any thread

    def keep(self, key: str, outputs: Mapping[str, _Leaf], provenance: Mapping[str, Any]) -> None:
        """Queue a record; wait while the queue is full."""
        artifacts: dict[str, Artifact] = {}
        cells: list[_Leaf] = []
        weight = 500
        for port, pair in outputs.items():
            artifact = pair[0]
            artifacts[port] = artifact
            if artifact.items is None:
                cells.append(pair)
                weight += _weight(pair)
            else:
                for cell in leaves(artifact, pair[1]):
                    cells.append(cell)
                    weight += _weight(cell)
        kept = PendingRecord(key, artifacts, provenance, cells, weight)
        with self._change:
            if self._closing:
                raise StoreError(f"the store {self._folder} is closed")
            while self.queued_bytes and self.queued_bytes + weight > self._limit:
                self._hurry = True
                self._change.notify_all()
                self._change.wait()
            self.queued_bytes += weight
            self.pending[key] = kept
            for cell in cells:
                self.live[cell[0].digest] = cell
            self._queue.append(kept)
            waiting = len(self._queue)
            if waiting == 1 or waiting == GROUP_STEPS:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._write_queued, name="imagen_flow store", daemon=True
                    )
                    self._thread.start()
                self._change.notify_all()

    def note_use(self, key: str, at: int) -> None:
        """Have the last use of a step written down with the next group."""
        self._used[key] = at

    def when_settled(self, key: str, do: Callable[[bool], None]) -> None:
        """Call `do` once it is settled whether the record of this key is written: with True if it
        is (or there is none to write), with False if it cannot be.
        """
        with self._change:
            kept = self.pending.get(key)
            if kept is not None and not kept.failed:
                kept.then.append(do)
                return
        do(kept is None)

    def flush(self) -> None:
        """Wait until everything kept so far is written (or has failed to be)."""
        with self._change:
            while self._queue or self._writing:
                self._hurry = True
                self._change.notify_all()
                self._change.wait()
        self._write_used()

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._write_used()

    # ---- the thread

    def _write_queued(self) -> None:
        while True:
            with self._change:
                while not self._queue and not self._closing:
                    self._change.wait()
                if not self._queue:
                    return
                if not self._hurry and not self._closing and len(self._queue) < GROUP_STEPS:
                    self._change.wait(GROUP_S)
                group = [self._queue.popleft() for _ in range(min(GROUP_STEPS, len(self._queue)))]
                self._writing = len(group)
            try:
                self._write_group(group)
            finally:
                with self._change:
                    self._writing = 0
                    if not self._queue:
                        self._hurry = False
                    self._change.notify_all()

    def _write_group(self, group: list[PendingRecord]) -> None:
        now = int(self._clock())
        until = time.monotonic() + GROUP_S
        done: list[PendingRecord] = []
        steps: list[StepRow] = []
        values: dict[str, ValueRow] = {}
        for kept in group:
            try:
                own = {row[0]: row for cell in kept.cells if (row := self._values.encode(*cell))}
                steps.append(
                    (kept.key, write_outputs(kept.outputs), write_json(kept.provenance), now)
                )
            except (
                Exception
            ) as error:  # whatever cannot be encoded or written must not stop the run
                self._fail([kept], error)
                continue
            values.update(own)
            done.append(kept)
            if time.monotonic() > until:
                self._commit(done, steps, list(values.values()))
                done, steps, values = [], [], {}
                until = time.monotonic() + GROUP_S
        if done:
            self._commit(done, steps, list(values.values()))

    def _commit(
        self, done: list[PendingRecord], steps: list[StepRow], values: list[ValueRow]
    ) -> None:
        try:
            self._values.index.write(steps=steps, values=values, used=self._take_used())
        except sqlite3.Error as error:
            self._fail(done, error)
            return
        with self._change:
            for kept in done:
                self.queued_bytes -= kept.weight
                self._let_go(kept)
            self._change.notify_all()
        self._settle(done, written=True)

    def _fail(self, group: list[PendingRecord], error: BaseException) -> None:
        """Keep in memory what could not be written, as much as the queue may hold; the oldest is
        dropped.
        """
        said = (error.strerror or str(error)) if isinstance(error, OSError) else f"{error}"
        self._warn(
            f"the store {self._folder} cannot keep what was made: {said}; it stays in memory until"
            " the run ends"
        )
        with self._change:
            for kept in group:
                kept.failed = True
                self.queued_bytes -= kept.weight
                self._unwritten_bytes += kept.weight
                self._unwritten.append(kept)
            while self._unwritten_bytes > self._limit:
                old = self._unwritten.popleft()
                self._unwritten_bytes -= old.weight
                self._let_go(old)
            self._change.notify_all()
        self._settle(group, written=False)

    def _let_go(self, kept: PendingRecord) -> None:
        """Serve a record from memory no longer, unless a later one took its place."""
        if self.pending.get(kept.key) is kept:
            del self.pending[kept.key]
        for cell in kept.cells:
            if self.live.get(cell[0].digest) is cell:
                del self.live[cell[0].digest]

    def _settle(self, group: list[PendingRecord], *, written: bool) -> None:
        for kept in group:
            for do in kept.then:
                do(written)

    def _write_used(self) -> None:
        used = self._take_used()
        if used:
            try:
                self._values.index.write(used=used)
            except sqlite3.Error as error:
                self._warn(f"the store {self._folder} cannot be written ({error})")

    def _take_used(self) -> list[tuple[int, str]]:
        used, self._used = self._used, {}
        # A copy at one stroke: a look-up may still be writing into it.
        return [(at, key) for key, at in list(used.items())]


def _weight(cell: _Leaf) -> int:
    """Say about how many bytes a live value holds."""
    artifact, value = cell
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
