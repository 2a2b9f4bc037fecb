"""What instructions mean, and the words they are put into."""

from __future__ import annotations

import numpy as np

from imagen_flow_embedded.asks import NOTHING, OWN_WORDS, Ask, alike, carry_out, meant
from imagen_flow_embedded.instructions import draw_asked
from imagen_flow_embedded.language import UNKNOWN, VOCABULARY
from imagen_flow_embedded.wording import word
from imagen_flow_embedded.world import Scene, Thing, is_held_out

CIRCLE = Thing("small", "red", "circle", 0.25, 0.5)
STAR = Thing("large", "blue", "star", 0.75, 0.5)
SCENE = Scene("black", (CIRCLE, STAR))


def test_an_ask_changes_what_it_means_and_nothing_else():
    """By shape, by colour, by size and by place; the background has no thing."""
    green = Thing("large", "green", "star", 0.75, 0.5)
    assert carry_out(Ask("colour", shape="star", new_colour="green"), SCENE) == Scene(
        "black", (CIRCLE, green)
    )
    assert carry_out(Ask("colour", place="right", new_colour="green"), SCENE) == Scene(
        "black", (CIRCLE, green)
    )
    assert carry_out(Ask("remove", size="large"), SCENE) == Scene("black", (CIRCLE,))
    assert carry_out(Ask("background", new_background="white"), SCENE) == Scene(
        "white", (CIRCLE, STAR)
    )


def test_an_ask_for_what_is_absent_twofold_or_so_already_changes_nothing():
    twins = Scene("black", (CIRCLE, Thing("small", "blue", "circle", 0.75, 0.5)))
    for ask, scene in (
        (Ask("colour", shape="square", new_colour="green"), SCENE),
        (Ask("colour", colour="red", shape="star", new_colour="green"), SCENE),
        (Ask("remove", shape="circle"), twins),
        (Ask("colour", shape="circle", new_colour="red"), SCENE),
        (Ask("background", new_background="black"), SCENE),
    ):
        assert carry_out(ask, scene) == scene
    assert meant(Ask("remove", shape="circle"), twins) == [0, 1]


def test_drawn_instructions_are_of_all_kinds_and_never_held_out():
    """Idle and astray instructions come to nothing, all others to something."""
    drawn = [draw_asked(np.random.default_rng(seed), idle=0.1) for seed in range(400)]
    assert {each.ask.kind for each in drawn} == {
        "nothing",
        "colour",
        "shape",
        "size",
        "background",
        "remove",
    }
    scenes = [scene for each in drawn for scene in (each.before, each.after) if scene.things]
    assert not any(map(is_held_out, scenes))
    assert 0.1 < sum(each.before == each.after for each in drawn) / len(drawn) < 0.3
    assert all(carry_out(each.ask, each.before) == each.after for each in drawn)


def test_words_are_marked_by_what_they_are_about():
    """1 for what is meant, 2 for what it becomes."""
    drawn = (draw_asked(np.random.default_rng(seed)) for seed in range(400))
    plain = [each for each in drawn if each.ask.kind == "colour" and each.ask.shape == "star"]
    assert plain
    for each in plain:
        words = dict(zip(each.instruction.split(), each.owners, strict=True))
        assert words.get("star", 1) in (0, 1)
        assert 2 in each.owners


def test_what_is_beyond_one_change_means_nothing():
    """To leave a thing as it is, two changes at once, changes of another kind."""
    drawn = [draw_asked(np.random.default_rng(seed), idle=1) for seed in range(300)]
    assert all(each.ask == NOTHING and each.after == each.before for each in drawn)
    started = [tuple(each.instruction.split()[:2]) for each in drawn]
    assert {("do", "not"), ("don", "t"), ("never", "make"), ("keep", "the")} <= {*started}
    known = {*VOCABULARY, *OWN_WORDS, *alike(), *UNKNOWN}
    worded = {part for each in drawn for part in each.instruction.split() if part.isalpha()}
    assert worded <= known | {"sign"}


def test_a_meaning_has_many_wordings_in_known_words():
    ask = Ask("remove", colour="red", shape="circle")
    worded = {word(ask, np.random.default_rng(seed)) for seed in range(200)}
    assert len(worded) > 60
    known = {*VOCABULARY, *OWN_WORDS}
    assert {part for words in worded for part in words.split()} <= known
    assert not {*OWN_WORDS} & {*VOCABULARY} and not {*UNKNOWN} & known
