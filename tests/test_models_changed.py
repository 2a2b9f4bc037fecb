"""Models whose files change while they are loaded or in use, and models that a node leaves changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import ModelPool
from imagen_flow._models.mapped import own_tensors
from imagen_flow._plugins.registry import Registry
from imagen_flow._types.values import FileChanged


class Mapped(loaders.Loader[Any]):
    """Weights as safetensors gives them: mapped from their file."""

    def load(
        self, model: flow.Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> dict[str, Any]:
        return load_file(model.path / "w.safetensors")


class Later(loaders.Loader[Any]):
    """What reads its file only when it is used."""

    def load(
        self, model: flow.Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> flow.Model:
        return model


#: Called by the nodes between the reading of a model and the giving of what came of it.
MEANWHILE: list[Any] = []


def meanwhile() -> None:
    if MEANWHILE:
        MEANWHILE.pop(0)()


@flow.node("toy.mapped", version=1)
def mapped(model: flow.Model[Mapped], turn: int = 0) -> float:
    """Add up weights, before and after something happens."""
    first = float(model["w"].double().sum())
    meanwhile()
    return (first + float(model["w"].double().sum())) / 2


@flow.node("toy.later", version=1)
def later(model: flow.Model[Later], turn: int = 0) -> float:
    """Add up weights that are read now."""
    meanwhile()
    return float(load_file(model.path / "w.safetensors")["w"].double().sum())


@flow.node("toy.read", version=1)
def read(model: flow.Model[Later], turn: int = 0) -> float:
    """Add up weights that are read by the front door's function."""
    weights = loaders.read_weights(model, "w.safetensors")
    meanwhile()
    return float(weights["w"].double().sum())


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry({})
    for function in (mapped, later, read):
        made.add(function)
    yield made
    MEANWHILE.clear()


def weigh(folder: Path, each: float) -> Path:
    """A model of a thousand weights, of which each is this."""
    folder.mkdir(exist_ok=True)
    save_file({"w": torch.full((1000,), each)}, folder / "w.safetensors")
    return folder


def overwrite(folder: Path, each: float) -> None:
    """What training tools and downloads do: the same file, other bytes."""
    made = weigh(folder.with_name("other"), each) / "w.safetensors"
    with open(folder / "w.safetensors", "r+b") as out:
        out.write(made.read_bytes())


def total(registry: Registry, type_: str, model: Path, **more: Any) -> float:
    graph = {
        "imagen_flow": 1,
        "nodes": {"n": {"type": type_, "model": str(model), "turn": more.pop("turn", 0)}},
        "outputs": {"n": "${n}"},
    }
    return float(flow.run(flow.load(graph, registry=registry), device="cpu", **more)["n"])


@pytest.mark.parametrize("type_", ["toy.mapped", "toy.later", "toy.read"])
def test_weights_overwritten_in_place_change_no_loaded_model(
    registry: Registry, tmp_path: Path, type_: str
) -> None:
    """With one pool over several runs, each folder gives its own numbers, whatever was loaded from
    which; and so does the store afterwards.
    """
    one, two = weigh(tmp_path / "one", 1), weigh(tmp_path / "two", 1)
    with ModelPool() as pool:
        more: dict[str, Any] = {"pool": pool, "store": tmp_path / "store"}
        assert total(registry, type_, one, **more) == 1000
        overwrite(one, 2)
        assert total(registry, type_, two, turn=1, **more) == 1000
        assert total(registry, type_, one, turn=1, **more) == 2000
        assert total(registry, type_, two, turn=2, **more) == 1000
    assert [
        total(registry, type_, folder, turn=1, store=tmp_path / "store") for folder in (one, two)
    ] == [2000, 1000]


@pytest.mark.parametrize("type_", ["toy.mapped", "toy.later", "toy.read"])
def test_weights_overwritten_while_they_are_used_are_kept_under_their_own_key(
    registry: Registry, tmp_path: Path, type_: str
) -> None:
    """What the store then holds for each content is what that content gives; what was read of two
    contents is computed anew.
    """
    one, two, three = (
        weigh(tmp_path / "one", 1),
        weigh(tmp_path / "two", 1),
        weigh(tmp_path / "three", 2),
    )
    MEANWHILE.append(lambda: overwrite(one, 2))
    assert total(registry, type_, one, store=tmp_path / "store") in (1000, 2000)
    assert [
        total(registry, type_, folder, store=tmp_path / "store") for folder in (two, one, three)
    ] == [1000, 2000, 2000]


@pytest.mark.parametrize("type_", ["toy.mapped", "toy.later", "toy.read"])
def test_weights_overwritten_between_plan_and_run_are_keyed_anew(
    registry: Registry, tmp_path: Path, type_: str
) -> None:
    """The run computes with what is there, and keeps it as what it is."""
    one, two = weigh(tmp_path / "one", 1), weigh(tmp_path / "two", 1)
    graph = {
        "imagen_flow": 1,
        "nodes": {"n": {"type": type_, "model": str(one), "turn": 0}},
        "outputs": {"n": "${n}"},
    }
    plan = flow.plan(flow.load(graph, registry=registry), store=tmp_path / "store", device="cpu")
    overwrite(one, 2)
    assert [
        event.value for event in flow.execute(plan) if isinstance(event, flow.events.OutputWritten)
    ] == [2000]
    assert [total(registry, type_, folder, store=tmp_path / "store") for folder in (two, one)] == [
        1000,
        2000,
    ]


def test_a_file_that_keeps_changing_fails_its_step(registry: Registry, tmp_path: Path) -> None:
    """The run ends, and says why."""
    one = weigh(tmp_path / "one", 1)
    MEANWHILE.extend([lambda each=each: overwrite(one, each) for each in range(2, 30)])
    with pytest.raises(flow.NodeError, match="its files keep changing"):
        total(registry, "toy.later", one, store=None)


def test_a_file_that_is_cut_short_ends_no_process(registry: Registry, tmp_path: Path) -> None:
    """Weights that were loaded are still there when their file is emptied, as it is when somebody
    writes it anew.
    """
    one = weigh(tmp_path / "one", 1)
    MEANWHILE.append(lambda: os.truncate(one / "w.safetensors", 0))
    assert total(registry, "toy.mapped", one, store=None) == 1000


def test_a_model_that_changes_while_it_is_loaded_is_not_taken(tmp_path: Path) -> None:
    """Its file was of two contents, or none; the next lease tries again."""
    one = weigh(tmp_path / "one", 1)

    class Slow(loaders.Loader[Any]):
        def load(
            self, model: flow.Model, *, device: str, dtype: str, settings: loaders.Loading
        ) -> dict[str, Any]:
            found = load_file(model.path / "w.safetensors")
            meanwhile()
            return found

    def resolved() -> flow.Model:
        from imagen_flow._models import resolve
        from imagen_flow._types.digest import digest_file

        return resolve(str(one), folder=tmp_path, embedded={}, digest=digest_file)

    model = resolved()
    MEANWHILE.append(lambda: overwrite(one, 2))
    with ModelPool() as pool:
        with (
            pytest.raises(FileChanged, match="has changed since it was digested"),
            pool.lease(Slow(), model, device="cpu", dtype="float32"),
        ):
            pass
        with pytest.raises(FileChanged), pool.lease(Slow(), model, device="cpu", dtype="float32"):
            pass
        with pool.lease(Slow(), resolved(), device="cpu", dtype="float32") as weights:
            assert float(weights["w"].sum()) == 2000


def test_tied_weights_stay_tied_and_keep_their_layout(tmp_path: Path) -> None:
    """Taking weights off their file changes neither their numbers nor how they lie in memory, and
    what was one stays one.
    """
    save_file(
        {"v": torch.zeros(3), "w": torch.arange(24.0).reshape(2, 3, 4)}, tmp_path / "w.safetensors"
    )
    found = load_file(tmp_path / "w.safetensors")["w"]
    module = torch.nn.Module()
    module.one, module.two = (
        torch.nn.Parameter(found.transpose(0, 2)),
        torch.nn.Parameter(found.transpose(0, 2)),
    )
    module.register_buffer("third", found[1])
    own = torch.nn.Parameter(torch.zeros(3))
    module.own, at = own, own.data_ptr()
    strides, line = module.one.stride(), module.one.data_ptr() % 64
    assert own_tensors({"module": module})
    os.truncate(tmp_path / "w.safetensors", 0)
    assert module.one.data_ptr() == module.two.data_ptr()
    assert (module.one.stride(), module.one.data_ptr() % 64, own.data_ptr()) == (strides, line, at)
    assert module.one.tolist() == torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2).tolist()
    assert module.third.tolist() == torch.arange(24.0).reshape(2, 3, 4)[1].tolist()
    assert not own_tensors({"tokenizer": object()})


# ---- what a node leaves changed


class Network(torch.nn.Module):
    """A small network that has what those of the libraries have."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"scale": 1.0}
        self.inner = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.inner.processor = Attending()
        self.eval()
        with torch.no_grad():
            self.inner.weight.fill_(0.5)
            self.inner.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner.processor(self.norm(self.inner(x)))  # type: ignore[operator]
        return found * self.config["scale"]


class Attending:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Tokenizer:
    """Words that can be added to."""

    def __init__(self) -> None:
        self.added = {"<a>": 1}
        self.model_max_length = 77

    def __len__(self) -> int:
        return 10 + len(self.added)

    def get_added_vocab(self) -> dict[str, int]:
        return self.added


class Networks(loaders.Loader[Any]):
    """A network and its tokenizer, whatever the files."""

    def load(
        self, model: flow.Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> dict[str, Any]:
        return {"net": Network(), "tokenizer": Tokenizer(), "kept": {}}


def _halve(net: Any) -> None:
    with torch.no_grad():
        net.inner.weight.mul_(0.5)


WAYS: dict[str, Any] = {
    "weights": lambda parts: _halve(parts["net"]),
    "weights past autograd": lambda parts: parts["net"].inner.weight.data.mul_(0.5),
    "other weights": lambda parts: setattr(
        parts["net"].inner, "weight", torch.nn.Parameter(torch.ones(4, 4))
    ),
    "statistics": lambda parts: parts["net"].norm.running_mean.fill_(3),
    "hook": lambda parts: parts["net"].register_forward_hook(lambda module, given, made: made * 2),
    "inner hook": lambda parts: parts["net"].inner.register_forward_pre_hook(
        lambda module, given: (given[0] * 2,)
    ),
    "attention": lambda parts: setattr(parts["net"].inner, "processor", lambda x: x * 3),
    "state of attention": lambda parts: setattr(parts["net"].inner.processor, "factor", 3.0),
    "method": lambda parts: setattr(parts["net"], "forward", lambda x: x),
    "layer": lambda parts: setattr(parts["net"], "norm", torch.nn.Identity()),
    "whole network": lambda parts: parts.update(net=torch.nn.Identity()),
    "configuration": lambda parts: parts["net"].config.update(scale=2.0),
    "mode": lambda parts: parts["net"].train(),
    "gradients": lambda parts: parts["net"].requires_grad_(False),
    "setting": lambda parts: setattr(parts["net"].norm, "eps", 0.5),
    "new setting": lambda parts: setattr(parts["net"].inner, "strength", 2.0),
    "length of words": lambda parts: setattr(parts["tokenizer"], "model_max_length", 4),
    "half": lambda parts: parts["net"].double(),
    "meta": lambda parts: parts["net"].to("meta"),
    "words": lambda parts: parts["tokenizer"].added.update({"<b>": 2}),
    "gone": lambda parts: parts.clear(),
}
HARMLESS: dict[str, Any] = {
    "nothing": lambda parts: None,
    "used": lambda parts: parts["net"](torch.ones(1, 4)),
    "put back": lambda parts: parts["net"].register_forward_hook(lambda *_: None).remove(),
    "kept beside": lambda parts: parts["kept"].update(one=torch.nn.Linear(2, 2)),
    "new attention of the same kind": lambda parts: setattr(
        parts["net"].inner, "processor", Attending()
    ),
    "private words": lambda parts: setattr(parts["net"], "_seen", 3),
    "gradients computed": lambda parts: parts["net"](torch.ones(1, 4)).sum().backward(),
}


@flow.node("toy.change", version=1)
def change(model: flow.Model[Networks], how: str, fails: bool = False) -> str:
    """Change a model and leave it so."""
    with torch.inference_mode(False):
        {**WAYS, **HARMLESS}[how](model)
    if fails:
        raise ValueError("it fails besides")
    return "done"


@flow.node("toy.use", version=1)
def use(model: flow.Model[Networks]) -> float:
    """Compute with a model."""
    return float(model["net"](torch.ones(1, 4)).detach().sum()) + len(model["tokenizer"])


@pytest.mark.parametrize(
    ("how", "fails"),
    [
        *((how, False) for how in [*WAYS, *HARMLESS]),
        ("hook", True),
        ("half", True),
        ("nothing", True),
    ],
)
def test_a_model_that_a_node_leaves_changed_is_loaded_anew_and_told(
    registry: Registry, tmp_path: Path, how: str, fails: bool
) -> None:
    """The next node of the process computes with the model as it was loaded, also if the one that
    changed it failed; what does no harm is not told of, and costs no loading.
    """
    registry.add(change)
    registry.add(use)
    model = str(weigh(tmp_path / "one", 1))
    told: list[Any] = []

    def run(node: dict[str, Any]) -> Any:
        return flow.run(
            flow.load(
                {"imagen_flow": 1, "nodes": {"n": node}, "outputs": {"n": "${n}"}},
                registry=registry,
            ),
            device="cpu",
            store=None,
            pool=pool,
            on_event=lambda event: (
                told.append(event) if isinstance(event, flow.events.StepNote) else None
            ),
        )["n"]

    with ModelPool() as pool:
        before = run({"type": "toy.use", "model": model})
        (resident,) = pool._residents.values()
        if fails:
            with pytest.raises(flow.NodeError, match="it fails besides"):
                run({"type": "toy.change", "model": model, "how": how, "fails": True})
        else:
            run({"type": "toy.change", "model": model, "how": how})
        assert run({"type": "toy.use", "model": model}) == before
        assert (resident in pool._residents.values()) == (how in HARMLESS)
    assert [
        event.message.startswith(f"toy.change left the model '{model}' (")
        and event.message.endswith(") modified; it is reloaded for other steps")
        for event in told
    ] == [True] * (how in WAYS)


def test_a_model_is_looked_at_when_nobody_uses_it(tmp_path: Path) -> None:
    """Who changes a model for a while holds it alone; another lease that ends meanwhile takes that
    for no harm.
    """
    model = flow.Model(weigh(tmp_path / "one", 1), "d" * 40)
    told: list[str] = []
    with ModelPool() as pool:

        def lease() -> Any:
            return pool.lease(
                Networks(), model, device="cpu", dtype="float32", left_changed=told.append
            )

        with lease() as parts:
            hook = parts["net"].register_forward_hook(lambda *_: None)
            with lease() as others:
                assert others is parts
            hook.remove()
        assert told == []
        with lease() as parts:
            parts["net"].register_forward_hook(lambda *_: None)
            with lease():
                pass
        assert told == ["hooks of net"]
        with lease() as others:
            assert others is not parts
