"""Cut long texts into passages that a model can read at once, and check texts before they are read."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

MAX_CHARACTERS = 5_000_000
"""The longest text that is read, some thousand pages."""

_SENTENCE = re.compile(
    r".+?(?:(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s+|[。！？]+[”’」』）]*\s*|\n+\s*|\Z)", re.DOTALL
)
_WORD = re.compile(r"\s*\S+\s*")


def readable(text: str, tokenizer: Any, what: str = "port 'text'") -> str:
    """Return a text as models read it: control characters become spaces.

    Raises:
        ValueError: it is empty, too long, not valid Unicode, or has what the tokenizer takes for a
            mark, such as the end of a text.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"{what} has {len(text):,} characters, more than can be read ({MAX_CHARACTERS:,})"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{what} is not valid Unicode: it has half a character; fix its source")
    text = "".join(
        " " if unicodedata.category(letter) == "Cc" and letter not in "\n\t\r" else letter
        for letter in text
    )
    if not text.strip():
        raise ValueError(f"{what} is empty; there is nothing to read")
    if mark := next((mark for mark in tokenizer.all_special_tokens if mark in text), ""):
        raise ValueError(
            f"{what} has '{mark}', which the model reads as a mark of its own, not as text; remove it"
        )
    return text


def passages(text: str, count: Callable[[str], int], window: int) -> list[str]:
    """Cut a text into passages of at most `window` tokens. Nothing is left out but the white space
    between them.

    A passage ends with a sentence; only a sentence that is too long by itself is cut between words,
    and only a word that is too long within it.

    Params:
        count: tells how many tokens a text has.
    """
    if count(text) <= window:
        return [text]
    marks = count("")
    found = list[str]()
    waiting = deque((piece, count(piece) - marks) for piece in _pieces(text, count, window))
    while waiting:
        taken, room = [waiting.popleft()], window - marks
        room -= taken[0][1]
        while waiting and waiting[0][1] <= room:
            taken.append(waiting.popleft())
            room -= taken[-1][1]
        # Counts of pieces do not always add up to the count of their text.
        while len(taken) > 1 and count(_joined(taken)) > window:
            waiting.appendleft(taken.pop())
        found.append(_joined(taken))
    return [passage for passage in found if passage]


def _joined(pieces: list[tuple[str, int]]) -> str:
    return "".join(piece for piece, _ in pieces).strip()


def _pieces(text: str, count: Callable[[str], int], window: int) -> Iterator[str]:
    """Yield sentences, or where these are too long words, or parts of words."""
    for sentence in _SENTENCE.findall(text):
        if count(sentence) <= window:
            yield sentence
            continue
        for word in _WORD.findall(sentence):
            yield from _halves(word, count, window)


def _halves(word: str, count: Callable[[str], int], window: int) -> Iterator[str]:
    if len(word) < 2 or count(word) <= window:
        yield word
        return
    middle = len(word) // 2
    yield from _halves(word[:middle], count, window)
    yield from _halves(word[middle:], count, window)
