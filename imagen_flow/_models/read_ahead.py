"""Read the files of the model that a run needs next while another works, so that loading it does
not wait for the disk.

Only the bytes are read, into the system's cache. Nothing is loaded ahead: the libraries change
settings of the whole process while they load (torch's default dtype, how modules register their
parameters), so what another thread computes meanwhile would come out different. So nothing here can
fail, take memory from models, or change a result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from .._system.regular_files import open_regular
from .mapped import available_bytes

__all__ = ["ReadAhead"]

_PIECE = 4 << 20


class ReadAhead:
    """Reads files in a thread of its own, one list of them after the other."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, paths: Sequence[str]) -> bool:
        """Begin to read files, unless others are being read. Returns whether it began."""
        if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
            return False
        self._thread = threading.Thread(
            target=self._read, args=(paths,), name="imagen_flow reads ahead", daemon=True
        )
        self._thread.start()
        return True

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()

    def _read(self, paths: Sequence[str]) -> None:
        with suppress(OSError):  # whoever loads the model reports it
            if sum(os.stat(path).st_size for path in paths) > available_bytes() // 2:
                return  # it would drive out what is needed now
            buffer = bytearray(_PIECE)
            for path in paths:
                with open_regular(path) as stream:
                    while not self._closed.is_set() and stream.readinto(buffer):
                        pass
