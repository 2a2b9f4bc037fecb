"""Enlarge pictures: by diffusion under a prompt (Stable Diffusion x4, the latent upscaler), or by a
network that looks at pixels alone (Swin2SR, the ESRGAN family).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import imagen_flow as flow
from imagen_flow import Image, Model, Progress, Range, Seed, Steps, loaders
from imagen_flow.loaders import FallbackLevels, Leased, Loader

from ..checkpoints.description import what_is
from ..checkpoints.folder import load_part, quiet
from ..checkpoints.scales import scale_among
from ..loading.checkpoint import Checkpoint
from ..loading.components import UNCACHED, Whole
from ..loading.temporary_changes import sparing
from ..pipelines.calling import call, explaining_nan, pictures, problem_of, to_pil, unwrap_image

if TYPE_CHECKING:
    import torch

TILE = 256
"""The side of the squares that are worked on when memory runs out."""

DRAWING = ("StableDiffusionUpscalePipeline", "StableDiffusionLatentUpscalePipeline")


@dataclass(frozen=True)
class Network:
    """A network from pixels to more pixels: `run` takes and gives float (1, 3, height, width), 0 to
    1, of any size; tiles whose sides are multiples of `multiple` meet best.
    """

    module: Any
    scale: int
    multiple: int
    run: Callable[[torch.Tensor], torch.Tensor]


class Swin2SR(Loader[Network]):
    """Swin2SR, a folder as transformers saves one."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Network:
        import numpy as np
        import torch
        from transformers import Swin2SRForImageSuperResolution

        module = load_part(Swin2SRForImageSuperResolution, model, "", device=device, dtype=dtype)
        scale, window = int(module.config.upscale), int(module.config.window_size)

        def run(pixels: torch.Tensor) -> torch.Tensor:
            height, width = pixels.shape[-2:]
            # The library's processor mirrors a picture to the next whole window, and one that ends
            # with a window by one more.
            rows, columns = (
                torch.from_numpy(
                    np.pad(np.arange(side), (0, window - side % window), "symmetric")
                ).to(pixels.device)
                for side in (height, width)
            )
            return module(pixels[:, :, rows][:, :, :, columns]).reconstruction[
                ..., : height * scale, : width * scale
            ]

        return Network(module, scale, window, run)


class PixelFile(Loader[Network]):
    """A file of weights of the ESRGAN family, or any other that spandrel knows to enlarge."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Network:
        loaders.require_library("spandrel", "an upscaler in one file", extra="upscalers")
        import torch

        try:
            from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
        except ImportError as lacking:
            raise flow.ModelError(
                f"an upscaler in one file needs {lacking.name}, which is not installed: pip install"
                " 'imagen-flow[upscalers]'"
            ) from lacking
        state = loaders.read_weights(model)
        if scale := scale_among(state):
            raise flow.ModelError(
                f"the model '{model.reference}' cannot be read: it holds 8-bit numbers with scales"
                f" beside them ({scale}), which spandrel reads without the scales; take it in 16 or"
                " 32 bits"
            )
        try:
            with quiet():
                found = ModelLoader(device="cpu").load_from_state_dict(state)
        except UnsupportedModelError as unknown:
            raise flow.ModelError(
                f"the model '{model.reference}' is not an upscaler that spandrel supports"
            ) from unknown
        if (
            not isinstance(found, ImageModelDescriptor)
            or found.purpose not in ("SR", "FaceSR", "Restoration")
            or found.input_channels != 3
        ):
            raise flow.ModelError(
                f"image.upscale cannot use the model '{model.reference}': it is a network of"
                f" {found.architecture.name} for {found.purpose}"
            )
        wanted = getattr(torch, dtype)
        halves = {"float16": found.supports_half, "bfloat16": found.supports_bfloat16}
        found.to(torch.device(device), wanted if halves.get(dtype, True) else torch.float32)
        return Network(
            found.model, int(found.scale), int(found.size_requirements.multiple_of or 1), found
        )


class Upscaler(Loader[Network | Checkpoint]):
    """What enlarges pictures."""

    settings = UNCACHED

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        if kind in DRAWING:
            return Whole().parts(model)
        if kind == "Swin2SRForImageSuperResolution":
            return {"network": Swin2SR()}
        if model.path.is_file() and model.base is None:
            return {"network": PixelFile()}
        raise problem_of(
            model,
            "image.upscale",
            kind,
            f"{', '.join(DRAWING)}, Swin2SRForImageSuperResolution and files of the ESRGAN family",
        )

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Network | Checkpoint:
        return parts["network"] if "network" in parts else Checkpoint(model, parts)


@flow.node("image.upscale", version=2, uses=("diffusers", "spandrel", "torch", "transformers"))
def upscale(
    model: Annotated[Network | Checkpoint, Leased(Upscaler)],
    image: Image,
    prompt: str = "",
    *,
    negative_prompt: str | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    noise_level: Annotated[int, Range(0, 999)] | None = None,
    tile: Annotated[int, Range(16, 8192)] | None = None,
    overlap: Annotated[int, Range(0, 512)] = 16,
    seed: Seed | None = None,
    memory_levels: FallbackLevels = (),
) -> Steps[Image]:
    """Enlarge a picture by the factor of the model: two, four or eight.

    Inputs:
        model: Stable Diffusion x4 or the latent upscaler, Swin2SR, or a ``.safetensors`` file of
            the ESRGAN family.
        image: alpha is composited over black.
        prompt: what the picture shows; for diffusion models only.
    Params:
        negative_prompt, num_inference_steps, guidance_scale, noise_level: for diffusion models
            only. Default: the pipeline's own.
        tile: work on squares of this many pixels, for pictures that do not fit in memory; not for
            diffusion models.
        overlap: of the squares, in pixels; there are no seams if it covers the receptive field of
            the model. Both are rounded to multiples that the model supports.
        seed: of the noise; required for diffusion models.
    Outputs: an 8-bit picture.
    Raises: ValueError for arguments that the model does not take; RuntimeError if its safety
        checker blackens the picture.
    Source: ``diffusers.StableDiffusionUpscalePipeline`` and its latent variant; Swin2SR
        (arXiv:2209.11345) in transformers; spandrel.
    """
    if isinstance(model, Checkpoint):
        return (
            yield from _drawn(
                model,
                image,
                prompt,
                negative_prompt,
                num_inference_steps,
                guidance_scale,
                noise_level,
                tile,
                seed,
                memory_levels,
            )
        )
    drawing = {
        "prompt": prompt or None,
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "noise_level": noise_level,
    }
    if asked := [name for name, value in drawing.items() if value is not None]:
        raise ValueError(f"this model reads pixels alone: it has no {' and no '.join(asked)}")
    return (
        yield from _enlarged(
            model, image, tile or (TILE if "tile" in memory_levels else None), overlap
        )
    )


def _drawn(
    model: Checkpoint,
    image: Image,
    prompt: str,
    negative_prompt: str | None,
    steps: int | None,
    guidance_scale: float | None,
    noise_level: int | None,
    tile: int | None,
    seed: int | None,
    memory_levels: Sequence[str],
) -> Generator[Progress, None, Image]:
    import diffusers

    if seed is None:
        raise ValueError("a diffusion upscaler needs a 'seed'")
    if tile is not None:
        raise ValueError("a diffusion upscaler has no 'tile'")
    pipeline = model.pipeline(getattr(diffusers, model.kind))
    given = {
        "prompt": prompt,
        "image": to_pil(image),
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "noise_level": noise_level,
    }
    with model.alone(), sparing(getattr(pipeline, "vae", None), memory_levels):
        output = yield from call(pipeline, {**given, "output_type": "np"}, seed=seed)
    with explaining_nan(model.parts):
        return pictures(output)[0]


def _enlarged(
    model: Network, image: Image, tile: int | None, overlap: int
) -> Generator[Progress, None, Image]:
    """Run a network over a picture, whole or square by square: of each, the overlap is worked on
    and thrown away. Beside the pictures no more is held than a square.
    """
    import numpy as np
    import torch

    like = next(model.module.parameters())
    pixels = image.rgb().pixels
    height, width = pixels.shape[:2]
    side, overlap = max(height, width), -(-overlap // model.multiple) * model.multiple
    if tile is not None:
        side = max(model.multiple, tile // model.multiple * model.multiple)
    places = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    enlarged = np.empty((height * model.scale, width * model.scale, 3), np.uint8)
    for number, (top, left) in enumerate(places):
        bottom, right = min(top + side, height), min(left + side, width)
        above, before = min(overlap, top), min(overlap, left)
        seen = (
            Image(pixels[top - above : bottom + overlap, left - before : right + overlap])
            .as_float()
            .pixels
        )
        with torch.no_grad():
            found = (
                model.run(
                    torch.from_numpy(seen.copy()).permute(2, 0, 1)[None].to(like.device, like.dtype)
                )[0]
                .float()
                .cpu()
            )
        y, x = above * model.scale, before * model.scale
        tall, wide = (bottom - top) * model.scale, (right - left) * model.scale
        kept = unwrap_image(
            found[:, y : y + tall, x : x + wide].permute(1, 2, 0).clamp(0, 1).numpy()
        )
        enlarged[
            top * model.scale : top * model.scale + tall,
            left * model.scale : left * model.scale + wide,
        ] = kept.pixels
        yield Progress(number + 1, len(places))
    return Image(enlarged)
