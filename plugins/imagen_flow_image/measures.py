"""Measure pictures: size, difference, statistics."""

from __future__ import annotations

import math
from typing import NamedTuple

from imagen_flow import Image, Json, node

from .pixels import (
    check_same_size,
    deepest_dtype,
    from_unit,
    luminance,
    premultiply,
    to_unit,
    with_channels,
)


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Difference(NamedTuple):
    """How two pictures differ: as a picture, and in numbers from 0 to 1."""

    image: Image
    mean: float
    largest: float
    rms: float


@node("image.size", version=1)
def size(image: Image) -> Size:
    """Return the width and height of a picture, for example to make another one of the same size."""
    return Size(image.width, image.height)


@node("image.difference", version=1, uses=("numpy",))
def difference(a: Image, b: Image) -> Difference:
    """Show and measure how two pictures of the same size differ.

    Outputs:
        image: the absolute difference of each channel, black where they are equal; colours are
            weighted by alpha, and a difference in alpha is shown too.
        mean: the mean absolute difference as a fraction of full range: 0 is equal, 1 is black
            against white.
        largest: the largest difference of any channel of any pixel.
        rms: the root mean square difference.

    Raises:
        ValueError: the sizes differ.
    """
    import numpy as np

    check_same_size(a=a, b=b)
    alpha = a.has_alpha or b.has_alpha
    colour = a.channels >= 3 or b.channels >= 3
    one, other = (
        premultiply(with_channels(to_unit(image.pixels), colour=colour, alpha=alpha))
        for image in (a, b)
    )
    apart = np.abs(one - other)
    shown = np.maximum(apart[:, :, :-1], apart[:, :, -1:]) if alpha else apart
    mean, rms = (
        float(apart.mean(dtype="float64")),
        math.sqrt(float(np.square(apart, dtype="float64").mean())),
    )
    return Difference(
        Image(from_unit(shown, deepest_dtype(a, b))),
        _rounded(mean),
        _rounded(float(apart.max())),
        _rounded(rms),
    )


@node("image.statistics", version=1, uses=("numpy",))
def statistics(image: Image) -> Json:
    """Measure a picture: its size and depth, and the mean, standard deviation and extremes of each
    channel.

    Outputs:
        a mapping with ``width``, ``height``, ``channels`` and ``depth`` (8, 16 or "float");
            ``mean``, ``deviation``, ``min`` and ``max`` as lists with a number from 0 to 1 per
            channel (grey or red, green, blue, then alpha); and the mean ``luminance``. Extract one
            with `json.get`, for example ``mean[0]``.
    """
    pixels = to_unit(image.pixels)
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
