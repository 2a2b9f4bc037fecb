"""Keep what was quantized, so that later loads read a fraction of the weights and quantize nothing.

The libraries write and read it as any checkpoint that was saved quantized. Whether they read what
was quantized is not taken on trust: it is read back once and compared, bit by bit. What is not the
same is quantized at each load. int8 and float8 are the same with torchao 0.18, and nf4 of text
encoders with bitsandbytes 0.50.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_flow import loaders

if TYPE_CHECKING:
    from imagen_flow import Model

_UNREADABLE = "unreadable.txt"
"""Lies in the place of weights that the libraries do not read as they were."""


def kept_quantized(
    cls: Any,
    quantize: Callable[[], Any],
    read: Callable[[Path], Any],
    model: Model,
    part: str,
    *,
    device: str,
    dtype: str,
    quantization: str,
    variant: str,
) -> Path | None:
    """Return the folder where a part of a model lies quantized, after quantizing it if there is
    none; None if it cannot be kept.

    Params:
        quantize: loads the part from its own folder.
        read: loads it from the folder where it is kept.
        variant: which of the copies of the weights are read.
    """

    def make(folder: Path) -> None:
        module = quantize()
        before = _look(module)
        try:
            module.save_pretrained(str(folder), max_shard_size="1TB")
            del module
            problem = "" if _look(read(folder)) == before else "other weights"
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            problem = f"{type(error).__name__}: {error}"
        except Exception as error:  # a full disk, too little memory: another time it may do
            raise OSError(f"{type(error).__name__}: {error}") from error
        if problem:
            for file in folder.iterdir():
                file.unlink()
            (folder / _UNREADABLE).write_text(f"{problem}\n", encoding="utf-8")

    folder = loaders.derived_folder(
        model,
        make,
        of={
            "what": "quantized weights",
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "part": part,
            "variant": variant,
            "quantization": quantization,
            "device": device.partition(":")[0],
            "dtype": dtype,
        },
        part=part,
        libraries=("torch", "diffusers", "transformers", loaders.QUANTIZERS[quantization]),
    )
    return folder if folder is not None and not (folder / _UNREADABLE).exists() else None


def without_gradients(module: Any) -> Any:
    """Let the quantized weights of a module need no gradients, as those that were quantized just
    now: torch may choose other kernels for those that do.
    """
    for weight in module.parameters():
        if hasattr(weight, "__tensor_flatten__"):
            weight.requires_grad_(False)
    return module


def _look(module: Any) -> dict[str, tuple[Any, ...]]:
    """Describe all weights of a module, down to the bits."""
    found: dict[str, tuple[Any, ...]] = {}
    pending = [*module.named_parameters(), *module.named_buffers()]
    while pending:
        name, tensor = pending.pop()
        kind = (type(tensor).__name__, str(tensor.dtype), tensor.requires_grad)
        if hasattr(tensor, "__tensor_flatten__"):
            names, context = tensor.__tensor_flatten__()
            pending += [(f"{name}.{inner}", getattr(tensor, inner)) for inner in names]
            found[name] = (*kind, repr(context))
        else:
            found[name] = (*kind, tuple(tensor.shape), tensor.stride(), _digest(tensor))
        if (state := getattr(tensor, "quant_state", None)) is not None:  # bitsandbytes'
            pending += [
                (f"{name}.quant_state.{inner}", value)
                for inner, value in state.as_dict(packed=True).items()
                if hasattr(value, "untyped_storage")
            ]
    return found


def _digest(tensor: Any) -> str:
    import torch

    plain = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return blake2b(plain.numpy().data, digest_size=16).hexdigest()
