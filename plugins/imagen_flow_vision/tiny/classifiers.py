"""Tiny models that choose among labels."""

from __future__ import annotations

from pathlib import Path

from . import tokenizers
from .parts import SIDES, SIZE, VISION, labels, save, words


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
    processor = t.CLIPProcessor(
        image_processor=t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDES),
        tokenizer=tokenizer,
    )
    config = t.CLIPConfig(text_config=words(tokenizer), vision_config=VISION, projection_dim=16)
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
