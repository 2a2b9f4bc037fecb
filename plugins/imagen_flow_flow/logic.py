"""Compare values and combine booleans, for `when`."""

from __future__ import annotations

from typing import Any

from imagen_flow import Bool, Json, Number, node


@node("compare.equal", version=1)
def equal(a: Json, b: Json) -> Bool:
    """Test whether two texts, numbers, booleans, lists or mappings are equal.

    1 and 1.0 are the same number; 1, true and the text "1" are three different things. The order of
    keys in a mapping does not matter.
    """
    return _same(a, b)


@node("compare.less", version=1)
def less(a: Number, b: Number) -> Bool:
    """Test whether `a` is less than `b`."""
    return a < b


@node("compare.at_most", version=1)
def at_most(a: Number, b: Number) -> Bool:
    """Test whether `a` is less than or equal to `b`."""
    return a <= b


@node("compare.greater", version=1)
def greater(a: Number, b: Number) -> Bool:
    """Test whether `a` is greater than `b`."""
    return a > b


@node("compare.at_least", version=1)
def at_least(a: Number, b: Number) -> Bool:
    """Test whether `a` is greater than or equal to `b`."""
    return a >= b


@node("logic.and", version=1)
def and_(a: Bool, b: Bool) -> Bool:
    """Test whether both are true."""
    return a and b


@node("logic.or", version=1)
def or_(a: Bool, b: Bool) -> Bool:
    """Test whether at least one is true."""
    return a or b


@node("logic.not", version=1)
def not_(value: Bool) -> Bool:
    """Negate a boolean."""
    return not value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)
