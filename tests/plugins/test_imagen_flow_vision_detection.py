"""image.detect: its boxes, labels and scores are those of the library; and what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_image.boxes import crop_boxes, draw_boxes
from imagen_flow_vision.detection import detect
from imagen_flow_vision.networks import load_processor
from imagen_flow_vision.tiny.makers import MAKERS

__all__ = ["MAKERS"]

SHAPES = [(40, 60, 3), (33, 20, 4)]
WORDS = ["a fox", "an owl"]


def by_hand(folder: str, cls: str, image: flow.Image, least: float, **text: Any) -> Any:
    """Give what a model of transformers finds, by its processor."""
    from pathlib import Path

    import torch
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    with quiet_libraries():
        model = getattr(transformers, cls).from_pretrained(folder).eval()
        if text:
            name = PROCESSOR_MAPPING_NAMES[model.config.model_type]
            processor: Any = load_processor(getattr(transformers, name), Path(folder))
        else:
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    read = processor(images=image.rgb().to_pil(), return_tensors="pt", **text)
    with torch.no_grad():
        outputs = model(**read)
    size = [(image.height, image.width)]
    if "input_ids" in read and "Owl" not in cls:
        return processor.post_process_grounded_object_detection(
            outputs, read["input_ids"], threshold=least, target_sizes=size
        )[0]
    if text:
        return processor.post_process_grounded_object_detection(
            outputs, threshold=least, target_sizes=size, text_labels=text["text"]
        )[0]
    found = processor.post_process_object_detection(outputs, threshold=least, target_sizes=size)[0]
    return found | {"text_labels": [model.config.id2label[n] for n in found["labels"].tolist()]}


def pairs(found: Any) -> list[tuple[float, list[float]]]:
    """Give scores and boxes, the highest score first."""
    listed = zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    return sorted(listed, key=lambda one: -one[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("detr", "DetrForObjectDetection"),
        ("rt-detr", "RTDetrForObjectDetection"),
        ("yolos", "YolosForObjectDetection"),
        ("owlvit", "OwlViTForObjectDetection"),
        ("grounding-dino", "GroundingDinoForObjectDetection"),
    ],
)
def test_what_is_detected_is_what_the_library_finds(
    kind: str, cls: str, shape: tuple[int, ...], at: Any, look: Any, noisy: Any
) -> None:
    """Scores and boxes are the library's bit for bit, the most certain first, and so are labels."""
    text: dict[str, Any] = {"owlvit": {"text": [WORDS]}, "grounding-dino": {"text": WORDS}}.get(
        kind, {}
    )
    least = 0.1
    found = look(
        detect,
        noisy(*shape),
        model=at(kind),
        threshold=least,
        **({"words": WORDS} if text else {}),
    )
    wanted = by_hand(at(kind), cls, noisy(*shape), least, **text)
    assert found["number"] == len(found["detections"]) >= 2
    assert [(one["score"], one["box"]) for one in found["detections"]] == pairs(wanted)
    assert found["labels"] == [one["label"] for one in found["detections"]]
    if kind != "grounding-dino":
        labels = dict(zip(wanted["scores"].tolist(), wanted["text_labels"], strict=True))
        assert found["labels"] == [labels[one["score"]] for one in found["detections"]]


def test_owlv2_drops_what_lies_in_its_padding(at: Any, look: Any, noisy: Any) -> None:
    """It sees a picture padded to a square; boxes that lie wholly beside the picture are left out."""
    image = noisy(20, 60)
    found = look(detect, image, model=at("owlv2"), words=WORDS, threshold=0.0)
    wanted = by_hand(at("owlv2"), "Owlv2ForObjectDetection", image, 0.0, text=[WORDS])
    inside = [pair for pair in pairs(wanted) if pair[1][1] < 20]
    assert [(one["score"], one["box"]) for one in found["detections"]] == inside
    assert 0 < len(inside) < len(pairs(wanted))


def test_a_label_of_grounding_dino_is_one_of_the_words(at: Any, look: Any, noisy: Any) -> None:
    """Each box has the word whose tokens score highest in it: another order of the words gives the
    labels of that reading, never a mixture.
    """
    found = look(detect, noisy(40, 60), model=at("grounding-dino"), words=WORDS, threshold=0.1)
    assert set(found["labels"]) <= set(WORDS)
    single = look(detect, noisy(40, 60), model=at("grounding-dino"), words=["Owl"], threshold=0.1)
    assert set(single["labels"]) == {"Owl"}


def test_a_picture_in_which_nothing_is_found_gives_an_empty_list(
    at: Any, look: Any, noisy: Any
) -> None:
    """The result is no error: it has a note, and nothing is cropped."""
    found = look(detect, noisy(20, 20), model=at("detr"), threshold=1.0)
    assert (found["detections"], found["labels"], found["number"]) == ([], [], 0)
    assert found.notes == ["nothing was found; a lower 'threshold' finds more"]
    assert look(crop_boxes, noisy(20, 20), boxes=[])["value"] == []


def test_a_detectors_words_choose_among_its_labels(at: Any, look: Any, noisy: Any) -> None:
    """What is left are the things with these labels; a word that it was not trained with is refused."""
    all_of = look(detect, noisy(40, 60), model=at("rt-detr"), threshold=0.0)
    some = look(detect, noisy(40, 60), model=at("rt-detr"), threshold=0.0, words=["owl"])
    assert some["detections"] == [one for one in all_of["detections"] if one["label"] == "owl"]
    with pytest.raises(flow.NodeError, match="finds only its own labels; did you mean 'teapot'"):
        look(detect, noisy(9, 9), model=at("detr"), words=["teapots"])


@pytest.mark.parametrize(
    ("kind", "ports", "told"),
    [
        ("owlvit", {}, "port 'words' is missing"),
        ("owlvit", {"words": [""]}, "number 1 of port 'words' is empty"),
        ("grounding-dino", {"words": ["a fox. an owl"]}, "leave out the full stop"),
        ("grounding-dino", {"words": ["x " * 300]}, "tokens, and the model"),
    ],
)
def test_words_that_cannot_be_looked_for_are_refused(
    kind: str, ports: dict[str, Any], told: str, at: Any, look: Any, noisy: Any
) -> None:
    """The message names the port and says what to do."""
    with pytest.raises(flow.NodeError) as caught:
        look(detect, noisy(9, 9), model=at(kind), **ports)
    assert told in str(caught.value.__cause__)


def test_a_picture_that_would_be_resized_to_nothing_is_refused(
    at: Any, look: Any, noisy: Any
) -> None:
    """A picture of 300 x 3 has no pixels left at the size of a detector."""
    with pytest.raises(flow.NodeError, match="the picture of 300 x 3 is too small or too narrow"):
        look(detect, noisy(3, 300), model=at("detr"))


# --- boxes


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_crops_are_the_pixels_of_the_boxes(
    channels: int, dtype: str, look: Any, noisy: Any
) -> None:
    """A box is rounded outwards, cut at the picture's edge, and grown by a margin."""
    image = noisy(20, 30, channels, dtype)
    boxes = [[2.6, 3.0, 9.2, 8.4], {"label": "a", "box": [-4, 15, 5, 40]}, [7, 7, 7, 7]]
    found = look(crop_boxes, image, boxes=boxes)["value"]
    wanted = [image.pixels[3:9, 2:10], image.pixels[15:20, :5], image.pixels[7:8, 7:8]]
    for crop, pixels in zip(found, wanted, strict=True):
        assert crop.pixels.dtype == pixels.dtype and np.array_equal(crop.pixels, pixels)
    (grown,) = look(crop_boxes, image, boxes=[[10, 10, 14, 12]], margin=0.5)["value"]
    assert np.array_equal(grown.pixels, image.pixels[8:14, 8:16])


def test_drawn_boxes_leave_the_rest_of_the_picture(look: Any, noisy: Any) -> None:
    """Lines have their width and colour; inside and outside every pixel stays."""
    image = noisy(60, 80, 3, "uint16")
    drawn = look(
        draw_boxes, image, boxes=[[10, 20, 40, 50]], width=2, colour="#ff0000", label_size=0
    )["value"]
    line = np.zeros((60, 80), bool)
    line[20:50, 10:40] = True
    line[22:48, 12:38] = False
    assert (drawn.pixels[line] == (65535, 0, 0)).all()
    assert np.array_equal(drawn.pixels[~line], image.pixels[~line])


def test_labels_are_written_in_colours_of_their_own(look: Any) -> None:
    """Things of one label have one colour, and another label another; letters are black on it."""
    black = flow.Image(np.zeros((80, 200, 1), np.uint8))
    boxes = [
        {"label": "fox", "score": 0.5, "box": [10, 30, 60, 70]},
        {"label": "狐狸", "score": 0.25, "box": [80, 30, 130, 70]},
        {"label": "fox", "score": 0.1, "box": [140, 0, 190, 70]},
    ]
    drawn = look(draw_boxes, black, boxes=boxes, width=1)["value"].pixels
    assert drawn[70 - 1, 20].tolist() == drawn[70 - 1, 150].tolist() == [0xE6, 0x9F, 0x00]
    assert drawn[70 - 1, 90].tolist() == [0x56, 0xB4, 0xE9]
    above = drawn[16:30, 10:40]
    assert (above == (0xE6, 0x9F, 0x00)).all(-1).any() and (above.max(-1) < 100).any()


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([1, 2, 3], "number 1 of port 'boxes' is no box: [1, 2, 3]"),
        ({"label": "a"}, "is no box: {'label': 'a'}"),
        ([5, 5, 1, 9], "ends before it begins"),
        ([50, 5, 60, 9], "lies beside the picture of 9 x 9"),
    ],
)
def test_what_is_no_box_in_the_picture_is_refused(
    box: Any, told: str, look: Any, noisy: Any
) -> None:
    """The message says which, and what a box is."""
    for node in (crop_boxes, draw_boxes):
        with pytest.raises(flow.NodeError) as caught:
            look(node, noisy(9, 9), boxes=[box])
        assert told in str(caught.value.__cause__)
