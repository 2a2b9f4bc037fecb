"""Graphs that are repeated until something holds: rounds, what is kept, plans, reruns, provenance."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow.errors import GraphError
from imagen_flow.events import RunFinished, StepFailed, StepStarted

NODES = '''
"""Toy nodes."""
from imagen_flow import Absent, Seed, node

@node("toy.roll", version=1)
def roll(seed: Seed, *, sides: int = 6) -> int:
    """Roll a die."""
    return seed % sides + 1

@node("toy.accept", version=1)
def accept(n: int, *, at_least: int, dislikes: int = 0, ignores: int = 0) -> bool:
    """Accept high numbers; fail at one, say nothing of another."""
    if n == dislikes:
        raise ValueError(f"dislikes {n}")
    return Absent.value if n == ignores else n >= at_least

@node("toy.costly", version=1)
def costly(n: int) -> int:
    """Do what only the accepted one needs."""
    return n * 100
'''

TRY = """\
imagen_flow: 1
inputs:
  seed: {type: seed}
  at_least: {type: int, default: 6}
  dislikes: 0
  ignores: 0
nodes:
  rolled: {type: toy.roll, seed: "${seed}"}
  good: {type: toy.accept, n: "${rolled}", at_least: "${at_least}", dislikes: "${dislikes}", ignores: "${ignores}"}
  worth: {type: toy.costly, n: "${rolled}"}
outputs: {rolled: "${rolled}", good: "${good}", worth: "${worth}"}
"""

#: What the first rounds of seed 26 roll.
ROLLS = [1, 3, 4, 6, 1, 6, 6, 2]


def graph(repeat: str, *, more: str = "", outputs: str = "rolled, rounds") -> str:
    wanted = ", ".join(f'{name}: "${{tries.{name}}}"' for name in outputs.split(", "))
    return f"""\
imagen_flow: 1
nodes:
  tries: {{type: ./try.yaml, seed: 26, repeat: {repeat}{more}}}
outputs: {{{wanted}}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes and a graph to repeat."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    (tmp_path / "try.yaml").write_text(TRY)
    return tmp_path


def ran(text: str) -> tuple[dict[str, Any], list[str]]:
    """Run a graph; give its outputs, and what was started."""
    Path("g.yaml").write_text(text)
    events: list[Any] = []
    outputs = flow.run("g.yaml", plugins="nodes.py", store="store", on_event=events.append)
    return outputs, [e.node + e.item for e in events if isinstance(e, StepStarted)]


def planned(text: str) -> tuple[list[tuple[str, str]], bool]:
    """Plan a graph: its steps, and whether there may be more."""
    Path("g.yaml").write_text(text)
    plan = flow.plan("g.yaml", plugins="nodes.py", store="store")
    return [(s.name + s.item, s.reason or s.status) for s in plan.steps], plan.at_least


def test_it_ends_with_the_first_round_in_which_the_condition_holds() -> None:
    """All rounds are kept as lists, and how many there were is a value."""
    outputs, started = ran(graph("{times: 20, until: good}", outputs="rolled, good, rounds"))
    assert outputs == {
        "rolled": ROLLS[:4],
        "good": [False, False, False, True],
        "rounds": 4,
    }
    assert started == [f"tries[{r}]/{name}" for r in range(4) for name in ("rolled", "good")]


def test_it_ends_when_there_may_be_no_more_rounds() -> None:
    """Of the last one that is allowed, the condition is not asked."""
    outputs, started = ran(graph("{times: 3, until: good}"))
    assert outputs == {"rolled": ROLLS[:3], "rounds": 3}
    assert started == [
        f"tries[{r}]/{name}"
        for r in range(3)
        for name in ("rolled", "good")
        if (r, name) != (2, "good")
    ]


def test_the_last_round_is_kept_alone() -> None:
    """What only that one needs is computed for it alone."""
    outputs, started = ran(
        graph("{times: 20, until: good, keep: last}", outputs="rolled, worth, rounds")
    )
    assert outputs == {"rolled": 6, "worth": 600, "rounds": 4}
    assert [name for name in started if name.endswith("worth")] == ["tries[3]/worth"]


def test_the_best_round_is_kept_of_those_that_there_were() -> None:
    """The highest score, the first of equals; and how many rounds there were, not which it was."""
    outputs, _ = ran(
        graph("{times: 3, until: good, keep: {best: rolled}}", outputs="worth, rounds")
    )
    assert outputs == {"worth": 400, "rounds": 3}
    outputs, _ = ran(
        graph("{times: 20, until: good, keep: {best: rolled}}", outputs="worth, rounds")
    )
    assert outputs == {"worth": 600, "rounds": 4}


def test_a_condition_without_a_value_does_not_hold() -> None:
    """The rounds go on after one whose condition is absent, or failed."""
    outputs, _ = ran(graph("{times: 20, until: good, keep: last}", more=", ignores: 4"))
    assert outputs == {"rolled": 6, "rounds": 4}
    Path("g.yaml").write_text(
        graph("{times: 20, until: good, keep: last}", more=", dislikes: 4, on_error: absent")
    )
    events = list(flow.execute(flow.plan("g.yaml", plugins="nodes.py", store="store")))
    assert [e.message for e in events if isinstance(e, StepFailed)] == ["dislikes 4"]
    assert [e.status for e in events if isinstance(e, RunFinished)] == ["done"]


def test_each_element_has_rounds_of_its_own() -> None:
    """The outputs are ragged lists of lists."""
    outputs, _ = ran("""\
imagen_flow: 1
nodes:
  tries: {type: ./try.yaml, each: {at_least: [4, 1, 6]}, seed: 26, repeat: {times: 20, until: good}}
outputs: {rolled: "${tries.rolled}", rounds: "${tries.rounds}"}
""")
    assert outputs == {"rolled": [ROLLS[:3], ROLLS[:1], ROLLS[:4]], "rounds": [3, 1, 4]}


def test_a_plan_lists_the_rounds_that_are_known_and_how_many_may_follow() -> None:
    """Before a run the first one; after it all of them, from the store."""
    text = graph("{times: 20, until: good, keep: last}")
    steps, at_least = planned(text)
    assert at_least
    assert [name for name, _ in steps] == ["tries[?]", "tries[0]/rolled", "tries[0]/good"]
    assert steps[0][1] == "after tries[0]/good: up to 19 more of 20"
    ran(text)
    steps, at_least = planned(text)
    assert not at_least
    assert [name for name, _ in steps if name.endswith("good")] == [
        f"tries[{r}]/good" for r in range(4)
    ]
    assert {status for _, status in steps} == {"cached"}


def test_a_plan_prints_how_many_rounds_may_follow(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, on the line of the node."""
    Path("g.yaml").write_text(graph("{times: 20, until: good}"))
    with pytest.raises(SystemExit):
        cli.main(["plan", "g.yaml", "--plugin", "nodes.py", "--store", "store"])
    out = capsys.readouterr().out
    assert out.startswith("g.yaml on cpu in float32: at least 2 steps, ")
    assert "? (after tries[0]/good: up to 19 more of 20)" in out


def test_another_bound_runs_only_what_is_new() -> None:
    """More rounds go on where the last run ended; fewer are all there."""
    ran(graph("{times: 2, until: good}", outputs="rounds"))
    outputs, started = ran(graph("{times: 20, until: good}", outputs="rounds"))
    assert outputs == {"rounds": 4}
    assert "tries[0]/rolled" not in started and "tries[3]/rolled" in started
    outputs, started = ran(graph("{times: 3, until: good}", outputs="rounds"))
    assert (outputs, started) == ({"rounds": 3}, [])


def test_how_many_rounds_there_were_flows_on_like_any_value() -> None:
    """Into ports, and out of the graph with provenance that makes it again."""
    outputs, _ = ran("""\
imagen_flow: 1
nodes:
  tries: {type: ./try.yaml, seed: 26, repeat: {times: 20, until: good, keep: last}}
  twice: {type: math.multiply, a: "${tries.rounds}", b: 2}
  worth: {type: math.add, a: "${tries.worth}", b: "${twice}"}
outputs: {worth: "${worth}"}
""")
    assert outputs == {"worth": 608}


def test_a_picture_of_the_last_round_is_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Its provenance holds the steps of all rounds that decided, and a replay gives the same."""
    Path("g.yaml").write_text("""\
imagen_flow: 1
nodes:
  tries: {type: ./try.yaml, seed: 26, repeat: {times: 20, until: good, keep: last}}
  picture: {type: image.solid, width: "${tries.worth}", height: "${tries.rounds}"}
outputs: {picture: {from: "${picture}", path: p.png}}
""")
    for command in (["run", "g.yaml"], ["replay", "out/p.png", "--yes"]):
        out = "out" if command[0] == "run" else "again"
        with pytest.raises(SystemExit) as exited:
            cli.main([*command, "--plugin", "nodes.py", "--store", out + "-store", "--out", out])
        assert exited.value.code == 0, capsys.readouterr().err
    assert Path("again/p.png").read_bytes() == Path("out/p.png").read_bytes()
    text = Path("out/p.png").read_bytes().decode("latin-1")
    assert all(f"tries[{r}]/good" in text for r in range(4))
    assert "tries[3]/worth" in text and "tries[2]/worth" not in text


@pytest.mark.parametrize(
    ("repeat", "message", "fix"),
    [
        (
            "{until: good}",
            "'repeat' needs 'times'",
            "write repeat: {times: 4, keep: {best: score}} or",
        ),
        ("{times: 4, until: god}", "the graph has no output 'god'", "did you mean 'good'?"),
        (
            '{times: 4, until: "${good}"}',
            "'until' takes the name of an output of the graph, not the text '${good}'",
            "write 'good'",
        ),
        (
            "{times: 4, until: rolled}",
            "'until' takes true or false, and output 'rolled' is int",
            "outputs that fit are: good",
        ),
        ("{times: 4, while: good}", "'repeat' has no key 'while'", "write repeat: "),
        (
            "{times: 4, keep: first}",
            "'keep' takes last, or best with an output, not the text 'first'",
            "write keep: last or keep: {best: score}; without 'keep' all are kept, as lists",
        ),
    ],
)
def test_what_cannot_end_a_repetition_is_refused(repeat: str, message: str, fix: str) -> None:
    """When the graph is read, with what may be written."""
    with pytest.raises(GraphError) as refused:
        ran(graph(repeat, outputs="rolled"))
    problem = refused.value.problems[0]
    assert problem.message == message
    assert problem.fix.startswith(fix)


def test_an_output_of_the_name_of_the_count_is_refused() -> None:
    """Which of the two is meant could not be told."""
    Path("try.yaml").write_text(TRY.replace("{rolled:", "{rounds: '${rolled}', rolled:"))
    with pytest.raises(GraphError, match="has an output 'rounds', and 'until' gives one"):
        ran(graph("{times: 4, until: good}"))


def test_a_round_costs_the_same_however_many_there_were() -> None:
    """The work of the engine, counted in lines, grows as the rounds do."""

    rooms = tuple(os.path.join(next(iter(flow.__path__)), room) for room in ("_plan", "_run"))

    def lines(rounds: int) -> int:
        Path("g.yaml").write_text(graph(f"{{times: {rounds}, until: good}}", more=", at_least: 7"))
        plan = flow.plan("g.yaml", plugins="nodes.py", store=f"store{rounds}")
        count = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.startswith(rooms):
                return None
            count += event == "line"
            return trace

        before = threading.gettrace()
        threading.settrace(trace)
        try:
            *_, last = flow.execute(plan)
        finally:
            threading.settrace(before)  # type: ignore[arg-type]  # None is allowed
        assert (last.status, last.ran + last.cached) == ("done", 2 * rounds - 1)
        return count

    assert lines(100) < 2.1 * lines(50)
