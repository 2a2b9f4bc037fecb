"""Words, sizes and times as the terminal shows them, and problems with their colours.

All that a command prints goes through `echo` (or `echo_json`): it escapes every part, so that no
text from a graph, a file, a model or a plugin can steer the terminal, and colours are added after
that.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import IO, Any, TextIO

import click

from ..errors import Problem, first_problems, printable
from .streams import NodeOutput, results

__all__ = [
    "Painted",
    "bytes_",
    "colour",
    "confirm",
    "echo",
    "echo_json",
    "one_line",
    "paint",
    "plural",
    "safe",
    "seconds",
    "shorten",
    "show_fault",
    "show_problems",
    "table",
    "value",
]


@dataclass(frozen=True, slots=True)
class Painted:
    """Text in a colour, bold or dim: for `echo`, which escapes it first."""

    text: str
    hue: str | None = None
    bold: bool = False
    dim: bool = False

    def __str__(self) -> str:
        return click.style(
            safe(self.text), fg=self.hue, bold=self.bold or None, dim=self.dim or None
        )


def paint(text: str, hue: str | None = None, *, bold: bool = False, dim: bool = False) -> Painted:
    return Painted(text, hue, bold, dim)


def echo(
    *parts: str | Painted,
    err: bool = False,
    nl: bool = True,
    data: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Print to standard output, or to standard error, or to a stream. Each part is escaped; a
    painted one is coloured if the terminal can show it. Of `data`, text is left as it is where no
    terminal shows it.
    """
    if err and isinstance(sys.stdout, NodeOutput):
        sys.stdout.end_line()
    stream = stream or (None if err else results() or sys.stdout)
    as_it_is = data and stream is not None and not stream.isatty()
    shown = "".join(
        (part if as_it_is else safe(part)) if isinstance(part, str) else str(part) for part in parts
    )
    click.echo(shown, file=stream, err=err, nl=nl, color=colour())


def echo_json(data: Any, *, indent: int | None = None, stream: TextIO | None = None) -> None:
    """Print data as JSON on standard output, or to a stream."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, default=str)
    click.echo(
        _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text),
        file=stream or results(),
        color=False,
    )


#: What JSON leaves as it is, and a terminal may obey.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def show_fault(fault: click.ClickException) -> None:
    """Print what is wrong with a command line."""
    words = StringIO()
    fault.show(file=words)
    echo(words.getvalue(), err=True, nl=False)


def colour() -> bool | None:
    """Whether to colour: None lets click look at the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems whole, in the order given, and how many there are."""
    every = list(problems)
    shown, rest = first_problems(every)
    parts: list[str | Painted] = []
    for problem in shown:
        parts += ["\n\n" if parts else "", *_painted(str(problem), problem.severity)]
    echo(*parts, err=True)
    errors = sum(p.severity == "error" for p in every)
    if rest:
        echo(f"\n{rest}", err=True)
    if errors > 1:
        echo(f"\n{errors:,} problems", err=True)


def _painted(text: str, severity: str) -> Iterable[str | Painted]:
    hue = "red" if severity == "error" else "yellow"
    head, *rest = text.split("\n")
    before, code, after = (
        re.split(rf"(\b{severity}\[[a-z0-9-]+\])", head, maxsplit=1)
        if re.search(rf"\b{severity}\[[a-z0-9-]+\]", head)
        else (head, "", "")
    )
    yield from (before, paint(code, hue, bold=True), after)
    for line in rest:
        yield "\n"
        yield paint(line, hue) if re.fullmatch(r" *\| [\s\u3000]*\^+", line) else line


class Declined(click.ClickException):
    """The user answered no: nothing was done."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__("nothing was done")

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)


def confirm(question: str) -> None:
    """Ask before something is done that cannot be undone.

    Raises:
        Declined: the answer is no.
        Abort: an interrupt.
        UsageError: there is nobody to answer.
    """
    try:
        agreed = click.confirm(one_line(question), err=True)
    except (click.Abort, OSError, RuntimeError) as odd:
        if isinstance(odd, click.Abort) and not isinstance(odd.__context__, EOFError):
            raise
        echo(err=True)
        raise click.UsageError(
            "there is nobody to ask; pass --yes"
        ) from None  # standard input is at its end, closed, or not there
    if not agreed:
        raise Declined


def safe(text: str) -> str:
    """Escape text for the terminal; see `printable`."""
    return printable(text)


def one_line(text: str) -> str:
    """Escape text that has one line, or part of one, to itself: with line ends of its own it could
    pass for more.
    """
    return re.sub(r"\s*\n\s*", " ", printable(text))


def seconds(time_s: float) -> str:
    """``0.04 s``, ``12.3 s``, ``2:05``, ``1:00:00``."""
    if time_s < 60:
        return f"{time_s:.2f} s" if time_s < 1 else f"{time_s:.1f} s"
    return clock(time_s)


def clock(time_s: float) -> str:
    """``0:07``, ``2:05``, ``1:00:00``."""
    whole = round(time_s)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def bytes_(count: int) -> str:
    """``812 B``, ``2.4 MB``: in powers of ten, as disks and hubs count."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5 or unit == "TB":
            break
    return f"{size:.1f} {unit}" if size < 100 else f"{size:.0f} {unit}"


def plural(count: int, word: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def shorten(text: str, width: int) -> str:
    """Cut text to a width; the cut is seen."""
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def table(rows: Iterable[tuple[str, ...]], *, indent: str = "  ", wide: int = 48) -> str:
    """Set rows in columns; the last column is as long as it likes, the others at most `wide`."""
    kept = [(*(shorten(one_line(c), wide) for c in row[:-1]), one_line(row[-1])) for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*kept, strict=True))[:-1]]
    return "\n".join(
        (
            indent + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in kept
    )


def value(given: Any) -> str:
    """Show an output's value: text as it is, data as JSON, the rest by what it is."""
    from .._types.values import Absent, Audio, File, Folder, Image, Mask, Model, Tensor

    if isinstance(given, str):
        return given
    if isinstance(given, Image | Mask):
        return (
            f"{'a picture' if isinstance(given, Image) else 'a mask'} of {given.width} ×"
            f" {given.height} (no path: not written)"
        )
    if isinstance(given, Tensor):
        return f"a tensor of {' × '.join(map(str, given.shape)) or 'one number'}, {given.dtype}"
    if isinstance(given, Audio):
        return f"{given.samples.shape[1] / given.rate:.1f} s of sound"
    if isinstance(given, File | Folder | Model):
        return str(given.path)
    if isinstance(given, Absent):
        return "absent"
    try:
        return json.dumps(given, ensure_ascii=False)
    except (TypeError, ValueError):
        if isinstance(given, list | tuple):
            return f"a list of {len(given)}" + (f": {value(given[0])}, …" if given else "")
        return f"a value of type {type(given).__name__}"
