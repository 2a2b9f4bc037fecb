"""Arrange many pictures on one sheet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from imagen_flow import File, Image, Lettering, List, Range, Text, node

from .colours import match_channels, read_colour
from .geometry import resize
from .layers import composite_over
from .pixels import check_size, deepest_dtype, from_unit, to_unit, with_channels

if TYPE_CHECKING:
    import numpy as np


@node("image.grid", version=1, uses=("numpy", "pillow"), paired=("images", "labels"))
def grid(
    images: List[Image],
    *,
    labels: List[Text] | None = None,
    columns: Annotated[int, Range(1, 1000)] | None = None,
    thumbnail: Annotated[int, Range(1, 16384)] | None = None,
    gap: Annotated[int, Range(0, 1000)] = 8,
    background: Text = "white",
    label_size: Annotated[int, Range(4, 1000)] = 14,
    label_lines: Annotated[int, Range(1, 50)] = 1,
    label_colour: Text = "black",
    font: File | None = None,
) -> Image:
    """Arrange pictures in rows and columns: a contact sheet.

    Inputs:
        images: in reading order; smaller ones are centred in their cells.
        labels: one text per picture, written below it and truncated if it is too long for its cell;
            line breaks count as spaces.
        font: a TrueType or OpenType file; without it, Pillow's own font, which has little
            more than the letters of English.

    Params:
        columns: by default as many as make the sheet about square.
        thumbnail: fit every picture into a square of this many pixels; without it, they keep their
            sizes and the largest determines the cells.
        gap: pixels between pictures and around the sheet.
        label_size: text height in pixels.
        label_lines: the most lines of a label, which is wrapped between words; the sheet has room
            for as many as its longest label needs.

    Outputs:
        in the deepest of the depths; in colour if any picture is; with alpha if the background is
            not opaque.

    Raises:
        ValueError: there is no picture, the numbers of labels and pictures differ, or the sheet
            would be too large.
    """
    if not images:
        raise ValueError("port 'images' is an empty list; a sheet needs at least one picture")
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"port 'labels' has {len(labels)} texts for {len(images)} pictures; give one label per"
            " picture"
        )
    if thumbnail is not None:
        images = [
            resize(image, width=thumbnail, height=thumbnail, fit="contain") for image in images
        ]
    column_count = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    row_count = math.ceil(len(images) / column_count)
    cell = (max(image.width for image in images), max(image.height for image in images))
    lettering = _lettering(font, label_size) if labels is not None else None
    written: list[list[str]] = [[] for _ in images]
    if labels is not None and lettering is not None:
        written = [lettering.wrap(label, cell[0], lines=label_lines) for label in labels]
    line = lettering.line_height if lettering is not None else 0
    below = line * max(1, *(len(lines) for lines in written))
    width, height = column_count * (cell[0] + gap) + gap, row_count * (cell[1] + below + gap) + gap
    check_size(width, height)
    sheet = _sheet(images, width, height, background, label_colour if labels is not None else None)
    for index, image in enumerate(images):
        left = gap + (index % column_count) * (cell[0] + gap)
        top = gap + (index // column_count) * (cell[1] + below + gap)
        _paste(
            sheet,
            to_unit(image.pixels),
            left + (cell[0] - image.width) // 2,
            top + (cell[1] - image.height) // 2,
        )
        for number, text in enumerate(written[index]):
            assert lettering is not None
            _paste(
                sheet,
                _ink(lettering.draw(text, cell[0]), label_colour),
                left,
                top + cell[1] + number * line,
            )
    return Image(sheet)


def _sheet(
    images: List[Image], width: int, height: int, background: str, label_colour: str | None
) -> np.ndarray:
    import numpy as np

    blank = np.zeros(
        (1, 1, 3 if any(image.channels >= 3 for image in images) else 1),
        dtype=deepest_dtype(*images),
    )
    wide, drawn = match_channels(blank, read_colour(background, "background"))
    if label_colour is not None and len(set(read_colour(label_colour, "label_colour")[:3])) > 1:
        wide, drawn = match_channels(
            with_channels(wide, colour=True, alpha=False), read_colour(background, "background")
        )
    sheet = np.empty((height, width, wide.shape[2]), dtype=wide.dtype)
    sheet[:] = drawn
    return sheet


def _paste(sheet: np.ndarray, over: np.ndarray, left: int, top: int) -> None:
    under = sheet[top : top + over.shape[0], left : left + over.shape[1]]
    under[:] = from_unit(composite_over(to_unit(under), over, 1.0, "normal"), sheet.dtype)


def _lettering(font: File | None, size: int) -> Lettering:
    try:
        return Lettering(None if font is None else font.read_bytes(), size=size)
    except OSError as error:
        assert font is not None
        raise ValueError(
            f"port 'font': '{font.name or font.path.name}' is not a readable font ({error});"
            " give a .ttf or .otf file"
        ) from error


def _ink(opacity: np.ndarray, colour: str) -> np.ndarray:
    """Colour a line of text: unit pixels with alpha."""
    import numpy as np

    red, green, blue, alpha = read_colour(colour, "label_colour")
    ink = np.array(
        [red, alpha] if red == green == blue else [red, green, blue, alpha], dtype="float32"
    ) / np.float32(255)
    inked = np.tile(ink, (*opacity.shape, 1))
    inked[:, :, -1] *= opacity.astype("float32") / np.float32(255)
    return inked
