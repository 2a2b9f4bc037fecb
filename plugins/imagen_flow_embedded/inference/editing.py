"""Editing by instruction: the sampling of two diffusion models that see the source picture beside
the noise.

The first sees the whole picture and says roughly what changes, and where; the second sees a close-up
of that place, or of all places, and paints what is new with a mask of it. What the
mask leaves out is not repainted: there the source's own pixels stay, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from imagen_flow_embedded.inference.reading import FACTS, Reading, read
from imagen_flow_embedded.world import BACKGROUNDS, COLOURS

if TYPE_CHECKING:
    import PIL.Image
    import torch

WHOLE_FOLD, CLOSE_FOLD = 4, 2
"""A cell of the UNet that sees whole pictures, and of that which sees close-ups, is a block of pixels
of this side, unshuffled into channels."""
GROUNDS = tuple(BACKGROUNDS)
LAYERS = 2
"""What is diffused of each pixel of a close-up, from -1 to 1: whether it is new, and how far a thing
covers it."""
TOKENS = 5
"""The tokens that a UNet is given; what an instruction says is projected onto them."""
TEXT = 20
"""The length to which zeros fill them up."""
NEARLY = 32
"""How far, of 255, a picture has to have changed for a pixel to count."""
AKIN = 80
"""How far, of 255, a colour of a picture may be from that of the world which it is taken for."""
LEAST = 24
"""A change of fewer pixels than this, of the model's own picture, is none."""
UNSEEN = "the model sees nothing in the picture that the instruction would change"
AMBIGUOUS = "more than one thing in the picture fits the instruction"
UNREAD = (
    "the model reads no change in the instruction that it can make (one at a time: the colour, shape"
    f" or size of a thing, taking a thing away, or the background: {', '.join(BACKGROUNDS)})"
)
DOUBTED = "the instruction may be misread ({})"
APART = 3
"""How far apart, in pixels, close-ups of one place are: their mean is truer than each."""
TOGETHER = 36
"""How many pictures or close-ups a UNet is given at once: of more, a processor computes each more
slowly."""
FAINT = 1e-3
"""The weight that the least likely pixel still has where scores of colours are summed."""
REACH = 10
"""How far, in pixels, scores of a thing's colour are summed."""
SLIGHT = 0.12
"""The least slope, per pixel, that counts as an edge."""
THRESHOLD = 0.10
"""How far, of full range, a smoothed channel must have moved for a pixel to count as changed."""


def edit(
    pictures: Sequence[np.ndarray],
    instructions: Sequence[str],
    *,
    unet: Any,
    close_up: Any,
    text_encoder: Any,
    tokenizer: Any,
    plan: Mapping[str, torch.Tensor],
    scheduler: Any,
    seeds: Sequence[int],
    num_inference_steps: int = 2,
) -> Generator[tuple[int, int], None, list[np.ndarray | str]]:
    """Change pictures as their instructions ask, each with a generator of its own.

    Inputs:
        pictures: uint8 (height, width, 3), any size; the model sees them at its own square size.
        instructions: such as ``make the circle green``.
        unet, close_up, text_encoder, tokenizer, plan, scheduler: the loaded parts of the model; the
            scheduler's state is not touched. ``plan`` holds the heads that read an instruction off
            the text encoder's states, and the projections of what it says onto a UNet's tokens.
    Params:
        seeds: of the first noise, drawn on the CPU.
        num_inference_steps: DDIM steps of each UNet.
    Outputs: yields (steps done, steps); returns for each picture uint8 of its shape, or the reason
        why nothing changes.
    Source: InstructPix2Pix (arXiv:2211.09800) for the conditioning; DDIM (arXiv:2010.02502), eq. 12
        with eta 0, by ``scheduler.step``.
    """
    import torch

    side = unet.config.sample_size * WHOLE_FOLD
    distinct = list(dict.fromkeys(instructions))
    read_once = dict(zip(distinct, read(distinct, text_encoder, tokenizer, plan), strict=True))
    said = [read_once[instruction] for instruction in instructions]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    changes = [_change(*each, side, plan) for each in zip(pictures, said, strict=True)]
    edited: list[np.ndarray | str] = [UNREAD] * len(pictures)
    given: dict[int, torch.Tensor] = {}

    def go_on(index: int, painted: _Painted | None) -> None:
        try:
            change = changes[index]
            given[index] = next(change) if painted is None else change.send(painted)
        except StopIteration as end:
            edited[index] = end.value

    for index in range(len(pictures)):
        go_on(index, None)
    done = 0
    for name, network in (("unet", unet), ("close_up", close_up)):
        if not given:
            break
        asked, given = given, {}
        project = [plan[f"{name}.{part}"] for part in ("weight", "bias")]
        painting = _paint(
            network,
            list(asked.values()),
            tokens(numbered([said[index].facts for index in asked]), *project),
            scheduler,
            [generators[index] for index in asked],
            num_inference_steps,
        )
        while True:
            try:
                next(painting)
            except StopIteration as end:
                painted = end.value
                break
            done += 1
            yield done, 2 * num_inference_steps
        for index, one in zip(asked, painted, strict=True):
            go_on(index, one)
    return edited


_Painted = tuple["torch.Tensor", "torch.Tensor"]


def _change(
    picture: np.ndarray,
    said: Reading,
    side: int,
    plan: Mapping[str, torch.Tensor],
) -> Generator[torch.Tensor, _Painted, np.ndarray | str]:
    """Change one picture. Yields what the first UNet is given beside the noise, then what the second
    is, and is sent what they paint; returns the picture, or the reason why nothing changes.
    """
    import torch
    from PIL import Image
    from torch.nn import functional as F

    if said.facts["kind"] == "nothing":
        return UNREAD
    if said.doubts:
        return DOUBTED.format(", ".join(said.doubts))
    reduced = (
        np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
        if picture.shape[:2] != (side, side)
        else picture
    )
    seen = torch.tensor(reduced).permute(2, 0, 1)[None].float() / 127.5 - 1
    x, _ = yield F.pixel_unshuffle(seen, WHOLE_FOLD)
    rough = (seen + 2 * F.pixel_shuffle(x, WHOLE_FOLD))[0].permute(1, 2, 0).clamp(-1, 1)
    changed = change_mask(reduced, np.rint((rough.numpy() + 1) * 127.5).astype(np.uint8))
    corners = views(changed, side // 2)
    if not corners:
        return UNSEEN
    if said.facts["kind"] != "background" and is_divided(changed):
        return AMBIGUOUS

    windows = [np.s_[:, :, y : y + side // 2, x : x + side // 2] for x, y in corners]
    parts = F.pixel_unshuffle(torch.cat([seen[window] for window in windows]), CLOSE_FOLD)
    where = coordinates(parts.shape[-1]).expand(len(parts), -1, -1, -1)
    x, features = yield torch.cat([parts, where], 1)
    kernel, bias = (plan[f"colours.{part}"].to(features) for part in ("weight", "bias"))
    scores = F.interpolate(F.conv2d(features, kernel, bias).cpu(), (side // 2, side // 2))
    layers = F.pixel_shuffle(x, CLOSE_FOLD).clamp(-1, 1)
    layers, scores = (joined(each.numpy(), corners) for each in (layers, scores))
    (left, top), (height, width) = corners[0], layers.shape[1:]
    looked = np.s_[top : top + height, left : left + width]
    painted, weight = reduced.copy(), np.zeros((side, side), np.uint8)
    painted[looked] = develop(reduced[looked], layers, scores)
    weight[looked] = np.rint(np.clip(2 * layers[0] + 1, 0, 1) * 255)
    differ = np.abs(painted.astype(np.int16) - reduced).max(-1) > NEARLY
    if (differ & (weight > 127)).sum() < LEAST:
        return UNSEEN
    return keep_source(picture, painted, weight)


def _paint(
    network: Any,
    given: Sequence[torch.Tensor],
    words: torch.Tensor,
    scheduler: Any,
    generators: Sequence[torch.Generator],
    num_inference_steps: int,
) -> Generator[None, None, list[_Painted]]:
    """Draw what a UNet paints beside the given channels of each picture; yields after each step, and
    returns for each picture what is painted and the features of the last step, off which colours are
    read.
    """
    import torch

    device, dtype = network.device, network.dtype
    counts = [len(each) for each in given]
    beside = torch.cat(list(given)).to(device, dtype)
    words = words.repeat_interleave(torch.tensor(counts), 0).to(device, dtype)
    sampler = copy.deepcopy(scheduler)
    sampler.set_timesteps(num_inference_steps, device=device)
    shape = (network.config.out_channels, *beside.shape[2:])
    noise = [
        torch.randn((count, *shape), generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    x = features = torch.cat(noise).to(device, dtype) * sampler.init_noise_sigma
    for t in sampler.timesteps:
        parts = zip(*(each.split(TOGETHER) for each in (x, beside, words)), strict=True)
        found = []
        with torch.no_grad(), watched(network) as seen:
            for noisy, shown, text in parts:
                painted = network(
                    torch.cat([sampler.scale_model_input(noisy, t), shown], 1),
                    t,
                    text,
                    encoder_attention_mask=tokens_mask(text),
                ).sample
                found.append((painted, seen["after"]))
            painted, features = (torch.cat(each) for each in zip(*found, strict=True))
            x = sampler.step(painted, t, x, return_dict=False)[0]
        yield
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("the model gave NaN")
    return list(zip(x.float().cpu().split(counts), features.float().split(counts), strict=True))


def joined(parts: np.ndarray, corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Join close-ups that overlap; each counts the more the farther its edge is.

    Inputs:
        parts: (N, channels, height, width).
        corners: the left and the upper edge of each, the upper left one first; together they leave
            no gap in a rectangle.
    Outputs: float32 (channels, height, width) of that rectangle.
    """
    channels, height, width = parts.shape[1:]
    places = np.array(corners) - corners[0]
    size = (height + places[:, 1].max(), width + places[:, 0].max())
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in (height, width))
    weight = np.minimum(rows[:, None], columns).astype(np.float32)
    total, whole = np.zeros(size, np.float32), np.zeros((channels, *size), np.float32)
    for part, (x, y) in zip(parts, places, strict=True):
        whole[:, y : y + height, x : x + width] += weight * part
        total[y : y + height, x : x + width] += weight
    return whole / total


def develop(source: np.ndarray, layers: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Paint a picture from what the UNet says of each pixel.

    It has one background, and pixels of one thing near each other have one colour, so its scores are
    summed over those pixels before the best is taken. A colour of the world is taken as the source
    has it, where it stays in sight.

    Inputs:
        source: uint8 (height, width, 3).
        layers: (2, height, width), -1 to 1: whether the pixel is new, and how far a thing covers it.
        scores: (grounds + colours, height, width), of the colours that the background and the thing
            have there.
    Outputs: uint8 (height, width, 3).
    """
    new, cover = (layers + 1) / 2
    grounds, things = np.split(scores, [len(BACKGROUNDS)])
    ground = (grounds * (new * (1 - cover) + FAINT)).sum((1, 2)).argmax()
    thing = box_mean(things * (new * cover + FAINT), REACH).argmax(0)

    old = layers[0] < -0.5
    below = table(BACKGROUNDS, np.full(old.shape, ground), source, old & (layers[1] < -0.9))
    above = table(COLOURS, thing, source, old & (layers[1] > 0.9))
    alpha = sharpened(cover)[..., None]
    mixed = below[ground] + alpha * (above[thing] - below[ground])
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def table(
    colours: Mapping[str, Sequence[int]], best: np.ndarray, source: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Give the world's colours, those as the source has them that are taken for one of them in pixels
    known to stay: float32 (colours, 3).
    """
    found = np.array(list(colours.values()), np.float32)
    for number in range(len(found)):
        pixels = source[known & (best == number)].astype(np.float32)
        if len(pixels) >= LEAST and np.abs(np.median(pixels, 0) - found[number]).max() < AKIN:
            found[number] = np.median(pixels, 0)
    return found


def sharpened(cover: np.ndarray) -> np.ndarray:
    """Make the edges of what covers pixels one pixel wide, as a renderer does: half covered stays
    where it is, and the slope there becomes one.

    Inputs: cover: (height, width), 0 to 1.
    """
    smooth = (cover + box_mean(cover[None], 1)[0]) / 2
    rows, columns = np.gradient(smooth)
    return np.clip(0.5 + (smooth - 0.5) / np.maximum(np.hypot(rows, columns), SLIGHT), 0, 1)


def box_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Average over squares that reach so many pixels to each side, cut off at the edges.

    Inputs: values: (channels, height, width).
    """
    import torch

    pool = torch.nn.functional.avg_pool2d
    given = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return pool(given, 2 * reach + 1, 1, reach, count_include_pad=False).numpy()


@contextmanager
def watched(unet: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Note the features of a UNet's last level but one: ``before`` what goes over its skip on the way
    down, ``after`` what leaves it on the way up.
    """
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        unet.down_blocks[-2].register_forward_hook(
            lambda _module, _inputs, outputs: seen.update(before=outputs[1][0])
        ),
        unet.up_blocks[1].register_forward_hook(
            lambda _module, _inputs, outputs: seen.update(after=outputs)
        ),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def views(changed: np.ndarray, width: int) -> list[tuple[int, int]]:
    """Say where to look closely: nine close-ups a little apart around what changed, or nine all over
    the picture if it is larger than that; none if nothing changed.

    Inputs:
        changed: uint8 (side, side), not 0 where something changed.
        width: the side of a close-up, half that of the picture.
    Outputs: the left and the upper edge of each close-up, the upper left one first.
    """
    rows, columns = np.nonzero(changed > 127)
    if len(rows) < LEAST:
        return []
    if max(np.ptp(rows), np.ptp(columns)) > width + width // 8:
        apart, x, y = width // 2, width // 2, width // 2
    else:
        apart = APART
        x, y = (int(at.min() + at.max()) // 2 - width // 2 for at in (columns, rows))
        x, y = (min(max(at, apart), width - apart) for at in (x, y))
    steps = (-apart, 0, apart)
    return [(x + across, y + down) for down in steps for across in steps]


def is_divided(changed: np.ndarray) -> bool:
    """Say whether changes are of two things: two parts of like size, neither beside the other.

    Inputs: changed: uint8 (side, side), not 0 where something changed.
    """
    from PIL import Image, ImageChops

    whole = Image.fromarray(np.where(changed > 127, 255, 0).astype(np.uint8))
    part = Image.new("L", whole.size)
    y, x = divmod(int(changed.argmax()), changed.shape[1])
    part.putpixel((x, y), 255)
    part = _grown(part, whole)
    rest = ImageChops.subtract(whole, part)
    sizes = sorted(np.count_nonzero(np.asarray(each)) for each in (part, rest))
    one, other = part.getbbox(), rest.getbbox()
    if one is None or other is None or sizes[0] < sizes[1] / 4:
        return False
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def _grown(part: PIL.Image.Image, within: PIL.Image.Image) -> PIL.Image.Image:
    """Give all that hangs together with a part, both 0 or 255."""
    from PIL import ImageChops, ImageFilter

    while True:
        grown = ImageChops.darker(part.filter(ImageFilter.MaxFilter(3)), within)
        if grown == part:
            return part
        part = grown


def coordinates(cells: int) -> torch.Tensor:
    """Say of each cell where in a close-up it is: (1, 10, cells, cells), x and y from -1 to 1, and
    their sines and cosines at two frequencies.
    """
    import torch

    axis = (torch.arange(cells, dtype=torch.float32) + 0.5) * 2 / cells - 1
    both = torch.stack([axis[None, :].expand(cells, -1), axis[:, None].expand(-1, cells)])
    waves = [wave(math.pi * count * both) for count in (2, 4) for wave in (torch.sin, torch.cos)]
    return torch.cat([both, *waves])[None]


def numbered(said: Sequence[Mapping[str, str | None]]) -> torch.Tensor:
    """Lay out what instructions ask for as ones among zeros: (N, the values of all facts)."""
    import torch

    rows = [
        [float(each[fact] == value) for fact, values in FACTS.items() for value in values]
        for each in said
    ]
    return torch.tensor(rows)


def tokens(said: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Project what instructions ask for onto the tokens of a UNet: (N, TEXT, width)."""
    import torch

    found = (said.to(weight) @ weight.T + bias).unflatten(1, (TOKENS, -1))
    return torch.nn.functional.pad(found, (0, 0, 0, TEXT - TOKENS))


def tokens_mask(text: torch.Tensor) -> torch.Tensor:
    """Give the attention mask of such tokens: 0 for the zeros behind them."""
    import torch

    mask = torch.zeros(text.shape[:2], dtype=torch.long, device=text.device)
    mask[:, :TOKENS] = 1
    return mask


def keep_source(picture: np.ndarray, painted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Carry a change back to the source: the painted pixels where something changed, elsewhere the
    source's own.

    Inputs:
        picture: uint8 (H, W, 3), the source.
        painted: uint8 (side, side, 3).
        weight: uint8 (side, side), 255 where the painted pixels count, 0 where the source's do.
    Outputs: uint8 (H, W, 3).
    """
    from PIL import Image

    mask, new = Image.fromarray(weight), Image.fromarray(painted)
    size = (picture.shape[1], picture.shape[0])
    if new.size != size:
        mask, new = (each.resize(size, Image.Resampling.BICUBIC) for each in (mask, new))
    return np.asarray(Image.composite(new, Image.fromarray(picture), mask))


def change_mask(reduced: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Say where an edit changed the picture.

    The difference is smoothed with its sign, so that grain and sharpened edges, which go both ways,
    cancel; single lines are dropped, what remains is widened to take in its soft edge.
    An instruction changes one thing: a change that is nowhere half as strong as the strongest is
        the model's inaccuracy, and the source is kept.
    Outputs: uint8 (side, side), 255 where the edited pixels count, 0 where the source's do.
    """
    from PIL import Image, ImageFilter

    half = (
        edited.astype(np.int16) - reduced.astype(np.int16)
    ) // 2 + 128  # Pillow smooths bytes only
    smooth = np.asarray(
        Image.fromarray(half.astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    ).astype(np.float32)
    moved = 2 * np.abs(smooth - 128).max(-1)
    changed = Image.fromarray(np.where(moved > THRESHOLD * 255, 255, 0).astype(np.uint8)).filter(
        ImageFilter.MinFilter(3)
    )
    kept = Image.fromarray(
        np.where(moved > max(THRESHOLD * 255, moved.max() / 2), 255, 0).astype(np.uint8)
    )
    kept = _grown(kept, changed)  # from the strong changes outwards
    mask = kept.filter(ImageFilter.MaxFilter(9))
    return np.asarray(mask.filter(ImageFilter.BoxBlur(1)))
