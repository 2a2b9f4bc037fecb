"""Say what the folder of a cascade holds, so that the parts that three trainings write make one
model when they are joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PARTS = {
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "plan": ["torch.nn", "Linear"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "super_resolution": ["diffusers", "UNet2DConditionModel"],
    "super_resolution_scheduler": ["diffusers", "DDIMScheduler"],
}


def write_index(folder: Path, *, parts: Iterable[str] = tuple(PARTS)) -> None:
    """Write ``model_index.json``, which says of what kind the folder is and which parts it has."""
    index = {"_class_name": "ImagenCascade", "_diffusers_version": "0.42.1"} | {
        part: PARTS[part] for part in parts
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
