"""The SQLite file of a store's index: open it, read and write it, and replace it if it is damaged.

The journal is in WAL mode with synchronous NORMAL: a kill loses nothing that was committed, a power
cut may lose the last commits but damages nothing. One connection reads, guarded by a lock (a lookup
takes microseconds, so threads rarely wait), another one writes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .databases import (
    DATABASE_ERRORS,
    connect,
    database_files,
    has_schema,
    is_damage,
    is_irregular,
)

__all__ = ["IndexFile", "NewerFormat"]

#: The format of the index and of the folder around it. A new format needs a new schema, if only by
#: a comment in it: the number alone may be damaged.
FORMAT = 2

#: SQLite's application id of a store's index ("flow").
_APPLICATION_ID = 0x666C6F77

_SCHEMA = """
CREATE TABLE step (key TEXT PRIMARY KEY, outputs TEXT NOT NULL, provenance TEXT NOT NULL, used INTEGER NOT NULL, seal BLOB NOT NULL, told BLOB NOT NULL);
CREATE TABLE value (digest TEXT PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL, place TEXT NOT NULL, body BLOB);
CREATE TABLE history (name TEXT PRIMARY KEY, steps TEXT NOT NULL, used INTEGER NOT NULL);
"""


class NewerFormat(Exception):
    """The index was created by a newer version."""


class IndexFile:
    """The open database file of an index. If it proves to be damaged, it is set aside and replaced
    by an empty one.

    Params:
        busy_s: how long to wait for other processes.
        exclusive: the file system has no locks, and no other process has the store open.
        warn: called with a message when a damaged index has been set aside.

    Raises:
        NewerFormat: it has a later format.
        sqlite3.Error: it cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_s: float = 30.0,
        exclusive: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.warn = warn or (lambda message: None)
        self._busy_s = busy_s
        self._exclusive = exclusive
        self._writing = threading.RLock()
        self._reading = self._writing if exclusive else threading.RLock()
        #: Counts the files that were opened: all but the last were set aside.
        self._generation = 0
        self._inode = (0, 0)
        try:
            self._open()
        except DATABASE_ERRORS as error:
            if not is_damage(error):
                raise
            self._replace_damaged(self._generation, error)

    def _open(self) -> None:
        if is_irregular(self.path):
            raise _damage("it is not a regular file")
        writer = connect(self.path, busy_s=self._busy_s, exclusive=self._exclusive)
        try:
            _prepare(writer)
            self._reader = writer if self._exclusive else connect(self.path, busy_s=self._busy_s)
            self._writer = writer
            self._cursor = self._reader.cursor()
        except BaseException:
            writer.close()
            raise
        found = os.stat(self.path)
        self._inode = (found.st_dev, found.st_ino)

    def _replace_damaged(self, generation: int, error: BaseException) -> None:
        """Set a damaged file aside and start an empty index."""
        with self._writing, self._reading:
            if self._generation != generation:
                return
            for name in ("_reader", "_writer"):
                if (connection := getattr(self, name, None)) is not None:
                    with contextlib.suppress(*DATABASE_ERRORS):
                        connection.close()
            self._generation += 1
            new_path = None
            try:
                found = os.lstat(self.path)
                if self._inode in ((0, 0), (found.st_dev, found.st_ino)):
                    new_path = _set_aside(self.path)
            except FileNotFoundError:
                pass
            except OSError as refused:
                raise sqlite3.OperationalError(
                    f"it is damaged ({error}) and cannot be moved aside: {refused}"
                ) from error
            self._inode = (0, 0)
            self._open()
        if new_path is not None:
            self.warn(
                f"the store's index was damaged ({ascii(str(error))[1:-1][:200]}); it was moved to"
                f" {new_path}, and all steps run again"
            )

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        with self._writing:
            self._writer.close()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        for again in (False, True):
            with self._reading:
                generation = self._generation
                try:
                    return self._cursor.execute(sql, parameters).fetchall()
                except DATABASE_ERRORS as error:
                    if again or not is_damage(error):
                        raise
                    damage: BaseException = error
            self._replace_damaged(generation, damage)
        raise AssertionError("the second try returns or raises")

    def write(self, statements: Callable[[sqlite3.Connection], object]) -> None:
        """Run statements in one transaction."""
        for again in (False, True):
            with self._writing:
                generation = self._generation
                try:
                    self._writer.execute("BEGIN IMMEDIATE")
                    statements(self._writer)
                    self._writer.execute("COMMIT")
                    return
                except BaseException as error:
                    with contextlib.suppress(*DATABASE_ERRORS):
                        if self._writer.in_transaction:
                            self._writer.execute("ROLLBACK")
                    if again or not is_damage(error):
                        raise
                    damage = error
            self._replace_damaged(generation, damage)

    def read_all(self, sql: str) -> list[Any]:
        """Read all rows. A damaged B-tree with a cycle would yield more rows than the file can
        hold: then the index is set aside.
        """
        size = sum(part.stat().st_size for part in database_files(self.path) if part.is_file())
        max_rows = size // 8 + 10_000
        generation = self._generation
        rows = self.read(f"{sql} LIMIT {max_rows + 1}")
        if len(rows) > max_rows:
            self._replace_damaged(generation, _damage("it has more rows than fit into the file"))
            return []
        return rows

    def check(self) -> None:
        """Check the whole file; a damaged one is set aside."""
        damage: Exception | None
        with self._reading:
            generation = self._generation
            try:
                result = str(self._reader.execute("PRAGMA integrity_check(1)").fetchone()[0])
                damage = None if result == "ok" else _damage(result)
            except DATABASE_ERRORS as error:
                if not is_damage(error):
                    raise
                damage = error
        if damage is not None:
            self._replace_damaged(generation, damage)

    def shrink(self) -> None:
        """Release unused pages."""
        with self._writing, contextlib.suppress(*DATABASE_ERRORS):
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _prepare(db: sqlite3.Connection) -> None:
    """Create the tables, or check that they are those of this program.

    Raises:
        NewerFormat: a newer version created them.
        sqlite3.Error: they are damaged or unknown.
    """
    (count,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,), (application,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")
    )
    if count and not has_schema(db, _SCHEMA):
        if application == _APPLICATION_ID and FORMAT < version < 1000:
            raise NewerFormat(version)
        raise _damage(
            "it has an older format"
            if application == _APPLICATION_ID and 0 < version < FORMAT
            else "its tables are not those of a store"
        )
    if not count:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        # There is nothing to lose yet, so don't wait for the disk.
        db.execute("PRAGMA synchronous=OFF")
    mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(f"the write-ahead log cannot be used (journal mode {mode})")
    if not count:
        db.executescript(
            f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA application_id={_APPLICATION_ID};PRAGMA"
            f" user_version={FORMAT};COMMIT;"
        )
    elif (version, application) != (FORMAT, _APPLICATION_ID):
        db.executescript(f"PRAGMA application_id={_APPLICATION_ID};PRAGMA user_version={FORMAT};")
    db.execute("PRAGMA synchronous=NORMAL")


def _damage(message: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _set_aside(path: Path) -> Path:
    """Rename a damaged index together with its journal files, and return its new path."""
    number, new_path = 1, path.with_name("index.damaged-1.sqlite")
    while any(os.path.lexists(part) for part in database_files(new_path)):
        number += 1
        new_path = path.with_name(f"index.damaged-{number}.sqlite")
    for part, target in zip(database_files(path), database_files(new_path), strict=True):
        with contextlib.suppress(FileNotFoundError):
            os.replace(part, target)
    return new_path
