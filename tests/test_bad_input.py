"""Bad input, as a user meets it: a clear error or the right result, and everything else left as it
was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._types import image_files as pictures

NODES = '''
"""Toy nodes."""
from pathlib import Path
import numpy as np
from imagen_flow import File, Image, Text, Tensor, node

@node("toy.loud", version=1)
def loud(text: Text) -> Text:
    """Raise a text's voice."""
    return text.upper()

@node("toy.read", version=1)
def read(file: File, *, after: Text = "") -> Text:
    """Read a text."""
    return file.read_text()

@node("toy.overwrite", version=1)
def overwrite(text: Text, *, name: Text = "words.txt") -> Text:
    """Write into a file that another node reads."""
    Path(name).write_text(text) if text else Path(name).unlink()
    return "done"

@node("toy.restless", version=1)
def restless(file: File) -> Text:
    """Read a file that somebody writes to whenever it is read."""
    file.path.write_text(file.path.read_text() + ".")
    return file.read_text()

@node("toy.paint", version=1)
def paint(text: Text) -> Image:
    """Paint a text's length."""
    return Image(np.full((2, 2, 3), len(text) % 256, "uint8"))

@node("toy.noise", version=1)
def noise(*, side: int = 700) -> Image:
    """Paint what cannot be made small."""
    return Image(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype="uint8"))

@node("toy.nan", version=1)
def nan() -> Image:
    """Paint nothing."""
    return Image(np.full((2, 2, 3), np.nan, "float32"))

@node("toy.late_nan", version=1)
def late_nan() -> Image:
    """Spoil a picture that was in order."""
    pixels = np.zeros((2, 2, 3), "float32")
    picture = Image(pixels)
    pixels[0, 0] = np.nan
    return picture

@node("toy.ratio", version=1)
def ratio() -> float:
    """Give no number."""
    return float("nan")
'''


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process, with the toy nodes where a command takes nodes."""

    def call(*arguments: str) -> Said:
        given = list(arguments)
        if given[0] in ("run", "plan", "replay"):
            given += ["--plugin", "nodes.py"]
        with pytest.raises(SystemExit) as exited:
            cli.main(given)
        return Said(int(exited.value.code or 0), *capsys.readouterr())

    return call


def graph(folder: Path, text: str, name: str = "g.yaml") -> None:
    (folder / name).write_text("imagen_flow: 1\n" + text, "utf-8")


def listed(folder: Path) -> list[str]:
    """Everything below a folder, hidden and temporary files too."""
    return (
        sorted(
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if "__pycache__" not in p.parts
        )
        if folder.exists()
        else []
    )


def failure(said: Said) -> str:
    """What was said of the one step or output that failed, without the run's last line."""
    return "\n".join(
        line
        for line in said.err.splitlines()
        if not re.match(r"failed in |done in |✓ |  \d+ step", line)
    )


LOAD = """\
inputs: {picture: {type: file, default: ./p.png}}
nodes:
  loaded: {type: image.load, file: "${picture}"}
outputs:
  same: {from: "${loaded}", path: same.png}
"""


def png(width: int, height: int, *, sides: tuple[int, int] | None = None) -> bytes:
    """A grey PNG; its header may promise other sides than it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress(
        b"".join(b"\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    )
    head = struct.pack(">IIBBBBB", *(sides or (width, height)), 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- pictures
# ------------------------------------------------------------------------------------------------------------------


def test_a_missing_picture(call: Call, folder: Path) -> None:
    """A picture that is not there is a problem with its place, exit code 1; one missing on the
    command line, exit code 2. The nearest name is offered; nothing runs.
    """
    graph(folder, LOAD)
    (folder / "pp.png").write_bytes(png(2, 2))
    said = call("run", "g.yaml")
    assert said == Said(
        1,
        "",
        """\
g.yaml:2:41: error[missing-file]: there is no file './p.png'
2 | inputs: {picture: {type: file, default: ./p.png}}
  |                                         ^^^^^^^
  = why: it was searched for as p.png
  = fix: did you mean 'pp.png'?
""",
    )
    said = call("run", "g.yaml", "--set", "picture=qq.png")
    assert (said.code, said.err) == (
        2,
        "error[missing-file]: there is no file 'qq.png'\n  = why: it was searched for as qq.png\n  = fix: did you mean 'pp.png'?\n",
    )
    assert not (folder / "out").exists()


def test_a_truncated_picture(call: Call, folder: Path) -> None:
    """A picture that breaks off fails its node, with the file's name; nothing of it is kept or
    written, and once it is mended it runs.
    """
    whole = png(64, 64)
    (folder / "p.png").write_bytes(whole[: len(whole) // 2])
    graph(folder, LOAD)
    for _ in range(2):  # a failure is not kept
        said = call("run", "g.yaml")
        assert said.code == 1
        assert re.fullmatch(
            r"""✗ loaded failed:
    g\.yaml:4:3: error\[node-failed\]: loaded: '\./p\.png' is a damaged PNG picture \(.+\); copy or export it again
    4 \|   loaded: \{type: image\.load, file: "\$\{picture\}"\}
      \|   \^{6}""",
            failure(said),
        )
        assert listed(folder / "out") == []
    (folder / "p.png").write_bytes(whole)
    assert call("run", "g.yaml").code == 0
    assert listed(folder / "out") == ["same.png"]


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not a picture"])
def test_no_picture_at_all(call: Call, folder: Path, content: bytes) -> None:
    """An empty file, a signature alone and a text fail the node in words."""
    (folder / "p.png").write_bytes(content)
    graph(folder, LOAD)
    said = call("run", "g.yaml")
    assert (said.code, listed(folder / "out")) == (1, [])
    assert "error[node-failed]: loaded: './p.png' is " in said.err
    assert "Traceback" not in said.err


def test_a_picture_of_50000_by_50000(call: Call, folder: Path) -> None:
    """A picture of 2.5 billion pixels is refused from its header, by its size; its pixels are never
    decoded.
    """
    (folder / "p.png").write_bytes(png(1, 1, sides=(50_000, 50_000)))
    graph(folder, LOAD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "loaded: './p.png' has 2,500,000,000 pixels" in said.err
    assert (
        "more than max_pixels allows (100,000,000); make the picture smaller, or cut it into parts"
        in said.err
    )
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    )  # kB on Linux; the pixels would be 2.5 GB
    assert listed(folder / "out") == []


def test_making_a_picture_of_50000_by_50000(call: Call, folder: Path) -> None:
    """Nor is one made: the range of the port is a problem of the graph."""
    (folder / "p.png").write_bytes(png(2, 2))
    graph(
        folder,
        LOAD.replace(
            "outputs:",
            '  huge: {type: image.resize, image: "${loaded}", width: 50000, height: 50000}\noutputs:',
        ).replace('${loaded}", path', '${huge}", path'),
    )
    said = call("run", "g.yaml")
    assert (said.code, listed(folder / "out")) == (1, [])
    assert said.err.count("takes a whole number from 1 to 16384, not 50000") == 2


# --- NaN
# -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        ("toy.nan", "a picture has NaN or infinite pixels"),
        ("toy.late_nan", "a picture has NaN or infinite pixels"),
        ("toy.ratio", "its output 'value' must be a number, not nan"),
    ],
)
def test_a_node_that_gives_nan(call: Call, folder: Path, type_: str, words: str) -> None:
    """NaN never leaves the node that made it: the node fails, and nothing is kept or written."""
    ending = ".json" if type_ == "toy.ratio" else ".png"
    graph(
        folder,
        f'nodes: {{a: {{type: {type_}}}}}\noutputs: {{o: {{from: "${{a}}", path: o{ending}}}}}\n',
    )
    said = call("run", "g.yaml")
    assert said.code == 1
    assert re.search(rf"error\[node-failed\]: a: (TypeError: )?{re.escape(words)}\n", said.err)
    assert listed(folder / "out") == []
    assert json.loads(call("store", "info", "--json").out)["steps"] == 0


def test_a_picture_with_nan(call: Call, folder: Path) -> None:
    """A float TIFF with NaN is refused when it is loaded."""
    pixels = np.zeros((4, 4), "float32")
    pixels[1, 2] = np.nan
    PIL.Image.fromarray(pixels).save(folder / "p.tif")
    graph(folder, LOAD.replace("p.png", "p.tif"))
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "loaded: './p.tif' has NaN or infinite pixels; export it again without them" in said.err
    assert listed(folder / "out") == []


# --- the output folder
# ---------------------------------------------------------------------------------------------------------

PAINT = 'inputs: {words: hello}\nnodes: {a: {type: toy.paint, text: "${words}"}}\noutputs: {o: {from: "${a}", path: "o.png"}}\n'


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A small file system in memory at a place, where the system lets us."""
    place.mkdir(exist_ok=True)
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder that cannot be written to. Root may write anywhere, so for root it is mounted
    read-only.
    """
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        place.chmod(0o555)
        try:
            yield
        finally:
            place.chmod(0o755)
        return
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "--bind", str(place), str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("root may write everywhere, and nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_output_folder(call: Call, folder: Path) -> None:
    """An output folder that cannot be written to fails the output, not the step: once it is mended
    nothing is computed again.
    """
    graph(folder, PAINT)
    (folder / "out").mkdir()
    with read_only(folder / "out"):
        said = call("run", "g.yaml")
        assert said.code == 1
        assert re.search(
            r"output 'o' cannot be written to out/o\.png\n\s*= why: (read-only file system|permission denied).*\n\s*= fix: choose another folder with --out",
            said.err,
        )
    assert listed(folder / "out") == []
    said = call("run", "g.yaml")
    assert (said.code, listed(folder / "out")) == (0, ["o.png"])
    assert said.err.endswith("0 steps ran, 1 from the store\n")


def test_a_full_output_folder(call: Call, folder: Path) -> None:
    """A full disk leaves no half of a file and no temporary one; the other outputs that fit are
    written.
    """
    graph(
        folder,
        'nodes: {a: {type: toy.noise}, b: {type: toy.paint, text: x}}\noutputs: {large: {from: "${a}", path: large.png}, little: {from: "${b}", path: little.png}}\n',
    )
    with mounted(folder / "out", "size=256k"):
        said = call("run", "g.yaml")
        assert said.code == 1
        assert "output 'large' cannot be written to out/large.png" in said.err
        assert "= why: no space left on device" in said.err
        assert "= fix: free disk space, or choose another folder with --out" in said.err
        assert listed(folder / "out") == ["little.png"]


def test_a_limit_on_the_size_of_files(call: Call, folder: Path) -> None:
    """Where neither the output nor the store can hold the picture, the run says both, leaves
    nothing half-written, and gives the value all the same.
    """
    graph(
        folder,
        'nodes: {a: {type: toy.noise}}\noutputs: {large: {from: "${a}", path: large.png}, also: "${a}"}\n',
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        said = call("run", "g.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said.code == 1
    assert "also  a picture of 700 × 700" in said.out
    assert "output 'large' cannot be written to out/large.png" in said.err
    assert "= why: file too large" in said.err
    assert re.search(
        r"warning: the store .* cannot write results: File too large; they stay in memory until the run ends",
        said.err,
    )
    assert listed(folder / "out") == []
    said = call("run", "g.yaml")
    assert (said.code, listed(folder / "out")) == (0, ["large.png"])


def test_a_file_in_the_place_of_the_output_folder(call: Call, folder: Path) -> None:
    """A file where the output folder ought to be is the command line's fault, and stays as it is."""
    graph(folder, PAINT)
    (folder / "taken").write_text("mine")
    said = call("run", "g.yaml", "--out", "taken")
    assert said.code == 2
    assert "'--out'" in said.err and "'taken' is a file" in said.err
    graph(folder, PAINT.replace("o.png", "taken/o.png"))
    said = call("run", "g.yaml", "--out", ".")
    assert said.code == 1
    assert "= why: a file has the name of the folder" in said.err
    assert "= fix: move that file away, or choose another path in 'outputs:'" in said.err
    assert (folder / "taken").read_text() == "mine"


# --- paths that would leave
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../o.png", "the path has '..'"),
        ("a/../../o.png", "the path has '..'"),
        ("/tmp/o.png", "the path is absolute"),
        ("C:/o.png", "the path is absolute"),
        ("~/o.png", "the path starts with '~'"),
        ("..\\o.png", "the path has a backslash"),
    ],
)
def test_a_path_that_would_leave(call: Call, folder: Path, path: str, message: str) -> None:
    """A path that would leave the output folder is a problem of the graph; nothing runs."""
    graph(folder, PAINT.replace('"o.png"', f"'{path}'"))
    said = call("run", "g.yaml")
    assert (said.code, said.out) == (1, "")
    assert re.match(
        rf"g\.yaml:4:\d+: error\[bad-path\]: {re.escape(message)}\n4 \| outputs: .*\n  \| +\^+\n",
        said.err,
    )
    assert listed(folder) == ["g.yaml", "nodes.py"]


@pytest.mark.parametrize(
    "words", ["../../evil", "/etc/passwd", "..", "~", "a/b\\c", "\u202egnp.exe", ".hidden"]
)
def test_an_input_cannot_lead_a_path_away(call: Call, folder: Path, words: str) -> None:
    """What is filled into a path is a part of one name, whatever it says."""
    graph(folder, PAINT.replace("o.png", "{words}.png"))
    assert call("run", "g.yaml", "--set", f"words={words}").code == 0
    (written,) = (folder / "out").iterdir()
    assert (
        written.suffix == ".png"
        and not written.name.startswith((".", "~/"))
        and "\u202e" not in written.name
    )
    assert listed(folder) == ["g.yaml", "nodes.py", "out", f"out/{written.name}"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_symbolic_link_does_not_lead_out(call: Call, folder: Path) -> None:
    """A link in the output folder that leads out of it is an error; a link in the place of the file
    is not followed. What they lead to stays as it was.
    """
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "o.png").write_text("mine")
    (folder / "out").mkdir()
    (folder / "out" / "link").symlink_to(folder / "elsewhere")
    (folder / "out" / "o.png").symlink_to(folder / "elsewhere" / "o.png")
    graph(folder, PAINT.replace("o.png", "link/new.png"))
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "output 'o' would leave the output folder" in said.err
    assert "out/link leads to" in said.err
    graph(folder, PAINT)
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "output 'o' is not written to out/o.png: another file exists" in said.err
    assert "= why: it is a symbolic link" in said.err
    assert (
        "= fix: move it away, or set 'exists: number' or 'exists: replace' for this output"
        in said.err
    )
    assert listed(folder / "elsewhere") == ["o.png"]
    assert (folder / "elsewhere" / "o.png").read_text() == "mine"
    assert listed(folder / "out") == ["link", "o.png"]


# --- two outputs with one path
# -------------------------------------------------------------------------------------------------


def test_two_outputs_with_one_path(call: Call, folder: Path) -> None:
    """Two outputs with one path are a problem that shows both; nothing runs."""
    graph(
        folder,
        'nodes: {a: {type: toy.loud, text: x}, b: {type: toy.loud, text: y}}\noutputs:\n  one: {from: "${a}", path: o.txt}\n  two: {from: "${b}", path: o.txt}\n',
    )
    said = call("run", "g.yaml")
    assert (said.code, said.out) == (1, "")
    assert (
        re.match(r"g\.yaml:5:\d+: error\[duplicate-path\]: .*'one'.*\n5 \| ", said.err)
        or "'one'" in said.err
    )
    assert listed(folder / "out") == []


@pytest.mark.parametrize(
    ("first", "second"), [("same", "same"), ("a/b", "a_b"), ("x.", "x"), ("e\u0301", "\u00e9")]
)
def test_two_paths_that_come_out_the_same(
    call: Call, folder: Path, first: str, second: str
) -> None:
    """Paths that differ in the graph may be the same when they are filled: the first output is
    written and the second is an error that names both.
    """
    graph(
        folder,
        "inputs: {p: {type: text}, q: {type: text}}\nnodes: {a: {type: toy.loud, text: x}, b: {type: toy.loud, text: y}}\noutputs:\n"
        '  one: {from: "${a}", path: "{p}.txt"}\n  two: {from: "${b}", path: "{q}.txt"}\n',
    )
    said = call("run", "g.yaml", "--set", f"p={first}", "--set", f"q={second}")
    assert said.code == 1
    assert re.search(
        r"output 'two' and output 'one' are written to the same path, '.*\.txt'\n\s*= why: the second would replace the first\n\s*= fix: add \{output\} to the path",
        said.err,
    )
    (written,) = (p for p in (folder / "out").iterdir() if p.suffix == ".txt")
    assert written.read_text() == "X\n"
    assert len(listed(folder / "out")) == 2  # and its provenance


# --- words
# ---------------------------------------------------------------------------------------------------------------------


def test_a_prompt_of_a_megabyte(call: Call, folder: Path) -> None:
    """A prompt of 1 MB runs, names a file that the system can hold, is kept, is in the provenance
    (beside the picture), and comes back on replay.
    """
    prompt = ("a red circle 圆 🔴 " * 60_000)[:1_000_000]
    (folder / "prompt.txt").write_text(prompt, "utf-8")
    graph(
        folder,
        f'inputs: {{words: {json.dumps(prompt, ensure_ascii=False)}}}\nnodes: {{a: {{type: toy.paint, text: "${{words}}"}}}}\noutputs: {{o: {{from: "${{a}}", path: "{{words}}.png"}}}}\n',
    )
    said = call("run", "g.yaml")
    assert (said.code, len(said.out) < 2000, len(said.err) < 2000) == (0, True, True)
    names = listed(folder / "out")
    assert (
        len(names) == 2
        and names[1] == f"{names[0]}.provenance.json"
        and names[0].startswith("a red circle 圆 🔴 a red")
    )
    assert np.array(PIL.Image.open(folder / "out" / names[0])).max() == 1_000_000 % 256
    assert (
        json.loads((folder / "out" / names[1]).read_text("utf-8"))["inputs"]["words"]["value"]
        == prompt
    )
    assert call("run", "g.yaml").err.endswith("0 steps ran, 1 from the store\n")
    said = call("replay", f"out/{names[0]}", "--verify", "--yes")
    assert (said.code, said.out) == (0, "identical\n")


WORLD = "一只红色的狐狸 🦊 和 👨\u200d👩\u200d👧, Ünïcödé עברית"


def test_words_and_names_of_all_languages(call: Call, folder: Path) -> None:
    """Chinese, emoji and others pass through prompts, graph files, picture files, node names and
    output files, and come back from provenance as they were.
    """
    (folder / "图片 🦊.png").write_bytes(png(3, 2))
    graph(
        folder,
        f'inputs: {{prompt: "{WORLD}", picture: {{type: file, default: "./图片 🦊.png"}}}}\n'
        'nodes:\n  words: {type: toy.loud, text: "${prompt}"}\n  loaded: {type: image.load, file: "${picture}"}\n'
        'outputs:\n  words: {from: "${words}", path: "{graph}/{prompt}.txt"}\n  same: {from: "${loaded}", path: "{graph}/{prompt}.png"}\n',
        "图 🎨.yaml",
    )
    said = call("run", "图 🎨.yaml")
    assert said.code == 0
    assert listed(folder / "out") == sorted(
        [
            "图 🎨",
            *(f"图 🎨/{WORLD}{ending}" for ending in (".png", ".txt", ".txt.provenance.json")),
        ]
    )
    assert (folder / "out" / "图 🎨" / f"{WORLD}.txt").read_text("utf-8") == WORLD.upper() + "\n"
    assert f"图 🎨{os.sep}{WORLD}.png" in said.out
    said = call(
        "replay", f"out/图 🎨/{WORLD}.png", "--verify", "--yes", "--set", "picture=图片 🦊.png"
    )
    assert (said.code, said.out) == (0, "identical\n")


def test_a_terminal_that_knows_only_ascii(folder: Path) -> None:
    """Where the terminal takes ASCII alone, foreign words are shown as well as it can, and the run
    is done.
    """
    graph(
        folder,
        f'nodes: {{a: {{type: toy.loud, text: "{WORLD}"}}}}\noutputs: {{o: "${{a}}", file: {{from: "${{a}}", path: "狐.txt"}}}}\n',
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "run", "g.yaml", "--plugin", "nodes.py"],
        capture_output=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()
    assert (folder / "out" / "狐.txt").read_text("utf-8") == WORLD.upper() + "\n"


# --- the store
# -----------------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_used(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is a file, somebody else's folder, or read-only is refused with how to mend it;
    nothing in it changes. Named on the command line, that is at fault.
    """
    graph(folder, PAINT)
    (folder / "file").write_text("mine")
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").write_text("mine")
    said = call("run", "g.yaml", "--store", "file")
    assert said.code == 2
    assert (
        said.err
        == f"error: the store '{folder / 'file'}' cannot be used\n  = why: it is a file, not a folder\n  = fix: name another folder with --store or IMAGEN_FLOW_STORE\n"
    )
    said = call("run", "g.yaml", "--store", "photos")
    assert (said.code, "it is not a store and not empty (it contains 'cat.jpg')" in said.err) == (
        2,
        True,
    )
    monkeypatch.setenv("IMAGEN_FLOW_STORE", "file")
    assert call("run", "g.yaml").code == 1
    assert listed(folder) == ["file", "g.yaml", "nodes.py", "photos", "photos/cat.jpg"]


def test_a_read_only_store(call: Call, folder: Path) -> None:
    """A store on a read-only disk is refused in words, whether it is there or would have to be
    made.
    """
    graph(folder, PAINT)
    (folder / "place").mkdir()
    assert call("run", "g.yaml", "--store", "place/store").code == 0
    before = listed(folder / "place")
    with read_only(folder / "place"):
        for name in ("place/store", "place/new"):
            said = call("run", "g.yaml", "--store", name)
            assert said.code == 2, said
            assert said.err.startswith(
                f"error: the store '{folder / name}' cannot be used\n  = why: "
            )
            assert "make it writable" in said.err
    assert listed(folder / "place") == before


def test_a_damaged_index(call: Call, folder: Path) -> None:
    """An index that is garbage is put aside with a warning, and everything runs again."""
    graph(folder, PAINT)
    call("run", "g.yaml", "--store", "store")
    for path in (folder / "store").glob("index.sqlite*"):
        path.unlink()
    (folder / "store" / "index.sqlite").write_bytes(b"garbage " * 4096)
    said = call("run", "g.yaml", "--store", "store")
    assert said.code == 0
    assert "1 step ran, 0 from the store" in said.err
    assert re.search(
        r"warning: the store's index was damaged \(file is not a database\); it was moved to .*index\.damaged-1\.sqlite, and all steps run again",
        said.err,
    )
    assert (folder / "store" / "index.damaged-1.sqlite").read_bytes().startswith(b"garbage")
    assert call("run", "g.yaml", "--store", "store").err.endswith("0 steps ran, 1 from the store\n")


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_a_damaged_object(call: Call, folder: Path, damage: str) -> None:
    """An object that was changed, cut or removed is made again in the same run, and never served."""
    graph(
        folder,
        'nodes: {a: {type: toy.noise, side: 200}}\noutputs: {o: {from: "${a}", path: "o.png"}}\n',
    )
    call("run", "g.yaml", "--store", "store", "--out", "first")
    (found,) = (p for p in (folder / "store" / "objects").rglob("*") if p.is_file())
    content = bytearray(found.read_bytes())
    content[len(content) // 2] ^= 1
    found.unlink()
    if damage != "gone":
        found.write_bytes(content if damage == "changed" else content[:-10])
    said = call("run", "g.yaml", "--store", "store", "--out", "second")
    assert said.code == 0
    assert re.search(r"a.*(damaged|missing)", said.err)
    assert (folder / "second" / "o.png").read_bytes() == (folder / "first" / "o.png").read_bytes()


# --- models
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message", "why"),
    [
        ([], "the model './model' has no weights", "there is no .safetensors file in "),
        (
            ["config.json", "README.md"],
            "the model './model' has no weights",
            "there is no .safetensors file in ",
        ),
        (
            ["config.json", "pytorch_model.bin"],
            "the model './model' has its weights only as pickles (pytorch_model.bin)",
            "a pickle can run any code when it is loaded",
        ),
        (None, "the model './model' does not exist", "there is no "),
    ],
)
def test_a_model_without_weights(
    call: Call, folder: Path, files: list[str] | None, message: str, why: str
) -> None:
    """A model folder without weights is a problem at the word that names it, before anything runs."""
    if files is not None:
        (folder / "model").mkdir()
        for name in files:
            (folder / "model" / name).write_text("{}")
    (folder / "p.png").write_bytes(png(2, 2))
    graph(
        folder,
        LOAD.replace(
            "outputs:",
            '  words: {type: image.caption, model: ./model, image: "${loaded}"}\noutputs:\n  words: "${words}"',
        ),
    )
    said = call("run", "g.yaml")
    assert (said.code, said.out) == (1, "")
    assert re.match(
        rf"g\.yaml:5:39: error\[bad-model\]: {re.escape(message)}\n5 \| .*\n  \| +\^{{7}}\n  = why: {re.escape(why)}",
        said.err,
    ), said.err
    assert listed(folder / "out") == []


# --- files that change
# ---------------------------------------------------------------------------------------------------------

CHANGING = """\
nodes:
  first: {type: toy.overwrite, text: "new"}
  then: {type: toy.read, file: ./words.txt, after: "${first}"}
outputs: {o: {from: "${then}", path: o.txt}}
"""


def test_a_file_changed_during_the_run(call: Call, folder: Path) -> None:
    """A file that changes between planning and reading is read as it is then, and what comes of it
    is kept under its new content, not its old.
    """
    (folder / "words.txt").write_text("old")
    graph(folder, CHANGING)
    said = call("run", "g.yaml")
    assert (said.code, (folder / "out" / "o.txt").read_text()) == (0, "new\n")
    (folder / "words.txt").write_text("old")
    graph(
        folder,
        'nodes: {then: {type: toy.read, file: ./words.txt, after: done}}\noutputs: {o: "${then}"}\n',
        "old.yaml",
    )
    assert call("run", "old.yaml").out == "o  old\n"
    (folder / "words.txt").write_text("new")
    assert call("run", "old.yaml").err.endswith("0 steps ran, 1 from the store\n")


def test_a_file_removed_during_the_run(call: Call, folder: Path) -> None:
    """A file that is removed before it is read fails its node, in words."""
    (folder / "words.txt").write_text("old")
    graph(folder, CHANGING.replace('"new"', '""'))
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "✗ then failed:" in said.err and "words.txt" in said.err and "Traceback" not in said.err
    assert listed(folder / "out") == []


def test_a_file_that_keeps_changing(call: Call, folder: Path) -> None:
    """A file that changes whenever it is read does not keep the run for ever."""
    (folder / "words.txt").write_text("old")
    graph(
        folder,
        'nodes: {a: {type: toy.restless, file: ./words.txt}}\noutputs: {o: {from: "${a}", path: o.txt}}\n',
    )
    said = call("run", "g.yaml")
    assert said.code == 1
    assert "its files keep changing" in said.err
    assert listed(folder / "out") == []


# --- replay
# --------------------------------------------------------------------------------------------------------------------

_OPENED: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _OPENED is not None:
        _OPENED.append(str(arguments[0]))


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Gather the names of all files that Python opens meanwhile."""
    global _OPENED
    sys.addaudithook(_watch)
    _OPENED = []
    try:
        yield _OPENED
    finally:
        _OPENED = None


SECRET = """\
nodes:
  read: {type: toy.read, file: ./secret.txt}
  shown: {type: toy.paint, text: "${read}"}
outputs: {o: {from: "${shown}", path: o.png}}
"""


def test_replay_opens_no_local_file(call: Call, folder: Path) -> None:
    """A picture's graph that names a local file does not get it: it is said to be missing, and is
    used only where the user names it.
    """
    (folder / "secret.txt").write_text("the words")
    graph(folder, SECRET)
    call("run", "g.yaml")
    with opened_files() as opened:
        said = call("replay", "out/o.png", "--yes", "--store", "empty", "--out", "again")
    assert [name for name in opened if "secret" in name] == []
    assert (said.code, said.out, listed(folder / "again")) == (2, "", [])
    assert said.err.count("error[missing-file]: the file './secret.txt' is not available") == 1
    assert "because a picture names them, and the store does not have its content" in said.err
    assert "= fix: pass --set ./secret.txt=PATH" in said.err
    said = call(
        "replay",
        "out/o.png",
        "--yes",
        "--store",
        "empty",
        "--out",
        "again",
        "--set",
        "./secret.txt=secret.txt",
    )
    assert (said.code, listed(folder / "again")) == (0, ["o.png"])


@pytest.mark.parametrize("form", ["absolute", "climbing", "home"])
def test_a_forged_picture_opens_no_local_file(
    call: Call, folder: Path, own_home: Path, form: str
) -> None:
    """A picture whose graph was rewritten to ask for somebody's files does not get them, even if it
    claims to know their digest.
    """
    victim = own_home / "victim.txt"
    victim.write_text("a password")
    asked = {
        "absolute": str(victim),
        "climbing": "../" * 12 + str(victim).lstrip("/"),
        "home": "~/victim.txt",
    }[form]
    (folder / "secret.txt").write_text("the words")
    graph(folder, SECRET)
    call("run", "g.yaml")
    written = (folder / "out" / "o.png").read_bytes()
    with open(folder / "out" / "o.png", "rb") as stream:
        said_then = json.loads(pictures.read_embedded(stream) or "")
    text = json.dumps(said_then).replace("./secret.txt", asked).replace("secret.txt", asked)
    text = re.sub(
        r"[0-9a-f]{40}(?=\"[^}]*\"size\")",
        hashlib.blake2b(b"a password", digest_size=20).hexdigest(),
        text,
    )
    (folder / "forged.png").write_bytes(pictures.embed(written, text))
    with opened_files() as opened:
        said = call("replay", "forged.png", "--yes", "--store", "empty", "--out", "again")
    assert [name for name in opened if "victim" in name] == []
    assert said.code in (1, 2)
    assert "a password" not in said.out + said.err and "Traceback" not in said.err
    assert listed(folder / "again") == []


def test_replay_asks_first(call: Call, folder: Path) -> None:
    """Without --yes, and with nobody to ask, a picture's graph does not run."""
    graph(folder, PAINT)
    call("run", "g.yaml")
    said = call("replay", "out/o.png", "--out", "again")
    assert (said.code, listed(folder / "again")) == (2, [])
    assert said.err.endswith(
        "Error: cannot ask for confirmation: the session is not interactive; pass --yes\n"
    )


@pytest.mark.parametrize("content", [b"", b"no picture", png(2, 2)])
def test_replay_of_what_carries_nothing(call: Call, folder: Path, content: bytes) -> None:
    """A file without provenance is an error that says what may have dropped it."""
    (folder / "p.png").write_bytes(content)
    said = call("replay", "p.png", "--yes")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: ") and "p.png" in said.err and "Traceback" not in said.err


# --- from Python
# ---------------------------------------------------------------------------------------------------------------


def test_the_same_from_python(folder: Path) -> None:
    """From Python each fault is an exception of its own kind, with the same words, and what could
    be done is done.
    """
    (folder / "p.png").write_bytes(b"no picture")
    graph(folder, LOAD)
    with pytest.raises(flow.GraphError, match="there is no file 'q.png'"):
        flow.run("g.yaml", picture="q.png", store=None)
    with pytest.raises(flow.NodeError, match="'./p.png' is not a readable picture"):
        flow.run("g.yaml", store=None)
    (folder / "p.png").write_bytes(png(2, 2))
    (folder / "out").mkdir()
    (folder / "out" / "same.png").write_bytes(b"mine")
    with pytest.raises(flow.OutputError, match="another file exists"):
        flow.run("g.yaml", store=None, out="out")
    assert (folder / "out" / "same.png").read_bytes() == b"mine"
    (folder / "store").write_text("")
    with pytest.raises(flow.StoreError, match="it is a file, not a folder"):
        flow.run("g.yaml", store="store")
