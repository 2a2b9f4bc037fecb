"""Tiny models that find things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import tokenizers
from .parts import SIDES, SIZE, VISION, labels, resnet_backbone, save, swin_backbone, words

TRANSFORMER = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
    "num_queries": 12,
}


def detr(folder: Path) -> None:
    import transformers as t

    config = t.DetrConfig(backbone_config=resnet_backbone(), **TRANSFORMER, **labels())
    processor = t.DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48})
    save(folder, "DetrForObjectDetection", config, processor)


def rt_detr(folder: Path) -> None:
    import transformers as t

    config = t.RTDetrConfig(
        backbone_config=t.RTDetrResNetConfig(
            embedding_size=4,
            hidden_sizes=[4, 8, 8, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 8, 16],
        encoder_hidden_dim=16,
        decoder_in_channels=[16, 16, 16],
        decoder_n_points=2,
        **TRANSFORMER,
        **labels(),
    )
    processor = t.RTDetrImageProcessorPil(size={"height": 64, "width": 64})
    save(folder, "RTDetrForObjectDetection", config, processor)


def yolos(folder: Path) -> None:
    import transformers as t

    config = t.YolosConfig(**{**VISION, "image_size": [32, 32]}, num_detection_tokens=8, **labels())
    processor = t.YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48})
    save(folder, "YolosForObjectDetection", config, processor)


def owlvit(folder: Path, version: str = "") -> None:
    import transformers as t

    tokenizer = tokenizers.clip(16)
    processor = getattr(t, f"Owl{version or 'ViT'}Processor")(
        image_processor=getattr(t, f"Owl{version or 'ViT'}ImageProcessorPil")(size=SIDES),
        tokenizer=tokenizer,
    )
    config = getattr(t, f"Owl{version or 'ViT'}Config")(
        text_config={**words(tokenizer), "max_position_embeddings": 16},
        vision_config=VISION,
        projection_dim=16,
    )
    save(folder, f"Owl{version or 'ViT'}ForObjectDetection", config, processor)


def owlv2(folder: Path) -> None:
    owlvit(folder, "v2")


def grounding_dino(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bert(256)
    text: dict[str, Any] = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    config = t.GroundingDinoConfig(
        backbone_config=swin_backbone(),
        text_config=t.BertConfig(**text),
        num_feature_levels=4,
        encoder_n_points=2,
        decoder_n_points=2,
        disable_custom_kernels=True,
        **{**TRANSFORMER, "d_model": 32},
    )
    processor = t.GroundingDinoProcessor(
        image_processor=t.GroundingDinoImageProcessorPil(
            size={"shortest_edge": 32, "longest_edge": 48}
        ),
        tokenizer=tokenizer,
    )
    save(folder, "GroundingDinoForObjectDetection", config, processor)


def vitpose(folder: Path) -> None:
    """ViTPose, which finds the joints of people."""
    import transformers as t

    joints = (
        "Nose L_Eye R_Eye L_Ear R_Ear L_Shoulder R_Shoulder L_Elbow R_Elbow L_Wrist R_Wrist L_Hip"
        " R_Hip L_Knee R_Knee L_Ankle R_Ankle"
    ).split()
    config = t.VitPoseConfig(
        backbone_config=t.VitPoseBackboneConfig(
            image_size=[64, 48],
            patch_size=[16, 16],
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            out_indices=[2],
        ),
        id2label=dict(enumerate(joints)),
        label2id={joint: number for number, joint in enumerate(joints)},
    )
    processor = t.VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    save(folder, "VitPoseForPoseEstimation", config, processor, spread=0.1)
