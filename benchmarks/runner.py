"""Measure what the runner itself costs a step: resolve, plan, key, store, events, with nodes that
do next to nothing.

A chain and a fan of 1,000 nodes, the first run (into an empty store) and the second (all from the
store, opened anew), and of 10,000 to see that it is linear.
Beside them, in the same loop so that both meet the same machine, the floor: what any runner that
keeps results must do at least. Parsing is measured apart.

    python benchmarks/runner.py [--repetitions 5] [--large 10000] [--peers] [--record]
"""

from __future__ import annotations

import argparse
import gc
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from _results import machine, record

from imagen_flow import List, node
from imagen_flow._graph import resolve
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._store import Store
from imagen_flow._text import spec
from imagen_flow.events import OutputWritten, RunFinished, StepFailed

#: What is wanted, as multiples of the floor's processor time: for small graphs and for large ones.
TARGETS = {"first": (2.5, 3.0), "cached": (2.2, 2.5)}


@node("bench.next", version=1)
def successor(value: int, *, add: int = 1) -> int:
    """Add to a number."""
    return value + add


@node("bench.total", version=1)
def total(values: List[int]) -> int:
    """Add numbers up."""
    return sum(values)


def registry() -> Registry:
    made = Registry({})
    made.add(successor)
    made.add(total)
    return made


def chain(count: int) -> dict[str, Any]:
    """Draw a graph in which each node needs the one before."""
    nodes: dict[str, Any] = {"n0": {"type": "bench.next", "value": 0}}
    nodes |= {f"n{i}": {"type": "bench.next", "value": f"${{n{i - 1}}}"} for i in range(1, count)}
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"last": f"${{n{count - 1}}}"}}


def fan(count: int) -> dict[str, Any]:
    """Draw a graph of one node, many that need it, and one that needs those."""
    middle = [f"n{i}" for i in range(1, count - 1)]
    nodes: dict[str, Any] = {"n0": {"type": "bench.next", "value": 0}}
    nodes |= {
        name: {"type": "bench.next", "value": "${n0}", "add": i} for i, name in enumerate(middle, 1)
    }
    nodes["last"] = {"type": "bench.total", "values": [f"${{{name}}}" for name in middle]}
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"last": "${last}"}}


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {"chain": chain, "fan": fan}


def answer(shape: str, count: int) -> int:
    """What the graph must come to."""
    return count if shape == "chain" else sum(1 + i for i in range(1, count - 1))


@dataclass
class Times:
    """Seconds by what they were spent on; wall clock and this process's own processor time."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    own: dict[str, list[float]] = field(default_factory=dict)

    def take(self, what: str, work: Callable[[], Any]) -> Any:
        gc.collect()
        wall, own = time.perf_counter(), time.process_time()
        given = work()
        own, wall = time.process_time() - own, time.perf_counter() - wall
        self.wall.setdefault(what, []).append(wall)
        self.own.setdefault(what, []).append(own)
        return given

    def micros(self, what: str, count: int) -> tuple[float, float]:
        """Median microseconds a node: wall clock, own processor time."""
        return statistics.median(self.wall[what]) / count * 1e6, statistics.median(
            self.own[what]
        ) / count * 1e6


def once(
    parsed: spec.GraphSpec,
    nodes: Registry,
    folder: Path,
    expected: int,
    *,
    cached: bool,
    count: int,
) -> None:
    """Carry out a graph, from resolving it to a closed store, and see that it did what it is
    measured for.
    """
    graph = resolve(parsed, nodes)
    with Store.open(folder, nodes.codecs) as store:
        given = None
        for event in execute(make_plan(graph, store=store)):
            if isinstance(event, OutputWritten):
                given = event.value
            elif isinstance(event, StepFailed):
                raise event.error
            elif isinstance(event, RunFinished):
                assert (event.ran, event.cached) == ((0, count) if cached else (count, 0)), event
    assert given == expected


def floor(graph: Mapping[str, Any], folder: Path, expected: int) -> None:
    """Do what any runner that keeps results must do: a digest over canonical JSON, a look-up, and a
    committed row for each node.
    """
    with closing(sqlite3.connect(folder / "floor.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS step (key TEXT PRIMARY KEY, value TEXT)")
        values: dict[str, int] = {}
        for name, made in graph["nodes"].items():
            given = [
                values[w[2:-1]] if isinstance(w, str) else w
                for w in made.get("values", (made.get("value"),))
            ]
            said = json.dumps(
                {"type": made["type"], "given": given, "add": made.get("add", 1)},
                sort_keys=True,
                separators=(",", ":"),
            )
            key = blake2b(said.encode(), digest_size=20).hexdigest()
            row = db.execute("SELECT value FROM step WHERE key=?", (key,)).fetchone()
            if row is None:
                value = sum(given) if "values" in made else given[0] + made.get("add", 1)
                db.execute("INSERT INTO step VALUES (?,?)", (key, json.dumps(value)))
            else:
                value = json.loads(row[0])
            values[name] = value
    assert value == expected


def peers(shape: str, count: int) -> Iterator[tuple[str, Callable[[Path, bool], None]]]:
    """Give other runners that are installed, each with what carries out the same graph: (folder of
    its cache, whether it is filled).
    """
    graph, expected = SHAPES[shape](count), answer(shape, count)
    try:
        import dask
    except ImportError:
        pass
    else:

        def by_dask(_: Path, __: bool) -> None:
            tasks: dict[str, Any] = {}
            for name, made in graph["nodes"].items():
                if "values" in made:
                    tasks[name] = (sum, [w[2:-1] for w in made["values"]])
                else:
                    given = made["value"]
                    tasks[name] = (
                        int.__add__,
                        given[2:-1] if isinstance(given, str) else given,
                        made.get("add", 1),
                    )
            assert dask.get(tasks, list(tasks)[-1]) == expected

        yield f"dask {dask.__version__}, synchronous, without a store", by_dask
    try:
        import hamilton
        from hamilton import ad_hoc_utils, driver
    except ImportError:
        pass
    else:
        module = ad_hoc_utils.create_temporary_module(
            *_functions(graph), module_name=f"graph_{shape}_{count}"
        )

        def by_hamilton(folder: Path, _: bool) -> None:
            made = (
                driver.Builder()
                .with_modules(module)
                .with_cache(path=str(folder / "hamilton"))
                .build()
            )
            assert made.execute([list(graph["nodes"])[-1]])[list(graph["nodes"])[-1]] == expected

        yield (
            f"sf-hamilton {'.'.join(map(str, hamilton.version.VERSION))}, with its cache",
            by_hamilton,
        )


def _functions(graph: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """Write a graph as functions whose parameters name the functions that they need, as Hamilton
    has it.
    """
    made: dict[str, Any] = {}
    for name, spelt in graph["nodes"].items():
        given = [w[2:-1] for w in spelt.get("values", (spelt.get("value"),)) if isinstance(w, str)]
        total_ = " + ".join(given) if given else "0"
        add = 0 if "values" in spelt else spelt.get("add", 1)
        exec(
            f"def {name}({', '.join(f'{g}: int' for g in given)}) -> int:\n    return {total_} + {add}\n",
            made,
        )
    return [made[name] for name in graph["nodes"]]


def measure(shape: str, count: int, repetitions: int, *, with_peers: bool) -> Times:
    """Measure one graph as often as asked, everything in turn, each first run into a folder of its
    own.
    """
    times = Times()
    drawn, expected, nodes = SHAPES[shape](count), answer(shape, count), registry()
    text = json.dumps(drawn)
    rivals = list(peers(shape, count)) if with_peers else []
    for repetition in range(repetitions + 1):
        # The first round warms up, and counts for nothing.
        here = Times() if repetition == 0 else times
        with tempfile.TemporaryDirectory(prefix="imagen-flow-bench-") as place:
            folder = Path(place)
            parsed = here.take("parse", lambda: spec.parse(text, name=f"{shape}.json"))
            here.take("floor first", lambda: floor(drawn, folder, expected))
            here.take(
                "first",
                lambda: once(parsed, nodes, folder / "store", expected, cached=False, count=count),
            )
            here.take("floor cached", lambda: floor(drawn, folder, expected))
            here.take(
                "cached",
                lambda: once(parsed, nodes, folder / "store", expected, cached=True, count=count),
            )
            here.take("resolve", lambda: resolve(parsed, nodes))
            for name, carry_out in rivals:
                here.take(f"{name} first", lambda: carry_out(folder, False))
                here.take(f"{name} cached", lambda: carry_out(folder, True))
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument(
        "--large",
        type=int,
        default=10_000,
        help="how many nodes the large graphs have; 0 leaves them out",
    )
    options.add_argument(
        "--peers",
        action="store_true",
        help="also measure sf-hamilton and dask, where they are installed",
    )
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    asked = options.parse_args()
    lines = [
        f"What the runner costs a node that does next to nothing, in µs: medians of {asked.repetitions} repetitions, everything in turn. *Wall* is the clock, *own* the process's processor time; "
        "the ratio is of own times, to the floor (a 20-line loop of BLAKE2b over canonical JSON, a look-up, and one committed SQLite row a node).",
        "",
        "| graph | nodes | run | wall | own | floor, wall | floor, own | ratio | wanted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for count, repetitions in (
        (1000, asked.repetitions),
        (asked.large, max(1, asked.repetitions // 2)),
    ):
        for shape in SHAPES if count else ():
            times = measure(shape, count, repetitions, with_peers=asked.peers and count == 1000)
            for run, (small, large) in TARGETS.items():
                wanted = small if count <= 1000 else large
                (wall, own), (floor_wall, floor_own) = (
                    times.micros(run, count),
                    times.micros(f"floor {run}", count),
                )
                ratio = own / floor_own
                goal = f"≤ {wanted:g}: {'met' if ratio <= wanted else 'missed'}"
                lines.append(
                    f"| {shape} | {count:,} | {run} | {wall:.0f} | {own:.0f} | {floor_wall:.1f} | {floor_own:.1f} | {ratio:.1f} | {goal} |"
                )
            parse, resolving = times.micros("parse", count), times.micros("resolve", count)
            notes.append(
                f"{shape} of {count:,}: parsing its file {parse[0]:.0f} µs a node (not part of the above), resolving {resolving[0]:.0f} (part of it)."
            )
            names = sorted(
                {w.rpartition(" ")[0] for w in times.wall if " " in w and not w.startswith("floor")}
            )
            notes += [
                f"{shape} of {count:,}: {name}: first {times.micros(f'{name} first', count)[0]:.0f}, again {times.micros(f'{name} cached', count)[0]:.0f} µs a node."
                for name in names
            ]
    text = "\n".join([*lines, "", *(f"- {n}" for n in notes)])
    print(machine())
    print(text)
    if asked.record:
        record("The runner's own cost", text)


if __name__ == "__main__":
    main()
