"""The editor's training: a diffusion model changes a picture by an instruction, as InstructPix2Pix
does, with the source beside the noise.

What is slow to learn from scratch is *whom the words mean*, and then fine detail. Six things make
them come early:

- what is diffused is not the edited picture but half its difference from the source: nothing need
  be copied, and doing nothing is zero;
- an edit of this world has one right answer, so predicting it from pure noise is already the whole
  task; three in four noise levels are drawn there;
- the instruction ends up in four sentinel tokens which, in an auxiliary lesson, say what is asked,
  of which shape, of which colour, and the new value;
- two grids inside the UNet are asked what stands in each cell before and after, which teaches
  seeing and binding far faster than pixels do;
- changed and unchanged pixels weigh the same for each picture, or changing nothing would be a hard
  plateau to leave;
- the noise starts with a tenth of the source's weight in the first convolution: at equal weight it
  drowns what there is to copy.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagen_flow_embedded.training.keeper import Keeper
from imagen_flow_embedded.training.pictures import CLASSES, FACTS, cells, wear_alike
from imagen_flow_embedded.world import (
    BACKGROUNDS,
    COLOURS,
    EDIT_KINDS,
    SHAPES,
    SIZES,
    Edit,
    draw_edit,
    draw_scene,
    render,
)

if TYPE_CHECKING:
    import torch
    from diffusers import DDIMScheduler
    from transformers import PreTrainedTokenizerFast

BLOCK = 4
"""A pixel of the UNet's input is a block of this side, unshuffled into channels."""
VALUES = (*COLOURS, *SHAPES, *SIZES, *BACKGROUNDS)
SAID = {
    "kind": ("nothing", *EDIT_KINDS),
    "shape": ("any", *SHAPES),
    "colour": ("any", *COLOURS),
    "value": ("none", *VALUES),
}
"""What the sentinel tokens are asked, in their order, and the answers they choose from."""
LENGTH = 20
"""Tokens an instruction is padded or cut to, sentinels included."""


def train_edit(
    scratch: Path,
    *,
    steps: int = 5000,
    reading_steps: int = 400,
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
    Params:
        steps: of all training; the first ``reading_steps`` of them teach the text encoder alone.
        side: of the pictures that it works on: a multiple of 4, and as often of 2 as there are
            halvings between ``channels``.
        channels: of the UNet's levels, from the finest.
        every_s: seconds between checkpoints.
    Outputs: yields (steps done, steps, losses); returns the folder of the model.
    """
    import torch

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    learner = torch.nn.ModuleDict(
        {
            "text_encoder": build_text_encoder(tokenizer, text_width),
            "unet": build_unet(side // BLOCK, channels, text_width),
            "said": torch.nn.ModuleDict(
                {name: torch.nn.Linear(text_width, len(answers)) for name, answers in SAID.items()}
            ),
            "before": torch.nn.Conv2d(channels[-2], sum(CLASSES.values()) + 2, 1),
            "after": torch.nn.Conv2d(channels[-2], sum(CLASSES.values()), 1),
        }
    )
    schedule = build_schedule()
    optimizer = torch.optim.AdamW(
        learner.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    settings = {
        "what": "edit",
        "steps": steps,
        "reading_steps": reading_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "side": side,
        "channels": list(channels),
    }
    keeper = Keeper(scratch, learner, optimizer, settings, decay=0.995, every_s=every_s)
    learner.train()

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, step))
        if step < reading_steps:
            return _reading_losses(
                learner, tokenizer, [_draw(rng) for _ in range(4 * batch_size)], rng
            )
        return _painting_losses(
            learner, tokenizer, schedule, [_draw(rng) for _ in range(batch_size)], rng, side
        )

    yield from keeper.train(
        steps, losses, lambda step: learning_rate * _rate(step, reading_steps, steps)
    )
    return write(learner["unet"], learner["text_encoder"], tokenizer, schedule, scratch / "edit")


def _draw(rng: np.random.Generator) -> Edit:
    """Draw an edit; one in twenty-five has no words and asks for nothing."""
    if rng.random() < 0.04:
        scene = draw_scene(rng, held_out=False)
        return Edit("", scene, scene, "nothing")
    return draw_edit(rng, held_out=False)


# --- what is learnt
# --------------------------------------------------------------------------------------------------------------


def _reading_losses(
    learner: Any,
    tokenizer: PreTrainedTokenizerFast,
    edits: Sequence[Edit],
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    ids, mask = tokens(tokenizer, [_spoken(edit.instruction, rng) for edit in edits])
    return {"said": _said_loss(learner, read(learner["text_encoder"], ids, mask), edits)}


def _painting_losses(
    learner: Any,
    tokenizer: PreTrainedTokenizerFast,
    schedule: DDIMScheduler,
    edits: Sequence[Edit],
    rng: np.random.Generator,
    side: int,
) -> dict[str, torch.Tensor]:
    import torch
    from torch.nn import functional as F

    ids, mask = tokens(tokenizer, [_spoken(edit.instruction, rng) for edit in edits])
    text = read(learner["text_encoder"], ids, mask)

    before, after = (
        render([getattr(edit, when) for edit in edits], side) for when in ("before", "after")
    )
    changed = torch.from_numpy((before != after).any(-1))
    unet = learner["unet"]
    source, wanted = (_channels(pictures) for pictures in wear_alike(before, after, rng))
    near = F.max_pool2d(
        changed[:, None].float(), 9, stride=1, padding=4
    )  # elsewhere the source's wear is to stay
    target = (wanted - source) / 2 * F.pixel_unshuffle(near.expand(-1, 3, -1, -1), BLOCK)
    levels = np.where(
        rng.random(len(edits)) < 0.75,
        rng.integers(980, 1000, len(edits)),
        rng.integers(0, 1000, len(edits)),
    )
    noise = torch.from_numpy(rng.standard_normal(target.shape, np.float32))
    noisy = schedule.add_noise(target, noise, torch.from_numpy(levels))

    seen: dict[str, torch.Tensor] = {}
    # of the last level but one: what goes over its skip on the way down, and what leaves it on the
    # way up
    hooks = [
        unet.down_blocks[-2].register_forward_hook(
            lambda _module, _inputs, outputs: seen.update(before=outputs[1][0])
        ),
        unet.up_blocks[1].register_forward_hook(
            lambda _module, _inputs, outputs: seen.update(after=outputs)
        ),
    ]
    try:
        painted = unet(
            torch.cat([noisy, source], 1),
            torch.from_numpy(levels),
            text,
            encoder_attention_mask=mask,
        ).sample
    finally:
        for hook in hooks:
            hook.remove()

    missed = 2 * F.pixel_shuffle(painted - target, BLOCK)
    error = (missed.square() + 0.5 * missed.abs()).mean(1)  # the absolute part keeps edges sharp
    pixels = _mean_where(error, changed) + _mean_where(error, ~changed)

    coarse = seen["before"].shape[-1]
    moved = F.adaptive_avg_pool2d(changed[:, None].float(), coarse)[:, 0] > 0.2
    answers = learner["before"](seen["before"])
    old = _cells_loss(answers[:, 2:], cells([edit.before for edit in edits], coarse), None)
    old = old + F.cross_entropy(answers[:, :2], moved.long())
    fine = seen["after"].shape[-1]
    weights = 1 + 4 * (F.adaptive_avg_pool2d(changed[:, None].float(), fine)[:, 0] > 0.2)
    new = _cells_loss(
        learner["after"](seen["after"]), cells([edit.after for edit in edits], fine), weights
    )
    return {
        "pixels": 2 * pixels,
        "said": 0.2 * _said_loss(learner, text, edits),
        "before": 0.15 * old,
        "after": 0.15 * new,
    }


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Average over the chosen pixels of each picture, then over pictures; a region below a fiftieth
    of the picture counts as one.
    """
    count = chosen.flatten(1).sum(1).clamp_min(chosen[0].numel() // 50)
    return ((values * chosen).flatten(1).sum(1) / count).mean()


def _cells_loss(
    answers: torch.Tensor, grids: dict[str, np.ndarray], weights: torch.Tensor | None
) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    total = torch.zeros(())
    for fact, part in zip(FACTS, answers.split([CLASSES[fact] for fact in FACTS], 1), strict=True):
        each = F.cross_entropy(part, torch.from_numpy(grids[fact]), reduction="none")
        total = total + (each.mean() if weights is None else (each * weights).sum() / weights.sum())
    return total


def _said_loss(learner: Any, text: torch.Tensor, edits: Sequence[Edit]) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    facts = [_said(edit) for edit in edits]
    total = torch.zeros(())
    for index, (name, answers) in enumerate(SAID.items()):
        wanted = torch.tensor([answers.index(fact[name]) for fact in facts])
        total = total + F.cross_entropy(learner["said"][name](text[:, index]), wanted)
    return total


def _said(edit: Edit) -> dict[str, str]:
    """Say what an instruction asks for, as the sentinels are to: what kind of change, of which
    shape and colour if it names them, to which value.
    """
    fact = {"kind": edit.kind, "shape": "any", "colour": "any", "value": "none"}
    if edit.kind == "background":
        return fact | {"value": edit.after.background}
    gone = [thing for thing in edit.before.things if thing not in edit.after.things]
    if not gone:
        return fact
    fact["shape"] = gone[0].shape
    if f"{gone[0].colour} {gone[0].shape}" in edit.instruction:
        fact["colour"] = gone[0].colour
    if edit.kind != "remove":
        (came,) = (thing for thing in edit.after.things if thing not in edit.before.things)
        fact["value"] = getattr(came, edit.kind)
    return fact


def _rate(step: int, reading_steps: int, steps: int) -> float:
    """Give the learning rate's factor: each stage warms up; painting holds 1 for three fifths of
    its steps, then falls in a line.
    """
    if step < reading_steps:
        return min(1.0, (step + 1) / 50)
    part = (step - reading_steps) / (steps - reading_steps)
    return min(1.0, (step - reading_steps + 1) / 100) * (1 - 0.98 * max(0.0, (part - 0.6) / 0.4))


# --- words
# -----------------------------------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Give a tokenizer of the instructions' words: lower case, no punctuation, near words brought
    to the world's, sentinels before the words.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{index}>" for index in range(len(SAID))]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    verbs = (
        "make",
        "change",
        "turn",
        "remove",
        "delete",
        "erase",
        "into",
        "to",
        "the",
        "a",
        "an",
        "background",
        "smaller",
        "larger",
    )
    words = sorted({*verbs, *COLOURS, *BACKGROUNDS, *SHAPES, *SIZES})
    vocabulary = {word: number for number, word in enumerate(special + words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    near = {
        "grey": "gray",
        "big": "large",
        "bigger": "larger",
        "little": "small",
        "tiny": "small",
        "disc": "circle",
        "disk": "circle",
        "violet": "purple",
    }
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{N} ]"), " "),
            *(normalizers.Replace(Regex(rf"\b{word}\b"), ours) for word, ours in near.items()),
        ]
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=" ".join([*sentinels, "$A", "</s>"]),
        special_tokens=[(word, vocabulary[word]) for word in ("</s>", *sentinels)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=sentinels,
        model_max_length=LENGTH,
    )


def tokens(
    tokenizer: PreTrainedTokenizerFast, instructions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give token ids and mask, both (N, LENGTH)."""
    found = tokenizer(
        list(instructions),
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    return found["input_ids"], found["attention_mask"]


def read(text_encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give the hidden states (N, LENGTH, width) of an instruction, zero where there is no word."""
    return text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]


def _spoken(instruction: str, rng: np.random.Generator) -> str:
    """Put a word that the tokenizer does not know into an instruction now and then, or in the place
    of its verb.
    """
    words, chance = instruction.split(), rng.random()
    if words and chance < 0.08:
        words.insert(int(rng.integers(len(words) + 1)), "unknownword")
    elif words and chance < 0.12 and words[0] in ("make", "change", "turn"):
        words[0] = "unknownword"
    return " ".join(words)


# --- the model
# -------------------------------------------------------------------------------------------------------------------


def build_text_encoder(tokenizer: PreTrainedTokenizerFast, width: int) -> Any:
    """Give an untrained T5 encoder for instructions."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=32,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build_unet(side: int, channels: tuple[int, ...], text_width: int) -> Any:
    """Give an untrained UNet over blocks of pixels, the noisy picture's and the source's side by
    side; words reach the two coarsest levels.
    """
    from diffusers import UNet2DConditionModel

    plain = max(1, len(channels) - 2)
    below = len(channels) - plain
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=2 * 3 * BLOCK**2,
        out_channels=3 * BLOCK**2,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * below,
        up_block_types=("CrossAttnUpBlock2D",) * below + ("UpBlock2D",) * plain,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        time_embedding_dim=2 * text_width,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    unet.conv_in.weight.data[:, : unet.config.out_channels] *= 0.1
    unet.conv_out.weight.data.zero_()
    unet.conv_out.bias.data.zero_()
    return unet


def build_schedule() -> DDIMScheduler:
    """Give the noise schedule: cosine, predicting the picture itself."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def _channels(pictures: np.ndarray) -> torch.Tensor:
    """Bring uint8 (N, H, W, 3) to -1..1, blocks of pixels as channels (N, 3 · BLOCK², H / BLOCK, W
    / BLOCK).
    """
    import torch
    from torch.nn import functional as F

    return F.pixel_unshuffle(
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1, BLOCK
    )


def write(
    unet: Any,
    text_encoder: Any,
    tokenizer: PreTrainedTokenizerFast,
    schedule: DDIMScheduler,
    folder: Path,
) -> Path:
    """Save the model's parts in diffusers' layout, weights in half precision."""
    import copy
    import json

    import diffusers

    copy.deepcopy(unet).half().save_pretrained(folder / "unet")
    copy.deepcopy(text_encoder).half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    schedule.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "InstructPix2Pix",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder
