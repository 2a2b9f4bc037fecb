"""What checkers find, and what a loaded checker can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np


class Box(NamedTuple):
    """A rectangle in pixels, from the top left corner of the picture."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Finding:
    """A class that a checker sees, how strongly, and where if it says so."""

    label: str
    score: float
    box: Box | None = None

    def as_json(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"label": self.label, "score": self.score}
        if self.box is not None:
            x, y, width, height = self.box
            found["box"] = [x, y, x + width, y + height]
        return found


class Checker(Protocol):
    """A loaded checker."""

    @property
    def name(self) -> str:
        """The model, as the graph names it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it knows."""

    @property
    def unsafe(self) -> frozenset[str]:
        """Those that are unsafe unless the graph says otherwise; none if the model does not say."""

    @property
    def threshold(self) -> float:
        """The lowest score that counts unless the graph says otherwise."""

    def look(self, picture: np.ndarray) -> list[Finding]:
        """Return what is in a picture, uint8 (height, width, 3) in sRGB."""
