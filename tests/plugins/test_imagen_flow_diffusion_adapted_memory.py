"""Adapters on checkpoints under settings and levels that spare memory: the pictures are those
without, and the shared parts are afterwards as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow._models import leasing as lending
from imagen_flow._types.models import Loading
from imagen_flow_diffusion.pipelines import calling
from imagen_flow_diffusion.tiny import checkpoints as tiny
from imagen_flow_diffusion.tiny import companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with quiet_libraries():
        tiny.stable_diffusion(folder / "sd15")
        companions.lora(folder / "fox.safetensors")
        companions.lora(folder / "ink.safetensors", seed=5)
        companions.embedding(folder / "cat.safetensors")
        companions.ip_adapter(folder / "ip")
    return folder


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as opened:
        yield opened


def adapters(home: Path, which: str) -> dict[str, Any]:
    if which == "loras":
        return {
            "loras": [
                {"model": str(home / "fox.safetensors"), "weight": 0.8},
                {"model": str(home / "ink.safetensors"), "weight": 0.5},
            ]
        }
    if which == "ip_adapters":
        return {
            "ip_adapters": [
                {
                    "model": str(home / "ip"),
                    "file": "models/ip-adapter_sd15.safetensors",
                    "image": "${seen}",
                }
            ]
        }
    return {"embeddings": [str(home / "cat.safetensors")]} if which == "embeddings" else {}


def draw(
    home: Path,
    pool: ModelPool,
    which: str = "",
    settings: dict[str, Any] | None = None,
    *,
    split: bool = False,
) -> np.ndarray:
    model, prompt = (
        str(home / "sd15"),
        "a red fox and a <cat>" if which == "embeddings" else "a red fox",
    )
    asked = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 32, "height": 48, "seed": 3}
    more = adapters(home, which)
    seen = (
        {"seen": {"type": "image.solid", "width": 32, "height": 32, "colour": "orange"}}
        if which == "ip_adapters"
        else {}
    )
    nodes: dict[str, Any] = {
        **seen,
        "picture": {
            "type": "diffusion.text_to_image",
            "model": model,
            "prompt": prompt,
            **asked,
            **more,
        },
    }
    if split:
        nodes = {
            **seen,
            "words": {
                "type": "text.encode",
                "model": model,
                "prompt": prompt,
                **{name: value for name, value in more.items() if "ip_" not in name},
            },
            "latents": {
                "type": "diffusion.denoise",
                "model": model,
                "text": "${words}",
                **asked,
                **{name: value for name, value in more.items() if "embed" not in name},
            },
            "picture": {"type": "latents.decode", "model": model, "latents": "${latents}"},
        }
    graph = {
        "imagen_flow": 1,
        "settings": settings or {},
        "nodes": nodes,
        "outputs": {"out": "${picture}"},
    }
    return np.asarray(flow.run(graph, store=None, pool=pool, device="cpu")["out"].pixels)


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Offload from the host to itself: the weights are taken away and brought back layer by layer,
    as they are to a GPU.
    """
    from accelerate import cpu_offload

    placed: list[Any] = []

    def place(module: Any, *, device: str, settings: Loading) -> Any:
        if settings.offload == "layers":
            cpu_offload(module, torch.device(device), offload_buffers=True)
            placed.append(module)
        return module

    monkeypatch.setattr(loaders, "place_module", place)
    return placed


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("which", "quantization"),
    [("loras", "none"), ("loras", "int8"), ("embeddings", "none"), ("ip_adapters", "none")],
)
def test_adapters_are_put_on_layers_that_come_and_go(
    home: Path, pool: ModelPool, streamed: list[Any], which: str, quantization: str, split: bool
) -> None:
    """With ``offload: layers`` the picture is the same with them, without them afterwards, and with
    them again.
    """
    settings = {"quantization": quantization}
    adapted, plain = (
        draw(home, pool, which, settings, split=split),
        draw(home, pool, "", settings, split=split),
    )
    assert not np.array_equal(adapted, plain)
    layers = {**settings, "offload": "layers"}
    assert np.array_equal(draw(home, pool, which, layers, split=split), adapted)
    assert len(streamed) == 3
    assert {weight.device.type for module in streamed for weight in module.parameters()} == {"meta"}
    assert np.array_equal(draw(home, pool, "", layers, split=split), plain)
    assert np.array_equal(draw(home, pool, which, layers, split=split), adapted)
    assert {weight.device.type for module in streamed for weight in module.parameters()} == {"meta"}
    assert len(streamed) == 3, "nothing is found changed and loaded anew"


def test_an_adapter_that_does_not_fit_leaves_layers_that_come_and_go(
    home: Path, pool: ModelPool, streamed: list[Any], tmp_path: Path
) -> None:
    """The node fails with its own words, and the next picture is as before."""
    plain = draw(home, pool, settings={"offload": "layers"})
    companions.lora(tmp_path / "xl.safetensors", base=tiny.stable_diffusion_xl, parts=["unet"])
    graph = {
        "imagen_flow": 1,
        "settings": {"offload": "layers"},
        "outputs": {"out": "${picture}"},
        "nodes": {
            "picture": {
                "type": "diffusion.text_to_image",
                "model": str(home / "sd15"),
                "prompt": "a red fox",
                "loras": [str(tmp_path / "xl.safetensors")],
                "seed": 3,
            }
        },
    }
    with pytest.raises(flow.NodeError) as caught:
        flow.run(graph, store=None, pool=pool, device="cpu")
    assert "was made for a different base" in str(caught.value)
    assert np.array_equal(draw(home, pool, settings={"offload": "layers"}), plain)


def test_a_dora_on_layers_that_come_and_go_is_told(
    home: Path, pool: ModelPool, streamed: list[Any], tmp_path: Path
) -> None:
    """It is computed with the base's weights, which are elsewhere; whole, or quantized, it is put
    on.
    """
    from safetensors.torch import load_file, save_file

    state = load_file(home / "fox.safetensors")
    state |= {
        name.replace("lora_B.weight", "lora_magnitude_vector"): torch.full((tensor.shape[0],), 3.0)
        for name, tensor in state.items()
        if "lora_B" in name
    }
    save_file(state, tmp_path / "dora.safetensors")

    def drawn(**settings: str) -> np.ndarray:
        node = {
            "type": "diffusion.text_to_image",
            "model": str(home / "sd15"),
            "prompt": "a red fox",
            "num_inference_steps": 1,
            "width": 32,
            "height": 32,
            "loras": [str(tmp_path / "dora.safetensors")],
            "seed": 3,
        }
        return np.asarray(
            flow.run(
                {
                    "imagen_flow": 1,
                    "settings": settings,
                    "nodes": {"one": node},
                    "outputs": {"out": "${one}"},
                },
                store=None,
                pool=pool,
                device="cpu",
            )["out"].pixels
        )

    with pytest.raises(flow.NodeError) as caught:
        drawn(offload="layers")
    assert str(caught.value.__cause__) == (
        f"the LoRA '{tmp_path / 'dora.safetensors'}' cannot be applied: it is a DoRA, which is computed with the weights of each layer, and with offload: layers these come to the device for the layer alone; "
        "say offload: model, or none"
    )
    assert np.abs(drawn().astype(int) - drawn(quantization="int8")).max() <= 4


def test_what_is_put_on_comes_to_the_device_too(home: Path) -> None:
    """Every weight of a LoRA is where its layer computes, on a device other than the host: what was
    left behind would fail there.
    """
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    with quiet_libraries():
        unet = UNet2DConditionModel.from_pretrained(home / "sd15" / "unet")
    state = {
        name: tensor
        for name, tensor in load_file(home / "fox.safetensors").items()
        if name.startswith("unet.")
    }
    given = (
        torch.zeros(1, 4, 8, 8, device="meta"),
        5,
        torch.zeros(1, 7, unet.config.cross_attention_dim, device="meta"),
    )
    loaders.place_module(unet, device="meta", settings=Loading(offload="layers"))
    with torch.no_grad():
        assert unet(*given).sample.is_meta
        with loaders.at_rest([unet]):
            unet.load_lora_adapter(state, prefix="unet", adapter_name="fox")
        assert unet(*given).sample.is_meta
        with loaders.at_rest([unet]):
            unet.unload_lora()
        assert unet(*given).sample.is_meta


@pytest.mark.parametrize("fails", [1, 2, 3])
@pytest.mark.parametrize("which", ["loras", ""])
def test_the_levels_of_the_ladder_are_exact_under_loras(
    home: Path, streamed: list[Any], which: str, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory once, twice, three times in the midst of sampling: the adapters are off when
    the models are loaded anew, and the picture is the same.
    """
    with ModelPool() as alone:
        first = draw(home, alone, which)
    # The levels are for devices; here the host is one.
    helps = lending._helps
    monkeypatch.setattr(
        lending,
        "_helps",
        lambda level, loaders, device, *more: helps(level, loaders, "cuda:0", *more),
    )
    tries: list[int] = []
    counted = calling.counted

    def tight(*given: Any, **more: Any) -> Any:
        tries.append(0)
        steps = counted(*given, **more)
        yield next(steps)
        if len(tries) <= fails:
            steps.close()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return (yield from steps)

    monkeypatch.setattr(calling, "counted", tight)
    with ModelPool() as pool:
        assert np.array_equal(draw(home, pool, which), first)
        assert len(tries) == fails + 1
        offloads = {
            i.settings.offload for i in pool.resident() if i.loader.endswith("DenoiserParts")
        }
        assert offloads == {"none" if fails == 1 else "model" if fails == 2 else "layers"}
        assert np.array_equal(draw(home, pool), draw(home, pool))
