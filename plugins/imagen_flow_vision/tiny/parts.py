"""What tiny models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def save(
    folder: Path, cls: str, config: Any, processor: Any, *, seed: int = 1, spread: float = 0.2
) -> None:
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
                parameter.normal_(std=spread)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def resnet_backbone() -> Any:
    """A backbone of four stages, of which detectors read the last three."""
    import transformers as t

    return t.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def swin_backbone() -> Any:
    """A backbone of windows of attention."""
    import transformers as t

    return t.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def words(tokenizer: Any) -> dict[str, Any]:
    """Sizes and marks of a text encoder for a tokenizer."""
    return {
        **SIZE,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
