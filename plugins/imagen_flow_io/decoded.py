"""What every reader of this plugin gives: samples as the file holds them, and what says how they
are meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CheckSize = Callable[[int, int], None]
"""Raises ValueError where a picture of this width and height has too many pixels. Called with what a header claims, before anything is allocated."""


class Unsupported(Exception):
    """A file that is sound but cannot be read rightly. The text continues "'name' is …" and says
    how to mend it.
    """


class Damaged(Exception):
    """A file that contradicts itself or ends too early. The text says what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded picture, not yet upright and not yet in sRGB.

    `colours` has shape (height, width, n) with n = 1 (grey), 3 (RGB) or 4 (CMYK, 0 is no ink), as
    uint8 or uint16 over the whole range, or as float32 from 0 to 1. `alpha`, of
    shape (height, width, 1) and equal dtype, is straight. `profile` is an ICC profile; `cicp` are
    primaries and transfer by ITU-T H.273 and take precedence.
    """

    colours: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes = b""
    cicp: tuple[int, int] | None = None
    orientation: int = 1


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Read the orientation (1 to 8) from EXIF, else from XMP. Metadata that cannot be read says
    nothing: no pixel depends on the rest of it.
    """
    if exif:
        import PIL.Image

        try:
            parsed = PIL.Image.Exif()
            parsed.load(exif)
            turned = int(str(parsed.get(0x0112, 0)))
        except Exception:  # Pillow's parser raises almost anything on damaged metadata.
            turned = 0
        if 1 <= turned <= 8:
            return turned
    named = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", xmp)
    return int(named[1]) if named else 1


def rescale(samples: np.ndarray, most: int, dtype: str = "") -> np.ndarray:
    """Bring unsigned samples of 0 to `most` to the whole of a dtype; by themselves to uint8 (up to
    8 bits), uint16 (up to 16) or float32 from 0 to 1.
    """
    import numpy as np

    dtype = dtype or ("uint8" if most <= 255 else "uint16" if most <= 65535 else "float32")
    if dtype == "float32":
        return (samples / np.float64(most)).astype("float32")
    full = int(np.iinfo(dtype).max)
    if most == full:
        return samples.astype(dtype, copy=False)
    table = ((np.arange(most + 1, dtype="uint64") * full + most // 2) // most).astype(dtype)
    return table[samples]


def straighten(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Divide premultiplied colours by their alpha. Where alpha is 0 they stay as they are; in
    integers none exceeds the whole.
    """
    import numpy as np

    if colours.dtype == "float32":
        return np.divide(colours, alpha, out=colours.copy(), where=alpha != 0)
    full = np.iinfo(colours.dtype).max
    out = colours.copy()
    for start in range(0, len(out), max(1, (1 << 20) // out[0].size)):
        part = slice(start, start + max(1, (1 << 20) // out[0].size))
        a = alpha[part].astype("uint64")
        divided = (colours[part].astype("uint64") * full + a // 2) // np.maximum(a, 1)
        out[part] = np.where(a > 0, np.minimum(divided, full), colours[part])
    return out
