"""Pins: the steps and values that a run is going to use, which a clean-up meanwhile lets be.

A run's pin is a file of names in ``pins/``, and a claim on that file's own name. The claim ends with the process, however that ends, and then the file counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .locks import Claims, number_of

__all__ = ["Pins"]


class Pins:
    """The pins of all processes in `folder`, and those of this store by the name of the run."""

    def __init__(self, folder: Path, claims: Claims, *, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._claims = claims
        self._warn = warn
        self._own: dict[str, str] = {}

    def pin(self, run: str, names: Iterable[str]) -> None:
        """Add names to what a run has pinned."""
        pin = self._own.get(run)
        if pin is None:
            pin = f"{os.getpid()}-{os.urandom(8).hex()}"
            self._claims.claim(number_of(pin))
            self._own[run] = pin
        try:
            with open(self._folder / pin, "a", encoding="ascii") as out:
                out.write("".join(f"{name}\n" for name in names))
        except OSError as odd:
            self._warn(f"the store {self._folder.parent} cannot be written ({odd.strerror}); a clean-up meanwhile may cost work")

    def unpin(self, run: str) -> None:
        """Give up what a run had pinned."""
        pin = self._own.pop(run, None)
        if pin is not None:
            with contextlib.suppress(OSError):
                (self._folder / pin).unlink(missing_ok=True)
            self._claims.release(number_of(pin))

    def close(self) -> None:
        """Give up what every run of this store had pinned."""
        for run in list(self._own):
            self.unpin(run)

    def pinned(self) -> set[str]:
        """Give all that living runs have pinned, here and elsewhere."""
        pinned: set[str] = set()
        for path in self.living():
            with contextlib.suppress(OSError):
                pinned.update(path.read_text("ascii").split("\n"))
        pinned.discard("")
        return pinned

    def living(self) -> list[Path]:
        """List the pins of living runs, here and elsewhere; what dead ones left is removed."""
        living: list[Path] = []
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(OSError):
                if self._claims.is_free(number_of(path.name)):
                    path.unlink(missing_ok=True)
                else:
                    living.append(path)
        return living
