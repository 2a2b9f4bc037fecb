"""What is wrong with a checkpoint's files is told in the project's words, with the part and the
file, before anything is drawn; when planning where headers and folders tell.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import imagen_flow as flow
from imagen_flow_diffusion.tiny import checkpoints

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": checkpoints.stable_diffusion,
    "sd3": checkpoints.stable_diffusion_3,
    "sdxl": checkpoints.stable_diffusion_xl,
}


@pytest.fixture(scope="module")
def original() -> ModuleType:
    """The way from folders to files; loaded here because test files import nothing from one
    another.
    """
    spec = importlib.util.spec_from_file_location(
        "original", Path(__file__).with_name("original.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
        **more,
    }


@contextmanager
def other(file: Path, content: bytes | None = None) -> Iterator[Path]:
    """Write something else into a file for a while, or take it away."""
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    try:
        yield file
    finally:
        file.write_bytes(before)


def weights_of(folder: str, part: str) -> Path:
    return next((Path(folder) / part).glob("*.safetensors"))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_do_not_fit_their_configuration_are_named(
    part: str, at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """A tensor of another shape, one that is missing, and a configuration that makes nothing: part,
    file and tensor are said.
    """
    folder = at("sd")
    file = weights_of(folder, part)
    state = load_file(file)
    name = next(name for name in sorted(state) if state[name].ndim >= 2)
    with other(file, file.read_bytes()):
        save_file({**state, name: state[name][:1].contiguous()}, file, {"format": "pt"})
        said = failure(one=drawn(folder))
        assert said.startswith(
            f"the {part} of the model '{folder}' cannot be loaded from {file.name}: its {name} has the shape [1, "
        )
        assert said.endswith(f", where config.json makes {list(state[name].shape)}")
        save_file(
            {key: tensor for key, tensor in state.items() if key != name}, file, {"format": "pt"}
        )
        assert (
            failure(one=drawn(folder))
            == f"the model '{folder}' is not whole: {part} lacks 1 weights, {name} first"
        )
    config = Path(folder) / part / "config.json"
    with other(
        config,
        json.dumps(
            {**json.loads(config.read_text()), "act_fn": "nonsense", "hidden_act": "nonsense"}
        ).encode(),
    ):
        assert failure(one=drawn(folder)).startswith(
            f"the {part} of the model '{folder}' cannot be loaded from {file.name}: its config.json makes no "
        )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_nan_in_weights_is_told_as_such(
    part: str, at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """The first weight that holds some is named, by one node and by three, and no other dtype is
    recommended.
    """
    folder = at("sd")
    file = weights_of(folder, part)
    state = load_file(file)
    name = next(
        name
        for name in sorted(state)
        if state[name].ndim >= 2
        and name.startswith(("decoder", "down", "encoder.layers", "text_model.encoder.layers"))
    )
    with other(file, file.read_bytes()):
        save_file({**state, name: state[name] * float("nan")}, file, {"format": "pt"})
        assert (
            failure(one=drawn(folder))
            == f"the model gave NaN, for its weights hold some: {name} of its {part}; copy or download the model again"
        )
        text = {"type": "text.encode", "model": folder, "prompt": "a"}
        latents = {
            "type": "diffusion.denoise",
            "model": folder,
            "text": "${text}",
            "num_inference_steps": 2,
            "width": 32,
            "height": 48,
            "seed": 3,
        }
        said = failure(
            text=text,
            latents=latents,
            picture={"type": "latents.decode", "model": folder, "latents": "${latents}"},
        )
        assert f" gave NaN, for its weights hold some: {name} of its {part};" in said


def test_nan_in_float32_recommends_no_float32(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """What may help is said instead."""
    said = failure(one=drawn(at("sd"), guidance_scale=7.5, arguments={"eta": 1e38}, sampler="DDIM"))
    assert (
        said
        == "the model gave NaN; a setting is out of bounds (a guidance_scale, a strength, the weight of an adapter), or what came in was"
    )


def test_a_tokenizer_without_words_is_refused_when_planning(
    at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """transformers would make one that reads every word as unknown, and draw."""
    folder = at("sd")
    with other(Path(folder) / "tokenizer" / "tokenizer.json"):
        for node in (drawn(folder), {"type": "text.encode", "model": folder, "prompt": "a"}):
            assert (
                refused(one=node)
                == f"the model '{folder}' is not whole: its tokenizer lacks the file of its words (tokenizer.json, vocab.json with merges.txt, or the like); download it again"
            )
        (Path(folder) / "tokenizer" / "vocab.json").write_text("{}")
        assert (
            refused(one=drawn(folder))
            == f"the model '{folder}' is not whole: its tokenizer lacks merges.txt; download it again"
        )
        (Path(folder) / "tokenizer" / "vocab.json").unlink()


def test_files_that_make_no_sampler_and_no_tokenizer_are_named(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """What the libraries say of a value of another kind is not all that is said."""
    folder = at("sd")
    file = Path(folder) / "scheduler" / "scheduler_config.json"
    for key, value in (
        ("beta_schedule", "nonsense"),
        ("num_train_timesteps", "x"),
        ("beta_start", None),
        ("trained_betas", {}),
    ):
        with other(file, json.dumps({**json.loads(file.read_text()), key: value}).encode()):
            assert failure(one=drawn(folder)).startswith(
                f"the model '{folder}' is damaged: scheduler/scheduler_config.json makes no PNDMScheduler ("
            )
    with other(Path(folder) / "tokenizer" / "tokenizer.json", b"{}"):
        assert failure(one=drawn(folder)).startswith(
            f"the model '{folder}' is damaged: the files of its tokenizer make no CLIPTokenizer (KeyError: "
        )


def test_a_denoiser_without_what_is_written_before_its_names_is_read(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    refused: Callable[..., str],
    original: ModuleType,
    tmp_path: Path,
) -> None:
    """In its authors' names a UNet alone may lack ``model.diffusion_model.``; in the place of a
    checkpoint the port that takes it is named.
    """
    state = {
        name: tensor.contiguous()
        for name, tensor in original.unet(original.state_of(Path(at("sd")) / "unet")).items()
    }
    save_file(state, tmp_path / "bare.safetensors")
    assert (
        draw(one=drawn(at("sd"), denoiser=str(tmp_path / "bare.safetensors"))).pixels
        == draw(one=drawn(at("sd"))).pixels
    ).all()
    assert refused(one=drawn(str(tmp_path / "bare.safetensors"))).endswith(
        "; the port 'denoiser' of diffusion.text_to_image, beside a checkpoint, takes it"
    )


@pytest.mark.parametrize("names", ["authors", "diffusers"])
def test_a_denoiser_that_lacks_a_tensor_or_has_another_shape_is_refused(
    names: str,
    at: Callable[[str], str],
    failure: Callable[..., str],
    original: ModuleType,
    tmp_path: Path,
) -> None:
    """The tensor is named, in whatever names the file has."""
    state = original.state_of(Path(at("sd")) / "unet")
    lacking = {
        name: tensor for name, tensor in state.items() if name != "time_embedding.linear_1.bias"
    }
    cut = {**state, "conv_out.weight": state["conv_out.weight"][:1]}
    for made, words in (
        (lacking, "it lacks 1 weights, time_embedding.linear_1.bias first"),
        (
            cut,
            "its conv_out.weight has the shape [1, 32, 3, 3], where config.json makes [4, 32, 3, 3]",
        ),
    ):
        written = made if names == "diffusers" else original.unet(made)
        save_file(
            {name: tensor.contiguous() for name, tensor in written.items()},
            tmp_path / "mine.safetensors",
        )
        assert (
            failure(one=drawn(at("sd"), denoiser=str(tmp_path / "mine.safetensors")))
            == f"mine.safetensors holds no unet that fits the model '{at('sd')}': {words}"
        )


def write_gguf(file: Path, state: dict[str, torch.Tensor]) -> str:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(file), "x")
    for name, tensor in state.items():
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(file)


def test_a_gguf_file_that_does_not_fit_is_told(
    at: Callable[[str], str],
    refused: Callable[..., str],
    failure: Callable[..., str],
    original: ModuleType,
    tmp_path: Path,
) -> None:
    """Another part when planning, a denoiser of another kind and one that lacks a tensor before it
    draws.
    """
    state = original.sd3_transformer(original.state_of(Path(at("sd3")) / "transformer"))
    for name in ("joint_blocks.0.context_block.adaLN_modulation.1.weight", "x_embedder.proj.bias"):
        path = write_gguf(
            tmp_path / "less.gguf", {key: tensor for key, tensor in state.items() if key != name}
        )
        assert (
            failure(one=drawn(at("sd3"), denoiser=path))
            == f"less.gguf holds no transformer that fits the model '{at('sd3')}': it lacks {name}"
        )
    text = write_gguf(
        tmp_path / "t5.gguf",
        {"enc.blk.0.attn_q.weight": torch.ones(4, 4), "token_embd.weight": torch.ones(4, 4)},
    )
    assert refused(one=drawn(at("sd3"), denoiser=text)).endswith(
        "it is a text encoder alone as GGUF"
    )
    vae = write_gguf(tmp_path / "vae.gguf", original.vae(original.state_of(Path(at("sd")) / "vae")))
    assert refused(one=drawn(at("sd3"), denoiser=vae)).endswith(
        "it is an autoencoder alone as GGUF"
    )
    whole = write_gguf(tmp_path / "sd3.gguf", state)
    assert "it is no UNet2DConditionModel, by the names in it (" in failure(
        one=drawn(at("sd"), denoiser=whole)
    )


def test_a_text_encoder_alone_is_no_denoiser(
    at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """By the names in its header, in transformers' newest too."""
    file = weights_of(at("sd"), "text_encoder")
    assert refused(one=drawn(at("sd"), denoiser=str(file))).endswith("it is a text encoder alone")


def test_planning_goes_on_without_torch(at: Callable[[str], str]) -> None:
    """All that is looked at when planning is read without the library."""
    import subprocess
    import sys

    graph = {
        "imagen_flow": 1,
        "nodes": {"one": drawn(at("sd"), denoiser=str(weights_of(at("sd"), "unet")))},
        "outputs": {"out": "${one}"},
    }
    code = f"import json, sys, imagen_flow as flow; plan = flow.plan(json.loads({json.dumps(json.dumps(graph))}), store=None, device='cpu'); assert not plan.problems, plan.problems; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "aura-flow",
        "chroma",
        "cogview",
        "flux",
        "hunyuan-dit",
        "if-1",
        "kandinsky",
        "lumina",
        "pixart",
        "qwen",
        "sana",
        "sd",
        "sd3",
        "sdxl",
        "unclip",
        "z-image",
    ],
)
def test_no_part_of_any_family_loads_without_one_of_its_weights(kind: str, tmp_path: Path) -> None:
    """Each network of a checkpoint is refused that lacks its first weight, its last, or one
    between.
    """
    from imagen_flow._models import resolve
    from imagen_flow._types.digest import digest_file
    from imagen_flow_diffusion.checkpoints.description import index_of
    from imagen_flow_diffusion.loading import parts
    from imagen_flow_diffusion.tiny.kinds import MAKERS as EVERY

    folder = tmp_path / "model"
    EVERY[kind](folder)
    for file in sorted(folder.glob("*/*.safetensors")):
        state, part = load_file(file), file.parent.name
        names = sorted(state)
        with other(file, file.read_bytes()):
            for name in (names[0], names[len(names) // 2], names[-1]):
                save_file(
                    {key: tensor for key, tensor in state.items() if key != name},
                    file,
                    {"format": "pt"},
                )
                model = resolve(str(folder), folder=tmp_path, embedded={}, digest=digest_file)
                with pytest.raises(flow.ModelError, match=rf"is not whole: {part} lacks "):
                    parts.load_component(
                        model, part, index_of(model)[part], device="cpu", dtype="float32"
                    )
    shutil.rmtree(folder)
