"""The journal of a line: an SQLite file that says of each item how far it has come, and whose it
is.

WAL, synchronous FULL: what is committed is on the disk. One row an item; a path has at most one
that is not at its end. States and what takes an item from one to the next:

::

    seen ──stands still──▶ settled ──claimed──▶ running ──outputs written aside──▶ placing ──all
    renamed──▶ placed ──original moved──▶ done
      ▲                       ▲                   │ fails for good
      (or skipped)
      └───── changed ─────────┴── fails, returns ─┤
                                                  └──▶ failing ──reason written, original moved──▶
                                                  failed (or quarantined)

A row in `placing` holds all that is left to do (which names are to be renamed to which), so that
whoever finds it finishes the work without running anything. `gone` is a file that was taken away
before its turn.

Whose a row is: the token of a worker process, which holds a lock of the operating system for as
long as it lives, and a lease that it renews. When the lock is free or the lease is over, the row is
anyone's. Whoever has lost a row so finds its next change refused (`Lost`). Times that decide
anything are the monotonic clock's, which all processes of a host share until it starts again; then
they count as over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._store.databases import connect
from .._store.locks import Claims, InUse, lock_number
from .._store.opening import network_file_system
from ..errors import StoreError

__all__ = [
    "ACTIVE",
    "FORMAT",
    "TROUBLE",
    "UNREAD",
    "Item",
    "Journal",
    "JournalError",
    "Lost",
    "Seen",
]

FORMAT = 1

#: Marks the file as ours ("fold").
_APPLICATION = 0x666F6C64

#: States of items that are not at their end.
ACTIVE = ("seen", "settled", "running", "placing", "placed", "failing")

#: States that are somebody's work, and in which a dead worker's item has to be taken over.
_WORK = ("running", "placing", "placed", "failing")

_IN_ACTIVE = f"state IN ({', '.join(repr(s) for s in ACTIVE)})"

_SCHEMA = f"""
CREATE TABLE item (
  id INTEGER PRIMARY KEY, path BLOB NOT NULL, state TEXT NOT NULL, sign TEXT NOT NULL, since REAL NOT NULL, arrived INTEGER NOT NULL, mtime INTEGER NOT NULL,
  due REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, kills INTEGER NOT NULL DEFAULT 0, owner TEXT, lease REAL NOT NULL DEFAULT 0,
  digest TEXT, recipe TEXT, steps TEXT, outputs TEXT, verdict TEXT, reason TEXT, kept BLOB, seen_at REAL NOT NULL, ended_at REAL
);
CREATE UNIQUE INDEX active ON item(path) WHERE {_IN_ACTIVE};
CREATE INDEX queue ON item(state, arrived, mtime, path);
CREATE INDEX settling ON item(since) WHERE state='seen';
CREATE INDEX owned ON item(owner) WHERE owner IS NOT NULL;
CREATE INDEX twins ON item(digest) WHERE digest IS NOT NULL;
CREATE INDEX places ON item(kept) WHERE kept IS NOT NULL;
CREATE INDEX ended ON item(ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE output (path TEXT PRIMARY KEY, item INTEGER NOT NULL, source BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE touched (folder BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE worker (token TEXT PRIMARY KEY, pid INTEGER NOT NULL, began_at REAL NOT NULL, beat REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_ORDERS = {
    "oldest": "arrived, mtime, path",
    "newest": "arrived DESC, mtime DESC, path",
    "name": "path",
}


#: Notes of what keeps a line waiting: whose they are and why, as JSON.
TROUBLE, UNREAD = "trouble", "unread"


class JournalError(StoreError):
    """The journal cannot be used (any more)."""


class Lost(Exception):
    """The item is another worker's by now."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was found: its path below the folder, with ``/``, and what tells this form of it
    from others. `whole`: that it is complete is known; `empty`: that nothing is in it yet.
    """

    path: str
    sign: str
    mtime: int
    whole: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the journal."""

    id: int
    path: str
    state: str
    sign: str
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
    "id, path, state, sign, tries, kills, digest, recipe, steps, outputs, verdict, reason, kept,"
    " owner"
)


def _item(row: Sequence[Any]) -> Item:
    (
        number,
        path,
        state,
        sign,
        tries,
        kills,
        digest,
        recipe,
        steps,
        outputs,
        verdict,
        reason,
        kept,
        owner,
    ) = row
    name = None if kept is None else os.fsdecode(kept)
    return Item(
        number,
        os.fsdecode(path),
        state,
        sign,
        tries,
        kills,
        digest,
        recipe,
        json.loads(steps or "[]"),
        json.loads(outputs or "[]"),
        verdict,
        reason,
        name,
        owner,
    )


def _pack(name: str | None) -> bytes | None:
    # A name need not be text that SQLite can hold.
    return None if name is None else os.fsencode(name)


class Journal:
    """An open journal. May be used by several threads, and several processes of one host may have
    it open.

    Params:
        folder: where it lies; made if it is not there. On a local disk.
        clock: monotonic; all processes of a host must see the same.
        boot: names the time since the host started, for that clock.

    Raises:
        JournalError: it cannot be used; says why, and how to mend it.
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
        #: Names this worker. It is also in the names of its temporary files.
        self.token = secrets.token_hex(6)
        self._lock = threading.RLock()
        if kind := network_file_system(folder):
            raise _unusable(
                folder,
                f"it lies on a network file system ({kind}), where locks cannot be relied on",
                "name a folder on a local disk with 'journal:'",
            )
        try:
            folder.mkdir(exist_ok=True)
            self._claims = Claims(folder / "locks")
        except InUse as taken:
            raise _unusable(folder, taken.strerror or "", taken.fix) from taken
        except OSError as odd:
            raise _unusable(
                folder,
                (odd.strerror or str(odd)).lower(),
                "make it writable, or name another with 'journal:'",
            ) from odd
        try:
            self._db = connect(
                folder / "journal.sqlite", busy_s=30, exclusive=self._claims.exclusive
            )
            self._prepare(boot or _boot())
        except sqlite3.Error as odd:
            self._claims.close()
            raise _unusable(
                folder,
                str(odd),
                "free some space or make it writable; a damaged one can be moved away, and every"
                " file in the folder is then new",
            ) from odd

    def _prepare(self, boot: str) -> None:
        db = self._db
        if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("it cannot be kept as WAL there")
        db.execute("PRAGMA synchronous=FULL")
        with self.change():
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise sqlite3.OperationalError(
                    f"it was made by a newer imagen_flow (format {version})"
                )
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA application_id={_APPLICATION}")
                db.execute(f"PRAGMA user_version={FORMAT}")
                self.write_note("name", secrets.token_hex(4))
            #: Tells this journal from one that was here before.
            self.name = self.note("name")
            if self.note("boot") != boot:
                # The clock has begun anew: nothing that was timed by it still counts.
                db.execute("UPDATE item SET lease=0, due=0")
                db.execute("UPDATE item SET since=? WHERE state='seen'", (self.clock(),))
                self.write_note("boot", boot)

    def close(self) -> None:
        """Let go of everything; rows that are still ours are anyone's."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self.leave()
        with self._lock:
            self._db.close()
        self._claims.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction; within another, part of it.

        Raises:
            JournalError: it cannot be carried out, and has not been.
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
            except sqlite3.Error as odd:
                raise JournalError(f"the journal {self.folder} cannot be written: {odd}") from odd

    def _rows(self, words: str, given: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(words, given).fetchall()
            except sqlite3.Error as odd:
                raise JournalError(f"the journal {self.folder} cannot be read: {odd}") from odd

    # -- notes and workers

    def note(self, name: str) -> str:
        """Give a note of the line, or nothing."""
        rows = self._rows("SELECT value FROM note WHERE name=?", (name,))
        return str(rows[0][0]) if rows else ""

    def write_note(self, name: str, value: str) -> None:
        with self.change() as db:
            db.execute("INSERT OR REPLACE INTO note VALUES (?,?)", (name, value))

    def enter(self) -> None:
        """Say that this process works on the line."""
        self._claims.claim(lock_number(self.token))
        with self.change() as db:
            for (token,) in db.execute("SELECT token FROM worker").fetchall():
                if not self.lives(token):
                    db.execute("DELETE FROM worker WHERE token=?", (token,))
            # What a file waited for may have come, or the line may not ask for it any more.
            db.execute("UPDATE item SET due=0 WHERE state='seen' AND due<0")
            db.execute(
                "INSERT OR REPLACE INTO worker VALUES (?,?,?,?)",
                (self.token, os.getpid(), time.time(), self.clock()),
            )

    def leave(self) -> None:
        """Say that it does no longer; what it had begun is to be begun again, and what it had
        nearly done to be finished, by anyone.
        """
        with self.change() as db:
            db.execute(
                "UPDATE item SET state='settled', owner=NULL WHERE owner=? AND state='running'",
                (self.token,),
            )
            db.execute("UPDATE item SET owner=NULL WHERE owner=?", (self.token,))
            db.execute("DELETE FROM worker WHERE token=?", (self.token,))

    def lives(self, token: str) -> bool:
        """Whether the process of a token is alive."""
        return token == self.token or not self._claims.is_free(lock_number(token))

    def workers(self) -> list[dict[str, Any]]:
        """Give the living processes, each with for how long it has said nothing: longer than a
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
            if self.lives(token)
        ]

    def renew(self) -> None:
        """Renew the leases of this process."""
        now = self.clock()
        with self.change() as db:
            db.execute("UPDATE worker SET beat=? WHERE token=?", (now, self.token))
            db.execute("UPDATE item SET lease=? WHERE owner=?", (now + self.lease_s, self.token))

    # -- intake

    def look(self, found: Iterable[Seen], *, settled: bool = False) -> list[str]:
        """Take in files as they were found: new ones, and those that have changed since. Gives the
        paths of the new.

        Params:
            settled: whether they need not stand still any longer.
        """
        new: list[str] = []
        now = self.clock()
        found = list(found)
        known = []
        with self._lock:
            for seen in found:
                row = self._rows(
                    f"SELECT id, state, sign FROM item WHERE path=? AND {_IN_ACTIVE}",
                    (os.fsencode(seen.path),),
                )
                if (
                    not row
                    or (row[0][1] in ("seen", "settled") and row[0][2] != seen.sign)
                    or (row[0][1] == "seen" and seen.whole)
                ):
                    known.append(seen)
        if not known:
            return new
        with self.change() as db:
            arrived = int(self.note("arrived") or 0) + 1
            self.write_note("arrived", str(arrived))
            for seen in known:
                state = "settled" if seen.whole or (settled and not seen.empty) else "seen"
                path = os.fsencode(seen.path)
                row = db.execute(
                    f"SELECT id, state, sign FROM item WHERE path=? AND {_IN_ACTIVE}", (path,)
                ).fetchone()
                if row is None:
                    db.execute(
                        "INSERT INTO item (path, state, sign, since, arrived, mtime, seen_at)"
                        " VALUES (?,?,?,?,?,?,?)",
                        (path, state, seen.sign, now, arrived, seen.mtime, time.time()),
                    )
                    new.append(seen.path)
                elif row[1] in ("seen", "settled") and row[2] != seen.sign:
                    db.execute(
                        "UPDATE item SET state=?, sign=?, since=?, mtime=?, tries=0, kills=0, due=0"
                        " WHERE id=?",
                        (state, seen.sign, now, seen.mtime, row[0]),
                    )
                elif row[1] == "seen" and seen.whole:
                    db.execute("UPDATE item SET state='settled', due=0 WHERE id=?", (row[0],))
        return new

    def settle(
        self,
        settle_s: float,
        look: Callable[[str], Seen | None],
        wants: Callable[[Seen, float], bool],
        *,
        most: int = 500,
    ) -> int:
        """Look again at files that nobody has seen change for `settle_s`: those that are as they
        were have settled. Gives how many have.

        Params:
            look: gives a file as it is now; None if it is gone.
            wants: whether a file that has stood still for so many seconds has all that it needs.
        """
        now = self.clock()
        # Of those that wait, `due` is when they are looked at again, with a minus.
        rows = self._rows(
            "SELECT id, path, sign, since FROM item WHERE state='seen' AND since<=? AND due>=?"
            " ORDER BY since LIMIT ?",
            (now - settle_s, -now, most),
        )
        if not rows:
            return 0
        found = [(row, look(os.fsdecode(row[1]))) for row in rows]
        count = 0
        with self.change() as db:
            for (number, _, sign, since), seen in found:
                if seen is None:
                    db.execute(
                        "UPDATE item SET state='gone', ended_at=? WHERE id=? AND state='seen'",
                        (time.time(), number),
                    )
                elif seen.sign != sign:
                    db.execute(
                        "UPDATE item SET sign=?, since=?, mtime=?, due=0 WHERE id=? AND"
                        " state='seen'",
                        (seen.sign, now, seen.mtime, number),
                    )
                elif not wants(seen, now - since):
                    # What it waits for is told when it comes, but what is told may be lost.
                    db.execute(
                        "UPDATE item SET due=? WHERE id=? AND state='seen'", (-(now + 1.0), number)
                    )
                else:
                    count += db.execute(
                        "UPDATE item SET state='settled', due=0 WHERE id=? AND state='seen' AND"
                        " sign=?",
                        (number, sign),
                    ).rowcount
        return count

    def next_look(self, settle_s: float) -> float | None:
        """How long until a file may have settled; None if none is waiting."""
        rows = self._rows(
            "SELECT min(max(since+?, -due)) FROM item WHERE state='seen'", (settle_s,)
        )
        return None if rows[0][0] is None else max(0.0, rows[0][0] - self.clock())

    # -- work

    def claim(
        self, order: str, *, kills: int, busy: bool, only_finish: bool = False
    ) -> Item | None:
        """Take the next item: first those that somebody left behind nearly done, then those that
        have settled.

        An item that a process has died of before is worked on alone: it is not given while this
        process is `busy`, nor is any after it.

        Params:
            order: oldest, newest or name.
            kills: how many deaths put an item aside.
        """
        self._take_over(kills)
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
        with self.change() as db:
            taken = db.execute(
                "UPDATE item SET owner=?, lease=?, state=CASE state WHEN 'settled' THEN 'running'"
                " ELSE state END WHERE id=? AND owner IS NULL AND state=?",
                (self.token, now + self.lease_s, row[0], row[2]),
            ).rowcount
            return (
                _item(db.execute(f"SELECT {_COLUMNS} FROM item WHERE id=?", (row[0],)).fetchone())
                if taken
                else None
            )

    def _first(self, where: str, given: Sequence[Any], order: str) -> Any:
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM item WHERE {where} ORDER BY {order} LIMIT 1", given
        )
        return rows[0] if rows else None

    def _take_over(self, kills: int) -> None:
        """Free the items of workers that are dead, or silent for too long."""
        now = self.clock()
        owners = self._rows(
            "SELECT owner, max(lease) FROM item WHERE owner IS NOT NULL AND owner<>? GROUP BY"
            " owner",
            (self.token,),
        )
        for owner, lease in owners:
            dead = not self.lives(owner)
            if not dead and lease >= now:
                continue
            with self.change() as db:
                if dead:
                    db.execute(
                        "UPDATE item SET kills=kills+1 WHERE owner=? AND state='running'", (owner,)
                    )
                why = (
                    f"the process ended {kills} times while it worked on this file"
                    if kills > 1
                    else "the process ended while it worked on this file"
                )
                db.execute(
                    "UPDATE item SET state='failing', verdict='quarantined', reason=? WHERE owner=?"
                    " AND state='running' AND kills>=?",
                    (f"{why}, so it is put aside", owner, kills),
                )
                db.execute(
                    "UPDATE item SET state='settled' WHERE owner=? AND state='running'", (owner,)
                )
                db.execute("UPDATE item SET owner=NULL WHERE owner=?", (owner,))

    def _mine(self, item: Item, words: str, given: Sequence[Any]) -> None:
        with self.change() as db:
            if (
                db.execute(
                    f"UPDATE item SET {words} WHERE id=? AND owner=?", (*given, item.id, self.token)
                ).rowcount
                == 0
            ):
                raise Lost(item.path)

    def know(self, item: Item, digest: str, recipe: str) -> bool:
        """Note what an item's content is. False, and nothing is noted, while another item of the
        same content and recipe is being worked on.
        """
        with self.change() as db:
            if db.execute(
                f"SELECT 1 FROM item WHERE digest=? AND recipe=? AND id<>? AND state IN {_WORK}",
                (digest, recipe, item.id),
            ).fetchone():
                return False
            self._mine(item, "digest=?, recipe=?", (digest, recipe))
        return True

    def twin(self, digest: str, recipe: str) -> Item | None:
        """Give an item of this content and recipe that is done."""
        row = self._first("state='done' AND digest=? AND recipe=?", (digest, recipe), "id DESC")
        return _item(row) if row else None

    def unsettle(self, item: Item) -> None:
        """The file is another than it was: it has to settle again."""
        self._mine(
            item,
            "state='seen', since=?, sign='', owner=NULL, digest=NULL, recipe=NULL, tries=0,"
            " kills=0",
            (self.clock(),),
        )

    def give_back(self, item: Item, *, wait_s: float = 0.0, tried: bool = False) -> None:
        """Put an item back into the queue; `tried` counts the try."""
        self._mine(
            item,
            "state='settled', owner=NULL, digest=NULL, recipe=NULL,"
            f" due=?{', tries=tries+1' if tried else ''}",
            (self.clock() + wait_s,),
        )

    def put_off(self, item: Item, wait_s: float) -> None:
        """Leave an item that cannot be finished now as it is, for later."""
        self._mine(item, "owner=NULL, due=?", (self.clock() + wait_s,))

    def owner_of(self, path: str) -> tuple[str, bool] | None:
        """Say whose an output file is: the item's path, and whether it is about to be put in place."""
        rows = self._rows(
            "SELECT output.source, item.state FROM output LEFT JOIN item ON item.id=output.item"
            " WHERE output.path=?",
            (path,),
        )
        return (os.fsdecode(rows[0][0]), rows[0][1] == "placing") if rows else None

    def touch(self, folder: Path) -> None:
        """Note that temporary files may lie in a folder."""
        name = os.fsencode(folder)
        if not self._rows("SELECT 1 FROM touched WHERE folder=?", (name,)):
            with self.change() as db:
                db.execute("INSERT OR IGNORE INTO touched VALUES (?)", (name,))

    def touched(self) -> list[Path]:
        """Give the folders in which temporary files may lie."""
        return [Path(os.fsdecode(name)) for (name,) in self._rows("SELECT folder FROM touched")]

    def is_moving(self, number: int) -> bool:
        """Whether an item's original may be on its way."""
        return bool(
            self._rows(
                "SELECT 1 FROM item WHERE id=? AND state IN ('placed', 'failing')", (number,)
            )
        )

    def left_to_do(self) -> list[dict[str, Any]]:
        """Give the steps of all items that are in `placing`."""
        return [
            step
            for (steps,) in self._rows("SELECT steps FROM item WHERE state='placing'")
            for step in json.loads(steps or "[]")
        ]

    def is_kept(self, kept: str) -> bool:
        """Whether an item that is not at its end will have this place in `done` or `failed`."""
        return bool(self._rows(f"SELECT 1 FROM item WHERE kept=? AND {_IN_ACTIVE}", (_pack(kept),)))

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
        """Note all that is left to do for an item. False, and nothing is noted, if another item
        took one of the places in the meantime.
        """
        source = os.fsencode(item.path)
        with self.change() as db:
            for path in outputs:
                other = self.owner_of(path)
                if other is not None and other[1] and other[0] != item.path:
                    return False
            db.executemany(
                "INSERT OR REPLACE INTO output VALUES (?,?,?)",
                ((path, item.id, source) for path in outputs),
            )
            self._mine(
                item,
                "state='placing', verdict='done', steps=?, outputs=?, kept=?, digest=?, recipe=?",
                (json.dumps(steps), json.dumps(list(outputs)), _pack(kept), digest, recipe),
            )
        return True

    def placed(self, item: Item, *, verdict: str = "done", kept: str | None = None) -> None:
        """Every output is in place."""
        self._mine(
            item,
            "state='placed', steps=NULL, verdict=?, kept=?",
            (verdict, _pack(kept or item.kept)),
        )

    def failing(self, item: Item, reason: str, kept: str, *, digest: str | None) -> None:
        """The item has failed for good."""
        self._mine(
            item,
            "state='failing', steps=NULL, verdict='failed', reason=?, kept=?, digest=?,"
            " tries=tries+1",
            (reason, _pack(kept), digest),
        )

    def fail_waiting(self, path: str, reason: str, kept: str) -> None:
        """Another item, which nobody works on, has failed as well."""
        with self.change() as db:
            db.execute(
                "UPDATE item SET state='failing', verdict='failed', reason=?, kept=? WHERE path=?"
                " AND state IN ('seen', 'settled')",
                (reason, _pack(kept), os.fsencode(path)),
            )

    def keep_as(self, item: Item, kept: str) -> None:
        """The original goes to another place than was noted."""
        self._mine(item, "kept=?", (_pack(kept),))

    def end(self, item: Item, state: str, *, kept: str | None) -> None:
        """The item is at its end."""
        self._mine(
            item,
            "state=?, owner=NULL, steps=NULL, kept=?, ended_at=?",
            (state, _pack(kept), time.time()),
        )

    # -- what is shown

    def counts(self) -> dict[str, int]:
        """Count items by state."""
        return dict(self._rows("SELECT state, count(*) FROM item GROUP BY state ORDER BY state"))

    def active(self) -> int:
        """Count the items that are not at their end, but for those that wait for something to be
        put beside them.
        """
        return int(
            self._rows(
                f"SELECT count(*) FROM item WHERE {_IN_ACTIVE} AND NOT (state='seen' AND due<0)"
            )[0][0]
        )

    def unready(self) -> int:
        """Count the items that have stood still and wait to be filled, or for something to be put
        beside them.
        """
        return int(self._rows("SELECT count(*) FROM item WHERE state='seen' AND due<0")[0][0])

    def items(self, states: Sequence[str], *, most: int = -1) -> list[Item]:
        """Give items in these states, the last first."""
        marks = ", ".join("?" * len(states))
        return [
            _item(row)
            for row in self._rows(
                f"SELECT {_COLUMNS} FROM item WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",
                (*states, most),
            )
        ]

    def retried(self, item: Item) -> None:
        """A failed item's original is back where it came from."""
        with self.change() as db:
            db.execute(
                "UPDATE item SET state='retried', kept=NULL WHERE id=? AND state IN ('failed',"
                " 'quarantined')",
                (item.id,),
            )

    def forget(self, older_than_s: float, *, keep: int) -> None:
        """Remove items that ended long ago, but for the last `keep`, and what is known of outputs
        that are no longer there is not removed with them.
        """
        with self.change() as db:
            db.execute(
                "DELETE FROM item WHERE ended_at<? AND state IN ('done', 'skipped', 'gone',"
                " 'retried') AND id<(SELECT max(id) FROM item)-?",
                (time.time() - older_than_s, keep),
            )


def _unusable(folder: Path, why: str, fix: str) -> JournalError:
    return JournalError(f"the journal '{folder}' cannot be used\n  = why: {why}\n  = fix: {fix}")


def _boot() -> str:
    """Name the time since the host started."""
    with contextlib.suppress(OSError):
        return re.sub(r"\s", "", Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    return (  # near enough: should the wall clock be set, some waits are cut short
        f"{(time.time() - time.monotonic()) / 60:.0f}"
    )
