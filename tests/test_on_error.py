"""What `on_error` makes of elements that fail: values, pairs, files, exit codes, reports, reruns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._hotfolder.results import RunResult
from imagen_flow.errors import GraphError, NodeError
from imagen_flow.events import (
    RunFinished,
    StepAbsent,
    StepFailed,
    StepSkipped,
    StepStarted,
    as_json,
)

NODES = '''
"""Toy nodes."""
from pathlib import Path
from imagen_flow import List, Text, node

@node("toy.tell", version=1)
def tell(n: int, *, or_else: Text | None = None) -> Text:
    """Fail at 3 and 5, unless they were mended."""
    if n in (3, 5) and not Path(f"mended{n}").exists():
        raise ValueError(f"cannot tell {n}")
    return f"told {n}"

@node("toy.heard", version=1)
def heard(text: Text | None = None) -> Text:
    """Say what was heard, if anything."""
    return text or "nothing"

@node("toy.pairs", version=1, paired=("texts", "numbers"))
def pairs(texts: List[Text], numbers: List[int]) -> Text:
    """Name pairs."""
    return "; ".join(f"{t}={n}" for t, n in zip(texts, numbers, strict=True))

@node("toy.double", version=1)
def double(n: int) -> int:
    """Fail at 2."""
    if n == 2:
        raise ValueError("cannot double 2")
    return n * 2
'''

TOLD = """\
imagen_flow: 1
nodes:
  told: {{type: toy.tell, each: {{n: [1, 3, 4, 5]}}, on_error: {policy}}}
  heard: {{type: toy.heard, each: {{text: "${{told}}"}}}}
  count: {{type: list.length, values: "${{told}}"}}
outputs:
  told: "${{told}}"
  heard: "${{heard}}"
  count: "${{count}}"
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process; it knows the toy nodes."""

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as exited:
            cli.main([*arguments, "--plugin", "nodes.py", "--store", "store"])
        return Result(int(exited.value.code or 0), *capsys.readouterr())

    return call


def ran(graph: str, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    """Run a graph; give its outputs and its events."""
    Path("g.yaml").write_text(graph)
    events: list[Any] = []
    options = {"store": "store", **options}
    outputs = flow.run("g.yaml", plugins="nodes.py", on_event=events.append, **options)
    return outputs, events


@pytest.mark.parametrize(
    ("policy", "told", "heard"),
    [
        ("absent", ["told 1", None, "told 4", None], ["told 1", "nothing", "told 4", "nothing"]),
        ("drop", ["told 1", "told 4"], ["told 1", "told 4"]),
    ],
)
def test_an_element_that_fails_is_absent_or_dropped(
    policy: str, told: list[Any], heard: list[Any]
) -> None:
    """An absent one leaves its place and is replaced by defaults, a dropped one is gone for good; a
    list that goes into a port has neither.
    """
    outputs, events = ran(TOLD.format(policy=policy))
    assert outputs == {"told": told, "heard": heard, "count": 2}
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert (finished.status, finished.failed, finished.tolerated) == ("done", 0, 2)
    failed = [as_json(event) for event in events if isinstance(event, StepFailed)]
    assert [(e["node"], e["item"], e["message"], e["on_error"]) for e in failed] == [
        ("told", "[1]", "cannot tell 3", policy),
        ("told", "[3]", "cannot tell 5", policy),
    ]


def test_by_default_what_needs_a_failed_element_fails() -> None:
    """The others go on, and the error that is raised names the element and its place."""
    for graph in (TOLD.format(policy="fail"), TOLD.format(policy="x").replace(", on_error: x", "")):
        with pytest.raises(NodeError) as raised:
            ran(graph)
        assert str(raised.value).startswith(
            "g.yaml:3:3: error[node-failed]: told ([1]): cannot tell 3\n"
        )


def test_failures_that_a_node_does_without_are_told_in_python() -> None:
    """With the element, the message and the place in the graph."""
    outputs, _ = ran(TOLD.format(policy="drop"))
    failures = outputs.failures  # type: ignore[attr-defined]
    assert [str(failure) for failure in failures] == [
        "told[1] failed and is dropped: cannot tell 3",
        "told[3] failed and is dropped: cannot tell 5",
    ]
    mark = failures[0].error.problem.mark
    assert (mark.line, mark.column) == (3, 3)


def test_failed_elements_are_listed_at_the_end(call: Call) -> None:
    """With their places; the exit code is that of a run that is done."""
    Path("g.yaml").write_text(TOLD.format(policy="absent"))
    result = call("run", "g.yaml")
    assert result.code == 0
    assert result.err.splitlines()[-4:-1] == [
        "2 steps failed",
        "  told[1]  g.yaml:3:3  absent: cannot tell 3",
        "  told[3]  g.yaml:3:3  absent: cannot tell 5",
    ]
    assert result.err.splitlines()[-1].endswith(
        "6 steps ran, 1 from the store, 2 failed and left out"
    )
    Path("g.yaml").write_text(TOLD.format(policy="fail"))
    result = call("run", "g.yaml")
    assert result.code == 1
    assert "  told[1]  g.yaml:3:3  cannot tell 3" in result.err.splitlines()


def test_an_element_that_failed_is_tried_again_by_the_next_run() -> None:
    """Those that succeeded come from the store."""
    ran(TOLD.format(policy="drop"))
    _, events = ran(TOLD.format(policy="drop"))
    started = [e.node + e.item for e in events if isinstance(e, StepStarted)]
    assert started == ["told[1]", "told[3]"]
    Path("mended3").touch()
    outputs, events = ran(TOLD.format(policy="drop"))
    assert outputs["told"] == ["told 1", "told 3", "told 4"]
    started = [e.node + e.item for e in events if isinstance(e, StepStarted)]
    assert started == ["told[1]", "told[3]", "heard[1]", "count"]


def test_a_policy_is_no_part_of_a_key() -> None:
    """Another policy recomputes nothing that was computed."""
    ran(TOLD.format(policy="drop"))
    _, events = ran(TOLD.format(policy="absent"))
    started = [e.node + e.item for e in events if isinstance(e, StepStarted)]
    assert started == ["told[1]", "told[3]", "heard[1]"]


PAIRED = """\
imagen_flow: 1
nodes:
  told: {type: toy.tell, each: {n: [1, 2, 3, 4]}, on_error: drop}
  twice: {type: toy.double, each: {n: [1, 2, 3, 4]}, on_error: drop}
  both: {type: text.format, template: "{a}: {b}", each: {a: "${told}", b: "${twice}"}}
  pairs: {type: toy.pairs, texts: "${told}", numbers: "${twice}"}
outputs:
  told: {from: "${told}", path: "{index}.txt"}
  twice: {from: "${twice}", path: "{index}-twice.json"}
  table: {from: "${both}", path: t.jsonl}
  both: "${both}"
  pairs: "${pairs}"
"""


def test_what_is_paired_with_a_dropped_element_is_dropped_with_it() -> None:
    """By `each`, by a node type that pairs lists, and by the numbers of files: no pair ever shifts."""
    outputs, events = ran(PAIRED, out="out")
    assert outputs["both"] == ["told 1: 2", "told 4: 8"]
    assert outputs["pairs"] == "told 1=2; told 4=8"
    assert outputs["told"] == ["told 1", "told 2", "told 4"]
    assert sorted(p.name for p in Path("out").iterdir() if "provenance" not in p.name) == [
        "0-twice.json",
        "0.txt",
        "1.txt",
        "2-twice.json",
        "3-twice.json",
        "3.txt",
        "t.jsonl",
    ]
    assert len(Path("out/t.jsonl").read_text().splitlines()) == 2
    absent = [(e.item, e.because) for e in events if isinstance(e, StepAbsent)]
    assert absent == [("[1]", "its 'b' was dropped"), ("[2]", "its 'a' was dropped")]


def test_lists_inside_a_list_are_written_without_what_was_dropped(call: Call) -> None:
    """Each to a file of its own; one in which something failed is not written."""
    graph = """\
imagen_flow: 1
nodes:
  told: {type: toy.tell, each: {n: [[1, 3], [4]]}, on_error: POLICY}
outputs: {told: {from: "${told}", path: "{index}.json"}}
"""
    for policy, files in (
        ("drop", {"0": ["told 1"], "1": ["told 4"]}),
        ("fail", {"1": ["told 4"]}),
    ):
        Path("g.yaml").write_text(graph.replace("POLICY", policy))
        assert call("run", "g.yaml", "--out", policy).code == (policy == "fail")
        assert files == {
            path.stem: json.loads(path.read_text()) for path in Path(policy).glob("?.json")
        }


@pytest.mark.parametrize("policy", ["absent", "drop"])
def test_repetitions_that_cannot_begin_are_absent_as_a_whole(policy: str) -> None:
    """An input is out of bounds: there is no list that anything could be taken out of."""
    Path("inner.yaml").write_text(
        "imagen_flow: 1\ninputs: {n: {type: int, max: 3}}\n"
        "nodes: {told: {type: toy.tell, n: '${n}'}}\noutputs: {told: '${told}'}\n"
    )
    outputs, _ = ran(f"""\
imagen_flow: 1
nodes:
  four: {{type: toy.double, n: 4}}
  all: {{type: ./inner.yaml, n: "${{four}}", repeat: 2, on_error: {policy}}}
  heard: {{type: toy.heard, each: {{text: "${{all}}"}}}}
  sizes: {{type: list.length, each: {{values: [["a"], "${{all}}"]}}}}
outputs: {{heard: "${{heard}}", sizes: "${{sizes}}"}}
""")
    assert outputs == {"heard": None, "sizes": [1, None]}


def test_pairs_do_not_shift_when_their_lists_differ_in_length() -> None:
    """What is absent in one list is left out of all, so that the node sees that they do not fit."""
    with pytest.raises(NodeError, match="shorter"):
        ran(
            PAIRED.replace(
                'numbers: "${twice}"',
                "numbers: [10, 20, 30]",
            )
        )


def test_a_graph_that_is_used_as_a_node_does_without_what_fails_in_it(call: Call) -> None:
    """At any depth in it: its outputs are absent, and so are the elements of its lists."""
    inner = """\
imagen_flow: 1
inputs: {n: {type: int}}
nodes:
  told: {type: toy.tell, n: "${n}"}
  more: {type: toy.tell, each: {n: [1, "${n}"]}}
outputs: {told: "${told}", more: "${more}"}
"""
    Path("inner.yaml").write_text(inner)
    outputs, events = ran("""\
imagen_flow: 1
nodes:
  all: {type: ./inner.yaml, each: {n: [1, 3]}, on_error: absent}
outputs: {told: "${all.told}", more: "${all.more}"}
""")
    assert outputs == {"told": ["told 1", None], "more": [["told 1", "told 1"], ["told 1", None]]}
    assert events[-1].status == "done"


@pytest.mark.parametrize("force", [(), ("final",)], ids=["cached", "run again"])
def test_a_run_from_the_store_fails_as_the_first_did(force: tuple[str, ...]) -> None:
    """A failure that only a node with `on_error` waits for is told, and fails the run, also when
    what comes after it is cached, or runs with nothing left to wait for.
    """
    Path("small.yaml").write_text("""\
imagen_flow: 1
inputs: {n: {type: int, max: 5}}
nodes: {told: {type: toy.tell, n: "${n}"}}
outputs: {told: "${told}"}
""")
    Path("relayed.yaml").write_text("""\
imagen_flow: 1
inputs: {text: {type: text}}
nodes: {heard: {type: toy.heard, text: "${text}"}}
outputs: {heard: "${heard}"}
""")
    Path("g.yaml").write_text("""\
imagen_flow: 1
nodes:
  doubled: {type: toy.double, n: 10}
  large: {type: ./small.yaml, n: "${doubled}"}
  relayed: {type: ./relayed.yaml, text: "${large}", on_error: absent}
  final: {type: toy.heard, text: "${relayed}"}
outputs: {final: "${final}"}
""")

    def outcomes(force: tuple[str, ...] = ()) -> tuple[list[str], list[str], str]:
        plan = flow.plan("g.yaml", plugins="nodes.py", store="store", force=force)
        *events, last = flow.execute(plan)
        failed = [e.message for e in events if isinstance(e, StepFailed)]
        skipped = [e.node for e in events if isinstance(e, StepSkipped)]
        return failed, skipped, last.status

    first = outcomes()
    assert first == (
        ["it gives a value to 'n', which takes a whole number up to 5, not 20"],
        ["relayed/heard"],
        "failed",
    )
    assert outcomes(force) == first


def test_without_each_the_node_itself_is_absent() -> None:
    """What needs it is absent too, and `flow.first` takes what is there."""
    outputs, _ = ran("""\
imagen_flow: 1
nodes:
  told: {type: toy.tell, n: 3, on_error: absent}
  heard: {type: toy.heard, text: "${told}"}
  first: {type: flow.first, a: "${told}", b: "${heard}"}
outputs: {told: "${told}", first: "${first}"}
""")
    assert outputs == {"told": None, "first": "nothing"}


def test_lists_that_do_not_fit_fail_whatever_the_policy() -> None:
    """A node that cannot go through its lists has no element that could be left out."""
    with pytest.raises(NodeError, match="the lists of 'each' differ in length"):
        ran("""\
imagen_flow: 1
nodes:
  few: {type: list.range, count: 2}
  many: {type: list.range, count: 3}
  sums: {type: math.add, each: {a: "${few}", b: "${many}"}, on_error: drop}
outputs: {sums: "${sums}"}
""")


def test_fail_fast_does_not_stop_for_what_a_node_does_without(call: Call) -> None:
    """The user has said what becomes of it."""
    Path("g.yaml").write_text(TOLD.format(policy="drop"))
    assert call("run", "g.yaml", "--fail-fast").code == 0


def test_dropping_needs_a_list() -> None:
    """A node without one is told so when the graph is read."""
    for reserved in ("", ", repeat: {times: 2, keep: {best: n}}"):
        type_ = "./score.yaml" if reserved else "toy.tell"
        Path("score.yaml").write_text(
            "imagen_flow: 1\ninputs: {n: 1}\nnodes: {a: {type: toy.double, n: '${n}'}}\n"
            "outputs: {n: '${a}'}\n"
        )
        with pytest.raises(GraphError) as refused:
            ran(f"""\
imagen_flow: 1
nodes:
  told: {{type: {type_}, n: 3, on_error: drop{reserved}}}
outputs: {{told: "${{told}}"}}
""")
        assert [p.message for p in refused.value.problems] == [
            "'on_error: drop' needs a list to take elements out of"
        ]
        assert refused.value.problems[0].fix == "write on_error: absent"


def test_a_policy_that_does_not_exist_is_refused() -> None:
    """With what there is."""
    with pytest.raises(
        GraphError, match="'on_error' takes one of 'fail', 'absent', 'drop'"
    ) as refused:
        ran(TOLD.format(policy="dorp"))
    assert refused.value.problems[0].fix == "did you mean 'drop'?"


def test_the_index_of_a_sweep_tells_of_failed_elements(call: Call) -> None:
    """Its items are done; what failed in them is among their notes, and counted at the end."""
    graph = TOLD.format(policy="drop").replace("nodes:", "inputs: {n: 1}\nnodes:")
    Path("g.yaml").write_text(graph.replace("[1, 3, 4, 5]", '["${n}", 3]'))
    result = call("run", "g.yaml", "--sweep", "n=1,2", "--out", "out")
    assert result.code == 0
    assert result.err.rstrip().endswith(", 2 steps failed and left out")
    rows = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    assert [(row["status"], row["notes"], row["outputs"]["told"]["value"]) for row in rows] == [
        ("done", ["told[1] failed and is dropped: cannot tell 3"], [f"told {n}"]) for n in (1, 2)
    ]


def test_a_picture_made_without_a_failed_element_is_made_again(call: Call) -> None:
    """Its provenance holds the policy with the graph, and a replay does as the run did."""
    Path("g.yaml").write_text("""\
imagen_flow: 1
nodes:
  numbers: {type: toy.double, each: {n: [1, 2, 3]}, on_error: drop}
  length: {type: list.length, values: "${numbers}"}
  picture: {type: image.solid, width: "${length}", height: 4}
outputs: {picture: {from: "${picture}", path: p.png}}
""")
    assert call("run", "g.yaml", "--out", "out").code == 0
    result = call("replay", "out/p.png", "--yes", "--out", "again")
    assert result.code == 0, result.err
    assert Path("again/p.png").read_bytes() == Path("out/p.png").read_bytes()


def test_a_file_of_a_hot_folder_is_done_without_a_failed_element() -> None:
    """What failed is among the notes that its log keeps."""
    _, events = ran(TOLD.format(policy="drop"))
    result = RunResult("")
    for event in events:
        result.take(event)
    assert result.failures == []
    assert result.notes == [
        "told[1] failed and is dropped: cannot tell 3",
        "told[3] failed and is dropped: cannot tell 5",
    ]
