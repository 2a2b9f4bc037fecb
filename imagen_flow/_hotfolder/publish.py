"""Publish outputs and archive originals, in an order that allows recovery from any interruption.

All outputs of an item are first written under temporary names in their final folders
(`StagedOutputs`). Then their bytes are synced, then the folders; then the journal records the
remaining renames (`placing`); then these are carried out and the folders synced; then the journal
records that (`placed`); then the original is moved. Temporary files that no journal mentions are
deleted.

If `done` is on the same file system, the original is moved by one rename. Otherwise it is first
renamed to a hidden name in its own folder, so that nobody replaces it, then copied under a
temporary name, synced, renamed, and finally unlinked. After either rename it is checked again: if
it was replaced at that very moment, the newer file is moved back.
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

from .._outputs.disk import files_of
from .._system.regular_files import open_regular
from .._types.models import Model
from .._types.values import Folder
from .disk import Disk, MountGuard, find_disk_error, name_exists
from .intake import TEMPORARY_PREFIX
from .journal import Journal, JournalError

__all__ = [
    "StagedOutputs",
    "apply_steps",
    "free_name",
    "steps_are_intact",
    "move_original",
    "write_text",
    "sweep",
]

#: The maximum length of a name in bytes, so that a number and the endings of tickets and reasons
#: can be appended.
_MAX_NAME_BYTES = 200

_temporary_numbers = itertools.count(1)


def _temporary(folder: Path, token: str, ending: str = ".tmp") -> Path:
    return folder / f"{TEMPORARY_PREFIX}{token}-{next(_temporary_numbers)}{ending}"


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class StagedOutputs:
    """The file operations of an output writer that postpones publishing. After the run, `seal`
    returns the remaining steps, or `discard` removes everything.

    Params:
        root: the output folder, which exists. If it disappears, the line waits; it is not
            recreated.
        mounted: knows where it was mounted.
        source: the path of the item that the outputs belong to.
        twin: returns an existing file to link to, with the content of a temporary file; or None.
    """

    def __init__(
        self,
        root: Path,
        mounted: MountGuard,
        disk: Disk,
        journal: Journal,
        source: str,
        *,
        twin: Callable[[Path, bytes], Path | None] | None = None,
    ) -> None:
        self.root = root
        self.steps: list[dict[str, Any]] = []
        #: The first error of the file system, which decides whether the line or the item is
        #: affected, and the first of the journal, which never concerns an item.
        self.trouble: OSError | None = None
        self.fault: JournalError | None = None
        self._mounted = mounted
        self._disk = disk
        self._journal = journal
        self._source = source
        self._twin = twin
        #: Whose each name was that was free to be written, by the name in the journal.
        self._owners: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def name(self, path: Path) -> str:
        """Return the name of an output in the journal: its path below the output folder."""
        folder, root = os.path.realpath(path.parent), os.path.realpath(self.root)
        return (
            os.path.join(os.path.relpath(folder, root), path.name)
            .removeprefix("." + os.sep)
            .replace(os.sep, "/")
        )

    def conflict(self, path: Path) -> str:
        name = self.name(path)
        if any(step["to"] == str(path) for step in self.steps):
            return "another output of this item has this path"
        with self._record_journal_error():
            owner = self._journal.output_owner(name)
        self._owners[name] = owner and owner[0]
        if owner is None or owner[0] == self._source or not (owner[1] or os.path.lexists(path)):
            return ""
        return f"it is an output of another file: {owner[0]}"

    def names_were_taken(self) -> bool:
        """Tell whether another item took one of the names since they were chosen. Call it in the
        transaction that records them.
        """
        return any(
            (owner := self._journal.output_owner(name)) is not None
            and owner[0] not in (before, self._source)
            for name, before in self._owners.items()
        )

    def make_folder(self, path: Path) -> None:
        try:
            if path == self.root:
                self._mounted.check(path)
                if not path.is_dir():
                    raise FileNotFoundError(errno.ENOENT, "the output folder is missing", str(path))
            elif not path.is_dir():
                self._disk.mkdir(path)
                self._disk.sync_folder(path.parent)
        except OSError as error:
            self._record_and_raise(error)

    def put(self, path: Path, data: bytes) -> None:
        temporary = _temporary(path.parent, self._journal.token)
        with self._record_journal_error():
            self._journal.add_temporary_folder(path.parent)
        try:
            self._disk.create(temporary, data)
            twin = self._twin(temporary, data) if self._twin else None
            if twin is not None:
                self._disk.unlink(temporary)
                self._disk.link(twin, temporary)
                data = temporary.read_bytes()
            self._disk.sync_file(temporary)
        except OSError as error:
            _remove_temporary({"do": "put", "temporary": str(temporary)}, self._disk)
            self._record_and_raise(error)
        self._add(
            {"do": "put", "temporary": str(temporary), "to": str(path), "digest": _digest(data)}
        )

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        temporary = _temporary(path.parent, self._journal.token)
        with self._record_journal_error():
            self._journal.add_temporary_folder(path.parent)
        try:
            self._disk.mkdir(temporary)
            created = {temporary}
            for name, source in files_of(value):
                target = temporary.joinpath(*name.split("/"))
                for folder in reversed([p for p in target.parents if p.is_relative_to(temporary)]):
                    if folder not in created:
                        self._disk.mkdir(folder)
                        created.add(folder)
                self._disk.copy(source, target)
                self._disk.sync_file(target)
            for folder in created:
                self._disk.sync_folder(folder)
        except OSError as error:
            _remove_temporary({"do": "folder", "temporary": str(temporary)}, self._disk)
            self._record_and_raise(error)
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
    def _record_journal_error(self) -> Iterator[None]:
        try:
            yield
        except JournalError as error:
            self.fault = self.fault or error
            raise

    def record_failure(self, error: OSError) -> None:
        if find_disk_error(error, network=True):
            self.trouble = self.trouble or error

    def _add(self, step: dict[str, Any]) -> None:
        with self._lock:
            self.steps.append(step)

    def _record_and_raise(self, error: OSError) -> None:
        self.trouble = self.trouble or error
        raise error

    def seal(self) -> list[dict[str, Any]]:
        """Make everything that was written durable, including the temporary names, and return the
        remaining steps.
        """
        for folder in sorted({Path(step["to"]).parent for step in self.steps}):
            self._disk.sync_folder(folder)
        return self.steps

    def discard(self) -> None:
        for step in self.steps:
            _remove_temporary(step, self._disk)


def _remove_temporary(step: dict[str, Any], disk: Disk) -> None:
    # On a disk that has become read-only, even the removal of a missing file fails. Leftovers are
    # deleted later, by `sweep`.
    with contextlib.suppress(OSError):
        if step["do"] == "folder":
            disk.remove_tree(Path(step["temporary"]))
        elif step["do"] == "put":
            disk.unlink(Path(step["temporary"]))


def steps_are_intact(steps: list[dict[str, Any]]) -> bool:
    """Return whether each step can still be carried out or has been: nobody else has changed its
    files.

    Raises:
        OSError: the disk does not respond.
    """
    for step in steps:
        if step["do"] == "remove" or name_exists(Path(step["temporary"])):
            continue
        to = Path(step["to"])
        try:
            if step["do"] == "put":
                with open_regular(to) as stream:
                    if _digest(stream.read()) != step["digest"]:
                        return False
            if step["do"] == "folder" and not to.is_dir():
                return False
        except OSError as error:
            if find_disk_error(error, network=True):
                raise
            return False
    return True


def apply_steps(steps: list[dict[str, Any]], disk: Disk) -> None:
    """Carry out the remaining steps. Some of them may have been carried out before."""
    for step in steps:
        to = Path(step["to"])
        if step["do"] == "remove":
            disk.unlink(to)
        elif name_exists(Path(step["temporary"])):
            if step["do"] == "folder" and name_exists(to):
                disk.rename(to, Path(step["old"]))
            disk.rename(Path(step["temporary"]), to)
    for folder in sorted({Path(step["to"]).parent for step in steps}):
        disk.sync_folder(folder)
    for step in steps:
        if step["do"] == "folder" and name_exists(Path(step["old"])):
            disk.remove_tree(Path(step["old"]))


def sweep(journal: Journal, disk: Disk) -> int:
    """Delete temporary files of dead workers that no journal mentions. Returns their number."""
    pending = {step["temporary"] for step in journal.pending_steps() if "temporary" in step}
    count = 0
    for folder in journal.temporary_folders():
        try:
            names = [
                e.name
                for e in os.scandir(folder)
                if e.name.startswith(TEMPORARY_PREFIX) and e.name.endswith((".tmp", ".old"))
            ]
        except OSError:
            continue
        for name in names:
            token, dash, _ = name.removeprefix(TEMPORARY_PREFIX).partition("-")
            path = folder / name
            if not dash or str(path) in pending or journal.is_alive(token):
                continue
            with contextlib.suppress(OSError):  # deleted another time
                if path.is_dir() and not path.is_symlink():
                    disk.remove_tree(path)
                else:
                    disk.unlink(path)
                count += 1
    return count


# -- originals


def free_name(
    folder: Path, path: str, endings: list[str], is_reserved: Callable[[str], bool]
) -> str:
    """Return a name for an original below `folder`, the same or with a number, such that neither it
    nor its companions (with these `endings`) replace anything.
    """
    head, slash, name = path.rpartition("/")
    stem, ending = os.path.splitext(name)
    max_bytes = _MAX_NAME_BYTES - len(os.fsencode(ending))
    if len(os.fsencode(stem)) > max_bytes:
        # Cut between characters; the digest keeps it apart from other names with the same start.
        digest = blake2b(os.fsencode(stem), digest_size=4).hexdigest()
        stem = f"{os.fsencode(stem)[: max_bytes - 9].decode(errors='ignore')}-{digest}"
    for number in itertools.count(1):
        candidate = f"{head}{slash}{stem}{'' if number == 1 else f'-{number}'}{ending}"
        if not is_reserved(candidate) and not any(
            name_exists(folder / f"{candidate}{suffix}") for suffix in ("", *endings)
        ):
            return candidate
    raise AssertionError


def make_parents(folder: Path, name: str, disk: Disk) -> None:
    """Create the folders that a name below an existing folder needs.

    Raises:
        FileNotFoundError: the folder itself is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder is missing", str(folder))
    path = folder
    for part in name.split("/")[:-1]:
        path = path / part
        if not path.is_dir():
            disk.mkdir(path)
            disk.sync_folder(path.parent)


def write_text(path: Path, text: str, disk: Disk, journal: Journal) -> None:
    """Write a text file atomically and durably."""
    temporary = _temporary(path.parent, journal.token)
    journal.add_temporary_folder(path.parent)
    try:
        disk.create(temporary, text.encode("utf-8", "backslashreplace"))
        disk.sync_file(temporary)
        disk.rename(temporary, path)
    except OSError:
        _remove_temporary({"do": "put", "temporary": str(temporary)}, disk)
        raise
    disk.sync_folder(path.parent)


def move_original(
    source: Path,
    target: Path,
    *,
    number: int,
    is_original: Callable[[Path], bool],
    has_content: Callable[[Path], bool],
    disk: Disk,
    journal: Journal,
) -> str:
    """Move an original, even if that was begun before. The target folder exists.

    Params:
        number: the item's id, which identifies the file while it is being moved.
        is_original: whether a file is the version of the original that was processed.
        has_content: whether a file has its content.

    Returns:
        ``moved``; ``replaced``: another file is in its place, and stays there; ``gone``: it does
            not
        exist; ``taken``: the target name is in use.
    """
    # In its own folder and with its ending, so that people can tell what it is.
    ending = source.suffix if len(os.fsencode(source.suffix)) < 100 else ""
    hidden = source.with_name(f"{TEMPORARY_PREFIX}{journal.name}-{number}.taken{ending}")
    is_copied = has_content(target)
    if name_exists(hidden):
        if not is_copied:
            if name_exists(target):
                return "taken"
            _copy(hidden, target, disk, journal)
        disk.unlink(hidden)
        disk.sync_folder(source.parent)
        return "moved"
    if is_copied:
        return "moved"
    is_link = source.is_symlink()
    if not name_exists(source):
        return "moved" if target.is_symlink() else "gone"
    if not is_original(source):
        return "replaced"
    if name_exists(target):
        return "taken"
    try:
        disk.rename(source, target)
        if not is_link and not is_original(target):
            _move_back(target, source, disk)
            return "replaced"
        disk.sync_folder(target.parent)
        disk.sync_folder(source.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        disk.rename(source, hidden)
        if not is_link and not is_original(hidden):
            _move_back(hidden, source, disk)
            return "replaced"
        # Make the rename durable before the copy: otherwise both could exist after a power cut.
        disk.sync_folder(source.parent)
        _copy(hidden, target, disk, journal)
        disk.unlink(hidden)
        disk.sync_folder(source.parent)
    return "moved"


def _copy(source: Path, target: Path, disk: Disk, journal: Journal) -> None:
    temporary = _temporary(target.parent, journal.token)
    journal.add_temporary_folder(target.parent)
    try:
        disk.copy(source, temporary)
        disk.sync_file(temporary)
        disk.rename(temporary, target)
    except OSError:
        _remove_temporary({"do": "put", "temporary": str(temporary)}, disk)
        raise
    disk.sync_folder(target.parent)


def _move_back(path: Path, source: Path, disk: Disk) -> None:
    """Move a file back that was moved by mistake, numbered if its old name is in use by now."""
    stem, ending = os.path.splitext(source.name)
    for count in itertools.count(1):
        target = source if count == 1 else source.with_name(f"{stem}-{count}{ending}")
        if not name_exists(target):
            disk.rename(path, target)
            disk.sync_folder(source.parent)
            return
