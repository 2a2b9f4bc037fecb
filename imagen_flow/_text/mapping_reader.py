"""Read a graph that was composed in Python, without writing it as text.

A problem of such a graph has a line to point at: the graph written as JSON. It is written when the
first problem is shown, and read to find out where each word stands.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from ..errors import Mark, Source
from .words import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_WORDS,
    Pair,
    ParsedText,
    Reference,
    Template,
    Word,
    interpolate,
)
from .yaml_reader import read_words

__all__ = ["as_text", "read_mapping"]

#: Surrogates, which only JSON's escapes can hold, and noncharacters, which the reader of text uses.
_SPECIAL = re.compile("[\ud800-\udfff\ufdd0-\ufdef]")

#: A longer key is left to the reader of text: YAML limits what can be a key.
_MAX_KEY = 150


def as_text(data: Any) -> str:
    """Write a graph as JSON.

    Raises:
        TypeError, ValueError, RecursionError: something in it is neither JSON data nor a path.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=_as_json)
    # A lone surrogate is only allowed as an escape; in JSON it can only occur in quotes.
    return re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def _as_json(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none of these")


def read_mapping(data: Mapping[str, Any], *, name: str) -> ParsedText | None:
    """Read a graph; None if there is anything in it that the reader of text may object to, or that
    JSON would change.
    """
    reader = _MappingReader(name)
    try:
        root = reader.root = reader.word(data, 0)
        reader.check_limits()
    except _NotPlain:
        return None
    return ParsedText(reader.source, root, ())


class _NotPlain(Exception):
    """There is something in the graph that only its text can be judged by."""


class _MappingReader:
    """Turns Python data into words, and knows where they would stand in its text.

    The position of a word is its number, in the order of the text, and 0; that of a reference in it
    is the number of the word and which of its references it is, from 1.
    """

    root: Word

    def __init__(self, name: str) -> None:
        self.source = Source(name, self.write)
        self.count = 0
        #: At least as long as the text.
        self.length = 0
        #: Texts with a dollar as they were given, by the numbers of their words.
        self.originals: dict[int, str] = {}

    # ---- reading

    def word(self, value: Any, depth: int) -> Word:
        number = self.count
        self.count += 1
        self.length += 2 * depth + 4
        kind = type(value)
        if kind is str:
            self.check(value)
            value = self.text(value, number) if "$" in value else value
        elif kind is dict:
            value = self.mapping(value, depth + 1)
        elif kind is list or kind is tuple:
            value = self.list_(value, depth + 1)
        elif kind is int:
            if value.bit_length() > 3 * MAX_DIGITS:  # a digit has 3.3 bits
                raise _NotPlain
            self.length += value.bit_length() // 3 + 2
        elif kind is float:
            if not math.isfinite(value):
                raise _NotPlain
            self.length += 24
        elif value is None or kind is bool:
            self.length += 5
        elif isinstance(value, os.PathLike) and type(path := os.fspath(value)) is str:
            self.check(path)
            value = self.text(path, number) if "$" in path else path
        elif isinstance(value, Mapping):
            value = self.mapping(dict(value), depth + 1)
        else:
            raise _NotPlain
        return Word(value, self, number, 0)

    def mapping(self, data: dict[Any, Any], depth: int) -> dict[str, Pair]:
        self.descend(depth)
        pairs = {}
        for key, value in data.items():
            if type(key) is not str or len(key) > _MAX_KEY:
                raise _NotPlain
            self.check(key)
            word = Word(key, self, self.count, 0)
            self.count += 1
            pairs[key] = Pair(word, self.word(value, depth))
        return pairs

    def list_(self, data: list[Any] | tuple[Any, ...], depth: int) -> tuple[Word, ...]:
        self.descend(depth)
        return tuple([self.word(value, depth) for value in data])

    def descend(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _NotPlain
        self.length += 2 * depth + 4

    def check_limits(self) -> None:
        if self.count > MAX_WORDS or self.length > MAX_BYTES:
            raise _NotPlain

    def check(self, text: str) -> None:
        self.length += (2 if text.isprintable() else 6) * len(text) + 4
        if not text.isascii() and _SPECIAL.search(text):
            raise _NotPlain

    def text(self, text: str, number: int) -> Any:
        self.originals[number] = text
        references = 0

        def locate(written: str) -> tuple[int, int]:
            nonlocal references
            references += written != "$$"
            return number, references

        return interpolate(text, self, locate=locate, refuse=_refuse)

    # ---- positions

    def mark(self, start: int, end: int) -> Mark:
        """Give the line and column of a word or a reference."""
        return Mark.located(self.source, partial(self.locate, start, end))

    def locate(self, number: int, reference: int) -> tuple[int, int, int]:
        return self.marks[number][reference].place

    @cached_property
    def marks(self) -> list[list[Mark]]:
        """The marks of all words in the text, each with those of its references."""
        root = read_words(self.source.text, name=self.source.name).word
        assert root is not None
        return [[word.mark, *_references(word)] for word in _in_order(root)]

    def write(self) -> str:
        return as_text(self.plain(self.root))

    def plain(self, word: Word) -> Any:
        """Give a word as the data that it was read from."""
        value = word.value
        if isinstance(value, dict):
            return {key: self.plain(pair.value) for key, pair in value.items()}
        if isinstance(value, tuple):
            return [self.plain(item) for item in value]
        return self.originals.get(word.start, value)


def _refuse(_: str, __: tuple[int, int]) -> None:
    raise _NotPlain


def _in_order(word: Word) -> Iterator[Word]:
    """Give a word and all words in it, in the order of the text."""
    yield word
    if isinstance(word.value, dict):
        for pair in word.value.values():
            yield pair.key
            yield from _in_order(pair.value)
    elif isinstance(word.value, tuple):
        for item in word.value:
            yield from _in_order(item)


def _references(word: Word) -> list[Mark]:
    if isinstance(word.value, Reference):
        return [word.value.mark]
    if isinstance(word.value, Template):
        return [part.mark for part in word.value.parts if isinstance(part, Reference)]
    return []
