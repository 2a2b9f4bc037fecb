"""Hot folders: what a line file may say, what becomes of files, tickets, names and originals, and
how a line starts and stops.
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from imagen_flow._cli import main
from imagen_flow._hotfolder import (
    Journal,
    JournalError,
    Resources,
    RunningLine,
    check_together,
    is_temporary_error,
    make_recipe,
    read_line,
    retry,
    status,
)
from imagen_flow._hotfolder.config import KEYS, Line
from imagen_flow._hotfolder.disk import LocalDisk
from imagen_flow._hotfolder.intake import Intake
from imagen_flow._hotfolder.journal import FoundFile
from imagen_flow._hotfolder.publish import free_name, steps_are_intact, sweep
from imagen_flow._hotfolder.ticket import MAX_BYTES, read_ticket
from imagen_flow._hotfolder.worker import ReadHistory
from imagen_flow._plugins.registry import Registry, discover
from imagen_flow._store import Store
from imagen_flow._store.file_digests import FileDigests
from imagen_flow._store.locks import Claims
from imagen_flow._text.spec import read
from imagen_flow._types.digest import digest_bytes
from imagen_flow.errors import GraphError, StoreError

NODES = '''
"""Toy nodes."""
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from imagen_flow import File, List, Steps, Progress, Text, node

@node("toy.shout", version=1)
def shout(file: File, *, times: int = 1, word: Text = "") -> Text:
    """Raise a file's voice."""
    said = file.read_text()
    if said == "fail":
        raise RuntimeError("it cannot be done")
    if said == "bad":
        raise ValueError("it is not what it should be")
    if said == "interrupt":
        raise KeyboardInterrupt("a strange node")
    if said == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{said}\\n")
    return said.upper() * times + word

@node("toy.letters", version=1)
def letters(text: Text) -> List[Text]:
    """Split a text into letters."""
    return list(text)

@node("toy.together", version=1)
def together(text: Text) -> Text:
    """Say how many texts came at once."""
    return said_of([text])[0]

@together.many(varies=("text",), exact=True)
def together_many(text: Sequence[str]) -> Sequence[str]:
    return said_of(text)

def said_of(texts):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{len(texts)} together\\n")
    if any("ODD" in text for text in texts):
        raise ValueError("it is odd")
    return [text.lower() for text in texts]

@node("toy.wait", version=1)
def wait(file: File, *, gate: Text) -> Steps[Text]:
    """Wait until a file is there."""
    Path(gate + ".reached").touch()
    while not Path(gate).exists():
        yield Progress(0, 1)
        time.sleep(0.01)
    return file.read_text()
'''

GRAPH = """\
# Louder.
imagen_flow: 1
inputs:
  file: {type: file}
  times: {type: int, default: 1, min: 1, max: 9}
  word: ""
nodes:
  loud: {type: toy.shout, file: "${file}", times: "${times}", word: "${word}"}
outputs:
  loud: {from: "${loud}", path: "{item}.txt", provenance: none, exists: replace}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
accept: "*.txt"
input: file
settle_s: 0
out: ./out
done: ./done
failed: ./failed
"""


@dataclass
class Yard:
    """A folder with a line in it, and what is needed to run it."""

    root: Path
    registry: Registry
    store: Store
    log: list[dict[str, Any]] = field(default_factory=list)
    pool: Any = None

    def line(self, more: str = "", *, graph: str = GRAPH, text: str = LINE) -> Any:
        keys = {line.partition(":")[0] for line in more.splitlines()}
        kept = "".join(
            line + "\n" for line in text.splitlines() if line.partition(":")[0] not in keys
        )
        (self.root / "graph.yaml").write_text(graph)
        (self.root / "line.yaml").write_text(kept + more)
        return read_line(self.root / "line.yaml")

    def drop(self, **files: str) -> None:
        for name, text in files.items():
            self.put(f"{name}.txt", text)

    def put(self, name: str, text: str | bytes) -> Path:
        place = self.root / "in" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode() if isinstance(text, str) else text)
        return place

    def start(self, line: Any, **options: Any) -> RunningLine:
        running = RunningLine(
            make_recipe(line, self.registry),
            Resources(store=self.store),
            on_event=self.log.append,
            **options,
        )
        running.start()
        return running

    def work(self, more: str = "", *, graph: str = GRAPH, **options: Any) -> Any:
        """Run a line until nothing is left to do."""
        line = self.line(more, graph=graph)
        running = self.start(line, once=True, **options)
        assert running.wait(60), status(line)
        running.close()
        assert running.fault is None, running.fault
        return line

    def found(self, *tops: str) -> dict[str, str]:
        found = {}
        for top in tops or ("in", "out", "done", "failed"):
            for path in sorted((self.root / top).rglob("*")):
                if path.is_file() or path.is_symlink():
                    found[path.relative_to(self.root).as_posix()] = path.read_text(errors="replace")
        return found

    def events(self, *names: str) -> list[tuple[str, str]]:
        return [
            (result["event"], result.get("item", ""))
            for result in self.log
            if result["event"]
            in (names or ("done", "failed", "skipped", "quarantined", "gone", "retry"))
        ]

    @property
    def calls(self) -> list[str]:
        place = self.root / "calls"
        return place.read_text().splitlines() if place.exists() else []


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    root = tmp_path / "yard"
    (root / "in").mkdir(parents=True)
    (root / "toys.py").write_text(NODES)
    monkeypatch.setenv("CALLS", str(root / "calls"))
    registry = discover([root / "toys.py"])
    with Store.open(tmp_path / "store", registry.codecs) as store:
        yield Yard(root, registry, store)


def until(what: Callable[[], Any], *, most_s: float = 30) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


@contextlib.contextmanager
def refusing(number: int, *places: Path, writes_only: bool = False) -> Iterator[threading.Event]:
    """Have the system refuse what is done in these places, as a broken disk, a full one or a lost
    share does, until the event is set.
    """
    mended = threading.Event()

    def is_refused(path: Any) -> bool:
        if mended.is_set() or not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(path)
        return any(text == str(place) or text.startswith(f"{place}{os.sep}") for place in places)

    def faulty(call: Callable[..., Any], *, writes: bool) -> Callable[..., Any]:
        def called(*given: Any, **more: Any) -> Any:
            changes = writes
            if call is os_open:
                changes = bool(given[1] & (os.O_WRONLY | os.O_RDWR))
            if (changes or not writes_only) and any(map(is_refused, given[:2])):
                raise OSError(number, os.strerror(number), os.fspath(given[0]))
            return call(*given, **more)

        return called

    os_open = os.open
    calls = (
        [(os, name, True) for name in ("unlink", "mkdir", "replace", "rename", "link", "utime")]
        + [(os, name, False) for name in ("open", "stat", "lstat", "scandir")]
        + [(io, "open", False)]
    )
    before = [getattr(of, name) for of, name, _ in calls]
    with pytest.MonkeyPatch.context() as patch:
        for (of, name, writes), call in zip(calls, before, strict=True):
            patch.setattr(of, name, faulty(call, writes=writes))
        try:
            yield mended
        finally:
            mended.set()


# -- the line file


def problems(text: str, folder: Path) -> list[str]:
    (folder / "line.yaml").write_text(text)
    with pytest.raises(GraphError) as raised:
        read_line(folder / "line.yaml")
    return [str(problem).replace(f"{folder}/", "") for problem in raised.value.problems]


def test_every_key(yard: Yard) -> None:
    """Every key of a line is read; paths are relative to the line file."""
    (yard.root / "graph.yaml").write_text(GRAPH)
    (yard.root / "line.yaml").write_text(
        """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
accept: ["*.PNG", "*.txt"]
ignore: [drafts/, "!@tmp/"]
folders: flattened
links: followed
input: file
set: {times: 2}
ticket: required
allow: [word]
settle_s: 0.5
empty_s: 60
sentinel: .ready
outputs: {loud: "{item}-loud.txt"}
out: ./out
done: /tmp/somewhere/../done
failed: ./failed
retry: {times: 2, backoff_s: 5}
concurrency: 3
group: 9
priority: newest
duplicates: link
kills: 5
stop_s: 1
lease_s: 7
poll: true
poll_s: 0.5
journal: ./journal
log: ./log.jsonl
notify: {command: [cat], url: "https://example.org/x", on: failed, timeout_s: 3}
"""
    )
    line = read_line(yard.root / "line.yaml")
    assert {key.replace("imagen_flow_folder", "") for key in line.marks} == {
        key.replace("imagen_flow_folder", "") for key in KEYS
    }
    assert (line.graph, line.inbox, line.done, line.journal, line.log) == (
        yard.root / "graph.yaml",
        yard.root / "in",
        Path("/tmp/done"),
        yard.root / "journal",
        yard.root / "log.jsonl",
    )
    assert (
        line.accept,
        line.folders,
        line.links,
        line.input,
        line.ticket,
        line.allow,
        line.sentinel,
    ) == (("*.PNG", "*.txt"), "flattened", "followed", "file", "required", ("word",), ".ready")
    assert (
        line.settle_s,
        line.retries,
        line.backoff_s,
        line.concurrency,
        line.group,
        line.priority,
        line.duplicates,
    ) == (0.5, 2, 5.0, 3, 9, "newest", "link")
    assert (line.ignore, line.empty_s) == (("drafts/", "!@tmp/"), 60.0)
    assert (line.kills, line.stop_s, line.lease_s, line.poll, line.poll_s) == (
        5,
        1.0,
        7.0,
        True,
        0.5,
    )
    assert (line.notify.command, line.notify.url, line.notify.on, line.notify.timeout_s) == (
        ("cat",),
        "https://example.org/x",
        ("failed",),
        3.0,
    )
    recipe = make_recipe(line, yard.registry)
    assert (recipe.values, recipe.allowed, recipe.graph.outputs["loud"].path) == (
        {"times": 2},
        frozenset({"word"}),
        "{item}-loud.txt",
    )


def test_problems_of_a_line(tmp_path: Path) -> None:
    """All problems of a line are reported at once, each with its position, reason and fix."""
    (tmp_path / "in").mkdir()
    result = problems(
        "imagen_flow_folder: 1\ngraph: ./g.yaml\nin: ./in\nout: ./in\ndonne: ./x\nsettle_s: soon\npriority: fast\nretry: {time: 2}\nset: {a: '${b}'}\n",
        tmp_path,
    )
    assert result == [
        "line.yaml:2:8: error[missing-file]: there is no graph 'g.yaml'\n2 | graph: ./g.yaml\n  |        ^^^^^^^^\n  = why: expected at g.yaml",
        "line.yaml:4:6: error[bad-path]: 'out' is the watched folder\n4 | out: ./in\n  |      ^^^^\n  = why: the line would take its own files as new ones\n"
        "  = fix: use a separate folder; it may lie inside 'in'",
        f"line.yaml:5:1: error[unknown-key]: a line has no key 'donne'\n5 | donne: ./x\n  | ^^^^^\n  = why: its keys are: {', '.join(KEYS)}\n  = fix: did you mean 'done'?",
        "line.yaml:6:11: error[bad-literal]: 'settle_s' is a number from 0 to 86400, not 'soon'\n6 | settle_s: soon\n  |           ^^^^\n"
        "  = why: how long a file's size and time must be unchanged, in seconds",
        "line.yaml:7:11: error[bad-literal]: 'priority' is one of oldest, newest, name, not 'fast'\n7 | priority: fast\n  |           ^^^^\n  = why: the order of items: oldest, newest or name",
        "line.yaml:8:9: error[unknown-key]: 'retry' has no key 'time'\n8 | retry: {time: 2}\n  |         ^^^^\n  = why: its keys are: times, backoff_s\n  = fix: did you mean 'times'?",
        "line.yaml:9:10: error[bad-reference]: 'set' in a line cannot contain references\n9 | set: {a: '${b}'}\n  |          ^^^^^^\n  = why: a line has no nodes\n"
        "  = fix: write '$${' for the characters themselves",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "imagen_flow_folder: 1",
        "imagen_flow_folder: 2\ngraph: g\nin: in\nout: out",
        "imagen_flow_folder: true\ngraph: g\nin: in\nout: out",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: nowhere\nout: out",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: out/in\nout: out",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\ndone: out",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\njournal: in",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: link",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nsentinel: ready",
        'imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\naccept: ["a/*.png"]',
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nconcurrency: 0",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nsettle_s: .nan",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nignore: ['a', '!']",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nignore: '[z'",
        "imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nignore: ''",
        'imagen_flow_folder: 1\ngraph: line.yaml\nin: in\nout: out\nnotify: {url: "file:///etc/passwd"}',
        'imagen_flow_folder: 1\ngraph: "~nobody-at-all/x"\nin: in\nout: out',
    ],
)
def test_refused_lines(tmp_path: Path, text: str) -> None:
    """Invalid lines are refused with a problem, never a traceback."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    assert problems(text, tmp_path)


def test_a_line_and_its_graph(yard: Yard) -> None:
    """What a line says about its graph is checked against the graph: inputs, values, outputs and
    what a ticket may set.
    """
    line = yard.line(
        "input: tims\nset: {times: 99, nothing: 1}\nticket: sidecar\nallow: [file, wordd]\noutputs: {lout: x, loud: ../x.txt}\n"
    )
    with pytest.raises(GraphError) as raised:
        make_recipe(line, yard.registry)
    assert [(p.code, p.message, p.fix) for p in raised.value.problems] == [
        ("unknown-input", "the graph has no input 'tims'", "did you mean 'times'?"),
        ("bad-input", "input 'times' takes a whole number from 1 to 9, not 99", ""),
        ("unknown-input", "the graph has no input 'nothing'", "its inputs are: file, times, word"),
        ("unknown-input", "the graph has no input 'wordd'", "did you mean 'word'?"),
        ("unknown-output", "the graph has no output 'lout'", "did you mean 'loud'?"),
        ("bad-path", "the path has '..'", "write a relative path; choose the folder with --out"),
    ]


def test_a_ticket_chooses_no_model(yard: Yard, tmp_path: Path) -> None:
    """A ticket cannot set an input that chooses a model, even if the line allows it."""
    graph = """\
imagen_flow: 1
inputs:
  file: {type: file}
  model: embedded/caption
  note: ""
nodes:
  loaded: {type: image.load, file: "${file}"}
  words: {type: image.caption, model: "${model}", image: "${loaded}"}
  inner: {type: ./inner.yaml, which: "${model}", file: "${file}"}
outputs:
  words: {from: "${words}", path: "{item}-{note}.txt"}
  more: {from: "${inner}", path: "{item}-inner.txt"}
"""
    (yard.root / "inner.yaml").write_text(
        graph.replace("model:", "which:", 1)
        .replace('"${model}", image', '"${which}", image')
        .split("  inner:")[0]
        + 'outputs:\n  words: "${words}"\n'
    )
    assert make_recipe(yard.line("ticket: sidecar\n", graph=graph), yard.registry).allowed == {
        "note"
    }
    with pytest.raises(GraphError, match="a ticket may not set 'model'"):
        make_recipe(yard.line("ticket: sidecar\nallow: [model]\n", graph=graph), yard.registry)


def test_lines_together(tmp_path: Path) -> None:
    """Lines of a process must not take each other's files or feed each other in a cycle; a chain is
    fine.
    """

    def line(name: str, inbox: str, out: str) -> Any:
        for folder in (inbox, out):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(
            f"imagen_flow_folder: 1\ngraph: {name}.yaml\nin: {inbox}\nout: {out}\ndone: {name}-done\nfailed: {name}-failed\n"
        )
        return read_line(tmp_path / f"{name}.yaml")

    check_together([line("a", "one", "two"), line("b", "two", "three")])
    with pytest.raises(GraphError, match="'in' is also used by"):
        check_together([line("a", "one", "two"), line("b", "one", "three")])
    with pytest.raises(GraphError, match="lines feed each other: a -> b -> a"):
        check_together([line("a", "one", "two"), line("b", "two", "one")])


# -- what becomes of files


def test_a_file_goes_through(yard: Yard) -> None:
    """Files that exist at the start are processed: outputs in out, originals in done, with their
    sub-folders.
    """
    yard.drop(a="one", b="two")
    yard.put("sub/deep/c.txt", "three")
    yard.put("other.doc", "stays")
    yard.work("set: {times: 2}\n")
    assert yard.found() == {
        "in/other.doc": "stays",
        "out/a.txt": "ONEONE\n",
        "out/b.txt": "TWOTWO\n",
        "out/sub/deep/c.txt": "THREETHREE\n",
        "done/a.txt": "one",
        "done/b.txt": "two",
        "done/sub/deep/c.txt": "three",
    }


@pytest.mark.parametrize(
    ("folders", "out"),
    [("flattened", {"out/c.txt": "3\n", "done/c.txt": "3"}), ("ignored", {"in/sub/c.txt": "3"})],
)
def test_sub_folders(yard: Yard, folders: str, out: dict[str, str]) -> None:
    """Sub-folders are flattened or ignored if the line says so."""
    yard.put("sub/c.txt", "3")
    yard.work(f"folders: {folders}\n")
    assert yard.found() == out


@pytest.mark.parametrize("path", ["{file.stem}.md", "{file.name}.md", "{item}.md", "x.md"])
def test_names_of_files_in_paths(yard: Yard, path: str) -> None:
    """A path that uses the name of the incoming file gets it once; a node that asks for the name
    is told that of the item, also where the content is the same.
    """
    graph = GRAPH.replace("nodes:", 'nodes:\n  name: {type: file.name, file: "${file}"}').replace(
        'word: "${word}"}', 'word: "${word}${name.stem}"}'
    )
    yard.drop(a="one", b="one")
    yard.put("sub/c.txt", "one")
    yard.work(f'outputs: {{loud: "{path}"}}\n', graph=graph)
    names = {
        "{file.stem}.md": ["a.md", "b.md", "sub/c.md"],
        "{file.name}.md": ["a.txt.md", "b.txt.md", "sub/c.txt.md"],
        "{item}.md": ["a.md", "b.md", "sub/c.md"],
        "x.md": ["a-x.md", "b-x.md", "sub/c-x.md"],
    }[path]
    assert yard.found("out") == {
        f"out/{name}": f"ONE{stem}\n" for name, stem in zip(names, "abc", strict=True)
    }


def test_one_failure_is_alone(yard: Yard) -> None:
    """A file that fails is in failed with a readable reason, after the configured retries; the
    others are not affected.
    """
    yard.drop(a="one", bad="fail", c="three")
    line = yard.work("retry: {times: 2, backoff_s: 0.01}\n")
    found = yard.found()
    reason = found.pop("failed/bad.txt.failed.txt")
    assert found == {
        "out/a.txt": "ONE\n",
        "out/c.txt": "THREE\n",
        "done/a.txt": "one",
        "done/c.txt": "three",
        "failed/bad.txt": "fail",
    }
    assert reason.startswith("bad.txt failed after 3 tries.\n\n")
    assert (
        "graph.yaml:8:3: error[node-failed]: loud: RuntimeError: it cannot be done\n8 |   loud: {type: toy.shout"
        in reason
    )
    assert f"imagen-flow folder retry {line.path} 'bad.txt'" in reason
    assert yard.events("retry", "failed") == [
        ("retry", "bad.txt"),
        ("retry", "bad.txt"),
        ("failed", "bad.txt"),
    ]


def test_a_node_that_raises_anything(yard: Yard) -> None:
    """Whatever a node raises, only its item fails, with the traceback as its reason."""
    yard.drop(a="one", bad="interrupt")
    yard.work()
    found = yard.found()
    assert "KeyboardInterrupt: a strange node" in found.pop("failed/bad.txt.failed.txt")
    assert found == {"out/a.txt": "ONE\n", "done/a.txt": "one", "failed/bad.txt": "interrupt"}


def test_certain_errors(yard: Yard) -> None:
    """A failure caused by a wrong value is not retried."""
    yard.drop(a="bad")
    yard.work("retry: {times: 2, backoff_s: 0.01}\n")
    assert yard.events() == [("failed", "a.txt")]
    assert (yard.root / "failed/a.txt.failed.txt").read_text().startswith("a.txt failed.\n\n")


@pytest.mark.parametrize("whole", [True, False])
def test_graph_for_line(yard: Yard, whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph in place of a line, and a line in place of a graph, get one problem with the right
    command, even without their version or without a command.
    """
    line = yard.line()
    if not whole:
        for file in (line.graph, line.path):
            file.write_text(re.sub(r"^imagen_flow.*\n", "", file.read_text(), flags=re.MULTILINE))
    with pytest.raises(GraphError) as raised:
        read_line(line.graph)
    assert [(p.message, p.fix) for p in raised.value.problems] == [
        ("this is a graph, not a line", f"run it with: imagen-flow run {line.graph}")
    ]
    spec = read(line.path)
    assert [(p.message, p.fix) for p in spec.problems] == [
        (
            "this is the line file of a hot folder, not a graph",
            f"run it with: imagen-flow folder run {line.path}",
        )
    ]
    with pytest.raises(SystemExit):
        main(["folder", str(line.path)])
    assert f"to run a line: imagen-flow folder run {line.path}" in capsys.readouterr().err


def test_reasons_steer_no_terminal(yard: Yard) -> None:
    """Control characters in names and errors are replaced in the text beside a failed file."""
    yard.put("a\x1b[2Jb\nc.txt", "bad")
    yard.work(graph=GRAPH)
    reason = next((yard.root / "failed").glob("*.failed.txt")).read_text()
    assert reason.startswith("a\ufffd[2Jb c.txt failed.\n")
    assert "\x1b" not in reason


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_no_regular_line_file(tmp_path: Path, kind: str) -> None:
    """A pipe, a device or a folder in place of a line file is refused without waiting."""
    place = tmp_path / "line.yaml"
    os.mkfifo(place) if kind == "fifo" else place.symlink_to(
        "/dev/zero"
    ) if kind == "device" else place.mkdir()
    with pytest.raises(GraphError, match="it is not a regular file|is a directory"):
        read_line(place)


def test_a_log_that_nobody_reads(yard: Yard) -> None:
    """A log that is a pipe without a reader does not delay the line."""
    os.mkfifo(yard.root / "log")
    yard.drop(a="one")
    yard.work("log: ./log\n")
    assert yard.found("out") == {"out/a.txt": "ONE\n"}


def test_retry_by_hand(yard: Yard) -> None:
    """A failed file that is retried goes back to its original place, without its reason, and is
    processed again.
    """
    yard.put("sub/bad.txt", "fail")
    line = yard.work()
    (yard.root / "failed/sub/bad.txt").write_text("good now")
    assert retry(line, ["nothing*"]) == []
    assert retry(line) == [("sub/bad.txt", "sub/bad.txt")]
    assert yard.found() == {"in/sub/bad.txt": "good now"}
    yard.work()
    assert yard.found() == {"out/sub/bad.txt": "GOOD NOW\n", "done/sub/bad.txt": "good now"}


def test_retry_of_several(yard: Yard) -> None:
    """Retried files go back in the order in which they failed."""
    for name in ("b", "c", "a"):
        yard.put(f"{name}.txt", "fail")
        line = yard.work()
    assert [kept for kept, _ in retry(line)] == ["b.txt", "c.txt", "a.txt"]


def test_same_content_twice(yard: Yard) -> None:
    """The same content under two names gives both outputs; the second costs nothing."""
    yard.drop(a="same", b="same")
    yard.work()
    assert yard.found("out") == {"out/a.txt": "SAME\n", "out/b.txt": "SAME\n"}
    assert yard.calls == ["same"]


def test_same_content_skipped(yard: Yard) -> None:
    """With `duplicates: skip`, content that was processed before with the same values gives no
    outputs, and its original is archived.
    """
    yard.drop(a="same", b="same", c="other")
    yard.work("duplicates: skip\nconcurrency: 3\npriority: name\n")
    assert yard.found("in", "done") == {
        "done/a.txt": "same",
        "done/b.txt": "same",
        "done/c.txt": "other",
    }
    assert len(yard.found("out")) == 2
    assert sorted(event for event, _ in yard.events()) == ["done", "done", "skipped"]
    yard.drop(d="same")
    yard.work("duplicates: skip\nset: {times: 2}\n")
    assert yard.found("out")["out/d.txt"] == "SAMESAME\n"


@pytest.mark.parametrize("ending", ["txt", "png"])
def test_same_content_linked(yard: Yard, ending: str) -> None:
    """With `duplicates: link`, the second output is a hard link to the first."""
    graph = {
        "txt": GRAPH,
        "png": 'imagen_flow: 1\ninputs:\n  file: {type: file}\nnodes:\n  plain: {type: image.solid, width: 8, height: 8, colour: teal}\n  loud: {type: toy.shout, file: "${file}"}\noutputs:\n  picture: {from: "${plain}", path: "{item}.png"}\n  used: "${loud}"\n',
    }[ending]
    yard.drop(a="same", b="same")
    yard.work("duplicates: link\n", graph=graph)
    assert (yard.root / f"out/a.{ending}").stat().st_ino == (
        yard.root / f"out/b.{ending}"
    ).stat().st_ino
    yard.drop(a="other")
    yard.work("duplicates: link\n", graph=graph)
    assert (yard.root / f"out/b.{ending}").stat().st_nlink == (2 if ending == "png" else 1)


def test_same_names(yard: Yard) -> None:
    """A file with the name of an earlier one replaces its outputs, and its original gets a number;
    a file that would replace another file's outputs fails and names that file.
    """
    yard.put("a/x.txt", "one")
    yard.work(
        "folders: flattened\n", graph=GRAPH.replace(", provenance: none, exists: replace", "")
    )
    yard.put("a/x.txt", "two")
    yard.work(
        "folders: flattened\n", graph=GRAPH.replace(", provenance: none, exists: replace", "")
    )
    assert {
        name: text
        for name, text in yard.found("out", "done", "failed").items()
        if "provenance" not in name
    } == {"out/x.txt": "TWO\n", "done/x.txt": "one", "done/x-2.txt": "two"}
    yard.put("b/x.txt", "three")
    yard.work(
        "folders: flattened\n", graph=GRAPH.replace(", provenance: none, exists: replace", "")
    )
    assert yard.found("out")["out/x.txt"] == "TWO\n"
    assert yard.found("failed")["failed/x.txt"] == "three"
    assert (
        "it is an output of another file: a/x.txt"
        in yard.found("failed")["failed/x.txt.failed.txt"]
    )


@pytest.mark.parametrize(
    ("more", "path", "words"),
    [
        (
            "accept: ['*.jpg', '*.tif']\n",
            "{item}.txt",
            'outputs of x.jpg and x.tif would have the same name (loud), so the second fails; write outputs: {loud: "{item}.{ending}.txt"}',
        ),
        (
            "accept: '*'\n",
            "{item}.txt",
            'outputs of x.jpg and x.tif would have the same name (loud), so the second fails; write outputs: {loud: "{item}.{ending}.txt"}',
        ),
        ("accept: '*.txt'\n", "{item}.txt", ""),
        ("accept: '*'\n", "{ending}/{item}.txt", ""),
        ("accept: '*'\n", "{digest8}.txt", ""),
        (
            "accept: '*.txt'\nfolders: flattened\n",
            "{item}.txt",
            "outputs of a/x.txt and b/x.txt would have the same name (loud), so the second fails; put {digest8} into their paths, or write folders: kept",
        ),
    ],
)
def test_pairs(yard: Yard, more: str, path: str, words: str) -> None:
    """When a line starts, it warns if outputs of two files, such as a camera's pair, may have the
    same name, and says how to keep them apart.
    """
    line = yard.line(
        f'{more}outputs: {{loud: "{path}"}}\n', graph=GRAPH.replace(", exists: replace", "")
    )
    running = yard.start(line, once=True)
    assert running.wait(30)
    running.close()
    assert [result.get("reason") for result in yard.log if result["event"] == "warning"] == (
        [words] if words else []
    )
    assert [result["event"] for result in yard.log[:2]] == (
        ["started", "warning"] if words else ["started", "stopped"]
    )


def test_a_pair_is_kept_apart(yard: Yard) -> None:
    """`{ending}` in a path separates files that differ only in their ending."""
    for name in ("x.jpg", "x.tif", "x"):
        yard.put(name, name)
    yard.work(
        "accept: ['*']\noutputs: {loud: \"{item}.{ending}.txt\"}\n",
        graph=GRAPH.replace(", exists: replace", ""),
    )
    assert yard.found("out") == {
        "out/x.jpg.txt": "X.JPG\n",
        "out/x.tif.txt": "X.TIF\n",
        "out/x._.txt": "X\n",
    }


def test_lists_and_paths_without_item(yard: Yard) -> None:
    """Elements of a list are named by item and number, and a path without the item gets it in
    front.
    """
    graph = """\
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loud: {type: toy.shout, file: "${file}"}
  letters: {type: toy.letters, text: "${loud}"}
outputs:
  loud: {from: "${loud}", path: "{graph}/loud.txt", provenance: none}
  one: {from: "${letters}", path: "one/{item}.txt", provenance: none}
  two: {from: "${letters}", path: "two/{item}/{index}.txt", provenance: none}
  three: {from: "${letters}", path: "three/{index}.txt", provenance: none}
"""
    yard.drop(x="ab", y="c")
    yard.work(graph=graph)
    assert sorted(yard.found("out")) == [
        "out/graph/x-loud.txt",
        "out/graph/y-loud.txt",
        "out/one/x-0.txt",
        "out/one/x-1.txt",
        "out/one/y-0.txt",
        "out/three/x-0.txt",
        "out/three/x-1.txt",
        "out/three/y-0.txt",
        "out/two/x/0.txt",
        "out/two/x/1.txt",
        "out/two/y/0.txt",
    ]


def test_odd_names(yard: Yard) -> None:
    """Any file name of the system is processed: any script, any length, invalid Unicode, both
    Unicode forms, names that other systems forbid, and names that look like options or paths.
    """
    names = [
        "ü b.txt",
        "-rf.txt",
        "a b\tc.txt",
        "CON.txt",
        "%2e%2e%2f.txt",
        "x..txt",
        "n" * 250 + ".txt",
        "日本語" * 27 + ".txt",
        "re\u0301sume.txt",
        "a'\"$(x).txt",
        "x\\..\\..\\up.txt",
        "new\nline.txt",
    ]
    for number, name in enumerate(names):
        yard.put(name, f"t{number}")
    yard.put(os.fsdecode(b"caf\xe9.txt"), "bytes")
    yard.work()
    assert yard.found("in", "failed") == {}
    outputs = yard.found("out")
    assert sorted(outputs.values()) == sorted([*(f"T{n}\n" for n in range(len(names))), "BYTES\n"])
    assert all(Path(name).resolve().is_relative_to(Path("out").resolve()) for name in outputs)
    assert sorted(yard.found("done").values()) == sorted(
        [*(f"t{n}" for n in range(len(names))), "bytes"]
    )


def test_patterns_in_either_spelling(yard: Yard) -> None:
    """Patterns of a line and of retry match names in any Unicode form."""
    for name in ("cafe\u0301.txt", "caf\u00e92.txt", "th\u00e9.TXT"):
        yard.put(name, "bad")
    line = yard.work("accept: ['caf\u00e9*.txt', 'the\u0301.*']\n")
    assert len(yard.events("failed")) == 3
    assert len(retry(line, ["cafe\u0301*"])) == 2
    assert retry(line, ["the\u0301.TXT"]) == [("th\u00e9.TXT", "th\u00e9.TXT")]


def test_both_spellings_of_an_accent(yard: Yard) -> None:
    """Two files whose names differ only in Unicode form are two files; their outputs would be the
    same, so the second fails and says so.
    """
    yard.put("caf\u00e9.txt", "one")
    yard.put("cafe\u0301.txt", "two")
    yard.work("priority: name\n", graph=GRAPH.replace(", provenance: none, exists: replace", ""))
    assert len(yard.found("done")) == 1
    assert [
        text
        for name, text in yard.found("failed").items()
        if name.endswith(".failed.txt") and "it is an output of another file" in text
    ]


def test_what_does_not_count(yard: Yard) -> None:
    """Hidden and temporary names, links, pipes, folders named like files, and provenance files are
    ignored.
    """
    outside = yard.root / "secret.txt"
    outside.write_text("secret")
    (yard.root / "elsewhere").mkdir()
    (yard.root / "elsewhere" / "x.txt").write_text("x")
    for name in (
        ".hidden.txt",
        "x.txt~",
        "download.txt.part",
        ".imagen_flow-abc-1.tmp",
        "y.txt.provenance.json",
    ):
        yard.put(name, "no")
    (yard.root / "in/link.txt").symlink_to(outside)
    (yard.root / "in/folder link").symlink_to(yard.root / "elsewhere")
    (yard.root / "in/folder.txt").mkdir()
    os.mkfifo(yard.root / "in/pipe.txt")
    yard.drop(a="yes")
    yard.work("accept: ['*']\n")
    assert yard.found("out", "done", "failed") == {"out/a.txt": "YES\n", "done/a.txt": "yes"}
    assert outside.read_text() == "secret"


SYSTEMS = (
    "@eaDir",
    "#recycle",
    "#Recycle",
    "#snapshot",
    "@tmp",
    "@Recycle",
    "@Recently-Snapshot",
    ".@__thumb",
    "@eaDir/deep",
    "sub/@eaDir",
    "$RECYCLE.BIN",
    "$Recycle.Bin/S-1-5-21",
    "RECYCLER",
    "System Volume Information",
    "FOUND.000",
    "__MACOSX/sub",
    ".Trashes",
    ".AppleDouble",
    "Network Trash Folder",
    "lost+found",
    ".Trash-1000/files",
    "~snapshot",
    "@GMT-2026.01.01-00.00.00",
    ".zfs/snapshot",
    "Network Recycle Bin 1",
    "trashbox",
    "@SynologyDrive",
    "$WinREAgent",
    "$Windows.~BT/x",
    "OneDriveTemp",
    "Family.photoslibrary/originals",
    "LOST.DIR",
    "Backups.backupdb",
    "files_trashbin",
    ".stversions",
    ".~tmp~",
    ".dropbox.cache",
    "Lightroom Previews.lrdata",
    "x.txt.sb-1a2b3c4d-AbCdEf",
    "(A Document Being Saved By TextEdit)",
)


def test_system_folders(yard: Yard) -> None:
    """Files that network drives, systems and sync programs keep in a shared folder stay where they
    are, as do unfinished files.
    """
    names = [f"{folder}/x.txt" for folder in SYSTEMS]
    names += [
        "Thumbs.db",
        "desktop.ini",
        "._x.txt",
        ".DS_Store",
        "x.txt.part",
        "x.txt.PART",
        "x.txt.crdownload",
        "~lock.x.txt#",
        ".~lock.x.txt#",
        "~$x.txt",
        "~syncthing~x.txt.tmp",
        "x.txt@SynoEAStream",
        "x.txt.opdownload",
        "x.txt.aria2",
        "Icon\r",
    ]
    for name in names:
        yard.put(name, "no")
    real = [
        "recycled/a.txt",
        "eaDir/b.txt",
        "x@home/c.txt",
        "#1.txt",
        "$.txt",
        "found/d.txt",
        "[e].txt",
        "!f.txt",
    ]
    for name in real:
        yard.put(name, name)
    yard.work("accept: ['*']\n")
    assert sorted(yard.calls) == sorted(real)
    assert sorted(yard.found("in")) == sorted(f"in/{name}" for name in names)
    running = yard.start(yard.line("accept: ['*']\n"))  # and when they come while it runs
    until(running._watcher.scanned.is_set)
    for name in names:
        yard.put(name, "still no")
    yard.drop(last="one")
    until(lambda: ("done", "last.txt") in yard.events())
    running.close()
    assert len(yard.calls) == len(real) + 1


def test_ignored_names(yard: Yard) -> None:
    """A line adds patterns as in .gitignore: in any case, by folder, anchored, and negated; in a
    list, a # starts a name.
    """
    names = [
        "drafts/a.txt",
        "sub/Drafts/deep/b.txt",
        "c-OLD.txt",
        "#mine/d.txt",
        "top.txt",
        "cafe\u0301/e.txt",
    ]
    taken = ["sub/top.txt", "keep-old.txt", "@tmp/f.txt"]
    for name in (*names, *taken, "@eaDir/g.txt"):
        yard.put(name, name)
    yard.work(
        'ignore: [Drafts/, "*-old.txt", "!keep-*", "#mine/", /top.txt, caf\u00e9/, "!@tmp/"]\n'
    )
    assert sorted(yard.calls) == sorted(taken)
    yard.work('ignore: "!*"\n')
    assert sorted(yard.calls) == sorted([*taken, *names, "@eaDir/g.txt"])


def test_a_name_that_is_ignored_later(yard: Yard) -> None:
    """Items waiting in the journal are dropped once the line ignores them."""
    yard.drop(a="one", b="two")
    line = yard.line("sentinel: .ready\n")
    running = yard.start(line)
    until(lambda: running.journal.count_by_state() == {"seen": 2})
    running.close()
    yard.work("ignore: a.*\n")
    assert yard.found() == {"in/a.txt": "one", "out/b.txt": "TWO\n", "done/b.txt": "two"}


def test_what_is_passed_over(yard: Yard) -> None:
    """Files that a line does not take are counted in its log and its status, by ending."""
    for name in ("notes.md", "b.MD", "c.gif", "lonely.yaml", "README", ".hidden", "@eaDir/x.md"):
        yard.put(name, "x")
    os.mkfifo(yard.root / "in/pipe.txt")
    (yard.root / "in/link.txt").symlink_to("notes.md")
    line = yard.work("ticket: sidecar\n")
    words = "not in 'accept': 2 .md (b.MD, …), 1 .gif (c.gif), 1 without an extension (README); 1 link, and links are ignored; 1 pipe or device; 1 ticket without a file"
    assert [
        (result["reason"], result["count"])
        for result in yard.log
        if result["event"] == "passed-over"
    ] == [(words, 7)]
    assert status(line)["passed_over"] == words


def test_a_folder_that_cannot_be_read(yard: Yard) -> None:
    """A sub-folder without read permission is reported; one with a disk error is read again once it
    works.
    """
    yard.put("sub/a.txt", "one")
    yard.put("b.txt", "two")
    with refusing(errno.EACCES, yard.root / "in/sub"):
        line = yard.work()
        assert status(line)["passed_over"] == "cannot be read: sub (permission denied)"
    assert [result["reason"] for result in yard.log if result["event"] == "passed-over"] == [
        "cannot be read: sub (permission denied)"
    ]
    with refusing(errno.EIO, yard.root / "in/sub") as mended:
        running = yard.start(line)
        until(lambda: yard.events("watching"))
        mended.set()
        until(lambda: len(yard.events("done")) == 2)
        running.close()


def test_every_picture_is_accepted() -> None:
    """By default, a line accepts every file ending of the formats that `image.load` reads."""
    from PIL import Image

    from imagen_flow_io.pictures import FORMATS

    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    accepted = {
        pattern.removeprefix("*") for pattern in Line.__dataclass_fields__["accept"].default
    }
    assert endings <= accepted
    assert {f"`{ending}`" for ending in accepted} <= set(
        re.findall(r"`\.\w+`", (ROOT / "docs/hot-folders.md").read_text("utf-8"))
    )


def test_followed_links(yard: Yard) -> None:
    """If the line follows links, the linked file is processed, and the link is archived."""
    outside = yard.root / "there.txt"
    outside.write_text("linked")
    (yard.root / "in/link.txt").symlink_to("../there.txt")
    yard.work("links: followed\n")
    assert yard.found("out") == {"out/link.txt": "LINKED\n"}
    assert (yard.root / "done/link.txt").is_symlink()
    assert outside.read_text() == "linked"
    assert yard.events() == [("done", "link.txt")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(yard: Yard) -> None:
    """A file without read permission fails with that reason."""
    yard.put("a.txt", "one").chmod(0)
    yard.work()
    assert (
        "cannot be read: permission denied" in (yard.root / "failed/a.txt.failed.txt").read_text()
    )


def test_own_outputs(yard: Yard) -> None:
    """Outputs and originals inside the watched folder are not taken as new files."""
    yard.drop(a="one")
    for _ in range(2):
        yard.work("out: ./in/out\ndone: ./in/done\nfailed: ./in/failed\n")
    assert yard.found("in") == {"in/out/a.txt": "ONE\n", "in/done/a.txt": "one"}
    assert yard.events() == [("done", "a.txt")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_may_not_be_written(yard: Yard) -> None:
    """A read-only folder below the outputs affects only its own items."""
    (yard.root / "out/sub").mkdir(parents=True, mode=0o500)
    yard.put("sub/a.txt", "one")
    yard.drop(b="two", c="three")
    running = yard.start(yard.line("retry: {backoff_s: 0}\npriority: name\n"))
    until(lambda: len(yard.events("done")) == 2 and yard.events("waiting"))
    (yard.root / "out/sub").chmod(0o700)
    until(lambda: ("done", "sub/a.txt") in yard.events())
    running.close()


@pytest.mark.parametrize(
    ("priority", "order"),
    [("name", ["a", "b", "c"]), ("oldest", ["c", "a", "b"]), ("newest", ["b", "a", "c"])],
)
def test_priority(yard: Yard, priority: str, order: list[str]) -> None:
    """The next item is the first by name, the oldest or the newest."""
    for age, name in enumerate(["c", "a", "b"]):
        os.utime(yard.put(f"{name}.txt", name), (1000 + age, 1000 + age))
    yard.work(f"priority: {priority}\n")
    assert yard.calls == order


# -- tickets


def test_tickets(yard: Yard) -> None:
    """A ticket beside a file sets inputs for that file, overriding the line, and is moved along
    with it; its text is not interpreted.
    """
    yard.drop(a="one", b="two", c="three", d="four")
    yard.put("a.yaml", "times: 3\nword: ' ${file} $$'\n")
    yard.put("b.txt.json", '{"word": "!"}')
    yard.put("c.yml", "times: 77\nfile: /etc/passwd\n")
    yard.put("lonely.yaml", "times: 2\n")
    yard.work("ticket: sidecar\nset: {times: 2}\n")
    found = yard.found()
    reason = found.pop("failed/c.txt.failed.txt")
    assert found == {
        "in/lonely.yaml": "times: 2\n",
        "out/a.txt": "ONEONEONE ${file} $$\n",
        "out/b.txt": "TWOTWO!\n",
        "out/d.txt": "FOURFOUR\n",
        "done/a.txt": "one",
        "done/a.yaml": "times: 3\nword: ' ${file} $$'\n",
        "done/b.txt": "two",
        "done/b.txt.json": '{"word": "!"}',
        "done/d.txt": "four",
        "failed/c.txt": "three",
        "failed/c.yml": "times: 77\nfile: /etc/passwd\n",
    }
    assert (
        "c.yml:1:8: error[bad-input]: input 'times' takes a whole number from 1 to 9, not 77"
        in reason
    )
    assert "c.yml:2:1: error[unknown-input]: a ticket cannot set 'file'" in reason


@pytest.mark.parametrize(
    "text",
    [
        "- 1",
        "a: &b 1",
        "times: !!int 3",
        "times: [",
        "{times: 2} }",
        "times: 2\ntimes: 3",
        "x" * 70_000,
        b"\xff\xfe",
        "times: 2.0",
        "[" * 100,
        "nothing: 1",
    ],
)
def test_bad_tickets(yard: Yard, text: str | bytes) -> None:
    """Whatever an invalid ticket contains, its file fails with a reason, and nothing else
    happens.
    """
    yard.drop(a="one")
    yard.put("a.yaml", text)
    yard.work("ticket: sidecar\n")
    assert set(yard.found()) == {"failed/a.txt", "failed/a.yaml", "failed/a.txt.failed.txt"}


def test_empty_ticket(yard: Yard) -> None:
    """An empty ticket sets nothing."""
    yard.drop(a="one")
    yard.put("a.yaml", "")
    yard.work("ticket: required\n")
    assert set(yard.found()) == {"out/a.txt", "done/a.txt", "done/a.yaml"}


def test_required_ticket(yard: Yard) -> None:
    """If a ticket is required, a file waits for it and is processed when it arrives."""
    yard.drop(a="one", b="two")
    yard.put("a.yaml", "times: 2")
    yard.work("ticket: required\n")
    assert yard.found() == {
        "in/b.txt": "two",
        "out/a.txt": "ONEONE\n",
        "done/a.txt": "one",
        "done/a.yaml": "times: 2",
    }
    running = yard.start(yard.line("ticket: required\n"))
    yard.put("b.yaml", "times: 3")
    until(lambda: ("done", "b.txt") in yard.events())
    running.close()
    assert yard.found("out")["out/b.txt"] == "TWOTWOTWO\n"


TICKETS = {
    # files; tickets with the number of repetitions that they set; for each file, its number of
    # repetitions, or a word of the reason
    "capitals": (["a.txt"], {"a.YAML": 2}, [2]),
    "capitals of the file": (["B.TXT"], {"b.yaml": 2}, [2]),
    "capitals and all": (["c.txt"], {"C.TXT.Json": 2}, [2]),
    "composed and decomposed": (["caf\u00e9.txt"], {"cafe\u0301.yml": 2}, [2]),
    "decomposed and composed": (["cafe\u0301.txt"], {"caf\u00e9.txt.yaml": 2}, [2]),
    "Straße": (["stra\u00dfe.txt"], {"STRASSE.yaml": 2}, [2]),
    "each its own case": (["a.txt", "A.txt"], {"a.yaml": 2, "A.yaml": 3}, [2, 3]),
    "each its own ending": (["a.txt", "a.md"], {"a.txt.yaml": 2, "a.yaml": 3}, [2, 3]),
    "whole name first": (["a.txt"], {"a.txt.yaml": 2, "a.yaml": 3}, [2]),
    "two endings": (
        ["a.txt"],
        {"a.yaml": 2, "a.json": 3},
        ["a.json and a.yaml may each be the ticket"],
    ),
    "two cases": (
        ["a.txt"],
        {"a.yaml": 2, "A.yaml": 3},
        ["A.yaml and a.yaml may each be the ticket"],
    ),
    "two files": (["a.txt", "A.TXT"], {"A.yaml": 2}, [1, 2]),
    "two files, neither nearer": (
        ["aB.txt", "Ab.txt"],
        {"ab.yaml": 2},
        ["may be for", "may be for"],
    ),
    "two forms": (["caf\u00e9.txt", "cafe\u0301.md"], {"caf\u00e9.yaml": 2}, [2, 1]),
    "somebody else's": (["a.txt"], {"b.yaml": 2, "a.b.yaml": 3, "aa.yaml": 4}, [1]),
}


@pytest.mark.parametrize("case", TICKETS)
@pytest.mark.parametrize("live", [False, True])
def test_tickets_by_any_name(yard: Yard, case: str, live: bool) -> None:
    """A ticket is found in any case and Unicode form; the one with the file's own case is
    preferred, and ambiguous ones are reported.
    """
    files, tickets, wanted = TICKETS[case]
    more = "ticket: sidecar\naccept: ['*.txt', '*.md']\noutputs: {loud: \"{item}.{ending}.txt\"}\n"
    running = yard.start(yard.line(more)) if live else None
    if running:
        until(running._watcher.scanned.is_set)
    for name, times in tickets.items():
        yard.put(name, json.dumps({"times": times}))
    for number, name in enumerate(files):
        yard.put(".new", f"<{number}>")
        os.rename(
            yard.root / "in/.new", yard.root / "in" / name
        )  # together with the others, before the first scan
    if running and not any(isinstance(one, str) for one in wanted):
        until(lambda: len(yard.events()) == len(files))
        running.close()
    else:
        if running:
            running.close()
        yard.work(more)
    found = yard.found("out", "failed")
    for number, one in enumerate(wanted):
        if isinstance(one, int):
            assert f"<{number}>" * one + "\n" in found.values()
        else:
            assert one in found[f"failed/{files[number]}.failed.txt"]
    used = [ticket for ticket in tickets if not (yard.root / "in" / ticket).exists()]
    assert bool(used) == any(one != 1 for one in wanted)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("link", "is a symbolic link, and is not read"),
        ("dangling", "is a symbolic link, and is not read"),
        ("fifo", "is not a regular file, and is not read"),
    ],
)
def test_a_ticket_that_is_no_file(yard: Yard, kind: str, words: str) -> None:
    """A ticket that is a link or a pipe is neither read nor skipped: its file fails and says
    why.
    """
    yard.put("b.dat", "times: 2")
    ticket = yard.root / "in/a.YAML"
    os.mkfifo(ticket) if kind == "fifo" else ticket.symlink_to(
        "b.dat" if kind == "link" else "nowhere"
    )
    yard.drop(a="one")
    yard.work("ticket: required\n")
    assert words in (yard.root / "failed/a.txt.failed.txt").read_text()
    assert yard.found("out") == {}


def test_a_ticket_by_a_followed_link(yard: Yard) -> None:
    """If the line follows links, a ticket may be one, and is moved along with its file."""
    yard.put("b.dat", "times: 2")
    (yard.root / "in/a.yaml").symlink_to("b.dat")
    yard.drop(a="one")
    yard.work("ticket: required\nlinks: followed\n")
    assert yard.found("out") == {"out/a.txt": "ONEONE\n"}
    assert (yard.root / "done/a.yaml").is_symlink()


def test_a_ticket_whose_place_is_taken(yard: Yard) -> None:
    """A ticket is moved with its file even if an older one has its name; otherwise it would apply
    to the next file.
    """
    for count in (2, 3):
        yard.put("a.yaml", f"times: {count}")
        yard.drop(a="one")
        yard.work("ticket: sidecar\n")
    yard.drop(a="two")
    yard.work("ticket: sidecar\n")
    assert sorted(yard.found("done")) == [
        "done/a-2.txt",
        "done/a-2.yaml",
        "done/a-3.txt",
        "done/a.txt",
        "done/a.yaml",
    ]
    assert yard.found("in", "out") == {"out/a.txt": "TWO\n"}


def test_retry_without_a_journal(yard: Yard) -> None:
    """After the journal was lost, status lists the files in `failed`, and retry moves them back."""
    yard.put("sub/a.txt", "bad")
    line = yard.work()
    shutil.rmtree(line.journal)
    result = status(line)
    assert (result["failed"], result["counts"], result["state"]) == ([], {}, "stopped")
    assert [
        (one["original"], "it is not what it should be" in one["reason"])
        for one in result["unknown"]
    ] == [("sub/a.txt", True)]
    assert retry(line, ["sub/*"]) == [("sub/a.txt", "sub/a.txt")]
    assert yard.found() == {"in/sub/a.txt": "bad"}


def test_retry_of_nothing(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    """A name or pattern that matches no failed file is an error, and lists the failed files."""
    yard.drop(a="bad")
    line = yard.work()
    for names, code, words in (
        (["nothing*"], 1, "there is no failed file 'nothing*'\n  = fix: failed files are: a.txt"),
        (["b.txt"], 1, "did you mean 'a.txt'?"),
        (["a.txt", "c*"], 1, "there are no failed files"),
        ([], 0, "0 files moved back"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["folder", "retry", str(line.path), *names])
        assert (ended.value.code, words in capsys.readouterr().err) == (code, True)
    assert yard.found() == {"in/a.txt": "bad"}


def test_status_as_a_health_check(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code of status says whether a line is running (0), not running (3), or waiting for a
    temporary problem (4); items of a killed process are not shown as being worked on.
    """

    def asked() -> tuple[object, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["folder", "status", str(yard.root / "line.yaml"), "--json"])
        return ended.value.code, json.loads(capsys.readouterr().out)[0]

    yard.drop(b="die")
    line = yard.line("retry: {backoff_s: 0}\n")
    assert asked()[0] == 3
    launch(yard, "run", "line.yaml", "--once").communicate(timeout=30)
    code, result = asked()
    assert (code, result["working"], [one["item"] for one in result["left"]]) == (3, [], ["b.txt"])
    (yard.root / "in/b.txt").unlink()
    running = yard.start(line)
    assert (asked()[0], asked()[1]["state"]) == (0, "running")
    os.rename(yard.root / "out", yard.root / "away")
    yard.drop(a="one")
    until(lambda: asked()[0] == 4)
    assert "the output folder is missing" in asked()[1]["trouble"]
    os.rename(yard.root / "away", yard.root / "out")
    until(lambda: asked()[0] == 0)
    os.rename(yard.root / "in", yard.root / "away")
    assert (asked()[0], asked()[1]["watched"]) == (4, False)
    os.rename(yard.root / "away", yard.root / "in")
    until(lambda: asked()[0] == 0)
    with running.journal.transaction() as db:
        db.execute("UPDATE worker SET beat=beat-1000")
    code, result = asked()
    assert (code, result["trouble"].startswith("its process has not responded for ")) == (4, True)
    running.close()
    assert asked()[0] == 3


@pytest.mark.parametrize(
    "number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES]
)
def test_without_locks(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """If the journal's file system has no locks, one process can run a line; its status says so,
    and a second process is refused with a message.
    """
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.fcntl

    def refuse(fd: int, command: int, *given: Any) -> Any:
        if command in (fcntl.F_SETLK, fcntl.F_SETLKW, getattr(fcntl, "F_OFD_SETLK", -1)):
            raise OSError(number, os.strerror(number))
        return real(fd, command, *given)

    def refuse_all(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse_all)
    monkeypatch.setattr(yard, "store", None)  # it was opened while there were locks
    yard.drop(a="one")
    line = yard.work()
    running = yard.start(line)
    with pytest.raises(SystemExit) as ended:
        main(["folder", "status", str(line.path)])
    assert (
        ended.value.code,
        f"one process at a time can use it, and process {os.getpid()} of"
        in capsys.readouterr().out,
    ) == (0, True)
    with pytest.raises(JournalError, match="one process at a time can use it"):
        yard.start(line)
    yard.drop(b="two")
    until(lambda: len(yard.found("done")) == 2)
    running.close()
    assert status(line)["state"] == "stopped"
    assert yard.found() == {
        "out/a.txt": "ONE\n",
        "out/b.txt": "TWO\n",
        "done/a.txt": "one",
        "done/b.txt": "two",
    }


def test_retry_with_its_ticket(yard: Yard) -> None:
    """A failed file that is retried takes its ticket along, whatever its case."""
    yard.put("A.YAML", "times: 77")
    yard.drop(a="one")
    line = yard.work("ticket: sidecar\n")
    assert set(yard.found()) == {"failed/a.txt", "failed/A.YAML", "failed/a.txt.failed.txt"}
    assert retry(line) == [("a.txt", "a.txt")]
    assert set(yard.found()) == {"in/a.txt", "in/A.YAML"}


def test_a_ticket_for_two(yard: Yard) -> None:
    """A ticket that may belong to either of two files is used for neither."""
    yard.put("x.txt", "one")
    yard.put("x.md", "two")
    yard.put("x.yaml", "times: 2")
    yard.work("ticket: sidecar\naccept: ['*.txt', '*.md']\n")
    found = yard.found()
    assert set(found) == {
        "failed/x.txt",
        "failed/x.txt.failed.txt",
        "failed/x.md",
        "failed/x.md.failed.txt",
        "failed/x.yaml",
    }
    assert "the ticket x.yaml may be for" in found["failed/x.md.failed.txt"]


def test_paths_in_a_ticket(yard: Yard) -> None:
    """A ticket may name a file in the watched folder, and nothing else, by no spelling and no
    link.
    """
    graph = GRAPH.replace(
        '  word: ""', '  word: ""\n  second: {type: file, default: ./toys.py}'
    ).replace(
        "outputs:",
        '  more: {type: toy.shout, file: "${second}"}\noutputs:\n  more: {from: "${more}", path: "{item}-more.txt", provenance: none}',
    )
    (yard.root / "secret.txt").write_text("secret")
    (yard.root / "in-secret").mkdir()
    (yard.root / "in-secret/secret.txt").write_text("secret")
    (yard.root / "in/way").symlink_to(yard.root)
    yard.put("second.dat", "here")
    yard.put("sub/good.txt", "x")
    yard.put("sub/good.yaml", "second: ../second.dat")
    bad = [
        "../secret.txt",
        str(yard.root / "secret.txt"),
        "way/secret.txt",
        "~/x",
        "",
        ".",
        "sub/../../secret.txt",
        "../in-secret/secret.txt",
        "nul\\0.txt",
    ]
    for number, path in enumerate(bad):
        yard.put(f"bad{number}.txt", f"x{number}")
        yard.put(f"bad{number}.yaml", json.dumps({"second": path}))
    yard.work("ticket: sidecar\nallow: [second, times]\n", graph=graph)
    found = yard.found("out", "failed")
    assert found["out/sub/good-more.txt"] == "HERE\n"
    assert [name for name in found if name.startswith("out/bad")] == []
    assert sorted(name for name in found if name.endswith(".failed.txt")) == [
        f"failed/bad{n}.txt.failed.txt" for n in range(len(bad))
    ]
    assert "SECRET" not in str(found).replace("secret", "")


@pytest.mark.parametrize(("bytes_more", "words"), [(0, []), (1, ["64 KiB"])])
def test_a_long_ticket(yard: Yard, bytes_more: int, words: list[str]) -> None:
    """A ticket is read completely or not at all."""
    yard.drop(a="one")
    text = "times: 2\nword: '!'\n"
    yard.put("a.yaml", text + "#" * (MAX_BYTES - len(text) + bytes_more))
    yard.work("ticket: sidecar\n")
    assert yard.found("out") == ({} if words else {"out/a.txt": "ONEONE!\n"})
    reason = yard.found("failed").get("failed/a.txt.failed.txt", "")
    assert [word for word in words if word in reason] == words


@pytest.mark.parametrize("links", [False, True])
def test_a_ticket_that_has_become_a_link(yard: Yard, links: bool) -> None:
    """A ticket that became a link is followed if the line follows links."""
    (yard.root / "secret.yaml").write_text("times: 3")
    ticket = yard.root / "in/a.yaml"
    ticket.symlink_to(yard.root / "secret.yaml")
    graph = make_recipe(yard.line(), yard.registry).graph
    read = partial(read_ticket, ticket, graph, allowed=["times"], inbox=yard.root / "in")
    if links:
        assert read(links=True) == {"times": 3}
    else:
        with pytest.raises(OSError, match="symbolic links"):
            read(links=False)


# -- settling


def journal_at(folder: Path, clock: list[float], **options: Any) -> Journal:
    folder.mkdir(exist_ok=True)
    return Journal(folder, clock=lambda: clock[0], **options)


def test_settling(tmp_path: Path) -> None:
    """A file settles once its size and time have not changed for the configured time, by a
    monotonic clock; each change restarts the wait.
    """
    now = [100.0]
    journal = journal_at(tmp_path / "j", now)
    form = {"x": "[1, 1, 1]"}

    def look(path: str) -> FoundFile | None:
        return FoundFile(path, form[path], 0) if path in form else None

    def settled() -> int:
        return journal.settle(2.0, look, lambda *_: True)

    journal.record([FoundFile("x", form["x"], 0)])
    assert (settled(), journal.seconds_to_next_check(2.0)) == (0, 2.0)
    now[0] += 1.9
    assert settled() == 0
    form["x"] = "[2, 1, 1]"  # it grew without an event
    now[0] += 0.2
    assert settled() == 0
    now[0] += 1.9
    assert settled() == 0
    journal.record([FoundFile("x", "[2, 2, 1]", 0)])  # its time changed
    form["x"] = "[2, 2, 1]"
    now[0] += 1.9
    assert settled() == 0
    now[0] += 0.2
    assert settled() == 1
    journal.record([FoundFile("x", "[3, 3, 1]", 0)])  # replaced while it waits
    assert journal.claim("oldest", kills=3, busy=False) is None
    form.clear()
    now[0] += 5
    assert (settled(), journal.count_by_state()) == (0, {"gone": 1})
    journal.close()


@pytest.mark.parametrize(
    "time_s", [-(2**31), -1, 0, 2**31, 2**33, 9_223_372_037, 15_032_385_535, 2**40]
)
def test_times_of_any_year(yard: Yard, time_s: int) -> None:
    """A file is processed whatever its time: before 1970, far in the future, or beyond 64 bits of
    nanoseconds.
    """
    for name in ("a", "b"):
        yard.drop(**{name: name})
        with contextlib.suppress(OSError):
            os.utime(yard.root / f"in/{name}.txt", (time_s, time_s))
    yard.work()
    assert yard.found() == {
        "out/a.txt": "A\n",
        "out/b.txt": "B\n",
        "done/a.txt": "a",
        "done/b.txt": "b",
    }
    assert (yard.root / "done/a.txt").stat().st_mtime == (yard.root / "done/b.txt").stat().st_mtime


def test_time_beyond_64_bits(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time in the year 9999, which some file systems can store, breaks neither the journal nor
    the cache of digests.
    """
    far = 253_370_764_800 * 10**9

    def dated(call: Callable[..., os.stat_result]) -> Callable[..., Any]:
        def called(path: Any, *given: Any, **more: Any) -> Any:
            found = call(path, *given, **more)
            return (
                os.stat_result(
                    (*found[:8], far // 10**9, *found[9:]), {"st_mtime_ns": far, "st_ctime_ns": far}
                )
                if str(path).endswith(".txt")
                else found
            )

        return called

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, dated(getattr(os, name)))
    yard.drop(a="one")
    yard.work()
    assert yard.found() == {"out/a.txt": "ONE\n", "done/a.txt": "one"}
    with contextlib.closing(FileDigests(yard.root)) as memo:
        assert memo.digest_file(yard.root / "done/a.txt") == memo.digest_file(
            yard.root / "done/a.txt"
        )


def test_placeholder(yard: Yard) -> None:
    """An empty file is not complete: one that gets content later is read then, and only one that
    stays empty for `empty_s` is processed as it is. `--once` does not wait for it.
    """
    yard.drop(a="", b="two")
    line = yard.work("settle_s: 0.05\n")
    assert yard.found() == {"in/a.txt": "", "out/b.txt": "TWO\n", "done/b.txt": "two"}
    assert (
        [result["count"] for result in yard.log if result["event"] == "left"]
        == [1]
        == [status(line)["unready"]]
    )
    running = yard.start(line)
    yard.drop(a="one", c="")
    until(lambda: ("done", "a.txt") in yard.events())
    running.close()
    assert yard.found("in", "failed") == {"in/c.txt": ""}
    running = yard.start(yard.line("empty_s: 0.3\nsettle_s: 0\n"))
    until(lambda: ("done", "c.txt") in yard.events())
    running.close()
    yard.put("d.txt.ready", "")
    yard.drop(d="")
    yard.work("sentinel: .ready\n")
    assert yard.found("out")["out/d.txt"] == "\n"


def test_many_placeholders(tmp_path: Path) -> None:
    """Empty files delay no others, and each waits from its own last change."""
    now = [100.0]
    journal = journal_at(tmp_path / "j", now)
    journal.record(
        [FoundFile(f"{number}", "[0, 1, 1]", 0, empty=True) for number in range(600)], settled=True
    )
    now[0] += 1
    journal.record([FoundFile("full", "[1, 1, 1]", 0)])
    now[0] += 5

    def settled() -> int:
        return journal.settle(
            2.0,
            lambda path: FoundFile(
                path, "[1, 1, 1]" if path == "full" else "[0, 1, 1]", 0, empty=path != "full"
            ),
            lambda seen, still_s: not seen.empty or still_s >= 60,
            limit=500,
        )

    assert settled() + settled() == 1
    assert journal.count_active() == 1
    assert journal.seconds_to_next_check(2.0) == 1.0
    now[0] += 60
    assert settled() + settled() == 600
    journal.close()


def test_slow_copy(yard: Yard) -> None:
    """A file that is copied slowly is read when it is complete."""
    running = yard.start(yard.line("settle_s: 0.4\n"))
    with open(yard.root / "in/a.txt", "w") as stream:
        for part in ("one ", "two ", "three ", "four"):
            stream.write(part)
            stream.flush()
            time.sleep(0.15)
    until(lambda: yard.events())
    running.close()
    assert yard.calls == ["one two three four"]


def test_sentinel(yard: Yard) -> None:
    """With a sentinel, a file waits for it however long it is unchanged, is processed when it
    arrives, and takes it along.
    """
    yard.drop(a="one", b="two")
    yard.put("a.txt.ready", "")
    yard.work("sentinel: .ready\nsettle_s: 0.05\n")
    assert yard.found() == {"in/b.txt": "two", "out/a.txt": "ONE\n", "done/a.txt": "one"}
    running = yard.start(yard.line("sentinel: .ready\nsettle_s: 3600\n"))
    yard.put("b.txt.ready", "")
    until(lambda: ("done", "b.txt") in yard.events())
    running.close()
    assert yard.found("in") == {}


def test_sentinel_by_any_name(yard: Yard) -> None:
    """A sentinel matches in any case and Unicode form; of two files that differ only in case, the
    one with its own case is meant.
    """
    for name in ("A.TXT", "b.txt", "caf\u00e9.txt", "B.txt"):
        yard.put(name, name)
    for name in ("a.txt.ready", "B.txt.READY", "cafe\u0301.txt.Ready"):
        yard.put(name, "")
    yard.work("sentinel: .ready\naccept: '*'\n")
    assert yard.found("in") == {"in/b.txt": "b.txt"}
    running = yard.start(yard.line("sentinel: .ready\nsettle_s: 3600\n"))
    yard.put("b.TXT.Ready", "")
    until(lambda: ("done", "b.txt") in yard.events())
    running.close()
    assert yard.found("in") == {}


def gated(gate: Path) -> str:
    return GRAPH.replace(
        'loud: {type: toy.shout, file: "${file}", times: "${times}", word: "${word}"}',
        f'loud: {{type: toy.wait, file: "${{file}}", gate: "{gate}"}}',
    ).replace('  times: {type: int, default: 1, min: 1, max: 9}\n  word: ""\n', "")


def test_replaced_while_running(yard: Yard) -> None:
    """A file that is replaced while being processed gives the outputs of its last version, and only
    that is archived.
    """
    gate = yard.root / "gate"
    yard.drop(a="one")
    running = yard.start(yard.line(graph=gated(gate)))
    until(lambda: Path(f"{gate}.reached").exists())
    aside = yard.put(".new", "two")
    os.replace(aside, yard.root / "in/a.txt")
    gate.touch()
    until(lambda: ("done", "a.txt") in yard.events())
    running.close()
    assert yard.found() == {"out/a.txt": "two\n", "done/a.txt": "two"}


def test_taken_away_while_running(yard: Yard) -> None:
    """A file that is removed while being processed leaves nothing behind."""
    gate = yard.root / "gate"
    yard.drop(a="one")
    running = yard.start(yard.line(graph=gated(gate)))
    until(lambda: Path(f"{gate}.reached").exists())
    (yard.root / "in/a.txt").unlink()
    gate.touch()
    until(lambda: ("gone", "a.txt") in yard.events())
    running.close()
    assert yard.found() == {}


def test_many_at_once(yard: Yard) -> None:
    """Files that arrive while the line runs, many at once and in new folders, are all found."""
    running = yard.start(yard.line("concurrency: 2\n"))
    for number in range(60):
        yard.put(f"{number % 7}/{number}.txt", str(number))
    until(lambda: len(yard.events("done")) == 60)
    running.close()
    assert len(yard.found("out")) == len(yard.found("done")) == 60
    assert yard.found("in", "failed") == {}


TOGETHER = GRAPH.replace(
    "outputs:", '  quiet: {type: toy.together, text: "${loud}"}\noutputs:'
).replace('from: "${loud}"', 'from: "${quiet}"')


def test_waiting_items_run_together(yard: Yard) -> None:
    """What waits is processed together, at most as many items as `group` says: node types that take
    many items at once get them. The log of each item is that of the item alone.
    """
    for number in range(5):
        yard.drop(**{f"f{number}": f"One{number}"})
    yard.work("group: 3\npriority: name\n", graph=TOGETHER)
    # The first group is also computed one by one, to see that they agree.
    assert [call for call in yard.calls if call[1:] == " together" and call[0] != "1"] == [
        "3 together",
        "2 together",
    ]
    assert yard.found("out") == {f"out/f{number}.txt": f"one{number}\n" for number in range(5)}
    ends = [event for event in yard.log if event["event"] == "done"]
    assert [(end["item"], end["ran"], end["cached"], end["outputs"]) for end in ends] == [
        (f"f{number}.txt", 2, 0, [f"f{number}.txt"]) for number in range(5)
    ]
    yard.drop(g="One0", h="One0")
    yard.work("group: 1\n", graph=TOGETHER)
    ends = [event for event in yard.log if event["event"] == "done"]
    assert [(end["ran"], end["cached"]) for end in ends[5:]] == [(0, 2), (0, 2)]


def test_a_group_with_a_bad_item(yard: Yard) -> None:
    """What fails in a group fails alone, with a reason that names no other item: a node, a ticket,
    a value that does not fit.
    """
    yard.drop(a="one", b="fail", c="odd", d="four", e="five", f="six")
    yard.put("d.yaml", "times: 99")
    yard.put("e.yaml", "times: 2")
    yard.work("ticket: sidecar\npriority: name\n", graph=TOGETHER)
    assert {
        name: text for name, text in yard.found("out", "failed").items() if "failed.txt" not in name
    } == {
        "out/a.txt": "one\n",
        "out/e.txt": "fivefive\n",
        "out/f.txt": "six\n",
        "failed/b.txt": "fail",
        "failed/c.txt": "odd",
        "failed/d.txt": "four",
        "failed/d.yaml": "times: 99",
    }
    reasons = {
        name: (yard.root / f"failed/{name}.txt.failed.txt").read_text().splitlines()[2]
        for name in "bcd"
    }
    assert reasons["b"].endswith(": loud: RuntimeError: it cannot be done")
    assert reasons["c"].endswith(": quiet: it is odd")
    assert "'times'" in reasons["d"]


@pytest.mark.parametrize(
    ("exists", "out", "failed"),
    [("error", {"out/x.txt": "A\n"}, 1), ("number", {"out/x.txt": "A\n", "out/x-2.txt": "B\n"}, 0)],
)
def test_a_group_with_equal_names(
    yard: Yard, exists: str, out: dict[str, str], failed: int
) -> None:
    """Two files of a group whose outputs have one name do not replace each other: the second fails,
    or gets a number, as it does after the first.
    """
    yard.put("a/x.txt", "a")
    yard.put("b/x.txt", "b")
    yard.work("folders: flattened\npriority: name\n", graph=GRAPH.replace("replace", exists))
    assert yard.found("out") == out
    reasons = [text for name, text in yard.found("failed").items() if name.endswith("failed.txt")]
    assert len(reasons) == failed
    assert all("output 'loud' is not written" in text for text in reasons)


def test_stopping_in_a_group(yard: Yard) -> None:
    """A line that is asked to stop finishes the item that it is working on, and returns the others
    of the group to the queue, as if they had not been claimed.
    """
    gate = yard.root / "gate"
    yard.drop(a="one", b="two", c="three")
    line = yard.line("priority: name\n", graph=gated(gate))
    running = yard.start(line)
    until(lambda: Path(f"{gate}.reached").exists())
    assert status(line)["counts"] == {"running": 3}
    running.stop()
    gate.touch()
    running.close()
    assert yard.found() == {
        "out/a.txt": "one\n",
        "done/a.txt": "one",
        "in/b.txt": "two",
        "in/c.txt": "three",
    }
    assert status(line)["counts"] == {"done": 1, "settled": 2}
    with contextlib.closing(sqlite3.connect(line.journal / "journal.sqlite")) as db:
        assert db.execute("SELECT DISTINCT tries, kills, owner FROM item").fetchall() == [
            (0, 0, None)
        ]


def test_files_that_change_in_a_group(yard: Yard) -> None:
    """A file that is replaced or removed while its group runs is processed in its last version, or
    gone; the others are not affected.
    """
    gate = yard.root / "gate"
    yard.drop(a="one", b="two", c="three", d="four")
    running = yard.start(yard.line("priority: name\n", graph=gated(gate)))
    until(lambda: Path(f"{gate}.reached").exists())
    os.replace(yard.put(".new", "other"), yard.root / "in/b.txt")
    (yard.root / "in/c.txt").unlink()
    gate.touch()
    until(lambda: len(yard.events("done", "gone")) == 4)
    running.close()
    assert sorted(yard.events()) == [
        ("done", "a.txt"),
        ("done", "b.txt"),
        ("done", "d.txt"),
        ("gone", "c.txt"),
    ]
    assert yard.found("out", "failed") == {
        "out/a.txt": "one\n",
        "out/b.txt": "other\n",
        "out/d.txt": "four\n",
    }


def test_what_is_claimed_together(yard: Yard) -> None:
    """A worker claims its share of what waits, never an item that has killed a process, nor one
    behind it, and one at a time if the first crash quarantines.
    """
    running = RunningLine(
        make_recipe(yard.line("group: 4\npriority: name\n"), yard.registry), Resources()
    )
    journal = running.journal
    names = [f"{number}.txt" for number in range(10)]
    journal.record([FoundFile(name, "[1,1,1]", 0) for name in names], settled=True)
    with journal.transaction() as db:
        db.execute("UPDATE item SET kills=1 WHERE path=?", (b"6.txt",))

    def claim() -> list[str]:
        return [item.path.removesuffix(".txt") for item in running._claim()]

    assert claim() == ["0", "1", "2", "3"]
    journal.register()
    other = Journal(running.line.journal)
    other.register()
    assert claim() == ["4", "5"]
    assert claim() == ["6"]
    assert running._exclusive
    other.close()
    running.line = replace(running.line, kills=1)
    assert claim() == ["7"]
    assert {item.state for item in journal.items(["running"])} == {"running"}
    assert len(journal.items(["running"])) == 8
    running.close()


@pytest.mark.parametrize("poll", [False, True])
def test_folder_that_vanishes(yard: Yard, poll: bool) -> None:
    """If the watched folder disappears, the line waits; when it is back, its files are found, by
    events or by polling.
    """
    running = yard.start(yard.line(f"poll: {str(poll).lower()}\npoll_s: 0.1\n"))
    yard.drop(a="one")
    until(lambda: ("done", "a.txt") in yard.events())
    os.rename(yard.root / "in", yard.root / "away")
    (yard.root / "away/b.txt").write_text("two")
    time.sleep(0.7)
    os.rename(yard.root / "away", yard.root / "in")
    until(lambda: ("done", "b.txt") in yard.events())
    yard.drop(c="three")
    until(lambda: ("done", "c.txt") in yard.events())
    running.close()
    assert running.fault is None


def test_out_that_vanishes(yard: Yard) -> None:
    """If the output folder disappears, no file fails: the line waits, and continues when it is
    back. It is not recreated, since it may be an unmounted share.
    """
    line = yard.line()
    running = yard.start(line)
    os.rename(yard.root / "out", yard.root / "away")
    yard.drop(a="one")
    until(lambda: yard.events("waiting"))
    assert not (yard.root / "out").exists()
    os.rename(yard.root / "away", yard.root / "out")
    until(lambda: ("done", "a.txt") in yard.events())
    running.close()
    assert yard.found() == {"out/a.txt": "ONE\n", "done/a.txt": "one"}
    assert yard.events("resumed") == [("resumed", "")]


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("out", errno.EROFS),
        ("out", errno.EIO),
        ("out", errno.EDQUOT),
        ("done", errno.EROFS),
        ("done", errno.ESTALE),
        ("failed", errno.EIO),
        ("failed", errno.ENOSPC),
        ("in", errno.EIO),
        ("in", errno.ESTALE),
    ],
)
def test_a_disk_that_fails(yard: Yard, where: str, number: int) -> None:
    """While a folder of the line returns disk errors, the line waits and says so, and no original
    moves to `failed`; afterwards everything is done.
    """
    running = yard.start(yard.line("retry: {backoff_s: 0}\nconcurrency: 2\npriority: name\n"))
    until(lambda: running._watcher.scanned.is_set())
    rename = os.rename
    with refusing(
        number, yard.root / where, writes_only=number != errno.EIO and where != "in"
    ) as mended:
        for name, text in (("a", "one"), ("b", "bad"), ("c", "three")):
            (yard.root / name).write_text(text)
            rename(yard.root / name, yard.root / f"in/{name}.txt")
        until(lambda: yard.events("waiting") or where == "in")
        mended.set()
    until(lambda: len(yard.events("done", "failed")) == 3)
    running.close()
    assert running.fault is None
    found = yard.found()
    assert found.pop("failed/b.txt.failed.txt")
    assert found == {
        "out/a.txt": "ONE\n",
        "out/c.txt": "THREE\n",
        "done/a.txt": "one",
        "done/c.txt": "three",
        "failed/b.txt": "bad",
    }


def test_a_bad_sector(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read while others can fails; while none can be read, the line waits."""
    broken = {"b.txt"}
    opened = os.open

    def faulty(path: Any, *given: Any, **more: Any) -> int:
        if os.path.basename(os.fspath(path)) in broken and given[0] & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return opened(path, *given, **more)

    monkeypatch.setattr(os, "open", faulty)
    yard.drop(a="one", b="two", c="three")
    yard.work("retry: {backoff_s: 0}\n")
    assert yard.events("done", "failed") == [
        ("done", "a.txt"),
        ("done", "c.txt"),
        ("failed", "b.txt"),
    ]
    assert "input/output error" in (yard.root / "failed/b.txt.failed.txt").read_text()
    broken.update({"d.txt", "e.txt"})
    running = yard.start(yard.line("retry: {backoff_s: 0}\n"))
    yard.drop(d="four", e="five")
    until(lambda: len(yard.events("waiting")) >= 3)
    broken.clear()
    until(lambda: len(yard.events("done")) == 4)
    running.close()
    assert len(yard.found("failed")) == 2


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EACCES]
)
@pytest.mark.parametrize("where", ["in", "out", "line.journal", "store", "line.yaml", "graph.yaml"])
def test_a_disk_that_fails_at_the_start(
    yard: Yard, where: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a disk error keeps a line from starting, it ends with the exit code that asks for a
    restart and says why; if only a person can fix the error, it ends with 1.
    """
    line = yard.line()
    for folder in (line.journal, yard.root / "store"):
        folder.mkdir()
    with refusing(number, yard.root / where), pytest.raises(SystemExit) as ended:
        main(
            [
                "folder",
                "run",
                str(line.path),
                "--once",
                "--store",
                str(yard.root / "store"),
                "--plugin",
                str(yard.root / "toys.py"),
            ]
        )
    assert (ended.value.code in (1, 2)) == (number == errno.EACCES)
    assert ended.value.code == 75 or number == errno.EACCES
    result = capsys.readouterr().err
    assert os.strerror(number).lower() in result.lower()
    assert "Traceback" not in result


def test_what_a_new_try_may_mend(tmp_path: Path) -> None:
    """A full, read-only or busy database asks for a restart; a damaged or newer one does not."""

    def failing(*statements: str) -> JournalError:
        with contextlib.closing(
            sqlite3.connect(tmp_path / f"{len(statements)}.sqlite", isolation_level=None)
        ) as db:
            try:
                for statement in statements:
                    db.execute(statement)
            except sqlite3.Error as failed:
                error = JournalError("it cannot be used")
                error.__cause__ = failed
                return error
        raise AssertionError(statements)

    assert is_temporary_error(
        failing(
            "CREATE TABLE x(y)",
            "PRAGMA max_page_count=1",
            "INSERT INTO x VALUES (zeroblob(100000))",
        )
    )
    assert is_temporary_error(failing("PRAGMA query_only=1", "CREATE TABLE x(y)"))
    assert not is_temporary_error(failing("CREATE TABLE"))
    (tmp_path / "1.sqlite").write_bytes(
        b"no database at all, but long enough to be looked at" * 100
    )
    assert not is_temporary_error(failing("SELECT * FROM sqlite_master"))
    assert not is_temporary_error(JournalError("newer"))


@pytest.mark.parametrize("where", ["in", "out", "done", "failed"])
def test_a_share_that_is_unmounted(yard: Yard, where: str) -> None:
    """While a share is unmounted, the line waits: nothing is written to the empty folder in its
    place, and its files do not count as gone.
    """
    (yard.root / "behind").mkdir()
    line = yard.line("retry: {backoff_s: 0}\n")
    for folder in (line.out, line.done, line.failed):
        folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "none", yard.root / "behind"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting is not allowed here")
    bind = ["mount", "--bind", yard.root / "behind", yard.root / where]
    try:
        subprocess.run(bind, check=True)
        running = yard.start(line)
        yard.drop(first="one")
        until(lambda: ("done", "first.txt") in yard.events())
        subprocess.run(["umount", "-l", yard.root / where], check=True)
        inbox = yard.root / ("behind" if where == "in" else "in")
        (inbox / "a.txt").write_text("two")
        (inbox / "b.txt").write_text("bad")
        until(lambda: yard.events("waiting", "watching"))
        until(lambda: status(line)["state"] == "waiting")
        assert list((yard.root / where).iterdir()) == []
        subprocess.run(bind, check=True)
        until(lambda: len(yard.events("done", "failed")) == 3)
        running.close()
        found = yard.found()
        assert (found["out/a.txt"], found["done/a.txt"], found["failed/b.txt"]) == (
            "TWO\n",
            "two",
            "bad",
        )
    finally:
        for place in (where, "behind"):
            subprocess.run(["umount", "-l", yard.root / place], capture_output=True, check=False)


def test_an_original_that_cannot_move(yard: Yard) -> None:
    """An original that cannot be moved waits with its outputs published; the others continue, and
    it is not processed again once it can move.
    """
    (yard.root / "done").mkdir()
    (yard.root / "done/sub").write_text("in the way")
    yard.put("sub/a.txt", "one")
    yard.drop(b="two", c="three")
    running = yard.start(yard.line("retry: {backoff_s: 0}\npriority: name\n"))
    until(
        lambda: ("waiting", "sub/a.txt") in yard.events("waiting") and len(yard.events("done")) == 2
    )
    assert yard.found("in", "out") == {
        "in/sub/a.txt": "one",
        "out/b.txt": "TWO\n",
        "out/c.txt": "THREE\n",
        "out/sub/a.txt": "ONE\n",
    }
    (yard.root / "done/sub").unlink()
    until(lambda: ("done", "sub/a.txt") in yard.events())
    running.close()
    assert yard.found("in", "done") == {
        "done/b.txt": "two",
        "done/c.txt": "three",
        "done/sub/a.txt": "one",
    }
    assert yard.calls.count("one") == 1


# -- workers


def test_two_workers(yard: Yard) -> None:
    """Two workers share a line without processing an item twice."""
    for number in range(30):
        yard.put(f"{number}.txt", f"{number}")
    line = yard.line()
    both = [yard.start(line), yard.start(line)]
    until(lambda: len(yard.events("done")) >= 30)
    for running in both:
        running.close()
    assert sorted(yard.calls, key=int) == [str(n) for n in range(30)]
    assert len(yard.found("done")) == len(yard.found("out")) == 30


def test_leases(tmp_path: Path) -> None:
    """An item belongs to its worker while it renews its lease; then others may take it, and changes
    of the former owner are refused.
    """
    now = [100.0]
    one, two = (journal_at(tmp_path / "j", now, lease_s=10.0, boot="b") for _ in range(2))
    one.register()
    two.register()
    one.record([FoundFile("x", "[1,1,1]", 0)], settled=True)
    item = one.claim("oldest", kills=3, busy=False)
    assert item is not None
    assert two.claim("oldest", kills=3, busy=False) is None
    now[0] += 9
    one.renew()
    now[0] += 9
    assert two.claim("oldest", kills=3, busy=False) is None
    now[0] += 2
    again = two.claim("oldest", kills=3, busy=False)
    assert again is not None and (again.id, again.kills) == (item.id, 0)
    with pytest.raises(Exception, match="x"):
        one.stage(item, [], [], "x", digest="d", recipe="r")
    assert two.stage(again, [], [], "x", digest="d", recipe="r")
    one.close()
    two.close()


def test_a_long_item_keeps_its_lease(yard: Yard) -> None:
    """A worker that is busy for longer than its lease renews it in time."""
    gate, now = yard.root / "gate", [1000.0]
    yard.drop(a="one")
    line = yard.line("lease_s: 30\n", graph=gated(gate))
    running = yard.start(line, clock=lambda: now[0])
    until(Path(f"{gate}.reached").exists)

    def lease() -> float:
        with contextlib.closing(sqlite3.connect(line.journal / "journal.sqlite")) as db:
            return float(db.execute("SELECT lease FROM item").fetchone()[0])

    assert lease() == 1030
    for later in (1011, 1022, 1033):
        now[0] = later
        until(lambda: lease() == now[0] + 30)
    gate.touch()
    until(lambda: yard.events("done"))
    running.close()


def test_what_no_event_told_of_is_found_by_a_look_at_the_folder(yard: Yard) -> None:
    """The folder is rescanned every minute, whatever events were reported."""
    now = [1000.0]
    yard.drop(a="one")
    running = yard.start(yard.line("poll: true\npoll_s: 86400\n"), clock=lambda: now[0])
    until(lambda: yard.events("done") == [("done", "a.txt")])
    yard.drop(b="two")
    now[0] += 61
    until(lambda: yard.events("done") == [("done", "a.txt"), ("done", "b.txt")])
    running.close()


def test_the_wait_for_a_trouble_to_pass_doubles_up_to_half_a_minute(yard: Yard) -> None:
    """While the output folder is missing, the line retries with doubling waits; the next problem
    starts with the shortest.
    """
    now, waits = [1000.0], [0.5, 1, 2, 4, 8, 16, 30, 30]
    running = yard.start(yard.line(), clock=lambda: now[0])
    expected: list[float] = []
    for name in ("a", "b"):
        os.rename(yard.root / "out", yard.root / "away")
        yard.put(f"{name}.txt", name)
        for wait_s in waits:
            expected.append(wait_s)
            now[0] += 31
            until(lambda: len(yard.events("waiting")) == len(expected))
        os.rename(yard.root / "away", yard.root / "out")
        now[0] += 31
        until(lambda name=name: ("done", f"{name}.txt") in yard.events())
    running.close()
    assert [result["wait_s"] for result in yard.log if result["event"] == "waiting"] == expected


def test_what_a_worker_leaves_when_it_ends_is_anyones(tmp_path: Path) -> None:
    """An item of a worker that ends is started again by the next one, and does not count as a
    kill.
    """
    now = [100.0]
    one, two = (journal_at(tmp_path / "j", now, boot="b") for _ in range(2))
    one.register()
    two.register()
    one.record([FoundFile("x", "[1,1,1]", 0)], settled=True)
    item = one.claim("oldest", kills=1, busy=False)
    assert item is not None
    one.close()
    again = two.claim("oldest", kills=1, busy=False)
    assert again is not None
    assert (again.id, again.state, again.kills) == (item.id, "running", 0)
    two.close()


def test_what_waits_for_something_is_looked_at_when_a_line_starts(tmp_path: Path) -> None:
    """Waiting files are inspected when a line starts: what they wait for may have arrived, or may
    no longer be required.
    """
    now, seen = [100.0], FoundFile("x", "[1,1,1]", 0)
    one, two = (journal_at(tmp_path / "j", now, boot="b") for _ in range(2))
    one.record([seen])
    assert one.settle(0, lambda _: seen, lambda *_: False) == 0
    assert (one.count_active(), one.count_unready()) == (0, 1)
    two.register()
    assert (two.count_active(), two.count_unready()) == (1, 0)
    assert two.settle(0, lambda _: seen, lambda *_: True) == 1
    one.close()
    two.close()


def test_a_line_is_in_trouble_while_somebody_alive_says_so(yard: Yard) -> None:
    """A problem reported by a worker that has ended is over; as long as one of several workers
    responds, the silence of another is not a problem of the line.
    """
    line = yard.line()
    yard.work()
    with contextlib.ExitStack() as stack:
        one, two = (Journal(line.journal, lease_s=line.lease_s) for _ in range(2))
        for journal in (one, two):
            stack.callback(journal.close)
            journal.register()

        def trouble(one_s: float, two_s: float) -> str:
            """What the line is in trouble with, so many seconds after either was heard of."""
            for token, silent_s in ((one.token, one_s), (two.token, two_s)):
                with one.transaction() as db:
                    beat = time.monotonic() - silent_s
                    db.execute("UPDATE worker SET beat=? WHERE token=?", (beat, token))
            return str(status(line)["trouble"])

        assert trouble(0, 0) == ""
        assert trouble(100, 0) == ""
        assert trouble(100, 200) == "its process has not responded for 100 s"
        for token, result in (("ended", ""), (two.token, "the disk is full")):
            one.write_note("trouble", json.dumps({"worker": token, "reason": "the disk is full"}))
            assert trouble(0, 0) == result


def test_a_ticket_that_comes_within_a_tick_of_the_clock_is_seen(yard: Yard) -> None:
    """A folder's names are listed again as long as its time could hide a change."""
    line = yard.line("ticket: sidecar\n")
    intake, inbox = Intake(line), yard.root / "in"
    yard.drop(a="one")
    at = os.stat(inbox)
    assert intake.companions.find_tickets("a.txt") == []
    yard.put("a.yaml", "times: 2")
    os.utime(inbox, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert intake.companions.find_tickets("a.txt") == ["a.yaml"]


def test_a_file_that_was_written_over_is_another(yard: Yard) -> None:
    """A file with the same inode and size but another time is a new version; a copy with another
    inode is the same if its content is.
    """
    intake, place = Intake(yard.line()), yard.put("a.txt", "one")
    seen = intake.inspect("a.txt")
    assert seen is not None
    assert intake.is_unchanged(seen.fingerprint, place, None)
    at = os.stat(place)
    copy = yard.put("copy.txt", "one")
    os.utime(copy, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert not intake.is_unchanged(seen.fingerprint, copy, None)
    assert not intake.is_unchanged(seen.fingerprint, copy, "0" * 40)
    assert intake.is_unchanged(seen.fingerprint, copy, digest_bytes(b"one"))
    place.write_text("two")
    os.utime(place, ns=(at.st_atime_ns, at.st_mtime_ns + 1))
    assert not intake.is_unchanged(seen.fingerprint, place, None)


def test_an_original_that_another_worker_moves_is_no_orphan(yard: Yard) -> None:
    """An original in the course of moving is restored only if no worker is going to finish the
    move.
    """
    line = yard.line()
    yard.work()
    journal = Journal(line.journal)
    journal.register()
    journal.record([FoundFile("a.txt", "[1,1,1]", 0)], settled=True)
    item = journal.claim("name", kills=3, busy=False)
    assert item is not None
    moving = yard.put(f".imagen_flow-{journal.name}-{item.id}.taken.txt", "one")
    assert list(Intake(line).orphans(journal)) == [moving]
    journal.mark_placed(item)
    assert list(Intake(line).orphans(journal)) == []
    journal.close()


def test_two_items_do_not_take_one_name(tmp_path: Path) -> None:
    """The second item with an output name has to choose another until the first has published its
    output.
    """
    journal = journal_at(tmp_path / "j", [100.0], boot="b")
    journal.register()
    journal.record([FoundFile(name, "[1,1,1]", 0) for name in "ab"], settled=True)
    one, two = (journal.claim("name", kills=3, busy=False) for _ in range(2))
    assert one is not None and two is not None
    assert journal.stage(one, [], ["out.txt"], "a", digest="1", recipe="r")
    assert not journal.stage(two, [], ["out.txt"], "b", digest="2", recipe="r")
    journal.mark_placed(one)
    assert journal.stage(two, [], ["out.txt"], "b", digest="2", recipe="r")
    journal.close()


def test_a_file_that_can_never_be_read_is_to_blame_in_the_end(tmp_path: Path) -> None:
    """An unreadable file is at fault at once if others can be read meanwhile, and after twenty
    attempts otherwise.
    """
    journal = journal_at(tmp_path / "j", [100.0], boot="b")
    journal.register()
    journal.record([FoundFile("a", "[1,1,1]", 0)], settled=True)
    item = journal.claim("name", kills=3, busy=False)
    assert item is not None
    history = ReadHistory()
    assert [history.blames_item(item) for _ in range(22)] == [False] * 20 + [True, False]
    history.add_success()
    assert history.blames_item(item)
    journal.close()


def test_what_a_process_died_of_is_worked_on_alone(tmp_path: Path) -> None:
    """An item that killed a process is processed alone, and no later item is started, so that no
    other is blamed.
    """
    now = [100.0]
    journal = journal_at(tmp_path / "j", now, boot="b")
    journal.record([FoundFile("a", "[1,1,1]", 0), FoundFile("b", "[1,1,1]", 1)], settled=True)
    with journal.transaction() as db:
        db.execute("UPDATE item SET kills=1 WHERE path=?", (b"a",))
    assert journal.claim("oldest", kills=3, busy=True) is None
    item = journal.claim("oldest", kills=3, busy=False)
    assert item is not None
    assert (item.path, item.kills) == ("a", 1)
    journal.close()


def test_a_file_that_is_another_begins_with_all_its_tries(tmp_path: Path) -> None:
    """A new version of a file starts without the retries and kills of the previous one."""
    journal = journal_at(tmp_path / "j", [100.0], boot="b")
    journal.register()
    seen = FoundFile("x", "[1,1,1]", 0)
    journal.record([seen], settled=True)
    with journal.transaction() as db:
        db.execute("UPDATE item SET tries=2, kills=1")
    item = journal.claim("oldest", kills=3, busy=False)
    assert item is not None
    journal.mark_changed(item)
    assert [journal.settle(0, lambda _: seen, lambda *_: True) for _ in range(2)] == [0, 1]
    again = journal.claim("oldest", kills=3, busy=False)
    assert again is not None
    assert (again.id, again.tries, again.kills) == (item.id, 0, 0)
    journal.close()


def test_the_last_items_are_remembered_however_old(tmp_path: Path) -> None:
    """Of the items that ended long ago, the newest are kept, as are failed and active ones."""
    journal = journal_at(tmp_path / "j", [100.0], boot="b")
    journal.register()
    journal.record([FoundFile(name, "[1,1,1]", 0) for name in "abcdefg"], settled=True)
    for state in ("failed", "done", "done", "done", "done", "failed"):
        item = journal.claim("name", kills=3, busy=False)
        assert item is not None
        journal.finish(item, state, kept=None)
    journal.forget(3600, keep=2)
    assert journal.count_by_state() == {"done": 4, "failed": 2, "settled": 1}
    journal.forget(-60, keep=2)
    assert journal.count_by_state() == {"done": 2, "failed": 2, "settled": 1}
    assert [item.path for item in journal.items(["done"])] == ["e", "d"]
    journal.forget(-60, keep=1)
    assert [item.path for item in journal.items(["done"])] == ["e"]
    journal.close()


def test_an_output_that_is_another_was_not_put_in_place(tmp_path: Path) -> None:
    """Whether a rename was carried out is decided by the content of the target."""
    place = tmp_path / "out.txt"
    step = {
        "do": "put",
        "temporary": str(tmp_path / "gone.tmp"),
        "to": str(place),
        "digest": blake2b(b"mine", digest_size=16).hexdigest(),
    }
    assert not steps_are_intact([step])
    place.write_bytes(b"mine")
    assert steps_are_intact([step])
    place.write_bytes(b"another's")
    assert not steps_are_intact([step])


def test_a_change_while_a_file_is_looked_at_is_not_lost(tmp_path: Path) -> None:
    """A file that changes between its inspection and the record that it has settled has not
    settled.
    """
    now = [100.0]
    journal = journal_at(tmp_path / "j", now, boot="b")
    before, after = FoundFile("x", "[1,1,1]", 0), FoundFile("x", "[2,2,2]", 0)
    journal.record([before])

    def look(_: str) -> FoundFile:
        journal.record([after])
        return before

    assert journal.settle(0, look, lambda *_: True) == 0
    assert journal.settle(0, lambda _: after, lambda *_: True) == 1
    journal.close()


def test_restarted_host(tmp_path: Path) -> None:
    """After a restart of the host, whose clock starts again, times of the old clock have
    expired.
    """
    now = [1_000_000.0]
    journal = journal_at(tmp_path / "j", now, boot="one")
    journal.register()
    journal.record([FoundFile("x", "[1,1,1]", 0), FoundFile("y", "[1,1,1]", 0)], settled=True)
    journal.record([FoundFile("z", "[1,1,1]", 0)])
    first = journal.claim("name", kills=3, busy=False)
    assert first is not None
    journal.requeue(first, wait_s=500.0)
    journal.close()
    now[0] = 5.0
    journal = journal_at(tmp_path / "j", now, boot="two")
    journal.register()
    again = journal.claim("name", kills=3, busy=False)
    assert again is not None and again.path == "x"
    assert journal.seconds_to_next_check(2.0) == 2.0
    journal.close()


def test_sweeping(tmp_path: Path) -> None:
    """Temporary files of dead workers are deleted; those of living workers, those in a journal, and
    those of others are not.
    """
    journal, living = (journal_at(tmp_path / "j", [1.0], boot="b") for _ in range(2))
    for one in (journal, living):
        one.register()
    (tmp_path / "out").mkdir()
    journal.add_temporary_folder(tmp_path / "out")
    journal.record([FoundFile("x", "[1,1,1]", 0)], settled=True)
    item = journal.claim("name", kills=3, busy=False)
    assert item is not None
    spoken = tmp_path / "out/.imagen_flow-dead00000000-2.tmp"
    journal.stage(
        item,
        [{"do": "put", "temporary": str(spoken), "to": str(tmp_path / "out/x"), "digest": ""}],
        [],
        "x",
        digest="d",
        recipe="r",
    )
    keep = [
        spoken,
        tmp_path / f"out/.imagen_flow-{living.token}-1.tmp",
        tmp_path / "out/.imagen_flow-0123456789abcdef.tmp",
        tmp_path / "out/x.tmp",
    ]
    for path in (*keep, tmp_path / "out/.imagen_flow-dead00000000-1.tmp"):
        path.write_text("x")
    assert sweep(journal, LocalDisk()) == 1
    assert set((tmp_path / "out").iterdir()) == set(keep)
    journal.close()
    living.close()


def test_free_names(tmp_path: Path) -> None:
    """An original gets a name that replaces nothing, cut between characters if it is too long."""
    for name in ("x.png", "y.png.failed.txt", "z.png"):
        (tmp_path / name).touch()
    names = [
        free_name(tmp_path, path, [".failed.txt"], lambda kept: kept == "z-2.png")
        for path in ("x.png", "y.png", "z.png", "a/b.png")
    ]
    assert names == ["x-2.png", "y-2.png", "z-3.png", "a/b.png"]
    long = [
        free_name(tmp_path, f"{'é' * 120}{i}.png", [".failed.txt"], lambda _: False)
        for i in range(2)
    ]
    assert long[0] != long[1]
    assert all(len(os.fsencode(name)) <= 200 and name.endswith(".png") for name in long)


def test_journal_places(tmp_path: Path) -> None:
    """A journal that cannot be used says why, and how to fix it."""
    (tmp_path / "j").mkdir()
    (tmp_path / "j/journal.sqlite").write_bytes(
        b"no database at all, but long enough to be looked at" * 100
    )
    with pytest.raises(JournalError, match="file is not a database"):
        Journal(tmp_path / "j")
    with pytest.raises(StoreError, match="make it writable"):
        Journal(tmp_path / "nowhere/j")
    newer = Journal(tmp_path / "n")
    newer.close()
    with sqlite3.connect(tmp_path / "n/journal.sqlite") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalError, match="newer imagen_flow"):
        Journal(tmp_path / "n")


def test_journal_is_durable(tmp_path: Path) -> None:
    """The journal uses WAL, and every commit is synced."""
    journal = Journal(tmp_path / "j")
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.close()


def test_a_lost_journal(yard: Yard) -> None:
    """Without its journal, a line processes again what is in its folder, and an original that was
    being moved comes back under a name that says so.
    """
    yard.drop(a="one")
    (yard.root / "in/.imagen_flow-0123abcd-7.taken.txt").write_text("two")
    yard.work()
    assert yard.found() == {
        "out/a.txt": "ONE\n",
        "done/a.txt": "one",
        "out/restored-imagen_flow-0123abcd-7.txt": "TWO\n",
        "done/restored-imagen_flow-0123abcd-7.txt": "two",
    }


# -- notices


def test_notify(yard: Yard) -> None:
    """A command and a URL are notified of each finished item; a command that fails or hangs delays
    nothing.
    """
    heard: list[dict[str, Any]] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = yard.root / "told"
    yard.drop(a="one", b="fail")
    yard.work(
        f'notify: {{command: ["sh", "-c", "cat >> {told}"], url: "http://127.0.0.1:{server.server_port}/x"}}\npriority: name\n'
    )
    server.shutdown()
    server.server_close()
    assert [(result["event"], result["item"]) for result in heard] == [
        ("done", "a.txt"),
        ("failed", "b.txt"),
    ]
    assert [json.loads(line)["item"] for line in told.read_text().splitlines()] == [
        "a.txt",
        "b.txt",
    ]
    began = time.monotonic()
    yard.drop(c="three", d="four")
    yard.work('notify: {command: ["sh", "-c", "sleep 60 & sleep 60"], timeout_s: 0.2}\n')
    assert len(yard.found("done")) == 3
    assert time.monotonic() - began < 20
    yard.drop(e="five")
    yard.work('notify: {command: ["/no/such/thing"]}\n')
    assert "FileNotFoundError" in next(
        result["reason"] for result in reversed(yard.log) if result["event"] == "notify-failed"
    )


def test_log(yard: Yard) -> None:
    """The log has one JSON object per line, with the result of each item."""
    yard.drop(a="one")
    line = yard.work()
    result = [json.loads(text) for text in line.log.read_text().splitlines()]
    assert [one["event"] for one in result] == ["started", "seen", "done", "stopped"]
    assert (result[2]["item"], result[2]["outputs"], result[2]["original"], result[2]["line"]) == (
        "a.txt",
        ["a.txt"],
        str(yard.root / "done/a.txt"),
        "line",
    )


# -- the command line


def launch(yard: Yard, *words: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "imagen_flow",
        "folder",
        *words,
        "--store",
        str(yard.store.folder),
        "--plugin",
        str(yard.root / "toys.py"),
    ]
    return subprocess.Popen(
        command, cwd=yard.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def working(yard: Yard, pid: int) -> bool:
    return (yard.root / "line.journal/journal.sqlite").exists() and pid in [
        w["pid"] for w in status(read_line(yard.root / "line.yaml"))["workers"]
    ]


def test_term(yard: Yard) -> None:
    """On SIGTERM, a line returns the item that it cannot finish in time to the queue, and ends with
    0; the next process finishes it.
    """
    gate = yard.root / "gate"
    yard.drop(a="one")
    yard.line("stop_s: 0.1\n", graph=gated(gate))
    process = launch(yard, "run", "line.yaml")
    until(lambda: Path(f"{gate}.reached").exists())
    process.send_signal(signal.SIGTERM)
    result, _ = process.communicate(timeout=30)
    assert (process.returncode, yard.found()) == (0, {"in/a.txt": "one"}), result
    assert status(read_line(yard.root / "line.yaml"))["counts"] == {"settled": 1}
    gate.touch()
    process = launch(yard, "run", "line.yaml", "--once")
    result, _ = process.communicate(timeout=30)
    assert (process.returncode, yard.found()) == (0, {"out/a.txt": "one\n", "done/a.txt": "one"}), (
        result
    )


def test_a_worker_that_stands_still(yard: Yard) -> None:
    """A worker that does not respond for longer than its lease loses its item to another, notices
    when it continues, and changes nothing.
    """
    gate = yard.root / "gate"
    reached = Path(f"{gate}.reached")
    yard.drop(a="one")
    yard.line("lease_s: 1\n", graph=gated(gate))
    first = launch(yard, "run", "line.yaml", "--json", "--no-store")
    until(reached.exists)
    first.send_signal(signal.SIGSTOP)
    reached.unlink()
    second = launch(yard, "run", "line.yaml", "--json", "--no-store")
    until(reached.exists)
    gate.touch()
    until(lambda: yard.found("done"))
    found = yard.found()
    first.send_signal(signal.SIGCONT)
    log = yard.root / "line.journal/log.jsonl"
    until(lambda: '"lost"' in log.read_text())
    for process in (first, second):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (0, 0)
    assert yard.found() == found == {"out/a.txt": "one\n", "done/a.txt": "one"}
    assert [
        result["item"]
        for result in map(json.loads, log.read_text().splitlines())
        if result["event"] == "done"
    ] == ["a.txt"]
    assert list(yard.root.rglob(".imagen_flow-*")) == []


def test_lines_in_a_chain(yard: Yard) -> None:
    """One process runs several lines, and the outputs of one are processed by another; provenance
    and temporary files are not.
    """
    yard.line("out: ./between\n", graph=GRAPH.replace(", provenance: none, exists: replace", ""))
    (yard.root / "between").mkdir()
    (yard.root / "second.yaml").write_text(
        LINE.replace("in: ./in", "in: ./between")
        .replace("./done", "./done2")
        .replace("./failed", "./failed2")
        + 'set: {times: 2}\noutputs: {loud: "{item}-twice.txt"}\n'
    )
    yard.drop(a="one", bad="fail")
    yard.put("sub/b.txt", "two")
    process = launch(yard, "run", "line.yaml", "second.yaml")
    until(lambda: len(list((yard.root / "done2").rglob("*.txt"))) == 2 and yard.found("failed"))
    process.send_signal(signal.SIGTERM)
    result, _ = process.communicate(timeout=30)
    assert process.returncode == 0, result
    assert {
        name: text
        for name, text in yard.found("out", "done2", "failed2").items()
        if "provenance" not in name
    } == {
        "out/a-twice.txt": "ONE\nONE\n",
        "out/sub/b-twice.txt": "TWO\nTWO\n",
        "done2/a.txt": "ONE\n",
        "done2/sub/b.txt": "TWO\n",
    }


def test_poison(yard: Yard) -> None:
    """A file that kills the process three times is quarantined with that reason; the others are
    done.
    """
    yard.drop(a="one", b="die", c="three")
    yard.line("priority: name\n")
    codes = []
    for _ in range(5):
        process = launch(yard, "run", "line.yaml", "--once")
        process.communicate(timeout=30)
        codes.append(process.returncode)
        if process.returncode >= 0:
            break
    assert codes == [-9, -9, -9, 1]
    found = yard.found()
    assert "the process died 3 times while processing this file" in found.pop(
        "failed/b.txt.failed.txt"
    )
    assert found == {
        "out/a.txt": "ONE\n",
        "out/c.txt": "THREE\n",
        "done/a.txt": "one",
        "done/c.txt": "three",
        "failed/b.txt": "die",
    }


def test_again(yard: Yard) -> None:
    """If the journal cannot be written any more, the line ends with the exit code that asks for a
    restart; no file is lost.
    """
    gate = yard.root / "gate"
    yard.drop(a="one")
    yard.line(graph=gated(gate))
    process = launch(yard, "run", "line.yaml", "--json")
    until(lambda: Path(f"{gate}.reached").exists())
    with sqlite3.connect(yard.root / "line.journal/journal.sqlite", timeout=30) as db:
        db.execute("DROP TABLE output")
    db.close()
    gate.touch()
    result, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert [json.loads(line)["event"] for line in result.splitlines() if line.startswith("{")][
        -2:
    ] == ["fault", "stopped"]
    assert yard.found("in", "out", "done", "failed").keys() == {"in/a.txt"}


def test_status_drain_and_retry(yard: Yard) -> None:
    """`status` shows the state of a line, `drain` lets its processes finish and stop, `retry`
    retries failed files.
    """
    yard.drop(a="one", bad="fail")
    line = yard.line("priority: name\n")
    process = launch(yard, "run", "line.yaml")
    until(lambda: len(yard.found("done", "failed")) == 3)
    until(lambda: working(yard, process.pid))
    asked = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "folder", "status", "line.yaml", "--json"],
        cwd=yard.root,
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(asked.stdout)[0]
    assert (
        result["line"],
        result["counts"],
        [w["pid"] for w in result["workers"]],
        result["working"],
    ) == (
        "line",
        {"done": 1, "failed": 1},
        [process.pid],
        [],
    )
    assert (result["failed"][0]["item"], "it cannot be done" in result["failed"][0]["reason"]) == (
        "bad.txt",
        True,
    )
    drained = launch(yard, "drain", "line.yaml")
    assert drained.communicate(timeout=30)[0] == "asked 1 process to finish and stop\n"
    assert (drained.returncode, process.wait(30)) == (0, 0)
    process.communicate()
    assert status(line)["draining"] is False
    yard.drop(later="four")
    shown = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "folder", "retry", "line.yaml"],
        cwd=yard.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == ("bad.txt\n", "1 file moved back\n")
    assert set(yard.found("in")) == {"in/bad.txt", "in/later.txt"}
    drained = launch(yard, "drain", "line.yaml")
    drained.communicate(timeout=30)
    assert drained.returncode == 1, "what is retried is queued, and fails again"
    assert set(yard.found("in", "failed")) == {
        "in/later.txt",
        "failed/bad.txt",
        "failed/bad.txt.failed.txt",
    }


def test_drain_without_a_process(yard: Yard) -> None:
    """`drain` processes the queue itself if no process runs the line, and accepts nothing new."""
    line = yard.line()
    journal = Journal(line.journal)
    place = yard.put("a.txt", "one")
    found = place.stat()
    journal.record(
        [FoundFile("a.txt", json.dumps([found.st_size, found.st_mtime_ns, found.st_ino]), 0)]
    )
    journal.close()
    yard.drop(b="two")
    process = launch(yard, "drain", "line.yaml")
    result, _ = process.communicate(timeout=30)
    assert (process.returncode, yard.found()) == (
        0,
        {"in/b.txt": "two", "out/a.txt": "ONE\n", "done/a.txt": "one"},
    ), result
    again = launch(yard, "drain", "line.yaml")
    assert (again.communicate(timeout=30)[0], again.returncode) == ("nothing is queued\n", 0)


def test_light(yard: Yard) -> None:
    """A line of trivial nodes does not import torch."""
    yard.drop(a="one")
    yard.line()
    code = f"""
import sys
from imagen_flow._cli import main
try:
    main(["folder", "run", "line.yaml", "--once", "--store", {str(yard.store.folder)!r}, "--plugin", "toys.py"])
except SystemExit as left:
    assert left.code == 0, left.code
print(sorted({{"torch", "diffusers", "transformers"}} & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=yard.root, capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines()[-1] == "[]", result


# -- what is said of it

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "graphs/lines").glob("*.yaml")))
def test_lines_that_come_along(yard: Yard, name: str) -> None:
    """The lines shipped with the project fit their graphs."""
    shutil.copytree(ROOT / "graphs", yard.root / "graphs")
    (yard.root / "graphs/lines/in").mkdir()
    make_recipe(read_line(yard.root / "graphs/lines" / name), yard.registry)


def test_the_line_that_enlarges(yard: Yard) -> None:
    """The line of the README enlarges a picture, by the factor in its ticket."""
    from PIL import Image

    shutil.copytree(ROOT / "graphs", yard.root / "graphs")
    lines = yard.root / "graphs/lines"
    (lines / "in").mkdir()
    Image.new("RGB", (8, 6), "red").save(lines / "in/a.png")
    Image.new("RGB", (8, 6), "red").save(lines / "in/b.jpg")
    Image.new("RGB", (8, 6), "red").save(lines / "in/b.tif")
    (lines / "in/b.jpg.yaml").write_text("scale: 2")
    running = RunningLine(
        make_recipe(read_line(lines / "enlarge.yaml"), yard.registry),
        Resources(store=yard.store),
        once=True,
        on_event=yard.log.append,
    )
    running.start()
    assert running.wait(60)
    running.close()
    sizes = {}
    for place in (lines / "out").iterdir():
        with Image.open(place) as picture:
            sizes[place.name] = picture.size
    assert (
        sizes == {"a.png.png": (32, 24), "b.jpg.png": (16, 12), "b.tif.png": (32, 24)}
        and [result for result in yard.log if result["event"] == "warning"] == []
    )
    assert sorted(p.name for p in (lines / "done").iterdir()) == [
        "a.png",
        "b.jpg",
        "b.jpg.yaml",
        "b.tif",
    ]


def test_what_an_image_is_built_from() -> None:
    """The build context of the container has the sources of the wheel, and neither the history, nor
    an environment, nor outputs.
    """
    from pathspec import GitIgnoreSpec

    left_out = GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text("utf-8").splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [
        *wheel["only-include"],
        project["project"]["readme"],
        *project["project"]["license-files"],
        "pyproject.toml",
        "constraints.txt",
    ]
    files = [
        path.relative_to(ROOT).as_posix()
        for name in needed
        for path in [ROOT / name, *(ROOT / name).rglob("*")]
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(files) > 100
    assert [name for name in files if left_out.match_file(name)] == []
    assert all(
        map(
            left_out.match_file,
            (
                ".git/HEAD",
                ".venv/bin/python",
                "tests/test_folder.py",
                "out/x.png",
                "imagen_flow/__pycache__/x.pyc",
                "secret.env",
            ),
        )
    )


@pytest.mark.parametrize(
    "name", ["Containerfile", "imagen-flow-folder@.service", "imagen-flow-folder@.container"]
)
def test_commands_of_services(name: str) -> None:
    """Services and containers call existing commands with existing options, and are restarted only
    where that may help.
    """
    text = (ROOT / "docs/deploy" / name).read_text("utf-8")
    called = re.findall(
        r"^(?:HEALTHCHECK .*?CMD|CMD exec|ExecStart=|HealthCmd=)\s*(?:/opt/imagen-flow/bin/)?imagen-flow (.*?)(?: \|\| exit 1)?$",
        text,
        re.MULTILINE,
    )
    assert len(called) == (2 if name == "Containerfile" else 1)
    for command in called:
        group, command_name, *words = shlex.split(command)
        command_group = import_module(f"imagen_flow._cli.{group}").folder
        command_group.commands[command_name].make_context(command_name, words)
    if name != "Containerfile":
        assert "Restart=on-failure\n" in text and "RestartPreventExitStatus=1 2\n" in text


def test_the_line_of_the_service(yard: Yard) -> None:
    """The line in the service file can be read, except for its folders."""
    text = (ROOT / "docs/deploy/imagen-flow-folder@.service").read_text("utf-8")
    line = re.search(r"(#   imagen_flow_folder: 1\n(?:#   .*\n)+)", text)
    assert line is not None
    written = re.sub(r"^#   ", "", line[1], flags=re.MULTILINE)
    assert re.findall(r"^\w+: [^/\n]*$", written, re.MULTILINE) == [
        "imagen_flow_folder: 1",
        'outputs: {picture: "{item}.{ending}.png"}',
    ]
    (yard.root / "line.yaml").write_text(
        re.sub(r"/(srv/pictures|var/lib/imagen-flow)", str(yard.root), written).replace(
            "/etc/imagen-flow/graphs", str(ROOT / "graphs")
        )
    )
    make_recipe(read_line(yard.root / "line.yaml"), yard.registry)


def test_documents() -> None:
    """The guide names every key of a line, and its example can be read, except for its folders."""
    text = (ROOT / "docs/hot-folders.md").read_text("utf-8")
    told = set(re.findall(r"`(\w+)`", text.partition("## Keys")[2].partition("## Names")[0])) | set(
        re.findall(r"^(\w+):", text, re.MULTILINE)
    )
    assert KEYS.keys() - told == set()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / "docs" / target).exists()


def test_two_workers_open_a_new_journal_one_after_the_other(tmp_path: Path) -> None:
    """A worker waits while another one creates the journal: SQLite itself refuses at once where a
    new file is being switched to its write-ahead log.
    """
    folder = tmp_path / "j"
    folder.mkdir()
    opened = threading.Event()

    def open_journal() -> None:
        Journal(folder).close()
        opened.set()

    creating = Claims(folder / "locks")
    worker = threading.Thread(target=open_journal)
    with creating.opening(0):
        worker.start()
        assert not opened.wait(0.3)
        assert not (folder / "journal.sqlite").exists()
    worker.join()
    creating.close()
    assert opened.is_set()
