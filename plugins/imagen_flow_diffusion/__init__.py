"""Draw, enlarge and edit pictures with diffusion models: the embedded ones, DeepFloyd IF and
InstructPix2Pix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imagen_flow as flow
from imagen_flow import loaders

from .checkpoints import single_file
from .nodes import drawing, generic, latents, stages, training, upscaling


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        *(stages.encode, stages.base, stages.super_resolution, stages.edit),
        *(generic.pipeline, generic.tensors),
        *(drawing.text_to_image, drawing.image_to_image, drawing.inpaint),
        *(latents.denoise, latents.decode, latents.encode, latents.noise, latents.resize),
        upscaling.upscale,
        training.train_lora,
    ]


@flow.hookimpl
def imagen_flow_base_of(header: Mapping[str, Any]) -> loaders.BaseCheckpoint | None:
    return single_file.base_of(header)


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny.known import stand_in

    return stand_in(reference, at, folder)
