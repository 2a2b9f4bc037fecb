"""Compute with numbers.

Ints stay ints where the result is exact. A result beyond what a graph can hold is an error, never
an infinity. For a port that takes ints, end with `math.round`, `math.floor` or `math.ceil`: only
these always give an int.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from imagen_flow import Number, Range, Text, node

if TYPE_CHECKING:
    from fractions import Fraction

MAX_INT = 2**63 - 1
"""The largest int, the same as for seeds."""


@node("math.add", version=1)
def add(a: Number, b: Number) -> Number:
    """Add two numbers."""
    return checked(lambda: a + b)


@node("math.subtract", version=1)
def subtract(a: Number, b: Number) -> Number:
    """Subtract `b` from `a`."""
    return checked(lambda: a - b)


@node("math.multiply", version=1)
def multiply(a: Number, b: Number) -> Number:
    """Multiply two numbers."""
    return checked(lambda: a * b)


@node("math.divide", version=1)
def divide(a: Number, b: Number) -> Number:
    """Divide `a` by `b`.

    Outputs:
        an int if both are ints and the division is exact (6 / 3 is 2), else a float (7 / 2 is 3.5).

    Raises:
        ValueError: `b` is zero.
    """
    if b == 0:
        raise ValueError(f"port 'b' is 0, and {a} cannot be divided by 0")
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return checked(lambda: a // b)
    return checked(lambda: a / b)


@node("math.power", version=1)
def power(a: Number, b: Number) -> Number:
    """Raise `a` to the power `b`; 0.5 gives the square root.

    Raises:
        ValueError: the result is too large or not a real number.
    """
    if a == 0 and b < 0:
        raise ValueError(f"port 'a' is 0, and 0 has no power {b}")
    if a < 0 and b != int(b):
        raise ValueError(
            f"port 'a' is {a}, and a negative number has no real power {b}; give a positive number"
        )
    if isinstance(a, int) and isinstance(b, int) and b >= 0:
        if abs(a) > 1 and (b > 64 or b * math.log2(abs(a)) > 64):
            raise ValueError(_too_large())
        return checked(lambda: a**b)
    return checked(lambda: float(a) ** float(b))


@node("math.modulo", version=1)
def modulo(a: Number, b: Number) -> Number:
    """Return the remainder of `a` divided by `b`; it has the sign of `b`.

    Raises:
        ValueError: `b` is zero.
    """
    if b == 0:
        raise ValueError(f"port 'b' is 0, and {a} cannot be divided by 0")
    return checked(lambda: a % b)


@node("math.min", version=1)
def smaller(a: Number, b: Number) -> Number:
    """Return the smaller of two numbers."""
    return min(a, b)


@node("math.max", version=1)
def larger(a: Number, b: Number) -> Number:
    """Return the larger of two numbers."""
    return max(a, b)


@node("math.clamp", version=1)
def clamp(value: Number, *, low: Number, high: Number) -> Number:
    """Limit a number to a range.

    Raises:
        ValueError: `low` is above `high`.
    """
    if low > high:
        raise ValueError(f"port 'low' is {low}, which is above port 'high', {high}; swap them")
    return min(max(value, low), high)


@node("math.round", version=1)
def round_(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round to the nearest int, or to the nearest multiple: 8 suits the sizes that models accept.

    Halves are rounded up: 2.5 gives 3, -2.5 gives -2.
    """
    return _checked_int(math.floor(_exact(value) / multiple + _exact(0.5)) * multiple)


@node("math.floor", version=1)
def floor(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round down to an int, or to a multiple."""
    return _checked_int(math.floor(_exact(value) / multiple) * multiple)


@node("math.ceil", version=1)
def ceil(value: Number, *, multiple: Annotated[int, Range(1)] = 1) -> int:
    """Round up to an int, or to a multiple."""
    return _checked_int(math.ceil(_exact(value) / multiple) * multiple)


@node("number.to_text", version=1)
def to_text(value: Number, *, digits: Annotated[int, Range(0, 15)] | None = None) -> Text:
    """Write a number as text.

    Params:
        digits: digits after the decimal point; without it, the shortest exact form.
    """
    return str(value) if digits is None else f"{value:.{digits}f}"


def checked(compute: Callable[[], Number]) -> Number:
    """Compute a number, and refuse one that a graph cannot hold."""
    try:
        result = compute()
    except OverflowError:
        raise ValueError(_too_large()) from None
    if isinstance(result, int):
        return _checked_int(result)
    if not math.isfinite(result):
        raise ValueError(_too_large())
    return result


def _exact(value: float) -> Fraction:
    from fractions import Fraction

    return Fraction(value)


def _checked_int(result: int) -> int:
    if abs(result) > MAX_INT:
        raise ValueError(_too_large())
    return result


def _too_large() -> str:
    return "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308"
