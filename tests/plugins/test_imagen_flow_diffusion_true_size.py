"""The measurement at true size: its networks are those of the real checkpoints, its code runs
without a GPU on small ones, and on a GPU both ways draw the same pictures.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SCRIPT = Path(__file__).parents[2] / "benchmarks/true_size.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("true_size", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_the_networks_have_the_sizes_of_the_real_ones(
    name: str, weights: dict[str, int], script: ModuleType
) -> None:
    """Number by number, as the published checkpoints have them."""
    import torch

    with torch.device("meta"):
        made = {
            part: sum(weight.numel() for weight in network().parameters())
            for part, network in script.NETWORKS[name]().items()
        }
    assert made == weights


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_small_models_are_measured_on_any_machine() -> None:
    """The same code, so that it runs when a GPU is first at hand."""
    said = run("--tiny", "--device", "cpu", "--pictures", "1", "--steps", "1")
    assert [
        line.split(" | ")[1] for line in said.splitlines() if line.startswith(("| sd15", "| sdxl"))
    ] == ["through the graph", "by hand"] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_at_true_size_both_ways_draw_the_same_pictures(name: str) -> None:
    """The script ends with an error where they do not."""
    assert f"| {name} | by hand | " in run("--models", name, "--pictures", "1", "--steps", "3")
