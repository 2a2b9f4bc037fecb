"""imagen-flow.toml, places on this machine, and trust in local plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagen_flow import GraphError
from imagen_flow._settings import config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_found_upward(folder: Path) -> None:
    """The nearest settings file in the folder or above it is taken."""
    write(folder / "imagen-flow.toml", "")
    near = write(folder / "a" / "imagen-flow.toml", "")
    (folder / "a" / "b").mkdir()
    assert config.find(folder / "a" / "b") == near


def test_none() -> None:
    """Without a settings file nothing is set."""
    assert config.load(Path("/")) == config.Settings()


def test_read(folder: Path) -> None:
    """Settings are read, and their paths start from the file's own folder."""
    path = write(
        folder / "deep" / "imagen-flow.toml",
        'device = "cpu"\ndtype = "float32"\nstore = "./kept"\nout = "results"\nplugins = ["./mine.py"]\n',
    )
    read = config.read(path)
    assert (read.device, read.dtype) == ("cpu", "float32")
    assert (read.store, read.out, read.plugins) == (
        path.parent / "kept",
        path.parent / "results",
        (path.parent / "mine.py",),
    )


def test_problems(folder: Path) -> None:
    """All problems of a settings file are said at once, each with its line, in file order."""
    path = write(
        folder / "imagen-flow.toml",
        'devise = "cpu"\ndtype = "float31"\nout = 3\nplugins = "x.py"\ndevice = "gpu"\n',
    )
    with pytest.raises(GraphError) as caught:
        config.read(path)
    assert (
        str(caught.value)
        == """\
imagen-flow.toml:1:1: error[bad-setting]: there is no setting 'devise'
1 | devise = "cpu"
  | ^^^^^^
  = fix: did you mean 'device'?

imagen-flow.toml:2:1: error[bad-setting]: there is no dtype 'float31'
2 | dtype = "float31"
  | ^^^^^
  = fix: did you mean 'float32'?

imagen-flow.toml:3:1: error[bad-setting]: 'out' must be text, not 3
3 | out = 3
  | ^^^

imagen-flow.toml:4:1: error[bad-setting]: 'plugins' must be a list of paths of Python files
4 | plugins = "x.py"
  | ^^^^^^^
  = fix: write plugins = ["./my_nodes.py"]

imagen-flow.toml:5:1: error[bad-setting]: there is no device 'gpu'
5 | device = "gpu"
  | ^^^^^^
  = fix: did you mean 'cuda'?"""
    )


def test_not_toml(folder: Path) -> None:
    """What is not TOML is shown where it stops being so."""
    path = write(folder / "imagen-flow.toml", 'device = "cpu"\nout: here\n')
    with pytest.raises(GraphError) as caught:
        config.read(path)
    assert (
        str(caught.value)
        == """\
imagen-flow.toml:2:4: error[bad-setting]: the file is not TOML
2 | out: here
  |    ^
  = why: expected '=' after a key in a key/value pair"""
    )


def test_not_utf8(folder: Path) -> None:
    """A settings file that is not UTF-8 is refused by name."""
    path = folder / "imagen-flow.toml"
    path.write_bytes(b'out = "\xff"')
    with pytest.raises(GraphError) as caught:
        config.read(path)
    assert (
        str(caught.value) == "error[not-utf8]: imagen-flow.toml is not UTF-8 text: byte 7 is 0xff"
    )


def test_store_place(folder: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is where the flag says, else the environment, else the settings, else in the cache
    folder of the user.
    """
    settings = config.Settings(store=folder / "set")
    assert own_home in config.store_folder().parents
    assert config.store_folder(None, settings) == folder / "set"
    monkeypatch.setenv("IMAGEN_FLOW_STORE", str(folder / "env"))
    assert config.store_folder(None, settings) == folder / "env"
    assert config.store_folder(folder / "flag", settings) == folder / "flag"


def test_trust(folder: Path) -> None:
    """A plugin that settings name is refused until it is trusted, and again when it or a module
    beside it changes.
    """
    write(folder / "nodes.py", "import helper\n")
    helper = write(folder / "helper.py", "x = 1\n")
    package = write(folder / "more" / "__init__.py", "")
    loose = write(folder / "data" / "no_init.py", "")
    write(folder / "data" / "notes.txt", "")
    settings = config.read(write(folder / "imagen-flow.toml", 'plugins = ["nodes.py"]\n'))
    plugin = settings.plugins[0]

    def refusals() -> list[str]:
        return [str(p) for p in config.untrusted(settings).values()]

    assert refusals() == [
        """\
imagen-flow.toml:1:1: warning[untrusted-plugin]: nodes.py is not loaded: it is not trusted
1 | plugins = ["nodes.py"]
  | ^^^^^^^
  = why: importing it runs its code
  = fix: read the file, then run: imagen-flow trust imagen-flow.toml"""
    ]
    config.trust({plugin: config.code_digest(plugin)})
    assert refusals() == []
    write(folder / "data" / "notes.txt", "changed")
    write(folder / "__pycache__" / "helper.cpython-311.pyc", "planted")
    assert refusals() == []
    for changed in (helper, package, loose):
        before = changed.read_text()
        changed.write_text("x = 2\n")
        assert "it is not trusted with its present content" in refusals()[0]
        changed.write_text(before)
        assert refusals() == []


def test_trust_is_of_a_place(folder: Path) -> None:
    """Trusting a plugin does not trust its copy elsewhere, nor does it end the trust in others."""
    here, there = write(folder / "a" / "nodes.py", ""), write(folder / "b" / "nodes.py", "")
    config.trust({here: config.code_digest(here)})
    assert (config.is_trusted(here), config.is_trusted(there)) == (True, False)
    config.trust({there: config.code_digest(there)})
    assert (config.is_trusted(here), config.is_trusted(there)) == (True, True)


def test_missing_plugin(folder: Path) -> None:
    """A plugin that is not there is a warning, and the others still load."""
    settings = config.read(write(folder / "imagen-flow.toml", 'plugins = ["nodes.py"]\n'))
    (problem,) = config.untrusted(settings).values()
    assert (problem.code, problem.severity, problem.message) == (
        "missing-file",
        "warning",
        "there is no file nodes.py",
    )


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="the superuser may read everything",
)
def test_unreadable(folder: Path) -> None:
    """A settings file that cannot be read says why."""
    path = write(folder / "imagen-flow.toml", "")
    path.chmod(0)
    with pytest.raises(GraphError, match="Permission denied"):
        config.read(path)
