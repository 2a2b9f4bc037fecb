"""Look after a line from outside: say how it stands, and give failed items another try."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .._store.locks import InUse
from .._system.regular_files import open_regular
from .config import Line
from .disk import Disk, LocalDisk
from .intake import Intake
from .journal import TROUBLE, UNREAD, Item, Journal, JournalError
from .publish import free_name, make_below
from .worker import REASON, ticket_places

__all__ = ["is_named", "retry", "status"]

#: How many items of a kind are named.
_NAMED = 20


def status(line: Line) -> dict[str, Any]:
    """Say how a line stands: who works on it, how many items are in which state, what is being
    worked on, and what failed last.

    Its `state` in a word: ``running``; ``waiting`` for trouble to pass, for its folder, or for a
    process that says nothing; ``stopped``, with nobody to run it.

    Raises:
        JournalError: its journal cannot be read.
    """
    said: dict[str, Any] = {
        "line": line.name,
        "file": str(line.path),
        "in": str(line.inbox),
        "state": "stopped",
        "watched": os.path.isdir(line.inbox),
        "workers": [],
        "counts": {},
        "trouble": "",
        "working": [],
        "left": [],
        "failed": [],
        "unknown": [],
        "passed_over": "",
    }
    with contextlib.suppress(OSError):
        said["passed_over"] = _shown(Intake(line).passed_over().words())
    known: set[str] = set()
    if os.path.isfile(line.journal / "journal.sqlite"):
        try:
            journal = Journal(line.journal)
        except JournalError as failed:
            if not isinstance(failed.__cause__, InUse):
                raise
            # Its file system has no locks, so that whoever runs the line has the journal alone.
            return said | {
                "state": "running" if said["watched"] else "waiting",
                "trouble": "" if said["watched"] else f"{line.inbox} is gone",
                "alone": failed.__cause__.strerror,
            }
        try:
            known = _from_journal(journal, line, said)
        finally:
            journal.close()
    said["unknown"] = [
        {"original": _shown(kept), "reason": _shown(reason)}
        for kept, reason in islice(_unknown(line, known), _NAMED)
    ]
    if said["workers"]:
        said["state"] = "waiting" if said["trouble"] or not said["watched"] else "running"
    return said


def _from_journal(journal: Journal, line: Line, said: dict[str, Any]) -> set[str]:
    """Add what the journal knows. Gives the names in `failed` that it knows."""
    workers = journal.workers()
    tokens = {worker.pop("token") for worker in workers}
    said["workers"] = workers
    said["draining"] = bool(workers) and bool(journal.note("drain"))
    said["counts"] = journal.counts()
    said["unready"] = journal.unready()
    said["waiting"] = sum(said["counts"].get(state, 0) for state in ("seen", "settled"))
    for item in journal.items(("running", "placing", "placed", "failing")):
        # A process that was killed has no hand on anything any more, whatever the journal says.
        kind = "working" if item.owner in tokens else "left"
        if len(said[kind]) < _NAMED:
            said[kind].append(
                {
                    "item": _shown(item.path),
                    "state": item.state,
                    "tries": item.tries,
                    "kills": item.kills,
                }
            )
    failed = journal.items(("failed", "quarantined"))
    said["failed"] = [
        {
            "item": _shown(item.path),
            "state": item.state,
            "original": _shown(item.kept or ""),
            "reason": item.reason,
        }
        for item in failed[:_NAMED]
    ]
    for note in (TROUBLE, UNREAD):
        told = json.loads(journal.note(note) or "{}")
        if told.get("worker") in tokens:
            said["trouble"] = told["reason"]
    if (
        not said["trouble"]
        and workers
        and (silent_s := min(worker["silent_s"] for worker in workers)) > line.lease_s
    ):
        said["trouble"] = f"nothing was heard of it for {silent_s:.0f} s"
    return {item.kept for item in failed if item.kept}


def _unknown(line: Line, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Give originals in `failed` of which the journal knows nothing, as after it was lost, each
    with the first line of its reason.
    """
    for here, folders, names in os.walk(line.failed):
        folders.sort()
        present = set(names)
        for name in sorted(names):
            original = name.removesuffix(REASON)
            kept = os.path.relpath(os.path.join(here, original), line.failed).replace(os.sep, "/")
            if original == name or original not in present or kept in known:
                continue
            try:
                with open_regular(os.path.join(here, name)) as stream:
                    lines = stream.read(4096).decode("utf-8", "replace").split("\n")
            except OSError:
                lines = []
            yield kept, next((text for text in lines[1:] if text.strip()), "")


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def retry(
    line: Line, names: Sequence[str] = (), *, disk: Disk | None = None
) -> list[tuple[str, str]]:
    """Move failed originals back to where they are watched for, and remove their reasons. Those of
    which the journal knows nothing go back under the name that they have in `failed`.

    Params:
        names: as they are called in `failed`, or patterns; none: all.

    Returns:
        For each, its name in `failed` and where it is now below `in`.

    Raises:
        JournalError: the journal cannot be used.
        OSError: a file cannot be moved; those before it have been.
    """
    disk = disk or LocalDisk()
    intake = Intake(line)
    journal = Journal(line.journal)
    moved: list[tuple[str, str]] = []
    try:
        failed = [
            item
            for item in reversed(journal.items(("failed", "quarantined")))
            if item.kept and os.path.lexists(line.failed / item.kept)
        ]
        known: dict[str, Item | None] = {item.kept: item for item in failed if item.kept}
        for kept, item in (known | {kept: None for kept, _ in _unknown(line, known)}).items():
            if names and not any(is_named(kept, name) for name in names):
                continue
            original = item.path if item else kept
            back = free_name(line.inbox, original, [], lambda _: False)
            make_below(line.inbox, back, disk)
            # The tickets first: an original without its own would be worked on without it.
            for ticket in intake.beside(line.failed / kept):
                for to in ticket_places(line.inbox / back, os.path.basename(kept), ticket):
                    if not os.path.lexists(to):
                        _bring(line.failed / kept.rpartition("/")[0] / ticket, to, disk)
                        break
            _bring(line.failed / kept, line.inbox / back, disk)
            if item:
                journal.retried(item)
            disk.unlink(line.failed / f"{kept}{REASON}")
            disk.sync_folder((line.failed / kept).parent)
            moved.append((kept, back))
        return moved
    finally:
        journal.close()


def is_named(kept: str, name: str) -> bool:
    """Whether a failed original is called so, or fits the pattern, in either spelling of an accent."""
    kept, name = unicodedata.normalize("NFC", kept), unicodedata.normalize("NFC", name)
    return kept == name or fnmatch.fnmatchcase(kept, name)


def _bring(place: Path, to: Path, disk: Disk) -> None:
    try:
        disk.rename(place, to)
    except OSError:
        if not place.is_file():
            raise
        # Another file system: under a name that is not watched, until it is whole.
        aside = to.with_name(f".{to.name[:100]}.retried")
        disk.unlink(aside)
        disk.copy(place, aside)
        disk.sync_file(aside)
        disk.rename(aside, to)
        disk.sync_folder(to.parent)
        disk.unlink(place)
    else:
        disk.sync_folder(to.parent)
