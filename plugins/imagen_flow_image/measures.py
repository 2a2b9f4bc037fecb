"""Measure pictures: size, difference, statistics."""

from __future__ import annotations

import math
from typing import NamedTuple

from imagen_flow import Image, Json, node

from .pixels import deepest, in_depth, luminance, premultiplied, same_size, unit, widened


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Difference(NamedTuple):
    """How two pictures differ: a picture of it, and in numbers from 0 to 1."""

    image: Image
    mean: float
    largest: float
    rms: float


@node("image.size", version=1)
def size(image: Image) -> Size:
    """Give the width and the height of a picture, for example to make another of the same size."""
    return Size(image.width, image.height)


@node("image.difference", version=1, uses=("numpy",))
def difference(a: Image, b: Image) -> Difference:
    """Show and measure how two pictures of one size differ.

    Outputs:
        image: the absolute difference of each channel, black where they are equal; colours are
            weighed by alpha, and a difference in alpha shows as such.
        mean: the mean absolute difference, as a part of full range: 0 is equal, 1 is black against
            white.
        largest: of any channel of any pixel.
        rms: the root of the mean squared difference.

    Raises:
        ValueError: the sizes differ.
    """
    import numpy as np

    same_size(a=a, b=b)
    alpha = a.has_alpha or b.has_alpha
    colour = a.channels >= 3 or b.channels >= 3
    one, other = (
        premultiplied(widened(unit(image.pixels), colour=colour, alpha=alpha)) for image in (a, b)
    )
    apart = np.abs(one - other)
    shown = np.maximum(apart[:, :, :-1], apart[:, :, -1:]) if alpha else apart
    mean, rms = (
        float(apart.mean(dtype="float64")),
        math.sqrt(float(np.square(apart, dtype="float64").mean())),
    )
    return Difference(
        Image(in_depth(shown, deepest(a, b))),
        _rounded(mean),
        _rounded(float(apart.max())),
        _rounded(rms),
    )


@node("image.statistics", version=1, uses=("numpy",))
def statistics(image: Image) -> Json:
    """Measure a picture: its size and depth, and the mean, spread and extremes of each channel.

    Outputs:
        a mapping with ``width``, ``height``, ``channels`` and ``depth`` (8, 16 or "float");
        ``mean``, ``deviation``, ``min`` and ``max`` as lists, one number from 0 to 1 a channel
        (grey or red, green, blue, then alpha); and ``luminance``, its mean. Take one out by
        `json.get`, for example ``mean[0]``.
    """
    pixels = unit(image.pixels)
    return {
        "width": image.width,
        "height": image.height,
        "channels": image.channels,
        "depth": {"uint8": 8, "uint16": 16}.get(image.pixels.dtype.name, "float"),
        "mean": [_rounded(n) for n in pixels.mean(axis=(0, 1), dtype="float64")],
        "deviation": [_rounded(n) for n in pixels.std(axis=(0, 1), dtype="float64")],
        "min": [_rounded(n) for n in pixels.min(axis=(0, 1))],
        "max": [_rounded(n) for n in pixels.max(axis=(0, 1))],
        "luminance": _rounded(luminance(pixels).mean(dtype="float64")),
    }


def _rounded(number: float) -> float:
    """Round to eight digits: the last ones of a long sum depend on the processor."""
    return round(float(number), 8)
