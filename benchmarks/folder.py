"""Measure a hot folder: items a second through a trivial line, and memory with 10,000 files queued.

::

    python benchmarks/folder.py            # the line stops after some hundred items
    python benchmarks/folder.py --all      # works off all 10,000, and says what memory it took
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _results import record

from imagen_flow._hotfolder import RunningLine, Tools, prepare, read_line
from imagen_flow._plugins.registry import discover
from imagen_flow._store import Store

QUEUED = 10_000
MEASURED = 300

NODES = '''
"""A toy node."""
from imagen_flow import File, Text, node

@node("toy.shout", version=1)
def shout(file: File) -> Text:
    """Raise a file's voice."""
    return file.read_text().upper()
'''

GRAPH = """\
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loud: {type: toy.shout, file: "${file}"}
outputs:
  loud: {from: "${loud}", path: "{item}.txt"}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
accept: "*.txt"
settle_s: 0
out: ./out
concurrency: {concurrency}
"""


def resident() -> float:
    """The process's resident memory, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return float("nan")


def measure(root: Path, *, queued: int, concurrency: int, measured: int) -> dict[str, float]:
    """Queue files, run the line until `measured` are done, and give figures."""
    (root / "in").mkdir(parents=True)
    (root / "toys.py").write_text(NODES)
    (root / "graph.yaml").write_text(GRAPH)
    (root / "line.yaml").write_text(LINE.format(concurrency=concurrency))
    for number in range(queued):
        (root / "in" / f"{number:06}.txt").write_text(f"file {number}")
    registry = discover([root / "toys.py"])
    recipe = prepare(read_line(root / "line.yaml"), registry)
    done = threading.Semaphore(0)

    def listen(said: dict[str, Any]) -> None:
        if said["event"] == "done":
            done.release()

    before = resident()
    peak = before
    with Store.open(root / "store", registry.codecs) as store:
        running = RunningLine(recipe, Tools(store=store), listen=listen)
        began = time.perf_counter()
        running.start()
        while len(running.journal.counts()) == 0 or sum(running.journal.counts().values()) < queued:
            time.sleep(0.02)
        taken_in_s = time.perf_counter() - began
        with_queue = resident()
        began = time.perf_counter()
        for number in range(measured):
            done.acquire()
            if number % 20 == 0:
                peak = max(peak, resident())
        took_s = time.perf_counter() - began
        running.close()
    assert running.fault is None
    return {
        "rate": measured / took_s,
        "taken_in_s": taken_in_s,
        "before": before,
        "with_queue": with_queue - before,
        "peak": peak - before,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--all", action="store_true", help="work off all of them")
    everything = options.parse_args().all
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for concurrency in (1, 4):
            few = measure(
                Path(folder) / f"few{concurrency}",
                queued=MEASURED,
                concurrency=concurrency,
                measured=MEASURED,
            )
            rows.append(f"| {concurrency} at once | {few['rate']:.0f} |")
        many = measure(
            Path(folder) / "many",
            queued=QUEUED,
            concurrency=8 if everything else 2,
            measured=QUEUED if everything else MEASURED,
        )
        synced = sync_s(Path(folder))
    text = "\n".join(
        [
            "A trivial line: one small text file in, one out, with provenance beside it. Each item waits for the disk about ten times, one after another, so the disk decides.",
            "",
            "| | items a second |",
            "|---|---|",
            *rows,
            "",
            f"One synced write of a small file takes {synced * 1000:.1f} ms here.",
            "",
            f"With {QUEUED:,} files dropped at once: taken in after {many['taken_in_s']:.1f} s; memory grows by {many['with_queue']:.0f} MB while they wait, and by {many['peak']:.0f} MB at most"
            f" while {'all' if everything else f'the first {MEASURED}'} are worked off ({many['rate']:.0f} a second, {'eight' if everything else 'two'} at once). Wanted: bounded, whatever the number.",
        ]
    )
    print(text)
    record("A hot folder", text)


def sync_s(folder: Path) -> float:
    """How long a write takes that waits for the disk."""
    took = []
    for number in range(30):
        began = time.perf_counter()
        handle = os.open(folder / f"sync{number}", os.O_WRONLY | os.O_CREAT)
        os.write(handle, b"x" * 200)
        os.fsync(handle)
        os.close(handle)
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


if __name__ == "__main__":
    main()
