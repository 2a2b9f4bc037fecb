"""Tiny checkpoints that are asked by something else than words: a class, or a picture of which they
estimate something or make a film.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import parts as p
from .checkpoints import seeded, write


def dit(folder: Path) -> Path:
    """DiT, which draws a class of ImageNet."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    seeded(50)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return write(
        folder,
        "DiTPipeline",
        transformer=transformer,
        vae=p.autoencoder(),
        scheduler=DDIMScheduler(),
        id2label={"0": "tench, Tinca tinca", "1": "goldfish, Carassius auratus"},
    )


def marigold(folder: Path, *, estimates: str = "depth") -> Path:
    """Marigold, which estimates a picture's ``depth`` or ``normals``."""
    from diffusers import DDIMScheduler

    seeded(51)
    tokenizer = p.clip_tokenizer()
    own: dict[str, Any] = (
        {"scale_invariant": True, "shift_invariant": True}
        if estimates == "depth"
        else {"use_full_z_range": True}
    )
    return write(
        folder,
        f"Marigold{estimates.capitalize()}Pipeline",
        unet=p.unet(reads=8),
        vae=p.autoencoder(),
        scheduler=DDIMScheduler(
            prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1
        ),
        text_encoder=p.clip_text(tokenizer),
        tokenizer=tokenizer,
        prediction_type=estimates,
        default_denoising_steps=2,
        default_processing_resolution=64,
        **own,
    )


def stable_video(folder: Path) -> Path:
    """Stable Video Diffusion, which makes of a picture a film."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        UNetSpatioTemporalConditionModel,
    )

    seeded(52)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=p.WIDTH,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=[32] * 2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
        layers_per_block=1,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=700.0,
    )
    # The pipeline shows its encoder pictures of 224 × 224, whatever the processor says.
    return write(
        folder,
        "StableVideoDiffusionPipeline",
        vae=vae,
        image_encoder=p.clip_vision(side=224),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=p.image_processor(224),
    )
