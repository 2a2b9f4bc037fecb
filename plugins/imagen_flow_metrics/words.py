"""Compare a text with a reference by their words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from imagen_flow import Text, node

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
"""A word; of Chinese and Japanese, which have no spaces, a character."""


class Overlap(NamedTuple):
    """How many words two texts share."""

    score: float
    precision: float
    recall: float


@node("score.words", version=1)
def score(text: Text, reference: Text) -> Overlap:
    """Score how many words a text shares with a reference, for example a caption with the prompt
    that its picture was drawn from.

    Inputs:
        text, reference: case and punctuation do not count, nor does the order of words, nor how
            Unicode writes a letter (NFKC).

    Outputs:
        score: 0 to 1; the harmonic mean of the other two. 0 if they share no word, or one is empty.
        precision: the share of the words of the text that are in the reference.
        recall: the share of the words of the reference that are in the text. A word that occurs
            twice counts twice.

    Source:
        ROUGE-1 (Lin, 2004), without stemming.
    """
    said, wanted = Counter(_words(text)), Counter(_words(reference))
    shared = (said & wanted).total()
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / said.total(), shared / wanted.total()
    return Overlap(
        round(2 * precision * recall / (precision + recall), 6),
        round(precision, 6),
        round(recall, 6),
    )


def _words(text: str) -> list[str]:
    letters = (
        # In scripts such as Devanagari and Thai, marks are parts of words.
        letter if letter.isalnum() or unicodedata.category(letter).startswith("M") else " "
        for letter in unicodedata.normalize("NFKC", text).casefold()
    )
    return _WORD.findall("".join(letters))
