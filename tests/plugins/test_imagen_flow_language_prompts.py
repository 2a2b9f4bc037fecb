"""Language models expand prompts as the library samples, and only as the seed says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow.loaders import Loading
from imagen_flow_language import tiny
from imagen_flow_language.expanding import KINDS, Continuer, ContinuerLoader, expand

#: What makes the models that `folder_of` gives.
MAKERS = tiny.MAKERS

PROMPT = "a red cat"


def load(folder: Path) -> Continuer:
    model = flow.Model(folder, "any", f"./{folder.name}")
    ContinuerLoader().check(model)
    return ContinuerLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def result(steps: Any) -> tuple[str, str]:
    """Run a node to its end and give its note and its output."""
    note = next(steps).note
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return note, ended.value.value


def by_hand(folder: Path, inputs: Any, *, seed: int, **settings: Any) -> str:
    """What the library itself writes after the inputs, by the generator of the process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        ids = model.generate(
            **inputs(tokenizer), pad_token_id=0, do_sample=True, max_new_tokens=20, **settings
        )
    start = inputs(tokenizer)["input_ids"].shape[1]
    return str(tokenizer.decode(ids[0, start:], skip_special_tokens=True))


def whole(words: str) -> str:
    """What is left without a last word that may be cut."""
    words = words.rstrip("\ufffd")
    return words.rstrip().rpartition(" ")[0].rstrip() or words if " " in words.strip() else words


SETTINGS = [
    {"temperature": 0.7, "top_k": 10, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_is_that_of_the_library(
    folder_of: Callable[[str], Path], kind: str, settings: dict[str, float]
) -> None:
    """The tokens are those that the library samples after its own manual seed, and the prompt stays
    as it was.
    """
    model = load(folder_of(kind))
    texts = set()
    for seed in range(4):
        _, found = result(expand(model, PROMPT, seed=seed, max_tokens=20, **settings))
        words = by_hand(
            folder_of(kind), lambda t: t(PROMPT, return_tensors="pt"), seed=seed, **settings
        )
        assert found in (
            (PROMPT + words.partition("\n")[0]).strip(),
            (PROMPT + whole(words.partition("\n")[0])).strip(),
        )
        texts.add(found)
    assert len(texts) > 2


def test_an_answer_is_that_of_the_library(folder_of: Callable[[str], Path]) -> None:
    """The instruction and the prompt are one message of a chat; the day that the template names is
    always the same.
    """
    folder, settings = folder_of("qwen2"), SETTINGS[0]
    written = (
        "<|im_start|>system\nToday is 01 Jan 2026.<|im_end|>\n<|im_start|>user\nDescribe it:\n\n"
        f"{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    note, found = result(
        expand(load(folder), PROMPT, seed=5, instruction="Describe it:", max_tokens=20, **settings)
    )
    words = by_hand(folder, lambda t: t(written, return_tensors="pt"), seed=5, **settings)
    assert found in (f"{PROMPT}, {words.strip()}", f"{PROMPT}, {whole(words).strip()}")
    assert note.startswith("the answer lacks ") and note.endswith(
        "which therefore stands before it"
    )


def test_the_likeliest_tokens_need_no_seed(folder_of: Callable[[str], Path]) -> None:
    """At temperature 0 all seeds give the same."""
    model = load(folder_of("gpt2"))
    found = {result(expand(model, PROMPT, seed=s, temperature=0, max_tokens=9)) for s in (1, 2)}
    assert len(found) == 1


def test_nothing_is_left_in_torch_or_the_model(folder_of: Callable[[str], Path]) -> None:
    """The generator of the process stays where it was, and has no effect."""
    import torch

    model = load(folder_of("gpt2"))
    before = str(model.model.generation_config)
    first = result(expand(model, PROMPT, seed=3))
    torch.rand(3)
    state = torch.get_rng_state()
    assert result(expand(model, PROMPT, seed=3)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert str(model.model.generation_config) == before


def biased(model: Continuer, *words: str) -> Continuer:
    """A model that says these tokens in turn."""
    import torch

    ids = [model.tokenizer.convert_tokens_to_ids(word) for word in words]
    count = 0

    def say(_module: Any, _inputs: Any, logits: Any) -> Any:
        nonlocal count
        count += 1
        return torch.full_like(logits, -10.0).index_fill(
            -1, torch.tensor([ids[min(count, len(ids)) - 1]]), 10.0
        )

    model.model.get_output_embeddings().register_forward_hook(say)
    return model


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((",", "Ġ", "o", "l", "d", "Ċ", "x"), "a red cat, old"),
        ((",", "Ġ", "o", "l", "d", "<|endoftext|>"), "a red cat, old"),
        ((",", "Ġ", "o", "l", "d", "Ġ", "b"), "a red cat, old"),
    ],
)
def test_a_continuation_ends(
    folder_of: Callable[[str], Path], words: tuple[str, ...], text: str
) -> None:
    """It ends with the line, with the model's mark of the end, or where the last word is cut."""
    model = biased(load(folder_of("gpt2")), *words)
    assert result(expand(model, PROMPT, seed=1, max_tokens=12, top_k=1)) == ("", text)


def test_a_model_that_adds_nothing_returns_the_prompt(folder_of: Callable[[str], Path]) -> None:
    """A note says so."""
    model = biased(load(folder_of("gpt2")), "<|endoftext|>")
    assert result(expand(model, PROMPT, seed=1, top_k=1)) == ("the model adds nothing", PROMPT)


def test_an_answer_with_all_words_stands_alone_and_thoughts_are_left_out(
    folder_of: Callable[[str], Path],
) -> None:
    """Words are looked for in any case; what a model thinks aloud is no answer."""
    said = ["<", "t", "h", "i", "n", "k", ">", "x", "<", "/", "t", "h", "i", "n", "k", ">"]
    said += [{" ": "Ġ"}.get(letter, letter) for letter in "A Cat, red."] + ["<|im_end|>"]
    model = biased(load(folder_of("llama")), *said)
    assert result(expand(model, PROMPT, seed=1, instruction="Go:", top_k=1)) == ("", "A Cat, red.")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prompt": " "}, "port 'prompt' is empty; there is nothing to read"),
        (
            {"prompt": "a<|endoftext|>b"},
            "port 'prompt' has '<|endoftext|>', which the model reads as a mark of its own, not as"
            " text; remove it",
        ),
        (
            {"instruction": "Describe:"},
            "the model has no chat template, so it cannot be given an instruction; leave instruction"
            " out, and it continues the prompt",
        ),
        (
            {"prompt": "x" * 500},
            "the prompt has 500 tokens, and with max_tokens (60) they are more than the 512 that the"
            " model reads; shorten the prompt or lower max_tokens",
        ),
    ],
)
def test_what_cannot_be_expanded_is_refused(
    folder_of: Callable[[str], Path], params: dict[str, str], message: str
) -> None:
    """The message says why."""
    with pytest.raises(ValueError) as refused:
        list(expand(load(folder_of("gpt2")), **{"prompt": PROMPT, "seed": 1, **params}))
    assert str(refused.value) == message


def test_settings_of_the_checkpoint_do_not_sample(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """A checkpoint that states a temperature and a length of its own is used with those of the
    node.
    """
    folder = tmp_path / "stated"
    shutil.copytree(folder_of("gpt2"), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 3.0, "top_k": 1, "max_length": 12}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert result(expand(load(folder), PROMPT, seed=3)) == result(
        expand(load(folder_of("gpt2")), PROMPT, seed=3)
    )
