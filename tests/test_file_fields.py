"""The path of an output may use the names of files: of an input, or of the file that an element of a
list was made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._outputs.writer import OutFolder
from imagen_flow._plan import make_plan
from imagen_flow._run.output_delivery import planned_writes
from imagen_flow._store import Store
from imagen_flow.errors import GraphError

Tree = Callable[[], dict[str, str]]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of notes; two are alike."""
    folder = tmp_path / "notes"
    for name, text in {
        "a.txt": "alpha",
        "b.txt": "alpha",
        "in/a.txt": "in alpha",
        "in/deep/C D.TXT": "gamma",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """What is in the output folder."""

    def read() -> dict[str, str]:
        out = tmp_path / "out"
        return {
            path.relative_to(out).as_posix(): path.read_text().rstrip()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }

    return read


def run(text: str, out: Path, store: Path | None = None, **values: Any) -> dict[str, Any]:
    graph = out.parent / "graph.yaml"
    graph.write_text("imagen_flow: 1\n" + text)
    return flow.run(graph, out=out, store=store, **values)


EACH = """
inputs: {notes: {type: folder}}
nodes:
  files: {type: folder.list, folder: "${notes}", pattern: "*.txt"}
  texts: {type: text.load, each: {file: "${files}"}}
  loud:  {type: text.case, each: {text: "${texts}"}, form: upper}
outputs:
  loud: {from: "${loud}", path: "PATH", provenance: none, exists: replace}
"""


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (
            "{files.folder}/{files.stem}.loud.txt",
            ["a.loud.txt", "b.loud.txt", "in/a.loud.txt", "in/deep/C D.loud.txt"],
        ),
        (
            "x/{files.name}.{files.folder}{index}.md",
            None,
        ),
        (
            "{files.folder}/{files.name}.md",
            ["a.txt.md", "b.txt.md", "in/a.txt.md", "in/deep/C D.TXT.md"],
        ),
        (
            "{index}{files.suffix}.{files.stem}.md",
            ["0.txt.a.md", "1.txt.b.md", "2.txt.a.md", "3.txt.C D.md"],
        ),
    ],
)
def test_an_element_is_named_after_its_file(
    path: str, names: list[str] | None, tmp_path: Path, notes: Path, tree: Tree
) -> None:
    """Each has the name of the file that it was made of, also where files are alike; with a store
    that holds all as well.
    """
    if names is None:
        with pytest.raises(GraphError, match="a folder is not a part of a name"):
            run(EACH.replace("PATH", path), tmp_path / "out", notes=notes)
        return
    for _ in range(2):
        run(EACH.replace("PATH", path), tmp_path / "out", tmp_path / "store", notes=notes)
        assert tree() == dict(zip(names, ["ALPHA", "ALPHA", "IN ALPHA", "GAMMA"], strict=True))


def test_results_lie_beside_their_files(tmp_path: Path, notes: Path) -> None:
    """With the folder of the files as output folder; a second run writes nothing new."""
    text = EACH.replace("PATH", "{files.folder}/{files.stem}.md")
    for _ in range(2):
        run(text, notes, tmp_path / "store", notes=notes)
        assert sorted(p.relative_to(notes).as_posix() for p in notes.rglob("*.md")) == [
            "a.md",
            "b.md",
            "in/a.md",
            "in/deep/C D.md",
        ]


def test_a_file_that_is_an_input_gives_its_name(tmp_path: Path, notes: Path, tree: Tree) -> None:
    """Whatever the output is made of."""
    text = """
inputs: {note: {type: file}, other: {type: "list[file]"}}
nodes:
  text: {type: text.load, file: "${note}"}
  texts: {type: text.load, each: {file: "${other}"}}
outputs:
  text: {from: "${text}", path: "{note.folder}/{note.stem}.md", provenance: none}
  copy: {from: "${note}", path: "copies/{note.name}", provenance: none}
  texts: {from: "${texts}", path: "{note.stem}-{other.stem}.md", provenance: none}
"""
    run(
        text,
        tmp_path / "out",
        note=notes / "in/deep/C D.TXT",
        other=[notes / "a.txt", notes / "b.txt"],
    )
    assert tree() == {
        "C D-a.md": "alpha",
        "C D-b.md": "alpha",
        "C D.md": "gamma",
        "copies/C D.TXT": "gamma",
    }


def test_a_name_goes_through_graphs_and_nested_lists(
    tmp_path: Path, notes: Path, tree: Tree
) -> None:
    """A graph that goes through the files counts as a node that does."""
    (tmp_path / "inner.yaml").write_text(
        'imagen_flow: 1\ninputs: {note: {type: file}}\nnodes: {t: {type: text.load, file: "${note}"}, l: {type: text.split, text: "${t}", separator: " "}}\noutputs: {parts: "${l}"}\n'
    )
    text = """
inputs: {notes: {type: folder}}
nodes:
  files: {type: folder.list, folder: "${notes}", pattern: "*.txt"}
  parts: {type: ./inner.yaml, each: {note: "${files}"}}
  words: {type: json.to_text, each: {data: "${parts}"}}
outputs:
  words: {from: "${words}", path: "{files.folder}/{files.stem}.json", provenance: none}
"""
    run(text, tmp_path / "out", notes=notes)
    assert tree() == {
        "a.json": '["alpha"]',
        "b.json": '["alpha"]',
        "in/a.json": '["in", "alpha"]',
        "in/deep/C D.json": '["gamma"]',
    }


def test_files_that_are_chosen_keep_their_names(tmp_path: Path, notes: Path, tree: Tree) -> None:
    """Filtered by what is in them, sorted and cut, each is still named after itself."""
    text = """
inputs: {notes: {type: folder}}
nodes:
  files: {type: folder.list, folder: "${notes}", pattern: "*.txt"}
  texts: {type: text.load, each: {file: "${files}"}}
  names: {type: file.name, each: {file: "${files}"}}
  alpha: {type: text.contains, each: {text: "${texts}"}, find: alpha}
  found: {type: list.filter, values: "${files}", by: "${alpha}"}
  kept:  {type: list.filter, values: "${names.path}", by: "${alpha}"}
  order: {type: list.sort, values: "${found}", by: "${kept}", descending: true}
  first: {type: list.slice, values: "${order}", stop: 2}
  read:  {type: text.load, each: {file: "${first}"}}
outputs:
  read: {from: "${read}", path: "{first.folder}/{first.stem}-{index}.md", provenance: none}
"""
    for _ in range(2):
        run(text, tmp_path / "out", tmp_path / "store", notes=notes)
        assert tree() == {"b-1.md": "alpha", "in/a-0.md": "in alpha"}


def test_names_that_collide_are_an_error(tmp_path: Path, notes: Path, tree: Tree) -> None:
    """The first is written; the second says what it would replace, and how to tell them apart."""
    with pytest.raises(flow.OutputError) as failed:
        run(EACH.replace("PATH", "{files.stem}.md"), tmp_path / "out", notes=notes)
    assert (
        "output 'loud' ([2]) and output 'loud' ([0]) are written to the same path, 'a.md'"
        in str(failed.value)
    )
    assert "add {item}, {index} or {digest8} to the path" in str(failed.value)
    assert tree() == {"C D.md": "GAMMA", "a.md": "ALPHA", "b.md": "ALPHA"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (".hidden.txt", "hidden"),
        ("..txt", "_"),
        ("con.txt", "_con"),
        ("a:b*c?.txt", "a_b_c_"),
        ("ends .txt", "ends"),
        ("\u202egnp.txt", "gnp"),
        ("x" * 200 + ".txt", "x" * 80),
        ("{index}.txt", "{index}"),
        ("$${seed}.txt", "$${seed}"),
    ],
)
def test_a_name_is_made_safe(name: str, written: str, tmp_path: Path, tree: Tree) -> None:
    """As every field is: it cannot leave the folder, hide, or mean something to a system."""
    (tmp_path / name).write_text("x")
    text = 'inputs: {note: {type: file}}\nnodes: {t: {type: text.load, file: "${note}"}}\noutputs: {t: {from: "${t}", path: "{note.stem}.md", provenance: none}}\n'
    run(text, tmp_path / "out", note=tmp_path / name)
    assert list(tree()) == [f"{written}.md"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{files.stm}.md", "the path has no field '{files.stm}'\n  = fix: did you mean 'stem'?"),
        ("{texts.stem}.md", "'texts' is list[text], not a file"),
        ("{notes.stem}.md", "'notes' is folder, not a file"),
        ("{nothing.stem}.md", "the path has no field '{nothing.stem}'"),
        ("{other.stem}-{index}.md", "the output does not come from 'other'"),
        (
            "{sorted.stem}.md",
            "it is not known which file of 'sorted' an element of the output comes from",
        ),
        ("{files.folder}", "a folder is not a part of a name"),
        ("{files.name}", "the path has no file extension, which decides how text is written"),
        ("{files.folder}/x.md", "the path of a list needs {item} or {index}"),
        ("{files.stem}{files.suffix}", "the path has no file extension"),
    ],
)
def test_a_field_that_cannot_be_filled_is_refused(path: str, message: str) -> None:
    """When the graph is read, with the reason."""
    text = EACH.replace("PATH", path).replace(
        "nodes:",
        'nodes:\n  other: {type: list.get, values: "${files}"}\n  sorted: {type: list.slice, values: "${files}", start: 1}',
    )
    with pytest.raises(GraphError) as refused:
        _load(text)
    assert message.partition("\n")[0] in str(refused.value)
    assert message.partition("\n")[2] in str(refused.value)


def _load(text: str) -> Any:
    from imagen_flow._graph import resolve
    from imagen_flow._plugins.registry import discover
    from imagen_flow._text import spec

    return resolve(spec.parse("imagen_flow: 1\n" + text, name="graph.yaml"), discover())


def test_a_list_of_files_names_no_single_output() -> None:
    """It is not known which file is meant."""
    with pytest.raises(GraphError, match="'files' is a list of files, and the output is one value"):
        _load(
            EACH.replace(
                'loud:  {type: text.case, each: {text: "${texts}"}, form: upper}',
                'loud: {type: text.join, texts: "${texts}"}',
            ).replace("PATH", "{files.stem}.md")
        )


def test_a_plan_shows_the_names_as_far_as_they_are_known(tmp_path: Path, notes: Path) -> None:
    """Before the files are listed the field stands as it is; afterwards the names."""
    graph = _load(EACH.replace("PATH", "{files.folder}/{files.stem}.md"))
    with Store.open(tmp_path / "store", graph.registry.codecs) as store:  # type: ignore[union-attr]

        def planned() -> list[str]:
            plan = make_plan(graph, {"notes": notes}, store=store)
            writes = planned_writes(plan, OutFolder(tmp_path / "out"), limit=9)
            return [Path(write.path).relative_to(tmp_path / "out").as_posix() for write in writes]

        assert planned() == ["{files.folder}/{files.stem}.md"]
        for _ in flow.execute(make_plan(graph, {"notes": notes}, store=store)):
            pass
        assert planned() == ["a.md", "b.md", "in/a.md", "in/deep/C D.md"]


def test_an_absent_file_leaves_no_name(tmp_path: Path, notes: Path) -> None:
    """The output says so, and is not written."""
    text = """
inputs: {note: {type: file}}
nodes:
  same: {type: flow.first, a: "${note}", when: false}
  text: {type: flow.first, a: "${same}", b: fallback}
outputs:
  text: {from: "${text}", path: "{same.stem}.md", provenance: none}
"""
    with pytest.raises(flow.OutputError) as failed:
        run(text, tmp_path / "out", note=notes / "a.txt")
    assert "the path '{same.stem}.md' needs the name of 'same'\n  = why: it is absent" in str(
        failed.value
    )


def test_a_name_is_in_the_provenance_of_what_it_names(
    tmp_path: Path, notes: Path, tree: Tree
) -> None:
    """The steps that asked for it; an output that only its path names has the same steps."""
    text = """
inputs: {note: {type: file}}
nodes:
  name: {type: file.name, file: "${note}"}
outputs:
  name: {from: "${name.stem}", path: "{note.stem}.md"}
"""
    run(text, tmp_path / "out", note=notes / "in/a.txt")
    document = json.loads(tree()["a.md.provenance.json"])
    assert [step["node"] for step in document["steps"]] == ["name"]
    assert document["inputs"]["note"]["files"][0]["name"] == "a.txt"
