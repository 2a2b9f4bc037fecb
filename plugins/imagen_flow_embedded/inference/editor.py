"""The editor of the project's own kind: InstructPix2Pix in pixel space, once for the whole picture
and once for a close-up.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagen_flow.loaders import load_pretrained, unread_words

from .samplers import load_sampler

if TYPE_CHECKING:
    import numpy as np

    from imagen_flow import Model


@dataclass(frozen=True)
class PixelEditor:
    """Two small diffusion models in pixel space that see the source picture beside the noise."""

    unet: Any
    close_up: Any
    text_encoder: Any
    tokenizer: Any
    plan: Mapping[str, Any]
    scheduler: Any

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> PixelEditor:
        from diffusers import UNet2DConditionModel
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, T5EncoderModel

        return cls(
            load_pretrained(UNet2DConditionModel, model, "unet", device=device, dtype=dtype),
            load_pretrained(UNet2DConditionModel, model, "close_up", device=device, dtype=dtype),
            load_pretrained(T5EncoderModel, model, "text_encoder", device=device, dtype=dtype),
            AutoTokenizer.from_pretrained(
                str(model.path / "tokenizer"), local_files_only=True, trust_remote_code=False
            ),
            load_file(model.path / "plan" / "model.safetensors", device=device),
            load_sampler(model, "scheduler"),
        )

    @property
    def networks(self) -> dict[str, Any]:
        return {"unet": self.unet, "close_up": self.close_up}

    def unread(self, instruction: str) -> str:
        """Say what of the instruction is not read; nothing if all is."""
        from . import reading

        note = unread_words(
            self.tokenizer,
            instruction,
            int(self.tokenizer.model_max_length),
            what="the instruction",
        )
        if reading.is_read(self.tokenizer, instruction):
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
    ) -> Generator[tuple[Any, ...], None, np.ndarray]:
        """Edit uint8 (height, width, 3) of any size; the result has the same size. Yields (steps
        done, steps), and last a note if there is nothing to change.
        """
        steps = self.edit_many(
            [picture],
            [instruction],
            seeds=[seed],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
        )
        return _only(steps)

    def edit_many(
        self,
        pictures: Sequence[np.ndarray],
        instructions: Sequence[str],
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
        image_guidance_scale: float | None,
    ) -> Generator[tuple[Any, ...], None, list[np.ndarray]]:
        """Edit several pictures, each by an instruction of its own. Yields (steps done, steps), and
        last a note and its picture's place for each in which there is nothing to change.
        """
        if image_guidance_scale is not None:
            raise ValueError(
                "this model has no image_guidance_scale: it keeps the source's own pixels where"
                " nothing changes"
            )
        if guidance_scale not in (None, 1):
            raise ValueError(
                "this model has no guidance_scale: it is trained to do what is asked as it is asked"
            )
        more = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
        return self._edit_many(pictures, instructions, seeds, more)

    def _edit_many(
        self,
        pictures: Sequence[np.ndarray],
        instructions: Sequence[str],
        seeds: Sequence[int],
        more: dict[str, Any],
    ) -> Generator[tuple[Any, ...], None, list[np.ndarray]]:
        from . import editing, reading

        edited = [picture.copy() for picture in pictures]
        places = [i for i, each in enumerate(instructions) if reading.is_read(self.tokenizer, each)]
        if not places:
            yield 1, 1
            return edited
        found = yield from editing.edit(
            [pictures[i] for i in places],
            [instructions[i] for i in places],
            unet=self.unet,
            close_up=self.close_up,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            plan=self.plan,
            scheduler=self.scheduler,
            seeds=[seeds[i] for i in places],
            **more,
        )
        for i, one in zip(places, found, strict=True):
            if isinstance(one, str):
                yield 1, 1, f"{one}: the picture stays as it is", i
            else:
                edited[i] = one
        return edited


def _only(
    steps: Generator[tuple[Any, ...], None, list[np.ndarray]],
) -> Generator[tuple[Any, ...], None, np.ndarray]:
    """Take the steps of one picture's edit, without its place."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            edited: np.ndarray = end.value[0]
            return edited
        yield step[:3]
