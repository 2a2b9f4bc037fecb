"""Features of text are the states of the library's encoders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow.loaders import Loading
from imagen_flow_language import tiny
from imagen_flow_language.features import CLASSES, Encoder, EncoderLoader, features

#: What makes the models that `folder_of` gives.
MAKERS = tiny.MAKERS

TEXT = "a red cat on a hill"
KINDS = ("bert", "mt5", "roberta", "t5")


def load(folder: Path) -> Encoder:
    model = flow.Model(folder, "any", f"./{folder.name}")
    EncoderLoader().check(model)
    return EncoderLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def result(steps: Any) -> tuple[str, np.ndarray]:
    """Run a node to its end and give its note and its numbers."""
    note = next(steps).note
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return note, ended.value.value.data


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_library(folder_of: Callable[[str], Path], kind: str) -> None:
    """Without pooling they are the last states of the library's model, which is loaded from a
    checkpoint with another head.
    """
    import torch
    import transformers

    folder = folder_of(kind)
    model = getattr(transformers, CLASSES[kind]).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(TEXT, return_tensors="pt")).last_hidden_state[0].numpy()
    encoder = load(folder)
    assert np.array_equal(result(features(encoder, TEXT, pooling="none"))[1], states)
    mean = result(features(encoder, TEXT))[1]
    assert np.allclose(mean, states.mean(axis=0), atol=1e-6)
    unit = result(features(encoder, TEXT, normalise=True))[1]
    assert np.allclose(unit, mean / np.linalg.norm(mean), atol=1e-6)
    if kind in ("bert", "roberta"):
        assert np.array_equal(result(features(encoder, TEXT, pooling="first"))[1], states[0])
    else:
        with pytest.raises(ValueError, match="T5 has no first token that stands for the text"):
            list(features(encoder, TEXT, pooling="first"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_cut_with_a_note(folder_of: Callable[[str], Path], kind: str) -> None:
    """The model reads as much as it has positions for, and the note says where it stops."""
    encoder = load(folder_of(kind))
    note, states = result(features(encoder, "abc defg " * 40, pooling="none"))
    assert states.shape == (128, 16)
    assert note.startswith("the text is cut after 12")
    short = result(features(encoder, "a")), result(features(encoder, "a"))
    assert np.array_equal(short[0][1], short[1][1])


def test_words_that_an_encoder_does_not_know_are_told(folder_of: Callable[[str], Path]) -> None:
    """A text in a script that it never saw has a note."""
    note, _ = result(features(load(folder_of("bert")), "кот on a hill"))
    assert note == "unknown to the text encoder: 'кот'"


def test_the_plugin_is_registered_without_its_libraries() -> None:
    """Planning imports the plugin and reads its ports, but no numpy, torch or transformers."""
    code = (
        "import sys\nimport imagen_flow_language as plugin\n"
        "print([node.type.name for node in plugin.imagen_flow_nodes()])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'jinja2'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        "['text.wildcards', 'text.combinations', 'text.summarise', 'text.translate', 'text.expand',"
        " 'language.features']\n[]\n"
    )
