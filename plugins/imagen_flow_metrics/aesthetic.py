"""Score how much people would like a picture, by a linear head on features of CLIP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from imagen_flow import Model, ModelError, Tensor, node
from imagen_flow.loaders import Leased, Loader, Loading, read_header, read_weights

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Head:
    """A linear function of features: ``weights @ features + bias``."""

    weights: np.ndarray
    bias: float


class HeadLoader(Loader[Head]):
    """Loads linear layers from a file of weights, and joins them into one."""

    takes_file = True

    def check(self, model: Model) -> None:
        if not model.path.is_file():
            raise ModelError(
                f"score.aesthetic cannot use the model '{model.reference}': it is a folder; name"
                " the file of weights in it"
            )
        if model.path.suffix == ".safetensors":
            header = read_header(model, model.path)
            _layers(
                model,
                {name: entry["shape"] for name, entry in header.items() if "shape" in entry},
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Head:
        import numpy as np

        self.check(model)
        tensors = read_weights(model)
        arrays = {
            name: np.asarray(tensor.detach().double().numpy()) for name, tensor in tensors.items()
        }
        weights, bias = np.eye(0), np.zeros(0)
        for layer in _layers(model, {name: list(a.shape) for name, a in arrays.items()}):
            own, added = (arrays[f"{layer}{what}"] for what in ("weight", "bias"))
            weights, bias = (own @ weights, own @ bias + added) if weights.size else (own, added)
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ModelError(
                f"the model '{model.reference}' has weights that are NaN or infinite; download or"
                " save it again"
            )
        return Head(weights[0], float(bias[0]))


def _layers(model: Model, shapes: Mapping[str, list[int]]) -> list[str]:
    """Return the prefixes of linear layers in the order of their numbers.

    Raises:
        ModelError: they are not linear layers that fit one another and give one number.
    """
    names: dict[str, set[str]] = {}
    for name in shapes:
        prefix, dot, what = name.rpartition(".")
        names.setdefault(prefix + dot, set()).add(what)
    ordered = sorted(names, key=lambda prefix: [int(n) for n in re.findall(r"\d+", prefix)])
    width = None
    for prefix in ordered:
        if names[prefix] != {"weight", "bias"}:
            break
        weight, bias = shapes[f"{prefix}weight"], shapes[f"{prefix}bias"]
        if len(weight) != 2 or bias != weight[:1] or width not in (None, weight[1]):
            break
        width = weight[0]
    else:
        if width == 1:
            return ordered
    raise ModelError(
        f"score.aesthetic cannot use the model '{model.reference}': it takes linear layers, one"
        " after another, of which the last gives one number"
    )


@node("score.aesthetic", version=1, uses=("numpy",))
def score(model: Annotated[Head, Leased(HeadLoader)], features: Tensor) -> float:
    """Score how much people would like a picture, to keep or sort pictures by it.

    Inputs:
        model: a file of weights: one or several linear layers without anything between them, which
            are joined into one. For LAION's predictor, ``sac+logos+ava1-l14-linearMSE`` (as
            safetensors, or as it is with --allow-pickle), which was trained on features of
            hf:openai/clip-vit-large-patch14.
        features: of `image.features` with the model that the layers were trained on, normalised
            as for their training (LAION's were).

    Outputs:
        what the layers give: with LAION's 1 to 10, and about 5 for usual photographs.

    Raises:
        ValueError: the features do not have as many numbers as the layers take, or are not finite.
    """
    if features.shape != model.weights.shape:
        raise ValueError(
            f"port 'features' has the shape {list(features.shape)}, and the layers take"
            f" {model.weights.size} numbers; use features of the model that they were trained on"
        )
    found = float(model.weights @ features.numpy().astype("float64")) + model.bias
    if not math.isfinite(found):
        raise ValueError("port 'features' has features that are not finite")
    return round(found, 6)
