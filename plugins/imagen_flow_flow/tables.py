"""Make the rows of tables."""

from __future__ import annotations

from typing import Any, Literal

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


@node("table.summarise", version=1)
def summarise(rows: List[Json], *, columns: List[Text], by: Text = "") -> List[Json]:
    """Summarise columns of numbers of a table: their means, and how far values are apart.

    Inputs:
        rows: a mapping for each row; values that are null or not there are left out.

    Params:
        columns: the columns of numbers.
        by: a column whose values divide the rows into groups; without it, all rows are one.

    Outputs:
        a row for each group, in the order of the table, and each of `columns`: with ``column``,
            ``count``, ``mean``, ``deviation`` (of the whole group), ``least`` and ``largest``, and
            the group's value under the name that `by` has. Without a number there, only the count.

    Raises:
        ValueError: no row has the column, or a value is not a number.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a mapping from columns to values")
        group = row.get(by) if by else None
        if isinstance(group, list | dict):
            raise ValueError(f"the column '{by}' holds a list or a mapping in row {number}")
        groups.setdefault(group, []).append(row)
    for name in [*columns, *([by] if by else [])]:
        if rows and not any(name in row for group in groups.values() for row in group):
            there = sorted({column for group in groups.values() for row in group for column in row})
            raise ValueError(f"no row has the column '{name}'; there are {', '.join(there[:12])}")
    return [
        {**({by: group} if by else {}), "column": column, **_summary(members, column)}
        for group, members in groups.items()
        for column in columns
    ]


def _summary(rows: list[dict[str, Any]], column: str) -> dict[str, Any]:
    values = [value for row in rows if (value := row.get(column)) is not None]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"the column '{column}' holds {str(value)[:40]!r}, which is not a number"
            )
    if not values:
        return {"count": 0}
    from statistics import fmean, pstdev  # with the numbers of its own, it takes long to import

    try:
        mean, deviation = fmean(values), float(pstdev(values))
    except OverflowError as error:
        raise ValueError(f"the column '{column}' holds numbers too large to add") from error
    return {
        "count": len(values),
        "mean": mean,
        "deviation": deviation,
        "least": min(values),
        "largest": max(values),
    }
