"""Checkpoints of real classes with random weights, a few kilobytes each, saved as their libraries save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = "a red blue green large small circle square left of on background make the make it".split()


def word_tokenizer(length: int = 24) -> Any:
    """A tokenizer of whole words in lower case, ending each text with </s>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", "<s>", *WORDS]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>", model_max_length=length)


def t5_encoder(tokenizer: Any, width: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1))


def write_index(folder: Path, class_name: str) -> Path:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}), encoding="utf-8")
    return folder


def if_unet(channels: int, side: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        layers_per_block=1,
        block_out_channels=[32, 64],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        in_channels=channels,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        **more,
    )


def cascade(folder: Path) -> Path:
    """A cascade in pixel space, of the embedded one's kind and sizes."""
    from imagen_flow_embedded.training import diffusion, super_resolution

    torch.manual_seed(2)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    t5_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    diffusion.build_base_unet(32, channels=(32, 32, 32)).half().save_pretrained(folder / "unet")
    super_resolution.build_super_resolution_unet(32, channels=(32, 32, 32)).half().save_pretrained(folder / "super_resolution")
    for part in ("scheduler", "super_resolution_scheduler"):
        diffusion.build_scheduler().save_pretrained(folder / part)
    return write_index(folder, "ImagenCascade")


def clip_vision() -> dict[str, Any]:
    return {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "projection_dim": 8}


def deepfloyd(folder: Path, *, stage: int = 1, safety: float | None = None) -> Path:
    """DeepFloyd IF's first or second stage.

    Params:
        safety: bias of the safety checker's verdict: high blackens every picture, low none; None leaves the checker out.
    """
    from diffusers import DDPMScheduler
    from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    torch.manual_seed(stage)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    t5_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    unet = if_unet(3, 16) if stage == 1 else if_unet(6, 32, class_embed_type="timestep")
    unet.save_pretrained(folder / "unet")
    scheduler = DDPMScheduler(variance_type="learned_range", thresholding=True, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    scheduler.save_pretrained(folder / "scheduler")
    if stage == 2:
        DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    if safety is not None:
        text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 10, "projection_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
        checker = IFSafetyChecker(CLIPConfig(text_config=text, vision_config=clip_vision(), projection_dim=8))
        with torch.no_grad():
            checker.p_head.weight.zero_()
            checker.p_head.bias.fill_(safety)
            checker.w_head.weight.zero_()
            checker.w_head.bias.fill_(-1)
        checker.save_pretrained(folder / "safety_checker")
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder / "feature_extractor")
    return write_index(folder, "IFPipeline" if stage == 1 else "IFSuperResolutionPipeline")


def instruct_pix2pix(folder: Path) -> Path:
    """InstructPix2Pix on a Stable Diffusion of a few channels."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=[32, 64],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D", "UpDecoderBlock2D"],
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    PNDMScheduler(skip_prk_steps=True).save_pretrained(folder / "scheduler")
    tokenizer = clip_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=len(tokenizer),
            max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    return write_index(folder, "StableDiffusionInstructPix2PixPipeline")


def clip_tokenizer() -> Any:
    """CLIP's tokenizer with letters only: every word is spelled."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {token: number for number, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def pixel_editor(folder: Path) -> Path:
    """An editor in pixel space, of the embedded one's kind."""
    from imagen_flow_embedded.training import edit

    torch.manual_seed(4)
    tokenizer = edit.build_tokenizer()
    unet = edit.build_unet(4, (16, 32, 32), 32)
    return edit.write(unet, edit.build_text_encoder(tokenizer, 32), tokenizer, edit.build_schedule(), folder)


def captioner(folder: Path, kind: str) -> Path:
    """A captioner of one of the kinds that image.caption takes."""
    import transformers as t

    torch.manual_seed(5)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}
    if kind == "blip":
        text = {**size, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "sep_token_id": 1, "encoder_hidden_size": 16, "projection_dim": 8}
        config = t.BlipConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=8)
        t.BlipForConditionalGeneration(config).save_pretrained(folder)
        t.BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    elif kind == "git":
        config = t.GitConfig(vision_config={**size, "image_size": 32, "patch_size": 16}, vocab_size=len(tokenizer), max_position_embeddings=64, **size, **ends)
        t.GitForCausalLM(config).save_pretrained(folder)
        t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        from imagen_flow_embedded.training import captioner as training

        training.write(training.build_model(tokenizer, width=32, encoder_layers=1, decoder_layers=1), tokenizer, folder)
    return folder
