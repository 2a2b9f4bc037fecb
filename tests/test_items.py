"""One plan may be for many items: what they share is worked out once, each fails alone, and an
output of an item is what a run of that item alone would give, to the provenance.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from imagen_flow import File, GraphError, Image, List, Range, Seed, Text, events, node
from imagen_flow._graph import Graph, resolve
from imagen_flow._outputs.writer import OutputWriter
from imagen_flow._plan import Item, Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._provenance.embedding import read_embedded
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs
from imagen_flow.events import Event

RAN: list[str] = []


@node("toy.words", version=1)
def words(prompt: Text) -> Text:
    """Say how words are encoded."""
    RAN.append(f"words {prompt}")
    return f"<{prompt}>"


@node("toy.draw", version=1)
def draw(text: Text, *, seed: Seed, width: Annotated[int, Range(1, 64)] = 4) -> Image:
    """Draw noise."""
    RAN.append(f"draw {text} {seed}")
    if text == "<bad>":
        raise ValueError("it does not like this prompt")
    return Image(np.random.default_rng(seed).integers(0, 255, (4, width, 3), dtype="uint8"))


@node("toy.count", version=1)
def count(to: int) -> List[int]:
    """Count."""
    RAN.append(f"count {to}")
    return list(range(to))


@node("toy.next", version=1)
def successor(value: int) -> int:
    """Add one."""
    RAN.append(f"next {value}")
    return value + 1


@node("toy.read", version=1)
def read(file: File) -> Text:
    """Read a file."""
    RAN.append("read")
    return file.path.read_text("utf-8")


DRAWING = """
    inputs:
      prompt: a
      seed: {type: seed, default: 1}
      width: {type: int, default: 4}
    nodes:
      text: {type: toy.words, prompt: "${prompt}"}
      picture: {type: toy.draw, text: "${text}", seed: "${seed}", width: "${width}"}
    outputs:
      picture: {from: "${picture}", path: "{prompt}-{seed}.png"}
"""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as opened:
        yield opened


def graph_of(text: str, path: Path | None = None) -> Graph:
    registry = Registry({})
    for one in (words, draw, count, successor, read):
        registry.add(one)
    return resolve(
        spec.parse("imagen_flow: 1\n" + textwrap.dedent(text), name="g.yaml", path=path), registry
    )


def items(**axes: list[Any]) -> list[Item]:
    """Make an item of each value of the only axis."""
    ((name, values),) = axes.items()
    return [Item(f"{name}-{value}", {name: value}) for value in values]


def told(ran: list[Event], *kinds: type) -> list[tuple[Any, ...]]:
    """Give the events of these kinds, with what they are about."""
    return [
        (type(e).__name__, getattr(e, "node", getattr(e, "output", "")), e.item)
        for e in ran
        if isinstance(e, kinds)
    ]


def test_what_items_share_is_computed_once(store: Store) -> None:
    """Four seeds of one prompt encode it once; each item is told finished after its output."""
    plan = make_plan(graph_of(DRAWING), items=items(seed=[1, 2, 3, 4]), store=store)
    assert [(s.name, s.item, s.status) for s in plan.steps] == [
        (name, f"seed-{seed}", status)
        for seed in (1, 2, 3, 4)
        for name, status in (("text", "runs"), ("picture", "waits"))
    ]
    ran = list(execute(plan))
    assert ["words a", *(f"draw <a> {seed}" for seed in (1, 2, 3, 4))] == RAN
    assert told(ran, events.OutputWritten, events.ItemFinished) == [
        told_of
        for seed in (1, 2, 3, 4)
        for told_of in (
            ("OutputWritten", "picture", f"seed-{seed}"),
            ("ItemFinished", "", f"seed-{seed}"),
        )
    ]
    assert isinstance(ran[-1], events.RunFinished)
    assert (ran[-1].status, ran[-1].ran, ran[-1].cached) == ("done", 5, 3)


def test_a_plan_of_items_is_carried_out_as_often_as_one_likes(store: Store) -> None:
    """The run lets go of finished items; the plan keeps them, and a second run gives the same."""
    plan = make_plan(graph_of(DRAWING), items=items(seed=[1, 2]))
    first, second = (
        [e for e in execute(plan) if isinstance(e, events.OutputWritten)] for _ in "ab"
    )
    assert [e.value.pixels.tobytes() for e in first] == [e.value.pixels.tobytes() for e in second]
    assert [top.item for top in plan.state.tops] == ["seed-1", "seed-2"]


def test_an_output_of_an_item_is_that_of_the_lone_run(store: Store, tmp_path: Path) -> None:
    """File and provenance document of each item are those of a run of it alone, to the byte, and
    none of them names the item.
    """
    graph = graph_of(DRAWING)
    texts = [{"prompt": "a", "seed": "1"}, {"prompt": "b", "seed": "2"}, {"prompt": "a"}]
    plan = make_plan(
        graph,
        {"seed": 7},
        items=[Item(f"row {i}", texts=given) for i, given in enumerate(texts)],
        store=store,
    )
    ran = list(execute(plan, out=tmp_path / "many"))
    assert told(ran, events.StepFailed, events.OutputFailed) == []
    for given in texts:
        lone = make_plan(graph, {} if "seed" in given else {"seed": 7}, texts=given, store=store)
        list(execute(lone, out=tmp_path / "lone"))
    many, lone_files = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("many", "lone")
    )
    assert sorted(many) == ["a-1.png", "a-7.png", "b-2.png"]
    assert many == lone_files
    embedded = read_embedded(tmp_path / "many/b-2.png")
    assert embedded is not None and embedded.intact
    assert "row" not in embedded.text


def test_an_item_whose_values_are_bad_fails_alone(store: Store) -> None:
    """A value of another type, one out of a port's bounds and an unknown input are problems of
    their items; the others run.
    """
    plan = make_plan(
        graph_of(DRAWING),
        items=[
            Item("good", {"seed": 2}),
            Item("text", {"seed": "two"}),
            Item("wide", {"width": 65}),
            Item("unknown", texts={"sede": "1"}),
        ],
        store=store,
    )
    no_seed = "input 'seed' takes a whole number from 0 to 9223372036854775807, not the text 'two'"
    assert {item.label: [p.message for p in item.problems] for item in plan.items} == {
        "good": [],
        "text": [no_seed],
        "wide": [],
        "unknown": ["the graph has no input 'sede'"],
    }
    ran = list(execute(plan))
    assert [(e.item, e.status, e.message) for e in ran if isinstance(e, events.ItemFinished)] == [
        ("text", "failed", no_seed),
        ("unknown", "failed", "the graph has no input 'sede'"),
        ("good", "done", ""),
        ("wide", "failed", ""),
    ]
    assert told(ran, events.OutputWritten) == [("OutputWritten", "picture", "good")]
    assert isinstance(ran[-1], events.RunFinished)
    assert (ran[-1].status, ran[-1].failed) == ("failed", 3)


def test_a_step_that_fails_fails_its_item_alone(store: Store) -> None:
    """The item of a node that raises has failed, and those after it are done."""
    plan = make_plan(graph_of(DRAWING), items=items(prompt=["a", "bad", "c"]), store=store)
    ran = list(execute(plan))
    assert [(e.item, e.status) for e in ran if isinstance(e, events.ItemFinished)] == [
        ("prompt-a", "done"),
        ("prompt-bad", "failed"),
        ("prompt-c", "done"),
    ]
    (failed,) = [e for e in ran if isinstance(e, events.StepFailed)]
    assert (failed.node, failed.item, str(failed.error.problem.message)) == (
        "picture",
        "prompt-bad",
        "picture (prompt-bad): it does not like this prompt",
    )


def test_what_is_wrong_whatever_the_values_are_refuses_the_plan(tmp_path: Path) -> None:
    """A file that the graph itself names and that is not there is no item's fault; a file that an
    item names is.
    """
    (tmp_path / "a.txt").write_text("a")
    graph = graph_of(
        """
        inputs: {seed: 1}
        nodes: {n: {type: toy.read, file: ./none.txt}}
        outputs: {o: "${n}"}
        """,
        tmp_path / "g.yaml",
    )
    with pytest.raises(GraphError, match=r"there is no file './none.txt'"):
        make_plan(graph, items=items(seed=[1, 2]))
    graph = graph_of(
        """
        inputs: {file: {type: file}}
        nodes: {n: {type: toy.read, file: "${file}"}}
        outputs: {o: "${n}"}
        """
    )
    named = [Item(name, texts={"file": f"{name}.txt"}) for name in ("a", "none")]
    plan = make_plan(graph, items=named, base=tmp_path)
    assert [[p.message for p in item.problems] for item in plan.items] == [
        [],
        ["there is no file 'none.txt'"],
    ]
    assert [e.value for e in execute(plan) if isinstance(e, events.OutputWritten)] == ["a"]


def test_labels_tell_items_apart() -> None:
    """A label that occurs twice, is empty, or could be taken for an element's is a mistake."""
    graph = graph_of(DRAWING)
    for labels, message in (
        (["a", "a"], "two items have the label 'a'"),
        ([""], "not ''"),
        (["a[0]"], r"not 'a\[0\]'"),
        (["a\n"], r"not 'a\\n'"),
    ):
        with pytest.raises(ValueError, match=message):
            make_plan(graph, items=[Item(label) for label in labels])


def test_elements_are_named_after_their_item(store: Store) -> None:
    """A step of an element carries label and number; so do outputs, and the count of steps is that
    of all items.
    """
    graph = graph_of(
        """
        inputs: {to: 1}
        nodes:
          list: {type: toy.count, to: "${to}"}
          each: {type: toy.next, each: {value: "${list}"}}
        outputs: {o: {from: "${each}", path: "{item}.txt"}}
        """
    )
    ran = list(execute(make_plan(graph, items=items(to=[2, 1]), store=store)))
    assert told(ran, events.StepFinished, events.StepCached) == [
        ("StepFinished", "list", "to-2"),
        ("StepFinished", "each", "to-2[0]"),
        ("StepFinished", "each", "to-2[1]"),
        ("StepFinished", "list", "to-1"),
        ("StepCached", "each", "to-1[0]"),
    ]
    known = [(e.node, e.steps) for e in ran if isinstance(e, events.StepsKnown)]
    assert known == [("each", 3)]


def test_a_list_of_an_item_is_written_with_its_label(store: Store, tmp_path: Path) -> None:
    """`{item}` is the label, followed by the number of the element."""
    graph = graph_of(
        """
        inputs: {to: 1}
        nodes: {list: {type: toy.count, to: "${to}"}}
        outputs: {o: {from: "${list}", path: "{item}.txt"}}
        """
    )
    ran = list(execute(make_plan(graph, items=items(to=[2, 1]), store=store), out=tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out").glob("*.txt")) == [
        "to-1-0.txt",
        "to-2-0.txt",
        "to-2-1.txt",
    ]
    assert told(ran, events.OutputWritten) == [
        ("OutputWritten", "o", "to-2[0]"),
        ("OutputWritten", "o", "to-2[1]"),
        ("OutputWritten", "o", "to-1[0]"),
    ]


def test_each_item_may_have_a_writer_of_its_own(store: Store, tmp_path: Path) -> None:
    """A function gives the writer for a label, or None where nothing is written."""
    writers = {
        "seed-1": OutputWriter(tmp_path / "one"),
        "seed-2": OutputWriter(tmp_path / "two", item="picture"),
    }
    plan = make_plan(graph_of(DRAWING), items=items(seed=[1, 2, 3]), store=store)
    ran = list(execute(plan, out=writers.get))
    assert {e.item: e.path for e in ran if isinstance(e, events.OutputWritten)} == {
        "seed-1": str(tmp_path / "one/a-1.png"),
        "seed-2": str(tmp_path / "two/picture-a-2.png"),
        "seed-3": None,
    }


def test_items_that_would_write_one_file_are_told(store: Store, tmp_path: Path) -> None:
    """The second item with a path fails, and is told which fields tell files apart."""
    graph = graph_of(DRAWING.replace("{prompt}-{seed}.png", "{prompt}.png"))
    ran = list(execute(make_plan(graph, items=items(seed=[1, 2])), out=tmp_path / "out"))
    (failed,) = [e for e in ran if isinstance(e, events.OutputFailed)]
    assert failed.item == "seed-2"
    assert "output 'picture' (seed-2) and output 'picture' (seed-1)" in failed.message
    assert "add {item}, {index} or {digest8} to the path" in failed.message
    assert [(e.item, e.status) for e in ran if isinstance(e, events.ItemFinished)] == [
        ("seed-1", "done"),
        ("seed-2", "failed"),
    ]


def test_a_plan_of_items_as_data_says_what_each_is_given(store: Store) -> None:
    """The inputs that all share are the plan's; a lone plan has no items in its data."""
    graph = graph_of(DRAWING)
    data = make_plan(graph, {"prompt": "x"}, items=items(seed=[1, 2]), store=store).to_json()
    assert data["inputs"] == {"prompt": "x", "width": 4}
    assert data["items"] == [
        {
            "item": f"seed-{seed}",
            "inputs": {"prompt": "x", "seed": seed, "width": 4},
            "seeds": {},
            "problems": [],
        }
        for seed in (1, 2)
    ]
    assert "items" not in make_plan(graph, store=store).to_json()


def test_a_seed_that_is_random_is_drawn_for_each_item() -> None:
    """Each item has a seed of its own, told with it."""
    graph = graph_of(DRAWING)
    plan = make_plan(graph, {"seed": "random"}, items=items(prompt=["a", "b"]))
    seeds = [item.seeds["seed"] for item in plan.items]
    assert seeds == [item.inputs["seed"] for item in plan.items]
    assert len(set(seeds)) == 2


def reasons(plan: Plan) -> list[str]:
    return [step.reason for step in plan.steps if step.status == "runs"]


def test_items_are_compared_with_the_last_run_of_the_graph(store: Store) -> None:
    """A lone run and several items name what changed since the last of either; of several, the
    first item is remembered.
    """
    graph = graph_of(DRAWING)
    list(execute(make_plan(graph, {"prompt": "a"}, store=store)))
    list(execute(plan := make_plan(graph, items=items(seed=[1, 2, 3]), store=store)))
    assert reasons(plan) == ["'seed' changed"] * 2
    assert reasons(make_plan(graph, {"seed": 9}, store=store)) == ["'seed' changed"]
    list(execute(make_plan(graph, items=items(prompt=["b", "c"]), store=store)))
    assert reasons(make_plan(graph, {"prompt": "d"}, store=store)) == ["'prompt' changed"]


def test_a_file_that_changes_is_read_anew_for_all_items(store: Store, tmp_path: Path) -> None:
    """Items that read a file which was written after planning get what is in it now."""
    (tmp_path / "a.txt").write_text("before")
    graph = graph_of(
        """
        inputs: {file: {type: file}, prompt: a}
        nodes:
          content: {type: toy.read, file: "${file}"}
          text: {type: toy.words, prompt: "${prompt} ${content}"}
        outputs: {o: "${text}"}
        """
    )
    plan = make_plan(
        graph, {"file": "a.txt"}, items=items(prompt=["a", "b"]), store=store, base=tmp_path
    )
    (tmp_path / "a.txt").write_text("after it")
    ran = list(execute(plan))
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == [
        "<a after it>",
        "<b after it>",
    ]
