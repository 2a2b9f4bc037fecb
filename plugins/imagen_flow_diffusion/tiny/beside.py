"""The former name of `companions`, which scripts may still import."""

from .companions import (
    LAYERS,
    clip,
    clipseg,
    embedding,
    esrgan,
    flux_controlnet,
    flux_ip_adapter,
    ip_adapter,
    lora,
    qwen_controlnet,
    sana_controlnet,
    sd3_controlnet,
    t2i_adapter,
    union,
)

__all__ = [
    "LAYERS",
    "clip",
    "clipseg",
    "embedding",
    "esrgan",
    "flux_controlnet",
    "flux_ip_adapter",
    "ip_adapter",
    "lora",
    "qwen_controlnet",
    "sana_controlnet",
    "sd3_controlnet",
    "t2i_adapter",
    "union",
]
