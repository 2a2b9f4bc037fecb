"""Draw in three nodes that share the parts of a checkpoint: words to states (text.encode), noise to
latents, latents to pixels; and pixels to latents.

Latents cross an edge as a Tensor (1, channels, height, width) tagged with the space they are in, so
that a decoder of another space refuses them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import imagen_flow as flow
from imagen_flow import Image, List, Mask, Model, Progress, Range, Seed, Steps, Tensor
from imagen_flow.loaders import FallbackLevels, Leased

from ..adapters.attached import AttachedAdapters, attach_adapters
from ..adapters.controls import check_controls, pipeline_word, with_controls
from ..checkpoints.description import family_of, what_is
from ..checkpoints.folder import device_of, with_article
from ..loading.checkpoint import Checkpoint
from ..loading.components import Autoencoder, Denoiser, check_replaced_parts
from ..loading.latent_spaces import (
    channels_of,
    normalises,
    scaled,
    space_of,
    to_latents,
    to_pixels,
    unpatched,
    upcast,
    without_statistics,
)
from ..loading.replaced_parts import OtherAutoencoder, OtherDenoiser
from ..loading.temporary_changes import sparing
from ..pipelines.calling import (
    call,
    explaining_nan,
    read_encoded,
    refuse_nan,
    to_pil,
    unwrap_image,
    with_arguments,
)
from ..pipelines.families import SPLIT, check_text, pipeline_for, split_of
from ..pipelines.samplers import set_sampler
from ..pipelines.sizes import check_size, refuse_latents, refuse_size
from .drawing import ADAPTING, LIBRARIES, refuse_other_denoiser
from .shared_ports import RENAMED, Conditioning, Sampling

if TYPE_CHECKING:
    import torch


class DenoisingPorts(Sampling, Conditioning, total=False):
    """All that the denoising alone has in common with drawing."""


@flow.node("diffusion.denoise", version=2, uses=ADAPTING, renamed=RENAMED)
def denoise(
    model: Annotated[Checkpoint, Leased(Denoiser)],
    text: List[Tensor],
    latents: Tensor | None = None,
    mask: Mask | None = None,
    autoencoder: Annotated[Checkpoint, Leased(Autoencoder)] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] | None = None,
    denoising_start: Annotated[float, Range(0, 1)] | None = None,
    denoising_end: Annotated[float, Range(0, 1)] | None = None,
    seed: Seed,
    **ports: Unpack[DenoisingPorts],
) -> Steps[Tensor]:
    """Denoise noise or given latents, following an encoded prompt.

    Inputs:
        model: a checkpoint of a supported family: Stable Diffusion, SDXL, SD 3, FLUX.1,
            FLUX.2, Qwen-Image, Z-Image, Chroma, Lumina 2, AuraFlow, CogView 4, Hunyuan-DiT, PixArt,
            Sana, LCM.
        text: from text.encode with a model of the same family.
        latents: the latents to start from; default: noise. AuraFlow, CogView 4, FLUX.2,
            Hunyuan-DiT, Lumina 2, PixArt and Sana can start only from noise.
        mask: white where to draw, of any size; elsewhere the latents are kept. Not for Chroma and
            Z-Image, and not for inpainting checkpoints, which need the picture itself.
        autoencoder: needed by ControlNets of FLUX and SD 3, which encode their control image with
            it: a checkpoint of the same family.
        denoiser: replaces the checkpoint's own, as for diffusion.text_to_image.
    Params:
        strength: how much of the latents is replaced by noise, 0 to 1.
        denoising_start, denoising_end: the range of the denoising that is done here, to split it
            between two SDXL models: the base up to 0.8, the refiner from 0.8.
        seed: of the noise, which is drawn on the CPU. If latents.encode used the same seed, the
            noise continues its random sequence, as in the family's image-to-image pipeline.
    Outputs: latents (1, channels, height, width), tagged with their space.
    Raises: ValueError if text or latents are of another family.
    Source: the family's own pipeline, called with ``output_type="latent"``.
    """
    by = "diffusion.denoise"
    split_of(model.model, model.kind, by)
    if denoising_end == 0:
        raise ValueError(
            "its 'denoising_end' is 0, where nothing is denoised, and which diffusers takes for"
            " none given: leave it out, or say a part above 0"
        )
    if mask is not None and latents is None:
        raise ValueError(
            "its 'mask' says where to draw in latents, and there are none: take them from"
            " latents.encode or diffusion.denoise"
        )
    if latents is None and (
        idle := [
            name
            for name, value in (("strength", strength), ("denoising_start", denoising_start))
            if value is not None
        ]
    ):
        raise ValueError(
            f"its '{idle[0]}' says how to go on with latents, and there are none: take them from"
            " latents.encode or diffusion.denoise"
        )
    task = "text_to_image" if latents is None else "image_to_image" if mask is None else "inpaint"
    space = space_of(model.model)
    sides_asked = {"width": ports.get("width"), "height": ports.get("height")}
    refuse_size(model.model, sides_asked, binned=False)
    given: dict[str, Any] = {
        **sides_asked,
        "strength": strength,
        "denoising_start": denoising_start,
        "denoising_end": denoising_end,
    }
    given |= {
        "num_inference_steps": ports.get("num_inference_steps"),
        "guidance_scale": ports.get("guidance_scale"),
        "guidance_rescale": ports.get("guidance_rescale"),
    }
    given = with_arguments(given, ports.get("arguments")) | {"output_type": "latent"}
    network = next(part for part in model.parts.values() if hasattr(part, "device"))
    given |= read_encoded(text, family=family_of(model.kind), by=by, like=network)
    _refuse_other_width(network, given, by)
    controls = ports.get("controls", [])
    cls = pipeline_for(model.model, model.kind, task, by=by, help=pipeline_word(controls))
    # A network that was made for filling in reads the picture that is masked, and latents cannot be
    # masked for it.
    refuse_other_denoiser(model, "text_to_image", by)
    controlled, given = with_controls(model, cls, given, controls, autoencoder)
    made = controlled.pipeline(cls)
    if normalises(made.vae):
        made.vae = without_statistics(made.vae)
    factor = int(made.vae_scale_factor)
    takes = inspect.signature(cls.__call__).parameters
    before = None
    if latents is not None:
        given["image"] = _checked(latents, space, by, "diffusion.denoise's model").to(
            device_of(network), network.dtype
        )
        # Some pipelines would take latents of more than four channels for pixels.
        made.image_processor.register_to_config(vae_latent_channels=given["image"].shape[1])
        sides = _sides(made, given["image"], factor, sides_asked)
        if "height" in takes:
            given["height"], given["width"] = sides
        if mask is not None:
            # The masked picture is for networks that read it, but all pipelines want it.
            given |= {"mask_image": to_pil(mask), "masked_image_latents": given["image"]}
        if latents.tags.get("sampled") == str(seed):
            before = given["image"].shape
    if "use_resolution_binning" in takes:
        given["use_resolution_binning"] = False
    lost = set_sampler(made, ports.get("sampler"), ports.get("sampler_settings"))
    attached = AttachedAdapters(
        ports.get("loras", ()), (), ports.get("ip_adapters", ()), ports.get("ip_encoder")
    )
    with controlled.alone(), attach_adapters(made, controlled, attached) as more:
        output = yield from call(
            made,
            {**given, **more},
            seed=seed,
            note="; ".join(filter(None, (lost, *attached.notes))),
            before=before,
            without=("prompt", "negative_prompt"),
        )
    found = output["images"]
    if found.ndim == 3:
        # Rows of patches.
        sides = [
            given.get(side) or made.default_sample_size * factor for side in ("height", "width")
        ]
        found = (
            unpatched(found.mT.unflatten(2, [side // (2 * factor) for side in sides]))
            if normalises(made.vae)
            else made._unpack_latents(found, *sides, factor)
        )
    if found.ndim == 5:
        # A film of one picture.
        found = found[:, :, 0]
    with explaining_nan(controlled.parts):
        refuse_nan(found, "the model gave")
    return Tensor(found, {"latents": space})


@flow.node("latents.decode", version=2, uses=LIBRARIES)
def decode(
    model: Annotated[Checkpoint, Leased(Autoencoder)],
    latents: Tensor,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    tiled: bool = False,
    memory_levels: FallbackLevels = (),
) -> Image:
    """Turn latents into a picture.

    Inputs:
        model: a checkpoint whose latents are of the same space.
        latents: from diffusion.denoise or latents.encode.
        autoencoder: replaces the checkpoint's own, with the same latent space: the folder of a
            part, or a single weights file.
    Params:
        tiled: decode tile by tile, for pictures that do not fit in memory. It changes pixels a
            little.
    Outputs: an 8-bit picture.
    Raises: ValueError for latents of another space, or if the autoencoder does not support tiles;
        RuntimeError if the checkpoint's safety checker blackens the picture.
    Source: the end of the family's own pipeline.
    """
    import torch

    by = "latents.decode"
    split = split_of(model.model, model.kind, by)
    values = _checked(latents, space_of(model.model), by, "this decoder")
    made = model.pipeline(pipeline_for(model.model, model.kind, "text_to_image", by=by))
    vae = made.vae
    if tiled and not hasattr(vae, "use_tiling"):
        raise ValueError(
            f"the autoencoder of '{model.model.reference}', {with_article(type(vae).__name__)}, cannot"
            " work tile by tile"
        )
    # Pipelines decode in float32 for float16 alone, but encode in it for all that is shorter.
    with (
        model.alone(),
        torch.no_grad(),
        upcast(vae, split.upcast and vae.dtype == torch.float16),
        sparing(vae, ("tile", *memory_levels) if tiled else memory_levels),
    ):
        picture = to_pixels(vae, values.to(device_of(vae)))
    unsafe = None
    if getattr(made, "safety_checker", None) is not None:
        picture, unsafe = made.run_safety_checker(picture, device_of(vae), vae.dtype)
    if unsafe and any(unsafe):
        raise RuntimeError(
            "the checkpoint's safety checker found the picture unsafe and blackened it; try another"
            " seed or prompt"
        )
    with explaining_nan(model.parts):
        return unwrap_image(made.image_processor.postprocess(picture, output_type="np")[0])


@flow.node("latents.encode", version=2, uses=LIBRARIES)
def encode(
    model: Annotated[Checkpoint, Leased(Autoencoder)],
    image: Image,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    seed: Seed | None = None,
) -> Steps[Tensor]:
    """Turn a picture into latents.

    Inputs:
        model: the checkpoint whose latent space is used.
        image: of any size; it is resized to a multiple that the autoencoder supports, with a note.
            Alpha is composited over black.
        autoencoder: replaces the checkpoint's own, as for latents.decode.
    Params:
        seed: samples the autoencoder's distribution, as pipelines do; without a seed, its mean is
            used. With the same seed in diffusion.denoise, the result equals that of the family's
            image-to-image pipeline.
    Outputs: latents (1, channels, height, width), tagged with their space, and with the seed that
        they were ``sampled`` with.
    Source: ``AutoencoderKL.encode`` and the scaling of the family's own pipeline.
    """
    import torch

    by = "latents.encode"
    split = split_of(model.model, model.kind, by)
    made = model.pipeline(pipeline_for(model.model, model.kind, "text_to_image", by=by))
    vae = made.vae
    pixels = made.image_processor.preprocess(to_pil(image)).to(device_of(vae), vae.dtype)
    generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
    with model.alone(), torch.no_grad(), upcast(vae, split.upcast):
        values, sampled = to_latents(vae, pixels, generator)
    with explaining_nan(model.parts):
        refuse_nan(values, "the autoencoder gave")
    height, width = pixels.shape[-2:]
    resized = (
        ""
        if (width, height) == (image.width, image.height)
        else (
            f"the picture is {image.width} x {image.height}, and its latents are of {width} x"
            f" {height}"
        )
    )
    yield Progress(1, 1, resized)
    return Tensor(
        values, {"latents": space_of(model.model), **({"sampled": str(seed)} if sampled else {})}
    )


@flow.node("latents.noise", version=2, uses=LIBRARIES)
def noise(
    model: Annotated[Checkpoint, Leased(Autoencoder)],
    *,
    width: Annotated[int, Range(8, 16384)],
    height: Annotated[int, Range(8, 16384)],
    seed: Seed,
) -> Tensor:
    """Draw latents from the normal distribution that an autoencoder was trained to match; decoded,
    they are samples of the autoencoder itself.

    Inputs:
        model: the checkpoint whose latent space is used.
    Params:
        width, height: of the decoded picture, in pixels.
    Outputs: latents (1, channels, height, width), tagged with their space.
    """
    import torch

    by = "latents.noise"
    split_of(model.model, model.kind, by)
    refuse_latents(model.model, {"width": width, "height": height})
    made = model.pipeline(pipeline_for(model.model, model.kind, "text_to_image", by=by))
    factor, channels = int(made.vae_scale_factor), channels_of(made.vae.config)
    drawn = torch.randn(
        (1, channels, *(side // factor for side in (height, width))),
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    return Tensor(scaled(drawn, made.vae), {"latents": space_of(model.model)})


@flow.node("latents.resize", version=1, uses=("torch",))
def resize(
    latents: Tensor,
    *,
    scale: Annotated[float, Range(0.05, 16)],
    mode: Literal["nearest-exact", "bilinear", "bicubic"] = "nearest-exact",
) -> Tensor:
    """Resize latents, to denoise them again at the new size.

    Params:
        scale: the factor for both sides; the result is rounded to even sides, as all families need.
    Outputs: latents of the same space.
    Source: ``torch.nn.functional.interpolate``.
    """
    import torch

    if "latents" not in latents.tags:
        raise ValueError(
            "these are not latents; they come from diffusion.denoise or latents.encode"
        )
    sides = [max(2, round(side * scale / 2) * 2) for side in latents.shape[-2:]]
    more = {} if mode == "nearest-exact" else {"antialias": True}
    return Tensor(
        torch.nn.functional.interpolate(latents.torch(), size=sides, mode=mode, **more),
        {"latents": latents.tags["latents"]},
    )


@decode.plan_check
def _decodable(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    """Refuse, before anything runs, latents of another space than the decoder's."""
    check_replaced_parts(models, "autoencoder")
    _check_space(models.get("model"), upstream.get("latents"), "latents.decode", "this decoder")


@noise.plan_check
def _samplable(
    models: Mapping[str, Any], _upstream: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    if (model := models.get("model")) is not None:
        refuse_latents(model, given)


@encode.plan_check
def _encodable(models: Mapping[str, Any], _upstream: Mapping[str, Any]) -> None:
    check_replaced_parts(models, "autoencoder")


@denoise.plan_check
def _denoisable(
    models: Mapping[str, Any], upstream: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse, before anything runs, a size that the model does not draw, latents of another space,
    or of any where the family begins with noise alone, and text that was encoded for another
    family.
    """
    check_size(models, given, binned=False)
    check_controls(models)
    check_replaced_parts(models, "denoiser")
    check_text(models, upstream, "diffusion.denoise")
    model = models.get("model")
    family = family_of(what_is(model)) if model is not None else ""
    task, does, port = (
        ("inpaint", "fill in", "mask")
        if "mask" in upstream
        else ("image_to_image", "begin with", "latents")
    )
    if (
        model is not None
        and "latents" in upstream
        and family in SPLIT
        and task not in SPLIT[family].again
    ):
        raise flow.ModelError(
            f"diffusion.denoise cannot {does} latents with the model '{model.reference}': diffusers"
            f" has no pipeline of the family {family} that does; leave '{port}' out, or use a model"
            " of another family"
        )
    _check_space(model, upstream.get("latents"), "diffusion.denoise", "its model")


def _check_space(model: Any, latents: Any, by: str, whose: str) -> None:
    while latents is not None and "model" not in latents.models:
        latents = latents.upstream.get("latents")
    if model is None or latents is None:
        return
    came, space = space_of(latents.models["model"]), space_of(model)
    if came != space:
        raise flow.ModelError(
            f"the latents come from '{latents.models['model'].reference}' ({came}), and {whose} in"
            f" {by}, '{model.reference}', reads {space}: use the checkpoint that they were made"
            " with"
        )


def _checked(latents: Tensor, space: str, by: str, whose: str) -> torch.Tensor:
    came = latents.tags.get("latents", "")
    if came != space:
        problem = (
            f"the latents are of another space ({came})" if came else "the input is not latents"
        )
        raise ValueError(
            f"{problem}, and {whose} reads {space}:"
            f" {'use the checkpoint that they were made with' if came else 'take them from diffusion.denoise or latents.encode'}"
        )
    values: torch.Tensor = latents.torch()
    refuse_nan(values, "the latents hold")
    return values


def _sides(
    pipeline: Any, values: torch.Tensor, factor: int, asked: Mapping[str, int | None]
) -> list[int]:
    """Give the height and the width of the picture that latents stand for.

    Raises:
        ValueError: another size was asked for, or the family cannot draw it.
    """
    sides = [side * factor for side in values.shape[-2:]]
    size, grid = f"{sides[1]} x {sides[0]}", int(pipeline.image_processor.config.vae_scale_factor)
    if any(
        asked[name] not in (None, side)
        for name, side in zip(("height", "width"), sides, strict=True)
    ):
        raise ValueError(
            f"its 'latents' stand for a picture of {size}, which is drawn in that size: leave"
            " 'width' and 'height' out, or resize the latents (latents.resize)"
        )
    if any(side % grid for side in sides):
        raise ValueError(
            f"its 'latents' stand for a picture of {size}, and the model draws multiples of {grid}:"
            " resize them (latents.resize), or the picture before it is encoded"
        )
    return sides


def _refuse_other_width(network: Any, given: dict[str, Any], by: str) -> None:
    names = (
        "caption_channels",
        "joint_attention_dim",
        "cross_attention_dim",
        "cap_feat_dim",
        "text_embed_dim",
    )
    wanted = next((width for name in names if (width := getattr(network.config, name, None))), None)
    came = given.get("prompt_embeds")
    came = came[0] if isinstance(came, list) else came
    if came is None:
        raise ValueError("its 'text' holds no encoded prompt: take it from text.encode")
    if (
        isinstance(wanted, int)
        and came.shape[-1] != wanted
        and getattr(network.config, "encoder_hid_dim", None) is None
    ):
        raise ValueError(
            f"the text's states are {came.shape[-1]} wide, and {by}'s model reads {wanted}: encode"
            " the text with the same model"
        )
