"""Watch the folder of a line, and record its files in the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from .._watch import changes
from .companions import ListingCache
from .config import Line
from .disk import Disk, MountGuard, name_exists
from .intake import Intake, PassedOver
from .journal import UNREAD, Journal, JournalError
from .log import Log

__all__ = ["FolderWatcher"]

#: How many files are recorded in one transaction.
_BATCH = 500

#: How long to wait before restarting after an error.
_RESTART_DELAY_S = 1.0


class FolderWatcher:
    """Watches the folder of a line.

    Params:
        once: stop after the first scan.
        on_record: called after files were recorded.
    """

    def __init__(
        self,
        line: Line,
        journal: Journal,
        intake: Intake,
        disk: Disk,
        log: Log,
        mounted: MountGuard,
        *,
        once: bool,
        on_record: Callable[[], None],
    ) -> None:
        self.line = line
        self.journal = journal
        self.intake = intake
        self.disk = disk
        self.log = log
        self.mounted = mounted
        self.once = once
        self.on_record = on_record
        #: Set to accept no more files.
        self.stopping = threading.Event()
        #: Set after the first complete scan.
        self.scanned = threading.Event()
        #: Set if changes may have been missed.
        self.needs_rescan = threading.Event()
        #: A description of the files that do not belong to the line.
        self._passed_over = ""
        #: Why the folder could not be read the last time, if so.
        self._unreadable = ""

    def restore_orphans(self) -> None:
        """Restore originals that were being moved when their journal was lost."""
        for path in self.intake.orphans(self.journal):
            restored = path.with_name(f"restored-{path.name.lstrip('.').replace('.taken', '')}")
            try:
                if not name_exists(restored):
                    self.disk.rename(path, restored)
                    self.log.write("restored", item=str(restored))
            except FileNotFoundError:  # another worker has just moved it
                continue
            except OSError as error:
                self.log.write(
                    "watching",
                    reason=(f"{path} cannot be restored: {(error.strerror or str(error)).lower()}"),
                )

    def watch(self) -> None:
        """Record files as they change, until `stopping` is set."""
        line = self.line
        while not self.stopping.is_set():
            try:
                for changed in changes(
                    (line.inbox,),
                    settle_s=0.05,
                    poll=line.poll,
                    poll_s=line.poll_s,
                    recursive=line.folders != "ignored",
                    cancel=self.stopping,
                    ignore=self.intake.is_own,
                    notice=self._notice,
                ):
                    if line.inbox in changed:
                        self.scan()
                    else:
                        if self.mounted.why_missing(line.inbox):
                            self.needs_rescan.set()  # the changed files cannot be inspected now
                        listings = ListingCache()
                        for path in changed:
                            self._record_change(path, listings)
                    if self.once:
                        return
            except JournalError:
                raise
            except Exception as error:  # a dead observer, a folder that disappeared
                self.log.write("watching", reason=f"restarted: {type(error).__name__}: {error}")
                self.stopping.wait(_RESTART_DELAY_S)

    def _notice(self, message: str) -> None:
        self.log.write("watching", reason=message)

    def scan(self) -> int:
        """Inspect everything in the folder. Returns how many files are new."""
        count = 0
        if reason := self.mounted.why_missing(self.line.inbox):
            self.report_unreadable(reason)
            return 0
        try:
            skipped = PassedOver()
            found = self.intake.walk(skipped=skipped)
            while batch := list(islice(found, _BATCH)):
                count += self._record(batch)
        except OSError as error:
            self.report_unreadable((error.strerror or str(error)).lower())
        else:
            if self._unreadable:
                self.journal.write_trouble(UNREAD, "")
            self._unreadable = ""
            if skipped.describe() != self._passed_over:
                self._passed_over = skipped.describe()
                self.log.write(
                    "passed-over", reason=self._passed_over or "nothing", count=skipped.count()
                )
            self.scanned.set()
        return count

    def report_unreadable(self, fault: str) -> None:
        """Report, once, that the folder cannot be read."""
        self.needs_rescan.set()
        reason = f"{self.line.inbox}: {fault}"
        if reason != self._unreadable:
            self._unreadable = reason
            self.log.write("watching", reason=reason)
            self.journal.write_trouble(UNREAD, reason)

    def _record_change(self, path: Path, listings: ListingCache) -> None:
        for file in self.intake.find_changed(path, listings):
            self._record([file])

    def _record(self, files: list[Any]) -> int:
        new = self.journal.record(
            files,
            settled=self.line.settle_s == 0
            and not self.line.sentinel
            and self.line.ticket != "required",
        )
        for path in new:
            self.log.write("seen", item=path)
        self.on_record()
        return len(new)
