"""Multiply 8-bit weights by the scales that files hold for them: without its scale the numbers of a
matrix mean nothing, and the libraries read them without.

- ``X.scale_weight``, ``X.weight_scale``: a factor for all of ``X.weight``, or one for each row; -
``X.weight_scale_inv``: a factor for each square of 128 × 128; - ``X.scale_input``,
``X.input_scale``: for kernels that multiply in 8 bits. They are not needed once
  the weights are floats;
- ``X.comfy_quant``, ``scaled_fp8``: say how it was done; ``X.weight_scale_2`` says that there are
  two levels of scales.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
"""What the factors of a weight may be called."""

_INPUTS = ("scale_input", "input_scale")
_SQUARE = 128
_MARKS = ("scaled_fp8", "comfy_quant")


def scale_among(names: Iterable[str]) -> str:
    """Name the first of these tensors that is a scale of another; empty if none is."""
    return next((name for name in sorted(names) if name.endswith((*SCALES, "weight_scale_2"))), "")


def unscaled(tensors: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Multiply 8-bit weights by their scales, in float32, and drop the scales.

    Raises:
        ValueError: a weight is of whole numbers, which the libraries would take for floats; a scale
            is of no known shape, or belongs to no weight of 8-bit floats.
    """
    import torch

    found = {
        name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in _MARKS
    }
    for name in [name for name in found if name.endswith("weight") and not name.endswith(SCALES)]:
        layer, weight = name.removesuffix("weight"), found[name]
        if not weight.is_floating_point():
            raise ValueError(
                f"{name} holds {str(weight.dtype).removeprefix('torch.')}: numbers of a"
                " quantization that is not read from one file of weights"
            )
        scale = next(
            (found.pop(f"{layer}{ending}") for ending in SCALES if f"{layer}{ending}" in found),
            None,
        )
        if scale is None:
            continue
        if (
            weight.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2)
            or f"{layer}weight_scale_2" in found
        ):
            raise ValueError(
                f"{name} has a scale beside it and is of"
                f" {str(weight.dtype).removeprefix('torch.')}: only 8-bit floats with one scale are"
                " read"
            )
        found[name] = (weight.float() * _spread(scale.float(), weight.shape, name)).to(dtype)
        for ending in _INPUTS:
            found.pop(f"{layer}{ending}", None)
    if alone := scale_among(found):
        raise ValueError(
            f"{alone} is a scale, and there is no weight of 8-bit floats that it is for"
        )
    return found


def _spread(scale: Any, shape: Any, name: str) -> Any:
    """Expand a scale so that it can be multiplied with its weight."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() == shape[0]:
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == scale.ndim == 2 and all(
        -(-side // _SQUARE) == squares for side, squares in zip(shape, scale.shape, strict=True)
    ):
        return scale.repeat_interleave(_SQUARE, 0).repeat_interleave(_SQUARE, 1)[
            : shape[0], : shape[1]
        ]
    raise ValueError(
        f"the scale of {name} has the shape {list(scale.shape)}, and the weight {list(shape)}"
    )
