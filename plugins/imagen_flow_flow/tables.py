"""Make the rows of tables."""

from __future__ import annotations

from typing import Literal

from imagen_flow import Absent, Json, List, Text, node

#: The ports that fill the columns, in their order.
_PORTS = "abcdefgh"


@node("table.row", version=1)
def row(
    columns: List[Text],
    *,
    a: Json = None,
    b: Json = None,
    c: Json = None,
    d: Json = None,
    e: Json = None,
    f: Json = None,
    g: Json = None,
    h: Json = None,
    absent: Literal["keep", "drop"] = "keep",
) -> Json:
    """Make a row of a table of the values of its columns; with `each`, the rows of a whole table.

    An output whose path ends in ``.csv`` or ``.jsonl`` writes a list of rows as a table.

    Inputs:
        a to h: the values, in the order of `columns`.

    Params:
        columns: the names of the columns.
        absent: what becomes of a row with a value that is absent: ``keep`` it with null there, or
            ``drop`` it.

    Outputs:
        a mapping from columns to values; absent if the row is dropped.

    Raises:
        ValueError: a value has no column, a column no port or no name, or two have one name.
    """
    values = (a, b, c, d, e, f, g, h)
    if len(columns) > len(values):
        raise ValueError(f"port 'columns' has {len(columns)} names, and there are ports for 8")
    if "" in columns:
        raise ValueError("port 'columns' has an empty name")
    if len(set(columns)) < len(columns):
        twice = next(name for i, name in enumerate(columns) if name in columns[:i])
        raise ValueError(f"port 'columns' names '{twice}' twice")
    for port, value in list(zip(_PORTS, values, strict=True))[len(columns) :]:
        if value is not None:
            raise ValueError(f"port '{port}' has a value, but 'columns' has no name for it")
    given = values[: len(columns)]
    if absent == "drop" and any(value is None for value in given):
        return Absent.value
    return dict(zip(columns, given, strict=True))
