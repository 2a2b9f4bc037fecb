"""Find how people stand: the places of their joints, and the skeleton that ControlNets follow."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Json, List, Progress, Range, Steps
from imagen_flow.loaders import Leased

from .boxes import sides_of
from .networks import Network, NetworkLoader
from .skeletons import JOINTS, draw_skeletons

#: The processor takes a picture with fewer rows for channels.
_LEAST = 8


class Pose(NamedTuple):
    people: List[Json]
    skeleton: Image


@flow.node("image.pose", version=1, uses=("numpy", "pillow", "scipy", "torch", "transformers"))
def pose(
    model: Annotated[Network, Leased(NetworkLoader("image.pose"))],
    image: Image,
    *,
    boxes: List[Json] | None = None,
    threshold: Annotated[float, Range(0, 1)] = 0.3,
) -> Steps[Pose]:
    """Find the joints of people, and draw them as ControlNets for OpenPose were trained on.

    Inputs:
        model: ViTPose, such as hf:usyd-community/vitpose-base-simple. Needs the extra ``vision``.
        image: of any size from 8 x 8; converted to 8 bits, with alpha composited over black.
    Params:
        boxes: people, as `image.detect` with ``words: [person]`` finds them, or ``[left, top, right,
            bottom]`` each, in pixels; without it, the whole picture is taken for one person.
        threshold: the score, 0 to 1, from which a joint is drawn.
    Outputs:
        people: ``{box, joints}`` of each, in the order of the boxes; its joints are ``{name, x, y,
            score}`` of all that the model knows, in pixels. Empty, with a note, if `boxes` is empty.
        skeleton: 8-bit RGB of the picture's size, black where nobody is.
    Raises:
        ValueError: a box lies beside the picture, or the model knows other joints than COCO's 17.
    Source:
        ViTPose (arXiv:2204.12484), ``post_process_pose_estimation`` of transformers.
    """
    import torch

    names = [str(name) for _, name in sorted(model.module.config.id2label.items())]
    if len(names) < len(JOINTS):
        raise ValueError(
            f"the model '{model.reference}' knows {len(names)} joints; image.pose needs the"
            f" {len(JOINTS)} of COCO"
        )
    if min(image.width, image.height) < _LEAST:
        raise ValueError(
            f"the picture of {image.width} x {image.height} is too small to find people in; it"
            f" needs {_LEAST} x {_LEAST} pixels"
        )
    whole = [0.0, 0.0, float(image.width), float(image.height)]
    sides = (
        [whole]
        if boxes is None
        else [sides_of(box, number, image) for number, box in enumerate(boxes, 1)]
    )
    people: list[dict[str, Any]] = []
    for done, (left, top, right, bottom) in enumerate(sides, 1):
        around = [[[left, top, right - left, bottom - top]]]
        inputs = model.inputs(image, boxes=around)
        if model.module.config.backbone_config.num_experts > 1:
            inputs["dataset_index"] = torch.zeros(1, dtype=torch.long, device=model.module.device)
        with torch.no_grad():
            outputs = model.module(**inputs)
        outputs.heatmaps = model.finite(outputs.heatmaps)
        found = model.processor.post_process_pose_estimation(outputs, boxes=around)[0][0]
        people.append(
            {
                "box": [left, top, right, bottom],
                "joints": [
                    {"name": name, "x": x, "y": y, "score": score}
                    for name, (x, y), score in zip(
                        names, found["keypoints"].tolist(), found["scores"].tolist(), strict=True
                    )
                ],
            }
        )
        yield Progress(done, len(sides))
    if not people:
        yield Progress(1, 1, "port 'boxes' is empty, so the skeleton is too")
    joints = [
        [
            (joint["x"], joint["y"]) if joint["score"] >= threshold else None
            for joint in person["joints"][: len(JOINTS)]
        ]
        for person in people
    ]
    return Pose(people, Image.from_pil(draw_skeletons(joints, image.width, image.height)))
