"""Lists are written as tables, a row each, and files in the formats that options describe."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import imagen_flow as flow
from imagen_flow._graph import resolve
from imagen_flow._outputs.formats import OPTIONS
from imagen_flow._outputs.tables import encode_table
from imagen_flow._plugins.registry import discover
from imagen_flow._text import spec
from imagen_flow._types.values import Absent
from imagen_flow.errors import GraphError, NodeError, OutputError

ABSENT = Absent.value


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        ([], {}, ""),
        ([], {"columns": ["a", "b"]}, "a,b\r\n"),
        ([{"b": 1, "a": 2}, {"c": 3, "a": 4}], {}, "b,a,c\r\n1,2,\r\n,4,3\r\n"),
        ([{"b": 1, "a": 2}], {"columns": ["a", "x"]}, "a,x\r\n2,\r\n"),
        (["a", 1, 1.5, True, None], {}, 'value\r\na\r\n1\r\n1.5\r\ntrue\r\n""\r\n'),
        (
            [{"a": 'say "hi"'}, {"a": "x,y"}, {"a": "x\ny"}, {"a": ""}],
            {},
            'a\r\n"say ""hi"""\r\n"x,y"\r\n"x\ny"\r\n""\r\n',
        ),
        ([{"a": [1, {"b": None}], "c": {}}], {}, 'a,c\r\n"[1, {""b"": null}]",{}\r\n'),
        ([1, ABSENT, 2], {}, "value\r\n1\r\n2\r\n"),
        ([1, ABSENT, 2], {"absent": "keep"}, 'value\r\n1\r\n""\r\n2\r\n'),
        ([{"a": 1, "b": 2}, ABSENT], {"absent": "keep"}, "a,b\r\n1,2\r\n,\r\n"),
        (
            ["=1+1", " +x", "-x", "@x", "\tx", "＝x", -1],
            {},
            "value\r\n'=1+1\r\n' +x\r\n'-x\r\n'@x\r\n\tx\r\n'＝x\r\n-1\r\n",
        ),
        (["=1+1", "-x"], {"formulas": "keep"}, "value\r\n=1+1\r\n-x\r\n"),
        ([{"=cmd": 1}], {}, "'=cmd\r\n1\r\n"),
        (["ä"], {"bom": True}, "\ufeffvalue\r\nä\r\n"),
        ({"a": 1}, {}, "a\r\n1\r\n"),
        (3, {}, "value\r\n3\r\n"),
    ],
)
def test_a_list_as_csv(rows: Any, options: dict[str, Any], text: str) -> None:
    """Columns as first seen, quotes where RFC 4180 asks for them, and no formulas."""
    assert encode_table(rows, ".csv", options).decode() == text


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        ([], {}, ""),
        (
            [{"b": 1, "a": "ä"}, "x", None],
            {},
            '{"b": 1, "a": "ä"}\n{"value": "x"}\n{"value": null}\n',
        ),
        ([{"b": 1, "a": 2}], {"columns": ["a", "x"]}, '{"a": 2}\n'),
        ([1, ABSENT], {}, '{"value": 1}\n'),
        ([1, ABSENT], {"absent": "keep"}, '{"value": 1}\nnull\n'),
        ([{"a": "x\ny\u2028z\x85"}], {}, '{"a": "x\\ny\\u2028z\\u0085"}\n'),
        ([{"a": "=1+1"}], {}, '{"a": "=1+1"}\n'),
    ],
)
def test_a_list_as_json_lines(rows: Any, options: dict[str, Any], text: str) -> None:
    """An object in each line, exactly as it is."""
    assert encode_table(rows, ".jsonl", options).decode() == text


plain = st.one_of(
    st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.lists(st.dictionaries(st.text(min_size=1), plain, min_size=1), max_size=4))
def test_what_is_written_is_read_again(rows: list[dict[str, Any]]) -> None:
    """Other programs' readers give back every row and field."""
    try:
        data = encode_table(rows, ".csv", {"formulas": "keep"}).decode()
    except UnicodeEncodeError:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    read = list(csv.reader(io.StringIO(data, newline="")))
    assert [len(row) for row in read] == [len(columns)] * (len(rows) + 1 if columns else 0)
    for row, fields in zip(rows, read[1:], strict=True):
        for column, field in zip(columns, fields, strict=True):
            if isinstance(row.get(column), str):
                assert field == row[column]
    lines = encode_table(rows, ".jsonl", {}).decode().splitlines()
    assert [json.loads(line) for line in lines] == rows


# -- outputs

TEXTS = """
inputs: {texts: {type: "list[text]", default: [a, b, c]}}
nodes:
  flags: {type: text.contains, each: {text: "${texts}"}, find: "b"}
  lengths: {type: text.length, each: {text: "${texts}"}, when: "${flags}"}
  rows: {type: table.row, columns: [text, length], each: {a: "${texts}", b: "${lengths}"}ROW}
outputs:
  table: {from: "${SOURCE}", path: "PATH"MORE}
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Run the graph and read the one file that is no sidecar."""

    def made(source: str, path: str, more: str = "", *, row: str = "", **values: Any) -> str:
        text = TEXTS.replace("SOURCE", source).replace("PATH", path).replace("MORE", more)
        (tmp_path / "graph.yaml").write_text("imagen_flow: 1\n" + text.replace("ROW", row))
        out = tmp_path / "out"
        flow.run(tmp_path / "graph.yaml", out=out, store=tmp_path / "store", **values)
        (file,) = [p for p in out.rglob("*") if p.is_file() and "provenance" not in p.name]
        return file.read_bytes().decode()

    return made


def test_rows_become_a_table(write: Write) -> None:
    """A value that is absent is null in its row, or the row is dropped."""
    assert write("rows", "t.jsonl") == (
        '{"length": null, "text": "a"}\n{"length": 1, "text": "b"}\n{"length": null, "text": "c"}\n'
    )


@pytest.mark.parametrize(
    ("source", "path", "more", "row", "text"),
    [
        ("rows", "t.csv", ", columns: [text, length]", "", "text,length\r\na,\r\nb,1\r\nc,\r\n"),
        ("rows", "t.csv", "", ", absent: drop", "length,text\r\n1,b\r\n"),
        (
            "rows",
            "t.jsonl",
            ", absent: keep",
            ", absent: drop",
            'null\n{"length": 1, "text": "b"}\nnull\n',
        ),
        ("lengths", "t.csv", ", absent: keep", "", 'value\r\n""\r\n1\r\n""\r\n'),
        ("texts", "{output}.csv", "", "", "value\r\na\r\nb\r\nc\r\n"),
        ("flags", "t.jsonl", "", "", '{"value": false}\n{"value": true}\n{"value": false}\n'),
    ],
)
def test_lists_become_tables(
    source: str, path: str, more: str, row: str, text: str, write: Write
) -> None:
    """Of records and of values, with what is absent by policy."""
    assert write(source, path, more, row=row) == text


def test_an_empty_list_is_an_empty_table(write: Write) -> None:
    """The file is there, with its header if the columns are named."""
    assert write("rows", "t.csv", ", columns: [text]", texts=[]) == "text\r\n"


def test_options_decide_whether_a_file_is_up_to_date(tmp_path: Path, write: Write) -> None:
    """Another option writes the file anew, though the value is the same; the same one does not."""
    assert write("rows", "t.csv", ", columns: [text]") == "text\r\na\r\nb\r\nc\r\n"
    path = tmp_path / "out/t.csv"
    written = path.stat().st_mtime_ns
    assert write("rows", "t.csv", ", columns: [text]") == "text\r\na\r\nb\r\nc\r\n"
    assert path.stat().st_mtime_ns == written
    assert write("rows", "t.csv", ", columns: [length]") == 'length\r\n""\r\n1\r\n""\r\n'
    document = json.loads((tmp_path / "out/t.csv.provenance.json").read_text())
    assert document["output"]["options"] == {"columns": ["length"]}


def test_an_element_that_failed_keeps_a_table_from_being_written(tmp_path: Path) -> None:
    """Half a table could be taken for a whole one."""
    (tmp_path / "graph.yaml").write_text(
        "imagen_flow: 1\nnodes: {n: {type: text.to_number, each: {text: ['1', x]}}}\noutputs: {n: {from: '${n}', path: n.csv}}\n"
    )
    said: list[Any] = []
    with pytest.raises(NodeError):
        flow.run(tmp_path / "graph.yaml", out=tmp_path / "out", store=None, on_event=said.append)
    (absent,) = [event for event in said if type(event).__name__ == "OutputAbsent"]
    assert (absent.output, absent.because) == ("n", "some of its elements failed")
    assert not (tmp_path / "out").exists()


def test_json_data_that_is_a_list_is_one_file(tmp_path: Path) -> None:
    """Its path needs no {index}."""
    (tmp_path / "graph.yaml").write_text(
        'imagen_flow: 1\nnodes: {j: {type: json.parse, text: \'[{"a": 1}, {"b": "x"}]\'}}\n'
        "outputs: {j: {from: '${j}', path: j.json, provenance: none}, t: {from: '${j}', path: j.csv, provenance: none}}\n"
    )
    flow.run(tmp_path / "graph.yaml", out=tmp_path / "out", store=None)
    assert json.loads((tmp_path / "out/j.json").read_text()) == [{"a": 1}, {"b": "x"}]
    assert (tmp_path / "out/j.csv").read_bytes() == b"a,b\r\n1,\r\n,x\r\n"


# -- options of formats

PICTURE = """
inputs: {seed: {type: seed, default: 1}}
nodes:
  noise: {type: image.noise, width: 32, height: 32, seed: "${seed}"}
  deep: {type: image.convert, image: "${noise}", depth: 16}
  plain: {type: image.solid, width: 32, height: 32}
outputs:
  picture: {from: "${noise}", path: "PATH"MORE}
"""


@pytest.mark.parametrize(
    ("path", "smaller", "larger"),
    [
        ("x.jpg", "quality: 20", "quality: 90"),
        ("x.jpeg", "subsampling: '4:2:0'", ""),
        ("x.webp", "quality: 20", "lossless: true"),
        ("x.webp", "lossless: false", ""),
        ("x.png", "compress_level: 9", "compress_level: 0"),
        ("x.tif", "compress_level: 9", "compress_level: 0"),
    ],
)
def test_options_change_what_is_written(
    path: str, smaller: str, larger: str, tmp_path: Path
) -> None:
    """The smaller file replaces the larger one at once, and its pixels can be read."""
    sizes = []
    for options in (larger, smaller):
        text = PICTURE.replace("PATH", path).replace("MORE", f", {options}" if options else "")
        if "compress_level" in smaller:  # noise cannot be compressed
            text = text.replace('${noise}", path', '${plain}", path')
        (tmp_path / "graph.yaml").write_text("imagen_flow: 1\n" + text)
        flow.run(tmp_path / "graph.yaml", out=tmp_path / "out", store=tmp_path / "store")
        file = tmp_path / "out" / path
        sizes.append(file.stat().st_size)
        with PIL.Image.open(file) as picture:
            assert picture.size == (32, 32)
    assert sizes[1] < sizes[0]


def test_lossless_options_keep_every_pixel(tmp_path: Path) -> None:
    """Compression levels, of 16 bits too, and the effort of a lossless WebP."""
    read = {}
    for i, (path, source, options) in enumerate(
        [
            ("a.png", "noise", "compress_level: 0"),
            ("b.webp", "noise", "lossless: true, quality: 10, method: 0"),
            ("c.tif", "noise", "compress_level: 9"),
            ("d.png", "deep", "compress_level: 9"),
            ("e.png", "deep", ""),
        ]
    ):
        text = PICTURE.replace("PATH", path).replace("MORE", f", {options}" if options else "")
        (tmp_path / f"{i}.yaml").write_text(
            "imagen_flow: 1\n" + text.replace('${noise}", path', f'${{{source}}}", path')
        )
        flow.run(tmp_path / f"{i}.yaml", out=tmp_path / "out", store=None)
        loaded = flow.run(
            {
                "imagen_flow": 1,
                "nodes": {"l": {"type": "image.load", "file": str(tmp_path / "out" / path)}},
                "outputs": {"l": "${l}"},
            },
            store=None,
        )["l"]
        read[path] = loaded.pixels
    assert np.array_equal(read["a.png"], read["b.webp"])
    assert np.array_equal(read["a.png"], read["c.tif"])
    assert np.array_equal(read["d.png"], read["e.png"])
    assert read["d.png"].dtype == "uint16"


def problem(output: str) -> str:
    text = f"""imagen_flow: 1
nodes:
  noise: {{type: image.noise, width: 8, height: 8, seed: 1}}
  words: {{type: text.join, texts: [a]}}
  parts: {{type: text.split, text: "a b", separator: " "}}
outputs:
  one: {output}
"""
    with pytest.raises(GraphError) as refused:
        resolve(spec.parse(text, name="graph.yaml"), discover())
    (only,) = refused.value.problems
    return f"{only.code}: {only.message} | {only.why} | {only.fix}"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            '{from: "${noise}", path: x.png, quality: 80}',
            "bad-setting: a .png file has no option 'quality' | its options are: compress_level"
            " | remove it; .jpg, .jpeg, .webp files have it",
        ),
        (
            '{from: "${noise}", path: x.jpg, quality: 101}',
            "bad-literal: 'quality' of a .jpg file takes a whole number from 1 to 100, not 101 |  | ",
        ),
        (
            '{from: "${noise}", path: x.webp, lossless: 1}',
            "bad-literal: 'lossless' of a .webp file takes true or false, not 1 |  | ",
        ),
        (
            '{from: "${noise}", path: x.jpg, subsampling: "4:2:1"}',
            "bad-literal: 'subsampling' of a .jpg file takes one of '4:4:4', '4:2:2', '4:2:0', not"
            " the text '4:2:1' |  | did you mean '4:2:2'?",
        ),
        (
            '{from: "${noise}", quality: 80}',
            "bad-setting: 'quality' has no effect | the output has no path, so it is not written"
            " | remove it; .jpg, .jpeg, .webp files have it",
        ),
        (
            '{from: "${words}", path: x.csv, bom: true}',
            "bad-setting: a .csv file has no option 'bom' | text as a .csv file has no options"
            " | remove it",
        ),
        (
            '{from: "${parts}", path: "x-{index}.csv", bom: true}',
            "bad-setting: a .csv file has no option 'bom' | text as a .csv file has no options"
            " | remove it",
        ),
        (
            '{from: "${parts}", path: x.csv, columns: value}',
            "bad-literal: 'columns' of a .csv file takes a list of text, not the text 'value' |  | ",
        ),
        (
            '{from: "${parts}", path: x.csv, columns: [a, b, a]}',
            "bad-literal: the columns of a .csv file have the name 'a' twice |  | ",
        ),
        (
            '{from: "${parts}", path: x.jsonl, columns: []}',
            "bad-literal: the columns of a .jsonl file cannot be none; without 'columns', all are"
            " written |  | ",
        ),
        (
            '{from: "${parts}", path: x.csv, columns: [a, ""]}',
            "bad-literal: the columns of a .csv file cannot have an empty name |  | ",
        ),
    ],
)
def test_an_option_that_a_format_has_not_got_is_refused(output: str, words: str) -> None:
    """When the graph is read, with those that it has, and the formats that have it."""
    assert problem(output) == words


def test_pictures_make_no_table() -> None:
    """A row is data."""
    with pytest.raises(GraphError, match="a list of image cannot be written as a table"):
        resolve(
            spec.parse(
                'imagen_flow: 1\nnodes: {n: {type: image.noise, each: {seed: [1]}, width: 8, height: 8}}\noutputs: {n: {from: "${n}", path: n.csv}}\n',
                name="graph.yaml",
            ),
            discover(),
        )


def test_the_reader_of_graphs_knows_the_options_of_all_formats() -> None:
    """Each key that some format takes, and no other."""
    assert set(spec.OF_FORMAT) == {name for options in OPTIONS.values() for name in options}


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
def test_half_a_character_is_refused_in_words(tmp_path: Path, ending: str) -> None:
    """A text may hold one, from JSON or from Python; files in UTF-8 cannot."""
    graph = {
        "imagen_flow": 1,
        "inputs": {"t": {"type": "text"}},
        "nodes": {"l": {"type": "text.split", "text": "${t}", "separator": ","}},
        "outputs": {
            "o": {"from": "${t}" if ending == "txt" else "${l}", "path": f"x.{ending}"},
        },
    }
    with pytest.raises(OutputError) as refused:
        flow.run(graph, t="a\ud83d,b", out=tmp_path, store=None)
    assert str(refused.value) == (
        f"output 'o' cannot be written as a .{ending} file\n"
        "  = why: it contains half a character (U+D83D), which UTF-8 cannot represent\n"
        "  = fix: remove it from the text, or read the text from a file in UTF-8"
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.jsonl", '{"a": 1e400}', "line 1: 1e400 is too large for a number"),
        ("t.csv", 'a,b\n"x,1\n', "the row in line 2 cannot be read: it has a double quote that is"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    """Also what the libraries that read it would let pass, or say in words of their own."""
    (tmp_path / name).write_text(content)
    graph = {
        "imagen_flow": 1,
        "inputs": {"f": {"type": "file"}},
        "nodes": {"t": {"type": "table.load", "file": "${f}"}},
        "outputs": {"t": "${t}"},
    }
    with pytest.raises(
        flow.NodeError, match=re.escape(f"'{tmp_path / name}' cannot be used: {words}")
    ):
        flow.run(graph, f=tmp_path / name, store=None)
