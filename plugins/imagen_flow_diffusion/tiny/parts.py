"""The parts that tiny checkpoints are made of: tokenizers of letters, encoders of two layers,
autoencoders of two levels.
"""

from __future__ import annotations

import string
from typing import Any

WIDTH = 32
"""Of what text encoders give, unless the family wants another."""


def clip_tokenizer() -> Any:
    """CLIP's tokenizer with letters only: every word is spelled."""
    from transformers import CLIPTokenizer

    vocabulary = {
        token: number
        for number, token in enumerate(
            [
                *_LETTERS,
                *(f"{letter}</w>" for letter in _LETTERS),
                "<|startoftext|>",
                "<|endoftext|>",
            ]
        )
    }
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer(length: int = 512) -> Any:
    """T5's tokenizer with letters only."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *_LETTERS]
    return T5Tokenizer(
        vocab=[(piece, -float(number > 2)) for number, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=length,
    )


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer with single bytes only, and the words that Qwen-Image puts before a prompt,
    of which it drops as many tokens as the true one makes of them.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<think>",
        "</think>",
    ]
    vocabulary = {
        token: number for number, token in enumerate([*sorted(ByteLevel.alphabet()), *special])
    }
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], model_max_length=512, padding_side="right"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:8]})
    words = (
        "the image by detailing color shape size texture quantity text spatial relationships of"
        " objects and background"
    )
    tokenizer.add_tokens(["system", "user", "Describe", *(f" {word}" for word in words.split())])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content if"
        " message.content is string else message.content[0].text }}<|im_end|>\n{% endfor %}{% if"
        " add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


_LETTERS = string.ascii_letters + string.digits + ".,-'!:<>"


def clip_text(
    tokenizer: Any, *, width: int = WIDTH, projection: int | None = None, layers: int = 2
) -> Any:
    """CLIP's text encoder, with a projection if one is wanted."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=layers,
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def clip_vision(*, width: int = WIDTH, side: int = 32) -> Any:
    """CLIP's image encoder."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=side,
        patch_size=8,
        projection_dim=width,
    )
    return CLIPVisionModelWithProjection(config)


def t5_text(tokenizer: Any, *, width: int = WIDTH) -> Any:
    """T5's encoder."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def autoencoder(*, channels: int = 4, levels: int = 4, **more: Any) -> Any:
    """Stable Diffusion's autoencoder of few channels: 1/8 of the side with four levels, as the real
    one, so that true sizes are soon drawn.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8] * levels,
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=256,
        **more,
    )


def unet(
    *, channels: int = 4, reads: int | None = None, side: int = 8, width: int = WIDTH, **more: Any
) -> Any:
    """Stable Diffusion's denoiser of two levels."""
    from diffusers import UNet2DConditionModel

    given = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 8,
        **more,
    }
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=reads or channels,
        out_channels=channels,
        cross_attention_dim=width,
        **given,
    )


def safety_checker(cls: Any, *, bias: float) -> Any:
    """IF's safety checker, which finds every picture unsafe with a positive bias and none with a
    negative one.
    """
    import torch
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": 8,
    }
    text = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 10,
        "projection_dim": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    checker = cls(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.p_head.weight.zero_()
        checker.p_head.bias.fill_(bias)
        checker.w_head.weight.zero_()
        checker.w_head.bias.fill_(-1)
    return checker


def image_processor(side: int = 32) -> Any:
    """CLIP's image processor."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def bert_tokenizer() -> Any:
    """BERT's tokenizer with letters only."""
    from transformers import BertTokenizer

    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *_LETTERS,
        *(f"##{letter}" for letter in _LETTERS),
    ]
    return BertTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        do_lower_case=True,
        model_max_length=77,
    )


def gemma_tokenizer() -> Any:
    """Gemma's tokenizer with letters only, and a mark before the text."""
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *_LETTERS]
    return GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=512,
        padding_side="right",
        add_bos_token=True,
    )


def gemma_text(tokenizer: Any) -> Any:
    """Gemma 2."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            num_key_value_heads=2,
            head_dim=8,
            attn_implementation="eager",
            max_position_embeddings=512,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


def byte_tokenizer() -> Any:
    """A tokenizer of single bytes, as GLM's, which puts two marks before the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["<|endoftext|>", "[gMASK]", "<sop>"]
    inner = Tokenizer(
        models.BPE(
            {
                token: number
                for number, token in enumerate(
                    [*sorted(pre_tokenizers.ByteLevel.alphabet()), *marks]
                )
            },
            [],
        )
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        special_tokens=[(mark, 256 + index) for index, mark in enumerate(marks)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=marks[0],
        eos_token=marks[0],
        padding_side="left",
        model_max_length=2048,
    )


def vision_ids(tokenizer: Any) -> dict[str, int]:
    """The tokens of Qwen's that stand for pictures, as its configurations name them."""
    words = (
        ("image", "image_pad"),
        ("video", "video_pad"),
        ("vision_start", "vision_start"),
        ("vision_end", "vision_end"),
    )
    return {
        f"{word}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for word, name in words
    }


def qwen_vl(tokenizer: Any) -> Any:
    """Qwen2.5-VL, which reads words and pictures."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 1000000.0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        **vision_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def processor(name: str, *parts: Any) -> Any:
    """A processor of transformers as it lies in a folder: the files of its parts beside each other.
    (Made itself, it would want torchvision.)
    """

    def save_pretrained(_self: Any, folder: Any) -> None:
        for part in parts:
            part.save_pretrained(folder)

    return type(name, (), {"__module__": "transformers", "save_pretrained": save_pretrained})()


def qwen_processor(tokenizer: Any) -> Any:
    """Qwen2-VL's processor of pictures and words."""
    from transformers import Qwen2VLImageProcessorPil

    return processor(
        "Qwen2VLProcessor",
        Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer,
    )


def qwen_text(tokenizer: Any, *, layers: int = 2, whole: bool = False) -> Any:
    """Qwen3, alone or with the head that says the next word."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return (Qwen3ForCausalLM if whole else Qwen3Model)(config)


def mistral_tokenizer() -> Any:
    """Mistral's tokenizer with single bytes only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[IMG]",
        "<pad>",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
    ]
    inner = Tokenizer(
        models.BPE(
            vocab={
                token: number
                for number, token in enumerate(
                    [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
                )
            },
            merges=[],
        )
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=special[3:6] + special[7:],
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% set ends = {'system': ['[SYSTEM_PROMPT]',"
        " '[/SYSTEM_PROMPT]'], 'user': ['[INST]', '[/INST]']}[message.role] %}{{ ends[0] }}{% for"
        " block in message.content %}{{ block.text if block.type == 'text' else '[IMG]' }}{% endfor"
        " %}{{ ends[1] }}{% endfor %}"
    )
    return tokenizer


def mistral_3(tokenizer: Any, *, layers: int) -> Any:
    """Mistral 3, which reads words and pictures."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            **size,
            "num_hidden_layers": layers,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "pixtral",
            **size,
            "num_hidden_layers": 1,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return Mistral3ForConditionalGeneration(config)


def autoencoder_flux_2() -> Any:
    """FLUX.2's autoencoder of few channels, at 1/8 of the side, with statistics of its latents that
    are no one's.
    """
    import torch
    from diffusers import AutoencoderKLFlux2

    made = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    made.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    made.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return made


DEEP: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
"""Where a denoiser attends at the lower level alone."""

XL: dict[str, Any] = {
    **DEEP,
    "width": 2 * WIDTH,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2),
    "projection_class_embeddings_input_dim": WIDTH + 8 * 6,
}
"""How SDXL's denoiser differs from Stable Diffusion's."""


def kandinsky_unet(*, reads: int = 4, **more: Any) -> Any:
    """Kandinsky's denoiser of two levels, which reads a picture's embedding."""
    from diffusers import UNet2DConditionModel

    given = {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj", **more}
    return UNet2DConditionModel(
        in_channels=reads,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=WIDTH,
        cross_attention_dim=32,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
        **given,
    )


def movq() -> Any:
    """Kandinsky's autoencoder of four levels."""
    from diffusers import VQModel

    return VQModel(
        block_out_channels=[32] * 4,
        down_block_types=[*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
        in_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        out_channels=3,
        up_block_types=["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
        vq_embed_dim=4,
    )
