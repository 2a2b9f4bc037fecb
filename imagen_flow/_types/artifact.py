"""Name an output value without holding it: what plans compare and stores look up."""

from __future__ import annotations

from .._system.dataclass import dataclass

__all__ = ["Artifact"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """An output value by its digest and kind. A list (kind ``list``) also says what its elements
    are, so that `each` can be planned unread.

    A record (kind ``record``) goes into a port and is never an output: `items` are the values of
    its `fields`.
    """

    digest: str
    kind: str
    items: tuple[Artifact, ...] | None = None
    fields: tuple[str, ...] = ()
