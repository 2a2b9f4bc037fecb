"""Quantized checkpoints: the pictures that diffusers draws when it is told the same by hand, the
memory that was estimated, and clear words where a quantization cannot run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import (
    ModelPool,
    effective_settings,
    lend_and_call,
    quiet_libraries,
    resolve,
    weight_of,
)
from imagen_flow._settings import devices
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Loading, Model
from imagen_flow_diffusion.checkpoints import quantizing
from imagen_flow_diffusion.loading.components import Drawing
from imagen_flow_diffusion.loading.groups import (
    AutoencoderParts,
    DenoiserParts,
    OtherParts,
    SamplerParts,
    TextParts,
)
from imagen_flow_diffusion.tiny import checkpoints, companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

#: A family, the function that makes it, its denoiser, and its text encoders.
FAMILIES = {
    "sd": (checkpoints.stable_diffusion, "unet", ("text_encoder",)),
    "flux": (checkpoints.flux, "transformer", ("text_encoder", "text_encoder_2")),
}
ASKED: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "width": 32, "height": 48}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with quiet_libraries():
        for name, (make, *_) in FAMILIES.items():
            make(folder / name)
        checkpoints.stable_diffusion_xl(folder / "xl")
        companions.lora(folder / "fox.safetensors")
    return folder


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as opened:
        yield opened


def graph(
    checkpoint: Path, said: dict[str, Any], *, split: bool = False, **more: Any
) -> dict[str, Any]:
    if split:
        nodes: dict[str, Any] = {
            "words": {
                "type": "text.encode",
                "model": str(checkpoint),
                "prompt": "a red fox",
                **more,
            },
            "latents": {
                "type": "diffusion.denoise",
                "model": str(checkpoint),
                "text": "${words}",
                "seed": 3,
                **ASKED,
                **more,
            },
            "picture": {
                "type": "latents.decode",
                "model": str(checkpoint),
                "latents": "${latents}",
            },
        }
    else:
        nodes = {
            "picture": {
                "type": "diffusion.text_to_image",
                "model": str(checkpoint),
                "prompt": "a red fox",
                "seed": 3,
                **ASKED,
                **more,
            }
        }
    return {"imagen_flow": 1, "settings": said, "nodes": nodes, "outputs": {"out": "${picture}"}}


def draw(pool: ModelPool, *given: Any, **more: Any) -> np.ndarray:
    return np.asarray(
        flow.run(graph(*given, **more), store=None, pool=pool, device="cpu")["out"].pixels
    )


def by_hand(
    checkpoint: Path, family: str, quantization: str, lora: Path | None = None
) -> np.ndarray:
    """Draw as the documentation of diffusers has it, with what quantizes named part by part."""
    import diffusers
    import transformers
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    config = {"int8": Int8WeightOnlyConfig, "float8": Float8WeightOnlyConfig}[quantization]
    _, denoiser, encoders = FAMILIES[family]
    mapping = {
        denoiser: diffusers.TorchAoConfig(config()),
        **{name: transformers.TorchAoConfig(config()) for name in encoders},
    }
    with quiet_libraries():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            checkpoint,
            torch_dtype=torch.float32,
            quantization_config=diffusers.PipelineQuantizationConfig(quant_mapping=mapping),
            use_safetensors=True,
            local_files_only=True,
        )
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name, local_files_only=True)
    return np.asarray(
        pipeline("a red fox", **ASKED, generator=torch.Generator("cpu").manual_seed(3)).images[0]
    )


# --- pictures
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["int8", "float8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_picture_is_that_of_diffusers_quantized_by_hand(
    made: Path, pool: ModelPool, family: str, quantization: str
) -> None:
    """Bit for bit: by one node, by three, after eviction, and with layers that come and go; and it
    is another than without quantization, if not by much.
    """
    checkpoint, settings = made / family, {"quantization": quantization}
    direct = by_hand(checkpoint, family, quantization)
    assert np.array_equal(draw(pool, checkpoint, settings), direct)
    assert np.array_equal(draw(pool, checkpoint, settings, split=True), direct)
    assert pool.evict_idle()
    assert np.array_equal(draw(pool, checkpoint, settings), direct)
    plain = draw(pool, checkpoint, {})
    assert not np.array_equal(plain, direct)
    assert np.abs(plain.astype(int) - direct).mean() < 2


def test_a_lora_is_put_on_quantized_weights_and_taken_off(made: Path, pool: ModelPool) -> None:
    """Its picture is that of diffusers by hand, and the base draws as before it."""
    checkpoint, settings = made / "sd", {"quantization": "int8"}
    before = draw(pool, checkpoint, settings)
    with_lora = draw(pool, checkpoint, settings, loras=[str(made / "fox.safetensors")])
    assert np.array_equal(with_lora, by_hand(checkpoint, "sd", "int8", made / "fox.safetensors"))
    assert np.array_equal(
        draw(pool, checkpoint, settings, split=True, loras=[str(made / "fox.safetensors")]),
        with_lora,
    )
    assert not np.array_equal(with_lora, before)
    assert np.array_equal(draw(pool, checkpoint, settings), before)


@pytest.mark.parametrize("quantization", ["int8", "float8"])
def test_quantized_layers_come_and_go(
    made: Path, pool: ModelPool, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``offload: layers`` the quantized weights are away and come back layer by layer, here
    from the host to itself; the picture is the same.
    """
    from accelerate import cpu_offload

    plain = draw(pool, made / "flux", {"quantization": quantization})

    def place(module: Any, *, device: str, settings: Loading) -> Any:
        cpu_offload(module, torch.device(device), offload_buffers=True)
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
        return module

    monkeypatch.setattr(loaders, "place_module", place)
    assert np.array_equal(
        draw(pool, made / "flux", {"quantization": quantization, "offload": "layers"}), plain
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_is_quantized_can_be_compiled(made: Path) -> None:
    """torch's compiler takes the quantized denoiser; what it computes is the same to the last bits."""
    model = resolved(made / "flux")
    given = {
        "hidden_states": torch.randn(1, 6, 64),
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
    }
    given |= {
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(5, 3),
        "guidance": torch.tensor([3.0]),
    }
    results = []
    for settings in (Loading("int8"), Loading("int8", compile=True)):
        with (
            ModelPool() as pool,
            pool.lease(
                DenoiserParts(), model, device="cpu", dtype="float32", settings=settings
            ) as group,
            torch.no_grad(),
        ):
            network = group.parts["transformer"]
            if settings.compile:
                assert network._compiled_call_impl is not None
                network.compile(
                    backend="aot_eager"
                )  # torch's own needs minutes for the first of all
            results.append(network(**given).sample)
    assert torch.allclose(*results, atol=1e-5)


# --- what it is part of
# --------------------------------------------------------------------------------------------------------


def resolved(folder: Path) -> Model:
    return resolve(f"./{folder.name}", folder=folder.parent, embedded={}, digest=digest_file)


def test_only_denoisers_and_text_encoders_heed_it(made: Path, pool: ModelPool) -> None:
    """What decodes is one object for both; keys differ only of nodes that quantize."""
    assert [
        effective_settings(loader, Loading("int8")).quantization
        for loader in (
            TextParts(),
            DenoiserParts(),
            AutoencoderParts(),
            SamplerParts(),
            OtherParts(),
        )
    ] == ["int8", "int8", "none", "none", "none"]
    keys = [
        [
            step.key
            for step in flow.plan(
                graph(made / "sd", settings, split=True), store=None, device="cpu"
            ).steps
        ]
        for settings in ({}, {"quantization": "int8"})
    ]
    assert keys[0][0] != keys[1][0]
    noise = {
        "noise": {
            "type": "latents.noise",
            "model": str(made / "sd"),
            "width": 32,
            "height": 32,
            "seed": 1,
        }
    }
    drawn = [
        flow.plan(
            {"imagen_flow": 1, "settings": settings, "nodes": noise, "outputs": {"o": "${noise}"}},
            store=None,
            device="cpu",
        )
        .steps[0]
        .key
        for settings in ({}, {"quantization": "int8"})
    ]
    assert drawn[0] == drawn[1]
    draw(pool, made / "sd", {})
    loaded = len(pool.resident())
    draw(pool, made / "sd", {"quantization": "int8"})
    assert [
        i.loader.rpartition(".")[2] for i in pool.resident() if i.settings.quantization == "int8"
    ] == ["DenoiserParts", "TextParts"]
    assert len(pool.resident()) == loaded + 2


def test_another_version_of_what_quantizes_draws_anew(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version of torchao is in the keys of what it quantizes, and in no others."""
    from imagen_flow._plugins.registry import Registry

    def keys(said: dict[str, Any]) -> list[Any]:
        return [
            step.key for step in flow.plan(graph(made / "sd", said), store=None, device="cpu").steps
        ]

    before = keys({"quantization": "int8"}), keys({})
    version_of = Registry.version_of
    monkeypatch.setattr(
        Registry,
        "version_of",
        lambda registry, library: "99" if library == "torchao" else version_of(registry, library),
    )
    assert keys({"quantization": "int8"}) != before[0]
    assert keys({}) == before[1]


def test_autoencoders_stay_as_they_are(made: Path) -> None:
    """No weight of theirs is another kind of tensor; all linear layers of the denoiser's are."""
    with (
        ModelPool() as pool,
        pool.lease(
            Drawing(),
            resolved(made / "sd"),
            device="cpu",
            dtype="float32",
            settings=Loading("int8"),
        ) as checkpoint,
    ):
        kinds = {
            name: {type(weight).__name__ for weight in part.parameters() if weight.ndim == 2}
            for name, part in checkpoint.parts.items()
            if isinstance(part, torch.nn.Module)
        }
        assert {type(weight) for weight in checkpoint.parts["vae"].parameters()} == {
            torch.nn.Parameter
        }
    assert {name: kinds[name] for name in ("text_encoder", "unet")} == {
        "text_encoder": {"Int8Tensor", "Parameter"},
        "unet": {"Int8Tensor"},
    }  # embeddings are no linear layers


# --- memory
# --------------------------------------------------------------------------------------------------------------------


def held(tensor: Any) -> int:
    """The bytes that a tensor takes, with those of which it is made."""
    return (
        sum(held(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        if hasattr(tensor, "__tensor_flatten__")
        else tensor.numel() * tensor.element_size()
    )


@pytest.mark.parametrize("quantization", ["none", "int8", "float8"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_memory_that_is_estimated_is_what_is_taken(
    made: Path, quantization: str, dtype: str
) -> None:
    """To one part in a hundred, of denoisers and text encoders, with the scales that the libraries
    keep beside the weights, and what they leave as it is.
    """
    settings = Loading(quantization)
    for family in (*FAMILIES, "xl"):
        for loader in (DenoiserParts(), TextParts()):
            with (
                ModelPool() as pool,
                pool.lease(
                    loader, resolved(made / family), device="cpu", dtype=dtype, settings=settings
                ) as group,
            ):
                taken = sum(
                    held(p)
                    for part in group.parts.values()
                    if isinstance(part, torch.nn.Module)
                    for p in part.parameters()
                )
            assert weight_of(
                loader, resolved(made / family), dtype=dtype, settings=settings
            ) == pytest.approx(taken, rel=0.01)


def test_a_plan_counts_quantized_weights_and_shared_parts_once(made: Path) -> None:
    """Three nodes of one checkpoint take what it weighs, and quantized less of it; the autoencoder
    weighs the same.
    """

    def memory(said: dict[str, Any], **more: Any) -> int:
        plan = flow.plan(graph(made / "sd", said, **more), store=None, device="cpu")
        assert plan.memory == {"cpu": plan.models[0]["memory_bytes"]}
        return plan.memory["cpu"]

    assert (
        memory({}, split=True)
        == memory({})
        > memory({"quantization": "int8"}, split=True)
        == memory({"quantization": "int8"})
    )
    saved = memory({}) - memory({"quantization": "int8"})
    model = resolved(made / "sd")
    assert saved == sum(
        weight_of(loader, model, dtype="float32")
        - weight_of(loader, model, dtype="float32", settings=Loading("int8"))
        for loader in (DenoiserParts(), TextParts())
    )
    both = memory({}, split=True, settings={"quantization": "int8"})
    assert both == memory({"quantization": "int8"})


# --- what cannot be
# ------------------------------------------------------------------------------------------------------------


def refused(
    checkpoint: Path,
    settings: dict[str, Any],
    device: str = "cpu",
    dtype: str | None = None,
    **more: Any,
) -> str:
    plan = flow.plan(graph(checkpoint, settings, **more), store=None, device=device, dtype=dtype)
    assert [problem.code for problem in plan.problems] == ["bad-model"]
    assert [step.reason for step in plan.steps] == [
        "its model cannot be loaded with these settings"
    ]
    return plan.problems[0].message.partition("cannot be loaded with ")[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU, as far as planning looks at it."""
    machine = devices.Machine("Linux", "x86_64", "cuda", lambda: 1)
    monkeypatch.setattr(devices, "this_machine", lambda: machine)

    def having(capability: tuple[int, int] | None) -> None:
        monkeypatch.setattr(loaders, "compute_capability", lambda device: capability)

    return having


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"quantization": "int4", "dtype": "bfloat16"},
            "quantization: int4 on cpu: torchao's kernels for it are CUDA's; int8 runs here",
        ),
        (
            {"quantization": "nf4"},
            "quantization: nf4 on cpu: bitsandbytes's kernels for it are CUDA's; int8 runs here",
        ),
    ],
)
def test_what_the_processor_cannot_do_is_told_when_planning(
    made: Path, settings: dict[str, Any], said: str
) -> None:
    """Before anything is loaded, with what can be said instead."""
    assert refused(made / "sd", settings) == said


@pytest.mark.parametrize(
    ("settings", "capability", "said"),
    [
        (
            {"quantization": "int4"},
            (9, 0),
            "quantization: int4 in float16: torchao's kernel computes in bfloat16 alone; say dtype: bfloat16",
        ),
        (
            {"quantization": "int4", "dtype": "bfloat16"},
            (7, 5),
            "quantization: int4 on cuda:0: it needs a GPU of compute capability 8.0, and this one has 7.5; int8 runs here",
        ),
        (
            {"quantization": "float8"},
            (8, 6),
            "quantization: float8 on cuda:0: it needs a GPU of compute capability 8.9, and this one has 8.6; int8 runs here",
        ),
        (
            {"quantization": "nf4", "offload": "layers"},
            (9, 0),
            "quantization: nf4 and offload: layers: bitsandbytes' weights do not come and go one by one; say offload: model",
        ),
    ],
)
def test_what_a_gpu_cannot_do_is_told_when_planning(
    made: Path, gpu: Any, settings: dict[str, Any], capability: tuple[int, int], said: str
) -> None:
    """By what its driver says of it, without torch."""
    gpu(capability)
    assert refused(made / "sd", settings, device="cuda") == said


@pytest.mark.parametrize("capability", [(9, 0), None])
@pytest.mark.parametrize("quantization", loaders.QUANTIZERS)
def test_a_gpu_of_today_does_all(
    made: Path, gpu: Any, capability: tuple[int, int] | None, quantization: str
) -> None:
    """One whose driver does not tell is given the benefit of the doubt."""
    gpu(capability)
    assert (
        flow.plan(
            graph(made / "sd", {"quantization": quantization, "dtype": "bfloat16"}),
            store=None,
            device="cuda",
        ).problems
        == ()
    )


@pytest.mark.parametrize(
    ("quantization", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")]
)
def test_a_library_that_is_missing_is_named_when_planning(
    made: Path, quantization: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra that brings it."""
    monkeypatch.setattr(quantizing, "find_spec", lambda name: None)
    assert (
        refused(made / "sd", {"quantization": quantization})
        == f"quantization: {quantization}, for the library {library} is not installed: pip install 'imagen-flow[quantization]'"
    )


def test_what_cannot_run_is_refused_before_it_is_loaded_too(made: Path, pool: ModelPool) -> None:
    """A model that no plan saw, such as one that a node made."""
    with (
        pytest.raises(flow.ModelError) as caught,
        pool.lease(
            DenoiserParts(),
            resolved(made / "sd"),
            device="cpu",
            dtype="float32",
            settings=Loading("nf4"),
        ),
    ):
        pass
    assert (
        str(caught.value)
        == "the model './sd' cannot be loaded with quantization: nf4 on cpu: bitsandbytes's kernels for it are CUDA's; int8 runs here"
    )
    assert pool.resident() == []


def test_a_level_that_a_quantization_cannot_take_is_left_out(
    made: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory with nf4, models wait in turn, but their layers do not; the node's own error is
    raised in the end.
    """
    gpu((9, 0))
    levels: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        DenoiserParts, "load", staticmethod(lambda model, **given: given["settings"].offload)
    )

    def call(models: dict[str, Any], taken: tuple[str, ...]) -> None:
        levels.append(taken)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with ModelPool(budget_bytes=10**9) as pool, pytest.raises(torch.OutOfMemoryError):
        lend_and_call(
            pool,
            {"m": (DenoiserParts(), resolved(made / "sd"))},
            call,
            device="cuda:0",
            dtype="float16",
            settings=Loading("nf4"),
            levels=("evict", "offload", "stream"),
        )
    assert levels == [(), ("evict",), ("evict", "offload")]


# --- saved quantized
# -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose denoiser was quantized before it was saved, as such repositories are made."""
    import shutil

    import diffusers
    from torchao.quantization import Int8WeightOnlyConfig

    folder = tmp_path_factory.mktemp("saved") / "flux"
    shutil.copytree(made / "flux", folder)
    with quiet_libraries():
        network = diffusers.FluxTransformer2DModel.from_pretrained(
            folder / "transformer",
            torch_dtype=torch.bfloat16,
            quantization_config=diffusers.TorchAoConfig(Int8WeightOnlyConfig()),
        )
        shutil.rmtree(folder / "transformer")
        network.save_pretrained(folder / "transformer")
    return folder


def test_a_part_that_was_saved_quantized_is_loaded_as_it_is(saved: Path, pool: ModelPool) -> None:
    """Whatever the settings say of it: the picture is that of diffusers by hand, and its memory is
    estimated from its file.
    """
    import diffusers

    with quiet_libraries():
        pipeline = diffusers.FluxPipeline.from_pretrained(
            saved, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    direct = np.asarray(
        pipeline("a red fox", **ASKED, generator=torch.Generator("cpu").manual_seed(3)).images[0]
    )
    assert np.array_equal(draw(pool, saved, {}), direct)
    assert np.array_equal(draw(pool, saved, {}, split=True), direct)
    with pool.lease(
        DenoiserParts(), resolved(saved), device="cpu", dtype="bfloat16", settings=Loading("float8")
    ) as group:
        network = group.parts["transformer"]
        assert {
            type(m.weight).__name__ for m in network.modules() if isinstance(m, torch.nn.Linear)
        } == {"Int8Tensor"}
        taken = sum(held(p) for p in network.parameters())
    assert weight_of(
        DenoiserParts(), resolved(saved), dtype="bfloat16", settings=Loading("float8")
    ) == pytest.approx(taken, rel=0.01)


def marked(made: Path, folder: Path, part: str, method: str) -> Path:
    """A checkpoint whose part says that it was saved quantized."""
    import shutil

    shutil.copytree(made / "flux", folder)
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(
        json.dumps(
            {**config, "quantization_config": {"quant_method": method, "load_in_4bit": True}}
        )
    )
    return folder


@pytest.mark.parametrize(
    ("part", "method", "said"),
    [
        (
            "transformer",
            "bitsandbytes",
            "is quantized (bitsandbytes), and diffusers loads that on a GPU alone",
        ),
        (
            "transformer",
            "quanto",
            "is quantized (quanto), and the library optimum-quanto is not installed: pip install optimum-quanto",
        ),
        (
            "transformer",
            "nunchaku_lite",
            "is quantized (nunchaku_lite), and what reads that may be code from the hub, which runs only if you pass --trust-remote-code {model}",
        ),
        (
            "text_encoder_2",
            "modelopt",
            "is quantized (modelopt), and the library nvidia-modelopt is not installed: pip install nvidia-modelopt",
        ),
    ],
)
def test_what_a_part_that_was_saved_quantized_needs_is_told_when_planning(
    made: Path, tmp_path: Path, part: str, method: str, said: str
) -> None:
    """Which library is missing, or that the device will not do."""
    plan = flow.plan(
        graph(marked(made, tmp_path / "m", part, method), {}), store=None, device="cpu"
    )
    assert [problem.message for problem in plan.problems] == [
        f"the {part} of the model '{tmp_path / 'm'}' {said.format(model=tmp_path / 'm')}"
    ]


def test_no_part_brings_code_from_the_hub(made: Path, tmp_path: Path, pool: ModelPool) -> None:
    """Not by the method that an autoencoder says it was quantized by either, of which the plan asks
    nothing.
    """
    with pytest.raises(flow.NodeError) as caught:
        draw(pool, marked(made, tmp_path / "m", "vae", "nunchaku_lite"), {})
    assert "the vae of the model" in str(caught.value)
    assert "runs only if you pass --trust-remote-code" in str(caught.value)


def test_quantizing_sets_nothing_for_the_whole_process(made: Path, pool: ModelPool) -> None:
    """torchao's configurations tune torch's compiler unless they are told not to: another compiled
    model would be another afterwards.
    """
    import torch._inductor.config as inductor

    before = (
        inductor.coordinate_descent_tuning,
        inductor.force_fuse_int_mm_with_mul,
        torch.get_float32_matmul_precision(),
    )
    for quantization in ("int8", "float8"):
        draw(pool, made / "sd", {"quantization": quantization})
    assert (
        inductor.coordinate_descent_tuning,
        inductor.force_fuse_int_mm_with_mul,
        torch.get_float32_matmul_precision(),
    ) == before


def test_one_file_of_weights_is_not_quantized(made: Path, tmp_path: Path) -> None:
    """diffusers takes the configuration and leaves the weights as they are: the plan refuses,
    rather than that memory runs out.
    """
    import shutil

    from diffusers import FluxTransformer2DModel, TorchAoConfig
    from safetensors.torch import load_file, save_file
    from torchao.quantization import Int8WeightOnlyConfig

    file = tmp_path / "transformer.safetensors"
    save_file(
        load_file(next((made / "flux" / "transformer").glob("*.safetensors"))),
        file,
        {"format": "pt"},
    )
    shutil.copytree(made / "flux", tmp_path / "flux")
    with quiet_libraries():
        network = FluxTransformer2DModel.from_single_file(
            str(file),
            config=str(tmp_path / "flux"),
            subfolder="transformer",
            quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
        )
    assert {type(weight) for weight in network.parameters()} == {torch.nn.Parameter}, (
        "diffusers quantizes it now: so can the project"
    )
    plan = flow.plan(
        graph(made / "flux", {"quantization": "int8"}, denoiser=str(file)), store=None, device="cpu"
    )
    assert [problem.message.partition(" comes")[2] for problem in plan.problems] == [
        " from one file of weights, which diffusers does not quantize as it loads them: say quantization: none, or take a folder or a GGUF file"
    ]


@pytest.mark.filterwarnings("ignore:.*variance:UserWarning")
def test_the_stages_of_deepfloyd_if_are_quantized_too(tmp_path: Path, pool: ModelPool) -> None:
    """Split over its own nodes, the first stage's picture is that of diffusers quantized by hand,
    and its denoiser is the one that a node of all of it shares.
    """
    import diffusers
    import transformers
    from torchao.quantization import Int8WeightOnlyConfig

    with quiet_libraries():
        checkpoints.deepfloyd(tmp_path / "if")
        mapping = {
            "unet": diffusers.TorchAoConfig(Int8WeightOnlyConfig()),
            "text_encoder": transformers.TorchAoConfig(Int8WeightOnlyConfig()),
        }
        pipeline = diffusers.IFPipeline.from_pretrained(
            tmp_path / "if",
            torch_dtype=torch.float32,
            quantization_config=diffusers.PipelineQuantizationConfig(quant_mapping=mapping),
            use_safetensors=True,
            local_files_only=True,
        )
    pipeline.set_progress_bar_config(disable=True)
    direct = pipeline(
        "a red fox",
        num_inference_steps=2,
        guidance_scale=7.0,
        clean_caption=False,
        output_type="np",
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]
    model, settings = str(tmp_path / "if"), {"quantization": "int8"}
    nodes = {
        "words": {"type": "text.encode", "model": model, "prompt": "a red fox"},
        "base": {
            "type": "diffusion.base",
            "model": model,
            "text": "${words}",
            "num_inference_steps": 2,
            "seed": 3,
        },
    }
    picture = flow.run(
        {"imagen_flow": 1, "settings": settings, "nodes": nodes, "outputs": {"out": "${base}"}},
        store=None,
        pool=pool,
        device="cpu",
    )["out"].pixels
    assert np.array_equal(picture, direct)
    assert {i.loader.rpartition(".")[2]: i.settings.quantization for i in pool.resident()} == {
        "TextParts": "int8",
        "DenoiserParts": "int8",
        "SamplerParts": "none",
    }


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["none", "model"])
@pytest.mark.parametrize("quantization", loaders.QUANTIZERS)
def test_every_quantization_runs_on_a_gpu(tmp_path: Path, quantization: str, offload: str) -> None:
    """On a denoiser wide enough for all of them: its weights are quantized, take what was estimated,
    and give nearly what they gave before.
    """
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=8,
        joint_attention_dim=1024,
        pooled_projection_dim=768,
        axes_dims_rope=[16, 56, 56],
    )
    network.bfloat16().save_pretrained(tmp_path / "m" / "transformer")
    (tmp_path / "m" / "model_index.json").write_text(
        json.dumps(
            {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
        )
    )
    given: dict[str, Any] = {
        "hidden_states": torch.randn(1, 64, 64),
        "encoder_hidden_states": torch.randn(1, 32, 1024),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.5]),
    }
    given = {name: tensor.to("cuda:0", torch.bfloat16) for name, tensor in given.items()} | {
        "img_ids": torch.zeros(64, 3, device="cuda:0"),
        "txt_ids": torch.zeros(32, 3, device="cuda:0"),
    }
    results = {}
    for settings in (Loading(), Loading(quantization, offload)):
        with (
            ModelPool() as pool,
            pool.lease(
                DenoiserParts(),
                resolved(tmp_path / "m"),
                device="cuda:0",
                dtype="bfloat16",
                settings=settings,
            ) as group,
            torch.no_grad(),
        ):
            if settings.offload == "model":
                assert {
                    weight.device.type for weight in group.parts["transformer"].parameters()
                } == {"cpu"}, "it was quantized on the GPU, and waits on the host for its turn"
            results[settings.quantization] = group.parts["transformer"](**given).sample.float()
            if quantization != "nf4":  # whose weights do not say what they are made of
                taken = sum(held(p) for p in group.parts["transformer"].parameters())
                assert weight_of(
                    DenoiserParts(), resolved(tmp_path / "m"), dtype="bfloat16", settings=settings
                ) == pytest.approx(taken, rel=0.02)
    error = (results[quantization] - results["none"]).std() / results["none"].std()
    assert 0 < error < 0.3
