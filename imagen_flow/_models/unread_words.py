"""Tell what a text encoder will not read of a text: what is cut off, and words that it does not know."""

from __future__ import annotations

from typing import Any

__all__ = ["unread_words"]

#: Words that are looked up; a longer prompt is cut by most encoders anyway.
_MAX_WORDS = 200


def unread_words(
    tokenizer: Any, text: str, length: int | None, *, what: str = "the prompt", before: str = ""
) -> str:
    """Give a note for the user; nothing if all is read.

    Params:
        length: tokens that the encoder takes, its own marks among them; None: it reads all.
        what: names the text in the note.
        before: what the encoder reads before the text; it takes of its tokens.
    """
    notes = [] if length is None else _cut(tokenizer, text, length, what, before)
    unknown = dict.fromkeys(
        word for word in text.split()[:_MAX_WORDS] if _is_unknown(tokenizer, word)
    )
    if unknown:
        words = [f"'{_short(word)}'" for word in unknown]
        notes.append(
            f"unknown to the text encoder: {', '.join(words[:5])}{', …' if len(words) > 5 else ''}"
        )
    return "; ".join(notes)


def _cut(tokenizer: Any, text: str, length: int, what: str, before: str) -> list[str]:
    found = tokenizer(
        before + text,
        truncation=False,
        verbose=False,
        return_offsets_mapping=tokenizer.is_fast,
        return_special_tokens_mask=True,
    )
    if len(found["input_ids"]) <= length:
        return []
    if not tokenizer.is_fast:  # it does not tell where in the text its tokens are
        own = len(tokenizer(before, truncation=False, verbose=False)["input_ids"])
        return [f"{what} is cut after {length - own} tokens"]
    # The marks that the tokenizer puts around the words have no place in the text.
    marks = found["special_tokens_mask"]
    spans = [span for span, mark in zip(found["offset_mapping"], marks, strict=True) if not mark]
    own = sum(end <= len(before) for _, end in spans)
    kept = max(own, length - (len(found["input_ids"]) - len(spans)))
    if kept >= len(spans):
        return []
    rest = _short((before + text)[spans[kept][0] :])
    return [f"{what} is cut after {kept - own} tokens, before '{rest}'"]


def _is_unknown(tokenizer: Any, word: str) -> bool:
    # Not `tokenize`, which prints where a word is long; and some show unknown pieces as written.
    ids = tokenizer(word, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return tokenizer.unk_token_id in ids or (
        not ids and any(c.isalnum() or ord(c) > 127 for c in word)
    )


def _short(text: str, most: int = 30) -> str:
    text = " ".join(text[: 2 * most].split())
    return text if len(text) <= most else text[: most - 1] + "…"
