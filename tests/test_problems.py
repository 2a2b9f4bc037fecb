"""The gallery: every problem code has a broken graph in tests/problems/ and, beside it, the exact words that the graph earns."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagen_flow import spec
from imagen_flow.errors import CODES, Problem

GALLERY = Path(__file__).parent / "problems"
PAGES = sorted(p for p in GALLERY.iterdir() if p.suffix in (".yaml", ".json"))

#: Codes whose file cannot lie in a repository as text; `test_spec.py` makes the file and compares the whole problem.
MADE = {"not-utf8", "unreadable", "too-large"}

#: Codes of resolving, planning and what is given to a run: their pages follow with those stages.
LATER = {
    "unknown-reference",
    "unknown-output",
    "unknown-node-type",
    "broken-plugin",
    "unknown-port",
    "missing-port",
    "type-mismatch",
    "list-into-single",
    "bad-template",
    "bad-path",
    "duplicate-path",
    "bad-setting",
    "cycle",
    "file-cycle",
    "unused-input",
    "no-outputs",
    "missing-input",
    "unknown-input",
    "bad-input",
    "bad-model",
    "unresolved-model",
    "missing-file",
}


def problems_of(path: Path) -> tuple[Problem, ...]:
    """Read a graph as a user does, calling it by its base name."""
    return spec.read(path, name=path.name).problems


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_broken_graph_earns_exactly_the_words_beside_it(path: Path) -> None:
    """What is printed for a broken graph is the text beside it, to the letter."""
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == "\n\n".join(map(str, problems_of(path))) + "\n"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_page_of_the_gallery_shows_the_code_it_is_named_after(path: Path) -> None:
    """A page named ``code.yaml`` or ``code-variant.yaml`` shows that code."""
    codes = {p.code for p in problems_of(path)}
    assert any(path.stem == code or path.stem.startswith(f"{code}-") for code in codes)


def test_the_gallery_has_a_page_for_every_code() -> None:
    """Every code has a page of its name, and every page and text has its partner."""
    assert {p.stem for p in PAGES} >= CODES.keys() - MADE - LATER
    assert {p.stem for p in GALLERY.glob("*.txt")} == {p.stem for p in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_problems_speak_in_one_voice(path: Path) -> None:
    """A problem's words have a code that is listed, no capital at the start, no full stop, and a mark; problems are in file order."""
    problems = problems_of(path)
    for problem in problems:
        assert problem.code in CODES
        for words in (problem.message, problem.why, problem.fix):
            assert not words.endswith(".")
            assert words[:1] == words[:1].lower() or not words[:1].isalpha()
        assert problem.mark is not None
    assert sorted(problems, key=lambda p: p.place) == list(problems)
