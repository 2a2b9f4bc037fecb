"""Read a file of weights into tensors: safetensors as they are, a pickle only if the user allowed
it, and then with ``weights_only``.
"""

from __future__ import annotations

from typing import Any

from .._types.models import Model
from ..errors import ModelError
from .mapped import own_tensors
from .signs import check_unchanged

__all__ = ["read_weights"]


def read_weights(model: Model, name: str = "") -> dict[str, Any]:
    """Read the tensors of a model that is one file, or of the file `name` in its folder, to the
    CPU.

    Raises:
        ModelError: it is a pickle that the user did not allow, or one that holds more than weights.
        FileChanged: it has changed since it was digested.
    """
    check_unchanged(model)
    read = _read(model, name)
    own_tensors(read)
    check_unchanged(model)
    return read


def _read(model: Model, name: str) -> dict[str, Any]:
    path = model.path / name if name else model.path
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    if (name or path.name) not in model.pickles:
        raise ModelError(
            f"the model '{model.reference}' is a pickle ({path.name}), and was not allowed"
        )
    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as refused:  # torch raises an error of pickle's, which is not imported here
        raise ModelError(
            f"the pickle {path.name} of '{model.reference}' holds more than weights:"
            f" {str(refused).splitlines()[0]}"
        ) from refused
    if not isinstance(held, dict):
        raise ModelError(
            f"the pickle {path.name} of '{model.reference}' holds {type(held).__name__}, not"
            " weights by name"
        )
    return held
