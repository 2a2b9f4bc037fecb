"""What loaders of transformers' models share: their kind, tokenizers and image processors, and the
tiny models that plugins keep.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import imagen_flow as flow
from imagen_flow.loaders import expect_kind, keep_tiny, load_image_processor, load_tokenizer


def model(folder: Path, **config: object) -> flow.Model:
    folder.mkdir(exist_ok=True)
    if config:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return flow.Model(folder)


def test_the_kind_of_a_model_is_the_one_its_configuration_names(tmp_path: Path) -> None:
    """It is returned if the node can use it; another is refused with those that it can use."""
    told = model(tmp_path / "m", model_type="vit")
    assert expect_kind(told, "image.classify", ["vit", "resnet"]) == "vit"
    with pytest.raises(flow.ModelError, match=r"is a vit, but text\.see supports bert, t5"):
        expect_kind(told, "text.see", ["t5", "bert"])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "it is a folder without config.json"),
        ({"hidden_size": 8}, "it is a model of no stated type"),
        ({"model_type": ["vit"]}, r"it is a \['vit'\], but"),
        ({"model_type": "vit", "quantization_config": {}}, "it was saved quantized"),
    ],
    ids=["no configuration", "no type", "a type that is no text", "quantized"],
)
def test_a_folder_of_no_use_is_refused(tmp_path: Path, config: dict[str, object], why: str) -> None:
    """What the configuration lacks or says is in the message."""
    with pytest.raises(flow.ModelError, match=why):
        expect_kind(model(tmp_path / "m", **config), "image.classify", ["vit"])


def test_a_processor_or_tokenizer_that_cannot_be_read_is_told_with_the_model(
    tmp_path: Path,
) -> None:
    """Whatever the library raises becomes an error that names the model and what is wrong with it."""
    broken = model(tmp_path / "m", model_type="vit")
    (tmp_path / "m" / "preprocessor_config.json").write_text("{", "utf-8")
    (tmp_path / "m" / "tokenizer.json").write_text("[]", "utf-8")
    with pytest.raises(flow.ModelError, match="has no image processor that can be read"):
        load_image_processor(broken)
    with pytest.raises(flow.ModelError, match="has no tokenizer that can be read"):
        load_tokenizer(broken)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        ("bert", "vocab.txt"),
        ("bart", "vocab.json and merges.txt"),
        ("clip", "vocab.json and merges.txt"),
        ("t5", "spiece.model"),
    ],
)
def test_a_tokenizer_without_words_is_not_made_up(tmp_path: Path, kind: str, lacking: str) -> None:
    """Where the files are missing, transformers makes one to which all words are unknown."""
    with pytest.raises(flow.ModelError, match=f"there is neither tokenizer.json nor {lacking}"):
        load_tokenizer(model(tmp_path / "m", model_type=kind))


def test_a_tiny_model_has_the_same_weights_everywhere(tmp_path: Path) -> None:
    """Wherever it is made, and the random state of the process stays as it was."""
    import torch

    drawn = []
    before = torch.get_rng_state()
    for folder in ("a", "b"):
        keep_tiny(
            tmp_path / folder, "vit", lambda path: drawn.append(torch.rand(3)) or path.mkdir()
        )
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tiny_model_is_made_once(tmp_path: Path) -> None:
    """It is kept under its name, and one that could not be made whole leaves nothing."""
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.mkdir()
        if len(made) == 1:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        keep_tiny(tmp_path / "kept", "vit", make)
    assert list((tmp_path / "kept").iterdir()) == []
    first, second = (keep_tiny(tmp_path / "kept", "vit", make) for _ in range(2))
    assert first == second == tmp_path / "kept" / "vit"
    assert [path.name for path in made] == ["vit", "vit"]
    assert list((tmp_path / "kept").iterdir()) == [first]
