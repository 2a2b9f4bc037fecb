"""The captioner's training: a small vision transformer reads a picture, a small causal decoder
writes its words.

A picture has one caption (the left or the upper thing is named first), so that reading is a
function; a picture that shows none of the world's scenes has an empty one. Beside the words, every patch of the encoder is asked
what covers it: without that lesson a transformer of this size stays on the plateau of the commonest
    caption for long.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagen_flow_embedded.checker import agree, describe
from imagen_flow_embedded.training.foreign import draw_foreign
from imagen_flow_embedded.training.keeper import Keeper, rate_at
from imagen_flow_embedded.training.pictures import CLASSES, FACTS, bend, cells, ordered, wear
from imagen_flow_embedded.world import (
    Scene,
    caption,
    draw_scene,
    is_held_out,
    render,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


SIDE, PATCH = 64, 8
FOREIGN = 0.2
"""The part of each batch that shows none of the world's scenes; its caption is empty."""
RENDERED = 128
"""The side of the cascade's last picture, reduced to ``SIDE`` as at inference."""


def train_captioner(
    scratch: Path,
    *,
    steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    width: int = 128,
    encoder_layers: int = 4,
    decoder_layers: int = 2,
    made: Sequence[tuple[np.ndarray, Scene]] = (),
    start: Path | None = None,
    every_s: float = 150,
) -> Generator[tuple[int, int, str], None, Path]:
    """Train a captioner on rendered scenes, none of them held out, and write it as transformers
    does.

    Inputs:
        scratch: a folder that is kept between runs; training goes on from the checkpoint found
            there.
    Params:
        width: of both transformers.
        made: pictures that other models made, uint8 (RENDERED, RENDERED, 3), with what they show; a
            third of each batch is of these.
        start: a captioner that this wrote before, to go on from; its size is then this one's.
        every_s: seconds between checkpoints.
    Outputs: yields (steps done, steps, losses); returns the folder of the model.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = (
        load_model(start)
        if start
        else build_model(
            tokenizer, width=width, encoder_layers=encoder_layers, decoder_layers=decoder_layers
        )
    )
    width = model.config.encoder.hidden_size
    heads = torch.nn.ModuleDict({fact: torch.nn.Linear(width, CLASSES[fact]) for fact in FACTS})
    learner = torch.nn.ModuleDict({"model": model, "heads": heads})
    optimizer = torch.optim.AdamW(
        learner.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    settings = {
        "what": "captioner",
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "made": len(made),
        "start": start.name if start else None,
    }
    keeper = Keeper(scratch, learner, optimizer, settings, decay=0.999, every_s=every_s)
    model.train()

    def losses(step: int) -> dict[str, Any]:
        pixels, words, grids = _batch(
            np.random.default_rng((seed, step)), batch_size, tokenizer, made
        )
        seen = model.encoder(pixel_values=pixels)
        spoken = model(
            encoder_outputs=seen, labels=words.masked_fill(words == tokenizer.pad_token_id, -100)
        )
        patches = seen.last_hidden_state[:, 1:]
        known = (words[:, 0] != tokenizer.eos_token_id).repeat_interleave(patches.shape[1])
        # few patches are covered, and they are what is hard to read; of a foreign picture no patch
        # is asked
        covered = known * (1 + 5 * (grids["shape"].flatten() > 0))
        dense = torch.zeros(())
        for fact in FACTS:
            each = F.cross_entropy(
                heads[fact](patches).flatten(0, 1), grids[fact].flatten(), reduction="none"
            )
            dense = dense + (each * covered).sum() / covered.sum()
        return {"words": spoken.loss, "patches": 0.5 * dense}

    yield from keeper.train(steps, losses, lambda step: rate_at(step, steps, learning_rate))
    return write(model.eval(), tokenizer, scratch / "captioner")


def _batch(
    rng: np.random.Generator,
    count: int,
    tokenizer: PreTrainedTokenizerFast,
    made: Sequence[tuple[np.ndarray, Scene]],
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Give pixels (N, 3, SIDE, SIDE) in -1..1, token ids (N, L) and the grids of what covers each
    patch.
    """
    import torch

    shown = [made[int(index)] for index in rng.integers(len(made), size=count // 3)] if made else []
    foreign = round(count * FOREIGN)
    scenes = [_draw(rng) for _ in range(count - len(shown) - foreign)]
    sharp = render(scenes, SIDE) if rng.random() < 0.5 else shrink(render(scenes, RENDERED))
    if shown:
        sharp = np.concatenate([sharp, shrink(np.stack([picture for picture, _ in shown]))])
        scenes += [ordered(scene) for _, scene in shown]
    strange = [draw_foreign(rng, SIDE) for _ in range(foreign)]
    sharp = np.concatenate([sharp, *[picture[None] for picture in strange]])
    texts = [caption(scene) for scene in scenes] + [""] * foreign
    scenes += [Scene("black", ())] * foreign
    pixels = bend(normalise(wear(sharp, rng)), rng, (0, 0, 0.5, 1))
    words = tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
    return (
        pixels,
        words,
        {fact: torch.from_numpy(grid) for fact, grid in cells(scenes, SIDE // PATCH).items()},
    )


def shown_rightly(
    pictures: Sequence[np.ndarray], scenes: Sequence[Scene]
) -> list[tuple[np.ndarray, Scene]]:
    """Pick the made pictures that show what was asked for, each with its things where the checker
    finds them; they are brought to RENDERED.
    """
    from PIL import Image

    picked = []
    for picture, scene in zip(pictures, scenes, strict=True):
        found = describe(picture)
        seen = found.as_scene()
        if seen is not None and all(agree(scene, found).values()):
            picked.append(
                (
                    np.array(  # a copy: Pillow's own is read-only, which torch warns of
                        Image.fromarray(picture).resize(
                            (RENDERED, RENDERED), Image.Resampling.LANCZOS
                        )
                    ),
                    seen,
                )
            )
    return picked


def _draw(rng: np.random.Generator) -> Scene:
    """Draw a scene that is not held out; now and then a thing stands alone where another was
    removed.
    """
    while True:
        scene = draw_scene(rng, held_out=False)
        if len(scene.things) == 2 and rng.random() < 0.12:
            scene = replace(scene, things=(scene.things[int(rng.integers(2))],))
        if not is_held_out(scene):
            return ordered(scene)


def shrink(pictures: np.ndarray) -> np.ndarray:
    """Reduce uint8 (N, H, W, 3) to the encoder's side, as the image processor does (Pillow's
    bilinear, antialiased).
    """
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return x.round().byte().permute(0, 2, 3, 1).numpy()


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """Bring uint8 (N, H, W, 3) to -1..1, channels first."""
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Give a tokenizer of whole words: those of every caption of the world."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from imagen_flow_embedded.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = sorted(
        {
            "a",
            "an",
            "on",
            "background",
            *BACKGROUNDS,
            *COLOURS,
            *SHAPES,
            *SIZES,
            *(word for relation in RELATIONS for word in relation.split()),
        }
    )
    vocabulary = {word: number for number, word in enumerate(special + words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, width: int, encoder_layers: int, decoder_layers: int
) -> Any:
    """Give an untrained ``VisionEncoderDecoderModel`` of a ViT and a BERT decoder with
    cross-attention.
    """
    from transformers import (
        BertGenerationConfig,
        BertGenerationDecoder,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTModel,
    )

    shared = {
        "hidden_size": width,
        "num_attention_heads": max(1, width // 32),
        "intermediate_size": 3 * width,
    }
    steady = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = ViTModel(
        ViTConfig(
            image_size=SIDE, patch_size=PATCH, num_hidden_layers=encoder_layers, **shared, **steady
        )
    )
    numbers = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    decoder = BertGenerationDecoder(
        BertGenerationConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=32,
            num_hidden_layers=decoder_layers,
            is_decoder=True,
            add_cross_attention=True,
            **shared,
            **steady,
            **numbers,
        )
    )
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.max_length = 32
    return model


def load_model(folder: Path) -> Any:
    """Load a captioner's weights, in single precision."""
    import torch
    from transformers import VisionEncoderDecoderModel

    return VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer that was saved with a captioner."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def write(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Save model (half precision), tokenizer and image processor in one folder."""
    import copy

    from transformers import ViTImageProcessorPil

    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5]
    ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, resample=2, image_mean=mean, image_std=mean
    ).save_pretrained(folder)
    return folder
