"""`imagen-flow watch` as a process: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120

NODES = """
import os, time
from imagen_flow import Progress, Steps, Text, node

@node("toy.loud", version=1)
def loud(text: Text) -> Text:
    return text.upper()

@node("toy.slow", version=1)
def slow(text: Text) -> Steps[Text]:
    for i in range(100_000):
        yield Progress(i, 100_000)
        time.sleep(0.01)
    return text
"""

GRAPH = 'imagen_flow: 1\nnodes: {a: {type: toy.loud, text: "WORD"}}\noutputs: {file: {from: "${a}", path: "{graph}.txt"}}\n'


class Process:
    """A running command whose output is read as it comes."""

    def __init__(self, folder: Path, *arguments: str, terminal: bool = False) -> None:
        self.text = {"out": "", "err": ""}
        ours = theirs = None
        if terminal:
            ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imagen_flow", "watch", "--plugin", "nodes.py", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=theirs or subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
        )
        if theirs is not None:
            os.close(theirs)
        assert self.process.stdout is not None
        self.ends = {
            self.process.stdout.fileno(): "out",
            ours if ours is not None else self.process.stderr.fileno(): "err",
        }  # type: ignore[union-attr]

    def until(self, *wanted: str, stream: str = "err") -> str:
        """Read until all of these patterns stand in what was printed since the last call; give it."""
        until = time.monotonic() + PATIENCE_S
        while not all(re.search(w, self.text[stream], re.MULTILINE) for w in wanted):
            if time.monotonic() > until or not self.read(1.0):
                pytest.fail(f"not printed: {wanted}, only: {self.text}")
        given, self.text[stream] = self.text[stream], ""
        return given

    def read(self, patience_s: float) -> bool:
        ready, _, _ = select.select(list(self.ends), [], [], patience_s)
        for end in ready:
            try:
                data = os.read(end, 65536)
            except OSError:  # the other end of the terminal is closed
                data = b""
            if not data:
                del self.ends[end]
            self.text.setdefault(self.ends.get(end, "gone"), "")
            if data:
                self.text[self.ends[end]] += data.decode()
        return bool(self.ends)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < until:
            self.read(0.05)
        while self.ends and self.read(0.0) and select.select(list(self.ends), [], [], 0.0)[0]:
            pass
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    (tmp_path / "nodes.py").write_text(NODES)
    save(tmp_path / "g.yaml", GRAPH)
    begun: list[Process] = []

    def begin(*arguments: str, **options: Any) -> Process:
        begun.append(Process(tmp_path, *arguments, **options))
        return begun[-1]

    yield begin
    for process in begun:
        process.process.kill()
        process.process.wait()
        for stream in (process.process.stdout, process.process.stderr):
            if stream is not None:
                stream.close()


def save(path: Path, text: str) -> None:
    aside = path.with_name(".aside")
    aside.write_text(text)
    os.replace(aside, path)


def test_plain_lines(tmp_path: Path, start: Any) -> None:
    """Without a terminal, each event is a line: changes, steps that ran, steps from the store;
    results go to standard output.
    """
    process = start("g.yaml")
    first = process.until(r"^done in", r"watching \d+ paths? for changes$")
    assert re.search(r"^✓ a  [\d.]+ s$", first, re.MULTILINE)
    assert process.until(r"file  out/g.txt$", stream="out") == "file  out/g.txt\n"
    save(tmp_path / "g.yaml", GRAPH.replace("WORD", "again"))
    result = process.until(r"^done in .*: 1 step ran, 0 from the store$")
    assert re.match(r"\d\d:\d\d:\d\d changed: g.yaml\n", result)
    save(tmp_path / "g.yaml", GRAPH.replace("toy.loud", "toy.lowd"))
    result = process.until(r"its last outputs stay$")
    assert "error[unknown-node-type]: no plugin provides the node type 'toy.lowd'" in result
    assert (tmp_path / "out/g.txt").read_text() == "AGAIN\n"
    save(tmp_path / "g.yaml", GRAPH.replace("WORD", "again"))
    assert "  1 step from the store\n" in process.until(
        r"^done in .*: 0 steps ran, 1 from the store$"
    )
    assert process.end(signal.SIGINT) == 130
    assert "Traceback" not in process.text["err"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_json_events(tmp_path: Path, start: Any, number: int, code: int) -> None:
    """With --json-events, each event is a line of JSON on standard output and there is nothing
    else; a signal ends the run and the watcher cleanly.
    """
    process = start("g.yaml", "--json-events")
    lines = [
        json.loads(line)
        for line in process.until(r'^{"event": "waiting".*}$', stream="out").splitlines()
    ]
    assert [line["event"] for line in lines] == [
        "planned",
        "run_started",
        "step_started",
        "step_finished",
        "output_written",
        "run_finished",
        "waiting",
    ]
    save(tmp_path / "g.yaml", GRAPH.replace("toy.loud", "toy.slow"))
    process.until(r'^{"event": "step_progress"', stream="out")
    assert process.end(number) == code
    lines = [
        json.loads(line)
        for line in process.text["out"].splitlines()
        if line.startswith('{"event": "run_f')
    ]
    assert [line["status"] for line in lines] == ["cancelled"]
    assert process.text["err"] == ""


def test_live_view(tmp_path: Path, start: Any) -> None:
    """On a terminal, an animated line says that watching continues; past events stay above it."""
    process = start("g.yaml", terminal=True)
    process.until(r"watching \d+ paths for changes · press Ctrl-C to stop")
    save(tmp_path / "g.yaml", GRAPH.replace("WORD", "again"))
    result = process.until(
        r"changed: g.yaml",
        r"done in .*: 1 step ran",
        r"watching \d+ paths for changes · press Ctrl-C to stop",
    )
    assert "✓ a" in result
    assert process.end(signal.SIGINT) == 130


def test_a_change_during_a_run_is_seen_beside_its_bars(tmp_path: Path, start: Any) -> None:
    """On a terminal, changes and their problems are printed above the bars of the current run."""
    save(tmp_path / "g.yaml", GRAPH.replace("toy.loud", "toy.slow"))
    process = start("g.yaml", terminal=True)
    process.until(r"0 of 1 step")
    save(tmp_path / "g.yaml", "nodes: [")
    process.until(r"changed: g.yaml", r"error\[", r"its last outputs stay", r"0 of 1 step")
    save(tmp_path / "g.yaml", GRAPH)
    process.until(
        r"changed: g.yaml \(stopping the run\)", r"interrupted in", r"done in .*: 1 step ran"
    )
    assert process.end(signal.SIGINT) == 130
    assert "Traceback" not in process.text["err"]


def test_a_slow_run_is_restarted(tmp_path: Path, start: Any) -> None:
    """A change during a run reports that it stops the run."""
    save(tmp_path / "g.yaml", GRAPH.replace("toy.loud", "toy.slow"))
    process = start("g.yaml", "--json-events")
    process.until(r'^{"event": "step_progress"', stream="out")
    save(tmp_path / "g.yaml", GRAPH)
    result = process.until(r'^{"event": "waiting"', stream="out")
    assert '"cancels": true' in result
    assert '"status": "cancelled"' in result
    assert (tmp_path / "out/g.txt").read_text() == "WORD\n"


def test_what_is_not_there_ends_it_at_once(tmp_path: Path, start: Any) -> None:
    """A missing graph or plugin and an invalid command line are reported at once with exit code
    2.
    """
    for arguments, words in (
        (("no.yaml",), "'no.yaml' does not exist"),
        (("g.yaml", "--plugin", "no.py"), "there is no file 'no.py'"),
        ((), "Missing argument"),
        (("g.yaml", "--settle", "-1"), "--settle"),
    ):
        process = start(*arguments)
        assert process.process.wait(PATIENCE_S) == 2
        process.read(1.0)
        assert words in process.text["err"]
