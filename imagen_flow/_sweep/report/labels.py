"""Say what differs between items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby

from ..._system.dataclass import dataclass
from .rows import Row

__all__ = [
    "Axis",
    "axes_of",
    "choose_grid",
    "labels_of",
    "shorten_values",
    "value_label",
    "values_on",
]

#: Texts are shortened to the part that differs if they are longer than this.
_LONG = 40

#: So many axes are tried for a grid, the first ones.
_GRID_AXES = 12

#: Shorter values are not shown without the name of their axis.
_SHORT = 12


@dataclass(frozen=True)
class Axis:
    """A quantity that varies: its values in order of appearance, and what distinguishes each."""

    name: str
    values: tuple[str, ...]
    short: tuple[str, ...]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {value: position for position, value in enumerate(self.values)}

    def position(self, value: str) -> int:
        return self._positions[value]

    def label(self, value: str) -> str:
        return self.short[self.position(value)]


def axes_of(rows: Sequence[Row]) -> tuple[Axis, ...]:
    """Return the axes with more than one value; if no item names an axis, the inputs that vary."""
    named = any(row.axes for row in rows)
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in (row.axes if named else row.inputs).items():
            values.setdefault(name, {})[value] = None
    return tuple(
        Axis(name, tuple(found), shorten_values(tuple(found)))
        for name, found in values.items()
        if len(found) > 1
    )


def values_on(row: Row, axes: Sequence[Axis]) -> tuple[str | None, ...]:
    """Return an item's value on each axis; None where it has none."""
    source: Mapping[str, str] = row.axes or row.inputs
    return tuple(source.get(axis.name) for axis in axes)


def value_label(axis: Axis, value: str) -> str:
    """Write a value, with the name of its axis unless it speaks for itself."""
    return axis.label(value) if len(value) > _SHORT else f"{axis.name} {axis.label(value)}"


def labels_of(row: Row, axes: Sequence[Axis]) -> list[str]:
    """Describe an item by its values on some axes; by its own label if it has none."""
    return [
        value_label(axis, value)
        for axis, value in zip(axes, values_on(row, axes), strict=True)
        if value is not None
    ] or [row.item]


def choose_grid(rows: Sequence[Row], axes: Sequence[Axis]) -> tuple[int, int]:
    """Choose the axes of rows and columns, -1 for none: two axes if their grid is mostly filled,
    with the most values that fit a screen in columns.
    """
    best, chosen = (0, 0), (-1, -1)
    axes = axes[:_GRID_AXES]
    points = [values_on(row, axes) for row in rows]
    for column, across in enumerate(axes):
        for row, down in enumerate(axes):
            if row == column or len(across.values) * len(down.values) > 2 * len(rows):
                continue
            cells = len({(point[row], point[column]) for point in points})
            size = len(across.values) * len(down.values)
            fits = len(across.values) <= 12 or len(across.values) <= len(down.values)
            if cells >= size / 2 and fits and (size, len(across.values)) > best:
                best, chosen = (size, len(across.values)), (row, column)
    return chosen


def shorten_values(values: tuple[str, ...]) -> tuple[str, ...]:
    """Replace words that all values have in common by an ellipsis, if some value is long.

    They are compared place by place if all values have equally many, as those made from a template
    do, else from the beginning and from the end.
    """
    if len(values) < 2 or max(map(len, values)) <= _LONG:
        return values
    words = [value.split() for value in values]
    if len(set(map(len, words))) == 1:
        is_common = [len(set(column)) == 1 for column in zip(*words, strict=True)]
        return tuple(_elide(line, is_common) for line in words)
    shortest = min(map(len, words))
    head = _count_common(words, shortest)
    # Every value keeps a word.
    tail = _count_common([line[::-1] for line in words], shortest - head - 1)
    return tuple(
        _elide(line, [i < head or i >= len(line) - tail for i in range(len(line))])
        for line in words
    )


def _count_common(words: Sequence[Sequence[str]], limit: int) -> int:
    count = 0
    while count < limit and len({line[count] for line in words}) == 1:
        count += 1
    return count


def _elide(words: Sequence[str], is_common: Sequence[bool]) -> str:
    """Replace runs of common words; a word or two are clearer than an ellipsis."""
    shown: list[str] = []
    for common, run in groupby(zip(is_common, words, strict=True), key=lambda pair: pair[0]):
        texts = [word for _, word in run]
        shown += ["…"] if common and len(texts) > 2 else texts
    return " ".join(shown)
