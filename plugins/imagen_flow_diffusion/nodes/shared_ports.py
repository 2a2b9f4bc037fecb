"""Ports that several nodes of this plugin have in common, each group declared once."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import TypedDict

from imagen_flow import Json, List, Model, Range
from imagen_flow.loaders import Leased

from ..adapters.attached import Embedding, ImageEncoder, IPAdapterUse, LoRAUse
from ..adapters.controls import ControlUse
from ..adapters.files import Adapter
from ..loading.replaced_parts import OtherAutoencoder, OtherDenoiser

__all__ = [
    "RENAMED",
    "RENAMED_LORAS",
    "Conditioning",
    "Drawing",
    "LoRAs",
    "Prompting",
    "ReplacedParts",
    "Sampler",
    "Sampling",
]


class Sampler(TypedDict, total=False):
    """How it is sampled.

    Params:
        num_inference_steps: denoising steps. Left out: what suits the model, as for the others.
        guidance_scale: how far to go beyond the unguided picture; 1 is off.
        sampler, sampler_settings: by diffusers' name, e.g. ``DPMSolverMultistepScheduler`` with
            ``{use_karras_sigmas: true}``.
        arguments: any other argument of the pipeline, by its own name: ``{true_cfg_scale: 4}``.
    """

    num_inference_steps: Annotated[int, Range(1, 1000)]
    guidance_scale: Annotated[float, Range(0, 100)]
    sampler: str
    sampler_settings: Json
    arguments: Json


class Sampling(Sampler, total=False):
    """How it is sampled, and at which size.

    Params:
        width, height: in pixels. Left out: the model's own size, or that of the picture.
        guidance_rescale: against over-exposure under strong guidance (arXiv:2305.08891).
    """

    width: Annotated[int, Range(8, 16384)]
    height: Annotated[int, Range(8, 16384)]
    guidance_rescale: Annotated[float, Range(0, 1)]


class LoRAs(TypedDict, total=False):
    """Low-rank changes.

    Inputs:
        loras: low-rank changes to the model's weights, for this call only; ``weight`` is how much
            of each: ``[{model: ./style.safetensors, weight: 0.8}]``.
    """

    loras: List[LoRAUse]


class Conditioning(LoRAs, total=False):
    """What the picture is held to, besides words.

    Inputs:
        controls: drawings that the picture is held to, and the networks that read them: ControlNets
            or T2I-Adapters, made for the same family as the model. ``scale`` is how much of each,
            ``from`` and ``to`` the part of the denoising (0 to 1), ``mode`` the number of the
            drawing's kind for networks that read several kinds, as their authors count them. One
            union ControlNet that reads several drawings is several controls with the same model. A
            checkpoint that is held to a drawing by itself (FLUX Canny, Depth) takes one control
            without ``model``; a ControlNet that fills in reads the picture and the mask, and takes
            no ``image``.
        ip_adapters: adapters that read pictures as if they were prompts. ``image`` is a picture, or
            a list of them that is read as one prompt; ``scale`` how much of each; ``file`` the file
            of weights in the adapter's folder, where there are several:
            ``models/ip-adapter_sd15.safetensors``.
        ip_encoder: what reads those pictures, for adapters that do not bring it: CLIP's image
            encoder for FLUX.
    """

    controls: List[ControlUse]
    ip_adapters: List[IPAdapterUse]
    ip_encoder: Annotated[Any, Leased(ImageEncoder)]


class Prompting(TypedDict, total=False):
    """What is read beside the prompt.

    Inputs:
        embeddings: textual inversions; the prompt names each by its file's name in angle brackets:
            ``<cat-toy>``.
    Params:
        negative_prompt: what guidance leads away from.
        clip_skip: layers of CLIP to leave out, from the last.
    """

    embeddings: List[Annotated[Adapter, Leased(Embedding)]]
    negative_prompt: str
    clip_skip: Annotated[int, Range(1, 12)]


class ReplacedParts(TypedDict, total=False):
    """Parts in the place of the checkpoint's own.

    Inputs:
        denoiser, autoencoder: in the place of the checkpoint's own, which then is not loaded: a
            part's folder or one file of its weights; a denoiser also as GGUF.
    """

    denoiser: Annotated[Model, Leased(OtherDenoiser)]
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)]


class Drawing(Sampling, Conditioning, Prompting, ReplacedParts, total=False):
    """All that a whole checkpoint draws with."""


#: What is written in the place of ports that were lists beside `loras`.
RENAMED_LORAS = {"lora_weights": "loras: [{model: …, weight: …}]"}

_CONTROLS = "controls: [{model: …, image: …, scale: …, from: …, to: …, mode: …}]"
_IP_ADAPTERS = "ip_adapters: [{model: …, image: …, scale: …, file: …}]"

#: What is written in the place of ports that were lists beside each other.
RENAMED = {
    **RENAMED_LORAS,
    **dict.fromkeys(
        (
            "controlnets",
            "control_images",
            "control_scales",
            "control_starts",
            "control_ends",
            "control_modes",
        ),
        _CONTROLS,
    ),
    **dict.fromkeys(("ip_adapter_images", "ip_adapter_scales", "ip_adapter_files"), _IP_ADAPTERS),
}
