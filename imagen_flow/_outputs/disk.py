"""Change files of the output folder, so that each is complete or absent.

A file is written under a temporary name in its own folder, flushed to the disk and renamed. After a
power cut its name never leads to half a file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from .._provenance.embedding import walk_files
from .._system.processes import temporary_name
from .._types.models import Model
from .._types.values import Folder

__all__ = ["DiskChanges", "ImmediateChanges", "files_of"]


class DiskChanges(Protocol):
    """How an OutputWriter changes the disk. `ImmediateChanges` is the usual way; a hot folder
    defers the changes that make outputs visible until its journal has recorded them.
    """

    def conflict(self, path: Path) -> str:
        """Say why a path must not be written, if it belongs to something else."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents; an existing one is left alone."""

    def put(self, path: Path, data: bytes) -> None:
        """Write a complete file, replacing an older one."""

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        """Write a complete folder, replacing an older one."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def record_failure(self, error: OSError) -> None:
        """Note a file system error that prevented an output."""


class ImmediateChanges:
    """Changes the disk at once."""

    def conflict(self, path: Path) -> str:
        return ""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, data: bytes) -> None:
        _replace_file(path, data)

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        _replace_folder(path, value)

    def remove(self, path: Path) -> None:
        path.unlink()

    def record_failure(self, error: OSError) -> None:
        pass


def _replace_file(path: Path, data: bytes) -> None:
    """Write a complete file: under a temporary name beside it, flushed, then renamed."""
    temporary = temporary_name()
    with _open_folder(path.parent) as (folder, at):
        # Not mkstemp: its files are private to their owner, while outputs follow the umask.
        handle = os.open(
            folder + temporary,
            os.O_WRONLY
            | os.O_CREAT
            | os.O_EXCL
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_BINARY", 0),
            0o666,
            dir_fd=at,
        )
        try:
            with open(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                # Without this a power cut may leave the new name with an empty file. The folder is
                # not flushed: then the old file, which is complete too, remains.
                os.fsync(stream.fileno())
            os.replace(folder + temporary, folder + path.name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(folder + temporary, dir_fd=at)
            raise


@contextmanager
def _open_folder(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Open a folder by its real path, so that no link that is later put into that path is followed.
    Yields the prefix of names in the folder, and the descriptor that they are relative to.
    """
    if not hasattr(os, "O_PATH"):
        yield f"{folder}{os.sep}", None
        return
    how = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(folder.anchor, how)
    try:
        for name in folder.parts[1:]:
            inner = os.open(name, how, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield "", handle
    finally:
        os.close(handle)


def files_of(value: Folder | Model) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder or model by relative name with ``/``."""
    if isinstance(value, Folder):
        yield from ((f.name, f.path) for f in value.files)
    elif value.path.is_dir():
        yield from walk_files(value.path)
    else:
        yield value.path.name, value.path


def _replace_folder(path: Path, value: Folder | Model) -> None:
    """Write a complete folder; the old one is removed once the new one is in place."""
    with _open_folder(path.parent) as (_, at):
        folder = path.parent if at is None else Path(f"/proc/self/fd/{at}")
        if not folder.is_dir():  # there is no /proc
            folder = path.parent
        _build_folder(folder, path.name, value)


def _build_folder(folder: Path, name: str, value: Folder | Model) -> None:
    path = folder / name
    temporary = folder / temporary_name()
    old = folder / temporary_name(".old")
    try:
        temporary.mkdir()
        for inner, source in files_of(value):
            parts = inner.split("/")
            if any(
                part in ("", ".", "..") or "\\" in part or (":" in part and os.name == "nt")
                for part in parts
            ):
                raise OSError(errno.EINVAL, f"a file in it is named '{inner}'", name)
            target = temporary.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if os.path.lexists(path):
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            if os.path.lexists(old):
                os.rename(old, path)
            raise
    finally:
        for leftover in (temporary, old):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
