from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file, save_file

from imagen_flow import loaders
from imagen_flow._graph import resolve
from imagen_flow._plan import Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._provenance.document import parse
from imagen_flow._provenance.embedding import add_seal, try_read_embedded
from imagen_flow._replay import replay
from imagen_flow._replay.comparison import compare
from imagen_flow._run import Run, execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types import image_files as pictures
from imagen_flow._types.models import Model
from imagen_flow._types.node import node
from imagen_flow._types.records import record
from imagen_flow._types.values import File, Folder, Image, List, NamedFile, Seed, Text
from imagen_flow.errors import GraphError, ProvenanceError
from imagen_flow.events import OutputFailed

RUNS: list[str] = []


@node("toy.paint", version=1)
def paint(*, seed: Seed, text: Text = "", add: int = 0) -> Image:
    """Paint noise that depends on everything it is given."""
    RUNS.append("paint")
    return Image(
        np.random.default_rng([seed, add, *text.encode()]).integers(
            0, 255, (4, 4, 3), dtype="uint8"
        )
    )


@node("toy.read", version=1)
def read_file(file: File) -> Text:
    """Read text."""
    RUNS.append("read")
    return file.read_text()


@node("toy.called", version=1)
def called(file: NamedFile) -> Text:
    """Say what a file is called."""
    return file.name


@node("toy.join", version=1)
def join(texts: List[Text]) -> Text:
    """Join texts."""
    return " ".join(texts)


@node("toy.list", version=1)
def list_folder(folder: Folder) -> Text:
    """Join the texts of a folder."""
    return " ".join(f.read_text() for f in folder)


class Loader(loaders.Loader[Any]):
    """Loads a model for the type's sake."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> str:
        return str(load_file(model.path / "model.safetensors")["w"])


@node("toy.model", version=1)
def use_model(*, model: Model[Loader]) -> Text:
    """Read what a model's file says."""
    return str(model)


def registry(*more: Any) -> Registry:
    found = Registry({})
    for function in (paint, read_file, called, join, list_folder, use_model, draw_records, *more):
        found.add(function)
    return found


Make = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", registry().codecs) as opened:
        yield opened


@pytest.fixture
def make(tmp_path: Path, store: Store) -> Make:
    """Run a graph, which writes one picture; then take away everything that it was made from."""

    def made(
        main: str, /, files: dict[str, str] | None = None, keep: bool = False, **values: Any
    ) -> Path:
        at = tmp_path / "graphs"
        for name, text in {"main.yaml": main, **(files or {})}.items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_text(text)
        graph = resolve(spec.read(at / "main.yaml"), registry())
        plan = make_plan(graph, values, registry=registry(), store=store, base=at)
        assert list(execute(plan, out=tmp_path / "out"))[-1].status == "done"  # type: ignore[union-attr]
        if not keep:
            for name in ("main.yaml", *(files or {})):
                (at / name).unlink()
        RUNS.clear()
        (picture,) = (tmp_path / "out").glob("*.png")
        return picture

    return made


class Again(NamedTuple):
    """A picture that was replayed."""

    replay: replay.Replay
    run: Run

    @property
    def plan(self) -> Plan:
        return self.replay.plan

    def verify(self) -> replay.Comparison:
        return self.replay.verify(self.run)


def again(picture: Path, out: Path | None = None, **how: Any) -> Again:
    """Prepare and carry out."""
    found = replay.prepare(picture, registry=how.pop("registry", registry()), **how)
    found.check()
    run = execute(found.plan, out=out)
    assert list(run)[-1].status == "done"  # type: ignore[union-attr]
    return Again(found, run)


SIMPLE = 'imagen_flow: 1\ninputs: {seed: {type: seed, default: 3}, text: hello}\nnodes: {a: {type: toy.paint, seed: "${seed}", text: "${text}"}}\noutputs: {o: {from: "${a}", path: o.png}}\n'


# -- running again


def test_a_picture_runs_again_from_itself_alone(tmp_path: Path, make: Make) -> None:
    """Without the graph file and without a store, the same picture comes out, bit for bit."""
    picture = make(SIMPLE, seed=9)
    found = again(picture, tmp_path / "again")
    assert found.replay.describe() == ["o.png: output 'o' of main.yaml, made by imagen_flow 0.1.0"]
    assert str(found.verify()) == "identical"
    assert (tmp_path / "again/o.png").read_bytes() == picture.read_bytes()
    assert RUNS == ["paint"]


def test_what_the_store_holds_is_not_computed_again_unless_asked(make: Make, store: Store) -> None:
    """Replaying with the store runs nothing; with `fresh` everything runs, so that a comparison
    means something.
    """
    picture = make(SIMPLE)
    assert again(picture, store=store).verify().identical
    assert RUNS == []
    assert again(picture, store=store, fresh=True).verify().identical
    assert RUNS == ["paint"]


def test_inputs_may_be_set(make: Make) -> None:
    """--set changes an input, which is then the first difference."""
    found = again(make(SIMPLE, seed=9), values={"text": "bye"})
    assert found.plan.inputs == {"seed": 9, "text": "bye"}
    assert (
        str(found.verify())
        == "not identical\n  first difference: the input 'text': was 'hello', is 'bye'"
    )
    assert (
        again(found.replay.picture, values={"seed": "10"}).verify().drifts[0].ingredient == "seed"
    )


def test_a_pictures_graph_replaces_nothing_that_no_run_wrote(tmp_path: Path, make: Make) -> None:
    """A picture's graph overwrites foreign files only if the user allows it."""
    picture = make(SIMPLE.replace("path: o.png", "path: o.png, exists: replace"))
    mine = tmp_path / "again/o.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    found = replay.prepare(picture, registry=registry())
    assert (
        "note: its graph says 'exists: replace'; files that no run wrote are only replaced with --replace"
        in found.describe()
    )
    (failed,) = [e for e in execute(found.plan, out=mine.parent) if isinstance(e, OutputFailed)]
    assert "another file exists" in failed.message
    assert mine.read_bytes() == b"mine"
    again(picture, mine.parent, may_replace=True)
    assert mine.read_bytes() == picture.read_bytes()


def test_an_unknown_or_wrong_value_is_a_problem(make: Make) -> None:
    """An unknown name and a value that does not fit are reported together."""
    picture = make(SIMPLE)
    with pytest.raises(GraphError) as refused:
        replay.prepare(picture, registry=registry(), values={"txet": "x", "seed": "one"})
    assert [p.code for p in refused.value.problems] == ["bad-input", "unknown-input"]
    assert "did you mean 'text'?" in str(refused.value)


def test_seeds_that_were_drawn_are_drawn_no_more(make: Make) -> None:
    """A random seed, also one of an included graph, is the recorded one."""
    inner = 'imagen_flow: 1\ninputs: {seed: {type: seed, default: random}}\nnodes: {a: {type: toy.paint, seed: "${seed}"}}\noutputs: {o: "${a}"}\n'
    main = """\
imagen_flow: 1
inputs: {add: {type: seed, default: random}}
nodes:
  deep: {type: ./parts/deep.yaml}
outputs: {o: {from: "${deep}", path: o.png}}
"""
    deep = 'imagen_flow: 1\nnodes: {x: {type: ../inner.yaml}}\noutputs: {o: "${x}"}\n'
    picture = make(
        main.replace("inputs: {add: {type: seed, default: random}}\n", ""),
        files={"inner.yaml": inner, "parts/deep.yaml": deep},
    )
    assert again(picture).verify().identical


def test_an_element_of_a_list_is_compared_with_that_element(tmp_path: Path, store: Store) -> None:
    """A picture from a list replays the list, and is compared with its own element."""
    graph = resolve(
        spec.parse(
            'imagen_flow: 1\nnodes: {a: {type: toy.paint, seed: 1, each: {add: [1, 2, 3]}}}\noutputs: {o: {from: "${a}", path: "{index}.png"}}',
            name="g.yaml",
        ),
        registry(),
    )
    list(execute(make_plan(graph, registry=registry()), out=tmp_path / "out"))
    found = again(tmp_path / "out/2.png", tmp_path / "again")
    assert found.replay.describe()[0] == "2.png: output 'o[2]' of g.yaml, made by imagen_flow 0.1.0"
    assert found.verify().identical
    assert (tmp_path / "again/2.png").read_bytes() == (tmp_path / "out/2.png").read_bytes()


def test_other_formats_replay_from_their_sidecar(tmp_path: Path) -> None:
    """A JPEG is compared by the value that was written, not by its lossy pixels."""
    graph = resolve(spec.parse(SIMPLE.replace("o.png", "o.jpg"), name="g.yaml"), registry())
    list(execute(make_plan(graph, registry=registry()), out=tmp_path / "out"))
    assert again(tmp_path / "out/o.jpg").verify().identical


def test_a_picture_whose_drawn_textanother_program_rewrote_is_replayed(make: Make) -> None:
    """The seal holds as long as the pixels and the text are the same."""
    picture = make(SIMPLE)
    data = picture.read_bytes()
    at = data.index(b"iTXt") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    content = b"imagen_flow\0\0" + zlib.compress(
        data[at + 8 : at + 8 + size].partition(b"\0\0\0\0\0")[2]
    )
    rewritten = (
        len(content).to_bytes(4, "big")
        + b"zTXt"
        + content
        + zlib.crc32(b"zTXt" + content).to_bytes(4, "big")
    )
    picture.write_bytes(data[:at] + data[at + 12 + size : -12] + rewritten + data[-12:])
    found = again(picture, fresh=True)
    assert (found.replay.intact, str(found.verify())) == (True, "identical")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            b'{"imagen_flow":1,"output":?',
            "its provenance chunk is not a document of imagen_flow; another program may have changed it",
        ),
        (b"", "parts of it are in the file, but in a form written by another program"),
    ],
)
def test_provenance_in_another_form_is_not_said_to_be_absent(
    tmp_path: Path, make: Make, text: bytes, words: str
) -> None:
    """Mangled provenance, or provenance copied to where it is not read (Exif, XMP), is named as
    such.
    """
    picture = make(SIMPLE)
    document = try_read_embedded(picture)
    assert document is not None
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (2, 2)).save(other)
    data = other.read_bytes()
    kind, content = (
        (b"tEXt", b"imagen_flow\0" + text)
        if text
        else (b"eXIf", b"II*\0" + document.text.encode("utf-16-le"))
    )
    other.write_bytes(
        data[:33]
        + len(content).to_bytes(4, "big")
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        + data[33:]
    )
    with pytest.raises(ProvenanceError, match=re.escape(words)):
        replay.read(other)


def test_a_picture_that_was_changed_says_so(make: Make) -> None:
    """Provenance of an edited picture can be run, with a note."""
    picture = make(SIMPLE)
    picture.write_bytes(picture.read_bytes() + b"more")
    assert (
        "note: the file was changed after it was written; this describes what was written"
        in again(picture).replay.describe()
    )


def test_keys_alone_cannot_run(make: Make) -> None:
    """A picture that carries only keys says why it cannot be run again."""
    with pytest.raises(
        ProvenanceError, match=r"cannot be run again\n  = why: it carries keys only"
    ):
        replay.prepare(
            make(SIMPLE.replace("path: o.png", "path: o.png, provenance: keys")),
            registry=registry(),
        )


def test_an_unknown_device_gives_way_to_auto_with_a_note(make: Make) -> None:
    """A picture made on a device that does not exist here is planned for what exists here."""
    picture = make(SIMPLE)
    forge(picture, '"device":"cpu"', '"device":"cuda:63"')
    found = again(picture)
    assert "made on cuda:63" in "\n".join(found.replay.describe())
    assert found.verify().identical


# -- files: never by the name in the picture


WITH_FILES = """\
imagen_flow: 1
inputs: {photo: {type: file}}
nodes:
  mine: {type: toy.read, file: ./notes.txt}
  all: {type: toy.list, folder: ./notes}
  yours: {type: toy.read, file: "${photo}"}
  a: {type: toy.paint, seed: 1, text: "${mine}${all}${yours}"}
outputs: {o: {from: "${a}", path: o.png}}
"""
FILES = {"notes.txt": "n", "notes/b.txt": "b", "notes/c.txt": "c", "photo.txt": "p"}


def test_files_are_not_needed_while_the_store_holds_what_was_made_of_them(
    make: Make, store: Store
) -> None:
    """If all files are gone, the picture still replays with the store."""
    picture = make(WITH_FILES, files=FILES, photo="photo.txt")
    found = again(picture, store=store)
    assert (found.replay.missing, found.plan.counts, str(found.verify())) == (
        (),
        {"cached": 4},
        "identical",
    )


def test_files_that_are_needed_are_asked_for(tmp_path: Path, make: Make) -> None:
    """Without the store, each missing file is named with the option that provides it; with these,
    the picture comes out again.
    """
    picture = make(WITH_FILES, files=FILES, photo="photo.txt", keep=True)
    found = replay.prepare(picture, registry=registry())
    assert [(m.name, m.kind) for m in found.missing] == [
        ("./notes", "folder"),
        ("./notes.txt", "file"),
        ("photo", "file"),
    ]
    assert "pass --set ./notes.txt=PATH" in str(found.missing[1].problem())
    with pytest.raises(GraphError, match="the file './notes.txt' is not available"):
        found.check()
    values = {
        "./notes.txt": "graphs/notes.txt",
        "notes": "graphs/notes",
        "photo": "graphs/photo.txt",
    }
    whole = again(picture, tmp_path / "again", values=values, base=tmp_path)
    assert whole.verify().identical
    label = try_read_embedded(tmp_path / "again/o.png")
    assert label is not None and str(tmp_path) not in label.text
    assert again(tmp_path / "again/o.png", values=values, base=tmp_path).verify().identical
    (tmp_path / "graphs/notes.txt").write_text("other")
    drifts = again(picture, values=values, base=tmp_path).verify().drifts
    assert (drifts[0].ingredient, drifts[0].what) == ("file", "the file 'notes.txt'")


NAMED = """\
imagen_flow: 1
inputs: {photo: {type: file}, photos: {type: "list[file]"}}
nodes:
  mine: {type: toy.called, file: ./notes.txt}
  yours: {type: toy.called, file: "${photo}"}
  all: {type: toy.called, each: {file: "${photos}"}}
  a: {type: toy.paint, seed: 1, text: "${mine}${yours}", each: {add: [0]}}
  b: {type: toy.join, texts: "${all}"}
  c: {type: toy.paint, seed: 1, text: "${mine}${yours}${b}"}
outputs: {o: {from: "${c}", path: "{photo.stem}.png"}}
"""


def test_a_picture_that_was_made_of_names_is_made_of_them_again(
    tmp_path: Path, make: Make, store: Store
) -> None:
    """With the store nothing runs, and the file has its name; with the files under other names the
    comparison says which name differs.
    """
    files = {"notes.txt": "n", "photo.txt": "n", "x/one.txt": "n", "x/two.txt": "n"}
    lists = [tmp_path / "graphs/x/one.txt", tmp_path / "graphs/x/two.txt"]
    picture = make(NAMED, files=files, photo="photo.txt", photos=lists, keep=True)
    assert picture.name == "photo.png"
    found = again(picture, tmp_path / "again", store=store)
    assert (found.plan.counts["cached"], str(found.verify())) == (6, "identical")
    assert (tmp_path / "again/photo.png").read_bytes() == picture.read_bytes()
    values = {
        "./notes.txt": "graphs/notes.txt",
        "photo": "graphs/photo.txt",
        "photos": "graphs/x/one.txt,graphs/x/two.txt",
    }
    assert again(picture, values=values, base=tmp_path).verify().identical
    (tmp_path / "graphs/photo.txt").rename(tmp_path / "graphs/other.txt")
    found = again(picture, values={**values, "photo": "graphs/other.txt"}, base=tmp_path)
    (drift,) = found.verify().drifts
    assert (drift.what, drift.then[:9], drift.now[:9]) == (
        "the name of the file for 'photo'",
        "photo.txt",
        "other.txt",
    )


@pytest.mark.parametrize("name", ["../photo.txt", "..", "a//b", "/etc/passwd"])
def test_a_recorded_name_leads_nowhere(name: str, tmp_path: Path, make: Make, store: Store) -> None:
    """A forged name is refused, and nothing is opened by it."""
    picture = make(WITH_FILES, files=FILES, photo="photo.txt")
    forge(picture, '"name":"photo.txt"', f'"name":"{name}"')
    with pytest.raises(ProvenanceError, match="is not the name of a file"):
        replay.prepare(picture, registry=registry(), store=store)


def test_a_file_that_a_node_made_is_found_in_the_store_by_its_content(
    tmp_path: Path, make: Make, store: Store
) -> None:
    """The store finds a file by its digest, whatever its name."""
    picture = make(
        SIMPLE.replace("text: hello}", "text: hello, photo: {type: file}}")
        .replace('text: "${text}"', 'text: "${r}"')
        .replace("nodes: {", 'nodes: {r: {type: toy.read, file: "${photo}"}, '),
        files={"p.txt": "deep"},
        photo="p.txt",
    )
    label = try_read_embedded(picture)
    assert label is not None
    digest = parse(label.text).inputs["photo"].files[0].digest  # type: ignore[index]
    made = store.scratch("made") / "scratch.txt"
    made.write_text("deep")
    assert store.adopt(File(made, "", 0)).digest == digest
    found = again(picture, store=store, fresh=True)
    assert found.replay.missing == ()
    assert found.verify().identical


def forge(picture: Path, old: str, new: str) -> None:
    """Change what a picture says of itself, as somebody might who wants something."""
    label = try_read_embedded(picture)
    assert label is not None and old in label.text
    text = label.text.partition(',"seal":"')[0] + "}"
    data = picture.read_bytes()
    picture.write_bytes(pictures.embed(data, add_seal(text.replace(old, new), "00" * 20)))


def touched(path: Path, act: Callable[[], Any]) -> bool:
    """Whether a file is opened meanwhile; watched by a hook that Python calls at every opening."""
    seen: list[str] = []
    watching = [True]

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if (
            watching
            and event == "open"
            and given
            and isinstance(given[0], str | os.PathLike)
            and os.path.realpath(os.fspath(given[0])) == str(path)
        ):
            seen.append(event)

    sys.addaudithook(watch)
    try:
        act()
    finally:
        watching.clear()
    return bool(seen)


def test_a_forged_picture_whose_graphs_multiply_is_refused_at_once(make: Make) -> None:
    """A picture with too many steps is refused before a question is asked and before its steps are
    listed.
    """
    again_ = 'imagen_flow: 1\nnodes: {{a: {{type: ./g{}.yaml, repeat: {{times: 1, keep: {{best: s}}}}}}}}\noutputs: {{o: "${{a.o}}", s: "${{a.s}}"}}\n'
    files = {f"g{i}.yaml": again_.format(i + 1) for i in range(25)}
    files["g25.yaml"] = (
        'imagen_flow: 1\ninputs: {n: 1}\nnodes: {p: {type: toy.paint, seed: 1}}\noutputs: {o: "${p}", s: "${n}"}\n'
    )
    picture = make(
        'imagen_flow: 1\nnodes: {a: {type: ./g0.yaml}}\noutputs: {o: {from: "${a.o}", path: o.png}}\n',
        files=files,
    )
    assert again(picture).verify().identical
    forge(picture, "times: 1", "times: 9")
    with pytest.raises(GraphError, match="the graph has more than 200,000 steps") as refused:
        replay.prepare(picture, registry=registry())
    assert "g0.yaml includes g1.yaml 9 times" in refused.value.problems[0].why


@pytest.mark.parametrize("written", ["/{}", "../../../../../../../..{}", "./photo.txt"])
def test_a_forged_picture_opens_no_local_file(
    tmp_path: Path, make: Make, store: Store, written: str
) -> None:
    """If a picture's graph names a file of this machine, it is asked for and not opened, even if it
    exists.
    """
    secret = (tmp_path / "secret.txt").resolve()
    secret.write_text("secret")
    picture = make(
        'imagen_flow: 1\nnodes: {r: {type: toy.read, file: ./photo.txt}, a: {type: toy.paint, seed: 1, text: "${r}"}}\noutputs: {o: {from: "${a}", path: o.png}}\n',
        files={"photo.txt": "p"},
    )
    path = written.format(str(secret).lstrip("/") if written.startswith("/") else secret)
    forge(picture, "./photo.txt", path)
    found: list[Any] = []

    def act() -> None:
        try:
            prepared = replay.prepare(picture, registry=registry(), store=store, fresh=True)
            prepared.check()
        except GraphError as refused:
            found.append(refused)

    assert not touched(secret, act)
    assert "is not available" in str(found[0])
    assert f"pass --set {path}=PATH" in str(found[0])


def test_the_check_above_can_fail(tmp_path: Path) -> None:
    """The check detects a file that is opened."""
    (tmp_path / "a").write_text("a")
    assert touched((tmp_path / "a").resolve(), (tmp_path / "a").read_text)


def test_a_forged_picture_includes_no_local_graph(tmp_path: Path, make: Make) -> None:
    """A graph that the picture does not contain is not read from the disk."""
    inner = 'imagen_flow: 1\nnodes: {a: {type: toy.paint, seed: 1}}\noutputs: {o: "${a}"}\n'
    picture = make(
        'imagen_flow: 1\nnodes: {x: {type: ./inner.yaml}}\noutputs: {o: {from: "${x}", path: o.png}}\n',
        files={"inner.yaml": inner},
    )
    other = (tmp_path / "other.yaml").resolve()
    other.write_text(inner)
    forge(picture, "{type: ./inner.yaml}", f"{{type: {other}}}")
    found: list[Any] = []

    def act() -> None:
        with pytest.raises(GraphError) as refused:
            replay.prepare(picture, registry=registry())
        found.append(refused.value)

    assert not touched(other, act)
    assert "are not read from the disk" in str(found[0])


@record
class Drawn:
    """A model, a file and a number."""

    model: Annotated[str, loaders.Leased(Loader)]
    file: File | None = None
    add: int = 0


@node("toy.records", version=1)
def draw_records(drawn: List[Drawn], *, seed: Seed) -> Image:
    """Paint by all that the records hold."""
    drawn_text = "".join(f"{d.model}{d.file.read_text() if d.file else ''}{d.add}" for d in drawn)
    return Image(
        np.random.default_rng([seed, *drawn_text.encode()]).integers(
            0, 255, (4, 4, 3), dtype="uint8"
        )
    )


def test_a_picture_drawn_with_records_is_replayed(tmp_path: Path, make: Make, store: Store) -> None:
    """Files and models in record fields are found in the store or asked for, whether a literal, a
    bare value or an input names them; a path named by an input is not opened.
    """
    graph = """\
imagen_flow: 1
inputs: {second: ./models/b}
nodes:
  n: {type: toy.read, file: ./t.txt}
  p:
    type: toy.records
    seed: 1
    drawn: [{model: ./models/a, file: ./t.txt, add: 2}, "${second}", {model: "${second}", add: 3}]
outputs: {o: {from: "${p}", path: o.png}}
"""
    for i, name in enumerate("ab"):
        at = tmp_path / "graphs/models" / name
        at.mkdir(parents=True)
        (at / "config.json").write_text("{}")
        save_file({"w": np.array([i])}, at / "model.safetensors")
    second = str(tmp_path / "graphs/models/b")
    picture = make(graph, {"t.txt": "words"}, keep=True, second=second)
    with pytest.raises(GraphError, match="the model 'second' is not available"):
        replay.prepare(picture, registry=registry(), store=store)
    first = {"second": second, "./models/a": str(tmp_path / "graphs/models/a")}
    found = replay.prepare(picture, registry=registry(), values=first)
    assert [m.name for m in found.missing] == ["./t.txt"]
    values = first | {"./t.txt": str(tmp_path / "graphs/t.txt")}
    assert again(picture, values=values).verify().identical


def test_models_on_this_machine_are_asked_for_too(tmp_path: Path, make: Make, store: Store) -> None:
    """A model that is a path is not opened by that path, whether the graph or an input names it;
    with the store, or if given, the picture replays.
    """
    graph = """\
imagen_flow: 1
inputs: {second: ./models/b}
nodes:
  a: {type: toy.model, model: ./models/a}
  b: {type: toy.model, model: "${second}"}
  p: {type: toy.paint, seed: 1, text: "${a}${b}"}
outputs: {o: {from: "${p}", path: o.png}}
"""
    folder = str(tmp_path / "graphs/models/b")
    for i, name in enumerate("ab"):
        at = tmp_path / "graphs/models" / name
        at.mkdir(parents=True)
        (at / "config.json").write_text("{}")
        save_file({"w": np.array([i])}, at / "model.safetensors")
    picture = make(graph, second=folder)
    label = try_read_embedded(picture)
    assert label is not None and str(tmp_path) not in label.text
    with pytest.raises(GraphError) as refused:
        replay.prepare(picture, registry=registry(), store=store)
    assert "the model 'second' is not available" in str(refused.value)
    found = replay.prepare(picture, registry=registry(), values={"second": folder})
    assert [m.name for m in found.missing] == ["./models/a"]
    given = {"second": folder, "./models/a": str(tmp_path / "graphs/models/a")}
    assert again(picture, values=given).verify().identical


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"name":"o"', '"name":"other"', "no output 'other'"),
        ("imagen_flow: 1", "imagen_flow: 99", "unknown-version"),
        ("toy.paint, seed", "shell.run, seed", "no plugin provides the node type 'shell.run'"),
        ('"file":"main.yaml"', '"file":"other.yaml"', "damaged or forged"),
        ('"value":3', '"value":"three"', "takes a whole number"),
        ('"value":3', '"files":[]', "takes a whole number"),
    ],
)
def test_a_forged_document_is_refused_in_words(make: Make, old: str, new: str, words: str) -> None:
    """Whatever was forged in a picture is refused with a clear message."""
    picture = make(SIMPLE)
    forge(picture, old, new)
    with pytest.raises((ProvenanceError, GraphError)) as refused:
        replay.prepare(picture, registry=registry())
    assert words in str(refused.value)


# -- what drifted


def test_a_newer_node_type_is_named(make: Make) -> None:
    """A picture that comes out differently because its plugin changed says so first."""
    picture = make(SIMPLE)

    @node("toy.paint", version=2)
    def repaint(*, seed: Seed, text: Text = "", add: int = 0) -> Image:
        """Paint black."""
        return Image(np.zeros((4, 4, 3), "uint8"))

    changed = Registry({})
    changed.add(repaint)
    assert (
        str(again(picture, registry=changed).verify())
        == "not identical\n  first difference: the version of the node type toy.paint: was 1, is 2"
    )


def test_a_node_that_never_gives_the_same_is_named(tmp_path: Path) -> None:
    """If all ingredients are the same, the node whose result differs is named, and not those after
    it.
    """
    dice = np.random.default_rng()

    @node("toy.dice", version=1)
    def roll() -> int:
        """Roll dice."""
        return int(dice.integers(0, 2**40))

    rolling = registry(roll)
    graph = resolve(
        spec.parse(
            'imagen_flow: 1\nnodes: {d: {type: toy.dice}, a: {type: toy.paint, seed: 1, add: "${d}"}}\noutputs: {o: {from: "${a}", path: o.png}}',
            name="g.yaml",
        ),
        rolling,
    )
    list(execute(make_plan(graph, registry=rolling), out=tmp_path / "out"))
    assert (
        str(again(tmp_path / "out/o.png", registry=rolling).verify())
        == "not identical\n  first difference: d gives another result from the same ingredients"
    )


def documents(picture: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    label = try_read_embedded(picture)
    assert label is not None
    return json.loads(label.text), json.loads(label.text)


@pytest.mark.parametrize(
    ("change", "ingredient", "words"),
    [
        (
            lambda d: d["made_with"][0].update(source="ffff"),
            "plugin",
            "the source of the plugin with toy.paint",
        ),
        (
            lambda d: d["made_with"][0].update(uses={"pillow": "1.0"}),
            "library",
            "the library pillow: was absent, is 1.0",
        ),
        (
            lambda d: d["made_with"][0].update(determinism={"device": "cuda"}),
            "device",
            "the device: was None, is cuda",
        ),
        (
            lambda d: d["models"].append({"reference": "embedded/x", "fingerprint": "new" * 5}),
            "model",
            "the model 'embedded/x': was oldoldol, is newnewne",
        ),
    ],
)
def test_each_ingredient_has_its_words(
    make: Make, change: Callable[[dict[str, Any]], None], ingredient: str, words: str
) -> None:
    """Differences of plugin, library, device and model are distinguished."""
    then, now = documents(make(SIMPLE))
    then["models"] = [{"reference": "embedded/x", "fingerprint": "old" * 5}]
    change(now)
    now["output"]["digest"] = "00" * 20
    drift = compare(parse(json.dumps(then)), parse(json.dumps(now))).drifts[0]
    assert (drift.ingredient, str(drift).startswith(words)) == (ingredient, True)


def test_a_written_picture_looks_as_it_was_made(make: Make) -> None:
    """The file opens in another reader with the pixels that the node returned."""
    with PIL.Image.open(make(SIMPLE)) as picture:
        assert np.array_equal(np.array(picture), paint(seed=3, text="hello").pixels)


def test_provenance_above_a_megabyte_replays_from_beside_the_picture(tmp_path: Path) -> None:
    """A prompt of a megabyte makes a long document, which is in a sidecar, and replays."""
    graph = resolve(spec.parse(SIMPLE, name="g.yaml"), registry())
    list(
        execute(
            make_plan(graph, {"text": "大" * 350_000}, registry=registry()), out=tmp_path / "out"
        )
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "o.png",
        "o.png.provenance.json",
    ]
    assert again(tmp_path / "out/o.png").verify().identical
