"""The fast ways from a graph to its words give what the reader of all texts gives, to the letter."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagen_flow._text import mapping_reader
from imagen_flow._text.mapping_reader import as_text, read_mapping
from imagen_flow._text.plain_reader import read_plain
from imagen_flow._text.spec import parse, parse_mapping
from imagen_flow._text.words import MAX_WORDS, Pair, Reference, Template, Word
from imagen_flow._text.yaml_reader import read_fully, read_words, source_of

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "graphs").rglob("*.yaml"))

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


# -- texts -----------------------------------------------------------------------------------------

SAMPLE = """\
# All that the fast reader knows.
imagen_flow: 1
$schema: x
inputs:
  n: 7
  "long one": {type: text, default: "a \\"b\\" \\u00e9 \\ud83d\\ude00", help: it's; ok}
nodes:
  a:
    type: hf:org/x@main   # comment
    list:
    - 1
    -   x: -2.5e3
        y: [a b, "${n}", {k: 'it''s', j: [] , z: {}}]
    - "${b.c} and $$ ${d}"
  b: {type: t.t, v: [1,
     2, # c
    3], "q":"r", w: 0x1F}

  c:
    text: |
      one ${n}

      two
    fold: >-
      one
      two

      three
    empty:
    tilde: ~
    plain: a b:c (d), {e}
outputs:
  o: ${a}
"""
AS_JSON = '{"imagen_flow": 1, "a": {"b": [1, -2.5, true, null, "x\\n\\u0041", "${a}"], "c": {}},\n\t"d":\t"e" }\n'
PIECES = (
    *"\n :-#{}[],'\"|>&*!%@`?~$\\\t.=<+0aé\u2028\x85\xa0😀\ufeff",
    *"\n  |\n    |\n- |: |- | #|${a}|${|\n\n|1e3|.5|---\n|null|\\u00e9|\\ud83d|  |<<: |k: v\n|? a\n".split(
        "|"
    ),
)


def agree(text: str) -> bool:
    """Compare the readers of a text; whether the fast one read it."""
    word = read_plain(source_of(text, "g"), references=True, max_words=MAX_WORDS)
    if word is None:
        return False
    full = read_fully(source_of(text, "g"))
    assert full.problems == () and full.word is not None
    assert shown(word) == shown(full.word)
    return True


@st.composite
def edited(draw: st.DrawFn) -> str:
    """Some lines of a text that can be read, with some edits in them."""
    lines = SAMPLE.splitlines(keepends=True)
    first = draw(st.integers(0, len(lines) - 1))
    text = draw(
        st.just("".join(lines[first : first + draw(st.integers(1, 9))]))
        | st.just(SAMPLE)
        | st.just(AS_JSON)
    )
    if draw(st.booleans()):
        text = "k:\n" + text
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 3)) :]
    return text


@settings(max_examples=300, deadline=None)
@given(edited())
@example("a: |\n  b\n   ")
@example("a: >\n  b\n \n")
@example("- a\n-\n")
@example("a:\n- b\nc:\n  - d: e\n    f:\n\n# end\n")
@example('{"a": {}}\t\n')
def test_a_plain_text_is_read_as_the_full_reader_reads_it(text: str) -> None:
    """Words and positions of whatever the fast reader reads are those of the full reader, which
    sees no problem in it.
    """
    agree(text)


@settings(max_examples=60, deadline=None)
@given(
    DATA.filter(lambda data: isinstance(data, dict)),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_json_is_read_as_the_full_reader_reads_it(
    data: Any, indent: int | str | None, is_ascii: bool
) -> None:
    """So are all ways to write JSON."""
    text = json.dumps(
        data,
        indent=indent,
        ensure_ascii=is_ascii,
        default=lambda x: dict(x) if isinstance(x, Mapping) else str(x),
    )
    agree(text.encode("utf-8", "replace").decode())


@pytest.mark.parametrize("text", [SAMPLE, AS_JSON, *(p.read_text("utf-8") for p in SHIPPED)])
def test_everyday_graphs_are_read_fast(text: str) -> None:
    """The fast reader reads all that the sample has in it, and every graph that ships."""
    assert agree(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: b\n c\n",
        "a: 'b\n  c'\n",
        "a: b: c\n",
        "a: 1\na: 2\n",
        "a: &x 1\n",
        "a: !!str 1\n",
        "{a: ${b}}\n",
        "a: 1\n---\nb: 2\n",
        "a: ${b c}\n",
        "a:\n\tb: 1\n",
        "a: " + "[" * 70 + "]" * 70,
        "a: [1, 2\n",
        "a: 1\n  b: 2\n",
        "- a\nb: 1\n",
        "",
    ],
)
def test_anything_else_is_left_to_the_full_reader(text: str) -> None:
    """What has a problem, or a form that hardly any graph has, is not judged by the fast reader."""
    assert read_plain(source_of(text, "g"), references=True, max_words=MAX_WORDS) is None


@pytest.mark.parametrize(
    "piece",
    ["a: ", "[", "{a: ", "'", '"', "a b ", " #", "- ", "\n", " ", "a: |\n  b\n", "$${", ": "],
)
def test_a_hostile_text_does_not_take_long(piece: str) -> None:
    """A megabyte of anything is refused, or read, in time that grows with its length only."""
    source = source_of(piece * ((1 << 20) // len(piece)), "g")
    start = time.process_time()
    read_plain(source, references=True, max_words=MAX_WORDS)
    assert time.process_time() - start < 5


# -- mappings --------------------------------------------------------------------------------------


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
