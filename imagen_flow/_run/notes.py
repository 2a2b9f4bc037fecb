"""Notes: what a node has to say of its result (a word that the model does not know, a prompt that
was cut). They are kept with the result, and said again when it comes from the store.
"""

from __future__ import annotations

from .._plan import Step
from .._store import MAX_NOTE_LENGTH, MAX_NOTES, Store
from .._types.node import NodeType

__all__ = ["Notes", "kept_notes"]


class Notes:
    """The notes of one call of a node, each once."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def add(self, note: object) -> str | None:
        """Take a note; give it as it is kept if it is new."""
        text = " ".join(str(note).split())
        text = text if len(text) <= MAX_NOTE_LENGTH else text[: MAX_NOTE_LENGTH - 1] + "…"
        if not text or text in self.notes or len(self.notes) == MAX_NOTES:
            return None
        self.notes[text] = None
        return text


def kept_notes(store: Store, step: Step) -> tuple[str, ...]:
    """Give the notes that are kept with what the store holds of a step. Only nodes that yield can
    have any, so of others nothing is read.
    """
    type_ = step.node.type
    if not isinstance(type_, NodeType) or not type_.is_generator or step.key is None:
        return ()
    record = store.lookup(step.key)
    return record.notes if record is not None else ()
