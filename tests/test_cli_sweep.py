"""Sweeps on the command line: what is printed, where, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imagen_flow import _cli as cli

NODES = '''
"""Toy nodes."""
import time
from pathlib import Path
from imagen_flow import Seed, Text, node

@node("toy.lucky", version=1)
def lucky(prompt: Text, *, seed: Seed) -> Text:
    """Say a prompt and a seed."""
    if prompt == "fail":
        raise ValueError("cannot do 'fail'")
    return f"{prompt} {seed}"

@node("toy.slow", version=1)
def slow(prompt: Text, *, seed: Seed) -> Text:
    """Take a while at seed 3, and say so."""
    if seed == 3 and not Path("go").exists():
        Path("here").touch()
        time.sleep(30)
    return f"{prompt} {seed}"
'''

GRAPH = """\
# Lucky words.
imagen_flow: 1
inputs:
  prompt: a fox
  seed: {type: seed, default: 7}
nodes:
  words: {type: toy.lucky, prompt: "${prompt}", seed: "${seed}"}
outputs:
  words: {from: "${words}", path: "{prompt}-{seed}.txt"}
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes and a graph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    (tmp_path / "g.yaml").write_text(GRAPH)
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process; it knows the toy nodes."""

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as exited:
            cli.main([*arguments, "--plugin", "nodes.py"])
        return Result(int(exited.value.code or 0), *capsys.readouterr())

    return call


def timeless(text: str) -> str:
    return re.sub(r"\d+\.\d+ s", "T s", text)


def test_a_few_items_are_printed_with_their_files(call: Call) -> None:
    """Each output of a small sweep has a line, and the index has one."""
    done = call("run", "g.yaml", "--sweep", "seed=1..2")
    assert (done.code, done.out) == (
        0,
        "seed=1  words  out/a fox-1.txt\n"
        "seed=2  words  out/a fox-2.txt\n"
        "out/index.jsonl  2 items\n",
    )
    assert timeless(done.err) == (
        "✓ words seed=1  T s\n"
        "✓ words seed=2  T s\n"
        "done in T s: 2 items, 2 steps ran, 0 from the store\n"
    )


def test_the_files_of_a_list_have_a_line_each(call: Call, folder: Path) -> None:
    """In the order of the graph, as without a sweep; a list without a path is printed as a value."""
    (folder / "list.yaml").write_text(
        "imagen_flow: 1\ninputs:\n  seed: {type: seed, default: 7}\nnodes:\n"
        '  words: {type: toy.lucky, each: {prompt: [a, b]}, seed: "${seed}"}\n'
        'outputs:\n  files: {from: "${words}", path: "{index}.txt"}\n  words: "${words}"\n'
    )
    done = call("run", "list.yaml", "--sweep", "seed=3")
    assert done.out.splitlines() == [
        "seed=3  files[0]  out/seed=3-0.txt",
        "seed=3  files[1]  out/seed=3-1.txt",
        'seed=3  words  ["a 3", "b 3"]',
        "out/index.jsonl  1 item",
    ]


def test_a_plan_says_how_many_steps_remain_of_how_many(call: Call) -> None:
    """After some items ran, the plan of more counts what is cached and what is to run."""
    call("run", "g.yaml", "--sweep", "seed=1..2")
    plan = call("plan", "g.yaml", "--sweep", "seed=1..5", "--sweep", "prompt=a fox,a hare")
    assert (plan.code, plan.out) == (
        0,
        "g.yaml on cpu in float32: 10 items, 10 steps, 10 of them distinct: 2 cached, 8 to run\n"
        "  seed    5 values\n"
        "  prompt  2 values\n"
        "  words × 2  toy.lucky  cached\n"
        "  words × 4  toy.lucky  runs because 'prompt' and 'seed' changed\n"
        "  words × 1  toy.lucky  runs because 'prompt' changed\n"
        "  words × 3  toy.lucky  runs because 'seed' changed\n",
    )
    data = json.loads(
        call(
            "plan", "g.yaml", "--sweep", "seed=1..5", "--sweep", "prompt=a fox,a hare", "--json"
        ).out
    )
    assert {k: data[k] for k in ("items", "steps", "distinct", "cached", "runs", "waits")} == {
        "items": 10,
        "steps": 10,
        "distinct": 10,
        "cached": 2,
        "runs": 8,
        "waits": 0,
    }


def test_failed_items_are_listed_at_the_end(call: Call) -> None:
    """Others go on, the failures are listed with their causes, and the exit code is 1."""
    done = call("run", "g.yaml", "--sweep", "prompt=a fox,fail,a hare", "--quiet")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "out/index.jsonl  3 items"
    assert done.err.endswith("1 item failed\n  prompt=fail  words: cannot do 'fail'\n")


def test_many_items_print_one_line_and_a_repeated_failure_once(call: Call) -> None:
    """Sweeps of many items print the index and totals; a failure that items share is shown once."""
    prompts = json.dumps(["fail"])
    done = call("run", "g.yaml", "--sweep", "seed=1..30", "--sweep", f"prompt={prompts}")
    assert (done.code, done.out) == (1, "out/index.jsonl  30 items\n")
    assert done.err.count("✗") == 1
    assert done.err.count("\n  seed=") == 20
    assert "  and 10 more items: see 'status' in the index\n" in done.err
    assert timeless(done.err).endswith(
        "failed in T s: 30 items, 0 steps ran, 0 from the store, 30 items failed\n"
    )


def test_the_graphs_sweep_is_run_and_a_given_value_fixes_an_axis(call: Call, folder: Path) -> None:
    """With every axis fixed, the graph runs once, as without a sweep."""
    (folder / "g.yaml").write_text(GRAPH + "sweep: {axes: {seed: 1..2, prompt: [x, y]}}\n")
    assert call("plan", "g.yaml").out.startswith("g.yaml on cpu in float32: 4 items")
    plan = call("plan", "g.yaml", "--set", "seed=5")
    assert plan.out.startswith("g.yaml on cpu in float32: 2 items")
    assert plan.out.endswith("the axis 'seed' is not swept: it is given a value\n")
    done = call("run", "g.yaml", "--set", "seed=5", "--set", "prompt=x")
    assert done.out == "words  out/x-5.txt\n"
    assert not (folder / "out/index.jsonl").exists()


def test_drawn_seeds_are_printed_with_what_reproduces_them(call: Call, folder: Path) -> None:
    """A random seed is drawn for each item, and the printed options give the same items."""
    (folder / "g.yaml").write_text(GRAPH.replace("default: 7", "default: random"))
    first = call("run", "g.yaml", "--sweep", "prompt=a,b")
    printed = re.search(
        r"^seeds were drawn at random for each item; (.*) reproduces them$", first.err, re.M
    )
    assert printed is not None
    again = call("run", "g.yaml", "--sweep", "prompt=a,b", *printed[1].split())
    assert again.out == first.out
    assert "0 steps ran, 2 from the store" in again.err


def test_json_events_name_the_items(call: Call) -> None:
    """Each line is an event; an item's events carry its label, and its end is an event."""
    done = call("run", "g.yaml", "--sweep", "seed=1..2", "--json-events")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [found[0]["event"], found[-1]["event"]] == ["run_started", "run_finished"]
    for label in ("seed=1", "seed=2"):
        assert [e["event"] for e in found if e.get("item") == label] == [
            "step_started",
            "step_finished",
            "output_written",
            "item_finished",
        ]
    assert found[0]["items"] == 2


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--sweep", "seed"], "error[bad-sweep]: '--sweep seed' is neither NAME=VALUES nor @TABLE\n"),
        (["--sweep", "sed=1"], "  = fix: did you mean 'seed'?\n"),
        (["--sweep", "seed=1..2", "--sweep", "seed=3"], "the sweep has two axes named 'seed'\n"),
        (["--zip"], "error[bad-sweep]: the sweep varies no input\n"),
        (["--sample", "0"], "Invalid value for '--sample'"),
        (["--sweep", "@gone.csv"], "error[missing-file]: there is no file 'gone.csv'\n"),
        (["--sweep", "seed=1..1000000000"], "the sweep has 1,000,000,000 items; the limit is 1,000,000\n"),
    ],
)  # fmt: skip
def test_what_the_command_line_refuses(call: Call, arguments: list[str], wanted: str) -> None:
    """A sweep that cannot be made exits with 2 and makes nothing."""
    for command in ("run", "plan"):
        done = call(command, "g.yaml", *arguments)
        assert (done.code, done.out) == (2, "")
        assert wanted in done.err
    assert not Path("out").exists()


def test_the_command_of_a_row_makes_the_item_again(call: Call, folder: Path) -> None:
    """What the index has under 'command' runs that item alone, from the store."""
    call("run", "g.yaml", "--sweep", 'prompt=["it\'s $HOME, \\"x\\""]', "--set", "seed=3")
    row = json.loads((folder / "out/index.jsonl").read_text())
    done = subprocess.run(
        ["sh", "-c", row["command"].replace("imagen-flow", f"{sys.executable} -m imagen_flow", 1)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "0 steps ran, 1 from the store" in done.stderr


def test_the_command_of_a_row_names_the_output_folder(call: Call, folder: Path) -> None:
    """What was written elsewhere than to 'out' is written there again."""
    call("run", "g.yaml", "--sweep", "seed=3", "--out", "my pictures")
    row = json.loads((folder / "my pictures/index.jsonl").read_text())
    assert " --out 'my pictures' " in f"{row['command']} "


def test_the_command_of_a_row_replaces_no_other_items_files(call: Call, folder: Path) -> None:
    """Alone, an item would be written to the path of an item that came first."""
    (folder / "g.yaml").write_text(
        "imagen_flow: 1\ninputs: {word: a}\n"
        'nodes: {w: {type: text.join, texts: ["${word}"]}}\n'
        'outputs: {w: {from: "${w}", path: "{word}.txt"}}\n'
    )
    call("run", "g.yaml", "--sweep", "word=fox,Fox")
    rows = [json.loads(line) for line in (folder / "out/index.jsonl").read_text().splitlines()]
    assert [row["command"].partition("--out")[2].split()[:1] for row in rows] == [
        [],
        ["out/word=Fox"],
    ]
    call(*shlex.split(rows[1]["command"])[1:])
    assert (folder / "out/fox.txt").read_text() == "fox\n"
    assert (folder / "out/word=Fox/Fox.txt").read_text() == "Fox\n"


def wait_for_two_items(folder: Path, running: subprocess.Popen[Any]) -> None:
    """Wait until two items are in the index and the third is running."""
    index = folder / "out/index.jsonl"
    while running.poll() is None:
        if Path("here").exists() and index.exists() and index.read_bytes().count(b"\n") == 2:
            return
        os.sched_yield()


def test_an_interrupted_sweep_is_continued_by_the_same_command(folder: Path) -> None:
    """Ctrl-C stops the running item; the same command runs what is left."""
    (folder / "g.yaml").write_text(GRAPH.replace("toy.lucky", "toy.slow"))
    command = [
        *(sys.executable, "-m", "imagen_flow", "run", "g.yaml", "--plugin", "nodes.py"),
        *("--sweep", "seed=1..5"),
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for_two_items(folder, running)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out.endswith("out/index.jsonl  2 of 5 items\n")
    assert "interrupted in" in err
    assert err.endswith("3 items left: the same command goes on with them\n")
    Path("go").touch()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "5 items, 3 steps ran, 2 from the store" in again.stderr
    lines = (folder / "out/index.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4]


def test_a_killed_sweep_is_continued_by_the_same_command(folder: Path) -> None:
    """Kill -9 loses the running item; the index ends complete."""
    (folder / "g.yaml").write_text(GRAPH.replace("toy.lucky", "toy.slow"))
    command = [
        *(sys.executable, "-m", "imagen_flow", "run", "g.yaml", "--plugin", "nodes.py"),
        *("--sweep", "seed=1..5", "-q"),
    ]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for_two_items(folder, running)
    running.kill()
    running.wait()
    Path("go").touch()
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, _printed(5))
    lines = (folder / "out/index.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4]


def _printed(count: int) -> str:
    return (
        "".join(f"seed={n}  words  out/a fox-{n}.txt\n" for n in range(1, count + 1))
        + f"out/index.jsonl  {count} items\n"
    )


def test_a_folder_that_changes_meanwhile_is_reported(call: Call, folder: Path) -> None:
    """Files that came after the sweep was counted are not in it, and a warning says so."""
    (folder / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / "in" / name).write_text("fox")
    (folder / "nodes.py").write_text(
        NODES
        + """
from imagen_flow import File

@node("toy.copy", version=1)
def copy(file: File) -> Text:
    '''Read a file, and add another to its folder.'''
    Path("in/c.txt").write_text("hare")
    return file.path.read_text()
"""
    )
    (folder / "g.yaml").write_text(
        "imagen_flow: 1\ninputs: {file: {type: file}}\n"
        'nodes: {text: {type: toy.copy, file: "${file}"}}\noutputs: {text: "${text}"}\n'
    )
    done = call("run", "g.yaml", "--sweep", "file=in/", "--quiet")
    assert (done.code, done.err) == (
        0,
        "warning: the folder 'in/' has changed since the sweep began: 1 added; run it again to"
        " include what is there now\n",
    )
    assert "3 items" in call("run", "g.yaml", "--sweep", "file=in/", "--quiet").out


def test_progress_counts_items_and_estimates_the_time_left() -> None:
    """Items that came from the store before the first step ran do not count for the estimate."""
    from imagen_flow import events
    from imagen_flow._cli.display import Progress

    progress = Progress()
    progress.update(events.RunStarted("g.yaml", 0, 0, "cpu", items=100))
    for number in range(50):
        progress.update(events.ItemFinished(f"seed={number}", "done", "", 0.1))
    assert progress.remaining(1.0) is None
    progress.update(events.StepStarted("base", "seed=50", "it has not run before", 2.0))
    progress.update(events.StepFinished("base", "seed=50", 9.0, 11.0))
    for number in range(50, 60):
        progress.update(events.ItemFinished(f"seed={number}", "done", "", 12.0))
    progress.update(events.ItemFinished("seed=60", "failed", "no", 12.0))
    assert progress.summary(elapsed=24.0)[:4] == [
        "61 of 100 items",
        "about 1:18 left",
        "0:24",
        "1 failed",
    ]
