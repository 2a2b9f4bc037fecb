"""Load what takes the noise away, and what reads the words, with weights of fewer bits, as
diffusers and transformers have it done by the libraries torchao and bitsandbytes.

=========== ============== ==========================================
===============================================================================
setting     library        where it runs                              the error of one layer, and
bytes a weight (measured at 1280 × 1280, normal weights)
=========== ============== ==========================================
===============================================================================
``int8``    torchao        everywhere                                 0.4 %; 1 (and 5 a row)
``float8``  torchao        the CPU; CUDA from compute capability 8.9  2.6 %; 1 (and 4 a row)
``int4``    torchao        CUDA from 8.0, in bfloat16 alone           0.5 and 4 for each 128; rows
are filled up to a multiple of 1024
``nf4``     bitsandbytes   CUDA                                       9.2 %; 0.56
=========== ============== ==========================================
===============================================================================

Only the weights are quantized, and only of linear layers; it is computed in the dtype of the rest.
A layer whose rows are no multiple of 128 long stays as it is under ``int4``.
What comes from one file of weights is not quantized: ``from_single_file`` takes a configuration of
    torchao and leaves the weights as they are, without a word, so it is refused.
Autoencoders, safety checkers and image encoders are never quantized: they are small beside the
others (a fiftieth of FLUX), mostly convolutions, and what an autoencoder loses is seen in every
pixel.
bitsandbytes' layers do run on a CPU, but diffusers refuses them there, and they fail on layers less
than 64 wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow import loaders

if TYPE_CHECKING:
    from imagen_flow import Model

READERS = {
    "auto-round": ("auto_round", "auto-round"),
    "bfl": ("accelerate", "accelerate"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "modelopt": ("modelopt", "nvidia-modelopt"),
    "quanto": ("optimum", "optimum-quanto"),
    "sdnq": ("sdnq", "sdnq"),
    "torchao": ("torchao", "torchao"),
}
"""What reads a part that was saved quantized, module and distribution, by the method that its configuration names. Others may be read with code that the libraries fetch from the hub and run (nunchaku_lite)."""


def check_quantizing(
    model: Model,
    parts: Mapping[str, tuple[str, Mapping[str, Any]]],
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading,
) -> None:
    """Refuse what cannot be loaded, without torch.

    Params:
        parts: of the model, each with the library of its class (``diffusers``, ``transformers``)
            and its configuration.
    Raises:
        ModelError: a library is missing, or the device or dtype cannot do it.
    """
    saved = {
        part: (library, said)
        for part, (library, config) in parts.items()
        if (said := saved_as(config))
    }
    for part, (library, said) in saved.items():
        check_saved(model, part, library, said, device)
    if saved.keys() != parts.keys() and settings.quantization != "none":
        _check_fresh(model, device, dtype, settings)


def saved_as(config: Mapping[str, Any]) -> str:
    """Say how a part was quantized before it was saved, by its configuration; nothing if it was
    not.
    """
    said = config.get("quantization_config")
    return str(said.get("quant_method", "bitsandbytes")) if isinstance(said, dict) and said else ""


def check_saved(model: Model, part: str, library: str, method: str, device: str) -> None:
    """Refuse a part that was saved quantized where it cannot be read, or not without code that the
    user did not allow.

    Raises:
        ModelError: a library is missing, diffusers does not load it on this device, or code would
            come from the hub.
    """
    said = f"the {part} of the model '{model.reference}' is quantized ({method})"
    if method not in READERS:
        if not model.remote_code:
            raise flow.ModelError(
                f"{said}, and what reads that may be code from the hub, which runs only if you say"
                f" --trust-remote-code {model.reference}"
            )
        return
    module, name = READERS[method]
    if find_spec(module) is None:
        raise flow.ModelError(f"{said}, and the library {name} is not installed: {_how(name)}")
    if method == "bitsandbytes" and device == "cpu" and library == "diffusers":
        raise flow.ModelError(f"{said}, and diffusers loads that on a GPU alone")


def _check_fresh(model: Model, device: str, dtype: str, settings: loaders.Loading) -> None:
    name = settings.quantization
    kind, said = (
        device.partition(":")[0],
        f"the model '{model.reference}' cannot be loaded with quantization: {name}",
    )
    if find_spec(loaders.QUANTIZERS[name]) is None:
        raise flow.ModelError(
            f"{said}, for the library {loaders.QUANTIZERS[name]} is not installed:"
            f" {_how(loaders.QUANTIZERS[name])}"
        )
    if name in ("int4", "nf4") and kind != "cuda":
        raise flow.ModelError(
            f"{said} on {device}: {loaders.QUANTIZERS[name]}'s kernels for it are CUDA's; int8 runs"
            " here"
        )
    if name == "float8" and kind == "mps":
        raise flow.ModelError(
            f"{said} on {device}: Metal has no 8-bit floats; int8 runs here, and takes as much"
            " memory"
        )
    if name == "int4" and dtype != "bfloat16":
        raise flow.ModelError(
            f"{said} in {dtype}: torchao's kernel computes in bfloat16 alone; say dtype: bfloat16"
        )
    if name == "nf4" and settings.offload == "layers":
        raise flow.ModelError(
            f"{said} and offload: layers: bitsandbytes' weights do not come and go one by one; say"
            " offload: model"
        )
    least = {"int4": (8, 0), "float8": (8, 9)}.get(name)
    if kind == "cuda" and least and (has := loaders.compute_capability(device)) and has < least:
        raise flow.ModelError(
            f"{said} on {device}: it needs a GPU of compute capability {least[0]}.{least[1]}, and"
            f" this one has {has[0]}.{has[1]}; int8 runs here"
        )


def _how(name: str) -> str:
    return (
        "pip install 'imagen-flow[quantization]'"
        if name in loaders.QUANTIZERS.values()
        else f"pip install {name}"
    )


def arguments(
    cls: Any,
    config: Mapping[str, Any],
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading | None,
) -> dict[str, Any]:
    """Give ``from_pretrained`` what it needs besides: how to quantize a part that is not yet, and
    where, for on a GPU it is quantized there.

    Source: diffusers' and transformers' ``TorchAoConfig`` and ``BitsAndBytesConfig``.
    """
    saved = bool(saved_as(config))
    asked = settings.quantization if settings is not None and not saved else "none"
    if asked == "none" and not saved:
        return {}
    place: dict[str, Any] = {} if device == "cpu" else {"device_map": {"": device}}
    return place if saved else {**place, "quantization_config": _config(cls, asked, dtype)}


def _config(cls: Any, asked: str, dtype: str) -> Any:
    import diffusers
    import torch
    import transformers

    home: Any = transformers if issubclass(cls, transformers.PreTrainedModel) else diffusers
    if asked == "nf4":
        return home.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
    )

    # Left to themselves they also tune torch's compiler, for the whole process.
    plain = {"set_inductor_config": False}
    if asked == "int4":
        # The packing that torch's own kernel reads; the usual one wants a further library, and
        # compute capability 9.0.
        return home.TorchAoConfig(
            Int4WeightOnlyConfig(**plain, int4_packing_format="tile_packed_to_4d")
        )
    return home.TorchAoConfig(
        {"int8": Int8WeightOnlyConfig, "float8": Float8WeightOnlyConfig}[asked](**plain)
    )
