"""Hot folders survive: `folder_torture` in a size for every day."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest


def harness() -> ModuleType:
    """Load the harness, which is a script beside this file."""
    spec = importlib.util.spec_from_file_location(
        "folder_torture", Path(__file__).with_name("folder_torture.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [1, 2])
def test_torture(tmp_path: Path, workers: int) -> None:
    """After kills at random instants, every file that was delivered is accounted for exactly once,
    with complete and correct outputs.
    """
    harness().Torture(
        tmp_path / "line", seed=20 + workers, kills=12, files=40, workers=workers, settle_s=0.2
    ).run()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_torture_at_length(tmp_path: Path, workers: int) -> None:
    """The same with two hundred kills and a random seed, which is printed."""
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(10_000)))
    sys.stdout.write(f"TORTURE_SEED={seed}\n")
    harness().Torture(tmp_path / "line", seed=seed, kills=200, files=400, workers=workers).run()


@pytest.mark.slow
def test_torture_with_models(tmp_path: Path) -> None:
    """Photographs are described and edited by the embedded models, each once, however often the
    process is killed.
    """
    harness().Torture(tmp_path / "line", seed=3, kills=3, files=4, workers=1, embedded=True).run()
