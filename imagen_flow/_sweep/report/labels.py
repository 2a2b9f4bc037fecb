"""Say what differs between items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
    points = [values_on(row, axes) for row in rows]
    for column, across in enumerate(axes):
        for row, down in enumerate(axes):
            if row == column:
                continue
            cells = len({(point[row], point[column]) for point in points})
            size = len(across.values) * len(down.values)
            fits = len(across.values) <= 12 or len(across.values) <= len(down.values)
            if cells >= size / 2 and fits and (size, len(across.values)) > best:
                best, chosen = (size, len(across.values)), (row, column)
    return chosen


def shorten_values(values: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the words that all values begin or end with by an ellipsis, if some value is long."""
    if len(values) < 2 or max(map(len, values)) <= _LONG:
        return values
    words = [value.split() for value in values]
    shortest = min(map(len, words))
    first, last = words[0], words[-1]
    head = 0
    while head < shortest and all(w[head] == first[head] for w in words):
        head += 1
    tail = 0
    while tail < shortest - head and all(w[-1 - tail] == last[-1 - tail] for w in words):
        tail += 1
    # A word or two are clearer than an ellipsis, and every value keeps a word.
    head = min(head, shortest - 1) if head > 2 else 0
    tail = min(tail, shortest - head - 1) if tail > 2 else 0
    if not head and not tail:
        return values
    return tuple(
        ("… " if head else "") + " ".join(w[head : len(w) - tail]) + (" …" if tail else "")
        for w in words
    )
