"""Explain why weights and a configuration do not make a network: which tensor is missing, has
another shape, or holds NaN. The libraries explain it badly, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ABOVE = re.compile(r"^(text_model|transformer|model)\.")
"""Prefixes that some versions of a class write before the names of all weights."""


def misfit(cls: Any, config: Mapping[str, Any], held: Mapping[str, Sequence[int]]) -> str:
    """Compare the tensors of a file with those that a class makes of a configuration, and describe
    the difference; empty if none is found.

    Params:
        held: the shapes of the file's tensors by name, as the class names them.
    """
    try:
        wanted = {
            _ABOVE.sub("", name): list(tensor.shape)
            for name, tensor in _empty(cls, config).state_dict().items()
        }
    except Exception as error:  # the libraries raise anything for a configuration without sense
        return f"its config.json makes no {cls.__name__} ({plain(error)})"
    found = {_ABOVE.sub("", name): list(shape) for name, shape in held.items()}
    if other := sorted(
        name for name in wanted.keys() & found.keys() if wanted[name] != found[name]
    ):
        more = f", the first of {len(other)}" if len(other) > 1 else ""
        return (
            f"its {other[0]} has the shape {found[other[0]]}, where config.json makes"
            f" {wanted[other[0]]}{more}"
        )
    lacking = sorted(wanted.keys() - found.keys())
    if lacking and 2 * len(lacking) < len(wanted):
        return f"it lacks {len(lacking)} weights, {lacking[0]} first"
    return ""


def translated(cls: Any, config: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """Do the same for a file in the names of its authors, as diffusers translates them."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    if any(_ABOVE.sub("", name) in held for name in _names(cls, config)):
        return misfit(cls, config, {name: list(tensor.shape) for name, tensor in held.items()})
    translate = SINGLE_FILE_LOADABLE_CLASSES.get(cls.__name__, {}).get("checkpoint_mapping_fn")
    if translate is None:
        return ""
    try:
        return misfit(
            cls,
            config,
            {
                name: list(tensor.shape)
                for name, tensor in translate(config=config, checkpoint=dict(held)).items()
            },
        )
    except KeyError as lacking:
        return (
            f"it lacks {lacking.args[0]}"
            if isinstance(lacking.args[0], str) and "." in lacking.args[0]
            else ""
        )
    except Exception:  # a file of another kind may do anything to it
        return ""


def without_numbers(networks: Mapping[str, Any]) -> str:
    """Name the first weight of these networks that is not finite; empty if all are."""
    import torch

    for part, network in networks.items():
        for name, weight in (
            network.named_parameters() if isinstance(network, torch.nn.Module) else ()
        ):
            if (
                weight.is_floating_point()
                and weight.dtype.itemsize > 1
                and weight.device.type != "meta"
                and not bool(torch.isfinite(weight).all())
            ):
                return f"{name} of its {part}"
    return ""


def plain(error: BaseException) -> str:
    """Return what a library says, without its advice on calling it differently."""
    message = " ".join(str(error).split())
    return re.sub(
        r"torch\.Size\((\[[\d, ]*\])\)",
        r"\1",
        re.split(r"\. (?:If you want|For more information|Please)|For details look", message)[0],
    )[:200]


def _names(cls: Any, config: Mapping[str, Any]) -> Sequence[str]:
    try:
        return list(_empty(cls, config).state_dict())
    except Exception:  # as above; whoever loads it says so
        return []


def _empty(cls: Any, config: Mapping[str, Any]) -> Any:
    """Make a network without weights, on the meta device."""
    import torch

    with torch.device("meta"):
        return (
            cls.from_config(dict(config))
            if hasattr(cls, "from_config")
            else cls(cls.config_class.from_dict(dict(config)))
        )
