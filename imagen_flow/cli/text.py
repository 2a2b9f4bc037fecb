"""Words, sizes and times as the terminal shows them, and problems with their colours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from ..errors import Problem

__all__ = ["bytes_", "colour", "confirm", "plural", "safe", "seconds", "shorten", "show_problems", "table", "value"]


def colour() -> bool | None:
    """Whether to colour: None lets click look at the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems whole, in the order given, and how many there are."""
    shown = list(problems)
    click.echo("\n\n".join(_painted(str(problem), problem.severity) for problem in shown), err=True, color=colour())
    errors = sum(p.severity == "error" for p in shown)
    if errors > 1:
        click.echo(f"\n{errors} problems", err=True)


def _painted(text: str, severity: str) -> str:
    head, *rest = safe(text).split("\n")
    hue = "red" if severity == "error" else "yellow"
    head = re.sub(rf"\b{severity}\[[a-z0-9-]+\]", lambda m: click.style(m[0], fg=hue, bold=True), head, count=1)
    lines = [click.style(line, fg=hue) if re.fullmatch(r" *\| [\s\u3000]*\^+", line) else line for line in rest]
    return "\n".join([head, *lines])


def confirm(question: str) -> None:
    """Ask before something is done that cannot be undone.

    Raises:
        Abort: the answer is no, or an interrupt.
        UsageError: there is nobody to answer.
    """
    try:
        click.confirm(question, abort=True, err=True)
    except (click.Abort, OSError, RuntimeError) as odd:
        if isinstance(odd, click.Abort) and not isinstance(odd.__context__, EOFError):
            raise
        click.echo(err=True)
        raise click.UsageError("there is nobody to ask; say --yes") from None  # standard input is at its end, closed, or not there


def safe(text: str) -> str:
    """Replace control characters: what a model or a file says must not steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


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
    kept = [tuple(shorten(c, wide) for c in row[:-1]) + row[-1:] for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*kept, strict=True))[:-1]]
    return "\n".join((indent + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])).rstrip() for row in kept)


def value(given: Any) -> str:
    """Show an output's value: text as it is, data as JSON, the rest by what it is."""
    from ..values import Absent, Audio, File, Folder, Image, Mask, Model, Tensor

    if isinstance(given, str):
        return safe(given) if sys.stdout.isatty() else given
    if isinstance(given, Image | Mask):
        return f"{'a picture' if isinstance(given, Image) else 'a mask'} of {given.width} × {given.height} (no path: not written)"
    if isinstance(given, Tensor):
        return f"a tensor of {' × '.join(map(str, given.shape)) or 'one number'}, {given.dtype}"
    if isinstance(given, Audio):
        return f"{given.samples.shape[1] / given.rate:.1f} s of sound"
    if isinstance(given, File | Folder | Model):
        return str(given.path)
    if isinstance(given, Absent):
        return "absent"
    import json

    try:
        return json.dumps(given, ensure_ascii=False)
    except (TypeError, ValueError):
        if isinstance(given, list | tuple):
            return f"a list of {len(given)}" + (f": {value(given[0])}, …" if given else "")
        return f"a value of type {type(given).__name__}"
