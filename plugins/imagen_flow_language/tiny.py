"""Tiny models of each kind, with random weights and tokenizers that know letters only: they take
the place of others with ``--tiny``.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagen_flow.loaders import keep_tiny

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

LETTERS = string.ascii_letters + string.digits + ".,:;!?'\"()<>-一只红色的猫在山上。，"
"""What the tokenizers know."""

WINDOW = 64
"""The most tokens that a model reads at once."""

BY_NAME = (
    (r"pegasus", "pegasus"),
    (r"mbart", "mbart"),
    (r"nllb", "nllb"),
    (r"m2m", "m2m_100"),
    (r"opus-mt|marian", "marian"),
    (r"mt5|mt0", "mt5"),
    (r"t5", "t5"),
    (r"bart", "bart"),
    (r"roberta", "roberta"),
    (r"bert|minilm", "bert"),
    (r"gpt2|gpt-2|magic-?prompt|prompt-?gen|prompt-expansion", "gpt2"),
    (r"qwen\d?(\.\d)?-[\d.]+b", "qwen2"),
    (r"llama|smollm", "llama"),
)
"""Kinds by words in a model's name, the more specific ones first."""


def stand_in(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return the path of the tiny model to use instead of another, and make it if it is not kept
    yet; None if its kind is not known.
    """
    kind = _kind_of(reference, at)
    return (
        keep_tiny(
            folder / f"{MAKE}-language-transformers-{version('transformers')}",
            kind,
            lambda kept: MAKERS[kind](kept),
        )
        if kind
        else None
    )


def _kind_of(reference: str, at: Path | None) -> str:
    if at is not None and at.is_dir():
        try:
            config = json.loads((at / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = {}
        kind = str(config.get("model_type", "")) if isinstance(config, dict) else ""
        tokenizer = str(at / "tokenizer_config.json")
        if kind == "m2m_100" and "nllb" in f"{reference} {tokenizer}".lower():
            return "nllb"
        if kind:
            return kind if kind in MAKERS else ""
    return next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), "")


def seeded(config: Any, cls: str, folder: Path, *tokenizers: Any, scale: float = 20) -> None:
    """Save a model with random weights, the same each time, and its tokenizer."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        # Weights as small as untrained ones would say the same token for ever.
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "position" not in name:
                weight.mul_(scale)
    model.save_pretrained(folder)
    for tokenizer in tokenizers:
        tokenizer.save_pretrained(folder)


def _pieces(*before: str) -> list[tuple[str, float]]:
    """The vocabulary of a unigram tokenizer, with scores."""
    return [
        (piece, -float(number >= len(before)))
        for number, piece in enumerate([*before, "▁", *LETTERS])
    ]


def t5(folder: Path, kind: str = "t5") -> None:
    from transformers import MT5Config, T5Config, T5Tokenizer

    tokenizer = T5Tokenizer(
        vocab=_pieces("<pad>", "</s>", "<unk>"), extra_ids=0, model_max_length=WINDOW
    )
    config = (T5Config if kind == "t5" else MT5Config)(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    seeded(config, f"{kind.upper()}ForConditionalGeneration", folder, tokenizer, scale=2)
    if kind == "t5":
        path = folder / "config.json"
        stated = json.loads(path.read_text(encoding="utf-8"))
        stated["n_positions"] = WINDOW
        stated["task_specific_params"] = {
            "summarization": {
                "early_stopping": True,
                "length_penalty": 2.0,
                "max_length": 20,
                "min_length": 5,
                "no_repeat_ngram_size": 3,
                "num_beams": 2,
                "prefix": "summarize: ",
            }
        }
        path.write_text(json.dumps(stated, indent=1), encoding="utf-8")


def mt5(folder: Path) -> None:
    t5(folder, "mt5")


def _encoder_decoder(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": WINDOW,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def bart(folder: Path) -> None:
    from transformers import BartConfig, BartTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = BartTokenizer(vocab=_bytes(special), merges=[], model_max_length=WINDOW)
    config = BartConfig(
        **_encoder_decoder(tokenizer, decoder_start_token_id=2, forced_bos_token_id=0)
    )
    seeded(config, "BartForConditionalGeneration", folder, tokenizer)


def pegasus(folder: Path) -> None:
    from transformers import PegasusConfig, PegasusTokenizer

    tokenizer = PegasusTokenizer(
        vocab=_pieces("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>"),
        offset=0,
        model_max_length=WINDOW,
    )
    config = PegasusConfig(**_encoder_decoder(tokenizer, decoder_start_token_id=0))
    seeded(config, "PegasusForConditionalGeneration", folder, tokenizer)


def _bytes(special: list[str]) -> dict[str, int]:
    """The vocabulary of a tokenizer of single bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: number for number, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}


MAKERS: dict[str, Callable[[Path], None]] = {
    "bart": bart,
    "mt5": mt5,
    "pegasus": pegasus,
    "t5": t5,
}
"""What makes each kind, in a folder."""
