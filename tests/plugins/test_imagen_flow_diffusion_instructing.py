"""Checkpoints that edit by instruction, with one picture and with several: FLUX.2, Qwen-Image-Edit and their like give through a graph what diffusers gives by hand, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import imagen_flow as flow
from imagen_flow.models import ModelPool, quiet_libraries
from imagen_flow_diffusion.tiny.kinds import MAKERS

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"), pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the path of a tiny checkpoint, made when it is first wanted."""
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> str:
        if not (home / name).exists():
            with quiet_libraries():
                MAKERS[name](home / name)
        return str(home / name)

    return get


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[PIL.Image.Image, dict[str, Any]]]:
    """Two pictures of different sizes, as Pillow has them and as nodes that load them."""
    folder = tmp_path_factory.mktemp("photos")
    made = np.random.default_rng(0)
    found = []
    for name, shape in (("first", (80, 64, 3)), ("second", (64, 96, 3))):
        picture = PIL.Image.fromarray(made.integers(0, 256, shape, np.uint8))
        picture.save(folder / f"{name}.png")
        found.append((picture, {"type": "image.load", "file": str(folder / f"{name}.png")}))
    return found


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: flow.Image, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def by_hand(path: str, cls: str = "DiffusionPipeline", **parts: Any) -> Any:
    """The pipeline as a user of diffusers loads it, with the processors that this machine can make."""
    import diffusers
    import transformers

    class Stills(transformers.Qwen2VLProcessor):
        """Of films it would want torchvision."""

        def check_argument_for_proper_class(self, name: str, part: Any) -> Any:
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, part)

    made = {}
    with quiet_libraries():
        index = diffusers.DiffusionPipeline.load_config(path)
        for name, entry in index.items():
            if entry == ["transformers", "Qwen2VLProcessor"]:
                made[name] = Stills(transformers.Qwen2VLImageProcessorPil.from_pretrained(f"{path}/{name}"), transformers.Qwen2Tokenizer.from_pretrained(f"{path}/{name}"))
            if entry == ["transformers", "PixtralProcessor"]:
                made[name] = transformers.PreTrainedTokenizerFast.from_pretrained(f"{path}/{name}")
        pipeline = getattr(diffusers, cls).from_pretrained(path, **dict.fromkeys(made), **parts)
    for name, part in made.items():
        setattr(pipeline, name, part)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- FLUX.2 ---


@pytest.mark.parametrize("name", ["flux-2", "flux-2-klein"])
def test_flux_2_draws_as_by_hand(name: str, at: Callable[[str], str], draw: Callable[..., Any]) -> None:
    """From words alone, in one node."""
    given = {"width": 48, "height": 64, "num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = by_hand(at(name))(prompt="a red fox", generator=noise(), **given).images[0]
    ours = draw(one={"type": "diffusion.text_to_image", "model": at(name), "prompt": "a red fox", "seed": 3, **given})
    assert same(ours, theirs)
    assert ours.pixels.std() > 5


@pytest.mark.parametrize(("name", "count"), [("flux-2", 1), ("flux-2", 2), ("flux-2-klein", 2)])
def test_flux_2_edits_one_picture_and_several_as_by_hand(name: str, count: int, at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]) -> None:
    """The picture to edit is the first that the model sees and gives the result its size; the generic node and image to image do the same."""
    given = {"num_inference_steps": 2, "guidance_scale": 3.0}
    seen = [picture for picture, _ in photos[:count]]
    theirs = by_hand(at(name))(image=seen, prompt="make it red", generator=noise(), **given).images[0]
    nodes = {f"photo_{number}": node for number, (_, node) in enumerate(photos)}
    more = ["${photo_1}"] if count > 1 else None
    ours = draw(**nodes, one={"type": "image.edit", "model": at(name), "image": "${photo_0}", "references": more, "instruction": "make it red", "seed": 3, **given})
    assert same(ours, theirs)
    assert (ours.width, ours.height) == (64, 80)
    arguments = {"prompt": "make it red", **given}
    whole = draw(**nodes, one={"type": "diffusion.pipeline", "model": at(name), "arguments": arguments, "images": ["${photo_0}", "${photo_1}"][:count], "seed": 3})
    assert [same(picture, theirs) for picture in whole] == [True]
    if count == 1:
        anew = draw(**nodes, one={"type": "diffusion.image_to_image", "model": at(name), "image": "${photo_0}", "prompt": "make it red", "seed": 3, **given})
        assert same(anew, theirs)


# --- Qwen-Image-Edit ---

#: Guidance is on: the negative prompt is read beside the picture, too.
QWEN = {"true_cfg_scale": 2.0, "negative_prompt": "blue"}


def test_qwen_edits_as_by_hand(at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]) -> None:
    """With torchvision and without: the processor has no part for films, and resizes pictures by Pillow."""
    given = {"width": 48, "height": 64, **QWEN}
    theirs = by_hand(at("qwen-edit"))(image=photos[0][0], prompt="make it red", num_inference_steps=2, generator=noise(), **given).images[0]
    node = {"type": "image.edit", "model": at("qwen-edit"), "image": "${photo}", "instruction": "make it red", "num_inference_steps": 2, "arguments": given, "seed": 3}
    ours = draw(photo=photos[0][1], one=node)
    assert same(ours, theirs.resize((64, 80), PIL.Image.Resampling.LANCZOS))
