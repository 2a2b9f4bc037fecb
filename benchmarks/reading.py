"""Measure what it costs to read a graph: from text, or from a mapping composed in Python, to a spec.

A chain and a fan of 1,000 and of 10,000 nodes, as JSON, as YAML in both styles, and as a mapping;
beside them `json.loads` of the same JSON. With `--before`, a checkout of an earlier version reads
the same graphs: one process a version, which take turns, so that both meet the same machine.

    python benchmarks/reading.py [--before FOLDER] [--repetitions 5] [--large 10000] [--record]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _results import machine, record

#: How many times as fast as the version before.
TARGET = 8

_JSON = "JSON, by `json.loads` alone"


def chain(count: int) -> dict[str, Any]:
    """Draw a graph in which each node needs the one before."""
    nodes: dict[str, Any] = {"n0": {"type": "bench.next", "value": 0}}
    nodes |= {f"n{i}": {"type": "bench.next", "value": f"${{n{i - 1}}}"} for i in range(1, count)}
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"last": f"${{n{count - 1}}}"}}


def fan(count: int) -> dict[str, Any]:
    """Draw a graph of one node, many that need it, and one that needs those."""
    nodes: dict[str, Any] = {"n0": {"type": "bench.next", "value": 0}}
    nodes |= {
        f"n{i}": {"type": "bench.next", "value": "${n0}", "add": i} for i in range(1, count - 1)
    }
    nodes["last"] = {"type": "bench.total", "values": [f"${{{name}}}" for name in nodes]}
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"last": "${last}"}}


def as_flow(graph: dict[str, Any]) -> str:
    """Write a graph as YAML with a node a line."""
    lines = ["imagen_flow: 1", "nodes:"]
    for name, node in graph["nodes"].items():
        ports = [f"{k}: {v if k == 'type' else json.dumps(v)}" for k, v in node.items()]
        lines.append(f"  {name}: {{{', '.join(ports)}}}")
    return "\n".join([*lines, "outputs:", f'  last: "{graph["outputs"]["last"]}"']) + "\n"


def as_block(graph: dict[str, Any]) -> str:
    """Write a graph as YAML with a port a line."""
    lines = ["imagen_flow: 1", "nodes:"]
    for name, node in graph["nodes"].items():
        lines.append(f"  {name}:")
        for port, value in node.items():
            if isinstance(value, list):
                lines += [f"    {port}:", *(f"      - {item}" for item in value)]
            else:
                lines.append(f"    {port}: {value}")
    return "\n".join([*lines, "outputs:", f'  last: "{graph["outputs"]["last"]}"']) + "\n"


def forms(graph: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give each form of a graph, with what reads it."""
    from imagen_flow._text import spec

    for name, text in (
        ("JSON", json.dumps(graph)),
        ("JSON, indented", json.dumps(graph, indent=2)),
        ("YAML, a node a line", as_flow(graph)),
        ("YAML, a port a line", as_block(graph)),
    ):
        yield name, partial(spec.parse, text, name="graph")
    yield "mapping", partial(spec.parse_mapping, graph)
    yield _JSON, partial(json.loads, json.dumps(graph))


def measure(shape: str, count: int) -> dict[str, float]:
    """Read each form once, and give the processor time of each, in µs a node."""
    graph = (chain if shape == "chain" else fan)(count)
    times = {}
    for name, read in forms(graph):
        gc.collect()
        start = time.process_time()
        made = read()
        times[name] = (time.process_time() - start) / count * 1e6
        assert name == _JSON or (len(made.nodes), made.problems) == (count, ())
    return times


def serve() -> None:
    """Measure what is asked for on standard input, a line each, until it ends."""
    measure("chain", 100)  # what is imported when it is first used
    for line in sys.stdin:
        shape, count = line.split()
        print(json.dumps(measure(shape, int(count))), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--before", type=Path, help="a checkout of the version to compare with")
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument(
        "--large", type=int, default=10_000, help="nodes of the large graphs; 0 leaves them out"
    )
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    options.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.serve:
        sys.path.insert(0, str(asked.serve))
        serve()
        return
    versions = {"now": Path(__file__).parent.parent}
    if asked.before:
        versions["before"] = asked.before
    readers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, folder in versions.items()
    }
    head = [f"| graph | nodes | form | {' | '.join(versions)} |"]
    lines = [
        f"Processor time from a graph to its spec, in µs a node: medians of {asked.repetitions} repetitions, half as many for large graphs, in which the versions take turns. `json.loads` is the same code in both versions: its ratio says how far one process fares worse than the other for reasons that are not the readers'.",
        "",
        head[0] + (" × | wanted |" if asked.before else ""),
        "|---|---|---|" + "---|" * (len(versions) + (2 if asked.before else 0)),
    ]
    for count, repetitions in (
        (1000, asked.repetitions),
        (asked.large, max(1, asked.repetitions // 2)),
    ):
        for shape in ("chain", "fan") if count else ():
            times: dict[tuple[str, str], list[float]] = {}
            for _ in range(repetitions):
                for name, reader in readers.items():
                    assert reader.stdin is not None and reader.stdout is not None
                    reader.stdin.write(f"{shape} {count}\n")
                    reader.stdin.flush()
                    for form, took in json.loads(reader.stdout.readline()).items():
                        times.setdefault((form, name), []).append(took)
            for form in dict.fromkeys(form for form, _ in times):
                medians = [statistics.median(times[form, name]) for name in versions]
                row = (
                    f"| {shape} | {count:,} | {form} | {' | '.join(f'{m:.1f}' for m in medians)} |"
                )
                if asked.before:
                    ratio = medians[1] / medians[0]
                    goal = f"≥ {TARGET}: {'met' if ratio >= TARGET else 'missed'}"
                    row += f" {ratio:.1f} | {'–' if form == _JSON else goal} |"
                lines.append(row)
    for reader in readers.values():
        assert reader.stdin is not None
        reader.stdin.close()
        reader.wait()
    text = "\n".join(lines)
    print(machine())
    print(text)
    if asked.record:
        record("Reading a graph", text)


if __name__ == "__main__":
    main()
