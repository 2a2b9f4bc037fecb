"""What is asked for is one value: every option holds at every way in."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._plan.request import Options
from imagen_flow._watch import Refused, Waiting, as_json

PLUGIN = '''
"""A node that tells which model it was lent."""
from pathlib import Path
import imagen_flow as flow
from imagen_flow import File, Model, Text, loaders, node
from imagen_flow.loaders import UnresolvedModel

class Loader(loaders.Loader):
    def load(self, model, *, device, dtype, settings):
        return model.reference

    def check(self, model):
        if "own-code" in model.reference and not model.remote_code:
            raise UnresolvedModel("the model brings code of its own", why="nobody trusts it", fix="")

@node("my.look", version=1)
def look(*, model: Model[Loader], file: File | None = None) -> Text:
    return str(model)

@flow.hookimpl
def imagen_flow_nodes():
    return [look]

@flow.hookimpl
def imagen_flow_tiny(reference, at, folder):
    return Path(__file__).parent / "tiny"
'''

GRAPH = """
imagen_flow: 1
inputs: {file: {type: file, default: ./given.txt}}
nodes: {a: {type: my.look, model: "hf:org/MODEL@main", file: "${file}"}}
outputs: {words: {from: "${a}", path: words.txt}}
"""

LINE = 'imagen_flow_folder: 1\ngraph: ./graph.yaml\nin: ./in\nout: ./done-out\nsettle_s: 0\noutputs: {words: "{item}.txt"}\n'


class Effect(NamedTuple):
    """What an option brings about: words that are there only with it, or only without. `model` is
    what the graph names.
    """

    value: Any
    only_with: str = ""
    only_without: str = ""
    model: str = "plain"


#: By option, what tells that it holds. "store" is shown by what lies on the disk afterwards.
EFFECTS: dict[str, list[Effect]] = {
    "device": [Effect("cuda:99", "cuda:99")],
    "dtype": [Effect("float17", "float17")],
    "batch": [Effect("all", "'batch' takes")],
    "force": [Effect(("nobody",), "there is no node 'nobody' to force")],
    "store": [
        Effect(Path("kept"), "files: kept", "files: home store"),
        Effect(None, "files: none", "files: home store"),
    ],
    "plugins": [Effect((Path("nodes.py"),), "", "no plugin provides the node type 'my.look'")],
    "locked": [Effect(True, "is not in the lock")],
    "tiny": [Effect(True, "", "is not on this machine", "absent")],
    "allow_pickle": [
        Effect(("hf:org/pickled@main/pytorch_model.bin",), "", "only as pickles", "pickled")
    ],
    "trust_remote_code": [
        Effect(("hf:org/own-code@main",), "", "the model brings code of its own", "own-code")
    ],
}


def words_of(options: dict[str, Any]) -> list[str]:
    """Spell options as the command line does."""
    spelt = {"plugins": "plugin"}
    words: list[str] = []
    for name, value in options.items():
        option = f"--{spelt.get(name, name).replace('_', '-')}"
        if name == "store" and value is None:
            words.append("--no-store")
        elif value is True:
            words.append(option)
        else:
            words += [
                part
                for one in (value if isinstance(value, tuple) else (value,))
                for part in (option, str(one))
            ]
    return words


class Ending(StringIO):
    """Standard output that interrupts the command once it says that it waits."""

    def write(self, text: str) -> int:
        if '"event": "waiting"' in text:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


class Project:
    """A folder with a graph, its plugin, a line, and a hub's cache with models."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        (folder / "nodes.py").write_text(PLUGIN)
        (folder / "given.txt").write_text("given")
        (folder / "line.yaml").write_text(LINE)
        (folder / "in").mkdir()
        save_weights(folder / "tiny", size=1)
        for name in ("plain", "own-code"):
            save_weights(self.cached(name))
        (self.cached("pickled") / "config.json").write_text("{}")
        torch.save({"w": torch.zeros(4)}, self.cached("pickled") / "pytorch_model.bin")

    def cached(self, name: str) -> Path:
        place = self.folder / "hub" / f"models--org--{name}"
        snapshot = place / "snapshots" / ("1" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text("1" * 40)
        return snapshot

    def call(self, *words: str, out: StringIO | None = None) -> str:
        """Call a command in this process; give all that it prints."""
        out, err = out or StringIO(), StringIO()
        with self.patch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit):
                cli.main(words)
        assert "Traceback" not in err.getvalue(), err.getvalue()
        return out.getvalue() + err.getvalue()

    # -- the ways in: each gives all that came of it

    def cli_plan(self, options: dict[str, Any]) -> str:
        return self.call("plan", "graph.yaml", *words_of(options))

    def cli_run(self, options: dict[str, Any]) -> str:
        return self.call("run", "graph.yaml", *words_of(options)) + self.written("out")

    def cli_watch(self, options: dict[str, Any]) -> str:
        return self.call(
            "watch", "graph.yaml", "--json-events", *words_of(options), out=Ending()
        ) + self.written("out")

    def cli_folder_run(self, options: dict[str, Any]) -> str:
        shutil.rmtree(self.folder / "failed", ignore_errors=True)
        (self.folder / "in" / "item.png").write_text("an item")
        said = self.call("folder", "run", "line.yaml", "--once", *words_of(options))
        return said + self.written("failed") + self.written("done-out")

    def cli_replay(self, options: dict[str, Any]) -> str:
        save_weights(self.cached("absent"))
        self.make(
            {
                "plugins": (Path("nodes.py"),),
                **{
                    name: effect.value
                    for name in ("allow_pickle", "trust_remote_code")
                    for effect in EFFECTS[name]
                },
            }
        )
        shutil.rmtree(self.folder / "hub" / "models--org--absent")
        return self.replay(*words_of(options))

    def replay(self, *words: str) -> str:
        return self.call(
            "replay", "made/words.txt", "--yes", "--set", "file=given.txt", *words
        ) + self.written("out")

    def flow_plan(self, options: dict[str, Any]) -> str:
        return told(lambda: json.dumps(flow.plan("graph.yaml", **options).to_json()))

    def flow_run(self, options: dict[str, Any]) -> str:
        return told(lambda: str(flow.run("graph.yaml", **options)))

    def flow_watch(self, options: dict[str, Any]) -> str:
        def watched() -> Iterator[str]:
            for said in flow.watch("graph.yaml", **options):
                yield (
                    str(said.error) + "".join(map(str, said.problems))
                    if isinstance(said, Refused)
                    else json.dumps(as_json(said))
                )
                if isinstance(said, Waiting):
                    return

        return told(lambda: "".join(watched()))

    def make(self, options: dict[str, Any]) -> None:
        flow.run("graph.yaml", out="made", **{"store": None, **options})

    def written(self, folder: str) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / folder).glob("*.txt")))

    def files(self) -> str:
        found = ["kept"] * (self.folder / "kept" / "index.sqlite").exists()
        found += ["home store"] * (
            Path.home() / ".cache" / "imagen-flow" / "store" / "index.sqlite"
        ).exists()
        return f"files: {' '.join(found) or 'none'}"


def told(act: Callable[[], str]) -> str:
    try:
        return act()
    except (flow.ImagenFlowError, ValueError) as refused:
        return str(refused)


def save_weights(folder: Path, *, size: int = 4) -> None:
    folder.mkdir(exist_ok=True)
    save_file({"w": np.zeros(size, "float32")}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


WAYS: dict[str, Callable[[Project, dict[str, Any]], str]] = {
    "imagen-flow plan": Project.cli_plan,
    "imagen-flow run": Project.cli_run,
    "imagen-flow watch": Project.cli_watch,
    "imagen-flow folder run": Project.cli_folder_run,
    "imagen-flow replay": Project.cli_replay,
    "flow.plan": Project.flow_plan,
    "flow.run": Project.flow_run,
    "flow.watch": Project.flow_watch,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("option", "effect"),
    [(name, effect) for name, effects in EFFECTS.items() for effect in effects],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_every_option_holds_at_every_way_in(
    project: Project, option: str, effect: Effect, way: str
) -> None:
    """What an option brings about is there with it and not without it, whichever way a graph is
    asked for.
    """
    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", effect.model))
    usual: dict[str, Any] = {} if option == "plugins" else {"plugins": (Path("nodes.py"),)}
    without = WAYS[way](project, usual) + project.files()
    (Path.home() / ".cache" / "imagen-flow" / "store" / "index.sqlite").unlink(missing_ok=True)
    held = WAYS[way](project, {**usual, option: effect.value}) + project.files()
    assert (effect.only_with in held, effect.only_without in without) == (True, True), (
        f"with it:\n{held}\nwithout it:\n{without}"
    )
    if effect.only_with:
        assert effect.only_with not in without
    if effect.only_without:
        assert effect.only_without not in held


@pytest.mark.parametrize("way", [way for way in WAYS if way != "imagen-flow replay"])
def test_the_settings_file_holds_at_every_way_in(project: Project, way: str) -> None:
    """What imagen-flow.toml says is taken where the options say nothing; only a replay goes by what
    is recorded.
    """
    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", "plain"))
    (project.folder / "imagen-flow.toml").write_text('device = "cuda:99"\nstore = "./kept"\n')
    usual: dict[str, Any] = {"plugins": (Path("nodes.py"),)}
    assert "cuda:99" in WAYS[way](project, usual)
    held = WAYS[way](project, {**usual, "device": "cpu"}) + project.files()
    assert ("cuda:99" not in held, "files: kept" in held) == (True, True), held


RAW = 'imagen_flow: 1\ninputs: {file: {type: file, default: ./given.txt}}\nnodes: {}\noutputs: {raw: {from: "${file}", path: raw.txt, exists: replace}}\n'


@pytest.mark.parametrize("may", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        "imagen-flow plan",
        "imagen-flow run",
        "imagen-flow watch",
        "imagen-flow replay",
        "flow.run",
        "flow.watch",
    ],
)
def test_out_and_replace_hold_at_every_way_in_that_writes(
    project: Project, way: str, may: bool
) -> None:
    """Outputs go to the folder that is named, and replace what no run wrote only if that is asked
    for.
    """
    (project.folder / "graph.yaml").write_text(RAW)
    if way == "imagen-flow replay":
        project.make({})
        shutil.move("made", "kept")
        Path("made").mkdir()
        for path in Path("kept").iterdir():
            shutil.move(path, Path("made") / path.name.replace("raw", "words"))
    place = project.folder / "elsewhere" / "raw.txt"
    place.parent.mkdir()
    place.write_text("somebody's work")
    words = ["--out", "elsewhere", *(["--replace"] if may else [])]
    told_ = {
        "imagen-flow plan": lambda: project.call("plan", "graph.yaml", *words),
        "imagen-flow run": lambda: project.call("run", "graph.yaml", *words),
        "imagen-flow watch": lambda: project.call(
            "watch", "graph.yaml", "--json-events", *words, out=Ending()
        ),
        "imagen-flow replay": lambda: project.replay(*words),
        "flow.run": lambda: told(lambda: str(flow.run("graph.yaml", out="elsewhere", replace=may))),
        "flow.watch": lambda: project.flow_watch({"out": "elsewhere", "replace": may}),
    }[way]()
    if way == "imagen-flow plan":
        assert (
            "replaces a file that no run wrote" in told_,
            "refused: another file exists" in told_,
        ) == (may, not may)
    else:
        assert place.read_text() == ("given" if may else "somebody's work"), told_


def test_plans_are_made_in_one_place() -> None:
    """No way in assembles what a plan gets by itself: all of them ask `prepare`."""
    folder = Path(cli.__file__).parent.parent
    calls = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if re.search(
            r"\b(make_plan|ModelPolicy)\(", path.read_text("utf-8").replace("class ModelPolicy", "")
        )
    }
    assert {name for name in calls if not name.startswith("_models/")} == {
        "_plan/plan.py",
        "_plan/request.py",
    }


def test_no_option_is_missing_in_the_table_or_at_a_way_in() -> None:
    """An option that is added has a line above, a parameter in each Python function, and a spelling
    in each command that plans.
    """
    names = {field.name for field in fields(Options)}
    assert EFFECTS.keys() == names
    for function in (Options.of, flow.plan, flow.run, flow.watch):
        assert names <= inspect.signature(function).parameters.keys(), function
    for words in ("plan", "run", "watch", "demo", "replay", "folder run", "folder drain"):
        command: Any = cli.commands
        for word in words.split():
            command = command.get_command(click.Context(command), word)
        assert {*names, "no_store"} <= {parameter.name for parameter in command.params}, words


def test_a_picture_made_with_tiny_is_replayed_with_tiny(project: Project) -> None:
    """It needs no option, for the picture says so; a model that a path names is found by its name
    alone, and nothing at that path is opened.
    """
    (project.folder / "graph.yaml").write_text(
        GRAPH.replace("hf:org/MODEL@main", "./far/model.safetensors")
    )
    project.make({"plugins": (Path("nodes.py"),), "tiny": True})
    said = project.replay("--plugin", "nodes.py", "--no-store")
    assert (
        "note: it was made with --tiny, so small models with random weights are used again\n"
        in said
    )
    assert said.endswith("./model.safetensors (tiny)\n")


def test_a_line_that_skips_duplicates_does_not_take_tiny_results_for_real_ones(
    project: Project,
) -> None:
    """A file that was tried with --tiny is done for real afterwards."""
    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", "plain"))
    (project.folder / "line.yaml").write_text(LINE + "duplicates: skip\n")
    usual = {"plugins": (Path("nodes.py"),)}
    assert "hf:org/plain@main (tiny)" in project.cli_folder_run({**usual, "tiny": True})
    shutil.rmtree(project.folder / "done-out")
    assert project.cli_folder_run(usual).endswith("hf:org/plain@main\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--locked"], "is not in the lock"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--force", "nobody"], "no node 'nobody'"),
        (["--dtype", "float17"], "float17"),
    ],
)
def test_a_line_that_no_file_can_pass_moves_none_to_failed(
    project: Project, words: list[str], said: str
) -> None:
    """It is refused before it starts, and originals stay where they are."""
    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", "plain"))
    (project.folder / "in" / "item.png").write_text("an item")
    assert said in project.call(
        "folder", "run", "line.yaml", "--once", "--plugin", "nodes.py", *words
    )
    assert [path.name for path in (project.folder / "in").iterdir()] == ["item.png"]


def test_the_lock_of_a_replay_is_that_of_the_working_directory(project: Project) -> None:
    """With --locked a picture's models must be in it, and they may be."""
    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", "plain"))
    project.make({"plugins": (Path("nodes.py"),)})
    said = project.replay("--plugin", "nodes.py", "--locked")
    assert f"there is no lock {project.folder / 'imagen-flow.lock'}" in said


def test_a_watch_that_is_locked_begins_again_when_the_lock_changes(project: Project) -> None:
    """What was refused because the lock does not name it runs once it does."""
    from hashlib import sha256

    (project.folder / "graph.yaml").write_text(GRAPH.replace("MODEL", "plain"))
    files = [
        (path.name, path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        for path in sorted(project.cached("plain").iterdir())
    ]
    listed = "".join(
        f'  {{ name = "{name}", size = {size}, sha256 = "{digest}" }},\n'
        for name, size, digest in files
    )
    lock = f'imagen_flow_lock = 1\n[[model]]\nreference = "hf:org/plain@main"\ncommit = "{"1" * 40}"\nlicense = ""\nvariant = ""\nfiles = [\n{listed}]\n'
    said: list[str] = []
    for happening in flow.watch(
        "graph.yaml", plugins="nodes.py", locked=True, store=None, settle_s=0
    ):
        said.append(type(happening).__name__)
        if isinstance(happening, Waiting) and "RunFinished" in said:
            break
        if isinstance(happening, Waiting):
            (project.folder / "imagen-flow.lock").write_text(lock)
    assert said[:2] == ["Refused", "Waiting"]
