"""Checkpoints that edit by instruction, with one picture and with several: FLUX.2, Qwen-Image-Edit
and their like give through a graph what diffusers gives by hand, bit for bit.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool, quiet_libraries
from imagen_flow_diffusion.pipelines.families import edits
from imagen_flow_diffusion.stages.instruction_editing import sides_of
from imagen_flow_diffusion.stages.loaders import Editor

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def photos(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[PIL.Image.Image, dict[str, Any]]]:
    """Two pictures of different sizes, as Pillow has them and as nodes that load them."""
    folder = tmp_path_factory.mktemp("photos")
    made = np.random.default_rng(0)
    found = []
    for name, shape in (("first", (80, 64, 3)), ("second", (64, 96, 3))):
        picture = PIL.Image.fromarray(made.integers(0, 256, shape, np.uint8))
        picture.save(folder / f"{name}.png")
        found.append((picture, {"type": "image.load", "file": str(folder / f"{name}.png")}))
    return found


@pytest.fixture
def hole(tmp_path: Path) -> tuple[PIL.Image.Image, dict[str, Any]]:
    """A mask of the first picture's size, as Pillow has it and as nodes that load it."""
    mask = PIL.Image.new("L", (64, 80))
    mask.paste(255, (16, 16, 48, 64))
    mask.save(tmp_path / "mask.png")
    return mask, {
        "drawn": {"type": "image.load", "file": str(tmp_path / "mask.png")},
        "hole": {"type": "mask.from_luminance", "image": "${drawn}"},
    }


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: flow.Image, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def by_hand(path: str, cls: str = "DiffusionPipeline", **parts: Any) -> Any:
    """The pipeline as a user of diffusers loads it, with the processors that this machine can make."""
    import diffusers
    import transformers

    def stills(word: str) -> Any:
        """A processor that reads no films: for these it would want torchvision."""
        cls = getattr(transformers, word)
        return type(
            word,
            (cls,),
            {
                "check_argument_for_proper_class": lambda self, name, part: (
                    None
                    if name == "video_processor"
                    else cls.check_argument_for_proper_class(self, name, part)
                )
            },
        )

    with quiet_libraries():
        index = diffusers.DiffusionPipeline.load_config(path)
        for name, entry in index.items():
            if entry in (
                ["transformers", "Qwen2VLProcessor"],
                ["transformers", "Qwen3VLProcessor"],
            ):
                read = (
                    transformers.Qwen2VLImageProcessorPil.from_pretrained(f"{path}/{name}"),
                    transformers.Qwen2Tokenizer.from_pretrained(f"{path}/{name}"),
                )
                parts[name] = stills(entry[1])(*read, chat_template=read[1].chat_template)
        if pixtral := index.get("tokenizer") == ["transformers", "PixtralProcessor"]:
            parts["tokenizer"] = None
        pipeline = getattr(diffusers, cls).from_pretrained(path, **parts)
        if pixtral:
            # What reads the words of the processor, which would want torchvision.
            pipeline.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
                f"{path}/tokenizer"
            )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- FLUX.2 ---


@pytest.mark.parametrize("name", ["flux-2", "flux-2-klein"])
def test_flux_2_draws_as_by_hand(
    name: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """From words alone, in one node."""
    given = {"width": 48, "height": 64, "num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = by_hand(at(name))(prompt="a red fox", generator=noise(), **given).images[0]
    ours = draw(
        one={
            "type": "diffusion.text_to_image",
            "model": at(name),
            "prompt": "a red fox",
            "seed": 3,
            **given,
        }
    )
    assert same(ours, theirs)
    assert ours.pixels.std() > 5


@pytest.mark.parametrize("name", ["flux-2", "flux-2-klein"])
def test_flux_2_draws_in_three_nodes_as_by_hand(
    name: str, at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """Words to states, noise to latents, latents to pixels: the two kinds give their latents
    differently, and here alike.
    """
    given = {"width": 48, "height": 64, "num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = by_hand(at(name))(prompt="a red fox", generator=noise(), **given).images[0]
    nodes = {
        "text": {"type": "text.encode", "model": at(name), "prompt": "a red fox"},
        "latents": {
            "type": "diffusion.denoise",
            "model": at(name),
            "text": "${text}",
            "seed": 3,
            **given,
        },
    }
    assert same(
        draw(**nodes, out={"type": "latents.decode", "model": at(name), "latents": "${latents}"}),
        theirs,
    )
    latents = draw(**nodes)
    assert latents.shape == (1, 4, 8, 6)
    # The autoencoder's own statistics are of no concern to the denoiser: any FLUX.2 autoencoder of
    # the same form reads the latents.
    other = {"flux-2": "flux-2-klein", "flux-2-klein": "flux-2"}[name]
    assert draw(
        **nodes, out={"type": "latents.decode", "model": at(other), "latents": "${latents}"}
    ).pixels.shape == (64, 48, 3)


def test_flux_2_refuses_a_negative_prompt_where_it_is_read(
    at: Callable[[str], str], draw: Callable[..., Any]
) -> None:
    """The larger kind has no guidance that would lead away from one; the smaller one has."""
    node = {"type": "text.encode", "prompt": "a red fox", "negative_prompt": "blue"}
    with pytest.raises(flow.NodeError, match="text: Flux2Pipeline takes no negative prompt"):
        draw(text={**node, "model": at("flux-2")})
    blue, none = (
        draw(text={**node, "model": at("flux-2-klein"), "negative_prompt": words})
        for words in ("blue", None)
    )
    assert (
        [tensor.tags["is"] for tensor in blue]
        == [tensor.tags["is"] for tensor in none]
        == ["prompt_embeds", "negative_prompt_embeds"]
    )
    assert [
        torch.equal(one.torch(), other.torch()) for one, other in zip(blue, none, strict=True)
    ] == [True, False]


def test_flux_2_latents_are_those_that_the_pipeline_sees(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """A picture is encoded and normalised as the pipeline does with a reference, and comes back
    through the decoder.
    """
    pipeline = by_hand(at("flux-2"))
    with torch.no_grad():
        theirs = pipeline._encode_vae_image(pipeline.image_processor.preprocess(photos[0][0]), None)
    nodes = {
        "photo": photos[0][1],
        "in": {"type": "latents.encode", "model": at("flux-2"), "image": "${photo}"},
    }
    ours = draw(**nodes)
    assert torch.equal(ours.torch(), pipeline._unpatchify_latents(theirs))
    with torch.no_grad():
        raw = pipeline.vae.encode(
            pipeline.image_processor.preprocess(photos[0][0])
        ).latent_dist.mode()
        picture = pipeline.image_processor.postprocess(
            pipeline.vae.decode(raw, return_dict=False)[0], output_type="pil"
        )[0]
    back = draw(**nodes, out={"type": "latents.decode", "model": at("flux-2"), "latents": "${in}"})
    assert np.abs(back.pixels.astype(int) - np.asarray(picture)).max() <= 1


@pytest.mark.parametrize(("name", "count"), [("flux-2", 1), ("flux-2", 2), ("flux-2-klein", 2)])
def test_flux_2_edits_one_picture_and_several_as_by_hand(
    name: str, count: int, at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """The picture to edit is the first that the model sees and gives the result its size; the
    generic node and image to image do the same.
    """
    given = {"num_inference_steps": 2, "guidance_scale": 3.0}
    seen = [picture for picture, _ in photos[:count]]
    theirs = by_hand(at(name))(image=seen, prompt="make it red", generator=noise(), **given).images[
        0
    ]
    nodes = {f"photo_{number}": node for number, (_, node) in enumerate(photos)}
    more = ["${photo_1}"] if count > 1 else None
    ours = draw(
        **nodes,
        one={
            "type": "image.edit",
            "model": at(name),
            "image": "${photo_0}",
            "references": more,
            "instruction": "make it red",
            "seed": 3,
            **given,
        },
    )
    assert same(ours, theirs)
    assert (ours.width, ours.height) == (64, 80)
    arguments = {"prompt": "make it red", **given}
    whole = draw(
        **nodes,
        one={
            "type": "diffusion.pipeline",
            "model": at(name),
            "arguments": arguments,
            "images": ["${photo_0}", "${photo_1}"][:count],
            "seed": 3,
        },
    )
    assert [same(picture, theirs) for picture in whole] == [True]
    if count == 1:
        anew = draw(
            **nodes,
            one={
                "type": "diffusion.image_to_image",
                "model": at(name),
                "image": "${photo_0}",
                "prompt": "make it red",
                "seed": 3,
                **given,
            },
        )
        assert same(anew, theirs)


def test_klein_fills_in_as_by_hand(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    photos: list[Any],
    hole: tuple[PIL.Image.Image, dict[str, Any]],
) -> None:
    """A checkpoint of the smaller kind works within a mask, too."""
    given = {
        "strength": 0.6,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "width": 64,
        "height": 80,
    }
    theirs = by_hand(at("flux-2-klein"), "Flux2KleinInpaintPipeline")(
        image=photos[0][0], mask_image=hole[0], prompt="a fox", generator=noise(), **given
    ).images[0]
    node = {
        "type": "diffusion.inpaint",
        "model": at("flux-2-klein"),
        "image": "${photo}",
        "mask": "${hole}",
        "prompt": "a fox",
        "seed": 3,
        **given,
    }
    assert same(draw(photo=photos[0][1], **hole[1], one=node), theirs)


def test_klein_with_kept_states_draws_as_by_hand_and_leaves_no_trace(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """Its pipeline puts attention of its own into the shared network: the next call draws as
    before.
    """
    plain = {
        "type": "image.edit",
        "model": at("flux-2-klein"),
        "image": "${photo}",
        "instruction": "make it red",
        "num_inference_steps": 2,
        "seed": 3,
    }
    before = draw(photo=photos[0][1], one=plain)
    theirs = by_hand(at("flux-2-klein"), "Flux2KleinKVPipeline")(
        image=photos[0][0], prompt="make it red", num_inference_steps=2, generator=noise()
    ).images[0]
    node = {
        "type": "diffusion.pipeline",
        "model": at("flux-2-klein"),
        "pipeline_class": "Flux2KleinKVPipeline",
        "images": ["${photo}"],
        "arguments": {"prompt": "make it red", "num_inference_steps": 2},
        "seed": 3,
    }
    assert [same(picture, theirs) for picture in draw(photo=photos[0][1], one=node)] == [True]
    assert same(draw(photo=photos[0][1], one=plain), before.pixels)


@pytest.fixture(scope="module")
def other_denoiser(at: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of another denoiser for Klein."""
    folder = tmp_path_factory.mktemp("denoiser") / "other"
    network = by_hand(at("flux-2-klein")).transformer
    with torch.no_grad():
        network.proj_out.weight.add_(torch.randn(network.proj_out.weight.shape, generator=noise()))
    with quiet_libraries():
        network.save_pretrained(folder)
    return str(folder)


def test_an_edit_takes_another_denoiser_and_sampler_as_by_hand(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    photos: list[Any],
    hole: tuple[PIL.Image.Image, dict[str, Any]],
    other_denoiser: str,
) -> None:
    """Beside the checkpoint, in its own denoiser's place; within a mask, too."""
    import diffusers

    with quiet_libraries():
        network = diffusers.Flux2Transformer2DModel.from_pretrained(other_denoiser)
    pipeline = by_hand(at("flux-2-klein"), transformer=network)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, shift=7.0
    )
    theirs = pipeline(
        image=photos[0][0], prompt="make it red", num_inference_steps=2, generator=noise()
    ).images[0]
    node = {
        "type": "image.edit",
        "model": at("flux-2-klein"),
        "denoiser": other_denoiser,
        "image": "${photo}",
        "instruction": "make it red",
        "num_inference_steps": 2,
        "sampler_settings": {"shift": 7.0},
        "seed": 3,
    }
    ours = draw(photo=photos[0][1], one=node)
    assert same(ours, theirs)
    del node["denoiser"]
    assert not same(draw(photo=photos[0][1], one=node), ours.pixels)
    given = {
        "strength": 0.6,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "width": 64,
        "height": 80,
    }
    theirs = by_hand(at("flux-2-klein"), "Flux2KleinInpaintPipeline", transformer=network)(
        image=photos[0][0], mask_image=hole[0], prompt="a fox", generator=noise(), **given
    ).images[0]
    node = {
        "type": "diffusion.inpaint",
        "model": at("flux-2-klein"),
        "denoiser": other_denoiser,
        "image": "${photo}",
        "mask": "${hole}",
        "prompt": "a fox",
        "seed": 3,
        **given,
    }
    assert same(draw(photo=photos[0][1], **hole[1], one=node), theirs)


def test_an_edit_takes_loras_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any], tmp_path: Path
) -> None:
    """Weighted, for this picture alone."""
    from safetensors.torch import save_file

    state = {
        f"transformer.transformer_blocks.0.attn.to_{part}.lora_{end}.weight": torch.randn(
            shape, generator=noise()
        )
        for part in "qkv"
        for end, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    save_file(state, tmp_path / "style.safetensors")
    plain = {
        "type": "image.edit",
        "model": at("flux-2-klein"),
        "image": "${photo}",
        "instruction": "make it red",
        "num_inference_steps": 2,
        "seed": 3,
    }
    before = draw(photo=photos[0][1], one=plain)
    pipeline = by_hand(at("flux-2-klein"))
    pipeline.load_lora_weights(str(tmp_path / "style.safetensors"), adapter_name="style")
    pipeline.set_adapters(["style"], [0.7])
    theirs = pipeline(
        image=photos[0][0], prompt="make it red", num_inference_steps=2, generator=noise()
    ).images[0]
    ours = draw(
        photo=photos[0][1],
        one={**plain, "loras": [{"model": str(tmp_path / "style.safetensors"), "weight": 0.7}]},
    )
    assert same(ours, theirs)
    assert not same(ours, before.pixels)
    assert same(draw(photo=photos[0][1], one=plain), before.pixels)


def test_a_processor_that_reads_words_alone_refuses_pictures(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """Without torchvision FLUX.2 cannot look at the picture to write a longer prompt, and says so
    instead of writing one without.
    """
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("with torchvision there is the whole processor")
    node = {
        "type": "image.edit",
        "model": at("flux-2"),
        "image": "${photo}",
        "instruction": "make it red",
        "arguments": {"caption_upsample_temperature": 0.15},
        "num_inference_steps": 1,
        "seed": 3,
    }
    with pytest.raises(
        flow.NodeError, match="PixtralProcessor reads pictures only where torchvision is installed"
    ):
        draw(photo=photos[0][1], one=node)


# --- Qwen-Image-Edit ---

#: Guidance is on: the negative prompt is read beside the picture, too.
QWEN = {"true_cfg_scale": 2.0, "negative_prompt": "blue"}


def test_qwen_edits_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """With torchvision and without: the processor has no part for films, and resizes pictures by
    Pillow.
    """
    given = {"width": 48, "height": 64, **QWEN}
    theirs = by_hand(at("qwen-edit"))(
        image=photos[0][0], prompt="make it red", num_inference_steps=2, generator=noise(), **given
    ).images[0]
    node = {
        "type": "image.edit",
        "model": at("qwen-edit"),
        "image": "${photo}",
        "instruction": "make it red",
        "num_inference_steps": 2,
        "arguments": given,
        "seed": 3,
    }
    ours = draw(photo=photos[0][1], one=node)
    assert same(ours, theirs.resize((64, 80), PIL.Image.Resampling.LANCZOS))


def test_qwen_edits_by_several_pictures_as_by_hand(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    photos: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Plus edition sees them in their order; the result has the shape of the first, not of the
    last, as the pipeline alone would choose.
    """
    import diffusers

    size = {"width": 64, "height": 80}
    theirs = by_hand(at("qwen-edit-plus"))(
        image=[picture for picture, _ in photos],
        prompt="make it red",
        num_inference_steps=1,
        generator=noise(),
        **size,
    ).images[0]
    nodes = {f"photo_{number}": node for number, (_, node) in enumerate(photos)}
    node = {
        "type": "image.edit",
        "model": at("qwen-edit-plus"),
        "image": "${photo_0}",
        "references": ["${photo_1}"],
        "instruction": "make it red",
        "num_inference_steps": 1,
        "seed": 3,
    }
    assert same(draw(**nodes, one={**node, "arguments": size}), theirs)
    asked: list[dict[str, Any]] = []

    @functools.wraps(diffusers.QwenImageEditPlusPipeline.__call__)
    def called(_self: Any, **given: Any) -> Any:
        asked.append(given)
        raise RuntimeError("asked enough")

    monkeypatch.setattr(diffusers.QwenImageEditPlusPipeline, "__call__", called)
    with pytest.raises(flow.NodeError, match="asked enough"):
        draw(**nodes, one=node)
    assert [(given["width"], given["height"]) for given in asked] == [(928, 1152)]


def test_a_megapixel_has_the_sides_that_qwen_gives_it() -> None:
    """For pictures of any shape, as the pipelines reckon them."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    sizes = [
        (width, height) for width in (1, 7, 64, 333, 1024, 4001) for height in (5, 64, 801, 2048)
    ]
    assert [sides_of(size, 1024) for size in sizes] == [
        tuple(max(32, side) for side in calculate_dimensions(1024 * 1024, size[0] / size[1]))
        for size in sizes
    ]


@pytest.mark.slow
def test_qwen_edits_within_a_mask_as_by_hand(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    photos: list[Any],
    hole: tuple[PIL.Image.Image, dict[str, Any]],
) -> None:
    """A checkpoint that edits fills in, too, where diffusers has a class for it; a size that the
    class passes over is refused.
    """
    given = {"strength": 0.6, "num_inference_steps": 2}
    theirs = by_hand(at("qwen-edit"), "QwenImageEditInpaintPipeline")(
        image=photos[0][0], mask_image=hole[0], prompt="a fox", generator=noise(), **given
    ).images[0]
    node = {
        "type": "diffusion.inpaint",
        "model": at("qwen-edit"),
        "image": "${photo}",
        "mask": "${hole}",
        "prompt": "a fox",
        "seed": 3,
        **given,
    }
    assert same(draw(photo=photos[0][1], **hole[1], one=node), theirs)
    with pytest.raises(
        flow.NodeError, match=f"drew {theirs.width} x {theirs.height} where 64 x 80 was asked for"
    ):
        draw(photo=photos[0][1], **hole[1], one={**node, "width": 64, "height": 80})


def test_a_model_that_sees_one_picture_refuses_others(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """Nothing is dropped in silence: the message names the models that see several."""
    nodes = {f"photo_{number}": node for number, (_, node) in enumerate(photos)}
    node = {
        "type": "image.edit",
        "image": "${photo_0}",
        "references": ["${photo_1}"],
        "instruction": "make it red",
        "seed": 3,
    }
    with pytest.raises(
        flow.NodeError,
        match="this model sees one picture alone, and its 'references' holds 1: QwenImageEditPipeline takes none beside the image; these do: Flux2Klein.*QwenImageEditPlus",
    ):
        draw(**nodes, one={**node, "model": at("qwen-edit")})
    with pytest.raises(
        flow.NodeError, match="this model takes no references: checkpoints of diffusers do"
    ):
        draw(**nodes, one={**node, "model": "embedded/edit"})


# --- others, by what their call takes ---

#: With sides that are soon drawn, where the call takes any.
OTHERS = {
    "instruct-pix2pix-xl": {},
    "longcat-edit": {"negative_prompt": "blue"},
    "qwen-2": {"output_resolution": 64, "true_cfg_scale": 2.0, "negative_prompt": "blue"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "longcat-edit" else [])
        for name in OTHERS
    ],
)
def test_other_checkpoints_edit_as_by_hand(
    name: str, at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """No table names them: what their call takes says that they edit."""
    size = {"width": 64, "height": 80} if name == "instruct-pix2pix-xl" else {}
    theirs = by_hand(at(name))(
        image=photos[0][0],
        prompt="make it red",
        num_inference_steps=1,
        generator=noise(),
        **OTHERS[name],
        **size,
    ).images[0]
    ours = draw(
        photo=photos[0][1],
        one={
            "type": "image.edit",
            "model": at(name),
            "image": "${photo}",
            "instruction": "make it red",
            "num_inference_steps": 1,
            "arguments": OTHERS[name],
            "seed": 3,
        },
    )
    assert same(
        ours,
        theirs
        if theirs.size == (64, 80)
        else theirs.resize((64, 80), PIL.Image.Resampling.LANCZOS),
    )


def test_qwen_2_sees_several_pictures_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any], tmp_path: Path
) -> None:
    """At the size that it is asked for, in the shape of the first; it draws alpha, and what the
    source has stays as it is.
    """
    theirs = by_hand(at("qwen-2"))(
        image=[picture for picture, _ in photos],
        prompt="make it red",
        num_inference_steps=1,
        generator=noise(),
        output_resolution=64,
        width=64,
        height=64,
    ).images[0]
    nodes = {f"photo_{number}": node for number, (_, node) in enumerate(photos)}
    node = {
        "type": "image.edit",
        "model": at("qwen-2"),
        "image": "${photo_0}",
        "references": ["${photo_1}"],
        "instruction": "make it red",
        "num_inference_steps": 1,
        "seed": 3,
    }
    node["arguments"] = {"output_resolution": 64}
    ours = draw(**nodes, one=node)
    assert same(ours, theirs.resize((64, 80), PIL.Image.Resampling.LANCZOS))
    alpha = PIL.Image.linear_gradient("L").resize((64, 80))
    veiled = photos[0][0].copy()
    veiled.putalpha(alpha)
    veiled.save(tmp_path / "veiled.png")
    kept = draw(
        **{**nodes, "photo_0": {"type": "image.load", "file": str(tmp_path / "veiled.png")}},
        one=node,
    )
    assert np.array_equal(kept.pixels, np.dstack([ours.pixels[:, :, :3], np.asarray(alpha)]))


def test_what_a_call_takes_says_whether_it_edits() -> None:
    """Words and a picture, and nothing that makes something else of the picture."""
    import diffusers

    edit = "BriaFiboEdit DreamLite Flux2 Flux2Klein FluxKontext JoyImageEdit Kandinsky5I2I LongCatImageEdit QwenImage21 QwenImageEdit QwenImageEditPlus StableDiffusionXLInstructPix2Pix"
    other = "Flux FluxImg2Img FluxControlNet StableDiffusionInpaint StableDiffusionControlNet StableDiffusionAdapter StableDiffusionUpscale IFSuperResolution QwenImageEditInpaint QwenImageLayered WanImageToVideo DDPM"
    assert [
        word for word in edit.split() if edits(getattr(diffusers, f"{word}Pipeline")) != "image"
    ] == []
    assert [word for word in other.split() if edits(getattr(diffusers, f"{word}Pipeline"))] == []
    assert edits(diffusers.JoyImageEditPlusPipeline) == "images"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "sd",
            "it is a StableDiffusionPipeline, and image.edit takes InstructPix2Pix, FLUX Kontext, FLUX.2, Qwen-Image-Edit and their like, which diffusers edits with by words alone; diffusion.text_to_image",
        ),
        ("unclip", "it is an UnCLIPPipeline, and image.edit takes"),
        ("clipseg", "it is a CLIPSegForImageSegmentation, and image.edit takes"),
    ],
)
def test_what_edits_nothing_is_refused(
    name: str, says: str, at: Callable[[str], str], draw: Callable[..., Any], photos: list[Any]
) -> None:
    """By name when planning where the name is known, and else by what its call takes."""
    with pytest.raises((flow.GraphError, flow.NodeError), match=re.escape(says)):
        draw(
            photo=photos[0][1],
            one={
                "type": "image.edit",
                "model": at(name),
                "image": "${photo}",
                "instruction": "make it red",
                "seed": 3,
            },
        )


def test_planning_an_edit_imports_no_library(at: Callable[[str], str]) -> None:
    """What a call takes is asked when the model is loaded, not before."""
    nodes = {
        "photo": {"type": "image.solid", "width": 64, "height": 64, "colour": "teal"},
        "one": {
            "type": "image.edit",
            "model": at("longcat-edit"),
            "image": "${photo}",
            "instruction": "make it red",
            "seed": 3,
        },
    }
    graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${one}"}}
    code = f"import sys\nimport imagen_flow as flow\nplan = flow.plan({graph!r}, store=None, device='cpu')\nprint([str(p) for p in plan.problems], sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] []\n", ran.stdout + ran.stderr


# --- what is not read ---


def words_read(name: str, path: str, words: str) -> str:
    """What the pipeline hands to its encoder of some words, as letters."""
    pipeline = by_hand(path)
    seen: list[Any] = []
    part, encoder = (
        ("tokenizer_2", "text_encoder_2") if name == "kontext" else ("tokenizer", "text_encoder")
    )
    hook = getattr(pipeline, encoder).register_forward_pre_hook(
        lambda _module, given, named: seen.append(
            named["input_ids"] if "input_ids" in named else given[0]
        ),
        with_kwargs=True,
    )
    with torch.no_grad():
        if name.startswith("qwen"):
            pipeline.encode_prompt(words, image=PIL.Image.new("RGB", (56, 56)))
        elif name == "instruct-pix2pix":
            pipeline._encode_prompt(words, "cpu", 1, do_classifier_free_guidance=False)
        else:
            pipeline.encode_prompt(words, **({"prompt_2": None} if name == "kontext" else {}))
    hook.remove()
    return "".join(getattr(pipeline, part).decode(seen[0][0]).split())


@pytest.mark.parametrize(
    "name", ["flux-2", "flux-2-klein", "kontext", "instruct-pix2pix", "qwen-edit", "qwen-edit-plus"]
)
def test_what_is_cut_of_an_instruction_is_said(
    name: str, at: Callable[[str], str], pool: ModelPool
) -> None:
    """The note counts what the encoder truly gets, its own words and marks taken off; where all is
    read it says nothing.
    """
    letters = "".join(chr(ord("a") + number * number % 26) for number in range(1200))
    given = words_read(name, at(name), letters)
    read = max(count for count in range(1201) if letters[:count] in given)
    with pool.lease(
        Editor(), flow.Model(Path(at(name)), name, at(name)), device="cpu", dtype="float32"
    ) as editor:
        note = editor.unread(letters, {})
        whole = editor.unread(letters[:read], {})
    if name.startswith("qwen"):
        assert (read, note) == (1200, "")
    else:
        # T5's tokenizer gives the space before a word a token of its own.
        assert (
            note
            == f"the instruction is cut after {read + (name == 'kontext')} tokens, before '{letters[read : read + 29]}…'"
        )
        assert 70 < read < 512
    assert whole == ""
