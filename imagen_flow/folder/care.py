"""Look after a line from outside: say how it stands, and give failed items another try."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .disk import Disk, LocalDisk
from .journal import Journal
from .linefile import Line
from .placing import free_name, make_below
from .work import REASON

__all__ = ["retry", "status"]

#: How many items of a kind are named.
_NAMED = 20


def status(line: Line) -> dict[str, Any]:
    """Say how a line stands: who works on it, how many items are in which state, what is being worked on, and what failed last.

    Raises:
        JournalError: its journal cannot be read.
    """
    said: dict[str, Any] = {"line": line.name, "file": str(line.path), "in": str(line.inbox), "watched": line.inbox.is_dir(), "workers": [], "counts": {}, "working": [], "failed": []}
    if not (line.journal / "journal.sqlite").is_file():
        return said
    journal = Journal(line.journal)
    try:
        said["workers"] = journal.workers()
        said["draining"] = bool(journal.note("drain"))
        said["counts"] = journal.counts()
        said["waiting"] = sum(said["counts"].get(state, 0) for state in ("seen", "settled"))
        said["working"] = [{"item": _shown(item.path), "state": item.state, "tries": item.tries, "kills": item.kills} for item in journal.items(("running", "placing", "placed", "failing"), most=_NAMED)]
        said["failed"] = [{"item": _shown(item.path), "state": item.state, "original": _shown(item.kept or ""), "reason": item.reason} for item in journal.items(("failed", "quarantined"), most=_NAMED)]
        return said
    finally:
        journal.close()


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def retry(line: Line, names: Sequence[str] = (), *, disk: Disk | None = None) -> list[tuple[str, str]]:
    """Move failed originals back to where they are watched for, and remove their reasons.

    Params:
        names: as they are called in `failed`, or patterns; none: all.

    Returns:
        For each, its name in `failed` and where it is now below `in`.

    Raises:
        JournalError: the journal cannot be used.
        OSError: a file cannot be moved; those before it have been.
    """
    disk = disk or LocalDisk()
    journal = Journal(line.journal)
    moved: list[tuple[str, str]] = []
    try:
        for item in reversed(journal.items(("failed", "quarantined"))):
            kept = item.kept
            if kept is None or not os.path.lexists(line.failed / kept) or (names and not any(kept == name or fnmatch.fnmatchcase(kept, name) for name in names)):
                continue
            back = free_name(line.inbox, item.path, [], lambda _: False)
            make_below(line.inbox, back, disk)
            stem = os.path.splitext(kept)[0]
            # The ticket first: an original without it would be worked on without it.
            for base, to in ((kept, back), (stem, os.path.splitext(back)[0])):
                for ending in (".yaml", ".yml", ".json"):
                    if line.ticket != "none" and os.path.lexists(line.failed / f"{base}{ending}"):
                        _bring(line.failed / f"{base}{ending}", line.inbox / f"{to}{ending}", disk)
            _bring(line.failed / kept, line.inbox / back, disk)
            journal.retried(item)
            disk.unlink(line.failed / f"{kept}{REASON}")
            disk.sync_folder((line.failed / kept).parent)
            moved.append((kept, back))
        return moved
    finally:
        journal.close()


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
