"""Draw, enlarge, edit and caption as `graphs/imagen.yaml` does, by the libraries' own calls: what a
careful engineer would write for these models without a graph, one by one or in batches.

The parts are loaded by diffusers and transformers, once. The loops over denoising steps are those
that come with the models (`imagen_flow_embedded.inference`), which take one picture or many;
`direct.py` shows that they cost what a plain loop does.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded import WEIGHTS
from imagen_flow_embedded.inference import cascade, describing, editing

__all__ = ["Parts", "draw"]

INSTRUCTION = "make the circle green"
SEED = 7


@dataclass(frozen=True)
class Parts:
    """The loaded parts of the three models, as the functions that use them name them."""

    text: dict[str, Any]
    base: dict[str, Any]
    larger: dict[str, Any]
    editor: dict[str, Any]
    captioner: dict[str, Any]
    image_processor: Any

    @classmethod
    def load(cls) -> Parts:
        import torch
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from safetensors.torch import load_file
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            T5EncoderModel,
            VisionEncoderDecoderModel,
        )

        import imagen_flow as flow

        def part(of: Any, model: str, name: str = "") -> Any:
            return of.from_pretrained(WEIGHTS / model / name, torch_dtype=torch.float32).eval()

        def heads(model: str, name: str = "model") -> Any:
            return load_file(WEIGHTS / model / "plan" / f"{name}.safetensors")

        caption = WEIGHTS / "caption"
        return cls(
            text={
                "tokenizer": AutoTokenizer.from_pretrained(WEIGHTS / "imagen" / "tokenizer"),
                "text_encoder": part(T5EncoderModel, "imagen", "text_encoder"),
            },
            base={
                "unet": part(UNet2DConditionModel, "imagen", "unet"),
                "scheduler": DDIMScheduler.from_pretrained(WEIGHTS / "imagen" / "scheduler"),
                "heads": heads("imagen"),
                "means": heads("imagen", "means"),
            },
            larger={
                "unet": part(UNet2DConditionModel, "imagen", "super_resolution"),
                "scheduler": DDIMScheduler.from_pretrained(
                    WEIGHTS / "imagen" / "super_resolution_scheduler"
                ),
            },
            editor={
                "unet": part(UNet2DConditionModel, "edit", "unet"),
                "close_up": part(UNet2DConditionModel, "edit", "close_up"),
                "text_encoder": part(T5EncoderModel, "edit", "text_encoder"),
                "tokenizer": AutoTokenizer.from_pretrained(WEIGHTS / "edit" / "tokenizer"),
                "plan": heads("edit"),
                "scheduler": DDIMScheduler.from_pretrained(WEIGHTS / "edit" / "scheduler"),
            },
            captioner={
                "model": part(VisionEncoderDecoderModel, "caption"),
                "tokenizer": AutoTokenizer.from_pretrained(caption),
                "calibration": describing.Calibration.read(flow.Model(caption)),
            },
            image_processor=AutoImageProcessor.from_pretrained(caption, backend="pil"),
        )


def draw(parts: Parts, prompts: Sequence[str], out: Path, *, together: int) -> list[str]:
    """Draw a picture for each prompt, so many at a time, and save it before and after the edit;
    give the captions.
    """
    import torch
    from PIL import Image

    empty = cascade.encode([""], **parts.text)
    captions = []
    for first in range(0, len(prompts), together):
        some = prompts[first : first + together]
        seeds = [SEED] * len(some)
        states = cascade.encode(some, **parts.text)
        text = torch.stack([states, empty.expand_as(states)])
        small = last(cascade.draw(text, seeds=seeds, **parts.base))
        low = small.astype(np.float32) / 255
        large = last(cascade.enlarge(low, text, seeds=seeds, **parts.larger))
        edited = last(editing.edit(large, [INSTRUCTION] * len(some), seeds=seeds, **parts.editor))
        images = [
            Image.fromarray(before if isinstance(after, str) else after)
            for before, after in zip(large, edited, strict=True)
        ]
        pixels = parts.image_processor(images=images, return_tensors="pt")["pixel_values"]
        found = describing.choose(
            [np.asarray(image) for image in images], pixels, **parts.captioner
        )
        least, calibration = parts.captioner["calibration"].least, parts.captioner["calibration"]
        for number, (before, image, one) in enumerate(
            zip(large, images, found, strict=True), first
        ):
            Image.fromarray(before).save(out / f"{number}-drawn.png")
            image.save(out / f"{number}-edited.png")
            is_sure = one is not None and calibration.probability(one[1]) >= least
            captions.append(one[0] if one is not None and is_sure else "")
    return captions


def last(steps: Generator[Any, None, Any]) -> Any:
    """Take all steps of a sampler, and give what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
