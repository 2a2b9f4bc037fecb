"""Load a part of a checkpoint from a file in the names of its first authors: diffusers knows how
these translate, and what it would fetch besides is given.
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
    translates it; refuse it if weights are missing, or are of another kind of model.

    Params:
        beginning: what the names of the part's tensors in the file begin with; of other tensors
            nothing is read.
        like, part: the checkpoint's folder whose `part` has the configuration.
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
    ) as odd:
        why = translated(cls, _configuration(like, part), _named(cls, _shapes(file, beginning)))
        if isinstance(odd, KeyError) and isinstance(odd.args[0], str) and "." in odd.args[0]:
            why = why or f"it lacks {odd.args[0]}"
        elif isinstance(odd, NotImplementedError):  # torch's word for weights that never came
            why = why or "some of its weights are missing"
        elif isinstance(odd, RuntimeError) and not why:
            raise
        raise flow.ModelError(
            f"{file.name} holds no {part} that fits the model '{of}':"
            f" {why or f'its weights are of another kind or shape ({type(odd).__name__}: {plain(odd)})'}"
        ) from odd
    # diffusers took out of it what it needed; the rest would be kept beside the module
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
        # diffusers drops what it has no place for, as guidance of a larger kind.
        raise flow.ModelError(
            f"{file.name} holds no {part} that fits the model '{of}': it has {more:,} numbers for"
            " which this model has no place"
        )
    # The weights go on asking for gradients, as the libraries leave them: where none does, torch
    # multiplies otherwise on the CPU, and a picture would differ from theirs by a level.
    settings = settings or loaders.Loading()
    if file.suffix.lower() == ".gguf" and settings.offload == "layers":
        # accelerate makes layers' weights anew when they come and go, and does not know how GGUF's
        # are made.
        settings = settings._replace(offload="model")
    return loaders.place_module(module.eval(), device=device, settings=settings)


def _configuration(like: Path, part: str) -> dict[str, Any]:
    try:
        return dict(json.loads((like / part / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _shapes(file: Path, beginning: str) -> dict[str, Any]:
    """Give the tensors of a part of a file as their shapes alone."""
    import torch

    return {
        name: torch.empty(entry["shape"], device="meta")
        for name, entry in header_of(flow.Model(file)).items()
        if name.startswith(beginning)
    }


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep diffusers from warning that it casts what no module forbids to cast."""
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
    """Write before the names of a UNet what its authors did where it is part of a checkpoint:
    diffusers knows them by that alone.
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
    """Read the tensors of a file whose names begin so."""
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
    """Count the numbers that a tensor stands for: GGUF packs them in blocks of bytes."""
    if (kind := getattr(tensor, "quant_type", None)) is None:
        return int(tensor.numel())
    import gguf

    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return int(tensor.numel()) // size * numbers
