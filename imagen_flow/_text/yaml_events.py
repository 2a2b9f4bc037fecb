"""Read any YAML or JSON by the events of its parser, and report what is wrong with it.

This is the only module that uses ruamel.yaml. It reads the parser's events, never its trees:
composing resolves aliases, recurses, and drops duplicate keys. Scalars are resolved by `words`,
because ruamel reads ``1_000`` as a number and a date as a date. References are words too, so
``${…}`` is read here and has its own position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import Problem, Source
from .words import (
    INT,
    MAX_DEPTH,
    MAX_DIGITS,
    NAME,
    UNREADABLE,
    Pair,
    ParsedText,
    Word,
    find_in,
    interpolate,
    plain_scalar,
)
from .yaml_messages import INVALID_ESCAPE, explain

__all__ = ["read_events"]

#: After this many problems the rest of a text is not read.
MAX_PROBLEMS = 100


def read_events(
    source: Source, *, references: bool, max_words: int, past: int | None
) -> ParsedText:
    """Read one document.

    Params:
        references: whether ``${…}`` and ``$$`` have a meaning.
        max_words: how many words it may have.
        past: where it certainly has more; None if that is not known.
    """
    context = _Context(source)
    try:
        word: Word | None = _WordReader(context, references, max_words, past).document()
    except _StopReading:
        word = None
    return ParsedText(source, word, tuple(sorted(context.problems, key=lambda p: p.position)))


class _StopReading(Exception):
    """Reading cannot go on; a problem says why."""


# ruamel treats these as line breaks or leaves them out of columns, as YAML 1.1 did; in YAML 1.2
# they are plain characters. And the braces of an unquoted reference end a word in a flow mapping.
# All of them pass through ruamel as noncharacters of the same width, so that no index moves.
_HIDDEN = "\x85\u2028\u2029\ufeff{}"
_BRACED = re.compile(r"\$\{([^{}\[\],:\n\"']*)\}")
_FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_PAIRED = re.compile("[\ud800-\udbff][\udc00-\udfff]")


@dataclass(slots=True)
class _OpenCollection:
    """A mapping or list that is being read: its content so far, and the key that waits for its
    value.
    """

    items: list[Word] | dict[str, Pair]
    start: int
    flow: bool
    key: Word | None = None
    #: Whether the next word is the value of a refused key, to be read and dropped.
    refused: bool = False


@dataclass
class _Context:
    """A text and its problems, with positions."""

    source: Source
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.source.text
        self.starts = self.source.starts
        self.mark = self.source.mark

    def report(
        self, code: str, message: str, start: int, end: int, *, why: str = "", fix: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, self.mark(start, end), why, fix))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _StopReading

    def refuse(
        self, code: str, message: str, start: int, end: int, *, why: str = "", fix: str = ""
    ) -> _StopReading:
        self.problems.append(Problem(code, message, self.mark(start, end), why, fix))
        return _StopReading()

    def indent(self, index: int) -> int:
        """Count the leading spaces of the line at this index."""
        line = self.source.line(self.mark(index, index).line)
        return len(line) - len(line.lstrip(" "))


@dataclass
class _Events:
    """The parser's events of a text.

    Params:
        stack: the mappings and lists that are being read, for explanations.
    """

    context: _Context
    stack: list[_OpenCollection]
    #: The characters that noncharacters replace while ruamel reads.
    originals: dict[int, str] = field(default_factory=dict)

    def read(self) -> Iterator[Any]:
        """Yield ruamel's events; whatever it raises becomes a problem in the user's terms."""
        from ruamel.yaml import YAML
        from ruamel.yaml.docinfo import DocInfo
        from ruamel.yaml.error import MarkedYAMLError
        from ruamel.yaml.reader import Reader

        if error := _FORBIDDEN.search(self.context.text):
            code = f"U+{ord(error[0]):04X}"
            raise self.context.refuse(
                "syntax",
                f"the character {code} is not allowed in a graph",
                error.start(),
                error.end(),
                why="it is a control character or not a character",
                fix=f'escape it in double quotes: "\\u{ord(error[0]):04x}"',
            )
        text = self.substitute_characters()
        yaml = YAML(typ="safe", pure=True)
        yaml.Reader = Reader
        yaml.reader.check_printable = lambda _: (
            None
        )  # done above, by the rules of YAML 1.2 and JSON
        yaml.doc_infos.append(DocInfo())  # where its parser records directives
        _, parser = yaml.get_constructor_parser(text)
        while True:
            try:
                event = parser.get_event() if parser.check_event() else None
            except MarkedYAMLError as error:
                raise self.explain_error(error) from None
            # a fault of the parser must not become a traceback for the user
            except Exception as error:
                at = min(yaml.reader.index, len(self.context.text))
                if "chr()" in str(error):
                    raise self.context.refuse(
                        "syntax",
                        INVALID_ESCAPE[0],
                        at,
                        at + 1,
                        why="there is no character above U+10FFFF",
                        fix=INVALID_ESCAPE[1],
                    ) from None
                raise self.context.refuse(
                    "syntax",
                    "the text cannot be read from here on",
                    at,
                    at + 1,
                    why=str(error).strip().split("\n")[0],
                ) from error
            if event is None:
                return
            yield event

    def substitute_characters(self) -> str:
        """Replace the characters that ruamel misreads by noncharacters that the text neither
        contains nor escapes, because they are replaced back afterwards.
        """
        lowered = self.context.text.lower()
        for first in range(0xFDD0, 0xFDF0 - len(_HIDDEN), len(_HIDDEN)):
            codes = range(first, first + len(_HIDDEN))
            if not any(chr(code) in self.context.text or f"{code:x}" in lowered for code in codes):
                break
        else:
            raise self.context.refuse(
                "syntax",
                "the text has too many kinds of noncharacters",
                0,
                1,
                why="U+FDD0 to U+FDEF are not characters",
            )
        stand_ins = dict(zip(_HIDDEN, map(chr, codes), strict=True))
        self.originals = dict(zip(codes, _HIDDEN, strict=True))
        text = _BRACED.sub(f"${stand_ins['{']}\\1{stand_ins['}']}", self.context.text)
        return text.translate(
            {ord(character): code for character, code in stand_ins.items() if character not in "{}"}
        )

    def explain_error(self, error: Any) -> _StopReading:
        """Explain in the user's terms what ruamel could not read."""
        at = error.problem_mark.index if error.problem_mark else 0
        opened = error.context_mark.index if error.context_mark else at
        here = self.context.text[at : at + 1]
        before = self.context.text[max(0, at - 1) : at]
        if here == "{" and before == "$":
            return self.context.refuse(
                "unquoted-reference",
                "a reference inside {…} or […] needs quotes",
                at - 1,
                at + 1,
                why="inside brackets, a brace ends an unquoted word",
                fix='quote it: "${name}"',
            )
        if conflict := re.search(r"^(<{7}|={7}|>{7})( .*)?$", self.context.text, re.MULTILINE):
            return self.context.refuse(
                "syntax",
                "a merge conflict is not resolved",
                conflict.start(),
                conflict.end(),
                fix="keep one side, and remove the lines with '<<<<<<<', '=======' and '>>>>>>>'",
            )
        if comment := re.search(r"^[ \t]*(//.*)", self.context.text[: at + 1], re.MULTILINE):
            return self.context.refuse(
                "syntax",
                "'//' does not start a comment",
                comment.start(1),
                comment.end(1),
                why="a comment starts with '#' in YAML, and JSON has none",
                fix="write '#', or remove the line",
            )
        context = str(error.context or "")
        bracket = ""
        if "flow" in context and self.stack and self.stack[-1].flow:
            bracket = "}" if isinstance(self.stack[-1].items, dict) else "]"
            opened = self.stack[-1].start
        line = self.context.text[self.context.starts[self.context.mark(at, at).line - 1] : at]
        message, why, fix = explain(
            str(error.problem or ""),
            context,
            here,
            line,
            bracket,
            self.context.mark(opened, opened).line,
            self.context.text[opened : opened + 1],
        )
        if (
            bracket
            and here == ":"
            and self.context.mark(at, at).line > self.context.mark(opened, opened).line
            and self.context.indent(at) <= self.context.indent(opened)
        ):
            message, why, fix = (
                "the bracket is never closed",
                f"so line {self.context.mark(at, at).line} still belongs to it",
                f"close it with '{bracket}'",
            )
        if "never closed" in message or "has no ':'" in message or "cannot start" in message:
            at = opened
        return self.context.refuse("syntax", message, at, at + 1, why=why, fix=fix)


@dataclass
class _WordReader:
    """Turns the parser's events into words."""

    context: _Context
    references: bool
    max_words: int
    past: int | None
    #: The mappings and lists that are being read, outermost first: nesting needs no recursion.
    stack: list[_OpenCollection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.context.text
        self.report = self.context.report
        self.refuse = self.context.refuse
        self.events = _Events(self.context, self.stack)

    # ---- reading events

    def document(self) -> Word:
        """Read the only document."""
        if self.past is not None:
            raise self.too_many_words(self.past)
        root: Word | None = None
        stack = self.stack
        count = documents = 0
        for event in self.events.read():
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    self.report_feature(
                        "a second document", event.start_mark.index, fix="keep one graph per file"
                    )
                    break
                if event.tags or event.version not in (None, (1, 2)):
                    self.report_feature(
                        "a directive",
                        self.text.rfind("\n%", 0, event.start_mark.index) + 1,
                        fix="remove the line that starts with '%'",
                    )
                continue
            start, end = event.start_mark.index, event.end_mark.index
            if kind in ("ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"):
                count += 1
                if count > self.max_words:
                    raise self.too_many_words(start)
                self.refuse_yaml_features(event, kind)
            if kind in ("MappingStartEvent", "SequenceStartEvent"):
                if len(stack) >= MAX_DEPTH:
                    raise self.refuse(
                        "too-deep",
                        f"a graph may be nested at most {MAX_DEPTH} deep",
                        start,
                        start + 1,
                    )
                stack.append(
                    _OpenCollection(
                        {} if kind == "MappingStartEvent" else [], start, bool(event.flow_style)
                    )
                )
                continue
            if kind in ("MappingEndEvent", "SequenceEndEvent"):
                done = stack.pop()
                stop = (
                    end if done.flow else len(self.text[done.start : start].rstrip()) + done.start
                )
                word = self.word(
                    tuple(done.items) if isinstance(done.items, list) else done.items,
                    done.start,
                    stop,
                )
                start, end = done.start, stop
            elif kind == "AliasEvent":
                word = self.word(UNREADABLE, start, end)
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
                word = self.word(
                    self.scalar(event, start, end, flow=bool(holder and holder.flow)), start, end
                )
            else:
                continue
            if not stack:
                root = word
            else:
                self.add(stack[-1], word, start, end)
        if root is None:
            return self.word(None, 0, 0)
        return root

    def word(self, value: Any, start: int, end: int) -> Word:
        return Word(value, self.context.source, start, end)

    def too_many_words(self, at: int) -> _StopReading:
        return self.refuse(
            "too-large",
            f"a graph may have at most {self.max_words:,} words",
            at,
            at,
            fix="split the graph into files that include each other as nodes",
        )

    def add(self, holder: _OpenCollection, word: Word, start: int, end: int) -> None:
        if isinstance(holder.items, list):
            holder.items.append(word)
        elif holder.refused:
            holder.refused = False
        elif holder.key is None:
            self.report("bad-shape", "a key must be a word, not a mapping or a list", start, end)
            holder.refused = True
        else:
            holder.items[holder.key.value] = Pair(holder.key, word)
            holder.key = None

    def begin_pair(self, holder: _OpenCollection, event: Any, start: int, end: int) -> None:
        assert isinstance(holder.items, dict)
        text = event.value.translate(self.events.originals)
        if event.style in (None, ""):
            if text == "<<":
                self.report_feature("a merge key", start, end, fix="write out the keys")
                holder.refused = True
                return
            self.check_quoted(text, start, end, flow=holder.flow)
        elif not (joined := self.join_surrogates(text, start, end)):
            text = "" if joined is None else joined
        else:
            text = joined
        first = holder.items.get(text)
        if first is not None:
            self.report(
                "duplicate-key",
                f"'{text}' is written twice",
                start,
                end,
                why=f"it is already in line {first.key.mark.line}",
                fix="keep one of them",
            )
            holder.refused = True
            return
        holder.key = self.word(text, start, end)

    def report_feature(self, what: str, start: int, end: int | None = None, *, fix: str) -> None:
        self.report(
            "yaml-feature",
            f"{what} is not allowed in a graph",
            start,
            start + 1 if end is None else end,
            why="a graph is plain YAML, so that every program reads it the same way",
            fix=fix,
        )

    def refuse_yaml_features(self, event: Any, kind: str) -> None:
        """Refuse anchors, aliases and tags."""
        start = event.start_mark.index
        if kind == "AliasEvent":
            self.report_feature(
                f"the alias '*{event.anchor}'",
                start,
                event.end_mark.index,
                fix='make the value an input, and refer to it as "${name}"',
            )
            return
        if event.anchor is not None:
            self.report_feature(
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
            self.report_feature(
                f"the tag '{tag}'",
                start,
                start + len(tag),
                fix="write the value without it; quote text that looks like a number",
            )

    # ---- scalars

    def scalar(self, event: Any, start: int, end: int, *, flow: bool) -> Any:
        """Resolve a scalar: by the core schema if it is unquoted, else as text; then its
        references.
        """
        text = event.value.translate(self.events.originals)
        if event.style in (None, ""):
            value = plain_scalar(text)
            if type(value) is not str:
                return value
            if len(text) > MAX_DIGITS and INT.match(text):
                self.report(
                    "bad-literal", f"a number may have at most {MAX_DIGITS:,} digits", start, end
                )
                return UNREADABLE
            self.check_quoted(text, start, end, flow=flow)
        elif (joined := self.join_surrogates(text, start, end)) is None:
            return UNREADABLE
        else:
            text = joined
        return self.interpolate(text, start, end) if "$" in text and self.references else text

    def join_surrogates(self, text: str, start: int, end: int) -> str | None:
        """Join the surrogate pairs that JSON escapes a character beyond U+FFFF into; None if one is
        alone.
        """
        if text.isascii():
            return text
        text = _PAIRED.sub(lambda m: m[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        if lone := re.search("[\ud800-\udfff]", text):
            code = f"\\u{ord(lone[0]):04x}"
            at = self.text.lower().find(code, start, end)
            self.report(
                "syntax",
                f"'{code}' is only half a character",
                at if at >= 0 else start,
                at + 6 if at >= 0 else end,
                why=(
                    "characters beyond U+FFFF are escaped as surrogate pairs, such as"
                    " \\ud83d\\ude00"
                ),
                fix="write both halves, or the character itself",
            )
            return None
        return text

    def check_quoted(self, text: str, start: int, end: int, *, flow: bool) -> None:
        if flow and "${" in text and self.references:
            self.report(
                "unquoted-reference",
                "a reference inside {…} or […] needs quotes",
                start,
                end,
                why="inside brackets, a brace ends an unquoted word",
                fix=f'quote it: "{text}"',
            )

    # ---- references

    def interpolate(self, text: str, start: int, end: int) -> Any:
        return interpolate(
            text,
            self.context.source,
            locate=find_in(self.text, start, end),
            refuse=self.bad_reference,
        )

    def bad_reference(self, written: str, span: tuple[int, int]) -> None:
        closed = written.endswith("}")
        inside = written.removeprefix("${").removesuffix("}")
        shown = inside if len(inside) <= 60 else inside[:59] + "…"
        why = "a reference is ${name} or ${name.port}; there are no expressions: nodes compute"
        if not closed:
            message, fix = (
                f"'${{{shown}' is not closed",
                "close it with '}', or write '$${' for literal characters",
            )
        elif not inside.strip():
            message, fix = (
                "'${" + shown + "}' has no name",
                "write the name of an input or of a node",
            )
        elif all(NAME.fullmatch(n) for n in inside.strip().split(".", 1)):
            message, fix = (
                f"'${{{shown}}}' has spaces around its name",
                f"write ${{{shown.strip()}}}",
            )
        else:
            message, fix = (
                f"'${{{shown}}}' is not a reference",
                (
                    "compute it in a node and refer to that node, or write '$${' for literal"
                    " characters"
                ),
            )
        self.report("bad-reference", message, *span, why=why, fix=fix)
