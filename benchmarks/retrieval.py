"""Measure the search of an index of 100,000 pictures: ten nearest, beside a comparison of all in
numpy in the same process.

Two kinds of features: clustered ones, as folders of photographs have them (1,000 kinds of things,
each spread around a direction), and directions drawn at random, among which no structure helps. The
queries are none of the entries. The two take turns, twenty queries each, so that both meet the same
machine.

    python benchmarks/retrieval.py [--count 100000] [--dimension 512] [--queries 200] [--record]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _results import machine, record

from imagen_flow._models import resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import Loading
from imagen_flow_retrieval import index_folder, indexes, searching
from imagen_flow_retrieval.vectors import unit

#: How many are found, the most milliseconds, how many times as fast as numpy, and how many of the
#: true ones.
WANTED = 10
MOST_MS = 50
TIMES = 5
RECALL = 0.99

_TURN = 20


def features(count: int, dimension: int, *, clusters: int) -> np.ndarray:
    """Draw features of length 1."""
    random = np.random.default_rng(11)
    drawn = random.standard_normal((count, dimension), dtype="float32")
    if clusters:
        centres = random.standard_normal((clusters, dimension), dtype="float32")
        drawn = centres[random.integers(0, clusters, count)] + np.float32(0.7) * drawn
    return unit(drawn)


def by_numpy(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    """Compare all, and return the nearest in order."""
    scores = vectors @ query
    near = np.argpartition(-scores, WANTED)[:WANTED]
    found: list[int] = near[np.argsort(-scores[near])].tolist()
    return found


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function, and give what it returns and the milliseconds it took."""
    start = time.perf_counter()
    found = function()
    return found, (time.perf_counter() - start) * 1000


def busy(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Call a function, and give also the milliseconds that processors worked for it."""
    start = time.process_time()
    found, took = timed(function)
    return found, took, (time.process_time() - start) * 1000


def turns(queries: np.ndarray) -> Iterator[np.ndarray]:
    """Give the queries of each turn."""
    for start in range(0, len(queries), _TURN):
        yield queries[start : start + _TURN]


def measure(count: int, dimension: int, queries: int, *, clusters: int) -> list[str]:
    """Build an index, load it twice, search it, and give the cells of a row."""
    drawn = features(count + queries, dimension, clusters=clusters)
    entries, asked = drawn[:count], drawn[count:]
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        _, wrote = timed(
            lambda: index_folder.write(
                folder / "index",
                entries,
                [f"{number:07}.png" for number in range(count)],
                {"features": "clip", "model": "benchmark"},
            )
        )
        model = resolve("./index", folder=folder, embedded={}, digest=digest_file)
        index, loaded = timed(
            lambda: indexes.IndexLoader().load(
                model, device="cpu", dtype="float32", settings=Loading()
            )
        )
        again = "–"
        if index.codes is not None:
            index.codes.write(folder)
            _, read = timed(lambda: searching.Codes.read(folder, count, dimension))
            again = f"{read:,.0f} ms"
    ours: list[float] = []
    numpys: list[float] = []
    ours_work: list[float] = []
    numpys_work: list[float] = []
    hits = first = 0
    for turn in turns(asked):
        exact = []
        for query in turn:
            found, took, worked = busy(lambda q=query: by_numpy(entries, q))
            exact.append(found)
            numpys.append(took)
            numpys_work.append(worked)
        for query, wanted in zip(turn, exact, strict=True):
            near, took, worked = busy(
                lambda q=query: searching.search(index.array, index.names, q, WANTED, index.codes)
            )
            ours.append(took)
            ours_work.append(worked)
            positions = [match.position for match in near]
            hits += len(set(positions) & set(wanted))
            first += positions[0] == wanted[0]
    ratio = statistics.median(numpys) / statistics.median(ours)
    recall = hits / (WANTED * len(asked))
    met = statistics.median(ours) < MOST_MS and ratio >= TIMES and recall >= RECALL
    return [
        "clustered" if clusters else "random directions",
        f"{statistics.median(ours):.1f} ms",
        f"{statistics.quantiles(ours, n=20)[-1]:.1f} ms",
        f"{statistics.median(numpys):.1f} ms",
        f"{ratio:.1f} ×",
        f"{statistics.median(ours_work):.1f} and {statistics.median(numpys_work):.1f} ms",
        f"{100 * recall:.2f} %",
        f"{100 * first / len(asked):.0f} %",
        "met" if met else "missed",
        f"{wrote:,.0f} ms",
        f"{loaded:,.0f} ms",
        again,
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--count", type=int, default=100_000)
    options.add_argument("--dimension", type=int, default=512)
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    asked = options.parse_args()
    rows = [
        measure(asked.count, asked.dimension, asked.queries, clusters=clusters)
        for clusters in (1000, 0)
    ]
    head = [
        "features",
        "search, median",
        "95 % within",
        "numpy, median",
        "faster",
        "processor time of both",
        f"of the {WANTED} nearest found",
        "the nearest found",
        f"wanted: < {MOST_MS} ms, ≥ {TIMES} ×, ≥ {100 * RECALL:.0f} %",
        "write",
        "load and compute codes",
        "read kept codes",
    ]
    text = "\n".join(
        [
            f"The {WANTED} nearest of {asked.count:,} vectors of {asked.dimension} numbers, {asked.queries} queries that are none of them, one at a time. numpy compares all, with as many threads as it likes; the index chooses candidates by codes of two bits a number and compares those exactly. Recall is against numpy.",
            "",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )
    print(machine())
    print(text)
    if asked.record:
        record("Searching an index", text)


if __name__ == "__main__":
    main()
