"""The editor of the project's own kind: InstructPix2Pix in pixel space."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagen_flow.loaders import load_pretrained, unread_words

from .samplers import load_sampler

if TYPE_CHECKING:
    import numpy as np

    from imagen_flow import Model


@dataclass(frozen=True)
class PixelEditor:
    """A small diffusion model in pixel space that sees the source picture beside the noise."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> PixelEditor:
        from diffusers import UNet2DConditionModel
        from transformers import AutoTokenizer, T5EncoderModel

        return cls(
            load_pretrained(UNet2DConditionModel, model, "unet", device=device, dtype=dtype),
            load_pretrained(T5EncoderModel, model, "text_encoder", device=device, dtype=dtype),
            AutoTokenizer.from_pretrained(
                str(model.path / "tokenizer"), local_files_only=True, trust_remote_code=False
            ),
            load_sampler(model, "scheduler"),
        )

    @property
    def networks(self) -> dict[str, Any]:
        return {"unet": self.unet}

    def unread(self, instruction: str) -> str:
        """Say what of the instruction is not read; nothing if all is."""
        from . import editing

        note = unread_words(
            self.tokenizer,
            instruction,
            int(self.tokenizer.model_max_length),
            what="the instruction",
        )
        if editing.is_read(self.tokenizer, instruction):
            return note
        nothing = "the instruction has no word that the model knows: the picture stays as it is"
        return "; ".join(filter(None, (note, nothing)))

    def edit(
        self,
        picture: np.ndarray,
        instruction: str,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
    ) -> Generator[tuple[int, int], None, np.ndarray]:
        """Edit uint8 (height, width, 3) of any size; the result has the same size. Yields (steps
        done, steps).
        """
        if image_guidance_scale is not None:
            raise ValueError(
                "this model has no image_guidance_scale: it keeps the source's own pixels where"
                " nothing changes"
            )
        from . import editing

        given: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        return editing.edit(
            picture,
            instruction,
            unet=self.unet,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
