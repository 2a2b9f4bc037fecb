"""Tiny models of each kind, with random weights and tokenizers that know letters only: they take
the place of others with ``--tiny``.
"""

from __future__ import annotations

import json
import re
import string
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagen_flow.loaders import keep_tiny

MAKE = 1
"""Increased when tiny models change, so that those kept from before are not used."""

LETTERS = string.ascii_letters + string.digits + ".,:;!?'\"()<>-一只红色的猫在山上。，"
"""What the tokenizers know."""

WINDOW = 128
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
    (r"qwen-?3-[\d.]+b", "qwen3"),
    (r"qwen-?\d?(\.\d)?-[\d.]+b", "qwen2"),
    (r"smollm-?3", "smollm3"),
    (r"mistral-7b", "mistral"),
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
    name = reference.lower()
    if re.search(r"blip|clip|llava|-vl\b|vit-|vision", name):  # what sees is made elsewhere
        return ""
    return next((kind for words, kind in BY_NAME if re.search(words, name)), "")


def seeded(config: Any, cls: str, folder: Path, tokenizer: Any, *, scale: float = 20) -> None:
    """Save a model with random weights, the same each time, and its tokenizer."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        model = getattr(transformers, cls)(config).eval()
    letters = {*LETTERS, "▁", "Ġ"}
    marks = [n for word, n in tokenizer.get_vocab().items() if word not in letters]
    marks += getattr(tokenizer, "lang_code_to_id", {}).values()
    with torch.no_grad():
        # Weights as small as untrained ones would say the same token for ever.
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "position" not in name:
                weight.mul_(scale)
        # Letters are said, not marks.
        read, written = model.get_input_embeddings(), model.get_output_embeddings()
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias[0, sorted({*marks})] = -100
        elif written.weight is read.weight:
            read.weight[sorted({*marks})] *= 0.4
        else:
            written.weight[sorted({*marks})] *= 0.1
    model.save_pretrained(folder)
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


def mbart(folder: Path) -> None:
    from transformers import MBart50Tokenizer, MBartConfig

    tokenizer = MBart50Tokenizer(vocab=_pieces("<unk>", "<s>", "</s>"), model_max_length=WINDOW)
    config = MBartConfig(**_encoder_decoder(tokenizer, decoder_start_token_id=2))
    seeded(config, "MBartForConditionalGeneration", folder, tokenizer)


def nllb(folder: Path) -> None:
    from transformers import M2M100Config, NllbTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *dict.fromkeys(LETTERS)]
    tokenizer = NllbTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=WINDOW
    )
    config = M2M100Config(**_encoder_decoder(tokenizer, decoder_start_token_id=2))
    seeded(config, "M2M100ForConditionalGeneration", folder, tokenizer)


def m2m_100(folder: Path) -> None:
    from transformers import M2M100Config, M2M100Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, pieces = _sentence_pieces(folder, "<s>", "<pad>", "</s>", "<unk>")
    tokenizer = M2M100Tokenizer(str(vocabulary), str(pieces), model_max_length=WINDOW)
    # The languages come after the words.
    size = len(tokenizer) + len(tokenizer.lang_code_to_id)
    config = M2M100Config(
        **_encoder_decoder(tokenizer, decoder_start_token_id=2) | {"vocab_size": size}
    )
    seeded(config, "M2M100ForConditionalGeneration", folder, tokenizer)


def marian(folder: Path) -> None:
    from transformers import MarianConfig, MarianTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, pieces = _sentence_pieces(folder, "</s>", "<unk>", last="<pad>")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        tokenizer = MarianTokenizer(
            str(pieces),
            str(pieces),
            str(vocabulary),
            source_lang="zh",
            target_lang="en",
            model_max_length=WINDOW,
        )
        config = MarianConfig(
            **_encoder_decoder(tokenizer, decoder_start_token_id=tokenizer.pad_token_id)
        )
        seeded(config, "MarianMTModel", folder, tokenizer, scale=8)


def _sentence_pieces(folder: Path, *before: str, last: str = "") -> tuple[Path, Path]:
    """Write a vocabulary and a sentencepiece model of letters."""
    from io import BytesIO

    import sentencepiece

    model, letters = BytesIO(), list(dict.fromkeys(LETTERS))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(letters),
        model_writer=model,
        model_type="char",
        vocab_size=len(letters) + 4,
        character_coverage=1.0,
        minloglevel=2,
    )
    pieces, vocabulary = folder / "letters.spm", folder / "letters.json"
    pieces.write_bytes(model.getvalue())
    words = [*before, "▁", *letters, *([last] if last else [])]
    vocabulary.write_text(
        json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False),
        encoding="utf-8",
    )
    return vocabulary, pieces


def bert(folder: Path) -> None:
    from transformers import BertConfig, BertTokenizer

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = dict.fromkeys(LETTERS.lower())
    pieces = [*marks, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=WINDOW
    )
    config = BertConfig(**_encoder(tokenizer), max_position_embeddings=WINDOW)
    seeded(config, "BertForMaskedLM", folder, tokenizer, scale=4)


def roberta(folder: Path) -> None:
    from transformers import RobertaConfig, RobertaTokenizer

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = RobertaTokenizer(vocab=_bytes(marks), merges=[], model_max_length=WINDOW)
    config = RobertaConfig(**_encoder(tokenizer), max_position_embeddings=WINDOW + 2)
    seeded(config, "RobertaForMaskedLM", folder, tokenizer, scale=4)


def _encoder(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "pad_token_id": tokenizer.pad_token_id,
    }


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2Tokenizer

    end = "<|endoftext|>"
    tokenizer = GPT2Tokenizer(
        vocab=_bytes([end]), merges=[], bos_token=end, eos_token=end, model_max_length=4 * WINDOW
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=4 * WINDOW,
        n_embd=16,
        n_layer=2,
        n_head=2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    seeded(config, "GPT2LMHeadModel", folder, tokenizer, scale=8)


def llama(folder: Path, kind: str = "Llama") -> None:
    import transformers

    tokenizer = _chat_tokenizer()
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=8 * WINDOW,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    seeded(config, f"{kind}ForCausalLM", folder, tokenizer, scale=8)


def mistral(folder: Path) -> None:
    llama(folder, "Mistral")


def qwen2(folder: Path) -> None:
    llama(folder, "Qwen2")


def qwen3(folder: Path) -> None:
    llama(folder, "Qwen3")


def smollm3(folder: Path) -> None:
    llama(folder, "SmolLM3")


def _chat_tokenizer() -> Any:
    """A tokenizer of single bytes with a template for chats, in the form that Qwen's and SmolLM's
    have; it says what day it is, as Llama's does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE(_bytes(marks), []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=marks[2],
        pad_token=marks[0],
        additional_special_tokens=marks[1:2],
        model_max_length=8 * WINDOW,
    )
    tokenizer.chat_template = (
        "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n{% for message in"
        " messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def _bytes(special: list[str]) -> dict[str, int]:
    """The vocabulary of a tokenizer of single bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: number for number, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}


MAKERS: dict[str, Callable[[Path], None]] = {
    "bart": bart,
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "m2m_100": m2m_100,
    "marian": marian,
    "mbart": mbart,
    "mistral": mistral,
    "mt5": mt5,
    "nllb": nllb,
    "pegasus": pegasus,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "roberta": roberta,
    "smollm3": smollm3,
    "t5": t5,
}
"""What makes each kind, in a folder."""
