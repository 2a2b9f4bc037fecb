"""The captioner's training, on a few tiny steps through the real classes, and the captioning of
pictures by what it writes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow.loaders import Loading
from imagen_flow_embedded.checker import describe
from imagen_flow_embedded.training import captioner
from imagen_flow_embedded.training.foreign import draw_foreign, draw_near_miss
from imagen_flow_embedded.training.pictures import cells, ordered, wear, wear_alike
from imagen_flow_embedded.world import (
    SHAPES,
    Scene,
    Thing,
    caption,
    draw_scene,
    is_held_out,
    read_caption,
    render,
)
from imagen_flow_vision.captioning import answer
from imagen_flow_vision.networks import NetworkLoader

TINY = {
    "steps": 4,
    "batch_size": 4,
    "width": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "every_s": 1000.0,
}
PAIR = Scene(
    "black", (Thing("small", "red", "circle", 0.75, 0.5), Thing("large", "blue", "star", 0.25, 0.5))
)


def finish(training):
    """Run a generator to its end and give what it yielded and returned."""
    yielded = []
    while True:
        try:
            yielded.append(next(training))
        except StopIteration as end:
            return yielded, end.value


def interrupt(training, after):
    """Cancel a training after some steps."""
    for _ in range(after):
        next(training)
    training.close()


def weights(folder):
    from safetensors.numpy import load_file

    return {
        path.relative_to(folder).as_posix(): load_file(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }


def assert_equal_weights(one, other):
    assert one.keys() == other.keys() and one
    for name in one:
        assert one[name].keys() == other[name].keys()
        for key in one[name]:
            np.testing.assert_array_equal(one[name][key], other[name][key], err_msg=key)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return finish(captioner.train_captioner(tmp_path_factory.mktemp("whole"), **TINY))


def test_training_reports_its_last_step_and_writes_a_folder_that_transformers_loads(trained):
    import torch
    from transformers import VisionEncoderDecoderModel

    yielded, folder = trained
    assert [(done, total) for done, total, _ in yielded] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)
    loaded = NetworkLoader("image.caption").load(
        flow.Model(folder), device="cpu", dtype="float32", settings=Loading()
    )
    picture = flow.Image(render([PAIR], 100)[0][:90])
    found = answer(loaded, picture, prompt=None, max_length=32)
    assert found == answer(loaded, picture, prompt=None, max_length=32)
    assert set(found.words.split()) <= set(loaded.processor.tokenizer.get_vocab())


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(
    trained, tmp_path
):
    interrupt(captioner.train_captioner(tmp_path, **TINY), 2)
    assert (tmp_path / "checkpoint.safetensors").exists()
    _, folder = finish(captioner.train_captioner(tmp_path, **TINY))
    assert_equal_weights(weights(folder), weights(trained[1]))


def test_another_seed_gives_other_weights(trained, tmp_path):
    _, folder = finish(captioner.train_captioner(tmp_path, seed=1, **TINY))
    one, other = weights(folder)["model.safetensors"], weights(trained[1])["model.safetensors"]
    assert any((one[key] != other[key]).any() for key in one)


def test_no_training_scene_is_held_out_and_the_left_or_upper_thing_comes_first():
    rng = np.random.default_rng(0)
    scenes = [captioner._draw(rng) for _ in range(300)]
    assert not any(is_held_out(scene) for scene in scenes)
    assert {scene.relation for scene in scenes} == {None, "left of", "above"}


def test_every_caption_survives_the_tokenizer():
    tokenizer = captioner.build_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(100):
        words = caption(draw_scene(rng, held_out=None))
        assert tokenizer.decode(tokenizer(words)["input_ids"], skip_special_tokens=True) == words


def test_ordering_a_scene_keeps_its_picture_and_turns_its_words():
    assert (
        caption(ordered(PAIR))
        == "a large blue star left of a small red circle on a black background"
    )
    assert (render([ordered(PAIR)], 32) == render([PAIR], 32)).all()
    assert ordered(replace(PAIR, things=PAIR.things[:1])) == replace(PAIR, things=PAIR.things[:1])


def test_a_grid_says_what_stands_in_each_cell():
    grids = cells([PAIR], 8)
    star, circle = SHAPES.index("star") + 1, SHAPES.index("circle") + 1
    assert grids["shape"][0, 4].tolist() == [star, star, star, star, 0, circle, circle, 0]
    assert grids["shape"][0, 0].tolist() == [0] * 8
    assert set(np.unique(grids["size"])) == {0, 1, 2}


def test_worn_pictures_are_near_the_pictures_and_depend_on_the_generator_alone():
    rng = np.random.default_rng(3)
    pictures = render([draw_scene(rng) for _ in range(24)], 64)
    worn = wear(pictures, np.random.default_rng(5), untouched=0)
    assert worn.shape == pictures.shape and worn.dtype == np.uint8
    assert (worn == wear(pictures, np.random.default_rng(5), untouched=0)).all()
    distance = np.abs(worn.astype(float) - pictures).mean((1, 2, 3))
    assert distance.max() < 30 and (distance > 0).mean() > 0.8
    assert (wear(pictures, np.random.default_rng(5), untouched=1) == pictures).all()


def test_a_picture_that_belongs_to_a_worn_one_gets_its_tint_and_no_other_fault():
    pictures = render([PAIR] * 16, 64)
    _, tinted = wear_alike(pictures, pictures, np.random.default_rng(5), untouched=0)
    assert max(len(np.unique(picture[4:20, 4:8].reshape(-1, 3), axis=0)) for picture in tinted) == 1
    assert (tinted != pictures).any()


def test_a_caption_of_a_trained_word_order_is_read_back():
    assert read_caption(caption(ordered(PAIR)))["relation"] == "left of"


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    interrupt(captioner.train_captioner(tmp_path, **TINY), 1)
    with pytest.raises(ValueError, match="other settings"):
        next(captioner.train_captioner(tmp_path, **TINY | {"batch_size": 8}))


def test_made_pictures_are_learnt_from_only_where_they_show_what_was_asked():
    other = replace(PAIR, background="white")
    picked = captioner.shown_rightly(list(render([PAIR, PAIR], 64)), [PAIR, other])
    assert [picture.shape for picture, _ in picked] == [(128, 128, 3)]
    assert caption(ordered(picked[0][1])) == caption(ordered(PAIR))


def test_a_third_of_a_batch_is_of_made_pictures_and_a_fifth_is_foreign():
    """A foreign picture has an empty caption, and no patch of it is covered by a thing."""
    picture = np.full((128, 128, 3), 9, np.uint8)
    tokenizer = captioner.build_tokenizer()
    _, words, grids = captioner._batch(np.random.default_rng(0), 9, tokenizer, [(picture, PAIR)])
    said = tokenizer.batch_decode(words, skip_special_tokens=True)
    assert said[4:] == [caption(ordered(PAIR))] * 3 + [""] * 2
    assert all(said[:4]) and len(grids["shape"]) == 9
    assert not grids["shape"][7:].any() and grids["shape"][:7].any((1, 2)).all()


def test_foreign_pictures_depend_on_the_generator_alone_and_are_read_as_no_scene():
    drawn = [draw_foreign(np.random.default_rng(seed), 64) for seed in range(60)]
    assert {(picture.shape, str(picture.dtype)) for picture in drawn} == {((64, 64, 3), "uint8")}
    np.testing.assert_array_equal(drawn[7], draw_foreign(np.random.default_rng(7), 64))
    assert sum(describe(picture).as_scene() is not None for picture in drawn) < 30


def test_near_misses_depend_on_the_generator_alone():
    drawn = [draw_near_miss(np.random.default_rng(seed), 64) for seed in range(20)]
    assert {(picture.shape, str(picture.dtype)) for picture in drawn} == {((64, 64, 3), "uint8")}
    np.testing.assert_array_equal(drawn[7], draw_near_miss(np.random.default_rng(7), 64))


def test_a_training_may_go_on_from_a_captioner(trained, tmp_path):
    _, folder = finish(
        captioner.train_captioner(
            tmp_path, **TINY | {"steps": 1, "learning_rate": 1e-9}, start=trained[1]
        )
    )
    one, other = weights(folder)["model.safetensors"], weights(trained[1])["model.safetensors"]
    assert all(np.abs(one[key] - other[key]).max() < 1e-3 for key in one)
