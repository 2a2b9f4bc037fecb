"""Decide by its autoencoder and its family which sizes a checkpoint draws. Planning refuses others,
which many pipelines silently change.

Sides are multiples of the autoencoder's downscaling, and for transformers also of their patches.
Measured on every family with images of many sizes (the tests do so).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import imagen_flow as flow

from ..checkpoints.description import describe, what_is

if TYPE_CHECKING:
    from imagen_flow import Model

SQUARES = {
    **dict.fromkeys(
        ("StableDiffusion", "StableDiffusionXL", "LatentConsistencyModel", "Sana", "SanaSprint"), 1
    ),
    **dict.fromkeys(
        (
            "AuraFlow",
            "Chroma",
            "CogView4",
            "Flux",
            "Flux2",
            "Flux2Klein",
            "HunyuanDiT",
            "Lumina2",
            "PixArtAlpha",
            "PixArtSigma",
            "QwenImage",
            "QwenImage21",
            "StableDiffusion3",
            "ZImage",
        ),
        2,
    ),
}
"""The side of the network's patches in latents, by family."""

LEAST = {"Sana": 32, "SanaSprint": 32}
"""Multiples that some pipelines require whatever their autoencoder does."""

HALVED_AGAIN = ("Kandinsky", "KandinskyV22", "Kandinsky3")
"""Families whose pipelines downscale twice as often, and round up to the next multiple."""

SHAPES = {
    "HunyuanDiT": (
        (1024, 1024),
        (1280, 1280),
        (1024, 768),
        (1152, 864),
        (1280, 960),
        (768, 1024),
        (864, 1152),
        (960, 1280),
        (1280, 768),
        (768, 1280),
    )
}
"""Widths and heights that a family was trained at, where its pipeline draws the nearest of them and
says so in a log alone.
"""

BINNED = ("PixArtAlpha", "PixArtSigma", "Sana", "SanaSprint")
"""Families whose pipelines draw at a size that they were trained at, and resize the picture to what
is wanted.
"""

SIDES = ("width", "height")


def grid_of(model: Model, *, binned: bool = True) -> int:
    """Return the number that the sides of a checkpoint's images must be multiples of; 1 if any size
    will do, or if that is not known.

    Params:
        binned: whether the pipeline may draw at another size and resize the image.
    """
    checkpoint = describe(model)
    family = checkpoint.family
    if binned and family in BINNED:
        return 1
    halves = checkpoint.downscales
    return (
        halves**2
        if family in HALVED_AGAIN
        else math.lcm(halves * SQUARES[family], LEAST.get(family, 1))
        if family in SQUARES
        else 1
    )


def refuse_latents(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse a width or height that a checkpoint's autoencoder cannot encode, whatever its denoiser
    draws.

    Raises:
        ModelError: a side is not a multiple of the downscaling and of the patches that are
            normalised.
    """
    checkpoint = describe(model)
    squares = 2 if "batch_norm_eps" in checkpoint.autoencoder else 1
    _refuse_uneven(model, given, checkpoint.downscales * squares, "decodes")


def refuse_size(model: Model, given: Mapping[str, Any], *, binned: bool = True) -> None:
    """Refuse a width or height that a checkpoint does not draw; the message has the two nearest
    that it does.

    Raises:
        ModelError: a side is not a multiple of what the family draws.
    """
    kind = what_is(model)
    binned = binned and given.get("use_resolution_binning") is not False
    sides = {name: given[name] for name in SIDES if type(given.get(name)) is int}
    shapes = SHAPES.get(describe(model).family, ())
    if binned and shapes and len(sides) == 2:
        width, height = sides.values()
        if (width, height) not in shapes:
            near = sorted(
                shapes,
                key=lambda shape: (
                    abs(shape[0] / shape[1] - width / height),
                    abs(shape[0] * shape[1] - width * height),
                ),
            )[:2]
            raise flow.ModelError(
                f"the model '{model.reference}' ({kind}) would draw another size than {width} x"
                f" {height}: say {' or '.join(f'{a} x {b}' for a, b in near)}, or arguments:"
                " {use_resolution_binning: false}"
            )
        return
    _refuse_uneven(model, sides, grid_of(model, binned=binned), "draws")


def _refuse_uneven(model: Model, given: Mapping[str, Any], grid: int, does: str) -> None:
    uneven = [
        f"its '{name}' is {side}: say {nearest(side, grid)}"
        for name in SIDES
        if type(side := given.get(name)) is int and side % grid
    ]
    if uneven:
        raise flow.ModelError(
            f"the model '{model.reference}' ({what_is(model)}) {does} multiples of {grid} pixels,"
            f" and {'; '.join(uneven)}"
        )


def nearest(side: int, grid: int) -> str:
    """Name the two nearest sides that can be drawn."""
    below = side // grid * grid
    return f"{below} or {below + grid}" if below else str(grid)


def check_size(models: Mapping[str, Any], given: Mapping[str, Any], *, binned: bool = True) -> None:
    """Refuse, when planning, a size that the model does not draw, as far as it is known.

    Params:
        given: the known values of the node's ports; sizes in `arguments` count too.
    """
    model = models.get("model")
    if model is not None:
        more = given.get("arguments")
        refuse_size(
            model,
            {
                **{name: given.get(name) for name in SIDES},
                **(more if isinstance(more, dict) else {}),
            },
            binned=binned,
        )


def refuse_other_size(model: Model, drawn: Any, given: Mapping[str, Any]) -> None:
    """Refuse an image of another size than the one asked for, where planning could not know.

    Raises:
        ValueError: the size differs. The message has both.
    """
    if any(given.get(name) not in (None, getattr(drawn, name)) for name in SIDES):
        asked = " x ".join(str(given.get(name) or getattr(drawn, name)) for name in SIDES)
        raise ValueError(
            f"the model '{model.reference}' ({what_is(model)}) drew {drawn.width} x {drawn.height}"
            f" where {asked} was asked for: say a size that it draws"
        )
