"""Measure how close a picture is to a reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from imagen_flow import Image, node
from imagen_flow.loaders import require_library

if TYPE_CHECKING:
    import numpy as np

BEST = 100.0
"""The most that `metric.psnr` gives: that of equal pictures is infinite."""

WINDOW = 11
"""The side of the window of `metric.ssim` in pixels."""


@node("metric.psnr", version=1, uses=("numpy",))
def psnr(image: Image, reference: Image) -> float:
    """Measure how close a picture is to a reference, by its noise: the peak signal-to-noise ratio.

    Inputs:
        image, reference: of one size and any depth; grey is repeated, and alpha composited over
            black.

    Outputs:
        decibels: 10 log10(1 / mean square error), for values from 0 to 1. Compressed photographs
            have about 30 to 50. It is 100 for equal pictures, and never more.

    Raises:
        ValueError: the sizes differ.
    """
    import numpy as np

    a, b = _pixels(image, reference)
    error = float(np.square(a.astype("float64") - b).mean())
    return min(BEST, round(-10 * math.log10(error), 6)) if error else BEST


@node("metric.ssim", version=1, uses=("numpy", "torch", "torchmetrics"))
def ssim(image: Image, reference: Image) -> float:
    """Measure how close a picture is to a reference, by its structure: the mean structural
    similarity.

    Inputs:
        image, reference: of one size, at least 11 × 11 pixels, and any depth; grey is repeated, and
            alpha composited over black.

    Outputs:
        -1 to 1; 1 for equal pictures. The mean over the three channels and all pixels that are at
            least 5 from the edges.

    Raises:
        ValueError: the sizes differ, or a side is shorter than 11 pixels.
        ModelError: torchmetrics is not installed (``pip install 'imagen-flow[metrics]'``).

    Source:
        Wang et al., 2004, with a Gaussian of 1.5 pixels, by
            ``torchmetrics.functional.image.structural_similarity_index_measure``. Its own mean
            includes the edges, where the windows are filled with reflections; the paper's does not,
            nor does scikit-image's.
    """
    require_library("torchmetrics", "metric.ssim", extra="metrics")
    a, b = _pixels(image, reference)
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(
            f"the pictures are {image.width} x {image.height}, and metric.ssim compares windows of"
            f" {WINDOW} x {WINDOW} pixels: it needs larger ones"
        )
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (torch.from_numpy(one.copy()).permute(2, 0, 1)[None] for one in (a, b))
    _, everywhere = structural_similarity_index_measure(
        first, second, sigma=1.5, data_range=1.0, return_full_image=True
    )
    edge = WINDOW // 2
    return round(float(everywhere[..., edge:-edge, edge:-edge].mean()), 6)


def _pixels(image: Image, reference: Image) -> tuple[np.ndarray, np.ndarray]:
    if (image.width, image.height) != (reference.width, reference.height):
        raise ValueError(
            f"the picture is {image.width} x {image.height} and its reference {reference.width} x"
            f" {reference.height}; resize one of them (image.resize)"
        )
    return image.rgb().as_float().pixels, reference.rgb().as_float().pixels
