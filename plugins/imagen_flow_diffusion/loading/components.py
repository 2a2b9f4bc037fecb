"""Load whole checkpoints, or what one step needs of them: the denoiser with its sampler, or the
autoencoder. Nodes name these loaders at their ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow.loaders import Loader, Loading

from ..checkpoints.description import (
    AUTOENCODERS,
    describe,
    family_of,
    index_of,
    variant_of,
    what_is,
)
from ..pipelines.calling import TAKEN_BY, problem_of
from .checkpoint import Checkpoint
from .grouping import is_part, names_in
from .groups import GROUPS, SHARED_SETTINGS, DenoiserParts, TrainedDenoiser, some_groups
from .replaced_parts import refuse_misfit

if TYPE_CHECKING:
    from imagen_flow import Model


def replace_parts(
    model: Model, others: Mapping[str, Any], groups: Sequence[str] = ("denoiser", "autoencoder")
) -> Model:
    """Return the checkpoint with the parts that the ports of these names give instead of its own.

    Raises:
        ModelError: it has no such part, or several.
    """
    for group in groups:
        if (other := others.get(group)) is not None:
            names = [
                name
                for name in names_in(model, group)
                if name in ("unet", "transformer", *AUTOENCODERS[:-1])
            ]
            if len(names) != 1:
                raise flow.ModelError(
                    f"the model '{model.reference}' has {' and '.join(names) or 'none'} for its"
                    f" {group}: it cannot be replaced"
                )
            model = model.with_part(names[0], other)
    return model


def check_replaced_parts(models: Mapping[str, Any], *ports: str) -> None:
    """Refuse, when planning, parts at these ports that cannot stand in the place of a checkpoint's
    own.
    """
    model = models.get("model")
    if model is not None and (model.folder / "model_index.json").is_file():
        for part, other in replace_parts(model, models, ports).replaced_parts:
            refuse_misfit(model, part, other)


class Whole(Loader[Checkpoint]):
    """All of a diffusers checkpoint."""

    settings = DenoiserParts.settings

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return some_groups(model, *GROUPS)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def for_call(self, model: Model, lent: Checkpoint, settings: Loading) -> Checkpoint:
        return replace(lent, settings=settings)


#: The settings of checkpoints whose denoisers are UNets, or are not called step by step.
UNCACHED = tuple(name for name in Whole.settings if name != "step_cache")


class Drawing(Loader[Checkpoint]):
    """All of a checkpoint that draws from words, or from words and a picture."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        if kind in TAKEN_BY or not kind.endswith("Pipeline"):
            raise problem_of(model, "a node that draws", kind, "a checkpoint that draws from words")
        return some_groups(model, *GROUPS)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def for_call(self, model: Model, lent: Checkpoint, settings: Loading) -> Checkpoint:
        return replace(lent, settings=settings)

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)


class Filling(Loader[Checkpoint]):
    """All of a checkpoint that fills in what a mask marks, which those that edit may do too."""

    settings = Whole.settings

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        kind = what_is(model)
        edits = TAKEN_BY.get(kind) == "image.edit" and kind.endswith("Pipeline")
        return some_groups(model, *GROUPS) if edits else Drawing().parts(model)

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def for_call(self, model: Model, lent: Checkpoint, settings: Loading) -> Checkpoint:
        return replace(lent, settings=settings)

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others)


class Trainable(Loader[Checkpoint]):
    """All of a checkpoint that a LoRA can be trained for: Stable Diffusion 1 and 2, and SDXL."""

    settings = (*SHARED_SETTINGS, "quantization")

    def check(self, model: Model) -> None:
        kind = what_is(model)
        takes = "Stable Diffusion 1, 2 or SDXL"
        if family_of(kind) not in ("StableDiffusion", "StableDiffusionXL") or variant_of(kind):
            raise problem_of(model, "train.lora", kind, takes)
        config = describe(model).config("unet")
        reads, gives = config.get("in_channels", 4), config.get("out_channels", 4)
        added = config.get("addition_embed_type")
        if reads != gives:
            raise flow.ModelError(
                f"train.lora cannot use the model '{model.reference}': its network reads {reads}"
                f" channels and gives {gives} (it was made for filling in, or for another picture"
                " beside the noise), and train.lora trains networks that read noise alone; train"
                " for its base, the LoRA can be used with both"
            )
        if (
            added != ("text_time" if kind.startswith("StableDiffusionXL") else None)
            or config.get("class_embed_type")
            or config.get("time_cond_proj_dim")
            or index_of(model).get("requires_aesthetics_score")
        ):
            raise flow.ModelError(
                f"train.lora cannot use the model '{model.reference}': its network reads more than"
                f" noise, words and sizes (a refiner, an LCM or unCLIP); it takes {takes}"
            )
        self.parts(model)

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        groups = some_groups(model, "text", "denoiser", "autoencoder", "sampler")
        return {**groups, "denoiser": TrainedDenoiser()}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)


class Denoiser(Loader[Checkpoint]):
    """What takes the noise away, with its sampler."""

    settings = DenoiserParts.settings

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others, groups=("denoiser",))

    def check(self, model: Model) -> None:
        from ..pipelines.families import split_of

        split_of(model, what_is(model), "diffusion.denoise")

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return some_groups(model, "denoiser", "sampler")

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)

    def for_call(self, model: Model, lent: Checkpoint, settings: Loading) -> Checkpoint:
        return replace(lent, settings=settings)


class Autoencoder(Loader[Checkpoint]):
    """What turns pixels into latents and back, with the safety checker if there is one."""

    settings = SHARED_SETTINGS

    def with_replaced_parts(self, model: Model, others: Mapping[str, Model]) -> Model:
        return replace_parts(model, others, groups=("autoencoder",))

    def check(self, model: Model) -> None:
        from ..pipelines.families import split_of

        split_of(model, what_is(model), "latents.decode")

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        checked = is_part(index_of(model).get("safety_checker"))
        return some_groups(model, "autoencoder", *(["other"] if checked else []))

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(model, parts)
