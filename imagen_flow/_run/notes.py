"""Collect notes: a node's remarks on its result (a word that the model does not know, a truncated
prompt). They are stored with the result and repeated when it comes from the store.
"""

from __future__ import annotations

from .._plan import Step
from .._store import MAX_NOTE_LENGTH, MAX_NOTES, Store
from .._types.node import NodeType

__all__ = ["Notes", "kept_notes"]


class Notes:
    """The notes of one call of a node, without duplicates."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def add(self, note: object) -> str | None:
        """Add a note; return it in its stored form if it is new."""
        text = " ".join(str(note).split())
        text = text if len(text) <= MAX_NOTE_LENGTH else text[: MAX_NOTE_LENGTH - 1] + "…"
        if not text or text in self.notes or len(self.notes) == MAX_NOTES:
            return None
        self.notes[text] = None
        return text


def kept_notes(store: Store, step: Step) -> tuple[str, ...]:
    """Give the notes that are stored with a step. Only generator nodes can have any, so nothing is
    read for others.
    """
    type_ = step.node.type
    if not isinstance(type_, NodeType) or not type_.is_generator or step.key is None:
        return ()
    record = store.lookup(step.key)
    return record.notes if record is not None else ()
