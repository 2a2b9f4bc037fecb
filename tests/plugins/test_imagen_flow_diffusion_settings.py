"""The settings that act on how networks compute: the pictures that diffusers draws when it is told
the same by hand, no trace on shared networks afterwards, and clear words where one cannot be
followed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow.loaders import Loading
from imagen_flow_diffusion.checkpoints.abilities import abilities_of, attention_names
from imagen_flow_diffusion.tiny import companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

ASKED: dict[str, Any] = {"num_inference_steps": 8, "width": 32, "height": 32}


def graph(checkpoint: str, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    node = {
        "type": "diffusion.text_to_image",
        "model": checkpoint,
        "prompt": "a red fox",
        "seed": 3,
        **ASKED,
        **more,
    }
    return {
        "imagen_flow": 1,
        "settings": settings,
        "nodes": {"picture": node},
        "outputs": {"out": "${picture}"},
    }


def draw(
    pool: ModelPool, checkpoint: str, settings: dict[str, Any] | None = None, **more: Any
) -> np.ndarray:
    """Draw, and find no model left changed."""
    outputs = flow.run(
        graph(checkpoint, settings or {}, **more), store=None, pool=pool, device="cpu"
    )
    assert outputs.notes == ()
    return np.asarray(outputs["out"].pixels)


def pipeline_of(checkpoint: str, **given: Any) -> Any:
    import diffusers

    with quiet_libraries():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            checkpoint, torch_dtype=torch.float32, local_files_only=True, **given
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_hand(pipeline: Any, **more: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(3)
    drawn = pipeline("a red fox", **ASKED, **more, generator=generator, output_type="np").images[0]
    return np.asarray(flow.Image(drawn).as_uint8().pixels)


def problem(checkpoint: str, settings: dict[str, Any], **more: Any) -> str:
    """Say why a plan is refused."""
    plan = flow.plan(graph(checkpoint, settings, **more), store=None, device="cpu")
    (found,) = plan.problems
    assert found.mark is not None
    return found.message


# --- step caches
# ------------------------------------------------------------------------------------------------------------------


def configured(kind: str, options: dict[str, Any], pipeline: Any) -> Any:
    import diffusers.hooks as hooks

    if kind == "mag":
        return hooks.MagCacheConfig(num_inference_steps=8, **options)
    if kind == "pyramid":
        return hooks.PyramidAttentionBroadcastConfig(
            **options, current_timestep_callback=lambda: pipeline.current_timestep
        )
    return {
        "first_block": hooks.FirstBlockCacheConfig,
        "taylor_seer": hooks.TaylorSeerCacheConfig,
    }[kind](**options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("first_block", {"threshold": 0.3}),
        ("taylor_seer", {"cache_interval": 3, "disable_cache_before_step": 2}),
        ("mag", {"mag_ratios": [1.0, 1.0, 0.99], "threshold": 0.5}),
        ("pyramid", {"spatial_attention_block_skip_range": 2}),
    ],
)
def test_a_step_cache_draws_what_diffusers_draws_with_it(
    kind: str, options: dict[str, Any], at: Callable[[str], str], pool: ModelPool
) -> None:
    """Bit for bit, twice in a row; without it, the same network draws as it did before."""
    model = at("flux")
    plain = draw(pool, model)
    pipeline = pipeline_of(model)
    pipeline.transformer.enable_cache(configured(kind, options, pipeline))
    direct = by_hand(pipeline)
    assert not np.array_equal(plain, direct)
    loaded = pool.resident()
    for _ in range(2):
        assert np.array_equal(draw(pool, model, {"step_cache": {kind: options}}), direct)
    assert np.array_equal(draw(pool, model), plain)
    assert pool.resident() == loaded


def test_a_bare_value_is_the_first_option(at: Callable[[str], str], pool: ModelPool) -> None:
    model = at("flux")
    short = draw(pool, model, {"step_cache": {"first_block": 0.3}})
    long = draw(pool, model, {"step_cache": {"first_block": {"threshold": 0.3}}})
    assert np.array_equal(short, long)


@pytest.mark.parametrize("kind", ["first_block", "taylor_seer", "pyramid"])
def test_a_step_cache_of_a_stopped_call_is_gone(
    kind: str, at: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the midst, or failed: the next pictures, with the cache and without, are those
    of a fresh model.
    """
    from diffusers import FluxTransformer2DModel

    model, settings = at("flux"), {"step_cache": kind}
    with ModelPool() as fresh:
        cached, plain = draw(fresh, model, settings), draw(fresh, model)
    with ModelPool() as pool:
        cancel = threading.Event()
        forward, calls = FluxTransformer2DModel.forward, []

        def stopping(network: Any, *given: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == 5:
                cancel.set()
            return forward(network, *given, **more)

        monkeypatch.setattr(FluxTransformer2DModel, "forward", stopping)
        plan = flow.plan(graph(model, settings), store=None, device="cpu")
        events = [type(e).__name__ for e in flow.execute(plan, cancel=cancel, pool=pool)]
        monkeypatch.undo()
        assert 5 <= len(calls) < 8 and "StepFinished" not in events[-2:]
        assert np.array_equal(draw(pool, model, settings), cached)
        calls.clear()

        def failing(network: Any, *given: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == 5:
                raise RuntimeError("the power is out")
            return forward(network, *given, **more)

        monkeypatch.setattr(FluxTransformer2DModel, "forward", failing)
        with pytest.raises(flow.NodeError, match="the power is out"):
            draw(pool, model, settings)
        monkeypatch.undo()
        assert np.array_equal(draw(pool, model), plain)
        assert np.array_equal(draw(pool, model, settings), cached)


def test_steps_with_a_cache_are_computed_one_by_one(at: Callable[[str], str]) -> None:
    """A step cache decides for a whole batch; with it, ``batch`` changes neither pictures nor
    keys.
    """
    model = at("flux")
    many = {"each": {"seed": [1, 2, 3]}}
    asked = graph(model, {"step_cache": {"first_block": 0.3}}, **many)
    del asked["nodes"]["picture"]["seed"]
    with ModelPool() as pool:
        alone = flow.run(asked, store=None, pool=pool, device="cpu")["out"]
        together = flow.run(asked, store=None, pool=pool, device="cpu", batch="auto")["out"]
        assert pool.sound_groups == {}
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one.pixels, other.pixels)
    assert key(asked) == key(asked, batch="auto")
    del asked["settings"]["step_cache"]
    assert key(asked) != key(asked, batch="auto")


def key(asked: dict[str, Any], **more: Any) -> Any:
    plan = flow.plan(asked, store=None, device="cpu", **more)
    assert not plan.problems
    return [step.key for step in plan.steps]


def test_a_step_cache_enters_the_key_with_its_options(at: Callable[[str], str]) -> None:
    model = at("flux")
    keys = [
        key(graph(model, settings))
        for settings in (
            {},
            {"step_cache": "first_block"},
            {"step_cache": {"first_block": 0.1}},
            {"step_cache": "taylor_seer"},
        )
    ]
    assert len({str(one) for one in keys}) == 4
    assert key(graph(model, {"step_cache": "none"})) == keys[0]
    overridden = graph(model, {"step_cache": "first_block"})
    overridden["nodes"]["picture"]["settings"] = {"step_cache": "none"}
    assert key(overridden) == keys[0]


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("sd", {"step_cache": "first_block"}, "a UNet2DConditionModel, has no step cache"),
        ("chroma", {"step_cache": "first_block"}, "diffusers does not know its blocks"),
        ("sana", {"compile": "regional"}, "names no blocks to compile"),
        ("flux", {"offload": "groups"}, "its weights are there already"),
        (
            "flux",
            {"layerwise_casting": "float8_e4m3fn", "quantization": "int8"},
            "say one of them",
        ),
        (
            "flux",
            {"layerwise_casting": "float8_e4m3fn", "offload": "layers"},
            "say offload: model",
        ),
    ],
)
def test_what_a_model_has_not_got_is_told_when_planning(
    kind: str, settings: dict[str, Any], words: str, at: Callable[[str], str]
) -> None:
    assert words in problem(at(kind), settings)


def test_planning_with_these_settings_imports_no_torch(at: Callable[[str], str]) -> None:
    asked = graph(at("flux"), {"step_cache": {"first_block": 0.1}, "compile": "regional"})
    code = (
        "import sys, imagen_flow as flow\n"
        f"plan = flow.plan({asked!r}, store=None, device='cpu')\n"
        "assert not plan.problems, plan.problems\n"
        "print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_pipeline_that_does_not_tell_its_branches_is_refused(
    at: Callable[[str], str], pool: ModelPool, photos: Callable[[int], Any]
) -> None:
    """diffusers would fail in the midst, or mix the prompt with the negative prompt; the network
    is as it was.
    """
    asked = graph(at("flux"), {"step_cache": "taylor_seer"}, image="${photo}")
    asked["nodes"]["picture"]["type"] = "diffusion.image_to_image"
    asked["nodes"]["photo"] = photos(1)[1]
    with pytest.raises(flow.NodeError) as caught:
        flow.run(asked, store=None, pool=pool, device="cpu")
    assert "is not for FluxImg2ImgPipeline, which does not tell the steps" in str(caught.value)


@pytest.mark.slow
def test_an_editor_follows_them_too(
    at: Callable[[str], str], pool: ModelPool, photos: Callable[[int], Any]
) -> None:
    """An editor is lent by a loader that other plugins may replace."""

    def edited(settings: dict[str, Any]) -> np.ndarray:
        node = {
            "type": "image.edit",
            "model": at("qwen-edit"),
            "image": "${photo}",
            "instruction": "make it blue",
            "num_inference_steps": 6,
            "seed": 3,
        }
        asked = {
            "imagen_flow": 1,
            "settings": settings,
            "nodes": {"photo": photos(1)[1], "edited": node},
            "outputs": {"out": "${edited}"},
        }
        return np.asarray(flow.run(asked, store=None, pool=pool, device="cpu")["out"].pixels)

    plain = edited({})
    assert not np.array_equal(edited({"step_cache": {"taylor_seer": 3}}), plain)
    assert np.array_equal(edited({}), plain)


def test_attention_is_not_handed_to_the_negative_prompt(
    at: Callable[[str], str], pool: ModelPool
) -> None:
    """Where a network is called once for each, Pyramid Attention Broadcast would do so silently."""
    more = {"negative_prompt": "blue", "arguments": {"true_cfg_scale": 3.0}}
    with pytest.raises(flow.NodeError, match="diffusers would mix their attention"):
        draw(pool, at("qwen"), {"step_cache": "pyramid"}, **more)


@pytest.mark.parametrize("kind", ["flux", "flux-2", "qwen", "sd3", "z-image"])
def test_networks_whose_blocks_are_known_have_the_cache_that_skips_them(
    kind: str, at: Callable[[str], str], pool: ModelPool
) -> None:
    """What planning reads in the source of diffusers is so, unless the pipeline lacks something."""
    name = json.loads((Path(at(kind)) / "model_index.json").read_text("utf-8"))["transformer"][1]
    can = abilities_of(name)
    assert can is not None
    told = flow.plan(graph(at(kind), {"step_cache": "first_block"}), store=None, device="cpu")
    assert bool(told.problems) != (can.caches and can.blocks_known)
    if not told.problems:
        try:
            draw(pool, at(kind), {"step_cache": "first_block"})
        except flow.NodeError as error:
            assert "which does not tell the steps of the prompt" in str(error)


def test_a_network_of_one_block_has_none_to_skip(at: Callable[[str], str], pool: ModelPool) -> None:
    with pytest.raises(flow.NodeError, match="it has fewer than two blocks"):
        draw(pool, at("cogview"), {"step_cache": "first_block"})
    draw(pool, at("cogview"))


@pytest.mark.slow
def test_the_abilities_of_all_networks_are_those_that_they_declare() -> None:
    """Read in the source, as when planning, and asked of the classes."""
    import diffusers

    seen = 0
    for name in dir(diffusers):
        cls = getattr(diffusers, name, None)
        if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin)):
            continue
        if cls is diffusers.ModelMixin or not cls.__module__.startswith("diffusers.models."):
            continue
        can = abilities_of(name)
        assert can is not None, name
        assert can.caches == issubclass(cls, diffusers.CacheMixin), name
        assert can.repeats == tuple(cls._repeated_blocks or ()), name
        assert can.offloads_groups == cls._supports_group_offloading, name
        seen += can.caches
    assert seen > 30


# --- compiled blocks, weights in 8 bits, groups of layers
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flux", "sd"])
def test_weights_that_wait_in_8_bits_draw_what_diffusers_draws(
    kind: str, at: Callable[[str], str]
) -> None:
    """Bit for bit, twice; and the network without it is another one."""
    model = at(kind)
    pipeline = pipeline_of(model)
    part = "transformer" if kind == "flux" else "unet"
    with ModelPool() as pool:
        plain = draw(pool, model)
        getattr(pipeline, part).enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
        )
        direct = by_hand(pipeline)
        assert not np.array_equal(plain, direct)
        for _ in range(2):
            drawn = draw(pool, model, {"layerwise_casting": "float8_e4m3fn"})
            assert np.array_equal(drawn, direct)
        assert np.array_equal(draw(pool, model), plain)


def test_only_repeated_blocks_are_compiled(
    at: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__)
    )
    with ModelPool() as pool:
        draw(pool, at("flux"), {"compile": "regional"})
    assert set(compiled) == {"FluxTransformerBlock", "FluxSingleTransformerBlock"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_blocks_draw_the_same_within_one_level(at: Callable[[str], str]) -> None:
    """With the compiler of this machine; the network that is not compiled is another one."""
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    model = at("flux")
    with ModelPool() as pool:
        plain = draw(pool, model)
        drawn = draw(pool, model, {"compile": "regional"})
        assert np.abs(drawn.astype(int) - plain.astype(int)).max() <= 1
        cached = {"step_cache": {"first_block": 0.3}}
        both = draw(pool, model, {"compile": "regional", **cached}).astype(int)
        assert np.abs(both - draw(pool, model, cached)).max() <= 1
        assert np.array_equal(draw(pool, model, {"compile": "regional"}), drawn)
        assert np.array_equal(draw(pool, model), plain)


@pytest.mark.parametrize("kind", ["flux", "sd"])
def test_groups_of_layers_that_come_and_go_give_the_same_pixels(
    kind: str, at: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here from the host to itself; so ``offload: groups`` is in no key."""
    from imagen_flow_diffusion.checkpoints import placing
    from imagen_flow_diffusion.loading import groups

    model = at(kind)
    assert key(graph(model, {}), dtype="float32") == key(
        graph(model, {"offload": "model"}), dtype="float32"
    )
    placed: list[str] = []
    in_groups = placing._in_groups
    monkeypatch.setattr(
        placing,
        "_in_groups",
        lambda module, device: placed.append(type(module).__name__) or in_groups(module, device),
    )
    monkeypatch.setattr(groups, "check_abilities", lambda *given, **more: None)
    with ModelPool() as pool:
        plain = draw(pool, model)
        assert placed == []
        for _ in range(2):
            assert np.array_equal(draw(pool, model, {"offload": "groups"}), plain)
    assert {"AutoencoderKL", "CLIPTextModel"} < set(placed)


def test_the_device_of_groups_is_the_one_that_they_come_to() -> None:
    """Their weights are on the host, and what goes in must not be sent there."""
    from diffusers import UNet2DModel

    from imagen_flow_diffusion.checkpoints.folder import device_of
    from imagen_flow_diffusion.checkpoints.placing import place

    network = UNet2DModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    place(network, device="cuda:0", settings=Loading(offload="groups"))
    assert next(network.parameters()).device.type == "cpu"
    assert device_of(network) == torch.device("cuda:0")


@pytest.mark.parametrize("asked", [{"layerwise_casting": "float8_e5m2"}, {"offload": "groups"}])
def test_adapters_do_not_go_with_hooks_on_layers(
    asked: dict[str, Any], at: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Layers that adapters put on would neither be cast nor brought to the device."""
    from imagen_flow_diffusion.loading import groups

    monkeypatch.setattr(groups, "check_abilities", lambda *given, **more: None)
    lora = companions.lora(tmp_path / "fox.safetensors")
    ((name, value),) = asked.items()
    with (
        ModelPool() as pool,
        pytest.raises(flow.NodeError, match=f"adapters do not go with {name}: {value}"),
    ):
        draw(pool, at("sd"), asked, loras=[str(lora)])


# --- attention
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["native", "_native_math"])
def test_attention_is_what_diffusers_computes_by_that_name(
    name: str, at: Callable[[str], str]
) -> None:
    """Bit for bit; the name is in the key, the model is not loaded twice, and nothing is left of
    it on the network or in the process.
    """
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _AttentionBackendRegistry,
        attention_backend,
    )

    model, settings = at("flux"), {"attention": f"diffusers/{name}"}
    active = _AttentionBackendRegistry._active_backend
    with attention_backend(AttentionBackendName(name)):
        direct = by_hand(pipeline_of(model))
    seen: list[Any] = []
    backends = _AttentionBackendRegistry._backends
    computed = backends[AttentionBackendName(name)]
    backends[AttentionBackendName(name)] = lambda **given: seen.append(name) or computed(**given)
    try:
        with ModelPool() as pool:
            plain = draw(pool, model)
            loaded = pool.resident()
            seen.clear()
            assert np.array_equal(draw(pool, model, settings), direct)
            assert seen
            seen.clear()
            assert np.array_equal(draw(pool, model), plain)
            assert bool(seen) == (name == active.value)
            assert pool.resident() == loaded
    finally:
        backends[AttentionBackendName(name)] = computed
    assert _AttentionBackendRegistry._active_backend is active
    assert key(graph(model, settings)) != key(graph(model, {}))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("flux", "sage", "for the library sageattention is not installed"),
        ("flux", "flash_varlen", "for the library flash-attn is not installed"),
        ("flux", "xformers", "for the library xformers is not installed"),
        ("flux", "flash_hub", "its code would be downloaded from the hub"),
        ("flux", "_native_cudnn", "it runs on accelerators alone"),
        ("flux", "sagee", "did you mean 'sage'?"),
        ("sd", "native", "does not ask diffusers for its attention"),
    ],
)
def test_attention_that_cannot_be_had_is_told_when_planning(
    kind: str, name: str, words: str, at: Callable[[str], str]
) -> None:
    assert words in problem(at(kind), {"attention": f"diffusers/{name}"})


def test_every_attention_of_diffusers_is_known_by_its_name() -> None:
    """Read in its source without importing it."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert set(attention_names()) == {name.value for name in AttentionBackendName}


# --- text encodings
# ------------------------------------------------------------------------------------------------------------------


def test_encoded_text_is_kept_like_any_step(at: Callable[[str], str], tmp_path: Path) -> None:
    """Under another seed and another step cache, in a pool of its own, no text encoder is
    loaded: the states come from the store.
    """
    model = at("flux")

    def asked(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {
            "imagen_flow": 1,
            "nodes": {
                "words": {"type": "text.encode", "model": model, "prompt": "a red fox"},
                "latents": {
                    "type": "diffusion.denoise",
                    "model": model,
                    "text": "${words}",
                    "seed": seed,
                    "settings": settings,
                    **ASKED,
                },
            },
            "outputs": {"out": "${latents}"},
        }

    loaded = []
    for seed, settings in ((3, {}), (4, {}), (4, {"step_cache": {"first_block": 0.3}})):
        with ModelPool() as pool:
            flow.run(asked(seed, settings), store=tmp_path / "store", pool=pool, device="cpu")
            loaded.append(sorted(one.loader.rpartition(".")[2] for one in pool.resident()))
    assert [names.count("TextParts") for names in loaded] == [1, 0, 0]
    assert [names.count("DenoiserParts") for names in loaded] == [1, 1, 1]
