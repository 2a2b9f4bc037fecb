"""Measure how time and memory of sweeps grow from 100 to 100,000 trivial items, and draw it.

    python benchmarks/sweep.py [--items 100000] [--record]

Trivial items have two steps that add numbers, so what is measured is what a sweep costs an item:
its row, plan, keys, store, events and line in the index. Each size runs in a process of its own,
first with an empty store, then again from the store.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _chart import draw
from _results import machine, record

import imagen_flow as flow

TRIVIAL = {
    "imagen_flow": 1,
    "inputs": {"a": 1},
    "nodes": {
        "first": {"type": "math.add", "a": "${a}", "b": 1},
        "second": {"type": "math.add", "a": "${first}", "b": 2},
    },
    "outputs": {"sum": "${second}"},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000, help="the largest sweep")
    parser.add_argument("--growth-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="write RESULTS.md")
    chosen = parser.parse_args()
    if chosen.growth_of:
        print(json.dumps(measure_growth(chosen.growth_of)))
        return
    print(machine())
    text = growth(chosen.items, chart=chosen.record)
    if chosen.record:
        record("How sweeps grow", text)


if __name__ == "__main__":
    main()
