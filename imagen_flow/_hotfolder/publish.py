"""Put outputs in place, and originals away: in an order in which whatever is lost on the way can be
told afterwards.

An output is written under a temporary name in the folder that it will be in (`Staged`), and so is
every other of the item. Then: their bytes are synced, then those folders, then the journal notes
all renames that are left
(`placing`), then they are carried out and the folders synced, then the journal notes that
(`placed`), then the original moves. A temporary file that no journal speaks of is swept away.

The original is moved by one rename where `done` is on the same file system. Elsewhere it is first
renamed to a hidden name in its own folder, so that nobody replaces it any more, then copied under a
temporary name, synced,
renamed, and unlinked last. After either rename it is looked at again: if it was replaced in that
very moment, the newer file goes back to where it was dropped.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .._outputs.writer import files_of
from .._system.regular_files import open_regular
from .._types.values import Folder, Model
from .disk import Disk, Mounted, affects_every_item, is_there
from .intake import OURS
from .journal import Journal, JournalError

__all__ = ["Staged", "apply", "free_name", "is_applied", "move", "put_text", "sweep"]

#: How many bytes of a name are ours to fill, so that a number, a ticket's ending and that of a
#: reason still fit.
_NAME = 200

_count = itertools.count(1)


def _temporary(folder: Path, token: str, ending: str = ".tmp") -> Path:
    return folder / f"{OURS}{token}-{next(_count)}{ending}"


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class Staged:
    """The hands of a Writer that puts off what makes its outputs seen. After the run `seal` gives
    what is left to do, or `discard` removes all traces.

    Params:
        root: the output folder, which is there; that it has vanished is the line's trouble, not
            something to mend by making it again.
        mounted: what it is mounted on.
        source: whose outputs they are: the item's path.
        twin: gives a file that has what was written (to a temporary name, and in bytes) already and
            may be linked to, or None.
    """

    def __init__(
        self,
        root: Path,
        mounted: Mounted,
        disk: Disk,
        journal: Journal,
        source: str,
        *,
        twin: Callable[[Path, bytes], Path | None] | None = None,
    ) -> None:
        self.root = root
        self.steps: list[dict[str, Any]] = []
        #: The first fault of the file system, which tells the line's troubles from an item's, and
        #: the first of the journal, which is never an item's.
        self.trouble: OSError | None = None
        self.fault: JournalError | None = None
        self._mounted = mounted
        self._disk = disk
        self._journal = journal
        self._source = source
        self._twin = twin
        self._lock = threading.Lock()

    def name(self, path: Path) -> str:
        """What the journal calls an output: its path below the output folder."""
        real, root = os.path.realpath(path.parent), os.path.realpath(self.root)
        return (
            os.path.join(os.path.relpath(real, root), path.name)
            .removeprefix("." + os.sep)
            .replace(os.sep, "/")
        )

    def taken(self, path: Path) -> str:
        name = self.name(path)
        if any(step["to"] == str(path) for step in self.steps):
            return "another output of this item goes there"
        with self._journaling():
            owner = self._journal.owner_of(name)
        if owner is None or owner[0] == self._source or not (owner[1] or os.path.lexists(path)):
            return ""
        return f"it is an output of another file, {owner[0]}"

    def make_folder(self, path: Path) -> None:
        try:
            if path == self.root:
                self._mounted.check(path)
                if not path.is_dir():
                    raise FileNotFoundError(
                        errno.ENOENT, "the folder for outputs is gone", str(path)
                    )
            elif not path.is_dir():
                self._disk.mkdir(path)
                self._disk.sync_folder(path.parent)
        except OSError as failed:
            self._note(failed)

    def put(self, path: Path, data: bytes) -> None:
        temporary = _temporary(path.parent, self._journal.token)
        with self._journaling():
            self._journal.touch(path.parent)
        try:
            self._disk.create(temporary, data)
            twin = self._twin(temporary, data) if self._twin else None
            if twin is not None:
                self._disk.unlink(temporary)
                self._disk.link(twin, temporary)
                data = temporary.read_bytes()
            self._disk.sync_file(temporary)
        except OSError as failed:
            _drop({"do": "put", "temporary": str(temporary)}, self._disk)
            self._note(failed)
        self._add(
            {"do": "put", "temporary": str(temporary), "to": str(path), "digest": _digest(data)}
        )

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        temporary = _temporary(path.parent, self._journal.token)
        with self._journaling():
            self._journal.touch(path.parent)
        try:
            self._disk.mkdir(temporary)
            made = {temporary}
            for name, source in files_of(value):
                place = temporary.joinpath(*name.split("/"))
                for folder in reversed([p for p in place.parents if p.is_relative_to(temporary)]):
                    if folder not in made:
                        self._disk.mkdir(folder)
                        made.add(folder)
                self._disk.copy(source, place)
                self._disk.sync_file(place)
            for folder in made:
                self._disk.sync_folder(folder)
        except OSError as failed:
            _drop({"do": "folder", "temporary": str(temporary)}, self._disk)
            self._note(failed)
        self._add(
            {
                "do": "folder",
                "temporary": str(temporary),
                "to": str(path),
                "old": str(_temporary(path.parent, self._journal.token, ".old")),
            }
        )

    def remove(self, path: Path) -> None:
        self._add({"do": "remove", "to": str(path)})

    @contextlib.contextmanager
    def _journaling(self) -> Iterator[None]:
        try:
            yield
        except JournalError as failed:
            self.fault = self.fault or failed
            raise

    def refuse(self, failed: OSError) -> None:
        if affects_every_item(failed, network=True):
            self.trouble = self.trouble or failed

    def _add(self, step: dict[str, Any]) -> None:
        with self._lock:
            self.steps.append(step)

    def _note(self, failed: OSError) -> None:
        self.trouble = self.trouble or failed
        raise failed

    def seal(self) -> list[dict[str, Any]]:
        """Make what was written durable, temporary names and all."""
        for folder in sorted({Path(step["to"]).parent for step in self.steps}):
            self._disk.sync_folder(folder)
        return self.steps

    def discard(self) -> None:
        for step in self.steps:
            _drop(step, self._disk)


def _drop(step: dict[str, Any], disk: Disk) -> None:
    # On a disk that has become read-only even the removal of a file that is not there is refused.
    # What is left is swept away later.
    with contextlib.suppress(OSError):
        if step["do"] == "folder":
            disk.remove_tree(Path(step["temporary"]))
        elif step["do"] == "put":
            disk.unlink(Path(step["temporary"]))


def is_applied(steps: list[dict[str, Any]]) -> bool:
    """Whether each step can still be carried out, or has been: nobody else has been at its files.

    Raises:
        OSError: the disk does not answer.
    """
    for step in steps:
        if step["do"] == "remove" or is_there(Path(step["temporary"])):
            continue
        to = Path(step["to"])
        try:
            if step["do"] == "put":
                with open_regular(to) as stream:
                    if _digest(stream.read()) != step["digest"]:
                        return False
            if step["do"] == "folder" and not to.is_dir():
                return False
        except OSError as failed:
            if affects_every_item(failed, network=True):
                raise
            return False
    return True


def apply(steps: list[dict[str, Any]], disk: Disk) -> None:
    """Carry out what is left to do, also if part of it has been done already."""
    for step in steps:
        to = Path(step["to"])
        if step["do"] == "remove":
            disk.unlink(to)
        elif is_there(Path(step["temporary"])):
            if step["do"] == "folder" and is_there(to):
                disk.rename(to, Path(step["old"]))
            disk.rename(Path(step["temporary"]), to)
    for folder in sorted({Path(step["to"]).parent for step in steps}):
        disk.sync_folder(folder)
    for step in steps:
        if step["do"] == "folder" and is_there(Path(step["old"])):
            disk.remove_tree(Path(step["old"]))


def sweep(journal: Journal, disk: Disk) -> int:
    """Remove temporary files of dead workers that no journal speaks of. Gives how many there were."""
    kept = {step["temporary"] for step in journal.left_to_do() if "temporary" in step}
    count = 0
    for folder in journal.touched():
        try:
            names = [
                e.name
                for e in os.scandir(folder)
                if e.name.startswith(OURS) and e.name.endswith((".tmp", ".old"))
            ]
        except OSError:
            continue
        for name in names:
            token, dash, _ = name.removeprefix(OURS).partition("-")
            place = folder / name
            if not dash or str(place) in kept or journal.lives(token):
                continue
            with contextlib.suppress(OSError):  # refused now, it is swept away another time
                if place.is_dir() and not place.is_symlink():
                    disk.remove_tree(place)
                else:
                    disk.unlink(place)
                count += 1
    return count


# -- originals


def free_name(folder: Path, path: str, endings: list[str], is_kept: Callable[[str], bool]) -> str:
    """Give a name below `folder` for an original, the same or with a number, that neither it nor
    what goes with it (`endings` of its name) would take from something else.
    """
    head, slash, name = path.rpartition("/")
    stem, ending = os.path.splitext(name)
    room = _NAME - len(os.fsencode(ending))
    if len(os.fsencode(stem)) > room:
        # Cut between characters, and told from what is cut alike.
        mark = blake2b(os.fsencode(stem), digest_size=4).hexdigest()
        stem = f"{os.fsencode(stem)[: room - 9].decode(errors='ignore')}-{mark}"
    for number in itertools.count(1):
        called = f"{head}{slash}{stem}{'' if number == 1 else f'-{number}'}{ending}"
        if not is_kept(called) and not any(
            is_there(folder / f"{called}{more}") for more in ("", *endings)
        ):
            return called
    raise AssertionError


def make_below(folder: Path, name: str, disk: Disk) -> None:
    """Make the folders on the way to a name below a folder that is there.

    Raises:
        FileNotFoundError: the folder itself is gone.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder is gone", str(folder))
    here = folder
    for part in name.split("/")[:-1]:
        here = here / part
        if not here.is_dir():
            disk.mkdir(here)
            disk.sync_folder(here.parent)


def put_text(place: Path, text: str, disk: Disk, journal: Journal) -> None:
    """Put a text in place whole and durably."""
    temporary = _temporary(place.parent, journal.token)
    journal.touch(place.parent)
    try:
        disk.create(temporary, text.encode("utf-8", "backslashreplace"))
        disk.sync_file(temporary)
        disk.rename(temporary, place)
    except OSError:
        _drop({"do": "put", "temporary": str(temporary)}, disk)
        raise
    disk.sync_folder(place.parent)


def move(
    source: Path,
    to: Path,
    *,
    number: int,
    is_same: Callable[[Path], bool],
    holds: Callable[[Path], bool],
    disk: Disk,
    journal: Journal,
) -> str:
    """Move an original, also if part of that has been done already. The folder that it goes to is
    there.

    Params:
        number: the item's, which names it while it is on its way.
        is_same: whether a file is the item's original, in the form that was worked on.
        holds: whether a file has its content.

    Returns:
        ``moved``; ``replaced``: another file is in its place, and stays there; ``gone``: it is
        nowhere; ``taken``: something else is where it was to go.
    """
    # In its own folder, with its ending, so that whoever finds it knows what it is.
    away = source.with_name(
        f"{OURS}{journal.name}-{number}.taken{source.suffix if len(os.fsencode(source.suffix)) < 100 else ''}"
    )
    there = holds(to)
    if is_there(away):
        if not there:
            if is_there(to):
                return "taken"
            _copy(away, to, disk, journal)
        disk.unlink(away)
        disk.sync_folder(source.parent)
        return "moved"
    if there:
        return "moved"
    linked = source.is_symlink()
    if not is_there(source):
        return "moved" if to.is_symlink() else "gone"
    if not is_same(source):
        return "replaced"
    if is_there(to):
        return "taken"
    try:
        disk.rename(source, to)
        if not linked and not is_same(to):
            _put_back(to, source, disk)
            return "replaced"
        disk.sync_folder(to.parent)
        disk.sync_folder(source.parent)
    except OSError as failed:
        if failed.errno != errno.EXDEV:
            raise
        disk.rename(source, away)
        if not linked and not is_same(away):
            _put_back(away, source, disk)
            return "replaced"
        # Durable before the copy is: else both could be found after a power cut.
        disk.sync_folder(source.parent)
        _copy(away, to, disk, journal)
        disk.unlink(away)
        disk.sync_folder(source.parent)
    return "moved"


def _copy(away: Path, to: Path, disk: Disk, journal: Journal) -> None:
    temporary = _temporary(to.parent, journal.token)
    journal.touch(to.parent)
    try:
        disk.copy(away, temporary)
        disk.sync_file(temporary)
        disk.rename(temporary, to)
    except OSError:
        _drop({"do": "put", "temporary": str(temporary)}, disk)
        raise
    disk.sync_folder(to.parent)


def _put_back(place: Path, source: Path, disk: Disk) -> None:
    """Put a file back that came along by mistake; what is in its old place by now stays, and it
    gets a number.
    """
    stem, ending = os.path.splitext(source.name)
    for count in itertools.count(1):
        back = source if count == 1 else source.with_name(f"{stem}-{count}{ending}")
        if not is_there(back):
            disk.rename(place, back)
            disk.sync_folder(source.parent)
            return
