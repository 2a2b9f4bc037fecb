"""Say what is wrong: marks, problems and the drawn exception tree.

Two kinds of fault, never mixed:

* a **problem** is found in something a user wrote (a graph, an option, a file). Problems are
  values: they are
  gathered, sorted into file order and all shown at once.
* an **error** is raised while a step runs. It names the node and chains its cause.

::

    ImagenFlowError
    ├── GraphError          problems of a graph, or of what was given to it; carries them all
    ├── NodeError           a node failed while running; names node, item and mark
    ├── OutputError         an output cannot be written
    ├── ModelError          a model cannot be found, trusted or loaded
    ├── ProvenanceError     provenance is missing, damaged or of a kind that cannot be used
    ├── StoreError          the store cannot be used
    └── Cancelled           the run was asked to stop
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = [
    "CODES",
    "MOST_PROBLEMS",
    "Cancelled",
    "GraphError",
    "ImagenFlowError",
    "Mark",
    "ModelError",
    "NodeError",
    "OutputError",
    "Problem",
    "ProvenanceError",
    "Source",
    "StoreError",
    "as_texts",
    "first_problems",
    "nearest",
    "printable",
]


@dataclass(frozen=True, eq=False)
class Source:
    """A text that problems can point into: a file's name as the user knows it, and its text."""

    name: str
    text: str = field(repr=False)

    @functools.cached_property
    def lines(self) -> list[str]:
        """The text's lines, without their ends."""
        return [line.rstrip("\r") for line in self.text.split("\n")]

    def line(self, number: int) -> str:
        """Return line `number` (from 1), or nothing if the text is shorter."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a word stands: its source, line and column (both from 1) and how wide it is."""

    source: Source
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


#: Every problem code, and what it means in one line. The gallery in tests/problems/ has a broken
#: graph for each.
CODES: dict[str, str] = {
    "syntax": "the text is neither YAML 1.2 nor JSON",
    "unquoted-reference": "a reference in a flow mapping needs quotes",
    "not-utf8": "the file is not UTF-8 text",
    "unreadable": "the file cannot be read",
    "too-large": "the file is larger than a graph may be",
    "too-deep": "the text is nested deeper than a graph may be",
    "yaml-feature": (
        "anchors, aliases, tags, merge keys and second documents are not part of a graph"
    ),
    "duplicate-key": "a mapping has the same key twice",
    "bad-shape": "a mapping, list or word stands where another is wanted",
    "unknown-version": "the graph's format version is not known",
    "unknown-key": "a key that the format does not have",
    "missing-key": "a key that the format needs is missing",
    "bad-name": "a name that cannot be referred to",
    "name-clash": "an input and a node have the same name",
    "bad-reference": "a reference that cannot be read",
    "unknown-reference": "a reference to a node or an input that does not exist",
    "unknown-output": "a reference to an output that the node does not have",
    "unknown-node-type": "no plugin offers this node type",
    "broken-plugin": "the plugin that offers this node type cannot be loaded",
    "unknown-port": "the node has no such input port",
    "missing-port": "a required input port is given nothing",
    "type-mismatch": "an edge joins two types that do not fit",
    "list-into-single": "a list is joined to a port that takes one value",
    "bad-literal": "a literal does not fit its port",
    "bad-template": "a value inside text cannot be written as text",
    "bad-path": "an output path that cannot be used",
    "duplicate-path": "two outputs are written to one path",
    "bad-setting": "a setting that does not exist or has a wrong value",
    "cycle": "nodes wait for each other",
    "file-cycle": "graph files include each other",
    "too-many-steps": "the graph comes to more steps than may be planned",
    "unused-input": "an input that nothing refers to",
    "no-outputs": "the graph has no outputs",
    "missing-input": "an input without default is given nothing",
    "unknown-input": "a value for an input that the graph does not have",
    "bad-input": "a value given to an input does not fit its type",
    "bad-model": "a model reference that cannot be read",
    "unresolved-model": "a model that is not on this machine",
    "missing-library": "a library that a node type says it uses is not installed",
    "missing-file": "a file or folder that does not exist",
    "untrusted-setting": "a place that the settings name and the user has not trusted",
    "untrusted-plugin": "a local plugin that the settings name and the user has not trusted",
}


#: More problems than this are counted, not shown, and nobody looks for what may have been meant.
MOST_PROBLEMS = 100

#: More candidates than this are not compared with a word one by one.
_MOST_CANDIDATES = 2_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in what a user wrote: what, where, why, and how to mend it.

    `code` is a word of `CODES`; `severity` is ``error`` or ``warning`` (a warning refuses nothing).
    """

    code: str
    message: str
    mark: Mark | None = None
    why: str = ""
    fix: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        head = f"{self.mark}: " if self.mark else ""
        lines = [f"{head}{self.severity}[{self.code}]: {_cut(self.message)}"]
        if self.mark and (text := self.mark.source.line(self.mark.line)).strip():
            lines += _excerpt(text, self.mark)
        if self.why:
            lines.append(f"  = why: {_cut(self.why)}")
        if self.fix:
            lines.append(f"  = fix: {_cut(self.fix)}")
        return printable("\n".join(lines))

    @property
    def place(self) -> tuple[str, int, int]:
        """Order problems by file, line and column."""
        return (
            (self.mark.source.name, self.mark.line, self.mark.column) if self.mark else ("", 0, 0)
        )


def _cut(words: str, limit: int = 2_000) -> str:
    """Cut words that somebody made endless in the middle, so that their end is seen too."""
    return words if len(words) <= limit else f"{words[: limit - 200]} … {words[-200:]}"


def first_problems(problems: Iterable[Problem]) -> tuple[list[Problem], str]:
    """Give the problems to show, of too many the first ones, errors before warnings; and the words
    that count the rest.
    """
    every = list(problems)
    chosen = sorted(
        sorted(range(len(every)), key=lambda i: (every[i].severity != "error", i))[:MOST_PROBLEMS]
    )
    rest = len(every) - len(chosen)
    return [every[i] for i in chosen], f"and {rest:,} more" if rest else ""


def as_texts(problems: Iterable[Problem]) -> list[str]:
    """Give problems as they are printed, the count of what is not shown among them."""
    shown, rest = first_problems(problems)
    return [*map(str, shown), *([rest] if rest else [])]


def _excerpt(text: str, mark: Mark, limit: int = 160) -> list[str]:
    """Show the marked line and a caret below it; a very long line is cut around the mark."""
    start = 0
    column = mark.column - 1
    if len(text) > limit:
        start = max(0, min(column - limit // 3, len(text) - limit))
        text = text[start : start + limit]
        column -= start
    gutter = f"{mark.line} | "
    # Tabs keep their width in the line and wide characters take two columns, so the caret line
    # copies both.
    pad = "".join("\t" if c == "\t" else "\u3000" if _is_wide(c) else " " for c in text[:column])
    width = max(1, min(mark.width, len(text) - column))
    return [gutter + text, " " * (len(gutter) - 2) + "| " + pad + "^" * width]


def _is_wide(character: str) -> bool:
    import unicodedata

    return unicodedata.east_asian_width(character) in "WF"


class ImagenFlowError(Exception):
    """Anything that imagen_flow raises on purpose. Its words are safe to print, whatever they
    quote.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class GraphError(ImagenFlowError):
    """A graph, or what was given to it, has problems; `problems` holds them all, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda p: p.place))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n\n".join(as_texts(self.problems))


class NodeError(ImagenFlowError):
    """A node failed while running. The cause is chained; `problem` says it in the form of a
    problem, `place` where in its code it was raised.
    """

    def __init__(
        self,
        node: str,
        message: str,
        *,
        mark: Mark | None = None,
        item: str = "",
        code: str = "node-failed",
        place: str = "",
    ) -> None:
        self.node = node
        self.item = item
        self.message = message
        self.place = place
        self.problem = Problem(
            code,
            f"{node}{f' ({item})' if item else ''}: {message}",
            mark,
            why=f"raised at {place}" if place else "",
        )
        super().__init__(node, message)

    def __str__(self) -> str:
        return str(self.problem)


class OutputError(ImagenFlowError):
    """An output cannot be written where the graph says."""


class ModelError(ImagenFlowError):
    """A model cannot be found, trusted or loaded."""


class ProvenanceError(ImagenFlowError):
    """Provenance is missing, damaged or of a kind that cannot be used."""


class StoreError(ImagenFlowError):
    """The store cannot be opened, read or written."""


class Cancelled(ImagenFlowError):
    """The run was asked to stop."""


#: Control characters but for tabs and line ends; and what reorders a line of text, or ends it where
#: no line end is seen.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)


def printable(text: str) -> str:
    """Replace control characters: what a file, a model or a plugin says must not steer the
    terminal, nor look like something else.
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def nearest(word: str, candidates: Iterable[str], *, what: str = "") -> str:
    """Say how to mend an unknown word: the nearest candidate, or the list of them.

    >>> nearest("widht", ["width", "height"])
    "did you mean 'width'?"
    """
    known: Sequence[str] = sorted(set(candidates))
    if len(known) > _MOST_CANDIDATES:
        known = [one for one in known if abs(len(one) - len(word)) <= 2 and one[:2] == word[:2]][
            :_MOST_CANDIDATES
        ]
        what = ""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return ""
    shown = ", ".join(known[:24]) + (", …" if len(known) > 24 else "")
    return f"{what or 'one of'}: {shown}"
