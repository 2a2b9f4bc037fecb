"""Every family of checkpoints draws through a graph what diffusers draws for whoever calls it by
hand: bit for bit, by one node and, where it can be split, by three.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd15": checkpoints.stable_diffusion,
    "inpainting": lambda folder: checkpoints.stable_diffusion(
        folder, class_name="StableDiffusionInpaintPipeline", reads=9
    ),
    "sdxl": checkpoints.stable_diffusion_xl,
    "refiner": lambda folder: checkpoints.stable_diffusion_xl(folder, refiner=True),
    "sd3": checkpoints.stable_diffusion_3,
    "flux": checkpoints.flux,
    "pixart": checkpoints.pixart,
    "sigma": lambda folder: checkpoints.pixart(folder, sigma=True),
    "sana": checkpoints.sana,
    "qwen": checkpoints.qwen_image,
    "z": checkpoints.z_image,
    "kandinsky": checkpoints.kandinsky,
    "if": checkpoints.deepfloyd,
    "kontext": lambda folder: checkpoints.flux(folder, class_name="FluxKontextPipeline"),
    "x4": checkpoints.upscaler,
    "latent-x2": checkpoints.latent_upscaler,
    "control": checkpoints.controlnet,
    "control2": lambda folder: checkpoints.controlnet(folder, seed=14),
    "control-xl": lambda folder: checkpoints.controlnet(folder, xl=True),
    "style.safetensors": companions.lora,
    "detail.safetensors": lambda file: companions.lora(file, seed=21, parts=["unet"]),
    "xl.safetensors": lambda file: companions.lora(
        file, base=checkpoints.stable_diffusion_xl, parts=["unet"]
    ),
    "toy.safetensors": companions.embedding,
    "wide.safetensors": lambda file: companions.embedding(file, width=48),
    "ip": companions.ip_adapter,
    "clipseg": companions.clipseg,
    "ddpm": checkpoints.ddpm,
    "kandinsky-prior": lambda folder: checkpoints.kandinsky(folder, half="prior"),
    "kandinsky-decoder": lambda folder: checkpoints.kandinsky(folder, half="decoder"),
}


def by_hand(path: str, cls: str = "DiffusionPipeline", **parts: Any) -> Any:
    """The pipeline as a user of diffusers loads it."""
    import diffusers

    with quiet_libraries():
        pipeline = getattr(diffusers, cls).from_pretrained(path, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: flow.Image, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


#: What each family is asked for besides a prompt, as arguments of the node and as others of the
# pipeline.
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd15": (
        {
            "guidance_scale": 5.0,
            "negative_prompt": "blue",
            "width": 48,
            "height": 64,
            "guidance_rescale": 0.5,
        },
        {},
    ),
    "sdxl": ({"guidance_scale": 5.0, "negative_prompt": "blue", "width": 48, "height": 64}, {}),
    "sd3": ({"guidance_scale": 4.0, "negative_prompt": "blue", "width": 48, "height": 64}, {}),
    "flux": ({"guidance_scale": 3.0, "width": 48, "height": 64}, {}),
    "pixart": (
        {"guidance_scale": 4.0, "width": 48, "height": 64},
        {"use_resolution_binning": False},
    ),
    "sigma": (
        {"guidance_scale": 4.0, "width": 48, "height": 64},
        {"use_resolution_binning": False},
    ),
    "sana": ({"guidance_scale": 4.0, "width": 64, "height": 32}, {"use_resolution_binning": False}),
    "qwen": ({"negative_prompt": "blue", "width": 48, "height": 64}, {"true_cfg_scale": 3.0}),
    "z": ({"guidance_scale": 3.0, "negative_prompt": "blue", "width": 48, "height": 64}, {}),
    "kandinsky": (
        {"guidance_scale": 3.0, "width": 64, "height": 64},
        {"prior_num_inference_steps": 2},
    ),
    "if": ({"guidance_scale": 3.0}, {}),
}


@pytest.mark.parametrize("name", list(ASKED))
def test_one_node_draws_what_the_pipeline_draws(
    name: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """A whole checkpoint, called through a graph, gives the pixels of the pipeline called by hand."""
    asked, more = ASKED[name]
    theirs = by_hand(at(name))(
        "a red fox", num_inference_steps=2, generator=noise(), **asked, **more
    ).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": at(name),
            "prompt": "a red fox",
            "num_inference_steps": 2,
            "arguments": more,
            "seed": 3,
            **asked,
        }
    )
    assert same(ours, theirs)
    assert ours.pixels.std() > 5


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "pixart", "sana"])
def test_three_nodes_draw_what_the_pipeline_draws(
    name: str, at: Callable[[str], str], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """Words to states, noise to latents, latents to pixels: the same pixels again, and the parts
    are those that the whole checkpoint was drawn with.
    """
    asked, more = ASKED[name]
    words = {key: asked[key] for key in ("negative_prompt", "clip_skip") if key in asked}
    rest = {key: value for key, value in asked.items() if key not in words}
    theirs = by_hand(at(name))(
        "a red fox", num_inference_steps=2, generator=noise(), **asked, **more
    ).images[0]
    nodes = {
        "text": {"type": "text.encode", "model": at(name), "prompt": "a red fox", **words},
        "latents": {
            "type": "diffusion.denoise",
            "model": at(name),
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
            **rest,
        },
        "picture": {"type": "latents.decode", "model": at(name), "latents": "${latents}"},
    }
    assert same(draw(**nodes), theirs)
    loaded = pool.resident()
    draw(
        one={
            "type": "diffusion.text_to_image",
            "model": at(name),
            "prompt": "a",
            "num_inference_steps": 2,
            "arguments": more,
            "seed": 3,
            **rest,
        }
    )
    assert pool.resident() == loaded


# --- from pictures ---


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, Any, str]:
    """A picture and a mask, as Pillow has them and as files."""
    import PIL.Image

    folder = tmp_path_factory.mktemp("photo")
    made = np.random.default_rng(0)
    picture = PIL.Image.fromarray(made.integers(0, 256, (64, 48, 3), np.uint8))
    mask = np.zeros((64, 48), np.uint8)
    mask[16:48, 12:36] = 255
    picture.save(folder / "picture.png")
    PIL.Image.fromarray(mask).save(folder / "mask.png")
    return picture, str(folder / "picture.png"), PIL.Image.fromarray(mask), str(folder / "mask.png")


def loaded(path: str, mask: str = "") -> dict[str, Any]:
    """Nodes that read a picture and a mask."""
    nodes: dict[str, Any] = {"photo": {"type": "image.load", "file": path}}
    if mask:
        nodes |= {
            "drawn": {"type": "image.load", "file": mask},
            "hole": {"type": "mask.from_luminance", "image": "${drawn}"},
        }
    return nodes


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("sd15", "StableDiffusionImg2ImgPipeline"),
        ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
        ("sd3", "StableDiffusion3Img2ImgPipeline"),
        ("flux", "FluxImg2ImgPipeline"),
    ],
)
def test_a_picture_is_drawn_anew_as_by_the_pipeline(
    name: str, cls: str, at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """Image to image gives the pipeline's pixels."""
    sizes = {"width": 48, "height": 64} if name in ("sd3", "flux") else {}
    theirs = by_hand(at(name), cls)(
        "a fox", image=photo[0], strength=0.6, num_inference_steps=4, generator=noise(), **sizes
    ).images[0]
    node = {
        "type": "diffusion.image_to_image",
        "model": at(name),
        "image": "${photo}",
        "prompt": "a fox",
        "strength": 0.6,
        "num_inference_steps": 4,
        "seed": 3,
        **sizes,
    }
    assert same(draw(**loaded(photo[1]), one=node), theirs)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("sd15", "StableDiffusionInpaintPipeline"),
        ("inpainting", "StableDiffusionInpaintPipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline"),
        ("flux", "FluxInpaintPipeline"),
    ],
)
def test_a_hole_is_filled_as_by_the_pipeline(
    name: str, cls: str, at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """Inpainting gives the pipeline's pixels, with checkpoints made for it and with others; on
    request the rest of the picture stays as it was.
    """
    given = {"strength": 0.8, "num_inference_steps": 3, "width": 48, "height": 64}
    theirs = by_hand(at(name), cls)(
        "a fox", image=photo[0], mask_image=photo[2], generator=noise(), **given
    ).images[0]
    node = {
        "type": "diffusion.inpaint",
        "model": at(name),
        "image": "${photo}",
        "mask": "${hole}",
        "prompt": "a fox",
        "seed": 3,
        **given,
    }
    assert same(draw(**loaded(photo[1], photo[3]), one=node), theirs)
    kept = draw(**loaded(photo[1], photo[3]), one={**node, "keep_outside": True}).pixels
    inside = np.asarray(photo[2]) > 0
    assert np.array_equal(kept[~inside], np.asarray(photo[0])[~inside])
    assert np.array_equal(kept[inside], np.asarray(theirs)[inside])
    near = by_hand(at(name), cls)(
        "a fox",
        image=photo[0],
        mask_image=photo[2],
        generator=noise(),
        padding_mask_crop=8,
        **given,
    ).images[0]
    assert same(draw(**loaded(photo[1], photo[3]), one={**node, "padding_mask_crop": 8}), near)
    assert not np.array_equal(np.asarray(near), np.asarray(theirs))


def test_a_second_pass_over_latents_equals_the_pipeline(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Latents are drawn, enlarged and denoised once more: as image to image does by hand with the
    same latents.
    """
    import torch.nn.functional as F

    first = by_hand(at("sd15"))(
        "a fox", num_inference_steps=2, width=32, height=32, generator=noise(), output_type="latent"
    ).images
    large = F.interpolate(first, size=[6, 6], mode="nearest-exact")
    theirs = by_hand(at("sd15"), "StableDiffusionImg2ImgPipeline")(
        "a fox", image=large, strength=0.5, num_inference_steps=4, generator=noise(5)
    ).images[0]
    nodes = {
        "text": {"type": "text.encode", "model": at("sd15"), "prompt": "a fox"},
        "small": {
            "type": "diffusion.denoise",
            "model": at("sd15"),
            "text": "${text}",
            "num_inference_steps": 2,
            "width": 32,
            "height": 32,
            "seed": 3,
        },
        "larger": {"type": "latents.resize", "latents": "${small}", "scale": 1.5},
        "fine": {
            "type": "diffusion.denoise",
            "model": at("sd15"),
            "text": "${text}",
            "latents": "${larger}",
            "strength": 0.5,
            "num_inference_steps": 4,
            "seed": 5,
        },
        "picture": {"type": "latents.decode", "model": at("sd15"), "latents": "${fine}"},
    }
    assert same(draw(**nodes), theirs)


def test_a_base_and_its_refiner_share_the_denoising(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """SDXL's base stops where its refiner goes on, as by hand."""
    half = by_hand(at("sdxl"))(
        "a fox",
        num_inference_steps=4,
        denoising_end=0.5,
        width=32,
        height=32,
        generator=noise(),
        output_type="latent",
    ).images
    theirs = by_hand(at("refiner"), "StableDiffusionXLImg2ImgPipeline")(
        "a fox", image=half, num_inference_steps=4, denoising_start=0.5, generator=noise(5)
    ).images[0]
    nodes = {
        "text": {"type": "text.encode", "model": at("sdxl"), "prompt": "a fox"},
        "words": {"type": "text.encode", "model": at("refiner"), "prompt": "a fox"},
        "half": {
            "type": "diffusion.denoise",
            "model": at("sdxl"),
            "text": "${text}",
            "denoising_end": 0.5,
            "num_inference_steps": 4,
            "width": 32,
            "height": 32,
            "seed": 3,
        },
        "rest": {
            "type": "diffusion.denoise",
            "model": at("refiner"),
            "text": "${words}",
            "latents": "${half}",
            "denoising_start": 0.5,
            "num_inference_steps": 4,
            "seed": 5,
        },
        "picture": {"type": "latents.decode", "model": at("refiner"), "latents": "${rest}"},
    }
    assert same(draw(**nodes), theirs)


@pytest.mark.parametrize("name", ["sd15", "flux", "sana"])
def test_a_picture_goes_into_latents_and_back(
    name: str, at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """Encoding and decoding are the autoencoder's own; tiles change little, and the next call
    nothing.
    """
    pipeline = by_hand(at(name))
    pixels = pipeline.image_processor.preprocess(photo[0])
    with torch.no_grad():
        found = pipeline.vae.encode(pixels)
        values = (
            found.latent_dist.sample(noise()) if hasattr(found, "latent_dist") else found.latent
        )
        picture = pipeline.vae.decode(values, return_dict=False)[0]
    theirs = pipeline.image_processor.postprocess(picture, output_type="pil")[0]
    nodes = {
        **loaded(photo[1]),
        "in": {"type": "latents.encode", "model": at(name), "image": "${photo}", "seed": 3},
    }
    ours = draw(**nodes, out={"type": "latents.decode", "model": at(name), "latents": "${in}"})
    assert np.abs(ours.pixels.astype(int) - np.asarray(theirs)).max() <= 1
    draw(
        **nodes,
        out={"type": "latents.decode", "model": at(name), "latents": "${in}", "tiled": True},
    )
    assert same(
        draw(**nodes, out={"type": "latents.decode", "model": at(name), "latents": "${in}"}),
        ours.pixels,
    )


def test_any_pipeline_is_called_by_its_own_arguments(
    at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """The generic node calls another class on the same parts, with pictures by name, another
    sampler and all that the pipeline gives.
    """
    pipeline = by_hand(at("sd15"), "StableDiffusionInpaintPipeline")
    from diffusers import EulerAncestralDiscreteScheduler

    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    given = {
        "prompt": "a fox",
        "num_inference_steps": 3,
        "num_images_per_prompt": 2,
        "width": 48,
        "height": 64,
    }
    theirs = pipeline(image=photo[0], mask_image=photo[2], generator=noise(), **given).images
    node = {
        "type": "diffusion.pipeline",
        "model": at("sd15"),
        "pipeline_class": "StableDiffusionInpaintPipeline",
        "arguments": given,
        "images": ["${photo}"],
        "mask": "${hole}",
        "seed": 3,
        "sampler": "EulerAncestralDiscreteScheduler",
        "sampler_settings": {"timestep_spacing": "trailing"},
    }
    ours = draw(**loaded(photo[1], photo[3]), one=node)
    assert [same(a, b) for a, b in zip(ours, theirs, strict=True)] == [True, True]


def test_a_model_that_reads_no_words_draws_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Unconditional pipelines go through the generic node: several pictures of one noise."""
    theirs = by_hand(at("ddpm"))(batch_size=2, num_inference_steps=2, generator=noise()).images
    ours = draw(
        one={
            "type": "diffusion.pipeline",
            "model": at("ddpm"),
            "arguments": {"batch_size": 2, "num_inference_steps": 2},
            "seed": 3,
        }
    )
    assert [same(a, b) for a, b in zip(ours, theirs, strict=True)] == [True, True]


# --- what is put on for one call ---


def asked(at: Callable[[str], str], **more: Any) -> dict[str, Any]:
    return {
        "type": "diffusion.text_to_image",
        "model": at("sd15"),
        "prompt": "a fox",
        "width": 32,
        "height": 32,
        "num_inference_steps": 2,
        "seed": 3,
        **more,
    }


BY_HAND = {"width": 32, "height": 32, "num_inference_steps": 2}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_loras_change_one_picture_and_leave_the_base_alone(
    at: Callable[[str], str], draw: Callable[..., Any], pool: ModelPool
) -> None:
    """Two weighted LoRAs give the pixels of diffusers with both loaded, in one node and in three;
    then the base draws as before, and was not loaded again.
    """
    plain = draw(one=asked(at))
    resident = pool.resident()
    pipeline = by_hand(at("sd15"))
    for name in ("style", "detail"):
        pipeline.load_lora_weights(at(f"{name}.safetensors"), adapter_name=name)
    pipeline.set_adapters(["style", "detail"], [0.8, 0.3])
    theirs = pipeline("a fox", generator=noise(), **BY_HAND).images[0]
    loras = {
        "loras": [
            {"model": at("style.safetensors"), "weight": 0.8},
            {"model": at("detail.safetensors"), "weight": 0.3},
        ]
    }
    ours = draw(one=asked(at, **loras))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    nodes = {
        "text": {"type": "text.encode", "model": at("sd15"), "prompt": "a fox", **loras},
        "latents": {
            "type": "diffusion.denoise",
            "model": at("sd15"),
            "text": "${text}",
            "width": 32,
            "height": 32,
            "num_inference_steps": 2,
            "seed": 3,
            **loras,
        },
        "picture": {"type": "latents.decode", "model": at("sd15"), "latents": "${latents}"},
    }
    assert same(draw(**nodes), theirs)
    assert same(draw(one=asked(at)), plain.pixels)
    assert [identity for identity in pool.resident() if ".loading." in identity.loader] == [
        identity for identity in resident if ".loading." in identity.loader
    ]


@pytest.mark.parametrize(("count", "scales"), [(1, [0.7]), (2, [0.7, 0.4])])
def test_controlnets_hold_the_picture_as_by_hand(
    count: int,
    scales: list[float],
    at: Callable[[str], str],
    draw: Callable[..., Any],
    photo: tuple[Any, ...],
) -> None:
    """One or several ControlNets give the pipeline's pixels, also with the denoising alone."""
    from diffusers import ControlNetModel

    names = ["control", "control2"][:count]
    with quiet_libraries():
        networks = [ControlNetModel.from_pretrained(at(name)) for name in names]
    pipeline = by_hand(
        at("sd15"),
        "StableDiffusionControlNetPipeline",
        controlnet=networks if count > 1 else networks[0],
    )
    drawing = photo[0].resize((32, 32))
    given = {
        "controlnet_conditioning_scale": scales if count > 1 else scales[0],
        "control_guidance_end": [0.9] * count if count > 1 else 0.9,
    }
    theirs = pipeline(
        "a fox",
        image=[drawing] * count if count > 1 else drawing,
        generator=noise(),
        **given,
        **BY_HAND,
    ).images[0]
    controls = {
        "controls": [
            {"model": at(name), "image": "${small}", "scale": scale, "to": 0.9}
            for name, scale in zip(names, scales, strict=True)
        ]
    }
    drawn = {
        **loaded(photo[1]),
        "small": {
            "type": "image.resize",
            "image": "${photo}",
            "width": 32,
            "height": 32,
            "resample": "bicubic",
        },
    }
    ours = draw(**drawn, one=asked(at, **controls))
    assert same(ours, theirs)
    nodes = {
        "text": {"type": "text.encode", "model": at("sd15"), "prompt": "a fox"},
        "latents": {
            "type": "diffusion.denoise",
            "model": at("sd15"),
            "text": "${text}",
            "width": 32,
            "height": 32,
            "num_inference_steps": 2,
            "seed": 3,
            **controls,
        },
        "picture": {"type": "latents.decode", "model": at("sd15"), "latents": "${latents}"},
    }
    assert same(draw(**drawn, **nodes), theirs)


def test_a_textual_inversion_is_a_word_for_one_call(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """A prompt names the embedding; afterwards the tokenizer and the encoder know nothing of it."""
    prompt = "a <toy> fox"
    plain = draw(one=asked(at, prompt=prompt))
    pipeline = by_hand(at("sd15"))
    pipeline.load_textual_inversion(at("toy.safetensors"), token="<toy>")
    theirs = pipeline(prompt, generator=noise(), **BY_HAND).images[0]
    ours = draw(one=asked(at, prompt=prompt, embeddings=[at("toy.safetensors")]))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    assert same(draw(one=asked(at, prompt=prompt)), plain.pixels)


def test_an_ip_adapter_reads_a_picture_as_a_prompt(
    at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """With its own image encoder the adapter gives the pipeline's pixels; afterwards the base draws
    as before.
    """
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    plain = draw(one=asked(at))
    with quiet_libraries():
        encoder = CLIPVisionModelWithProjection.from_pretrained(at("ip") + "/models/image_encoder")
    pipeline = by_hand(
        at("sd15"),
        StableDiffusionPipeline.__name__,
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )
    pipeline.load_ip_adapter(
        at("ip"),
        subfolder="models",
        weight_name="ip-adapter_sd15.safetensors",
        image_encoder_folder=None,
    )
    pipeline.set_ip_adapter_scale(0.6)
    theirs = pipeline("a fox", ip_adapter_image=photo[0], generator=noise(), **BY_HAND).images[0]
    adapter = {
        "ip_adapters": [
            {
                "model": at("ip"),
                "image": "${photo}",
                "scale": 0.6,
                "file": "models/ip-adapter_sd15.safetensors",
            }
        ]
    }
    ours = draw(**loaded(photo[1]), one=asked(at, **adapter))
    assert same(ours, theirs)
    assert not same(ours, plain.pixels)
    assert same(draw(one=asked(at)), plain.pixels)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_words_are_weighted_by_compel(
    name: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Weights in the prompt change what is encoded; a prompt without any is encoded as without
    compel.
    """

    def encoded(prompt: str, **more: Any) -> list[Any]:
        return draw(
            text={
                "type": "text.encode",
                "model": at(name),
                "prompt": prompt,
                "negative_prompt": "blue",
                **more,
            }
        )

    plain, same_words, heavier = (
        encoded("a red fox"),
        encoded("a red fox", weighting="compel"),
        encoded("a (red)1.6 fox", weighting="compel"),
    )
    assert [t.tags["is"] for t in plain] == [t.tags["is"] for t in same_words]
    assert [
        np.allclose(a.numpy(), b.numpy(), atol=1e-5) for a, b in zip(plain, same_words, strict=True)
    ] == [True] * len(plain)
    assert not np.allclose(plain[0].numpy(), heavier[0].numpy(), atol=1e-3)


def test_clip_layers_are_skipped(at: Callable[[str], str], draw: Callable[..., Any]) -> None:
    """Leaving out CLIP's last layer gives the norm of the layer before, in one node and in three."""
    pipeline = by_hand(at("sd15"))
    ids = pipeline.tokenizer(
        "a fox", padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        states = pipeline.text_encoder.final_layer_norm(
            pipeline.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        )
    text = draw(
        text={"type": "text.encode", "model": at("sd15"), "prompt": "a fox", "clip_skip": 1}
    )
    assert torch.equal(text[0].torch(), states)
    theirs = pipeline(
        prompt_embeds=states, negative_prompt_embeds=text[1].torch(), generator=noise(), **BY_HAND
    ).images[0]
    assert same(draw(one=asked(at, clip_skip=1)), theirs)


# --- editing and enlarging ---


def test_an_instruction_is_carried_out_as_by_the_pipeline(
    at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """Kontext gives the pipeline's pixels."""
    more = {"width": 48, "height": 64, "_auto_resize": False, "max_area": 48 * 64}
    theirs = by_hand(at("kontext"))(
        image=photo[0], prompt="make it red", num_inference_steps=2, generator=noise(), **more
    ).images[0]
    ours = draw(
        **loaded(photo[1]),
        one={
            "type": "image.edit",
            "model": at("kontext"),
            "image": "${photo}",
            "instruction": "make it red",
            "num_inference_steps": 2,
            "arguments": more,
            "seed": 3,
        },
    )
    assert same(ours, theirs)


@pytest.mark.parametrize(("name", "side"), [("x4", 32), ("latent-x2", 64)])
def test_a_picture_is_enlarged_as_by_the_pipeline(
    name: str, side: int, at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """Diffusion upscalers give the pipeline's pixels."""
    image = photo[0].resize((side, side))
    theirs = by_hand(at(name))(
        "a fox", image=image, num_inference_steps=2, generator=noise()
    ).images[0]
    nodes = {
        **loaded(photo[1]),
        "small": {
            "type": "image.resize",
            "image": "${photo}",
            "width": side,
            "height": side,
            "resample": "bicubic",
        },
    }
    ours = draw(
        **nodes,
        one={
            "type": "image.upscale",
            "model": at(name),
            "image": "${small}",
            "prompt": "a fox",
            "num_inference_steps": 2,
            "seed": 3,
        },
    )
    assert same(ours, theirs)


def test_clipseg_finds_what_words_name(
    at: Callable[[str], str], draw: Callable[..., Any], photo: tuple[Any, ...]
) -> None:
    """The mask is of the picture's size, and its likelihoods are those of the network called by
    hand.
    """
    import PIL.Image
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil

    with quiet_libraries(), torch.no_grad():
        network = CLIPSegForImageSegmentation.from_pretrained(at("clipseg"))
        words = CLIPTokenizer.from_pretrained(at("clipseg"))(["a fox"], return_tensors="pt")
        seen = ViTImageProcessorPil.from_pretrained(at("clipseg"))(
            images=[photo[0]], return_tensors="pt"
        )
        likely = torch.sigmoid(
            network(
                input_ids=words.input_ids,
                attention_mask=words.attention_mask,
                pixel_values=seen.pixel_values,
            ).logits
        ).reshape(32, 32)
    theirs = np.asarray(
        PIL.Image.fromarray(likely.numpy()).resize((48, 64), PIL.Image.Resampling.BILINEAR)
    )
    ours = draw(
        **loaded(photo[1]),
        one={
            "type": "mask.find",
            "model": at("clipseg"),
            "image": "${photo}",
            "words": "a fox",
            "threshold": None,
        },
    )
    assert np.array_equal(ours.pixels[:, :, 0], (theirs * 255).round().astype(np.uint8))
    marked = draw(
        **loaded(photo[1]),
        one={
            "type": "mask.find",
            "model": at("clipseg"),
            "image": "${photo}",
            "words": "a fox",
            "threshold": float(np.median(theirs)),
        },
    )
    assert set(np.unique(marked.pixels)) == {0, 255}


def test_a_prior_and_a_decoder_draw_as_the_combined_pipeline(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Kandinsky's two checkpoints make one pipeline."""
    import diffusers

    with quiet_libraries():
        prior, decoder = (
            diffusers.DiffusionPipeline.from_pretrained(at(f"kandinsky-{half}"))
            for half in ("prior", "decoder")
        )
    pipeline = diffusers.KandinskyV22CombinedPipeline(
        **decoder.components, **{f"prior_{name}": part for name, part in prior.components.items()}
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a fox",
        width=64,
        height=64,
        num_inference_steps=2,
        prior_num_inference_steps=2,
        generator=noise(),
    ).images[0]
    node = {
        "type": "diffusion.text_to_image",
        "model": at("kandinsky-decoder"),
        "prior": at("kandinsky-prior"),
        "prompt": "a fox",
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
    }
    assert same(
        draw(one={**node, "arguments": {"prior_num_inference_steps": 2}, "seed": 3}), theirs
    )
