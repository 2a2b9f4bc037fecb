"""The files of an index: a folder with ``config.json`` and ``index.safetensors``, so that an index
is a model like any other, and is read without running anything that it brings.

::

    config.json         model_type, format, count, dimension, and the model that made the features
    index.safetensors   vectors: float32 (count, dimension), of length 1
                        names: uint8, their UTF-8 with a null character between two
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_flow import Model, ModelError
from imagen_flow.loaders import expect_kind, read_header, read_json, read_weights

if TYPE_CHECKING:
    import numpy as np

KIND = "imagen-flow-index"
FORMAT = 1
WEIGHTS = "index.safetensors"


@dataclass(frozen=True)
class Described:
    """What an index says of itself in its configuration."""

    count: int
    dimension: int
    #: The kind and the fingerprint of the model that made the features; empty if it holds none.
    made_by: Mapping[str, str]


def write(
    folder: Path, vectors: np.ndarray, names: Sequence[str], made_by: Mapping[str, str]
) -> Path:
    """Write an index.

    Params:
        vectors: float32 (count, dimension), of length 1.
        names: of the vectors; none holds a null character.
        made_by: the kind and the fingerprint of the model.
    """
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    count, dimension = vectors.shape
    said = {
        "model_type": KIND,
        "format": FORMAT,
        "count": count,
        "dimension": dimension,
        "made_by": dict(made_by),
    }
    (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    text = np.frombuffer("\0".join(names).encode(), dtype="uint8")
    save_file({"vectors": np.ascontiguousarray(vectors), "names": text}, folder / WEIGHTS)
    return folder


def describe(model: Model, node: str) -> Described:
    """Return what an index says of itself, and check that the header of its file agrees.

    Raises:
        ModelError: it is not an index, of another format, or damaged.
    """
    expect_kind(model, node, [KIND])
    said = read_json(model, "config.json")
    if said.get("format") != FORMAT:
        raise ModelError(
            f"the index '{model.reference}' is of the format {_short(said.get('format'))}, and this"
            f" version reads {FORMAT}: build it again"
        )
    count, dimension, made = said.get("count"), said.get("dimension"), said.get("made_by")
    path = model.folder / WEIGHTS
    header = read_header(model, path) if path.is_file() else {}
    vectors, names = header.get("vectors", {}), header.get("names", {})
    if (
        type(count) is not int
        or type(dimension) is not int
        or not isinstance(made, dict)
        or not all(isinstance(word, str) for word in made.values())
        or (vectors.get("dtype"), vectors.get("shape")) != ("F32", [count, dimension])
        or (names.get("dtype"), len(names.get("shape", ()))) != ("U8", 1)
        or bool(count) != bool(dimension)
    ):
        raise _damaged(model, f"config.json and {WEIGHTS} do not agree")
    return Described(count, dimension, made)


def read(model: Model, node: str) -> tuple[Described, Any, tuple[str, ...]]:
    """Read an index: what it says of itself, its vectors as a torch tensor, and their names.

    Raises:
        ModelError: it is not an index, or damaged.
    """
    import numpy as np

    described = describe(model, node)
    tensors = read_weights(model, WEIGHTS)
    vectors = tensors["vectors"]
    if described.count:
        array = vectors.numpy()
        lengths = np.einsum("ij,ij->i", array, array)
        if not (np.abs(lengths - 1) < 1e-3).all():
            raise _damaged(model, "its vectors are not of length 1")
    return described, vectors, _names(model, bytes(tensors["names"].numpy()), described.count)


def _names(model: Model, text: bytes, count: int) -> tuple[str, ...]:
    if not count and not text:
        return ()
    if text.count(b"\0") != count - 1:  # before it is split: that could take much memory
        raise _damaged(model, f"it does not have {count:,} names")
    try:
        return tuple(text.decode("utf-8").split("\0"))
    except UnicodeDecodeError as error:
        raise _damaged(model, "its names are not UTF-8") from error


def _damaged(model: Model, how: str) -> ModelError:
    return ModelError(f"the index '{model.reference}' is damaged: {how}; build it again")


def _short(value: Any) -> str:
    return str(value)[:40]
