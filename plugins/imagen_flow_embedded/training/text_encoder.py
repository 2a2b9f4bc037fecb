"""Train the text encoder: a small T5 encoder that turns a prompt into a plan of the picture.

What a small diffusion model is slowest to learn from text is *binding*: which colour belongs to
which shape, and where. So the tokenizer puts three sentinels (`<extra_id_0>` …, as T5 has them)
before each prompt: one for the scene and one for each of the two things that a prompt may name, in
the order in which it names them. Linear heads read the facts off the sentinels: background and
arrangement off the first, size, colour and shape off the others. They are trained by cross-entropy
against the scene that was described, so a fact that the prompt leaves out comes out as its
distribution. What each word is about (the first thing, the second, neither) is a lesson of its own:
with it binding is learnt in hundreds of steps. The encoder and the heads are then frozen, as the text encoder is in Imagen: the
denoisers attend to its states, and the base sees the facts' probabilities at the places that a seed
draws.

Source: T5 (arXiv:1910.10683), its encoder and relative positions; a frozen text encoder in Imagen
    (arXiv:2205.11487); words bound to places in GLIGEN (arXiv:2301.07093).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.doubt import DOUBTS, HEADS, MEANINGS
from imagen_flow_embedded.language import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    VOCABULARY,
    Description,
    babble,
    describe,
    twinned,
)
from imagen_flow_embedded.plan import SCENE_FACTS, SENTINELS, THING_FACTS
from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.world import Scene, draw_scene, is_held_out

LENGTH = 48
"""Tokens a prompt is padded or cut to, the sentinels among them."""
ARRANGEMENTS = HEADS["arrangement"]
WORD_FACTS = {
    "background": BACKGROUND_WORDS,
    "size": SIZE_WORDS,
    "colour": COLOUR_WORDS,
    "shape": SHAPE_WORDS,
}


def build_tokenizer() -> Any:
    """Make the word-level tokenizer: lower-case words, ``grey`` as ``gray``, all marks between
    clauses as a comma, other marks ignored, the sentinels in front.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    vocabulary = {word: index for index, word in enumerate([*special, *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[&+]"), " and "),
            *(
                normalizers.Replace(Regex(rf"\b{number}\b"), word)
                for number, word in enumerate(("one", "two", "three", "four"), 1)
            ),
            normalizers.Replace(Regex("[,;:.!?()\\[\\]/|]+"), " , "),
            normalizers.Replace(Regex("[^\\p{L}\\p{N},]+"), " "),
            normalizers.Replace(Regex("( *, *)+"), " , "),
            normalizers.Replace(Regex("[ ,]+$"), ""),
            normalizers.Replace("grey", "gray"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*sentinels, "$A", "</s>"]),
        special_tokens=[(word, vocabulary[word]) for word in ("</s>", *sentinels)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=sentinels,
        model_max_length=LENGTH,
    )


def build_text_encoder(tokenizer: Any, *, width: int = 128, layers: int = 4, heads: int = 4) -> Any:
    """Make an untrained T5 encoder for a tokenizer's vocabulary."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def build_heads(width: int) -> Any:
    """Make the untrained linear heads, one for each of `HEADS` and `DOUBTS`."""
    from torch import nn

    sizes = {fact: len(values) for fact, values in HEADS.items()} | DOUBTS
    return nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


def facts_of(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Number the facts of scenes as `HEADS` lists their values.

    Outputs: by fact, int64 (N,) for a scene's and (N, 2) for things', -1 where there is no second
        thing.
    """
    found = {fact: np.zeros(len(scenes), np.int64) for fact in SCENE_FACTS}
    found |= {fact: np.full((len(scenes), 2), -1) for fact in THING_FACTS}
    for number, scene in enumerate(scenes):
        found["background"][number] = HEADS["background"].index(scene.background)
        found["arrangement"][number] = ARRANGEMENTS.index(scene.relation or "alone")
        for slot, thing in enumerate(scene.things):
            for fact in THING_FACTS:
                found[fact][number, slot] = HEADS[fact].index(getattr(thing, fact))
    return found


def save_heads(folder: Path, heads: Any) -> None:
    """Write the linear heads, in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in heads.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def draw_descriptions(
    rng: np.random.Generator, count: int, *, dropped: float = 0.0
) -> list[Description]:
    """Draw scenes that are not held out and describe them, a part ``dropped`` of them by an empty
    text. Two things may be alike but for their size.
    """
    return [
        replace(drawn, text="", owners=(), told=frozenset()) if rng.random() < dropped else drawn
        for drawn in (describe(_draw(rng), rng) for _ in range(count))
    ]


def _draw(rng: np.random.Generator) -> Scene:
    scene = draw_scene(rng)
    if len(scene.things) == 2 and rng.random() < 0.06:
        alike = twinned(scene)
        return scene if is_held_out(alike) else alike
    return scene


def owners_of(described: Sequence[Description], tokens: int) -> np.ndarray:
    """Lay out what each token is about: int64 (N, tokens), 0 the scene, 1 the first thing, 2 the
    second, -1 the sentinels and what stands behind the words.
    """
    owners = np.full((len(described), tokens), -1)
    for row, each in zip(owners, described, strict=True):
        kept = each.owners[: tokens - SENTINELS]
        row[SENTINELS : SENTINELS + len(kept)] = kept
    return owners


def meanings_of(described: Sequence[Description], tokens: int) -> np.ndarray:
    """Lay out what each token says of what it is about: int64 (N, tokens), the number of one of
    `MEANINGS`, -1 where `owners_of` is.
    """
    words = {
        (word.split()[0], about == 0): MEANINGS.index((fact, value))
        for fact, table in WORD_FACTS.items()
        for about in ((0,) if fact == "background" else (1, 2))
        for value, names in table.items()
        for word in names
    }
    found = np.full((len(described), tokens), -1)
    for row, each in zip(found, described, strict=True):
        told = "background" in each.told
        said = [
            words.get((word, owner == 0), 0) if owner or told else 0
            for word, owner in zip(each.text.split(), each.owners, strict=True)
        ][: tokens - SENTINELS]
        row[SENTINELS : SENTINELS + len(said)] = said
    return found


def told_of(described: Sequence[Description]) -> np.ndarray:
    """Say which facts the texts tell: float32 (N, 3, 5), by sentinel; NaN where there is none."""
    found = np.full((len(described), SENTINELS, len(HEADS)), np.nan, np.float32)
    for row, each in zip(found, described, strict=True):
        for number, fact in enumerate(HEADS):
            if fact in SCENE_FACTS:
                row[0, number] = fact in each.told
            else:
                for slot in range(len(each.scene.things)):
                    row[1 + slot, number] = f"{slot + 1}.{fact}" in each.told
    return found


def train_text_encoder(
    scratch: Path,
    *,
    steps: int = 2280,
    batch_size: int = 64,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    width: int = 128,
    layers: int = 4,
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the text encoder and write ``tokenizer/``, ``text_encoder/`` and ``plan/``, the heads,
    into ``scratch/imagen``.

    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer, width=width, layers=layers)
    heads = build_heads(width)
    network = torch.nn.ModuleDict({"encoder": encoder, "heads": heads})
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    settings = {
        "what": "text_encoder",
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "width": width,
        "layers": layers,
    }
    keeper = Keeper(scratch, network, optimizer, settings, every_s=every_s)

    def losses(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step))
        described = draw_descriptions(rng, batch_size, dropped=0.03)
        described.sort(key=lambda each: len(each.owners))  # short texts and long ones: less padding
        half = batch_size // 2
        both = [lessons(some, rng) for some in (described[:half], described[half:])]
        return {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}

    def lessons(described: list[Description], rng: np.random.Generator) -> dict[str, Any]:
        senseless = [babble(each, described[-1], rng) for each in described[::8]]
        tokens = tokenizer(
            [each.text for each in described] + senseless,
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        every = encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
        states = every[: len(described)]
        things = states[:, 1:SENTINELS].flatten(0, 1)
        found = {fact: heads[fact](states[:, 0]) for fact in SCENE_FACTS}
        found |= {fact: heads[fact](things) for fact in THING_FACTS}
        found |= {name: heads[name](states).flatten(0, 1) for name in ("owner", "meaning")}
        wanted = facts_of([each.scene for each in described])
        wanted["owner"] = owners_of(described, states.shape[1])
        wanted["meaning"] = meanings_of(described, states.shape[1])
        lost = {
            fact: F.cross_entropy(logits, torch.from_numpy(wanted[fact]).flatten(), ignore_index=-1)
            for fact, logits in found.items()
        }
        told = torch.from_numpy(told_of(described))
        known = ~told.isnan()
        guess = heads["told"](states[:, :SENTINELS])[known]
        lost["told"] = F.binary_cross_entropy_with_logits(guess, told[known])
        sense = torch.zeros(len(every))
        sense[: len(described)] = 1
        guess = heads["sense"](every[:, 0])[:, 0]
        lost["sense"] = 0.5 * F.binary_cross_entropy_with_logits(guess, sense)
        return lost

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.half().save_pretrained(folder / "text_encoder")
    save_heads(folder / "plan", heads)
    write_index(folder)
    return folder
