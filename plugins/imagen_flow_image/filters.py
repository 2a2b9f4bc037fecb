"""Blur, sharpen, find edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from imagen_flow import Image, Range, node

from .pixels import from_unit, luminance, premultiply, to_unit, unpremultiply

if TYPE_CHECKING:
    import numpy as np


@node("image.blur", version=1, uses=("numpy", "pillow"))
def blur(
    image: Image,
    *,
    radius: Annotated[float, Range(0, 1000)] = 2.0,
    kind: Literal["gaussian", "box"] = "gaussian",
) -> Image:
    """Blur a picture.

    Params:
        radius: standard deviation of the Gaussian, or half the width of the box, in pixels; 0
            changes nothing.

    Source:
        Pillow's `ImageFilter.GaussianBlur` (three box blurs: Gwosdek et al., "Theoretical
            Foundations of Gaussian Convolution by Extended Box Filtering") and `BoxBlur`; for
            alpha, 16 bits and float the same in numpy.
    """
    if radius == 0:
        return image
    if image.pixels.dtype == "uint8" and not image.has_alpha:
        from PIL import ImageFilter

        return Image.from_pil(
            image.to_pil().filter(
                ImageFilter.GaussianBlur(radius)
                if kind == "gaussian"
                else ImageFilter.BoxBlur(radius)
            )
        )
    blurred = blur_channels(premultiply(to_unit(image.pixels)), radius, kind)
    return Image(from_unit(unpremultiply(blurred), image.pixels.dtype))


@node("image.sharpen", version=1, uses=("numpy", "pillow"))
def sharpen(
    image: Image,
    *,
    amount: Annotated[float, Range(0, 10)] = 1.0,
    radius: Annotated[float, Range(0, 100)] = 2.0,
    threshold: Annotated[float, Range(0, 1)] = 0.0,
) -> Image:
    """Sharpen a picture with an unsharp mask; alpha stays.

    Params:
        amount: the factor on the difference to the blurred picture; 0 changes nothing.
        radius: of the blur, in pixels.
        threshold: differences below this fraction of full range are ignored, so that noise is not
            sharpened.

    Source:
        as Pillow's `ImageFilter.UnsharpMask`.
    """
    import numpy as np

    if amount == 0 or radius == 0:
        return image
    pixels = to_unit(image.pixels)
    soft = to_unit(blur(image, radius=radius).pixels)
    colours = pixels.shape[2] - image.has_alpha
    detail = pixels[:, :, :colours] - soft[:, :, :colours]
    if threshold:
        detail = np.where(np.abs(detail) >= threshold, detail, 0)
    sharp = pixels.copy()
    sharp[:, :, :colours] += np.float32(amount) * detail
    return Image(from_unit(sharp, image.pixels.dtype))


@node("image.edges", version=1, uses=("numpy",))
def edges(
    image: Image,
    *,
    radius: Annotated[float, Range(0, 100)] = 1.0,
    threshold: Annotated[float, Range(0, 1)] | None = None,
) -> Image:
    """Draw the edges of a picture, white on black, for nodes that are controlled by outlines.

    Params:
        radius: of the Gaussian blur before the detection, in pixels; more gives fewer, smoother
            edges.
        threshold: makes every edge white that is stronger than this fraction of the strongest
            possible one, and the rest black; without it, edges are as bright as they are strong.

    Outputs:
        grey, in the picture's depth. Alpha is dropped: colours are composited over black.

    Source:
        the Sobel operator on the luminance (Pillow's weights of ITU-R BT.601), scaled so that a
            straight edge from black to white is white.
    """
    import numpy as np

    grey = luminance(premultiply(to_unit(image.pixels)))
    if radius:
        grey = blur_channels(grey[:, :, None], radius, "gaussian")[:, :, 0]
    around = np.pad(grey, 1, mode="edge")
    down = around[:-2] + 2 * around[1:-1] + around[2:]
    across = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    strength = np.hypot(down[:, 2:] - down[:, :-2], across[2:] - across[:-2]) / np.float32(4)
    if threshold is not None:
        strength = (strength > threshold).astype("float32")
    return Image(from_unit(np.clip(strength, 0, 1)[:, :, None], image.pixels.dtype))


def blur_channels(pixels: np.ndarray, radius: float, kind: str) -> np.ndarray:
    """Blur unit pixels of any number of channels as Pillow blurs 8 bits; the edge pixels are
    repeated beyond the edges.
    """
    if kind == "box":
        return _box(pixels, radius)
    for _ in range(3):
        pixels = _box(pixels, _box_radius(radius, 3))
    return pixels


def _box_radius(deviation: float, passes: int) -> float:
    """Give the radius of the extended box filter that has this standard deviation after a number of
    passes (Gwosdek et al., equation 14).
    """
    variance = deviation * deviation / passes
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    return whole + (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (
        6 * (variance - (whole + 1) ** 2)
    )


def _box(pixels: np.ndarray, radius: float) -> np.ndarray:
    import numpy as np

    whole = int(radius)
    part = radius - whole
    for axis in (0, 1):
        count = pixels.shape[axis]
        reach = [(0, 0)] * 3
        reach[axis] = (whole + 2, whole + 1)
        # A window is the difference of two running sums; 64 bits keep long ones accurate enough.
        sums = np.cumsum(np.pad(pixels, reach, mode="edge"), axis=axis, dtype="float64")
        wide = _slice(sums, axis, 2 * whole + 3, count) - _slice(sums, axis, 0, count)
        core = _slice(sums, axis, 2 * whole + 2, count) - _slice(sums, axis, 1, count)
        pixels = ((core * (1 - part) + wide * part) / (2 * radius + 1)).astype("float32")
    return pixels


def _slice(sums: np.ndarray, axis: int, start: int, count: int) -> np.ndarray:
    return sums[start : start + count] if axis == 0 else sums[:, start : start + count]
