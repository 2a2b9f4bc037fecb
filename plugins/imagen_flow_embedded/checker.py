"""Judge pictures of the world by meaning: find the background, the things, their colours, shapes,
sizes and relation by rendering and matching.

The checker is no model and learns nothing. It takes the border's colour for the background, splits
what differs from it into spots, and matches each spot against rendered shapes at all sizes and
sub-pixel places. The colour comes out of the match by least squares, so a soft edge does not tint
it; each thing found is subtracted before the next is matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from PIL import Image

from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, RADII, SHAPES, Scene, Thing, coverage

BACKGROUND_TOLERANCE = 0.20
COLOUR_TOLERANCE = 0.25
"""How far a colour may be from its name's, as a distance in RGB from 0 to 1; the nearest two names are 0.38 apart."""
LEAST_FIT = 0.80
"""The least part of a spot's energy that its best shape explains; below it the spot has no shape."""

_RADII = (0.095, 0.108, 0.12, 0.134, 0.15, 0.166, 0.182, 0.2, 0.22)
_MIDDLE = (RADII["small"] + RADII["large"]) / 2
_VISIBLE = 0.24
"""A pixel this far from the background belongs to a spot: half the distance of the nearest colour to a background."""
_LEAST_AREA = 0.007


@dataclass(frozen=True)
class FoundThing:
    """A spot of a picture; colour and shape are None where nothing in the world is near. ``fit`` is
    the part of its energy explained.
    """

    size: str
    colour: str | None
    shape: str | None
    x: float
    y: float
    radius: float
    fit: float


@dataclass(frozen=True)
class Found:
    """What a picture shows. ``background`` is None where it is none of the world's."""

    background: str | None
    things: tuple[FoundThing, ...]

    def as_scene(self) -> Scene | None:
        """Give the scene that the picture shows, or None if something in it has no name."""
        if (
            self.background is None
            or not 1 <= len(self.things) <= 2
            or any(t.colour is None or t.shape is None for t in self.things)
        ):
            return None
        return Scene(
            self.background,
            tuple(Thing(t.size, str(t.colour), str(t.shape), t.x, t.y) for t in self.things),
        )


def describe(picture: np.ndarray) -> Found:
    """Say what a picture shows.

    Inputs: uint8 0 to 255 or float 0 to 1 (height, width, 3), sRGB; any side, judged as a square of
        32 or 64 px.
    """
    pixels, side = _shrink(picture)
    blur = _blur_matrix(side, side / 64)
    pixels = np.einsum("ij,jkc,lk->ilc", blur, pixels, blur, optimize=True)
    edge = side // 32
    border = np.concatenate(
        [
            pixels[:edge].reshape(-1, 3),
            pixels[-edge:].reshape(-1, 3),
            pixels[:, :edge].reshape(-1, 3),
            pixels[:, -edge:].reshape(-1, 3),
        ]
    )
    ground = np.median(border, 0)
    background = _nearest(ground, BACKGROUNDS, BACKGROUND_TOLERANCE)
    difference = pixels - ground
    noise = 1.27 * float(
        np.median(((border - ground) ** 2).sum(-1))
    )  # the mean of three squared channels of noise, from their median
    spots = _spots(np.sqrt((difference**2).sum(-1)) > _VISIBLE, side)
    things: list[FoundThing] = []
    models = [np.zeros_like(difference) for _ in spots]
    for _ in range(
        2 if len(spots) > 1 else 1
    ):  # twice: the first match of a spot still sees its unmatched neighbour
        things = []
        for index, (x, y) in enumerate(spots):
            rest = difference - sum(
                (model for other, model in enumerate(models) if other != index),
                np.zeros_like(difference),
            )
            thing, models[index] = _match(
                rest,
                ground,
                noise,
                x,
                y,
                side,
                others=[spot for other, spot in enumerate(spots) if other != index],
            )
            things.append(thing)
        spots = [(thing.x * side, thing.y * side) for thing in things]
    return Found(background, tuple(things))


def agree(expected: Scene, picture: np.ndarray | Found) -> dict[str, bool]:
    """Say for each fact of a scene, keyed as by ``world.attributes``, whether a picture shows it;
    things are paired as suits the picture best.
    """
    found = picture if isinstance(picture, Found) else describe(picture)
    slots: Sequence[FoundThing | None] = [
        *found.things[:4],
        *[None] * max(0, len(expected.things) - len(found.things)),
    ]
    answers = (
        _compare(expected, found, pairing) for pairing in permutations(slots, len(expected.things))
    )
    return max(answers, key=lambda answer: sum(answer.values()))


def _compare(
    expected: Scene, found: Found, pairing: Sequence[FoundThing | None]
) -> dict[str, bool]:
    answer = {
        "background": found.background == expected.background,
        "count": len(found.things) == len(expected.things),
    }
    for number, (thing, spot) in enumerate(zip(expected.things, pairing, strict=True), 1):
        answer[f"{number}.size"] = spot is not None and spot.size == thing.size
        answer[f"{number}.colour"] = spot is not None and spot.colour == thing.colour
        answer[f"{number}.shape"] = spot is not None and spot.shape == thing.shape
    if expected.relation:
        placed = tuple(Thing("", "", "", spot.x, spot.y) for spot in pairing if spot is not None)
        answer["relation"] = len(placed) == 2 and Scene("", placed).relation == expected.relation
    return answer


# --- pixels
# ----------------------------------------------------------------------------------------------------------------------


def _shrink(picture: np.ndarray) -> tuple[np.ndarray, int]:
    pixels = (
        picture
        if picture.dtype == np.uint8
        else np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    )
    side = 64 if min(pixels.shape[:2]) >= 64 else 32
    if pixels.shape[:2] != (side, side):
        filtering = (
            Image.Resampling.BOX if min(pixels.shape[:2]) > side else Image.Resampling.BICUBIC
        )
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), filtering))
    return pixels.astype(np.float32) / 255, side


@cache
def _blur_matrix(side: int, sigma: float) -> np.ndarray:
    """Give the matrix that blurs a row of pixels by a Gaussian, the ends repeated."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = np.zeros((side, side), np.float32)
    for row in range(side):
        for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
            matrix[row, min(max(row + offset, 0), side - 1)] += weight
    return matrix


def _nearest(
    colour: np.ndarray, names: dict[str, tuple[int, int, int]], tolerance: float
) -> str | None:
    distances = {
        name: float(np.linalg.norm(colour - np.array(value, np.float32) / 255))
        for name, value in names.items()
    }
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= tolerance else None


def _spots(mask: np.ndarray, side: int) -> list[tuple[float, float]]:
    """Give the centres, in pixels, of the connected parts of a mask that are large enough; a part
    too long for one thing is cut in two.
    """
    labels = np.where(mask, np.arange(1, side * side + 1).reshape(side, side), 0)
    while True:  # spread the highest label through each part
        padded = np.pad(labels, 1)
        spread = (
            np.max(
                [
                    padded[1:-1, 1:-1],
                    padded[:-2, 1:-1],
                    padded[2:, 1:-1],
                    padded[1:-1, :-2],
                    padded[1:-1, 2:],
                ],
                0,
            )
            * mask
        )
        if (spread == labels).all():
            break
        labels = spread
    centres = []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        if len(rows) < _LEAST_AREA * side * side:
            continue
        extents = np.ptp(rows) + 1, np.ptp(columns) + 1
        if max(extents) <= 0.55 * side:
            centres.append(_middle(rows, columns))
            continue
        along = rows if extents[0] >= extents[1] else columns
        counts = np.bincount(along - along.min())
        third = len(counts) // 3
        cut = along.min() + third + int(np.argmin(counts[third:-third]))
        centres += [
            _middle(rows[part], columns[part])
            for part in (along < cut, along >= cut)
            if part.sum() >= _LEAST_AREA * side * side
        ]
    return centres


def _middle(rows: np.ndarray, columns: np.ndarray) -> tuple[float, float]:
    return (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2


# --- matching
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Templates:
    shapes: tuple[str, ...]
    radii: tuple[float, ...]
    offsets: tuple[tuple[float, float], ...]
    window: int
    unit: np.ndarray  # (templates, window * window), each of length 1
    norm: np.ndarray


@cache
def _templates(side: int) -> _Templates:
    """Render every shape at every radius, sub-pixel place and softness, blurred as the pictures
    are.
    """
    steps = 4 if side == 32 else 2
    window = 24 if side == 32 else 44
    places = [(column / steps, row / steps) for row in range(steps) for column in range(steps)]
    axis = np.arange(window, dtype=np.float32) + 0.5 - window / 2
    shapes, radii, offsets, pictures = [], [], [], []
    for softness in (1.0, 1.9):
        blur = _blur_matrix(window, side / 64 * softness)
        for shape in SHAPES:
            for radius in _RADII:
                for dx, dy in places:
                    cover = coverage(
                        shape,
                        (axis[None, :] - dx) / side,
                        (axis[:, None] - dy) / side,
                        radius,
                        1 / side,
                    )
                    pictures.append((blur @ cover @ blur.T).ravel())
                    shapes.append(shape)
                    radii.append(radius)
                    offsets.append((dx, dy))
    stack = np.array(pictures, np.float32)
    norm = np.linalg.norm(stack, axis=1)
    return _Templates(
        tuple(shapes), tuple(radii), tuple(offsets), window, stack / norm[:, None], norm
    )


def _match(
    difference: np.ndarray,
    ground: np.ndarray,
    noise: float,
    x: float,
    y: float,
    side: int,
    *,
    others: Sequence[tuple[float, float]],
) -> tuple[FoundThing, np.ndarray]:
    """Find the template that explains most of a spot; give it and its picture, to be subtracted.
    ``noise`` is a pixel's energy of grain.
    """
    templates = _templates(side)
    window, reach = templates.window, side // 32
    margin = window // 2 + reach + 1
    padded = np.pad(difference, ((margin, margin), (margin, margin), (0, 0)))
    left, top = int(np.floor(x)) - window // 2 + margin, int(np.floor(y)) - window // 2 + margin
    shifts = [
        (column, row) for row in range(-reach, reach + 1) for column in range(-reach, reach + 1)
    ]
    tint = padded[
        top + window // 4 : top + window - window // 4,
        left + window // 4 : left + window - window // 4,
    ].sum((0, 1))
    tinted = padded @ (
        tint / max(float(np.linalg.norm(tint)), 1e-9)
    )  # a thing differs from the ground along one line through RGB
    patches = np.stack(
        [
            tinted[top + row : top + row + window, left + column : left + column + window].ravel()
            for column, row in shifts
        ],
        1,
    )
    gains = templates.unit @ patches  # templates, shifts
    best, shift = np.unravel_index(int(np.argmax(gains)), gains.shape)
    column, row = shifts[shift]
    amplitude = templates.unit[best] @ padded[
        top + row : top + row + window, left + column : left + column + window
    ].reshape(-1, 3)
    model = np.zeros_like(padded)
    model[top + row : top + row + window, left + column : left + column + window] = (
        templates.unit[best][:, None] * amplitude
    ).reshape(window, window, 3)
    model = model[margin:-margin, margin:-margin]
    (dx, dy), radius = templates.offsets[best], templates.radii[best]
    at_x, at_y = (np.floor(x) + column + dx) / side, (np.floor(y) + row + dy) / side
    # the energy to explain is that of the pixels nearer to this spot than to any other
    axis = np.arange(side) + 0.5
    distance = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    own = np.ones((side, side), bool)
    for other_x, other_y in others:
        own &= distance <= (axis[None, :] - other_x) ** 2 + (axis[:, None] - other_y) ** 2
    own &= distance <= (0.3 * side) ** 2
    grain = noise * float(own.sum())
    energy = float((difference[own] ** 2).sum()) - grain
    fit = 1 - max(0.0, float(((difference - model)[own] ** 2).sum()) - grain) / max(energy, 1e-9)
    colour = _nearest(ground + amplitude / templates.norm[best], COLOURS, COLOUR_TOLERANCE)
    shape = templates.shapes[best] if fit >= LEAST_FIT else None
    return (
        FoundThing(
            "small" if radius < _MIDDLE else "large",
            colour,
            shape,
            float(at_x),
            float(at_y),
            radius,
            fit,
        ),
        model,
    )
