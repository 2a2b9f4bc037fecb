"""Small checkers of the real classes with random weights, for ``--tiny``. They find every picture
safe, so that a graph can be tried to its end.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from imagen_flow.loaders import keep_tiny

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

BY_NAME = (
    (r"safety[-_]?checker", "checker"),
    (r"nsfw[-_.]?(image[-_.]?)?(detect|classif)", "classifier"),
)
"""Kinds by words in a model's name. Whole checkpoints are made by other plugins, also those whose
name has some of these words.
"""

_SIDE = 32
_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


def stand_in(reference: str, folder: Path) -> Path | None:
    """Return the path of the tiny checker to use instead of another, made if it is not kept yet;
    None if its name is that of no checker.
    """
    kind = next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), None)
    if kind is None:
        return None
    kept = folder / f"{MAKE}-safety-transformers-{version('transformers')}"
    return keep_tiny(kept, kind, {"checker": _checker, "classifier": _classifier}[kind])


def _checker(folder: Path) -> None:
    import torch
    import transformers as t
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    module = StableDiffusionSafetyChecker(
        t.CLIPConfig(
            text_config={**_SIZES, "vocab_size": 10, "projection_dim": 8},
            vision_config={
                **_SIZES,
                "image_size": _SIDE,
                "patch_size": 8,
                "projection_dim": 8,
            },
            projection_dim=8,
        )
    )
    with torch.no_grad():
        module.concept_embeds_weights.fill_(2)  # no cosine is as large
        module.special_care_embeds_weights.fill_(2)
    module.save_pretrained(folder)
    t.CLIPImageProcessorPil(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}
    ).save_pretrained(folder)


def _classifier(folder: Path) -> None:
    import torch
    import transformers as t

    module = t.ViTForImageClassification(
        t.ViTConfig(**_SIZES, image_size=_SIDE, patch_size=8, id2label={0: "normal", 1: "nsfw"})
    )
    with torch.no_grad():
        module.classifier.bias.copy_(torch.tensor([10.0, -10.0]))
    module.save_pretrained(folder)
    t.ViTImageProcessorPil(size={"height": _SIDE, "width": _SIDE}).save_pretrained(folder)
