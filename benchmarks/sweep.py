"""Measure sweeps: how time and memory grow from 100 to 100,000 trivial items, and a sweep of 4
prompts with 16 seeds on the embedded models against 64 runs.

    python benchmarks/sweep.py [--items 100000] [--repetitions 3] [--steps 4] [--record]

Trivial items have two steps that add numbers, so what is measured is what a sweep costs an item:
its row, plan, keys, store, events and line in the index. Each size runs in a process of its own,
first with an empty store, then again from the store.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _chart import draw
from _results import machine, record

import imagen_flow as flow
from imagen_flow.models import ModelPool

TRIVIAL = {
    "imagen_flow": 1,
    "inputs": {"a": 1},
    "nodes": {
        "first": {"type": "math.add", "a": "${a}", "b": 1},
        "second": {"type": "math.add", "a": "${first}", "b": 2},
    },
    "outputs": {"sum": "${second}"},
}

PROMPTS = [
    "a large red circle left of a small blue square on a black background",
    "a small yellow star above a large green triangle on a white background",
    "a large purple cross on a grey background",
    "a small orange diamond on a black background",
]
SEEDS = range(16)


def embedded(steps: int) -> dict[str, Any]:
    return {
        "imagen_flow": 1,
        "inputs": {"prompt": PROMPTS[0], "seed": {"type": "seed", "default": 7}},
        "nodes": {
            "text": {"type": "text.encode", "model": "embedded/imagen", "prompt": "${prompt}"},
            "base": {
                "type": "diffusion.base",
                "model": "embedded/imagen",
                "text": "${text}",
                "num_inference_steps": steps,
                "seed": "${seed}",
            },
        },
        "outputs": {"picture": {"from": "${base}", "path": "{item}.png"}},
    }


def measure_growth(items: int) -> dict[str, float]:
    """Run a sweep of trivial items twice in this process, and give what it took."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        list(flow.sweep(TRIVIAL, {"a": "1,2"}, store=f"{folder}/other"))  # imports
        for name in ("first", "again"):
            began, cpu = time.perf_counter(), time.process_time()
            sweep = flow.sweep(
                TRIVIAL, {"a": range(items)}, store=f"{folder}/store", out=f"{folder}/out"
            )
            assert sum(item.status == "done" for item in sweep) == items
            found[f"{name}_us"] = (time.perf_counter() - began) / items * 1e6
            found[f"{name}_cpu_us"] = (time.process_time() - cpu) / items * 1e6
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


CHART = Path(__file__).with_name("sweep-growth.svg")


def growth(most: int, *, chart: bool) -> str:
    """Measure sweeps of 100 items and more, as a table; with `chart`, also drawn."""
    rows = [
        "| items | first run, µs an item | processor | from the store | processor | peak memory |"
    ]
    rows.append("|---|---|---|---|---|---|")
    sizes = [size for size in (100, 1_000, 10_000, 100_000) if size <= most]
    lines: dict[str, list[float]] = {"first run, s": [], "from the store, s": [], "memory, MB": []}
    for size in sizes:
        ran = subprocess.run(
            [sys.executable, __file__, "--growth-of", str(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        got = json.loads(ran.stdout)
        rows.append(
            f"| {size:,} | {got['first_us']:,.0f} | {got['first_cpu_us']:,.0f} |"
            f" {got['again_us']:,.0f} | {got['again_cpu_us']:,.0f} | {got['peak_mb']:.0f} MB |"
        )
        print(rows[-1], flush=True)
        seconds = (got["first_us"] * size / 1e6, got["again_us"] * size / 1e6)
        for line, value in zip(lines.values(), (*seconds, got["peak_mb"]), strict=True):
            line.append(value)
    if chart and len(sizes) > 1:
        draw(CHART, "A sweep of trivial items, by their number", sizes, lines)
        rows += ["", f"![Seconds and megabytes by number of items]({CHART.name})"]
    return "\n".join(rows)


def against_runs(repetitions: int, steps: int) -> str:
    """Time a sweep of 64 items, and the same as 64 runs with one pool and one store."""
    graph = flow.load(embedded(steps))
    took: dict[str, list[float]] = {"sweep": [], "runs": []}
    with tempfile.TemporaryDirectory() as folder, ModelPool() as pool:
        flow.run(graph, store=None, pool=pool)  # loads the models
        for repetition in range(repetitions):
            began = time.perf_counter()
            ended = list(
                flow.sweep(
                    graph,
                    {"prompt": PROMPTS, "seed": SEEDS},
                    store=f"{folder}/sweep{repetition}",
                    out=f"{folder}/out{repetition}",
                    pool=pool,
                )
            )
            took["sweep"].append(time.perf_counter() - began)
            assert [item.status for item in ended] == ["done"] * 64
            began = time.perf_counter()
            for prompt in PROMPTS:
                for seed in SEEDS:
                    flow.run(
                        graph,
                        {"prompt": prompt, "seed": seed},
                        store=f"{folder}/runs{repetition}",
                        out=f"{folder}/runs-out{repetition}/{PROMPTS.index(prompt)}-{seed}",
                        pool=pool,
                    )
            took["runs"].append(time.perf_counter() - began)
    ratios = [runs / sweep for runs, sweep in zip(took["runs"], took["sweep"], strict=True)]
    return (
        f"4 prompts × 16 seeds, {steps} denoising steps, models loaded: the sweep took"
        f" {statistics.median(took['sweep']):.1f} s, 64 runs {statistics.median(took['runs']):.1f} s"
        f" (median of {repetitions}); the runs took {statistics.median(ratios):.2f} times as long."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000, help="the largest sweep")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a picture")
    parser.add_argument("--growth-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="write RESULTS.md")
    chosen = parser.parse_args()
    if chosen.growth_of:
        print(json.dumps(measure_growth(chosen.growth_of)))
        return
    print(machine())
    text = f"{growth(chosen.items, chart=chosen.record)}\n\n{against_runs(chosen.repetitions, chosen.steps)}"
    print(text)
    if chosen.record:
        record(Path(__file__).stem, text)


if __name__ == "__main__":
    main()
