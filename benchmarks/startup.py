"""Measure what a user waits for at the terminal: whole processes, from start to exit.

Help, the first run of a one-node graph from Python, the plan of a graph of 100 nodes, and the main
graph: cold (an empty store) and all from the store. Beside them what Python and
torch take by themselves: on a busy machine the ratio to an empty Python says more than the clock.

    python benchmarks/startup.py [--repetitions 5] [--cold 5] [--record]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import machine, record

#: What is wanted, in seconds: of processor time where that is what there is to save, by the clock
#: for what a user waits for.
OWN_TARGETS = {"help": 0.05, "first call": 0.12}
TARGETS = {
    "plan": 0.6,
    "main graph, cold": 20.0,
    "main graph, from the store": 1.0,
}

#: The first run in a process, of one node that does next to nothing.
FIRST_CALL = """
import imagen_flow as flow
graph = {"imagen_flow": 1, "nodes": {"a": {"type": "math.add", "a": 1, "b": 2}}, "outputs": {"a": "${a}"}}
assert flow.run(graph, store=None) == {"a": 3}
"""

COMMAND = [sys.executable, "-m", "imagen_flow"]


def hundred() -> str:
    """A graph of 100 nodes of several plugins."""
    lines = [
        "imagen_flow: 1",
        "inputs: {picture: {type: file, default: ./p.png}, width: 64}",
        "nodes:",
        '  n0: {type: image.load, file: "${picture}"}',
    ]
    for i in range(1, 99):
        kind = (
            "image.resize, width: 64, height: 64",
            "image.rotate, degrees: 90",
            "image.blur, radius: 1.0",
        )[i % 3]
        lines.append(f'  n{i}: {{type: {kind}, image: "${{n{i - 1}}}"}}')
    lines += [
        '  wide: {type: math.multiply, a: "${width}", b: 2}',
        "outputs:",
        '  picture: "${n98}"',
        '  wide: "${wide}"',
    ]
    return "\n".join(lines) + "\n"


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """How long a process takes by the clock, and how much processor time it uses; one that fails
    ends the measurement with its words.
    """
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports(command: list[str], environment: dict[str, str]) -> set[str]:
    """The top-level packages that a process imports."""
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        found.partition(".")[0]
        for found in re.findall(r"^import time:.*\|\s+(\S+)$", done.stderr, re.MULTILINE)
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument(
        "--cold", type=int, default=5, help="how often the main graph runs cold; 0 leaves it out"
    )
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagen-flow-bench-") as place:
        folder = Path(place)
        environment = {
            **os.environ,
            "HOME": place,
            "IMAGEN_FLOW_STORE": str(folder / "store"),
            "HF_HUB_OFFLINE": "1",
        }
        # With bytecode, as for every user but the first time.
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "PYTHONDONTWRITEBYTECODE"):
            environment.pop(name, None)
        graph = folder / "hundred.yaml"
        graph.write_text(hundred(), "utf-8")
        _picture(folder / "p.png")
        planned = [*COMMAND, "plan", str(graph)]
        demo = [*COMMAND, "demo", "--out", str(folder / "out")]
        runs = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "help": [*COMMAND, "--help"],
            "first call": [sys.executable, "-c", FIRST_CALL],
            "plan": planned,
        }
        # Once beforehand: compiled files and the memo of plugins are there for every user but for
        # the first time.
        timed(planned, environment)
        times: dict[str, list[tuple[float, float]]] = {}
        for _ in range(asked.repetitions):
            for name, command in runs.items():
                times.setdefault(name, []).append(timed(command, environment))
        notes = []
        if asked.cold:
            for i in range(asked.cold):
                environment["IMAGEN_FLOW_STORE"] = str(folder / f"store{i}")
                times.setdefault("main graph, cold", []).append(timed(demo, environment))
            for _ in range(asked.repetitions):
                times.setdefault("main graph, from the store", []).append(timed(demo, environment))
                times.setdefault('python -c "import torch"', []).append(
                    timed([sys.executable, "-c", "import torch"], environment)
                )
            heavy = imports(demo, environment) & {"torch", "diffusers", "transformers"}
            notes.append(
                f"From the store, the main graph imports {', '.join(sorted(heavy)) or 'neither torch, diffusers nor transformers'}."
            )
    lines = [
        "Whole processes, in seconds by the clock; *own* is the processor time that they use on all cores, also a median, and × is that as a multiple of an empty Python's.",
        "",
        "| what | median | fastest | slowest | own | × | runs | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    empty = statistics.median(own for _, own in times["python -c pass"])
    for name, took in times.items():
        clock, own = [c for c, _ in took], statistics.median(o for _, o in took)
        median, goal = statistics.median(clock), "–"
        if name in TARGETS:
            goal = f"≤ {TARGETS[name]:g}: {'met' if median <= TARGETS[name] else 'missed'}"
        elif name in OWN_TARGETS:
            goal = f"own ≤ {OWN_TARGETS[name]:g}: {'met' if own <= OWN_TARGETS[name] else 'missed'}"
        lines.append(
            f"| {name} | {median:.2f} | {min(clock):.2f} | {max(clock):.2f} | {own:.3f} | {own / empty:.1f} | {len(took)} | {goal} |"
        )
    text = "\n".join([*lines, "", *(f"- {n}" for n in notes)]).rstrip()
    print(machine())
    print(text)
    if asked.record:
        record("What a user waits for", text)


def _picture(path: Path) -> None:
    import PIL.Image

    PIL.Image.new("RGB", (32, 32)).save(path)


if __name__ == "__main__":
    main()
