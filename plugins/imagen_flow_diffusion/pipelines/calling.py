"""Call a pipeline of diffusers step by step, with its errors in the words of the graph."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import Image, Mask, Progress, Tensor

from ..checkpoints.diagnosing import without_numbers
from ..checkpoints.folder import device_of, dtype_of
from ..checkpoints.modular import given_by, taken_by
from .call_settings import as_set
from .stepping import stepping

if TYPE_CHECKING:
    import numpy as np
    import torch


def call(
    pipeline: Any,
    arguments: Mapping[str, Any],
    *,
    seed: int | Sequence[int] | None,
    note: str = "",
    before: Sequence[int] | None = None,
    without: Sequence[str] = (),
) -> Generator[Progress, None, Any]:
    """Call a pipeline as `counted` does, and yield its steps as Progress with a note."""
    return (
        yield from follow(
            counted(pipeline, arguments, seed=seed, before=before, without=without), note
        )
    )


def counted(
    pipeline: Any,
    arguments: Mapping[str, Any],
    *,
    seed: int | Sequence[int] | None,
    before: Sequence[int] | None = None,
    without: Sequence[str] = (),
) -> Generator[tuple[int, int], None, Any]:
    """Call a pipeline, yield (steps done, steps) after each, and return its output.

    Params:
        arguments: those that are None keep the pipeline's defaults.
        seed: of the noise, which is drawn on the CPU by a new generator; of several, by one for each
            picture; with None the pipeline gets no generator.
        before: the shape of noise that was already drawn with this seed; the pipeline gets what
            follows it.
        without: arguments to pass as None although the pipeline has another default.
    Raises:
        ValueError: the pipeline does not take an argument, lacks one, or has no step to do.
        RuntimeError: its safety checker blackened the image. diffusers returns the black image and
            only logs it.
    """
    import torch

    given = {name: value for name, value in arguments.items() if value is not None}
    takes = taken_by(type(pipeline))
    check_arguments(type(pipeline), given)
    if "clean_caption" in takes:
        # By default it depends on what else is installed, and two machines would draw two pictures.
        given.setdefault("clean_caption", False)
    if seed is not None and "generator" in takes:
        generators = [
            torch.Generator("cpu").manual_seed(one)
            for one in ([seed] if isinstance(seed, int) else seed)
        ]
        if before is not None:
            for generator in generators:
                torch.randn(before, generator=generator)
        given["generator"] = generators[0] if isinstance(seed, int) else generators
    given |= {name: None for name in without if name in takes}
    steps = given.get("num_inference_steps") or (
        takes["num_inference_steps"].default if "num_inference_steps" in takes else 1
    )

    def run(report: Any) -> Any:
        def after_step(
            inner: Any, step: int, _time: Any, _tensors: dict[str, Any]
        ) -> dict[str, Any]:
            report((step + 1, getattr(inner, "_num_timesteps", None) or steps))
            return {}

        watched = dict(given)
        if "callback_on_step_end" in takes:
            watched["callback_on_step_end"] = after_step
        elif "callback" in takes:
            watched["callback"] = lambda step, _time, _latents: report((step + 1, steps))
        first = seed if seed is None or isinstance(seed, int) else seed[0]
        with as_set(pipeline, steps), _drawing_by(first, pipeline._execution_device):
            try:
                return given_by(pipeline, watched)
            except RuntimeError as error:
                if getattr(pipeline, "_num_timesteps", None) != 0:
                    raise
                # Some pipelines stumble over an empty batch before they give it.
                raise ValueError(_NONE_LEFT) from error
            except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
                if not _by_sampler(error):
                    raise
                message = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"the sampler {type(pipeline.scheduler).__name__} does not work in"
                    f" {type(pipeline).__name__} with these settings"
                    f"{f': {message}' if message else ''}"
                ) from error
            except NameError as lacking:
                if isinstance(lacking, UnboundLocalError):
                    raise
                # diffusers imports some packages only where they are installed, and uses them all
                # the same.
                raise RuntimeError(
                    f"{type(pipeline).__name__} wants '{lacking.name}', which is there only with a"
                    " package that is not installed, as ftfy or torchvision"
                ) from lacking

    output = yield from stepping(run)
    _refuse_blackened(output)
    _refuse_none(output)
    return output


def _by_sampler(error: BaseException) -> bool:
    """Whether a sampler of diffusers raised something, or refused the steps that a pipeline wanted
    of it.
    """
    import traceback
    from pathlib import PurePath

    frames = [
        (PurePath(frame.filename).parts[-3:-1], frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return any(
        name == "retrieve_timesteps" or folders == ("diffusers", "schedulers")
        for folders, name in frames
    )


@contextmanager
def _drawing_by(seed: int | None, device: Any) -> Iterator[None]:
    """Seed the device's own generator for a while: some pipelines draw from it besides the one that
    they are given, and the image must depend on the seed alone.
    """
    import torch

    if seed is None or device.type not in ("cpu", "cuda"):
        yield
        return
    own = (
        torch.random.default_generator
        if device.type == "cpu"
        else torch.cuda.default_generators[device.index or 0]
    )
    before = own.get_state()
    own.manual_seed(seed)
    try:
        yield
    finally:
        own.set_state(before)


def follow(
    steps: Generator[tuple[int, int], None, Any], note: str = ""
) -> Generator[Progress, None, Any]:
    """Yield a call's steps as Progress and return its result."""
    furthest = 0
    with closing(steps):
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            # A pipeline of several stages counts each from its beginning.
            furthest = max(furthest, done)
            yield Progress(furthest, max(total, furthest), note)


def followed(
    steps: Generator[Progress, None, Any],
) -> Generator[Progress, None, tuple[Any, Progress | None]]:
    """Go through the steps of a call; return what it gave, and its last step."""
    last = None
    with closing(steps):
        while True:
            try:
                last = next(steps)
            except StopIteration as end:
                return end.value, last
            yield last


def with_arguments(given: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    """Add arguments that the user gives by the pipeline's own names to those of the node's ports.

    Raises:
        ValueError: they are not a mapping, or name one that a port or the node itself sets.
    """
    if arguments is None:
        return dict(given)
    if not isinstance(arguments, dict):
        raise ValueError("its 'arguments' must be a mapping of names to values")
    if twice := sorted(name for name in arguments if given.get(name) is not None):
        raise ValueError(
            f"its 'arguments' names {' and '.join(twice)}, which a port of the node already sets:"
            " set it only once"
        )
    if ours := sorted({*_OURS, "output_type"} & arguments.keys()):
        raise ValueError(f"its 'arguments' names {' and '.join(ours)}, which the node itself sets")
    if arguments.get("num_images_per_prompt", 1) != 1:
        raise ValueError(
            "its 'arguments' asks for several pictures, and the node draws one: give 'seed' a list"
            " by 'each', or call diffusion.pipeline"
        )
    return {**given, **arguments}


def check_arguments(cls: Any, given: Mapping[str, Any]) -> None:
    """Refuse arguments that a pipeline does not take; it would silently ignore some of them."""
    takes = [
        name for name, p in taken_by(cls).items() if name != "self" and p.kind is not p.VAR_KEYWORD
    ]
    if strange := sorted(given.keys() - set(takes)):
        raise ValueError(
            f"{cls.__name__} takes no {' and no '.join(strange)}; it takes:"
            f" {', '.join(name for name in takes if name not in _OURS)}"
        )


_OURS = (
    "generator",
    "callback",
    "callback_steps",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "return_dict",
)
"""Arguments of pipelines that only nodes set."""


_NONE_LEFT = "no denoising step is left: use a larger 'strength' or more 'num_inference_steps'"


def _refuse_none(output: Any) -> None:
    """Refuse an empty batch: some pipelines return one when no step is left."""
    found = output.get("images") if isinstance(output, Mapping) else None
    if found is not None and not len(found):
        raise ValueError(_NONE_LEFT)


def _refuse_blackened(output: Any) -> None:
    for name, what in (
        ("nsfw_content_detected", "unsafe"),
        ("nsfw_detected", "unsafe"),
        ("watermark_detected", "watermarked"),
    ):
        hits = output.get(name) if isinstance(output, Mapping) else None
        if any(hits if isinstance(hits, Sequence) else [hits]):
            raise RuntimeError(
                f"the checkpoint's safety checker found the picture {what} and blackened it; try"
                " another seed or prompt"
            )


DRAWN = ("images", "frames", "image", "video", "videos", "rgb")
"""How pipelines name their images."""

ESTIMATED = ("depth", "prediction")
"""How they name estimates of what an image shows."""


def pictures(output: Any) -> list[Image]:
    """Return the images in a pipeline's output, those of a video one by one. Floats become 8 bits
    as in diffusers; estimates stay as they are.

    Raises:
        ValueError: there are none. The message says what there is.
    """
    import numpy as np

    given = (
        {name: value for name, value in output.items() if value is not None}
        if isinstance(output, Mapping)
        else {type(output).__name__: output}
    )
    images = [image for name in DRAWN if name in given for image in _drawn(given[name])]
    for values in [np.asarray(given[name], np.float32) for name in ESTIMATED if name in given]:
        # The directions of normals go from -1 to 1, all other estimates from 0 to 1.
        images += [
            Image((one + 1) / 2 if "Normals" in type(output).__name__ else one) for one in values
        ]
    if not images:
        raise ValueError(
            f"the pipeline gave no pictures but {', '.join(sorted(given)) or 'nothing'}"
        )
    return images


def _drawn(found: Any) -> Iterator[Image]:
    """Yield the images in lists and arrays of any depth, in order."""
    import numpy as np
    import PIL.Image
    import torch

    if isinstance(found, torch.Tensor):
        found = found.detach().float().cpu().movedim(-3, -1).numpy()
    if isinstance(found, PIL.Image.Image):
        yield Image.from_pil(found)
    elif isinstance(found, np.ndarray) and found.ndim == 3:
        yield unwrap_image(found) if found.dtype.kind == "f" else Image(found)
    elif isinstance(found, list | tuple) or (isinstance(found, np.ndarray) and found.ndim > 3):
        for one in found:
            yield from _drawn(one)
    else:
        raise ValueError(f"the pipeline gave no pictures but {type(found).__name__}")


def to_pil(value: Image | Mask, *, alpha: bool = False) -> Any:
    """Convert an image as pipelines take it: 8 bits, RGB; a mask as grey."""
    import PIL.Image

    if isinstance(value, Mask):
        return PIL.Image.fromarray(Image(value.pixels).as_uint8().pixels[:, :, 0])
    return value.to_pil() if alpha else value.rgb().to_pil()


class NoNumberError(ValueError):
    """Something computed NaN. Without a dtype, the message suggests another one."""

    def __init__(self, what: str, dtype: str = "") -> None:
        hint = (
            "a setting is out of bounds (a guidance_scale, a strength, the weight of an adapter),"
            " or what came in was"
            if dtype == "float32"
            else "say dtype: float32 (or bfloat16), half precision is too narrow for it"
        )
        super().__init__(f"{what} NaN; {hint}")
        self.what = what


@contextmanager
def explaining_nan(networks: Mapping[str, Any]) -> Iterator[None]:
    """Add to an error about NaN what the networks tell of its cause: their weights and dtype."""
    import torch

    try:
        yield
    except NoNumberError as error:
        if broken := without_numbers(networks):
            raise ValueError(
                f"{error.what} NaN, for its weights hold some: {broken}; copy or download the model"
                " again"
            ) from error
        computed = {
            dtype_of(network)
            for network in networks.values()
            if isinstance(network, torch.nn.Module)
        }
        raise (
            NoNumberError(error.what, "float32") if computed == {torch.float32} else error
        ) from None


def refuse_nan(values: torch.Tensor, what: str) -> None:
    """Report NaN where it appears, and not as a black image.

    Raises:
        NoNumberError: there is NaN.
    """
    import torch

    if not bool(torch.isfinite(values).all()):
        raise NoNumberError(what)


def encoded(tensors: Mapping[str, Any], tags: Mapping[str, str]) -> list[Tensor]:
    """Pack encoded text: each tensor is tagged with the argument of the pipeline that it is, or the
    item of one: ``prompt_embeds[0]``.
    """
    return [
        Tensor(tensor, {**tags, "is": name})
        for name, tensor in tensors.items()
        if tensor is not None
    ]


def read_encoded(
    text: Sequence[Tensor], *, family: str, by: str, like: Any = None
) -> dict[str, Any]:
    """Unpack encoded text, on the device and in the dtype of a module.

    Raises:
        ValueError: it was encoded for another family of models, or is not encoded text.
    """
    found: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    device, dtype = (device_of(like), dtype_of(like)) if like is not None else (None, None)
    for tensor in text:
        came = tensor.tags.get("family", "")
        if came != family or "is" not in tensor.tags:
            origin = f"were encoded for {came}" if came else "do not come from text.encode"
            raise ValueError(
                f"the text's states {origin}, and {by}'s model is of the family {family}: encode"
                " the text with the same model"
            )
        values = tensor.torch(device)
        if dtype is not None and values.is_floating_point():
            values = values.to(dtype)
            refuse_nan(values, "the text's states hold")
        name, listed, _ = tensor.tags["is"].partition("[")
        if listed:
            lists.setdefault(name, []).append(values)
        else:
            found[name] = values
    return found | lists


def unwrap_image(pixels: np.ndarray) -> Image:
    """Make an 8-bit picture of float32 (height, width, 3), 0 to 1, as diffusers makes its own."""
    import numpy as np

    if not np.isfinite(pixels).all():
        raise NoNumberError("the model gave")
    return Image((pixels * 255).round().astype(np.uint8))


def problem_of(model: Any, by: str, kind: str, takes: str, *, home: str = "") -> flow.ModelError:
    """Return an error: a node cannot use a model, what the model is, and which node takes it
    (`home` if no node is made for its kind).
    """
    from ..checkpoints.folder import with_article

    home = TAKEN_BY.get(
        kind,
        home
        or ("diffusion.text_to_image or diffusion.pipeline" if kind.endswith("Pipeline") else ""),
    )
    other = f"; {home} takes it" if home and home != by else ""
    return flow.ModelError(
        f"{by} cannot use the model '{model.reference}': it is {with_article(kind)}, and {by} takes"
        f" {takes}{other}"
    )


TAKEN_BY = {
    "BlipForConditionalGeneration": "image.caption",
    "FluxKontextPipeline": "image.edit",
    "FluxPriorReduxPipeline": "diffusion.tensors",
    "IFSuperResolutionPipeline": "diffusion.super_resolution",
    "ImagenCascade": "diffusion.base",
    "InstructPix2Pix": "image.edit",
    "QwenImageEditPipeline": "image.edit",
    "QwenImageEditPlusPipeline": "image.edit",
    "StableDiffusionInstructPix2PixPipeline": "image.edit",
    "StableDiffusionLatentUpscalePipeline": "image.upscale",
    "StableDiffusionUpscalePipeline": "image.upscale",
    "StableDiffusionXLInstructPix2PixPipeline": "image.edit",
    "Swin2SRForImageSuperResolution": "image.upscale",
    "IP-Adapter": "the port 'ip_adapters' of diffusion.text_to_image",
    "LoRA": "the port 'loras' of diffusion.text_to_image",
    "autoencoder alone": "the port 'autoencoder' of diffusion.text_to_image, beside a checkpoint,",
    "denoiser alone": "the port 'denoiser' of diffusion.text_to_image, beside a checkpoint,",
    "enlarging network": "image.upscale",
    "textual inversion": "the port 'embeddings' of diffusion.text_to_image",
    **dict.fromkeys(
        (
            "ControlNet in one file",
            "ControlNetModel",
            "ControlNetUnionModel",
            "FluxControlNetModel",
            "QwenImageControlNetModel",
            "SD3ControlNetModel",
            "SanaControlNetModel",
            "T2IAdapter",
        ),
        "the port 'controls' of diffusion.text_to_image",
    ),
}
"""The node that is made for a model of a kind, where it is not diffusion.text_to_image and its
like.
"""
