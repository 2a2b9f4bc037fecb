"""The node type that turns texts into numbers with an encoder of language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import imagen_flow as flow
from imagen_flow import Model, Progress, Steps, Tensor, Text
from imagen_flow.loaders import (
    Leased,
    Loader,
    Loading,
    expect_kind,
    load_pretrained,
    load_tokenizer,
    unread_words,
)

from .passages import readable
from .writers import window_of

CLASSES = {
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "mt5": "MT5EncoderModel",
    "roberta": "RobertaModel",
    "t5": "T5EncoderModel",
    "xlm-roberta": "XLMRobertaModel",
}
"""Model types that encode text, as named in their configuration, and the class of transformers for
each.
"""


@dataclass(frozen=True)
class Encoder:
    """An encoder of language and its tokenizer.

    Params:
        window: the most tokens that it reads.
        has_first: whether the first token stands for the whole text.
    """

    model: Any
    tokenizer: Any
    window: int
    has_first: bool


class EncoderLoader(Loader[Encoder]):
    """Loads an encoder from a folder as transformers saves it."""

    def check(self, model: Model) -> None:
        expect_kind(model, "language.features", CLASSES)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Encoder:
        kind = expect_kind(model, "language.features", CLASSES)
        cls: Any = CLASSES[kind]
        if kind in ("bert", "roberta", "xlm-roberta"):
            import transformers

            # The layer above the first token, which many checkpoints lack, is not used.
            load = getattr(transformers, cls).from_pretrained
            cls = SimpleNamespace(from_pretrained=partial(load, add_pooling_layer=False))
        tokenizer = load_tokenizer(model)
        window = window_of(model, tokenizer)
        module = load_pretrained(cls, model, device=device, dtype=dtype)
        if "roberta" in kind:
            # Its positions are counted from behind the number of the padding token.
            window = min(
                window, module.config.max_position_embeddings - module.config.pad_token_id - 1
            )
        return Encoder(module, tokenizer, window, kind not in ("mt5", "t5"))


@flow.node("language.features", version=1, uses=("torch", "transformers", "tokenizers"))
def features(
    model: Annotated[Encoder, Leased(EncoderLoader)],
    text: Text,
    *,
    pooling: Literal["mean", "first", "none"] = "mean",
    normalise: bool = False,
) -> Steps[Tensor]:
    """Encode a text with BERT, T5 or one of their kin, for example to compare prompts.

    Inputs:
        model: of the type BERT, DistilBERT, RoBERTa, XLM-RoBERTa, T5 or mT5 (its encoder).
        text: what is longer than the model reads is cut off, with a note.

    Params:
        pooling: ``mean`` of all tokens, as most models of sentences are trained, the ``first``
            token, which BERT and RoBERTa put before the text, or ``none``: a row for each token.
        normalise: divide by the Euclidean length, so that inner products are cosines.

    Outputs:
        features: float32 of the last layer, (width,), or (tokens, width) without pooling; the marks
            that the tokenizer adds are tokens too.

    Raises:
        ValueError: the text is empty or not valid Unicode, or has a mark of the model; the model
            has no first token.

    Source:
        ``last_hidden_state`` of the models of transformers. Features of CLIP's text encoder, which
        can be compared with those of pictures, are given by other node types.
    """
    import torch

    text = readable(text, model.tokenizer)
    if pooling == "first" and not model.has_first:
        raise ValueError("T5 has no first token that stands for the text: use pooling mean or none")
    inputs = model.tokenizer(
        text, return_tensors="pt", truncation=True, max_length=model.window
    ).to(model.model.device)
    with torch.no_grad():
        found = model.model(**inputs).last_hidden_state[0].float()
    if pooling != "none":
        found = found.mean(dim=0) if pooling == "mean" else found[0]
    if normalise:
        found = torch.nn.functional.normalize(found, dim=-1)
    yield Progress(1, 1, unread_words(model.tokenizer, text, model.window, what="the text"))
    return Tensor(found.cpu().numpy())
