"""Repositories of the hub as they are, by the names of their files: of each the files are chosen
that the libraries load, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagen_flow._models import BadReference, parse_reference, resolve
from imagen_flow._models.files import needed_files
from imagen_flow._types.digest import digest_file

LISTINGS = {
    # The text encoder in shards and in halves; the transformer both in shards and in one piece, of
    # which diffusers takes the shards.
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": (
        "README.md model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder/model-00001-of-00002.safetensors text_encoder/model-00002-of-00002.safetensors "
        "text_encoder/model.fp16-00001-of-00002.safetensors text_encoder/model.fp16-00002-of-00002.safetensors text_encoder/model.safetensors.index.fp16.json text_encoder/model.safetensors.index.json "
        "tokenizer/tokenizer.json transformer/config.json transformer/diffusion_pytorch_model-00001-of-00002.safetensors transformer/diffusion_pytorch_model-00002-of-00002.safetensors "
        "transformer/diffusion_pytorch_model.fp16.safetensors transformer/diffusion_pytorch_model.safetensors transformer/diffusion_pytorch_model.safetensors.index.json "
        "vae/config.json vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors",
        "model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder/model-00001-of-00002.safetensors text_encoder/model-00002-of-00002.safetensors "
        "text_encoder/model.safetensors.index.json tokenizer/tokenizer.json transformer/config.json transformer/diffusion_pytorch_model-00001-of-00002.safetensors "
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors transformer/diffusion_pytorch_model.safetensors.index.json vae/config.json vae/diffusion_pytorch_model.safetensors",
    ),
    # As safetensors there are only halves, beside pickles of both.
    "stable-diffusion-v1-5/stable-diffusion-inpainting": (
        "config.json model_index.json sd-v1-5-inpainting.ckpt feature_extractor/preprocessor_config.json safety_checker/config.json safety_checker/model.fp16.safetensors "
        "safety_checker/pytorch_model.bin safety_checker/pytorch_model.fp16.bin unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.fp16.bin "
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "config.json feature_extractor/preprocessor_config.json model_index.json safety_checker/config.json safety_checker/model.fp16.safetensors unet/config.json "
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ),
    # The parts lie side by side.
    "google/ddpm-cat-256": (
        ".gitattributes README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.safetensors images/generated_image_0.png model_index.json scheduler_config.json",
        "config.json diffusion_pytorch_model.safetensors model_index.json scheduler_config.json",
    ),
    # One piece and shards of a part of transformers: it takes the one.
    "a repository of transformers": (
        "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors model.safetensors.index.json tokenizer.json",
        "config.json model.safetensors tokenizer.json",
    ),
    "CIDAS/clipseg-rd64-refined": (
        "README.md config.json merges.txt model.safetensors preprocessor_config.json pytorch_model.bin special_tokens_map.json tokenizer_config.json vocab.json",
        "config.json merges.txt model.safetensors preprocessor_config.json special_tokens_map.json tokenizer_config.json vocab.json",
    ),
    "lllyasviel/control_v11u_sd15_tile": (
        "README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.fp16.bin diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors images/input.png sd.png",
        "config.json diffusion_pytorch_model.safetensors",
    ),
}


@pytest.mark.parametrize("name", list(LISTINGS))
def test_of_a_repository_what_is_loaded_is_chosen(name: str) -> None:
    """Each file of weights once, in the form that the library takes; no pickles, no documents."""
    held, wanted = LISTINGS[name]
    assert needed_files(held.split()) == sorted(wanted.split())


def snapshot(folder: Path, names: str, **texts: str) -> Path:
    """A repository's commit in the hub's cache, its weights empty but whole."""
    commit = "c" * 40
    place = folder / "models--org--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(commit)
    for name in names.split():
        path = place / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            b"\2\0\0\0\0\0\0\0{}"
            if name.endswith(".safetensors")
            else texts.get(name.rpartition("/")[2].partition(".")[0], "{}").encode()
        )
    return place / "snapshots" / commit


def found(text: str, folder: Path) -> Any:
    return resolve(
        text,
        folder=Path("/"),
        embedded={},
        digest=digest_file,
        environ={"HF_HUB_CACHE": str(folder)},
    )


def test_parts_may_lie_side_by_side(tmp_path: Path) -> None:
    """An early checkpoint keeps the files of all parts in one folder: it is whole; one whose
    folders are gone is not.
    """
    index = '{"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}'
    at = snapshot(
        tmp_path,
        "config.json diffusion_pytorch_model.safetensors model_index.json scheduler_config.json",
        model_index=index,
    )
    assert found("hf:org/name", tmp_path).path == at
    (at / "unet").mkdir()
    (at / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(Exception, match="is not whole"):
        found("hf:org/name", tmp_path)


def test_a_folder_of_a_repository_is_a_model(tmp_path: Path) -> None:
    """With a slash at its end a reference names a folder: its files alone make the model, by their
    names in it.
    """
    at = snapshot(
        tmp_path,
        "models/a.safetensors models/image_encoder/config.json models/image_encoder/model.safetensors sdxl_models/b.safetensors",
    )
    model = found("hf:org/name@main/models/", tmp_path)
    assert (model.path, [name for name, _ in model.parts]) == (at / "models", ["image_encoder"])
    assert found(f"hf:org/name@{'c' * 40}/models/", tmp_path).digest == model.digest
    (at / "sdxl_models/b.safetensors").unlink()
    assert found("hf:org/name@main/models/", tmp_path).digest == model.digest
    with pytest.raises(Exception, match="is not on this machine"):
        found("hf:org/name@main/other/", tmp_path)


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("hf:h94/IP-Adapter@main/models/", "hf:h94/IP-Adapter@main/models/"),
        ("hf:a/b@refs/pr/3/unet/", "hf:a/b@refs/pr/3/unet/"),
        ("hf:a/b@feature%2Fx/a/b/", "hf:a/b@feature%2Fx/a/b/"),
    ],
)
def test_a_folder_is_spelt_with_a_slash_at_its_end(text: str, spelt: str) -> None:
    """As a file is, after the revision."""
    reference = parse_reference(text)
    assert (str(reference), reference.file.endswith("/")) == (spelt, True)


@pytest.mark.parametrize(
    "text",
    [
        "hf:a/b@main/",
        "hf:a/b@main//",
        "hf:a/b@main/../x/",
        "hf:a/b@/x/",
        "hf:a/b@refs/pr/3/",
        "hf:a/b@main/a//",
    ],
)
def test_a_folder_that_is_none_is_refused(text: str) -> None:
    """Nothing, nothing twice, and what leads out."""
    with pytest.raises(BadReference):
        parse_reference(text)
