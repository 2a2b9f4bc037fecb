"""A text that was parsed once comes back from the cache exactly, and results of an older parser are
never used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_flow._text import parse_cache, yaml_reader
from imagen_flow._text.words import Pair, ParsedText, Reference, Template, Word

ROOT = Path(__file__).parent.parent
GRAPHS = sorted([*(ROOT / "graphs").rglob("*.yaml"), *(ROOT / "tests" / "problems").glob("*.*")])

TEXT = """\
# All that can stand in a graph.
imagen_flow: 1
inputs: {n: 7, x: -1.5e-3, huge: 123456789012345678901234567890, nothing: ~, no: false, words: "ünï 😀 \\n $$"}
nodes:
  a: {type: toy.a, list: [1, "${n}", [], {}], text: "of ${n} and ${b.port}$$", "a key": {deep: "${b.port}"}}
outputs:
  out: "${a}"
"""


def shown(part: Any) -> Any:
    """Give words as plain data, with the positions of all marks."""
    if isinstance(part, ParsedText):
        return part.source.name, part.source.text, shown(part.word), [str(p) for p in part.problems]
    if isinstance(part, Word):
        return str(part.mark), part.mark.width, shown(part.value)
    if isinstance(part, Pair):
        return shown(part.key), shown(part.value)
    if isinstance(part, Reference):
        return part.name, part.port, str(part.mark), part.mark.width
    if isinstance(part, Template):
        return "template", *map(shown, part.parts)
    if isinstance(part, dict):
        return [(key, shown(value)) for key, value in part.items()]
    if isinstance(part, tuple):
        return "list", *map(shown, part)
    return type(part).__name__, repr(part)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the texts that were really parsed."""
    read: list[str] = []
    real = yaml_reader.read_words

    def noted(text: str | bytes, *, name: str) -> ParsedText:
        read.append(name)
        return real(text, name=name)

    monkeypatch.setattr(yaml_reader, "read_words", noted)
    return read


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.name)
def test_every_graph_is_remembered_as_it_was_read(path: Path, tmp_path: Path) -> None:
    """A cached text has every word and every mark; a text with problems keeps them."""
    data = path.read_bytes()
    fresh = shown(yaml_reader.read_words(data, name=path.name))
    assert [
        shown(parse_cache.read_words(data, name=path.name, folder=tmp_path)) for _ in range(2)
    ] == [fresh, fresh]


def test_a_text_is_read_once(tmp_path: Path, unread: list[str]) -> None:
    """The second time nothing is parsed, whatever the text's name; another text is parsed."""
    first = parse_cache.read_words(TEXT, name="first", folder=tmp_path)
    second = parse_cache.read_words(TEXT.encode(), name="second", folder=tmp_path)
    parse_cache.read_words(TEXT + "# more\n", name="third", folder=tmp_path)
    assert unread == ["first", "third"]
    assert json.dumps(shown(second)) == json.dumps(shown(first)).replace("first", "second")


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_remembered_as_it_was_read(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Any value comes back unchanged: its type, its text, its position."""
    folder = tmp_path_factory.mktemp("words")
    text = json.dumps(data)
    fresh = shown(yaml_reader.read_words(text, name="t"))
    assert [shown(parse_cache.read_words(text, name="t", folder=folder)) for _ in range(2)] == [
        fresh,
        fresh,
    ]


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    """A text with Windows line ends and a byte order mark points into the same lines when
    remembered.
    """
    data = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    one, two = (parse_cache.read_words(data, name="t", folder=tmp_path) for _ in range(2))
    assert shown(two) == shown(one)
    assert two.source.lines == TEXT.split("\n")


def test_another_reader_reads_anew(
    tmp_path: Path, unread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade of the parser, older entries are not used."""
    parse_cache.read_words(TEXT, name="before", folder=tmp_path / "words")
    newer = tmp_path / "yaml_reader.py"
    newer.write_bytes(Path(yaml_reader.__file__).read_bytes() + b"\n# newer\n")
    monkeypatch.setattr(yaml_reader, "__file__", str(newer))
    parse_cache.read_words(TEXT, name="after", folder=tmp_path / "words")
    assert unread == ["before", "after"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        lambda data: data[:-7],
        lambda data: data.replace(b"toy.a", b"toy.b"),
        b"\0" * 99,
        b'{"m": 1}',
        b"[" * 100_000,
        b'[1,1,1,{"x":[{}]}]',
    ],
)
def test_a_damaged_entry_is_replaced(tmp_path: Path, unread: list[str], damage: Any) -> None:
    """A damaged entry is not used, and is written again."""
    fresh = shown(parse_cache.read_words(TEXT, name="t", folder=tmp_path))
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(
        damage(whole)
        if callable(damage)
        else damage and parse_cache._seal(entry, damage) + b"\n" + damage
    )
    assert shown(parse_cache.read_words(TEXT, name="t", folder=tmp_path)) == fresh
    assert (unread, entry.read_bytes()) == (["t", "t"], whole)


def test_an_entry_under_another_name_is_not_used(tmp_path: Path, unread: list[str]) -> None:
    """Two entries with exchanged names are not used, nor is one that is not a file."""
    texts = {name: f"n: {name}" for name in "ab"}
    first = {
        name: shown(parse_cache.read_words(text, name=name, folder=tmp_path))
        for name, text in texts.items()
    }
    one, two = tmp_path.iterdir()
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    assert {
        name: shown(parse_cache.read_words(text, name=name, folder=tmp_path))
        for name, text in texts.items()
    } == first
    one.unlink()
    os.mkfifo(one)
    assert {
        name: shown(parse_cache.read_words(text, name=name, folder=tmp_path))
        for name, text in texts.items()
    } == first
    assert len(unread) == 5


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used entries are removed, and a large text is not cached."""
    monkeypatch.setattr(parse_cache, "MAX_ENTRIES", 3)
    for number in range(6):
        parse_cache.read_words(f"n: {number}", name="t", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    parse_cache.read_words("n: " + "x" * parse_cache.MAX_BYTES, name="t", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_place_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    """If the cache cannot be written, texts are parsed."""
    (tmp_path / "file").write_text("")
    fresh = shown(yaml_reader.read_words(TEXT, name="t"))
    assert (
        shown(parse_cache.read_words(TEXT, name="t", folder=tmp_path / "file" / "words")) == fresh
    )
    assert shown(parse_cache.read_words(TEXT, name="t", folder=None)) == fresh


def test_problems_are_not_remembered(tmp_path: Path) -> None:
    """A text with a problem is parsed every time."""
    parse_cache.read_words("a: 1\na: 2\n", name="t", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
