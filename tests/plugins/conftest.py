"""What the tests of plugins share: tiny checkpoints of real classes, a graph of some nodes, and the
same by hand.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The builders of tiny.py; loaded here because test files import nothing from one another."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def at(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """Give the path of a tiny checkpoint, made when it is first wanted: by its name in the test
    module's ``MAKERS``, or by its kind.
    """
    from imagen_flow_diffusion.tiny.kinds import MAKERS

    makers = getattr(request.module, "MAKERS", MAKERS)
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> str:
        if not (home / name).exists():
            with quiet_libraries():
                makers[name](home / name)
        return str(home / name)

    return get


@pytest.fixture(scope="module")
def folder_of(at: Callable[[str], str]) -> Callable[[str], Path]:
    """Give the folder of a tiny checkpoint likewise."""
    return lambda name: Path(at(name))


@pytest.fixture(scope="module")
def pool() -> Iterator[ModelPool]:
    with ModelPool() as pool:
        yield pool


@pytest.fixture
def draw(pool: ModelPool) -> Callable[..., Any]:
    """Run nodes as a graph and give the value of the last."""

    def run(**nodes: dict[str, Any]) -> Any:
        graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}}
        return flow.run(graph, store=None, pool=pool, device="cpu")["out"]

    return run


@pytest.fixture
def failure(draw: Callable[..., Any]) -> Callable[..., str]:
    """What a graph's run says when it fails."""

    def run(**nodes: dict[str, Any]) -> str:
        with pytest.raises(flow.NodeError) as caught:
            draw(**nodes)
        return str(caught.value.__cause__)

    return run


@pytest.fixture
def refused() -> Callable[..., str]:
    """What planning says of nodes before anything runs."""

    def plan(**nodes: dict[str, Any]) -> str:
        graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}}
        return "\n".join(
            problem.message for problem in flow.plan(graph, store=None, device="cpu").problems
        )

    return plan


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., Any]:
    """The pipeline as a user of diffusers loads it."""

    def load(path: str, cls: str = "DiffusionPipeline", **parts: Any) -> Any:
        import diffusers

        with quiet_libraries():
            pipeline = getattr(diffusers, cls).from_pretrained(path, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Any, dict[str, Any]]]:
    """Give a picture by number, as Pillow has it and as the node that loads it."""
    import PIL.Image

    folder = tmp_path_factory.mktemp("photos")

    def get(number: int, size: tuple[int, int] = (32, 32)) -> tuple[Any, dict[str, Any]]:
        picture = PIL.Image.fromarray(
            np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        )
        path = folder / f"{number}-{size[0]}x{size[1]}.png"
        picture.save(path)
        return picture, {"type": "image.load", "file": str(path)}

    return get


class Looked(dict[str, Any]):
    """What a node found in a picture: its outputs by name, and its notes."""

    notes: list[str]


@pytest.fixture
def look(pool: ModelPool, tmp_path: Path) -> Callable[..., Looked]:
    """Run a node of the vision plugin, by its function, on a picture."""
    from imagen_flow._types import image_files

    def run(function: Any, image: flow.Image, **ports: Any) -> Looked:
        file = tmp_path / f"picture.{'tiff' if image.pixels.dtype == 'float32' else 'png'}"
        file.write_bytes(image_files.encode(image.pixels, file.suffix, {}))
        graph = {
            "imagen_flow": 1,
            "nodes": {
                "picture": {"type": "image.load", "file": str(file)},
                "node": {"type": function.type.name, "image": "${picture}", **ports},
            },
            "outputs": {name: f"${{node.{name}}}" for name in function.type.outputs},
        }
        outputs = flow.run(graph, store=None, pool=pool, device="cpu")
        looked = Looked(outputs)
        looked.notes = [note.message for note in outputs.notes]
        return looked

    return run


@pytest.fixture(scope="session")
def noisy() -> Callable[..., flow.Image]:
    """Draw a picture of random pixels."""

    def draw(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> flow.Image:
        pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
        return flow.Image(pixels if dtype == "uint8" else pixels.astype("uint16") * np.uint16(257))

    return draw
