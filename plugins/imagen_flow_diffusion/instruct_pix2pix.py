"""InstructPix2Pix checkpoints, through diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checkpoints import fresh, load_part, load_scheduler
from .stepping import stepping

if TYPE_CHECKING:
    import numpy as np

    from imagen_flow import Model

LARGEST = 1.5
"""The longer side that the model works at, at most, in its own sizes (768 px for one trained at 512)."""


@dataclass(frozen=True)
class InstructPix2Pix:
    """A latent diffusion model that sees the source picture beside the noise."""

    parts: dict[str, Any]
    scheduler: Any

    @classmethod
    def load(cls, model: Model, *, device: str, dtype: str) -> InstructPix2Pix:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import AutoImageProcessor, CLIPTextModel, CLIPTokenizer

        classes = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
        parts: dict[str, Any] = {name: load_part(part, model, name, device=device, dtype=dtype) for name, part in classes.items()}
        parts["tokenizer"] = CLIPTokenizer.from_pretrained(str(model.path / "tokenizer"), local_files_only=True)
        parts |= {"safety_checker": None, "feature_extractor": None}
        if (model.path / "safety_checker").is_dir():
            parts["safety_checker"] = load_part(StableDiffusionSafetyChecker, model, "safety_checker", device=device, dtype=dtype)
            parts["feature_extractor"] = AutoImageProcessor.from_pretrained(str(model.path / "feature_extractor"), backend="pil", local_files_only=True)
        return cls(parts, load_scheduler(model, "scheduler"))

    @property
    def tokenizer(self) -> Any:
        return self.parts["tokenizer"]

    @property
    def length(self) -> int:
        return int(self.tokenizer.model_max_length)

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
        """Edit uint8 (height, width, 3) of any size; the result has the same size. Yields (steps done, steps)."""
        import numpy as np
        import torch
        from diffusers import StableDiffusionInstructPix2PixPipeline
        from PIL import Image

        pipeline = StableDiffusionInstructPix2PixPipeline(**self.parts, scheduler=fresh(self.scheduler), requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        steps = num_inference_steps or 100
        size = (picture.shape[1], picture.shape[0])
        grid = pipeline.vae_scale_factor
        scale = min(1.0, LARGEST * pipeline.unet.config.sample_size * grid / max(size))
        # Rounded to what the autoencoder can halve, but never to nothing, or a thin strip would vanish.
        worked = tuple(max(grid, round(side * scale / grid) * grid) for side in size)
        source = Image.fromarray(picture)

        def call(report: Any) -> Any:
            def after_step(_pipeline: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
                report((step + 1, steps))
                return {}

            return pipeline(
                prompt=instruction,
                image=source if worked == size else source.resize(worked, Image.Resampling.LANCZOS),
                num_inference_steps=steps,
                guidance_scale=7.5 if guidance_scale is None else guidance_scale,
                image_guidance_scale=1.5 if image_guidance_scale is None else image_guidance_scale,
                generator=torch.Generator("cpu").manual_seed(seed),
                callback_on_step_end=after_step,
                output_type="np",
                return_dict=False,
            )

        pictures, unsafe = yield from stepping(call)
        if unsafe and any(unsafe):
            raise RuntimeError("the checkpoint's safety checker found the picture unsafe and blackened it; try another seed or instruction")
        if not np.isfinite(pictures).all():
            raise ValueError("the model gave NaN; say dtype: float32 (or bfloat16), half precision is too narrow for it")
        edited = Image.fromarray((pictures[0] * 255).round().astype(np.uint8))
        return np.asarray(edited if edited.size == size else edited.resize(size, Image.Resampling.LANCZOS))
