"""Choose the tiny model to use instead of another, by its class if it is on this machine, else by
its name; and keep those that were made.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagen_flow as flow
from imagen_flow import loaders

from ..checkpoints import single_file

MAKE = 6
"""Increased when tiny models change, so that those kept from before are not used."""

BY_NAME = (
    (r"kandinsky.*control", "kandinsky-control"),
    (r"kandinsky.*inpaint", "kandinsky-inpaint"),
    (r"kandinsky-?3", "kandinsky-3"),
    (r"karlo.*variation", "unclip-variation"),
    (r"stable-diffusion-2-1-unclip", "stable-unclip"),
    (r"stable-cascade-prior", "stable-cascade-prior"),
    (r"stable-cascade", "stable-cascade"),
    (r"stable-video", "stable-video"),
    (r"/dit-xl", "dit"),
    (r"marigold.*normals", "marigold-normals"),
    (r"marigold", "marigold-depth"),
    (r"/if-ii-", "if-2"),
    (r"/if-i-|deepfloyd", "if-1"),
    (r"flux.*ip[-_]adapter", "ip-adapter-flux"),
    (r"ip[-_]adapter", "ip-adapter"),
    (r"\bt2i.*xl", "t2i-xl"),
    (r"\bt2i", "t2i"),
    (r"union.*xl|xl.*union", "controlnet-union"),
    (r"control.*xl|xl.*control", "controlnet-xl"),
    (r"flux.*control", "controlnet-flux"),
    (r"sd3.*control", "controlnet-sd3"),
    (r"qwen.*control", "controlnet-qwen"),
    (r"sana.*control", "controlnet-sana"),
    (r"control", "controlnet"),
    (r"lora.*xl|xl.*lora", "lora-xl"),
    (r"lora.*flux|flux.*lora", "lora-flux"),
    (r"lora.*sd-?3|sd-?3.*lora", "lora-sd3"),
    (r"lora", "lora"),
    (r"textual|inversion|embedding|easynegative|sd-concepts-library", "embedding"),
    (r"ddpm", "ddpm"),
    (r"swin2sr", "swin2sr"),
    (r"esrgan|ultrasharp|nomos", "esrgan"),
    (r"latent-upscaler", "latent-upscaler"),
    (r"x4-upscaler", "upscaler"),
    (r"(xl|sdxl).*instruct-?pix2pix|cosxl.*edit", "instruct-pix2pix-xl"),
    (r"instruct-?pix2pix", "instruct-pix2pix"),
    (r"kontext", "kontext"),
    (r"qwen-image-edit-\d{4}", "qwen-edit-plus"),
    (r"qwen-image-edit", "qwen-edit"),
    (r"qwen-?image-2", "qwen-2"),
    (r"qwen-?image", "qwen"),
    (r"longcat-image-edit", "longcat-edit"),
    (r"z-image", "z-image"),
    (r"chroma", "chroma"),
    (r"lumina", "lumina"),
    (r"aura-?flow", "aura-flow"),
    (r"cogview-?4", "cogview"),
    (r"flux[-.]?2.*klein", "flux-2-klein"),
    (r"flux[-.]?2", "flux-2"),
    (r"flux.*(canny|depth)", "flux-control"),
    (r"flux.*fill", "flux-fill"),
    (r"flux", "flux"),
    (r"refiner", "sdxl-refiner"),
    (r"sdxl|stable-diffusion-xl|[-_]xl\b", "sdxl"),
    (r"stable-diffusion-3|sd3", "sd3"),
    (r"pixart.*sigma", "pixart-sigma"),
    (r"pixart", "pixart"),
    (r"sana.*sprint", "sana-sprint"),
    (r"sana", "sana"),
    (r"hunyuan-?dit", "hunyuan-dit"),
    (r"\blcm[-_]dreamshaper", "latent-consistency"),
    (r"kandinsky.*prior", "kandinsky-prior"),
    (r"kandinsky.*decoder", "kandinsky-decoder"),
    (r"kandinsky", "kandinsky"),
    (r"karlo|unclip", "unclip"),
    (r"clipseg", "clipseg"),
    (r"(?<!chinese-)\bclip-(vit|rn|gmp|convnext)|fashion-?clip", "clip"),
    (r"inpaint", "inpainting"),
    (r"stable-diffusion(?!-safety)|sd-?1|sd-?v?1|sd-?2|sd-turbo|dreamshaper|realistic", "sd"),
)
"""Kinds by words in a model's name, the more specific ones first."""

BY_CLASS = {
    "AuraFlowPipeline": "aura-flow",
    "CLIPModel": "clip",
    "CLIPSegForImageSegmentation": "clipseg",
    "ChromaPipeline": "chroma",
    "CogView4Pipeline": "cogview",
    "ControlNetUnionModel": "controlnet-union",
    "DDPMPipeline": "ddpm",
    "DiTPipeline": "dit",
    "Flux2KleinPipeline": "flux-2-klein",
    "Flux2Pipeline": "flux-2",
    "FluxControlNetModel": "controlnet-flux",
    "FluxControlPipeline": "flux-control",
    "FluxFillPipeline": "flux-fill",
    "FluxKontextPipeline": "kontext",
    "FluxPipeline": "flux",
    "HunyuanDiTPipeline": "hunyuan-dit",
    "IFPipeline": "if-1",
    "IFSuperResolutionPipeline": "if-2",
    "Kandinsky3Pipeline": "kandinsky-3",
    "KandinskyV22CombinedPipeline": "kandinsky",
    "KandinskyV22ControlnetPipeline": "kandinsky-control",
    "KandinskyV22InpaintPipeline": "kandinsky-inpaint",
    "KandinskyV22Pipeline": "kandinsky-decoder",
    "KandinskyV22PriorPipeline": "kandinsky-prior",
    "LatentConsistencyModelPipeline": "latent-consistency",
    "LongCatImageEditPipeline": "longcat-edit",
    "Lumina2Pipeline": "lumina",
    "Lumina2Text2ImgPipeline": "lumina",
    "MarigoldDepthPipeline": "marigold-depth",
    "MarigoldNormalsPipeline": "marigold-normals",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart-sigma",
    "QwenImage21Pipeline": "qwen-2",
    "QwenImageEditPipeline": "qwen-edit",
    "QwenImageEditPlusPipeline": "qwen-edit-plus",
    "QwenImagePipeline": "qwen",
    "QwenImageControlNetModel": "controlnet-qwen",
    "SD3ControlNetModel": "controlnet-sd3",
    "SanaControlNetModel": "controlnet-sana",
    "SanaPipeline": "sana",
    "SanaSprintPipeline": "sana-sprint",
    "StableCascadeDecoderPipeline": "stable-cascade",
    "StableCascadePriorPipeline": "stable-cascade-prior",
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusionInpaintPipeline": "inpainting",
    "StableDiffusionInstructPix2PixPipeline": "instruct-pix2pix",
    "StableDiffusionLatentUpscalePipeline": "latent-upscaler",
    "StableDiffusionPipeline": "sd",
    "StableDiffusionUpscalePipeline": "upscaler",
    "StableDiffusionXLImg2ImgPipeline": "sdxl-refiner",
    "StableDiffusionXLInstructPix2PixPipeline": "instruct-pix2pix-xl",
    "StableDiffusionXLPipeline": "sdxl",
    "StableUnCLIPImg2ImgPipeline": "stable-unclip",
    "StableVideoDiffusionPipeline": "stable-video",
    "Swin2SRForImageSuperResolution": "swin2sr",
    "UnCLIPImageVariationPipeline": "unclip-variation",
    "UnCLIPPipeline": "unclip",
    "ZImagePipeline": "z-image",
}
"""Kinds by the class that a checkpoint names."""


BY_FILE = {
    "flux-depth": "flux-control",
    "flux-dev": "flux",
    "flux-fill": "flux-fill",
    "flux-schnell": "flux",
    "inpainting": "inpainting",
    "inpainting_v2": "inpainting",
    "instruct-pix2pix": "instruct-pix2pix",
    "playground-v2-5": "sdxl",
    "sd3": "sd3",
    "sd35_large": "sd3",
    "sd35_medium": "sd3",
    "upscale": "upscaler",
    "v1": "sd",
    "v2": "sd",
    "xl_base": "sdxl",
    "xl_inpaint": "sdxl",
    "xl_refiner": "sdxl-refiner",
}
"""Kinds by what diffusers calls a checkpoint in one file, by its header."""


def kind_of(reference: str, at: Path | None) -> str:
    """Return the kind of model of a reference; empty if it cannot be told."""
    if at is not None and at.is_dir():
        index, config = _read(at / "model_index.json"), _read(at / "config.json")
        named = (
            index.get("_class_name")
            or config.get("_class_name")
            or next(iter(config.get("architectures") or []), "")
        )
        if named == "ControlNetModel":
            return (
                "controlnet-xl"
                if config.get("addition_embed_type") == "text_time"
                else "controlnet"
            )
        if named == "T2IAdapter":
            return "t2i-xl" if str(config.get("adapter_type")).endswith("_xl") else "t2i"
        if (
            named == "StableDiffusionPipeline"
            and _read(at / "unet" / "config.json").get("in_channels") == 9
        ):
            return "inpainting"
        if named in BY_CLASS:
            return BY_CLASS[str(named)]
    if (
        at is not None
        and at.suffix == ".safetensors"
        and (of_file := single_file.kind_of(single_file.header_of(flow.Model(at))))
    ):
        return BY_FILE[of_file]
    return next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stand_in(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return the path of the tiny model to use instead of another, and make it if it is not kept
    yet; None if its kind is not known.
    """
    kind = kind_of(reference, at)
    if not kind:
        return None
    made = _inside(
        loaders.keep_tiny(
            folder
            / f"{MAKE}-diffusers-{version('diffusers')}-transformers-{version('transformers')}",
            kind,
            _make,
        )
    )
    # A folder or file of a repository, if the tiny one has it too.
    within = reference.partition("@")[2].partition("/")[2]
    return made / within if within and (made / within).exists() else made


def _inside(kept: Path) -> Path:
    """Return the path of a kind's model: its folder, or a file in it."""
    kind = kept.name
    return (
        kept / f"{kind}.safetensors"
        if kind.startswith("lora") or kind in ("embedding", "esrgan")
        else kept
    )


def _make(kept: Path) -> None:
    from ..checkpoints.folder import quiet
    from .kinds import MAKERS

    with quiet():
        MAKERS[kept.name](_inside(kept))
