"""What a plugin may implement. Signatures and words only: the code is in `plugins`.

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
    from .._types.models import BaseCheckpoint
    from .._types.node import NodeFunction

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("imagen_flow")
hookimpl = pluggy.HookimplMarker("imagen_flow")


@hookspec
def imagen_flow_nodes() -> Iterable[NodeFunction]:  # type: ignore[empty-body]
    """Return the node types that this plugin offers: functions decorated with ``@node``."""


@hookspec
def imagen_flow_models() -> Mapping[str, Path]:  # type: ignore[empty-body]
    """Return models that come with this plugin: reference (``embedded/imagen``) to the folder that
    holds it.
    """


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
def imagen_flow_codecs() -> Iterable[Codec]:  # type: ignore[empty-body]
    """Return codecs for value types of this plugin's own, so that they can cross edges and be
    stored.
    """
