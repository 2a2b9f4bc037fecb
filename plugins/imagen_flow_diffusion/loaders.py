"""Load what a node draws with: each loader looks at what a checkpoint says it is and hands on to the class for it.

The classes of one stage have the same methods, so that a node knows no family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checkpoints import pick, weights_in

if TYPE_CHECKING:
    from imagen_flow import Model


class TextEncoder:
    """The text encoder of a cascade: ``encode(prompts)``."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        classes = {"ImagenCascade": "imagen.Text", "IFPipeline": "deepfloyd.Text", "IFSuperResolutionPipeline": "deepfloyd.Text"}
        return pick(model, classes, by="text.encode").load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return weights_in(model, "text_encoder")


class BaseDenoiser:
    """The first stage of a cascade: ``draw(text, …)``."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        classes = {"ImagenCascade": "imagen.Base", "IFPipeline": "deepfloyd.Base"}
        return pick(model, classes, by="diffusion.base").load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return weights_in(model, "unet", "safety_checker")


class Enlarger:
    """A later stage of a cascade: ``draw(picture, text, …)``."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        classes = {"ImagenCascade": "imagen.Enlarger", "IFSuperResolutionPipeline": "deepfloyd.Enlarger"}
        return pick(model, classes, by="diffusion.super_resolution").load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return weights_in(model, "super_resolution") or weights_in(model, "unet", "safety_checker")


class Editor:
    """A model that edits by instruction: ``edit(picture, instruction, …)``."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        classes = {"InstructPix2Pix": "pixel_editor.PixelEditor", "StableDiffusionInstructPix2PixPipeline": "instruct_pix2pix.InstructPix2Pix"}
        return pick(model, classes, by="image.edit").load(model, device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return weights_in(model, "unet", "text_encoder", "vae", "safety_checker")
