"""Read text as words: YAML 1.2 (core schema) or JSON, each word with the mark where it stands.
Knows nothing of graphs.

The floor below `spec`, and the only module that knows ruamel.yaml. It walks the parser's events,
never its trees: composing resolves
aliases, recurses, and drops what comes twice. Scalars are resolved here, because ruamel reads
``1_000`` as a number and a date as a date.
References are words too, so ``${…}`` is read here and has a mark of its own.

Nothing here raises for bad text: what cannot be read becomes a problem, and a Word whose value is
UNREADABLE stands in its place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import Mark, Problem, Source

__all__ = [
    "NAME",
    "UNREADABLE",
    "Pair",
    "Reference",
    "Template",
    "Unreadable",
    "Word",
    "Written",
    "plain_scalar",
    "read_words",
]

#: Limits that no graph of a person reaches, and that keep a hostile one from costing more than
# some seconds.
MAX_BYTES = 8 * 2**20
MAX_DEPTH = 64
MAX_WORDS = 200_000
MAX_PROBLEMS = 100
MAX_DIGITS = 1_000

#: What may stand for a name in ``${name.port}``, and so what a node, an input or an output may be
# called.
NAME = re.compile(r"[^\W\d][\w-]*")


class Unreadable:
    """The value of a word that a problem already speaks of. There is one: ``UNREADABLE``. It fits
    everywhere.
    """

    def __repr__(self) -> str:
        return "UNREADABLE"


UNREADABLE = Unreadable()


@dataclass(frozen=True, slots=True)
class Reference:
    """``${name}`` or ``${name.port}``."""

    name: str
    port: str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Template:
    """Text with references inside it: texts and references, in order."""

    parts: tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """Something written: a scalar (None, bool, int, float, str), a Reference, a Template, a tuple
    of Words, a dict of Pairs, or UNREADABLE.
    """

    value: Any
    mark: Mark


@dataclass(frozen=True, slots=True)
class Pair:
    """A key of a mapping, as text, and what stands under it."""

    key: Word
    value: Word


@dataclass(frozen=True, slots=True)
class Written:
    """A text and what it says. `word` is None where the text breaks off, so that nothing can be
    said about what it lacks.
    """

    source: Source
    word: Word | None
    problems: tuple[Problem, ...]


def read_words(text: str | bytes, *, name: str, references: bool = True) -> Written:
    """Read one document of YAML or JSON.

    Params:
        references: whether ``${…}`` and ``$$`` mean something. They do not in text that is no
            graph's.
    """
    if len(text) > MAX_BYTES:
        return Written(Source(name, ""), None, (too_large(name),))
    if isinstance(text, bytes):
        data = text
        if strange := _no_text(data, name):
            return strange
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as odd:
            return _not_utf8(data, odd, name)
    source = source_of(text, name)
    reader = _Reader(source, references)
    try:
        word: Word | None = reader.document()
    except _BreaksOff:
        word = None
    return Written(source, word, tuple(sorted(reader.problems, key=lambda p: p.position)))


def source_of(text: str, name: str) -> Source:
    """The text that marks point into: without its byte order mark, and with one kind of line end."""
    return Source(name, re.sub(r"\r\n?", "\n", text.removeprefix("\ufeff")))


def too_large(name: str) -> Problem:
    """Say that a file is larger than a graph may be."""
    mark = Mark(Source(name, ""), 1, 1)
    return Problem(
        "too-large",
        f"a graph file has at most {MAX_BYTES >> 20} MiB",
        mark,
        fix="put data into files of its own, and name them in the graph",
    )


#: How other kinds of files begin that are taken for graphs by mistake.
_KINDS = {
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"RIFF": "a picture or a sound",
    b"GIF8": "a picture",
    b"II*\0": "a picture",
    b"MM\0*": "a picture",
    b"PK\x03\x04": "an archive",
    b"\x1f\x8b": "an archive",
    b"%PDF-": "a PDF",
}


def _no_text(data: bytes, name: str) -> Written | None:
    """Refuse what is plainly no text, in words that say what it is; UTF-16 without a mark of its
    own is told by its zeros.
    """
    kind = next((words for start, words in _KINDS.items() if data.startswith(start)), "")
    if not kind and (data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" not in data[:4096]):
        return None
    source = Source(name, "")
    zeros = data[:4096].count(0)
    if (
        not kind
        and max(data[:4096:2].count(0), data[1:4096:2].count(0)) == zeros
        and zeros > len(data[:4096]) // 3
    ):
        problem = Problem(
            "not-utf8",
            "the file is UTF-16",
            Mark(source, 1, 1),
            "a graph is UTF-8 text",
            "save the file as UTF-8",
        )
    else:
        mends = (
            "name a graph file; 'imagen-flow replay' runs the graph that a picture carries"
            if "picture" in kind
            else "name a graph file"
        )
        problem = Problem(
            "not-utf8",
            f"the file is {kind or 'not text'}",
            Mark(source, 1, 1),
            "" if kind else "it holds zero bytes",
            mends,
        )
    return Written(source, None, (problem,))


def _not_utf8(data: bytes, odd: UnicodeDecodeError, name: str) -> Written:
    before = data[: odd.start].decode("utf-8")
    source = Source(name, data.decode("utf-8", "replace").replace("\0", "\ufffd"))
    mark = Mark(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    why = "the file is UTF-16" if utf16 else f"{odd.reason}, at byte {odd.start} of the file"
    problem = Problem(
        "not-utf8",
        f"byte 0x{data[odd.start]:02x} is not UTF-8 text",
        mark,
        why,
        "save the file as UTF-8",
    )
    return Written(source, None, (problem,))


#: What ends a key, in YAML and in JSON without spaces.
_KEY_END = re.compile(r'(?<!\\)":|:(?=[ \t]|\Z)')
_BLOCK = re.compile(r"(?:: |- |\A)[|>][-+0-9]*[ \t]*(?:#.*)?\Z")


def _past_limit(text: str) -> int | None:
    """Find where a text has more words than a graph may have, without reading it: by its keys, each
    of which is a word with a value. Reading it would take half a minute.

    What lies in a block of text is no key. A colon inside other text is counted as one, of which no
    text of a person has as many as it takes.
    """
    if len(text) < 4 * MAX_WORDS:
        return None
    at = count = 0
    inside: int | None = None
    for line in text.split("\n"):
        start = line.lstrip(" ")
        indent = len(line) - len(start)
        if start and not start.startswith("#") and (inside is None or indent <= inside):
            count += 2 * len(_KEY_END.findall(line))
            if count > MAX_WORDS:
                return at + indent
            inside = indent if _BLOCK.search(start) else None
        at += len(line) + 1
    return None


class _BreaksOff(Exception):
    """Nothing more can be read; a problem says why."""


# ruamel takes these for line breaks or leaves them out of columns, as YAML 1.1 did; in YAML 1.2
# they are plain characters. And braces of an
# unquoted reference end a word in a flow mapping. All of them go through ruamel as noncharacters of
# the same width, so that no index moves.
_HIDDEN = "\x85\u2028\u2029\ufeff{}"
_BRACED = re.compile(r"\$\{([^{}\[\],:\n\"']*)\}")
_FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_PAIRED = re.compile("[\ud800-\udbff][\udc00-\udfff]")

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)

#: ``$$``, a reference (closed or not), or nothing: a ``$`` before anything else is itself.
_DOLLAR = re.compile(r"\$\$|\$\{([^}\n]*)(\}?)")


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Read a scalar without quotes by the core schema of YAML 1.2; a whole number of more than
    `MAX_DIGITS` digits stays text.
    """
    if text in _NULL:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if text[0] in "-+.0123456789":
        if _INT.match(text):
            return (
                int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                if len(text) <= MAX_DIGITS
                else text
            )
        if _FLOAT.match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read: what it holds so far, and the key that waits for its
    value.
    """

    items: list[Word] | dict[str, Pair]
    start: int
    flow: bool
    key: Word | None = None
    #: Whether the next thing is the value of a key that was refused, to be read and dropped.
    refused: bool = False


@dataclass
class _Reader:
    source: Source
    references: bool = True
    problems: list[Problem] = field(default_factory=list)
    #: The mappings and lists that are being read, outermost first: depth costs no recursion.
    stack: list[_Open] = field(default_factory=list)
    #: The characters that noncharacters stand for, while ruamel reads.
    shown: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = self.source.text
        self.starts = [0, *(m.end() for m in re.finditer("\n", self.text))]

    # ---- places and problems

    def mark(self, start: int, end: int) -> Mark:
        """Mark what stands between two indexes; of several lines, what stands on the first."""
        line = bisect_right(self.starts, start)
        stop = self.starts[line] - 1 if line < len(self.starts) else len(self.text)
        return Mark(
            self.source, line, start - self.starts[line - 1] + 1, max(1, min(end, stop) - start)
        )

    def say(
        self, code: str, message: str, start: int, end: int, *, why: str = "", fix: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, self.mark(start, end), why, fix))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _BreaksOff

    def refuse(
        self, code: str, message: str, start: int, end: int, *, why: str = "", fix: str = ""
    ) -> _BreaksOff:
        self.problems.append(Problem(code, message, self.mark(start, end), why, fix))
        return _BreaksOff()

    # ---- the walk

    def document(self) -> Word:
        """Read the only document."""
        if (past := _past_limit(self.text)) is not None:
            raise self.too_many_words(past)
        root: Word | None = None
        stack = self.stack
        count = documents = 0
        for event in self.events():
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    self.feature(
                        "a second document", event.start_mark.index, fix="keep one graph a file"
                    )
                    break
                if event.tags or event.version not in (None, (1, 2)):
                    self.feature(
                        "a directive",
                        self.text.rfind("\n%", 0, event.start_mark.index) + 1,
                        fix="remove the line that starts with '%'",
                    )
                continue
            start, end = event.start_mark.index, event.end_mark.index
            if kind in ("ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"):
                count += 1
                if count > MAX_WORDS:
                    raise self.too_many_words(start)
                self.plain_yaml(event, kind)
            if kind in ("MappingStartEvent", "SequenceStartEvent"):
                if len(stack) >= MAX_DEPTH:
                    raise self.refuse(
                        "too-deep", f"a graph is nested at most {MAX_DEPTH} deep", start, start + 1
                    )
                stack.append(
                    _Open({} if kind == "MappingStartEvent" else [], start, bool(event.flow_style))
                )
                continue
            if kind in ("MappingEndEvent", "SequenceEndEvent"):
                done = stack.pop()
                stop = (
                    end if done.flow else len(self.text[done.start : start].rstrip()) + done.start
                )
                word = Word(
                    tuple(done.items) if isinstance(done.items, list) else done.items,
                    self.mark(done.start, stop),
                )
                start, end = done.start, stop
            elif kind == "AliasEvent":
                word = Word(UNREADABLE, self.mark(start, end))
            elif kind == "ScalarEvent":
                holder = stack[-1] if stack else None
                if (
                    holder
                    and isinstance(holder.items, dict)
                    and holder.key is None
                    and not holder.refused
                ):
                    self.begin_pair(holder, event, start, end)
                    continue
                word = Word(
                    self.scalar(event, start, end, flow=bool(holder and holder.flow)),
                    self.mark(start, end),
                )
            else:
                continue
            if not stack:
                root = word
            else:
                self.put(stack[-1], word, start, end)
        if root is None:
            return Word(None, self.mark(0, 0))
        return root

    def too_many_words(self, at: int) -> _BreaksOff:
        return self.refuse(
            "too-large",
            f"a graph has at most {MAX_WORDS:,} words",
            at,
            at,
            fix="split the graph into files that are nodes of each other",
        )

    def put(self, holder: _Open, word: Word, start: int, end: int) -> None:
        if isinstance(holder.items, list):
            holder.items.append(word)
        elif holder.refused:
            holder.refused = False
        elif holder.key is None:
            self.say("bad-shape", "a key is a word, not a mapping or a list", start, end)
            holder.refused = True
        else:
            holder.items[holder.key.value] = Pair(holder.key, word)
            holder.key = None

    def begin_pair(self, holder: _Open, event: Any, start: int, end: int) -> None:
        assert isinstance(holder.items, dict)
        text = event.value.translate(self.shown)
        if event.style in (None, ""):
            if text == "<<":
                self.feature("a merge key", start, end, fix="write the keys out")
                holder.refused = True
                return
            self.unquoted(text, start, end, flow=holder.flow)
        elif not (joined := self.joined(text, start, end)):
            text = "" if joined is None else joined
        else:
            text = joined
        first = holder.items.get(text)
        if first is not None:
            self.say(
                "duplicate-key",
                f"'{text}' is written twice",
                start,
                end,
                why=f"it stands in line {first.key.mark.line} already",
                fix="keep one of them",
            )
            holder.refused = True
            return
        holder.key = Word(text, self.mark(start, end))

    def feature(self, what: str, start: int, end: int | None = None, *, fix: str) -> None:
        self.say(
            "yaml-feature",
            f"{what} is not part of a graph",
            start,
            start + 1 if end is None else end,
            why="a graph is plain YAML, so that it reads the same everywhere",
            fix=fix,
        )

    def plain_yaml(self, event: Any, kind: str) -> None:
        """Refuse anchors, aliases and tags."""
        start = event.start_mark.index
        if kind == "AliasEvent":
            self.feature(
                f"the alias '*{event.anchor}'",
                start,
                event.end_mark.index,
                fix='make the value an input, and refer to it as "${name}"',
            )
            return
        if event.anchor is not None:
            self.feature(
                f"the anchor '&{event.anchor}'",
                start,
                start + len(event.anchor) + 1,
                fix='make the value an input, and refer to it as "${name}"',
            )
        if event.ctag is not None:
            tag = (
                self.text[start : start + 200].split(maxsplit=1)[0]
                if self.text[start : start + 1] == "!"
                else str(event.tag)
            )
            self.feature(
                f"the tag '{tag}'",
                start,
                start + len(tag),
                fix="write the value without it; text that looks like a number is quoted",
            )

    # ---- scalars

    def scalar(self, event: Any, start: int, end: int, *, flow: bool) -> Any:
        """Resolve a scalar: by the core schema if it is plain, else as text; then its references."""
        text = event.value.translate(self.shown)
        if event.style in (None, ""):
            value = plain_scalar(text)
            if type(value) is not str:
                return value
            if len(text) > MAX_DIGITS and _INT.match(text):
                self.say("bad-literal", f"a number has at most {MAX_DIGITS:,} digits", start, end)
                return UNREADABLE
            self.unquoted(text, start, end, flow=flow)
        elif (joined := self.joined(text, start, end)) is None:
            return UNREADABLE
        else:
            text = joined
        return self.interpolated(text, start, end) if "$" in text and self.references else text

    def joined(self, text: str, start: int, end: int) -> str | None:
        """Join the halves that JSON escapes a character beyond U+FFFF into; None if one stands
        alone.
        """
        if text.isascii():
            return text
        text = _PAIRED.sub(lambda m: m[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        if lone := re.search("[\ud800-\udfff]", text):
            code = f"\\u{ord(lone[0]):04x}"
            at = self.text.lower().find(code, start, end)
            self.say(
                "syntax",
                f"'{code}' is half a character",
                at if at >= 0 else start,
                at + 6 if at >= 0 else end,
                why="characters beyond U+FFFF are escaped as two halves, as in \\ud83d\\ude00",
                fix="write both halves, or the character itself",
            )
            return None
        return text

    def unquoted(self, text: str, start: int, end: int, *, flow: bool) -> None:
        if flow and "${" in text and self.references:
            self.say(
                "unquoted-reference",
                "a reference inside {…} or […] needs quotes",
                start,
                end,
                why="a brace ends an unquoted word there",
                fix=f'quote it: "{text}"',
            )

    # ---- references

    def interpolated(self, text: str, start: int, end: int) -> Any:
        """Read the references in a text: the text itself if there are none, a Reference if there is
        nothing else, else a Template.
        """
        parts: list[str | Reference] = [""]
        cursor, last, good = start, 0, True
        for dollar in _DOLLAR.finditer(text):
            # Where it stands in the file: found again there, since escapes and folded lines move
            # what follows them.
            at = self.text.find(dollar[0], cursor, end)
            place = (at, at + len(dollar[0])) if at >= 0 else (start, end)
            cursor = place[1]
            parts[-1] += text[last : dollar.start()]  # type: ignore[operator]  # the last part is always text
            last = dollar.end()
            if dollar[0] == "$$":
                parts[-1] += "$"  # type: ignore[operator]
                continue
            name, _, port = dollar[1].partition(".")
            if (
                dollar[2]
                and NAME.fullmatch(name)
                and (NAME.fullmatch(port) if "." in dollar[1] else True)
            ):
                parts += [Reference(name, port or None, self.mark(*place)), ""]
            else:
                self.bad_reference(dollar[1], place, closed=bool(dollar[2]))
                good = False
        parts[-1] += text[last:]  # type: ignore[operator]
        parts = [p for p in parts if p != ""]
        if not good:
            return UNREADABLE
        if len(parts) == 1:
            return parts[0]
        return Template(tuple(parts)) if parts else ""

    def bad_reference(self, inside: str, place: tuple[int, int], *, closed: bool) -> None:
        shown = inside if len(inside) <= 60 else inside[:59] + "…"
        why = "a reference is ${name} or ${name.port}; there are no expressions: nodes compute"
        if not closed:
            message, fix = (
                f"'${{{shown}' is not closed",
                "close it with '}', or write '$${' for the characters themselves",
            )
        elif not inside.strip():
            message, fix = (
                "'${" + shown + "}' names nothing",
                "write the name of an input or of a node",
            )
        elif all(NAME.fullmatch(n) for n in inside.strip().split(".", 1)):
            message, fix = (
                f"'${{{shown}}}' has spaces around its name",
                f"write ${{{shown.strip()}}}",
            )
        else:
            message, fix = (
                f"'${{{shown}}}' is no reference",
                (
                    "compute it in a node and refer to that node, or write '$${' for the characters"
                    " themselves"
                ),
            )
        self.say("bad-reference", message, *place, why=why, fix=fix)

    # ---- ruamel

    def events(self) -> Iterator[Any]:
        """Yield ruamel's events; whatever it raises becomes a problem in the user's words."""
        from ruamel.yaml import YAML
        from ruamel.yaml.docinfo import DocInfo
        from ruamel.yaml.error import MarkedYAMLError
        from ruamel.yaml.reader import Reader

        if odd := _FORBIDDEN.search(self.text):
            code = f"U+{ord(odd[0]):04X}"
            raise self.refuse(
                "syntax",
                f"the character {code} cannot stand in a graph",
                odd.start(),
                odd.end(),
                why="it is a control character or no character at all",
                fix=f'escape it in double quotes: "\\u{ord(odd[0]):04x}"',
            )
        hidden = self.hidden()
        yaml = YAML(typ="safe", pure=True)
        yaml.Reader = Reader
        yaml.reader.check_printable = lambda _: (
            None
        )  # done above, by the rules of YAML 1.2 and JSON
        yaml.doc_infos.append(DocInfo())  # where its parser notes directives
        _, parser = yaml.get_constructor_parser(hidden)
        while True:
            try:
                event = parser.get_event() if parser.check_event() else None
            except MarkedYAMLError as odd:
                raise self.not_yaml(odd) from None
            # a fault of the parser must not become a traceback for whoever wrote the text
            except Exception as odd:
                at = min(yaml.reader.index, len(self.text))
                if "chr()" in str(odd):
                    raise self.refuse(
                        "syntax",
                        _ESCAPE[0],
                        at,
                        at + 1,
                        why="there is no character above U+10FFFF",
                        fix=_ESCAPE[1],
                    ) from None
                raise self.refuse(
                    "syntax",
                    "the text cannot be read from here on",
                    at,
                    at + 1,
                    why=str(odd).strip().split("\n")[0],
                ) from odd
            if event is None:
                return
            yield event

    def hidden(self) -> str:
        """Give the text with noncharacters for what ruamel misreads: such as it neither has nor
        escapes, since they are turned back after it.
        """
        lowered = self.text.lower()
        for first in range(0xFDD0, 0xFDF0 - len(_HIDDEN), len(_HIDDEN)):
            codes = range(first, first + len(_HIDDEN))
            if not any(chr(code) in self.text or f"{code:x}" in lowered for code in codes):
                break
        else:
            raise self.refuse(
                "syntax",
                "the text has too many kinds of noncharacters",
                0,
                1,
                why="U+FDD0 to U+FDEF are no characters",
            )
        stand_ins = dict(zip(_HIDDEN, map(chr, codes), strict=True))
        self.shown = dict(zip(codes, _HIDDEN, strict=True))
        text = _BRACED.sub(f"${stand_ins['{']}\\1{stand_ins['}']}", self.text)
        return text.translate(
            {ord(character): code for character, code in stand_ins.items() if character not in "{}"}
        )

    def indent(self, index: int) -> int:
        """Count the spaces that the line at this index begins with."""
        line = self.source.line(self.mark(index, index).line)
        return len(line) - len(line.lstrip(" "))

    def not_yaml(self, odd: Any) -> _BreaksOff:
        """Put what ruamel could not read into the user's words."""
        at = odd.problem_mark.index if odd.problem_mark else 0
        opened = odd.context_mark.index if odd.context_mark else at
        here = self.text[at : at + 1]
        before = self.text[max(0, at - 1) : at]
        if here == "{" and before == "$":
            return self.refuse(
                "unquoted-reference",
                "a reference inside {…} or […] needs quotes",
                at - 1,
                at + 1,
                why="a brace ends an unquoted word there",
                fix='quote it: "${name}"',
            )
        if conflict := re.search(r"^(<{7}|={7}|>{7})( .*)?$", self.text, re.MULTILINE):
            return self.refuse(
                "syntax",
                "a conflict of a merge is not resolved",
                conflict.start(),
                conflict.end(),
                fix="keep one side, and remove the lines with '<<<<<<<', '=======' and '>>>>>>>'",
            )
        if comment := re.search(r"^[ \t]*(//.*)", self.text[: at + 1], re.MULTILINE):
            return self.refuse(
                "syntax",
                "'//' begins no comment",
                comment.start(1),
                comment.end(1),
                why="a comment begins with '#' in YAML, and JSON has none",
                fix="write '#', or remove the line",
            )
        context = str(odd.context or "")
        bracket = ""
        if "flow" in context and self.stack and self.stack[-1].flow:
            bracket = "}" if isinstance(self.stack[-1].items, dict) else "]"
            opened = self.stack[-1].start
        line = self.text[self.starts[self.mark(at, at).line - 1] : at]
        message, why, fix = _in_words(
            str(odd.problem or ""),
            context,
            here,
            line,
            bracket,
            self.mark(opened, opened).line,
            self.text[opened : opened + 1],
        )
        if (
            bracket
            and here == ":"
            and self.mark(at, at).line > self.mark(opened, opened).line
            and self.indent(at) <= self.indent(opened)
        ):
            message, why, fix = (
                "the bracket is never closed",
                f"so line {self.mark(at, at).line} still belongs to it",
                f"close it with '{bracket}'",
            )
        if "never closed" in message or "has no ':'" in message or "cannot start" in message:
            at = opened
        return self.refuse("syntax", message, at, at + 1, why=why, fix=fix)


_ESCAPE = (
    "a backslash in double quotes starts an escape that is none",
    "double the backslash, or use single quotes",
)


def _in_words(
    problem: str, context: str, here: str, line: str, bracket: str, opened: int, first: str
) -> tuple[str, str, str]:
    """Translate a message of ruamel: message, why, fix.

    Params:
        here: the character that it stopped at, and `line` what stands before that in its line.
        bracket: what would close the mapping or list in brackets that is being read, if any.
        opened: the line in which the thing that is being read began, and `first` its first
            character.
    """
    ended = not here or "stream end" in problem or "end of stream" in problem
    if here == "\t":
        return "a tab cannot indent", "indentation is made of spaces", "replace the tab by spaces"
    if ("cannot start any token" in problem and here not in "}],") or "mapping keys" in problem:
        return f"a word cannot start with '{here}'", "", "quote it"
    if "sequence entries" in problem:
        return (
            "a list cannot start here",
            "",
            "begin each '- ' on a line of its own, or quote the text",
        )
    if any(what in context for what in ("an anchor", "an alias", "a tag")):
        return f"a word cannot start with '{first}'", "", "quote it"
    if "unknown escape" in problem or "escape sequence" in problem:
        return _ESCAPE[0], "", _ESCAPE[1]
    if "document separator" in problem:
        return (
            "a quote is never closed",
            "'---' or '...' at the start of a line ends the text",
            "indent the line",
        )
    if "quoted scalar" in context and ended:
        return (
            "a quote is never closed",
            "the text ends before it",
            'close it; a quote that belongs to the text is doubled in \'…\' and written \\" in "…"',
        )
    if "block scalar" in context:
        return (
            "the text of a block starts on the line after '|' or '>'",
            "",
            "begin the text on the next line",
        )
    if bracket:
        what = "mapping" if bracket == "}" else "list"
        if ended or "block end" in problem:
            return (
                f"the {what} is never closed",
                "the text ends before it",
                f"close it with '{bracket}'",
            )
        fix = (
            f"close it with '{bracket}', put ',' between its items, and quotes around text with"
            " brackets, commas or ': ' in it"
        )
        return (
            f"',' or '{bracket}' is wanted here",
            f"the {what} that is opened in line {opened} goes on",
            fix,
        )
    if "mapping values are not allowed" in problem and ": " not in line:
        return (
            "a ':' stands where no key can be",
            "the line above is not finished: it is text, or a key without ':'",
            "mend the line above, or the indentation of this one",
        )
    if "mapping values are not allowed" in problem:
        return (
            "a second ':' in one line",
            "'key: value' stands alone in its line",
            "quote the text if ': ' belongs to it, else mend the indentation",
        )
    if "expected ':'" in problem:
        return (
            "a key has no ':'",
            "",
            "write 'key: value', or indent the line if it belongs to the one above",
        )
    if "block end" in problem or "indentation" in problem:
        return (
            "the line does not fit the ones above it",
            "it is indented otherwise, or a word follows where none can",
            "indent what belongs together alike, and quote text with special characters",
        )
    if "expected the node content" in problem or "cannot start any token" in problem:
        return (
            (
                f"'{here}' stands where a value is wanted"
                if here.strip()
                else "a value is wanted here"
            ),
            "",
            "write a value, or quote the text",
        )
    if "document start" in problem or "document end" in problem:
        return (
            "the text goes on after its end",
            "a graph is one mapping",
            "remove what follows, or the bracket that closes too early",
        )
    return problem or context or "this is neither YAML nor JSON", "", ""
