"""``imagen-flow models``: what it fetches, pins, lists and removes, and what plans and runs make of
it.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import _cli as cli

_spec = importlib.util.spec_from_file_location("local_hub", Path(__file__).parent / "local_hub.py")
assert _spec is not None and _spec.loader is not None
local_hub = sys.modules.setdefault("local_hub", importlib.util.module_from_spec(_spec))
if not hasattr(local_hub, "Hub"):
    _spec.loader.exec_module(local_hub)


def weights(count: int) -> bytes:
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * (4 * count)


NODES = '''
"""Toy nodes."""
from typing import Annotated
from imagen_flow import List, Model, Text, loaders, node, record

class Named(loaders.Loader):
    """Loads a model as its reference."""

    def load(self, model, *, device, dtype, settings):
        return f"{model.reference}: {'a folder' if model.path.is_dir() else model.path.name}"

@node("toy.draw", version=1)
def draw(model: Model[Named]) -> Text:
    """Say which model draws."""
    return model

@record
class Use:
    model: Annotated[str, loaders.Leased(Named)]
    weight: float = 1.0

@node("toy.mix", version=1)
def mix(uses: List[Use], *, one: Use | None = None) -> Text:
    """Say which models are mixed."""
    return ", ".join(use.model for use in uses)
'''

GRAPH = """\
# Two models, one by way of an input.
imagen_flow: 1
inputs:
  base: hf:org/tiny
nodes:
  a: {type: toy.draw, model: "${base}"}
  b: {type: toy.draw, model: "hf:org/tiny@main/lora.safetensors"}
outputs:
  a: "${a}"
  b: "${b}"
"""

CONFIG = b'{"_class_name": "UNet"}'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = local_hub.Hub(
        {
            "org/tiny": local_hub.Repository(
                {
                    "main": {
                        "config.json": CONFIG,
                        "model.safetensors": weights(50_000),
                        "model.fp16.safetensors": weights(9),
                        "lora.safetensors": weights(100),
                    }
                },
                license="openrail",
            ),
            "org/shy": local_hub.Repository({"main": {}}, gated=True, token="x"),
        }
    )
    with local_hub.serve(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture
def flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in the folder of the graph; give exit code, standard output and standard
    error.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.yaml").write_text(GRAPH)
    (tmp_path / "nodes.py").write_text(NODES)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        result = capsys.readouterr()
        return int(left.value.code or 0), result.out, result.err

    return call


PLUGIN = ("--plugin", "nodes.py")


def test_from_a_graph_to_a_locked_run(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Plan says what to do; resolve pins without fetching weights; pull fetches; then plan and run
    hold to the lock, offline.
    """
    code, _, err = flow("plan", "graph.yaml", *PLUGIN, "--no-store")
    assert code == 1
    assert "= fix: run `imagen-flow models pull hf:org/tiny`\n" in err

    code, out, err = flow("models", "resolve", "graph.yaml", *PLUGIN)
    commit = server.commit("org/tiny", "main")[:7]
    assert (code, err) == (0, f"wrote {tmp_path}/imagen-flow.lock\n")
    assert (
        out
        == f"hf:org/tiny@main                   {commit}  200 kB in 2 files  openrail\nhf:org/tiny@main/lora.safetensors  {commit}  473 B in 1 file    openrail\n"
    )
    assert server.transfers() == []
    code, out, _ = flow("models", "list", "graph.yaml", *PLUGIN)
    assert [line.split("  ")[-1] for line in out.splitlines()] == [
        "2 of 2 files missing",
        "1 of 1 files missing",
    ]

    code, out, err = flow("models", "pull", "graph.yaml", *PLUGIN)
    assert code == 0
    assert out.startswith("pulled hf:org/tiny@main: 200 kB in ")
    assert "hf:org/tiny@main: model.safetensors (200 kB) 2 of 2\n" in err
    before = (tmp_path / "imagen-flow.lock").read_text()

    server.asked.clear()
    code, out, _ = flow(
        "plan", "graph.yaml", *PLUGIN, "--no-store", "--locked", "--dtype", "float16"
    )
    assert code == 0
    assert "  hf:org/tiny                        200 kB on disk, 100 kB in memory\n" in out
    code, out, err = flow("run", "graph.yaml", *PLUGIN, "--no-store", "--locked", "--quiet")
    assert (code, out) == (
        0,
        "a  hf:org/tiny: a folder\nb  hf:org/tiny@main/lora.safetensors: lora.safetensors\n",
    )
    assert server.asked == []
    code, out, _ = flow("models", "list")
    assert [line.split("  ")[-1] for line in out.splitlines()] == ["here", "here"]

    assert flow("models", "pull")[0] == 0
    assert server.transfers() == []
    assert (tmp_path / "imagen-flow.lock").read_text() == before


def test_a_lock_moves_only_when_it_is_told_to(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A branch that has moved changes nothing until --update; another variant is asked for by name."""
    flow("models", "resolve", "hf:org/tiny")
    first = (tmp_path / "imagen-flow.lock").read_text()
    server.repositories["org/tiny"].revisions["main"]["config.json"] = b"{}"
    server.commit = lambda repository, revision: "b" * 40
    assert flow("models", "resolve", "hf:org/tiny@main")[2] == ""
    assert (tmp_path / "imagen-flow.lock").read_text() == first
    assert flow("models", "resolve", "--update")[1].startswith("hf:org/tiny@main  bbbbbbb  ")
    flow("models", "resolve", "hf:org/tiny", "--variant", "fp16")
    assert 'variant = "fp16"\n' in (tmp_path / "imagen-flow.lock").read_text()


def test_what_goes_wrong_with_one_model_keeps_no_other_from_coming(
    server: Any, flow: Callable[..., tuple[int, str, str]]
) -> None:
    """All problems are shown at the end, each with its mending, and the exit code says that there
    were some.
    """
    code, out, err = flow(
        "models", "pull", "hf:org/shy", "hf:org/gone", "hf:org/tiny@main/lora.safetensors"
    )
    assert code == 1
    assert out.startswith("pulled hf:org/tiny@main/lora.safetensors: ")
    assert "error[unresolved-model]: unresolved: 'hf:org/shy@main' is gated\n" in err
    assert "= fix: accept it at http://127.0.0.1:" in err
    assert (
        "error[unresolved-model]: unresolved: there is no repository 'org/gone' that you can access\n"
        in err
    )
    assert err.endswith("\n2 problems\n")


def test_words_that_name_no_model(flow: Callable[..., tuple[int, str, str]]) -> None:
    """A misspelt reference gets the spellings, no words and no lock a hint."""
    code, _, err = flow("models", "pull", "org/tiny")
    assert code == 2
    assert "write 'hf:org/tiny' for the hub" in err
    code, _, err = flow("models", "resolve")
    assert code == 2
    assert "name a graph or a model: there is no imagen-flow.lock in this folder" in err


def test_a_model_that_is_here_anyway_is_not_fetched(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A path and an embedded model are named as such; the others are fetched."""
    code, out, err = flow(
        "models", "pull", "./mine", "embedded/imagen", "hf:org/tiny@main/lora.safetensors"
    )
    assert code == 0
    assert err.startswith(
        "./mine is not a hub model: there is nothing to download\nembedded/imagen is not a hub model: there is nothing to download\n"
    )
    assert out.startswith("pulled hf:org/tiny@main/lora.safetensors: ")


def test_models_are_removed_with_what_only_they_need(
    server: Any,
    flow: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the lock and from the cache; one that is known nowhere is told; without --yes it asks."""
    flow("models", "pull", "hf:org/tiny", "hf:org/tiny@main/lora.safetensors")
    monkeypatch.setattr("sys.stdin", StringIO("n\n"))
    assert flow("models", "rm", "hf:org/tiny") == (
        1,
        "",
        "remove hf:org/tiny@main (201 kB)? [y/N]: nothing was done\n",
    )
    assert flow("models", "rm", "--yes", "--keep-files", "hf:org/tiny@main/lora.safetensors") == (
        0,
        "removed hf:org/tiny@main/lora.safetensors: 0 B freed\n",
        f"wrote {tmp_path}/imagen-flow.lock\n",
    )
    code, out, _ = flow("models", "rm", "--yes", "hf:org/tiny")
    assert (code, out) == (0, "removed hf:org/tiny@main: 201 kB freed\n")
    assert list((tmp_path / "hub").glob("models--*")) == []
    code, _, err = flow("models", "rm", "--yes", "hf:org/tiny")
    assert code == 1
    assert "'hf:org/tiny@main' is neither in the lock nor in the hub's cache" in err
    assert flow("models", "list")[1] == "no models are locked here, and the hub's cache is empty\n"


def test_what_another_tool_fetched_is_listed(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The cache is shared with the hub's own libraries: what they fetched is shown, and can be
    removed.
    """
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/tiny", "lora.safetensors", cache_dir=tmp_path / "hub", endpoint=server.url)
    commit = server.commit("org/tiny", "main")[:7]
    assert (
        flow("models", "list")[1]
        == f"in the hub's cache, but not in a lock here:\n  hf:org/tiny@main  {commit}  473 B\n"
    )
    result = json.loads(flow("models", "list", "--json")[1])
    assert [(c["repository"], c["revisions"], c["bytes"]) for c in result["cached"]] == [
        ("org/tiny", "main", 473)
    ]
    assert flow("models", "rm", "--yes", "hf:org/tiny")[0] == 0
    assert flow("models", "list")[1] == "no models are locked here, and the hub's cache is empty\n"


def test_models_in_records_are_named_too(
    server: Any, flow: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Written in a field, as a bare value, by way of an input or for each element: all are pinned,
    and a run with the lock leases them.
    """
    (tmp_path / "mixed.yaml").write_text(
        """\
imagen_flow: 1
inputs: {base: hf:org/tiny}
nodes:
  a:
    type: toy.mix
    uses: [{model: "${base}", weight: 0.5}, "hf:org/tiny@main/lora.safetensors"]
  b: {type: toy.mix, uses: [], each: {one: {model: "hf:org/tiny@main/model.safetensors", weight: [1, 2]}}}
outputs: {a: "${a}", b: "${b}"}
"""
    )
    code, out, err = flow("models", "resolve", "mixed.yaml", *PLUGIN)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == [
        "hf:org/tiny@main",
        "hf:org/tiny@main/lora.safetensors",
        "hf:org/tiny@main/model.safetensors",
    ]
    assert flow("models", "pull", "mixed.yaml", *PLUGIN)[0] == 0
    code, out, err = flow("run", "mixed.yaml", *PLUGIN, "--no-store", "--locked")
    assert code == 0, err
    assert "hf:org/tiny: a folder, hf:org/tiny@main/lora.safetensors: lora.safetensors" in out
