"""The engine agrees with a second evaluator of the language on random graphs: values, calls, plans
and events; run twice, and written otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections import Counter
from contextlib import chdir
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

import imagen_flow as flow
from imagen_flow._plugins.registry import Registry, discover
from imagen_flow._types.node import NodeFunction
from imagen_flow.events import (
    OutputAbsent,
    OutputWritten,
    StepAbsent,
    StepCached,
    StepFailed,
    StepFinished,
    StepSkipped,
    StepStarted,
)

EVALUATOR = Path(__file__).parent / "evaluator"

QUICK, ALL = 500, 5000
BATCH = 50


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"evaluator_{name}", EVALUATOR / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive, random_graphs, toys = _module("naive"), _module("random_graphs"), _module("toys")


def node_types() -> Registry:
    """The installed node types, and the toys."""
    found = discover()
    for member in vars(toys).values():
        if isinstance(member, NodeFunction):
            found.add(member)
    return found


@pytest.fixture(scope="module")
def registry() -> Registry:
    return node_types()


class Ran:
    """What one run of a graph did."""

    def __init__(self, plan: flow.Plan) -> None:
        self.planned = {step.name + step.item: step.status for step in plan.steps}
        toys.CALLS.clear()
        toys.TRIES.clear()
        self.events = list(flow.execute(plan))
        self.calls = Counter(toys.CALLS)
        last = self.events[-1]
        self.status = last.status
        assert [last.ran, last.cached, last.failed + last.tolerated] == [
            sum(isinstance(event, kind) for event in self.events)
            for kind in (StepFinished, StepCached, StepFailed)
        ]
        assert last.failed == sum(
            isinstance(event, StepFailed) and not event.is_tolerated for event in self.events
        )
        self.outputs: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, OutputWritten | OutputAbsent):
                assert event.output not in self.outputs, "an output is given once"
                self.outputs[event.output] = (
                    event.value if isinstance(event, OutputWritten) else None
                )
        #: The steps that have no value, and why.
        self.valueless = {
            kind.__name__: self.named(kind) for kind in (StepAbsent, StepSkipped, StepFailed)
        }
        self.started = self.named(StepStarted)
        # A step that failed with another of equal key was not called for itself.
        self.reached = self.started | self.named(StepCached) | self.named(StepFailed)

    def named(self, kind: type) -> set[str]:
        return {event.node + event.item for event in self.events if isinstance(event, kind)}


def shown(value: Any) -> Any:
    """A value as an output gives it: what is absent or failed is None, what was dropped is not there."""
    if isinstance(value, list):
        return [shown(item) for item in value if item is not naive.DROPPED]
    return None if value is naive.ABSENT or value is naive.FAILED else value


def check(expected: Any, ran: Ran, stored: set[str]) -> None:
    """Hold a run against what the evaluator says of it."""
    values = {name: shown(value) for name, value in expected.outputs.items()}
    assert ran.outputs == values, f"other values: {ran.outputs}, not {values}"
    least, most = naive.bounds(expected, stored)
    more = {line: n for line, n in ran.calls.items() if n > most[line]}
    assert not more, f"called more often than is needed: {more}"
    less = {line: n for line, n in least.items() if ran.calls[line] < n}
    assert not less, f"called less often than is needed: {less}"
    strays = ran.started - {call.name for call in expected.may}
    assert not strays, f"started though nothing needs it: {strays}"
    missed = {call.name for call in expected.must} - ran.reached
    assert not missed, f"neither started nor cached: {missed}"
    fails = any(call.fails and not call.tolerated for call in expected.may) or expected.may_refuse
    certain = any(call.fails and not call.tolerated for call in expected.must)
    if certain or expected.must_refuse or not fails:
        assert ran.status == ("failed" if fails else "done"), f"ended {ran.status}"
    # What a plan says is what a run does.
    unplanned = {
        name: ran.planned[name]
        for name in ran.started
        if ran.planned.get(name, "waits") not in ("runs", "waits")
    }
    assert not unplanned, f"ran, and the plan said otherwise: {unplanned}"
    if not fails and not any(call.fails for call in expected.may):
        unkept = {
            name
            for name, status in ran.planned.items()
            if status == "runs" and name not in ran.reached
        }
        assert not unkept, f"planned to run, and did not: {unkept}"


def reversed_keys(written: Any) -> Any:
    """The same graph in another order of keys; that of nodes' arguments, lists of `each` and
    mappings included.
    """
    return (
        {key: reversed_keys(written[key]) for key in reversed(written)}
        if isinstance(written, dict)
        else written
    )


def stored_lines(expected: Any, ran: Ran) -> set[str]:
    return {
        call.line for call in expected.may if call.kept and not call.fails and ran.calls[call.line]
    }


def agree(seed: int, registry: Registry) -> None:
    """Hold the engine against the evaluator on one random graph."""
    case = random_graphs.draw(seed)
    for path, inner in case.files.items():
        Path(path).write_text(json.dumps(inner), "utf-8")

    def plan(written: Any, store: Path | None = None) -> flow.Plan:
        return flow.plan(flow.load(written, registry=registry), store=store, force=case.force)

    expected = naive.Scope(case.graph, case.files, force=case.force).evaluate()
    store = Path(f"store{seed}")
    first = Ran(plan(case.graph, store))
    check(expected, first, set())
    again = Ran(plan(case.graph, store))
    check(expected, again, stored_lines(expected, first))
    assert (again.status, again.valueless) == (first.status, first.valueless), (
        f"other outcomes from the store: {again.valueless}, not {first.valueless}"
    )

    unstored = plan(case.graph)
    check(expected, Ran(unstored), set())
    check(expected, Ran(unstored), set())  # a plan is a value: carried out twice, it gives the same

    stored = stored_lines(expected, first) | stored_lines(expected, again)
    with open("reversed.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe").dump(reversed_keys(case.graph), file)
    other = Ran(plan("reversed.yaml", store))
    assert other.outputs == first.outputs, (
        f"other values in another order of keys: {other.outputs}, not {first.outputs}"
    )
    assert (other.status, other.valueless) == (first.status, first.valueless), (
        f"other outcomes in another order of keys: {other.valueless}, not {first.valueless}"
    )
    check(expected, other, stored)

    edited = random_graphs.edited(case, seed)
    expected = naive.Scope(edited.graph, edited.files, force=edited.force).evaluate()
    for path, inner in edited.files.items():
        Path(path).write_text(json.dumps(inner), "utf-8")
    check(expected, Ran(plan(edited.graph, store)), stored)  # only what the edit touches runs


def batches(of: int, start: int = 0) -> list[range]:
    return [range(at, at + BATCH) for at in range(start, of, BATCH)]


def run_batch(seeds: range, registry: Registry, folder: Path) -> None:
    with chdir(folder):
        for seed in seeds:
            try:
                agree(seed, registry)
            except Exception as error:
                case = random_graphs.draw(seed)
                error.add_note(
                    f"seed {seed}: {json.dumps(case.graph)}\n{json.dumps(case.files)}\nforce: {case.force}"
                )
                raise


@pytest.mark.parametrize("seeds", batches(QUICK), ids=str)
def test_random_graphs(seeds: range, registry: Registry, tmp_path: Path) -> None:
    """On random graphs the engine gives the values, makes the calls and tells the plans that a
    naive evaluator expects.
    """
    run_batch(seeds, registry, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(ALL, QUICK), ids=str)
def test_many_random_graphs(seeds: range, registry: Registry, tmp_path: Path) -> None:
    """So it is on many more."""
    run_batch(seeds, registry, tmp_path)


if __name__ == "__main__":  # python tests/test_evaluator.py 0 300: which seeds disagree, and how
    import tempfile
    import traceback

    os.chdir(tempfile.mkdtemp())
    known = node_types()
    wrong: Counter[str] = Counter()
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            agree(number, known)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = next(f for f in reversed(frames) if f.name == "agree")
            wrong[f"{str(error).partition(':')[0]} ({where.lineno})"] += 1
            sys.stdout.write(
                f"{number} line {where.lineno}: {type(error).__name__} {' '.join(str(error).split())[:300]}\n"
            )
    sys.stdout.write(f"{dict(wrong)}\n")
