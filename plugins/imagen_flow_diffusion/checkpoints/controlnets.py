"""Load a ControlNet from one file, with tensors named by its authors or by diffusers. Its
configuration is derived from the shapes of the tensors.

Two settings are not in the shapes: the number of attention heads, which is taken from the two kinds
of Stable Diffusion, and whether conditions are pooled, as in the ControlNet for shuffled images
(use that one as a folder).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders

from .diagnosing import misfit
from .scales import unscaled
from .single_file import header_of
from .translation import read_tensors

if TYPE_CHECKING:
    from imagen_flow import Model

IN_ONE_FILE = "ControlNet in one file"
"""The kind of such a file, in words."""

Shapes = Mapping[str, Sequence[int]]


def class_of(model: Model) -> str:
    """Name the class of diffusers that reads such a file, by its header; nothing for one of a
    transformer, whose shapes tell too little.
    """
    names = header_of(model)
    if not any(
        re.match(r"(control_model\.)?(input_blocks|down_blocks)\.0\.", name) for name in names
    ):
        return ""
    return "ControlNetUnionModel" if "task_embedding" in names else "ControlNetModel"


def text_width(model: Model) -> int | None:
    """Return the width of the text states that such a file reads; None if that is not in it."""
    return next(
        (
            int(entry["shape"][-1])
            for name, entry in header_of(model).items()
            if name.endswith(".attn2.to_k.weight")
        ),
        None,
    )


def load_controlnet(cls: Any, model: Model, *, device: str, dtype: str) -> Any:
    """Load a ControlNet from one file, ready for inference.

    Raises:
        ModelError: weights are missing, or do not belong to a ControlNet of its shapes.
    Source: ``convert_controlnet_checkpoint`` in ``diffusers.loaders.single_file_utils``.
    """
    import torch
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    name = model.path.name
    try:
        state = unscaled(read_tensors(model.path, ""), getattr(torch, dtype))
        down = sorted(
            int(found[1])
            for key in state
            if (found := re.match(r"(?:control_model\.)?input_blocks\.(\d+)\.0\.op\.weight", key))
        )
        state = convert_controlnet_checkpoint(
            state, {"layers_per_block": down[0] - 1 if down else 2}
        )
        state = {key: tensor for key, tensor in state.items() if tensor is not None}
        shapes = {key: list(tensor.shape) for key, tensor in state.items()}
        config = configuration(shapes)
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise flow.ModelError(
            f"{name} is not a complete ControlNet: it lacks"
            f" {error.args[0] if error.args else 'most of its weights'}"
        ) from error
    if why := misfit(cls, config, shapes):
        raise flow.ModelError(f"{name} is not a complete ControlNet: {why}")
    with torch.device("meta"):
        network = cls.from_config(config)
    missing, strange = network.load_state_dict(
        {
            key: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            for key, tensor in state.items()
        },
        strict=False,
        assign=True,
    )
    if missing or strange:
        raise flow.ModelError(
            f"{name} is not a complete ControlNet: "
            + (
                f"it lacks {len(missing)} weights, {sorted(missing)[0]} first"
                if missing
                else (
                    f"it has {len(strange)} weights for which there is no place,"
                    f" {sorted(strange)[0]} first"
                )
            )
        )
    return loaders.place_module(network.eval(), device=device, settings=loaders.Loading())


def configuration(shapes: Shapes) -> dict[str, Any]:
    """Derive the configuration of a ControlNet from its tensors' shapes, by diffusers' names."""
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    channels = [
        int(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0]) for level in range(levels)
    ]
    attends = [
        any(name.startswith(f"down_blocks.{level}.attentions.") for name in shapes)
        for level in range(levels)
    ]
    middle = any(name.startswith("mid_block.attentions.") for name in shapes)
    deep = max(1, _count(shapes, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\."))
    layers = [
        max(1, _count(shapes, rf"down_blocks\.{level}\.attentions\.0\.transformer_blocks\.(\d+)\."))
        for level in range(levels)
    ]
    linear = any(
        name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items()
    )
    steps = _count(shapes, r"controlnet_cond_embedding\.blocks\.(\d+)\.")
    embedding = "controlnet_cond_embedding"
    config: dict[str, Any] = {
        "in_channels": int(shapes["conv_in.weight"][1]),
        "conditioning_channels": int(shapes[f"{embedding}.conv_in.weight"][1]),
        "conditioning_embedding_out_channels": [
            int(shapes[f"{embedding}.conv_in.weight"][0]),
            *(int(shapes[f"{embedding}.blocks.{step}.weight"][0]) for step in range(1, steps, 2)),
        ],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [*layers[:-1], layers[-1] if attends[-1] else deep],
        "use_linear_projection": linear,
        "attention_head_dim": [max(1, width // 64) for width in channels] if linear else 8,
    }
    if width := next(
        (int(shape[-1]) for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight")), 0
    ):
        config["cross_attention_dim"] = width
    if "add_embedding.linear_1.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": int(
                shapes["add_embedding.linear_1.weight"][1]
            ),
        }
    if "task_embedding" in shapes:
        kinds, width = (int(side) for side in shapes["task_embedding"])
        config |= {
            "num_control_type": kinds,
            "num_trans_channel": width,
            "num_trans_layer": max(1, _count(shapes, r"transformer_layes\.(\d+)\.")),
            "num_proj_channel": int(shapes["spatial_ch_projs.weight"][0]),
        }
    return config


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the numbers from 0 in names that match a pattern."""
    return 1 + max(
        (int(found[1]) for name in shapes if (found := re.match(pattern, name))), default=-1
    )
