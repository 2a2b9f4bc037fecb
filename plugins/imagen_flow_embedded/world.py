"""A world of flat shapes with words for it: scenes are drawn, rendered, captioned and edited from a
seed.

Every fact of a picture (background, count, size, colour, shape, relation) has a word, so a model
trained on this world can be judged by
meaning. One combination of facts in ten is *held out*: it is told apart by a digest of its words,
    and no model sees it in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 20, 25),
    "green": (20, 165, 45),
    "blue": (25, 60, 230),
    "yellow": (250, 225, 20),
    "orange": (255, 130, 0),
    "purple": (130, 20, 170),
    "cyan": (0, 215, 230),
    "pink": (255, 125, 195),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "brown": (100, 60, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
RADII = {"small": 0.12, "large": 0.20}
"""Half the extent of a thing, as a fraction of the picture's side."""

MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NEAR, FAR = 0.255, 0.745
"""Where the two things of a scene stand along the axis of their relation."""

_SYNONYMS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


@dataclass(frozen=True)
class Thing:
    """A shape in a scene; ``x`` and ``y`` are its centre as fractions of the side, from the upper
    left.
    """

    size: str
    colour: str
    shape: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """A background and one or two things that do not touch."""

    background: str
    things: tuple[Thing, ...]

    @property
    def relation(self) -> str | None:
        """Where the first thing is, seen from the second; None if it is alone."""
        if len(self.things) < 2:
            return None
        first, second = self.things
        dx, dy = first.x - second.x, first.y - second.y
        if abs(dx) >= abs(dy):
            return "left of" if dx < 0 else "right of"
        return "above" if dy < 0 else "below"


@dataclass(frozen=True)
class Edit:
    """An instruction with the scene before it and the scene it asks for; things that it does not
    name keep their place.
    """

    instruction: str
    before: Scene
    after: Scene
    kind: str


EDIT_KINDS = ("colour", "shape", "size", "background", "remove")


# --- drawing
# ---------------------------------------------------------------------------------------------------------------------


def draw_scene(rng: np.random.Generator, *, held_out: bool | None = False) -> Scene:
    """Draw a scene: one of the seen combinations, one of the held-out ones, or either (None)."""
    while True:
        scene = _draw_any(rng)
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def _draw_any(rng: np.random.Generator) -> Scene:
    background = _pick(rng, tuple(BACKGROUNDS))
    if rng.random() < 0.25:
        x, y = 0.5 + rng.uniform(-0.1, 0.1, 2)
        return Scene(background, (_draw_thing(rng, x, y),))
    relation = _pick(rng, RELATIONS)
    along = np.array([NEAR, FAR]) + rng.uniform(-0.03, 0.03, 2)
    across = 0.5 + rng.uniform(-0.08, 0.08, 2)
    if relation in ("right of", "below"):
        along = along[::-1]
    places = (
        zip(along, across, strict=True)
        if relation in ("left of", "right of")
        else zip(across, along, strict=True)
    )
    (x1, y1), (x2, y2) = places
    first, second = _draw_thing(rng, x1, y1), _draw_thing(rng, x2, y2)
    while (second.colour, second.shape) == (first.colour, first.shape):
        second = _draw_thing(rng, x2, y2)
    return Scene(background, (first, second))


def _draw_thing(rng: np.random.Generator, x: float, y: float) -> Thing:
    return Thing(
        _pick(rng, SIZES), _pick(rng, tuple(COLOURS)), _pick(rng, SHAPES), float(x), float(y)
    )


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def combination(scene: Scene) -> str:
    """Say the facts of a scene in one canonical line, the same whichever thing comes first; exact
    places do not matter.
    """
    names = [f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.things]
    relation = scene.relation
    if relation is None:
        return f"{names[0]} on {scene.background}"
    return (
        min(f"{names[0]} {relation} {names[1]}", f"{names[1]} {MIRROR[relation]} {names[0]}")
        + f" on {scene.background}"
    )


def is_held_out(scene: Scene) -> bool:
    """Say whether a scene's combination is kept from training: one in ten is."""
    return (
        int.from_bytes(blake2b(combination(scene).encode(), digest_size=8).digest(), "big") % 10
        == 0
    )


# --- rendering
# -------------------------------------------------------------------------------------------------------------------


def render(scenes: Sequence[Scene], side: int) -> np.ndarray:
    """Render scenes as square pictures.

    Outputs: uint8 (N, side, side, 3), sRGB; edges are one pixel soft, by signed distance.
    """
    pictures = np.empty((len(scenes), side, side, 3), np.float32)
    pictures[:] = np.array([BACKGROUNDS[scene.background] for scene in scenes], np.float32).reshape(
        -1, 1, 1, 3
    )
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    for shape in SHAPES:
        found = [
            (index, thing)
            for index, scene in enumerate(scenes)
            for thing in scene.things
            if thing.shape == shape
        ]
        for nth in range(2):  # a scene may hold two things of one shape: paint them in two passes
            seen: dict[int, int] = {}
            batch = []
            for index, thing in found:
                seen[index] = seen.get(index, -1) + 1
                if seen[index] == nth:
                    batch.append((index, thing))
            if not batch:
                continue
            rows = np.array([index for index, _ in batch])
            x, y, radius = (
                np.array(values, np.float32).reshape(-1, 1, 1)
                for values in zip(*((t.x, t.y, RADII[t.size]) for _, t in batch), strict=True)
            )
            colour = np.array([COLOURS[thing.colour] for _, thing in batch], np.float32).reshape(
                -1, 1, 1, 3
            )
            alpha = coverage(
                shape, axis[None, None, :] - x, axis[None, :, None] - y, radius, 1 / side
            )[..., None]
            pictures[rows] += alpha * (colour - pictures[rows])
    return np.rint(pictures).astype(np.uint8)


def coverage(
    shape: str, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray | float, pixel: float
) -> np.ndarray:
    """Give the part of each pixel that a shape covers, 0 to 1; ``dx`` and ``dy`` are offsets from
    its centre.
    """
    return np.clip(0.5 - _signed_distance(shape, dx, dy, radius) / pixel, 0, 1)


_TAN = float(np.tan(np.pi / 5))


def _signed_distance(
    shape: str, dx: np.ndarray, dy: np.ndarray, r: np.ndarray | float
) -> np.ndarray:
    """Give the distance to a shape's edge, negative inside. Outside a corner it is that of the
    nearest side, which leaves corners sharp.
    """
    ax = np.abs(dx)
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - r
    if shape == "square":
        return np.maximum(ax, np.abs(dy)) - 0.87 * r
    if shape == "diamond":
        return (ax + np.abs(dy) - 1.1 * r) * 0.70710678
    if shape == "triangle":  # apex (0, -r), base from (-r, 0.8 r) to (r, 0.8 r)
        return np.maximum((1.8 * ax - dy - r) / 2.0591260, dy - 0.8 * r)
    if shape == "cross":
        ay = np.abs(dy)
        return np.maximum(np.maximum(ax, ay) - r, np.minimum(ax, ay) - 0.33 * r)
    # star: fold the plane into a tenth, then one line from the point (0, -1.1 r) to the notch (0.48
    # r at 36 degrees)
    angle = np.arctan2(ax, -dy)
    angle = np.abs(angle - np.round(angle / (2 * np.pi / 5)) * (2 * np.pi / 5))
    distance = np.sqrt(dx * dx + dy * dy)
    px, py = distance * np.sin(angle), distance * np.cos(angle)
    nx, ny = 1.1 - 0.48 * np.cos(np.pi / 5), 0.48 * np.sin(np.pi / 5)
    return (px * nx + py * ny - 1.1 * ny * r) / np.hypot(nx, ny)


# --- words
# -----------------------------------------------------------------------------------------------------------------------


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Describe a scene in the canonical words, or with a generator in one of the harmless variants
    of them.
    """
    things, relation = scene.things, scene.relation
    if rng is None:
        return _sentence(
            [_noun(thing) for thing in things], relation, f"on a {scene.background} background"
        )
    if relation and rng.random() < 0.5:
        things, relation = things[::-1], MIRROR[relation]
    nouns = [_noun(thing, with_size=rng.random() >= 0.06) for thing in things]
    if relation and rng.random() < 0.3:
        relation = _pick(rng, _SYNONYMS[relation])
    draw = rng.random()
    ground = (
        ""
        if draw < 0.04
        else f"on {scene.background}"
        if draw < 0.1
        else f"on a {scene.background} background"
    )
    return _sentence(nouns, relation, ground)


def _noun(thing: Thing, *, with_size: bool = True) -> str:
    words = (
        f"{thing.size} {thing.colour} {thing.shape}"
        if with_size
        else f"{thing.colour} {thing.shape}"
    )
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _sentence(nouns: Sequence[str], relation: str | None, ground: str) -> str:
    return " ".join(
        part for part in (nouns[0], relation, nouns[1] if relation else None, ground) if part
    )


def read_caption(text: str) -> dict[str, str]:
    """Read the attributes out of a caption: the inverse of ``caption``, in the keys of
    ``attributes``.

    Words that are missing are missing in the answer; a text that names no thing gives no things.
    Things are numbered as they are named.
    """
    lowered = text.lower().replace("grey", "gray")
    found: dict[str, str] = {}
    head, _, ground = lowered.rpartition(" on ")
    for background in BACKGROUNDS:
        if re.search(rf"\b{background}\b", ground):
            found["background"] = background
    body = head if "background" in found else lowered
    things = list(
        re.finditer(
            rf"\b(?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b", body
        )
    )
    for number, match in enumerate(things[:2], 1):
        size, colour, shape = match.groups()
        if size:
            found[f"{number}.size"] = size
        found[f"{number}.colour"], found[f"{number}.shape"] = colour, shape
    found["count"] = str(len(things))
    if len(things) == 2:
        between = body[things[0].end() : things[1].start()]
        for relation, words in _SYNONYMS.items():
            if any(f" {word} " in between for word in words):
                found["relation"] = relation
    return found


def attributes(facts: Scene | Edit) -> dict[str, str]:
    """Name every fact of a scene (of an edit: of the scene it asks for): ``background``, ``count``,
    ``1.size`` … ``2.shape``, ``relation``.
    """
    scene = facts.after if isinstance(facts, Edit) else facts
    named = {"background": scene.background, "count": str(len(scene.things))}
    for number, thing in enumerate(scene.things, 1):
        named |= {
            f"{number}.size": thing.size,
            f"{number}.colour": thing.colour,
            f"{number}.shape": thing.shape,
        }
    if scene.relation:
        named["relation"] = scene.relation
    return named


# --- edits
# -----------------------------------------------------------------------------------------------------------------------


def draw_edit(
    rng: np.random.Generator, *, held_out: bool | None = False, kind: str | None = None
) -> Edit:
    """Draw an instruction and what it does.

    Params:
        held_out: False: neither scene is held out. True: the scene before is. None: either.
        kind: one of ``EDIT_KINDS``; drawn if None.
    """
    while True:
        asked = kind or _pick(rng, EDIT_KINDS)
        before = draw_scene(rng, held_out=None)
        if (
            len(before.things) == 2 and asked != "remove" and rng.random() < 0.1
        ):  # a thing alone, off the centre: what an edit may leave
            before = replace(before, things=before.things[:1])
        if asked == "remove" and len(before.things) < 2:
            continue
        if held_out is not None and is_held_out(before) != held_out:
            continue
        edit = _edit(rng, before, asked)
        if held_out is False and is_held_out(edit.after):
            continue
        return edit


def _edit(rng: np.random.Generator, before: Scene, kind: str) -> Edit:
    if kind == "background":
        new = _pick(rng, [name for name in BACKGROUNDS if name != before.background])
        words = _pick(
            rng, ("make the background {}", "change the background to {}", "turn the background {}")
        ).format(new)
        return Edit(words, before, replace(before, background=new), kind)
    target = int(rng.integers(len(before.things)))
    thing = before.things[target]
    others = before.things[:target] + before.things[target + 1 :]
    unique = all(other.shape != thing.shape for other in others)
    name = (
        f"the {thing.shape}"
        if unique and rng.random() < 0.6
        else f"the {thing.colour} {thing.shape}"
    )
    if kind == "remove":
        return Edit(
            f"{_pick(rng, ('remove', 'remove', 'delete', 'erase'))} {name}",
            before,
            replace(before, things=others),
            kind,
        )
    if kind == "size":
        new = "small" if thing.size == "large" else "large"
        comparative = {"small": "smaller", "large": "larger"}[new]
        words = _pick(
            rng,
            (
                f"make {name} {new}",
                f"make {name} {new}",
                f"change {name} to {new}",
                f"make {name} {comparative}",
            ),
        )
        changed = replace(thing, size=new)
    elif kind == "colour":
        taken = {other.colour for other in others if other.shape == thing.shape} | {thing.colour}
        new = _pick(rng, [colour for colour in COLOURS if colour not in taken])
        words = _pick(
            rng,
            (
                f"make {name} {new}",
                f"make {name} {new}",
                f"change {name} to {new}",
                f"turn {name} {new}",
            ),
        )
        changed = replace(thing, colour=new)
    else:
        taken = {other.shape for other in others if other.colour == thing.colour} | {thing.shape}
        new = _pick(rng, [shape for shape in SHAPES if shape not in taken])
        words = _pick(
            rng,
            (
                f"turn {name} into a {new}",
                f"turn {name} into a {new}",
                f"change {name} to a {new}",
                f"make {name} a {new}",
            ),
        )
        changed = replace(thing, shape=new)
    return Edit(
        words,
        before,
        replace(before, things=(*before.things[:target], changed, *before.things[target + 1 :])),
        kind,
    )
