"""Encoder-decoder models that write a text from a text: what summaries and translations share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from imagen_flow import Model, ModelError
from imagen_flow.loaders import load_pretrained, load_tokenizer, read_json

from .passages import passages

WINDOW = 512
"""How many tokens a model reads at once that does not say it itself."""

MAX_TOKENS = 128
"""How many tokens a model writes at most that does not say it itself."""


@dataclass(frozen=True)
class Writer:
    """A model of transformers with encoder and decoder, and its tokenizer.

    Params:
        window: the most tokens that it reads at once, its own marks among them.
        positions: the most tokens that its decoder has positions for; None: any number.
        tasks: what its configuration states for single tasks.
        lock: held while the tokenizer is set to a language.
    """

    model: Any
    tokenizer: Any
    window: int
    positions: int | None
    tasks: Mapping[str, Any]
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def count(self, text: str) -> int:
        """Count the tokens of a text, with the model's own marks."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def passages(self, text: str, prefix: str = "", window: int | None = None) -> list[str]:
        """Cut a text into passages that the model reads at once after a prefix."""
        return passages(text, lambda part: self.count(prefix + part), window or self.window)

    def encode(self, text: str) -> Any:
        """Return a text as the model's inputs."""
        return self.tokenizer(text, return_tensors="pt").to(self.model.device)

    def write(self, text: str, **settings: Any) -> str:
        """Write what the model makes of a text that it reads at once."""
        return self.generate(self.encode(text), **settings)[0]

    def generate(self, inputs: Any, **settings: Any) -> tuple[str, int]:
        """Write what the model makes of its inputs, and count the tokens.

        Params:
            settings: those of ``generate``; None is the model's own.
        """
        import torch

        given = {name: value for name, value in settings.items() if value is not None}
        with torch.no_grad():
            ids = self.model.generate(**inputs, **given)[:, 1:]
        count = ids.shape[1]
        if count and int(ids[0, 0]) == given.get("forced_bos_token_id"):
            ids = ids[:, 1:]  # the mark of a language, which not every tokenizer leaves out
        words = str(self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()
        return words, count

    def length(
        self, min_tokens: int | None, max_tokens: int | None, task: Mapping[str, Any]
    ) -> tuple[int | None, int]:
        """Return the fewest and the most tokens to write: as asked, else as the task or the model
        states them.

        Raises:
            ValueError: they contradict each other, or the model cannot write so many.
        """
        own = self.model.generation_config
        usual = task.get("max_new_tokens") or own.max_new_tokens or MAX_TOKENS
        if self.positions is not None:
            usual = min(usual, self.positions - 1)
        most = max_tokens or usual
        least = min_tokens
        if least is None:
            least = task.get("min_new_tokens") or own.min_new_tokens
            least = least if least is None else min(least, most)
        if least is not None and least > most:
            raise ValueError(
                f"min_tokens ({least}) is more than max_tokens ({most}); swap them, or raise"
                " max_tokens"
            )
        if self.positions is not None and most >= self.positions:
            raise ValueError(
                f"the model writes at most {self.positions - 1} tokens, not {most}; lower max_tokens"
            )
        return least, most


def load_writer(model: Model, *, device: str, dtype: str) -> Writer:
    """Load a model with encoder and decoder, set to write without chance."""
    module = load_pretrained("AutoModelForSeq2SeqLM", model, device=device, dtype=dtype)
    sober(module)
    stated = read_json(model, "config.json")
    with warnings.catch_warnings():
        # Marian's recommends a package that rewrites punctuation before it reads it.
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        tokenizer = load_tokenizer(model)
    if hasattr(tokenizer, "punc_normalizer"):
        # What is installed besides must not change what is read.
        tokenizer.punc_normalizer = str
    positions = stated.get("max_decoder_position_embeddings") or stated.get(
        "max_position_embeddings"
    )
    tasks = stated.get("task_specific_params")
    return Writer(
        module,
        tokenizer,
        window_of(model, tokenizer),
        positions if isinstance(positions, int) else None,
        tasks if isinstance(tasks, dict) else {},
    )


def window_of(model: Model, tokenizer: Any) -> int:
    """Return how many tokens a model reads at once: the least of what it and its tokenizer state,
    else `WINDOW`.

    Raises:
        ModelError: it is too small to read anything.
    """
    stated = read_json(model, "config.json")
    limits = [
        stated.get("max_encoder_position_embeddings"),
        stated.get("max_position_embeddings"),
        stated.get("n_positions"),
        tokenizer.model_max_length,
    ]
    found = [n for n in limits if isinstance(n, int) and n < 10_000_000]
    window = min(found, default=WINDOW)
    if window < 16:
        raise ModelError(f"the model '{model.reference}' reads only {window} tokens at once")
    return window


def sober(module: Any) -> None:
    """Set a model to choose the likeliest words, and to count the tokens that it writes as nodes do:
    without the one that the decoder starts with.
    """
    own = module.generation_config
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
        setattr(own, name, None)
    own.do_sample = False
    own.max_new_tokens = new_tokens(own.max_length) or own.max_new_tokens
    own.min_new_tokens = new_tokens(own.min_length) or own.min_new_tokens
    own.max_length = own.min_length = None


def new_tokens(length: Any) -> int | None:
    """Return how many tokens are written where the decoder's first one is counted too."""
    return length - 1 if isinstance(length, int) and length > 1 else None
