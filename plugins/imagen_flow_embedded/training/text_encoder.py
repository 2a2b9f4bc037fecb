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
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.language import VOCABULARY, Description, describe
from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    draw_scene,
)

SENTINELS = 3
LENGTH = 48
"""Tokens a prompt is padded or cut to, the sentinels among them."""
ARRANGEMENTS = ("alone", *RELATIONS)
"""How the first thing named stands to the second."""
HEADS: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "arrangement": ARRANGEMENTS,
    "size": SIZES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
"""The facts that a linear head reads off a sentinel, and the values of each."""
SCENE_FACTS = ("background", "arrangement")
THING_FACTS = ("size", "colour", "shape")


def build_tokenizer() -> Any:
    """Make the word-level tokenizer: lower-case words, ``grey`` as ``gray``, all else between them
    ignored, the sentinels in front.
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
            normalizers.Replace(Regex("[^a-z]+"), " "),
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
    """Make the untrained linear heads, one for each of `HEADS`."""
    from torch import nn

    return nn.ModuleDict({fact: nn.Linear(width, len(values)) for fact, values in HEADS.items()})


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
    text.
    """
    return [
        Description("", drawn.scene, ()) if rng.random() < dropped else drawn
        for drawn in (describe(draw_scene(rng), rng) for _ in range(count))
    ]


def owners_of(described: Sequence[Description], tokens: int) -> np.ndarray:
    """Lay out what each token is about: int64 (N, tokens), 0 the scene, 1 the first thing, 2 the
    second, -1 the sentinels and what stands behind the words.
    """
    owners = np.full((len(described), tokens), -1)
    for row, each in zip(owners, described, strict=True):
        kept = each.owners[: tokens - SENTINELS]
        row[SENTINELS : SENTINELS + len(kept)] = kept
    return owners


def train_text_encoder(
    scratch: Path,
    *,
    steps: int = 1800,
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
    owner = torch.nn.Linear(width, 3)
    network = torch.nn.ModuleDict({"encoder": encoder, "heads": heads, "owner": owner})
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
        described = draw_descriptions(np.random.default_rng((seed, step)), batch_size, dropped=0.03)
        tokens = tokenizer(
            [each.text for each in described],
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        states = encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
        things = states[:, 1:SENTINELS].flatten(0, 1)
        found = {fact: heads[fact](states[:, 0]) for fact in SCENE_FACTS}
        found |= {fact: heads[fact](things) for fact in THING_FACTS}
        found["owner"] = owner(states).flatten(0, 1)
        wanted = facts_of([each.scene for each in described])
        wanted["owner"] = owners_of(described, states.shape[1])
        return {
            fact: F.cross_entropy(logits, torch.from_numpy(wanted[fact]).flatten(), ignore_index=-1)
            for fact, logits in found.items()
        }

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.half().save_pretrained(folder / "text_encoder")
    save_heads(folder / "plan", heads)
    write_index(folder)
    return folder
