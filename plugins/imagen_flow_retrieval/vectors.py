"""Features as values: tensors that say which model made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imagen_flow import Tensor

if TYPE_CHECKING:
    import numpy as np

MADE_BY = "model"
"""The tag with the fingerprint of the model."""


def features(vector: np.ndarray, *, kind: str, fingerprint: str, normalise: bool) -> Tensor:
    """Make a value of features (dimension,), of length 1 if that is asked for."""
    tags = {"features": kind, MADE_BY: fingerprint, "normalised": "yes" if normalise else "no"}
    return Tensor(unit(vector) if normalise else vector, tags)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale float32 vectors (…, dimension) to length 1.

    Raises:
        ValueError: one of them is zero.
    """
    import numpy as np

    lengths = np.sqrt(np.square(vectors, dtype="float64").sum(-1, keepdims=True))
    if not lengths.all():
        raise ValueError("features that are all zero point nowhere, so nothing is similar to them")
    return (vectors / lengths).astype("float32")


def made_by(values: Sequence[Tensor], port: str) -> Mapping[str, str]:
    """Return what made all of these features: the kind and the fingerprint of a model; nothing if
    there are none.

    Raises:
        ValueError: a value is not features of one vector, or two are of different models.
    """
    found: dict[str, str] = {}
    for index, value in enumerate(values):
        where = f"port '{port}'" if len(values) == 1 else f"port '{port}', element {index},"
        tags = {key: value.tags.get(key, "") for key in ("features", MADE_BY)}
        if not all(tags.values()) or len(value.shape) != 1 or not value.shape[0]:
            raise ValueError(
                f"{where} is not features: take the output of image.features or text.features"
            )
        found = found or tags
        if tags != found:
            raise ValueError(
                f"{where} is of another model than the elements before it"
                f" ({named(tags)}, not {named(found)}); features of two models cannot be compared"
            )
        if value.shape != values[0].shape:
            raise ValueError(
                f"{where} has {value.shape[0]} numbers, and element 0 has {values[0].shape[0]},"
                " though both name the same model"
            )
    return found


def named(made: Mapping[str, str]) -> str:
    """Name a model for messages."""
    return f"{made.get('features', 'unknown')} {made.get(MADE_BY, '')[:8]}"


def matrix(values: Sequence[Tensor]) -> np.ndarray:
    """Stack features that one model made: float32 (count, dimension), of length 1.

    Raises:
        ValueError: they are not finite, or zero.
    """
    import numpy as np

    stacked = np.stack([value.numpy() for value in values]).astype("float32")
    if not np.isfinite(stacked).all():
        raise ValueError("features that are not finite cannot be compared")
    return unit(stacked)
