"""Measure what drawing through a graph costs over the same library calls made by hand, in one process, in interleaved pairs.

The graph draws with `diffusion.base` and keeps the picture in a store; by hand the same picture is drawn with diffusers' UNet and sampler in a plain loop. Both are
given the states of one text. Every pair checks that the pixels are equal, so that it is the same work that is compared.

    python benchmarks/direct.py [--pairs 40] [--steps 20] [--record]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from _results import machine, record

import imagen_flow as flow
from imagen_flow.codec import Codecs
from imagen_flow.models import ModelPool
from imagen_flow.plugins import discover
from imagen_flow.store import Store

#: What is wanted: the 95 % interval of the median difference lies below the larger of these.
TARGET_PART, TARGET_S = 0.02, 0.010

PROMPT = "a large red circle left of a small blue square on a black background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of runs (at least 30 for a figure worth keeping)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a picture")
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), given.pairs, given.steps)
    print(text)
    print(f"\n{machine()}")
    if given.record:
        record("A picture through a graph and by hand", text)


def measure(folder: Path, pairs: int, steps: int) -> str:
    embedded = discover([]).models.get("embedded/imagen")
    model = embedded if embedded is not None and (embedded / "unet").is_dir() else untrained(folder / "imagen")
    through_graph, by_hand = prepare(folder, model, steps)
    for seed in (1, 2):  # the first of each loads models and warms caches
        through_graph(seed)
        by_hand(seed)
    clocks = {"wall": time.perf_counter, "own": time.process_time}
    taken: dict[str, dict[Any, list[float]]] = {clock: {through_graph: [], by_hand: []} for clock in clocks}
    for pair in range(pairs):
        seed = 100 + pair
        first, second = (through_graph, by_hand) if pair % 2 else (by_hand, through_graph)
        pictures = []
        for call in (first, second):
            began = {name: clock() for name, clock in clocks.items()}
            pictures.append(call(seed))
            for name, clock in clocks.items():
                taken[name][call].append(clock() - began[name])
        assert np.array_equal(*pictures), "the graph draws another picture than the calls by hand"
    pairs_of = {name: (times[through_graph], times[by_hand]) for name, times in taken.items()}
    return report(pairs_of, steps, "embedded/imagen" if model == embedded else "a random model of the embedded one's size")


def prepare(folder: Path, model: Path, steps: int) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """Load what both ways need, and give the two."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file

    graph = flow.load(
        {
            "imagen_flow": 1,
            "inputs": {"seed": {"type": "seed", "default": 0}},
            "nodes": {
                "text": {"type": "text.encode", "model": str(model), "prompt": PROMPT},
                "base": {
                    "type": "diffusion.base", "model": str(model), "text": "${text}", "guidance_scale": 4, "num_inference_steps": steps, "seed": "${seed}",
                },
            },
            "outputs": {"picture": "${base}", "text": "${text}"},
        }
    )  # fmt: skip
    store = Store.open(folder / "store", Codecs())
    pool = ModelPool()

    def through_graph(seed: int) -> Any:
        return flow.run(graph, seed=seed, store=store, pool=pool, device="cpu")["picture"].pixels

    states = flow.run(graph, seed=0, store=store, pool=pool, device="cpu")["text"].torch()
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    side, channels = unet.config.sample_size, unet.config.out_channels
    words = (states != 0).any(-1).to(torch.float32)
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    coarse = side >> (len(unet.config.block_out_channels) - 1)
    planned = states[:1].repeat(2, 1, 1)
    plan = planned[:, : coarse * coarse].transpose(1, 2).unflatten(2, (coarse, coarse))
    sketch, begin = torch.zeros(2, unet.config.in_channels - channels - 2, side, side), 1.0
    if (model / "plan").is_dir():
        layer = load_file(model / "plan" / "model.safetensors")
        cell = int((len(layer["bias"]) // 3) ** 0.5)
        grid = 2 * side // cell
        cells = torch.nn.functional.linear(planned[:, : grid * grid], layer["weight"].float(), layer["bias"].float())
        cells = cells.unflatten(2, (cell, cell, 3)).unflatten(1, (grid, grid)).permute(0, 5, 1, 3, 2, 4)
        sketch, begin = torch.nn.functional.pixel_unshuffle(cells.reshape(2, 3, 2 * side, 2 * side).clamp(-1, 1), 2), 0.1
    beside = torch.cat([sketch, torch.stack([columns, rows]).expand(2, 2, side, side)], 1)

    def by_hand(seed: int) -> Any:
        scheduler.set_timesteps(min(math.ceil(steps / begin), scheduler.config.num_train_timesteps))
        times = scheduler.timesteps[-steps:]
        x = torch.randn((1, channels, side, side), generator=torch.Generator().manual_seed(seed)) * scheduler.init_noise_sigma
        if begin < 1:
            x = scheduler.add_noise(sketch[:1], x, times[:1])
        with torch.inference_mode():
            for t in times:
                both = torch.cat([scheduler.scale_model_input(x, t).repeat(2, 1, 1, 1), beside], 1)
                guess = unet(both, t, states, encoder_attention_mask=words, mid_block_additional_residual=plan, down_block_additional_residuals=repeat(0.0))
                asked, other = guess.sample.chunk(2)
                x = scheduler.step(other + 4.0 * (asked - other), t, x).prev_sample
        picture = torch.nn.functional.pixel_shuffle(x, 2)
        return ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy()

    return through_graph, by_hand


def untrained(folder: Path) -> Path:
    """Save a cascade of the embedded one's size with random weights: it draws nothing, in the same time."""
    import json

    from imagen_flow_embedded.training import diffusion, text_encoder

    tokenizer = text_encoder.build_tokenizer()
    encoder = text_encoder.build_text_encoder(tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    diffusion.build_base_unet(encoder.config.d_model).save_pretrained(folder / "unet")
    diffusion.build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ImagenCascade"}), encoding="utf-8")
    return folder


def report(taken: dict[str, tuple[list[float], list[float]]], steps: int, model: str) -> str:
    """Put the times into words: by the clock on the wall, and by the process's own, which others on the machine disturb less."""
    count = len(taken["wall"][0])
    lines = [
        f"`diffusion.base` of {model}, {steps} steps with guidance, through plan, run and store, against the same diffusers calls in a plain loop; "
        f"medians of {count} interleaved pairs, equal pixels in each. *Wall* is the clock, *own* the process's processor time.",
        "",
        "| | by hand | through the graph | difference | 95 % interval | ratio |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = []
    for name, (drawn, direct) in taken.items():
        differences = [ours - theirs for ours, theirs in zip(drawn, direct, strict=True)]
        low, high = interval(differences)
        hand = statistics.median(direct)
        cells = [hand, statistics.median(drawn), statistics.median(differences)]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(drawn, direct, strict=True))
        lines.append(f"| {name} | {' | '.join(f'{1e3 * cell:.1f} ms' for cell in cells)} | {1e3 * low:+.1f} to {1e3 * high:+.1f} ms | {ratio:.3f} |")
        wanted = max(TARGET_PART * hand, TARGET_S)
        verdicts.append(f"- {name}: the interval is wanted below {1e3 * wanted:.1f} ms (2 % or 10 ms): {'met' if high <= wanted else 'missed'}.")
    return "\n".join([*lines, "", *verdicts])


def interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """Give the 95 % interval of the median by the bootstrap."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


if __name__ == "__main__":
    main()
