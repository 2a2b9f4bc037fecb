"""Reading graph files: what is understood, where everything stands, and that no text whatever
raises.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagen_flow._text.spec import (
    UNREADABLE,
    GraphSpec,
    Reference,
    Template,
    Word,
    parse,
    parse_mapping,
    read,
)
from imagen_flow._text.yaml_reader import MAX_BYTES, read_words

GRAPH = """\
# Text to a small picture.
imagen_flow: 1
$schema: https://example.org/graph.json
inputs:
  prompt: a large red circle
  seed: {type: seed, default: 7, help: of the first noise}
  sizes: [64, 128]
nodes:
  text: {type: text.encode, model: embedded/imagen, prompt: "${prompt}, ${style.name} for $$5"}
  base:
    type: diffusion.base
    text: ${text}
    guidance_scale: 4
    sizes: [1, "${sizes}"]
    retry: {times: 2}
    when: ${text.flag}
outputs:
  picture: {from: "${base}", path: "{graph}/{seed}.png", exists: number}
  words: ${text}
settings:
  device: cpu
"""


def plain(word: Word) -> Any:
    """Give a word as plain data; references as they were written."""
    value = word.value
    if isinstance(value, dict):
        return {key: plain(pair.value) for key, pair in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Reference):
        return f"<{value.name}{f'.{value.port}' if value.port else ''}>"
    if isinstance(value, Template):
        return "".join(
            part if isinstance(part, str) else plain(Word(part, part.mark)) for part in value.parts
        )
    return value


def plainly(spec: GraphSpec) -> dict[str, Any]:
    """Give a whole spec as plain data."""
    assert spec.problems == ()
    return {
        "inputs": {
            k: (i.bare, i.type and plain(i.type), {o: plain(p.value) for o, p in i.options.items()})
            for k, i in spec.inputs.items()
        },
        "nodes": {
            k: (
                plain(n.type),
                {a: plain(p.value) for a, p in n.arguments.items()},
                {r: plain(p.value) for r, p in n.reserved.items()},
            )
            for k, n in spec.nodes.items()
        },
        "outputs": {
            k: (plain(o.source), {a: plain(p.value) for a, p in o.options.items()})
            for k, o in spec.outputs.items()
        },
        "settings": {k: plain(p.value) for k, p in spec.settings.items()},
    }


def value_of(text: str) -> Any:
    """Read what stands under ``v`` in a text of one key."""
    written = read_words(text, name="graph.yaml")
    assert written.problems == () and written.word is not None
    return plain(written.word)["v"]


def codes(spec: GraphSpec) -> list[str]:
    return [p.code for p in spec.problems]


# -- what is understood ----------------------------------------------------------------------------


def test_a_graph_is_read_as_written() -> None:
    """Inputs, nodes, outputs and settings are told apart, and in a node its reserved words from its
    arguments.
    """
    assert plainly(parse(GRAPH, name="graph.yaml")) == {
        "inputs": {
            "prompt": (True, None, {"default": "a large red circle"}),
            "seed": (False, "seed", {"default": 7, "help": "of the first noise"}),
            "sizes": (True, None, {"default": [64, 128]}),
        },
        "nodes": {
            "text": (
                "text.encode",
                {"model": "embedded/imagen", "prompt": "<prompt>, <style.name> for $5"},
                {},
            ),
            "base": (
                "diffusion.base",
                {"text": "<text>", "guidance_scale": 4, "sizes": [1, "<sizes>"]},
                {"retry": {"times": 2}, "when": "<text.flag>"},
            ),
        },
        "outputs": {
            "picture": ("<base>", {"path": "{graph}/{seed}.png", "exists": "number"}),
            "words": ("<text>", {}),
        },
        "settings": {"device": "cpu"},
    }


def test_json_is_read_as_the_same_graph() -> None:
    """A graph as JSON, tabs and all, and the same graph composed in Python give what the YAML
    gives.
    """
    data = {
        "imagen_flow": 1,
        "inputs": {"size": {"type": "int", "default": 8}},
        "nodes": {"one": {"type": "math.add", "a": "${size}", "b": 1e-4}},
        "outputs": {"one": {"from": "${one.value}"}},
    }
    yaml = "imagen_flow: 1\ninputs: {size: {type: int, default: 8}}\nnodes: {one: {type: math.add, a: '${size}', b: 0.0001}}\noutputs: {one: {from: '${one.value}'}}"
    expected = plainly(parse(yaml, name="graph.yaml"))
    assert plainly(parse(json.dumps(data), name="graph.json")) == expected
    assert plainly(parse(json.dumps(data, indent="\t"), name="graph.json")) == expected
    assert plainly(parse_mapping(data)) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: "\ufeff" + t,
        lambda t: t.encode(),
        lambda t: b"\xef\xbb\xbf" + t.encode(),
    ],
)
def test_line_ends_and_byte_order_marks_change_nothing(change: Any) -> None:
    """CRLF, CR, a byte order mark and bytes give the same graph with the same marks."""
    one, other = parse(GRAPH, name="graph.yaml"), parse(change(GRAPH), name="graph.yaml")
    assert plainly(one) == plainly(other)
    assert [str(n.mark) for n in one.nodes.values()] == [str(n.mark) for n in other.nodes.values()]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("4.0", 4.0),
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1e400", math.inf),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("--", "--"),
        ("inf", "inf"),
        ("NaN", "NaN"),
        ("'7'", "7"),
        ('"true"', "true"),
        ("a $ b $5 $$ $x", "a $ b $5 $ $x"),
        ("$$$$", "$$"),
        ("$${x}", "${x}"),
        ("$$${x}", "$<x>"),
        ("a#b", "a#b"),
        ("a # b", "a"),
        ("http://a.b/c?d=e", "http://a.b/c?d=e"),
        ("{a: b?c}", {"a": "b?c"}),
        ("~/x", "~/x"),
        ("./x y", "./x y"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml(written: str, value: Any) -> None:
    """Only null, true, false, decimal, octal and hexadecimal numbers are not text; dates, times,
    yes and no are text.
    """
    found = value_of(f"v: {written}")
    assert (type(found), found) == (type(value), value)


def test_not_a_number_is_kept_for_whoever_checks_the_port() -> None:
    """``.nan`` is a float."""
    assert math.isnan(value_of("v: .nan"))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"\ud83d\ude00 \u4e2d\/\x41\n"', "😀 中/A\n"),
        ("'it''s'", "it's"),
        ("|\n  one\n   two\n\n  three\n", "one\n two\n\nthree\n"),
        (">-\n  one\n  two\n", "one two"),
        ("one\n  two", "one two"),
        ("'a\u2028b\x85c\ufeffd'", "a\u2028b\x85c\ufeffd"),
        ("a\u2029b", "a\u2029b"),
        ('"\\0"', "\0"),
    ],
)
def test_text_comes_out_as_it_was_meant(written: str, value: str) -> None:
    """Escapes, halves of a character, blocks and folded lines; line separators of Unicode are plain
    characters.
    """
    assert value_of(f"v: {written}") == value


def test_a_prompt_of_a_megabyte_is_read() -> None:
    """Length alone is no problem."""
    prompt = "猫 a cat, " * 120_000
    spec = parse_mapping({"imagen_flow": 1, "inputs": {"prompt": prompt}})
    assert plainly(spec)["inputs"]["prompt"] == (True, None, {"default": prompt})


# -- where it stands -------------------------------------------------------------------------------


def test_every_word_has_a_mark() -> None:
    """A mark is line and column from 1, and as wide as the word; a reference inside text has its
    own.
    """
    spec = parse(GRAPH, name="graph.yaml")
    text, base = spec.nodes["text"], spec.nodes["base"]
    prompt = text.arguments["prompt"]
    size = base.arguments["sizes"].value.value[1].value
    marks = [
        text.name.mark,
        text.type.mark,
        prompt.key.mark,
        prompt.value.mark,
        *(p.mark for p in prompt.value.value.parts if isinstance(p, Reference)),
    ]
    marks += [
        size.mark,
        base.reserved["retry"].value.mark,
        spec.outputs["words"].source.value.mark,
        spec.settings["device"].value.mark,
    ]
    assert [
        (m.line, m.column, m.source.line(m.line)[m.column - 1 : m.column - 1 + m.width])
        for m in marks
    ] == [
        (9, 3, "text"),
        (9, 16, "text.encode"),
        (9, 53, "prompt"),
        (9, 61, '"${prompt}, ${style.name} for $$5"'),
        (9, 62, "${prompt}"),
        (9, 73, "${style.name}"),
        (14, 17, "${sizes}"),
        (15, 12, "{times: 2}"),
        (19, 10, "${text}"),
        (21, 11, "cpu"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        'v: "中😀 \\u0041 ${a}"',
        "v: |\n  中😀\n  and ${a}\n",
        "v: >\n  one ${b}\n  😀 ${a}\n",
        "v: $${a} ${a}",
        '{"v":\t"\\"${a}"}',
        "v: one\n   中 ${a}\n   three",
    ],
)
def test_a_reference_is_found_after_emoji_escapes_and_line_ends(text: str) -> None:
    """Columns count characters, in whatever style the text is written."""
    word = read_words(text, name="graph.yaml").word
    assert word is not None
    mark = [part for part in word.value["v"].value.value.parts if isinstance(part, Reference)][
        -1
    ].mark
    line = mark.source.line(mark.line)
    assert (line[mark.column - 1 :][: mark.width], mark.column) == ("${a}", line.rindex("${a}") + 1)


# -- what goes wrong -------------------------------------------------------------------------------


def test_what_cannot_be_read_is_marked_so_that_nobody_complains_twice() -> None:
    """A word with a problem is UNREADABLE; the node around it is still there, and so are its
    neighbours.
    """
    spec = parse(
        'imagen_flow: 1\nnodes:\n  one: {type: t.t, a: "${a+1}", b: 2}\n  two: 3\n  three: {a: 1}\noutputs: {x: y, z: "${one}"}',
        name="g",
    )
    assert [
        (k, plain(n.type), {a: plain(p.value) for a, p in n.arguments.items()})
        for k, n in spec.nodes.items()
    ] == [
        ("one", "t.t", {"a": UNREADABLE, "b": 2}),
        ("two", UNREADABLE, {}),
        ("three", UNREADABLE, {"a": 1}),
    ]
    assert {k: plain(o.source) for k, o in spec.outputs.items()} == {"x": UNREADABLE, "z": "<one>"}
    assert codes(spec) == ["bad-reference", "bad-shape", "missing-key", "bad-reference"]
    assert spec.whole


def test_of_two_equal_keys_the_first_is_kept() -> None:
    """The second is a problem, and so is a key that only looks different: ``1`` and ``"1"``."""
    spec = parse('imagen_flow: 1\nnodes: {a: {type: t.t, x: 1, x: 2, "1": 3, 1: 4}}', name="g")
    assert plain(spec.nodes["a"].arguments["x"].value) == 1
    assert codes(spec) == ["duplicate-key", "duplicate-key"]


def test_an_unquoted_reference_is_understood_all_the_same() -> None:
    """The problem says to quote it; the rest of the file is read as if it were."""
    spec = parse(
        "imagen_flow: 1\nnodes: {a: {type: t.t, x: ${b}, y: [${b.c}]}}\noutputs: {a: $a}", name="g"
    )
    assert plain(spec.nodes["a"].arguments["x"].value) == "<b>"
    assert plain(spec.nodes["a"].arguments["y"].value) == ["<b.c>"]
    assert codes(spec) == ["unquoted-reference", "unquoted-reference", "bad-reference"]


def test_choices_of_an_output_are_checked() -> None:
    """`exists` and `provenance` take their own words, and `path` takes text."""
    spec = parse(
        'imagen_flow: 1\noutputs:\n  a: {from: "${a}", exists: numbr, provenance: 3, path: [x]}',
        name="g.yaml",
    )
    assert [p.message for p in spec.problems] == [
        "'exists' must be one of error, number, replace, not 'numbr'",
        "'provenance' must be one of full, keys, none, not a number",
        "'path' must be text, not a list",
    ]
    assert spec.problems[0].fix == "did you mean 'number'?"
    assert spec.outputs["a"].options == {}


@pytest.mark.parametrize("version", ["0", "2", "-1", "1.0", "true", "'1'", "[1]", "~", "{}"])
def test_only_version_one_is_known(version: str) -> None:
    """The version is the whole number 1 and nothing that is equal to it."""
    assert codes(parse(f"imagen_flow: {version}", name="g")) == ["unknown-version"]


def test_text_that_breaks_off_is_said_to() -> None:
    """After a syntax error nothing is claimed about what else the graph lacks."""
    spec = parse("imagen_flow: 1\nnodes: {", name="g")
    assert (spec.whole, codes(spec), spec.nodes) == (False, ["syntax"], {})


def test_bytes_that_are_not_utf8_are_shown_where_they_stand(tmp_path: Path) -> None:
    """The problem has the line and column of the first bad byte."""
    path = tmp_path / "latin.yaml"
    path.write_bytes(
        "imagen_flow: 1\ninputs: {prompt: 中文 café}\n".encode().replace(b"\xc3\xa9", b"\xe9")
    )
    spec = read(path, name="latin.yaml")
    assert "\n".join(map(str, spec.problems)) == (
        "latin.yaml:2:24: error[not-utf8]: byte 0xe9 is not UTF-8 text\n"
        "2 | inputs: {prompt: 中文 caf\ufffd}\n"
        "  |                  \u3000\u3000    ^\n"
        "  = why: invalid continuation byte, at byte 42 of the file\n"
        "  = fix: save the file as UTF-8"
    )
    assert (
        parse("imagen_flow: 1".encode("utf-16"), name="g").problems[0].why == "the file is UTF-16"
    )


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file offers the nearest name beside it; a folder is no graph."""
    (tmp_path / "graph.yaml").write_text("imagen_flow: 1")
    assert "\n".join(map(str, read(tmp_path / "grahp.yaml", name="grahp.yaml").problems)) == (
        "grahp.yaml:1:1: error[unreadable]: the file cannot be read\n  = why: no such file or directory\n  = fix: did you mean 'graph.yaml'?"
    )
    assert codes(read(tmp_path)) == ["unreadable"]
    assert codes(read(Path("a\0b"))) == ["unreadable"]
    assert codes(read(Path("x" * 5000))) == ["unreadable"]


def test_a_file_of_100_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    """It is refused by its size; nothing of it is read."""
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 10**6)
    start = time.perf_counter()
    assert "\n".join(map(str, read(path, name="large.yaml").problems)) == (
        "large.yaml:1:1: error[too-large]: a graph file may have at most 8 MiB\n  = fix: put data into separate files, and refer to them in the graph"
    )
    assert time.perf_counter() - start < 0.5
    assert codes(parse(" " * (MAX_BYTES + 1), name="g")) == ["too-large"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_no_graph(tmp_path: Path) -> None:
    """Nobody may ever write to it, so it is refused and not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    (problem,) = read(path).problems
    assert (problem.code, problem.why) == ("unreadable", "it is not a regular file")


@pytest.mark.parametrize(
    ("bomb", "found"),
    [
        ("[" * 3_000, "too-deep"),
        ('{"a":' * 3_000, "too-deep"),
        ("- " * 3_000, "too-deep"),
        ("a: &a [*a]", "yaml-feature"),
        (
            "a: &a [x, x]\n"
            + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} [{'*' + chr(97 + i)}, {'*' + chr(97 + i)}]\n"
                for i in range(20)
            ),
            "yaml-feature",
        ),
        ("a: &a 1\n" * 100_000, "yaml-feature"),
        ("v: " + "9" * 5_000, "bad-literal"),
        ("v: 0x" + "f" * 5_000, "bad-literal"),
    ],
    ids=["lists", "mappings", "blocks", "cycle", "laughs", "anchors", "digits", "hexadecimal"],
)
def test_bombs_are_put_out_early(bomb: str, found: str) -> None:
    """Depth, cycles, expanding aliases and endless numbers are problems, found within seconds."""
    start = time.process_time()
    assert found in codes(parse(bomb, name="g"))
    assert time.process_time() - start < 5


def test_words_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph has an upper number of words."""
    monkeypatch.setattr("imagen_flow._text.yaml_reader.MAX_WORDS", 100)
    assert codes(parse("v: [" + "1," * 96 + "1]", name="g")) == ["unknown-key", "missing-key"]
    assert codes(parse("v: [" + "1," * 97 + "1]", name="g")) == ["too-large"]


@pytest.mark.parametrize(
    "text",
    [
        "imagen_flow: 1\nnodes:\n" + "".join(f"  n{i}: {{type: a.b{i}}}\n" for i in range(100_000)),
        "imagen_flow: 1\nnodes:\n" + "".join(f"  n{i}:\n    type: a.b\n" for i in range(100_000)),
        json.dumps({"imagen_flow": 1, "nodes": {f"n{i}": {"type": "a.b"} for i in range(100_000)}}),
        json.dumps(
            {"imagen_flow": 1, "nodes": {f"n{i}": {"type": "a.b"} for i in range(100_000)}},
            separators=(",", ":"),
        ),
    ],
    ids=["flow", "block", "json", "dense json"],
)
def test_a_graph_of_a_hundred_thousand_nodes_is_refused_at_once(text: str) -> None:
    """Its keys are counted before it is read, which would take half a minute."""
    start = time.process_time()
    assert codes(parse(text, name="g")) == ["too-large"]
    assert time.process_time() - start < 5


def test_what_looks_like_keys_in_a_block_of_text_is_text() -> None:
    """A long text with colons is a word."""
    text = (
        "imagen_flow: 1\nnodes:\n  n:\n    type: a.b\n    text: |\n"
        + "      word: more\n" * 110_000
        + '    other: >-\n      a: b\noutputs: {o: "${n}"}\n'
    )
    assert codes(parse(text, name="g")) == []


def test_a_graph_in_python_may_hold_paths_but_nothing_else_that_is_not_json() -> None:
    """A path is its text; anything else is refused before it is read, in words that say what may
    stand there.
    """
    spec = parse_mapping(
        {"imagen_flow": 1, "nodes": {"a": {"type": "io.load", "file": PurePosixPath("a/b.png")}}}
    )
    assert plain(spec.nodes["a"].arguments["file"].value) == "a/b.png"
    for odd in (object(), math.nan, {1, 2}, b"x"):
        with pytest.raises(TypeError, match="a graph may contain mappings, lists, text, numbers"):
            parse_mapping({"nodes": {"a": odd}})
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(TypeError, match="Circular"):
        parse_mapping({"a": circle})


# -- any text --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def dollars(data: Any) -> Any:
    """Double every dollar in values, as whoever writes a graph does who means the character."""
    if isinstance(data, str):
        return data.replace("$", "$$")
    if isinstance(data, list):
        return [dollars(item) for item in data]
    return {key: dollars(item) for key, item in data.items()} if isinstance(data, dict) else data


@settings(max_examples=150)
@given(JSON)
@example("\ufdd0\ufdd4 \\ufdd6 \x7f \x85 \u2028 \ufffe \ufeff")
@example({"": ["\ufeff", {"a: b": "${x}"}], "<<": 1, "~": None})
def test_json_data_comes_back_as_it_went_in(data: Any) -> None:
    """Any JSON data, written with escapes or in place, is read as the same values."""
    spec = parse_mapping({"imagen_flow": 1, "nodes": {"a": {"type": "t.t", "v": dollars(data)}}})
    assert spec.problems == ()
    found = plain(spec.nodes["a"].arguments["v"].value)
    assert (repr(found), found) == (repr(data), data)
    escaped = read_words(json.dumps({"v": dollars(data)}), name="g")
    assert escaped.word is not None and plain(escaped.word) == {"v": data}


PIECES = st.sampled_from(
    [
        "a",
        "b: ",
        "- ",
        "\n",
        "\n  ",
        "  ",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        '"',
        "'",
        "${",
        "}",
        "${a}",
        "$",
        "&a ",
        "*a",
        "!!t ",
        "|\n",
        ">-\n",
        "? ",
        "# ",
        "---",
        "...",
        "%YAML 1.1",
        "<<: ",
        "\\u",
        "\\ud83d",
        "1",
        "0x",
        "\ufeff",
        "\u2028",
        "\x85",
        "\r",
        "中",
        "😀",
        "\ud800",
        "\0",
        "nodes:\n",
        "inputs:\n",
        "outputs:\n",
        "imagen_flow: 1\n",
        "type: ",
        "default: ",
    ]
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text() | st.binary())
def test_no_text_raises(text: str | bytes) -> None:
    """Whatever is written, what is wrong comes back as problems with a place in the text."""
    spec = parse(text, name="g")
    assert spec.problems or spec.whole
    for problem in spec.problems:
        assert problem.mark is not None and problem.mark.line >= 1 and problem.mark.column >= 1
        assert str(problem)
        line = problem.mark.source.line(problem.mark.line)
        assert problem.mark.column <= len(line) + 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            "the file is a picture\n  = fix: name a graph file; 'imagen-flow replay' runs the graph that a picture contains",
        ),
        (
            b"\xff\xd8\xff\xe0 JFIF",
            "the file is a picture\n  = fix: name a graph file; 'imagen-flow replay' runs the graph that a picture contains",
        ),
        (b"PK\x03\x04", "the file is an archive\n  = fix: name a graph file"),
        (
            bytes(range(256)) * 9,
            "the file is not text\n  = why: it contains zero bytes\n  = fix: name a graph file",
        ),
        (
            b"\0" * 100,
            "the file is not text\n  = why: it contains zero bytes\n  = fix: name a graph file",
        ),
        (
            "imagen_flow: 1\n".encode("utf-16-le"),
            "the file is UTF-16\n  = why: a graph is UTF-8 text\n  = fix: save the file as UTF-8",
        ),
        (
            "imagen_flow: 1\n".encode("utf-16-be"),
            "the file is UTF-16\n  = why: a graph is UTF-8 text\n  = fix: save the file as UTF-8",
        ),
    ],
)
def test_what_is_no_text_is_called_by_what_it_is(data: bytes, words: str) -> None:
    """A picture, an archive, zeros: one problem, which says what the file is and what to do."""
    assert [str(p) for p in parse(data, name="g.yaml").problems] == [
        f"g.yaml:1:1: error[not-utf8]: {words}"
    ]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (
            "nodes:\n<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> b\n",
            (2, 1),
            "a merge conflict is not resolved",
        ),
        ('{\n  // note\n  "imagen_flow": 1\n}', (2, 3), "'//' does not start a comment"),
    ],
)
def test_common_slips_are_called_by_their_names(
    text: str, place: tuple[int, int], words: str
) -> None:
    """What an editor or another format leaves behind is said, not what the parser stumbled on."""
    (problem,) = parse(text, name="g.yaml").problems
    assert problem.mark is not None
    assert ((problem.mark.line, problem.mark.column), problem.message) == (place, words)


def test_slashes_in_text_are_no_comment() -> None:
    """A line of a text may begin with slashes."""
    assert (
        parse(
            "imagen_flow: 1\nnodes:\n  a: {type: x, t: 'one\n    // two'}\noutputs: {o: '${a}'}\n",
            name="g.yaml",
        ).problems
        == ()
    )
