"""Load the parts of a checkpoint in groups that are leased one by one: text encoders, denoiser,
autoencoder, samplers, and the rest. So a node that needs all of them shares with a node that needs
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.loaders import Loader, read_json

from ..checkpoints.abilities import check_abilities
from ..checkpoints.description import index_of, what_is
from ..checkpoints.folder import with_article
from ..checkpoints.quantizing import check_quantizing, saved_as
from .checkpoint import Group, sampled_as
from .completeness import refuse_unreadable
from .grouping import folders_in, names_in
from .parts import load_component

if TYPE_CHECKING:
    from imagen_flow import Model


SHARED_SETTINGS = ("attention", "offload")
"""The settings that all parts of a checkpoint act on. Text encoders and denoisers can also be
quantized, and denoisers, which are called most, compiled."""


class TextParts(Loader[Group]):
    """Tokenizers and text encoders."""

    settings = (*SHARED_SETTINGS, "quantization")

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _check_support(model, "text", device, dtype, settings)

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "text", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "text")


class DenoiserParts(Loader[Group]):
    """The network, or networks, that take the noise away."""

    settings = (*TextParts.settings, "compile", "layerwise_casting", "step_cache")

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        _check_support(model, "denoiser", device, dtype, settings)
        index = index_of(model)
        check_abilities(
            model.reference,
            {
                name: index[name][1]
                for name in names_in(model, "denoiser")
                if not name.startswith("controlnet")
            },
            device=device,
            settings=settings,
        )

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "denoiser", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "denoiser")


class TrainedDenoiser(Loader[Group]):
    """The network for which a LoRA is trained: with whole weights, of more range than float16 has,
    in which small gradients vanish.
    """

    settings = ("quantization",)

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        loaders.require_library("peft", "train.lora", extra="adapters")
        quantized = saved_as(read_json(model, "unet/config.json"))
        if quantized or settings.quantization != "none" or model.path.suffix == ".gguf":
            how = quantized or settings.quantization
            raise flow.ModelError(
                f"train.lora cannot use the model '{model.reference}' quantized"
                f" ({how if how != 'none' else 'GGUF'}), for it computes gradients with whole"
                " weights: "
                + (
                    "take the checkpoint that it was made of"
                    if how != settings.quantization
                    else "say settings: {quantization: none} for this node"
                )
            )
        capable = loaders.compute_capability(device) if device.startswith("cuda") else None
        if dtype == "float16" and capable is not None and capable < (8, 0):
            raise flow.ModelError(
                f"train.lora trains in bfloat16 in the place of float16, which {device} cannot"
                " compute in: say dtype: float32"
            )
        _check_support(model, "denoiser", device, dtype, loaders.Loading())

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        wide = "bfloat16" if device.startswith("cuda") else "float32"
        return _load(
            model,
            "denoiser",
            device,
            wide if dtype == "float16" else dtype,
            loaders.Loading(),
        )

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "denoiser")


class AutoencoderParts(Loader[Group]):
    """What turns pixels into latents and back."""

    settings = SHARED_SETTINGS

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        refuse_unreadable(model, "autoencoder")

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "autoencoder", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "autoencoder")


class SamplerParts(Loader[Group]):
    """Samplers: configurations, no weights."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "sampler", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "sampler")


class OtherParts(Loader[Group]):
    """Image encoders, safety checkers and processors."""

    settings = SHARED_SETTINGS

    def check_support(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> None:
        refuse_unreadable(model, "other")

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Group:
        return _load(model, "other", device, dtype, settings)

    def folders(self, model: Model) -> tuple[str, ...]:
        return folders_in(model, "other")


GROUPS: dict[str, Loader[Group]] = {
    "text": TextParts(),
    "denoiser": DenoiserParts(),
    "autoencoder": AutoencoderParts(),
    "sampler": SamplerParts(),
    "other": OtherParts(),
}


def some_groups(model: Model, *groups: str) -> dict[str, Loader[Any]]:
    """Name the loaders of groups of a checkpoint, those that it has.

    Raises:
        ModelError: it is no checkpoint in the diffusers layout.
    """
    if not index_of(model):
        raise flow.ModelError(
            f"the model '{model.reference}' is not a diffusers checkpoint: it is"
            f" {with_article(what_is(model))}"
        )
    return {name: GROUPS[name] for name in groups if names_in(model, name)}


def _load(model: Model, group: str, device: str, dtype: str, settings: loaders.Loading) -> Group:
    index = index_of(model)
    return Group(
        {
            name: load_component(
                model, name, index[name], device=device, dtype=dtype, settings=settings
            )
            for name in names_in(model, group)
        }
    )


def _check_support(
    model: Model, group: str, device: str, dtype: str, settings: loaders.Loading
) -> None:
    refuse_unreadable(model, group)
    if group == "denoiser":
        sampled_as(model)  # refuses what no sampler follows
    index, held = (
        index_of(model),
        dict(model.base.holds) if model.base is not None and model.path.suffix != ".gguf" else {},
    )
    held |= {
        name: "" for name, other in model.replaced_parts if other.path.suffix == ".safetensors"
    }
    if settings.quantization != "none" and (
        alone := sorted(held.keys() & set(names_in(model, group)))
    ):
        raise flow.ModelError(
            f"the {alone[0]} of the model '{model.reference}' comes from one file of weights, which"
            " diffusers does not quantize as it loads them: say quantization: none, or take a"
            " folder or a GGUF file"
        )
    others = {name: other for name, other in model.replaced_parts if other.path.is_dir()}
    networks = [
        name for name in names_in(model, group) if not name.startswith(("tokenizer", "processor"))
    ]
    parts = {
        name: (
            index[name][0],
            (
                read_json(others[name], "config.json")
                if name in others
                else read_json(model, f"{name}/config.json")
            ),
        )
        for name in networks
    }
    check_quantizing(model, parts, device=device, dtype=dtype, settings=settings)
