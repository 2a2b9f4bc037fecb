"""Train the second super-resolution stage: pictures of 128 px to 256 px.

As in Imagen, it goes on where the first stage ends, and has no attention: what a picture shows has
been decided, and what is left to draw are its edges. So it does not read the prompt either, and it
need not be trained again with the text encoder. The network sees the noisy picture and the
enlarged small one, both pixel-unshuffled by two, and predicts how the clean picture differs from
the enlarged one. The small pictures are true ones, reduced, with the faults of drawn ones: soft
edges, a smooth warp of a fraction of a pixel, and noise of a level that is told to the network. What surrounds an edge decides where it runs, so a network that has seen both soft and
sharp edges draws either as a sharp one.

Source: Imagen (arXiv:2205.11487), section 2.4 and noise-conditioning augmentation.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.diffusion import TIMES, build_scheduler, to_tensor
from imagen_flow_embedded.training.edges import build_optimizer, edge_losses, start_from
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.pictures import bend
from imagen_flow_embedded.world import Scene, draw_scene, render

LOW, SIDE, FOLD = 128, 256, 2
TEXT_WIDTH = 128
"""The width of the states that come with a picture; no layer reads them."""
MOST_NOISE = 0.04
"""The highest level of noise given to the small picture, as a part of the schedule."""
SOFTEST = 1.6
"""The strongest blur of a small picture: its standard deviation in pixels."""


def build_unet(*, channels: Sequence[int] = (24, 32, 48)) -> Any:
    """Make the untrained denoiser of 256 px pictures."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=SIDE // FOLD,
        in_channels=2 * 3 * FOLD * FOLD,
        out_channels=3 * FOLD * FOLD,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D",) * len(channels),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("ResnetUpsampleBlock2D",) * len(channels),
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        class_embed_type="timestep",
    )
    network.conv_out.weight.data *= 0.1
    return network


def soften(rng: np.random.Generator, low: Any) -> Any:
    """Give small pictures the faults of drawn ones: a smooth warp of a fraction of a pixel, and blur
    from none to `SOFTEST`.
    """
    import torch
    from torch.nn import functional as F

    count = len(low)
    warped = bend(low, rng, (0, 0, 0.15, 0.3))
    sigmas = SOFTEST * rng.random(count) * rng.choice([0, 1, 1], count)
    reach = 5
    offsets = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 * (offsets / np.maximum(sigmas, 0.05)[:, None]) ** 2)
    kernels = torch.from_numpy((taps / taps.sum(1, keepdims=True)).astype(np.float32))
    kernels = kernels.repeat_interleave(low.shape[1], 0)[:, None]
    flat = F.pad(warped.reshape(1, -1, *low.shape[2:]), (reach,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernels[:, :, None], groups=len(kernels))
    flat = F.conv2d(flat, kernels[:, :, :, None], groups=len(kernels))
    return flat.reshape(low.shape)


def train_second_super_resolution(
    scratch: Path,
    *,
    start: Path | None = None,
    steps: int = 1800,
    batch_size: int = 16,
    crop: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    channels: Sequence[int] = (24, 32, 48),
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the denoiser of the second stage and write ``super_resolution/`` and its scheduler into
    ``scratch/imagen-256``.

    Params:
        start: the folder of such a stage to go on from.
        crop: side of the pieces trained on, two of each picture, around an edge of a thing, a
            multiple of 8; every eighth step takes an eighth as many whole pictures instead.
    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    network = build_unet(channels=channels)
    if start:
        start_from(network, start)
    scheduler = build_scheduler()
    optimizer = build_optimizer(network, learning_rate)
    settings = {
        "what": "second_super_resolution",
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "learning_rate": learning_rate,
        "seed": seed,
        "start": start is not None,
        "channels": list(channels),
    }
    keeper = Keeper(scratch, network, optimizer, settings, decay=0.99, every_s=every_s)

    def losses(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 4))
        whole = step % 8 == 7  # statistics of whole pictures differ from those of pieces
        drawn, pieces = (max(1, batch_size // 8), 1) if whole else (max(1, batch_size // 2), 2)
        count, side = drawn * pieces, SIDE if whole else crop
        scenes = [draw_scene(rng, held_out=False) for _ in range(drawn)]
        tone = 1 + 0.03 * torch.from_numpy(rng.standard_normal((drawn, 3, 1, 1), np.float32))
        high = (to_tensor(render(scenes, SIDE)) * tone).clamp(-1, 1)
        low = soften(rng, F.avg_pool2d(high, SIDE // LOW))
        levels = torch.from_numpy((TIMES * MOST_NOISE * rng.random(drawn)).astype(np.int64))
        low = scheduler.add_noise(
            low, torch.from_numpy(rng.standard_normal(low.shape, np.float32)), levels
        )
        enlarged = F.interpolate(low, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
        both = torch.stack(
            [
                picture[:, y : y + side, x : x + side]
                for _ in range(pieces)
                for picture, (y, x) in zip(
                    torch.cat([high, enlarged], 1), _corners(rng, scenes, side), strict=True
                )
            ]
        )
        levels = levels.repeat(pieces)
        clean, seen = F.pixel_unshuffle(both[:, :3], FOLD), F.pixel_unshuffle(both[:, 3:], FOLD)
        # what is drawn is decided at the first steps, where the noisy picture does not help
        times = torch.from_numpy((TIMES * rng.random(count) ** 0.15).astype(np.int64))
        noisy = scheduler.add_noise(
            clean, torch.from_numpy(rng.standard_normal(clean.shape, np.float32)), times
        )
        difference = network(
            torch.cat([noisy, seen], 1),
            times,
            torch.zeros(count, 1, TEXT_WIDTH),
            class_labels=levels,
        ).sample
        guess = F.pixel_shuffle(seen + difference, FOLD)
        sigma = (1 - scheduler.alphas_cumprod[times]).sqrt()
        return edge_losses(guess, both[:, :3], sigma)

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen-256"
    network.half().save_pretrained(folder / "super_resolution")
    scheduler.save_pretrained(folder / "super_resolution_scheduler")
    write_index(folder, parts=("super_resolution", "super_resolution_scheduler"))
    return folder


def _corners(rng: np.random.Generator, scenes: Sequence[Scene], side: int) -> list[tuple[int, int]]:
    """Draw the upper left corners (y, x) of pieces around a place on the outline of a thing."""
    found = []
    for scene in scenes:
        thing = scene.things[int(rng.integers(len(scene.things)))]
        angle = rng.uniform(0, 2 * np.pi)
        reach = (0.2 if thing.size == "large" else 0.12) * np.array([np.sin(angle), np.cos(angle)])
        moved = rng.uniform(-side / 4, side / 4, 2) - side / 2
        corner = (np.array([thing.y, thing.x]) + reach) * SIDE + moved
        y, x = np.clip(corner, 0, SIDE - side).astype(int) // FOLD * FOLD
        found.append((int(y), int(x)))
    return found
