"""Describe scenes in the words that people type: many forms of one sentence, drawn from a seed.

Training on one phrasing gives a model that understands one phrasing. `describe` varies the opening,
the order of the clauses, articles, synonyms and the wording of the background and of the relation.
It also leaves facts out, names shapes that are absent ("no star") and uses words that no model
knows, so that a model learns to sample what a prompt does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, MIRROR, SHAPES, SIZES, Scene, Thing

SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge", "giant"),
}
COLOUR_WORDS = {
    **{name: (name,) for name in COLOURS},
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
}
SHAPE_WORDS = {
    **{name: (name,) for name in SHAPES},
    "circle": ("circle", "circle", "circle", "disc", "disk", "dot", "ball"),
    "square": ("square", "square", "square", "box"),
    "diamond": ("diamond", "diamond", "rhombus", "lozenge"),
    "cross": ("cross", "cross", "plus", "plus sign"),
}
BACKGROUND_WORDS = {
    **{name: (name,) for name in BACKGROUNDS},
    "gray": ("gray", "grey"),
}
UNKNOWN = ("rectangle", "beige", "medium", "really", "pretty", "hexagon", "shiny", "teapot", "very")
"""Words outside the vocabulary. All of them reach a model as `<unk>`."""

_RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of", "left from"),
    "right of": (
        "right of",
        "to the right of",
        "on the right of",
        "on the right side of",
        "right from",
    ),
    "above": ("above", "over", "on top of", "higher than", "up above"),
    "below": ("below", "under", "underneath", "beneath", "lower than"),
}
_OPEN_RELATION_WORDS = ("and", "and", "with", "next to", "beside", "near", "close to", "")
_SIDES = {
    "left of": (
        "on the left",
        "at the left",
        "on the left side",
        "to the left",
        "in the left half",
        "left",
    ),
    "right of": (
        "on the right",
        "at the right",
        "on the right side",
        "to the right",
        "in the right half",
        "right",
    ),
    "above": (
        "at the top",
        "on top",
        "in the upper half",
        "at the upper edge",
        "in the top half",
        "top",
    ),
    "below": (
        "at the bottom",
        "on the bottom",
        "in the lower half",
        "at the lower edge",
        "in the bottom half",
        "bottom",
    ),
}
_POINTERS = {
    "left of": ("on its left", "to its left", "left of it", "on the left of it"),
    "right of": ("on its right", "to its right", "right of it", "on the right of it"),
    "above": ("above it", "over it", "on top of it"),
    "below": ("below it", "under it", "beneath it", "underneath it"),
}
_OPENINGS = (
    *("a picture of", "an image of", "a drawing of", "picture of", "draw", "please draw"),
    *("show me", "there is", "i want", "give me", "paint", "create an image of", "render"),
    *("can you draw", "make a picture with", "we see", "a painting showing", "this is"),
)
_VERBS = ("is", "is", "sits", "stands", "lies", "is placed", "that is", "which is", "located")
_GROUNDS_AFTER = (
    *("on a {} background", "on a {} background", "on {}", "on {} ground", "on a {} ground"),
    *("against a {} background", "over a {} background", "in front of a {} background"),
    *("with a {} background", "{} background", "the background is {}", "background {}"),
    *("and the background is {}", "on a {} backdrop", "against {}", "all on {}", "both on {}"),
    *("where the background is {}", "before a {} background", "on a {} canvas"),
)
_GROUNDS_BEFORE = (
    *("on a {} background", "on {}", "{} background with", "a {} background with"),
    *("on a {} background there is", "the background is {} and there is", "{} background"),
    *("against a {} background", "in front of a {} background", "on a {} ground", "on a {} canvas"),
)
_ABSENT_BEFORE = (
    "no {}",
    "no {} just",
    "without a {}",
    "not a {} but",
    "without any {}",
    "no {} only",
)
_ABSENT_AFTER = ("no {}", "and no {}", "without a {}", "without any {}", "but no {}", "not a {}")

INSTRUCTION_WORDS = (
    *("make", "change", "turn", "into", "to", "remove", "delete", "erase", "smaller", "larger"),
    *("bigger", "colour", "color", "recolour", "recolor", "paint", "fill", "get", "rid", "take"),
    *("away", "replace", "swap", "by", "with", "from", "become", "be", "should", "set", "shrink"),
    *("grow", "enlarge", "reduce", "transform", "switch", "for", "instead", "drop", "shape"),
    *("coloured", "colored", "size", "sized", "out", "give", "as", "new", "so", "that", "please"),
)


def _vocabulary() -> tuple[str, ...]:
    tables = (SIZE_WORDS, COLOUR_WORDS, SHAPE_WORDS, BACKGROUND_WORDS, _RELATION_WORDS)
    phrases = [phrase for table in tables for words in table.values() for phrase in words]
    phrases += [
        phrase for table in (_SIDES, _POINTERS) for words in table.values() for phrase in words
    ]
    phrases += [*_OPEN_RELATION_WORDS, *_OPENINGS, *_VERBS, *_GROUNDS_AFTER, *_GROUNDS_BEFORE]
    phrases += INSTRUCTION_WORDS
    phrases += ["a an the one single no without any not other second first two things shapes both"]
    phrases += ["in of colour color coloured colored it its has contains scene simple flat just"]
    phrases += ["while shape and but where are inside placed only round here there side"]
    phrases += ["middle centre center alone"]
    words = [word for phrase in phrases for word in phrase.replace("{}", " ").split()]
    return tuple(dict.fromkeys(word for word in words if word != "grey"))


VOCABULARY = _vocabulary()
"""Every word that the embedded models know, of prompts and of instructions; `grey` is read as
`gray`."""


_MARKS = "\x01\x02"
"""Put behind each word of the first and of the second noun while a text is made."""


@dataclass(frozen=True)
class Description:
    """A text and the scene with its things in the order in which the text names them. ``owners``
    says of each word what it is about: 0 the scene, 1 the first thing, 2 the second.
    """

    text: str
    scene: Scene
    owners: tuple[int, ...]


def describe(scene: Scene, rng: np.random.Generator) -> Description:
    """Describe a scene, in the canonical words one time in six, else in one of many forms; facts
    may be left out.
    """
    if rng.random() < 1 / 6:
        return _canonical(scene)
    things = scene.things
    if len(things) == 2 and rng.random() < 0.5:
        things = things[::-1]
    named = Scene(scene.background, things)
    body = _alone(named, rng) if len(things) == 1 else _pair(named, rng)
    ground = _pick(rng, BACKGROUND_WORDS[scene.background])
    if rng.random() < 0.02:
        ground = _pick(rng, UNKNOWN)
    draw = rng.random()
    if draw < 0.62:
        form = _pick(rng, _GROUNDS_AFTER)
        if len(things) == 1:
            form = form.replace("both ", "").replace("all ", "")
        body = [*body, form.format(ground)]
    elif draw < 0.87:
        body = [_pick(rng, _GROUNDS_BEFORE).format(ground), *body]
    if rng.random() < 0.35:
        body = [_pick(rng, _OPENINGS), *body]
    if rng.random() < 0.05:
        absent = [s for s in SHAPES if s not in {thing.shape for thing in things}]
        word = _pick(rng, SHAPE_WORDS[_pick(rng, absent)])
        if rng.random() < 0.5:
            body = [_pick(rng, _ABSENT_BEFORE).format(word), *body]
        else:
            body.append(_pick(rng, _ABSENT_AFTER).format(word))
    words = " ".join(filter(None, body)).split(" ")
    if rng.random() < 0.08:
        words.insert(int(rng.random() * (len(words) + 1)), _pick(rng, UNKNOWN))
    return _finished(words, named)


def _canonical(scene: Scene) -> Description:
    nouns = [
        f"{'an' if thing.size[0] in 'aeiou' else 'a'} {thing.size} {thing.colour} {thing.shape}"
        for thing in scene.things
    ]
    marked = [_marked(noun, number) for number, noun in enumerate(nouns)]
    between = f" {scene.relation} " if scene.relation else ""
    return _finished(
        [*between.join(marked).split(" "), *f"on a {scene.background} background".split()], scene
    )


def _marked(noun: str, number: int) -> str:
    return " ".join(word + _MARKS[number] for word in noun.split())


def _finished(words: Sequence[str], scene: Scene) -> Description:
    kept = [word for word in words if word]
    owners = tuple(_MARKS.find(word[-1]) + 1 for word in kept)
    return Description(" ".join(word.strip(_MARKS) for word in kept), scene, owners)


def _alone(scene: Scene, rng: np.random.Generator) -> list[str]:
    noun = _marked(_noun(scene.things[0], rng), 0)
    draw = rng.random()
    if draw < 0.7:
        return [noun]
    if draw < 0.85:
        return [noun, _pick(rng, ("in the middle", "in the centre", "in the center", "alone"))]
    return [_pick(rng, ("just", "only", "a scene with", "there is only")), noun]


def _pair(scene: Scene, rng: np.random.Generator) -> list[str]:
    first, second = scene.things
    relation = str(scene.relation)
    mirrored = MIRROR[relation]
    a = _marked(_noun(first, rng), 0)
    b = _marked(_noun(second, rng, after=first), 1)
    draw = rng.random()
    if draw < 0.36:  # a left of b
        verb = _pick(rng, _VERBS) if rng.random() < 0.3 else ""
        return [a, verb, _pick(rng, _RELATION_WORDS[relation]), b]
    if draw < 0.54:  # a on the left and b on the right; one of the sides may be left out
        sides = [_pick(rng, _SIDES[relation]), _pick(rng, _SIDES[mirrored])]
        link = _pick(rng, ("and", "and", "", "with", "while"))
        if link and rng.random() < 0.35:
            sides[int(rng.random() * 2)] = ""
        verbs = [_pick(rng, ("", "", "is")) if side else "" for side in sides]
        if rng.random() < 0.5:
            return [a, verbs[0], sides[0], link, b, verbs[1], sides[1]]
        return [sides[0], verbs[0], a, link, sides[1], verbs[1], b]
    if draw < 0.66:  # left of a is b
        link = _pick(rng, ("is", "there is", "", "we see", "stands", "sits"))
        return [_pick(rng, _RELATION_WORDS[mirrored]), a, link, b]
    if draw < 0.84:  # a with b on its right
        pointer = _pick(rng, _POINTERS[mirrored])
        link = _pick(rng, ("with", "and", "has", ""))
        if rng.random() < 0.4:
            return [a, link, pointer, b]
        if link and relation in ("above", "below") and rng.random() < 0.4:
            pointer = pointer.split()[0].replace("on", "above")
        return [a, link, b, pointer]
    count = _pick(rng, ("", "", "two shapes", "two things"))
    return [count, a, _pick(rng, _OPEN_RELATION_WORDS), b]


def _noun(thing: Thing, rng: np.random.Generator, *, after: Thing | None = None) -> str:
    """Name a thing; after a thing of the same shape, sometimes only as "one"."""
    size = _pick(rng, SIZE_WORDS[thing.size]) if rng.random() < 0.88 else ""
    colour = _pick(rng, COLOUR_WORDS[thing.colour]) if rng.random() < 0.96 else ""
    shape = _pick(rng, SHAPE_WORDS[thing.shape]) if rng.random() < 0.97 else "shape"
    if after is not None and after.shape == thing.shape and rng.random() < 0.4:
        shape = "one"
    draw = rng.random()
    if draw < 0.02:
        size = _pick(rng, UNKNOWN)
    elif draw < 0.03:
        colour = _pick(rng, UNKNOWN)
    elif draw < 0.04:
        shape = _pick(rng, UNKNOWN)
    form = rng.random()
    if form < 0.66 or not (size or colour):
        words = f"{size} {colour} {shape}"
    elif form < 0.72:
        words = f"{colour} {size} {shape}"
    elif form < 0.79 and size:
        words = f"{colour} {shape} {_pick(rng, ('that is', 'which is', 'is'))} {size}"
    elif form < 0.86 and colour:
        link = _pick(rng, ("in", "coloured", "colored", "that is", "of colour", "is"))
        words = f"{size} {shape} {link} {colour}"
    elif form < 0.93:
        both = [size, colour] if rng.random() < 0.5 else [colour, size]
        words = f"{shape} {both[0]} {_pick(rng, ('and', '', ''))} {both[1]}"
    else:
        words = f"{size} {colour} {_pick(rng, ('coloured', 'colored', 'sized'))} {shape}"
    draw = rng.random()
    if draw < 0.68:
        article = "an" if words.strip()[0] in "aeiou" else "a"
    else:
        article = "" if draw < 0.82 else "the" if draw < 0.92 else _pick(rng, ("one", "a single"))
    return f"{article} {words}"


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


__all__ = ["SIZES", "UNKNOWN", "VOCABULARY", "Description", "describe"]
