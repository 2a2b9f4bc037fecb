"""A run computes what must be computed, once, in an order that demand decides, and says what
happens.
"""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_
from hypothesis import strategies as st

from imagen_flow import (
    Absent,
    File,
    Folder,
    Image,
    Json,
    List,
    Model,
    NodeError,
    Progress,
    Range,
    Scratch,
    Steps,
    Value,
    events,
    loaders,
    node,
)
from imagen_flow._graph import Graph, resolve
from imagen_flow._models import ModelPool
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._run.value_cache import ValueCache
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs
from imagen_flow._types.digest import digest_bytes
from imagen_flow.errors import StoreError
from imagen_flow.events import Event


class Toys:
    """Node types that write down what they compute, in `ran`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.registry = Registry({})
        ran = self.ran

        @node("toy.number", version=1)
        def number(value: int) -> int:
            ran.append(f"number {value}")
            return value

        @node("toy.add", version=1)
        def add(a: int, b: int = 0) -> int:
            ran.append(f"add {a} {b}")
            return a + b

        @node("toy.parity", version=1)
        def parity(value: int) -> int:
            ran.append(f"parity {value}")
            return value % 2

        @node("toy.is_even", version=1)
        def is_even(value: int) -> bool:
            ran.append(f"is_even {value}")
            return value % 2 == 0

        @node("toy.count", version=1)
        def count(to: int) -> List[int]:
            ran.append(f"count {to}")
            return list(range(to))

        @node("toy.total", version=1)
        def total(values: List[int]) -> int:
            ran.append(f"total {values}")
            return sum(values)

        @node("toy.picture", version=1)
        def picture(shade: int) -> Image:
            ran.append(f"picture {shade}")
            return Image(
                np.random.default_rng(shade).integers(0, 255, (200, 200, 3), dtype="uint8")
            )

        @node("toy.brightness", version=1)
        def brightness(image: Image, plus: int = 0) -> int:
            ran.append("brightness")
            return int(image.pixels.sum()) + plus

        @node("toy.broken", version=1)
        def broken(value: int = 0) -> int:
            ran.append(f"broken {value}")
            raise ValueError(f"it does not like {value}")

        @node("toy.either", version=1)
        def either(a: int | None = None, b: int | None = None) -> int:
            ran.append(f"either {a} {b}")
            return a if a is not None else b if b is not None else -1

        @node("toy.any", version=1)
        def any_(value: Value) -> Value:
            return value

        self.add(
            number, add, parity, is_even, count, total, picture, brightness, broken, either, any_
        )

    def add(self, *functions: Any) -> Toys:
        for function in functions:
            self.registry.add(function)
        return self

    def graph(self, text: str, path: Path | None = None) -> Graph:
        whole = (
            text.replace("{", "{imagen_flow: 1, ", 1)
            if text.startswith("{")
            else "imagen_flow: 1\n" + textwrap.dedent(text)
        )
        return resolve(spec.parse(whole, name="graph.yaml", path=path), self.registry)

    def take(self) -> list[str]:
        """What ran since the last call."""
        taken = list(self.ran)
        self.ran.clear()
        return taken


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as opened:
        yield opened


def carry_out(
    graph: Graph,
    values: dict[str, Any] | None = None,
    *,
    store: Store | None = None,
    force: tuple[str, ...] = (),
    **options: Any,
) -> list[Event]:
    return list(execute(make_plan(graph, values, store=store, force=force), **options))


def given(said: list[Event]) -> dict[str, Any]:
    return {e.output + e.item: e.value for e in said if isinstance(e, events.OutputWritten)}


def words(said: list[Event]) -> list[str]:
    """Events in few words, progress and times left out."""
    found = []
    for e in said:
        match e:
            case (
                events.StepCached()
                | events.StepStarted()
                | events.StepFinished()
                | events.StepDamaged()
            ):
                found.append(f"{type(e).__name__.removeprefix('Step').lower()} {e.node}{e.item}")
            case events.StepAbsent() | events.StepSkipped():
                found.append(
                    f"{type(e).__name__.removeprefix('Step').lower()} {e.node}{e.item}: {e.because}"
                )
            case events.StepFailed() | events.StepRetried():
                found.append(
                    f"{type(e).__name__.removeprefix('Step').lower()} {e.node}{e.item}: {e.message}"
                )
            case events.OutputAbsent():
                found.append(f"no output {e.output}: {e.because}")
            case events.OutputFailed():
                found.append(f"output {e.output} failed: {e.message}")
            case events.OutputWritten():
                found.append(f"output {e.output}{e.item}")
            case events.RunFinished():
                found.append(f"{e.status}: {e.ran} ran, {e.cached} cached, {e.failed} failed")
    return found


CHAIN = """
    inputs: {start: 1}
    nodes:
      a: {type: toy.number, value: "${start}"}
      b: {type: toy.add, a: "${a}", b: 1}
      c: {type: toy.add, a: "${b}", b: 1}
    outputs: {c: "${c}"}
    """


# -- what runs -------------------------------------------------------------------------------------


def test_a_run_says_what_happens_in_order(toys: Toys) -> None:
    """Each step starts and finishes after those it needs; then comes the output, and last the end."""
    said = carry_out(toys.graph(CHAIN))
    assert isinstance(said[0], events.RunStarted)
    assert words(said) == [
        "started a",
        "finished a",
        "started b",
        "finished b",
        "started c",
        "finished c",
        "output c",
        "done: 3 ran, 0 cached, 0 failed",
    ]
    assert given(said) == {"c": 3}


def test_what_was_computed_is_not_computed_again_after_a_restart(
    toys: Toys, tmp_path: Path
) -> None:
    """Another store object on the same folder knows all steps; only what the new value reaches
    runs.
    """
    graph = toys.graph(CHAIN)
    for values, ran in [
        ({}, ["number 1", "add 1 1", "add 2 1"]),
        ({}, []),
        ({"start": 5}, ["number 5", "add 5 1", "add 6 1"]),
        ({"start": 1}, []),
    ]:
        with Store.open(tmp_path / "store", Codecs()) as store:
            said = carry_out(graph, values, store=store)
        assert toys.take() == ran
        assert given(said) == {"c": values.get("start", 1) + 2}


@pytest.mark.parametrize(
    "text",
    [
        CHAIN,
        '{nodes: {a: {type: toy.number, value: 1}, b: {type: toy.broken, value: "${a}"}},'
        ' outputs: {b: "${b}"}}',
    ],
    ids=["done", "failed"],
)
def test_a_run_that_is_over_holds_nothing_back_from_a_clean_up(
    toys: Toys, store: Store, text: str
) -> None:
    """What a run has made and found is pinned until it ends, be it by a failure, and no longer."""
    graph = toys.graph(text)
    carry_out(graph, store=store)
    carry_out(graph, store=store)
    assert store.info()["pinned"] == 0
    cleaned = store.gc(max_size=0)
    assert (cleaned.steps_removed > 0, cleaned.steps_pinned) == (True, 0)


def test_a_clean_up_during_a_run_leaves_what_its_plan_found(toys: Toys, store: Store) -> None:
    """Also what was kept long before, and is needed only after the clean-up."""

    @node("toy.clean", version=1)
    def clean() -> int:
        with Store.open(store.folder, Codecs()) as other:
            return other.gc(max_size=0).steps_removed

    graph = toys.add(clean).graph("""
        nodes:
          found: {type: toy.number, value: 7}
          c: {type: toy.clean, cache: false}
          end: {type: toy.add, a: "${found}", b: "${c}"}
        outputs: {end: "${end}"}
        """)
    carry_out(
        toys.graph('{nodes: {n: {type: toy.number, value: 7}}, outputs: {n: "${n}"}}'), store=store
    )
    carry_out(
        toys.graph('{nodes: {n: {type: toy.number, value: 8}}, outputs: {n: "${n}"}}'), store=store
    )
    store.flush()
    toys.take()
    assert given(carry_out(graph, store=store)) == {"end": 8}
    assert toys.take() == ["add 7 1"]


def test_a_run_that_is_over_holds_no_values(toys: Toys) -> None:
    """Neither of its outputs nor of what they were made of, though the run itself is kept: it can
    still be asked for provenance.
    """
    made: list[weakref.ref[Any]] = []

    @node("toy.tracked", version=1)
    def tracked(of: Image | None = None) -> Image:
        pixels = np.full((4, 4, 3), len(made), np.uint8)
        made.append(weakref.ref(pixels))
        return Image(pixels)

    graph = toys.add(tracked).graph("""
        nodes:
          a: {type: toy.tracked}
          b: {type: toy.tracked, of: "${a}"}
        outputs: {b: "${b}"}
        """)
    run = execute(make_plan(graph, registry=toys.registry))
    assert [type(event).__name__ for event in run][-1] == "RunFinished"
    gc.collect()
    assert len(made) == 2
    assert [one() for one in made] == [None, None]
    assert run.provenance(graph.outputs["b"]) is not None


def test_values_in_memory_are_bounded_and_those_used_last_stay() -> None:
    """What goes beyond the limit is dropped, longest unused first: being made and being read both
    count as use. A value that is larger than the limit is kept alone.
    """
    cache = ValueCache(max_bytes=300)
    for digest in "abc":
        cache.add(digest, "x" * 100)
    cache.add("a", "x" * 100)
    assert cache["b"] == "x" * 100
    cache.add("d", "x" * 100)
    assert sorted(cache) == ["a", "b", "d"]
    cache.add("large", "x" * 1000)
    assert list(cache) == ["large"]
    cache.add("e", "x" * 100)
    cache.add("f", "x" * 100)
    assert (sorted(cache), cache.total_bytes) == (["e", "f"], 200)


def test_a_node_that_comes_out_the_same_stops_the_rerun(toys: Toys, store: Store) -> None:
    """Beyond a step that gives the bytes that it gave before, everything is cached."""
    graph = toys.graph("""
        inputs: {start: 1}
        nodes:
          p: {type: toy.parity, value: "${start}"}
          q: {type: toy.add, a: "${p}", b: 10}
        outputs: {q: "${q}"}
        """)
    carry_out(graph, store=store)
    toys.take()
    said = carry_out(graph, {"start": 3}, store=store)
    assert toys.take() == ["parity 3"]
    assert words(said) == [
        "started p",
        "finished p",
        "cached q",
        "output q",
        "done: 1 ran, 1 cached, 0 failed",
    ]


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (2**60, ["finished r", "output r"]),
        (
            2**60 + 1,
            [
                "failed r: its 'value' takes a number, not 1152921504606846977, which a"
                " float would round"
            ],
        ),
        (
            10**400,
            [
                "failed r: its 'value' takes a number, not a very large whole number, which a"
                " float would round"
            ],
        ),
    ],
)
def test_a_whole_number_on_an_edge_is_never_rounded(
    toys: Toys, number: int, outcome: list[str]
) -> None:
    """A port of floats takes the whole numbers that a float can be, and refuses the others."""

    @node("toy.real", version=1)
    def real(value: float) -> float:
        return value

    graph = toys.add(real).graph(
        'inputs: {n: {type: int}}\nnodes: {r: {type: toy.real, value: "${n}"}}\n'
        'outputs: {r: "${r}"}'
    )
    said = words(carry_out(graph, {"n": number}))
    assert [line for line in said if line.split()[0] in ("failed", "finished", "output")][
        : len(outcome)
    ] == outcome


def test_equal_steps_are_one_step(toys: Toys) -> None:
    """Two nodes, or two elements, that would compute the same do so once."""
    graph = toys.graph("""
        nodes:
          a: {type: toy.number, value: 2}
          b: {type: toy.number, value: 2}
          c: {type: toy.add, each: {a: [5, 5, "${a}", "${b}"]}}
          d: {type: toy.total, values: "${c}"}
        outputs: {d: "${d}"}
        """)
    said = carry_out(graph)
    assert toys.take() == ["number 2", "add 5 0", "add 2 0", "total [5, 5, 2, 2]"]
    assert given(said) == {"d": 14}


def test_what_no_output_needs_does_not_run(toys: Toys) -> None:
    """A node beside the way to the outputs is left alone."""
    carry_out(
        toys.graph(
            '{nodes: {a: {type: toy.number, value: 1}, b: {type: toy.broken}}, outputs: {a: "${a}"}}'
        )
    )
    assert toys.take() == ["number 1"]


def test_what_only_a_skipped_node_needs_does_not_run(toys: Toys, store: Store) -> None:
    """A `when` is decided first; where it is false the node's other inputs are not computed, now or
    in a later run.
    """
    graph = toys.graph("""
        inputs: {n: 3}
        nodes:
          dear: {type: toy.number, value: 7}
          flag: {type: toy.is_even, value: "${n}"}
          used: {type: toy.add, a: "${dear}", when: "${flag}"}
          end: {type: toy.either, a: "${used}", b: 5}
        outputs: {end: "${end}", used: "${used}"}
        """)
    said = carry_out(graph, store=store)
    assert toys.take() == ["is_even 3", "either None 5"]
    assert "absent used: its 'when' is false" in words(said)
    assert "no output used: its source is absent" in words(said)
    assert given(said) == {"end": 5}
    carry_out(graph, store=store)
    assert toys.take() == []
    assert given(carry_out(graph, {"n": 4}, store=store)) == {"end": 7, "used": 7}
    assert toys.take() == ["is_even 4", "number 7", "add 7 0", "either 7 5"]


def test_a_kept_value_that_nobody_needs_is_never_read(toys: Toys, store: Store) -> None:
    """With all steps below it cached, a picture's object may be gone and nothing notices."""
    graph = toys.graph(
        '{nodes: {p: {type: toy.picture, shade: 3}, b: {type: toy.brightness, image: "${p}"}}, outputs: {b: "${b}"}}'
    )
    carry_out(graph, store=store)
    store.flush()
    for path in objects(store):
        path.unlink()
    toys.take()
    said = carry_out(graph, store=store)
    assert toys.take() == []
    assert words(said) == ["cached p", "cached b", "output b", "done: 0 ran, 2 cached, 0 failed"]


def test_forced_nodes_run_though_the_store_has_them(toys: Toys, store: Store) -> None:
    """What comes after a forced node stays cached when it gives the same."""
    graph = toys.graph(CHAIN)
    carry_out(graph, store=store)
    toys.take()
    carry_out(graph, store=store, force=("b",))
    assert toys.take() == ["add 1 1"]


@pytest.mark.parametrize(
    "gate", ["value: 5", "value: 5, when: true", "each: {value: [5]}", "each: {value: [5, 6]}"]
)
def test_a_plan_that_has_grown_old_takes_what_the_store_has_since(
    toys: Toys, store: Store, gate: str
) -> None:
    """A step that a plan calls *runs* is not run when another run has made its value since then."""
    graph = toys.graph(f'{{nodes: {{n: {{type: toy.number, {gate}}}}}, outputs: {{n: "${{n}}"}}}}')
    plan = make_plan(graph, {}, store=store)
    carry_out(graph, store=store)
    toys.take()
    list(execute(plan))
    assert toys.take() == []


@pytest.mark.parametrize("forced", ["a", "b"])
def test_forcing_a_step_forces_those_that_equal_it(toys: Toys, store: Store, forced: str) -> None:
    """Two nodes of equal key have one value in a run, whichever of them is forced and though it
    comes out otherwise each time.
    """
    draws = iter(range(9))

    @node("toy.draw", version=1)
    def draw() -> int:
        return next(draws)

    graph = toys.add(draw).graph(
        '{nodes: {a: {type: toy.draw}, b: {type: toy.draw}, c: {type: toy.add, a: "${a}"}}, outputs: {a: "${a}", b: "${b}", c: "${c}"}}'
    )
    for value in range(3):
        planned = {
            step.name: step.status
            for step in make_plan(graph, {}, store=store, force=(forced,)).steps
        }
        assert (planned["a"], planned["b"]) == ("runs", "runs")
        assert given(carry_out(graph, store=store, force=(forced,))) == {
            "a": value,
            "b": value,
            "c": value,
        }


def test_forcing_a_graph_forces_what_is_in_it(toys: Toys, store: Store, tmp_path: Path) -> None:
    """The name of a node whose type is a graph stands for all nodes below it."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {n: {type: int}}, nodes: {x: {type: toy.add, a: "${n}"}}, outputs: {x: "${x}"}}'
    )
    graph = toys.graph(
        '{nodes: {in: {type: ./inner.yaml, n: 4}}, outputs: {x: "${in}"}}', tmp_path / "g.yaml"
    )
    carry_out(graph, store=store)
    toys.take()
    for name, ran in [("in", ["add 4 0"]), ("in/x", ["add 4 0"]), ("x", ["add 4 0"])]:
        carry_out(graph, store=store, force=(name,))
        assert toys.take() == ran


def test_without_cache_a_node_runs_each_time_and_those_below_only_if_it_differs(
    store: Store, toys: Toys
) -> None:
    """`cache: false` is neither looked up nor kept; steps below go by the value it gave this time."""
    gives = iter([1, 1, 2])

    @node("toy.clock", version=1)
    def clock() -> int:
        return next(gives)

    graph = toys.add(clock).graph(
        '{nodes: {t: {type: toy.clock, cache: false}, a: {type: toy.add, a: "${t}"}}, outputs: {a: "${a}"}}'
    )
    ran = []
    for _ in range(3):
        carry_out(graph, store=store)
        ran.append(toys.take())
    assert ran == [["add 1 0"], [], ["add 2 0"]]


def test_two_processes_compute_each_step_once(tmp_path: Path) -> None:
    """A second process that wants what is in the making waits for it, and takes it from the store."""
    program = """
        import sys, time
        from pathlib import Path
        from imagen_flow import node
        from imagen_flow._text import spec
        from imagen_flow._types.codec import Codecs
        from imagen_flow._graph import resolve
        from imagen_flow._plan import make_plan
        from imagen_flow._plugins.registry import Registry
        from imagen_flow._run import execute
        from imagen_flow._store import Store

        folder = Path(sys.argv[1])

        @node("toy.step", version=1)
        def step(n: int, before: int = 0) -> int:
            with open(folder / "ran", "a") as out:
                out.write(f"{n}\\n")
            return n + before

        registry = Registry({})
        registry.add(step, source_digest="1")
        nodes = {f"n{i}": {"type": "toy.step", "n": i, **({"before": f"${{n{i - 1}}}"} if i else {})} for i in range(30)}
        graph = resolve(spec.parse_mapping({"imagen_flow": 1, "nodes": nodes, "outputs": {"end": "${n29}"}}), registry)
        (folder / f"ready{sys.argv[2]}").touch()
        while not (folder / f"ready{1 - int(sys.argv[2])}").exists():
            pass
        with Store.open(folder / "store", Codecs()) as store:
            print(*[e.value for e in execute(make_plan(graph, store=store)) if hasattr(e, "value")])
        """
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(i)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    assert [run.communicate()[0].strip() for run in runs] == ["435", "435"]
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(30))


def test_a_step_that_another_makes_meanwhile_is_taken(toys: Toys, tmp_path: Path) -> None:
    """Whoever had to wait for it asks the store again, also if it was asked just before."""
    graph = toys.graph("""
        nodes:
          u: {type: toy.number, value: 7, cache: false}
          b: {type: toy.add, a: "${u}", b: 1}
        outputs: {b: "${b}"}
        """)
    run = execute(make_plan(graph))
    assert given(list(run)) == {"b": 8}
    key = run.key("b", "")
    assert key is not None
    toys.take()
    folder = tmp_path / "store"
    with Store.open(folder, Codecs()) as store, Store.open(folder, Codecs()) as other:
        assert other.lease(key)

        class Making(threading.Event):
            """While it is waited for, another run makes the step."""

            def wait(self, timeout: float | None = None) -> bool:
                if other.lookup(key) is None:
                    other.keep(key, {"value": (Codecs().artifact(8), 8)}, {})
                    other.release(key)
                    other.flush()
                return False

        said = carry_out(graph, store=store, cancel=Making())
        assert other.lease(key)  # it is nobody's when the run is over
    assert (given(said), toys.take()) == ({"b": 8}, ["number 7"])


def test_a_long_chain_and_a_wide_fan_run(toys: Toys) -> None:
    """Depth is no recursion: 3,000 nodes one after another, read by one at the end."""
    chain = "".join(
        f'  n{i}: {{type: toy.add, a: "${{n{i - 1}}}", b: 1}}\n' for i in range(1, 3000)
    )
    graph = toys.graph(
        f'nodes:\n  n0: {{type: toy.add, a: 0}}\n{chain}outputs: {{end: "${{n2999}}"}}\n'
    )
    assert given(carry_out(graph)) == {"end": 2999}


# -- damage ----------------------------------------------------------------------------------------


def objects(store: Store) -> list[Path]:
    return [p for p in (store.folder / "objects").rglob("*") if p.is_file()]


PICTURE = """
    inputs: {plus: 0}
    nodes:
      s: {type: toy.number, value: 3}
      p: {type: toy.picture, shade: "${s}"}
      b: {type: toy.brightness, image: "${p}", plus: "${plus}"}
    outputs: {b: "${b}"}
    """


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_bytes(
            path.read_bytes()[:5000] + bytes(99) + path.read_bytes()[5099:]
        ),
    ],
    ids=["missing", "changed"],
)
def test_a_damaged_value_is_made_again_within_the_run(
    toys: Toys, store: Store, harm: Callable[[Path], object]
) -> None:
    """A step that needs it brings back the step that made it, and says so; the rest stays cached."""
    graph = toys.graph(PICTURE)
    carry_out(graph, store=store)
    store.flush()
    for path in objects(store):
        harm(path)
    toys.take()
    said = carry_out(graph, {"plus": 1}, store=store)
    assert toys.take() == ["picture 3", "brightness"]
    assert words(said) == [
        "cached s",
        "cached p",
        "started b",
        "damaged p",
        "started p",
        "finished p",
        "finished b",
        "output b",
        "done: 2 ran, 1 cached, 0 failed",
    ]
    store.flush()
    carry_out(graph, {"plus": 2}, store=store)
    assert toys.take() == ["brightness"]


def test_what_a_damaged_value_was_made_of_is_made_again_too(toys: Toys, store: Store) -> None:
    """Where the values upstream are damaged as well, their steps run first."""

    @node("toy.invert", version=1)
    def invert(image: Image) -> Image:
        toys.ran.append("invert")
        return Image(255 - image.pixels)

    graph = toys.add(invert).graph("""
        inputs: {plus: 0}
        nodes:
          p: {type: toy.picture, shade: 3}
          i: {type: toy.invert, image: "${p}"}
          b: {type: toy.brightness, image: "${i}", plus: "${plus}"}
        outputs: {b: "${b}"}
        """)
    first = given(carry_out(graph, store=store))["b"]
    store.flush()
    for path in objects(store):
        path.unlink()
    toys.take()
    assert given(carry_out(graph, {"plus": 1}, store=store)) == {"b": first + 1}
    assert toys.take() == ["picture 3", "invert", "brightness"]


def test_a_damaged_output_is_made_again(toys: Toys, store: Store) -> None:
    """A cached output whose object is gone comes from its step, run again."""
    graph = toys.graph('{nodes: {p: {type: toy.picture, shade: 3}}, outputs: {p: "${p}"}}')
    before = given(carry_out(graph, store=store))["p"]
    store.flush()
    for path in objects(store):
        path.unlink()
    said = carry_out(graph, store=store)
    assert words(said) == [
        "cached p",
        "damaged p",
        "started p",
        "finished p",
        "output p",
        "done: 1 ran, 0 cached, 0 failed",
    ]
    assert (given(said)["p"].pixels == before.pixels).all()


def test_a_damaged_value_that_was_passed_on_is_made_again_by_who_made_it(
    toys: Toys, store: Store
) -> None:
    """Alone or in a list: a node that hands on what it was given cannot make it."""
    graph = toys.graph("""
        inputs: {plus: {type: int, default: 0}}
        nodes:
          p: {type: toy.picture, shade: 3}
          same: {type: toy.any, value: "${p}"}
          again: {type: toy.any, value: "${same}"}
          b: {type: toy.brightness, image: "${again}", plus: "${plus}"}
        outputs: {b: "${b}"}
        """)
    carry_out(graph, store=store)
    store.flush()
    for path in objects(store):
        path.unlink()
    toys.take()
    assert "output b" in words(carry_out(graph, {"plus": 1}, store=store))
    assert toys.take() == ["picture 3", "brightness"]


@pytest.mark.parametrize("how", ["written", "removed"])
def test_a_file_that_a_kept_list_names_may_change_during_the_run(
    toys: Toys, store: Store, tmp_path: Path, how: str
) -> None:
    """The list is made anew of what the folder holds by then, also where it was handed on."""

    @node("toy.files", version=1)
    def files(folder: Folder) -> List[File]:
        return list(folder.files)

    @node("toy.change", version=1)
    def change(number: int) -> int:
        if number and how == "written":
            (tmp_path / "in/1.txt").write_text("new")
        elif number:
            (tmp_path / "in/1.txt").unlink()
        return number

    (tmp_path / "in").mkdir()
    for i in (1, 2):
        (tmp_path / f"in/{i}.txt").write_text(f"old {i}")
    graph = toys.add(files, change, read_file).graph("""
        inputs: {folder: {type: folder}, number: {type: int, default: 0}}
        nodes:
          c: {type: toy.change, number: "${number}"}
          l: {type: toy.files, folder: "${folder}"}
          same: {type: toy.any, value: "${l}"}
          r: {type: toy.read, each: {file: "${l}"}}
          s: {type: toy.any, value: "${same}"}
        outputs: {c: "${c}", r: "${r}", s: "${s}"}
        """)
    carry_out(graph, {"folder": tmp_path / "in"}, store=store)
    gave = given(
        carry_out(graph, {"folder": tmp_path / "in", "number": 1}, store=store, force=("r",))
    )
    assert gave["r"] == (["new", "old 2"] if how == "written" else ["old 2"])
    assert [file.name for file in gave["s"]] == (
        ["1.txt", "2.txt"] if how == "written" else ["2.txt"]
    )


def test_a_file_that_changes_with_every_look_fails_what_reads_it(
    toys: Toys, tmp_path: Path
) -> None:
    """It is read anew some times, and not for ever."""

    @node("toy.restless", version=1)
    def restless(file: File) -> str:
        toys.ran.append("restless")
        if len(toys.ran) < 50:
            file.path.write_text(f"{len(toys.ran)} times")
        return file.read_text()

    (tmp_path / "x.txt").write_text("at first")
    said = carry_out(
        toys.add(restless).graph("""
            inputs: {file: {type: file}}
            nodes: {r: {type: toy.restless, file: "${file}"}}
            outputs: {r: "${r}"}
            """),
        {"file": tmp_path / "x.txt"},
    )
    assert len(toys.take()) == 6
    assert [
        event.message
        for event in said
        if isinstance(event, events.StepFailed) and "files keep changing" in event.message
    ]


def test_a_damaged_value_that_comes_out_otherwise_keys_anew_what_reads_it(
    store: Store, toys: Toys
) -> None:
    """A node that is not reproducible gives another value; what needs it is computed from the new
    one, outputs too.
    """
    shades = iter(range(0, 100, 7))

    @node("toy.noise", version=1)
    def noise() -> Image:
        return Image(
            np.full((200, 200, 3), next(shades), "uint8")
            + np.random.default_rng(0).integers(0, 99, (200, 200, 3), dtype="uint8")
        )

    @node("toy.copy", version=1)
    def copy(image: Image) -> Image:
        return Image(image.pixels + np.uint8(1))

    graph = toys.add(noise, copy).graph("""
        inputs: {plus: 0}
        nodes:
          n: {type: toy.noise}
          c: {type: toy.copy, image: "${n}"}
          b: {type: toy.brightness, image: "${c}", plus: "${plus}"}
        outputs: {b: "${b}", c: "${c}", n: "${n}"}
        """)
    carry_out(graph, store=store)
    store.flush()
    for path in objects(store):
        path.unlink()
    said = given(carry_out(graph, {"plus": 1}, store=store))
    assert said["b"] == int(said["c"].pixels.sum()) + 1
    assert (said["c"].pixels == said["n"].pixels + 1).all()


def test_a_lost_value_inside_a_text_is_made_again(toys: Toys, store: Store) -> None:
    """What is needed to key a step is brought back like what is needed to run one."""

    @node("toy.say", version=1)
    def say(words: str) -> str:
        return words

    graph = toys.add(say).graph("""
        inputs: {n: 3, words: have}
        nodes:
          p: {type: toy.parity, value: "${n}"}
          b: {type: toy.add, a: "${p}", b: 70}
          s: {type: toy.say, words: "${words} ${b}"}
        outputs: {s: "${s}"}
        """)
    carry_out(graph, store=store)
    store.flush()
    with closing(sqlite3.connect(store.folder / "index.sqlite")) as index:
        index.execute("DELETE FROM value WHERE body=?", (b"71",))
        index.commit()
    toys.take()
    assert given(carry_out(graph, {"n": 5, "words": "still have"}, store=store)) == {
        "s": "still have 71"
    }
    assert toys.take() == ["parity 5", "add 1 70"]


def test_a_lost_value_that_is_found_while_running_is_made_again_after_another(
    toys: Toys, store: Store
) -> None:
    """Each loss looks for the step that gave the value, also one that was found in the store only
    after an earlier loss.
    """
    graph = toys.graph("""
        nodes:
          n: {type: toy.add, a: 4, b: 5}
          u: {type: toy.number, value: 7, cache: false}
          b: {type: toy.add, a: "${u}", b: 1}
        outputs: {n: "${n}", b: "${b}"}
        """)
    carry_out(graph, store=store)
    store.flush()
    with closing(sqlite3.connect(store.folder / "index.sqlite")) as index:
        index.execute("DELETE FROM value")
        index.commit()
    toys.take()
    said = carry_out(graph, store=store)
    assert (given(said), toys.take()) == ({"n": 9, "b": 8}, ["add 4 5", "number 7", "add 7 1"])
    assert [w for w in words(said) if w.startswith("damaged")] == ["damaged n", "damaged b"]


def test_damage_inside_a_graph_that_is_a_node_is_mended(
    toys: Toys, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that come into and out of an included graph are made again as well, and their steps
    count once.
    """
    monkeypatch.setattr("imagen_flow._plan.state.STEPS", 2)
    shades = iter([3, 9])

    @node("toy.varying", version=1)
    def varying() -> Image:
        return Image(
            np.random.default_rng(next(shades)).integers(0, 255, (200, 200, 3), dtype="uint8")
        )

    (tmp_path / "make.yaml").write_text(
        '{imagen_flow: 1, nodes: {v: {type: toy.varying}}, outputs: {v: "${v}"}}'
    )
    (tmp_path / "measure.yaml").write_text("""
imagen_flow: 1
inputs: {plus: {type: int}}
nodes: {b: {type: toy.add, a: "${plus}"}}
outputs: {b: "${b}"}
""")
    graph = toys.add(varying).graph(
        """
        inputs: {plus: 0}
        nodes:
          m: {type: ./make.yaml}
          b: {type: toy.brightness, image: "${m}", plus: "${plus}"}
          e: {type: ./measure.yaml, plus: "${b}"}
        outputs: {e: "${e}"}
        """,
        tmp_path / "g.yaml",
    )
    first = given(carry_out(graph, store=store))["e"]
    store.flush()
    for path in objects(store):
        path.unlink()
    second = given(carry_out(graph, {"plus": 1}, store=store))["e"]
    assert (
        second
        == int(np.random.default_rng(9).integers(0, 255, (200, 200, 3), dtype="uint8").sum()) + 1
        != first + 1
    )


# -- failures --------------------------------------------------------------------------------------

FAILING = """
    nodes:
      bad: {type: toy.broken, value: 3}
      after: {type: toy.add, a: "${bad}"}
      last: {type: toy.add, a: "${after}"}
      good: {type: toy.number, value: 1}
    outputs: {last: "${last}", good: "${good}"}
    """


def test_what_does_not_depend_on_a_failure_goes_on(toys: Toys) -> None:
    """The failing step stops what needs it and nothing else; the cause is chained, node and place
    are named.
    """
    said = carry_out(toys.graph(FAILING))
    assert words(said) == [
        "started bad",
        "failed bad: it does not like 3",
        "skipped after: the source of its 'a' failed",
        "skipped last: the source of its 'a' failed",
        "no output last: its source failed",
        "started good",
        "finished good",
        "output good",
        "failed: 1 ran, 0 cached, 1 failed",
    ]
    error = next(e.error for e in said if isinstance(e, events.StepFailed))
    assert isinstance(error, NodeError)
    assert isinstance(error.__cause__, ValueError)
    assert (
        str(error)
        == "graph.yaml:4:3: error[node-failed]: bad: it does not like 3\n4 |   bad: {type: toy.broken, value: 3}\n  |   ^^^"
    )


def test_fail_fast_stops_at_the_first_failure(toys: Toys) -> None:
    """Nothing else is begun."""
    assert words(carry_out(toys.graph(FAILING), fail_fast=True)) == [
        "started bad",
        "failed bad: it does not like 3",
        "failed: 0 ran, 0 cached, 1 failed",
    ]


def test_a_failure_is_not_kept(toys: Toys, store: Store) -> None:
    """The next run tries again."""
    for _ in range(2):
        carry_out(toys.graph(FAILING), store=store)
    assert toys.take() == ["broken 3", "number 1", "broken 3"]


def test_one_failing_element_leaves_the_others(toys: Toys, store: Store) -> None:
    """In an `each` the elements beside a failed one are computed and kept; whoever needs the whole
    list is skipped.
    """

    @node("toy.odd", version=1)
    def odd(value: int) -> int:
        toys.ran.append(f"odd {value}")
        if value % 2 == 0:
            raise ValueError("it is even")
        return value

    graph = toys.add(odd).graph("""
        nodes:
          o: {type: toy.odd, each: {value: [1, 2, 3]}}
          t: {type: toy.total, values: "${o}"}
        outputs: {o: "${o}", t: "${t}"}
        """)
    said = carry_out(graph, store=store)
    assert given(said) == {"o": [1, None, 3]}
    assert [w for w in words(said) if "started" not in w and "finished" not in w] == [
        "failed o[1]: it is even",
        "output o",
        "skipped t: the source of its 'values' failed",
        "no output t: its source failed",
        "failed: 2 ran, 0 cached, 1 failed",
    ]
    toys.take()
    carry_out(graph, store=store)
    assert toys.take() == ["odd 2"]


def test_lists_of_unequal_length_fail_their_node_alone(toys: Toys, store: Store) -> None:
    """Whether the lists come from this run or from the store, the rest goes on."""
    graph = toys.graph("""
        nodes:
          two: {type: toy.count, to: 2}
          three: {type: toy.count, to: 3}
          sum: {type: toy.add, each: {a: "${two}", b: "${three}"}}
          total: {type: toy.total, values: "${sum}"}
          good: {type: toy.number, value: 1}
        outputs: {total: "${total}", good: "${good}"}
        """)
    for cached in (0, 3):
        said = carry_out(graph, store=store)
        assert [
            w
            for w in words(said)
            if w.split()[0] in ("failed", "skipped", "output", "no", "failed:")
        ] == [
            "failed sum: the lists of 'each' differ in length: 'a' has 2, 'b' has 3",
            "skipped total: the source of its 'values' failed",
            "no output total: its source failed",
            "output good",
            f"failed: {3 - cached} ran, {cached} cached, 1 failed",
        ]


@pytest.mark.parametrize(
    ("node_", "why"),
    [
        ('{type: toy.add, each: {a: "${x}"}}', "it takes a list for 'a' of 'each', not int"),
        ('{type: toy.add, a: 1, when: "${x}"}', "it takes true or false for 'when', not int"),
        ('{type: toy.add, a: "${t}"}', "its 'a' takes a whole number, not the text 'word'"),
    ],
)
def test_what_an_output_of_any_kind_gives_is_checked_when_it_flows(
    toys: Toys, node_: str, why: str
) -> None:
    """A value that does not fit fails the node that cannot use it."""
    graph = toys.graph(f"""
        nodes:
          x: {{type: toy.any, value: 3}}
          t: {{type: toy.any, value: word}}
          n: {node_}
        outputs: {{n: "${{n}}"}}
        """)
    assert f"failed n: {why}" in words(carry_out(graph))


def test_a_picture_inside_text_fails_the_node(toys: Toys) -> None:
    """What an output of any kind gives may turn out to be no text."""

    @node("toy.say", version=1)
    def say(words: str) -> str:
        return words

    graph = toys.add(say).graph("""
        nodes:
          p: {type: toy.picture, shade: 1}
          x: {type: toy.any, value: "${p}"}
          s: {type: toy.say, words: "a ${x}"}
        outputs: {s: "${s}"}
        """)
    assert "failed s: it takes only text, numbers and booleans inside text, not image" in words(
        carry_out(graph)
    )


def test_an_element_of_text_that_cannot_be_made_fails_alone(toys: Toys) -> None:
    """The other elements of the list that is written out are computed."""

    @node("toy.say", version=1)
    def say(words: str) -> str:
        return words

    graph = toys.add(say).graph("""
        nodes:
          p: {type: toy.picture, shade: 1}
          x: {type: toy.any, value: "${p}"}
          s: {type: toy.say, each: {words: ["a ${x}", b]}}
        outputs: {s: "${s}"}
        """)
    said = carry_out(graph)
    assert given(said) == {"s": [None, "b"]}
    assert [w for w in words(said) if w.startswith("failed s")] == [
        "failed s[0]: it takes only text, numbers and booleans inside text, not image"
    ]


@pytest.mark.parametrize("inner", ["${t}", "x ${t}"])
def test_text_for_a_graph_that_cannot_be_made_fails_what_reads_it(
    toys: Toys, tmp_path: Path, inner: str
) -> None:
    """Whether a node in the graph reads it or an output hands it on; with `each`, for its element
    alone.
    """

    @node("toy.say", version=1)
    def say(words: str) -> str:
        return words

    (tmp_path / "inner.yaml").write_text(
        f'{{imagen_flow: 1, inputs: {{t: z}}, nodes: {{n: {{type: toy.say, words: "{inner}"}}, m: {{type: toy.number, value: 1}}}}, outputs: {{o: "${{n}}", t: "${{t}}", m: "${{m}}"}}}}'
    )
    graph = toys.add(say).graph(
        """
        nodes:
          p: {type: toy.picture, shade: 1}
          x: {type: toy.any, value: "${p}"}
          g: {type: ./inner.yaml, t: "a ${x}"}
          e: {type: ./inner.yaml, each: {t: ["a ${x}", b]}}
        outputs: {o: "${g}", t: "${g.t}", eo: "${e}", et: "${e.t}", m: "${e.m}"}
        """,
        tmp_path / "g.yaml",
    )
    said = carry_out(graph)
    assert words(said)[-1].startswith("failed: ")
    assert given(said) == {"eo": [None, inner.replace("${t}", "b")], "et": [None, "b"], "m": [1, 1]}
    assert all(
        "it takes only text, numbers and booleans inside text, not image" in w
        for w in words(said)
        if w.startswith("failed ")
    )


def test_a_score_that_is_no_number_fails_its_node(toys: Toys, tmp_path: Path) -> None:
    """What an output of any kind gives may turn out to be none; the rest goes on."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {seed: {type: seed}, score: {type: text}}, nodes: {s: {type: toy.any, value: "${score}"}, p: {type: toy.any, value: "${seed}"}}, outputs: {p: "${p}", score: "${s}"}}'
    )
    graph = toys.graph(
        """
        nodes:
          best: {type: ./inner.yaml, seed: 7, score: high, repeat: {times: 2, keep: {best: score}}}
          each: {type: ./inner.yaml, each: {seed: [1, 2]}, score: high, repeat: {times: 2, keep: {best: score}}}
          good: {type: toy.number, value: 1}
        outputs: {best: "${best.p}", each: "${each.p}", good: "${good}"}
        """,
        tmp_path / "g.yaml",
    )
    said = carry_out(graph)
    assert given(said) == {"each": [None, None], "good": 1}
    why = "it takes a number to say which is best, not text"
    assert [w for w in words(said) if w.startswith("failed ")] == [
        f"failed best: {why}",
        f"failed each[0]: {why}",
        f"failed each[1]: {why}",
    ]


def test_a_range_is_checked_on_values_that_flow(toys: Toys, tmp_path: Path) -> None:
    """The bounds are shown; they hold for inputs of included graphs as for ports."""

    @node("toy.small", version=1)
    def small(n: Annotated[int, Range(1, 9)]) -> int:
        return n

    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {n: {type: int, max: 9}, m: {type: text, choices: [a, b], default: a}}, nodes: {x: {type: toy.add, a: "${n}"}, y: {type: toy.any, value: "${m}"}}, outputs: {x: "${x}", y: "${y}"}}'
    )
    graph = toys.add(small).graph(
        """
        nodes:
          ten: {type: toy.number, value: 10}
          s: {type: toy.small, n: "${ten}"}
          g: {type: ./inner.yaml, n: "${ten}"}
        outputs: {s: "${s}", g: "${g.x}"}
        """,
        tmp_path / "g.yaml",
    )
    said = words(carry_out(graph))
    assert "failed s: its 'n' takes a whole number from 1 to 9, not 10" in said
    assert "failed g: it gives a value to 'n', which takes a whole number up to 9, not 10" in said


def test_a_retry_tries_again_and_says_so(toys: Toys) -> None:
    """`times` counts the tries after the first; the wait doubles."""
    tries = iter([1, 2])

    @node("toy.flaky", version=1)
    def flaky() -> int:
        for number in tries:
            raise ValueError(f"try {number}")
        return 7

    graph = toys.add(flaky).graph(
        '{nodes: {f: {type: toy.flaky, retry: {times: 2, backoff_s: 0.001}}}, outputs: {f: "${f}"}}'
    )
    assert words(carry_out(graph)) == [
        "started f",
        "retried f: try 1",
        "retried f: try 2",
        "finished f",
        "output f",
        "done: 1 ran, 0 cached, 0 failed",
    ]


@pytest.mark.parametrize(
    ("backoff_s", "waited_s"), [(3, [3, 6, 12, 24]), (50_000, [50_000, 86_400, 86_400, 86_400])]
)
def test_the_wait_before_a_retry_doubles_up_to_a_day(
    toys: Toys, backoff_s: float, waited_s: list[float]
) -> None:
    """The wait begins at `backoff_s`, doubles with every try, and is never longer than a day."""
    waits: list[float | None] = []

    class Impatient(threading.Event):
        """Writes down how long it is waited for, and lets nobody wait."""

        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return self.is_set()

    graph = toys.graph(
        f"{{nodes: {{f: {{type: toy.broken, retry: {{times: 4, backoff_s: {backoff_s}}}}}}},"
        ' outputs: {f: "${f}"}}'
    )
    carry_out(graph, cancel=Impatient())
    assert waits == waited_s


def test_a_retry_gives_up(toys: Toys) -> None:
    """After the last try the step fails with the last error."""
    graph = toys.graph('{nodes: {f: {type: toy.broken, retry: 1}}, outputs: {f: "${f}"}}')
    assert words(carry_out(graph))[:3] == [
        "started f",
        "retried f: it does not like 0",
        "failed f: it does not like 0",
    ]


def test_a_timeout_acts_when_the_node_yields(toys: Toys) -> None:
    """The step fails with an error of its own that shows both times."""

    @node("toy.slow", version=1)
    def slow() -> Steps[int]:
        until = time.monotonic() + 0.02
        while True:
            yield Progress(0, 1)
            if time.monotonic() > until + 30:
                return 1

    @node("toy.late", version=1)
    def late() -> Steps[int]:
        yield Progress(0, 1)
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        return 1

    for name in ("slow", "late"):
        graph = toys.add(slow, late).graph(
            f'{{nodes: {{s: {{type: toy.{name}, timeout: 0.01}}}}, outputs: {{s: "${{s}}"}}}}'
        )
        assert "s, longer than its timeout of 0.01 s" in words(carry_out(graph))[1]


class Pair(NamedTuple):
    first: int
    second: int


def bad_nodes() -> dict[str, tuple[Any, str]]:
    @node("bad.kind", version=1)
    def kind() -> int:
        return "text"  # type: ignore[return-value]

    @node("bad.nothing", version=1)
    def nothing() -> int:
        return None  # type: ignore[return-value]

    @node("bad.length", version=1)
    def length() -> Pair:
        return (1, 2, 3)  # type: ignore[return-value]

    @node("bad.single", version=1)
    def single() -> Pair:
        return 5  # type: ignore[return-value]

    @node("bad.yield", version=1)
    def junk() -> Steps[int]:
        yield 5  # type: ignore[misc]
        return 1

    @node("bad.picture", version=1)
    def number() -> Image:
        return 3  # type: ignore[return-value]

    @node("bad.array", version=1)
    def array() -> Image:
        return np.zeros((2, 2, 3), "uint8")  # type: ignore[return-value]

    @node("bad.nan", version=1)
    def nan() -> float:
        return float("nan")

    @node("bad.range", version=1)
    def too_large() -> Annotated[int, Range(0, 9)]:
        return 10

    @node("bad.exit", version=1)
    def leave() -> int:
        sys.exit(3)

    @node("bad.object", version=1)
    def strange() -> Value:
        return object()

    @node("bad.json", version=1)
    def odd() -> Json:
        return {1: 2}

    @node("bad.clean", version=1)
    def clean() -> Steps[int]:
        try:
            yield Progress(0, 1)
            raise KeyError("x")
        finally:
            yield Progress(1, 1)

    @node("bad.file", version=1)
    def gone() -> File:
        return File(Path("/nowhere/x.png"), "", 0)

    return {
        "kind": (kind, "its output 'value' must be a whole number, not the text 'text'"),
        "picture": (number, "its output 'value' must be image, not 3"),
        "array": (
            array,
            "its output 'value' must be image, not numpy.ndarray\n  = fix: return Image(x)",
        ),
        "nothing": (nothing, "its output 'value' must be a whole number, not nothing"),
        "length": (length, "it returned tuple instead of its outputs first, second"),
        "single": (single, "it returned int instead of its outputs first, second"),
        "yield": (junk, "it yielded int, not Progress"),
        "nan": (nan, "its output 'value' must be a number, not nan"),
        "range": (too_large, "its output 'value' must be a whole number from 0 to 9, not 10"),
        "exit": (leave, "it called exit(3)"),
        "object": (strange, "TypeError: object is no value that can cross an edge"),
        "json": (
            odd,
            "its output 'value' must be JSON data, not a mapping (a key of JSON data is text, not int)",
        ),
        "clean": (clean, "KeyError: 'x'"),
        "file": (gone, "[Errno 2] No such file or directory: '/nowhere/x.png'"),
    }


@pytest.mark.parametrize("name", bad_nodes())
def test_a_node_that_breaks_its_word_fails_alone(toys: Toys, name: str) -> None:
    """Whatever a node gives, yields or raises instead of its outputs is its failure, said in words,
    and the run goes on.
    """
    function, why = bad_nodes()[name]
    port = ".first" if name in ("length", "single") else ""
    graph = toys.add(function).graph(
        f'{{nodes: {{n: {{type: bad.{name}}}, good: {{type: toy.number, value: 1}}}}, outputs: {{n: "${{n{port}}}", good: "${{good}}"}}}}'
    )
    said = words(carry_out(graph))
    assert f"failed n: {why}" in said
    assert said[-2:] == ["output good", "failed: 1 ran, 0 cached, 1 failed"]


def test_what_a_node_does_to_its_inputs_is_seen_by_no_other(toys: Toys) -> None:
    """Mappings and lists are handed over as copies."""

    @node("toy.spoil", version=1)
    def spoil(data: Json, words: List[str], mark: int) -> Json:
        data["n"].append(mark)
        words.append("x")
        return {"data": data, "words": words}

    graph = toys.add(spoil).graph("""
        nodes:
          a: {type: toy.spoil, data: {n: [1]}, words: [w], mark: 2}
          b: {type: toy.spoil, data: {n: [1]}, words: [w], mark: 3}
        outputs: {a: "${a}", b: "${b}"}
        """)
    assert given(carry_out(graph)) == {
        "a": {"data": {"n": [1, 2]}, "words": ["w", "x"]},
        "b": {"data": {"n": [1, 3]}, "words": ["w", "x"]},
    }


def test_the_keys_of_a_mapping_come_in_one_order(toys: Toys, tmp_path: Path) -> None:
    """In which order a node named them is in no digest, so no other node can go by it: computed or
    from the store, they are sorted.
    """

    @node("toy.mapping", version=1)
    def mapping() -> Json:
        return {"b": {"d": 1, "c": 2}, "a": 3}

    @node("toy.spell", version=1)
    def spell(data: Json) -> str:
        return str(data)

    graph = toys.add(mapping, spell).graph(
        '{nodes: {m: {type: toy.mapping}, s: {type: toy.spell, data: "${m}"}}, outputs: {m: "${m}", s: "${s}"}}'
    )
    with Store.open(tmp_path / "store", Codecs()) as store:
        for force in ((), ("s",), ("m", "s")):
            gave = given(carry_out(graph, store=store, force=force))
            assert {name: str(value) for name, value in gave.items()} == dict.fromkeys(
                "ms", "{'a': 3, 'b': {'c': 2, 'd': 1}}"
            )


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_plan_whose_store_was_closed_is_refused(
    toys: Toys, tmp_path: Path, is_cached: bool
) -> None:
    """It does not wait for claims that nobody can have any more."""
    graph = toys.graph('{nodes: {a: {type: toy.number, value: 1}}, outputs: {a: "${a}"}}')
    with Store.open(tmp_path / "store", Codecs()) as store:
        if is_cached:
            carry_out(graph, store=store)
        plan = make_plan(graph, store=store)
    with pytest.raises(StoreError, match="is closed"):
        list(execute(plan))
    with pytest.raises(StoreError, match="is closed"):
        make_plan(graph, store=store)


# -- cancelling, progress and whoever reads --------------------------------------------------------


def test_cancelling_stops_at_the_next_yield(toys: Toys, store: Store) -> None:
    """What was finished before is kept; the node's own clean-up runs; nothing is said after the
    end.
    """
    cancel, cleaned = threading.Event(), []

    @node("toy.endless", version=1)
    def endless(n: int) -> Steps[int]:
        try:
            while True:
                yield Progress(0, 1)
        finally:
            cleaned.append(n)

    graph = toys.add(endless).graph(
        '{nodes: {a: {type: toy.number, value: 1}, e: {type: toy.endless, n: "${a}"}}, outputs: {e: "${e}"}}'
    )
    said = []
    for event in execute(make_plan(graph, store=store), cancel=cancel):
        said.append(event)
        if isinstance(event, events.StepProgress):
            cancel.set()
    assert words(said) == [
        "started a",
        "finished a",
        "started e",
        "cancelled: 1 ran, 0 cached, 0 failed",
    ]
    assert cleaned == [1]
    assert make_plan(graph, store=store).counts == {"cached": 1, "runs": 1}


def test_cancelling_stops_between_the_elements_of_a_list(toys: Toys, store: Store) -> None:
    """What was finished before is kept."""
    cancel = threading.Event()

    @node("toy.last_wish", version=1)
    def last_wish(n: int) -> int:
        toys.ran.append(f"last_wish {n}")
        if n == 2:
            cancel.set()
        return n

    graph = toys.add(last_wish).graph(
        '{nodes: {e: {type: toy.last_wish, each: {n: [0, 1, 2, 3, 4]}}}, outputs: {e: "${e}"}}'
    )
    assert (
        words(list(execute(make_plan(graph, store=store), cancel=cancel)))[-1]
        == "cancelled: 3 ran, 0 cached, 0 failed"
    )
    assert toys.take() == ["last_wish 0", "last_wish 1", "last_wish 2"]
    assert make_plan(graph, store=store).counts == {"cached": 3, "runs": 2}


def test_closing_the_iterator_cancels_the_run(toys: Toys) -> None:
    """Whoever stops reading stops the run; the node is not left running."""
    cleaned = threading.Event()

    @node("toy.endless", version=1)
    def endless() -> Steps[int]:
        try:
            while True:
                yield Progress(0, 1)
        finally:
            cleaned.set()

    graph = toys.add(endless).graph('{nodes: {e: {type: toy.endless}}, outputs: {e: "${e}"}}')
    reading = execute(make_plan(graph))
    while not isinstance(next(reading), events.StepProgress):
        pass
    reading.close()  # type: ignore[attr-defined]
    assert cleaned.is_set()


def test_leaving_the_loop_cancels_the_run(toys: Toys) -> None:
    """A `for` over the events that is broken off stops the run, though nobody closes anything."""
    cleaned = threading.Event()

    @node("toy.endless", version=1)
    def endless() -> Steps[int]:
        try:
            while True:
                yield Progress(0, 1)
        finally:
            cleaned.set()

    graph = toys.add(endless).graph('{nodes: {e: {type: toy.endless}}, outputs: {e: "${e}"}}')
    for event in execute(make_plan(graph)):
        if isinstance(event, events.StepProgress):
            break
    assert cleaned.is_set()


def test_a_run_that_ends_leaves_the_users_event_alone(toys: Toys) -> None:
    """One event may be given to several runs, one after another."""
    cancel = threading.Event()
    for _ in range(2):
        assert (
            words(carry_out(toys.graph(CHAIN), cancel=cancel))[-1]
            == "done: 3 ran, 0 cached, 0 failed"
        )
    assert not cancel.is_set()


@pytest.mark.parametrize("is_broken", [True, False], ids=["with an exception", "broken off"])
def test_a_run_that_has_ended_leaves_the_users_event_alone(toys: Toys, is_broken: bool) -> None:
    """However it ends, and however soon its reader leaves: here before its thread is free again."""
    cancel, left = threading.Event(), threading.Event()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_qualname != "_RunThread.run":
            return None
        if event == "return":
            left.wait(10)
        return trace

    def stop() -> bool:
        if is_broken:
            raise RuntimeError("the line is gone")
        return False

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        run = execute(make_plan(toys.graph(CHAIN)), cancel=cancel, stop=stop)
        with pytest.raises(RuntimeError, match="gone") if is_broken else nullcontext():
            while not isinstance(next(run), events.RunFinished):
                pass
        run.close()
        assert not cancel.is_set()
    finally:
        threading.settrace(before)  # type: ignore[arg-type]  # None is allowed
        left.set()


def test_a_slow_reader_gets_every_result_and_the_latest_progress(toys: Toys) -> None:
    """The run does not wait for whoever reads: it is over before the second event is taken, and
    progress is coalesced.
    """
    over = threading.Event()

    @node("toy.long", version=1)
    def long() -> Steps[int]:
        for i in range(1000):
            yield Progress(i + 1, 1000)
        return 1

    @node("toy.last", version=1)
    def last(value: int) -> int:
        over.set()
        return value

    graph = toys.add(long, last).graph("""
        nodes:
          l: {type: toy.long}
          n: {type: toy.number, each: {value: [1, 2, 3]}}
          t: {type: toy.total, values: "${n}"}
          sum: {type: toy.add, a: "${l}", b: "${t}"}
          z: {type: toy.last, value: "${sum}"}
        outputs: {z: "${z}"}
        """)
    reading = execute(make_plan(graph))
    said = [next(reading)]
    assert over.wait(60)
    said += reading
    assert [(e.done, e.total) for e in said if isinstance(e, events.StepProgress)][-1] == (
        1000,
        1000,
    )
    assert sum(isinstance(e, events.StepProgress) for e in said) < 100
    assert sum(isinstance(e, events.StepFinished) for e in said) == 7
    assert given(said) == {"z": 7}


def test_progress_goes_on_however_reading_and_writing_meet(toys: Toys) -> None:
    """The last progress of a step is said, also when it comes just as an earlier one is read."""

    @node("toy.steps", version=1)
    def steps(n: int) -> Steps[int]:
        for i in range(200):
            yield Progress(i + 1, 200)
        return n

    graph = toys.add(steps).graph(
        '{nodes: {s: {type: toy.steps, each: {n: [1, 2, 3, 4, 5]}}}, outputs: {s: "${s}"}}'
    )
    last = {e.item: e.done for e in carry_out(graph) if isinstance(e, events.StepProgress)}
    assert last == {f"[{i}]": 200 for i in range(5)}


# -- files and scratch -----------------------------------------------------------------------------


@node("toy.read", version=1)
def read_file(file: File) -> str:
    return file.read_text()


def test_a_file_that_changes_during_the_run_is_keyed_anew(
    toys: Toys, store: Store, tmp_path: Path
) -> None:
    """The step runs on what the file holds when it is read, and is kept under that; each of several
    files may change once.
    """
    files = [tmp_path / f"{i}.txt" for i in range(8)]
    for path in files:
        path.write_text("old")
    graph = toys.add(read_file).graph(
        '{inputs: {files: {type: "list[file]"}}, nodes: {r: {type: toy.read, each: {file: "${files}"}}}, outputs: {r: "${r}"}}'
    )
    plan = make_plan(graph, {"files": files}, store=store)
    for path in files:
        path.write_text(f"new {path.name}")
    assert given(list(execute(plan))) == {"r": [f"new {i}.txt" for i in range(8)]}
    assert make_plan(graph, {"files": files}, store=store).counts == {"cached": 8}
    for path in files:
        path.write_text("old")
    assert make_plan(graph, {"files": files}, store=store).counts == {"runs": 8}


def test_a_file_that_changes_is_keyed_anew_inside_an_included_graph(
    toys: Toys, store: Store, tmp_path: Path
) -> None:
    """The new content is known to all nodes that read the file, in the graph and below, and to the
    provenance of what comes of it.
    """
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {f: {type: file}}, nodes: {r: {type: toy.read, file: "${f}"}}, outputs: {r: "${r}"}}'
    )
    (tmp_path / "a.txt").write_text("old")
    graph = toys.add(read_file).graph(
        '{inputs: {f: {type: file}}, nodes: {in: {type: ./inner.yaml, f: "${f}"}, r: {type: toy.read, file: "${f}"}}, outputs: {in: "${in}", r: "${r}"}}',
        tmp_path / "g.yaml",
    )
    plan = make_plan(graph, {"f": tmp_path / "a.txt"}, store=store)
    (tmp_path / "a.txt").write_text("new")
    before = plan.to_json()
    assert [given(list(execute(plan))) for _ in range(2)] == [{"in": "new", "r": "new"}] * 2
    assert plan.to_json() == before
    run = execute(make_plan(graph, {"f": tmp_path / "a.txt"}))
    (tmp_path / "a.txt").write_text("newer")
    assert given(list(run)) == {"in": "newer", "r": "newer"}
    (file,) = json.loads(run.provenance(graph.outputs["r"]) or "")["inputs"]["f"]["files"]
    assert file["digest"] == digest_bytes(b"newer")


def test_a_file_that_goes_during_the_run_fails_its_step(toys: Toys, tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "a.txt").write_text("x")
    graph = toys.add(read_file).graph(
        '{nodes: {r: {type: toy.read, file: a.txt}}, outputs: {r: "${r}"}}', tmp_path / "g.yaml"
    )
    plan = make_plan(graph)
    (tmp_path / "a.txt").unlink()
    assert words(list(execute(plan)))[1] == "failed r: a.txt is gone"


def test_a_file_of_a_listed_folder_that_changes_fails_with_words(
    toys: Toys, tmp_path: Path
) -> None:
    """The folder was listed with another content; the message says which file changed."""

    @node("toy.list", version=1)
    def listed(folder: Folder) -> List[File]:
        return list(folder)

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("old")

    @node("toy.touch", version=1)
    def touch(files: List[File]) -> List[File]:
        (tmp_path / "in/a.txt").write_text("changed")
        return files

    graph = toys.add(read_file, listed, touch).graph(
        """
        nodes:
          l: {type: toy.list, folder: in}
          t: {type: toy.touch, files: "${l}"}
          r: {type: toy.read, each: {file: "${t}"}}
        outputs: {r: "${r}"}
        """,
        tmp_path / "g.yaml",
    )
    assert any(
        w.startswith("failed ") and "a.txt has changed" in w for w in words(carry_out(graph))
    )


def test_scratch_is_kept_across_a_failure_and_removed_after(toys: Toys, store: Store) -> None:
    """A step that is tried again in another run finds what it left, and its folder is gone once the
    step is stored.
    """
    fail = [True]

    @node("toy.train", version=1)
    def train(folder: Scratch) -> str:
        with open(folder / "log", "a") as log:
            log.write("x")
        if fail:
            raise ValueError(f"failed {fail.pop()}")
        return (folder / "log").read_text()

    graph = toys.add(train).graph('{nodes: {t: {type: toy.train}}, outputs: {t: "${t}"}}')
    carry_out(graph, store=store)
    assert [p.name for p in (store.folder / "scratch").rglob("log")] == ["log"]
    assert given(carry_out(graph, store=store)) == {"t": "xx"}
    assert list((store.folder / "scratch").iterdir()) == []


def test_scratch_is_kept_across_a_killed_process(tmp_path: Path) -> None:
    """A process that is killed leaves its step's folder, and the next goes on from there."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from imagen_flow import Scratch, node
        from imagen_flow._text import spec
        from imagen_flow._types.codec import Codecs
        from imagen_flow._graph import resolve
        from imagen_flow._plan import make_plan
        from imagen_flow._plugins.registry import Registry
        from imagen_flow._run import execute
        from imagen_flow._store import Store

        @node("toy.train", version=1)
        def train(folder: Scratch) -> int:
            done = len(list(folder.iterdir()))
            (folder / str(done)).touch()
            if done < 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        registry = Registry({})
        registry.add(train, source_digest="1")
        graph = resolve(spec.parse_mapping({"imagen_flow": 1, "nodes": {"t": {"type": "toy.train"}}, "outputs": {"t": "${t}"}}), registry)
        with Store.open(Path(sys.argv[1]), Codecs()) as store:
            print(*[e.value for e in execute(make_plan(graph, store=store)) if hasattr(e, "value")])
        """
    said = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store")],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for _ in range(2)
    ]
    assert said == ["", "1\n"]
    assert list((tmp_path / "store/scratch").iterdir()) == []


# -- absence ---------------------------------------------------------------------------------------


def test_a_node_may_give_an_absent_output(toys: Toys, store: Store) -> None:
    """It is kept as absent, and flows as absence does: what requires it is absent, what can do
    without takes its default.
    """

    @node("toy.half", version=1)
    def half(n: int) -> Pair:
        return Pair(n, Absent.value)  # type: ignore[arg-type]

    graph = toys.add(half).graph("""
        nodes:
          h: {type: toy.half, n: 4}
          need: {type: toy.add, a: "${h.second}"}
          can: {type: toy.either, a: "${h.second}", b: "${h.first}"}
        outputs: {need: "${need}", can: "${can}", second: "${h.second}"}
        """)
    for last in ("done: 2 ran, 0 cached, 0 failed", "done: 0 ran, 2 cached, 0 failed"):
        said = carry_out(graph, store=store)
        assert given(said) == {"can": 4}
        assert "absent need: its 'a' is absent" in words(said)
        assert "no output second: its source is absent" in words(said)
        assert words(said)[-1] == last
        store.flush()


def test_absence_leaves_lists_and_stays_in_each(toys: Toys) -> None:
    """An absent element of an `each` is absent in the result; a list that goes into one port is
    without it.
    """
    graph = toys.graph("""
        nodes:
          flags: {type: toy.is_even, each: {value: [1, 2, 4]}}
          n: {type: toy.add, each: {a: [10, 20, 40]}, when: "${flags}"}
          m: {type: toy.add, each: {a: "${n}"}, b: 1}
          t: {type: toy.total, values: "${m}"}
        outputs: {m: "${m}", t: "${t}"}
        """)
    said = carry_out(graph)
    assert given(said) == {"m": [None, 21, 41], "t": 62}
    assert [w for w in words(said) if w.startswith("absent")] == [
        "absent n[0]: its 'when' is false",
        "absent m[0]: its 'a' is absent",
    ]


def test_absence_goes_through_included_graphs(toys: Toys, tmp_path: Path) -> None:
    """An absent value takes an input's default, else makes the whole graph absent; `when` on a
    graph makes its outputs absent, element by element too.
    """
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {a: {type: int}, b: 5}, nodes: {s: {type: toy.add, a: "${a}", b: "${b}"}}, outputs: {s: "${s}"}}'
    )
    graph = toys.graph(
        """
        inputs: {on: false}
        nodes:
          gone: {type: toy.number, value: 1, when: "${on}"}
          need: {type: ./inner.yaml, a: "${gone}"}
          can: {type: ./inner.yaml, a: 1, b: "${gone}"}
          off: {type: ./inner.yaml, a: 1, when: "${on}"}
          each: {type: ./inner.yaml, each: {a: [1, 2, 3]}, b: 0, when: [false, true, "${on}"]}
        outputs: {need: "${need}", can: "${can}", off: "${off}", each: "${each}"}
        """,
        tmp_path / "g.yaml",
    )
    said = carry_out(graph)
    assert given(said) == {"can": 6, "each": [None, 2, None]}
    assert [w for w in words(said) if w.startswith("no output")] == [
        "no output need: its source is absent",
        "no output off: its source is absent",
    ]


# -- graphs as nodes -------------------------------------------------------------------------------


def test_of_an_included_graph_only_what_is_asked_for_runs(toys: Toys, tmp_path: Path) -> None:
    """Outputs that nobody refers to are not computed."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, nodes: {a: {type: toy.number, value: 1}, b: {type: toy.broken}}, outputs: {b: "${b}", a: "${a}"}}'
    )
    graph = toys.graph(
        '{nodes: {in: {type: ./inner.yaml}, x: {type: toy.add, a: "${in.a}"}}, outputs: {x: "${x}"}}',
        tmp_path / "g.yaml",
    )
    assert given(carry_out(graph)) == {"x": 1}
    assert toys.take() == ["number 1", "add 1 0"]


def test_each_runs_a_graph_for_every_element(toys: Toys, tmp_path: Path) -> None:
    """Steps below are named by node and element; a list that is not known yet is awaited."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {a: {type: int}}, nodes: {s: {type: toy.add, a: "${a}", b: 1}, t: {type: toy.add, a: "${s}", b: 10}}, outputs: {t: "${t}"}}'
    )
    graph = toys.graph(
        """
        nodes:
          c: {type: toy.count, to: 3}
          g: {type: ./inner.yaml, each: {a: "${c}"}}
          total: {type: toy.total, values: "${g}"}
        outputs: {total: "${total}", g: "${g}"}
        """,
        tmp_path / "g.yaml",
    )
    said = carry_out(graph)
    assert given(said) == {"total": 36, "g": [11, 12, 13]}
    assert [w for w in words(said) if w.startswith("started g")] == [
        f"started g[{i}]/{n}" for i in range(3) for n in "st"
    ]


def test_a_graph_is_given_what_other_nodes_make(toys: Toys, store: Store, tmp_path: Path) -> None:
    """Through any depth; what is given to an input with a default that nothing asks for, or only a
    skipped node, is not made.
    """
    (tmp_path / "outer.yaml").write_text(
        '{imagen_flow: 1, inputs: {a: {type: int}, b: 0, c: 0}, nodes: {in: {type: ./inner.yaml, a: "${a}", b: "${b}", c: "${c}"}}, outputs: {s: "${in}", a: "${a}", b: "${b}"}}'
    )
    (tmp_path / "inner.yaml").write_text("""
imagen_flow: 1
inputs: {a: {type: int}, b: 0, c: 0}
nodes:
  even: {type: toy.is_even, value: "${a}"}
  s: {type: toy.add, a: "${a}", b: "${b}", when: "${even}"}
  t: {type: toy.either, a: "${s}", b: -5}
  u: {type: toy.add, a: "${c}"}
outputs: {t: "${t}", u: "${u}"}
""")
    text = """
        inputs: {n: 1}
        nodes:
          x: {type: toy.number, value: "${n}"}
          y: {type: toy.number, value: 20}
          z: {type: toy.broken}
          g: {type: ./outer.yaml, a: "${x}", b: "${y}", c: "${z}"}
          last: {type: toy.add, a: "${g}", b: "${g.a}"}
        outputs: {last: "${last}"}
        """
    graph = toys.graph(text, tmp_path / "g.yaml")
    assert given(carry_out(graph, store=store)) == {"last": -4}
    assert toys.take() == ["number 1", "is_even 1", "either None -5", "add -5 1"]
    assert given(carry_out(graph, {"n": 2}, store=store)) == {"last": 24}
    assert toys.take() == [
        "number 2",
        "is_even 2",
        "number 20",
        "add 2 20",
        "either 22 -5",
        "add 22 2",
    ]
    assert make_plan(graph, {"n": 2}, store=store).counts["cached"] == 6


def test_what_a_graph_requires_is_made_first(toys: Toys, store: Store, tmp_path: Path) -> None:
    """A required input is known before anything in the graph is, though only a skipped node reads
    it; one that failed stops what reads it alone.
    """
    (tmp_path / "inner.yaml").write_text("""
imagen_flow: 1
inputs: {a: {type: int}, b: {type: int}}
nodes:
  s: {type: toy.add, a: "${a}", b: "${b}", when: false}
  t: {type: toy.either, a: "${s}", b: -5}
outputs: {t: "${t}", s: "${s}"}
""")
    graph = toys.graph(
        '{nodes: {y: {type: toy.number, value: 20}, z: {type: toy.broken}, g: {type: ./inner.yaml, a: "${y}", b: "${z}"}}, outputs: {t: "${g.t}"}}',
        tmp_path / "g.yaml",
    )
    for first in (["number 20"], []):
        said = carry_out(graph, store=store)
        assert (given(said), words(said)[-1].split(":")[0]) == ({"t": -5}, "failed")
        assert [ran for ran in toys.take() if "either" not in ran] == [*first, "broken 0"]


def test_repeat_derives_seeds_and_keeps_the_best(toys: Toys, tmp_path: Path) -> None:
    """Each repetition has seeds of its own that always come out the same; the best is that with the
    highest score, the first among equals.
    """
    seeds: list[int] = []

    @node("toy.score", version=1)
    def score(seed: int) -> int:
        seeds.append(seed)
        return seed % 1000

    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {seed: {type: seed}}, nodes: {s: {type: toy.score, seed: "${seed}"}, p: {type: toy.any, value: "${seed}"}}, outputs: {p: "${p}", score: "${s}"}}'
    )
    graph = toys.add(score).graph(
        """
        nodes:
          all: {type: ./inner.yaml, seed: 7, repeat: 3}
          best: {type: ./inner.yaml, seed: 7, repeat: {times: 3, keep: {best: score}}}
        outputs: {all: "${all.p}", scores: "${all.score}", best: "${best.p}"}
        """,
        tmp_path / "g.yaml",
    )
    said = given(carry_out(graph))
    assert len(set(said["all"])) == 3
    assert said["scores"] == [seed % 1000 for seed in said["all"]]
    assert said["best"] == max(said["all"], key=lambda seed: seed % 1000)
    assert len(seeds) == 3


def test_a_node_found_below_while_running_is_said_to_be_cached(
    toys: Toys, store: Store, tmp_path: Path
) -> None:
    """Every step of an included graph is accounted for, also one that nobody had to wait for."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {a: {type: int}}, nodes: {s: {type: toy.add, a: "${a}", b: 1}, t: {type: toy.add, a: "${s}", b: 1}}, outputs: {t: "${t}"}}'
    )
    graph = toys.graph(
        '{inputs: {n: 2}, nodes: {p: {type: toy.parity, value: "${n}"}, g: {type: ./inner.yaml, a: "${p}"}}, outputs: {g: "${g}"}}',
        tmp_path / "g.yaml",
    )
    carry_out(graph, store=store)
    assert words(carry_out(graph, {"n": 4}, store=store)) == [
        "started p",
        "finished p",
        "cached g/s",
        "cached g/t",
        "output g",
        "done: 1 ran, 2 cached, 0 failed",
    ]


# -- outputs ---------------------------------------------------------------------------------------


def test_outputs_are_written_also_when_cached_and_left_alone_when_equal(
    toys: Toys, store: Store, tmp_path: Path
) -> None:
    """A file that holds the value is not touched, one that is gone is written again; nothing runs
    for that.
    """
    graph = toys.graph("""
        nodes: {p: {type: toy.picture, shade: 3}, n: {type: toy.number, value: 4}}
        outputs: {picture: {from: "${p}", path: "{graph}-{output}.png"}, n: {from: "${n}", path: n.json}}
        """)
    changed = []
    for _ in range(3):
        said = carry_out(graph, store=store, out=tmp_path / "out")
        changed.append(
            {
                e.output: (Path(e.path or "").name, e.changed)
                for e in said
                if isinstance(e, events.OutputWritten)
            }
        )
        (tmp_path / "out/n.json").unlink()
    assert changed == [
        {"picture": ("graph-picture.png", True), "n": ("n.json", True)},
        {"picture": ("graph-picture.png", False), "n": ("n.json", True)},
        {"picture": ("graph-picture.png", False), "n": ("n.json", True)},
    ]
    assert toys.take() == ["picture 3", "number 4"]


def test_a_list_is_written_one_file_an_element(toys: Toys, tmp_path: Path) -> None:
    """Absent elements are said to be; an empty list is an empty list."""
    graph = toys.graph("""
        inputs: {to: 3}
        nodes:
          c: {type: toy.count, to: "${to}"}
          e: {type: toy.is_even, each: {value: "${c}"}}
          n: {type: toy.add, each: {a: "${c}"}, when: "${e}"}
        outputs: {n: {from: "${n}", path: "{index}.txt"}}
        """)
    said = carry_out(graph, out=tmp_path / "out")
    assert given(said) == {"n[0]": 0, "n[2]": 2}
    assert "no output n[1]: its source is absent" in words(said)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".txt") == [
        "0.txt",
        "2.txt",
    ]
    assert given(carry_out(graph, {"to": 0}, out=tmp_path / "none")) == {"n": []}


def test_an_output_that_cannot_be_written_fails_alone(toys: Toys, tmp_path: Path) -> None:
    """The run says which, goes on, and ends as failed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.txt").write_text("mine")
    graph = toys.graph("""
        nodes: {n: {type: toy.number, value: 4}}
        outputs: {a: {from: "${n}", path: a.txt}, b: {from: "${n}", path: b.txt}}
        """)
    said = carry_out(graph, out=tmp_path / "out")
    assert [
        type(e).__name__ for e in said if isinstance(e, events.OutputWritten | events.OutputFailed)
    ] == ["OutputWritten", "OutputFailed"]
    assert words(said)[-1] == "failed: 1 ran, 0 cached, 1 failed"
    assert (tmp_path / "out/b.txt").read_text() == "mine"


def test_a_plan_can_be_carried_out_twice(toys: Toys) -> None:
    """The second time gives the same outputs, without a store too."""
    plan = make_plan(toys.graph(CHAIN))
    assert [given(list(execute(plan))) for _ in range(2)] == [{"c": 3}, {"c": 3}]


def test_many_equal_steps_cost_no_wait(toys: Toys, store: Store) -> None:
    """A step whose twin has just run takes its result before the twin is on the disk."""
    pairs = "".join(
        f"  a{i}: {{type: toy.number, value: {i}}}\n  b{i}: {{type: toy.number, value: {i}}}\n"
        for i in range(40)
    )
    ends = ", ".join(f'"${{a{i}}}", "${{b{i}}}"' for i in range(40))
    graph = toys.graph(
        f'nodes:\n{pairs}  t: {{type: toy.total, values: [{ends}]}}\noutputs: {{t: "${{t}}"}}\n'
    )
    plan = make_plan(graph, store=store)
    waited = []
    lease = store.lease
    store.lease = lambda key, **how: waited.append(how["wait_s"]) or lease(key, **how)  # type: ignore[assignment,func-returns-value]
    assert given(list(execute(plan))) == {"t": 2 * sum(range(40))}
    assert sum(waited) == 0


# -- only what must run runs -----------------------------------------------------------------------

# A graph by itself, apart from the engine: each node is (constant, the nodes it reads), and its
# value is their sum modulo 4, so that values often come out the same.
Drawn = dict[int, tuple[int, tuple[int, ...]]]


@st.composite
def drawings(draw: st.DrawFn) -> tuple[Drawn, ...]:
    """A graph, and what it becomes by some edits: another constant, another edge, a node more, a
    node less.
    """
    count = draw(st.integers(1, 6))
    drawn: Drawn = {
        i: (
            draw(st.integers(0, 5)),
            tuple(draw(st.lists(st.integers(0, i - 1), max_size=2)) if i else ()),
        )
        for i in range(count)
    }
    states = [drawn]
    for _ in range(draw(st.integers(1, 4))):
        drawn = dict(states[-1])
        at = draw(st.sampled_from(sorted(drawn)))
        match draw(st.sampled_from(["constant", "edges", "more", "less"])):
            case "constant":
                drawn[at] = (draw(st.integers(0, 5)), drawn[at][1])
            case "edges":
                drawn[at] = (
                    drawn[at][0],
                    tuple(
                        draw(st.lists(st.sampled_from([i for i in drawn if i < at]), max_size=2))
                        if any(i < at for i in drawn)
                        else ()
                    ),
                )
            case "more":
                drawn[max(drawn) + 1] = (draw(st.integers(0, 5)), (at,))
            case "less" if not any(at in reads for _, reads in drawn.values()) and len(drawn) > 1:
                del drawn[at]
        states.append(drawn)
    return tuple(states)


def ends(drawn: Drawn) -> list[int]:
    read = {i for _, reads in drawn.values() for i in reads}
    return [i for i in sorted(drawn) if i not in read]


def computed(drawn: Drawn) -> tuple[dict[int, int], dict[int, tuple[int, tuple[int, ...]]]]:
    """From scratch: each node's value, and what it computes from."""
    values: dict[int, int] = {}
    asked: dict[int, tuple[int, tuple[int, ...]]] = {}
    for i in sorted(drawn):
        constant, reads = drawn[i]
        asked[i] = (constant, tuple(values[r] for r in reads))
        values[i] = (constant + sum(asked[i][1])) % 4
    return values, asked


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given_(drawings(), st.integers(0, 3))
def test_only_what_must_run_runs(
    tmp_path_factory: pytest.TempPathFactory, states: tuple[Drawn, ...], named: int
) -> None:
    """After any edits and renamings the outputs are those of a run from scratch, and what ran are
    the steps that were never computed before, each once.
    """
    ran: list[tuple[int, tuple[int, ...]]] = []

    @node("toy.mix", version=1)
    def mix(constant: int, values: List[int]) -> int:
        ran.append((constant, tuple(values)))
        return (constant + sum(values)) % 4

    registry = Registry({})
    registry.add(mix)
    known: set[tuple[int, tuple[int, ...]]] = set()
    with Store.open(tmp_path_factory.mktemp("store"), Codecs()) as store:
        for turn, drawn in enumerate(states):
            name = f"n{turn if named else 0}_{{}}".format
            nodes = {
                name(i): {
                    "type": "toy.mix",
                    "constant": c,
                    "values": [f"${{{name(r)}}}" for r in reads],
                }
                for i, (c, reads) in sorted(drawn.items(), reverse=named > 1)
            }
            outputs = {f"o{i}": f"${{{name(i)}}}" for i in ends(drawn)}
            graph = resolve(
                spec.parse_mapping({"imagen_flow": 1, "nodes": nodes, "outputs": outputs}), registry
            )
            ran.clear()
            plan = make_plan(graph, store=store)
            said = given(list(execute(plan)))
            values, asked = computed(drawn)
            assert said == {f"o{i}": values[i] for i in ends(drawn)}
            assert sorted(ran) == sorted(set(asked.values()) - known)
            known |= set(asked.values())
            assert set(make_plan(graph, store=store).counts) == {"cached"}


class Named(loaders.Loader[Any]):
    """Loads a model as its name."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> str:
        return f"{model.path.name} on {device}"


def test_a_list_of_models_is_leased_one_by_one(tmp_path: Path) -> None:
    """A node that takes several models gets them loaded, in order; one that is not here leaves the
    step unresolved before anything runs.
    """
    from safetensors.numpy import save_file

    @node("toy.named", version=1)
    def named(models: List[Model[Named]]) -> str:  # type: ignore[valid-type]
        return ", ".join(models)

    for name in "ab":
        save_file({"w": np.full(1, ord(name), "float32")}, tmp_path / f"{name}.safetensors")
    registry = Registry({})
    registry.add(named)

    def planned(models: str) -> Any:
        text = f'imagen_flow: 1\nnodes:\n  n: {{type: toy.named, models: {models}}}\noutputs:\n  o: "${{n}}"\n'
        return make_plan(
            resolve(spec.parse(text, name="g.yaml", path=tmp_path / "g.yaml"), registry),
            registry=registry,
            device="cpu",
        )

    said = list(execute(planned("[./b.safetensors, ./a.safetensors]")))
    assert [e.value for e in said if isinstance(e, events.OutputWritten)] == [
        "b.safetensors on cpu, a.safetensors on cpu"
    ]
    plan = planned("[./b.safetensors, ./c.safetensors]")
    assert [step.status for step in plan.steps] == ["unresolved"]
    assert [problem.message for problem in plan.problems] == [
        "the model './c.safetensors' does not exist"
    ]


# -- threads, and models ahead -----------------------------------------------------------------------


def threads_of(toys: Toys) -> list[threading.Thread]:
    """Add a node that writes down which thread it runs in."""
    found: list[threading.Thread] = []

    @node("toy.where", version=1)
    def where(value: int) -> int:
        found.append(threading.current_thread())
        return value

    toys.add(where)
    return found


def test_runs_that_share_a_pool_compute_in_one_thread(toys: Toys) -> None:
    """One after another they find its OpenMP team and its caches; without a pool in common each has
    a thread of its own.
    """
    found = threads_of(toys)
    graph = toys.graph('{nodes: {n: {type: toy.where, value: 1}}, outputs: {n: "${n}"}}')
    with ModelPool() as pool:
        for _ in range(3):
            carry_out(graph, pool=pool)
    assert len(set(found)) == 1
    carry_out(graph)
    carry_out(graph)
    assert len(set(found)) == 3


def test_runs_beside_one_another_do_not_wait_for_a_lane(toys: Toys, store: Store) -> None:
    """Each of two runs of one pool needs the other to go on; a third wants the very step that one
    of them is making.
    """
    sides = threading.Barrier(2)

    @node("toy.meet", version=1)
    def meet(value: int) -> int:
        toys.ran.append(f"meet {value}")
        sides.wait(10)
        return value

    toys.add(meet)
    said: dict[str, list[Event]] = {}
    with ModelPool() as pool:

        def run(name: str, value: int) -> None:
            graph = toys.graph(
                f'{{nodes: {{n: {{type: toy.meet, value: {value}}}}}, outputs: {{n: "${{n}}"}}}}'
            )
            said[name] = carry_out(graph, store=store, pool=pool)

        first, same, other = (
            threading.Thread(target=run, args=at)
            for at in (("first", 1), ("same", 1), ("other", 2))
        )
        first.start()
        same.start()
        while "meet 1" not in toys.ran:
            time.sleep(0.001)
        other.start()
        for thread in (first, same, other):
            thread.join(20)
    assert {name: given(events_) for name, events_ in said.items()} == {
        "first": {"n": 1},
        "same": {"n": 1},
        "other": {"n": 2},
    }
    assert sorted(toys.take()) == ["meet 1", "meet 2"]


def test_a_run_that_is_left_behind_holds_up_no_other(toys: Toys) -> None:
    """A node that cannot be interrupted keeps its thread; the next run of the pool takes another."""
    began, release, cancel = threading.Event(), threading.Event(), threading.Event()
    found = threads_of(toys)

    @node("toy.stuck", version=1)
    def stuck() -> int:
        found.append(threading.current_thread())
        began.set()
        release.wait(30)
        return 1

    graph = toys.add(stuck).graph('{nodes: {n: {type: toy.stuck}}, outputs: {n: "${n}"}}')
    with ModelPool() as pool:
        run = execute(make_plan(graph), cancel=cancel, pool=pool)
        next(run)
        began.wait(10)
        cancel.set()
        at = time.monotonic()
        assert words(list(run))[-1] == "cancelled: 0 ran, 0 cached, 0 failed"
        assert time.monotonic() - at < 2
        assert given(
            carry_out(
                toys.graph('{nodes: {n: {type: toy.where, value: 1}}, outputs: {n: "${n}"}}'),
                pool=pool,
            )
        ) == {"n": 1}
        assert found[0] is not found[1] and found[0].is_alive()
        release.set()


def test_a_node_may_run_a_graph_with_the_same_pool(toys: Toys, store: Store) -> None:
    """The inner run computes beside the outer one, which waits for it in its own thread."""
    found = threads_of(toys)
    inner = toys.graph(
        '{inputs: {value: {type: int}}, nodes: {n: {type: toy.where, value: "${value}"}}, outputs: {n: "${n}"}}'
    )
    with ModelPool() as pool:

        @node("toy.nest", version=1)
        def nest(value: int) -> int:
            found.append(threading.current_thread())
            return int(given(carry_out(inner, {"value": value}, store=store, pool=pool))["n"]) + 1

        outer = toys.add(nest).graph(
            '{nodes: {a: {type: toy.nest, value: 1}, b: {type: toy.nest, value: "${a}"}}, outputs: {b: "${b}"}}'
        )
        assert given(carry_out(outer, store=store, pool=pool)) == {"b": 3}
    assert [found.index(thread) for thread in found] == [0, 1, 0, 1]


class Weighed(loaders.Loader):
    """Loads a model's name, and writes it down."""

    loaded: ClassVar[list[str]] = []

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> str:
        self.loaded.append(model.path.stem)
        return model.path.stem


@pytest.fixture
def weighed(toys: Toys, tmp_path: Path) -> Iterator[Callable[..., tuple[list[Event], list[str]]]]:
    """Carry out a graph with a pool that has room for two models of three, and say what was loaded."""
    from safetensors.numpy import save_file

    for name in "abc":
        save_file({"w": np.full(10_000, ord(name), "float32")}, tmp_path / f"{name}.safetensors")
    size = (tmp_path / "a.safetensors").stat().st_size

    @node("toy.use", version=1)
    def use(model: Model[Weighed], after: int = 0) -> int:  # type: ignore[valid-type]
        return after + 1

    toys.add(use)

    def carry(
        text: str, store: Store | None = None, **values: Any
    ) -> tuple[list[Event], list[str]]:
        with ModelPool(budget_bytes=2 * size + size // 2) as pool:
            said = list(
                execute(
                    make_plan(
                        toys.graph(text, tmp_path / "graph.yaml"), values, store=store, device="cpu"
                    ),
                    pool=pool,
                )
            )
        loaded = list(Weighed.loaded)
        Weighed.loaded.clear()
        return said, loaded

    yield carry
    Weighed.loaded.clear()


def test_the_model_that_is_needed_last_makes_room(weighed: Any) -> None:
    """What the plan still needs stays, though it was used longest ago."""
    _, loaded = weighed(
        """
        nodes:
          one: {type: toy.use, model: ./a.safetensors}
          two: {type: toy.use, model: ./b.safetensors, after: "${one}"}
          three: {type: toy.use, model: ./c.safetensors, after: "${two}"}
          four: {type: toy.use, model: ./a.safetensors, after: "${three}"}
        outputs: {four: "${four}"}
        """
    )
    assert loaded == ["a", "b", "c"]


def test_models_ahead_are_in_the_order_in_which_they_are_needed(weighed: Any) -> None:
    """Of two that are needed again, the one that is needed later makes room, whatever comes first
    in the file or was used last.
    """
    _, loaded = weighed(
        """
        nodes:
          z2: {type: toy.use, model: ./b.safetensors, after: "${z1}"}
          a1: {type: toy.use, model: ./a.safetensors}
          a2: {type: toy.use, model: ./b.safetensors, after: "${a1}"}
          a3: {type: toy.use, model: ./c.safetensors, after: "${a2}"}
          z1: {type: toy.use, model: ./a.safetensors, after: "${a3}"}
        outputs: {z: "${z2}"}
        """
    )
    assert loaded == ["a", "b", "c", "b"]


def test_a_step_that_need_not_run_after_all_holds_no_model(store: Store, weighed: Any) -> None:
    """What comes out the same needs its model no longer, and another that is needed stays instead."""
    text = """
        inputs: {n: {type: int}}
        nodes:
          parity: {type: toy.parity, value: "${n}"}
          one: {type: toy.use, model: ./a.safetensors, after: "${n}"}
          two: {type: toy.use, model: ./b.safetensors, after: "${one}"}
          three: {type: toy.use, model: ./c.safetensors, after: "${two}"}
          same: {type: toy.use, model: ./a.safetensors, after: "${parity}"}
          four: {type: toy.use, model: ./b.safetensors, after: "${three}"}
        outputs: {two: "${two}", same: "${same}", four: "${four}"}
        """
    weighed(text, store, n=1)
    said, loaded = weighed(text, store, n=11)
    assert "cached same" in words(said)
    assert loaded == ["a", "b", "c"]


def test_models_of_graphs_that_become_known_while_running_are_planned_ahead(
    tmp_path: Path, weighed: Any
) -> None:
    """The elements of a list that a node gave run a graph each: from then on, the models of all of
    them are known.
    """
    (tmp_path / "inner.yaml").write_text(
        textwrap.dedent("""
        imagen_flow: 1
        inputs: {n: {type: int}}
        nodes:
          x: {type: toy.use, model: ./a.safetensors, after: "${n}"}
          y: {type: toy.use, model: ./b.safetensors, after: "${x}"}
          z: {type: toy.use, model: ./c.safetensors, after: "${y}"}
        outputs: {z: "${z}"}
        """)
    )
    said, loaded = weighed("""
        nodes:
          two: {type: toy.use, model: ./c.safetensors, after: 1}
          list: {type: toy.count, to: "${two}"}
          each: {type: ./inner.yaml, each: {n: "${list}"}}
        outputs: {each: "${each}"}
        """)
    assert given(said) == {"each": [3, 4]}
    assert loaded == ["c", "a", "b", "a", "c"]


# -- without a store -------------------------------------------------------------------------------


def test_files_that_a_run_without_a_store_gives_are_there_until_the_program_ends() -> None:
    """Files, folders and models that outputs give outlive their run, alone and in lists; nothing is
    left of a run that gives none, nor after the program.
    """
    code = """
import os, sys, tempfile
from pathlib import Path
import imagen_flow as flow
from imagen_flow import File, Folder, List, Scratch, node
from imagen_flow._graph import resolve
from imagen_flow._plugins.registry import Registry

@node("toy.write", version=1)
def write(words: List[str], folder: Scratch) -> List[File]:
    files = []
    for word in words:
        (folder / word).write_text(word)
        files.append(File(folder / word, "", 0))
    return files

@node("toy.number", version=1)
def number(value: int) -> int:
    return value

registry = Registry({})
registry.add(write)
registry.add(number)

def left():
    return [p.name for p in Path(tempfile.gettempdir()).glob("imagen-flow-*")]

flow.run(flow.load({"imagen_flow": 1, "nodes": {"n": {"type": "toy.number", "value": 1}}, "outputs": {"n": "${n}"}}, registry=registry), store=None)
assert left() == [], left()
graph = flow.load({"imagen_flow": 1, "nodes": {"n": {"type": "toy.write", "words": ["a", "b"]}}, "outputs": {"n": "${n}"}}, registry=registry)
files = flow.run(graph, store=None)["n"]
assert [file.read_text() for file in files] == ["a", "b"]
assert len(left()) == 1
print(*left())
"""
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "TMPDIR": folder},
        )
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.startswith("imagen-flow-")
        assert os.listdir(folder) == []
