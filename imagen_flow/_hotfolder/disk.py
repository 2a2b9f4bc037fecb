"""Change the file system through a few operations, so that tests can observe and interrupt them.

Durability: bytes are durable after `sync_file`; a name that was created, renamed or removed is
durable after `sync_folder` of its folder. Until then a power cut may undo any of these, in any
order. A rename is atomic, within one folder or across two: after a power cut it has happened
completely or not at all, as journaling file systems guarantee.
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
    "MountGuard",
    "find_disk_error",
    "affects_one_item",
    "describe_error",
    "name_exists",
    "is_temporary_error",
]

_BLOCK = 1 << 20


class Disk(Protocol):
    """The file operations. All but `copy` and `remove_tree` are a single system call."""

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file. The name must not exist."""

    def copy(self, source: Path, path: Path) -> None:
        """Write a new file with the bytes and times of another. The name must not exist."""

    def sync_file(self, path: Path) -> None:
        """Make a file's bytes durable."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file or folder, replacing a file with the new name."""

    def link(self, path: Path, to: Path) -> None:
        """Give a file a second name, which must not exist."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name if it exists."""

    def mkdir(self, path: Path) -> None:
        """Create a folder unless it exists."""

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and everything in it."""


class LocalDisk:
    """The operations on a real file system."""

    def create(self, path: Path, data: bytes) -> None:
        with open(_new(path), "wb") as stream:
            stream.write(data)

    def copy(self, source: Path, path: Path) -> None:
        with open(source, "rb") as read, open(_new(path), "wb") as stream:
            shutil.copyfileobj(read, stream, _BLOCK)
        times = source.stat()
        # Not every file system can store every time.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def sync_file(self, path: Path) -> None:
        _sync(path, os.O_RDWR)

    def sync_folder(self, path: Path) -> None:
        if os.name != "nt":  # folders cannot be opened there, and need no sync
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
    # Not mkstemp, which makes the file private: outputs get the permissions of the umask.
    return os.open(
        path,
        os.O_WRONLY
        | os.O_CREAT
        | os.O_EXCL
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
        0o666,
    )


def _choose_fsync() -> Callable[[int], None]:
    if sys.platform != "darwin":
        return os.fsync
    import fcntl

    def full(handle: int) -> None:
        # On macOS, fsync does not flush the drive's cache.
        try:
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        except OSError:
            os.fsync(handle)

    return full


_fsync = _choose_fsync()


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode | getattr(os, "O_CLOEXEC", 0))
    try:
        _fsync(handle)
    except OSError as error:
        # Some file systems cannot sync folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or mode != os.O_RDONLY:
            raise
    finally:
        os.close(handle)


#: Errors caused by an item's own name; all others (no space, no permission, a missing share) would
#: affect every item.
_ITEM_ERRORS = frozenset(
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


def _errnos(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


#: Errors of a disk, a mount or the process, regardless of the file that they are reported for.
_DISK_ERRORS = _errnos(
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
_NETWORK_ERRORS = _errnos(
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

#: Primary result codes of SQLite that may pass: a read-only or full disk, an I/O error, a lock of
#: another process.
_TEMPORARY_DATABASE_ERRORS = frozenset(
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


def name_exists(path: Path) -> bool:
    """Return whether something has this name, even a broken link.

    Raises:
        OSError: the disk does not respond, where `os.path.lexists` would return False.
    """
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        if find_disk_error(error, network=True):
            raise
        return False
    return True


class MountGuard:
    """Remembers where the folders of a line were mounted when it started. An unmounted share leaves
    an empty folder behind, which must not be mistaken for the share.
    """

    def __init__(self, *folders: Path) -> None:
        points = _mount_points()
        self._points = {folder: _mount_point(folder, points) for folder in folders}

    def check(self, *folders: Path) -> None:
        """Check that folders are still on their mounts.

        Raises:
            OSError: a mount is gone; says which.
        """
        points = _mount_points()
        for folder in folders:
            before = self._points.get(folder, "")
            if not before or _is_mount(before, points):
                continue
            with contextlib.suppress(OSError):
                os.scandir(folder).close()  # triggers an automount
            if not _is_mount(before, _mount_points()):
                raise OSError(errno.ENODEV, "it is not mounted any more", before)

    def why_missing(self, folder: Path) -> str:
        """Return why a folder cannot be used now (it is missing, or not mounted), or an empty
        string.
        """
        try:
            self.check(folder)
        except OSError as error:
            return error.strerror or str(error)
        return "" if os.path.isdir(folder) else "it does not exist"


def _mount_points() -> frozenset[str]:
    """Return the mount points except for the root; empty if the system has no mount table."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            points = [fields[4] for line in table if len(fields := line.split()) > 4]
    except OSError:
        return frozenset()
    return frozenset(
        re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point) for point in points
    ) - {"/"}


def _is_mount(folder: str, points: frozenset[str]) -> bool:
    return folder in points if points else os.path.ismount(folder)


def _mount_point(folder: Path, points: frozenset[str]) -> str:
    """Return the mount point that a folder lies on; empty for the root."""
    path = os.path.realpath(folder)
    while (parent := os.path.dirname(path)) != path:
        if _is_mount(path, points):
            return path
        path = parent
    return ""


def affects_one_item(error: OSError) -> bool:
    """Return whether a file system error concerns a single item, so that the line can continue
    without it.
    """
    return error.errno in _ITEM_ERRORS


def find_disk_error(error: BaseException | None, *, network: bool = False) -> OSError | None:
    """Find a disk error that would affect every item, in an exception and its causes.

    Params:
        network: include connection errors. These are relevant for a share, but not for a service
            that a node uses.
    """
    while error is not None:
        if isinstance(error, OSError) and (
            error.errno in _DISK_ERRORS or (network and error.errno in _NETWORK_ERRORS)
        ):
            return error
        error = error.__cause__
    return None


def is_temporary_error(error: BaseException | None) -> bool:
    """Return whether what kept a line from starting may have passed at the next attempt: a disk or
    share error, or a lock of another process.
    """
    while error is not None:
        if find_disk_error(error, network=True):
            return True
        if (
            isinstance(error, sqlite3.OperationalError)
            and getattr(error, "sqlite_errorcode", 0) & 0xFF in _TEMPORARY_DATABASE_ERRORS
        ):
            return True
        error = error.__cause__
    return False


def describe_error(error: OSError) -> str:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "there is no space left"
    return f"{reason}{f': {error.filename}' if error.filename else ''}"
