"""Sampling from a small Imagen: caption to states, states to a small picture, small picture to a
large one, all in pixel space.

On disk a cascade is a folder of parts, each as its library's ``save_pretrained`` writes it:
``tokenizer/ text_encoder/ plan/ unet/ scheduler/
super_resolution/ super_resolution_scheduler/``, and a ``model_index.json`` whose ``_class_name`` is
``ImagenCascade``. The tokenizer puts sentinels before the prompt; the
encoder was trained to write a plan of the picture at them, place by place, which the denoisers
attend to along with the words. The base also adds the plan, laid
out, at its coarsest level, and sees beside the noise the sketch that a linear layer
(``plan/model.safetensors``: weight, bias) draws from it. The denoisers see pictures
pixel-unshuffled by a factor that follows from their channels (three to a pixel), the base with two
channels of
coordinates besides, the enlarger with the enlarged small picture. They predict the clean picture or
whatever their scheduler's ``prediction_type`` says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def encode(prompts: Sequence[str], *, tokenizer: Any, text_encoder: Any) -> torch.Tensor:
    """Turn prompts into states (prompts, tokens, width), zero at padding; a prompt of no known word
    is the empty one.
    """
    import torch

    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).to(text_encoder.device)
    with torch.inference_mode():
        states = text_encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
    return states * tokens.attention_mask[..., None].to(states.dtype)


def base(
    text: torch.Tensor,
    *,
    unet: Any,
    scheduler: Any,
    plan: tuple[torch.Tensor, torch.Tensor] | None = None,
    seed: int,
    num_inference_steps: int = 6,
    guidance_scale: float = 1.5,
    begin: float = 0.15,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Draw a small picture.

    Inputs:
        text: states (2, tokens, width) of the prompt and of the negative prompt.
        unet, scheduler: the loaded parts; the scheduler's state is not touched.
        plan: weight and bias of the layer that draws the sketch; without them the sketch is empty.
    Params:
        seed: of the noise, drawn on the CPU.
        guidance_scale: 1 is off.
        begin: where on the noise schedule sampling begins, from the sketch under that much noise; 1
            is pure noise.
    Outputs: yields (steps done, steps, the picture in the making: float (1, 3, side, side));
        returns uint8 (side, side, 3).
    Source: Imagen (arXiv:2205.11487): guidance (eq. 2) with dynamic thresholding (section 2.3),
        which is the scheduler's part; to begin from a sketch,
        SDEdit (arXiv:2108.01073).
    """
    pictures = yield from sample(
        text[:, None],
        None,
        unet=unet,
        scheduler=scheduler,
        plan=plan,
        seeds=[seed],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        begin=begin,
    )
    picture: np.ndarray = pictures[0]
    return picture


def super_resolution(
    picture: np.ndarray,
    text: torch.Tensor,
    *,
    unet: Any,
    scheduler: Any,
    seed: int,
    num_inference_steps: int = 6,
    guidance_scale: float = 1.0,
    noise_level: int = 20,
    begin: float = 0.15,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Enlarge a small picture fourfold; one of another size than the model's is first resized to it
    (Lanczos).

    Inputs:
        picture: float32 (height, width, 3), 0 to 1.
        text: as for ``base``.
    Params:
        noise_level: step of the noise schedule to which the small picture is blurred by noise, so
            that its faults are not believed.
        begin: where on the noise schedule sampling begins, from the enlarged small picture; 1 is
            pure noise.
    Outputs: yields and returns as ``base`` does.
    Source: Imagen (arXiv:2205.11487): noise-conditioning augmentation, its level told to the
        network as a class label.
    """
    import numpy as np
    from PIL import Image

    side = unet.config.sample_size
    if picture.shape[:2] != (side, side):
        channels = [
            Image.fromarray(np.ascontiguousarray(picture[:, :, channel])).resize(
                (side, side), Image.Resampling.LANCZOS
            )
            for channel in range(3)
        ]
        picture = np.clip(np.stack([np.asarray(channel) for channel in channels], 2), 0, 1)
    pictures = yield from sample(
        text[:, None],
        picture[None],
        unet=unet,
        scheduler=scheduler,
        seeds=[seed],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise_level=noise_level,
        begin=begin,
    )
    enlarged: np.ndarray = pictures[0]
    return enlarged


def sample(
    text: torch.Tensor,
    low: np.ndarray | None,
    *,
    unet: Any,
    scheduler: Any,
    plan: tuple[torch.Tensor, torch.Tensor] | None = None,
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    noise_level: int = 0,
    begin: float = 1.0,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Draw pictures, one for each seed; with ``low``, enlarge those. Each has a generator of its
    own.

    Inputs:
        text: states (2, pictures, tokens, width), of the prompts and of the negative ones.
        low: None, or float32 (pictures, side, side, 3), 0 to 1.
    Params:
        begin: as for ``base``; without a plan a small picture begins from pure noise.
    Outputs: yields (steps done, steps, pictures in the making: float (pictures, 3, side, side));
        returns uint8 (pictures, side, side, 3).
    """
    import torch
    from torch.nn import functional as F

    device, dtype = unet.device, unet.dtype
    fold = math.isqrt(unet.config.out_channels // 3)
    side = unet.config.sample_size
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def noise(*shape: int) -> torch.Tensor:
        return torch.stack(
            [
                torch.randn(shape, generator=generator, dtype=torch.float32)
                for generator in generators
            ]
        )

    sampler = copy.deepcopy(scheduler)
    if low is None and plan is None:
        begin = 1.0
    sampler.set_timesteps(
        min(math.ceil(num_inference_steps / begin), sampler.config.num_train_timesteps),
        device=device,
    )
    times = sampler.timesteps[-num_inference_steps:]
    x = noise(unet.config.out_channels, side, side).to(device, dtype) * sampler.init_noise_sigma
    levels = None
    if low is None:
        rows, columns = torch.meshgrid(
            *[torch.linspace(-1, 1, side, device=device, dtype=dtype)] * 2, indexing="ij"
        )
        beside = torch.stack([columns, rows]).expand(len(seeds), 2, side, side)
    else:
        small = torch.tensor(low).permute(0, 3, 1, 2).float() * 2 - 1
        levels = torch.full((len(seeds),), noise_level, dtype=torch.int64)
        small = sampler.add_noise(small, noise(*small.shape[1:]), levels)
        beside = F.pixel_unshuffle(
            F.interpolate(small, scale_factor=fold, mode="bicubic", align_corners=False), fold
        ).to(device, dtype)
        levels = levels.to(device)

    # Guided where it is asked for: one batch holds the prompts and then the negative prompts.
    ways = 2 if guidance_scale != 1 else 1
    states = text[:ways].flatten(0, 1).to(device, dtype)
    words = (states != 0).any(-1).to(dtype)
    beside = beside.repeat(ways, 1, 1, 1)
    more: dict[str, Any] = {}
    if low is None:
        planned = states[: len(seeds)].repeat(
            ways, 1, 1
        )  # both ways share the plan: guidance weighs words, not places
        beside = torch.cat([_sketch(planned, plan, unet), beside], 1)
        more = _laid_out(planned, unet)
    levels = levels.repeat(ways) if levels is not None else None
    if begin < 1:
        rough = beside[
            : len(seeds), : unet.config.out_channels
        ]  # the sketch, or the small picture enlarged
        x = sampler.add_noise(rough, x, times[:1].expand(len(seeds)))
    for done, time in enumerate(times, 1):
        with torch.inference_mode():
            scaled = sampler.scale_model_input(x, time).repeat(ways, 1, 1, 1)
            guess = unet(
                torch.cat([scaled, beside], 1),
                time,
                states,
                class_labels=levels,
                encoder_attention_mask=words,
                **more,
            ).sample
            if ways == 2:
                asked, other = guess.chunk(2)
                guess = other + guidance_scale * (asked - other)
            x = sampler.step(guess, time, x).prev_sample
        yield done, len(times), F.pixel_shuffle(x, fold)
    pictures: np.ndarray = (
        ((F.pixel_shuffle(x, fold).float().clamp(-1, 1) + 1) * 127.5)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    return pictures


def _sketch(
    states: torch.Tensor, plan: tuple[torch.Tensor, torch.Tensor] | None, unet: Any
) -> torch.Tensor:
    """Draw the plan, place by place: (pictures, channels, side, side), pixel-unshuffled; no
    channels if the base wants none.
    """
    import torch
    from torch.nn import functional as F

    side, channels = unet.config.sample_size, unet.config.out_channels
    if unet.config.in_channels == channels + 2 or plan is None:
        return states.new_zeros(len(states), unet.config.in_channels - channels - 2, side, side)
    weight, bias = (tensor.to(states) for tensor in plan)
    cell = math.isqrt(len(bias) // 3)
    fold = math.isqrt(channels // 3)
    grid = side * fold // cell
    cells = (
        F.linear(states[:, : grid * grid], weight, bias)
        .unflatten(2, (cell, cell, 3))
        .unflatten(1, (grid, grid))
    )  # n, row, column, y, x, rgb
    picture = cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, side * fold, side * fold)
    return F.pixel_unshuffle(torch.clamp(picture, -1, 1), fold)


def _laid_out(states: torch.Tensor, unet: Any) -> dict[str, Any]:
    """Lay the plan, the states of the sentinels, out by place: what the base adds at its coarsest
    level, through the arguments meant for a ControlNet.
    """
    side = unet.config.sample_size >> (len(unet.config.block_out_channels) - 1)
    plan = states[:, : side * side].transpose(1, 2).unflatten(2, (side, side))
    return {"mid_block_additional_residual": plan, "down_block_additional_residuals": repeat(0.0)}
