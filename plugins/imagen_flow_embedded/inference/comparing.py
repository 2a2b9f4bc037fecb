"""Compare a picture with what a caption says of it: place the things that it names where they fit
best, render them as softly as the picture is, and measure what is left over.

The outline of each thing is measured to a fraction of a pixel: what is left over across an edge,
summed, is how far the edge is from the rendered one, however soft it is. So a hexagon is told from
a disc of its area. What is left over within things is a hole or a spot, and what is left over away
from them is a third thing or a patterned background.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, RADII, coverage

SIDE = 128
"""The side at which pictures are compared."""
_SCALES = (0.88, 1.0, 1.12)
"""How much larger than the world's a thing may be drawn, to begin with."""
_SOFT = (0.0, 0.5, 0.8, 1.2, 1.7, 2.3)
"""By how many pixels (standard deviation) a picture's edges may be blurred."""
_SMOOTHING = 1.0
"""The standard deviation in pixels by which differences of colour are smoothed."""
_BAND = 2.5
"""How many pixels from a rendered edge the seen one is looked for: what is farther away, such as a
ghost of what an editor changed, is none of the outline.
"""
_CLEAR = 3.5
"""From how many pixels on a place is clear of an edge."""
_CORNERS = slice(5, 13)
_DIRECTIONS = 48
"""Into how many directions, seen from its centre, a thing's outline is divided."""


@dataclass(frozen=True)
class Claim:
    """A thing that a caption names."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Outline:
    """How far a thing's outline is from the rendered one, in pixels: ``spread`` is the root mean
    square along it, ``corners`` how strongly it swings five to twelve times around, as that of a
    polygon does which is taken for a circle.
    """

    shape: str
    spread: float
    corners: float = 0.0


@dataclass(frozen=True)
class Leftover:
    """What a caption does not explain of a picture; 0 is nothing.

    ``ground`` is how far the background's colour is from the one named (a channel's full range is
    1), ``inside`` and ``away`` are the strongest smoothed differences of colour within a thing and away
    from all (a channel's full range is 1), and ``scale`` is how far the worst thing's radius is
    from its size's, as a logarithm.
    """

    outlines: tuple[Outline, ...]
    inside: float
    away: float
    scale: float
    ground: float = 0.0


def compare(picture: np.ndarray, background: str, claims: tuple[Claim, ...]) -> Leftover:
    """Measure what a caption leaves over of a picture.

    Inputs:
        picture: uint8 (side, side, 3), sRGB.
        claims: one or two things.
    """
    pixels = _resized(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    named = np.array(BACKGROUNDS[background], np.float32) / 255
    ground = np.median(border, 0)
    difference = pixels - ground
    placed = min(
        (_place(difference, named, order) for order in permutations(claims)),
        key=lambda found: float((found.rest**2).sum()),
    )
    rest = _least(difference, placed)
    smoothed = np.sqrt((_blurred(rest, _SMOOTHING) ** 2).sum(-1))
    distances = [_distance(claim, *at) for claim, at in zip(placed.claims, placed.at, strict=True)]
    nearest = np.min(distances, 0)
    return Leftover(
        outlines=tuple(
            _outline(claim.shape, rest @ tint / float((tint**2).sum()), distance, at)
            for claim, tint, distance, at in zip(
                placed.claims, placed.tints, distances, placed.at, strict=True
            )
        ),
        inside=float(smoothed[nearest < -_CLEAR].max(initial=0)),
        away=float(smoothed[nearest > _CLEAR].max(initial=0)),
        scale=max(abs(float(np.log(scale))) for _, _, scale in placed.at),
        ground=float(np.abs(ground - named).max()),
    )


@dataclass(frozen=True)
class _Placed:
    """Things where they fit best, in the order in which they were taken away, and what is left."""

    claims: tuple[Claim, ...]
    at: list[tuple[float, float, float]]
    alphas: list[np.ndarray]
    tints: list[np.ndarray]
    rest: np.ndarray


def _place(difference: np.ndarray, ground: np.ndarray, claims: tuple[Claim, ...]) -> _Placed:
    """Take things away from a picture, one after the other, each where it fits best."""
    placed = _Placed(claims, [], [], [], difference.copy())
    for claim in claims:
        tint = np.array(COLOURS[claim.colour], np.float32) / 255 - ground
        at = _refine(placed.rest, tint, claim, *_search(placed.rest, tint, claim))
        alpha = _alpha(claim, *at)
        shown = np.einsum("yx,yxc->c", alpha, placed.rest) / max(float((alpha**2).sum()), 1e-9)
        # the thing is taken away in the tint that it has, if that is near its colour's
        off = shown - tint
        tint = tint + off * min(1.0, 0.12 / max(float(np.linalg.norm(off)), 1e-9))
        placed.rest[:] -= alpha[..., None] * tint
        placed.at.append(at)
        placed.alphas.append(alpha)
        placed.tints.append(tint)
    return placed


def _least(difference: np.ndarray, placed: _Placed) -> np.ndarray:
    """Give what is left over when the things are as soft as leaves the least."""
    rests = []
    for sigma in _SOFT:
        rest = difference.copy()
        for alpha, tint in zip(placed.alphas, placed.tints, strict=True):
            rest -= _blurred(alpha[..., None], sigma) * tint
        rests.append(rest)
    return min(rests, key=lambda rest: float((rest**2).sum()))


def _outline(
    shape: str, left: np.ndarray, distance: np.ndarray, at: tuple[float, float, float]
) -> Outline:
    """Measure how far an outline is from the rendered one.

    Inputs:
        left: what is left over, in units of the thing's contrast.
        distance: of each pixel from the rendered outline.
    """
    band = np.abs(distance) < _BAND
    if not band.any():
        return Outline(shape, _BAND)
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    angle = np.arctan2(axis[:, None] - at[1], axis[None] - at[0])[band]
    direction = ((angle / (2 * np.pi) + 0.5) * _DIRECTIONS).astype(int) % _DIRECTIONS
    pixels = np.bincount(direction, minlength=_DIRECTIONS)
    # across an edge, what is left over sums up to the way from the one edge to the other
    ways = 2 * _BAND * np.bincount(direction, left[band], _DIRECTIONS) / np.maximum(pixels, 1)
    swings = np.abs(np.fft.rfft(ways)) * 2 / _DIRECTIONS
    return Outline(
        shape,
        float(np.sqrt((ways**2 * pixels).sum() / pixels.sum())),
        float(swings[_CORNERS].max()),
    )


def _search(rest: np.ndarray, tint: np.ndarray, claim: Claim) -> tuple[float, float, float]:
    """Find the place and the scale at which a thing explains most, on a grid of pixels."""
    spectrum = np.fft.rfft2(rest @ tint)
    best = (-np.inf, 0.5, 0.5, 1.0)
    for scale in _SCALES:
        alpha = _alpha(claim, 0.5, 0.5, scale)
        gains = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(alpha)), s=alpha.shape)
        gains = 2 * gains - float((alpha**2).sum() * (tint**2).sum())
        row, column = np.unravel_index(int(np.argmax(gains)), gains.shape)
        if gains[row, column] > best[0]:
            x, y = (0.5 + column / SIDE) % 1, (0.5 + row / SIDE) % 1
            best = (float(gains[row, column]), x, y, scale)
    return best[1:]


def _refine(
    rest: np.ndarray, tint: np.ndarray, claim: Claim, x: float, y: float, scale: float
) -> tuple[float, float, float]:
    """Move and scale a thing by fractions of a pixel for as long as it explains more."""
    rows, columns = (_near(centre, RADII[claim.size] * scale) for centre in (y, x))
    seen = (rest @ tint)[rows, columns]
    power = float((tint**2).sum())

    def gain(at: tuple[float, float, float]) -> float:
        alpha = _covered(claim, *at, 1 / SIDE, rows=rows, columns=columns)
        return float(2 * (alpha * seen).sum() - power * (alpha**2).sum())

    best = (x, y, scale)
    found = gain(best)
    for step in (0.5, 0.25):
        for _ in range(6):
            moves = [(step / SIDE, 0, 0), (0, step / SIDE, 0), (0, 0, 0.06 * step)]
            tried = [
                (best[0] + sign * dx, best[1] + sign * dy, best[2] + sign * ds)
                for dx, dy, ds in moves
                for sign in (-1, 1)
            ]
            gains = [gain(at) for at in tried]
            if max(gains) <= found:
                break
            found = max(gains)
            best = tried[gains.index(found)]
    return best


def _alpha(claim: Claim, x: float, y: float, scale: float) -> np.ndarray:
    return _covered(claim, x, y, scale, 1 / SIDE)


def _distance(claim: Claim, x: float, y: float, scale: float) -> np.ndarray:
    """Give the distance of each pixel from a thing's outline, in pixels, negative inside."""
    return SIDE * (0.5 - _covered(claim, x, y, scale, 1))


def _covered(
    claim: Claim,
    x: float,
    y: float,
    scale: float,
    soft: float,
    *,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> np.ndarray:
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    radius = RADII[claim.size] * scale
    return coverage(claim.shape, axis[None, columns] - x, axis[rows, None] - y, radius, soft)


def _near(centre: float, radius: float) -> slice:
    """Give the pixels of an axis that a thing can cover while it is moved and scaled a little."""
    reach = 1.5 * radius + 8 / SIDE
    return slice(max(0, int((centre - reach) * SIDE)), max(0, int((centre + reach) * SIDE) + 1))


def _blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (SIDE, SIDE, channels) by a Gaussian; beyond the edges there is nothing."""
    if not sigma:
        return pixels
    offsets = np.arange(SIDE)[:, None] - np.arange(SIDE)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    smooth = (weights / weights[SIDE // 2].sum()).astype(np.float32)
    found: np.ndarray = np.einsum("ij,jkc,lk->ilc", smooth, pixels, smooth, optimize=True)
    return found


def _resized(picture: np.ndarray) -> np.ndarray:
    """Bring a square picture to `SIDE`: float32, 0 to 1."""
    from PIL import Image

    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(
            Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
    return picture.astype(np.float32) / 255
