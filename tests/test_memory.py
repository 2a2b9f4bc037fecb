"""Memory does not grow with the number of items: of a sweep, and of a hot folder. A sweep of many is
continued, and added to, without making again what is made.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from imagen_flow import events
from imagen_flow._graph import resolve
from imagen_flow._hotfolder import Resources, RunningLine, make_recipe, read_line
from imagen_flow._models import ModelPool
from imagen_flow._outputs.writer import OutFolder
from imagen_flow._plan.request import Options, Request
from imagen_flow._plugins.registry import Registry, discover
from imagen_flow._store import Store, file_digests
from imagen_flow._store.writer import GROUP_STEPS
from imagen_flow._sweep import Choice, planning, prepare_sweep, read_axis_texts, run_sweep
from imagen_flow._text.spec import read

NODES = '''
"""A toy node."""
import numpy as np
from imagen_flow import Image, node

@node("toy.invert", version=1)
def invert(image: Image, *, less: int = 0) -> Image:
    """Invert a picture."""
    return Image(np.ascontiguousarray(255 - less - image.pixels))
'''

GRAPH = """\
# A picture's negative.
imagen_flow: 1
inputs:
  file: {type: file}
  less: 0
nodes:
  loaded: {type: image.load, file: "${file}"}
  negative: {type: toy.invert, image: "${loaded}", less: "${less}"}
outputs:
  picture: {from: "${negative}", path: "{item}.png"}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: ./in
input: file
settle_s: 0
out: ./out
group: 8
"""

#: How many objects may stay of an item while caches of bounded size fill up. What is known of an
#: item while it runs (its steps, values and events) is some hundreds.
BLOCKS = 12.0


def lay_out(root: Path, count: int) -> Registry:
    """Write a graph, a line and tiny pictures, all of them different."""
    (root / "in").mkdir(parents=True)
    (root / "toys.py").write_text(NODES)
    (root / "graph.yaml").write_text(GRAPH)
    (root / "line.yaml").write_text(LINE)
    for number in range(count):
        pixels = np.full((4, 4, 3), 7, "uint8")
        pixels[0, 0] = number >> 8, number & 255, 9
        Picture.fromarray(pixels).save(root / f"in/{number:05}.png")
        os.utime(root / f"in/{number:05}.png", (1e9, 1e9))
    return discover([root / "toys.py"])


def sweep_items(root: Path, registry: Registry) -> Iterator[events.ItemFinished]:
    """Run a sweep over the pictures."""
    graph = resolve(read(root / "graph.yaml"), registry)
    axes = read_axis_texts(graph, [f"file={root / 'in'}"], base=root)
    with Store.open(root / "store", registry.codecs) as store:
        sweep = prepare_sweep(Request(graph, Options(), {}, store=store, base=root), Choice(axes))
        assert sweep is not None
        for event in run_sweep(sweep, out=OutFolder(root / "out")):
            if isinstance(event, events.ItemFinished):
                assert event.status == "done", event
                yield event


def work_off(root: Path, registry: Registry, on_done: Callable[[], None]) -> None:
    """Run a line until its folder is empty."""

    def listen(event: dict[str, Any]) -> None:
        assert event["event"] != "failed", event
        if event["event"] == "done":
            on_done()

    with Store.open(root / "store", registry.codecs) as store, ModelPool() as pool:
        running = RunningLine(
            make_recipe(read_line(root / "line.yaml"), registry),
            Resources(store=store, pool=pool),
            once=True,
            on_event=listen,
        )
        running.start()
        assert running.wait(3600)
        running.close()
    assert running.fault is None


class Meter:
    """Counts items, and at some of them what is in memory."""

    def __init__(self, *at: int, measure: Callable[[], float]) -> None:
        self.at = at
        self.measure = measure
        self.count = 0
        self.found: list[float] = []

    def add(self) -> None:
        self.count += 1
        if self.count in self.at:
            gc.collect()
            self.found.append(self.measure())

    def growth(self) -> float:
        """Give the least growth an item between two of the points: what grows does so everywhere."""
        assert len(self.found) == len(self.at)
        pairs = zip(self.at, self.at[1:], self.found, self.found[1:], strict=False)
        return min((after - before) / (b - a) for a, b, before, after in pairs)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is bounded by thousands be bounded by few."""
    monkeypatch.setattr(planning, "CHUNK", 8)
    monkeypatch.setattr(file_digests, "MAX_KNOWN", 16)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("way", ["sweep", "folder"])
def test_memory_stays_flat(tmp_path: Path, way: str) -> None:
    """Of an item that is finished, almost nothing stays in memory."""
    registry = lay_out(tmp_path / "x", 144)
    meter = Meter(48, 96, 144, measure=lambda: float(sys.getallocatedblocks()))
    if way == "sweep":
        for _ in sweep_items(tmp_path / "x", registry):
            meter.add()
    else:
        work_off(tmp_path / "x", registry, meter.add)
    assert meter.growth() < BLOCKS, meter.found
    assert len(list((tmp_path / "x/out").glob("*.png"))) == 144


def resident_mb() -> float:
    """Give how much memory of the machine this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("way", ["sweep", "folder"])
def test_ten_thousand_items(tmp_path: Path, way: str) -> None:
    """Ten thousand pictures in and out take no more memory than a thousand."""
    registry = lay_out(tmp_path / "x", 10_000)
    meter = Meter(1_000, 10_000, measure=resident_mb)
    if way == "sweep":
        for _ in sweep_items(tmp_path / "x", registry):
            meter.add()
    else:
        work_off(tmp_path / "x", registry, meter.add)
    assert meter.found[1] - meter.found[0] < 40, meter.found


def run_to_end(root: Path, *options: str) -> tuple[int, int]:
    """Continue a sweep over the pictures; give how many steps ran, and came from the store."""
    done = subprocess.run(sweeping(*options), cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"items, ([\d,]+) steps? ran, ([\d,]+) from the store", done.stderr)
    assert found is not None, done.stderr
    ran, stored = (int(number.replace(",", "")) for number in found.groups())
    return ran, stored


def sweeping(*options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "imagen_flow", "run", "graph.yaml", "--plugin", "toys.py"),
        *("--store", "store", "--sweep", "file=in", *options),
    ]


@pytest.mark.slow
def test_a_killed_sweep_over_pictures_goes_on(tmp_path: Path) -> None:
    """What was made before a kill is not made again, but for what was being written; a value more
    on another axis makes only its own pictures.
    """
    root, count = tmp_path / "x", 10_000
    lay_out(root, count)
    index = root / "out/index.jsonl"
    with subprocess.Popen(sweeping("-q"), cwd=root, stdout=subprocess.DEVNULL) as running:
        while not index.exists() or index.read_bytes().count(b"\n") < count // 4:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {running.wait(0.01)}")
        running.kill()
    ended = index.read_bytes().count(b"\n")
    ran, stored = run_to_end(root)
    assert ran + stored == 2 * count
    assert stored >= 2 * ended - 2 * GROUP_STEPS, (ended, ran, stored)
    lines = index.read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(count))
    assert len(list(root.glob("out/*.png"))) == count
    assert run_to_end(root, "--sweep", "less=0,1", "--out", "more") == (count, 3 * count)
    assert len(list(root.glob("more/*.png"))) == 2 * count
