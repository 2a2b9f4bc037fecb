"""Pictures that are none of the embedded models' world, drawn on the spot for the benchmark.

The code is not that of training: hearts, arrows, letters of a font, spirals, tables and faces are
kinds that no model has seen, and the others are drawn in another way and from other seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imagen_flow_embedded import world

SIDE = 128
_FINER = 4
Draw = Callable[[np.random.Generator], np.ndarray]


def foreign_pictures(seed: int, count: int) -> dict[str, list[np.ndarray]]:
    """Draw so many pictures of each kind: uint8 (SIDE, SIDE, 3)."""
    found = {}
    for number, (name, draw) in enumerate(KINDS.items()):
        rng = np.random.default_rng((seed, 10, number))
        found[name] = [draw(rng) for _ in range(count)]
    return found


# --- drawing
# ---------------------------------------------------------------------------------------------


def _colours(rng: np.random.Generator, count: int) -> list[tuple[int, int, int]]:
    every = list(world.COLOURS.values())
    return [every[int(number)] for number in rng.permutation(len(every))[:count]]


def _ground(rng: np.random.Generator) -> tuple[int, int, int]:
    return list(world.BACKGROUNDS.values())[int(rng.integers(4))]


class Sheet:
    """A canvas that is drawn four times as large as it ends."""

    def __init__(self, ground: tuple[int, int, int] | np.ndarray) -> None:
        wide = SIDE * _FINER
        if isinstance(ground, np.ndarray):
            self.image = Image.fromarray(ground).resize((wide, wide), Image.Resampling.NEAREST)
        else:
            self.image = Image.new("RGB", (wide, wide), ground)
        self.pen = ImageDraw.Draw(self.image)

    def polygon(
        self, corners: np.ndarray, colour: tuple[int, int, int], *, line: float = 0
    ) -> None:
        """Fill an outline given in pixels of the end, or draw it as a line of a width."""
        points = [(float(x) * _FINER, float(y) * _FINER) for x, y in corners]
        if line:
            closed = [*points, *points[:2]]
            self.pen.line(closed, fill=colour, width=round(line * _FINER), joint="curve")
        else:
            self.pen.polygon(points, fill=colour)

    def pixels(self) -> np.ndarray:
        return np.asarray(self.image.reduce(_FINER))


def _outline(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Give the corners of one of the world's shapes."""
    r = radius
    if shape == "circle":
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        found = np.stack([np.cos(angles), np.sin(angles)], 1) * r
    elif shape == "square":
        found = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.87 * r
    elif shape == "diamond":
        found = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)]) * 1.1 * r
    elif shape == "triangle":
        found = np.array([(0, -1), (1, 0.8), (-1, 0.8)]) * r
    elif shape == "cross":
        t = 0.33
        quarter = [(-t, -1), (t, -1), (t, -t)]
        turned = [(quarter, 1, 0), (quarter, 0, 1), (quarter, -1, 0), (quarter, 0, -1)]
        found = np.array([(c * a - s * b, s * a + c * b) for q, c, s in turned for a, b in q]) * r
    else:
        angles = np.arange(10) * np.pi / 5
        lengths = np.where(np.arange(10) % 2, 0.48, 1.1) * r
        found = np.stack([np.sin(angles), -np.cos(angles)], 1) * lengths[:, None]
    moved: np.ndarray = found + np.array([x, y])
    return moved


def _places(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Draw the places and radii of one or two things, in pixels."""
    radii = [15.4, 25.6]
    one, two = radii[int(rng.integers(2))], radii[int(rng.integers(2))]
    if rng.random() < 0.5:
        return [(64 + rng.uniform(-12, 12), 64 + rng.uniform(-12, 12), one)]
    first = (32 + rng.uniform(-4, 4), 64 + rng.uniform(-10, 10), one)
    second = (96 + rng.uniform(-4, 4), 64 + rng.uniform(-10, 10), two)
    if rng.random() < 0.5:
        first, second = (first[1], first[0], one), (second[1], second[0], two)
    return [first, second]


def _shape(rng: np.random.Generator) -> str:
    return world.SHAPES[int(rng.integers(len(world.SHAPES)))]


# --- kinds
# -----------------------------------------------------------------------------------------------


def _ring(rng: np.random.Generator) -> np.ndarray:
    ground = _ground(rng)
    sheet = Sheet(ground)
    places = _places(rng)
    for (x, y, radius), colour in zip(places, _colours(rng, 2), strict=False):
        sheet.polygon(_outline("circle", x, y, radius), colour)
        sheet.polygon(_outline("circle", x, y, radius * rng.uniform(0.42, 0.75)), ground)
    return sheet.pixels()


def _line_drawing(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    for (x, y, radius), colour in zip(_places(rng), _colours(rng, 2), strict=False):
        sheet.polygon(_outline(_shape(rng), x, y, radius), colour, line=rng.uniform(2, 4))
    return sheet.pixels()


def _three(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    layouts = (
        [(25, 64), (64, 64), (103, 64)],
        [(64, 24), (64, 64), (64, 104)],
        [(28, 32), (64, 98), (100, 32)],
    )
    layout = layouts[int(rng.integers(len(layouts)))]
    for (x, y), colour in zip(layout, _colours(rng, 3), strict=True):
        sheet.polygon(_outline(_shape(rng), x, y, rng.uniform(13, 17)), colour)
    return sheet.pixels()


def _overlap(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    first, second = _colours(rng, 2)
    angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(16, 30)
    dx, dy = apart / 2 * np.cos(angle), apart / 2 * np.sin(angle)
    sheet.polygon(_outline(_shape(rng), 64 - dx, 64 - dy, rng.uniform(18, 26)), first)
    sheet.polygon(_outline(_shape(rng), 64 + dx, 64 + dy, rng.uniform(18, 26)), second)
    return sheet.pixels()


def _hidden(rng: np.random.Generator) -> np.ndarray:
    ground = _ground(rng)
    sheet = Sheet(ground)
    (x, y, radius), *others = _places(rng)
    first, second = _colours(rng, 2)
    sheet.polygon(_outline(_shape(rng), x, y, radius), first)
    for other in others:
        sheet.polygon(_outline(_shape(rng), *other), second)
    cut = rng.uniform(-0.2, 0.3) * radius
    half = np.array([(cut, -40), (40, -40), (40, 40), (cut, 40)])
    quarter = int(rng.integers(4))
    for _ in range(quarter):
        half = half[:, ::-1] * np.array([-1, 1])
    sheet.polygon(np.clip(half, -1.25 * radius, 1.25 * radius) + np.array([x, y]), ground)
    return sheet.pixels()


def _figure(outline: Callable[[np.random.Generator], np.ndarray]) -> Draw:
    """Draw one or two figures of an outline that is given about 0, of radius 1."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        sheet = Sheet(_ground(rng))
        for (x, y, radius), colour in zip(_places(rng), _colours(rng, 2), strict=False):
            sheet.polygon(outline(rng) * radius + np.array([x, y]), colour)
        return sheet.pixels()

    return draw


def _hexagon(rng: np.random.Generator) -> np.ndarray:
    angles = np.arange(6) * np.pi / 3 + (0 if rng.random() < 0.5 else np.pi / 6)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * 1.05


def _regular(corners: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Draw a regular polygon, turned in any way."""

    def outline(rng: np.random.Generator) -> np.ndarray:
        angles = (np.arange(corners) + rng.random()) * 2 * np.pi / corners
        return np.stack([np.cos(angles), np.sin(angles)], 1) * 1.05

    return outline


def _rounded_square(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, np.pi / 2, 12)
    bow = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.3, 0.5)
    centre = 0.9 - bow[0, 0]
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([(bow + centre) @ turn.T for turn in turns])


def _tilted_square(rng: np.random.Generator) -> np.ndarray:
    turn = rng.uniform(np.pi / 12, np.pi / 6) * rng.choice([-1, 1])
    angles = np.arange(4) * np.pi / 2 + np.pi / 4 + turn
    return np.stack([np.cos(angles), np.sin(angles)], 1) * 1.23


def _crescent(rng: np.random.Generator) -> np.ndarray:
    depth, turn = rng.uniform(0.1, 0.6), rng.uniform(0, 2 * np.pi)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 40)
    outer = np.stack([np.cos(angles), np.sin(angles)], 1)
    inner = outer[::-1] * np.array([depth, 1])
    moon = np.concatenate([outer, inner]) * 1.1 - np.array([0.3, 0])
    return moon @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _oval(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    flat = np.stack([np.cos(angles), rng.uniform(0.6, 0.8) * np.sin(angles)], 1) * 1.1
    return flat if rng.random() < 0.5 else flat[:, ::-1]


def _star_of_six(rng: np.random.Generator) -> np.ndarray:
    angles = np.arange(12) * np.pi / 6
    lengths = np.where(np.arange(12) % 2, rng.uniform(0.5, 0.62), 1.1)
    return np.stack([np.sin(angles), -np.cos(angles)], 1) * lengths[:, None]


def _heart(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], 1) / 16


def _arrow(rng: np.random.Generator) -> np.ndarray:
    t = rng.uniform(0.2, 0.35)
    flat = [(-1, -t), (0.1, -t), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, t), (-1, t)]
    found = np.array(flat)
    return found[:, ::-1] if rng.random() < 0.5 else found * rng.choice([-1, 1])


def _letter(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    for (x, y, radius), colour in zip(_places(rng), _colours(rng, 2), strict=False):
        font = ImageFont.load_default(2.6 * radius * _FINER)
        letter = "ABCEFGHJKMNPRS23456789&?"[int(rng.integers(24))]
        sheet.pen.text((x * _FINER, y * _FINER), letter, fill=colour, font=font, anchor="mm")
    return sheet.pixels()


def _on(ground: Callable[[np.random.Generator], np.ndarray]) -> Draw:
    """Draw a scene of the world on another ground."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        sheet = Sheet(np.clip(ground(rng), 0, 255).astype(np.uint8))
        for (x, y, radius), colour in zip(_places(rng), _colours(rng, 2), strict=False):
            sheet.polygon(_outline(_shape(rng), x, y, radius), colour)
        return sheet.pixels()

    return draw


def _stripes(rng: np.random.Generator) -> np.ndarray:
    one, two = (np.array(c, float) for c in _colours(rng, 2))
    phase = np.arange(SIDE)[:, None] * rng.uniform(-1, 1) + np.arange(SIDE)
    return np.where(((phase / rng.uniform(5, 14)) % 2 < 1)[..., None], one, two)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    one, two = (np.array(c, float) for c in _colours(rng, 2))
    part = np.broadcast_to(np.linspace(0, 1, SIDE)[:, None], (SIDE, SIDE))
    part = part if rng.random() < 0.5 else part.T
    return one + part[..., None] * (two - one)


def _screen(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet((240, 240, 244) if rng.random() < 0.5 else (30, 30, 36))
    font = ImageFont.load_default(7 * _FINER)
    box = (_FINER * np.array([8, 10, 120, 118])).tolist()
    sheet.pen.rectangle(box, fill=(255, 255, 255), outline=(120, 120, 120), width=_FINER)
    bar = (_FINER * np.array([8, 10, 120, 22])).tolist()
    sheet.pen.rectangle(bar, fill=_colours(rng, 1)[0])
    for row in range(int(rng.integers(4, 8))):
        words = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(8, 24))))
        sheet.pen.text((14 * _FINER, (28 + 12 * row) * _FINER), words, fill=(20, 20, 20), font=font)
    return sheet.pixels()


def _table(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    colour = _colours(rng, 1)[0]
    apart = int(rng.integers(12, 32))
    for at in range(apart // 2, SIDE, apart):
        sheet.pen.line((at * _FINER, 0, at * _FINER, SIDE * _FINER), fill=colour, width=2 * _FINER)
        sheet.pen.line((0, at * _FINER, SIDE * _FINER, at * _FINER), fill=colour, width=2 * _FINER)
    return sheet.pixels()


def _spiral(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    t = np.linspace(0, rng.uniform(3, 6) * np.pi, 200)
    radius = t / t[-1] * rng.uniform(20, 40) * _FINER
    points = np.stack([np.cos(t), np.sin(t)], 1) * radius[:, None] + 64 * _FINER
    line = [(float(x), float(y)) for x, y in points]
    sheet.pen.line(line, fill=_colours(rng, 1)[0], width=round(rng.uniform(3, 6) * _FINER))
    return sheet.pixels()


def _face(rng: np.random.Generator) -> np.ndarray:
    sheet = Sheet(_ground(rng))
    colour, other = _colours(rng, 2)
    sheet.polygon(_outline("circle", 64, 64, 26), colour)
    for x in (55, 73):
        sheet.polygon(_outline("circle", x, 57, 4), other)
    mouth = [v * _FINER for v in (50, 52, 78, 80)]
    sheet.pen.arc(mouth, 20, 160, fill=other, width=3 * _FINER)
    return sheet.pixels()


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Draw a picture with the spectrum of photographs, 1 / frequency, in a few hues."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = 1
    power = rng.uniform(1.0, 1.8)
    layers = []
    for _ in range(3):
        spectrum = np.fft.fft2(rng.standard_normal((SIDE, SIDE))) / frequency**power
        layer = np.fft.ifft2(spectrum).real
        layers.append((layer - layer.mean()) / layer.std())
    mix = rng.normal(0, 1, (3, 3)) * 25 + np.array([45.0, 0, 0])[:, None]
    picture = np.stack(layers, 2) @ mix + rng.uniform(80, 180, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator) -> np.ndarray:
    side = SIDE if rng.random() < 0.5 else 16
    grains = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(grains).resize((SIDE, SIDE)))


KINDS: dict[str, Draw] = {
    "textures": _texture,
    "noise": _noise,
    "three shapes": _three,
    "rings": _ring,
    "outlines": _line_drawing,
    "overlapping shapes": _overlap,
    "half-hidden shapes": _hidden,
    "hexagons": _figure(_hexagon),
    "pentagons": _figure(_regular(5)),
    "octagons": _figure(_regular(8)),
    "ovals": _figure(_oval),
    "stars of six points": _figure(_star_of_six),
    "rounded squares (never trained)": _figure(_rounded_square),
    "tilted squares (never trained)": _figure(_tilted_square),
    "crescents (never trained)": _figure(_crescent),
    "hearts (never trained)": _figure(_heart),
    "arrows (never trained)": _figure(_arrow),
    "letters (never trained)": _letter,
    "shapes on stripes": _on(_stripes),
    "shapes on gradients": _on(_gradient),
    "screens": _screen,
    "tables (never trained)": _table,
    "spirals (never trained)": _spiral,
    "faces (never trained)": _face,
}
