"""Sampling from a small Imagen: prompt to states, states to a small picture, small picture to a
large one, all in pixel space.

On disk a cascade is a folder of parts, each as its library's ``save_pretrained`` writes it:
``tokenizer/ text_encoder/ plan/ unet/ scheduler/ super_resolution/ super_resolution_scheduler/``,
and a ``model_index.json`` whose ``_class_name`` is ``ImagenCascade``. The tokenizer puts sentinels
before the prompt; linear heads (``plan/model.safetensors``) read off them what the prompt says of
the scene and of each thing, and the seed decides what it leaves open. The base gets these facts as
channels beside the noise, laid out at places that the seed draws, with a coarse sketch of mean silhouettes (``plan/means.safetensors``)
and two channels of coordinates; it sees the noisy picture times the part of its variance that is
signal. The enlarger gets the enlarged small
picture, and predicts how the large one differs from it. Pictures are pixel-unshuffled by a factor
that follows from the channels, three to a pixel.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagen_flow_embedded.plan import decide, lay_beside

if TYPE_CHECKING:
    import numpy as np
    import torch

LARGER = 2
"""How much longer the sides of a picture are after super-resolution than before."""
GUIDED_ABOVE = 0.3
"""The noise level, as a part of the schedule, above which guidance acts. What stands where is
decided there; below it the picture is only sharpened, and guidance would push its colours too
far."""


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
    heads: Mapping[str, torch.Tensor] | None = None,
    means: Mapping[str, torch.Tensor] | None = None,
    seed: int,
    num_inference_steps: int = 8,
    guidance_scale: float = 1.5,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Draw a small picture from noise.

    Inputs:
        text: states (2, tokens, width) of the prompt and of the negative prompt.
        unet, scheduler: the loaded parts; the scheduler's state is not touched.
        heads, means: the linear heads that read the plan, and what its sketch is made of; without
            them the plan is empty.
    Params:
        seed: of what the prompt leaves open, of the places and of the noise, drawn on the CPU.
        guidance_scale: 1 is off.
    Outputs: yields (steps done, steps, the picture in the making: float (1, 3, side, side));
        returns uint8 (side, side, 3).
    Source: Imagen (arXiv:2205.11487): guidance (eq. 2) with static thresholding (section 2.3),
        which is the scheduler's part; guidance in an interval of noise levels (arXiv:2404.07724).
    """
    pictures = yield from draw(
        text[:, None],
        unet=unet,
        scheduler=scheduler,
        heads=heads,
        means=means,
        seeds=[seed],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
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
    num_inference_steps: int = 4,
    guidance_scale: float = 1.0,
    noise_level: int = 20,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Enlarge a small picture; one of another size than the model's is first resized to it
    (Lanczos).

    Inputs:
        picture: float32 (height, width, 3), 0 to 1.
        text: as for ``base``.
    Params:
        noise_level: step of the noise schedule to which the small picture is blurred by noise, so
            that its faults are not believed.
    Outputs: yields and returns as ``base`` does.
    Source: Imagen (arXiv:2205.11487): noise-conditioning augmentation, its level told to the
        network as a class label.
    """
    pictures = yield from enlarge(
        fit(picture, unet)[None],
        text[:, None],
        unet=unet,
        scheduler=scheduler,
        seeds=[seed],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise_level=noise_level,
    )
    enlarged: np.ndarray = pictures[0]
    return enlarged


def fit(picture: np.ndarray, unet: Any) -> np.ndarray:
    """Resize a small picture, float32 (height, width, 3), to what an enlarger takes (Lanczos)."""
    import numpy as np
    from PIL import Image

    side = unet.config.sample_size * math.isqrt(unet.config.out_channels // 3) // LARGER
    if picture.shape[:2] != (side, side):
        channels = [
            Image.fromarray(np.ascontiguousarray(picture[:, :, channel])).resize(
                (side, side), Image.Resampling.LANCZOS
            )
            for channel in range(3)
        ]
        picture = np.clip(np.stack([np.asarray(channel) for channel in channels], 2), 0, 1)
    return picture


def draw(
    text: torch.Tensor,
    *,
    unet: Any,
    scheduler: Any,
    heads: Mapping[str, torch.Tensor] | None,
    means: Mapping[str, torch.Tensor] | None,
    seeds: Sequence[int],
    num_inference_steps: int = 8,
    guidance_scale: float = 1.5,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Draw small pictures, one for each seed, each with a generator of its own.

    Inputs: text: states (2, pictures, tokens, width), of the prompts and of the negative ones.
    Outputs: yields (steps done, steps, pictures in the making: float (pictures, 3, side, side));
        returns uint8 (pictures, side, side, 3).
    """
    import torch

    device, dtype = unet.device, unet.dtype
    side, channels = unet.config.sample_size, unet.config.out_channels
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    fold = math.isqrt(channels // 3)
    planned = unet.config.in_channels - channels - 2
    plan = torch.zeros(len(seeds), planned, side, side, device=device)
    contrast = torch.ones(len(seeds), channels, side, side, device=device)
    if heads is not None and means is not None:
        prompts = text[0].to(device).split(1)
        decided = [
            decide(prompt, heads, generator)
            for prompt, generator in zip(prompts, generators, strict=True)
        ]
        facts = {fact: torch.cat([one[fact] for one, _ in decided]) for fact in decided[0][0]}
        at = torch.cat([places for _, places in decided])
        plan, contrast = lay_beside(facts, at, means, side, fold)
    plan, contrast = plan.to(dtype), contrast.to(dtype)
    rows, columns = torch.meshgrid(
        *[torch.linspace(-1, 1, side, device=device, dtype=dtype)] * 2, indexing="ij"
    )
    coordinates = torch.stack([columns, rows]).expand(len(seeds), 2, side, side)
    states = text.to(device, dtype)
    words = (states != 0).any(-1).to(dtype)

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        ways = 2 if guidance_scale != 1 and time > GUIDED_ABOVE * len(kept) else 1
        # Guided, one batch holds the prompts with their plans, then the negative ones without.
        laid = torch.cat([plan, torch.zeros_like(plan)][:ways])
        seen = x * kept[time.long()].to(x)  # where nearly all is noise, it would drown the plan
        seen = torch.cat([seen.repeat(ways, 1, 1, 1), laid, coordinates.repeat(ways, 1, 1, 1)], 1)
        difference: torch.Tensor = unet(
            seen,
            time,
            states[:ways].flatten(0, 1),
            encoder_attention_mask=words[:ways].flatten(0, 1),
        ).sample
        units = torch.cat([contrast, torch.ones_like(contrast)][:ways])
        guess = laid[:, :channels] + units * difference
        if ways == 2:
            asked, other = guess.chunk(2)
            guess = other + guidance_scale * (asked - other)
        return guess

    kept = scheduler.alphas_cumprod
    return (
        yield from _sample(
            predict, unet, scheduler, generators, num_inference_steps=num_inference_steps
        )
    )


def enlarge(
    low: np.ndarray,
    text: torch.Tensor,
    *,
    unet: Any,
    scheduler: Any,
    seeds: Sequence[int],
    num_inference_steps: int = 4,
    guidance_scale: float = 1.0,
    noise_level: int = 20,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Enlarge small pictures, each with a generator of its own.

    Inputs:
        low: float32 (pictures, side, side, 3), 0 to 1.
        text: as for ``draw``.
    Outputs: as of ``draw``.
    """
    import torch
    from torch.nn import functional as F

    device, dtype = unet.device, unet.dtype
    fold = math.isqrt(unet.config.out_channels // 3)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    small = torch.tensor(low).permute(0, 3, 1, 2).float() * 2 - 1
    noise = torch.stack(
        [torch.randn(small.shape[1:], generator=generator) for generator in generators]
    )
    level = torch.full((len(seeds),), noise_level, dtype=torch.int64)
    small = scheduler.add_noise(small, noise, level)
    enlarged = F.pixel_unshuffle(
        F.interpolate(small, scale_factor=LARGER, mode="bicubic", align_corners=False), fold
    ).to(device, dtype)
    ways = 2 if guidance_scale != 1 else 1
    states = text[:ways].flatten(0, 1).to(device, dtype)
    words = (states != 0).any(-1).to(dtype)

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        difference: torch.Tensor = unet(
            torch.cat([x, enlarged], 1).repeat(ways, 1, 1, 1),
            time,
            states,
            class_labels=level.to(device).repeat(ways),
            encoder_attention_mask=words,
        ).sample
        if ways == 2:
            asked, other = difference.chunk(2)
            difference = other + guidance_scale * (asked - other)
        return enlarged + difference

    return (
        yield from _sample(
            predict, unet, scheduler, generators, num_inference_steps=num_inference_steps
        )
    )


def _sample(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    unet: Any,
    scheduler: Any,
    generators: Sequence[torch.Generator],
    *,
    num_inference_steps: int,
) -> Generator[tuple[int, int, torch.Tensor], None, np.ndarray]:
    """Go from noise to pictures by the steps of a scheduler, which is not touched."""
    import torch
    from torch.nn import functional as F

    device, dtype = unet.device, unet.dtype
    fold = math.isqrt(unet.config.out_channels // 3)
    shape = (unet.config.out_channels, unet.config.sample_size, unet.config.sample_size)
    sampler = copy.deepcopy(scheduler)
    sampler.set_timesteps(num_inference_steps, device=device)
    # DDIM derives the noise from the clipped picture if asked to: otherwise guidance leaves grain.
    clipped = "use_clipped_model_output" in inspect.signature(sampler.step).parameters
    more = {"use_clipped_model_output": True} if clipped else {}
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    x = torch.stack(noise).to(device, dtype) * sampler.init_noise_sigma
    for done, time in enumerate(sampler.timesteps, 1):
        with torch.inference_mode():
            guess = predict(sampler.scale_model_input(x, time), time)
            x = sampler.step(guess, time, x, **more).prev_sample
        yield done, len(sampler.timesteps), F.pixel_shuffle(x, fold)
    pictures: np.ndarray = (
        ((F.pixel_shuffle(x, fold).float().clamp(-1, 1) + 1) * 127.5)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    return pictures
