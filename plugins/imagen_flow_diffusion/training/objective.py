"""What training lowers: the error of the denoiser's prediction at a random noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagen_flow as flow

if TYPE_CHECKING:
    import torch

PREDICTS = ("epsilon", "v_prediction", "sample")
"""What denoisers of these families are trained to predict."""


@dataclass(frozen=True)
class Batch:
    """What one step learns from, on the denoiser's device: latents (n, channels, height, width), as
    scaled for the denoiser, the noise that is added to them and at which of the schedule's times
    (n), the states of the captions (n, tokens, width), and SDXL's further conditions.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    states: torch.Tensor
    added: Mapping[str, torch.Tensor] | None = None


def noise_schedule(sampler: Any, reference: str) -> Any:
    """Return the noise schedule that a checkpoint was trained with, by its sampler's configuration.

    Raises:
        ModelError: it is none of discrete times.
    """
    from diffusers import DDPMScheduler

    name, predicts = type(sampler).__name__, sampler.config.get("prediction_type", "epsilon")
    if name.startswith(("EDM", "FlowMatch")) or predicts not in PREDICTS:
        raise flow.ModelError(
            f"train.lora cannot train the model '{reference}': its sampler is {name} with the"
            f" prediction type '{predicts}', and train.lora knows noise schedules of discrete times"
            f" ({', '.join(PREDICTS)})"
        )
    known = DDPMScheduler._get_init_keys(DDPMScheduler)
    return DDPMScheduler(**{key: value for key, value in sampler.config.items() if key in known})


def loss_of(denoiser: Any, schedule: Any, batch: Batch, min_snr_gamma: float) -> Any:
    """Compute the mean squared error of what a denoiser predicts, weighted by noise level.

    Params:
        min_snr_gamma: the cap of the signal-to-noise ratio in the weights; 0 weights all alike.
    Source: DDPM (arXiv:2006.11239); the velocity of arXiv:2202.00512; min-SNR weights
        (arXiv:2303.09556), as diffusers' training scripts compute them.
    """
    dtype = denoiser.dtype
    noisy = schedule.add_noise(batch.latents, batch.noise, batch.times)
    guess = denoiser(
        noisy.to(dtype), batch.times, batch.states.to(dtype), added_cond_kwargs=batch.added
    ).sample.float()
    predicts = schedule.config.prediction_type
    if predicts == "epsilon":
        target = batch.noise
    elif predicts == "v_prediction":
        target = schedule.get_velocity(batch.latents, batch.noise, batch.times)
    else:
        target = batch.latents
    errors = (guess - target).square().flatten(1).mean(1)
    if min_snr_gamma:
        errors = errors * _weights(schedule, batch.times, min_snr_gamma)
    return errors.mean()


def _weights(schedule: Any, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """min(SNR, gamma), in units of what the denoiser predicts."""
    from diffusers.training_utils import compute_snr

    snr = compute_snr(schedule, times)
    predicts = schedule.config.prediction_type
    if predicts == "epsilon":
        return (gamma / snr).clamp(max=1)  # also at zero terminal SNR
    return snr.clamp(max=gamma) / (snr + 1) if predicts == "v_prediction" else snr.clamp(max=gamma)
