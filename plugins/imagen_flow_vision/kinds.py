"""The kinds of models that each node type takes.

By node type: the model types, as their configurations name them, and the classes of transformers
that load each. Listed are those whose image processors work without torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _headed(head: str, **names: str) -> dict[str, tuple[str, ...]]:
    return {kind.replace("__", "-"): (f"{name}{head}",) for kind, name in names.items()}


CLASSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "image.caption": {
        **_headed(
            "ForConditionalGeneration",
            blip__2="Blip2",
            florence2="Florence2",
            llava="Llava",
            paligemma="PaliGemma",
            qwen2_5_vl="Qwen2_5_VL",
            qwen2_vl="Qwen2VL",
            qwen3_vl="Qwen3VL",
        ),
        "blip": ("BlipForConditionalGeneration", "BlipForQuestionAnswering"),
        "git": ("GitForCausalLM",),
        "vision-encoder-decoder": ("VisionEncoderDecoderModel",),
    },
    "image.classify": {
        **_headed(
            "ForImageClassification",
            beit="Beit",
            bit="Bit",
            convnext="ConvNext",
            convnextv2="ConvNextV2",
            cvt="Cvt",
            dinov2="Dinov2",
            dinov2_with_registers="Dinov2WithRegisters",
            efficientnet="EfficientNet",
            focalnet="FocalNet",
            hiera="Hiera",
            ijepa="IJepa",
            mobilenet_v1="MobileNetV1",
            mobilenet_v2="MobileNetV2",
            mobilevit="MobileViT",
            mobilevitv2="MobileViTV2",
            poolformer="PoolFormer",
            pvt="Pvt",
            pvt_v2="PvtV2",
            regnet="RegNet",
            resnet="ResNet",
            segformer="Segformer",
            swiftformer="SwiftFormer",
            swin="Swin",
            swinv2="Swinv2",
            vit="ViT",
            vit_msn="ViTMSN",
        ),
        "data2vec-vision": ("Data2VecVisionForImageClassification",),
        "deit": ("DeiTForImageClassificationWithTeacher", "DeiTForImageClassification"),
        "levit": ("LevitForImageClassificationWithTeacher", "LevitForImageClassification"),
        "clip": ("CLIPModel", "CLIPForImageClassification"),
        "chinese_clip": ("ChineseCLIPModel",),
        "siglip": ("SiglipModel", "SiglipForImageClassification"),
    },
    "image.detect": {
        **_headed(
            "ForObjectDetection",
            conditional_detr="ConditionalDetr",
            d_fine="DFine",
            dab__detr="DabDetr",
            deformable_detr="DeformableDetr",
            detr="Detr",
            grounding__dino="GroundingDino",
            mm__grounding__dino="MMGroundingDino",
            owlv2="Owlv2",
            owlvit="OwlViT",
            rt_detr="RTDetr",
            rt_detr_v2="RTDetrV2",
            table__transformer="TableTransformer",
            yolos="Yolos",
        ),
    },
    "image.depth": _headed(
        "ForDepthEstimation",
        depth_anything="DepthAnything",
        dpt="DPT",
        glpn="GLPN",
        zoedepth="ZoeDepth",
    ),
    "image.pose": {"vitpose": ("VitPoseForPoseEstimation",)},
    "image.segment": {
        **_headed(
            "ForSemanticSegmentation",
            beit="Beit",
            dpt="DPT",
            mobilenet_v2="MobileNetV2",
            mobilevit="MobileViT",
            segformer="Segformer",
            upernet="UperNet",
        ),
        "detr": ("DetrForSegmentation",),
        "mask2former": ("Mask2FormerForUniversalSegmentation",),
        "maskformer": ("MaskFormerForInstanceSegmentation",),
    },
    "mask.find": {"clipseg": ("CLIPSegForImageSegmentation",)},
    "mask.select": {"sam": ("SamModel",), "sam_hq": ("SamHQModel",)},
}


def named_class(config: Any) -> str:
    """Return the class that a configuration names; empty if it names none."""
    named = config.get("architectures") if isinstance(config, Mapping) else None
    return str(named[0]) if isinstance(named, list) and named else ""


#: Model types whose image processors compute with scipy.
NEEDS_SCIPY = ("owlv2", "vitpose")
