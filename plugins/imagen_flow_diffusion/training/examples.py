"""Prepare what is learnt from: pictures as latents and captions as states, encoded once.

A picture is cut to a shape and resized to it in one go. What is kept of it is the autoencoder's
distribution, so that each step draws a sample of its own.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagen_flow import Progress

from ..adapters.attached import AttachedAdapters
from ..checkpoints.description import family_of
from ..checkpoints.folder import device_of
from ..loading.latent_spaces import upcast
from ..pipelines.calling import explaining_nan, refuse_nan, to_pil
from ..pipelines.families import split_of, unread_by
from ..stages.text_encoding import Encoder
from .files import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

    from imagen_flow import Image

    from ..loading.checkpoint import Checkpoint

MOST_STRETCHED = 4.0
"""The longer side over the shorter one, of pictures that keep their proportions."""


@dataclass(frozen=True)
class Frame:
    """The part of a picture that is learnt from, and how large.

    `box` is left, top, right and bottom in its own pixels; `width` and `height` are what that is
    resized to. `time_ids` are SDXL's: the picture's height and width, the top and left of the part
    after resizing, and the part's height and width.
    """

    box: tuple[float, float, float, float]
    width: int
    height: int
    time_ids: tuple[int, int, int, int, int, int]


def frame(width: int, height: int, resolution: int, *, crop: bool, grid: int) -> Frame:
    """Choose the part of a picture that is learnt from: its middle.

    Params:
        crop: a square of `resolution`; otherwise the picture's proportions (up to 4:1) at about as
            many pixels, on the `grid`.
    """
    wide, high = resolution, resolution
    if not crop:
        ratio = min(MOST_STRETCHED, max(1 / MOST_STRETCHED, width / height))
        wide = max(grid, round(resolution * math.sqrt(ratio) / grid) * grid)
        high = max(grid, round(resolution / math.sqrt(ratio) / grid) * grid)
    scale = max(wide / width, high / height)
    left, top = (width - wide / scale) / 2, (height - high / scale) / 2
    box = (max(0.0, left), max(0.0, top), min(width, width - left), min(height, height - top))
    corner = (round(max(0.0, top) * scale), round(max(0.0, left) * scale))
    return Frame(box, wide, high, (height, width, *corner, high, wide))


@dataclass(frozen=True)
class Examples:
    """What is learnt from, encoded, on the CPU.

    `means` and `deviations` describe each picture's latents (channels, height, width) before they
    are scaled; `states` and `pooled` have a row for each different caption and a last one for no
    words; `captions` says which row is a picture's.
    """

    means: Sequence[torch.Tensor]
    deviations: Sequence[torch.Tensor]
    time_ids: torch.Tensor
    captions: Sequence[int]
    states: torch.Tensor
    pooled: torch.Tensor | None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each picture's latents."""
        return [tuple(mean.shape) for mean in self.means]


def encode(
    checkpoint: Checkpoint,
    images: Sequence[Image],
    captions: Sequence[str],
    resolution: int,
    *,
    crop: bool,
    kept: Path,
) -> Generator[Progress, None, Examples]:
    """Encode pictures and captions with the frozen parts of a checkpoint, or read what an earlier
    call kept. The caller holds the checkpoint alone.

    Params:
        kept: the file where what is encoded is kept.
    Outputs: yields a progress for each picture, with notes about those that need one.
    """
    import torch

    grid = 64 if resolution >= 256 else 8
    frames = [frame(i.width, i.height, resolution, crop=crop, grid=grid) for i in images]
    rows = {text: row for row, text in enumerate(dict.fromkeys(captions))}
    texts = list(rows)
    yield Progress(0, len(images), "; ".join(_notes(checkpoint, images, frames, texts)))
    tensors = read_tensors(kept)
    if tensors is None:
        tensors = {}
        for index, (image, part) in enumerate(zip(images, frames, strict=True)):
            mean, deviation = _distribution(checkpoint, image, part)
            tensors |= {f"mean.{index}": mean, f"deviation.{index}": deviation}
            yield Progress(index + 1, len(images))
        tensors |= _read(checkpoint, texts)
        write_tensors(kept, tensors)
    return Examples(
        [tensors[f"mean.{index}"] for index in range(len(images))],
        [tensors[f"deviation.{index}"] for index in range(len(images))],
        torch.tensor([part.time_ids for part in frames], dtype=torch.float32),
        [rows[caption] for caption in captions],
        tensors["states"],
        tensors.get("pooled"),
    )


def _notes(
    checkpoint: Checkpoint, images: Sequence[Image], frames: Sequence[Frame], texts: Sequence[str]
) -> list[str]:
    """Tell what of the pictures and captions is not as one would expect."""
    import diffusers

    notes = []
    small = [
        image
        for image, part in zip(images, frames, strict=True)
        if part.box[2] - part.box[0] < part.width or part.box[3] - part.box[1] < part.height
    ]
    if small:
        notes.append(
            f"{len(small)} of {len(images)} pictures are smaller than what is learnt from and are"
            f" enlarged, the first of {small[0].width} x {small[0].height} pixels"
        )
    if "" in texts and len(texts) > 1:
        notes.append("some captions are empty: their pictures are learnt as what no words mean")
    cls = getattr(diffusers, checkpoint.kind)
    unread = [
        note
        for text in texts
        if (note := unread_by(cls, checkpoint.parts, text, None, what=f"the caption '{text[:40]}'"))
    ]
    if unread:
        more = f" (and {len(unread) - 1} captions more)" if len(unread) > 1 else ""
        notes.append(f"{unread[0]}{more}")
    return notes


def _distribution(
    checkpoint: Checkpoint, image: Image, part: Frame
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode a part of a picture: the mean and the deviation of its latents, unscaled."""
    import numpy as np
    import PIL.Image
    import torch

    vae = checkpoint.parts["vae"]
    picture = to_pil(image).resize(
        (part.width, part.height), PIL.Image.Resampling.LANCZOS, box=part.box
    )
    values = torch.from_numpy(np.asarray(picture, dtype=np.float32)) / 127.5 - 1
    with upcast(vae, wanted=True), torch.no_grad():
        found = vae.encode(values.permute(2, 0, 1)[None].to(device_of(vae), vae.dtype))
    if hasattr(found, "latent_dist"):
        mean, deviation = found.latent_dist.mean, found.latent_dist.std
    else:
        mean, deviation = found.latents, torch.zeros_like(found.latents)
    with explaining_nan({"vae": vae}):
        refuse_nan(mean, "the autoencoder gave")
    return mean[0].float().cpu().contiguous(), deviation[0].float().cpu().contiguous()


def _read(checkpoint: Checkpoint, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Encode captions, and what the checkpoint reads where there are no words."""
    import torch

    encoder = Encoder(
        checkpoint,
        family_of(checkpoint.kind),
        split_of(checkpoint.model, checkpoint.kind, "train.lora"),
    )
    found = [encoder.encode(text, None, attached=AttachedAdapters()) for text in texts]
    rows = {
        "states": [each["prompt_embeds"] for each in found] + [found[0]["negative_prompt_embeds"]],
        "pooled": [
            each["pooled_prompt_embeds"] for each in found if "pooled_prompt_embeds" in each
        ],
    }
    if rows["pooled"]:
        rows["pooled"].append(found[0]["negative_pooled_prompt_embeds"])
    with explaining_nan(checkpoint.parts):
        for row in rows["states"]:
            refuse_nan(row, "the text encoder gave")
    return {name: torch.cat(row).cpu() for name, row in rows.items() if row}
