"""Measure how long it takes from an atomic save to the start of the run that it causes.

The clock starts before the rename that puts the new file in place and stops in the code of the
first node that runs (where nothing runs: when `watch` gives RunStarted). The time that it has
to be quiet (`settle_s`) is part of it and is told apart.
Own time is the processor time that the whole process uses in between, which other work on the
machine does not lengthen.

    python benchmarks/watch.py [--repetitions 40] [--record]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from _results import machine, record

import imagen_flow as flow
from imagen_flow._watch import Refused, Waiting
from imagen_flow.events import RunFinished, RunStarted, StepFailed

#: What is wanted, in seconds from the save to the run, the settling aside.
TARGET_S = 0.150
SETTLE_S = 0.1

#: When the first node of each run began: by the clock and by this process's processor time.
STARTS: list[tuple[float, float]] = []

#: A node that says when it began.
PLUGIN = """
import sys, time
from imagen_flow import Image, node

@node("bench.begin", version=1)
def begin(image: Image) -> Image:
    sys.modules["__main__"].STARTS.append((time.perf_counter(), time.process_time()))
    return image
"""

MAIN = Path(__file__).parent.parent / "graphs/imagen.yaml"


def chain(count: int) -> str:
    """Draw a graph of so many nodes in a row."""
    lines = [
        "imagen_flow: 1",
        "inputs: {colour: teal}",
        "nodes:",
        '  first: {type: image.solid, width: 8, height: 8, colour: "${colour}"}',
        '  n0: {type: bench.begin, image: "${first}"}',
    ]
    lines += [
        f'  n{i}: {{type: image.rotate, image: "${{n{i - 1}}}", degrees: 90}}'
        for i in range(1, count - 1)
    ]
    return "\n".join(
        [
            *lines,
            'outputs: {picture: {from: "${n' + str(count - 2) + '}", path: "picture.png"}}',
            "",
        ]
    )


def edits(text: str) -> Iterator[str]:
    """Change a graph's colour again and again, so that all of it runs."""
    number = 0
    while True:
        number += 1
        yield text.replace("teal", f'"#{number:06x}"')


def comments(text: str) -> Iterator[str]:
    """Change a comment again and again, so that nothing runs."""
    number = 0
    while True:
        number += 1
        yield f"# {number}\n{text}"


def measure(
    folder: Path, text: str, changed: Callable[[str], Iterator[str]], repetitions: int
) -> tuple[list[float], list[float]]:
    """Watch a graph and save it again and again; give the seconds from each save to the start of
    its run, and of processor time.
    """
    graph = folder / "graph.yaml"
    texts = changed(text)
    wall: list[float] = []
    own: list[float] = []
    cancel = threading.Event()
    saved: tuple[float, float] | None = None
    graph.write_text(next(texts))
    (folder / "plugin.py").write_text(PLUGIN)
    for said in flow.watch(
        graph,
        plugins=[folder / "plugin.py"],
        out=folder / "out",
        store=folder / "store",
        settle_s=SETTLE_S,
        cancel=cancel,
    ):
        if isinstance(said, RunStarted):
            started = (time.perf_counter(), time.process_time())
        elif isinstance(said, Refused | StepFailed):
            raise RuntimeError(said)
        elif isinstance(said, RunFinished):
            assert said.status == "done", said
            if saved is not None:
                began = STARTS[-1] if said.ran else started
                wall.append(began[0] - saved[0])
                own.append(began[1] - saved[1])
        elif isinstance(said, Waiting):
            if len(wall) > repetitions:
                cancel.set()
                continue
            aside = graph.with_name(".aside")
            aside.write_text(next(texts))
            time.sleep(0.05)
            saved = (time.perf_counter(), time.process_time())
            os.replace(aside, graph)
    return wall[1:], own[1:]  # the first warms up


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, round(part * (len(values) - 1)))]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--repetitions", type=int, default=40)
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    asked = options.parse_args()
    lines = [
        f"From an atomic save of the graph to the first node's code (where nothing runs: to the start of the run), in ms, without the {SETTLE_S * 1000:.0f} ms that it has to be quiet; {asked.repetitions} saves each, in one process. "
        "*Wall* is the clock, *own* the process's processor time in between, that of reading the graph in the quiet time included.",
        "",
        "| graph | what the save changes | median | 95 % | slowest | own, median | own, 95 % | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, text, what, changed in (
        ("2 nodes", chain(2), "all of it", edits),
        ("50 nodes", chain(50), "all of it", edits),
        ("200 nodes", chain(200), "all of it", edits),
        ("the main graph", MAIN.read_text("utf-8"), "a comment", comments),
    ):
        with tempfile.TemporaryDirectory(prefix="imagen-flow-bench-") as place:
            wall, own = measure(Path(place), text, changed, asked.repetitions)
        wall = [(taken - SETTLE_S) * 1000 for taken in wall]
        own = [taken * 1000 for taken in own]
        high = percentile(wall, 0.95)
        goal = f"≤ {TARGET_S * 1000:.0f}: {'met' if high <= TARGET_S * 1000 else 'missed' if statistics.median(wall) > TARGET_S * 1000 else 'met by the median'}"
        lines.append(
            f"| {name} | {what} | {statistics.median(wall):.0f} | {high:.0f} | {max(wall):.0f} | {statistics.median(own):.0f} | {percentile(own, 0.95):.0f} | {goal} |"
        )
    if os.nice(0):
        lines += [
            "",
            f"- Measured at niceness {os.nice(0)}, so that other work on the machine lengthens the times of the clock less.",
        ]
    text = "\n".join(lines)
    print(machine())
    print(text)
    if asked.record:
        record("From a save to a run", text)


if __name__ == "__main__":
    main()
