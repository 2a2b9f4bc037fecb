"""Find out what a checkpoint can do, by the class of pipeline that it names.

diffusers names classes by family, added network and task: StableDiffusionXL, ControlNet, Inpaint.
So the class for another task is found by its name, and only that class is imported; diffusers' own
tables of families would import all of them. Families whose work can be split over three nodes
(text, latents, pixels) have an entry in `SPLIT`; all others draw with one node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow.loaders import unread_words

from ..checkpoints.description import family_of, variant_of, what_is
from ..checkpoints.folder import with_article
from .calling import TAKEN_BY, problem_of
from .reading import foreign

if TYPE_CHECKING:
    from imagen_flow import Model

TASKS = {
    "text_to_image": ("",),
    "image_to_image": ("Img2Img",),
    "inpaint": ("Inpaint", "Inpainting"),
}
"""How diffusers spells a task in the name of a class."""

_STATES = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_STATES, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_PAIRED = (*_STATES, "prompt_attention_mask", "negative_prompt_attention_mask")
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)


@dataclass(frozen=True)
class Split:
    """How a family's work is split over nodes.

    `encoded` names what ``encode_prompt`` returns, as arguments of the call; an empty name is
    dropped. `reads` is the tokenizer that reads furthest, `length` how many tokens where the call
    does not say, and `before` the family's own words before the prompt and before the negative
    prompt, where these take of the tokens. `again` names what diffusers has classes of the family
    for that begin with latents. `upcast` says that its pipelines let the autoencoder compute in
    float32 where half precision would overflow.
    """

    encoded: tuple[str, ...]
    reads: str = "tokenizer"
    length: int = 77
    before: tuple[str, str] = ("", "")
    again: tuple[str, ...] = ("image_to_image", "inpaint")
    upcast: bool = False


_LUMINA = (
    "You are an assistant designed to generate superior images with the superior degree of"
    " image-text alignment based on textual prompts or user prompts. <Prompt Start> "
)
_CHAT = "<|im_start|>user\n"
_FLUX_2 = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured"
    " responses focusing on object relationships, object\nattribution and actions without"
    " speculation.[/SYSTEM_PROMPT][INST]"
)

SPLIT = {
    "AuraFlow": Split(_MASKED, again=(), upcast=True),
    "Chroma": Split(
        (
            "prompt_embeds",
            "",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "",
            "negative_prompt_attention_mask",
        ),
        again=("image_to_image",),
    ),
    "CogView4": Split(_STATES, again=()),
    "Flux": Split(("prompt_embeds", "pooled_prompt_embeds", ""), reads="tokenizer_2"),
    "Flux2": Split(("prompt_embeds", ""), before=(_FLUX_2, ""), again=()),
    "Flux2Klein": Split(("prompt_embeds", ""), before=(_CHAT, _CHAT), again=()),
    "HunyuanDiT": Split(
        (*_PAIRED, *(f"{name}_2" for name in _PAIRED)), reads="tokenizer_2", length=256, again=()
    ),
    "IF": Split(_STATES, again=()),
    "LatentConsistencyModel": Split(("prompt_embeds", ""), again=("image_to_image",)),
    "Lumina2": Split(_MASKED, before=(_LUMINA, ""), again=()),
    "PixArtAlpha": Split(_MASKED, again=()),
    "PixArtSigma": Split(_MASKED, again=()),
    "QwenImage": Split(("prompt_embeds", "prompt_embeds_mask")),
    "Sana": Split(_MASKED, again=()),
    "SanaSprint": Split(("prompt_embeds", "prompt_attention_mask"), again=()),
    "StableDiffusion": Split(_STATES),
    "StableDiffusion3": Split(_POOLED, reads="tokenizer_3"),
    "StableDiffusionXL": Split(_POOLED, upcast=True),
    "ZImage": Split(_STATES, before=(_CHAT, _CHAT), again=("image_to_image",)),
}
"""By diffusers' name of the family."""

OPTIONAL_IMAGE = (
    "BriaFibo2Pipeline",
    "Flux2KleinKVPipeline",
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "GlmImagePipeline",
    "QwenImage21Pipeline",
    "ZImageOmniPipeline",
)
"""Pipelines that draw from text, or from text and images."""

PICTURES = ("image", "images")
"""How editing pipelines name their images."""

_OTHERWISE = ("strength", "mask_image", "noise_level", "num_frames", "layers")
"""Arguments of pipelines that do something else with a picture than change it: draw over it, fill
it in, enlarge it, set it in motion, take it apart.
"""


def pipeline_for(model: Model, kind: str, task: str, *, by: str, help: str = "") -> Any:
    """Find the class of diffusers that does a task with a kind of checkpoint.

    Params:
        help: the word for the added networks in diffusers' class names: ``ControlNet``,
            ``Adapter``.
    Raises:
        ModelError: none does. The message says what the checkpoint is and which node takes it.
    """
    import diffusers

    own = (
        getattr(diffusers, kind, None)
        if kind.isidentifier() and kind.endswith("Pipeline")
        else None
    )
    if kind not in TAKEN_BY or (task, TAKEN_BY[kind]) == ("inpaint", "image.edit"):
        for word in TASKS[task]:
            for ending in ("Pipeline", "CombinedPipeline"):
                name = f"{family_of(kind)}{variant_of(kind)}{help}{word}{ending}"
                cls = getattr(diffusers, name, None) if name.isidentifier() else None
                if cls is not None and (help or _does(cls, task)):
                    return cls
        if own is not None and not help and _does(own, task):
            return own
    if own is None and kind.endswith("Pipeline"):
        raise flow.ModelError(
            f"{by} cannot use the model '{model.reference}': it says that it is"
            f" {with_article(kind)}, and diffusers {diffusers.__version__} has no class of that"
            " name"
        )
    what = f"for {task.replace('_', ' ')}{f' with a {help}' if help else ''}"
    does = (
        [by]
        if help
        else [f"diffusion.{other}" for other in TASKS if own is not None and _does(own, other)]
        or ["image.edit"] * (own is not None and bool(edits(own)))
    )
    raise problem_of(
        model,
        by,
        kind,
        f"checkpoints that diffusers has a class for, {what}",
        home=" or ".join(does) or "diffusion.pipeline" * (own is not None),
    )


def _does(cls: Any, task: str) -> bool:
    """Whether a pipeline does a task, by the parameters of its call. It must draw from a prompt,
    and require nothing besides images, as the decoder of a prior does.
    """
    takes = inspect.signature(cls.__call__).parameters
    either = cls.__name__ in OPTIONAL_IMAGE
    wanted = {
        name
        for name, taken in takes.items()
        if taken.default is taken.empty and taken.kind is not taken.VAR_KEYWORD
    }
    if "prompt" not in takes or wanted - {"self", "prompt", "image", "mask_image", "control_image"}:
        return False
    return {
        "text_to_image": "image" not in takes or either,
        "image_to_image": (
            "image" in takes and "mask_image" not in takes and ("strength" in takes or either)
        ),
        "inpaint": "mask_image" in takes,
    }[task]


def edits(cls: Any) -> str:
    """Name the argument of a pipeline's call that is the image to edit; empty if the pipeline does
    not edit by text alone, by the parameters of its call.
    """
    takes = inspect.signature(cls.__call__).parameters
    otherwise = any(name in _OTHERWISE or name.endswith("conditioning_scale") for name in takes)
    return (
        next((name for name in PICTURES if name in takes), "")
        if "prompt" in takes and not otherwise
        else ""
    )


def split_of(model: Model, kind: str, by: str) -> Split:
    """Return how a checkpoint's work is split over three nodes.

    Raises:
        ModelError: its family cannot be split. The message says what it is and which node takes it.
    """
    family = family_of(kind)
    if kind in TAKEN_BY or family not in SPLIT or family == "IF":
        raise problem_of(
            model,
            by,
            kind,
            f"checkpoints of the families {', '.join(sorted(SPLIT.keys() - {'IF'}))}",
        )
    return SPLIT[family]


READS_AS = {
    "Flux2KleinKV": "Flux2Klein",
    "FluxKontext": "Flux",
    "StableDiffusionInstructPix2Pix": "StableDiffusion",
    "StableDiffusionXLInstructPix2Pix": "StableDiffusionXL",
}
"""Families that cannot be split, by the family that reads its text in the same way."""


def check_text(models: Mapping[str, Any], upstream: Mapping[str, Any], by: str) -> None:
    """Refuse, when planning, text that was encoded for another family of models.

    Raises:
        ModelError: the families differ. The message names both.
    """
    model, text = models.get("model"), upstream.get("text")
    read_by = (
        text.models.get("model") if text is not None and text.type_name == "text.encode" else None
    )
    if model is None or read_by is None:
        return
    ours, theirs = (family_of(kind) or kind for kind in (what_is(model), what_is(read_by)))
    if ours != theirs:
        raise flow.ModelError(
            f"the text comes from '{read_by.reference}', of the family {theirs}, and {by}'s model"
            f" '{model.reference}' is of the family {ours}: encode the text with the same model"
        )


def unread_by(
    cls: Any,
    parts: Mapping[str, Any],
    prompt: str,
    negative_prompt: str | None,
    length: int | None = None,
    *,
    what: str = "the prompt",
    convert: Callable[[str, Any], str] | None = None,
) -> str:
    """Say what of a prompt a pipeline will not read, where that is known of its family, and what it
    reads otherwise than other programs; nothing if it reads all.

    Params:
        parts: the checkpoint's, its tokenizers among them.
        length: tokens that are read, where the user wants another number than the family's.
        what: names the prompt in the note.
        convert: writes words that are several vectors as that many words, of a text for a
            tokenizer.
    """
    others = [
        foreign(prompt, what=what),
        foreign(negative_prompt or "", what="the negative prompt"),
    ]
    return "; ".join(
        filter(None, (_cut(cls, parts, prompt, negative_prompt, length, what, convert), *others))
    )


def _cut(
    cls: Any,
    parts: Mapping[str, Any],
    prompt: str,
    negative_prompt: str | None,
    length: int | None,
    what: str,
    convert: Callable[[str, Any], str] | None,
) -> str:
    family = family_of(cls.__name__)
    split = SPLIT.get(READS_AS.get(family, family))
    name = (
        next((name for name in (split.reads, "tokenizer", "tokenizer_2") if name in parts), None)
        if split is not None
        else None
    )
    if split is None or name is None:
        return ""
    takes = inspect.signature(cls.__call__).parameters
    if name != split.reads:
        length = 77
    elif length is None:
        length = (
            takes["max_sequence_length"].default if "max_sequence_length" in takes else split.length
        )
    # An instruction before the prompt is read besides, but counted with one mark too many.
    short = int("complex_human_instruction" in takes)
    # Of a model that reads pictures too, the tokenizer is one of the parts of its processor.
    tokenizer = getattr(parts[name], "tokenizer", parts[name])
    if convert is not None:
        prompt, negative_prompt = (
            convert(prompt, tokenizer),
            convert(negative_prompt or "", tokenizer),
        )
    texts = (
        (what, prompt, length - short, split.before[0]),
        ("the negative prompt", negative_prompt or "", length, split.before[1]),
    )
    return "; ".join(
        filter(
            None,
            (
                unread_words(tokenizer, text, most, what=what, before=before)
                for what, text, most, before in texts
            ),
        )
    )


def unguided_by(cls: Any, given: Mapping[str, Any]) -> str:
    """Say of a negative prompt that a pipeline will not be led by it: those that guide by
    ``true_cfg_scale`` do so above 1 alone.
    """
    takes = inspect.signature(cls.__call__).parameters
    if not given.get("negative_prompt") or "true_cfg_scale" not in takes:
        return ""
    scale = given.get("true_cfg_scale")
    scale = takes["true_cfg_scale"].default if scale is None else scale
    return (
        ""
        if scale > 1
        else "the negative prompt changes nothing: that takes arguments: {true_cfg_scale: 4}"
    )
