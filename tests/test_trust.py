"""What a folder that was fetched may do before the user trusts it, and what trust covers: each test
plays somebody who wants more.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import marshal
import os
import py_compile
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import markupsafe._speedups
import numpy as np
import pytest

from imagen_flow import File, Image, OutputError
from imagen_flow import _cli as cli
from imagen_flow._outputs.disk import ImmediateChanges
from imagen_flow._outputs.templates import check_template
from imagen_flow._outputs.writer import OutFolder, OutputWriter
from imagen_flow._plugins import code as plugin_code
from imagen_flow._plugins.registry import discover
from imagen_flow._provenance.embedding import SIDECAR
from imagen_flow._settings import config
from imagen_flow._system.regular_files import is_regular
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.ports import PortType
from imagen_flow._types.value_digests import digest_value

RED = Image(np.full((4, 6, 3), (255, 0, 0), "uint8"))

#: Somebody else, for the superuser to give files to.
STRANGER = 12345

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser can give files away"
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a graph that writes a file as it came; it is the working directory."""
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "payload").write_text("evil")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(arguments))
        return (int(exited.value.code or 0), *capsys.readouterr())

    return call


def graph(
    path: str, *, exists: str = "replace", provenance: str = "full", folder: Path | None = None
) -> None:
    ((folder or Path()) / "g.yaml").write_text(
        f"imagen_flow: 1\ninputs: {{payload: {{type: file, default: ./payload}}}}\nnodes: {{}}\noutputs:\n"
        f'  o: {{from: "${{payload}}", path: "{path}", exists: {exists}, provenance: {provenance}}}\n'
    )


def raw(folder: Path, text: str = "evil") -> File:
    place = folder / "raw"
    place.write_text(text)
    return File(place, digest_bytes(text.encode()), len(text), "raw")


def write(folder: Path | OutFolder, relative: str, value: Any = RED, **how: Any) -> Path:
    return (
        OutputWriter(folder)
        .write(
            relative,
            value,
            **{"output": "o", "provenance": None, "digest": digest_value(value), **how},
        )
        .path
    )


# -- where a settings file leads -------------------------------------------------------------------


@pytest.mark.parametrize(
    "out", ["~", "{outside}", "..", "../elsewhere", "link", "link/deep", "inner/../.."]
)
def test_a_settings_file_that_is_not_trusted_leads_nowhere_else(
    fetched: Path, call: Call, tmp_path: Path, own_home: Path, out: str
) -> None:
    """An `out` outside the folder of imagen-flow.toml, by name or by a link that came along, is
    refused when planning and when running.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (fetched / "link").symlink_to(outside)
    (fetched / "imagen-flow.toml").write_text(f'out = "{out.format(outside=outside)}"\n')
    graph("{graph}.bin")
    before = {*tmp_path.rglob("*"), *own_home.rglob("*")}
    for command in ("plan", "run"):
        code, _, err = call(command, "g.yaml")
        assert code == 1
        assert (
            "imagen-flow.toml:1:1: error[untrusted-setting]: 'out' leads outside the folder of imagen-flow.toml, and you have not trusted that"
            in err
        )
        assert "run: imagen-flow trust imagen-flow.toml; or use --out" in err
    kept = {p for p in own_home.rglob("*") if not {".cache", ".config"} & set(p.parts)}
    assert set(tmp_path.rglob("*")) | kept <= before
    assert call("run", "g.yaml", "--out", "mine")[0] == 0
    assert (fetched / "mine/g.bin").read_text() == "evil"


def test_a_place_outside_is_used_once_it_is_trusted(
    fetched: Path, call: Call, tmp_path: Path
) -> None:
    """Trust is of the place: once the file leads elsewhere, it is asked for again; what else the
    file says may change.
    """
    (tmp_path / "a").mkdir()
    (fetched / "imagen-flow.toml").write_text('out = "../a"\nstore = "../kept"\n')
    graph("{graph}.bin")
    assert call("trust", ".")[1].splitlines() == [
        f"trusted: outputs are written to {tmp_path / 'a'}",
        f"trusted: the store is {tmp_path / 'kept'}",
    ]
    (fetched / "imagen-flow.toml").write_text('device = "cpu"\nout = "../a"\nstore = "../kept"\n')
    assert call("run", "g.yaml")[0] == 0
    assert (tmp_path / "a/g.bin").is_file() and (tmp_path / "kept").is_dir()
    (fetched / "imagen-flow.toml").write_text('out = "../b"\nstore = "../kept"\n')
    assert call("run", "g.yaml")[0] == 1
    (fetched / "imagen-flow.toml").write_text('out = "../a"\nstore = "../other"\n')
    assert "'store' leads outside" in call("run", "g.yaml")[2]
    assert not (tmp_path / "other").exists()


def test_settings_inside_their_folder_need_no_trust(fetched: Path, call: Call) -> None:
    """What stays in the folder of the settings file is nobody else's."""
    (fetched / "imagen-flow.toml").write_text('out = "deep/results"\nstore = ".store"\n')
    graph("{graph}.bin")
    assert call("run", "g.yaml")[0] == 0
    assert (fetched / "deep/results/g.bin").is_file() and (fetched / ".store").is_dir()


def test_the_usual_folder_is_no_link_to_elsewhere(
    fetched: Path, call: Call, tmp_path: Path
) -> None:
    """Where nobody named a folder for outputs, ./out may be a link that came along; the user may
    name it.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (fetched / "out").symlink_to(outside)
    graph("{graph}.bin")
    code, _, err = call("run", "g.yaml")
    assert code == 1 and f"out leads to {outside} through a symbolic link" in err
    assert list(outside.iterdir()) == []
    (fetched / "out").unlink()
    (fetched / "out").symlink_to(outside / "not there yet")
    assert call("run", "g.yaml")[0] == 1
    assert list(outside.iterdir()) == []
    assert call("run", "g.yaml", "--out", str(outside))[0] == 0


@as_root
@pytest.mark.parametrize("whose", ["file", "link"])
def test_a_strangers_settings_are_ignored_in_words(
    fetched: Path, call: Call, tmp_path: Path, whose: str
) -> None:
    """A settings file of another user, above the graph in a folder that all may write to, says
    nothing, and cannot be trusted.
    """
    above = fetched.parent / "imagen-flow.toml"
    text = 'out = "theirs"\ndevice = "nonsense"\nplugins = ["evil.py"]\n'
    if whose == "file":
        above.write_text(text)
        os.chown(above, STRANGER, -1)
    else:
        (tmp_path / "real.toml").write_text(text)
        above.symlink_to(tmp_path / "real.toml")
        os.lchown(above, STRANGER, -1)
    (fetched.parent / "evil.py").write_text("raise SystemExit('imported')")
    graph("{graph}.bin")
    code, _, err = call("run", "g.yaml")
    assert code == 0
    assert (
        f"warning[untrusted-setting]: {above} is ignored: it belongs to another user ({STRANGER})"
        in err
    )
    assert (fetched / "out/g.bin").is_file() and not (fetched.parent / "theirs").exists()
    assert call("trust", str(above))[0] == 2
    assert not config.trusted_path().exists()


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (".bashrc", "file"),
        (".ssh/authorized_keys", "file"),
        ("a/.git/config", "file"),
        (".x{seed}", "folder"),
        (".env.txt", "text"),
        (".vscode/tasks.json", "json"),
        (".m", "model"),
        (".x.json", "any"),
    ],
)
def test_hidden_names_are_other_programs_settings(path: str, kind: str) -> None:
    """No file, folder, model, text or data gets a name that starts with a dot, in any part of its
    path.
    """
    fault = check_template(path, fields=["seed"], type=PortType(kind))
    assert fault is not None and "starts with a dot" in fault.message


@pytest.mark.parametrize(
    "path",
    [
        "imagen-flow.toml",
        "a/IMAGEN-FLOW.TOML",
        "imagen-flow.lock",
        "x.png.provenance.json",
        "ｉmagen-flow.toml",
    ],
)
def test_names_that_say_something_to_us_are_no_outputs(path: str) -> None:
    """A settings file would choose where the next run writes; a sidecar would make a file ours that
    is not.
    """
    fault = check_template(path, fields=[], type=PortType("file"))
    assert fault is not None and "cannot be the name of an output" in fault.message


def test_pictures_may_have_hidden_names() -> None:
    """No program takes its settings from a picture."""
    assert (
        check_template(
            ".previews/{index}.png", fields=[], type=PortType("list", element=PortType("image"))
        )
        is None
    )


@pytest.mark.parametrize("relative", [".bashrc", "a/.b/c", f"x{SIDECAR}", "imagen-flow.toml"])
def test_names_are_looked_at_again_when_they_are_filled(tmp_path: Path, relative: str) -> None:
    """A writer checks its paths itself, whoever made them; nothing is written."""
    with pytest.raises(OutputError):
        write(tmp_path / "out", relative, raw(tmp_path))
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_the_folder_in_which_trust_is_kept_takes_no_outputs(tmp_path: Path) -> None:
    """Not even if the user's own settings let outputs go there."""
    for name in ("trusted.json", "deep/x.png"):
        with pytest.raises(OutputError, match="imagen_flow itself reads"):
            write(
                config.trusted_path().parent, name, RED if name.endswith("png") else raw(tmp_path)
            )
    assert not config.trusted_path().exists()


def test_a_hidden_folder_that_settings_name_takes_pictures_only(tmp_path: Path) -> None:
    """The way round the rule for names, by `out` itself, is none."""
    hidden = OutFolder(tmp_path / ".config/autostart", inside=tmp_path)
    with pytest.raises(OutputError, match="starts with a dot"):
        write(hidden, "x.desktop", raw(tmp_path))
    assert write(hidden, "x.png").is_file()


# -- what is not ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link", "hard link", "folder"])
def test_a_raw_file_replaces_nothing_that_is_not_ours(
    fetched: Path, call: Call, tmp_path: Path, kind: str
) -> None:
    """Whatever the graph says; the user may say so: --replace."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = fetched / "out/x.bin"
    place.parent.mkdir()
    if kind == "file":
        place.write_text("precious")
    elif kind == "link":
        place.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, place)
    else:
        place.mkdir()
        (place / "a").write_text("precious")
    graph("x.bin")
    assert "out/x.bin  refused: another file exists" in call("plan", "g.yaml")[1]
    code, _, err = call("run", "g.yaml")
    assert code == 1 and "another file exists" in err and "--replace" in err
    assert (place / "a" if kind == "folder" else place).read_text() == "precious"
    if kind != "folder":
        assert "replaces a file that no run wrote" in call("plan", "g.yaml", "--replace")[1]
        assert call("run", "g.yaml", "--replace")[0] == 0
        assert (place.read_text(), place.is_symlink()) == ("evil", False)
    assert victim.read_text() == "precious"


def test_a_folder_replaces_no_folder_of_others(tmp_path: Path) -> None:
    """A folder that no run wrote, with all in it, stays."""
    from imagen_flow._store.file_digests import FileDigests

    (tmp_path / "made").mkdir()
    (tmp_path / "made/a").write_text("a")
    (tmp_path / "out/x").mkdir(parents=True)
    (tmp_path / "out/x/mine").write_text("mine")
    with pytest.raises(OutputError, match="another file"):
        write(
            tmp_path / "out", "x", FileDigests().folder_value(tmp_path / "made"), exists="replace"
        )
    assert (tmp_path / "out/x/mine").read_text() == "mine"


def test_what_a_run_wrote_gives_way_as_before(fetched: Path, call: Call) -> None:
    """A raw file that carries our provenance is replaced without a word, and an equal one not
    touched.
    """
    graph("x.bin", exists="error")
    assert call("run", "g.yaml")[0] == 0
    (fetched / "payload").write_text("newer")
    assert call("plan", "g.yaml")[1].endswith("out/x.bin  replaces the output of an earlier run\n")
    assert call("run", "g.yaml")[0] == 0
    assert (fetched / "out/x.bin").read_text() == "newer"
    assert call("plan", "g.yaml")[1].endswith("out/x.bin  unchanged\n")


# -- while it runs ---------------------------------------------------------------------------------


class Swapping(ImmediateChanges):
    """Puts a link in the place of a folder, just before something is written into it."""

    def __init__(self, place: Path, to: Path) -> None:
        self.place, self.to = place, to

    def swap(self) -> None:
        if not self.place.is_symlink():
            shutil.rmtree(self.place)
            self.place.symlink_to(self.to)

    def put(self, path: Path, data: bytes) -> None:
        self.swap()
        super().put(path, data)

    def put_folder(self, path: Path, value: Any) -> None:
        self.swap()
        super().put_folder(path, value)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="no folder can be held on to")
@pytest.mark.parametrize("swapped", ["out", "out/a", "out/a/b"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    tmp_path: Path, swapped: str, what: str
) -> None:
    """Between the look at a folder and the write into it a link may take its place, or that of a
    folder above it: then nothing is written.
    """
    from imagen_flow._store.file_digests import FileDigests

    outside = tmp_path / "outside"
    (outside / "a/b").mkdir(parents=True)
    (outside / "b").mkdir()
    (tmp_path / "out/a/b").mkdir(parents=True)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/x").write_text("x")
    value = RED if what == "file" else FileDigests().folder_value(tmp_path / "made")
    writer = OutputWriter(tmp_path / "out", changes=Swapping(tmp_path / swapped, outside))
    with pytest.raises(OutputError):
        writer.write(
            "a/b/x.png" if what == "file" else "a/b/x",
            value,
            output="o",
            provenance=None,
            digest=digest_value(value),
        )
    assert not [p for p in outside.rglob("*") if p.is_file()]


def test_only_a_store_that_came_with_its_settings_is_distrusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the user names, be it by the environment, is believed whoever wrote it."""
    (tmp_path / "imagen-flow.toml").write_text('store = "store"\n')
    settings = config.load(tmp_path)
    assert config.seals(None, settings).only_own
    assert not config.seals(tmp_path / "store", settings).only_own
    monkeypatch.setenv("IMAGEN_FLOW_STORE", str(tmp_path / "other"))
    assert not config.seals(None, settings).only_own


@pytest.mark.parametrize("result", ["", 'out = "pictures"\n'], ids=["by default", "as it is set"])
def test_a_link_that_is_put_in_the_place_of_the_output_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    """Where it was not the user who named the folder, it leads nowhere else, also if the settings
    were read before the link was there.
    """
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project, outside):
        folder.mkdir()
    (project / "imagen-flow.toml").write_text(result)
    monkeypatch.chdir(project)
    writer = OutputWriter(config.outputs_folder(None, config.load(project)))
    (project / ("pictures" if result else "out")).symlink_to(outside)
    with pytest.raises(OutputError, match="symbolic link"):
        writer.write("a.png", RED, output="a", provenance=None, digest=digest_value(RED))
    assert list(outside.iterdir()) == []


def test_the_output_folder_stays_where_it_was_when_the_run_began(tmp_path: Path) -> None:
    """A folder that is replaced by a link between two outputs is noticed."""
    (tmp_path / "outside").mkdir()
    writer = OutputWriter(tmp_path / "out")
    writer.write("a.png", RED, output="a", provenance=None, digest=digest_value(RED))
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="when the run started"):
        writer.write("b.png", RED, output="b", provenance=None, digest=digest_value(RED))
    assert list((tmp_path / "outside").iterdir()) == []


# -- what is imported ------------------------------------------------------------------------------

NODES = """
from imagen_flow import Text, node
import helper

@node("my.say", version=1)
def say() -> Text:
    {body}
"""

#: A compiled module that somebody else made, small and without dependencies.
COMPILED = Path(markupsafe._speedups.__file__)


@pytest.fixture
def plugin(fetched: Path) -> Iterator[Path]:
    """A trusted plugin with a helper. Its modules are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    (fetched / "helper.py").write_text("VALUE = 'mine'\n")
    (fetched / "nodes.py").write_text(NODES.format(body="return helper.VALUE"))
    (fetched / "imagen-flow.toml").write_text('plugins = ["nodes.py"]\n')
    (fetched / "g.yaml").write_text(
        'imagen_flow: 1\nnodes: {n: {type: my.say}}\noutputs: {o: "${n}"}\n'
    )
    yield fetched / "nodes.py"
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(fetched)):
            del sys.modules[name]


def trust(call: Call) -> None:
    assert call("trust", "imagen-flow.toml")[0] == 0


def plant_bytecode(source: Path, code: str) -> None:
    """Write what Python takes for the compiled form of a source, as it is."""
    found = source.stat()
    data = (
        importlib.util.MAGIC_NUMBER
        + struct.pack("<III", 0, int(found.st_mtime), found.st_size)
        + marshal.dumps(compile(code, str(source), "exec"))
    )
    place = Path(importlib.util.cache_from_source(str(source)))
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)


EVIL = "import pathlib; pathlib.Path('owned').touch(); VALUE = 'evil'\n"


def plant_module(folder: Path) -> None:
    (folder / "other.py").write_text(EVIL)


def plant_change(folder: Path) -> None:
    (folder / "helper.py").write_text(EVIL)


def plant_package(folder: Path) -> None:
    (folder / "helper").mkdir()
    (folder / "helper/__init__.py").write_text(EVIL)


def plant_compiled(folder: Path) -> None:
    shutil.copy(COMPILED, folder / f"helper{EXTENSION_SUFFIXES[0]}")


def plant_loose(folder: Path) -> None:
    (folder / "loose/deep").mkdir(parents=True)
    (folder / "loose/deep/inner.py").write_text(EVIL)


def plant_link(folder: Path) -> None:
    (folder.parent / "elsewhere.py").write_text(EVIL)
    (folder / "helper.py").unlink()
    (folder / "helper.py").symlink_to(folder.parent / "elsewhere.py")


def plant_linked_package(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere/x.py").write_text(EVIL)
    (folder / "linked").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "plant",
    [
        plant_module,
        plant_change,
        plant_package,
        plant_compiled,
        plant_loose,
        plant_link,
        plant_linked_package,
    ],
)
def test_trust_covers_all_that_can_be_imported(
    plugin: Path, call: Call, plant: Callable[[Path], None]
) -> None:
    """Code that is changed in or added to the folder of a trusted plugin, however it would be
    reached, is asked about again; nothing of it is imported.
    """
    trust(call)
    assert call("run", "g.yaml")[1] == "o  mine\n"
    plant(plugin.parent)
    code, _, err = call("run", "g.yaml")
    assert code == 1 and "nodes.py is not loaded: it is not trusted with its present content" in err
    assert not Path("owned").exists()


def test_a_plugin_in_a_folder_of_very_many_files_is_trusted_by_what_it_imports(
    plugin: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not all can be looked through, nothing but that can be imported; a plugin that does not
    say what it imports needs a folder of its own.
    """
    monkeypatch.setattr(plugin_code, "MAX_FILES", 10)
    for i in range(20):
        write_text(plugin.parent / f"more/m{i}.py", "")
    trust(call)
    write_text(plugin.parent / "more/m1.py", EVIL)
    assert call("run", "g.yaml")[1] == "o  mine\n"
    plant_change(plugin.parent)
    assert "is not trusted with its present content" in call("run", "g.yaml")[2]
    plugin.write_text(
        "import importlib\n"
        + NODES.format(body="return importlib.import_module('hel' + 'per').VALUE")
    )
    assert "contains too many files" in call("trust", ".")[2]


@as_root
def test_a_strangers_code_is_not_trusted(plugin: Path, call: Call) -> None:
    """Code that belongs to another user can be trusted in no form: it may change between the look
    and the import.
    """
    trust(call)
    os.chown("helper.py", STRANGER, -1)
    code, _, err = call("run", "g.yaml")
    assert code == 1 and f"helper.py belongs to another user ({STRANGER})" in err
    code, _, err = call("trust", ".")
    assert code == 2 and "belongs to another user" in err


@pytest.mark.parametrize("of", ["helper.py", "nodes.py"])
def test_bytecode_of_the_folder_is_never_used(plugin: Path, call: Call, of: str) -> None:
    """What lies in __pycache__ is told from its source by size and time alone; the source is what
    runs.
    """
    trust(call)
    plant_bytecode(plugin.parent / of, EVIL)
    assert call("run", "g.yaml")[1] == "o  mine\n"
    assert not Path("owned").exists()


@pytest.mark.parametrize("sign", ["pyvenv.cfg", "conda-meta"])
def test_what_is_passed_over_is_not_imported_either(plugin: Path, call: Call, sign: str) -> None:
    """A folder that looks like an environment of Python is no part of what is trusted, and so
    nothing comes from it.
    """
    for name in ("beside", "pack/inner"):
        write_text(plugin.parent / name / "__init__.py", "VALUE = 'from an environment'")
        write_text(plugin.parent / name / sign, "")
    write_text(plugin.parent / "pack/__init__.py", "")
    for imported in ("beside", "pack.inner"):
        plugin.write_text(NODES.format(body=f"import {imported}; return {imported}.VALUE"))
        trust(call)
        code, _, err = call("run", "g.yaml", "--no-store")
        assert code == 1 and ("No module named" in err or "not part of the plugin" in err)


def test_an_archive_that_a_plugin_adds_to_the_path_counts(plugin: Path, call: Call) -> None:
    """It is trusted, and part of the source, by its bytes."""
    place = plugin.parent / "lib.zip"

    def pack(text: str) -> None:
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("zipped.py", text)

    pack("VALUE = 'zipped'")
    plugin.write_text(
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib.zip'))\n"
        + NODES.format(body="import zipped; return zipped.VALUE")
    )
    trust(call)
    assert call("run", "g.yaml")[1] == "o  zipped\n"
    pack(EVIL)
    assert "is not trusted with its present content" in call("run", "g.yaml")[2]
    assert not Path("owned").exists()


def test_bytecode_without_source_is_nothing(plugin: Path, call: Call) -> None:
    """A .pyc in the place of a module is not imported."""
    (plugin.parent / "nodes.py").write_text(NODES.format(body="import other; return other.VALUE"))
    trust(call)
    py_compile.compile(str(write_text(plugin.parent / "evil.py", EVIL)), cfile="other.pyc")
    (plugin.parent / "evil.py").unlink()
    code, _, err = call("run", "g.yaml")
    assert code == 1 and "No module named 'other'" in err and not Path("owned").exists()


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_imported_late_is_as_it_was_trusted(plugin: Path) -> None:
    """A module that a function imports is looked at again at that moment."""
    plugin.write_text(NODES.format(body="import late; return late.VALUE"))
    late = write_text(plugin.parent / "late.py", "VALUE = 'then'\n")
    found = discover([plugin], entry_points=list).find("my.say")
    assert found is not None
    late.write_text(EVIL)
    with pytest.raises(ImportError, match="'late' has changed since the plugin was loaded"):
        found.function()
    late.write_text("VALUE = 'then'\n")
    assert found.function() == "then"


def test_a_folder_that_a_plugin_adds_to_the_path_is_held_to_it_too(plugin: Path) -> None:
    """Modules found there count as its source, are taken as they were digested, and never from
    bytecode.
    """
    plugin.write_text(
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib'))\n"
        + NODES.format(body="import inner; return inner.VALUE")
    )
    inner = write_text(plugin.parent / "lib/inner.py", "VALUE = 'good'\n")
    plant_bytecode(inner, EVIL)
    first = discover([plugin], entry_points=list).find("my.say")
    assert first is not None and first.function() == "good"
    write_text(plugin.parent / "lib/planted.py", EVIL)
    with pytest.raises(ImportError, match="is not part of the plugin"):
        importlib.import_module("planted")
    assert not Path("owned").exists()
    inner.write_text("VALUE = 'better'\n")
    second = discover([plugin], entry_points=list).find("my.say")
    assert second is not None and second.function() == "better"
    assert second.source_digest != first.source_digest


def test_the_folder_of_a_plugin_brings_no_installed_plugins(plugin: Path) -> None:
    """Metadata of a distribution that lies beside a trusted plugin registers nothing, though the
    process goes on.
    """
    (plugin.parent / "evil-1.dist-info").mkdir()
    (plugin.parent / "evil-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: evil\nVersion: 1\n"
    )
    (plugin.parent / "evil-1.dist-info/entry_points.txt").write_text(
        "[imagen_flow]\nevil = evil\n[imagen_flow.commands]\nevil = evil\n"
    )
    write_text(plugin.parent / "evil.py", EVIL)
    discover([plugin], entry_points=list)
    assert not [
        e
        for group in ("imagen_flow", "imagen_flow.commands")
        for e in importlib.metadata.entry_points(group=group)
        if e.name == "evil"
    ]
    assert not Path("owned").exists()


def test_the_working_directory_is_not_where_our_modules_come_from(fetched: Path) -> None:
    """`python -m imagen_flow` looks there first; a file that is called like a library of ours is
    passed over.
    """
    for name in ("click", "platformdirs", "ruamel", "pluggy"):
        write_text(fetched / f"{name}.py", EVIL)
    ran = subprocess.run(
        [sys.executable, "-m", "imagen_flow", "nodes", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, Path("owned").exists()) == (0, False), ran.stderr


def test_modules_with_the_names_of_pythons_own_are_not_taken(plugin: Path) -> None:
    """sitecustomize, a module of the standard library or an installed one beside a plugin hide
    nothing.
    """
    for name in ("sitecustomize", "usercustomize", "json", "numpy", "imagen_flow", "queue"):
        write_text(plugin.parent / f"{name}.py", EVIL)
    plugin.write_text(
        NODES.format(body="import json, numpy, queue, sitecustomize; return 'fine'")
        .replace("import helper", "")
        .replace(", sitecustomize", "")
    )
    found = discover([plugin], entry_points=list).find("my.say")
    assert found is not None and found.function() == "fine"
    assert not Path("owned").exists()


# -- what is no file -------------------------------------------------------------------------------


def make_fifo(place: Path) -> None:
    os.mkfifo(place)


def make_link_to_fifo(place: Path) -> None:
    other = place.parent.parent / f"other-{place.name}"
    os.mkfifo(other)
    place.symlink_to(other)


def make_endless(place: Path) -> None:
    place.symlink_to("/dev/zero")


def make_terminal(place: Path) -> None:
    place.symlink_to("/dev/tty")


def make_kernels(place: Path) -> None:
    place.symlink_to("/proc/self/environ")


def make_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(place))  # an address is short


@pytest.fixture
def promptly() -> Iterator[None]:
    """Interrupt what waits for something."""

    def late(*_: Any) -> None:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


TEXTUAL = 'imagen_flow: 1\ninputs: {f: {type: file, default: ./f.txt}}\nnodes: {n: {type: text.load, file: "${f}"}}\noutputs: {o: "${n}"}\n'


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="fifos as on POSIX")
@pytest.mark.parametrize(
    ("place", "command", "words"),
    [
        ("g.yaml", "run g.yaml", "regular"),
        ("inner.yaml", "plan including.yaml", "it is not a regular file|is not a graph file"),
        ("p.png", "replay p.png --yes", "it is not a regular file"),
        ("p.jpg.provenance.json", "replay p.jpg --yes", "it is not a regular file"),
        ("imagen-flow.toml", "trust imagen-flow.toml", "it is not a regular file"),
        ("imagen-flow.lock", "plan reading.yaml", "it is not a regular file"),
        (
            "nodes.py",
            "run reading.yaml --plugin nodes.py",
            "there is no file|is not a regular file",
        ),
        ("f.txt", "run reading.yaml", "it is not a regular file"),
        ("other.txt", "run reading.yaml --set f=other.txt", "it is not a regular file"),
        ("model.safetensors", "plan modelled.yaml", "not a regular file|is no file|no model"),
        (
            "model/config.json",
            "plan foldered.yaml",
            "config.json in it is not a regular file|not a regular file|has no weights",
        ),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(
    fetched: Path, call: Call, promptly: None, place: str, command: str, words: str
) -> None:
    """Fifos, devices, sockets and files of the kernel in the place of anything that is read: a
    clear error, at once.
    """
    (fetched / "f.txt").write_text("text")
    (fetched / "p.jpg").write_bytes(b"\xff\xd8\xff")
    (fetched / "reading.yaml").write_text(TEXTUAL)
    (fetched / "including.yaml").write_text(
        'imagen_flow: 1\nnodes: {n: {type: ./inner.yaml}}\noutputs: {o: "${n}"}\n'
    )
    for name, model in (("modelled", "./model.safetensors"), ("foldered", "./model")):
        (fetched / f"{name}.yaml").write_text(
            f'imagen_flow: 1\nnodes: {{n: {{type: image.caption, image: "${{i}}", model: {model}}}, i: {{type: image.solid, width: 8, height: 8, colour: red}}}}\noutputs: {{o: "${{n}}"}}\n'
        )
    (fetched / place).parent.mkdir(exist_ok=True)
    for make in (
        (make_fifo, make_link_to_fifo, make_endless, make_terminal, make_kernels, make_socket)
        if place in ("g.yaml", "f.txt")
        else (make_fifo, make_kernels)
    ):
        (fetched / place).unlink(missing_ok=True)
        make(fetched / place)
        code, out, err = call(*command.split())
        assert (code != 0 or "unresolved" in out) and re.search(words, out + err), (
            make,
            code,
            out,
            err,
        )
        assert (
            "Traceback" not in err
            and "fault of imagen_flow itself" not in err
            and "PATH=" not in err
        )


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_files_of_the_kernel_are_none(tmp_path: Path) -> None:
    """A link that leads into /proc or /sys is told by where it leads, and a file in shared memory
    is a file.
    """
    for place in ("/proc/self/environ", "/proc/1/stat", "/sys/kernel/notes", "/proc/self/fd/0"):
        if os.path.exists(place):
            assert not is_regular(place) or place.endswith("fd/0")
    kept = tmp_path / "kept"
    kept.write_text("x")
    assert is_regular(kept)
    with open(kept) as stream:
        assert is_regular(f"/proc/self/fd/{stream.fileno()}")
