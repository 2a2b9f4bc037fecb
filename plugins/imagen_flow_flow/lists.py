"""Make lists, and take them apart."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from imagen_flow import List, Number, Range, Value, node

from .numbers import checked


@node("flow.list", version=1)
def make(
    a: Value | None = None,
    b: Value | None = None,
    c: Value | None = None,
    d: Value | None = None,
    e: Value | None = None,
    f: Value | None = None,
    g: Value | None = None,
    h: Value | None = None,
) -> List[Value]:
    """Collect values into a list, in the order of the ports; absent values are left out.

    For more than eight, join lists with `list.concat`.
    """
    return [value for value in (a, b, c, d, e, f, g, h) if value is not None]


@node("list.get", version=1)
def get(values: List[Value], index: int = 0) -> Value:
    """Return one element of a list.

    Params:
        index: counts from 0; negative numbers count from the end, so -1 is the last.

    Raises:
        ValueError: there is no such element.
    """
    if not -len(values) <= index < len(values):
        raise ValueError(
            f"port 'index' is {index}, but the list has {_count(values)}{_bounds(values)}"
        )
    return values[index]


@node("list.slice", version=1)
def cut(values: List[Value], *, start: int = 0, stop: int | None = None) -> List[Value]:
    """Return a slice of a list.

    Params:
        start: the first element; negative numbers count from the end.
        stop: the first element after the slice; without it, the slice goes to the end. Indexes
            beyond the ends are not an error.
    """
    return values[start:stop]


@node("list.concat", version=1)
def concat(
    a: List[Value],
    b: List[Value],
    c: List[Value] | None = None,
    d: List[Value] | None = None,
) -> List[Value]:
    """Concatenate lists."""
    return [*a, *b, *(c or []), *(d or [])]


@node("list.length", version=1)
def length(values: List[Value]) -> int:
    """Count the elements of a list."""
    return len(values)


@node("list.range", version=1)
def range_(
    count: Annotated[int, Range(0, 100_000)], *, start: Number = 0, step: Number = 1
) -> List[Number]:
    """Make a list of evenly spaced numbers, to vary something with `each`.

    Outputs:
        `count` numbers: start, start + step, start + 2 step, … They are ints if `start` and `step`
            are.
    """
    return [checked(partial(_spaced, start, step, index)) for index in range(count)]


def _spaced(start: Number, step: Number, index: int) -> Number:
    return start + step * index


def _count(values: List[Value]) -> str:
    return "1 element" if len(values) == 1 else f"{len(values)} elements"


def _bounds(values: List[Value]) -> str:
    return f"; write {-len(values)} to {len(values) - 1}" if values else ""
