"""Sweeps: many items through one graph."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow import GraphError, ImagenFlowError, OutputError
from imagen_flow._graph import Graph

NODES = '''
"""Toy nodes."""
from pathlib import Path
from imagen_flow import File, List, Number, Seed, Text, node

@node("toy.add", version=1)
def add(a: int, b: int) -> int:
    """Add."""
    with open("calls.txt", "a") as calls:
        print("add", a, b, file=calls)
    return a + b

@node("toy.join", version=1)
def join(texts: List[Text]) -> Text:
    """Join texts."""
    if "fail" in texts:
        raise ValueError("cannot do 'fail'")
    return " ".join(texts)

@node("toy.read", version=1)
def read(file: File) -> Text:
    """Read a file."""
    return file.path.read_text()

@node("toy.lucky", version=1)
def lucky(seed: Seed) -> int:
    """Give a seed."""
    return seed
'''

SUM = """\
imagen_flow: 1
inputs: {a: 1, b: 2}
nodes:
  double: {type: toy.add, a: "${a}", b: "${a}"}
  sum: {type: toy.add, a: "${double}", b: "${b}"}
outputs:
  sum: "${sum}"
"""

WORDS = """\
imagen_flow: 1
inputs:
  prompt: a fox
  seed: {type: seed, default: 7}
nodes:
  lucky: {type: toy.lucky, seed: "${seed}"}
  words: {type: toy.join, texts: ["${prompt}", "${lucky}"]}
outputs:
  words: {from: "${words}", path: "words.txt"}
"""
WORDS = WORDS.replace('"${lucky}"', '"seed ${lucky}"')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of nodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[[str], Graph]:
    def load(text: str) -> Graph:
        (folder / "g.yaml").write_text(text)
        return flow.load(folder / "g.yaml", plugins="nodes.py")

    return load


def swept(graph: Graph, axes: Any = None, **more: Any) -> list[Any]:
    """Run a sweep and give its items in order; they come as they end."""
    more.setdefault("store", "store")
    items = flow.sweep(graph, axes, plugins="nodes.py", **more)
    return sorted(items, key=lambda item: item.index)


def refused(graph: Graph, axes: Any = None, **more: Any) -> str:
    """The problems that a sweep earns, before anything is made."""
    with pytest.raises(GraphError) as wrong:
        swept(graph, axes, out="out", **more)
    assert not Path("out").exists()
    return str(wrong.value)


def calls() -> list[str]:
    path = Path("calls.txt")
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def outputs(items: list[Any], name: str = "sum") -> list[Any]:
    return [item.outputs[name] for item in items]


# --- rows


def test_a_sweep_runs_every_combination_and_the_first_axis_varies_slowest(load: Any) -> None:
    """Two axes of 2 and 3 values give 6 items, in the order of nested loops."""
    items = swept(load(SUM), {"a": [1, 10], "b": range(3)})
    assert [(item.index, item.axes, item.outputs["sum"]) for item in items] == [
        (0, {"a": 1, "b": 0}, 2),
        (1, {"a": 1, "b": 1}, 3),
        (2, {"a": 1, "b": 2}, 4),
        (3, {"a": 10, "b": 0}, 20),
        (4, {"a": 10, "b": 1}, 21),
        (5, {"a": 10, "b": 2}, 22),
    ]


def test_what_items_share_is_computed_once(load: Any) -> None:
    """A step that depends on one axis runs once for each of its values; a second sweep with one more
    value runs only what is new.
    """
    graph = load(SUM)
    swept(graph, {"a": [1, 10], "b": [0, 1]})
    assert calls() == ["add 1 1", "add 2 0", "add 2 1", "add 10 10", "add 20 0", "add 20 1"]
    swept(graph, {"a": [1, 10], "b": [0, 1, 2]})
    assert calls() == ["add 2 2", "add 20 2"]


def test_zipped_axes_go_side_by_side(load: Any) -> None:
    """With zip, the k-th value of each axis makes the k-th item."""
    items = swept(load(SUM), {"a": "1,2,3", "b": "10..30..10"}, zip=True)
    assert [(item.label, item.outputs["sum"]) for item in items] == [
        ("a=1,b=10", 12),
        ("a=2,b=20", 24),
        ("a=3,b=30", 36),
    ]


def test_a_larger_sample_contains_a_smaller_one(load: Any) -> None:
    """A sample is drawn without replacement from all combinations, always the same, in order."""
    graph = load(SUM)
    axes = {"a": "1..1000000", "b": "1..1000000"}
    few, more = (swept(graph, axes, sample=n, store=None) for n in (3, 8))
    assert len({item.label for item in more}) == 8
    assert {item.label for item in few} < {item.label for item in more}
    positions = [(item.axes["a"], item.axes["b"]) for item in more]
    assert positions == sorted(positions)
    assert [item.label for item in swept(graph, axes, sample=3, store=None)] == [
        item.label for item in few
    ]
    assert len(swept(graph, {"a": "1..3"}, sample=8)) == 3


def test_the_sweep_of_the_graph_is_used_and_can_be_changed(load: Any) -> None:
    """An axis that is asked for replaces the graph's; a given value fixes one; with all fixed, nothing
    is left to sweep.
    """
    graph = load(SUM + "sweep:\n  axes: {a: [1, 2], b: 5..6}\n")
    assert [item.label for item in swept(graph)] == ["a=1,b=5", "a=1,b=6", "a=2,b=5", "a=2,b=6"]
    assert [item.label for item in swept(graph, {"b": "9"})] == ["a=1,b=9", "a=2,b=9"]
    fixed = swept(graph, a=4)
    assert [(item.label, item.outputs["sum"]) for item in fixed] == [("b=5", 13), ("b=6", 14)]
    assert "the sweep varies no input" in refused(graph, a=4, b=5)


def test_an_included_graphs_sweep_is_not_used(load: Any, folder: Path) -> None:
    """A graph that is a node of another runs once, whatever its own sweep says."""
    (folder / "inner.yaml").write_text(SUM + "sweep:\n  axes: {a: [1, 2]}\n")
    graph = load(
        'imagen_flow: 1\ninputs: {k: 1}\nnodes: {n: {type: ./inner.yaml, b: "${k}"}}\n'
        'outputs: {sum: "${n}"}\nsweep: {axes: {k: [5, 6]}}\n'
    )
    assert outputs(swept(graph)) == [7, 8]


# --- values


def test_texts_with_commas_are_written_as_json(load: Any, folder: Path) -> None:
    """Commas separate values; a list in JSON, and a line of a file, may contain them."""
    (folder / "prompts.txt").write_text("a fox, asleep\n\n  a hare  \r\n")
    graph = load(WORDS)
    for axis in ('["a fox, asleep", "a hare"]', "@prompts.txt"):
        assert [i.axes["prompt"] for i in swept(graph, {"prompt": axis})] == [
            "a fox, asleep",
            "a hare",
        ]
    assert [i.axes["prompt"] for i in swept(graph, {"prompt": "a fox, a hare"})] == [
        "a fox",
        "a hare",
    ]


def test_a_table_has_a_column_for_each_of_several_inputs(load: Any, folder: Path) -> None:
    """A CSV or JSONL file is a part of a sweep whose columns vary together."""
    graph = load(WORDS)
    (folder / "t.csv").write_text('prompt,seed\n"a fox, asleep",3\na hare,4\n')
    (folder / "t.jsonl").write_text(
        '{"prompt": "a fox, asleep", "seed": 3}\n\n{"seed": 4, "prompt": "a hare"}\n'
    )
    for name in ("t.csv", "t.jsonl"):
        assert outputs(swept(graph, table=name), "words") == [
            "a fox, asleep seed 3",
            "a hare seed 4",
        ]
        assert outputs(swept(graph, table=name, seed=9), "words") == [
            "a fox, asleep seed 9",
            "a hare seed 9",
        ]


def test_the_files_of_a_folder_are_an_axis_and_zip_with_prompts(load: Any, folder: Path) -> None:
    """A folder gives its files, sorted by name, without hidden ones; a pattern chooses."""
    (folder / "in").mkdir()
    for name in ("b.txt", "a.txt", ".hidden", "c.md", "Thumbs.db"):
        (folder / "in" / name).write_text(name)
    graph = load(
        "imagen_flow: 1\ninputs: {file: {type: file}, word: x}\n"
        'nodes:\n  text: {type: toy.read, file: "${file}"}\n'
        '  words: {type: toy.join, texts: ["${text}", "${word}"]}\noutputs: {words: "${words}"}\n'
    )
    assert outputs(swept(graph, {"file": "in"}), "words") == ["a.txt x", "b.txt x", "c.md x"]
    assert outputs(swept(graph, {"file": "in/*.txt", "word": "1,2"}, zip=True), "words") == [
        "a.txt 1",
        "b.txt 2",
    ]


def test_a_folder_that_changes_meanwhile(load: Any, folder: Path) -> None:
    """A file that is gone fails its item and no other."""
    (folder / "in").mkdir()
    for name in "abc":
        (folder / "in" / name).write_text(name)
    graph = load(
        'imagen_flow: 1\ninputs: {file: {type: file}}\nnodes: {text: {type: toy.read, file: "${file}"}}\n'
        'outputs: {text: "${text}"}\n'
    )
    sweep = flow.sweep(graph, {"file": "in"}, store="store")
    (folder / "in" / "b").unlink()
    items = sorted(sweep, key=lambda item: item.index)
    assert [(i.label, i.status, i.error.partition("'")[0]) for i in items] == [
        ("file=a", "done", ""),
        ("file=b", "failed", "there is no file "),
        ("file=c", "done", ""),
    ]


# --- seeds and names


def seeds(items: list[Any]) -> dict[str, int]:
    return {item.label: item.seeds["seed"] for item in items}


def test_a_fixed_seed_is_the_same_for_all_items(load: Any) -> None:
    """A seed that is given, or a default, is used as it is."""
    items = swept(load(WORDS), {"prompt": "a,b"})
    assert outputs(items, "words") == ["a seed 7", "b seed 7"]
    assert [item.seeds for item in items] == [{}, {}]


def test_inserting_an_item_changes_no_other(load: Any) -> None:
    """With a seed per item, each item's seed and name depend on its values and on how many equal
    items came before.
    """
    graph = load(WORDS)
    axis = {"seed": "per-item"}
    before = seeds(swept(graph, {"prompt": "a,b,a", **axis}))
    after = seeds(swept(graph, {"prompt": "x,a,b,c,a", **axis}))
    assert list(before) == ["prompt=a", "prompt=b", "prompt=a~2"]
    assert before == {label: after[label] for label in before}
    assert len(set(after.values())) == 5
    other = seeds(swept(graph, {"prompt": "a", **axis}, seed=8))
    assert other["prompt=a"] != before["prompt=a"]


def test_a_random_seed_is_drawn_for_each_item(load: Any) -> None:
    """Items get different seeds, and the seed that they are derived from reproduces them."""
    graph = load(WORDS.replace("default: 7", "default: random"))
    items = swept(graph, {"prompt": "a,b"})
    assert len(set(seeds(items).values())) == 2
    assert seeds(swept(graph, {"prompt": "a,b"})) != seeds(items)


def test_labels_are_short_safe_and_unique(load: Any) -> None:
    """A label says the values if they fit a file name, and else ends with a digest."""
    graph = load(WORDS)
    prompts = ["fox", "a/b", "a\\b", "x" * 100, "x" * 101, "../..", "", "\n", "ümläut", "fox"]
    labels = [item.label for item in swept(graph, {"prompt": prompts}, store=None)]
    assert labels[0] == "prompt=fox"
    assert labels[8:] == ["prompt=ümläut", "prompt=fox~2"]
    assert len(set(labels)) == len(labels)
    assert all(len(label) <= 70 and not set(label) & set("/\\\n[]") for label in labels)


def test_a_label_keeps_the_sign_of_a_number(load: Any) -> None:
    """-5 is not labelled as 5, not even with a digest after it."""
    labels = [item.label for item in swept(load(SUM), {"a": [-5, 5]}, store=None)]
    assert labels == ["a=-5", "a=5"]


def test_paths_get_the_label_unless_they_name_every_axis(load: Any, folder: Path) -> None:
    """Files are at the graph's own paths where these tell all items apart."""
    path = 'path: "words.txt"'
    cases = {
        "words.txt": ["prompt=a,seed=1-words.txt", "prompt=b,seed=1-words.txt"],
        "{seed}.txt": ["prompt=a,seed=1-1.txt", "prompt=b,seed=1-1.txt"],
        "{prompt}/{seed}.txt": ["a/1.txt", "b/1.txt"],
        "{item}/w.txt": ["prompt=a,seed=1/w.txt", "prompt=b,seed=1/w.txt"],
    }
    for number, (template, wanted) in enumerate(cases.items()):
        graph = load(WORDS.replace(path, f'path: "{template}", provenance: none'))
        swept(graph, {"prompt": "a,b", "seed": "1"}, out=f"out{number}")
        out = folder / f"out{number}"
        files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.txt"))
        assert files == wanted


def test_two_items_never_write_one_path(load: Any, folder: Path) -> None:
    """Where different values make one path, the later item's label enters it."""
    graph = load(WORDS.replace("words.txt", "{prompt}.txt"))
    items = swept(graph, {"prompt": ["a/b", "a:b", "index.jsonl"]}, out="out")
    paths = [item.row["outputs"]["words"]["path"] for item in items]
    assert paths[0] == "a_b.txt"
    assert paths[1].startswith("prompt=a-b-")
    assert [(folder / "out" / p).read_text().strip() for p in paths] == outputs(items, "words")


# --- the index


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/index.jsonl").read_text().splitlines()]


def test_the_index_has_a_row_for_each_item(load: Any, folder: Path) -> None:
    """A row holds the item's values, files, digests, and the command that makes it again."""
    graph = load(WORDS)
    items = swept(graph, {"prompt": ["a fox", "fail"]}, out="out")
    first, second = rows(folder)
    assert first["item"] == items[0].label
    output = first["outputs"]["words"]
    assert (folder / "out" / output["path"]).read_text() == "a fox seed 7\n"
    assert {**first, "outputs": {}, "item": ""} == {
        "index": 0,
        "item": "",
        "axes": {"prompt": "a fox"},
        "inputs": {"prompt": "a fox", "seed": 7},
        "status": "done",
        "outputs": {},
        "command": f"imagen-flow run g.yaml --set 'prompt=a fox' --out out/{first['item']}"
        " --store store --plugin nodes.py",
    }
    assert sorted(output) == ["digest", "key", "kind", "path"]
    assert (second["status"], second["error"]) == ("failed", "words: cannot do 'fail'")
    assert "outputs" not in second


def test_a_killed_sweep_goes_on_and_its_index_ends_complete(load: Any, folder: Path) -> None:
    """Lines of items that ended are kept; the rest is appended, and each item is there once, in
    order. A line that was torn by the kill is dropped.
    """
    graph = load(WORDS)
    running = iter(flow.sweep(graph, {"prompt": "a,b,c"}, out="out", store="store"))
    next(running)
    running.close()
    index = folder / "out/index.jsonl"
    assert [row["item"] for row in rows(folder)] == ["prompt=a"]
    index.write_bytes(index.read_bytes() + b'{"index": 1, "item": "promp')
    sweep = flow.sweep(graph, {"prompt": "z,a,b,c"}, out="out", store="store", plugins="nodes.py")
    seen = [index.read_bytes().endswith(b"\n") for _ in sweep]
    assert seen == [True] * 4
    assert [(row["index"], row["item"]) for row in rows(folder)] == [
        (0, "prompt=z"),
        (1, "prompt=a"),
        (2, "prompt=b"),
        (3, "prompt=c"),
    ]
    before = index.read_bytes()
    swept(graph, {"prompt": "z,a,b,c"}, out="out")
    assert index.read_bytes() == before
    assert sorted(p.name for p in (folder / "out").iterdir() if p.name.startswith(".")) == []


def test_the_first_line_of_an_index_may_be_long_or_torn(load: Any, folder: Path) -> None:
    """A sweep goes on if its first row is longer than what is read to recognise an index, and if a
    kill left only a part of it.
    """
    graph = load(WORDS)
    swept(graph, {"prompt": ["x" * 2_000_000, "b"]}, out="out")
    index = folder / "out/index.jsonl"
    whole = index.read_bytes()
    assert len(whole) > 2_000_000
    for kept in (whole, whole[:100]):
        index.write_bytes(kept)
        swept(graph, {"prompt": ["x" * 2_000_000, "b"]}, out="out")
        assert index.read_bytes() == whole


@pytest.mark.parametrize(
    "content", ["my notes\n", '{"index": 1}\n', "[1]\n", '{"index": 1', "[" * 200_000 + "\n"]
)
def test_a_file_that_is_no_index_is_not_touched(load: Any, folder: Path, content: str) -> None:
    """Somebody's own index.jsonl stays, and nothing runs."""
    (folder / "out").mkdir()
    index = folder / "out/index.jsonl"
    index.write_text(content)
    with pytest.raises(OutputError, match="it is not the index of a sweep"):
        swept(load(WORDS), {"prompt": "a,b"}, out="out")
    assert [p.name for p in (folder / "out").iterdir()] == ["index.jsonl"]
    assert index.read_text() == content


def test_an_index_that_is_a_link_is_not_followed(load: Any, folder: Path) -> None:
    """The index is written to the output folder and nowhere else."""
    (folder / "out").mkdir()
    (folder / "other.jsonl").write_text("")
    (folder / "out/index.jsonl").symlink_to(folder / "other.jsonl")
    with pytest.raises(OutputError, match="another file exists\n  = why: it is a link"):
        swept(load(WORDS), {"prompt": "a,b"}, out="out")
    assert (folder / "other.jsonl").read_text() == ""


def test_an_index_that_is_a_folder_stays(load: Any, folder: Path) -> None:
    """A folder in the place of the index is said to be one."""
    (folder / "out/index.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match="another file exists\n  = why: it is a folder"):
        swept(load(WORDS), {"prompt": "a,b"}, out="out")


def test_two_sweeps_do_not_write_one_index(load: Any) -> None:
    """A second sweep into the same folder says so, and stops."""
    graph = load(WORDS)
    first = iter(flow.sweep(graph, {"prompt": "a,b"}, out="out", store="store"))
    next(first)
    with pytest.raises(OutputError, match="another sweep is writing to"):
        swept(graph, {"prompt": "c,d"}, out="out")
    assert [item.label for item in first] == ["prompt=b"]


def test_a_full_disk_stops_the_sweep_in_words_and_a_rerun_goes_on(
    load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full, the items that follow are not made; the same call goes on."""
    graph = load(WORDS)
    real = os.fsync
    written: list[int] = []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    prompts = {"prompt": "a,b,c,d,e,f"}
    found = []
    with pytest.raises(OutputError) as stopped:
        found += [i.status for i in flow.sweep(graph, prompts, out="out", store="store")]
    assert "is full: 3 items were not made" in str(stopped.value)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert [row["status"] for row in rows(folder)] == ["done", "done", "failed"]
    assert [i.status for i in swept(graph, prompts, out="out")] == ["done"] * 6
    assert [row["index"] for row in rows(folder)] == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("count", "megabytes"),
    [(400, 2), pytest.param(6_000, 40, marks=pytest.mark.slow)],
)
def test_a_disk_that_fills_up_under_a_long_sweep(
    load: Any, folder: Path, small_disk: Path, count: int, megabytes: int
) -> None:
    """With the store and the outputs on it: what was made is whole, the rest is counted in words,
    and with more room the same call makes only that.
    """

    def resize(size: int) -> None:
        options = f"remount,size={size}m"
        subprocess.run(["mount", "-o", options, str(small_disk)], check=True)

    resize(megabytes)
    graph = load(WORDS)
    seeds = {"seed": f"1..{count}"}
    places = {"out": small_disk / "out", "store": small_disk / "store"}
    found: list[Any] = []
    with pytest.raises(OutputError) as stopped:
        found += flow.sweep(graph, seeds, plugins="nodes.py", **places)
    # full under a step or an output, or, as often as it comes, under the index
    items_left = r"is full: [\d,]+ items? (was|were) not made"
    assert re.search(rf"{items_left}|index cannot be written.*\n.*no space", str(stopped.value))
    done = [item for item in found if item.status == "done"]
    assert 0 < len(done) < count, len(done)
    for item in done:
        path = small_disk / "out" / item.row["outputs"]["words"]["path"]
        assert path.read_text() == item.outputs["words"] + "\n"

    resize(10 * megabytes)
    again = swept(graph, seeds, **places)
    assert [item.status for item in again] == ["done"] * count
    lines = (small_disk / "out" / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(count))


def test_one_item_that_fails_does_not_stop_the_others(load: Any) -> None:
    """The failed item has its reason; with fail_fast, nothing after it runs."""
    graph = load(WORDS)
    items = swept(graph, {"prompt": "a,fail,b"})
    assert [(i.status, i.error) for i in items] == [
        ("done", ""),
        ("failed", "words: cannot do 'fail'"),
        ("done", ""),
    ]
    stopped = swept(graph, {"prompt": "a,fail,b"}, fail_fast=True)
    assert [i.status for i in stopped if i.label == "prompt=fail"] == ["failed"]


# --- what is refused before anything is made


def test_too_many_items_are_counted_and_refused(load: Any) -> None:
    """A sweep of 10^9 items says so at once, without making any."""
    said = refused(load(SUM), {"a": "1..1000000", "b": range(1000)})
    assert said == (
        "error[too-many-items]: the sweep has 1,000,000,000 items; the limit is 1,000,000\n"
        "  = why: 'a' 1,000,000 × 'b' 1,000\n"
        "  = fix: sweep fewer values, or take some of the items by sample"
    )
    assert "10,000,000,000,000,000,000,000" in refused(
        load(SUM), {"a": "1..10000000000000000000000"}
    )


@pytest.mark.parametrize(
    ("axes", "wanted"),
    [
        ({"prompts": "a"}, "the sweep varies 'prompts', and the graph has no such input\n  = fix: did you mean 'prompt'?"),
        ({"prompt": ""}, "the axis 'prompt' has no values; an empty text is written as JSON: [\"\"]"),
        ({"prompt": []}, "the axis 'prompt' has no values"),
        ({"prompt": "[]"}, "the axis 'prompt' has no values"),
        ({"prompt": "[a fox]"}, 'the axis \'prompt\' takes values as a,b or as a list in JSON like ["a", "b"], not the text \'[a fox]\''),
        ({"prompt": 3}, "the axis 'prompt' takes a list of values, not 3"),
        ({"prompt": ["a", 3]}, "the axis 'prompt' takes text, not 3"),
        ({"seed": "1,x"}, "the axis 'seed' takes a whole number from 0 to 9223372036854775807, not the text 'x'"),
        ({"seed": "3..-3"}, "the axis 'seed' takes a whole number from 0 to 9223372036854775807, not -3"),
        ({"seed": "1..9..0"}, "the axis 'seed' has the range '1..9..0', whose step is 0"),
        ({"seed": "1..2..0.5"}, "the axis 'seed' takes whole numbers, and the range '1..2..0.5' has others"),
        ({"seed": "random"}, "the axis 'seed' takes seeds, not 'random'; per-item gives each item a seed of its own"),
        ({"seed": "per-item"}, "the sweep varies no input"),
        ({"prompt": "@gone.txt"}, "there is no file 'gone.txt'"),
        ({"prompt": "@empty.txt"}, "the file 'empty.txt' has no lines"),
        ({"prompt": "@t.csv"}, "write --sweep @t.csv to use all of its columns"),
        ({"seed": "@words.txt"}, "words.txt:2:1: error[bad-sweep]: 'seed' takes a whole number from 0 to 9223372036854775807, not the text 'fox'"),
    ],
)  # fmt: skip
def test_axes_that_are_refused(load: Any, folder: Path, axes: Any, wanted: str) -> None:
    """What is wrong with an axis is said with the nearest name or the place, before anything runs."""
    (folder / "empty.txt").write_text("\n \n")
    (folder / "words.txt").write_text("1\nfox\n")
    assert wanted in refused(load(WORDS), axes)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("t.csv", "prompt,seeds\na,1\n", "t.csv:1:1: error[unknown-axis]: the table 't.csv' has the column 'seeds', and the graph has no such input\n1 | prompt,seeds\n  | ^^^^^^^^^^^^\n  = fix: did you mean 'seed'?"),
        ("t.csv", "prompt,seed\na,1\nb,two\n", "t.csv:3:1: error[bad-sweep]: 'seed' takes a whole number from 0 to 9223372036854775807, not the text 'two'"),
        ("t.csv", "prompt,seed\na,1\nb\n", "t.csv:3:1: error[bad-sweep]: the row has 1 cell, and the table has 2 columns: prompt, seed"),
        ("t.csv", "prompt,prompt\na,b\n", "the table has two columns named 'prompt'"),
        ("t.csv", "prompt,\na,b\n", "column 2 of the table has no name"),
        ("t.csv", "prompt,seed\n", "the table 't.csv' has no rows"),
        ("t.csv", "", "the table 't.csv' has no rows"),
        ("t.csv", 'prompt\n"a\n', "t.csv:2:1: error[bad-sweep]: the table cannot be read from here on\n2 | \"a\n  | ^^\n  = why: a double quote is not closed"),
        ("t.csv", "prompt;seed\na;1\n", "t.csv:1:1: error[bad-sweep]: the columns of the table are separated by semicolons"),
        ("t.csv", "prompt\na\n" + "x" * 140_000 + "\n", "t.csv:3:1: error[bad-sweep]: the row has a cell that is too long, or a double quote that is not closed"),
        ("t.csv", "prompt\na\n" + "x" * 140_000 + "\n", "  = why: a cell of a CSV file has at most 131,072 characters\n  = fix: write longer texts into a JSON Lines table (.jsonl)"),
        ("t.jsonl", '{"prompt": "a", "seed": 1}\n{"prompt": "b"}\n', "t.jsonl:2:1: error[bad-sweep]: the row lacks 'seed', which the first row has"),
        ("t.jsonl", '{"prompt": "a"}\n{"prompt": "b", "seed": 1}\n', "the row has 'seed', which the first row lacks"),
        ("t.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', "t.jsonl:2:1: error[bad-sweep]: 'prompt' takes text, not 3"),
        ("t.jsonl", '{"prompt": "a"\n', "t.jsonl:1:1: error[bad-sweep]: the line cannot be read as JSON\n1 | {\"prompt\": \"a\"\n  | ^^^^^^^^^^^^^^\n  = why: expecting ',' delimiter at column 15"),
        ("t.jsonl", '["a"]\n', "a line of the table is an object with a value for each input"),
        ("t.jsonl", '{"seed": NaN}\n', "'NaN' is not JSON"),
        ("t.jsonl", "[" * 100_000 + "\n", "it is nested too deeply"),
        ("t.jsonl", '{"seed": ' + "9" * 5_000 + "}\n", "= why: it has a number with too many digits"),
        ("t.txt", "a\n", "'t.txt' is not a table"),
    ],
    ids=range(20),
)  # fmt: skip
def test_tables_that_are_refused(
    load: Any, folder: Path, name: str, text: str, wanted: str
) -> None:
    """What is wrong with a table is said with its line, before anything runs."""
    (folder / name).write_text(text)
    assert wanted in refused(load(WORDS), table=name)


def test_a_table_that_lacks_a_column(load: Any, folder: Path) -> None:
    """An input without a default needs a column or a value."""
    (folder / "t.csv").write_text("seed\n1\n2\n")
    graph = load(WORDS.replace("prompt: a fox", "prompt: {type: text}"))
    assert "  = why: the table 't.csv' has no column 'prompt'\n" in refused(graph, table="t.csv")
    assert len(swept(graph, table="t.csv", prompt="a")) == 2


def test_all_bad_rows_are_shown_at_once(load: Any, folder: Path) -> None:
    """The problems of a table are gathered, up to a limit."""
    (folder / "t.csv").write_text("seed\n" + "x\n" * 100_000)
    with pytest.raises(GraphError) as wrong:
        swept(load(WORDS), table="t.csv")
    assert len(wrong.value.problems) == 100


@pytest.mark.parametrize("name", ["", "seed", "c{}"])
def test_a_table_of_very_many_columns_is_refused_at_once(
    load: Any, folder: Path, name: str
) -> None:
    """The problems of a header are gathered up to the same limit, in a time that is proportional to
    its length.
    """
    (folder / "t.csv").write_text(
        ",".join(map(name.format, range(200_000))) + "\n" + "," * 199_999 + "\n"
    )
    with pytest.raises(GraphError) as wrong:
        swept(load(WORDS), table="t.csv")
    # Comparing each name with all before it would take minutes.
    assert len(wrong.value.problems) == 100


def test_zipped_axes_of_different_lengths(load: Any) -> None:
    """The message has both counts."""
    assert refused(load(SUM), {"a": "1,2,3", "b": "1..4"}, zip=True).startswith(
        "error[bad-sweep]: zipped axes need equally many values: 'a' has 3, 'b' has 4\n"
    )


def test_an_input_is_varied_once(load: Any, folder: Path) -> None:
    """An axis and a column of one input are refused, and so are a value and an axis that is asked
    for.
    """
    (folder / "t.csv").write_text("seed\n1\n")
    graph = load(WORDS)
    assert "'seed' is varied by 'seed' and by the table 't.csv'" in refused(
        graph, {"seed": "1,2"}, table="t.csv"
    )
    assert "'seed' is both given a value and swept" in refused(graph, {"seed": "1,2"}, seed=3)


def test_what_is_wrong_with_every_item_refuses_the_sweep(load: Any) -> None:
    """A shared value that does not fit is said once, and nothing is made."""
    assert refused(load(WORDS), {"prompt": "a,b"}, wrong=1).startswith(
        "error[unknown-input]: the graph has no input 'wrong'"
    )
    assert "input 'seed'" in refused(load(WORDS), {"prompt": "a,b"}, seed="x")


def test_equal_items_give_a_warning(load: Any) -> None:
    """Equal items are made once, and the plan says how many there are."""
    plan = flow.sweep(load(SUM), {"a": "1,2,1", "b": "0..1"}, store=None).plan()
    assert [p.message for p in plan.problems] == [
        "2 of 6 items equal earlier ones: they give the same results"
    ]
    assert (plan.items, plan.steps, plan.runs + plan.waits <= 12) == (6, 12, True)


def test_files_of_one_name_in_two_folders_are_two_outputs(load: Any, folder: Path) -> None:
    """A path that names a file by its stem gets the label where an earlier item has that stem."""
    for name in ("a/x.txt", "b/x.txt", "b/y.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    graph = load(
        'imagen_flow: 1\ninputs: {file: {type: file}}\nnodes: {text: {type: toy.read, file: "${file}"}}\n'
        'outputs: {text: {from: "${text}", path: "{file.folder}/{file.stem}.txt"}}\n'
    )
    items = swept(graph, {"file": "a/x.txt,b/x.txt,b/y.txt"}, out="out")
    paths = [item.row["outputs"]["text"]["path"] for item in items]
    assert [paths[0], paths[2]] == ["x.txt", "y.txt"]
    assert len(set(paths)) == 3
    assert [(folder / "out" / p).read_text().strip() for p in paths] == outputs(items, "text")


def test_lists_of_two_items_never_share_a_path(load: Any, folder: Path) -> None:
    """Element 11 of item 1 and element 1 of item 11 are two files."""
    nodes = (
        "imagen_flow: 1\ninputs: {a: 1}\nnodes:\n"
        '  sums: {type: toy.add, each: {a: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}, b: "${a}"}\n'
    )
    for number, path in enumerate(("{a}{index}.json", "{a}/{index}.json")):
        graph = load(nodes + f'outputs: {{sums: {{from: "${{sums}}", path: "{path}"}}}}\n')
        items = swept(graph, {"a": "1,11"}, out=f"out{number}")
        told = [t for item in items for t in item.row["outputs"].values()]
        assert len({t["path"] for t in told}) == 24
        read = [json.loads((folder / f"out{number}" / t["path"]).read_text()) for t in told]
        assert read == [*range(1, 13), *range(11, 23)]


def test_a_parquet_index_names_its_extra_when_the_library_is_missing(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyarrow nothing is made, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImagenFlowError, match=r"pip install 'imagen-flow\[parquet\]'"):
        swept(load(WORDS), {"prompt": "a"}, out="out", parquet=True)
    assert not Path("out").exists()


def test_a_parquet_index_has_the_rows_of_the_other(load: Any, folder: Path) -> None:
    """Each value of a row has a column; a file of somebody else is not replaced."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    graph = load(WORDS)
    for _ in range(2):
        swept(graph, {"prompt": ["a", "fail"], "seed": "1..2"}, out="out", parquet=True)
    table = parquet.read_table(folder / "out/index.parquet").to_pylist()
    assert [
        (row["index"], row["axes.prompt"], row["axes.seed"], row["status"], row["error"])
        for row in table
    ] == [
        (0, "a", 1, "done", None),
        (1, "a", 2, "done", None),
        (2, "fail", 1, "failed", "words: cannot do 'fail'"),
        (3, "fail", 2, "failed", "words: cannot do 'fail'"),
    ]
    assert table[0]["outputs.words.path"] == rows(folder)[0]["outputs"]["words"]["path"]
    (folder / "out/index.parquet").write_text("mine")
    with pytest.raises(OutputError, match="another file exists"):
        swept(graph, {"prompt": ["a"]}, out="out", parquet=True)
    assert (folder / "out/index.parquet").read_text() == "mine"
