"""How each tiny model is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import tokenizers

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = {**SIZE, "image_size": 32, "patch_size": 8}
SIDES = {"height": 32, "width": 32}
LABELS = ["fox", "owl", "lighthouse", "teapot", "tree", "cloud", "person"]


def labels() -> dict[str, Any]:
    """The labels that a tiny model tells apart, as its configuration takes them."""
    return {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: number for number, label in enumerate(LABELS)},
    }


def save(folder: Path, cls: str, config: Any, processor: Any, *, seed: int = 1) -> None:
    """Save a model of random weights, larger than usual so that its outputs differ, with what
    prepares its inputs.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, cls)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def vit(folder: Path) -> None:
    import transformers as t

    save(
        folder,
        "ViTForImageClassification",
        t.ViTConfig(**VISION, **labels()),
        t.ViTImageProcessorPil(size=SIDES),
    )


def resnet(folder: Path) -> None:
    import transformers as t

    config = t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels()
    )
    save(
        folder,
        "ResNetForImageClassification",
        config,
        t.ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    )


def clip(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.clip()
    text = {
        **SIZE,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    processor = t.CLIPProcessor(
        image_processor=t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDES),
        tokenizer=tokenizer,
    )
    config = t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    save(folder, "CLIPModel", config, processor)


def chinese_clip(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.bert()
    processor = t.ChineseCLIPProcessor(
        image_processor=t.ChineseCLIPImageProcessorPil(size=SIDES, do_center_crop=False),
        tokenizer=tokenizer,
    )
    text = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = t.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    save(folder, "ChineseCLIPModel", config, processor)


def siglip(folder: Path) -> None:
    import transformers as t

    tokenizer = tokenizers.t5()
    text = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    processor = t.SiglipProcessor(
        image_processor=t.SiglipImageProcessorPil(size=SIDES), tokenizer=tokenizer
    )
    config = t.SiglipConfig(text_config=text, vision_config=VISION)
    save(folder, "SiglipModel", config, processor)


MAKERS: dict[str, Callable[[Path], None]] = {
    "chinese-clip": chinese_clip,
    "clip": clip,
    "resnet": resnet,
    "siglip": siglip,
    "vit": vit,
}
