"""What a plan says that models will take in memory is what they then take: with copies in halves
beside the plain ones, in shards, for some parts alone, and of several checkpoints that share parts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

ASKED: dict[str, Any] = {"num_inference_steps": 1, "width": 32, "height": 32, "seed": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; the same with copies in halves, and in shards; one with another denoiser; one
    with halves alone; and a ControlNet in both forms.
    """
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel

    folder = tmp_path_factory.mktemp("checkpoints")
    with quiet_libraries():
        checkpoints.stable_diffusion(folder / "plain")
        parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        loaded = {name: cls.from_pretrained(folder / "plain" / name) for name, cls in parts.items()}
        for name in ("both", "sharded", "halves", "tuned"):
            shutil.copytree(folder / "plain", folder / name)
        loaded["unet"].save_pretrained(folder / "sharded" / "unet", max_shard_size="500KB")
        control = ControlNetModel.from_unet(loaded["unet"])
        control.save_pretrained(folder / "control")
        control.half().save_pretrained(folder / "control", variant="fp16")
        for name, part in loaded.items():
            part.half().save_pretrained(folder / "both" / name, variant="fp16")
            for file in (folder / "halves" / name).glob("*.safetensors"):
                file.unlink()
            part.save_pretrained(folder / "halves" / name, variant="fp16")
        with torch.no_grad():
            next(loaded["unet"].parameters()).add_(1)
        loaded["unet"].float().save_pretrained(folder / "tuned" / "unet")
        companions.lora(folder / "fox.safetensors")
    assert len(list((folder / "sharded" / "unet").glob("*-of-*.safetensors"))) > 1
    return folder


def whole(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": str(model),
        "prompt": "a red fox",
        **ASKED,
        **more,
    }


def split(model: Path) -> dict[str, Any]:
    return {
        "words": {"type": "text.encode", "model": str(model), "prompt": "a red fox"},
        "latents": {"type": "diffusion.denoise", "model": str(model), "text": "${words}", **ASKED},
        "picture": {"type": "latents.decode", "model": str(model), "latents": "${latents}"},
    }


def estimated(nodes: dict[str, Any], settings: dict[str, Any] | None = None) -> int:
    """What the plan says, once it has proved to be what the pool holds after the run, and what its
    tensors take.
    """
    graph = {
        "imagen_flow": 1,
        "settings": settings or {},
        "nodes": nodes,
        "outputs": {name: f"${{{name}}}" for name in nodes},
    }
    said = flow.plan(graph, store=None, device="cpu").memory["cpu"]
    with ModelPool(budget_bytes=10**12) as pool:
        flow.run(graph, store=None, pool=pool, device="cpu")
        assert pool.weighs() == {"cpu": said}
        modules = [
            part
            for resident in pool._residents.values()
            for part in resident.value.parts.values()
            if isinstance(part, torch.nn.Module)
        ]
        taken = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    assert said == pytest.approx(taken, rel=0.01)
    return said


@pytest.mark.parametrize("name", ["plain", "both", "sharded", "halves"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_copy_counts_however_it_is_kept(home: Path, name: str, dtype: str) -> None:
    """Plain, with halves beside it, in shards, or in halves alone: in memory it takes what its
    dtype makes of it.
    """
    assert estimated({"one": whole(home / name)}, {"dtype": dtype}) == estimated(
        {"one": whole(home / "plain")}, {"dtype": dtype}
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_are_cast_count_in_eight_bits(home: Path, dtype: str) -> None:
    """Those of the denoiser alone, and of it all but norms: text encoder and autoencoder stay."""
    cast = {"dtype": dtype, "layerwise_casting": "float8_e4m3fn"}
    words = {"words": split(home / "plain")["words"]}
    assert estimated(words, cast) == estimated(words, {"dtype": dtype})
    assert estimated({"one": whole(home / "plain")}, cast) < 0.9 * estimated(
        {"one": whole(home / "plain")}, {"dtype": dtype}
    )


def test_what_several_nodes_share_counts_once(home: Path) -> None:
    """Three nodes of a checkpoint, one of all of it, and one of another that has the same
    autoencoder and text encoder: only its denoiser is more.
    """
    alone = estimated({"one": whole(home / "plain")})
    assert estimated(split(home / "plain")) == alone
    assert estimated({"one": whole(home / "plain"), **split(home / "plain")}) == alone
    unet = estimated(
        {name: node for name, node in split(home / "plain").items() if name != "picture"}
    ) - estimated({"words": split(home / "plain")["words"]})
    assert estimated({"one": whole(home / "plain"), "other": whole(home / "tuned")}) == alone + unet
    assert (
        estimated(
            {
                "one": whole(home / "plain"),
                "other": whole(home / "tuned", settings={"dtype": "bfloat16"}),
            }
        )
        == alone + alone / 2
    )


def test_a_node_of_some_parts_takes_those(home: Path) -> None:
    """What only reads words takes no denoiser."""
    assert (
        0
        < estimated({"words": split(home / "plain")["words"]})
        < estimated({"one": whole(home / "plain")}) / 10
    )


def test_what_stands_beside_a_checkpoint_counts_in_one_copy(home: Path) -> None:
    """A ControlNet with halves beside it; a LoRA is read for the call alone, and its own line in
    the plan says what it weighs.
    """
    from diffusers import ControlNetModel

    drawn = whole(
        home / "plain",
        controls=[{"model": str(home / "control"), "image": "${edges}"}],
        loras=[str(home / "fox.safetensors")],
    )
    graph = {
        "imagen_flow": 1,
        "nodes": {"edges": {"type": "image.solid", "width": 32, "height": 32}, "one": drawn},
        "outputs": {"out": "${one}"},
    }
    plan = flow.plan(graph, store=None, device="cpu")
    assert plan.problems == ()
    weighs = {Path(model["reference"]).name: model["memory_bytes"] for model in plan.models}
    assert weighs["control"] == pytest.approx(
        4 * sum(p.numel() for p in ControlNetModel.from_pretrained(home / "control").parameters()),
        rel=0.01,
    )
    assert weighs["fox.safetensors"] > 0
    assert plan.memory == {"cpu": weighs["plain"] + weighs["control"]}
