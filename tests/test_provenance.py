from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_flow._graph import resolve
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._provenance.document import Provenance, parse
from imagen_flow._provenance.embedding import SIDECAR, add_seal, read_embedded, try_read_embedded
from imagen_flow._replay.replay import read
from imagen_flow._run import Run, execute
from imagen_flow._text import spec
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.node import node
from imagen_flow._types.value_digests import digest_value
from imagen_flow._types.values import File, Image, List, Range, Seed, Text
from imagen_flow.errors import ProvenanceError


@node("toy.paint", version=3, uses=("numpy",))
def paint(*, seed: Seed, name: Text = "plain", size: Annotated[int, Range(1, 64)] = 4) -> Image:
    """Paint noise."""
    return Image(
        np.random.default_rng([seed, len(name)]).integers(0, 255, (size, size, 3), dtype="uint8")
    )


@node("toy.read", version=1)
def read_file(file: File) -> Text:
    """Read text."""
    return file.read_text()


@node("toy.names", version=1)
def names(text: Text) -> List[str]:
    """Split text."""
    return text.split()


@pytest.fixture
def registry() -> Registry:
    found = Registry({})
    for function in (paint, read_file, names):
        found.add(function)
    return found


INNER = """\
imagen_flow: 1
inputs:
  seed: {type: seed, default: random}
  name: inner
nodes:
  painted: {type: toy.paint, seed: "${seed}", name: "${name}"}
outputs:
  picture: "${painted}"
"""
MAIN = """\
# Pictures by name: 大 🎨
imagen_flow: 1
inputs:
  seed: {type: seed, default: 5}
  words: {type: file}
nodes:
  text: {type: toy.read, file: "${words}"}
  more: {type: toy.read, file: ./more.txt}
  names: {type: toy.names, text: "${text} ${more}"}
  lone: {type: toy.paint, seed: "${seed}", name: x}
  each: {type: ./parts/inner.yaml, each: {name: "${names}"}}
outputs:
  lone: {from: "${lone}", path: "{graph}/lone.png"}
  each: {from: "${each}", path: "{graph}/{index}.png"}
  short: {from: "${lone}", path: short.jpg, provenance: keys}
  bare: {from: "${lone}", path: bare.png, provenance: none}
"""


@pytest.fixture
def ran(tmp_path: Path, registry: Registry) -> Run:
    """A graph with an included one, files and a list, carried out."""
    at = tmp_path / "graphs"
    (at / "parts").mkdir(parents=True)
    (at / "parts/inner.yaml").write_text(INNER)
    (at / "main.yaml").write_text(MAIN)
    (at / "more.txt").write_text("three")
    (tmp_path / "words.txt").write_text("one two")
    graph = resolve(spec.read(at / "main.yaml"), registry)
    plan = make_plan(graph, {"words": str(tmp_path / "words.txt")}, registry=registry)
    run = execute(plan, out=tmp_path / "out")
    assert list(run)[-1].status == "done"  # type: ignore[union-attr]
    return run


def said(tmp_path: Path, name: str) -> Provenance:
    return read(tmp_path / "out" / name)[0]


# -- what a run says -------------------------------------------------------------------------------


def test_a_picture_carries_its_graph_inputs_and_steps(tmp_path: Path, ran: Run) -> None:
    """Every file of the graph as written and as resolved, the inputs, seeds and files by digest,
    and the keys of the steps that made this picture.
    """
    found = said(tmp_path, "main/lone.png")
    assert found.graph is not None and found.resolved is not None
    assert found.graph.model_dump() == {
        "name": "main",
        "file": "main.yaml",
        "files": {"main.yaml": MAIN, "parts/inner.yaml": INNER},
    }
    assert sorted(found.resolved) == ["main.yaml", "parts/inner.yaml"]
    assert found.resolved["main.yaml"]["nodes"]["lone"] == {
        "type": "toy.paint",
        "version": 3,
        "ports": {"seed": {"input": "seed"}, "name": {"value": "x"}},
        "defaults": {"size": 4},
    }
    words = {
        "kind": "file",
        "digest": digest_bytes(b"one two"),
        "name": "words.txt",
        "significant_name": "",
        "size": 7,
        "files": {},
    }
    more = {
        "kind": "file",
        "digest": digest_bytes(b"three"),
        "name": "more.txt",
        "significant_name": "",
        "size": 5,
        "files": {},
    }
    assert found.inputs["seed"].value == 5
    assert [f.model_dump() for f in found.inputs["words"].files or ()] == [words]
    assert (found.files, found.seeds) == ({}, {"seed": 5})
    assert {k: f.model_dump() for k, f in said(tmp_path, "main/0.png").files.items()} == {
        "more.txt": more
    }
    step = next(s for s in ran.plan.steps if s.name == "lone")
    assert [(s.node, s.key, s.outputs) for s in found.steps] == [
        ("lone", step.key, {"value": found.output.digest})
    ]
    assert (found.made_with[0].type, found.made_with[0].version, found.made_with[0].uses) == (
        "toy.paint",
        3,
        {"numpy": np.__version__},
    )
    assert [p.name for p in found.plugins] == ["local"]


def test_an_element_of_a_list_tells_only_of_what_made_it(tmp_path: Path, ran: Run) -> None:
    """Of an `each` the document has the steps of this element, in the order in which they can run,
    and the seed that an included graph drew.
    """
    found = said(tmp_path, "main/1.png")
    assert found.output.index == 1
    assert [s.node + s.item for s in found.steps] == ["text", "more", "names", "each[1]/painted"]
    assert {s.outputs["value"] for s in found.steps[:2]} <= {
        digest_value("one two"),
        digest_value("three"),
    }
    assert found.seeds.keys() == {"seed", "parts/inner.yaml#seed"}


def test_provenance_holds_nothing_about_the_machine(
    tmp_path: Path, ran: Run, own_home: Path
) -> None:
    """No absolute path, no time, no environment is in it, though files were given by their full
    paths.
    """
    label = try_read_embedded(tmp_path / "out/main/1.png")
    assert label is not None
    assert str(tmp_path) not in label.text
    assert str(own_home) not in label.text
    assert '_s"' not in label.text and "time" not in label.text


def test_the_level_is_the_outputs_own(tmp_path: Path, ran: Run) -> None:
    """`keys` tells of steps by digest alone, in a sidecar for a JPEG; `none` leaves nothing."""
    found = said(tmp_path, "short.jpg")
    assert (found.provenance, found.graph, found.inputs, found.resolved, found.files) == (
        "keys",
        None,
        {},
        None,
        {},
    )
    assert [s.node for s in found.steps] == ["lone"]
    assert "x" not in {value for step in found.steps for value in step.inputs.values()}
    assert b"imagen_flow" not in (tmp_path / "out/bare.png").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "bare.png",
        "main",
        "short.jpg",
        f"short.jpg{SIDECAR}",
    ]


def test_the_same_run_writes_the_same_document(tmp_path: Path, ran: Run) -> None:
    """A document is canonical: asked for again, it is the same text."""
    output = ran.plan.graph.outputs["lone"]
    text = ran.provenance(output)
    assert text == ran.provenance(output)
    label = try_read_embedded(tmp_path / "out/main/lone.png")
    assert label is not None and text is not None and label.text.startswith(text[:-1])


def test_text_that_is_no_unicode_can_be_written(tmp_path: Path, registry: Registry) -> None:
    """Half of a pair of surrogates in an input, which UTF-8 cannot hold, is told as JSON's escape."""
    graph = resolve(
        spec.parse(
            'imagen_flow: 1\ninputs: {name: x}\nnodes: {a: {type: toy.paint, seed: 1, name: "${name}"}}\noutputs: {o: {from: "${a}", path: o.png}}',
            name="g.yaml",
        ),
        registry,
    )
    plan = make_plan(graph, {"name": "a\ud800b"}, registry=registry)
    assert list(execute(plan, out=tmp_path / "out"))[-1].status == "done"  # type: ignore[union-attr]
    assert said(tmp_path, "o.png").inputs["name"].value == "a\ud800b"


def test_the_documents_of_a_long_chain_need_no_deep_stack(
    tmp_path: Path, registry: Registry
) -> None:
    """Twelve hundred steps behind one another are told of without recursion."""

    @node("toy.more", version=1)
    def more(number: int) -> int:
        """Add one."""
        return number + 1

    registry.add(more)
    nodes = {
        "n0": {"type": "toy.more", "number": 0},
        **{f"n{i}": {"type": "toy.more", "number": f"${{n{i - 1}}}"} for i in range(1, 1200)},
    }
    graph = resolve(
        spec.parse_mapping(
            {
                "imagen_flow": 1,
                "nodes": nodes,
                "outputs": {"o": {"from": "${n1199}", "path": "o.json"}},
            }
        ),
        registry,
    )
    plan = make_plan(graph, registry=registry)
    assert list(execute(plan, out=tmp_path / "out"))[-1].status == "done"  # type: ignore[union-attr]
    assert [s.node for s in said(tmp_path, "o.json").steps] == [f"n{i}" for i in range(1200)]


# -- reading what nobody vouches for ---------------------------------------------------------------


DIGEST = "ab" * 20
LEAST: dict[str, Any] = {
    "imagen_flow": 1,
    "version": "0.1.0",
    "provenance": "keys",
    "output": {"name": "o", "kind": "image", "digest": DIGEST},
    "settings": {"device": "cpu", "dtype": "float32"},
    "steps": [
        {
            "node": "n",
            "item": "",
            "key": "k",
            "made_with": 0,
            "inputs": {},
            "outputs": {"value": DIGEST},
        }
    ],
    "made_with": [{"type": "toy.paint", "version": 1, "source": "s", "uses": {}}],
    "models": [],
    "plugins": [],
}


def changed(**more: Any) -> str:
    return json.dumps({**LEAST, **more})


def test_the_least_document_is_read() -> None:
    """What a document must have is enough; keys of a later version are let be."""
    found = parse(changed(seal="x", later={"a": 1}))
    assert found.steps[0].outputs == {"value": DIGEST}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("NaN", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("[]", "not written by imagen_flow"),
        ('{"imagen_flow": "1"}', "not written by imagen_flow"),
        ('{"imagen_flow": true}', "not written by imagen_flow"),
        (changed(imagen_flow=2), "newer imagen_flow"),
        (changed(steps=None), "damaged or forged\n  = why: steps"),
        (
            changed(output={"name": "o", "kind": "image", "digest": "../../etc/passwd"}),
            "output.digest",
        ),
        (
            changed(steps=[{**LEAST["steps"][0], "made_with": 1}]),
            "refers to a part that is missing",
        ),
        (changed(steps=[{**LEAST["steps"][0], "made_with": -1}]), "greater than or equal"),
        (
            changed(steps=[{**LEAST["steps"][0], "conditions": 1}]),
            "refers to a part that is missing",
        ),
        (changed(seeds={"seed": "7"}), "seeds.seed"),
        (changed(provenance="full"), "no graph"),
        (changed(provenance="all"), "provenance"),
        (changed(graph={"name": "g", "file": "g.yaml", "files": {}}), "text of its graph"),
    ],
)
def test_a_forged_document_is_refused_in_words(text: str, words: str) -> None:
    """Whatever is odd about a document is a ProvenanceError that says what, never a traceback."""
    with pytest.raises(ProvenanceError) as refused:
        parse(text)
    assert words in str(refused.value)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*LEAST, "graph", "inputs"]), inner, max_size=4)
        ),
    )
)
def test_no_json_makes_the_reader_fail_otherwise(noise: Any) -> None:
    """Any JSON gives a document or a ProvenanceError."""
    for text in (
        json.dumps(noise),
        json.dumps({**LEAST, **(noise if isinstance(noise, dict) else {"steps": noise})}),
    ):
        try:
            parse(text)
        except ProvenanceError:
            pass


# -- labels ----------------------------------------------------------------------------------------


def test_a_file_without_provenance_says_what_was_looked_for(tmp_path: Path) -> None:
    """A picture that another program saved carries none, and the error says so."""
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(
        ProvenanceError,
        match=r"a.jpg carries no provenance of imagen_flow\n  = why: .*a.jpg.provenance.json",
    ):
        read(tmp_path / "a.jpg")
    with pytest.raises(ProvenanceError, match=r"cannot be read\n  = why: no such file"):
        read(tmp_path / "none.png")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ProvenanceError, match="it ends too early"):
        read(tmp_path / "a.png")


def test_a_sidecar_of_others_is_none_of_ours(tmp_path: Path) -> None:
    """A file that happens to have the name of a sidecar counts for nothing, whatever is in it."""
    (tmp_path / "a.txt").write_text("text")
    for content in (b"[]", b"{}", b"\xff", b"[" * 10_000, b'{"imagen_flow":1,"output":3}'):
        (tmp_path / f"a.txt{SIDECAR}").write_bytes(content)
        assert try_read_embedded(tmp_path / "a.txt") is None


def test_a_huge_sidecar_is_not_read(tmp_path: Path) -> None:
    """A sidecar is read up to a bound."""
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / f"a.txt{SIDECAR}", "wb") as file:
        file.truncate(1 << 40)  # with holes: it takes no room
    with pytest.raises(ValueError, match="longer than"):
        read_embedded(tmp_path / "a.txt")


def test_the_seal_tells_whether_a_file_was_changed(tmp_path: Path) -> None:
    """Provenance of a changed file is still read, and said to be of what was written."""
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / f"a.txt{SIDECAR}").write_text(add_seal(changed(), digest_bytes(b"text")))
    assert read(tmp_path / "a.txt")[1]
    (tmp_path / "a.txt").write_bytes(b"other")
    assert not read(tmp_path / "a.txt")[1]
