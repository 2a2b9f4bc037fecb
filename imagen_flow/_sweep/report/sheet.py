"""Draw contact sheets: the pictures of an index with what differs between them, in pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._system.dataclass import dataclass
from ..._types.image_files import encode_png
from ..._types.lettering import Lettering, choose_lettering
from ..._types.thumbnails import read_reduced
from .labels import Axis, axes_of, choose_grid, labels_of, value_label
from .pictures import Picture
from .rows import Index, Row

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SOFTWARE", "TEXT_SIZE", "Sheets"]

#: How a sheet of ours is recognised before it is replaced.
SOFTWARE = "imagen-flow report"

#: The most pixels a side of a page has for pictures; labels come on top of it.
_MAX_SIDE = 3600

#: So many characters of a label are looked at.
_MAX_TEXT = 2000

_GAP = 12
#: The height of labels, in pixels.
TEXT_SIZE = 13

#: The most lines of a label that is the only one of its cell, and of one of several.
_LINES, _LINES_OF_EACH = 4, 2
_HEAD_LINES = 8
_HEAD_WIDTH = 160

_GROUND = (255, 255, 255)
_INK = (30, 32, 36)
_BLANK = (236, 236, 234)
_FAILED = (253, 228, 225)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A picture, or what is shown in its place, and its label."""

    path: Path | None
    text: str
    is_failed: bool
    labels: list[str]


@dataclass(frozen=True, slots=True)
class _Page:
    """Cells in rows; a cell may be empty. Without column heads, the labels are below the cells."""

    cells: list[list[_Cell | None]]
    column_heads: list[str]
    row_heads: list[str]


class Sheets:
    """The pages of a contact sheet, drawn one at a time.

    `missing` collects the characters that the font does not have, and that are drawn as boxes.
    """

    def __init__(
        self,
        index: Index,
        pictures: Mapping[str, Sequence[Picture]],
        *,
        lettering: Lettering | None = None,
    ) -> None:
        self.missing: set[str] = set()
        rows = index.rows
        self._side = next(
            (side for limit, side in ((64, 256), (400, 192)) if len(rows) <= limit), 128
        )
        self._per_side = _MAX_SIDE // (self._side + _GAP)
        axes = axes_of(rows)
        down, across = choose_grid(rows, axes)
        first = next((p.name for row in rows for p in pictures[row.item]), "")
        cells = {row.item: _cell(row, pictures[row.item], first, axes) for row in rows}
        words = {text for cell in cells.values() for text in (cell.text, *cell.labels)}
        letters = "".join(sorted({letter for text in words for letter in text[:_MAX_TEXT]}))
        self._lettering = lettering or choose_lettering(letters[:_MAX_TEXT], size=TEXT_SIZE)
        self._pages = (
            list(_grid_pages(rows, cells, axes[down], axes[across], self._per_side))
            if len(axes) == 2 and down >= 0
            else list(_flow_pages([cells[row.item] for row in rows], self._per_side))
        )

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[bytes]:
        """Draw each page as a PNG."""
        for page in self._pages:
            yield encode_png(self._draw(page), software=SOFTWARE)

    def _draw(self, page: _Page) -> Any:
        import numpy as np

        paths = [cell.path for line in page.cells for cell in line if cell and cell.path]
        decoded = dict(zip(paths, read_reduced(paths, fit=(self._side, self._side)), strict=True))
        shown = [array for array in decoded.values() if not isinstance(array, str)]
        width = max((array.shape[1] for array in shown), default=self._side)
        height = max((array.shape[0] for array in shown), default=self._side)
        has_labels = not page.column_heads
        # A narrow cell would break words.
        width = max(width, 144 if has_labels else 96)

        line = self._lettering.line_height
        tops = [self._wrap(head, width, _HEAD_LINES) for head in page.column_heads]
        sides = [self._wrap(head, _HEAD_WIDTH, _HEAD_LINES) for head in page.row_heads]
        labels = [
            [self._wrap_labels(cell.labels, width) if cell and has_labels else [] for cell in cells]
            for cells in page.cells
        ]
        top = _GAP + (line * max(map(len, tops)) + _GAP if tops else 0)
        left = _GAP + (_HEAD_WIDTH + _GAP if sides else 0)
        below = [line * max(map(len, texts), default=0) for texts in labels]
        if sides:
            heights = [max(height, line * len(texts)) for texts in sides]
        else:
            heights = [height] * len(page.cells)
        columns = max(map(len, page.cells), default=0)
        canvas = np.full(
            (
                top + sum(heights) + sum(below) + _GAP * len(heights),
                left + columns * (width + _GAP),
                3,
            ),
            _GROUND,
            "uint8",
        )
        for number, texts in enumerate(tops):
            start = top - _GAP - line * len(texts)
            self._write(canvas, texts, left + number * (width + _GAP), start, width)
        for row, cells in enumerate(page.cells):
            if sides:
                self._write(canvas, sides[row], _GAP, top, _HEAD_WIDTH, centred=False)
            for column, cell in enumerate(cells):
                if cell is None:
                    continue
                x = left + column * (width + _GAP)
                content = decoded[cell.path] if cell.path else cell.text
                self._paste(canvas, content, cell.is_failed, x, top, width, height)
                self._write(canvas, labels[row][column], x, top + height, width)
            top += heights[row] + below[row] + _GAP
        return canvas

    def _wrap(self, text: str, width: int, lines: int) -> list[str]:
        text = "".join(c if c.isprintable() else " " for c in text)
        self.missing |= self._lettering.missing(text[:_MAX_TEXT])
        return self._lettering.wrap(
            self._lettering.replace_missing(text[:_MAX_TEXT]), width, lines=lines
        )

    def _wrap_labels(self, labels: list[str], width: int) -> list[str]:
        """Put as many labels on a line as fit."""
        if len(labels) == 1:
            return self._wrap(labels[0], width, _LINES)
        lines: list[str] = []
        for label in labels:
            wrapped = self._wrap(label, width, _LINES_OF_EACH)
            joined = f"{lines[-1]} · {wrapped[0]}" if lines and len(wrapped) == 1 else ""
            if joined and self._lettering.width(joined) <= width:
                lines[-1] = joined
            else:
                lines += wrapped
        return lines

    def _write(
        self, canvas: Any, texts: list[str], x: int, y: int, width: int, *, centred: bool = True
    ) -> None:
        for number, text in enumerate(texts):
            opacity = self._lettering.draw(text, width, centred=centred)[:, :, None] / 255
            _blend(canvas, x, y + number * self._lettering.line_height, _INK, opacity)

    def _paste(
        self,
        canvas: Any,
        content: np.ndarray | str,
        is_failed: bool,
        x: int,
        y: int,
        width: int,
        height: int,
    ) -> None:
        if isinstance(content, str):
            canvas[y : y + height, x : x + width] = _FAILED if is_failed else _BLANK
            lines = max(1, (height - 8) // self._lettering.line_height)
            texts = self._wrap(content, width - 12, lines)
            start = y + (height - len(texts) * self._lettering.line_height) // 2
            self._write(canvas, texts, x + 6, start, width - 12)
            return
        tall, wide = content.shape[:2]
        opacity = content[:, :, 3:] / 255
        _blend(
            canvas, x + (width - wide) // 2, y + (height - tall) // 2, content[:, :, :3], opacity
        )


def _blend(canvas: Any, x: int, y: int, colour: Any, opacity: Any) -> None:
    under = canvas[y : y + opacity.shape[0], x : x + opacity.shape[1]]
    under[:] = (under * (1 - opacity) + colour * opacity).round().astype("uint8")


def _cell(row: Row, pictures: Sequence[Picture], output: str, axes: Sequence[Axis]) -> _Cell:
    picture = next((p for p in pictures if p.name == output), None)
    labels = labels_of(row, axes)
    if picture is not None and picture.path is not None and row.status == "done":
        return _Cell(picture.path, "", False, labels)
    if row.status != "done":
        first = row.error.partition("\n")[0]
        text = f"{row.status}: {first}" if first else row.status
    else:
        text = picture.missing if picture else "no picture"
    return _Cell(None, text, row.status == "failed", labels)


def _flow_pages(cells: list[_Cell], per_side: int) -> Iterator[_Page]:
    columns = min(per_side, max(1, math.ceil(math.sqrt(len(cells)))))
    for start in range(0, len(cells), columns * per_side):
        page = cells[start : start + columns * per_side]
        yield _Page([[*page[at : at + columns]] for at in range(0, len(page), columns)], [], [])


def _grid_pages(
    rows: Sequence[Row], cells: Mapping[str, _Cell], down: Axis, across: Axis, per_side: int
) -> Iterator[_Page]:
    places: dict[tuple[str, str], _Cell] = {}
    for row in rows:
        values = row.axes or row.inputs
        if down.name in values and across.name in values:
            places.setdefault((values[down.name], values[across.name]), cells[row.item])
    for top in range(0, len(down.values), per_side):
        on_page = down.values[top : top + per_side]
        for left in range(0, len(across.values), per_side):
            columns = across.values[left : left + per_side]
            yield _Page(
                [[places.get((value, column)) for column in columns] for value in on_page],
                [value_label(across, column) for column in columns],
                [value_label(down, value) for value in on_page],
            )
