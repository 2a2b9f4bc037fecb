"""Run a line: an intake thread, a housekeeping thread, and as many workers as the line says.

::

    intake        changes in the folder → seen      (an observer that dies is restarted)
    housekeeping  seen → settled; renews leases, notices a drain, rescans now and then
    worker        settled → running → … → done | failed

They communicate only through the journal, so it makes no difference whether they belong to one
process or to several.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

from .._plan.request import Options
from .._settings.config import Settings
from .._system.dataclass import dataclass
from ..errors import GraphError, Problem
from .archive import LineBlocked
from .companions import ListingCache
from .config import Line
from .disk import Disk, LocalDisk, MountGuard
from .intake import Intake
from .journal import TROUBLE, Item, Journal, JournalError, OwnershipLost
from .log import Log
from .notify import Notifier
from .publish import sweep
from .recipe import Recipe, describe_name_clashes
from .watcher import FolderWatcher
from .worker import ItemProcessor

if TYPE_CHECKING:
    from .._models import ModelPool
    from .._store import Store

__all__ = ["RunningLine", "Resources"]

#: How often to rescan the folder for files that no event reported.
_RESCAN_S = 60.0

#: How long an idle worker sleeps: another process may have recorded a file.
_IDLE_S = 0.5

#: How long a blocked line waits: at first, and at most.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0

#: How many finished items the journal always keeps, and for how long it keeps the others.
_REMEMBERED, _REMEMBERED_S = 100_000, 90 * 86_400


@dataclass(frozen=True, slots=True)
class Resources:
    """What a line works with. The lines of a process share the store and the pool."""

    store: Store | None = None
    pool: ModelPool | None = None
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)


class RunningLine:
    """A line at work. `start` it, `stop` it from any thread, and `wait` for its end.

    Params:
        once: end when nothing is left to do.
        drain: accept no new files, and end when nothing is left to do.
        on_event: called with each event that is logged, in the thread that logs it.
        clock: a monotonic clock, for lease renewals, rescans and back-offs.

    Raises:
        JournalError: its journal cannot be used.
        GraphError: one of its folders cannot be created.
    """

    def __init__(
        self,
        recipe: Recipe,
        resources: Resources,
        *,
        once: bool = False,
        drain: bool = False,
        disk: Disk | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        line = self.line = recipe.line
        _make_folders(line)
        self.disk = disk or LocalDisk()
        self.clock = clock
        self.journal = Journal(line.journal, clock=clock, lease_s=line.lease_s)
        self.log = Log(line.log, line=line.name, on_event=on_event)
        self.intake = Intake(line)
        self.notifier = Notifier(line.notify, self.log)
        self.mounted = MountGuard(line.inbox, line.out, line.done, line.failed)
        self.processor = ItemProcessor(
            recipe,
            self.journal,
            self.intake,
            self.disk,
            self.log,
            self.notifier.notify,
            resources.store,
            resources.pool,
            resources.options,
            resources.settings,
            mounted=self.mounted,
        )
        self.once, self.drain = once, drain
        #: The error that ended the line, if one did.
        self.fault: BaseException | None = None
        self.failures = 0
        self._stopping = threading.Event()
        self._cancel = threading.Event()
        self._wake = threading.Condition()
        self._busy_workers = 0
        self._exclusive = False
        self._blocked_until = 0.0
        self._failed_tries = 0
        self._workers: list[threading.Thread] = []
        self._watcher = FolderWatcher(
            line,
            self.journal,
            self.intake,
            self.disk,
            self.log,
            self.mounted,
            once=once,
            on_record=self._wake_workers,
        )
        self._helpers: list[threading.Thread] = []

    # -- control

    def start(self) -> None:
        """Start the threads."""
        self.journal.register()
        if not self.drain:
            self.journal.write_note("drain", "")
        swept = sweep(self.journal, self.disk)
        self.log.write("started", worker=self.journal.token, swept=swept)
        if clashes := describe_name_clashes(self.processor.recipe):
            self.log.write("warning", reason=clashes)
        self._watcher.restore_orphans()
        for number in range(self.line.concurrency):
            self._workers.append(
                threading.Thread(
                    target=self._run_thread,
                    args=(self._work,),
                    name=f"{self.line.name} worker {number + 1}",
                    daemon=True,
                )
            )
        self._helpers.append(
            threading.Thread(
                target=self._run_thread,
                args=(self._housekeep,),
                name=f"{self.line.name} keeper",
                daemon=True,
            )
        )
        if not self.drain:
            self._helpers.append(
                threading.Thread(
                    target=self._run_thread,
                    args=(self._watcher.watch,),
                    name=f"{self.line.name} intake",
                    daemon=True,
                )
            )
        else:
            self._watcher.scanned.set()
        for thread in (*self._helpers, *self._workers):
            thread.start()

    def stop(self) -> None:
        """Ask the line to end: running items may finish for `stop_s`, then they return to the
        queue. Returns immediately; safe from any thread.
        """
        self._stopping.set()
        self._watcher.stopping.set()
        with self._wake:
            self._wake.notify_all()

    @property
    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._workers)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the line has ended; return False on timeout."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._workers:
            while thread.is_alive():
                left = 0.2 if until is None else min(0.2, until - time.monotonic())
                if left <= 0:
                    return False
                thread.join(left)
        return True

    def close(self) -> None:
        """Stop, wait, and release everything."""
        self.stop()
        if not self.wait(self.line.stop_s):
            self._cancel.set()
            self.wait(5.0)
        for thread in self._helpers:
            thread.join(2.0)
        self.notifier.close()
        self.log.write(
            "stopped",
            worker=self.journal.token,
            **({"fault": str(self.fault)} if self.fault else {}),
        )
        self.journal.close()

    # -- threads

    def _run_thread(self, body: Callable[[], None]) -> None:
        """Run the body of a thread. If it fails, the line ends, and a supervisor restarts the
        process.
        """
        try:
            body()
        except BaseException as error:
            self.fault = self.fault or error
            self.log.write("fault", reason=f"{type(error).__name__}: {error}")
            self.stop()

    def _wake_workers(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _housekeep(self) -> None:
        """Settle files, renew leases, notice a drain, rescan."""
        line, journal = self.line, self.journal
        renewed = rescanned = self.clock()
        while not self._stopping.is_set() or not self.ended:
            if reason := self.mounted.why_missing(line.inbox):
                # Files that cannot be seen are not gone.
                self._watcher.report_unreadable(reason)
            else:
                if self._watcher.needs_rescan.is_set() and not self._watcher.stopping.is_set():
                    self._watcher.needs_rescan.clear()
                    self._watcher.scan()
                while journal.settle(
                    line.settle_s,
                    partial(self.intake.inspect, listings=ListingCache()),
                    self.intake.is_ready,
                ):
                    self._wake_workers()
            now = self.clock()
            if now - renewed > line.lease_s / 3:
                journal.renew()
                renewed = now
            if not self.drain and journal.read_note("drain"):
                self.log.write("draining")
                self.drain = True
                self._watcher.stopping.set()
            if (
                now - rescanned > _RESCAN_S
                and not self._watcher.stopping.is_set()
                and not self.once
            ):
                self._watcher.scan()
                sweep(journal, self.disk)
                journal.forget(_REMEMBERED_S, keep=_REMEMBERED)
                rescanned = now
            next_check_s = journal.seconds_to_next_check(line.settle_s)
            with self._wake:
                self._wake.wait(
                    0.25 if next_check_s is None else min(max(next_check_s, 0.005), 0.25)
                )

    def _work(self) -> None:
        journal = self.journal
        while not self._stopping.is_set():
            wait_s = self._blocked_until - self.clock()
            with self._wake:
                items = [] if wait_s > 0 or self._exclusive else self._claim()
                if items:
                    self._busy_workers += 1
            if not items:
                if (
                    wait_s <= 0
                    and (self.once or self.drain)
                    and self._watcher.scanned.is_set()
                    and not self._busy_workers
                    and journal.count_active() == 0
                ):
                    with self._wake:
                        unready = 0 if self._stopping.is_set() else journal.count_unready()
                        self._stopping.set()
                    if unready:
                        self.log.write(
                            "left",
                            count=unready,
                            reason=(
                                f"{unready:,} not ready: empty, or waiting for a ticket or"
                                " a sentinel"
                            ),
                        )
                    self.stop()
                    return
                with self._wake:
                    self._wake.wait(
                        min(_IDLE_S, wait_s)
                        if wait_s > 0
                        else 0.05
                        if self.once or self.drain
                        else _IDLE_S
                    )
                continue
            try:
                for result in self.processor.process_group(
                    items, self._cancel, self._stopping.is_set
                ):
                    if result in ("failed", "quarantined"):
                        self.failures += 1
                self._end_back_off()
            except LineBlocked as blocked:
                self._back_off(str(blocked))
            except (OwnershipLost, JournalError):
                raise
            finally:
                with self._wake:
                    self._busy_workers -= 1
                    self._exclusive = False
                    self._wake.notify_all()

    def _claim(self) -> list[Item]:
        """Claim the next item, and others that wait with it: a fair share of them, because another
        worker may come for the rest. Nothing waits until there are more.
        """
        line, journal = self.line, self.journal
        # An item that has killed a process before is processed alone, so that no other is blamed.
        item = journal.claim(line.priority, kills=line.kills, busy=self._busy_workers > 0)
        if item is None:
            return []
        if item.state != "running":
            return [item]
        self._exclusive = item.kills > 0
        # The first crash may not quarantine those that were only near.
        most = 1 if self._exclusive or line.kills == 1 else line.group
        if most > 1 and (waiting := journal.count_waiting()):
            workers = line.concurrency * max(1, len(journal.workers()))
            most = min(most, -(-(waiting + 1) // workers))
        return [item, *(journal.claim_more(line.priority, most=most - 1) if most > 1 else ())]

    def _back_off(self, reason: str) -> None:
        """Wait before the next item is tried, longer after each failure."""
        with self._wake:
            wait_s = min(_FIRST_WAIT_S * 2**self._failed_tries, _LONGEST_WAIT_S)
            self._failed_tries += 1
            self._blocked_until = self.clock() + wait_s
        self.log.write("waiting", reason=reason, wait_s=wait_s)
        self.journal.write_trouble(TROUBLE, reason)

    def _end_back_off(self) -> None:
        if self._failed_tries:
            self._failed_tries = 0
            self.journal.write_trouble(TROUBLE, "")
            self.log.write("resumed")


def _make_folders(line: Line) -> None:
    """Create the folders of a line. This happens only now: a folder that is missing later is a
    missing share.

    Raises:
        GraphError: one cannot be created.
    """
    for key, folder in (("out", line.out), ("done", line.done), ("failed", line.failed)):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            reason = (
                "it is a file"
                if isinstance(error, FileExistsError)
                else (error.strerror or str(error)).lower()
            )
            mark = line.marks.get(key, line.marks["in"])
            raise GraphError(
                [
                    Problem(
                        "bad-path",
                        f"the folder for '{key}' cannot be created",
                        mark,
                        f"{folder}: {reason}",
                        f"create it, or name another with '{key}:'",
                    )
                ]
            ) from error
