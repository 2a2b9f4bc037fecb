"""What a model's files say is read once, and never taken for what other files say."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import resolve
from imagen_flow._system.file_signs import RememberedBySign
from imagen_flow._types.configurations import Memo, read_configuration, weight_of
from imagen_flow._types.digest import digest_file


def remembered(
    read: Callable[[Path], str], *, max_weight: int = 100, ahead_s: float = 60
) -> RememberedBySign[str]:
    """Remember what a function reads, by a clock that is so far ahead of the files."""
    return RememberedBySign(
        read, weigh=len, max_weight=max_weight, clock=lambda: time.time() + ahead_s
    )


def test_a_file_that_stays_is_read_once(tmp_path: Path) -> None:
    """What was read of a file is returned again until the file changes, if only in its content."""
    file, read = tmp_path / "a", []

    def reader(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    file.write_text("one")
    cached = remembered(reader)
    assert [cached(file), cached(file)] == ["one", "one"]
    assert read == ["a"]
    os.utime(file, (1, 1))
    file.write_text("two")
    os.utime(file, (1, 1))  # size and time are as before, and only the change of the entry tells
    assert [cached(file), cached(file)] == ["two", "two"]
    assert read == ["a", "a"]


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path) -> None:
    """A file that is younger than two seconds is not remembered: another change might not show."""
    file, read = tmp_path / "a", []

    def reader(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    file.write_text("one")
    cached = remembered(reader, ahead_s=0)
    assert [cached(file), cached(file)] == ["one", "one"]
    assert read == ["a", "a"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path) -> None:
    """What was read of a file that changed meanwhile is returned, and read again next time."""
    file = tmp_path / "a"
    texts = ["three", "four"]

    def reader(path: Path) -> str:
        text = path.read_text()
        if texts:
            path.write_text(texts.pop(0))
        return text

    file.write_text("two")
    cached = remembered(reader)
    assert [cached(file) for _ in range(4)] == ["two", "three", "four", "four"]


def test_what_was_used_last_is_kept(tmp_path: Path) -> None:
    """When results weigh more than is allowed, those that were not asked for longest are dropped;
    one that is too heavy by itself is not kept at all.
    """
    read: list[str] = []

    def reader(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    files = {name: tmp_path / name for name in "abcd"}
    for name, file in files.items():
        file.write_text("x" * (200 if name == "d" else 40))
    cached = remembered(reader)
    for name in "ab" + "a" + "c" + "a" + "b" + "dd":
        cached(files[name])
    assert "".join(read) == "abc" + "b" + "dd"


@pytest.mark.parametrize(
    "content",
    [
        {"_class_name": "UNet2DConditionModel", "sizes": [320, 640, 1280, 1280], "act_fn": "silu"},
        {"weight_map": {f"layer.{n}.weight": f"m-{n % 9:05}.safetensors" for n in range(2000)}},
        [[n, n + 1000] for n in range(2000)],
    ],
    ids=["configuration", "index", "numbers"],
)
def test_what_is_remembered_weighs_what_it_takes(tmp_path: Path, content: object) -> None:
    """So that the bound of what is remembered bounds the memory."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    tracemalloc.start()
    read = read_configuration(Memo(), path)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken <= weight_of(read)


def test_an_error_is_not_remembered(tmp_path: Path) -> None:
    """A file that could not be read is tried again."""
    cached = remembered(lambda path: path.read_text())
    with pytest.raises(FileNotFoundError):
        cached(tmp_path / "a")
    (tmp_path / "a").write_text("one")
    assert cached(tmp_path / "a") == "one"


def test_a_model_answers_each_question_once(tmp_path: Path) -> None:
    """What is worked out from a model's files is worked out once, for its copies too; a model that
    is resolved anew after a change is asked anew.
    """
    asked: list[str] = []

    def name_of(model: flow.Model) -> str:
        asked.append(model.path.name)
        return str(loaders.read_json(model, "config.json")["name"])

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    config = tmp_path / "m" / "config.json"

    def found() -> flow.Model:
        return resolve("./m", folder=tmp_path, embedded={}, digest=digest_file)

    config.write_text(json.dumps({"name": "first"}))
    model = found()
    assert [model.once(name_of), model.once(name_of)] == ["first", "first"]
    config.write_text(json.dumps({"name": "other"}))
    assert model.once(name_of) == "first"
    assert found().once(name_of) == "other"
    assert found().digest != model.digest
    assert asked == ["m", "m"]


def test_threads_that_ask_at_once_share_one_answer(tmp_path: Path) -> None:
    """Of several threads that ask a model the same, one works it out and the others wait for it."""
    asked: list[int] = []
    threads = 8
    ready = threading.Barrier(threads)

    def describe(_: flow.Model) -> int:
        asked.append(threading.get_ident())
        return sum(range(2_000_000))

    model = flow.Model(tmp_path)

    def ask(_: int) -> int:
        ready.wait()
        return model.once(describe)

    with ThreadPoolExecutor(threads) as pool:
        assert len(set(pool.map(ask, range(threads)))) == 1
    assert len(asked) == 1


def test_a_damaged_configuration_is_told_each_time(tmp_path: Path) -> None:
    """A configuration that is not JSON, or no mapping, is refused by its name; one that is not
    there says nothing.
    """
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "config.json").write_text("[]")
    model = flow.Model(tmp_path, "x", "./m")
    for _ in range(2):
        with pytest.raises(flow.ModelError, match=r"'./m' is damaged: broken/config.json cannot"):
            loaders.read_json(model, "broken/config.json")
        with pytest.raises(flow.ModelError, match=r"'./m' is damaged: config.json is no mapping"):
            loaders.read_json(model, "config.json")
    assert loaders.read_json(model, "none/config.json") == {}
