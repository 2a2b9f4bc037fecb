"""Choose between values of any kind."""

from __future__ import annotations

from imagen_flow import Absent, Bool, Value, node


@node("flow.first", version=1)
def first(
    a: Value | None = None,
    b: Value | None = None,
    c: Value | None = None,
    d: Value | None = None,
    e: Value | None = None,
    f: Value | None = None,
    g: Value | None = None,
    h: Value | None = None,
) -> Value:
    """Return the first value that is present: joins branches of which `when` has skipped some.

    Inputs:
        a to h: values of any kind, tried in this order; absent values and null are skipped.

    Outputs:
        the value, unchanged; its type is checked against the port that it flows into. If none is
            present, the output is absent.
    """
    for value in (a, b, c, d, e, f, g, h):
        if value is not None:
            return value
    return Absent.value


@node("flow.choose", version=1)
def choose(condition: Bool, *, yes: Value, no: Value) -> Value:
    """Choose one of two values, for example 4 or 40 steps depending on whether this is a draft.

    Both are computed; to compute only one of them, give the nodes a `when` and join them with
    `flow.first`.
    """
    return yes if condition else no
