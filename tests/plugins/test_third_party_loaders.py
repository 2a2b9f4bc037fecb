"""A stranger's loaders, written from the documentation alone, do all that the project's own do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import imagen_flow as flow
from imagen_flow._plugins.registry import discover
from imagen_flow.events import Event, StepLoading
from imagen_flow.models import ModelPool

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugins" / "toy_models.py"


def write_model(folder: Path, *, scale: float = 1.0, head: float = 1.0, **index: str) -> str:
    """Write a model whose layers multiply by these factors, and a little more."""
    for part, factor in (("encoder", scale), ("head", head)):
        (folder / part).mkdir(parents=True)
        weights = factor * np.eye(3, dtype=np.float32) + np.float32(0.001)
        rows = {f"row{number}": row for number, row in enumerate(weights)}
        save_file(rows, folder / part / "layer.safetensors")
    name = "model_index.json" if index else "toy.json"
    (folder / name).write_text(json.dumps(index), "utf-8")
    return str(folder)


def graph(*nodes: tuple[str, str], **settings: str) -> dict[str, Any]:
    """A graph of nodes: type and model. Each is an output too."""
    named = {
        f"n{number}": {"type": kind, "model": model, "values": "${values}"}
        for number, (kind, model) in enumerate(nodes)
    }
    return {
        "imagen_flow": 1,
        **({"settings": settings} if settings else {}),
        "nodes": {"values": {"type": "toy.values"}, **named},
        "outputs": {name: f"${{{name}}}" for name in named},
    }


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as pool:
        yield pool


def run(given: dict[str, Any], pool: ModelPool, **more: Any) -> tuple[flow.api.Outputs, list[str]]:
    """Run a graph; give its outputs, and the nodes for which something was loaded."""
    loading: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, StepLoading):
            loading.append(event.node)

    outputs = flow.run(
        given, store=None, device="cpu", pool=pool, plugins=PLUGIN, on_event=note, **more
    )
    return outputs, loading


def plan(given: dict[str, Any]) -> Any:
    return flow.plan(given, store=None, device="cpu", plugins=PLUGIN)


def resident(pool: ModelPool) -> list[str]:
    return sorted(identity.loader.rpartition(".")[2] for identity in pool.resident())


def test_its_models_are_leased_once_and_shared(tmp_path: Path, pool: ModelPool) -> None:
    """Two nodes that use one model load each of its parts once; a later run loads nothing."""
    model = write_model(tmp_path / "a", scale=2, head=3)
    given = graph(("toy.encode", model), ("toy.draw", model), ("toy.draw", model))
    outputs, _ = run(given, pool)
    assert np.allclose(outputs["n0"].numpy(), [[2.006, 4.006, 6.006]])
    assert np.array_equal(outputs["n1"].numpy(), outputs["n2"].numpy())
    assert resident(pool) == ["LayerLoader(part='encoder')", "LayerLoader(part='head')"]
    assert run(given, pool)[1] == []


def test_models_that_agree_in_a_part_share_it(tmp_path: Path, pool: ModelPool) -> None:
    """The encoder of two models is one; their heads are two."""
    one, two = write_model(tmp_path / "a"), write_model(tmp_path / "b", head=5)
    run(graph(("toy.draw", one), ("toy.draw", two)), pool)
    assert resident(pool) == [
        "LayerLoader(part='encoder')",
        *["LayerLoader(part='head')"] * 2,
    ]


def test_its_models_are_evicted_under_a_small_budget(tmp_path: Path) -> None:
    """Room for one model: the second one drops the first, and the first is loaded again."""
    one, two = write_model(tmp_path / "a"), write_model(tmp_path / "b", scale=2)
    with ModelPool(budget_bytes=50) as pool:
        run(graph(("toy.encode", one)), pool)
        first = pool.resident()
        run(graph(("toy.encode", two)), pool)
        assert len(pool.resident()) == 1
        assert pool.resident() != first
        assert run(graph(("toy.encode", one)), pool)[1] == ["n0"]


def test_it_acts_on_a_setting(tmp_path: Path, pool: ModelPool) -> None:
    """``quantization: int8`` loads another model; a setting that it does not act on is warned of,
    and loads none.
    """
    model = write_model(tmp_path / "a", scale=2.34567)
    plain, rounded = (
        run(graph(("toy.encode", model), **settings), pool)[0]["n0"].numpy()
        for settings in ({}, {"quantization": "int8"})
    )
    assert not np.array_equal(plain, rounded)
    assert np.allclose(plain, rounded, atol=0.1)
    assert len(pool.resident()) == 2
    assert run(graph(("toy.encode", model), attention="math"), pool)[1] == []
    problems = plan(graph(("toy.encode", model), attention="math")).problems
    assert ["attention" in problem.message for problem in problems] == [True]


def test_its_models_are_estimated(tmp_path: Path) -> None:
    """The plan says what they take in memory by `disk_bytes`; what two nodes share counts once."""
    model = write_model(tmp_path / "a")
    size = 9 * 4  # of one layer
    assert plan(graph(("toy.encode", model))).memory == {"cpu": size}
    assert plan(graph(("toy.encode", model), ("toy.draw", model))).memory == {"cpu": 2 * size}


def test_it_refuses_when_planning(tmp_path: Path) -> None:
    """A model of another kind and a setting that cannot work are problems of the plan, in the
    loader's words.
    """
    other = tmp_path / "other"
    other.mkdir()
    save_file({"w": np.zeros(3, np.float32)}, other / "model.safetensors")
    kind, setting = (
        [problem.message for problem in plan(given).problems]
        for given in (
            graph(("toy.draw", str(other))),
            graph(("toy.draw", write_model(tmp_path / "a")), quantization="nf4"),
        )
    )
    assert kind == [f"'{other}' is not a toy model: it has no toy.json"]
    assert setting == ["toy models know int8, not nf4"]


def test_its_checkpoints_run_in_node_types_of_others(tmp_path: Path, pool: ModelPool) -> None:
    """`text.encode` and `diffusion.base` use the loaders that it offers for its class of
    checkpoints; the source of the plugin is part of these steps' keys.
    """
    model = write_model(tmp_path / "c", _class_name="ToyCascade")
    given = {
        "imagen_flow": 1,
        "nodes": {
            "text": {"type": "text.encode", "model": model, "prompt": "seven"},
            "base": {"type": "diffusion.base", "model": model, "text": "${text}", "seed": 1},
        },
        "outputs": {"picture": "${base}"},
    }
    outputs, _ = run(given, pool)
    assert outputs["picture"].pixels.tolist() == np.full((4, 4, 3), 5).tolist()
    assert resident(pool) == ["ToyBaseLoader", "ToyTextLoader"]
    changed = tmp_path / "toy_models.py"
    changed.write_text(PLUGIN.read_text("utf-8") + "\n\n# Another version.\n", "utf-8")
    keys = [
        {step.name: step.key for step in found.steps}["text"]
        for found in (
            plan(given),
            plan(given),
            flow.plan(given, store=None, device="cpu", plugins=changed),
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_without_its_plugin_such_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """The message says that a plugin could load it."""
    model = write_model(tmp_path / "c", _class_name="ToyCascade")
    given = {
        "imagen_flow": 1,
        "nodes": {"text": {"type": "text.encode", "model": model, "prompt": "seven"}},
        "outputs": {"text": "${text}"},
    }
    (problem,) = flow.plan(given, store=None, device="cpu").problems
    assert "it is a ToyCascade" in problem.message
    assert problem.message.endswith("or what a plugin loads as text encoder")


def test_two_plugins_that_offer_the_same_are_named(tmp_path: Path) -> None:
    """Neither is taken silently."""
    model = write_model(tmp_path / "c", _class_name="ToyCascade")
    twin = tmp_path / "twin.py"
    twin.write_text(
        "import imagen_flow as flow\nfrom imagen_flow.loaders import Loader\n\n"
        "class Twin(Loader):\n    pass\n\n@flow.hookimpl\ndef imagen_flow_loaders():\n"
        "    return {'text encoder': {'ToyCascade': Twin}}\n",
        "utf-8",
    )
    given = {
        "imagen_flow": 1,
        "nodes": {"text": {"type": "text.encode", "model": model, "prompt": "seven"}},
        "outputs": {"text": "${text}"},
    }
    (problem,) = flow.plan(given, store=None, device="cpu", plugins=[PLUGIN, twin]).problems
    assert problem.message == (
        f"two plugins provide a loader for ToyCascade as text encoder: {PLUGIN} and {twin}; uninstall"
        " one of them"
    )


LOADERS = """
from typing import Annotated, Any
import imagen_flow as flow
from imagen_flow.loaders import Leased, Loader

class Good(Loader[Any]):
    def load(self, model, *, device, dtype, settings):
        return type(self).__name__

class Asked(Good):
{faulty}

class Open(Good):
    role = "toy"

class Other(Good):
    role = "other"

@flow.node("bad.run", version=1)
def run(
    model: Annotated[Any, Leased(Asked)],
    *,
    one: Annotated[Any, Leased(Open)] | None = None,
    two: Annotated[Any, Leased(Other)] | None = None,
) -> str:
    return f"{{model}} {{one}} {{two}}"
"""


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (
            "def check(self, model): {}['x']",
            "the loader Asked cannot tell about the model 'MODEL': its check raised KeyError: 'x'",
        ),
        (
            "def parts(self, model): return {'a': Asked()}",
            "the loader Asked has parts of parts more than 16 deep; a loader cannot be a part of"
            " itself",
        ),
        (
            "def parts(self, model): return {'a': Good}",
            "the loader Asked is at fault: its parts must return a mapping of names to loaders, or"
            " None, not dict",
        ),
        (
            "def folders(self, model): return 'unet'",
            "the loader Asked is at fault: its folders must return a list of names, or None, not"
            " str",
        ),
        (
            "def with_replaced_parts(self, model, others): pass",
            "the loader Asked is at fault: its with_replaced_parts must return a Model, not"
            " NoneType",
        ),
        (
            "def check_support(self, model): pass",
            "the loader Asked cannot tell about the model 'MODEL': its check_support raised"
            " TypeError: Asked.check_support() got an unexpected keyword argument 'device'",
        ),
    ],
)
def test_a_faulty_loader_is_a_problem_of_the_plan(
    tmp_path: Path, faulty: str, message: str
) -> None:
    """It is told with the node; nothing runs, and the fault is not taken for one of the program."""
    model = write_model(tmp_path / "a")
    plugin = tmp_path / "faulty.py"
    plugin.write_text(LOADERS.format(faulty=f"    {faulty}"), "utf-8")
    given = {
        "imagen_flow": 1,
        "nodes": {"n": {"type": "bad.run", "model": model}},
        "outputs": {"n": "${n}"},
    }
    (problem,) = flow.plan(given, store=None, device="cpu", plugins=plugin).problems
    assert (problem.code, problem.message) == ("bad-model", message.replace("MODEL", model))


@pytest.mark.parametrize(
    ("faulty", "why"),
    [
        (
            "settings = 'offload'",
            "Asked.settings is 'offload'; it is a list of quantization, offload, attention, compile,"
            " layerwise_casting, step_cache",
        ),
        (
            "settings = ('ofload',)",
            "Asked.settings is ('ofload',); it is a list of quantization, offload, attention,"
            " compile, layerwise_casting, step_cache",
        ),
        ("role = 5", "Asked.role is 5; it is text"),
        ("__hash__ = None", "Asked is not hashable; declare it with @dataclass(frozen=True)"),
    ],
)
def test_a_loader_that_declares_rubbish_is_refused_with_its_plugin(
    tmp_path: Path, faulty: str, why: str
) -> None:
    """Before a graph uses it; the message says what may be written."""
    plugin = tmp_path / "faulty.py"
    plugin.write_text(LOADERS.format(faulty=f"    {faulty}"), "utf-8")
    registry = discover([plugin], entry_points=list)
    assert [why in found.fault for found in registry.plugins.values() if found.fault] == [True]


@pytest.mark.parametrize(
    "returned", ["None", "[]", "{'editor': Good()}", "{5: {}}", "{'editor': {5: Good()}}"]
)
def test_a_hook_that_returns_no_loaders_by_role_is_refused_with_its_plugin(
    tmp_path: Path, returned: str
) -> None:
    """The message shows what it must return."""
    plugin = tmp_path / "faulty.py"
    plugin.write_text(
        LOADERS.format(faulty="    pass")
        + f"\n@flow.hookimpl\ndef imagen_flow_loaders():\n    return {returned}\n",
        "utf-8",
    )
    registry = discover([plugin], entry_points=list)
    assert [
        'it must return loaders by role and class: {"editor": {"Toy": Loader}}' in found.fault
        for found in registry.plugins.values()
        if found.fault
    ] == [True]


@pytest.mark.parametrize(
    "faulty", ["disk_bytes(self, model): return 'x'", "significant_name(*_): 1/0"]
)
def test_a_loader_that_misjudges_a_model_raises_in_words(tmp_path: Path, faulty: str) -> None:
    """What is not asked for one node alone is refused as a ModelError."""
    plugin = tmp_path / "faulty.py"
    plugin.write_text(LOADERS.format(faulty=f"    def {faulty}"), "utf-8")
    given = {
        "imagen_flow": 1,
        "nodes": {"n": {"type": "bad.run", "model": write_model(tmp_path / "a")}},
        "outputs": {"n": "${n}"},
    }
    with pytest.raises(flow.ModelError, match=f"its {faulty.partition('(')[0]} "):
        _ = flow.plan(given, store=None, device="cpu", plugins=plugin).memory


@pytest.mark.parametrize("method", ["load(*_, **__)", "check(*_)"])
def test_a_loader_that_exits_fails_its_node_alone(tmp_path: Path, method: str) -> None:
    """The program goes on, and says what happened."""
    plugin = tmp_path / "faulty.py"
    plugin.write_text(LOADERS.format(faulty=f"    def {method}: raise SystemExit(3)"), "utf-8")
    given = {
        "imagen_flow": 1,
        "nodes": {"n": {"type": "bad.run", "model": write_model(tmp_path / "a")}},
        "outputs": {"n": "${n}"},
    }
    with pytest.raises(flow.ImagenFlowError, match="SystemExit: 3"):
        flow.run(given, store=None, device="cpu", plugins=plugin)


def test_ports_with_roles_have_each_what_its_own_loader_makes(
    tmp_path: Path, pool: ModelPool
) -> None:
    """Two loaders without parts that others may replace load one model for themselves."""
    plugin = tmp_path / "roles.py"
    plugin.write_text(LOADERS.format(faulty="    pass"), "utf-8")
    model = write_model(tmp_path / "a")
    node = {"type": "bad.run", "model": model, "one": model, "two": model}
    given = {"imagen_flow": 1, "nodes": {"n": node}, "outputs": {"n": "${n}"}}
    outputs = flow.run(given, store=None, device="cpu", pool=pool, plugins=plugin)
    assert outputs["n"] == "Asked Open Other"
    assert resident(pool) == ["Asked", "Open", "Other"]


@pytest.mark.slow
def test_it_passes_a_strict_type_checker(tmp_path: Path) -> None:
    """Without an ignore in it; and the checker knows what a node gets."""
    assert "type: ignore" not in PLUGIN.read_text("utf-8")
    assert "mypy:" not in PLUGIN.read_text("utf-8")
    config = tmp_path / "mypy.ini"
    libraries = ["diffusers", "huggingface_hub", "networkx", "safetensors", "torch", "transformers"]
    config.write_text(
        "[mypy]\nstrict = True\nwarn_return_any = False\n"
        + "".join(
            f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
            for name in libraries
        ),
        "utf-8",
    )
    plugin = tmp_path / "toy_models.py"
    plugin.write_text(PLUGIN.read_text("utf-8"), "utf-8")
    misuse = tmp_path / "misuse.py"
    misuse.write_text(
        PLUGIN.read_text("utf-8").replace("model.head.apply(", "model.tail.apply("), "utf-8"
    )
    good, bad = (
        subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", str(config), str(file)],
            cwd=ROOT,
            env={"PATH": "", "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        for file in (plugin, misuse)
    )
    assert good.stdout == "Success: no issues found in 1 source file\n", good.stdout + good.stderr
    assert '"Toy" has no attribute "tail"' in bad.stdout


def test_what_plugins_offer_is_remembered(tmp_path: Path) -> None:
    """So that a plugin is imported only for a checkpoint of its own."""
    cache = tmp_path / "plugins.json"
    discover(cache=cache)
    registry = discover(cache=cache)
    embedded = next(p for name, p in registry.plugins.items() if name.endswith(":embedded"))
    assert registry.loader_for("text encoder", "StableDiffusionPipeline") is None
    assert embedded.module is None
    offered = registry.loader_for("text encoder", "ImagenCascade")
    assert offered is not None and type(offered.loader).__name__ == "TextLoader"
    assert embedded.module is not None and len(offered.source_digest) == 40
