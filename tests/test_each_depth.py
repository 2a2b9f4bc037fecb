"""`each` through lists of lists: types, places, raggedness, what is shared, what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow.errors import GraphError, NodeError
from imagen_flow.events import StepFailed, StepStarted

NODES = '''
"""Toy nodes."""
from imagen_flow import List, node

@node("toy.groups", version=1)
def groups(sizes: List[int]) -> List[List[int]]:
    """Number so many elements in each group."""
    return [list(range(size)) for size in sizes]

@node("toy.add", version=1)
def add(a: int, b: int = 100) -> int:
    """Add; fail at 1 + 1."""
    if a == b == 1:
        raise ValueError("dislikes 1 + 1")
    return a + b

@node("toy.sum", version=1)
def total(values: List[int]) -> int:
    """Sum a list."""
    return sum(values)

@node("toy.even", version=1)
def even(n: int) -> bool:
    """Whether a number is even."""
    return n % 2 == 0
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


def graph(nodes: str, *outputs: str) -> str:
    wanted = ", ".join(f'{name}: "${{{name}}}"' for name in outputs)
    return f"imagen_flow: 1\nnodes:\n{nodes}\noutputs: {{{wanted}}}\n"


def ran(text: str) -> tuple[dict[str, Any], list[Any]]:
    """Run a graph; give its outputs and its events."""
    Path("g.yaml").write_text(text)
    events: list[Any] = []
    outputs = flow.run("g.yaml", plugins="nodes.py", store="store", on_event=events.append)
    return outputs, events


def started(events: list[Any]) -> list[str]:
    return [e.node + e.item for e in events if isinstance(e, StepStarted)]


RAGGED = "  groups: {type: toy.groups, sizes: [2, 0, 3]}\n"


def test_it_goes_as_deep_as_the_port_needs() -> None:
    """Single values are taken out of lists of lists, lists out of them where the port takes lists;
    what comes out is as ragged as what went in.
    """
    text = graph(
        RAGGED + '  more: {type: toy.add, each: {a: "${groups}"}}\n'
        '  again: {type: toy.add, each: {a: "${more}"}, b: 1}\n'
        '  sums: {type: toy.sum, each: {values: "${again}"}}\n'
        '  flat: {type: list.flatten, values: "${again}"}\n',
        "more",
        "again",
        "sums",
        "flat",
    )
    outputs, events = ran(text)
    assert outputs == {
        "more": [[100, 101], [], [100, 101, 102]],
        "again": [[101, 102], [], [101, 102, 103]],
        "sums": [203, 0, 306],
        "flat": [101, 102, 101, 102, 103],
    }
    assert [name for name in started(events) if name.startswith("more")] == [
        "more[0][0]",
        "more[0][1]",
        "more[2][2]",
    ]
    _, events = ran(text)
    assert started(events) == []


def test_lists_that_are_written_out_may_be_nested() -> None:
    """With references in them; empty lists stay where they are."""
    outputs, _ = ran(
        graph(
            "  two: {type: toy.groups, sizes: [2]}\n"
            "  first: {type: list.get, values: [7, 8]}\n"
            "  a: {type: toy.add, each: {a: [[1, 2], [], [3]]}}\n"
            "  b: {type: toy.add, each: {a: [[[1], []], []]}}\n"
            "  c: {type: toy.sum, each: {values: [[1, 2], []]}}\n"
            "  none: {type: toy.add, each: {a: []}}\n",
            "a",
            "b",
            "c",
            "none",
        )
    )
    assert outputs == {
        "a": [[101, 102], [], [103]],
        "b": [[[101], []], []],
        "c": [3, 0],
        "none": [],
    }


def test_a_list_that_is_less_deep_is_shared_by_the_lists_inside() -> None:
    """The k-th value with each element of the k-th list."""
    outputs, _ = ran(
        graph(RAGGED + '  sums: {type: toy.add, each: {a: "${groups}", b: [10, 20, 30]}}\n', "sums")
    )
    assert outputs == {"sums": [[10, 11], [], [30, 31, 32]]}


def test_lists_inside_that_differ_in_length_fail_alone() -> None:
    """The others are computed, and the message says which it is."""
    text = graph(
        RAGGED + "  others: {type: toy.groups, sizes: [2, 1, 3]}\n"
        '  sums: {type: toy.add, each: {a: "${groups}", b: "${others}"}, on_error: POLICY}\n',
        "sums",
    )
    outputs, events = ran(text.replace("POLICY", "absent").replace("[2, 0, 3]", "[2, 2, 3]"))
    assert outputs == {"sums": [[0, None], None, [0, None, 4]]}
    assert sorted((e.item, e.message) for e in events if isinstance(e, StepFailed)) == [
        ("[0][1]", "dislikes 1 + 1"),
        ("[1]", "the lists of 'each' at [1] differ in length: 'a' has 2, 'b' has 1"),
        ("[2][1]", "dislikes 1 + 1"),
    ]
    with pytest.raises(NodeError, match=r"at \[1\] differ in length: 'a' has 0, 'b' has 1"):
        ran(
            text.replace("POLICY", "fail")
            .replace("sizes: [2, 1, 3]", "sizes: [0, 1, 0]")
            .replace("sizes: [2, 0, 3]", "sizes: [0, 0, 0]")
        )


def test_an_element_may_be_dropped_at_any_depth() -> None:
    """What is paired with it is dropped too, and the lists stay as ragged as they are."""
    outputs, _ = ran(
        graph(
            RAGGED
            + '  sums: {type: toy.add, each: {a: "${groups}", b: "${groups}"}, on_error: drop}\n'
            '  more: {type: toy.add, each: {a: "${sums}", b: "${groups}"}}\n',
            "sums",
            "more",
        )
    )
    assert outputs == {"sums": [[0], [], [0, 4]], "more": [[0], [], [0, 6]]}


def test_flags_may_be_as_deep_as_the_lists_or_less_deep() -> None:
    """One for each element, or for each list in the list."""
    outputs, _ = ran(
        graph(
            RAGGED + '  even: {type: toy.even, each: {n: "${groups}"}}\n'
            '  some: {type: toy.add, each: {a: "${groups}"}, when: "${even}"}\n'
            '  rest: {type: toy.add, each: {a: "${groups}"}, when: [true, true, false]}\n',
            "some",
            "rest",
        )
    )
    assert outputs == {"some": [[100, None], [], [100, None, 102]], "rest": [[100, 101], [], None]}


def test_flags_may_be_written_out_as_deep_as_the_lists() -> None:
    """Or less deep for some of them; not deeper, which has no remedy by `each`."""
    lists = "  some: {type: toy.add, each: {a: [[1, 2], [3], [4]]}, when: [[true, false], true, false]}\n"
    outputs, _ = ran(graph(lists, "some"))
    assert outputs == {"some": [[101, None], [103], None]}
    with pytest.raises(GraphError) as raised:
        ran(
            graph(
                RAGGED + '  even: {type: toy.even, each: {n: "${groups}"}}\n'
                '  some: {type: toy.add, each: {a: [1, 2, 3]}, when: "${even}"}\n',
                "some",
            )
        )
    (problem,) = raised.value.problems
    assert problem.fix == "go through lists with 'each'; 'when' may be as deep as these, not deeper"


def test_graphs_go_through_lists_of_lists_too() -> None:
    """And their repetitions are lists inside these."""
    Path("inner.yaml").write_text(
        "imagen_flow: 1\ninputs: {n: {type: int}, more: 1}\n"
        "nodes: {sum: {type: toy.add, a: '${n}', b: '${more}'}}\noutputs: {sum: '${sum}'}\n"
    )
    outputs, events = ran(
        graph(
            "  groups: {type: toy.groups, sizes: [1, 0, 2]}\n"
            '  in: {type: ./inner.yaml, each: {n: "${groups}", more: [5, 6, 7]}}\n'
            '  twice: {type: ./inner.yaml, each: {n: "${groups}"}, more: 2, repeat: 2}\n',
            "in",
            "twice",
        )
    )
    assert outputs == {"in": [[5], [], [7, 8]], "twice": [[[2, 2]], [], [[2, 2], [3, 3]]]}
    assert "in[2][1]/sum" in started(events)
    assert "twice[2][1][0]/sum" in started(events)


def test_types_are_known_before_the_run() -> None:
    """However many lists there are: what is left must fit the port, and the result is so deep."""
    with pytest.raises(GraphError) as refused:
        ran(
            graph(
                RAGGED + '  more: {type: toy.add, each: {a: "${groups}"}}\n'
                '  names: {type: text.join, each: {texts: "${more}"}}\n'
                '  one: {type: toy.add, a: "${more}"}\n',
                "names",
                "one",
            )
        )
    assert [(p.code, p.message) for p in refused.value.problems] == [
        (
            "type-mismatch",
            "${more} is list[list[int]], and 'each' of port 'texts' of text.join takes"
            " list[list[text]]",
        ),
        ("type-mismatch", "${more} is list[list[int]], and port 'a' of toy.add takes int"),
    ]


def test_a_long_chain_that_is_written_from_the_bottom_up_is_read() -> None:
    """How deep each node runs depends on the one below it, a thousand times."""
    chain = [
        f'  n{i}: {{type: toy.add, each: {{a: "${{n{i + 1}}}"}}, b: 2}}\n' for i in range(1500)
    ]
    outputs, _ = ran(graph("".join(chain) + "  n1500: {type: toy.groups, sizes: [1]}\n", "n0"))
    assert outputs == {"n0": [[3000]]}


def test_a_cycle_through_lists_is_a_problem() -> None:
    """Like any other."""
    with pytest.raises(GraphError, match="nodes depend on each other: a -> b -> a"):
        ran(
            graph(
                '  a: {type: toy.add, each: {a: "${b}"}}\n  b: {type: toy.add, each: {a: "${a}"}}\n',
                "a",
            )
        )


def test_a_table_of_lists_of_lists_is_counted_before_it_is_made() -> None:
    """Elements that are written out are counted at all depths."""
    row = "[" + ", ".join("1" for _ in range(500)) + "]"
    text = graph(f"  a: {{type: ./big.yaml, each: {{n: [{', '.join([row] * 21)}]}}}}\n", "a")
    Path("big.yaml").write_text(
        "imagen_flow: 1\ninputs: {n: {type: int}}\nnodes: {a: {type: toy.add, each: {a: ["
        + ", ".join(["'${n}'"] * 20)
        + "]}}}\noutputs: {a: '${a}'}\n"
    )
    with pytest.raises(GraphError, match="the graph has more than 200,000 steps"):
        ran(text)


def test_pictures_in_lists_of_lists_are_flattened_before_they_are_written() -> None:
    """Each element of a list is a file; the message says what to do with one that is a list."""
    text = graph(
        "  noise: {type: image.noise, each: {seed: [[1, 2], [3]]}, width: 4, height: 4}\n", "noise"
    ).replace('noise: "${noise}"', 'noise: {from: "${noise}", path: "{index}.png"}')
    with pytest.raises(GraphError) as refused:
        ran(text)
    (problem,) = refused.value.problems
    assert problem.message == "a list of image cannot be written as one file"
    assert problem.fix == "make one list of all with list.flatten"
