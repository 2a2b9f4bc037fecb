"""Load one part of a checkpoint's folder through the library's own class.

The caller decides which class that is: a ``model_index.json`` comes from a stranger and may name
any class of any module.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.loaders import read_json

from .diagnosing import misfit, plain
from .kept_weights import kept_quantized, without_gradients
from .placing import group_device, place
from .quantizing import arguments, check_saved, saved_as
from .scales import scale_among
from .single_file import header_of

if TYPE_CHECKING:
    from imagen_flow import Model

#: Networks have some dozens.
MAX_LAYERS = 1000

_COUNTS = re.compile(r"^(num|n)_\w*(layers?|blocks?)$|layers_per_block$|^(depths?|layers)$")


def with_article(thing: str) -> str:
    """Put *a* or *an* before a name."""
    return f"{'an' if thing[0] in 'AEIOUaeio' else 'a'} {thing}"


def folder_of(model: Model, part: str) -> str:
    """Return the folder of a part in a checkpoint: one of its name, or in early checkpoints, as
    diffusers reads them, that of all parts.
    """
    return part if (model.folder / part).is_dir() else "."


def load_part(
    cls: Any,
    model: Model,
    part: str,
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading | None = None,
) -> Any:
    """Load a module from a part's folder, ready for inference and quantized if the settings say so.
    It is refused if weights are missing: both libraries fill them with random numbers and only
    warn.
    """
    import torch

    name = folder_of(model, part)
    folder = model.folder / name
    if not (folder / "config.json").is_file():
        raise flow.ModelError(f"the model '{model.reference}' has no {part}")
    config = read_json(model, f"{name}/config.json")
    _check_counts(model, f"{name}/config.json", config)
    if method := saved_as(config):
        check_saved(
            model, part or model.path.name, cls.__module__.partition(".")[0], method, device
        )
    else:
        refuse_scaled(model, part)
    given = arguments(cls, config, device=device, dtype=dtype, settings=settings)

    def read(folder: Path, **more: Any) -> tuple[Any, Any]:
        return cls.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
            **more,
        )

    def read_own() -> tuple[Any, Any]:
        safe = not any(name.startswith(f"{part}/") for name in model.pickles)
        return read(folder, use_safetensors=safe, **_variant(model, part, dtype), **given)

    def read_kept(folder: Path) -> tuple[Any, Any]:
        kept = {name: value for name, value in given.items() if name != "quantization_config"}
        module, info = read(folder, use_safetensors=True, **kept)
        return without_gradients(module), info

    try:
        with quiet():
            kept = (
                kept_quantized(
                    cls,
                    lambda: _whole(*read_own(), model, part),
                    lambda folder: read_kept(folder)[0],
                    model,
                    part,
                    device=device,
                    dtype=dtype,
                    quantization=settings.quantization,
                    variant=str(_variant(model, part, dtype)),
                )
                if settings is not None and "quantization_config" in given
                else None
            )
            module = _whole(*(read_kept(kept) if kept is not None else read_own()), model, part)
    except flow.ModelError:
        raise
    except Exception as error:
        files = sorted(folder.glob("*.safetensors"))
        if saved_as(config) or not (
            why := misfit(
                cls,
                config,
                {
                    name: entry["shape"]
                    for file in files
                    for name, entry in header_of(model, file).items()
                },
            )
        ):
            raise
        raise flow.ModelError(
            f"the {part or 'network'} of the model '{model.reference}' cannot be loaded from"
            f" {files[0].name if files else name}: {why}"
        ) from error
    # The weights require gradients, as those that diffusers loads: with weights that do not, torch
    # multiplies in another order, and the last bits differ.
    return place(module.eval(), device=device, settings=settings or loaders.Loading())


def _whole(module: Any, info: Mapping[str, Any], model: Model, part: str) -> Any:
    """Return a module that was loaded, unless weights are missing."""
    if missing := sorted(info["missing_keys"]):
        raise flow.ModelError(
            f"the model '{model.reference}' is not whole: {part} lacks {len(missing)} weights,"
            f" {missing[0]} first"
        )
    return module


def refuse_scaled(model: Model, part: str) -> None:
    """Refuse a part whose weights are 8-bit floats with scales, or integers, unless its
    configuration says so: the libraries would read the numbers as they are.

    Raises:
        ModelError: it is such a part; the message names the file.
    """
    for file in sorted((model.folder / folder_of(model, part)).glob("*.safetensors")):
        if what := _quantized_in(header_of(model, file)):
            raise flow.ModelError(
                f"the {part or 'weights'} of the model '{model.reference}' cannot be read:"
                f" {file.name} holds {what}, and no quantization_config says so; take it in 16"
                " bits, or as one file of weights"
            )


def _quantized_in(header: Mapping[str, Any]) -> str:
    if whole := next(
        (
            name
            for name, entry in header.items()
            if name.endswith(".weight")
            and len(entry["shape"]) > 1
            and str(entry["dtype"])[0] in "IU"
        ),
        "",
    ):
        return f"weights of whole numbers ({whole})"
    scale = (
        scale_among(header)
        if any(str(entry["dtype"]).startswith("F8") for entry in header.values())
        else ""
    )
    return f"8-bit floats with scales beside them ({scale})" if scale else ""


def _check_counts(model: Model, name: str, config: Any) -> None:
    """Refuse a configuration with absurdly many layers: making them, even without weights, would
    never end.
    """
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            _check_counts(model, name, value)
        for count in value if isinstance(value, list) else [value]:
            if _COUNTS.search(key) and type(count) is int and not 0 <= count <= MAX_LAYERS:
                raise flow.ModelError(
                    f"the model '{model.reference}' is damaged: {name} says {key} = {count}"
                )


def device_of(module: Any) -> Any:
    """Return the device that a module runs on; for an offloaded one, the device it is moved to."""
    if hasattr(module, "_hf_hook"):
        for part in module.modules():
            if (
                device := getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            ) is not None:
                return device
    if (device := group_device(module)) is not None:
        return device
    weight = next(module.parameters(), None)
    return module.device if weight is None else weight.device


def dtype_of(module: Any) -> Any:
    """Return the dtype that a module computes in: its ``dtype``, without going through all weights.
    Some quantized weights have the dtype that they were quantized from; then a weight that was not
    quantized decides.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        return next(
            (
                weight.dtype
                for weight in module.parameters()
                if weight.is_floating_point() and not hasattr(weight, "__tensor_flatten__")
            ),
            module.dtype,
        )
    weight = next(module.parameters(), None)
    if (
        weight is None
        or weight.dtype.itemsize < 2
        or not weight.is_floating_point()
        or getattr(module, "_keep_in_fp32_modules", None)
    ):
        return module.dtype
    return weight.dtype


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from drawing their own progress bars over the run's."""
    import diffusers.utils.logging  # noqa: F401  # only what is imported can be silenced
    import transformers.utils.logging  # noqa: F401

    with loaders.quiet_libraries():
        yield


def _variant(model: Model, part: str, dtype: str) -> dict[str, str]:
    """Choose the variant of the weights: the one that is locked; else the half-precision files if
    they are wanted, or the only ones.
    """
    files = [path.name for path in (model.folder / folder_of(model, part)).glob("*.safetensors")]
    if model.variant is not None:
        return (
            {"variant": model.variant}
            if model.variant
            and any(f".{model.variant}." in name or f".{model.variant}-" in name for name in files)
            else {}
        )
    halves = [name for name in files if ".fp16." in name]
    return (
        {"variant": "fp16"} if halves and (dtype == "float16" or len(halves) == len(files)) else {}
    )


def load_scheduler(model: Model, part: str) -> Any:
    """Load the sampler that a checkpoint names, if it is one of diffusers'."""
    import diffusers.schedulers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    config = read_json(model, f"{folder_of(model, part)}/scheduler_config.json")
    name = config.get("_class_name")
    cls = (
        getattr(diffusers.schedulers, name, None)
        if isinstance(name, str) and name.isidentifier()
        else None
    )
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise flow.ModelError(
            f"the model '{model.reference}' names no sampler of diffusers in {part}, but {name!r}"
        )
    sampler: Any = cls
    try:
        # The configuration is shared, and a sampler keeps the lists in it: give it a copy.
        return sampler.from_config(copy.deepcopy(config))
    except (
        TypeError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        AttributeError,
    ) as error:
        raise flow.ModelError(
            f"the model '{model.reference}' is damaged: {part}/scheduler_config.json makes no"
            f" {name} ({plain(error)})"
        ) from error


def fresh(scheduler: Any) -> Any:
    """Return a copy of a sampler: loaded models are shared, and a sampler keeps state while it
    runs.
    """
    return type(scheduler).from_config(scheduler.config)
