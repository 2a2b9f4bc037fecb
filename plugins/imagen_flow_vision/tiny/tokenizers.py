"""Tokenizers that know letters only, so that every word is spelled and none is unknown."""

from __future__ import annotations

import string
from typing import Any

_LETTERS = string.ascii_lowercase + string.digits + string.punctuation


def clip(length: int = 77) -> Any:
    """CLIP's tokenizer."""
    from transformers import CLIPTokenizer

    pieces = [
        *_LETTERS,
        *(f"{letter}</w>" for letter in _LETTERS),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=length,
    )


def bert(length: int = 64) -> Any:
    """BERT's tokenizer."""
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
        vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=length
    )


def t5(length: int = 64) -> Any:
    """T5's tokenizer, which SigLIP's is like."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *_LETTERS]
    return T5Tokenizer(
        vocab=[(piece, -float(number > 2)) for number, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=length,
    )
