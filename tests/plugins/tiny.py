"""Checkpoints of the project's own kinds with random weights; those of diffusers' kinds come from
the plugin, which makes them for users too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from imagen_flow_diffusion.tiny.checkpoints import deepfloyd, instruct_pix2pix  # noqa: F401  # for the tests that take this module as a fixture

WORDS = "a red blue green large small circle square left of on background make the make it".split()


def word_tokenizer(length: int = 24) -> Any:
    """A tokenizer of whole words in lower case, ending each text with </s>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: number
        for number, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", "<s>", *WORDS]))
    }
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=length,
    )


def t5_encoder(tokenizer: Any, width: int = 32) -> Any:
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


def write_index(folder: Path, class_name: str) -> Path:
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": class_name}), encoding="utf-8"
    )
    return folder


def cascade(folder: Path) -> Path:
    """A cascade in pixel space, of the embedded one's kind and sizes."""
    from imagen_flow_embedded.training import assembly, diffusion, super_resolution, text_encoder

    torch.manual_seed(2)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    t5_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    diffusion.build_base_unet(32, channels=(32, 32, 32)).half().save_pretrained(folder / "unet")
    super_resolution.build_super_resolution_unet(32, channels=(32, 32, 32)).half().save_pretrained(
        folder / "super_resolution"
    )
    for part in ("scheduler", "super_resolution_scheduler"):
        diffusion.build_scheduler().save_pretrained(folder / part)
    text_encoder.save_heads(folder / "plan", text_encoder.build_heads(32))
    diffusion.save_means(folder / "plan")
    assembly.write_index(folder)
    return folder


def sure_reader(plan: dict[str, Any], **facts: str) -> dict[str, Any]:
    """The plan of an editor that surely reads these facts in every instruction, and no other."""
    from imagen_flow_embedded.inference.reading import FACTS

    made = dict(plan)
    for fact, values in FACTS.items():
        bias = torch.full((len(values),), -99.0)
        bias[values.index(facts.get(fact))] = 99
        made[f"heads.{fact}.bias"] = bias
        if f"heads.{fact}.weight" in made:
            made[f"heads.{fact}.weight"] = torch.zeros_like(made[f"heads.{fact}.weight"])
    return made


def pixel_editor(folder: Path) -> Path:
    """An editor in pixel space, of the embedded one's kind."""
    from imagen_flow_embedded.training import edit

    torch.manual_seed(4)
    tokenizer = edit.build_tokenizer()
    parts = {
        "text_encoder": edit.build_text_encoder(tokenizer, 32),
        "unet": edit.build_unet(32, (16, 32, 32), 32, close=False),
        "close_up": edit.build_unet(32, (16, 32, 32), 32, close=True),
    }
    plan = edit.build_plan(32, 32)
    with torch.no_grad():
        for fact, head in plan["heads"].items():
            sure = sure_reader({}, kind="colour", shape="circle", new_colour="green")
            head.weight.zero_()
            head.bias.copy_(sure[f"heads.{fact}.bias"])
        for name in ("unet", "close_up"):
            parts[name].conv_out.weight.normal_(std=0.5)
    return edit.write(parts, plan, tokenizer, folder)


def captioner(folder: Path, kind: str) -> Path:
    """A captioner of one of the kinds that image.caption takes."""
    import transformers as t

    torch.manual_seed(5)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    size = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}
    if kind == "blip":
        text = {
            **size,
            **ends,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "sep_token_id": 1,
            "encoder_hidden_size": 16,
            "projection_dim": 8,
        }
        config = t.BlipConfig(
            text_config=text,
            vision_config={**size, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
        t.BlipForConditionalGeneration(config).save_pretrained(folder)
        t.BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    elif kind == "git":
        config = t.GitConfig(
            vision_config={**size, "image_size": 32, "patch_size": 16},
            vocab_size=len(tokenizer),
            max_position_embeddings=64,
            **size,
            **ends,
        )
        t.GitForCausalLM(config).save_pretrained(folder)
        t.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ).save_pretrained(folder)
    else:
        from imagen_flow_embedded.training import captioner as training

        training.write(
            training.build_model(tokenizer, width=32, encoder_layers=1, decoder_layers=1),
            tokenizer,
            folder,
        )
    return folder
