"""A size that a model does not draw is refused when planning, with the two nearest that it does; no
pipeline changes it without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

GRIDS = {
    "aura-flow": 16,
    "chroma": 16,
    "cogview": 16,
    "flux": 16,
    "flux-2": 16,
    "flux-2-klein": 16,
    "kandinsky": 64,
    "kandinsky-3": 64,
    "latent-consistency": 8,
    "lumina": 16,
    "qwen": 16,
    "qwen-2": 32,
    "sd": 8,
    "sd3": 16,
    "sdxl": 8,
    "z-image": 16,
    "pixart": 1,
    "pixart-sigma": 1,
    "sana": 1,
    "if-1": 1,
}
"""By kind of checkpoint, of what the sides of its pictures are multiples; 1 where the pipeline resizes what it draws."""

LATENT = {
    "pixart": 16,
    "sana": 32,
    "flux": 16,
    "sd": 8,
    "sd3": 16,
    "hunyuan-dit": 16,
    "cogview": 16,
}
"""The same where latents are drawn, which nothing resizes."""

FEW = ("flux", "kandinsky", "pixart", "sana", "sd", "sd3")
"""Kinds that stand for the others where there is no time for all."""


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a",
        "num_inference_steps": 2,
        "seed": 1,
        **more,
    }


@pytest.mark.parametrize(
    "kind", [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in GRIDS]
)
def test_a_size_that_a_family_does_not_draw_is_refused_when_planning(
    kind: str, at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Both sides, with the two nearest sizes; multiples pass."""
    grid, path = GRIDS[kind], at(kind)
    for width in (60, 64, 72, 80, 88, 90, 96, 122, 128, 160):
        said = refused(one=drawn(path, width=width, height=8 * grid))
        below = width // grid * grid
        near = f"{below} or {below + grid}" if below else str(grid)
        assert (said == "") == (width % grid == 0)
        assert said == "" or said.endswith(
            f") draws multiples of {grid} pixels, and its 'width' is {width}: say {near}"
        )
    assert (
        "its 'height' is 101: say " in refused(one=drawn(path, width=8 * grid, height=101))
    ) == (grid > 1)


@pytest.mark.parametrize(
    "kind", [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in LATENT]
)
def test_latents_of_a_size_that_a_family_does_not_draw_are_refused_when_planning(
    kind: str, at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Nothing resizes them, so the nodes that make latents take multiples alone."""
    grid, path = LATENT[kind], at(kind)
    text = {"type": "text.encode", "model": path, "prompt": "a"}
    nodes: dict[str, dict[str, Any]] = {
        "text": text,
        "one": {
            "type": "diffusion.denoise",
            "text": "${text}",
            "model": path,
            "seed": 1,
            "width": 4 * grid,
            "height": 3 * grid + 1,
        },
    }
    assert (
        f"draws multiples of {grid} pixels, and its 'height' is {3 * grid + 1}: say {3 * grid} or {4 * grid}"
        in refused(**nodes)
    )
    nodes["one"]["height"] = 3 * grid
    assert refused(**nodes) == ""
    unbinned = drawn(
        path, width=4 * grid, height=3 * grid + 1, arguments={"use_resolution_binning": False}
    )
    assert kind not in (
        "pixart",
        "sana",
        "hunyuan-dit",
    ) or f"its 'height' is {3 * grid + 1}: say {3 * grid} or {4 * grid}" in refused(one=unbinned)


@pytest.mark.parametrize(("kind", "grid"), [("flux", 8), ("flux-2", 16), ("sd", 8), ("sana", 2)])
def test_samples_of_an_autoencoder_are_of_the_size_asked_for(
    kind: str,
    grid: int,
    at: Callable[[str], str],
    refused: Callable[..., str],
    draw: Callable[..., Any],
) -> None:
    """What it cannot halve is refused when planning; all else is decoded to that size, whatever the
    denoiser draws.
    """
    noise = {
        "type": "latents.noise",
        "model": at(kind),
        "seed": 1,
        "width": 9 * grid,
        "height": 7 * grid + 1,
    }
    assert (
        f"decodes multiples of {grid} pixels, and its 'height' is {7 * grid + 1}: say {7 * grid} or {8 * grid}"
        in refused(noise=noise)
    )
    picture = draw(
        noise={**noise, "height": 7 * grid},
        picture={"type": "latents.decode", "model": at(kind), "latents": "${noise}"},
    )
    assert (picture.width, picture.height) == (9 * grid, 7 * grid)


@pytest.mark.parametrize(
    "node",
    [
        {"type": "diffusion.text_to_image", "prompt": "a", "arguments": {"width": 122}},
        {
            "type": "diffusion.image_to_image",
            "prompt": "a",
            "image": "${photo}",
            "width": 122,
            "height": 96,
        },
        {
            "type": "diffusion.inpaint",
            "prompt": "a",
            "image": "${photo}",
            "mask": "${mask}",
            "width": 122,
            "height": 96,
        },
        {"type": "diffusion.pipeline", "arguments": {"prompt": "a", "width": 122, "height": 96}},
        {
            "type": "diffusion.tensors",
            "arguments": {"prompt": "a", "width": 122, "height": 96, "output_type": "latent"},
        },
    ],
)
def test_every_node_that_takes_a_size_refuses_it(
    node: dict[str, Any], at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Also where it is said among the pipeline's own arguments."""
    photo, mask = (
        {"type": "image.solid", "width": 96, "height": 96},
        {"type": "mask.from_luminance", "image": "${photo}"},
    )
    needed = {
        name: made
        for name, made in (("photo", photo), ("mask", mask))
        if "${photo}" in node.values() and (name == "photo" or "mask" in node)
    }
    assert "draws multiples of 16 pixels, and its 'width' is 122: say 112 or 128" in refused(
        **needed, one={**node, "model": at("flux"), "seed": 1}
    )


def test_a_size_given_to_the_plan_is_refused_when_planning(at: Callable[[str], str]) -> None:
    """A value of an input is known then as a literal is."""
    graph = {
        "imagen_flow": 1,
        "inputs": {"width": {"type": "int", "default": 128}},
        "nodes": {"one": drawn(at("flux"), width="${width}", height=96)},
        "outputs": {"out": "${one}"},
    }
    assert flow.plan(graph, store=None, device="cpu").problems == ()
    graph["nodes"]["one"]["height"] = 90
    (problem,) = flow.plan(graph, store=None, device="cpu", width=122).problems
    assert problem.message.endswith(
        "draws multiples of 16 pixels, and its 'width' is 122: say 112 or 128; its 'height' is 90: say 80 or 96"
    )


def test_a_size_that_is_known_only_when_running_is_refused_before_a_step_is_done(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """What another node works out is looked at when the step begins."""
    side = {"type": "image.size", "image": "${photo}"}
    nodes = {
        "photo": {"type": "image.solid", "width": 122, "height": 96},
        "side": side,
        "one": drawn(at("flux"), width="${side.width}", height="${side.height}"),
    }
    assert failure(**nodes).endswith(
        "draws multiples of 16 pixels, and its 'width' is 122: say 112 or 128"
    )


def test_a_family_of_fixed_shapes_refuses_others(
    at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Hunyuan-DiT's pipeline draws the nearest shape that it was trained at, unless it is told not
    to.
    """
    path = at("hunyuan-dit")
    assert refused(one=drawn(path, width=800, height=1000)).endswith(
        "would draw another size than 800 x 1000: say 768 x 1024 or 864 x 1152, or arguments: {use_resolution_binning: false}"
    )
    assert refused(one=drawn(path, width=768, height=1024)) == ""
    assert (
        refused(one=drawn(path, width=64, height=96, arguments={"use_resolution_binning": False}))
        == ""
    )
    assert refused(
        one=drawn(path, width=72, height=96, arguments={"use_resolution_binning": False})
    ).endswith("its 'width' is 72: say 64 or 80")


def test_a_picture_that_is_drawn_at_another_size_is_noted(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Where no size is asked for, a picture is cut to what the model draws, and the run says so."""
    nodes = {
        "photo": {"type": "image.solid", "width": 90, "height": 61, "colour": "#808080"},
        "one": {
            "type": "diffusion.image_to_image",
            "model": at("sd"),
            "image": "${photo}",
            "prompt": "a",
            "num_inference_steps": 2,
            "strength": 0.5,
            "seed": 1,
        },
    }
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${one}"}}
    notes = [
        getattr(event, "note", "")
        for event in flow.execute(flow.plan(graph, store=None, device="cpu"))
    ]
    assert "the picture is 90 x 61, and the model draws it 88 x 56" in notes
    nodes["one"] = {"type": "latents.encode", "model": at("sd"), "image": "${photo}"}
    notes = [
        getattr(event, "note", "")
        for event in flow.execute(flow.plan(graph, store=None, device="cpu"))
    ]
    assert "the picture is 90 x 61, and its latents are of 88 x 56" in notes


def test_another_size_of_another_class_is_noted(at: Callable[[str], str]) -> None:
    """Where another class is called by its own arguments, what it drew is said beside what was
    asked for.
    """
    arguments = {"prompt": "a", "width": 72, "height": 64, "num_inference_steps": 2}
    nodes = {
        "one": {
            "type": "diffusion.pipeline",
            "model": at("kontext"),
            "pipeline_class": "FluxPipeline",
            "arguments": arguments,
            "seed": 1,
        }
    }
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${one}"}}
    notes = [
        getattr(event, "note", "")
        for event in flow.execute(flow.plan(graph, store=None, device="cpu"))
    ]
    assert "a width of 72 and a height of 64 was asked for, and the pipeline drew 64 x 64" in notes


READ_BY_OTHERS = ("flux-2", "flux-2-klein", "qwen-2")
"""Kinds whose processors diffusers loads only with torchvision."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [kind for kind in GRIDS if kind not in ("pixart", "pixart-sigma", "sana", *READ_BY_OTHERS)],
)
def test_sizes_are_drawn_as_asked_and_others_are_not(
    kind: str, at: Callable[[str], str], by_hand: Callable[..., Any]
) -> None:
    """The library draws each size that passes, and of each that is refused another, or none."""
    grid, pipeline = GRIDS[kind], by_hand(at(kind))
    for width in (64, 72, 90, 96, 128):
        try:
            found = pipeline(
                "a",
                width=width,
                height=2 * grid if grid > 1 else 64,
                num_inference_steps=2,
                output_type="np",
            ).images
        except (ValueError, RuntimeError):
            found = None
        assert (found is not None and np.asarray(found[0]).shape[1] == width) == (
            width % grid == 0
        ), width


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ_BY_OTHERS)
def test_sizes_that_pass_are_drawn(
    kind: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """A picture has the size that was asked for, and not the one that the pipeline would cut it to."""
    grid = GRIDS[kind]
    for sides in ((2 * grid, 3 * grid), (5 * grid, 4 * grid)):
        picture = draw(one=drawn(at(kind), width=sides[0], height=sides[1]))
        assert (picture.width, picture.height) == sides


def test_the_pool_is_not_needed_for_planning(at: Callable[[str], str]) -> None:
    """A size is refused without anything being loaded."""
    with ModelPool() as pool:
        graph = {
            "imagen_flow": 1,
            "nodes": {"one": drawn(at("flux"), width=122, height=96)},
            "outputs": {"out": "${one}"},
        }
        with pytest.raises(flow.GraphError, match="say 112 or 128"):
            flow.run(graph, store=None, pool=pool, device="cpu")
        assert not pool.resident()
