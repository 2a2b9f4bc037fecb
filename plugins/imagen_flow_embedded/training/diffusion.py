"""Train the base diffusion model: captions to pictures of 32 px.

The network is diffusers' ``UNet2DConditionModel`` built of the blocks that Imagen-like models use
there (``SimpleCrossAttn…``): pixels attend to the words, to the encoder's plan of the picture and
to one another in one go, and pooled text joins the time embedding. The plan, laid out place by
place, is also added at the coarsest level, and the sketch that a linear head draws from it comes in
beside the noise: attention alone was still putting things at random places when these had them
right. It sees the picture pixel-unshuffled to 12 x 16 x 16 with two channels of coordinates, and
predicts the clean picture ("sample"); noise levels are drawn a little towards the noisy end, where
the text alone decides.

Source: Imagen (arXiv:2205.11487); the cosine schedule of arXiv:2102.09672; caption drop-out for
    guidance of arXiv:2207.12598.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.text_encoder import GRID, PLACES, PLAN_SIDE, draw_captions
from imagen_flow_embedded.world import render

SIDE = 32
FOLD = 2
"""Pixels of each row and column folded into channels."""
TIMES = 1000
MOST_WEIGHT = 5.0
"""Cap of the loss's weight, SNR + 1 (that of v-prediction): without the weight shapes stay blurred, without the cap the last grains of noise take over."""


def build_base_unet(text_width: int, *, channels: Sequence[int] = (64, 96, 128)) -> Any:
    """Make the untrained denoiser of 32 px pictures."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // FOLD,
        in_channels=2 * 3 * FOLD * FOLD + 2,
        out_channels=3 * FOLD * FOLD,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            "SimpleCrossAttnDownBlock2D",
            "SimpleCrossAttnDownBlock2D",
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(
            "SimpleCrossAttnUpBlock2D",
            "SimpleCrossAttnUpBlock2D",
            "ResnetUpsampleBlock2D",
        ),
        attention_head_dim=32,
        norm_num_groups=16,
        cross_attention_dim=text_width,
        encoder_hid_dim=text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler(*, most: float = 1.0) -> Any:
    """Make the sampler that is saved beside a denoiser: DDIM on the cosine schedule, with Imagen's
    dynamic thresholding.

    Params:
        most: how large the threshold may grow. Above 1 what guidance overdrives is divided by it,
            at 1 it is cut off.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        thresholding=True,
        dynamic_thresholding_ratio=0.995,
        sample_max_value=most,
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
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
    return states * tokens.attention_mask[..., None], tokens.attention_mask


def load_head(text: Path) -> Any:
    """Load the linear head that draws a sketch from the plan; it is frozen."""
    import torch
    from safetensors.torch import load_file

    tensors = {
        name: value.float()
        for name, value in load_file(text / "plan" / "model.safetensors").items()
    }
    head = torch.nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0]).requires_grad_(
        False
    )
    head.load_state_dict(tensors)
    return head


def sketch(states: Any, head: Any) -> Any:
    """Draw the plan as the head reads it, pixel-unshuffled: float (n, 3 * FOLD * FOLD, height,
    width).
    """
    from torch.nn import functional as F

    cell = PLAN_SIDE // GRID
    cells = (
        head(states[:, :PLACES]).unflatten(2, (cell, cell, 3)).unflatten(1, (GRID, GRID))
    )  # n, row, column, y, x, rgb
    return F.pixel_unshuffle(
        cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, PLAN_SIDE, PLAN_SIDE).clamp(-1, 1), FOLD
    )


def with_places(x: Any) -> Any:
    """Append two channels, the column and the row of each place, -1 to 1."""
    import torch

    n, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(n, 1, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(n, 1, height, width)
    return torch.cat([x, columns, rows], 1)


def laid_out(states: Any, network: Any) -> dict[str, Any]:
    """Lay the encoder's plan out as a picture of the network's coarsest level, and give it as what
    a ControlNet adds there: no more weights.
    """
    side = network.config.sample_size >> (len(network.config.block_out_channels) - 1)
    plan = states[:, : side * side].transpose(1, 2).unflatten(2, (side, side))
    return {"mid_block_additional_residual": plan, "down_block_additional_residuals": repeat(0.0)}


def to_tensor(pictures: np.ndarray) -> Any:
    """Bring uint8 pictures (n, height, width, 3) to float (n, 3, height, width), -1 to 1."""
    import torch

    return (
        torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    )


def weighted_error(guess: Any, clean: Any, kept: Any) -> Any:
    """Give the mean squared error of guesses at clean pictures, weighted by their noise level;
    ``kept`` (n) is the part of variance that is signal.
    """
    weights = (1 / (1 - kept)).clamp(max=MOST_WEIGHT).view(-1, 1, 1, 1)  # SNR + 1
    return (weights * (guess - clean) ** 2).mean()


def train_diffusion(
    scratch: Path,
    text: Path,
    *,
    steps: int = 7200,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    channels: Sequence[int] = (64, 96, 128),
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the base denoiser on the text encoder in the folder ``text`` and write ``unet/`` and
    ``scheduler/`` into ``scratch/imagen``.

    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch

    torch.manual_seed(seed)
    tokenizer, encoder = load_text(text)
    head = load_head(text)
    network = build_base_unet(encoder.config.d_model, channels=channels)
    scheduler = build_scheduler(
        most=1.1
    )  # the grounds are pure black and white: a larger one grays them
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
        scenes, captions = draw_captions(rng, batch_size, dropped=0.1)
        states, mask = encode(tokenizer, encoder, captions)
        clean = torch.nn.functional.pixel_unshuffle(to_tensor(render(scenes, SIDE)), FOLD)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        times = torch.from_numpy((TIMES * rng.random(batch_size) ** 0.85).astype(np.int64))
        noisy = scheduler.add_noise(clean, noise, times)
        guess = network(
            with_places(torch.cat([noisy, sketch(states, head)], 1)),
            times,
            states,
            encoder_attention_mask=mask,
            **laid_out(states, network),
        ).sample
        return {"loss": weighted_error(guess, clean, scheduler.alphas_cumprod[times])}

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    network.half().save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    write_index(folder)
    return folder
