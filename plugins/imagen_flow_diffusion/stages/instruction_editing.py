"""Edit pictures by instruction with the checkpoints that were made for it: InstructPix2Pix, FLUX
Kontext, FLUX.2, Qwen-Image-Edit and their like; through diffusers' own pipelines.

Which they are, the call of a pipeline says (`edits`); only what a call does not say stands in the
tables here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters.attached import AttachedAdapters, attach_adapters
from ..loading.checkpoint import Checkpoint
from ..loading.temporary_changes import sparing
from ..pipelines.calling import counted, explaining_nan, pictures, with_arguments
from ..pipelines.families import edits, unread_by
from ..pipelines.samplers import lost_by, set_sampler

if TYPE_CHECKING:
    import numpy as np

LARGEST = 1.5
"""The longer side that InstructPix2Pix works at, at most, in its own sizes (768 px for one trained at 512)."""

SEVERAL = {
    "Flux2KleinKVPipeline": "first",
    "Flux2KleinPipeline": "first",
    "Flux2Pipeline": "first",
    "GlmImagePipeline": "first",
    "JoyImageEditPlusPipeline": "last",
    "QwenImage21Pipeline": "last",
    "QwenImageEditPlusPipeline": "last",
    "ZImageOmniPipeline": "last",
}
"""The pipelines that see several pictures, and which of them gives the result its size."""


@dataclass(frozen=True)
class Instructed:
    """A checkpoint that edits by instruction."""

    checkpoint: Checkpoint

    def unread(
        self, instruction: str, arguments: Mapping[str, Any], sampler: str | None = None
    ) -> str:
        """Say what of the words is not read, and which of the checkpoint's settings a sampler does
        not know; nothing if all is used, or if it is not known.
        """
        import diffusers

        length, negative = arguments.get("max_sequence_length"), arguments.get("negative_prompt")
        unread = unread_by(
            getattr(diffusers, self.checkpoint.kind),
            self.checkpoint.parts,
            instruction,
            negative,
            length,
            what="the instruction",
        )
        return "; ".join(
            filter(None, (unread, lost_by(sampler, self.checkpoint.parts["scheduler"])))
        )

    def edit(
        self,
        picture: np.ndarray,
        instruction: str,
        *,
        references: Sequence[np.ndarray],
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
        arguments: Mapping[str, Any],
        attached: AttachedAdapters,
        sampler: str | None,
        sampler_settings: dict[str, Any] | None,
        memory_levels: Sequence[str],
    ) -> Generator[tuple[int, int], None, np.ndarray]:
        """Edit uint8 (height, width, 3) of any size; the result has the same size, and alpha where
        the model draws it. Yields (steps done, steps).

        Raises:
            ValueError: the model sees one picture alone, or does not take an argument.
        """
        import diffusers
        import numpy as np
        from PIL import Image

        kind = self.checkpoint.kind
        cls = getattr(diffusers, kind)
        takes = inspect.signature(cls.__call__).parameters
        if image_guidance_scale is not None and "image_guidance_scale" not in takes:
            raise ValueError(f"this model has no image_guidance_scale: {kind} takes none")
        if references and kind not in SEVERAL:
            raise ValueError(
                f"this model sees one picture alone, and its 'references' holds {len(references)}:"
                f" {kind} takes none beside the image; these do: {', '.join(sorted(SEVERAL))}"
            )
        pipeline = self.checkpoint.pipeline(cls)
        set_sampler(pipeline, sampler, sampler_settings)
        source = Image.fromarray(picture)
        seen = [
            self._worked(pipeline, source),
            *(Image.fromarray(reference) for reference in references),
        ]
        given = {
            "prompt": instruction,
            edits(cls): seen if kind in SEVERAL else seen[0],
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
        }
        sides: tuple[int | None, int | None] = (None, None)
        if SEVERAL.get(kind) == "last" and references:
            sides = sides_of(source.size, arguments.get("output_resolution", 1024))
        if "InstructPix2Pix" in kind and "height" in takes:
            sides = seen[0].size
        with (
            self.checkpoint.alone(),
            attach_adapters(pipeline, self.checkpoint, attached) as more,
            sparing(getattr(pipeline, "vae", None), memory_levels),
        ):
            output = yield from counted(
                pipeline,
                {
                    "width": sides[0],
                    "height": sides[1],
                    **with_arguments(given, arguments),
                    **more,
                    "output_type": "np",
                },
                seed=seed,
            )
        with explaining_nan(self.checkpoint.parts):
            found = pictures(output)
        if len(found) != 1:
            raise ValueError(
                f"{kind} gave {len(found)} pictures where an edit is one: call it by"
                " diffusion.pipeline"
            )
        edited = found[0].to_pil()
        return np.asarray(
            edited
            if edited.size == source.size
            else edited.resize(source.size, Image.Resampling.LANCZOS)
        )

    def _worked(self, pipeline: Any, source: Any) -> Any:
        """Bring a picture to a size that the model works at. The later models' pipelines do so
        themselves.
        """
        if "InstructPix2Pix" not in self.checkpoint.kind:
            return source
        grid = pipeline.vae_scale_factor
        scale = min(1.0, LARGEST * pipeline.unet.config.sample_size * grid / max(source.size))
        # Rounded to what the autoencoder can halve, but never to nothing, or a thin strip would
        # vanish.
        worked = tuple(max(grid, round(side * scale / grid) * grid) for side in source.size)
        from PIL.Image import Resampling

        return source if worked == source.size else source.resize(worked, Resampling.LANCZOS)


def sides_of(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Give the sides, in steps of 32, of a picture of some shape with the area of a square, as the
    pipelines reckon them that work at one size.
    """
    width = math.sqrt(side * side * size[0] / size[1])
    return max(32, round(width / 32) * 32), max(32, round(width / (size[0] / size[1]) / 32) * 32)
