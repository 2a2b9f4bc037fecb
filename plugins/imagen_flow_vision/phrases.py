"""Check phrases that a model is to read, and tell what it does not read of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imagen_flow.loaders import unread_words

from .networks import Network


def checked(phrases: Sequence[str], port: str) -> None:
    """Refuse phrases that say nothing.

    Raises:
        ValueError: there is none, one is empty, or one is given twice.
    """
    if not phrases:
        raise ValueError(f"port '{port}' is empty; name at least one")
    seen = set()
    for number, phrase in enumerate(phrases, 1):
        if not phrase.strip():
            raise ValueError(f"number {number} of port '{port}' is empty")
        if phrase in seen:
            raise ValueError(f"port '{port}' names '{phrase[:100]}' twice")
        seen.add(phrase)


def length_of(model: Network) -> int:
    """Return how many tokens of a text a model reads, its marks among them."""
    config = getattr(model.module.config, "text_config", model.module.config)
    return int(min(model.processor.tokenizer.model_max_length, config.max_position_embeddings))


def unread(model: Network, texts: Sequence[str]) -> Iterator[str]:
    """Give a note for each text that is not read in whole, at most five."""
    notes = 0
    for text in texts:
        if note := unread_words(
            model.processor.tokenizer, text, length_of(model), what=f"'{_short(text)}'"
        ):
            notes += 1
            yield note if notes < 5 else "and so on for other phrases"
            if notes == 5:
                return


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
