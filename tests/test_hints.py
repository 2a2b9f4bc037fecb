"""What users write who do not know yet how it is written, and the exact words that help them."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import pytest

from imagen_flow import GraphError, load
from imagen_flow import _cli as cli
from imagen_flow._settings.devices import nearest_device

NODES = """
from imagen_flow import Text, node

def inner(known):
    return known["missing"]

@node("my.bug", version=1)
def bug() -> Text:
    return inner({})

@node("my.value", version=1)
def value() -> Text:
    return str(int("a word"))
"""

GRAPH = """imagen_flow: 1
inputs: {picture: {type: file}}
nodes:
  loaded: {type: image.load, file: "${picture}"}
  small: {type: image.resize, image: "${loaded}", width: 10, height: 10}
outputs: {o: "${small}"}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    out, err = StringIO(), StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit):
            cli.main(words)
    return out.getvalue() + err.getvalue()


def plan(monkeypatch: pytest.MonkeyPatch, old: str, new: str, *more: str) -> str:
    assert old in GRAPH
    Path("g.yaml").write_text(GRAPH.replace(old, new))
    return call(monkeypatch, "plan", "g.yaml", *(more or ("--set", "picture=nodes.py")))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "image.resize",
            "resize",
            "g.yaml:5:17: error[unknown-node-type]: no plugin provides the node type 'resize'\n"
            '5 |   small: {type: resize, image: "${loaded}", width: 10, height: 10}\n'
            "  |                 ^^^^^^\n"
            "  = fix: did you mean 'image.resize'?\n",
        ),
        (
            '{type: image.resize, image: "${loaded}", width: 10, height: 10}',
            '{type: resize, picture: "${loaded}"}',
            "g.yaml:5:17: error[unknown-node-type]: no plugin provides the node type 'resize'\n"
            '5 |   small: {type: resize, picture: "${loaded}"}\n'
            "  |                 ^^^^^^\n"
            "  = fix: did you mean 'image.resize' or 'latents.resize' or 'mask.resize'?\n",
        ),
        (
            "image.resize",
            "my.bug",
            "g.yaml:5:17: error[unknown-node-type]: no plugin provides the node type 'my.bug'\n"
            '5 |   small: {type: my.bug, image: "${loaded}", width: 10, height: 10}\n'
            "  |                 ^^^^^^\n"
            "  = fix: load the file beside the graph that defines it: --plugin nodes.py\n",
        ),
        (
            "image.resize",
            "our.bug",
            "g.yaml:5:17: error[unknown-node-type]: no plugin provides the node type 'our.bug'\n"
            '5 |   small: {type: our.bug, image: "${loaded}", width: 10, height: 10}\n'
            "  |                 ^^^^^^^\n"
            "  = fix: load the Python file that defines it with --plugin FILE, or install its plugin; `imagen-flow nodes` lists all node types\n",
        ),
        (
            'image: "${loaded}"',
            'image: "${loaded.image}"',
            "g.yaml:5:38: error[unknown-output]: node 'loaded' has no output 'image'\n"
            '5 |   small: {type: image.resize, image: "${loaded.image}", width: 10, height: 10}\n'
            "  |                                      ^^^^^^^^^^^^^^^^^\n"
            '  = fix: write "${loaded}": it has one output\n',
        ),
        (
            'image: "${loaded}"',
            "image: loaded",
            "g.yaml:5:38: error[bad-literal]: port 'image' of image.resize takes the output of a node that gives image, not the text 'loaded'\n"
            "5 |   small: {type: image.resize, image: loaded, width: 10, height: 10}\n"
            "  |                                      ^^^^^^\n"
            '  = fix: write "${loaded}"\n',
        ),
        (
            "loaded: {type: image.load",
            "picture: {type: image.load",
            "g.yaml:4:3: error[name-clash]: an input and a node are both named 'picture'\n"
            '4 |   picture: {type: image.load, file: "${picture}"}\n'
            "  |   ^^^^^^^\n"
            "  = why: '${picture}' could mean either; the other is in line 2\n"
            "  = fix: rename one of them\n",
        ),
    ],
    ids=[
        "a type without its family",
        "several fit alike",
        "a plugin beside the graph",
        "a plugin that is not loaded",
        "the only output by name",
        "a reference without its signs",
        "a clash of names",
    ],
)
def test_a_slip_in_a_graph_earns_one_right_word(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    """The problem names what was meant, and nothing else is said of it."""
    if old.startswith("loaded"):
        found = plan(
            monkeypatch,
            '  loaded: {type: image.load, file: "${picture}"}\n  small: {type: image.resize, image: "${loaded}"',
            '  picture: {type: image.load, file: "${picture}"}\n  small: {type: image.resize, image: "${picture}"',
        )
    else:
        found = plan(monkeypatch, old, new)
    if "loaded.image" in new:
        said = said.replace("5:38", "5:39").replace(" ^^^^^^^^^^^^^^^^^\n", "  ^^^^^^^^^^^^^^^\n")
    assert found == said


@pytest.mark.parametrize(
    "word", ["loaded", "$loaded", "'{loaded}'", "loaded.image", "'$loaded.value'"]
)
def test_whatever_signs_a_reference_lacks_the_whole_of_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """The output of a node that has one needs no name."""
    assert '  = fix: write "${loaded}"' in plan(monkeypatch, '"${loaded}"', word)


def test_an_address_in_the_place_of_a_file_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said that nothing is downloaded."""
    assert plan(monkeypatch, "10", "10", "--set", "picture=https://example.org/a.png") == (
        "error[missing-file]: 'https://example.org/a.png' is an address, not a file\n"
        "  = why: nothing is downloaded: a graph reads files of this machine\n"
        "  = fix: download it first, and give the path of the file\n"
    )


def test_random_for_a_plain_number_says_how_to_declare_a_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the default that the input has."""
    assert plan(
        monkeypatch,
        "{picture: {type: file}}",
        "{picture: {type: file, default: ./nodes.py}, width: 3}",
        "--set",
        "width=random",
    ).endswith(
        "error[bad-input]: input 'width' takes a whole number, not the text 'random'\n"
        "2 | inputs: {picture: {type: file, default: ./nodes.py}, width: 3}\n"
        "  |                                                      ^^^^^\n"
        "  = fix: only a seed is drawn: declare it as width: {type: seed, default: 3}\n"
    )


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("gpu", "cuda"),
        ("GPU:1", "cuda:1"),
        ("nvidia", "cuda"),
        ("metal", "mps"),
        ("cuda0", "cuda"),
        ("cpus", "cpu"),
    ],
)
def test_a_device_by_another_name_is_known(
    monkeypatch: pytest.MonkeyPatch, word: str, meant: str
) -> None:
    """On the command line, in a graph, at a node and in imagen-flow.toml."""
    fix = f"did you mean '{meant}'?"
    assert nearest_device(word) == fix
    assert (
        plan(monkeypatch, "10", "10", "--device", word)
        == f"error[bad-setting]: '{word}' is not a device; the devices are: auto, cpu, cuda, cuda:1, mps ({fix})\n"
    )
    if ":" not in word:
        assert fix in plan(monkeypatch, "outputs:", f"settings: {{device: {word}}}\noutputs:")
        assert fix in plan(monkeypatch, "width: 10, height", f"device: {word}, width: 10, height")
        Path("imagen-flow.toml").write_text(f'device = "{word}"\n')
        assert fix in plan(monkeypatch, "10", "10")


def run(monkeypatch: pytest.MonkeyPatch, node: str, *more: str) -> str:
    Path("g.yaml").write_text(
        f'imagen_flow: 1\nnodes: {{n: {{type: {node}}}}}\noutputs: {{o: "${{n}}"}}\n'
    )
    return call(monkeypatch, "run", "g.yaml", "--plugin", "nodes.py", "--no-store", *more)


def test_what_a_node_raises_has_its_place_in_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """File, line and function of the plugin, and the line's text."""
    assert run(monkeypatch, "my.bug").startswith(
        "o  absent: its source failed\n"
        "x n failed:\n"
        "    g.yaml:2:9: error[node-failed]: n: KeyError: 'missing'\n"
        "    2 | nodes: {n: {type: my.bug}}\n"
        "      |         ^\n"
        '      = why: raised at nodes.py:5 in inner: return known["missing"]\n'
        "      = fix: pass --traceback to see the calls that led to it\n"
    )
    assert '      = why: raised at nodes.py:13 in value: return str(int("a word"))\n' in run(
        monkeypatch, "my.value"
    )


def test_traceback_shows_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that led there, once asked for; not otherwise."""
    said = run(monkeypatch, "my.bug", "--traceback")
    assert "    Traceback (most recent call last):\n" in said
    assert (
        f'      File "{Path.cwd() / "nodes.py"}", line 9, in bug\n        return inner({{}})\n'
        in said
    )
    assert "Traceback" not in run(monkeypatch, "my.bug")


def test_what_an_installed_plugin_raises_on_purpose_needs_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its message says all."""
    said = plan(monkeypatch, "10", "10")
    said = call(monkeypatch, "run", "g.yaml", "--set", "picture=nodes.py", "--no-store")
    assert "loaded failed" in said
    assert "raised at" not in said


def test_a_line_file_and_a_graph_in_each_others_place_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One right command in the place of nine wrong keys."""
    Path("g.yaml").write_text(GRAPH)
    Path("line.yaml").write_text("imagen_flow_folder: 1\ngraph: ./g.yaml\nin: ./in\nout: ./out\n")
    assert call(monkeypatch, "run", "line.yaml").endswith(
        "  = fix: run it with: imagen-flow folder run line.yaml\n"
    )
    assert call(monkeypatch, "folder", "run", "g.yaml").endswith(
        "  = fix: run it with: imagen-flow run g.yaml\n"
    )


@pytest.mark.parametrize(
    ("declared", "fix"),
    [
        ("string, default: a", "did you mean 'text'?"),
        ("number, default: 1", "did you mean 'float'?"),
        ("Integer, default: 1", "did you mean 'int'?"),
        ("image", "did you mean 'file'?"),
        ("list, default: [a.png]", "did you mean 'list[text]' or 'list[file]'?"),
        ("list, default: [1.5, 2]", "did you mean 'list[float]'?"),
        ("array, default: [1]", "did you mean 'list[int]'?"),
        ("list", "did you mean 'list[int]'?"),
    ],
)
def test_what_types_of_inputs_are_called_elsewhere_is_understood(declared: str, fix: str) -> None:
    """The names that other formats have for types get the name that is meant; a bare list gets its
    elements' type.
    """
    Path("g.yaml").write_text(
        f'imagen_flow: 1\ninputs: {{i: {{type: {declared}}}}}\noutputs: {{o: "${{i}}"}}\n'
    )
    with pytest.raises(GraphError) as caught:
        load("g.yaml")
    assert [problem.fix for problem in caught.value.problems if problem.code == "bad-literal"] == [
        fix
    ]


def test_files_beside_a_graph_are_read_and_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them declares a node type is told without running any: of a graph elsewhere, with
    its folder; what cannot be read, or declares nothing as text, is passed over.
    """
    graphs = folder / "a folder"
    graphs.mkdir()
    (graphs / "g.yaml").write_text(GRAPH.replace("image.resize", "my.own"))
    (graphs / "broken.py").write_text("from imagen_flow import node\n@node('my.own'")
    (graphs / "bytes.py").write_bytes(b"imagen_flow \xff\x00")
    (graphs / "deep.py").write_text("import imagen_flow\n" + "(" * 5000)
    (graphs / "named.py").write_text(
        "import imagen_flow\nNAME = 'my.own'\n@node(NAME)\ndef a(): ..."
    )
    (graphs / "z.py").write_text(
        "import imagen_flow as flow\nopen('ran', 'w')\n"
        "@flow.node('my.own', version=1)\ndef own() -> int: ..."
    )
    printed = call(monkeypatch, "plan", "a folder/g.yaml", "--set", "picture=nodes.py")
    assert printed.splitlines()[3] == (
        "  = fix: load the file beside the graph that defines it: --plugin 'a folder/z.py'"
    )
    assert not Path("ran").exists()
