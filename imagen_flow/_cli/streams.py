"""Keep standard output for results: whatever else writes to it while a command runs (a node, a
library, a program that a node starts) goes to standard error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..errors import printable

__all__ = ["NodeOutput", "results", "results_apart"]


class NodeOutput(io.TextIOBase):
    """Stands for standard output while nodes may print. `results` is where results go."""

    def __init__(self, results: TextIO) -> None:
        self.results = results
        #: Prints a line above a display that moves, while there is one.
        self.above: Callable[[str], None] | None = None
        self._begun = ""
        #: Whether what was printed last has not ended its line.
        self._is_open = False

    def write(self, text: str) -> int:
        above = self.above
        if above is None:
            if sys.stderr is not None:  # it may be closed
                sys.stderr.write(printable(text))
                sys.stderr.flush()
                self._is_open = self._is_open if not text else not text.endswith("\n")
            return len(text)
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            above(printable(line))
        return len(text)

    def end_line(self) -> None:
        """End a line that a node has only begun, so that what comes next has one to itself."""
        if self._is_open and self.above is None:
            self.write("\n")

    def print_above(self, above: Callable[[str], None] | None) -> None:
        """Begin or end printing above a display; a line that has only begun is ended."""
        self.end_line()
        if above is None and self._begun:
            self.write("\n")
        self.above = above

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stderr.encoding

    @property
    def buffer(self) -> Any:
        """Where a node writes bytes."""
        return sys.stderr.buffer


def results() -> TextIO | None:
    """Where results are printed; None for standard output as it is. To be asked before nodes run,
    by whoever prints while they do: a node may put something of its own in the place of standard
    output.
    """
    return sys.stdout.results if isinstance(sys.stdout, NodeOutput) else None


@contextmanager
def results_apart() -> Iterator[None]:
    """Within this block, only what is printed to `results` reaches standard output."""
    before = sys.stdout
    if isinstance(before, NodeOutput) or before is None:
        yield
        return
    with _descriptor_apart(before) as own:
        sys.stdout = NodeOutput(own)
        try:
            yield
            own.flush()
        finally:
            sys.stdout = before


@contextmanager
def _descriptor_apart(stream: TextIO) -> Iterator[TextIO]:
    """Give a stream of its own for the descriptor of standard output, which leads to standard error
    meanwhile: what is not Python's, and programs that nodes start, write to that.
    """
    kept = -1
    with suppress(
        OSError, ValueError
    ):  # it is no file (io.UnsupportedOperation), or standard error is closed
        if stream.fileno() == 1:
            stream.flush()
            kept = os.dup(1)
            os.dup2(2, 1)
    if kept < 0:
        yield stream
        return
    own = open(  # noqa: SIM115 - closed below, once the descriptor is back
        kept, "w", encoding=stream.encoding, errors="backslashreplace", buffering=1, closefd=False
    )
    try:
        yield own
    finally:
        os.dup2(kept, 1)
        with suppress(OSError):  # whoever read it has gone
            own.close()
        os.close(kept)
