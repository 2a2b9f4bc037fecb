"""The node type that describes pictures in words.

Other plugins offer loaders for captioners of their own under the role ``captioner``; what they load
has the method of `PictureCaptioner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol, runtime_checkable

import imagen_flow as flow
from imagen_flow import Image, Json, List, Progress, Range, Steps
from imagen_flow.loaders import Leased

from .networks import Network, NetworkLoader

if TYPE_CHECKING:
    import numpy as np

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


class Caption(NamedTuple):
    words: str
    confidence: float
    parsed: Json


@flow.node("image.caption", version=3, uses=("pillow", "tokenizers", "torch", "transformers"))
def caption(
    model: Annotated[
        Network | PictureCaptioner, Leased(NetworkLoader("image.caption", role="captioner"))
    ],
    image: Image,
    *,
    prompt: str | None = None,
    max_length: Annotated[int, Range(4, 4096)] = 32,
) -> Steps[Caption]:
    """Describe a picture in words, or answer a question about it, with greedy decoding, so that
    equal pictures get equal words.

    Inputs:
        model: embedded/caption; a captioner: BLIP, BLIP-2, GIT or a vision-encoder-decoder such as
            ViT-GPT2; Florence-2 (of florence-community) or PaliGemma; or a model for conversations:
            LLaVA, Qwen2-VL, Qwen2.5-VL, Qwen3-VL.
        image: of any size; converted to 8 bits, with alpha composited over black.

    Params:
        prompt: a question or an instruction. For BLIP it is the beginning of the caption, and a
            question if the checkpoint answers questions; for Florence-2 a task, such as
            ``<DETAILED_CAPTION>`` or ``<OD>``, with words where the task takes some; for PaliGemma
            such as ``answer en how many birds are there``. By default models are asked to describe
            the picture: ``<CAPTION>``, ``caption en``, ``Describe the image in one sentence.``
            embedded/caption and vision-encoder-decoders take none.
        max_length: the most tokens of the answer; an answer that would be longer is cut, with a
            note.

    Outputs:
        words: empty, with a note, if the model recognises nothing in the picture; embedded/caption
            describes only pictures of its own world.
        confidence: the probability that the model assigns to these words, 0 to 1; that of a long
            answer is near 0. With embedded/caption: how likely a caption of the picture is to be
            right, by a calibration on pictures of its world and others; it is low where the words
            are empty.
        parsed: for tasks of Florence-2 that find something, what they found: ``{bboxes, labels}``
            or the like, in pixels of the picture; else null.

    Raises:
        ValueError: the model takes no prompt, needs one, or would misread it.

    Source:
        ``transformers.GenerationMixin.generate``, greedy.
    """
    if not isinstance(model, Network):
        if prompt is not None:
            raise ValueError(
                "port 'prompt' is given, but the model only describes pictures; leave it out, or use"
                " BLIP, GIT, Florence-2 or a model for conversations"
            )
        words, confidence = model.caption(image.rgb().as_uint8().pixels, max_length=max_length)
        yield Progress(1, 1, "" if words else UNRECOGNISED)
        return Caption(words, confidence, None)
    from .captioning import answer

    found = answer(model, image, prompt=prompt, max_length=max_length)
    note = "" if found.words else UNRECOGNISED
    if found.is_cut:
        note = f"the words are cut after {max_length} tokens; a larger 'max_length' gives the rest"
    yield Progress(1, 1, note)
    return Caption(found.words, found.confidence, found.parsed)


@caption.many(varies=("image",))
def _caption_many(
    model: Network | PictureCaptioner,
    image: Sequence[Image],
    *,
    prompt: str | None = None,
    max_length: int = 32,
) -> Steps[List[Caption]]:
    if prompt is not None or not isinstance(model, ManyPictureCaptioner):
        return NotImplemented
    pictures = [one.rgb().as_uint8().pixels for one in image]
    found = model.caption_many(pictures, max_length=max_length)
    for i, (words, _) in enumerate(found):
        yield Progress(1, 1, "" if words else UNRECOGNISED, item=i)
    return [Caption(words, confidence, None) for words, confidence in found]
