"""The kit for authors of plugins: what it makes up, what it runs, and that each of its rules can be
broken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow import testing
from imagen_flow._kit import begin

#: A node type for each rule that it breaks, named after it.
BAD = '''
import os
import socket
import tempfile

import numpy as np

import imagen_flow as flow
from imagen_flow import Image, List, Progress, Seed, Steps, Tensor


class Odd:
    def __init__(self, text):
        self.text = text




@flow.hookimpl
def imagen_flow_codecs():
    return [flow.Codec("bad.odd", Odd, lambda v: v.text.encode(), lambda b: Odd(b.decode().upper()))]


@flow.hookimpl
def imagen_flow_nodes():
    return [value for value in globals().values() if isinstance(value, type(quiet))]


@flow.node("bad.quiet", version=1)
def quiet(text: str) -> str:
    """Print."""
    print("here", text)
    return text


@flow.node("bad.documented", version=1)
def documented(text: str) -> str:
    """no sentence"""
    return text


@flow.node("bad.example", version=1)
def example(text: str) -> float:
    """Take a number in a text."""
    return float(text)


CALLS = []


@flow.node("bad.deterministic", version=1)
def deterministic(text: str) -> int:
    """Count calls."""
    CALLS.append(text)
    return len(CALLS)


@flow.node("bad.stable", version=1)
def stable(text: str) -> int:
    """Hash a text."""
    return hash(text)


@flow.node("bad.stored", version=1)
def stored(text: str) -> Odd:
    """Give a value whose codec loses something."""
    return Odd(text)


@flow.node("bad.random", version=1)
def draws(image: Image) -> Image:
    """Draw from the state of the process, and put nothing back."""
    np.random.rand()
    return image


@flow.node("bad.inputs", version=1)
def inputs(image: Image) -> Image:
    """Change the input."""
    image.pixels.setflags(write=True)
    image.pixels[:] = 0
    return Image(np.zeros((2, 2, 3), np.uint8))


@flow.node("bad.progress", version=1)
def progress(text: str) -> Steps[str]:
    """Go back."""
    yield Progress(2, 3)
    yield Progress(1, 3)
    return text


@flow.node("bad.cancel", version=1)
def cancel(text: str) -> Steps[str]:
    """Raise when it is closed."""
    try:
        for done in range(3):
            yield Progress(done, 3)
    except GeneratorExit:
        raise ValueError("not now")
    return text


@flow.node("bad.files", version=1)
def files(text: str) -> str:
    """Write a file."""
    with open(os.path.join(os.path.expanduser("~"), "bad.txt"), "w") as stream:
        stream.write(text)
    return text


@flow.node("bad.network", version=1)
def network(text: str) -> str:
    """Connect."""
    with socket.socket() as connection:
        connection.settimeout(0.1)
        try:
            connection.connect(("127.0.0.1", 9))
        except OSError:
            pass
    return text


@flow.node("bad.settings", version=1, uses=("torch",))
def settings(text: str) -> str:
    """Change a setting of torch."""
    import torch

    torch.set_default_dtype(torch.float64)
    return text
'''

GOOD = '''
from typing import Annotated, NamedTuple

import numpy as np

import imagen_flow as flow
from imagen_flow import File, Image, List, Mask, Progress, Range, Scratch, Seed, Steps


class Parts(NamedTuple):
    light: Image
    count: int


@flow.hookimpl
def imagen_flow_nodes():
    return [noisy, split, slow, parse, measure, ask]


@flow.hookimpl
def imagen_flow_examples():
    return {"good.parse": {"file": {"name": "number.txt", "text": "3.5"}}}


@flow.node("good.noisy", version=1)
def noisy(image: Image, *, amount: Annotated[float, Range(0, 1)] = 0.5, seed: Seed) -> Image:
    """Add noise to a picture."""
    noise = np.random.default_rng(seed).normal(0, amount, image.pixels.shape)
    return Image(np.clip(image.pixels + noise, 0, 255).astype(np.uint8))


@flow.node("good.split", version=1)
def split(pictures: List[Image], mask: Mask | None = None) -> Parts:
    """Take the first of some pictures."""
    return Parts(pictures[0], len(pictures))


@flow.node("good.slow", version=1)
def slow(text: str, folder: Scratch) -> Steps[str]:
    """Say it slowly, with a checkpoint."""
    for done in range(3):
        (folder / "done.txt").write_text(str(done))
        yield Progress(done + 1, 3)
    return text


@flow.node("good.measure", version=1)
def measure(tensors: List[flow.Tensor], sound: flow.Audio) -> float:
    """Measure."""
    return float(len(tensors) + len(sound.samples))


@flow.node("good.ask", version=1, calls="toy.example")
def ask(text: str) -> str:
    """Ask a service, which a check does not."""
    raise RuntimeError(text)


@flow.node("good.parse", version=1)
def parse(file: File) -> float:
    """Read a number."""
    return float(file.read_text())
'''


def checked(path: Path, text: str) -> testing.Report:
    path.write_text(text, "utf-8")
    return testing.check(str(path), files=[path])


def test_every_rule_is_broken_by_a_plugin_made_for_it(tmp_path: Path) -> None:
    """Each node type breaks the rule that it is named after, and no other; what concerns the whole
    plugin is tested below, and models by their own tests.
    """
    report = checked(tmp_path / "bad.py", BAD)
    assert {(f.node, f.rule) for f in report.findings} == {
        (node, node.partition(".")[2]) for node in report.nodes
    }
    elsewhere = {"loads", "light", "model"}
    assert {f.rule for f in report.findings} == testing.RULES.keys() - elsewhere
    told = {f.rule: str(f) for f in report.findings}
    assert told["inputs"] == (
        "bad.inputs: inputs: it changes its input 'image'\n"
        "  = why: inputs are shared with other nodes and must not be changed\n"
        "  = fix: work on a copy of image"
    )
    assert "it writes to " in told["files"] and "bad.txt" in told["files"]
    assert "127.0.0.1" in told["network"]


def test_a_plugin_that_behaves_has_no_findings(tmp_path: Path) -> None:
    """Made-up arguments do for most node types, files of examples are written, a scratch folder is
    where a node may write.
    """
    report = checked(tmp_path / "good.py", GOOD)
    assert [str(finding) for finding in report.findings] == []
    assert report.nodes == tuple(
        f"good.{name}" for name in "ask measure noisy parse slow split".split()
    )


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("import nothing_of_this_name", "loads", "cannot be imported: ModuleNotFoundError"),
        ("import os; os._exit(7)", "loads", "its process ended with status 7"),
        ("import time; time.sleep(60)", "loads", "it was not done after 3 s"),
        ("import jax\n" + GOOD, "light", "importing it imports jax"),
        (
            GOOD.replace('{"good.parse"', '{"good.read": {}, "good.parse"'),
            "example",
            "its hook imagen_flow_examples names 'good.read', which it does not offer",
        ),
        (
            GOOD.replace('"file": {', '"path": {'),
            "example",
            "its example of good.parse has 'path', which is no port of it",
        ),
    ],
    ids="import exit hang heavy node port".split(),
)
def test_what_concerns_the_whole_plugin(tmp_path: Path, text: str, rule: str, message: str) -> None:
    """One that cannot be imported, ends the process or hangs is told so, and so is one that imports
    heavy libraries or gives examples that fit nothing.
    """
    (tmp_path / "jax.py").write_text("", "utf-8")
    path = tmp_path / "plugin.py"
    path.write_text(text, "utf-8")
    report = testing.check(str(path), files=[path], limit_s=3 if "sleep" in text else 60)
    assert next(f.message for f in report.findings if f.rule == rule).startswith(message)


def test_the_command_reports_and_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 where all behave, 1 where something is found, 2 where there is no such plugin."""
    monkeypatch.chdir(tmp_path)
    Path("good.py").write_text(GOOD, "utf-8")
    Path("loud.py").write_text(
        "from imagen_flow import node\n@node('l.oud', version=1)\ndef loud(t: str) -> str:\n"
        "    '''Be loud.'''\n    print(t)\n    return t\n",
        "utf-8",
    )

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["plugin", "check", *arguments])
        return (int(ended.value.code or 0), *capsys.readouterr())

    code, out, _ = call("good.py")
    assert (code, out) == (0, f"{tmp_path / 'good.py'}: 6 node types, 0 findings\n")
    code, out, _ = call("loud.py")
    assert (code, out) == (
        1,
        "l.oud: quiet: it prints 'a red circle'\n"
        "  = why: standard output belongs to results; nodes speak by notes\n"
        "  = fix: yield Progress(done, total, note), or log it\n\n"
        f"{tmp_path / 'loud.py'}: 1 node type, 1 finding; 0 behave\n",
    )
    code, out, _ = call("loud.py", "--json")
    (found,) = json.loads(out)
    assert (code, found["findings"][0]["rule"]) == (1, "quiet")
    assert call("none.py")[0] == 2
    code, _, err = call("imagen-flow:imag")
    assert code == 2 and "did you mean 'imagen-flow:image'?" in err
    Path("my-nodes").mkdir()
    Path("my-nodes/mine.txt").write_text("mine", "utf-8")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plugin", "new", "my-nodes"])


def test_a_name_that_means_no_plugin_or_several_is_refused() -> None:
    """Before anything is tried."""
    with pytest.raises(flow.ImagenFlowError, match="no plugin 'imagen-flaw' is installed; did you"):
        testing.check("imagen-flaw")
    with pytest.raises(flow.ImagenFlowError, match="name one of the plugins: imagen-flow:"):
        testing.check("imagen-flow")


def test_a_node_that_seeds_a_library_is_found(tmp_path: Path) -> None:
    """Also where it always seeds it alike, and is the first to import it."""
    report = checked(
        tmp_path / "seeds.py",
        """
from imagen_flow import Seed, node


@node("seeds.numpy", version=1)
def seeded(seed: Seed) -> float:
    '''Draw a number.'''
    import numpy.random

    numpy.random.seed(seed % 2**32)
    return float(numpy.random.normal())
""",
    )
    assert [(f.rule, f.message) for f in report.findings] == [
        ("random", "it seeds or draws from the random state of numpy")
    ]


# --- what the kit makes and runs


class Both(NamedTuple):
    larger: flow.Image
    width: int


@flow.node("toy.double", version=1)
def double(image: flow.Image, *, times: int = 2) -> Both:
    """Repeat a picture."""
    return Both(flow.Image(np.tile(image.pixels, (1, times, 1))), image.width * times)


@flow.node("toy.sum", version=1)
def total(images: flow.List[flow.Image], *, weights: list[float]) -> float:
    """Add up."""
    return float(sum(w * i.pixels.mean() for w, i in zip(weights, images, strict=True)))


def test_a_node_is_run_in_a_line() -> None:
    """By the engine, with values and literals; one output comes alone, several by name."""
    picture = testing.picture(6, 4)
    outputs = testing.run_node(double, image=picture, times=3)
    assert (outputs["width"], outputs["larger"].pixels.shape) == (18, (4, 18, 3))
    assert testing.run_node(total, images=[picture, picture], weights=[1.0, 0.5]) == pytest.approx(
        1.5 * picture.pixels.mean()
    )
    from imagen_flow_image.geometry import flip

    assert testing.run_node(flip, image=picture).width == 6  # its plugin is installed
    with pytest.raises(flow.GraphError, match="takes a whole number, not the text 'two'"):
        testing.run_node(double, image=picture, times="two")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_sample_picture_is_the_same_everywhere(channels: int) -> None:
    """Of any number of channels and size, with something to see in it."""
    picture = testing.picture(9, 7, channels=channels)
    assert picture.pixels.shape == (7, 9, channels)
    assert picture.pixels.std() > 10
    assert np.array_equal(picture.pixels, testing.picture(9, 7, channels=channels).pixels)


#: What a rule cannot ask: a signature draws a random number, and names the time.
EXCEPTIONS = {("credentials.sign", "deterministic")}
#: Its nodes want weights in a file that nothing makes up.
NOT_TRIED = {("score.aesthetic", "example")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin",
    [
        *("audio", "flow", "hosted", "image", "io", "language"),
        *("metrics", "retrieval", "safety", "vision"),
    ],
)
def test_the_plugins_that_ship_behave(plugin: str) -> None:
    """None of their node types breaks a rule, but for what is said above."""
    report = testing.check(f"imagen-flow:{plugin}")
    known = EXCEPTIONS | NOT_TRIED
    assert [str(f) for f in report.findings if (f.node, f.rule) not in known] == []
    assert report.nodes


# --- a new plugin


def test_a_new_plugin_behaves_and_its_graph_fits(tmp_path: Path) -> None:
    """What is written passes the check, and formatters have nothing to say."""
    begin("my-nodes", tmp_path / "my-nodes", version="0.1.0")
    nodes = tmp_path / "my-nodes" / "my_nodes" / "nodes.py"
    assert testing.check(str(nodes), files=[nodes]).findings == ()
    graph = flow.load(tmp_path / "my-nodes" / "graphs" / "posterise.yaml", plugins=[nodes])
    assert graph.warnings == ()
    made = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", tmp_path / "my-nodes"],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize(
    "name",
    ["", "My-Nodes", "my nodes", "../nodes", "class", "imagen-flow-x", "1st", "a" * 300 + "!"],
)
def test_a_name_that_no_package_can_have_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing is written."""
    with pytest.raises(flow.ImagenFlowError, match="cannot name a plugin"):
        begin(name, tmp_path / "new", version="0.1.0")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """One with files in it is refused; an empty one will do."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(flow.ImagenFlowError, match="exists already"):
        begin("my-nodes", tmp_path / "kept", version="0.1.0")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert len(begin("my-nodes", tmp_path / "empty", version="0.1.0")) == 8
