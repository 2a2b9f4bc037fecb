"""Reading instructions: what they ask for, and whether that is to be trusted.

Linear heads read the facts off the sentinels of a text encoder. They always find something, so what
they find is held against the words: a fact that is not sure or that no word says, a word that no fact
holds, and a change without what a thing becomes are doubts, and a doubtful instruction is not
carried out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from imagen_flow_embedded.asks import PLACES, Kind
from imagen_flow_embedded.language import PLURALS
from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, SHAPES, SIZES

if TYPE_CHECKING:
    import torch

FACTS: dict[str, tuple[str | None, ...]] = {
    "kind": get_args(Kind),
    "size": (None, *SIZES),
    "colour": (None, *COLOURS),
    "shape": (None, *SHAPES),
    "place": (None, *PLACES),
    "new_size": (None, *SIZES),
    "new_colour": (None, *COLOURS),
    "new_shape": (None, *SHAPES),
    "new_background": (None, *BACKGROUNDS),
}
"""What an instruction may say, in the order of the sentinels that linear heads read it off: what
kind of change, of which thing, and what it becomes."""
SURE = 0.85
"""The least probability of every fact of an instruction that is carried out."""
_NAMED = (*COLOURS, *SHAPES, *BACKGROUNDS)
"""Values that only their own word says; a size is also said by "shrink" or "less"."""
_MANY = sorted({word for words in PLURALS.values() for word in words})
"""Words for several things: no fact holds them."""


@dataclass(frozen=True)
class Reading:
    """What an instruction asks for: for each of `FACTS` the likeliest of its values, and what of
    the instruction may be misread.
    """

    facts: Mapping[str, str | None]
    doubts: tuple[str, ...]


def read(
    instructions: Sequence[str], text_encoder: Any, tokenizer: Any, plan: Mapping[str, torch.Tensor]
) -> list[Reading]:
    """Read instructions.

    Inputs: text_encoder, tokenizer, plan: as `editing.edit` takes them.
    """
    import torch

    found = tokenizer(
        list(instructions),
        padding=True,
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).to(text_encoder.device)
    with torch.no_grad():
        states = text_encoder(
            input_ids=found["input_ids"], attention_mask=found["attention_mask"]
        ).last_hidden_state.float()
    facts: list[dict[str, str | None]] = [{} for _ in instructions]
    unsure: list[list[str]] = [[] for _ in instructions]
    for index, (fact, values) in enumerate(FACTS.items()):
        weight, bias = (plan[f"heads.{fact}.{part}"].to(states) for part in ("weight", "bias"))
        likely, best = (states[:, index] @ weight.T + bias).softmax(1).max(1)
        for number in range(len(facts)):
            facts[number][fact] = values[int(best[number])]
            if likely[number] < SURE:
                unsure[number].append(fact.replace("_", " "))
    words = [tokenizer.convert_ids_to_tokens(row) for row in found["input_ids"].tolist()]
    return [
        Reading(each, find_doubts(each, some, doubtful))
        for each, some, doubtful in zip(facts, words, unsure, strict=True)
    ]


def is_read(tokenizer: Any, instruction: str) -> bool:
    """Say whether an instruction has a word that the model knows."""
    ids = tokenizer(instruction, add_special_tokens=False, truncation=True)["input_ids"]
    return any(number != tokenizer.unk_token_id for number in ids)


def find_doubts(
    facts: Mapping[str, str | None], words: Collection[str], unsure: Sequence[str] = ()
) -> tuple[str, ...]:
    """Find what of an instruction may be misread: nothing of one that asks for no change.

    Inputs:
        words: of the instruction, synonyms as one word.
        unsure: the facts that are not sure.
    """
    kind = str(facts["kind"])
    if kind == "nothing":
        return ()
    found = [f"the {fact} is not sure" for fact in unsure]
    new = facts.get(f"new_{kind}")
    if kind != "remove" and new is None:
        found.append(f"it does not say which {kind} there is to be")
    others = set() if kind == "shape" else {"size", "colour", "shape", "background"} - {kind}
    found += [f"it says another {fact} too" for fact in sorted(others) if facts.get(f"new_{fact}")]
    held = {value for fact, value in facts.items() if value and fact != "kind"}
    told = set(words)
    # a new background may be told beside the old one
    asked = [
        name for name in (*_NAMED, *_MANY) if not (kind == "background" and name in BACKGROUNDS)
    ]
    found += [f"'{name}' is left out" for name in asked if name in told - held]
    found += [f"'{name}' is not in it" for name in (*_NAMED, *PLACES) if name in held - told]
    return tuple(found)
