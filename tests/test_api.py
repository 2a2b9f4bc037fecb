"""The stages as functions: load, plan, execute, run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow import GraphError, List, NodeError, OutputError, events
from imagen_flow._plugins.registry import Registry
from imagen_flow._settings import config
from imagen_flow._store import Store, file_digests
from imagen_flow._types.codec import Codecs
from imagen_flow.errors import StoreError

GRAPH = {
    "imagen_flow": 1,
    "inputs": {"a": 1, "store": 10},
    "nodes": {"sum": {"type": "toy.add", "a": "${a}", "b": "${store}"}},
    "outputs": {"sum": "${sum}"},
}


@flow.node("toy.add", version=1)
def add(a: int, b: int = 0) -> int:
    if a < 0:
        raise ValueError("it is below nothing")
    return a + b


@flow.node("toy.count", version=1)
def count(to: int) -> List[int]:
    return list(range(to))


@flow.node("toy.even", version=1)
def even(n: int) -> bool:
    return n % 2 == 0


@flow.node("toy.length", version=1)
def length(file: flow.File) -> int:
    return file.size


@pytest.fixture
def registry() -> Registry:
    made = Registry({})
    for function in (add, count, even):
        made.add(function)
    return made


def test_a_graph_is_loaded_from_a_file_a_mapping_or_a_graph(
    registry: Registry, tmp_path: Path
) -> None:
    """All of them run alike."""
    path = tmp_path / "g.yaml"
    path.write_text(
        '{imagen_flow: 1, inputs: {a: 1, store: 10}, nodes: {sum: {type: toy.add, a: "${a}", b: "${store}"}}, outputs: {sum: "${sum}"}}'
    )
    loaded: list[Any] = [
        flow.load(path, registry=registry),
        flow.load(str(path), registry=registry),
        flow.load(GRAPH, registry=registry),
    ]
    assert [flow.run(flow.load(graph), store=None) for graph in loaded] == [{"sum": 11}] * 3


@pytest.mark.parametrize("graph", [3, None, b"g.yaml", ["g.yaml"]])
def test_what_is_no_graph_is_named(graph: Any) -> None:
    """Each stage says what a graph is."""
    stages: tuple[Any, ...] = (flow.load, flow.plan, flow.run)
    for stage in stages:
        with pytest.raises(TypeError) as refused:
            stage(graph)
        assert (
            str(refused.value)
            == f"a graph is a path, a mapping or the result of `load`, not {type(graph).__name__}"
        )


def test_one_may_be_given_where_several_may(registry: Registry, tmp_path: Path) -> None:
    """A text is one node to force, or one model, and not its letters."""
    graph = flow.load(GRAPH, registry=registry)
    flow.run(graph, store=tmp_path)
    assert [step.status for step in flow.plan(graph, store=tmp_path, force="sum").steps] == ["runs"]
    policy = flow.plan(
        graph, store=None, allow_pickle=tmp_path / "a.bin", trust_remote_code="hf:a/b"
    ).values.models.model_policy
    assert (policy.pickles, policy.remote_code) == ((str(tmp_path / "a.bin"),), ("hf:a/b",))


def test_a_file_is_digested_once_without_a_store_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a model are some gigabytes, and are not read again for each picture."""
    registry.add(length)
    file = tmp_path / "large"
    file.write_bytes(b"weights")
    os.utime(file, (1, 1))
    read: list[int] = []
    monkeypatch.setattr(
        file_digests, "digest_stream", lambda stream, **_: read.append(1) or "blake2b:0"
    )
    monkeypatch.setattr(file_digests, "SETTLE_S", 0.0)
    graph = flow.load(
        {
            "imagen_flow": 1,
            "inputs": {"file": {"type": "file"}},
            "nodes": {"n": {"type": "toy.length", "file": "${file}"}},
            "outputs": {"n": "${n}"},
        },
        registry=registry,
    )
    kept = [flow.plan(graph, file=str(file), store=None) for _ in range(2)]
    assert (len(kept), len(read)) == (2, 1)


def open_of(folder: Path) -> list[str]:
    """The files below a folder that this process has open, and the store's threads."""
    found = (
        [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        if sys.platform == "linux"
        else []
    )
    return [path for path in found if path.startswith(str(folder))] + [
        thread.name for thread in threading.enumerate() if "store" in thread.name
    ]


def test_a_plan_holds_nothing_open(registry: Registry, tmp_path: Path) -> None:
    """However many plans are kept, dropped, refused, carried out twice or left half-way: their
    store is open only while it is used, and then holds what they gave.
    """
    graph = flow.load(GRAPH, registry=registry)
    plans = [flow.plan(graph, a=a, store=tmp_path) for a in range(3)]
    assert open_of(tmp_path) == []
    with pytest.raises(GraphError):
        flow.plan(graph, wrong=1, store=tmp_path)
    assert open_of(tmp_path) == []
    for plan in plans:
        assert isinstance(list(flow.execute(plan))[-1], events.RunFinished)
        assert open_of(tmp_path) == []
    assert [flow.plan(graph, a=a, store=tmp_path).counts for a in range(4)] == [
        {"cached": 1}
    ] * 3 + [{"runs": 1}]
    list(flow.execute(plans[0]))
    begun = flow.execute(flow.plan(graph, a=9, store=tmp_path))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert open_of(tmp_path) == []


def test_a_store_that_is_open_on_demand_is_shared_by_its_users(tmp_path: Path) -> None:
    """The last of several users closes it; a store that was opened by hand stays open."""
    store = Store.on_demand(tmp_path, Codecs())
    with store.in_use():
        with store.in_use():
            assert store.lookup("k") is None
        assert store.lookup("k") is None
    with pytest.raises(StoreError, match="is closed"):
        store.lookup("k")
    with Store.open(tmp_path, Codecs()) as opened:
        with opened.in_use():
            pass
        assert opened.lookup("k") is None


def test_values_are_given_by_name_or_as_a_mapping(registry: Registry) -> None:
    """One that is named like a parameter goes into the mapping."""
    graph = flow.load(GRAPH, registry=registry)
    assert flow.run(graph, a=5, store=None) == {"sum": 15}
    assert flow.run(graph, {"store": 100, "a": 0}, a=5, store=None) == {"sum": 105}
    assert flow.plan(graph, a=5, store=None).inputs == {"a": 5, "store": 10}


def test_problems_are_raised_before_anything_runs(registry: Registry) -> None:
    """All of them, as one GraphError."""
    with pytest.raises(GraphError) as refused:
        flow.run(flow.load(GRAPH, registry=registry), a="x", c=3, store=None)
    assert str(refused.value).startswith("error[unknown-input]: the graph has no input 'c'")
    assert [p.code for p in refused.value.problems] == ["unknown-input", "bad-input"]
    with pytest.raises(GraphError):
        flow.load({"imagen_flow": 1}, registry=registry)


def test_a_store_is_kept_between_runs(registry: Registry, tmp_path: Path) -> None:
    """It is named by its folder, given open, or that of the user."""
    graph = flow.load(GRAPH, registry=registry)
    with Store.open(tmp_path / "open", Codecs()) as opened:
        for store in (tmp_path / "store", str(tmp_path / "text"), opened, "user"):
            assert flow.plan(graph, store=store).counts == {"runs": 1}
            flow.run(graph, store=store)
            assert flow.plan(graph, store=store).counts == {"cached": 1}
        assert opened.take_warnings() == []
    assert flow.plan(graph, store=None).counts == {"runs": 1}


def test_a_plan_is_carried_out_by_execute(registry: Registry, tmp_path: Path) -> None:
    """Its events say what happened; the last is the end."""
    plan = flow.plan(flow.load(GRAPH, registry=registry), store=tmp_path / "store")
    said = list(flow.execute(plan))
    assert [type(e).__name__ for e in said] == [
        "RunStarted",
        "StepStarted",
        "StepFinished",
        "OutputWritten",
        "RunFinished",
    ]


def test_what_a_plan_was_carried_out_for_is_on_the_disk_when_the_program_ends(
    tmp_path: Path,
) -> None:
    """Nobody has to close the store that a plan opened."""
    program = f"""
import imagen_flow as flow
from imagen_flow.errors import StoreError
from imagen_flow._plugins.registry import Registry

@flow.node("toy.two", version=1)
def two() -> int:
    return 2

registry = Registry({{}})
registry.add(two, source_digest="1")
plan = flow.plan(flow.load({{"imagen_flow": 1, "nodes": {{"n": {{"type": "toy.two"}}}}, "outputs": {{"n": "${{n}}"}}}}, registry=registry), store={str(tmp_path / "store")!r})
print(plan.counts)
for _ in flow.execute(plan):
    pass
"""
    assert [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ] == ["{'runs': 1}\n", "{'cached': 1}\n"]


def test_every_event_is_handed_on(registry: Registry) -> None:
    """In the caller's thread, in order."""
    seen: list[events.Event] = []
    flow.run(flow.load(GRAPH, registry=registry), store=None, on_event=seen.append)
    assert [type(e).__name__ for e in seen] == [
        "RunStarted",
        "StepStarted",
        "StepFinished",
        "OutputWritten",
        "RunFinished",
    ]


def test_outputs_are_live_values_lists_too(registry: Registry, tmp_path: Path) -> None:
    """An absent one is None; whether they are written as files makes no difference."""
    graph = flow.load(
        {
            "imagen_flow": 1,
            "inputs": {"to": 3, "on": False},
            "nodes": {
                "c": {"type": "toy.count", "to": "${to}"},
                "e": {"type": "toy.even", "each": {"n": "${c}"}},
                "n": {"type": "toy.add", "each": {"a": "${c}"}, "when": "${e}"},
                "off": {"type": "toy.add", "a": 1, "when": "${on}"},
            },
            "outputs": {
                "n": {"from": "${n}", "path": "n/{index}.json"},
                "c": "${c}",
                "off": {"from": "${off}", "path": "off.json"},
                "to": "${to}",
            },
        },
        registry=registry,
    )
    for out in (None, tmp_path / "out", str(tmp_path / "out")):
        assert flow.run(graph, out=out, store=None) == {
            "n": [0, None, 2],
            "c": [0, 1, 2],
            "off": None,
            "to": 3,
        }
        assert flow.run(graph, to=0, out=out, store=None) == {
            "n": [],
            "c": [],
            "off": None,
            "to": 0,
        }
    assert sorted(
        p.name for p in (tmp_path / "out/n").iterdir() if not p.name.endswith("provenance.json")
    ) == ["0.json", "2.json"]


def test_the_first_failure_is_raised_when_the_rest_has_run(
    registry: Registry, tmp_path: Path
) -> None:
    """A node's with its cause chained; an output's as well."""
    graph = flow.load(
        {
            "imagen_flow": 1,
            "nodes": {"bad": {"type": "toy.add", "a": -1}, "good": {"type": "toy.add", "a": 1}},
            "outputs": {"bad": "${bad}", "good": {"from": "${good}", "path": "good.json"}},
        },
        registry=registry,
    )
    with pytest.raises(NodeError) as failed:
        flow.run(graph, store=None, out=tmp_path)
    assert (failed.value.node, str(failed.value.__cause__)) == ("bad", "it is below nothing")
    assert (tmp_path / "good.json").read_text() == "1\n"
    fine = flow.load(
        {
            "imagen_flow": 1,
            "nodes": {"n": {"type": "toy.add", "a": 1}},
            "outputs": {"n": {"from": "${n}", "path": "n.json"}},
        },
        registry=registry,
    )
    (tmp_path / "n.json").write_text("mine")
    with pytest.raises(OutputError):
        flow.run(fine, store=None, out=tmp_path)


def test_nodes_can_be_forced(registry: Registry, tmp_path: Path) -> None:
    """An unknown one is a problem with the nearest name."""
    graph = flow.load(GRAPH, registry=registry)
    flow.run(graph, store=tmp_path)
    assert flow.plan(graph, store=tmp_path, force=["sum"]).counts == {"runs": 1}
    with pytest.raises(GraphError) as refused:
        flow.plan(graph, store=None, force=["sun"])
    assert (
        str(refused.value)
        == "error[unknown-reference]: there is no node 'sun' to force\n  = fix: did you mean 'sum'?"
    )


def test_local_plugins_are_named_by_their_files(tmp_path: Path) -> None:
    """As with --plugin."""
    (tmp_path / "mine.py").write_text(
        "from imagen_flow import node\n\n@node('my.double', version=1)\ndef double(n: int) -> int:\n    return 2 * n\n"
    )
    graph = {
        "imagen_flow": 1,
        "nodes": {"d": {"type": "my.double", "n": 4}},
        "outputs": {"d": "${d}"},
    }
    assert flow.run(graph, store=None, plugins=[tmp_path / "mine.py"]) == {"d": 8}
    assert flow.run(graph, store=None, plugins=tmp_path / "mine.py") == {"d": 8}
    assert flow.run(graph, store=None, plugins=str(tmp_path / "mine.py")) == {"d": 8}


def test_the_front_door_shows_what_a_plugin_may_import() -> None:
    """Every name it lists is there; there are at most 45, so that a newcomer can read them all."""
    assert len(flow.__all__) <= 45
    assert {name for name in flow.__all__ if getattr(flow, name, None) is None} == set()
    assert {
        "load",
        "plan",
        "run",
        "execute",
        "node",
        "hookimpl",
        "Absent",
        "Value",
        "Image",
    } <= set(flow.__all__)
    with pytest.raises(AttributeError):
        flow.nothing  # type: ignore[attr-defined]


def test_settings_hold_in_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An argument goes before the graph's settings, these before imagen-flow.toml; its plugins are
    loaded once they are trusted, and until then the log says why not.
    """
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "imagen-flow.toml").write_text(
        'dtype = "float16"\nstore = "kept"\nplugins = ["mine.py"]\n'
    )
    mine = tmp_path / "graphs" / "mine.py"
    mine.write_text(
        "from imagen_flow import node\n\n@node('my.double', version=1)\ndef double(n: int) -> int:\n    return 2 * n\n"
    )
    path = tmp_path / "graphs" / "g.yaml"
    path.write_text('{imagen_flow: 1, nodes: {d: {type: my.double, n: 4}}, outputs: {d: "${d}"}}')
    with pytest.raises(GraphError, match="no plugin provides the node type 'my.double'"):
        flow.load(path)
    assert "warning[untrusted-plugin]: mine.py is not loaded" in caplog.text
    config.trust({mine: config.code_digest(mine)})
    assert (flow.plan(path).dtype, flow.plan(path, dtype="float32").dtype, flow.run(path)) == (
        "float16",
        "float32",
        {"d": 8},
    )
    assert (tmp_path / "graphs" / "kept" / "index.sqlite").is_file()
    path.write_text(
        '{imagen_flow: 1, settings: {dtype: bfloat16}, nodes: {d: {type: my.double, n: 4}}, outputs: {d: "${d}"}}'
    )
    assert (flow.plan(path).dtype, flow.plan(flow.load(path)).dtype) == ("bfloat16", "bfloat16")
    monkeypatch.chdir(tmp_path / "graphs")
    assert (
        flow.plan(
            {
                "imagen_flow": 1,
                "nodes": {"d": {"type": "my.double", "n": 4}},
                "outputs": {"d": "${d}"},
            }
        ).dtype
        == "float16"
    )


@pytest.mark.parametrize("name", ["out", "store", "plugins"])
@pytest.mark.parametrize("function", [flow.run, flow.watch])
def test_an_empty_path_is_refused(
    function: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty path is refused; it does not mean the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text("imagen_flow: 1\noutputs: {}\n")
    with pytest.raises(GraphError, match=f"the path for '{name}' is empty"):
        function("g.yaml", **{name: ""})
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]
