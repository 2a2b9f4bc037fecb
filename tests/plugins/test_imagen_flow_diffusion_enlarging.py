"""Networks that enlarge give their libraries' pixels for pictures of any size, whole or in tiles
without seams, and tiles hold little in memory.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.nodes import upscaling
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

SWIN = {
    "direct-2": (2, "pixelshuffledirect"),
    "shuffle-4": (4, "pixelshuffle"),
    "nearest-4": (4, "nearest+conv"),
    "aux-4": (4, "pixelshuffle_aux"),
    "clean-1": (1, ""),
}
"""Swin2SR as it comes: lightweight, classical, for photographs, for compressed pictures, and what only cleans."""


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the path of a tiny network, made when it is first wanted."""
    home = tmp_path_factory.mktemp("networks")

    def get(name: str) -> str:
        if not (home / name).exists():
            with quiet_libraries():
                make = {"x4": checkpoints.upscaler, "esrgan.safetensors": companions.esrgan}.get(
                    name
                )
                make(home / name) if make else checkpoints.swin2sr(
                    home / name, upscale=SWIN[name][0], upsampler=SWIN[name][1]
                )
        return str(home / name)

    return get


@pytest.fixture
def spandrel() -> Any:
    """The library; when it is imported it asks for torchvision for two of its other architectures,
    and of what they take from it nothing is used here.
    """
    with pytest.MonkeyPatch.context() as stubs:
        if importlib.util.find_spec("torchvision") is None:
            for name in (
                "torchvision",
                "torchvision.transforms",
                "torchvision.transforms.functional",
            ):
                made = ModuleType(name)
                made.__spec__ = ModuleSpec(name, None)
                stubs.setitem(sys.modules, name, made)
            for word in ("InterpolationMode", "rotate", "normalize"):
                setattr(sys.modules["torchvision.transforms.functional"], word, None)
        return pytest.importorskip("spandrel")


def pixels_of(picture: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)[None]


def bytes_of(found: torch.Tensor) -> np.ndarray:
    return (found[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255).round().astype(np.uint8)


def enlarged(model: str, **more: Any) -> dict[str, Any]:
    return {"type": "image.upscale", "model": model, "image": "${photo}", **more}


@pytest.mark.parametrize("name", list(SWIN))
@pytest.mark.parametrize(
    "size", [(40, 48), (37, 45), (1, 5)], ids=["whole windows", "part of a window", "less than one"]
)
def test_swin2sr_is_the_librarys(
    name: str,
    size: tuple[int, int],
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
) -> None:
    """Each of its kinds gives the pixels of the library's processor and network, without what the
    processor adds at the edges.
    """
    from transformers import Swin2SRForImageSuperResolution, Swin2SRImageProcessorPil

    picture, load = photos(1, size)
    ours = draw(photo=load, one=enlarged(at(name)))
    scale = SWIN[name][0]
    with quiet_libraries(), torch.no_grad():
        seen = Swin2SRImageProcessorPil.from_pretrained(at(name))(
            picture, return_tensors="pt"
        ).pixel_values
        theirs = Swin2SRForImageSuperResolution.from_pretrained(at(name))(seen).reconstruction
    assert (ours.width, ours.height) == (size[0] * scale, size[1] * scale)
    assert np.array_equal(ours.pixels, bytes_of(theirs[..., : ours.height, : ours.width]))


def test_a_file_is_enlarged_as_by_spandrel(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any], spandrel: Any
) -> None:
    """A file of the ESRGAN family gives the pixels of the library called by hand, as the library
    says to call it.
    """
    from safetensors.torch import load_file

    picture, load = photos(2, (23, 31))
    found = spandrel.ModelLoader(device="cpu").load_from_state_dict(
        load_file(at("esrgan.safetensors"))
    )
    ours = draw(photo=load, one=enlarged(at("esrgan.safetensors")))
    assert np.array_equal(ours.pixels, bytes_of(found(pixels_of(picture))))


def test_tiles_leave_no_seams(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any], spandrel: Any
) -> None:
    """With an overlap as wide as what a pixel sees, tiles change none; without, they change those
    at the seams, which the test would see.
    """
    _, load = photos(3, (150, 110))
    model = at("esrgan.safetensors")
    whole = draw(photo=load, one=enlarged(model)).pixels.astype(int)
    tiled = draw(photo=load, one=enlarged(model, tile=48, overlap=24)).pixels
    assert np.array_equal(tiled, whole)
    seamy = np.abs(draw(photo=load, one=enlarged(model, tile=48, overlap=0)).pixels - whole).max(2)
    assert seamy.max() > 3
    rows = np.arange(110 * 4)
    far = np.min([np.abs(rows - 4 * seam) for seam in (48, 96)], axis=0) > 4 * 24
    columns = np.arange(150 * 4)
    far_columns = np.min([np.abs(columns - 4 * seam) for seam in (48, 96, 144)], axis=0) > 4 * 24
    assert seamy[np.ix_(far, far_columns)].size == 0 or seamy[np.ix_(far, far_columns)].max() == 0


def test_tiles_of_windows_leave_no_seams(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any]
) -> None:
    """Swin2SR's tiles begin where its windows do, whatever is asked, so that each window sees what
    it would see.
    """
    _, load = photos(4, (100, 70))
    whole = draw(photo=load, one=enlarged(at("direct-2"))).pixels.astype(int)
    tiled = draw(photo=load, one=enlarged(at("direct-2"), tile=35, overlap=15)).pixels
    assert np.abs(tiled - whole).max() <= 1
    assert (tiled != whole).mean() < 0.001


def test_tiles_bound_what_is_in_memory(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any], spandrel: Any
) -> None:
    """The network never sees more than a tile and its overlap, however large the picture."""
    seen: list[tuple[int, ...]] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda _module, given: (
            seen.append(tuple(given[0].shape[-2:])) if given and given[0].shape[1] == 3 else None
        )
    )
    try:
        large = draw(
            photo=photos(5, (300, 140))[1],
            one=enlarged(at("esrgan.safetensors"), tile=32, overlap=8),
        )
    finally:
        hook.remove()
    assert (large.width, large.height) == (1200, 560)
    assert len(seen) >= 10 * 5
    assert max(max(sides) for sides in seen) == 32 + 2 * 8


def test_want_of_memory_makes_tiles(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """Where memory runs out and a policy allows other pixels, the picture is enlarged in tiles that
    nobody asked for.
    """
    load = photos(7, (300, 20))[1]
    graph = {
        "imagen_flow": 1,
        "nodes": {"photo": load, "one": enlarged(at("direct-2"))},
        "outputs": {"out": "${one}"},
    }
    (model,) = flow.plan(graph, store=None).values.models.resolved.values()
    whole = draw(photo=load, one=enlarged(at("direct-2")))
    with pool.lease(upscaling.Swin2SR(), model, device="cpu", dtype="float32") as network:
        steps, tiled = drive(upscaling.upscale(network, draw(photo=load), memory_levels=("tile",)))
    assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2)]
    assert np.abs(tiled.pixels.astype(int) - whole.pixels).max() <= 1


def drive(node: Any) -> tuple[list[Any], Any]:
    """Run a generator node: its progress, then its outputs."""
    steps = []
    while True:
        try:
            steps.append(next(node))
        except StopIteration as end:
            return steps, end.value


def test_a_diffusion_upscaler_heeds_all_that_its_pipeline_does(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Noise, guidance and a negative prompt are the pipeline's."""
    picture, load = photos(6, (24, 32))
    given = {
        "negative_prompt": "blue",
        "noise_level": 40,
        "guidance_scale": 3.0,
        "num_inference_steps": 2,
    }
    theirs = by_hand(at("x4"))(
        "a fox", image=picture, generator=torch.Generator().manual_seed(3), **given
    ).images[0]
    ours = draw(photo=load, one=enlarged(at("x4"), prompt="a fox", seed=3, **given))
    assert np.array_equal(ours.pixels, np.asarray(theirs))


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        (
            "direct-2",
            {"prompt": "a fox", "noise_level": 3},
            "this model reads pixels alone: it has no prompt and no noise_level",
        ),
        (
            "x4",
            {"tile": 64, "seed": 1},
            "a diffusion upscaler has no 'tile'",
        ),
        ("x4", {}, "a diffusion upscaler needs a 'seed'"),
    ],
)
def test_what_a_model_does_not_take_is_said(
    model: str,
    more: dict[str, Any],
    words: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """Networks of pixels draw nothing, and those that draw see the whole picture."""
    assert failure(photo=photos(6, (24, 32))[1], one=enlarged(at(model), **more)) == words


def test_a_file_that_is_no_upscaler_is_refused(
    tmp_path: Path, photos: Callable[..., Any], failure: Callable[..., str], spandrel: Any
) -> None:
    """A file of other weights is named."""
    file = str(companions.embedding(tmp_path / "toy.safetensors"))
    assert (
        failure(photo=photos(6, (24, 32))[1], one=enlarged(file))
        == f"the model '{file}' is not an upscaler that spandrel supports"
    )
