"""Estimate how far away each part of a picture is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Progress, Steps, Tensor
from imagen_flow.loaders import Leased

from .networks import Network, NetworkLoader

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Model types that give metres; the others give inverse depth without a unit, unless their
# configuration says ``metric``.
_METRIC = ("glpn", "prompt_depth_anything", "zoedepth")


class Depth(NamedTuple):
    picture: Image
    values: Tensor


@flow.node("image.depth", version=1, uses=("numpy", "pillow", "torch", "transformers"))
def depth(
    model: Annotated[Network, Leased(NetworkLoader("image.depth"))], image: Image
) -> Steps[Depth]:
    """Estimate the depth of a picture, as ControlNets and depth-guided models take it.

    Inputs:
        model: Depth Anything, DPT (MiDaS), ZoeDepth or GLPN, such as
            hf:depth-anything/Depth-Anything-V2-Small-hf.
        image: of any size; converted to 8 bits, with alpha composited over black.
    Outputs:
        picture: 16-bit grey of the picture's size: inverse depth, from black at the farthest to
            white at the nearest point of this very picture. Without a scale, so pictures cannot be
            compared. All black, with a note, if everything is equally far.
        values: what the model gives, float32 (height, width), tagged ``is``: ``metres`` (larger is
            farther), or ``inverse depth`` (larger is nearer, of no unit, and up to an unknown shift).
    Raises:
        ValueError: the model gave NaN.
    Source:
        ``post_process_depth_estimation`` of transformers' image processors; MiDaS
        (arXiv:1907.01341) for inverse depth as the common form.
    """
    import numpy as np

    is_metric = _is_metric(model.module.config)
    values = _estimated(model, image)
    nearness = 1 / np.maximum(values, np.float32(1e-3)) if is_metric else values
    low, high = nearness.min(), nearness.max()
    note = "" if high > low else "the model sees everything equally far away"
    unit = (nearness - low) / (high - low) if high > low else np.zeros_like(nearness)
    yield Progress(1, 1, note)
    return Depth(
        Image((unit * 65535 + 0.5).astype(np.uint16)),
        Tensor(values, {"is": "metres" if is_metric else "inverse depth"}),
    )


def _is_metric(config: Any) -> bool:
    return (
        config.model_type in _METRIC
        or getattr(config, "depth_estimation_type", "relative") == "metric"
    )


def _estimated(model: Network, image: Image) -> np.ndarray:
    import torch

    inputs = model.inputs(image)
    with torch.no_grad():
        outputs = model.module(**inputs)
    outputs.predicted_depth = model.finite(outputs.predicted_depth)
    size = (image.height, image.width)
    if model.module.config.model_type == "zoedepth":
        found = _without_padding(outputs.predicted_depth, size, padded=bool(model.processor.do_pad))
    else:
        found = model.processor.post_process_depth_estimation(outputs, target_sizes=[size])[0][
            "predicted_depth"
        ]
    values: np.ndarray = found.reshape(size).cpu().numpy()
    return values


def _without_padding(
    predicted: torch.Tensor, size: tuple[int, int], *, padded: bool
) -> torch.Tensor:
    """Resize ZoeDepth's estimate and cut its padding off; the library does so with torchvision.

    Source:
        ``ZoeDepthImageProcessorPil.post_process_depth_estimation``.
    """
    from torch.nn.functional import interpolate

    high, wide = (int((side / 2) ** 0.5 * 3) if padded else 0 for side in size)
    found = interpolate(
        predicted[None],
        size=(size[0] + 2 * high, size[1] + 2 * wide),
        mode="bicubic",
        align_corners=False,
    )[0, 0]
    return found[high : high + size[0], wide : wide + size[1]]
