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
from imagen_flow_embedded.inference.comparing import Claim, compare
from imagen_flow_embedded.inference.describing import (
    SIGNALS,
    Calibration,
    Reading,
    Signals,
    weigh,
)
from imagen_flow_embedded.training import captioner, refusal
from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, Scene, Thing, coverage, render

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


def signals(**found):
    return Signals(**dict.fromkeys(SIGNALS, 0.0) | found)


def painted(picture, shape, x, y, radius, colour):
    """Paint a shape over a picture."""
    side = len(picture)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    alpha = coverage(shape, axis[None] - x, axis[:, None] - y, radius, 1 / side)[..., None]
    return np.rint(picture + alpha * (np.array(colour) - picture)).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 128, 300])
def test_a_true_caption_leaves_nothing_over_whatever_the_size_of_the_picture(side):
    left = compare(render([PAIR], side)[0], "black", CLAIMS)
    assert left.worst < 0.25 and left.away < 0.1 and left.whole < 0.05
    assert left.rival < 0.3 and left.scale < 0.05
    turned = compare(render([PAIR], side)[0], "black", CLAIMS[::-1])
    assert turned.worst < 0.25


def test_soft_edges_leave_little_over():
    from PIL import Image, ImageFilter

    picture = Image.fromarray(render([PAIR], 128)[0]).filter(ImageFilter.GaussianBlur(1.5))
    left = compare(np.asarray(picture), "black", CLAIMS)
    assert left.worst < 0.45 and left.away < 0.15


def test_a_hole_a_third_thing_and_another_shape_are_left_over():
    picture = render([PAIR], 128)[0]
    red = COLOURS["red"]
    ring = painted(picture, "circle", 0.25, 0.5, 0.1, BACKGROUNDS["black"])
    third = painted(picture, "square", 0.5, 0.85, 0.1, red)
    others = render(
        [replace(PAIR, things=(replace(PAIR.things[0], shape="cross"), PAIR.things[1]))], 128
    )
    for changed in (ring, third, others[0]):
        assert compare(changed, "black", CLAIMS).worst > 0.6
    for changed in (ring, third):
        assert compare(changed, "black", CLAIMS).away > 0.6


def test_a_polygon_is_told_from_a_disc():
    angle = np.arange(6) * np.pi / 3
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (512, 512))
    corners = [(256 + 108 * np.cos(a), 256 + 108 * np.sin(a)) for a in angle]
    ImageDraw.Draw(canvas).polygon(corners, fill=COLOURS["red"])
    claim = (Claim("large", "red", "circle"),)
    disc = render([Scene("black", (replace(PAIR.things[0], x=0.5),))], 128)[0]
    assert compare(np.asarray(canvas.reduce(4)), "black", claim).rival > 0.7
    assert compare(disc, "black", claim).rival < 0.3


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
    fitted = refusal.fit(vectors, right)
    assert fitted.weights["doubt"] == 0
    assert all(weight <= 0 for weight in fitted.weights.values())
    low, high = fitted.probability(signals(worst=0.1)), fitted.probability(signals(worst=0.9))
    assert low > 0.8 and high < 0.2


def test_an_untrained_captioner_is_calibrated_to_describe_nothing_with_a_note(tmp_path):
    trained = captioner.train_captioner(
        tmp_path / "trained", steps=1, batch_size=4, width=32, encoder_layers=1, decoder_layers=1
    )
    calibrating = refusal.calibrate_captioner(tmp_path, _end(trained), count=3)
    assert [note for *_, note in calibrating if note] == [refusal.UNTRAINED]
    model = type("M", (), {"path": tmp_path / "caption", "reference": "./mine"})()
    calibration = Calibration.read(model)
    surest = signals(**dict.fromkeys(SIGNALS, -99.0))
    assert calibration.probability(surest) < calibration.least


def test_calibrating_keeps_the_captioner_and_writes_a_calibration(tmp_path):
    found = _end(refusal.calibrate_captioner(tmp_path, WEIGHTS / "caption", count=3))
    weights = "model.safetensors"
    assert (found / weights).read_bytes() == (WEIGHTS / "caption" / weights).read_bytes()
    calibration = json.loads((found / "calibration.json").read_text("utf-8"))
    assert set(calibration["weights"]) == set(SIGNALS)


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
    written = Calibration(dict.fromkeys(SIGNALS, -1.5), 2.0, 0.5)
    written.write(tmp_path)
    model = type("M", (), {"path": tmp_path, "reference": "./mine"})()
    assert Calibration.read(model) == written
