"""Steps of a node type that takes many items are computed together: by default only where that
changes no bit, with `batch` where the user allows it, and never where a model gets it wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_flow import (
    GraphError,
    Image,
    Model,
    Progress,
    Seed,
    Steps,
    Tensor,
    Text,
    events,
    loaders,
    node,
)
from imagen_flow._graph import resolve
from imagen_flow._models import ModelPool
from imagen_flow._plan import Item, Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._run.grouping import agree
from imagen_flow._store import Store
from imagen_flow._text.spec import read
from imagen_flow._types.codec import Codecs
from imagen_flow.loaders import Loading

CALLS: list[list[Any]] = []


class Light(loaders.Loader[str]):
    """A loader whose models are their names."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        return model.path.name


def picture(seed: int, side: int) -> Image:
    return Image(np.random.default_rng(seed).integers(1, 250, (side, side, 3), dtype="uint8"))


def drawing() -> Any:
    """A denoiser that is one level off in groups; with the model `wrong`, ten."""

    @node("toy.draw", version=1, uses=("numpy",))
    def draw(
        model: Model[Light],  # type: ignore[valid-type]
        *,
        prompt: Text,
        side: int = 4,
        seed: Seed,
    ) -> Steps[Image]:
        """Draw noise."""
        CALLS.append([seed])
        yield Progress(1, 1, "it knows no word of this" if prompt == "odd" else "")
        if prompt == "bad":
            raise ValueError("it does not like this prompt")
        return picture(seed, side)

    @draw.many(varies=("prompt", "seed"))
    def draw_many(
        model: Model[Light],  # type: ignore[valid-type]
        *,
        prompt: Sequence[str],
        side: int = 4,
        seed: Sequence[int],
    ) -> Steps[Sequence[Image]]:
        CALLS.append(list(seed))
        if len(seed) > MOST[0]:
            raise RuntimeError("CUDA out of memory")
        if "bad" in prompt:
            raise ValueError("it does not like these prompts")
        if side == 7:
            return NotImplemented
        for i, one in enumerate(prompt):
            yield Progress(1, 1, "it knows no word of this" if one == "odd" else "", item=i)
        off = 10 if str(model) == "wrong" else 1
        return [Image(picture(one, side).pixels + np.uint8(off)) for one in seed]

    return draw


def adding() -> Any:
    """A node type that declares its groups exact."""

    @node("toy.add", version=1)
    def add(a: int, *, b: int = 0) -> int:
        """Add."""
        CALLS.append([a])
        return a + b

    @add.many(varies=("a",), exact=True)
    def add_many(a: Sequence[int], *, b: int = 0) -> Sequence[int]:
        CALLS.append(list(a))
        if b == 16:
            raise TypeError("unsupported operand")
        if b == 14:
            return (one + b for one in a)  # type: ignore[return-value]
        return [one + b + (b == 13) for one in a][: 1 if b == 15 else None]

    return add


MOST = [1000]

GRAPH = """imagen_flow: 1
inputs: {prompt: p, seed: {type: seed, default: 0}, side: 4, model: ./good}
nodes:
  picture: {type: toy.draw, model: "${model}", prompt: "${prompt}", seed: "${seed}", side: "${side}"}
outputs: {picture: "${picture}"}
"""

SUMS = """imagen_flow: 1
inputs: {a: 1, b: 0}
nodes: {sum: {type: toy.add, a: "${a}", b: "${b}"}}
outputs: {sum: "${sum}"}
"""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    CALLS.clear()
    MOST[0] = 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", Codecs()) as opened:
        yield opened


@pytest.fixture
def plan(tmp_path: Path, store: Store) -> Callable[..., Plan]:
    registry = Registry({})
    registry.add(drawing())
    registry.add(adding())
    for name in ("good", "wrong"):
        (tmp_path / name).mkdir()
        save_file({"w": np.zeros(10, "float32")}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))

    def planned(text: str, rows: list[dict[str, Any]], **options: Any) -> Plan:
        (tmp_path / "g.yaml").write_text(text)
        items = [Item(f"i{i}", row) for i, row in enumerate(rows)]
        return make_plan(
            resolve(read(tmp_path / "g.yaml"), registry),
            items=items,
            device="cpu",
            dtype="float32",
            **{"base": tmp_path, "store": store, **options},
        )

    return planned


def seeds(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"seed": first + i} for i in range(count)]


def pixels(ran: list[Any]) -> dict[str, bytes]:
    return {e.item: e.value.pixels.tobytes() for e in ran if isinstance(e, events.OutputWritten)}


def test_by_default_nothing_is_computed_together_that_may_differ(plan: Any) -> None:
    """Without `batch` a denoiser runs once for each item, under the key that it always had."""
    alone = plan(GRAPH, seeds(3))
    list(execute(alone))
    assert CALLS == [[0], [1], [2]]
    grouped = plan(GRAPH, seeds(3), batch="auto")
    assert {s.key for s in alone.steps}.isdisjoint(s.key for s in grouped.steps)
    one = plan(GRAPH, seeds(3), batch=1)
    assert [s.key for s in one.steps] == [s.key for s in alone.steps]


def test_with_batch_a_denoiser_computes_items_together(plan: Any) -> None:
    """The first group is checked against its items alone, once for the machine: later runs and
    other pools go straight to the groups.
    """
    ran = list(execute(plan(GRAPH, seeds(6), batch=3)))
    assert CALLS == [[0, 1, 2], [0], [1], [2], [3, 4, 5]]
    assert pixels(ran) == {
        f"i{seed}": (picture(seed, 4).pixels + np.uint8(1)).tobytes() for seed in range(6)
    }
    finished = [e.item for e in ran if isinstance(e, events.StepFinished)]
    assert finished == [f"i{i}" for i in range(6)]
    CALLS.clear()
    list(execute(plan(GRAPH, seeds(5, 10), batch="auto")))
    assert CALLS == [[10, 11, 12, 13, 14]]
    CALLS.clear()
    list(execute(plan(GRAPH, seeds(6), batch="auto")))
    assert CALLS == []


def test_a_model_that_is_wrong_in_groups_is_never_grouped(plan: Any) -> None:
    """Its items come out as they do alone, and the run says why, each time."""
    rows = [{"model": "./wrong", **row} for row in seeds(4)]
    ran = list(execute(plan(GRAPH, rows[:3], batch="auto")))
    assert CALLS == [[0, 1, 2], [0], [1], [2]]
    assert pixels(ran) == {f"i{seed}": picture(seed, 4).pixels.tobytes() for seed in range(3)}
    difference = (
        "computed one by one: with this model, items that are computed together come out"
        " differently"
    )
    assert [e.message for e in ran if isinstance(e, events.StepNote)] == [difference]
    CALLS.clear()
    rows = [{"model": "./wrong", **row} for row in seeds(2, 20)]
    ran = list(execute(plan(GRAPH, rows, batch="auto")))
    assert CALLS == [[20], [21]]
    assert [e.message for e in ran if isinstance(e, events.StepNote)] == [difference]


def test_only_equal_params_and_sizes_are_computed_together(plan: Any) -> None:
    """Pictures of two sizes make two groups, each in the order of its items."""
    rows = [{"seed": i, "side": 4 + i % 2} for i in range(6)]
    list(execute(plan(GRAPH, rows, batch="auto")))
    assert CALLS == [[0, 2, 4], [0], [2], [4], [1, 3, 5]]


def test_memory_that_runs_out_halves_the_group(plan: Any) -> None:
    """The size that fits is remembered by the pool for the groups after it."""
    list(execute(plan(GRAPH, seeds(2), batch="auto")))
    CALLS.clear()
    MOST[0] = 4
    with ModelPool() as pool:
        ran = list(execute(plan(GRAPH, seeds(16, 10), batch="auto"), pool=pool))
        assert [len(call) for call in CALLS] == [16, 8, 4, 4, 8, 4, 4]
        assert len(pixels(ran)) == 16
        CALLS.clear()
        list(execute(plan(GRAPH, seeds(8, 40), batch="auto"), pool=pool))
        assert [len(call) for call in CALLS] == [4, 4]


def test_one_items_failure_does_not_spoil_its_group(plan: Any) -> None:
    """A group that fails is computed one by one, and the item at fault says what is wrong."""
    rows = [{"seed": i, "prompt": "bad" if i == 1 else "p"} for i in range(3)]
    ran = list(execute(plan(GRAPH, rows, batch="auto")))
    assert CALLS == [[0, 1, 2], [0], [1], [2]]
    assert [(e.item, e.message) for e in ran if isinstance(e, events.StepFailed)] == [
        ("i1", "it does not like this prompt")
    ]
    assert sorted(pixels(ran)) == ["i0", "i2"]


def test_a_function_for_many_items_may_decline(plan: Any) -> None:
    """After NotImplemented, these params are computed one by one."""
    rows = [{"seed": i, "side": 7} for i in range(3)]
    list(execute(plan(GRAPH, rows, batch=2)))
    assert CALLS == [[0, 1], [0], [1], [2]]


def test_a_note_belongs_to_its_item(plan: Any) -> None:
    """It is told for that item alone, and again from the store."""
    rows = [{"seed": i, "prompt": "odd" if i == 1 else "p"} for i in range(3)]
    for _ in range(2):
        ran = list(execute(plan(GRAPH, rows, batch="auto")))
        notes = [(e.item, e.message) for e in ran if isinstance(e, events.StepNote)]
        assert notes == [("i1", "it knows no word of this")]


def test_equal_steps_are_computed_once_in_a_group(plan: Any) -> None:
    """Two items of one seed are one step."""
    ran = list(execute(plan(GRAPH, [{"seed": s} for s in (0, 1, 0, 2)], batch="auto")))
    assert CALLS == [[0, 1, 2], [0], [1], [2]]
    assert sorted(pixels(ran)) == ["i0", "i1", "i2", "i3"]


def test_what_is_exact_is_computed_together_by_default(plan: Any) -> None:
    """A node type whose groups change no bit needs no word of the user, and its keys are the same."""
    ran = list(execute(plan(SUMS, [{"a": a} for a in range(4)])))
    assert CALLS == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == [0, 1, 2, 3]


def test_what_is_declared_exact_and_is_not_is_computed_one_by_one(plan: Any) -> None:
    """The declaration is tested like everything else."""
    ran = list(execute(plan(SUMS, [{"a": a, "b": 13} for a in range(3)])))
    assert CALLS == [[0, 1, 2], [0], [1], [2]]
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == [13, 14, 15]


@pytest.mark.parametrize(("b", "returned"), [(14, "generator"), (15, "a list of 1")])
def test_a_function_for_many_items_that_breaks_its_rules_is_told(
    plan: Any, b: int, returned: str
) -> None:
    """Its items are computed one by one, and its author gets to know: once."""
    ran = list(execute(plan(SUMS, [{"a": a, "b": b} for a in range(20)])))
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == [*range(b, b + 20)]
    assert [e.message for e in ran if isinstance(e, events.StepNote)] == [
        f"computed one by one: its function for many items returned {returned}, not a list of 4"
        " results"
    ]


def test_a_function_for_many_items_that_raises_is_told(plan: Any) -> None:
    """If each of its items comes out alone, the items are not to blame: the run says so once, and
    does not ask it for the like again.
    """
    ran = list(execute(plan(SUMS, [{"a": a, "b": 16} for a in range(40)])))
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == [*range(16, 56)]
    assert [e.message for e in ran if isinstance(e, events.StepNote)] == [
        "computed one by one: its function for many items raised TypeError: unsupported operand"
    ]
    assert [call for call in CALLS if len(call) > 1] == [[0, 1, 2, 3]]


def test_the_elements_of_a_list_are_computed_together_too(plan: Any) -> None:
    """`each` is many items as well."""
    text = """imagen_flow: 1
inputs: {seed: 0}
nodes:
  picture: {type: toy.draw, model: ./good, prompt: p, each: {seed: [1, 2, 3]}}
outputs: {pictures: "${picture}"}
settings: {batch: 2}
"""
    list(execute(plan(text, [{"seed": 0}])))
    assert CALLS == [[1, 2], [1], [2], [3]]


def test_what_batch_takes_is_said(plan: Any) -> None:
    """Another word, and no items at all, are refused."""
    for value in ("all", 0, "-1"):
        with pytest.raises(GraphError, match="'batch' takes"):
            plan(GRAPH, seeds(1), batch=value)


def test_results_agree_within_one_level_of_eight_bits() -> None:
    """Of each kind of value that is grouped; sizes, dtypes and tags are equal in any case."""
    grey = np.full((2, 2, 1), 100, "uint8")
    for a, b, exact, expected in (
        (Image(grey), Image(grey), True, True),
        (Image(grey), Image(grey + np.uint8(1)), True, False),
        (Image(grey), Image(grey + np.uint8(1)), False, True),
        (Image(grey), Image(grey + np.uint8(2)), False, False),
        (Image(grey.astype("uint16")), Image(grey.astype("uint16") + np.uint16(257)), False, True),
        (Image(grey.astype("uint16")), Image(grey.astype("uint16") + np.uint16(300)), False, False),
        (Image(grey / np.float32(255)), Image(grey / np.float32(254)), False, True),
        (Image(grey), Image(grey[:1]), False, False),
        (Tensor(grey / np.float32(9), {"is": "a"}), Tensor(grey / np.float32(9)), False, False),
        ([Image(grey), 1], [Image(grey), 1], True, True),
        ([Image(grey), 1], [Image(grey), 2], False, False),
        ({"a": "x"}, {"a": "x"}, False, True),
        (("x", 0.5), ("x", 0.5), True, True),
        (("x", 0.5), ("x", 0.503), True, False),
        (("x", 0.5), ("x", 0.503), False, True),
        (("x", 0.5), ("x", 0.505), False, False),
        (("x", 0.5), ("y", 0.5), False, False),
        (300.0, 301.0, False, True),
        (float("nan"), float("nan"), False, False),
    ):
        assert agree(a, b, exact=exact) is expected


def test_a_declaration_that_cannot_be_is_refused() -> None:
    """Ports that vary are ports, and hold no models."""
    for varies, message in (
        (("prompts",), "it has no port 'prompts' that could vary"),
        (("model",), "'model' takes a model or records, and cannot vary in a group"),
        ("prompt", r"varies is a list of ports, like \('prompt', 'seed'\)"),
    ):
        with pytest.raises(TypeError, match=message):
            drawing().many(varies=varies)
