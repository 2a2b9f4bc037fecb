"""The fast ways from a graph to its words give what the reader of all texts gives, to the letter."""

from __future__ import annotations

import json
import string
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagen_flow._text import mapping_reader
from imagen_flow._text.mapping_reader import as_text, read_mapping
from imagen_flow._text.spec import parse, parse_mapping
from imagen_flow._text.words import Pair, Reference, Template, Word
from imagen_flow._text.yaml_reader import read_words

REFERENCES = [
    "${a}",
    "${a.b}",
    "$",
    "$$",
    "$${a}",
    "${a b}",
    "${",
    "${ünï.x-1}",
    "é",
    "\n",
    '"',
    " ",
]


def shown(part: Any) -> Any:
    """Give words as plain data, with the place of all marks."""
    if isinstance(part, Word):
        return part.mark.place, shown(part.value)
    if isinstance(part, Pair):
        return shown(part.key), shown(part.value)
    if isinstance(part, Reference):
        return part.name, part.port, part.mark.place
    if isinstance(part, Template):
        return "template", *map(shown, part.parts)
    if isinstance(part, dict):
        return [(key, shown(value)) for key, value in part.items()]
    if isinstance(part, tuple):
        return "list", *map(shown, part)
    return type(part).__name__, repr(part)


TEXTS = st.text(max_size=8) | st.lists(st.sampled_from(REFERENCES), max_size=6).map("".join)
KEYS = TEXTS | st.sampled_from(["type", "from", "default", "each", "a", "n"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from([10**999, -(10**1000), PurePosixPath("a/${b}"), "\ud800", "\ufdd0", 1e22])
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS | st.integers(), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=2).map(MappingProxyType)
    ),
    max_leaves=12,
)
PARTS = st.dictionaries(KEYS, DATA, max_size=3)
GRAPHS = st.fixed_dictionaries(
    {}, optional={"imagen_flow": DATA, "inputs": PARTS, "nodes": PARTS, "outputs": PARTS, "x": DATA}
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, DATA, max_size=4) | GRAPHS)
@example({"a": {"k" * 2000: 1}})
@example({"a": "x$${b} ${c} and ${d.e}"})
def test_a_mapping_is_read_as_its_text_would_be(data: dict[str, Any]) -> None:
    """A graph composed in Python gives the same words, marks and problems as the same graph written
    as JSON, wherever it is not left to the reader of texts.
    """
    text = as_text(data)
    if (read := read_mapping(data, name="g")) is not None:
        expected = read_words(text, name="g")
        assert (shown(read.word), read.problems) == (shown(expected.word), expected.problems)
        assert read.source.text == text
    assert list(map(str, parse_mapping(data, name="g").problems)) == list(
        map(str, parse(text, name="g").problems)
    )


def test_a_mapping_is_not_written_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a graph composed in Python writes no text, until somebody asks where a word stands;
    then it is the graph as it was given.
    """
    written: list[str] = []

    def noted(data: Any) -> str:
        written.append(as_text(data))
        return written[-1]

    monkeypatch.setattr(mapping_reader, "as_text", noted)
    sizes = [1, "${n}"]
    graph: dict[str, Any] = {
        "imagen_flow": 1,
        "inputs": {"n": 7},
        "nodes": {"a": {"type": "t.t", "words": "of ${n} $$", "sizes": sizes}},
        "outputs": {"a": "${a}"},
    }
    expected = json.dumps(graph, indent=2)
    spec = parse_mapping(graph)
    mark = spec.nodes["a"].arguments["sizes"].value.value[1].value.mark
    sizes.clear()
    assert (spec.problems, written) == ((), [])
    assert (str(mark), mark.width, written) == ("<graph>:12:10", 4, [expected])
    assert spec.source.line(12) == '        "${n}"'


def test_a_mapping_that_is_too_much_is_refused() -> None:
    """The limits of files apply: depth, words and bytes."""
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    for data, code in [
        ({"a": deep}, "too-deep"),
        ({"a": {str(number): 1 for number in range(100_001)}}, "too-large"),
        ({"a": "x" * (8 << 20)}, "too-large"),
    ]:
        assert [p.code for p in parse_mapping({"imagen_flow": 1, **data}).problems] == [code]


def test_a_mapping_of_many_letters_is_read() -> None:
    """Every character that may stand in a text may stand in a mapping."""
    words = {c: string.printable + c for c in map(chr, [*range(32, 256), 0x2028, 0xFEFF, 0x1F600])}
    read = read_mapping({"w": words}, name="g")
    assert read is not None and read.word is not None
    assert {k: p.value.value for k, p in read.word.value["w"].value.value.items()} == words
