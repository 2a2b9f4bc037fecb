"""The store's index: an SQLite file that maps keys to what they gave, and digests to where the values lie.

Journal in WAL mode, synchronous NORMAL: a kill loses nothing that was committed, a power cut may lose the last commits but damages nothing. One connection reads, guarded by a lock (a
look-up takes microseconds, so threads hardly meet), one writes. Rows are inserted many to a statement, since each statement that is stepped from Python lets go of the interpreter
lock and must win it back from a busy thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Index", "NewerFormat"]

#: The format of the index and of the folder around it.
FORMAT = 1

#: Marks the file as ours ("flow").
_APPLICATION = 0x666C6F77

_SCHEMA = """
CREATE TABLE step (key TEXT PRIMARY KEY, outputs TEXT NOT NULL, provenance TEXT NOT NULL, used INTEGER NOT NULL);
CREATE TABLE value (digest TEXT PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL, place TEXT NOT NULL, body BLOB);
CREATE TABLE history (name TEXT PRIMARY KEY, steps TEXT NOT NULL, used INTEGER NOT NULL);
"""

_ROWS = 64

#: A row of `value`: digest, kind, size of the encoded bytes, where they lie in the store (empty: here), and the bytes or None.
ValueRow = tuple[str, str, int, str, "bytes | None"]
StepRow = tuple[str, str, str, int]


class NewerFormat(Exception):
    """The index was made by a newer version."""


class Index:
    """An open index.

    Raises:
        NewerFormat: it is of a later format.
        sqlite3.DatabaseError: it is damaged (or, as an OperationalError, cannot be opened or written).
    """

    def __init__(self, path: Path, *, busy_s: float = 30.0) -> None:
        self.path = path
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        self._writer = _connect(path, busy_s)
        try:
            self._prepare()
            self._reader = _connect(path, busy_s)
            self._cursor = self._reader.cursor()
        except BaseException:
            self._writer.close()
            raise

    def _prepare(self) -> None:
        db = self._writer
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise NewerFormat(version)
        if version == 0:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            # Nothing to lose yet; the disk need not be waited for.
            db.execute("PRAGMA synchronous=OFF")
        mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(f"the journal cannot be kept beside it (mode {mode})")
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA application_id={_APPLICATION};PRAGMA user_version={FORMAT};COMMIT;")
        else:
            db.execute("SELECT key, outputs, provenance, used FROM step LIMIT 1").fetchone()
            db.execute("SELECT digest, kind, size, place, body FROM value LIMIT 1").fetchone()
            db.execute("SELECT name, steps, used FROM history LIMIT 1").fetchone()
        db.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        with self._writing:
            self._writer.close()

    def step(self, key: str) -> tuple[str, int] | None:
        """Give a step's outputs, as written, and when it was last used."""
        with self._reading:
            row: tuple[str, int] | None = self._cursor.execute("SELECT outputs, used FROM step WHERE key=?", (key,)).fetchone()
        return row

    def provenance(self, key: str) -> str | None:
        with self._reading:
            row = self._reader.execute("SELECT provenance FROM step WHERE key=?", (key,)).fetchone()
        return row[0] if row else None

    def value(self, digest: str) -> tuple[str, int, str, bytes | None] | None:
        """Give a value's kind, size, place and body."""
        with self._reading:
            row: tuple[str, int, str, bytes | None] | None = self._reader.execute(
                "SELECT kind, size, place, body FROM value WHERE digest=?", (digest,)
            ).fetchone()
        return row

    def history(self, name: str) -> str | None:
        with self._reading:
            row = self._reader.execute("SELECT steps FROM history WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def remember(self, name: str, steps: str, used: int) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO history VALUES (?,?,?)", (name, steps, used))

    def place(self, digest: str) -> tuple[str, int] | None:
        """Give a value's place and size, its body unread."""
        with self._reading:
            row: tuple[str, int] | None = self._cursor.execute("SELECT place, size FROM value WHERE digest=?", (digest,)).fetchone()
        return row

    def write(self, *, steps: Sequence[StepRow] = (), values: Sequence[ValueRow] = (), used: Sequence[tuple[int, str]] = ()) -> None:
        """Insert rows in one transaction; a step replaces the one of the same key, and so does a value."""
        with self._transaction() as db:
            _insert(db, "INSERT OR REPLACE INTO value VALUES ", 5, values)
            _insert(db, "INSERT OR REPLACE INTO step VALUES ", 4, steps)
            db.executemany("UPDATE step SET used=? WHERE key=?", used)

    def forget(self, digest: str) -> None:
        """Remove a value, and every step that gave it, alone or in a list."""
        with self._transaction() as db:
            db.execute("DELETE FROM value WHERE digest=?", (digest,))
            db.execute("DELETE FROM step WHERE instr(outputs, ?)", (digest,))

    def remove(self, *, steps: Iterable[str] = (), values: Iterable[str] = (), history_before: float = 0) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM history WHERE used < ?", (history_before,))
            db.executemany("DELETE FROM step WHERE key=?", ((key,) for key in steps))
            db.executemany("DELETE FROM value WHERE digest=?", ((digest,) for digest in values))

    def clear(self) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM step")
            db.execute("DELETE FROM value")
            db.execute("DELETE FROM history")

    def shrink(self) -> None:
        """Give back the pages that are no longer needed."""
        with self._writing:
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def all_steps(self) -> list[tuple[str, str, int, int]]:
        """Give each step's key, outputs, last use and size, longest unused first."""
        with self._reading:
            return self._reader.execute(
                "SELECT key, outputs, used, length(key) + length(outputs) + length(provenance) FROM step ORDER BY used, rowid"
            ).fetchall()

    def all_values(self) -> list[tuple[str, str, int, str]]:
        """Give each value's digest, kind, size and place."""
        with self._reading:
            return self._reader.execute("SELECT digest, kind, size, place FROM value ORDER BY digest").fetchall()

    def summary(self) -> dict[str, Any]:
        with self._reading:
            steps, oldest, newest = self._reader.execute("SELECT count(*), min(used), max(used) FROM step").fetchone()
            values, inline, outside = self._reader.execute(
                "SELECT count(*), total(CASE WHEN place='' THEN size END), total(CASE WHEN place<>'' THEN size END) FROM value"
            ).fetchone()
        return {"steps": steps, "values": values, "inline_bytes": int(inline), "object_bytes": int(outside), "oldest_use": oldest, "newest_use": newest}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


def _connect(path: Path, busy_s: float) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_s)


def _insert(db: sqlite3.Connection, head: str, width: int, rows: Sequence[tuple[Any, ...]]) -> None:
    one = f"({','.join('?' * width)})"
    whole = len(rows) - len(rows) % _ROWS
    if whole:
        many = head + ",".join([one] * _ROWS)
        for start in range(0, whole, _ROWS):
            db.execute(many, [cell for row in rows[start : start + _ROWS] for cell in row])
    if rows[whole:]:
        db.executemany(head + one, rows[whole:])
