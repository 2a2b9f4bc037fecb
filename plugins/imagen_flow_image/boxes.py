"""Draw boxes around things that were found in a picture, or crop the things out."""

from __future__ import annotations

import math
from typing import Annotated, Any

from imagen_flow import Image, Json, Lettering, List, Range, Text, node

from .colours import read_colour
from .layers import composite_over
from .pixels import from_unit, to_unit, with_channels

#: Colours of labels in the order in which they appear (Okabe and Ito, told apart by most eyes).
_PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@node("image.draw_boxes", version=1, uses=("numpy", "pillow"))
def draw_boxes(
    image: Image,
    boxes: List[Json],
    *,
    width: Annotated[int, Range(1, 1000)] | None = None,
    colour: Text | None = None,
    label_size: Annotated[int, Range(0, 1000)] | None = None,
) -> Image:
    """Draw boxes around things that were found, with their labels and scores.

    Inputs:
        boxes: detections, as `image.detect` gives them, or ``[left, top, right, bottom]`` each, in
            pixels; the first is drawn last, on top of the others.
    Params:
        width: of the lines, in pixels; by default 1/200 of the picture's longer side.
        colour: of all boxes; by default each label has its own.
        label_size: text height in pixels, by default 1/40 of the picture's longer side, at least
            10; 0 writes no labels.
    Outputs: the picture in colour, in its depth.
    Raises:
        ValueError: a box is not one, or lies beside the picture.
    """
    placed = [_placed(box, number, image) for number, box in enumerate(boxes, 1)]
    longest = max(image.width, image.height)
    line = width or max(1, round(longest / 200))
    size = max(10, round(longest / 40)) if label_size is None else label_size
    lettering = Lettering(size=size) if size else None
    drawn = with_channels(image.pixels, colour=True, alpha=False).copy()
    labels = list(dict.fromkeys(_label(box) for box in boxes))
    for box, (left, top, right, bottom) in reversed(list(zip(boxes, placed, strict=True))):
        ink = colour or _PALETTE[labels.index(_label(box)) % len(_PALETTE)]
        paint = _paint(ink, drawn)
        for part in (
            drawn[top : top + line, left:right],
            drawn[max(top, bottom - line) : bottom, left:right],
            drawn[top:bottom, left : left + line],
            drawn[top:bottom, max(left, right - line) : right],
        ):
            part[:] = paint
        if lettering is not None and (text := _text(box)):
            _write(drawn, lettering, text, left, top, paint)
    return Image(drawn)


@node("image.crop_boxes", version=1, uses=("numpy",))
def crop_boxes(
    image: Image, boxes: List[Json], *, margin: Annotated[float, Range(0, 10)] = 0.0
) -> List[Image]:
    """Crop a picture to each of some boxes.

    Inputs:
        boxes: detections, as `image.detect` gives them, or ``[left, top, right, bottom]`` each, in
            pixels; a box is rounded outwards to whole pixels and ends at the picture's edge.
    Params:
        margin: what is kept around a box, as a fraction of its longer side.
    Outputs: the pictures in the order of the boxes.
    Raises:
        ValueError: a box is not one, or lies beside the picture.
    """
    found = []
    for number, box in enumerate(boxes, 1):
        left, top, right, bottom = _placed(box, number, image, margin)
        found.append(Image(image.pixels[top:bottom, left:right]))
    return found


def _placed(box: Any, number: int, image: Image, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Give a box in whole pixels inside a picture."""
    sides = box.get("box") if isinstance(box, dict) else box
    if (
        not isinstance(sides, list)
        or len(sides) != 4
        or not all(isinstance(n, int | float) and math.isfinite(n) for n in sides)
    ):
        raise ValueError(
            f"number {number} of port 'boxes' is no box: {str(box)[:100]}; a box is [left, top,"
            " right, bottom] in pixels, alone or as 'box' of a detection"
        )
    left, top, right, bottom = sides
    if right < left or bottom < top:
        raise ValueError(
            f"number {number} of port 'boxes' ends before it begins: {sides}; a box is [left, top,"
            " right, bottom]"
        )
    extra = margin * max(right - left, bottom - top)
    first = (max(0, math.floor(left - extra)), max(0, math.floor(top - extra)))
    last = (
        min(image.width, max(math.ceil(right + extra), first[0] + 1)),
        min(image.height, max(math.ceil(bottom + extra), first[1] + 1)),
    )
    if first[0] >= last[0] or first[1] >= last[1]:
        raise ValueError(
            f"number {number} of port 'boxes' lies beside the picture of {image.width} x"
            f" {image.height}: {sides}; find boxes in the same picture, in its size"
        )
    return (*first, *last)


def _label(box: Any) -> str:
    return str(box.get("label", "")) if isinstance(box, dict) else ""


def _text(box: Any) -> str:
    score = box.get("score") if isinstance(box, dict) else None
    shown = f"{score:.2f}" if isinstance(score, int | float) else ""
    return f"{_label(box)} {shown}".strip()


def _paint(colour: str, pixels: Any) -> Any:
    import numpy as np

    rgb = np.array([*read_colour(colour)[:3], 255], dtype="float32") / np.float32(255)
    return from_unit(rgb[: pixels.shape[2]], pixels.dtype)


def _write(drawn: Any, lettering: Lettering, text: str, left: int, top: int, paint: Any) -> None:
    """Write a label above a box, or inside where there is no room above."""
    import numpy as np

    text = lettering.replace_missing(text)
    lines = lettering.wrap(text, max(1, drawn.shape[1] - left), lines=1)
    if not lines:
        return
    high = lettering.line_height
    wide = min(drawn.shape[1] - left, math.ceil(lettering.width(lines[0])) + 4)
    opacity = lettering.draw(lines[0], wide).astype("float32") / np.float32(255)
    above = top - high if top >= high else top
    under = drawn[above : above + high, left : left + wide]
    under[:] = paint
    ink = np.zeros((*under.shape[:2], 4), dtype="float32")
    ink[:, :, 3] = opacity[: under.shape[0]]
    under[:] = from_unit(composite_over(to_unit(under), ink, 1.0, "normal"), drawn.dtype)
