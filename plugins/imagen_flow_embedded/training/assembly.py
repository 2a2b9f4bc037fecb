"""Put the trained parts of a cascade into one folder, as ``diffusion.base`` and its siblings load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

PARTS = {
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "super_resolution": ["diffusers", "UNet2DConditionModel"],
    "super_resolution_scheduler": ["diffusers", "DDIMScheduler"],
}


def write_index(folder: Path) -> None:
    """Write ``model_index.json``, which says of what kind the folder is and which parts it has."""
    index = {"_class_name": "ImagenCascade", "_diffusers_version": "0.42.1", **PARTS}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def assemble(scratch: Path, text: Path, base: Path, enlarger: Path) -> Path:
    """Copy the parts that the three trainings wrote into ``scratch/imagen``; returns the folder."""
    folder = scratch / "imagen"
    sources = {**dict.fromkeys(("tokenizer", "text_encoder"), text), **dict.fromkeys(("unet", "scheduler"), base)}
    sources |= dict.fromkeys(("super_resolution", "super_resolution_scheduler"), enlarger)
    for part, source in sources.items():
        shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
    write_index(folder)
    return folder
