"""imagen_flow: the build system for generative pictures.

This is the one front door: what a plugin or a script may import stands here. Names are imported
when they are first used, so that ``import imagen_flow`` costs a few milliseconds and never loads
torch.

For users: `load`, `plan`, `run`, `execute`, `watch`. For plugin authors: `node`, `hookimpl` and the
types of ports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._models.estimates import size_of
    from ._models.placement import at_rest, place_module
    from ._models.quiet import quiet_libraries
    from ._models.references import UnresolvedModel
    from ._models.tensors import read_weights
    from ._plugins.hookspecs import hookimpl
    from ._settings.devices import QUANTIZERS, compute_capability
    from ._types.codec import Codec
    from ._types.node import node
    from ._types.values import (
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
    from ._watch import watch
    from .api import execute, load, plan, run
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

__version__ = "0.1.0"

_HOMES = {
    "api": ("execute", "load", "plan", "run"),
    "_types.codec": ("Codec",),
    "_settings.devices": ("QUANTIZERS", "compute_capability"),
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
    "_plugins.hookspecs": ("hookimpl",),
    "_models.estimates": ("size_of",),
    "_models.placement": ("at_rest", "place_module"),
    "_models.quiet": ("quiet_libraries",),
    "_models.references": ("UnresolvedModel",),
    "_models.tensors": ("read_weights",),
    "_types.node": ("node",),
    "_types.values": (
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
    "_watch": ("watch",),
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
