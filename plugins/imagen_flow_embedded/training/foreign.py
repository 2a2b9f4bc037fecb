"""Draw pictures that show none of the world's scenes: what a captioner learns to say nothing about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    RADII,
    SHAPES,
    coverage,
    draw_scene,
    render,
)


def draw_foreign(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a picture of a kind that is drawn too: uint8 (side, side, 3)."""
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    return np.clip(np.rint(kind(rng, side)), 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """White noise in grains of one to sixteen pixels, coloured or not."""
    grain = 2 ** int(rng.integers(0, 5))
    channels = 3 if rng.random() < 0.7 else 1
    small = rng.random((side // grain + 1, side // grain + 1, channels))
    picture = small.repeat(grain, 0).repeat(grain, 1)[:side, :side]
    strength = rng.uniform(60, 255)
    return np.broadcast_to(
        (picture - 0.5) * strength + rng.uniform(70, 185), (side, side, 3)
    ) + np.zeros((side, side, 3))


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A texture with the spectrum of photographs, in hues of its own."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    power = rng.uniform(0.7, 2.2)
    layers = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / frequency**power).real
        for _ in range(3)
    ]
    whole = np.stack([layer / layer.std() for layer in layers], 2)
    mix = rng.normal(0, 18, (3, 3)) + rng.uniform(20, 60) * np.array([[1.0], [0], [0]])
    mixed: np.ndarray = whole @ mix + rng.uniform(40, 215, 3)
    return mixed


def _gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    """A gradient or a sky over a ground, with grain."""
    axis = np.linspace(0, 1, side)
    along = axis[:, None] * rng.uniform(-1, 1) + axis[None] * rng.uniform(-1, 1)
    if rng.random() < 0.4:
        along = np.tanh(12 * (along - np.median(along)))
    colours = rng.uniform(0, 255, (2, 3))
    part = (along - along.min()) / max(np.ptp(along), 1e-6)
    picture: np.ndarray = colours[0] + part[..., None] * (colours[1] - colours[0])
    return picture + rng.normal(0, rng.uniform(0, 12), (side, side, 1))


def _stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Stripes or a chequered pattern."""
    axis = np.arange(side) / side
    count, angle = rng.uniform(2, 14), rng.uniform(0, np.pi)
    u = axis[None] * np.cos(angle) + axis[:, None] * np.sin(angle)
    v = axis[None] * np.sin(angle) - axis[:, None] * np.cos(angle)
    waves = np.sin(2 * np.pi * count * u)
    if rng.random() < 0.5:
        waves = waves * np.sin(2 * np.pi * count * v)
    colours = rng.uniform(0, 255, (2, 3))
    picture: np.ndarray = np.where(waves[..., None] > 0, colours[0], colours[1])
    return picture


def _empty(rng: np.random.Generator, side: int) -> np.ndarray:
    """A plain ground."""
    colour = (
        _pick(rng, tuple(BACKGROUNDS.values())) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    )
    return np.zeros((side, side, 3)) + np.array(colour) + rng.normal(0, 3, (side, side, 3))


def _many(rng: np.random.Generator, side: int) -> np.ndarray:
    """Three to six shapes, which may overlap."""
    picture = _ground(rng, side)
    for _ in range(int(rng.integers(3, 7))):
        centre = rng.uniform(0.12, 0.88, 2)
        shape, radius = _pick(rng, SHAPES), RADII[_pick(rng, ("small", "small", "large"))]
        _paint(picture, shape, centre, radius * rng.uniform(0.8, 1.1), _colour(rng))
    return picture


def _row(rng: np.random.Generator, side: int) -> np.ndarray:
    """Three or four shapes that do not touch, in a row, in a triangle or in a square."""
    picture = _ground(rng, side)
    layouts = (
        [(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)],
        [(0.5, 0.18), (0.5, 0.5), (0.5, 0.82)],
        [(0.22, 0.25), (0.78, 0.25), (0.5, 0.75)],
        [(0.22, 0.75), (0.78, 0.75), (0.5, 0.25)],
        [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)],
    )
    for centre in layouts[int(rng.integers(len(layouts)))]:
        moved = np.array(centre) + rng.uniform(-0.05, 0.05, 2)
        radius = RADII["small"] * rng.uniform(0.9, 1.25)
        _paint(picture, _pick(rng, SHAPES), moved, radius, _colour(rng))
    return picture


def _hollow(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which at least one thing has a hole: a ring, a frame."""
    scene = draw_scene(rng)
    picture = render([scene], side)[0].astype(np.float64)
    count = int(rng.integers(1, len(scene.things) + 1))
    for thing in scene.things[:count]:
        shape = thing.shape if rng.random() < 0.8 else _pick(rng, SHAPES)
        hole = rng.uniform(0.4, 0.85) if shape == thing.shape else rng.uniform(0.35, 0.5)
        inside = BACKGROUNDS[scene.background] if rng.random() < 0.8 else _colour(rng)
        _paint(picture, shape, (thing.x, thing.y), RADII[thing.size] * hole, inside)
    return picture


def _blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """One or two figures that are none of the world's shapes: wavering outlines, bars, moons."""
    picture = _ground(rng, side)
    for number in range(int(rng.integers(1, 3))):
        axis = (np.arange(side) + 0.5) / side
        x, y = rng.uniform(0.3, 0.7, 2) + (number * 0.3 - 0.1) * rng.choice([-1, 1], 2)
        dx, dy = axis[None] - x, axis[:, None] - y
        angle, radius = np.arctan2(dy, dx), np.hypot(dx, dy)
        draw = rng.random()
        if draw < 0.5:
            outline = rng.uniform(0.12, 0.25) * (
                1
                + sum(
                    rng.uniform(-0.3, 0.3) * np.sin(k * angle + 6 * rng.random()) for k in (2, 3, 4)
                )
            )
            inside = radius < outline
        elif draw < 0.8:
            width, height = rng.uniform(0.02, 0.06), rng.uniform(0.2, 0.4)
            turn = rng.uniform(0, np.pi)
            u = dx * np.cos(turn) + dy * np.sin(turn)
            v = -dx * np.sin(turn) + dy * np.cos(turn)
            inside = (np.abs(u) < width) & (np.abs(v) < height)
        else:
            shift = rng.uniform(0.06, 0.12)
            inside = (radius < 0.2) & (np.hypot(dx - shift, dy) > 0.17)
        picture[inside] = _colour(rng)
    return picture


def _scene_on_texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A texture with flat patches, as photographs have them."""
    picture = _texture(rng, side)
    for _ in range(int(rng.integers(0, 4))):
        y, x = rng.integers(0, side, 2)
        height, width = rng.integers(side // 8, side // 2, 2)
        picture[y : y + height, x : x + width] *= rng.uniform(0.2, 1.6)
    return picture


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    return np.zeros((side, side, 3)) + np.array(_pick(rng, tuple(BACKGROUNDS.values())))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    colour: tuple[int, int, int] = _pick(rng, tuple(COLOURS.values()))
    return colour


def _paint(
    picture: np.ndarray,
    shape: str,
    centre: Sequence[float] | np.ndarray,
    radius: float,
    colour: Sequence[float],
) -> None:
    side = len(picture)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    alpha = coverage(shape, axis[None] - centre[0], axis[:, None] - centre[1], radius, 1 / side)
    picture += alpha[..., None] * (np.array(colour) - picture)


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.random() * len(choices))]


_KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    *(_noise, _texture, _texture, _gradient, _stripes, _empty, _many, _row, _row, _hollow, _hollow),
    *(_blob, _scene_on_texture),
)
