"""Measure a hot folder: items a second through a trivial line, one by one and in groups; 32 pictures
through the captioner and through two models that do not fit together; memory with 10,000 files
queued.

::

    python benchmarks/folder.py            # the line stops after some hundred items
    python benchmarks/folder.py --all      # works off all 10,000, and says what memory it took
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _results import record
from PIL import Image as Picture
from safetensors.numpy import save_file

from imagen_flow._hotfolder import Resources, RunningLine, make_recipe, read_line
from imagen_flow._models import ModelPool
from imagen_flow._plugins.registry import discover
from imagen_flow._store import Store

QUEUED = 10_000
MEASURED = 300

NODES = '''
"""Toy nodes."""
from imagen_flow import File, Image, Model, Text, loaders, node

class Light(loaders.Loader[str]):
    """A loader whose models weigh ten bytes each."""

    def load(self, model, *, device, dtype, settings):
        with open(model.path.parent / "loads", "a") as loads:
            loads.write("x")
        return model.path.name

    def disk_bytes(self, model):
        return 10

@node("toy.shout", version=1)
def shout(file: File) -> Text:
    """Raise a file's voice."""
    return file.read_text().upper()

@node("toy.use", version=1)
def use(model: Model[Light], *, image: Image) -> Image:
    """Use a model."""
    return Image(255 - image.pixels)
'''

SHOUT = """\
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loud: {type: toy.shout, file: "${file}"}
outputs:
  loud: {from: "${loud}", path: "{item}.txt"}
"""

CAPTION = """\
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loaded: {type: image.load, file: "${file}"}
  words: {type: image.caption, model: embedded/caption, image: "${loaded}"}
outputs:
  words: {from: "${words}", path: "{item}.txt"}
"""

TWO = """\
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loaded: {type: image.load, file: "${file}"}
  first: {type: toy.use, model: ./x, image: "${loaded}"}
  second: {type: toy.use, model: ./y, image: "${first}"}
outputs:
  picture: {from: "${second}", path: "{item}.png"}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
accept: ["*.txt", "*.png"]
settle_s: 0
out: ./out
concurrency: {concurrency}
group: {group}
"""


def resident() -> float:
    """The process's resident memory, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return float("nan")


def lay_out(root: Path, graph: str, *, queued: int, concurrency: int, group: int) -> None:
    """Write a line, and files that wait in its folder."""
    (root / "in").mkdir(parents=True)
    (root / "toys.py").write_text(NODES)
    (root / "graph.yaml").write_text(graph)
    (root / "line.yaml").write_text(LINE.format(concurrency=concurrency, group=group))
    for name in "xy":
        (root / name).mkdir()
        save_file({"w": np.zeros(1000, "float32")}, root / name / "model.safetensors")
        (root / name / "config.json").write_text(json.dumps({"name": name}))
    for number in range(queued):
        if graph == SHOUT:
            (root / "in" / f"{number:06}.txt").write_text(f"file {number}")
        else:
            pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype="uint8")
            Picture.fromarray(pixels).save(root / "in" / f"{number:06}.png")


def measure_pictures(root: Path, graph: str, *, group: int) -> dict[str, float]:
    """Put 32 pictures through a graph, in one memory that holds one of the toy models."""
    lay_out(root, graph, queued=32, concurrency=1, group=group)
    registry = discover([root / "toys.py"])
    recipe = make_recipe(read_line(root / "line.yaml"), registry)
    budget = 15 if graph == TWO else None
    first: list[float] = []
    began, own = time.perf_counter(), time.process_time()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            first.append(time.perf_counter() - began)

    with (
        Store.open(root / "store", registry.codecs) as store,
        ModelPool(budget_bytes=budget) as pool,
    ):
        running = RunningLine(recipe, Resources(store=store, pool=pool), once=True, on_event=listen)
        running.start()
        running.wait()
        running.close()
    assert (running.fault, len(first)) == (None, 32)
    loads = root / "loads"
    return {
        "own": time.process_time() - own,
        "wall": time.perf_counter() - began,
        "first": first[0],
        "loads": loads.stat().st_size if loads.exists() else 1,
    }


def measure(
    root: Path, *, queued: int, concurrency: int, measured: int, group: int = 32
) -> dict[str, float]:
    """Queue files, run the line until `measured` are done, and give figures."""
    lay_out(root, SHOUT, queued=queued, concurrency=concurrency, group=group)
    registry = discover([root / "toys.py"])
    recipe = make_recipe(read_line(root / "line.yaml"), registry)
    done = threading.Semaphore(0)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            done.release()

    before = resident()
    peak = before
    with Store.open(root / "store", registry.codecs) as store:
        running = RunningLine(recipe, Resources(store=store), on_event=listen)
        began = time.perf_counter()
        running.start()
        while sum(running.journal.count_by_state().values()) < queued:
            time.sleep(0.02)
        taken_in_s = time.perf_counter() - began
        with_queue = resident()
        began, own = time.perf_counter(), time.process_time()
        for number in range(measured):
            done.acquire()
            if number % 20 == 0:
                peak = max(peak, resident())
        took_s, own_s = time.perf_counter() - began, time.process_time() - own
        running.close()
    assert running.fault is None
    return {
        "rate": measured / took_s,
        "own_ms": own_s / measured * 1000,
        "taken_in_s": taken_in_s,
        "before": before,
        "with_queue": with_queue - before,
        "peak": peak - before,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--all", action="store_true", help="work off all of them")
    everything = options.parse_args().all
    rows: list[str] = []
    pictures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for concurrency, group in ((1, 1), (1, 32), (4, 32)):
            few = measure(
                Path(folder) / f"few{concurrency}-{group}",
                queued=MEASURED,
                concurrency=concurrency,
                measured=MEASURED,
                group=group,
            )
            how = "one by one" if group == 1 else f"in groups of {group}"
            rows.append(
                f"| {concurrency} at once, {how} | {few['rate']:.0f} | {few['own_ms']:.1f} ms |"
            )
        # Once before, so that neither way pays for importing torch.
        measure_pictures(Path(folder) / "before", CAPTION, group=32)
        for name, graph in (("the captioner", CAPTION), ("two models", TWO)):
            for group in (1, 32):
                one = measure_pictures(Path(folder) / f"{name} {group}", graph, group=group)
                pictures.append(
                    f"| {name}, {'one by one' if group == 1 else 'in a group'} | {one['own']:.2f} s"
                    f" | {one['wall']:.2f} s | {one['first']:.2f} s"
                    f" | {one['loads']} |"
                )
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
            "| | items a second | processor time an item |",
            "|---|---|---|",
            *rows,
            "",
            "32 pictures that wait, through embedded/caption, and through two models of which one fits into memory:",
            "",
            "| | own | wall | first result after | loads |",
            "|---|---|---|---|---|",
            *pictures,
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
