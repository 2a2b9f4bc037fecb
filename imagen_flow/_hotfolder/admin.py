"""Inspect a line from outside, and retry its failed items."""

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
from .archive import REASON_SUFFIX, ticket_names
from .config import Line
from .disk import Disk, LocalDisk
from .intake import Intake
from .journal import TROUBLE, UNREAD, Item, Journal, JournalError
from .log import Log
from .publish import free_name, make_parents

__all__ = ["is_named", "retry", "status"]

#: At most this many items of each kind are listed.
_MAX_LISTED = 20


def status(line: Line) -> dict[str, Any]:
    """Return the status of a line: its processes, how many items are in which state, the items
    being worked on, and the last failures.

    `state` is ``running``, ``waiting`` (for a temporary problem or its folder, or its process does
    not respond) or ``stopped`` (no process runs the line).

    Raises:
        JournalError: the journal cannot be read.
    """
    result: dict[str, Any] = {
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
        result["passed_over"] = _printable_name(Intake(line).count_passed_over().describe())
    recorded: set[str] = set()
    if os.path.isfile(line.journal / "journal.sqlite"):
        try:
            journal = Journal(line.journal)
        except JournalError as error:
            if not isinstance(error.__cause__, InUse):
                raise
            # Its file system has no locks, so the process that runs the line uses it exclusively.
            return result | {
                "state": "running" if result["watched"] else "waiting",
                "trouble": "" if result["watched"] else f"{line.inbox} is missing",
                "alone": error.__cause__.strerror,
            }
        try:
            recorded = _add_from_journal(journal, line, result)
        finally:
            journal.close()
    result["unknown"] = [
        {"original": _printable_name(kept), "reason": _printable_name(reason)}
        for kept, reason in islice(_unrecorded_failures(line, recorded), _MAX_LISTED)
    ]
    if result["workers"]:
        result["state"] = "waiting" if result["trouble"] or not result["watched"] else "running"
    return result


def _add_from_journal(journal: Journal, line: Line, result: dict[str, Any]) -> set[str]:
    """Add what the journal knows. Returns the names of the failed originals that it records."""
    workers = journal.workers()
    tokens = {worker.pop("token") for worker in workers}
    result["workers"] = workers
    result["draining"] = bool(workers) and bool(journal.read_note("drain"))
    result["counts"] = journal.count_by_state()
    result["unready"] = journal.count_unready()
    result["waiting"] = sum(result["counts"].get(state, 0) for state in ("seen", "settled"))
    for item in journal.items(("running", "placing", "placed", "failing")):
        # A killed process still owns items in the journal, but does not work on them.
        group = "working" if item.owner in tokens else "left"
        if len(result[group]) < _MAX_LISTED:
            result[group].append(
                {
                    "item": _printable_name(item.path),
                    "state": item.state,
                    "tries": item.tries,
                    "kills": item.kills,
                }
            )
    failed = journal.items(("failed", "quarantined"))
    result["failed"] = [
        {
            "item": _printable_name(item.path),
            "state": item.state,
            "original": _printable_name(item.kept or ""),
            "reason": item.reason,
        }
        for item in failed[:_MAX_LISTED]
    ]
    for name in (TROUBLE, UNREAD):
        problem = json.loads(journal.read_note(name) or "{}")
        if problem.get("worker") in tokens:
            result["trouble"] = problem["reason"]
    if (
        not result["trouble"]
        and workers
        and (silent_s := min(worker["silent_s"] for worker in workers)) > line.lease_s
    ):
        result["trouble"] = f"its process has not responded for {silent_s:.0f} s"
    return {item.kept for item in failed if item.kept}


def _unrecorded_failures(line: Line, recorded: Collection[str]) -> Iterator[tuple[str, str]]:
    """List originals in `failed` that the journal does not record, as after it was lost, each with
    the first line of its reason.
    """
    for folder, subfolders, names in os.walk(line.failed):
        subfolders.sort()
        names_here = set(names)
        for name in sorted(names):
            original = name.removesuffix(REASON_SUFFIX)
            kept = os.path.relpath(os.path.join(folder, original), line.failed).replace(os.sep, "/")
            if original == name or original not in names_here or kept in recorded:
                continue
            try:
                with open_regular(os.path.join(folder, name)) as stream:
                    lines = stream.read(4096).decode("utf-8", "replace").split("\n")
            except OSError:
                lines = []
            yield kept, next((text for text in lines[1:] if text.strip()), "")


def _printable_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def retry(
    line: Line, names: Sequence[str] = (), *, disk: Disk | None = None
) -> list[tuple[str, str]]:
    """Move failed originals back to the watched folder, queue them and delete their reasons.
    Originals that the journal does not record go back under the name that they have in `failed`.

    Params:
        names: names in `failed`, or patterns; empty means all.

    Returns:
        For each, its name in `failed` and its new name below `in`.

    Raises:
        JournalError: the journal cannot be used.
        OSError: a file cannot be moved; those before it have been.
    """
    disk = disk or LocalDisk()
    intake = Intake(line)
    journal, log = Journal(line.journal), Log(line.log, line=line.name)
    moved: list[tuple[str, str]] = []
    try:
        failed = [
            item
            for item in reversed(journal.items(("failed", "quarantined")))
            if item.kept and os.path.lexists(line.failed / item.kept)
        ]
        recorded: dict[str, Item | None] = {item.kept: item for item in failed if item.kept}
        for kept, item in (
            recorded | {kept: None for kept, _ in _unrecorded_failures(line, recorded)}
        ).items():
            if names and not any(is_named(kept, name) for name in names):
                continue
            original = item.path if item else kept
            restored = free_name(line.inbox, original, [], lambda _: False)
            make_parents(line.inbox, restored, disk)
            # Tickets first: otherwise the original could be processed without its ticket.
            for ticket in intake.companions.tickets_beside(line.failed / kept):
                for ticket_path in ticket_names(
                    line.inbox / restored, os.path.basename(kept), ticket
                ):
                    if not os.path.lexists(ticket_path):
                        _move_back(
                            line.failed / kept.rpartition("/")[0] / ticket, ticket_path, disk
                        )
                        break
            _move_back(line.failed / kept, line.inbox / restored, disk)
            if item:
                journal.mark_retried(item)
            # They were accepted before, so a line that is drained processes them too.
            if found := intake.inspect(restored):
                for path in journal.record([found]):
                    log.write("seen", item=path)
            disk.unlink(line.failed / f"{kept}{REASON_SUFFIX}")
            disk.sync_folder((line.failed / kept).parent)
            moved.append((kept, restored))
        return moved
    finally:
        journal.close()


def is_named(kept: str, name: str) -> bool:
    """Return whether a failed original has a name or matches a pattern, in any Unicode form."""
    kept, name = unicodedata.normalize("NFC", kept), unicodedata.normalize("NFC", name)
    return kept == name or fnmatch.fnmatchcase(kept, name)


def _move_back(source: Path, target: Path, disk: Disk) -> None:
    try:
        disk.rename(source, target)
    except OSError:
        if not source.is_file():
            raise
        # On another file system: copy to a name that is not watched, then rename.
        temporary = target.with_name(f".{target.name[:100]}.retried")
        disk.unlink(temporary)
        disk.copy(source, temporary)
        disk.sync_file(temporary)
        disk.rename(temporary, target)
        disk.sync_folder(target.parent)
        disk.unlink(source)
    else:
        disk.sync_folder(target.parent)
