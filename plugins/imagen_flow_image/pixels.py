"""Convert pixels to a common form and back: depth, channels, alpha, and Pillow operations on more
than 8 bits.

Arrays are (height, width, channels) as in `Image`; *unit* arrays are float32 from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imagen_flow import Image

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

MAX_PIXELS = 1 << 27
"""The most pixels of a result, so that a graph cannot exhaust the memory."""


def check_size(width: int, height: int) -> None:
    """Raise if a result of this size would be too large; called before it is computed."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the result would have {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}; use"
            " a smaller size"
        )


def max_value(dtype: Any) -> int:
    """Give the number for full intensity: 255, 65535, or 1 for float."""
    return {"uint8": 255, "uint16": 65535}.get(str(dtype), 1)


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of any depth to float32 from 0 to 1."""
    import numpy as np

    return (
        pixels
        if pixels.dtype == "float32"
        else pixels.astype("float32") / np.float32(max_value(pixels.dtype))
    )


def from_unit(pixels: np.ndarray, dtype: Any) -> np.ndarray:
    """Convert unit pixels to another depth: rounded and clipped for ints, unchanged for float."""
    import numpy as np

    if str(dtype) == "float32":
        return pixels.astype("float32", copy=False)
    most = max_value(dtype)
    whole: np.ndarray = (np.clip(pixels, 0, 1) * np.float32(most) + np.float32(0.5)).astype(dtype)
    return whole


def to_depth(pixels: np.ndarray, dtype: Any) -> np.ndarray:
    """Change only the depth; from 8 to 16 bits and back without loss."""
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype == "uint8" and str(dtype) == "uint16":
        return pixels.astype("uint16") * 257
    if pixels.dtype == "uint16" and str(dtype) == "uint8":
        return ((pixels.astype("uint32") + 128) // 257).astype("uint8")
    return from_unit(to_unit(pixels), dtype)


def deepest_dtype(*pictures: Any) -> str:
    """Give the deepest dtype among pictures and masks."""
    return max((str(p.pixels.dtype) for p in pictures), key=("uint8", "uint16", "float32").index)


def with_channels(pixels: np.ndarray, *, colour: bool, alpha: bool) -> np.ndarray:
    """Add missing channels: grey is repeated, added alpha is opaque."""
    import numpy as np

    count = pixels.shape[2]
    if colour and count < 3:
        pixels = np.concatenate([np.repeat(pixels[:, :, :1], 3, axis=2), pixels[:, :, 1:]], axis=2)
    if alpha and count in (1, 3):
        opaque = np.full((*pixels.shape[:2], 1), max_value(pixels.dtype), dtype=pixels.dtype)
        pixels = np.concatenate([pixels, opaque], axis=2)
    return pixels


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Compute (height, width) luminance in the depth of the pixels, by ITU-R BT.601; in 8 bits
    exactly Pillow's mode ``L``.
    """
    import numpy as np

    if pixels.shape[2] < 3:
        return pixels[:, :, 0]
    grey: np.ndarray
    if pixels.dtype == "float32":
        grey = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114], dtype="float32")
    else:
        wide = pixels.astype("uint64" if pixels.dtype == "uint16" else "uint32")
        grey = (
            (wide[:, :, 0] * 19595 + wide[:, :, 1] * 38470 + wide[:, :, 2] * 7471 + 0x8000) >> 16
        ).astype(pixels.dtype)
    return grey


def premultiply(pixels: np.ndarray) -> np.ndarray:
    """Multiply the colours of unit pixels by their alpha; pixels without alpha are unchanged."""
    import numpy as np

    if pixels.shape[2] in (1, 3):
        return pixels
    return np.concatenate([pixels[:, :, :-1] * pixels[:, :, -1:], pixels[:, :, -1:]], axis=2)


def unpremultiply(pixels: np.ndarray) -> np.ndarray:
    """Undo `premultiply`; where alpha is zero, colour is black."""
    import numpy as np

    if pixels.shape[2] in (1, 3):
        return pixels
    alpha = np.clip(pixels[:, :, -1:], 0, 1)
    seen = alpha > 1e-6
    return np.concatenate(
        [np.where(seen, pixels[:, :, :-1] / np.where(seen, alpha, 1), 0), alpha], axis=2
    )


def through_pillow(image: Image, operation: Callable[[PIL.Image.Image], PIL.Image.Image]) -> Image:
    """Apply a Pillow operation in the depth of the picture.

    Opaque 8-bit pictures are passed as they are, so the result is Pillow's own. All others are
    processed channel by channel as 32-bit floats (mode ``F``), weighted by alpha.
    """
    import numpy as np
    import PIL.Image

    pixels = image.pixels
    if pixels.dtype == "uint8" and not image.has_alpha:
        return Image.from_pil(operation(image.to_pil()))
    weighed = premultiply(to_unit(pixels))
    planes = [
        np.array(operation(PIL.Image.fromarray(np.ascontiguousarray(weighed[:, :, c]))))
        for c in range(weighed.shape[2])
    ]
    return Image(from_unit(unpremultiply(np.stack(planes, axis=2)), pixels.dtype))


def check_same_size(**pictures: Any) -> None:
    """Raise unless the pictures, given by port, have the same size."""
    (first, one), *others = pictures.items()
    for port, other in others:
        if (one.width, one.height) != (other.width, other.height):
            resize = "mask.resize" if type(other).__name__ == "Mask" else "image.resize"
            raise ValueError(
                f"port '{port}' is {other.width} x {other.height} and port '{first}' is {one.width}"
                f" x {one.height}; they must have the same size: use {resize} or image.crop"
            )
