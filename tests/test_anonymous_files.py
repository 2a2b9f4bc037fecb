"""A node gets files by their content and cannot see their names: a result never depends on what no
key holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import File, Folder, List, Value, events, node
from imagen_flow._graph import Graph, resolve
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs


@node("toy.names", version=1)
def names(file: File) -> str:
    return " ".join([file.name, file.path.name, file.path.stem, file.suffix, file.path.read_text()])


@node("toy.inside", version=1)
def inside(folder: Folder) -> str:
    return " ".join(
        [
            folder.path.name,
            *(f"{file.name} {file.path.name} {file.path.read_text()}" for file in folder),
            *sorted(path.name for path in folder.path.iterdir()),
        ]
    )


@node("toy.same", version=1)
def same(value: Value) -> Value:
    return value


@node("toy.listed", version=1)
def listed(folder: Folder) -> List[File]:
    return list(folder)


@node("toy.upset", version=1)
def upset(file: File, folder: Folder, how: str) -> str:
    if how == "words":
        raise ValueError(f"'{file.name}' of '{folder.path.name}' is odd")
    if how == "place":
        raise ValueError(f"{file.path} is odd")
    (file.path / "nothing").read_text()
    return ""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as store:
        yield store


def graph(text: str) -> Graph:
    registry = Registry({})
    for function in (names, inside, same, listed, upset):
        registry.add(function)
    return resolve(spec.parse("imagen_flow: 1\n" + text, name="graph.yaml"), registry)


def gave(text: str, values: dict[str, Any], store: Store | None = None) -> list[Any]:
    """The outputs of a run, in the order of their names."""
    said = list(execute(make_plan(graph(text), values, store=store)))
    outputs = {
        event.output: event.value for event in said if isinstance(event, events.OutputWritten)
    }
    return [outputs[name] for name in sorted(outputs)]


ONE = 'inputs: {file: {type: file}}\nnodes: {n: {type: toy.names, file: "${file}"}}\noutputs: {out: "${n}"}\n'


def test_a_file_under_another_name_is_the_same(tmp_path: Path, store: Store) -> None:
    """What a node sees of its name is made of the content: nothing is stale when it is renamed,
    with a store or without.
    """
    (tmp_path / "a.txt").write_text("hello")
    (first,) = gave(ONE, {"file": tmp_path / "a.txt"}, store)
    name, path, stem, suffix, content = first.split()
    assert (name, path, suffix, content) == (path, f"{stem}.txt", ".txt", "hello")
    assert len(stem) == 16
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert gave(ONE, {"file": tmp_path / "b.txt"}, store) == [first]
    assert gave(ONE, {"file": tmp_path / "b.txt"}) == [first]


def test_two_files_of_equal_content_are_one(tmp_path: Path) -> None:
    """In one run neither is called by the other's name."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("hello")
    text = 'inputs: {a: {type: file}, b: {type: file}}\nnodes: {m: {type: toy.names, file: "${a}"}, n: {type: toy.names, file: "${b}"}}\noutputs: {m: "${m}", n: "${n}"}\n'
    one, other = gave(text, {"a": tmp_path / "a.txt", "b": tmp_path / "b.txt"})
    assert one == other
    assert "a.txt" not in one


def test_an_ending_says_what_a_file_is(tmp_path: Path, store: Store) -> None:
    """It is seen, and so it counts: capitals do not."""
    (tmp_path / "a.txt").write_text("hello")
    (first,) = gave(ONE, {"file": tmp_path / "a.txt"}, store)
    (tmp_path / "a.txt").rename(tmp_path / "a.md")
    (second,) = gave(ONE, {"file": tmp_path / "a.md"}, store)
    (tmp_path / "a.md").rename(tmp_path / "b.MD")
    assert first.split()[3] == ".txt"
    assert second.split()[3] == ".md"
    assert gave(ONE, {"file": tmp_path / "b.MD"}, store) == [second]


@pytest.mark.parametrize(
    "name", ["plain", ".hidden", "a" * 250, "x." + "y" * 200, "käse brot.txt", "-"]
)
def test_names_of_any_kind_are_hidden(name: str, tmp_path: Path) -> None:
    """Long ones, ones without an extension and strange ones."""
    (tmp_path / name).write_text("hello")
    (first,) = gave(ONE, {"file": tmp_path / name})
    assert first.endswith(" hello")
    assert Path(name).stem not in first or name == "-"


def test_a_folders_name_is_hidden_and_those_inside_are_not(tmp_path: Path) -> None:
    """The names of its files are part of its content."""
    (tmp_path / "photos").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "photos" / name).write_text(name[0])
    text = 'inputs: {folder: {type: folder}}\nnodes: {n: {type: toy.inside, folder: "${folder}"}}\noutputs: {out: "${n}"}\n'
    (first,) = gave(text, {"folder": tmp_path / "photos"})
    assert first.partition(" ")[2] == "a.txt a.txt a b.txt b.txt b a.txt b.txt"
    (tmp_path / "photos").rename(tmp_path / "other")
    assert gave(text, {"folder": tmp_path / "other"}) == [first]


def test_what_a_node_passes_on_is_the_file_itself(tmp_path: Path, store: Store) -> None:
    """Its place and its name outlive the run."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("hello")
    text = (
        'inputs: {file: {type: file}, folder: {type: folder}}\nnodes: {f: {type: toy.same, value: "${file}"}, l: {type: toy.listed, folder: "${folder}"}, d: {type: toy.same, value: "${folder}"}}\n'
        'outputs: {a: "${f}", b: "${l}", c: "${d}"}\n'
    )
    place = tmp_path / "photos" / "a.txt"
    for _ in range(2):
        file, files, folder = gave(text, {"file": place, "folder": place.parent}, store)
        assert (file.path, Path(file.name).name, file.read_text()) == (place, "a.txt", "hello")
        assert [(one.path, Path(one.name).name, one.read_text()) for one in files] == [
            (place, "a.txt", "hello")
        ]
        assert (folder.path, [one.read_text() for one in folder]) == (place.parent, ["hello"])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("words", "'{file}' of 'photos' is odd"),
        ("place", "{place} is odd"),
        ("system", "[Errno 20] Not a directory: '{place}/nothing'"),
    ],
)
def test_an_error_calls_a_file_by_its_name(how: str, words: str, tmp_path: Path) -> None:
    """What a node says of its files is what the user knows them by."""
    (tmp_path / "photos").mkdir()
    place = tmp_path / "photos" / "a.txt"
    place.write_text("hello")
    text = f'inputs: {{file: {{type: file}}, folder: {{type: folder}}}}\nnodes: {{n: {{type: toy.upset, file: "${{file}}", folder: "${{folder}}", how: {how}}}}}\noutputs: {{out: "${{n}}"}}\n'
    plan = make_plan(graph(text), {"file": place, "folder": place.parent})
    name = next(value.name for value in plan.inputs.values() if isinstance(value, File))
    (failed,) = [event for event in execute(plan) if isinstance(event, events.StepFailed)]
    assert failed.message == words.format(file=name, place=place)
