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


def draw_near_miss(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a picture that is nearly a scene: one thing is a regular polygon or has spots, or there
    is a third thing; uint8 (side, side, 3).
    """
    kind = _pick(rng, (_polygons, _polygons, _polygons, _spotted, _crowded))
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


def _outline(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which at least one thing is drawn as a line around it."""
    scene = draw_scene(rng)
    outlined = int(rng.integers(len(scene.things)))
    picture = _ground(rng, side, scene.background)
    for number, thing in enumerate(scene.things):
        place, radius = (thing.x, thing.y), RADII[thing.size]
        _paint(picture, thing.shape, place, radius, COLOURS[thing.colour])
        if number == outlined or rng.random() < 0.5:
            inner = radius - rng.uniform(0.012, 0.06)
            _paint(picture, thing.shape, place, inner, BACKGROUNDS[scene.background])
    return picture


def _overlapping(rng: np.random.Generator, side: int) -> np.ndarray:
    """Two things, one in front of a part of the other."""
    picture = _ground(rng, side)
    first = rng.uniform(0.3, 0.7, 2)
    radii = [RADII[_pick(rng, ("small", "large"))] for _ in range(2)]
    angle = rng.uniform(0, 2 * np.pi)
    apart = rng.uniform(0.35, 0.85) * sum(radii) * np.array([np.cos(angle), np.sin(angle)])
    colours = rng.permutation(len(COLOURS))[:2]
    for place, radius, number in zip((first, first + apart), radii, colours, strict=True):
        colour = tuple(COLOURS.values())[int(number)]
        _paint(picture, _pick(rng, SHAPES), place, radius, colour)
    return picture


def _cut(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which a thing is half hidden: by the picture's edge, or by a straight cover."""
    scene = draw_scene(rng)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    axis = (np.arange(side) + 0.5) / side
    angle = rng.uniform(0, 2 * np.pi)
    along = (axis[None] - thing.x) * np.cos(angle) + (axis[:, None] - thing.y) * np.sin(angle)
    hidden = along > RADII[thing.size] * rng.uniform(-0.4, 0.35)
    if rng.random() < 0.4:  # moved out of the picture
        picture = _ground(rng, side)
        radius = RADII[_pick(rng, ("small", "large"))]
        place = np.array([rng.uniform(-0.4, 0.4) * radius, rng.uniform(0.1, 0.9)])
        place = place if rng.random() < 0.5 else 1 - place
        place = place if rng.random() < 0.5 else place[::-1]
        _paint(picture, _pick(rng, SHAPES), place, radius, _colour(rng))
        return picture
    picture = render([scene], side)[0].astype(np.float64)
    near = np.hypot(axis[None] - thing.x, axis[:, None] - thing.y) < RADII[thing.size] * 1.3
    cover = BACKGROUNDS[scene.background] if rng.random() < 0.6 else _colour(rng)
    picture[hidden & near] = cover
    return picture


def _strange_ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene on stripes, a gradient, a texture or two colours."""
    scene = draw_scene(rng)
    draw = rng.random()
    if draw < 0.35:
        picture = _stripes(rng, side)
    elif draw < 0.65:
        picture = _gradient(rng, side)
    elif draw < 0.8:
        picture = _texture(rng, side)
    else:
        picture = _ground(rng, side)
        axis = (np.arange(side) + 0.5) / side
        angle = rng.uniform(0, 2 * np.pi)
        half = (axis[None] - 0.5) * np.cos(angle) + (axis[:, None] - 0.5) * np.sin(angle)
        picture[half > rng.uniform(-0.25, 0.25)] = _pick(rng, tuple(BACKGROUNDS.values()))
        picture[half < -0.4] = _colour(rng)
    for thing in scene.things:
        radius = RADII[thing.size]
        _paint(picture, thing.shape, (thing.x, thing.y), radius, COLOURS[thing.colour])
    return picture


def _patterned(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which a thing is striped, chequered, shaded or has a spot of another colour."""
    scene = draw_scene(rng)
    picture = render([scene], side)[0].astype(np.float64)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    inside = _alpha(thing.shape, (thing.x, thing.y), RADII[thing.size], side)[..., None]
    draw = rng.random()
    if draw < 0.4:
        axis = (np.arange(side) + 0.5) / side
        angle, count = rng.uniform(0, np.pi), rng.uniform(5, 12)
        waves = np.sin(
            2 * np.pi * count * (axis[None] * np.cos(angle) + axis[:, None] * np.sin(angle))
        )
        inside = inside * (waves > 0)[..., None]
    elif draw < 0.7:
        spot = np.array([thing.x, thing.y]) + rng.uniform(-0.3, 0.3, 2) * RADII[thing.size]
        size = RADII[thing.size] * rng.uniform(0.4, 0.55)
        inside = inside * _alpha(_pick(rng, SHAPES), spot, size, side)[..., None]
    else:
        axis = np.linspace(-1, 1, side) * rng.choice([-2.5, 2.5])
        inside = (
            inside
            * np.clip(0.5 + (axis[None] if rng.random() < 0.5 else axis[:, None]), 0, 1)[..., None]
        )
    other = _colour(rng)
    while other == COLOURS[thing.colour]:
        other = _colour(rng)
    return picture + inside * (np.array(other) - picture)


def _figures(rng: np.random.Generator, side: int) -> np.ndarray:
    """One or two figures with outlines that no shape of the world has, now and then beside one that
    the world has.
    """
    scene = draw_scene(rng)
    picture = _ground(rng, side, scene.background)
    strange = int(rng.integers(len(scene.things)))
    for number, thing in enumerate(scene.things):
        place, radius, colour = (thing.x, thing.y), RADII[thing.size], COLOURS[thing.colour]
        if number == strange or rng.random() < 0.4:
            outline = _pick(rng, _OUTLINES)(rng) * radius * rng.uniform(0.95, 1.2)
            alpha = _inside(outline + np.array(place), side)[..., None]
            picture += alpha * (np.array(colour) - picture)
        else:
            _paint(picture, thing.shape, place, radius, colour)
    return picture


def _polygons(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which at least one thing is a regular polygon."""
    scene = draw_scene(rng)
    picture = _ground(rng, side, scene.background)
    strange = int(rng.integers(len(scene.things)))
    for number, thing in enumerate(scene.things):
        place, radius, colour = (thing.x, thing.y), RADII[thing.size], COLOURS[thing.colour]
        if number == strange or rng.random() < 0.4:
            outline = _polygon(rng) * radius * rng.uniform(0.95, 1.15)
            alpha = _inside(outline + np.array(place), side)[..., None]
            picture += alpha * (np.array(colour) - picture)
        else:
            _paint(picture, thing.shape, place, radius, colour)
    return picture


def _spotted(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene in which a thing has two to four small spots of one colour."""
    scene = draw_scene(rng)
    picture = render([scene], side)[0].astype(np.float64)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    radius = RADII[thing.size]
    colour = _pick(rng, [value for name, value in COLOURS.items() if name != thing.colour])
    for _ in range(int(rng.integers(2, 5))):
        spot = np.array([thing.x, thing.y]) + rng.uniform(-0.5, 0.5, 2) * radius
        _paint(picture, "circle", spot, radius * rng.uniform(0.12, 0.2), colour)
    return picture


def _crowded(rng: np.random.Generator, side: int) -> np.ndarray:
    """A scene of two things and a smaller third, where there is room."""
    while True:
        scene, place = draw_scene(rng), rng.uniform(0.1, 0.9, 2)
        apart = [np.hypot(*(place - (t.x, t.y))) - RADII[t.size] for t in scene.things]
        if len(apart) == 2 and min(apart) > 0.13:
            break
    picture = render([scene], side)[0].astype(np.float64)
    radius = RADII["small"] * rng.uniform(0.4, 0.9)
    _paint(picture, _pick(rng, SHAPES), place, radius, _colour(rng))
    return picture


def _screen(rng: np.random.Generator, side: int) -> np.ndarray:
    """Windows, bars and lines of text, as on a screen."""
    bright = rng.random() < 0.5
    picture = np.zeros((side, side, 3)) + (rng.uniform(200, 255) if bright else rng.uniform(10, 60))
    for _ in range(int(rng.integers(2, 7))):
        y, x = rng.integers(0, side - 4, 2)
        height, width = rng.integers(side // 10, side // 2, 2)
        tone = rng.uniform(0, 255, 3) if rng.random() < 0.5 else np.zeros(3) + rng.uniform(0, 255)
        picture[y : y + height, x : x + width] = tone
        for row in range(y + 3, min(y + height - 2, side - 1), int(rng.integers(3, 6))):
            letters = rng.random(width) < 0.55
            end = min(x + int(width * rng.uniform(0.3, 0.95)), side - 1)
            line = picture[row : row + 2, x + 2 : end]
            line[:, letters[: line.shape[1]]] = 255 - tone
    return picture


def _shaded(rng: np.random.Generator, side: int) -> np.ndarray:
    """A ball or a box in a light, with a shadow, on a ground that fades: a photograph's things."""
    picture = _gradient(rng, side)
    axis = (np.arange(side) + 0.5) / side
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.2, 0.8, 2)
        radius = rng.uniform(0.1, 0.3)
        dx, dy = (axis[None] - x) / radius, (axis[:, None] - y) / radius
        shadow = np.hypot((dx - 0.3) / 1.3, (dy - 0.9) / 0.4) < 1
        picture[shadow] *= rng.uniform(0.4, 0.7)
        inside = np.hypot(dx, dy) < 1 if rng.random() < 0.6 else np.maximum(abs(dx), abs(dy)) < 0.8
        light = np.clip(0.75 - 0.4 * (dx + dy), 0.15, 1.3)[..., None]
        picture[inside] = (light * np.array(_colour(rng)))[inside]
    return picture


def _polygon(rng: np.random.Generator) -> np.ndarray:
    """A regular polygon of five to eight corners, turned in any way."""
    return _turned(np.linspace(0, 2 * np.pi, int(rng.integers(5, 9)) + 1)[:-1], rng)


def _turned(angles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angles = angles + rng.uniform(0, 2 * np.pi)
    return np.stack([np.sin(angles), -np.cos(angles)], 1)


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    """An ellipse or a rectangle with sides of a half to two thirds."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    flat = np.stack([np.sin(angles), rng.uniform(0.4, 0.68) * np.cos(angles)], 1)
    if rng.random() < 0.5:
        height = rng.uniform(0.3, 0.6)
        flat = np.array([[-1, -height], [1, -height], [1, height], [-1, height]])
    return flat if rng.random() < 0.5 else flat[:, ::-1]


def _burst(rng: np.random.Generator) -> np.ndarray:
    """A star of four, six or more points, or a wheel of teeth."""
    points = int(_pick(rng, (3, 4, 6, 7, 8, 12)))
    angles = np.arange(2 * points) * np.pi / points
    lengths = np.where(np.arange(2 * points) % 2, rng.uniform(0.35, 0.7), 1.1)
    return _turned(angles, rng) * lengths[:, None]


def _half(rng: np.random.Generator) -> np.ndarray:
    """A half or three quarters of a disc."""
    part = _pick(rng, (np.pi, 1.5 * np.pi))
    angles = np.linspace(0, part, 40)
    rim = np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([rim, [[0.0, 0.0]]]) * rng.choice([-1, 1], 2)


def _slanted(rng: np.random.Generator) -> np.ndarray:
    """A trapezium, a slanted square, a triangle on its side or a house."""
    top, shift = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.6)
    forms = (
        [(-top, -0.8), (top, -0.8), (1, 0.8), (-1, 0.8)],
        [(-0.9 + shift, -0.8), (0.9 + shift, -0.8), (0.9 - shift, 0.8), (-0.9 - shift, 0.8)],
        [(-0.9, -1), (0.9, 0), (-0.9, 1)],
        [(-1, -0.8), (1, -0.8), (0, 1)],
        [(0, -1), (0.9, -0.2), (0.9, 0.9), (-0.9, 0.9), (-0.9, -0.2)],
    )
    return np.array(_pick(rng, forms), float) * np.array([rng.choice([-1, 1]), 1])


def _glyph(rng: np.random.Generator) -> np.ndarray:
    """The outline of L, T, U, Z or H, turned by quarters."""
    t = rng.uniform(0.3, 0.45)
    forms = (
        [(-0.8, -1), (-0.8 + t, -1), (-0.8 + t, 1 - t), (0.8, 1 - t), (0.8, 1), (-0.8, 1)],
        [
            *[(-1, -1), (1, -1), (1, -1 + t), (t / 2, -1 + t), (t / 2, 1), (-t / 2, 1)],
            *[(-t / 2, -1 + t), (-1, -1 + t)],
        ],
        [
            *[(-0.9, -1), (-0.9 + t, -1), (-0.9 + t, 1 - t), (0.9 - t, 1 - t), (0.9 - t, -1)],
            *[(0.9, -1), (0.9, 1), (-0.9, 1)],
        ],
        [
            *[(-0.9, -1), (0.9, -1), (0.9, -1 + t), (-0.3, 1 - t), (0.9, 1 - t), (0.9, 1)],
            *[(-0.9, 1), (-0.9, 1 - t), (0.3, -1 + t), (-0.9, -1 + t)],
        ],
        [
            *[(-0.9, -1), (-0.9 + t, -1), (-0.9 + t, -t / 2), (0.9 - t, -t / 2), (0.9 - t, -1)],
            *[(0.9, -1), (0.9, 1), (0.9 - t, 1), (0.9 - t, t / 2), (-0.9 + t, t / 2)],
            *[(-0.9 + t, 1), (-0.9, 1)],
        ],
    )
    outline = np.array(_pick(rng, forms), float)
    return outline[:, ::-1] if rng.random() < 0.5 else outline * rng.choice([-1, 1], 2)


def _inside(outline: np.ndarray, side: int) -> np.ndarray:
    """Give the part of each pixel within an outline, whose corners are fractions of the side."""
    from PIL import Image, ImageDraw

    finer = 4
    canvas = Image.new("L", (side * finer, side * finer))
    corners = [(float(x), float(y)) for x, y in outline * side * finer]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(finer)) / 255


def _ground(rng: np.random.Generator, side: int, name: str | None = None) -> np.ndarray:
    name = name or _pick(rng, tuple(BACKGROUNDS))
    return np.zeros((side, side, 3)) + np.array(BACKGROUNDS[name])


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
    alpha = _alpha(shape, centre, radius, len(picture))
    picture += alpha[..., None] * (np.array(colour) - picture)


def _alpha(
    shape: str, centre: Sequence[float] | np.ndarray, radius: float, side: int
) -> np.ndarray:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return coverage(shape, axis[None] - centre[0], axis[:, None] - centre[1], radius, 1 / side)


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.random() * len(choices))]


_OUTLINES = (_polygon, _polygon, _ellipse, _burst, _half, _slanted, _slanted, _glyph)
_KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    *(_noise, _texture, _gradient, _stripes, _empty, _scene_on_texture, _shaded, _screen),
    *(_many, _row, _hollow, _outline, _overlapping, _cut, _strange_ground, _patterned),
    *(_blob, _figures, _figures, _figures),
)
