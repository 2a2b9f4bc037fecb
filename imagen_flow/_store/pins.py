"""Pins: the steps and values that a run is going to use, which a clean-up meanwhile lets be.

A run's pin is a file of names in ``pins/``, and a claim on that file's own name. The claim ends
with the process, however that ends, and then the file counts for nothing.
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
    """A run's pin: the name and the descriptor of its file (none if it cannot be written), and the
    names in it.
    """

    file: str
    out: int | None = None
    names: set[str] = field(default_factory=set)


class Pins:
    """The pins of all processes in `folder`, and those of this store by the name of the run."""

    def __init__(self, folder: Path, claims: Claims, *, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._claims = claims
        self._warn = warn
        self._own: dict[str, _Pin] = {}
        self._lock = threading.Lock()

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Add names to what a run has pinned."""
        with self._lock:
            if run not in self._own:
                self._own[run] = self._begin()
            self._add(self._own[run], set(names))

    def note(self, name: str) -> None:
        """Add a step that was made or found to what the runs of this store have pinned, whichever
        of them it was.
        """
        with self._lock:
            for pin in self._own.values():
                self._add(pin, {name})

    def _begin(self) -> _Pin:
        pin = _Pin(f"{os.getpid()}-{os.urandom(8).hex()}")
        self._claims.claim(lock_number(pin.file))
        try:
            pin.out = os.open(
                self._folder / pin.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666
            )
        except OSError as error:
            self._give_up(pin, error)
        return pin

    def _add(self, pin: _Pin, names: set[str]) -> None:
        new = names - pin.names
        pin.names |= new
        if pin.out is not None and new:
            try:
                os.write(pin.out, "".join(f"{name}\n" for name in new).encode("ascii"))
            except OSError as error:
                self._give_up(pin, error)

    def _give_up(self, pin: _Pin, error: OSError) -> None:
        if pin.out is not None:
            os.close(pin.out)
            pin.out = None
        self._warn(
            f"the store {self._folder.parent} cannot be written ({error.strerror}); a clean-up"
            " meanwhile may cost work"
        )

    def unpin(self, run: str) -> None:
        """Give up what a run had pinned."""
        with self._lock:
            pin = self._own.pop(run, None)
            if pin is None:
                return
            if pin.out is not None:
                os.close(pin.out)
        with contextlib.suppress(OSError):
            (self._folder / pin.file).unlink(missing_ok=True)
        self._claims.release(lock_number(pin.file))

    def close(self) -> None:
        """Give up what every run of this store had pinned."""
        for run in list(self._own):
            self.unpin(run)

    def pinned(self) -> set[str]:
        """Give all that living runs have pinned, here and elsewhere."""
        pinned: set[str] = set()
        for path in self.living():
            with contextlib.suppress(OSError):
                pinned.update(path.read_text("ascii", "replace").split("\n"))
        pinned.discard("")
        return pinned

    def living(self) -> list[Path]:
        """List the pins of living runs, here and elsewhere; what dead ones left is removed."""
        living: list[Path] = []
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(OSError):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    remove(path)
                elif self._claims.is_free(lock_number(path.name)):
                    path.unlink(missing_ok=True)
                else:
                    living.append(path)
        return living
