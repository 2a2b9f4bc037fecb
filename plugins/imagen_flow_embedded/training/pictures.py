"""What the trainers of the captioner and of the editor are shown: worn pictures, and grids of what
stands where.

Both models read pictures that another model made, so sharp renderings alone would teach them too
little: ``wear`` gives a picture the faults of a generated one. ``cells`` says of every cell of a
grid what covers it, a dense lesson that makes small encoders see long before captions or pixels
would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from imagen_flow_embedded.world import COLOURS, SHAPES, SIZES, Scene

if TYPE_CHECKING:
    import torch

FACTS = ("size", "colour", "shape")
CLASSES = {"size": len(SIZES) + 1, "colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1}
"""How many classes a cell has of each fact; class 0 is the background."""

_NUMBERS = {
    "size": {name: number for number, name in enumerate(SIZES, 1)},
    "colour": {name: number for number, name in enumerate(COLOURS, 1)},
    "shape": {name: number for number, name in enumerate(SHAPES, 1)},
}


def ordered(scene: Scene) -> Scene:
    """Put the left or the upper thing first, so that a picture has one caption only."""
    if scene.relation in ("right of", "below"):
        return replace(scene, things=scene.things[::-1])
    return scene


def cells(scenes: Sequence[Scene], side: int) -> dict[str, np.ndarray]:
    """Say what covers each cell of a square grid.

    Outputs: by fact, int64 (N, side, side): 0 for the background, else 1 + the place of the word
        among the world's.
    """
    centres = (np.arange(side) + 0.5) / side
    grids = {fact: np.zeros((len(scenes), side, side), np.int64) for fact in FACTS}
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            reach = 0.21 if thing.size == "large" else 0.13
            rows = np.flatnonzero(np.abs(centres - thing.y) < reach)
            columns = np.flatnonzero(np.abs(centres - thing.x) < reach)
            for fact in FACTS:
                grids[fact][number][np.ix_(rows, columns)] = _NUMBERS[fact][getattr(thing, fact)]
    return grids


def wear(pictures: np.ndarray, rng: np.random.Generator, *, untouched: float = 0.3) -> np.ndarray:
    """Give pictures the faults of generated ones: enlarged from 32 px, blurred, tinted, blotched,
    noisy, compressed.

    Inputs:
        pictures: uint8 (N, side, side, 3), the side a multiple of 32.
    Params:
        untouched: the part of the pictures that stay as they are.
    Outputs: uint8, a new array of the same shape.
    """
    return wear_alike(pictures, pictures, rng, untouched=untouched)[0]


def wear_alike(
    pictures: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, untouched: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Wear pictures, and give the same tint, but no other fault, to the picture that belongs to
    each.

    What an editor adds to a worn picture is to be sharp, yet in that picture's light.
    Outputs: the worn pictures and the tinted others, uint8.
    """
    import torch
    from torch.nn import functional as F

    count, side = len(pictures), pictures.shape[1]
    touched = rng.random(count) >= untouched
    chance = rng.random((count, 5))
    strength = rng.random((count, 5))
    gain, shift = rng.uniform(0.92, 1.08, (count, 3)), rng.uniform(-10, 10, (count, 3))
    blotches = rng.standard_normal((count, 3, 8, 8), np.float32)

    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    coarse = np.flatnonzero(touched & (chance[:, 0] < 0.35))
    if len(coarse):
        small = F.avg_pool2d(x[coarse], side // 32)
        x[coarse] = F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)
    width = np.where(touched & (chance[:, 1] < 0.4), np.ceil(strength[:, 1] * 4), 0).astype(
        int
    )  # quarters of the widest blur
    for step in range(1, 5):
        chosen = np.flatnonzero(width == step)
        if len(chosen):
            x[chosen] = _blur(x[chosen], step * side / 256)
    tinted = touched & (chance[:, 2] < 0.5)
    gained = torch.from_numpy(np.where(tinted[:, None], gain, 1).astype(np.float32))[
        :, :, None, None
    ]
    shifted = torch.from_numpy(np.where(tinted[:, None], shift, 0).astype(np.float32))[
        :, :, None, None
    ]
    x = x * gained + shifted
    alike = torch.from_numpy(others).permute(0, 3, 1, 2).float() * gained + shifted
    blotched = np.where(touched & (chance[:, 3] < 0.4), strength[:, 3] * 12, 0).astype(np.float32)
    x = x + F.interpolate(
        torch.from_numpy(blotches * blotched[:, None, None, None]),
        size=(side, side),
        mode="bilinear",
        align_corners=False,
    )
    noisy = np.flatnonzero(touched & (chance[:, 4] < 0.4))
    if len(noisy):
        grain = torch.from_numpy(rng.standard_normal((len(noisy), 3, side, side), np.float32))
        x[noisy] += (
            grain
            * torch.from_numpy(strength[noisy, 4].astype(np.float32) * 12)[:, None, None, None]
        )
    worn, alike = (
        pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy().copy()
        for pixels in (x, alike)
    )
    for number in np.flatnonzero(touched & (rng.random(count) < 0.15)):
        worn[number] = _compressed(worn[number], int(rng.integers(40, 95)))
    return worn, alike


def bend(x: torch.Tensor, rng: np.random.Generator, reach: Sequence[float]) -> torch.Tensor:
    """Warp pictures smoothly, as a base model bends what it draws.

    Inputs:
        x: float (N, channels, side, side).
        reach: how far places move, in pixels; one of these is drawn for each picture, and 0 leaves
            it as it is.
    """
    import torch
    from torch.nn import functional as F

    count, side = len(x), x.shape[-1]
    moved = torch.from_numpy(rng.standard_normal((count, 2, 5, 5), np.float32)) * torch.from_numpy(
        rng.choice(reach, (count, 1, 1, 1)).astype(np.float32)
    )
    moved = F.interpolate(moved, (side, side), mode="bicubic", align_corners=True) * (2 / side)
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    grid = torch.stack(
        [axis.view(1, -1).expand(side, side), axis.view(-1, 1).expand(side, side)], -1
    )
    warped = F.grid_sample(
        x,
        grid[None] + moved.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return torch.where(moved.abs().amax((1, 2, 3), keepdim=True) > 0, warped, x)


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    reach = max(1, int(np.ceil(2.5 * sigma)))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).repeat(3, 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), taps[:, None, None, :], groups=3)
    return F.conv2d(
        F.pad(x, (0, 0, reach, reach), mode="replicate"), taps[:, None, :, None], groups=3
    )


def _compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
