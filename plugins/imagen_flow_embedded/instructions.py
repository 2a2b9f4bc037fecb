"""Ask for changes in the words that people type: what an instruction means, and many forms of it.

An `Ask` is the meaning: which thing, and what becomes of it. `carry_out` applies it to a scene;
where the scene holds nothing that fits, or more than one thing, or is already so, the scene stays
as it is. `word` puts an ask into words, in forms drawn from a seed. An editor that is trained on
asks that come to nothing learns to change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from imagen_flow_embedded.language import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    UNKNOWN,
    describe,
)
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

T = TypeVar("T")
Kind = Literal["nothing", "colour", "shape", "size", "background", "remove"]
PLACES = ("left", "right", "top", "bottom")
OWN_WORDS = (
    *("let", "exchange", "do", "cut", "throw", "go", "hide", "down", "removed", "something"),
    *("don", "anything", "changes", "same", "resize", "double", "different", "ll"),
)
"""Words of instructions that no prompt has."""


_ALIKE = {
    "gray": ("grey",),
    "colour": ("color", "recolour", "recolor", "paint", "repaint", "tint", "dye", "fill"),
    "coloured": ("colored",),
    "remove": ("delete", "erase", "drop", "wipe", "clear", "lose", "hide", "cut", "throw", "leave"),
    "without": ("no",),
    "change": ("turn", "convert", "transform", "switch", "set", "let"),
    "replace": ("swap", "exchange"),
    "larger": ("bigger", "grow", "enlarge", "increase", "more"),
    "smaller": ("shrink", "reduce", "decrease", "less"),
    "should": ("must", "needs"),
    "please": ("can", "could", "would", "just", "now", "then", "thanks", "thank"),
    "thing": ("object", "shape", "one"),
    "top": ("upper",),
    "bottom": ("lower",),
    "background": ("ground", "backdrop", "canvas", "bg"),
    "into": ("to",),
    "the": ("this", "that", "a", "an"),
}


def alike() -> dict[str, str]:
    """Give the words that a tokenizer of instructions reads as another, nearly all synonyms."""
    tables = {**SIZE_WORDS, **COLOUR_WORDS, **SHAPE_WORDS}
    found = {word: name for name, words in tables.items() for word in words if word != name}
    found |= {word: name for name, words in _ALIKE.items() for word in words}
    return dict(sorted(found.items(), key=lambda each: -len(each[0])))


@dataclass(frozen=True)
class Ask:
    """What an instruction asks for. The first four facts say which thing is meant, where they are
    given; the others what it becomes, or what the background becomes.
    """

    kind: Kind
    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None
    new_size: str | None = None
    new_colour: str | None = None
    new_shape: str | None = None
    new_background: str | None = None


NOTHING = Ask("nothing")
LIKENED = 0.4
"""The part of scenes in which the two things have a colour or a shape in common."""
_MARKS = "\x01\x02"
"""Put behind the words that name what is meant, and what it becomes, while a text is made."""


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


def meant(ask: Ask, scene: Scene) -> list[int]:
    """Give the numbers of the things of a scene that an ask may mean."""
    return [
        number
        for number, thing in enumerate(scene.things)
        if ask.size in (None, thing.size)
        and ask.colour in (None, thing.colour)
        and ask.shape in (None, thing.shape)
        and ask.place in (None, place_of(scene, number))
    ]


def place_of(scene: Scene, number: int) -> str | None:
    """Say on which side one of two things stands; None if it is alone."""
    if scene.relation is None:
        return None
    first = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
    second = {"left of": "right", "right of": "left", "above": "bottom", "below": "top"}
    return (first, second)[number][scene.relation]


def carry_out(ask: Ask, scene: Scene) -> Scene:
    """Give the scene that an ask makes of another: the same where nothing or more than one thing
    fits.
    """
    if ask.kind == "nothing":
        return scene
    if ask.kind == "background":
        return replace(scene, background=ask.new_background or scene.background)
    found = meant(ask, scene)
    if len(found) != 1:
        return scene
    (number,) = found
    thing = scene.things[number]
    changed = replace(
        thing,
        size=ask.new_size or thing.size,
        colour=ask.new_colour or thing.colour,
        shape=ask.new_shape or thing.shape,
    )
    kept = () if ask.kind == "remove" else (changed,)
    return replace(scene, things=(*scene.things[:number], *kept, *scene.things[number + 1 :]))


# --- drawing
# ---------------------------------------------------------------------------------------------------------------------

_KINDS: tuple[Kind, ...] = (
    *("colour", "colour", "shape", "shape", "shape", "size", "size", "background", "remove"),
    *("remove",),
)


def draw_asked(rng: np.random.Generator, *, astray: float = 0.15) -> Asked:
    """Draw an instruction for a scene. No scene before or after is held out.

    Params:
        astray: the part of instructions that ask for what is so already or mean nothing in the
            scene; one in twenty more has no meaning at all.
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
        draw = rng.random()
        if draw < 0.03:
            return Asked(_idle(before, rng), NOTHING, before, before)
        fits = draw < 1 - astray
        kind = _pick(rng, _KINDS)
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
        if fits and draw >= 1 - astray - 0.03:
            words, unknown = _marked_words(ask, rng, None), _pick(rng, UNKNOWN)
            if (spoilt := _spoil(words, ask, unknown, rng)) is None:
                continue
            return _finished(spoilt, NOTHING, before, before)
        words = _loosely(_marked_words(ask, rng, before), rng)
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
    owners = tuple(_MARKS.find(part[-1]) + 1 for part in words if not part.startswith("sign"))
    return Asked(_unmarked(marked), ask, before, after, owners)


def _mark(words: str, mark: str) -> str:
    return " ".join(part + mark for part in words.split())


def _unmarked(words: str) -> str:
    return words.translate(dict.fromkeys(map(ord, _MARKS)))


def _background(scene: Scene, rng: np.random.Generator, *, fits: bool) -> Ask:
    others = [name for name in BACKGROUNDS if name != scene.background]
    return Ask("background", new_background=_pick(rng, others) if fits else scene.background)


def _of_a_thing(scene: Scene, rng: np.random.Generator, kind: Kind, *, fits: bool) -> Ask | None:
    """Draw an ask about a thing; None if the draw is of no use."""
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    absent = not fits and rng.random() < 0.65
    named = thing
    if absent:
        named = Thing(
            _pick(rng, SIZES) if rng.random() < 0.3 else thing.size,
            _pick(rng, tuple(COLOURS)) if rng.random() < 0.6 else thing.colour,
            _pick(rng, SHAPES) if rng.random() < 0.7 else thing.shape,
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
    return old if same else _pick(rng, [value for value in values if value != old])


def _idle(scene: Scene, rng: np.random.Generator) -> str:
    """Say something that asks for no change: nothing, a description, words without a verb."""
    draw = rng.random()
    if draw < 0.3:
        return ""
    if draw < 0.6:
        return describe(scene, rng).text
    if draw < 0.8:
        return _pick(
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
    plain = _unmarked(words).split()
    if len(wanted) != 1 or plain.count(wanted[0]) != 1:
        return None
    index = plain.index(wanted[0])
    parts[index] = parts[index].replace(wanted[0], unknown)
    return " ".join(parts)


# --- words
# -----------------------------------------------------------------------------------------------------------------------

_VALUED = (
    *("make {n} {v}", "make {n} {v}", "make {n} {v}", "change {n} to {v}", "turn {n} {v}"),
    *("{n} should be {v}", "set {n} to {v}", "i want {n} {v}", "i want {n} to be {v}"),
    *(
        "{n} must be {v}",
        "let {n} become {v}",
        "i d like {n} {v}",
        "let s make {n} {v}",
        "{n} needs to be {v}",
        "switch {n} to {v}",
    ),
)
_COLOURED = (
    *_VALUED,
    *("recolour {n} {v}", "recolor {n} {v}", "recolour {n} to {v}", "recolour {n} in {v}"),
    *("colour {n} {v}", "color {n} {v}", "paint {n} {v}", "paint {n} in {v}", "repaint {n} {v}"),
    *("colour {n} in {v}", "color {n} in {v}", "repaint {n} in {v}", "make {n} in {v}"),
    *("fill {n} with {v}", "change the colour of {n} to {v}", "change the color of {n} to {v}"),
    *("make the colour of {n} {v}", "give {n} a {v} colour", "tint {n} {v}", "dye {n} {v}"),
    *("turn {n} into {v}", "turn {n} to {v}", "change {n} into a {v} one", "swap {n} to {v}"),
    *("make {n} {v} coloured", "the colour of {n} should be {v}", "convert {n} to {v}"),
)
_FROM_COLOUR = (
    *("change {n} from {o} to {v}", "make {n} {v} instead of {o}", "turn {n} from {o} to {v}"),
    *("replace {n} with a {v} one", "replace {n} by a {v} one", "swap {n} for a {v} one"),
    *("swap {n} with a {v} {s}", "replace {n} with a {v} {s}", "turn {n} into a {v} {s}"),
    *("change {n} to a {v} {s}", "make {n} a {v} {s}", "turn {n} into a {v} one"),
)
_SHAPED = (
    *("turn {n} into a {v}", "turn {n} into a {v}", "turn {n} into a {v}", "change {n} to a {v}"),
    *("change {n} into a {v}", "make {n} a {v}", "replace {n} with a {v}", "replace {n} by a {v}"),
    *(
        "swap {n} for a {v}",
        "swap {n} with a {v}",
        "transform {n} into a {v}",
        "make {n} into a {v}",
    ),
    *(
        "convert {n} to a {v}",
        "convert {n} into a {v}",
        "{n} should be a {v}",
        "switch {n} to a {v}",
    ),
    *("make a {v} out of {n}", "make a {v} of {n}", "let {n} become a {v}", "a {v} instead of {n}"),
    *("i want a {v} instead of {n}", "put a {v} in place of {n}", "set {n} to a {v}"),
    *("turn {n} to a {v}", "exchange {n} for a {v}", "draw a {v} instead of {n}"),
)
_SHAPED_BARE = (
    *("change the shape of {n} to {v}", "make {n} {v} shaped", "turn {n} into {v}"),
    *("change {n} to {v}", "the shape of {n} should be {v}", "replace {n} with {v}"),
)
_SMALLER = (
    *("make {n} smaller", "make {n} smaller", "shrink {n}", "reduce {n}", "reduce the size of {n}"),
    *("{n} should be smaller", "decrease the size of {n}", "scale {n} down", "make {n} less large"),
    *("make {n} smaller in size", "change {n} to a smaller size", "turn {n} smaller"),
    *(
        "i want {n} smaller",
        "i want a smaller {b}",
        "make the size of {n} smaller",
        "scale down {n}",
    ),
)
_LARGER = (
    *("make {n} larger", "make {n} bigger", "make {n} bigger", "enlarge {n}", "grow {n}"),
    *("increase the size of {n}", "{n} should be larger", "{n} should be bigger", "scale {n} up"),
    *("make {n} more large", "blow up {n}", "let {n} grow", "turn {n} bigger", "scale up {n}"),
    *("change {n} to a bigger size", "change {n} to a larger size", "i want {n} bigger"),
    *(
        "make the size of {n} larger",
        "i want a bigger {b}",
        "increase {n}",
        "make {n} bigger in size",
    ),
)
_SIZED = (
    *_VALUED,
    *("change the size of {n} to {v}", "make the size of {n} {v}", "replace {n} with a {v} one"),
    *(
        "give {n} a {v} size",
        "swap {n} for a {v} one",
        "turn {n} into a {v} {s}",
        "make {n} a {v} {s}",
    ),
)
_REMOVED = (
    *("remove {n}", "remove {n}", "remove {n}", "delete {n}", "erase {n}", "get rid of {n}"),
    *("get rid of {n}", "take {n} away", "take away {n}", "drop {n}", "wipe {n}", "wipe {n} out"),
    *("clear {n}", "clear away {n}", "no {b}", "without {n}", "lose {n}", "take {n} out"),
    *("take out {n}", "i want {n} removed", "leave out {n}", "make {n} go away", "hide {n}"),
    *("remove {n} from the picture", "delete {n} from the image", "there should be no {b}"),
    *("i do not want {n}", "cut {n}", "make the picture without {n}", "throw away {n}"),
)
_GROUNDED = (
    *("make {g} {v}", "make {g} {v}", "make {g} {v}", "change {g} to {v}", "change {g} to {v}"),
    *("turn {g} {v}", "set {g} to {v}", "paint {g} {v}", "fill {g} with {v}", "colour {g} {v}"),
    *(
        "color {g} {v}",
        "recolour {g} {v}",
        "recolor {g} to {v}",
        "{g} should be {v}",
        "dye {g} {v}",
    ),
    *(
        "change the colour of {g} to {v}",
        "replace {g} with {v}",
        "swap {g} for {v}",
        "tint {g} {v}",
    ),
    *("turn {g} into {v}", "turn {g} to {v}", "i want {g} {v}", "i want a {v} background"),
    *("give it a {v} background", "put it on a {v} background", "use a {v} background"),
    *("give the picture a {v} background", "put everything on {v}", "make it a {v} background"),
    *("{v} background", "background {v}", "background to {v}", "a {v} background", "on {v} please"),
    *("place it on a {v} background", "switch {g} to {v}", "repaint {g} {v}", "{g} must be {v}"),
    *("set a {v} background", "convert {g} to {v}", "the colour of {g} should be {v}"),
    *(
        "make {g} {v} instead of {o}",
        "change {g} from {o} to {v}",
        "swap the {o} background for {v}",
    ),
    *("replace the {o} background with {v}", "turn the {o} background {v}", "show it on {v}"),
)
_GROUNDS = (*("the background",) * 6, "background", "the ground", "the backdrop", "the canvas")
_BEFORE = (
    *("please", "please", "can you", "could you", "could you please", "now", "i want you to"),
    *("just", "then", "would you", "you should"),
)
_AFTER = ("please", "please", "now", "instead", "thanks", "for me", "and nothing else")


def word(ask: Ask, rng: np.random.Generator, scene: Scene | None = None) -> str:
    """Put an ask into words.

    Inputs:
        scene: that it is about. With it, what changes may be named too ("from red to blue").
    """
    return _unmarked(_marked_words(ask, rng, scene))


def _marked_words(ask: Ask, rng: np.random.Generator, scene: Scene | None) -> str:
    """Put an ask into words, those marked that name what is meant or what it becomes."""
    if ask.kind == "nothing":
        return ""
    if ask.kind == "background":
        new = _mark(_pick(rng, BACKGROUND_WORDS[str(ask.new_background)]), _MARKS[1])
        form = _pick(rng, _GROUNDED)
        old = scene.background if scene else None
        if "{o}" in form and old in (None, ask.new_background):
            form = _GROUNDED[0]
        return form.format(g=_pick(rng, _GROUNDS), v=new, o=old)
    noun = _noun(ask, rng)
    bare = (
        noun.split(" ", 1)[1]
        if noun.split()[0] in ("the", "a", "this", "that") and " " in noun
        else noun
    )
    if bare in ("it", "this", "that"):
        bare = "shape"
    noun, bare = _mark(noun, _MARKS[0]), _mark(bare, _MARKS[0])
    kind = _pick(rng, SHAPE_WORDS[ask.shape]) if ask.shape else "one"
    if ask.kind == "remove":
        return _pick(rng, _REMOVED).format(n=noun, b=bare)
    if ask.kind == "size":
        forms: Sequence[str] = _SMALLER if ask.new_size == "small" else _LARGER
        if rng.random() < 0.5:
            forms = _SIZED
        new = _mark(_pick(rng, SIZE_WORDS[str(ask.new_size)]), _MARKS[1])
        return _pick(rng, forms).format(n=noun, b=bare, v=new, s=kind)
    if ask.kind == "colour":
        new = _mark(_pick(rng, COLOUR_WORDS[str(ask.new_colour)]), _MARKS[1])
        old = ask.colour
        if scene and old is None and len(found := meant(ask, scene)) == 1:
            old = scene.things[found[0]].colour
        if rng.random() < 0.72:
            form = _pick(rng, _COLOURED)
        else:
            form = _pick(rng, _FROM_COLOUR)
            if "{o}" in form and (old is None or old == ask.new_colour):
                form = _COLOURED[0]
        return form.format(n=noun, v=new, o=old, s=kind)
    new = _pick(rng, SHAPE_WORDS[str(ask.new_shape)])
    qualities = [
        *([_pick(rng, SIZE_WORDS[ask.new_size])] if ask.new_size else ()),
        *([_pick(rng, COLOUR_WORDS[ask.new_colour])] if ask.new_colour else ()),
    ]
    if qualities:
        new = _mark(" ".join([*qualities, new]), _MARKS[1])
        return _pick(rng, _SHAPED).format(n=noun, v=new)
    form = _pick(rng, _SHAPED if rng.random() < 0.8 else _SHAPED_BARE)
    return form.format(n=noun, v=_mark(new, _MARKS[1]))


def _noun(ask: Ask, rng: np.random.Generator) -> str:
    """Name the thing that an ask means."""
    if ask == Ask(ask.kind, **_becoming(ask)):
        return _pick(rng, ("it", "it", "the shape", "the thing", "this", "the object", "that"))
    size = _pick(rng, SIZE_WORDS[ask.size]) if ask.size else ""
    colour = _pick(rng, COLOUR_WORDS[ask.colour]) if ask.colour else ""
    shape = (
        _pick(rng, SHAPE_WORDS[ask.shape])
        if ask.shape
        else _pick(rng, ("one", "one", "shape", "thing", "object"))
    )
    draw = rng.random()
    if draw < 0.86 or not (size or colour):
        words = f"{size} {colour} {shape}"
    elif draw < 0.92 and colour:
        words = f"{size} {shape} that is {colour}"
    else:
        words = f"{colour} {size} {shape}"
    if ask.place:
        side = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}.get(ask.place, (ask.place,))
        forms = ("{p} {w}", "{p} {w}", "{w} {on}")
        on = f"{'on the' if ask.place in ('left', 'right') else 'at the'} {ask.place}"
        words = _pick(rng, forms).format(p=_pick(rng, side), w=words, on=on)
    article = "the" if rng.random() < 0.88 else _pick(rng, ("", "", "a", "that", "this"))
    return " ".join(f"{article} {words}".split())


def _becoming(ask: Ask) -> dict[str, str | None]:
    return {
        name: getattr(ask, name)
        for name in ("new_size", "new_colour", "new_shape", "new_background")
    }


def _loosely(words: str, rng: np.random.Generator) -> str:
    """Add what changes no meaning: courtesy, and a word that no model knows."""
    if rng.random() < 0.15:
        words = f"{_pick(rng, _BEFORE)} {words}"
    if rng.random() < 0.1:
        words = f"{words} {_pick(rng, _AFTER)}"
    parts = words.split()
    if rng.random() < 0.06 and "the\x01" in parts:
        # an adjective: elsewhere a word might take the place of one that matters
        parts.insert(
            parts.index("the\x01") + 1, _pick(rng, ("shiny", "pretty", "unheard")) + "\x01"
        )
    return " ".join(parts)


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]
