"""What an instruction asks for: the facts of an `Ask`, which things of a scene it may mean, the scene
that it makes, and the words that are read as one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from imagen_flow_embedded.language import COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS
from imagen_flow_embedded.world import Scene

Kind = Literal["nothing", "colour", "shape", "size", "background", "remove"]
PLACES = ("left", "right", "top", "bottom")
OWN_WORDS = (
    *("let", "exchange", "do", "cut", "throw", "go", "hide", "down", "removed", "something"),
    *("don", "anything", "changes", "same", "resize", "double", "different", "ll"),
    *("t", "never", "move", "add", "flip", "touch", "rotate", "transparent", "colours", "blur"),
    *("bit", "much", "copy", "striped", "zoom", "what", "shine", "look", "invert", "outline"),
)
"""Words of instructions that no prompt has."""


_ALIKE = {
    "gray": ("grey",),
    "colour": ("color", "recolour", "recolor", "paint", "repaint", "tint", "dye", "fill"),
    "coloured": ("colored",),
    "remove": (
        *("delete", "erase", "drop", "wipe", "clear", "lose", "hide", "cut", "throw", "kill"),
        *("scrap", "discard", "omit", "gone"),
    ),
    "without": ("no",),
    "change": ("turn", "convert", "transform", "switch", "set", "let"),
    "replace": ("swap", "exchange"),
    "larger": ("bigger", "grow", "enlarge", "increase"),
    "smaller": ("shrink", "reduce", "decrease"),
    "should": ("must", "needs"),
    "please": ("can", "could", "would", "just", "now", "then", "thanks", "thank", "pls", "plz"),
    "want": ("prefer", "wish", "love"),
    "become": ("becomes",),
    "with": ("using",),
    "circle": ("circular",),
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
