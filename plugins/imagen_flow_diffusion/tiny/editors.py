"""Tiny checkpoints of later kinds that edit by words alone."""

from __future__ import annotations

from pathlib import Path

from . import parts as p
from .checkpoints import seeded, write


def qwen_image_21(folder: Path) -> Path:
    """Qwen-Image 2.1, which draws from words, and from words and pictures."""
    from diffusers import (
        AutoencoderKLQwenImage21,
        FlowMatchEulerDiscreteScheduler,
        QwenImage21Transformer2DModel,
    )
    from transformers import (
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    seeded(20)
    tokenizer = p.qwen_tokenizer()
    text = Qwen3VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"},
            "rope_theta": 5000000.0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 16,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        **p.vision_ids(tokenizer),
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1] * 5,
        num_res_blocks=1,
        temperal_downsample=[False, True, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return write(
        folder,
        "QwenImage21Pipeline",
        vae=vae,
        text_encoder=Qwen3VLForConditionalGeneration(text),
        processor=p.processor(
            "Qwen3VLProcessor",
            Qwen2VLImageProcessorPil(patch_size=16, min_pixels=32 * 32, max_pixels=64 * 64),
            tokenizer,
        ),
        transformer=QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def longcat(folder: Path) -> Path:
    """LongCat-Image-Edit."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImageTransformer2DModel

    seeded(21)
    tokenizer = p.qwen_tokenizer()
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    return write(
        folder,
        "LongCatImageEditPipeline",
        vae=p.autoencoder(
            channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.qwen_vl(tokenizer),
        tokenizer=tokenizer,
        text_processor=p.qwen_processor(tokenizer),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
