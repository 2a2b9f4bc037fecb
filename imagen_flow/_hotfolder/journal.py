"""The journal of a line: an SQLite database with the state and the owner of every item.

WAL, synchronous FULL: what is committed is on the disk. One row per item; a path has at most one
item that has not ended. The states and what changes them:

::

    seen ──unchanged──▶ settled ──claimed──▶ running ──outputs written──▶ placing
      ▲                    ▲                    │     ──all renamed──▶ placed
      └───── changed ──────┴── retry, return ───┤     ──original moved──▶ done (or skipped)
                                                └──fails for good──▶ failing
                                                      ──reason written, original moved──▶
                                                      failed (or quarantined)

A row in `placing` holds the remaining steps (which names are to be renamed to which), so that any
process can finish the work without running anything. A file that was removed before its turn is
`gone`.

A row is owned by the token of a worker process, which holds a lock of the operating system while it
lives, and a lease that it renews. Once the lock is free or the lease has expired, any process may
take the row, and the changes of its former owner are refused (`OwnershipLost`). Deadlines use the
monotonic clock, which all processes of a host share until it restarts; then they count as expired.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._store.databases import connect
from .._store.locks import Claims, InUse, lock_number
from .._store.opening import network_file_system
from .._system.dataclass import dataclass
from ..errors import StoreError

__all__ = [
    "ACTIVE",
    "FORMAT",
    "TROUBLE",
    "UNREAD",
    "Item",
    "Journal",
    "JournalError",
    "OwnershipLost",
    "FoundFile",
]

FORMAT = 1

#: The application id of the SQLite file ("fold").
_APPLICATION = 0x666F6C64

#: States of items that have not ended.
ACTIVE = ("seen", "settled", "running", "placing", "placed", "failing")

#: States of items that a worker owns, and that others take over if it dies.
_OWNED = ("running", "placing", "placed", "failing")

_IN_ACTIVE = f"state IN ({', '.join(repr(s) for s in ACTIVE)})"

_SCHEMA = f"""
CREATE TABLE item (
  id INTEGER PRIMARY KEY, path BLOB NOT NULL, state TEXT NOT NULL,
  sign TEXT NOT NULL, since REAL NOT NULL, arrived INTEGER NOT NULL, mtime INTEGER NOT NULL,
  due REAL NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0, kills INTEGER NOT NULL DEFAULT 0,
  owner TEXT, lease REAL NOT NULL DEFAULT 0,
  digest TEXT, recipe TEXT, steps TEXT, outputs TEXT, verdict TEXT, reason TEXT, kept BLOB,
  seen_at REAL NOT NULL, ended_at REAL
);
CREATE UNIQUE INDEX active ON item(path) WHERE {_IN_ACTIVE};
CREATE INDEX queue ON item(state, arrived, mtime, path);
CREATE INDEX settling ON item(since) WHERE state='seen';
CREATE INDEX owned ON item(owner) WHERE owner IS NOT NULL;
CREATE INDEX twins ON item(digest) WHERE digest IS NOT NULL;
CREATE INDEX places ON item(kept) WHERE kept IS NOT NULL;
CREATE INDEX ended ON item(ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE output (
  path TEXT PRIMARY KEY, item INTEGER NOT NULL, source BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE touched (folder BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE worker (
  token TEXT PRIMARY KEY, pid INTEGER NOT NULL, began_at REAL NOT NULL, beat REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_ORDERS = {
    "oldest": "arrived, mtime, path",
    "newest": "arrived DESC, mtime DESC, path",
    "name": "path",
}


#: Names of the notes that say why a line is waiting: JSON with the worker and the reason.
TROUBLE, UNREAD = "trouble", "unread"


#: How long to wait for other processes of the line.
_BUSY_S = 30.0


class JournalError(StoreError):
    """The journal cannot be used, or not any more."""


class OwnershipLost(Exception):
    """Another worker owns the item now."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was found.

    Params:
        path: below the watched folder, with ``/``.
        fingerprint: identifies this version of the file, by its size, time and inode and those of
            its tickets.
        whole: it is known to be complete.
        empty: it has no content yet.
    """

    path: str
    fingerprint: str
    mtime: int
    whole: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the journal."""

    id: int
    path: str
    state: str
    fingerprint: str
    tries: int
    kills: int
    digest: str | None
    recipe: str | None
    steps: list[dict[str, Any]]
    outputs: list[str]
    verdict: str | None
    reason: str | None
    kept: str | None
    owner: str | None = None


_COLUMNS = (
    "id, path, state, sign AS fingerprint, tries, kills, digest, recipe, steps, outputs,"
    " verdict, reason, kept,"
    " owner"
)


def _item(row: Sequence[Any]) -> Item:
    values = dict(zip(Item.__slots__, row, strict=True))
    kept = values["kept"]
    return Item(
        **values
        | {
            "path": os.fsdecode(values["path"]),
            "steps": json.loads(values["steps"] or "[]"),
            "outputs": json.loads(values["outputs"] or "[]"),
            "kept": None if kept is None else os.fsdecode(kept),
        }
    )


def _encode_name(name: str | None) -> bytes | None:
    # File names may contain bytes that are not text.
    return None if name is None else os.fsencode(name)


class Journal:
    """An open journal, for several threads of a process and several processes of a host.

    Params:
        folder: on a local disk; created if missing.
        clock: a monotonic clock that all processes of the host share.
        boot: identifies the period since the host started, for that clock.

    Raises:
        JournalError: it cannot be used; says why, and how to fix it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        boot: str | None = None,
        lease_s: float = 30.0,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.lease_s = lease_s
        #: Identifies this worker, also in the names of its temporary files.
        self.token = secrets.token_hex(6)
        self._lock = threading.RLock()
        if kind := network_file_system(folder):
            raise _unusable_error(
                folder,
                f"it is on a network file system ({kind}), where locks are unreliable",
                "name a folder on a local disk with 'journal:'",
            )
        try:
            folder.mkdir(exist_ok=True)
            self._claims = Claims(folder / "locks")
        except InUse as in_use:
            raise _unusable_error(folder, in_use.strerror or "", in_use.fix) from in_use
        except OSError as error:
            raise _unusable_error(
                folder,
                (error.strerror or str(error)).lower(),
                "make it writable, or name another folder with 'journal:'",
            ) from error
        try:
            with self._claims.opening(_BUSY_S):
                self._db = connect(
                    folder / "journal.sqlite", busy_s=_BUSY_S, exclusive=self._claims.exclusive
                )
                self._prepare(boot or _boot_id())
        except sqlite3.Error as error:
            self._claims.close()
            raise _unusable_error(
                folder,
                str(error),
                (
                    "free some space or make it writable; a damaged journal can be moved away,"
                    " and then every file in the folder counts as new"
                ),
            ) from error

    def _prepare(self, boot: str) -> None:
        db = self._db
        if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("WAL mode is not available there")
        db.execute("PRAGMA synchronous=FULL")
        with self.transaction():
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise sqlite3.OperationalError(
                    f"it was created by a newer imagen_flow (format {version})"
                )
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA application_id={_APPLICATION}")
                db.execute(f"PRAGMA user_version={FORMAT}")
                self.write_note("name", secrets.token_hex(4))
            #: Distinguishes this journal from an earlier one in the same folder.
            self.name = self.read_note("name")
            if self.read_note("boot") != boot:
                # The clock has restarted: all its times have expired.
                db.execute("UPDATE item SET lease=0, due=0")
                db.execute("UPDATE item SET since=? WHERE state='seen'", (self.clock(),))
                self.write_note("boot", boot)

    def close(self) -> None:
        """Release everything; items that this worker still owns may be taken by others."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self.unregister()
        with self._lock:
            self._db.close()
        self._claims.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction; nested inside another, part of it.

        Raises:
            JournalError: it failed and was rolled back.
        """
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise JournalError(
                    f"the journal {self.folder} cannot be written: {error}"
                ) from error

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"the journal {self.folder} cannot be read: {error}") from error

    # -- notes and workers

    def read_note(self, name: str) -> str:
        """Return a note of the line, or an empty string."""
        rows = self._rows("SELECT value FROM note WHERE name=?", (name,))
        return str(rows[0][0]) if rows else ""

    def write_note(self, name: str, value: str) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO note VALUES (?,?)", (name, value))

    def write_trouble(self, name: str, reason: str) -> None:
        """Record for `status` why the line is waiting; an empty reason means that it is not."""
        trouble = {"worker": self.token, "reason": reason} if reason else {}
        with contextlib.suppress(JournalError):  # the journal itself may be the problem
            self.write_note(name, json.dumps(trouble))

    def register(self) -> None:
        """Register this process as a worker of the line."""
        self._claims.claim(lock_number(self.token))
        with self.transaction() as db:
            for (token,) in db.execute("SELECT token FROM worker").fetchall():
                if not self.is_alive(token):
                    db.execute("DELETE FROM worker WHERE token=?", (token,))
            # A file's ticket or sentinel may have come, or the line may not need one any more.
            db.execute("UPDATE item SET due=0 WHERE state='seen' AND due<0")
            db.execute(
                "INSERT OR REPLACE INTO worker VALUES (?,?,?,?)",
                (self.token, os.getpid(), time.time(), self.clock()),
            )

    def unregister(self) -> None:
        """Unregister this process. Its running items return to the queue, and others may finish
        those that are nearly done.
        """
        with self.transaction() as db:
            db.execute(
                "UPDATE item SET state='settled', owner=NULL WHERE owner=? AND state='running'",
                (self.token,),
            )
            db.execute("UPDATE item SET owner=NULL WHERE owner=?", (self.token,))
            db.execute("DELETE FROM worker WHERE token=?", (self.token,))

    def is_alive(self, token: str) -> bool:
        """Return whether the process of a token is alive."""
        return token == self.token or not self._claims.is_free(lock_number(token))

    def workers(self) -> list[dict[str, Any]]:
        """List the living processes, each with the seconds since it last responded. Longer than a
        lease, and others may take its items.
        """
        rows = self._rows("SELECT token, pid, began_at, beat FROM worker ORDER BY began_at")
        return [
            {
                "pid": pid,
                "began_at": began_at,
                "silent_s": round(max(0.0, self.clock() - beat), 1),
                "token": token,
            }
            for token, pid, began_at, beat in rows
            if self.is_alive(token)
        ]

    def renew(self) -> None:
        """Renew the leases of this process."""
        now = self.clock()
        with self.transaction() as db:
            db.execute("UPDATE worker SET beat=? WHERE token=?", (now, self.token))
            db.execute("UPDATE item SET lease=? WHERE owner=?", (now + self.lease_s, self.token))

    # -- intake

    def record(self, found: Iterable[FoundFile], *, settled: bool = False) -> list[str]:
        """Record files as they were found, both new and changed ones. Returns the paths of the new
        ones.

        Params:
            settled: they need not wait until they settle.
        """
        new: list[str] = []
        now = self.clock()
        found = list(found)
        relevant = []
        with self._lock:
            for seen in found:
                row = self._rows(
                    f"SELECT id, state, sign FROM item WHERE path=? AND {_IN_ACTIVE}",
                    (os.fsencode(seen.path),),
                )
                if (
                    not row
                    or (row[0][1] in ("seen", "settled") and row[0][2] != seen.fingerprint)
                    or (row[0][1] == "seen" and seen.whole)
                ):
                    relevant.append(seen)
        if not relevant:
            return new
        with self.transaction() as db:
            arrived = int(self.read_note("arrived") or 0) + 1
            self.write_note("arrived", str(arrived))
            for seen in relevant:
                state = "settled" if seen.whole or (settled and not seen.empty) else "seen"
                path = os.fsencode(seen.path)
                row = db.execute(
                    f"SELECT id, state, sign FROM item WHERE path=? AND {_IN_ACTIVE}", (path,)
                ).fetchone()
                if row is None:
                    db.execute(
                        "INSERT INTO item (path, state, sign, since, arrived, mtime, seen_at)"
                        " VALUES (?,?,?,?,?,?,?)",
                        (path, state, seen.fingerprint, now, arrived, seen.mtime, time.time()),
                    )
                    new.append(seen.path)
                elif row[1] in ("seen", "settled") and row[2] != seen.fingerprint:
                    db.execute(
                        "UPDATE item SET state=?, sign=?, since=?, mtime=?, tries=0, kills=0, due=0"
                        " WHERE id=?",
                        (state, seen.fingerprint, now, seen.mtime, row[0]),
                    )
                elif row[1] == "seen" and seen.whole:
                    db.execute("UPDATE item SET state='settled', due=0 WHERE id=?", (row[0],))
        return new

    def settle(
        self,
        settle_s: float,
        inspect: Callable[[str], FoundFile | None],
        is_ready: Callable[[FoundFile, float], bool],
        *,
        limit: int = 500,
    ) -> int:
        """Inspect files that have not changed for `settle_s` again: those that are still the same
        have settled. Returns how many have.

        Params:
            inspect: returns a file as it is now; None if it is gone.
            is_ready: returns whether a file that has not changed for so many seconds is ready.
        """
        now = self.clock()
        # For files that are not ready, `due` is the negative time of the next check.
        rows = self._rows(
            "SELECT id, path, sign, since FROM item WHERE state='seen' AND since<=? AND due>=?"
            " ORDER BY since LIMIT ?",
            (now - settle_s, -now, limit),
        )
        if not rows:
            return 0
        found = [(row, inspect(os.fsdecode(row[1]))) for row in rows]
        count = 0
        with self.transaction() as db:
            for (number, _, fingerprint, since), seen in found:
                if seen is None:
                    db.execute(
                        "UPDATE item SET state='gone', ended_at=? WHERE id=? AND state='seen'",
                        (time.time(), number),
                    )
                elif seen.fingerprint != fingerprint:
                    db.execute(
                        "UPDATE item SET sign=?, since=?, mtime=?, due=0 WHERE id=? AND"
                        " state='seen'",
                        (seen.fingerprint, now, seen.mtime, number),
                    )
                elif not is_ready(seen, now - since):
                    # An event reports what it waits for, but events may be lost.
                    db.execute(
                        "UPDATE item SET due=? WHERE id=? AND state='seen'", (-(now + 1.0), number)
                    )
                else:
                    count += db.execute(
                        "UPDATE item SET state='settled', due=0 WHERE id=? AND state='seen' AND"
                        " sign=?",
                        (number, fingerprint),
                    ).rowcount
        return count

    def seconds_to_next_check(self, settle_s: float) -> float | None:
        """Return how long until a file may have settled; None if none is waiting."""
        rows = self._rows(
            "SELECT min(max(since+?, -due)) FROM item WHERE state='seen'", (settle_s,)
        )
        return None if rows[0][0] is None else max(0.0, rows[0][0] - self.clock())

    # -- work

    def claim(
        self, order: str, *, kills: int, busy: bool, only_finish: bool = False
    ) -> Item | None:
        """Claim the next item: first one that was nearly done when its worker stopped, then a
        settled one.

        An item that has killed a process before is processed alone: it is not claimed while this
        process is `busy`, nor is any item after it.

        Params:
            order: oldest, newest or name.
            kills: after how many deaths of its process an item is quarantined.
        """
        self._release_abandoned(kills)
        now = self.clock()
        with self._lock:
            row = self._first(
                "state IN ('placing', 'placed', 'failing') AND owner IS NULL AND due<=?",
                (now,),
                "id",
            )
            if row is None and not only_finish:
                row = self._first("state='settled' AND due<=?", (now,), _ORDERS[order])
        if row is None or (row[5] and row[2] == "settled" and busy):
            return None
        with self.transaction() as db:
            claimed = db.execute(
                "UPDATE item SET owner=?, lease=?, state=CASE state WHEN 'settled' THEN 'running'"
                " ELSE state END WHERE id=? AND owner IS NULL AND state=?",
                (self.token, now + self.lease_s, row[0], row[2]),
            ).rowcount
            return (
                _item(db.execute(f"SELECT {_COLUMNS} FROM item WHERE id=?", (row[0],)).fetchone())
                if claimed
                else None
            )

    def claim_more(self, order: str, *, most: int) -> list[Item]:
        """Claim items that are settled, too, to be processed with one that was claimed: at most so
        many, and none that has killed a process before, nor any after it.
        """
        now = self.clock()
        with self.transaction() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM item WHERE state='settled' AND owner IS NULL AND due<=?"
                f" ORDER BY {_ORDERS[order]} LIMIT ?",
                (now, most),
            ).fetchall()
            found = list(itertools.takewhile(lambda item: item.kills == 0, map(_item, rows)))
            db.executemany(
                "UPDATE item SET owner=?, lease=?, state='running' WHERE id=?",
                ((self.token, now + self.lease_s, item.id) for item in found),
            )
        return [replace(item, state="running", owner=self.token) for item in found]

    def count_waiting(self) -> int:
        """Count the settled items that can be claimed now."""
        return int(
            self._rows(
                "SELECT count(*) FROM item WHERE state='settled' AND due<=?", (self.clock(),)
            )[0][0]
        )

    def _first(self, where: str, values: Sequence[Any], order: str) -> Any:
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM item WHERE {where} ORDER BY {order} LIMIT 1", values
        )
        return rows[0] if rows else None

    def _release_abandoned(self, kills: int) -> None:
        """Release the items of workers that are dead, or that have not responded for too long."""
        now = self.clock()
        owners = self._rows(
            "SELECT owner, max(lease) FROM item WHERE owner IS NOT NULL AND owner<>? GROUP BY"
            " owner",
            (self.token,),
        )
        for owner, lease in owners:
            dead = not self.is_alive(owner)
            if not dead and lease >= now:
                continue
            with self.transaction() as db:
                if dead:
                    db.execute(
                        "UPDATE item SET kills=kills+1 WHERE owner=? AND state='running'", (owner,)
                    )
                reason = (
                    f"the process died {kills} times while processing this file"
                    if kills > 1
                    else "the process died while processing this file"
                )
                db.execute(
                    "UPDATE item SET state='failing', verdict='quarantined', reason=? WHERE owner=?"
                    " AND state='running' AND kills>=?",
                    (f"{reason}, so the file is quarantined", owner, kills),
                )
                db.execute(
                    "UPDATE item SET state='settled' WHERE owner=? AND state='running'", (owner,)
                )
                db.execute("UPDATE item SET owner=NULL WHERE owner=?", (owner,))

    def _update_owned(self, item: Item, assignments: str, values: Sequence[Any]) -> None:
        with self.transaction() as db:
            if (
                db.execute(
                    f"UPDATE item SET {assignments} WHERE id=? AND owner=?",
                    (*values, item.id, self.token),
                ).rowcount
                == 0
            ):
                raise OwnershipLost(item.path)

    def set_content(self, item: Item, digest: str, recipe: str) -> bool:
        """Record an item's content. Returns False, and records nothing, while another item with the
        same content and recipe is being processed.
        """
        with self.transaction() as db:
            if db.execute(
                f"SELECT 1 FROM item WHERE digest=? AND recipe=? AND id<>? AND state IN {_OWNED}",
                (digest, recipe, item.id),
            ).fetchone():
                return False
            self._update_owned(item, "digest=?, recipe=?", (digest, recipe))
        return True

    def find_done(self, digest: str, recipe: str) -> Item | None:
        """Return an item with this content and recipe that is done."""
        row = self._first("state='done' AND digest=? AND recipe=?", (digest, recipe), "id DESC")
        return _item(row) if row else None

    def mark_changed(self, item: Item) -> None:
        """The file has changed and has to settle again."""
        self._update_owned(
            item,
            "state='seen', since=?, sign='', owner=NULL, digest=NULL, recipe=NULL, tries=0,"
            " kills=0",
            (self.clock(),),
        )

    def requeue(self, item: Item, *, wait_s: float = 0.0, tried: bool = False) -> None:
        """Return an item to the queue; `tried` counts the attempt."""
        self._update_owned(
            item,
            "state='settled', owner=NULL, digest=NULL, recipe=NULL,"
            f" due=?{', tries=tries+1' if tried else ''}",
            (self.clock() + wait_s,),
        )

    def postpone(self, item: Item, wait_s: float) -> None:
        """Keep an item that cannot be finished now in its state, for later."""
        self._update_owned(item, "owner=NULL, due=?", (self.clock() + wait_s,))

    def output_owner(self, path: str) -> tuple[str, bool] | None:
        """Return which item an output file belongs to, and whether it is about to be published."""
        rows = self._rows(
            "SELECT output.source, item.state FROM output LEFT JOIN item ON item.id=output.item"
            " WHERE output.path=?",
            (path,),
        )
        return (os.fsdecode(rows[0][0]), rows[0][1] == "placing") if rows else None

    def add_temporary_folder(self, folder: Path) -> None:
        """Record that a folder may contain temporary files."""
        name = os.fsencode(folder)
        if not self._rows("SELECT 1 FROM touched WHERE folder=?", (name,)):
            with self.transaction() as db:
                db.execute("INSERT OR IGNORE INTO touched VALUES (?)", (name,))

    def temporary_folders(self) -> list[Path]:
        """List the folders that may contain temporary files."""
        return [Path(os.fsdecode(name)) for (name,) in self._rows("SELECT folder FROM touched")]

    def is_moving(self, number: int) -> bool:
        """Return whether an item's original may be in the course of moving."""
        return bool(
            self._rows(
                "SELECT 1 FROM item WHERE id=? AND state IN ('placed', 'failing')", (number,)
            )
        )

    def pending_steps(self) -> list[dict[str, Any]]:
        """List the steps of all items in `placing`."""
        return [
            step
            for (steps,) in self._rows("SELECT steps FROM item WHERE state='placing'")
            for step in json.loads(steps or "[]")
        ]

    def is_reserved(self, kept: str) -> bool:
        """Return whether an item that has not ended will get this name in `done` or `failed`."""
        return bool(
            self._rows(f"SELECT 1 FROM item WHERE kept=? AND {_IN_ACTIVE}", (_encode_name(kept),))
        )

    def stage(
        self,
        item: Item,
        steps: list[dict[str, Any]],
        outputs: Sequence[str],
        kept: str,
        *,
        digest: str,
        recipe: str,
    ) -> bool:
        """Record the remaining steps of an item. Returns False, and records nothing, if another
        item took one of the output names meanwhile.
        """
        source = os.fsencode(item.path)
        with self.transaction() as db:
            for path in outputs:
                other = self.output_owner(path)
                if other is not None and other[1] and other[0] != item.path:
                    return False
            db.executemany(
                "INSERT OR REPLACE INTO output VALUES (?,?,?)",
                ((path, item.id, source) for path in outputs),
            )
            self._update_owned(
                item,
                "state='placing', verdict='done', steps=?, outputs=?, kept=?, digest=?, recipe=?",
                (json.dumps(steps), json.dumps(list(outputs)), _encode_name(kept), digest, recipe),
            )
        return True

    def mark_placed(self, item: Item, *, verdict: str = "done", kept: str | None = None) -> None:
        """All outputs are published."""
        self._update_owned(
            item,
            "state='placed', steps=NULL, verdict=?, kept=?",
            (verdict, _encode_name(kept or item.kept)),
        )

    def mark_failing(self, item: Item, reason: str, kept: str, *, digest: str | None) -> None:
        """The item has failed for good."""
        self._update_owned(
            item,
            "state='failing', steps=NULL, verdict='failed', reason=?, kept=?, digest=?,"
            " tries=tries+1",
            (reason, _encode_name(kept), digest),
        )

    def fail_queued(self, path: str, reason: str, kept: str) -> None:
        """Another item has failed as well: one that nobody is processing, or that this process has
        claimed.
        """
        with self.transaction() as db:
            db.execute(
                "UPDATE item SET state='failing', verdict='failed', reason=?, kept=?, owner=NULL"
                " WHERE path=? AND (state IN ('seen', 'settled') OR (state='running' AND owner=?))",
                (reason, _encode_name(kept), os.fsencode(path), self.token),
            )

    def owns(self, item: Item) -> bool:
        """Return whether this process still owns an item."""
        return bool(self._rows("SELECT 1 FROM item WHERE id=? AND owner=?", (item.id, self.token)))

    def reserve(self, item: Item, kept: str) -> None:
        """Reserve another name for the original."""
        self._update_owned(item, "kept=?", (_encode_name(kept),))

    def finish(self, item: Item, state: str, *, kept: str | None) -> None:
        """End an item."""
        self._update_owned(
            item,
            "state=?, owner=NULL, steps=NULL, kept=?, ended_at=?",
            (state, _encode_name(kept), time.time()),
        )

    # -- status

    def count_by_state(self) -> dict[str, int]:
        """Count items by state."""
        return dict(self._rows("SELECT state, count(*) FROM item GROUP BY state ORDER BY state"))

    def count_active(self) -> int:
        """Count the items that have not ended, except for those that wait for a ticket, a sentinel
        or content.
        """
        return int(
            self._rows(
                f"SELECT count(*) FROM item WHERE {_IN_ACTIVE} AND NOT (state='seen' AND due<0)"
            )[0][0]
        )

    def count_unready(self) -> int:
        """Count the items that are unchanged but wait for a ticket, a sentinel or content."""
        return int(self._rows("SELECT count(*) FROM item WHERE state='seen' AND due<0")[0][0])

    def items(self, states: Sequence[str], *, limit: int = -1) -> list[Item]:
        """List the items in these states, the newest first."""
        marks = ", ".join("?" * len(states))
        return [
            _item(row)
            for row in self._rows(
                f"SELECT {_COLUMNS} FROM item WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",
                (*states, limit),
            )
        ]

    def mark_retried(self, item: Item) -> None:
        """A failed original was moved back to the watched folder."""
        with self.transaction() as db:
            db.execute(
                "UPDATE item SET state='retried', kept=NULL WHERE id=? AND state IN ('failed',"
                " 'quarantined')",
                (item.id,),
            )

    def forget(self, older_than_s: float, *, keep: int) -> None:
        """Delete items that ended long ago, except for the newest `keep`. Records of outputs are
        kept.
        """
        with self.transaction() as db:
            db.execute(
                "WITH ended AS (SELECT id, ended_at FROM item WHERE state IN ('done', 'skipped',"
                " 'gone', 'retried') ORDER BY id DESC LIMIT -1 OFFSET ?)"
                " DELETE FROM item WHERE id IN (SELECT id FROM ended WHERE ended_at<?)",
                (keep, time.time() - older_than_s),
            )


def _unusable_error(folder: Path, why: str, fix: str) -> JournalError:
    return JournalError(f"the journal '{folder}' cannot be used\n  = why: {why}\n  = fix: {fix}")


def _boot_id() -> str:
    """Return an id for the period since the host started."""
    with contextlib.suppress(OSError):
        return re.sub(r"\s", "", Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    return (  # an approximation: setting the wall clock cuts some waits short
        f"{(time.time() - time.monotonic()) / 60:.0f}"
    )
