"""Know which sizes a checkpoint draws: by its autoencoder and its family, so that planning can
refuse others, which many pipelines change without a word.

The sides are multiples of how often the autoencoder halves, and for transformers of the squares
that they see besides. Measured on every family with pictures of many sizes (the tests do so).
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
"""How many numbers of latents a side of what the network sees has, by family."""

LEAST = {"Sana": 32, "SanaSprint": 32}
"""What some pipelines want multiples of whatever their autoencoder does."""

HALVED_AGAIN = ("Kandinsky", "KandinskyV22", "Kandinsky3")
"""Families whose pipelines halve as often again, and go up to the next multiple."""

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
"""Widths and heights that a family was trained at, where its pipeline draws the nearest of them and says so in a log alone."""

BINNED = ("PixArtAlpha", "PixArtSigma", "Sana", "SanaSprint")
"""Families whose pipelines draw at a size that they were trained at, and resize the picture to what is wanted."""

SIDES = ("width", "height")


def grid_of(model: Model, *, binned: bool = True) -> int:
    """Say of what number the sides of a checkpoint's pictures are multiples; 1 where any will do,
    or where it is not known.

    Params:
        binned: whether the pipeline may draw at another size and resize the picture.
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
    """Refuse a width or a height that a checkpoint's autoencoder has no latents for, whatever its
    denoiser draws.

    Raises:
        ModelError: a side is no multiple of what the autoencoder halves, and normalises by squares.
    """
    checkpoint = describe(model)
    squares = 2 if "batch_norm_eps" in checkpoint.autoencoder else 1
    _refuse_uneven(model, given, checkpoint.downscales * squares, "decodes")


def refuse_size(model: Model, given: Mapping[str, Any], *, binned: bool = True) -> None:
    """Refuse a width or a height that a checkpoint does not draw, with the two nearest that it
    does.

    Raises:
        ModelError: a side is no multiple of what the family draws.
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
    """Name the two nearest sizes that can be drawn."""
    below = side // grid * grid
    return f"{below} or {below + grid}" if below else str(grid)


def check_size(models: Mapping[str, Any], given: Mapping[str, Any], *, binned: bool = True) -> None:
    """Refuse, when planning, what is known of a picture's size and that the model does not draw.

    Params:
        given: the values of the node's ports that are known; what its `arguments` say goes for as
            much.
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
    """Say that a pipeline drew another size than it was asked for, where that was not known of its
    family.

    Raises:
        ValueError: a side is another; the message has both sizes.
    """
    if any(given.get(name) not in (None, getattr(drawn, name)) for name in SIDES):
        asked = " x ".join(str(given.get(name) or getattr(drawn, name)) for name in SIDES)
        raise ValueError(
            f"the model '{model.reference}' ({what_is(model)}) drew {drawn.width} x {drawn.height}"
            f" where {asked} was asked for: say a size that it draws"
        )
