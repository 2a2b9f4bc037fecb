"""Train the super-resolution model: pictures of 32 px, with their captions, to 128 px.

The network sees the noisy picture and the enlarged small one, both pixel-unshuffled by four, and
predicts the clean picture. As in Imagen, the small picture is given noise of a random level in
training and the level is told to the network (``class_embed_type="timestep"``, as in IF), so that
when sampling it does not trust each pixel of what the base model made. It is warped and blurred a
little besides: the faults of a small base model.

Source: Imagen (arXiv:2205.11487), noise-conditioning augmentation of arXiv:2106.15282.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.diffusion import (
    TIMES,
    build_scheduler,
    encode,
    load_text,
    to_tensor,
    weighted_error,
)
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.pictures import bend
from imagen_flow_embedded.training.text_encoder import draw_captions
from imagen_flow_embedded.world import render

LOW, SIDE, FOLD = 32, 128, 4
MOST_NOISE = 0.3
"""The highest level of noise given to the small picture, as a part of the schedule."""


def build_super_resolution_unet(text_width: int, *, channels: Sequence[int] = (48, 64, 96)) -> Any:
    """Make the untrained denoiser of 128 px pictures; text is attended to at its coarsest level."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // FOLD,
        in_channels=2 * 3 * FOLD * FOLD,
        out_channels=3 * FOLD * FOLD,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            "ResnetDownsampleBlock2D",
            "SimpleCrossAttnDownBlock2D",
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(
            "SimpleCrossAttnUpBlock2D",
            "ResnetUpsampleBlock2D",
            "ResnetUpsampleBlock2D",
        ),
        attention_head_dim=32,
        norm_num_groups=16,
        cross_attention_dim=text_width,
        encoder_hid_dim=text_width,
        class_embed_type="timestep",
    )


def degrade(rng: np.random.Generator, low: Any) -> Any:
    """Give small pictures the faults of a base model: a smooth warp of up to half a pixel, a little
    blur, a little of another tone.
    """
    import torch
    from torch.nn import functional as F

    n = len(low)
    warped = bend(low, rng, (0, 0.3, 0.6))
    blurred = F.avg_pool2d(F.pad(warped, (1, 1, 1, 1), mode="replicate"), 3, 1)
    part = torch.from_numpy(
        (rng.random((n, 1, 1, 1)) * rng.choice([0, 0.6], (n, 1, 1, 1))).astype(np.float32)
    )
    tone = 1 + 0.04 * torch.from_numpy(rng.standard_normal((n, 3, 1, 1), np.float32))
    return ((warped + part * (blurred - warped)) * tone).clamp(-1, 1)


def enlarge(low: Any) -> Any:
    """Enlarge small pictures fourfold by bicubic interpolation: what the network sees beside the
    noise.
    """
    from torch.nn import functional as F

    return F.interpolate(low, scale_factor=FOLD, mode="bicubic", align_corners=False)


def train_super_resolution(
    scratch: Path,
    text: Path,
    *,
    steps: int = 4500,
    batch_size: int = 16,
    crop: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    channels: Sequence[int] = (48, 64, 96),
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the super-resolution denoiser and write ``super_resolution/`` and its scheduler into
    ``scratch/imagen``.

    Params:
        crop: side of the pieces trained on, a multiple of 16; every eighth step takes a quarter as
            many whole pictures instead.
    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    tokenizer, encoder = load_text(text)
    network = build_super_resolution_unet(encoder.config.d_model, channels=channels)
    scheduler = build_scheduler()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    settings = {
        "what": "super_resolution",
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "learning_rate": learning_rate,
        "seed": seed,
        "channels": list(channels),
    }
    keeper = Keeper(scratch, network, optimizer, settings, decay=0.998, every_s=every_s)

    def losses(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 2))
        count, side = (max(1, batch_size // 4), SIDE) if step % 8 == 7 else (batch_size, crop)
        scenes, captions = draw_captions(rng, count, dropped=0.1)
        states, mask = encode(tokenizer, encoder, captions)
        levels = torch.from_numpy((TIMES * MOST_NOISE * rng.random(count)).astype(np.int64))
        low = degrade(rng, to_tensor(render(scenes, LOW)))
        low = scheduler.add_noise(
            low, torch.from_numpy(rng.standard_normal(low.shape, np.float32)), levels
        )
        both = torch.cat([to_tensor(render(scenes, SIDE)), enlarge(low)], 1)
        corners = rng.integers(0, (SIDE - side) // FOLD + 1, (count, 2)) * FOLD
        both = torch.stack(
            [
                picture[:, y : y + side, x : x + side]
                for picture, (y, x) in zip(both, corners, strict=True)
            ]
        )
        clean, enlarged = F.pixel_unshuffle(both[:, :3], FOLD), F.pixel_unshuffle(both[:, 3:], FOLD)
        times = torch.from_numpy(rng.integers(0, TIMES, count))
        noisy = scheduler.add_noise(
            clean, torch.from_numpy(rng.standard_normal(clean.shape, np.float32)), times
        )
        guess = network(
            torch.cat([noisy, enlarged], 1),
            times,
            states,
            class_labels=levels,
            encoder_attention_mask=mask,
        ).sample
        return {"loss": weighted_error(guess, clean, scheduler.alphas_cumprod[times])}

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    network.half().save_pretrained(folder / "super_resolution")
    scheduler.save_pretrained(folder / "super_resolution_scheduler")
    write_index(folder)
    return folder
