"""Say what a picture shows as one of many labels: those that a model was trained with, or any words."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Json, List, Progress, Range, Steps, Text
from imagen_flow.loaders import Leased

from .networks import Network, NetworkLoader
from .phrases import checked, unread

#: Labels that are read at once; reading thousands together would take gigabytes.
_AT_ONCE = 64


class Classification(NamedTuple):
    label: Text
    score: float
    scores: List[Json]


@flow.node("image.classify", version=1, uses=("pillow", "tokenizers", "torch", "transformers"))
def classify(
    model: Annotated[Network, Leased(NetworkLoader("image.classify"))],
    image: Image,
    *,
    labels: List[Text] | None = None,
    template: Text = "This is a photo of {}.",
    most: Annotated[int, Range(1, 100_000)] = 5,
) -> Steps[Classification]:
    """Choose the label that describes a picture best.

    Inputs:
        model: an image classifier (ViT, ResNet, ConvNeXt, Swin, DINOv2 with a classifier …), such as
            hf:google/vit-base-patch16-224; or CLIP, Chinese-CLIP or SigLIP, for labels of your own.
        image: of any size; converted to 8 bits, with alpha composited over black.
    Params:
        labels: what to choose from, in words, for CLIP, Chinese-CLIP and SigLIP; a classifier has
            labels of its own and takes none.
        template: the sentence that a label is put into, in place of ``{}``.
        most: how many labels are returned, the likeliest first.
    Outputs:
        label, score: the likeliest label and its score.
        scores: ``{label, score}`` of the `most` likeliest. Scores are from 0 to 1; they add up to 1
            over all labels, except those of SigLIP and of a classifier with several labels a
            picture, which are independent of one another, and those of a regression, which are its
            numbers as they are.
    Raises:
        ValueError: labels are missing, empty or given twice, or the model takes none.
    Source:
        ``pipeline("image-classification")`` and ``pipeline("zero-shot-image-classification")`` of
        transformers; more than 64 labels are read in groups.
    """
    if "ForImageClassification" in model.cls:
        if labels is not None:
            raise ValueError(
                f"port 'labels' is given, but the model '{model.reference}' has labels of its own;"
                " leave it out, or use CLIP or SigLIP"
            )
        scores = _own_scores(model, image)
    else:
        if labels is None:
            raise ValueError(
                f"port 'labels' is missing: the model '{model.reference}' has no labels of its own;"
                " name those to choose from"
            )
        checked(labels, "labels")
        if template.count("{}") != 1:
            raise ValueError(
                f"port 'template' is '{template}'; it needs one {{}}, where the label goes"
            )
        texts = [template.replace("{}", label) for label in labels]
        for note in unread(model, texts):
            yield Progress(0, len(texts), note)
        scores = yield from _scores_of(model, image, labels, texts)
    best = sorted(scores, key=lambda one: -one["score"])[:most]
    return Classification(best[0]["label"], best[0]["score"], best)


def _own_scores(model: Network, image: Image) -> list[dict[str, Any]]:
    import torch

    inputs = model.inputs(image)
    with torch.no_grad():
        logits = model.finite(model.module(**inputs).logits[0]).cpu()
    config = model.module.config
    if config.problem_type == "regression":
        scores = logits
    elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
        scores = logits.sigmoid()
    else:
        scores = logits.softmax(-1)
    return [
        # Some configurations name fewer labels than the network has.
        {"label": model.label(number), "score": score}
        for number, score in enumerate(scores.tolist())
    ]


def _scores_of(
    model: Network, image: Image, labels: list[str], texts: list[str]
) -> Generator[Progress, None, list[dict[str, Any]]]:
    import torch

    seen = model.inputs(image)
    independent = "siglip" in model.module.config.model_type
    padding: dict[str, Any] = (
        {"padding": "max_length", "max_length": 64} if independent else {"padding": True}
    )
    logits = []
    for start in range(0, len(texts), _AT_ONCE):
        read = model.inputs(text=texts[start : start + _AT_ONCE], truncation=True, **padding)
        with torch.no_grad():
            logits.append(model.module(**read, **seen).logits_per_image[0])
        yield Progress(min(start + _AT_ONCE, len(texts)), len(texts))
    found = model.finite(torch.cat(logits)).cpu()
    scores = found.sigmoid() if independent else found.softmax(-1)
    return [
        {"label": label, "score": score}
        for label, score in zip(labels, scores.tolist(), strict=True)
    ]
