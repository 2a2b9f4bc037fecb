"""The result of every reader in this plugin: samples as the file has them, and how to interpret
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CheckSize = Callable[[int, int], None]
"""Raises ValueError if a picture of this width and height has too many pixels. Called with the size
in the header, before anything is allocated.
"""


class Unsupported(Exception):
    """A valid file that cannot be read correctly. The message continues "'name' is …" and says what
    to do.
    """


class Damaged(Exception):
    """A file that contradicts itself or ends too early. The message says what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded picture, not yet rotated and not yet in sRGB.

    `colours` has shape (height, width, n) with n = 1 (grey), 3 (RGB) or 4 (CMYK, 0 is no ink), as
    uint8 or uint16 over the whole range, or as float32 from 0 to 1. `alpha`, of shape (height,
    width, 1) and the same dtype, is not premultiplied. `profile` is an ICC profile; `cicp` are
    primaries and transfer by ITU-T H.273 and take precedence.
    """

    colours: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes = b""
    cicp: tuple[int, int] | None = None
    orientation: int = 1


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Read the orientation (1 to 8) from EXIF, else from XMP. Unreadable metadata is ignored: no
    pixel depends on the rest of it.
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


def rescale(samples: np.ndarray, max_value: int, dtype: str = "") -> np.ndarray:
    """Scale unsigned samples of 0 to `max_value` to the whole range of a dtype; by default uint8
    (up to 8 bits), uint16 (up to 16) or float32 from 0 to 1.
    """
    import numpy as np

    dtype = dtype or (
        "uint8" if max_value <= 255 else "uint16" if max_value <= 65535 else "float32"
    )
    if dtype == "float32":
        return (samples / np.float64(max_value)).astype("float32")
    dtype_max = int(np.iinfo(dtype).max)
    if max_value == dtype_max:
        return samples.astype(dtype, copy=False)
    table = (
        (np.arange(max_value + 1, dtype="uint64") * dtype_max + max_value // 2) // max_value
    ).astype(dtype)
    return table[samples]


def unpremultiply(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Divide premultiplied colours by their alpha. Where alpha is 0 they are unchanged; integers do
    not exceed their maximum.
    """
    import numpy as np

    if colours.dtype == "float32":
        return np.divide(colours, alpha, out=colours.copy(), where=alpha != 0)
    max_value = np.iinfo(colours.dtype).max
    out = colours.copy()
    for start in range(0, len(out), max(1, (1 << 20) // out[0].size)):
        part = slice(start, start + max(1, (1 << 20) // out[0].size))
        alpha_part = alpha[part].astype("uint64")
        divided = (colours[part].astype("uint64") * max_value + alpha_part // 2) // np.maximum(
            alpha_part, 1
        )
        out[part] = np.where(alpha_part > 0, np.minimum(divided, max_value), colours[part])
    return out
