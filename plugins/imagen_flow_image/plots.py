"""Plot tables, as pictures and as SVG.

matplotlib takes its defaults from settings of the process and of the user, and its fonts from the
system. Here a plot is a function of its inputs: it is drawn with matplotlib's own defaults and its
own font, without dates, and with fixed names inside SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean, pstdev
from threading import Lock
from typing import Annotated, Any, Literal, NamedTuple

from imagen_flow import File, Image, Json, List, Range, Text, node
from imagen_flow.loaders import require_library

from .pixels import check_size

MAX_POINTS = 200_000
MAX_SERIES = 40
MAX_NAMES = 400
"""The most names along an axis."""

_DPI = 100
_ONE_AT_A_TIME = Lock()
"""matplotlib's settings are the process's."""


class Plot(NamedTuple):
    """A plot as a picture, and as a drawing that can be enlarged."""

    image: Image
    svg: Text


@node("table.plot", version=1, uses=("matplotlib", "numpy"))
def plot(
    rows: List[Json],
    *,
    x: Text,
    y: List[Text] | None = None,
    by: Text = "",
    kind: Literal["line", "scatter", "bar", "histogram"] = "line",
    scale: Literal["linear", "log"] = "linear",
    title: Text = "",
    x_label: Text = "",
    y_label: Text = "",
    bins: Annotated[int, Range(1, 1000)] = 20,
    width: Annotated[int, Range(100, 8192)] = 800,
    height: Annotated[int, Range(100, 8192)] = 500,
    font: File | None = None,
) -> Plot:
    """Plot columns of a table, for example losses of a training or scores of models.

    Inputs:
        rows: a mapping for each row, as `table.load` and `table.row` give them.
        font: a TrueType or OpenType file; without it, DejaVu Sans, which has no Chinese, Japanese
            or Korean. A box stands for what it does not have.

    Params:
        x: the column along the x axis: numbers, or texts in the order of the rows.
        y: the columns of numbers that are drawn, each as a series; not for a ``histogram``, which
            counts the numbers of `x`. Rows without a value leave a gap.
        by: a column whose values divide the rows into series.
        kind: ``bar`` draws the mean of the rows of one `x`, and their standard deviation.
        scale: of the y axis.
        bins: of a histogram.
        width, height: in pixels.

    Outputs:
        image: 8-bit RGB.
        svg: the same as an SVG document, its letters as outlines: for a path that ends in
            ``.svg``.

    Raises:
        ValueError: a column is not there, or does not hold what is drawn.
    """
    require_library("matplotlib", "table.plot", extra="plots")
    check_size(width, height)
    lettering = _lettering(font)
    series = _series(rows, x, y or [], by, kind)
    _refuse_log(series, kind, scale)
    labels = (title, x_label or x, y_label or (y[0] if y and len(y) == 1 else ""))
    written = StringIO()
    with _own_settings():
        figure = _drawn(series, kind, scale, labels, lettering, bins, (width, height))
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        image = _pixels(figure)
    return Plot(image, written.getvalue())


# --- what is drawn


@dataclass(frozen=True)
class Series:
    """Points under one name; `x` are numbers or texts."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]


def _series(rows: Sequence[Any], x: str, y: Sequence[str], by: str, kind: str) -> list[Series]:
    """Read the points of a plot from a table.

    Raises:
        ValueError: they are not there, or are too many.
    """
    if kind == "histogram" and y:
        raise ValueError("a histogram counts the numbers of the column 'x': leave 'y' out")
    if kind != "histogram" and not y:
        raise ValueError("port 'y' names no column: say which are drawn")
    if not rows:
        raise ValueError("port 'rows' is an empty list; there is nothing to plot")
    columns = {column for row in rows if isinstance(row, Mapping) for column in row}
    for port, names in (("x", [x]), ("y", y), ("by", [by] if by else [])):
        for name in names:
            if name not in columns:
                raise ValueError(
                    f"port '{port}' names the column '{name}', which no row has; there are"
                    f" {', '.join(sorted(columns)[:12]) or 'none'}"
                )
    points: dict[str, tuple[list[Any], list[float]]] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {number} is not a mapping from columns to values")
        if row.get(x) is None:
            continue
        group = "" if not by else str(row.get(by, ""))
        for column in y or [x]:
            name = group if len(y) < 2 else f"{column} {group}".strip()
            at, values = points.setdefault(name, ([], []))
            value = _number(row.get(column), column, number)
            at.append(row[x])
            values.append(value)
    if kind == "histogram":
        points = {name: (values, values) for name, (_, values) in points.items()}
    _refuse_many(points, x, by)
    texts = any(isinstance(each, str) for at, _ in points.values() for each in at)
    if not texts:
        for at, _ in points.values():
            for each in at:
                _number(each, x, 0)
    if kind == "bar" or texts:
        points = {name: ([_name(each) for each in at], v) for name, (at, v) in points.items()}
    return [Series(name, at, values) for name, (at, values) in points.items()]


def _number(value: Any, column: str, row: int) -> float:
    """Read a number; one that is not there is NaN, which leaves a gap."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        where = f" in row {row}" if row else ""
        raise ValueError(
            f"the column '{column}' holds {str(value)[:40]!r}{where}, which is not a number"
        )
    number = float(value) if abs(value) < 1e300 else math.inf
    if not math.isfinite(number):
        raise ValueError(f"the column '{column}' holds {str(value)[:40]}, too large to plot")
    return number


def _name(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_many(points: Mapping[str, tuple[list[Any], list[float]]], x: str, by: str) -> None:
    count = sum(len(at) for at, _ in points.values())
    if not any(math.isfinite(value) for _, values in points.values() for value in values):
        raise ValueError("there is no number to plot: all are absent")
    if count > MAX_POINTS:
        raise ValueError(f"the plot would have {count:,} points, more than {MAX_POINTS:,}")
    if len(points) > MAX_SERIES:
        raise ValueError(
            f"the column '{by}' divides the rows into {len(points)} series, more than {MAX_SERIES}"
        )
    names = {each for at, _ in points.values() for each in at if isinstance(each, str)}
    if len(names) > MAX_NAMES:
        raise ValueError(
            f"the column '{x}' has {len(names)} different texts, more than {MAX_NAMES} along an axis"
        )


def _refuse_log(series: Sequence[Series], kind: str, scale: str) -> None:
    if scale == "log" and kind != "histogram":
        least = min((value for one in series for value in one.y if value == value), default=1)
        if least <= 0:
            raise ValueError(f"scale: log takes numbers above 0, and there is {least:g}")


# --- how it is drawn


def _drawn(
    series: Sequence[Series],
    kind: str,
    scale: str,
    labels: tuple[str, str, str],
    lettering: _Lettering,
    bins: int,
    size: tuple[int, int],
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((size[0] / _DPI, size[1] / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if kind == "histogram":
        values = [[value for value in one.y if value == value] for one in series]
        axes.hist(values, bins, label=[lettering.in_legend(one.name) for one in series])
    elif kind == "bar":
        _bars(axes, series, lettering)
    else:
        names = _names(series)
        for one in series:
            at = [names.index(str(each)) for each in one.x] if names else one.x
            style = "." if kind == "scatter" else ".-" if len(one.x) <= 60 else "-"
            axes.plot(at, one.y, style, label=lettering.in_legend(one.name))
        if names:
            _name_ticks(axes, names, lettering)
    axes.set_yscale(scale)
    font = lettering.font
    title, below, beside = (lettering.written(label) for label in labels)
    beside = beside or ("count" if kind == "histogram" else "")
    axes.set_title(title, parse_math=False, fontproperties=font, fontsize=12)
    axes.set_xlabel(below, parse_math=False, fontproperties=font, fontsize=10)
    axes.set_ylabel(beside, parse_math=False, fontproperties=font, fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if any(one.name for one in series):
        for text in axes.legend(prop=font).get_texts():
            text.set_parse_math(False)
            text.set_text(text.get_text().strip())
    return figure


def _bars(axes: Any, series: Sequence[Series], lettering: _Lettering) -> None:
    """Draw the mean of each name, those of several series beside one another."""
    names = _names(series)
    width = 0.8 / len(series)
    for number, one in enumerate(series):
        found: dict[str, list[float]] = {name: [] for name in names}
        for name, value in zip(one.x, one.y, strict=True):
            if value == value:
                found[str(name)].append(value)
        at = [i for i, name in enumerate(names) if found[name]]
        values = [found[names[i]] for i in at]
        spread = [pstdev(each) for each in values]
        axes.bar(
            [i + (number - (len(series) - 1) / 2) * width for i in at],
            [fmean(each) for each in values],
            width,
            yerr=spread if any(spread) else None,
            capsize=3,
            label=lettering.in_legend(one.name),
        )
    _name_ticks(axes, names, lettering)


def _names(series: Sequence[Series]) -> list[str]:
    """The texts along the x axis, in order; none if these are numbers."""
    return [
        name
        for name in dict.fromkeys(each for one in series for each in one.x)
        if isinstance(name, str)
    ]


def _name_ticks(axes: Any, names: Sequence[str], lettering: _Lettering) -> None:
    labels = [lettering.written(name if len(name) <= 32 else f"{name[:31]}…") for name in names]
    crowded = max(map(len, labels)) * len(labels) > 80
    axes.set_xticks(
        range(len(labels)),
        labels,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor",
        parse_math=False,
        fontproperties=lettering.font,
        fontsize=9,
    )


def _pixels(figure: Any) -> Image:
    import numpy as np

    figure.canvas.draw()
    return Image(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())


# --- what it does not depend on


@contextmanager
def _own_settings() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the process or the user has set."""
    import matplotlib

    with _ONE_AT_A_TIME, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "imagen_flow"
        yield


@dataclass(frozen=True)
class _Lettering:
    """A font, and the characters that it has."""

    font: Any
    has: frozenset[int]

    def written(self, text: str) -> str:
        """Write a text on one line, with a box for each character that the font does not have."""
        box = "\u25a1" if 0x25A1 in self.has else "?"
        return "".join(each if ord(each) in self.has else box for each in " ".join(text.split()))

    def in_legend(self, name: str) -> str:
        """Write a name with a space before it: matplotlib has no legend for one that begins with an
        underscore.
        """
        return f" {self.written(name)}"


def _lettering(font: File | None) -> _Lettering:
    """Read a font; without one, that which comes with matplotlib."""
    import matplotlib
    from matplotlib import ft2font
    from matplotlib.font_manager import FontProperties

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    path = own if font is None else font.path
    name = "" if font is None else font.name or font.path.name
    try:
        has = frozenset(ft2font.FT2Font(str(path)).get_charmap())
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"port 'font': '{name}' is not a readable font; give a .ttf or .otf file"
        ) from error
    if not {ord(each) for each in " ?0"} <= has:
        raise ValueError(f"port 'font': '{name}' has no letters for text")
    return _Lettering(FontProperties(fname=path), has)
