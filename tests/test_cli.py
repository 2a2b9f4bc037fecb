"""The command line: what it prints, where, and the exit codes."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import pytest

from imagen_flow import _cli as cli
from imagen_flow import events
from imagen_flow._cli.text import format_bytes, format_seconds
from imagen_flow.errors import printable

NODES = '''
"""Toy nodes."""
import time
from imagen_flow import List, Progress, Seed, Steps, Text, node

@node("toy.loud", version=1)
def loud(text: Text) -> Text:
    """Raise a text's voice.

    Outputs: the text in capitals.
    """
    return text.upper()

@node("toy.words", version=1)
def words(text: Text) -> List[Text]:
    """Split a text into words."""
    return text.split()

@node("toy.fail", version=1)
def fail(text: Text) -> Text:
    """Fail."""
    raise ValueError(f"cannot do '{text}'")

@node("toy.slow", version=1)
def slow(text: Text, *, steps: int = 2000) -> Steps[Text]:
    """Take a while."""
    for i in range(steps):
        yield Progress(i + 1, steps)
        time.sleep(0.05)
    return text

@node("toy.stuck", version=1)
def stuck(text: Text) -> Text:
    """Take a while without a word."""
    time.sleep(30)
    return text

@node("toy.lucky", version=1)
def lucky(seed: Seed) -> Text:
    """Say a seed."""
    return f"lucky {seed}"
'''

GRAPH = """\
# A text, louder.
imagen_flow: 1
inputs:
  prompt: a red circle
nodes:
  first: {type: toy.loud, text: "${prompt}"}
  second: {type: toy.loud, text: "${first}!"}
outputs:
  file: {from: "${second}", path: "{graph}.txt"}
  words: "${second}"
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
    """Call the command line in this process; graph commands know the toy nodes."""

    def call(*arguments: str) -> Result:
        given = list(arguments)
        if given[:1] in (["run"], ["plan"]):
            given += ["--plugin", "nodes.py"]
        with pytest.raises(SystemExit) as exited:
            cli.main(given)
        return Result(int(exited.value.code or 0), *capsys.readouterr())

    return call


def graph(folder: Path, text: str, name: str = "g.yaml") -> None:
    (folder / name).write_text("imagen_flow: 1\n" + text)


def timeless(text: str) -> str:
    return re.sub(r"\d+\.\d+ s", "T s", text)


# --- help


def test_help_is_the_commands_own() -> None:
    """The summary of each command in the help is the first line of the command's own help."""
    own = {
        name: getattr(importlib.import_module(f"imagen_flow._cli.{name}"), name).help.partition(
            "\n"
        )[0]
        for name in cli.COMMANDS
    }
    assert own == cli.COMMANDS


def test_help_names_every_command(call: Call) -> None:
    """The help lists the commands in a fixed order."""
    result = call("--help")
    assert result.code == 0
    assert re.findall(r"^  (\w+)  ", result.out.partition("Commands:")[2], re.MULTILINE) == list(
        cli.COMMANDS
    )


def test_help_imports_click_only() -> None:
    """The help imports only click, the standard library, the list of commands and what finds those
    of other distributions; the library's readers of metadata are not imported.
    """
    code = """
import sys
from imagen_flow._cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(*sorted(n for n in sys.modules if n == "importlib.metadata" or n.partition(".")[0] not in sys.stdlib_module_names and n.partition(".")[0] not in ("__main__", "_distutils_hack")), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = result.stderr.split()
    assert [n for n in imported if not n.startswith(("click", "colorama"))] == [
        "imagen_flow",
        "imagen_flow._cli",
        "imagen_flow._plugins",
        "imagen_flow._plugins.distributions",
        "imagen_flow._system",
        "imagen_flow._system.lazy_names",
    ]


def test_version(call: Call) -> None:
    """--version prints the version."""
    assert re.fullmatch(r"imagen-flow \d+\.\d+\.\d+\S*\n", call("--version").out)


def test_unknown_command(call: Call) -> None:
    """An unknown command exits with code 2 and suggests the most similar one."""
    result = call("rnu")
    assert (result.code, result.err.splitlines()[-1]) == (
        2,
        "Error: there is no command 'rnu'; did you mean 'run'?",
    )


def test_commands_of_plugins(folder: Path) -> None:
    """A command of another distribution is listed from metadata and imported when called, and its
    errors are reported like ours.
    """
    (folder / "extra.py").write_text(
        'import click\n\nprint("imported")\n\n@click.command()\ndef hello():\n    """Say hello."""\n    click.echo("hello")\n\n'
        "@click.command()\ndef oops():\n    raise RuntimeError('a slip')\n"
    )
    metadata = folder / "extra-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[imagen_flow.commands]\nhello = extra:hello\noops = extra:oops\nbroken = missing_module:x\n"
    )

    def call(*arguments: str) -> Result:
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "imagen_flow", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for name in ("METADATA", "entry_points.txt"):
            text = (metadata / name).read_text()
            archive.writestr(f"more-1.0.dist-info/{name}", text.replace("extra\n", "more\n"))
    in_archive = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder / "more.zip")},
    )
    assert "  hello   From more 1.0.\n" in in_archive.stdout
    listed = call("--help").out
    assert "imported" not in listed
    assert (
        "Commands of plugins:\n  broken  From extra 1.0.\n  hello   From extra 1.0.\n  oops    From extra 1.0.\n"
        in listed
    )
    assert call("hello") == Result(0, "imported\nhello\n", "")
    result = call("oops")
    assert result.code == 1
    assert "RuntimeError: a slip" in result.err
    assert result.err.endswith(
        "This is a bug in imagen_flow, not in your graph. Please report it with the lines above.\n"
    )
    assert (
        call("broken").err
        == "Error: the command 'broken' of extra 1.0 cannot be loaded: ModuleNotFoundError: No module named 'missing_module'\n"
    )


# --- run


def test_run(call: Call, folder: Path) -> None:
    """A run prints its outputs to standard output and its progress to standard error."""
    result = call("run", "g.yaml")
    assert (result.code, result.out) == (
        0,
        f"file   {Path('out', 'g.txt')}\nwords  A RED CIRCLE!\n",
    )
    assert (
        timeless(result.err)
        == "✓ first  T s\n✓ second  T s\ndone in T s: 2 steps ran, 0 from the store\n"
    )
    assert (folder / "out" / "g.txt").read_text() == "A RED CIRCLE!\n"


def test_second_run(call: Call) -> None:
    """A second run takes everything from the store and prints the same outputs."""
    first = call("run", "g.yaml")
    result = call("run", "g.yaml")
    assert (result.code, result.out) == (0, first.out)
    assert (
        timeless(result.err)
        == "  2 steps from the store\ndone in T s: 0 steps ran, 2 from the store\n"
    )


def test_force(call: Call) -> None:
    """--force runs a node whose result is in the store; if the result is the same, later nodes do
    not run.
    """
    call("run", "g.yaml")
    assert timeless(call("run", "g.yaml", "--force", "first").err).endswith(
        "1 step ran, 1 from the store\n"
    )
    result = call("run", "g.yaml", "--force", "frist")
    assert (result.code, result.err) == (
        2,
        "error[unknown-reference]: there is no node 'frist' to force\n  = fix: did you mean 'first'?\n",
    )


def test_no_store(call: Call, own_home: Path) -> None:
    """--no-store neither reads from nor writes to the store; inspecting a missing store does not
    create it.
    """
    call("run", "g.yaml")
    assert call("run", "g.yaml", "--no-store").err.endswith("2 steps ran, 0 from the store\n")
    for command in (
        ("info", "--json"),
        ("verify",),
        ("gc", "--older-than", "1d"),
        ("clear", "--yes"),
    ):
        result = call("store", *command, "--store", "elsewhere")
        assert (result.code, result.err.splitlines()[-1], Path("elsewhere").exists()) == (
            2,
            "Error: there is no store at 'elsewhere'",
            False,
        )
    assert call("run", "g.yaml", "--store", "elsewhere").err.endswith(
        "2 steps ran, 0 from the store\n"
    )


def test_set(call: Call) -> None:
    """--set passes a value to an input as text, even if it looks like a number or a reference."""
    assert call("run", "g.yaml", "--set", "prompt=12").out.endswith("words  12!\n")
    assert call("run", "g.yaml", "--set", "prompt=${first}=x").out.endswith("words  ${FIRST}=X!\n")


def test_bad_set(call: Call, folder: Path) -> None:
    """Wrong values are errors of the command line: all of them are shown, and the exit code is
    2.
    """
    graph(
        folder,
        'inputs:\n  n: {type: int, max: 3}\n  t: {type: text, help: what to say}\nnodes: {a: {type: toy.loud, text: "${t} ${n}"}}\noutputs: {o: "${a}"}\n',
    )
    result = call("run", "g.yaml", "--set", "n=many", "--set", "m=1")
    assert result.code == 2
    assert result.out == ""
    assert (
        result.err
        == """\
error[unknown-input]: the graph has no input 'm'
  = fix: its inputs are: n, t

g.yaml:3:3: error[bad-input]: input 'n' takes a whole number up to 3, not the text 'many'
3 |   n: {type: int, max: 3}
  |   ^

g.yaml:4:3: error[missing-input]: input 't' (text) has no value
4 |   t: {type: text, help: what to say}
  |   ^
  = why: what to say
  = fix: pass --set t=…, or give it a default

3 problems
"""
    )
    assert call("run", "g.yaml", "--set", "n").err.endswith(
        "Error: Invalid value for '--set': expected name=value, got 'n'\n"
    )


def test_missing_graph(call: Call) -> None:
    """A missing graph exits with code 2 and suggests the most similar file."""
    result = call("run", "h.yaml")
    assert (result.code, result.err) == (
        2,
        "error[unreadable]: 'h.yaml' does not exist\n  = fix: did you mean 'g.yaml'?\n",
    )
    assert call("plan", ".").err.startswith(
        "error[unreadable]: '.' is a folder, not a graph file\n"
    )


def test_graph_problems(call: Call, folder: Path) -> None:
    """All problems of a graph are shown, in file order, with exit code 1, and nothing runs."""
    graph(
        folder,
        'nodes:\n  a: {type: toy.lout, text: "${b}"}\n  c: {type: toy.loud, txet: hello}\noutputs: {o: "${a}"}\n',
    )
    result = call("run", "g.yaml")
    assert (result.code, result.out) == (1, "")
    assert re.findall(r"g\.yaml:\d+:\d+: error\[[a-z-]+\]", result.err) == [
        "g.yaml:3:13: error[unknown-node-type]",
        "g.yaml:3:30: error[unknown-reference]",
        "g.yaml:4:23: error[unknown-port]",
    ]
    assert result.err.endswith("\n3 problems\n")


def test_failure(call: Call, folder: Path) -> None:
    """A failing node is shown with its position in the graph; what does not depend on it still
    runs; the exit code is 1.
    """
    graph(
        folder,
        'nodes:\n  bad: {type: toy.fail, text: x}\n  after: {type: toy.loud, text: "${bad}"}\n  good: {type: toy.loud, text: y}\n'
        'outputs: {never: "${after}", well: "${good}"}\n',
    )
    result = call("run", "g.yaml")
    assert (result.code, result.out) == (1, "never  absent: its source failed\nwell   Y\n")
    assert (
        timeless(result.err)
        == """\
✗ bad failed:
    g.yaml:3:3: error[node-failed]: bad: cannot do 'x'
    3 |   bad: {type: toy.fail, text: x}
      |   ^^^
      = why: raised at nodes.py:22 in fail: raise ValueError(f"cannot do '{text}'")
      = fix: pass --traceback to see the calls that led to it
- after skipped: the source of its 'text' failed
✓ good  T s
failed in T s: 1 step ran, 0 from the store, 1 failed
"""
    )


def test_fail_fast(call: Call, folder: Path) -> None:
    """--fail-fast stops at the first failure."""
    graph(
        folder,
        'nodes:\n  bad: {type: toy.fail, text: x}\n  good: {type: toy.loud, text: y}\noutputs: {a: "${bad}", b: "${good}"}\n',
    )
    result = call("run", "g.yaml", "--fail-fast")
    assert (result.code, "✓" in result.err) == (1, False)


def test_quiet(call: Call, folder: Path) -> None:
    """--quiet prints only results and failures."""
    result = call("run", "g.yaml", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("words  A RED CIRCLE!\n")
    graph(
        folder,
        'inputs: {unused: 1}\nnodes: {bad: {type: toy.fail, text: x}}\noutputs: {a: "${bad}"}\n',
    )
    assert call("run", "g.yaml", "-q").err.startswith("✗ bad failed:\n")


def test_json_events(call: Call) -> None:
    """--json-events prints one JSON object per line to standard output, and nothing else
    anywhere.
    """
    result = call("run", "g.yaml", "--json-events")
    assert (result.code, result.err) == (0, "")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert [e["event"] for e in told][:1] + [e["event"] for e in told][-1:] == [
        "run_started",
        "run_finished",
    ]
    assert all(isinstance(e["at_s"], float) for e in told)
    assert {e["value"] for e in told if e["event"] == "output_written"} == {"A RED CIRCLE!"}


def test_json_events_tell_data(call: Call, folder: Path) -> None:
    """The value of an output without a path is in its event if JSON can represent it, including
    lists and mappings.
    """
    graph(
        folder,
        'inputs: {p: {type: file, default: g.yaml}}\nnodes: {a: {type: toy.words, text: a b}}\noutputs: {a: "${a}", p: "${p}"}\n',
    )
    told = [json.loads(line) for line in call("run", "g.yaml", "--json-events").out.splitlines()]
    assert {
        e["output"]: e.get("value", "not told") for e in told if e["event"] == "output_written"
    } == {"a": ["a", "b"], "p": "not told"}


def test_drawn_seed(call: Call, folder: Path) -> None:
    """A seed that was drawn at random is printed, and passing it reproduces the result."""
    graph(
        folder,
        'inputs:\n  seed: {type: seed, default: random}\nnodes: {a: {type: toy.lucky, seed: "${seed}"}}\noutputs: {o: "${a}"}\n',
    )
    result = call("run", "g.yaml").out
    drawn = re.fullmatch(
        r"o          lucky (\d+)\nseed seed  \1 \(drawn at random; --set seed=\1 reproduces it\)\n",
        result,
    )
    assert drawn is not None
    assert call("run", "g.yaml", "--set", f"seed={drawn[1]}").out == f"o  lucky {drawn[1]}\n"


def test_a_seed_that_an_included_graph_draws(call: Call, folder: Path) -> None:
    """A seed drawn by an included graph is printed with its node, by plan and by run, and setting
    it there reproduces the result.
    """
    graph(
        folder,
        'inputs:\n  seed: {type: seed, default: random}\nnodes: {a: {type: toy.lucky, seed: "${seed}"}}\noutputs: {o: "${a}"}\n',
        "inner.yaml",
    )
    graph(folder, 'nodes: {n: {type: ./inner.yaml}}\noutputs: {o: "${n}"}\n')
    assert re.search(
        r"^seed n/seed: (\d+) \(drawn at random; 'seed: \1' at node 'n' reproduces it\)$",
        call("plan", "g.yaml").out,
        re.MULTILINE,
    )
    assert json.loads(call("plan", "g.yaml", "--json").out)["seeds"].keys() == {"n/seed"}
    drawn = re.fullmatch(
        r"o            lucky (\d+)\nseed n/seed  \1 \(drawn at random; 'seed: \1' at node 'n' reproduces it\)\n",
        call("run", "g.yaml").out,
    )
    assert drawn is not None
    graph(
        folder,
        f'nodes: {{n: {{type: ./inner.yaml, seed: {drawn[1]}}}}}\noutputs: {{o: "${{n}}"}}\n',
    )
    assert call("run", "g.yaml").out == f"o  lucky {drawn[1]}\n"


def test_lists_and_absent(call: Call, folder: Path) -> None:
    """A list that is written to files has one line per file; an absent output is reported."""
    graph(
        folder,
        'nodes:\n  list: {type: toy.words, text: a b}\n  each: {type: toy.loud, each: {text: "${list}"}}\n  off: {type: toy.loud, text: x, when: false}\n'
        'outputs:\n  files: {from: "${each}", path: "{index}.txt"}\n  all: "${each}"\n  none: "${off}"\n',
    )
    result = call("run", "g.yaml")
    assert result.code == 0
    assert (
        result.out
        == f'files[0]  {Path("out", "0.txt")}\nfiles[1]  {Path("out", "1.txt")}\nall       ["A", "B"]\nnone      absent: its source is absent\n'
    )


def test_warnings(call: Call, folder: Path) -> None:
    """Warnings are shown, and the run continues."""
    graph(
        folder, 'inputs: {unused: 1}\nnodes: {a: {type: toy.loud, text: x}}\noutputs: {o: "${a}"}\n'
    )
    result = call("run", "g.yaml")
    assert (result.code, result.out) == (0, "o  X\n")
    assert result.err.startswith(
        "g.yaml:2:10: warning[unused-input]: nothing refers to the input 'unused'\n"
    )


def test_cached_run_is_light(call: Call, folder: Path) -> None:
    """A fully cached run imports neither torch nor any other heavy library."""
    call("run", "g.yaml")
    code = """
import sys
from imagen_flow._cli import main
try:
    main(["run", "g.yaml", "--plugin", "nodes.py"])
except SystemExit as exited:
    assert not exited.code
heavy = {"torch", "diffusers", "transformers", "huggingface_hub", "scipy", "pandas", "rich", "pydantic", "numpy", "ruamel.yaml", "networkx"}
print("imported:", *sorted(heavy & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "0 steps ran, 2 from the store" in result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"


# --- interrupts


def start(folder: Path, type_: str) -> subprocess.Popen[str]:
    graph(
        folder,
        f'nodes: {{a: {{type: {type_}, text: x}}}}\noutputs: {{o: {{from: "${{a}}", path: "{{output}}.txt"}}}}\n',
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "imagen_flow",
            "run",
            "g.yaml",
            "--plugin",
            "nodes.py",
            "--json-events",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"step_started"' in line:
            return process
    raise AssertionError(process.communicate())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(folder: Path, number: signal.Signals) -> None:
    """The first interrupt ends a run at the node's next yield: exit code 130, a final event, and
    nothing left behind.
    """
    process = start(folder, "toy.slow")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)  # the node alone would take 100 s
    assert (process.returncode, err) == (130, "")
    assert json.loads(out.splitlines()[-1])["status"] == "cancelled"
    assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_second_interrupt(folder: Path) -> None:
    """The second interrupt ends the process at once, whatever it is doing."""
    process = start(folder, "toy.stuck")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """`timeout` signals a process and its group, so the process gets the signal twice: it ends
    cleanly all the same.
    """
    code = """
import signal
from imagen_flow._cli.interrupt import interruptible
with interruptible(lambda: print("stopping", flush=True)) as received:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
print(received == [signal.SIGTERM])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopping\nTrue\n", "")


def test_a_thread_in_a_call_does_not_see_the_end_of_the_interpreter() -> None:
    """If a step is still in a call that nobody can interrupt, the process ends with the command's
    exit code, its output and its temporary files removed, but without finalising the interpreter:
    libraries in C++ would abort.
    """
    code = """
import atexit, sys, threading
import imagen_flow._cli
def main(**_):
    atexit.register(print, "temporary files are removed")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    sys.exit(3)
class Finalised:
    def __del__(self):
        print("finalised")
witness = Finalised()
imagen_flow._cli.main = main
from imagen_flow.__main__ import main as start
start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "temporary files are removed\n", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("module", ["imagen_flow._cli", "click"])
def test_interrupt_while_starting(module: str) -> None:
    """An interrupt during start-up behaves like a later one: no traceback, exit code 130."""
    code = f"""
import os, signal, sys
from importlib.abc import MetaPathFinder
class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from imagen_flow.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_command_begins_where_an_interrupt_is_taken() -> None:
    """The installed command is the entry point that is tested above."""
    result = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))
    assert result["project"]["scripts"] == {"imagen-flow": "imagen_flow.__main__:main"}


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_reader_goes_away(folder: Path) -> None:
    """If the reader closes the pipe, the run ends without a traceback."""
    process = start(folder, "toy.slow")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


# --- plan


def test_plan(call: Call) -> None:
    """A plan says of each step whether it is cached, runs, or waits for other steps, and runs
    nothing.
    """
    result = call("plan", "g.yaml")
    assert (result.code, result.err) == (0, "")
    assert (
        result.out
        == """\
g.yaml on cpu in float32: 2 steps, 1 to run, 1 waiting for other steps
  first   toy.loud  runs because it has not run before
  second  toy.loud  runs unless first comes out the same
writes
  file  out/g.txt  new
"""
    )
    call("run", "g.yaml")
    assert call("plan", "g.yaml").out.splitlines()[1:] == [
        "  first   toy.loud  cached",
        "  second  toy.loud  cached",
        "writes",
        "  file  out/g.txt  unchanged",
    ]
    assert call("plan", "g.yaml", "--force", "second").out.splitlines()[-1] == (
        "  file  out/g.txt  replaces the output of an earlier run, unless it is equal"
    )
    for changed, effect in (
        ("prompt=x", "replaces the output of an earlier run, unless it is equal"),
        ("prompt=y", "replaces the output of an earlier run"),
    ):
        call("run", "g.yaml", "--set", "prompt=y", "--out", "elsewhere")
        planned = call("plan", "g.yaml", "--set", changed).out
        assert planned.splitlines()[-1] == f"  file  out/g.txt  {effect}"
    assert (
        call("plan", "g.yaml", "--set", "prompt=x").out.splitlines()[1]
        == "  first   toy.loud  runs because 'text' changed"
    )


def test_plan_of_many(call: Call, folder: Path) -> None:
    """Steps of a node with the same status share a line; an unknown count is a question mark."""
    many = ", ".join(f"w{i}" for i in range(300))
    graph(
        folder,
        f"inputs: {{list: [{many}]}}\nnodes:\n"
        '  each: {type: toy.loud, each: {text: "${list}"}}\n  words: {type: toy.words, text: a b}\n  later: {type: toy.loud, each: {text: "${words}"}}\n'
        'outputs: {a: "${each}", b: "${later}"}\n',
    )
    assert (
        call("plan", "g.yaml").out
        == """\
g.yaml on cpu in float32: at least 301 steps, 301 to run
  each × 300  toy.loud   runs because it has not run before
  words       toy.words  runs because it has not run before
  later       toy.loud   ? (after words)
"""
    )


def test_plan_lists_what_would_be_written(call: Call, folder: Path) -> None:
    """A plan lists the first files to be written and what happens to existing ones, and counts the
    rest; path fields that are unknown stay as they are; the same as JSON.
    """
    many = ", ".join(f"w{i}" for i in range(30))
    graph(
        folder,
        f"inputs: {{list: [{many}], name: it}}\nnodes:\n"
        '  each: {type: toy.loud, each: {text: "${list}"}}\n  words: {type: toy.words, text: a b}\n'
        'outputs:\n  a: {from: "${list}", path: "{name}/{index}.txt"}\n  b: {from: "${words}", path: "{output}-{index}-{digest8}.txt"}\n  c: "${each}"\n',
    )
    (folder / "out/it").mkdir(parents=True)
    (folder / "out/it/1.txt").write_text("mine")
    result = call("plan", "g.yaml", "--out", "out").out.splitlines()
    at = result.index("writes")
    assert result[at + 1 : at + 3] == [
        "  a[0]   out/it/0.txt   new",
        "  a[1]   out/it/1.txt   refused: another file exists",
    ]
    assert result[at + 20 :] == ["  a[19]  out/it/19.txt  new", "  and 11 more files"]
    data = json.loads(call("plan", "g.yaml", "--json").out)["writes"]
    assert len(data) == 31
    assert data[30] == {"output": "b", "path": "out/b-{index}-{digest8}.txt", "fate": ""}
    graph(
        folder,
        'inputs: {f: {type: text, default: x}}\nnodes: {n: {type: toy.loud, text: "${f}"}}\noutputs: {o: {from: "${n}", path: o.txt, exists: number}}\n',
    )
    (folder / "out/o.txt").write_text("mine")
    assert "gets a number: another file exists" in call("plan", "g.yaml").out


def test_plan_json(call: Call) -> None:
    """--json prints the plan as data."""
    plan = json.loads(call("plan", "g.yaml", "--json").out)
    assert [(s["node"], s["status"]) for s in plan["steps"]] == [
        ("first", "runs"),
        ("second", "waits"),
    ]
    assert (plan["device"], plan["dtype"], plan["inputs"]) == (
        "cpu",
        "float32",
        {"prompt": "a red circle"},
    )


def test_settings(call: Call, folder: Path) -> None:
    """A flag overrides the graph's settings, these override imagen-flow.toml, and that overrides
    the default.
    """

    def dtype(*arguments: str) -> str:
        return str(
            json.loads(call("plan", "g.yaml", "--device", "cpu", "--json", *arguments).out)["dtype"]
        )

    assert dtype() == "float32"
    (folder / "imagen-flow.toml").write_text(
        'dtype = "bfloat16"\nout = "results"\nstore = "kept"\n'
    )
    assert dtype() == "bfloat16"
    call("run", "g.yaml")
    assert (folder / "results" / "g.txt").exists() and (folder / "kept").is_dir()
    (folder / "g.yaml").write_text(GRAPH + "settings: {dtype: float16}\n")
    assert dtype() == "float16"
    assert dtype("--dtype", "float32") == "float32"


def test_unknown_device(call: Call) -> None:
    """A device that does not exist is an error of the command line."""
    result = call("run", "g.yaml", "--device", "abacus")
    assert (result.code, result.err) == (
        2,
        "error[bad-setting]: 'abacus' is not a device; the devices are: auto, cpu, cuda, cuda:1, mps\n",
    )


# --- replay


PICTURE = """inputs: {colour: red, seed: {type: seed, default: random}}
nodes:
  base: {type: image.solid, width: 8, height: 4, colour: "${colour}"}
  noisy: {type: image.noise, width: 8, height: 4, seed: "${seed}"}
  both: {type: image.blend, a: "${base}", b: "${noisy}"}
outputs: {picture: {from: "${both}", path: picture.png}}
"""


def test_replay(call: Call, folder: Path) -> None:
    """A picture is replayed from its provenance after the user agrees; it is identical, and with
    another value it is not.
    """
    graph(folder, PICTURE)
    assert call("run", "g.yaml").code == 0
    picture = folder / "out" / "picture.png"
    first = PIL.Image.open(picture).tobytes()
    (folder / "g.yaml").unlink()

    result = call("replay", "out/picture.png", "--verify")
    assert result.code == 2
    assert "both   image.blend" in result.err
    assert result.err.endswith(
        "Error: cannot ask for confirmation: the session is not interactive; pass --yes\n"
    )

    result = call("replay", "out/picture.png", "--verify", "--yes")
    assert (result.code, result.out) == (0, "identical\n")
    assert "3 steps ran, 0 from the store" in result.err

    result = call("replay", "out/picture.png", "--yes", "--out", "again")
    assert (result.code, result.out.splitlines()[0]) == (
        0,
        f"picture  {Path('again', 'picture.png')}",
    )
    assert PIL.Image.open(folder / "again" / "picture.png").tobytes() == first

    result = call("replay", "out/picture.png", "--yes", "--verify", "--set", "colour=blue")
    assert (result.code, result.out.splitlines()[:2]) == (
        1,
        ["not identical", "  first difference: the input 'colour': was 'red', is 'blue'"],
    )


def test_replay_of_nothing(call: Call, folder: Path) -> None:
    """A file without a graph is refused."""
    result = call("replay", "g.yaml", "--yes")
    assert result.code == 1
    assert result.err.startswith("error: g.yaml carries no provenance of imagen_flow\n")
    assert call("replay", "none.png").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("nodes", "thumbnailing"),
            "error[unknown-node-type]: no plugin provides the node type 'thumbnailing'\n  = fix: run `imagen-flow nodes` to list the node types; those in a Python file need --plugin FILE\n",
        ),
        (
            ("nodes", "image.resiz"),
            "error[unknown-node-type]: no plugin provides the node type 'image.resiz'\n  = fix: did you mean 'image.resize'?\n",
        ),
        (
            ("nodes", "my.own"),
            "error[unknown-node-type]: no plugin provides the node type 'my.own'\n  = fix: run `imagen-flow nodes` to list the node types; those in a Python file need --plugin FILE\n",
        ),
        (
            ("nodes", "--plugin", "graphs"),
            "error[missing-file]: 'graphs' is a folder, not a file\n  = fix: --plugin takes a Python file of nodes\n",
        ),
        (
            ("watch", "g.yaml", "--plugin", "graphs"),
            "error[missing-file]: 'graphs' is a folder, not a file\n  = fix: --plugin takes a Python file of nodes\n",
        ),
        (
            ("plan", "graphs"),
            "error[unreadable]: 'graphs' is a folder, not a graph file\n  = fix: graphs in it: graphs/inner.yaml\n",
        ),
        (
            ("plan", "empty"),
            "error[unreadable]: 'empty' is a folder, not a graph file\n  = fix: graphs beside it: g.yaml\n",
        ),
    ],
)
def test_what_is_named_wrongly_on_the_command_line(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    """A node type without its family, a type in a file that was not named, a folder in place of a
    file: each gets one helpful hint.
    """
    (folder / "graphs").mkdir()
    (folder / "empty").mkdir()
    graph(folder, "outputs: {}\n")
    graph(folder, "outputs: {}\n", "graphs/inner.yaml")
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert (ended.value.code, capsys.readouterr()) == (2, ("", words))


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("n\n", 1, "nothing was done\n"),
        ("\n", 1, "nothing was done\n"),
        ("", 2, "Error: cannot ask for confirmation: the session is not interactive; pass --yes\n"),
    ],
)
def test_a_no_is_not_an_interrupt(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, words: str
) -> None:
    """Answering no reports that nothing was done; in a non-interactive session the error says how
    to agree.
    """
    graph(folder, 'nodes: {a: {type: toy.loud, text: x}}\noutputs: {o: "${a}"}\n')
    assert call("run", "g.yaml", "--store", "kept").code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    result = call("store", "clear", "--store", "kept")
    assert (
        result.code,
        result.err.partition("[y/N]: ")[2].endswith(words),
        call("plan", "g.yaml", "--store", "kept").out.count("cached"),
    ) == (code, True, 2)


# --- nodes


def test_nodes(call: Call, folder: Path) -> None:
    """Node types are listed by plugin, one per line; a plugin that cannot be used is named with the
    reason.
    """
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    result = call("nodes", "--plugin", "nodes.py", "--plugin", "broken.py")
    assert result.code == 0
    mine = [
        re.sub(" +", " ", line) for line in result.out.partition("nodes.py\n")[2].splitlines()[:6]
    ]
    assert mine == [
        " toy.fail Fail",
        " toy.loud Raise a text's voice",
        " toy.lucky Say a seed",
        " toy.slow Take a while",
        " toy.stuck Take a while without a word",
        " toy.words Split a text into words",
    ]
    assert re.search(r"^imagen-flow:image \d", result.out, re.MULTILINE)
    assert (
        "broken broken.py: cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name' (broken.py:1)\n"
        in result.err
    )


def test_nodes_of_a_group(call: Call) -> None:
    """The first part of a name lists that group."""
    assert call("nodes", "toy", "--plugin", "nodes.py").out.splitlines()[1].startswith("  toy.fail")


def test_nodes_are_searched(call: Call) -> None:
    """Words that are no name are looked for in names, ports and help, all of them at once; kinds of
    values narrow the list.
    """

    def found(*words: str) -> list[str]:
        told = json.loads(call("nodes", *words, "--plugin", "nodes.py", "--json").out)
        return [node["type"] for node in told["nodes"]]

    assert found("VOICE") == found("voice", "capitals") == ["toy.loud"]
    assert {"image.resize", "mask.resize"} <= set(found("resize"))
    with_masks = found("--takes", "mask", "--gives", "image")
    assert {"image.composite", "mask.to_image"} <= set(with_masks)
    assert "mask.grow" not in with_masks and "image.blur" not in found("--takes", "text")
    result = call("nodes", "--gives", "pictre")
    assert result.code == 2
    assert "no node type has a port of the kind 'pictre'; kinds are: any, " in result.err


def test_node(call: Call, folder: Path) -> None:
    """A node type is shown with its ports, defaults, docstring and file."""
    result = call("nodes", "toy.loud", "--plugin", "nodes.py")
    assert (
        result.out
        == f"""\
toy.loud
  Raise a text's voice.

inputs
  text  required  text
outputs
  value  text

Outputs: the text in capitals.

version  1
plugin   nodes.py
file     {folder / "nodes.py"}:6
"""
    )
    assert "  steps  default 2000  int\n" in call("nodes", "toy.slow", "--plugin", "nodes.py").out


def test_unknown_node(call: Call) -> None:
    """An unknown node type gets the most similar one as a suggestion."""
    result = call("nodes", "image.rezise")
    assert result.code == 2
    assert (
        result.err.splitlines()[0]
        == "error[unknown-node-type]: no plugin provides the node type 'image.rezise'"
    )
    assert result.err.splitlines()[-1] == "  = fix: did you mean 'image.resize'?"


def test_nodes_json(call: Call) -> None:
    """--json prints ports and defaults as data."""
    (found,) = (
        n
        for n in json.loads(call("nodes", "--plugin", "nodes.py", "--json").out)["nodes"]
        if n["type"] == "toy.slow"
    )
    assert found["inputs"] == [
        {"name": "text", "type": "text", "required": True},
        {"name": "steps", "type": "int", "required": False, "default": 2000},
    ]


# --- a first graph


def test_a_first_graph_is_the_readmes_and_plans(call: Call, folder: Path) -> None:
    """`init` writes the graph that README.md shows, apart from comments and help; it is not
    overwritten.
    """
    result = call("init")
    assert (result.code, result.out) == (0, "  first.yaml\n")
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    shown = re.search(r"```yaml\n# first\.yaml\n(.*?)```", readme, re.DOTALL)
    assert shown is not None

    def plain(text: str) -> str:
        return re.sub(r", help: [^}]*|^#.*\n", "", text, flags=re.MULTILINE)

    assert plain(Path("first.yaml").read_text("utf-8")) == plain(shown[1])
    assert call("plan", "first.yaml").code == 0
    result = call("init")
    assert (result.code, result.err) == (
        2,
        "error: 'first.yaml' exists already; name another file\n",
    )
    assert call("init", "graphs/mine.yaml").code == 0


# --- inputs


def test_inputs_of_a_graph(call: Call, folder: Path) -> None:
    """Each input is shown with its default, as it may be written again, its type and its help."""
    graph(
        folder,
        "inputs:\n  n: {type: int, min: 1, help: how many}\n  t: hello\n  f: {type: file, default: g.yaml}\n  l: [1, 2]\n"
        'nodes: {a: {type: toy.loud, text: "${t}"}}\noutputs: {a: "${a}", n: "${n}", f: "${f}", l: "${l}"}\n',
    )
    assert [
        re.sub("  +", "  ", line.strip())
        for line in call("inputs", "g.yaml", "--plugin", "nodes.py").out.splitlines()
    ] == [
        "n  required  int from 1  how many",
        "t  default hello  text",
        "f  default g.yaml  file",
        "l  default [1, 2]  list[int]",
    ]
    assert json.loads(call("inputs", "g.yaml", "--plugin", "nodes.py", "--json").out)[3] == {
        "name": "l",
        "type": "list[int]",
        "required": False,
        "default": [1, 2],
        "help": "",
    }
    graph(folder, 'nodes: {a: {type: toy.loud, text: x}}\noutputs: {a: "${a}"}\n')
    assert call("inputs", "g.yaml", "--plugin", "nodes.py").out == "it has no inputs\n"


# --- store


def test_store(call: Call, own_home: Path) -> None:
    """The store can be inspected, verified, cleaned up and cleared."""
    call("run", "g.yaml")
    result = call("store", "info").out
    assert result.splitlines()[1] == "holds      2 steps, 2 values"
    assert str(own_home) in result
    assert result.endswith("last used  less than a minute ago\n")
    assert call("store", "verify") == Result(0, "2 values read, none damaged\n", "")
    assert call("store", "gc", "--older-than", "30d", "--max-size", "1GB").out.startswith(
        "removed 0 steps and 0 values: 0 B freed, "
    )
    assert call("store", "gc", "--max-size", "0").out.startswith("removed 2 steps and 2 values: ")
    call("run", "g.yaml")
    result = call("store", "clear")
    assert (result.code, result.err.splitlines()[-1]) == (
        2,
        "Error: cannot ask for confirmation: the session is not interactive; pass --yes",
    )
    assert json.loads(call("store", "info", "--json").out)["steps"] == 2
    assert call("store", "clear", "--yes").code == 0
    assert json.loads(call("store", "info", "--json").out)["steps"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "pass --max-size, --older-than, or both"),
        (
            ("--max-size", "big"),
            "Invalid value for '--max-size': 'big' is not a size; write it like 500MB, 10GB or 2GiB",
        ),
        (
            ("--older-than", "30"),
            "Invalid value for '--older-than': '30' is not a time span; write it like 12h, 30d or 8w",
        ),
    ],
)
def test_bad_gc(call: Call, arguments: tuple[str, ...], words: str) -> None:
    """Garbage collection requires a limit, as a valid size or time span."""
    result = call("store", "gc", *arguments)
    assert (result.code, result.err.splitlines()[-1]) == (2, f"Error: {words}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder.yaml", "'folder.yaml' is a folder, not a graph file"),
        ("loop.yaml", "'loop.yaml' is a broken link (to 'loop.yaml')"),
        ("dangling.yaml", "'dangling.yaml' is a broken link (to 'gone.yaml')"),
        ("pipe.yaml", "'pipe.yaml' is not a regular file"),
        ("h.yaml", "'h.yaml' does not exist"),
    ],
)
def test_what_is_no_file(call: Call, folder: Path, name: str, words: str) -> None:
    """A folder, a broken or circular link, and a pipe are each named as such, and another graph is
    suggested.
    """
    (folder / "folder.yaml").mkdir()
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "dangling.yaml").symlink_to("gone.yaml")
    os.mkfifo(folder / "pipe.yaml")
    result = call("plan", name)
    assert (result.code, result.err.splitlines()[0]) == (2, f"error[unreadable]: {words}")
    assert result.err.splitlines()[1:] in (
        ["  = fix: did you mean 'g.yaml'?"],
        ["  = fix: graphs beside it: g.yaml"],
    )


def test_a_graph_in_place_of_a_command(call: Call) -> None:
    """A graph in place of a command gets a hint at the missing command."""
    result = call("g.yaml")
    assert (result.code, result.err.splitlines()[-1]) == (
        2,
        "Error: there is no command 'g.yaml'; to run a graph: imagen-flow run g.yaml",
    )


def test_a_named_plugin_of_no_use(call: Call, folder: Path) -> None:
    """A file named by --plugin that is not a plugin is an error, even if the graph does not need
    it.
    """
    (folder / "none.py").write_text("x = 1\n")
    (folder / "broken.py").write_text("import gone_away\n")
    result = call("plan", "g.yaml", "--plugin", "none.py", "--plugin", "broken.py")
    assert result.code == 2
    assert (
        "error[broken-plugin]: the plugin 'none.py' cannot be used\n  = why: has no function decorated with @node\n"
        in result.err
    )
    assert (
        "error[broken-plugin]: the plugin 'broken.py' cannot be used\n  = why: cannot be imported: ModuleNotFoundError: No module named 'gone_away' (broken.py:1)\n"
        in result.err
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("file=", "error[bad-input]: input 'file' takes a path of a file, not the text ''"),
        (
            "file=.",
            "error[missing-file]: the file '.' cannot be read\n  = why: it is a folder, not a file",
        ),
        (
            "list=1,x",
            "error[bad-input]: input 'list' takes a list of int; its element 1 takes a whole number, not the text 'x'",
        ),
        (
            "list=[1,2.5]",
            "error[bad-input]: input 'list' takes a list of int; its element 1 takes a whole number, not the number 2.5",
        ),
    ],
)
def test_a_value_of_no_use(call: Call, folder: Path, given: str, words: str) -> None:
    """A problem of a value names its input."""
    graph(
        folder,
        'inputs: {file: {type: file, default: ./g.yaml}, list: {type: "list[int]", default: [1]}}\noutputs: {f: "${file}", l: "${list}"}\n',
    )
    result = call("plan", "g.yaml", "--set", given)
    assert (result.code, words in result.err) == (2, True), result.err


def test_store_of_no_use(call: Call, folder: Path) -> None:
    """A store that cannot be used is one clear error, and nothing runs."""
    (folder / "file").write_text("")
    result = call("run", "g.yaml", "--store", "file")
    assert (result.code, result.out, "Traceback" in result.err) == (2, "", False)
    assert result.err.startswith("error: ")


# --- trust


def test_trust(call: Call, folder: Path) -> None:
    """A plugin named by imagen-flow.toml is not imported before the user trusts it, nor after it
    has changed.
    """
    (folder / "theirs.py").write_text(
        'from pathlib import Path\nPath("imported").touch()\n' + NODES.replace("toy.", "theirs.")
    )
    (folder / "imagen-flow.toml").write_text('plugins = ["theirs.py"]\n')
    graph(folder, 'nodes: {a: {type: theirs.loud, text: x}}\noutputs: {o: "${a}"}\n')
    result = call("run", "g.yaml")
    assert (result.code, (folder / "imported").exists()) == (1, False)
    assert (
        "imagen-flow.toml:1:1: warning[untrusted-plugin]: theirs.py is not loaded: it is not trusted\n"
        in result.err
    )
    assert (
        call("trust", "imagen-flow.toml").out
        == f"trusted with its current content: {Path.cwd() / 'theirs.py'}\n"
    )
    assert call("run", "g.yaml").out == "o  X\n"
    with (folder / "theirs.py").open("a") as file:
        file.write("# changed\n")
    assert "it is not trusted with its present content" in call("run", "g.yaml").err


def test_nothing_to_trust(call: Call, folder: Path) -> None:
    """Trusting a settings file without plugins says that there is nothing to trust."""
    (folder / "imagen-flow.toml").write_text("")
    assert (
        call("trust", ".").out
        == "there is nothing to trust: imagen-flow.toml names no plugins and no folder outside its own\n"
    )


# --- words and display


def test_sizes_and_times() -> None:
    """Sizes and times are short and have a unit."""
    assert [format_bytes(n) for n in (0, 999, 1000, 2_449_000, 123_456_789, 10**13)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.4 MB",
        "123 MB",
        "10.0 TB",
    ]
    assert [format_seconds(t) for t in (0.004, 0.5, 12.34, 125, 3725)] == [
        "0.00 s",
        "0.50 s",
        "12.3 s",
        "2:05",
        "1:02:05",
    ]


def test_control_characters() -> None:
    """Text from a model or a file cannot control the terminal."""
    assert printable("a\x1b[2Jb\x07\tc\nd") == "a\ufffd[2Jb\ufffd\tc\nd"


def test_live_display() -> None:
    """The live display logs the steps that ran, and draws a bar with the time left for each running
    step.
    """
    from rich.console import Console

    from imagen_flow._cli.display import Live

    console = Console(
        file=StringIO(),
        width=80,
        height=20,
        force_terminal=True,
        color_system=None,
        legacy_windows=False,
    )
    live = Live(console)
    live.live.auto_refresh = False
    live.show(events.RunStarted("g.yaml", 3, 2, "cpu", 0.0, {"first": 1, "second": 1, "third": 3}))
    live.show(events.StepCached("first", "", 0.0))
    live.show(events.StepStarted("second", "", "it is new", 0.0))
    live.show(events.StepFinished("second", "", 1.25, 1.25))
    live.show(events.StepStarted("third", "[2]", "it is new", 1.25))
    live.show(events.StepProgress("third", "[2]", 10, 40, "denoising", 3.0))
    live.progress.started_at = time.monotonic() - 21.25
    shown = StringIO()
    Console(file=shown, width=80, height=20, color_system=None).print(live)
    live.close()
    assert "✓ second  1.2 s" in console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.getvalue().splitlines() == [
        "  third[2]  " + "━" * 32 + "  10/40  1:00 left",
        "  2 of 5 steps · at least 1:00 left · 0:21 · 1 ran, 1 from the store · g.yaml o…",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_live_display_cuts_nothing_that_matters(width: int) -> None:
    """On a narrow terminal, counts and times are complete whatever the names; the name, the bar and
    the end of the last line are cut.
    """
    from rich.console import Console

    from imagen_flow._cli.display import Live

    live = Live(
        Console(file=StringIO(), width=width, height=20, force_terminal=True, color_system=None)
    )
    live.live.auto_refresh = False
    name = "a_node_whose_name_is_rather_long/and_one_in_it"
    live.show(
        events.RunStarted(
            "a graph with quite a long name.yaml", 21, 21, "cuda:1", 0.0, {name: 21, "other": 1}
        )
    )
    live.show(events.StepFinished(name, "[0]", 3725.0, 3725.0))
    live.show(events.StepStarted(name, "[1]", "it is new", 3725.0))
    live.show(events.StepProgress(name, "[1]", 10, 40, "a note that is shown elsewhere", 3735.0))
    live.show(events.StepStarted("other", "", "it is new", 3725.0))
    live.show(events.StepLoading("other", "", "hf:org/a-model-with-a-long-name@main", 3725.0))
    live.progress.started_at = time.monotonic() - 3745.25
    shown = StringIO()
    Console(file=shown, width=width, height=20, color_system=None).print(live)
    live.close()
    first, second, last = shown.getvalue().splitlines()
    assert max(map(len, (first, second, last))) <= width
    assert first.endswith("  10/40  1:01 left")
    assert re.match(r"  other +0:20  loading hf:", second)
    assert last.startswith(
        "  1 of 22 steps · at least 19:40:36 left" + (" · 1:02:25 · " if width > 40 else "")
    )


def test_the_first_step_says_what_it_waits_for(tmp_path: Path) -> None:
    """A step shows the model that it waits for, once, until there is progress."""
    from imagen_flow._cli.display import Progress

    progress = Progress()
    for event in (events.StepStarted("n", "", "", 0.0), events.StepLoading("n", "", "hf:a/b", 0.0)):
        progress.update(event)
    assert progress.running["n"].summary(12.0) == ["0:12", "loading hf:a/b"]
    progress.update(events.StepProgress("n", "", 2, 4, "", 10.0))
    assert progress.running["n"].summary(12.0) == ["2/4", "0:12 left"]


def test_steps_of_lists_are_counted_once_they_are_known(folder: Path, call: Call) -> None:
    """A node with `each` over a computed list counts as one step until the list is known; never
    have more steps ended than there are.
    """
    import imagen_flow as flow
    from imagen_flow._cli.display import Progress

    inner = 'imagen_flow: 1\ninputs: {text: {type: text}}\nnodes: {a: {type: toy.loud, text: "${text}"}, b: {type: toy.loud, text: "${a}!"}}\noutputs: {o: "${b}"}\n'
    (folder / "inner.yaml").write_text(inner)
    (folder / "g.yaml").write_text(
        'imagen_flow: 1\nnodes:\n  w: {type: toy.words, text: "one two three"}\n  l: {type: toy.loud, each: {text: "${w}"}}\n  i: {type: ./inner.yaml, each: {text: "${l}"}}\noutputs: {o: "${i}"}\n'
    )
    progress, counts = Progress(), []
    for event in flow.execute(flow.plan("g.yaml", plugins="nodes.py", store=None)):
        progress.update(event)
        if isinstance(event, events.StepFinished):
            counts.append(progress.counts())
    assert counts == [
        (1, 3),
        (2, 5),
        (3, 5),
        (4, 5),
        (5, 10),
        (6, 10),
        (7, 10),
        (8, 10),
        (9, 10),
        (10, 10),
    ]


def test_the_time_that_is_left_is_guessed_from_what_equal_steps_took() -> None:
    """The time left is estimated from other elements of the same node, in any graph; if some nodes
    have no estimate, it is a minimum.
    """
    from imagen_flow._cli.display import Progress

    progress = Progress()
    progress.update(events.RunStarted("g", 1, 1, "cpu", 0.0, {"g[0]/n": 5, "g[1]/n": 5}))
    assert progress.remaining(0.0) is None
    for i in range(3):
        progress.update(events.StepFinished("g[0]/n", f"[{i}]", 2.0, 2.0 * i))
    for event in (
        events.StepStarted("g[0]/n", "[9]", "", 6.0),
        events.StepLoading("g[0]/n", "[9]", "hf:a/b", 6.0),
        events.StepFinished("g[0]/n", "[9]", 90.0, 6.0),
    ):
        progress.update(event)  # it waited for its model, unlike the others
    progress.update(events.StepsKnown("g[0]/n", 6, 6.0))
    progress.update(events.StepStarted("g[0]/n", "[3]", "", 6.0))
    assert progress.remaining(6.5) == (6 * 2.0 + 1.5, True)
    progress.update(events.StepsKnown("m", 1, 6.5))
    assert progress.remaining(6.5) == (6 * 2.0 + 1.5, False)
    assert progress.summary(elapsed=6.5) == [
        "4 of 12 steps",
        "at least 0:14 left",
        "0:06",
        "4 ran",
        "g on cpu",
    ]


def test_the_time_that_is_left_is_known_from_the_last_run(folder: Path, call: Call) -> None:
    """Before a step of a node has ended, its duration in the previous run is used for the
    estimate.
    """
    import imagen_flow as flow
    from imagen_flow._cli.display import Progress

    (folder / "g.yaml").write_text(
        'imagen_flow: 1\ninputs: {t: "a b c"}\nnodes: {w: {type: toy.words, text: "${t}"}, l: {type: toy.loud, each: {text: "${w}"}}}\noutputs: {o: "${l}"}\n'
    )
    flow.run("g.yaml", plugins="nodes.py", store="kept")
    started = next(
        event
        for event in flow.execute(flow.plan("g.yaml", plugins="nodes.py", store="kept", t="d e f"))
        if isinstance(event, events.RunStarted)
    )
    assert started.took.keys() == {"w", "l"}
    progress = Progress()
    progress.update(
        events.RunStarted("g", 2, 2, "cpu", 0.0, {"w": 1, "l": 1}, {"w": 3.0, "l": 2.0})
    )
    assert progress.remaining(0.0) == (5.0, True)
    progress.update(events.StepsKnown("l", 3, 3.0))
    assert progress.remaining(0.0) == (9.0, True)


def test_piped_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing ends, the progress is printed now and then, and a model that is being loaded is
    named.
    """
    import threading

    from imagen_flow._cli.display import Lines

    told = threading.Event()

    class Watched(StringIO):
        def write(self, text: str) -> int:
            if "…" in text:
                told.set()
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", err := Watched())
    lines = Lines(silence_s=0.01)
    lines.show(events.RunStarted("g.yaml", 2, 2, "cpu", 0.0, {"n": 2}))
    lines.show(events.StepStarted("n", "[0]", "", 0.0))
    lines.show(events.StepLoading("n", "[0]", "hf:a/b", 0.0))
    lines.show(events.StepProgress("n", "[0]", 3, 40, "", 0.0))
    assert told.wait(60)
    lines.close()
    first, *more = err.getvalue().splitlines()
    assert first == "  n[0]: loading hf:a/b"
    assert re.fullmatch(r"  … 0 of 2 steps · 0:00 · 0 ran · n\[0\] 3/40(, \d+:\d\d left)?", more[0])


@pytest.mark.parametrize(
    "words",
    [
        ["run", "g.yaml", "--out", ""],
        ["run", "g.yaml", "--store", ""],
        ["run", "g.yaml", "--plugin", ""],
        ["run", ""],
        ["replay", ""],
        ["watch", ""],
        ["folder", "run", ""],
        ["trust", ""],
        ["demo", "--out", ""],
        ["store", "info", "--store", ""],
    ],
)
def test_an_empty_path_is_refused(folder: Path, call: Call, words: list[str]) -> None:
    """An empty path is a mistake on the command line, not the working directory."""
    before = sorted(folder.iterdir())
    result = call(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(": the path is empty; name one, such as .\n")
    assert sorted(folder.iterdir()) == before
