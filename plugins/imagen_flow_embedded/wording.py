"""Put an ask into words: many forms of one meaning, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from imagen_flow_embedded.asks import PLACES, Ask
from imagen_flow_embedded.language import BACKGROUND_WORDS, COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS
from imagen_flow_embedded.world import Scene

T = TypeVar("T")
MARKS = "\x01\x02"
"""Put behind the words that name what is meant, and what it becomes, while a text is made."""
_VALUED = (
    *("make {n} {v}", "make {n} {v}", "make {n} {v}", "change {n} to {v}", "turn {n} {v}"),
    *("{n} should be {v}", "set {n} to {v}", "i want {n} {v}", "i want {n} to be {v}"),
    *(
        "{n} must be {v}",
        "let {n} become {v}",
        "let {n} be {v}",
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
    *("make {n} more {v}", "i want {n} more {v}"),
    *("make {n} {v} coloured", "the colour of {n} should be {v}", "convert {n} to {v}"),
    *("{n} {v}", "{n} in {v}", "{n} to {v}", "{n} becomes {v}", "could we have {n} in {v}"),
    *("recolour {n} with {v}", "paint {n} with {v}", "{n} as {v}"),
)
_FROM_COLOUR = (
    *("change {n} from {o} to {v}", "turn {n} from {o} to {v}", "i want {n} {v} instead of {o}"),
    *("make {n} {v} instead of {o}",) * 4,
    *("i want {n} {v} instead of {o}", "paint {n} {v} and not {o}"),
    *("{n} from {o} to {v}", "change the colour of {n} from {o} to {v}"),
    *("{n} should be {v} not {o}", "make {n} {v} not {o}", "{n} {v} instead of {o}"),
    *("replace {n} with a {v} one", "replace {n} by a {v} one", "swap {n} for a {v} one"),
    *("swap {n} with a {v} {s}", "replace {n} with a {v} {s}", "turn {n} into a {v} {s}"),
    *("change {n} to a {v} {s}", "make {n} a {v} {s}", "turn {n} into a {v} one"),
)
_WANTED = ("i want a {v} {s}", "i would like a {v} {s}", "i want to see a {v} {s}")
"""How a thing that only its shape names may be asked for as it is to become."""
_TURNED = (
    *("{o} to {v}", "{o} to {v}", "change {o} to {v}", "turn {o} into {v}", "make {o} {v}"),
    *("replace {o} with {v}", "swap {o} for {v}", "{o} becomes {v}", "{v} instead of {o}"),
)
"""One word for the other, for what only its colour names."""
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
    *("make it a {v} instead of {n}", "i want to see a {v} instead of {n}"),
    *("i want a {v} where {n} is", "put a {v} where {n} is", "draw a {v} where {n} is"),
    *("turn {n} to a {v}", "exchange {n} for a {v}", "draw a {v} instead of {n}"),
)
_SHAPED_BARE = (
    *("change the shape of {n} to {v}", "make {n} {v} shaped", "turn {n} into {v}"),
    *("change {n} to {v}", "the shape of {n} should be {v}", "replace {n} with {v}"),
    *("{n} to {v}", "{n} to {v}", "{n} becomes {v}", "{n} becomes a {v}", "{v} instead of {n}"),
)
_SMALLER = (
    *("make {n} smaller", "make {n} smaller", "shrink {n}", "reduce {n}", "reduce the size of {n}"),
    *("{n} should be smaller", "decrease the size of {n}", "scale {n} down", "make {n} less large"),
    *("make {n} a bit smaller", "make {n} a little smaller", "make {n} much smaller"),
    *(
        "make {n} slightly smaller",
        "make {n} smaller in size",
        "change {n} to a smaller size",
        "turn {n} smaller",
    ),
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
    *("make {n} a bit larger", "make {n} a little bigger", "make {n} much bigger"),
    *(
        "make {n} slightly bigger",
        "make {n} more large",
        "blow up {n}",
        "let {n} grow",
        "turn {n} bigger",
        "scale up {n}",
    ),
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
    *(
        "do not draw {n}",
        "i do not want {n}",
        "cut {n}",
        "make the picture without {n}",
        "throw away {n}",
    ),
    *("{n} should go", "{n} must go", "{n} has to go", "{n} away", "i do not need {n}"),
    *("i don t want {n}", "i don t need {n}", "{n} out", "remove {n} please", "{n} removed"),
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
    *(
        "make everything behind the shapes {v}",
        "turn {g} into {v}",
        "turn {g} to {v}",
        "i want {g} {v}",
        "i want a {v} background",
    ),
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
    *("{o} to {v}", "{o} background to {v}", "{v} instead of {o}", "change {o} to {v}"),
    *("on {v}", "on {v} instead of {o}", "put them on a {v} background", "put it on {v}"),
    *("{g} in {v}", "{g} as {v}", "have a {v} background"),
)
_BEYOND = (
    *("leave {n} alone", "leave {n} as it is", "keep {n}", "keep {n} as it is", "keep {n} {v}"),
    *("do not touch {n}", "don t touch {n}", "leave {n}", "only keep {n}"),
    *(
        "move {n}",
        "move {n} to the {p}",
        "put {n} on the {p}",
        "rotate {n}",
        "flip {n}",
        "copy {n}",
    ),
    *(
        "add a {v} {s}",
        "add {m}",
        "draw another {s}",
        "add another {s}",
        "draw a {v} {s}",
        "blur {n}",
    ),
    *("make {n} transparent", "make {n} striped", "give {n} an outline", "make {n} shine"),
    *("put {n} above {m}", "place {n} below {m}", "move {n} next to {m}", "swap {n} and {m}"),
    *("make {n} the same colour as {m}", "make {n} as large as {m}", "make {n} look like {m}"),
    *("make {n} less {v}", "make {n} not {v}", "what colour is {n}", "is {n} {v}", "{n} is {v}"),
    *("make both shapes {v}", "make both {v}", "make all shapes {v}", "make them {v}"),
    *("make everything {v}", "turn both into a {s}", "make both things larger", "shrink both"),
    *("remove both", "remove both shapes", "remove everything", "delete all", "delete all shapes"),
    *("remove {n} and {m}", "remove {n} and the other one", "make {n} {v} and {m} {w}"),
    *("make {n} {v} and larger", "make {n} smaller and {v}", "turn {n} {v} and {m} into a {s}"),
    *("make {n} a {s} and {m} {v}", "make {n} {v} and the background {g}", "swap the colours"),
    *("move everything to the {p}", "rotate the picture", "flip it", "blur the background"),
    *("remove the background", "make the background transparent", "zoom in", "invert the colours"),
    *("make {n} {g}", "paint {n} {g}", "make it {g}", "paint it {g}", "turn {n} {g}", "{n} {g}"),
    *("make the background {v}", "change the background to {v}", "make {n} and {m} {v}"),
    *("should {n} be {v}", "is {n} {v} now", "one more {s}", "another {s}"),
    *("{n} and {m} {v}", "{n} {v} and {m} {w}", "{n} and {m}", "{n}", "{n} next to {m}"),
)
"""What asks for no change, or for one that is beyond the facts of an `Ask`."""
_NEGATED = ("do not", "don t", "never", "please do not", "please don t", "you should not")
_VERBS = frozenset(
    "make change turn paint colour color recolour recolor remove delete erase shrink enlarge replace"
    " swap transform convert grow reduce fill set take get drop wipe".split()
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
    return unmarked(marked_words(ask, rng, scene))


def marked_words(ask: Ask, rng: np.random.Generator, scene: Scene | None) -> str:
    """Put an ask into words, those marked that name what is meant or what it becomes."""
    if ask.kind == "nothing":
        return ""
    if ask.kind == "background":
        new = mark(pick(rng, BACKGROUND_WORDS[str(ask.new_background)]), MARKS[1])
        form = pick(rng, _GROUNDED)
        old = scene.background if scene else None
        if "{o}" in form and old in (None, ask.new_background):
            form = _GROUNDED[0]
        return form.format(g=pick(rng, _GROUNDS), v=new, o=old)
    noun = _noun(ask, rng)
    bare = (
        noun.split(" ", 1)[1]
        if noun.split()[0] in ("the", "a", "this", "that") and " " in noun
        else noun
    )
    if bare in ("it", "this", "that"):
        bare = "shape"
    noun, bare = mark(noun, MARKS[0]), mark(bare, MARKS[0])
    kind = pick(rng, SHAPE_WORDS[ask.shape]) if ask.shape else "one"
    if ask.kind == "remove":
        return pick(rng, _REMOVED).format(n=noun, b=bare)
    if ask.kind == "size":
        forms: Sequence[str] = _SMALLER if ask.new_size == "small" else _LARGER
        if rng.random() < 0.5:
            forms = _SIZED
        new = mark(pick(rng, SIZE_WORDS[str(ask.new_size)]), MARKS[1])
        return pick(rng, forms).format(n=noun, b=bare, v=new, s=kind)
    if ask.kind == "colour":
        new = mark(pick(rng, COLOUR_WORDS[str(ask.new_colour)]), MARKS[1])
        old = ask.colour
        by_colour, by_shape = (
            ask == Ask("colour", new_colour=ask.new_colour, **{fact: named}) and named
            for fact, named in (("colour", old), ("shape", ask.shape))
        )
        if by_colour and rng.random() < 0.4:
            return pick(rng, _TURNED).format(o=mark(by_colour, MARKS[0]), v=new)
        if by_shape and rng.random() < 0.1:
            return pick(rng, _WANTED).format(v=new, s=mark(kind, MARKS[0]))
        form = pick(rng, _COLOURED if rng.random() < 0.6 else _FROM_COLOUR)
        if "{o}" in form:
            if old in (None, ask.new_colour):
                form = _COLOURED[0]
            elif rng.random() < 0.6:  # what it was need not be said twice
                noun = mark(_noun(replace(ask, colour=None), rng), MARKS[0])
        return form.format(n=noun, v=new, o=mark(str(old), MARKS[0]), s=kind)
    new = pick(rng, SHAPE_WORDS[str(ask.new_shape)])
    qualities = [
        *([pick(rng, SIZE_WORDS[ask.new_size])] if ask.new_size else ()),
        *([pick(rng, COLOUR_WORDS[ask.new_colour])] if ask.new_colour else ()),
    ]
    if qualities:
        new = mark(" ".join([*qualities, new]), MARKS[1])
        return pick(rng, _SHAPED).format(n=noun, v=new)
    form = pick(rng, _SHAPED if rng.random() < 0.8 else _SHAPED_BARE)
    return form.format(n=noun, v=mark(new, MARKS[1]))


def beyond(asks: Sequence[Ask], rng: np.random.Generator) -> str:
    """Ask for what the facts of an `Ask` cannot say: to leave something as it is, two changes at once,
    another kind of change.

    Inputs:
        asks: two asks, about things.
    """
    words = [word(replace(ask, place=None), rng) for ask in asks]
    draw = rng.random()
    if draw < 0.5 and words[0].split()[0] in _VERBS:
        if draw < 0.3:
            return f"{pick(rng, _NEGATED)} {words[0]}"
        return f"{words[0]} {pick(rng, ('and', 'and', 'and then', 'but', ','))} {words[1]}"
    one, other = (unmarked(_noun(ask, rng)) for ask in asks)
    colours = [pick(rng, pick(rng, tuple(COLOUR_WORDS.values()))) for _ in asks]
    return pick(rng, _BEYOND).format(
        n=one,
        m=other,
        v=colours[0],
        w=colours[1],
        s=pick(rng, pick(rng, tuple(SHAPE_WORDS.values()))),
        p=pick(rng, PLACES),
        g=pick(rng, pick(rng, tuple(BACKGROUND_WORDS.values()))),
    )


def _noun(ask: Ask, rng: np.random.Generator) -> str:
    """Name the thing that an ask means."""
    if ask == Ask(ask.kind, **_becoming(ask)):
        return pick(rng, ("it", "it", "the shape", "the thing", "this", "the object", "that"))
    size = pick(rng, SIZE_WORDS[ask.size]) if ask.size else ""
    colour = pick(rng, COLOUR_WORDS[ask.colour]) if ask.colour else ""
    shape = (
        pick(rng, SHAPE_WORDS[ask.shape])
        if ask.shape
        else pick(rng, ("one", "one", "shape", "thing", "object"))
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
        words = pick(rng, forms).format(p=pick(rng, side), w=words, on=on)
    article = "the" if rng.random() < 0.88 else pick(rng, ("", "", "a", "that", "this"))
    return " ".join(f"{article} {words}".split())


def _becoming(ask: Ask) -> dict[str, str | None]:
    return {
        name: getattr(ask, name)
        for name in ("new_size", "new_colour", "new_shape", "new_background")
    }


def loosely(words: str, rng: np.random.Generator) -> str:
    """Add what changes no meaning: courtesy, and a word that no model knows."""
    if rng.random() < 0.15:
        words = f"{pick(rng, _BEFORE)} {words}"
    if rng.random() < 0.1:
        words = f"{words} {pick(rng, _AFTER)}"
    parts = words.split()
    if rng.random() < 0.06 and "the\x01" in parts:
        # an adjective: elsewhere a word might take the place of one that matters
        parts.insert(parts.index("the\x01") + 1, pick(rng, ("shiny", "pretty", "unheard")) + "\x01")
    return " ".join(parts)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def mark(words: str, mark: str) -> str:
    return " ".join(part + mark for part in words.split())


def unmarked(words: str) -> str:
    return words.translate(dict.fromkeys(map(ord, MARKS)))
