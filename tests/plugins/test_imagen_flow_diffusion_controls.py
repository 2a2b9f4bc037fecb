"""What holds a picture to drawings, ControlNets, T2I-Adapters and checkpoints made for it, gives
the pixels of diffusers called by hand, in every family that has it.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagen_flow._models import quiet_libraries
from imagen_flow_diffusion.adapters import controls
from imagen_flow_diffusion.pipelines import calling
from imagen_flow_diffusion.tiny import checkpoints, companions

#: diffusers warns of what it itself does with numpy, torch and its own pipelines.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

WORDS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""What of FLUX reads words."""


def redux(folder: Path) -> Path:
    """FLUX Redux, which reads pictures into what FLUX reads of words: of FLUX's true width, for it
    writes that width down.
    """
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(90)
    vision = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    )
    return checkpoints.write(
        folder,
        "FluxPriorReduxPipeline",
        image_encoder=vision,
        feature_extractor=SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        image_embedder=ReduxImageEncoder(redux_dim=16, txt_in_features=4096),
        **dict.fromkeys(WORDS),
    )


def wide_flux(folder: Path) -> Path:
    """FLUX without its text encoders, of the true width of what it reads."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    from imagen_flow_diffusion.tiny import parts

    torch.manual_seed(91)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    vae = parts.autoencoder(
        channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return checkpoints.write(
        folder,
        "FluxPipeline",
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(WORDS),
    )


MAKERS: dict[str, Callable[[Path], Path]] = {
    "redux": redux,
    "wide-flux": wide_flux,
    "sd": checkpoints.stable_diffusion,
    "sdxl": checkpoints.stable_diffusion_xl,
    "refiner": lambda folder: checkpoints.stable_diffusion_xl(folder, refiner=True),
    "sd3": checkpoints.stable_diffusion_3,
    "flux": checkpoints.flux,
    "qwen": checkpoints.qwen_image,
    "sana": checkpoints.sana,
    "qwen-edges": companions.qwen_controlnet,
    "sana-edges": companions.sana_controlnet,
    "flux-canny": lambda folder: checkpoints.flux(
        folder, class_name="FluxControlPipeline", reads=128
    ),
    "flux-fill": lambda folder: checkpoints.flux(folder, class_name="FluxFillPipeline", reads=384),
    "sd-edges": checkpoints.controlnet,
    "sdxl-edges": lambda folder: checkpoints.controlnet(folder, xl=True),
    "sdxl-tones": lambda folder: checkpoints.controlnet(folder, xl=True, seed=14),
    "union": companions.union,
    "union2": lambda folder: companions.union(folder, seed=80),
    "sd3-edges": companions.sd3_controlnet,
    "sd3-tones": lambda folder: companions.sd3_controlnet(folder, seed=82),
    "sd3-fill": lambda folder: companions.sd3_controlnet(folder, fills=True),
    "flux-edges": companions.flux_controlnet,
    "flux-hints": lambda folder: companions.flux_controlnet(folder, hints=16, seed=92),
    "flux-union": lambda folder: companions.flux_controlnet(folder, modes=4),
    "sd-sketch": companions.t2i_adapter,
    "sd-depth": lambda folder: companions.t2i_adapter(folder, seed=83),
    "sdxl-sketch": lambda folder: companions.t2i_adapter(folder, xl=True),
}

SIZE = {"width": 32, "height": 32}


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours.pixels, np.asarray(theirs))


def network(path: str) -> Any:
    """A network as a user of diffusers loads it."""
    import diffusers

    with quiet_libraries():
        return getattr(diffusers, named(path, "config.json")).from_pretrained(path)


def node(task: str, model: str, **more: Any) -> dict[str, Any]:
    return {
        "type": f"diffusion.{task}",
        "model": model,
        "prompt": "a fox",
        "num_inference_steps": 2,
        "seed": 3,
        **more,
    }


#: Family, networks with the fields of their controls, what the nodes are given beside, and the same
#: as arguments of the pipeline.
LENT: dict[str, tuple[str, list[tuple[str, dict[str, Any]]], dict[str, Any], dict[str, Any]]] = {
    "SDXL": (
        "sdxl",
        [("sdxl-edges", {"scale": 0.7, "to": 0.9})],
        {},
        {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.9},
    ),
    "SDXL, two": (
        "sdxl",
        [
            ("sdxl-edges", {"scale": 0.7, "from": 0.0, "to": 0.5}),
            ("sdxl-tones", {"scale": 0.4, "from": 0.5, "to": 1.0}),
        ],
        {},
        {
            "controlnet_conditioning_scale": [0.7, 0.4],
            "control_guidance_start": [0.0, 0.5],
            "control_guidance_end": [0.5, 1.0],
        },
    ),
    "SD 3": ("sd3", [("sd3-edges", {"scale": 0.6})], {}, {"controlnet_conditioning_scale": 0.6}),
    "SD 3, two": (
        "sd3",
        [("sd3-edges", {"scale": 0.6}), ("sd3-tones", {"scale": 0.3})],
        {},
        {"controlnet_conditioning_scale": [0.6, 0.3]},
    ),
    "FLUX": (
        "flux",
        [("flux-edges", {"scale": 0.6, "to": 0.8})],
        {},
        {"controlnet_conditioning_scale": 0.6, "control_guidance_end": 0.8},
    ),
    "FLUX, by hints": (
        "flux",
        [("flux-hints", {"scale": 0.7})],
        {},
        {"controlnet_conditioning_scale": 0.7},
    ),
    "FLUX, a union": ("flux", [("flux-union", {"mode": 2})], {}, {"control_mode": 2}),
    "FLUX, two": (
        "flux",
        [
            ("flux-union", {"mode": 2, "scale": 0.6, "from": 0.0, "to": 0.5}),
            ("flux-union", {"mode": 0, "scale": 0.3, "from": 0.5, "to": 1.0}),
        ],
        {},
        {
            "control_mode": [2, 0],
            "controlnet_conditioning_scale": [0.6, 0.3],
            "control_guidance_start": [0.0, 0.5],
            "control_guidance_end": [0.5, 1.0],
        },
    ),
    "Qwen-Image": (
        "qwen",
        [("qwen-edges", {"scale": 0.6, "to": 0.8})],
        {},
        {"controlnet_conditioning_scale": 0.6, "control_guidance_end": 0.8},
    ),
    "Sana": (
        "sana",
        [("sana-edges", {"scale": 0.6})],
        {"arguments": {"use_resolution_binning": False}},
        {"controlnet_conditioning_scale": 0.6, "use_resolution_binning": False},
    ),
    "SDXL, a union": ("sdxl", [("union", {"mode": 3})], {}, {"control_mode": [3]}),
    "SDXL, two unions": (
        "sdxl",
        [("union", {"mode": 3, "scale": 0.6}), ("union2", {"mode": 1, "scale": 0.3})],
        {},
        {"control_mode": [3, 1], "controlnet_conditioning_scale": [0.6, 0.3]},
    ),
    "SD, a T2I-Adapter": (
        "sd",
        [("sd-sketch", {"scale": 0.8})],
        {},
        {"adapter_conditioning_scale": 0.8},
    ),
    "SD, two T2I-Adapters": (
        "sd",
        [("sd-sketch", {"scale": 0.8}), ("sd-depth", {"scale": 0.3})],
        {},
        {"adapter_conditioning_scale": [0.8, 0.3]},
    ),
    "SDXL, a T2I-Adapter": ("sdxl", [("sdxl-sketch", {})], {}, {}),
}


def lent(
    case: str, at: Callable[[str], str], photos: Callable[..., Any]
) -> tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A case as it is tried: the model's path, its pipeline's name up to the task, nodes that load
    drawings, arguments of the node and of the pipeline.
    """
    family, controls_of, ours, theirs = LENT[case]
    names = [name for name, _ in controls_of]
    helper = controls.CONTROL_KINDS[type(network(at(names[0]))).__name__]
    stem = named(at(family), "model_index.json").removesuffix("Pipeline") + helper.word
    drawings = [photos(number) for number in range(len(names))]
    loads = {f"drawing{number}": load for number, (_, load) in enumerate(drawings)}
    networks, pictures = [network(at(name)) for name in names], [picture for picture, _ in drawings]
    one = len(names) == 1
    # A union takes lists of drawings even where there is one.
    hand = {
        **theirs,
        helper.port: networks[0] if one else networks,
        "drawings": pictures[0] if one and helper.word != "ControlNetUnion" else pictures,
    }
    return (
        at(family),
        stem,
        loads,
        {
            "controls": [
                {"model": at(name), "image": "${" + load + "}", **fields}
                for (name, fields), load in zip(controls_of, loads, strict=True)
            ],
            **ours,
        },
        hand,
    )


def named(path: str, file: str) -> str:
    """The class that a checkpoint says it is."""
    return str(json.loads((Path(path) / file).read_text())["_class_name"])


@pytest.mark.parametrize("case", list(LENT))
def test_a_picture_is_held_to_drawings_as_by_hand(
    case: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Text to image with one network or several gives the pipeline's pixels, and other ones than
    without.
    """
    path, stem, loads, ours, hand = lent(case, at, photos)
    drawings = hand.pop("drawings")
    port = "adapter" if "adapter" in hand else "controlnet"
    pipeline = by_hand(path, f"{stem}Pipeline", **{port: hand.pop(port)})
    place = (
        "control_image"
        if stem.startswith(("StableDiffusion3", "Flux", "QwenImage", "Sana")) or "Union" in stem
        else "image"
    )
    torch.manual_seed(3)  # SD 3's pipeline draws from torch's own generator too
    theirs = pipeline(
        "a fox", generator=noise(), num_inference_steps=2, **SIZE, **{place: drawings}, **hand
    ).images[0]
    drawn = draw(**loads, one=node("text_to_image", path, **SIZE, **ours))
    assert same(drawn, theirs)
    plain = {name: value for name, value in ours.items() if name == "arguments"}
    assert not same(draw(one=node("text_to_image", path, **SIZE, **plain)), drawn.pixels)


@pytest.mark.parametrize("case", list(LENT))
def test_the_denoising_alone_is_held_to_drawings(
    case: str, at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any]
) -> None:
    """Words, denoising and pixels by three nodes give what one node gives; where drawings are read
    through an autoencoder, the denoising wants one.
    """
    path, _, loads, ours, _ = lent(case, at, photos)
    whole = draw(**loads, one=node("text_to_image", path, **SIZE, **ours))
    latents = {
        "type": "diffusion.denoise",
        "model": path,
        "text": "${text}",
        "num_inference_steps": 2,
        "seed": 3,
        **SIZE,
        **ours,
    }
    if path.endswith(("flux", "sd3", "qwen", "sana")) and "hints" not in case:
        latents["autoencoder"] = path
    text = {"type": "text.encode", "model": path, "prompt": "a fox"}
    assert same(
        draw(
            **loads,
            text=text,
            latents=latents,
            out={"type": "latents.decode", "model": path, "latents": "${latents}"},
        ),
        whole.pixels,
    )


@pytest.mark.parametrize("case", ["SDXL", "FLUX", "FLUX, two", "SDXL, a union", "SDXL, two unions"])
def test_a_picture_is_drawn_anew_held_to_drawings(
    case: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Image to image with networks gives the pipeline's pixels."""
    path, stem, loads, ours, hand = lent(case, at, photos)
    drawings = hand.pop("drawings")
    pipeline = by_hand(path, f"{stem}Img2ImgPipeline", controlnet=hand.pop("controlnet"))
    photo, load = photos(9)
    sizes = SIZE if path.endswith("flux") else {}
    theirs = pipeline(
        "a fox",
        image=photo,
        control_image=drawings,
        strength=0.6,
        generator=noise(),
        num_inference_steps=4,
        **sizes,
        **hand,
    ).images[0]
    ours = node("image_to_image", path, image="${photo}", strength=0.6, **ours, **sizes) | {
        "num_inference_steps": 4
    }
    assert same(draw(**loads, photo=load, one=ours), theirs)


@pytest.mark.parametrize("case", ["SDXL, two", "FLUX", "SDXL, a union"])
def test_a_hole_is_filled_held_to_drawings(
    case: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """Inpainting with networks gives the pipeline's pixels."""
    path, stem, loads, ours, hand = lent(case, at, photos)
    drawings = hand.pop("drawings")
    pipeline = by_hand(path, f"{stem}InpaintPipeline", controlnet=hand.pop("controlnet"))
    photo, hole, nodes = holed(photos)
    theirs = pipeline(
        "a fox",
        image=photo,
        mask_image=hole,
        control_image=drawings,
        strength=0.8,
        generator=noise(),
        num_inference_steps=3,
        **SIZE,
        **hand,
    ).images[0]
    asked = node("inpaint", path, image="${photo}", mask="${hole}", strength=0.8, **ours) | {
        "num_inference_steps": 3
    }
    assert same(draw(**loads, **nodes, one=asked), theirs)


def holed(photos: Callable[..., Any]) -> tuple[Any, Any, dict[str, Any]]:
    """A picture and a mask, and nodes that give them."""
    photo, load = photos(9)
    mask, grey = photos(8)
    hole = mask.convert("L")
    nodes = {
        "photo": load,
        "grey": grey,
        "hole": {"type": "mask.from_luminance", "image": "${grey}"},
    }
    return photo, hole, nodes


@pytest.mark.parametrize(
    ("base", "union", "kind"),
    [
        ("sdxl", "union", "StableDiffusionXLControlNetUnionPipeline"),
        ("flux", "flux-union", "FluxControlNetPipeline"),
    ],
)
def test_one_union_reads_several_drawings(
    base: str,
    union: str,
    kind: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """A single union ControlNet is held to two drawings of two kinds, each by its own scale."""
    from diffusers.models import FluxMultiControlNetModel

    lent = network(at(union))
    pipeline = by_hand(
        at(base), kind, controlnet=lent if base == "sdxl" else FluxMultiControlNetModel([lent])
    )
    drawings = [photos(number) for number in range(2)]
    # Left to itself FLUX's pipeline takes as many drawings as it has networks, and drops the rest.
    given = {
        "control_mode": [1, 3],
        "controlnet_conditioning_scale": [0.5, 0.9],
        "control_guidance_start": [0.0, 0.0],
        "control_guidance_end": [1.0, 1.0],
    }
    theirs = pipeline(
        "a fox",
        control_image=[picture for picture, _ in drawings],
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
        **given,
    ).images[0]
    loads = {f"drawing{number}": load for number, (_, load) in enumerate(drawings)}
    held = {
        "controls": [
            {"model": at(union), "image": "${drawing0}", "mode": 1, "scale": 0.5},
            {"model": at(union), "image": "${drawing1}", "mode": 3, "scale": 0.9},
        ]
    }
    assert same(draw(**loads, one=node("text_to_image", at(base), **SIZE, **held)), theirs)


def test_a_union_that_says_its_first_name_is_one(
    at: Callable[[str], str], photos: Callable[..., Any], draw: Callable[..., Any], tmp_path: Path
) -> None:
    """The well-known union ControlNet names the class that its authors had before diffusers did."""
    folder = tmp_path / "union"
    shutil.copytree(at("union"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "_class_name": "ControlNetModel_Union"})
    )
    ours, theirs = (
        draw(
            drawing=photos(0)[1],
            one=node(
                "text_to_image",
                at("sdxl"),
                controls=[{"model": path, "image": "${drawing}", "mode": 3}],
                **SIZE,
            ),
        )
        for path in (str(folder), at("union"))
    )
    assert same(ours, theirs.pixels)


def test_a_checkpoint_that_is_held_to_a_drawing_by_itself(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """FLUX Canny and Depth take their drawing at the port of the drawings, without a network, in
    all three tasks and in the denoising alone.
    """
    path = at("flux-canny")
    drawing, load = photos(0)
    held = {"controls": [{"image": "${drawing}"}]}
    theirs = by_hand(path)(
        "a fox", control_image=drawing, generator=noise(), num_inference_steps=2, **SIZE
    ).images[0]
    assert same(draw(drawing=load, one=node("text_to_image", path, **SIZE, **held)), theirs)
    nodes = {
        "text": {"type": "text.encode", "model": path, "prompt": "a fox"},
        "latents": {
            "type": "diffusion.denoise",
            "model": path,
            "text": "${text}",
            "num_inference_steps": 2,
            "seed": 3,
            "autoencoder": path,
            **SIZE,
            **held,
        },
        "out": {"type": "latents.decode", "model": path, "latents": "${latents}"},
    }
    assert same(draw(drawing=load, **nodes), theirs)
    photo, hole, more = holed(photos)
    theirs = by_hand(path, "FluxControlImg2ImgPipeline")(
        "a fox",
        image=photo,
        control_image=drawing,
        strength=0.5,
        generator=noise(),
        num_inference_steps=4,
        **SIZE,
    ).images[0]
    assert same(
        draw(
            drawing=load,
            photo=photos(9)[1],
            one=node("image_to_image", path, image="${photo}", strength=0.5, **SIZE, **held)
            | {"num_inference_steps": 4},
        ),
        theirs,
    )
    theirs = by_hand(path, "FluxControlInpaintPipeline")(
        "a fox",
        image=photo,
        mask_image=hole,
        control_image=drawing,
        strength=0.8,
        generator=noise(),
        num_inference_steps=3,
        **SIZE,
    ).images[0]
    assert same(
        draw(
            drawing=load,
            **more,
            one=node("inpaint", path, image="${photo}", mask="${hole}", strength=0.8, **held)
            | {"num_inference_steps": 3},
        ),
        theirs,
    )
    assert (
        failure(one=node("text_to_image", path, **SIZE))
        == "this checkpoint takes 1 control image, but its 'controls' have 0: write controls: [{image: …}]"
    )
    assert (
        failure(
            drawing=load,
            one=node("text_to_image", path, controls=[{"image": "${drawing}", "scale": 1}]),
        )
        == "this checkpoint has built-in control: its 'controls[0]' takes only an 'image'"
    )


def test_a_checkpoint_that_fills_in_reads_the_hole_itself(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """FLUX Fill is for diffusion.inpaint, and says so elsewhere."""
    photo, hole, nodes = holed(photos)
    theirs = by_hand(at("flux-fill"))(
        "a fox", image=photo, mask_image=hole, generator=noise(), num_inference_steps=2, **SIZE
    ).images[0]
    assert same(
        draw(**nodes, one=node("inpaint", at("flux-fill"), image="${photo}", mask="${hole}")),
        theirs,
    )
    assert failure(one=node("text_to_image", at("flux-fill"))) == (
        f"diffusion.text_to_image cannot use the model '{at('flux-fill')}': it is a FluxFillPipeline, and diffusion.text_to_image takes "
        "checkpoints that diffusers has a class for, for text to image; diffusion.inpaint takes it"
    )


def test_a_controlnet_that_fills_in_reads_the_hole_itself(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """SD 3's ControlNet for filling in reads picture and mask, and no drawing beside."""
    photo, hole, nodes = holed(photos)
    pipeline = by_hand(
        at("sd3"),
        "StableDiffusion3ControlNetInpaintingPipeline",
        controlnet=network(at("sd3-fill")),
    )
    torch.manual_seed(3)
    theirs = pipeline(
        "a fox",
        control_image=photo,
        control_mask=hole,
        controlnet_conditioning_scale=0.9,
        generator=noise(),
        num_inference_steps=2,
        **SIZE,
    ).images[0]
    asked = node(
        "inpaint",
        at("sd3"),
        image="${photo}",
        mask="${hole}",
        controls=[{"model": at("sd3-fill"), "scale": 0.9}],
    )
    assert same(draw(**nodes, one=asked), theirs)
    assert (
        failure(
            **nodes,
            one={**asked, "controls": [{"model": at("sd3-fill"), "image": "${photo}"}]},
        )
        == "this is an inpainting ControlNet: it reads the picture and the mask; omit the 'image' of 'controls[0]'"
    )
    assert failure(**nodes, one={**asked, "strength": 0.5}).startswith(
        "StableDiffusion3ControlNetInpaintingPipeline takes no strength; it takes: "
    )


def test_pictures_are_read_as_words_by_redux(
    at: Callable[[str], str],
    photos: Callable[..., Any],
    draw: Callable[..., Any],
    by_hand: Callable[..., Any],
) -> None:
    """FLUX Redux is a prior: two pictures, each by its scale, become the tensors that FLUX draws
    by.
    """
    pictures = [photos(number) for number in range(2)]
    scales = {"prompt_embeds_scale": [1.0, 0.4], "pooled_prompt_embeds_scale": [1.0, 0.4]}
    read = by_hand(at("redux"))([picture for picture, _ in pictures], **scales)
    theirs = by_hand(at("wide-flux"), **dict.fromkeys(WORDS))(
        **read, generator=noise(), num_inference_steps=2, **SIZE
    ).images[0]
    nodes = {
        "a": pictures[0][1],
        "b": pictures[1][1],
        "read": {
            "type": "diffusion.tensors",
            "model": at("redux"),
            "images": ["${a}", "${b}"],
            "arguments": scales,
            "seed": 1,
        },
        "drawn": {
            "type": "diffusion.pipeline",
            "model": at("wide-flux"),
            "tensors": "${read}",
            "arguments": {"num_inference_steps": 2, **SIZE},
            "seed": 3,
        },
    }
    (ours,) = draw(**nodes)
    assert same(ours, theirs)


@pytest.mark.parametrize(
    ("model", "networks", "words"),
    [
        (
            "sdxl",
            ["sdxl-edges", "sd-edges"],
            "the ControlNetModel '{network}' does not fit the model '{model}' (StableDiffusionXLPipeline): it was made for text that is 32 wide, and this model gives 64",
        ),
        (
            "sd",
            ["sdxl-edges"],
            "the ControlNetModel '{network}' does not fit the model '{model}' (StableDiffusionPipeline): it was made for text that is 64 wide, and this model gives 32",
        ),
        (
            "refiner",
            ["sdxl-edges"],
            "(StableDiffusionXLImg2ImgPipeline): it was made for text that is 64 wide, and this model gives 32",
        ),
        (
            "flux",
            ["sd3-edges"],
            "the SD3ControlNetModel '{network}' does not fit the model '{model}' (FluxPipeline): it was made for StableDiffusion3",
        ),
        ("sd", ["union"], "(StableDiffusionPipeline): it was made for StableDiffusionXL"),
        ("sd3", ["flux-edges"], "(StableDiffusion3Pipeline): it was made for Flux"),
        ("sd", ["sdxl-sketch"], "(StableDiffusionPipeline): it was made for StableDiffusionXL"),
        ("sdxl", ["sd-sketch"], "(StableDiffusionXLPipeline): it was made for StableDiffusion"),
        (
            "sd",
            ["sdxl"],
            "the port 'controls' cannot use the model '{network}': it is a StableDiffusionXLPipeline, and the port 'controls' takes one of ControlNetModel, ",
        ),
    ],
)
def test_a_network_for_another_base_is_refused_before_anything_is_loaded(
    model: str,
    networks: list[str],
    words: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    refused: Callable[..., str],
) -> None:
    """Planning names both and says what each was made for, wherever networks are lent."""
    held = {"controls": [{"model": at(name), "image": "${drawing}"} for name in networks]}
    drawing = photos(0)[1]
    said = refused(drawing=drawing, one=node("text_to_image", at(model), **held))
    assert words.format(network=at(networks[-1]), model=at(model)) in said
    if model != "refiner":
        denoised = {
            "type": "diffusion.denoise",
            "model": at(model),
            "text": "${text}",
            "seed": 1,
            **held,
        }
        assert words.format(network=at(networks[-1]), model=at(model)) in refused(
            drawing=drawing,
            text={"type": "text.encode", "model": at(model), "prompt": "a"},
            one=denoised,
        )


@pytest.mark.parametrize(
    ("model", "networks", "more", "words"),
    [
        (
            "sdxl",
            ["sdxl-edges", "union"],
            {},
            "its 'controls' have models of different kinds, ControlNetModel and ControlNetUnionModel, which diffusers cannot combine",
        ),
        (
            "sdxl",
            ["sdxl-edges"],
            {"image": None},
            "its 'controls[0]' has no 'image'",
        ),
        (
            "sdxl",
            ["sdxl-edges"],
            {"model": None},
            "its 'controls[0]' names no 'model', but this checkpoint has no built-in control: write controls: [{model: …, image: …}]",
        ),
        (
            "sdxl",
            ["sdxl-edges"],
            {"mode": 1},
            "StableDiffusionXLControlNetPipeline takes no control_mode; it takes: ",
        ),
        (
            "sd",
            ["sd-sketch"],
            {"to": 0.5},
            "StableDiffusionAdapterPipeline takes no control_guidance_end; it takes: ",
        ),
        ("flux-canny", ["flux-edges"], {}, "for text to image with a ControlNet"),
        (
            "qwen",
            ["qwen-edges", "qwen-edges"],
            {},
            "its 'controls' are 2, and of QwenImageControlNetModel diffusers takes one at a time",
        ),
    ],
)
def test_what_cannot_be_lent_together_is_said(
    model: str,
    networks: list[str],
    more: dict[str, Any],
    words: str,
    at: Callable[[str], str],
    photos: Callable[..., Any],
    failure: Callable[..., str],
) -> None:
    """Controls that lack something, and networks and arguments that a pipeline cannot take, are named."""
    held = {"controls": [{"model": at(name), "image": "${drawing}", **more} for name in networks]}
    assert words in failure(
        drawing=photos(0)[1], one=node("text_to_image", at(model), **SIZE, **held)
    )


def test_a_drawing_that_is_read_through_an_autoencoder_wants_one(
    at: Callable[[str], str], photos: Callable[..., Any], failure: Callable[..., str]
) -> None:
    """The denoising alone has no autoencoder, and says which port takes one."""
    text = {"type": "text.encode", "model": at("flux"), "prompt": "a"}
    held = {
        "type": "diffusion.denoise",
        "model": at("flux"),
        "text": "${text}",
        "seed": 1,
        "controls": [{"model": at("flux-edges"), "image": "${drawing}"}],
        **SIZE,
    }
    assert failure(drawing=photos(0)[1], text=text, one=held) == (
        "a FluxControlNetModel reads its drawing through an autoencoder, which is leased apart: name a checkpoint of the same family as 'autoencoder'"
    )


def test_every_network_that_can_be_lent_names_its_port() -> None:
    """A network at a port for checkpoints is told where it belongs."""
    assert {kind for kind, home in calling.TAKEN_BY.items() if "'controls'" in home} == {
        *controls.CONTROL_KINDS,
        "ControlNet in one file",
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


def held(
    at: Callable[[str], str], base: str, network: str, **more: Any
) -> dict[str, dict[str, Any]]:
    """A picture held to a drawing by one network."""
    drawing = {"drawing": {"type": "image.solid", "width": 32, "height": 32, "colour": "#30c090"}}
    return {
        **drawing,
        "one": {
            "type": "diffusion.text_to_image",
            "model": at(base),
            "controls": [{"model": network, "image": "${drawing}"}],
            "prompt": "a fox",
            "num_inference_steps": 2,
            "width": 32,
            "height": 32,
            "seed": 3,
            **more,
        },
    }


@pytest.mark.parametrize("names", ["authors", "bare", "diffusers"])
def test_a_controlnet_in_one_file_draws_as_its_folder(
    names: str,
    at: Callable[[str], str],
    draw: Callable[..., Any],
    original: ModuleType,
    tmp_path: Path,
) -> None:
    """In its authors' names, with or without what they wrote before them, or in diffusers', without
    any configuration beside it.
    """
    state = original.state_of(Path(at("sd-edges")))
    written = (
        state
        if names == "diffusers"
        else {
            name.removeprefix("control_model." if names == "bare" else ""): tensor
            for name, tensor in original.controlnet(state).items()
        }
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in written.items()},
        tmp_path / "edges.safetensors",
    )
    ours, theirs = (
        draw(**held(at, "sd", network))
        for network in (str(tmp_path / "edges.safetensors"), at("sd-edges"))
    )
    assert np.array_equal(ours.pixels, theirs.pixels)


REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("ControlNetModel", {"cross_attention_dim": 768}),
    "sd21": (
        "ControlNetModel",
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
    ),
    "sdxl": (
        "ControlNetModel",
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "sdxl, small": (
        "ControlNetModel",
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D"] * 3,
            "mid_block_type": "UNetMidBlock2D",
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "sdxl, union": (
        "ControlNetUnionModel",
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "num_control_type": 8,
        },
    ),
}
"""ControlNets in use, as their configurations say."""


@pytest.mark.parametrize("name", REAL)
def test_the_shapes_of_a_controlnet_tell_its_configuration(name: str) -> None:
    """For the networks in use, at their true sizes, all that matters of a configuration is worked
    out again.
    """
    import diffusers

    from imagen_flow_diffusion.checkpoints.controlnets import configuration
    from imagen_flow_diffusion.checkpoints.diagnosing import misfit

    kind, config = REAL[name]
    cls = getattr(diffusers, kind)
    with torch.device("meta"):
        network = cls.from_config(config)
    shapes = {weight: list(tensor.shape) for weight, tensor in network.state_dict().items()}
    told = configuration(shapes)
    assert {key: told[key] for key in config if key in told} == {
        key: value for key, value in config.items() if key in told
    }
    assert misfit(cls, told, shapes) == ""


def test_a_controlnet_in_one_file_that_does_not_fit_is_refused(
    at: Callable[[str], str],
    refused: Callable[..., str],
    failure: Callable[..., str],
    original: ModuleType,
    tmp_path: Path,
) -> None:
    """One for other words and one of a transformer when planning; one that lacks a weight before it
    draws; each with the file's name.
    """
    state = original.controlnet(original.state_of(Path(at("sd-edges"))))
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        tmp_path / "edges.safetensors",
    )
    assert "does not fit the model" in refused(
        **held(at, "sdxl", str(tmp_path / "edges.safetensors"))
    )
    for name in (
        "control_model.zero_convs.1.0.bias",
        "control_model.input_blocks.1.0.in_layers.2.weight",
        "control_model.input_hint_block.0.weight",
        "control_model.time_embed.0.bias",
    ):
        save_file(
            {key: tensor.contiguous() for key, tensor in state.items() if key != name},
            tmp_path / "less.safetensors",
        )
        assert failure(**held(at, "sd", str(tmp_path / "less.safetensors"))).startswith(
            "less.safetensors is not a complete ControlNet: it lacks "
        )
    save_file(
        {
            "controlnet_blocks.0.weight": torch.ones(2, 2),
            "transformer_blocks.0.attn.to_q.weight": torch.ones(2, 2),
        },
        tmp_path / "flux.safetensors",
    )
    assert (
        "its shapes do not tell which ControlNet of a transformer it is; take the folder that has its config.json"
        in refused(**held(at, "flux", str(tmp_path / "flux.safetensors")))
    )
