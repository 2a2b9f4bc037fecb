"""Hide bits in the luminance of a picture, where compression and resizing leave them.

The picture is described by its discrete cosine transform as a whole. Of that, the coefficients of
`LOWEST` to `HIGHEST` half waves a side carry the mark: they are those of the picture at any size.
A key deals them out to the bits, with signs; each bit gets the projection of the picture onto a
direction of its own, and is written by moving that to the nearest point of a lattice: one lattice
for 0, another, half a step further, for 1 (spread-transform dither modulation). A smaller picture
gets a coarser lattice, since each of its pixels counts for more.

Source: B. Chen and G. W. Wornell, "Quantization Index Modulation: A Class of Provably Good Methods
    for Digital Watermarking and Information Embedding", IEEE Transactions on Information Theory 47
    (2001), sections II and V; for the transform of the whole picture, I. J. Cox et al., "Secure
    Spread Spectrum Watermarking for Multimedia", IEEE Transactions on Image Processing 6 (1997).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .coding import LENGTH

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 64
"""The least pixels a side of a picture that can be marked."""

LOWEST, HIGHEST = 10, 48
"""The half waves a side, as a radius: from the least that is not seen to the most that a picture of
64 px keeps.
"""

STEPS = ((360, 0.08), (180, 0.11), (0, 0.15))
"""The lattice's step, in levels of 255, by the geometric mean of the sides from which it is used."""

GAINS = 4e-3, 0.3
"""In what steps, and how far up and down, the reader looks for a changed contrast: as logarithms."""

_ROUNDS = 12
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Layout:
    """Which coefficients carry which bit (bits, coefficients), with what weight, and the offset of
    each bit's lattice as a part of its step.
    """

    places: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What a picture says of each bit: positive for 0, negative for 1, up to 1 for certain; and how
    well its projections lie on a lattice: 1 exactly, 0 at chance.
    """

    soft: np.ndarray
    fit: float
    tried: int

    @property
    def chance(self) -> float:
        """The probability that a picture without a mark fits as well by chance, at most."""
        # The mean of the cosines of uniform phases is nearly normal with variance 1 / (2 LENGTH).
        return min(1.0, self.tried * math.erfc(self.fit * math.sqrt(LENGTH)) / 2)


def layout(key: bytes) -> Layout:
    """Deal out the coefficients by a key. It is made of the key's digest alone, so that what was
    once written is read for ever.
    """
    import numpy as np

    across, down = np.meshgrid(np.arange(HIGHEST), np.arange(HIGHEST))
    radius = np.hypot(across, down)
    band = np.flatnonzero((radius >= LOWEST) & (radius < HIGHEST))
    drawn = hashlib.shake_256(b"imagen_flow watermark 1\0" + key).digest(
        8 * band.size + band.size + 8 * LENGTH
    )
    order = np.argsort(np.frombuffer(drawn, "<u8", band.size), kind="stable")
    odd = np.frombuffer(drawn, "uint8", band.size, 8 * band.size) & 1
    share = band.size // LENGTH
    places = band[order[: share * LENGTH]].reshape(LENGTH, share)
    signs = 1.0 - 2.0 * odd[: share * LENGTH].reshape(LENGTH, share)
    offsets = np.frombuffer(drawn, "<u8", LENGTH, 9 * band.size) / 2.0**64
    return Layout(places, signs / math.sqrt(share), offsets)


def write(
    levels: np.ndarray, bits: np.ndarray, where: Layout, most: tuple[float, float]
) -> np.ndarray:
    """Return what to add to all colours of a picture so that it says these bits.

    What would leave the range of levels is cut off, and made up for elsewhere by projecting again:
    onto the pictures that say the bits, and onto those in range.

    Inputs:
        levels: (height, width, 1 or 3), from 0 to 255; HDR beyond.
        most: the lowest and the highest level.
    Outputs: (height, width, 1 or 3), to be added; it differs between colours only where one is at
        an end of its range.
    """
    import numpy as np

    height, width = levels.shape[:2]
    step = next(step for least, step in STEPS if math.sqrt(height * width) >= least)
    grid = step * (bits / 2 + where.offsets)
    target = np.round((_projected(levels, where) - grid) / step) * step + grid
    down, across = _waves(height), _waves(width)
    marked = levels
    for _ in range(_ROUNDS):
        missing = target - _projected(marked, where)
        if np.abs(missing).max() < step / 50:
            break
        wanted = np.zeros(HIGHEST * HIGHEST)
        wanted[where.places] = missing[:, None] * where.weights
        added = down.T @ wanted.reshape(HIGHEST, HIGHEST) @ across * math.sqrt(height * width)
        marked = np.clip(marked + added.astype(levels.dtype)[:, :, None], *most)
    return marked - levels


def read(levels: np.ndarray, where: Layout) -> Reading:
    """Read the bits of a picture, marked or not: at the step and the contrast that fit best."""
    import numpy as np

    projected = _projected(levels, where)
    by, far = GAINS
    gains = np.exp(by * np.arange(-round(far / by), round(far / by) + 1))
    best, tried = Reading(np.zeros(LENGTH), -1.0, 1), len(STEPS) * len(gains)
    for _, step in STEPS:
        phases = 2 * np.pi * (projected / (gains[:, None] * step) - where.offsets)
        fits = np.cos(2 * phases).mean(axis=1)  # 0 and 1 are half a turn apart, twice that is none
        chosen = int(fits.argmax())
        if fits[chosen] > best.fit:
            best = Reading(np.cos(phases[chosen]), float(fits[chosen]), tried)
    return best


def _projected(levels: np.ndarray, where: Layout) -> np.ndarray:
    import numpy as np

    height, width, colours = levels.shape
    luminance = levels[:, :, 0] if colours == 1 else levels @ np.array(_LUMINANCE, levels.dtype)
    coefficients = _waves(height) @ luminance @ _waves(width).T / math.sqrt(height * width)
    projected: np.ndarray = (coefficients.ravel()[where.places] * where.weights).sum(axis=1)
    return projected


def _waves(size: int) -> np.ndarray:
    """Return the first rows of the orthonormal DCT-II."""
    import numpy as np

    at = (np.arange(size) + 0.5) / size
    waves = np.cos(np.pi * np.arange(HIGHEST)[:, None] * at) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves
