"""For plugins that load models: the contract for loaders, and tools to write one with.

A loader is a subclass of `Loader`; a port whose node gets what it loads is annotated with
`Leased`::

    from dataclasses import dataclass
    from typing import Annotated, Any

    import imagen_flow as flow
    from imagen_flow.loaders import Leased, Loader, Loading, place_module, read_weights


    @dataclass(frozen=True)
    class Network:
        module: Any


    class NetworkLoader(Loader[Network]):
        settings = ("offload",)
        takes_file = True

        def load(
            self, model: flow.Model, *, device: str, dtype: str, settings: Loading
        ) -> Network:
            import torch

            module = torch.nn.Linear(2, 3)
            module.load_state_dict(read_weights(model))
            module.to(getattr(torch, dtype))
            return Network(place_module(module, device=device, settings=settings))


    @flow.node("toy.run", version=1, uses=("torch",))
    def run(model: Annotated[Network, Leased(NetworkLoader)], image: flow.Image) -> flow.Image:
        ...

Each model is loaded once per device, dtype and effective settings, and shared by all nodes that
lease it. It stays loaded until the memory budget wants it evicted, the models needed last first.
What a node leaves changed in it (weights, hooks, configurations) is noticed, and the model is
loaded anew for the next node.
"""

from __future__ import annotations

from ._models.contents import read_header
from ._models.derived import derived_folder
from ._models.estimates import size_of
from ._models.kinds import expect_kind
from ._models.libraries import require_library
from ._models.placement import at_rest, place_module
from ._models.pretrained import load_pretrained
from ._models.processors import load_image_processor, load_processor, load_tokenizer
from ._models.quiet import quiet_libraries
from ._models.references import UnresolvedModel
from ._models.tensors import read_weights
from ._models.tiny import keep_tiny
from ._models.unread_words import unread_words
from ._settings.devices import QUANTIZERS, compute_capability
from ._types.models import BaseCheckpoint, Leased, Loader, Loading, read_json
from ._types.values import FallbackLevels

__all__ = [
    "BaseCheckpoint",
    "FallbackLevels",
    "Leased",
    "Loader",
    "Loading",
    "QUANTIZERS",
    "UnresolvedModel",
    "at_rest",
    "compute_capability",
    "derived_folder",
    "expect_kind",
    "keep_tiny",
    "load_image_processor",
    "load_pretrained",
    "load_processor",
    "load_tokenizer",
    "place_module",
    "quiet_libraries",
    "read_header",
    "read_json",
    "read_weights",
    "require_library",
    "size_of",
    "unread_words",
]
