"""Tiny checkpoints, one function a family: each writes a folder as ``save_pretrained`` would and
returns it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import parts as p


def write(folder: Path, class_name: str, **given: Any) -> Path:
    """Save parts, and an index that says what they are. What is None is named as missing; what is
    no part goes into the index as it is.
    """
    import diffusers

    index: dict[str, Any] = {"_class_name": class_name, "_diffusers_version": diffusers.__version__}
    for name, part in given.items():
        if part is None:
            index[name] = [None, None]
        elif hasattr(part, "save_pretrained"):
            part.save_pretrained(folder / name)
            module = type(part).__module__.split(".")
            own = module[:2] == ["diffusers", "pipelines"] and not hasattr(
                diffusers, type(part).__name__
            )
            index[name] = [
                module[-2] if own else module[0],
                type(part).__name__.removesuffix("Pil"),
            ]
        else:
            index[name] = part
    (folder / "model_index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return folder


def seeded(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def stable_diffusion(
    folder: Path, *, class_name: str = "StableDiffusionPipeline", reads: int = 4
) -> Path:
    """Stable Diffusion 1 or 2; with nine channels to read, its inpainting checkpoint."""
    from diffusers import PNDMScheduler

    seeded(1)
    tokenizer = p.clip_tokenizer()
    return write(
        folder,
        class_name,
        vae=p.autoencoder(),
        text_encoder=p.clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=p.unet(reads=reads),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path, *, refiner: bool = False, edits: bool = False) -> Path:
    """SDXL, its refiner, which has the second text encoder only, or its InstructPix2Pix."""
    from diffusers import EulerDiscreteScheduler

    seeded(2)
    tokenizer = p.clip_tokenizer()
    first = None if refiner else p.clip_text(tokenizer)
    second = p.clip_text(tokenizer, projection=p.WIDTH)
    ids = 5 if refiner else 6
    unet = p.unet(
        **{
            **p.XL,
            "width": p.WIDTH if refiner else 2 * p.WIDTH,
            "reads": 8 if edits else 4,
            "projection_class_embeddings_input_dim": p.WIDTH + 8 * ids,
        }
    )
    more: dict[str, Any] = {"requires_aesthetics_score": True} if refiner else {}
    return write(
        folder,
        f"StableDiffusionXL{'Img2Img' if refiner else 'InstructPix2Pix' if edits else ''}Pipeline",
        vae=p.autoencoder(scaling_factor=0.13025),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=None if refiner else tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=not refiner,
        **more,
    )


def stable_diffusion_3(folder: Path) -> Path:
    """Stable Diffusion 3 and 3.5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    seeded(3)
    clip, t5 = p.clip_tokenizer(), p.t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=4 * p.WIDTH,
        pooled_projection_dim=2 * p.WIDTH,
    )
    return write(
        folder,
        "StableDiffusion3Pipeline",
        vae=p.autoencoder(
            channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.clip_text(clip, projection=p.WIDTH),
        tokenizer=clip,
        text_encoder_2=p.clip_text(clip, projection=p.WIDTH),
        tokenizer_2=clip,
        text_encoder_3=p.t5_text(t5, width=4 * p.WIDTH),
        tokenizer_3=t5,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(folder: Path, *, class_name: str = "FluxPipeline", reads: int = 64) -> Path:
    """FLUX.1, its Kontext too; with more channels to read, its Control (128) and Fill (384)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    seeded(4)
    clip, t5 = p.clip_tokenizer(), p.t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=reads,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=p.WIDTH,
        pooled_projection_dim=p.WIDTH,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    return write(
        folder,
        class_name,
        vae=p.autoencoder(
            channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.clip_text(clip),
        tokenizer=clip,
        text_encoder_2=p.t5_text(t5),
        tokenizer_2=t5,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def flux_2(folder: Path, *, klein: bool = False) -> Path:
    """FLUX.2 with Mistral 3, or the smaller Klein with Qwen 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from transformers import PixtralImageProcessorPil

    seeded(19)
    tokenizer = p.qwen_tokenizer() if klein else p.mistral_tokenizer()
    # Of the encoder's layers the 10th, 20th and 30th are read, and of the smaller one the 9th, 18th
    # and 27th.
    text = (
        p.qwen_text(tokenizer, layers=27, whole=True)
        if klein
        else p.mistral_3(tokenizer, layers=30)
    )
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=not klein,
    )
    return write(
        folder,
        "Flux2KleinPipeline" if klein else "Flux2Pipeline",
        vae=p.autoencoder_flux_2(),
        text_encoder=text,
        tokenizer=(
            tokenizer
            if klein
            else p.processor(
                "PixtralProcessor",
                PixtralImageProcessorPil(patch_size={"height": 14, "width": 14}),
                tokenizer,
            )
        ),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        **({"is_distilled": False} if klein else {}),
    )


def pixart(folder: Path, *, sigma: bool = False) -> Path:
    """PixArt-α or PixArt-Σ."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    seeded(5)
    t5 = p.t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=32,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=p.WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    return write(
        folder,
        f"PixArt{'Sigma' if sigma else 'Alpha'}Pipeline",
        vae=p.autoencoder(scaling_factor=0.13025 if sigma else 0.18215),
        text_encoder=p.t5_text(t5),
        tokenizer=t5,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_end=0.02),
    )


def sana(folder: Path, *, sprint: bool = False) -> Path:
    """Sana, with a deep-compression autoencoder; or its Sprint, which draws in a few steps."""
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaTransformer2DModel,
        SCMScheduler,
    )

    seeded(6)
    tokenizer = p.gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
        **({"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if sprint else {}),
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = (
        SCMScheduler()
        if sprint
        else DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    )
    return write(
        folder,
        f"Sana{'Sprint' if sprint else ''}Pipeline",
        vae=vae,
        text_encoder=p.gemma_text(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=scheduler,
    )


def qwen_image(folder: Path, *, class_name: str = "QwenImagePipeline") -> Path:
    """Qwen-Image, and its editions that edit."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageTransformer2DModel,
    )

    seeded(7)
    tokenizer = p.qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=0,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, -0.4],
        latents_std=[1.5, 0.8, 1.2, 0.7],
    )
    more = {"processor": p.qwen_processor(tokenizer)} if "Edit" in class_name else {}
    return write(
        folder,
        class_name,
        vae=vae,
        text_encoder=p.qwen_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        **more,
    )


def z_image(folder: Path) -> Path:
    """Z-Image."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    seeded(8)
    tokenizer = p.qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[1536, 512, 512],
    )
    return write(
        folder,
        "ZImagePipeline",
        vae=p.autoencoder(
            channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.qwen_text(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def chroma(folder: Path) -> Path:
    """Chroma: FLUX.1 without CLIP and with true guidance."""
    from diffusers import ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    seeded(30)
    t5 = p.t5_tokenizer()
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=p.WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return write(
        folder,
        "ChromaPipeline",
        vae=p.autoencoder(
            channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.t5_text(t5),
        tokenizer=t5,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_encoder=None,
        feature_extractor=None,
    )


def lumina(folder: Path) -> Path:
    """Lumina Image 2."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Transformer2DModel

    seeded(31)
    tokenizer = p.gemma_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 512, 512),
        cap_feat_dim=8,
    )
    return write(
        folder,
        "Lumina2Pipeline",
        vae=p.autoencoder(
            channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=p.gemma_text(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def aura_flow(folder: Path) -> Path:
    """AuraFlow."""
    from diffusers import AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    seeded(32)
    tokenizer = p.t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=p.WIDTH,
        pos_embed_max_size=4096,
    )
    text = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=p.WIDTH,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    return write(
        folder,
        "AuraFlowPipeline",
        vae=p.autoencoder(scaling_factor=0.13025),
        text_encoder=text,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def cogview(folder: Path) -> Path:
    """CogView 4."""
    from diffusers import CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import GlmConfig, GlmModel

    seeded(33)
    tokenizer = p.byte_tokenizer()
    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        text_embed_dim=p.WIDTH,
        time_embed_dim=16,
        condition_dim=4,
        sample_size=8,
        pos_embed_max_size=32,
        rope_axes_dim=(32, 32),
    )
    text = GlmModel(
        GlmConfig(
            vocab_size=len(tokenizer),
            hidden_size=p.WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=2048,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=[tokenizer.eos_token_id],
            bos_token_id=None,
        )
    )
    return write(
        folder,
        "CogView4Pipeline",
        vae=p.autoencoder(channels=16, scaling_factor=1.0, shift_factor=0.0),
        text_encoder=text,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )


def hunyuan_dit(folder: Path) -> Path:
    """Hunyuan-DiT, which reads by BERT and T5."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel
    from transformers import BertConfig, BertModel

    seeded(34)
    bert, t5 = p.bert_tokenizer(), p.t5_tokenizer()
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_attention_heads=3,
        attention_head_dim=8,
        hidden_size=24,
        cross_attention_dim=p.WIDTH,
        cross_attention_dim_t5=p.WIDTH,
        pooled_projection_dim=16,
        activation_fn="gelu-approximate",
    )
    text = BertModel(
        BertConfig(
            vocab_size=len(bert),
            hidden_size=p.WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=80,
        )
    )
    return write(
        folder,
        "HunyuanDiTPipeline",
        vae=p.autoencoder(scaling_factor=0.13025),
        text_encoder=text,
        tokenizer=bert,
        text_encoder_2=p.t5_text(t5),
        tokenizer_2=t5,
        transformer=transformer,
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.03,
            prediction_type="v_prediction",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_consistency(folder: Path) -> Path:
    """A latent consistency model: Stable Diffusion that draws in a few steps."""
    from diffusers import LCMScheduler

    seeded(35)
    tokenizer = p.clip_tokenizer()
    return write(
        folder,
        "LatentConsistencyModelPipeline",
        vae=p.autoencoder(),
        text_encoder=p.clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=p.unet(time_cond_proj_dim=32),
        scheduler=LCMScheduler(original_inference_steps=50),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def deepfloyd(folder: Path, *, stage: int = 1, safety: float | None = None) -> Path:
    """DeepFloyd IF's first or second stage.

    Params:
        safety: bias of the safety checker's verdict: high blackens every picture, low none; None
            leaves the checker out.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker

    seeded(8 + stage)
    tokenizer = p.t5_tokenizer()
    more: dict[str, Any] = {} if stage == 1 else {"class_embed_type": "timestep"}
    unet = UNet2DConditionModel(
        sample_size=16 if stage == 1 else 32,
        layers_per_block=1,
        block_out_channels=[32, 64],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        in_channels=3 if stage == 1 else 6,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=p.WIDTH,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        **more,
    )
    scheduler = DDPMScheduler(
        variance_type="learned_range",
        thresholding=True,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
    )
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": p.t5_text(tokenizer),
        "unet": unet,
        "scheduler": scheduler,
        "watermarker": None,
    }
    if stage > 1:
        parts["image_noising_scheduler"] = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    checked = safety is not None
    parts["safety_checker"] = (
        p.safety_checker(IFSafetyChecker, bias=safety) if safety is not None else None
    )
    parts["feature_extractor"] = p.image_processor() if checked else None
    return write(
        folder,
        "IFPipeline" if stage == 1 else "IFSuperResolutionPipeline",
        **parts,
        requires_safety_checker=checked,
    )


def instruct_pix2pix(folder: Path) -> Path:
    """InstructPix2Pix."""
    return stable_diffusion(folder, class_name="StableDiffusionInstructPix2PixPipeline", reads=8)


def kandinsky(folder: Path, *, half: str = "") -> Path:
    """Kandinsky 2.2: prior and decoder in one folder, or one ``half``: ``prior`` or ``decoder``."""
    from diffusers import DDPMScheduler, PriorTransformer, UnCLIPScheduler

    seeded(11)
    tokenizer = p.clip_tokenizer()
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=p.WIDTH, num_layers=1
    )
    decoding = {
        "unet": p.kandinsky_unet(),
        "movq": p.movq(),
        "scheduler": DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012),
    }
    embedding = {
        "prior": prior,
        "image_encoder": p.clip_vision(),
        "text_encoder": p.clip_text(tokenizer, projection=p.WIDTH),
        "tokenizer": tokenizer,
        "scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample=True,
            clip_sample_range=10.0,
        ),
        "image_processor": p.image_processor(),
    }
    if half:
        return write(
            folder,
            f"KandinskyV22{'Prior' if half == 'prior' else ''}Pipeline",
            **(embedding if half == "prior" else decoding),
        )
    return write(
        folder,
        "KandinskyV22CombinedPipeline",
        **decoding,
        **{f"prior_{name}": part for name, part in embedding.items()},
    )


def upscaler(folder: Path) -> Path:
    """Stable Diffusion x4."""
    from diffusers import DDIMScheduler, DDPMScheduler

    seeded(12)
    tokenizer = p.clip_tokenizer()
    unet = p.unet(
        reads=7,
        use_linear_projection=True,
        only_cross_attention=(True, False),
        num_class_embeds=100,
        **p.DEEP,
    )
    return write(
        folder,
        "StableDiffusionUpscalePipeline",
        vae=p.autoencoder(scaling_factor=0.08333, levels=3),
        text_encoder=p.clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        max_noise_level=99,
    )


def controlnet(folder: Path, *, xl: bool = False, seed: int = 13) -> Path:
    """A ControlNet for Stable Diffusion or SDXL."""
    import torch
    from diffusers import ControlNetModel

    seeded(seed)
    more: dict[str, Any] = {
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    }
    if xl:
        more = {
            name: value for name, value in p.XL.items() if name not in ("width", "up_block_types")
        }
    made = ControlNetModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        in_channels=4,
        cross_attention_dim=2 * p.WIDTH if xl else p.WIDTH,
        conditioning_embedding_out_channels=(8, 8, 8, 8),
        **more,
    )
    for block in made.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight)
    made.save_pretrained(folder)
    return folder


def latent_upscaler(folder: Path) -> Path:
    """The latent upscaler of Stable Diffusion."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    seeded(15)
    tokenizer = p.clip_tokenizer()
    unet = UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=[32, 32, 64, 64],
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=p.WIDTH,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        in_channels=8,
        out_channels=5,
        mid_block_type=None,
        only_cross_attention=False,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        sample_size=32,
    )
    return write(
        folder,
        "StableDiffusionLatentUpscalePipeline",
        vae=p.autoencoder(),
        text_encoder=p.clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )


def swin2sr(folder: Path, *, upscale: int = 2, upsampler: str = "pixelshuffledirect") -> Path:
    """Swin2SR, twice the sides by default."""
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessorPil

    seeded(16)
    config = Swin2SRConfig(
        image_size=16,
        embed_dim=16,
        depths=[1],
        num_heads=[2],
        window_size=4,
        mlp_ratio=1.0,
        upscale=upscale,
        upsampler=upsampler,
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    Swin2SRImageProcessorPil(size_divisor=4).save_pretrained(folder)
    return folder


def unclip(folder: Path) -> Path:
    """Karlo, the open unCLIP: prior, decoder and two stages that enlarge."""
    from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    seeded(17)
    tokenizer = p.clip_tokenizer()
    decoder = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )

    def enlarger() -> Any:
        return UNet2DModel(
            sample_size=32,
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            block_out_channels=(32, 64),
            in_channels=6,
            out_channels=3,
        )

    def scheduler(**more: Any) -> Any:
        return UnCLIPScheduler(num_train_timesteps=1000, **more)

    return write(
        folder,
        "UnCLIPPipeline",
        prior=PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=p.WIDTH, num_layers=1
        ),
        decoder=decoder,
        text_encoder=p.clip_text(tokenizer, projection=p.WIDTH),
        tokenizer=tokenizer,
        text_proj=UnCLIPTextProjModel(
            clip_embeddings_dim=p.WIDTH, time_embed_dim=128, cross_attention_dim=16
        ),
        super_res_first=enlarger(),
        super_res_last=enlarger(),
        prior_scheduler=scheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        decoder_scheduler=scheduler(variance_type="learned_range", prediction_type="epsilon"),
        super_res_scheduler=scheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    )


def ddpm(folder: Path) -> Path:
    """The first denoising diffusion model, which reads no words."""
    from diffusers import DDPMScheduler, UNet2DModel

    seeded(18)
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return write(folder, "DDPMPipeline", unet=unet, scheduler=DDPMScheduler())
