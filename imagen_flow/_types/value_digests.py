"""Name every value that can cross an edge by a digest of what it is.

Nothing is ever digested by its encoded file, its `repr` or its place in memory; what has no digest
raises TypeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from .digest import canonical, tagged
from .models import Model
from .values import Absent, Audio, File, Folder, Image, Mask, Tensor

__all__ = ["digest_list", "digest_value", "kind_of"]


def kind_of(value: Any) -> str:
    """Name the kind of a built-in value, e.g. ``image``; a plugin's own type raises TypeError here
    (its codec names it).
    """
    kind = _KINDS.get(type(value))
    if kind is None:
        for cls, name in _KINDS.items():
            if isinstance(value, cls):
                return name
        raise TypeError(f"{type(value).__name__} is no value that can cross an edge")
    return kind


_KINDS: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    dict: "json",
    type(None): "json",
    list: "list",
    tuple: "list",
    Image: "image",
    Mask: "mask",
    Tensor: "tensor",
    Audio: "audio",
    File: "file",
    Folder: "folder",
    Model: "model",
    Absent: "absent",
}


def digest_list(digests: Iterable[str]) -> str:
    """Digest a list by the digests of its elements."""
    return tagged("list", *(bytes.fromhex(d) for d in digests))


def digest_value(value: Any, kind: str | None = None) -> str:
    """Digest a built-in value over (kind, dtype, shape, raw bytes, sorted tags)."""
    return _DIGESTERS[kind or kind_of(value)](value)


def _array(kind: str, array: Any, *more: bytes) -> str:
    import numpy as np

    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype} has no digest")
    head = f"{array.dtype.name}{list(array.shape)}".encode()
    # Flattened only for its bytes: ascontiguousarray would give a shape of () an axis, and two
    # values one digest.
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return tagged(kind, head, little.view("uint8").data, *more)


def _pixels(kind: str, pixels: Any) -> str:
    # A picture has no NaN when it is made, but whoever made it may still hold the array and have
    # written into it.
    if pixels.dtype == "float32":
        import numpy as np

        if not np.isfinite(pixels).all():
            raise ValueError(
                f"{'a picture' if kind == 'image' else 'a mask'} has NaN or infinite pixels"
            )
    return _array(kind, pixels)


def _tensor(value: Tensor) -> str:
    import numpy as np

    tags = canonical(dict(value.tags))
    if isinstance(value.data, np.ndarray):
        return _array("tensor", value.data, tags)
    tensor = value.data.detach().cpu().contiguous()
    if value.dtype == "bfloat16":
        import torch

        raw = tensor.view(torch.int16).numpy()
        head = f"bfloat16{list(raw.shape)}".encode()
        return tagged("tensor", head, raw.tobytes(), tags)
    return _array("tensor", tensor.numpy(), tags)


def _name_parts(value: File) -> list[bytes]:
    """What counts of a file's name. The ending says what kind of file it is, and is all that a node
    sees of the name, unless the name is part of the value.
    """
    suffix = value.suffix.encode("utf-8", "surrogatepass")
    if value.significant_name:
        return [suffix, value.significant_name.encode("utf-8", "surrogatepass")]
    return [suffix] if suffix else []


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in a graph")
    return tagged("float", repr(float(value)).encode())


_DIGESTERS: dict[str, Callable[[Any], str]] = {
    "bool": lambda v: tagged("bool", b"1" if v else b"0"),
    "int": lambda v: tagged("int", str(int(v)).encode()),
    "float": _float,
    "text": lambda v: tagged("text", v.encode("utf-8", "surrogatepass")),
    "json": lambda v: tagged("json", canonical(v)),
    "list": lambda v: digest_list(digest_value(item) for item in v),
    "image": lambda v: _pixels("image", v.pixels),
    "mask": lambda v: _pixels("mask", v.pixels),
    "tensor": _tensor,
    "audio": lambda v: _array("audio", v.samples, str(v.rate).encode()),
    "file": lambda v: tagged("file", v.digest.encode(), *_name_parts(v)),
    "folder": lambda v: v.digest,
    "model": lambda v: tagged(
        "model",
        v.digest.encode(),
        *([v.significant_name.encode("utf-8", "surrogatepass")] if v.significant_name else []),
    ),
    "absent": lambda v: tagged("absent"),
}
