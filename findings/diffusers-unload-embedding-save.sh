#!/usr/bin/env bash
# diffusers 0.42.1: a pipeline that a textual inversion was loaded into and unloaded from saves a text encoder that cannot be loaded.
#
# Guess:  unload_textual_inversion() undoes load_textual_inversion(), so save_pretrained() afterwards writes the pipeline as it was.
# Fact:   loading enlarges the table of words through transformers 5.23.0, which also raises vocab_size in the encoder's configuration.
#         Unloading puts a smaller table in and leaves vocab_size raised. The pipeline itself goes on drawing as before, and saving says
#         nothing; from_pretrained() then makes a table of the raised size, finds the saved one too small, and raises.
# Cost:   it shows only when the folder is read again, perhaps by someone else and after the original has gone. With
#         ignore_mismatched_sizes=True, which the error proposes, the whole table of words is made of random numbers.
# Remedy: after unloading, and in folders that were saved so: set config.vocab_size to get_input_embeddings().weight.shape[0].
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'torch==2.13.0' 'diffusers==0.42.1' 'transformers==5.23.0' 'tokenizers==0.23.3' 'accelerate==1.15.0'
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" - "$work" 2>"$work/log" <<'PY' || { cat "$work/log"; exit 1; }
import json
import string
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

folder = Path(sys.argv[1])
words = ["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
(folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
(folder / "merges.txt").write_text("#version: 0.2\n")
size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
pipeline = StableDiffusionPipeline(
    tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16),
    text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, **size)),
    unet=UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
    scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
)


def state(moment: str) -> tuple[int, int, str]:
    """Give the rows of the table, what the configuration says of them, and what comes of saving and loading."""
    pipeline.save_pretrained(folder / moment)
    try:
        read = StableDiffusionPipeline.from_pretrained(folder / moment, local_files_only=True)
        outcome = "loads" if torch.equal(read.text_encoder.get_input_embeddings().weight, pipeline.text_encoder.get_input_embeddings().weight) else "loads changed"
    except RuntimeError as error:
        outcome = f"RuntimeError: {error}"
    return pipeline.text_encoder.get_input_embeddings().weight.shape[0], pipeline.text_encoder.config.vocab_size, outcome


print("diffusers", diffusers.__version__, "transformers", transformers.__version__)
before = state("before")
pipeline.load_textual_inversion({"<cat>": torch.ones(3, 8)})
loaded = state("loaded")
pipeline.unload_textual_inversion()
after = state("after")
pipeline.text_encoder.config.vocab_size = after[0]
mended = state("mended")
for name, (rows, said, outcome) in (("before", before), ("loaded", loaded), ("unloaded", after), ("mended", mended)):
    print(f"{name}: {rows} words, vocab_size {said}; what is saved then: {outcome}")
print(f"guessed: 'unloaded' is {before}")
print(f"seen:    'unloaded' is {after}")
count = len(words)
right = before == mended == (count, count, "loads") and loaded == (count + 3, count + 3, "loads")
if not (right and after[:2] == (count, count + 3) and after[2].startswith("RuntimeError")):
    sys.exit("the behaviour has changed")
PY
