"""image.pose: joints are those of the library, and the skeleton is drawn as ControlNets want it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_vision.poses import pose
from imagen_flow_vision.skeletons import JOINTS, draw_skeletons
from imagen_flow_vision.tiny.makers import MAKERS

__all__ = ["MAKERS"]


def by_hand(folder: str, image: flow.Image, box: list[float]) -> tuple[Any, Any]:
    """Give the places of joints and their scores, by the image processor."""
    import torch
    import transformers

    with quiet_libraries():
        model = transformers.VitPoseForPoseEstimation.from_pretrained(folder).eval()
        processor = transformers.VitPoseImageProcessorPil.from_pretrained(folder)
    left, top, right, bottom = box
    around = [[[left, top, right - left, bottom - top]]]
    inputs = processor(images=image.rgb().to_pil(), boxes=around, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (found,) = processor.post_process_pose_estimation(outputs, boxes=around)[0]
    return found["keypoints"].tolist(), found["scores"].tolist()


@pytest.mark.parametrize("shape", [(80, 61, 3), (33, 90, 4)])
def test_joints_are_those_of_the_library(
    shape: tuple[int, ...], at: Any, look: Any, noisy: Any
) -> None:
    """Each box gives the joints that it gives alone, in pixels of the picture, by name."""
    boxes = [[1.0, 2.0, 40.0, 30.0], [10.5, 0.0, 60.0, 33.0]]
    given = [{"label": "person", "score": 1.0, "box": boxes[0]}, boxes[1]]
    found = look(pose, noisy(*shape), model=at("vitpose"), boxes=given)
    for person, box in zip(found["people"], boxes, strict=True):
        places, scores = by_hand(at("vitpose"), noisy(*shape), box)
        assert person["box"] == box
        assert [[joint["x"], joint["y"]] for joint in person["joints"]] == places
        assert [joint["score"] for joint in person["joints"]] == scores
        assert [joint["name"] for joint in person["joints"]][:2] == ["Nose", "L_Eye"]
    assert found["skeleton"].pixels.shape == (*shape[:2], 3)


def test_without_boxes_the_picture_is_one_person(at: Any, look: Any, noisy: Any) -> None:
    """And with none in the list there is nobody, with a note."""
    found = look(pose, noisy(50, 40), model=at("vitpose"))
    boxed = look(pose, noisy(50, 40), model=at("vitpose"), boxes=[[0, 0, 40, 50]])
    assert found["people"] == boxed["people"]
    nobody = look(pose, noisy(50, 40), model=at("vitpose"), boxes=[])
    assert nobody["people"] == [] and not nobody["skeleton"].pixels.any()
    assert nobody.notes == ["port 'boxes' is empty, so the skeleton is too"]


def test_joints_below_the_threshold_are_not_drawn(at: Any, look: Any, noisy: Any) -> None:
    """They stay among the people."""
    every, some = (
        look(pose, noisy(50, 40), model=at("vitpose"), threshold=least) for least in (0.0, 0.7)
    )
    joints = every["people"][0]["joints"]
    assert some["people"] == every["people"] and len(joints) == 17
    seen = [(joint["x"], joint["y"]) if joint["score"] >= 0.7 else None for joint in joints]
    assert None in seen
    assert np.array_equal(some["skeleton"].pixels, np.asarray(draw_skeletons([seen], 40, 50)))
    assert not np.array_equal(some["skeleton"].pixels, every["skeleton"].pixels)


@pytest.mark.parametrize(
    ("shape", "ports", "told"),
    [
        ((3, 90), {}, "the picture of 90 x 3 is too small to find people in"),
        ((20, 20), {"boxes": [[30, 0, 40, 9]]}, "lies beside the picture of 20 x 20"),
        ((20, 20), {"boxes": ["x"]}, "number 1 of port 'boxes' is no box"),
    ],
)
def test_nobody_is_looked_for_beside_the_picture(
    shape: tuple[int, ...], ports: dict[str, Any], told: str, at: Any, look: Any, noisy: Any
) -> None:
    """The message says how large the picture is."""
    with pytest.raises(flow.NodeError) as caught:
        look(pose, noisy(*shape), model=at("vitpose"), **ports)
    assert told in str(caught.value.__cause__)


#: A person who stands with arms stretched out, seen from the front, in a picture of 512.
STANDING = {
    "nose": (256, 80),
    "left eye": (270, 70),
    "right eye": (242, 70),
    "left ear": (285, 78),
    "right ear": (227, 78),
    "left shoulder": (320, 150),
    "right shoulder": (192, 150),
    "left elbow": (400, 150),
    "right elbow": (112, 150),
    "left wrist": (480, 150),
    "right wrist": (32, 150),
    "left hip": (290, 300),
    "right hip": (222, 300),
    "left knee": (290, 390),
    "right knee": (222, 390),
    "left ankle": (290, 480),
    "right ankle": (222, 480),
}


def skeleton(*missing: str) -> np.ndarray:
    person = [None if joint in missing else STANDING[joint] for joint in JOINTS]
    return np.asarray(draw_skeletons([person], 512, 512))


@pytest.mark.parametrize(
    ("place", "colour"),
    [
        # Joints in OpenPose's colours, by its numbers.
        ((256, 80), (255, 0, 0)),  # 0, nose
        ((256, 150), (255, 85, 0)),  # 1, neck, between the shoulders
        ((192, 150), (255, 170, 0)),  # 2, right shoulder
        ((32, 150), (170, 255, 0)),  # 4, right wrist
        ((480, 150), (0, 255, 85)),  # 7, left wrist
        ((222, 480), (0, 170, 255)),  # 10, right ankle
        ((290, 480), (85, 0, 255)),  # 13, left ankle
        ((242, 70), (170, 0, 255)),  # 14, right eye
        ((285, 78), (255, 0, 85)),  # 17, left ear
        # Limbs at their middles, in 0.6 of their colours.
        ((224, 150), (153, 0, 0)),  # neck to right shoulder
        ((288, 150), (153, 51, 0)),  # neck to left shoulder
        ((72, 150), (153, 153, 0)),  # right forearm
        ((440, 150), (51, 153, 0)),  # left forearm
        ((222, 435), (0, 153, 102)),  # right shin
        ((290, 435), (0, 51, 153)),  # left shin
        ((256, 115), (0, 0, 153)),  # neck to nose
        ((500, 20), (0, 0, 0)),
    ],
)
def test_limbs_and_joints_have_openposes_colours(
    place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """A pixel at each place has the colour that ControlNet's training pictures have there."""
    assert tuple(skeleton()[place[1], place[0]].tolist()) == colour


def test_limbs_are_as_wide_as_openposes() -> None:
    """In a picture of 512 an arm is 8 pixels wide at its middle, and twice that in one of 1024."""
    lit = skeleton()[:, 72].any(axis=-1).sum()
    assert 8 <= lit <= 9
    person = [(2 * x, 2 * y) for x, y in (STANDING[joint] for joint in JOINTS)]
    large = np.asarray(draw_skeletons([person], 1024, 1024))
    assert 16 <= large[:, 144].any(axis=-1).sum() <= 17


def test_what_is_not_seen_is_not_drawn() -> None:
    """Without a wrist its forearm is missing too, and without a shoulder the neck."""
    assert not skeleton("right wrist")[140:160, 30:105].any()
    drawn = skeleton("left shoulder")
    assert not drawn[145:155, 250:262].any() and drawn[150, 192].tolist() == [255, 170, 0]
