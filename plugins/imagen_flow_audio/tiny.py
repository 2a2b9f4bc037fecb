"""Tiny models of speech, with random weights and tokenizers that know letters only: they take the
place of others with ``--tiny``.
"""

from __future__ import annotations

import json
import re
import string
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagen_flow.loaders import keep_tiny

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

BY_NAME = ((r"whisper", "whisper"), (r"wav2vec", "wav2vec2"))
"""Kinds by words in a model's name."""

LANGUAGES = ("en", "zh", "de", "fr")


def stand_in(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return the path of the tiny model to use instead of another, and make it if it is not kept
    yet; None if its kind is not known.
    """
    kind = next((kind for words, kind in BY_NAME if re.search(words, reference.lower())), "")
    if at is not None and at.is_dir():
        try:
            config = json.loads((at / "config.json").read_text(encoding="utf-8"))
            kind = config.get("model_type", "") if isinstance(config, dict) else ""
        except (OSError, ValueError):
            pass
    return (
        keep_tiny(
            folder / f"{MAKE}-audio-transformers-{version('transformers')}",
            kind,
            lambda kept: MAKERS[kind](kept),
        )
        if kind in MAKERS
        else None
    )


def whisper(folder: Path) -> None:
    """A Whisper of four languages."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperTokenizer,
    )

    letters = sorted(ByteLevel.alphabet())
    end = "<|endoftext|>"
    marks = [
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in LANGUAGES),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    times = [f"<|{number / 50:.2f}|>" for number in range(1501)]
    vocabulary = {word: number for number, word in enumerate([*letters, end, *marks, *times])}
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.add_tokens(times)
    ids = dict(zip(marks, map(vocabulary.get, marks), strict=True))
    said = [vocabulary[letter] for letter in [*string.ascii_letters, ",", "Ġ"]]
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=48,
        decoder_start_token_id=ids[marks[0]],
        bos_token_id=vocabulary[end],
        eos_token_id=vocabulary[end],
        pad_token_id=vocabulary[end],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = _seeded(config, "WhisperForConditionalGeneration", scale=60)
    embeddings = model.get_input_embeddings().weight.data
    embeddings[vocabulary[end]] = 0  # it has more to say
    embeddings[vocabulary[times[0]] :] *= 0.3  # and letters rather than times
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids[marks[0]],
        bos_token_id=vocabulary[end],
        eos_token_id=vocabulary[end],
        pad_token_id=vocabulary[end],
        max_length=40,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=sorted({*ids.values(), *range(256)} - {*said, ids["<|notimestamps|>"]}),
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)


def wav2vec2(folder: Path) -> None:
    """A Wav2Vec2 that hears letters."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    words = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({word: n for n, word in enumerate(words)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    config = Wav2Vec2Config(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    model = _seeded(config, "Wav2Vec2ForCTC", scale=8)
    model.lm_head.bias.data[1:4] = -100  # letters are heard, not marks
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)


def _seeded(config: Any, cls: str, *, scale: float) -> Any:
    """Make a model with random weights, the same each time; larger than untrained ones, which would
    say the same token for ever.
    """
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(scale)
    return model


MAKERS = {"wav2vec2": wav2vec2, "whisper": whisper}
"""What makes each kind, in a folder."""
