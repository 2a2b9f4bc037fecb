"""Draw with a whole checkpoint: text to a picture, a picture to another, and what a mask leaves
open.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Model, Progress, Range, Seed, Steps
from imagen_flow.loaders import FallbackLevels, Leased

from ..adapters.attached import (
    Embedding,
    ImageEncoder,
    IPAdapter,
    LoRA,
    Worn,
    adapted,
    skipping,
    spelt,
)
from ..adapters.controls import ControlNet, Controls, controlled, foresee_controls
from ..adapters.files import Adapter
from ..checkpoints.folder import article
from ..loading.components import Checkpoint, Drawing, Filling, Whole, foresee_parts, sparing
from ..loading.replaced_parts import OtherAutoencoder, OtherDenoiser
from ..pipelines.calling import also, call, explaining_nan, followed, pictures, to_pil
from ..pipelines.families import pipeline_for, unguided_by, unread_by
from ..pipelines.samplers import choose
from ..pipelines.sizes import foresee_size, grid_of, refuse_other_size, refuse_size

LIBRARIES = ("diffusers", "torch", "transformers")
ADAPTING = (*LIBRARIES, "peft")


@flow.node("diffusion.text_to_image", version=2, uses=ADAPTING)
def text_to_image(
    model: Annotated[Checkpoint, Leased(Drawing)],
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    controlnets: List[Annotated[Any, Leased(ControlNet)]] | None = None,
    control_images: List[Image] | None = None,
    ip_adapters: List[Annotated[Adapter, Leased(IPAdapter)]] | None = None,
    ip_adapter_images: List[Image] | None = None,
    ip_encoder: Annotated[Any, Leased(ImageEncoder)] | None = None,
    loras: List[Annotated[Adapter, Leased(LoRA)]] | None = None,
    embeddings: List[Annotated[Adapter, Leased(Embedding)]] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    negative_prompt: str | None = None,
    width: Annotated[int, Range(8, 16384)] | None = None,
    height: Annotated[int, Range(8, 16384)] | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    guidance_rescale: Annotated[float, Range(0, 1)] | None = None,
    clip_skip: Annotated[int, Range(1, 12)] | None = None,
    sampler: str | None = None,
    sampler_settings: Json = None,
    lora_weights: List[float] | None = None,
    control_scales: List[float] | None = None,
    control_starts: List[float] | None = None,
    control_ends: List[float] | None = None,
    control_modes: List[int] | None = None,
    ip_adapter_scales: List[float] | None = None,
    ip_adapter_files: List[str] | None = None,
    arguments: Json = None,
    seed: Seed,
    rungs: FallbackLevels = (),
) -> Steps[Image]:
    """Draw a picture from a prompt with a whole checkpoint.

    Inputs:
        model: a checkpoint that draws from text: Stable Diffusion, SDXL, SD 3, FLUX, PixArt, Sana,
            Qwen-Image, Z-Image, Kandinsky, unCLIP and more.
        prior: for a decoder alone (Kandinsky 2.2, Stable Cascade): the checkpoint that turns the
            prompt into what it decodes.
        controlnets: networks that hold the picture to a drawing, ControlNets or T2I-Adapters, made
            for the same family as the model.
        control_images: what each of them is held to, in the same order. One union ControlNet alone
            takes several; a checkpoint that is held to a drawing by itself (FLUX Canny, Depth)
            takes one without any.
        ip_adapters, ip_adapter_images: adapters that read a picture as if it were a prompt, and the
            picture of each; one alone takes several.
        ip_encoder: what reads those pictures, for adapters that do not bring it: CLIP's image
            encoder for FLUX.
        loras: low-rank changes to the model's weights, for this picture only.
        embeddings: textual inversions; the prompt names each by its file's name in angle brackets:
            ``<cat-toy>``.
        denoiser, autoencoder: in the place of the checkpoint's own, which then is not loaded: a
            part's folder or one file of its weights; a denoiser also as GGUF.
    Params:
        negative_prompt: what guidance leads away from.
        width, height: in pixels. Left out: the model's own size.
        num_inference_steps: denoising steps. Left out: what suits the model, as for all that
            follow.
        guidance_scale: how far to go beyond the unguided picture; 1 is off.
        guidance_rescale: against over-exposure under strong guidance (arXiv:2305.08891).
        clip_skip: layers of CLIP to leave out, from the last.
        sampler, sampler_settings: by diffusers' name, e.g. ``DPMSolverMultistepScheduler`` with
            ``{use_karras_sigmas: true}``.
        lora_weights: how much of each LoRA; left out: all of it.
        control_scales, control_starts, control_ends: how much of each ControlNet, and from and to
            which part of the denoising (0 to 1).
        control_modes: for ControlNets that read drawings of several kinds: the number of each one's
            kind, as the network's authors count them.
        ip_adapter_scales: how much of each; left out: all of it.
        ip_adapter_files: the file of weights in each adapter's folder, where there are several:
            ``models/ip-adapter_sd15.safetensors``.
        arguments: any other argument of the pipeline, by its own name: ``{true_cfg_scale: 4}``.
        seed: of the noise, which is drawn on the CPU.
    Outputs: a picture of 8 bits, the one that diffusers gives for the same arguments.
    Raises: ValueError for what the model does not take; RuntimeError if its safety checker blackens
        the picture.
    Source: ``diffusers.AutoPipelineForText2Image``.
    """
    given = {
        "prompt": prompt,
        "width": width,
        "height": height,
        **_shared(
            negative_prompt, num_inference_steps, guidance_scale, guidance_rescale, clip_skip
        ),
    }
    given = also(given, arguments)
    controls = Controls(
        controlnets, control_images, control_scales, control_starts, control_ends, control_modes
    )
    worn = Worn(
        loras,
        lora_weights,
        embeddings,
        ip_adapters,
        ip_adapter_images,
        ip_adapter_scales,
        ip_adapter_files,
        ip_encoder,
    )
    return (
        yield from draw(
            _with(prior, model),
            "text_to_image",
            given,
            controls,
            worn,
            sampler,
            sampler_settings,
            seed,
            rungs,
        )
    )


@flow.node("diffusion.image_to_image", version=2, uses=ADAPTING)
def image_to_image(
    model: Annotated[Checkpoint, Leased(Drawing)],
    image: Image,
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    controlnets: List[Annotated[Any, Leased(ControlNet)]] | None = None,
    control_images: List[Image] | None = None,
    ip_adapters: List[Annotated[Adapter, Leased(IPAdapter)]] | None = None,
    ip_adapter_images: List[Image] | None = None,
    ip_encoder: Annotated[Any, Leased(ImageEncoder)] | None = None,
    loras: List[Annotated[Adapter, Leased(LoRA)]] | None = None,
    embeddings: List[Annotated[Adapter, Leased(Embedding)]] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] | None = None,
    negative_prompt: str | None = None,
    width: Annotated[int, Range(8, 16384)] | None = None,
    height: Annotated[int, Range(8, 16384)] | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    guidance_rescale: Annotated[float, Range(0, 1)] | None = None,
    clip_skip: Annotated[int, Range(1, 12)] | None = None,
    sampler: str | None = None,
    sampler_settings: Json = None,
    lora_weights: List[float] | None = None,
    control_scales: List[float] | None = None,
    control_starts: List[float] | None = None,
    control_ends: List[float] | None = None,
    control_modes: List[int] | None = None,
    ip_adapter_scales: List[float] | None = None,
    ip_adapter_files: List[str] | None = None,
    arguments: Json = None,
    seed: Seed,
    rungs: FallbackLevels = (),
) -> Steps[Image]:
    """Draw a picture anew from another one and a prompt.

    Inputs:
        image: where to begin; alpha is laid over black.
        (the rest as for diffusion.text_to_image)
    Params:
        strength: how much of the picture is given up for noise at the beginning, 0 to 1. Left out:
            what suits the model.
        width, height: for models that do not take the picture's own size.
        (the rest as for diffusion.text_to_image)
    Outputs: a picture of 8 bits.
    Source: ``diffusers.AutoPipelineForImage2Image``.
    """
    given = {
        "prompt": prompt,
        "image": to_pil(image),
        "strength": strength,
        "width": width,
        "height": height,
    }
    given = also(
        given
        | _shared(
            negative_prompt, num_inference_steps, guidance_scale, guidance_rescale, clip_skip
        ),
        arguments,
    )
    controls = Controls(
        controlnets, control_images, control_scales, control_starts, control_ends, control_modes
    )
    worn = Worn(
        loras,
        lora_weights,
        embeddings,
        ip_adapters,
        ip_adapter_images,
        ip_adapter_scales,
        ip_adapter_files,
        ip_encoder,
    )
    return (
        yield from draw(
            _with(prior, model),
            "image_to_image",
            given,
            controls,
            worn,
            sampler,
            sampler_settings,
            seed,
            rungs,
        )
    )


@flow.node("diffusion.inpaint", version=2, uses=ADAPTING)
def inpaint(
    model: Annotated[Checkpoint, Leased(Filling)],
    image: Image,
    mask: Mask,
    prompt: str,
    prior: Annotated[Checkpoint, Leased(Whole)] | None = None,
    controlnets: List[Annotated[Any, Leased(ControlNet)]] | None = None,
    control_images: List[Image] | None = None,
    ip_adapters: List[Annotated[Adapter, Leased(IPAdapter)]] | None = None,
    ip_adapter_images: List[Image] | None = None,
    ip_encoder: Annotated[Any, Leased(ImageEncoder)] | None = None,
    loras: List[Annotated[Adapter, Leased(LoRA)]] | None = None,
    embeddings: List[Annotated[Adapter, Leased(Embedding)]] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] | None = None,
    padding_mask_crop: Annotated[int, Range(0, 16384)] | None = None,
    keep_outside: bool = False,
    negative_prompt: str | None = None,
    width: Annotated[int, Range(8, 16384)] | None = None,
    height: Annotated[int, Range(8, 16384)] | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    guidance_rescale: Annotated[float, Range(0, 1)] | None = None,
    clip_skip: Annotated[int, Range(1, 12)] | None = None,
    sampler: str | None = None,
    sampler_settings: Json = None,
    lora_weights: List[float] | None = None,
    control_scales: List[float] | None = None,
    control_starts: List[float] | None = None,
    control_ends: List[float] | None = None,
    control_modes: List[int] | None = None,
    ip_adapter_scales: List[float] | None = None,
    ip_adapter_files: List[str] | None = None,
    arguments: Json = None,
    seed: Seed,
    rungs: FallbackLevels = (),
) -> Steps[Image]:
    """Draw what a mask marks, so that it fits the rest of the picture and the prompt. With a padded
    picture it draws beyond its edges.

    Inputs:
        image: the picture; alpha is laid over black.
        mask: white where to draw, of the picture's size.
        (the rest as for diffusion.text_to_image)
    Params:
        strength: how much of what is there is given up for noise, 0 to 1.
        padding_mask_crop: work on the masked region alone, with this many pixels around it.
        keep_outside: lay the picture's own pixels over the result wherever the mask is black: an
            autoencoder changes all of them a little.
        width, height: the size to work in. Left out: the picture's, cut to what the model can
            halve.
        (the rest as for diffusion.text_to_image)
    Outputs: a picture of 8 bits.
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
    given = {
        "prompt": prompt,
        "image": to_pil(image),
        "mask_image": to_pil(mask),
        "strength": strength,
        "padding_mask_crop": padding_mask_crop,
    }
    grid = grid_of(model.model, binned=False)
    given |= {
        "width": width or _whole(image.width, grid),
        "height": height or _whole(image.height, grid),
    }
    given = also(
        given
        | _shared(
            negative_prompt, num_inference_steps, guidance_scale, guidance_rescale, clip_skip
        ),
        arguments,
    )
    controls = Controls(
        controlnets, control_images, control_scales, control_starts, control_ends, control_modes
    )
    worn = Worn(
        loras,
        lora_weights,
        embeddings,
        ip_adapters,
        ip_adapter_images,
        ip_adapter_scales,
        ip_adapter_files,
        ip_encoder,
    )
    # A size that nobody asked for is the picture's: a class that has its own (Qwen's) is told by a
    # note then.
    asked = {"width": width, "height": height, **(arguments if isinstance(arguments, dict) else {})}
    drawn = yield from draw(
        _with(prior, model),
        "inpaint",
        given,
        controls,
        worn,
        sampler,
        sampler_settings,
        seed,
        rungs,
        asked=asked,
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


@text_to_image.foresee
@image_to_image.foresee
@inpaint.foresee
def _lendable(models: Mapping[str, Any], _fed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    foresee_size(models, given)
    foresee_controls(models)
    foresee_parts(models, "denoiser", "autoencoder")


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
            f" {article(model.kind)} reads the prompt by itself, or has another prior: leave it out"
        )


def draw(
    model: Checkpoint,
    task: str,
    given: dict[str, Any],
    controls: Controls,
    worn: Worn,
    sampler: str | None,
    sampler_settings: dict[str, Any] | None,
    seed: int,
    rungs: Sequence[str] = (),
    *,
    asked: Mapping[str, Any] | None = None,
) -> Generator[Progress, None, Image]:
    """Draw one picture by the class of diffusers that does a task for a checkpoint.

    Params:
        asked: the sizes that must come out as they are; default: those that are `given`.
    """
    by = f"diffusion.{task}"
    refuse_size(model.model, given)
    cls = pipeline_for(model.model, model.kind, task, by=by, help=controls.word)
    refuse_other_denoiser(model, task, by)
    _refuse_refiner(model, task, by)
    _refuse_prior(model, cls, by)
    model, given = controlled(model, cls, given, controls)
    given = spelt(worn, given)
    made = model.pipeline(cls)
    lost = choose(made, sampler, sampler_settings)
    with (
        model.alone(),
        adapted(made, model, worn) as more,
        skipping(model, given.get("clip_skip")),
        sparing(getattr(made, "vae", None), rungs),
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
            convert=made.maybe_convert_prompt if worn.embeddings else None,
        )
        note = "; ".join(filter(None, (note, unguided_by(cls, given), lost, *worn.notes)))
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


def _shared(
    negative_prompt: str | None,
    steps: int | None,
    guidance_scale: float | None,
    guidance_rescale: float | None,
    clip_skip: int | None,
) -> dict[str, Any]:
    return {
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "clip_skip": clip_skip,
    }
