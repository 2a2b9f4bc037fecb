"""Draw with a whole checkpoint: text to a picture, a picture to another, and what a mask leaves
open.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Unpack

import imagen_flow as flow
from imagen_flow import Image, Mask, Progress, Range, Seed, Steps
from imagen_flow.loaders import FallbackLevels, Leased

from ..adapters.attached import (
    AttachedAdapters,
    attach_adapters,
    skip_clip_layers,
    with_embedding_words,
)
from ..adapters.controls import check_controls, pipeline_word, with_controls
from ..checkpoints.folder import with_article
from ..loading.checkpoint import Checkpoint
from ..loading.components import Drawing, Filling, Whole, check_replaced_parts
from ..loading.temporary_changes import sparing
from ..pipelines.calling import call, explaining_nan, followed, pictures, to_pil, with_arguments
from ..pipelines.families import pipeline_for, unguided_by, unread_by
from ..pipelines.samplers import set_sampler
from ..pipelines.sizes import check_size, grid_of, refuse_other_size, refuse_size
from .shared_ports import RENAMED
from .shared_ports import Drawing as DrawingPorts

LIBRARIES = ("diffusers", "torch", "transformers")
ADAPTING = (*LIBRARIES, "peft")

#: Shared ports that are arguments of pipelines under the same names.
_SHARED = (
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "clip_skip",
)


@flow.node("diffusion.text_to_image", version=2, uses=ADAPTING, renamed=RENAMED)
def text_to_image(
    model: Annotated[Checkpoint, Leased(Drawing)],
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    *,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[DrawingPorts],
) -> Steps[Image]:
    """Draw a picture from a prompt with a whole checkpoint.

    Inputs:
        model: a checkpoint that draws from text: Stable Diffusion, SDXL, SD 3, FLUX, PixArt, Sana,
            Qwen-Image, Z-Image, Kandinsky, unCLIP and more.
        prior: for a checkpoint that is only a decoder (Kandinsky 2.2, Stable Cascade): its prior
            checkpoint, which reads the prompt.
    Params:
        seed: of the noise, which is drawn on the CPU.
    Outputs: an 8-bit picture, equal to that of diffusers for the same arguments.
    Raises: ValueError for arguments that the model does not take; RuntimeError if its safety
        checker blackens the picture.
    Source: ``diffusers.AutoPipelineForText2Image``.
    """
    given = {"prompt": prompt}
    return (
        yield from draw(_with(prior, model), "text_to_image", given, ports, seed, memory_levels)
    )


@text_to_image.many(varies=("prompt", "negative_prompt", "seed"))
def _text_to_image_many(
    model: Checkpoint,
    prompt: Sequence[str],
    prior: Checkpoint | None = None,
    *,
    seed: Sequence[int],
    negative_prompt: Sequence[str | None],
    memory_levels: Sequence[str] = (),
    **ports: Any,
) -> Generator[Progress, None, Any]:
    if prior is not None or any(ports.get(name) for name in _OF_ONE):
        return NotImplemented
    given = {name: ports.get(name) for name in _SHARED}
    given |= {"prompt": list(prompt)}
    given["negative_prompt"] = None if None in negative_prompt else list(negative_prompt)
    attached = AttachedAdapters(ports.get("loras", ()))
    by = "diffusion.text_to_image"
    refuse_size(model.model, given)
    cls = pipeline_for(model.model, model.kind, "text_to_image", by=by, help=pipeline_word([]))
    refuse_other_denoiser(model, "text_to_image", by)
    _refuse_refiner(model, "text_to_image", by)
    made = model.pipeline(cls)
    lost = set_sampler(made, ports.get("sampler"), ports.get("sampler_settings"))
    with (
        model.alone(),
        attach_adapters(made, model, attached) as more,
        skip_clip_layers(model, given.get("clip_skip")),
        sparing(getattr(made, "vae", None), memory_levels),
    ):
        for i, (text, negative) in enumerate(zip(prompt, negative_prompt, strict=True)):
            of_one = {**given, "prompt": text, "negative_prompt": negative}
            note = unread_by(cls, model.parts, text, negative)
            notes = (note, unguided_by(cls, of_one), lost, *attached.notes)
            yield Progress(0, 1, "; ".join(filter(None, notes)), item=i)
        output, _ = yield from followed(
            call(made, {**given, **more, "output_type": "np"}, seed=seed)
        )
    with explaining_nan(model.parts):
        drawn = pictures(output)
    for one in drawn:
        refuse_other_size(model.model, one, given)
    return drawn


#: Ports whose values are for one picture, or change what the prompts are.
_OF_ONE = ("arguments", "controls", "embeddings", "ip_adapters", "ip_encoder")


@flow.node("diffusion.image_to_image", version=2, uses=ADAPTING, renamed=RENAMED)
def image_to_image(
    model: Annotated[Checkpoint, Leased(Drawing)],
    image: Image,
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] | None = None,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[DrawingPorts],
) -> Steps[Image]:
    """Redraw a picture, following a prompt.

    Inputs:
        model, prior: as for diffusion.text_to_image.
        image: the picture to start from; alpha is composited over black.
    Params:
        strength: how much of the picture is replaced by noise at the start, 0 to 1. Default: the
            pipeline's own.
        seed: of the noise, which is drawn on the CPU.
    Outputs: an 8-bit picture.
    Source: ``diffusers.AutoPipelineForImage2Image``.
    """
    given = {"prompt": prompt, "image": to_pil(image), "strength": strength}
    return (
        yield from draw(_with(prior, model), "image_to_image", given, ports, seed, memory_levels)
    )


@flow.node("diffusion.inpaint", version=2, uses=ADAPTING, renamed=RENAMED)
def inpaint(
    model: Annotated[Checkpoint, Leased(Filling)],
    image: Image,
    mask: Mask,
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] | None = None,
    padding_mask_crop: Annotated[int, Range(0, 16384)] | None = None,
    keep_outside: bool = False,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[DrawingPorts],
) -> Steps[Image]:
    """Redraw the masked region of a picture, following a prompt. On a padded picture this outpaints
    it.

    Inputs:
        model, prior: as for diffusion.text_to_image.
        image: the picture; alpha is composited over black.
        mask: white where to draw, of the picture's size.
    Params:
        strength: how much of the picture is replaced by noise, 0 to 1.
        padding_mask_crop: work only on the masked region, with this many pixels around it.
        keep_outside: copy the picture's own pixels over the result wherever the mask is black,
            because the autoencoder changes all pixels a little.
        seed: of the noise, which is drawn on the CPU.
    Outputs: an 8-bit picture. Without `width` and `height` the model works at the picture's size,
        cropped to a multiple that it supports.
    Raises: ValueError if mask and picture differ in size.
    Source: ``diffusers.AutoPipelineForInpainting``.
    """
    import numpy as np

    if (mask.width, mask.height) != (image.width, image.height):
        raise ValueError(
            f"the mask is {mask.width} x {mask.height}, and the picture {image.width} x"
            f" {image.height}: they must agree"
        )
    if padding_mask_crop is not None and not mask.pixels.any():
        raise ValueError(
            "its 'padding_mask_crop' works on the region that the mask marks, and the mask marks"
            " nothing"
        )
    grid = grid_of(model.model, binned=False)
    sides = {"width": ports.get("width"), "height": ports.get("height")}
    given = {
        "prompt": prompt,
        "image": to_pil(image),
        "mask_image": to_pil(mask),
        "strength": strength,
        "padding_mask_crop": padding_mask_crop,
        "width": sides["width"] or _whole(image.width, grid),
        "height": sides["height"] or _whole(image.height, grid),
    }
    # A size that nobody asked for is the picture's: a class that has its own (Qwen's) is told by a
    # note then.
    arguments = ports.get("arguments")
    asked = {**sides, **(arguments if isinstance(arguments, dict) else {})}
    drawn = yield from draw(
        _with(prior, model), "inpaint", given, ports, seed, memory_levels, asked=asked
    )
    if not keep_outside:
        return drawn
    if (drawn.width, drawn.height) != (image.width, image.height):
        raise ValueError(
            f"keep_outside wants a result of the picture's size, {image.width} x {image.height},"
            f" and this model drew {drawn.width} x {drawn.height}: resize the picture first"
        )
    weight = mask.as_float()[:, :, None]
    laid = drawn.pixels * weight + image.rgb().as_uint8().pixels * (1 - weight)
    return Image(np.rint(laid).astype(np.uint8))


@text_to_image.plan_check
@image_to_image.plan_check
@inpaint.plan_check
def _check_plan(
    models: Mapping[str, Any], _upstream: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    check_size(models, given)
    check_controls(models)
    check_replaced_parts(models, "denoiser", "autoencoder")


def _whole(side: int, grid: int) -> int:
    """Cut a side to what the model draws, and all that halve four times can."""
    whole = math.lcm(16, grid)
    return max(whole, side // whole * whole)


def _with(prior: Checkpoint | None, model: Checkpoint) -> Checkpoint:
    """Give a decoder with its prior, whose parts diffusers names so in the pipelines of both."""
    return (
        model
        if prior is None
        else model.with_parts(**{f"prior_{name}": part for name, part in prior.parts.items()})
    )


def _refuse_refiner(model: Checkpoint, task: str, by: str) -> None:
    """Refuse SDXL's refiner, which goes on with a picture and reads other numbers beside the words,
    where there is none.
    """
    if (
        task == "text_to_image"
        and model.kind.startswith("StableDiffusionXL")
        and model.index.get("requires_aesthetics_score")
    ):
        raise flow.ModelError(
            f"{by} cannot use the model '{model.model.reference}': it is a refiner, which goes on"
            " with a picture; diffusion.image_to_image and diffusion.denoise take it"
        )


def _refuse_prior(model: Checkpoint, cls: Any, by: str) -> None:
    """Refuse a prior that nothing of would be read."""
    if (
        "given" in model.groups
        and not model.groups["given"].parts.keys()
        & inspect.signature(cls.__init__).parameters.keys()
    ):
        raise flow.ModelError(
            f"{by} can do nothing with a 'prior' for the model '{model.model.reference}':"
            f" {with_article(model.kind)} reads the prompt by itself, or has another prior: leave it out"
        )


def draw(
    model: Checkpoint,
    task: str,
    given: dict[str, Any],
    ports: DrawingPorts,
    seed: int,
    memory_levels: Sequence[str] = (),
    *,
    asked: Mapping[str, Any] | None = None,
) -> Generator[Progress, None, Image]:
    """Draw one picture by the class of diffusers that does a task for a checkpoint.

    Params:
        given: the task's own arguments of the pipeline; those that it has in common with other
            tasks come from `ports`.
        asked: the sizes that must come out as they are; default: those that are `given`.
    """
    by = f"diffusion.{task}"
    shared: Mapping[str, Any] = {**ports}
    given = with_arguments(
        {**{name: shared.get(name) for name in _SHARED}, **given}, ports.get("arguments")
    )
    controls = ports.get("controls", [])
    attached = AttachedAdapters(
        ports.get("loras", ()),
        ports.get("embeddings", ()),
        ports.get("ip_adapters", ()),
        ports.get("ip_encoder"),
    )
    refuse_size(model.model, given)
    cls = pipeline_for(model.model, model.kind, task, by=by, help=pipeline_word(controls))
    refuse_other_denoiser(model, task, by)
    _refuse_refiner(model, task, by)
    _refuse_prior(model, cls, by)
    model, given = with_controls(model, cls, given, controls)
    given = with_embedding_words(attached, given)
    made = model.pipeline(cls)
    lost = set_sampler(made, ports.get("sampler"), ports.get("sampler_settings"))
    with (
        model.alone(),
        attach_adapters(made, model, attached) as more,
        skip_clip_layers(model, given.get("clip_skip")),
        sparing(getattr(made, "vae", None), memory_levels),
    ):
        # What is drawn of a region is laid into the picture, which is done with Pillow's alone.
        kind = "np" if given.get("padding_mask_crop") is None else "pil"
        # With the words of embeddings, each of which may be many: they are known to the tokenizer
        # for now.
        note = unread_by(
            cls,
            model.parts,
            given["prompt"],
            given.get("negative_prompt"),
            given.get("max_sequence_length"),
            convert=made.maybe_convert_prompt if attached.embeddings else None,
        )
        note = "; ".join(filter(None, (note, unguided_by(cls, given), lost, *attached.notes)))
        output, last = yield from followed(
            call(made, {**given, **more, "output_type": kind}, seed=seed, note=note)
        )
    with explaining_nan(model.parts):
        drawn = pictures(output)[0]
    if given.get("padding_mask_crop") is None:
        refuse_other_size(model.model, drawn, given if asked is None else asked)
    began: Any = given.get("image") if task != "text_to_image" else None
    if hasattr(began, "size") and began.size != (drawn.width, drawn.height) and last is not None:
        yield replace(
            last,
            note="; ".join(
                filter(
                    None,
                    (
                        note,
                        (
                            f"the picture is {began.width} x {began.height}, and the model draws it"
                            f" {drawn.width} x {drawn.height}"
                        ),
                    ),
                )
            ),
        )
    return drawn


def refuse_other_denoiser(model: Checkpoint, task: str, by: str) -> None:
    """Refuse a checkpoint that was made for filling in, where nothing is filled in: its network
    wants the mask and the picture besides the noise.
    """
    unet = model.parts.get("unet")
    wanted = getattr(getattr(unet, "config", None), "in_channels", None)
    gives = getattr(getattr(unet, "config", None), "out_channels", None)
    if (
        task != "inpaint"
        and model.kind.startswith("StableDiffusion")
        and wanted == 2 * (gives or 0) + 1
    ):
        raise flow.ModelError(
            f"{by} cannot use the model '{model.model.reference}': it was made for filling in (its"
            f" network reads {wanted} channels, not {gives}); diffusion.inpaint takes it"
        )
