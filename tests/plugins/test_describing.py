"""The embedded captioner's refusal: captions are compared with their pictures, and given only if
they are likely enough to be right.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow_embedded import WEIGHTS
from imagen_flow_embedded.inference.comparing import Claim, Leftover, Outline, compare
from imagen_flow_embedded.inference.describing import (
    SIGNALS,
    Calibration,
    Reading,
    ShapesCaptioner,
    Signals,
    weigh,
)
from imagen_flow_embedded.training import captioner, refusal
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    caption,
    coverage,
    render,
)

PAIR = Scene(
    "black",
    (Thing("large", "red", "circle", 0.25, 0.5), Thing("small", "blue", "star", 0.75, 0.45)),
)
CLAIMS = tuple(Claim(thing.size, thing.colour, thing.shape) for thing in PAIR.things)
SENTENCE = "a large red circle left of a small blue star on a black background"
CAPTION = """
imagen_flow: 1
inputs: {file: {type: file}}
nodes:
  loaded: {type: image.load, file: "${file}"}
  words:  {type: image.caption, model: embedded/caption, image: "${loaded}"}
outputs: {words: "${words}", confidence: "${words.confidence}"}
"""


DISC = (Claim("large", "red", "circle"),)
DISCS = Scene("black", (replace(PAIR.things[0], x=0.5),))


def signals(spread=0.1, away=0.0):
    """Give the signals of a caption of a disc."""
    left = Leftover((Outline("circle", spread),), 0.0, away, 0.0)
    return Signals(0.1, -5.0, left)


def polygon(corners, radius, *, turn=0.0):
    """Draw a red polygon on black; its radius is in pixels of 128."""
    from PIL import Image, ImageDraw

    angles = turn + np.arange(corners) * 2 * np.pi / corners
    canvas = Image.new("RGB", (512, 512))
    outline = 256 + 4 * radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline], fill=COLOURS["red"])
    return np.asarray(canvas.reduce(4))


def painted(picture, shape, x, y, radius, colour):
    """Paint a shape over a picture."""
    side = len(picture)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    alpha = coverage(shape, axis[None] - x, axis[:, None] - y, radius, 1 / side)[..., None]
    return np.rint(picture + alpha * (np.array(colour) - picture)).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 128, 300])
def test_a_true_caption_leaves_nothing_over_whatever_the_size_of_the_picture(side):
    for claims in (CLAIMS, CLAIMS[::-1]):
        left = compare(render([PAIR], side)[0], "black", claims)
        assert {outline.shape for outline in left.outlines} == {"circle", "star"}
        assert max(outline.spread for outline in left.outlines) < 0.35
        assert left.inside < 0.1 and left.away < 0.05
        assert left.scale < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_edges_leave_little_over(shape):
    from PIL import Image, ImageFilter

    things = (replace(PAIR.things[0], shape=shape), PAIR.things[1])
    soft = Image.fromarray(render([replace(PAIR, things=things)], 128)[0])
    picture = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.7)))
    left = compare(picture, "black", (replace(CLAIMS[0], shape=shape), CLAIMS[1]))
    assert max(outline.spread for outline in left.outlines) < 0.25
    assert left.inside < 0.1 and left.away < 0.1


def test_a_hole_and_a_third_thing_are_left_over():
    picture = render([PAIR], 128)[0]
    spot = painted(picture, "circle", 0.27, 0.5, 0.03, COLOURS["orange"])
    third = painted(picture, "square", 0.5, 0.85, 0.05, COLOURS["purple"])
    assert compare(spot, "black", CLAIMS).inside > 0.3
    assert compare(third, "black", CLAIMS).away > 0.3


def test_the_wrong_shape_has_another_outline():
    picture = render([PAIR], 128)[0]
    for shape in SHAPES[1:]:
        left = compare(picture, "black", (replace(CLAIMS[0], shape=shape), CLAIMS[1]))
        assert max(outline.spread for outline in left.outlines) > 1.2


@pytest.mark.parametrize(("corners", "spread"), [(5, 0.9), (6, 0.6), (8, 0.4)])
def test_the_outline_of_a_polygon_is_not_that_of_a_disc(corners, spread):
    found = compare(polygon(corners, 27), "black", DISC).outlines[0]
    assert found.spread > spread
    assert compare(render([DISCS], 128)[0], "black", DISC).outlines[0].spread < 0.15


def test_words_that_are_no_whole_sentence_are_not_weighed():
    picture = render([PAIR], 64)[0]
    assert weigh(picture, Reading(SENTENCE, 0.1, -5.0)) is not None
    for words in (
        "",
        "a large red circle",
        "a red circle on a black background",
        "a large red circle a small blue star on a black background",
    ):
        assert weigh(picture, Reading(words, 0.1, -5.0)) is None


def test_a_signal_only_ever_speaks_against_a_caption():
    """Where the examples say otherwise, its weight is zero."""
    rng = np.random.default_rng(0)
    vectors = rng.random((400, len(SIGNALS)))
    right = vectors[:, 2] + 0.1 * rng.standard_normal(400) < 0.5
    vectors[:, 0] += 3 * right
    *weights, bias = refusal.regress(vectors, right)
    assert weights[0] == 0 and weights[2] < -5 < 0 < bias
    assert all(weight <= 0 for weight in weights)


def test_outlines_are_judged_by_what_is_usual_of_their_shape():
    """What is usual is learnt from captions that are right."""
    known = [signals(spread) for spread in np.linspace(0.1, 0.3, 50)]
    strange = [signals(spread) for spread in np.linspace(0.7, 1.5, 40)]
    crowded = [signals(away=0.5)] * 10
    right = np.array([True] * 50 + [False] * 50)
    fitted = refusal.fit([*known, *strange, *crowded], right)
    assert fitted.edges["circle"] == pytest.approx(0.28, abs=0.01)
    assert fitted.edges["star"] == refusal.START.edges["star"]
    found = [fitted.probability(signals(*given)) for given in ((0.2,), (0.8,), (0.2, 0.5))]
    assert [likely > fitted.least for likely in found] == [True, False, False]


def test_an_untrained_captioner_is_calibrated_to_describe_nothing_with_a_note(tmp_path):
    trained = captioner.train_captioner(
        tmp_path / "trained", steps=1, batch_size=4, width=32, encoder_layers=1, decoder_layers=1
    )
    calibrating = refusal.calibrate_captioner(tmp_path, _end(trained), count=3)
    assert [note for *_, note in calibrating if note] == [refusal.UNTRAINED]
    model = type("M", (), {"path": tmp_path / "caption", "reference": "./mine"})()
    calibration = Calibration.read(model)
    assert calibration.probability(signals(spread=0.0)) < calibration.least


def test_calibrating_keeps_the_captioner_and_writes_a_calibration(tmp_path):
    found = _end(refusal.calibrate_captioner(tmp_path, WEIGHTS / "caption", count=3))
    weights = "model.safetensors"
    assert (found / weights).read_bytes() == (WEIGHTS / "caption" / weights).read_bytes()
    calibration = json.loads((found / "calibration.json").read_text("utf-8"))
    assert set(calibration["weights"]) == set(SIGNALS)
    assert set(calibration["edges"]) == set(SHAPES)


def test_a_known_picture_is_described_and_others_get_no_words_low_confidence_and_a_note(tmp_path):
    picture = render([PAIR], 128)[0]
    ring = painted(picture, "circle", 0.25, 0.5, 0.12, BACKGROUNDS["black"])
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    answers = []
    for number, pixels in enumerate((picture, ring, noise)):
        file = tmp_path / f"{number}.png"
        flow.Image(pixels).to_pil().save(file)
        (tmp_path / "graph.yaml").write_text(CAPTION, "utf-8")
        found = flow.run(tmp_path / "graph.yaml", {"file": str(file)}, store=None, device="cpu")
        answers.append((found["words"], found["confidence"] > 0.5, bool(found.notes)))
    assert answers == [(SENTENCE, True, False), ("", False, True), ("", False, True)]


@pytest.fixture(scope="module")
def captioner_shipped():
    return ShapesCaptioner.load(
        type("M", (), {"path": WEIGHTS / "caption", "reference": "embedded/caption"})(),
        device="cpu",
        dtype="float32",
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_each_shape_is_described_with_sharp_and_with_soft_edges(captioner_shipped, shape, size):
    from PIL import Image, ImageFilter

    scene = Scene("gray", (Thing(size, "yellow", shape, 0.25, 0.45), PAIR.things[1]))
    picture = render([scene], 128)[0]
    soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7))
    for pixels in (picture, np.asarray(soft)):
        assert captioner_shipped.caption(pixels)[0] == caption(scene)


@pytest.mark.parametrize("wide", [True, False])
def test_a_picture_that_is_no_square_is_described_by_its_true_shapes(captioner_shipped, wide):
    """Cut off where there is only background, or with more background on both sides."""
    picture = render([DISCS], 128)[0]
    cut, more = picture[20:108], np.pad(picture, ((0, 0), (14, 14), (0, 0)))
    for pixels in (cut, more) if wide else (cut.swapaxes(0, 1), more.swapaxes(0, 1)):
        assert captioner_shipped.caption(pixels)[0] == caption(DISCS)


def near_misses():
    """Draw pictures that are nearly of the world, each of its own kind."""
    picture = render([PAIR], 128)[0]
    disc = render([DISCS], 128)[0]
    face = painted(disc, "circle", 0.43, 0.45, 0.03, COLOURS["yellow"])
    face = painted(face, "circle", 0.57, 0.45, 0.03, COLOURS["yellow"])
    oval = np.repeat(np.repeat(disc, 5, 0), 4, 1)[64:576]
    rounded = painted(np.zeros_like(picture), "square", 0.5, 0.5, 0.2, COLOURS["red"])
    corner = np.hypot(*np.meshgrid(*[np.abs(np.arange(128) - 63.5)] * 2)) > 27
    return {
        "a pentagon": polygon(5, 27),
        "a hexagon": polygon(6, 27),
        "a small hexagon": polygon(6, 16, turn=0.3),
        "a heptagon": polygon(7, 27),
        "an octagon": polygon(8, 27),
        "a small octagon": polygon(8, 16),
        "a pink background": painted(
            np.full_like(picture, COLOURS["pink"]), "circle", 0.5, 0.5, 0.2, COLOURS["red"]
        ),
        "a picture squashed sideways": picture.reshape(128, 64, 2, 3).mean(2).astype(np.uint8),
        "a tilted square": polygon(4, 30, turn=0.4),
        "a square without its corners": np.where(corner[..., None], 0, rounded).astype(np.uint8),
        "a ring": painted(picture, "circle", 0.25, 0.5, 0.1, BACKGROUNDS["black"]),
        "a face": face,
        "a third thing": painted(picture, "square", 0.5, 0.85, 0.06, COLOURS["red"]),
        "an oval": oval.astype(np.uint8),
    }


@pytest.mark.parametrize("kind", list(near_misses()))
def test_a_near_miss_gets_no_words(captioner_shipped, kind):
    words, likely = captioner_shipped.caption(near_misses()[kind])
    assert words == "" and likely < 0.5


def test_a_damaged_calibration_is_named(tmp_path):
    shutil.copytree(WEIGHTS / "caption", tmp_path / "mine")
    (tmp_path / "mine" / "calibration.json").write_text('{"weights": {}}', "utf-8")
    graph = tmp_path / "graph.yaml"
    graph.write_text(CAPTION.replace("embedded/caption", "./mine"), "utf-8")
    file = tmp_path / "a.png"
    flow.Image(render([PAIR], 64)[0]).to_pil().save(file)
    with pytest.raises(flow.ImagenFlowError, match="damaged") as caught:
        flow.run(graph, {"file": str(file)}, store=None, device="cpu")
    assert "'./mine' is damaged: calibration.json cannot be read" in str(caught.value)


def _end(training):
    """Run a generator to its end and give what it returns."""
    while True:
        try:
            next(training)
        except StopIteration as end:
            return end.value


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    written = Calibration(dict.fromkeys(SIGNALS, -1.5), 2.0, 0.5, dict.fromkeys(SHAPES, 0.3))
    written.write(tmp_path)
    model = type("M", (), {"path": tmp_path, "reference": "./mine"})()
    assert Calibration.read(model) == written
