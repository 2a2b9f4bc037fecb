"""The editor's training: two diffusion models change a picture by an instruction, as InstructPix2Pix
does, with the source beside the noise.

The first sees the whole picture, in coarse blocks, and finds what is meant; it paints roughly. The
second sees a close-up of what the first has changed, and paints it anew with a mask of what is new:
colours and, as a fourth channel, where. In a close-up things stand in the middle, so that fine edges
are learnt in hundreds of steps. Where either sees nothing to change, nothing changes.

What is slow to learn from scratch is *whom the words mean*. Four things make it come early:

- an edit of this world has one right answer, so predicting it from pure noise is already the whole
  task; most noise levels are drawn there;
- the instruction ends up in sentinel tokens which are taught what is asked, of which thing, and the
  new values; the UNets see these tokens alone;
- two grids inside each UNet are asked what stands in each cell before and after, which teaches
  seeing and binding far faster than pixels do;
- changed and unchanged pixels weigh the same for each picture, or changing nothing would be a hard
  plateau to leave; in close-ups the old outline and the new one weigh most.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagen_flow_embedded.asks import meant
from imagen_flow_embedded.inference.editing import (
    CLOSE_FOLD,
    GROUNDS,
    WHOLE_FOLD,
    coordinates,
    numbered,
    tokens,
    tokens_mask,
    watched,
)
from imagen_flow_embedded.inference.reading import FACTS
from imagen_flow_embedded.instructions import Asked, draw_asked
from imagen_flow_embedded.training.editor_parts import (
    LENGTH,
    build_plan,
    build_schedule,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    write,
)
from imagen_flow_embedded.training.foreign import draw_foreign
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.pictures import CLASSES, bend, cells, wear, wear_alike
from imagen_flow_embedded.training.pictures import FACTS as OF_A_THING
from imagen_flow_embedded.world import COLOURS, RADII, Scene, coverage, render

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

ASTRAY = 0.3
"""The part of instructions for whole pictures that mean nothing in them, or what is so already."""
IDLE = 0.3
"""The part of instructions that the text encoder learns to read as asking for no change."""
FOREIGN = 0.15
"""The part of whole pictures that show none of the world: nothing in them is to change."""
EASY = ("background", "remove")
"""Kinds of edits that close-ups show less often: they have no new edge."""
STAGES = ("reading", "whole", "close")


def train_edit(
    scratch: Path,
    *,
    start: Path | None = None,
    reading_steps: int = 14_000,
    whole_steps: int = 5200,
    close_steps: int = 9400,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    side: int = 128,
    channels: tuple[int, ...] = (32, 64, 96, 96),
    text_width: int = 128,
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train an editor on rendered scenes and instructions, no scene before or after held out, and
    write it as diffusers does.

    Inputs:
        scratch: a folder that is kept between runs; training goes on from the checkpoint found
            there.
        start: the folder of an editor to go on from.
    Params:
        reading_steps: of the text encoder, alone and in batches four times as large; it is frozen
            then.
        whole_steps, close_steps: of the UNet that sees whole pictures and of the one that sees
            close-ups.
        side: of the pictures that it works on: a multiple of 8, and as often of 2 as there are
            halvings between ``channels``.
        channels: of the levels of both UNets, from the finest.
        every_s: seconds between checkpoints.
    Outputs: yields (steps done, steps, losses); returns the folder of the model.
    """
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    parts = {
        "text_encoder": build_text_encoder(tokenizer, text_width),
        "unet": build_unet(side, channels, text_width, close=False),
        "close_up": build_unet(side, channels, text_width, close=True),
    }
    if start:
        parts = {
            name: type(part).from_pretrained(start / name).float() for name, part in parts.items()
        }
    learner = torch.nn.ModuleDict(parts)
    learner["plan"] = build_plan(text_width, channels[-2])
    if start:
        learner["plan"].load_state_dict(load_file(start / "plan" / "model.safetensors"))
    learner["owner"] = torch.nn.Linear(text_width, 3)
    for name in ("cells", "close_cells"):
        learner[name] = torch.nn.ModuleDict(
            {
                "before": torch.nn.Conv2d(channels[-2], sum(CLASSES.values()) + 2, 1),
                "after": torch.nn.Conv2d(channels[-2], sum(CLASSES.values()), 1),
            }
        )
    optimizer = torch.optim.AdamW(
        learner.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    lengths = {"reading": reading_steps, "whole": whole_steps, "close": close_steps}
    settings = {
        "what": "edit",
        "steps": lengths,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "side": side,
        "channels": list(channels),
        "start": start is not None,
    }
    keeper = Keeper(scratch, learner, optimizer, settings, decay=0.99, every_s=every_s)
    learner.train()

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, step))
        stage, _ = _stage(step, lengths)
        if stage == "reading":
            asked = [draw_asked(rng, idle=IDLE) for _ in range(4 * batch_size)]
            return reading_losses(learner, tokenizer, asked)
        if stage == "whole":
            return whole_losses(learner, draw_whole(rng, batch_size, side), rng)
        return close_losses(learner, draw_close(rng, batch_size, side), rng)

    def rate(step: int) -> float:
        stage, within = _stage(step, lengths)
        return rate_at(within, lengths[stage], learning_rate, warm_up=min(50, lengths[stage] // 4))

    yield from keeper.train(sum(lengths.values()), losses, rate)
    return write(
        {name: learner[name] for name in parts}, learner["plan"], tokenizer, scratch / "edit"
    )


def _stage(step: int, lengths: dict[str, int]) -> tuple[str, int]:
    """Say in which stage a step is, and its number there."""
    for name in STAGES[:-1]:
        if step < lengths[name]:
            return name, step
        step -= lengths[name]
    return STAGES[-1], step


# --- lessons
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """Pictures of one size before and after what was asked."""

    asked: Sequence[Asked]
    before: np.ndarray
    after: np.ndarray
    shown: Sequence[tuple[Scene, Scene]]
    """What each picture shows before and after, in its own measure."""


def draw_whole(rng: np.random.Generator, count: int, side: int) -> Lesson:
    """Draw whole pictures; some show none of the world, and nothing in them is to change."""
    asked = [draw_asked(rng, astray=ASTRAY) for _ in range(count)]
    before, after = _rendered(asked, side)
    shown = [(each.before, each.after) for each in asked]
    for number in np.flatnonzero(rng.random(count) < FOREIGN):
        empty = Scene(asked[number].before.background, ())
        before[number] = after[number] = draw_foreign(rng, side)
        shown[number] = empty, empty
    return Lesson(asked, before, after, shown)


def draw_close(rng: np.random.Generator, count: int, side: int) -> Lesson:
    """Draw close-ups of half the side: around what is to change, around another thing, or, where
    the background is to change, anywhere.
    """
    asked: list[Asked] = []
    while len(asked) < count:
        drawn = draw_asked(rng)
        if drawn.ask.kind in EASY and rng.random() < 0.6:
            continue
        # what is meant, but out of the close-up or one of two, would be told wrongly
        if drawn.before != drawn.after or not meant(drawn.ask, drawn.before):
            asked.append(drawn)
    before, after = _rendered(asked, side)
    width, shown = side // 2, []
    closed = np.empty((2, count, width, width, 3), np.uint8)
    for number, each in enumerate(asked):
        rows, columns = np.nonzero((before[number] != after[number]).any(-1))
        jitter = rng.integers(-7, 8, 2) * side // 128
        if each.ask.kind == "background":
            corner: np.ndarray = rng.integers(0, 3, 2) * width // 2
        elif len(rows):
            corner = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) // 2
            corner = corner - width // 2 + jitter
        else:
            thing = each.before.things[int(rng.integers(len(each.before.things)))]
            corner = (np.array([thing.x, thing.y]) * side).astype(int) - width // 2 + jitter
        left, top = (int(at) for at in corner.clip(0, side - width))
        part = np.s_[number, top : top + width, left : left + width]
        closed[0, number], closed[1, number] = before[part], after[part]
        shown.append((_seen(each.before, left, top, side), _seen(each.after, left, top, side)))
    for number in map(int, np.flatnonzero(rng.random(count) < FOREIGN / 3)):
        empty = Scene(asked[number].before.background, ())
        closed[:, number] = draw_foreign(rng, width)
        shown[number] = empty, empty
    return Lesson(asked, closed[0], closed[1], shown)


def _seen(scene: Scene, x: int, y: int, side: int) -> Scene:
    """Give a scene in the measure of a close-up whose corner is at x, y."""
    things = tuple(
        replace(thing, x=2 * (thing.x - x / side), y=2 * (thing.y - y / side))
        for thing in scene.things
    )
    return Scene(scene.background, things)


def _rendered(asked: Sequence[Asked], side: int) -> tuple[np.ndarray, np.ndarray]:
    both = render([each.before for each in asked] + [each.after for each in asked], side)
    return both[: len(asked)], both[len(asked) :]


# --- what is learnt
# --------------------------------------------------------------------------------------------------------------


def reading_losses(
    learner: Any, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Asked]
) -> dict[str, torch.Tensor]:
    """Give the losses of the text encoder: of each fact that it reads, and of what each word is
    about.
    """
    import torch
    from torch.nn import functional as F

    found = tokenizer(
        [each.instruction for each in asked],
        padding=True,
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    states = learner["text_encoder"](
        input_ids=found["input_ids"], attention_mask=found["attention_mask"]
    ).last_hidden_state
    losses = {}
    for index, (fact, values) in enumerate(FACTS.items()):
        wanted = torch.tensor([values.index(getattr(each.ask, fact)) for each in asked])
        losses[fact] = F.cross_entropy(learner["plan"]["heads"][fact](states[:, index]), wanted)
    owners = np.full(states.shape[:2], -1)
    for row, each in zip(owners, asked, strict=True):
        kept = each.owners[: len(row) - len(FACTS)]
        row[len(FACTS) : len(FACTS) + len(kept)] = kept
    about = learner["owner"](states).flatten(0, 1)
    wanted = torch.from_numpy(owners).flatten()
    losses["owner"] = 2 * F.cross_entropy(about, wanted, ignore_index=-1)
    return losses


def whole_losses(learner: Any, lesson: Lesson, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Give the losses of the UNet that sees whole pictures."""
    import torch
    from torch.nn import functional as F

    changed = torch.from_numpy((lesson.before != lesson.after).any(-1))[:, None].float()
    near = F.max_pool2d(changed, 9, stride=1, padding=4)
    source, new = (F.pixel_unshuffle(x, WHOLE_FOLD) for x in _worn(lesson, rng))
    target = (new - source) / 2 * F.pixel_unshuffle(near.expand(-1, 3, -1, -1), WHOLE_FOLD)
    painted, seen = _painted(learner, "unet", target, [source], lesson, rng)
    missed = 2 * F.pixel_shuffle(painted - target, WHOLE_FOLD)
    error = (missed.square() + 0.5 * missed.abs()).mean(1, keepdim=True)
    pixels = _mean_where(error, changed) + _mean_where(error, 1 - changed)
    return {"pixels": 2 * pixels, **_cell_losses(learner["cells"], seen, lesson, changed)}


def close_losses(learner: Any, lesson: Lesson, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Give the losses of the UNet that sees close-ups: of where the picture is new, of what things
    cover, and of the colours of the things and of the background.
    """
    import torch
    from torch.nn import functional as F

    changed = torch.from_numpy((lesson.before != lesson.after).any(-1))[:, None].float()
    near = F.max_pool2d(changed, 7, stride=1, padding=3)
    edges = _edges(lesson.before).maximum(_edges(lesson.after)) * near
    side = lesson.before.shape[1]
    becomes = [after for _, after in lesson.shown]
    cover = torch.from_numpy(_covered(becomes, side))
    worn = torch.from_numpy(wear(lesson.before, rng, untouched=0.5)).permute(0, 3, 1, 2)
    both = torch.cat([worn.float() / 127.5 - 1, 2 * cover - 1], 1)
    source, cover = bend(both, rng, (0.0, 0.0, 0.0, 0.25, 0.5)).split([3, 1], 1)
    target = F.pixel_unshuffle(torch.cat([2 * near - 1, cover], 1), CLOSE_FOLD)
    given = [F.pixel_unshuffle(source, CLOSE_FOLD)]
    given.append(coordinates(given[0].shape[-1]).expand(len(source), -1, -1, -1))
    painted, seen = _painted(learner, "close_up", target, given, lesson, rng)
    missed = F.pixel_shuffle(painted - target, CLOSE_FOLD)
    beyond, uncovered = (missed.square() + missed.abs()).split(1, 1)
    covers = _mean_where(uncovered, changed + 0.5 * near + edges)
    covers = covers + 0.2 * _mean_where(uncovered, 1 - near)
    masks = _mean_where(beyond, near) + _mean_where(beyond, 1 - near)

    features = seen["after"]
    parts = F.adaptive_avg_pool2d(torch.cat([near, (cover + 1) / 2 * near], 1), features.shape[-1])
    grounds = torch.tensor([GROUNDS.index(scene.background) for scene in becomes])
    colours = torch.from_numpy(_nearest(becomes, features.shape[-1]))
    wanted = (
        grounds[:, None, None].where(parts[:, 0] > 0, -1),
        colours.where((parts[:, 1] > 0.02) & (colours >= 0), -1),
    )
    logits = learner["plan"]["colours"](features).split([len(GROUNDS), len(COLOURS)], 1)
    named = [
        F.cross_entropy(each, index, ignore_index=-1, reduction="sum") / (index >= 0).sum().clamp(1)
        for each, index in zip(logits, wanted, strict=True)
    ]
    return {
        "cover": covers,
        "mask": 0.5 * masks,
        "ground": 0.3 * named[0],
        "colour": 0.3 * named[1],
        **_cell_losses(learner["close_cells"], seen, lesson, changed),
    }


def _covered(scenes: Sequence[Scene], side: int) -> np.ndarray:
    """Give what things cover of close-ups: float32 (N, 1, side, side)."""
    cover = np.zeros((len(scenes), 1, side, side), np.float32)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            dx, dy = axis[None] - thing.x, axis[:, None] - thing.y
            part = coverage(thing.shape, dx, dy, 2 * RADII[thing.size], 1 / side)
            cover[number, 0] = np.maximum(cover[number, 0], part)
    return cover


def _nearest(scenes: Sequence[Scene], side: int) -> np.ndarray:
    """Give the number of the colour of the thing nearest to each cell of close-ups: (N, side, side),
    -1 if there is none.
    """
    nearest = np.full((len(scenes), side, side), -1)
    axis = (np.arange(side) + 0.5) / side
    for number, scene in enumerate(scenes):
        least = np.full((side, side), np.inf)
        for thing in scene.things:
            far = np.hypot(axis[None] - thing.x, axis[:, None] - thing.y) - 2 * RADII[thing.size]
            nearest[number][far < least] = list(COLOURS).index(thing.colour)
            least = np.minimum(least, far)
    return nearest


def _painted(
    learner: Any,
    name: str,
    target: torch.Tensor,
    given: Sequence[torch.Tensor],
    lesson: Lesson,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Noise a target and give what the UNet makes of it, and its features of the last level but one: what goes over its skip on the way down, and what leaves it on the way up."""
    import torch

    unet, projection, count = learner[name], learner["plan"][name], len(target)
    said = numbered([vars(each.ask) for each in lesson.asked])
    text = tokens(said, projection.weight, projection.bias)
    levels = np.where(
        rng.random(count) < 0.85, rng.integers(980, 1000, count), rng.integers(0, 1000, count)
    )
    noise = torch.from_numpy(rng.standard_normal(target.shape, np.float32))
    noisy = build_schedule().add_noise(target, noise, torch.from_numpy(levels))
    with watched(unet) as seen:
        painted = unet(
            torch.cat([noisy, *given], 1),
            torch.from_numpy(levels),
            text,
            encoder_attention_mask=tokens_mask(text),
        ).sample
    return painted, seen


def _cell_losses(
    heads: Any, seen: dict[str, torch.Tensor], lesson: Lesson, changed: torch.Tensor
) -> dict[str, torch.Tensor]:
    from torch.nn import functional as F

    coarse, fine = seen["before"].shape[-1], seen["after"].shape[-1]
    moved = F.adaptive_avg_pool2d(changed, coarse)[:, 0] > 0.2
    answers = heads["before"](seen["before"])
    old = _cells_loss(answers[:, 2:], cells([was for was, _ in lesson.shown], coarse), None)
    old = old + F.cross_entropy(answers[:, :2], moved.long())
    focus = 1 + 4 * (F.adaptive_avg_pool2d(changed, fine)[:, 0] > 0.2)
    wanted = cells([becomes for _, becomes in lesson.shown], fine)
    new = _cells_loss(heads["after"](seen["after"]), wanted, focus)
    return {"before": 0.15 * old, "after": 0.15 * new}


def _worn(lesson: Lesson, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the pictures before and after, -1 to 1: before as another model might have drawn it,
    after in its light and bent alike.
    """
    import torch

    before, after = wear_alike(lesson.before, lesson.after, rng, untouched=0.5)
    both = torch.from_numpy(np.concatenate([before, after], 3)).permute(0, 3, 1, 2).float()
    both = bend(both / 127.5 - 1, rng, (0.0, 0.0, 0.0, 0.25, 0.5))
    source, new = both.split(3, 1)
    return source, new


def _edges(pictures: np.ndarray) -> torch.Tensor:
    """Mark the pixels with another colour beside them: float (N, 1, H, W), 0 or 1."""
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    most, least = F.max_pool2d(x, 3, stride=1, padding=1), -F.max_pool2d(-x, 3, stride=1, padding=1)
    return ((most - least).amax(1, keepdim=True) > 30).float()


def _mean_where(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average by weights over the pixels of each picture, then over pictures; weights below a
    fiftieth of the picture count as one.
    """
    count = weights.flatten(1).sum(1).clamp_min(weights[0].numel() / 50)
    return ((values * weights).flatten(1).sum(1) / count).mean()


def _cells_loss(
    answers: torch.Tensor, grids: dict[str, np.ndarray], weights: torch.Tensor | None
) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    total = torch.zeros(())
    parts = answers.split([CLASSES[fact] for fact in OF_A_THING], 1)
    for fact, part in zip(OF_A_THING, parts, strict=True):
        each = F.cross_entropy(part, torch.from_numpy(grids[fact]), reduction="none")
        total = total + (each.mean() if weights is None else (each * weights).sum() / weights.sum())
    return total
