"""Measure speed and memory of Stable Diffusion 1.5 and SDXL at their true size against diffusers
called directly: with random weights, so that nothing need be fetched.

Each way draws in a process of its own: its first picture with all loading, then the rest; the
memory is the most that it took. The pictures of both must be equal.

    python benchmarks/true_size.py [--models sd15,sdxl] [--pictures 10] [--steps 20] [--device cuda]
    [--record]
    python benchmarks/true_size.py --tiny --device cpu      # the same code on small models, in
    seconds
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _results import machine, record

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow._settings.devices import resolve_device, resolve_dtype

PROMPT = "a red fox in the snow"

#: Sides of a picture, by model; small models draw small ones.
SIDES = {"sd15": 512, "sdxl": 1024}
TINY_SIDE = 64


def sd15() -> dict[str, Callable[[], Any]]:
    """The networks of Stable Diffusion 1.5."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    return {
        "unet": lambda: UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        ),
        "vae": lambda: AutoencoderKL(**VAE, scaling_factor=0.18215, sample_size=512),
        "text_encoder": lambda: CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                hidden_act="quick_gelu",
            )
        ),
    }


def sdxl() -> dict[str, Callable[[], Any]]:
    """The networks of SDXL's base."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    second = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    }
    return {
        "unet": lambda: UNet2DConditionModel(
            sample_size=128,
            cross_attention_dim=2048,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "vae": lambda: AutoencoderKL(**VAE, scaling_factor=0.13025, sample_size=1024),
        "text_encoder": sd15()["text_encoder"],
        "text_encoder_2": lambda: CLIPTextModelWithProjection(
            CLIPTextConfig(vocab_size=49408, **second)
        ),
    }


VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

NETWORKS = {"sd15": sd15, "sdxl": sdxl}


def make(name: str, folder: Path, *, device: str, dtype: str, tiny: bool) -> Path:
    """Save a checkpoint: a small one as `--tiny` makes it, and in it at full size the networks of
    the true one.
    """
    import torch

    from imagen_flow_diffusion.tiny import checkpoints

    with quiet_libraries():
        (checkpoints.stable_diffusion if name == "sd15" else checkpoints.stable_diffusion_xl)(
            folder
        )
        for part, network in NETWORKS[name]().items() if not tiny else ():
            torch.manual_seed(0)
            with torch.device(device):
                network().to(getattr(torch, dtype)).save_pretrained(folder / part)
    return folder


def through_graph(
    folder: Path, given: dict[str, Any], device: str, dtype: str
) -> Callable[[int], Any]:
    node = {
        "type": "diffusion.text_to_image",
        "model": str(folder),
        "prompt": PROMPT,
        "seed": "${seed}",
        **given,
    }
    graph = flow.load(
        {
            "imagen_flow": 1,
            "inputs": {"seed": {"type": "seed", "default": 0}},
            "nodes": {"one": node},
            "outputs": {"out": "${one}"},
        }
    )
    pool = ModelPool()
    return lambda seed: (
        flow.run(graph, seed=seed, store=None, pool=pool, device=device, dtype=dtype)["out"].pixels
    )


def by_hand(folder: Path, given: dict[str, Any], device: str, dtype: str) -> Callable[[int], Any]:
    import numpy as np
    import torch
    from diffusers import DiffusionPipeline

    with quiet_libraries():
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None
    return lambda seed: np.asarray(
        pipeline(PROMPT, generator=torch.Generator("cpu").manual_seed(seed), **given).images[0]
    )


WAYS = {"graph": through_graph, "hand": by_hand}


def draw(
    way: str, folder: Path, given: dict[str, Any], pictures: int, device: str, dtype: str
) -> dict[str, Any]:
    """Draw in this process; give the digest of the pictures, seconds, and the most bytes that were
    taken.
    """
    import torch

    began = time.perf_counter()
    one = WAYS[way](folder, given, device, dtype)
    digest, times = hashlib.sha256(), []
    for seed in range(pictures + 1):
        digest.update(one(seed).tobytes())
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    if device.startswith("cuda"):
        most = torch.cuda.max_memory_allocated()
    else:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    return {
        "digest": digest.hexdigest(),
        "first_s": times[0],
        "median_s": statistics.median(times[1:]),
        "bytes": most,
    }


def measure(name: str, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Make a checkpoint and draw with it in both ways."""
    device = resolve_device(given.device)
    dtype = resolve_dtype("auto", device)
    side = TINY_SIDE if given.tiny else SIDES[name]
    with tempfile.TemporaryDirectory() as home:
        folder = make(name, Path(home) / name, device=device, dtype=dtype, tiny=given.tiny)
        taken = {}
        for way in WAYS:
            asked = json.dumps(
                [
                    way,
                    str(folder),
                    {"num_inference_steps": given.steps, "width": side, "height": side},
                    given.pictures,
                    device,
                    dtype,
                ]
            )
            said = subprocess.run(
                [sys.executable, __file__, "--draw", asked],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            taken[way] = json.loads(said.splitlines()[-1])
    assert taken["graph"]["digest"] == taken["hand"]["digest"], (
        f"the graph draws other pictures than diffusers by hand with {name}"
    )
    return taken


def report(taken: dict[str, dict[str, dict[str, Any]]], given: argparse.Namespace) -> str:
    device = resolve_device(given.device)
    lines = [
        f"Random weights at {'a small' if given.tiny else 'the true'} size on {device}, {resolve_dtype('auto', device)}; {given.steps} steps; medians of {given.pictures} pictures after the first; equal pixels.",
        "",
        "| | | first picture, with loading | a picture | most memory |",
        "|---|---|---|---|---|",
    ]
    for name, ways in taken.items():
        for way, told in ways.items():
            lines.append(
                f"| {name} | {'through the graph' if way == 'graph' else 'by hand'} | {told['first_s']:.2f} s | {told['median_s']:.3f} s | {told['bytes'] / 1e9:.2f} GB |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="sd15,sdxl", help="which, comma-separated")
    parser.add_argument("--pictures", type=int, default=10, help="drawn after the first")
    parser.add_argument("--steps", type=int, default=20, help="of denoising")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--tiny", action="store_true", help="small models: to try the script")
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    parser.add_argument("--draw", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.draw:
        way, folder, asked, pictures, device, dtype = json.loads(given.draw)
        print(json.dumps(draw(way, Path(folder), asked, pictures, device, dtype)))
        return
    if not given.tiny and resolve_device(given.device) == "cpu":
        print(
            "no device but the processor, on which the true sizes take hours: nothing is measured (--tiny tries the script)"
        )
        return
    text = report({name: measure(name, given) for name in given.models.split(",")}, given)
    print(f"{text}\n\n{machine()}")
    if given.record:
        record("Stable Diffusion at its true size, through a graph and by hand", text)


if __name__ == "__main__":
    main()
