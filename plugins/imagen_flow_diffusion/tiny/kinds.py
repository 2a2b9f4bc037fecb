"""The tiny models by kind, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import beside, checkpoints

MAKERS: dict[str, Callable[[Path], Any]] = {
    "aura-flow": checkpoints.aura_flow,
    "chroma": checkpoints.chroma,
    "clipseg": beside.clipseg,
    "cogview": checkpoints.cogview,
    "controlnet": checkpoints.controlnet,
    "controlnet-xl": partial(checkpoints.controlnet, xl=True),
    "ddpm": checkpoints.ddpm,
    "embedding": beside.embedding,
    "esrgan": beside.esrgan,
    "flux": checkpoints.flux,
    "flux-2": checkpoints.flux_2,
    "flux-2-klein": partial(checkpoints.flux_2, klein=True),
    "if-1": checkpoints.deepfloyd,
    "if-2": partial(checkpoints.deepfloyd, stage=2),
    "inpainting": partial(checkpoints.stable_diffusion, class_name="StableDiffusionInpaintPipeline", reads=9),
    "instruct-pix2pix": checkpoints.instruct_pix2pix,
    "ip-adapter": beside.ip_adapter,
    "kandinsky": checkpoints.kandinsky,
    "kandinsky-decoder": partial(checkpoints.kandinsky, half="decoder"),
    "kandinsky-prior": partial(checkpoints.kandinsky, half="prior"),
    "kontext": partial(checkpoints.flux, class_name="FluxKontextPipeline"),
    "latent-upscaler": checkpoints.latent_upscaler,
    "lora": beside.lora,
    "lora-xl": partial(beside.lora, xl=True, text=False),
    "lumina": checkpoints.lumina,
    "pixart": checkpoints.pixart,
    "pixart-sigma": partial(checkpoints.pixart, sigma=True),
    "qwen": checkpoints.qwen_image,
    "qwen-edit": partial(checkpoints.qwen_image, class_name="QwenImageEditPipeline"),
    "qwen-edit-plus": partial(checkpoints.qwen_image, class_name="QwenImageEditPlusPipeline"),
    "sana": checkpoints.sana,
    "sd": checkpoints.stable_diffusion,
    "sd3": checkpoints.stable_diffusion_3,
    "sdxl": checkpoints.stable_diffusion_xl,
    "sdxl-refiner": partial(checkpoints.stable_diffusion_xl, refiner=True),
    "swin2sr": checkpoints.swin2sr,
    "unclip": checkpoints.unclip,
    "upscaler": checkpoints.upscaler,
    "z-image": checkpoints.z_image,
}
