"""Measure what is not done twice: a sweep of 4 prompts with 16 seeds against 64 runs, a re-run after
a change late in the main graph, two models that do not fit together, and the files that planning
all graphs opens.

    python benchmarks/sharing.py [--repetitions 3] [--steps 2] [--record]
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _results import machine, record
from folder import TWO, lay_out

import imagen_flow as flow
from imagen_flow.models import ModelPool

GRAPHS = Path(__file__).parent.parent / "graphs"

PROMPTS = [
    "a large red circle left of a small blue square on a black background",
    "a small yellow star above a large green triangle on a white background",
    "a large purple cross on a grey background",
    "a small orange diamond on a black background",
]
SEEDS = range(16)

#: The nodes of the main graph, and how long a caption may be as an input.
LATE = {"max_length": {"type": "int", "default": 32}}

#: Plans the graphs that are named, and prints how often each file was opened.
COUNT = """
import collections, json, os, sys, time
now = time.time
time.time = lambda: now() + 10  # files that were written just now are not believed to stay
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        opened[os.path.realpath(arguments[0])] += 1
sys.addaudithook(count)
import imagen_flow as flow
for graph in sys.argv[1:]:
    flow.plan(graph, store=None, device="cpu")
print(json.dumps(opened))
"""


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """How long work takes, by the clock and of processor time."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - own


def medians(taken: list[tuple[float, float]]) -> tuple[float, float]:
    wall, own = zip(*taken, strict=True)
    return statistics.median(wall), statistics.median(own)


def drawing(steps: int) -> dict[str, Any]:
    """The first two nodes of the main graph."""
    model = "embedded/imagen"
    text = {"type": "text.encode", "model": model, "prompt": "${prompt}"}
    base = {"type": "diffusion.base", "model": model, "text": "${text}", "seed": "${seed}"}
    return {
        "imagen_flow": 1,
        "inputs": {"prompt": PROMPTS[0], "seed": {"type": "seed", "default": 7}},
        "nodes": {"text": text, "base": base | {"num_inference_steps": steps}},
        "outputs": {"picture": {"from": "${base}", "path": "{item}.png"}},
    }


def against_runs(repetitions: int, steps: int) -> str:
    """Time a sweep of 64 items, and the same as 64 runs with one pool and one store."""
    graph = flow.load(drawing(steps))
    taken: dict[str, list[tuple[float, float]]] = {"exact": [], "auto": [], "runs": []}
    with tempfile.TemporaryDirectory() as place, ModelPool() as pool:

        def sweep(batch: str, name: str) -> None:
            axes = {"prompt": PROMPTS, "seed": SEEDS}
            at = {"store": f"{place}/{name}", "out": f"{place}/{name}-out"}
            ended = list(flow.sweep(graph, axes, pool=pool, batch=batch, **at))
            assert [item.status for item in ended] == ["done"] * 64

        def runs(name: str) -> None:
            for number, prompt in enumerate(PROMPTS):
                for seed in SEEDS:
                    at = {"store": f"{place}/{name}", "out": f"{place}/{name}-{number}-{seed}"}
                    flow.run(graph, {"prompt": prompt, "seed": seed}, pool=pool, **at)

        sweep("auto", "warm")  # loads the models, and sees that groups are sound
        for turn in range(repetitions):
            taken["runs"].append(clocked(lambda: runs(f"runs{turn}")))
            for batch in ("exact", "auto"):
                taken[batch].append(clocked(lambda: sweep(batch, f"{batch}{turn}")))
    rows = [
        f"4 prompts × 16 seeds, {steps} denoising steps, models loaded; medians of {repetitions} rounds, in which the ways take turns.",
        "",
        "| | wall | own | × as fast as the runs (own) |",
        "|---|---|---|---|",
    ]
    names = {"runs": "64 runs", "exact": "a sweep", "auto": "a sweep with `batch: auto`"}
    for way, name in names.items():
        wall, own = medians(taken[way])
        pairs = zip(taken["runs"], taken[way], strict=True)
        times = medians([(run[0] / one[0], run[1] / one[1]) for run, one in pairs])
        rows.append(f"| {name} | {wall:.2f} s | {own:.2f} s | {times[0]:.2f} ({times[1]:.2f}) |")
    return "\n".join(rows)


def late_change(repetitions: int) -> str:
    """Time a re-run of the main graph after a change of its last node alone, and that node's work by
    hand.
    """
    import numpy as np

    from imagen_flow_embedded import WEIGHTS
    from imagen_flow_embedded.inference.describing import ShapesCaptioner

    spec = json.loads(json.dumps(main_graph()))
    spec["nodes"]["words"]["max_length"] = "${max_length}"
    spec["inputs"] |= LATE
    graph = flow.load(spec)
    captioner = ShapesCaptioner.load(flow.Model(WEIGHTS / "caption"), device="cpu", dtype="float32")
    ran: list[int] = []
    taken: dict[str, list[tuple[float, float]]] = {"graph": [], "hand": []}
    with tempfile.TemporaryDirectory() as place, ModelPool() as pool:

        def listen(event: Any) -> None:
            if isinstance(event, flow.events.RunFinished):
                ran.append(event.ran)

        def run(longest: int) -> Any:
            return flow.run(
                graph, max_length=longest, store=f"{place}/store", pool=pool, on_event=listen
            )

        picture = np.ascontiguousarray(run(32)["picture"].pixels)
        captioner.caption(picture)
        for longest in range(33, 33 + repetitions):
            taken["graph"].append(clocked(lambda: run(longest)))
            taken["hand"].append(clocked(lambda: captioner.caption(picture, max_length=longest)))
    assert ran == [5, *[1] * repetitions], ran
    (wall, own), (least, least_own) = medians(taken["graph"]), medians(taken["hand"])
    return (
        f"The main graph again after a change of its last node alone, models loaded: 1 of 5 steps runs."
        f" It takes {1e3 * wall:.0f} ms (own {1e3 * own:.0f}), the captioner's call alone"
        f" {1e3 * least:.0f} ms (own {1e3 * least_own:.0f}): {1e3 * (wall - least):.0f} ms more"
        f" (own {1e3 * (own - least_own):.0f}), medians of {repetitions} interleaved pairs."
    )


def main_graph() -> dict[str, Any]:
    """Give `graphs/imagen.yaml` as a mapping."""
    from ruamel.yaml import YAML

    found: dict[str, Any] = YAML(typ="safe", pure=True).load(GRAPHS / "imagen.yaml")
    return found


def two_models() -> str:
    """Count how often two models are loaded of which one fits into memory, for 32 pictures."""
    counts = {}
    for way in ("a sweep", "32 runs"):
        with tempfile.TemporaryDirectory() as place, ModelPool(budget_bytes=15) as pool:
            root = Path(place) / "line"
            lay_out(root, TWO, queued=32, concurrency=1, group=32)
            files = sorted(map(str, (root / "in").iterdir()))
            at: dict[str, Any] = {
                "store": root / "store",
                "out": root / "out",
                "plugins": root / "toys.py",
                "pool": pool,
            }
            if way == "a sweep":
                ended = list(flow.sweep(root / "graph.yaml", {"file": files}, **at))
                assert [item.status for item in ended] == ["done"] * 32
            else:
                for file in files:
                    flow.run(root / "graph.yaml", {"file": file}, **at | {"out": f"{file}.out"})
            counts[way] = (root / "loads").stat().st_size
    return (
        f"32 pictures through two models of which one fits into memory: a sweep loads"
        f" {counts['a sweep']} times (wanted: 2), 32 runs {counts['32 runs']} times."
    )


def opens() -> str:
    """Count what planning all graphs in one process opens."""
    graphs = sorted(map(str, GRAPHS.rglob("*.yaml")))
    graphs = [name for name in graphs if "nodes:" in Path(name).read_text("utf-8")]
    ran = subprocess.run(
        [sys.executable, "-B", "-c", COUNT, *graphs], capture_output=True, text=True, check=True
    )
    project = f"{GRAPHS.parent}{os.sep}"
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for name, times in json.loads(ran.stdout).items():
        if name.startswith(project) and "/.venv/" not in name and "/__pycache__/" not in name:
            kinds[Path(name).suffix or "no ending"].append(times)
    rows = [
        f"Planning the {len(graphs)} graphs in `graphs/` in one process opens these files of the project:",
        "",
        "| | files | opens | most of one |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {kind} | {len(each)} | {sum(each)} | {max(each)} |"
        for kind, each in sorted(kinds.items())
    ]
    rows += [
        "",
        "A graph is opened again for each that includes it, a module to import and to digest it, weights to digest them and for their header; nothing else twice.",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of a picture")
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    chosen = parser.parse_args()
    print(machine())
    parts = []
    for part in (
        lambda: against_runs(chosen.repetitions, chosen.steps),
        lambda: late_change(max(5, chosen.repetitions)),
        two_models,
        opens,
    ):
        parts.append(part())
        print(parts[-1], flush=True)
    if chosen.record:
        record("What is not done twice", "\n\n".join(parts))


if __name__ == "__main__":
    main()
