"""Change the file system: the few operations that a line makes use of, so that a test can stand between and see in which order they come.

What is durable when: bytes after `sync_file`, a name (made, renamed, removed) after `sync_folder` of the folder that it is in. Until then a power cut may take any of it, in any order. A rename is
one change, in one folder or across two: wholly there after a power cut, or not at all, as journaling file systems keep it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = ["Disk", "LocalDisk", "is_of_the_item"]

_BLOCK = 1 << 20


class Disk(Protocol):
    """The operations. All but `copy` and `remove_tree` are one call to the system."""

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file. Its name must be free."""

    def copy(self, source: Path, path: Path) -> None:
        """Write a new file with the bytes and times of another. Its name must be free."""

    def sync_file(self, path: Path) -> None:
        """Wait until a file's bytes are on the disk."""

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file or folder; a file that has the new name goes."""

    def link(self, path: Path, to: Path) -> None:
        """Give a file one more name, which must be free."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name; one that is not there is let be."""

    def mkdir(self, path: Path) -> None:
        """Make a folder; one that is there is let be."""

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all in it."""


class LocalDisk:
    """The operations, as the system offers them."""

    def create(self, path: Path, data: bytes) -> None:
        with open(_new(path), "wb") as stream:
            stream.write(data)

    def copy(self, source: Path, path: Path) -> None:
        with open(source, "rb") as read, open(_new(path), "wb") as stream:
            shutil.copyfileobj(read, stream, _BLOCK)
        found = source.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def sync_file(self, path: Path) -> None:
        _sync(path, os.O_RDWR)

    def sync_folder(self, path: Path) -> None:
        if os.name != "nt":  # where folders cannot be opened, and names are as durable as they get
            _sync(path, os.O_RDONLY)

    def rename(self, path: Path, to: Path) -> None:
        os.replace(path, to)

    def link(self, path: Path, to: Path) -> None:
        os.link(path, to)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


def _new(path: Path) -> int:
    # Not mkstemp: it gives the file to its maker alone, and an output is as open as the umask says.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _synchroniser() -> Callable[[int], None]:
    if sys.platform != "darwin":
        return os.fsync
    import fcntl

    def full(handle: int) -> None:
        # There fsync stops at the drive's cache.
        try:
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        except OSError:
            os.fsync(handle)

    return full


_fsync = _synchroniser()


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode | getattr(os, "O_CLOEXEC", 0))
    try:
        _fsync(handle)
    except OSError as refused:
        # Some file systems know no such thing for folders.
        if refused.errno not in (errno.EINVAL, errno.ENOTSUP) or mode != os.O_RDONLY:
            raise
    finally:
        os.close(handle)


#: Faults that come from an item's own name; all others (no space, no right, a share that is gone) are the line's, and would meet every item.
_OF_THE_ITEM = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ, errno.ENOTEMPTY, errno.ELOOP})


def is_of_the_item(failed: OSError) -> bool:
    """Whether a fault of the file system concerns one item alone, so that the line can go on without it."""
    return failed.errno in _OF_THE_ITEM
