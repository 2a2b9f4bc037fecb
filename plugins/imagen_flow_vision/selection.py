"""Make masks of what words describe, or of what points and boxes mark."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Progress, Range, Steps
from imagen_flow.loaders import Leased

from .boxes import sides_of
from .networks import Network, NetworkLoader
from .phrases import checked, length_of, unread

#: Boxes that are decoded at once: each has a mask of the picture's size in float32.
_AT_ONCE = 8


@flow.node("mask.find", version=2, uses=("numpy", "pillow", "tokenizers", "torch", "transformers"))
def find(
    model: Annotated[Network, Leased(NetworkLoader("mask.find"))],
    image: Image,
    words: str,
    *,
    threshold: Annotated[float, Range(0, 1)] | None = 0.4,
) -> Steps[Mask]:
    """Make a mask of what a phrase describes in a picture, such as ``the dog``.

    Inputs:
        model: a CLIPSeg checkpoint, e.g. hf:CIDAS/clipseg-rd64-refined.
        image: alpha is composited over black.
    Params:
        threshold: the likelihood, 0 to 1, from which a pixel is inside; null returns the
            likelihoods themselves.
    Outputs: a mask of the picture's size, 8 bits.
    Raises:
        ValueError: the phrase is empty.
    Source: CLIPSeg (arXiv:2112.10003), ``transformers.CLIPSegForImageSegmentation``.
    """
    import numpy as np
    import PIL.Image
    import torch

    checked([words], "words")
    for note in unread(model, [words]):
        yield Progress(0, 1, note)
    inputs = model.inputs(
        image, text=[words], truncation=True, padding=True, max_length=length_of(model)
    )
    with torch.no_grad():
        logits = model.finite(model.module(**inputs).logits)
    likely = logits.sigmoid().cpu().numpy().reshape(logits.shape[-2:])
    large = np.asarray(
        PIL.Image.fromarray(likely).resize(
            (image.width, image.height), PIL.Image.Resampling.BILINEAR
        )
    )
    inside = large if threshold is None else (large >= threshold).astype("float32")
    yield Progress(1, 1, "" if inside.any() else f"nothing looks like '{words[:100]}'")
    return Mask((np.clip(inside, 0, 1) * 255).round().astype(np.uint8))


@flow.record
class Point:
    """A place in a picture, in pixels from its top left corner."""

    x: float
    y: float
    inside: bool = True


class Selected(NamedTuple):
    mask: Mask
    masks: List[Mask]
    scores: List[float]


@flow.node("mask.select", version=1, uses=("numpy", "pillow", "torch", "transformers"))
def select(
    model: Annotated[Network, Leased(NetworkLoader("mask.select"))],
    image: Image,
    *,
    points: List[Point] | None = None,
    boxes: List[Json] | None = None,
) -> Steps[Selected]:
    """Make masks of the things that points or boxes mark in a picture.

    Inputs:
        model: SAM or SAM-HQ, such as hf:facebook/sam-vit-base.
        image: of any size; converted to 8 bits, with alpha composited over black.
    Params:
        points: places in one thing, or beside it: ``{x, y}``, ``{x, y, inside: false}``.
        boxes: detections, as `image.detect` gives them, or ``[left, top, right, bottom]`` each, in
            pixels: each is around a thing of its own. With points too, there is at most one.
    Outputs:
        mask: all things together, for inpainting; 8 bits, 0 and 255. Empty, with a note, if `boxes`
            is empty.
        masks: each thing, in the order of the boxes.
        scores: how well the model takes each mask to fit, about 0 to 1.
    Raises:
        ValueError: nothing is marked, or a point or box lies beside the picture.
    Source:
        Segment Anything (arXiv:2304.02643), ``transformers.SamModel``; of the three masks that it
        proposes for a thing, the one that it scores highest.
    """
    import numpy as np
    import torch

    if points is None and boxes is None:
        raise ValueError("neither port 'points' nor port 'boxes' is given; mark a thing by one")
    sides = [sides_of(box, number, image) for number, box in enumerate(boxes or (), 1)]
    if points is not None:
        if not points:
            raise ValueError("port 'points' is empty; mark at least one place")
        if len(sides) > 1:
            raise ValueError(
                f"port 'boxes' has {len(sides)} boxes beside 'points', which belong to one thing;"
                " give one box, or no points"
            )
        for number, point in enumerate(points, 1):
            if not (0 <= point.x < image.width and 0 <= point.y < image.height):
                raise ValueError(
                    f"number {number} of port 'points' is at {point.x:g}, {point.y:g}, beside the"
                    f" picture of {image.width} x {image.height}"
                )
    prompts: list[dict[str, Any]] = []
    if points is not None:
        marked: dict[str, Any] = {
            "input_points": [[[[point.x, point.y] for point in points]]],
            "input_labels": [[[int(point.inside) for point in points]]],
        }
        prompts.append(marked | ({"input_boxes": [sides]} if sides else {}))
    else:
        prompts.extend(
            {"input_boxes": [sides[start : start + _AT_ONCE]]}
            for start in range(0, len(sides), _AT_ONCE)
        )
    masks: list[np.ndarray] = []
    scores: list[float] = []
    seen: Any = None
    for done, prompt in enumerate(prompts, 1):
        inputs = model.inputs(image, **prompt)
        pixels = inputs.pop("pixel_values")
        original, resized = (
            inputs.pop(name).cpu() for name in ("original_sizes", "reshaped_input_sizes")
        )
        with torch.no_grad():
            seen = _embedded(model, pixels) if seen is None else seen
            outputs = model.module(**inputs, **seen, multimask_output=True)
        fits = model.finite(outputs.iou_scores)[0]
        best = fits.argmax(-1)
        things = torch.arange(len(best), device=best.device)
        proposed = model.finite(outputs.pred_masks)[0][things, best][:, None]
        whole = model.processor.post_process_masks([proposed.cpu()], original, resized)[0]
        masks.extend(mask[0].numpy() for mask in whole)
        scores.extend(fits[things, best].tolist())
        yield Progress(done, len(prompts))
    if not masks:
        yield Progress(1, 1, "port 'boxes' is empty, so the mask is too")
    union = np.zeros((image.height, image.width), bool)
    for inside in masks:
        union |= inside
    return Selected(Mask(union), [Mask(inside) for inside in masks], scores)


def _embedded(model: Network, pixels: Any) -> dict[str, Any]:
    """Look at the picture once for all prompts."""
    if model.cls == "SamHQModel":
        embeddings, intermediate = model.module.get_image_embeddings(pixels)
        return {"image_embeddings": embeddings, "intermediate_embeddings": intermediate}
    return {"image_embeddings": model.module.get_image_embeddings(pixels)}
