"""A part in the place of the checkpoint's own: a folder as ``save_pretrained`` writes one, the part
of another checkpoint, or one file of weights; a denoiser also as GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import imagen_flow as flow
from imagen_flow import Model, loaders
from imagen_flow.loaders import Loader, read_json

from ..checkpoints.description import index_of, what_is
from ..checkpoints.folder import load_part, with_article
from ..checkpoints.single_file import header_of
from ..checkpoints.translation import load_from_file


class OtherDenoiser(Loader[Model]):
    """A denoiser for another checkpoint, which is loaded with it."""

    takes_file = True

    def check(self, model: Model) -> None:
        if model.path.suffix.lower() == ".gguf":
            loaders.require_library("gguf", "a denoiser as GGUF", extra="gguf")

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return {}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Model:
        return model


class OtherAutoencoder(Loader[Model]):
    """An autoencoder for another checkpoint, which is loaded with it."""

    takes_file = True

    def check(self, model: Model) -> None:
        if model.path.suffix.lower() == ".gguf":
            raise flow.ModelError(
                f"the port 'autoencoder' cannot use the model '{model.reference}': GGUF holds"
                " denoisers"
            )

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return {}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Model:
        return model


def load_instead(
    cls: Any,
    other: Model,
    model: Model,
    part: str,
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading | None = None,
) -> Any:
    """Load a part of another model for a checkpoint, with the configuration that comes with it or
    else with the checkpoint's.
    """
    refuse_misfit(model, part, other)
    if other.path.is_dir():
        return load_part(
            cls,
            other,
            part if index_of(other) else "",
            device=device,
            dtype=dtype,
            settings=settings,
        )
    OtherDenoiser().check(other)
    beginning = dict(other.base.holds).get(part, "") if other.base is not None else ""
    return load_from_file(
        cls,
        other.path,
        beginning,
        like=model.folder,
        part=part,
        of=model.reference,
        device=device,
        dtype=dtype,
        settings=settings,
    )


def refuse_misfit(model: Model, part: str, other: Model) -> None:
    """Look by configurations and headers whether a part of another model can stand in the place of
    a checkpoint's own.

    Raises:
        ModelError: it is of another class, or for other states or latents; the message says which.
    """
    own_kind, own = index_of(model)[part][1], read_json(model, f"{part}/config.json")
    what = f"'{other.reference}' cannot replace the {part} of '{model.reference}'"
    if not other.path.is_dir():
        kind = "" if other.base is not None else what_is(other)
        wanted = "autoencoder alone" if own_kind.startswith("Autoencoder") else "denoiser alone"
        if (
            kind
            and kind not in (wanted, "single file of weights")
            and not kind.startswith("GGUF file")
        ):
            raise flow.ModelError(f"{what}: it is {with_article(kind)}")
        pattern = BLOCKS.get(own_kind)
        if (
            pattern
            and (
                names := (
                    header_of(other) if find_spec("gguf") or other.path.suffix != ".gguf" else {}
                )
            )
            and not any(
                re.match(rf"(model\.diffusion_model\.)?({pattern})\.\d", name) for name in names
            )
        ):
            raise flow.ModelError(
                f"{what}: it is no {own_kind}, by the names in it ({sorted(names)[0]} is the first)"
            )
        return
    index = index_of(other)
    if (kind := (index.get(part) or [None, what_is(other)])[1]) != own_kind:
        raise flow.ModelError(
            f"{what}: it is {with_article(kind)}, and that is {with_article(own_kind)}"
        )
    config = read_json(other, f"{part}/config.json" if index else "config.json")
    for name, meant in SHAPES.items():
        ours, theirs = own.get(name, meant), config.get(name, meant)
        if ours != theirs:
            raise flow.ModelError(f"{what}: its {name} is {theirs}, and that has {ours}")


BLOCKS = {
    "FluxTransformer2DModel": "double_blocks|transformer_blocks",
    "SD3Transformer2DModel": "joint_blocks|transformer_blocks",
    "UNet2DConditionModel": "input_blocks|down_blocks",
}
"""What the blocks of a denoiser are called, by its authors and by diffusers."""

SHAPES: dict[str, Any] = {
    "cross_attention_dim": None,
    "joint_attention_dim": None,
    "caption_channels": None,
    "pooled_projection_dim": None,
    "projection_class_embeddings_input_dim": None,
    "out_channels": None,
    "latent_channels": None,
    "z_dim": None,
    "scaling_factor": 0.18215,
    "shift_factor": None,
}
"""What of a part's configuration the rest of a checkpoint goes by, and what holds where it says nothing."""
