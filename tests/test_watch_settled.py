"""Settled changes: what is reported, what is not, and what happens when the observer fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from watchdog.observers.api import BaseObserver

from imagen_flow._watch import changes, is_temporary, settled

#: How long anything may take on a busy machine.
PATIENCE_S = 60


class Watched:
    """An iteration in a thread of its own."""

    def __init__(self, places: list[Path], **options: Any) -> None:
        self.cancel = threading.Event()
        self.given: Queue[frozenset[Path]] = Queue()
        self.notices: list[str] = []
        options = {"settle_s": 0.02, "poll_s": 0.1, "notice": self.notices.append, **options}
        self.sets = changes(places, cancel=self.cancel, **options)
        self.thread = threading.Thread(target=self.pump)
        self.thread.start()
        assert self.next() == frozenset(places), "the first set is the places themselves"

    def pump(self) -> None:
        for paths in self.sets:
            self.given.put(paths)

    def next(self) -> frozenset[Path]:
        return self.given.get(timeout=PATIENCE_S)

    def until(self, *paths: Path) -> set[Path]:
        """Take sets until all these were told; give all that was."""
        told: set[Path] = set()
        until = time.monotonic() + PATIENCE_S
        while not told >= set(paths):
            try:
                told |= self.given.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                pytest.fail(
                    f"not told of {set(paths) - told}, only of {told}; notices: {self.notices}"
                )
        return told

    def close(self) -> None:
        self.cancel.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


Watch = Callable[..., Watched]


@pytest.fixture(params=["events", "poll"])
def watch(request: pytest.FixtureRequest) -> Iterator[Watch]:
    yield from _watching(poll=request.param == "poll")


@pytest.fixture
def watch_by_events() -> Iterator[Watch]:
    yield from _watching(poll=False)


def _watching(*, poll: bool) -> Iterator[Watch]:
    begun: list[Watched] = []

    def begin(*places: Path, **options: Any) -> Watched:
        begun.append(Watched(list(places), **{"poll": poll, **options}))
        return begun[-1]

    yield begin
    for watched in begun:
        watched.close()


def save(path: Path, text: str) -> None:
    """Save as careful editors do: aside, then rename."""
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(text)
    os.replace(aside, path)


def test_what_happens_in_a_folder_is_told(tmp_path: Path, watch: Watch) -> None:
    """Files that are created, changed, moved and deleted are reported, also in new folders."""
    old = tmp_path / "old"
    old.write_text("1")
    watched = watch(tmp_path)
    (tmp_path / "new").write_text("1")
    watched.until(tmp_path / "new")
    old.write_text("22")
    assert watched.until(old) == {old}
    os.rename(old, tmp_path / "moved")
    watched.until(old, tmp_path / "moved")
    (tmp_path / "moved").unlink()
    assert watched.until(tmp_path / "moved") == {tmp_path / "moved"}
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/deep").write_text("1")
    watched.until(tmp_path / "a/b/c/deep")
    os.rename(tmp_path / "a", tmp_path / "z")
    watched.until(tmp_path / "z/b/c/deep")
    (tmp_path / "z/b/c/deep").write_text("22")
    watched.until(tmp_path / "z/b/c/deep")


def test_paths_are_spelt_as_the_place_was_given(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative watched path gives relative paths, and a link gives paths below the link."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("link").symlink_to("in")
    watched = watch(Path("in"), Path("link"))
    Path("in/x").write_text("1")
    assert watched.until(Path("in/x"), Path("link/x")) == {Path("in/x"), Path("link/x")}


def test_reading_is_no_change(tmp_path: Path, watch: Watch) -> None:
    """Opening, reading and listing report nothing."""
    (tmp_path / "sub").mkdir()
    for name in ("x", "sub/y"):
        (tmp_path / name).write_text("1")
    watched = watch(tmp_path, tmp_path / "x")
    for _ in range(3):
        (tmp_path / "x").read_text()
        (tmp_path / "sub/y").read_bytes()
        list(tmp_path.rglob("*"))
    (tmp_path / "marker").write_text("1")
    assert watched.until(tmp_path / "marker") == {tmp_path / "marker"}


def test_an_atomic_save_is_the_file_alone(tmp_path: Path, watch: Watch) -> None:
    """A file that is saved under another name and renamed is reported under its own name only."""
    graph, other = tmp_path / "graph.yaml", tmp_path / "other"
    graph.write_text("1")
    watched = watch(graph)
    other.write_text("1")
    save(graph, "22")
    assert watched.until(graph) == {graph}
    other.write_text("22")
    save(graph, "333")
    assert watched.until(graph) == {graph}


def test_editors_leave_no_trace(tmp_path: Path, watch_by_events: Watch) -> None:
    """Temporary files of editors are not reported: swap files, backups, write tests."""
    text = tmp_path / "text"
    text.write_text("1")
    watched = watch_by_events(tmp_path)
    (tmp_path / ".text.swp").write_text("swap")
    (tmp_path / "4913").write_text("")
    (tmp_path / "4913").unlink()
    os.rename(text, tmp_path / "text~")
    text.write_text("2")
    (tmp_path / "text~").unlink()
    (tmp_path / "#text#").write_text("auto-save")
    (tmp_path / "text___jb_tmp___").write_text("3")
    os.rename(tmp_path / "text___jb_tmp___", text)
    (tmp_path / "clip.part").write_text("half")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/x.pyc").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index").write_text("")
    (tmp_path / "marker").write_text("1")
    assert watched.until(tmp_path / "marker", text) == {text, tmp_path / "marker"}


def test_a_file_that_is_named_counts_whatever_it_is_called(tmp_path: Path, watch: Watch) -> None:
    """A watched path that is a file counts even if it is hidden or has a temporary name."""
    hidden = tmp_path / ".settings.tmp"
    assert is_temporary(hidden.name)
    watched = watch(hidden)
    hidden.write_text("1")
    watched.until(hidden)


def test_what_changes_together_is_told_together(tmp_path: Path, watch_by_events: Watch) -> None:
    """500 files written at once, as by a checkout, are one set."""
    watched = watch_by_events(tmp_path, settle_s=2.0)
    files = {tmp_path / f"f{i}" for i in range(500)}
    for file in files:
        save(file, "1")
    assert watched.next() == files


def test_a_file_without_rest_holds_up_no_other(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is written continuously, others are reported; the file itself is reported once
    it settles.
    """
    monkeypatch.setattr(settled, "_MAX_SETTLE_S", 0.5)
    busy, quiet = tmp_path / "busy", tmp_path / "quiet"
    watched = watch_by_events(tmp_path, settle_s=0.4)
    stop = threading.Event()

    def write() -> None:
        with open(busy, "w") as stream:
            while not stop.wait(0.01):
                stream.write("x")
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        quiet.write_text("1")
        told = watched.until(quiet)
    finally:
        stop.set()
        writer.join()
    if busy not in told:  # on a stalling machine it may have settled
        watched.until(busy)


def test_a_place_may_come_and_go(tmp_path: Path, watch: Watch) -> None:
    """A watched path that is missing, deleted or created again is reported each time, and watched
    again.
    """
    folder, file = tmp_path / "not/yet", tmp_path / "later/file"
    watched = watch(folder, file)
    folder.mkdir(parents=True)
    watched.until(folder)
    (folder / "x").write_text("1")
    watched.until(folder / "x")
    file.parent.mkdir()
    file.write_text("1")
    watched.until(file)
    os.rename(tmp_path / "not", tmp_path / "gone")
    watched.until(folder)
    os.rename(tmp_path / "gone", tmp_path / "not")
    watched.until(folder)
    (folder / "x").write_text("22")
    watched.until(folder / "x")


def test_a_folder_that_is_replaced_is_watched_anew(tmp_path: Path, watch: Watch) -> None:
    """A folder that replaces another is watched from then on."""
    folder = tmp_path / "in"
    for name in ("in", "other"):
        (tmp_path / name).mkdir()
    watched = watch(folder)
    os.rename(folder, tmp_path / "old")
    os.rename(tmp_path / "other", folder)
    watched.until(folder)
    (folder / "x").write_text("1")
    watched.until(folder / "x")


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    """Mounts an empty file system in memory, in place of the one that it mounted there before."""
    mounted: list[Path] = []

    def on(point: Path) -> None:
        if point in mounted:
            subprocess.run(["umount", "-l", point], check=True)
        elif subprocess.run(
            ["mount", "-t", "tmpfs", "none", point], capture_output=True, check=False
        ).returncode:
            pytest.skip("mounting is not allowed here")
        else:
            mounted.append(point)
            return
        subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)

    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("mounts of Linux")
    yield on
    for point in mounted:
        subprocess.run(["umount", "-l", point], check=False)


@pytest.mark.parametrize("where", ["the place", "above it", "below it"])
def test_what_is_mounted_again_at_once_is_watched_anew(
    tmp_path: Path, watch_by_events: Watch, mount: Callable[[Path], None], where: str
) -> None:
    """A file system that is unmounted and mounted again between two checks has the same device and
    inodes but no watches: it is watched again.
    """
    top = tmp_path / "top"
    place = top / "place"
    point = {"the place": place, "above it": top, "below it": place / "card"}[where]
    place.mkdir(parents=True)
    point.mkdir(exist_ok=True)
    mount(point)
    place.mkdir(exist_ok=True)
    watched = watch_by_events(place)
    for number in range(2):
        mount(point)
        place.mkdir(exist_ok=True)
        file = (point if where == "below it" else place) / f"{number}"
        watched.until(place)
        file.write_text("1")
        watched.until(file)
    assert watched.notices == []


def test_what_lies_on_the_root_is_not_watched_anew() -> None:
    """A change of the mounts affects only paths on a mount of their own, or above one."""
    points = ["/proc", "/mnt/card"]
    assert [
        settled._is_affected_by_mounts(folder, points, deep=deep)
        for folder, deep in (
            ("/mnt/card", False),
            ("/mnt/card/in", True),
            ("/mnt", True),
            ("/mnt", False),
            ("/home/in", True),
            ("/mnt/cards", True),
            ("/", True),
        )
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
        True,
    ]


def test_links_are_followed_to_a_place(tmp_path: Path, watch: Watch) -> None:
    """A file behind links is reported when its content changes and when any of the links leads
    elsewhere.
    """
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "graph.yaml").write_text(release)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "graph.yaml").symlink_to("current/graph.yaml")
    place = tmp_path / "graph.yaml"
    watched = watch(place)
    save(tmp_path / "one/graph.yaml", "changed")
    watched.until(place)
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "current")
    watched.until(place)
    save(tmp_path / "two/graph.yaml", "changed")
    watched.until(place)
    place.unlink()
    place.symlink_to("one/graph.yaml")
    watched.until(place)


def test_links_that_lead_upwards_are_not_followed(tmp_path: Path, watch: Watch) -> None:
    """A link below a folder that leads back to it does no harm."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/up").symlink_to("..")
    watched = watch(tmp_path / "in")
    (tmp_path / "in/x").write_text("1")
    assert watched.until(tmp_path / "in/x") == {tmp_path / "in/x"}


def test_folders_within_may_be_left_out(tmp_path: Path, watch: Watch) -> None:
    """Without `recursive`, sub-folders report nothing; ignored paths report nothing."""
    (tmp_path / "sub").mkdir()
    watched = watch(tmp_path, recursive=False, ignore=lambda path: path.name == "own")
    (tmp_path / "sub/x").write_text("1")
    (tmp_path / "own").write_text("1")
    (tmp_path / "marker").write_text("1")
    assert watched.until(tmp_path / "marker") == {tmp_path / "marker"}


def test_a_file_that_becomes_readable_is_told(tmp_path: Path, watch: Watch) -> None:
    """A change of permissions is reported."""
    file = tmp_path / "x"
    file.write_text("1")
    file.chmod(0)
    watched = watch(file)
    file.chmod(0o600)
    watched.until(file)


def test_folders_made_in_haste_are_watched_in_full(tmp_path: Path, watch_by_events: Watch) -> None:
    """No file is missed in a tree that is written while its folders are created."""
    watched = watch_by_events(tmp_path)
    files = []
    for i in range(60):
        folder = tmp_path / f"a{i}/b/c"
        folder.mkdir(parents=True)
        for j, place in enumerate((folder.parent.parent, folder.parent, folder)):
            files.append(place / f"f{j}")
            files[-1].write_text("1")
    watched.until(*files)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_is_told(tmp_path: Path, watch: Watch, seed: int) -> None:
    """After any mix of writing, moving and deleting files and folders, everything that differs was
    reported: itself or a folder above it.
    """
    dice = random.Random(seed)
    place = tmp_path / "in"
    (place / "a/b").mkdir(parents=True)
    for name in ("a/x", "a/b/y", "z"):
        (place / name).write_text(name)
    before = content(place)
    watched = watch(place)
    for number in range(150):
        here = sorted(place.rglob("*"))
        some = dice.choice(here) if here else place
        into = dice.choice([place, *(p for p in here if p.is_dir())])
        what = dice.choice(
            ("write", "write", "save", "mkdir", "move", "move out", "move in", "remove")
        )
        if what == "write":
            (into / f"f{number}").write_text(str(number))
        elif what == "save" and some.is_file():
            save(some, str(number))
        elif what == "mkdir":
            (into / f"d{number}/e").mkdir(parents=True)
            (into / f"d{number}/e/f").write_text(str(number))
        elif what == "move" and some not in (into, *into.parents):
            os.rename(some, into / f"m{number}")
        elif what == "move out" and some != place:
            os.rename(some, tmp_path / f"out{number}")
        elif what == "move in":
            (tmp_path / f"new{number}/g").mkdir(parents=True)
            (tmp_path / f"new{number}/g/h").write_text(str(number))
            os.rename(tmp_path / f"new{number}", into / f"n{number}")
        elif what == "remove" and some.is_dir() and some != place:
            shutil.rmtree(some)
        elif some.is_file():
            some.unlink()
        if dice.random() < 0.1:
            time.sleep(dice.random() * 0.1)
    (place / "last").write_text("")
    after = content(place)
    told = watched.until(place / "last")
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    until = time.monotonic() + PATIENCE_S
    while missed := {path for path in changed if not told & {path, *path.parents}}:
        assert time.monotonic() < until, missed
        with contextlib.suppress(Empty):
            told |= watched.given.get(timeout=1)


def content(place: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in place.rglob("*") if path.is_file()}


def test_cancel_ends_it_and_leaves_nothing(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting `cancel` ends the iteration, its threads and its own files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "in").mkdir()
    before = set(threading.enumerate())
    watched = watch(tmp_path / "in")
    watched.close()
    left = [t for t in set(threading.enumerate()) - before if t.join(PATIENCE_S) or t.is_alive()]
    assert left == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


# --- when the observer fails

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="about inotify")


def threads(name: str) -> list[Any]:
    return [t for t in threading.enumerate() if type(t).__name__ == name and t.is_alive()]


@only_linux
def test_a_dead_observer_is_begun_anew(tmp_path: Path, watch_by_events: Watch) -> None:
    """If the observer's thread dies, everything is inspected again and watching continues."""
    watched = watch_by_events(tmp_path)
    (tmp_path / "x").write_text("1")
    watched.until(tmp_path / "x")
    observer = next(t for t in threading.enumerate() if isinstance(t, BaseObserver))
    observer.stop()
    watched.until(tmp_path)
    (tmp_path / "x").write_text("22")
    watched.until(tmp_path / "x")
    assert watched.notices == ["the file system observer died: restarted"]


@only_linux
def test_a_silent_observer_is_begun_anew(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the thread that reads the kernel's events dies, which nothing reports, the missing
    heartbeat reveals it.
    """
    monkeypatch.setattr(settled, "_BEAT_S", 0.2)
    monkeypatch.setattr(settled, "_BEAT_LOST_S", 5.0)
    watched = watch_by_events(tmp_path)
    (reader,) = threads("InotifyFD")
    reader.stop()
    watched.until(tmp_path)
    (tmp_path / "x").write_text("1")
    watched.until(tmp_path / "x")


def test_whoever_takes_long_over_a_set_is_no_sign_of_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the iterating thread is busy, a missing heartbeat is not taken for a death; changes
    meanwhile are reported.
    """
    monkeypatch.setattr(settled, "_BEAT_S", 0.1)
    monkeypatch.setattr(settled, "_BEAT_LOST_S", 1.5)
    notices: list[str] = []
    sets = changes([tmp_path], settle_s=0.0, notice=notices.append)
    assert next(sets) == {tmp_path}
    for number in range(3):
        (tmp_path / f"a{number}").write_text("1")
        time.sleep(2.5)
        assert next(sets) == {tmp_path / f"a{number}"}
    sets.close()  # type: ignore[attr-defined]
    assert notices == []


@only_linux
def test_an_observer_that_keeps_dying_gives_way_to_polling(
    tmp_path: Path, watch_by_events: Watch
) -> None:
    """After three deaths in a short time, polling takes over."""
    watched = watch_by_events(tmp_path)
    for _ in range(3):
        observer = next(
            t for t in threading.enumerate() if isinstance(t, BaseObserver) and t.is_alive()
        )
        observer.stop()
        watched.until(tmp_path)
    assert (
        watched.notices[-1]
        == "the file system observer died repeatedly: polling every 0.1 s instead"
    )
    (tmp_path / "x").write_text("1")
    watched.until(tmp_path / "x")


@only_linux
def test_lost_events_are_made_up_for(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel's queue overflows, everything has to be inspected again, once the folders are
    watched anew, and new changes are reported; also in a program that has disabled logging.
    """
    from watchdog.observers.inotify import InotifyWatchGroup

    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("the kernel's queue is too long to fill it")
    place = tmp_path / "in"
    place.mkdir()
    files = [place / "x", place / "y"]
    for file in files:
        file.write_text("1")
    for name in ("watchdog", "watchdog.observers.inotify", "watchdog.observers.inotify_c"):
        # As ``logging.config.dictConfig`` does with all loggers that it does not name.
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    watched = watch_by_events(place)
    early: set[Path] = set()
    true = InotifyWatchGroup._add_all_callbacks

    def watch_anew(group: InotifyWatchGroup, path: bytes) -> None:
        # Nothing is watched now: what is inspected could change unnoticed.
        with contextlib.suppress(Empty):
            while place not in early:
                early.update(watched.given.get(timeout=0.5))
        true(group, path)

    monkeypatch.setattr(InotifyWatchGroup, "_add_all_callbacks", watch_anew)
    (reader,) = threads("InotifyFD")
    with reader._lock:
        for i in range(most + 10_000):
            os.utime(files[i % 2])
    watched.until(place)
    assert place not in early
    (place / "z").write_text("1")
    watched.until(place / "z")


@only_linux
@pytest.mark.parametrize("after", [0, 1, 5])
def test_at_the_limit_of_watches_polling_takes_over(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """If the kernel's limit of watches is reached, for a watched path or its sub-folders, polling
    takes over and names the limit.
    """
    from watchdog.observers import inotify_c

    known: dict[int, bool] = {}
    true = inotify_c.inotify_add_watch

    def add(fd: int, path: bytes, mask: int) -> int:
        if path.startswith(os.fsencode(tmp_path)) or b"imagen-flow-watch" in path:
            descriptor = int(true(fd, path, mask))
            known[descriptor] = True
            if len(known) > after:
                inotify_c.inotify_rm_watch(fd, descriptor)
                ctypes.set_errno(errno.ENOSPC)
                return -1
            return descriptor
        return int(true(fd, path, mask))

    for i in range(10):
        (tmp_path / f"sub{i}").mkdir()
    monkeypatch.setattr(inotify_c, "inotify_add_watch", add)
    watched = watch_by_events(tmp_path)
    assert watched.notices == [
        "the system sends no change events (inotify watch limit reached): polling every 0.1 s instead; raise fs.inotify.max_user_watches to receive events"
    ]
    (tmp_path / "sub9/x").write_text("1")
    watched.until(tmp_path / "sub9/x")


@only_linux
def test_without_an_inotify_instance_polling_takes_over(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel provides no inotify instance, polling takes over at once."""
    from watchdog.observers import inotify_c

    def none() -> int:
        ctypes.set_errno(errno.EMFILE)
        return -1

    monkeypatch.setattr(inotify_c, "inotify_init", none)
    watched = watch_by_events(tmp_path)
    assert watched.notices == [
        "the system sends no change events (inotify instance limit reached): polling every 0.1 s instead; raise fs.inotify.max_user_instances to receive events"
    ]
    (tmp_path / "x").write_text("1")
    watched.until(tmp_path / "x")


@only_linux
def test_on_a_network_file_system_polling_takes_over(
    tmp_path: Path, watch_by_events: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network share sends no events for changes of others, so it is polled."""
    share = tmp_path / "share"
    share.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 20 0:50 / {share} rw - nfs4 server:/x rw\n"
    )
    monkeypatch.setattr(settled, "_MOUNTS", mounts)
    local = watch_by_events(tmp_path, recursive=False)
    assert local.notices == []
    watched = watch_by_events(share)
    assert watched.notices == [
        f"{share} is on a network file system (nfs4), which sends no change events: polling every 0.1 s instead"
    ]
    (share / "x").write_text("1")
    watched.until(share / "x")


def test_places_may_change_on_the_way(tmp_path: Path) -> None:
    """Paths that are followed from now on are watched when `follow` returns, and not reported for
    that; others are no longer reported.
    """
    with settled.Changes(settle_s=0.0) as following:
        told: Queue[frozenset[Path]] = Queue()
        thread = threading.Thread(target=lambda: [told.put(paths) for paths in following])
        thread.start()
        first, second = tmp_path / "first", tmp_path / "second"
        following.follow([first])
        first.write_text("1")
        assert told.get(timeout=PATIENCE_S) == {first}
        following.follow([second])
        second.write_text("1")
        assert told.get(timeout=PATIENCE_S) == {second}
        first.write_text("2")
        second.write_text("2")
        assert told.get(timeout=PATIENCE_S) == {second}
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
