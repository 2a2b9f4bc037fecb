"""A checkpoint that is one file draws what diffusers draws of it, bit for bit, and what the same
checkpoint draws as a folder; a file that is something else is said to be that.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries, resolve
from imagen_flow._types.digest import digest_file
from imagen_flow.loaders import Loading
from imagen_flow_diffusion.checkpoints import single_file
from imagen_flow_diffusion.checkpoints.description import index_of
from imagen_flow_diffusion.loading import groups, parts
from imagen_flow_diffusion.tiny import checkpoints, companions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


def stable_diffusion_3(folder: Path) -> Path:
    """Files of SD 3 have no projection of the first text encoder: it changes nothing there, and
    diffusers takes one that does so.
    """
    checkpoints.stable_diffusion_3(folder)
    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    save_file(
        {**state, "text_projection.weight": torch.eye(len(state["text_projection.weight"]))},
        file,
        {"format": "pt"},
    )
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd15": checkpoints.stable_diffusion,
    "sd2": checkpoints.stable_diffusion,
    "inpainting": lambda folder: checkpoints.stable_diffusion(
        folder, class_name="StableDiffusionInpaintPipeline", reads=9
    ),
    "sdxl": checkpoints.stable_diffusion_xl,
    "refiner": lambda folder: checkpoints.stable_diffusion_xl(folder, refiner=True),
    "sd3": stable_diffusion_3,
    "flux": checkpoints.flux,
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


@pytest.fixture(scope="module")
def at(
    tmp_path_factory: pytest.TempPathFactory, original: ModuleType
) -> Callable[[str], tuple[str, str]]:
    """Give a tiny checkpoint as a folder and as one file, beside which its configurations lie, and
    none of its weights.
    """
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> tuple[str, str]:
        folder, file = home / name / "folder", home / name / "mine.safetensors"
        if not file.exists():
            with quiet_libraries():
                MAKERS[name](folder)
            if name == "flux":
                original.flux_without_denoiser(folder, file)
            else:
                original.single_file(folder, file, sd2=name == "sd2")
            for path in folder.rglob("*"):
                if path.is_file() and path.suffix != ".safetensors":
                    copy = file.with_suffix("") / path.relative_to(folder)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
        return str(folder), str(file)

    return get


def problem(**nodes: dict[str, Any]) -> str:
    """Plan nodes as a graph and give its one problem."""
    plan = flow.plan(
        {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}},
        store=None,
        device="cpu",
    )
    assert len(plan.problems) == 1, plan.problems
    return str(plan.problems[0])


def found(path: str) -> flow.Model:
    return resolve(
        path, folder=Path("/"), embedded={}, digest=digest_file, base_of=single_file.base_of
    )


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_weight_arrives(name: str, at: Callable[[str], tuple[str, str]]) -> None:
    """Each part that is loaded from the file has the weights of the folder's, all of them, the text
    encoders too.
    """
    folder, file = map(found, at(name))
    for group in ("text", "autoencoder") if name == "flux" else ("text", "denoiser", "autoencoder"):
        ours, theirs = (
            groups.GROUPS[group]
            .load(model, device="cpu", dtype="float32", settings=Loading())
            .parts
            for model in (file, folder)
        )
        assert ours.keys() == theirs.keys()
        for part, module in theirs.items():
            if isinstance(module, torch.nn.Module):
                states = ours[part].state_dict(), module.state_dict()
                assert states[0].keys() == states[1].keys()
                assert [
                    weight
                    for weight, tensor in states[1].items()
                    if not torch.equal(states[0][weight], tensor)
                ] == []


def alike(ours: Any, theirs: Any) -> bool:
    """Whether pixels of a file and of a folder differ by one level at most. torch multiplies one row
    with a matrix, as for a pooled text, in another order where the matrix does not lie at a multiple
    of 16 bytes, and that depends on the file that it is mapped from: the last bit differs. Loads of
    one file lie alike (see `own_tensors`), and give equal pixels.
    """
    return int(np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max()) <= 1


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_one_node_draws_what_the_folder_draws(
    name: str, at: Callable[[str], tuple[str, str]], draw: Callable[..., Any]
) -> None:
    """A whole checkpoint in one file gives the folder's pixels."""
    ours, theirs = (
        draw(
            one={
                "type": "diffusion.text_to_image",
                "model": path,
                "prompt": "a red fox",
                "num_inference_steps": 2,
                "width": 32,
                "height": 48,
                "seed": 3,
            }
        )
        for path in reversed(at(name))
    )
    assert alike(ours.pixels, theirs.pixels)
    assert ours.pixels.std() > 5


def test_the_file_draws_what_diffusers_draws_of_it(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any]
) -> None:
    """The picture is that of ``from_single_file`` called by hand."""
    from diffusers import StableDiffusionPipeline

    file = at("sd15")[1]
    with quiet_libraries():
        pipeline = StableDiffusionPipeline.from_single_file(
            file, config=str(Path(file).with_suffix("")), local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red fox",
        num_inference_steps=2,
        width=32,
        height=48,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": file,
            "prompt": "a red fox",
            "num_inference_steps": 2,
            "width": 32,
            "height": 48,
            "seed": 3,
        }
    )
    assert np.array_equal(ours.pixels, np.asarray(theirs))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_three_nodes_draw_what_the_folder_draws(
    name: str, at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """Split over nodes a file gives the same pixels; each node loads its part alone, and one that
    needs all of them loads nothing more.
    """
    path = at(name)[1]
    pool.evict_idle()
    text = {"type": "text.encode", "model": path, "prompt": "a red fox"}
    draw(text=text)
    assert [identity.loader.rpartition(".")[2] for identity in pool.resident()] == ["TextParts"]
    latents = {
        "type": "diffusion.denoise",
        "model": path,
        "text": "${text}",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
    }
    ours = draw(
        text=text,
        latents=latents,
        picture={"type": "latents.decode", "model": path, "latents": "${latents}"},
    )
    loaded = pool.resident()
    whole = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": path,
            "prompt": "a red fox",
            "num_inference_steps": 2,
            "width": 32,
            "height": 48,
            "seed": 3,
        }
    )
    assert np.array_equal(ours.pixels, whole.pixels)
    assert pool.resident() == loaded


def test_a_refiner_in_one_file_redraws(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """SDXL's refiner has one text encoder, by another name in the file."""
    flow.Image(np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)).to_pil().save(
        tmp_path / "photo.png"
    )
    photo = {"type": "image.load", "file": str(tmp_path / "photo.png")}
    ours, theirs = (
        draw(
            photo=photo,
            one={
                "type": "diffusion.image_to_image",
                "model": path,
                "image": "${photo}",
                "prompt": "a fox",
                "strength": 0.6,
                "num_inference_steps": 4,
                "seed": 3,
            },
        )
        for path in reversed(at("refiner"))
    )
    assert alike(ours.pixels, theirs.pixels)


def test_what_completes_a_file_is_named_when_it_is_missing(
    at: Callable[[str], tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without configurations the plan says once where they come from and what fetches them."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tmp_path / "mine.safetensors"
    file.write_bytes(Path(at("sdxl")[1]).read_bytes())
    latents = {"type": "diffusion.denoise", "model": str(file), "text": "${text}", "seed": 1}
    said = problem(
        text={"type": "text.encode", "model": str(file), "prompt": "a"},
        latents=latents,
        picture={"type": "latents.decode", "model": str(file), "latents": "${latents}"},
    )
    assert "error[unresolved-model]: unresolved: " in said
    assert (
        "its configurations and tokenizers come from hf:stabilityai/stable-diffusion-xl-base-1.0"
        in said
    )
    assert f"run `imagen-flow models pull {file}`" in said


def without(file: str, beginning: str, to: Path) -> str:
    """Write a file's weights but those of one part."""
    save_file(
        {
            name: tensor
            for name, tensor in load_file(file).items()
            if not name.startswith(beginning)
        },
        to,
    )
    return str(to)


def test_a_part_that_the_file_lacks_comes_from_what_completes_it(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """SD 3 is traded without its largest text encoder: it is taken from the repository if it is
    here, else the plan says which part is lacking.
    """
    folder, file = at("sd3")
    path = without(file, "text_encoders.t5xxl.", tmp_path / "mine.safetensors")
    (tmp_path / "mine").symlink_to(Path(file).with_suffix(""))
    node = {
        "type": "diffusion.text_to_image",
        "prompt": "a red fox",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
    }
    said = problem(one={**node, "model": path})
    assert "its text_encoder_3" in said
    assert "there are no weights of text_encoder_3" in said
    (tmp_path / "mine").unlink()
    (tmp_path / "mine").symlink_to(folder)
    assert alike(
        draw(one={**node, "model": path}).pixels, draw(one={**node, "model": folder}).pixels
    )


def test_a_file_with_too_little_is_refused(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """A denoiser that lacks a weight, or has one that the model has no place for, draws nothing."""
    file = at("sd15")[1]
    (tmp_path / "mine").symlink_to(Path(file).with_suffix(""))
    node = {
        "type": "diffusion.text_to_image",
        "model": str(tmp_path / "mine.safetensors"),
        "prompt": "a",
        "seed": 1,
        "num_inference_steps": 1,
    }
    without(file, "model.diffusion_model.time_embed.0.bias", tmp_path / "mine.safetensors")
    with pytest.raises(
        flow.NodeError,
        match="mine.safetensors holds no unet that fits the model .*: it lacks 1 weights, time_embedding.linear_1.bias first",
    ):
        draw(one=node)
    save_file(
        {**load_file(file), "model.diffusion_model.scale_input": torch.ones(2)},
        tmp_path / "mine.safetensors",
    )
    with pytest.raises(flow.NodeError, match="it has 2 numbers for which this model has no place"):
        draw(one=node)


@pytest.mark.parametrize("cut", [5, 1000, -5])
def test_a_truncated_file_is_refused(
    cut: int, at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """A download that broke off is told before anything runs."""
    (tmp_path / "mine.safetensors").write_bytes(Path(at("sd15")[1]).read_bytes()[:cut])
    assert "is damaged: mine.safetensors is not a complete safetensors file" in problem(
        one={
            "type": "diffusion.text_to_image",
            "model": str(tmp_path / "mine.safetensors"),
            "prompt": "a",
            "seed": 1,
        }
    )


def vae_alone(file: Path) -> Path:
    save_file(
        {
            "encoder.conv_in.weight": torch.ones(1),
            "decoder.conv_in.weight": torch.ones(1),
            "quant_conv.weight": torch.ones(1),
        },
        file,
    )
    return file


def unknown(file: Path) -> Path:
    save_file({"x": torch.ones(1)}, file)
    return file


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (companions.lora, "a LoRA"),
        (companions.embedding, "a textual inversion"),
        (vae_alone, "an autoencoder alone"),
        (companions.esrgan, "an enlarging network"),
        (unknown, "a single file of weights"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_said_to_be_what_it_is(
    make: Callable[[Path], Path], kind: str, tmp_path: Path
) -> None:
    """In the place of a checkpoint it is refused when planning, by every node."""
    path = str(make(tmp_path / "mine.safetensors"))
    for node in (
        {"type": "diffusion.text_to_image", "prompt": "a", "seed": 1},
        {"type": "text.encode", "prompt": "a"},
        {"type": "latents.noise", "width": 8, "height": 8, "seed": 1},
    ):
        assert f"it is {kind}, and" in problem(one={**node, "model": path})


def test_a_pickled_checkpoint_is_to_be_converted(tmp_path: Path) -> None:
    """A .ckpt is refused unless it is named; named and found harmless, it still is no checkpoint
    that could be completed.
    """
    pytest.importorskip("picklescan")
    torch.save(
        {"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}},
        tmp_path / "mine.ckpt",
    )
    path = str(tmp_path / "mine.ckpt")
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "one": {"type": "diffusion.text_to_image", "model": path, "prompt": "a", "seed": 1}
        },
        "outputs": {"out": "${one}"},
    }
    assert "is a pickle" in str(flow.plan(graph, store=None, device="cpu").problems[0])
    assert "it is a pickle (convert it to safetensors:" in str(
        flow.plan(graph, store=None, device="cpu", allow_pickle=[path]).problems[0]
    )


def test_a_lora_is_put_on_a_file_as_on_a_folder(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """What changes a checkpoint for one call does so wherever its weights came from, the words'
    part too, and is gone after.
    """
    lora = str(companions.lora(tmp_path / "style.safetensors"))
    node = {
        "type": "diffusion.text_to_image",
        "prompt": "a red fox",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
    }
    folder, file = at("sd15")
    plain = draw(one={**node, "model": file})
    ours, theirs = (draw(one={**node, "model": path, "loras": [lora]}) for path in (file, folder))
    assert alike(ours.pixels, theirs.pixels)
    assert not np.array_equal(ours.pixels, plain.pixels)
    assert np.array_equal(draw(one={**node, "model": file}).pixels, plain.pixels)


UNET = "model.diffusion_model."
MARKS: dict[str, dict[str, tuple[int, ...]]] = {
    "v1": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "inpainting": {
        f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3),
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "instruct-pix2pix": {
        f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3),
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "v2": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    },
    "inpainting_v2": {
        f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3),
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    },
    "upscale": {
        f"{UNET}input_blocks.0.0.weight": (256, 7, 3, 3),
        f"{UNET}input_blocks.10.0.skip_connection.bias": (1024,),
    },
    "xl_base": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}label_emb.0.0.weight": (1280, 2816),
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    },
    "xl_inpaint": {
        f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3),
        f"{UNET}label_emb.0.0.weight": (1280, 2816),
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    },
    "xl_refiner": {
        f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3),
        f"{UNET}label_emb.0.0.weight": (1536, 2560),
        "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    },
    "playground-v2-5": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}label_emb.0.0.weight": (1280, 2816),
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
        "edm_mean": (4,),
    },
    "sd3": {
        f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        f"{UNET}pos_embed": (1, 36864, 1536),
    },
    "sd35_medium": {
        f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        f"{UNET}pos_embed": (1, 147456, 1536),
    },
    "sd35_large": {
        f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (14592,),
        f"{UNET}pos_embed": (1, 36864, 2432),
        f"{UNET}joint_blocks.37.x_block.mlp.fc1.weight": (9728, 2432),
    },
    "flux-dev": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "guidance_in.in_layer.bias": (3072,),
        "img_in.weight": (3072, 64),
    },
    "flux-schnell": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "img_in.weight": (3072, 64),
    },
    "flux-fill": {
        f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        f"{UNET}guidance_in.in_layer.bias": (3072,),
        f"{UNET}img_in.weight": (3072, 384),
    },
    "flux-depth": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "guidance_in.in_layer.bias": (3072,),
        "img_in.weight": (3072, 128),
    },
}


def test_files_are_known_as_diffusers_knows_them() -> None:
    """For each kind the repository that completes it is the one that diffusers infers from the
    tensors.
    """
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
    )

    assert MARKS.keys() == single_file.BASES.keys()
    for kind, shapes in MARKS.items():
        assert infer_diffusers_model_type(
            {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        ) in (kind, "xl_base" if kind == "playground-v2-5" else kind)
        base = single_file.base_of({name: {"shape": list(shape)} for name, shape in shapes.items()})
        assert base is not None
        assert (
            base.reference
            == "hf:" + DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
        )
        assert {part for part, _ in base.holds} & {"unet", "transformer"}
        assert "vae" in base.lacks


@pytest.mark.parametrize("shape", [[], [1], None, 7, "x", [None, None]])
def test_a_header_may_say_anything(shape: Any) -> None:
    """What comes from a stranger is taken for some kind or for none; that it makes no sense is said
    when it is loaded.
    """
    for shapes in MARKS.values():
        single_file.base_of({name: {"dtype": "F32", "shape": shape} for name in shapes})
        single_file.base_of(
            {**{name: {"dtype": "F32"} for name in shapes}, "__metadata__": {"shape": "x"}}
        )


def test_a_header_that_makes_no_sense_is_refused(
    at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """Shapes that do not go with the bytes are no checkpoint, whatever the names say; nor is what a
    file still holds when nobody knows the names of its denoiser.
    """
    content = Path(at("sd15")[1]).read_bytes()
    (tmp_path / "mine").symlink_to(Path(at("sd15")[1]).with_suffix(""))
    length = int.from_bytes(content[:8], "little")
    (tmp_path / "mine.safetensors").write_bytes(
        content[:8]
        + content[8 : 8 + length].replace(b'"shape":[32,4,3,3]', b'"shape":[31,4,3,3]')
        + content[8 + length :]
    )
    assert "F32 of [31, 4, 3, 3] lie from byte" in problem(
        one={
            "type": "diffusion.text_to_image",
            "model": str(tmp_path / "mine.safetensors"),
            "prompt": "a",
            "seed": 1,
        }
    )
    (tmp_path / "mine").unlink()
    (tmp_path / "mine.safetensors").write_bytes(
        content[:8]
        + content[8 : 8 + length].replace(b"model.diffusion", b"modal.diffusion")
        + content[8 + length :]
    )
    assert "an autoencoder alone" in problem(
        one={
            "type": "diffusion.text_to_image",
            "model": str(tmp_path / "mine.safetensors"),
            "prompt": "a",
            "seed": 1,
        }
    )


def test_a_tiny_model_is_of_the_files_kind(
    at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """What a file is by its header goes before its name; each kind has its tiny model."""
    from imagen_flow_diffusion.tiny.kinds import MAKERS
    from imagen_flow_diffusion.tiny.known import BY_FILE, kind_of

    assert BY_FILE.keys() == single_file.BASES.keys()
    assert set(BY_FILE.values()) <= MAKERS.keys()
    file = tmp_path / "my-flux-lora.safetensors"
    file.write_bytes(Path(at("sdxl")[1]).read_bytes())
    assert kind_of(str(file), file) == "sdxl"
    assert kind_of(str(file), None) != "sdxl"


def changed(
    at: Callable[[str], tuple[str, str]],
    name: str,
    to: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    metadata: dict[str, str] | None = None,
) -> str:
    """Write a checkpoint's file with other tensors, what completes it beside it."""
    file = at(name)[1]
    if not to.with_suffix("").exists():
        to.with_suffix("").symlink_to(Path(file).with_suffix(""))
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in change(load_file(file)).items()},
        to,
        metadata,
    )
    return str(to)


def drawing(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a red fox",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
        **more,
    }


MARKED: list[tuple[str, list[str], dict[str, str], dict[str, Any], str]] = [
    ("sdxl", ["v_pred"], {}, {"prediction_type": "v_prediction"}, ""),
    (
        "sdxl",
        ["v_pred", "ztsnr"],
        {},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        "",
    ),
    ("sdxl", [], {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}, ""),
    (
        "sdxl",
        ["ztsnr"],
        {"modelspec.prediction_type": "V_Prediction"},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        "",
    ),
    (
        "sd15",
        ["v_pred"],
        {"modelspec.prediction_type": "epsilon"},
        {"prediction_type": "v_prediction"},
        "",
    ),
    (
        "sd15",
        ["v_pred", "ztsnr"],
        {},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
        "DDIMScheduler",
    ),
    ("sd2", [], {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}, ""),
    ("sdxl", ["ztsnr"], {}, {"prediction_type": "epsilon"}, ""),
]


@pytest.mark.parametrize(("name", "marks", "metadata", "settings", "sampler"), MARKED)
def test_a_file_is_sampled_as_it_says(
    name: str,
    marks: list[str],
    metadata: dict[str, str],
    settings: dict[str, Any],
    sampler: str,
    at: Callable[[str], tuple[str, str]],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Marks in the file, and its metadata, say what it predicts and whether its schedule ends
    without signal: the picture is that of the folder with such a sampler.
    """
    import diffusers

    path = changed(
        at,
        name,
        tmp_path / "mine.safetensors",
        lambda state: state | {mark: torch.tensor([]) for mark in marks},
        metadata,
    )
    pipeline = by_hand(at(name)[0])
    made = getattr(diffusers, sampler) if sampler else type(pipeline.scheduler)
    pipeline.scheduler = made.from_config(pipeline.scheduler.config, **settings)
    theirs = pipeline(
        "a red fox",
        num_inference_steps=2,
        width=32,
        height=48,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]
    # A schedule that ends without signal begins with noise 4,096 times as large as the picture, and
    # the last bit is seen.
    off = np.abs(draw(one=drawing(path)).pixels.astype(int) - np.asarray(theirs)).max()
    assert off <= 1 + ("rescale_betas_zero_snr" in settings)
    if settings["prediction_type"] != "epsilon":
        assert (
            np.abs(draw(one=drawing(at(name)[1])).pixels.astype(int) - np.asarray(theirs)).max()
            > 20
        )


def test_a_sampler_that_is_chosen_goes_by_what_the_file_says(
    at: Callable[[str], tuple[str, str]],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Another class gets the prediction type too; and a denoiser in the place of another brings its
    own.
    """
    import diffusers

    path = changed(
        at,
        "sdxl",
        tmp_path / "mine.safetensors",
        lambda state: state | {"v_pred": torch.tensor([])},
    )
    pipeline = by_hand(at("sdxl")[0])
    own = pipeline.scheduler
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        own.config, prediction_type="v_prediction"
    )
    theirs = pipeline(
        "a red fox",
        num_inference_steps=2,
        width=32,
        height=48,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]
    assert alike(draw(one=drawing(path, sampler="DPMSolverMultistep")).pixels, np.asarray(theirs))
    pipeline.scheduler = type(own).from_config(own.config, prediction_type="v_prediction")
    theirs = pipeline(
        "a red fox",
        num_inference_steps=2,
        width=32,
        height=48,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]
    assert alike(draw(one=drawing(at("sdxl")[0], denoiser=path)).pixels, np.asarray(theirs))
    assert alike(
        draw(one=drawing(path, denoiser=at("sdxl")[0])).pixels,
        draw(one=drawing(at("sdxl")[0])).pixels,
    )


def test_a_prediction_that_no_sampler_follows_is_refused_when_planning(
    at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """A file that says something else is not drawn as if it predicted noise."""
    path = changed(
        at,
        "sdxl",
        tmp_path / "mine.safetensors",
        dict,
        {
            "modelspec.prediction_type": "rf",
            "modelspec.architecture": "stable-diffusion-xl-v1-base",
        },
    )
    assert (
        "mine.safetensors says that it predicts 'rf' (modelspec.prediction_type), and samplers follow epsilon, sample, v_prediction"
        in problem(one=drawing(path))
    )


def test_three_nodes_sample_a_file_as_it_says(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """Split over nodes it is what one node draws, and not what the file without its mark gives."""
    path = changed(
        at,
        "sdxl",
        tmp_path / "mine.safetensors",
        lambda state: state | {"v_pred": torch.tensor([])},
    )
    text = {"type": "text.encode", "model": path, "prompt": "a red fox"}
    latents = {
        "type": "diffusion.denoise",
        "model": path,
        "text": "${text}",
        "num_inference_steps": 2,
        "width": 32,
        "height": 48,
        "seed": 3,
    }
    ours = draw(
        text=text,
        latents=latents,
        picture={"type": "latents.decode", "model": path, "latents": "${latents}"},
    )
    assert np.array_equal(ours.pixels, draw(one=drawing(path)).pixels)
    assert not np.array_equal(ours.pixels, draw(one=drawing(at("sdxl")[1])).pixels)


def test_a_velocity_at_any_noise_is_sampled_between_its_ends(tmp_path: Path) -> None:
    """What CosXL's two numbers say makes a sampler that ends at the picture with a perfect model."""
    from diffusers import EulerDiscreteScheduler

    from imagen_flow_diffusion.pipelines.samplers import as_trained

    save_file(
        {
            "edm_vpred.sigma_max": torch.tensor(120.0),
            "edm_vpred.sigma_min": torch.tensor(0.002),
            "x": torch.ones(1),
        },
        tmp_path / "mine.safetensors",
    )
    said = single_file.predicts(flow.Model(tmp_path / "mine.safetensors"))
    assert said == {
        "prediction_type": "v_prediction",
        "sigma_max": 120.0,
        "sigma_min": pytest.approx(0.002),
    }
    sampler = as_trained(EulerDiscreteScheduler(), said)
    sampler.set_timesteps(8)
    clean = torch.linspace(-2, 2, 64).reshape(1, 4, 4, 4)
    x = (
        torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        * sampler.init_noise_sigma
    )
    for time in sampler.timesteps:
        sigma = float((time * 4).exp())  # the model is told a quarter of the logarithm of the noise
        seen = sampler.scale_model_input(x, time)
        alpha = 1 / (sigma**2 + 1) ** 0.5
        noise = (seen - alpha * clean) / (sigma * alpha)
        x = sampler.step(alpha * noise - sigma * alpha * clean, time, x).prev_sample
    assert torch.allclose(x, clean, atol=1e-3)


def scaled(
    state: dict[str, torch.Tensor], part: str, ending: str, shape: str
) -> dict[str, torch.Tensor]:
    """A part's matrices as 8-bit floats with scales beside them, and with what else such files
    hold.
    """
    found = dict(state)
    for name, weight in state.items():
        if (
            not name.startswith(part)
            or weight.ndim < 2
            or not name.endswith("weight")
            or "embedding" in name
        ):
            continue
        layer = name.removesuffix("weight")
        if shape == "rows":
            scale = weight.abs().amax(dim=tuple(range(1, weight.ndim))) / 448
            factor = scale.reshape(-1, *[1] * (weight.ndim - 1))
        elif shape == "squares" and weight.ndim == 2:
            rows, columns = (-(-side // 128) for side in weight.shape)
            scale = torch.rand(rows, columns) * 0.01 + weight.abs().max() / 400
            factor = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[
                : weight.shape[0], : weight.shape[1]
            ]
        else:
            factor = scale = weight.abs().max().reshape(1) / 448
        found[name], found[layer + ending] = (weight / factor).to(torch.float8_e4m3fn), scale
        found[layer + {"scale_weight": "scale_input"}.get(ending, "input_scale")] = torch.ones(1)
        found[layer + "comfy_quant"] = torch.tensor(
            list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
        )
    found[f"{part}scaled_fp8"] = torch.tensor([], dtype=torch.float8_e4m3fn)
    return found


@pytest.mark.parametrize(
    ("ending", "shape"),
    [("scale_weight", "one"), ("weight_scale", "rows"), ("weight_scale_inv", "squares")],
)
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sd15", "cond_stage_model.transformer."),
        ("sd15", "model.diffusion_model."),
        ("sd15", "first_stage_model."),
        ("sdxl", "conditioner.embedders.1.model."),
        ("sd3", "text_encoders.t5xxl.transformer."),
        ("flux", "text_encoders.t5xxl.transformer."),
    ],
)
def test_8_bit_floats_are_read_with_their_scales(
    name: str,
    part: str,
    ending: str,
    shape: str,
    at: Callable[[str], tuple[str, str]],
    tmp_path: Path,
) -> None:
    """In every part of a file each weight is the number times its scale, within what 8 bits round."""
    if (name, part) == ("sd3", "text_encoders.t5xxl.transformer.") and shape != "one":
        pytest.skip("as FLUX's")
    path = changed(
        at, name, tmp_path / "mine.safetensors", lambda state: scaled(state, part, ending, shape)
    )
    model, plain = (
        [
            resolve(
                text, folder=tmp_path, embedded={}, digest=digest_file, base_of=single_file.base_of
            )
        ]
        for text in (path, at(name)[1])
    )
    of = {beginning: name for name, beginning in model[0].base.holds if part.startswith(beginning)}  # type: ignore[union-attr]
    entry = index_of(model[0])[of[max(of)]]
    ours, theirs = (
        parts.load_component(one[0], of[max(of)], entry, device="cpu", dtype="float32").state_dict()
        for one in (model, plain)
    )
    assert ours.keys() == theirs.keys()
    assert all(
        (ours[key] - theirs[key]).abs().max() <= 0.07 * theirs[key].abs().max() + 1e-6
        for key in theirs
        if theirs[key].is_floating_point()
    )
    assert any(not torch.equal(ours[key], theirs[key]) for key in theirs)


def test_scales_that_are_not_understood_are_refused(
    at: Callable[[str], tuple[str, str]], failure: Callable[..., str], tmp_path: Path
) -> None:
    """A scale of another shape, of a weight that is not in 8 bits, or of none: the file is named."""

    def spoilt(change: Callable[[dict[str, torch.Tensor], str, str], None]) -> str:
        def make(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            found = scaled(state, "cond_stage_model.transformer.", "scale_weight", "one")
            name = next(name for name in found if name.endswith("scale_weight"))
            change(found, name, name.replace("scale_weight", "weight"))
            return found

        return failure(one=drawing(changed(at, "sd15", tmp_path / "mine.safetensors", make)))

    assert "the scale of cond_stage_model." in spoilt(
        lambda state, scale, weight: state.update({scale: torch.ones(3)})
    )
    assert "only 8-bit floats with one scale are read" in spoilt(
        lambda state, scale, weight: state.update({weight: torch.ones(32, 32)})
    )
    assert "only 8-bit floats with one scale are read" in spoilt(
        lambda state, scale, weight: state.update(
            {weight.replace("weight", "weight_scale_2"): torch.ones(1)}
        )
    )
    said = spoilt(
        lambda state, scale, weight: state.update(
            {scale.replace("fc1", "fc9").replace("q_proj", "fc9"): torch.ones(1)}
        )
    )
    assert said.startswith("mine.safetensors holds no text_encoder that fits the model")
    assert "is a scale, and there is no weight of 8-bit floats that it is for" in said


@pytest.mark.parametrize(
    "part", ["cond_stage_model.transformer.", "model.diffusion_model.", "first_stage_model."]
)
def test_weights_of_whole_numbers_are_refused(
    part: str, at: Callable[[str], tuple[str, str]], failure: Callable[..., str], tmp_path: Path
) -> None:
    """The libraries would take the numbers of a quantization for the weights themselves."""

    def whole(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: weight.to(torch.int8)
            if name.startswith(part) and name.endswith("weight") and weight.ndim > 1
            else weight
            for name, weight in state.items()
        }

    said = failure(one=drawing(changed(at, "sd15", tmp_path / "mine.safetensors", whole)))
    assert said.startswith("mine.safetensors holds no ")
    assert re.search(rf"{re.escape(part)}\S+weight holds int8: numbers of a quantization", said)


def test_8_bit_floats_with_scales_in_a_folder_are_refused_when_planning(
    at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """The libraries read a folder's weights without their scales: part and file are named."""
    import shutil

    folder = tmp_path / "sd"
    shutil.copytree(at("sd15")[0], folder)
    for part in ("text_encoder", "vae", "unet"):
        file = next((folder / part).glob("*.safetensors"))
        before = file.read_bytes()
        save_file(scaled(load_file(file), "", "scale_weight", "one"), file, {"format": "pt"})
        said = problem(one=drawing(str(folder)))
        assert (
            f"the {part} of the model '{folder}' cannot be read: {file.name} holds 8-bit floats with scales beside them ("
            in said
        )
        file.write_bytes(before)


def test_whole_numbers_in_a_folder_are_refused_when_planning(
    at: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    """The libraries read them as the weights that they stand for in some quantization."""
    import shutil

    folder = tmp_path / "sd"
    shutil.copytree(at("sd15")[0], folder)
    file = next((folder / "text_encoder").glob("*.safetensors"))
    save_file(
        {name: (weight * 100).to(torch.int8) for name, weight in load_file(file).items()},
        file,
        {"format": "pt"},
    )
    said = problem(one=drawing(str(folder)))
    assert (
        f"the text_encoder of the model '{folder}' cannot be read: {file.name} holds weights of whole numbers ("
        in said
    )


def test_a_tokenizer_that_says_no_length_reads_as_far_as_its_encoder(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """Without ``model_max_length`` in its configuration the picture is the same."""
    import json
    import shutil

    folder = tmp_path / "sdxl"
    shutil.copytree(at("sdxl")[0], folder)
    for part in ("tokenizer", "tokenizer_2"):
        config = json.loads((folder / part / "tokenizer_config.json").read_text())
        del config["model_max_length"]
        (folder / part / "tokenizer_config.json").write_text(json.dumps(config))
    prompt = "a very long prompt, " * 40
    assert np.array_equal(
        draw(one=drawing(str(folder), prompt=prompt)).pixels,
        draw(one=drawing(at("sdxl")[0], prompt=prompt)).pixels,
    )


def test_a_lora_is_trained_on_a_file_as_on_a_folder(
    at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """With the same losses; and on velocity with zero terminal SNR, where the file says so."""
    folder, file = at("sdxl")
    told = changed(
        at,
        "sdxl",
        tmp_path / "told.safetensors",
        lambda held: {**held, "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])},
    )
    losses = []
    for path in (folder, file, told):
        lora = {
            "type": "train.lora",
            "model": path,
            "images": ["${grey}"],
            "captions": ["a fox"],
            "steps": 2,
            "rank": 2,
            "resolution": 64,
            "min_snr_gamma": 0.0,
            "seed": 5,
        }
        grey = {"type": "image.noise", "width": 64, "height": 64, "seed": 1}
        rows = draw(grey=grey, lora=lora, losses={"type": "flow.first", "a": "${lora.losses}"})
        losses.append([row["loss"] for row in rows])
    assert losses[0] == losses[1]
    assert losses[2] != losses[1]
