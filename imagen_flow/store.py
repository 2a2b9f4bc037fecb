"""Keep what steps gave: values by their digest, and by a step's key which values it gave and how.

A folder::

    index.sqlite     keys, provenance, and every value whose encoding takes at most 64 KiB
    objects/ab/cd…   larger values, and the content of files that nodes made, under their digests
    trees/…          folders and models that nodes made, laid out again from objects (hard links, or copies)
    scratch/KEY/     a running step's own folder
    files.sqlite     digests of files outside, remembered (see filememo)
    locks, pins/     claims among processes (see locks)

**Nothing wrong is ever served**: whatever is read is digested again. What is missing or damaged is forgotten together with the steps that gave it, and `Damaged` is raised, so that they run again.

**Nothing waits for the disk**: `keep` hands a record to one writer thread, which encodes and writes; a key is recorded only after its objects are in place; records are committed at most
50 ms or 256 steps at a time. Until then they are served from memory. The queue is bounded by bytes. A record that cannot be written (a full disk) stays in memory
for as long as the store is open, and a warning says so: a run does not fail because of it.

**Several processes may share it** on a local disk. A key in the making is claimed by `lease`, what a run is going to read by `pin`; both end with their process, however it ends.

Files: a `File`, `Folder` or `Model` that a node made in its scratch folder is moved in by `adopt`. One that lies elsewhere belongs to the user: it is kept as a reference (path, size, digest), never copied; if it is no longer there with the same content, what depends on it is damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .artifact import Artifact
from .codec import Codecs, _inside
from .errors import StoreError
from .filememo import FileMemo, folder_digest, model_digest, walk
from .index import Index, NewerFormat, StepRow, ValueRow
from .locks import Claims
from .objects import Objects, lay_out
from .values import File, FileChanged, Folder, Model

__all__ = ["Damaged", "Record", "Store"]

#: Encoded values up to this size lie in the index.
INLINE = 64 * 1024

#: A group of records is committed when it is this old or this large.
GROUP_S = 0.05
GROUP_STEPS = 256

#: A last use is written down again only when the one on record is older than this: clean-up is no finer.
USE_S = 600

#: An object that no record names may be about to get one: clean-up lets it be until it is this old. So with the scratch folders of steps that never ended.
ORPHAN_S = 3600
SCRATCH_S = 7 * 24 * 3600

_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}\Z")
_LEASES = 2**47
_OPENING = 2**47 + 1
_OURS = frozenset({"index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "files.sqlite", "files.sqlite-wal", "files.sqlite-shm",
                   "objects", "trees", "scratch", "pins", "locks", "CACHEDIR.TAG", "lost+found"})  # fmt: skip
_NETWORK = re.compile(r"(nfs\d?|cifs|smb\w*|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|rclone|glusterfs|s3fs|gcsfuse|davfs\w*|ceph\w*)|davfs)\Z")
_PLACED = frozenset({"file", "folder", "model"})


class Damaged(StoreError):
    """A kept value is missing or is not what it was. It and the steps that gave it are forgotten."""

    def __init__(self, artifact: Artifact, why: str) -> None:
        self.artifact = artifact
        self.why = why
        super().__init__(f"the store's {artifact.kind} {artifact.digest[:8]} {why}")


class Record:
    """What a step gave: `outputs` by port, and how, in `provenance` (read only when asked for)."""

    __slots__ = ("_provenance", "key", "outputs")

    def __init__(self, key: str, outputs: dict[str, Artifact], provenance: Mapping[str, Any] | Callable[[str], Mapping[str, Any]]) -> None:
        self.key = key
        self.outputs = outputs
        self._provenance = provenance

    @property
    def provenance(self) -> Mapping[str, Any]:
        if callable(self._provenance):
            self._provenance = self._provenance(self.key)
        return self._provenance


class _Kept:
    """A record on its way to the disk, with its live values."""

    __slots__ = ("cells", "key", "outputs", "provenance", "weight")

    def __init__(self, key: str, outputs: dict[str, Artifact], provenance: Mapping[str, Any], cells: list[tuple[Artifact, Any]], weight: int) -> None:
        self.key = key
        self.outputs = outputs
        self.provenance = provenance
        self.cells = cells
        self.weight = weight


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a clean-up did."""

    steps_removed: int
    values_removed: int
    bytes_freed: int
    bytes_left: int
    steps_pinned: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found: how many values were read, and what was damaged (and is now forgotten)."""

    checked: int
    damaged: tuple[str, ...]


class Store:
    """An open store. Any thread may use it; `close` it, or use it in a `with`."""

    def __init__(self, folder: Path, codecs: Codecs, index: Index, claims: Claims, *, clock: Callable[[], float], queue_bytes: int) -> None:
        self.folder = folder
        self.codecs = codecs
        self._index = index
        self._claims = claims
        self._clock = clock
        self._limit = queue_bytes
        self._objects = Objects(folder / "objects")
        self._trees = folder / "trees"
        self._files: FileMemo | None = None
        self._change = threading.Condition()
        self._queue: deque[_Kept] = deque()
        self._pending: dict[str, _Kept] = {}
        self._live: dict[str, tuple[Artifact, Any]] = {}
        self._unwritten: deque[_Kept] = deque()
        self._unwritten_bytes = 0
        self._bytes = 0
        self._writing = 0
        self._hurry = False
        self._closing = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._used: dict[str, int] = {}
        self._drops: set[str] = set()
        self._releases: set[str] = set()
        self._warnings: dict[str, bool] = {}
        self._pins: dict[str, str] = {}
        self._temporary = False

    # ---- opening and closing

    @classmethod
    def open(cls, folder: Path, codecs: Codecs, *, clock: Callable[[], float] = time.time, queue_bytes: int = 512 << 20) -> Store:
        """Open the store in `folder`; make it if there is none.

        A damaged index is put aside (``index.damaged-N.sqlite``) and begun anew, with a warning.

        Raises:
            StoreError: it cannot be used; says why, and how to mend it.
        """
        folder = Path(os.path.abspath(folder))
        _check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder = Path(os.path.realpath(folder))
            for name in ("objects", "trees", "scratch", "pins"):
                (folder / name).mkdir(exist_ok=True)
            tag = folder / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n# Kept by imagen_flow: can be made again, needs no backup.\n")
            claims = Claims(folder / "locks")
        except OSError as odd:
            raise _unusable(folder, f"{odd.strerror or odd}", "make it writable, or name another folder with --store or IMAGEN_FLOW_STORE") from odd
        warning = ""
        try:
            patience = time.monotonic() + 30
            while not claims.claim(_OPENING) and time.monotonic() < patience:
                time.sleep(0.002)
            try:
                index, warning = _open_index(folder)
            finally:
                claims.release(_OPENING)
        except BaseException:
            claims.close()
            raise
        store = cls(folder, codecs, index, claims, clock=clock, queue_bytes=queue_bytes)
        if warning:
            store._warn(warning)
        return store

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
        with self._change:
            if self._closed:
                return
            self._closing = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._write_used()
        with self._change:
            self._closed = True
        for run in list(self._pins):
            self.unpin(run)
        if self._files is not None:
            self._files.close()
        self._index.close()
        self._claims.close()
        if self._temporary:
            _remove(self.folder)

    @property
    def files(self) -> FileMemo:
        """The memo of digests of files outside."""
        if self._files is None:
            with self._change:
                if self._files is None:
                    self._files = FileMemo(self.folder, clock=self._clock)
        return self._files

    def take_warnings(self) -> list[str]:
        """Give what could not be done since the last call. The same words are given once."""
        with self._change:
            new = [words for words, told in self._warnings.items() if not told]
            for words in new:
                self._warnings[words] = True
        return new

    def _warn(self, words: str) -> None:
        with self._change:
            self._warnings.setdefault(words, False)

    # ---- records

    def lookup(self, key: str) -> Record | None:
        """Give what the step of this key gave, or None. The values are not read."""
        kept = self._pending.get(key)
        if kept is not None:
            return Record(key, kept.outputs, kept.provenance)
        try:
            row = self._index.step(key)
        except sqlite3.Error as odd:
            self._warn(f"the store {self.folder} cannot be read ({odd}); steps run again")
            return None
        if row is None:
            return None
        try:
            outputs = _read_outputs(row[0])
        except ValueError as odd:
            self._warn(f"the store {self.folder} has a damaged record ({odd}); its step runs again")
            return None
        if self._clock() - row[1] > USE_S:
            self._used[key] = int(self._clock())
        return Record(key, outputs, self._read_provenance)

    def _read_provenance(self, key: str) -> Mapping[str, Any]:
        text = self._index.provenance(key)
        return json.loads(text) if text else {}

    def keep(self, key: str, outputs: Mapping[str, tuple[Artifact, Any]], provenance: Mapping[str, Any]) -> None:
        """Record what a step gave: by port, the artifact and its live value (see `adopt`). Returns at once, unless the queue is full.

        `provenance` is JSON data; neither it nor the values may change any more.
        """
        artifacts: dict[str, Artifact] = {}
        cells: list[tuple[Artifact, Any]] = []
        weight = 500
        for port, pair in outputs.items():
            artifact = pair[0]
            artifacts[port] = artifact
            if artifact.items is None:
                cells.append(pair)
                weight += _weight(pair)
            else:
                for cell in _leaves(artifact, pair[1]):
                    cells.append(cell)
                    weight += _weight(cell)
        kept = _Kept(key, artifacts, provenance, cells, weight)
        with self._change:
            if self._closing:
                raise StoreError(f"the store {self.folder} is closed")
            while self._bytes and self._bytes + weight > self._limit:
                self._hurry = True
                self._change.notify_all()
                self._change.wait()
            self._bytes += weight
            self._pending[key] = kept
            for cell in cells:
                self._live[cell[0].digest] = cell
            self._queue.append(kept)
            waiting = len(self._queue)
            if waiting == 1 or waiting == GROUP_STEPS:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._write_queued, name="imagen_flow store", daemon=True)
                    self._thread.start()
                self._change.notify_all()

    def flush(self) -> None:
        """Wait until everything kept so far is written (or has failed to be)."""
        with self._change:
            while self._queue or self._writing:
                self._hurry = True
                self._change.notify_all()
                self._change.wait()
        self._write_used()

    def history(self, name: str) -> dict[str, str]:
        """Give the keys that a graph's steps had when it last ran, as `remember` was told."""
        try:
            text = self._index.history(name)
            return dict(json.loads(text)) if text else {}
        except (sqlite3.Error, ValueError):
            return {}

    def remember(self, name: str, keys: Mapping[str, str]) -> None:
        """Note the keys of a graph's steps, so that a later plan can say what changed since. What cannot be noted is let go."""
        with contextlib.suppress(sqlite3.Error):
            self._index.remember(name, _JSON(dict(keys)), int(self._clock()))

    # ---- values

    def load(self, artifact: Artifact) -> Any:
        """Give the value of an artifact, read anew and digested, or the live one if it is still on its way to the disk.

        Raises:
            Damaged: it is missing or is not what it was; what gave it is forgotten.
        """
        if artifact.items is not None:
            return [self.load(item) for item in artifact.items]
        cell = self._live.get(artifact.digest)
        return cell[1] if cell is not None else self._read(artifact)

    def has_object(self, artifact: Artifact) -> bool:
        """Tell cheaply whether a value is there (not whether it is whole)."""
        return all(self._has(leaf) for leaf, _ in _leaves(artifact, None))

    def _has(self, artifact: Artifact) -> bool:
        if artifact.digest in self._live:
            return True
        row = self._index.place(artifact.digest)
        return row is not None and (not row[0] or _size(self.folder / row[0]) == row[1])

    def _read(self, artifact: Artifact) -> Any:
        try:
            row = self._index.value(artifact.digest)
        except sqlite3.Error as odd:
            raise Damaged(artifact, f"cannot be read: {odd}") from odd
        if row is None:
            # It may have been committed between the look at what is live and the look at the index, but never the other way round.
            self._forget(artifact, "")
            raise Damaged(artifact, "is missing")
        kind, size, place, body = row
        try:
            if body is None:
                data = _read_bytes(self._inside(place), size)
            else:
                data = body
            value = self.codecs.decode(kind, data, self.folder)
            if kind in _PLACED:
                self._check_content(value)
            if self.codecs.digest(value) != artifact.digest:
                raise ValueError("is not what was kept")
        except FileNotFoundError as gone:
            self._forget(artifact, place)
            raise Damaged(artifact, f"is missing ({gone.filename})") from gone
        except (OSError, ValueError, TypeError, FileChanged, Damaged) as odd:
            self._forget(artifact, place)
            raise Damaged(artifact, f"is damaged: {odd}") from odd
        return value

    def _inside(self, place: str) -> Path:
        """Give a place that the index names; ValueError if it does not lie in the store."""
        return self.folder.joinpath(*_inside(place))

    def _forget(self, artifact: Artifact, place: str) -> None:
        try:
            self._index.forget(artifact.digest)
            if place:
                self._inside(place).unlink(missing_ok=True)
        except (sqlite3.Error, OSError, ValueError) as odd:
            self._warn(f"a damaged value cannot be removed from the store {self.folder}: {odd}")

    # ---- files, folders and models

    def adopt(self, value: Any) -> Any:
        """Take in what a node made in its scratch folder, and give the value as it is to be passed on.

        Files, folders and models that lie in `scratch` are moved into the store, digested, and come back with their new place; elsewhere they stay where they are, and
        are digested if they have no digest yet. Lists are gone through; every other value comes back as it is.

        Raises:
            OSError: a file that the node named is not there.
            FileChanged: a file outside has another content than its digest says.
        """
        if isinstance(value, File):
            return self._adopt_file(value)
        if isinstance(value, Folder | Model):
            return self._adopt_tree(value)
        if type(value) in (list, tuple) and any(isinstance(item, File | Folder | Model | list | tuple) for item in value):
            return [self.adopt(item) for item in value]
        return value

    def _in_scratch(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.folder / "scratch")

    def _adopt_file(self, value: File) -> File:
        if value.path.is_relative_to(self.folder) and not self._in_scratch(value.path):
            return value
        found = self.files.file_value(value.path, value.name or value.path.name)
        if self._in_scratch(value.path):
            return replace(found, path=self._objects.take(found.digest, _suffix(found.name), value.path))
        if value.digest and value.digest != found.digest:
            raise FileChanged(f"{value.name or value.path} has changed")
        return found

    def _adopt_tree(self, value: Folder | Model) -> Folder | Model:
        if value.path.is_relative_to(self.folder) and not self._in_scratch(value.path):
            return value
        if not self._in_scratch(value.path):
            if isinstance(value, Model):
                return value if value.digest else replace(value, digest=self.files.model_digest(value.path))
            return value if value.digest else self.files.folder_value(value.path)
        single = not value.path.is_dir()
        places = [(value.path.name, value.path)] if single else list(walk(value.path))
        files = tuple(self.files.file_value(place, name) for name, place in places)
        if isinstance(value, Model):
            digest = files[0].digest if single else model_digest(iter(files))
        else:
            digest = folder_digest(files)
        manifest = []
        for file in files:
            place = self._objects.take(file.digest, _suffix(file.name), file.path)
            manifest.append([file.name, file.digest, file.size, place.relative_to(self.folder).as_posix()])
        text = json.dumps({"single": single, "files": manifest}).encode()
        temporary = self._trees / f".{digest[:8]}-{os.urandom(4).hex()}.tmp"
        temporary.write_bytes(text)
        os.replace(temporary, self._trees / f"{digest}.json")
        return self._lay_out(value, digest)

    def _lay_out(self, value: Folder | Model, digest: str) -> Folder | Model:
        """Make sure that the tree of a digest stands in full, and give the value that lies in it."""
        manifest = self._manifest(digest)
        tree = self._trees / digest
        tree.mkdir(exist_ok=True)
        files = []
        for name, content, size, place in manifest["files"]:
            target = tree.joinpath(*_inside(name))
            if not _is_whole(target, size, content):
                source = self._inside(place)
                if not _is_whole(source, size, content):
                    with contextlib.suppress(OSError):
                        source.unlink(missing_ok=True)
                    raise ValueError(f"its file {name} is missing or damaged")
                lay_out(source, target)
            files.append(File(target, content, size, name))
        if isinstance(value, Model):
            return replace(value, path=files[0].path if manifest["single"] else tree, digest=digest)
        return Folder(tree, digest, tuple(files))

    def _manifest(self, digest: str) -> dict[str, Any]:
        data = json.loads((self._trees / f"{digest}.json").read_bytes())
        if not isinstance(data, dict) or not isinstance(data.get("files"), list):
            raise ValueError("its list of files is damaged")
        return data

    def _check_content(self, value: File | Folder | Model) -> None:
        """Raise unless a file, folder or model still has the content that its digest says."""
        ours = value.path.is_relative_to(self.folder)
        if isinstance(value, File):
            if ours:
                if not _is_whole(value.path, value.size, value.digest):
                    value.path.unlink(missing_ok=True)
                    raise ValueError(f"the content of {value.name} is missing or damaged")
            elif self.files.digest_file(value.path) != value.digest:
                raise ValueError(f"{value.path} has another content now")
        elif ours:
            self._lay_out(value, value.digest)
        elif isinstance(value, Model):
            if self.files.model_digest(value.path) != value.digest:
                raise ValueError(f"{value.path} has another content now")
        elif self.files.folder_value(value.path).digest != value.digest:
            raise ValueError(f"{value.path} has another content now")

    # ---- scratch folders

    def scratch(self, key: str) -> Path:
        """Give a step's own folder; what an interrupted run left in it is still there."""
        path = self.folder / "scratch" / _checked_key(key)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_scratch(self, key: str) -> None:
        """Remove a step's scratch folder, once its record is written."""
        with self._change:
            if key in self._pending:
                self._drops.add(key)
                return
        _remove(self.folder / "scratch" / _checked_key(key))

    # ---- among processes

    def lease(self, key: str, *, wait_s: float = 0.0, cancel: threading.Event | None = None) -> bool:
        """Claim the making of a key; wait up to `wait_s` for another to end, or until `cancel`. Whoever had to wait should look the key up again."""
        number = _number(key)
        if self._claims.claim(number):
            return True
        until = time.monotonic() + wait_s
        pause = 0.005
        while (left := until - time.monotonic()) > 0:
            if cancel is None:
                time.sleep(min(pause, left))
            elif cancel.wait(min(pause, left)):
                return False
            if self._claims.claim(number):
                return True
            pause = min(pause * 1.5, 0.1)
        return False

    def release(self, key: str) -> None:
        """Let a key go, once its record is written, so that whoever waits for it finds it."""
        with self._change:
            if key in self._pending:
                self._releases.add(key)
                return
        self._claims.release(_number(key))

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Keep steps (by key) and values (by digest) from clean-up for as long as this process lives, or until `unpin`."""
        pin = self._pins.get(run)
        if pin is None:
            pin = f"{os.getpid()}-{os.urandom(8).hex()}"
            self._claims.claim(_number(pin))
            self._pins[run] = pin
        try:
            with open(self.folder / "pins" / pin, "a", encoding="ascii") as out:
                out.write("".join(f"{name}\n" for name in names))
        except OSError as odd:
            self._warn(f"the store {self.folder} cannot be written ({odd.strerror}); a clean-up meanwhile may cost work")

    def unpin(self, run: str) -> None:
        """Give up what a run had pinned."""
        pin = self._pins.pop(run, None)
        if pin is not None:
            with contextlib.suppress(OSError):
                (self.folder / "pins" / pin).unlink(missing_ok=True)
            self._claims.release(_number(pin))

    def _pinned(self) -> set[str]:
        """Give all that living runs have pinned; what dead ones left is removed."""
        pinned: set[str] = set()
        for path in sorted((self.folder / "pins").iterdir()):
            with contextlib.suppress(OSError):
                if self._claims.is_free(_number(path.name)):
                    path.unlink(missing_ok=True)
                else:
                    pinned.update(path.read_text("ascii").split("\n"))
        pinned.discard("")
        return pinned

    # ---- upkeep

    def info(self) -> dict[str, Any]:
        """Say where the store is, how much it holds and how large it is."""
        self.flush()
        disk = sum(_size(Path(place)) for place in _every_file(self.folder))
        return {"folder": str(self.folder), **self._index.summary(), "disk_bytes": disk, "pinned": len(self._pinned())}

    def gc(self, *, max_size: int | None = None, older_than_s: float | None = None) -> Cleaned:
        """Remove steps, longest unused first, until the store holds at most `max_size` bytes and none unused for `older_than_s`.

        Values go with the last step that gave them. What living runs have pinned stays. Last uses are known to ten minutes.
        """
        self.flush()
        now = self._clock()
        pinned = self._pinned()
        rows = {digest: (kind, size, place) for digest, kind, size, place in self._index.all_values()}
        content = {digest: self._content(digest, kind) for digest, (kind, _, _) in rows.items() if kind in _PLACED}
        weights = {digest: size + sum(n for _, n in content.get(digest, ())) for digest, (_, size, _) in rows.items()}
        steps = [(key, _digests(outputs), used, size) for key, outputs, used, size in self._index.all_steps()]
        uses: dict[str, int] = {}
        for _, digests, _, _ in steps:
            for digest in digests:
                uses[digest] = uses.get(digest, 0) + 1
        total = sum(size for *_, size in steps) + sum(weights[d] for d in uses if d in weights)
        before = total
        gone: list[str] = []
        held = 0
        for key, digests, used, size in steps:
            old = older_than_s is not None and now - used > older_than_s
            if not old and (max_size is None or total <= max_size):
                continue
            if key in pinned or not pinned.isdisjoint(digests):
                held += 1
                continue
            gone.append(key)
            total -= size
            for digest in digests:
                uses[digest] -= 1
                if uses[digest] == 0:
                    total -= weights.get(digest, 0)
        values = [digest for digest in rows if not uses.get(digest) and digest not in pinned]
        self._index.remove(steps=gone, values=values, history_before=0 if older_than_s is None else now - older_than_s)
        dropped = set(values)
        wanted = {place for digest, (_, _, place) in rows.items() if digest not in dropped}
        wanted |= {place for digest, places in content.items() if digest not in dropped for place, _ in places}
        loose = {rows[digest][2] for digest in values} | {place for digest in values for place, _ in content.get(digest, ())}
        self._sweep(wanted, loose - wanted, now)
        self._index.shrink()
        return Cleaned(len(gone), len(values), before - total, total, held)

    def _content(self, digest: str, kind: str) -> tuple[tuple[str, int], ...]:
        """Give the places in the store (and sizes) that a file, folder or model stands on, beside its own encoding."""
        try:
            row = self._index.value(digest)
            if row is None:
                return ()
            value = self.codecs.decode(kind, row[3] if row[3] is not None else self._inside(row[2]).read_bytes(), self.folder)
            if not value.path.is_relative_to(self.folder):
                return ()
            if isinstance(value, File):
                return ((value.path.relative_to(self.folder).as_posix(), value.size),)
            return (
                (f"trees/{value.digest}.json", 0),
                (f"trees/{value.digest}", 0),
                *((place, size) for _, _, size, place in self._manifest(value.digest)["files"]),
            )
        except (OSError, ValueError, KeyError, TypeError, sqlite3.Error):
            return ()

    def _sweep(self, wanted: set[str], loose: set[str], now: float) -> None:
        """Remove loose places, and whatever nobody wants and is old enough not to be about to be wanted."""
        for place in sorted(loose - {""}):
            with contextlib.suppress(ValueError):
                _remove(self._inside(place))
        for entry in self._objects.walk():
            name = Path(entry.path).relative_to(self.folder).as_posix()
            if name not in wanted and now - _changed(entry.path) > ORPHAN_S:
                _remove(Path(entry.path))
        for path in sorted(self._trees.iterdir()):
            if f"trees/{path.name}" not in wanted and now - _changed(path) > ORPHAN_S:
                _remove(path)
        for path in sorted((self.folder / "scratch").iterdir()):
            if now - _changed(path) > SCRATCH_S and self._claims.is_free(_number(path.name)):
                _remove(path)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Verified:
        """Read everything again. What is damaged or missing is forgotten together with the steps that gave it."""
        self.flush()
        rows = self._index.all_values()
        damaged: list[str] = []
        for done, (digest, kind, _, _) in enumerate(rows, 1):
            try:
                self._read(Artifact(digest, kind))
            except Damaged as found:
                damaged.append(str(found))
            if progress:
                progress(done, len(rows))
        there = {digest for digest, *_ in self._index.all_values()}
        lost = [key for key, outputs, _, _ in self._index.all_steps() if not there.issuperset(_digests(outputs))]
        self._index.remove(steps=lost)
        damaged += [f"step {key[:8]} has lost a value" for key in lost]
        return Verified(len(rows), tuple(damaged))

    def clear(self) -> None:
        """Remove everything kept.

        Raises:
            StoreError: a run is using it.
        """
        self.flush()
        if self._pinned():
            raise StoreError(f"the store {self.folder} is in use by a run\n  = fix: let the run end, then clear")
        self._index.clear()
        for path in [*sorted((self.folder / "objects").iterdir()), *sorted(self._trees.iterdir()), *sorted((self.folder / "scratch").iterdir())]:
            _remove(path)
        for path in sorted(self.folder.glob("index.damaged-*")):
            _remove(path)
        self._index.shrink()

    # ---- the writer's thread

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

    def _write_group(self, group: list[_Kept]) -> None:
        now = int(self._clock())
        until = time.monotonic() + GROUP_S
        done: list[_Kept] = []
        steps: list[StepRow] = []
        values: dict[str, ValueRow] = {}
        for kept in group:
            try:
                own = {row[0]: row for row in map(self._encode, kept.cells) if row}
                steps.append((kept.key, _write_outputs(kept.outputs), _JSON(kept.provenance), now))
            except Exception as odd:  # whatever cannot be encoded or written must not stop the run
                self._fail([kept], odd)
                continue
            values.update(own)
            done.append(kept)
            if time.monotonic() > until:
                self._commit(done, steps, list(values.values()))
                done, steps, values = [], [], {}
                until = time.monotonic() + GROUP_S
        if done:
            self._commit(done, steps, list(values.values()))

    def _encode(self, cell: tuple[Artifact, Any]) -> ValueRow | None:
        """Encode a value and put it in place; None if it is there already."""
        artifact, value = cell
        if artifact.kind not in _SMALL:
            row = self._index.place(artifact.digest)
            if row is not None and artifact.kind not in _PLACED and (not row[0] or _size(self.folder / row[0]) == row[1]):
                return None
        kind, suffix, data = self.codecs.encode(value, self.folder)
        if len(data) <= INLINE:
            return (artifact.digest, kind, len(data), "", data)
        place = self._objects.put(artifact.digest, suffix, data)
        return (artifact.digest, kind, len(data), place.relative_to(self.folder).as_posix(), None)

    def _commit(self, done: list[_Kept], steps: list[StepRow], values: list[ValueRow]) -> None:
        used, self._used = self._used, {}
        try:
            self._index.write(steps=steps, values=values, used=[(at, key) for key, at in used.items()])
        except sqlite3.Error as odd:
            self._fail(done, odd)
            return
        with self._change:
            for kept in done:
                self._bytes -= kept.weight
                if self._pending.get(kept.key) is kept:
                    del self._pending[kept.key]
                for cell in kept.cells:
                    if self._live.get(cell[0].digest) is cell:
                        del self._live[cell[0].digest]
            drops = [kept.key for kept in done if kept.key in self._drops] if self._drops else []
            releases = [kept.key for kept in done if kept.key in self._releases] if self._releases else []
            self._drops.difference_update(drops)
            self._releases.difference_update(releases)
            self._change.notify_all()
        for key in releases:
            self._claims.release(_number(key))
        for key in drops:
            _remove(self.folder / "scratch" / key)

    def _fail(self, group: list[_Kept], odd: BaseException) -> None:
        """Keep in memory what could not be written, as much as the queue may hold; the oldest is dropped."""
        said = (odd.strerror or str(odd)) if isinstance(odd, OSError) else f"{odd}"
        self._warn(f"the store {self.folder} cannot keep what was made: {said}; it stays in memory until the run ends")
        with self._change:
            for kept in group:
                self._bytes -= kept.weight
                self._unwritten_bytes += kept.weight
                self._unwritten.append(kept)
                if kept.key in self._releases:
                    self._releases.discard(kept.key)
                    self._claims.release(_number(kept.key))
            while self._unwritten_bytes > self._limit:
                old = self._unwritten.popleft()
                self._unwritten_bytes -= old.weight
                if self._pending.get(old.key) is old:
                    del self._pending[old.key]
                for cell in old.cells:
                    if self._live.get(cell[0].digest) is cell:
                        del self._live[cell[0].digest]
            self._change.notify_all()

    def _write_used(self) -> None:
        used, self._used = self._used, {}
        if used:
            try:
                self._index.write(used=[(at, key) for key, at in used.items()])
            except sqlite3.Error as odd:
                self._warn(f"the store {self.folder} cannot be written ({odd})")


_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SMALL = frozenset({"bool", "int", "float", "text", "json", "absent"})


def _weight(cell: tuple[Artifact, Any]) -> int:
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
    return 100 if kind in _SMALL else 2000


def _leaves(artifact: Artifact, value: Any) -> Iterator[tuple[Artifact, Any]]:
    """Give what a list holds, lists in lists gone through, each with its live value (None if there is none)."""
    pending = [(artifact, value)]
    while pending:
        here, live = pending.pop()
        if here.items is None:
            yield here, live
        else:
            pending.extend(zip(here.items, live if live is not None else (None,) * len(here.items), strict=True))


def _write_outputs(outputs: Mapping[str, Artifact]) -> str:
    """Write outputs a line each: port, kind, digest, and for a list its elements as JSON."""
    lines = []
    for port, artifact in outputs.items():
        line = f"{port} {artifact.kind} {artifact.digest}"
        lines.append(line if artifact.items is None else f"{line} {json.dumps(_plain(artifact)[2], separators=(',', ':'))}")
    return "\n".join(lines)


def _plain(artifact: Artifact) -> list[Any]:
    if artifact.items is None:
        return [artifact.digest, artifact.kind]
    return [artifact.digest, artifact.kind, [_plain(item) for item in artifact.items]]


def _read_outputs(text: str) -> dict[str, Artifact]:
    outputs = {}
    for line in text.split("\n"):
        if line:
            port, kind, digest, *items = line.split(" ", 3)
            outputs[port] = Artifact(digest, kind, tuple(map(_artifact, json.loads(items[0]))) if items else None)
    return outputs


def _artifact(plain: list[Any]) -> Artifact:
    digest, kind, *items = plain
    return Artifact(digest, kind, tuple(map(_artifact, items[0])) if items else None)


def _digests(outputs: str) -> list[str]:
    """Give the digests of all values that a record names, those of lists' elements but not of lists."""
    try:
        return [leaf.digest for artifact in _read_outputs(outputs).values() for leaf, _ in _leaves(artifact, None)]
    except ValueError:
        return []


def _read_bytes(path: Path, size: int) -> bytes:
    with open(path, "rb") as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise ValueError(f"its file is {'longer' if len(data) > size else 'shorter'} than it was")
    return data


def _is_whole(path: Path, size: int, digest: str) -> bool:
    if _size(path) != size:
        return False
    from .digest import digest_file

    return digest_file(path) == digest


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _changed(path: str | Path) -> float:
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return float("inf")


def _remove(path: Path) -> None:
    """Remove a file or a folder of our own; one that resists is left for another time."""
    import shutil

    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _every_file(folder: Path) -> Iterator[str]:
    pending = [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path


def _suffix(name: str) -> str:
    """Give a file's ending in a form that is safe in any file name."""
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,12}", ending) else ""


def _checked_key(key: str) -> str:
    if not _KEY.match(key):
        raise ValueError(f"'{key}' is no key")
    return key


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") % _LEASES


def _unusable(folder: Path, why: str, fix: str) -> StoreError:
    return StoreError(f"the store '{folder}' cannot be used\n  = why: {why}\n  = fix: {fix}")


def _check_folder(folder: Path) -> None:
    other = "name another folder with --store or IMAGEN_FLOW_STORE"
    if folder.exists() and not folder.is_dir():
        raise _unusable(folder, "it is a file, not a folder", other)
    if sys.platform == "linux" and (kind := network_file_system(folder)):
        raise _unusable(folder, f"it lies on a network file system ({kind}), where locks cannot be relied on", f"{other} on a local disk")
    try:
        if folder.is_dir() and not (folder / "index.sqlite").exists():
            strange = sorted(e.name for e in os.scandir(folder) if e.name not in _OURS and not e.name.startswith((".", "index.damaged-")))
            if strange:
                raise _unusable(folder, f"it is no store and is not empty (it holds '{strange[0]}')", f"{other}, one that is new or empty")
    except OSError as odd:
        raise _unusable(folder, f"{odd.strerror or odd}", f"make it readable, or {other}") from odd


def network_file_system(folder: Path, mounts: str | None = None) -> str:
    """Name the network file system that a folder lies on, or nothing. `mounts` is the text of ``/proc/self/mountinfo``."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
        # Later mounts lie over earlier ones on the same place.
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, after.split()[0]
    return kind if _NETWORK.match(kind) else ""


def _open_index(folder: Path) -> tuple[Index, str]:
    """Open the index; put a damaged one aside and begin anew, and say so."""
    path = folder / "index.sqlite"
    other = "name another folder with --store or IMAGEN_FLOW_STORE"
    try:
        return Index(path), ""
    except NewerFormat as newer:
        raise _unusable(folder, f"it was made by a newer imagen_flow (format {newer})", f"update imagen_flow, or {other}") from newer
    except sqlite3.OperationalError as odd:
        if not _is_damage(odd):
            raise _unusable(folder, f"its index cannot be opened: {odd}", f"make it writable, free some space, or {other}") from odd
        damage: sqlite3.Error = odd
    except sqlite3.DatabaseError as odd:
        damage = odd
    number = 1 + sum(1 for _ in folder.glob("index.damaged-*.sqlite"))
    aside = folder / f"index.damaged-{number}.sqlite"
    try:
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        index = Index(path)
    except (OSError, sqlite3.Error) as odd:
        raise _unusable(folder, f"its index is damaged ({damage}) and cannot be put aside: {odd}", other) from odd
    return index, f"the store's index was damaged ({damage}): it lies in {aside} now, and everything runs again"


def _is_damage(odd: sqlite3.Error) -> bool:
    # A table or column that is missing comes as an OperationalError, as does a disk that cannot be read.
    return "no such table" in str(odd) or "no such column" in str(odd) or "malformed" in str(odd)
