"""Tell what other programs read as commands in a prompt, and this one as words."""

from __future__ import annotations

import re

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


def _short(text: str, most: int = 30) -> str:
    text = " ".join(text[: 2 * most].split())
    return text if len(text) <= most else text[: most - 1] + "…"
