"""Claims among processes that share a folder: byte locks on one file, held by the operating system.

A claim needs no heartbeat and never goes stale, because the system releases it when the process
ends, however it ends. It costs a microsecond or two and writes nothing. On Linux claims belong to
the open file, so that two stores in one process exclude each other as well; elsewhere they belong
to the process, and closing a second store on the same folder in the same process releases the
claims of the first. That is harmless: a claim only avoids duplicate work.

Some file systems have no such locks, or refuse them. There only one process at a time can use the
folder (`Claims.exclusive`), and an owner file names it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import operator
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

from .._system.processes import is_alive, process_name

__all__ = ["Claims", "InUse", "lock_number"]

#: Names map to lock numbers below this.
_NAMES = 2**47

#: The lock number of opening a database.
_OPENING = _NAMES + 1

#: The errors that say that another process holds a lock.
_HELD = frozenset({errno.EACCES, errno.EAGAIN})

#: Lock a number of an open file. OSError: another holds it, or the system has no locks there.
_Lock = Callable[[int, int], object]
_Unlock = Callable[[int, int], None]


class InUse(OSError):
    """Another process uses a folder that only one process at a time can use. The message names the
    process and `fix` says what to do.
    """

    def __init__(self, owner: str, file: Path) -> None:
        super().__init__(
            errno.EBUSY,
            f"its file system has no locks, so only one process at a time can use it, and {owner}"
            " is using it",
        )
        self.fix = f"wait for it to end (if it has ended, remove '{file}')"


@functools.lru_cache(1024)
def lock_number(name: str) -> int:
    """Map a name (a key, a pin) to its lock number."""
    return (
        int.from_bytes(
            blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
        % _NAMES
    )


class Claims:
    """Byte locks on one file. Each number has at most one holder.

    Params:
        wait_s: how long to wait for another process to leave a folder without locks.

    Raises:
        InUse: there are no locks, and another process uses the folder.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, wait_s: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._held: set[int] = set()
        flags = ("O_CLOEXEC", "O_NOINHERIT", "O_BINARY", "O_NOFOLLOW", "O_NONBLOCK")
        self._fd = os.open(
            path,
            os.O_RDWR
            | os.O_CREAT
            | functools.reduce(operator.or_, (getattr(os, flag, 0) for flag in flags)),
            0o666,
        )
        self._owner: _OwnerFile | None = None
        try:
            functions = next(
                (kind for kind in _lock_kinds() if _is_supported(kind, self._fd)), None
            )
            if functions is None:
                self._owner = _OwnerFile(path.with_name(f"{path.name}.owner"), wait_s)
        except BaseException:
            os.close(self._fd)
            raise
        self._functions = functions or (lambda fd, number: None, lambda fd, number: None)

    @property
    def exclusive(self) -> bool:
        """Whether this process has the folder to itself, because there are no locks."""
        return self._owner is not None

    def claim(self, number: int, *, if_refused: bool = True) -> bool:
        """Claim a number; False if another process or thread holds it.

        Params:
            if_refused: what to return if the system refuses a lock although locks worked before (it
                ran out of them): a claim only avoids duplicate work.
        """
        with self._lock:
            if self._fd < 0 or number in self._held:
                return False
            try:
                self._functions[0](self._fd, number)
            except OSError as error:
                return if_refused and error.errno not in _HELD
            self._held.add(number)
            return True

    def wait(self, number: int, wait_s: float, cancel: threading.Event | None = None) -> bool:
        """Claim a number; wait up to `wait_s` for its holder to release it, or until `cancel` is
        set.
        """
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

    @contextlib.contextmanager
    def opening(self, wait_s: float) -> Iterator[None]:
        """Keep other processes from opening the folder's database meanwhile: SQLite does not wait
        for another process that switches a new file to its write-ahead log.

        Params:
            wait_s: how long to wait for the others; after that, go on without them.
        """
        held = self.wait(_OPENING, wait_s)
        try:
            yield
        finally:
            if held:
                self.release(_OPENING)

    def release(self, number: int) -> None:
        """Release a number; does nothing if it is not held."""
        with self._lock:
            if number in self._held:
                self._held.discard(number)
                try:
                    self._functions[1](self._fd, number)
                except OSError:
                    pass

    def is_free(self, number: int) -> bool:
        """Tell whether nobody holds a number, here or in another process."""
        if self.claim(number, if_refused=False):
            self.release(number)
            return True
        return False

    def close(self) -> None:
        """Release everything."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._held.clear()
                if self._owner is not None:
                    self._owner.remove()


class _OwnerFile:
    """A file that names the process that uses a folder. It appears whole, and is ignored once its
    process has ended.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        from platform import node

        self._path = path
        self._content = json.dumps(
            {
                "process": process_name(),
                "host": node(),
                "pid": os.getpid(),
                "token": os.urandom(8).hex(),
            }
        )
        until = time.monotonic() + wait_s
        while not self._take():
            if time.monotonic() > until:
                raise InUse(_describe(_read(path)), path)
            time.sleep(0.02)

    def _take(self) -> bool:
        """Take the folder, unless a running process owns it."""
        current = _read(self._path)
        if current is not None:
            if _has_living_owner(current):
                return False
            aside = self._path.with_name(f".{self._path.name}-{os.urandom(8).hex()}")
            try:
                os.rename(self._path, aside)
                if _read(aside) != current:
                    # Another process was faster, and this is its file.
                    os.rename(aside, self._path)
                    return False
                aside.unlink()
            except FileNotFoundError:
                return False
        try:
            handle = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
            )
        except FileExistsError:
            return False
        with open(handle, "w", encoding="ascii") as out:
            out.write(self._content)
        return _read(self._path) == self._content

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            if _read(self._path) == self._content:
                self._path.unlink()


def _read(path: Path) -> str | None:
    """Read an owner file; None if there is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(1000)
    except OSError:
        return None


def _has_living_owner(content: str) -> bool:
    """Tell whether the process that an owner file names is running; a process of another host is
    assumed to run. An invalid file has no owner.
    """
    try:
        owner = json.loads(content)
        return (
            isinstance(owner["process"], str)
            and type(owner["pid"]) is int
            and is_alive(owner["process"]) is not False
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _describe(content: str | None) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        owner = json.loads(content or "")
        return f"process {int(owner['pid'])} of {ascii(owner['host'])[:80]}"
    return "another process"


def _is_supported(kind: tuple[_Lock, _Unlock], fd: int) -> bool:
    """Tell whether locks of this kind work, with a number that nobody else can hold: EACCES means
    "held by another" as well as "not supported".
    """
    lock, unlock = kind
    number = _NAMES + 2 + int.from_bytes(os.urandom(5), "little")
    try:
        lock(fd, number)
        unlock(fd, number)
    except OSError:
        return False
    return True


def _lock_kinds() -> Iterator[tuple[_Lock, _Unlock]]:
    """Yield the kinds of locks that the system may have, best first."""
    if os.name == "nt":
        yield _windows()
    else:
        if sys.platform == "linux":
            yield _linux()
        yield _posix()


def _windows() -> tuple[_Lock, _Unlock]:
    import msvcrt

    def lock(fd: int, number: int) -> None:
        os.lseek(fd, number, os.SEEK_SET)
        # Windows only
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

    def unlock(fd: int, number: int) -> None:
        os.lseek(fd, number, os.SEEK_SET)
        with contextlib.suppress(OSError):
            # Windows only
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]

    return lock, unlock


def _linux() -> tuple[_Lock, _Unlock]:
    import fcntl

    # struct flock: type, whence, start, length, pid (which must be 0 for a lock of the open file).
    flock = struct.Struct("@hhqqi0q")

    def lock(fd: int, number: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))

    def unlock(fd: int, number: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))

    return lock, unlock


def _posix() -> tuple[_Lock, _Unlock]:
    import fcntl

    def lock(fd: int, number: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)

    def unlock(fd: int, number: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)

    return lock, unlock
