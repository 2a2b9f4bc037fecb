"""Load denoisers and text encoders with quantized weights, as diffusers and transformers have it
done by torchao and bitsandbytes.

- ``int8``: torchao, on all devices. The error of one layer is 0.4 %, a weight takes 1 byte (and a
  row 5).
- ``float8``: torchao, on the CPU and on CUDA from compute capability 8.9. Error 2.6 %, 1 byte (and
  4 a row).
- ``int4``: torchao, on CUDA from 8.0, only in bfloat16. 0.5 bytes, and 4 for each 128; rows are
  padded to a multiple of 1024.
- ``nf4``: bitsandbytes, on CUDA. Error 9.2 %, 0.56 bytes.

The errors were measured at 1280 × 1280 with normally distributed weights. Only the weights of
linear layers are quantized; computing is done in the dtype of the rest. Under ``int4``, a layer
whose rows are not a multiple of 128 long is not quantized.

Parts from one file of weights are refused: ``from_single_file`` takes torchao's configuration and
silently ignores it. Autoencoders, safety checkers and image encoders are never quantized: they are
small compared with the rest (a fiftieth of FLUX) and mostly convolutions, and an autoencoder's loss
shows in every pixel. bitsandbytes' layers do run on a CPU, but diffusers refuses them there, and
they fail on layers less than 64 wide.
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
"""The library that reads a part saved quantized, module and distribution, by the method that its
configuration names. For other methods (nunchaku_lite) the libraries may download code and run it.
"""


def check_quantizing(
    model: Model,
    parts: Mapping[str, tuple[str, Mapping[str, Any]]],
    *,
    device: str,
    dtype: str,
    settings: loaders.Loading,
) -> None:
    """Refuse what cannot be loaded. Does not import torch.

    Params:
        parts: of the model, each with the library of its class (``diffusers``, ``transformers``)
            and its configuration.
    Raises:
        ModelError: a library is missing, or the device or dtype cannot do it.
    """
    saved = {
        part: (library, method)
        for part, (library, config) in parts.items()
        if (method := saved_as(config))
    }
    for part, (library, method) in saved.items():
        check_saved(model, part, library, method, device)
    if saved.keys() != parts.keys() and settings.quantization != "none":
        _check_fresh(model, device, dtype, settings)


def saved_as(config: Mapping[str, Any]) -> str:
    """Return the method by which a part was quantized before it was saved, by its configuration;
    empty if it was not.
    """
    saved = config.get("quantization_config")
    if not isinstance(saved, dict) or not saved:
        return ""
    return str(saved.get("quant_method", "bitsandbytes"))


def check_saved(model: Model, part: str, library: str, method: str, device: str) -> None:
    """Refuse a part that was saved quantized if it cannot be read, or only by code that the user
    did not allow.

    Raises:
        ModelError: a library is missing, diffusers does not load it on this device, or code would
            come from the hub.
    """
    problem = f"the {part} of the model '{model.reference}' is quantized ({method})"
    if method not in READERS:
        if not model.remote_code:
            raise flow.ModelError(
                f"{problem}, and what reads that may be code from the hub, which runs only if you"
                f" pass --trust-remote-code {model.reference}"
            )
        return
    module, name = READERS[method]
    if find_spec(module) is None:
        raise flow.ModelError(f"{problem}, and the library {name} is not installed: {_how(name)}")
    if method == "bitsandbytes" and device == "cpu" and library == "diffusers":
        raise flow.ModelError(f"{problem}, and diffusers loads that on a GPU alone")


def _check_fresh(model: Model, device: str, dtype: str, settings: loaders.Loading) -> None:
    name = settings.quantization
    kind = device.partition(":")[0]
    problem = f"the model '{model.reference}' cannot be loaded with quantization: {name}"
    if find_spec(loaders.QUANTIZERS[name]) is None:
        raise flow.ModelError(
            f"{problem}, for the library {loaders.QUANTIZERS[name]} is not installed:"
            f" {_how(loaders.QUANTIZERS[name])}"
        )
    if name in ("int4", "nf4") and kind != "cuda":
        raise flow.ModelError(
            f"{problem} on {device}: {loaders.QUANTIZERS[name]}'s kernels for it are CUDA's; int8"
            " runs here"
        )
    if name == "float8" and kind == "mps":
        raise flow.ModelError(
            f"{problem} on {device}: Metal has no 8-bit floats; int8 runs here, and takes as much"
            " memory"
        )
    if name == "int4" and dtype != "bfloat16":
        raise flow.ModelError(
            f"{problem} in {dtype}: torchao's kernel computes in bfloat16 alone; say dtype:"
            " bfloat16"
        )
    if name == "nf4" and settings.offload == "layers":
        raise flow.ModelError(
            f"{problem} and offload: layers: bitsandbytes' weights do not come and go one by one;"
            " say offload: model"
        )
    least = {"int4": (8, 0), "float8": (8, 9)}.get(name)
    if kind == "cuda" and least and (has := loaders.compute_capability(device)) and has < least:
        raise flow.ModelError(
            f"{problem} on {device}: it needs a GPU of compute capability {least[0]}.{least[1]},"
            f" and this one has {has[0]}.{has[1]}; int8 runs here"
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
    """Return the arguments of ``from_pretrained`` that quantize a part, unless it was saved so, and
    put it on its device: for a GPU it is quantized there.

    Source: diffusers' and transformers' ``TorchAoConfig`` and ``BitsAndBytesConfig``.
    """
    saved = bool(saved_as(config))
    asked = settings.quantization if settings is not None and not saved else "none"
    if asked == "none" and not saved:
        return {}
    given: dict[str, Any] = {} if device == "cpu" else {"device_map": {"": device}}
    return given if saved else {**given, "quantization_config": _config(cls, asked, dtype)}


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
