"""Captioning: a vision-encoder-decoder of transformers puts a picture into words."""

from __future__ import annotations

from typing import Any

import numpy as np


def caption(
    picture: np.ndarray, *, model: Any, image_processor: Any, tokenizer: Any, max_length: int = 32
) -> str:
    """Describe a picture, greedily, so that equal pictures have equal words.

    Inputs:
        picture: uint8 (height, width, 3), sRGB, any size.
        model: a ``VisionEncoderDecoderModel`` or another with ``generate(pixel_values=…)``.
        image_processor, tokenizer: those saved beside it.
    Params:
        max_length: tokens at most.
    """
    import torch
    from PIL import Image

    pixels = image_processor(images=Image.fromarray(picture), return_tensors="pt")[
        "pixel_values"
    ].to(model.device, model.dtype)
    with torch.no_grad():
        ids = model.generate(
            pixel_values=pixels, num_beams=1, do_sample=False, max_length=max_length
        )
    return str(tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()
