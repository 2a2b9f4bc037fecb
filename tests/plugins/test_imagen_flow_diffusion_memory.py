"""Checkpoints of diffusers under settings and levels that spare memory: the same pixels where these
are declared exact, and no trace on shared parts afterwards.
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
from imagen_flow_diffusion.tiny import checkpoints

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoints") / "sd15"
    with quiet_libraries():
        checkpoints.stable_diffusion(folder)
    return str(folder)


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as opened:
        yield opened


def draw(
    checkpoint: str, pool: ModelPool, settings: dict[str, Any] | None = None, *, split: bool = False
) -> np.ndarray:
    asked = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 48, "height": 64, "seed": 3}
    if split:
        nodes: dict[str, Any] = {
            "words": {"type": "text.encode", "model": checkpoint, "prompt": "a red fox"},
            "latents": {
                "type": "diffusion.denoise",
                "model": checkpoint,
                "text": "${words}",
                **asked,
            },
            "picture": {"type": "latents.decode", "model": checkpoint, "latents": "${latents}"},
        }
    else:
        nodes = {
            "picture": {
                "type": "diffusion.text_to_image",
                "model": checkpoint,
                "prompt": "a red fox",
                **asked,
            }
        }
    graph = {
        "imagen_flow": 1,
        "settings": settings or {},
        "nodes": nodes,
        "outputs": {"out": "${picture}"},
    }
    return np.asarray(flow.run(graph, store=None, pool=pool, device="cpu")["out"].pixels)


@pytest.mark.parametrize("split", [False, True])
def test_layers_that_are_streamed_give_the_same_pixels(
    checkpoint: str, pool: ModelPool, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``offload: layers`` the weights are away and come back layer by layer, here from the
    host to itself; by one node and by three, the picture is the same.
    """
    plain = draw(checkpoint, pool, split=split)
    placed: list[str] = []

    def place(module: Any, *, device: str, settings: loaders.Loading) -> Any:
        from accelerate import cpu_offload

        assert settings == loaders.Loading(offload="layers")
        placed.append(type(module).__name__)
        cpu_offload(module, torch.device(device), offload_buffers=True)
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
        return module

    monkeypatch.setattr(loaders, "place_module", place)
    assert np.array_equal(draw(checkpoint, pool, {"offload": "layers"}, split=split), plain)
    assert {"UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"} <= set(placed)


@pytest.mark.parametrize("split", [False, True])
def test_a_picture_that_does_not_fit_is_decoded_in_tiles_where_that_is_allowed(
    checkpoint: str, pool: ModelPool, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without leave the step fails; with ``ladder: tile`` it steps down to tiles, and the shared
    autoencoder is as before.
    """
    from diffusers import AutoencoderKL

    plain = draw(checkpoint, pool, split=split)
    decode, tries = AutoencoderKL._decode, []

    def tight(vae: Any, *given: Any, **more: Any) -> Any:
        tries.append(vae.use_tiling)
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(vae, *given, **more)

    monkeypatch.setattr(AutoencoderKL, "_decode", tight)
    with pytest.raises(flow.NodeError) as caught:
        draw(checkpoint, pool, split=split)
    assert "CUDA out of memory" in str(caught.value)
    assert set(tries) == {False}
    tries.clear()
    assert draw(checkpoint, pool, {"ladder": "tile"}, split=split).shape == plain.shape
    assert tries[-1]
    monkeypatch.undo()
    assert np.array_equal(draw(checkpoint, pool, split=split), plain)


def test_a_checkpoint_of_another_kind_is_told_when_planning(tmp_path: Path) -> None:
    """What it is, and which node takes it, before anything is loaded."""
    folder = tmp_path / "swin"
    with quiet_libraries():
        checkpoints.swin2sr(folder)
    graph = {
        "imagen_flow": 1,
        "nodes": {"words": {"type": "text.encode", "model": str(folder), "prompt": "a fox"}},
        "outputs": {"out": "${words}"},
    }
    plan = flow.plan(graph, store=None, device="cpu")
    assert [problem.code for problem in plan.problems] == ["bad-model"]
    assert "text.encode cannot use the model" in plan.problems[0].message
    assert "a Swin2SRForImageSuperResolution" in plan.problems[0].message
    assert "image.upscale takes it" in plan.problems[0].message


def test_the_variant_that_a_lock_names_is_loaded(checkpoint: str, tmp_path: Path) -> None:
    """With halves and plain weights side by side, the loader takes what the model says, whatever
    the dtype.
    """
    import shutil
    from dataclasses import replace

    from diffusers import UNet2DConditionModel

    from imagen_flow._types.models import Model
    from imagen_flow_diffusion.loading.groups import DenoiserParts

    shutil.copytree(checkpoint, tmp_path / "m")
    with quiet_libraries():
        other = UNet2DConditionModel.from_pretrained(checkpoint, subfolder="unet")
        with torch.no_grad():
            other.conv_out.bias += 1
        other.save_pretrained(tmp_path / "m" / "unet", variant="fp16")
    model = Model(tmp_path / "m", "d", "./m")

    def bias(model: Model, dtype: str) -> float:
        with (
            ModelPool() as pool,
            pool.lease(DenoiserParts(), model, device="cpu", dtype=dtype) as group,
        ):
            return float(group.parts["unet"].conv_out.bias[0].detach())

    plain = bias(replace(model, variant=""), "float16")
    assert bias(replace(model, variant="fp16"), "float32") == pytest.approx(plain + 1, abs=1e-2)
    assert bias(replace(model, variant=""), "float32") == pytest.approx(plain, abs=1e-2)


def test_what_is_called_most_is_compiled_and_attention_is_as_said(
    checkpoint: str, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``compile`` is for the denoiser alone; ``attention: math`` holds while it draws, and enters
    the key.
    """
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__)
    )
    seen: set[bool] = set()
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*given: Any, **more: Any) -> Any:
        seen.add(torch.backends.cuda.flash_sdp_enabled())
        return attend(*given, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    plain = draw(checkpoint, pool)
    assert (compiled, seen) == ([], {True})
    seen.clear()
    drawn = draw(checkpoint, pool, {"compile": True, "attention": "math"})
    assert (compiled, seen) == (["UNet2DConditionModel"], {False})
    assert np.abs(drawn.astype(int) - plain.astype(int)).max() <= 1


def test_code_that_comes_with_a_checkpoint_runs_only_if_the_user_says_so(
    checkpoint: str, tmp_path: Path
) -> None:
    """Without leave the part is refused and nothing of it is imported; with leave for that
    reference its class is used.
    """
    import json
    import shutil

    from imagen_flow._models import ModelPolicy, resolve
    from imagen_flow._types.digest import digest_file
    from imagen_flow_diffusion.loading.groups import DenoiserParts

    shutil.copytree(checkpoint, tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model_index.json").read_text())
    (tmp_path / "m" / "model_index.json").write_text(
        json.dumps({**index, "unet": ["my_unet", "MyUNet"]})
    )
    (tmp_path / "m" / "unet" / "my_unet.py").write_text(
        "import pathlib\nfrom diffusers import UNet2DConditionModel\npathlib.Path(__file__).with_name('ran').mkdir(exist_ok=True)\n\nclass MyUNet(UNet2DConditionModel):\n    pass\n"
    )

    def loaded(*trusted: str) -> str:
        model = resolve(
            "./m",
            folder=tmp_path,
            embedded={},
            digest=digest_file,
            policy=ModelPolicy(remote_code=trusted),
        )
        with (
            ModelPool() as pool,
            pool.lease(DenoiserParts(), model, device="cpu", dtype="float32") as group,
        ):
            return type(group.parts["unet"]).__name__

    for trusted in ((), ("./other",)):
        with pytest.raises(flow.ModelError) as caught:
            loaded(*trusted)
        assert (
            str(caught.value)
            == "the model './m' comes with code of its own (unet/my_unet.py), which runs only if you pass --trust-remote-code ./m"
        )
    assert not (tmp_path / "m" / "unet" / "ran").exists()
    assert loaded("./m") == "MyUNet"
    assert (tmp_path / "m" / "unet" / "ran").exists()


def test_a_pickle_that_the_user_named_is_loaded_through_the_library(
    checkpoint: str, tmp_path: Path
) -> None:
    """A part whose weights are a pickle is refused, and loads with the same numbers once it is
    named.
    """
    import shutil

    from safetensors.torch import load_file

    from imagen_flow._models import ModelPolicy, resolve
    from imagen_flow._types.digest import digest_file
    from imagen_flow_diffusion.loading.groups import DenoiserParts

    shutil.copytree(checkpoint, tmp_path / "m")
    file = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    torch.save(tensors, file.with_suffix(".bin"))
    file.unlink()

    def bias(*pickles: str) -> torch.Tensor:
        model = resolve(
            "./m",
            folder=tmp_path,
            embedded={},
            digest=digest_file,
            policy=ModelPolicy(pickles=pickles),
        )
        with (
            ModelPool() as pool,
            pool.lease(DenoiserParts(), model, device="cpu", dtype="float32") as group,
        ):
            return group.parts["unet"].conv_out.bias.clone()

    with pytest.raises(flow.ModelError) as caught:
        bias()
    assert (
        str(caught.value)
        == "a part of the model './m' has its weights only as pickles (unet/diffusion_pytorch_model.bin)"
    )
    assert torch.equal(bias("./m/unet/diffusion_pytorch_model.bin"), tensors["conv_out.bias"])
