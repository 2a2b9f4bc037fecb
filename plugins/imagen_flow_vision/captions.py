"""The node type that captions pictures, and the loader of its models.

Other plugins offer loaders for captioners of their own under the role ``captioner``; what they load
has the method of `PictureCaptioner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, runtime_checkable

import imagen_flow as flow
from imagen_flow import Image, List, Model, Progress, Range, Steps
from imagen_flow.loaders import (
    Leased,
    Loader,
    Loading,
    expect_kind,
    load_image_processor,
    load_pretrained,
    load_tokenizer,
)

if TYPE_CHECKING:
    import numpy as np

CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
}
"""Model types that caption a picture without a prompt, as named in their configuration, and the
class of transformers for each.
"""


UNRECOGNISED = "the captioner recognises nothing in the picture"


class PictureCaptioner(Protocol):
    """Role ``captioner``: describes pictures for `image.caption`."""

    def caption(self, picture: np.ndarray, *, max_length: int) -> tuple[str, float]:
        """Describe uint8 (height, width, 3): the words, empty if it recognises nothing, and how
        likely they are, 0 to 1.
        """


@runtime_checkable
class ManyPictureCaptioner(Protocol):
    """What a captioner has that describes several pictures at once."""

    def caption_many(
        self, pictures: Sequence[np.ndarray], *, max_length: int
    ) -> Sequence[tuple[str, float]]:
        """Describe pictures of one size. Otherwise as `PictureCaptioner.caption`."""


@dataclass(frozen=True)
class Captioner:
    """A captioner with its image processor and tokenizer."""

    model: Any
    image_processor: Any
    tokenizer: Any

    def caption(self, picture: np.ndarray, *, max_length: int) -> tuple[str, float]:
        """Describe a picture with greedy decoding: the words, and their probability."""
        from . import captioning

        return captioning.caption(
            picture,
            model=self.model,
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            max_length=max_length,
        )


class CaptionerLoader(Loader[Captioner]):
    """Loads a captioner from a folder as transformers saves it."""

    role = "captioner"

    def check(self, model: Model) -> None:
        expect_kind(model, "image.caption", CLASSES)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Captioner:
        kind = expect_kind(model, "image.caption", CLASSES)
        return Captioner(
            load_pretrained(CLASSES[kind], model, device=device, dtype=dtype),
            load_image_processor(model),
            load_tokenizer(model),
        )


class Caption(NamedTuple):
    words: str
    confidence: float


@flow.node("image.caption", version=2, uses=("torch", "transformers"))
def caption(
    model: Annotated[Captioner | PictureCaptioner, Leased(CaptionerLoader)],
    image: Image,
    *,
    max_length: Annotated[int, Range(4, 512)] = 32,
) -> Steps[Caption]:
    """Describe a picture in words, with greedy decoding, so that equal pictures get equal captions.

    Inputs:
        model: embedded/caption, or a captioner of the type BLIP, GIT or vision-encoder-decoder
            (such as ViT-GPT2).
        image: of any size; converted to 8 bits, with alpha composited over black.

    Params:
        max_length: the most tokens.

    Outputs:
        words: empty, with a note, if the model recognises nothing in the picture; embedded/caption
            describes only pictures of its own world.
        confidence: the probability that the model assigns to these words, 0 to 1. With
            embedded/caption: how likely a caption of the picture is to be right, by a calibration
            on pictures of its world and others; it is low where the words are empty.

    Source:
        ``transformers.GenerationMixin.generate``, greedy.
    """
    words, confidence = model.caption(image.rgb().as_uint8().pixels, max_length=max_length)
    yield Progress(1, 1, "" if words else UNRECOGNISED)
    return Caption(words, confidence)


@caption.many(varies=("image",))
def _caption_many(
    model: Captioner | PictureCaptioner, image: Sequence[Image], *, max_length: int = 32
) -> Steps[List[Caption]]:
    if not isinstance(model, ManyPictureCaptioner):
        return NotImplemented
    pictures = [one.rgb().as_uint8().pixels for one in image]
    found = model.caption_many(pictures, max_length=max_length)
    for i, (words, _) in enumerate(found):
        yield Progress(1, 1, "" if words else UNRECOGNISED, item=i)
    return [Caption(*one) for one in found]
