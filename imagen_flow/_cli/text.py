"""Format text, sizes, times and problems for the terminal.

Everything that a command prints goes through `echo` or `echo_json`. They escape control characters,
so that no text from a graph, a file, a model or a plugin can control the terminal, and add colours
afterwards.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from io import StringIO
from typing import IO, Any, TextIO

import click

from .._system.dataclass import dataclass
from ..errors import Problem, first_problems, printable
from .streams import NodeOutput, results

__all__ = [
    "Painted",
    "format_bytes",
    "use_colour",
    "confirm",
    "echo",
    "echo_json",
    "one_line",
    "paint",
    "plural",
    "format_seconds",
    "shorten",
    "show_click_error",
    "show_problems",
    "table",
    "describe_value",
]


@dataclass(frozen=True, slots=True)
class Painted:
    """Text with a colour or style, for `echo`, which escapes it first."""

    text: str
    hue: str | None = None
    bold: bool = False
    dim: bool = False

    def __str__(self) -> str:
        return click.style(
            printable(self.text), fg=self.hue, bold=self.bold or None, dim=self.dim or None
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
    """Print to standard output, standard error or a stream, escaping each part.

    Params:
        data: print text unescaped unless the stream is a terminal.
    """
    if err and isinstance(sys.stdout, NodeOutput):
        sys.stdout.end_line()
    stream = stream or (None if err else results() or sys.stdout)
    is_raw = data and stream is not None and not stream.isatty()
    text = "".join(
        (part if is_raw else printable(part)) if isinstance(part, str) else str(part)
        for part in parts
    )
    click.echo(text, file=stream, err=err, nl=nl, color=use_colour())


def echo_json(data: Any, *, indent: int | None = None, stream: TextIO | None = None) -> None:
    """Print data as JSON to standard output or to a stream."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, default=str)
    click.echo(
        _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text),
        file=stream or results(),
        color=False,
    )


#: Characters that JSON leaves unescaped and a terminal may act on.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def show_click_error(error: click.ClickException) -> None:
    """Print an error of the command line."""
    buffer = StringIO()
    error.show(file=buffer)
    echo(buffer.getvalue(), err=True, nl=False)


def use_colour() -> bool | None:
    """Return whether to use colours; None lets click inspect the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems in the order given, and their number."""
    all_problems = list(problems)
    shown, rest = first_problems(all_problems)
    parts: list[str | Painted] = []
    for problem in shown:
        parts += ["\n\n" if parts else "", *_painted(str(problem), problem.severity)]
    echo(*parts, err=True)
    errors = sum(p.severity == "error" for p in all_problems)
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
    """The user answered no, and nothing was done."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__("nothing was done")

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)


def confirm(question: str) -> None:
    """Ask before doing something that cannot be undone.

    Raises:
        Declined: the answer is no.
        Abort: the user interrupted.
        UsageError: the session is not interactive.
    """
    try:
        confirmed = click.confirm(one_line(question), err=True)
    except (
        click.Abort,
        OSError,
        RuntimeError,
    ) as error:  # standard input may be closed  # stdin may be at its end or closed
        if isinstance(error, click.Abort) and not isinstance(error.__context__, EOFError):
            raise
        echo(err=True)
        raise click.UsageError(
            "cannot ask for confirmation: the session is not interactive; pass --yes"
        ) from None
    if not confirmed:
        raise Declined


def one_line(text: str) -> str:
    """Escape text that is printed on one line: a line end in it could make it look like something
    else.
    """
    return re.sub(r"\s*\n\s*", " ", printable(text))


def format_seconds(time_s: float) -> str:
    """``0.04 s``, ``12.3 s``, ``2:05``, ``1:00:00``."""
    if time_s < 60:
        return f"{time_s:.2f} s" if time_s < 1 else f"{time_s:.1f} s"
    return format_clock(time_s)


def format_clock(time_s: float) -> str:
    """``0:07``, ``2:05``, ``1:00:00``."""
    whole = round(time_s)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def format_bytes(count: int) -> str:
    """``812 B``, ``2.4 MB``: powers of ten, as disks and model hubs count."""
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
    """Cut text to a width and mark the cut with an ellipsis."""
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def table(rows: Iterable[tuple[str, ...]], *, indent: str = "  ", max_width: int = 48) -> str:
    """Lay out rows in columns. All but the last column are cut at `max_width`."""
    cells = [
        (*(shorten(one_line(c), max_width) for c in row[:-1]), one_line(row[-1])) for row in rows
    ]
    widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:-1]]
    return "\n".join(
        (
            indent + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in cells
    )


def describe_value(content: Any) -> str:
    """Describe an output's value: text as it is, data as JSON, anything else by its kind."""
    from .._types.models import Model
    from .._types.values import Absent, Audio, File, Folder, Image, Mask, Tensor

    if isinstance(content, str):
        return content
    if isinstance(content, Image | Mask):
        return (
            f"{'a picture' if isinstance(content, Image) else 'a mask'} of {content.width} ×"
            f" {content.height} (no path: not written)"
        )
    if isinstance(content, Tensor):
        return f"a tensor of shape {' × '.join(map(str, content.shape)) or '()'}, {content.dtype}"
    if isinstance(content, Audio):
        return f"{content.samples.shape[1] / content.rate:.1f} s of audio"
    if isinstance(content, File | Folder | Model):
        return str(content.path)
    if isinstance(content, Absent):
        return "absent"
    try:
        return json.dumps(content, ensure_ascii=False)
    except (TypeError, ValueError):
        if isinstance(content, list | tuple):
            return f"a list of {len(content)}" + (
                f": {describe_value(content[0])}, …" if content else ""
            )
        return f"a value of type {type(content).__name__}"
