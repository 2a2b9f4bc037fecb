"""Pins: the steps and values that a run is going to use. Pinned entries are skipped by garbage
collection.

A run's pin is a file of names in ``pins/`` and a claim on the file's own name. The claim ends with
the process, however that ends; a pin file without a claim is ignored.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .locks import Claims, lock_number
from .objects import remove

__all__ = ["Pins"]


@dataclass
class _Pin:
    """A run's pin: the name and descriptor of its file (None if it cannot be written), and the
    names in it.
    """

    file: str
    fd: int | None = None
    names: set[str] = field(default_factory=set)


class Pins:
    """The pins of all processes in `folder`, and those of this store by run."""

    def __init__(self, folder: Path, claims: Claims, *, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._claims = claims
        self._warn = warn
        self._own: dict[str, _Pin] = {}
        self._lock = threading.Lock()

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Add names to a run's pin."""
        with self._lock:
            if run not in self._own:
                self._own[run] = self._create()
            self._add(self._own[run], set(names))

    def add_to_all(self, names: Iterable[str]) -> None:
        """Add steps that were found, or are about to be recorded, to the pins of all runs of this
        store, whichever run it was.
        """
        if self._own:
            added = set(names)
            with self._lock:
                for pin in self._own.values():
                    self._add(pin, added)

    def _create(self) -> _Pin:
        pin = _Pin(f"{os.getpid()}-{os.urandom(8).hex()}")
        self._claims.claim(lock_number(pin.file))
        try:
            pin.fd = os.open(self._folder / pin.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            self._abandon(pin, error)
        return pin

    def _add(self, pin: _Pin, names: set[str]) -> None:
        new = names - pin.names
        pin.names |= new
        if pin.fd is not None and new:
            try:
                os.write(pin.fd, "".join(f"{name}\n" for name in new).encode("ascii"))
            except OSError as error:
                self._abandon(pin, error)

    def _abandon(self, pin: _Pin, error: OSError) -> None:
        if pin.fd is not None:
            os.close(pin.fd)
            pin.fd = None
        self._warn(
            f"the store {self._folder.parent} cannot be written ({error.strerror}); garbage"
            " collection during this run may remove what it uses, which is then computed again"
        )

    def unpin(self, run: str) -> None:
        """Remove a run's pin."""
        with self._lock:
            pin = self._own.pop(run, None)
            if pin is None:
                return
            if pin.fd is not None:
                os.close(pin.fd)
        with contextlib.suppress(OSError):
            (self._folder / pin.file).unlink(missing_ok=True)
        self._claims.release(lock_number(pin.file))

    def close(self) -> None:
        """Remove the pins of all runs of this store."""
        for run in list(self._own):
            self.unpin(run)

    def pinned(self) -> set[str]:
        """Give the names that running processes have pinned, here and elsewhere."""
        pinned: set[str] = set()
        for path in self.active():
            with contextlib.suppress(OSError):
                pinned.update(path.read_text("ascii", "replace").split("\n"))
        pinned.discard("")
        return pinned

    def active(self) -> list[Path]:
        """List the pin files of running processes, here and elsewhere; remove those of ended ones."""
        active: list[Path] = []
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(OSError):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    remove(path)
                elif self._claims.is_free(lock_number(path.name)):
                    path.unlink(missing_ok=True)
                else:
                    active.append(path)
        return active
