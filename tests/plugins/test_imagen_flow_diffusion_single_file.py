"""A checkpoint that is one file draws what the same checkpoint draws as a folder, bit for bit; a file that is something else is said to be that."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import imagen_flow as flow
from imagen_flow.digest import digest_file
from imagen_flow.models import ModelPool, quiet_libraries, resolve
from imagen_flow_diffusion.checkpoints import single_file
from imagen_flow_diffusion.leased import components
from imagen_flow_diffusion.tiny import beside, checkpoints

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"), pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")]


def stable_diffusion_3(folder: Path) -> Path:
    """Files of SD 3 have no projection of the first text encoder: it changes nothing there, and diffusers takes one that does so."""
    checkpoints.stable_diffusion_3(folder)
    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    save_file({**state, "text_projection.weight": torch.eye(len(state["text_projection.weight"]))}, file, {"format": "pt"})
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd15": checkpoints.stable_diffusion,
    "sd2": checkpoints.stable_diffusion,
    "inpainting": lambda folder: checkpoints.stable_diffusion(folder, class_name="StableDiffusionInpaintPipeline", reads=9),
    "sdxl": checkpoints.stable_diffusion_xl,
    "refiner": lambda folder: checkpoints.stable_diffusion_xl(folder, refiner=True),
    "sd3": stable_diffusion_3,
    "flux": checkpoints.flux,
}


@pytest.fixture(scope="module")
def original() -> ModuleType:
    """The way from folders to files; loaded here because test files import nothing from one another."""
    spec = importlib.util.spec_from_file_location("original", Path(__file__).with_name("original.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, original: ModuleType) -> Callable[[str], tuple[str, str]]:
    """Give a tiny checkpoint as a folder and as one file, beside which its configurations lie, and none of its weights."""
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
    plan = flow.plan({"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${" + list(nodes)[-1] + "}"}}, store=None, device="cpu")
    assert len(plan.problems) == 1, plan.problems
    return str(plan.problems[0])


def found(path: str) -> flow.Model:
    return resolve(path, folder=Path("/"), embedded={}, digest=digest_file, base_of=single_file.base_of)


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_weight_arrives(name: str, at: Callable[[str], tuple[str, str]]) -> None:
    """Each part that is loaded from the file has the weights of the folder's, all of them, the text encoders too."""
    folder, file = map(found, at(name))
    for group in ("text", "autoencoder") if name == "flux" else ("text", "denoiser", "autoencoder"):
        ours, theirs = (components._load(model, group, "cpu", "float32").parts for model in (file, folder))
        assert ours.keys() == theirs.keys()
        for part, module in theirs.items():
            if isinstance(module, torch.nn.Module):
                states = ours[part].state_dict(), module.state_dict()
                assert states[0].keys() == states[1].keys()
                assert [weight for weight, tensor in states[1].items() if not torch.equal(states[0][weight], tensor)] == []


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_one_node_draws_what_the_folder_draws(name: str, at: Callable[[str], tuple[str, str]], draw: Callable[..., Any]) -> None:
    """A whole checkpoint in one file gives the folder's pixels."""
    ours, theirs = (draw(one={"type": "diffusion.text_to_image", "model": path, "prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3}) for path in reversed(at(name)))
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert ours.pixels.std() > 5


def test_the_file_draws_what_diffusers_draws_of_it(at: Callable[[str], tuple[str, str]], draw: Callable[..., Any]) -> None:
    """The picture is that of ``from_single_file`` called by hand."""
    from diffusers import StableDiffusionPipeline

    file = at("sd15")[1]
    with quiet_libraries():
        pipeline = StableDiffusionPipeline.from_single_file(file, config=str(Path(file).with_suffix("")), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline("a red fox", num_inference_steps=2, width=32, height=48, generator=torch.Generator("cpu").manual_seed(3)).images[0]
    ours = draw(one={"type": "diffusion.text_to_image", "model": file, "prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3})
    assert np.array_equal(ours.pixels, np.asarray(theirs))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_three_nodes_draw_what_the_folder_draws(name: str, at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], pool: ModelPool) -> None:
    """Split over nodes a file gives the same pixels; each node loads its part alone, and one that needs all of them loads nothing more."""
    path = at(name)[1]
    pool.evict_idle()
    text = {"type": "text.encode", "model": path, "prompt": "a red fox"}
    draw(text=text)
    assert [identity.loader.rpartition(".")[2] for identity in pool.resident()] == ["TextParts"]
    latents = {"type": "diffusion.denoise", "model": path, "text": "${text}", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3}
    ours = draw(text=text, latents=latents, picture={"type": "latents.decode", "model": path, "latents": "${latents}"})
    loaded = pool.resident()
    whole = draw(one={"type": "diffusion.text_to_image", "model": path, "prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3})
    assert np.array_equal(ours.pixels, whole.pixels)
    assert pool.resident() == loaded


def test_a_refiner_in_one_file_redraws(at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path) -> None:
    """SDXL's refiner has one text encoder, by another name in the file."""
    flow.Image(np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)).to_pil().save(tmp_path / "photo.png")
    photo = {"type": "image.load", "file": str(tmp_path / "photo.png")}
    ours, theirs = (
        draw(photo=photo, one={"type": "diffusion.image_to_image", "model": path, "image": "${photo}", "prompt": "a fox", "strength": 0.6, "num_inference_steps": 4, "seed": 3}) for path in reversed(at("refiner"))
    )
    assert np.array_equal(ours.pixels, theirs.pixels)


def test_what_completes_a_file_is_named_when_it_is_missing(at: Callable[[str], tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without configurations the plan says once where they come from and what fetches them."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tmp_path / "mine.safetensors"
    file.write_bytes(Path(at("sdxl")[1]).read_bytes())
    latents = {"type": "diffusion.denoise", "model": str(file), "text": "${text}", "seed": 1}
    said = problem(text={"type": "text.encode", "model": str(file), "prompt": "a"}, latents=latents, picture={"type": "latents.decode", "model": str(file), "latents": "${latents}"})
    assert "error[unresolved-model]: unresolved: " in said
    assert "its configurations and tokenizers come from hf:stabilityai/stable-diffusion-xl-base-1.0" in said
    assert f"run `imagen-flow models pull {file}`" in said


def without(file: str, beginning: str, to: Path) -> str:
    """Write a file's weights but those of one part."""
    save_file({name: tensor for name, tensor in load_file(file).items() if not name.startswith(beginning)}, to)
    return str(to)


def test_a_part_that_the_file_lacks_comes_from_what_completes_it(at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path) -> None:
    """SD 3 is traded without its largest text encoder: it is taken from the repository if it is here, else the plan says which part is lacking."""
    folder, file = at("sd3")
    path = without(file, "text_encoders.t5xxl.", tmp_path / "mine.safetensors")
    (tmp_path / "mine").symlink_to(Path(file).with_suffix(""))
    node = {"type": "diffusion.text_to_image", "prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3}
    said = problem(one={**node, "model": path})
    assert "its text_encoder_3" in said
    assert "there are no weights of text_encoder_3" in said
    (tmp_path / "mine").unlink()
    (tmp_path / "mine").symlink_to(folder)
    assert np.array_equal(draw(one={**node, "model": path}).pixels, draw(one={**node, "model": folder}).pixels)


def test_a_file_with_too_little_is_refused(at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path) -> None:
    """A denoiser that lacks a weight, or has one that the model has no place for, draws nothing."""
    file = at("sd15")[1]
    (tmp_path / "mine").symlink_to(Path(file).with_suffix(""))
    node = {"type": "diffusion.text_to_image", "model": str(tmp_path / "mine.safetensors"), "prompt": "a", "seed": 1, "num_inference_steps": 1}
    without(file, "model.diffusion_model.time_embed.0.bias", tmp_path / "mine.safetensors")
    with pytest.raises(flow.NodeError, match="mine.safetensors holds no unet that fits the model .*: some of its weights are missing"):
        draw(one=node)
    save_file({**load_file(file), "model.diffusion_model.scale_input": torch.ones(2)}, tmp_path / "mine.safetensors")
    with pytest.raises(flow.NodeError, match="it has 2 numbers for which this model has no place"):
        draw(one=node)


@pytest.mark.parametrize("cut", [5, 1000, -5])
def test_a_truncated_file_is_refused(cut: int, at: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    """A download that broke off is told before anything runs."""
    (tmp_path / "mine.safetensors").write_bytes(Path(at("sd15")[1]).read_bytes()[:cut])
    assert "is damaged: mine.safetensors is no whole safetensors file" in problem(one={"type": "diffusion.text_to_image", "model": str(tmp_path / "mine.safetensors"), "prompt": "a", "seed": 1})


def vae_alone(file: Path) -> Path:
    save_file({"encoder.conv_in.weight": torch.ones(1), "decoder.conv_in.weight": torch.ones(1), "quant_conv.weight": torch.ones(1)}, file)
    return file


def unknown(file: Path) -> Path:
    save_file({"x": torch.ones(1)}, file)
    return file


@pytest.mark.parametrize(
    ("make", "kind"), [(beside.lora, "a LoRA"), (beside.embedding, "a textual inversion"), (vae_alone, "an autoencoder alone"), (beside.esrgan, "an enlarging network"), (unknown, "a single file of weights")]
)
def test_a_file_that_is_no_checkpoint_is_said_to_be_what_it_is(make: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    """In the place of a checkpoint it is refused when planning, by every node."""
    path = str(make(tmp_path / "mine.safetensors"))
    for node in ({"type": "diffusion.text_to_image", "prompt": "a", "seed": 1}, {"type": "text.encode", "prompt": "a"}, {"type": "latents.noise", "width": 8, "height": 8, "seed": 1}):
        assert f"it is {kind}, and" in problem(one={**node, "model": path})


def test_a_pickled_checkpoint_is_to_be_converted(tmp_path: Path) -> None:
    """A .ckpt is refused unless it is named; named and found harmless, it still is no checkpoint that could be completed."""
    pytest.importorskip("picklescan")
    torch.save({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}}, tmp_path / "mine.ckpt")
    path = str(tmp_path / "mine.ckpt")
    graph = {"imagen_flow": 1, "nodes": {"one": {"type": "diffusion.text_to_image", "model": path, "prompt": "a", "seed": 1}}, "outputs": {"out": "${one}"}}
    assert "is a pickle" in str(flow.plan(graph, store=None, device="cpu").problems[0])
    assert "it is a pickle (convert it to safetensors:" in str(flow.plan(graph, store=None, device="cpu", allow_pickle=[path]).problems[0])


def test_a_lora_is_put_on_a_file_as_on_a_folder(at: Callable[[str], tuple[str, str]], draw: Callable[..., Any], tmp_path: Path) -> None:
    """What changes a checkpoint for one call does so wherever its weights came from, the words' part too, and is gone after."""
    lora = str(beside.lora(tmp_path / "style.safetensors"))
    node = {"type": "diffusion.text_to_image", "prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 48, "seed": 3}
    folder, file = at("sd15")
    plain = draw(one={**node, "model": file})
    ours, theirs = (draw(one={**node, "model": path, "loras": [lora]}) for path in (file, folder))
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert not np.array_equal(ours.pixels, plain.pixels)
    assert np.array_equal(draw(one={**node, "model": file}).pixels, plain.pixels)


UNET = "model.diffusion_model."
MARKS: dict[str, dict[str, tuple[int, ...]]] = {
    "v1": {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1), f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)},
    "inpainting": {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3), f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)},
    "instruct-pix2pix": {f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3), f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)},
    "v2": {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
    "inpainting_v2": {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3), f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
    "upscale": {f"{UNET}input_blocks.0.0.weight": (256, 7, 3, 3), f"{UNET}input_blocks.10.0.skip_connection.bias": (1024,)},
    "xl_base": {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}label_emb.0.0.weight": (1280, 2816), "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
    "xl_inpaint": {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3), f"{UNET}label_emb.0.0.weight": (1280, 2816), "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
    "xl_refiner": {f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3), f"{UNET}label_emb.0.0.weight": (1536, 2560), "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
    "playground-v2-5": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}label_emb.0.0.weight": (1280, 2816), "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,), "edm_mean": (4,)
    },
    "sd3": {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,), f"{UNET}pos_embed": (1, 36864, 1536)},
    "sd35_medium": {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,), f"{UNET}pos_embed": (1, 147456, 1536)},
    "sd35_large": {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (14592,), f"{UNET}pos_embed": (1, 36864, 2432), f"{UNET}joint_blocks.37.x_block.mlp.fc1.weight": (9728, 2432)},
    "flux-dev": {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 64)},
    "flux-schnell": {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "img_in.weight": (3072, 64)},
    "flux-fill": {f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (128,), f"{UNET}guidance_in.in_layer.bias": (3072,), f"{UNET}img_in.weight": (3072, 384)},
    "flux-depth": {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 128)},
}


def test_files_are_known_as_diffusers_knows_them() -> None:
    """For each kind the repository that completes it is the one that diffusers infers from the tensors."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    assert MARKS.keys() == single_file.BASES.keys()
    for kind, shapes in MARKS.items():
        assert infer_diffusers_model_type({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}) in (kind, "xl_base" if kind == "playground-v2-5" else kind)
        base = single_file.base_of({name: {"shape": list(shape)} for name, shape in shapes.items()})
        assert base is not None
        assert base.reference == "hf:" + DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
        assert {part for part, _ in base.holds} & {"unet", "transformer"}
        assert "vae" in base.lacks


@pytest.mark.parametrize("shape", [[], [1], None, 7, "x", [None, None]])
def test_a_header_may_say_anything(shape: Any) -> None:
    """What comes from a stranger is taken for some kind or for none; that it makes no sense is said when it is loaded."""
    for shapes in MARKS.values():
        single_file.base_of({name: {"dtype": "F32", "shape": shape} for name in shapes})
        single_file.base_of({**{name: {"dtype": "F32"} for name in shapes}, "__metadata__": {"shape": "x"}})


def test_a_header_that_makes_no_sense_is_refused(at: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    """Shapes that do not go with the bytes are no checkpoint, whatever the names say; nor is what a file still holds when nobody knows the names of its denoiser."""
    content = Path(at("sd15")[1]).read_bytes()
    (tmp_path / "mine").symlink_to(Path(at("sd15")[1]).with_suffix(""))
    length = int.from_bytes(content[:8], "little")
    (tmp_path / "mine.safetensors").write_bytes(content[:8] + content[8 : 8 + length].replace(b'"shape":[32,4,3,3]', b'"shape":[31,4,3,3]') + content[8 + length :])
    assert "F32 of [31, 4, 3, 3] lie from byte" in problem(one={"type": "diffusion.text_to_image", "model": str(tmp_path / "mine.safetensors"), "prompt": "a", "seed": 1})
    (tmp_path / "mine").unlink()
    (tmp_path / "mine.safetensors").write_bytes(content[:8] + content[8 : 8 + length].replace(b"model.diffusion", b"modal.diffusion") + content[8 + length :])
    assert "an autoencoder alone" in problem(one={"type": "diffusion.text_to_image", "model": str(tmp_path / "mine.safetensors"), "prompt": "a", "seed": 1})


def test_a_tiny_model_is_of_the_files_kind(at: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    """What a file is by its header goes before its name; each kind has its tiny model."""
    from imagen_flow_diffusion.tiny.kinds import MAKERS
    from imagen_flow_diffusion.tiny.known import BY_FILE, kind_of

    assert BY_FILE.keys() == single_file.BASES.keys()
    assert set(BY_FILE.values()) <= MAKERS.keys()
    file = tmp_path / "my-flux-lora.safetensors"
    file.write_bytes(Path(at("sdxl")[1]).read_bytes())
    assert kind_of(str(file), file) == "sdxl"
    assert kind_of(str(file), None) != "sdxl"
