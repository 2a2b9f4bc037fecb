"""The editor's training, on a few tiny steps through the real classes, and editing by what it
writes.
"""

from __future__ import annotations

import numpy as np
import pytest

from imagen_flow_embedded.inference import editing
from imagen_flow_embedded.inference.editor import PixelEditor
from imagen_flow_embedded.instructions import draw_asked
from imagen_flow_embedded.training import edit as training
from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, Scene, Thing, render

TINY = {
    "reading_steps": 2,
    "whole_steps": 2,
    "close_steps": 2,
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
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, T5EncoderModel

    folder = trained[1]
    unets = {
        name: UNet2DConditionModel.from_pretrained(folder / name, torch_dtype=torch.float32).eval()
        for name in ("unet", "close_up")
    }
    return {
        **unets,
        "text_encoder": T5EncoderModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        ).eval(),
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "plan": load_file(folder / "plan" / "model.safetensors"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
    }


@pytest.fixture
def bold(parts, tiny):
    """A model that reads in every instruction that a star is to be green, and changes every picture."""
    import copy

    import torch

    plan = tiny.sure_reader(parts["plan"], kind="colour", shape="star", new_colour="green")
    loud = {name: copy.deepcopy(parts[name]) for name in ("unet", "close_up")}
    noise = torch.Generator().manual_seed(0)
    for unet in loud.values():
        torch.nn.init.normal_(unet.conv_out.weight, std=0.5, generator=noise)
    torch.nn.init.ones_(loud["close_up"].conv_out.bias)
    return parts | loud | {"plan": plan}


def test_training_reports_its_last_step_and_writes_what_diffusers_and_transformers_load(
    trained, parts
):
    yielded, folder = trained
    assert [(done, total) for done, total, _ in yielded] == [(step, 6) for step in range(1, 7)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "close_up",
        "model_index.json",
        "plan",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
    ]
    assert parts["scheduler"].config.prediction_type == "sample"


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(
    trained, tmp_path
):
    for taken in (1, 2, 2):  # in each of the stages
        stopped = training.train_edit(tmp_path, **TINY)
        for _ in range(taken):
            next(stopped)
        stopped.close()
    _, folder = finish(training.train_edit(tmp_path, **TINY))
    one, other = weights(folder), weights(trained[1])
    assert one.keys() == other.keys() and len(one) == 4
    for name in one:
        for key in one[name]:
            np.testing.assert_array_equal(one[name][key], other[name][key], err_msg=key)


def test_training_goes_on_from_an_editor(trained, tmp_path):
    """Where no step is left to a stage, its part stays as it was."""
    more = TINY | {"reading_steps": 0, "whole_steps": 0, "close_steps": 1}
    _, folder = finish(training.train_edit(tmp_path, start=trained[1], **more))
    one, other = weights(trained[1]), weights(folder)
    moved = {
        name for name in one if any((one[name][key] != other[name][key]).any() for key in one[name])
    }
    assert moved == {
        "close_up/diffusion_pytorch_model.safetensors",
        "plan/model.safetensors",
    }


def test_a_close_up_holds_what_changes_in_its_own_measure():
    """Around the change, whole, with a thing's place doubled and moved."""
    lesson = training.draw_close(np.random.default_rng(0), 40, 128)
    assert lesson.before.shape == lesson.after.shape == (40, 64, 64, 3)
    things = [
        (each, before.things[0])
        for each, (before, after) in zip(lesson.asked, lesson.shown, strict=True)
        if each.ask.kind == "size" and before.things[:1] != after.things[:1]
    ]
    assert things
    assert all(abs(thing.x - 0.5) < 0.15 and abs(thing.y - 0.5) < 0.15 for _, thing in things)


def test_whole_pictures_of_no_world_are_to_stay():
    lesson = training.draw_whole(np.random.default_rng(0), 100, 32)
    foreign = [n for n, (before, _) in enumerate(lesson.shown) if not before.things]
    assert 3 < len(foreign) < 30
    assert (lesson.before[foreign] == lesson.after[foreign]).all()


def test_every_drawn_instruction_fits_the_length_in_known_words():
    tokenizer = training.build_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(300):
        asked = draw_asked(rng)
        if asked.ask.kind == "nothing":
            continue
        ids = tokenizer(asked.instruction)["input_ids"]
        assert len(ids) <= training.LENGTH
        assert ids.count(tokenizer.unk_token_id) <= 1  # an adjective that means nothing
    assert (
        tokenizer("Make the BIG star grey!")["input_ids"]
        == tokenizer("make the big star gray")["input_ids"]
    )


def test_an_edit_reports_each_step_keeps_the_size_and_is_the_same_again(bold):
    """Two steps of each model, whatever the size."""
    for shape in ((64, 64), (50, 90)):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        asked = [picture], ["make the star green"]
        yielded, (edited,) = finish(editing.edit(*asked, seeds=[3], **bold))
        assert yielded == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert edited.shape == picture.shape and edited.dtype == np.uint8
        assert (edited != picture).any()
        _, (again,) = finish(editing.edit(*asked, seeds=[3], **bold))
        assert (edited == again).all()


def _editing(parts, picture, instruction):
    asked = {"num_inference_steps": 2, "guidance_scale": None, "image_guidance_scale": None}
    return finish(PixelEditor(**parts).edit(picture, instruction, seed=3, **asked))


@pytest.mark.parametrize("instruction", ["", "  ", "!?", "bitte nichts"])
def test_an_instruction_without_a_known_word_changes_nothing_and_is_noted(bold, instruction):
    """On any picture: what the model would paint without words is not worth having."""
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    yielded, edited = _editing(bold, picture, instruction)
    assert yielded == [(1, 1)] and (edited == picture).all() and edited is not picture
    note = PixelEditor(**bold).unread(instruction)
    assert note.endswith(
        "the instruction has no word that the model knows: the picture stays as it is"
    )
    assert PixelEditor(**bold).unread("make the star green") == ""


def test_an_instruction_in_which_the_model_reads_no_change_is_noted(bold):
    """Before any picture is painted."""
    import torch

    bold["plan"]["heads.kind.bias"] = torch.tensor([99.0, 0, 0, 0, 0, 0])
    picture = render([BEFORE], 64)[0]
    yielded, edited = _editing(bold, picture, "make the star nice")
    assert yielded == [(1, 1, f"{editing.UNREAD}: the picture stays as it is")]
    assert (edited == picture).all()


def test_a_picture_in_which_the_model_sees_nothing_to_change_stays_and_is_noted(bold):
    """The model that sees the whole picture may see nothing, and the one that sees a close-up."""
    import copy

    import torch

    picture = render([BEFORE], 64)[0]
    for name, bias, steps in (("unet", 0.0, 2), ("close_up", -9.0, 4)):
        calm = copy.deepcopy(bold[name])
        torch.nn.init.zeros_(calm.conv_out.weight)
        torch.nn.init.constant_(calm.conv_out.bias, bias)
        yielded, edited = _editing(bold | {name: calm}, picture, "make the star green")
        assert (edited == picture).all()
        assert yielded == [
            *((number, 4) for number in range(1, steps + 1)),
            (
                *(1, 1),
                "the model sees nothing in the picture that the instruction would change: the"
                " picture stays as it is",
            ),
        ]


@pytest.mark.parametrize("name", ["guidance_scale", "image_guidance_scale"])
def test_guidance_is_refused(parts, name):
    """It is trained without, and would ignore it."""
    given = {"num_inference_steps": None, "guidance_scale": None, "image_guidance_scale": None}
    with pytest.raises(ValueError, match=f"this model has no {name}: "):
        PixelEditor(**parts).edit(
            render([BEFORE], 64)[0], "make the star green", seed=3, **(given | {name: 2.0})
        )


def test_what_did_not_change_keeps_the_sources_pixels_bit_for_bit():
    source, wanted = render([BEFORE], 128)[0], render([AFTER], 128)[0]
    rng = np.random.default_rng(0)
    grainy = np.clip(wanted + rng.normal(0, 8, wanted.shape), 0, 255).astype(np.uint8)
    weight = editing.change_mask(source, grainy)
    result = editing.keep_source(source, grainy, weight)
    assert (result[:, :60] == source[:, :60]).all()
    assert (result[60:68, 90:100] == grainy[60:68, 90:100]).all()


def test_a_change_is_carried_back_to_a_picture_of_another_size():
    source, wanted = render([BEFORE], 128)[0], render([AFTER], 128)[0]
    large = render([BEFORE], 300)[0][20:280]
    result = editing.keep_source(large, wanted, editing.change_mask(source, wanted))
    assert result.shape == large.shape
    assert (result[:, :140] == large[:, :140]).all()
    assert np.abs(result[120:140, 220:230].astype(int) - (20, 165, 45)).max() <= 2


def test_a_close_up_is_taken_around_the_change_and_in_the_picture():
    """A change that is larger is seen in close-ups that overlap by half; none, or a speck, is not looked at."""
    changed = np.zeros((128, 128), np.uint8)
    assert editing.views(changed, 64) == []
    changed[60:63, 60:63] = 255
    assert editing.views(changed, 64) == []
    for rows, middle in ((np.s_[40:60], (57, 17)), (np.s_[5:30], (57, editing.APART))):
        changed[:] = 0
        changed[rows, 75:104] = 255
        found = editing.views(changed, 64)
        assert len({*found}) == 9 and found[4] == middle
        assert {y - middle[1] for _, y in found} == {-editing.APART, 0, editing.APART}
    changed[:] = 255
    assert editing.views(changed, 64) == [(x, y) for y in (0, 32, 64) for x in (0, 32, 64)]


def test_changes_are_divided_only_if_two_of_like_size_lie_apart():
    changed = np.zeros((128, 128), np.uint8)
    changed[20:50, 20:50] = 255
    assert not editing.is_divided(changed)
    changed[52:60, 20:40] = 200  # a speck of it
    assert not editing.is_divided(changed)
    changed[80:110, 70:90] = 255
    assert editing.is_divided(changed)
    changed[:], changed[10:60, 10:60], changed[15:55, 15:55], changed[25:45, 25:45] = 0, 255, 0, 255
    assert not editing.is_divided(changed)  # a ring, and what stands in it


def test_close_ups_are_joined_without_seams():
    """What all of them say stays; where two differ, each has its way at the other's edge."""
    corners = editing.views(np.full((32, 32), 255, np.uint8), 16)
    ramp = np.linspace(-1, 1, 32, dtype=np.float32)[None, :] * np.ones((2, 32, 32), np.float32)
    parts = np.stack([ramp[:, y : y + 16, x : x + 16] for x, y in corners])
    assert np.abs(editing.joined(parts, corners) - ramp).max() < 1e-6
    two = np.stack([np.zeros((1, 16, 16)), np.ones((1, 16, 16))])
    row = editing.joined(two, [(30, 5), (38, 5)])[0, 4]
    assert len(row) == 24 and (row[:8] == 0).all() and (row[16:] == 1).all()
    assert (np.diff(row[7:17]) > 0).all() and np.abs(np.diff(row[7:17])).max() < 0.3


def test_a_picture_that_is_painted_again_as_it_was_counts_as_unchanged():
    source = render([BEFORE], 128)[0]
    assert not editing.change_mask(source, source).any()


def test_a_close_up_is_painted_in_the_colours_that_the_picture_has():
    """A black that the source has as dark gray stays that; a colour that it has not is the
    world's.
    """
    source = np.full((8, 8, 3), 12, np.uint8)
    layers = np.full((2, 8, 8), -1.0, np.float32)
    layers[:, 2:4] = 1
    layers[0, 4] = 1
    scores = np.zeros((12, 8, 8), np.float32)
    scores[list(BACKGROUNDS).index("black")] = 50
    scores[len(BACKGROUNDS) + list(COLOURS).index("green")] = 50
    wanted = source.copy()
    wanted[2:4] = COLOURS["green"]
    assert (editing.develop(source, layers, scores) == wanted).all()


def test_a_picture_has_one_background_and_a_thing_one_colour():
    """Pixels that are told otherwise, fewer than the rest, are painted like the rest; what is barely
    covered is not painted.
    """
    source = np.zeros((16, 32, 3), np.uint8)
    layers = np.ones((2, 16, 32), np.float32)
    layers[1] = np.where(np.arange(32) < 16, -0.6, np.where(np.arange(32) < 24, 1, -1))
    scores = np.zeros((12, 16, 32), np.float32)
    scores[list(BACKGROUNDS).index("white")] = 5
    scores[list(BACKGROUNDS).index("brown"), :9, 16:] = 9
    scores[len(BACKGROUNDS) + list(COLOURS).index("green"), :, 16:] = 5
    scores[len(BACKGROUNDS) + list(COLOURS).index("pink"), 4:6, 16:] = 9
    wanted = np.full_like(source, BACKGROUNDS["white"])
    wanted[:, 16:24] = COLOURS["green"]
    assert (editing.develop(source, layers, scores) == wanted).all()


def test_a_blurred_edge_becomes_one_pixel_wide():
    ramp = np.tile(np.linspace(0, 1, 9, dtype=np.float32), (9, 1))
    assert (editing.sharpened(ramp)[:, [3, 4, 5]] == (0, 0.5, 1)).all()


def test_a_lesson_of_a_close_up_says_what_things_cover():
    """In the close-up's own measure, where radii are twice as large."""
    scene = Scene("black", (Thing("small", "blue", "square", 0.5, 0.5),))
    cover, colours = training._covered([scene], 64), training._nearest([scene], 16)
    drawn = render([Scene("black", (Thing("small", "blue", "square", 0.5, 0.5),))], 128)[0]
    assert 0.8 < (cover > 0.5).sum() / drawn.any(-1).sum() < 1.0
    assert (colours == list(COLOURS).index("blue")).all()
    assert (training._nearest([Scene("black", ())], 16) == -1).all()
