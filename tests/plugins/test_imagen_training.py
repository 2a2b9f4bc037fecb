"""The language, the plan and the training of the embedded Imagen, on a few tiny steps through the
real classes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagen_flow_embedded import doubt, plan
from imagen_flow_embedded.checker import agree
from imagen_flow_embedded.language import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    UNKNOWN,
    VOCABULARY,
    babble,
    describe,
    twinned,
)
from imagen_flow_embedded.training import diffusion, super_resolution, text_encoder
from imagen_flow_embedded.world import (
    MIRROR,
    Scene,
    Thing,
    caption,
    combination,
    draw_scene,
    is_held_out,
    render,
)

RED_ABOVE_BLUE = Scene(
    "black", (Thing("small", "red", "circle", 0.5, 0.25), Thing("large", "blue", "star", 0.5, 0.75))
)


def finish(training):
    """Run a generator to its end and give what it yielded and returned."""
    yielded = []
    while True:
        try:
            yielded.append(next(training))
        except StopIteration as end:
            return yielded, end.value


def descriptions(count, seed=0):
    rng = np.random.default_rng(seed)
    return [describe(draw_scene(rng), rng) for _ in range(count)]


def weights(folder, part):
    from safetensors.numpy import load_file

    (path,) = (folder / part).glob("*.safetensors")
    return load_file(path)


# --- language ---


def test_the_same_seed_gives_the_same_descriptions():
    assert descriptions(30) == descriptions(30)
    assert descriptions(30) != descriptions(30, seed=1)


def test_a_description_uses_known_words_and_names_the_unknown_ones_it_uses():
    used = {word for described in descriptions(3000) for word in described.text.split()}
    assert used - set(VOCABULARY) == {*UNKNOWN, "grey", ":", "(", ")"}


def test_a_description_keeps_the_scene_in_the_order_in_which_it_names_the_things():
    rng = np.random.default_rng(3)
    for _ in range(300):
        scene = draw_scene(rng)
        found = describe(scene, rng).scene
        assert combination(found) == combination(scene)
        if found.things != scene.things:
            assert found.relation == MIRROR[scene.relation]


def test_every_word_of_a_description_is_about_the_scene_or_a_thing_that_it_names():
    for described in descriptions(500):
        words = described.text.split()
        assert len(described.owners) == len(words)
        assert set(described.owners) <= set(range(len(described.scene.things) + 1))
        owners = [owner for owner in described.owners if owner]
        assert owners.index(1) == 0 or len(described.scene.things) == 2
        for word, owner in zip(words, described.owners, strict=True):
            if owner and word in ("large", "small"):  # else it is the picture's own size
                assert word == described.scene.things[owner - 1].size


def test_the_canonical_caption_is_one_of_the_descriptions():
    rng = np.random.default_rng(4)
    texts = {describe(RED_ABOVE_BLUE, rng).text for _ in range(100)}
    assert caption(RED_ABOVE_BLUE) in texts and len(texts) > 60


def test_every_description_fits_the_tokenizer_and_grey_is_read_as_gray():
    tokenizer = text_encoder.build_tokenizer()
    for described in descriptions(500):
        ids = tokenizer(described.text).input_ids
        assert plan.SENTINELS + len(described.owners) + 1 == len(ids) <= text_encoder.LENGTH
    both = tokenizer(["A RED circle; on grey!", "a red circle, on gray"]).input_ids
    assert both[0] == both[1] and tokenizer.unk_token_id not in both[0]


def test_marks_between_clauses_are_commas_and_words_of_other_scripts_are_unknown():
    tokenizer = text_encoder.build_tokenizer()
    assert tokenizer.tokenize("2 circles: red-ish + blue… (on черный).") == [
        *("two", "circles", ",", "red", "<unk>", "and", "blue", ",", "on", "<unk>")
    ]


def test_a_description_says_which_facts_it_tells():
    """A colour that is not told is not in the words, and one that is told is."""
    for described in descriptions(800):
        words = set(described.text.split())
        for number, thing in enumerate(described.scene.things, 1):
            named = words & set(COLOUR_WORDS[thing.colour])
            others = {other.colour for other in described.scene.things} - {thing.colour}
            if f"{number}.colour" in described.told:
                assert named
            elif others:
                assert not named
        if "background" in described.told:
            assert words & set(BACKGROUND_WORDS[described.scene.background])


def test_things_alike_but_for_their_size_are_described_and_not_held_out():
    drawn = text_encoder.draw_descriptions(np.random.default_rng(0), 400)
    alike = [
        each.scene
        for each in drawn
        if len(each.scene.things) == 2 and twinned(each.scene).things[1] == each.scene.things[1]
    ]
    assert len(alike) > 5 and not any(is_held_out(scene) for scene in alike)


def test_babble_differs_from_every_description_of_its_scene():
    described = descriptions(200)
    rng = np.random.default_rng(0)
    made = [
        babble(each, other, rng) for each, other in zip(described, described[::-1], strict=False)
    ]
    assert sum(text == each.text for text, each in zip(made, described, strict=False)) == 0
    assert len(set(made)) > 190


def test_words_mean_the_facts_of_the_thing_that_they_are_about():
    described = descriptions(200)
    owners = text_encoder.owners_of(described, 48)
    meanings = text_encoder.meanings_of(described, 48)
    seen = set()
    for each, owned, meant in zip(described, owners, meanings, strict=True):
        for owner, number in zip(owned, meant, strict=True):
            fact, value = doubt.MEANINGS[max(number, 0)]
            seen.add(fact)
            if fact == "background":
                assert (owner, value) == (0, each.scene.background)
            elif fact:
                assert getattr(each.scene.things[owner - 1], fact) == value
    assert seen == {"", "background", "size", "colour", "shape"}


def test_no_described_scene_is_held_out():
    drawn = text_encoder.draw_descriptions(np.random.default_rng(0), 300, dropped=0.1)
    assert not any(is_held_out(each.scene) for each in drawn)
    assert 10 < sum(each.text == "" for each in drawn) < 60


# --- plan ---


def sure(scene):
    """The facts of a scene, each with probability 1."""
    found = {}
    for fact, numbers in text_encoder.facts_of([scene]).items():
        eye = torch.eye(len(doubt.HEADS[fact]))
        found[fact] = eye[torch.from_numpy(numbers.clip(0))]
    return found


def test_heads_give_probabilities_of_every_fact():
    heads = text_encoder.build_heads(16).state_dict()
    facts = plan.read_facts(torch.randn(5, 9, 16), heads)
    assert {fact: tuple(values.shape) for fact, values in facts.items()} == {
        "background": (5, 4),
        "arrangement": (5, 5),
        "size": (5, 2, 2),
        "colour": (5, 2, 8),
        "shape": (5, 2, 6),
    }
    for values in facts.values():
        torch.testing.assert_close(values.sum(-1), torch.ones(values.shape[:-1]))


@pytest.mark.parametrize("arrangement", text_encoder.ARRANGEMENTS)
def test_places_are_drawn_by_the_seed_and_stand_as_the_arrangement_says(arrangement):
    number = text_encoder.ARRANGEMENTS.index(arrangement)
    drawn = [plan.draw_places(number, torch.Generator().manual_seed(seed)) for seed in range(20)]
    again = plan.draw_places(number, torch.Generator().manual_seed(3))
    torch.testing.assert_close(again, drawn[3], equal_nan=True)
    assert len({float(places[0, 0]) for places in drawn}) == 20
    for first, second in drawn:
        if arrangement == "alone":
            assert second.isnan().all()
            continue
        things = (
            Thing("", "", "", *first.tolist()),
            Thing("", "", "", *second.tolist()),
        )
        assert Scene("", things).relation == arrangement


def test_places_range_as_those_of_the_world_and_vary_at_least_as_much():
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(2000)]
    for number, arrangement in enumerate(text_encoder.ARRANGEMENTS):
        theirs = diffusion.places_of(
            [scene for scene in scenes if (scene.relation or "alone") == arrangement]
        )
        seeds = [torch.Generator().manual_seed(seed) for seed in range(400)]
        ours = torch.stack([plan.draw_places(number, seed) for seed in seeds])
        for values in (torch.Tensor.amin, torch.Tensor.amax):
            torch.testing.assert_close(
                values(ours, 0), values(theirs, 0), atol=0.01, rtol=0, equal_nan=True
            )
        known = ~ours[0].isnan()
        assert (ours.std(0)[known] > theirs.std(0)[known]).all()
        assert (ours[5:9].std(0)[known] > theirs.std(0)[known]).all()  # four seeds suffice


@pytest.fixture(scope="module")
def asking():
    """Heads that each read a block of the states, and a function that makes the states of a prompt
    which is told or not, with the logits of facts and the words' owners and meanings.
    """
    values = {fact: list(names) for fact, names in doubt.HEADS.items()}
    values |= {"told": list(doubt.HEADS), "sense": [True], "owner": [0, 1, 2]}
    values["meaning"] = list(doubt.MEANINGS)
    starts = dict(zip(values, np.cumsum([0, *map(len, values.values())]), strict=False))
    width = sum(map(len, values.values()))
    heads = {}
    for name, names in values.items():
        heads[f"{name}.weight"] = torch.zeros(len(names), width)
        heads[f"{name}.weight"][:, starts[name] : starts[name] + len(names)] = torch.eye(len(names))
        heads[f"{name}.bias"] = torch.zeros(len(names))

    def states(told, words=(), **logits):
        found = torch.zeros(1, plan.SENTINELS + len(words) + 1, width)
        found[..., starts["told"] :][..., :5] = 9.0 if told else -9.0
        found[..., starts["sense"]] = 9.0
        for name in (*doubt.HEADS, "sense"):
            first = {values[name][0]: 9.0}
            for value, logit in logits.get(name, first).items():
                found[..., starts[name] + values[name].index(value)] = logit
        for number, (owner, meaning) in enumerate(words, plan.SENTINELS):
            for name, value in (("owner", owner), ("meaning", meaning)):
                found[0, number, starts[name] + values[name].index(value)] = 9.0
        return found

    return heads, states


def test_what_a_prompt_tells_is_taken_as_read_and_what_it_leaves_open_is_drawn(asking):
    heads, states = asking
    for told, shown in ((True, {"above"}), (False, {"above", "below"})):
        unsure = states(told, arrangement={"above": 9.0, "below": 8.5})
        generator = torch.Generator().manual_seed(0)
        decided = [plan.decide(unsure, heads, generator) for _ in range(60)]
        found = [text_encoder.ARRANGEMENTS[int(f["arrangement"].argmax())] for f, _ in decided]
        assert set(found) == shown
        for (facts, places), arrangement in zip(decided, found, strict=True):
            assert all(((rows == 0) | (rows == 1)).all() for rows in facts.values())
            assert (places[0, 0, 1] < places[0, 1, 1]) == (arrangement == "above")


SURE = {"arrangement": {"above": 9.0}, "colour": {"blue": 9.0}}


@pytest.mark.parametrize(
    ("told", "changed", "words", "found"),
    [
        (True, {}, [(1, ("colour", "blue")), (0, ("background", "black")), (2, ("", ""))], ()),
        (
            True,
            {"colour": {"blue": 5.0, "red": 4.5}},
            [],
            (
                "the colour of the first shape may be blue or red",
                "the colour of the second shape may be blue or red",
            ),
        ),
        (False, {"colour": {"blue": 5.0, "red": 4.5}}, [], ()),
        (
            True,
            {"arrangement": {"above": 5.0, "below": 4.5}},
            [],
            ("the arrangement may be above or below",),
        ),
        (True, {}, [(2, ("colour", "red"))], ("the second shape may not be red",)),
        (True, {}, [(0, ("background", "white"))], ("the background may not be white",)),
        (
            True,
            {"arrangement": {"alone": 9.0}},
            [(2, ("shape", "star"))],
            ("'star' may be left out",),
        ),
        (
            True,
            {"sense": {True: -1.0}},
            [],
            ("it may ask for something else than one or two shapes on a background",),
        ),
    ],
)
def test_doubts_name_what_readings_of_the_prompt_disagree_on(asking, told, changed, words, found):
    heads, states = asking
    assert doubt.find_doubts(states(told, words, **SURE | changed), heads) == found


def test_a_plan_holds_each_things_facts_around_its_place_and_the_background_everywhere():
    facts = sure(RED_ABOVE_BLUE)
    laid = plan.lay_out(facts, diffusion.places_of([RED_ABOVE_BLUE]), 32)
    assert laid.shape[1] == plan.count_channels(
        {fact: len(values) for fact, values in doubt.HEADS.items()}
    )
    size, colour = laid[0, :2], laid[0, 2:10]
    assert size[:, 8, 16].tolist() == [1, 0] and size[:, 24, 16].tolist() == [0, 1]
    assert colour[:, 8, 16].argmax() == 0 and colour[:, 24, 16].argmax() == 2
    assert laid[0, :-4, 0, 0].abs().sum() == 0
    assert (laid[0, -4:] == facts["background"][0].view(4, 1, 1)).all()


def test_a_plan_without_things_is_the_background_alone():
    laid = plan.lay_out(sure(RED_ABOVE_BLUE), torch.full((1, 2, 2), torch.nan), 16)
    assert laid[0, :-4].abs().sum() == 0 and laid[0, -4:].sum() == 16 * 16


def test_a_sketch_shows_each_thing_where_it_stands_in_its_mean_colour():
    """It is coarse: the checker reads colours, sizes and places, and edges are several pixels
    soft.
    """
    means = diffusion.measure_means()
    places = diffusion.places_of([RED_ABOVE_BLUE])
    sketch = plan.draw_sketch(sure(RED_ABOVE_BLUE), places, means, 64)[0]
    pixels = ((sketch.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    answer = agree(RED_ABOVE_BLUE, pixels)
    assert all(right for fact, right in answer.items() if not fact.endswith("shape"))
    steps = np.abs(np.diff(pixels[16].astype(int), axis=0)).max()
    sharp = np.abs(np.diff(render([RED_ABOVE_BLUE], 64)[0][16].astype(int), axis=0)).max()
    assert steps < 0.6 * sharp


def test_the_unit_of_a_pixel_is_the_contrast_of_its_thing_with_the_ground():
    means, places = diffusion.measure_means(), diffusion.places_of([RED_ABOVE_BLUE])
    beside, contrast = plan.lay_beside(sure(RED_ABOVE_BLUE), places, means, 32, 2)
    sketch = torch.nn.functional.pixel_unshuffle(
        plan.draw_sketch(sure(RED_ABOVE_BLUE), places, means, 64), 2
    )
    torch.testing.assert_close(beside[:, :12], sketch)
    assert beside[0, 12:16, 8, 16].mean() > 0.9 and beside[0, 12:16, 0, 0].sum() == 0
    red = (means["colours"][0] - means["backgrounds"][0]).repeat_interleave(4)
    torch.testing.assert_close(contrast[0, :, 8, 16], red)
    assert contrast[0, :, 0, 0].abs().sum() == 0


def test_a_sketch_of_an_open_colour_shows_the_mean_of_all():
    facts = sure(RED_ABOVE_BLUE)
    facts["colour"][:] = 1 / 8
    means = diffusion.measure_means()
    sketch = plan.draw_sketch(facts, diffusion.places_of([RED_ABOVE_BLUE]), means, 64)[0]
    torch.testing.assert_close(sketch[:, 48, 32], means["colours"].mean(0), atol=0.02, rtol=0)


# --- training ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A text encoder, a base and an enlarger, each trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    runs = {}
    runs["text"] = finish(
        text_encoder.train_text_encoder(folder / "text", steps=3, batch_size=4, width=32, layers=1)
    )
    text = runs["text"][1]
    small = {"batch_size": 2, "channels": (32, 32, 32)}
    runs["base"] = finish(diffusion.train_diffusion(folder / "base", text, steps=3, **small))
    runs["large"] = finish(
        super_resolution.train_super_resolution(
            folder / "large", text, runs["base"][1], steps=2, repairs=4, **small
        )
    )
    return runs


def test_each_training_reports_its_steps_and_writes_what_its_library_loads(trained):
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    assert [(done, total) for done, total, _ in trained["base"][0]] == [(1, 3), (2, 3), (3, 3)]
    text, base, large = (trained[name][1] for name in ("text", "base", "large"))
    AutoTokenizer.from_pretrained(text / "tokenizer")
    T5EncoderModel.from_pretrained(text / "text_encoder")
    for folder, part in ((base, "unet"), (large, "super_resolution")):
        UNet2DConditionModel.from_pretrained(folder / part)
    for folder, part in ((base, "scheduler"), (large, "super_resolution_scheduler")):
        config = DDIMScheduler.from_pretrained(folder / part).config
        assert (config.prediction_type, config.clip_sample) == ("sample", True)


def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(trained, tmp_path):
    text = trained["text"][1]
    asked = {"steps": 3, "batch_size": 2, "channels": (32, 32, 32)}
    training = diffusion.train_diffusion(tmp_path, text, **asked)
    next(training)
    training.close()
    _, folder = finish(diffusion.train_diffusion(tmp_path, text, **asked))
    one, other = weights(folder, "unet"), weights(trained["base"][1], "unet")
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
