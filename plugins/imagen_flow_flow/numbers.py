"""Compute with numbers.

Whole numbers stay whole where the result is exact. A result beyond what a graph can hold is an
error, never an infinity. To feed a port that takes whole numbers,
end with `math.round`, `math.floor` or `math.ceil`: they are the ones that always give a whole
    number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

from imagen_flow import Number, Range, Text, node

LARGEST = 2**63 - 1
"""Whole numbers reach as far as seeds do."""


@node("math.add", version=1)
def add(a: Number, b: Number) -> Number:
    """Add two numbers."""
    return kept(lambda: a + b)


@node("math.subtract", version=1)
def subtract(a: Number, b: Number) -> Number:
    """Take `b` from `a`."""
    return kept(lambda: a - b)


@node("math.multiply", version=1)
def multiply(a: Number, b: Number) -> Number:
    """Multiply two numbers."""
    return kept(lambda: a * b)


@node("math.divide", version=1)
def divide(a: Number, b: Number) -> Number:
    """Divide `a` by `b`.

    Outputs:
        a whole number if both are whole and nothing is left over (6 / 3 is 2), else a fraction (7 /
        2 is 3.5).

    Raises:
        ValueError: `b` is zero.
    """
    if b == 0:
        raise ValueError(f"port 'b' is 0, and {a} cannot be divided by 0")
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return kept(lambda: a // b)
    return kept(lambda: a / b)


@node("math.power", version=1)
def power(a: Number, b: Number) -> Number:
    """Raise `a` to the power `b`; 0.5 gives the square root.

    Raises:
        ValueError: the result is too large, or no real number.
    """
    if a == 0 and b < 0:
        raise ValueError(f"port 'a' is 0, and 0 has no power {b}")
    if a < 0 and b != int(b):
        raise ValueError(
            f"port 'a' is {a}, and a negative number has no real power {b}; give a positive one"
        )
    if isinstance(a, int) and isinstance(b, int) and b >= 0:
        if abs(a) > 1 and (b > 64 or b * math.log2(abs(a)) > 64):
            raise ValueError(_too_large())
        return kept(lambda: a**b)
    return kept(lambda: float(a) ** float(b))


@node("math.modulo", version=1)
def modulo(a: Number, b: Number) -> Number:
    """Give what is left of `a` after dividing by `b`; it has the sign of `b`.

    Raises:
        ValueError: `b` is zero.
    """
    if b == 0:
        raise ValueError(f"port 'b' is 0, and {a} cannot be divided by 0")
    return kept(lambda: a % b)


@node("math.min", version=1)
def smaller(a: Number, b: Number) -> Number:
    """Give the smaller of two numbers."""
    return min(a, b)


@node("math.max", version=1)
def larger(a: Number, b: Number) -> Number:
    """Give the larger of two numbers."""
    return max(a, b)


@node("math.clamp", version=1)
def clamp(value: Number, *, low: Number, high: Number) -> Number:
    """Keep a number within bounds.

    Raises:
        ValueError: `low` is above `high`.
    """
    if low > high:
        raise ValueError(f"port 'low' is {low}, above port 'high', which is {high}; swap them")
    return min(max(value, low), high)


@node("math.round", version=1)
def round_(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round to the nearest whole number, or to the nearest multiple: 8 suits the sizes that models
    take.

    Halves go up: 2.5 gives 3, -2.5 gives -2.
    """
    return _whole(math.floor(Fraction(value) / multiple + Fraction(1, 2)) * multiple)


@node("math.floor", version=1)
def floor(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round down to a whole number, or to a multiple."""
    return _whole(math.floor(Fraction(value) / multiple) * multiple)


@node("math.ceil", version=1)
def ceil(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round up to a whole number, or to a multiple."""
    return _whole(math.ceil(Fraction(value) / multiple) * multiple)


@node("number.to_text", version=1)
def to_text(value: Number, *, digits: Annotated[int, Range(0, 15)] | None = None) -> Text:
    """Write a number as text.

    Params:
        digits: how many after the point; without it, the shortest form that is exact.
    """
    return str(value) if digits is None else f"{value:.{digits}f}"


def kept(compute: Callable[[], Number]) -> Number:
    """Compute a number, and refuse one that a graph cannot hold."""
    try:
        result = compute()
    except OverflowError:
        raise ValueError(_too_large()) from None
    if isinstance(result, int):
        return _whole(result)
    if not math.isfinite(result):
        raise ValueError(_too_large())
    return result


def _whole(result: int) -> int:
    if abs(result) > LARGEST:
        raise ValueError(_too_large())
    return result


def _too_large() -> str:
    return "the result is too large; whole numbers reach to 2**63 - 1, others to about 1.8e308"
