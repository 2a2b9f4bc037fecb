"""Words to states, states to a picture, a picture to a larger one, and an edit by instruction."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Unpack

import imagen_flow as flow
from imagen_flow import Image, List, Progress, Range, Seed, Steps, Tensor
from imagen_flow.loaders import FallbackLevels, Leased

from ..adapters.attached import AttachedAdapters
from ..loading.components import check_replaced_parts
from ..pipelines.calling import NoNumberError, encoded, explaining_nan, read_encoded, refuse_nan
from ..pipelines.families import check_text
from ..pipelines.reading import foreign
from ..stages.instruction_editing import Instructed
from ..stages.loaders import BaseDenoiser, Editor, Enlarger, TextEncoder
from ..stages.roles import (
    BaseStage,
    DoubtingPromptEncoder,
    EnlargingStage,
    ManyBaseStage,
    ManyEnlargingStage,
    ManyPictureEditor,
    ManyPromptEncoder,
    PictureEditor,
    PromptEncoder,
    Stage,
)
from ..stages.text_encoding import Encoder
from .shared_ports import RENAMED_LORAS, LoRAs, Prompting, ReplacedParts, Sampler

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")

_LIBRARIES = ("diffusers", "torch", "transformers")


class EncodingPorts(Prompting, LoRAs, total=False):
    """What changes how words are read."""


@flow.node(
    "text.encode",
    version=3,
    uses=(*_LIBRARIES, "compel", "peft"),
    renamed=RENAMED_LORAS,
)
def encode(
    model: Annotated[Encoder | PromptEncoder, Leased(TextEncoder)],
    prompt: str,
    *,
    weighting: Literal["none", "compel"] = "none",
    **ports: Unpack[EncodingPorts],
) -> Steps[List[Tensor]]:
    """Encode a prompt for the denoiser of a model.

    A prompt of any length is accepted; a note shows what the encoder does not read, because the
    prompt is too long or contains words that it does not know.

    Inputs:
        model: an Imagen cascade (embedded/imagen), DeepFloyd IF, or a checkpoint of a family that
            diffusion.denoise supports. Only the text-encoder layers of LoRAs are applied. Without
            `negative_prompt`, the family's default (usually the empty prompt) is encoded.
    Params:
        weighting: ``compel`` reads weights in the prompt, ``a (red)1.3 fox``, and prompts of any
            length (Stable Diffusion and SDXL).
    Outputs: tensors, each tagged with the pipeline argument that it ``is``, with ``family``, and
        with ``encoder``, the model's fingerprint.
    """
    negative_prompt, clip_skip = ports.get("negative_prompt"), ports.get("clip_skip")
    attached = AttachedAdapters(ports.get("loras", ()), ports.get("embeddings", ()))
    note = "" if attached.embeddings else model.unread(prompt, negative_prompt or "")
    if isinstance(model, Encoder):
        tensors = model.encode(
            prompt, negative_prompt, clip_skip=clip_skip, weighting=weighting, attached=attached
        )
    elif given := [
        name
        for name, value in (
            ("clip_skip", clip_skip),
            ("embeddings", attached.embeddings),
            ("loras", attached.loras),
            ("weighting", weighting != "none"),
        )
        if value
    ]:
        raise ValueError(
            f"this model takes no {' and no '.join(given)}: checkpoints of diffusers do"
        )
    else:
        tensors = model.encode(prompt, negative_prompt)
        note = _with_doubts(note, model, prompt, tensors)
    with explaining_nan(model.networks):
        for tensor in tensors.values():
            refuse_nan(tensor, "the text encoder gave")
    if weighting == "compel":
        note = "; ".join(
            filter(
                None,
                (
                    foreign(text, what=what, weighting=weighting)
                    for what, text in (
                        ("the prompt", prompt),
                        ("the negative prompt", negative_prompt or ""),
                    )
                ),
            )
        )
    yield Progress(1, 1, "; ".join(filter(None, (note, *attached.notes))))
    return encoded(tensors, {"family": model.family, "encoder": model.fingerprint})


@encode.many(varies=("prompt", "negative_prompt"))
def _encode_many(
    model: Encoder | PromptEncoder,
    prompt: Sequence[str],
    *,
    weighting: str = "none",
    negative_prompt: Sequence[str | None],
    **ports: Any,
) -> Steps[List[List[Tensor]]]:
    if weighting != "none" or any(value for value in ports.values()):
        return NotImplemented
    if isinstance(model, Encoder):
        found = model.encode_many(prompt, negative_prompt)
    elif isinstance(model, ManyPromptEncoder):
        found = list(model.encode_many(prompt, negative_prompt))
    else:
        return NotImplemented
    if found is None:
        return NotImplemented
    for i, (text, negative) in enumerate(zip(prompt, negative_prompt, strict=True)):
        with explaining_nan(model.networks):
            for tensor in found[i].values():
                refuse_nan(tensor, "the text encoder gave")
        note = model.unread(text, negative or "")
        yield Progress(1, 1, _with_doubts(note, model, text, found[i]), item=i)
    tags = {"family": model.family, "encoder": model.fingerprint}
    return [encoded(tensors, tags) for tensors in found]


def _with_doubts(note: str, model: Any, prompt: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Add to a note what the encoder doubts, if it can tell."""
    doubts = model.doubts(prompt, tensors) if isinstance(model, DoubtingPromptEncoder) else ""
    return "; ".join(filter(None, (note, doubts)))


@flow.node("diffusion.base", version=3, uses=_LIBRARIES)
def base(
    model: Annotated[BaseStage, Leased(BaseDenoiser)],
    text: List[Tensor],
    *,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    seed: Seed,
) -> Steps[Image]:
    """Draw a small picture from a prompt: the first stage of a cascade.

    Inputs:
        model: an Imagen cascade (embedded/imagen) or the first stage of DeepFloyd IF.
        text: from ``text.encode`` with a model of the same family.
    Params:
        guidance_scale: the strength of classifier-free guidance; 1 is off. Default: the model's
            own (IF: 7).
        num_inference_steps: denoising steps. Default: the model's own (IF: 100).
        seed: of the noise, which is drawn on the CPU.
    Outputs: the picture at the model's own size (embedded: 32 px, 8 bits; IF: 64 px, float).
    Raises: RuntimeError if IF's safety checker blackens the picture.
    Source: Imagen (arXiv:2205.11487); for IF, ``diffusers.IFPipeline``.
    """
    states = _states(text, model, "diffusion.base")
    steps = model.draw(
        states, seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
    )
    with explaining_nan({"unet": model.unet}):
        return Image((yield from _progress(steps)))


@base.many(varies=("text", "seed"))
def _base_many(
    model: BaseStage,
    text: Sequence[Sequence[Tensor]],
    *,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    seed: Sequence[int],
) -> Steps[List[Image]]:
    if not isinstance(model, ManyBaseStage):
        return NotImplemented
    steps = model.draw_many(
        _states_of_many(text, model, "diffusion.base"),
        seeds=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    with explaining_nan({"unet": model.unet}):
        return [Image(one) for one in (yield from _progress_of_many(steps))]


@flow.node("diffusion.super_resolution", version=3, uses=_LIBRARIES)
def super_resolution(
    model: Annotated[EnlargingStage, Leased(Enlarger)],
    image: Image,
    text: List[Tensor],
    *,
    guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None,
    noise_level: Annotated[int, Range(0, 999)] | None = None,
    seed: Seed,
) -> Steps[Image]:
    """Enlarge a cascade's small picture, inventing detail that fits the prompt.

    Inputs:
        model: an Imagen cascade (embedded/imagen) or the second stage of DeepFloyd IF.
        image: of the size that the previous stage draws; other sizes are resized to it (Lanczos).
            Alpha is composited over black.
        text: from ``text.encode`` with a model of the same family.
    Params:
        guidance_scale: 1 is off. Default: the model's own (IF: 4).
        num_inference_steps: denoising steps. Default: the model's own (IF: 50).
        noise_level: step of the noise schedule, of 1000, to which the small picture is blurred, so
            that its faults are not believed. Left out: what suits the
            model (IF: 250).
        seed: of the noise, which is drawn on the CPU.
    Outputs: the picture at the model's own size (embedded: 128 px, 8 bits; IF: 256 px, float).
    Raises: RuntimeError if IF's safety checker blackens the picture.
    Source: Imagen (arXiv:2205.11487), noise-conditioning augmentation; for IF,
        ``diffusers.IFSuperResolutionPipeline``.
    """
    states = _states(text, model, "diffusion.super_resolution")
    steps = model.draw(
        image.rgb().as_float().pixels,
        states,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise_level=noise_level,
    )
    with explaining_nan({"unet": model.unet}):
        return Image((yield from _progress(steps)))


@super_resolution.many(varies=("image", "text", "seed"))
def _super_resolution_many(
    model: EnlargingStage,
    image: Sequence[Image],
    text: Sequence[Sequence[Tensor]],
    *,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    noise_level: int | None = None,
    seed: Sequence[int],
) -> Steps[List[Image]]:
    if not isinstance(model, ManyEnlargingStage):
        return NotImplemented
    steps = model.draw_many(
        [one.rgb().as_float().pixels for one in image],
        _states_of_many(text, model, "diffusion.super_resolution"),
        seeds=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise_level=noise_level,
    )
    with explaining_nan({"unet": model.unet}):
        return [Image(one) for one in (yield from _progress_of_many(steps))]


class EditingPorts(Sampler, LoRAs, ReplacedParts, total=False):
    """What editing by a checkpoint has in common with drawing."""


@flow.node("image.edit", version=3, uses=(*_LIBRARIES, "peft"), renamed=RENAMED_LORAS)
def edit(
    model: Annotated[Instructed | PictureEditor, Leased(Editor)],
    image: Image,
    instruction: str,
    references: List[Image] | None = None,
    *,
    image_guidance_scale: Annotated[float, Range(0, 100)] | None = None,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[EditingPorts],
) -> Steps[Image]:
    """Edit a picture by an instruction, such as ``make the circle green``.

    Inputs:
        model: embedded/edit, or a checkpoint that edits by instructions: InstructPix2Pix, FLUX
            Kontext, FLUX.2, Qwen-Image-Edit and others that diffusers has a pipeline for.
        image: of any size; 16-bit and float pictures are edited in 8 bits. Alpha is kept as it is.
        instruction: what to change; a note lists words that the model does not know, and says
            if embedded/edit sees nothing to change.
        references: further pictures that the instruction refers to: ``dress the man of the first
            picture in the coat of the second``; alpha is composited over black. FLUX.2,
            Qwen-Image-Edit from 2509 on and some others support them. The embedded editor takes no
            references, LoRAs, samplers, replaced parts or `arguments`.
    Params:
        image_guidance_scale: how closely to follow the source; InstructPix2Pix only (1.5).
        seed: of the noise, which is drawn on the CPU.
    Outputs: a picture of the source's size, 8 bits, RGB, or RGBA if the source has alpha or the
        model draws it. With embedded/edit, pixels outside the edit are those of the source, bit for
        bit.
    Raises: ValueError if the model takes no references, or not one of the arguments; RuntimeError
        if the checkpoint's safety checker blackens the picture.
    Source: InstructPix2Pix (arXiv:2211.09800); for checkpoints, their diffusers pipeline.
    """
    colours, alpha = _split_alpha(image)
    given = ports.get("arguments") or {}
    if not isinstance(given, dict):
        raise ValueError("its 'arguments' must be a mapping of names to values")
    more: dict[str, Any] = {}
    attached = AttachedAdapters(ports.get("loras", ()))
    sampler, sampler_settings = ports.get("sampler"), ports.get("sampler_settings")
    if isinstance(model, Instructed):
        seen = [picture.rgb().as_uint8().pixels for picture in references or []]
        more = {
            "arguments": given,
            "references": seen,
            "attached": attached,
            "sampler": sampler,
            "sampler_settings": sampler_settings,
            "memory_levels": memory_levels,
        }
    elif strange := [
        name
        for name, value in (
            ("arguments", given),
            ("loras", attached.loras),
            ("references", references),
            ("sampler", sampler or sampler_settings),
        )
        if value
    ]:
        raise ValueError(
            f"this model takes no {' and no '.join(strange)}: checkpoints of diffusers do"
        )
    steps: Generator[tuple[Any, ...], None, np.ndarray] = model.edit(
        colours,
        instruction,
        seed=seed,
        num_inference_steps=ports.get("num_inference_steps"),
        guidance_scale=ports.get("guidance_scale"),
        image_guidance_scale=image_guidance_scale,
        **more,
    )
    if isinstance(model, Instructed):
        notes = [model.unread(instruction, given, sampler)]
    else:
        notes = [model.unread(instruction)]
        steps = _noting(_explaining_nan(steps, model), notes)
    edited = yield from _progress(steps, notes, attached.notes)
    return _with_alpha(edited, alpha)


@edit.many(varies=("image", "instruction", "seed"))
def _edit_many(
    model: Instructed | PictureEditor,
    image: Sequence[Image],
    instruction: Sequence[str],
    references: Sequence[Image] | None = None,
    *,
    image_guidance_scale: float | None = None,
    seed: Sequence[int],
    memory_levels: FallbackLevels = (),
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    **ports: Any,
) -> Steps[List[Image]]:
    if isinstance(model, Instructed) or not isinstance(model, ManyPictureEditor):
        return NotImplemented
    if references or any(ports.values()):
        return NotImplemented
    pairs = [_split_alpha(one) for one in image]
    steps = model.edit_many(
        [colours for colours, _ in pairs],
        instruction,
        seeds=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
    )
    edited = yield from _progress_of_edits(_explaining_nan(steps, model))
    for i, words in enumerate(instruction):
        yield Progress(1, 1, model.unread(words), item=i)
    return [_with_alpha(one, alpha) for one, (_, alpha) in zip(edited, pairs, strict=True)]


def _split_alpha(image: Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Give a picture's colours as an editor takes them, uint8 (height, width, 3), and its alpha."""
    import numpy as np

    source = image.as_uint8().pixels
    colours = source[:, :, : image.channels - image.has_alpha]
    colours = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    return np.ascontiguousarray(colours), source[:, :, -1:] if image.has_alpha else None


def _with_alpha(edited: np.ndarray, alpha: np.ndarray | None) -> Image:
    import numpy as np

    return Image(edited if alpha is None else np.concatenate([edited[:, :, :3], alpha], axis=2))


@base.plan_check
def _drawable(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    check_text(models, upstream, "diffusion.base")


@super_resolution.plan_check
def _enlargeable(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    check_text(models, upstream, "diffusion.super_resolution")


@edit.plan_check
def _editable(models: Mapping[str, Any], _upstream: Mapping[str, Any]) -> None:
    check_replaced_parts(models, "denoiser", "autoencoder")


def _states(text: Sequence[Tensor], model: Stage, by: str) -> torch.Tensor:
    """Check that states fit a denoiser, and bring them to where it is: (2, tokens, width), of the
    prompt and of the negative prompt.
    """
    import torch

    found = read_encoded(text, family=model.family, by=by, like=model.unet)
    pair = [found.get(name) for name in ("prompt_embeds", "negative_prompt_embeds")]
    if any(
        states is None or states.ndim != 3 or states.shape[2] != model.text_width for states in pair
    ):
        shapes = ", ".join(str(tensor.shape) for tensor in text)
        raise ValueError(
            f"the text's states are of shape {shapes}, and {by}'s model reads two of (1, tokens,"
            f" {model.text_width}): encode the text with the same model"
        )
    return torch.cat([states for states in pair if states is not None])


def _states_of_many(text: Sequence[Sequence[Tensor]], model: Stage, by: str) -> torch.Tensor:
    """Bring the states of several prompts to where a denoiser is: (2, prompts, tokens, width)."""
    import torch

    return torch.stack([_states(one, model, by) for one in text], 1)


def _progress_of_many(
    steps: Generator[tuple[Any, ...], None, np.ndarray],
) -> Generator[Progress, None, np.ndarray]:
    """Yield a sampler's steps as Progress of all pictures; return these."""
    with closing(steps):
        while True:
            try:
                done, total, *shown = next(steps)
            except StopIteration as end:
                return end.value
            if shown and done == total:
                refuse_nan(shown[0], "the model gave")
            yield Progress(done, total)


def _progress_of_edits(
    steps: Generator[tuple[Any, ...], None, Sequence[np.ndarray]],
) -> Generator[Progress, None, Sequence[np.ndarray]]:
    """Yield an editor's steps as Progress of all pictures, and its notes as that of theirs; return
    the pictures.
    """
    with closing(steps):
        while True:
            try:
                done, total, *noted = next(steps)
            except StopIteration as end:
                return end.value
            note, item = noted or ("", None)
            yield Progress(done, total, note, item=item)


def _progress(
    steps: Generator[tuple[Any, ...], None, np.ndarray], *notes: Sequence[str]
) -> Generator[Progress, None, np.ndarray]:
    """Yield a sampler's steps as Progress, with a preview at each quarter if the sampler shows its
    picture; return the picture. Notes may be added until the first step.
    """
    with closing(steps):
        while True:
            try:
                done, total, *shown = next(steps)
            except StopIteration as end:
                return end.value
            if shown and done == total:
                refuse_nan(shown[0], "the model gave")
            quarter = done < total and done * 4 // total > (done - 1) * 4 // total
            yield Progress(
                done,
                total,
                "; ".join(note for some in notes for note in some if note),
                _preview(shown[0]) if shown and quarter else None,
            )


def _explaining_nan(
    steps: Generator[tuple[Any, ...], None, T], model: PictureEditor
) -> Generator[tuple[Any, ...], None, T]:
    """Take an editor's steps; if it computes NaN, raise what is known of the cause."""
    with explaining_nan(model.networks), closing(steps):
        try:
            return (yield from steps)
        except FloatingPointError as error:
            raise NoNumberError("the model gave") from error


def _noting(
    steps: Generator[tuple[Any, ...], None, np.ndarray], notes: list[str]
) -> Generator[tuple[Any, ...], None, np.ndarray]:
    """Take an editor's steps; what it says beside them is added to the notes."""
    with closing(steps):
        while True:
            try:
                done, total, *said = next(steps)
            except StopIteration as end:
                edited: np.ndarray = end.value
                return edited
            notes.extend(said)
            yield done, total


def _preview(x: torch.Tensor) -> Image:
    """Show a picture in the making: float (1, 3, height, width), -1 to 1 and noise beyond."""
    pixels: np.ndarray = (
        ((x[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    )
    return Image(pixels)
