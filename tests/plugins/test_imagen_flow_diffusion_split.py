"""What three nodes do with one checkpoint is what its pipeline does alone, bit for bit: from words,
from a picture, in tiles; and what does not fit together is said before anything runs.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import ModelPool
from imagen_flow_diffusion.loading.latent_spaces import space_of
from imagen_flow_diffusion.nodes import latents
from imagen_flow_diffusion.pipelines.families import SPLIT

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: flow.Image, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def three(model: str, words: dict[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    """Words to states, noise to latents, latents to pixels."""
    return {
        "text": {"type": "text.encode", "model": model, "prompt": "a red fox", **(words or {})},
        "latents": {
            "type": "diffusion.denoise",
            "model": model,
            "text": "${text}",
            "seed": 3,
            **asked,
        },
        "picture": {"type": "latents.decode", "model": model, "latents": "${latents}"},
    }


#: What each family is asked for besides a prompt, as parameters of nodes and as arguments of the
# pipeline alone.
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aura-flow": ({"guidance_scale": 4.0}, {}),
    "chroma": ({"guidance_scale": 4.0}, {}),
    "cogview": ({"guidance_scale": 4.0}, {}),
    "hunyuan-dit": ({"guidance_scale": 4.0}, {"use_resolution_binning": False}),
    "latent-consistency": ({"guidance_scale": 4.0}, {}),
    "lumina": ({"guidance_scale": 4.0}, {}),
    "pixart-sigma": ({"guidance_scale": 4.0}, {"use_resolution_binning": False}),
    "qwen": ({"arguments": {"true_cfg_scale": 3.0}}, {}),
    "sana-sprint": ({"guidance_scale": 4.0}, {"use_resolution_binning": False}),
    "z-image": ({"guidance_scale": 3.0}, {}),
}
#: These read no negative prompt.
UNGUIDED = ("latent-consistency", "sana-sprint")


@pytest.mark.parametrize(
    ("kind", "negative"),
    [
        *((kind, "blue") for kind in ASKED if kind not in UNGUIDED),
        *((kind, None) for kind in (*UNGUIDED, "lumina", "qwen", "z-image")),
    ],
)
def test_three_nodes_draw_what_the_pipeline_draws(
    kind: str,
    negative: str | None,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a negative prompt and without, three nodes give the pipeline's pixels, and the pipeline
    misses nothing that it would warn of.
    """
    asked, more = ASKED[kind]
    words = {} if negative is None else {"negative_prompt": negative}
    given = {"num_inference_steps": 2, "width": 32, "height": 64}
    theirs = by_hand(at(kind))(
        "a red fox",
        generator=noise(),
        **given,
        **words,
        **more,
        **{k: v for k, v in asked.items() if k != "arguments"},
        **asked.get("arguments", {}),
    ).images[0]
    caplog.clear()
    ours = draw(**three(at(kind), words, **given, **asked))
    assert same(ours, theirs)
    assert [
        record.getMessage() for record in caplog.records if "prompt_embeds" in record.getMessage()
    ] == []
    assert ours.pixels.std() > 5


#: The families whose pipelines begin with a picture, and the arguments that keep its size.
AGAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "chroma": ("ChromaImg2ImgPipeline", {"width": 48, "height": 64}),
    "flux": ("FluxImg2ImgPipeline", {"width": 48, "height": 64}),
    "latent-consistency": ("LatentConsistencyModelImg2ImgPipeline", {}),
    "qwen": ("QwenImageImg2ImgPipeline", {"width": 48, "height": 64}),
    "sd": ("StableDiffusionImg2ImgPipeline", {}),
    "sd3": ("StableDiffusion3Img2ImgPipeline", {"width": 48, "height": 64}),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", {}),
    "z-image": ("ZImageImg2ImgPipeline", {"width": 48, "height": 64}),
}


@pytest.mark.parametrize("kind", list(AGAIN))
def test_a_picture_through_latents_is_drawn_anew_as_by_the_pipeline(
    kind: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
) -> None:
    """One seed for the autoencoder's sample and for the noise: the two nodes draw from it what the
    pipeline draws, in the same order. Another seed gives other noise.
    """
    cls, sizes = AGAIN[kind]
    picture, photo = photos(1, (48, 64))
    theirs = by_hand(at(kind), cls)(
        "a red fox", image=picture, strength=0.6, num_inference_steps=4, generator=noise(), **sizes
    ).images[0]
    nodes = {
        "photo": photo,
        "before": {"type": "latents.encode", "model": at(kind), "image": "${photo}", "seed": 3},
    }
    nodes |= three(at(kind), latents="${before}", strength=0.6, num_inference_steps=4)
    assert same(draw(**nodes), theirs)
    other = {**nodes, "latents": {**nodes["latents"], "seed": 4}}
    assert not same(draw(**other), theirs)


@pytest.mark.parametrize("kind", ["flux", "qwen", "sd", "sd3", "sdxl"])
def test_a_hole_in_latents_is_filled_as_by_the_pipeline(
    kind: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A mask beside the latents gives the pixels of the family's inpainting, from the picture and
    the same seed.
    """
    picture, photo = photos(1, (48, 64))
    mask = PIL.Image.fromarray(
        np.random.default_rng(2).choice(np.array([0, 255], np.uint8), (64, 48))
    )
    mask.save(tmp_path / "mask.png")
    drawn = {"type": "image.load", "file": str(tmp_path / "mask.png")}
    given = {"strength": 0.6, "num_inference_steps": 4}
    pipeline = by_hand(at(kind), AGAIN[kind][0].replace("Img2Img", "Inpaint"))
    found = pipeline(
        "a red fox",
        image=picture,
        mask_image=mask,
        width=48,
        height=64,
        generator=noise(),
        output_type="latent" if kind == "sd3" else "pil",
        **given,
    )
    theirs = found.images if kind == "sd3" else found.images[0]
    nodes = {
        "photo": photo,
        "drawn": drawn,
        "hole": {"type": "mask.from_luminance", "image": "${drawn}"},
        "before": {"type": "latents.encode", "model": at(kind), "image": "${photo}", "seed": 3},
    }
    nodes |= three(at(kind), latents="${before}", mask="${hole}", **given)
    if kind == "sd3":
        # diffusers' inpainting of SD 3 forgets the shift when it decodes; up to there all is equal.
        nodes.pop("picture")
        assert np.array_equal(draw(**nodes).numpy(), theirs)
        return
    assert same(draw(**nodes), theirs)
    assert not same(draw(**{**nodes, **three(at(kind), latents="${before}", **given)}), theirs)


# --- in tiles, and one by one ---

#: Larger than a tile of the tiny autoencoders.
LARGE = {"width": 288, "height": 320}


def decoded(model: str, **more: Any) -> dict[str, Any]:
    return {
        "noise": {"type": "latents.noise", "model": model, "seed": 3, **LARGE},
        "picture": {"type": "latents.decode", "model": model, "latents": "${noise}", **more},
    }


@pytest.mark.parametrize("kind", ["sd", "qwen"])
def test_a_large_picture_is_decoded_in_tiles(
    kind: str, at: Callable[[str], str], draw: Callable[..., Any], by_hand: Callable[..., Any]
) -> None:
    """Tiles give what the library's own tiles give, close to the picture decoded whole; and the
    next picture is whole again.
    """
    whole = draw(**decoded(at(kind)))
    tiled = draw(**decoded(at(kind), tiled=True))
    pipeline = by_hand(at(kind))
    config = pipeline.vae.config
    drawn = torch.randn(
        (1, 4, 320 // pipeline.vae_scale_factor, 288 // pipeline.vae_scale_factor),
        generator=noise(),
    )
    pipeline.vae.enable_tiling()
    with torch.no_grad():
        if kind == "qwen":
            mean, deviation = (
                torch.tensor(numbers).view(1, -1, 1, 1)
                for numbers in (config.latents_mean, config.latents_std)
            )
            values = (drawn - mean) * (1 / deviation) / (1 / deviation) + mean
            picture = pipeline.vae.decode(values[:, :, None]).sample[:, :, 0]
        else:
            picture = pipeline.vae.decode(
                drawn * config.scaling_factor / config.scaling_factor
            ).sample
    assert same(tiled, pipeline.image_processor.postprocess(picture, output_type="pil")[0])
    apart = np.abs(tiled.pixels.astype(int) - whole.pixels.astype(int))
    assert 0 < apart.mean() < 10
    assert same(draw(**decoded(at(kind))), whole.pixels)


def tight(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let the autoencoder fit in memory only if it works in a way."""
    from diffusers import AutoencoderKL

    decode = AutoencoderKL.decode

    def failing(vae: Any, values: Any, *given: Any, **more: Any) -> Any:
        if not getattr(vae, way):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(vae, values, *given, **more)

    monkeypatch.setattr(AutoencoderKL, "decode", failing)


def run(pool: ModelPool, settings: dict[str, Any], nodes: dict[str, Any]) -> Any:
    return flow.run(
        {
            "imagen_flow": 1,
            "settings": settings,
            "nodes": nodes,
            "outputs": {"out": "${" + list(nodes)[-1] + "}"},
        },
        store=None,
        pool=pool,
        device="cpu",
    )["out"]


def test_tiles_on_the_ladder_are_the_same_tiles(
    at: Callable[[str], str],
    draw: Callable[..., Any],
    pool: ModelPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The level `tile`, taken when memory runs out, gives the pixels of `tiled: true`."""
    asked = draw(**decoded(at("sd"), tiled=True))
    tight(monkeypatch, "use_tiling")
    assert same(run(pool, {"ladder": "tile"}, decoded(at("sd"))), asked.pixels)
    monkeypatch.undo()
    assert not same(draw(**decoded(at("sd"))), asked.pixels)


def test_pictures_are_decoded_one_by_one_on_the_ladder(
    at: Callable[[str], str],
    by_hand: Callable[..., Any],
    pool: ModelPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The level `slice` gives several pictures as the library's slices do, and leaves nothing on the
    shared autoencoder.
    """
    given = {
        "prompt": "a fox",
        "num_inference_steps": 1,
        "num_images_per_prompt": 2,
        "width": 32,
        "height": 32,
    }
    pipeline = by_hand(at("sd"))
    pipeline.vae.enable_slicing()
    theirs = pipeline(generator=noise(), **given).images
    node = {"one": {"type": "diffusion.pipeline", "model": at("sd"), "arguments": given, "seed": 3}}
    tight(monkeypatch, "use_slicing")
    with pytest.raises(flow.NodeError, match="CUDA out of memory"):
        run(pool, {}, node)
    assert [
        same(a, b) for a, b in zip(run(pool, {"ladder": "slice"}, node), theirs, strict=True)
    ] == [True, True]
    with pytest.raises(flow.NodeError, match="CUDA out of memory"):
        run(pool, {}, node)


# --- how far a prompt is read ---


#: All that read a prompt each in a way of their own, and those that read a negative prompt in
# another way.
READ = (
    "aura-flow",
    "chroma",
    "cogview",
    "flux",
    "hunyuan-dit",
    "lumina",
    "pixart",
    "pixart-sigma",
    "qwen",
    "sana",
    "sd",
    "sd3",
    "sdxl",
    "z-image",
)


@pytest.mark.parametrize(
    ("kind", "port"),
    [
        *((kind, "prompt") for kind in READ),
        *(
            (kind, "negative_prompt")
            for kind in ("hunyuan-dit", "lumina", "qwen", "sana", "z-image")
        ),
    ],
)
def test_what_is_said_to_be_cut_is_not_read_and_nothing_else(
    kind: str, port: str, at: Callable[[str], str], pool: ModelPool
) -> None:
    """The first letter after the cut changes no state; the last before it does."""
    prompt = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 1100))

    def encoded(text: str) -> tuple[list[bytes], str]:
        notes: list[str] = []
        nodes = {"text": {"type": "text.encode", "model": at(kind), "prompt": "a fox", port: text}}
        graph = {"imagen_flow": 1, "nodes": nodes, "outputs": {"out": "${text}"}}
        found = flow.run(
            graph,
            store=None,
            pool=pool,
            device="cpu",
            on_event=lambda event: notes.append(getattr(event, "note", "")),
        )["out"]
        return [tensor.numpy().tobytes() for tensor in found], "; ".join(filter(None, notes))

    states, said = encoded(prompt)
    assert said.startswith(f"the {port.replace('_', ' ')} is cut after "), said
    cut = prompt.index(said.split("before '")[1].split("…")[0])
    assert prompt.count(prompt[cut : cut + 29]) == 1

    def other(place: int) -> list[bytes]:
        return encoded(prompt[:place] + "x" + prompt[place + 1 :])[0]

    assert other(cut) == states
    assert other(cut - 1) != states


# --- what fits together ---

#: Families by the space that their latents are in.
SPACES = {
    "Stable Diffusion: 4 channels of 1/8, scaled by 0.18215": [
        "sd",
        "pixart",
        "latent-consistency",
    ],
    "SDXL: 4 channels of 1/8, scaled by 0.13025": [
        "sdxl",
        "sdxl-refiner",
        "pixart-sigma",
        "aura-flow",
        "hunyuan-dit",
    ],
    "SD 3: 16 channels of 1/8, scaled by 1.5305, shifted by 0.0609": ["sd3"],
    "FLUX: 16 channels of 1/8, scaled by 0.3611, shifted by 0.1159": [
        "flux",
        "chroma",
        "lumina",
        "z-image",
    ],
    "16 channels of 1/8, scaled by 1": ["cogview"],
    "4 channels of 1/2, scaled by 0.41407": ["sana", "sana-sprint"],
}


def test_families_that_share_an_autoencoder_share_a_space(at: Callable[[str], str]) -> None:
    """A space has one name, whichever family's checkpoint is asked; others have others."""
    found = {
        kind: space_of(flow.Model(Path(at(kind)), kind, kind))
        for kinds in SPACES.values()
        for kind in kinds
    }
    assert found == {kind: space for space, kinds in SPACES.items() for kind in kinds}
    assert re.fullmatch(
        r"4 channels of 1/8, normalised \([0-9a-f]{8}\)",
        space_of(flow.Model(Path(at("qwen")), "x", "x")),
    )


def test_statistics_tell_spaces_apart(at: Callable[[str], str], tmp_path: Path) -> None:
    """Two autoencoders that differ in the mean or the deviation of one channel give latents that do
    not fit the other, also where all else is equal.
    """
    config = json.loads((Path(at("sdxl")) / "vae" / "config.json").read_text())
    names = set()
    for place, (mean, deviation) in enumerate(
        [
            (None, None),
            ([0.0] * 4, [1.0] * 4),
            ([0.0, 0.0, 0.0, 0.1], [1.0] * 4),
            ([0.0] * 4, [1.0, 1.0, 1.0, 1.1]),
        ]
    ):
        (tmp_path / str(place) / "vae").mkdir(parents=True)
        (tmp_path / str(place) / "vae" / "config.json").write_text(
            json.dumps({**config, "latents_mean": mean, "latents_std": deviation})
        )
        names.add(space_of(flow.Model(tmp_path / str(place), "x", "x")))
    assert len(names) == 4
    (tmp_path / "0" / "vae" / "config.json").write_text(json.dumps({**config, "shift_factor": 0.0}))
    assert (
        space_of(flow.Model(tmp_path / "0", "x", "x"))
        == "SDXL: 4 channels of 1/8, scaled by 0.13025"
    )


def test_what_does_not_fit_is_said_before_anything_runs(
    at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Latents go from one family to another that shares the autoencoder and to no other; text goes
    to its own family only.
    """
    drawn = three(at("flux"))
    assert (
        refused(
            text=drawn["text"],
            latents=drawn["latents"],
            picture={**drawn["picture"], "model": at("z-image")},
        )
        == ""
    )
    said = refused(
        text=drawn["text"],
        latents=drawn["latents"],
        picture={**drawn["picture"], "model": at("qwen")},
    )
    assert said == (
        f"the latents come from '{at('flux')}' (FLUX: 16 channels of 1/8, scaled by 0.3611, shifted by 0.1159), and this decoder in latents.decode, '{at('qwen')}', "
        f"reads {space_of(flow.Model(Path(at('qwen')), 'x', 'x'))}: use the checkpoint that they were made with"
    )
    said = refused(text=drawn["text"], latents={**drawn["latents"], "model": at("chroma")})
    assert said == (
        f"the text comes from '{at('flux')}', of the family Flux, and diffusion.denoise's model '{at('chroma')}' is of the family Chroma: encode the text with the same model"
    )


def test_text_for_another_cascade_is_said_before_anything_runs(
    at: Callable[[str], str], refused: Callable[..., str], tiny: Any, tmp_path: Path
) -> None:
    """DeepFloyd IF reads its own text, as the embedded cascade does and as Stable Diffusion does."""
    cascade, stage = str(tiny.cascade(tmp_path / "cascade")), at("if-1")
    text = {"type": "text.encode", "prompt": "a red fox"}
    base = {"type": "diffusion.base", "text": "${text}", "seed": 1}
    assert refused(text={**text, "model": stage}, base={**base, "model": stage}) == ""
    assert refused(text={**text, "model": cascade}, base={**base, "model": cascade}) == ""
    said = refused(text={**text, "model": cascade}, base={**base, "model": stage})
    assert (
        said
        == f"the text comes from '{cascade}', of the family ImagenCascade, and diffusion.base's model '{stage}' is of the family IF: encode the text with the same model"
    )
    large = {
        "photo": {"type": "image.solid", "width": 32, "height": 32},
        "large": {
            "type": "diffusion.super_resolution",
            "model": at("if-2"),
            "image": "${photo}",
            "text": "${text}",
            "seed": 1,
        },
    }
    assert refused(text={**text, "model": stage}, **large) == ""
    assert f"diffusion.super_resolution's model '{at('if-2')}' is of the family IF" in refused(
        text={**text, "model": at("sd")}, **large
    )


@pytest.mark.parametrize(
    "kind",
    [
        "aura-flow",
        "cogview",
        "hunyuan-dit",
        "lumina",
        "pixart",
        "pixart-sigma",
        "sana",
        "sana-sprint",
    ],
)
def test_a_family_that_begins_with_noise_alone_says_so(
    kind: str, at: Callable[[str], str], refused: Callable[..., str]
) -> None:
    """Latents to begin with are refused when planning; the message names the family."""
    nodes = {
        "noise": {"type": "latents.noise", "model": at(kind), "width": 64, "height": 64, "seed": 1},
        **three(at(kind), latents="${noise}", strength=0.5),
    }
    assert refused(**nodes).startswith(
        f"diffusion.denoise cannot begin with latents with the model '{at(kind)}': diffusers has no pipeline of the family "
    )


def test_a_mask_that_nothing_can_be_done_with_is_said(
    at: Callable[[str], str], refused: Callable[..., str], failure: Callable[..., str]
) -> None:
    """Of a family that fills in pictures alone, of a checkpoint made for that, and without latents."""
    hole = {
        "white": {"type": "image.solid", "width": 64, "height": 64},
        "hole": {"type": "mask.from_luminance", "image": "${white}"},
    }
    noise = {
        "noise": {
            "type": "latents.noise",
            "model": at("z-image"),
            "width": 64,
            "height": 64,
            "seed": 1,
        }
    }
    assert refused(**hole, **noise, **three(at("z-image"), latents="${noise}", mask="${hole}")) == (
        f"diffusion.denoise cannot fill in latents with the model '{at('z-image')}': diffusers has no pipeline of the family ZImage that does; leave 'mask' out, or use a model of another family"
    )
    noise["noise"]["model"] = at("inpainting")
    assert failure(
        **hole, **noise, **three(at("inpainting"), latents="${noise}", mask="${hole}")
    ).endswith(
        "it was made for filling in (its network reads 9 channels, not 4); diffusion.inpaint takes it"
    )
    assert failure(**hole, **three(at("sd"), mask="${hole}", num_inference_steps=1)).startswith(
        "its 'mask' says where to draw in latents, and there are none"
    )


def test_the_table_of_families_is_as_diffusers_has_them() -> None:
    """Every family has the class that draws, what it encodes are arguments of it, and it begins
    with a picture if and only if diffusers has the class for that.
    """
    import diffusers

    for family, split in SPLIT.items():
        takes = inspect.signature(getattr(diffusers, f"{family}Pipeline").__call__).parameters
        names = [name for name in split.encoded if name]
        assert set(names) <= set(takes), family
        assert ("image_to_image" in split.again) == (
            hasattr(diffusers, f"{family}Img2ImgPipeline") and family not in ("IF", "SanaSprint")
        ), family
        assert "inpaint" not in split.again or hasattr(diffusers, f"{family}InpaintPipeline"), (
            family
        )


def test_no_step_that_is_left_is_said(
    at: Callable[[str], str], failure: Callable[..., str], photos: Callable[..., Any]
) -> None:
    """A strength that leaves nothing to do, where diffusers gives an empty batch, is an error in
    one node and in three.
    """
    photo = {"photo": photos(1)[1]}
    asked = {"strength": 0.2, "num_inference_steps": 4}
    words = "no denoising step is left: use a larger 'strength' or more 'num_inference_steps'"
    assert (
        failure(
            **photo,
            one={
                "type": "diffusion.image_to_image",
                "model": at("sdxl"),
                "image": "${photo}",
                "prompt": "a",
                "seed": 3,
                **asked,
            },
        )
        == words
    )
    nodes = {
        **photo,
        "before": {"type": "latents.encode", "model": at("sdxl"), "image": "${photo}"},
        **three(at("sdxl"), latents="${before}", **asked),
    }
    assert failure(**nodes) == words


def test_a_checkpoint_that_names_a_class_by_its_old_name_is_known(
    at: Callable[[str], str], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """Lumina Image 2 on the hub says that it is a Lumina2Text2ImgPipeline, which diffusers calls
    otherwise now.
    """
    shutil.copytree(at("lumina"), tmp_path / "old")
    index = tmp_path / "old" / "model_index.json"
    index.write_text(index.read_text().replace("Lumina2Pipeline", "Lumina2Text2ImgPipeline"))
    asked = {"num_inference_steps": 1, "width": 32, "height": 32}
    assert same(
        draw(**three(str(tmp_path / "old"), **asked)), draw(**three(at("lumina"), **asked)).pixels
    )


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("sdxl", "float16"), ("sdxl", "bfloat16"), ("qwen", "float16"), ("z-image", "bfloat16")],
)
def test_half_precision_is_the_pipelines_own(
    kind: str,
    dtype: str,
    at: Callable[[str], str],
    by_hand: Callable[..., Any],
    photos: Callable[..., Any],
    pool: ModelPool,
) -> None:
    """What is computed in float32 where half precision would overflow, and what is not, is as in
    the pipeline: from words and from a picture.
    """
    picture, photo = photos(1, (48, 64))
    cls, sizes = AGAIN[kind]
    asked = {"num_inference_steps": 2, "width": 48, "height": 64}
    pipeline = by_hand(at(kind), torch_dtype=getattr(torch, dtype))
    theirs = pipeline("a red fox", generator=noise(), **asked).images[0]
    assert same(run(pool, {"dtype": dtype}, three(at(kind), **asked)), theirs)
    pipeline = by_hand(at(kind), cls, torch_dtype=getattr(torch, dtype))
    theirs = pipeline(
        "a red fox", image=picture, strength=0.6, num_inference_steps=4, generator=noise(), **sizes
    ).images[0]
    nodes = {
        "photo": photo,
        "before": {"type": "latents.encode", "model": at(kind), "image": "${photo}", "seed": 3},
    }
    assert same(
        run(
            pool,
            {"dtype": dtype},
            {**nodes, **three(at(kind), latents="${before}", strength=0.6, num_inference_steps=4)},
        ),
        theirs,
    )


def test_latents_of_a_size_that_cannot_be_drawn_are_said(
    at: Callable[[str], str],
    failure: Callable[..., str],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Sides that a family of 2 x 2 patches cannot take, and a size other than that of the latents."""
    odd = {
        "noise": {"type": "latents.noise", "model": at("sd3"), "width": 72, "height": 40, "seed": 1}
    }
    assert draw(**odd).shape == (1, 16, 5, 9)
    odd = {
        "noise": {
            "type": "latents.noise",
            "model": at("flux"),
            "width": 72,
            "height": 40,
            "seed": 1,
        }
    }
    assert draw(**odd).shape == (1, 16, 5, 9)
    nodes = {
        "photo": {"type": "image.solid", "width": 72, "height": 64},
        "before": {"type": "latents.encode", "model": at("sd"), "image": "${photo}"},
    }
    said = failure(**nodes, **three(at("sd"), latents="${before}", width=64))
    assert (
        said
        == "its 'latents' stand for a picture of 72 x 64, which is drawn in that size: leave 'width' and 'height' out, or resize the latents (latents.resize)"
    )
    with pytest.raises(
        ValueError,
        match="its 'latents' stand for a picture of 72 x 64, and the model draws multiples of 16: resize them",
    ):
        latents._sides(
            by_hand(at("flux")), torch.zeros(1, 16, 8, 9), 8, {"width": None, "height": None}
        )


@pytest.mark.parametrize(
    ("kind", "dtype"), [("qwen", "float32"), ("sdxl", "float16"), ("z-image", "float32")]
)
def test_layers_that_are_streamed_give_the_same_pixels(
    kind: str,
    dtype: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With weights that come layer by layer, lists of states, films of one picture and an
    autoencoder that computes in float32 for a while are as without.
    """
    nodes = {
        "photo": photos(1, (48, 64))[1],
        "before": {"type": "latents.encode", "model": at(kind), "image": "${photo}", "seed": 3},
    }
    nodes |= three(
        at(kind),
        {"negative_prompt": "blue"},
        latents="${before}",
        strength=0.6,
        num_inference_steps=4,
    )
    with ModelPool() as pool:
        plain = run(pool, {"dtype": dtype}, nodes)
    placed: list[Any] = []

    def place(module: Any, *, device: str, settings: loaders.Loading) -> Any:
        from accelerate import cpu_offload

        cpu_offload(module, torch.device(device), offload_buffers=True)
        placed.append(module)
        return module

    monkeypatch.setattr(loaders, "place_module", place)
    with ModelPool() as pool:
        assert same(run(pool, {"dtype": dtype, "offload": "layers"}, nodes), plain.pixels)
    assert {parameter.device.type for module in placed for parameter in module.parameters()} == {
        "meta"
    }
