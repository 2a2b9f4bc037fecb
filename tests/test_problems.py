"""The gallery: every problem code has a broken graph in tests/problems/ and, beside it, the exact
words that the graph earns.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pytest

from imagen_flow import (
    File,
    GraphError,
    Image,
    List,
    Model,
    Problem,
    Range,
    Value,
    loaders,
    node,
    record,
)
from imagen_flow._graph import resolve
from imagen_flow._plan import make_plan
from imagen_flow._plan.request import Request
from imagen_flow._plugins.registry import Plugin, Registry
from imagen_flow._sweep import prepare_sweep
from imagen_flow._text import spec
from imagen_flow.errors import CODES

GALLERY = Path(__file__).parent / "problems"
PAGES = sorted(p for p in GALLERY.iterdir() if p.suffix in (".yaml", ".json"))

#: Codes whose file cannot lie in a repository as text, or is no graph; `test_spec.py` and
#: `test_config.py` make the file and compare the whole problem.
MADE = {"not-utf8", "unreadable", "too-large", "untrusted-plugin", "untrusted-setting"}


class Nothing(loaders.Loader[Model]):
    """A loader for ports that take a model."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Model:
        return model


class Size(NamedTuple):
    width: int
    height: int


@record
class Layer:
    picture: Image
    opacity: Annotated[float, Range(0, 1)] = 1.0


@record
class Frame:
    colour: str
    width: int


@node("image.solid", version=1)
def solid(side: Annotated[int, Range(1, 64)]) -> Image: ...
@node("image.load", version=1)
def load(file: File) -> Image: ...
@node("image.size", version=1)
def size(image: Image) -> Size: ...
@node("image.shades", version=1)
def shades(count: int) -> List[Image]: ...
@node("image.grid", version=1)
def grid(images: List[Image]) -> Image: ...
@node("image.blend", version=1)
def blend(a: Image, b: Image, *, amount: float = 0.5) -> Image: ...
@node("image.resize", version=1)
def resize(
    image: Image,
    *,
    width: Annotated[int, Range(1, 16384)],
    resample: Literal["lanczos", "nearest"] = "lanczos",
) -> Image: ...
@node("image.layers", version=1, renamed={"colours": "frame: {colour: …, width: …}"})
def layers(layers: List[Layer], *, frame: Frame | None = None) -> Image: ...
@node("image.tint", version=1, uses=("pilow",))
def tint(image: Image) -> Image: ...
@node("text.join", version=1)
def join(a: str, b: str) -> str: ...
@node("model.name", version=1)
def name(model: Model[Nothing]) -> str: ...
@node("math.add", version=1)
def add(a: int, b: int) -> int: ...
@node("flow.list", version=1)
def listed(items: List[Value]) -> List[Value]: ...


def registry() -> Registry:
    """Node types for the gallery: small ones, so that its pages do not change when a plugin grows."""
    made = Registry(
        {
            "somebody:broken": Plugin(
                "somebody:broken",
                "1",
                "",
                node_names=("broken.node",),
                fault="cannot be imported: ImportError: no module named 'gone'",
            )
        }
    )
    for function in (
        solid,
        load,
        size,
        tint,
        shades,
        grid,
        blend,
        resize,
        join,
        name,
        add,
        listed,
        layers,
    ):
        made.add(function)
    return made


def problems_of(path: Path) -> tuple[Problem, ...]:
    """Read, resolve and plan a graph as a user does, calling it by its base name. ``# --set
    name=value`` in its first lines gives it values.
    """
    read = spec.read(Path(path.name))
    try:
        graph = resolve(read, registry())
        given = dict(
            line.removeprefix("# --set ").split("=")
            for line in read.source.text.splitlines()
            if line.startswith("# --set ")
        )
        if graph.sweep is not None:
            prepare_sweep(Request(graph, texts=given))
        return make_plan(graph, texts=given).problems
    except GraphError as wrong:
        return wrong.problems


@pytest.fixture(autouse=True)
def in_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the gallery's folder, with a hub cache that holds nothing."""
    monkeypatch.chdir(GALLERY)
    monkeypatch.setenv("HF_HUB_CACHE", "hub")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_broken_graph_earns_exactly_the_words_beside_it(path: Path) -> None:
    """What is printed for a broken graph is the text beside it, to the letter."""
    assert (
        path.with_suffix(".txt").read_text(encoding="utf-8")
        == "\n\n".join(map(str, problems_of(path))) + "\n"
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_page_of_the_gallery_shows_the_code_it_is_named_after(path: Path) -> None:
    """A page named ``code.yaml`` or ``code-variant.yaml`` shows that code."""
    codes = {p.code for p in problems_of(path)}
    assert any(path.stem == code or path.stem.startswith(f"{code}-") for code in codes)


def test_the_gallery_has_a_page_for_every_code() -> None:
    """Every code has a page of its name, and every page and text has its partner."""
    assert {p.stem for p in PAGES} >= CODES.keys() - MADE
    assert {p.stem for p in GALLERY.glob("*.txt")} == {p.stem for p in PAGES}


def test_every_problem_that_the_code_makes_has_a_listed_code() -> None:
    """No part of the core makes a problem of a code that is not listed."""
    core = Path(spec.__file__).parent.parent
    readers = [*(core / "_text").glob("*.py"), *(core / "_graph").glob("*.py")]
    made = {
        code
        for path in core.rglob("*.py")
        for code in re.findall(r'\bProblem\(\s*"([^"]+)"', path.read_text("utf-8"))
    }
    made |= {
        code
        for path in readers
        for code in re.findall(r'\.(?:say|refuse)\(\s*"([^"]+)"', path.read_text("utf-8"))
    }
    assert made >= {"missing-file", "duplicate-key", "list-into-single"}
    assert made - CODES.keys() == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_problems_speak_in_one_voice(path: Path) -> None:
    """A problem's words have a code that is listed, no capital at the start, no full stop, and a
    mark; problems are in file order.
    """
    problems = problems_of(path)
    for problem in problems:
        assert problem.code in CODES
        for words in (problem.message, problem.why, problem.fix):
            assert not words.endswith(".")
            assert words[:1] == words[:1].lower() or not words[:1].isalpha()
        assert problem.mark is not None or problem.code in ("unknown-input", "bad-input")
    assert sorted(problems, key=lambda p: p.position) == list(problems)
