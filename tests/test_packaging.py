"""What is installed from a wheel works as a checkout does, and what is pinned is what is tested."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        normal(name): number
        for name, _, number in (
            line.partition("==") for line in lines if line and not line.startswith("#")
        )
    }


def test_constraints_cover_the_dependencies() -> None:
    """Every library that is asked for has its version pinned."""
    asked = {
        normal(re.split(r"[<>=!~;\[ ]", spec)[0])
        for spec in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    }
    assert asked - pinned().keys() == set()


def test_constraints_are_what_is_tested() -> None:
    """The versions installed here are the pinned ones: otherwise the tests say nothing about them."""
    differing = {}
    for name, number in pinned().items():
        try:
            here = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if here != number:
            differing[name] = (here, number)
    assert differing == {}


def build(target: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds our wheel, and the libraries of this one below it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = home / scripts / Path(sys.executable).name
    own = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    # Paths in a .pth file come after our own, and .pth files there (as of an editable install) are
    # not read.
    (own / "below.pth").write_text(
        "\n".join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
        + "\n"
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def tracked(*folders: str) -> set[str]:
    """Files that belong to the project, as the version control knows them; generated ones do not."""
    said = subprocess.run(
        ["git", "ls-files", "--", *folders], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(said.stdout.splitlines())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_wheel_is_whole(wheel: Path) -> None:
    """The wheel holds every file of the core, the plugins and the graphs, the licence, and nothing
    else.
    """
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.removeprefix("plugins/") for path in tracked("imagen_flow", "plugins")}
    expected |= {f"imagen_flow/{path}" for path in tracked("graphs")}
    missing = {path for path in expected if path not in held and (ROOT / path).exists()}
    assert missing == set()
    assert {path.partition("/")[0] for path in held if ".dist-info/" not in path} == {
        "imagen_flow",
        *PROJECT["entry-points"]["imagen_flow"].values(),
    }
    assert {re.sub(r"^.*\.dist-info/", "", path) for path in held if ".dist-info/" in path} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_an_editable_install_leaves_no_folder_of_the_packages_name(tmp_path: Path) -> None:
    """It holds a path file and metadata alone: a folder would be taken for the package wherever
    path files are not read.
    """
    held = zipfile.ZipFile(build("wheel:editable", tmp_path)).namelist()
    assert [path for path in held if ".dist-info/" not in path] == ["_imagen_flow.pth"]


def test_sdist_is_whole(tmp_path: Path) -> None:
    """The source distribution holds what building and testing need."""
    with tarfile.open(build("sdist", tmp_path)) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "README.md",
        "LICENSE",
        "graphs/demo.yaml",
        "graphs/imagen.yaml",
        "imagen_flow/_cli/run.py",
        "tests/conftest.py",
    } <= held


def test_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """From the installed wheel, every plugin loads, the embedded models are found, and graphs run
    by the command and by `python -m`.
    """
    code = """
import json, imagen_flow, imagen_flow_embedded
from imagen_flow._plugins.registry import discover
registry = discover().load_all()
print(json.dumps({
    "files": [imagen_flow.__file__, imagen_flow_embedded.__file__],
    "faults": registry.faults,
    "models": {name: path.is_dir() for name, path in registry.models.items()},
}))
"""
    said = json.loads(
        subprocess.run(
            [installed, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
    )
    home = installed.parent.parent.resolve()
    assert [home in Path(file).resolve().parents for file in said["files"]] == [True, True]
    assert said["faults"] == []
    here = {
        f"embedded/{path.name}"
        for path in (ROOT / "plugins" / "imagen_flow_embedded" / "weights").glob("*")
        if path.is_dir()
    }
    assert {name for name, there in said["models"].items() if there} == here

    graph = home / Path(said["files"][0]).parent / "graphs" / "enlarge.yaml"
    command = installed.parent / ("imagen-flow.exe" if os.name == "nt" else "imagen-flow")
    run = subprocess.run(
        [command, "run", graph], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert run.stdout.startswith("picture  out")
    again = subprocess.run(
        [installed, "-m", "imagen_flow", "run", graph],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert (again.stdout, "0 steps ran, 3 from the store" in again.stderr) == (run.stdout, True)


def test_installed_demo(installed: Path, tmp_path: Path) -> None:
    """The demo's graph is found in the installed wheel and fits its plugins."""
    said = subprocess.run(
        [installed, "-m", "imagen_flow", "demo", "--help"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Draw, enlarge, edit and describe" in said.stdout
    code = "import imagen_flow as flow; from imagen_flow._cli.demo import _graphs_folder; print(*flow.load(_graphs_folder() / 'demo.yaml').outputs)"
    said = subprocess.run(
        [installed, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert said.stdout == "drawn picture sheet caption\n"


@pytest.mark.slow
def test_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel and what it asks for, and nothing else, is enough for the demo; its second run
    takes everything from the store.
    """
    venv.create(tmp_path / "empty", with_pip=True, symlinks=os.name != "nt")
    scripts = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")
    pip = [
        scripts / "python",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
    ]
    said = subprocess.run([*pip, wheel], capture_output=True, text=True)
    if said.returncode and re.search(
        r"No matching distribution|ConnectionError|Max retries", said.stderr
    ):
        pytest.skip(f"the package index cannot be reached: {said.stderr.strip().splitlines()[-1]}")
    assert said.returncode == 0, said.stderr
    (tmp_path / "elsewhere").mkdir()
    elsewhere = {
        "cwd": tmp_path / "elsewhere",
        "env": os.environ | {"IMAGEN_FLOW_STORE": str(tmp_path / "store")},
        "check": True,
        "capture_output": True,
        "text": True,
    }
    first = subprocess.run([scripts / "imagen-flow", "demo"], **elsewhere)
    assert re.search(r"caption +an? ", first.stdout) and list(
        (tmp_path / "elsewhere").rglob("*.png")
    )
    again = subprocess.run([scripts / "imagen-flow", "demo"], **elsewhere)
    assert again.stdout == first.stdout and "0 steps ran" in again.stderr


@pytest.mark.slow
def test_a_strangers_plugin(installed: Path, tmp_path: Path) -> None:
    """By documented commands alone, a plugin is begun, built, installed, passes its own tests and
    the check, and its graph runs; the second run takes everything from the store.
    """
    scripts = installed.parent
    elsewhere = {
        "cwd": tmp_path,
        "env": os.environ | {"IMAGEN_FLOW_STORE": str(tmp_path / "store")},
        "check": True,
        "capture_output": True,
        "text": True,
    }
    command = scripts / ("imagen-flow.exe" if os.name == "nt" else "imagen-flow")
    subprocess.run([command, "plugin", "new", "my-nodes"], **elsewhere)
    inside = {**elsewhere, "cwd": tmp_path / "my-nodes"}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], **inside)
    (made,) = (tmp_path / "my-nodes" / "dist").iterdir()
    pip = [sys.executable, "-m", "pip", "--python", str(installed), "install", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--root-user-action=ignore", str(made)], **inside)
    shown = subprocess.run([command, "nodes", "my.posterise"], **elsewhere)
    assert "Reduce a picture to a few tones per channel." in shown.stdout
    subprocess.run([installed, "-m", "pytest", "-q", "-p", "no:cacheprovider"], **inside)
    checked = subprocess.run([command, "plugin", "check", "my-nodes"], **elsewhere)
    assert checked.stdout == "my-nodes:my_nodes: 1 node type, 0 findings\n"
    graph = ["run", "graphs/posterise.yaml"]
    first, again = (subprocess.run([command, *graph], **inside) for _ in range(2))
    assert first.stdout == again.stdout == "picture  out/posterise/3.png\n"
    assert "0 steps ran, 2 from the store" in again.stderr
