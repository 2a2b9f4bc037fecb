"""The embedded editor as it ships: what it reads, what it paints, and where it keeps its hands off."""

from __future__ import annotations

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow_embedded import WEIGHTS
from imagen_flow_embedded.inference import editing
from imagen_flow_embedded.inference.editor import PixelEditor
from imagen_flow_embedded.inference.reading import FACTS, find_doubts, read
from imagen_flow_embedded.training.foreign import draw_foreign
from imagen_flow_embedded.world import EDIT_KINDS, SHAPES, Scene, Thing, draw_edit, render

READ = {
    "make it more red": {"kind": "colour", "new_colour": "red"},
    "make the circle a bit bigger": {"kind": "size", "shape": "circle", "new_size": "large"},
    "the star should be pink": {"kind": "colour", "shape": "star", "new_colour": "pink"},
    "recolor the disc violet": {"kind": "colour", "shape": "circle", "new_colour": "purple"},
    "Turn the background to white.": {"kind": "background", "new_background": "white"},
    "white background": {"kind": "background", "new_background": "white"},
    "delete the left shape": {"kind": "remove", "place": "left"},
    "get rid of the big one": {"kind": "remove", "size": "large"},
    "no circle please": {"kind": "remove", "shape": "circle"},
    "swap the red circle for a green square": {
        "kind": "shape",
        "colour": "red",
        "shape": "circle",
        "new_colour": "green",
        "new_shape": "square",
    },
    "I want a green star instead of the red circle": {
        "kind": "shape",
        "colour": "red",
        "shape": "circle",
        "new_colour": "green",
        "new_shape": "star",
    },
    "make the cyan star yellow instead of cyan": {
        "kind": "colour",
        "colour": "cyan",
        "shape": "star",
        "new_colour": "yellow",
    },
    "red -> blue": {"kind": "colour", "colour": "red", "new_colour": "blue"},
    "circle => star": {"kind": "shape", "shape": "circle", "new_shape": "star"},
    "black → gray": {"kind": "background", "new_background": "gray"},
    "the star in pink please": {"kind": "colour", "shape": "star", "new_colour": "pink"},
    "I'd prefer a green circle": {"kind": "colour", "shape": "circle", "new_colour": "green"},
    "change the circle from red to green": {
        "kind": "colour",
        "colour": "red",
        "shape": "circle",
        "new_colour": "green",
    },
    "Please could you make the small circle large?": {
        "kind": "size",
        "size": "small",
        "shape": "circle",
        "new_size": "large",
    },
}
UNREAD = (
    *("leave the red circle alone", "don't remove the circle", "Do not change the blue star."),
    *("never delete the star", "keep the circle as it is", "move the circle to the left"),
    *("rotate the square", "add a red star", "make both shapes red", "remove everything"),
    *("make the circle red and the square blue", "remove the circle and the star"),
    *("is the circle red?", "make the circle not red"),
    *("make the hexagon blue", "turn the circle into a dog", "make it nice"),
    *("a red circle and a green square", "a yellow star above a pink cross", "paint it black"),
    *("I see a red circle and a blue square", "make the circle white"),
)


@pytest.fixture(scope="module")
def editor():
    return PixelEditor.load(flow.Model(WEIGHTS / "edit"), device="cpu", dtype="float32")


def edit(editor, picture, instruction):
    """Give the edited picture and the notes."""
    steps = editor.edit(
        picture,
        instruction,
        seed=0,
        num_inference_steps=None,
        guidance_scale=None,
        image_guidance_scale=None,
    )
    notes = []
    while True:
        try:
            notes += next(steps)[2:]
        except StopIteration as end:
            return end.value, notes


def test_instructions_are_read_as_people_type_them(editor):
    said = read(list(READ), editor.text_encoder, editor.tokenizer, editor.plan)
    found = [{fact: value for fact, value in each.facts.items() if value} for each in said]
    assert dict(zip(READ, found, strict=True)) == READ
    assert [each.doubts for each in said] == [()] * len(READ)


def test_what_asks_for_no_single_change_is_read_as_none(editor):
    said = read(UNREAD, editor.text_encoder, editor.tokenizer, editor.plan)
    assert [
        words for words, each in zip(UNREAD, said, strict=True) if each.facts["kind"] != "nothing"
    ] == []


def doubts(words, **said):
    """Find the doubts of a reading of words; facts that are not given are not said."""
    return find_doubts({**dict.fromkeys(FACTS), **said}, words.split())


def test_a_reading_that_does_not_fit_the_words_is_doubted():
    """Whatever is left out, made up, or missing; an old background may stand beside the new."""
    fits = {"kind": "colour", "shape": "circle", "new_colour": "blue"}
    assert doubts("make the circle blue", **fits) == ()
    assert doubts("make the circle blue and the square", **fits) == ("'square' is left out",)
    assert doubts("make the blue", **fits) == ("'circle' is not in it",)
    more = {**fits, "new_shape": "circle"}
    assert doubts("make the circle blue", **more) == ("it says another shape too",)
    unsaid = {"kind": "shape", "shape": "square"}
    assert doubts("make the square", **unsaid) == ("it does not say which shape there is to be",)
    ground = {"kind": "background", "new_background": "white"}
    assert doubts("replace the black background with white", **ground) == ()
    assert doubts("make the circle blue like the stars", **fits) == ("'stars' is left out",)
    assert doubts("red circle", kind="nothing") == ()


def test_an_instruction_that_may_be_misread_keeps_every_pixel_with_a_note(editor):
    picture = render([Scene("white", (Thing("large", "red", "circle", 0.5, 0.5),))], 128)[0]
    after, notes = edit(editor, picture, "just the circle, without the square")
    assert (after == picture).all()
    (note,) = notes
    assert note.startswith("the instruction may be misread (") and "is left out" in note


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_is_near_the_ideal_picture_and_leaves_no_ghost(editor, kind):
    """Of the changed pixels few are off; of the others none."""
    rng = np.random.default_rng(31)
    drawn = [draw_edit(rng, held_out=True, kind=kind) for _ in range(4)]
    off, ghosts = [], []
    for each in drawn:
        before, ideal = render([each.before, each.after], 128)
        after, notes = edit(editor, before, each.instruction)
        error = np.abs(after.astype(int) - ideal).max(-1) > 25
        changed = (before != ideal).any(-1)
        off.append(error[changed].mean())
        ghosts.append(error[~changed].mean())
        assert notes == []
    # of a new background, the edges of all things are painted too
    assert np.mean(off) < 0.15 and np.mean(ghosts) < (0.01 if kind == "background" else 0.002)


def test_twins_are_told_apart(editor):
    """Of two stars the one that is named changes."""
    stars = (Thing("large", "green", "star", 0.28, 0.5), Thing("large", "blue", "star", 0.72, 0.5))
    becomes = (stars[0], Thing("large", "pink", "star", 0.72, 0.5))
    before, ideal = render([Scene("brown", stars), Scene("brown", becomes)], 128)
    after, _ = edit(editor, before, "make the blue star pink")
    assert (np.abs(after.astype(int) - ideal).max(-1) > 25).mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_a_thing_that_is_not_there_changes_nothing_with_a_note(editor, seed):
    rng = np.random.default_rng(seed)
    scene = draw_edit(rng, held_out=True, kind="colour").before
    absent = next(shape for shape in SHAPES if shape not in {thing.shape for thing in scene.things})
    picture = render([scene], 128)[0]
    after, notes = edit(editor, picture, f"make the {absent} pink")
    assert (after == picture).all()
    assert notes == [f"{editing.UNSEEN}: the picture stays as it is"]


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_picture_of_anything_else_keeps_its_pixels_with_a_note(editor, seed):
    picture = draw_foreign(np.random.default_rng(seed), 128)
    after, notes = edit(editor, picture, "remove the circle")
    assert (after == picture).all() and len(notes) == 1


def test_an_instruction_that_asks_for_nothing_keeps_every_pixel_of_any_size(editor):
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    for words in ("", "keep the circle"):
        after, notes = edit(editor, picture, words)
        assert (after == picture).all()
    assert notes == [f"{editing.UNREAD}: the picture stays as it is"]


def test_an_instruction_that_fits_two_things_changes_neither_and_says_so(editor):
    things = (
        Thing("large", "red", "circle", 0.25, 0.5),
        Thing("small", "red", "square", 0.75, 0.5),
    )
    picture = render([Scene("white", things)], 128)[0]
    for words in ("make the red one blue", "remove the red thing"):
        after, notes = edit(editor, picture, words)
        assert (after == picture).all()
        assert notes == [f"{editing.AMBIGUOUS}: the picture stays as it is"]


def test_a_thing_keeps_a_colour_that_the_world_has_not(editor):
    """Where it is painted again, as at its edge on a new background or when it shrinks."""
    from PIL import Image, ImageDraw

    drawn = Image.new("RGB", (128, 128), "black")
    ImageDraw.Draw(drawn).ellipse((34, 44, 74, 84), fill=(0, 0, 255))
    for words in ("make the background white", "make the circle small"):
        after, _ = edit(editor, np.asarray(drawn), words)
        blue = (after[..., 2] > 200) & (after[..., :2].max(-1) < 100)
        assert (after[blue][:, :2].max(-1) == 0).mean() > 0.95
