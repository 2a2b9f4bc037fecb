"""The store's index: a SQLite file that maps keys to outputs, and digests to the locations of
values.

The journal is in WAL mode with synchronous NORMAL: a kill loses nothing that was committed, a power
cut may lose the last commits but damages nothing. One connection reads, guarded by a lock (a lookup
takes microseconds, so threads rarely wait), another one writes. Many rows are inserted per
statement, because each statement that Python steps releases the interpreter lock and has to win it
back from a busy thread.

Any row may be invalid: everything that is returned from here has the types that it should have, and
a step's row is sealed, so that neither its key nor its outputs or provenance can belong to another.
A file that proves to be damaged is set aside at once and replaced by an empty index.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._system.seals import Seals
from .databases import DATABASE_ERRORS, connect, database_files, has_schema, is_damage, is_irregular
from .objects import is_location

__all__ = ["DamagedRow", "ForeignRow", "Index", "NewerFormat", "StepEntry", "ValueEntry"]

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

_ROWS_PER_STATEMENT = 64

_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}\Z")
_DIGEST = re.compile(r"[0-9a-f]{40}\Z")

#: A last use further in the future than this is invalid.
_CLOCK_SKEW_S = 86400

#: A row of `value`: digest, kind, size of the encoded bytes, their location in the store (empty if
#: they are in the row), and the bytes or None.
ValueRow = tuple[str, str, int, str, "bytes | None"]
#: A step to be written: its key, outputs, provenance and last use.
StepRow = tuple[str, str, str, int]


class StepEntry(NamedTuple):
    """A step without its provenance; `size` is the size of its row."""

    key: str
    outputs: str
    used: int
    size: int


class ValueEntry(NamedTuple):
    """A value without its body."""

    digest: str
    kind: str
    size: int
    location: str


class NewerFormat(Exception):
    """The index was created by a newer version."""


class DamagedRow(ValueError):
    """A row is not what was written."""


class ForeignRow(ValueError):
    """A row was written by another user, who is not trusted here."""


class Index:
    """An open index.

    Params:
        busy_s: how long to wait for other processes.
        exclusive: the file system has no locks, and no other process has the store open.
        warn: called with a message when a damaged index has been set aside.

    Raises:
        NewerFormat: it has a later format. sqlite3.Error: it cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        seals: Seals | None = None,
        busy_s: float = 30.0,
        exclusive: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.seals = seals or Seals()
        self.warn = warn or (lambda words: None)
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

    def _read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
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

    def _write(self, statements: Callable[[sqlite3.Connection], object]) -> None:
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

    # ---- one row

    def step(self, key: str) -> tuple[str, int] | None:
        """Give a step's outputs, as written, and when it was last used (0 if that is invalid).

        Raises:
            DamagedRow, ForeignRow: the row cannot be trusted.
        """
        rows = self._read("SELECT outputs, used, seal FROM step WHERE key=?", (key,))
        if not rows:
            return None
        outputs, used, seal = rows[0]
        self._check(seal, "step", key, outputs)
        return outputs, used if type(used) is int else 0

    def provenance(self, key: str) -> str | None:
        """Give a step's provenance, as written; None if it is lost."""
        rows = self._read("SELECT provenance, told FROM step WHERE key=?", (key,))
        return (
            rows[0][0]
            if rows and self.seals.is_trusted(rows[0][1], "provenance", key, rows[0][0])
            else None
        )

    def _check(self, seal: object, *parts: object) -> None:
        if not self.seals.is_trusted(seal, *parts):
            raise (
                ForeignRow("was written by another user")
                if self.seals.is_intact(seal, *parts)
                else DamagedRow("is not what was written")
            )

    def value(self, digest: str) -> tuple[str, int, str, bytes | None] | None:
        """Give a value's kind, size, location and body.

        Raises:
            DamagedRow: the row is invalid.
        """
        rows = self._read("SELECT kind, size, place, body FROM value WHERE digest=?", (digest,))
        if not rows:
            return None
        kind, size, location, body = rows[0]
        if not _is_valid_value(digest, kind, size, location) or (
            type(body) is not bytes or len(body) != size if location == "" else body is not None
        ):
            raise DamagedRow("its row in the index is invalid")
        return kind, size, location, body

    def location(self, digest: str) -> tuple[str, int] | None:
        """Give a value's location and size without reading its body; None if there is no valid row."""
        rows = self._read("SELECT kind, size, place FROM value WHERE digest=?", (digest,))
        return (rows[0][2], rows[0][1]) if rows and _is_valid_value(digest, *rows[0]) else None

    def history(self, name: str) -> str | None:
        rows = self._read("SELECT steps FROM history WHERE name=?", (name,))
        return rows[0][0] if rows and type(rows[0][0]) is str else None

    # ---- writing

    def record_history(self, name: str, steps: str, used: int) -> None:
        self._write(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO history VALUES (?,?,?)", (name, steps, used)
            )
        )

    def write(
        self,
        *,
        steps: Sequence[StepRow] = (),
        values: Sequence[ValueRow] = (),
        used: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Insert rows in one transaction; a step or value replaces the one with the same key or
        digest.
        """
        seal = self.seals.make
        rows = [
            (
                key,
                outputs,
                provenance,
                at,
                seal("step", key, outputs),
                seal("provenance", key, provenance),
            )
            for key, outputs, provenance, at in steps
        ]

        def insert(db: sqlite3.Connection) -> None:
            _insert(db, "INSERT OR REPLACE INTO value VALUES ", 5, values)
            _insert(db, "INSERT OR REPLACE INTO step VALUES ", 6, rows)
            db.executemany("UPDATE step SET used=? WHERE key=?", used)

        self._write(insert)

    def forget(self, digest: str) -> None:
        """Remove a value and every step that produced it, alone or in a list."""

        def delete(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM value WHERE digest=?", (digest,))
            db.execute("DELETE FROM step WHERE instr(outputs, ?)", (digest,))

        self._write(delete)

    def remove(
        self, *, steps: Iterable[str] = (), values: Iterable[str] = (), history_before: float = 0
    ) -> None:
        def delete(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM history WHERE typeof(used) <> 'integer' OR used < ?", (history_before,)
            )
            db.executemany("DELETE FROM step WHERE key=?", ((key,) for key in steps))
            db.executemany("DELETE FROM value WHERE digest=?", ((digest,) for digest in values))

        self._write(delete)

    def clear(self) -> None:
        def delete(db: sqlite3.Connection) -> None:
            for table in ("step", "value", "history"):
                db.execute(f"DELETE FROM {table}")

        self._write(delete)

    def shrink(self) -> None:
        """Release unused pages."""
        with self._writing, contextlib.suppress(*DATABASE_ERRORS):
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # ---- all rows

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

    def remove_invalid_rows(self) -> int:
        """Remove the rows that are invalid or whose seal is broken, and return their number."""
        steps = [
            rowid
            for rowid, key, outputs, seal, provenance, provenance_seal in self._all(
                "SELECT rowid, key, outputs, seal, provenance, told FROM step"
            )
            if not self._is_valid_step(key, outputs, seal)
            or not self.seals.is_intact(provenance_seal, "provenance", key, provenance)
        ]
        values = [
            rowid
            for rowid, *row in self._all("SELECT rowid, digest, kind, size, place FROM value")
            if not _is_valid_value(*row)
        ]
        if steps or values:

            def delete(db: sqlite3.Connection) -> None:
                db.executemany("DELETE FROM step WHERE rowid=?", ((rowid,) for rowid in steps))
                db.executemany("DELETE FROM value WHERE rowid=?", ((rowid,) for rowid in values))

            self._write(delete)
        return len(steps) + len(values)

    def _is_valid_step(self, key: object, outputs: object, seal: object) -> bool:
        return (
            isinstance(key, str)
            and _KEY.match(key) is not None
            and self.seals.is_intact(seal, "step", key, outputs)
        )

    def all_steps(self) -> list[StepEntry]:
        """List each valid step, least recently used first; an invalid last use counts as long ago."""
        latest = time.time() + _CLOCK_SKEW_S
        found = [
            StepEntry(key, outputs, used if type(used) is int and 0 <= used <= latest else 0, size)
            for key, outputs, used, size, seal in self._all(
                "SELECT key, outputs, used, length(key) + length(outputs) + length(provenance),"
                " seal FROM step ORDER BY rowid"
            )
            if self._is_valid_step(key, outputs, seal) and type(size) is int
        ]
        return sorted(found, key=lambda entry: entry.used)

    def all_values(self) -> list[ValueEntry]:
        """List each valid value by digest."""
        return [
            ValueEntry(*row)
            for row in self._all("SELECT digest, kind, size, place FROM value ORDER BY digest")
            if _is_valid_value(*row)
        ]

    def _all(self, sql: str) -> list[Any]:
        """Read all rows. A damaged B-tree with a cycle would yield more rows than the file can
        hold: then the index is set aside.
        """
        size = sum(part.stat().st_size for part in database_files(self.path) if part.is_file())
        most = size // 8 + 10_000
        generation = self._generation
        rows = self._read(f"{sql} LIMIT {most + 1}")
        if len(rows) > most:
            self._replace_damaged(generation, _damage("it has more rows than fit into the file"))
            return []
        return rows

    def summary(self) -> dict[str, Any]:
        """Count the valid rows and add up their sizes."""
        ((steps,),) = self._read("SELECT count(*) FROM step")
        ((oldest, newest),) = self._read(
            "SELECT min(used), max(used) FROM step WHERE typeof(used)='integer' AND used BETWEEN 0"
            " AND ?",
            (int(time.time()) + _CLOCK_SKEW_S,),
        )
        ((values, inline, outside),) = self._read(
            "SELECT count(*), total(CASE WHEN place='' THEN size END), total(CASE WHEN place<>''"
            " THEN size END) FROM value WHERE typeof(size)='integer' AND size BETWEEN 0 AND ?",
            (2**50,),
        )
        return {
            "steps": steps,
            "values": values,
            "inline_bytes": int(inline),
            "object_bytes": int(outside),
            "oldest_use": oldest,
            "newest_use": newest,
        }


def _prepare(db: sqlite3.Connection) -> None:
    """Create the tables, or check that they are those of this program.

    Raises:
        NewerFormat: a newer version created them. sqlite3.Error: they are damaged or unknown.
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


def _is_valid_value(digest: object, kind: object, size: object, location: object) -> bool:
    """Tell whether a row can be valid; above all, an object may only be under its own digest."""
    if not (
        isinstance(digest, str)
        and _DIGEST.match(digest)
        and isinstance(kind, str)
        and kind.isprintable()
        and type(size) is int
        and 0 <= size < 2**62
        and isinstance(location, str)
    ):
        return False
    return location == "" or is_location(location, digest)


def _insert(db: sqlite3.Connection, head: str, width: int, rows: Sequence[tuple[Any, ...]]) -> None:
    placeholders = f"({','.join('?' * width)})"
    grouped = len(rows) - len(rows) % _ROWS_PER_STATEMENT
    if grouped:
        statement = head + ",".join([placeholders] * _ROWS_PER_STATEMENT)
        for start in range(0, grouped, _ROWS_PER_STATEMENT):
            db.execute(
                statement,
                [cell for row in rows[start : start + _ROWS_PER_STATEMENT] for cell in row],
            )
    if rows[grouped:]:
        db.executemany(head + placeholders, rows[grouped:])
