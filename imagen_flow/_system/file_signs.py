"""Tell by what the file system says of a file whether it is still the one that was read, and
remember what was read of files for as long as they are.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["SETTLE_S", "RememberedBySign", "Sign", "sign_of"]

T = TypeVar("T")

#: How old a file's last change must be before what was read of it is remembered.
SETTLE_S = 2.0

#: Device, inode, size, and the times of the last change, of content and of anything.
Sign = tuple[int, int, int, int, int]


def sign_of(path: Path | str) -> Sign:
    """Return what the file system says of a file; zeros where it says nothing."""
    try:
        return _sign(os.stat(path))
    except (OSError, ValueError):
        return (0, 0, 0, 0, 0)


def _sign(found: os.stat_result) -> Sign:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class RememberedBySign(Generic[T]):
    """A function that reads a file, and remembers what it returned for as long as the file stays
    as it is. It does for files what `functools.lru_cache` does for arguments: nobody can tell
    whether something was remembered, save by the clock.

    What was read is not remembered if the file changed meanwhile, or less than two seconds before:
    a second change might carry the same time. The results used last are kept, up to `max_weight`.

    Params:
        read: what it returns is shared by all callers, and so must not be changed.
        weigh: what a result counts against `max_weight`.
    """

    def __init__(
        self,
        read: Callable[[Path], T],
        *,
        weigh: Callable[[T], int],
        max_weight: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read, self._weigh, self._max_weight = read, weigh, max_weight
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, Sign], tuple[T, int]] = OrderedDict()
        self._weight = 0

    def __call__(self, path: Path) -> T:
        """Return what the function reads from a file.

        Raises: what the function raises, and OSError if there is no such file.
        """
        before = _sign(os.stat(path))
        key = (str(path), before)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key][0]
        began = self._clock()
        result = self._read(path)
        after = os.stat(path)
        if _sign(after) == before and max(after.st_mtime, after.st_ctime) < began - SETTLE_S:
            self._remember(key, result)
        return result

    def _remember(self, key: tuple[str, Sign], result: T) -> None:
        weight = self._weigh(result)
        with self._lock:
            if key in self._known or weight > self._max_weight:
                return
            self._known[key] = result, weight
            self._weight += weight
            while self._weight > self._max_weight:
                _, (_, dropped) = self._known.popitem(last=False)
                self._weight -= dropped
