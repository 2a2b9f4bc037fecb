"""Find in a picture what words name, as a mask: so an edit in words becomes an edit of a region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Image, Mask, Model, Range
from imagen_flow.loaders import (
    Leased,
    Loader,
    Loading,
    load_image_processor,
    load_tokenizer,
)

from ..checkpoints.description import what_is
from ..checkpoints.folder import load_part
from ..pipelines.calling import NoNumberError, explaining_nan, problem_of, to_pil


@dataclass(frozen=True)
class Segmenter:
    """CLIPSeg with its tokenizer and processor."""

    network: Any
    tokenizer: Any
    processor: Any


class Segmenting(Loader[Segmenter]):
    """A model that finds what words name: CLIPSeg."""

    def check(self, model: Model) -> None:
        if (kind := what_is(model)) != "CLIPSegForImageSegmentation":
            raise problem_of(model, "mask.find", kind, "a CLIPSegForImageSegmentation")

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Segmenter:
        from transformers import CLIPSegForImageSegmentation

        self.check(model)
        return Segmenter(
            load_part(CLIPSegForImageSegmentation, model, "", device=device, dtype=dtype),
            load_tokenizer(model),
            load_image_processor(model),
        )


@flow.node("mask.find", version=1, uses=("torch", "transformers"))
def find(
    model: Annotated[Segmenter, Leased(Segmenting)],
    image: Image,
    words: str,
    *,
    threshold: Annotated[float, Range(0, 1)] | None = 0.4,
) -> Mask:
    """Make a mask of what a phrase describes in a picture, such as ``the dog``.

    Inputs:
        model: a CLIPSeg checkpoint, e.g. hf:CIDAS/clipseg-rd64-refined.
        image: alpha is composited over black.
    Params:
        threshold: the likelihood, 0 to 1, from which a pixel is inside; null returns the
            likelihoods themselves.
    Outputs: a mask of the picture's size, 8 bits.
    Source: CLIPSeg (arXiv:2112.10003), ``transformers.CLIPSegForImageSegmentation``.
    """
    import numpy as np
    import PIL.Image
    import torch

    length = min(
        model.tokenizer.model_max_length, model.network.config.text_config.max_position_embeddings
    )
    text = model.tokenizer(
        [words], return_tensors="pt", truncation=True, padding=True, max_length=length
    )
    pixels = model.processor(images=[to_pil(image)], return_tensors="pt")["pixel_values"]
    network = model.network
    with torch.no_grad():
        given = network(
            input_ids=text["input_ids"].to(network.device),
            attention_mask=text["attention_mask"].to(network.device),
            pixel_values=pixels.to(network.device, network.dtype),
        )
    likely = torch.sigmoid(given.logits.float()).cpu().numpy().reshape(given.logits.shape[-2:])
    if not np.isfinite(likely).all():
        with explaining_nan({"network": network}):
            raise NoNumberError("the model gave")
    large = np.asarray(
        PIL.Image.fromarray(likely).resize(
            (image.width, image.height), PIL.Image.Resampling.BILINEAR
        )
    )
    inside = large if threshold is None else (large >= threshold).astype("float32")
    return Mask((np.clip(inside, 0, 1) * 255).round().astype(np.uint8))
