"""Keep standard output for results: everything else that writes to it while a command runs (nodes,
libraries, programs started by nodes) goes to standard error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..errors import printable

__all__ = ["NodeOutput", "results", "separate_results"]


class NodeOutput(io.TextIOBase):
    """Replaces standard output while nodes may print. `results` is where results go."""

    def __init__(self, results: TextIO) -> None:
        self.results = results
        #: Prints a line above the live display, while there is one.
        self.print_line: Callable[[str], None] | None = None
        self._partial_line = ""
        #: Whether the last text did not end with a newline.
        self._line_is_open = False

    def write(self, text: str) -> int:
        print_line = self.print_line
        if print_line is None:
            if sys.stderr is not None:  # it may be closed
                sys.stderr.write(printable(text))
                sys.stderr.flush()
                self._line_is_open = self._line_is_open if not text else not text.endswith("\n")
            return len(text)
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        for line in lines:
            print_line(printable(line))
        return len(text)

    def end_line(self) -> None:
        """End an unfinished line of a node, so that the next text starts on its own line."""
        if self._line_is_open and self.print_line is None:
            self.write("\n")

    def set_line_printer(self, print_line: Callable[[str], None] | None) -> None:
        """Start or stop (None) printing above a live display. An unfinished line is ended first."""
        self.end_line()
        if print_line is None and self._partial_line:
            self.write("\n")
        self.print_line = print_line

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
        """The stream for nodes that write bytes."""
        return sys.stderr.buffer


def results() -> TextIO | None:
    """Return the stream that results are printed to, or None for standard output itself. Call it
    before nodes run: a node may replace `sys.stdout`.
    """
    return sys.stdout.results if isinstance(sys.stdout, NodeOutput) else None


@contextmanager
def separate_results() -> Iterator[None]:
    """Within this block, only what is printed to `results` reaches standard output."""
    stdout = sys.stdout
    if isinstance(stdout, NodeOutput) or stdout is None:
        yield
        return
    with _redirect_descriptor(stdout) as output:
        sys.stdout = NodeOutput(output)
        try:
            yield
            output.flush()
        finally:
            sys.stdout = stdout


@contextmanager
def _redirect_descriptor(stream: TextIO) -> Iterator[TextIO]:
    """Redirect the descriptor of standard output to standard error, for code outside Python and for
    programs that nodes start, and yield a stream that still leads to standard output.
    """
    saved = -1
    # It may not be a file (io.UnsupportedOperation), and standard error may be closed.
    with suppress(OSError, ValueError):
        if stream.fileno() == 1:
            stream.flush()
            saved = os.dup(1)
            os.dup2(2, 1)
    if saved < 0:
        yield stream
        return
    output = open(  # noqa: SIM115 - closed below, after the descriptor is restored
        saved, "w", encoding=stream.encoding, errors="backslashreplace", buffering=1, closefd=False
    )
    try:
        yield output
    finally:
        os.dup2(saved, 1)
        with suppress(OSError):  # the reader has closed the pipe
            output.close()
        os.close(saved)
