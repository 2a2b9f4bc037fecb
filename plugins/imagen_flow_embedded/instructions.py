"""Draw instructions with the scenes before and after them.

Where a scene holds nothing that fits, or more than one thing, or is already so, it stays as it is: an
editor that is trained on asks that come to nothing learns to change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imagen_flow_embedded.asks import NOTHING, Ask, Kind, carry_out, meant, place_of
from imagen_flow_embedded.language import UNKNOWN, describe
from imagen_flow_embedded.wording import MARKS, beyond, loosely, marked_words, pick, unmarked
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw_scene,
    is_held_out,
)

LIKENED = 0.4
"""The part of scenes in which the two things have a colour or a shape in common."""


@dataclass(frozen=True)
class Asked:
    """An instruction, what it means, and the scene before and after it. ``owners`` says of each
    word what it is about: 1 the thing that is meant, 2 what it becomes, 0 neither.
    """

    instruction: str
    ask: Ask
    before: Scene
    after: Scene
    owners: tuple[int, ...] = ()


_KINDS: tuple[Kind, ...] = (
    *("colour", "colour", "shape", "shape", "shape", "size", "size", "background", "remove"),
    *("remove",),
)


def draw_asked(rng: np.random.Generator, *, idle: float = 0.0, astray: float = 0.15) -> Asked:
    """Draw an instruction for a scene. No scene before or after is held out.

    Params:
        idle: the part of instructions that ask for no change, or for none of those that an `Ask`
            can say.
        astray: the part of those that ask for what is so already or mean nothing in the scene.
    """
    while True:
        before = draw_scene(rng)
        if rng.random() < LIKENED and not _confusable(before):
            continue
        if len(before.things) == 2 and rng.random() < 0.1:
            # alone and off the centre: what an edit may leave
            before = replace(before, things=before.things[:1])
            if is_held_out(before):
                continue
        if rng.random() < idle:
            return Asked(_idle(before, rng), NOTHING, before, before)
        fits = rng.random() >= astray
        kind = pick(rng, _KINDS)
        ask = _background(before, rng, fits=fits) if kind == "background" else None
        if ask is None:
            ask = _of_a_thing(before, rng, kind, fits=fits)
        if ask is None:
            continue
        after = carry_out(ask, before)
        if (after == before) == fits or (after.things and is_held_out(after)):
            continue
        twins = len({(t.colour, t.shape) for t in after.things}) < len(after.things)
        if twins:
            continue
        if fits and rng.random() < idle / 5:
            words, unknown = marked_words(ask, rng, None), pick(rng, UNKNOWN)
            if (spoilt := _spoil(words, ask, unknown, rng)) is None:
                continue
            return _finished(spoilt, NOTHING, before, before)
        words = loosely(marked_words(ask, rng, before), rng)
        return _finished(words, ask, before, after)


def _confusable(scene: Scene) -> bool:
    """Say whether a scene has two things of one colour or of one shape."""
    if len(scene.things) < 2:
        return False
    one, other = scene.things
    return one.colour == other.colour or one.shape == other.shape


def _finished(marked: str, ask: Ask, before: Scene, after: Scene) -> Asked:
    words = marked.split()
    # a "plus sign" is read as one word
    owners = tuple(MARKS.find(part[-1]) + 1 for part in words if not part.startswith("sign"))
    return Asked(unmarked(marked), ask, before, after, owners)


def _background(scene: Scene, rng: np.random.Generator, *, fits: bool) -> Ask:
    others = [name for name in BACKGROUNDS if name != scene.background]
    return Ask("background", new_background=pick(rng, others) if fits else scene.background)


def _of_a_thing(scene: Scene, rng: np.random.Generator, kind: Kind, *, fits: bool) -> Ask | None:
    """Draw an ask about a thing; None if the draw is of no use."""
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    absent = not fits and rng.random() < 0.65
    named = thing
    if absent:
        named = Thing(
            pick(rng, SIZES) if rng.random() < 0.3 else thing.size,
            pick(rng, tuple(COLOURS)) if rng.random() < 0.6 else thing.colour,
            pick(rng, SHAPES) if rng.random() < 0.7 else thing.shape,
            0,
            0,
        )
    draw = rng.random()
    size = colour = shape = place = None
    if draw < 0.3:
        shape = named.shape
    elif draw < 0.62:
        colour, shape = named.colour, named.shape
    elif draw < 0.76:
        size, colour, shape = named.size, named.colour, named.shape
    elif draw < 0.82:
        size, shape = named.size, named.shape
    elif draw < 0.88:
        colour = named.colour
    elif draw < 0.91:
        size = named.size
    elif draw < 0.97 and not absent:
        place = place_of(scene, number)
        shape = thing.shape if rng.random() < 0.5 else None
        if place is None:
            return None
    elif len(scene.things) > 1 or absent:
        return None
    ask = Ask(kind, size, colour, shape, place)
    if absent:
        if meant(ask, scene):
            return None
    elif fits and meant(ask, scene) != [number]:
        return None
    already = not fits and not absent
    if kind == "remove":
        return None if already else ask
    if kind == "size":
        other = SIZES[1 - SIZES.index(thing.size)]
        return replace(ask, new_size=thing.size if already else other)
    if kind == "colour":
        return replace(ask, new_colour=_new(rng, tuple(COLOURS), thing.colour, same=already))
    ask = replace(ask, new_shape=_new(rng, SHAPES, thing.shape, same=already))
    if not already and rng.random() < 0.12:  # turn the red circle into a blue star
        ask = replace(ask, new_colour=_new(rng, tuple(COLOURS), thing.colour, same=False))
    if not already and rng.random() < 0.05:
        ask = replace(ask, new_size=SIZES[1 - SIZES.index(thing.size)])
    return ask


def _new(rng: np.random.Generator, values: Sequence[str], old: str, *, same: bool) -> str:
    return old if same else pick(rng, [value for value in values if value != old])


def _idle(scene: Scene, rng: np.random.Generator) -> str:
    """Say something that asks for no change of an editor's kinds."""
    draw = rng.random()
    if draw < 0.65:
        asks: list[Ask] = []
        while len(asks) < 2:
            kind = pick(rng, [kind for kind in _KINDS if kind != "background"])
            if ask := _of_a_thing(scene, rng, kind, fits=rng.random() < 0.5):
                asks.append(ask)
        return beyond(asks, rng)
    if draw < 0.68:
        return ""
    if draw < 0.85:  # a description is none, whether of what is there or of something else
        return describe(scene if rng.random() < 0.4 else draw_scene(rng), rng).text
    if draw < 0.95:
        return pick(
            rng,
            (
                *("please", "make it nice", "leave it as it is", "keep everything", "thanks"),
                *("don t change anything", "no changes", "keep it the same", "something different"),
                *("make the picture", "change it", "draw something", "do nothing", "the picture"),
            ),
        )
    words = describe(scene, rng).text.split()
    rng.shuffle(words)
    return " ".join(words[: int(rng.integers(1, 5))])


def _spoil(words: str, ask: Ask, unknown: str, rng: np.random.Generator) -> str | None:
    """Put an unknown word in the place of the shape or of the new value that an instruction
    names; None if it names none in a plain form.
    """
    wanted = [v for v in (ask.new_colour, ask.new_shape, ask.new_background) if v]
    if ask.shape and ask.new_shape != ask.shape and rng.random() < 0.6:
        wanted = [ask.shape]
    parts = words.split()
    plain = unmarked(words).split()
    if len(wanted) != 1 or plain.count(wanted[0]) != 1:
        return None
    index = plain.index(wanted[0])
    parts[index] = parts[index].replace(wanted[0], unknown)
    return " ".join(parts)
