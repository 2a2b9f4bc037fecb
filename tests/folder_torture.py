"""Stress a hot folder: files that are delivered at random, slowly, renamed and replaced, and
processes that are killed at random instants. Then count.

::

    python tests/folder_torture.py                     # 300 kills, two workers; prints the seed
    python tests/folder_torture.py --kills 1000 --workers 1 --seed 7
    python tests/folder_torture.py --apart /dev/shm/x  # the watched folder on another file system
    python tests/folder_torture.py --embedded          # photographs, through the bundled models

In the end, every file that was delivered is accounted for exactly once (the last version of its
original in `done` or `failed`, complete and correct outputs in `out`), and there are no other
files. Random decisions come from the seed; the exact instant of a kill also depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NODES = '''
"""Toy nodes."""
from imagen_flow import File, Text, node

@node("toy.shout", version=1)
def shout(file: File) -> Text:
    """Raise a file's voice; it must be whole."""
    said = file.read_text()
    if not (said.startswith("begin ") and said.endswith(" end")):
        raise ValueError(f"it is half a file: {said[:40]!r}")
    if "poison" in said:
        raise ValueError("it is poison")
    return said.upper()
'''

GRAPH = """\
# Louder, twice.
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loud: {type: toy.shout, file: "${file}"}
  again: {type: toy.shout, file: "${file}"}
outputs:
  loud: {from: "${loud}", path: "{item}.txt"}
  again: {from: "${again}", path: "more/{item}-again.txt", provenance: none, exists: replace}
"""

PICTURES = """\
# Describe and edit a picture.
imagen_flow: 1
inputs:
  file: {type: file}
nodes:
  loaded: {type: image.load, file: "${file}"}
  words: {type: image.caption, model: embedded/caption, image: "${loaded}"}
  edited: {type: image.edit, model: embedded/edit, image: "${loaded}", instruction: make the background white, seed: 3}
outputs:
  loud: {from: "${words}", path: "{item}.txt"}
  again: {from: "${edited}", path: "more/{item}-again.png"}
"""

LINE = """\
imagen_flow_folder: 1
graph: ./graph.yaml
in: {inbox}
accept: ["*.txt", "*.png"]
input: file
settle_s: {settle_s}
out: ./out
done: ./done
failed: ./failed
kills: 1000000
concurrency: {concurrency}
lease_s: 1
stop_s: 2
"""


@dataclass
class Torture:
    """One stress run. `report` is called with its progress."""

    root: Path
    seed: int
    kills: int
    files: int
    workers: int
    settle_s: float = 0.4
    embedded: bool = False
    #: A watched folder on another file system.
    apart: Path | None = None
    report: Callable[[str], None] = print
    #: The last version of each delivered file, by its path.
    expected: dict[str, bytes] = field(default_factory=dict)
    processes: list[int] = field(default_factory=list)
    fork_server: subprocess.Popen[bytes] | None = None
    killed: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)

    @property
    def inbox(self) -> Path:
        return (self.apart or self.root) / "in"

    def lay_out(self) -> None:
        for folder in (self.inbox, *(self.root / name for name in ("out", "done", "failed"))):
            folder.mkdir(parents=True)
        (self.root / "graph.yaml").write_text(PICTURES if self.embedded else GRAPH)
        (self.root / "toys.py").write_text(NODES)
        (self.root / "line.yaml").write_text(
            LINE.format(
                inbox=json.dumps(str(self.inbox)),
                settle_s=self.settle_s,
                concurrency=1 if self.embedded else 2,
            )
        )

    def ask(self, words: str) -> int:
        """Ask the fork server: ``launch`` returns the id of a new process, ``wait N`` its exit
        code. Importing everything for each process would take a hundred times as long.
        """
        if self.fork_server is None:
            command = [sys.executable, __file__, "--nursery"]
            self.fork_server = subprocess.Popen(
                command,
                cwd=self.root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self.fork_server.stdin is not None and self.fork_server.stdout is not None
        self.fork_server.stdin.write(f"{words}\n".encode())
        self.fork_server.stdin.flush()
        return int(self.fork_server.stdout.readline())

    # -- dropping

    def drop(self, chance: random.Random, number: int) -> None:
        """Deliver a file in one of the ways that people and programs use."""
        folder = chance.choice(["", "", "sub/", "sub/deep é/"])
        ending = "png" if self.embedded else "txt"
        path = f"{folder}file {number:04}.{ending}"
        place = self.inbox / path
        place.parent.mkdir(parents=True, exist_ok=True)
        data = self.content(chance, number)
        way = chance.choice(["at once", "at once", "aside", "slowly", "replaced", "renamed"])
        if way == "at once":
            place.write_bytes(data)
        elif way == "aside":
            aside = place.with_name(f".{place.name}.part")
            aside.write_bytes(data)
            os.replace(aside, place)
        elif way == "slowly":
            with open(place, "wb") as stream:
                for start in range(0, len(data), max(1, len(data) // 4)):
                    stream.write(data[start : start + max(1, len(data) // 4)])
                    stream.flush()
                    time.sleep(chance.uniform(0, self.settle_s / 4))
        elif way == "replaced":
            self.expected.setdefault(path, data)
            place.write_bytes(data)
            # Whether the first version was processed or replaced before, the last version counts.
            time.sleep(chance.uniform(0, self.settle_s / 2))
            data = self.content(chance, number)
            aside = place.with_name(f".{place.name}.part")
            aside.write_bytes(data)
            os.replace(aside, place)
        else:
            first = place.with_name(f"{place.stem} first.{ending}.part")
            first.write_bytes(data)
            time.sleep(chance.uniform(0, self.settle_s / 2))
            os.replace(first, place)
        self.expected[path] = data

    def content(self, chance: random.Random, number: int) -> bytes:
        if self.embedded:
            return photograph(chance)
        # Some have the same content as others, some fail.
        word = (
            "poison"
            if chance.random() < 0.06
            else "same"
            if chance.random() < 0.1
            else f"{number} {chance.random()}"
        )
        return f"begin {word} {'x' * chance.choice([0, 10, 5000])} end".encode()

    # -- killing

    def kill_one(self, chance: random.Random) -> None:
        """Kill a process at a random instant and start another, or only suspend it for a while."""
        number = chance.randrange(len(self.processes))
        process = self.processes[number]
        if chance.random() < 0.8:
            # Mostly while it works, not while it starts.
            self.wait_for(lambda: process in self.at_work())
        time.sleep(chance.uniform(0, 6.0 if self.embedded else 0.5))
        if chance.random() < 0.08:
            # Suspended for longer than its lease: another process takes over its item, and it must
            # notice that.
            os.kill(process, signal.SIGSTOP)
            time.sleep(chance.uniform(1.0, 3.5))
            os.kill(process, signal.SIGCONT)
            self.killed += 1
            return
        os.kill(process, signal.SIGKILL if chance.random() < 0.9 else signal.SIGTERM)
        code = self.ask(f"wait {process}")
        assert code in (0, -signal.SIGKILL, -signal.SIGTERM), (
            f"a process ended by itself, with {code}"
        )
        self.killed += 1
        self.processes[number] = self.ask("launch")

    def at_work(self) -> set[int]:
        """Return the processes that are registered in the journal."""
        place = self.root / "line.journal" / "journal.sqlite"
        try:
            with contextlib.closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as journal:
                return {pid for (pid,) in journal.execute("SELECT pid FROM worker")}
        except sqlite3.Error:
            return set()

    @staticmethod
    def wait_for(what: Callable[[], bool], *, most_s: float = 60) -> None:
        until = time.monotonic() + most_s
        while not what() and time.monotonic() < until:
            time.sleep(0.02)

    def run(self) -> None:
        """Run until the kills are done, let the lines finish, and check."""
        chance = random.Random(self.seed)
        self.lay_out()
        self.processes = [self.ask("launch") for _ in range(self.workers)]
        dropping = threading.Thread(target=self.drop_all, args=(random.Random(self.seed + 1),))
        dropping.start()
        try:
            while self.killed < self.kills:
                self.kill_one(chance)
                if self.killed % 50 == 0:
                    self.report(
                        f"{self.killed} kills, {len(list((self.root / 'done').rglob('*.txt')))} done, {time.monotonic() - self.began:.0f} s"
                    )
            dropping.join()
            self.rest()
        finally:
            self.over.set()
            dropping.join()
            for process in self.processes:
                with contextlib.suppress(
                    ProcessLookupError
                ):  # it has ended by itself, which fails the test above
                    os.kill(process, signal.SIGTERM)
            codes = [self.ask(f"wait {process}") for process in self.processes]
            assert self.fork_server is not None
            self.fork_server.communicate()
        assert set(codes) <= {0}, f"processes that were asked to stop ended with {codes}"
        self.check()

    def drop_all(self, chance: random.Random) -> None:
        for number in range(self.files):
            # Spread over the kills, in bursts.
            self.wait_for(
                lambda number=number: (
                    self.killed >= number // 8 * 8 * self.kills // self.files or self.over.is_set()
                )
            )
            self.drop(chance, number)

    def rest(self) -> None:
        """Wait until nothing has been done for a while."""
        until = time.monotonic() + 120 + self.files
        quiet_since = time.monotonic()
        left = before = -1
        while time.monotonic() < until:
            left = sum(1 for p in self.inbox.rglob("*") if p.is_file())
            if left != before:
                before, quiet_since = left, time.monotonic()
            if left == 0 and time.monotonic() - quiet_since > 1:
                self.wait_for(lambda: set(self.processes) <= self.at_work())
                return
            time.sleep(0.2)
        raise AssertionError(f"{left} files are left: {sorted((self.root / 'in').rglob('*'))[:5]}")

    # -- counting

    def check(self) -> None:
        """Account for every file."""
        places = {"in": self.inbox, **{top: self.root / top for top in ("out", "done", "failed")}}
        found = {
            top: {
                p.relative_to(place).as_posix(): p.read_bytes()
                for p in sorted(place.rglob("*"))
                if p.is_file()
            }
            for top, place in places.items()
        }
        assert found["in"] == {}
        outputs: set[str] = set()
        originals: dict[str, list[bytes]] = {}
        for top in ("done", "failed"):
            for name, data in found[top].items():
                if not name.endswith(".failed.txt"):
                    originals.setdefault(name, []).append(data)
        for path, data in self.expected.items():
            stem, ending = os.path.splitext(path)
            folder, _, item = stem.rpartition("/")
            below = f"{folder}/" if folder else ""
            forms = {
                name: kept
                for name, kept in originals.items()
                if name == path or (name.startswith(f"{stem}-") and name.endswith(ending))
            }
            last = [name for name, kept in forms.items() if kept == [data]]
            assert len(last) == 1, (
                f"{path} is there {len(last)} times in its last form: {list(forms)}"
            )
            for name in forms:
                del originals[name]
            is_poison = b"poison" in data and not self.embedded
            home = "failed" if is_poison else "done"
            assert last[0] in found[home], f"{path} is not in {home}"
            loud, again = f"{below}{item}.txt", f"{below}more/{item}-again.{ending[1:]}"
            if is_poison:
                assert f"{last[0]}.failed.txt" in found["failed"], f"{path} has no reason"
                outputs |= {loud, f"{loud}.provenance.json", again} & found[
                    "out"
                ].keys()  # of an earlier version
                continue
            outputs |= {loud, f"{loud}.provenance.json", again}
            if self.embedded:
                assert found["out"][loud].endswith(b"\n")
                assert found["out"][again].startswith(b"\x89PNG")
                assert found["out"][again].endswith(b"IEND\xaeB`\x82")
            else:
                wanted = data.upper() + b"\n"
                assert (found["out"].get(loud), found["out"].get(again)) == (wanted, wanted), (
                    f"{path} has not its outputs"
                )
        reasons = {name for name in found["failed"] if name.endswith(".failed.txt")}
        assert {name.removesuffix(".failed.txt") for name in reasons} == {
            name for name in found["failed"] if not name.endswith(".failed.txt")
        }
        assert originals == {}, f"originals that nobody dropped: {list(originals)}"
        assert found["out"].keys() == outputs, (
            f"files that should not be there: {sorted(found['out'].keys() - outputs)[:5]}"
        )
        hidden = [
            p
            for p in self.root.rglob(".imagen_flow-*")
            if "journal" not in p.parts and "store" not in p.relative_to(self.root).parts[:1]
        ]
        assert hidden == [], f"temporary files are left: {hidden[:5]}"
        faults = [result for result in self.log() if result["event"] == "fault"]
        assert faults == [], faults[:3]
        ends: dict[str, int] = {}
        for result in self.log():
            if result["event"] in ("done", "failed") and result.get("original") != "replaced":
                ends[result["item"]] = ends.get(result["item"], 0) + 1
        self.report(
            f"{len(self.expected)} files accounted for, {self.killed} kills, {sum(ends.values())} ends, {time.monotonic() - self.began:.0f} s, seed {self.seed}"
        )

    def log(self) -> list[dict[str, object]]:
        return [
            json.loads(line)
            for line in (self.root / "line.journal" / "log.jsonl").read_text().splitlines()
            if line.endswith("}")
        ]


def photograph(chance: random.Random) -> bytes:
    """Draw something like a photograph: a scene of the embedded models' world, with uneven light
    and noise.
    """
    from io import BytesIO

    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    side = chance.choice([64, 96, 160])
    scene = Image.new("RGB", (side, side), chance.choice(["black", "navy", "grey", "white"]))
    draw = ImageDraw.Draw(scene)
    x, y, radius = (
        chance.uniform(0.3, 0.7) * side,
        chance.uniform(0.3, 0.7) * side,
        chance.uniform(0.1, 0.25) * side,
    )
    shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
    shape(
        (x - radius, y - radius, x + radius, y + radius),
        fill=chance.choice(["red", "green", "blue", "yellow"]),
    )
    pixels = np.asarray(scene.filter(ImageFilter.GaussianBlur(0.6)), "float32")
    noise = np.random.default_rng(chance.randrange(2**32)).normal(0, 4, pixels.shape)
    light = np.linspace(1.0, 0.8, side, dtype="float32")[:, None, None]
    out = BytesIO()
    Image.fromarray(np.clip(pixels * light + noise, 0, 255).astype("uint8")).save(out, "png")
    return out.getvalue()


def fork_server() -> None:
    """Fork workers on request. It has one thread and all imports, so that a child starts at
    once.
    """
    from importlib import import_module

    from imagen_flow._plugins.registry import discover

    for name in ("_cli.folder", "_hotfolder", "_models", "_store"):
        import_module(f"imagen_flow.{name}")
    discover().load_all()
    for line in sys.stdin:
        words = line.split()
        if words[0] == "wait":
            print(os.waitstatus_to_exitcode(os.waitpid(int(words[1]), 0)[1]), flush=True)  # noqa: T201
            continue
        child = os.fork()
        if child == 0:
            log = os.open("process.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            from imagen_flow._cli import main as command

            try:
                command(
                    [
                        "folder",
                        "run",
                        "line.yaml",
                        "--json",
                        "--plugin",
                        "toys.py",
                        "--store",
                        "store",
                    ]
                )
            except SystemExit as left:
                os._exit(left.code if isinstance(left.code, int) else 1)
            os._exit(1)
        print(child, flush=True)  # noqa: T201


def main() -> None:
    if sys.argv[1:] == ["--nursery"]:
        fork_server()
        return
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--kills", type=int)
    options.add_argument("--files", type=int)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    options.add_argument(
        "--embedded", action="store_true", help="photographs, through the embedded models"
    )
    options.add_argument(
        "--apart",
        type=Path,
        help="a new folder on another file system, for the files that are dropped",
    )
    options.add_argument("--root", type=Path, help="a new folder to work in, which is kept")
    result = options.parse_args()
    import tempfile

    root = result.root or Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"seed {result.seed}, in {root}", flush=True)  # noqa: T201
    kills = result.kills if result.kills is not None else 6 if result.embedded else 300
    files = result.files if result.files is not None else 6 if result.embedded else 3 * kills
    Torture(
        root,
        result.seed,
        kills,
        files,
        result.workers,
        embedded=result.embedded,
        apart=result.apart,
        report=lambda words: print(words, flush=True),  # noqa: T201
    ).run()


if __name__ == "__main__":
    main()
