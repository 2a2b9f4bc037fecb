"""What a checkpoint can do, by the class of pipeline that it says it is.

diffusers names its classes by family, help and task: StableDiffusionXL, ControlNet, Inpaint. So the class for another task is found by its name, and only that one is imported: its
own tables of families would import them all. A family whose text, latents and pixels can be split over three nodes has an entry in `SPLIT`; all others are drawn by one node.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .calling import TAKEN_BY, problem_of

if TYPE_CHECKING:
    from imagen_flow import Model

TASKS = {"text_to_image": ("",), "image_to_image": ("Img2Img",), "inpaint": ("Inpaint", "Inpainting")}
"""How diffusers spells a task in the name of a class."""

_NAME = re.compile(r"(?P<family>.+?)(ControlNetUnion|ControlNet|Adapter|(?P<own>Control|Fill))?(Img2Img|Inpaint(ing)?|SuperResolution)?(Combined)?Pipeline\Z")

_STATES = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_STATES, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


@dataclass(frozen=True)
class Split:
    """How a family's work is split.

    `encoded` names what ``encode_prompt`` returns, as arguments of the call; an empty name is dropped. `apart` says that the negative prompt is encoded by a call of its own.
    `reads` is the tokenizer that reads furthest, and how many tokens; `packed` says that the denoiser's latents are rows of 2 × 2 patches, `binned` that the pipeline would choose a size of its own.
    """

    encoded: tuple[str, ...]
    reads: tuple[str, int] = ("tokenizer", 77)
    apart: bool = False
    packed: bool = False
    binned: bool = False
    upcast: bool = False


SPLIT = {
    "IF": Split(_STATES),
    "StableDiffusion": Split(_STATES),
    "StableDiffusionXL": Split(_POOLED, upcast=True),
    "StableDiffusion3": Split(_POOLED, reads=("tokenizer_3", 256)),
    "Flux": Split(("prompt_embeds", "pooled_prompt_embeds", ""), reads=("tokenizer_2", 512), apart=True, packed=True),
    "PixArtAlpha": Split(_MASKED, reads=("tokenizer", 120), binned=True),
    "PixArtSigma": Split(_MASKED, reads=("tokenizer", 300), binned=True),
    "Sana": Split(_MASKED, reads=("tokenizer", 300), binned=True),
}
"""By diffusers' name of the family."""

OPTIONAL_IMAGE = ("Flux2Pipeline", "Flux2KleinPipeline")
"""Pipelines that draw from text alone or from text and pictures."""



def family_of(kind: str) -> str:
    """Give diffusers' name of the family that a class of pipeline belongs to: ``Flux`` of ``FluxInpaintPipeline``."""
    found = _NAME.match(kind)
    return found["family"] if found else ""


def pipeline_for(model: Model, kind: str, task: str, *, by: str, help: str = "") -> Any:
    """Find the class that does a task with a checkpoint of some kind.

    Params:
        help: what diffusers calls the networks that are lent to the checkpoint: ``ControlNet``, ``Adapter``.
    Raises:
        ModelError: none does; the message says what the checkpoint is and which node takes it.
    """
    import diffusers

    own = getattr(diffusers, kind, None) if kind.isidentifier() and kind.endswith("Pipeline") else None
    if kind not in TAKEN_BY:
        for word in TASKS[task]:
            for ending in ("Pipeline", "CombinedPipeline"):
                name = f"{family_of(kind)}{_own(kind)}{help}{word}{ending}"
                cls = getattr(diffusers, name, None) if name.isidentifier() else None
                if cls is not None and (help or _does(cls, task)):
                    return cls
        if own is not None and not help and _does(own, task):
            return own
    what = f"for {task.replace('_', ' ')}{f' with a {help}' if help else ''}"
    does = [by] if help else [f"diffusion.{other}" for other in TASKS if own is not None and _does(own, other)]
    raise problem_of(model, by, kind, f"checkpoints that diffusers has a class for, {what}", home=" or ".join(does) or "diffusion.pipeline" * (own is not None))


def _own(kind: str) -> str:
    """Give the word for what a checkpoint was made to read beside the prompt: ``Control`` of ``FluxControlPipeline``, ``Fill`` of ``FluxFillPipeline``."""
    found = _NAME.match(kind)
    return (found["own"] or "") if found else ""


def _does(cls: Any, task: str) -> bool:
    """Whether a pipeline does a task, by what its call takes."""
    takes = inspect.signature(cls.__call__).parameters
    either = cls.__name__ in OPTIONAL_IMAGE
    return {
        "text_to_image": "prompt" in takes and ("image" not in takes or either),
        "image_to_image": "image" in takes and "mask_image" not in takes and ("strength" in takes or either),
        "inpaint": "mask_image" in takes,
    }[task]


def split_of(model: Model, kind: str, by: str) -> Split:
    """Say how a checkpoint's work is split over three nodes.

    Raises:
        ModelError: it is of a family that cannot be split; the message says what it is and which node takes it.
    """
    family = family_of(kind)
    if kind in TAKEN_BY or family not in SPLIT or family == "IF":
        raise problem_of(model, by, kind, f"checkpoints of the families {', '.join(sorted(SPLIT.keys() - {'IF'}))}")
    return SPLIT[family]
