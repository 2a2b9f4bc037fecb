"""The whole of a store: opening and closing, records, values, and what runs claim of it. See the
package for how it lies on the disk.
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

#: A last use is written down again only when the one on record is older than this: clean-up is no
# finer.
USE_S = 600

_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}\Z")


class Store:
    """An open store. Any thread may use it; `close` it, or use it in a `with`."""

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
        #: The memo of digests of files outside.
        self.files = FileDigests(folder, seals=index.seals, exclusive=claims.exclusive, clock=clock)
        self._seals = index.seals
        self._lock = threading.Lock()
        self._temporary = False
        self._warnings: dict[str, bool] = {}
        self._clock = clock
        self._queue_bytes = queue_bytes
        #: Whether it is open only while somebody uses it, and by how many it is used (see
        # `in_use`).
        self._on_demand = False
        self._users = 0
        self._using = threading.Lock()
        self._connect(index, claims)

    def _connect(self, index: Index, claims: Claims) -> None:
        """Put together what works while the folder is open."""
        self._closed = False
        folder, codecs = self.folder, self.codecs
        self._index = index
        index.warn = self._warn
        self._claims = claims
        self._pins = Pins(folder / "pins", claims, warn=self._warn)
        self._objects = Objects(folder)
        self._folders = FolderStore(self._objects, self.files)
        self._values = ValueStore(index, self._objects, self._folders, codecs, warn=self._warn)
        self._writer = RecordWriter(
            folder, self._values, clock=self._clock, limit=self._queue_bytes, warn=self._warn
        )
        self._pending = self._writer.pending
        self._live = self._writer.live

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
        """Open the store in `folder`; make it if there is none.

        `seals` says how records are sealed, and whose are believed; without, anybody's.

        A damaged index is put aside (``index.damaged-N.sqlite``) and begun anew, with a warning.

        Raises:
            StoreError: it cannot be used; says why, and how to mend it.
        """
        seals = seals or Seals()
        folder, index, claims, warnings = open_folder(folder, seals)
        store = cls(folder, codecs, index, claims, clock=clock, queue_bytes=queue_bytes)
        store._warn(*warnings)
        return store

    @classmethod
    def on_demand(cls, folder: Path, codecs: Codecs, *, seals: Seals | None = None) -> Store:
        """Give a store that is open only while somebody uses it (see `in_use`). It need not be
        closed.

        Raises:
            StoreError: it cannot be used; says why, and how to mend it.
        """
        store = cls.open(folder, codecs, seals=seals)
        store._on_demand = True
        store.close()
        return store

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Store]:
        """Have the store open within a `with`. One that is open on demand is opened for its first
        user and closed after its last; any other is simply used.

        Raises:
            StoreError: it cannot be used any more; says why, and how to mend it.
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
        """Open a store that is removed when it is closed: for a run that keeps nothing."""
        import tempfile

        store = cls.open(Path(tempfile.mkdtemp(prefix="imagen-flow-")), codecs)
        store._temporary = True
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued and let go of everything."""
        if self._closed:
            return
        self._writer.close()
        self._closed = True
        self._pins.close()
        if self._on_demand:
            self.files.suspend()
        else:
            self.files.close()
        self._index.close()
        self._claims.close()
        if self._temporary:
            remove(self.folder)

    def keep_until_exit(self) -> None:
        """Let the folder of a temporary store stay until the program ends: files in it are in use
        elsewhere. Any other store stays anyway.
        """
        if self._temporary:
            self._temporary = False
            atexit.register(remove, self.folder)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.folder} is closed")

    def take_warnings(self) -> list[str]:
        """Give what could not be done since the last call. The same words are given once."""
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
        """Give what the step of this key gave, or None. The values are not read."""
        kept = self._pending.get(key)
        if kept is not None:
            return Record(key, kept.outputs, kept.provenance)
        try:
            row = self._index.step(key)
            if row is None:
                return None
            outputs = read_outputs(row[0])
        except sqlite3.Error as error:
            self._check_open()
            self._warn(f"the store {self.folder} cannot be read ({error}); steps run again")
            return None
        except ForeignRow:
            self._warn(
                f"the store {self.folder} came with its folder, and what others put there is not"
                " believed: its steps run again\n  = fix: if you know where it comes from, name it"
                " with --store or IMAGEN_FLOW_STORE"
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
        self._pins.note(key)
        return Record(key, outputs, self._read_provenance)

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
            f"the store {self.folder} has lost how a step came to be; it runs again next time"
        )
        with contextlib.suppress(sqlite3.Error):
            self._index.remove(steps=[key])
        return {}

    def keep(
        self, key: str, outputs: Mapping[str, tuple[Artifact, Any]], provenance: Mapping[str, Any]
    ) -> None:
        """Record what a step gave: by port, the artifact and its live value (see `adopt`). Returns
        at once, unless the queue is full.

        `provenance` is JSON data; neither it nor the values may change any more.
        """
        self._pins.note(key)
        self._writer.keep(key, outputs, provenance)

    def flush(self) -> None:
        """Wait until everything kept so far is written (or has failed to be)."""
        self._writer.flush()

    def history(self, name: str) -> dict[str, str]:
        """Give the keys that a graph's steps had when it last ran, as `remember` was told."""
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

    def remember(self, name: str, keys: Mapping[str, str]) -> None:
        """Note the keys of a graph's steps, so that a later plan can say what changed since. What
        cannot be noted is let go.
        """
        with contextlib.suppress(sqlite3.Error):
            self._index.remember(name, write_json(dict(keys)), int(self._clock()))

    # ---- values

    def load(self, artifact: Artifact) -> Any:
        """Give the value of an artifact, read anew and digested, or the live one if it is still on
        its way to the disk.

        Raises:
            Damaged: it is missing or is not what it was; what gave it is forgotten.
        """
        if artifact.items is not None:
            return [self.load(item) for item in artifact.items]
        cell = self._live.get(artifact.digest)
        return cell[1] if cell is not None else self._values.read(artifact)

    def has_value(self, artifact: Artifact) -> bool:
        """Tell cheaply whether a value is there (not whether it is whole)."""
        return all(
            leaf.digest in self._live or self._values.has(leaf.digest)
            for leaf, _ in leaves(artifact, None)
        )

    def adopt(self, value: Any) -> Any:
        """Take in what a node made in its scratch folder, and give the value as it is to be passed
        on.

        Files, folders and models that lie in `scratch` are moved into the store, digested, and come
        back with their new place; elsewhere they stay where they are, and
        are digested if they have no digest yet. Lists are gone through; every other value comes
        back as it is.

        Raises:
            OSError: a file that the node named is not there.
            FileChanged: a file outside has another content than its digest says.
        """
        return self._folders.adopt(value)

    # ---- what a run claims

    def find_file(self, digest: str, size: int) -> Path | None:
        """Give where the content of a file lies, if the store has it; digested again."""
        return self._objects.find(digest, size)

    def find_folder(self, digest: str) -> Folder | None:
        """Give a folder that a node made, by its content, if the store has it."""
        return self._folders.find(digest)

    def scratch(self, key: str) -> Path:
        """Give a step's own folder; what an interrupted run left in it is still there."""
        path = self._scratch(key)
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()  # what is written there would be elsewhere
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_scratch(self, key: str) -> None:
        """Remove a step's scratch folder, once its record is written."""
        path = self._scratch(key)
        self._writer.when_settled(key, lambda written: remove(path) if written else None)

    def _scratch(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError(f"'{key}' is no key")
        return self.folder / "scratch" / key

    def lease(
        self, key: str, *, wait_s: float = 0.0, cancel: threading.Event | None = None
    ) -> bool:
        """Claim the making of a key; wait up to `wait_s` for another to end, or until `cancel`.
        Whoever had to wait should look the key up again.
        """
        self._check_open()
        return self._claims.wait(lock_number(key), wait_s, cancel)

    def release(self, key: str) -> None:
        """Let a key go, once its record is written, so that whoever waits for it finds it."""
        self._writer.when_settled(key, lambda _: self._claims.release(lock_number(key)))

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Keep steps (by key) and values (by digest) from clean-up for as long as this process
        lives, or until `unpin`; and with them the steps that are kept or found meanwhile.
        """
        self._check_open()
        self._pins.pin(run, names)

    def unpin(self, run: str) -> None:
        """Give up what a run had pinned."""
        self._pins.unpin(run)

    # ---- upkeep

    def info(self) -> dict[str, Any]:
        """Say where the store is, how much it holds and how large it is."""
        self.flush()
        return maintenance.info(self.folder, self._values, self._pins)

    def gc(
        self, *, max_size: int | None = None, older_than_s: float | None = None
    ) -> CleanupReport:
        """Remove steps, longest unused first, until the store holds at most `max_size` bytes and
        none unused for `older_than_s`.

        Values go with the last step that gave them. What living runs have pinned stays. Last uses
        are known to ten minutes.
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
        """Read everything again. What is damaged or missing is forgotten together with the steps
        that gave it.
        """
        self.flush()
        return maintenance.verify(self._values, progress)

    def clear(self) -> None:
        """Remove everything kept.

        Raises:
            StoreError: a run is using it.
        """
        self.flush()
        maintenance.clear(self.folder, self._values, self._pins)
