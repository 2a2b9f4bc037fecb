"""Change the file system: the few operations that a line makes use of, so that a test can stand
between and see in which order they come.

What is durable when: bytes after `sync_file`, a name (made, renamed, removed) after `sync_folder`
    of the folder that it is in. Until then a power cut may take any of it, in any order. A rename
    is
one change, in one folder or across two: wholly there after a power cut, or not at all, as
    journaling file systems keep it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = [
    "Disk",
    "LocalDisk",
    "Mounted",
    "affects_every_item",
    "is_of_the_item",
    "is_there",
    "may_pass",
]

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
        with contextlib.suppress(
            OSError, OverflowError
        ):  # not every file system has room for every time
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
    return os.open(
        path,
        os.O_WRONLY
        | os.O_CREAT
        | os.O_EXCL
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
        0o666,
    )


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


#: Errors that come from an item's own name; all others (no space, no permission, a share that is
#: gone) would meet every item.
_OF_THE_ITEM = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.EINVAL,
        errno.EILSEQ,
        errno.ENOTEMPTY,
        errno.ELOOP,
    }
)


def _numbers(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


#: Errors of a disk, a mount or the process, whichever file they are reported for.
_OF_THE_DISK = _numbers(
    "EIO",
    "EROFS",
    "ENOSPC",
    "EDQUOT",
    "ESTALE",
    "EUCLEAN",
    "EREMOTEIO",
    "ENOMEDIUM",
    "EMEDIUMTYPE",
    "ENODEV",
    "ENXIO",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
)
_OF_THE_NETWORK = _numbers(
    "ENOTCONN",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "ETIMEDOUT",
    "ENETDOWN",
    "ENETUNREACH",
    "ECONNREFUSED",
    "ECONNRESET",
    "ECONNABORTED",
    "ESHUTDOWN",
    "EKEYEXPIRED",
    "EKEYREVOKED",
    "ENOKEY",
    "EBUSY",
    "EAGAIN",
    "EINTR",
)

#: Primary result codes of SQLite for what is not damage: a read-only or full disk, an I/O error,
#: another process in the way.
_OF_A_DATABASE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def is_there(path: Path) -> bool:
    """Whether something has this name, be it a link that leads nowhere.

    Raises:
        OSError: the disk does not answer; `os.path.lexists` would say that nothing has.
    """
    try:
        os.lstat(path)
    except (OSError, ValueError) as failed:
        if affects_every_item(failed, network=True):
            raise
        return False
    return True


class Mounted:
    """Remembers what the folders of a line were mounted on when it started. A share that is
    unmounted leaves an empty folder in its place, which must not be taken for it.
    """

    def __init__(self, *folders: Path) -> None:
        points = _mount_points()
        self._points = {folder: _mount_point(folder, points) for folder in folders}

    def check(self, *folders: Path) -> None:
        """Refuse folders that do not lie on a mount any more as they did.

        Raises:
            OSError: says which mount is gone.
        """
        points = _mount_points()
        for folder in folders:
            before = self._points.get(folder, "")
            if not before or _is_mount(before, points):
                continue
            with contextlib.suppress(OSError):
                os.scandir(folder).close()  # what mounts by itself does so when somebody looks
            if not _is_mount(before, _mount_points()):
                raise OSError(errno.ENODEV, "nothing is mounted there any more", before)

    def lacks(self, folder: Path) -> str:
        """Say why a folder cannot be used now: it is not there, or not on its mount; nothing if it
        can.
        """
        try:
            self.check(folder)
        except OSError as failed:
            return failed.strerror or str(failed)
        return "" if os.path.isdir(folder) else "it is not there"


def _mount_points() -> frozenset[str]:
    """Give the places where something is mounted, but for the root; nothing where the system has no
    table of them.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            places = [fields[4] for line in table if len(fields := line.split()) > 4]
    except OSError:
        return frozenset()
    return frozenset(
        re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place) for place in places
    ) - {"/"}


def _is_mount(place: str, points: frozenset[str]) -> bool:
    return place in points if points else os.path.ismount(place)


def _mount_point(folder: Path, points: frozenset[str]) -> str:
    """Give the place where what a folder lies on is mounted; nothing for the root."""
    here = os.path.realpath(folder)
    while (above := os.path.dirname(here)) != here:
        if _is_mount(here, points):
            return here
        here = above
    return ""


def is_of_the_item(failed: OSError) -> bool:
    """Whether an error of the file system concerns one item alone, so that the line can go on
    without it.
    """
    return failed.errno in _OF_THE_ITEM


def affects_every_item(failed: BaseException | None, *, network: bool = False) -> OSError | None:
    """Find, in an exception and its causes, an error of the disk that every other item would meet
    as well.

    Params:
        network: whether errors of a connection count: those of a share, not those of a service that
            a node talks to.
    """
    while failed is not None:
        if isinstance(failed, OSError) and (
            failed.errno in _OF_THE_DISK or (network and failed.errno in _OF_THE_NETWORK)
        ):
            return failed
        failed = failed.__cause__
    return None


def may_pass(failed: BaseException | None) -> bool:
    """Whether what kept a line from starting may be gone at the next try: an error of a disk or a
    share, or another process in the way.
    """
    while failed is not None:
        if affects_every_item(failed, network=True):
            return True
        if (
            isinstance(failed, sqlite3.OperationalError)
            and getattr(failed, "sqlite_errorcode", 0) & 0xFF in _OF_A_DATABASE
        ):
            return True
        failed = failed.__cause__
    return False
