"""Divide a picture into regions with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Progress, Range, Steps, Text
from imagen_flow.errors import nearest
from imagen_flow.loaders import Leased

from .networks import Network, NetworkLoader
from .phrases import checked

if TYPE_CHECKING:
    import numpy as np

#: Colours of regions in their order, told apart by most eyes (Okabe and Ito).
_PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


class Segmented(NamedTuple):
    mask: Mask
    masks: List[Mask]
    segments: List[Json]
    map: Image


@flow.node("image.segment", version=1, uses=("numpy", "pillow", "torch", "transformers"))
def segment(
    model: Annotated[Network, Leased(NetworkLoader("image.segment"))],
    image: Image,
    *,
    labels: List[Text] | None = None,
    task: Literal["semantic", "instance", "panoptic"] | None = None,
    threshold: Annotated[float, Range(0, 1)] = 0.5,
) -> Steps[Segmented]:
    """Divide a picture into regions, each with a label of those that the model was trained with.

    Inputs:
        model: SegFormer, UPerNet, BEiT, DPT or MobileViT, which label every pixel, such as
            hf:nvidia/segformer-b0-finetuned-ade-512-512; or Mask2Former, MaskFormer or DETR, which
            also tell things of one label apart.
        image: of any size; converted to 8 bits, with alpha composited over black.
    Params:
        labels: keep only the regions with these labels, such as sky.
        task: ``semantic`` labels every pixel; ``instance`` finds things, each by itself;
            ``panoptic`` does both. By default what the model can do: panoptic, else semantic.
        threshold: the score, 0 to 1, above which a thing counts; of no meaning for ``semantic``.
    Outputs:
        mask: all regions together, for inpainting; 8 bits, 0 and 255.
        masks: each region.
        segments: ``{label, score, area, box}`` of each region, in the order of the masks: the
            largest first; area in pixels, box as `image.detect` gives it; score is null for
            ``semantic``. Empty, with a note, if there is none.
        map: the regions in colours, the rest black.
    Raises:
        ValueError: the model has no such label, or cannot do the task.
    Source:
        ``post_process_semantic_segmentation``, ``post_process_instance_segmentation`` and
        ``post_process_panoptic_segmentation`` of the models' image processors in transformers.
    """
    import numpy as np

    names = [str(name) for name in model.module.config.id2label.values()]
    if labels is not None:
        checked(labels, "labels")
        for label in labels:
            if label not in names:
                raise ValueError(
                    f"port 'labels' names '{label[:100]}', which the model '{model.reference}' does"
                    f" not know; {nearest(label, names, what='it knows')}"
                )
    found = [
        (model.label(label), score, inside)
        for label, score, inside in _regions(model, image, _task_of(model, task), threshold)
        if labels is None or model.label(label) in labels
    ]
    found.sort(key=lambda one: -int(one[2].sum()))
    drawn = np.zeros((image.height, image.width, 3), np.uint8)
    for number, (_, _, inside) in enumerate(found):
        drawn[inside] = _PALETTE[number % len(_PALETTE)]
    yield Progress(1, 1, "" if found else "no region was found")
    return Segmented(
        Mask(drawn.max(axis=2) > 0),
        [Mask(inside) for _, _, inside in found],
        [
            {"label": label, "score": score, "area": int(inside.sum()), "box": _box(inside)}
            for label, score, inside in found
        ],
        Image(drawn),
    )


def _task_of(model: Network, task: str | None) -> str:
    if task is None:
        return "semantic" if model.cls.endswith("ForSemanticSegmentation") else "panoptic"
    if not hasattr(model.processor, f"post_process_{task}_segmentation"):
        raise ValueError(
            f"port 'task' is {task}, but the model '{model.reference}' labels pixels and does not"
            " tell things apart; use semantic, or Mask2Former"
        )
    return task


def _regions(
    model: Network, image: Image, task: str, threshold: float
) -> list[tuple[int, float | None, np.ndarray]]:
    """Give the number of each region's label, its score, and the pixels inside."""
    import torch

    inputs = model.inputs(image)
    with torch.no_grad():
        outputs = model.module(**inputs)
    for name in ("logits", "pred_masks", "class_queries_logits", "masks_queries_logits"):
        if getattr(outputs, name, None) is not None:
            setattr(outputs, name, model.finite(getattr(outputs, name)))
    options: dict[str, Any] = {"target_sizes": [(image.height, image.width)]}
    if task != "semantic":
        options["threshold"] = threshold
    if task == "panoptic":
        options["label_ids_to_fuse"] = set()  # as by default, which warns
    finish = getattr(model.processor, f"post_process_{task}_segmentation")
    found = finish(outputs, **options)[0]
    if task == "semantic":
        numbers = found.cpu().numpy()
        return [(int(n), None, numbers == n) for n in sorted(set(numbers.ravel().tolist()))]
    numbers = found["segmentation"].cpu().numpy()
    regions = [
        (int(one["label_id"]), float(one["score"]), numbers == one["id"])
        for one in found["segments_info"]
    ]
    return [one for one in regions if one[2].any()]


def _box(inside: np.ndarray) -> list[float]:
    rows, columns = inside.nonzero()
    ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [float(end) for end in ends]
