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
        num_inference_steps: denoising steps. All parameters default to the pipeline's own values.
        guidance_scale: the strength of classifier-free guidance; 1 is off.
        sampler, sampler_settings: a diffusers class and settings of its configuration, e.g.
            ``DPMSolverMultistepScheduler`` with ``{use_karras_sigmas: true}``.
        arguments: any other arguments of the pipeline, by name: ``{true_cfg_scale: 4}``.
    """

    num_inference_steps: Annotated[int, Range(1, 1000)]
    guidance_scale: Annotated[float, Range(0, 100)]
    sampler: str
    sampler_settings: Json
    arguments: Json


class Sampling(Sampler, total=False):
    """How it is sampled, and at which size.

    Params:
        width, height: in pixels. Default: the model's own size, or that of the picture.
        guidance_rescale: reduces over-exposure at high guidance (arXiv:2305.08891).
    """

    width: Annotated[int, Range(8, 16384)]
    height: Annotated[int, Range(8, 16384)]
    guidance_rescale: Annotated[float, Range(0, 1)]


class LoRAs(TypedDict, total=False):
    """LoRAs.

    Inputs:
        loras: LoRAs, applied for this call only, each with its ``weight``:
            ``[{model: ./style.safetensors, weight: 0.8}]``.
    """

    loras: List[LoRAUse]


class Conditioning(LoRAs, total=False):
    """What conditions the picture, besides the prompt.

    Inputs:
        controls: ControlNets or T2I-Adapters of the same family as the model, each with its control
            ``image``. ``scale`` is the conditioning scale, ``from`` and ``to`` the range of the
            denoising (0 to 1) in which it applies, and ``mode`` the control mode of a union
            ControlNet, by its authors' numbering. To give several control images to one union
            ControlNet, write several controls with the same model. A checkpoint with built-in
            control (FLUX Canny, Depth) takes one control without ``model``; an inpainting
            ControlNet reads the picture and the mask, and takes no ``image``.
        ip_adapters: IP-Adapters. ``image`` is an image prompt, or a list of images that form one;
            ``scale`` its strength; ``file`` the weights file in the adapter's folder, if there are
            several: ``models/ip-adapter_sd15.safetensors``.
        ip_encoder: the image encoder for IP-Adapters that do not include one, such as CLIP for
            those of FLUX.
    """

    controls: List[ControlUse]
    ip_adapters: List[IPAdapterUse]
    ip_encoder: Annotated[Any, Leased(ImageEncoder)]


class Prompting(TypedDict, total=False):
    """Text inputs besides the prompt.

    Inputs:
        embeddings: textual inversions; the word for the prompt is the file's name in angle
            brackets: ``<cat-toy>``.
    Params:
        negative_prompt: what the picture should not show.
        clip_skip: the number of last CLIP layers to skip.
    """

    embeddings: List[Annotated[Adapter, Leased(Embedding)]]
    negative_prompt: str
    clip_skip: Annotated[int, Range(1, 12)]


class ReplacedParts(TypedDict, total=False):
    """Parts that replace the checkpoint's own.

    Inputs:
        denoiser, autoencoder: replace the checkpoint's own part, which is then not loaded: the
            folder of a part, or a single weights file; for a denoiser also GGUF.
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
