"""Editing by instruction: the sampling of a diffusion model that sees the source picture beside the
noise, and gives half the difference from it.

What the instruction does not touch is not repainted: where the edited picture agrees with the
source, the source's own pixels are kept, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

THRESHOLD = 0.10
"""How far, of full range, a smoothed channel must have moved for a pixel to count as changed."""


def edit(
    picture: np.ndarray,
    instruction: str,
    *,
    unet: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Any,
    seed: int,
    num_inference_steps: int = 4,
    guidance_scale: float = 1.0,
) -> Generator[tuple[int, int], None, np.ndarray]:
    """Change a picture as an instruction asks.

    Inputs:
        picture: uint8 (height, width, 3), any size; the model sees it at its own square size.
        instruction: such as ``make the circle green``; one without a word that the model knows
            changes nothing.
        unet, text_encoder, tokenizer, scheduler: the loaded parts of the model; the scheduler's
            state is not touched.
    Params:
        seed: of the first noise, drawn on the CPU.
        num_inference_steps: DDIM steps.
        guidance_scale: 1 is off; above it, the way from what no words give to what is asked is
            drawn longer.
    Outputs: yields (steps done, steps); returns uint8 of the input's shape.
    Source: InstructPix2Pix (arXiv:2211.09800) for the conditioning; DDIM (arXiv:2010.02502), eq. 12
        with eta 0, by ``scheduler.step``.
    """
    import torch
    from PIL import Image

    if not is_read(tokenizer, instruction):
        yield 1, 1
        return picture.copy()
    block = math.isqrt(unet.config.out_channels // 3)
    side = unet.config.sample_size * block
    device, dtype = unet.device, unet.dtype
    reduced = (
        np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
        if picture.shape[:2] != (side, side)
        else picture
    )
    source = torch.nn.functional.pixel_unshuffle(
        torch.tensor(reduced).permute(2, 0, 1)[None].float() / 127.5 - 1, block
    )

    sampler = type(scheduler).from_config(scheduler.config)
    sampler.set_timesteps(num_inference_steps, device=device)
    noise = torch.randn(
        source.shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32
    )
    x, source = noise.to(device, dtype) * sampler.init_noise_sigma, source.to(device, dtype)
    guided = guidance_scale != 1
    text, mask = _read(
        ["", instruction] if guided else [instruction], text_encoder, tokenizer, device
    )
    text = text.to(dtype)

    total = len(sampler.timesteps)
    for done, t in enumerate(sampler.timesteps, 1):
        with torch.no_grad():
            seen = torch.cat([sampler.scale_model_input(x, t), source], 1)
            painted = unet(
                seen.expand(len(text), -1, -1, -1), t, text, encoder_attention_mask=mask
            ).sample
            if guided:
                plain, asked = painted.chunk(2)
                painted = plain + guidance_scale * (asked - plain)
            x = sampler.step(painted, t, x, return_dict=False)[0]
        yield done, total
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("the model gave NaN")
    edited = (
        torch.nn.functional.pixel_shuffle((source + 2 * x).float().cpu(), block)[0]
        .permute(1, 2, 0)
        .clamp(-1, 1)
    )
    return keep_source(picture, reduced, np.rint((edited.numpy() + 1) * 127.5).astype(np.uint8))


def is_read(tokenizer: Any, instruction: str) -> bool:
    """Say whether an instruction has a word that the model knows."""
    ids = tokenizer(instruction, add_special_tokens=False, truncation=True)["input_ids"]
    return any(number != tokenizer.unk_token_id for number in ids)


def _read(
    instructions: list[str], text_encoder: Any, tokenizer: Any, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give hidden states and mask of the words; the states are zero where there is no word, as in
    training.
    """
    import torch

    found = tokenizer(
        instructions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids, mask = found["input_ids"].to(device), found["attention_mask"].to(device)
    with torch.no_grad():
        states = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return states * mask[..., None].to(states.dtype), mask


def keep_source(picture: np.ndarray, reduced: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Carry a change back to the source: the edited pixels where something changed, and a little
    around it; elsewhere the source's own.

    Inputs:
        picture: uint8 (H, W, 3), the source.
        reduced, edited: uint8 (side, side, 3), the source as the model saw it and what it painted.
    Outputs: uint8 (H, W, 3).
    """
    from PIL import Image

    weight = Image.fromarray(change_mask(reduced, edited))
    painted = Image.fromarray(edited)
    size = (picture.shape[1], picture.shape[0])
    if painted.size != size:
        weight, painted = (
            weight.resize(size, Image.Resampling.BICUBIC),
            painted.resize(size, Image.Resampling.BICUBIC),
        )
    return np.asarray(Image.composite(painted, Image.fromarray(picture), weight))


def change_mask(reduced: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Say where an edit changed the picture.

    The difference is smoothed with its sign, so that grain and sharpened edges, which go both ways,
    cancel; single lines are dropped, what remains is widened to take in its soft edge.
    An instruction changes one thing: a change that is nowhere half as strong as the strongest is
        the model's inaccuracy, and the source is kept.
    Outputs: uint8 (side, side), 255 where the edited pixels count, 0 where the source's do.
    """
    from PIL import Image, ImageChops, ImageFilter

    half = (
        edited.astype(np.int16) - reduced.astype(np.int16)
    ) // 2 + 128  # Pillow smooths bytes only
    smooth = np.asarray(
        Image.fromarray(half.astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    ).astype(np.float32)
    moved = 2 * np.abs(smooth - 128).max(-1)
    changed = Image.fromarray(np.where(moved > THRESHOLD * 255, 255, 0).astype(np.uint8)).filter(
        ImageFilter.MinFilter(3)
    )
    kept = Image.fromarray(
        np.where(moved > max(THRESHOLD * 255, moved.max() / 2), 255, 0).astype(np.uint8)
    )
    while True:  # from the strong changes outwards, as far as the changed places hang together
        grown = ImageChops.darker(kept.filter(ImageFilter.MaxFilter(3)), changed)
        if grown == kept:
            break
        kept = grown
    mask = kept.filter(ImageFilter.MaxFilter(9))
    return np.asarray(mask.filter(ImageFilter.BoxBlur(1)))
