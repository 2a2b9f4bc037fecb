"""Call any pipeline of diffusers by its own arguments: for pictures, or for the tensors that
another pipeline goes on with.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Model, Progress, Seed, Steps, Tensor, Text, loaders
from imagen_flow.loaders import FallbackLevels, Leased, Loader

from ..checkpoints.classes import component_of
from ..checkpoints.folder import article, load_part, what_is
from ..checkpoints.modular import taken_by
from ..loading.components import (
    SHARED_SETTINGS,
    Checkpoint,
    Whole,
    foresee_parts,
    sparing,
    unchanged,
)
from ..loading.replaced_parts import OtherAutoencoder, OtherDenoiser
from ..pipelines.calling import (
    call,
    encoded,
    explaining_nan,
    followed,
    pictures,
    problem_of,
    to_pil,
)
from ..pipelines.samplers import choose
from ..pipelines.sizes import SIDES, foresee_size, refuse_size

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
                f" {article(what_is(model))}, and 'parts' takes one network in a folder with its"
                " config.json"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        self.check(model)
        return load_part(
            component_of(model), model, "", device=device, dtype=dtype, settings=settings
        )

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "")


@flow.node("diffusion.pipeline", version=3, uses=LIBRARIES)
def pipeline(
    model: Annotated[Checkpoint, Leased(Whole)],
    arguments: Json = None,
    images: List[Image] | None = None,
    image_arguments: List[Text] | None = None,
    mask: Mask | None = None,
    tensors: List[Tensor] | None = None,
    parts: List[Annotated[Any, Leased(Part)]] | None = None,
    part_names: List[Text] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    pipeline_class: str = "",
    sampler: str | None = None,
    sampler_settings: Json = None,
    tiled: bool = False,
    seed: Seed,
    rungs: FallbackLevels = (),
) -> Steps[List[Image]]:
    """Call any pipeline that diffusers can load, by its own arguments.

    Inputs:
        model: a checkpoint in the diffusers layout, of any class of pipeline.
        arguments: what the pipeline is called with: ``{prompt: a fox, num_inference_steps: 20}``;
            the library's documentation names them.
        images: pictures among the arguments; by default ``image``, or what the pipeline calls those
            that it begins with.
        image_arguments: the arguments that the pictures are, in the same order; one named several
            times gets a list, e.g. the frames of a ``video``.
        mask: the argument ``mask_image``, or what the pipeline calls its mask.
        tensors: from diffusion.tensors: each is the argument that it is tagged with.
        parts: networks of other models, lent to the checkpoint.
        part_names: the parts that these are, in the same order: ``controlnet``, ``motion_adapter``,
            ``image_encoder``; one named several times gets a list.
        denoiser, autoencoder: in the place of the checkpoint's own, as for diffusion.text_to_image.
    Params:
        pipeline_class: another class of diffusers that works on the same parts, e.g.
            ``StableDiffusionImg2ImgPipeline``; a modular one, too.
        sampler: by diffusers' name, e.g. ``EulerAncestralDiscreteScheduler``. Left out: the
            checkpoint's.
        sampler_settings: of the sampler's configuration, e.g. ``{use_karras_sigmas: true}``.
        tiled: let the autoencoder work tile by tile, for what does not fit in memory whole; films
            of some families are decoded in no other way. It changes pixels a little.
        seed: of the noise, which is drawn on the CPU.
    Outputs: all pictures that the pipeline gives, 8 bits; of a film, its frames; of an estimate
        (depth, normals), float pictures as it gives them, normals from 0 to 1.
    Raises: ValueError for arguments that the pipeline does not take, or if it gives no pictures;
        RuntimeError if a safety checker blackens a picture.
    """
    if (arguments or {}).get("output_type") == "latent":
        raise ValueError(
            "its 'output_type' is latent, and latents are no pictures: diffusion.tensors gives them"
        )
    given = _given(
        "diffusion.pipeline",
        model,
        pipeline_class,
        arguments,
        images,
        image_arguments,
        mask,
        tensors,
    )
    if "output_type" in taken_by(given.cls):
        given.arguments.setdefault("output_type", "np")
    output, last = yield from followed(
        _called(
            model,
            given,
            parts,
            part_names,
            sampler,
            sampler_settings,
            seed,
            ("tile", *rungs) if tiled else rungs,
        )
    )
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
        said = " and ".join(f"a {name} of {side}" for name, side in asked.items())
        yield replace(
            last,
            note="; ".join(
                filter(
                    None,
                    (
                        last.note,
                        (
                            f"{said} was asked for, and the pipeline drew {other.width} x"
                            f" {other.height}"
                        ),
                    ),
                )
            ),
        )
    return found


@flow.node("diffusion.tensors", version=2, uses=LIBRARIES)
def tensors(
    model: Annotated[Checkpoint, Leased(Whole)],
    arguments: Json = None,
    images: List[Image] | None = None,
    image_arguments: List[Text] | None = None,
    mask: Mask | None = None,
    tensors: List[Tensor] | None = None,
    parts: List[Annotated[Any, Leased(Part)]] | None = None,
    part_names: List[Text] | None = None,
    denoiser: Annotated[Model, Leased(OtherDenoiser)] | None = None,
    autoencoder: Annotated[Model, Leased(OtherAutoencoder)] | None = None,
    *,
    names: List[Text] | None = None,
    pipeline_class: str = "",
    sampler: str | None = None,
    sampler_settings: Json = None,
    tiled: bool = False,
    seed: Seed,
    rungs: FallbackLevels = (),
) -> Steps[List[Tensor]]:
    """Call a pipeline for what another one goes on with: a prior for embeddings (Kandinsky, Stable
    Cascade, FLUX Redux), or any one for latents.

    Inputs: (as for diffusion.pipeline)
        arguments: with ``{output_type: latent}`` a pipeline that draws gives its latents.
    Params: (as for diffusion.pipeline)
        names: of the tensors that are wanted. Left out: all that the pipeline gives.
    Outputs: tensors, each tagged with its name; latents are ``latents``, as other pipelines take
        them.
    Raises: ValueError for arguments that the pipeline does not take, or if it does not give the
        tensors that are wanted.
    """
    given = _given(
        "diffusion.tensors",
        model,
        pipeline_class,
        arguments,
        images,
        image_arguments,
        mask,
        tensors,
    )
    output = yield from _called(
        model,
        given,
        parts,
        part_names,
        sampler,
        sampler_settings,
        seed,
        ("tile", *rungs) if tiled else rungs,
    )
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


@pipeline.foresee
@tensors.foresee
def _fitting(models: Mapping[str, Any], _fed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if not given.get("pipeline_class"):
        foresee_size(models, given)
    foresee_parts(models, "denoiser", "autoencoder")


class _Given(typing.NamedTuple):
    """A class of pipeline, and the arguments of its call."""

    cls: Any
    arguments: dict[str, Any]


def _given(
    by: str,
    model: Checkpoint,
    pipeline_class: str,
    arguments: Any,
    images: Sequence[Image] | None,
    image_arguments: Sequence[str] | None,
    mask: Mask | None,
    tensors: Sequence[Tensor] | None,
) -> _Given:
    """Gather the arguments of a call under the names that the pipeline has for them."""
    import diffusers

    kind = pipeline_class or model.kind
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
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("its 'arguments' takes a mapping of names to values")
    takes = taken_by(cls)
    given: dict[str, Any] = dict(arguments or {})
    names = (
        image_arguments
        if image_arguments is not None
        else [_first(PICTURES, takes)] * len(images or [])
    )
    if len(names) != len(images or []):
        raise ValueError(
            f"its 'image_arguments' names {len(names)} pictures, and 'images' holds"
            f" {len(images or [])}"
        )
    for name, found in _listed(
        names, [_picture(name, image) for name, image in zip(names, images or [], strict=True)]
    ).items():
        given[name] = (
            found
            if len(found) > 1 or (name in takes and _takes_lists(takes[name].annotation))
            else found[0]
        )
    if mask is not None:
        given[_first(MASKS, takes)] = to_pil(mask)
    for tensor in tensors or []:
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


def _listed(names: Sequence[str], values: Sequence[Any]) -> dict[str, list[Any]]:
    """Gather values by name, in order."""
    return {
        name: [value for other, value in zip(names, values, strict=True) if other == name]
        for name in dict.fromkeys(names)
    }


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
    model: Checkpoint,
    given: _Given,
    parts: Sequence[Any] | None,
    part_names: Sequence[str] | None,
    sampler: str | None,
    sampler_settings: dict[str, Any] | None,
    seed: int,
    rungs: Sequence[str],
) -> Generator[Progress, None, Any]:
    """Call a pipeline of a checkpoint's parts and of what is lent to it."""
    if len(parts or []) != len(part_names or []):
        raise ValueError(
            f"its 'part_names' names {len(part_names or [])} parts, and 'parts' holds"
            f" {len(parts or [])}"
        )
    lent = _listed(part_names or [], parts or [])
    if given.cls.__name__ == model.kind:
        refuse_size(model.model, given.arguments)
    # Some pipelines change their networks as soon as they are made.
    with model.alone(), unchanged([*model.parts.values(), *(parts or [])]):
        made = model.with_parts(
            **{name: found if len(found) > 1 else found[0] for name, found in lent.items()}
        ).pipeline(given.cls)
        lost = choose(made, sampler, sampler_settings)
        with sparing(getattr(made, "vae", None), rungs):
            return (yield from call(made, given.arguments, seed=seed, note=lost))
