"""Publish an item's outputs and archive its original, or put a reason beside it.

Every step can be repeated, and the journal records first what comes next.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from ..errors import printable
from .config import Line
from .disk import Disk, MountGuard, affects_one_item, describe_error, find_disk_error
from .intake import Intake, digest_file
from .journal import Item, Journal
from .log import Log
from .publish import (
    apply_steps,
    free_name,
    make_parents,
    move_original,
    steps_are_intact,
    write_text,
)

__all__ = ["REASON_SUFFIX", "RETRY_DELAY_S", "Archiver", "LineBlocked", "ticket_names"]

#: The ending of a file with a reason, after the name of its original.
REASON_SUFFIX = ".failed.txt"

#: How long an item that cannot be finished waits.
RETRY_DELAY_S = 1.0


class LineBlocked(Exception):
    """Something that is not the fault of an item; the line waits until it has passed."""


@dataclass(frozen=True, slots=True, eq=False)
class Archiver:
    """Everything that finishing an item needs. Shared by the threads of a line."""

    line: Line
    journal: Journal
    intake: Intake
    disk: Disk
    log: Log
    on_end: Callable[[dict[str, Any]], None]
    mounted: MountGuard

    def publish(
        self,
        item: Item,
        steps: list[dict[str, Any]],
        *,
        started_at: float | None = None,
        **details: Any,
    ) -> str:
        try:
            self.mounted.check(self.line.out)
            if not steps_are_intact(steps):
                # Somebody has changed the files: start again.
                self.journal.requeue(item)
                return "returned"
            apply_steps(steps, self.disk)
        except OSError as error:
            return self._defer(item, error)
        self.journal.mark_placed(item)
        return self.archive_original(
            replace(item, state="placed"), started_at or time.monotonic(), **details
        )

    def archive_original(self, item: Item, started_at: float, **details: Any) -> str:
        """Move an original to `done`, or to `failed` with its reason, and end the item."""
        line = self.line
        succeeded = item.state == "placed"
        folder = line.done if succeeded else line.failed
        try:
            result, kept = self._move(item, folder, succeeded=succeeded)
        except OSError as error:
            return self._defer(item, error)
        moved = result == "moved"
        state = item.verdict or ("done" if succeeded else "failed")
        self.journal.finish(
            item, state if moved or succeeded else "gone", kept=kept if moved else None
        )
        if result == "replaced" and (newer := self.intake.inspect(item.path)):
            self.journal.record([newer])
        if result == "gone" and not succeeded:
            state = "gone"
        event: dict[str, Any] = {
            "item": item.path,
            "took_s": round(time.monotonic() - started_at, 3),
            **details,
            **({"outputs": item.outputs} if succeeded else {"reason": item.reason}),
            "original": str(folder / kept) if moved else result,
        }
        self.log.write(state, **event)
        self.on_end(
            {"event": "done" if succeeded else "failed", "state": state, "line": line.name, **event}
        )
        return state

    def _move(self, item: Item, folder: Path, *, succeeded: bool) -> tuple[str, str]:
        """Move an original, its tickets and, for a failed one, its reason to `folder`. Returns what
        `move_original` returned, and the name in `folder`.
        """
        line = self.line

        def is_original(path: Path) -> bool:
            return self.intake.is_unchanged(item.fingerprint, path, item.digest)

        def has_content(path: Path) -> bool:
            if item.digest is None:
                return is_original(path)
            try:
                return (
                    path.stat().st_size == json.loads(item.fingerprint)[0]
                    and digest_file(path, links=line.links == "followed") == item.digest
                )
            except OSError as error:
                if find_disk_error(error, network=True):
                    raise
                return False

        self.mounted.check(line.inbox, folder)
        kept = item.kept or self._reserve_name(item, folder)
        while True:
            make_parents(folder, kept, self.disk)
            reason_file = folder / f"{kept}{REASON_SUFFIX}"
            if not succeeded:
                write_text(reason_file, self._failure_report(item, kept), self.disk, self.journal)
            result = move_original(
                self.intake.absolute(item.path),
                folder / kept,
                number=item.id,
                is_original=is_original,
                has_content=has_content,
                disk=self.disk,
                journal=self.journal,
            )
            if result != "taken":
                break
            kept = self._reserve_name(item, folder)
            if not succeeded:
                self.disk.unlink(reason_file)
        if result == "moved":
            self._move_companions(item, folder, kept)
        elif not succeeded:
            self.disk.unlink(reason_file)
        return result, kept

    def _move_companions(self, item: Item, folder: Path, kept: str) -> None:
        """Move the tickets of an original along with it, and delete its sentinel."""
        for name, size, mtime, _ in json.loads(item.fingerprint)[3:]:
            if size < 0:
                continue  # a link or a pipe was not read, and stays
            ticket = self.intake.absolute(item.path).with_name(name)

            def is_same(path: Path, fingerprint: tuple[int, int] = (size, mtime)) -> bool:
                stat = self.intake.companions.stat_regular(path)
                return stat is not None and (stat.st_size, stat.st_mtime_ns) == fingerprint

            for target in ticket_names(folder / kept, os.path.basename(item.path), name):
                if (
                    move_original(
                        ticket,
                        target,
                        number=-item.id,
                        is_original=is_same,
                        has_content=is_same,
                        disk=self.disk,
                        journal=self.journal,
                    )
                    != "taken"
                ):
                    break
        if sentinel := self.intake.companions.find_sentinel(item.path):
            self.disk.unlink(sentinel)

    def _defer(self, item: Item, error: OSError) -> str:
        """Postpone an item that cannot be finished now.

        Raises:
            LineBlocked: the error may affect every item.
        """
        if affects_one_item(error):
            return self.postpone(item, describe_error(error))
        self.journal.postpone(item, RETRY_DELAY_S)
        raise LineBlocked(describe_error(error)) from error

    def postpone(self, item: Item, reason: str) -> str:
        wait_s = max(RETRY_DELAY_S, self.line.backoff_s)
        self.journal.postpone(item, wait_s)
        self.log.write("waiting", item=item.path, reason=reason, wait_s=wait_s)
        return "waits"

    def _failure_report(self, item: Item, kept: str) -> str:
        line = self.line
        tries = f" after {item.tries} tries" if item.tries > 1 else ""
        return printable(
            f"{' '.join(item.path.splitlines())} failed{tries}.\n\n{item.reason}\n\nAfter"
            f" fixing the cause, retry with:\n\n  imagen-flow folder retry {line.path}"
            f" {kept!r}\n"
        )

    def _reserve_name(self, item: Item, folder: Path) -> str:
        with self.journal.transaction():
            kept = self.choose_name(item, folder)
            self.journal.reserve(item, kept)
        return kept

    def choose_name(self, item: Item, folder: Path) -> str:
        return self.name_for(item.path, folder)

    def name_for(self, path: str, folder: Path) -> str:
        """Choose the name of an original in `done` or `failed`. Call it in the transaction that
        records the name, so that no other worker chooses the same.
        """
        if self.line.folders == "flattened":
            path = path.rpartition("/")[2]
        return free_name(
            folder,
            path,
            [REASON_SUFFIX] if folder == self.line.failed else [],
            self.journal.is_reserved,
        )


def ticket_names(kept: Path, original: str, ticket: str) -> Iterator[Path]:
    """Generate names for a ticket beside its original: its own, or one that matches the original's
    new name; then numbered ones.
    """
    stem, ending = os.path.splitext(ticket)
    if kept.name != original:
        stem = kept.name if len(stem) >= len(original) else kept.stem
    for count in itertools.count(1):
        yield kept.with_name(f"{stem}{'' if count == 1 else f'-{count}'}{ending}")
