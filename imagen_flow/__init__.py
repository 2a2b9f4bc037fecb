"""imagen_flow: the build system for generative pictures.

This is the one front door: what a plugin or a script may import stands here. Names are imported when they are first used, so that ``import imagen_flow``
costs a few milliseconds and never loads torch.

For users: `load`, `plan`, `run`, `execute`, `watch`. For plugin authors: `node`, `hookimpl` and the types of ports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import execute, load, plan, run
    from .codec import Codec
    from .devices import QUANTIZERS, compute_capability
    from .errors import (
        Cancelled,
        GraphError,
        ImagenFlowError,
        Mark,
        ModelError,
        NodeError,
        OutputError,
        Problem,
        ProvenanceError,
        StoreError,
    )
    from .hookspecs import hookimpl
    from .models.estimates import size_of
    from .models.placing import at_rest, place_module
    from .models.quiet import quiet_libraries
    from .models.references import UnresolvedModel
    from .models.tensors import read_weights
    from .node import node
    from .values import (
        Absent,
        Audio,
        Base,
        Bool,
        Device,
        File,
        Folder,
        Image,
        Json,
        List,
        Loading,
        Mask,
        Model,
        Number,
        Progress,
        Range,
        Rungs,
        Scratch,
        Seed,
        Steps,
        Tensor,
        Text,
        Value,
    )
    from .watch import watch

__version__ = "0.1.0"

_HOMES = {
    "api": ("execute", "load", "plan", "run"),
    "codec": ("Codec",),
    "devices": ("QUANTIZERS", "compute_capability"),
    "errors": (
        "Cancelled",
        "GraphError",
        "ImagenFlowError",
        "Mark",
        "ModelError",
        "NodeError",
        "OutputError",
        "Problem",
        "ProvenanceError",
        "StoreError",
    ),
    "hookspecs": ("hookimpl",),
    "models.estimates": ("size_of",),
    "models.placing": ("at_rest", "place_module"),
    "models.quiet": ("quiet_libraries",),
    "models.references": ("UnresolvedModel",),
    "models.tensors": ("read_weights",),
    "node": ("node",),
    "values": (
        "Absent",
        "Audio",
        "Base",
        "Bool",
        "Device",
        "File",
        "Folder",
        "Image",
        "Json",
        "List",
        "Loading",
        "Mask",
        "Model",
        "Number",
        "Progress",
        "Range",
        "Rungs",
        "Scratch",
        "Seed",
        "Steps",
        "Tensor",
        "Text",
        "Value",
    ),
    "watch": ("watch",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'imagen_flow' has no attribute '{name}'")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _FrontDoor(ModuleType):
    """Keeps the functions `node`, `plan`, `run` and `watch` from being hidden by the modules of the same names, which Python would put in their place when it imports them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
