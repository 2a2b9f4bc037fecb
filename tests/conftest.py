"""What all tests share: which of them run, and a home of their own for what a user's machine would
keep.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

#: Tests that run only when asked for, and why they are skipped otherwise.
ON_REQUEST = {
    "slow": "takes long: make test-slow, or pytest --run slow",
    "gpu": "needs a CUDA device: pytest --run gpu",
    "checkpoint": "needs real checkpoints: make test-checkpoints, or pytest --run checkpoint",
}

# The libraries read these when they are imported: nothing is downloaded, and two workers share two
# cores.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts something in the background has it ignore an interrupt, and what that starts
# inherits it; tests send interrupts to commands.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow; that is no fault of the code under test.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run",
        default="",
        metavar="MARKS",
        help=f"also run tests with these marks, comma-separated: {', '.join(ON_REQUEST)}",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = {word.strip() for word in config.getoption("--run").split(",") if word.strip()}
    if unknown := asked - ON_REQUEST.keys():
        raise pytest.UsageError(
            f"--run takes {', '.join(ON_REQUEST)}, not {', '.join(sorted(unknown))}"
        )
    for item in items:
        for mark, reason in ON_REQUEST.items():
            if mark in item.keywords and mark not in asked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def old_objects_unsearched() -> None:
    """Take the libraries that are imported by now out of the garbage collector's reach: with half a
    million objects of torch, diffusers and transformers, each search takes a third of a second, and
    there is one whenever models are evicted.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the homes of all tests lie: pytest lists what is beside a new folder of its own, which
    takes long among thousands.
    """
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, homes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home of its own, so that it sees neither the user's store and settings nor
    another test's.
    """
    home = Path(tempfile.mkdtemp(dir=homes))
    if "checkpoint" not in request.keywords:
        for variable in (
            "HF_HOME",
            "HF_HUB_CACHE",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "IMAGEN_FLOW_STORE",
        ):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HOME", str(home))
    return home
