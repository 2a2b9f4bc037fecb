"""The store: opening and closing, records, values, and the claims of runs. The package's docstring
describes its files.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._system.seals import Seals
from .._types.artifact import Artifact
from .._types.codec import Codecs
from .._types.values import Folder
from ..errors import StoreError
from . import maintenance as maintenance
from .file_digests import FileDigests
from .folders import FolderStore
from .index import ForeignRow, Index
from .locks import Claims, lock_number
from .maintenance import CleanupReport, VerificationReport
from .objects import Objects, remove
from .opening import open_folder
from .pins import Pins
from .records import Record, leaves, read_outputs, write_json
from .values import ValueStore
from .writer import RecordWriter

__all__ = ["Store"]

#: A last use is recorded again only if the recorded one is older than this; garbage collection is
#: no more precise.
USE_S = 600

_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}\Z")


class Store:
    """An open store. Any thread may use it. Close it with `close`, or use it in a `with` statement."""

    def __init__(
        self,
        folder: Path,
        codecs: Codecs,
        index: Index,
        claims: Claims,
        *,
        clock: Callable[[], float],
        queue_bytes: int,
    ) -> None:
        self.folder = folder
        self.codecs = codecs
        #: The cached digests of files outside the store.
        self.files = FileDigests(folder, seals=index.seals, exclusive=claims.exclusive, clock=clock)
        self._seals = index.seals
        self._lock = threading.Lock()
        self._temporary = False
        self._warnings: dict[str, bool] = {}
        self._clock = clock
        self._queue_bytes = queue_bytes
        #: Whether it is open only while in use, and by how many (see `in_use`).
        self._on_demand = False
        self._users = 0
        self._using = threading.Lock()
        self._connect(index, claims)

    def _connect(self, index: Index, claims: Claims) -> None:
        """Create the parts that work while the folder is open."""
        self._closed = False
        folder, codecs = self.folder, self.codecs
        self._index = index
        index.file.warn = self._warn
        self._claims = claims
        self._pins = Pins(folder / "pins", claims, warn=self._warn)
        self._objects = Objects(folder)
        self._folders = FolderStore(self._objects, self.files)
        self._values = ValueStore(index, self._objects, self._folders, codecs, warn=self._warn)
        self._writer = RecordWriter(
            folder,
            self._values,
            clock=self._clock,
            limit=self._queue_bytes,
            pin=self._pins.add_to_all,
            warn=self._warn,
        )
        self._pending = self._writer.pending
        self._live_values = self._writer.live

    # ---- opening and closing

    @classmethod
    def open(
        cls,
        folder: Path,
        codecs: Codecs,
        *,
        seals: Seals | None = None,
        clock: Callable[[], float] = time.time,
        queue_bytes: int = 512 << 20,
    ) -> Store:
        """Open the store in `folder`; create it if there is none.

        `seals` says how rows are sealed and whose rows are trusted; without it, everybody's.

        A damaged index is moved aside (``index.damaged-N.sqlite``) and replaced by an empty one,
        with a warning.

        Raises:
            StoreError: it cannot be used; the message says why and how to fix it.
        """
        seals = seals or Seals()
        folder, index, claims, warnings = open_folder(folder, seals)
        store = cls(folder, codecs, index, claims, clock=clock, queue_bytes=queue_bytes)
        store._warn(*warnings)
        return store

    @classmethod
    def on_demand(cls, folder: Path, codecs: Codecs, *, seals: Seals | None = None) -> Store:
        """Give a store that is open only while it is in use (see `in_use`). It need not be closed.

        Raises:
            StoreError: it cannot be used; the message says why and how to fix it.
        """
        store = cls.open(folder, codecs, seals=seals)
        store._on_demand = True
        store.close()
        return store

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Store]:
        """Keep the store open within a `with` statement. A store on demand is opened for its first
        user and closed after its last; any other is simply used.

        Raises:
            StoreError: it can no longer be used; the message says why and how to fix it.
        """
        with self._using:
            if self._on_demand and self._users == 0:
                _, index, claims, warnings = open_folder(self.folder, self._seals)
                self._connect(index, claims)
                self._warn(*warnings)
            self._users += 1
        try:
            yield self
        finally:
            with self._using:
                self._users -= 1
                if self._on_demand and self._users == 0:
                    self.close()

    @classmethod
    def temporary(cls, codecs: Codecs) -> Store:
        """Open a store that is removed when it is closed, for a run that keeps nothing."""
        import tempfile

        store = cls.open(Path(tempfile.mkdtemp(prefix="imagen-flow-")), codecs)
        store._temporary = True
        return store

    @property
    def is_temporary(self) -> bool:
        """Whether nothing that is kept here outlasts the run."""
        return self._temporary

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued and release everything."""
        if self._closed:
            return
        self._writer.close()
        self._closed = True
        self._pins.close()
        if self._on_demand:
            self.files.suspend()
        else:
            self.files.close()
        self._index.file.close()
        self._claims.close()
        if self._temporary:
            remove(self.folder)

    def keep_until_exit(self) -> None:
        """Keep the folder of a temporary store until the program ends, because files in it are used
        elsewhere. Any other store stays anyway.
        """
        if self._temporary:
            self._temporary = False
            atexit.register(remove, self.folder)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.folder} is closed")

    def take_warnings(self) -> list[str]:
        """Give the new warnings since the last call. The same text is given only once."""
        with self._lock:
            new = [message for message, given in self._warnings.items() if not given]
            for message in new:
                self._warnings[message] = True
        return new

    def _warn(self, *warnings: str) -> None:
        with self._lock:
            for message in warnings:
                self._warnings.setdefault(message, False)

    # ---- records

    def lookup(self, key: str) -> Record | None:
        """Look up the result of a step by its key; None if there is none. The values are not read."""
        pending_record = self._pending.get(key)
        if pending_record is not None:
            return Record(key, pending_record.outputs, pending_record.provenance)
        try:
            row = self._index.step(key)
            if row is None:
                return None
            outputs = read_outputs(row[0])
        except sqlite3.Error as error:
            self._require_open()
            self._warn(f"the store {self.folder} cannot be read ({error}); steps run again")
            return None
        except ForeignRow:
            self._warn(
                f"the store {self.folder} came with its folder and holds results of other users,"
                " which are not trusted: these steps run again\n  = fix: if you trust their"
                " origin, name the store with --store or IMAGEN_FLOW_STORE"
            )
            return None
        except ValueError as error:
            self._warn(
                f"the store {self.folder} has a damaged record ({error}); its step runs again"
            )
            return None
        now = self._clock()
        if not 0 <= now - row[1] <= USE_S:
            self._writer.note_use(key, int(now))
        self._pins.add_to_all((key,))
        return Record(key, outputs, self._read_provenance)

    def reading_ahead(self, keys: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """Look up many keys faster, for as long as the context lasts: those given are read at once."""
        return self._index.reading_ahead([key for key in keys if key not in self._pending])

    def _read_provenance(self, key: str) -> Mapping[str, Any]:
        try:
            text = self._index.provenance(key)
            document = json.loads(text) if text else None
        except (sqlite3.Error, ValueError, RecursionError) as error:
            document = None
            self._warn(f"the store {self.folder} cannot be read ({error})")
        if isinstance(document, dict):
            return document
        self._warn(
            f"the store {self.folder} has lost the provenance of a step; it runs again next time"
        )
        with contextlib.suppress(sqlite3.Error):
            self._index.remove(steps=[key])
        return {}

    def keep(
        self, key: str, outputs: Mapping[str, tuple[Artifact, Any]], provenance: Mapping[str, Any]
    ) -> None:
        """Record what a step produced: by port, the artifact and its live value (see `adopt`).
        Returns at once unless the queue is full.

        `provenance` is JSON data; neither it nor the values may change afterwards.
        """
        self._writer.keep(key, outputs, provenance)

    def flush(self) -> None:
        """Wait until everything that was kept so far is written or has failed."""
        self._writer.flush()

    def history(self, name: str) -> dict[str, str]:
        """Give the keys that a graph's steps had when it last ran (see `record_history`)."""
        try:
            text = self._index.history(name)
            document = json.loads(text) if text else {}
        except (sqlite3.Error, ValueError, RecursionError):
            return {}
        return (
            {step: key for step, key in document.items() if isinstance(key, str)}
            if isinstance(document, dict)
            else {}
        )

    def record_history(self, name: str, keys: Mapping[str, str]) -> None:
        """Record the keys of a graph's steps, so that a later plan can say what has changed.
        Failures are ignored.
        """
        with contextlib.suppress(sqlite3.Error):
            self._index.record_history(name, write_json(dict(keys)), int(self._clock()))

    # ---- values

    def load(self, artifact: Artifact) -> Any:
        """Read the value of an artifact and check its digest, or give the live value while it is
        being written.

        Raises:
            Damaged: the value is missing or damaged; it and the steps that produced it have been
                removed.
        """
        if artifact.items is not None:
            return [self.load(item) for item in artifact.items]
        live = self._live_values.get(artifact.digest)
        return live[1] if live is not None else self._values.read(artifact)

    def has_value(self, artifact: Artifact) -> bool:
        """Tell cheaply whether a value is there, without checking its content."""
        return all(
            leaf.digest in self._live_values or self._values.has(leaf.digest)
            for leaf, _ in leaves(artifact, None)
        )

    def adopt(self, value: Any) -> Any:
        """Move what a node made in its scratch folder into the store, and return the value to pass
        on.

        Files, folders and models in `scratch` are moved into the store, digested, and returned with
        their new paths; elsewhere they stay where they are and are digested if they have no digest
        yet. The elements of lists are treated likewise; every other value is returned unchanged.

        Raises:
            OSError: a file that the node named does not exist.
            FileChanged: a file outside has other content than its digest says.
        """
        return self._folders.adopt(value)

    # ---- claims of runs

    def find_file(self, digest: str, size: int) -> Path | None:
        """Find a file with this content in the store; its content is digested again."""
        return self._objects.find(digest, size)

    def find_folder(self, digest: str) -> Folder | None:
        """Find a folder with this content that a node made."""
        return self._folders.find(digest)

    def scratch(self, key: str) -> Path:
        """Give a step's scratch folder; what an interrupted run left in it is still there."""
        path = self._scratch(key)
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()  # following the link would write elsewhere
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_scratch(self, key: str) -> None:
        """Remove a step's scratch folder, once its record is written."""
        path = self._scratch(key)
        self._writer.when_settled(key, lambda written: remove(path) if written else None)

    def _scratch(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError(f"'{key}' is not a key")
        return self.folder / "scratch" / key

    def lease(
        self, key: str, *, wait_s: float = 0.0, cancel: threading.Event | None = None
    ) -> bool:
        """Claim a key before computing it; wait up to `wait_s` for another holder, or until
        `cancel` is set. Whoever had to wait should look the key up again.
        """
        self._require_open()
        return self._claims.wait(lock_number(key), wait_s, cancel)

    def release(self, key: str) -> None:
        """Release a key once its record is written, so that whoever waits for it finds the result."""
        self._writer.when_settled(key, lambda _: self._claims.release(lock_number(key)))

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Protect steps (by key) and values (by digest) from garbage collection until `unpin` or
        until this process ends, and with them the steps that are kept or found meanwhile.
        """
        self._require_open()
        self._pins.pin(run, names)

    def unpin(self, run: str) -> None:
        """Remove a run's pin."""
        self._pins.unpin(run)

    # ---- maintenance

    def info(self) -> dict[str, Any]:
        """Report where the store is, how much it holds and how large it is."""
        self.flush()
        return maintenance.info(self.folder, self._values, self._pins)

    def gc(
        self, *, max_size: int | None = None, older_than_s: float | None = None
    ) -> CleanupReport:
        """Remove steps, least recently used first, until the store holds at most `max_size` bytes
        and no step unused for `older_than_s`.

        Values are removed with the last step that produced them. What running processes have pinned
        stays. Last uses are precise to ten minutes.
        """
        self.flush()
        return maintenance.clean(
            self.folder,
            self._values,
            self._pins,
            self._claims,
            now=self._clock(),
            max_size=max_size,
            older_than_s=older_than_s,
        )

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerificationReport:
        """Read all values again. What is damaged or missing is removed together with the steps that
        produced it.
        """
        self.flush()
        return maintenance.verify(self._values, progress)

    def clear(self) -> None:
        """Remove everything.

        Raises:
            StoreError: a run is using the store.
        """
        self.flush()
        maintenance.clear(self.folder, self._values, self._pins)
