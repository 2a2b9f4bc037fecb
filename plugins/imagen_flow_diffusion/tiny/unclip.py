"""Tiny checkpoints that draw by way of a picture's embedding: what unCLIP and its kin have besides
text to a picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import parts as p
from .checkpoints import seeded, unclip, write


def unclip_variation(folder: Path) -> Path:
    """Karlo's image variations: its decoder and stages that enlarge, and CLIP's image encoder in
    the place of the prior.
    """
    unclip(folder)
    seeded(40)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for name in ("prior", "prior_scheduler"):
        del index[name]
    p.clip_vision().save_pretrained(folder / "image_encoder")
    p.image_processor().save_pretrained(folder / "feature_extractor")
    # The published checkpoint still names the processor as transformers once did.
    index |= {
        "_class_name": "UnCLIPImageVariationPipeline",
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return folder


def stable_unclip(folder: Path, *, words: bool = False) -> Path:
    """Stable unCLIP, which makes variations of images; with a prior it draws from text."""
    from diffusers import DDIMScheduler, DDPMScheduler, PriorTransformer, UnCLIPScheduler
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    seeded(41)
    tokenizer = p.clip_tokenizer()
    own: dict[str, Any] = {
        "feature_extractor": p.image_processor(),
        "image_encoder": p.clip_vision(),
    }
    if words:
        own = {
            "prior_tokenizer": tokenizer,
            "prior_text_encoder": p.clip_text(tokenizer, projection=p.WIDTH),
            "prior": PriorTransformer(
                num_attention_heads=2, attention_head_dim=12, embedding_dim=p.WIDTH, num_layers=1
            ),
            "prior_scheduler": UnCLIPScheduler(
                variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
            ),
        }
    return write(
        folder,
        f"StableUnCLIP{'' if words else 'Img2Img'}Pipeline",
        **own,
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=p.WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer,
        text_encoder=p.clip_text(tokenizer),
        unet=p.unet(
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * p.WIDTH,
            use_linear_projection=True,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        vae=p.autoencoder(),
    )


def kandinsky_decoder(folder: Path, class_name: str) -> Path:
    """A decoder of Kandinsky 2.2 for one task, by the class of its pipeline: what fills in reads
    the picture and the mask, what is held to a drawing reads a hint.
    """
    from diffusers import DDPMScheduler

    seeded(42)
    hint = "Controlnet" in class_name
    unet = p.kandinsky_unet(
        reads=9 if "Inpaint" in class_name else 8 if hint else 4,
        addition_embed_type="image_hint" if hint else "image",
    )
    return write(
        folder,
        class_name,
        unet=unet,
        movq=p.movq(),
        scheduler=DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012),
    )


def kandinsky_3(folder: Path) -> Path:
    """Kandinsky 3."""
    from diffusers import DDPMScheduler, Kandinsky3UNet

    seeded(43)
    tokenizer = p.t5_tokenizer()
    unet = Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=p.WIDTH,
    )
    return write(
        folder,
        "Kandinsky3Pipeline",
        tokenizer=tokenizer,
        text_encoder=p.t5_text(tokenizer),
        unet=unet,
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.02, beta_schedule="squaredcos_cap_v2"
        ),
        movq=p.movq(),
    )


def stable_cascade(folder: Path, *, half: str) -> Path:
    """Stable Cascade's ``prior``, which makes of words what its ``decoder`` draws."""
    from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    seeded(44)
    tokenizer = p.clip_tokenizer()
    reads = {
        "tokenizer": tokenizer,
        "text_encoder": p.clip_text(tokenizer, projection=p.WIDTH),
        "scheduler": DDPMWuerstchenScheduler(),
    }
    block, attending = (
        ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
        ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
    )
    if half == "prior":
        prior = StableCascadeUNet(
            conditioning_dim=32,
            block_out_channels=(32, 32),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            down_blocks_repeat_mappers=(1, 1),
            up_blocks_repeat_mappers=(1, 1),
            switch_level=(False,),
            clip_image_in_channels=p.WIDTH,
            clip_text_in_channels=p.WIDTH,
            clip_text_pooled_in_channels=p.WIDTH,
            dropout=(0.0, 0.0),
            in_channels=16,
            out_channels=16,
            block_types_per_layer=(attending, attending),
            timestep_conditioning_type=("sca", "crp"),
        )
        return write(
            folder,
            "StableCascadePriorPipeline",
            **reads,
            prior=prior,
            image_encoder=None,
            feature_extractor=None,
            resolution_multiple=42.67,
        )
    decoder = StableCascadeUNet(
        conditioning_dim=32,
        block_out_channels=(16, 32),
        num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        switch_level=None,
        clip_text_pooled_in_channels=p.WIDTH,
        dropout=(0.0, 0.0),
        in_channels=4,
        out_channels=4,
        effnet_in_channels=16,
        patch_size=2,
        pixel_mapper_in_channels=3,
        block_types_per_layer=(block, attending),
        timestep_conditioning_type=("sca",),
    )
    return write(
        folder,
        "StableCascadeDecoderPipeline",
        **reads,
        decoder=decoder,
        vqgan=PaellaVQModel(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=2),
        latent_dim_scale=8.0,
    )
