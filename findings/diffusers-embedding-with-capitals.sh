#!/usr/bin/env bash
# diffusers 0.42.1: capitals in the word of a textual inversion, where it is loaded or in the prompt, leave its first vector alone in use.
#
# Guess:  the word that an embedding is loaded under stands for all of its vectors in a prompt, for "<Cat>" as for "<cat>".
# Fact:   CLIP's tokenizer also lowers words that were added to it, so "<Cat>" is found as "<cat>" and becomes one token, the first vector.
#         The other vectors enter where the prompt's text is expanded, and there the word is compared as it was loaded and replaced as
#         it is written: that succeeds only if both are in small letters. Nothing warns; loading succeeds, and the picture does change.
# Cost:   embeddings of 4 to 16 vectors that are called by their author's spelling ("EasyNegative") work at a fraction of their effect, and
#         it looks as if the embedding were weak.
# Remedy: load under a word in small letters, load_textual_inversion(file, token=name.lower()), and write it so in prompts.
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
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

folder = Path(sys.argv[1])
words = ["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
(folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
(folder / "merges.txt").write_text("#version: 0.2\n")


class Prompted(TextualInversionLoaderMixin):
    """What a pipeline is to its embeddings: a tokenizer and a text encoder."""

    hf_device_map = None
    components: dict[str, object] = {}

    def __init__(self) -> None:
        self.tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
        size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
        self.text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, **size))


def vectors_used(loaded_as: str, prompted_as: str) -> int:
    pipeline = Prompted()
    pipeline.load_textual_inversion({loaded_as: torch.ones(3, 8)})
    numbers = pipeline.tokenizer(pipeline.maybe_convert_prompt(f"a {prompted_as}", pipeline.tokenizer)).input_ids
    return sum(number >= len(words) for number in numbers)


print("diffusers", diffusers.__version__, "transformers", transformers.__version__)
cases = [("<cat>", "<cat>"), ("<cat>", "<Cat>"), ("<Cat>", "<Cat>"), ("<Cat>", "<cat>")]
seen = [vectors_used(*case) for case in cases]
for (loaded_as, prompted_as), count in zip(cases, seen):
    print(f"loaded as {loaded_as}, prompted as {prompted_as}: guessed 3 of 3 vectors, seen {count}")
if seen != [3, 1, 1, 1]:
    sys.exit("the behaviour has changed")
PY
