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


def bytes_with(*marks: str, length: int = 2048, **roles: Any) -> Any:
    """A tokenizer of bytes with some marks, as language models have it.

    Params:
        roles: which marks are what, e.g. ``eos_token="</s>"``, as the tokenizer takes them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate([*letters, *marks])}, merges=[]
        )
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=length, **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    return tokenizer
