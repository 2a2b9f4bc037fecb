"""Lay the plan of a picture out in space: what a text encoder's heads read off its sentinels, at
the places that a seed draws.

The seed decides the plan: facts that the prompt tells are taken as the heads read them, facts that it
leaves open are drawn from the heads' probabilities, then the places are drawn. So a picture of an
open prompt is as sure of itself as one of a prompt that says everything.

The base denoiser gets the plan as channels beside the noise. Each cell of its grid belongs to the
thing whose centre is nearest, if that is within `REACH`. Such a cell holds size, colour and shape of
that thing, and where the cell lies as seen from the thing's centre. Every cell holds the background.
Beside the plan the base gets a coarse sketch: mean silhouettes in the colours of the things, at the
same places.

Source: words bound to places in GLIGEN (arXiv:2301.07093); Fourier features (arXiv:2006.10739).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SENTINELS = 3
SCENE_FACTS = ("background", "arrangement")
THING_FACTS = ("size", "colour", "shape")
REACH = 0.24
"""How far a cell may be from a thing's centre along each axis, as a fraction of the side."""
_FREQUENCIES = (0.5, 1.0, 2.0, 4.0)

_NEAR, _FAR = 0.255, 0.745
_ALONG, _ACROSS, _ALONE = 0.03, 0.08, 0.1
#: For each arrangement (alone, left of, right of, above, below): the mean places (x, y) of the first
#: and the second thing, and how far each may be moved from them.
_ARRANGEMENTS: tuple[tuple[tuple[float, float], tuple[float, float], tuple[float, float]], ...] = (
    ((0.5, 0.5), (0.0, 0.0), (_ALONE, _ALONE)),
    ((_NEAR, 0.5), (_FAR, 0.5), (_ALONG, _ACROSS)),
    ((_FAR, 0.5), (_NEAR, 0.5), (_ALONG, _ACROSS)),
    ((0.5, _NEAR), (0.5, _FAR), (_ACROSS, _ALONG)),
    ((0.5, _FAR), (0.5, _NEAR), (_ACROSS, _ALONG)),
)


#: Golden, silver and bronze ratio and the root of three, without their whole parts, in 2^-32.
_STEPS = tuple(
    round(part * 2**32) for part in (0.6180339887, 0.4142135624, 0.3027756377, 0.7320508076)
)


def read_facts(states: torch.Tensor, heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the facts' probabilities off the sentinels.

    Inputs:
        states: (N, tokens, width), the sentinels first.
        heads: tensors `FACT.weight` and `FACT.bias` of linear layers.
    Outputs: by fact, float32 (N, values) for the scene's and (N, 2, values) for the things'.
    """
    from torch.nn import functional as F

    found = {}
    for fact in (*SCENE_FACTS, *THING_FACTS):
        sentinels = states[:, 0] if fact in SCENE_FACTS else states[:, 1:SENTINELS]
        logits = F.linear(
            sentinels.float(),
            heads[f"{fact}.weight"].to(states.device).float(),
            heads[f"{fact}.bias"].to(states.device).float(),
        )
        found[fact] = logits.softmax(-1)
    return found


def read_told(states: torch.Tensor, heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read off the sentinels how probably the prompt tells each fact.

    Outputs: by fact, float32 (N,) for the scene's and (N, 2) for the things'.
    """
    from torch.nn import functional as F

    weight, bias = (heads[f"told.{part}"].to(states.device).float() for part in ("weight", "bias"))
    told = F.linear(states[:, :SENTINELS].float(), weight, bias).sigmoid()  # N, sentinel, fact
    numbered = enumerate((*SCENE_FACTS, *THING_FACTS))
    return {
        fact: told[:, 0, number] if fact in SCENE_FACTS else told[:, 1:, number]
        for number, fact in numbered
    }


def decide(
    states: torch.Tensor, heads: Mapping[str, torch.Tensor], generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Decide what one picture shows, and where: what its prompt tells is taken as read, the rest is
    drawn.

    Inputs: states: of the prompt, (1, tokens, width).
    Outputs: the facts as `read_facts` gives them, each with probability 1, and the places
        (1, 2, 2) as `lay_out` takes them.
    """
    import torch
    from torch.nn import functional as F

    told, decided = read_told(states, heads), {}
    for fact, probable in read_facts(states, heads).items():
        rows = probable.cpu().double().flatten(0, -2) ** 2  # a small doubt is none
        if fact == "arrangement":  # how many things there are is always told
            alone = rows[:, :1].sqrt() >= 0.5
            rows = torch.where((torch.arange(rows.shape[-1]) == 0) == alone, rows, 0.0)
        drawn = torch.multinomial(rows, 1, generator=generator)[:, 0]
        chosen = torch.where(told[fact].cpu().flatten() >= 0.5, rows.argmax(-1), drawn)
        eye = F.one_hot(chosen, rows.shape[-1]).float()
        decided[fact] = eye.reshape(probable.shape).to(probable.device)
    places = draw_places(int(decided["arrangement"].argmax()), generator)
    return decided, places[None].to(states.device)


def draw_places(arrangement: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the places of an arrangement's things from the world's range, by the generator's seed:
    seeds that follow one another place things far apart, more of them towards the ends of the range
    than in its middle, so that few seeds suffice to see how far things move.

    Outputs: float32 (2, 2): x and y of the first and of the second thing, NaN if there is none.
    Source: a Kronecker sequence, the seed's multiples of irrational numbers modulo 1.
    """
    import torch

    first, second, reach = _ARRANGEMENTS[arrangement]
    seed = generator.initial_seed()
    turns = [(seed * step + step // 2) % 2**32 / 2**32 for step in _STEPS]
    moved = torch.sin((torch.tensor(turns).view(2, 2) - 0.5) * torch.pi)
    places = torch.tensor([first, second]) + moved * torch.tensor(reach)
    if arrangement == 0:
        places[1] = torch.nan
    return places


def lay_out(facts: Mapping[str, torch.Tensor], places: torch.Tensor, side: int) -> torch.Tensor:
    """Lay facts out on a grid.

    Inputs:
        facts: as `read_facts` gives them.
        places: (N, 2, 2): x and y of each thing as fractions of the side; NaN for an absent thing.
    Outputs: float32 (N, channels, side, side), as many channels as `count_channels` says.
    """
    import torch

    offset, owned = _divide(places, side)
    known = torch.cat([facts[fact] for fact in THING_FACTS], -1)  # N, thing, values
    things = torch.einsum("ntv,ntyx->nvyx", known, owned)
    angles = torch.cat([offset.nan_to_num() * (torch.pi * k) for k in _FREQUENCIES], 2)
    waves = torch.cat([angles.sin(), angles.cos()], 2)
    local = torch.einsum("ntcyx,ntyx->ncyx", waves, owned)
    ground = facts["background"][..., None, None].expand(-1, -1, side, side)
    return torch.cat([things, owned.sum(1, keepdim=True), local, ground], 1)


def _divide(places: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each cell's offset (N, thing, 2, y, x) from each thing's centre, 1 at its reach, and say
    whose the cell is (N, thing, y, x): 1 for the nearest thing within reach.
    """
    import torch

    axis = (torch.arange(side, dtype=torch.float32, device=places.device) + 0.5) / side
    columns = axis.view(1, side).expand(side, side)
    grid = torch.stack([columns, columns.T])
    offset = (grid[None, None] - places[..., None, None]) / REACH
    distance = offset.square().sum(2).nan_to_num(nan=torch.inf)
    nearest = distance == distance.amin(1, keepdim=True)
    return offset, (nearest & (offset.nan_to_num(nan=2.0).abs().amax(2) <= 1)).float()


def count_channels(facts: Mapping[str, Any]) -> int:
    """Say how many channels a plan has, given the number of values of each fact."""
    known = sum(int(facts[fact]) for fact in (*THING_FACTS, "background"))
    return known + 1 + 4 * len(_FREQUENCIES)


def lay_beside(
    facts: Mapping[str, torch.Tensor],
    places: torch.Tensor,
    means: Mapping[str, torch.Tensor],
    side: int,
    fold: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay out what the base sees beside the noise, and the unit in which it draws.

    Inputs:
        facts, places, means: as for `draw_sketch`.
        side: of the grid, whose cells hold ``fold`` times ``fold`` pixels each.
    Outputs:
        float32 (N, channels, side, side): the sketch, how much of each pixel it covers, and the
            plan.
        float32 (N, 3 * fold**2, side, side): the contrast, how the colour of the thing that a pixel
            belongs to differs from the ground's. It is what a pixel changes by when an outline
            moves over it, so that outlines are learnt once and not for each pair of colours.
    """
    import torch
    from torch.nn import functional as F

    table = {name: tensor.to(places.device).float() for name, tensor in means.items()}
    cover = _cover(facts, places, table, side * fold).amax(1)
    sketch = draw_sketch(facts, places, means, side * fold)
    colours = (
        facts["colour"] @ table["colours"] - (facts["background"] @ table["backgrounds"])[:, None]
    )
    contrast = torch.einsum("ntc,ntyx->ncyx", colours, _divide(places, side * fold)[1])
    folded = [F.pixel_unshuffle(each, fold) for each in (sketch, cover, contrast)]
    return torch.cat([*folded[:2], lay_out(facts, places, side)], 1), folded[2]


def draw_sketch(
    facts: Mapping[str, torch.Tensor],
    places: torch.Tensor,
    means: Mapping[str, torch.Tensor],
    side: int,
) -> torch.Tensor:
    """Draw what is probable, coarsely: mean silhouettes in mean colours on the mean background.

    Inputs:
        facts, places: as for `lay_out`.
        means: `silhouettes` (sizes, shapes, cells, cells) over twice the reach, 0 to 1; `colours`
            and `backgrounds` (values, 3), -1 to 1.
        side: of the sketch, in pixels.
    Outputs: float32 (N, 3, side, side), -1 to 1.
    """
    table = {name: tensor.to(places.device).float() for name, tensor in means.items()}
    cover = _cover(facts, places, table, side)
    colours = (facts["colour"] @ table["colours"])[..., None, None]
    sketch = (facts["background"] @ table["backgrounds"])[..., None, None].expand(-1, 3, side, side)
    for thing in range(cover.shape[1]):
        sketch = sketch + cover[:, thing] * (colours[:, thing] - sketch)
    return sketch


def _cover(
    facts: Mapping[str, torch.Tensor],
    places: torch.Tensor,
    table: Mapping[str, torch.Tensor],
    side: int,
) -> torch.Tensor:
    """Give the part of each pixel that each thing's mean silhouette covers: (N, thing, 1, y, x)."""
    import torch
    from torch.nn import functional as F

    offset = _divide(places, side)[0].movedim(2, -1)  # N, thing, y, x, 2
    silhouettes = torch.einsum(
        "nts,ntf,sfyx->ntyx", facts["size"], facts["shape"], table["silhouettes"]
    )
    return F.grid_sample(
        silhouettes.flatten(0, 1)[:, None],
        offset.nan_to_num(nan=2.0).flatten(0, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).unflatten(0, silhouettes.shape[:2])
