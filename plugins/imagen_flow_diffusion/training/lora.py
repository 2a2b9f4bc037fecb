"""Train a LoRA for the denoiser of a checkpoint; its text encoders and autoencoder stay as they
are.

All random numbers of a step come from the seed and the step's number, so a run that was killed goes
on from its last checkpoint to the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from imagen_flow import Progress

from ..loading.latent_spaces import scaled
from .examples import Examples
from .files import read_facts, write_tensors
from .layers import Targets, attached, first_weights
from .objective import Batch, loss_of

if TYPE_CHECKING:
    import torch

    from ..loading.checkpoint import Checkpoint

NOTED = 20
"""The loss that is shown is the mean of so many steps."""
MOST_ROWS = 200
"""The losses that are told are at most so many means of equal stretches."""

Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class Settings:
    """How a LoRA is trained."""

    steps: int
    batch_size: int
    rank: int
    alpha: float
    targets: Targets
    learning_rate: float
    schedule: Schedule
    warm_up: int
    min_snr_gamma: float
    caption_dropout: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """What was trained, and the mean losses of stretches of the run, by their last steps."""

    weights: dict[str, torch.Tensor]
    losses: list[tuple[int, float]]


def train(
    checkpoint: Checkpoint,
    examples: Examples,
    schedule: Any,
    settings: Settings,
    scratch: Path,
    *,
    gradient_checkpointing: bool = False,
    saved_every_s: float = 60.0,
) -> Generator[Progress, None, Trained]:
    """Train from the first step, or from the checkpoint in the scratch folder. The caller holds the
    denoiser alone.

    Outputs: yields after each step.
    Raises: ValueError if the loss is not a number any more.
    """
    import torch

    unet, path = checkpoint.parts["unet"], scratch / "checkpoint.safetensors"
    tensors, losses = read_facts(path) or ({}, [])
    weights = _under("weight", tensors) or first_weights(
        unet, settings.targets, settings.rank, torch_generator(settings.seed, -1)
    )
    order = draw_order(examples.shapes, settings)
    rate = rates(settings)
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        with attached(unet, weights, settings.rank, settings.alpha) as parameters:
            optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate)
            _restore(optimizer, parameters, tensors, len(losses))
            saved_at = time.monotonic()
            try:
                for step in range(len(losses), settings.steps):
                    batch = draw_batch(checkpoint, examples, schedule, order[step], settings, step)
                    for group in optimizer.param_groups:
                        group["lr"] = rate(step)
                    optimizer.zero_grad(set_to_none=True)
                    with torch.enable_grad():
                        loss = loss_of(unet, schedule, batch, settings.min_snr_gamma)
                        loss.backward()
                    _refuse_no_number(loss, step)
                    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
                    optimizer.step()
                    losses.append(loss.item())
                    recent = fmean(losses[-NOTED:])
                    yield Progress(step + 1, settings.steps, status=f"loss {recent:.4f}")
                    if time.monotonic() - saved_at > saved_every_s:
                        _save(path, optimizer, parameters, losses)
                        saved_at = time.monotonic()
            except GeneratorExit:
                _save(path, optimizer, parameters, losses)
                raise
            trained = {name: value.detach().cpu().clone() for name, value in parameters.items()}
    finally:
        if gradient_checkpointing:
            unet.disable_gradient_checkpointing()
    return Trained(trained, _means(losses))


def torch_generator(seed: int, step: int) -> torch.Generator:
    """Make the generator of a step's random numbers; of what comes before the first at -1."""
    import numpy as np
    import torch

    drawn = np.random.default_rng((seed, step + 1)).integers(2**63)
    return torch.Generator("cpu").manual_seed(int(drawn))


def draw_order(shapes: Sequence[tuple[int, ...]], settings: Settings) -> list[list[int]]:
    """Draw which pictures each step learns from: all once before any again, those of one step of
    one size.
    """
    import numpy as np

    rng = np.random.default_rng((settings.seed, 0, 1))
    sizes = sorted(set(shapes))
    members = [[i for i, shape in enumerate(shapes) if shape == size] for size in sizes]
    parts = np.array([len(group) for group in members]) / len(shapes)
    queues: list[list[int]] = [[] for _ in members]
    order = []
    for group in rng.choice(len(members), size=settings.steps, p=parts):
        queue = queues[group]
        while len(queue) < settings.batch_size:
            queue += [members[group][i] for i in rng.permutation(len(members[group]))]
        order.append(queue[: settings.batch_size])
        del queue[: settings.batch_size]
    return order


def draw_batch(
    checkpoint: Checkpoint,
    examples: Examples,
    schedule: Any,
    chosen: Sequence[int],
    settings: Settings,
    step: int,
) -> Batch:
    """Draw what a step learns from: a sample of each picture's latents, noise, its level, and
    which captions are left out.
    """
    import torch

    unet, generator = checkpoint.parts["unet"], torch_generator(settings.seed, step)
    means = torch.stack([examples.means[index] for index in chosen])
    deviations = torch.stack([examples.deviations[index] for index in chosen])
    sample = means + deviations * torch.randn(means.shape, generator=generator)
    noise = torch.randn(means.shape, generator=generator)
    times = torch.randint(schedule.config.num_train_timesteps, (len(chosen),), generator=generator)
    wordless = torch.rand(len(chosen), generator=generator) < settings.caption_dropout
    rows = torch.tensor([examples.captions[index] for index in chosen])
    rows[wordless] = len(examples.states) - 1
    added = None
    if examples.pooled is not None:
        added = {
            "text_embeds": examples.pooled[rows].to(unet.device, unet.dtype),
            "time_ids": examples.time_ids[list(chosen)].to(unet.device),
        }
    return Batch(
        scaled(sample, checkpoint.parts["vae"]).to(unet.device),
        noise.to(unet.device),
        times.to(unet.device),
        examples.states[rows].to(unet.device),
        added,
    )


def rates(settings: Settings) -> Any:
    """Return the function that gives the learning rate of a step.

    Source: the schedules of ``diffusers.optimization``.
    """
    import torch
    from diffusers.optimization import get_scheduler

    nothing = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = settings.schedule
    scheduler = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        nothing,
        num_warmup_steps=settings.warm_up,
        num_training_steps=settings.steps,
    )
    factor = scheduler.lr_lambdas[0]
    return lambda step: settings.learning_rate * factor(step)


def _refuse_no_number(loss: Any, step: int) -> None:
    if not math.isfinite(loss.item()):
        raise ValueError(
            f"the loss of step {step + 1} is {loss.item()}: lower 'learning_rate', or say dtype:"
            " float32 for this node"
        )


def _save(path: Path, optimizer: Any, parameters: dict[str, Any], losses: list[float]) -> None:
    tensors = {f"weight.{name}": parameter for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{key}.{name}": state[key] for key in _MOMENTS if key in state}
    write_tensors(path, tensors, losses)


def _restore(
    optimizer: Any, parameters: dict[str, Any], tensors: dict[str, Any], steps: int
) -> None:
    import torch

    for name, parameter in parameters.items():
        if f"exp_avg.{name}" in tensors:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(steps)),
                **{key: tensors[f"{key}.{name}"].to(parameter.device) for key in _MOMENTS},
            }


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _under(word: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(f"{word}."): value
        for name, value in tensors.items()
        if name.startswith(f"{word}.")
    }


def _means(losses: Sequence[float]) -> list[tuple[int, float]]:
    stretch = math.ceil(len(losses) / MOST_ROWS)
    return [
        (min(start + stretch, len(losses)), fmean(losses[start : start + stretch]))
        for start in range(0, len(losses), stretch)
    ]
