"""Open files that come from untrusted input, regular files only.

Opening a fifo, a terminal or a device may block or have side effects; files in ``/proc`` and
``/sys`` report a size of zero but can be endless. None of them is ever a graph, a picture, a
settings file or a model, so they are refused before a byte is read. The type is checked again after
opening, because the file may have been replaced in between.
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

_KERNEL_FOLDERS = ("/proc/", "/sys/")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: the system's error, or the file is not a regular file.
    """
    _check(os.stat(path).st_mode, path)
    handle = os.open(path, _FLAGS)
    try:
        _check(os.fstat(handle).st_mode, path)
        if _is_kernel_file(handle):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`.

    Raises:
        OSError: as `open_regular`, or the file is larger.
    """
    with open_regular(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", os.fspath(path))
    return data


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Tell whether `open_regular` opens this path."""
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


def _is_kernel_file(handle: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{handle}").startswith(_KERNEL_FOLDERS)
    except OSError:
        return False  # there is no /proc
