"""Read the plain part of YAML, in which nearly all graphs are written, and JSON.

The reader of all texts, `yaml_reader`, works event by event, which takes most of the time that a
graph of many nodes costs. This one reads an entry at a time. It knows block mappings and lists, the
collections in brackets, scalars of one line, and texts after ``|`` and ``>``. It reports nothing:
where a text has anything else in it, or anything wrong, it is read again by the other. What it does
read has the same words at the same positions, which `tests/test_reading.py` compares.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import Source
from .words import (
    INT,
    MAX_DEPTH,
    MAX_DIGITS,
    REFERENCE,
    Pair,
    Reference,
    Word,
    find_in,
    interpolate,
    plain_scalar,
)

__all__ = ["read_plain"]

#: What the other reader has to look at: documents and directives, characters that it replaces.
_SPECIAL = re.compile(
    r"^(?:---|\.\.\.|%)|[\0-\x08\x0b-\x1f\ud800-\udfff\ufdd0-\ufdef]|fd[de][0-9a-f]",
    re.MULTILINE | re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")

# ---- the parts of the patterns; quantifiers are possessive, so that no text takes long to refuse

_SPACE = r"(?>(?:[ \n\t]++(?:\#[^\n]*+)?)*+)"
_QUOTED = r"""("(?:[^"\\\n]|\\.)*+"|'(?:[^'\n]|'')*+')"""
_SIMPLE = r'"([^"\\\n]*+)"'
_KEY = r"[\w$](?:[\w.$/+-]|\ ++(?=[\w.$/+-]))*+"
#: An unquoted value inside brackets, and one that ends with its line.
_LETTER = r"""[\w./$~+@%*()=;'"<>^|!?&\\-]|[^\0-\x7f]"""
_INSIDE = rf"(?:[\w./$~+]|[^\0-\x7f]|-(?=[\w.]))(?:{_LETTER}|:(?=[\w/.])|\ ++(?={_LETTER}))*+"
_TO_END = r"(?:[\w./$~+(<;=^\\]|[^\0-\x7f]|-(?=[\w.]))(?:[^\n\#:]|:(?=[^ \n])|(?<=[^ ])\#)*"
_LINE_END = r"(?:\ ++(?:\#[^\n]*+)?)?(?:\n|\Z)"

#: What may stand after ``key:`` or ``-`` in a line: a scalar, a bracket, a header, or nothing.
_VALUE = rf"""
    (?: {_SIMPLE}{_LINE_END} | ({_TO_END}){_LINE_END} | ([\[{{]) | {_QUOTED}{_LINE_END}
      | ([|>]-?){_LINE_END} | {_LINE_END} )
"""
_BLANK = r"(?:\ *+(?:\#[^\n]*+)?\n)*+"
_ENTRY = re.compile(
    rf"{_BLANK}(\ *+)(-\ ++)?(?: {_SIMPLE} | ({_KEY}) | {_QUOTED} )\ *+:(?=[ \n]|\Z)\ *+{_VALUE}",
    re.VERBOSE,
)
_ROOT = re.compile(rf"{_BLANK}\ *+[\[{{]", re.VERBOSE)
_ITEM = re.compile(rf"{_BLANK}(\ *+)(-\ ++){_VALUE}", re.VERBOSE)
_END = re.compile(rf"{_BLANK}\ *+(?:\#[^\n]*+)?\Z", re.VERBOSE)
_REST = re.compile(_LINE_END, re.VERBOSE)

_WITHIN = rf"(?: {_SIMPLE} | ({_INSIDE}) | ([\[{{]) | {_QUOTED} ){_SPACE}"
_FLOW_ENTRY = re.compile(
    rf"""{_SPACE}(?: {_SIMPLE} | ({_KEY}) | {_QUOTED} )\ *+:(?:(?<=["']:)|(?=[ \n])){_SPACE}{_WITHIN}""",
    re.VERBOSE,
)
_FLOW_ITEM = re.compile(rf"{_SPACE}{_WITHIN}", re.VERBOSE)
_FLOW_SPACE = re.compile(_SPACE, re.VERBOSE)


def read_plain(source: Source, *, references: bool, max_words: int) -> Word | None:
    """Read one document; None if the other reader has to.

    Params:
        references: whether ``${…}`` and ``$$`` have a meaning.
        max_words: how many words it may have.
    """
    if _SPECIAL.search(source.text):
        return None
    reader = _PlainReader(source, references)
    try:
        root = reader.document()
    except _NotPlain:
        return None
    return root if reader.count <= max_words else None


class _NotPlain(Exception):
    """The text has something in it that is read by the other reader."""


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read, and the key that waits for its value."""

    indent: int
    items: Any
    is_list: bool
    start: int
    key: Word | None = None


class _PlainReader:
    def __init__(self, source: Source, references: bool) -> None:
        self.source = source
        self.text = source.text
        self.references = references
        self.count = 0
        self.stack: list[_Open] = []
        self.root: Word | None = None

    def document(self) -> Word:
        """Read the only document."""
        if (opening := _ROOT.match(self.text)) is not None:
            root, at = self.bracket(opening.end() - 1, 0)
            if _END.match(self.text, at) is None:
                raise _NotPlain
            return root
        if "\t" in self.text:
            raise _NotPlain
        self.block()
        if self.root is None:
            raise _NotPlain
        return self.root

    # ---- blocks

    def block(self) -> None:
        """Read line by line."""
        text, stack = self.text, self.stack
        at = 0
        while True:
            if (found := _ENTRY.match(text, at)) is not None:
                keys, values = 3, 6
            elif (found := _ITEM.match(text, at)) is not None:
                keys, values = 0, 3
            elif _END.match(text, at):
                break
            else:
                raise _NotPlain
            token = found.end(1)
            indent = token - found.start(1)
            is_item = found.start(2) >= 0
            top = stack[-1] if stack else None
            if top is None or top.indent != indent or top.key is not None or top.is_list != is_item:
                self.close(indent, token, is_item=is_item)
                top = stack[-1] if stack else None
                if top is None or top.indent < indent or (is_item and top.key is not None):
                    is_expected = self.root is None if top is None else top.key is not None
                    if not is_expected:
                        raise _NotPlain
                    self.open([] if is_item else {}, indent, token)
            if keys:
                key = self.key(found, keys)
                if is_item:
                    self.open({}, indent + key.start - token, key.start)
                top = stack[-1]
                if key.value in top.items:
                    raise _NotPlain
                top.key = key
            at = self.value(found, values)
        self.close(-1, len(text), is_item=False)

    def open(self, items: Any, indent: int, start: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise _NotPlain
        self.count += 1
        self.stack.append(_Open(indent, items, type(items) is list, start))

    def close(self, indent: int, token: int, *, is_item: bool) -> None:
        """Close what a line that starts at `token` with this indentation does not belong to."""
        stack = self.stack
        while stack:
            top = stack[-1]
            if top.indent < indent:
                return
            if top.indent == indent:
                if is_item:
                    if top.is_list or top.key is not None:
                        return
                    raise _NotPlain
                if not top.is_list:
                    if top.key is not None:
                        self.add_nothing(token)
                    return
            elif top.key is not None:
                self.add_nothing(token)
            end = token
            while self.text[end - 1].isspace():
                end -= 1
            stack.pop()
            self.add(
                Word(tuple(top.items) if top.is_list else top.items, self.source, top.start, end)
            )

    def add_nothing(self, token: int) -> None:
        """Give a key without a value nothing; that is where the next entry starts."""
        self.count += 1
        self.add(Word(None, self.source, token, token))

    def add(self, word: Word) -> None:
        if not self.stack:
            self.root = word
            return
        top = self.stack[-1]
        if top.key is None:
            top.items.append(word)
        else:
            top.items[top.key.value] = Pair(top.key, word)
            top.key = None

    def value(self, found: re.Match[str], first: int) -> int:
        """Add the value that a line has, and return where to read on."""
        kind = found.lastindex or 0
        start, end = found.span(kind)
        if kind == first:
            self.count += 1
            self.add(self.scalar(found[kind], start, start - 1, end + 1))
        elif kind == first + 1:
            self.count += 1
            self.add(self.unquoted(found[kind].rstrip(" "), start))
        elif kind == first + 2:
            word, at = self.bracket(start, len(self.stack))
            self.add(word)
            if (rest := _REST.match(self.text, at)) is None:
                raise _NotPlain
            return rest.end()
        elif kind == first + 3:
            self.count += 1
            self.add(self.scalar(_unquote(found[kind]), -1, start, end))
        elif kind == first + 4:
            return self.lines(found[kind], start, found.end())
        elif first == 3:
            raise _NotPlain  # an item without a value
        return found.end()

    def lines(self, header: str, start: int, at: int) -> int:
        """Add a text of several lines, and return where to read on."""
        least = self.stack[-1].indent + 1
        found = re.compile(rf"( {{{least},}})(?=[^ \n])").match(self.text, at)
        if found is None or self.stack[-1].key is None or not self.text.endswith("\n"):
            raise _NotPlain
        indent = len(found[1])
        block = re.compile(rf"(?: {{{indent}}}[^\n]*+\n| {{0,{indent - 1}}}\n)*+").match(
            self.text, at
        )
        assert block is not None
        lines = [line[indent:] for line in block[0].split("\n")][:-1]
        while lines and not lines[-1]:
            lines.pop()
        if header[0] == ">":
            if any(line[:1] in (" ", "\t") for line in lines):
                raise _NotPlain
            text = re.sub(r"(?<!\n)\n(?!\n)", " ", "\n".join(lines))
            text = re.sub(r"\n(\n+)", r"\1", text)
        else:
            text = "\n".join(lines)
        self.count += 1
        self.add(self.scalar(text if header[1:] else text + "\n", -1, start, block.end()))
        return block.end()

    # ---- brackets

    def bracket(self, start: int, depth: int) -> tuple[Word, int]:
        """Read a mapping or list in brackets, and return it and where it ends.

        Params:
            depth: how many others it is in.
        """
        if depth >= MAX_DEPTH:
            raise _NotPlain
        self.count += 1
        is_mapping = self.text[start] == "{"
        items, at = (self.entries if is_mapping else self.items)(start + 1, depth + 1)
        at = _FLOW_SPACE.match(self.text, at).end()  # type: ignore[union-attr]  # it may be empty
        if self.text[at : at + 1] != ("}" if is_mapping else "]"):
            raise _NotPlain
        return Word(items, self.source, start, at + 1), at + 1

    def entries(self, at: int, depth: int) -> tuple[dict[str, Pair], int]:
        text = self.text
        pairs: dict[str, Pair] = {}
        while (found := _FLOW_ENTRY.match(text, at)) is not None:
            key = self.key(found, 1)
            if key.value in pairs:
                raise _NotPlain
            word, at = self.inner(found, 4, depth)
            pairs[key.value] = Pair(key, word)
            if text[at : at + 1] != ",":
                break
            at += 1
        return pairs, at

    def items(self, at: int, depth: int) -> tuple[tuple[Word, ...], int]:
        text = self.text
        words: list[Word] = []
        while (found := _FLOW_ITEM.match(text, at)) is not None:
            word, at = self.inner(found, 1, depth)
            words.append(word)
            if text[at : at + 1] != ",":
                break
            at += 1
        return tuple(words), at

    def inner(self, found: re.Match[str], first: int, depth: int) -> tuple[Word, int]:
        """Read a value in brackets, and return it and where what follows it starts."""
        kind: int = found.lastindex  # type: ignore[assignment]  # one of the four always matches
        start, end = found.span(kind)
        if kind == first + 2:
            word, at = self.bracket(start, depth)
            return word, _FLOW_SPACE.match(self.text, at).end()  # type: ignore[union-attr]
        self.count += 1
        if kind == first:
            word = self.scalar(found[kind], start, start - 1, end + 1)
        elif kind == first + 1:
            word = self.unquoted(found[kind], start)
        else:
            word = self.scalar(_unquote(found[kind]), -1, start, end)
        return word, found.end()

    # ---- scalars

    def key(self, found: re.Match[str], first: int) -> Word:
        """Give the key of an entry; there are three ways to write it, from group `first` on."""
        self.count += 1
        start, end = found.span(first)
        if start >= 0:
            text, start, end = found[first], start - 1, end + 1
        elif (start := found.start(first + 1)) >= 0:
            text, end = found[first + 1], found.end(first + 1)
        else:
            start, end = found.span(first + 2)
            text = _unquote(found[first + 2])
        if end - start > 1000:  # YAML limits what can be a key
            raise _NotPlain
        return Word(text, self.source, start, end)

    def unquoted(self, text: str, start: int) -> Word:
        value = plain_scalar(text)
        if type(value) is str:
            if len(text) > MAX_DIGITS and INT.match(text):
                raise _NotPlain
            return self.scalar(text, start, start, start + len(text))
        return Word(value, self.source, start, start + len(text))

    def scalar(self, text: str, at: int, start: int, end: int) -> Word:
        """Give a text with its references.

        Params:
            at: where the text stands as it is; -1 if it is written in another way.
        """
        value: Any = text
        if "$" in text and self.references:
            if at >= 0 and (whole := REFERENCE.fullmatch(text)) is not None:
                value = Reference(whole[1], whole[2], self.source, at, at + len(text))
            else:
                locate = find_in(self.text, start, end)
                value = interpolate(text, self.source, locate=locate, refuse=_refuse)
        return Word(value, self.source, start, end)


def _refuse(_: str, __: tuple[int, int]) -> None:
    raise _NotPlain


def _unquote(written: str) -> str:
    """Read a text in quotes; one with escapes that JSON has not is left to the other reader."""
    if written[0] == "'":
        return written[1:-1].replace("''", "'")
    try:
        text: str = json.loads(written)
    except ValueError:
        raise _NotPlain from None
    if not text.isascii() and _SURROGATE.search(text):
        raise _NotPlain
    return text
