"""Watching graphs: what starts a run, what is computed, and what happens to the current run."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow._plan.request import Options
from imagen_flow._settings import config
from imagen_flow._watch import Changed, Refused, Reloaded, Waiting, Warned, as_json, watch_graphs
from imagen_flow.events import OutputWritten, RunFinished, RunStarted, StepFinished, StepStarted

#: How long anything may take on a busy machine.
PATIENCE_S = 90

NODES = '''
"""Toy nodes."""
import os, time
from imagen_flow import File, Folder, Progress, Steps, Text, node

@node("toy.loud", version=1)
def loud(text: Text) -> Text:
    return text.upper()

@node("toy.join", version=1)
def join(first: Text, second: Text = "") -> Text:
    return first + second

@node("toy.read", version=1)
def read(file: File) -> Text:
    return file.path.read_text()

@node("toy.list", version=1)
def list_(folder: Folder) -> Text:
    return " ".join(file.name for file in folder.files)

@node("toy.slow", version=1)
def slow(text: Text, until: Text) -> Steps[Text]:
    """Goes on until there is a file of this name."""
    while not os.path.exists(until):
        yield Progress(0, 1)
        time.sleep(0.01)
    return text + " at last"
'''


class Watching:
    """An iteration in a thread of its own."""

    def __init__(self, *graphs: Path, default_out: Path | None = None, **options: Any) -> None:
        self.cancel = threading.Event()
        self.queue: Queue[Any] = Queue()
        if default_out is None:
            self.stream = flow.watch(
                graphs, cancel=self.cancel, **{"settle_s": 0.05, "store": None, **options}
            )
        else:
            self.stream = watch_graphs(
                graphs,
                Options.of(store=None, **options),
                cancel=self.cancel,
                settle_s=0.05,
                default_out=default_out,
            )
        self.thread = threading.Thread(target=self.pump)
        self.thread.start()

    def pump(self) -> None:
        try:
            for event in self.stream:
                self.queue.put(event)
        except BaseException as error:
            self.queue.put(error)
            raise
        self.queue.put(None)

    def next(self) -> Any:
        event = self.queue.get(timeout=PATIENCE_S)
        if isinstance(event, BaseException):
            raise event
        return event

    def until(self, wanted: type | Callable[[Any], bool]) -> list[Any]:
        """Return the events up to one of a type, or one that meets a condition."""
        events: list[Any] = []
        while True:
            try:
                events.append(self.next())
            except Empty:
                pytest.fail(f"it does not come, only: {[as_json(event) for event in events]}")
            assert events[-1] is not None, "it ended"
            if isinstance(events[-1], wanted) if isinstance(wanted, type) else wanted(events[-1]):
                return events

    def rest(self) -> list[Any]:
        """Return the events until it waits for a change."""
        return self.until(Waiting)

    def close(self) -> None:
        self.cancel.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watching]]:
    """Watch graphs that use the toy nodes, in a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    plugin = tmp_path / "nodes.py"
    plugin.write_text(NODES)
    begun: list[Watching] = []

    def begin(*graphs: Path | str, **options: Any) -> Watching:
        begun.append(Watching(*[Path(g) for g in graphs], **{"plugins": [plugin], **options}))
        return begun[-1]

    yield begin
    for watching in begun:
        watching.close()
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("imagen_flow_local_") or not name.startswith(
            ("imagen_flow", "torch", "numpy")
        ):
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(tmp_path)):
                del sys.modules[name]


def graph(nodes: str, outputs: str, inputs: str = "") -> str:
    given = f"inputs:\n{textwrap.indent(textwrap.dedent(inputs).strip(), '  ')}\n" if inputs else ""
    return f"imagen_flow: 1\n{given}nodes:\n{textwrap.indent(textwrap.dedent(nodes).strip(), '  ')}\noutputs:\n{textwrap.indent(textwrap.dedent(outputs).strip(), '  ')}\n"


def save(path: Path | str, text: str, *, time_s: float | None = None) -> None:
    """Save as careful editors do: aside, then rename. `time_s`: when the file says it was changed."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(text)
    if time_s is not None:
        os.utime(aside, (time_s, time_s))
    os.replace(aside, path)


def ran(events: list[Any]) -> list[str]:
    return [s.node + s.item for s in events if isinstance(s, StepFinished)]


def runs(events: list[Any]) -> list[str]:
    return [s.status for s in events if isinstance(s, RunFinished)]


def value(events: list[Any], output: str = "words") -> Any:
    """The last value of an output."""
    return [s.value for s in events if isinstance(s, OutputWritten) and s.output == output][-1]


TWO = graph(
    """
    first: {type: toy.loud, text: "a"}
    second: {type: toy.join, first: "${first}", second: "!"}
    """,
    """words: {from: "${second}", path: "words.txt"}""",
)


def test_only_what_a_change_touches_is_computed(tmp_path: Path, watch: Any) -> None:
    """The first run computes everything; after a save, only the changed node and what depends on
    it.
    """
    save("g.yaml", TWO)
    watching = watch("g.yaml", out="out")
    events = watching.rest()
    assert (ran(events), value(events)) == (["first", "second"], "A!")
    save("g.yaml", TWO.replace('"!"', '"?"'))
    events = watching.rest()
    assert [type(s).__name__ for s in events[:3]] == ["Changed", "Planned", "RunStarted"]
    assert events[0] == Changed(("g.yaml",), ("g.yaml",), cancels=False, at_s=events[0].at_s)
    assert (ran(events), value(events), (tmp_path / "out/words.txt").read_text()) == (
        ["second"],
        "A?",
        "A?\n",
    )
    save("g.yaml", "# a comment\n" + TWO.replace('"!"', '"?"'))
    events = watching.rest()
    assert (ran(events), runs(events)) == ([], ["done"])


def test_a_graph_that_is_included_counts(watch: Any) -> None:
    """A change of an included graph starts a run, also if it is included only since a save, or was
    missing.
    """
    save(
        "inner.yaml",
        graph('loud: {type: toy.loud, text: "${t}"}', 'words: "${loud}"', "t: {type: text}"),
    )
    save("g.yaml", graph('inner: {type: ./inner.yaml, t: "a"}', 'words: "${inner}"'))
    watching = watch("g.yaml")
    assert value(watching.rest()) == "A"
    save(
        "inner.yaml",
        graph(
            'loud: {type: toy.join, first: "${t}", second: "b"}',
            'words: "${loud}"',
            "t: {type: text}",
        ),
    )
    assert value(watching.rest()) == "ab"
    save("g.yaml", graph('inner: {type: ./later.yaml, t: "a"}', 'words: "${inner}"'))
    assert [type(s) for s in watching.rest()] == [Changed, Refused, Waiting]
    save(
        "later.yaml",
        graph(
            'loud: {type: toy.join, first: "${t}", second: "c"}',
            'words: "${loud}"',
            "t: {type: text}",
        ),
    )
    assert value(watching.rest()) == "ac"
    save(
        "later.yaml",
        graph(
            'loud: {type: toy.join, first: "${t}", second: "d"}',
            'words: "${loud}"',
            "t: {type: text}",
        ),
    )
    assert value(watching.rest()) == "ad"


def test_files_that_are_read_count(tmp_path: Path, watch: Any) -> None:
    """Files named in the graph, by an input's default, or passed to an input start a run; a file
    with equal content computes nothing.
    """
    for name in ("named", "default", "given"):
        save(name, "1")
    nodes = """
    a: {type: toy.read, file: ./named}
    b: {type: toy.read, file: "${default}"}
    c: {type: toy.read, file: "${given}"}
    ab: {type: toy.join, first: "${a}", second: "${b}"}
    abc: {type: toy.join, first: "${ab}", second: "${c}"}
    """
    save(
        "g.yaml",
        graph(
            nodes,
            'words: "${abc}"',
            "default: {type: file, default: ./default}\ngiven: {type: file}",
        ),
    )
    watching = watch("g.yaml", texts={"given": "given"})
    assert value(watching.rest()) == "111"
    for name, node, expected in (
        ("named", "a", "211"),
        ("default", "b", "231"),
        ("given", "c", "234"),
    ):
        save(name, expected[len(expected) - "cba".index(node) - 1])
        events = watching.rest()
        assert (value(events), ran(events)[0]) == (expected, node)
        assert events[0].paths == (name,)
    save("named", "2")
    events = watching.rest()
    assert (ran(events), runs(events)) == ([], ["done"])


def test_a_missing_file_is_waited_for(watch: Any) -> None:
    """While an input file is missing the graph is refused; when it is created the graph runs."""
    save("words", "here")
    save("g.yaml", graph("a: {type: toy.read, file: ./words}", 'words: "${a}"'))
    watching = watch("g.yaml")
    watching.rest()
    Path("words").unlink()
    (refused,) = [s for s in watching.rest() if isinstance(s, Refused)]
    assert [p.code for p in refused.problems] == ["missing-file"]
    save("words", "back")
    assert value(watching.rest()) == "back"
    Path("g.yaml").unlink()
    (refused,) = [s for s in watching.rest() if isinstance(s, Refused)]
    assert [p.code for p in refused.problems] == ["unreadable"]
    save("g.yaml", graph('a: {type: toy.loud, text: "again"}', 'words: "${a}"'))
    assert value(watching.rest()) == "AGAIN"


def test_a_folder_that_is_read_counts(tmp_path: Path, watch: Any) -> None:
    """500 files that appear together in an input folder are one run; one that disappears is
    another.
    """
    (tmp_path / "in").mkdir()
    save("g.yaml", graph("a: {type: toy.list, folder: ./in}", 'words: "${a}"'))
    watching = watch("g.yaml", settle_s=2.0)
    assert value(watching.rest()) == ""
    names = [f"f{i:03}" for i in range(500)]
    for name in names:
        save(f"in/{name}", "1")
    events = watching.rest()
    assert (value(events), runs(events), len(events[0].paths)) == (" ".join(names), ["done"], 500)
    (tmp_path / "in/f007").unlink()
    assert len(value(watching.rest()).split()) == 499


def test_a_renamed_file_has_its_new_name(tmp_path: Path, watch: Any) -> None:
    """A node that asks for names runs again, one that reads the content does not; outputs are
    named after the files.
    """
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        save(f"in/{name}", "same")
    nodes = """
    files: {type: folder.list, folder: ./in}
    read: {type: toy.read, each: {file: "${files}"}}
    names: {type: file.name, each: {file: "${files}"}}
    """
    outputs = """
    read: {from: "${read}", path: "{files.stem}.md", provenance: none}
    words: "${names.path}"
    """
    save("g.yaml", graph(nodes, outputs))
    watching = watch("g.yaml", out="out")
    assert value(watching.rest()) == ["a.txt", "b.txt"]
    os.rename("in/a.txt", "in/c.txt")
    events = watching.rest()
    assert value(events) == ["b.txt", "c.txt"]
    assert [e.node for e in events if isinstance(e, StepStarted)] == ["files", "names"]
    assert sorted(os.listdir("out")) == ["a.md", "b.md", "c.md"]


def test_a_broken_graph_is_waited_out(tmp_path: Path, watch: Any) -> None:
    """A graph with errors is not run; its problems are reported, its outputs stay, and once it is
    fixed it runs.
    """
    save("g.yaml", TWO)
    watching = watch("g.yaml", out="out")
    watching.rest()
    for broken in (
        TWO.replace("toy.join", "toy.joyn"),
        TWO[: len(TWO) // 2],
        "",
        "nodes: [",
        TWO.replace('"a"', "1"),
    ):
        save("g.yaml", broken)
        events = watching.rest()
        assert [type(s) for s in events] == [Changed, Refused, Waiting]
        assert events[1].problems
        assert (tmp_path / "out/words.txt").read_text() == "A!\n"
    save("g.yaml", TWO.replace('"!"', '"."'))
    events = watching.rest()
    assert (ran(events), (tmp_path / "out/words.txt").read_text()) == (["second"], "A.\n")


def test_a_node_that_fails_is_waited_out(tmp_path: Path, watch: Any) -> None:
    """A run that fails leaves the last outputs, and the next change runs again."""
    save("words", "good")
    save(
        "g.yaml",
        graph("a: {type: toy.read, file: ./words}", 'words: {from: "${a}", path: words.txt}'),
    )
    watching = watch("g.yaml", out="out")
    watching.rest()
    Path("words").write_bytes(b"\xff\xfe\xff")
    assert runs(watching.rest())[-1] == "failed"
    assert (tmp_path / "out/words.txt").read_text() == "good\n"
    save("words", "better")
    assert value(watching.rest()) == "better"


# --- changes during a run

SLOW = graph(
    """
    first: {type: toy.slow, text: "1", until: "%s"}
    second: {type: toy.join, first: "${first}", second: "!"}
    """,
    'words: "${second}"',
)


def working(event: Any) -> bool:
    return isinstance(event, StepStarted) and event.node == "first"


def test_a_change_stops_a_run_that_is_no_longer_wanted(tmp_path: Path, watch: Any) -> None:
    """With `restart`, a run that works on something changed is cancelled, and the newest version
    runs.
    """
    save("g.yaml", SLOW % "never")
    watching = watch("g.yaml")
    watching.until(working)
    save("g.yaml", (SLOW % "never").replace('"1"', '"2"'))
    events = watching.until(working)
    assert (runs(events), [s.cancels for s in events if isinstance(s, Changed)]) == (
        ["cancelled"],
        [True],
    )
    save("g.yaml", (SLOW % "go").replace('"1"', '"3"'))
    watching.until(working)
    save("go", "")
    events = watching.rest()
    assert (value(events), runs(events)) == ("3 at last!", ["done"])


def test_outputs_beside_the_graph_make_no_difference(tmp_path: Path, watch: Any) -> None:
    """If outputs go to the folder of the graph, a change of the graph still stops its run at
    once.
    """
    save("g.yaml", SLOW % "never")
    watching = watch("g.yaml", out=".")
    watching.until(working)
    save("g.yaml", TWO)
    events = watching.rest()
    assert (runs(events), value(events)) == (["cancelled", "done"], "A!")


def test_what_a_run_works_on_is_let_finish_while_it_is_wanted(tmp_path: Path, watch: Any) -> None:
    """A change that does not affect the running step does not stop it: its result is used by the
    newest version.
    """
    save("g.yaml", SLOW % "go")
    watching = watch("g.yaml")
    watching.until(working)
    save("g.yaml", (SLOW % "go").replace('"!"', '"?"'))
    (changed,) = [s for s in watching.until(Changed) if isinstance(s, Changed)]
    assert not changed.cancels
    save("go", "")
    events = watching.rest()
    assert (ran(events).count("first"), value(events)) == (1, "1 at last?")


def test_a_broken_change_leaves_a_run_alone(tmp_path: Path, watch: Any) -> None:
    """A graph that is broken during its run is reported at once; the last good version runs to its
    end.
    """
    save("g.yaml", SLOW % "go")
    watching = watch("g.yaml")
    watching.until(working)
    save("g.yaml", "nodes: [")
    watching.until(Refused)
    save("go", "")
    events = watching.rest()
    assert (value(events), runs(events)) == ("1 at last!", ["done"])


def test_queue_lets_a_run_end(tmp_path: Path, watch: Any) -> None:
    """With `queue`, a run ends whatever changes, and the newest of several changes runs next."""
    save("g.yaml", SLOW % "go")
    watching = watch("g.yaml", on_change="queue")
    watching.until(working)
    for text in ("2", "3"):
        save("g.yaml", (SLOW % "go").replace('"1"', f'"{text}"'))
        watching.until(Changed)
    save("go", "")
    events = watching.rest()
    assert runs(events) == ["done", "done"]
    assert [s.value for s in events if isinstance(s, OutputWritten)] == ["1 at last!", "3 at last!"]


def test_cancel_ends_a_run(tmp_path: Path, watch: Any) -> None:
    """Setting `cancel` stops the current run and ends the iteration; no thread remains."""
    before = set(threading.enumerate())
    save("g.yaml", SLOW % "never")
    watching = watch("g.yaml")
    watching.until(working)
    watching.cancel.set()
    events = watching.until(RunFinished)
    assert runs(events) == ["cancelled"]
    assert watching.next() is None
    watching.close()
    left = [t for t in set(threading.enumerate()) - before if t.join(PATIENCE_S) or t.is_alive()]
    assert left == []


def test_whoever_stops_iterating_stops_it(tmp_path: Path, watch: Any) -> None:
    """Closing the iterator during a run stops the run; no thread remains."""
    before = set(threading.enumerate())
    save("nodes.py", NODES)
    save("g.yaml", SLOW % "never")
    stream = flow.watch("g.yaml", plugins=["nodes.py"], store=None)
    assert any(working(event) for event in stream)
    stream.close()  # type: ignore[attr-defined]
    left = [t for t in set(threading.enumerate()) - before if t.join(PATIENCE_S) or t.is_alive()]
    assert left == []


# --- several graphs, and own outputs


def test_graphs_that_share_an_input(tmp_path: Path, watch: Any) -> None:
    """A file that two graphs read runs both; a file of one runs that one. An input goes to the
    graphs that have it.
    """
    for name in ("shared", "own"):
        save(name, "1")
    save("a.yaml", graph("r: {type: toy.read, file: ./shared}", 'words: "${r}"'))
    save(
        "b.yaml",
        graph(
            'r: {type: toy.read, file: ./shared}\no: {type: toy.read, file: "${f}"}\nj: {type: toy.join, first: "${r}", second: "${o}"}',
            'words: "${j}"',
            "f: {type: file}",
        ),
    )
    watching = watch("a.yaml", "b.yaml", inputs={"f": "own"})
    events = watching.rest()
    assert [s.value for s in events if isinstance(s, OutputWritten)] == ["1", "11"]
    save("shared", "2")
    events = watching.rest()
    assert events[0].graphs == ("a.yaml", "b.yaml")
    assert [s.value for s in events if isinstance(s, OutputWritten)] == ["2", "21"]
    save("own", "3")
    events = watching.rest()
    assert (events[0].graphs, [s.graph for s in events if isinstance(s, RunStarted)]) == (
        ("b.yaml",),
        ["b.yaml"],
    )


def test_a_change_of_another_graph_waits_for_the_run_in_progress(
    tmp_path: Path, watch: Any
) -> None:
    """A change for one graph does not stop the run of another, and is run after it."""
    save("a.yaml", SLOW % "go")
    save("b.yaml", TWO)
    watching = watch("b.yaml", "a.yaml")
    watching.until(working)
    save("b.yaml", TWO.replace('"!"', '"?"'))
    (changed,) = [s for s in watching.until(Changed) if isinstance(s, Changed)]
    assert (changed.graphs, changed.cancels) == (("b.yaml",), False)
    save("go", "")
    events = watching.rest()
    assert (runs(events), value(events)) == (["done", "done"], "A?")


def test_a_graph_that_reads_what_another_writes_follows_it(tmp_path: Path, watch: Any) -> None:
    """Outputs of one graph start another that reads them."""
    save("source", "1")
    (tmp_path / "out").mkdir()
    save("out/a.txt", "old")
    save(
        "a.yaml",
        graph(
            "r: {type: toy.read, file: ./source}",
            'words: {from: "${r}", path: "a.txt", exists: replace}',
        ),
    )
    save("b.yaml", graph("r: {type: toy.read, file: ./out/a.txt}", 'words: "${r}"'))
    watching = watch("a.yaml", "b.yaml", out="out")
    assert value(watching.rest()).strip() == "1"
    save("source", "2")
    events = watching.until(
        lambda s: isinstance(s, OutputWritten) and s.path is None and s.value.strip() == "2"
    )
    assert next(s.graph for s in events if isinstance(s, RunStarted)) == "a.yaml"


def test_own_outputs_start_no_run(tmp_path: Path, watch: Any) -> None:
    """A graph that writes into a folder that it reads runs once for each foreign change, and warns
    that it reads its own output.
    """
    (tmp_path / "in").mkdir()
    save("in/x", "1")
    save(
        "g.yaml",
        graph("a: {type: toy.list, folder: ./in}", 'words: {from: "${a}", path: "{digest8}.txt"}'),
    )
    watching = watch("g.yaml", out="in", settle_s=0.0)
    events = watching.rest()
    (warned,) = [s for s in events if isinstance(s, Warned)]
    assert [str(p).split("\n")[0] for p in warned.problems] == [
        "warning[bad-path]: output 'words' is written into in, which the graph reads"
    ]
    for i in range(3):
        save(f"in/y{i}", "1")
        events = watching.rest()
        assert (len(runs(events)), [s for s in events if isinstance(s, Warned)]) == (1, [])
    time.sleep(0.5)  # wait for something that must not happen
    assert watching.queue.empty()
    assert len(list((tmp_path / "in").glob("*.txt"))) == 4
    written = next((tmp_path / "in").glob("*.txt"))
    save(written, "changed by hand")
    assert len(runs(watching.rest())) == 1


def test_an_output_folder_made_by_a_run_starts_none(tmp_path: Path, watch: Any) -> None:
    """Folders that a run creates for its outputs, in a folder that the graph reads, start no
    run.
    """
    (tmp_path / "in").mkdir()
    save("in/x", "1")
    save(
        "g.yaml",
        graph("a: {type: toy.list, folder: ./in}", 'words: {from: "${a}", path: "deep/words.txt"}'),
    )
    watching = watch("g.yaml", out="in/made/out", settle_s=0.0)
    assert runs(watching.rest()) == ["done"]
    time.sleep(0.5)  # wait for something that must not happen
    assert watching.queue.empty()


def test_the_store_starts_no_run(tmp_path: Path, watch: Any) -> None:
    """A store in an input folder causes a warning, and its files start no run."""
    (tmp_path / "in").mkdir()
    save("in/x", "1")
    save("g.yaml", graph("a: {type: toy.list, folder: ./in}", 'words: "${a}"'))
    watching = watch("g.yaml", store=tmp_path / "in/store", settle_s=0.0)
    events = watching.rest()
    (warned,) = [s for s in events if isinstance(s, Warned)]
    assert warned.problems[0].message == "the store is in in, which the graph reads"
    assert runs(events) == ["done"]
    time.sleep(0.5)  # wait for something that must not happen
    assert watching.queue.empty()


def test_a_seed_is_drawn_once(watch: Any) -> None:
    """A random seed is the same in every run until the graph names another."""
    text = graph(
        'a: {type: toy.join, first: "seed ${seed}", second: "1"}',
        'words: "${a}"',
        "seed: {type: seed, default: random}",
    )
    save("g.yaml", text)
    watching = watch("g.yaml")
    first = value(watching.rest())
    save("g.yaml", text.replace('"1"', '"2"'))
    assert value(watching.rest()) == first[:-1] + "2"
    save("g.yaml", text.replace("random", "5"))
    assert value(watching.rest()) == "seed 51"


# --- plugins

GREET = """
from imagen_flow import Text, node
import greeting

@node("my.greet", version=1)
def greet(name: Text) -> Text:
    return greeting.WORD + " " + name
"""


def test_the_code_of_a_local_plugin_counts(tmp_path: Path, watch: Any) -> None:
    """A changed plugin file and a changed helper module are reloaded; steps of other plugins are
    not computed again.
    """
    save("greet.py", GREET)
    save("greeting.py", "WORD = 'hello'\n")
    save(
        "g.yaml",
        graph(
            'up: {type: toy.loud, text: "you"}\ng: {type: my.greet, name: "${up}"}', 'words: "${g}"'
        ),
    )
    watching = watch("g.yaml", plugins=["nodes.py", "greet.py"])
    assert value(watching.rest()) == "hello YOU"
    save("greeting.py", "WORD = 'howdy'\n")
    events = watching.rest()
    assert ([s.plugins for s in events if isinstance(s, Reloaded)], ran(events), value(events)) == (
        [("greet.py",)],
        ["g"],
        "howdy YOU",
    )
    save("greet.py", GREET.replace('" "', '", "'))
    events = watching.rest()
    assert (ran(events), value(events)) == (["g"], "howdy, YOU")


def test_what_a_local_plugin_reads_from_its_folder_counts(tmp_path: Path, watch: Any) -> None:
    """Modules of a package without __init__.py, data in a package, and data that the plugin names
    each start a run with their new content.
    """
    for name, text in (
        ("loose_w/word.py", "WORD = 'hello'\n"),
        ("boxed_w/__init__.py", ""),
        ("boxed_w/name.txt", "box"),
        ("mark.txt", "!"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    save(
        "greet.py",
        "from importlib.resources import files\nfrom pathlib import Path\nfrom imagen_flow import Text, node\nfrom loose_w import word\n"
        "@node('my.greet', version=1)\ndef greet() -> Text:\n    return f\"{word.WORD} {files('boxed_w').joinpath('name.txt').read_text()}{Path(__file__).with_name('mark.txt').read_text()}\"\n",
    )
    save("g.yaml", graph("g: {type: my.greet}", 'words: "${g}"'))
    watching = watch("g.yaml", plugins=["greet.py"])
    assert value(watching.rest()) == "hello box!"
    for name, text, expected in (
        ("loose_w/word.py", "WORD = 'howdy'\n", "howdy box!"),
        ("boxed_w/name.txt", "crate", "howdy crate!"),
        ("mark.txt", "?", "howdy crate?"),
    ):
        save(name, text)
        assert value(watching.rest()) == expected


def test_a_plugin_that_breaks_leaves_its_code_in_use(tmp_path: Path, watch: Any) -> None:
    """If a plugin cannot be reloaded, that is reported and its previous code stays in use; once
    fixed, it is reloaded.
    """
    save("greet.py", GREET)
    save("greeting.py", "WORD = 'hello'\n")
    text = graph('g: {type: my.greet, name: "you"}', 'words: "${g}"')
    save("g.yaml", text)
    watching = watch("g.yaml", plugins=["greet.py"])
    watching.rest()
    save("greeting.py", "WORD = \n")
    events = watching.rest()
    (warned,) = [s for s in events if isinstance(s, Warned)]
    assert warned.problems[0].message == "the plugin greet.py cannot be used as it is now"
    assert (ran(events), [s for s in events if isinstance(s, Reloaded)]) == ([], [])
    save("g.yaml", text.replace('"you"', '"all"'))
    assert value(watching.rest()) == "hello all"
    save("greeting.py", "WORD = 'mended'\n")
    assert value(watching.rest()) == "mended all"
    save("greet.py", GREET.replace("import greeting", "import greeting, greeting_more"))
    assert any(isinstance(s, Warned) for s in watching.rest())
    save("greet.py", GREET.replace('" "', '": "'))
    assert value(watching.rest()) == "mended: all"


def test_a_plugin_that_is_broken_at_first_is_waited_for(tmp_path: Path, watch: Any) -> None:
    """A plugin whose helper is missing is loaded once the helper exists."""
    save("greet.py", GREET)
    save("g.yaml", graph('g: {type: my.greet, name: "you"}', 'words: "${g}"'))
    watching = watch("g.yaml", plugins=["greet.py"])
    assert [type(s) for s in watching.rest()] == [Warned, Refused, Waiting]
    save("greeting.py", "WORD = 'hello'\n")
    assert value(watching.rest()) == "hello you"


def test_a_plugin_that_is_installed_as_editable_counts(
    tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All modules of an editable package are reloaded when one of them changes."""
    site, source = tmp_path / "site", tmp_path / "source"
    package = source / "watched_pkg"
    info = site / "watched_dist-1.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watched-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[imagen_flow]\nwatched = watched_pkg\n")
    (info / "direct_url.json").write_text(
        json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}})
    )
    (package / "__init__.py").write_text(
        "from imagen_flow import hookimpl\nfrom .nodes import say\n@hookimpl\ndef imagen_flow_nodes():\n    return [say]\n"
    )
    # The same size in the same second, as with two quick edits: Python's cached bytecode must not
    # be used.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    save(package / "words.py", "WORD = 'one'\n", time_s=1_700_000_000)
    (package / "nodes.py").write_text(
        "from imagen_flow import Text, node\n@node('watched.say', version=1)\ndef say(to: Text) -> Text:\n    from .words import WORD\n    return WORD + ' ' + to\n"
    )
    for folder in (site, source):
        monkeypatch.syspath_prepend(folder)
    save("g.yaml", graph('g: {type: watched.say, to: "you"}', 'words: "${g}"'))
    watching = watch("g.yaml", plugins=[])
    try:
        assert value(watching.rest()) == "one you"
        save(package / "words.py", "WORD = 'two'\n", time_s=1_700_000_000)
        events = watching.rest()
        assert ([s.plugins for s in events if isinstance(s, Reloaded)], value(events)) == (
            [("watched-dist:watched",)],
            "two you",
        )
        save(package / "nodes.py", "from nowhere_at_all import x\n")
        events = watching.rest()
        assert [s.problems[0].message for s in events if isinstance(s, Warned)] == [
            "the plugin watched-dist:watched cannot be used as it is now"
        ]
        save("g.yaml", graph('g: {type: watched.say, to: "all"}', 'words: "${g}"'))
        assert value(watching.rest()) == "two all"
    finally:
        watching.close()
        for name in [n for n in sys.modules if n.startswith("watched_pkg")]:
            del sys.modules[name]


def test_a_plugin_that_no_graph_uses_starts_no_run(tmp_path: Path, watch: Any) -> None:
    """A change in a plugin that the graph does not use starts no run; once it is used, its current
    code is used.
    """
    save("greeting.py", "WORD = 'hello'\n")
    save("greet.py", GREET)
    save("g.yaml", TWO)
    watching = watch("g.yaml", plugins=["nodes.py", "greet.py"])
    watching.rest()
    save("greeting.py", "WORD = 'howdy'\n")
    save("greet.py", GREET.replace("my.greet", "my.salute"))
    time.sleep(1.0)  # wait for something that must not happen
    assert watching.queue.empty()
    save("g.yaml", graph('g: {type: my.salute, name: "you"}', 'words: "${g}"'))
    events = watching.rest()
    assert (runs(events), value(events)) == (["done"], "howdy you")


LOADER = """
from pathlib import Path
from imagen_flow import Model, Text, loaders, node

class Weights(loaders.Loader):
    def load(self, model, *, device, dtype, settings):
        with open("loads", "a") as log:
            log.write("VERSION\\n")
        return "VERSION"

@node("my.use", version=1, uses=("torch",))
def use(model: Model[Weights], word: Text) -> Text:
    return model + word
"""


def test_models_stay_loaded_until_their_loader_changes(tmp_path: Path, watch: Any) -> None:
    """A model is loaded once for many runs, and again when its files or the code of its loader
    change.
    """
    save("loader.py", LOADER.replace("VERSION", "v1"))
    safetensors.numpy.save_file({"w": np.zeros(2, "float32")}, tmp_path / "model.safetensors")
    text = graph('u: {type: my.use, model: ./model.safetensors, word: "1"}', 'words: "${u}"')
    save("g.yaml", text)
    pool = ModelPool()
    watching = watch("g.yaml", plugins=["loader.py"], device="cpu", pool=pool)
    assert value(watching.rest()) == "v11"
    save("g.yaml", text.replace('"1"', '"2"'))
    assert value(watching.rest()) == "v12"
    assert (tmp_path / "loads").read_text() == "v1\n"
    safetensors.numpy.save_file({"w": np.ones(2, "float32")}, tmp_path / ".aside.safetensors")
    os.replace(tmp_path / ".aside.safetensors", tmp_path / "model.safetensors")
    assert ran(watching.rest()) == ["u"]
    assert (tmp_path / "loads").read_text() == "v1\nv1\n"
    save("loader.py", LOADER.replace("VERSION", "v2"))
    events = watching.rest()
    assert ([s.dropped for s in events if isinstance(s, Reloaded)], value(events)) == ([2], "v22")
    assert (tmp_path / "loads").read_text() == "v1\nv1\nv2\n"
    assert len(pool.resident()) == 1


# --- settings


def test_settings_count(tmp_path: Path, watch: Any) -> None:
    """Changes of imagen-flow.toml count, also if it is created later; its problems are reported and
    the previous settings stay.
    """
    save("g.yaml", TWO)
    watching = watch("g.yaml", default_out=Path("out"))
    assert {s.path for s in watching.rest() if isinstance(s, OutputWritten)} == {
        str(tmp_path / "out/words.txt")
    }
    save("imagen-flow.toml", 'out = "elsewhere"\n')
    assert {s.path for s in watching.rest() if isinstance(s, OutputWritten)} == {
        str(tmp_path / "elsewhere/words.txt")
    }
    save("imagen-flow.toml", "owt = 1\n")
    assert [type(s) for s in watching.rest()] == [Changed, Refused, Waiting]
    save("imagen-flow.toml", 'out = "third"\n')
    assert {s.path for s in watching.rest() if isinstance(s, OutputWritten)} == {
        str(tmp_path / "third/words.txt")
    }


def test_settings_that_are_broken_at_first_are_waited_for(tmp_path: Path, watch: Any) -> None:
    """A settings file in a parent folder that is broken from the beginning is reported, and the
    watcher waits for a fix.
    """
    (tmp_path / "graphs").mkdir()
    save("imagen-flow.toml", "owt = 1\n")
    save("graphs/g.yaml", TWO)
    watching = watch("graphs/g.yaml", default_out=Path("out"))
    assert [type(s) for s in watching.rest()] == [Refused, Waiting]
    save("imagen-flow.toml", 'out = "here"\n')
    assert {s.path for s in watching.rest() if isinstance(s, OutputWritten)} == {
        str(tmp_path / "here/words.txt")
    }


def test_a_store_that_cannot_be_opened_ends_it(tmp_path: Path, watch: Any) -> None:
    """What no change of a watched file can fix is an error at once."""
    save("g.yaml", TWO)
    save("file", "")
    with pytest.raises(flow.StoreError, match="it is a file"):
        list(flow.watch("g.yaml", plugins=["nodes.py"], store="file"))


def test_a_plugin_of_the_settings_needs_trust_in_its_present_form(
    tmp_path: Path, watch: Any
) -> None:
    """A trusted plugin that changes stays in use in its previous form until it is trusted again."""
    folder = tmp_path / "project"
    folder.mkdir()
    plugin = folder / "mine.py"
    code = "from imagen_flow import Text, node\n@node('my.say', version=1)\ndef say(to: Text) -> Text:\n    return 'VERSION ' + to\n"
    save(plugin, code.replace("VERSION", "one"))
    save(folder / "imagen-flow.toml", 'plugins = ["./mine.py"]\n')
    save(folder / "g.yaml", graph('g: {type: my.say, to: "you"}', 'words: "${g}"'))
    watching = watch(folder / "g.yaml", plugins=[], out=tmp_path / "out")
    events = watching.rest()
    assert [[p.code for p in s.problems] for s in events if isinstance(s, Warned)] == [
        ["untrusted-plugin"]
    ]
    config.trust({plugin: config.code_digest(plugin)})
    assert value(watching.rest()) == "one you"
    save(plugin, code.replace("VERSION", "two"))
    events = watching.rest()
    assert (
        [[p.code for p in s.problems] for s in events if isinstance(s, Warned)],
        ran(events),
    ) == (
        [["untrusted-plugin"]],
        [],
    )
    save(folder / "g.yaml", graph('g: {type: my.say, to: "all"}', 'words: "${g}"'))
    assert value(watching.rest()) == "one all"
    config.trust({plugin: config.code_digest(plugin)})
    assert (
        value(watching.until(lambda s: isinstance(s, OutputWritten) and s.value == "two all"))
        == "two all"
    )


def test_a_graph_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    """Watching starts only with graphs that exist."""
    with pytest.raises(flow.GraphError, match="does not exist"):
        flow.watch(tmp_path / "no.yaml")
    with pytest.raises(flow.GraphError, match="is a folder"):
        flow.watch([tmp_path])
    with pytest.raises(flow.GraphError, match="no graph to watch"):
        flow.watch([])


def test_all_that_is_said_is_json(tmp_path: Path, watch: Any) -> None:
    """Every event has a JSON form with its name."""
    save("g.yaml", TWO)
    watching = watch("g.yaml")
    events = watching.rest()
    save("g.yaml", "nodes: [")
    events += watching.rest()
    save("nodes.py", NODES + "\n1/0\n")
    events += watching.rest()
    lines = [json.loads(json.dumps(as_json(s))) for s in events]
    assert all(line["event"] and "at_s" in line for line in lines)
    assert {
        "planned",
        "changed",
        "refused",
        "warned",
        "waiting",
        "run_started",
        "step_finished",
    } <= {line["event"] for line in lines}
    assert any(
        "error[" in p for line in lines if line["event"] == "refused" for p in line["problems"]
    )


@pytest.mark.parametrize("on_change", ["restart", "queue"])
@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_changes_the_result_is_true(
    tmp_path: Path, watch: Any, seed: int, on_change: str
) -> None:
    """Whatever changes, and however quickly, in graph, included graph, file, folder and plugin: in
    the end the output is that of a manual run.
    """
    dice = random.Random(seed)
    (tmp_path / "in").mkdir()
    text = graph(
        """
        word: {type: my.greet, name: NAME}
        names: {type: toy.list, folder: ./in}
        file: {type: toy.read, file: ./file}
        inner: {type: ./inner.yaml, t: "${file}"}
        a: {type: toy.join, first: "${word} ${names}", second: " ${inner}"}
        """,
        'words: {from: "${a}", path: words.txt}',
    )
    inner = graph('j: {type: toy.join, first: "${t}", second: END}', 'o: "${j}"', "t: {type: text}")
    has = {"g": "n0", "inner": "e0", "file": "f0", "word": "w0"}
    write = {
        "g": lambda v: save("g.yaml", text.replace("NAME", v)),
        "inner": lambda v: save("inner.yaml", inner.replace("END", v)),
        "file": lambda v: save("file", v),
        "word": lambda v: save("greeting.py", f"WORD = '{v}'\n"),
    }
    save("greet.py", GREET)
    for what, version in has.items():
        write[what](version)
    watching = watch(
        "g.yaml", plugins=["nodes.py", "greet.py"], out="out", on_change=on_change, settle_s=0.02
    )
    watching.rest()
    for number in range(1, 40):
        what = dice.choice([*write, "folder", "folder", "break"])
        if what == "folder":
            names = sorted(os.listdir("in"))
            if names and dice.random() < 0.4:
                os.unlink(f"in/{dice.choice(names)}")
            else:
                Path(f"in/i{number}").write_text("")
        elif what == "break":
            broken = dice.choice(["g", "inner", "word"])
            save({"g": "g.yaml", "inner": "inner.yaml", "word": "greeting.py"}[broken], "][")
            time.sleep(dice.random() * 0.1)
            write[broken](has[broken])
        else:
            has[what] = f"{what}{number}"
            write[what](has[what])
        time.sleep(dice.choice((0, 0, 0.01, 0.05, 0.2)))
    expected = (
        f"{has['word']} {has['g']} {' '.join(sorted(os.listdir('in')))} {has['file']}{has['inner']}"
    )
    assert (
        value(watching.until(lambda s: isinstance(s, OutputWritten) and s.value == expected))
        == expected
    )
    watching.rest()
    assert (tmp_path / "out/words.txt").read_text() == expected + "\n"


def test_a_graph_reached_by_a_link(tmp_path: Path, watch: Any) -> None:
    """A graph that is a link runs again when its target changes, and when it leads elsewhere."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save(
            tmp_path / name / "g.yaml",
            graph(f'a: {{type: toy.loud, text: "{name}"}}', 'words: "${a}"'),
        )
    Path("g.yaml").symlink_to("one/g.yaml")
    watching = watch("g.yaml")
    assert value(watching.rest()) == "ONE"
    save(tmp_path / "one/g.yaml", graph('a: {type: toy.loud, text: "three"}', 'words: "${a}"'))
    assert value(watching.rest()) == "THREE"
    Path(".next").symlink_to("two/g.yaml")
    os.replace(".next", "g.yaml")
    assert value(watching.rest()) == "TWO"


def test_a_folder_may_vanish_and_come_back(tmp_path: Path, watch: Any) -> None:
    """An input folder may be moved away and back."""
    (tmp_path / "in").mkdir()
    save("in/x", "1")
    save("g.yaml", graph("a: {type: toy.list, folder: ./in}", 'words: "${a}"'))
    watching = watch("g.yaml")
    watching.rest()
    shutil.move("in", "away")
    watching.until(Refused)
    save("away/y", "1")
    shutil.move("away", "in")
    assert value(watching.until(lambda s: isinstance(s, OutputWritten))) == "x y"
