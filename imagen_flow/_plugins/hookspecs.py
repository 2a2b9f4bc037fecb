"""The hooks that a plugin may implement. These are only their signatures and documentation.

A plugin is a module named by an entry point of the group ``imagen_flow``; it marks the functions
below with ``imagen_flow.hookimpl``::

    import imagen_flow as flow

    @flow.hookimpl
    def imagen_flow_nodes():
        return [resize, crop]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .._types.codec import Codec
    from .._types.models import BaseCheckpoint, Loader
    from .._types.node import NodeFunction

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("imagen_flow")
hookimpl = pluggy.HookimplMarker("imagen_flow")


@hookspec
def imagen_flow_nodes() -> Iterable[NodeFunction]:
    """Return the node types that this plugin offers: functions decorated with ``@node``."""
    raise NotImplementedError


@hookspec
def imagen_flow_models() -> Mapping[str, Path]:
    """Return models that come with this plugin: reference (``embedded/imagen``) to the folder that
    holds it.
    """
    raise NotImplementedError


@hookspec
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return a small model with random weights that stands for another, so that a graph can be
    tried without it; None if the plugin knows no such kind.

    Params:
        reference: the model as the graph names it.
        at: where the model lies, if it is on this machine; else what it is must be told by its
            name.
        folder: where tiny models are kept; one that is there already need not be made again.
    """


@hookspec
def imagen_flow_base_of(header: Mapping[str, Any]) -> BaseCheckpoint | None:
    """Say what completes a checkpoint that is one file of weights: the repository whose
    configurations and tokenizers it is loaded with. None for what is no checkpoint: a LoRA, a part
    alone.

    It is asked while planning, so it looks at names and shapes and imports nothing heavy.

    Params:
        header: by tensor its ``dtype`` and ``shape``; of a safetensors file also its
            ``data_offsets``, and perhaps ``__metadata__``.
    """


@hookspec
def imagen_flow_loaders() -> Mapping[str, Mapping[str, Loader[Any]]]:
    """Return loaders for checkpoints of the plugin's own, to be used by other plugins' node types.

    They are returned by role, and then by the class of checkpoint that each loads, which is the
    ``_class_name`` in its ``model_index.json``::

        {"text encoder": {"ToyCascade": ToyTextLoader()}}

    A role is declared by the loader of a port (`Loader.role`); what the loaded object must be able
    to do is documented by the plugin that has the port. The roles of `text.encode` (``text
    encoder``), `diffusion.base` (``base denoiser``), `diffusion.super_resolution` (``enlarger``)
    and `image.edit` (``editor``) are in `imagen_flow_diffusion.stages.roles`. An offered loader is
    used instead of the port's own. The source of the plugin that offers it is part of the keys of
    steps that use it.
    """
    raise NotImplementedError


@hookspec
def imagen_flow_codecs() -> Iterable[Codec]:
    """Return codecs for value types of this plugin's own, so that they can cross edges and be
    stored.
    """
    raise NotImplementedError
