"""Translations are those of the library, into and out of the languages that a model has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow.loaders import Loading
from imagen_flow_language import tiny
from imagen_flow_language.scripts import scripts_in, scripts_of
from imagen_flow_language.translating import TranslatorLoader, translate
from imagen_flow_language.writers import Writer

#: What makes the models that `folder_of` gives.
MAKERS = tiny.MAKERS

CAT = "一只红色的猫在山上。"

#: For each kind of model: its languages as nodes are told of them, and as its tokenizer is.
LANGUAGES = {
    "marian": ({}, {}),
    "nllb": (
        {"source": "zho_Hans", "target": "eng"},
        {"src_lang": "zho_Hans", "forced": "eng_Latn"},
    ),
    "m2m_100": ({"source": "zh", "target": "en"}, {"src_lang": "zh", "forced": "__en__"}),
    "mbart": ({"source": "zh", "target": "en"}, {"src_lang": "zh_CN", "forced": "en_XX"}),
}


def load(folder: Path) -> Writer:
    model = flow.Model(folder, "any", f"./{folder.name}")
    loader = TranslatorLoader()
    loader.check(model)
    loader.check_support(model, device="cpu", dtype="float32", settings=Loading())
    return loader.load(model, device="cpu", dtype="float32", settings=Loading())


def result(steps: Any) -> tuple[list[str], Any]:
    """Run a node to its end and give its notes and its output."""
    notes = []
    while True:
        try:
            notes += filter(None, [next(steps).note])
        except StopIteration as ended:
            return notes, ended.value


def by_hand(
    folder: Path, text: str, *, src_lang: str = "", forced: str = "", **settings: Any
) -> str:
    """What the library itself makes of a text."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        tokenizer = AutoTokenizer.from_pretrained(
            folder, **({"src_lang": src_lang} if src_lang else {})
        )
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    if forced:
        settings["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(forced)
    with torch.no_grad():
        ids = model.generate(**tokenizer(text, return_tensors="pt"), do_sample=False, **settings)
    words = str(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
    return words.removeprefix(forced).strip()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", LANGUAGES)
def test_a_translation_is_that_of_the_library(
    folder_of: Callable[[str], Path], kind: str, beams: int
) -> None:
    """The words are those of the library's own generate, with the tokens of both languages."""
    node, library = LANGUAGES[kind]
    model = load(folder_of(kind))
    for text in (CAT[:4], CAT):
        _, found = result(translate(model, text, **node, num_beams=beams, max_tokens=24))
        assert found == by_hand(
            folder_of(kind), text, **library, num_beams=beams, max_new_tokens=24
        )


@pytest.mark.parametrize("kind", ["nllb", "m2m_100", "mbart"])
def test_languages_are_told_apart_and_leave_nothing_behind(
    folder_of: Callable[[str], Path], kind: str
) -> None:
    """Another source or target gives other words, whatever was translated before; the tokenizer is
    as it was.
    """
    node, _ = LANGUAGES[kind]
    model = load(folder_of(kind))
    before = model.tokenizer.src_lang
    wanted = {"nllb": "fra_Latn", "m2m_100": "fr", "mbart": "fr_XX"}[kind]
    found = [
        [
            result(translate(model, text, **{**node, **other}, max_tokens=16))[1]
            for text in (CAT, CAT[:4], "猫")
        ]
        for other in ({}, {"target": wanted}, {"source": {"nllb": "jpn"}.get(kind, "ja")}, {})
    ]
    assert found[0] == found[3]
    assert found[0] != found[1] != found[2] != found[0]
    assert model.tokenizer.src_lang == before


def test_a_long_text_is_translated_line_by_line_and_sentence_by_sentence(
    folder_of: Callable[[str], Path],
) -> None:
    """Empty lines stay; a line that is too long is read in passages, and a note tells what was not
    finished.
    """
    folder = folder_of("marian")
    text = f"{CAT}\n\n  {CAT * 4}"
    notes, found = result(translate(load(folder), text, max_tokens=32, num_beams=1))
    settings = {"num_beams": 1, "max_new_tokens": 32}
    one = by_hand(folder, CAT, **settings)
    lines = found.split("\n")
    assert lines[:2] == [one, ""]
    # Ten letters and the mark of their end: one sentence fits into sixteen tokens.
    assert lines[2] == " ".join([one] * 4)
    assert set(notes) == {f"'{CAT}' is not translated to its end: raise max_tokens (32)"}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "a red cat, 8k",
            "the text has no letter of the source language 'zh', so it is not translated; is it in"
            " 'en' already?",
        ),
        ("1:2 (3) 🐱", "the text has no letters, so it is not translated"),
    ],
)
def test_what_needs_no_translation_is_returned_as_it_is(
    folder_of: Callable[[str], Path], text: str, note: str
) -> None:
    """A prompt that is in the target language already, or has no words, stays; a note says so."""
    assert result(translate(load(folder_of("marian")), text)) == ([note], text)


def test_a_prompt_of_two_languages_is_translated(folder_of: Callable[[str], Path]) -> None:
    """Words of the source language among others are enough."""
    folder = folder_of("marian")
    _, found = result(translate(load(folder), "猫, masterpiece", num_beams=1, max_tokens=32))
    assert found == by_hand(folder, "猫, masterpiece", num_beams=1, max_new_tokens=32)


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        (
            "marian",
            {"target": "de"},
            "port 'target': the model's target language is 'en', not 'de'; leave target out, or use"
            " another model",
        ),
        (
            "m2m_100",
            {"source": "zh", "target": "klingon"},
            "port 'target': the model has no language 'klingon'; one of: af, am, ar, ast, az, ba, be,"
            " bg, bn, br, bs, ca, ceb, cs, cy, da, de, el, en, es, et, fa, ff, fi, …",
        ),
        (
            "nllb",
            {"source": "zho", "target": "eng_Latn"},
            "port 'source': the model has several languages 'zho'; write zho_Hans or zho_Hant",
        ),
        (
            "nllb",
            {"source": "zho_Hans", "target": "eng_Latin"},
            "port 'target': the model has no language 'eng_Latin'; did you mean 'eng_Latn'?",
        ),
        (
            "mbart",
            {"target": "en_XX"},
            "port 'source' is not given, but the model has 52 languages; write for example source:"
            " en_XX",
        ),
    ],
)
def test_languages_that_a_model_lacks_are_refused(
    folder_of: Callable[[str], Path], kind: str, params: dict[str, str], message: str
) -> None:
    """The message says how the model writes its languages."""
    with pytest.raises(ValueError) as refused:
        list(translate(load(folder_of(kind)), CAT, **params))
    assert str(refused.value) == message


def test_a_text_of_a_third_language_is_refused(folder_of: Callable[[str], Path]) -> None:
    """A model of Chinese and English makes nothing up of Russian."""
    with pytest.raises(ValueError) as refused:
        list(translate(load(folder_of("marian")), "Рыжий кот"))
    assert str(refused.value) == (
        "the text is written in Cyrillic, but is to be translated from 'zh' to 'en'; set source, or"
        " use a model of that language"
    )


def test_a_marian_model_of_several_targets_is_told_which(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The target is written before the text, as such models are trained."""
    import json
    import shutil

    folder = tmp_path / "several"
    shutil.copytree(folder_of("marian"), folder)
    words = json.loads((folder / "vocab.json").read_text("utf-8"))
    words = {{"Z": ">>deu<<", "Y": ">>fra<<"}.get(word, word): n for word, n in words.items()}
    (folder / "vocab.json").write_text(json.dumps(words), "utf-8")
    model = load(folder)
    _, found = result(translate(model, CAT, target="fra", num_beams=1, max_tokens=32))
    assert found == by_hand(folder, f">>fra<< {CAT}", num_beams=1, max_new_tokens=32)
    with pytest.raises(ValueError, match="port 'target' is not given, but the model has 2"):
        list(translate(model, CAT))


def test_scripts_of_languages_and_texts() -> None:
    """Codes of all models name the scripts of their languages."""
    assert scripts_of("zh") == scripts_of("zh_CN") == scripts_of("zho_Hant") == {"CJK"}
    assert scripts_of("eng_Latn") == scripts_of("en_XX") == {"LATIN"}
    assert scripts_of("tlh") == frozenset()
    assert scripts_in("ＡB 猫 ｶ ひ 한 й 1.") == {
        "LATIN",
        "CJK",
        "KATAKANA",
        "HIRAGANA",
        "HANGUL",
        "CYRILLIC",
    }


def test_loading_a_translator_warns_of_nothing(folder_of: Callable[[str], Path]) -> None:
    """What a library would like to have installed is not the user's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder_of("marian"))
