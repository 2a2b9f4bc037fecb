"""The tiny models by kind, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import checkpoints, companions, editors, unclip, wordless

MAKERS: dict[str, Callable[[Path], Any]] = {
    "aura-flow": checkpoints.aura_flow,
    "chroma": checkpoints.chroma,
    "clip": companions.clip,
    "clipseg": companions.clipseg,
    "cogview": checkpoints.cogview,
    "controlnet": checkpoints.controlnet,
    "controlnet-flux": partial(companions.flux_controlnet, modes=7),
    "controlnet-qwen": companions.qwen_controlnet,
    "controlnet-sana": companions.sana_controlnet,
    "controlnet-sd3": companions.sd3_controlnet,
    "controlnet-union": companions.union,
    "controlnet-xl": partial(checkpoints.controlnet, xl=True),
    "ddpm": checkpoints.ddpm,
    "dit": wordless.dit,
    "embedding": companions.embedding,
    "esrgan": companions.esrgan,
    "flux": checkpoints.flux,
    "flux-2": checkpoints.flux_2,
    "flux-2-klein": partial(checkpoints.flux_2, klein=True),
    "flux-control": partial(checkpoints.flux, class_name="FluxControlPipeline", reads=128),
    "flux-fill": partial(checkpoints.flux, class_name="FluxFillPipeline", reads=384),
    "hunyuan-dit": checkpoints.hunyuan_dit,
    "if-1": checkpoints.deepfloyd,
    "if-2": partial(checkpoints.deepfloyd, stage=2),
    "inpainting": partial(
        checkpoints.stable_diffusion, class_name="StableDiffusionInpaintPipeline", reads=9
    ),
    "instruct-pix2pix": checkpoints.instruct_pix2pix,
    "instruct-pix2pix-xl": partial(checkpoints.stable_diffusion_xl, edits=True),
    "ip-adapter": companions.ip_adapter,
    "ip-adapter-flux": companions.flux_ip_adapter,
    "kandinsky": checkpoints.kandinsky,
    "kandinsky-3": unclip.kandinsky_3,
    "kandinsky-control": partial(
        unclip.kandinsky_decoder, class_name="KandinskyV22ControlnetPipeline"
    ),
    "kandinsky-decoder": partial(checkpoints.kandinsky, half="decoder"),
    "kandinsky-inpaint": partial(
        unclip.kandinsky_decoder, class_name="KandinskyV22InpaintPipeline"
    ),
    "kandinsky-prior": partial(checkpoints.kandinsky, half="prior"),
    "kontext": partial(checkpoints.flux, class_name="FluxKontextPipeline"),
    "latent-consistency": checkpoints.latent_consistency,
    "latent-upscaler": checkpoints.latent_upscaler,
    "longcat-edit": editors.longcat,
    "lora": companions.lora,
    "lora-flux": partial(companions.lora, base=checkpoints.flux, parts=["transformer"]),
    "lora-sd3": partial(
        companions.lora, base=checkpoints.stable_diffusion_3, parts=["transformer"]
    ),
    "lora-xl": partial(companions.lora, base=checkpoints.stable_diffusion_xl, parts=["unet"]),
    "lumina": checkpoints.lumina,
    "marigold-depth": wordless.marigold,
    "marigold-normals": partial(wordless.marigold, estimates="normals"),
    "pixart": checkpoints.pixart,
    "pixart-sigma": partial(checkpoints.pixart, sigma=True),
    "qwen": checkpoints.qwen_image,
    "qwen-2": editors.qwen_image_21,
    "qwen-edit": partial(checkpoints.qwen_image, class_name="QwenImageEditPipeline"),
    "qwen-edit-plus": partial(checkpoints.qwen_image, class_name="QwenImageEditPlusPipeline"),
    "sana": checkpoints.sana,
    "sana-sprint": partial(checkpoints.sana, sprint=True),
    "sd": checkpoints.stable_diffusion,
    "sd3": checkpoints.stable_diffusion_3,
    "sdxl": checkpoints.stable_diffusion_xl,
    "sdxl-refiner": partial(checkpoints.stable_diffusion_xl, refiner=True),
    "stable-cascade": partial(unclip.stable_cascade, half="decoder"),
    "stable-cascade-prior": partial(unclip.stable_cascade, half="prior"),
    "stable-unclip": unclip.stable_unclip,
    "stable-video": wordless.stable_video,
    "swin2sr": checkpoints.swin2sr,
    "t2i": companions.t2i_adapter,
    "t2i-xl": partial(companions.t2i_adapter, xl=True),
    "unclip": checkpoints.unclip,
    "unclip-variation": unclip.unclip_variation,
    "upscaler": checkpoints.upscaler,
    "z-image": checkpoints.z_image,
}
