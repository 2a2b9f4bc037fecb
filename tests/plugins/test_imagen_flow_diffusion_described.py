"""A checkpoint is described once: planning opens each of its files at most once, however many
nodes and plans use it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow_diffusion.checkpoints.description import describe
from imagen_flow_diffusion.tiny import checkpoints, companions

DRAWN: dict[str, Any] = {"width": 32, "height": 32, "num_inference_steps": 2}

#: Ten nodes on one checkpoint, and two networks beside it.
TEN: dict[str, Any] = {
    "imagen_flow": 1,
    "inputs": {"prompt": "a fox"},
    "nodes": {
        "text": {"type": "text.encode", "prompt": "${prompt}"},
        "small": {"type": "diffusion.denoise", "text": "${text}", **DRAWN, "seed": 1},
        "fine": {
            "type": "diffusion.denoise",
            "text": "${text}",
            "latents": "${small}",
            "strength": 0.5,
            "num_inference_steps": 2,
            "seed": 2,
        },
        "picture": {"type": "latents.decode", "latents": "${fine}"},
        "again": {"type": "latents.encode", "image": "${picture}", "seed": 3},
        "whole": {"type": "diffusion.text_to_image", "prompt": "${prompt}", **DRAWN, "seed": 4},
        "other": {
            "type": "diffusion.image_to_image",
            "image": "${whole}",
            "prompt": "${prompt}",
            "num_inference_steps": 2,
            "seed": 5,
        },
        "called": {
            "type": "diffusion.pipeline",
            "arguments": {"prompt": "a cow", **DRAWN},
            "seed": 7,
        },
        "last": {"type": "latents.decode", "latents": "${again}"},
        "third": {"type": "diffusion.text_to_image", "prompt": "a dog", **DRAWN, "seed": 8},
    },
    "outputs": {
        "a": "${last}",
        "b": "${other}",
        "c": "${third}",
        "d": "${called}",
    },
}

COUNT = """
import collections, json, os, sys, time
if sys.argv[3] == "later":  # ten seconds after the files were written
    now = time.time
    time.time = lambda: now() + 10
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        path = os.fspath(arguments[0])
        if path.startswith(sys.argv[1]):
            opened[path.removeprefix(sys.argv[1])] += 1
import imagen_flow as flow
graph = json.load(open(sys.argv[2]))
sys.addaudithook(count)
for number in range(int(sys.argv[4])):
    plan = flow.plan(graph, {"prompt": f"fox {number}"}, store=None, device="cpu")
    assert not plan.problems, plan.problems
    plan.to_json()
if sys.argv[5:] == ["run"]:
    opened.clear()
    for event in flow.execute(plan):
        assert "Failed" not in type(event).__name__, event
print(json.dumps(opened))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    checkpoints.stable_diffusion(home / "sd")
    checkpoints.controlnet(home / "net")
    companions.lora(home / "lora.safetensors")
    return home


def opened(
    models: Path, graph: Path, *more: str, when: str = "now", plans: int = 1
) -> dict[str, int]:
    """Count in a process of its own how often plans of the graph open each file of the models; or,
    if there is a word more, how often a run of four of its nodes does.
    """
    graph.write_text(
        json.dumps(
            {
                **TEN,
                "nodes": {
                    name: {
                        **node,
                        "model": str(models / "sd"),
                        **(
                            {"loras": [str(models / "lora.safetensors")]} if name == "third" else {}
                        ),
                    }
                    for name, node in TEN["nodes"].items()
                    if not more or name in ("text", "small", "fine", "picture")
                },
                **({"outputs": {"a": "${picture}"}} if more else {}),
            }
        )
    )
    ran = subprocess.run(
        [sys.executable, "-c", COUNT, f"{models}/", str(graph), when, str(plans), *more],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def test_a_plan_opens_each_configuration_once(models: Path, tmp_path: Path) -> None:
    """A plan of ten nodes on one checkpoint opens each of its JSON files once, and the weights to
    digest them and to read their headers, even if the files are seconds old.
    """
    counts = opened(models, tmp_path / "graph.json")
    assert {
        name: count for name, count in counts.items() if name.endswith(".json")
    } == dict.fromkeys(
        (
            "sd/model_index.json",
            "sd/scheduler/scheduler_config.json",
            "sd/text_encoder/config.json",
            "sd/tokenizer/tokenizer.json",
            "sd/tokenizer/tokenizer_config.json",
            "sd/unet/config.json",
            "sd/vae/config.json",
        ),
        1,
    )
    assert {name: count for name, count in counts.items() if not name.endswith(".json")} == {
        "lora.safetensors": 2,
        "sd/text_encoder/model.safetensors": 2,
        "sd/unet/diffusion_pytorch_model.safetensors": 2,
        "sd/vae/diffusion_pytorch_model.safetensors": 2,
    }


def test_many_plans_open_each_configuration_once(models: Path, tmp_path: Path) -> None:
    """Fifty-seven plans in one process open each JSON file once between them, and no header twice,
    if the files were there before.
    """
    counts = opened(models, tmp_path / "graph.json", when="later", plans=57)
    assert {
        name: count for name, count in counts.items() if count > 1 + name.endswith(".safetensors")
    } == {}
    assert len(counts) == 11


@pytest.mark.slow
def test_a_run_leaves_reading_to_the_libraries(models: Path, tmp_path: Path) -> None:
    """What a run opens of a checkpoint after it was planned is what diffusers and transformers open
    to load it: the configuration of each network once, and the tokenizer's files.
    """
    counts = opened(models, tmp_path / "graph.json", "run")
    assert {name: count for name, count in counts.items() if name.endswith(".json")} == {
        "sd/text_encoder/config.json": 1,
        "sd/tokenizer/tokenizer.json": 2,
        "sd/tokenizer/tokenizer_config.json": 2,
        "sd/unet/config.json": 1,
        "sd/vae/config.json": 1,
    }


def test_what_a_checkpoint_is_said_to_be(models: Path) -> None:
    """A description holds the class, the family, the parts with their classes, and the latent
    space.
    """
    described = describe(flow.Model(models / "sd"))
    assert (described.kind, described.family) == ("StableDiffusionPipeline", "StableDiffusion")
    assert {part.name: part.class_name for part in described.parts.values()} == {
        "scheduler": "PNDMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
    assert described.downscales == 8
    assert described.latent_space == "Stable Diffusion: 4 channels of 1/8, scaled by 0.18215"
    assert describe(flow.Model(models / "net")).kind == "ControlNetModel"


def test_a_damaged_part_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    """A configuration that cannot be read leaves the rest of the description as it is."""
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{" if name == "vae" else '{"sample_size": 8}')
    index = {"_class_name": "FluxFillPipeline", "unet": ["diffusers", "A"], "vae": ["a", "B"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    described = describe(flow.Model(tmp_path, reference="./m"))
    assert (described.family, sorted(described.parts)) == ("Flux", ["unet", "vae"])
    assert described.config("unet") == {"sample_size": 8}
    with pytest.raises(flow.ModelError, match=r"'./m' is damaged: vae/config.json cannot be read"):
        _ = described.latent_space
