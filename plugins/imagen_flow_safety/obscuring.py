"""Make regions of a picture unrecognisable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .findings import Box

if TYPE_CHECKING:
    import numpy as np

CELLS = 8
"""How many averages a side are left of a region."""

MARGIN = 0.1
"""How much a box grows on each side, as a part of its size: detectors draw them close."""


def grown(box: Box, width: int, height: int) -> Box:
    """Grow a box by the margin, within the picture."""
    x, y = int(box.width * MARGIN), int(box.height * MARGIN)
    left, top = max(0, box.x - x), max(0, box.y - y)
    right, bottom = min(width, box.x + box.width + x), min(height, box.y + box.height + y)
    return Box(left, top, right - left, bottom - top)


def obscured(pixels: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Replace what is in the boxes by a smooth surface through the averages of at most 8 × 8 cells.

    A blur that only convolves can be reversed in part; of this one, no more than the averages is
    left, whatever is done to it. Alpha stays.

    Inputs:
        pixels: (height, width, channels) of any dtype of a picture.
        boxes: inside the picture.
    """
    import numpy as np
    from PIL import Image

    out = pixels.copy()
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    for x, y, width, height in boxes:
        if width < 1 or height < 1:
            continue
        cells = (min(CELLS, width), min(CELLS, height))
        for channel in range(colours):
            region = pixels[y : y + height, x : x + width, channel]
            averages = Image.fromarray(region.astype("float32")).resize(cells, Image.Resampling.BOX)
            smooth = np.asarray(averages.resize((width, height), Image.Resampling.BILINEAR))
            if pixels.dtype != "float32":
                smooth = np.rint(smooth)
            out[y : y + height, x : x + width, channel] = smooth
    return out
