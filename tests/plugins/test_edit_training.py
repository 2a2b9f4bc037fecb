"""The editor's training, on a few tiny steps through the real classes, and editing by what it
writes.
"""

from __future__ import annotations

import numpy as np
import pytest

from imagen_flow_embedded.inference import editing
from imagen_flow_embedded.training import edit as training
from imagen_flow_embedded.world import Edit, Scene, Thing, draw_edit, is_held_out, render

TINY = {
    "steps": 6,
    "reading_steps": 2,
    "batch_size": 2,
    "side": 64,
    "channels": (16, 16, 32),
    "text_width": 32,
    "every_s": 1000.0,
}
BEFORE = Scene(
    "black", (Thing("small", "red", "circle", 0.25, 0.5), Thing("large", "blue", "star", 0.75, 0.5))
)
AFTER = Scene(
    "black",
    (Thing("small", "red", "circle", 0.25, 0.5), Thing("large", "green", "star", 0.75, 0.5)),
)


def finish(generator):
    """Run a generator to its end and give what it yielded and returned."""
    yielded = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as end:
            return yielded, end.value


def weights(folder):
    from safetensors.numpy import load_file

    return {
        path.relative_to(folder).as_posix(): load_file(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return finish(training.train_edit(tmp_path_factory.mktemp("whole"), **TINY))


@pytest.fixture(scope="module")
def parts(trained):
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    folder = trained[1]
    return {
        "unet": UNet2DConditionModel.from_pretrained(
            folder / "unet", torch_dtype=torch.float32
        ).eval(),
        "text_encoder": T5EncoderModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        ).eval(),
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
    }


def test_training_reports_its_last_step_and_writes_what_diffusers_and_transformers_load(
    trained, parts
):
    yielded, folder = trained
    assert [(done, total) for done, total, _ in yielded] == [(step, 6) for step in range(1, 7)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "model_index.json",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
    ]
    assert parts["scheduler"].config.prediction_type == "sample"


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(
    trained, tmp_path
):
    for taken in (1, 2, 1):  # while reading, and twice while painting
        stopped = training.train_edit(tmp_path, **TINY)
        for _ in range(taken):
            next(stopped)
        stopped.close()
    _, folder = finish(training.train_edit(tmp_path, **TINY))
    one, other = weights(folder), weights(trained[1])
    assert one.keys() == other.keys() and len(one) == 2
    for name in one:
        for key in one[name]:
            np.testing.assert_array_equal(one[name][key], other[name][key], err_msg=key)


def test_no_training_scene_is_held_out_before_or_after():
    rng = np.random.default_rng(0)
    edits = [training._draw(rng) for _ in range(300)]
    assert not any(is_held_out(edit.before) or is_held_out(edit.after) for edit in edits)
    assert {edit.kind for edit in edits} == {
        "colour",
        "shape",
        "size",
        "background",
        "remove",
        "nothing",
    }


def test_the_sentinels_are_asked_what_the_instruction_says():
    edit = Edit("make the blue star green", BEFORE, AFTER, "colour")
    assert training._said(edit) == {
        "kind": "colour",
        "shape": "star",
        "colour": "blue",
        "value": "green",
    }
    assert training._said(
        Edit("remove the star", BEFORE, Scene("black", BEFORE.things[:1]), "remove")
    ) == {
        "kind": "remove",
        "shape": "star",
        "colour": "any",
        "value": "none",
    }


def test_every_instruction_is_known_to_the_tokenizer_and_fits_its_length():
    tokenizer = training.build_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = tokenizer(draw_edit(rng, held_out=None).instruction)["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) <= training.LENGTH
    assert (
        tokenizer("Make the BIG star grey!")["input_ids"]
        == tokenizer("make the large star gray")["input_ids"]
    )


def test_an_edit_reports_each_step_keeps_the_size_and_is_the_same_again(parts):
    for shape in ((64, 64), (50, 90)):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        yielded, edited = finish(
            editing.edit(picture, "make the star green", seed=3, num_inference_steps=4, **parts)
        )
        assert yielded == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert edited.shape == picture.shape and edited.dtype == np.uint8
        _, again = finish(
            editing.edit(picture, "make the star green", seed=3, num_inference_steps=4, **parts)
        )
        assert (edited == again).all()


@pytest.mark.parametrize("instruction", ["", "  ", "!?", "bitte nichts"])
def test_an_instruction_without_a_known_word_changes_nothing_and_is_noted(parts, instruction):
    """On any picture: what the model would paint without words is not worth having."""
    from imagen_flow_embedded.inference.editor import PixelEditor

    editor = PixelEditor(**parts)
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    asked = {"num_inference_steps": 4, "guidance_scale": 2.0, "image_guidance_scale": None}
    yielded, edited = finish(editor.edit(picture, instruction, seed=3, **asked))
    assert yielded == [(1, 1)] and (edited == picture).all() and edited is not picture
    note = editor.unread(instruction)
    assert note.endswith(
        "the instruction has no word that the model knows: the picture stays as it is"
    )
    assert editor.unread("make the star green") == ""


def test_guidance_draws_the_change_longer_and_is_off_at_one(parts):
    import copy

    import torch

    unet = copy.deepcopy(
        parts["unet"]
    )  # as it was trained for a few steps it changes too little to be drawn longer
    torch.nn.init.normal_(unet.conv_out.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    loud, picture = parts | {"unet": unet}, render([BEFORE], 64)[0]
    plain, one, three = (
        finish(editing.edit(picture, "make the star green", seed=3, **loud, **more))[1]
        for more in ({}, {"guidance_scale": 1.0}, {"guidance_scale": 9.0})
    )
    assert (plain == one).all()
    assert (plain != three).any()


def test_what_did_not_change_keeps_the_sources_pixels_bit_for_bit():
    source, wanted = render([BEFORE], 128)[0], render([AFTER], 128)[0]
    rng = np.random.default_rng(0)
    grainy = np.clip(wanted + rng.normal(0, 8, wanted.shape), 0, 255).astype(np.uint8)
    result = editing.keep_source(source, source, grainy)
    assert (result[:, :60] == source[:, :60]).all()
    assert (result[60:68, 90:100] == grainy[60:68, 90:100]).all()


def test_a_change_is_carried_back_to_a_picture_of_another_size():
    source, wanted = render([BEFORE], 128)[0], render([AFTER], 128)[0]
    large = render([BEFORE], 300)[0][20:280]
    result = editing.keep_source(large, source, wanted)
    assert result.shape == large.shape
    assert (result[:, :140] == large[:, :140]).all()
    assert np.abs(result[120:140, 220:230].astype(int) - (20, 165, 45)).max() <= 2


def test_an_edit_that_paints_the_source_again_changes_nothing():
    source = render([BEFORE], 128)[0]
    assert (editing.keep_source(source, source, source) == source).all()
