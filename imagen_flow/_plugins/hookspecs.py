"""The hooks that a plugin may implement: only their signatures and documentation.

A plugin is a module named by an entry point of the group ``imagen_flow``; it marks its
implementations of the functions below with ``imagen_flow.hookimpl``::

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
    from ..errors import ModelError

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("imagen_flow")
hookimpl = pluggy.HookimplMarker("imagen_flow")


@hookspec
def imagen_flow_nodes() -> Iterable[NodeFunction]:
    """Return the node types that this plugin offers: functions decorated with ``@node``."""
    raise NotImplementedError


@hookspec
def imagen_flow_models() -> Mapping[str, Path | ModelError]:
    """Return models that come with this plugin: references (``embedded/imagen``) and their folders
    or files. For one that comes with a package that is not installed, return an `UnresolvedModel`
    (`imagen_flow.loaders`) that names the package.
    """
    raise NotImplementedError


@hookspec
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    """Return a tiny model with random weights to use instead of another one, so that a graph can be
    tried without it; None if the plugin does not know its kind.

    Params:
        reference: the model as the graph names it.
        at: the model's path if it is on this machine; otherwise its kind must be inferred from its
            name.
        folder: where tiny models are kept; an existing one need not be created again.
    """


@hookspec
def imagen_flow_base_of(header: Mapping[str, Any]) -> BaseCheckpoint | None:
    """Say what completes a single-file checkpoint: the repository whose configurations and
    tokenizers it is loaded with. None for anything that is not a whole checkpoint: a LoRA, a single
    part.

    It is called while planning, so it only looks at names and shapes and imports nothing heavy.

    Params:
        header: the ``dtype`` and ``shape`` of each tensor; for a safetensors file also its
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
    and `image.edit` (``editor``) are in `imagen_flow_diffusion.stages.roles`, that of
    `image.caption` (``captioner``) in `imagen_flow_vision.captions`. An offered loader is used instead of the port's own. The source of the plugin that offers it is part of the keys of
    steps that use it.
    """
    raise NotImplementedError


@hookspec
def imagen_flow_codecs() -> Iterable[Codec]:
    """Return codecs for this plugin's own value types, so that they can cross edges and be stored."""
    raise NotImplementedError


@hookspec
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    """Return arguments with which node types can be tried, by node type and port: literals as in a
    graph, or values. ``imagen-flow plugin check`` runs each node type with them. For a port of
    files, ``{"name": "rows.csv", "text": "a,b"}`` is written first, for one of folders
    ``{"files": {"a.txt": "one"}}``.

    A port that is not named gets a made-up value if it is required, so most node types need no
    example: those do whose ports take models, values of a plugin's own types, or texts and numbers
    that have to fit together.
    """
    raise NotImplementedError
