"""While one model works, the files of the next are read, and nothing else happens to it."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_flow import Model, Text, events, loaders, node
from imagen_flow._graph import resolve
from imagen_flow._models import ModelPool
from imagen_flow._models.read_ahead import ReadAhead
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._run import execute
from imagen_flow._text.spec import read
from imagen_flow.loaders import Loading

GRAPH = """imagen_flow: 1
inputs: {word: w}
nodes:
  first: {type: toy.use, model: ./x, text: "${word}"}
  second: {type: toy.use, model: ./y, text: "${first}"}
outputs: {o: "${second}"}
"""

#: What happened, in order.
HAPPENED: list[str] = []


class Light(loaders.Loader[str]):
    """A loader whose models are their names; one without weights cannot be loaded."""

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
        HAPPENED.append(f"load {model.path.name}")
        if not (model.path / "model.safetensors").exists():
            raise ValueError("its weights are gone")
        return model.path.name


@node("toy.use", version=1)
def use(model: Model[Light], *, text: Text) -> Text:  # type: ignore[valid-type]
    """Use a model, until what comes after it has been read."""
    end = time.monotonic() + 20
    while str(model) == "x" and "read y/model.safetensors" not in HAPPENED:
        assert time.monotonic() < end, HAPPENED
        time.sleep(0.005)
    HAPPENED.append(f"use {model}")
    if (gone := Path(text)).is_file():
        gone.unlink()
    return f"{text}{model}"


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note which files are opened in the thread that reads ahead."""
    HAPPENED.clear()
    os_open = os.open

    def noting(path: Any, *given: Any, **more: Any) -> int:
        if threading.current_thread().name == "imagen_flow reads ahead":
            HAPPENED.append("read " + "/".join(Path(os.fsdecode(path)).parts[-2:]))
        return os_open(path, *given, **more)

    monkeypatch.setattr(os, "open", noting)


def run(folder: Path, word: str) -> list[Any]:
    registry = Registry({})
    registry.add(use)
    for name in ("x", "y"):
        (folder / name).mkdir()
        save_file({"w": np.zeros(10_000, "float32")}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"name": name}))
    (folder / "g.yaml").write_text(GRAPH)
    plan = make_plan(resolve(read(folder / "g.yaml"), registry), {"word": word}, device="cpu")
    with ModelPool() as pool:
        return list(execute(plan, pool=pool))


def test_the_next_model_is_read_while_one_works(tmp_path: Path) -> None:
    """Its files are read before it is loaded, after what is needed first was loaded, and once."""
    ran = run(tmp_path, "w")
    assert [e.value for e in ran if isinstance(e, events.OutputWritten)] == ["wxy"]
    assert [one for one in HAPPENED if "config" not in one] == [
        "load x",
        "read y/model.safetensors",
        "use x",
        "load y",
        "use y",
    ]


def test_what_cannot_be_loaded_fails_where_it_is_needed(tmp_path: Path) -> None:
    """A model whose files vanish while another works fails the node that needs it, not the other."""
    ran = run(tmp_path, str(tmp_path / "y/model.safetensors"))
    assert [e.node for e in ran if isinstance(e, events.StepFinished)] == ["first"]
    assert [e.node for e in ran if isinstance(e, events.StepFailed)] == ["second"]


def test_reading_ahead_hinders_nobody(tmp_path: Path) -> None:
    """Files that are not there are left to whoever needs them, a second list is not read while the
    first is, and after the end nothing is read.
    """
    (tmp_path / "big").write_bytes(bytes(64 << 20))
    reader = ReadAhead()
    assert reader.begin([str(tmp_path / "none"), str(tmp_path / "big")])
    assert reader._thread is not None
    reader._thread.join(20)
    assert HAPPENED == []
    assert reader.begin([str(tmp_path / "big")] * 100)
    assert not reader.begin([str(tmp_path / "big")])
    reader.close()
    reader._thread.join(20)
    assert not reader._thread.is_alive()
    assert not reader.begin([str(tmp_path / "big")])
