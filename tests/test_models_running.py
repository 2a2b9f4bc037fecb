"""A run lends its steps their models, with the settings that hold, and steps down the memory ladder
as far as a step's key allows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imagen_flow import Model, Text, loaders, node
from imagen_flow._graph import resolve
from imagen_flow._models import ModelPolicy, ModelPool, UnusableModel
from imagen_flow._plan import Plan, make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text.spec import parse, read
from imagen_flow._types.codec import Codecs
from imagen_flow.events import StepFailed
from imagen_flow.loaders import FallbackLevels, Loading


@node("toy.tight", version=1, uses=("torch",))
def tight(text: Text, *, levels: FallbackLevels) -> Text:
    """Run out of memory until it may tile."""
    TIGHT.append(levels)
    if "tile" not in levels:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    return f"{text} in tiles"


TIGHT: list[tuple[str, ...]] = []


def test_a_step_steps_down_as_far_as_its_key_allows(tmp_path: Path) -> None:
    """Without leave for tiles the step fails with the library's words; with it the node is told its
    levels, the key is another, and the levels are recorded.
    """
    registry = Registry({})
    registry.add(tight)
    text = 'imagen_flow: 1\nnodes:\n  n: {type: toy.tight, text: a%s}\noutputs:\n  o: "${n}"\n'
    keys = []
    with Store.open(tmp_path / "store", Codecs()) as store:
        for settings in ("", ", settings: {ladder: tile}"):
            TIGHT.clear()
            plan = make_plan(
                resolve(parse(text % settings, name="g.yaml"), registry), store=store, device="cpu"
            )
            keys.append(plan.steps[0].key)
            last = list(execute(plan))
            if not settings:
                assert [e.message for e in last if isinstance(e, StepFailed)] == [
                    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
                ]
                assert TIGHT == [(), ("evict",)]
        assert TIGHT == [(), ("evict",), ("evict", "slice"), ("evict", "slice", "tile")]
        record = store.lookup(keys[1])
        assert record is not None
        assert record.provenance["rungs"] == ["evict", "slice", "tile"]
    assert keys[0] != keys[1]


# --- what a plan says of models ---


class Picky(loaders.Loader[Any]):
    """A loader that takes one kind of model."""

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> str:
        raise AssertionError("nothing is loaded while planning")

    def check(self, model: Model) -> None:
        if "UNet" not in (model.path / "config.json").read_text("utf-8"):
            raise UnusableModel(
                f"toy.draw cannot use the model '{model.reference}': it is a VAE",
                why="toy.draw takes a UNet",
                fix="toy.decode takes it",
            )


@node("toy.draw", version=1)
def draw(model: Model[Picky], *, text: Text = "") -> Text:  # type: ignore[valid-type]
    """Draw with a model."""
    return str(model)


def planned(folder: Path, text: str, **given: Any) -> Plan:
    registry = Registry({})
    registry.add(draw)
    (folder / "g.yaml").write_text(text)
    return make_plan(
        resolve(read(folder / "g.yaml"), registry), device="cpu", dtype="float16", **given
    )


def save_model(folder: Path, config: str) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"w": np.zeros(1000, "float32"), "n": np.zeros(10, "int64")}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(config)
    return folder


GRAPH = 'imagen_flow: 1\nnodes:\n  n: {type: toy.draw, model: %s}\n  m: {type: toy.draw, model: %s, text: a}\noutputs:\n  o: "${n}"\n  p: "${m}"\n'


def test_a_model_of_another_kind_is_told_when_planning(tmp_path: Path) -> None:
    """The loader refuses by what the checkpoint says of itself: once, at the node, with what it is
    and which node takes it.
    """
    save_model(tmp_path / "m", '{"_class_name": "VAE"}')
    plan = planned(tmp_path, GRAPH % ("./m", "./m"))
    assert [(step.status, step.reason) for step in plan.steps] == [
        ("unresolved", "its model is of another kind")
    ] * 2
    assert [str(p) for p in plan.problems] == [
        f"{tmp_path}/g.yaml:3:3: error[bad-model]: toy.draw cannot use the model './m': it is a VAE\n3 |   n: {{type: toy.draw, model: ./m}}\n  |   ^\n"
        "  = why: toy.draw takes a UNet\n  = fix: toy.decode takes it"
    ]
    save_model(tmp_path / "m", '{"_class_name": "UNet"}')
    assert planned(tmp_path, GRAPH % ("./m", "./m")).problems == ()


LOADED: list[str] = []


class Light(loaders.Loader[str]):
    """A loader whose models weigh ten bytes each."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        LOADED.append(model.path.name)
        return model.digest

    def disk_bytes(self, model: Model) -> int:
        return 10


@node("toy.light", version=1)
def light(model: Model[Light], *, after: Text = "") -> Text:  # type: ignore[valid-type]
    """Use a model."""
    return f"{after}{model}"


def test_a_run_drops_first_what_it_needs_last(tmp_path: Path) -> None:
    """When the third model comes, the first gives way, for the second is needed before it."""
    registry = Registry({})
    registry.add(light)
    lines = ["imagen_flow: 1", "nodes:"]
    for place, name in enumerate("abcba"):
        folder = save_model(tmp_path / name, "{}")
        (folder / "config.json").write_text(f'{{"name": "{name}"}}')
        after = f', after: "${{n{place - 1}}}"' if place else ""
        lines.append(f"  n{place}: {{type: toy.light, model: ./{name}{after}}}")
    (tmp_path / "g.yaml").write_text("\n".join([*lines, 'outputs: {o: "${n4}"}', ""]))
    plan = make_plan(resolve(read(tmp_path / "g.yaml"), registry), device="cpu", dtype="float32")
    LOADED.clear()
    with ModelPool(budget_bytes=20) as pool:
        list(execute(plan, pool=pool))
    assert LOADED == ["a", "b", "c", "a"]


def test_what_a_run_needed_is_not_kept_for_it_when_it_is_over(tmp_path: Path) -> None:
    """In a pool that outlives the run, its model is dropped like any other that nobody needs."""
    registry = Registry({})
    registry.add(light)
    save_model(tmp_path / "m", "{}")
    (tmp_path / "g.yaml").write_text(
        'imagen_flow: 1\nnodes: {n: {type: toy.light, model: ./m}}\noutputs: {o: "${n}"}\n'
    )
    plan = make_plan(resolve(read(tmp_path / "g.yaml"), registry), device="cpu", dtype="float32")
    others = [Model(Path("/nowhere") / name, name, f"./{name}") for name in ("later", "last")]
    with ModelPool(budget_bytes=20) as pool:
        list(execute(plan, pool=pool))
        assert len(pool.resident()) == 1
        for model in others:
            with pool.lease(Light(), model, device="cpu", dtype="float32"):
                pass
        assert [identity.fingerprint for identity in pool.resident()] == ["last", "later"]


def test_a_plan_says_what_its_models_weigh(tmp_path: Path) -> None:
    """On the disk and in memory in the plan's dtype, from the headers; whole numbers are not cast."""
    folder = save_model(tmp_path / "m", '{"_class_name": "UNet"}')
    plan = planned(tmp_path, GRAPH % ("./m", "./m"))
    said = plan.models
    assert [(m["reference"], m["size_bytes"], m["memory_bytes"]) for m in said] == [
        ("./m", (folder / "model.safetensors").stat().st_size, 2 * 1000 + 8 * 10)
    ]


def test_a_plan_that_is_locked_refuses_what_the_lock_does_not_name(tmp_path: Path) -> None:
    """With --locked a reference to the hub must be in the lock beside the graph, or above it."""
    plan = planned(
        tmp_path,
        GRAPH % ("hf:org/name@v1", "hf:org/name@v1"),
        model_policy=ModelPolicy(locked=True),
    )
    assert [p.message for p in plan.problems] == ["'hf:org/name@v1' is not in the lock"]
    (tmp_path / "imagen-flow.lock").write_text(
        f'imagen_flow_lock = 1\n[[model]]\nreference = "hf:org/name@v1"\ncommit = "{"0" * 40}"\nlicense = ""\nvariant = ""\nfiles = [\n  {{ name = "a.safetensors", size = 1, sha256 = "{"0" * 64}" }},\n]\n'
    )
    (tmp_path / "deep").mkdir()
    plan = planned(
        tmp_path / "deep",
        GRAPH % ("hf:org/name@v1", "hf:org/name@v1"),
        model_policy=ModelPolicy(locked=True),
    )
    assert [p.message for p in plan.problems] == [
        "unresolved: 'hf:org/name@v1' is not on this machine"
    ]
    assert [p.fix for p in plan.problems] == ["run `imagen-flow models pull hf:org/name@v1`"]


SEEN: list[Loading] = []


class SettingsLoader(loaders.Loader[Any]):
    """A loader that uses two settings."""

    settings = ("quantization", "offload")

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        SEEN.append(settings)
        return "loaded"


@node("toy.sensitive", version=1)
def sensitive(model: Model[SettingsLoader]) -> Text:  # type: ignore[valid-type]
    """Say what was loaded."""
    return str(model)


def test_settings_reach_the_loader_and_the_key(tmp_path: Path) -> None:
    """A setting of the graph holds for the loaders that use it; a node's own goes before it. What
    changes no pixel changes no key.
    """
    SEEN.clear()
    registry = Registry({})
    registry.add(sensitive)
    save_model(tmp_path / "m", "{}")
    keys = []
    for graph, own in (
        ("", ""),
        ("offload: layers", ""),
        ("quantization: int8, compile: true", ""),
        ("quantization: int8", ", settings: {quantization: nf4}"),
    ):
        text = f'imagen_flow: 1\nsettings: {{{graph}}}\nnodes:\n  n: {{type: toy.sensitive, model: ./m{own}}}\noutputs:\n  o: "${{n}}"\n'
        plan = make_plan(
            resolve(parse(text, name="g.yaml", path=tmp_path / "g.yaml"), registry), device="cpu"
        )
        keys.append(plan.steps[0].key)
        list(execute(plan))
    assert [
        Loading(),
        Loading(offload="layers"),
        Loading(quantization="int8"),
        Loading(quantization="nf4"),
    ] == SEEN
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_setting_that_nothing_uses_is_warned_of(tmp_path: Path) -> None:
    """A graph's setting is no promise that is silently broken: if no node uses it, the plan says
    so; one that uses it, also in an included graph, is enough.
    """
    registry = Registry({})
    registry.add(draw)
    registry.add(sensitive)
    (tmp_path / "inner.yaml").write_text(
        'imagen_flow: 1\nnodes:\n  n: {type: toy.sensitive, model: ./m}\noutputs:\n  o: "${n}"\n'
    )
    text = 'imagen_flow: 1\nsettings: {quantization: int8}\nnodes:\n  n: {type: %s}\noutputs:\n  o: "${n}"\n'
    assert [
        [
            str(p)
            for p in resolve(
                parse(text % type_, name="g.yaml", path=tmp_path / "g.yaml"), registry
            ).warnings
        ]
        for type_ in ("toy.draw, model: ./m", "toy.sensitive, model: ./m", "./inner.yaml")
    ] == [
        [
            "g.yaml:2:12: warning[bad-setting]: nothing in the graph uses 'quantization'\n2 | settings: {quantization: int8}\n  |            ^^^^^^^^^^^^\n"
            "  = fix: remove it; `imagen-flow nodes TYPE` lists what a node type uses"
        ],
        [],
        [],
    ]


def test_a_program_says_its_terms_as_the_command_line_does(tmp_path: Path) -> None:
    """A pickle is refused and, named, allowed; the graph has no word in it."""
    import torch

    import imagen_flow as flow

    save_model(tmp_path / "m", '{"_class_name": "UNet"}')
    torch.save({"w": torch.zeros(1)}, tmp_path / "a.pth")
    graph = flow.load(
        {
            "imagen_flow": 1,
            "nodes": {
                "n": {"type": "image.upscale", "model": str(tmp_path / "a.pth"), "image": "${p}"},
                "p": {"type": "image.solid", "width": 8, "height": 8},
            },
            "outputs": {"o": "${n}"},
        }
    )
    refused = flow.plan(graph, store=None, device="cpu")
    assert [p.why for p in refused.problems] == [
        "a pickle can run any code when it is loaded, so only safetensors are"
    ]
    assert (
        flow.plan(graph, store=None, device="cpu", allow_pickle=[str(tmp_path / "a.pth")]).problems
        == ()
    )
