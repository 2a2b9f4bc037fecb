"""Tiny encoders to use instead of real ones, by the kind that their configuration or their name
tells: those that no other plugin makes. CLIP comes from `imagen_flow_diffusion`; SigLIP, ViT and
ResNet come from `imagen_flow_vision`.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagen_flow.loaders import keep_tiny

from . import index_folder

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

BY_NAME = (
    (r"\bindex\b", index_folder.KIND),
    (r"siglip-?2.*naflex", "siglip2"),
    (r"dino-?v2.*(reg|registers)\b", "dinov2_with_registers"),
    (r"dino-?v2", "dinov2"),
    (r"convnext-?v2", "convnextv2"),
    (r"convnext", "convnext"),
)
"""Kinds by words in a model's name, the more specific ones first."""

_SIDE = 32
_TRUNK = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
_PATCHES = {**_TRUNK, "image_size": _SIDE, "patch_size": 8}
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "convnext": ("ConvNext", {**_STAGES, "num_stages": 2}),
    "convnextv2": ("ConvNextV2", {**_STAGES, "num_stages": 2}),
    "dinov2": ("Dinov2", {**_PATCHES, "mlp_ratio": 2}),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**_PATCHES, "mlp_ratio": 2}),
    "siglip2": ("Siglip2", {**_TRUNK, "num_patches": 16, "patch_size": 8}),
}
"""The kinds that are made: the beginning of the names of their classes, and how small they are."""


def stand_in(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return the path of the tiny model to use instead of another, and make it if it is not kept
    yet; None if it is no encoder that this plugin makes. An index is used as it is, and one that is
    not there is empty.
    """
    kind = kind_of(reference, at)
    if kind == index_folder.KIND and at is not None:
        return at
    if kind not in (*KINDS, index_folder.KIND):
        return None
    return keep_tiny(
        folder / f"{MAKE}-retrieval-transformers-{version('transformers')}", kind, make
    )


def kind_of(reference: str, at: Path | None) -> str:
    """Return the model type of a reference; empty if it cannot be told."""
    if at is not None and at.is_dir():
        try:
            config = json.loads((at / "config.json").read_text(encoding="utf-8"))
            return str(config["model_type"])
        except (OSError, ValueError, LookupError, TypeError):
            return ""
    return next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), "")


def make(folder: Path) -> None:
    """Make the tiny model of the kind that a folder is named after, and save it there."""
    if folder.name == index_folder.KIND:
        import numpy as np

        index_folder.write(folder, np.zeros((0, 0), "float32"), [], {})
        return
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        _save(folder)


def _save(folder: Path) -> None:
    import transformers as t

    name, settings = KINDS[folder.name]
    if folder.name != "siglip2":
        # With a head that classifies, so that nodes that need it can use the same models.
        config = getattr(t, f"{name}Config")(**settings, num_labels=5)
        getattr(t, f"{name}ForImageClassification")(config).save_pretrained(folder)
        t.ViTImageProcessorPil(size={"height": _SIDE, "width": _SIDE}).save_pretrained(folder)
        return
    tokenizer = _tokenizer()
    text = {
        **_TRUNK,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "projection_size": _TRUNK["hidden_size"],
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    network = t.Siglip2Model(t.Siglip2Config(text_config=text, vision_config=dict(settings)))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    t.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)


def _tokenizer() -> Any:
    """A tokenizer of letters, which needs no library beside transformers."""
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + ".,-'!:<>"
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T5Tokenizer(
        vocab=[(piece, -float(number > 2)) for number, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=64,
        pad_token="</s>",
        model_input_names=["input_ids"],
    )
