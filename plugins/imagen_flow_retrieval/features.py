"""Nodes that encode pictures and texts, and that score how well these fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from imagen_flow import Image, Progress, Steps, Tensor, Text, node
from imagen_flow.loaders import Leased

from .encoders import Encoder, EncoderLoader, TextEncoderLoader
from .vectors import features, made_by, matrix, unit

LONGEST = 200
"""How many times as long as wide a picture may be: the models enlarge its shorter side to theirs."""


@node("image.features", version=1, uses=("numpy", "pillow", "torch", "transformers"))
def image_features(
    model: Annotated[Encoder, Leased(EncoderLoader)], image: Image, *, normalise: bool = True
) -> Tensor:
    """Describe a picture by the features of a model, to compare it with others and to find it again.

    Inputs:
        model: CLIP, Chinese-CLIP, SigLIP, SigLIP 2, DINOv2 (with registers too), ViT, ResNet or ConvNeXt
            as transformers saves them, also with a head that classifies, which is not used.
        image: of any size; converted to 8 bits, with alpha composited over black, and resized and
            cropped as the model was trained.

    Params:
        normalise: scale the features to length 1, so that their dot product is the cosine.

    Outputs:
        float32 (dimension,). Of CLIP what is compared with texts (after the projection), of SigLIP
            its pooled output, which texts are compared with too; of DINO and ViT the class token
            after the last norm; of ResNet and ConvNeXt the mean over the picture, before the head.
            Tagged with the model that made it: features of different models are not compared.

    Raises:
        ValueError: the picture is more than 200 times as long as wide.

    Source:
        ``get_image_features`` of ``transformers.CLIPModel`` and its like;
            ``last_hidden_state`` and ``pooler_output`` of the others.
    """
    return _encoded(model, [image], normalise)[0]


@image_features.many(varies=("image",))
def _many_image_features(
    model: Encoder, image: Sequence[Image], *, normalise: bool = True
) -> list[Tensor]:
    return _encoded(model, image, normalise)


@node("text.features", version=1, uses=("numpy", "tokenizers", "torch", "transformers"))
def text_features(
    model: Annotated[Encoder, Leased(TextEncoderLoader("text.features"))],
    text: Text,
    *,
    normalise: bool = True,
) -> Steps[Tensor]:
    """Describe a text by the features of a model that was trained on pictures with their captions,
    so that pictures can be found by words.

    Inputs:
        model: CLIP, Chinese-CLIP, SigLIP or SigLIP 2.
        text: what is beyond the tokens that the model reads (77 for CLIP, 64 for SigLIP, with the
            marks of the ends) is cut off, with a note.

    Params:
        normalise: scale the features to length 1, so that their dot product is the cosine.

    Outputs:
        float32 (dimension,), to be compared with `image.features` of the same model.

    Source:
        ``get_text_features`` of ``transformers.CLIPModel`` and its like;
            for SigLIP padded to its full length and without a mask, as it was trained.
    """
    yield Progress(1, 1, model.unread(text))
    return features(
        model.encode_text(text),
        kind=model.kind,
        fingerprint=model.fingerprint,
        normalise=normalise,
    )


class Score(NamedTuple):
    """How well a text fits a picture."""

    score: float
    cosine: float
    logit: float


@node("score.clip", version=1, uses=("numpy", "pillow", "tokenizers", "torch", "transformers"))
def clip_score(
    model: Annotated[Encoder, Leased(TextEncoderLoader("score.clip"))], image: Image, text: Text
) -> Steps[Score]:
    """Score how well a text describes a picture, for example to keep the best of several drawn
    pictures.

    Inputs:
        model: CLIP, Chinese-CLIP, SigLIP or SigLIP 2. Scores of different models cannot be compared.
        image: as for `image.features`.
        text: as for `text.features`; what the model does not read is named in a note.

    Outputs:
        score: 100 times the cosine, not below 0: the CLIP score of the literature. Good matches
            have about 25 to 35 with CLIP, and 10 to 20 with SigLIP.
        cosine: of the features of picture and text, -1 to 1.
        logit: the cosine as the model itself scales it. With SigLIP 1 / (1 + exp(-logit)) is the
            probability that the two belong together; with CLIP logits only rank several texts of
            one picture, or pictures of one text, by their softmax.

    Source:
        CLIPScore (arXiv:2104.08718) with the weight 100 of ``torchmetrics.multimodal.CLIPScore``;
            the logits of ``transformers.CLIPModel`` and its like.
    """
    yield Progress(1, 1, model.unread(text))
    seen, read = unit(model.encode_pictures([_picture(image)]))[0], unit(model.encode_text(text))
    cosine = _cosine(seen, read)
    return Score(round(max(0.0, 100 * cosine), 6), cosine, round(model.match(cosine), 6))


@node("score.similarity", version=1, uses=("numpy",))
def similarity(a: Tensor, b: Tensor) -> float:
    """Compare two pictures, or a picture and a text, by their features.

    Inputs:
        a, b: features that one model made (`image.features`, `text.features`), normalised or not.

    Outputs:
        the cosine, -1 to 1: 1 for equal ones.

    Raises:
        ValueError: the features are of different models, or are no features.
    """
    made_by([a, b], "a, b")
    return _cosine(*matrix([a, b]))


def _encoded(model: Encoder, images: Sequence[Image], normalise: bool) -> list[Tensor]:
    vectors = model.encode_pictures([_picture(image) for image in images])
    return [
        features(vector, kind=model.kind, fingerprint=model.fingerprint, normalise=normalise)
        for vector in vectors
    ]


def _picture(image: Image) -> Any:
    if max(image.width, image.height) > LONGEST * min(image.width, image.height):
        raise ValueError(
            f"the picture is {image.width} x {image.height}, more than {LONGEST} times as long as"
            " wide, and would be enlarged until its shorter side fits the model; crop it first"
        )
    return image.rgb().to_pil()


def _cosine(a: Any, b: Any) -> float:
    """The cosine of vectors of length 1; its last digits depend on the processor."""
    return min(1.0, max(-1.0, round(float((a.astype("float64") * b).sum()), 7)))
