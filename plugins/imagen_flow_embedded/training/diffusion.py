"""Train the base diffusion model: prompts to pictures of 64 px.

The network is diffusers' ``UNet2DConditionModel`` built of the blocks that Imagen-like models use
there (``SimpleCrossAttn…`` at the two coarsest levels): pixels attend to the words, to the
encoder's sentinels and to one another in one go, and pooled text joins the time embedding. Beside
the noise it gets a plan as channels, laid out at the places where the things stand: the facts, as
sure of themselves as the seed makes them when it draws, a coarse sketch of them, and two channels of
coordinates. It sees the picture pixel-unshuffled to 12 x 32 x 32, the fainter the more noise is in it (32
channels drown in noise), and predicts how the clean picture differs from the sketch, in units of the contrast
between thing and ground. Most noise levels are high: an edge is found there, and only kept below.

Source: Imagen (arXiv:2205.11487); the cosine schedule of arXiv:2102.09672; the capped weight of
    arXiv:2303.09556; caption drop-out for guidance of arXiv:2207.12598.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.doubt import HEADS
from imagen_flow_embedded.plan import REACH, count_channels, lay_beside
from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.text_encoder import draw_descriptions, facts_of
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    RADII,
    SHAPES,
    SIZES,
    Scene,
    coverage,
    render,
)

SIDE = 64
FOLD = 2
"""Pixels of each row and column folded into channels."""
TIMES = 1000
SILHOUETTE = 10
"""Cells of a mean silhouette along each side: coarse, for the base is to draw the outline."""
MOST_WEIGHT = 2.0
"""Cap of 1 / sigma squared, whose root is the loss's weight: without it the last grains of noise
take over."""
UNPLANNED_WEIGHT = 0.05
UNPLANNED, WORDLESS = 0.06, 0.05
"""The part of the pictures that are drawn without the plan, and of those that get no words
either."""


def build_base_unet(text_width: int, *, channels: Sequence[int] = (32, 64, 96)) -> Any:
    """Make the untrained denoiser of 64 px pictures."""
    from diffusers import UNet2DConditionModel

    plan = count_channels({fact: len(values) for fact, values in HEADS.items()})
    return UNet2DConditionModel(
        sample_size=SIDE // FOLD,
        in_channels=(2 * 3 + 1) * FOLD * FOLD + plan + 2,
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
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler() -> Any:
    """Make the sampler that is saved beside a denoiser: DDIM on the cosine schedule, clean pictures
    cut off at -1 and 1.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
        timestep_spacing="trailing",
    )


def load_text(folder: Path) -> tuple[Any, Any]:
    """Load a trained tokenizer and text encoder; the encoder is frozen."""
    from transformers import AutoTokenizer, T5EncoderModel

    return AutoTokenizer.from_pretrained(folder / "tokenizer"), T5EncoderModel.from_pretrained(
        folder / "text_encoder"
    ).float().eval().requires_grad_(False)


def encode(tokenizer: Any, encoder: Any, captions: Sequence[str]) -> tuple[Any, Any]:
    """Turn captions into states (n, tokens, width), zero at padding, and their mask (n, tokens)."""
    import torch

    tokens = tokenizer(
        list(captions),
        padding=True,
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
    return states * tokens.attention_mask[..., None], tokens.attention_mask


def measure_means() -> dict[str, Any]:
    """Measure the mean silhouettes and colours of the world's things, which the sketch is made of."""
    import torch

    fine = 8
    axis = (np.arange(SILHOUETTE * fine, dtype=np.float32) + 0.5) / (SILHOUETTE * fine) * 2 - 1
    x, y = axis[None] * REACH, axis[:, None] * REACH
    silhouettes = np.stack(
        [
            [coverage(shape, x, y, RADII[size], 2 * REACH / len(axis)) for shape in SHAPES]
            for size in SIZES
        ]
    )
    blocks = silhouettes.reshape(len(SIZES), len(SHAPES), SILHOUETTE, fine, SILHOUETTE, fine)
    return {
        "silhouettes": torch.from_numpy(blocks.mean((3, 5)).astype(np.float32)),
        "colours": torch.tensor(list(COLOURS.values())) / 127.5 - 1,
        "backgrounds": torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1,
    }


def save_means(folder: Path) -> None:
    """Write what the sketch is made of, in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half() for name, value in measure_means().items()}
    save_file(tensors, folder / "means.safetensors", {"format": "pt"})


def plan_beside(scenes: Sequence[Scene], means: Mapping[str, Any]) -> tuple[Any, Any]:
    """Give what the base sees beside the noise and the coordinates, and its unit, for scenes."""
    import torch
    from torch.nn import functional as F

    facts = {
        fact: F.one_hot(torch.from_numpy(numbers.clip(0)), len(HEADS[fact])).float()
        for fact, numbers in facts_of(scenes).items()
    }
    return lay_beside(facts, places_of(scenes), means, SIDE // FOLD, FOLD)


def with_coordinates(x: Any) -> Any:
    """Append two channels, the column and the row of each cell, -1 to 1."""
    import torch

    n, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(n, 1, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(n, 1, height, width)
    return torch.cat([x, columns, rows], 1)


def places_of(scenes: Sequence[Scene]) -> Any:
    """Give the places of the things of scenes: float32 (N, 2, 2), x and y, NaN for an absent one."""
    import torch

    places = np.full((len(scenes), 2, 2), np.nan, np.float32)
    for number, scene in enumerate(scenes):
        for slot, thing in enumerate(scene.things):
            places[number, slot] = thing.x, thing.y
    return torch.from_numpy(places)


def to_tensor(pictures: np.ndarray) -> Any:
    """Bring uint8 pictures (n, height, width, 3) to float (n, 3, height, width), -1 to 1."""
    import torch

    return (
        torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    )


def weighted_errors(guess: Any, clean: Any, kept: Any, planned: Any) -> dict[str, Any]:
    """Give the mean absolute error of guesses at clean pictures, and that of their slopes, weighted
    by noise level; ``kept`` (n) is the part of variance that is signal. A soft edge is wrong in its
    slopes more than in its pixels. Pictures without a plan (``planned`` is 0) are wrong everywhere,
    and count little: else they would drown the outlines of the others.
    """
    weights = (1 / (1 - kept)).clamp(max=MOST_WEIGHT).sqrt()  # SNR + 1
    weights = (weights * (UNPLANNED_WEIGHT + (1 - UNPLANNED_WEIGHT) * planned)).view(-1, 1, 1, 1)
    error = weights * (guess - clean)
    slopes = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return {"pixels": error.abs().mean(), "slopes": 0.5 * slopes}


def train_diffusion(
    scratch: Path,
    text: Path,
    *,
    steps: int = 4825,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    channels: Sequence[int] = (32, 64, 96),
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the base denoiser on the text encoder in the folder ``text`` and write ``unet/`` and
    ``scheduler/`` into ``scratch/imagen``.

    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    tokenizer, encoder = load_text(text)
    means = measure_means()
    network = build_base_unet(encoder.config.d_model, channels=channels)
    with torch.no_grad():
        network.conv_out.weight.mul_(0.1)
    scheduler = build_scheduler()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    settings = {
        "what": "diffusion",
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "channels": list(channels),
    }
    keeper = Keeper(scratch, network, optimizer, settings, decay=0.998, every_s=every_s)

    def losses(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 1))
        described = draw_descriptions(rng, batch_size)
        scenes = [each.scene for each in described]
        draw = rng.random(batch_size)
        texts = [
            "" if part < WORDLESS else each.text for each, part in zip(described, draw, strict=True)
        ]
        states, mask = encode(tokenizer, encoder, texts)
        plan, contrast = plan_beside(scenes, means)
        planned = torch.from_numpy((draw >= UNPLANNED).astype(np.float32))
        plan *= planned.view(-1, 1, 1, 1)
        contrast = torch.where(planned.view(-1, 1, 1, 1) > 0, contrast, 1.0)
        clean = F.pixel_unshuffle(to_tensor(render(scenes, SIDE)), FOLD)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        # most at high noise: there edges come of the plan alone
        times = torch.from_numpy((TIMES * rng.random(batch_size) ** 0.35).astype(np.int64))
        noisy = scheduler.add_noise(clean, noise, times)
        kept = scheduler.alphas_cumprod[times]
        difference = network(
            with_coordinates(torch.cat([noisy * kept.view(-1, 1, 1, 1), plan], 1)),
            times,
            states,
            encoder_attention_mask=mask,
        ).sample
        guess = plan[:, : clean.shape[1]] + contrast * difference
        return weighted_errors(
            F.pixel_shuffle(guess, FOLD),
            F.pixel_shuffle(clean, FOLD),
            kept,
            planned,
        )

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    network.half().save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    save_means(folder / "plan")
    write_index(folder)
    return folder
