"""Open files that others name: regular ones only.

A fifo, a terminal or a device makes whoever opens it wait, or does something by being opened; what
lies in ``/proc`` and ``/sys`` looks like a file of no bytes and has no end. None of them is ever a
graph, a picture, a setting or a model, so they are refused before a byte is read. What a path leads
to is looked at again once it is open: it may have been replaced in between.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader

__all__ = ["is_regular", "open_regular", "read_regular"]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

_KERNELS = ("/proc/", "/sys/")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: as the system says it, or because it is not a regular file.
    """
    _check(os.stat(path).st_mode, path)
    handle = os.open(path, _FLAGS)
    try:
        _check(os.fstat(handle).st_mode, path)
        if _lies_in_kernel(handle):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], *, most: int) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        OSError: as `open_regular`, or because it is larger.
    """
    with open_regular(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", os.fspath(path))
    return data


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a regular file that `open_regular` opens."""
    try:
        open_regular(path).close()
    except (OSError, ValueError):
        return False
    return True


def _check(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))


def _lies_in_kernel(handle: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{handle}").startswith(_KERNELS)
    except OSError:
        return False  # there is no /proc, so nothing lies in it
