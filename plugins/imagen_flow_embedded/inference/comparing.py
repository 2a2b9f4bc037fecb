"""Compare a picture with what a caption says of it: place the things that it names where they fit
best, render them, and measure what is left over.

A soft or wavering edge leaves little over, because what is left is smoothed before it is measured:
too much on one side of an edge makes up for too little on the other. A hole, another outline, a
third thing or a patterned background does not. A disc is also compared with polygons, which
leave no more over of a disc than a badly drawn disc does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, RADII, coverage

SIDE = 96
"""The side at which pictures are compared."""
_SMOOTHING = 0.016
"""The standard deviation of the smoothing, as a fraction of the side."""
_RIVALS = (5, 6, 7)
"""The corners of the polygons that a disc is compared with; of more, edges are too near a disc's."""
_NEAR = 3
"""How many pixels from a rendered edge a place is near it."""
_SCALES = (0.88, 1.0, 1.12)
"""How much larger than the world's a thing may be drawn, to begin with."""


@dataclass(frozen=True)
class Claim:
    """A thing that a caption names."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Leftover:
    """What a caption does not explain of a picture, in units of the things' contrast: 0 is nothing.

    ``worst`` is the strongest smoothed difference at any place, ``away`` that at a place that is
    not near a rendered edge, ``whole`` the part of the energy of what differs from the background,
    ``rival`` the part of a disc's leftover that a polygon explains, and ``scale`` how far the worst
    thing's radius is from its size's, as a logarithm.
    """

    worst: float
    away: float
    whole: float
    rival: float
    scale: float


def compare(picture: np.ndarray, background: str, claims: tuple[Claim, ...]) -> Leftover:
    """Measure what a caption leaves over of a picture.

    Inputs:
        picture: uint8 (height, width, 3), sRGB, judged as a square.
        claims: one or two things.
    """
    pixels = _resized(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    named = np.array(BACKGROUNDS[background], np.float32) / 255
    difference = pixels - np.median(border, 0)
    placed = min(
        (_place(difference, named, order) for order in permutations(claims)),
        key=lambda found: float((found.rest**2).sum()),
    )
    smoothed = np.sqrt((_smoothed(placed.rest) ** 2).sum(-1)) / placed.contrast
    edges = np.zeros((SIDE, SIDE), bool)
    for alpha in placed.alphas:
        edges |= _spread(alpha) - (1 - _spread(1 - alpha)) > 0.02
    discs = [
        _rival(placed.rest, alpha, tint, at)
        for claim, alpha, tint, at in zip(
            placed.claims, placed.alphas, placed.tints, placed.at, strict=True
        )
        if claim.shape == "circle"
    ]
    return Leftover(
        worst=float(smoothed.max()),
        away=float(smoothed[~edges].max(initial=0)),
        whole=float((placed.rest**2).sum()) / max(float((difference**2).sum()), 1e-9),
        rival=max(discs, default=0.0),
        scale=max(abs(float(np.log(scale))) for _, _, scale in placed.at),
    )


@dataclass(frozen=True)
class _Placed:
    """Things where they fit best, in the order in which they were taken away, and what is left."""

    claims: tuple[Claim, ...]
    at: list[tuple[float, float, float]]
    alphas: list[np.ndarray]
    tints: list[np.ndarray]
    rest: np.ndarray
    contrast: float


def _place(difference: np.ndarray, ground: np.ndarray, claims: tuple[Claim, ...]) -> _Placed:
    """Take things away from a picture, one after the other, each where it fits best."""
    placed = _Placed(claims, [], [], [], difference.copy(), np.inf)
    contrasts = []
    for claim in claims:
        tint = np.array(COLOURS[claim.colour], np.float32) / 255 - ground
        contrasts.append(float(np.linalg.norm(tint)))
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
    return replace(placed, contrast=min(contrasts))


def _rival(
    rest: np.ndarray, disc: np.ndarray, tint: np.ndarray, at: tuple[float, float, float]
) -> float:
    """Give the part of a disc's smoothed leftover that the best polygon explains, 0 if none does."""
    reach = 0.3
    x, y, _ = at
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    rows, columns = np.abs(axis - y) < reach, np.abs(axis - x) < reach
    window = np.ix_(rows, columns)
    left = (rest @ tint / float((tint**2).sum()))[window]
    whole = left + disc[window]
    dx, dy = axis[columns][None] - x, axis[rows][:, None] - y
    angle, distance = np.arctan2(dy, dx), np.hypot(dx, dy)
    area = float(whole.clip(0, 1).sum()) / SIDE**2
    vertical = _blur_matrix(SIDE, _SMOOTHING * SIDE)[np.ix_(rows, rows)]
    across = _blur_matrix(SIDE, _SMOOTHING * SIDE)[np.ix_(columns, columns)]

    def energy(found: np.ndarray) -> float:
        return float(((vertical @ found @ across.T) ** 2).sum())

    alone = energy(left)
    best = alone
    for corners in _RIVALS:
        wedge = 2 * np.pi / corners
        inner = np.sqrt(area / (corners * np.tan(wedge / 2)))  # of the polygon of this area
        for turn in np.arange(6) * wedge / 6:
            folded = np.abs((angle - turn) % wedge - wedge / 2)
            side = distance * np.cos(folded)
            polygon = np.clip(0.5 + (inner - side) * SIDE, 0, 1)
            best = min(best, energy(whole - polygon))
    return 1 - best / max(alone, 1e-9)


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
    seen = rest @ tint
    power = float((tint**2).sum())

    def gain(at: tuple[float, float, float]) -> float:
        alpha = _alpha(claim, *at)
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
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    radius = RADII[claim.size] * scale
    return coverage(claim.shape, axis[None] - x, axis[:, None] - y, radius, 1 / SIDE)


def _smoothed(rest: np.ndarray) -> np.ndarray:
    smooth = _blur_matrix(SIDE, _SMOOTHING * SIDE)
    found: np.ndarray = np.einsum("ij,jkc,lk->ilc", smooth, rest, smooth, optimize=True)
    return found


def _spread(alpha: np.ndarray) -> np.ndarray:
    """Give each pixel the highest value near it."""
    for axis in (0, 1):
        padded = np.pad(alpha, [(_NEAR, _NEAR) if n == axis else (0, 0) for n in (0, 1)], "edge")
        alpha = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEAR + 1, axis).max(-1)
    return alpha


def _resized(picture: np.ndarray) -> np.ndarray:
    """Bring a picture to a square of `SIDE`: float32, 0 to 1."""
    from PIL import Image

    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(
            Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
    return picture.astype(np.float32) / 255


def _blur_matrix(side: int, sigma: float) -> np.ndarray:
    """Give the matrix that blurs a row of pixels by a Gaussian, nothing beyond the ends."""
    offsets = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / np.sqrt(2 * np.pi) / sigma).astype(np.float32)
