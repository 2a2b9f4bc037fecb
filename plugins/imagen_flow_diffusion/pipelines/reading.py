"""Say what a text encoder will not read of a prompt: what is cut off, and words that it does not
know.
"""

from __future__ import annotations

import re
from typing import Any

WORDS = 200
"""Words that are looked up; a longer prompt is cut by most encoders anyway."""


def unread(
    tokenizer: Any, text: str, length: int, *, what: str = "the prompt", before: str = ""
) -> str:
    """Give a note for the user; nothing if all is read.

    Params:
        length: tokens that the encoder takes, its own marks among them.
        what: names the text in the note.
        before: what the encoder reads before the text; it takes of its tokens.
    """
    notes = []
    found = tokenizer(before + text, truncation=False, verbose=False, return_offsets_mapping=True)
    if len(found["input_ids"]) > length:
        # The marks that the tokenizer puts around the words have no place in the text.
        spans = [(start, end) for start, end in found["offset_mapping"] if end > start]
        own = sum(end <= len(before) for _, end in spans)
        kept = max(own, length - (len(found["input_ids"]) - len(spans)))
        if kept < len(spans):
            notes.append(
                f"{what} is cut after {kept - own} tokens, before"
                f" '{_short((before + text)[spans[kept][0] :])}'"
            )
    strange = dict.fromkeys(word for word in text.split()[:WORDS] if _is_strange(tokenizer, word))
    if strange:
        words = [f"'{_short(word)}'" for word in strange]
        notes.append(
            f"unknown to the text encoder: {', '.join(words[:5])}{', …' if len(words) > 5 else ''}"
        )
    return "; ".join(notes)


_WEIGHTED = re.compile(r"\([^()]{1,200}:\s*[+-]?\d*\.?\d+\s*\)")
_LOADED = re.compile(r"<(lora|lyco|hypernet):[^<>]{1,200}>", re.IGNORECASE)
_BROKEN = re.compile(r"(?<!\w)BREAK(?!\w)")


def foreign(text: str, *, what: str = "the prompt", weighting: str = "none") -> str:
    """Give a note on what other programs read as commands, and this one as words; nothing if there
    is none.

    Params:
        weighting: how weights in the prompt are read: ``none`` or ``compel``.
    """
    notes = []
    if found := _WEIGHTED.search(text):
        way = (
            "weighting: compel reads (red)1.3"
            if weighting == "compel"
            else "text.encode with weighting: compel reads (red)1.3"
        )
        notes.append(f"'{_short(found[0])}' in {what} is read as words, not as a weight; {way}")
    if found := _LOADED.search(text):
        port = (
            "give the file to 'loras'"
            if found[1].lower() != "hypernet"
            else "hypernetworks are not supported"
        )
        notes.append(f"'{_short(found[0])}' in {what} is read as words and loads nothing: {port}")
    if _BROKEN.search(text):
        notes.append(f"'BREAK' in {what} is read as a word, and divides nothing")
    return "; ".join(notes)


def _is_strange(tokenizer: Any, word: str) -> bool:
    tokens = tokenizer.tokenize(word)
    return tokenizer.unk_token in tokens or (
        not tokens and any(c.isalnum() or ord(c) > 127 for c in word)
    )


def _short(text: str, most: int = 30) -> str:
    text = " ".join(text[: 2 * most].split())
    return text if len(text) <= most else text[: most - 1] + "…"
