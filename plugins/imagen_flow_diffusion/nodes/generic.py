"""Call any pipeline of diffusers by its own arguments: for pictures, or for the tensors that
another pipeline goes on with.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Unpack

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Model, Progress, Seed, Steps, Tensor, Text, loaders
from imagen_flow.loaders import FallbackLevels, Leased, Loader

from ..checkpoints.classes import component_of
from ..checkpoints.description import what_is
from ..checkpoints.folder import load_part, with_article
from ..checkpoints.modular import taken_by
from ..loading.checkpoint import Checkpoint
from ..loading.components import Whole, check_replaced_parts
from ..loading.groups import SHARED_SETTINGS
from ..loading.temporary_changes import sparing, unchanged
from ..pipelines.calling import (
    call,
    encoded,
    explaining_nan,
    followed,
    pictures,
    problem_of,
    to_pil,
)
from ..pipelines.samplers import set_sampler
from ..pipelines.sizes import SIDES, check_size, refuse_size
from .shared_ports import ReplacedParts

LIBRARIES = ("diffusers", "torch", "transformers")

PICTURES = ("image", "images", "input_images", "video")
"""What pipelines call the pictures that they begin with, the usual name first."""

MASKS = ("mask_image", "mask", "control_mask", "mask_video")
"""What pipelines call a mask, the usual name first."""

UNDRAWN = ("images", "frames", "image", "latent")
"""What pipelines call latents that they give; all take them as ``latents``."""


class Part(Loader[Any]):
    """One network in a folder of its own, as diffusers and transformers save it: a motion adapter,
    a ControlNet, an image encoder, a depth estimator.
    """

    settings = SHARED_SETTINGS

    def check(self, model: Model) -> None:
        if model.path.is_file() or (model.path / "model_index.json").is_file():
            raise flow.ModelError(
                f"the port 'parts' cannot use the model '{model.reference}': it is"
                f" {with_article(what_is(model))}, and 'parts' takes one network in a folder with its"
                " config.json"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        self.check(model)
        return load_part(
            component_of(model), model, "", device=device, dtype=dtype, settings=settings
        )

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "")


@flow.record
class PictureUse:
    """A picture, or several, and the argument of the pipeline that they are."""

    image: Image | List[Image]
    argument: Text | None = None


@flow.record
class PartUse:
    """A network of another model, and the part of the pipeline that it is."""

    model: Annotated[Any, Leased(Part)]
    name: Text


class CallPorts(ReplacedParts, total=False):
    """What a pipeline is called with.

    Inputs:
        arguments: arguments of the pipeline: ``{prompt: a fox, num_inference_steps: 20}``; see the
            documentation of diffusers.
        images: pictures to pass as arguments. The default ``argument`` is ``image``, or the name
            that the pipeline uses for its input picture; to choose another, write ``[{image:
            "${depth}", argument: hint}]``. Several pictures for one argument are passed as a list,
            e.g. the frames of a ``video``.
        mask: passed as ``mask_image``, or under the name that the pipeline uses for its mask.
        tensors: from diffusion.tensors; each is passed as the argument that it is tagged with.
        parts: components from other models, each with the ``name`` of the pipeline component that
            it becomes: ``[{model: …, name: motion_adapter}]``; several with one name are passed as
            a list.
    Params:
        pipeline_class: another diffusers class that uses the same components, e.g.
            ``StableDiffusionImg2ImgPipeline``; modular pipelines are supported.
        sampler: a diffusers class, e.g. ``EulerAncestralDiscreteScheduler``. Default: the
            checkpoint's own.
        sampler_settings: settings of its configuration, e.g. ``{use_karras_sigmas: true}``.
        tiled: let the autoencoder work tile by tile, for pictures that do not fit in memory; the
            videos of some families can only be decoded this way. It changes pixels a little.
    """

    arguments: Json
    images: List[PictureUse]
    mask: Mask
    tensors: List[Tensor]
    parts: List[PartUse]
    pipeline_class: str
    sampler: str
    sampler_settings: Json
    tiled: bool


#: What is written in the place of ports that were lists beside others.
RENAMED = {
    "image_arguments": "images: [{image: …, argument: …}]",
    "part_names": "parts: [{model: …, name: …}]",
}


@flow.node("diffusion.pipeline", version=3, uses=LIBRARIES, renamed=RENAMED)
def pipeline(
    model: Annotated[Checkpoint, Leased(Whole)],
    *,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[CallPorts],
) -> Steps[List[Image]]:
    """Call any pipeline that diffusers can load, by its own arguments.

    Inputs:
        model: a checkpoint in the diffusers layout, of any pipeline class.
    Params:
        seed: of the noise, which is drawn on the CPU.
    Outputs: all pictures that the pipeline returns, 8 bits: for a video, its frames; for an
        estimate (depth, normals), float pictures as returned, with normals scaled to 0 to 1.
    Raises: ValueError for arguments that the pipeline does not take, or if it returns no pictures;
        RuntimeError if a safety checker blackens a picture.
    """
    arguments = ports.get("arguments")
    if isinstance(arguments, dict) and arguments.get("output_type") == "latent":
        raise ValueError(
            "its 'output_type' is latent, and latents are no pictures: diffusion.tensors gives them"
        )
    given = _given("diffusion.pipeline", model, ports)
    if "output_type" in taken_by(given.cls):
        given.arguments.setdefault("output_type", "np")
    output, last = yield from followed(_called(model, given, ports, seed, memory_levels))
    with explaining_nan(model.parts):
        found = pictures(output)
    asked = {name: side for name in SIDES if type(side := given.arguments.get(name)) is int}
    if last is not None and (
        other := next(
            (
                one
                for one in found
                if any(getattr(one, name) != side for name, side in asked.items())
            ),
            None,
        )
    ):
        asked_for = " and ".join(f"a {name} of {side}" for name, side in asked.items())
        yield replace(
            last,
            note="; ".join(
                filter(
                    None,
                    (
                        last.note,
                        (
                            f"{asked_for} was asked for, and the pipeline drew {other.width} x"
                            f" {other.height}"
                        ),
                    ),
                )
            ),
        )
    return found


@flow.node("diffusion.tensors", version=2, uses=LIBRARIES, renamed=RENAMED)
def tensors(
    model: Annotated[Checkpoint, Leased(Whole)],
    *,
    names: List[Text] | None = None,
    seed: Seed,
    memory_levels: FallbackLevels = (),
    **ports: Unpack[CallPorts],
) -> Steps[List[Tensor]]:
    """Call a pipeline for tensors that another pipeline takes: the embeddings of a prior (Kandinsky,
    Stable Cascade, FLUX Redux), or latents.

    With ``arguments: {output_type: latent}`` a pipeline that draws returns its latents.

    Inputs:
        model: a checkpoint in the diffusers layout, of any pipeline class.
    Params:
        names: the names of the tensors to return. Default: all that the pipeline returns.
        seed: of the noise, which is drawn on the CPU.
    Outputs: tensors, each tagged with its name; latents are named ``latents``, as other pipelines
        take them.
    Raises: ValueError for arguments that the pipeline does not take, or if it does not return the
        named tensors.
    """
    given = _given("diffusion.tensors", model, ports)
    output = yield from _called(model, given, ports, seed, memory_levels)
    import torch

    held = (
        {name: value for name, value in output.items() if value is not None}
        if isinstance(output, Mapping)
        else {type(output).__name__: output}
    )
    found = {
        "latents" if name in UNDRAWN else name: value
        for name, value in held.items()
        if isinstance(value, torch.Tensor)
    }
    if not found:
        raise ValueError(
            f"the pipeline gave no tensors but {', '.join(sorted(held))}; diffusion.pipeline takes"
            " its pictures"
        )
    if lacking := sorted(set(names or []) - found.keys()):
        raise ValueError(
            f"the pipeline gave no {' and no '.join(lacking)}; it gave: {', '.join(sorted(found))}"
        )
    return encoded(
        {name: value for name, value in found.items() if names is None or name in names}, {}
    )


@pipeline.plan_check
@tensors.plan_check
def _fitting(
    models: Mapping[str, Any], _upstream: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    if not given.get("pipeline_class"):
        check_size(models, given)
    check_replaced_parts(models, "denoiser", "autoencoder")


class _Given(typing.NamedTuple):
    """A class of pipeline, and the arguments of its call."""

    cls: Any
    arguments: dict[str, Any]


def _given(by: str, model: Checkpoint, ports: CallPorts) -> _Given:
    """Gather the arguments of a call under the names that the pipeline has for them."""
    import diffusers

    kind = ports.get("pipeline_class") or model.kind
    cls = getattr(diffusers, kind, None) if kind.isidentifier() else None
    if lacking := getattr(cls, "_backends", None):
        raise ValueError(f"{kind} needs {', '.join(lacking)}: install what is missing")
    if not (
        isinstance(cls, type)
        and issubclass(cls, (diffusers.DiffusionPipeline, diffusers.ModularPipeline))
    ):
        if cls is None and kind.endswith("Pipeline"):
            raise flow.ModelError(
                f"{by} cannot call {kind} for the model '{model.model.reference}': diffusers"
                f" {diffusers.__version__} has no class of that name"
            )
        raise problem_of(model.model, by, kind, "what diffusers has a pipeline for")
    arguments = ports.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("its 'arguments' must be a mapping of names to values")
    takes = taken_by(cls)
    given: dict[str, Any] = dict(arguments or {})
    named: dict[str, list[Any]] = {}
    for use in ports.get("images", ()):
        name = use.argument or _first(PICTURES, takes)
        images = [use.image] if isinstance(use.image, Image) else use.image
        named.setdefault(name, []).extend(_picture(name, image) for image in images)
    for name, found in named.items():
        given[name] = (
            found
            if len(found) > 1 or (name in takes and _takes_lists(takes[name].annotation))
            else found[0]
        )
    if (mask := ports.get("mask")) is not None:
        given[_first(MASKS, takes)] = to_pil(mask)
    for tensor in ports.get("tensors", ()):
        if "is" not in tensor.tags:
            raise ValueError(
                "a tensor among its 'tensors' says not which argument it is: take it from"
                " diffusion.tensors"
            )
        given[tensor.tags["is"]] = tensor.torch(model.device)
    return _Given(cls, given)


def _picture(name: str, image: Image) -> Any:
    """Give a picture as pipelines take one; what they call a hint they take as a tensor only: (1,
    3, height, width), 0 to 1.
    """
    import torch

    return (
        torch.from_numpy(image.rgb().as_float().pixels.copy()).permute(2, 0, 1)[None]
        if name == "hint"
        else to_pil(image)
    )


def _first(names: Sequence[str], takes: Mapping[str, Any]) -> str:
    """Choose the name that a pipeline has for something; the usual one if it has none."""
    return next((name for name in names if name in takes), names[0])


def _takes_lists(annotation: Any) -> bool:
    """Whether an argument is a list and nothing else that a picture could be."""
    wanted = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    lists = [
        typing.get_origin(one) is list
        for one in wanted
        if one is not type(None)
        and getattr(one, "__name__", "") not in ("Tensor", "FloatTensor", "ndarray")
    ]
    return bool(lists) and all(lists)


def _called(
    model: Checkpoint, given: _Given, ports: CallPorts, seed: int, memory_levels: Sequence[str]
) -> Generator[Progress, None, Any]:
    """Call a pipeline of a checkpoint's parts and of what is lent to it."""
    parts = ports.get("parts", [])
    lent_parts: dict[str, list[Any]] = {}
    for part in parts:
        lent_parts.setdefault(part.name, []).append(part.model)
    if ports.get("tiled"):
        memory_levels = ("tile", *memory_levels)
    if given.cls.__name__ == model.kind:
        refuse_size(model.model, given.arguments)
    # Some pipelines change their networks as soon as they are made.
    with model.alone(), unchanged([*model.parts.values(), *(part.model for part in parts)]):
        made = model.with_parts(
            **{name: found if len(found) > 1 else found[0] for name, found in lent_parts.items()}
        ).pipeline(given.cls)
        lost = set_sampler(made, ports.get("sampler"), ports.get("sampler_settings"))
        with sparing(getattr(made, "vae", None), memory_levels):
            return (yield from call(made, given.arguments, seed=seed, note=lost))
