"""A power cut at any instant: what a line does to the disk is recorded, every state that a crash
may leave behind is constructed, and a restart from each must end as if nothing had happened.

The model of the disk: the bytes of a file are durable once it was synced; before that it may be
complete, empty or torn. A name that was created, renamed or removed is durable once its folder was
synced, a rename across folders once both were; before that, any of the changes may have happened or
not, in any order. A commit of the journal is durable. A kill is the state in which nothing is lost.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagen_flow._hotfolder import make_recipe, read_line
from imagen_flow._hotfolder.archive import LineBlocked
from imagen_flow._hotfolder.disk import LocalDisk
from imagen_flow._hotfolder.intake import Intake
from imagen_flow._hotfolder.journal import Journal
from imagen_flow._hotfolder.log import Log
from imagen_flow._hotfolder.publish import sweep
from imagen_flow._hotfolder.recipe import Recipe
from imagen_flow._hotfolder.worker import ItemProcessor
from imagen_flow._plugins.registry import discover
from imagen_flow._store import Store

NODES = '''
"""Toy nodes."""
import os
from imagen_flow import File, List, Text, node

@node("toy.shout", version=1)
def shout(file: File) -> Text:
    """Raise a file's voice."""
    said = file.read_text()
    if "fail" in said:
        raise ValueError("it says so")
    return said.upper()

@node("toy.dice", version=1)
def dice(file: File) -> Text:
    """Give something else each time."""
    return file.read_text() + os.urandom(8).hex()

@node("toy.letters", version=1)
def letters(text: Text) -> List[Text]:
    """Split a text into letters."""
    return list(text)
'''

GRAPH = """\
# Louder, and letter by letter.
imagen_flow: 1
inputs:
  file: {type: file}
  suffix: "!"
nodes:
  loud: {type: toy.shout, file: "${file}"}
  letters: {type: toy.letters, text: "${loud}${suffix}"}
outputs:
  loud: {from: "${loud}", path: "{item}.txt"}
  letters: {from: "${letters}", path: "letters/{item}-{index}.txt", provenance: none, exists: replace}
"""

DICE = """\
# Another text each time, in a file that is named by it.
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  thrown: {type: toy.dice, file: "${file}", cache: false}
outputs:
  thrown: {from: "${thrown}", path: "{item}-{digest8}.txt"}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
input: file
accept: "*.txt"
settle_s: 0
out: ./out
done: ./done
failed: ./failed
"""


@dataclass(frozen=True)
class Change:
    """A change of names: what each path is afterwards (an inode's number, "folder", or None), and
    the folders that must be synced for it to be certain.
    """

    names: tuple[tuple[Path, int | str | None], ...]
    folders: frozenset[Path]


@dataclass
class Recorder:
    """A disk that notes what is done to it, and can fail across folders as two file systems do."""

    apart: tuple[Path, ...] = ()
    result: list[tuple[str, object]] = field(default_factory=list)
    count: int = 0
    inodes: dict[Path, int] = field(default_factory=dict)
    disk: LocalDisk = field(default_factory=LocalDisk)
    #: Called before anything is done.
    before: Callable[[], None] = lambda: None

    def adopt(self, path: Path) -> None:
        """Take a file that is there as certain."""
        self.count += 1
        self.inodes[path] = self.count
        self.result.append(
            ("there", (path, self.count, path.read_bytes(), path.stat().st_mtime_ns))
        )

    def _new(self, path: Path) -> None:
        self.count += 1
        self.inodes[path] = self.count
        self.result.append(("bytes", (self.count, path.read_bytes(), path.stat().st_mtime_ns)))
        self.result.append(("names", Change(((path, self.count),), frozenset({path.parent}))))

    def create(self, path: Path, data: bytes) -> None:
        self.before()
        self.disk.create(path, data)
        self._new(path)

    def copy(self, source: Path, path: Path) -> None:
        self.before()
        self.disk.copy(source, path)
        self._new(path)

    def sync_file(self, path: Path) -> None:
        self.before()
        self.result.append(("sync file", self.inodes[path]))

    def sync_folder(self, path: Path) -> None:
        self.before()
        self.result.append(("sync folder", path))

    def rename(self, path: Path, to: Path) -> None:
        self.before()
        if any(path.is_relative_to(a) != to.is_relative_to(a) for a in self.apart):
            raise OSError(errno.EXDEV, "on another file system", str(path))
        self.disk.rename(path, to)
        self.inodes[to] = self.inodes.pop(path)
        self.result.append(
            (
                "names",
                Change(((path, None), (to, self.inodes[to])), frozenset({path.parent, to.parent})),
            )
        )

    def link(self, path: Path, to: Path) -> None:
        self.before()
        self.disk.link(path, to)
        self.inodes[to] = self.inodes[path]
        self.result.append(("names", Change(((to, self.inodes[to]),), frozenset({to.parent}))))

    def unlink(self, path: Path) -> None:
        self.before()
        if os.path.lexists(path):
            self.disk.unlink(path)
            self.inodes.pop(path, None)
            self.result.append(("names", Change(((path, None),), frozenset({path.parent}))))

    def mkdir(self, path: Path) -> None:
        self.before()
        if not path.is_dir():
            self.disk.mkdir(path)
            self.result.append(("names", Change(((path, "folder"),), frozenset({path.parent}))))

    def remove_tree(self, path: Path) -> None:
        raise AssertionError("no folder is an output here")


class Quick(LocalDisk):
    """A disk that is not waited for."""

    def sync_file(self, path: Path) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


@dataclass
class Model:
    """What a disk may hold after a crash at some point of a record."""

    names: dict[Path, int | str] = field(default_factory=dict)
    data: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    synced: set[int] = field(default_factory=set)
    pending: list[tuple[Change, set[Path]]] = field(default_factory=list)
    journal: bytes = b""

    def take(self, kind: str, what: object) -> None:
        if kind == "there":
            path, number, data, mtime = what  # type: ignore[misc]
            self.names[path] = number
            self.data[number] = (data, mtime)
            self.synced.add(number)
        elif kind == "bytes":
            number, data, mtime = what  # type: ignore[misc]
            self.data[number] = (data, mtime)
        elif kind == "names":
            assert isinstance(what, Change)
            self.pending.append((what, set(what.folders)))
        elif kind == "sync file":
            assert isinstance(what, int)
            self.synced.add(what)
        elif kind == "sync folder":
            assert isinstance(what, Path)
            left = []
            for change, folders in self.pending:
                folders.discard(what)
                if folders:
                    left.append((change, folders))
                else:
                    apply_steps(self.names, change)
            self.pending = left
        elif kind == "journal":
            assert isinstance(what, bytes)
            self.journal = what

    def states(
        self, chance: random.Random, most: int
    ) -> Iterator[tuple[tuple[tuple[Path, bytes | None, int], ...], bytes]]:
        """Give what may be left: paths with their bytes (None: a folder) and times, and the
        journal.
        """
        subsets = list(itertools.product((True, False), repeat=min(len(self.pending), 12)))
        if len(subsets) > most:
            subsets = [subsets[0], subsets[-1], *chance.sample(subsets[1:-1], most - 2)]
        for kept in subsets:
            names = dict(self.names)
            for (change, _), keep in zip(
                self.pending, (*kept, *[True] * len(self.pending)), strict=False
            ):
                if keep:
                    apply_steps(names, change)
            for torn in ("whole", "empty", "half"):
                found = []
                for path, what in sorted(names.items()):
                    if any(
                        names.get(above, "folder") != "folder"
                        or (above not in names and above.name not in TOP)
                        for above in path.parents
                        if above in names or above.name in TOP
                    ):
                        continue
                    if isinstance(what, str):
                        found.append((path, None, 0))
                        continue
                    data, mtime = self.data[what]
                    if what not in self.synced:
                        data = {
                            "whole": data,
                            "empty": b"",
                            "half": data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
                        }[torn]
                    found.append((path, data, mtime))
                yield tuple(found), self.journal


TOP = ("in", "out", "done", "failed")

#: A clock that advances by a second with every call.
SECONDS = itertools.count(1_000_000)


def apply_steps(names: dict[Path, int | str], change: Change) -> None:
    for path, what in change.names:
        if what is None:
            names.pop(path, None)
        else:
            names[path] = what


def work_off(
    recipe: Recipe,
    store: Store,
    disk: object,
    *,
    trace: Callable[[Journal], None] | None = None,
    quick: bool = True,
) -> None:
    """Do all that a line does, in one thread."""
    journal = Journal(recipe.line.journal, clock=lambda: float(next(SECONDS)))
    try:
        if quick:
            journal._db.execute("PRAGMA synchronous=OFF")  # crashes are simulated
        if trace:
            trace(journal)
        journal.register()
        sweep(journal, disk)  # type: ignore[arg-type]
        intake = Intake(recipe.line)
        assert list(intake.orphans(journal)) == []
        processor = ItemProcessor(
            recipe, journal, intake, disk, Log(recipe.line.log, line="test"), lambda _: None, store
        )  # type: ignore[arg-type]
        for _ in range(100):
            journal.record(sorted(intake.walk(), key=lambda s: s.path), settled=True)
            journal.settle(0, intake.inspect, intake.is_ready)
            item = journal.claim("name", kills=3, busy=False)
            if item is not None:
                processor.process(item, threading.Event())
            elif journal.count_active() == 0:
                return
        raise AssertionError("it does not come to an end")
    finally:
        journal.close()


def tree(root: Path) -> dict[str, bytes]:
    """All files of a line but for its own and its graph's."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for top in TOP
        for path in sorted((root / top).rglob("*"))
        if path.is_file()
    }


@dataclass
class Crashes:
    """A line whose work is recorded, and worked off again from each state that a crash may leave."""

    root: Path
    store: Store
    recipe: Recipe
    recorder: Recorder

    def record(self) -> dict[str, bytes]:
        for path in sorted(p for top in TOP for p in (self.root / top).rglob("*")):
            if path.is_dir():
                self.recorder.result.append(("names", Change(((path, "folder"),), frozenset())))
                self.recorder.result.append(("sync folder", path))
            else:
                self.recorder.adopt(path)
        self.recorder.result.append(("ready", None))
        place = self.recipe.line.journal / "journal.sqlite"

        def note() -> None:
            # A separate reader sees only what is committed.
            with sqlite3.connect(f"file:{place}?mode=ro", uri=True) as reader:
                self.recorder.result.append(("journal", reader.serialize()))
            reader.close()

        self.recorder.before = note

        def trace(journal: Journal) -> None:
            journal._db.set_trace_callback(
                lambda words: note() if words.startswith("BEGIN") else None
            )

        work_off(self.recipe, self.store, self.recorder, trace=trace)
        note()
        return tree(self.root)

    def crash(self, check: Callable[[dict[str, bytes]], None], *, seed: int, most: int = 48) -> int:
        """Restart on every state; gives how many there were."""
        chance = random.Random(seed)
        model = Model()
        tried: set[object] = set()
        ready = False
        for kind, what in self.recorder.result:
            model.take(kind, what)
            ready = ready or kind == "ready"
            if not ready or not model.journal:
                continue
            for files, journal in model.states(chance, most):
                if (files, journal) in tried:
                    continue
                tried.add((files, journal))
                self.lay(files, journal)
                before = {
                    path.relative_to(self.root).as_posix(): data
                    for path, data, _ in files
                    if data is not None
                }
                try:
                    work_off(self.recipe, self.store, Quick())
                    check(tree(self.root))
                except BaseException as error:
                    error.add_note(
                        f"after {kind} {what if not isinstance(what, bytes) else ''}, with {before}"
                    )
                    raise
        return len(tried)

    def lay(self, files: tuple[tuple[Path, bytes | None, int], ...], journal: bytes) -> None:
        for top in TOP:
            shutil.rmtree(self.root / top, ignore_errors=True)
            (self.root / top).mkdir()
        shutil.rmtree(self.recipe.line.journal, ignore_errors=True)
        self.recipe.line.journal.mkdir()
        (self.recipe.line.journal / "journal.sqlite").write_bytes(journal)
        for path, data, mtime in files:
            if data is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                os.utime(path, ns=(mtime, mtime))


@pytest.fixture
def crashes(tmp_path: Path) -> Iterator[Callable[..., Crashes]]:
    with_stores: list[Store] = []

    def make(
        *, graph: str = GRAPH, line: str = LINE, files: dict[str, str], apart: tuple[str, ...] = ()
    ) -> Crashes:
        root = tmp_path / "line"
        for top in TOP:
            (root / top).mkdir(parents=True)
        (root / "graph.yaml").write_text(graph)
        (root / "line.yaml").write_text(line)
        (tmp_path / "toys.py").write_text(NODES)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        registry = discover([tmp_path / "toys.py"])
        recipe = make_recipe(read_line(root / "line.yaml"), registry)
        with_stores.append(Store.open(tmp_path / "store", registry.codecs))
        return Crashes(root, with_stores[-1], recipe, Recorder(tuple(root / a for a in apart)))

    yield make
    for store in with_stores:
        store.close()


def without_provenance(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if not name.endswith(".provenance.json")}


FILES = {"in/sub/a.txt": "b", "in/no.txt": "fail"}


def all_is_well(line: Crashes, *, seed: int, most: int) -> int:
    """Record the files of above, and crash."""
    expected = line.record()
    assert without_provenance(expected).keys() == {
        "out/sub/a.txt",
        "out/sub/letters/a-0.txt",
        "out/sub/letters/a-1.txt",
        "done/sub/a.txt",
        "failed/no.txt",
        "failed/no.txt.failed.txt",
    }

    def check(found: dict[str, bytes]) -> None:
        assert found == expected

    return line.crash(check, seed=seed, most=most)


@pytest.mark.parametrize("apart", [(), ("in",)], ids=["one file system", "two file systems"])
def test_power_loss(crashes: Callable[..., Crashes], apart: tuple[str, ...]) -> None:
    """Whatever a power cut leaves behind, a restart ends with the files of an undisturbed run: no
    output or original is missing, duplicated, incomplete or left over.
    """
    assert all_is_well(crashes(files=FILES, apart=apart), seed=1, most=8) > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "apart",
    [(), ("in",), ("in", "failed"), ("out",)],
    ids=["one file system", "in apart", "in and failed apart", "out apart"],
)
@pytest.mark.parametrize("seed", range(2))
def test_power_loss_at_length(
    crashes: Callable[..., Crashes], apart: tuple[str, ...], seed: int
) -> None:
    """The same with more files and outputs and many more orders in which changes can be lost; some
    outputs and originals replace older ones.
    """
    line = crashes(
        graph=GRAPH.replace(", provenance: none", ""),
        files={"in/a.txt": "old", "in/sub/no.txt": "fail"},
        apart=apart,
    )
    work_off(line.recipe, line.store, Quick())
    for name, text in {"in/a.txt": "new", "in/sub/no.txt": "fail"}.items():
        (line.root / name).write_text(text)
    expected = line.record()
    assert {name for name in expected if name.startswith(("done/", "failed/"))} == {
        "done/a.txt",
        "done/a-2.txt",
        "failed/sub/no.txt",
        "failed/sub/no.txt.failed.txt",
        "failed/sub/no-2.txt",
        "failed/sub/no-2.txt.failed.txt",
    }

    def check(found: dict[str, bytes]) -> None:
        assert found == expected

    assert line.crash(check, seed=seed, most=24) > 80


def test_power_loss_with_chance(crashes: Callable[..., Crashes]) -> None:
    """A nondeterministic graph whose output names depend on its results still leaves one output per
    item.
    """
    line = crashes(graph=DICE, files={"in/a.txt": "a"})
    line.record()

    def check(found: dict[str, bytes]) -> None:
        outputs = [name for name in without_provenance(found) if name.startswith("out/")]
        assert len(outputs) == 1
        assert f"{outputs[0]}.provenance.json" in found
        assert {name for name in found if not name.startswith("out/")} == {"done/a.txt"}

    assert line.crash(check, seed=2, most=8) > 15


def test_power_loss_while_replacing(crashes: Callable[..., Crashes]) -> None:
    """An output that replaces an older one is either the old or the new one at any time, and the
    new one in the end; an original whose name is taken gets a number.
    """
    line = crashes(
        graph=GRAPH.replace(
            ', path: "letters/{item}-{index}.txt", provenance: none, exists: replace', ""
        ),
        files={"in/a.txt": "old"},
    )
    work_off(line.recipe, line.store, Quick())
    shutil.rmtree(line.recipe.line.journal)
    (line.root / "in/a.txt").write_text("new one")
    expected = line.record()
    assert (expected["out/a.txt"], expected["done/a.txt"], expected["done/a-2.txt"]) == (
        b"NEW ONE\n",
        b"old",
        b"new one",
    )

    def check(found: dict[str, bytes]) -> None:
        assert found == expected

    assert line.crash(check, seed=3, most=8) > 15


def test_power_loss_with_a_ticket(crashes: Callable[..., Crashes]) -> None:
    """A ticket stays with its original wherever the power is cut."""
    line = crashes(
        line=LINE + "ticket: required\n",
        files={"in/a.txt": "ab", "in/a.yaml": "suffix: '?'"},
        apart=("in",),
    )
    expected = line.record()
    assert without_provenance(expected) == {
        "out/a.txt": b"AB\n",
        "out/letters/a-0.txt": b"A\n",
        "out/letters/a-1.txt": b"B\n",
        "out/letters/a-2.txt": b"?\n",
        "done/a.txt": b"ab",
        "done/a.yaml": b"suffix: '?'",
    }

    def check(found: dict[str, bytes]) -> None:
        assert found == expected

    assert line.crash(check, seed=4, most=5) > 20


@dataclass
class Full(Quick):
    """A disk on which the n-th change fails for want of space, and those after it until it is
    freed.
    """

    left: int = 0

    def _room(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "no space left on device")

    def create(self, path: Path, data: bytes) -> None:
        try:
            self._room()
        except OSError:
            LocalDisk.create(self, path, data[: len(data) // 2])  # as much as there was room for
            raise
        LocalDisk.create(self, path, data)

    def rename(self, path: Path, to: Path) -> None:
        self._room()
        LocalDisk.rename(self, path, to)

    def mkdir(self, path: Path) -> None:
        self._room()
        LocalDisk.mkdir(self, path)


def test_full_disk(crashes: Callable[..., Crashes]) -> None:
    """A full disk fails no item: the line waits, and ends as usual once there is room. Meanwhile,
    no incomplete file is left behind.
    """
    line = crashes(files=FILES)
    work_off(line.recipe, line.store, Quick())
    expected = tree(line.root)
    total = 0
    for room in range(20):
        troubles = 0
        line.lay(tuple((line.root / name, text.encode(), 1) for name, text in FILES.items()), b"")
        disk = Full(room)
        while True:
            try:
                work_off(line.recipe, line.store, disk)
                break
            except LineBlocked as trouble:
                assert "no space left" in str(trouble)
                assert not [
                    name
                    for name in tree(line.root)
                    if name.startswith(("out/", "failed/"))
                    and name.removeprefix("out/")
                    and name not in expected
                    and ".imagen_flow-" not in name
                ]
                troubles += 1
                disk.left = 4 * troubles  # free ever more, so that it ends
        assert tree(line.root) == expected
        total += troubles
    assert total > 20
