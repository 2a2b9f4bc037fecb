"""Parse colours written as text."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from .pixels import from_unit, with_channels

if TYPE_CHECKING:
    import numpy as np


def read_colour(text: str, port: str = "colour") -> tuple[int, int, int, int]:
    """Parse a colour as red, green, blue and alpha, 0 to 255 each: a name, ``#rgb``,
    ``#rrggbb(aa)``, ``rgb(…)``, ``hsl(…)``, or ``transparent``.
    """
    from PIL import ImageColor

    word = text.strip()
    if word.lower() == "transparent":
        return (0, 0, 0, 0)
    try:
        # Pillow's own notations; it also refuses hexadecimal colours of unknown length.
        red, green, blue, *alpha = ImageColor.getrgb(word)
    except ValueError:
        near = difflib.get_close_matches(
            word.lower(), [*ImageColor.colormap, "transparent"], n=1, cutoff=0.75
        )
        meant = (
            f"did you mean '{near[0]}'?"
            if near
            else (
                "write a name such as orange, #ff8800, rgb(255, 136, 0), hsl(32, 100%, 50%) or"
                " transparent"
            )
        )
        raise ValueError(f"port '{port}': '{text[:60]}' is not a colour; {meant}") from None
    return (red, green, blue, alpha[0] if alpha else 255)


def match_channels(
    pixels: np.ndarray, colour: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Give pixels enough channels for a colour (grey becomes RGB, opaque gains alpha, only if
    needed), and the colour in the same form.
    """
    import numpy as np

    red, green, blue, alpha = colour
    clear = alpha < 255
    wide = with_channels(pixels, colour=not (red == green == blue), alpha=clear)
    parts = [red, green, blue] if wide.shape[2] >= 3 else [red]
    if wide.shape[2] in (2, 4):
        parts.append(alpha)
    drawn = np.array(parts, dtype="float32") / np.float32(255)
    return wide, from_unit(drawn, pixels.dtype)
