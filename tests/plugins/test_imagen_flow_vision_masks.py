"""image.segment and mask.select: their masks are those of the library."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_diffusion.tiny import companions
from imagen_flow_vision.segmentation import segment
from imagen_flow_vision.selection import find, select
from imagen_flow_vision.tiny import makers

MAKERS = {**makers.MAKERS, "clipseg": partial(companions.clipseg)}

SHAPES = [(40, 60, 3), (37, 50, 4)]


def load(folder: str, cls: str) -> tuple[Any, Any]:
    import transformers

    with quiet_libraries():
        model = getattr(transformers, cls).from_pretrained(folder).eval()
        images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return model, images


def inside(mask: flow.Mask) -> np.ndarray:
    assert mask.pixels.dtype == np.uint8 and set(np.unique(mask.pixels)) <= {0, 255}
    marked: np.ndarray = mask.pixels[:, :, 0] == 255
    return marked


# --- regions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("segformer", "SegformerForSemanticSegmentation"),
        ("mask2former", "Mask2FormerForUniversalSegmentation"),
        ("detr-segments", "DetrForSegmentation"),
    ],
)
def test_labelled_pixels_are_those_of_the_library(
    kind: str, cls: str, shape: tuple[int, ...], at: Any, look: Any, noisy: Any
) -> None:
    """Each region holds the pixels of one label, and together they hold all."""
    import torch

    model, images = load(at(kind), cls)
    image = noisy(*shape)
    with torch.no_grad():
        outputs = model(**images(images=image.rgb().to_pil(), return_tensors="pt"))
    wanted = images.post_process_semantic_segmentation(outputs, target_sizes=[shape[:2]])[0].numpy()
    found = look(segment, image, model=at(kind), task="semantic")
    numbers = {label: number for number, label in model.config.id2label.items()}
    for one, mask in zip(found["segments"], found["masks"], strict=True):
        here = wanted == numbers[one["label"]]
        assert np.array_equal(inside(mask), here) and one["score"] is None
        rows, columns = np.nonzero(here)
        assert one["area"] == len(rows)
        assert one["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert inside(found["mask"]).all()
    areas = [one["area"] for one in found["segments"]]
    assert areas == sorted(areas, reverse=True) and sum(areas) == wanted.size


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_things_are_told_apart_as_in_the_library(task: str, at: Any, look: Any, noisy: Any) -> None:
    """Each thing has its own mask, label and score, and a colour of its own in the map."""
    import torch

    model, images = load(at("mask2former"), "Mask2FormerForUniversalSegmentation")
    image = noisy(40, 60)
    with torch.no_grad():
        outputs = model(**images(images=image.to_pil(), return_tensors="pt"))
    more = {"label_ids_to_fuse": set[int]()} if task == "panoptic" else {}
    wanted = getattr(images, f"post_process_{task}_segmentation")(
        outputs, threshold=0.1, target_sizes=[(40, 60)], **more
    )[0]
    found = look(segment, image, model=at("mask2former"), task=task, threshold=0.1)
    numbers = wanted["segmentation"].numpy()
    regions = [
        (model.config.id2label[one["label_id"]], one["score"], numbers == one["id"])
        for one in wanted["segments_info"]
        if (numbers == one["id"]).any()
    ]
    regions.sort(key=lambda one: -one[2].sum())
    assert len(regions) == len(found["masks"]) >= 2
    for (label, score, here), one, mask in zip(
        regions, found["segments"], found["masks"], strict=True
    ):
        assert (one["label"], one["score"]) == (label, score)
        assert np.array_equal(inside(mask), here)
        assert len(np.unique(found["map"].pixels[here], axis=0)) == 1
    assert np.array_equal(inside(found["mask"]), np.any([r[2] for r in regions], axis=0))
    assert (found["map"].pixels[~inside(found["mask"])] == 0).all()


def test_labels_without_a_name_have_their_number(
    at: Any, look: Any, noisy: Any, tmp_path: Path
) -> None:
    """A configuration may leave out numbers that the network gives."""
    shutil.copytree(at("segformer"), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    names = {str(number + 50): name for number, name in enumerate(config["id2label"].values())}
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "id2label": names}))
    every, some = (
        look(segment, noisy(40, 60), model=model)
        for model in (at("segformer"), str(tmp_path / "m"))
    )
    wanted = {name: f"LABEL_{number}" for number, name in config["id2label"].items()}
    assert [one["label"] for one in some["segments"]] == [
        wanted[one["label"]] for one in every["segments"]
    ]


def test_labels_choose_among_regions(at: Any, look: Any, noisy: Any) -> None:
    """The mask is of the chosen regions alone; one that is not in the picture leaves it empty, with
    a note, and one that the model does not know is refused.
    """
    image = noisy(40, 60)
    every = look(segment, image, model=at("segformer"))
    label = every["segments"][1]["label"]
    some = look(segment, image, model=at("segformer"), labels=[label])
    assert np.array_equal(some["mask"].pixels, every["masks"][1].pixels)
    assert [one["label"] for one in some["segments"]] == [label]
    missing = {"fox", "owl", "teapot", "cloud", "tree"} - {
        one["label"] for one in every["segments"]
    }
    none = look(segment, image, model=at("segformer"), labels=[min(missing)])
    assert not inside(none["mask"]).any() and none["masks"] == [] == none["segments"]
    assert none.notes == ["no region was found"]
    with pytest.raises(flow.NodeError, match="does not know; did you mean 'teapot'"):
        look(segment, image, model=at("segformer"), labels=["teapots"])
    with pytest.raises(flow.NodeError, match="labels pixels and does not tell things apart"):
        look(segment, image, model=at("segformer"), task="instance")


# --- what points and boxes mark


def by_sam(folder: str, cls: str, image: flow.Image, **prompt: Any) -> list[tuple[float, Any]]:
    """Give SAM's best mask for each thing with its score."""
    import torch
    import transformers

    model, images = load(folder, cls)
    processor = getattr(transformers, cls.replace("Model", "Processor"))(images)
    inputs = processor(image.rgb().to_pil(), return_tensors="pt", **prompt)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    with torch.no_grad():
        outputs = model(**inputs.to(torch.float32), multimask_output=True)
    masks = images.post_process_masks(list(outputs.pred_masks), *sizes)[0]
    best = outputs.iou_scores[0].argmax(-1)
    return [
        (float(scores[number]), proposed[number].numpy())
        for scores, proposed, number in zip(outputs.iou_scores[0], masks, best, strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "cls"), [("sam", "SamModel"), ("sam-hq", "SamHQModel")])
@pytest.mark.parametrize(
    ("ports", "prompt"),
    [
        (
            {"points": [{"x": 30, "y": 12}]},
            {"input_points": [[[[30, 12]]]], "input_labels": [[[1]]]},
        ),
        (
            {
                "points": [{"x": 5, "y": 5}, {"x": 40, "y": 30, "inside": False}],
                "boxes": [[1, 2, 30, 25]],
            },
            {
                "input_points": [[[[5, 5], [40, 30]]]],
                "input_labels": [[[1, 0]]],
                "input_boxes": [[[1.0, 2.0, 30.0, 25.0]]],
            },
        ),
        (
            {"boxes": [{"label": "a", "box": [0, 0, 20, 20]}, [10.5, 5, 49, 37.5]]},
            {"input_boxes": [[[0.0, 0.0, 20.0, 20.0], [10.5, 5.0, 49.0, 37.5]]]},
        ),
    ],
)
def test_what_is_selected_is_the_best_mask_of_the_library(
    kind: str,
    cls: str,
    shape: tuple[int, ...],
    ports: dict[str, Any],
    prompt: dict[str, Any],
    at: Any,
    look: Any,
    noisy: Any,
) -> None:
    """Masks and scores agree exactly, and the mask of all is their union."""
    found = look(select, noisy(*shape), model=at(kind), **ports)
    wanted = by_sam(at(kind), cls, noisy(*shape), **prompt)
    assert found["scores"] == [score for score, _ in wanted]
    for mask, (_, here) in zip(found["masks"], wanted, strict=True):
        assert np.array_equal(inside(mask), here)
    assert np.array_equal(inside(found["mask"]), np.any([here for _, here in wanted], axis=0))


def test_many_boxes_are_decoded_in_groups(at: Any, look: Any, noisy: Any) -> None:
    """Each box gives the mask that it gives alone, but for pixels that rounding decides."""
    boxes = [[n, n / 2, n + 20.0, n + 15.0] for n in range(19)]
    found = look(select, noisy(40, 60), model=at("sam"), boxes=boxes)
    assert len(found["masks"]) == 19
    for number in (0, 8, 18):
        alone = look(select, noisy(40, 60), model=at("sam"), boxes=[boxes[number]])
        assert found["scores"][number] == pytest.approx(alone["scores"][0], abs=1e-5)
        differ = inside(found["masks"][number]) != inside(alone["mask"])
        assert differ.mean() < 0.002


def test_no_boxes_give_an_empty_mask_with_a_note(at: Any, look: Any, noisy: Any) -> None:
    """So a graph goes on where a detector found nothing."""
    found = look(select, noisy(9, 9), model=at("sam"), boxes=[])
    assert (found["masks"], found["scores"]) == ([], []) and not inside(found["mask"]).any()
    assert found.notes == ["port 'boxes' is empty, so the mask is too"]


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ({}, "neither port 'points' nor port 'boxes' is given"),
        ({"points": []}, "port 'points' is empty"),
        ({"points": [{"x": 9, "y": 3}]}, "is at 9, 3, beside the picture of 9 x 9"),
        ({"points": [{"x": 1, "y": -1}]}, "number 1 of port 'points' is at 1, -1"),
        ({"boxes": [[0, 0, 4, 4], [20, 0, 24, 4]]}, "number 2 of port 'boxes' lies beside"),
        ({"boxes": [[4, 4, 2, 2]]}, "number 1 of port 'boxes' is no box"),
        ({"points": [{"x": 1, "y": 1}], "boxes": [[0, 0, 4, 4]] * 2}, "give one box, or no points"),
    ],
)
def test_marks_that_mark_nothing_are_refused(
    ports: dict[str, Any], told: str, at: Any, look: Any, noisy: Any
) -> None:
    """The message says which mark, and how large the picture is."""
    with pytest.raises(flow.NodeError) as caught:
        look(select, noisy(9, 9), model=at("sam"), **ports)
    assert told in str(caught.value.__cause__)


# --- what words describe


def test_a_phrase_is_read_or_refused(at: Any, look: Any, noisy: Any) -> None:
    """An empty phrase finds nothing in words, a long one is cut with a note, and where nothing is
    likely enough the mask is empty, with a note.
    """
    with pytest.raises(flow.NodeError, match="number 1 of port 'words' is empty"):
        look(find, noisy(9, 9), model=at("clipseg"), words=" ")
    long = look(find, noisy(9, 9), model=at("clipseg"), words="x " * 99, threshold=0.0)
    assert inside(long["value"]).all()
    assert [note.partition(" is cut")[0] for note in long.notes] == [
        "'x x x x x x x x x x x x x x x x x x x x…'"
    ]
    none = look(find, noisy(9, 9), model=at("clipseg"), words="a fox", threshold=1.0)
    assert not inside(none["value"]).any()
    assert none.notes == ["nothing looks like 'a fox'"]
