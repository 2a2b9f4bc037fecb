"""Across the items of a plan, the work of a model that is loaded is done before another takes its
place; where all fit, the first item is finished first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_flow import Image, Model, Text, events, loaders, node
from imagen_flow._graph import resolve
from imagen_flow._models import ModelPool
from imagen_flow._plan import Item, Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute, scheduler
from imagen_flow._text.spec import read
from imagen_flow.errors import GraphError
from imagen_flow.loaders import Loading

LOADED: list[str] = []
RAN: list[str] = []


class Light(loaders.Loader[str]):
    """A loader whose models weigh ten bytes each."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        LOADED.append(model.path.name)
        return model.path.name

    def disk_bytes(self, model: Model) -> int:
        return 10


@node("toy.use", version=1)
def use(model: Model[Light], *, text: Text) -> Text:  # type: ignore[valid-type]
    """Use a model."""
    RAN.append(f"{text}{model}")
    if f"{text}{model}" == "badx":
        raise ValueError("it does not like this")
    return f"{text}{model}"


@node("toy.fill", version=1)
def fill(model: Model[Light], *, text: Text) -> Image:  # type: ignore[valid-type]
    """Give a picture of a megabyte."""
    RAN.append(f"fill {text}")
    return Image(np.full((600, 600, 3), int(text[1:]), "uint8"))


@node("toy.shade", version=1)
def shade(model: Model[Light], *, image: Image, text: Text) -> Text:  # type: ignore[valid-type]
    """Say how bright a picture is."""
    RAN.append(f"shade {text}")
    return str(image.pixels[0, 0, 0])


CHAIN = """imagen_flow: 1
inputs: {word: w}
nodes:
  first: {type: toy.use, model: ./x, text: "${word}"}
  second: {type: toy.use, model: ./y, text: "${first}"}
outputs: {o: "${second}"}
"""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    LOADED.clear()
    RAN.clear()


def planned(folder: Path, text: str, items: list[Item], **options: Any) -> Plan:
    registry = Registry({})
    for one in (use, fill, shade):
        registry.add(one)
    for name in ("x", "y", "z"):
        (folder / name).mkdir(exist_ok=True)
        save_file({"w": np.zeros(1000, "float32")}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"name": name}))
    (folder / "g.yaml").write_text(text)
    return make_plan(
        resolve(read(folder / "g.yaml"), registry),
        items=items,
        device="cpu",
        dtype="float32",
        **options,
    )


def words(count: int) -> list[Item]:
    return [Item(f"i{i}", {"word": f"w{i}"}) for i in range(count)]


def finished(ran: list[Any]) -> list[str]:
    return [e.item for e in ran if isinstance(e, events.ItemFinished)]


def test_a_model_does_its_work_for_all_items_before_it_gives_way(tmp_path: Path) -> None:
    """Two models that do not fit together, and 32 items: each is loaded once."""
    plan = planned(tmp_path, CHAIN, words(32))
    with ModelPool(budget_bytes=15) as pool:
        ran = list(execute(plan, pool=pool))
    assert LOADED == ["x", "y"]
    assert [*(f"w{i}x" for i in range(32)), *(f"w{i}xy" for i in range(32))] == RAN
    assert finished(ran) == [f"i{i}" for i in range(32)]


def test_where_models_fit_together_the_first_item_is_finished_first(tmp_path: Path) -> None:
    """Nothing is evicted, so no item waits for those after it."""
    plan = planned(tmp_path, CHAIN, words(3))
    with ModelPool(budget_bytes=20) as pool:
        list(execute(plan, pool=pool))
    assert RAN == ["w0x", "w0xy", "w1x", "w1xy", "w2x", "w2xy"]


def test_only_so_many_items_wait_for_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two, the first results come after two, at the price of more loads."""
    monkeypatch.setattr(scheduler, "WINDOW", 2)
    plan = planned(tmp_path, CHAIN, words(4))
    with ModelPool(budget_bytes=15) as pool:
        list(execute(plan, pool=pool))
    assert RAN == ["w0x", "w1x", "w0xy", "w1xy", "w2x", "w3x", "w2xy", "w3xy"]
    assert LOADED == ["x", "y", "x", "y"]


def test_items_wait_only_as_long_as_their_values_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once half of what may be kept in memory is taken, items are finished before others start."""
    monkeypatch.setattr(scheduler, "FULL", 2.5 * 600 * 600 * 3 / 2**30)
    text = CHAIN.replace(
        'toy.use, model: ./y, text: "${first}"',
        'toy.shade, model: ./y, image: "${first}", text: "${word}"',
    ).replace("toy.use, model: ./x", "toy.fill, model: ./x")
    plan = planned(tmp_path, text, words(6))
    with ModelPool(budget_bytes=15) as pool:
        list(execute(plan, pool=pool))
    assert LOADED == ["x", "y", "x", "y"]


def test_an_item_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    """The others go on in the same order, and every item is told finished once."""
    items = [Item("a", {"word": "a"}), Item("b", {"word": "bad"}), Item("c", {"word": "c"})]
    plan = planned(tmp_path, CHAIN, items)
    with ModelPool(budget_bytes=15) as pool:
        ran = list(execute(plan, pool=pool))
    assert RAN == ["ax", "badx", "cx", "axy", "cxy"]
    assert sorted(finished(ran)) == ["a", "b", "c"]
    assert LOADED == ["x", "y"]


def test_items_whose_steps_are_equal_wait_for_one(tmp_path: Path) -> None:
    """Three items of one word run its steps once."""
    items = [Item(label, {"word": "w"}) for label in "abc"]
    plan = planned(tmp_path, CHAIN, items)
    with ModelPool(budget_bytes=15) as pool:
        ran = list(execute(plan, pool=pool))
    assert RAN == ["wx", "wxy"]
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == ["wxy"] * 3


def test_a_model_that_an_item_names_and_is_not_here_fails_it_alone(tmp_path: Path) -> None:
    """The others run; one that the graph names refuses all."""
    text = CHAIN.replace("word: w", "word: w, model: ./x").replace(
        "model: ./x, text", 'model: "${model}", text'
    )
    items = [Item("x", {"model": "./x"}), Item("none", {"model": "./none"})]
    plan = planned(tmp_path, text, items, base=tmp_path)
    assert plan.problems == ()
    (problem,) = plan.items[1].problems
    assert (problem.code, plan.items[0].problems) == ("bad-model", ())
    ran = list(execute(plan))
    assert [(e.item, e.status) for e in ran if isinstance(e, events.ItemFinished)] == [
        ("none", "failed"),
        ("x", "done"),
    ]
    plan = planned(tmp_path, CHAIN.replace("./y", "./none"), words(2))
    assert [p.code for p in plan.problems] == ["bad-model"]
    with pytest.raises(GraphError):
        execute(plan)
