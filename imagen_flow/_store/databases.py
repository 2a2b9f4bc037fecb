"""Open SQLite files that may be damaged, hostile, or on a file system without locks.

Nothing in such a file is trusted: text that is not UTF-8 can be read (its bytes come as
surrogates), the schema cannot call functions or virtual tables, and `has_schema` tells whether the
schema is exactly the one that this program creates, before any table is used: a view or a trigger
that replaces a table could do anything.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

__all__ = [
    "DATABASE_ERRORS",
    "connect",
    "is_damage",
    "is_irregular",
    "has_schema",
    "database_files",
]

#: What sqlite3 raises for any fault of a database.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)

#: The error codes of a file that is not a database, is damaged, or lacks the expected tables (see
#: `is_damage`).
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)


def connect(path: Path, *, busy_s: float, exclusive: bool = False) -> sqlite3.Connection:
    """Open a database.

    Params:
        busy_s: how long to wait for other processes.
        exclusive: the file system has no locks, and no other process has the file open. There may
            be no second connection.
    """
    name, is_uri = (
        (f"{path.absolute().as_uri()}?vfs=unix-none", True)
        if exclusive and os.name == "posix"
        else (str(path), False)
    )
    db = sqlite3.connect(
        name, uri=is_uri, isolation_level=None, check_same_thread=False, timeout=busy_s
    )
    db.text_factory = _text
    try:
        if exclusive:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        db.close()
        raise
    return db


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def has_schema(db: sqlite3.Connection, schema: str) -> bool:
    """Tell whether a database has exactly the tables of `schema` (statements that each end with
    ``;`` and a line break), and nothing else.
    """
    wanted = {statement.strip().removesuffix(";") for statement in schema.strip().split(";\n")}
    # Statistics and the indexes of primary keys are created by SQLite itself.
    found = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'"
    ).fetchall()
    return {sql for kind, _, sql in found if kind == "table"} == wanted and all(
        kind == "table" or (kind == "index" and sql is None) for kind, _, sql in found
    )


def is_damage(error: BaseException) -> bool:
    """Tell whether the file is damaged, as opposed to a fault of the disk, the permissions or
    another process.
    """
    if isinstance(error, UnicodeDecodeError):
        return True  # SQLite's message quotes text that is not UTF-8
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.DatabaseError) and code is not None and code & 0xFF in _DAMAGE


def database_files(path: Path) -> list[Path]:
    """List the files of a database."""
    return [Path(f"{path}{ending}") for ending in ("", "-wal", "-shm", "-journal")]


def is_irregular(path: Path) -> bool:
    """Tell whether one of a database's files exists and is not a regular file: a link leads
    elsewhere, a fifo blocks.
    """
    for part in database_files(path):
        try:
            if not stat.S_ISREG(os.lstat(part).st_mode):
                return True
        except OSError:
            continue
    return False
