"""Small models that ship with the project, the world that they know, and the node types that train
and judge them.

Embedded models: ``embedded/imagen`` (text encoder, base and super-resolution diffusion),
    ``embedded/imagen-256`` (a second stage of super-resolution), ``embedded/edit`` and
    ``embedded/caption``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imagen_flow as flow
from imagen_flow.loaders import Loader

from . import nodes
from .inference.loaders import LOADERS

WEIGHTS = Path(__file__).parent / "weights"


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return nodes.ALL


@flow.hookimpl
def imagen_flow_loaders() -> Mapping[str, Mapping[str, Loader[Any]]]:
    return LOADERS


@flow.hookimpl
def imagen_flow_models() -> Mapping[str, Path]:
    return {
        f"embedded/{name}": WEIGHTS / name for name in ("imagen", "imagen-256", "edit", "caption")
    }
