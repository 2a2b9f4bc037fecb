"""Measure 64 prompts through the main graph against scripts that call diffusers and transformers by
hand: one by one, and in batches.

The ways take turns, each in a process of its own that has loaded its models and drawn once; the
graph starts with an empty store each time. All save the same pictures and captions: pictures are
compared pixel by pixel.

    python benchmarks/many.py [--rounds 3] [--prompts 64] [--record]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _results import machine, record

#: The ways, in the order in which they take turns: what is said of them, and of which other way's
#: time what is wanted.
WAYS = {
    "alone": "the script, one by one",
    "batched": "the script, {together} at a time",
    "exact": "the graph, `batch: exact`",
    "auto": "the graph, `batch: auto`",
}
TARGETS = (("exact", "alone", 0.98), ("auto", "alone", 1.65), ("auto", "batched", 0.98))

#: The sizes of batches of which the script takes the fastest.
SIZES = (8, 16)

GRAPH = Path(__file__).parent.parent / "graphs" / "imagen.yaml"


def prompts(count: int) -> list[str]:
    """Give distinct prompts of the models' world, with one circle each that is not green."""
    colours = ("red", "blue", "yellow", "orange", "purple", "cyan", "pink")
    others = ("square", "triangle", "diamond", "star", "cross")
    whole = itertools.product(
        ("left of", "right of", "above", "below"),
        ("black", "white", "gray", "brown"),
        others,
        ("large", "small"),
        ("large", "small"),
        colours,
        ("red", "blue", "yellow", "orange"),
    )
    every = [
        f"a {size} {colour} circle {relation} a {size2} {colour2} {shape} on a {ground} background"
        for relation, ground, shape, size, size2, colour, colour2 in whole
        if colour != colour2
    ]
    return every[:: len(every) // count][:count]


def serve(way: str) -> None:
    """Load and draw some, then as asked: a folder and a number of prompts in, what it took by each
    clock out. The pictures and captions lie in the folder. At first, the size of batches is printed
    that is the fastest for the script.
    """
    run = by_graph(way) if way in ("exact", "auto") else by_hand(1)
    size = 1
    with tempfile.TemporaryDirectory() as place:
        run(Path(place), prompts(max(SIZES) if way == "auto" else 2))
        if way == "batched":
            took = {}
            for size in SIZES:
                began = time.perf_counter()
                by_hand(size)(Path(place), prompts(max(SIZES)))
                took[size] = time.perf_counter() - began
            size = min(took, key=lambda one: took[one])
            run = by_hand(size)
    print(size, flush=True)
    for line in sys.stdin:
        folder, count = line.rsplit(" ", 1)
        asked = prompts(int(count))
        wall, own = time.perf_counter(), time.process_time()
        captions = run(Path(folder), asked)
        took_s = time.perf_counter() - wall, time.process_time() - own
        (Path(folder) / "captions.json").write_text(json.dumps(captions), "utf-8")
        print(*took_s, flush=True)


@functools.cache
def loaded() -> Any:
    from _by_hand import Parts

    return Parts.load()


def by_hand(together: int) -> Callable[[Path, list[str]], list[str]]:
    from _by_hand import draw

    return lambda out, asked: draw(loaded(), asked, out, together=together)


def by_graph(way: str) -> Callable[[Path, list[str]], list[str]]:
    import imagen_flow as flow
    from imagen_flow.models import ModelPool

    graph, pool = flow.load(GRAPH), ModelPool()

    def run(out: Path, asked: list[str]) -> list[str]:
        captions = {}
        sweep = flow.sweep(
            graph, {"prompt": asked}, out=out / "out", store=out / "store", pool=pool, batch=way
        )
        for item in sweep:
            assert item.status == "done", item.error
            captions[item.index] = item.outputs["caption"]
            for name in ("drawn", "picture"):
                saved = out / "out" / item.row["outputs"][name]["path"]
                kind = "drawn" if name == "drawn" else "edited"
                saved.rename(out / f"{item.index}-{kind}.png")
        return [captions[index] for index in sorted(captions)]

    return run


def measure(rounds: int, count: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Give seconds by way, by the clock and of processor time, by how much the pictures and captions
    of each differ from those of the script, one by one, and how many it draws together.
    """
    together = 1
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    apart: dict[str, tuple[int, int, int]] = {}
    with ExitStack() as stack:
        servers = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--serve", way]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdin is not None and process.stdout is not None
            stack.callback(process.stdin.close)
            together = max(together, int(process.stdout.readline()))
            servers[way] = process
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as place:
                for way, process in servers.items():
                    folder = Path(place) / way
                    folder.mkdir()
                    assert process.stdin is not None and process.stdout is not None
                    print(folder, count, file=process.stdin, flush=True)
                    wall, own = map(float, process.stdout.readline().split())
                    took[way].append((wall, own))
                    apart[way] = compare(Path(place) / "alone", folder, count)
    return took, apart, together


def compare(first: Path, second: Path, count: int) -> tuple[int, int, int]:
    """Give the largest difference of pixels in levels of 8 bits, how many pictures differ by more
    than one, and how many captions differ.
    """
    import numpy as np
    from PIL import Image

    furthest = []
    for name in (f"{number}-{kind}.png" for number in range(count) for kind in ("drawn", "edited")):
        one, other = (np.asarray(Image.open(at / name)).astype(int) for at in (first, second))
        furthest.append(int(np.abs(one - other).max()))
    one, other = (json.loads((at / "captions.json").read_text("utf-8")) for at in (first, second))
    return (
        max(furthest),
        sum(each > 1 for each in furthest),
        sum(a != b for a, b in zip(one, other, strict=True)),
    )


def report(took: dict[str, Any], apart: dict[str, Any], count: int, together: int) -> str:
    rounds = len(took["alone"])
    lines = [
        f"{count} distinct prompts, each drawn, enlarged, edited and captioned by the embedded models; medians of {rounds} rounds, in which the ways take turns. Models are loaded; the graph begins with an empty store.",
        "",
        "| | wall | own | largest difference from the first, of 255 levels | pictures that differ by more than one | captions that differ |",
        "|---|---|---|---|---|---|",
    ]
    for way, said in WAYS.items():
        wall, own = (statistics.median(each) for each in zip(*took[way], strict=True))
        cells = " | ".join(map(str, apart[way]))
        lines.append(f"| {said.format(together=together)} | {wall:.1f} s | {own:.1f} s | {cells} |")
    lines.append("")
    for way, other, wanted in TARGETS:
        pairs = list(zip(took[other], took[way], strict=True))
        wall, own = (statistics.median(b[i] / a[i] for b, a in pairs) for i in (0, 1))
        names = [WAYS[one].format(together=together) for one in (way, other)]
        lines.append(
            f"- {names[0]}, is {wall:.2f} × as fast as {names[1]} (own: {own:.2f}); wanted ≥ {wanted}: {'met' if wall >= wanted else 'missed'}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
        return
    took, apart, together = measure(chosen.rounds, chosen.prompts)
    text = report(took, apart, chosen.prompts, together)
    print(machine())
    print(text)
    if chosen.record:
        record("Many prompts through the main graph", text)


if __name__ == "__main__":
    main()
