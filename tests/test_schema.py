"""The JSON Schema of the graph language: it takes every graph that is right, marks what is plainly
wrong, and helps in a real editor's server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

import imagen_flow as flow
from imagen_flow._graph.schema import schema
from imagen_flow._plugins.registry import discover
from imagen_flow._types.node import port_help

ROOT = Path(__file__).parent.parent
GRAPHS = sorted(p for p in (ROOT / "graphs").rglob("*.yaml") if p.parent.name != "lines")


@flow.record
class Weighted:
    text: str
    weight: float = 1.0


@flow.node("toy.draw", version=1)
def draw(
    prompt: str,
    *,
    width: flow.Number = 4,
    steps: int | None = None,
    words: flow.List[Weighted] | None = None,
) -> flow.Image:
    """Draw it.

    Inputs:
        prompt: what to draw,
            in words.
    Params:
        width, steps: sizes.
    """
    raise NotImplementedError


@flow.node("toy.draw_many", version=1)
def draw_many(prompts: flow.List[str], *, count: int = 1) -> flow.List[flow.Image]:
    """Draw several."""
    raise NotImplementedError


TOYS = schema([draw.type, draw_many.type])


def faults(graph: dict[str, Any], of: dict[str, Any] = TOYS) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(of).iter_errors(graph)]


def node(**said: Any) -> dict[str, Any]:
    return {"imagen_flow": 1, "nodes": {"a": said}, "outputs": {"o": "${a}"}}


def test_every_graph_that_ships_is_taken() -> None:
    """With all node types that are installed, and so is the schema itself by its own rules."""
    whole = schema(discover().load_all().node_types.values())
    jsonschema.Draft7Validator.check_schema(whole)
    yaml = YAML(typ="safe", pure=True)
    found = {
        path.name: faults(json.loads(json.dumps(yaml.load(path.read_text("utf-8")))), whole)
        for path in GRAPHS
    }
    assert {name: told for name, told in found.items() if told} == {}
    assert len(found) > 40


@pytest.mark.parametrize(
    "said",
    [
        {"type": "toy.draw", "prompt": "a", "width": 3.5},
        {"type": "toy.draw", "prompt": "a ${b}", "width": "${w}", "steps": None},
        {"type": "toy.draw", "each": {"prompt": ["a", "b"]}, "on_error": "drop"},
        {"type": "toy.draw", "prompt": "a", "words": [{"text": "b"}, "c", "${d}"]},
        {"type": "toy.draw", "prompt": "a", "retry": {"times": 2}, "timeout": 3, "cache": False},
        {"type": "toy.draw_many", "prompts": ["a", "${b}"], "count": 2},
        {"type": "./other.yaml", "anything": [1], "repeat": 3},
    ],
    ids=lambda said: " ".join(said),
)
def test_what_is_right_is_taken(said: dict[str, Any]) -> None:
    """Literals, references, ports bound in 'each', records with and without their braces, and
    whatever a graph of its own takes.
    """
    assert faults(node(**said)) == []


@pytest.mark.parametrize(
    "said",
    [
        {"type": "toy.drew", "prompt": "a"},
        {"type": "toy.draw"},
        {"type": "toy.draw", "prompt": "a", "widht": 3},
        {"type": "toy.draw", "prompt": "a", "width": "wide"},
        {"type": "toy.draw", "prompt": "a", "width": None},
        {"type": "toy.draw", "prompt": "a", "words": [{"weight": 1}]},
        {"type": "toy.draw", "prompt": "a", "words": [{"text": "b", "wight": 1}]},
        {"type": "toy.draw", "each": {"promt": ["a"]}},
        {"type": "toy.draw", "prompt": "a", "on_error": "ignore"},
        {"type": "toy.draw", "prompt": "a", "settings": {"offload": "layers"}},
        {"type": "toy.draw_many", "prompt": "a"},
    ],
    ids="type missing port literal nothing field field-name each on_error setting other".split(),
)
def test_what_is_wrong_is_marked(said: dict[str, Any]) -> None:
    """A node type is told from another whose name begins with it."""
    assert faults(node(**said)) != []


def test_the_help_of_ports_is_read_off_the_docstring() -> None:
    """Ports that share a line share its help; lines below continue it."""
    assert port_help(draw.type) == {
        "prompt": "what to draw, in words.",
        "width": "sizes.",
        "steps": "sizes.",
    }
    assert TOYS["definitions"]["node.toy.draw"]["properties"]["prompt"]["description"] == (
        "text: what to draw, in words."
    )


# --- in an editor
# ------------------------------------------------------------------------------------------------------------

#: The version that the tests know.
SERVER = "yaml-language-server@2.0.0"

TEXT = """# yaml-language-server: $schema={schema}
imagen_flow: 1
nodes:
  made: {{type: image.solid, width: 8, height: 8}}
  small:
    type: image.resize
    image: "${{made}}"
    {line}
outputs:
  picture: "${{small}}"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    home = tmp_path_factory.mktemp("server")
    got = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(home), SERVER],
        capture_output=True,
        text=True,
    )
    if got.returncode:
        pytest.skip(f"npm cannot install {SERVER}: {got.stderr.strip().splitlines()[-1:]}")
    return home / "node_modules" / ".bin" / "yaml-language-server"


@pytest.mark.slow
def test_an_editor_completes_explains_and_marks(program: Path, tmp_path: Path) -> None:
    """With all node types that are installed: types and their ports complete with help, words under
    the cursor are explained, wrong ones are marked, each in less than a second.
    """
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "language_server", Path(__file__).with_name("language_server.py")
    )
    assert spec is not None and spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    made = tmp_path / "schema.json"
    with made.open("wb") as out:
        command = [sys.executable, "-m", "imagen_flow", "schema"]
        subprocess.run(command, stdout=out, check=True, cwd=tmp_path)

    def text(line: str, type_: str = "image.resize") -> str:
        return TEXT.format(schema=made, line=line).replace("image.resize", type_)

    slowest = 0.0

    def timed(ask: Any, *given: Any) -> Any:
        nonlocal slowest
        began = time.monotonic()
        found = ask(*given)
        slowest = max(slowest, time.monotonic() - began)
        return found

    with client.editing(program, tmp_path / "g.yaml") as editor:
        editor.marked(text(""))
        types = timed(editor.completed, text("", "image.r|"))
        assert types["image.resize"] == "Resize a picture to a width, a height or both."
        ports = timed(editor.completed, text("|"))
        assert {"width", "height", "fit", "resample", "each"} <= ports.keys()
        assert ports["width"].startswith("int from 1 to 16384")
        assert "prompt" not in ports
        assert set(timed(editor.completed, text("fit: |"))) == {"stretch", "contain", "cover"}
        assert "keeping the aspect ratio" in timed(editor.hover, text("wid|th: 4"))
        assert timed(editor.marked, text("width: 4")) == []
        assert timed(editor.marked, text("widht: 4")) == [(8, "Property widht is not allowed.")]
        (marked,) = timed(editor.marked, text("width: 0"))
        assert marked == (8, "Value is below the minimum of 1.")
        assert len(types) > 100
    assert slowest < 1
