"""A node that asks for a file with its name gets the real one, and its key covers it; files that are
alike but for their names are one value to all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import File, Folder, List, NamedFile, Scratch, Text, Value, events, node, record
from imagen_flow._graph import Graph, resolve
from imagen_flow._plan import Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.value_digests import digest_value
from imagen_flow.errors import GraphError

CALLS: list[str] = []


@record
class Shot:
    """A file that is known by its name, and one that is not."""

    file: NamedFile
    other: File | None = None


@node("toy.name", version=1)
def name_of(file: NamedFile) -> Text:
    """Say all that can be read of a name."""
    CALLS.append("name")
    return f"{file.name} {file.path.name} {file.stem} {file.suffix} {file.folder or '-'} {file.read_text()}"


@node("toy.read", version=1)
def read(file: File) -> Text:
    """Read a file, whatever it is called."""
    CALLS.append("read")
    assert not file.significant_name
    assert file.name.startswith(file.digest[:16])
    return file.read_text()


@node("toy.list", version=1)
def list_files(folder: Folder) -> List[NamedFile]:
    """List a folder."""
    return list(folder)


@node("toy.plain", version=1)
def list_plainly(folder: Folder) -> List[File]:
    """List a folder by content."""
    return list(folder)


@node("toy.same", version=1)
def same(value: Value) -> Value:
    """Pass a value on."""
    return value


@node("toy.make", version=1)
def make(text: Text, called: Text, scratch: Scratch) -> NamedFile:
    """Make a file with a name."""
    CALLS.append("make")
    (scratch / "made").write_text(text)
    return File(scratch / "made", "", 0, called)


@node("toy.call", version=1)
def call(file: NamedFile, name: Text) -> NamedFile:
    """Call a file otherwise."""
    return File(file.path, file.digest, file.size, name)


@node("toy.shots", version=1)
def shots(shots: List[Shot]) -> Text:
    """Name the files of records."""
    CALLS.append("shots")
    return ", ".join(
        f"{shot.file.name} {'' if shot.other is None else shot.other.stem == shot.other.digest[:16]}"
        for shot in shots
    )


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as store:
        yield store


def graph(text: str) -> Graph:
    registry = Registry({})
    for function in (name_of, read, list_files, list_plainly, same, make, call, shots):
        registry.add(function)
    return resolve(spec.parse("imagen_flow: 1\n" + text, name="graph.yaml"), registry)


def gave(text: str, store: Store | None = None, **values: Any) -> list[Any]:
    """The outputs of a run, in the order of their names."""
    return outputs_of(make_plan(graph(text), values, store=store))


def outputs_of(plan: Plan) -> list[Any]:
    happened = list(execute(plan))
    failed = [event.message for event in happened if isinstance(event, events.StepFailed)]
    assert failed == []
    outputs = {
        event.output: event.value for event in happened if isinstance(event, events.OutputWritten)
    }
    return [outputs[name] for name in sorted(outputs)]


def write(path: Path, text: str = "hello") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


ONE = 'inputs: {file: {type: file}}\nnodes: {n: {type: toy.name, file: "${file}"}, r: {type: toy.read, file: "${file}"}}\noutputs: {name: "${n}", text: "${r}"}\n'
EACH = 'inputs: {folder: {type: folder}}\nnodes: {l: {type: toy.list, folder: "${folder}"}, n: {type: toy.name, each: {file: "${l}"}}, r: {type: toy.read, each: {file: "${l}"}}}\noutputs: {name: "${n}", text: "${r}"}\n'


def test_a_renamed_file_has_its_new_name(tmp_path: Path, store: Store) -> None:
    """The key of the node that asks for the name changes; that of the other does not."""
    write(tmp_path / "a.txt")
    first = gave(ONE, store, file=tmp_path / "a.txt")
    assert first == ["a.txt a.txt a .txt - hello", "hello"]
    (tmp_path / "a.txt").rename(tmp_path / "B.TXT")
    CALLS.clear()
    assert gave(ONE, store, file=tmp_path / "B.TXT") == ["B.TXT B.TXT B .txt - hello", "hello"]
    assert CALLS == ["name"]


def test_a_moved_file_is_the_same(tmp_path: Path, store: Store) -> None:
    """Of a file that is named on its own, only the last part of the path is its name."""
    write(tmp_path / "one" / "a.txt")
    write(tmp_path / "two" / "a.txt")
    first = gave(ONE, store, file=tmp_path / "one" / "a.txt")
    CALLS.clear()
    assert gave(ONE, store, file=tmp_path / "two" / "a.txt") == first
    assert CALLS == []


def test_equal_files_keep_their_own_names(tmp_path: Path, store: Store) -> None:
    """In a list of files that are alike each has its name, and what does not ask for it runs once;
    the same with a full store.
    """
    for name in ("a.txt", "b.txt", "in/a.txt", "in/deep/c.md"):
        write(tmp_path / "files" / name)
    expected = [
        [
            "a.txt a.txt a .txt - hello",
            "b.txt b.txt b .txt - hello",
            "in/a.txt a.txt a .txt in hello",
            "in/deep/c.md c.md c .md in/deep hello",
        ],
        ["hello"] * 4,
    ]
    assert gave(EACH, store, folder=tmp_path / "files") == expected
    assert sorted(CALLS) == ["name"] * 4 + ["read"] * 2
    CALLS.clear()
    assert gave(EACH, store, folder=tmp_path / "files") == expected
    assert CALLS == []


def test_equal_files_that_are_given_as_a_list_keep_their_names(tmp_path: Path) -> None:
    """Also where the graph itself names them, and through nodes that take values of any kind."""
    a, b = write(tmp_path / "a.txt"), write(tmp_path / "b.txt")
    text = 'inputs: {files: {type: "list[file]"}}\nnodes: {n: {type: toy.name, each: {file: "${files}"}}}\noutputs: {n: "${n}"}\n'
    assert gave(text, files=[a, b]) == [
        ["a.txt a.txt a .txt - hello", "b.txt b.txt b .txt - hello"]
    ]
    text = (
        f'nodes: {{n: {{type: toy.name, each: {{file: [{a}, {b}]}}}}}}\noutputs: {{n: "${{n}}"}}\n'
    )
    assert gave(text) == [["a.txt a.txt a .txt - hello", "b.txt b.txt b .txt - hello"]]
    text = 'inputs: {a: {type: file}, b: {type: file}}\nnodes: {s: {type: toy.same, value: "${b}"}, n: {type: toy.name, file: "${s}"}, m: {type: toy.name, file: "${a}"}}\noutputs: {n: "${n}", m: "${m}"}\n'
    assert gave(text, a=a, b=b) == ["a.txt a.txt a .txt - hello", "b.txt b.txt b .txt - hello"]


def test_a_name_goes_into_a_graph_that_is_used_as_a_node(tmp_path: Path) -> None:
    """An input of type file keeps the name that it was given with."""
    (tmp_path / "inner.yaml").write_text("imagen_flow: 1\n" + ONE)
    for name in ("a.txt", "b.txt"):
        write(tmp_path / "files" / name)
    text = 'inputs: {folder: {type: folder}}\nnodes: {l: {type: toy.list, folder: "${folder}"}, n: {type: ./inner.yaml, each: {file: "${l}"}}}\noutputs: {n: "${n.name}"}\n'
    registry = Registry({})
    for function in (name_of, read, list_files):
        registry.add(function)
    resolved = resolve(
        spec.parse("imagen_flow: 1\n" + text, name="graph.yaml", path=tmp_path / "graph.yaml"),
        registry,
    )
    assert outputs_of(make_plan(resolved, {"folder": tmp_path / "files"})) == [
        ["a.txt a.txt a .txt - hello", "b.txt b.txt b .txt - hello"]
    ]


def test_a_file_whose_name_is_not_known_is_refused(tmp_path: Path) -> None:
    """When the graph is read where that is certain, else when the node runs."""
    write(tmp_path / "files" / "a.txt")
    text = 'inputs: {folder: {type: folder}}\nnodes: {l: {type: toy.plain, folder: "${folder}"}, n: {type: toy.name, each: {file: "${l}"}}}\noutputs: {n: "${n}"}\n'
    with pytest.raises(GraphError) as refused:
        graph(text)
    (problem,) = refused.value.problems
    assert problem.message == (
        "${l} is list[file], and 'each' of port 'file' of toy.name takes list[named file]"
    )
    text = 'inputs: {folder: {type: folder}}\nnodes: {l: {type: toy.plain, folder: "${folder}"}, s: {type: toy.same, each: {value: "${l}"}}, n: {type: toy.name, each: {file: "${s}"}}}\noutputs: {n: "${n}"}\n'
    (failed,) = [
        event
        for event in execute(make_plan(graph(text), {"folder": tmp_path / "files"}))
        if isinstance(event, events.StepFailed)
    ]
    assert failed.message == (
        "its 'file' takes a file with its name, and the name of this one is not known"
    )


MADE = 'inputs: {called: a.txt}\nnodes: {m: {type: toy.make, text: hello, called: "${called}"}, n: {type: toy.name, file: "${m}"}, r: {type: toy.read, file: "${m}"}}\noutputs: {n: "${n}", r: "${r}"}\n'


def test_a_node_names_what_it_makes(store: Store) -> None:
    """The name comes back from the store with the file."""
    for _ in range(2):
        assert gave(MADE, store, called="in/b.txt") == ["in/b.txt b.txt b .txt in hello", "hello"]
    assert CALLS == ["make", "name", "read"]


def test_a_lost_file_is_made_again_for_a_node_that_does_not_ask_for_its_name(store: Store) -> None:
    """The store holds it under the digest with its name."""
    gave(MADE, store)
    store.flush()
    for path in (store.folder / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    CALLS.clear()
    text = MADE.replace("type: toy.read,", "type: toy.read, cache: false,")
    assert gave(text, store) == ["a.txt a.txt a .txt - hello", "hello"]
    assert sorted(CALLS) == ["make", "read"]


@pytest.mark.parametrize("called", ["../a.txt", "/a.txt", "a//b.txt", ".", "in/.."])
def test_a_name_cannot_lead_out_of_its_folder(called: str) -> None:
    """The node fails that gives such a name."""
    (failed,) = [
        event
        for event in execute(make_plan(graph(MADE), {"called": called}))
        if isinstance(event, events.StepFailed)
    ]
    assert failed.message == (
        f"its output 'value' must be a file with its name: '{called}' is not the name of a file,"
        " relative to its folder"
    )


def test_a_node_calls_a_file_otherwise(tmp_path: Path, store: Store) -> None:
    """The file stays where it is, with its content."""
    place = write(tmp_path / "a.txt")
    text = 'inputs: {file: {type: file}}\nnodes: {c: {type: toy.call, file: "${file}", name: in/new.md}, n: {type: toy.name, file: "${c}"}}\noutputs: {c: "${c}", n: "${n}"}\n'
    for _ in range(2):
        file, name = gave(text, store, file=place)
        assert (file.path, file.significant_name) == (place, "in/new.md")
        assert name == "in/new.md new.md new .md in hello"


def test_fields_of_records_take_names_or_not(tmp_path: Path, store: Store) -> None:
    """As ports do: renaming what is known by content alone runs nothing."""
    a, b = write(tmp_path / "a.txt"), write(tmp_path / "b.txt")
    text = 'inputs: {a: {type: file}, b: {type: file}}\nnodes: {n: {type: toy.shots, shots: [{file: "${a}", other: "${b}"}, "${b}"]}}\noutputs: {n: "${n}"}\n'
    assert gave(text, store, a=a, b=b) == ["a.txt True, b.txt "]
    text = text.replace(', "${b}"]', "]")
    assert gave(text, store, a=a, b=b) == ["a.txt True"]
    b.rename(tmp_path / "c.txt")
    CALLS.clear()
    assert gave(text, store, a=a, b=tmp_path / "c.txt") == ["a.txt True"]
    assert CALLS == []


def test_a_named_file_survives_the_codec(tmp_path: Path) -> None:
    """With its name; a name that leads elsewhere is damage."""
    codecs = Codecs()
    file = File(tmp_path / "a.txt", digest_bytes(b"x"), 1, "shown.txt", "in/ä.txt")
    kind, _, data = codecs.encode(file)
    assert codecs.decode(kind, data) == file
    with pytest.raises(ValueError, match="is not the name of a file"):
        codecs.decode(kind, data.replace(b"in/", b"../"))


def test_a_name_is_in_the_digest_where_it_counts() -> None:
    """The digest of a file without a name is what it always was."""
    plain = File(Path("/anywhere.txt"), digest_bytes(b"hello"), 5, "greeting.txt")
    named = File(Path("/anywhere.txt"), digest_bytes(b"hello"), 5, "x", "greeting.txt")
    other = File(Path("/anywhere.txt"), digest_bytes(b"hello"), 5, "x", "hello.txt")
    assert digest_value(plain) == "4e898cffb758cb34f6b04058122d6ed24f7ebae7"
    assert digest_value(named) == "95f5ff204403144b3038f3094f2ea87f393e235b"
    assert len({digest_value(file) for file in (plain, named, other)}) == 3


def test_a_file_that_changes_during_a_run_keeps_its_name(tmp_path: Path) -> None:
    """The step is keyed anew, for the new content under the same name."""
    place = write(tmp_path / "a.txt")
    plan = make_plan(graph(ONE), {"file": place})
    write(place, "other")
    assert outputs_of(plan) == ["a.txt a.txt a .txt - other", "other"]
