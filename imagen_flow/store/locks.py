"""Claims among processes that share a folder: locks on single bytes of a file, held by the operating system.

A claim needs no heartbeat and never grows stale: the system drops it when its process ends, however it ends. It costs a microsecond or two and writes nothing.
On Linux claims belong to the open file (so two stores in one process keep each other out as well), elsewhere to the process; there,
closing a second store on the same folder in the same process drops the claims of the first. That is harmless: a claim only saves double work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

__all__ = ["OPENING", "Claims", "number_of"]

#: Names are claimed by a number below this.
_NAMES = 2**47

#: Claimed by whoever opens the store.
OPENING = _NAMES + 1


def number_of(name: str) -> int:
    """Give the number by which a name (a key, a pin) is claimed."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") % _NAMES


class Claims:
    """Byte locks on one file. Each number can be claimed by one holder at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0), 0o666)

    def claim(self, number: int) -> bool:
        """Claim a number; False if another holds it (be it another thread here)."""
        with self._lock:
            if self._fd < 0 or number in self._held or not _lock(self._fd, number):
                return False
            self._held.add(number)
            return True

    def wait(self, number: int, wait_s: float, cancel: threading.Event | None = None) -> bool:
        """Claim a number; wait up to `wait_s` for another to let it go, or until `cancel`."""
        if self.claim(number):
            return True
        until = time.monotonic() + wait_s
        pause = 0.005
        while (left := until - time.monotonic()) > 0:
            if cancel is None:
                time.sleep(min(pause, left))
            elif cancel.wait(min(pause, left)):
                return False
            if self.claim(number):
                return True
            pause = min(pause * 1.5, 0.1)
        return False

    def release(self, number: int) -> None:
        """Let a number go; one that is not held is let be."""
        with self._lock:
            if number in self._held:
                self._held.discard(number)
                _unlock(self._fd, number)

    def is_free(self, number: int) -> bool:
        """Tell whether nobody holds a number, here or elsewhere."""
        if self.claim(number):
            self.release(number)
            return True
        return False

    def close(self) -> None:
        """Let everything go."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._held.clear()


def _windows() -> tuple[Callable[[int, int], bool], Callable[[int, int], None]]:
    import msvcrt

    def lock(fd: int, number: int) -> bool:
        os.lseek(fd, number, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows only
        except OSError:
            return False
        return True

    def unlock(fd: int, number: int) -> None:
        os.lseek(fd, number, os.SEEK_SET)
        with contextlib.suppress(OSError):
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows only

    return lock, unlock


def _linux() -> tuple[Callable[[int, int], bool], Callable[[int, int], None]]:
    import fcntl

    # struct flock: type, whence, start, length, pid (which must be 0 for a lock of the open file).
    flock = struct.Struct("@hhqqi0q")
    command = fcntl.F_OFD_SETLK

    def lock(fd: int, number: int) -> bool:
        try:
            fcntl.fcntl(fd, command, flock.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        except OSError as refused:
            if refused.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(fd: int, number: int) -> None:
        fcntl.fcntl(fd, command, flock.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))

    return lock, unlock


def _posix() -> tuple[Callable[[int, int], bool], Callable[[int, int], None]]:
    import fcntl

    def lock(fd: int, number: int) -> bool:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as refused:
            if refused.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(fd: int, number: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)

    return lock, unlock


_lock, _unlock = _windows() if os.name == "nt" else _linux() if sys.platform == "linux" else _posix()
