"""Tell what kind of model a folder of transformers holds, by its ``config.json``."""

from __future__ import annotations

from collections.abc import Collection

from .._types.models import Model, read_json
from ..errors import ModelError

__all__ = ["expect_kind"]


def expect_kind(model: Model, node: str, kinds: Collection[str]) -> str:
    """Return the ``model_type`` of a model of transformers. It is for `Loader.check`: nothing but
    ``config.json`` is read.

    Params:
        node: the node type that wants it, for the message.
        kinds: the model types that the node can use.
    Raises:
        ModelError: it is of another kind, damaged, or saved quantized.
    """
    config = read_json(model, "config.json")
    if not config:
        kind = (
            "diffusers checkpoint"
            if (model.folder / "model_index.json").is_file()
            else "folder without config.json"
        )
    else:
        kind = str(config.get("model_type", "model of no stated type"))
    if kind not in kinds:
        raise ModelError(
            f"{node} cannot use the model '{model.reference}': it is a {kind[:100]}, but"
            f" {node} supports {', '.join(sorted(kinds))}"
        )
    if config.get("quantization_config") is not None:
        # Some quantizations are read by code that the library downloads from the hub and runs.
        raise ModelError(
            f"{node} cannot use the model '{model.reference}': it was saved quantized, but"
            f" {node} needs plain weights"
        )
    return kind
