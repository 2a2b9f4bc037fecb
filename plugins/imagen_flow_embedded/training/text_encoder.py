"""Train the text encoder: a small T5 encoder that turns a caption into a plan of the picture, place
by place.

What a small diffusion model is slowest to learn from text is *binding*: which colour belongs to
which shape, and where. So the tokenizer puts sixteen sentinels (``<extra_id_0>`` …
``<extra_id_15>``, as T5 has them) before each prompt, one for each place of a 4 x 4 grid, and the
encoder learns to put at sentinel k what the caption says about place k: a linear head reads that
part of the scene's 32 px picture, its things at their mean places. The encoder and the head are
then frozen, as the text encoder is in Imagen. The denoisers attend to words and plan alike, and the
base sees the sketch that the head draws.

Source: T5 (arXiv:1910.10683), its encoder and relative positions; a frozen text encoder in Imagen
    (arXiv:2205.11487).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imagen_flow_embedded.training.assembly import write_index
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    FAR,
    NEAR,
    SHAPES,
    SIZES,
    Scene,
    caption,
    draw_scene,
    render,
)

GRID = 4
PLACES = GRID * GRID
LENGTH = 40
"""Tokens a prompt is padded or cut to, the sentinels among them."""
PLAN_SIDE = 32

WORDS = (
    *(
        "a",
        "an",
        "the",
        "on",
        "of",
        "to",
        "background",
        "left",
        "right",
        "above",
        "below",
        "over",
        "under",
        "and",
        "with",
    ),
    *COLOURS,
    *BACKGROUNDS,
    *SHAPES,
    *SIZES,
)


def build_tokenizer() -> Any:
    """Make the word-level tokenizer: lower-case words, ``grey`` as ``gray``, all else between them
    ignored, the sentinels in front.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{place}>" for place in range(PLACES)]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    vocabulary = {word: index for index, word in enumerate([*special, *dict.fromkeys(WORDS)])}
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


def settle(scene: Scene) -> Scene:
    """Move the things of a scene to the mean places of its relation: what a caption can know."""
    if len(scene.things) == 1:
        return replace(scene, things=(replace(scene.things[0], x=0.5, y=0.5),))
    places = {
        "left of": ((NEAR, 0.5), (FAR, 0.5)),
        "right of": ((FAR, 0.5), (NEAR, 0.5)),
        "above": ((0.5, NEAR), (0.5, FAR)),
        "below": ((0.5, FAR), (0.5, NEAR)),
    }
    moved = (
        replace(thing, x=x, y=y)
        for thing, (x, y) in zip(scene.things, places[str(scene.relation)], strict=True)
    )
    return replace(scene, things=tuple(moved))


def plan_of(scenes: Sequence[Scene]) -> np.ndarray:
    """Give the pictures of settled scenes cut into places.

    Outputs: float32 (N, places, values of a place), -1 to 1.
    """
    cell = PLAN_SIDE // GRID
    pictures = render([settle(scene) for scene in scenes], PLAN_SIDE).astype(np.float32) / 127.5 - 1
    cells = pictures.reshape(-1, GRID, cell, GRID, cell, 3).transpose(
        0, 1, 3, 2, 4, 5
    )  # n, row, column, y, x, rgb
    return cells.reshape(len(scenes), PLACES, cell * cell * 3)


def save_head(folder: Path, head: Any) -> None:
    """Write the linear head, in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"weight": head.weight.detach().half().contiguous(), "bias": head.bias.detach().half()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def draw_captions(
    rng: np.random.Generator, count: int, *, dropped: float
) -> tuple[list[Scene], list[str]]:
    """Draw scenes that are not held out and captions for them, a part ``dropped`` of the captions
    empty.
    """
    scenes = [draw_scene(rng) for _ in range(count)]
    return scenes, [
        "" if rng.random() < dropped else caption(scene, rng if rng.random() < 0.7 else None)
        for scene in scenes
    ]


def train_text_encoder(
    scratch: Path,
    *,
    steps: int = 4000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    width: int = 128,
    layers: int = 4,
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train the text encoder and write ``tokenizer/``, ``text_encoder/`` and ``plan/``, the head,
    into ``scratch/imagen``.

    Outputs: yields (steps done, steps in all, a note) after each step; returns the folder.
    """
    import torch

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer, width=width, layers=layers)
    head = torch.nn.Linear(width, (PLAN_SIDE // GRID) ** 2 * 3)
    network = torch.nn.ModuleDict({"encoder": encoder, "head": head})
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
        scenes, captions = draw_captions(
            np.random.default_rng((seed, step)), batch_size, dropped=0.03
        )
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        length = int(
            tokens.attention_mask.sum(1).max()
        )  # the rest is padding: the same result, sooner
        states = encoder(
            input_ids=tokens.input_ids[:, :length], attention_mask=tokens.attention_mask[:, :length]
        ).last_hidden_state
        return {
            "loss": torch.nn.functional.mse_loss(
                head(states[:, :PLACES]), torch.from_numpy(plan_of(scenes))
            )
        }

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    folder = scratch / "imagen"
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    save_head(folder / "plan", head)
    write_index(folder)
    return folder
