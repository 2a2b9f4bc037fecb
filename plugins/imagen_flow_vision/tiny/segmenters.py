"""Tiny models that divide a picture into regions."""

from __future__ import annotations

from pathlib import Path

from .detectors import TRANSFORMER
from .parts import labels, resnet_backbone, save, swin_backbone


def segformer(folder: Path) -> None:
    import transformers as t

    config = t.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        **labels(),
    )
    processor = t.SegformerImageProcessorPil(size={"height": 64, "width": 64})
    save(folder, "SegformerForSemanticSegmentation", config, processor)


def mask2former(folder: Path) -> None:
    import transformers as t

    config = t.Mask2FormerConfig(
        backbone_config=swin_backbone(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=10,
        **labels(),
    )
    processor = t.Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}, size_divisor=32)
    save(folder, "Mask2FormerForUniversalSegmentation", config, processor)


def detr(folder: Path) -> None:
    import transformers as t

    config = t.DetrConfig(
        backbone_config=resnet_backbone(),
        **{**TRANSFORMER, "d_model": 64, "encoder_attention_heads": 8},
        **labels(),
    )
    processor = t.DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48})
    save(folder, "DetrForSegmentation", config, processor)


def sam(folder: Path, *, family: str = "Sam") -> None:
    import transformers as t

    config = getattr(t, f"{family}Config")(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "num_pos_feats": 8,
            "mlp_dim": 16,
            "window_size": 0,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
            **({"vit_dim": 16} if family == "SamHQ" else {}),
        },
    )
    processor = getattr(t, f"{family}Processor")(
        t.SamImageProcessorPil(
            size={"longest_edge": 64},
            pad_size={"height": 64, "width": 64},
            mask_size={"longest_edge": 16},
            mask_pad_size={"height": 16, "width": 16},
        )
    )
    save(folder, f"{family}Model", config, processor)
