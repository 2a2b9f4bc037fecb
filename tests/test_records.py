"""Records as ports: groups of fields that a graph writes as mappings, and groups of ports that node
types share.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

import imagen_flow as flow
from imagen_flow import File, Json, List, Model, Range, Seed, node, record
from imagen_flow._cli.nodes import nodes as nodes_command
from imagen_flow._graph import resolve
from imagen_flow._models import ModelPool
from imagen_flow._plan import Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow._types.codec import Codecs
from imagen_flow._watch.dependencies import paths_of
from imagen_flow.errors import GraphError
from imagen_flow.events import OutputWritten, StepFailed
from imagen_flow.loaders import Leased, Loader, Loading

LOADED: list[str] = []


class Letters(Loader[str]):
    """A loader of models whose name is all that there is to them."""

    takes_file = True

    def check(self, model: Model) -> None:
        if model.path.stem == "x":
            raise flow.ModelError("x is no letter that is taken")

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        LOADED.append(model.path.name)
        return model.path.stem.upper()


def save(path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.full(1, ord(path.stem), "float32")}, path)


class Kind(enum.Enum):
    SOFT = "soft"
    HARD = "hard"


@record
class Use:
    """A text and how much of it is used."""

    text: str
    weight: Annotated[float, Range(-10, 10)] = 1.0
    from_: float = 0.0
    mode: int | None = None


@record
class Wide:
    """A field of each sort."""

    file: File
    seed: Seed = 1
    kind: Kind = Kind.SOFT
    choice: Literal["a", "b"] = "a"
    data: Json = None
    many: List[int] = ()
    either: int | str = 0


@record
class Weighted:
    model: Annotated[str, Leased(Letters)]
    weight: float = 1.0


@record
class Needy:
    a: int
    b: int


class Tuning(TypedDict, total=False):
    """How finely it is done.

    Params:
        steps: how many.
    """

    steps: Annotated[int, Range(1, 10)]


class Tuned(Tuning, total=False):
    """And how.

    Params:
        title: what it is called.
    Raises: ValueError for a title that is none.
    """

    title: str


CALLS: list[str] = []


@node("r.uses", version=1, renamed={"weights": "uses: [{text: …, weight: …}]"})
def uses(uses: List[Use] = (), *, one: Use | None = None, needy: Needy | None = None) -> str:
    CALLS.append("uses")
    return " ".join(
        f"{u.text}*{u.weight}@{u.from_}:{u.mode}" for u in [*uses, *([one] if one else [])]
    )


@node("r.plain", version=1)
def plain(
    text: str,
    *,
    weight: Annotated[float, Range(-10, 10)] = 1.0,
    from_: float = 0.0,
    mode: int | None = None,
) -> str:
    CALLS.append("plain")
    return f"{text}*{weight}@{from_}:{mode}"


@node("r.one", version=1)
def one(use: Use) -> str:
    CALLS.append("one")
    return f"{use.text}*{use.weight}@{use.from_}:{use.mode}"


@node("r.wide", version=1)
def wide(wide: List[Wide]) -> Json:
    return [
        {
            "file": one.file.path.read_text("utf-8"),
            "named": "secret" in str(one.file.path),
            "seed": one.seed,
            "kind": one.kind.name,
            "choice": one.choice,
            "data": one.data,
            "many": list(one.many),
            "either": one.either,
        }
        for one in wide
    ]


@node("r.models", version=1)
def models(models: List[Weighted] = (), *, one: Weighted | None = None) -> str:
    return " ".join(f"{m.model}*{m.weight}" for m in [*models, *([one] if one else [])])


@node("r.tuned", version=1)
def tuned(text: str, **tuning: Unpack[Tuned]) -> Json:
    """Tell how.

    Params:
        text: what.
    """
    return {"text": text, **tuning}


@node("r.float", version=1)
def number(n: float) -> float:
    CALLS.append("float")
    return n


@node("r.maybe", version=1)
def maybe(n: float) -> float:
    return n if n > 0 else flow.Absent  # type: ignore[return-value]


@node("r.fails", version=1)
def fails(n: float) -> float:
    raise ValueError("it broke")


@node("r.texts", version=1)
def texts(n: int) -> List[str]:
    return [f"t{i}" for i in range(n)]


@node("r.maybes", version=1)
def maybes(n: float) -> str:
    return f"m{n}" if n > 0 else flow.Absent  # type: ignore[return-value]


ALL = (uses, plain, one, wide, models, tuned, number, maybe, fails, texts, maybes)


@pytest.fixture(scope="module")
def registry() -> Registry:
    made = Registry({})
    for function in ALL:
        made.add(function)
    return made


def graph_of(nodes: dict[str, Any], outputs: list[str], **more: Any) -> dict[str, Any]:
    return {
        "imagen_flow": 1,
        **more,
        "nodes": nodes,
        "outputs": {name: f"${{{name}}}" for name in outputs},
    }


def planned(
    registry: Registry, graph: dict[str, Any], folder: Path = Path(), **options: Any
) -> Plan:
    text = json.dumps(graph)
    read = spec.parse(text, name="g.yaml", path=folder / "g.yaml")
    return make_plan(resolve(read, registry), registry=registry, device="cpu", **options)


def ran(plan: Plan, **options: Any) -> dict[str, Any]:
    """Carry a plan out; give its outputs, None where one is absent."""
    events = list(execute(plan, **options))
    written = {e.output: e.value for e in events if isinstance(e, OutputWritten)}
    failed = {f"!{e.node}": e.message for e in events if isinstance(e, StepFailed)}
    return dict.fromkeys(plan.graph.outputs) | written | failed


# -- what is written, and what the node gets


@pytest.mark.parametrize(
    ("written", "result"),
    [
        ({"uses": [{"text": "x", "weight": 2}]}, "x*2.0@0.0:None"),
        ({"uses": ["x", {"text": "y", "from": 0.5}]}, "x*1.0@0.0:None y*1.0@0.5:None"),
        ({"uses": []}, ""),
        ({}, ""),
        ({"one": None}, ""),
        ({"one": {"text": "x", "mode": None}}, "x*1.0@0.0:None"),
        ({"one": "x"}, "x*1.0@0.0:None"),
        ({"one": "${t}"}, "hey*1.0@0.0:None"),
        ({"one": "a ${t}"}, "a hey*1.0@0.0:None"),
        ({"one": {"text": "a ${t} $$", "weight": "${n}"}}, "a hey $*0.5@0.0:None"),
        ({"uses": ["${t}", "b ${n}"]}, "hey*1.0@0.0:None b 0.5*1.0@0.0:None"),
        ({"uses": "${l}"}, "t0*1.0@0.0:None t1*1.0@0.0:None"),
        ({"one": {"text": "${l2}", "weight": "${w}", "mode": "${w}"}}, "x2*2.0@0.0:2"),
    ],
)
def test_a_record_is_a_mapping_of_literals_and_references(
    registry: Registry, written: dict[str, Any], result: str
) -> None:
    """A field that is left out has its default, whole numbers become floats, values stand inside
    text, a bare value is the first field, and a list becomes a record for each element.
    """
    graph = graph_of(
        {
            "n": {"type": "r.float", "n": 0.5},
            "l": {"type": "r.texts", "n": 2},
            "l2": {"type": "r.maybes", "n": 2},
            "u": {"type": "r.uses", **written},
        },
        ["u"],
        inputs={"t": "hey", "w": 2},
    )
    result = result.replace("x2", "m2.0")
    assert ran(planned(registry, graph)) == {"u": result}


def test_all_sorts_of_fields(registry: Registry, tmp_path: Path) -> None:
    """Files (whose names a node does not see), seeds, enums, choices, JSON, lists, unions."""
    (tmp_path / "secret.txt").write_text("inside")
    field = {
        "file": "./secret.txt",
        "seed": 7,
        "kind": "hard",
        "choice": "b",
        "data": {"x": ["${n}"]},
        "many": [1, "${i}"],
        "either": "s",
    }
    graph = graph_of(
        {
            "n": {"type": "r.float", "n": 0.5},
            "w": {"type": "r.wide", "wide": [field, "./secret.txt"]},
        },
        ["w"],
        inputs={"i": 3},
    )
    plain_one = {"choice": "a", "data": None, "either": 0, "file": "inside", "kind": "SOFT"}
    assert ran(planned(registry, graph, tmp_path)) == {
        "w": [
            {
                "file": "inside",
                "named": False,
                "seed": 7,
                "kind": "HARD",
                "choice": "b",
                "data": {"x": [0.5]},
                "many": [1, 3],
                "either": "s",
            },
            {**plain_one, "many": [], "named": False, "seed": 1},
        ]
    }


# -- keys


def key_of(registry: Registry, written: Any, port: str = "one") -> str:
    nodes = {"u": {"type": "r.uses", port: written}, "v": {"type": "r.one", "use": "${t}"}}
    key = planned(registry, graph_of(nodes, ["u", "v"], inputs={"t": "x"})).steps[0].key
    assert key is not None
    return key


def test_a_key_goes_by_the_fields_alone(registry: Registry) -> None:
    """However a record is written, equal fields are one key, and any other field is another."""
    same = [
        "x",
        {"text": "x"},
        {"text": "x", "weight": 1},
        {"from": 0, "mode": None, "weight": 1.0, "text": "x"},
        {"text": "${t}"},
        "${t}",
    ]
    other = ["y", {"text": "x", "weight": 2}, {"text": "x", "from": 1}, {"text": "x", "mode": 0}]
    assert len({key_of(registry, written) for written in same}) == 1
    assert len({key_of(registry, written) for written in [*same, *other, None]}) == 6
    lists = [["x", "y"], ["y", "x"], ["x"], [], [{"text": "x"}, {"text": "y", "weight": 1}]]
    assert len({key_of(registry, written, "uses") for written in lists}) == 4


def test_a_record_keeps_its_key(registry: Registry) -> None:
    """A golden literal: the key of a record is over its fields by name."""
    made = planned(registry, graph_of({"u": {"type": "r.one", "use": "x"}}, ["u"]))
    slot = (made.steps[0].slots or {})["use"]
    assert (slot.kind, slot.fields) == ("record", ("from", "mode", "text", "weight"))
    assert slot.digest == GOLDEN


GOLDEN = "d2726744641ec5b2facb722e0f65bef9baea91b2"

words = st.sampled_from(["x", "y z", "é"])
written_uses = st.fixed_dictionaries(
    {"text": words | st.just("${l}")},
    optional={
        "weight": st.sampled_from([0, 1, 2.5, "${n}"]),
        "from": st.sampled_from([0.5, "${n}", "${m}"]),
        "mode": st.sampled_from([None, 3, "${m2}"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(written_uses, min_size=1, max_size=3), st.sampled_from([0.0, 0.25]))
def test_a_record_is_what_its_fields_are_as_plain_ports(
    registry: Registry, uses: list[dict[str, Any]], n: float
) -> None:
    """A node that takes a record gives what a node with its fields as ports gives, and as many
    steps run.
    """

    def outcome(type_: str, ports: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        nodes: dict[str, Any] = {
            "n": {"type": "r.float", "n": n},
            "m": {"type": "r.maybe", "n": n},
            "l": {"type": "r.maybes", "n": n},
            "m2": {"type": "r.first", "n": n},
        }
        nodes |= {f"u{i}": {"type": type_, **ports(use)} for i, use in enumerate(uses)}
        names = [name for name in nodes if name.startswith("u")]
        CALLS.clear()
        found = ran(planned(registry, graph_of(nodes, names)))
        return found, sorted(call.replace("one", "plain") for call in CALLS)

    as_ports = outcome(
        "r.plain", lambda use: {("from_" if k == "from" else k): use[k] for k in use}
    )
    assert outcome("r.one", lambda use: {"use": use}) == as_ports


@node("r.first", version=1)
def first(n: float) -> int:
    return int(n * 8)


ALL += (first,)


# -- each


@pytest.mark.parametrize(
    ("each", "result"),
    [
        ({"one": [{"text": "x"}, "y"]}, ["x*1.0@0.0:None", "y*1.0@0.0:None"]),
        ({"one": "${l}"}, ["t0*1.0@0.0:None", "t1*1.0@0.0:None"]),
        ({"one": {"text": "${l}", "weight": 2}}, ["t0*2.0@0.0:None", "t1*2.0@0.0:None"]),
        ({"one": {"text": "x", "weight": [1, "${n}"]}}, ["x*1.0@0.0:None", "x*0.5@0.0:None"]),
        (
            {"uses": [[{"text": "x"}], ["y", "z"]]},
            ["x*1.0@0.0:None", "y*1.0@0.0:None z*1.0@0.0:None"],
        ),
        (
            {"uses": [{"text": "${l}", "mode": [1, 2]}, {"text": "w", "weight": "${n}"}]},
            ["t0*1.0@0.0:1 w*0.5@0.0:None", "t1*1.0@0.0:2 w*0.5@0.0:None"],
        ),
        ({"uses": "${ll}"}, ["a*1.0@0.0:None", ""]),
        (
            {"uses": [{"text": "${l}"}, "y", "${t}"]},
            [f"t{i}*1.0@0.0:None y*1.0@0.0:None m2.0*1.0@0.0:None" for i in (0, 1)],
        ),
    ],
)
def test_each_goes_through_records_and_through_lists_in_their_fields(
    registry: Registry, each: dict[str, Any], result: list[str]
) -> None:
    """A list of records is gone through record by record; a field that is given a list, element by
    element, while the others are the same for all.
    """
    nodes = {
        "n": {"type": "r.float", "n": 0.5},
        "l": {"type": "r.texts", "n": 2},
        "ll": {"type": "r.texts", "each": {"n": [1, 0]}},
        "t": {"type": "r.maybes", "n": 2},
        "u": {"type": "r.uses", "each": each},
    }
    result = [one.replace("a*", "t0*") for one in result]
    assert ran(planned(registry, graph_of(nodes, ["u"]))) == {"u": result}


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"many": "${ll}"}, ["t0*1.0:0", "*1.0:0"]),
        ({"many": [["a"], ["b", "c"]], "weight": [1, 2]}, ["a*1.0:0", "b,c*2.0:0"]),
        ({"many": ["a", "b"], "weight": [1, 2]}, ["a,b*1.0:0", "a,b*2.0:0"]),
        ({"many": "${l}", "either": [1, "x"]}, ["t0,t1*1.0:1", "t0,t1*1.0:x"]),
    ],
)
def test_each_goes_through_lists_of_what_a_field_takes(
    registry: Registry, fields: dict[str, Any], result: list[str]
) -> None:
    """A field that takes a list is given a list of lists to go through; a list is the same for all
    elements. A field of several types goes through a list if it takes none.
    """
    nodes = {
        "l": {"type": "r.texts", "n": 2},
        "ll": {"type": "r.texts", "each": {"n": [1, 0]}},
        "u": {"type": "r.grouped", "each": {"group": fields}},
    }
    assert ran(planned(registry, graph_of(nodes, ["u"]))) == {"u": result}


@record
class Group:
    many: List[str]
    weight: float = 1.0
    either: int | str = 0


@node("r.grouped", version=1)
def grouped(group: Group) -> str:
    return f"{','.join(group.many)}*{group.weight}:{group.either}"


ALL += (grouped,)


def test_a_list_in_brackets_is_told_to_stand_without_them(registry: Registry) -> None:
    """Going through it with `each` would not mend it."""
    nodes = {"l": {"type": "r.texts", "n": 2}, "u": {"type": "r.uses", "uses": ["${l}"]}}
    with pytest.raises(GraphError) as refused:
        planned(registry, graph_of(nodes, ["u"]))
    assert [p.fix for p in refused.value.problems] == [
        'to pass that list itself, write "${l}" without brackets'
    ]


def test_each_is_not_offered_where_it_is_used(registry: Registry) -> None:
    """A field that is given a list of lists would need to go through it twice."""
    nodes = {
        "ll": {"type": "r.texts", "each": {"n": [1, 0]}},
        "u": {"type": "r.uses", "each": {"uses": [{"text": "${ll}"}]}},
    }
    with pytest.raises(GraphError) as refused:
        planned(registry, graph_of(nodes, ["u"]))
    assert [(p.code, p.fix) for p in refused.value.problems] == [("list-into-single", "")]


def test_lists_in_fields_are_of_one_length(registry: Registry) -> None:
    """A difference fails the node, and the places of both lists are named."""
    nodes = {
        "l": {"type": "r.texts", "n": 2},
        "u": {"type": "r.uses", "each": {"uses": [{"text": "${l}", "weight": [1, 2, 3]}]}},
    }
    assert ran(planned(registry, graph_of(nodes, ["u"]))) == {
        "u": None,
        "!u": "the lists of 'each' differ in length: 'uses[0].text' has 2, 'uses[0].weight' has 3",
    }


# -- absent and failed


@pytest.mark.parametrize(
    ("written", "outcome"),
    [
        ({"uses": [{"text": "x", "weight": "${none}"}]}, "x*1.0@0.0:None"),
        ({"uses": ["x", {"text": "${nothing}"}]}, None),
        ({"uses": ["x", "${nothing}"]}, "x*1.0@0.0:None"),
        ({"one": "${nothing}"}, ""),
        ({"one": {"text": "${nothing}"}}, None),
        ({"one": {"text": "a ${nothing}"}}, None),
        ({"uses": [{"text": "x", "weight": "${broken}"}]}, "skipped"),
        ({"one": {"text": "${nothing}", "weight": "${broken}"}}, None),
    ],
)
def test_absent_and_failed_fields(
    registry: Registry, written: dict[str, Any], outcome: str | None
) -> None:
    """An absent field has its default; without one the node is absent, which goes before a failed
    field. An absent element of a list is left out, an absent record has the port's default.
    """
    nodes = {
        "none": {"type": "r.maybe", "n": 0},
        "nothing": {"type": "r.maybes", "n": 0},
        "broken": {"type": "r.fails", "n": 0},
        "u": {"type": "r.uses", **written},
    }
    plan = planned(registry, graph_of(nodes, ["u"]))
    found = ran(plan)
    found.pop("!broken", None)
    if outcome == "skipped":
        assert found.pop("!u", "the source of its 'uses[0].weight' failed")
        assert found.get("u") is None
    else:
        assert found == {"u": outcome}


def test_a_field_is_named_where_it_leaves_its_node_without_a_value(
    registry: Registry, tmp_path: Path
) -> None:
    """The plan says which field of which record it was."""
    nodes = {
        "nothing": {"type": "r.maybes", "n": 0},
        "u": {"type": "r.uses", "uses": ["x", {"text": "${nothing}"}]},
    }
    with Store.open(tmp_path, Codecs()) as store:
        ran(planned(registry, graph_of(nodes, ["u"]), store=store))
        again = planned(registry, graph_of(nodes, ["u"]), store=store)
    assert [s.reason for s in again.steps if s.name == "u"] == ["its 'uses[1].text' is absent"]


# -- models


def test_models_in_records_are_leased_and_given_back(registry: Registry, tmp_path: Path) -> None:
    """A node gets live objects in its records; the pool loads each once, and holds none after the
    run, also if the node fails.
    """
    for name in "ab":
        save(tmp_path / f"{name}.safetensors")
    graph = graph_of(
        {
            "m": {
                "type": "r.models",
                "models": [
                    {"model": "./a.safetensors", "weight": 0.5},
                    "./b.safetensors",
                    "./a.safetensors",
                ],
                "one": {"model": "${which}"},
            }
        },
        ["m"],
        inputs={"which": "./b.safetensors"},
    )
    pool = ModelPool()
    LOADED.clear()
    plan = planned(registry, graph, tmp_path)
    assert [problem.message for problem in plan.problems] == []
    assert len(plan.models) == 2
    assert ran(plan, pool=pool) == {"m": "A*0.5 B*1.0 A*1.0 B*1.0"}
    assert LOADED == ["a.safetensors", "b.safetensors"]


def test_a_model_that_is_not_here_is_a_problem_of_the_plan(
    registry: Registry, tmp_path: Path
) -> None:
    """Also where the step waits for another value, so that nothing runs before it is told."""
    nodes = {
        "n": {"type": "r.float", "n": 0.5},
        "m": {"type": "r.models", "one": {"model": "hf:a/b@main/c.safetensors", "weight": "${n}"}},
    }
    plan = planned(registry, graph_of(nodes, ["m"]), tmp_path)
    assert [p.code for p in plan.problems] == ["unresolved-model"]


def test_a_loader_refuses_a_model_in_a_record_that_is_not_known_yet(
    registry: Registry, tmp_path: Path
) -> None:
    """Its other fields come from nodes that have not run: the model is looked at all the same, here
    and where the elements of an `each` are not known.
    """
    save(tmp_path / "x.safetensors")
    nodes = {
        "n": {"type": "r.float", "n": 0.5},
        "m": {"type": "r.models", "models": [{"model": "./x.safetensors", "weight": "${n}"}]},
        "e": {
            "type": "r.models",
            "each": {"one": {"model": "./x.safetensors", "weight": "${w}"}},
        },
        "w": {"type": "r.float", "each": {"n": "${c}"}},
        "c": {"type": "r.counts", "n": 2},
    }
    for name in ("m", "e"):
        plan = planned(registry, graph_of(nodes, [name]), tmp_path)
        assert [p.message for p in plan.problems] == ["x is no letter that is taken"], name


@node("r.counts", version=1)
def counts(n: int) -> List[float]:
    return [float(i) for i in range(n)]


ALL += (counts,)


def test_a_node_type_checks_what_is_in_records_when_planning(
    registry: Registry, tmp_path: Path
) -> None:
    """Its function gets the models by the field's name, and what is known of each record."""

    @node("r.seeing", version=1)
    def seeing(models: List[Weighted], *, use: Use) -> str:
        return ""

    seen: list[Any] = []

    @seeing.plan_check
    def look(models: Any, upstream: Any, given: Any) -> None:
        seen.append(([m.reference for m in models["models.model"]], upstream["use.weight"], given))

    made = Registry({})
    made.add(seeing)
    made.add(number)
    save(tmp_path / "a.safetensors")
    nodes = {
        "n": {"type": "r.float", "n": 0.5},
        "s": {
            "type": "r.seeing",
            "models": [{"model": "./a.safetensors", "weight": 2}],
            "use": {"text": "x", "weight": "${n}"},
        },
    }
    planned(made, graph_of(nodes, ["s"]), tmp_path)
    models, upstream, known = seen[0]
    assert (models, upstream.type_name) == (["./a.safetensors"], "r.float")
    assert known["models"][0]["weight"] == 2.0
    assert known["models"][0]["model"].reference == "./a.safetensors"
    assert "use" not in known  # it waits for another node


# -- reasons


def test_a_plan_names_the_field_that_changed(registry: Registry, tmp_path: Path) -> None:
    """With the values before and now, where they are plain."""

    def reason(uses: Any) -> str:
        with Store.open(tmp_path, Codecs()) as store:
            plan = planned(
                registry, graph_of({"u": {"type": "r.uses", "uses": uses}}, ["u"]), store=store
            )
            found = plan.steps[-1].reason
            ran(plan)
        return found

    assert reason(["x", {"text": "y", "weight": 0.7}]) == "it has not run before"
    assert reason(["x", {"text": "y", "weight": 0.8}]) == "uses[1].weight: 0.7 → 0.8"
    assert reason(["z", {"text": "y", "weight": 0.9}]) == (
        'uses[0].text: "x" → "z", uses[1].weight: 0.8 → 0.9'
    )
    assert reason(["z"]) == "'uses' changed"


# -- groups of ports


def test_a_group_of_ports_is_shared(registry: Registry) -> None:
    """The fields of a TypedDict are ports, also those that it inherits; one that is left out is
    missing from the mapping; the help of the groups is that of the node.
    """
    assert {p.name: (str(p.type), p.required) for p in tuned.type.inputs.values()} == {
        "text": ("text", True),
        "steps": ("int from 1 to 10 or nothing", False),
        "title": ("text or nothing", False),
    }
    assert tuned.type.doc.splitlines() == [
        "Tell how.",
        "",
        "Params:",
        "    text: what.",
        "    title: what it is called.",
        "    steps: how many.",
        "Raises: ValueError for a title that is none.",
    ]
    graph = graph_of({"t": {"type": "r.tuned", "text": "x", "steps": 3}}, ["t"])
    assert ran(planned(registry, graph)) == {"t": {"text": "x", "steps": 3}}


# -- what cannot be declared


def test_what_cannot_be_declared_is_refused_in_words() -> None:
    """At the declaration, by name."""

    def refusal(declare: Callable[[], object]) -> str:
        with pytest.raises(TypeError) as refused:
            declare()
        return str(refused.value)

    def nested() -> object:
        @record
        class Outer:
            use: Use

        return Outer

    def bound() -> object:
        @record
        class Bound:
            scale: Annotated[float, Range(0, 1)] = 2.0

        return Bound

    def empty() -> object:
        @record
        class Empty: ...

        return Empty

    def given_back() -> object:
        @node("x.y", version=1)
        def y(n: int) -> List[Use]: ...

        return y

    def default() -> object:
        @node("x.y", version=1)
        def y(uses: List[Use] = ({"text": "x"},)) -> str: ...  # type: ignore[assignment]

        return y

    def either() -> object:
        @node("x.y", version=1)
        def y(use: Use | int) -> str: ...

        return y

    def renamed() -> object:
        @node("x.y", version=1, renamed={"a": "b"})
        def y(a: int) -> str: ...

        return y

    def anything() -> object:
        @node("x.y", version=1)
        def y(**more: int) -> str: ...

        return y

    assert [refusal(one) for one in (nested, bound, empty, given_back, default)] == [
        "Outer: field 'use': a record holds no records: let it have their fields",
        "Bound: field 'scale': takes a number from 0 to 1, not the number 2.0",
        "Empty: a record has at least one field",
        "x.y: return type: a record goes into a port and comes out of none; return its fields as"
        " outputs, by a NamedTuple",
        "x.y: parameter 'uses': the defaults of a record are those of its fields: write = (), or"
        " | None = None",
    ]
    assert [refusal(one) for one in (either, renamed, anything)] == [
        "x.y: parameter 'use': a union holds no records; a field of a record may be a union",
        "x.y: 'a' is listed as renamed, but is a port",
        "x.y: parameter 'more' has no fixed name, so it can be no port",
    ]


def test_what_no_record_or_group_can_be_is_refused_by_name() -> None:
    """Each refusal says which class or node type it is about, and what is wrong with it."""

    def refusal(declare: Callable[[], Any]) -> str:
        with pytest.raises(TypeError) as refused:
            declare()
        return str(refused.value)

    def declared(**fields: Any) -> Callable[[], Any]:
        hints = dict.fromkeys(fields, int)
        defaults = {name: value for name, value in fields.items() if value is not None}
        return lambda: record(type("Made", (), {"__annotations__": hints, **defaults}))

    class Extended(Use):
        more: int = 1

    class Lost(TypedDict):
        what: int

    Lost.__annotations__["what"] = "Nowhere"
    function: Any = len

    def takes(annotation: Any, parameter: str = "use", **more: Any) -> Callable[[], Any]:
        def y(use: Any, **rest: Any) -> str:
            return ""

        y.__annotations__ = {"use": str, "return": str, parameter: annotation}
        return lambda: node("x.y", version=1, **more)(y)

    class Same(TypedDict):
        use: int

    assert [
        refusal(one)
        for one in (
            declared(a=[]),
            declared(a=1, b=None),
            declared(_=None),
            declared(a=None, a_=None),
            declared(a=field(init=False)),
            lambda: record(function),
            lambda: record(Tuned),
            lambda: record(Kind),
            takes(Extended),
            takes(Unpack[Same], "rest"),
            takes(Unpack[Lost], "rest"),
            takes(str, renamed=["former"]),
        )
    ] == [
        "Made: mutable default <class 'list'> for field a is not allowed: use default_factory; the"
        " default of a list may be ()",
        "Made: non-default argument 'b' follows default argument",
        "Made: field '_' has no name in graphs",
        "Made: two fields are called 'a' in graphs",
        "Made: field 'a' is not set by its constructor",
        "len: a record is a plain class with annotated fields",
        "Tuned: a record is a plain class with annotated fields",
        "Kind: a record is a plain class with annotated fields",
        "x.y: parameter 'use': Extended extends a record: decorate it with @record too",
        "x.y: 'use' is a parameter and is in Same too",
        "x.y: Lost: name 'Nowhere' is not defined; a type of a port is imported for real, not under"
        " TYPE_CHECKING",
        "x.y: renamed maps the names of former ports to what is written now",
    ]


def test_a_port_of_another_name_is_told_the_new_spelling(registry: Registry) -> None:
    """The fix is what its declaration says."""
    with pytest.raises(GraphError) as refused:
        planned(registry, graph_of({"u": {"type": "r.uses", "weights": [1]}}, ["u"]))
    assert [p.fix for p in refused.value.problems] == ["write uses: [{text: …, weight: …}]"]


# -- who else knows them


def test_provenance_follows_the_elements_of_records(registry: Registry, tmp_path: Path) -> None:
    """A document of one element has the steps that this element came from, and no neighbour's; one
    of what is made of all elements has those of all.
    """
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "n": {"type": "r.float", "each": {"n": [1, 2, 3]}},
            "t": {"type": "r.maybes", "each": {"n": "${n}"}},
            "u": {"type": "r.uses", "each": {"one": {"text": "${t}", "weight": [1, "${n1}", 2]}}},
            "v": {"type": "r.uses", "each": {"one": "${u}"}},
            "n1": {"type": "r.float", "n": 5},
            "all": {"type": "r.uses", "uses": "${v}"},
        },
        "outputs": {
            "each": {"from": "${v}", "path": "{index}.txt"},
            "all": {"from": "${all}", "path": "all.txt"},
        },
    }
    found = ran(planned(registry, graph), out=tmp_path)
    assert [name for name in found if name.startswith("!")] == []

    def steps(name: str) -> list[str]:
        document = json.loads((tmp_path / f"{name}.txt.provenance.json").read_text("utf-8"))
        return sorted(f"{step['node']}{step['item']}" for step in document["steps"])

    assert [steps(name) for name in "012"] == [
        ["n[0]", "t[0]", "u[0]", "v[0]"],
        ["n1", "n[1]", "t[1]", "u[1]", "v[1]"],
        ["n[2]", "t[2]", "u[2]", "v[2]"],
    ]
    assert steps("all") == sorted(
        ["all", "n1", *[f"{node}[{i}]" for node in "ntuv" for i in range(3)]]
    )


def test_nodes_shows_the_fields(tmp_path: Path) -> None:
    """`imagen-flow nodes TYPE` lists the fields below their port, with defaults and bounds, also as
    JSON.
    """
    (tmp_path / "plugin.py").write_text(
        '''
from typing import Annotated
from imagen_flow import List, Range, Text, node, record

@record
class Use:
    text: Text
    weight: Annotated[float, Range(-10, 10)] = 1.0

@node("r.uses", version=1)
def uses(uses: List[Use] = (), *, one: Use | None = None) -> Text:
    """Use."""
    return ""
'''
    )
    shown = CliRunner().invoke(nodes_command, ["r.uses", "--plugin", str(tmp_path / "plugin.py")])
    assert shown.output.splitlines()[3:10] == [
        "inputs",
        "  uses      default []   list[{text, weight}]",
        "    text    required     text",
        "    weight  default 1.0  float from -10 to 10",
        "  one       optional     {text, weight} or nothing",
        "    text    required     text",
        "    weight  default 1.0  float from -10 to 10",
    ]
    shown = CliRunner().invoke(
        nodes_command, ["r.uses", "--plugin", str(tmp_path / "plugin.py"), "--json"]
    )
    assert json.loads(shown.output)["inputs"][0] == {
        "name": "uses",
        "type": "list[{text, weight}]",
        "required": False,
        "default": [],
        "fields": [
            {"name": "text", "type": "text", "required": True},
            {
                "name": "weight",
                "type": "float from -10 to 10",
                "required": False,
                "default": 1.0,
            },
        ],
    }


def test_a_watch_follows_files_and_models_in_fields(registry: Registry, tmp_path: Path) -> None:
    """Each path that a field names, as a literal or as a bare value, and per element too."""
    nodes = {
        "w": {"type": "r.wide", "wide": [{"file": "./a.txt"}, "./b.txt"]},
        "m": {
            "type": "r.models",
            "each": {"one": {"model": "./c.safetensors", "weight": [1, 2]}},
        },
    }
    written = spec.parse(
        json.dumps(graph_of(nodes, ["w", "m"])), name="g.yaml", path=tmp_path / "g.yaml"
    )
    found = paths_of(resolve(written, registry), {}, {}, tmp_path)
    assert {path.name for path in found} == {"a.txt", "b.txt", "c.safetensors", "c"}
