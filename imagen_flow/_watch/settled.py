"""Say what has changed on the disk, each time it has become quiet: an iterator of sets of paths,
which watching graphs and hot folders are loops over.

watchdog tells of single events by callback; its handler here does nothing but queue. The thread
that iterates does all the rest: it drops what is no change, waits until
things are quiet, and sees to it that the observer lives:

- **A look at every place, twice a second** (`Changes`): whether it still is the folder that is
  watched. Events do not tell when a folder above is renamed, a link on the way leads elsewhere, a
  share
  is mounted, or a place that was not there comes to be; a dead emitter is found here too.
- **The table of mounts** (`_Mounts`, on Linux): what is unmounted loses its watches without a word,
  and mounted again at once it has the same device and inode as before. Whenever the table changes,
  what lies on a
  mount of its own, or has one in it, is watched anew.
- **A heartbeat**: a file of our own that is written every few seconds. If its event does not come,
  the observer is dead whatever its threads say, and is begun anew; if that happens again and again,
  polling takes over.
- **Lost events** (the kernel's queue ran over; the observer died) give the places themselves: look
  at everything again.
- **No events to be had** (the kernel's limits are reached; a network file system): polling, with a
  notice that says why.

Real paths are watched, since an event names those, and given as they were named: under the place as
it was given.
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
from dataclasses import dataclass
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

__all__ = ["Changes", "changes", "is_temporary"]

#: What counts. Opening and closing a file that is read are no changes, and a folder's own time
#: changes with everything in it. One filter for all watches: two masks on one folder would replace
#: each other.
_COUNTS: list[type[FileSystemEvent]] = [
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

#: Names that programs give to what is only on its way. Hidden files, most editors' choice, are none
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

#: How often places are looked at; how small a part of the time that may take, and how seldom it may
#: become for that.
_LOOK_S = 0.5
_LOOK_PART = 0.02
_LOOK_LONGEST_S = 10.0

#: How often the heartbeat is written, how long it may stay unheard, and how often that may happen
#: in how long before polling takes over.
_BEAT_S = 5.0
_BEAT_LOST_S = 10.0
_DEATHS, _DEATHS_S = 3, 120.0

#: After this long without quiet, what is quiet by itself is given without waiting for the rest.
_LONGEST_S = 5.0

_MOUNTS = Path("/proc/self/mountinfo")

_logger = logging.getLogger(__name__)


def changes(
    places: Sequence[Path],
    *,
    settle_s: float = 0.1,
    poll: bool = False,
    poll_s: float = 1.0,
    recursive: bool = True,
    cancel: threading.Event | None = None,
    ignore: Callable[[Path], bool] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Iterator[frozenset[Path]]:
    """Give, each time things are quiet, the paths that may have changed since the last time.

    The first set is the places themselves, as soon as they are watched: what is looked at from then
    on cannot change unseen. A place in a later set says the same: look at all of it
    again, since events were lost, the observer died, or the place vanished, came to be or became
    another. The path of a folder below a place stands for all that is below it.
    Paths are spelt from the place as it was given (``in/x.png`` for the place ``in``). It is said
    that something may have changed, not what: look at it as it is now.

    A file is watched through its folder, and through every link on the way to it; links below a
    folder are not followed. What a program names as only being on its way (`is_temporary`), hidden
    files
    and reads count for nothing, except that a file named as a place always counts. (Where such a
    file stays, `Folder` holds it like any other; it only tells of no change by itself.)

    Params:
        places: files and folders, there or not.
        settle_s: how long it has to be quiet. A path that never is quiet does not hold up the
            others for more than some seconds; itself it waits.
        poll: look every `poll_s` instead of waiting for events, as network shares need; a change is
            then given when the next look finds no other.
        recursive: whether what lies in folders within a folder counts.
        cancel: ends the iteration within a fifth of a second, from any thread.
        ignore: paths that count for nothing, e.g. our own outputs.
        notice: told, in words for the user, when watching goes on by other means; default: the log.
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
        settled.follow(places)
        yield frozenset(places)
        yield from settled


def is_temporary(name: str) -> bool:
    """Whether a file of this name is hidden, or only on its way: an editor's or a download's."""
    return name.startswith(".") or _TEMPORARY.match(name) is not None


@dataclass(frozen=True, slots=True)
class _Aim:
    """What to watch for a place: folders by real path and identity, and the real paths whose events
    mean the place.
    """

    folders: tuple[tuple[str, int, int], ...]
    names: tuple[str, ...]  # real paths that are the place, for a file or what is not there
    tree: str | None  # the real path of the folder that the place is


#: What stands in the queue for events that were lost, and to wake whoever waits for one.
_LOST, _WAKE = object(), object()


class _Handler(FileSystemEventHandler):
    """Queues."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self.queue = queue

    def dispatch(self, event: FileSystemEvent) -> None:
        self.queue.put(event)


class _Listener(logging.Handler):
    """Hears watchdog say that the kernel's queue ran over; it has no event for that.

    A program that configures its logging (``dictConfig``) switches off all loggers that it does not
    name, so `listen` is called again and again.
    """

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        super().__init__(logging.WARNING)
        self.queue = queue

    def listen(self) -> None:
        logging.getLogger("watchdog").addHandler(self)
        for name in ("watchdog", "watchdog.observers.inotify", "watchdog.observers.inotify_c"):
            logging.getLogger(name).disabled = False

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage().lower()
        if "overflow" in said or "unable to rebuild" in said:
            self.queue.put(_LOST)


class Changes:
    """The iterator behind `changes`, for those whose places change as they go: `follow` takes new
    ones. Iterate in one thread; `follow` and `close` may be called from any.
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
        """As for `changes`. `hint` is told of a path before things are quiet, for those who can
        make use of the wait; it must return at once.
        """
        self._lock = threading.Lock()
        self._wanted: tuple[Path, ...] = ()
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
        self._listener = _Listener(self._queue)
        self._observer: BaseObserver | None = None
        self._watches: dict[tuple[str, bool], tuple[tuple[int, int], ObservedWatch]] = {}
        self._aims: dict[Path, _Aim] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._trees: list[tuple[str, Path]] = []
        #: Paths that may have changed, each with when that was first and last said.
        self._pending: dict[Path, tuple[float, float]] = {}
        self._look_at = self._looked = 0.0
        self._deaths: list[float] = []
        self._mounts = _Mounts()
        #: Whether folders have joined a tree since the kernel's limit was tried.
        self._grown = False
        #: A folder of our own, and the one in it that is watched.
        self._canary: str | None = None
        self._cage: str | None = None
        self._beat_sent: float | None = None
        self._beat_due = 0.0

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self, places: Iterable[Path]) -> None:
        """Watch these places from now on. When this returns they are watched: what is read from
        then on cannot change unseen.
        """
        with self._lock:
            self._wanted = tuple(dict.fromkeys(places))
            if not self._closed.is_set():
                self._look()

    def close(self) -> None:
        """End the iteration and stop watching."""
        self._closed.set()
        self._queue.put(_WAKE)
        with self._lock:
            self._stop()
            self._mounts.close()
            logging.getLogger("watchdog").removeHandler(
                self._listener
            )  # last: without a hearer, what an observer says as it ends would be printed
            if self._canary is not None:
                shutil.rmtree(self._canary, ignore_errors=True)
                self._canary = None

    def __iter__(self) -> Iterator[frozenset[Path]]:
        return self

    def __next__(self) -> frozenset[Path]:
        while not self._closed.is_set() and not self._cancel.is_set():
            with self._lock:
                if time.monotonic() >= self._look_at:
                    self._look()
                now = time.monotonic()
                if ready := self._ready(now):
                    for path in ready:
                        del self._pending[path]
                    return frozenset(ready)
                patience_s = self._patience(now)
            self._take(patience_s)
        raise StopIteration

    # -- what was said

    def _patience(self, now: float) -> float:
        """How long to wait for the next event."""
        due = (
            min(self._look_at, *(last + self._quiet_s for _, last in self._pending.values()))
            if self._pending
            else self._look_at
        )
        return min(max(due - now, 0.0005), 0.2)

    @property
    def _quiet_s(self) -> float:
        # Between two looks everything seems quiet.
        return max(self._settle_s, 1.5 * self._poll_s) if self._poll else self._settle_s

    def _ready(self, now: float) -> list[Path]:
        if not self._pending or not self._queue.empty():
            return []
        quiet = [path for path, (_, last) in self._pending.items() if now - last >= self._quiet_s]
        if (
            len(quiet) < len(self._pending)
            and now - min(first for first, _ in self._pending.values()) < _LONGEST_S
        ):
            return []
        return quiet

    def _take(self, patience_s: float) -> None:
        """Wait for an event, then take all there are."""
        try:
            said = self._queue.get(timeout=patience_s)
            with self._lock:
                now = time.monotonic()
                while True:
                    if said is _LOST:
                        for place in self._aims:
                            self._say(place, now)
                    elif said is not _WAKE:
                        self._hear(said, now)
                    said = self._queue.get_nowait()
        except Empty:
            return

    def _hear(self, event: FileSystemEvent, now: float) -> None:
        for given in (event.src_path, event.dest_path):
            if not given:
                continue
            path = os.fsdecode(given)
            if self._canary is not None and path.startswith(self._canary):
                self._beat_sent = None
                continue
            for named in self._by_name.get(path, ()):
                self._say(named, now)
                self._look_at = 0.0  # it may be a folder or a link now
            for root, place in self._trees:
                if path == root:
                    self._say(place, now)
                    self._look_at = 0.0
                elif path.startswith(root if root.endswith(os.sep) else root + os.sep):
                    parts = path[len(root) :].strip(os.sep).split(os.sep)
                    if (self._recursive or len(parts) == 1) and not any(map(is_temporary, parts)):
                        self._say(place.joinpath(*parts), now)
                    if isinstance(event, DirCreatedEvent | DirMovedEvent) and self._recursive:
                        self._look_at, self._grown = 0.0, True

    def _say(self, path: Path, now: float) -> None:
        if not self._ignore(path):
            if path not in self._pending:
                self._hint(path)
            self._pending[path] = (self._pending.get(path, (now,))[0], now)

    # -- what is watched

    def _look(self) -> None:
        """Look whether every place is what is watched for it, and the observer alive; mend what is
        not, and let it be looked at again.
        """
        began = time.monotonic()
        if self._beat_sent is not None:
            # Time in which nobody looked, since whoever iterates was busy or the process stood
            # still, says nothing about the observer.
            self._beat_sent += max(0.0, began - self._looked - 2 * _LOOK_S)
        self._looked = began
        wanted = self._wanted
        folders: dict[str, tuple[str, int, int] | None] = {}
        aims = {place: _aim(place, folders) for place in wanted}
        if not self._lives(began):
            self._stop()
        if self._observer is None:
            self._start()
        elif not self._poll:
            self._listener.listen()
            if self._mounts.have_changed():
                self._watch_mounted_anew(aims)
        self._watch(aims)
        for place, aim in aims.items():
            if self._aims.get(place, aim) != aim:
                self._say(place, began)
        self._aims = aims
        self._by_name = {}
        for place, aim in aims.items():
            for name in aim.names:
                self._by_name.setdefault(name, []).append(place)
        self._trees = [(aim.tree, place) for place, aim in aims.items() if aim.tree is not None]
        self._beat(began)
        took = time.monotonic() - began
        self._look_at = began + min(max(_LOOK_S, took / _LOOK_PART), _LOOK_LONGEST_S)

    def _start(self) -> None:
        if not self._poll:
            try:
                self._observer = Observer()
                self._listener.listen()
            except OSError as failed:
                self._give_up(_said(failed))
        if self._poll:
            # Links are not followed: one that leads upwards would be followed for ever.
            self._observer = PollingObserverVFS(os.lstat, os.scandir, polling_interval=self._poll_s)
        # It warns of a folder that was reached twice while a tree came to be, at the length of the
        # whole tree.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, r"watchdog\.")
        assert self._observer is not None
        self._observer.start()
        self._beat_sent, self._beat_due = None, 0.0

    def _stop(self) -> None:
        observer, self._observer = self._observer, None
        self._watches = {}
        # With nothing watched, every place is to be looked at again.
        self._aims = dict.fromkeys(self._aims, _NOTHING)
        if observer is not None:
            with contextlib.suppress(Exception):  # a dead one may fail at anything
                observer.stop()
                observer.join(2)

    def _begin_polling(self, why: str, aims: dict[Path, _Aim]) -> None:
        """Go on without events."""
        self._give_up(why)
        self._start()
        self._watch(aims)

    def _give_up(self, why: str) -> None:
        """Turn to polling from the next start on, and say why."""
        self._stop()
        self._poll = True
        head, semicolon, fix = why.partition("; ")
        self._notice(f"{head}: looking every {self._poll_s:g} s instead{semicolon}{fix}")

    def _watch(self, aims: dict[Path, _Aim]) -> None:
        """Have the observer watch what is aimed at, and nothing else."""
        needed: dict[tuple[str, bool], tuple[int, int]] = {}
        for aim in aims.values():
            for folder, device, inode in aim.folders:
                needed[folder, self._recursive and aim.tree == folder] = (device, inode)
        trees = {folder for folder, deep in needed if deep}
        # What lies in a tree that is watched anyway needs no watch of its own.
        needed = {
            (f, deep): who
            for (f, deep), who in needed.items()
            if not ((not deep and f in trees) or any(a in trees for a in _above(f)))
        }
        assert self._observer is not None
        alive = {emitter.watch for emitter in self._observer.emitters if emitter.is_alive()}
        for key, (who, watch) in list(self._watches.items()):
            if needed.get(key) != who or watch not in alive:
                del self._watches[key]
                with contextlib.suppress(KeyError, RuntimeError, OSError):
                    self._observer.unschedule(watch)
                if key in needed:  # it died, or another folder is in its place
                    for place, aim in self._aims.items():
                        if any(
                            folder == key[0] or key[0] in _above(folder)
                            for folder, _, _ in aim.folders
                        ):
                            self._aims[place] = _NOTHING
        fresh = sorted(needed.keys() - self._watches.keys())
        if fresh and not self._poll and (found := _network(folder for folder, _ in fresh)):
            self._begin_polling(
                f"{found[0]} lies on a network file system ({found[1]}), which sends no events",
                aims,
            )
            return
        try:
            for folder, deep in fresh:
                # What cannot be polled now may be later: it is tried again at the next look.
                with contextlib.suppress(
                    *((OSError,) if self._poll else (FileNotFoundError, NotADirectoryError))
                ):
                    self._watches[folder, deep] = (
                        needed[folder, deep],
                        self._observer.schedule(
                            self._handler, folder, recursive=deep, event_filter=_COUNTS
                        ),
                    )
            if not self._poll and (fresh or self._grown):
                self._probe()
                self._grown = False
        except OSError as failed:
            self._begin_polling(_said(failed), aims)

    def _watch_mounted_anew(self, aims: dict[Path, _Aim]) -> None:
        """Let go of watches that a change of the mounts may have taken away."""
        assert self._observer is not None
        points = self._mounts.points()
        for folder, deep in [
            key for key in self._watches if _is_mounted(key[0], points, deep=key[1])
        ]:
            watch = self._watches.pop((folder, deep))[1]
            with contextlib.suppress(KeyError, RuntimeError, OSError):
                self._observer.unschedule(watch)
            for place, aim in aims.items():
                if any(
                    watched == folder or folder in _above(watched) for watched, _, _ in aim.folders
                ):
                    self._aims[place] = _NOTHING

    def _probe(self) -> None:
        """Ask for one more watch: of a tree, watchdog leaves out without a word what the kernel's
        limit does not allow.

        Raises:
            OSError: the limit is reached.
        """
        assert self._observer is not None
        if self._canary is None:
            try:
                self._canary = os.path.realpath(tempfile.mkdtemp(prefix=".imagen-flow-watch-"))
            except OSError:
                return
        before, self._cage = (
            self._cage,
            os.path.join(self._canary, "1" if self._cage and self._cage.endswith("0") else "0"),
        )
        os.makedirs(self._cage, exist_ok=True)
        self._observer.schedule(self._handler, self._cage, event_filter=_COUNTS)
        # One more, then one less: the other way round there would always be room.
        for watch in [e.watch for e in self._observer.emitters if e.watch.path == before]:
            self._observer.unschedule(watch)
        self._beat_sent, self._beat_due = None, 0.0

    def _lives(self, now: float) -> bool:
        """Whether the observer's threads run and its last heartbeat was heard."""
        observer = self._observer
        if observer is None:
            return True
        if observer.is_alive() and (
            self._beat_sent is None or now - self._beat_sent < _BEAT_LOST_S
        ):
            return True
        self._deaths = [at for at in self._deaths if now - at < _DEATHS_S] + [now]
        if len(self._deaths) >= _DEATHS and not self._poll:
            self._give_up("the observer of the file system died again and again")
        else:
            self._notice("the observer of the file system died: begun anew")
        return False

    def _beat(self, now: float) -> None:
        if self._poll or self._cage is None or self._beat_sent is not None or now < self._beat_due:
            return
        with contextlib.suppress(OSError):
            Path(self._cage, "beat").write_bytes(b"")
            self._beat_sent, self._beat_due = now, now + _BEAT_S


_NOTHING = _Aim((), (), None)


class _Mounts:
    """Knows when the table of mounts has changed: the kernel says so of the open file, even if the
    table reads as before.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._poll: Any = None
        with contextlib.suppress(OSError, AttributeError):
            self._file = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLPRI | select.POLLERR)
            self._poll.poll(0)

    def have_changed(self) -> bool:
        """Whether it has changed since this was last asked."""
        try:
            return self._file is not None and bool(self._poll.poll(0))
        except OSError:
            return False

    def points(self) -> list[str]:
        """Give the places where something is mounted, but for the root."""
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


def _is_mounted(folder: str, points: list[str], *, deep: bool) -> bool:
    """Whether a folder lies on a mount of its own, or (`deep`) holds one."""
    below = folder.rstrip(os.sep) + os.sep
    return any(
        folder == point
        or folder.startswith(point.rstrip(os.sep) + os.sep)
        or (deep and point.startswith(below))
        for point in points
    )


def _aim(place: Path, folders: dict[str, tuple[str, int, int] | None]) -> _Aim:
    """Say what to watch for a place. `folders` remembers, for one look, what each folder is."""
    spelt = os.path.abspath(place)
    real = os.path.realpath(spelt) if os.path.islink(spelt) else spelt
    if found := _folder(real, folders):
        return _Aim((found,), (), found[0])
    watched: list[tuple[str, int, int]] = []
    names: list[str] = []
    for _ in range(40):  # as many links as the kernel follows
        found = _folder(os.path.dirname(spelt), folders)
        if found is None:
            break
        watched.append(found)
        spelt = os.path.join(found[0], os.path.basename(spelt))
        names.append(spelt)
        try:
            spelt = os.path.abspath(os.path.join(found[0], os.readlink(spelt)))
        except OSError:
            break
    return _Aim(tuple(dict.fromkeys(watched)), tuple(names), None)


def _folder(
    path: str, folders: dict[str, tuple[str, int, int] | None]
) -> tuple[str, int, int] | None:
    """Give the real path and identity of a folder, or None if it is none."""
    if path not in folders:
        try:
            real = os.path.realpath(path)
            found = os.stat(real)
            folders[path] = (real, found.st_dev, found.st_ino) if os.path.isdir(real) else None
        except OSError:
            folders[path] = None
    return folders[path]


def _above(folder: str) -> Iterator[str]:
    while (parent := os.path.dirname(folder)) != folder:
        yield parent
        folder = parent


def _said(failed: OSError) -> str:
    """Say why there are no events and, where it is a limit, which."""
    name = {
        errno.ENOSPC: "fs.inotify.max_user_watches",
        errno.EMFILE: "fs.inotify.max_user_instances",
    }.get(failed.errno or 0, "")
    return f"the system sends no events ({failed.strerror or failed})" + (
        f"; raise {name} to have events" if name else ""
    )


def _network(folders: Iterable[str]) -> tuple[str, str] | None:
    """Give the first of these folders that lies on a network file system, and which."""
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
