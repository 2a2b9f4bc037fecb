"""Describe scenes in the words that people type: many forms of one sentence, drawn from a seed.

Training on one phrasing gives a model that understands one phrasing. `describe` varies the opening,
the order of the clauses, articles, synonyms and the wording of the background and of the relation.
It also leaves facts out, names shapes that are absent ("no star") and uses words that no model
knows, so that a model learns to sample what a prompt does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, MIRROR, SHAPES, SIZES, Scene, Thing

SIZE_WORDS = {
    "small": ("small", "small", "small", "little", "tiny", "mini", "smallish"),
    "large": ("large", "large", "large", "big", "big", "huge", "giant", "enormous", "massive"),
}
COLOUR_WORDS = {
    **{name: (name,) for name in COLOURS},
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "green": ("green", "green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "blue", "navy"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "gold"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "pink": ("pink", "pink", "pink", "pink", "rosy"),
}
SHAPE_WORDS = {
    **{name: (name,) for name in SHAPES},
    "circle": ("circle", "circle", "circle", "circle", "disc", "disk", "dot", "ball"),
    "square": ("square", "square", "square", "box"),
    "diamond": ("diamond", "diamond", "rhombus", "lozenge"),
    "cross": ("cross", "cross", "cross", "plus", "plus sign"),
}
PLURALS = {
    **{name: (f"{name}s",) for name in SHAPES},
    "circle": ("circles", "circles", "discs", "dots"),
    "square": ("squares", "squares", "boxes"),
    "cross": ("crosses",),
}
BACKGROUND_WORDS = {
    **{name: (name,) for name in BACKGROUNDS},
    "gray": ("gray", "grey"),
}
UNKNOWN = ("rectangle", "beige", "medium", "dark", "pretty", "hexagon", "shiny", "teapot", "bright")
"""Words outside the vocabulary. All of them reach a model as `<unk>`."""

_RELATION_WORDS = {
    "left of": (
        *("left of", "left of", "to the left of", "to the left of", "on the left of"),
        *("on the left side of", "left from", "at the left of"),
    ),
    "right of": (
        *("right of", "right of", "to the right of", "to the right of", "on the right of"),
        *("on the right side of", "right from", "at the right of"),
    ),
    "above": ("above", "above", "over", "on top of", "higher than", "up above", "atop"),
    "below": ("below", "below", "under", "underneath", "beneath", "lower than"),
}
_OPEN_RELATION_WORDS = (
    *("and", "and", "and", "with", "next to", "beside", "near", "close to", "by", ""),
    *(",", ",", ",", ",", ",", ",", ", and", "and also", "along with", "together with", ", then"),
)
_SIDES = {
    "left of": (
        *("on the left", "on the left", "at the left", "on the left side", "to the left"),
        *("in the left half", "left", "on the left hand side", "far left"),
    ),
    "right of": (
        *("on the right", "on the right", "at the right", "on the right side", "to the right"),
        *("in the right half", "right", "on the right hand side", "far right"),
    ),
    "above": (
        *("at the top", "at the top", "on top", "in the upper half", "at the upper edge"),
        *("in the top half", "top", "up top", "at the very top"),
    ),
    "below": (
        *("at the bottom", "at the bottom", "on the bottom", "in the lower half"),
        *("at the lower edge", "in the bottom half", "bottom", "at the very bottom"),
    ),
}
_POINTERS = {
    "left of": (
        *("on its left", "to its left", "left of it", "on the left of it", "to the left of it"),
        *("to the left of that", "on its left side"),
    ),
    "right of": (
        *("on its right", "to its right", "right of it", "on the right of it"),
        *("to the right of it", "to the right of that", "on its right side"),
    ),
    "above": ("above it", "over it", "on top of it", "above that"),
    "below": (
        "below it",
        "under it",
        "beneath it",
        "underneath it",
        "below that",
        "underneath that",
    ),
}
_ORDERS = {
    "left of": ("from left to right", "left to right"),
    "right of": ("from right to left", "right to left"),
    "above": ("from top to bottom", "top to bottom"),
    "below": ("from bottom to top", "bottom to top"),
}
_OPENINGS = (
    *("a picture of", "an image of", "a drawing of", "picture of", "draw", "please draw"),
    *("show me", "there is", "i want", "give me", "paint", "create an image of", "render"),
    *("can you draw", "make a picture with", "we see", "a painting showing", "this is"),
    *("could you draw", "i would like", "i d like to see", "there s", "generate", "make me"),
    *("please make", "a sketch of", "an illustration of", "a simple image with", "imagine"),
    *("please give me", "draw me", "can you please make", "i need", "here is", "put", "create"),
    *("the picture shows", "a photo of", "photo of", "image :", "picture :", "place"),
)
_ENDINGS = (
    *("please", ", please", ", thanks", ", thank you", ", nothing else", "and nothing else"),
    *("only", ", that s all", "somewhere"),
)
_FILLERS = ("very", "really", "quite", "nice", "simple", "plain", "solid", "flat", "just", "some")
_VERBS = ("is", "is", "sits", "stands", "lies", "is placed", "that is", "which is", "located")
_NEARLY = ("directly", "just", "immediately", "exactly", "placed", "sitting", "located", "slightly")
_GROUNDS_AFTER = (
    *("on a {} background", "on a {} background", "on {}", "on {} ground", "on a {} ground"),
    *("against a {} background", "over a {} background", "in front of a {} background"),
    *("with a {} background", "{} background", "the background is {}", "background {}"),
    *("and the background is {}", "on a {} backdrop", "against {}", "all on {}", "both on {}"),
    *("where the background is {}", "before a {} background", "on a {} canvas"),
    *(", {} background", ", {} background", ", {}", ", on {}", ", on a {} background"),
    *(", background {}", ", background : {}", "( {} background )", ", the background is {}"),
    *("on a plain {} background", "on {} paper", "in front of a {} wall", "with {} behind"),
    *("with {} as the background", "on a background that is {}", "on a background of {}"),
    *(", background colour {}", ", {} bg", ", everything on {}", "on a {} surface"),
    *(
        "and a {} background",
        "its background is {}",
        "the background {}",
        ", {} backdrop",
        ", against {}",
        "the background should be {}",
    ),
    *("on the {} background", "on an all {} background", "over {}", "( on {} )"),
)
_GROUNDS_BEFORE = (
    *("on a {} background", "on {}", "{} background with", "a {} background with"),
    *("on a {} background there is", "the background is {} and there is", "{} background"),
    *("against a {} background", "in front of a {} background", "on a {} ground", "on a {} canvas"),
    *("on a {} background ,", "on a {} background ,", "on {} ,", "on {} :", "{} background :"),
    *("{} background ,", "background {} ,", "background : {} ,", "against {} ,", "{} :", "{} ,"),
    *("a {} canvas with", "the background is {} and it shows", "over a {} backdrop ,"),
    *("in front of a {} wall ,", "with a {} background ,", "{} backdrop ,", "on {} paper ,"),
    *("the background should be {} ,", "the background is {} ,", "use a {} background :"),
)
_GROUNDS_AROUND = (
    *("a {} background picture with", "a {} picture with", "a {} image with", "a {} scene with"),
    *("{} background picture of", "a {} canvas showing", "a {} image of", "{} picture with"),
    *("a picture with {} background and", "an image with a {} background showing"),
    *("a {} card with", "a {} square picture with", "a {} page with", "a picture on {} with"),
)
"""The background as a quality of the picture. A size that stands there is the picture's own."""
_ABSENT_BEFORE = (
    *("no {}", "no {} just", "without a {}", "not a {} but", "without any {}", "no {} only"),
    *("no {} ,", "not a {} ,", "instead of a {}", "no {} , just"),
)
_ABSENT_AFTER = (
    *("no {}", "and no {}", "without a {}", "without any {}", "but no {}", "not a {}"),
    *(", no {}", ", not a {}", ", without a {}", "instead of a {}", ", but no {}"),
)

INSTRUCTION_WORDS = (
    *("make", "change", "turn", "into", "to", "remove", "delete", "erase", "smaller", "larger"),
    *("bigger", "colour", "color", "recolour", "recolor", "paint", "fill", "get", "rid", "take"),
    *("away", "replace", "swap", "by", "with", "from", "become", "be", "should", "set", "shrink"),
    *("grow", "enlarge", "reduce", "transform", "switch", "for", "instead", "drop", "shape"),
    *("coloured", "colored", "size", "sized", "out", "give", "as", "new", "so", "that", "please"),
    *("wipe", "clear", "repaint", "convert", "smallest", "increase", "decrease", "more", "less"),
    *("lose", "keep", "leave", "tint", "dye", "must", "needs", "now", "one", "blow", "scale"),
)


def _vocabulary() -> tuple[str, ...]:
    tables = (SIZE_WORDS, COLOUR_WORDS, SHAPE_WORDS, PLURALS, BACKGROUND_WORDS)
    placed = (_RELATION_WORDS, _SIDES, _POINTERS, _ORDERS)
    phrases = [
        phrase for table in (*tables, *placed) for words in table.values() for phrase in words
    ]
    phrases += [*_OPEN_RELATION_WORDS, *_OPENINGS, *_ENDINGS, *_FILLERS, *_VERBS, *_NEARLY]
    phrases += [*_GROUNDS_AFTER, *_GROUNDS_BEFORE, *_GROUNDS_AROUND]
    phrases += INSTRUCTION_WORDS
    phrases += ["a an the one single no without any not other second first two things shapes both"]
    phrases += ["in of colour color coloured colored it its has contains scene simple flat just"]
    phrases += ["while shape and but where are inside placed only round here there side"]
    phrases += ["middle centre center alone by itself three four third all another each them they"]
    phrases += ["at on its also being thing object objects figure ones shaped painted if or than"]
    phrases += ["then under between"]
    words = [word for phrase in phrases for word in phrase.replace("{}", " ").split()]
    read_as = {"grey": "gray", ":": ",", "(": ",", ")": ","}
    return tuple(dict.fromkeys(read_as.get(word, word) for word in words))


VOCABULARY = _vocabulary()
"""Every word that the embedded models know, of prompts and of instructions; `grey` is read as
`gray`, and all marks between words as a comma."""

FACTS = ("background", "arrangement", "size", "colour", "shape")
_PUNCTUATION = (",", ":", "(", ")")
_MARKS = "\x01\x02"
"""Put behind each word of the first and of the second noun while a text is made."""


@dataclass(frozen=True)
class Description:
    """A text and the scene with its things in the order in which the text names them. ``owners``
    says of each word what it is about: 0 the scene, 1 the first thing, 2 the second. ``told`` holds
    the facts that the text tells, a thing's behind its number (``1.size``).
    """

    text: str
    scene: Scene
    owners: tuple[int, ...]
    told: frozenset[str] = frozenset()


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
    told = {f"{number}.{fact}" for number in (1, 2)[: len(things)] for fact in FACTS[2:]}
    told |= {"background", "arrangement"}
    terse = rng.random() < 0.22
    body = _alone(named, rng, told, terse) if len(things) == 1 else _pair(named, rng, told, terse)
    body = _grounded(body, named, rng, told)
    if rng.random() < 0.06:
        absent = [s for s in SHAPES if s not in {thing.shape for thing in things}]
        word = _pick(rng, SHAPE_WORDS[_pick(rng, absent)])
        if rng.random() < 0.5:
            body = [_pick(rng, _ABSENT_BEFORE).format(word), *body]
        else:
            body.append(_pick(rng, _ABSENT_AFTER).format(word))
    if rng.random() < 0.07:
        body.append(_pick(rng, _ENDINGS))
    words = " ".join(filter(None, body)).split(" ")
    for chance, some in ((0.08, UNKNOWN), (0.06, _FILLERS)):
        if rng.random() < chance:
            words.insert(int(rng.random() * (len(words) + 1)), _pick(rng, some))
    if rng.random() < 0.35:  # many type no marks
        words = [word for word in words if word.strip(_MARKS) not in _PUNCTUATION]
    return _finished(words, named, told)


def babble(described: Description, other: Description, rng: np.random.Generator) -> str:
    """Make a text of known words that no picture of the world can follow: one that asks for more
    than two things, contradicts itself, instructs, or has no order.
    """
    words = described.text.split()
    draw = rng.random()
    thing = other.scene.things[0]
    noun = f"a {_pick(rng, SIZE_WORDS[thing.size])} {thing.colour} {thing.shape}"
    if draw < 0.4:  # a third thing, or a second and a third
        more = other.text.split()
        if rng.random() < 0.5 or len(described.scene.things) == 2:
            more = noun.split()
        if len(described.scene.things) == 1:
            more = [*more, "and", *_told_again(other, rng)]
        link = _pick(rng, ("and", ",", "with", "next to", "and also", "below", "above", "left of"))
        after = max((n for n, owner in enumerate(described.owners) if owner), default=0) + 1
        at = after if rng.random() < 0.6 else len(words)
        return " ".join([*words[:at], link, *more, *words[at:]])
    if draw < 0.5:
        count = _pick(rng, ("three", "four", "three different", "many", "no", "five"))
        return f"{count} {_pick(rng, PLURALS[thing.shape])} on {other.scene.background}"
    if draw < 0.7:  # two colours, sizes, shapes or backgrounds for one thing
        rivals = (tuple(COLOURS), SHAPES, tuple(BACKGROUNDS))[int(rng.integers(3))]
        where = [n for n, word in enumerate(words) if word in rivals]
        if where:
            at = where[int(rng.integers(len(where)))]
            other_words = [word for word in rivals if word != words[at]]
            joined = f"{_pick(rng, ('or', 'that is a'))} " if rivals == SHAPES else ""
            words.insert(at + 1, joined + _pick(rng, other_words))
            return " ".join(words)
    if draw < 0.85:
        change = _pick(rng, ("make", "turn", "change", "remove", "paint", "replace"))
        return f"{change} the {thing.shape} {_pick(rng, (*COLOURS, *SIZES, 'to the left'))}"
    rng.shuffle(words)
    return " ".join(words[: max(3, len(words) - 2)])


def _told_again(described: Description, rng: np.random.Generator) -> list[str]:
    thing = described.scene.things[-1]
    return ["a", _pick(rng, COLOUR_WORDS[thing.colour]), _pick(rng, SHAPE_WORDS[thing.shape])]


def _canonical(scene: Scene) -> Description:
    nouns = [
        f"{'an' if thing.size[0] in 'aeiou' else 'a'} {thing.size} {thing.colour} {thing.shape}"
        for thing in scene.things
    ]
    marked = [_marked(noun, number) for number, noun in enumerate(nouns)]
    between = f" {scene.relation} " if scene.relation else ""
    told = {f"{number}.{fact}" for number in (1, 2)[: len(nouns)] for fact in FACTS[2:]}
    return _finished(
        [*between.join(marked).split(" "), *f"on a {scene.background} background".split()],
        scene,
        told | {"background", "arrangement"},
    )


def _grounded(body: list[str], scene: Scene, rng: np.random.Generator, told: set[str]) -> list[str]:
    """Add the background and an opening, in either order, or leave them out."""
    ground = _pick(rng, BACKGROUND_WORDS[scene.background])
    opening = [_pick(rng, _OPENINGS)] if rng.random() < 0.35 else []
    if rng.random() < 0.02:
        ground = _pick(rng, UNKNOWN)
        told.discard("background")
    draw = rng.random()
    if draw < 0.58:
        form = _pick(rng, _GROUNDS_AFTER)
        if len(scene.things) == 1:
            form = form.replace("both ", "").replace("all ", "")
        return [*opening, *body, form.format(ground)]
    if draw < 0.80:
        words = _pick(rng, _GROUNDS_BEFORE).format(ground)
        return [words, *opening, *body] if rng.random() < 0.5 else [*opening, words, *body]
    if draw < 0.87:
        words = _pick(rng, _GROUNDS_AROUND).format(ground)
        if words.startswith("a ") and rng.random() < 0.3:
            words = f"a {_pick(rng, SIZE_WORDS[_pick(rng, SIZES)])} {words[2:]}"
        return [words, *body]
    told.discard("background")
    return [*opening, *body]


def _marked(noun: str, number: int) -> str:
    words = noun.split()
    return " ".join(word + (_MARKS[number] if word not in _PUNCTUATION else "") for word in words)


def _finished(words: Sequence[str], scene: Scene, told: set[str]) -> Description:
    kept: list[str] = []
    for word in filter(None, words):
        if word not in _PUNCTUATION or (kept and kept[-1] not in _PUNCTUATION):
            kept.append(word)
    while kept[-1] in _PUNCTUATION:  # no tokenizer sees it there
        kept.pop()
    owners = tuple(_MARKS.find(word[-1]) + 1 for word in kept)
    text = " ".join(word.strip(_MARKS) for word in kept)
    return Description(text, scene, owners, frozenset(told))


def _alone(scene: Scene, rng: np.random.Generator, told: set[str], terse: bool) -> list[str]:
    noun = _marked(_noun(scene.things[0], rng, told, 1, terse=terse), 0)
    draw = rng.random()
    if draw < 0.7:
        return [noun]
    if draw < 0.85:
        where = ("in the middle", "in the centre", "in the center", "alone", ", alone", "by itself")
        return [noun, _pick(rng, where)]
    return [_pick(rng, ("just", "only", "a scene with", "there is only")), noun]


def _pair(scene: Scene, rng: np.random.Generator, told: set[str], terse: bool) -> list[str]:
    first, second = scene.things
    relation = str(scene.relation)
    mirrored = MIRROR[relation]
    draw = rng.random()
    shared, facts = _shared(scene, rng) if rng.random() < 0.12 else ([], ())
    a = _marked(_noun(first, rng, told, 1, short=bool(shared), terse=terse), 0)
    b = _marked(_noun(second, rng, told, 2, after=first, short=bool(shared), terse=terse), 1)
    told.update(f"{number}.{fact}" for fact in facts for number in (1, 2))
    if draw < 0.28:  # a left of b
        verb = _pick(rng, _VERBS) if rng.random() < 0.3 else ""
        nearly = _pick(rng, _NEARLY) if rng.random() < 0.12 else ""
        comma = "," if rng.random() < 0.12 else ""
        return [*shared, a, comma, verb, nearly, _pick(rng, _RELATION_WORDS[relation]), b]
    if draw < 0.46:  # a on the left and b on the right; one of the sides may be left out
        return [*shared, *_on_sides(a, b, relation, rng)]
    if draw < 0.57:  # left of a is b
        link = _pick(rng, ("is", "there is", "", "we see", "stands", "sits", ",", ": ", "there s"))
        return [*shared, _pick(rng, _RELATION_WORDS[mirrored]), a, link.strip(), b]
    if draw < 0.72:  # a with b on its right
        pointer = _pick(rng, _POINTERS[mirrored])
        link = _pick(rng, ("with", "and", "has", "", ",", ", and", ", with"))
        if rng.random() < 0.4 and (link or " " in pointer):
            comma = _pick(rng, ("", "", "is", "there is", ",", "sits"))
            return [*shared, a, link, pointer, comma, b]
        if link and relation in ("above", "below") and rng.random() < 0.3:
            pointer = pointer.split()[0].replace("on", "above")
        verb = _pick(rng, ("", "", "", "is", "sitting")) if link != "has" else ""
        return [*shared, a, link, b, verb, pointer]
    if draw < 0.76:  # from left to right, a, b
        order = _pick(rng, _ORDERS[relation])
        link = _pick(rng, (",", "and", "then", ", then", ""))
        return [order, _pick(rng, ("", ",", ":")), a, link, b]
    if draw < 0.82:  # a and b, the circle is left of the square
        return [*shared, a, _pick(rng, ("and", ",", "with")), b, *_named_again(scene, rng, told)]
    told.discard("arrangement")
    if relation in ("left of", "right of") and rng.random() < 0.1:
        return [a, "and", b, "side by side"]
    count = _pick(rng, ("", "", "", "two shapes", "two things", "two shapes :"))
    return [*(shared or [count]), a, _pick(rng, _OPEN_RELATION_WORDS), b]


def _on_sides(a: str, b: str, relation: str, rng: np.random.Generator) -> list[str]:
    sides = [_pick(rng, _SIDES[relation]), _pick(rng, _SIDES[MIRROR[relation]])]
    link = _pick(rng, ("and", "and", "", "with", "while", ",", ",", ", and"))
    if link and rng.random() < 0.3:
        sides[int(rng.random() * 2)] = ""
    verbs = [_pick(rng, ("", "", "is")) if side else "" for side in sides]
    draw = rng.random()
    if draw < 0.4:
        return [a, verbs[0], sides[0], link, b, verbs[1], sides[1]]
    if draw < 0.85:
        marks = [_pick(rng, ("", "", ",", ":")) if side else "" for side in sides]
        if not any(marks):
            marks = verbs
        return [sides[0], marks[0], a, link, sides[1], marks[1], b]
    if draw < 0.93:  # two orders mixed: on the left a, and b on the right
        return [sides[0], a, link or ",", b, sides[1]]
    comma = _pick(rng, (",", "and"))
    return [a, "(", sides[0] or "here", ")", comma, b, "(", sides[1] or "there", ")"]


def _named_again(scene: Scene, rng: np.random.Generator, told: set[str]) -> list[str]:
    """Say where things named before stand, by their shapes or colours if those differ."""
    first, second = scene.things
    for fact, names in (
        ("shape", [first.shape, second.shape]),
        ("colour", [f"{first.colour} one", f"{second.colour} one"]),
        ("size", [f"{first.size} one", f"{second.size} one"]),
    ):
        if names[0] != names[1] and {f"1.{fact}", f"2.{fact}"} <= told and rng.random() < 0.7:
            break
    else:
        names = ["first", "second"]
    marked = [_marked(f"the {name}", number) for number, name in enumerate(names)]
    relation = str(scene.relation)
    if rng.random() < 0.5:
        marked, relation = marked[::-1], MIRROR[relation]
    verb = _pick(rng, ("is", "is", "", "sits", "being"))
    if rng.random() < 0.6:
        return [",", marked[0], verb, _pick(rng, _RELATION_WORDS[relation]), marked[1]]
    sides = [_pick(rng, _SIDES[relation]), _pick(rng, _SIDES[MIRROR[relation]])]
    if rng.random() < 0.5:
        return [",", marked[0], verb, sides[0]]
    return [",", marked[0], verb, sides[0], _pick(rng, (",", "and")), marked[1], verb, sides[1]]


def _shared(scene: Scene, rng: np.random.Generator) -> tuple[list[str], Sequence[str]]:
    """Count two things by what they share, before each is named; and list what of it is said."""
    first, second = scene.things
    facts = [fact for fact in FACTS[2:] if getattr(first, fact) == getattr(second, fact)]
    words = {
        "size": _pick(rng, SIZE_WORDS[first.size]),
        "colour": _pick(rng, COLOUR_WORDS[first.colour]),
        "shape": _pick(rng, PLURALS[first.shape]),
    }
    facts = [fact for fact in facts if fact == "shape" or rng.random() < 0.5]
    said = [words[fact] for fact in facts]
    if "shape" not in facts:
        said.append(_pick(rng, ("shapes", "things", "objects")))
    return ["two", *said, _pick(rng, (",", ":", ",", ""))], facts


def _noun(
    thing: Thing,
    rng: np.random.Generator,
    told: set[str],
    number: int,
    *,
    after: Thing | None = None,
    short: bool = False,
    terse: bool = False,
) -> str:
    """Name a thing; after a thing of the same shape, sometimes only as "one". What is left out is
    taken from ``told``.

    Params:
        short: a word before said what two things share.
        terse: no article, as in a note.
    """
    size = _pick(rng, SIZE_WORDS[thing.size]) if rng.random() < 0.88 else ""
    colour = _pick(rng, COLOUR_WORDS[thing.colour]) if rng.random() < 0.96 else ""
    shape = _pick(rng, SHAPE_WORDS[thing.shape])
    named = True
    if rng.random() < 0.03:
        shape, named = _pick(rng, ("shape", "thing", "object")), False
    elif (
        after is not None and after.shape == thing.shape and rng.random() < (0.7 if short else 0.4)
    ):
        shape = _pick(rng, ("one", "one", "other one" if rng.random() < 0.2 else "one"))
    elif rng.random() < 0.03:
        shape = f"{shape} shape" if rng.random() < 0.5 else f"{shape} shaped object"
    draw = rng.random()
    if draw < 0.02:
        size = _pick(rng, UNKNOWN)
    elif draw < 0.03:
        colour = _pick(rng, UNKNOWN)
    elif draw < 0.04:
        shape, named = _pick(rng, UNKNOWN), False
    for fact, given in (("size", size), ("colour", colour), ("shape", named and shape)):
        if not given or given in UNKNOWN:
            told.discard(f"{number}.{fact}")
    words = _arranged(size, colour, shape, rng)
    draw = rng.random()
    if terse:
        return words
    if draw < 0.74:
        article = "an" if words.strip()[0] in "aeiou" else "a"
    else:
        article = "" if draw < 0.84 else "the" if draw < 0.92 else _pick(rng, ("one", "a single"))
    return f"{article} {words}"


def _arranged(size: str, colour: str, shape: str, rng: np.random.Generator) -> str:
    form = rng.random()
    if form < 0.60 or not (size or colour):
        return f"{size} {colour} {shape}"
    if form < 0.66:
        comma = _pick(rng, (",", ",", "and", "")) if size and colour else ""
        return f"{size} {comma} {colour} {shape}"
    if form < 0.71:
        return f"{colour} {size} {shape}"
    if form < 0.78 and size:
        return f"{colour} {shape} {_pick(rng, ('that is', 'which is', 'is', 'that s', ','))} {size}"
    if form < 0.86 and colour:
        links = ("in", "coloured", "colored", "that is", "of colour", "is", "painted", ",")
        return f"{size} {shape} {_pick(rng, links)} {colour}"
    if form < 0.95:
        both = [size, colour] if rng.random() < 0.5 else [colour, size]
        start = _pick(rng, ("", ",", ",", "that is", "which is", "("))
        link = _pick(rng, ("and", "and", ",", ""))
        end = {",": _pick(rng, ("", ",")), "(": ")"}.get(start, "")
        if not all(both):
            link = ""
        return f"{shape} {start} {both[0]} {link} {both[1]} {end}"
    if size and form < 0.975:
        return f"{size} sized {colour} {shape}"
    return f"{size} {colour} {_pick(rng, ('coloured', 'colored'))} {shape}"


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


def twinned(scene: Scene) -> Scene:
    """Make the second of two things like the first in colour and shape, of the other size."""
    first, second = scene.things
    size = SIZES[1 - SIZES.index(first.size)]
    return replace(
        scene, things=(first, replace(second, size=size, colour=first.colour, shape=first.shape))
    )


__all__ = [
    "SIZES",
    "UNKNOWN",
    "VOCABULARY",
    "Description",
    "babble",
    "describe",
    "twinned",
]
