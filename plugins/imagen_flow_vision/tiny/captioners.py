"""Tiny models that describe pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import tokenizers
from .parts import SIDES, SIZE, VISION, save

#: A conversation as the templates of the true models write it, with a mark where the picture goes.
CHAT = (
    "{% for message in messages %}USER: {% for one in message.content %}{% if one.type == 'image' %}"
    "%s\n{% else %}{{ one.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


class _Beside:
    """What prepares inputs, saved as the true ones lie in a folder: the files of its parts beside
    each other. (Made itself, Qwen's would want torchvision.)
    """

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def save_pretrained(self, folder: Path) -> None:
        for part in self.parts:
            part.save_pretrained(folder)


def _marks(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id or tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id or tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def blip(folder: Path, *, answers: bool = False) -> None:
    import transformers as t

    tokenizer = tokenizers.bert()
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    text = {
        **SIZE,
        **_marks(tokenizer),
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "sep_token_id": tokenizer.sep_token_id,
        "encoder_hidden_size": 16,
        "projection_dim": 8,
    }
    config = t.BlipConfig(text_config=text, vision_config=VISION, projection_dim=8)
    processor = t.BlipProcessor(t.BlipImageProcessorPil(size=SIDES), tokenizer)
    kind = "QuestionAnswering" if answers else "ConditionalGeneration"
    save(folder, f"BlipFor{kind}", config, processor)


def git(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bert()
    config = t.GitConfig(
        vision_config=VISION,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        **SIZE,
        **_marks(tokenizer),
    )
    processor = t.GitProcessor(
        t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDES), tokenizer
    )
    save(folder, "GitForCausalLM", config, processor)


def vit_gpt2(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bytes_with(
        "<|endoftext|>", "<pad>", eos_token="<|endoftext|>", pad_token="<pad>"
    )
    decoder = t.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        t.ViTConfig(**VISION), decoder
    )
    config.decoder_start_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    save(
        folder,
        "VisionEncoderDecoderModel",
        config,
        _Beside(t.ViTImageProcessorPil(size=SIDES), tokenizer),
    )


def blip_2(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bytes_with(
        "<pad>", "</s>", "<image>", bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )
    config = t.Blip2Config(
        vision_config=VISION,
        qformer_config={**SIZE, "vocab_size": 40, "encoder_hidden_size": 16},
        text_config=t.OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            word_embed_proj_dim=16,
            **_marks(tokenizer),
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = t.Blip2Processor(t.BlipImageProcessorPil(size=SIDES), tokenizer, num_query_tokens=4)
    save(folder, "Blip2ForConditionalGeneration", config, processor)


def florence_2(folder: Path) -> None:
    import transformers as t

    marks = [f"<loc_{number}>" for number in range(1000)]
    tokenizer = tokenizers.bytes_with(
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<image>",
        *marks,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    config = t.Florence2Config(
        text_config=t.BartConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=512,
            forced_eos_token_id=None,
            decoder_start_token_id=tokenizer.eos_token_id,
            **_marks(tokenizer),
        ),
        vision_config=t.Florence2VisionConfig(
            depths=[1, 1, 1, 1],
            embed_dim=[8, 8, 8, 8],
            num_heads=[1, 1, 1, 1],
            num_groups=[1, 1, 1, 1],
            window_size=4,
            projection_dim=16,
        ),
        image_token_id=tokenizer.image_token_id,
    )
    images = t.CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5
    finds = {
        "bboxes": {},
        "description_with_bboxes": {},
        "description_with_bboxes_or_polygons": {},
        "ocr": {
            "pattern": r"(.+?)" + r"<loc_(\d+)>" * 8,
            "area_threshold": 0.0,
        },
        "phrase_grounding": {"banned_grounding_tokens": []},
        "polygons": {},
        "pure_text": {},
    }
    processor = t.Florence2Processor(
        images, tokenizer, num_additional_image_tokens=1, post_processor_config=finds
    )
    save(folder, "Florence2ForConditionalGeneration", config, processor)


def llava(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bytes_with(
        "<pad>", "<s>", "</s>", "<image>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = t.LlavaProcessor(
        t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDES),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("%s", "<image>"),
    )
    save(folder, "LlavaForConditionalGeneration", config, processor)


def qwen(folder: Path, *, version: str = "2_5") -> None:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""
    import transformers as t

    marks = ["<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizers.bytes_with(
        "<|endoftext|>", *marks, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT.replace("%s", "<|vision_start|><|image_pad|><|vision_end|>")
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    name = {"2": "Qwen2VL", "2_5": "Qwen2_5_VL", "3": "Qwen3VL"}[version]
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "intermediate_size": 16}
    vision |= {"embed_dim": 16, "hidden_size": 16} if version == "2" else {"hidden_size": 16}
    if version == "2_5":
        vision |= {"out_hidden_size": 16, "window_size": 112, "fullatt_block_indexes": [1]}
    if version == "3":
        vision |= {
            "out_hidden_size": 16,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        }
    config = getattr(t, f"{name}Config")(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    patch = 16 if version == "3" else 14
    images = t.Qwen2VLImageProcessorPil(
        min_pixels=(2 * patch) ** 2, max_pixels=(4 * patch) ** 2, patch_size=patch
    )
    save(folder, f"{name}ForConditionalGeneration", config, _Beside(images, tokenizer))


def paligemma(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bytes_with(
        "<pad>",
        "<eos>",
        "<bos>",
        "<image>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    images = t.SiglipImageProcessorPil(size=SIDES)
    images.image_seq_length = 16
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.GemmaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            **_marks(tokenizer),
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=16,
    )
    processor = t.PaliGemmaProcessor(images, tokenizer)
    save(folder, "PaliGemmaForConditionalGeneration", config, processor)


def _llama(tokenizer: Any) -> Any:
    import transformers as t

    return t.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        **_marks(tokenizer),
    )
