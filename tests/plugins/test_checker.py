"""The checker that judges the embedded models' pictures by meaning."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

import imagen_flow as flow
from imagen_flow_embedded.checker import agree, describe
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    attributes,
    caption,
    combination,
    draw_scene,
    render,
)

SCENE = Scene(
    "black",
    (Thing("large", "red", "circle", 0.255, 0.5), Thing("small", "blue", "square", 0.745, 0.5)),
)


def drawn(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, held_out=None) for _ in range(count)]


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(
        Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.8 * len(picture) / 32))
    )


def noisy(picture: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(picture.sum()))
    return np.clip(picture / 255 + rng.normal(0, 0.05, picture.shape), 0, 1)


def plain(picture: np.ndarray) -> np.ndarray:
    return picture


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("spoil", [plain, blurred, noisy])
def test_every_fact_of_a_rendered_picture_is_found(side: int, spoil):
    some = drawn(200, seed=side)
    right = [
        all(agree(scene, spoil(picture)).values())
        for scene, picture in zip(some, render(some, side), strict=True)
    ]
    assert np.mean(right) >= 0.995


def changed(rng: np.random.Generator, scene: Scene) -> tuple[Scene, str]:
    """Change one fact; say which."""
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    kinds = ["background", "colour", "shape", "size"] + (
        ["relation", "count"] if scene.relation else []
    )
    kind = kinds[int(rng.integers(len(kinds)))]
    other = lambda names, now: str(rng.choice([name for name in names if name != now]))  # noqa: E731
    if kind == "background":
        return replace(scene, background=other(BACKGROUNDS, scene.background)), "background"
    if kind == "count":
        return replace(scene, things=scene.things[:1]), "count"
    if kind == "relation":
        first, second = scene.things
        return replace(
            scene,
            things=(replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)),
        ), "relation"
    if kind == "size":
        new = replace(thing, size="small" if thing.size == "large" else "large")
    elif kind == "colour":
        new = replace(thing, colour=other(COLOURS, thing.colour))
    else:
        new = replace(thing, shape=other(SHAPES, thing.shape))
    return replace(scene, things=(*scene.things[:number], new, *scene.things[number + 1 :])), kind


@pytest.mark.parametrize("side", [32, 128])
def test_a_picture_with_one_fact_changed_is_rejected(side: int):
    rng = np.random.default_rng(7)
    some = drawn(200, seed=1)
    pairs = [(scene, changed(rng, scene)[0]) for scene in some]
    pairs = [
        (scene, other) for scene, other in pairs if combination(scene) != combination(other)
    ]  # equal things that changed places
    pictures = render([other for _, other in pairs], side)
    rejected = [
        not all(agree(scene, picture).values())
        for (scene, _), picture in zip(pairs, pictures, strict=True)
    ]
    assert np.mean(rejected) >= 0.99


def test_a_picture_is_described_as_the_scene_it_was_rendered_from():
    found = describe(render([SCENE], 128)[0]).as_scene()
    assert found is not None
    assert combination(found) == combination(SCENE)
    for thing, expected in zip(
        sorted(found.things, key=lambda thing: thing.x), SCENE.things, strict=True
    ):
        assert abs(thing.x - expected.x) < 0.02 and abs(thing.y - expected.y) < 0.02


def test_each_wrong_fact_is_named():
    other = replace(
        SCENE,
        background="white",
        things=(SCENE.things[0], replace(SCENE.things[1], colour="green")),
    )
    answer = agree(SCENE, render([other], 64)[0])
    assert set(answer) == set(attributes(SCENE))
    assert {name for name, right in answer.items() if not right} == {"background", "2.colour"}


def test_a_thing_that_is_not_there_has_nothing_right():
    answer = agree(SCENE, render([replace(SCENE, things=SCENE.things[:1])], 64)[0])
    assert {name for name, right in answer.items() if not right} == {
        "count",
        "2.size",
        "2.colour",
        "2.shape",
        "relation",
    }


def test_things_that_changed_places_break_the_relation():
    first, second = SCENE.things
    turned = replace(SCENE, things=(replace(first, x=second.x), replace(second, x=first.x)))
    assert [name for name, right in agree(SCENE, render([turned], 64)[0]).items() if not right] == [
        "relation"
    ]


def test_noise_shows_no_scene():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert describe(noise).as_scene() is None


def test_a_plain_ground_shows_no_thing():
    found = describe(np.full((32, 32, 3), 128, np.uint8))
    assert (found.background, found.things) == ("gray", ())


def test_a_smear_has_no_shape():
    smear = np.zeros((64, 64, 3), np.uint8)
    smear[30:34, 4:60] = COLOURS["red"]
    assert describe(smear).as_scene() is None


def test_what_is_absent_from_one_list_is_judged_in_none(tmp_path):
    """Captions and scenes stay pairs: the second, which has no caption, is left out of both."""
    scenes = drawn(3, seed=5)
    graph = {
        "imagen_flow": 1,
        "inputs": {"said": {"type": "list[bool]"}},
        "nodes": {
            "words": {
                "type": "flow.first",
                "each": {"a": [caption(scene) for scene in scenes]},
                "when": "${said}",
            },
            "judged": {
                "type": "evaluate.captions",
                "captions": "${words}",
                "scenes": [asdict(scene) for scene in scenes],
            },
        },
        "outputs": {"report": "${judged.report}", "score": "${judged.score}"},
    }
    outputs = flow.run(graph, store=tmp_path, said=[True, False, True])
    assert (outputs["score"], outputs["report"]["count"]) == (1.0, 2)
