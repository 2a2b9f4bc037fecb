"""Words: what the readers of a text make of it, each with its position.

A position is where a word starts and ends in its text. Line and column are worked out from it when
somebody asks, which is when a problem is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from .._system.dataclass import dataclass
from ..errors import Mark, Problem, Source

__all__ = [
    "INT",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_WORDS",
    "NAME",
    "UNREADABLE",
    "REFERENCE",
    "Pair",
    "ParsedText",
    "Positions",
    "Reference",
    "Template",
    "Unreadable",
    "Word",
    "find_in",
    "interpolate",
    "plain_scalar",
]

#: Limits that no hand-written graph reaches and that bound the cost of a hostile one to seconds.
MAX_BYTES = 8 * 2**20
MAX_DEPTH = 64
MAX_WORDS = 200_000
MAX_DIGITS = 1_000

#: A name in ``${name.port}``, and so of a node, an input or an output.
NAME = re.compile(r"[^\W\d][\w-]*")
REFERENCE = re.compile(rf"\$\{{({NAME.pattern})(?:\.({NAME.pattern}))?\}}")

#: ``$$``, a reference (closed or not), or nothing: a ``$`` before anything else is itself.
_DOLLAR = re.compile(r"\$\$|\$\{([^}\n]*)(\}?)")

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)


class Unreadable:
    """The type of ``UNREADABLE``, the only value of words that a problem has been reported for. It
    fits every type.
    """

    def __repr__(self) -> str:
        return "UNREADABLE"


UNREADABLE = Unreadable()


class Positions(Protocol):
    """What positions count in: a `Source`, whose characters they count, or a graph that was
    composed in Python.
    """

    def mark(self, start: int, end: int) -> Mark:
        """Give the line and column of a position."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """``${name}`` or ``${name.port}``."""

    name: str
    port: str | None
    text: Positions
    start: int
    end: int

    @property
    def mark(self) -> Mark:
        """Where it is written."""
        return self.text.mark(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Template:
    """Text with references inside it: texts and references, in order."""

    parts: tuple[str | Reference, ...]


@dataclass(slots=True)  # not frozen, which doubles the time that reading takes; nothing changes one
class Word:
    """Something written: a scalar (None, bool, int, float, str), a Reference, a Template, a tuple
    of Words, a dict of Pairs, or UNREADABLE.
    """

    value: Any
    text: Positions
    start: int = 0
    end: int = 0

    @property
    def mark(self) -> Mark:
        """Where it is written."""
        return self.text.mark(self.start, self.end)

    @property
    def unreadable(self) -> Word:
        """The same word without its value."""
        return replace(self, value=UNREADABLE)


@dataclass(slots=True)
class Pair:
    """A key of a mapping, as text, and its value."""

    key: Word
    value: Word


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A text and its content. `word` is None if the text could not be read to its end, so that
    missing parts cannot be reported.
    """

    source: Source
    word: Word | None
    problems: tuple[Problem, ...]


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Resolve an unquoted scalar by the core schema of YAML 1.2; an integer of more than
    `MAX_DIGITS` digits stays text.
    """
    if text in _NULL:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if text[0] in "-+.0123456789":
        if INT.match(text):
            return (
                int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                if len(text) <= MAX_DIGITS
                else text
            )
        if _FLOAT.match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def interpolate(
    text: str,
    positions: Positions,
    *,
    locate: Callable[[str], tuple[int, int]],
    refuse: Callable[[str, tuple[int, int]], None],
) -> str | Reference | Template | Unreadable:
    """Read the references in a text: the text itself if there are none, a Reference if there is
    nothing else, else a Template; UNREADABLE if one was refused.

    Params:
        locate: gives the position of each ``${…}`` and ``$$``, called in their order.
        refuse: called with each ``${…}`` that is not a reference, and its position.
    """
    if (whole := REFERENCE.fullmatch(text)) is not None:
        return Reference(whole[1], whole[2], positions, *locate(text))
    parts: list[str | Reference] = []
    written, last, is_valid = "", 0, True
    for dollar in _DOLLAR.finditer(text):
        start, end = locate(dollar[0])
        written += text[last : dollar.start()]
        last = dollar.end()
        if dollar[0] == "$$":
            written += "$"
        elif (found := REFERENCE.fullmatch(dollar[0])) is None:
            refuse(dollar[0], (start, end))
            is_valid = False
        else:
            parts += [written, Reference(found[1], found[2], positions, start, end)]
            written = ""
    written += text[last:]
    if not is_valid:
        return UNREADABLE
    return Template(tuple(part for part in (*parts, written) if part != "")) if parts else written


def find_in(text: str, start: int, end: int) -> Callable[[str], tuple[int, int]]:
    """Return what finds each reference of a word in the file, one after the other: escapes and
    folded lines move what follows them.
    """
    cursor = start

    def locate(written: str) -> tuple[int, int]:
        nonlocal cursor
        at = text.find(written, cursor, end)
        span = (at, at + len(written)) if at >= 0 else (start, end)
        cursor = span[1]
        return span

    return locate
