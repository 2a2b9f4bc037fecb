"""A note is a lasting warning: part of a step's result, stored with it, and repeated wherever the
result is shown.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._provenance.embedding import try_read_embedded
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow.events import StepNote

PLUGIN = """
from imagen_flow import Image, List, Progress, Steps, Text, node

@node("my.note", version=1)
def note(text: Text, notes: List[Text] = ["unknown word", "unknown word", "", "cut"], fail: bool = False) -> Steps[Text]:
    for word in notes:
        yield Progress(0, 1, word)
    if fail:
        raise ValueError("no luck")
    return text

@node("my.many", version=1)
def many() -> List[Text]:
    return ["a", "b", "c"]

@node("my.look", version=1)
def look(image: Image, limit: int = 9) -> Steps[Text]:
    yield Progress(0, 1, f"{image.width} wide")
    if image.width > limit:
        raise ValueError("too wide")
    return "seen"

@node("my.loud", version=1)
def loud(text: Text) -> Text:
    return text.upper()
"""

GRAPH = 'imagen_flow: 1\ninputs: {text: a}\nnodes: {n: {type: my.note, text: "${text}"}, l: {type: my.loud, text: "${n}"}}\noutputs: {o: {from: "${l}", path: o.txt}}\n'


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(PLUGIN)
    (tmp_path / "g.yaml").write_text(GRAPH)
    return tmp_path / "g.yaml"


def call(monkeypatch: pytest.MonkeyPatch, *words: str, terminal: bool = False) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    err.isatty = lambda: terminal  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit):
            cli.main(words)
    return out.getvalue(), err.getvalue()


def notes(outputs: Any) -> list[str]:
    return [str(note) for note in outputs.notes]


def test_notes_come_with_the_outputs_and_again_with_what_the_store_holds(graph: Path) -> None:
    """Each note comes once, in the order in which the node yields them; the returned outputs are
    still a dict.
    """
    first, again = (flow.run(graph, plugins="nodes.py") for _ in range(2))
    assert first == again == {"o": "A"}
    assert notes(first) == notes(again) == ["n: unknown word", "n: cut"]
    assert first.notes[0].node == "n"


def test_notes_are_said_again_though_only_what_lies_below_is_needed(graph: Path) -> None:
    """A cached step is not computed again for its notes, nor are they lost if its result is not
    read.
    """
    flow.run(graph, plugins="nodes.py")
    messages: list[Any] = []
    flow.run(graph, plugins="nodes.py", force="l", on_event=messages.append)
    assert [type(event).__name__ for event in messages if getattr(event, "node", "") == "n"] == [
        "StepCached",
        "StepNote",
        "StepNote",
    ]


def test_steps_of_equal_key_have_equal_notes(graph: Path) -> None:
    """Steps with equal keys each have the notes, whichever was computed."""
    graph.write_text(
        'imagen_flow: 1\nnodes: {m: {type: my.many}, x: {type: my.note, text: a, notes: [w]}, y: {type: my.note, text: a, notes: [w]}}\noutputs: {x: "${x}", y: "${y}"}\n'
    )
    assert sorted(notes(flow.run(graph, plugins="nodes.py"))) == ["x: w", "y: w"]


def test_a_step_that_fails_has_said_its_notes(graph: Path) -> None:
    """Notes of a failing step are reported: they may explain the failure."""
    graph.write_text(
        'imagen_flow: 1\nnodes: {n: {type: my.note, text: a, fail: true, retry: {times: 2}}}\noutputs: {o: "${n}"}\n'
    )
    messages = [
        str(event)
        for event in execute(flow.plan(graph, plugins="nodes.py", store=None))
        if isinstance(event, StepNote)
    ]
    assert messages == ["n: unknown word", "n: cut"]


def test_notes_are_bounded(graph: Path) -> None:
    """At most twenty notes of a thousand characters are kept."""
    graph.write_text(
        'imagen_flow: 1\ninputs: {notes: {type: "list[text]"}}\nnodes: {n: {type: my.note, text: a, notes: "${notes}"}}\noutputs: {o: "${n}"}\n'
    )
    kept = flow.run(graph, notes=[f"{i}" * 2000 for i in range(100)], plugins="nodes.py").notes
    assert (len(kept), {len(note.message) for note in kept}) == (20, {1000})


def test_a_note_is_one_line(graph: Path) -> None:
    """A note is one line, whatever white space it contains."""
    graph.write_text(
        'imagen_flow: 1\ninputs: {notes: {type: "list[text]"}}\nnodes: {n: {type: my.note, text: a, notes: "${notes}"}}\noutputs: {o: "${n}"}\n'
    )
    assert notes(flow.run(graph, notes=[" a\n  b\tc\n", "\n"], plugins="nodes.py")) == ["n: a b c"]


@pytest.mark.parametrize("rubbish", [None, 3, "text", {"a": 1}, [1, None, {"a": 1}], ["kept", 5]])
def test_any_record_is_read(tmp_path: Path, rubbish: Any) -> None:
    """Invalid records in place of notes are skipped."""
    from imagen_flow._types.codec import Codecs

    with Store.open(tmp_path / "store", Codecs()) as store:
        store.keep("0" * 40, {}, {"notes": rubbish})
        record = store.lookup("0" * 40)
        assert record is not None
        assert record.notes == (("kept",) if rubbish == ["kept", 5] else ())


@pytest.mark.parametrize(("level", "found"), [("full", ["unknown word", "cut"]), ("keys", None)])
def test_provenance_holds_the_notes_of_each_step(
    graph: Path, level: str, found: list[str] | None
) -> None:
    """Provenance has the notes of each step, except with `keys` only: they may quote a prompt."""
    graph.write_text(GRAPH.replace("path: o.txt", f"path: o.txt, provenance: {level}"))
    flow.run(graph, plugins="nodes.py", out="out")
    label = try_read_embedded(Path("out/o.txt"))
    assert label is not None
    assert [step.get("notes") for step in json.loads(label.text)["steps"]] == [found, None]


@pytest.mark.parametrize("terminal", [False, True])
def test_notes_stay_on_terminals_and_in_pipes(
    graph: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Notes are shown on the first run and on a store hit; not with --quiet, like other
    warnings.
    """
    for _ in range(2):
        _, err = call(monkeypatch, "run", "g.yaml", "--plugin", "nodes.py", terminal=terminal)
        assert ("! n: unknown word\n" in err, "! n: cut\n" in err) == (True, True), err
    assert (
        "unknown"
        not in call(
            monkeypatch, "run", "g.yaml", "--plugin", "nodes.py", "--quiet", terminal=terminal
        )[1]
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_a_note_of_many_elements_is_shown_once_and_counted(
    graph: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """A note that many elements have in common is shown once, with a count."""
    graph.write_text(
        'imagen_flow: 1\nnodes: {m: {type: my.many}, n: {type: my.note, notes: [w], each: {text: "${m}"}}}\noutputs: {o: "${n}"}\n'
    )
    _, err = call(monkeypatch, "run", "g.yaml", "--plugin", "nodes.py", terminal=terminal)
    assert [line.removeprefix("\x1b[2K") for line in err.splitlines() if "! n" in line] == [
        "! n[0]: w",
        "! n: w (of 3 elements)",
    ]


LOOKING = """imagen_flow: 1
inputs: {pictures: {type: folder, default: ./pictures}}
nodes:
  files: {type: folder.list, folder: "${pictures}", pattern: "**/*.png"}
  loaded: {type: image.load, each: {file: "${files}"}}
  seen: {type: SEEN}
outputs: {seen: "${seen}"}
"""

INNER = """imagen_flow: 1
inputs: {photo: {type: file}}
nodes:
  loaded: {type: image.load, file: "${photo}"}
  look: {type: my.look, image: "${loaded}", limit: 1}
outputs: {seen: "${look}"}
"""


@pytest.mark.parametrize(
    ("seen", "title"),
    [
        ('my.look, each: {image: "${loaded}"}, limit: 1, on_error: drop', "seen[{}]"),
        ('./inner.yaml, each: {photo: "${files}"}, on_error: drop', "seen[{}]/look"),
    ],
    ids=["a node", "a graph"],
)
def test_what_is_told_of_an_element_names_its_file(graph: Path, seen: str, title: str) -> None:
    """Notes and failures say which file of a folder they are about, through nodes and graphs, and
    again when the result comes from the store.
    """
    for number, name in enumerate(("a", "sub/b"), 1):
        path = graph.parent / f"pictures/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (number, 1)).save(path)
    Path("inner.yaml").write_text(INNER)
    graph.write_text(LOOKING.replace("SEEN", seen))
    first, second = (title.format(i) for i in range(2))
    for _ in range(2):
        outputs = flow.run("g.yaml", plugins="nodes.py", store="store")
        assert sorted(map(str, outputs.notes)) == [
            f"{first} (a.png): 1 wide",
            f"{second} (sub/b.png): 2 wide",
        ]
        (failed,) = map(str, outputs.failures)
        assert failed.startswith(f"{second} (sub/b.png) failed")


def test_notes_are_events_in_json(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are JSON events for other programs."""
    out, _ = call(monkeypatch, "run", "g.yaml", "--plugin", "nodes.py", "--json-events")
    assert [
        (e["node"], e["message"])
        for e in map(json.loads, out.splitlines())
        if e["event"] == "step_note"
    ] == [("n", "unknown word"), ("n", "cut")]


@pytest.mark.parametrize("fail", [False, True])
def test_a_hot_folder_tells_notes(graph: Path, monkeypatch: pytest.MonkeyPatch, fail: bool) -> None:
    """Notes are in a hot folder's log and on the screen with finished items, and in the text beside
    a failed file.
    """
    graph.write_text(
        f'imagen_flow: 1\ninputs: {{file: {{type: file}}}}\nnodes: {{n: {{type: my.note, text: a, fail: {str(fail).lower()}}}}}\noutputs: {{o: {{from: "${{n}}", path: "{{item}}.txt"}}}}\n'
    )
    Path("line.yaml").write_text(
        "imagen_flow_folder: 1\ngraph: ./g.yaml\nin: ./in\nout: ./out\nsettle_s: 0\nlog: ./log.jsonl\n"
    )
    Path("in").mkdir()
    Path("in/a.png").write_text("a")
    out, _ = call(monkeypatch, "folder", "run", "line.yaml", "--once", "--plugin", "nodes.py")
    if fail:
        assert (
            "notes:\n  n: unknown word\n  n: cut\n" in Path("failed/a.png.failed.txt").read_text()
        )
    else:
        assert "  ! n: unknown word\n  ! n: cut\n" in out
        assert [
            line.get("notes")
            for line in map(json.loads, Path("log.jsonl").read_text().splitlines())
            if line["event"] == "done"
        ] == [["n: unknown word", "n: cut"]]
