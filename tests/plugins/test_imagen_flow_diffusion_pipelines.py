"""Any pipeline that diffusers can load runs through one node, bit for bit as by hand: unlike
families, priors with their decoders, estimates, films; and what gives no pictures says what it
gives.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import quiet_libraries
from imagen_flow_diffusion.tiny import checkpoints, parts, unclip, wordless

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "cascade": partial(unclip.stable_cascade, half="decoder"),
    "cascade-prior": partial(unclip.stable_cascade, half="prior"),
    "ddpm": checkpoints.ddpm,
    "depth": wordless.marigold,
    "dit": wordless.dit,
    "film": wordless.stable_video,
    "flux": checkpoints.flux,
    "if-1": checkpoints.deepfloyd,
    "if-2": partial(checkpoints.deepfloyd, stage=2),
    "if-3": checkpoints.upscaler,
    "kandinsky-3": unclip.kandinsky_3,
    "kandinsky-prior": partial(checkpoints.kandinsky, half="prior"),
    "normals": partial(wordless.marigold, estimates="normals"),
    "sd": checkpoints.stable_diffusion,
    "stable-unclip": unclip.stable_unclip,
    "stable-unclip-words": partial(unclip.stable_unclip, words=True),
    "unclip": checkpoints.unclip,
    "unclip-variation": unclip.unclip_variation,
    **{
        cls: partial(unclip.kandinsky_decoder, class_name=cls)
        for cls in (
            f"KandinskyV22{task}Pipeline"
            for task in ("", "Img2Img", "Inpaint", "Controlnet", "ControlnetImg2Img")
        )
    },
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A mask, as Pillow has it and as the nodes that load it."""
    import PIL.Image

    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:40] = 255
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    PIL.Image.fromarray(mask).save(path)
    return PIL.Image.fromarray(mask), {
        "grey": {"type": "image.load", "file": str(path)},
        "hole": {"type": "mask.from_luminance", "image": "${grey}"},
    }


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: list[flow.Image], theirs: Any) -> bool:
    """Whether pictures are those of Pillow or, of floats, those that diffusers makes of them."""
    theirs = [np.asarray(one) for one in theirs]
    theirs = [
        one if one.dtype == np.uint8 else (one * 255).round().astype(np.uint8) for one in theirs
    ]
    return len(ours) == len(theirs) and all(
        np.array_equal(one.pixels, other) for one, other in zip(ours, theirs, strict=True)
    )


def assembled(path: str) -> Any:
    """A pipeline put together by hand: some diffusers no longer loads itself, since it moved the
    packages of their own parts.
    """
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    index = json.loads((Path(path) / "model_index.json").read_text("utf-8"))
    known = {
        "UnCLIPTextProjModel": UnCLIPTextProjModel,
        "PaellaVQModel": PaellaVQModel,
        "CLIPFeatureExtractor": transformers.CLIPImageProcessorPil,
    }
    given = {name: entry for name, entry in index.items() if not name.startswith("_")}
    with quiet_libraries():
        for name, (library, word) in {
            name: entry for name, entry in given.items() if isinstance(entry, list)
        }.items():
            cls = known.get(word) or getattr(
                {"diffusers": diffusers, "transformers": transformers}[library], word
            )
            given[name] = cls.from_pretrained(f"{path}/{name}")
        pipeline = getattr(diffusers, index["_class_name"])(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


#: Those that diffusers no longer loads.
MOVED = ("cascade", "unclip", "unclip-variation")

WORDS: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": 2}
SMALL: dict[str, Any] = {"width": 32, "height": 32}
LARGE: dict[str, Any] = {"width": 64, "height": 64}

#: Checkpoint, class (none: its own), arguments, what the pictures are, and whether there is a mask.
CALLS: dict[str, tuple[str, str, dict[str, Any], list[str], bool]] = {
    "unclip": (
        "unclip",
        "",
        {
            "prompt": "a fox",
            "prior_num_inference_steps": 2,
            "decoder_num_inference_steps": 2,
            "super_res_num_inference_steps": 2,
        },
        [],
        False,
    ),
    "unclip, varied": (
        "unclip-variation",
        "",
        {"decoder_num_inference_steps": 2, "super_res_num_inference_steps": 2},
        ["image"],
        False,
    ),
    "stable unclip": (
        "stable-unclip-words",
        "",
        {**WORDS, **SMALL, "prior_num_inference_steps": 2},
        [],
        False,
    ),
    # Here guidance makes a batch of two, which a linear layer reads out of order: weights that ask
    # for no gradient gave other last bits.
    "stable unclip, varied": ("stable-unclip", "", {**WORDS, **SMALL}, ["image"], False),
    "kandinsky 3": ("kandinsky-3", "", {**WORDS, **LARGE}, [], False),
    "kandinsky 3, anew": (
        "kandinsky-3",
        "Kandinsky3Img2ImgPipeline",
        {**WORDS, "num_inference_steps": 4},
        ["image"],
        False,
    ),
    "if, anew": (
        "if-1",
        "IFImg2ImgPipeline",
        {**WORDS, "num_inference_steps": 4},
        ["image"],
        False,
    ),
    "if, filled": (
        "if-1",
        "IFInpaintingPipeline",
        {**WORDS, "num_inference_steps": 4},
        ["image"],
        True,
    ),
    "if 2, filled": (
        "if-2",
        "IFInpaintingSuperResolutionPipeline",
        {**WORDS, "num_inference_steps": 4},
        ["image", "original_image"],
        True,
    ),
    "class": ("dit", "", {"class_labels": [1, 0], "num_inference_steps": 2}, [], False),
    "film": (
        "film",
        "",
        {**SMALL, "num_frames": 3, "num_inference_steps": 2, "decode_chunk_size": 2},
        ["image"],
        False,
    ),
    "unconditional": (
        "ddpm",
        "DDIMPipeline",
        {"batch_size": 2, "num_inference_steps": 2, "eta": 0.5},
        [],
        False,
    ),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_pipeline_of_any_kind_draws_as_by_hand(
    call: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    masks: tuple[Any, dict[str, Any]],
) -> None:
    """Its arguments go in by their names, pictures and masks too, and all its pictures come out."""
    name, cls, arguments, names, masked = CALLS[call]
    photo, loading = photos(1, (64, 64))
    given = {
        **arguments,
        **dict.fromkeys(names, photo),
        **({"mask_image": masks[0]} if masked else {}),
    }
    pipeline = (
        assembled(at(name)) if name in MOVED else by_hand(at(name), cls or "DiffusionPipeline")
    )
    output = pipeline(generator=noise(), **given)
    theirs = output["frames"][0] if "frames" in output else output["images"]
    nodes = {**({"photo": loading} if names else {}), **(masks[1] if masked else {})}
    one = {
        "type": "diffusion.pipeline",
        "model": at(name),
        "pipeline_class": cls,
        "arguments": arguments,
        "seed": 3,
    }
    more = {
        **(
            {"images": [{"image": "${photo}", "argument": name} for name in names]} if names else {}
        ),
        **({"mask": "${hole}"} if masked else {}),
    }
    ours = draw(**nodes, one={**one, **more})
    assert same(ours, theirs)
    assert ours[0].pixels.std() > 5


# --- one pipeline goes on with what another gives ---


@pytest.mark.parametrize("task", ["", "Img2Img", "Inpaint", "Controlnet", "ControlnetImg2Img"])
def test_a_decoder_goes_on_with_the_embeddings_of_a_prior(
    task: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    masks: tuple[Any, dict[str, Any]],
) -> None:
    """Kandinsky's prior gives tensors, and each of its decoders draws with them, from a picture, in
    a hole, held to a drawing, as by hand.
    """
    cls = f"KandinskyV22{task}Pipeline"
    photo, loading = photos(1, (64, 64))
    embedded = by_hand(at("kandinsky-prior"))(generator=noise(), **WORDS)
    arguments = {**LARGE, "num_inference_steps": 4}
    given: dict[str, Any] = {
        **arguments,
        "image_embeds": embedded.image_embeds,
        "negative_image_embeds": embedded.negative_image_embeds,
    }
    names = [*(["image"] if "I" in task else []), *(["hint"] if "Control" in task else [])]
    if "image" in names:
        given["image"] = photo
    if "hint" in names:
        given["hint"] = torch.from_numpy(np.asarray(photo, np.float32) / 255).permute(2, 0, 1)[None]
    if task == "Inpaint":
        given["mask_image"] = masks[0]
    theirs = by_hand(at(cls))(generator=noise(5), **given).images
    nodes = {
        **({"photo": loading} if names else {}),
        **(masks[1] if task == "Inpaint" else {}),
        "prior": {
            "type": "diffusion.tensors",
            "model": at("kandinsky-prior"),
            "arguments": WORDS,
            "seed": 3,
        },
    }
    more = {
        **(
            {"images": [{"image": "${photo}", "argument": name} for name in names]} if names else {}
        ),
        **({"mask": "${hole}"} if task == "Inpaint" else {}),
    }
    ours = draw(
        **nodes,
        one={
            "type": "diffusion.pipeline",
            "model": at(cls),
            "tensors": "${prior}",
            "arguments": arguments,
            "seed": 5,
            **more,
        },
    )
    assert same(ours, theirs)


def test_some_of_a_priors_tensors_are_handed_on(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """Stable Cascade's decoder reads the prompt itself, and of the prior only what it shall draw."""
    asked = {**WORDS, "width": 128, "height": 128}
    drawn = {**WORDS, "guidance_scale": 0.0}
    small = by_hand(at("cascade-prior"))(generator=noise(), **asked)
    theirs = assembled(at("cascade"))(
        image_embeddings=small.image_embeddings, generator=noise(5), **drawn
    ).images
    prior = {
        "type": "diffusion.tensors",
        "model": at("cascade-prior"),
        "arguments": asked,
        "names": ["image_embeddings"],
        "seed": 3,
    }
    one = {
        "type": "diffusion.pipeline",
        "model": at("cascade"),
        "tensors": "${prior}",
        "arguments": drawn,
        "seed": 5,
    }
    assert same(draw(prior=prior, one=one), theirs)
    said = failure(prior={**prior, "names": ["image_embeds"]})
    assert said.startswith("the pipeline gave no image_embeds; it gave: image_embeddings, ")
    assert failure(
        prior=prior, one={**one, "model": at("sd"), "arguments": {**WORDS, **SMALL}}
    ).startswith("StableDiffusionPipeline takes no image_embeddings; it takes: prompt,")


@pytest.mark.parametrize("task", ["text_to_image", "image_to_image", "inpaint"])
def test_a_decoder_draws_with_its_prior_in_one_node(
    task: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    masks: tuple[Any, dict[str, Any]],
) -> None:
    """From words alone, from a picture, and in a hole: the combined pipelines of diffusers, of the
    parts of two checkpoints.
    """
    import diffusers

    photo, loading = photos(1, (64, 64))
    word = {"text_to_image": "", "image_to_image": "Img2Img", "inpaint": "Inpaint"}[task]
    decoder = at(f"KandinskyV22{'Inpaint' if word == 'Inpaint' else ''}Pipeline")
    both = {
        **by_hand(decoder).components,
        **{
            f"prior_{name}": part
            for name, part in by_hand(at("kandinsky-prior")).components.items()
        },
    }
    pipeline = getattr(diffusers, f"KandinskyV22{word}CombinedPipeline")(**both)
    pipeline.set_progress_bar_config(disable=True)
    given = {"image": photo} if word else {}
    given |= {"mask_image": masks[0]} if word == "Inpaint" else {}
    theirs = pipeline(
        generator=noise(),
        prior_num_inference_steps=2,
        **{**WORDS, **LARGE, "num_inference_steps": 4},
        **given,
    ).images
    nodes = {**({"photo": loading} if word else {}), **(masks[1] if word == "Inpaint" else {})}
    more = {
        **({"image": "${photo}"} if word else {}),
        **({"mask": "${hole}"} if word == "Inpaint" else {}),
    }
    one = {
        "type": f"diffusion.{task}",
        "model": decoder,
        "prior": at("kandinsky-prior"),
        **WORDS,
        **LARGE,
        "num_inference_steps": 4,
        "arguments": {"prior_num_inference_steps": 2},
        "seed": 3,
    }
    assert same([draw(**nodes, one={**one, **more})], theirs)


def test_a_decoder_says_that_it_wants_its_prior(
    at: Callable[[str], str], failure: Callable[..., str]
) -> None:
    """Words alone are nothing to it."""
    said = failure(
        one={
            "type": "diffusion.text_to_image",
            "model": at("cascade"),
            "prompt": "a fox",
            "seed": 3,
        }
    )
    assert said.startswith("StableCascadeCombinedPipeline needs prior_")


def test_latents_are_tensors_and_no_pictures(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """Those of one pipeline are handed to another as its latents; as pictures they are refused."""
    asked = {**WORDS, **SMALL, "output_type": "latent"}
    latents = by_hand(at("sd"))(generator=noise(), **asked).images
    ours = draw(one={"type": "diffusion.tensors", "model": at("sd"), "arguments": asked, "seed": 3})
    assert ([tensor.tags["is"] for tensor in ours], torch.equal(ours[0].torch(), latents)) == (
        ["latents"],
        True,
    )
    theirs = by_hand(at("sd"))(latents=latents, generator=noise(5), **WORDS).images
    nodes = {
        "first": {"type": "diffusion.tensors", "model": at("sd"), "arguments": asked, "seed": 3}
    }
    assert same(
        draw(
            **nodes,
            one={
                "type": "diffusion.pipeline",
                "model": at("sd"),
                "tensors": "${first}",
                "arguments": WORDS,
                "seed": 5,
            },
        ),
        theirs,
    )
    assert (
        failure(
            one={"type": "diffusion.pipeline", "model": at("sd"), "arguments": asked, "seed": 3}
        )
        == "its 'output_type' is latent, and latents are no pictures: diffusion.tensors gives them"
    )
    assert (
        failure(
            one={
                "type": "diffusion.tensors",
                "model": at("sd"),
                "arguments": {**WORDS, **SMALL},
                "seed": 3,
            }
        )
        == "the pipeline gave no tensors but images; diffusion.pipeline takes its pictures"
    )


def test_deepfloyds_three_stages_draw_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """The whole cascade: states, a small picture, a larger one, and the largest by the upscaler
    that reads the prompt itself.
    """
    import PIL.Image

    first, second, third = (
        by_hand(at("if-1")),
        by_hand(at("if-2"), text_encoder=None, tokenizer=None),
        by_hand(at("if-3")),
    )
    states = dict(
        zip(
            ("prompt_embeds", "negative_prompt_embeds"),
            first.encode_prompt("a fox", clean_caption=False),
            strict=True,
        )
    )
    small = first(**states, num_inference_steps=2, generator=noise(3), output_type="np").images[0]
    larger = second(
        image=torch.from_numpy(small).permute(2, 0, 1)[None] * 2 - 1,
        **states,
        num_inference_steps=2,
        generator=noise(4),
        output_type="np",
    ).images[0]
    picture = PIL.Image.fromarray((larger * 255).round().astype(np.uint8))
    theirs = third(
        "a fox", image=picture, noise_level=20, num_inference_steps=2, generator=noise(5)
    ).images
    nodes = {
        "text": {"type": "text.encode", "model": at("if-1"), "prompt": "a fox"},
        "small": {
            "type": "diffusion.base",
            "model": at("if-1"),
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
        },
        "larger": {
            "type": "diffusion.super_resolution",
            "model": at("if-2"),
            "image": "${small}",
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 4,
        },
        "large": {
            "type": "image.upscale",
            "model": at("if-3"),
            "image": "${larger}",
            "prompt": "a fox",
            "noise_level": 20,
            "num_inference_steps": 2,
            "seed": 5,
        },
    }
    ours = draw(**nodes)
    assert ours.pixels.shape == (128, 128, 3)
    assert same([ours], theirs)


# --- what is drawn of no words ---


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_an_estimate_is_a_picture_of_floats(
    name: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
) -> None:
    """Depths and directions come out as they are, unrounded; directions, which go from -1 to 1,
    from 0 to 1.
    """
    photo, loading = photos(1, (64, 64))
    theirs = by_hand(at(name))(photo, num_inference_steps=2, generator=noise()).prediction
    ours = draw(
        photo=loading,
        one={
            "type": "diffusion.pipeline",
            "model": at(name),
            "images": ["${photo}"],
            "arguments": {"num_inference_steps": 2},
            "seed": 3,
        },
    )
    assert [(one.pixels.dtype, one.pixels.shape) for one in ours] == [
        ("float32", (64, 64, 1 if name == "depth" else 3))
    ]
    assert np.array_equal(ours[0].pixels, theirs[0] if name == "depth" else (theirs[0] + 1) / 2)


def _unconditional(folder: Path, scheduler: str) -> Path:
    """A network for noise of any kind, with a sampler of score matching or of another kind of
    diffusion.
    """
    import diffusers

    checkpoints.ddpm(folder)
    kind = scheduler.removesuffix("Scheduler")
    getattr(diffusers, scheduler)().save_pretrained(folder / "scheduler")
    index = {
        **json.loads((folder / "model_index.json").read_text("utf-8")),
        "_class_name": f"{kind}Pipeline",
        "scheduler": ["diffusers", scheduler],
    }
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    return folder


@pytest.mark.parametrize("scheduler", ["ScoreSdeVeScheduler", "KarrasVeScheduler"])
def test_models_of_the_score_draw_as_by_hand(
    scheduler: str, draw: Callable[..., Any], by_hand: Callable[..., Any], tmp_path: Path
) -> None:
    """Score matching by stochastic differential equations, and Karras' variant."""
    path = str(_unconditional(tmp_path / "score", scheduler))
    import diffusers

    made = getattr(diffusers, scheduler)()
    theirs = by_hand(path, f"{scheduler.removesuffix('Scheduler')}Pipeline", scheduler=made)(
        num_inference_steps=2, generator=noise()
    ).images
    assert same(
        draw(
            one={
                "type": "diffusion.pipeline",
                "model": path,
                "arguments": {"num_inference_steps": 2},
                "seed": 3,
            }
        ),
        theirs,
    )


def test_an_autoencoder_alone_is_sampled_as_by_hand(
    at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """Normal noise in its latents, decoded: one node draws it, another decodes."""
    pipeline = by_hand(at("sd"))
    with torch.no_grad():
        picture = pipeline.vae.decode(
            torch.randn((1, 4, 8, 6), generator=noise()), return_dict=False
        )[0]
    theirs = pipeline.image_processor.postprocess(picture, output_type="pil")
    nodes = {
        "latents": {
            "type": "latents.noise",
            "model": at("sd"),
            "width": 48,
            "height": 64,
            "seed": 3,
        }
    }
    ours = draw(**nodes, one={"type": "latents.decode", "model": at("sd"), "latents": "${latents}"})
    # The scaling of latents, there and back, rounds.
    assert np.abs(ours.pixels.astype(int) - np.asarray(theirs[0])).max() <= 1


# --- parts of other models ---


def test_a_part_of_another_model_is_lent(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
    tmp_path: Path,
) -> None:
    """A motion adapter makes a film of Stable Diffusion, as by hand; the checkpoint itself stays as
    it was.
    """
    import diffusers

    torch.manual_seed(5)
    diffusers.MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=4,
    ).save_pretrained(tmp_path / "motion")
    lent = {"parts": [{"model": str(tmp_path / "motion"), "name": "motion_adapter"}]}
    asked = {**WORDS, **SMALL, "num_frames": 2}
    one = {"type": "diffusion.pipeline", "model": at("sd"), "seed": 3}
    plain = draw(one={**one, "arguments": {**WORDS, **SMALL}})
    theirs = by_hand(
        at("sd"),
        "AnimateDiffPipeline",
        motion_adapter=diffusers.MotionAdapter.from_pretrained(tmp_path / "motion"),
    )(generator=noise(), **asked).frames[0]
    film = {**one, "pipeline_class": "AnimateDiffPipeline", "arguments": asked, **lent}
    assert same(draw(one=film), theirs)
    assert same(draw(one={**one, "arguments": {**WORDS, **SMALL}}), [plain[0].pixels])
    assert failure(one={**one, "pipeline_class": "StableDiffusionAdapterPipeline"}).startswith(
        "StableDiffusionAdapterPipeline needs adapter, which the model"
    )


def test_several_networks_are_one_part(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Two ControlNets that are lent, or that were saved with the checkpoint, draw as by hand; those
    that differ in the second alone are not taken for each other.
    """
    import diffusers

    with quiet_libraries():
        nets = [
            diffusers.ControlNetModel.from_pretrained(
                checkpoints.controlnet(tmp_path / f"net{seed}", seed=seed)
            )
            for seed in (13, 14, 15)
        ]
    photo, loading = photos(1, (32, 32))
    asked = {**WORDS, "controlnet_conditioning_scale": [0.5, 0.7]}
    one = {
        "type": "diffusion.pipeline",
        "images": [{"image": "${photo}", "argument": "image"}] * 2,
        "arguments": asked,
        "seed": 3,
    }
    drawn = []
    for second in (14, 15):
        pipeline = by_hand(
            at("sd"), "StableDiffusionControlNetPipeline", controlnet=[nets[0], nets[second - 13]]
        )
        theirs = pipeline(image=[photo, photo], generator=noise(), **asked).images
        with quiet_libraries():
            pipeline.save_pretrained(tmp_path / f"both{second}")
        drawn.append(draw(photo=loading, one={**one, "model": str(tmp_path / f"both{second}")}))
        assert same(drawn[-1], theirs)
        lent = {
            "parts": [
                {"model": str(tmp_path / name), "name": "controlnet"}
                for name in ("net13", f"net{second}")
            ],
        }
        assert same(
            draw(
                photo=loading,
                one={
                    **one,
                    "model": at("sd"),
                    "pipeline_class": "StableDiffusionControlNetPipeline",
                    **lent,
                },
            ),
            theirs,
        )
    assert not same(drawn[0], [drawn[1][0].pixels])


def test_a_part_that_is_none_is_refused_when_planning(
    at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """A whole checkpoint is no part."""
    said = refused(
        one={
            "type": "diffusion.pipeline",
            "model": at("sd"),
            "parts": [{"model": at("ddpm"), "name": "unet"}],
            "seed": 3,
        }
    )
    assert (
        said
        == f"the port 'parts' cannot use the model '{at('ddpm')}': it is a DDPMPipeline, and 'parts' takes one network in a folder with its config.json"
    )


def test_an_argument_that_is_a_list_gets_one_of_any_length(
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """The frames of a film are a list, be it of one; where there is no ``image``, they are what the
    pictures are by default.
    """
    import diffusers

    torch.manual_seed(6)
    clip = parts.clip_tokenizer()
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    path = checkpoints.write(
        tmp_path,
        "VideoToVideoSDPipeline",
        vae=parts.autoencoder(),
        text_encoder=parts.clip_text(clip),
        tokenizer=clip,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
    )
    photo, loading = photos(1, (32, 32))
    asked = {**WORDS, "num_inference_steps": 4}
    pipeline = by_hand(str(path))
    for number in (1, 2):
        theirs = pipeline(video=[photo] * number, generator=noise(), **asked).frames[0]
        ours = draw(
            photo=loading,
            one={
                "type": "diffusion.pipeline",
                "model": str(path),
                "images": ["${photo}"] * number,
                "arguments": asked,
                "seed": 3,
            },
        )
        assert (same(ours, theirs), len(ours)) == (True, number)


# --- modular pipelines ---


def test_a_modular_pipeline_is_called_as_any_other(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On a checkpoint's parts, or of a folder that lists them the modular way: the pixels are those
    of the plain pipeline and of the modular one by hand.
    """
    import diffusers

    asked = {**WORDS, **SMALL}
    plain = by_hand(at("flux"))
    theirs = plain(generator=noise(), **asked).images
    with quiet_libraries():
        modular = diffusers.FluxModularPipeline()
        modular.update_components(
            **{
                name: part
                for name, part in plain.components.items()
                if name in modular.component_names
            }
        )
        modular.save_pretrained(str(tmp_path / "modular"))
    one = {
        "type": "diffusion.pipeline",
        "model": at("flux"),
        "pipeline_class": "FluxModularPipeline",
        "arguments": asked,
        "seed": 3,
    }
    capfd.readouterr()
    assert same(draw(one=one), theirs)
    assert same(draw(one={**one, "model": str(tmp_path / "modular"), "pipeline_class": ""}), theirs)
    assert "it/s" not in "".join(capfd.readouterr())
    assert failure(one={**one, "arguments": {"promt": "a fox"}}).startswith(
        "FluxModularPipeline takes no promt; it takes: prompt, prompt_2,"
    )


# --- what is no picture, and what is left behind ---


def test_what_gives_no_pictures_says_what_it_gives(
    at: Callable[[str], str], failure: Callable[..., str], tmp_path: Path
) -> None:
    """Sound and embeddings are named, not drawn."""
    import diffusers

    torch.manual_seed(7)
    unet = diffusers.UNet1DModel(
        block_out_channels=(32, 32, 64),
        extra_in_channels=64,
        sample_size=512,
        sample_rate=16_000,
        in_channels=2,
        out_channels=2,
        flip_sin_to_cos=True,
        use_timestep_embedding=False,
        time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D",
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    path = checkpoints.write(
        tmp_path, "DanceDiffusionPipeline", unet=unet, scheduler=diffusers.IPNDMScheduler()
    )
    assert (
        failure(
            one={
                "type": "diffusion.pipeline",
                "model": str(path),
                "arguments": {"num_inference_steps": 2},
                "seed": 3,
            }
        )
        == "the pipeline gave no pictures but audios"
    )
    assert (
        failure(
            one={
                "type": "diffusion.pipeline",
                "model": at("kandinsky-prior"),
                "arguments": WORDS,
                "seed": 3,
            }
        )
        == "the pipeline gave no pictures but image_embeds, negative_image_embeds"
    )


def test_what_a_pipeline_lacks_is_named(
    at: Callable[[str], str], failure: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages that are not installed, for a class as a whole or in the middle of its work, and
    classes that there are not.
    """
    import diffusers

    one = {
        "type": "diffusion.pipeline",
        "model": at("sd"),
        "arguments": {**WORDS, **SMALL},
        "seed": 3,
    }
    assert (
        failure(one={**one, "pipeline_class": "SpectrogramDiffusionPipeline"})
        == "SpectrogramDiffusionPipeline needs transformers, torch, note_seq: install what is missing"
    )
    assert "diffusion.pipeline cannot call NoPipeline" in failure(
        one={**one, "pipeline_class": "NoPipeline"}
    )
    assert "it is an UNet2DModel" in failure(one={**one, "pipeline_class": "UNet2DModel"})

    def clean(*_given: Any, **_more: Any) -> Any:
        return ftfy.fix_text("")  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "encode_prompt", clean)
    assert (
        failure(one=one)
        == "StableDiffusionPipeline wants 'ftfy', which is there only with a package that is not installed, as ftfy or torchvision"
    )


def test_an_autoencoder_works_tile_by_tile_for_one_call(
    at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """As by hand with tiling on; the next call is whole again."""
    asked = {**WORDS, "width": 320, "height": 32, "num_inference_steps": 1}
    pipeline = by_hand(at("sd"))
    whole = pipeline(generator=noise(), **asked).images
    pipeline.vae.enable_tiling()
    theirs = pipeline(generator=noise(), **asked).images
    one = {"type": "diffusion.pipeline", "model": at("sd"), "arguments": asked, "seed": 3}
    assert same(draw(one={**one, "tiled": True}), theirs)
    assert same(draw(one=one), whole)
    assert not same(draw(one=one), theirs)


def test_a_pipeline_that_fails_leaves_shared_networks_as_they_were(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    failure: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some put an attention of their own into the network, and take it out at the end alone; this
    one fails before.
    """
    import diffusers

    cls = diffusers.StableDiffusionAttendAndExcitePipeline
    seen: list[Any] = []
    prepared = cls.prepare_latents

    def remember(self: Any, *given: Any, **more: Any) -> Any:
        seen.append((self.unet, dict(self.unet.attn_processors)))
        return prepared(self, *given, **more)

    monkeypatch.setattr(cls, "prepare_latents", remember)
    one = {
        "type": "diffusion.pipeline",
        "model": at("sd"),
        "arguments": {**WORDS, **SMALL},
        "seed": 3,
    }
    before = draw(one=one)
    assert failure(
        one={
            **one,
            "pipeline_class": cls.__name__,
            "arguments": {**WORDS, **SMALL, "token_indices": [1]},
        }
    )
    ((unet, processors),) = seen
    assert unet.attn_processors == processors
    assert same(draw(one=one), [before[0].pixels])


def test_a_class_of_transformers_that_has_another_name_now_is_found(
    at: Callable[[str], str],
) -> None:
    """Checkpoints of before name processors as transformers once did; what wants a package that is
    missing says which.
    """
    from imagen_flow import Model
    from imagen_flow_diffusion.checkpoints.classes import component_class

    model = Model(Path(at("sd")), "digest", "here")
    assert component_class(
        model, "feature_extractor", ["transformers", "CLIPFeatureExtractor"]
    ).__name__ in ("CLIPImageProcessor", "CLIPImageProcessorPil")
    with pytest.raises(
        flow.ModelError,
        match="wants diffusers.DPMSolverSDEScheduler for its scheduler, which needs torch and torchsde: install what is missing",
    ):
        component_class(model, "scheduler", ["diffusers", "DPMSolverSDEScheduler"])


# --- every class ---

#: What annotations name in the place of classes that checkpoints name; what comes with a package
# of its own; and what is no module with weights in safetensors.
OTHERWISE = (
    "KarrasDiffusionSchedulers",
    "SchedulerMixin",
    "AutoTokenizer",
    "AutoProcessor",
    "CosmosSafetyChecker",
    "OnnxRuntimeModel",
)

#: What pipelines give that is no picture: sound, words, and what another pipeline goes on with.
NO_PICTURE = {
    "audios",
    "texts",
    "image_embeds",
    "image_embeddings",
    "prompt_embeds",
    "atom37_positions",
}


def _classes_in(annotation: Any) -> list[type]:
    inner = typing.get_args(annotation)
    return (
        [found for one in inner for found in _classes_in(one)]
        if inner
        else [annotation]
        if isinstance(annotation, type)
        else []
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_parts_and_pictures_of_every_class_are_found(tmp_path: Path) -> None:
    """Of all that diffusers exports: each class that a part may be is one that a checkpoint may
    name, and what is given are pictures, estimates, or known to be none.
    """
    import diffusers
    import transformers
    from diffusers.utils import BaseOutput

    from imagen_flow import Model
    from imagen_flow_diffusion.checkpoints.classes import component_class
    from imagen_flow_diffusion.pipelines.calling import DRAWN, ESTIMATED

    classes = [
        cls
        for name in dir(diffusers)
        if "Pipeline" in name
        and isinstance(cls := getattr(diffusers, name, None), type)
        and issubclass(cls, diffusers.DiffusionPipeline)
    ]
    strange: list[str] = []
    for cls in classes:
        (tmp_path / "model_index.json").write_text(
            json.dumps({"_class_name": cls.__name__}), "utf-8"
        )
        model = Model(tmp_path, "digest", "here")
        for name, annotation in typing.get_type_hints(cls.__init__).items():
            for part in _classes_in(annotation):
                if (
                    part.__module__.startswith(("diffusers", "transformers"))
                    and part.__name__ not in OTHERWISE
                    and not hasattr(part, "_backends")
                ):
                    home = next(
                        (
                            library.__name__
                            for library in (diffusers, transformers)
                            if hasattr(library, part.__name__)
                        ),
                        part.__module__.split(".")[-2],
                    )
                    try:
                        component_class(model, name, [home, part.__name__])
                    except flow.ModelError as error:
                        strange.append(f"{cls.__name__}: {error}")
        said = [
            getattr(inspect.getmodule(cls), word, None)
            for word in re.findall(r"return (\w+Output)\(", inspect.getsource(cls))
        ]
        fields = [
            set(output.__dataclass_fields__)
            for output in said
            if isinstance(output, type) and issubclass(output, BaseOutput)
        ]
        if fields and not set().union(*fields) & {*DRAWN, *ESTIMATED, *NO_PICTURE}:
            strange.append(f"{cls.__name__} gives {fields}")
    assert len(classes) > 250
    assert strange == []
