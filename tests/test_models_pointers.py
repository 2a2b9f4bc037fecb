"""What a model's files point to is what its fingerprint is over; anything else is refused when
planning, by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_flow._models import UnresolvedModel, UnusableModel, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Model

SHARDS = {
    "model-00001-of-00002.safetensors": ["a.weight", "a.bias"],
    "model-00002-of-00002.safetensors": ["b.weight"],
}
INDEX = "model.safetensors.index.json"


def sharded(folder: Path, weight_map: dict[str, str] | None = None, *, index: str = INDEX) -> Path:
    """A part in two shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for shard, tensors in SHARDS.items():
        save_file({tensor: np.ones(2, np.float32) for tensor in tensors}, folder / shard)
    whole = {tensor: shard for shard, tensors in SHARDS.items() for tensor in tensors}
    (folder / index).write_text(
        json.dumps({"metadata": {}, "weight_map": {**whole, **(weight_map or {})}})
    )
    return folder


def find(folder: Path, **more: Any) -> Model:
    return resolve(
        str(folder),
        folder=folder,
        embedded={},
        digest=digest_file,
        environ={"HF_HUB_CACHE": str(folder / "no-cache")},
        **more,
    )


def refusal(folder: Path) -> str:
    with pytest.raises((UnusableModel, UnresolvedModel)) as caught:
        find(folder)
    return f"{caught.value}: {caught.value.why}".replace(str(folder), "M")


def test_an_index_of_shards_in_the_folder_is_taken(tmp_path: Path) -> None:
    """What an index names beside itself is in the fingerprint, in a folder below too."""
    before = find(sharded(tmp_path / "m" / "text_encoder").parent).digest
    save_file(
        {"b.weight": np.zeros(2, np.float32)},
        tmp_path / "m" / "text_encoder" / "model-00002-of-00002.safetensors",
    )
    assert find(tmp_path / "m").digest != before


@pytest.mark.parametrize(
    "shard",
    [
        "../../outside.safetensors",
        "../vae/model.safetensors",
        "/etc/outside.safetensors",
        ".hidden.safetensors",
        "b.safetensors.part",
        "b.bin",
        "model.onnx",
        "x/../../vae/model.safetensors",
    ],
)
def test_an_index_that_leads_out_of_what_is_digested_is_refused(shard: str, tmp_path: Path) -> None:
    """A shard outside the part's folder, hidden, unfinished or no file of weights has no say in the
    fingerprint, so the model is not used.
    """
    part = sharded(tmp_path / "m" / "text_encoder", {"b.weight": shard})
    (part / "x").mkdir()
    (tmp_path / "m" / "vae").mkdir()
    if not shard.startswith("/"):
        save_file({"b.weight": np.ones(2, np.float32)}, part / shard)
    assert refusal(tmp_path / "m").startswith(
        f"the model 'M' cannot be used: text_encoder/{INDEX} names '{shard}': "
    )


@pytest.mark.parametrize(
    "shard", ["none.safetensors", "sub/none.safetensors", "x" * 5000 + ".safetensors"]
)
def test_a_shard_that_is_not_there_is_missing(shard: str, tmp_path: Path) -> None:
    """Whatever its name is, it is said to be missing."""
    sharded(tmp_path / "m", {"b.weight": shard})
    assert (
        refusal(tmp_path / "m")
        == f"unresolved: 'M' is not whole: 1 of 2 files of weights are missing, {shard} first"
    )


def test_a_variants_index_is_looked_at_too(tmp_path: Path) -> None:
    """The index of halves has a name of its own."""
    sharded(
        tmp_path / "m",
        {"b.weight": "../outside.safetensors"},
        index="model.safetensors.index.fp16.json",
    )
    assert "model.safetensors.index.fp16.json names '../outside.safetensors'" in refusal(
        tmp_path / "m"
    )


def test_an_index_that_names_the_wrong_shard_is_refused(tmp_path: Path) -> None:
    """The message names the index, the shard, and the first tensor that is not in it."""
    sharded(tmp_path / "m", {"a.bias": "model-00002-of-00002.safetensors"})
    assert refusal(tmp_path / "m") == (
        f"the model 'M' is damaged: {INDEX} names model-00002-of-00002.safetensors for a.bias: 1 of the 2 tensors that it names that file for are not in it"
    )


@pytest.mark.parametrize(
    "content",
    ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": ["a"]}', "[]", "\x00"],
)
def test_an_index_that_makes_no_sense_is_refused(content: str, tmp_path: Path) -> None:
    """It is damaged, by name."""
    (sharded(tmp_path / "m") / INDEX).write_text(content)
    assert refusal(tmp_path / "m").startswith(f"the model 'M' is damaged: {INDEX} cannot be read: ")


def test_shards_without_an_index_are_refused(tmp_path: Path) -> None:
    """The libraries find shards by their index alone; another copy of the weights in one piece
    serves as well.
    """
    part = sharded(tmp_path / "m" / "text_encoder")
    (part / INDEX).unlink()
    assert refusal(tmp_path / "m") == (
        "unresolved: 'M' is not whole: all 2 files of the weights text_encoder/model are there, but not the index text_encoder/model.safetensors.index.json, which says what is in which"
    )
    (part / "model-00001-of-00002.safetensors").unlink()
    assert "1 of 2 files of the weights text_encoder/model are there" in refusal(tmp_path / "m")
    save_file({"a.weight": np.ones(2, np.float32)}, part / "model.safetensors")
    find(tmp_path / "m")


@pytest.mark.parametrize(
    "said", ["../outside.safetensors", ".hidden.safetensors", "sub/none.safetensors"]
)
def test_a_configuration_that_names_other_weights_is_refused(said: str, tmp_path: Path) -> None:
    """transformers reads the file that a configuration names in the place of those beside it."""
    part = sharded(tmp_path / "m" / "text_encoder")
    (part / "config.json").write_text(json.dumps({"transformers_weights": said}))
    assert refusal(tmp_path / "m").startswith(
        f"the model 'M' cannot be used: text_encoder/config.json says transformers_weights: '{said}'"
    )
    (part / "config.json").write_text(json.dumps({"transformers_weights": INDEX}))
    find(tmp_path / "m")


@pytest.mark.parametrize(
    "said",
    [
        "../outside/tokenizer.1.0.json",
        "tokenizer.1.0.json/../../outside/tokenizer.1.0.json",
        ".hidden/tokenizer.1.0.json",
    ],
)
def test_a_tokenizer_that_names_other_files_is_refused(said: str, tmp_path: Path) -> None:
    """transformers reads the one of these files that suits its version, wherever it is."""
    sharded(tmp_path / "m" / "text_encoder")
    (tmp_path / "m" / "tokenizer").mkdir()
    for place in (tmp_path / "m" / "outside", tmp_path / "m" / "tokenizer" / ".hidden"):
        place.mkdir()
        (place / "tokenizer.1.0.json").write_text("{}")
    config = tmp_path / "m" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({"fast_tokenizer_files": [said]}))
    assert refusal(tmp_path / "m").startswith(
        f"the model 'M' cannot be used: tokenizer/tokenizer_config.json says fast_tokenizer_files: '{said}'"
    )
    (config.parent / "tokenizer.1.0.json").write_text("{}")
    config.write_text(
        json.dumps({"fast_tokenizer_files": ["tokenizer.1.0.json", "tokenizer.9.0.json"]})
    )
    find(tmp_path / "m")


def test_an_adapter_that_is_a_pickle_is_not_loaded_along(tmp_path: Path) -> None:
    """transformers puts an adapter on a network that lies beside it; one whose weights have no say
    in the fingerprint is refused.
    """
    part = sharded(tmp_path / "m" / "text_encoder")
    (part / "adapter_config.json").write_text("{}")
    (part / "adapter_model.bin").write_bytes(b"x")
    assert refusal(tmp_path / "m").startswith(
        "the model 'M' cannot be used: text_encoder/adapter_config.json brings an adapter whose weights are a pickle (adapter_model.bin): "
    )
    save_file({"x": np.ones(2, np.float32)}, part / "adapter_model.safetensors")
    find(tmp_path / "m")


@pytest.mark.parametrize("index", ["model_index.json", "modular_model_index.json"])
@pytest.mark.parametrize("part", ["../outside", ".hidden", "a/b", "/etc"])
def test_a_part_that_is_no_folder_of_the_model_is_refused(
    part: str, index: str, tmp_path: Path
) -> None:
    """A part of another name than a plain one lies where nothing is digested."""
    sharded(tmp_path / "m" / "unet")
    (tmp_path / "m" / index).write_text(
        json.dumps({"_class_name": "P", part: ["diffusers", "UNet2DConditionModel"]})
    )
    assert (
        refusal(tmp_path / "m")
        == f"the model 'M' cannot be used: {index} names a part '{part}': a part is a folder in the model's folder"
    )


def test_a_folder_that_is_a_link_has_a_say(tmp_path: Path) -> None:
    """A part that is kept elsewhere is digested where it lies, as the libraries load it from there."""
    elsewhere = sharded(tmp_path / "elsewhere")
    sharded(tmp_path / "m" / "text_encoder")
    (tmp_path / "m" / "unet").symlink_to(elsewhere)
    before = find(tmp_path / "m")
    assert "unet" in dict(before.parts)
    save_file({"b.weight": np.zeros(2, np.float32)}, elsewhere / "model-00002-of-00002.safetensors")
    after = find(tmp_path / "m")
    assert after.digest != before.digest
    assert dict(after.parts)["unet"] != dict(before.parts)["unet"]


def test_a_folder_may_be_named_by_a_link(tmp_path: Path) -> None:
    """Whoever keeps models on another disk names them so: it is the model that the folder is."""
    sharded(tmp_path / "disk" / "m" / "unet")
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    assert find(tmp_path / "m").digest == find(tmp_path / "disk" / "m").digest
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path / "nowhere").startswith("the model 'M' is not a weights file")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Following them would never end; nor would folders that link to one another many times over."""
    part = sharded(tmp_path / "m" / "unet")
    (part / "again").symlink_to("..")
    assert (
        refusal(tmp_path / "m")
        == "the model 'M' is not a model folder: unet/again in it links to a folder that contains it"
    )
    os.unlink(part / "again")
    for depth in range(20):
        (tmp_path / f"d{depth}").mkdir()
        for name in "xy":
            (tmp_path / f"d{depth}" / name).symlink_to(tmp_path / f"d{depth + 1}")
    (tmp_path / "d20").mkdir()
    (part / "many").symlink_to(tmp_path / "d0")
    assert "it holds more than 100 folders that are links" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda raw: b"", "its header does not fit in it"),
        (lambda raw: raw[:-4], "it has "),
        (
            lambda raw: raw.replace(b'"shape":[2]', b'"shape":[0]').replace(
                b'"data_offsets":[0,8]', b'"data_offsets":[0,0]'
            )[:-8],
            "its header says of 'b.weight' that it holds no number",
        ),
        (
            lambda raw: raw.replace(b"F32", b"F99").replace(b"[0,8]", b"[0,0]")[:-8],
            "its header says of 'b.weight' that it holds no number",
        ),
    ],
)
def test_a_tail_without_numbers_is_told(change: Any, why: str, tmp_path: Path) -> None:
    """A shard that is empty, cut, or whose header says that nothing follows is damaged, by name."""
    shard = sharded(tmp_path / "m") / "model-00002-of-00002.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(change(raw))
    assert refusal(tmp_path / "m").startswith(
        f"the model 'M' is damaged: {shard.name} is not a complete safetensors file: {why}"
    )
