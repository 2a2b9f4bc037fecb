"""Read YAML 1.2 (core schema) or JSON into words, each with its position. Knows nothing of graphs.

Nothing here raises for bad text: what cannot be read becomes a problem, and a Word with the value
UNREADABLE replaces it.

Most texts are plain and are read by `plain_reader`; any other by `yaml_events`, which is imported
when there is one.
"""

from __future__ import annotations

import re

from ..errors import Mark, Problem, Source
from .decoding import decode
from .words import MAX_BYTES, MAX_WORDS, ParsedText

__all__ = ["read_fully", "read_words", "source_of", "too_large"]


def read_words(text: str | bytes, *, name: str, references: bool = True) -> ParsedText:
    """Read one document of YAML or JSON.

    Params:
        references: whether ``${…}`` and ``$$`` have a meaning. They have none in text that is not a
            graph.
    """
    if len(text) > MAX_BYTES:
        return ParsedText(Source(name, ""), None, (too_large(name),))
    if isinstance(text, bytes):
        decoded = decode(text, name)
        if isinstance(decoded, Problem):
            assert decoded.mark is not None
            return ParsedText(decoded.mark.source, None, (decoded,))
        text = decoded
    from .plain_reader import read_plain  # here: a graph composed in Python needs no patterns

    source = source_of(text, name)
    if _past_limit(source.text) is None:
        word = read_plain(source, references=references, max_words=MAX_WORDS)
        if word is not None:
            return ParsedText(source, word, ())
    return read_fully(source, references=references)


def read_fully(source: Source, *, references: bool = True) -> ParsedText:
    """Read any text, event by event, and report its problems."""
    from .yaml_events import read_events

    return read_events(
        source, references=references, max_words=MAX_WORDS, past=_past_limit(source.text)
    )


def source_of(text: str, name: str) -> Source:
    """Give the text that marks point into: without its byte order mark, and with one kind of line
    end.
    """
    return Source(name, re.sub(r"\r\n?", "\n", text.removeprefix("\ufeff")))


def too_large(name: str) -> Problem:
    """Report that a file is larger than a graph may be."""
    mark = Mark(Source(name, ""), 1, 1)
    return Problem(
        "too-large",
        f"a graph file may have at most {MAX_BYTES >> 20} MiB",
        mark,
        fix="put data into separate files, and refer to them in the graph",
    )


#: What ends a key, in YAML and in JSON without spaces.
_KEY_END = re.compile(r'(?<!\\)":|:(?=[ \t]|\Z)')
_BLOCK = re.compile(r"(?:: |- |\A)[|>][-+0-9]*[ \t]*(?:#.*)?\Z")


def _past_limit(text: str) -> int | None:
    """Find where a text exceeds the number of words that a graph may have, without parsing it (that
    would take half a minute): by its keys, each of which is a word with a value.

    The content of a text block has no keys. A colon in other text counts as one, of which no
    hand-written text has that many.
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
