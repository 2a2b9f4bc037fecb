"""Tell which part of a checkpoint belongs to which group, and in which folders its files lie."""

from __future__ import annotations

from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, TypeGuard

from ..checkpoints.description import AUTOENCODERS, index_of

if TYPE_CHECKING:
    from imagen_flow import Model


def group_of(name: str) -> str:
    """Say in which group a part of this name is leased."""
    if name.startswith(
        ("tokenizer", "text_encoder", "prior_tokenizer", "prior_text_encoder", "processor")
    ):
        return "text"
    if name in AUTOENCODERS:
        return "autoencoder"
    if name.endswith("scheduler"):
        return "sampler"
    if (
        name.startswith(
            ("unet", "transformer", "prior_prior", "super_res", "decoder", "controlnet", "low_res")
        )
        or name == "prior"
    ):
        return "denoiser"
    return "other"


def names_in(model: Model, group: str) -> tuple[str, ...]:
    """Name a checkpoint's parts of a group."""
    return tuple(
        name
        for name, entry in index_of(model).items()
        if is_part(entry) and group_of(name) == group
    )


def folders_in(model: Model, group: str) -> tuple[str, ...]:
    """Name the folders of a checkpoint's parts of a group: several networks that are one part lie
    in folders with numbers.
    """
    index = index_of(model)
    return tuple(
        folder
        for name in names_in(model, group)
        for folder in (
            numbered_folders(model, name) if index[name][1].startswith("Multi") else [name]
        )
    )


def numbered_folders(model: Model, name: str) -> list[str]:
    folders = takewhile(
        lambda folder: (model.folder / folder).is_dir(), (f"{name}_{number}" for number in count(1))
    )
    return [name, *folders]


def is_part(entry: Any) -> TypeGuard[list[str]]:
    return (
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)
    )


def is_null(entry: Any) -> bool:
    return isinstance(entry, list) and entry == [None, None]
