"""Run a line: a thread that takes in, a thread that keeps time, and as many that work as the line
says.

::

    intake   changes in the folder → seen                       (an observer that dies is begun
    anew; a rescan finds what was missed)
    keeper   seen → settled; renews leases; notices a drain; rescans now and then
    worker   settled → running → … → done | failed

They meet in the journal alone, so it makes no difference whether they belong to one process or to
several.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._plan.request import Options
from .._settings.config import Settings
from .._watch import changes
from ..errors import GraphError, Problem
from .disk import Disk, LocalDisk, Mounted, is_there
from .intake import Intake, Names, Passed
from .journal import TROUBLE, UNREAD, Journal, JournalError, Lost
from .log import Log
from .notify import Notifier
from .publish import sweep
from .recipe import Recipe, clashes
from .worker import Shop, Trouble

if TYPE_CHECKING:
    from .._models import ModelPool
    from .._store import Store

__all__ = ["RunningLine", "Tools"]

#: How many files are taken in in one transaction.
_ROUND = 500

#: How long after the last, a rescan finds what no event told of.
_RESCAN_S = 60.0

#: How long a worker sleeps when there is nothing to do: another process may have seen something.
_IDLE_S = 0.5

#: How long the line waits after a trouble: first, and at most.
_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0

#: How long until a dead intake is begun anew.
_AGAIN_S = 1.0

#: How many finished items the journal remembers, and for how long those beyond.
_REMEMBERED, _REMEMBERED_S = 100_000, 90 * 86_400


@dataclass(frozen=True, slots=True)
class Tools:
    """What a line works with; the store and the pool are shared by the lines of one process."""

    store: Store | None = None
    pool: ModelPool | None = None
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)


class RunningLine:
    """A line at work. `start` it, `stop` it from anywhere, and `wait` for its end.

    Params:
        once: end when nothing is left to do.
        drain: take in nothing, and end when nothing is left to do.
        listen: is told what the log is told, in whichever thread says it.
        clock: monotonic; says when leases are renewed, the folder is looked through again and a
            trouble is over.
    Raises:
        JournalError: its journal cannot be used.
        GraphError: one of its folders cannot be created.
    """

    def __init__(
        self,
        recipe: Recipe,
        tools: Tools,
        *,
        once: bool = False,
        drain: bool = False,
        disk: Disk | None = None,
        listen: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        line = self.line = recipe.line
        for key, folder in (("out", line.out), ("done", line.done), ("failed", line.failed)):
            # Made now or never: one that is gone later is a share that is gone.
            try:
                folder.mkdir(exist_ok=True)
            except OSError as failed:
                why = (
                    "it is a file"
                    if isinstance(failed, FileExistsError)
                    else (failed.strerror or str(failed)).lower()
                )
                mark = line.marks.get(key, line.marks["in"])
                raise GraphError(
                    [
                        Problem(
                            "bad-path",
                            f"the folder for '{key}' cannot be created",
                            mark,
                            f"{folder}: {why}",
                            f"create it, or name another with '{key}:'",
                        )
                    ]
                ) from failed
        self.disk = disk or LocalDisk()
        self.clock = clock
        self.journal = Journal(line.journal, clock=clock, lease_s=line.lease_s)
        self.log = Log(line.log, line=line.name, listen=listen)
        self.intake = Intake(line)
        self.notifier = Notifier(line.notify, self.log)
        self.mounted = Mounted(line.inbox, line.out, line.done, line.failed)
        self.shop = Shop(
            recipe,
            self.journal,
            self.intake,
            self.disk,
            self.log,
            self.notifier.tell,
            tools.store,
            tools.pool,
            tools.options,
            tools.settings,
            mounted=self.mounted,
        )
        self.once, self.drain = once, drain
        #: Why the line cannot go on, if it cannot.
        self.fault: BaseException | None = None
        self.failures = 0
        self._stopping = threading.Event()
        self._cancel = threading.Event()
        self._taking_in = threading.Event()
        self._scanned = threading.Event()
        self._missed = threading.Event()
        #: What lies in the folder and is not for the line, in words.
        self._passed_over = ""
        #: Why the folder could not be read the last time, if it could not.
        self._unseen = ""
        self._wake = threading.Condition()
        self._busy = 0
        self._alone = False
        self._trouble_until = 0.0
        self._troubles = 0
        self._workers: list[threading.Thread] = []
        self._others: list[threading.Thread] = []

    # -- from outside

    def start(self) -> None:
        """Begin."""
        self.journal.enter()
        if not self.drain:
            self.journal.write_note("drain", "")
        swept = sweep(self.journal, self.disk)
        self.log.say("started", worker=self.journal.token, swept=swept)
        if words := clashes(self.shop.recipe):
            self.log.say("warning", reason=words)
        self._restore()
        for number in range(self.line.concurrency):
            self._workers.append(
                threading.Thread(
                    target=self._guarded,
                    args=(self._work,),
                    name=f"{self.line.name} worker {number + 1}",
                    daemon=True,
                )
            )
        self._others.append(
            threading.Thread(
                target=self._guarded,
                args=(self._keep,),
                name=f"{self.line.name} keeper",
                daemon=True,
            )
        )
        if not self.drain:
            self._others.append(
                threading.Thread(
                    target=self._guarded,
                    args=(self._take_in,),
                    name=f"{self.line.name} intake",
                    daemon=True,
                )
            )
        else:
            self._scanned.set()
        for thread in (*self._others, *self._workers):
            thread.start()

    def stop(self) -> None:
        """Ask the line to end: running items may finish for `stop_s`, then they are given back.
        Returns at once; safe from any thread.
        """
        self._stopping.set()
        self._taking_in.set()
        with self._wake:
            self._wake.notify_all()

    @property
    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._workers)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the line has ended; False if it has not by then."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._workers:
            while thread.is_alive():
                left = 0.2 if until is None else min(0.2, until - time.monotonic())
                if left <= 0:
                    return False
                thread.join(left)
        return True

    def close(self) -> None:
        """End: stop, wait, and let go of everything."""
        self.stop()
        if not self.wait(self.line.stop_s):
            self._cancel.set()
            self.wait(5.0)
        for thread in self._others:
            thread.join(2.0)
        self.notifier.close()
        self.log.say(
            "stopped",
            worker=self.journal.token,
            **({"fault": str(self.fault)} if self.fault else {}),
        )
        self.journal.close()

    # -- threads

    def _guarded(self, body: Callable[[], None]) -> None:
        """Run a thread; if it cannot go on, neither can the line, and whoever supervises the
        process begins it anew.
        """
        try:
            body()
        except BaseException as odd:
            self.fault = self.fault or odd
            self.log.say("fault", reason=f"{type(odd).__name__}: {odd}")
            self.stop()

    def _restore(self) -> None:
        """Give back originals that were on their way when their journal was lost."""
        for place in self.intake.orphans(self.journal):
            back = place.with_name(f"restored-{place.name.lstrip('.').replace('.taken', '')}")
            try:
                if not is_there(back):
                    self.disk.rename(place, back)
                    self.log.say("restored", item=str(back))
            except FileNotFoundError:  # another worker has just moved it on
                continue
            except OSError as failed:
                self.log.say(
                    "watching",
                    reason=(
                        f"{place} cannot be restored: {(failed.strerror or str(failed)).lower()}"
                    ),
                )

    def _take_in(self) -> None:
        line = self.line
        while not self._taking_in.is_set():
            try:
                for changed in changes(
                    (line.inbox,),
                    settle_s=0.05,
                    poll=line.poll,
                    poll_s=line.poll_s,
                    recursive=line.folders != "ignored",
                    cancel=self._taking_in,
                    ignore=self.intake.is_own,
                    notice=self._notice,
                ):
                    if line.inbox in changed:
                        self.scan()
                    else:
                        if self.mounted.lacks(line.inbox):
                            self._missed.set()  # what is told of now cannot be looked at
                        names = Names()
                        for path in changed:
                            self._look(path, names)
                    if self.once:
                        return
            except JournalError:
                raise
            except Exception as odd:  # an observer that died, a folder that vanished
                self.log.say("watching", reason=f"begun anew: {type(odd).__name__}: {odd}")
                self._taking_in.wait(_AGAIN_S)

    def _notice(self, words: str) -> None:
        self.log.say("watching", reason=words)

    def scan(self) -> int:
        """Look at everything in the folder. Gives how many files are new."""
        count = 0
        if why := self.mounted.lacks(self.line.inbox):
            self._miss(why)
            return 0
        try:
            passed = Passed()
            found = self.intake.walk(passed=passed)
            while some := list(islice(found, _ROUND)):
                count += self._seen(some)
        except OSError as failed:
            self._miss((failed.strerror or str(failed)).lower())
        else:
            if self._unseen:
                self._note(UNREAD, "")
            self._unseen = ""
            if passed.words() != self._passed_over:
                self._passed_over = passed.words()
                self.log.say(
                    "passed-over", reason=self._passed_over or "nothing", count=passed.count()
                )
            self._scanned.set()
        return count

    def _miss(self, why: str) -> None:
        """The folder cannot be read now, which is said once."""
        self._missed.set()
        reason = f"{self.line.inbox}: {why}"
        if reason != self._unseen:
            self._unseen = reason
            self.log.say("watching", reason=reason)
            self._note(UNREAD, reason)

    def _look(self, path: Path, names: Names) -> None:
        for found in self.intake.of_change(path, names):
            self._seen([found])

    def _seen(self, some: list[Any]) -> int:
        new = self.journal.look(
            some,
            settled=self.line.settle_s == 0
            and not self.line.sentinel
            and self.line.ticket != "required",
        )
        for path in new:
            self.log.say("seen", item=path)
        self._rouse()
        return len(new)

    def _rouse(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _keep(self) -> None:
        """Settle files, renew leases, notice a drain, rescan."""
        line, journal = self.line, self.journal
        renewed = rescanned = self.clock()
        while not self._stopping.is_set() or not self.ended:
            if why := self.mounted.lacks(line.inbox):
                # Files that cannot be seen are not gone for all that.
                self._miss(why)
            else:
                if self._missed.is_set() and not self._taking_in.is_set():
                    self._missed.clear()
                    self.scan()
                while journal.settle(
                    line.settle_s, partial(self.intake.look, names=Names()), self.intake.wants
                ):
                    self._rouse()
            now = self.clock()
            if now - renewed > line.lease_s / 3:
                journal.renew()
                renewed = now
            if not self.drain and journal.note("drain"):
                self.log.say("draining")
                self.drain = True
                self._taking_in.set()
            if now - rescanned > _RESCAN_S and not self._taking_in.is_set() and not self.once:
                self.scan()
                sweep(journal, self.disk)
                journal.forget(_REMEMBERED_S, keep=_REMEMBERED)
                rescanned = now
            due = journal.next_look(line.settle_s)
            with self._wake:
                self._wake.wait(0.25 if due is None else min(max(due, 0.005), 0.25))

    def _work(self) -> None:
        line, journal = self.line, self.journal
        while not self._stopping.is_set():
            wait_s = self._trouble_until - self.clock()
            with self._wake:
                # One that has killed a process before is alone, so that no other is blamed.
                item = (
                    None
                    if wait_s > 0 or self._alone
                    else journal.claim(line.priority, kills=line.kills, busy=self._busy > 0)
                )
                if item is not None:
                    self._busy += 1
                    self._alone = item.kills > 0 and item.state == "running"
            if item is None:
                if (
                    wait_s <= 0
                    and (self.once or self.drain)
                    and self._scanned.is_set()
                    and not self._busy
                    and journal.active() == 0
                ):
                    with self._wake:
                        unready = 0 if self._stopping.is_set() else journal.unready()
                        self._stopping.set()
                    if unready:
                        self.log.say(
                            "left",
                            count=unready,
                            reason=(
                                f"{unready:,} not ready: to be filled, or for a ticket or sentinel"
                                " to come"
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
                result = self.shop.do(item, self._cancel)
                self._passed()
                if result in ("failed", "quarantined"):
                    self.failures += 1
            except Trouble as trouble:
                self._wait(str(trouble))
            except (Lost, JournalError):
                raise
            finally:
                with self._wake:
                    self._busy -= 1
                    self._alone = False
                    self._wake.notify_all()

    def _wait(self, reason: str) -> None:
        """Wait a while before the next item is tried, the longer the more often."""
        with self._wake:
            wait_s = min(_WAIT_S * 2**self._troubles, _LONGEST_WAIT_S)
            self._troubles += 1
            self._trouble_until = self.clock() + wait_s
        self.log.say("waiting", reason=reason, wait_s=wait_s)
        self._note(TROUBLE, reason)

    def _passed(self) -> None:
        if self._troubles:
            self._troubles = 0
            self._note(TROUBLE, "")
            self.log.say("resumed")

    def _note(self, name: str, reason: str) -> None:
        """Let `status` know what keeps the line waiting."""
        with contextlib.suppress(JournalError):  # it may be what is in trouble
            self.journal.write_note(
                name, json.dumps({"worker": self.journal.token, "reason": reason} if reason else {})
            )
