"""What absent and failed values do, what is demanded, and what counts as one step: as
docs/graph-format.md says, whatever is known when.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import imagen_flow as flow
from imagen_flow._plugins.registry import Registry, discover
from imagen_flow._types.node import NodeFunction
from imagen_flow.errors import GraphError
from imagen_flow.events import (
    OutputAbsent,
    OutputWritten,
    RunFinished,
    StepAbsent,
    StepFailed,
    StepStarted,
    as_json,
)

HERE = Path(__file__).parent


def _toys() -> Any:
    spec = importlib.util.spec_from_file_location("absence_toys", HERE / "evaluator" / "toys.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toys = _toys()

#: A node without a value, one that fails, and one that is false.
ABSENT, FAILS, FALSE = (
    {"type": "t.maybe", "n": 3},
    {"type": "t.fail", "n": 3},
    {"type": "t.even", "n": 3},
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = discover()
    for member in vars(toys).values():
        if isinstance(member, NodeFunction):
            found.add(member)
    return found


class Ran(NamedTuple):
    """What came of a run."""

    outputs: dict[str, Any]
    calls: list[str]
    status: str
    planned: dict[str, str]
    started: list[str]
    failed: list[str]


Run = Callable[..., Ran]


@pytest.fixture
def run(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Carry out a graph beside files of graphs that it includes."""
    monkeypatch.chdir(tmp_path)

    def carry_out(
        graph: dict[str, Any], files: dict[str, dict[str, Any]] | None = None, **options: Any
    ) -> Ran:
        for path, inner in (files or {}).items():
            Path(path).write_text(json.dumps(inner))
        toys.CALLS.clear()
        toys.TRIES.clear()
        plan = flow.plan(
            flow.load(graph, registry=registry), store=options.pop("store", None), **options
        )
        events = list(flow.execute(plan))
        outputs = {
            e.output: e.value if isinstance(e, OutputWritten) else None
            for e in events
            if isinstance(e, OutputWritten | OutputAbsent)
        }
        status = next(e.status for e in events if isinstance(e, RunFinished))
        planned = {s.name + s.item: s.status for s in plan.steps}
        calls = [call.replace("t.", "", 1) for call in toys.CALLS]
        return Ran(
            outputs,
            calls,
            status,
            planned,
            [e.node + e.item for e in events if isinstance(e, StepStarted)],
            [f"{e.node}{e.item}: {e.message}" for e in events if isinstance(e, StepFailed)],
        )

    return carry_out


def graph(nodes: dict[str, Any], outputs: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return {"imagen_flow": 1, "inputs": inputs, "nodes": nodes, "outputs": outputs}


def reversed_keys(written: Any) -> Any:
    return (
        {key: reversed_keys(written[key]) for key in reversed(written)}
        if isinstance(written, dict)
        else written
    )


#: A graph that does not use its required input where the flag is false.
UNUSED = graph(
    {
        "b": {"type": "t.add", "a": "${x}", "when": "${flag}"},
        "c": {"type": "t.int", "value": 9},
        "f": {"type": "flow.first", "a": "${b}", "b": "${c}"},
    },
    {"o": "${f}"},
    x={"type": "int"},
    flag={"type": "bool"},
)
#: The same for an input with a bound.
BOUNDED = graph(
    {
        "a": {"type": "t.int", "value": 1},
        "b": {"type": "t.add", "a": "${x}", "when": False},
        "c": {"type": "flow.first", "a": "${b}", "b": "${a}"},
    },
    {"o": "${c}"},
    x={"type": "int", "max": 5, "default": 0},
)
SMALL = graph({"a": {"type": "t.add", "a": "${x}"}}, {"o": "${a}"}, x={"type": "int", "max": 5})
TWO = graph(
    {"a": {"type": "t.int", "value": 1}, "b": {"type": "t.int", "value": 2}},
    {"small": "${a}", "large": "${b}"},
)
LONG = graph({"m": ABSENT, "e": {"type": "t.maybe", "each": {"n": [3, "${m}"]}}}, {"o": "${e}"})

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], set[str], str]] = {
    # name: (graph, included graphs, outputs, what may be called besides flow's nodes, how it ends)
    "an absent required input makes a graph absent though nothing uses it": (
        graph(
            {"m": ABSENT, "g": {"type": "./i.yaml", "x": "${m}", "flag": False}},
            {"o": "${g}", "m": "${m}"},
        ),
        {"./i.yaml": UNUSED},
        {"o": None, "m": None},
        {"maybe|n=3"},
        "done",
    ),
    "so it does where no output reads it": (
        graph({"m": ABSENT, "g": {"type": "./i.yaml", "x": "${m}"}}, {"o": "${g}"}),
        {
            "./i.yaml": graph(
                {"a": {"type": "t.int", "value": 1}, "b": {"type": "t.add", "a": "${x}"}},
                {"o": "${a}", "p": "${b}"},
                x={"type": "int"},
            )
        },
        {"o": None},
        {"maybe|n=3"},
        "done",
    ),
    "a value out of bounds fails a graph though nothing uses it": (
        graph(
            {"r": {"type": "t.int", "value": 9}, "g": {"type": "./i.yaml", "x": "${r}"}},
            {"o": "${g}", "r": "${r}"},
        ),
        {"./i.yaml": BOUNDED},
        {"o": None, "r": 9},
        {"int|value=9"},
        "failed",
    ),
    "one element out of bounds fails alone": (
        graph(
            {
                "r": {"type": "t.ints", "values": [1, 9, 2]},
                "g": {"type": "./i.yaml", "each": {"x": "${r}"}},
            },
            {"o": "${g}"},
        ),
        {"./i.yaml": SMALL},
        {"o": [2, None, 3]},
        {"ints|values=[1, 9, 2]", "add|a=1,b=1", "add|a=2,b=1"},
        "failed",
    ),
    "a failed value flows into a graph, to what reads it": (
        graph(
            {
                "f": FAILS,
                "g": {"type": "./i.yaml", "x": "${f}", "flag": False},
                "h": {"type": "./i.yaml", "x": "${f}", "flag": True},
            },
            {"o": "${g}", "h": "${h}"},
        ),
        {"./i.yaml": UNUSED},
        {"o": 9, "h": None},
        {"fail|n=3", "int|value=9"},
        "failed",
    ),
    "absent values in JSON are left out of lists and null in mappings": (
        graph(
            {
                "m": ABSENT,
                "j": {
                    "type": "t.json",
                    "value": {"a": "${m}", "l": [1, "${m}", [{"b": "${m}"}, "${m}"]]},
                },
            },
            {"o": "${j}"},
        ),
        {},
        {"o": '{"a": null, "l": [1, [{"b": null}]]}'},
        {"maybe|n=3", 'json|value=\'{"a": null, "l": [1, [{"b": null}]]}\''},
        "done",
    ),
    "a failed value anywhere in JSON fails what reads the whole": (
        graph(
            {"f": FAILS, "j": {"type": "t.json", "value": {"a": [{"b": "${f}"}]}}}, {"o": "${j}"}
        ),
        {},
        {"o": None},
        {"fail|n=3"},
        "failed",
    ),
    "a failed element two lists deep fails what reads the whole": (
        graph({"f": FAILS, "j": {"type": "t.nest", "values": [[1, "${f}"]]}}, {"o": "${j}"}),
        {},
        {"o": None},
        {"fail|n=3"},
        "failed",
    ),
    "an absent element two lists deep is left out": (
        graph(
            {"m": ABSENT, "j": {"type": "t.nest", "values": [[1, "${m}"], ["${m}"]]}}, {"o": "${j}"}
        ),
        {},
        {"o": "[[1], []]"},
        {"maybe|n=3", "nest|values=[[1], []]"},
        "done",
    ),
    "an output shows absent elements as None at any depth": (
        graph({"r": {"type": "./i.yaml", "repeat": 2}}, {"o": "${r}"}),
        {"./i.yaml": LONG},
        {"o": [[None, None], [None, None]]},
        {"maybe|n=3"},
        "done",
    ),
    "a list is not computed for a node that is left out": (
        graph(
            {
                "n": FALSE,
                "r": {"type": "t.range", "n": 2},
                "b": {"type": "t.add", "each": {"a": "${r}"}, "when": "${n}"},
            },
            {"o": "${b}"},
        ),
        {},
        {"o": None},
        {"even|n=3"},
        "done",
    ),
    "an element of a list that is written out is not computed where its flag is false": (
        graph(
            {
                "a": {"type": "t.int", "value": 1},
                "b": {"type": "t.int", "value": 2},
                "c": {"type": "t.add", "each": {"a": ["${a}", "${b}"]}, "when": [False, True]},
            },
            {"o": "${c}"},
        ),
        {},
        {"o": [None, 3]},
        {"int|value=2", "add|a=2,b=1"},
        "done",
    ),
    "what is shared by no element is not computed": (
        graph(
            {
                "r": {"type": "t.range", "n": 4},
                "d": {"type": "t.int", "value": 5},
                "c": {"type": "t.add", "each": {"a": "${r}"}, "b": "${d}"},
            },
            {"o": "${c}"},
        ),
        {},
        {"o": []},
        {"range|n=4"},
        "done",
    ),
    "an output of a graph is not computed for a node that is left out": (
        graph(
            {"t": {"type": "./i.yaml"}, "u": {"type": "t.add", "a": "${t.large}", "when": False}},
            {"o": "${t.small}", "u": "${u}"},
        ),
        {"./i.yaml": TWO},
        {"o": 1, "u": None},
        {"int|value=1"},
        "done",
    ),
    "a default takes the place of an input only where it is absent": (
        graph(
            {
                "m": ABSENT,
                "f": FAILS,
                "a": {"type": "t.default", "a": "${m}"},
                "b": {"type": "t.default", "a": "${f}"},
            },
            {"a": "${a}", "b": "${b}"},
        ),
        {},
        {"a": 105, "b": None},
        {"maybe|n=3", "fail|n=3", "default|a=None,b=5"},
        "failed",
    ),
    "an absent list makes a node absent beside a failed one": (
        graph(
            {
                "m": {"type": "t.range", "n": 2, "when": False},
                "f": FAILS,
                "l": {"type": "t.ints", "values": ["${f}"]},
                "a": {"type": "t.add", "each": {"a": "${m}", "b": "${l}"}},
                "d": {"type": "t.optional_sum", "values": "${a}"},
            },
            {"d": "${d}"},
        ),
        {},
        {"d": -1},
        {"fail|n=3", "optional_sum|values=None"},
        "failed",
    ),
    "an absent required port makes a node absent beside a failed one": (
        graph(
            {
                "m": ABSENT,
                "f": FAILS,
                "a": {"type": "t.add", "b": "${m}", "a": "${f}"},
                "c": {"type": "t.add", "a": "${m}", "b": "${f}"},
                "d": {"type": "flow.first", "a": "${a}", "b": 7},
                "e": {"type": "flow.first", "a": "${c}", "b": 7},
            },
            {"d": "${d}", "e": "${e}"},
        ),
        {},
        {"d": None, "e": 7},
        {"maybe|n=3", "fail|n=3"},
        "failed",
    ),
    "equal steps that fail are called once": (
        graph({"a": FAILS, "b": FAILS}, {"o": "${a}", "p": "${b}"}),
        {},
        {"o": None, "p": None},
        {"fail|n=3"},
        "failed",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_graph_gives_the_same_whatever_is_known_when(run: Run, name: str) -> None:
    """Without a store, the first and second time on one, and with its keys in another order: the
    same outputs, and nothing is computed that nothing needs.
    """
    drawn, files, outputs, calls, status = CASES[name]
    for i, (written, store) in enumerate(
        [
            (drawn, None),
            (drawn, "store"),
            (drawn, "store"),
            (reversed_keys(drawn), None),
            (reversed_keys(drawn), "other"),
            (reversed_keys(drawn), "other"),
        ]
    ):
        ran = run(written, files, store=store)
        assert (ran.outputs, ran.status) == (outputs, status), i
        assert set(ran.calls) == calls if i in (0, 1, 3, 4) else set(ran.calls) <= calls, i
        assert len(set(ran.calls)) == len(ran.calls), i


def test_a_node_is_skipped_for_a_value_that_failed_deep_inside_a_list(run: Run) -> None:
    """It is not begun, and the one that failed is blamed, once."""
    ran = run(graph({"f": FAILS, "j": {"type": "t.nest", "values": [[1, "${f}"]]}}, {"o": "${j}"}))
    assert (ran.started, ran.failed) == (["f"], ["f: dislikes 3"])


def test_only_the_best_repetition_is_computed_to_its_end(run: Run) -> None:
    """`keep` computes the scores first, then the outputs of the best alone."""
    inner = graph(
        {"a": {"type": "t.score", "seed": "${s}"}, "big": {"type": "t.join", "a": "${a.text}"}},
        {"o": "${big}", "score": "${a.score}"},
        s={"type": "seed"},
    )
    ran = run(
        graph(
            {"r": {"type": "./i.yaml", "s": 1, "repeat": {"times": 3, "keep": {"best": "score"}}}},
            {"o": "${r.o}"},
        ),
        {"./i.yaml": inner},
    )
    assert [name.partition("/")[2] for name in ran.started] == ["a", "a", "a", "big"]
    assert ran.planned == {
        f"r[{i}]/{node}": status
        for i in range(3)
        for node, status in (("a", "runs"), ("big", "waits"))
    }


def test_the_provenance_of_the_best_tells_of_all_scores(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of the other repetitions nothing else, whether the steps ran or were found."""
    monkeypatch.chdir(tmp_path)
    Path("i.yaml").write_text(
        json.dumps(
            graph(
                {
                    "a": {"type": "t.score", "seed": "${s}"},
                    "big": {"type": "t.join", "a": "${a.text}"},
                },
                {"o": "${big}", "score": "${a.score}"},
                s={"type": "seed"},
            )
        )
    )
    drawn = graph(
        {
            "r": {
                "type": "./i.yaml",
                "each": {"s": [1, 2]},
                "repeat": {"times": 3, "keep": {"best": "score"}},
            }
        },
        {"o": {"from": "${r.o}", "path": "{index}.json"}},
    )
    for _ in range(2):
        list(
            flow.execute(
                flow.plan(flow.load(drawn, registry=registry), store="store"), out=Path("out")
            )
        )
        document = json.loads(Path("out/1.json.provenance.json").read_text())
        assert [step["node"] for step in document["steps"]] == [
            "r[1][0]/a",
            "r[1][1]/a",
            "r[1][2]/a",
            "r[1][2]/big",
        ]


# -- what a plan says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawn", "files", "planned"),
    [
        (
            graph(
                {
                    "n": FALSE,
                    "a": {"type": "t.int", "value": 3},
                    "b": {"type": "t.add", "a": "${a}", "when": "${n}"},
                },
                {"o": "${b}"},
            ),
            {},
            {"n": "runs", "a": "waits", "b": "waits"},
        ),
        (
            graph(
                {"n": {"type": "t.int", "value": 1}, "m": {"type": "./i.yaml", "x": "${n}"}},
                {"o": "${m}"},
            ),
            {"./i.yaml": graph({}, {"o": "${x}"}, x={"type": "int"})},
            {"n": "runs"},
        ),
        (
            graph(
                {"m": {"type": "t.int", "value": 3}, "g": {"type": "./i.yaml", "x": "${m}"}},
                {"o": "${g.o}"},
            ),
            {
                "./i.yaml": graph(
                    {"a": {"type": "t.int", "value": 1}, "b": {"type": "t.add", "a": "${x}"}},
                    {"o": "${a}", "p": "${b}"},
                    x=0,
                )
            },
            {"m": "idle", "g/a": "runs"},
        ),
        (
            graph(
                {"m": {"type": "t.int", "value": 3}, "g": {"type": "./i.yaml", "x": "${m}"}},
                {"o": "${g.o}"},
            ),
            {
                "./i.yaml": graph(
                    {"a": {"type": "t.int", "value": 1}, "b": {"type": "t.add", "a": "${x}"}},
                    {"o": "${a}", "p": "${b}"},
                    x={"type": "int"},
                )
            },
            {"m": "runs", "g/a": "waits"},
        ),
        (
            graph(
                {
                    "r": {"type": "t.range", "n": 3},
                    "d": {"type": "t.int", "value": 5},
                    "c": {"type": "t.add", "each": {"a": "${r}"}, "b": "${d}"},
                },
                {"o": "${c}"},
            ),
            {},
            {"r": "runs", "d": "waits", "c[?]": "waits"},
        ),
        (
            graph(
                {
                    "a": {"type": "t.int", "value": 3},
                    "b": {"type": "t.add", "a": "${a}"},
                    "c": {"type": "t.add", "a": "${b}", "when": False},
                },
                {"o": "${c}"},
            ),
            {},
            {"a": "idle", "b": "idle", "c": "absent"},
        ),
    ],
    ids=[
        "a flag that is not known",
        "an input that is handed on",
        "an input that no output reads",
        "a required input",
        "a list that is not known",
        "what is left out",
    ],
)
def test_a_plan_says_runs_only_of_what_will_run(
    run: Run, drawn: dict[str, Any], files: dict[str, Any], planned: dict[str, str]
) -> None:
    """What may prove not to be needed waits, what certainly is not is idle, and what is said to run
    is started.
    """
    ran = run(drawn, files)
    assert ran.planned == planned
    assert {name for name, status in planned.items() if status == "runs"} <= set(ran.started)
    assert not {name for name, status in planned.items() if status == "idle"} & set(ran.started)


def test_a_plan_right_after_a_run_knows_what_it_kept(run: Run) -> None:
    """What the next plan compares with is written after what it names."""
    drawn = graph({"a": {"type": "t.int", "value": 77}}, {"o": "${a}"})
    for i in range(20):
        drawn["nodes"]["a"]["value"] = i
        assert [run(drawn, store="store").planned["a"] for _ in range(2)] == ["runs", "cached"]


def test_an_output_of_a_graph_that_only_a_condition_reads_is_there(run: Run) -> None:
    """What is left out of an included graph, since nothing asks for it, is not what `when` reads."""
    inner = graph(
        {"e": {"type": "t.even", "n": 4}, "a": {"type": "t.int", "value": 5}},
        {"flag": "${e}", "value": "${a}"},
    )
    ran = run(
        graph(
            {
                "g": {"type": "./i.yaml"},
                "b": {"type": "t.add", "a": "${g.value}", "when": "${g.flag}"},
            },
            {"b": "${b}"},
        ),
        {"./i.yaml": inner},
    )
    assert (ran.outputs, ran.status) == ({"b": 6}, "done")


@pytest.mark.parametrize(
    "output",
    [
        {
            "n": {"type": "t.sum", "values": "${f}", "each": {"start": "${m}"}},
            "m": {"type": "t.range", "n": 1, "when": False},
        },
        {
            "n": {"type": "./one.yaml", "x": 1, "y": "${s}"},
            "s": {"type": "t.sum", "values": "${f}"},
        },
        {
            "n": {
                "type": "t.sum",
                "values": "${f}",
                "each": {"start": [1, 2]},
                "when": [False, "${b}"],
            }
        },
        {
            "n": {"type": "t.add", "a": 1, "each": {"b": [1, "${s}"]}, "when": [True, "${b}"]},
            "s": {"type": "t.sum", "values": "${f}"},
        },
    ],
    ids=[
        "an absent list",
        "an input that nothing asked for reads",
        "flags that are all false",
        "an element that is left out",
    ],
)
def test_what_nobody_needed_does_not_fail_a_run(run: Run, output: dict[str, Any]) -> None:
    """A node that cannot be worked out, and that no output needs, is not reported, whether its
    lists are known when planning or not: the second run ends as the first did.
    """
    one = graph(
        {"a": {"type": "t.add", "a": "${x}"}, "l": {"type": "t.add", "a": 1, "b": "${y}"}},
        {"o": "${a}", "p": "${l}"},
        x={"type": "int"},
        y=0,
    )
    n = "${n.o}" if "./one.yaml" in str(output) else "${n}"
    inner = graph(
        {"f": {"type": "t.add", "each": {"a": [1, 2], "b": "${k}"}}, **output},
        {"o": n, "k": "${k}"},
        k={"type": "list[int]"},
        b={"type": "bool", "default": False},
    )
    whole = graph(
        {"r": {"type": "t.ints", "values": [1, 2, 3]}, "z": {"type": "./inner.yaml", "k": "${r}"}},
        {"o": "${z.o}", "k": "${z.k}"},
    )
    ran = [run(whole, {"./one.yaml": one, "./inner.yaml": inner}, store="store") for _ in range(2)]
    assert [(r.status, r.failed) for r in ran] == [("done", [])] * 2
    assert ran[0].outputs == ran[1].outputs


def test_bounds_hold_also_while_another_input_is_not_known(run: Run) -> None:
    """A value that is known when planning and out of bounds fails an included graph, in the first
    run, where its other input is still to be computed, as in the second.
    """
    inner = graph(
        {"a": {"type": "t.add", "a": "${x}", "b": "${y}"}},
        {"o": "${a}"},
        x={"type": "int", "max": 5},
        y={"type": "int"},
    )
    whole = graph(
        {
            "r": {"type": "t.int", "value": 1},
            "z": {"type": "./inner.yaml", "x": "${i}", "y": "${r}"},
        },
        {"o": "${z}"},
        i=7,
    )
    ran = [run(whole, {"./inner.yaml": inner}, store="store") for _ in range(2)]
    assert [(r.outputs, r.status, r.failed) for r in ran] == [
        (
            {"o": None},
            "failed",
            ["z: it gives a value to 'x', which takes a whole number up to 5, not 7"],
        )
    ] * 2


# -- equal steps -----------------------------------------------------------------------------------


def test_equal_forced_steps_are_one(run: Run) -> None:
    """Forcing three equal elements calls once, in every run."""
    drawn = graph({"a": {"type": "t.add", "each": {"a": [1, 1, 1]}}}, {"o": "${a}"})
    for _ in range(2):
        ran = run(drawn, store="store", force=["a"])
        assert (ran.outputs, ran.calls) == ({"o": [2, 2, 2]}, ["add|a=1,b=1"])


def test_what_a_run_was_forced_to_do_is_forgotten_with_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that comes to equal a forced one before that has run is taken from the store, also
    when the plan is carried out again.
    """
    monkeypatch.chdir(tmp_path)
    nodes = {
        "u": {"type": "t.steps", "n": 1, "cache": False},
        "a": {"type": "t.add", "a": "${u}"},
        "b": {"type": "t.add", "a": "${u}"},
    }
    plan = flow.plan(
        flow.load(graph(nodes, {"a": "${a}", "b": "${b}"}), registry=registry),
        store="store",
        force=["b"],
    )
    started = [[e.node for e in flow.execute(plan) if isinstance(e, StepStarted)] for _ in range(3)]
    assert started == [["u", "a"], ["u", "b"], ["u", "b"]]


def test_a_step_that_is_not_cached_is_never_answered_by_another(run: Run) -> None:
    """It is called for itself, beside an equal one that is kept, and beside another that is not."""
    whole = {"type": "t.int", "value": 1}
    drawn = graph(
        {"a": whole, "b": {**whole, "cache": False}, "c": {**whole, "cache": False}},
        {"a": "${a}", "b": "${b}", "c": "${c}"},
    )
    assert [len(run(drawn, store="store").calls) for _ in range(2)] == [3, 2]


def test_what_failed_is_tried_again_where_an_equal_step_has_tries_left(run: Run) -> None:
    """And its result then holds for others; each that failed says so with its own name."""
    flaky = {"type": "t.flaky", "n": 1}
    ran = run(
        graph(
            {"a": flaky, "b": flaky, "c": {**flaky, "retry": 1}, "d": flaky},
            {name: f"${{{name}}}" for name in "abcd"},
        )
    )
    assert (ran.outputs, len(ran.calls)) == ({"a": None, "b": None, "c": 1, "d": 1}, 2)
    assert ran.failed == ["a: RuntimeError: not this time", "b: RuntimeError: not this time"]


def test_tries_of_equal_steps_are_counted_together(run: Run) -> None:
    """A step that may be tried three times is, where an equal one has failed once, two times more."""
    ran = run(graph({"a": FAILS, "b": {**FAILS, "retry": 2}}, {"a": "${a}", "b": "${b}"}))
    assert len(ran.calls) == 3


# -- what is refused -------------------------------------------------------------------------------


def test_lists_of_unequal_length_are_refused_where_no_node_gives_them(run: Run) -> None:
    """In a graph and where it is included; what a node gives fails its node alone."""
    inner = graph(
        {"a": {"type": "t.add", "each": {"a": "${x}", "b": [1, 2]}}}, {"o": "${a}"}, x=[1, 2, 3]
    )
    for drawn in (
        inner,
        graph({"g": {"type": "./i.yaml"}}, {"o": "${g}"}),
        graph({"g": {"type": "./i.yaml", "x": [4]}}, {"o": "${g}"}),
    ):
        with pytest.raises(
            GraphError, match="a: the lists of 'each' differ in length: 'a' has [31], 'b' has 2"
        ):
            run(drawn, {"./i.yaml": inner})
    ran = run(
        graph(
            {"r": {"type": "t.range", "n": 3}, "g": {"type": "./i.yaml", "x": "${r}"}},
            {"o": "${g}"},
        ),
        {"./i.yaml": inner},
    )
    assert ran.failed == ["g/a: the lists of 'each' differ in length: 'a' has 3, 'b' has 2"]


def test_nothing_is_said_of_what_is_in_a_graph_that_is_absent(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not of what was known of it before it turned out that a required input is absent."""
    monkeypatch.chdir(tmp_path)
    inner = graph({"b": {"type": "t.add", "a": 1, "when": False}}, {"o": "${b}"}, x={"type": "int"})
    Path("i.yaml").write_text(json.dumps(inner))
    drawn = graph({"m": ABSENT, "g": {"type": "./i.yaml", "x": "${m}"}}, {"o": "${g}"})
    plan = flow.plan(flow.load(drawn, registry=registry), store=None)
    absent = [e.node for e in flow.execute(plan) if isinstance(e, StepAbsent)]
    assert absent == []


@pytest.mark.parametrize("values", [[1, 2], [1, 2, 3, 4]])
def test_there_is_a_flag_for_each_element(run: Run, values: list[int]) -> None:
    """A list of flags that is shorter or longer than those of `each` fails the node."""
    ran = run(
        graph(
            {
                "r": {"type": "t.range", "n": 3},
                "e": {"type": "t.even", "each": {"n": "${r}"}},
                "a": {"type": "t.add", "each": {"a": values}, "when": "${e}"},
            },
            {"o": "${a}"},
        )
    )
    why = f"the lists of 'each' differ in length: 'a' has {len(values)}, 'when' has 3"
    assert (ran.outputs, ran.failed) == ({"o": None}, [f"a: {why}"])


def deep(levels: int, folder: Path) -> dict[str, Any]:
    """Write graphs of which each includes the next twice."""
    for i in range(levels):
        nodes = {"a": {"type": f"./g{i + 1}.yaml"}, "b": {"type": f"./g{i + 1}.yaml"}}
        (folder / f"g{i}.yaml").write_text(json.dumps(graph(nodes, {"o": "${a.o}", "p": "${b.p}"})))
    (folder / f"g{levels}.yaml").write_text(
        json.dumps(graph({"a": {"type": "t.int", "value": 1}}, {"o": "${a}", "p": "${a}"}))
    )
    return graph({"a": {"type": "./g0.yaml"}}, {"o": "${a.o}", "p": "${a.p}"})


def test_graphs_that_multiply_are_refused_before_they_are_expanded(
    run: Run, tmp_path: Path
) -> None:
    """The problem says where the steps come from; a few levels are planned as ever."""
    ran = run(deep(6, tmp_path))
    assert (ran.outputs, len(ran.calls)) == ({"o": 1, "p": 1}, 1)
    with pytest.raises(GraphError) as refused:
        run(deep(28, tmp_path))
    (problem,) = refused.value.problems
    assert (problem.code, problem.message) == (
        "too-many-steps",
        "the graph has more than 200,000 steps",
    )
    assert "g0.yaml includes g1.yaml 2 times, g1.yaml includes g2.yaml 2 times" in problem.why


def test_lists_that_multiply_are_refused_as_soon_as_there_are_too_many(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When planning where the lists are known, else the node fails."""
    monkeypatch.setattr("imagen_flow._plan.state.STEPS", 50)
    inner = graph(
        {"a": {"type": "t.add", "a": "${x}"}, "b": {"type": "t.add", "a": "${a}"}},
        {"o": "${b}"},
        x={"type": "int"},
    )
    middle = graph(
        {"g": {"type": "./i.yaml", "each": {"x": "${xs}"}}}, {"o": "${g}"}, xs={"type": "list[int]"}
    )
    files = {"./i.yaml": inner, "./m.yaml": middle}
    with pytest.raises(GraphError, match="with it the graph has more than 50 steps"):
        run(graph({"m": {"type": "./m.yaml", "xs": list(range(30))}}, {"o": "${m}"}), files)
    ran = run(
        graph(
            {
                "r": {"type": "t.ints", "values": list(range(30))},
                "m": {"type": "./m.yaml", "xs": "${r}"},
            },
            {"o": "${m}"},
        ),
        files,
    )
    assert (ran.outputs, ran.failed) == (
        {"o": None},
        ["m/g: with it the graph has more than 50 steps"],
    )


def test_a_graph_may_come_to_just_as_many_steps_as_are_allowed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One element more is refused."""
    monkeypatch.setattr("imagen_flow._plan.state.STEPS", 50)
    inner = graph(
        {"a": {"type": "t.add", "a": "${x}"}, "b": {"type": "t.add", "a": "${a}"}},
        {"o": "${b}"},
        x={"type": "int"},
    )

    def ran(elements: int) -> dict[str, Any]:
        drawn = {"g": {"type": "./i.yaml", "each": {"x": list(range(elements))}}}
        return run(graph(drawn, {"o": "${g}"}), {"./i.yaml": inner}).outputs

    assert ran(25) == {"o": list(range(2, 27))}
    with pytest.raises(GraphError, match="more than 50 steps"):
        ran(26)


def test_steps_that_were_planned_count_when_more_turn_up_in_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most steps are those of the plan and of the run together."""
    monkeypatch.setattr("imagen_flow._plan.state.STEPS", 50)
    inner = graph(
        {"a": {"type": "t.add", "a": "${x}"}, "b": {"type": "t.add", "a": "${a}"}},
        {"o": "${b}"},
        x={"type": "int"},
    )

    def failed(elements: int) -> list[str]:
        nodes = {
            "g": {"type": "./i.yaml", "each": {"x": list(range(20))}},
            "r": {"type": "t.ints", "values": list(range(elements))},
            "h": {"type": "./i.yaml", "each": {"x": "${r}"}},
        }
        return run(graph(nodes, {"g": "${g}", "h": "${h}"}), {"./i.yaml": inner}).failed

    assert failed(5) == []
    assert failed(6) == ["h: with it the graph has more than 50 steps"]


def test_what_is_absent_for_one_reason_still_asks_for_what_else_it_reads(run: Run) -> None:
    """Whether a node runs does not hang on what was known when the run began."""
    off = {"type": "t.add", "a": 1, "when": False}
    nodes = {
        "slow": {"type": "t.int", "value": 7},
        "end": {"type": "t.add", "a": "${off}", "b": "${slow}"},
    }
    known = run(graph({"off": off, **nodes}, {"o": "${end}"}))
    assert known.planned["end"] == "absent"
    found = run(graph({"off": ABSENT, **nodes}, {"o": "${end}"}))
    assert (known.outputs, found.outputs) == ({"o": None}, {"o": None})
    assert known.calls == ["int|value=7"]
    assert found.calls == ["maybe|n=3", "int|value=7"]


# -- a plan is a value -----------------------------------------------------------------------------


def wide(registry: Registry) -> flow.Graph:
    """A graph with lists, an included graph, a value that is absent, a failure, and nodes that need
    one another.
    """
    Path("i.yaml").write_text(json.dumps(UNUSED))
    nodes: dict[str, Any] = {"n0": {"type": "t.int", "value": 0}} | {
        f"n{i}": {"type": "t.add", "a": f"${{n{i - 1}}}"} for i in range(1, 20)
    }
    nodes |= {
        "r": {"type": "t.range", "n": "${n19}"},
        "e": {"type": "t.even", "each": {"n": "${r}"}},
        "g": {"type": "./i.yaml", "each": {"x": "${r}"}, "flag": True, "when": "${e}"},
    }
    nodes |= {
        "f": FAILS,
        "m": ABSENT,
        "s": {"type": "t.add", "a": "${f}"},
        "u": {"type": "t.steps", "n": 8, "cache": False},
    }
    return flow.load(
        graph(nodes, {"n": "${n19}", "g": "${g}", "s": "${s}", "m": "${m}", "u": "${u}"}),
        registry=registry,
    )


def told(events: list[Any]) -> list[dict[str, Any]]:
    """Events without what differs from run to run: times, and progress, which may be left out."""
    return [
        {k: v for k, v in as_json(e).items() if k not in ("at_s", "took_s")}
        for e in events
        if type(e).__name__ != "StepProgress"
    ]


@pytest.mark.parametrize("store", [None, "store"])
def test_a_plan_is_carried_out_twice_with_the_same_events(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    """Nothing of a run is written into it: without a store each run is like the first, on one the
    second takes from it what the first kept.
    """
    monkeypatch.chdir(tmp_path)
    plan = flow.plan(wide(registry), store=store)
    before = json.dumps(plan.to_json())
    first, second, third = ([*flow.execute(plan)] for _ in range(3))
    assert json.dumps(plan.to_json()) == before
    outputs = [
        {e.output: e.value for e in ran if isinstance(e, OutputWritten)}
        for ran in (first, second, third)
    ]
    assert outputs[0] == outputs[1] == outputs[2] == {"n": 19, "g": [1, None, 3], "u": 8}
    assert told(second) == told(third)
    if store is None:
        assert told(first) == told(second)
    else:
        assert [e.node for e in second if isinstance(e, StepStarted)] == ["f", "u"]


@pytest.mark.parametrize("store", [None, "store"])
def test_four_threads_carry_out_one_plan(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    """Each gets all outputs and a whole run of events."""
    monkeypatch.chdir(tmp_path)
    plan = flow.plan(wide(registry), store=store)
    ran: list[list[Any]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda events=events: events.extend(flow.execute(plan)))
        for events in ran
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for events in ran:
        assert {e.output: e.value for e in events if isinstance(e, OutputWritten)} == {
            "n": 19,
            "g": [1, None, 3],
            "u": 8,
        }
        assert [type(e).__name__ for e in events if isinstance(e, RunFinished)] == [
            "RunFinished"
        ] and isinstance(events[-1], RunFinished)
        assert (events[-1].status, events[-1].failed, events[-1].ran + events[-1].cached) == (
            "failed",
            1,
            32,
        )


def test_a_seed_that_an_included_graph_draws_is_the_same_in_each_run_of_a_plan(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the graph is entered only once a list is known."""
    monkeypatch.chdir(tmp_path)
    Path("i.yaml").write_text(
        json.dumps(
            graph(
                {"a": {"type": "t.score", "seed": "${s}"}},
                {"o": "${a.text}"},
                n={"type": "int"},
                s={"type": "seed", "default": "random"},
            )
        )
    )
    drawn = graph(
        {"r": {"type": "t.range", "n": 2}, "g": {"type": "./i.yaml", "each": {"n": "${r}"}}},
        {"o": "${g}"},
    )
    plan = flow.plan(flow.load(drawn, registry=registry), store=None)
    given = [
        [e.value for e in flow.execute(plan) if isinstance(e, OutputWritten)] for _ in range(2)
    ]
    assert given[0] == given[1]


def test_a_plan_is_frozen_and_says_what_it_is_in_a_line(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its form as data has the edges, through included graphs."""
    monkeypatch.chdir(tmp_path)
    Path("i.yaml").write_text(json.dumps(SMALL))
    drawn = graph(
        {
            "n": {"type": "t.int", "value": 1},
            "e": {"type": "t.even", "n": "${n}"},
            "g": {"type": "./i.yaml", "x": "${n}"},
            "l": {"type": "t.add", "a": "${g}", "b": "${i}", "when": "${e}"},
            "unneeded": {"type": "t.add", "a": "${n}"},
        },
        {"o": "${l}", "g": "${g}"},
        i=3,
    )
    plan = flow.plan(flow.load(drawn, registry=registry), store=None)
    with pytest.raises(AttributeError):
        plan.steps = ()  # type: ignore[misc]
    assert (
        repr(plan).startswith("<Plan of ")
        and repr(plan).endswith(": 1 runs, 3 waits>")
        and len(repr(plan)) < 100
    )
    data = json.loads(json.dumps(plan.to_json()))
    assert data["edges"] == [
        {"from": "n", "output": "value", "to": "e", "input": "n"},
        {"from": "n", "output": "value", "to": "g/a", "input": "a"},
        {"from": "g/a", "output": "value", "to": "l", "input": "a"},
        {"from": "e", "output": "value", "to": "l", "input": "when"},
    ]
    assert data["outputs"] == {
        "o": [{"node": "l", "output": "value"}],
        "g": [{"node": "g/a", "output": "value"}],
    }


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"v": {"type": "./inner.yaml", "s": "${i}", "t": "b"}},
        {"v": {"type": "./inner.yaml", "s": 3, "t": "b", "repeat": 2}},
    ],
)
def test_a_file_that_is_included_twice_has_provenance(
    run: Run, more: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    """An output with a path of an included graph whose seed is by default is written with its
    provenance, whatever else includes the file.
    """
    inner = graph(
        {"a": {"type": "t.score", "seed": "${s}"}, "b": {"type": "flow.first", "a": "${t}"}},
        {"o": "${a.text}", "b": "${b}"},
        s={"type": "seed", "default": 2},
        t={"type": "text"},
    )
    (tmp_path / "inner.yaml").write_text(json.dumps(inner))
    outputs = {
        "o": {"from": "${u.o}", "path": "o{index}.txt"},
        **{name: f"${{{name}.b}}" for name in more},
    }
    whole = graph(
        {"u": {"type": "./inner.yaml", "each": {"t": ["a", "b"]}}, **more},
        outputs,
        i={"type": "seed", "default": 1},
    )
    gave = flow.run(flow.load(whole, registry=registry), store=None, out=tmp_path / "out")
    assert len(gave["o"]) == 2
