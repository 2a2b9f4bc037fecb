"""image.depth: its values are those of the library, and its picture is near white and far black."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_vision.depth_maps import _without_padding, depth
from imagen_flow_vision.tiny.makers import MAKERS

__all__ = ["MAKERS"]


def by_hand(folder: str, image: flow.Image) -> np.ndarray:
    """Give the depth of a picture as its image processor finishes it."""
    import torch
    import transformers

    with quiet_libraries():
        model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        outputs = model(**processor(images=image.rgb().to_pil(), return_tensors="pt"))
    size = (image.height, image.width)
    found = processor.post_process_depth_estimation(outputs, target_sizes=[size])
    values: np.ndarray = found[0]["predicted_depth"].reshape(size).numpy()
    return values


@pytest.mark.parametrize("shape", [(40, 61, 3), (70, 33, 4)])
@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        ("depth-anything", "inverse depth"),
        ("depth-anything-metric", "metres"),
        ("dpt", "inverse depth"),
        ("glpn", "metres"),
    ],
)
def test_values_are_the_librarys_and_the_picture_is_made_of_them(
    kind: str, unit: str, shape: tuple[int, ...], at: Any, look: Any, noisy: Any
) -> None:
    """Values agree bit for bit. The picture spans 16 bits, and is brighter the nearer."""
    found = look(depth, noisy(*shape), model=at(kind))
    values = found["values"].numpy()
    assert np.array_equal(values, by_hand(at(kind), noisy(*shape)))
    assert dict(found["values"].tags) == {"is": unit}
    picture = found["picture"].pixels
    assert (picture.dtype, picture.shape) == ("uint16", (*shape[:2], 1))
    assert (picture.min(), picture.max()) == (0, 65535)
    order = np.argsort(values.ravel(), kind="stable")
    steps = np.diff(picture.ravel()[order].astype(int))
    assert (steps <= 0).all() if unit == "metres" else (steps >= 0).all()
    assert found.notes == []


def test_zoedepths_padding_is_cut_off(at: Any, look: Any, noisy: Any) -> None:
    """The library does it with torchvision, which it says for itself; the same is done here. What is
    left of a padded ramp is the ramp.
    """
    import torch

    found = look(depth, noisy(40, 60), model=at("zoedepth"))
    assert found["values"].shape == (40, 60) and found["values"].tags["is"] == "metres"
    size = (50, 72)
    pad = (int(25**0.5 * 3), int(36**0.5 * 3))
    ramp = torch.arange(size[1] + 2 * pad[1]).float().repeat(size[0] + 2 * pad[0], 1)
    cut = _without_padding(ramp[None], size, padded=True)
    assert torch.equal(cut, ramp[pad[0] : -pad[0], pad[1] : -pad[1]])
    assert _without_padding(ramp[None], size, padded=False).shape == size


def test_a_picture_without_depth_is_black_with_a_note(at: Any, look: Any, noisy: Any) -> None:
    """One pixel is as far as itself."""
    found = look(depth, noisy(1, 1, 1), model=at("depth-anything"))
    assert found["picture"].pixels.tolist() == [[[0]]]
    assert found.notes == ["the model sees everything equally far away"]


def test_a_picture_that_is_too_small_is_refused(at: Any, look: Any, noisy: Any) -> None:
    """GLPN rounds sizes down to a multiple of 32, and has nothing left of fewer pixels."""
    with pytest.raises(flow.NodeError, match="the picture of 20 x 20 is too small"):
        look(depth, noisy(20, 20), model=at("glpn"))


def test_another_kind_of_model_is_refused_when_planning(at: Any, refused: Any) -> None:
    """Marigold is a diffusion model, and has a graph of its own."""
    told = refused(
        picture={"type": "image.noise", "width": 8, "height": 8, "seed": 1},
        found={"type": "image.depth", "model": at("vit"), "image": "${picture}"},
    )
    assert "it is a vit, but image.depth supports depth_anything, dpt, glpn, zoedepth" in told


def test_damaged_weights_are_refused(at: Any, look: Any, noisy: Any, tmp_path: Path) -> None:
    """NaN is no depth."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(at("dpt"), tmp_path / "m")
    weights = load_file(tmp_path / "m/model.safetensors")
    weights["head.head.0.bias"][0] = float("nan")
    save_file(weights, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(flow.NodeError, match="gave NaN or infinite numbers"):
        look(depth, noisy(9, 9), model=str(tmp_path / "m"))
