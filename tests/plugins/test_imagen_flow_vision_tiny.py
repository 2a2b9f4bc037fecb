"""With `--tiny` each model that the documentation names for a node that sees is replaced by one that
this node runs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow_vision.tiny import BY_CLASS, BY_HEAD, BY_NAME, kind_of
from imagen_flow_vision.tiny.makers import MAKERS

ROOT = Path(__file__).parents[2]
SEEING = (ROOT / "docs/nodes.md").read_text("utf-8").partition("## Seeing")[2].partition("\n## ")[0]
NAMED = [
    (node, model)
    for node, models in re.findall(
        r"^\|[^|]*\| `((?:image|mask)\.\w+)`[^|]*\|([^|]*)\|", SEEING, re.M
    )
    for model in re.findall(r"`(hf:[^`]+)`", models)
]

#: What a node needs beside a model and a picture, by words in the model's name.
NEEDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("image.caption", "vqa", {"prompt": "what is it?"}),
    ("image.classify", "clip|siglip", {"labels": ["a fox", "an owl"]}),
    ("image.detect", "owl|dino", {"words": ["a fox"]}),
    ("mask.find", "", {"words": "a fox"}),
    ("mask.select", "", {"points": [{"x": 3, "y": 3}]}),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_documentation_names_models_for_each_node() -> None:
    """None is left out below."""
    wanted = "image.caption image.classify image.depth image.detect image.pose image.segment mask.find mask.select"
    assert {node for node, _ in NAMED} == set(wanted.split())


@pytest.mark.parametrize(("node", "model"), NAMED)
def test_a_documented_model_runs_as_a_tiny_one(
    node: str, model: str, cache: Path, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It plans without a problem, and runs offline."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    ports: dict[str, Any] = {}
    for type_, words, more in NEEDS:
        if type_ == node and re.search(words, model):
            ports |= more
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "picture": {"type": "image.noise", "width": 48, "height": 40, "seed": 1},
            "seen": {"type": node, "model": model, "image": "${picture}", **ports},
        },
        "outputs": {"seen": "${seen}"},
    }
    assert flow.plan(graph, store=None, tiny=True).problems == ()
    assert flow.run(graph, store=None, tiny=True, pool=pool, device="cpu")["seen"] is not None


def test_each_kind_of_tiny_model_can_be_made() -> None:
    """Every name and class leads to one that there is a maker for, and no maker is without a way."""
    ways = {kind for _, kind in BY_NAME} | {*BY_CLASS.values(), *BY_HEAD.values()}
    assert ways == set(MAKERS)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"architectures": 3}', '{"architectures": []}'])
def test_a_folder_that_does_not_say_what_it_is_has_no_tiny_model(text: str, tmp_path: Path) -> None:
    """A damaged configuration is left to the node's own check."""
    (tmp_path / "config.json").write_text(text)
    assert kind_of("./vit-base-patch16-224", tmp_path) == ""
