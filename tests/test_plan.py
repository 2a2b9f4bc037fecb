"""A plan keys every step, asks the store, and says why the rest must run; nothing runs for it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_flow import File, Folder, GraphError, List, Model, Number, Value, loaders, node
from imagen_flow._graph import Graph, resolve
from imagen_flow._plan import KEY_FORMAT, Plan, from_text, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.ports import BadValue, parse_type
from imagen_flow.events import StepFailed


class Pair(NamedTuple):
    first: int
    second: int


class Loader(loaders.Loader[Any]):
    def load(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> object: ...


@node("t.number", version=1)
def number(value: int = 0) -> int:
    return value


@node("t.add", version=1)
def add(a: int, b: int = 0) -> int:
    return a + b


@node("t.real", version=1)
def real(a: float, b: Number = 2) -> float:
    return a + b


@node("t.parity", version=1)
def parity(value: int) -> int:
    return value % 2


@node("t.even", version=1)
def even(value: int) -> bool:
    return value % 2 == 0


@node("t.say", version=1)
def say(words: str) -> str:
    return words


@node("t.total", version=1)
def total(values: List[float]) -> float:
    return sum(values)


@node("t.count", version=1)
def count(to: int) -> List[int]:
    return list(range(to))


@node("t.read", version=1)
def read(file: File) -> str:
    return file.read_text()


@node("t.names", version=1)
def names(folder: Folder) -> List[str]:
    return [f.name for f in folder]


@node("t.library", version=1, uses=("pillow",))
def library(n: int = 0) -> int:
    return n


@node("t.torch", version=1, uses=("torch",))
def torch_(n: int = 0) -> int:
    return n


@node("t.model", version=1)
def model(model: Model[Loader]) -> str:
    return str(model)


@node("t.any", version=1)
def any_(value: Value) -> Value:
    return value


NODES = (
    number,
    add,
    real,
    parity,
    even,
    say,
    total,
    count,
    read,
    names,
    library,
    torch_,
    model,
    any_,
)


def registry(*functions: Any, source: str = "s") -> Registry:
    made = Registry({})
    for function in functions or NODES:
        made.add(function, source_digest=source)
    made._versions["torch"] = "2.13.0"
    return made


def graph_of(text: str, path: Path | None = None, known: Registry | None = None) -> Graph:
    whole = (
        text.replace("{", "{imagen_flow: 1, ", 1)
        if text.startswith("{")
        else "imagen_flow: 1\n" + textwrap.dedent(text)
    )
    return resolve(spec.parse(whole, name="graph.yaml", path=path), known or registry())


def plan_of(
    text: str,
    values: dict[str, Any] | None = None,
    *,
    path: Path | None = None,
    known: Registry | None = None,
    **options: Any,
) -> Plan:
    return make_plan(
        graph_of(text, path, known), values, device=options.pop("device", "cpu"), **options
    )


def keys(text: str, values: dict[str, Any] | None = None, **options: Any) -> dict[str, str]:
    return {s.name + s.item: s.key or "" for s in plan_of(text, values, **options).steps}


def alone(node_: str, **options: Any) -> str:
    """The key of a node that stands alone."""
    return keys(f'{{nodes: {{x: {node_}}}, outputs: {{x: "${{x}}"}}}}', **options)["x"]


def fates(plan: Plan) -> list[str]:
    return [
        f"{s.name}{s.item} {s.status}: {s.reason}" if s.reason else f"{s.name}{s.item} {s.status}"
        for s in plan.steps
    ]


def carry_out(plan: Plan) -> None:
    for _ in execute(plan):
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as opened:
        yield opened


# -- keys ------------------------------------------------------------------------------------------


def test_the_key_format_is_pinned() -> None:
    """These literals change only with KEY_FORMAT: every stored step is then computed anew."""
    assert KEY_FORMAT == 1
    assert [
        alone("{type: t.number, value: 7}"),
        alone("{type: t.say, words: 猫}"),
        alone("{type: t.real, a: 1, b: 2.5}"),
        alone("{type: t.total, values: [1, 2]}"),
        alone("{type: t.torch, n: 1}"),
    ] == PINNED


PINNED = [
    "87511acd4c77047f6c0b25244b32c85062a1eaf9",
    "6ae0b3ad2a32c469f09ad8ddb5719f400deb3710",
    "b616dae8924b8ec144955a499744d690e28e90f5",
    "3b3124c32c1048aa12d3832a34707c4120ae100a",
    "0b8d35d644d245865635be31a2f1d5835adb7fce",
]


def test_how_a_value_came_to_a_port_makes_no_difference() -> None:
    """A literal, an input, a default and a node that gives the same value have one key; an int is
    that float where a float is wanted.
    """
    assert (
        len(
            {
                alone("{type: t.real, a: 3.0, b: 2}"),
                alone("{type: t.real, a: 3}"),
                keys(
                    '{inputs: {i: 3}, nodes: {x: {type: t.real, a: "${i}"}}, outputs: {x: "${x}"}}'
                )["x"],
                keys(
                    '{inputs: {i: {type: int}}, nodes: {x: {type: t.real, a: "${i}"}}, outputs: {x: "${x}"}}',
                    {"i": 3},
                )["x"],
                keys(
                    '{inputs: {i: {type: float, default: 1}}, nodes: {x: {type: t.real, b: 2, a: "${i}"}}, outputs: {x: "${x}"}}',
                    {"i": 3},
                )["x"],
                keys('{nodes: {x: {type: t.real, each: {a: [3]}}}, outputs: {x: "${x}"}}')["x[0]"],
            }
        )
        == 1
    )
    assert (
        len(
            {
                alone("{type: t.total, values: [1, 2]}"),
                keys(
                    '{inputs: {i: [1, 2]}, nodes: {x: {type: t.total, values: "${i}"}}, outputs: {x: "${x}"}}'
                )["x"],
                keys(
                    '{inputs: {i: 1}, nodes: {x: {type: t.total, values: ["${i}", 2.0]}}, outputs: {x: "${x}"}}'
                )["x"],
            }
        )
        == 1
    )
    assert (
        alone('{type: t.say, words: "a 1"}')
        == keys(
            '{inputs: {i: 1}, nodes: {x: {type: t.say, words: "a ${i}"}}, outputs: {x: "${x}"}}'
        )["x"]
    )


def test_what_is_written_around_a_step_enters_no_key(store: Store) -> None:
    """Renaming, the order of keys, comments, outputs and their paths recompute nothing."""
    carry_out(
        plan_of(
            """
        nodes:
          a: {type: t.number, value: 2}
          b: {type: t.add, a: "${a}", b: 3}
        outputs: {b: "${b}"}
        """,
            store=store,
        )
    )
    again = plan_of(
        """
        outputs: {sum: {path: "x/{output}.txt", from: "${sum}"}, other: "${start}"}
        nodes:
          sum: {b: 3, a: "${start}", type: t.add, retry: 2, timeout: 9}   # a comment
          start: {value: 2, type: t.number}
        """,
        store=store,
    )
    assert fates(again) == ["start cached", "sum cached"]


def test_every_ingredient_changes_the_key() -> None:
    """Type, version, source, libraries and every port's value; device and dtype only of what uses
    torch.
    """

    @node("t.number", version=2)
    def newer(value: int = 0) -> int: ...

    @node("t.numeral", version=1)
    def other(value: int = 0) -> int: ...

    pillow, torch13 = registry(), registry()
    pillow._versions["pillow"] = "99"
    torch13._versions["torch"] = "3"
    base = alone("{type: t.number}")
    assert (
        len(
            {
                base,
                alone("{type: t.number, value: 1}"),
                alone("{type: t.number}", known=registry(newer)),
                alone("{type: t.numeral}", known=registry(other)),
                alone("{type: t.number}", known=registry(source="other")),
            }
        )
        == 5
    )
    assert alone("{type: t.library}") != alone("{type: t.library}", known=pillow)
    assert alone("{type: t.torch}") != alone("{type: t.torch}", known=torch13)
    assert base == alone("{type: t.number}", known=pillow)
    for changed in ({"dtype": "bfloat16"}, {}):
        place = "" if changed else ", settings: {dtype: bfloat16}"
        assert alone("{type: t.torch}") != alone(f"{{type: t.torch{place}}}", **changed)
        assert base == alone(f"{{type: t.number{place}}}", **changed)


def test_files_enter_keys_by_their_content(tmp_path: Path) -> None:
    """Their names, places and times say nothing."""
    for name, text in [("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y")]:
        (tmp_path / name).write_text(text)
    at = {"path": tmp_path / "g.yaml"}
    first = alone("{type: t.read, file: a.txt}", **at)
    os.utime(tmp_path / "a.txt", (1, 1))
    assert (
        first
        == alone("{type: t.read, file: ./a.txt}", **at)
        == alone("{type: t.read, file: b.txt}", **at)
    )
    given = keys(
        '{inputs: {f: {type: file}}, nodes: {x: {type: t.read, file: "${f}"}}, outputs: {x: "${x}"}}',
        {"f": tmp_path / "b.txt"},
    )
    assert given["x"] == first != alone("{type: t.read, file: c.txt}", **at)
    (tmp_path / "a.txt").write_text("z")
    assert first != alone("{type: t.read, file: a.txt}", **at)


def test_folders_enter_keys_by_names_and_content(tmp_path: Path) -> None:
    """Hidden files and the folder's own name say nothing."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("x")
    at = {"path": tmp_path / "g.yaml"}
    first = alone("{type: t.names, folder: in}", **at)
    (tmp_path / "in/.hidden").write_text("x")
    (tmp_path / "in").rename(tmp_path / "moved")
    assert first == alone("{type: t.names, folder: moved}", **at)
    (tmp_path / "moved/a.txt").rename(tmp_path / "moved/b.txt")
    assert first != alone("{type: t.names, folder: moved}", **at)


def test_a_model_enters_keys_by_its_files(tmp_path: Path) -> None:
    """Wherever they lie."""
    for name, number in [("a", 1), ("b", 1), ("c", 2)]:
        (tmp_path / name).mkdir()
        save_file({"x": np.full(3, number)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "model_index.json").write_text("{}")
    found = [
        alone(f"{{type: t.model, model: ./{name}}}", path=tmp_path / "g.yaml") for name in "abc"
    ]
    assert found[0] == found[1] != found[2]


# -- models of nodes that wait ---------------------------------------------------------------------


@node("t.several", version=1)
def several(model: Model[Loader], n: int = 0, parts: List[Model[Loader]] = ()) -> str:  # type: ignore[valid-type,assignment]
    return str(model)


INNER = 'imagen_flow: 1\ninputs: {n: {type: int}, which: embedded/nothing}\nnodes: {m: {type: t.several, model: "${which}", n: "${n}"}}\noutputs: {m: "${m}"}\n'
MISSING = "unresolved: 'hf:a/b@v1' is not on this machine"
MISSPELT = "no plugin provides a model 'embedded/nothing'"


@pytest.mark.parametrize(
    ("node_", "wrong"),
    [
        ('{type: t.several, model: "hf:a/b@v1", each: {n: "${list}"}}', [MISSING]),
        ('{type: t.several, model: embedded/nothing, each: {n: "${list}"}}', [MISSPELT]),
        ('{type: t.several, model: "${which}", each: {n: "${list}"}}', [MISSING]),
        (
            '{type: t.several, each: {model: ["hf:a/b@v1", embedded/nothing], n: "${list}"}}',
            [MISSING, MISSPELT],
        ),
        (
            '{type: t.several, model: "hf:a/b@v1", parts: [embedded/nothing], each: {n: "${list}"}}',
            [MISSING, MISSPELT],
        ),
        ('{type: ./inner.yaml, each: {n: "${list}"}}', [MISSPELT]),
        ('{type: ./inner.yaml, which: "hf:a/b@v1", each: {n: "${list}"}}', [MISSING]),
        ('{type: ./outer.yaml, each: {n: "${list}"}}', [MISSPELT]),
        ('{type: t.several, model: embedded/nothing, when: "${flag}"}', [MISSPELT]),
        ('{type: ./inner.yaml, which: "hf:a/b@v1", n: 1, when: "${flag}"}', ["warning " + MISSING]),
        ('{type: t.several, model: "hf:a/b@v1", n: 1, when: "${flag}"}', ["warning " + MISSING]),
    ],
)
def test_a_model_behind_a_list_or_flag_that_is_not_known_is_told_when_planning(
    tmp_path: Path, node_: str, wrong: list[str]
) -> None:
    """Wherever a node that waits names it, and with the command that fetches it; one that may prove
    unneeded is a warning, unless no plugin brings it.
    """
    (tmp_path / "inner.yaml").write_text(INNER)
    (tmp_path / "outer.yaml").write_text(
        'imagen_flow: 1\ninputs: {n: {type: int}}\nnodes: {o: {type: ./inner.yaml, n: "${n}"}}\noutputs: {o: "${o}"}\n'
    )
    known = registry(*NODES, several)
    text = 'inputs: {which: "hf:a/b@v1"}\nnodes:\n  size: {type: t.number, value: 2}\n  list: {type: t.count, to: "${size}"}\n  flag: {type: t.even, value: "${size}"}\n'
    graph = resolve(
        spec.parse(
            f'imagen_flow: 1\n{text}  n: {node_}\noutputs: {{o: "${{n}}"}}\n',
            name="g.yaml",
            path=tmp_path / "g.yaml",
        ),
        known,
        read=lambda path, name: spec.read(path, name=name),
    )
    plan = make_plan(graph, device="cpu")
    assert [
        ("warning " if p.severity == "warning" else "") + p.message
        for p in plan.problems
        if p.code != "unused-input"
    ] == wrong
    assert all(
        "imagen-flow models pull hf:a/b@v1" in p.fix
        for p in plan.problems
        if p.code == "unresolved-model"
    )
    assert [step.status for step in plan.steps if step.name == "n"] == ["waits"]


def test_a_model_that_is_missing_after_all_is_named_when_its_step_fails() -> None:
    """The failure says which model it is and how to get it."""
    known = registry(*NODES, several)
    text = 'nodes:\n  size: {type: t.number, value: 2}\n  flag: {type: t.even, value: "${size}"}\n  n: {type: t.several, model: "hf:a/b@v1", when: "${flag}"}\noutputs: {o: "${n}"}\n'
    (failed,) = [
        event for event in execute(plan_of(text, known=known)) if isinstance(event, StepFailed)
    ]
    assert failed.message == f"{MISSING}; run `imagen-flow models pull hf:a/b@v1`"


# -- what is known and what waits ------------------------------------------------------------------


def test_a_plan_walks_as_far_as_values_are_known(store: Store) -> None:
    """What is cached, what runs and why, and what waits for what comes out."""
    text = """
        inputs: {start: 1}
        nodes:
          a: {type: t.number, value: "${start}"}
          b: {type: t.parity, value: "${a}"}
          c: {type: t.add, a: "${b}", b: 5}
          d: {type: t.add, a: "${c}", b: "${b}"}
        outputs: {d: "${d}"}
        """
    assert fates(plan_of(text, store=store)) == [
        "a runs: it has not run before",
        "b waits: unless a comes out the same",
        "c waits: unless b comes out the same",
        "d waits: unless c and b come out the same",
    ]
    carry_out(plan_of(text, store=store))
    assert fates(plan_of(text, store=store)) == ["a cached", "b cached", "c cached", "d cached"]
    assert fates(plan_of(text, {"start": 2}, store=store))[:2] == [
        "a runs: 'value' changed",
        "b waits: unless a comes out the same",
    ]


def test_the_cause_of_a_run_is_said_in_words(store: Store, tmp_path: Path) -> None:
    """Each ingredient that changed is named."""
    text = '{inputs: {n: 1}, nodes: {x: {type: t.library, n: "${n}"}}, outputs: {x: "${x}"}}'
    before = registry()
    before._versions["pillow"] = "11.0"
    carry_out(plan_of(text, store=store, known=before))

    @node("t.library", version=2, uses=("pillow",))
    def newer(n: int = 0) -> int:
        return n

    after = registry()
    after._versions["pillow"] = "12.1"
    edited = registry(source="edited")
    edited._versions["pillow"] = "11.0"
    second = registry(newer)
    second._versions["pillow"] = "11.0"

    def why(**options: Any) -> str:
        return fates(plan_of(options.pop("text", text), store=store, **options))[0]

    assert why(known=before) == "x cached"
    assert why(known=before, force=("x",)) == "x runs: it is forced"
    assert why(known=after) == "x runs: pillow went from 11.0 to 12.1"
    assert why(known=edited) == "x runs: its plugin's source changed"
    assert why(known=second) == "x runs: t.library is now version 2"
    assert why(known=before, text=text.replace("n: 1", "n: 2")) == "x runs: 'n' changed"
    other = registry()
    other._versions["pillow"] = "11.0"
    assert (
        why(known=other, text='{nodes: {x: {type: t.number, value: 1}}, outputs: {x: "${x}"}}')
        == "x runs: its type was t.library, 'value' changed"
    )
    assert (
        why(
            known=before, text='{nodes: {x: {type: t.library, cache: false}}, outputs: {x: "${x}"}}'
        )
        == "x runs: it says cache: false"
    )
    assert (
        why(known=before, text='{nodes: {y: {type: t.library, n: 7}}, outputs: {y: "${y}"}}')
        == "y runs: it has not run before"
    )


def test_what_was_cleaned_up_is_said_to_be_gone(store: Store) -> None:
    """A step that is as it was in the last run, and was removed from the store since."""
    text = '{nodes: {x: {type: t.number}}, outputs: {x: "${x}"}}'
    carry_out(plan_of(text, store=store))
    store.gc(max_size=0)
    assert fates(plan_of(text, store=store)) == ["x runs: the store no longer holds it"]


def test_a_record_of_other_outputs_is_not_taken(store: Store) -> None:
    """A node type that was given other outputs, and no other version, runs again."""

    @node("t.number", version=1)
    def renamed(value: int = 0) -> Pair: ...

    text = '{nodes: {x: {type: t.number}}, outputs: {x: "${x%s}"}}'
    before, after = registry(number), registry(renamed)
    carry_out(plan_of(text % "", store=store, known=before))
    one, other = (
        plan_of(text % port, store=store, known=known)
        for port, known in (("", before), (".first", after))
    )
    assert (one.steps[0].key, one.steps[0].status) == (other.steps[0].key, "cached")
    assert other.steps[0].status == "runs"


def test_another_device_or_dtype_is_named_as_the_cause(store: Store) -> None:
    """A step that computes with torch runs again in another dtype, and the plan says that this is
    why.
    """
    text = '{nodes: {x: {type: t.torch}}, outputs: {x: "${x}"}}'
    carry_out(plan_of(text, store=store, dtype="float32"))
    assert fates(plan_of(text, store=store, dtype="float32")) == ["x cached"]
    assert fates(plan_of(text, store=store, dtype="bfloat16")) == [
        "x runs: the device or dtype changed"
    ]


def test_a_list_that_is_not_known_leaves_a_question(store: Store) -> None:
    """The plan has at least so many steps."""
    text = '{nodes: {c: {type: t.count, to: 2}, n: {type: t.number, each: {value: "${c}"}}, t: {type: t.total, values: "${n}"}}, outputs: {t: "${t}"}}'
    plan = plan_of(text, store=store)
    assert fates(plan) == [
        "c runs: it has not run before",
        "n[?] waits: after c",
        "t waits: unless n comes out the same",
    ]
    assert plan.at_least
    carry_out(plan)
    plan = plan_of(text, store=store)
    assert (fates(plan), plan.at_least) == (
        ["c cached", "n[0] cached", "n[1] cached", "t cached"],
        False,
    )


def test_a_condition_that_is_known_decides_in_the_plan(store: Store) -> None:
    """Where it is false the node is absent, and what only it needs is idle."""
    text = """
        inputs: {on: false}
        nodes:
          dear: {type: t.number, value: 3}
          x: {type: t.add, a: "${dear}", when: "${on}"}
          y: {type: t.add, a: "${x}"}
        outputs: {y: "${y}"}
        """
    assert fates(plan_of(text, store=store)) == [
        "dear idle: nothing that runs needs it",
        "x absent: its 'when' is false",
        "y absent: its 'a' is absent",
    ]
    assert fates(plan_of(text, {"on": True}, store=store)) == [
        "dear runs: it has not run before",
        "x waits: unless dear comes out the same",
        "y waits: unless x comes out the same",
    ]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_flag_that_the_store_has_lost_is_made_again(store: Store, stubborn: bool) -> None:
    """The step that gives it runs, also where the store cannot be rid of its record, and the plan
    is made in the end.
    """
    text = '{nodes: {f: {type: t.even, value: 2}, x: {type: t.number, when: "${f}"}}, outputs: {x: "${x}"}}'
    carry_out(plan_of(text, store=store))
    store.flush()
    with contextlib.closing(sqlite3.connect(store.folder / "index.sqlite")) as index:
        if stubborn:
            index.execute(
                "CREATE TRIGGER stubborn BEFORE DELETE ON step BEGIN SELECT RAISE(IGNORE); END"
            )
        index.execute("DELETE FROM value WHERE kind='bool'")
        index.commit()
    plan = plan_of(text, store=store)
    assert [(s.name, s.status) for s in plan.steps] == [("f", "runs"), ("x", "waits")]
    assert [e.value for e in execute(plan) if hasattr(e, "value")] == [0]


def test_planning_imports_no_torch_and_keeps_nothing(tmp_path: Path) -> None:
    """A plan of a node that uses torch, in a process of its own, leaves the store as it was."""
    program = f"""
        import sys
        from pathlib import Path
        from imagen_flow import node
        from imagen_flow._text import spec
        from imagen_flow._types.codec import Codecs
        from imagen_flow._graph import resolve
        from imagen_flow._plan import make_plan
        from imagen_flow._plugins.registry import Registry
        from imagen_flow._store import Store

        @node("t.torch", version=1, uses=("torch",))
        def torch_(n: int = 0) -> int: ...

        registry = Registry({{}})
        registry.add(torch_, source_digest="1")
        graph = resolve(spec.parse_mapping({{"imagen_flow": 1, "nodes": {{"t": {{"type": "t.torch"}}}}, "outputs": {{"t": "${{t}}"}}}}), registry)
        with Store.open(Path({str(tmp_path)!r}), Codecs()) as store:
            plan = make_plan(graph, store=store)
            kept = store.info()["steps"], store.info()["values"]
        print(plan.counts, kept, sorted({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
        """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    ).stdout
    assert said == "{'runs': 1} (0, 0) []\n"


def test_a_plan_is_plain_data_too(store: Store) -> None:
    """For --json and for whoever draws it."""
    plan = plan_of(
        '{inputs: {n: 4}, nodes: {x: {type: t.number, value: "${n}"}}, outputs: {x: "${x}"}}',
        store=store,
    )
    data = plan.to_json()
    assert data["steps"] == [
        {
            "node": "x",
            "item": "",
            "type": "t.number",
            "status": "runs",
            "reason": "it has not run before",
            "key": plan.steps[0].key,
        }
    ]
    assert (data["graph"], data["device"], data["inputs"], data["at_least"], data["problems"]) == (
        "graph.yaml",
        "cpu",
        {"n": 4},
        False,
        [],
    )


def test_files_are_plain_data_in_a_plan(store: Store, tmp_path: Path) -> None:
    """Alone and in lists, by path and digest."""
    (tmp_path / "a.txt").write_text("hello")
    plan = plan_of(
        """
        inputs: {one: {type: file}, all: {type: "list[file]"}, below: {type: folder}}
        nodes:
          x: {type: t.any, value: "${one}"}
          y: {type: t.any, value: "${all}"}
          z: {type: t.any, value: "${below}"}
        outputs: {x: "${x}", y: "${y}", z: "${z}"}
        """,
        {"one": tmp_path / "a.txt", "all": [tmp_path / "a.txt"], "below": tmp_path},
        store=store,
    )
    inputs = json.loads(json.dumps(plan.to_json()["inputs"]))
    file = {"kind": "file", "path": (tmp_path / "a.txt").as_posix()}
    assert inputs["one"] == {**file, "digest": digest_bytes(b"hello")}
    assert inputs["all"] == [inputs["one"]]
    assert (inputs["below"]["kind"], inputs["below"]["path"]) == ("folder", tmp_path.as_posix())


# -- inputs ----------------------------------------------------------------------------------------


def test_all_problems_of_values_are_said_at_once() -> None:
    """Missing, unknown and unfit ones."""
    with pytest.raises(GraphError) as refused:
        plan_of(
            """
            inputs: {a: {type: int, help: how many}, b: {type: text, choices: [calm, loud], default: calm}, c: 1.5}
            nodes: {x: {type: t.any, value: ["${a}", "${b}", "${c}"]}}
            outputs: {x: "${x}"}
            """,
            {"b": "lowd", "c": "x", "d": 1},
        )
    assert [(p.code, p.message, p.fix) for p in refused.value.problems] == [
        ("unknown-input", "the graph has no input 'd'", "its inputs are: a, b, c"),
        (
            "missing-input",
            "input 'a' (int) has no value",
            "pass --set a=…, or give it a default",
        ),
        (
            "bad-input",
            "input 'b' takes one of 'calm', 'loud', not the text 'lowd'",
            "did you mean 'loud'?",
        ),
        ("bad-input", "input 'c' takes a number, not the text 'x'", ""),
    ]


def test_all_files_that_are_missing_are_said_at_once(tmp_path: Path) -> None:
    """With the nearest name; a file named by a home that does not exist is one of them."""
    (tmp_path / "picture.txt").write_text("x")
    with pytest.raises(GraphError) as refused:
        plan_of(
            """
            nodes:
              a: {type: t.read, file: pictrue.txt}
              b: {type: t.read, file: ~nobody-here/x.txt}
              c: {type: t.names, folder: none}
              d: {type: t.names, folder: picture.txt}
              e: {type: t.read, each: {file: [picture.txt, gone.txt]}}
            outputs: {a: "${a}", b: "${b}", c: "${c}", d: "${d}", e: "${e}"}
            """,
            path=tmp_path / "g.yaml",
        )
    assert [(p.mark.line if p.mark else 0, p.code, p.message) for p in refused.value.problems] == [
        (4, "missing-file", "there is no file 'pictrue.txt'"),
        (5, "missing-file", "there is no file '~nobody-here/x.txt'"),
        (6, "missing-file", "there is no folder 'none'"),
        (7, "missing-file", "the folder 'picture.txt' cannot be read"),
        (8, "missing-file", "there is no file 'gone.txt'"),
    ]
    assert refused.value.problems[0].fix == "did you mean 'picture.txt'?"
    with pytest.raises(GraphError) as refused:
        plan_of(
            f'{{nodes: {{a: {{type: t.read, file: {"a" * 300}}}}}, outputs: {{a: "${{a}}"}}}}',
            path=tmp_path / "g.yaml",
        )
    assert [(p.message, p.why) for p in refused.value.problems] == [
        (f"the file '{'a' * 300}' cannot be read", "file name too long")
    ]


def test_lists_of_unequal_length_that_are_written_out_refuse_the_plan() -> None:
    """Nothing needs to run to know it."""
    with pytest.raises(GraphError) as refused:
        plan_of('{nodes: {x: {type: t.add, each: {a: [1, 2], b: [3]}}}, outputs: {x: "${x}"}}')
    assert "x: the lists of 'each' differ in length: 'a' has 2, 'b' has 1" in str(refused.value)


def test_a_random_seed_is_drawn_once_and_told() -> None:
    """Two plans differ; a given one is used as it is."""
    text = '{inputs: {s: {type: seed, default: random}}, nodes: {x: {type: t.number, value: "${s}"}}, outputs: {x: "${x}"}}'
    first, second, given = plan_of(text), plan_of(text), plan_of(text, {"s": 5})
    assert first.seeds["s"] != second.seeds["s"]
    assert (first.inputs, given.inputs, given.seeds) == ({"s": first.seeds["s"]}, {"s": 5}, {})
    assert plan_of(text, {"s": "random"}).seeds.keys() == {"s"}


@pytest.mark.parametrize(
    ("inputs", "nodes", "given", "home"),
    [
        ("m: ./w.safetensors", 'x: {type: t.model, model: "${m}"}', {}, "graphs"),
        ("m: ./w.safetensors", 'x: {type: t.model, model: "${m}"}', {"m": "./w.safetensors"}, "."),
        ("m: [./w.safetensors]", 'x: {type: t.models, models: "${m}"}', {}, "graphs"),
        ("m: ./w.safetensors", 'x: {type: t.models, models: ["${m}"]}', {}, "graphs"),
        (
            "m: ./w.safetensors",
            'x: {type: t.models, models: ["${m}"]}',
            {"m": "./w.safetensors"},
            ".",
        ),
        ("m: [./w.safetensors]", 'x: {type: t.model, each: {model: "${m}"}}', {}, "graphs"),
        (
            "m: [./w.safetensors]",
            'x: {type: t.model, each: {model: "${m}"}}',
            {"m": ["./w.safetensors"]},
            ".",
        ),
        (
            "m: ./w.safetensors",
            'x: {type: t.model, each: {model: ["${m}"]}}',
            {"m": "./w.safetensors"},
            ".",
        ),
        ("m: ./w.safetensors", 'x: {type: in/inner.yaml, m: "${m}"}', {}, "graphs"),
        (
            "m: ./w.safetensors",
            'x: {type: in/inner.yaml, m: "${m}"}',
            {"m": "./w.safetensors"},
            ".",
        ),
        ("n: 1", "x: {type: in/inner.yaml, m: ./w.safetensors}", {}, "graphs"),
        ("n: 1", "x: {type: in/inner.yaml}", {}, "graphs/in"),
        ("n: 1", "x: {type: in/inner.yaml, each: {m: [./w.safetensors]}}", {}, "graphs"),
    ],
)
def test_a_model_named_by_an_input_is_where_its_writer_means(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: str,
    nodes: str,
    given: dict[str, Any],
    home: str,
) -> None:
    """A relative path in a default or a literal starts from the graph's file in which it is
    written, one that is given from the working directory.
    """

    @node("t.models", version=1)
    def models_(models: List[Model[Loader]]) -> str:  # type: ignore[valid-type]
        return ""

    (tmp_path / "graphs" / "in").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    inner = tmp_path / "graphs" / "in" / "inner.yaml"
    inner.write_text(
        '{imagen_flow: 1, inputs: {m: ./w.safetensors}, nodes: {y: {type: t.model, model: "${m}"}}, outputs: {y: "${y}"}}'
    )
    nodes = nodes.replace("in/inner.yaml", "./in/inner.yaml")
    at = (tmp_path / ("work" if home == "." else home)) / "w.safetensors"
    save_file({"w": np.zeros(1, "float32")}, at)
    plan = plan_of(
        f'{{inputs: {{{inputs}}}, nodes: {{{nodes}}}, outputs: {{x: "${{x}}"}}}}',
        given,
        path=tmp_path / "graphs" / "g.yaml",
        known=registry(model, models_),
    )
    assert [m["fault"] for m in plan.models] == [None]
    assert {step.status for step in plan.steps} == {"runs"}


def test_a_model_that_is_not_here_is_a_problem_of_the_plan() -> None:
    """The plan shows it; the run refuses."""
    plan = plan_of(
        '{nodes: {x: {type: t.model, model: "hf:nobody/nothing@main"}, y: {type: t.number}}, outputs: {x: "${x}", y: "${y}"}}'
    )
    assert [f.partition(":")[0] for f in fates(plan)] == ["x unresolved", "y runs"]
    assert [p.code for p in plan.problems] == ["unresolved-model"]
    with pytest.raises(GraphError):
        execute(plan)


def test_a_device_that_is_not_here_is_a_problem() -> None:
    """Whether it is named for the run or for one node."""
    with pytest.raises(GraphError, match="bad-setting"):
        plan_of('{nodes: {y: {type: t.torch}}, outputs: {y: "${y}"}}', device="cuda:7")
    with pytest.raises(GraphError, match="bad-setting"):
        plan_of(
            '{nodes: {n: {type: t.number}, y: {type: t.torch, n: "${n}", device: "cuda:7"}}, outputs: {y: "${y}"}}'
        )


def test_lists_nested_too_deep_are_a_problem() -> None:
    """Not a traceback."""
    with pytest.raises(GraphError, match="lists nest deeper than 32"):
        plan_of(
            f'{{nodes: {{x: {{type: t.any, value: {"[" * 40}1{"]" * 40}}}}}, outputs: {{x: "${{x}}"}}}}'
        )


@pytest.mark.parametrize(
    ("spelling", "text", "value"),
    [
        ("int", "12", 12),
        ("int", "1.5", None),
        ("int", "one", None),
        ("float", "1e-3", 0.001),
        ("int", " 4 ", 4),
        ("int", "0x10", 16),
        ("int", "1_0", None),
        ("int", "１", None),
        ("int", "9" * 5000, None),
        ("float", "3", 3.0),
        ("float", "1_0", None),
        ("float", "nan", None),
        ("float", "1" + "0" * 400, None),
        ("bool", "true", True),
        ("bool", "True", True),
        ("bool", "yes", None),
        ("bool", "1", None),
        ("text", "1", "1"),
        ("text", "${x}", "${x}"),
        ("seed", "random", "random"),
        ("seed", "7", 7),
        ("file", "a b.png", "a b.png"),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[int]", "1,2", [1, 2]),
        ("list[int]", "3", [3]),
        ("list[text]", "a, b", ["a", "b"]),
        ("list[text]", "5", ["5"]),
        ("list[text]", '["a", "b, c"]', ["a", "b, c"]),
        ("list[text]", '[a, "b c"]', None),
        ("list[file]", "[a].png", ["[a].png"]),
        ("list[file]", "a.png", ["a.png"]),
    ],
)
def test_text_is_read_by_the_inputs_type(spelling: str, text: str, value: Any) -> None:
    """Never by its looks; numbers and truth values are spelt as in a graph."""
    type_ = parse_type(spelling)
    assert type_ is not None
    if value is None:
        with pytest.raises(BadValue):
            from_text(type_, text)
    else:
        assert repr(from_text(type_, text)) == repr(value)


def test_a_node_type_refuses_models_when_planning_that_do_not_work_together(tmp_path: Path) -> None:
    """Its function sees the models that it and the nodes before it name; what it refuses is a
    problem of the plan, said once, and the step does not run.
    """
    from imagen_flow import ModelError
    from imagen_flow._types.node import Upstream

    @node("toy.make", version=1)
    def make(model: Model[Loader]) -> str:
        raise AssertionError("nothing runs")

    @node("toy.read", version=1)
    def read(model: Model[Loader], text: str) -> str:
        raise AssertionError("nothing runs")

    seen: list[Upstream] = []

    @read.plan_check
    def agree(models: Any, upstream: Any) -> None:
        seen.append(upstream["text"])
        if upstream["text"].models["model"].digest != models["model"].digest:
            raise ModelError("these two do not agree")

    for name in "ab":
        save_file({"w": np.full(1, ord(name), "float32")}, tmp_path / f"{name}.safetensors")
    registry = Registry({})
    for function in (make, read):
        registry.add(function)

    def problems(model: str) -> list[str]:
        text = f'imagen_flow: 1\nnodes:\n  m: {{type: toy.make, model: ./a.safetensors}}\n  r: {{type: toy.read, model: {model}, text: "${{m}}"}}\noutputs:\n  o: "${{r}}"\n'
        plan = make_plan(
            resolve(spec.parse(text, name="g.yaml", path=tmp_path / "g.yaml"), registry),
            registry=registry,
            device="cpu",
        )
        return [problem.message for problem in plan.problems]

    assert problems("./a.safetensors") == []
    assert problems("./b.safetensors") == ["these two do not agree"]
    assert {upstream.type_name for upstream in seen} == {"toy.make"}
