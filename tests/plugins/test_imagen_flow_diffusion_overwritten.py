"""Checkpoints and LoRAs whose files are overwritten in place while a process keeps them loaded draw
as what they hold, and as nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy and torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture
def overwrite() -> Iterator[Callable[[Path], None]]:
    """Write the numbers of a file of weights halved into it, as training tools do: the file stays,
    its content is another.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    def write(file: Path) -> None:
        with safe_open(file, framework="pt") as held:
            metadata = held.metadata()
            halved = {name: (held.get_tensor(name) / 2).contiguous() for name in held.keys()}  # noqa: SIM118
        made = save(halved, metadata)
        with open(file, "r+b") as out:
            out.write(made)
            out.truncate()

    yield write


def drawing(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": str(model),
        "prompt": "a fox",
        "num_inference_steps": 2,
        "seed": 3,
        "width": 32,
        "height": 32,
        **more,
    }


def draw(pool: ModelPool | None, store: Path | None, model: Path, **more: Any) -> Any:
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": drawing(model, **more)},
        "outputs": {"out": "${one}"},
    }
    return flow.run(graph, store=store, pool=pool, device="cpu")["out"].pixels


@pytest.mark.parametrize(
    "part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"]
)
def test_an_overwritten_part_changes_no_other_folder_of_equal_weights(
    tmp_path: Path, overwrite: Callable[[Path], None], part: str
) -> None:
    """The overwritten folder draws what it holds now; the untouched one, in the same process and
    from the store, what it always held.
    """
    one, two, store = tmp_path / "one", tmp_path / "two", tmp_path / "store"
    with quiet_libraries():
        checkpoints.stable_diffusion(one)
    shutil.copytree(one, two)
    with ModelPool() as pool:
        before = draw(pool, None, one)
        overwrite(one / f"{part}.safetensors")
        assert np.array_equal(draw(pool, store, two), before)
        changed = draw(pool, store, one)
    assert not np.array_equal(changed, before)
    assert np.array_equal(draw(None, None, one), changed)
    assert [
        np.array_equal(draw(None, store, folder), pixels)
        for folder, pixels in ((one, changed), (two, before))
    ] == [True, True]


def test_an_overwritten_lora_changes_no_kept_layers(
    tmp_path: Path, overwrite: Callable[[Path], None]
) -> None:
    """Layers that are kept on a loaded base are those of the file as it was; another file of equal
    weights draws with them.
    """
    base, one, two = tmp_path / "base", tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    with quiet_libraries():
        checkpoints.stable_diffusion(base)
        companions.lora(
            one, base=checkpoints.stable_diffusion, parts=["unet", "text_encoder"], seed=1
        )
    shutil.copyfile(one, two)
    with ModelPool() as pool:
        before = draw(pool, None, base, loras=[str(one)])
        overwrite(one)
        assert np.array_equal(draw(pool, None, base, loras=[str(two)]), before)
        changed = draw(pool, None, base, loras=[str(one)])
        assert np.array_equal(draw(pool, None, base, loras=[str(two)]), before)
    assert not np.array_equal(changed, before)
    assert np.array_equal(draw(None, None, base, loras=[str(one)]), changed)
