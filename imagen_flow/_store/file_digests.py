"""Digest files, and cache the digests for as long as the files do not change.

A digest is cached under the file's status: device, inode, size and the times of its last change. A
file that changed less than two seconds before it was read is digested anew each time, because
another change might leave the same times.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .._system.file_signs import SETTLE_S
from .._system.regular_files import open_regular
from .._system.seals import Seals
from .._types.digest import digest_stream, tagged
from .._types.values import File, FileChanged, Folder
from .databases import DATABASE_ERRORS, connect, database_files, has_schema, is_damage, is_irregular

__all__ = ["FileDigests", "TooManyFiles"]

#: A folder with more files is taken for a mistake (a home folder, a root).
MAX_FILES = 100_000

#: How many digests are cached in memory: some 12 MB.
MAX_KNOWN = 32_768

_FileStatus = tuple[str, str, int, int, int]


class TooManyFiles(ValueError):
    """A folder holds more files than a folder value may."""


class FileDigests:
    """Cached digests of files. With a `folder` (of a store) they are kept in ``files.sqlite``
    there, without one in memory only.

    Any thread may use it. The database is opened when it is first needed. If it cannot be written
    (a full or read-only disk), files are digested again next time, without a warning.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        seals: Seals | None = None,
        exclusive: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._seals = seals or Seals()
        self._exclusive = exclusive
        self._lock = threading.Lock()
        self._known: dict[_FileStatus, str] = {}
        self._new: list[tuple[_FileStatus, str]] = []
        self._file = folder / "files.sqlite" if folder is not None else None
        #: The database, until opening it has been tried.
        self._unopened = self._file
        self._db: sqlite3.Connection | None = None

    def suspend(self) -> None:
        """Write new digests and close the database until it is needed again."""
        with self._lock:
            self._write()
            if self._db is not None:
                self._db.close()
                self._db = None
                self._unopened = self._file

    def close(self) -> None:
        """Write new digests and close the database for good; later digests are cached in memory
        only.
        """
        self.suspend()
        with self._lock:
            self._unopened = None

    def digest_file(self, path: Path, *, check: Callable[[], None] | None = None) -> str:
        """Digest the content of a file; `check` is called between blocks and may raise."""
        return self._digest(path, check)[0]

    def file_value(
        self, path: Path, name: str | None = None, *, check: Callable[[], None] | None = None
    ) -> File:
        """Give the file as a value. `name` is its name for the user (default: its own name).

        Raises:
            FileNotFoundError, IsADirectoryError, PermissionError: as the system raises them.
            FileChanged: it is being written to.
        """
        digest, size = self._digest(path, check)
        return File(path, digest, size, path.name if name is None else name)

    def folder_value(self, path: Path, *, check: Callable[[], None] | None = None) -> Folder:
        """Give the folder as a value: all regular files in it, sorted by relative name, without
        hidden ones and links that lead out of it.

        Raises:
            TooManyFiles: it holds more than 100,000.
        """
        files = tuple(
            self.file_value(file_path, name, check=check) for name, file_path in walk(path)
        )
        return Folder(path, folder_digest(files), files)

    def model_digest(self, path: Path, *, check: Callable[[], None] | None = None) -> str:
        """Digest a model: the digest of a single file, or of a folder's files without hidden ones
        and documents (``.md``).
        """
        if not path.is_dir():
            return self.digest_file(path, check=check)
        return model_digest(
            self.file_value(file_path, name, check=check) for name, file_path in walk(path)
        )

    def _digest(self, path: Path, check: Callable[[], None] | None) -> tuple[str, int]:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(21, "it is a folder, not a file", str(path))
            raise OSError(22, "it is not a regular file", str(path))
        status = _status_of(found)
        known = self._recall(status)
        if known is not None:
            return known, found.st_size
        for _ in range(3):
            began = self._clock()
            with open_regular(path) as stream:
                before = os.fstat(stream.fileno())
                digest = digest_stream(stream, check=check)
                after = os.fstat(stream.fileno())
            if _status_of(before) == _status_of(after):
                if max(after.st_mtime, after.st_ctime) < began - SETTLE_S:
                    self._remember(_status_of(after), digest)
                return digest, after.st_size
        raise FileChanged(f"{path} is being written to")

    def _recall(self, status: _FileStatus) -> str | None:
        known = self._known.get(status)
        if known is not None or (self._db is None and self._unopened is None):
            return known
        with self._lock:
            if self._unopened is not None:
                self._db, self._unopened = _open(self._unopened, self._exclusive), None
            if self._db is None:
                return None
            try:
                row = self._db.execute(
                    "SELECT digest, seal FROM file WHERE device=? AND inode=? AND size=? AND"
                    " mtime=? AND ctime=?",
                    status,
                ).fetchone()
            except (*DATABASE_ERRORS, OverflowError) as error:
                self._drop_if_damaged(error)
                return None
        if row is None or not self._seals.is_trusted(row[1], *_seal_parts(status), row[0]):
            return None
        with self._lock:
            self._keep(status, row[0])
        return str(row[0])

    def _keep(self, status: _FileStatus, digest: str) -> None:
        if len(self._known) >= MAX_KNOWN:
            for oldest in list(itertools.islice(self._known, MAX_KNOWN // 2)):
                del self._known[oldest]
        self._known[status] = digest

    def _drop_if_damaged(self, error: Exception) -> None:
        """Remove the database if it is damaged; the next instance creates a new one."""
        if self._db is not None and self._file is not None and is_damage(error):
            self._db.close()
            self._db = None
            _remove(self._file)

    def _remember(self, status: _FileStatus, digest: str) -> None:
        with self._lock:
            self._keep(status, digest)
            if self._db is not None:
                self._new.append((status, digest))
                if len(self._new) >= 256:
                    self._write()

    def _write(self) -> None:
        new, self._new = self._new, []
        if self._db is None or not new:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            seal = self._seals.make
            self._db.executemany(
                "INSERT OR REPLACE INTO file VALUES (?,?,?,?,?,?,?)",
                [(*status, digest, seal(*_seal_parts(status), digest)) for status, digest in new],
            )
            self._db.execute("COMMIT")
        except (*DATABASE_ERRORS, OverflowError) as error:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            self._drop_if_damaged(error)


_SCHEMA = """
CREATE TABLE file (device TEXT, inode TEXT, size INTEGER, mtime INTEGER, ctime INTEGER, digest TEXT NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (device, inode)) WITHOUT ROWID;
"""


def _open(path: Path, exclusive: bool) -> sqlite3.Connection | None:
    """Open the database; a damaged one is replaced. None if there can be none: it is only a cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    for _ in range(2):
        db = None
        try:
            if is_irregular(path):
                raise sqlite3.DatabaseError("it is not a regular file")
            db = connect(path, busy_s=5, exclusive=exclusive)
            (count,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if count and not has_schema(db, _SCHEMA):
                raise sqlite3.DatabaseError("its tables are not ours")
            # Losing it costs reading some files again, so don't wait for the disk.
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
            if not count:
                db.execute(_SCHEMA.strip().replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
            return db
        except DATABASE_ERRORS as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
                return None
            _remove(path)
    return None


def _remove(path: Path) -> None:
    for part in database_files(path):
        with contextlib.suppress(OSError):
            if part.is_dir() and not part.is_symlink():
                part.rmdir()
            else:
                part.unlink(missing_ok=True)


def _seal_parts(status: _FileStatus) -> tuple[str, ...]:
    return tuple(map(str, status))


def _status_of(found: os.stat_result) -> _FileStatus:
    # As text: on Windows these numbers exceed SQLite's integers.
    return (
        str(found.st_dev),
        str(found.st_ino),
        found.st_size,
        _as_long(found.st_mtime_ns),
        _as_long(found.st_ctime_ns),
    )


def _as_long(number: int) -> int:
    """Fit a time in nanoseconds into SQLite's 64 bits, which end in 2262, unlike the times of some
    file systems.
    """
    return (number + 2**63) % 2**64 - 2**63


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative name (with ``/``) and path of each regular file in a folder, sorted by
    name.

    Hidden files and folders are skipped. A link is followed only if it leads to a file inside the
    folder; linked folders are not entered.
    """
    root = os.path.realpath(folder)
    found: list[tuple[str, Path]] = []
    pending = [("", str(folder))]
    while pending:
        prefix, folder_path = pending.pop()
        with os.scandir(folder_path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((name + "/", entry.path))
                elif entry.is_file() and (
                    not entry.is_symlink()
                    or Path(os.path.realpath(entry.path)).is_relative_to(root)
                ):
                    found.append((name, Path(entry.path)))
                    if len(found) > MAX_FILES:
                        raise TooManyFiles(f"{folder} holds more than {MAX_FILES} files")
    return iter(sorted(found))


def folder_digest(files: tuple[File, ...]) -> str:
    """Digest a folder by the sorted relative names and contents of its files."""
    return tagged("folder", *_parts(files))


def model_digest(files: Iterator[File]) -> str:
    """Digest a model's folder without its documents."""
    return tagged(
        "model-files", *_parts(tuple(f for f in files if not f.name.lower().endswith(".md")))
    )


def _parts(files: tuple[File, ...]) -> Iterator[bytes]:
    for file in files:
        yield file.name.encode("utf-8", "surrogatepass")
        yield bytes.fromhex(file.digest)
