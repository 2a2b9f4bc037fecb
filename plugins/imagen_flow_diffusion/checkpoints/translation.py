"""Load a part of a checkpoint from a file whose tensors have the names of the first authors.
diffusers translates them; the configuration that it would download is passed to it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagen_flow as flow
from imagen_flow import loaders

from .diagnosing import plain, translated
from .folder import quiet
from .placing import place
from .scales import unscaled
from .single_file import header_of


def load_from_file(
    cls: Any,
    file: Path,
    beginning: str,
    *,
    like: Path,
    part: str,
    of: str,
    device: str,
    dtype: str,
    settings: loaders.Loading | None = None,
) -> Any:
    """Load one part of a checkpoint from a file that holds it, alone or among others, as diffusers
    translates it. It is refused if weights are missing or belong to another kind of model.

    Params:
        beginning: the prefix of the names of the part's tensors in the file. Other tensors are not
            read.
        like, part: the folder of the checkpoint whose `part` has the configuration.
        of: the model's reference, for messages.
    Source: ``from_single_file``, and what it calls for text encoders.
    """
    import torch
    from diffusers.loaders import single_file_utils as conversion

    given = {"config": str(like), "subfolder": part, "local_files_only": True}
    in_dtype = getattr(torch, dtype)
    try:
        held = (
            {}
            if file.suffix.lower() == ".gguf"
            else _named(cls, unscaled(read_tensors(file, beginning), in_dtype))
        )
        numbers = sum(tensor.numel() for tensor in held.values()) if held else _count(file)
        with quiet(), _hushed():
            if file.suffix.lower() == ".gguf":
                from diffusers import GGUFQuantizationConfig

                module = cls.from_single_file(
                    str(file),
                    quantization_config=GGUFQuantizationConfig(compute_dtype=in_dtype),
                    dtype=in_dtype,
                    **given,
                )
            elif hasattr(cls, "from_single_file"):
                module = cls.from_single_file(held, dtype=in_dtype, **given)
            elif cls.__name__.startswith("CLIPText"):
                module = conversion.create_diffusers_clip_model_from_ldm(
                    cls, held, torch_dtype=in_dtype, **given
                )
            elif cls.__name__ == "T5EncoderModel":
                module = conversion.create_diffusers_t5_model_from_checkpoint(
                    cls, held, torch_dtype=in_dtype, **given
                )
                module.tie_weights()
            else:
                raise ValueError(f"no file holds a {cls.__name__} that diffusers could read")
    except (
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        conversion.SingleFileComponentError,
    ) as error:
        why = translated(cls, _configuration(like, part), _named(cls, _shapes(file, beginning)))
        if isinstance(error, KeyError) and isinstance(error.args[0], str) and "." in error.args[0]:
            why = why or f"it lacks {error.args[0]}"
        elif isinstance(
            error, NotImplementedError
        ):  # torch raises it for weights on the meta device
            why = why or "some of its weights are missing"
        elif isinstance(error, RuntimeError) and not why:
            raise
        other = f"its weights are of another kind or shape ({type(error).__name__}: {plain(error)})"
        raise flow.ModelError(
            f"{file.name} holds no {part} that fits the model '{of}': {why or other}"
        ) from error
    # diffusers has taken what it needs; the rest would stay in memory
    held.clear()
    state = module.state_dict()
    if missing := sorted(name for name, tensor in state.items() if tensor.is_meta):
        raise flow.ModelError(
            f"{file.name} holds no {part} that fits the model '{of}': it lacks {len(missing)}"
            f" weights, {missing[0]} first"
        )
    if (
        part.startswith(("unet", "transformer"))
        and (more := numbers - sum(_numbers(tensor) for tensor in state.values())) > 0
    ):
        # diffusers silently drops weights that the model has no place for.
        raise flow.ModelError(
            f"{file.name} holds no {part} that fits the model '{of}': it has {more:,} numbers for"
            " which this model has no place"
        )
    # The weights still require gradients, as the libraries leave them: without, torch multiplies
    # differently on the CPU, and an image would differ from theirs by a level.
    settings = settings or loaders.Loading()
    if file.suffix.lower() == ".gguf" and settings.offload == "layers":
        # accelerate recreates the weights of layers when it moves them, and cannot recreate GGUF's.
        settings = settings._replace(offload="model")
    return place(module.eval(), device=device, settings=settings)


def _configuration(like: Path, part: str) -> dict[str, Any]:
    try:
        return dict(json.loads((like / part / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _shapes(file: Path, beginning: str) -> dict[str, Any]:
    """Return the tensors of a part of a file without their data."""
    import torch

    return {
        name: torch.empty(entry["shape"], device="meta")
        for name, entry in header_of(flow.Model(file)).items()
        if name.startswith(beginning)
    }


@contextmanager
def _hushed() -> Iterator[None]:
    """Filter a warning of diffusers that it keeps no module in float32."""
    logger, told = (
        logging.getLogger("diffusers.models.modeling_utils"),
        lambda record: "kept in float32: []" not in record.getMessage(),
    )
    logger.addFilter(told)
    try:
        yield
    finally:
        logger.removeFilter(told)


def _named(cls: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Add the prefix to the names of a UNet that its authors use in a checkpoint: diffusers
    recognises them only by that.
    """
    bare = cls.__name__ == "UNet2DConditionModel" and any(
        name.startswith("input_blocks.") for name in tensors
    )
    return (
        {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
        if bare
        else tensors
    )


def read_tensors(file: Path, beginning: str) -> dict[str, Any]:
    """Read the tensors of a file whose names have a prefix."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as held:
        # Marks without numbers (``v_pred``) are no weights.
        return {
            name: held.get_tensor(name)
            for name in held.keys()  # noqa: SIM118 - it is not a mapping
            if name.startswith(beginning) and 0 not in held.get_slice(name).get_shape()
        }


def _count(file: Path) -> int:
    """Count the numbers that a GGUF file holds."""
    import gguf

    return sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(file).tensors)


def _numbers(tensor: Any) -> int:
    """Count the numbers in a tensor: GGUF packs them in blocks of bytes."""
    if (kind := getattr(tensor, "quant_type", None)) is None:
        return int(tensor.numel())
    import gguf

    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return int(tensor.numel()) // size * numbers
