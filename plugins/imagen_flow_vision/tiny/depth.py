"""Tiny models that estimate depth."""

from __future__ import annotations

from pathlib import Path

from .parts import SIDES, VISION, save


def depth_anything(folder: Path, *, metric: bool = False) -> None:
    import transformers as t

    config = t.DepthAnythingConfig(
        backbone_config=t.Dinov2Config(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=28,
            patch_size=14,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
        ),
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="metric" if metric else "relative",
        max_depth=20 if metric else 1,
    )
    processor = t.DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    save(folder, "DepthAnythingForDepthEstimation", config, processor)


def dpt(folder: Path) -> None:
    import transformers as t

    config = t.DPTConfig(
        **{**VISION, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    save(folder, "DPTForDepthEstimation", config, t.DPTImageProcessorPil(size=SIDES))


def glpn(folder: Path) -> None:
    import transformers as t

    config = t.GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
    )
    save(folder, "GLPNForDepthEstimation", config, t.GLPNImageProcessorPil())


def zoedepth(folder: Path) -> None:
    import transformers as t

    config = t.ZoeDepthConfig(
        backbone_config=t.BeitConfig(
            **{**VISION, "num_hidden_layers": 4},
            use_relative_position_bias=True,
            use_absolute_position_embeddings=False,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
        ),
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=8,
        num_relative_features=8,
    )
    processor = t.ZoeDepthImageProcessorPil(size=SIDES, ensure_multiple_of=8)
    save(folder, "ZoeDepthForDepthEstimation", config, processor)
