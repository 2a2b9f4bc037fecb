"""The world of the embedded models: scenes, pictures, captions and edits from a seed."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    EDIT_KINDS,
    MIRROR,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    attributes,
    caption,
    combination,
    draw_edit,
    draw_scene,
    is_held_out,
    read_caption,
    render,
)

RED_LEFT_OF_BLUE = Scene(
    "black",
    (Thing("large", "red", "circle", 0.255, 0.5), Thing("small", "blue", "square", 0.745, 0.5)),
)


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, held_out=None) for _ in range(count)]


def test_the_same_seed_draws_the_same_scenes():
    assert scenes(50) == scenes(50)
    assert scenes(50) != scenes(50, seed=1)


def test_a_scene_is_said_in_the_canonical_words():
    assert (
        caption(RED_LEFT_OF_BLUE)
        == "a large red circle left of a small blue square on a black background"
    )


def test_a_vowel_takes_an():
    thing = Thing("large", "orange", "star", 0.5, 0.5)
    said = [caption(Scene("gray", (thing,)), np.random.default_rng(seed)) for seed in range(100)]
    assert {words.split(" orange")[0] for words in said} == {"a large", "an"}


def test_a_caption_is_read_back_to_the_scene_it_was_made_from():
    for scene in scenes(500):
        assert read_caption(caption(scene)) == attributes(scene)


def test_every_variant_of_a_caption_says_nothing_wrong():
    rng = np.random.default_rng(0)
    for scene in scenes(500):
        read = read_caption(caption(scene, rng))
        turned = Scene(scene.background, scene.things[::-1])
        assert any(read.items() <= attributes(way).items() for way in (scene, turned))


def test_a_combination_is_the_same_whichever_thing_is_named_first():
    for scene in scenes(200):
        turned = Scene(scene.background, scene.things[::-1])
        assert combination(turned) == combination(scene)
        if scene.relation:
            assert turned.relation == MIRROR[scene.relation]


def test_a_combination_ignores_places_but_not_facts():
    moved = replace(
        RED_LEFT_OF_BLUE,
        things=(replace(RED_LEFT_OF_BLUE.things[0], x=0.24), RED_LEFT_OF_BLUE.things[1]),
    )
    assert combination(moved) == combination(RED_LEFT_OF_BLUE)
    assert combination(replace(RED_LEFT_OF_BLUE, background="white")) != combination(
        RED_LEFT_OF_BLUE
    )


def test_one_combination_in_ten_is_held_out():
    held = [is_held_out(scene) for scene in scenes(4000)]
    assert 0.08 < np.mean(held) < 0.12


@pytest.mark.parametrize("held_out", [False, True])
def test_only_the_asked_part_of_the_combinations_is_drawn(held_out: bool):
    rng = np.random.default_rng(0)
    assert {is_held_out(draw_scene(rng, held_out=held_out)) for _ in range(200)} == {held_out}


def test_things_lie_inside_the_picture_and_do_not_touch():
    side = 256
    for scene in scenes(100):
        alone = [
            render([Scene("black", (replace(thing, colour="yellow"),))], side)[0].any(-1)
            for thing in scene.things
        ]
        for mask in alone:
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        if len(alone) == 2:
            assert not (alone[0] & alone[1]).any()


def test_a_picture_has_the_colours_it_is_said_to_have():
    picture = render([RED_LEFT_OF_BLUE], 128)[0]
    assert picture.dtype == np.uint8 and picture.shape == (128, 128, 3)
    assert tuple(picture[0, 0]) == BACKGROUNDS["black"]
    assert tuple(picture[64, int(0.255 * 128)]) == COLOURS["red"]
    assert tuple(picture[64, int(0.745 * 128)]) == COLOURS["blue"]


def test_a_small_picture_is_the_large_one_averaged():
    some = scenes(40)
    large = render(some, 128).reshape(40, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(render(some, 32) - large).mean() < 1.0


def test_no_two_shapes_look_alike():
    pictures = render(
        [Scene("black", (Thing("small", "yellow", shape, 0.5, 0.5),)) for shape in SHAPES], 32
    ).astype(float)
    for one, other in combinations(pictures, 2):
        assert np.abs(one - other).sum() > 0.1 * min(one.sum(), other.sum())


def test_colours_are_far_from_one_another_and_from_every_background():
    names = {**COLOURS, **BACKGROUNDS}
    for one, other in combinations(names.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 95


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_what_it_says_and_nothing_else(kind: str):
    rng = np.random.default_rng(0)
    for _ in range(200):
        edit = draw_edit(rng, kind=kind)
        assert edit.kind == kind and edit.before != edit.after
        assert not is_held_out(edit.before) and not is_held_out(edit.after)
        before, after = attributes(edit.before), attributes(edit.after)
        if kind == "remove":
            assert (
                len(edit.before.things) == 2
                and len(edit.after.things) == 1
                and edit.after.things[0] in edit.before.things
            )
            continue
        changed = {name for name in before if before[name] != after[name]}
        assert {name.split(".")[-1] for name in changed} == {kind} and len(changed) == 1
        assert [(thing.x, thing.y) for thing in edit.after.things] == [
            (thing.x, thing.y) for thing in edit.before.things
        ]
        new = after[changed.pop()]
        assert (
            new in edit.instruction
            or {"small": "smaller", "large": "larger"}.get(new, "?") in edit.instruction
        )


def test_an_instruction_names_one_thing_only():
    rng = np.random.default_rng(0)
    for _ in range(500):
        edit = draw_edit(rng, held_out=None)
        named = [
            thing
            for thing in edit.before.things
            if f"the {thing.shape}" in edit.instruction
            or f"the {thing.colour} {thing.shape}" in edit.instruction
        ]
        assert len(named) == (0 if edit.kind == "background" else 1), edit.instruction


def test_every_relation_is_drawn():
    assert {scene.relation for scene in scenes(200)} == {None, *RELATIONS}
