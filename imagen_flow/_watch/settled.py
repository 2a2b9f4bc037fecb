"""Watch files and folders: an iterator of sets of changed paths, yielded once changes have settled.

watchdog reports single events through callbacks; our handler only queues them. The iterating thread
does everything else: it filters events, waits until changes have settled, and makes sure that the
observer is alive:

- **Check every watched path twice a second** (`Changes`): is it still the same folder? Events do
  not report that a parent folder was renamed, a link on the way now leads elsewhere, a share was
  mounted, or a missing path was created. Dead emitters are found here too.
- **Check the mount table** (`_MountTable`, on Linux): unmounting removes watches silently, and a
  file system that is mounted again at once has the same device and inode numbers. Whenever the
  table changes, everything on or above a mount point is watched anew.
- **A heartbeat**: a file of our own is written every few seconds. If its event does not arrive, the
  observer is dead whatever its threads say, and is restarted; if that happens repeatedly, polling
  takes over.
- **Lost events** (the kernel's queue overflowed, the observer died) yield the watched paths
  themselves: inspect everything again. After an overflow, watchdog says so first and only then
  drops what it has queued and watches all folders anew, so we wait until a file that is written
  after its message has come through: what changed before is inspected, and what changes after is
  reported.
- **Events are not available** (a kernel limit is reached, a network file system): polling, with a
  notice that says why.

Real paths are watched, since events report those, and translated back to the paths as they were
given.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import logging
import os
import re
import select
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.polling import PollingObserverVFS

from .._store.opening import network_file_system
from .._system.dataclass import dataclass

__all__ = ["Changes", "changes", "is_temporary"]

#: The events that count as changes. Reading a file is not one, and a folder's own time changes with
#: everything in it. All watches share one filter: two masks on a folder would replace each other.
_RELEVANT_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]

#: Names that programs give to unfinished files. Hidden files, which most editors use, are not part
#: of a folder's content anyway (as for `Folder`).
_TEMPORARY = re.compile(
    "|".join(
        fnmatch.translate(name)
        for name in (
            "*~",
            "#*#",
            "*.tmp",
            "*.temp",
            "*.swp",
            "*.swx",
            "*.part",
            "*.partial",
            "*.crdownload",
            "*.download",
            "*.filepart",
            "*___jb_tmp___",
            "*___jb_old___",
            "~$*",
            "~lock*#",
            "4913",
            "__pycache__",
            "Thumbs.db",
            "desktop.ini",
        )
    ),
    re.IGNORECASE,
)

#: How often watched paths are checked; the share of the time that this may take, and the longest
#: interval that results from it.
_CHECK_S = 0.5
_CHECK_SHARE = 0.02
_MAX_CHECK_S = 10.0

#: How often the heartbeat is written, how long its event may take, and how many deaths of the
#: observer in how many seconds make polling take over.
_BEAT_S = 5.0
_BEAT_LOST_S = 10.0
_MAX_DEATHS, _DEATHS_S = 3, 120.0

#: After this long, paths that have settled are yielded without waiting for the others.
_MAX_SETTLE_S = 5.0

_MOUNTS = Path("/proc/self/mountinfo")

_logger = logging.getLogger(__name__)


def changes(
    paths: Sequence[Path],
    *,
    settle_s: float = 0.1,
    poll: bool = False,
    poll_s: float = 1.0,
    recursive: bool = True,
    cancel: threading.Event | None = None,
    ignore: Callable[[Path], bool] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Iterator[frozenset[Path]]:
    """Yield the paths that may have changed since the last time, whenever changes have settled.

    The first set contains the watched paths themselves, as soon as they are being watched: what is
    read after that cannot change unnoticed. A watched path in a later set means the same: inspect
    all of it again, since events were lost, the observer died, or the path disappeared, was created
    or was replaced. A folder below a watched path stands for everything in it. Paths are relative
    to the watched path as it was given (``in/x.png`` for ``in``). A path *may* have changed; how is
    not reported, so inspect it.

    A file is watched through its folder, and through every link on the way to it; links below a
    folder are not followed. Unfinished files (`is_temporary`), hidden files and reads are ignored,
    but a file that is itself a watched path always counts. (If an unfinished file stays, a `Folder`
    contains it like any other; it just does not report a change.)

    Params:
        paths: files and folders, which may be missing.
        settle_s: how long nothing may change. A path that changes continuously delays the others by
            a few seconds at most, and is itself not yielded until it settles.
        poll: poll every `poll_s` instead of waiting for events; network shares need this. A change
            is then yielded when the next poll finds no other.
        recursive: include sub-folders.
        cancel: ends the iteration within a fifth of a second, from any thread.
        ignore: paths to ignore, such as our own outputs.
        notice: called with a message for the user when watching continues in another way; by
            default, the message is logged.
    """
    with Changes(
        settle_s=settle_s,
        poll=poll,
        poll_s=poll_s,
        recursive=recursive,
        cancel=cancel,
        ignore=ignore,
        notice=notice,
    ) as settled:
        settled.follow(paths)
        yield frozenset(paths)
        yield from settled


def is_temporary(name: str) -> bool:
    """Return whether a file name is hidden, or that of an unfinished file of an editor or a
    download.
    """
    return name.startswith(".") or _TEMPORARY.match(name) is not None


@dataclass(frozen=True, slots=True)
class _WatchPlan:
    """What to watch for a path: folders by real path and identity, and the real paths whose events
    mean it.
    """

    folders: tuple[tuple[str, int, int], ...]
    names: tuple[str, ...]  # real paths of the watched path, if it is a file or missing
    root: str | None  # the real path, if it is a folder


#: Stand in the queue for lost events, for watches that could not be renewed after that, and to wake
#: a waiting thread.
_LOST, _UNWATCHED, _WAKE = object(), object(), object()


class _Handler(FileSystemEventHandler):
    """Queues events."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self.queue = queue

    def dispatch(self, event: FileSystemEvent) -> None:
        self.queue.put(event)


class _OverflowListener(logging.Handler):
    """Listens to watchdog's log for overflows of the kernel's queue; it has no event for that.

    A program that configures its logging (``dictConfig``) disables all loggers that it does not
    name, so `listen` is called repeatedly.
    """

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        super().__init__(logging.WARNING)
        self.queue = queue

    def listen(self) -> None:
        logging.getLogger("watchdog").addHandler(self)
        for name in ("watchdog", "watchdog.observers.inotify", "watchdog.observers.inotify_c"):
            logging.getLogger(name).disabled = False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().lower()
        if "unable to rebuild" in message:
            self.queue.put(_UNWATCHED)
        elif "overflow" in message:
            self.queue.put(_LOST)


class Changes:
    """The iterator behind `changes`, for watched paths that change over time: `follow` replaces
    them. Iterate in one thread; `follow` and `close` may be called from any.
    """

    def __init__(
        self,
        *,
        settle_s: float = 0.1,
        poll: bool = False,
        poll_s: float = 1.0,
        recursive: bool = True,
        cancel: threading.Event | None = None,
        ignore: Callable[[Path], bool] | None = None,
        notice: Callable[[str], None] | None = None,
        hint: Callable[[Path], None] | None = None,
    ) -> None:
        """See `changes`. `hint` is called with a path before its changes have settled, to make use
        of that time; it must return immediately.
        """
        self._lock = threading.Lock()
        self._followed: tuple[Path, ...] = ()
        self._settle_s = settle_s
        self._poll, self._poll_s = poll, poll_s
        self._recursive = recursive
        self._cancel = cancel or threading.Event()
        self._closed = threading.Event()
        self._ignore = ignore or (lambda _: False)
        self._notice = notice or _logger.warning
        self._hint = hint or (lambda _: None)
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._handler = _Handler(self._queue)
        self._listener = _OverflowListener(self._queue)
        self._observer: BaseObserver | None = None
        self._watches: dict[tuple[str, bool], tuple[tuple[int, int], ObservedWatch]] = {}
        self._plans: dict[Path, _WatchPlan] = {}
        self._paths_by_name: dict[str, list[Path]] = {}
        self._trees: list[tuple[str, Path]] = []
        #: Paths that may have changed, each with the times of its first and last event.
        self._pending: dict[Path, tuple[float, float]] = {}
        self._next_check = self._last_check = 0.0
        self._deaths: list[float] = []
        self._mounts = _MountTable()
        #: Whether folders were added to a tree since the kernel's limit was checked.
        self._trees_grew = False
        #: The temporary folder of the heartbeat, and the folder in it that is watched.
        self._heartbeat_folder: str | None = None
        self._watched_folder: str | None = None
        self._beat_sent_at: float | None = None
        self._beat_due_at = 0.0
        #: The name of the file whose event says that the observer is done with lost events.
        self._awaited = ""
        self._losses = 0

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self, paths: Iterable[Path]) -> None:
        """Watch these paths from now on. When this returns they are being watched: what is read
        after that cannot change unnoticed.
        """
        with self._lock:
            self._followed = tuple(dict.fromkeys(paths))
            if not self._closed.is_set():
                self._check()

    def close(self) -> None:
        """End the iteration and stop watching."""
        self._closed.set()
        self._queue.put(_WAKE)
        with self._lock:
            self._stop()
            self._mounts.close()
            # Last: without a handler, messages of an ending observer would be printed.
            logging.getLogger("watchdog").removeHandler(self._listener)
            if self._heartbeat_folder is not None:
                shutil.rmtree(self._heartbeat_folder, ignore_errors=True)
                self._heartbeat_folder = None

    def __iter__(self) -> Iterator[frozenset[Path]]:
        return self

    def __next__(self) -> frozenset[Path]:
        while not self._closed.is_set() and not self._cancel.is_set():
            with self._lock:
                if time.monotonic() >= self._next_check:
                    self._check()
                now = time.monotonic()
                if ready := self._ready(now):
                    for path in ready:
                        del self._pending[path]
                    return frozenset(ready)
                wait_s = self._wait_time(now)
            self._take_events(wait_s)
        raise StopIteration

    # -- events

    def _wait_time(self, now: float) -> float:
        """Return how long to wait for the next event."""
        due = (
            min(self._next_check, *(last + self._settle_time for _, last in self._pending.values()))
            if self._pending
            else self._next_check
        )
        return min(max(due - now, 0.0005), 0.2)

    @property
    def _settle_time(self) -> float:
        # Between two polls, everything seems settled.
        return max(self._settle_s, 1.5 * self._poll_s) if self._poll else self._settle_s

    def _ready(self, now: float) -> list[Path]:
        if not self._pending or not self._queue.empty():
            return []
        settled = [
            path for path, (_, last) in self._pending.items() if now - last >= self._settle_time
        ]
        if (
            len(settled) < len(self._pending)
            and now - min(first for first, _ in self._pending.values()) < _MAX_SETTLE_S
        ):
            return []
        return settled

    def _take_events(self, wait_s: float) -> None:
        """Wait for an event, then process all queued ones."""
        try:
            event = self._queue.get(timeout=wait_s)
            with self._lock:
                now = time.monotonic()
                while True:
                    if event is _LOST:
                        self._losses += 1
                        self._awaited, self._next_check = f"lost-{self._losses}", 0.0
                    elif event is _UNWATCHED:
                        self._stop()
                        self._next_check = 0.0
                    elif event is not _WAKE:
                        self._handle_event(event, now)
                    event = self._queue.get_nowait()
        except Empty:
            return

    def _handle_event(self, event: FileSystemEvent, now: float) -> None:
        for event_path in (event.src_path, event.dest_path):
            if not event_path:
                continue
            path = os.fsdecode(event_path)
            if self._heartbeat_folder is not None and path.startswith(self._heartbeat_folder):
                self._beat_sent_at = None
                if self._awaited and os.path.basename(path) == self._awaited:
                    self._report_lost(now)
                continue
            for watched in self._paths_by_name.get(path, ()):
                self._add_pending(watched, now)
                self._next_check = 0.0  # it may be a folder or a link now
            for root, watched in self._trees:
                if path == root:
                    self._add_pending(watched, now)
                    self._next_check = 0.0
                elif path.startswith(root if root.endswith(os.sep) else root + os.sep):
                    parts = path[len(root) :].strip(os.sep).split(os.sep)
                    if (self._recursive or len(parts) == 1) and not any(map(is_temporary, parts)):
                        self._add_pending(watched.joinpath(*parts), now)
                    if isinstance(event, DirCreatedEvent | DirMovedEvent) and self._recursive:
                        self._next_check, self._trees_grew = 0.0, True

    def _add_pending(self, path: Path, now: float) -> None:
        if not self._ignore(path):
            if path not in self._pending:
                self._hint(path)
            self._pending[path] = (self._pending.get(path, (now,))[0], now)

    def _report_lost(self, now: float) -> None:
        """Have everything inspected again."""
        self._awaited = ""
        for path in self._plans:
            self._add_pending(path, now)

    # -- watches

    def _check(self) -> None:
        """Check that every path is watched as planned and that the observer is alive, and repair
        what is not; what was not watched is reported as changed.
        """
        now = time.monotonic()
        if self._beat_sent_at is not None:
            # Time without checks, while the iterating thread was busy or the process was suspended,
            # says nothing about the observer.
            self._beat_sent_at += max(0.0, now - self._last_check - 2 * _CHECK_S)
        self._last_check = now
        followed = self._followed
        folders: dict[str, tuple[str, int, int] | None] = {}
        plans = {path: _plan_watch(path, folders) for path in followed}
        if not self._is_alive(now):
            self._stop()
        if self._observer is None:
            self._start()
        elif not self._poll:
            self._listener.listen()
            if self._mounts.has_changed():
                self._rewatch_mounts(plans)
        self._watch(plans)
        for path, plan in plans.items():
            if self._plans.get(path, plan) != plan:
                self._add_pending(path, now)
        self._plans = plans
        self._paths_by_name = {}
        for path, plan in plans.items():
            for name in plan.names:
                self._paths_by_name.setdefault(name, []).append(path)
        self._trees = [(plan.root, path) for path, plan in plans.items() if plan.root is not None]
        self._send_heartbeat(now)
        took_s = time.monotonic() - now
        self._next_check = now + min(max(_CHECK_S, took_s / _CHECK_SHARE), _MAX_CHECK_S)

    def _start(self) -> None:
        if not self._poll:
            try:
                self._observer = Observer()
                self._listener.listen()
            except OSError as error:
                self._switch_to_polling(_explain(error))
        if self._poll:
            # Links are not followed: one that leads to a parent would be followed endlessly.
            self._observer = PollingObserverVFS(os.lstat, os.scandir, polling_interval=self._poll_s)
        # watchdog warns of a folder that it reaches twice while a tree is created, with the path of
        # every folder.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, r"watchdog\.")
        assert self._observer is not None
        self._observer.start()
        self._beat_sent_at, self._beat_due_at = None, 0.0

    def _stop(self) -> None:
        observer, self._observer = self._observer, None
        self._watches = {}
        self._awaited = ""
        # Nothing is watched, so every path has to be inspected again.
        self._plans = dict.fromkeys(self._plans, _NO_PLAN)
        if observer is not None:
            with contextlib.suppress(Exception):  # a dead observer may raise anything
                observer.stop()
                observer.join(2)

    def _restart_polling(self, reason: str, plans: dict[Path, _WatchPlan]) -> None:
        """Continue without events."""
        self._switch_to_polling(reason)
        self._start()
        self._watch(plans)

    def _switch_to_polling(self, reason: str) -> None:
        """Poll from the next start on, and report why."""
        self._stop()
        self._poll = True
        head, semicolon, fix = reason.partition("; ")
        self._notice(f"{head}: polling every {self._poll_s:g} s instead{semicolon}{fix}")

    def _watch(self, plans: dict[Path, _WatchPlan]) -> None:
        """Make the observer watch exactly what is planned."""
        needed: dict[tuple[str, bool], tuple[int, int]] = {}
        for plan in plans.values():
            for folder, device, inode in plan.folders:
                needed[folder, self._recursive and plan.root == folder] = (device, inode)
        roots = {folder for folder, recursive in needed if recursive}
        # Folders inside a watched tree need no watch of their own.
        needed = {
            (folder, recursive): identity
            for (folder, recursive), identity in needed.items()
            if not (
                (not recursive and folder in roots)
                or any(parent in roots for parent in _parents(folder))
            )
        }
        assert self._observer is not None
        alive = {emitter.watch for emitter in self._observer.emitters if emitter.is_alive()}
        for key, (identity, watch) in list(self._watches.items()):
            if needed.get(key) != identity or watch not in alive:
                del self._watches[key]
                with contextlib.suppress(KeyError, RuntimeError, OSError):
                    self._observer.unschedule(watch)
                if key in needed:  # it died, or the folder was replaced
                    for path, plan in self._plans.items():
                        if any(
                            folder == key[0] or key[0] in _parents(folder)
                            for folder, _, _ in plan.folders
                        ):
                            self._plans[path] = _NO_PLAN
        new = sorted(needed.keys() - self._watches.keys())
        if new and not self._poll and (network := _on_network(folder for folder, _ in new)):
            self._restart_polling(
                f"{network[0]} is on a network file system ({network[1]}), which sends no change"
                " events",
                plans,
            )
            return
        try:
            for folder, recursive in new:
                # What cannot be polled now is tried again at the next check.
                with contextlib.suppress(
                    *((OSError,) if self._poll else (FileNotFoundError, NotADirectoryError))
                ):
                    self._watches[folder, recursive] = (
                        needed[folder, recursive],
                        self._observer.schedule(
                            self._handler,
                            folder,
                            recursive=recursive,
                            event_filter=_RELEVANT_EVENTS,
                        ),
                    )
            if not self._poll and (new or self._trees_grew):
                self._check_watch_limit()
                self._trees_grew = False
        except OSError as error:
            self._restart_polling(_explain(error), plans)

    def _rewatch_mounts(self, plans: dict[Path, _WatchPlan]) -> None:
        """Drop watches that a change of the mounts may have removed."""
        assert self._observer is not None
        points = self._mounts.points()
        for folder, recursive in [
            key for key in self._watches if _is_affected_by_mounts(key[0], points, deep=key[1])
        ]:
            watch = self._watches.pop((folder, recursive))[1]
            with contextlib.suppress(KeyError, RuntimeError, OSError):
                self._observer.unschedule(watch)
            for path, plan in plans.items():
                if any(
                    watched == folder or folder in _parents(watched)
                    for watched, _, _ in plan.folders
                ):
                    self._plans[path] = _NO_PLAN

    def _check_watch_limit(self) -> None:
        """Add one more watch: if the kernel's limit is reached, watchdog silently omits parts of a
        tree.

        Raises:
            OSError: the limit is reached.
        """
        assert self._observer is not None
        if self._heartbeat_folder is None:
            try:
                self._heartbeat_folder = os.path.realpath(
                    tempfile.mkdtemp(prefix=".imagen-flow-watch-")
                )
            except OSError:
                return
        previous, self._watched_folder = (
            self._watched_folder,
            os.path.join(
                self._heartbeat_folder,
                "1" if self._watched_folder and self._watched_folder.endswith("0") else "0",
            ),
        )
        os.makedirs(self._watched_folder, exist_ok=True)
        self._observer.schedule(self._handler, self._watched_folder, event_filter=_RELEVANT_EVENTS)
        # Add one before removing one: the other way round it would always succeed.
        for watch in [e.watch for e in self._observer.emitters if e.watch.path == previous]:
            self._observer.unschedule(watch)
        self._beat_sent_at, self._beat_due_at = None, 0.0

    def _is_alive(self, now: float) -> bool:
        """Return whether the observer's threads are running and its last heartbeat arrived."""
        observer = self._observer
        if observer is None:
            return True
        if observer.is_alive() and (
            self._beat_sent_at is None or now - self._beat_sent_at < _BEAT_LOST_S
        ):
            return True
        self._deaths = [at for at in self._deaths if now - at < _DEATHS_S] + [now]
        if len(self._deaths) >= _MAX_DEATHS and not self._poll:
            self._switch_to_polling("the file system observer died repeatedly")
        else:
            self._notice("the file system observer died: restarted")
        return False

    def _send_heartbeat(self, now: float) -> None:
        if self._awaited and (self._poll or self._watched_folder is None):
            self._report_lost(now)
        elif self._awaited and self._watched_folder is not None:
            # Each time, since its event may be lost too.
            with contextlib.suppress(OSError):
                Path(self._watched_folder, self._awaited).write_bytes(b"")
                self._beat_sent_at = self._beat_sent_at or now
        if (
            self._poll
            or self._watched_folder is None
            or self._beat_sent_at is not None
            or now < self._beat_due_at
        ):
            return
        with contextlib.suppress(OSError):
            Path(self._watched_folder, "beat").write_bytes(b"")
            self._beat_sent_at, self._beat_due_at = now, now + _BEAT_S


_NO_PLAN = _WatchPlan((), (), None)


class _MountTable:
    """Detects changes of the mount table: the kernel reports them for the open file, even if the
    table reads the same as before.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._poll: Any = None
        with contextlib.suppress(OSError, AttributeError):
            self._file = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLPRI | select.POLLERR)
            self._poll.poll(0)

    def has_changed(self) -> bool:
        """Return whether the table has changed since the last call."""
        try:
            return self._file is not None and bool(self._poll.poll(0))
        except OSError:
            return False

    def points(self) -> list[str]:
        """Return the mount points except for the root."""
        try:
            text = _MOUNTS.read_text("utf-8", "surrogateescape")
        except OSError:
            return []
        return [
            point
            for line in text.splitlines()
            if len(fields := line.split()) > 4
            and (point := re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])) != "/"
        ]

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _is_affected_by_mounts(folder: str, points: list[str], *, deep: bool) -> bool:
    """Return whether a folder is on a mount other than the root, or (`deep`) contains a mount
    point.
    """
    prefix = folder.rstrip(os.sep) + os.sep
    return any(
        folder == point
        or folder.startswith(point.rstrip(os.sep) + os.sep)
        or (deep and point.startswith(prefix))
        for point in points
    )


def _plan_watch(path: Path, folders: dict[str, tuple[str, int, int] | None]) -> _WatchPlan:
    """Plan what to watch for a path. `folders` caches, for one check, what each folder is."""
    absolute = os.path.abspath(path)
    real = os.path.realpath(absolute) if os.path.islink(absolute) else absolute
    if identity := _folder_identity(real, folders):
        return _WatchPlan((identity,), (), identity[0])
    watched: list[tuple[str, int, int]] = []
    names: list[str] = []
    for _ in range(40):  # as many links as the kernel follows
        identity = _folder_identity(os.path.dirname(absolute), folders)
        if identity is None:
            break
        watched.append(identity)
        absolute = os.path.join(identity[0], os.path.basename(absolute))
        names.append(absolute)
        try:
            absolute = os.path.abspath(os.path.join(identity[0], os.readlink(absolute)))
        except OSError:
            break
    return _WatchPlan(tuple(dict.fromkeys(watched)), tuple(names), None)


def _folder_identity(
    path: str, folders: dict[str, tuple[str, int, int] | None]
) -> tuple[str, int, int] | None:
    """Return the real path and identity of a folder, or None if it is not a folder."""
    if path not in folders:
        try:
            real = os.path.realpath(path)
            stat = os.stat(real)
            folders[path] = (real, stat.st_dev, stat.st_ino) if os.path.isdir(real) else None
        except OSError:
            folders[path] = None
    return folders[path]


def _parents(folder: str) -> Iterator[str]:
    while (parent := os.path.dirname(folder)) != folder:
        yield parent
        folder = parent


def _explain(error: OSError) -> str:
    """Explain why there are no events and, if a limit is the cause, which one."""
    limit = {
        errno.ENOSPC: "fs.inotify.max_user_watches",
        errno.EMFILE: "fs.inotify.max_user_instances",
    }.get(error.errno or 0, "")
    return f"the system sends no change events ({error.strerror or error})" + (
        f"; raise {limit} to receive events" if limit else ""
    )


def _on_network(folders: Iterable[str]) -> tuple[str, str] | None:
    """Return the first of these folders that is on a network file system, and its type."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return next(
        (
            (folder, kind)
            for folder in folders
            if (kind := network_file_system(Path(folder), mounts))
        ),
        None,
    )
