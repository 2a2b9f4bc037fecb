"""Measure what drawing through a graph costs over the same library calls made by hand, in
interleaved pairs.

The graph draws with `diffusion.base` and keeps the picture in a store; by hand the same picture is
drawn with diffusers' UNet and sampler in a plain loop. Both are given the states of one text. Every
pair checks that the pixels are equal, so that it is the same work that is compared.

Twice: each way in a process of its own, as a program uses one or the other; and both in one
    process, as in a notebook. There two threads compute (a run has one of its own),
each with its OpenMP team, and GNU's OpenMP slows both down: see `imagen_flow._models.run_threads`.

And what it saves to load once: several graphs in one process with one pool, against as many scripts
that each load what they draw with, and against a script that loads for each picture or once for
all.

    python benchmarks/direct.py [--pairs 40] [--steps 20] [--graphs 8] [--rounds 5] [--only
    pairs|loading] [--record]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _results import machine, record

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow._plugins.registry import discover
from imagen_flow._store import Store
from imagen_flow._types.codec import Codecs

#: What is wanted: the 95 % interval of the median difference lies below the larger of these.
TARGET_PART, TARGET_S = 0.02, 0.010

PROMPT = "a large red circle left of a small blue square on a black background"

#: The ways to draw, in the order in which they are compared.
WAYS = ("graph", "hand")

CLOCKS = {"wall": time.perf_counter, "own": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=40,
        help="pairs of runs (at least 30 for a figure worth keeping)",
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a picture")
    parser.add_argument(
        "--graphs",
        type=int,
        default=8,
        help="graphs that draw with one pool, and scripts that each load",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often these are run in turn")
    parser.add_argument("--only", choices=("pairs", "loading"), help="one of the two measurements")
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    parser.add_argument("--serve", nargs=2, metavar=("WAYS", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--script", nargs=3, metavar=("WAY", "MODEL", "SEEDS"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0].split(","), Path(given.serve[1]), given.steps)
        return
    if given.script:
        script(given.script[0], Path(given.script[1]), json.loads(given.script[2]), given.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        embedded = discover([]).models.get("embedded/imagen")
        model = (
            embedded
            if embedded is not None and (embedded / "unet").is_dir()
            else untrained(Path(folder) / "imagen")
        )
        name = (
            "embedded/imagen" if model == embedded else "a random model of the embedded one's size"
        )
        texts: dict[str, str] = {}
        if given.only != "loading":
            taken = {
                "a process each": measure(model, given.pairs, given.steps, apart=True),
                "one process": measure(model, given.pairs, given.steps, apart=False),
            }
            texts["A picture through a graph and by hand"] = report(taken, given.steps, name)
        if given.only != "pairs":
            large = untrained(Path(folder) / "large", channels=(768, 640, 128))
            tables = [
                loading_table(one, given.graphs, given.rounds, given.steps, said)
                for one, said in (
                    (model, name),
                    (large, "a random model of 143 million parameters, 0.6 GB"),
                )
            ]
            texts["Loading once instead of many times"] = "\n\n".join(
                [loading_head(given.graphs, given.rounds, given.steps), *tables]
            )
    for section, text in texts.items():
        print(f"{text}\n")
        if given.record:
            record(section, text)
    print(machine())


Times = dict[str, tuple[list[float], list[float]]]


def measure(model: Path, pairs: int, steps: int, *, apart: bool) -> Times:
    """Give seconds through the graph and by hand, by clock, from processes that draw in turn."""
    taken: Times = {clock: ([], []) for clock in CLOCKS}
    with ExitStack() as stack:

        def start(ways: str) -> subprocess.Popen[str]:
            command = [sys.executable, __file__, "--serve", ways, str(model), "--steps", str(steps)]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            return process

        servers = (
            {way: start(way) for way in WAYS}
            if apart
            else dict.fromkeys(WAYS, start(",".join(WAYS)))
        )
        for pair in range(-2, pairs):  # the first two load models and warm caches
            pictures = set()
            for way in WAYS if pair % 2 else WAYS[::-1]:
                stdin, stdout = servers[way].stdin, servers[way].stdout
                assert stdin is not None and stdout is not None
                print(way, 100 + pair, file=stdin, flush=True)
                picture, *seconds = stdout.readline().split()
                pictures.add(picture)
                for clock, took in zip(CLOCKS, seconds, strict=True):
                    if pair >= 0:
                        taken[clock][WAYS.index(way)].append(float(took))
            assert len(pictures) == 1, "the graph draws another picture than the calls by hand"
    return taken


def serve(ways: list[str], model: Path, steps: int) -> None:
    """Draw as asked, line by line: a way and a seed in, the picture's digest and what it took by
    each clock out.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepare = {"graph": through_graph, "hand": by_hand}
        draw = {way: prepare[way](Path(folder), model, steps) for way in ways}
        for line in sys.stdin:
            way, seed = line.split()
            began = [clock() for clock in CLOCKS.values()]
            picture = draw[way](int(seed))
            took = [clock() - at for clock, at in zip(CLOCKS.values(), began, strict=True)]
            print(hashlib.sha256(picture.tobytes()).hexdigest(), *took, flush=True)


def drawing(model: Path, steps: int) -> Any:
    """Resolve the graph that is measured."""
    nodes = {
        "text": {"type": "text.encode", "model": str(model), "prompt": PROMPT},
        "base": {
            "type": "diffusion.base",
            "model": str(model),
            "text": "${text}",
            "guidance_scale": 4,
            "num_inference_steps": steps,
            "seed": "${seed}",
        },
    }
    inputs = {"seed": {"type": "seed", "default": 0}}
    return flow.load(
        {"imagen_flow": 1, "inputs": inputs, "nodes": nodes, "outputs": {"picture": "${base}"}}
    )


def through_graph(folder: Path, model: Path, steps: int) -> Callable[[int], Any]:
    """Open a store and a pool, and give what draws with them."""
    graph, store, pool = drawing(model, steps), Store.open(folder / "store", Codecs()), ModelPool()
    return lambda seed: (
        flow.run(graph, seed=seed, store=store, pool=pool, device="cpu")["picture"].pixels
    )


def by_hand(folder: Path, model: Path, steps: int) -> Callable[[int], Any]:
    """Load what the plain loop needs, and give the loop. The text's states come from a file."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file

    from imagen_flow_embedded.plan import decide, lay_beside

    states = load_file(encoded(folder, model))["states"]
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    side, channels = unet.config.sample_size, unet.config.out_channels
    words = (states != 0).any(-1).to(torch.float32)
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    coordinates = torch.stack([columns, rows]).expand(2, 2, side, side)
    heads = means = None
    if (model / "plan").is_dir():
        heads = load_file(model / "plan" / "model.safetensors")
        means = load_file(model / "plan" / "means.safetensors")

    def draw(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        plan = torch.zeros(2, unet.config.in_channels - channels - 2, side, side)
        contrast = torch.ones(2, channels, side, side)
        if heads is not None and means is not None:
            facts, places = decide(states[:1], heads, generator)
            plan[:1], contrast[:1] = lay_beside(facts, places, means, side, 2)
        scheduler.set_timesteps(steps)
        x = torch.randn((1, channels, side, side), generator=generator) * scheduler.init_noise_sigma
        with torch.inference_mode():
            for t in scheduler.timesteps:
                # guidance acts where there is much noise
                ways = 2 if t > 0.3 * scheduler.config.num_train_timesteps else 1
                seen = scheduler.scale_model_input(x, t) * scheduler.alphas_cumprod[t.long()]
                seen = seen.repeat(ways, 1, 1, 1)
                seen = torch.cat([seen, plan[:ways], coordinates[:ways]], 1)
                guess = unet(seen, t, states[:ways], encoder_attention_mask=words[:ways]).sample
                guess = plan[:ways, :channels] + contrast[:ways] * guess
                if ways == 2:
                    asked, other = guess.chunk(2)
                    guess = other + 4.0 * (asked - other)
                x = scheduler.step(guess, t, x, use_clipped_model_output=True).prev_sample
        picture = torch.nn.functional.pixel_shuffle(x, 2)
        return ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy()

    return draw


def encoded(folder: Path, model: Path) -> Path:
    """Keep the states of the text, of the prompt and of the negative prompt, in a file; once."""
    file = folder / "states.safetensors"
    if not file.exists():
        import torch
        from safetensors.torch import save_file

        graph = {
            "imagen_flow": 1,
            "nodes": {"text": {"type": "text.encode", "model": str(model), "prompt": PROMPT}},
            "outputs": {"text": "${text}"},
        }
        found = {
            tensor.tags["is"]: tensor.torch()
            for tensor in flow.run(graph, store=None, device="cpu")["text"]
        }
        save_file(
            {"states": torch.cat([found["prompt_embeds"], found["negative_prompt_embeds"]])}, file
        )
    return file


def script(way: str, model: Path, seeds: list[int], steps: int) -> None:
    """Draw some pictures as a program of its own would, and print their digests."""
    folder = Path(os.environ["DIRECT_STATES"])
    if way == "graphs":
        with (
            tempfile.TemporaryDirectory() as place,
            Store.open(Path(place) / "store", Codecs()) as store,
            ModelPool() as pool,
        ):
            pictures = [
                flow.run(drawing(model, steps), seed=seed, store=store, pool=pool, device="cpu")[
                    "picture"
                ].pixels
                for seed in seeds
            ]
    elif way == "once":
        draw = by_hand(folder, model, steps)
        pictures = [draw(seed) for seed in seeds]
    else:
        pictures = [by_hand(folder, model, steps)(seed) for seed in seeds]
    print(*(hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures))


#: Ways to come to several pictures: what is run, and with how many of the pictures each.
LOADING = {
    "scripts, each of which loads": ("each", 1),
    "one script that loads for each picture": ("each", None),
    "one script that loads once": ("once", None),
    "graphs, one pool": ("graphs", None),
}


def loading(
    model: Path, graphs: int, rounds: int, steps: int, folder: Path
) -> dict[str, list[tuple[float, float]]]:
    """Give seconds by the clock and of processor time for all pictures, by way, from rounds in
    which the ways take turns. Each way must draw the same pictures.
    """
    encoded(folder, model)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADING}
    for turn in range(rounds):
        pictures = set()
        for name, (way, each) in list(LOADING.items())[:: -1 if turn % 2 else 1]:
            drawn: list[str] = []
            began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            for first in range(0, graphs, each or graphs):
                seeds = list(range(first, first + (each or graphs)))
                command = [
                    sys.executable,
                    __file__,
                    "--script",
                    way,
                    str(model),
                    json.dumps(seeds),
                    "--steps",
                    str(steps),
                ]
                drawn += subprocess.run(
                    command,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                    env={**os.environ, "DIRECT_STATES": str(folder)},
                ).stdout.split()
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken[name].append(
                (
                    time.perf_counter() - began,
                    now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
                )
            )
            pictures.add(tuple(drawn))
        assert len(pictures) == 1, "the ways draw other pictures"
        assert len(pictures.pop()) == graphs
    return taken


def loading_head(graphs: int, rounds: int, steps: int) -> str:
    """Say what was measured."""
    return (
        f"{graphs} pictures of {steps} steps each, from starting Python to the last picture, equal pixels in every way; medians of {rounds} rounds, in which the ways take turns. "
        "The graphs encode the text too (once), plan, and keep each picture in a store; by hand the text's states are read from a file. *Wall* is the clock, *own* the processor time of all processes."
    )


def loading_table(model: Path, graphs: int, rounds: int, steps: int, said: str) -> str:
    """Measure with one model and put the times into words, as multiples of the graphs' too."""
    with tempfile.TemporaryDirectory() as folder:
        taken = loading(model, graphs, rounds, steps, Path(folder))
    lines = [f"| by {said} | wall | own | × the graphs' wall | × own |", "|---|---|---|---|---|"]
    for name, times in taken.items():
        wall, own = (statistics.median(column) for column in zip(*times, strict=True))
        by_wall, by_own = (
            statistics.median(
                one[clock] / ours[clock]
                for one, ours in zip(times, taken["graphs, one pool"], strict=True)
            )
            for clock in (0, 1)
        )
        count = "" if name.startswith("one") else f"{graphs} "
        lines.append(
            f"| {count}{name} | {wall:.2f} s | {own:.2f} s | {by_wall:.2f} | {by_own:.2f} |"
        )
    return "\n".join(lines)


def untrained(folder: Path, *, channels: Sequence[int] = (32, 64, 96)) -> Path:
    """Save a cascade with random weights, by default of the embedded one's size: it draws nothing,
    in the same time.
    """
    from imagen_flow_embedded.training import diffusion, text_encoder

    tokenizer = text_encoder.build_tokenizer()
    encoder = text_encoder.build_text_encoder(tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    diffusion.build_base_unet(encoder.config.d_model, channels=channels).save_pretrained(
        folder / "unet"
    )
    diffusion.build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "ImagenCascade"}), encoding="utf-8"
    )
    return folder


def report(taken: dict[str, Times], steps: int, model: str) -> str:
    """Put the times into words: by the clock on the wall, and by the process's own, which others on
    the machine disturb less.
    """
    count = len(next(iter(taken.values()))["wall"][0])
    lines = [
        f"`diffusion.base` of {model}, {steps} steps with guidance, through plan, run and store, against the same diffusers calls in a plain loop; "
        f"medians of {count} interleaved pairs, equal pixels in each; OpenMP threads: {os.environ.get('OMP_NUM_THREADS', 'one a core')}. *Wall* is the clock, *own* the process's processor time.",
        "",
        "| | | by hand | through the graph | difference | 95 % interval | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    for where, times in taken.items():
        for name, (drawn, direct) in times.items():
            differences = [ours - theirs for ours, theirs in zip(drawn, direct, strict=True)]
            low, high = interval(differences)
            hand = statistics.median(direct)
            cells = [hand, statistics.median(drawn), statistics.median(differences)]
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(drawn, direct, strict=True)
            )
            lines.append(
                f"| {where} | {name} | {' | '.join(f'{1e3 * cell:.1f} ms' for cell in cells)} | {1e3 * low:+.1f} to {1e3 * high:+.1f} ms | {ratio:.3f} |"
            )
            wanted = max(TARGET_PART * hand, TARGET_S)
            verdicts.append(
                f"- {where}, {name}: the interval is wanted below {1e3 * wanted:.1f} ms (2 % or 10 ms): {'met' if high <= wanted else 'missed'}."
            )
    return "\n".join([*lines, "", *verdicts])


def interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """Give the 95 % interval of the median by the bootstrap."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


if __name__ == "__main__":
    main()
