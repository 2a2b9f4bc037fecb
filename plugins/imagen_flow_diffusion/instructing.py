"""Edit pictures by instruction with the checkpoints that were made for it: InstructPix2Pix, FLUX Kontext, Qwen-Image-Edit, FLUX.2; through diffusers' own pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .calling import counted, pictures
from .components import Checkpoint

if TYPE_CHECKING:
    import numpy as np

LARGEST = 1.5
"""The longer side that InstructPix2Pix works at, at most, in its own sizes (768 px for one trained at 512)."""

READS = {
    "StableDiffusionInstructPix2PixPipeline": ("tokenizer", 77),
    "FluxKontextPipeline": ("tokenizer_2", 512),
    "Flux2Pipeline": ("tokenizer", 512),
    "Flux2KleinPipeline": ("tokenizer", 512),
    "QwenImageEditPipeline": ("tokenizer", 1024),
    "QwenImageEditPlusPipeline": ("tokenizer", 1024),
}
"""The pipelines that edit, the tokenizer that reads the instruction, and how many tokens of it."""


@dataclass(frozen=True)
class Instructed:
    """A checkpoint that edits by instruction."""

    checkpoint: Checkpoint

    @property
    def tokenizer(self) -> Any:
        return self.checkpoint.parts[READS[self.checkpoint.kind][0]]

    @property
    def length(self) -> int:
        return READS[self.checkpoint.kind][1]

    def edit(
        self,
        picture: np.ndarray,
        instruction: str,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
        arguments: Mapping[str, Any],
    ) -> Generator[tuple[int, int], None, np.ndarray]:
        """Edit uint8 (height, width, 3) of any size; the result has the same size. Yields (steps done, steps)."""
        import diffusers
        import numpy as np
        from PIL import Image

        cls = getattr(diffusers, self.checkpoint.kind)
        if image_guidance_scale is not None and "image_guidance_scale" not in inspect.signature(cls.__call__).parameters:
            raise ValueError(f"this model has no image_guidance_scale: {self.checkpoint.kind} takes none")
        pipeline = self.checkpoint.pipeline(cls)
        source = Image.fromarray(picture)
        given = {"prompt": instruction, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "image_guidance_scale": image_guidance_scale, **arguments}
        with self.checkpoint.alone():
            output = yield from counted(pipeline, {"image": self._worked(pipeline, source), **given, "output_type": "np"}, seed=seed)
        edited = pictures(output)[0].to_pil()
        return np.asarray(edited if edited.size == source.size else edited.resize(source.size, Image.Resampling.LANCZOS))

    def _worked(self, pipeline: Any, source: Any) -> Any:
        """Bring a picture to a size that the model works at. The later models' pipelines do so themselves."""
        if self.checkpoint.kind != "StableDiffusionInstructPix2PixPipeline":
            return source
        grid = pipeline.vae_scale_factor
        scale = min(1.0, LARGEST * pipeline.unet.config.sample_size * grid / max(source.size))
        # Rounded to what the autoencoder can halve, but never to nothing, or a thin strip would vanish.
        worked = tuple(max(grid, round(side * scale / grid) * grid) for side in source.size)
        from PIL.Image import Resampling

        return source if worked == source.size else source.resize(worked, Resampling.LANCZOS)
