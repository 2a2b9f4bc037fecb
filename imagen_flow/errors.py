"""Problems, marks and exceptions.

There are two kinds of faults, which are never mixed:

* A **problem** is found in something that a user wrote (a graph, an option, a file). Problems are
  values: they are collected, sorted into file order and all shown at once.
* An **error** is raised while a step runs. It names the node and chains its cause.

::

    ImagenFlowError
    ├── GraphError          problems of a graph or of its inputs; carries all of them
    ├── NodeError           a node failed while running; names node, item and mark
    ├── OutputError         an output cannot be written
    ├── ModelError          a model cannot be found, trusted or loaded
    ├── ProvenanceError     provenance is missing, damaged or unusable
    ├── StoreError          the store cannot be used
    └── Cancelled           the run was cancelled
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from ._system.dataclass import dataclass

__all__ = [
    "CODES",
    "MAX_PROBLEMS",
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


class Source:
    """A text that problems refer to: a file's name as the user knows it, and its content.

    Params:
        text: the text, or a function that writes it when it is first needed.
    """

    def __init__(self, name: str, text: str | Callable[[], str]) -> None:
        self.name = name
        self._text = text

    def __repr__(self) -> str:
        return f"Source({self.name!r})"

    @functools.cached_property
    def text(self) -> str:
        """The whole text."""
        return self._text if isinstance(self._text, str) else self._text()

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines of the text, without line ends."""
        return [line.rstrip("\r") for line in self.text.split("\n")]

    @functools.cached_property
    def starts(self) -> list[int]:
        """The index at which each line starts."""
        return [0, *(end.end() for end in re.finditer("\n", self.text))]

    def line(self, number: int) -> str:
        """Return line `number` (from 1), or an empty string if the text is shorter."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def mark(self, start: int, end: int) -> Mark:
        """Mark the text between two indexes; if it spans several lines, its part of the first."""
        return Mark.located(self, functools.partial(self._locate, start, end))

    def _locate(self, start: int, end: int) -> tuple[int, int, int]:
        starts = self.starts
        line = bisect_right(starts, start)
        stop = starts[line] - 1 if line < len(starts) else len(self.text)
        return line, start - starts[line - 1] + 1, max(1, min(end, stop) - start)


class Mark:
    """A position: source, line and column (both from 1), and the width of the marked text.

    Every word has one and hardly any is ever shown, so a mark may work out its place when it is
    first asked for it.
    """

    __slots__ = ("source", "_place")

    def __init__(self, source: Source, line: int, column: int, width: int = 1) -> None:
        self.source = source
        self._place: tuple[int, int, int] | Callable[[], tuple[int, int, int]] = (
            line,
            column,
            width,
        )

    @classmethod
    def located(cls, source: Source, locate: Callable[[], tuple[int, int, int]]) -> Mark:
        """Mark what a function finds: line, column and width."""
        mark = cls.__new__(cls)
        mark.source = source
        mark._place = locate
        return mark

    @property
    def place(self) -> tuple[int, int, int]:
        """Line, column and width."""
        if not isinstance(self._place, tuple):
            self._place = self._place()
        return self._place

    @property
    def line(self) -> int:
        """The line, from 1."""
        return self.place[0]

    @property
    def column(self) -> int:
        """The column, from 1."""
        return self.place[1]

    @property
    def width(self) -> int:
        """How many characters are marked."""
        return self.place[2]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mark):
            return NotImplemented
        return self.source is other.source and self.place == other.place

    def __hash__(self) -> int:
        return hash((self.source, self.place))

    def __repr__(self) -> str:
        return f"Mark({self.source!r}, {self.line}, {self.column}, {self.width})"

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


#: Every problem code, with a one-line description. The gallery in tests/problems/ has a broken
#: graph for each.
CODES: dict[str, str] = {
    "syntax": "the text is neither YAML 1.2 nor JSON",
    "unquoted-reference": "a reference in a flow mapping needs quotes",
    "not-utf8": "the file is not UTF-8 text",
    "unreadable": "the file cannot be read",
    "too-large": "the file is larger than a graph file may be",
    "too-deep": "the text is nested too deeply",
    "yaml-feature": ("anchors, aliases, tags, merge keys and multiple documents are not supported"),
    "duplicate-key": "a mapping has the same key twice",
    "bad-shape": "a mapping, list or scalar where another is expected",
    "unknown-version": "the format version is not supported",
    "unknown-key": "a key that does not exist",
    "missing-key": "a required key is missing",
    "bad-name": "a name that references cannot use",
    "name-clash": "an input and a node, or two outputs of a node, have the same name",
    "bad-reference": "a reference with invalid syntax",
    "unknown-reference": "a reference to a node or an input that does not exist",
    "unknown-output": "a reference to an output that the node does not have",
    "unknown-node-type": "no plugin provides this node type",
    "broken-plugin": "the plugin that provides this node type cannot be loaded",
    "unknown-port": "the node has no such input port",
    "missing-port": "a required input port has no value",
    "type-mismatch": "an edge connects incompatible types",
    "list-into-single": "a list is connected to a port that takes a single value",
    "bad-literal": "a literal does not fit its port",
    "bad-template": "a value inside text cannot be converted to text",
    "bad-path": "an output path that cannot be used",
    "duplicate-path": "two outputs are written to one path",
    "bad-setting": "a setting that does not exist or has a wrong value",
    "cycle": "nodes depend on each other in a cycle",
    "file-cycle": "graph files include each other",
    "too-many-steps": "the graph has more steps than the limit",
    "unused-input": "an input that is not used",
    "no-outputs": "the graph has no outputs",
    "missing-input": "an input without a default has no value",
    "unknown-input": "a value for an input that the graph does not have",
    "bad-input": "a value given to an input does not fit its type",
    "unknown-axis": "a sweep over an input that the graph does not have",
    "bad-sweep": "a sweep whose values cannot be used, or differ in number",
    "too-many-items": "a sweep has more items than the limit",
    "bad-model": "a model reference with invalid syntax",
    "unresolved-model": "a model that is not on this machine",
    "missing-library": "a library that a node type requires is not installed",
    "missing-file": "a file or folder that does not exist",
    "untrusted-setting": "a folder in the settings that the user has not trusted",
    "untrusted-plugin": "a local plugin in the settings that the user has not trusted",
}


#: At most this many problems are shown, and get suggestions; the rest are counted.
MAX_PROBLEMS = 100

#: At most this many candidates are compared with a word.
_MAX_CANDIDATES = 2_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in what a user wrote: what, where, why, and how to fix it.

    `code` is a key of `CODES`; `severity` is ``error`` or ``warning`` (a warning refuses nothing).
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
    def position(self) -> tuple[str, int, int]:
        """The sort key: file, line and column."""
        return (
            (self.mark.source.name, self.mark.line, self.mark.column) if self.mark else ("", 0, 0)
        )


def _cut(text: str, limit: int = 2_000) -> str:
    """Cut overlong text in the middle, so that its end stays visible."""
    return text if len(text) <= limit else f"{text[: limit - 200]} … {text[-200:]}"


def first_problems(problems: Iterable[Problem]) -> tuple[list[Problem], str]:
    """Return the problems to show (if there are too many, the first ones, errors before warnings),
    and a text that counts the others.
    """
    all_problems = list(problems)
    chosen = sorted(
        sorted(range(len(all_problems)), key=lambda i: (all_problems[i].severity != "error", i))[
            :MAX_PROBLEMS
        ]
    )
    remaining = len(all_problems) - len(chosen)
    return [all_problems[i] for i in chosen], f"and {remaining:,} more" if remaining else ""


def as_texts(problems: Iterable[Problem]) -> list[str]:
    """Return problems as they are printed, with the count of those that are not shown."""
    shown, rest = first_problems(problems)
    return [*map(str, shown), *([rest] if rest else [])]


def _excerpt(text: str, mark: Mark, limit: int = 160) -> list[str]:
    """Return the marked line with a caret line below it; a very long line is cut around the
    mark.
    """
    start = 0
    column = mark.column - 1
    if len(text) > limit:
        start = max(0, min(column - limit // 3, len(text) - limit))
        text = text[start : start + limit]
        column -= start
    gutter = f"{mark.line} | "
    # The caret line copies tabs, and replaces wide characters by wide spaces, to stay aligned.
    pad = "".join("\t" if c == "\t" else "\u3000" if _is_wide(c) else " " for c in text[:column])
    width = max(1, min(mark.width, len(text) - column))
    return [gutter + text, " " * (len(gutter) - 2) + "| " + pad + "^" * width]


def _is_wide(character: str) -> bool:
    import unicodedata

    return unicodedata.east_asian_width(character) in "WF"


class ImagenFlowError(Exception):
    """The base of everything that imagen_flow raises deliberately. Its text is safe to print,
    whatever it quotes.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class GraphError(ImagenFlowError):
    """A graph, or what was given to it, has problems; `problems` has all of them, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda p: p.position))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n\n".join(as_texts(self.problems))


class NodeError(ImagenFlowError):
    """A node failed while running. The cause is chained; `problem` describes it as a problem,
    `raised_at` is the line of the node's code.
    """

    def __init__(
        self,
        node: str,
        message: str,
        *,
        mark: Mark | None = None,
        item: str = "",
        code: str = "node-failed",
        raised_at: str = "",
    ) -> None:
        self.node = node
        self.item = item
        self.message = message
        self.raised_at = raised_at
        what, *advice = re.split(r"\n  = (?=why: |fix: )", message)
        parts = dict(line.split(": ", 1) for line in advice)
        self.problem = Problem(
            code,
            f"{node}{f' ({item})' if item else ''}: {what}",
            mark,
            why=f"raised at {raised_at}" if raised_at else parts.get("why", ""),
            fix=parts.get("fix", ""),
        )
        super().__init__(node, message)

    def __str__(self) -> str:
        return str(self.problem)


class OutputError(ImagenFlowError):
    """An output cannot be written."""


class ModelError(ImagenFlowError):
    """A model cannot be found, trusted or loaded."""


class ProvenanceError(ImagenFlowError):
    """Provenance is missing, damaged or unusable."""


class StoreError(ImagenFlowError):
    """The store cannot be opened, read or written."""


class Cancelled(ImagenFlowError):
    """The run was cancelled."""


#: Control characters except for tabs and line ends, and characters that reorder text or end a line
#: invisibly.
_CONTROLS = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\r(?!\n)"


def printable(text: str) -> str:
    """Replace control characters: text from a file, a model or a plugin must not control the
    terminal or disguise itself.
    """
    return re.sub(_CONTROLS, "\N{REPLACEMENT CHARACTER}", text)


def nearest(word: str, candidates: Iterable[str], *, what: str = "") -> str:
    """Suggest how to fix an unknown word: the most similar candidate, or the list of them.

    >>> nearest("widht", ["width", "height"]) "did you mean 'width'?"
    """
    known: Sequence[str] = sorted(set(candidates))
    if len(known) > _MAX_CANDIDATES:
        known = [
            candidate
            for candidate in known
            if abs(len(candidate) - len(word)) <= 2 and candidate[:2] == word[:2]
        ][:_MAX_CANDIDATES]
        what = ""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return ""
    shown = ", ".join(known[:24]) + (", …" if len(known) > 24 else "")
    return f"{what or 'one of'}: {shown}"
