"""Pictures read as prompts, by IP-Adapters of several families and kinds, give the pixels of
diffusers called by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagen_flow._models import quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": checkpoints.stable_diffusion,
    "sdxl": checkpoints.stable_diffusion_xl,
    "sd3": checkpoints.stable_diffusion_3,
    "flux": checkpoints.flux,
    "collection": companions.ip_adapter,
    "for-flux": companions.flux_ip_adapter,
    "clip": companions.clip,
    "lora.safetensors": companions.lora,
    "toy.safetensors": companions.embedding,
}

SIZE = {"width": 32, "height": 32}


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def drawn(model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": model,
        "prompt": "a fox",
        "num_inference_steps": 2,
        "seed": 3,
        **SIZE,
        **more,
    }


def three(model: str, **more: Any) -> dict[str, Any]:
    """The same by three nodes."""
    return {
        "text": {"type": "text.encode", "model": model, "prompt": "a fox"},
        "latents": {
            "type": "diffusion.denoise",
            "model": model,
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
            **SIZE,
            **more,
        },
        "out": {"type": "latents.decode", "model": model, "latents": "${latents}"},
    }


def encoder(path: str) -> Any:
    from transformers import CLIPVisionModelWithProjection

    with quiet_libraries():
        return CLIPVisionModelWithProjection.from_pretrained(path)


def hand_attached(
    pipeline: Any, collection: str, files: list[str], scales: list[float], home: str
) -> Any:
    """A pipeline with adapters put on by hand."""
    from transformers import CLIPImageProcessorPil

    pipeline.register_modules(
        image_encoder=encoder(f"{collection}/{home}/image_encoder"),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )
    pipeline.load_ip_adapter(
        collection,
        subfolder=[str(Path(file).parent) for file in files],
        weight_name=[Path(file).name for file in files],
        image_encoder_folder=None,
    )
    pipeline.set_ip_adapter_scale(scales)
    return pipeline


@pytest.mark.parametrize(
    ("base", "files", "scales", "home"),
    [
        ("sd", ["models/ip-adapter-plus_sd15.safetensors"], [0.7], "models"),
        ("sdxl", ["sdxl_models/ip-adapter_sdxl.safetensors"], [0.6], "sdxl_models"),
        ("sdxl", ["sdxl_models/ip-adapter_sdxl_vit-h.safetensors"], [0.6], "models"),
        ("sdxl", ["sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"], [0.7], "models"),
        (
            "sdxl",
            [
                "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
                "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
            ],
            [0.6, 0.3],
            "models",
        ),
    ],
    ids=["SD plus", "SDXL", "SDXL by the smaller encoder", "SDXL plus", "SDXL, two"],
)
def test_a_picture_is_read_as_a_prompt(
    base: str,
    files: list[str],
    scales: list[float],
    home: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """The encoder is found where the collection keeps it; one adapter or several; afterwards the
    base draws as before.
    """
    plain = draw(one=drawn(at(base)))
    pictures = [photos(number) for number in range(len(files))]
    pipeline = hand_attached(by_hand(at(base)), at("collection"), files, scales, home)
    theirs = pipeline(
        "a fox",
        ip_adapter_image=[picture for picture, _ in pictures],
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
    ).images[0]
    loads = {f"photo{number}": load for number, (_, load) in enumerate(pictures)}
    adapters = {
        "ip_adapters": [
            {"model": at("collection"), "file": file, "scale": scale, "image": "${" + name + "}"}
            for file, scale, name in zip(files, scales, loads, strict=True)
        ]
    }
    ours = draw(**loads, one=drawn(at(base), **adapters))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    assert same(draw(**loads, **three(at(base), **adapters)), theirs)
    assert same(draw(one=drawn(at(base))), plain.pixels)


def test_all_that_can_be_put_on_at_once(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """A LoRA, a word and a picture together, twice, in one node and in three; afterwards the base
    draws as before.
    """
    file = "models/ip-adapter_sd15.safetensors"
    picture, load = photos(0)
    prompt = "a <toy> fox"
    plain = draw(one=drawn(at("sd"), prompt=prompt))
    pipeline = by_hand(at("sd"))
    pipeline.load_lora_weights(at("lora.safetensors"), adapter_name="one")
    pipeline.set_adapters(["one"], [0.7])
    pipeline.load_textual_inversion(at("toy.safetensors"), token="<toy>")
    pipeline = hand_attached(pipeline, at("collection"), [file], [0.6], "models")
    theirs = pipeline(
        prompt, ip_adapter_image=picture, generator=noise(), num_inference_steps=2, **SIZE
    ).images[0]
    loras = {"loras": [{"model": at("lora.safetensors"), "weight": 0.7}]}
    words = {"embeddings": [at("toy.safetensors")]}
    read = {
        "ip_adapters": [
            {"model": at("collection"), "file": file, "scale": 0.6, "image": "${photo}"}
        ]
    }
    for _ in range(2):
        assert same(
            draw(photo=load, one=drawn(at("sd"), prompt=prompt, **loras, **words, **read)), theirs
        )
        nodes = three(at("sd"), **loras, **read)
        nodes["text"] |= {"prompt": prompt, **loras, **words}
        assert same(draw(photo=load, **nodes), theirs)
        assert same(draw(one=drawn(at("sd"), prompt=prompt)), plain.pixels)


def test_one_adapter_reads_several_pictures(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Several pictures for one adapter are one prompt."""
    file = "sdxl_models/ip-adapter_sdxl_vit-h.safetensors"
    pictures = [photos(number) for number in range(2)]
    pipeline = hand_attached(by_hand(at("sdxl")), at("collection"), [file], [0.5], "models")
    theirs = pipeline(
        "a fox",
        ip_adapter_image=[[picture for picture, _ in pictures]],
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
    ).images[0]
    adapters = {
        "ip_adapters": [
            {"model": at("collection"), "file": file, "scale": 0.5, "image": ["${a}", "${b}"]}
        ]
    }
    assert same(draw(a=pictures[0][1], b=pictures[1][1], one=drawn(at("sdxl"), **adapters)), theirs)


def test_each_of_several_adapters_may_read_several_pictures(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Two pictures for one adapter and one for the other, as lists in the list by hand."""
    files = [
        "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
    ]
    (a, b, c), loads = zip(*(photos(number) for number in range(3)), strict=True)
    pipeline = hand_attached(by_hand(at("sdxl")), at("collection"), files, [0.6, 1.0], "models")
    theirs = pipeline(
        "a fox",
        ip_adapter_image=[[a, b], [c]],
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
    ).images[0]
    adapters = [
        {"model": at("collection"), "file": files[0], "scale": 0.6, "image": ["${a}", "${b}"]},
        {"model": at("collection"), "file": files[1], "image": "${c}"},
    ]
    nodes = dict(zip("abc", loads, strict=True))
    assert same(draw(**nodes, one=drawn(at("sdxl"), ip_adapters=adapters)), theirs)


@pytest.mark.parametrize("count", [1, 2])
def test_flux_reads_pictures_by_an_encoder_that_is_named(
    count: int,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Its adapters bring no encoder: CLIP's is named beside them."""
    from transformers import CLIPImageProcessorPil

    pictures = [photos(number) for number in range(count)]
    pipeline = by_hand(at("flux"))
    pipeline.register_modules(
        image_encoder=encoder(at("clip")),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )
    pipeline.load_ip_adapter(
        [at("for-flux")] * count,
        subfolder=[""] * count,
        weight_name=["ip_adapter.safetensors"] * count,
        image_encoder_pretrained_model_name_or_path=None,
    )
    scales = [0.7, 0.4][:count]
    pipeline.set_ip_adapter_scale(scales)
    theirs = pipeline(
        "a fox",
        ip_adapter_image=[picture for picture, _ in pictures],
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
    ).images[0]
    plain = draw(one=drawn(at("flux")))
    loads = {f"photo{number}": load for number, (_, load) in enumerate(pictures)}
    adapters = {
        "ip_adapters": [
            {"model": at("for-flux"), "scale": scale, "image": "${" + name + "}"}
            for scale, name in zip(scales, loads, strict=True)
        ],
        "ip_encoder": at("clip"),
    }
    ours = draw(**loads, one=drawn(at("flux"), **adapters))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    assert same(draw(**loads, **three(at("flux"), **adapters)), theirs)
    assert same(draw(one=drawn(at("flux"))), plain.pixels)


@pytest.mark.parametrize(
    ("base", "adapters", "words"),
    [
        (
            "sdxl",
            [{}],
            "the IP-Adapter '{collection}' was made for a different base than '{base}' (StableDiffusionXLPipeline): ",
        ),
        (
            "flux",
            [{"model": "for-flux", "file": None}],
            "neither the model '{base}' nor the IP-Adapter '{for-flux}' has an image encoder: name one as 'ip_encoder'",
        ),
        (
            "sd3",
            [{}],
            "StableDiffusion3Pipeline does not support IP-Adapters here; pipelines of Stable Diffusion 1 and 2, SDXL and FLUX.1 do",
        ),
        (
            "sd",
            [{"image": []}],
            "its 'ip_adapters[0]' has no 'image' to read",
        ),
        (
            "sd",
            [{"file": "nothing.safetensors"}],
            "the model '{collection}' has no file 'nothing.safetensors'; these are there: models/image_encoder/model.safetensors, ",
        ),
        (
            "sdxl",
            [
                {"file": "sdxl_models/ip-adapter_sdxl.safetensors"},
                {"file": "sdxl_models/ip-adapter_sdxl_vit-h.safetensors"},
            ],
            "its 'ip_adapters' read pictures through different encoders, models/image_encoder and sdxl_models/image_encoder, and a pipeline has one",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    base: str,
    adapters: list[dict[str, Any]],
    words: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """An adapter for another base, one without an encoder, without a picture or a file."""
    given = {
        "ip_adapters": [
            {
                "file": "models/ip-adapter_sd15.safetensors",
                "image": "${photo}",
                **adapter,
                "model": at(adapter.get("model", "collection")),
            }
            for adapter in adapters
        ]
    }
    expected = words.format(
        **{"base": at(base), "collection": at("collection"), "for-flux": at("for-flux")}
    )
    assert failure(photo=photos(0)[1], one=drawn(at(base), **given)).startswith(expected)


def test_what_reads_no_pictures_is_no_encoder(
    at: Callable[[str], str], photos: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """Planning says what the port takes."""
    said = refused(
        photo=photos(0)[1],
        one=drawn(
            at("flux"),
            ip_adapters=[{"model": at("for-flux"), "image": "${photo}"}],
            ip_encoder=at("sd"),
        ),
    )
    assert "the port 'ip_encoder' cannot use the model" in said
    assert "takes one of CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection" in said


def spoilt(collection: str, how: str) -> tuple[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's tensors with something missing or beside them, and the base that it is put
    on.
    """
    from safetensors.torch import load_file

    base = "flux" if how.startswith("FLUX") else "sd"
    state = load_file(
        f"{collection}/ip_adapter.safetensors"
        if base == "flux"
        else f"{collection}/models/ip-adapter{'-plus' if 'plus' in how else ''}_sd15.safetensors"
    )
    if "no partner" in how:
        state.pop(
            next(name for name in sorted(state) if "k_proj.weight" in name or "to_k_ip" in name)
        )
    elif "projection" in how:
        state.pop(
            next(
                name
                for name in sorted(state)
                if "proj" in name.partition(".")[0] and "norm" in name
            )
        )
    elif how == "face":
        state["ip_adapter.0.to_q_lora.down.weight"] = torch.ones(2, 32)
    elif how == "a layer more":
        last = max(int(name.split(".")[1]) for name in state if "to_k_ip" in name)
        state |= {
            f"ip_adapter.{last + 2}.to_{letter}_ip.weight": state[
                f"ip_adapter.{last}.to_{letter}_ip.weight"
            ].clone()
            for letter in "kv"
        }
    elif how == "half":
        state = {name: tensor for name, tensor in state.items() if "image_proj" in name}
    elif how == "none":
        state = {"epoch": torch.ones(1)}
    elif how == "strange":
        state["ip_adapter.1.to_x.weight"] = torch.ones(2, 2)
    else:
        state["unet.conv_out.bias"] = torch.ones(4)
    return base, state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no partner", "is not whole: it lacks '1.to_k_ip.weight'; download it again"),
        ("plus no partner", "is not whole: it lacks '1.to_k_ip.weight'; download it again"),
        ("FLUX no partner", "is not whole: it lacks '0.to_k_ip.weight'; download it again"),
        (
            "projection",
            "is not whole: weights of image_proj, which makes words of a picture, are missing; download it again",
        ),
        (
            "plus projection",
            "is not whole: weights of image_proj, which makes words of a picture, are missing; download it again",
        ),
        (
            "FLUX projection",
            "is not whole: weights of image_proj, which makes words of a picture, are missing; download it again",
        ),
        ("half", "is not whole: it holds no tensors of ip_adapter; download it again"),
        ("none", "is none: it holds epoch"),
        (
            "face",
            "needs face embeddings (FaceID), which are not supported; use an adapter that reads pictures",
        ),
        (
            "a layer more",
            "was made for a different base than '{base}' (StableDiffusionPipeline): it is for 5 layers that read words, and the base has 4",
        ),
        ("strange", "is of a kind that diffusers does not read: it holds ip_adapter.1.to_x.weight"),
        ("others", ""),
    ],
)
def test_an_adapter_that_is_not_whole_is_told_and_leaves_nothing(
    how: str,
    words: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    failure: Callable[..., str],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    """When planning where the header tells, else before it draws; by its name; what belongs to none
    is left out; and the base draws as before.
    """
    from safetensors.torch import save_file

    base, state = spoilt(at("for-flux" if how.startswith("FLUX") else "collection"), how)
    save_file(state, tmp_path / "ip.safetensors")
    plain = draw(one=drawn(at(base)))
    node = drawn(
        at(base),
        ip_adapters=[{"model": str(tmp_path / "ip.safetensors"), "image": "${photo}"}],
        ip_encoder=at("clip"),
    )
    if words:
        later = "projection" in how or how == "a layer more"
        assert (failure if later else refused)(
            photo=photos(0)[1], one=node
        ) == f"the IP-Adapter '{tmp_path / 'ip.safetensors'}' {words.format(base=at(base))}"
    else:
        assert not same(draw(photo=photos(0)[1], one=node), plain.pixels)
    assert same(draw(one=drawn(at(base))), plain.pixels)


def test_an_encoder_beside_a_file_is_no_part_of_it(
    at: Callable[[str], str], photos: Callable[..., Any], failure: Callable[..., str]
) -> None:
    """A file named by itself is the whole adapter: no key knows of the folder beside it."""
    file = at("collection") + "/models/ip-adapter_sd15.safetensors"
    assert failure(
        photo=photos(0)[1],
        one=drawn(at("sd"), ip_adapters=[{"model": file, "image": "${photo}"}]),
    ) == (
        f"neither the model '{at('sd')}' nor the IP-Adapter '{file}' has an image encoder: name one as 'ip_encoder'"
    )
