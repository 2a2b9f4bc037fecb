"""How problems are shown, and what to say about an unknown word."""

from __future__ import annotations

import re

import pytest

from imagen_flow import errors
from imagen_flow.errors import (
    GraphError,
    ImagenFlowError,
    Mark,
    NodeError,
    Problem,
    Source,
    nearest,
)

SOURCE = Source(
    "graph.yaml",
    "imagen_flow: 1\r\nnodes:\n\tpicture: {widht: 512}\n  名前: {widht: 512}\n"
    + "x" * 300
    + "HERE"
    + "y" * 300,
)


def test_a_problem_shows_what_where_why_and_how_to_mend() -> None:
    """A problem is one screen: place, code, message, the line with a caret, why and fix."""
    problem = Problem(
        "unknown-port",
        "image.resize has no input port 'widht'",
        Mark(SOURCE, 1, 1, 11),
        "its ports are: width",
        "did you mean 'width'?",
    )
    assert str(problem) == (
        "graph.yaml:1:1: error[unknown-port]: image.resize has no input port 'widht'\n"
        "1 | imagen_flow: 1\n"
        "  | ^^^^^^^^^^^\n"
        "  = why: its ports are: width\n"
        "  = fix: did you mean 'width'?"
    )


def test_the_caret_stands_under_its_word_after_tabs_and_wide_characters() -> None:
    """The caret line copies a tab as a tab and a wide character as a wide space."""
    assert str(Problem("unknown-port", "tab", Mark(SOURCE, 3, 12, 5))).split("\n")[1:] == [
        "3 | \tpicture: {widht: 512}",
        "  | \t          ^^^^^",
    ]
    assert str(Problem("unknown-port", "wide", Mark(SOURCE, 4, 8, 5))).split("\n")[1:] == [
        "4 |   名前: {widht: 512}",
        "  |   \u3000\u3000   ^^^^^",
    ]


def test_a_long_line_is_cut_around_the_mark() -> None:
    """Of a line of 604 characters 160 are shown, and the caret is still under its word."""
    _, line, caret = str(Problem("syntax", "long", Mark(SOURCE, 5, 301, 4))).split("\n")
    assert len(line) == 4 + 160
    assert line[caret.index("^") :][:4] == "HERE"
    assert caret.count("^") == 4


def test_a_caret_does_not_run_past_its_line() -> None:
    """A mark that is wider than the rest of its line is drawn to the end of the line."""
    assert str(Problem("syntax", "wide", Mark(SOURCE, 2, 1, 99))).split("\n")[2] == "  | ^^^^^^"


def test_a_problem_without_a_line_has_no_excerpt() -> None:
    """Beyond the text, and without a mark, there is only what is wrong."""
    assert (
        str(Problem("unreadable", "the file cannot be read", Mark(SOURCE, 99, 1)))
        == "graph.yaml:99:1: error[unreadable]: the file cannot be read"
    )
    assert (
        str(Problem("unused-input", "nothing refers to it", severity="warning"))
        == "warning[unused-input]: nothing refers to it"
    )


def test_a_graph_error_shows_all_its_problems_in_file_order() -> None:
    """Problems are sorted by line and column, however they were found."""
    late, early = (
        Problem("syntax", "late", Mark(SOURCE, 2, 1)),
        Problem("syntax", "early", Mark(SOURCE, 1, 5)),
    )
    error = GraphError([late, early])
    assert error.problems == (early, late)
    assert str(error) == f"{early}\n\n{late}"


def test_a_node_error_names_node_and_item() -> None:
    """The problem of a node that failed says which node, for which item, and what."""
    assert (
        str(NodeError("resize", "no such picture", item="a.png"))
        == "error[node-failed]: resize (a.png): no such picture"
    )


def test_how_to_mend_a_node_comes_after_its_line() -> None:
    """A message that says why, or how to mend it, is a problem like any other."""
    message = "must be image\n  = why: it is an array\n  = fix: return Image(x): it\n  takes all"
    error = NodeError("n", message, mark=Mark(Source("g.yaml", "n: 1\n"), 1, 1))
    assert (
        str(error)
        == """\
g.yaml:1:1: error[node-failed]: n: must be image
1 | n: 1
  | ^
  = why: it is an array
  = fix: return Image(x): it
  takes all"""
    )
    assert error.message == message


@pytest.mark.parametrize(
    ("word", "candidates", "said"),
    [
        ("widht", ["width", "height"], "did you mean 'width'?"),
        ("zzz", ["width", "height", "width"], "ports are: height, width"),
        ("zzz", [], ""),
        (
            "zzz",
            [f"n{i:02}" for i in range(30)],
            "ports are: " + ", ".join(f"n{i:02}" for i in range(24)) + ", …",
        ),
    ],
)
def test_an_unknown_word_gets_the_nearest_one_or_the_list(
    word: str, candidates: list[str], said: str
) -> None:
    """A near miss is offered; otherwise what exists is listed, up to two dozen."""
    assert nearest(word, candidates, what="ports are") == said


def test_the_tree_of_exceptions_is_drawn_whole() -> None:
    """The drawing names every exception of the module, and no other."""
    drawn = re.findall(r"[├└]── (\w+) ", errors.__doc__ or "")
    assert sorted(drawn) == sorted(
        kind.__name__
        for kind in ImagenFlowError.__subclasses__()
        if kind.__module__ == errors.__name__
    )


def test_a_hundred_problems_are_shown_and_the_rest_counted() -> None:
    """Errors go before warnings, and what is shown stays in file order."""
    warnings = [
        Problem("unused-input", f"w{i}", Mark(SOURCE, 1, 1), severity="warning") for i in range(150)
    ]
    some = [Problem("bad-shape", f"e{i}", Mark(SOURCE, 2, 1)) for i in range(30)]
    shown, rest = errors.first_problems([*warnings, *some])
    assert [p.message for p in shown] == [f"w{i}" for i in range(70)] + [f"e{i}" for i in range(30)]
    assert rest == "and 80 more"
    text = str(GraphError(Problem("bad-shape", f"e{i}", Mark(SOURCE, 1, 1)) for i in range(20_100)))
    assert text.count("error[bad-shape]") == 100 and text.endswith("\n\nand 20,000 more")
    assert errors.first_problems(some) == (some, "")


def test_endless_words_of_a_problem_are_cut_in_the_middle() -> None:
    """Nobody's name of a megabyte fills the screen."""
    text = str(
        Problem("bad-name", "a" * 1_000_000 + "end", why="b" * 1_000_000, fix="c" * 1_000_000)
    )
    assert len(text) < 7_000 and "end\n" in text


def test_a_word_is_not_compared_with_all_of_very_many() -> None:
    """Of more than can be looked through, those that begin alike are."""
    many = [f"node{i}" for i in range(100_000)]
    assert nearest("widht", [*many, "width"]) == "did you mean 'width'?"
