"""Encoders of pictures and texts: which models there are, and how they are loaded and called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagen_flow import Model
from imagen_flow.loaders import (
    Loader,
    Loading,
    expect_kind,
    load_image_processor,
    load_pretrained,
    load_tokenizer,
    require_library,
    unread_words,
)

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

READS_TEXT = {
    "chinese_clip": "ChineseCLIPModel",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
}
"""Model types that encode pictures and texts into the same space, as named in their configuration,
and the class of transformers for each.
"""

CLASSES = {
    **READS_TEXT,
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "resnet": "ResNetModel",
    "vit": "ViTModel",
}
"""All model types that encode pictures."""


@dataclass(frozen=True)
class Encoder:
    """An encoder with what prepares its inputs.

    `fingerprint` is that of the model: features of two encoders can be compared only if it is the
    same.
    """

    kind: str
    fingerprint: str
    network: Any
    image_processor: Any
    tokenizer: Any

    def encode_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Encode RGB pictures into float32 (count, dimension)."""
        import torch

        prepared = self.image_processor(images=list(pictures), return_tensors="pt")
        given = {
            name: value.to(self.network.device, self.network.dtype)
            if value.is_floating_point()
            else value.to(self.network.device)
            for name, value in prepared.items()
        }
        with torch.no_grad():
            if self.kind in READS_TEXT:
                found = self.network.get_image_features(**given).pooler_output
            elif self.kind == "vit":
                found = self.network(**given).last_hidden_state[:, 0]
            else:
                found = self.network(**given).pooler_output
        return _finite(found.flatten(1))

    def encode_text(self, text: str) -> np.ndarray:
        """Encode a text into float32 (dimension,)."""
        import torch

        # SigLIP was trained on padded texts without a mask; CLIP looks at nothing after its end.
        read = self.tokenizer(
            [text],
            padding="max_length" if self.kind.startswith("siglip") else False,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        with torch.no_grad():
            found = self.network.get_text_features(
                input_ids=read["input_ids"].to(self.network.device)
            ).pooler_output
        return _finite(found)[0]

    def unread(self, text: str) -> str:
        """Say what of a text is not read; nothing if all is."""
        if not text.strip():
            return "the text is empty"
        return unread_words(self.tokenizer, text, self.text_length, what="the text")

    @property
    def text_length(self) -> int:
        """How many tokens of a text are read, with those that mark its ends."""
        return int(self.network.config.text_config.max_position_embeddings)

    def match(self, cosine: float) -> float:
        """Return what the model makes of the cosine of a picture and a text: its logit."""
        bias = getattr(self.network, "logit_bias", None)
        scale = float(self.network.logit_scale.detach().float().exp())
        return scale * cosine + (0.0 if bias is None else float(bias.detach().float()))


class EncoderLoader(Loader[Encoder]):
    """Loads an encoder from a folder as transformers saves it; also one that was saved with a head
    that classifies.
    """

    def check(self, model: Model) -> None:
        expect_kind(model, "image.features", CLASSES)

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        if (model.folder / "spiece.model").is_file():
            require_library(
                "sentencepiece", f"the tokenizer of '{model.reference}'", extra="sentencepiece"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Encoder:
        kind = expect_kind(model, "image.features", CLASSES)
        return Encoder(
            kind,
            model.digest,
            load_pretrained(
                _ViTWithoutPooler if kind == "vit" else CLASSES[kind],
                model,
                device=device,
                dtype=dtype,
            ),
            load_image_processor(model),
            load_tokenizer(model) if kind in READS_TEXT else None,
        )


@dataclass(frozen=True)
class TextEncoderLoader(Loader[Encoder]):
    """Loads an encoder that reads texts too, and shares it with nodes that need it for pictures.

    Params:
        node: the node type, for messages.
    """

    node: str

    def parts(self, model: Model) -> Mapping[str, Loader[Any]]:
        expect_kind(model, self.node, READS_TEXT)
        return {"encoder": EncoderLoader()}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Encoder:
        encoder: Encoder = parts["encoder"]
        return encoder


class _ViTWithoutPooler:
    """Loads ViT without its last layer, which most checkpoints have no weights for."""

    @staticmethod
    def from_pretrained(folder: str, **given: Any) -> Any:
        from transformers import ViTModel

        return ViTModel.from_pretrained(folder, add_pooling_layer=False, **given)


def _finite(found: Any) -> np.ndarray:
    array: np.ndarray = found.float().cpu().numpy()
    import numpy as np

    if not np.isfinite(array).all():
        raise ValueError(
            "the model gave features that are not numbers; its weights may be damaged, or need"
            " dtype: float32"
        )
    return array
