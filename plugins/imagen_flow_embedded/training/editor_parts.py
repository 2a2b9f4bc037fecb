"""The parts of the editor, untrained: its tokenizer, text encoder, the heads that read instructions,
its two UNets and their schedule; and how they are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_flow_embedded.asks import OWN_WORDS, alike
from imagen_flow_embedded.inference.editing import (
    CLOSE_FOLD,
    GROUNDS,
    LAYERS,
    TOKENS,
    WHOLE_FOLD,
    coordinates,
)
from imagen_flow_embedded.inference.reading import FACTS
from imagen_flow_embedded.language import VOCABULARY
from imagen_flow_embedded.world import COLOURS

if TYPE_CHECKING:
    from diffusers import DDIMScheduler
    from transformers import PreTrainedTokenizerFast

LENGTH = 36
"""Tokens an instruction is padded or cut to, sentinels included."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Give a tokenizer of the words of prompts and instructions: lower case, no punctuation,
    synonyms as one word, sentinels before the words.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{index}>" for index in range(len(FACTS))]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    read_as = alike()
    words = sorted(
        {read_as.get(word, word) for word in (*VOCABULARY, *OWN_WORDS) if word.isalpha()}
    )
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("-+>|=+>?|→|⇒"), " to "),
            normalizers.Replace(Regex("[&+]"), " and "),
            normalizers.Replace(Regex(r"[^\p{L}\p{N} ]"), " "),
            *(normalizers.Replace(Regex(rf"\b{word}\b"), read) for word, read in alike().items()),
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


def build_plan(width: int, features: int) -> Any:
    """Give untrained heads, which read an instruction off the sentinels, and for each UNet a
    projection of what it says onto tokens; and the head that reads colours off a close-up's features.
    """
    from torch import nn

    said = sum(map(len, FACTS.values()))
    heads = {fact: nn.Linear(width, len(values)) for fact, values in FACTS.items()}
    return nn.ModuleDict(
        {
            "heads": nn.ModuleDict(heads),
            "unet": nn.Linear(said, TOKENS * width),
            "close_up": nn.Linear(said, TOKENS * width),
            "colours": nn.Conv2d(features, len(GROUNDS) + len(COLOURS), 1),
        }
    )


def build_unet(side: int, channels: tuple[int, ...], text_width: int, *, close: bool) -> Any:
    """Give an untrained UNet over blocks of pixels, the noisy picture's and the source's side by
    side; words reach the two coarsest levels, and all levels beside the time.

    Params:
        close: sees half the side in finer blocks, has coordinates besides, and gives a mask.
    """
    from diffusers import UNet2DConditionModel

    plain = max(1, len(channels) - 2)
    below = len(channels) - plain
    fold, given, painted = WHOLE_FOLD, 3 * WHOLE_FOLD**2, 3 * WHOLE_FOLD**2
    if close:
        fold, painted = CLOSE_FOLD, LAYERS * CLOSE_FOLD**2
        given = 3 * CLOSE_FOLD**2 + coordinates(1).shape[1]
    unet = UNet2DConditionModel(
        sample_size=side // (2 if close else 1) // fold,
        in_channels=painted + given,
        out_channels=painted,
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
    unet.conv_in.weight.data[:, :painted] *= 0.1
    unet.conv_out.weight.data *= 0.1
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


def write(
    parts: dict[str, Any], plan: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> Path:
    """Save the model's parts in diffusers' layout, weights in half precision."""
    import copy
    import json

    import diffusers
    from safetensors.torch import save_file

    for name, part in parts.items():
        copy.deepcopy(part).half().save_pretrained(folder / name)
    (folder / "plan").mkdir(parents=True, exist_ok=True)
    half = {name: value.half().contiguous() for name, value in plan.state_dict().items()}
    save_file(half, folder / "plan" / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder / "tokenizer")
    build_schedule().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "InstructPix2Pix",
        "_diffusers_version": diffusers.__version__,
        "close_up": ["diffusers", "UNet2DConditionModel"],
        "plan": ["torch.nn", "Linear"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder
