"""DeepFloyd IF, the open Imagen, through diffusers' own pipelines.

Each call makes a pipeline of its own from the shared parts, for a pipeline and its sampler keep
state while they run. Pictures are those of
``output_type="np"``: the safety checker runs where the checkpoint brings one, and no watermark is
stamped between the stages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checkpoints.folder import fresh
from ..pipelines.stepping import stepping

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..loading.checkpoint import Checkpoint

FAMILY = "IF"


@dataclass(frozen=True)
class Base:
    """IF's first stage: text to a small picture."""

    unet: Any
    scheduler: Any
    safety: dict[str, Any]
    family: str = FAMILY

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Base:
        """Take what the stage needs of a checkpoint's parts."""
        parts = checkpoint.parts
        return cls(parts["unet"], parts["scheduler"], _safety(parts))

    @property
    def text_width(self) -> int:
        return int(self.unet.config.encoder_hid_dim or self.unet.config.cross_attention_dim)

    def draw(
        self,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
        """Draw a picture. Yields (steps done, steps, the noisy picture so far); returns float32
        (height, width, 3), 0 to 1.
        """
        return _only(
            self.draw_many(
                text[:, None],
                seeds=[seed],
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
            )
        )

    def draw_many(
        self,
        text: torch.Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
        """Draw a picture for each seed, of states (2, pictures, tokens, width)."""
        from diffusers import IFPipeline

        pipeline = _pipeline(
            IFPipeline,
            tokenizer=None,
            text_encoder=None,
            unet=self.unet,
            scheduler=fresh(self.scheduler),
            **self.safety,
        )
        return _run(
            pipeline,
            text,
            seeds,
            num_inference_steps or 100,
            guidance_scale=7.0 if guidance_scale is None else guidance_scale,
        )


@dataclass(frozen=True)
class Enlarger:
    """IF's second stage: a small picture to a large one."""

    unet: Any
    scheduler: Any
    image_noising_scheduler: Any
    safety: dict[str, Any]
    family: str = FAMILY

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Enlarger:
        """Take what the stage needs of a checkpoint's parts."""
        parts = checkpoint.parts
        return cls(
            parts["unet"], parts["scheduler"], parts["image_noising_scheduler"], _safety(parts)
        )

    text_width = Base.text_width

    def draw(
        self,
        picture: np.ndarray,
        text: torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        noise_level: int | None,
    ) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
        """Enlarge float32 (height, width, 3), 0 to 1. Yields and returns as `Base.draw`."""
        return _only(
            self.draw_many(
                [picture],
                text[:, None],
                seeds=[seed],
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                noise_level=noise_level,
            )
        )

    def draw_many(
        self,
        pictures: Sequence[np.ndarray],
        text: torch.Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None,
        guidance_scale: float | None,
        noise_level: int | None,
    ) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
        """Enlarge pictures of one size, with states (2, pictures, tokens, width)."""
        import numpy as np
        import torch
        from diffusers import IFSuperResolutionPipeline

        pipeline = _pipeline(
            IFSuperResolutionPipeline,
            tokenizer=None,
            text_encoder=None,
            unet=self.unet,
            scheduler=fresh(self.scheduler),
            image_noising_scheduler=fresh(self.image_noising_scheduler),
            **self.safety,
        )
        return _run(
            pipeline,
            text,
            seeds,
            num_inference_steps or 50,
            guidance_scale=4.0 if guidance_scale is None else guidance_scale,
            image=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) * 2 - 1,
            noise_level=250 if noise_level is None else noise_level,
        )


def _safety(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: parts.get(name) for name in ("safety_checker", "feature_extractor")}


def _pipeline(cls: Any, **parts: Any) -> Any:
    pipeline = cls(**parts, watermarker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _run(
    pipeline: Any, text: torch.Tensor, seeds: Sequence[int], steps: int, **given: Any
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def call(report: Any) -> Any:
        return pipeline(
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
            num_inference_steps=steps,
            generator=generators[0] if len(seeds) == 1 else generators,
            output_type="np",
            return_dict=False,
            callback=lambda step, _time, x: report((step + 1, steps, x)),
            **given,
        )

    pictures, unsafe, watermarked = yield from stepping(call)
    # diffusers blackens such a picture and only logs it.
    for hits, what in ((unsafe, "unsafe"), (watermarked, "watermarked")):
        if hits and any(hits):
            raise RuntimeError(
                f"the checkpoint's safety checker found the picture {what} and blackened it; try"
                " another seed or prompt"
            )
    return pictures


def _only(
    steps: Generator[tuple[int, int, torch.Tensor], None, np.ndarray],
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Give the only picture of those that are drawn."""
    picture: np.ndarray = (yield from steps)[0]
    return picture
