"""Make lists, and take them apart."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from imagen_flow import List, Number, Range, Text, Value, node

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


@node("list.filter", version=1, paired=("values", "by"))
def filter_(
    values: List[Value],
    by: List[Value],
    *,
    at_least: Number | None = None,
    at_most: Number | None = None,
) -> List[Value]:
    """Keep the elements of a list whose score is high or low enough, or whose flag is true.

    Inputs:
        by: for each element a number or a boolean. Where one of the lists has an absent element,
            both go without.

    Params:
        at_least, at_most: bounds of the scores, included; for booleans none.

    Outputs:
        the elements that are kept, in their order.

    Raises:
        ValueError: the lists differ in length, or what is in `by` is no number or boolean.
    """
    _same_length(values, by)
    if all(isinstance(flag, bool) for flag in by):
        if at_least is not None or at_most is not None:
            raise ValueError("'at_least' and 'at_most' are for scores, and port 'by' has booleans")
        return [value for value, flag in zip(values, by, strict=True) if flag]
    for index, score in enumerate(by):
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"port 'by' takes numbers or booleans, and its element {index} is not")
    if at_least is None and at_most is None:
        raise ValueError("port 'by' has scores: give 'at_least' or 'at_most'")
    return [
        value
        for value, score in zip(values, by, strict=True)
        if (at_least is None or score >= at_least) and (at_most is None or score <= at_most)
    ]


@node("list.sort", version=1, paired=("values", "by"))
def sort(
    values: List[Value],
    by: List[Number] | List[Text] | None = None,
    *,
    descending: bool = False,
) -> List[Value]:
    """Sort a list by scores or texts. For example the best picture first; `list.slice` takes the
    first few.

    Inputs:
        by: for each element a number or a text; without it, the elements themselves are compared.
            Where one of the lists has an absent element, both go without.

    Params:
        descending: the largest first.

    Outputs:
        the elements in order; equals keep their order, also when it is descending.

    Raises:
        ValueError: the lists differ in length, or what is compared is neither all numbers nor all
            texts.
    """
    keys = values if by is None else by
    _same_length(values, keys)
    numbers = all(isinstance(key, int | float) and not isinstance(key, bool) for key in keys)
    if not numbers and not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"port '{'values' if by is None else 'by'}' takes all numbers or all texts, to compare"
        )
    order = sorted(range(len(values)), key=lambda index: keys[index], reverse=descending)
    return [values[index] for index in order]


@node("list.flatten", version=1)
def flatten(values: List[Value], *, depth: Annotated[int, Range(1, 32)] = 32) -> List[Value]:
    """Make one list of a list of lists, of any and different lengths.

    Params:
        depth: how many levels of lists are opened; without it, all.
    """
    flat: list[Value] = []
    for value in values:
        if isinstance(value, list | tuple) and depth > 0:
            flat += flatten(list(value), depth=depth - 1) if depth > 1 else value
        else:
            flat.append(value)
    return flat


@node("list.zip", version=1, paired=("a", "b", "c", "d"))
def zip_(
    a: List[Value],
    b: List[Value],
    c: List[Value] | None = None,
    d: List[Value] | None = None,
) -> List[List[Value]]:
    """Pair the elements of lists: the first with the first, and so on.

    Outputs:
        a list of an element of each list, for each position; a position at which one of them has an
            absent element is left out.

    Raises:
        ValueError: the lists differ in length.
    """
    given = [values for values in (a, b, c, d) if values is not None]
    for values in given:
        _same_length(a, values)
    return [list(row) for row in zip(*given, strict=True)]


def _same_length(values: List[Value], by: List[Value]) -> None:
    if len(values) != len(by):
        raise ValueError(
            f"the lists differ in length: {_count(values)} and {_count(by)}; absent elements are"
            " left out of a list"
        )


def _spaced(start: Number, step: Number, index: int) -> Number:
    return start + step * index


def _count(values: List[Value]) -> str:
    return "1 element" if len(values) == 1 else f"{len(values)} elements"


def _bounds(values: List[Value]) -> str:
    return f"; write {-len(values)} to {len(values) - 1}" if values else ""
