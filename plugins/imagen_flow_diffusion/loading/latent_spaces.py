"""The spaces that latents are in: their names, and the way from pixels into them and back, as the
pipelines of diffusers go it.

Latents are (1, channels, height, width), scaled to what a denoiser works on. Autoencoders for films
see a picture as a film of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..checkpoints.description import describe

if TYPE_CHECKING:
    import torch

    from imagen_flow import Model


def space_of(model: Model) -> str:
    """Name the space of a checkpoint's latents, so that equal spaces have one name."""
    return describe(model).latent_space


def to_pixels(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to (1, 3, height, width), -1 to 1."""
    films = _films(vae)
    values = latents.to(vae.dtype)
    found: torch.Tensor = vae.decode(
        _unscaled(values.unsqueeze(2) if films else values, vae), return_dict=False
    )[0]
    return found[:, :, 0] if films else found


def to_latents(
    vae: Any, pixels: torch.Tensor, generator: torch.Generator | None
) -> tuple[torch.Tensor, bool]:
    """Encode (1, 3, height, width), -1 to 1, to latents of the same dtype; and say whether the
    generator was drawn from.

    Params:
        generator: of the sample of the autoencoder's distribution; None takes its mean.
    """
    films = _films(vae)
    found = vae.encode((pixels.unsqueeze(2) if films else pixels).to(vae.dtype))
    sampled = hasattr(found, "latent_dist") and generator is not None
    if hasattr(found, "latent_dist"):
        values = found.latent_dist.sample(generator) if sampled else found.latent_dist.mode()
    else:
        values = found.latent
    values = scaled(values.to(pixels.dtype), vae)
    return values[:, :, 0] if films else values, sampled


def scaled(values: torch.Tensor, vae: Any) -> torch.Tensor:
    """Bring what an autoencoder gives to what a denoiser works on."""
    if normalises(vae):
        mean, std = _own_statistics(values, vae)
        return unpatched((_patched(values) - mean) / std)
    config = vae.config
    mean, std = _statistics(values, config)
    if mean is not None and std is not None:
        return (
            (values - mean) * (1 / std)
            if _scale(config) is None
            else (values - mean) * config.scaling_factor / std
        )
    shift = getattr(config, "shift_factor", None)
    return (values if shift is None else values - shift) * _scale(config)


def _unscaled(values: torch.Tensor, vae: Any) -> torch.Tensor:
    if normalises(vae):
        mean, std = _own_statistics(values, vae)
        return unpatched(_patched(values) * std + mean)
    config = vae.config
    mean, std = _statistics(values, config)
    if mean is not None and std is not None:
        # Multiplied and divided in the order of the pipelines: another one rounds otherwise.
        return (
            values / (1 / std) + mean
            if _scale(config) is None
            else values * std / config.scaling_factor + mean
        )
    values = values / _scale(config)
    shift = getattr(config, "shift_factor", None)
    return values if shift is None else values + shift


def channels_of(config: Any) -> int:
    """How many channels the latents of an autoencoder have."""
    return int(
        config.z_dim
        if _scale(config) is None and hasattr(config, "z_dim")
        else config.latent_channels
    )


def _scale(config: Any) -> Any:
    return getattr(config, "scaling_factor", None)


def _statistics(values: torch.Tensor, config: Any) -> tuple[Any, Any]:
    """A mean and a deviation for each channel, where the autoencoder has them."""
    import torch

    found = [getattr(config, name, None) for name in ("latents_mean", "latents_std")]
    shape = (1, -1, *[1] * (values.ndim - 2))
    mean, std = (
        (
            None
            if numbers is None
            else torch.tensor(numbers).view(shape).to(values.device, values.dtype)
        )
        for numbers in found
    )
    return mean, std


def normalises(vae: Any) -> bool:
    """Whether an autoencoder keeps statistics of its latents, of each place of patches of 2 × 2:
    FLUX.2's.
    """
    return getattr(vae.config, "batch_norm_eps", None) is not None


@dataclass(frozen=True)
class Form:
    """What a pipeline asks of an autoencoder that it does not call."""

    config: SimpleNamespace
    bn: SimpleNamespace


def without_statistics(vae: Any) -> Form:
    """Give the form of such an autoencoder with statistics that change nothing: a pipeline that
    undoes them gives the latents as the denoiser made them.
    """
    import torch

    channels = 4 * channels_of(vae.config)
    return Form(
        SimpleNamespace(**{**vae.config, "batch_norm_eps": 0.0}),
        SimpleNamespace(running_mean=torch.zeros(channels), running_var=torch.ones(channels)),
    )


def unpatched(values: torch.Tensor) -> torch.Tensor:
    """Lay out patches: (1, 4 · channels, height, width) to (1, channels, 2 · height, 2 · width)."""
    import torch

    return torch.nn.functional.pixel_shuffle(values, 2)


def _patched(values: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.pixel_unshuffle(values, 2)


def _own_statistics(values: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    return vae.bn.running_mean.view(1, -1, 1, 1).to(values.device, values.dtype), std.to(
        values.device, values.dtype
    )


def _films(vae: Any) -> bool:
    """Whether an autoencoder works on films."""
    return getattr(vae.config, "z_dim", None) is not None


@contextmanager
def upcast(vae: Any, wanted: bool) -> Iterator[None]:
    """Let an autoencoder compute in float32, if that is wanted and it says that it needs it.
    Whoever calls holds it alone.
    """
    import torch

    own = vae.dtype
    if not wanted or own == torch.float32 or not vae.config.force_upcast:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(own)
