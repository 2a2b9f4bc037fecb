"""Summaries are those of the library, of texts of any length."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imagen_flow as flow
from imagen_flow.loaders import Loading
from imagen_flow_language import tiny
from imagen_flow_language.passages import passages, readable
from imagen_flow_language.summarising import KINDS, SummariserLoader, summarise
from imagen_flow_language.writers import Writer

#: What makes the models that `folder_of` gives.
MAKERS = tiny.MAKERS

TEXT = "A red cat sat on a hill. It was big, (really!)"
LONG = " ".join(f"Number {n} of the cats sat on hill {n % 7}." for n in range(30))


def load(folder: Path) -> Writer:
    model = flow.Model(folder, "any", f"./{folder.name}")
    SummariserLoader().check(model)
    return SummariserLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def result(steps: Any) -> tuple[list[str], Any]:
    """Run a node to its end and give its notes and its output."""
    notes = []
    while True:
        try:
            notes += filter(None, [next(steps).note])
        except StopIteration as ended:
            return notes, ended.value


def by_hand(folder: Path, text: str, **settings: Any) -> str:
    """What the library itself makes of a text."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = (
        cls.from_pretrained(folder) for cls in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )
    with torch.no_grad():
        ids = model.generate(**tokenizer(text, return_tensors="pt"), do_sample=False, **settings)
    return str(tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"t5"}))
def test_a_summary_is_that_of_the_library(
    folder_of: Callable[[str], Path], kind: str, beams: int
) -> None:
    """A text that the model reads at once gets the words of the library's own generate."""
    folder = folder_of(kind)
    _, found = result(summarise(load(folder), TEXT, min_tokens=4, max_tokens=9, num_beams=beams))
    assert found == by_hand(folder, TEXT, min_new_tokens=4, max_new_tokens=9, num_beams=beams)
    assert found


def test_t5_gets_its_prefix_and_the_settings_of_its_task(
    folder_of: Callable[[str], Path],
) -> None:
    """What T5's configuration states for summaries holds, unless a param says otherwise."""
    folder = folder_of("t5")
    task = json.loads((folder / "config.json").read_text())["task_specific_params"]
    settings = dict(task["summarization"])
    prefix = settings.pop("prefix")
    _, found = result(summarise(load(folder), TEXT))
    assert found == by_hand(folder, prefix + TEXT, **settings)
    _, other = result(summarise(load(folder), TEXT, num_beams=1, max_tokens=30))
    del settings["max_length"]
    assert other == by_hand(
        folder, prefix + TEXT, **{**settings, "num_beams": 1}, max_new_tokens=30
    )


def test_a_model_that_states_no_lengths_writes_as_much_as_it_can(
    folder_of: Callable[[str], Path],
) -> None:
    """128 tokens, or fewer if its decoder has no more positions."""
    folder = folder_of("bart")
    _, found = result(summarise(load(folder), TEXT))
    assert found == by_hand(folder, TEXT, max_new_tokens=127, num_beams=1)


def test_a_long_text_is_read_in_passages_and_summarised_again(
    folder_of: Callable[[str], Path],
) -> None:
    """Each passage is summarised by the library, and their summaries again, until one is left; the
    note says in how many the text was read.
    """
    folder = folder_of("bart")
    model = load(folder)
    texts, sizes = [LONG], []
    while len(texts) > 1 or not sizes:
        texts = model.passages("\n".join(texts))
        sizes.append(len(texts))
        texts = [by_hand(folder, t, max_new_tokens=4, num_beams=1) for t in texts]
    notes, found = result(summarise(model, LONG, max_tokens=4, num_beams=1))
    assert found == texts[0]
    assert notes == [
        "the text is longer than the 128 tokens that the model reads at once: it is read in"
        f" {sizes[0]} passages"
    ]
    assert sizes[0] > 5
    _, joined = result(summarise(model, LONG, max_tokens=4, num_beams=1, combine="join"))
    assert joined == "\n".join(
        by_hand(folder, t, max_new_tokens=4, num_beams=1) for t in model.passages(LONG)
    )


def test_summaries_that_do_not_get_shorter_end(folder_of: Callable[[str], Path]) -> None:
    """A model that writes as much as it reads is not asked for ever."""
    notes, found = result(
        summarise(load(folder_of("mt5")), LONG[:400], min_tokens=120, max_tokens=120, num_beams=1)
    )
    assert notes[-1] == "the summaries do not get shorter, so they are joined; lower max_tokens"
    assert found.count("\n") == 3


@given(st.text(alphabet="ab .!?\n。éß", max_size=300), st.integers(3, 40))
def test_passages_leave_out_nothing_but_white_space(text: str, window: int) -> None:
    """Every letter of a text is in a passage, in order, and each passage fits."""
    found = passages(text, lambda part: len(part) + 2, window)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(part) + 2 <= window for part in found) or found == [text]


def test_passages_end_with_sentences() -> None:
    """Sentences stay whole where they fit, in languages without spaces too; a long word is cut."""
    count = len
    assert passages('He said "no." So (it is!) Done? Yes', count, 16) == [
        'He said "no."',
        "So (it is!)",
        "Done? Yes",
    ]
    assert passages("一只猫。在山上！她说：“好。”又一只。", count, 9) == [
        "一只猫。在山上！",
        "她说：“好。”",
        "又一只。",
    ]
    assert passages("a bb cc dddddddddd", count, 5) == ["a bb", "cc", "ddddd", "ddddd"]


@pytest.mark.parametrize("text", ["." * 50_000, "?!" * 20_000 + "\n", ')"' * 20_000, "猫" * 20_000])
def test_runs_of_marks_are_cut_in_a_moment(text: str) -> None:
    """A text that is no text does not take for ever."""
    assert "".join(passages(text, len, 512)) == text.strip()


def test_two_hundred_pages_are_read_whole() -> None:
    """An article of 200 pages is cut into passages of its sentences, in a moment."""
    sentence = "The quick brown fox jumps over the lazy dog near the river bank. "
    text = sentence * 10_000
    found = passages(text, lambda part: len(part.split()) + 2, 512)
    assert len(found) == 10_000 // 39 + 1
    assert " ".join(found) == text.strip()


def test_nothing_is_left_in_the_model_or_in_torch(folder_of: Callable[[str], Path]) -> None:
    """A summary is the same again, and leaves generator and settings as they were."""
    import torch

    model = load(folder_of("bart"))
    before = torch.get_rng_state(), str(model.model.generation_config)
    first = result(summarise(model, TEXT, max_tokens=9, num_beams=4))
    assert result(summarise(model, TEXT, max_tokens=9, num_beams=4)) == first
    after = torch.get_rng_state(), str(model.model.generation_config)
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


def test_a_model_that_samples_by_its_own_settings_does_not_here(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """A checkpoint whose settings ask for chance and lengths gives the likeliest words, within
    these lengths.
    """
    folder = tmp_path / "sampling"
    shutil.copytree(folder_of("bart"), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 0.7, "top_k": 5, "max_length": 9, "num_beams": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    _, found = result(summarise(load(folder), TEXT))
    assert found == by_hand(folder_of("bart"), TEXT, max_length=9, num_beams=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "port 'text' is empty; there is nothing to read"),
        (" \n\t\x00 ", "port 'text' is empty; there is nothing to read"),
        ("a\ud800b", "port 'text' is not valid Unicode: it has half a character; fix its source"),
        (
            "a" * 5_000_001,
            "port 'text' has 5,000,001 characters, more than can be read (5,000,000)",
        ),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(
    folder_of: Callable[[str], Path], text: str, message: str
) -> None:
    """The message says why."""
    with pytest.raises(ValueError) as refused:
        readable(text, load(folder_of("bart")).tokenizer)
    assert str(refused.value) == message


def test_control_characters_are_spaces(folder_of: Callable[[str], Path]) -> None:
    """A text from a damaged file reads as if they were spaces."""
    model = load(folder_of("pegasus"))
    assert result(summarise(model, "a\x00cat\x1b[0m\x07", max_tokens=5)) == result(
        summarise(model, "a cat [0m ", max_tokens=5)
    )


def test_words_that_a_model_does_not_know_are_told(folder_of: Callable[[str], Path]) -> None:
    """A text in a script that the model never saw has a note."""
    notes, _ = result(summarise(load(folder_of("mt5")), "Рыжий кот sat.", max_tokens=5))
    assert notes == ["unknown to the text encoder: 'Рыжий', 'кот'"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"min_tokens": 9, "max_tokens": 5},
            "min_tokens (9) is more than max_tokens (5); swap them, or raise max_tokens",
        ),
        (
            {"max_tokens": 128},
            "the model writes at most 127 tokens, not 128; lower max_tokens",
        ),
    ],
)
def test_lengths_that_cannot_be_are_refused(
    folder_of: Callable[[str], Path], params: dict[str, int], message: str
) -> None:
    """The message names both bounds."""
    with pytest.raises(ValueError) as refused:
        list(summarise(load(folder_of("bart")), TEXT, **params))
    assert str(refused.value) == message


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The message says what it is, and what could be used."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(flow.ModelError) as refused:
        SummariserLoader().check(flow.Model(tmp_path, "any", "./m"))
    assert str(refused.value) == (
        "text.summarise cannot use the model './m': it is a gpt2, but text.summarise supports bart,"
        " mt5, pegasus, t5"
    )


def test_summarising_prints_nothing(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """No library writes over the run's display, not of lengths that a checkpoint states besides."""
    folder = tmp_path / "beams"
    shutil.copytree(folder_of("bart"), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"early_stopping": True, "length_penalty": 2.0, "num_beams": 4, "max_length": 20}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    code = (
        "from pathlib import Path\nimport imagen_flow as flow\n"
        "from imagen_flow_language.summarising import SummariserLoader, summarise\n"
        "from imagen_flow.loaders import Loading\n"
        f"model = flow.Model(Path({str(folder)!r}), 'x', 'x')\n"
        "model = SummariserLoader().load(model, device='cpu', dtype='float32', settings=Loading())\n"
        "list(summarise(model, 'a cat', num_beams=1, max_tokens=5))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")
