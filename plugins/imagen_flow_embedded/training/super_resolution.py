"""Train the super-resolution model: pictures of 64 px, with their prompts, to 128 px.

The network sees the noisy picture and the enlarged small one, both pixel-unshuffled by two, and
predicts how the clean picture differs from the enlarged one. As in Imagen, the small picture is
given noise of a random level in training and the level is told to the network
(``class_embed_type="timestep"``, as in IF), so that when sampling it does not trust each pixel of
what the base made. Half of the small pictures are the base's own: true ones under noise, repaired
by it, so that the enlarger learns to draw a straight edge where the base drew a wavering one.

Source: Imagen (arXiv:2205.11487), noise-conditioning augmentation of arXiv:2106.15282.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.diffusion import FOLD as BASE_FOLD
from imagen_flow_embedded.training.diffusion import (
    TIMES,
    build_scheduler,
    encode,
    load_text,
    measure_means,
    plan_beside,
    to_tensor,
    with_coordinates,
)
from imagen_flow_embedded.training.edges import build_optimizer, edge_losses, start_from
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.pictures import bend
from imagen_flow_embedded.training.text_encoder import draw_descriptions
from imagen_flow_embedded.world import Scene, render

LOW, SIDE, FOLD = 64, 128, 2
MOST_NOISE = 0.1
"""The highest level of noise given to the small picture, as a part of the schedule."""
REPAIRS = (1, 0.8, 0.6, 0.4, 0.25, 0.12)
"""The steps in which the base repairs a picture, as parts of the time at which it starts."""


def build_super_resolution_unet(text_width: int, *, channels: Sequence[int] = (32, 48, 64)) -> Any:
    """Make the untrained denoiser of 128 px pictures; text is attended to at its coarsest level."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
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
    network.conv_out.weight.data *= 0.1
    return network


def degrade(rng: np.random.Generator, low: Any) -> Any:
    """Give small pictures the faults of a base model: a smooth warp of up to a third of a pixel, a
    little blur, a little of another tone.
    """
    import torch
    from torch.nn import functional as F

    n = len(low)
    warped = bend(low, rng, (0, 0.15, 0.3))
    blurred = F.avg_pool2d(F.pad(warped, (1, 1, 1, 1), mode="replicate"), 3, 1)
    part = torch.from_numpy(
        (rng.random((n, 1, 1, 1)) * rng.choice([0, 0.6], (n, 1, 1, 1))).astype(np.float32)
    )
    tone = 1 + 0.03 * torch.from_numpy(rng.standard_normal((n, 3, 1, 1), np.float32))
    return ((warped + part * (blurred - warped)) * tone).clamp(-1, 1)


def enlarge(low: Any) -> Any:
    """Enlarge small pictures twofold by bicubic interpolation: what the network sees beside the
    noise.
    """
    from torch.nn import functional as F

    return F.interpolate(low, scale_factor=SIDE // LOW, mode="bicubic", align_corners=False)


def repair(
    text: Path, base: Path, *, count: int, seed: int, batch_size: int = 16
) -> tuple[list[Scene], list[str], Any]:
    """Let a base model repair true small pictures under noise, in a few steps of DDIM.

    Outputs: the scenes, their texts, and what the base made of them: float (count, 3, 64, 64).
    """
    import torch
    from diffusers import UNet2DConditionModel
    from torch.nn import functional as F

    tokenizer, encoder = load_text(text)
    means = measure_means()
    network = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
    kept = build_scheduler().alphas_cumprod
    rng = np.random.default_rng((seed, 3))
    scenes: list[Scene] = []
    texts: list[str] = []
    made = []
    while len(scenes) < count:
        described = draw_descriptions(rng, batch_size)
        some, words = [each.scene for each in described], [each.text for each in described]
        states, mask = encode(tokenizer, encoder, words)
        plan, contrast = plan_beside(some, means)
        x = F.pixel_unshuffle(to_tensor(render(some, LOW)), BASE_FOLD)
        starts = (TIMES - 1) * (0.4 + 0.6 * rng.random(batch_size))
        noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
        for part in REPAIRS:
            time = torch.from_numpy((starts * part).astype(np.int64))
            level = kept[time].view(-1, 1, 1, 1)
            noisy = level.sqrt() * x + (1 - level).sqrt() * noise
            with torch.no_grad():
                difference = network(
                    with_coordinates(torch.cat([noisy * level, plan], 1)),
                    time,
                    states,
                    encoder_attention_mask=mask,
                ).sample
            x = (plan[:, : x.shape[1]] + contrast * difference).clamp(-1, 1)
            noise = (noisy - level.sqrt() * x) / (1 - level).sqrt()  # as DDIM derives it
        scenes += some
        texts += words
        made.append(F.pixel_shuffle(x, BASE_FOLD))
    return scenes[:count], texts[:count], torch.cat(made)[:count]


def train_super_resolution(
    scratch: Path,
    text: Path,
    base: Path,
    *,
    start: Path | None = None,
    steps: int = 3174,
    batch_size: int = 16,
    crop: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    channels: Sequence[int] = (32, 48, 64),
    repairs: int = 384,
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the super-resolution denoiser and write ``super_resolution/`` and its scheduler into
    ``scratch/imagen``.

    Params:
        text, base: folders of the trained text encoder and of the trained base.
        start: the folder of a super-resolution model to go on from.
        repairs: how many small pictures the base repairs, before training; not more than are learnt
            from.
        crop: side of the pieces trained on, around a thing, a multiple of 8; every eighth step
            takes a quarter as many whole pictures instead.
    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    tokenizer, encoder = load_text(text)
    repaired = repair(text, base, count=min(repairs, steps * batch_size), seed=seed)
    network = build_super_resolution_unet(encoder.config.d_model, channels=channels)
    if start:
        start_from(network, start)
    scheduler = build_scheduler()
    optimizer = build_optimizer(network, learning_rate)
    settings = {
        "what": "super_resolution",
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "learning_rate": learning_rate,
        "seed": seed,
        "start": start is not None,
        "channels": list(channels),
        "repairs": repairs,
    }
    keeper = Keeper(scratch, network, optimizer, settings, decay=0.99, every_s=every_s)

    def losses(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 2))
        count, side = (max(1, batch_size // 4), SIDE) if step % 8 == 7 else (batch_size, crop)
        half = count // 2
        described = draw_descriptions(rng, count - half, dropped=0.1)
        scenes, texts = [each.scene for each in described], [each.text for each in described]
        low = degrade(rng, to_tensor(render(scenes, LOW)))
        chosen = rng.integers(0, len(repaired[0]), half)
        scenes += [repaired[0][number] for number in chosen]
        texts += [repaired[1][number] for number in chosen]
        low = torch.cat([low, repaired[2][chosen]])
        states, mask = encode(tokenizer, encoder, texts)
        levels = torch.from_numpy((TIMES * MOST_NOISE * rng.random(count)).astype(np.int64))
        low = scheduler.add_noise(
            low, torch.from_numpy(rng.standard_normal(low.shape, np.float32)), levels
        )
        both = torch.cat([to_tensor(render(scenes, SIDE)), enlarge(low)], 1)
        both = torch.stack(
            [
                picture[:, y : y + side, x : x + side]
                for picture, (y, x) in zip(both, _corners(rng, scenes, side), strict=True)
            ]
        )
        clean, enlarged = F.pixel_unshuffle(both[:, :3], FOLD), F.pixel_unshuffle(both[:, 3:], FOLD)
        # the few steps of sampling are all at high noise
        times = torch.from_numpy((TIMES * rng.random(count) ** 0.5).astype(np.int64))
        noisy = scheduler.add_noise(
            clean, torch.from_numpy(rng.standard_normal(clean.shape, np.float32)), times
        )
        difference = network(
            torch.cat([noisy, enlarged], 1),
            times,
            states,
            class_labels=levels,
            encoder_attention_mask=mask,
        ).sample
        guess = F.pixel_shuffle(enlarged + difference, FOLD)
        sigma = (1 - scheduler.alphas_cumprod[times]).sqrt()
        return edge_losses(guess, both[:, :3], sigma)

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    network.half().save_pretrained(folder / "super_resolution")
    scheduler.save_pretrained(folder / "super_resolution_scheduler")
    write_index(folder)
    return folder


def _corners(rng: np.random.Generator, scenes: Sequence[Scene], side: int) -> list[tuple[int, int]]:
    """Draw the upper left corners (y, x) of pieces around a thing of each scene."""
    found = []
    for scene in scenes:
        thing = scene.things[int(rng.integers(len(scene.things)))]
        moved = rng.uniform(-side / 4, side / 4, 2) - side / 2
        corner = np.array([thing.y, thing.x]) * SIDE + moved
        y, x = np.clip(corner, 0, SIDE - side).astype(int) // FOLD * FOLD
        found.append((int(y), int(x)))
    return found
