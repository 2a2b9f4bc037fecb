"""Small models of the real classes with random weights, for ``--tiny`` and the tests: chosen by the
configuration of the model that they replace, or by its name, and kept.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

from imagen_flow.loaders import keep_tiny

from ..kinds import named_class

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

BY_NAME = (
    (r"blip.*vqa", "blip-vqa"),
    (r"/blip-?2|blip2", "blip-2"),
    (r"/blip-", "blip"),
    (r"/git-(base|large)", "git"),
    (r"vit-gpt2", "vit-gpt2"),
    (r"florence-2", "florence-2"),
    (r"llava", "llava"),
    (r"qwen2-vl", "qwen2-vl"),
    (r"qwen2\.5-vl", "qwen2.5-vl"),
    (r"qwen3-vl", "qwen3-vl"),
    (r"paligemma", "paligemma"),
    (r"vitpose", "vitpose"),
    (r"/sam-?hq|/sam_hq|sam-hq", "sam-hq"),
    (r"/sam-vit|slimsam", "sam"),
    (r"segformer|upernet|ade20?k?-?\d*-\d+$|segmentation", "segformer"),
    (r"mask2former|maskformer", "mask2former"),
    (r"detr.*panoptic", "detr-segments"),
    (r"depth-anything.*metric", "depth-anything-metric"),
    (r"depth-anything", "depth-anything"),
    (r"zoe-?depth", "zoedepth"),
    (r"glpn", "glpn"),
    (r"/dpt", "dpt"),
    (r"grounding-dino", "grounding-dino"),
    (r"owl-?v2", "owlv2"),
    (r"owl-?vit", "owlvit"),
    (r"rt-?detr|d-?fine", "rt-detr"),
    (r"yolos", "yolos"),
    (r"\bdetr|/detr|table-transformer", "detr"),
    (r"siglip", "siglip"),
    (r"chinese-clip", "chinese-clip"),
    (r"openai/clip-vit", "clip"),
    (r"resnet-(18|26|34|50|101|152)$", "resnet"),
    (r"(convnext|swin|dinov2|deit|beit|vit)-?\w*.*(-224|-384|imagenet|1k)", "vit"),
)
"""Kinds by words in a model's name, the more specific ones first."""

BY_CLASS = {
    "Blip2ForConditionalGeneration": "blip-2",
    "BlipForConditionalGeneration": "blip",
    "BlipForQuestionAnswering": "blip-vqa",
    "Florence2ForConditionalGeneration": "florence-2",
    "GitForCausalLM": "git",
    "LlavaForConditionalGeneration": "llava",
    "PaliGemmaForConditionalGeneration": "paligemma",
    "Qwen2VLForConditionalGeneration": "qwen2-vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2.5-vl",
    "Qwen3VLForConditionalGeneration": "qwen3-vl",
    "VisionEncoderDecoderModel": "vit-gpt2",
    "CLIPModel": "clip",
    "ChineseCLIPModel": "chinese-clip",
    "DetrForSegmentation": "detr-segments",
    "Mask2FormerForUniversalSegmentation": "mask2former",
    "MaskFormerForInstanceSegmentation": "mask2former",
    "SamHQModel": "sam-hq",
    "SamModel": "sam",
    "DPTForDepthEstimation": "dpt",
    "GLPNForDepthEstimation": "glpn",
    "ZoeDepthForDepthEstimation": "zoedepth",
    "GroundingDinoForObjectDetection": "grounding-dino",
    "MMGroundingDinoForObjectDetection": "grounding-dino",
    "Owlv2ForObjectDetection": "owlv2",
    "OwlViTForObjectDetection": "owlvit",
    "RTDetrForObjectDetection": "rt-detr",
    "ResNetForImageClassification": "resnet",
    "SiglipModel": "siglip",
    "VitPoseForPoseEstimation": "vitpose",
    "YolosForObjectDetection": "yolos",
}
"""Kinds by the class that a configuration names."""

BY_HEAD = {
    "ForImageClassification": "vit",
    "ForObjectDetection": "detr",
    "ForDepthEstimation": "depth-anything",
}
"""Kinds by what that class is for."""


def stand_in(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return the path of the tiny model to use instead of another, and make it if it is not kept
    yet; None if its kind is not known.
    """
    if not (kind := kind_of(reference, at)):
        return None
    return keep_tiny(folder / f"{MAKE}-vision-transformers-{version('transformers')}", kind, _make)


def kind_of(reference: str, at: Path | None) -> str:
    """Return the kind of tiny model to use for a reference; empty if it cannot be told."""
    if at is None:
        return next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), "")
    try:
        named = named_class(json.loads((at / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    return BY_CLASS.get(named) or next(
        (kind for head, kind in BY_HEAD.items() if head in named), ""
    )


def _make(kept: Path) -> None:
    from .makers import MAKERS

    MAKERS[kept.name](kept)
