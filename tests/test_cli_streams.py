"""What reaches the terminal and standard output: foreign text is escaped, and what nodes print
never spoils results.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow.errors import printable

#: A title for the terminal, a C1 sequence that clears it, and an override that turns text around.
HOSTILE = "a\x1b]0;x\x07\x9b2J\u202eb"
SHOWN = "a\ufffd]0;x\ufffd\ufffd2J\ufffdb"

PLUGIN = f'''
"""Nodes that say hostile things."""
import contextlib, io, os, subprocess, sys
from imagen_flow import Progress, Steps, Text, node

HOSTILE = {HOSTILE!r}

@node("my.fail", version=1)
def fail(text: Text = "") -> Text:
    raise ValueError(HOSTILE)

@node("my.text", version=1)
def text() -> Text:
    """Say {SHOWN} in help. {HOSTILE}"""
    return HOSTILE

@node("my.print", version=1)
def print_(text: Text = "") -> Text:
    print("printed", HOSTILE)
    sys.stdout.write("written\\n")
    sys.stdout.buffer.write(b"bytes\\n")
    sys.stdout.buffer.flush()
    os.write(1, b"by its descriptor\\n")
    subprocess.run(["echo", "by a program"], check=True)
    return "result"

@node("my.redirect", version=1)
def redirect(text: Text = "") -> Steps[Text]:
    with contextlib.redirect_stdout(io.StringIO()):
        for i in range(3):
            yield Progress(i, 3)
            while not os.path.exists("seen"):
                pass
    return "result"

@node("my.note", version=1)
def note() -> Steps[Text]:
    yield Progress(1, 2, HOSTILE)
    return "noted"
'''


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Project:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("NO_COLOR", "1")
        (folder / "nodes.py").write_text(PLUGIN)

    def graph(self, nodes: str, outputs: str = 'o: "${n}"', name: str = "g.yaml") -> str:
        (self.folder / name).write_text(
            f"imagen_flow: 1\nnodes: {{n: {nodes}}}\noutputs: {{{outputs}}}\n"
        )
        return name

    def call(self, *words: str) -> str:
        out, err = Terminal(), Terminal()
        with self.patch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit):
                cli.main(words)
        return out.getvalue() + err.getvalue()

    def run(self, graph: str, *more: str) -> str:
        return self.call("run", graph, "--plugin", "nodes.py", "--no-store", *more)

    # -- a way for each kind of text to be shown

    def graph_name(self) -> str:
        return self.call(
            "plan", self.graph("{type: my.text}", name=f"{HOSTILE}.yaml"), "--plugin", "nodes.py"
        )

    def graph_that_is_not_there(self) -> str:
        return self.call("plan", f"{HOSTILE}.yaml")

    def command(self) -> str:
        return self.call(HOSTILE)

    def argument(self) -> str:
        return self.call("nodes", "image.solid", HOSTILE)

    def output_path(self) -> str:
        return self.run(
            self.graph(
                "{type: my.text}", 'o: {from: "${n}", path: "{graph}.txt"}', name=f"{HOSTILE}.yaml"
            )
        )

    def exception(self) -> str:
        return self.run(self.graph("{type: my.fail}"))

    def value(self) -> str:
        return self.run(self.graph("{type: my.text}"))

    def note(self) -> str:
        return self.run(self.graph("{type: my.note}"))

    def printed(self) -> str:
        return self.run(self.graph("{type: my.print}"))

    def problem(self) -> str:
        return self.call(
            "plan",
            self.graph(
                "{type: "
                + json.dumps(HOSTILE).replace("\x9b", "\\x9b").replace("\u202e", "\\u202e")
                + "}"
            ),
        )

    def node_name(self) -> str:
        (self.folder / "g.yaml").write_text(
            f"imagen_flow: 1\nnodes: {{{json.dumps(HOSTILE)}: {{type: image.solid}}}}\n"
        )
        return self.call("plan", "g.yaml")

    def model_reference(self) -> str:
        return self.call(
            "plan",
            self.graph("{type: text.encode, prompt: a, model: " + json.dumps(f"./{HOSTILE}") + "}"),
        )

    def plugin_message(self) -> str:
        (self.folder / "broken.py").write_text(f"raise RuntimeError({HOSTILE!r})")
        return self.call("plan", self.graph("{type: image.solid}"), "--plugin", "broken.py")

    def plugin_help(self) -> str:
        return self.call("nodes", "my.text", "--plugin", "nodes.py")

    def settings(self) -> str:
        (self.folder / "imagen-flow.toml").write_text(
            f'plugins = ["./{json.dumps(HOSTILE)[1:-1]}.py"]', "utf-8"
        )
        return self.call("plan", self.graph("{type: image.solid, width: 1, height: 1}"))

    def label_of_a_picture(self) -> str:
        flow.run(
            self.graph("{type: my.text}", 'o: {from: "${n}", path: o.txt}', name=f"{HOSTILE}.yaml"),
            plugins="nodes.py",
            out="made",
        )
        return self.call("replay", "made/o.txt", "--plugin", "nodes.py")

    def file_in_a_folder(self) -> str:
        self.line("{type: my.fail}")
        return self.call(
            "folder", "run", "line.yaml", "--once", "--plugin", "nodes.py", "--no-store"
        )

    def status_of_a_folder(self) -> str:
        self.file_in_a_folder()
        return self.call("folder", "status", "line.yaml")

    def reason_beside_a_failed_file(self) -> str:
        self.file_in_a_folder()
        return "".join(path.read_text() for path in (self.folder / "failed").glob("*.txt"))

    def watched(self) -> str:
        from imagen_flow._cli.watch import _View
        from imagen_flow._watch import Changed, Noticed, Refused, Reloaded, Warned
        from imagen_flow.errors import Problem, StoreError

        out, err = Terminal(), Terminal()
        view = _View(quiet=False)
        with self.patch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            for result in (
                Changed((HOSTILE,), (HOSTILE,), False, 0.0),
                Noticed(HOSTILE, 0.0),
                Reloaded((HOSTILE,), 1, 0.0),
                Refused(HOSTILE, (), StoreError(HOSTILE), 0.0),
                Refused(HOSTILE, (Problem("bad-input", HOSTILE),), None, 0.0),
                Warned((Problem("bad-input", HOSTILE, severity="warning"),), 0.0),
            ):
                view.show(result)
        assert err.getvalue().count(SHOWN) == 8
        return out.getvalue() + err.getvalue()

    def exceptions_of_the_python_interface(self) -> str:
        from imagen_flow.errors import GraphError, NodeError, OutputError, Problem

        return "".join(
            map(
                str,
                (
                    OutputError(HOSTILE),
                    NodeError("n", HOSTILE),
                    GraphError([Problem("bad-input", HOSTILE)]),
                ),
            )
        )

    def line(self, nodes: str) -> None:
        (self.folder / "g.yaml").write_text(
            f'imagen_flow: 1\ninputs: {{file: {{type: file}}}}\nnodes: {{l: {{type: image.load, file: "${{file}}"}}, n: {nodes}}}\noutputs: {{o: {{from: "${{n}}", path: "{{item}}.txt"}}}}\n'
        )
        (self.folder / "line.yaml").write_text(
            "imagen_flow_folder: 1\ngraph: ./g.yaml\nin: ./in\nout: ./out\nsettle_s: 0\n"
        )
        (self.folder / "in").mkdir(exist_ok=True)
        (self.folder / "in" / f"{HOSTILE}.png").write_bytes(b"no picture")


KINDS: dict[str, Callable[[Project], str]] = {
    name: method
    for name, method in vars(Project).items()
    if name not in ("graph", "call", "run", "line") and not name.startswith("__")
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_no_foreign_text_steers_the_terminal(project: Project, kind: str) -> None:
    """Text of any origin is shown with its control characters replaced."""
    result = KINDS[kind](project)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]",
        re.sub("\x1b\\[(?:[0-9;]*[mAK]|2K|\\?25[lh]|1A)|\r", "", result),
    ), repr(result)
    assert SHOWN in result.replace("\n", "")


def test_json_escapes_what_a_terminal_obeys(project: Project) -> None:
    """JSON is the same for programs, and harmless on a terminal."""
    result = project.call(
        "plan",
        project.graph("{type: my.text}", name=f"{HOSTILE}.yaml"),
        "--plugin",
        "nodes.py",
        "--json",
    )
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", result)
    assert json.loads(result)["graph"] == f"{HOSTILE}.yaml"


def test_a_name_with_line_ends_stays_one_line(project: Project) -> None:
    """A name with line ends cannot pass for a line of ours."""
    result = project.call(
        "plan",
        project.graph("{type: my.text}", name="g\nnote: trust me\n.yaml"),
        "--plugin",
        "nodes.py",
    )
    assert result.startswith("g note: trust me .yaml on cpu in float32: 1 step, 1 to run\n")


@pytest.mark.parametrize(
    "text", ["plain", "tab\tand\nline\r\nends", "大 🎨 é", "\u200fעברית\u200e"]
)
def test_text_without_controls_is_shown_as_it_is(text: str) -> None:
    """Line ends of any system, tabs and all scripts are unchanged."""
    assert printable(text) == text


def test_commands_print_by_one_function() -> None:
    """Modules of the command line print only through `echo`, which escapes; only `text` and
    `streams` use lower levels.
    """
    found = []
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        if path.name in ("text.py", "streams.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if re.fullmatch(
                    r"print|click\.(echo|secho|style|confirm|prompt|pause|edit|echo_via_pager|progressbar)|sys\.(stdout|stderr)\.(write|writelines)|fault\.show|failed\.show",
                    called,
                ):
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)[:60]}")
    # The version and an interrupt are printed before anything is imported; `show_click_error`
    # prints a `UsageFault`.
    assert [line.partition(":")[0] for line in found] == ["__init__.py"]


# --- standard output is for results


def test_what_nodes_print_goes_to_standard_error(project: Project) -> None:
    """What nodes print through Python, the descriptor or a program goes to standard error; standard
    output has only results.
    """
    graph = project.graph("{type: my.print}")
    result = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "run", graph, "--plugin", "nodes.py", "--no-store"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "o  result\n"
    assert [
        word
        for word in (f"printed {SHOWN}", "written", "bytes", "by its descriptor", "by a program")
        if word not in result.stderr.split("\n")
    ] == []


def test_what_a_node_prints_takes_no_line_of_ours(project: Project) -> None:
    """An unfinished line of a node is ended before our next line."""
    (project.folder / "nodes.py").write_text(
        'from imagen_flow import Text, node\n@node("my.part", version=1)\ndef part() -> Text:\n    print("one\\ntwo", end="")\n    return "x"\n'
    )
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "imagen_flow",
            "run",
            project.graph("{type: my.part}"),
            "--plugin",
            "nodes.py",
            "--no-store",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [re.sub(r"[\d.]+ s\b", "T s", line) for line in result.stderr.splitlines()] == [
        "one",
        "two",
        "✓ n  T s",
        "done in T s: 1 step ran, 0 from the store",
    ]


def test_json_is_json_whatever_nodes_print(project: Project) -> None:
    """Each line of --json-events is an object, as are the events of a folder and the plan of a
    plugin that prints on import.
    """
    (project.folder / "nodes.py").write_text(
        PLUGIN + '\nprint("imported")\nos.write(1, b"imported\\n")\n'
    )
    project.line("{type: my.print}")
    graph = project.graph("{type: my.print}", name="own.yaml")
    (project.folder / "in" / f"{HOSTILE}.png").unlink()
    (project.folder / "in" / "a.png").write_bytes(b"no picture")
    for words in (
        ["run", graph, "--json-events"],
        ["plan", graph, "--json"],
        ["folder", "run", "line.yaml", "--once", "--json"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "imagen_flow", *words, "--plugin", "nodes.py", "--no-store"],
            capture_output=True,
            text=True,
        )
        lines = [result.stdout] if words[0] == "plan" else result.stdout.splitlines()
        assert lines and all(isinstance(json.loads(line), dict) for line in lines), result
        assert "imported" in result.stderr


@pytest.mark.parametrize("asked", ["", "warning"])
def test_libraries_are_quiet_unless_asked(project: Project, asked: str) -> None:
    """Logs and warnings of diffusers and transformers are hidden unless the environment says
    otherwise; a node's own warning is shown.
    """
    (project.folder / "nodes.py").write_text(
        "import warnings\nfrom imagen_flow import Text, node\n@node('my.noisy', version=1)\ndef noisy() -> Text:\n"
        "    import transformers.utils.logging as library\n"
        "    library.get_logger('transformers.tokenization').warning('logged noise')\n"
        "    warnings.warn_explicit('warned noise', UserWarning, 'x.py', 1, module='torchvision.io')\n    warnings.warn('of its own')\n    return 'done'\n"
    )
    environment = {
        **os.environ,
        **({"TRANSFORMERS_VERBOSITY": asked, "PYTHONWARNINGS": "default"} if asked else {}),
    }
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "imagen_flow",
            "run",
            project.graph("{type: my.noisy}"),
            "--plugin",
            "nodes.py",
            "--no-store",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert (
        "logged noise" in result.stderr,
        "warned noise" in result.stderr,
        "of its own" in result.stderr,
    ) == (bool(asked), bool(asked), True)


def test_a_node_that_takes_standard_output_away_takes_no_events(project: Project) -> None:
    """Events reach the reader even if a node replaces standard output."""
    graph = project.graph("{type: my.redirect}")
    result = []
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "imagen_flow",
            "run",
            graph,
            "--plugin",
            "nodes.py",
            "--no-store",
            "--json-events",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            result.append(json.loads(line)["event"])
            if result[-1] == "step_progress":
                Path("seen").touch()
    assert process.returncode == 0
    assert result[:3] == ["run_started", "step_started", "step_progress"]
    assert result[-1] == "run_finished"


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_closed_streams_fail_no_node(project: Project, closed: str) -> None:
    """A node may print even if its output is closed."""
    graph = project.graph("{type: my.text}", 'o: {from: "${n}", path: o.txt}')
    (project.folder / "nodes.py").write_text(
        PLUGIN.replace("    return HOSTILE", "    print('printed')\n    return 'printed'")
    )
    code = subprocess.run(
        f"{sys.executable} -m imagen_flow run {graph} --plugin nodes.py --no-store {closed}",
        shell=True,
        check=False,
        capture_output=True,
    ).returncode
    assert (code, (project.folder / "out/o.txt").read_text()) == (0, "printed\n")


def test_results_reach_a_closed_pipe_without_a_traceback(project: Project) -> None:
    """The reader of results may close the pipe."""
    graph = project.graph("{type: my.print}")
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "run", graph, "--plugin", "nodes.py", "--no-store"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    os.close(write)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
