"""The house stands as drawn: floors, confined libraries, light imports, and documents that are
true.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import grimp

import imagen_flow as flow
from imagen_flow._plugins.registry import discover

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PLUGINS = sorted(path.name for path in (ROOT / "plugins").glob("imagen_flow_*"))

#: Which modules of the core may import an outside library, at whatever place in their code.
CONFINED = {
    "PIL": {"_types"},
    "click": {"_cli"},
    "diffusers": set(),
    "huggingface_hub": {"_models"},
    "networkx": {"_graph"},
    "pathspec": {"_hotfolder"},
    "pickle": set(),
    "picklescan": {"_models"},
    "platformdirs": {"_system"},
    "pluggy": {"_plugins"},
    "pyarrow": {"_sweep"},
    "pydantic": {"_provenance", "_types"},
    "rich": {"_cli"},
    "ruamel": {"_text"},
    "safetensors": {"_models", "_types"},
    "sqlite3": {"_hotfolder", "_store"},
    "torch": {"_models", "_settings", "_types"},
    "transformers": {"_models"},
    "watchdog": {"_watch"},
}


def test_floors() -> None:
    """A module imports only from the floors below it; plugins import the front door and not each
    other.
    """
    # In a process of its own, for it switches off all loggers that there are.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_confined_libraries() -> None:
    """Each outside library is imported only by the modules that it is confined to."""
    graph = grimp.build_graph("imagen_flow", include_external_packages=True, cache_dir=None)
    strays = defaultdict(set)
    for library, homes in CONFINED.items():
        if library in graph.modules:
            users = {
                module.split(".")[1] for module in graph.find_modules_that_directly_import(library)
            }
            if users - homes:
                strays[library] = users - homes
    assert strays == {}


def test_floors_in_the_document() -> None:
    """The table in docs/architecture.md has the floors of the import contract, in its order, and on
    each the libraries that are confined to it.
    """
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    assert contract["containers"] == ["imagen_flow"]
    floors = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = text.partition("\n## Floors\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|`]*\| (`[^|]*) \|([^|]*)\|$", table, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", rooms)) for rooms, _ in rows] == floors
    shown = [set(re.findall(r"\w+", libraries.replace("Pillow", "PIL"))) for _, libraries in rows]
    assert [words & CONFINED.keys() for words in shown] == [
        {library for library, homes in CONFINED.items() if homes & rooms} for rooms in floors
    ]


def test_light_imports() -> None:
    """Importing every plugin, and all that a plan needs, imports no heavy library."""
    code = """
import sys
import imagen_flow.api, imagen_flow._replay.replay, imagen_flow._cli
from imagen_flow._plugins.registry import discover
registry = discover().load_all()
assert not registry.faults, registry.faults
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "diffusers", "transformers", "huggingface_hub", "tokenizers", "scipy", "networkx", "PIL", "rich"}))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("\n", "")


def test_the_first_call_imports_what_it_needs() -> None:
    """Running a small graph that was composed in Python imports no reader of texts, no client of
    the network, and no library for pictures or large graphs.
    """
    code = """
import sys
import imagen_flow as flow
graph = {"imagen_flow": 1, "nodes": {"a": {"type": "math.add", "a": 1, "b": 2}}, "outputs": {"a": "${a}"}}
assert flow.run(graph, store=None) == {"a": 3}
print(*sorted({"ruamel", "imagen_flow._text.plain_reader", "imagen_flow._text.yaml_events", "ssl", "http", "urllib.request", "networkx", "PIL", "numpy", "pydantic", "click", "rich", "torch"} & sys.modules.keys()))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("\n", "")


def test_no_module_hides_a_function() -> None:
    """What the front door shows is never hidden by a module of the same name, nor taken for one;
    the core's own modules are private, but for those that are documented.
    """
    modules = {
        path.stem
        for path in (ROOT / "imagen_flow").iterdir()
        if path.is_dir() or path.suffix == ".py"
    }
    assert modules & set(flow.__all__) == set()
    assert {name for name in modules if not name.startswith("_")} == {
        "api",
        "errors",
        "events",
        "loaders",
        "models",
        "services",
        "testing",
    }


def test_every_plugin_is_registered() -> None:
    """Each package under plugins/ is in the wheel and has its entry point."""
    packages = [
        Path(p).name for p in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    ]
    assert sorted(packages) == ["graphs", "imagen_flow", *PLUGINS]
    assert sorted(PROJECT["project"]["entry-points"]["imagen_flow"].values()) == PLUGINS
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == ["imagen_flow", *PLUGINS]


def test_lists_that_belong_together_are_paired() -> None:
    """A node type that takes several lists says that their elements belong together, or is named
    here: what is absent from one list would shift the others.
    """
    apart = {
        *("diffusion.tensors", "list.concat", "metric.fid", "metric.kid"),
        *("table.plot", "table.summarise"),
    }
    found = set()
    for name, type_ in discover().node_types.items():
        lists = [
            port.name
            for port in type_.inputs.values()
            # Records and models that are attached to another are each for themselves.
            if port.type.kind == "list" and port.name not in {*type_.records, *type_.loaders}
        ]
        if len(lists) > 1 and not {*lists} <= {*type_.paired}:
            found.add(name)
    assert found == apart


def test_names() -> None:
    """No module is named after nothing in particular."""
    names = {
        path.stem
        for folder in ("imagen_flow", "plugins", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert names & {"utils", "util", "common", "base", "helpers", "helper", "misc"} == set()


def test_graphs_open_with_a_comment() -> None:
    """Every graph that comes along says in its first line what it shows."""
    graphs = sorted((ROOT / "graphs").rglob("*.yaml"))
    assert graphs
    assert [
        str(path.relative_to(ROOT))
        for path in graphs
        if not path.read_text("utf-8").startswith("# ")
    ] == []


def test_ruff() -> None:
    """The linter finds nothing."""
    said = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "All checks passed!\n")


def test_format() -> None:
    """The formatter would change nothing, neither code nor the Python in documents."""
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_types(tmp_path: Path) -> None:
    """The types are strict and hold."""
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout
