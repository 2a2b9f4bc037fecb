"""A part in the place of the checkpoint's own draws what diffusers draws with that part by hand;
one that does not fit is refused before anything is drawn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, companions, parts

gguf = pytest.importorskip("gguf")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


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


def quantized(
    state: dict[str, torch.Tensor], file: Path, *, kind: Any = gguf.GGMLQuantizationType.Q8_0
) -> Path:
    """Write weights as GGUF: matrices quantized where their rows can be, the rest in float32."""
    writer = gguf.GGUFWriter(file, "flux")
    for name, tensor in state.items():
        values = tensor.float().numpy()
        if (
            values.ndim == 2
            and values.shape[1] % 32 == 0
            and "embed" not in name
            and "_in." not in name
        ):
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def other(folder: Path, part: str, make: Callable[[Path], Path], *, seed: int = 77) -> Path:
    """Give a part of a checkpoint with other weights, as ``save_pretrained`` writes it."""
    import diffusers

    whole = make(folder.parent / f"{folder.name}-whole")
    cls = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "transformer": diffusers.FluxTransformer2DModel,
    }[part]
    torch.manual_seed(seed)
    with quiet_libraries():
        made = cls.from_config(cls.load_config(whole / part))
        made.save_pretrained(folder)
        made.save_pretrained(whole / part)
    return folder


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, original: ModuleType) -> Callable[[str], str]:
    """Give the path of a checkpoint or a part, made when it is first wanted."""
    home = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> str:
        if not (home / name).exists():
            with quiet_libraries():
                makers[name](home / name)
        return str(home / name)

    makers: dict[str, Callable[[Path], Path]] = {
        "sd15": checkpoints.stable_diffusion,
        "sdxl": checkpoints.stable_diffusion_xl,
        "sd3": checkpoints.stable_diffusion_3,
        "flux": checkpoints.flux,
        "unet": lambda folder: other(folder, "unet", checkpoints.stable_diffusion),
        "whole.safetensors": lambda file: original.single_file(Path(get("unet-whole")), file),
        "xl-vae": lambda folder: other(folder, "vae", checkpoints.stable_diffusion_xl),
        "xl-vae.safetensors": lambda file: save(
            original.vae(original.state_of(Path(get("xl-vae")))), file
        ),
        "transformer": lambda folder: other(folder, "transformer", checkpoints.flux),
        "flux.gguf": lambda file: quantized(original.state_of(Path(get("transformer"))), file),
        "sd3.gguf": lambda file: quantized(
            original.sd3_transformer(original.state_of(Path(get("sd3")) / "transformer")), file
        ),
        "lora.safetensors": companions.lora,
    }
    return get


def save(state: dict[str, torch.Tensor], file: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


ASKED = {"num_inference_steps": 2, "width": 32, "height": 48}


def noise() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(3)


def transformer(file: str, cls: str, checkpoint: str) -> Any:
    """A denoiser from GGUF as a user of diffusers loads it."""
    import diffusers

    with quiet_libraries():
        return getattr(diffusers, cls).from_single_file(
            file,
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
            config=checkpoint,
            subfolder="transformer",
            torch_dtype=torch.float32,
        )


@pytest.mark.parametrize(
    ("name", "cls"), [("flux", "FluxTransformer2DModel"), ("sd3", "SD3Transformer2DModel")]
)
def test_a_gguf_draws_as_by_hand(
    name: str,
    cls: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    pool: ModelPool,
) -> None:
    """A quantized denoiser gives the pipeline's pixels, by one node and by three; the checkpoint's
    own is not loaded, and all else is shared with who draws with that.
    """
    file = at(f"{name}.gguf")
    theirs = by_hand(at(name), transformer=transformer(file, cls, at(name)))(
        "a red fox", generator=noise(), **ASKED
    ).images[0]
    pool.evict_idle()
    one = {
        "type": "diffusion.text_to_image",
        "model": at(name),
        "denoiser": file,
        "prompt": "a red fox",
        "seed": 3,
        **ASKED,
    }
    assert np.array_equal(draw(one=one).pixels, np.asarray(theirs))
    loaded = pool.resident()
    assert [identity.loader.rpartition(".")[2] for identity in loaded].count("DenoiserParts") == 1
    text = {"type": "text.encode", "model": at(name), "prompt": "a red fox"}
    latents = {
        "type": "diffusion.denoise",
        "model": at(name),
        "denoiser": file,
        "text": "${text}",
        "seed": 3,
        **ASKED,
    }
    assert np.array_equal(
        draw(
            text=text,
            latents=latents,
            picture={"type": "latents.decode", "model": at(name), "latents": "${latents}"},
        ).pixels,
        np.asarray(theirs),
    )
    assert pool.resident() == loaded
    own = draw(one={key: value for key, value in one.items() if key != "denoiser"})
    assert not np.array_equal(own.pixels, np.asarray(theirs))
    assert len(pool.resident()) == len(loaded) + 1


def test_a_gguf_is_completed_as_a_checkpoint(
    at: Callable[[str], str], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """Named as the checkpoint itself, in its authors' names, it takes all else from what completes
    it, whose own denoiser is not needed.
    """
    whole, file = at("sd3"), at("sd3.gguf")
    one = {"type": "diffusion.text_to_image", "prompt": "a red fox", "seed": 3, **ASKED}
    theirs = draw(one={**one, "model": whole, "denoiser": file})
    weights = next((Path(whole) / "transformer").glob("*.safetensors"))
    aside = weights.rename(weights.with_suffix(".aside"))
    try:
        assert np.array_equal(draw(one={**one, "model": file}).pixels, theirs.pixels)
    finally:
        aside.rename(weights)
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": {**one, "model": file}},
        "outputs": {"out": "${one}"},
    }
    held = sum(
        path.stat().st_size
        for part in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
        for path in (Path(whole) / part).glob("*.safetensors")
    )
    assert (
        flow.plan(graph, store=None, device="cpu", dtype="float32").models[0]["size_bytes"]
        == held + Path(file).stat().st_size
    )


@pytest.mark.parametrize("name", ["unet", "unet-whole", "whole.safetensors"])
def test_a_denoiser_in_a_folder_draws_as_by_hand(
    name: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """What ``save_pretrained`` wrote of one part stands in for the checkpoint's; so does that part
    of another checkpoint, a folder or one file.
    """
    from diffusers import UNet2DConditionModel

    with quiet_libraries():
        unet = UNet2DConditionModel.from_pretrained(at("unet"))
    theirs = by_hand(at("sd15"), unet=unet)("a red fox", generator=noise(), **ASKED).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": at("sd15"),
            "denoiser": at(name),
            "prompt": "a red fox",
            "seed": 3,
            **ASKED,
        }
    )
    assert np.array_equal(ours.pixels, np.asarray(theirs))
    generic = {
        "type": "diffusion.pipeline",
        "model": at("sd15"),
        "denoiser": at(name),
        "arguments": {"prompt": "a red fox", **ASKED},
        "seed": 3,
    }
    assert np.array_equal(draw(one=generic)[0].pixels, np.asarray(theirs))


@pytest.mark.parametrize("vae", ["xl-vae", "xl-vae.safetensors"])
def test_an_autoencoder_decodes_as_by_hand(
    vae: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    pool: ModelPool,
) -> None:
    """Another autoencoder for SDXL, a folder or one file in its authors' names, gives the
    pipeline's pixels by one node and by three.
    """
    from diffusers import AutoencoderKL

    with quiet_libraries():
        loaded = AutoencoderKL.from_pretrained(at("xl-vae"))
    theirs = by_hand(at("sdxl"), vae=loaded)("a red fox", generator=noise(), **ASKED).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": at("sdxl"),
            "autoencoder": at(vae),
            "prompt": "a red fox",
            "seed": 3,
            **ASKED,
        }
    )
    assert np.array_equal(ours.pixels, np.asarray(theirs))
    pool.evict_idle()
    text = {"type": "text.encode", "model": at("sdxl"), "prompt": "a red fox"}
    latents = {
        "type": "diffusion.denoise",
        "model": at("sdxl"),
        "text": "${text}",
        "seed": 3,
        **ASKED,
    }
    split = draw(
        text=text,
        latents=latents,
        picture={
            "type": "latents.decode",
            "model": at("sdxl"),
            "autoencoder": at(vae),
            "latents": "${latents}",
        },
    )
    assert np.array_equal(split.pixels, np.asarray(theirs))
    assert [identity.loader.rpartition(".")[2] for identity in pool.resident()].count(
        "AutoencoderParts"
    ) == 1


def test_encoding_with_another_autoencoder(
    at: Callable[[str], str], draw: Callable[..., Any], photos: Callable[..., Any]
) -> None:
    """Pixels become its latents, in the space of the checkpoint's."""
    photo = photos(1)[1]
    own, others = (
        draw(
            photo=photo,
            latents={"type": "latents.encode", "model": at("sdxl"), "image": "${photo}", **more},
        )
        for more in ({}, {"autoencoder": at("xl-vae")})
    )
    assert own.tags == others.tags
    assert not torch.equal(own.torch(), others.torch())


def test_a_lora_is_put_on_a_gguf_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any], tmp_path: Path
) -> None:
    """A LoRA beside quantized weights draws what the pipeline draws with it, and is taken off
    again.
    """
    torch.manual_seed(5)
    made = transformer(at("flux.gguf"), "FluxTransformer2DModel", at("flux"))
    state = {}
    for name, layer in made.named_modules():
        if name.endswith(("to_q", "to_v")):
            state |= {
                f"transformer.{name}.lora_A.weight": torch.randn(2, layer.in_features) * 0.5,
                f"transformer.{name}.lora_B.weight": torch.randn(layer.out_features, 2) * 0.5,
            }
    lora = save(state, tmp_path / "style.safetensors")
    pipeline = by_hand(at("flux"), transformer=made)
    pipeline.load_lora_weights(str(tmp_path), weight_name=lora.name, local_files_only=True)
    theirs = pipeline("a red fox", generator=noise(), **ASKED).images[0]
    one = {
        "type": "diffusion.text_to_image",
        "model": at("flux"),
        "denoiser": at("flux.gguf"),
        "prompt": "a red fox",
        "seed": 3,
        **ASKED,
    }
    plain = draw(one=one)
    ours = draw(one={**one, "loras": [str(lora)]})
    assert np.array_equal(ours.pixels, np.asarray(theirs))
    assert not np.array_equal(ours.pixels, plain.pixels)
    assert np.array_equal(draw(one={**one, "seed": 3}).pixels, plain.pixels)


def test_a_gguf_comes_and_goes_as_a_whole(
    at: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where layers were to be offloaded one by one a quantized denoiser is offloaded as a whole:
    its weights cannot be taken apart from how they are packed.
    """
    from diffusers import FluxTransformer2DModel

    from imagen_flow_diffusion.checkpoints import translation

    placed: list[str] = []
    monkeypatch.setattr(
        loaders,
        "place_module",
        lambda module, *, device, settings: placed.append(settings.offload) or module,
    )
    for offload in ("none", "model", "layers"):
        given = {
            "like": Path(at("flux")),
            "part": "transformer",
            "of": "flux",
            "device": "cpu",
            "dtype": "float32",
        }
        translation.load_from_file(
            FluxTransformer2DModel,
            Path(at("flux.gguf")),
            "",
            settings=loaders.Loading(offload=offload),
            **given,
        )
    assert placed == ["none", "model", "model"]


def problems(**node: Any) -> str:
    plan = flow.plan(
        {
            "imagen_flow": 1,
            "nodes": {"one": {"type": "diffusion.text_to_image", "prompt": "a", "seed": 1, **node}},
            "outputs": {"out": "${one}"},
        },
        store=None,
        device="cpu",
    )
    return "\n".join(map(str, plan.problems))


@pytest.mark.parametrize(
    ("model", "port", "part", "why"),
    [
        (
            "sd15",
            "denoiser",
            "transformer",
            "it is a FluxTransformer2DModel, and that is a UNet2DConditionModel",
        ),
        ("sdxl", "denoiser", "unet", "its cross_attention_dim is 32, and that has 64"),
        ("sd15", "autoencoder", "xl-vae", "its scaling_factor is 0.13025, and that has 0.18215"),
        ("flux", "autoencoder", "xl-vae.safetensors", ""),
        ("sd15", "denoiser", "lora.safetensors", "it is a LoRA"),
        ("sdxl", "denoiser", "xl-vae.safetensors", "it is an autoencoder alone"),
        ("flux", "autoencoder", "flux.gguf", "GGUF holds denoisers"),
        ("sd15", "denoiser", "sdxl", "its cross_attention_dim is 64, and that has 32"),
        ("sd15", "denoiser", "flux", "it is a FluxPipeline, and that is a UNet2DConditionModel"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(
    model: str, port: str, part: str, why: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """By its class, by what the rest of the checkpoint goes by, or by its weights: when planning
    where that can be told, else when it is loaded.
    """
    if why:
        assert why in problems(model=at(model), **{port: at(part)}).replace("an UNet", "a UNet")
    else:
        assert problems(model=at(model), **{port: at(part)}) == ""
        with pytest.raises(flow.NodeError, match="holds no vae that fits the model"):
            draw(
                one={
                    "type": "diffusion.text_to_image",
                    "model": at(model),
                    port: at(part),
                    "prompt": "a",
                    "seed": 1,
                    **ASKED,
                }
            )


def test_a_gguf_of_another_kind_is_refused(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Weights that diffusers cannot translate for the checkpoint's denoiser draw nothing, which the
    names of their blocks tell when planning.
    """
    with pytest.raises(
        flow.GraphError, match="sd3.gguf.* it is no FluxTransformer2DModel, by the names in it"
    ):
        draw(
            one={
                "type": "diffusion.text_to_image",
                "model": at("flux"),
                "denoiser": at("sd3.gguf"),
                "prompt": "a",
                "seed": 1,
                **ASKED,
            }
        )


def test_a_checkpoint_without_such_a_part_takes_none(
    tmp_path: Path, at: Callable[[str], str]
) -> None:
    """A model that draws pixels has no autoencoder, and nothing to put another in the place of."""
    with quiet_libraries():
        checkpoints.ddpm(tmp_path / "ddpm")
    said = flow.plan(
        {
            "imagen_flow": 1,
            "nodes": {
                "one": {
                    "type": "diffusion.pipeline",
                    "model": str(tmp_path / "ddpm"),
                    "autoencoder": at("xl-vae"),
                    "seed": 1,
                }
            },
            "outputs": {"out": "${one}"},
        },
        store=None,
        device="cpu",
    ).problems
    assert "has none for its autoencoder: it cannot be replaced" in str(said[0])


def test_the_plan_weighs_the_part_that_is_loaded(
    at: Callable[[str], str], original: ModuleType
) -> None:
    """Of the checkpoint its own denoiser is not counted, and the file's is, as large as it stays."""
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "one": {
                "type": "diffusion.text_to_image",
                "model": at("flux"),
                "denoiser": at("flux.gguf"),
                "prompt": "a",
                "seed": 1,
            }
        },
        "outputs": {"out": "${one}"},
    }
    weighs = {
        Path(m["reference"]).name: m["memory_bytes"]
        for m in flow.plan(graph, store=None, device="cpu", dtype="float32").models
    }
    del graph["nodes"]["one"]["denoiser"]  # type: ignore[attr-defined]
    whole = flow.plan(graph, store=None, device="cpu", dtype="float32").models[0]["memory_bytes"]
    own = sum(
        4 * tensor.numel()
        for tensor in original.state_of(Path(at("flux")) / "transformer").values()
    )
    assert weighs["flux.gguf"] == Path(at("flux.gguf")).stat().st_size
    assert weighs["flux"] == whole - own


@pytest.mark.slow
def test_a_gguf_in_the_names_of_its_authors_draws_as_by_hand(
    tmp_path: Path, draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """FLUX of two blocks, as wide as the true one: diffusers translates its names for that width
    alone.
    """
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(1)
    with quiet_libraries():
        folder = checkpoints.flux(tmp_path / "flux")
        made = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=parts.WIDTH,
            guidance_embeds=True,
        )
        made.save_pretrained(folder / "transformer")
    file = quantized(authors(made.state_dict()), tmp_path / "flux.gguf")
    theirs = by_hand(
        str(folder), transformer=transformer(str(file), "FluxTransformer2DModel", str(folder))
    )("a red fox", generator=noise(), **ASKED).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": str(folder),
            "denoiser": str(file),
            "prompt": "a red fox",
            "seed": 3,
            **ASKED,
        }
    )
    assert np.array_equal(ours.pixels, np.asarray(theirs))


def authors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """FluxTransformer2DModel of one block of each kind in the names of its authors."""
    names = {
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "context_embedder": "txt_in",
        "x_embedder": "img_in",
        "proj_out": "final_layer.linear",
        "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.lin",
        "transformer_blocks.0.norm1_context.linear": "double_blocks.0.txt_mod.lin",
        "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
        "transformer_blocks.0.ff.net.2": "double_blocks.0.img_mlp.2",
        "transformer_blocks.0.ff_context.net.0.proj": "double_blocks.0.txt_mlp.0",
        "transformer_blocks.0.ff_context.net.2": "double_blocks.0.txt_mlp.2",
        "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
        "transformer_blocks.0.attn.to_add_out": "double_blocks.0.txt_attn.proj",
        "single_transformer_blocks.0.norm.linear": "single_blocks.0.modulation.lin",
        "single_transformer_blocks.0.proj_out": "single_blocks.0.linear2",
    }
    found = {
        f"{new}.{kind}": state[f"{old}.{kind}"]
        for old, new in names.items()
        for kind in ("weight", "bias")
    }
    block, single = "transformer_blocks.0.attn.", "single_transformer_blocks.0."
    for kind in ("weight", "bias"):
        found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat(
            state[f"norm_out.linear.{kind}"].chunk(2)[::-1]
        )
        found[f"double_blocks.0.img_attn.qkv.{kind}"] = torch.cat(
            [state[f"{block}to_{letter}.{kind}"] for letter in "qkv"]
        )
        found[f"double_blocks.0.txt_attn.qkv.{kind}"] = torch.cat(
            [state[f"{block}add_{letter}_proj.{kind}"] for letter in "qkv"]
        )
        found[f"single_blocks.0.linear1.{kind}"] = torch.cat(
            [
                *(state[f"{single}attn.to_{letter}.{kind}"] for letter in "qkv"),
                state[f"{single}proj_mlp.{kind}"],
            ]
        )
    for letter, word in {"q": "query", "k": "key"}.items():
        found[f"double_blocks.0.img_attn.norm.{word}_norm.scale"] = state[
            f"{block}norm_{letter}.weight"
        ]
        found[f"double_blocks.0.txt_attn.norm.{word}_norm.scale"] = state[
            f"{block}norm_added_{letter}.weight"
        ]
        found[f"single_blocks.0.norm.{word}_norm.scale"] = state[
            f"{single}attn.norm_{letter}.weight"
        ]
    return found
