"""Say how far the plan of a picture is to be trusted: what the text encoder itself doubts.

Three readings are compared, all of them the encoder's own and learnt beside the facts: whether the
prompt asks for a scene of the world at all, how sure the heads are of what they find to be told, and
what each word says of which thing. Where a word says something that the plan does not hold, or a
told fact is not sure, the picture may not be what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from imagen_flow_embedded.plan import (
    SCENE_FACTS,
    SENTINELS,
    THING_FACTS,
    read_facts,
    read_told,
)
from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES

if TYPE_CHECKING:
    import torch

HEADS: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "arrangement": ("alone", *RELATIONS),
    "size": SIZES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
"""The facts that a linear head reads off a sentinel, and the values of each. The arrangement is how
the first thing named stands to the second."""
MEANINGS = (
    ("", ""),
    *((fact, value) for fact in ("background", *THING_FACTS) for value in HEADS[fact]),
)
"""What a word may say of what it is about: nothing, or the value of a fact."""
DOUBTS = {"told": 5, "sense": 1, "owner": 3, "meaning": len(MEANINGS)}
"""How many values the heads give that say how far a plan is to be trusted: whether the text tells
each fact (background and arrangement off the first sentinel, size, colour and shape off the
others), whether it asks for a scene of the world, and for every word what it is about and what it
says."""
SURE, SENSIBLE, CLEAR = 0.85, 0.5, 0.8
"""The least probability of a told fact, and of a prompt that asks for a scene of the world; and that
from which a word's meaning counts."""
_NAMES = ("the background", "the first shape", "the second shape")


def find_doubts(states: torch.Tensor, heads: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Find what of a prompt the plan may have misread.

    Inputs:
        states: of one prompt, (1, tokens, width), zero at padding.
        heads: the linear heads, those of doubt among them.
    Outputs: a line for each doubt; none where all readings agree.
    """
    from torch.nn import functional as F

    def read(name: str, at: torch.Tensor) -> torch.Tensor:
        weight, bias = (
            heads[f"{name}.{part}"].to(at.device).float() for part in ("weight", "bias")
        )
        return F.linear(at.float(), weight, bias)

    facts, told = read_facts(states, heads), read_told(states, heads)
    best = {
        fact: [HEADS[fact][int(row.argmax())] for row in probable[0].reshape(-1, len(HEADS[fact]))]
        for fact, probable in facts.items()
    }
    many = 1 if best["arrangement"] == ["alone"] else 2
    found = []
    if read("sense", states[0, 0]).sigmoid().item() < SENSIBLE:
        found.append("it may ask for something else than one or two shapes on a background")
    for fact in (*SCENE_FACTS, *THING_FACTS):
        rows = facts[fact][0].reshape(-1, len(HEADS[fact]))
        for number, row in enumerate(rows[: 1 if fact in SCENE_FACTS else many]):
            if told[fact].reshape(-1)[number] >= 0.5 and row.max() < SURE:
                values = [HEADS[fact][index] for index in row.topk(2).indices.tolist()]
                whose = "" if fact in SCENE_FACTS else f" of {_NAMES[number + 1]}"
                found.append(f"the {fact}{whose} may be {values[0]} or {values[1]}")
    words = states[0, SENTINELS:][(states[0, SENTINELS:] != 0).any(-1)][:-1]  # without the end mark
    owners, meanings = read("owner", words).softmax(-1), read("meaning", words).softmax(-1)
    for owner, meaning in zip(owners, meanings, strict=True):
        slot, (fact, value) = int(owner.argmax()), MEANINGS[int(meaning.argmax())]
        if not fact or owner.max() * meaning.max() < CLEAR:
            continue
        if (fact == "background") != (slot == 0) or slot > many:
            found.append(f"'{value}' may be left out")
        elif best[fact][max(slot - 1, 0)] != value:
            found.append(f"{_NAMES[slot]} may not be {value}")
    return tuple(dict.fromkeys(found))
