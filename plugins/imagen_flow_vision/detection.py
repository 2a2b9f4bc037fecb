"""Find things in a picture: of the kinds that a detector was trained with, or what words name."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, NamedTuple

import imagen_flow as flow
from imagen_flow import Image, Json, List, Progress, Range, Steps, Text
from imagen_flow.errors import nearest
from imagen_flow.loaders import Leased

from .networks import Network, NetworkLoader
from .phrases import checked, unread

Found = tuple[Any, list[str], Any]
"""Scores, labels, and boxes of what was found."""


class Detected(NamedTuple):
    detections: List[Json]
    labels: List[Text]
    number: int


@flow.node(
    "image.detect", version=1, uses=("pillow", "scipy", "tokenizers", "torch", "transformers")
)
def detect(
    model: Annotated[Network, Leased(NetworkLoader("image.detect"))],
    image: Image,
    *,
    words: List[Text] | None = None,
    threshold: Annotated[float, Range(0, 1)] | None = None,
    most: Annotated[int, Range(1, 10_000)] = 100,
) -> Steps[Detected]:
    """Find things in a picture, with a box around each.

    Inputs:
        model: a detector (DETR, RT-DETR, YOLOS, D-FINE …), such as hf:PekingU/rtdetr_r50vd, which
            finds the kinds of things that it was trained with; or OWL-ViT, OWLv2 or Grounding DINO,
            which find what `words` name. OWLv2 needs the extra ``vision``.
        image: of any size; converted to 8 bits, with alpha composited over black.
    Params:
        words: what to look for, for OWL-ViT, OWLv2 and Grounding DINO. With a detector, they keep
            the things with these labels.
        threshold: the score, 0 to 1, above which a thing counts; by default as in the library: 0.5
            for a detector, 0.1 for OWL-ViT and OWLv2, 0.25 for Grounding DINO.
        most: how many things are returned, those with the highest scores.
    Outputs:
        detections: ``{label, score, box}`` of each thing, the most certain first; its box is
            ``[left, top, right, bottom]`` in pixels of the picture, from its top left corner, and
            may extend a little beyond the picture; what lies wholly beside it is left out. Empty, with a note, if nothing is found.
        labels: the labels of the detections, in their order.
        number: how many there are.
    Raises:
        ValueError: words are missing, empty or given twice, or the detector has no such label.
    Source:
        ``post_process_object_detection`` and ``post_process_grounded_object_detection`` of the
        models' processors in transformers. With Grounding DINO, a label is the one of `words` whose
        tokens score highest; the library joins all tokens above a threshold.
    """
    if words is not None:
        checked(words, "words")
    kind = model.module.config.model_type
    if kind.startswith("owl"):
        scores, labels, boxes = yield from _by_owl(model, image, _needed(model, words), threshold)
    elif kind.endswith("grounding-dino"):
        scores, labels, boxes = yield from _by_grounding(
            model, image, _needed(model, words), threshold
        )
    else:
        scores, labels, boxes = _by_detector(model, image, words, threshold)
    found = [
        {"label": label, "score": score, "box": box}
        for score, label, box in zip(scores.tolist(), labels, boxes.tolist(), strict=True)
        if (words is None or label in words) and _is_inside(box, image)
    ]
    best = sorted(found, key=lambda one: -one["score"])[:most]
    yield Progress(1, 1, "" if best else "nothing was found; a lower 'threshold' finds more")
    return Detected(best, [one["label"] for one in best], len(best))


def _is_inside(box: list[float], image: Image) -> bool:
    """Whether some of a box is in the picture: OWLv2 sees it padded, and finds things beside it."""
    left, top, right, bottom = box
    return right > 0 and bottom > 0 and left < image.width and top < image.height


def _needed(model: Network, words: list[str] | None) -> list[str]:
    if words is None:
        raise ValueError(
            f"port 'words' is missing: the model '{model.reference}' finds what words name"
        )
    return words


def _by_detector(
    model: Network, image: Image, words: list[str] | None, threshold: float | None
) -> Found:
    names = [str(name) for name in model.module.config.id2label.values()]
    for word in words or ():
        if word not in names:
            raise ValueError(
                f"port 'words' names '{word[:100]}', but the model '{model.reference}' finds only"
                f" its own labels; {nearest(word, names, what='such as')}"
            )
    outputs = _forward(model, model.inputs(image))
    found = model.processor.post_process_object_detection(
        outputs,
        threshold=0.5 if threshold is None else threshold,
        target_sizes=[(image.height, image.width)],
    )[0]
    return (
        found["scores"],
        [model.label(number) for number in found["labels"].tolist()],
        found["boxes"],
    )


def _by_owl(
    model: Network, image: Image, words: list[str], threshold: float | None
) -> Generator[Progress, None, Found]:
    for note in unread(model, words):
        yield Progress(0, 1, note)
    read = model.inputs(image, text=[words], truncation=True)
    found = model.processor.post_process_grounded_object_detection(
        _forward(model, read),
        threshold=0.1 if threshold is None else threshold,
        target_sizes=[(image.height, image.width)],
    )[0]
    return found["scores"], [words[number] for number in found["labels"].tolist()], found["boxes"]


def _by_grounding(
    model: Network, image: Image, words: list[str], threshold: float | None
) -> Generator[Progress, None, Found]:
    import torch

    # It reads all phrases as one text, divided by full stops.
    for note in unread(model, words):
        yield Progress(0, 1, note)
    for word in words:
        if "." in word:
            raise ValueError(
                f"port 'words' names '{word[:100]}'; leave out the full stop, which divides what the"
                f" model '{model.reference}' is to find"
            )
    phrases = [word.strip().lower() for word in words]
    text = "".join(f"{phrase}. " for phrase in phrases).strip()
    tokenizer, most = model.processor.tokenizer, model.module.config.max_text_len
    spans = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(spans) > most:
        raise ValueError(
            f"port 'words' has {len(spans)} tokens, and the model '{model.reference}' reads at most"
            f" {most}; look for fewer things at once"
        )
    read = model.inputs(image, text=text)
    outputs = _forward(model, read)
    least = 0.25 if threshold is None else threshold
    found = model.processor.post_process_grounded_object_detection(
        outputs, read["input_ids"], threshold=least, target_sizes=[(image.height, image.width)]
    )[0]
    likely = outputs.logits[0].sigmoid()
    likely = likely[likely.max(-1).values > least]
    by_phrase = []
    start = 0
    for phrase in phrases:
        end = start + len(phrase)
        tokens = [n for n, (a, b) in enumerate(spans) if b > a and a < end and b > start]
        by_phrase.append(likely[:, tokens].amax(-1) if tokens else likely.new_zeros(len(likely)))
        start = end + 2
    best = torch.stack(by_phrase).argmax(0).tolist()
    return found["scores"], [words[number] for number in best], found["boxes"]


def _forward(model: Network, inputs: Any) -> Any:
    import torch

    with torch.no_grad():
        outputs = model.module(**inputs)
    # Tokens that a text has not got score minus infinity, which is no fault.
    model.finite(outputs.pred_boxes)
    if bool(torch.isnan(outputs.logits).any()):
        model.finite(outputs.logits)
    outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
    return outputs
