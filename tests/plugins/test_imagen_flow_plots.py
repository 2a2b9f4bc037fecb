"""Plots show the numbers of a table, the same bytes for the same table on every machine."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow import File
from imagen_flow._types.digest import digest_bytes
from imagen_flow_image.plots import plot

LOSSES = [{"step": step, "loss": 2 / (1 + step), "rate": 0.1} for step in range(30)]
SCORES = [
    {"prompt": prompt, "model": model, "score": score}
    for prompt, model, score in (
        ("a $red$ fox", "one", 1.0),
        ("a $red$ fox", "two", 3.0),
        ("a cat", "one", 2.0),
        ("a cat", "one", 4.0),
    )
]

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""The first two colours of matplotlib's cycle."""


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as refused:
        plot(*args, **kwargs)
    return str(refused.value)


def area(image: flow.Image, colour: tuple[int, int, int]) -> int:
    return int((image.pixels == np.array(colour, "uint8")).all(axis=2).sum())


def test_bars_are_as_high_as_the_means() -> None:
    """The mean of two rows of one name is drawn; bars of two series have areas as their heights."""
    image = plot(SCORES, x="prompt", y=["score"], by="model", kind="bar").image
    assert (image.width, image.height, image.channels) == (800, 500, 3)
    one, two = area(image, BLUE), area(image, ORANGE)
    assert two / one == pytest.approx(3 / (1 + 3), rel=0.03)


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_a_name_that_begins_with_an_underscore_is_in_the_legend(kind: Any) -> None:
    """The legend has its colour as that of any other name."""
    one, two = (
        area(
            plot(
                [{"x": "a", "y": 1, "of": "first"}, {"x": "a", "y": 1, "of": name}],
                x="x",
                y=["y"],
                by="of",
                kind=kind,
            ).image,
            ORANGE,
        )
        for name in ("second", "_second")
    )
    assert one == pytest.approx(two, rel=0.02)


def test_rows_without_a_number_leave_a_gap() -> None:
    """A line is not drawn across them, and two equal plots differ where one has it."""
    whole = [{"x": i, "y": 1.0} for i in range(100)]
    holes = [{"x": i, "y": None if 20 < i < 80 else 1.0} for i in range(100)]
    full, cut = (area(plot(rows, x="x", y=["y"]).image, BLUE) for rows in (whole, holes))
    assert 0 < cut < 0.6 * full


def test_long_names_that_begin_alike_stay_apart() -> None:
    """Names are cut for the eye only, and so are characters that the font does not have."""
    long = "a picture of a very long prompt that goes on "
    for first, second in ((f"{long} one", f"{long} two"), ("一二", "三四")):
        rows = [{"p": first, "s": 1.0}, {"p": second, "s": 1.0}]
        pair = plot(rows, x="p", y=["s"], kind="bar").image
        alone = plot(rows[:1], x="p", y=["s"], kind="bar").image
        assert _runs(pair) == 2
        assert _runs(alone) == 1


def _runs(image: flow.Image) -> int:
    """Count the bars along the middle of a plot."""
    row = (image.pixels[150] == np.array(BLUE, "uint8")).all(axis=1).astype(int)
    return int((np.diff(row) == 1).sum())


DIGESTS = """
import sys, matplotlib
matplotlib.rcParams["font.size"] = 20
matplotlib.rcParams["svg.hashsalt"] = "other"
from imagen_flow_image.plots import plot
from imagen_flow._types.value_digests import digest_value
rows = [{"step": i, "loss": 2 / (1 + i)} for i in range(30)]
made = plot(rows, x="step", y=["loss"], scale="log", title="Loss")
print(digest_value(made.image), digest_value(made.svg), matplotlib.rcParams["font.size"])
"""


def test_another_process_with_other_settings_draws_the_same_bytes() -> None:
    """The picture and the SVG depend neither on the process nor on what is set in it, which stays
    set; there is no date in them.
    """
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "MPLBACKEND": "svg", "HOME": str(Path.home())},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert said.pop().split()[2] == "20.0"
    svg = plot(LOSSES, x="step", y=["loss", "rate"]).svg
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "dc:date" not in svg


def test_a_plot_is_written_as_a_picture_and_as_svg(tmp_path: Path) -> None:
    """By the ends of the paths of two outputs."""
    graph = {
        "imagen_flow": 1,
        "nodes": {"plot": {"type": "table.plot", "rows": LOSSES, "x": "loss", "kind": "histogram"}},
        "outputs": {
            "picture": {"from": "${plot}", "path": "a.png"},
            "drawing": {"from": "${plot.svg}", "path": "a.svg"},
        },
    }
    outputs = flow.run(graph, store=None, out=tmp_path)
    assert (tmp_path / "a.svg").read_text("utf-8") == outputs["drawing"]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_plotted_is_named() -> None:
    """The column, the row or the value."""
    rows: list[Any] = [{"a": 1, "b": "x", "c": True}, {"a": 2, "b": "y"}]
    assert refusal(rows, x="z", y=["a"]) == (
        "port 'x' names the column 'z', which no row has; there are a, b, c"
    )
    assert "'b' holds 'x' in row 1, which is not a number" in refusal(rows, x="a", y=["b"])
    assert "'c' holds 'True' in row 1" in refusal(rows, x="a", y=["c"])
    assert "names no column" in refusal(rows, x="a")
    assert "leave 'y' out" in refusal(rows, x="a", y=["a"], kind="histogram")
    assert "empty list" in refusal([], x="a", y=["a"])
    assert "row 2 is not a mapping" in refusal([{"a": 1}, 3], x="a", y=["a"])
    assert "all are absent" in refusal([{"a": 1, "b": None}], x="a", y=["b"])
    assert "above 0, and there is -1" in refusal([{"a": -1}], x="a", y=["a"], scale="log")
    assert "too large" in refusal([{"a": 10**400}], x="a", y=["a"])
    assert "series, more than 40" in refusal(
        [{"a": 1, "g": i} for i in range(50)], x="a", y=["a"], by="g"
    )
    assert "different texts" in refusal([{"a": str(i), "b": 1} for i in range(500)], x="a", y=["b"])


def test_a_font_of_ones_own_is_used_or_refused(tmp_path: Path) -> None:
    """Its letters are drawn; a file that is none is named."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    content = (fonts / "DejaVuSerif.ttf").read_bytes()
    path = tmp_path / "serif.ttf"
    path.write_bytes(content)
    font = File(path, digest_bytes(content), len(content), "serif.ttf")
    plain, serif = (plot(LOSSES, x="step", y=["loss"], font=f).image for f in (None, font))
    assert not np.array_equal(plain.pixels, serif.pixels)
    path.write_bytes(b"no font")
    assert "'serif.ttf' is not a readable font" in refusal(LOSSES, x="step", y=["loss"], font=font)
