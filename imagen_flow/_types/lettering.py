"""Write labels into pictures: measure, wrap and draw lines of text."""

from __future__ import annotations

import functools
from io import BytesIO
from typing import Any

__all__ = ["Lettering", "choose_lettering"]

#: Fonts that systems have, with more letters than Pillow's own.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
)

#: Stands for a character that the font does not have.
_BOX = "□"

#: A code point that no font has: what is drawn for it is drawn for every missing one.
_NOWHERE = "\U0010ffff"


class Lettering:
    """A font in a size, for labels.

    Params:
        font: the content of a TrueType or OpenType file, or the name of a font of the system; None
            is Pillow's own font, which has little more than the letters of English.
        size: the height of the text in pixels.

    Raises:
        OSError: the font cannot be read.
    """

    def __init__(self, font: bytes | str | None = None, *, size: int) -> None:
        from PIL import ImageFont

        loaded: Any = (
            ImageFont.load_default(size)
            if font is None
            else ImageFont.truetype(BytesIO(font) if isinstance(font, bytes) else font, size)
        )
        self._font = loaded
        #: The height of a line in pixels.
        self.line_height: int = sum(self._font.getmetrics()) + 2
        self._has = functools.lru_cache(maxsize=10_000)(self._look_up)

    def width(self, text: str) -> float:
        """Measure a line in pixels."""
        return float(self._font.getlength(text))

    def wrap(self, label: str, width: int, *, lines: int) -> list[str]:
        """Break a label into at most so many lines of a width in pixels.

        It is broken between words, and within a word that is wider than a line. What does not fit
        ends in an ellipsis; a blank label has no lines.
        """
        rest = " ".join(label[: 1000 * lines].split())
        found: list[str] = []
        while rest and len(found) < lines - 1:
            count = self._fitting(rest, width)
            if count < len(rest):
                space = rest.rfind(" ", 0, count + 1)
                count = space if space > 0 else max(1, count)
            found.append(rest[:count])
            rest = rest[count:].lstrip()
        if rest and self.width(rest) > width:
            rest = rest[: self._fitting(rest, width, end="…")] + "…"
        return [*found, rest] if rest else found

    def _fitting(self, text: str, width: int, *, end: str = "") -> int:
        """Count the characters of the longest beginning of a text that fits with an ending."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle] + end) <= width:
                low = middle
            else:
                high = middle - 1
        return low

    def draw(self, line: str, width: int, *, centred: bool = True) -> Any:
        """Draw a line of text as an array of its opacity (uint8, line height × width)."""
        import numpy as np
        import PIL.Image
        from PIL import ImageDraw

        drawn = PIL.Image.new("L", (width, self.line_height))
        left = max(0.0, (width - self.width(line)) / 2) if centred else 0.0
        ImageDraw.Draw(drawn).text((left, 1), line, fill=255, font=self._font)
        return np.asarray(drawn)

    def missing(self, text: str) -> set[str]:
        """Return the characters of a text that the font does not have."""
        return {
            character
            for character in set(text)
            if character.isprintable() and not character.isspace() and not self._has(character)
        }

    def replace_missing(self, text: str) -> str:
        """Put a box, or a question mark, in place of each character that the font does not have."""
        missing = self.missing(text)
        if not missing:
            return text
        box = _BOX if self._has(_BOX) else "?"
        return "".join(box if character in missing else character for character in text)

    @functools.cached_property
    def _drawn_nowhere(self) -> bytes:
        return self._bitmap(_NOWHERE)

    def _look_up(self, character: str) -> bool:
        if character < "\x7f":
            return True
        return self._bitmap(character) != self._drawn_nowhere

    def _bitmap(self, character: str) -> bytes:
        mask = self._font.getmask(character)
        return repr(mask.size).encode() + bytes(mask)


def choose_lettering(text: str, *, size: int) -> Lettering:
    """Return Pillow's own font, or if it lacks characters of a text the font of the system that
    lacks fewest.
    """
    best = Lettering(size=size)
    missing = len(best.missing(text))
    for name in _SYSTEM_FONTS:
        if not missing:
            break
        try:
            other = Lettering(name, size=size)
        except OSError:
            continue
        if (count := len(other.missing(text))) < missing:
            best, missing = other, count
    return best
