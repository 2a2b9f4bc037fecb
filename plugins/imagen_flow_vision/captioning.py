"""Caption a picture with a vision-encoder-decoder of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np


def caption(
    picture: np.ndarray, *, model: Any, image_processor: Any, tokenizer: Any, max_length: int = 32
) -> tuple[str, float]:
    """Describe a picture with greedy decoding, so that equal pictures get equal captions.

    Inputs:
        picture: uint8 (height, width, 3), sRGB, any size.
        model: a ``VisionEncoderDecoderModel`` or another model with ``generate(pixel_values=…)``.
        image_processor, tokenizer: those saved with it.

    Params:
        max_length: the most tokens.

    Outputs: the caption, and the probability that the model assigns to it, 0 to 1.
    """
    import torch
    from PIL import Image

    pixels = image_processor(images=Image.fromarray(picture), return_tensors="pt")[
        "pixel_values"
    ].to(model.device, model.dtype)
    with torch.no_grad():
        found = model.generate(
            pixel_values=pixels,
            num_beams=1,
            do_sample=False,
            max_length=max_length,
            output_scores=True,
            return_dict_in_generate=True,
        )
    # With greedy decoding the chosen token is the likeliest.
    likeliest = [scores[0].float().log_softmax(-1).max() for scores in found.scores]
    words = str(tokenizer.batch_decode(found.sequences, skip_special_tokens=True)[0]).strip()
    return words, float(torch.stack(likeliest).sum().exp()) if likeliest else 0.0
