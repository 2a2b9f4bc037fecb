"""Train what the other nodes draw with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, TypeVar

import imagen_flow as flow
from imagen_flow import Image, Json, List, Model, Range, Scratch, Seed, Steps, Text
from imagen_flow.loaders import FallbackLevels, Leased

from ..checkpoints.description import describe
from ..loading.checkpoint import Checkpoint
from ..loading.components import Trainable
from ..pipelines.sizes import refuse_size
from ..training import examples, layers, lora, objective
from .drawing import ADAPTING

T = TypeVar("T")


class TrainedLoRA(NamedTuple):
    """A trained LoRA, and how the training went."""

    model: Model
    losses: List[Json]


@flow.node(
    "train.lora", version=1, uses=(*ADAPTING, "numpy", "pillow"), paired=("images", "captions")
)
def train_lora(
    model: Annotated[Checkpoint, Leased(Trainable)],
    images: List[Image],
    captions: List[Text],
    scratch: Scratch,
    *,
    steps: Annotated[int, Range(1, 1_000_000)] | None = None,
    repeats: Annotated[int, Range(1, 100_000)] = 100,
    batch_size: Annotated[int, Range(1, 256)] = 1,
    resolution: Annotated[int, Range(64, 4096)] | None = None,
    crop: bool = True,
    rank: Annotated[int, Range(1, 1024)] = 16,
    alpha: Annotated[float, Range(0.01, 4096)] | None = None,
    targets: layers.Targets = "attention",
    learning_rate: Annotated[float, Range(1e-8, 1.0)] = 1e-4,
    schedule: lora.Schedule = "constant",
    warm_up: Annotated[int, Range(0, 100_000)] = 0,
    min_snr_gamma: Annotated[float, Range(0, 1000)] = 5.0,
    caption_dropout: Annotated[float, Range(0, 1)] = 0.1,
    gradient_checkpointing: bool | None = None,
    names: layers.Names = "peft",
    seed: Seed,
    memory_levels: FallbackLevels = (),
) -> Steps[TrainedLoRA]:
    """Train a LoRA on captioned pictures: a style or a thing that a model does not know yet.

    Inputs:
        model: a checkpoint of Stable Diffusion 1 or 2, or of SDXL. Its text encoders stay as they
            are.
        images: of any sizes; alpha is composited over black.
        captions: one for each picture.
    Params:
        steps: of training. Default: as many as show each picture `repeats` times.
        batch_size: pictures of a step.
        resolution: the side of the pictures that are learnt from. Default: the model's own.
        crop: learn from the square in the middle of each picture; otherwise pictures keep their
            proportions, at about as many pixels.
        rank: of the matrices of each layer.
        alpha: the LoRA counts ``alpha / rank`` times. Default: once.
        targets: the layers that it changes: those of ``attention``, all linear ones of a
            ``transformer``, or ``all``, with convolutions.
        learning_rate: of AdamW.
        schedule, warm_up: how the learning rate goes on, after so many steps of growing from zero.
        min_snr_gamma: weights noise levels by min(SNR, gamma); 0 weights all alike.
        caption_dropout: the share of pictures that are learnt without their captions, for guidance.
        gradient_checkpointing: needs less memory and more time, and gives the same weights.
            Default: only where memory ran out.
        names: under which the file holds the layers: ``peft``, as diffusers saves LoRAs, or
            ``kohya``, which also ComfyUI and A1111 read.
        seed: of the first weights, the noise and the order of the pictures.
    Outputs:
        model: a folder with a LoRA, for the port `loras` of the nodes that draw.
        losses: a row for each stretch of the run, with ``step`` and ``loss``.
    Raises: ValueError without pictures, or if their number is not that of the captions.
    Source: DDPM training as in diffusers' ``train_text_to_image_lora``; LoRA (arXiv:2106.09685) as
        in peft; min-SNR weights (arXiv:2303.09556).
    """
    import diffusers

    if len(images) != len(captions):
        raise ValueError(
            f"'images' has {len(images)} elements and 'captions' has {len(captions)}; they belong"
            " together one by one"
        )
    if not images:
        raise ValueError("port 'images' is an empty list; there is nothing to learn from")
    side = resolution or own_resolution(model.model)
    refuse_size(model.model, {"width": side, "height": side})
    settings = lora.Settings(
        steps=steps or math.ceil(len(images) * repeats / batch_size),
        batch_size=batch_size,
        rank=rank,
        alpha=float(rank) if alpha is None else alpha,
        targets=targets,
        learning_rate=learning_rate,
        schedule=schedule,
        warm_up=warm_up,
        min_snr_gamma=min_snr_gamma,
        caption_dropout=caption_dropout,
        seed=seed,
    )
    pipeline = model.pipeline(getattr(diffusers, model.kind))
    noise = objective.noise_schedule(pipeline.scheduler, model.model.reference)
    total = len(images) + settings.steps
    if gradient_checkpointing is None:
        # It changes no weight, so it is what is tried first where memory ran out.
        gradient_checkpointing = bool(memory_levels)
    with _explaining_memory(batch_size, side):
        with model.alone():
            encoding = examples.encode(
                model, images, captions, side, crop=crop, kept=scratch / "examples.safetensors"
            )
            data = yield from _counted(encoding, 0, total)
        # What draws does not lend this denoiser, and may use the other parts meanwhile.
        with model.groups["denoiser"].lock:
            training = lora.train(
                model, data, noise, settings, scratch, gradient_checkpointing=gradient_checkpointing
            )
            trained = yield from _counted(training, len(images), total)
    folder = scratch / "lora"
    folder.mkdir(exist_ok=True)
    layers.write_lora(folder / layers.FILE, trained.weights, rank, settings.alpha, names)
    rows = [{"step": step, "loss": loss} for step, loss in trained.losses]
    return TrainedLoRA(Model(folder), rows)


@train_lora.plan_check
def _check_plan(
    models: Mapping[str, Any], _upstream: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    side = given.get("resolution")
    if (model := models.get("model")) is not None:
        refuse_size(model, {"width": side, "height": side})


def _counted(stage: Steps[T], before: int, total: int) -> Steps[T]:
    """Count the progress of a stage after what was done before it."""
    with closing(stage):
        while True:
            try:
                progress = next(stage)
            except StopIteration as end:
                result: T = end.value
                return result
            yield replace(progress, done=before + progress.done, total=total)


@contextmanager
def _explaining_memory(batch_size: int, side: int) -> Iterator[None]:
    """Say what needs less where memory ran out."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" and "memory" not in str(error):
            raise
        raise RuntimeError(
            f"out of memory at batch_size: {batch_size} and pictures of {side} x {side}: lower"
            f" 'batch_size', 'resolution' or 'rank' ({str(error).partition('. ')[0]})"
        ) from error


def own_resolution(model: Model) -> int:
    """Return the side of the pictures that a checkpoint was trained on, as its denoiser says."""
    description = describe(model)
    side = description.config("unet").get("sample_size")
    return (side if isinstance(side, int) else 64) * description.downscales
