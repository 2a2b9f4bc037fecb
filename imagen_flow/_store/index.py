"""The store's index: a SQLite file that maps keys to outputs, and digests to the locations of
values.

Many rows are inserted per statement, because each statement that Python steps releases the
interpreter lock and has to win it back from a busy thread.

Any row may be invalid: everything that is returned from here has the types that it should have, and
a step's row is sealed, so that neither its key nor its outputs or provenance can belong to another.
A file that proves to be damaged is set aside at once and replaced by an empty index.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from .._system.seals import Seals
from .index_file import IndexFile
from .objects import is_location

__all__ = ["DamagedRow", "ForeignRow", "Index", "StepEntry", "ValueEntry"]

_ROWS_PER_STATEMENT = 64
_ROWS_PER_QUERY = 500

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


class DamagedRow(ValueError):
    """A row is not what was written."""


class ForeignRow(ValueError):
    """A row was written by another user, who is not trusted here."""


class Index:
    """The rows of an open index.

    Params:
        seals: how rows are sealed, and whose rows are trusted.
    """

    def __init__(self, file: IndexFile, seals: Seals) -> None:
        self.file = file
        self.seals = seals
        self._ahead: dict[str, tuple[Any, ...]] = {}

    # ---- one row

    def step(self, key: str) -> tuple[str, int] | None:
        """Give a step's outputs, as written, and when it was last used (0 if that is invalid).

        Raises:
            DamagedRow, ForeignRow: the row cannot be trusted.
        """
        row = self._ahead.pop(key, None)
        if row is None:
            rows = self.file.read("SELECT outputs, used, seal FROM step WHERE key=?", (key,))
            if not rows:
                return None
            row = rows[0]
        outputs, used, seal = row
        self._check(seal, "step", key, outputs)
        return outputs, used if type(used) is int else 0

    @contextmanager
    def reading_ahead(self, keys: Sequence[str]) -> Iterator[None]:
        """Read the rows of steps that are likely to be asked for, many at a time, which takes a
        fifth of the time. They are forgotten in the end.
        """
        with suppress(sqlite3.Error):
            for start in range(0, len(keys), _ROWS_PER_QUERY):
                some = keys[start : start + _ROWS_PER_QUERY]
                places = ",".join("?" * len(some))
                query = f"SELECT key, outputs, used, seal FROM step WHERE key IN ({places})"
                self._ahead.update((key, row) for key, *row in self.file.read(query, some))
        try:
            yield
        finally:
            self._ahead.clear()

    def provenance(self, key: str) -> str | None:
        """Give a step's provenance, as written; None if it is lost."""
        rows = self.file.read("SELECT provenance, told FROM step WHERE key=?", (key,))
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
        rows = self.file.read("SELECT kind, size, place, body FROM value WHERE digest=?", (digest,))
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
        rows = self.file.read("SELECT kind, size, place FROM value WHERE digest=?", (digest,))
        return (rows[0][2], rows[0][1]) if rows and _is_valid_value(digest, *rows[0]) else None

    def history(self, name: str) -> str | None:
        rows = self.file.read("SELECT steps FROM history WHERE name=?", (name,))
        return rows[0][0] if rows and type(rows[0][0]) is str else None

    # ---- writing

    def record_history(self, name: str, steps: str, used: int) -> None:
        self.file.write(
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

        self.file.write(insert)

    def forget(self, digest: str) -> None:
        """Remove a value and every step that produced it, alone or in a list."""

        def delete(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM value WHERE digest=?", (digest,))
            db.execute("DELETE FROM step WHERE instr(outputs, ?)", (digest,))

        self.file.write(delete)

    def remove(
        self, *, steps: Iterable[str] = (), values: Iterable[str] = (), history_before: float = 0
    ) -> None:
        def delete(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM history WHERE typeof(used) <> 'integer' OR used < ?", (history_before,)
            )
            db.executemany("DELETE FROM step WHERE key=?", ((key,) for key in steps))
            db.executemany("DELETE FROM value WHERE digest=?", ((digest,) for digest in values))

        self.file.write(delete)

    def clear(self) -> None:
        def delete(db: sqlite3.Connection) -> None:
            for table in ("step", "value", "history"):
                db.execute(f"DELETE FROM {table}")

        self.file.write(delete)

    # ---- all rows

    def remove_invalid_rows(self) -> int:
        """Remove the rows that are invalid or whose seal is broken, and return their number."""
        steps = [
            rowid
            for rowid, key, outputs, seal, provenance, provenance_seal in self.file.read_all(
                "SELECT rowid, key, outputs, seal, provenance, told FROM step"
            )
            if not self._is_valid_step(key, outputs, seal)
            or not self.seals.is_intact(provenance_seal, "provenance", key, provenance)
        ]
        values = [
            rowid
            for rowid, *row in self.file.read_all(
                "SELECT rowid, digest, kind, size, place FROM value"
            )
            if not _is_valid_value(*row)
        ]
        if steps or values:

            def delete(db: sqlite3.Connection) -> None:
                db.executemany("DELETE FROM step WHERE rowid=?", ((rowid,) for rowid in steps))
                db.executemany("DELETE FROM value WHERE rowid=?", ((rowid,) for rowid in values))

            self.file.write(delete)
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
            for key, outputs, used, size, seal in self.file.read_all(
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
            for row in self.file.read_all(
                "SELECT digest, kind, size, place FROM value ORDER BY digest"
            )
            if _is_valid_value(*row)
        ]

    def summary(self) -> dict[str, Any]:
        """Count the valid rows and add up their sizes."""
        ((steps,),) = self.file.read("SELECT count(*) FROM step")
        ((oldest, newest),) = self.file.read(
            "SELECT min(used), max(used) FROM step WHERE typeof(used)='integer' AND used BETWEEN 0"
            " AND ?",
            (int(time.time()) + _CLOCK_SKEW_S,),
        )
        ((values, inline, outside),) = self.file.read(
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
