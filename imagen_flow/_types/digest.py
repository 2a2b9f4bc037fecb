"""Name every value by a digest of what it is: canonical bytes, tagged by kind.

A digest is BLAKE2b (RFC 7693) of 20 bytes, written as 40 hexadecimal digits. The tag keeps kinds
apart: the text ``1`` and
the number 1 differ. Nothing is ever digested by its encoded file, its `repr` or its place in
memory, and what has no digest raises TypeError.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from .._system.regular_files import open_regular
from .values import Absent, Audio, File, Folder, Image, Mask, Model, Tensor

__all__ = [
    "canonical",
    "digest_bytes",
    "digest_file",
    "digest_list",
    "digest_stream",
    "digest_value",
    "kind_of",
]

SIZE = 20


def digest_bytes(content: bytes) -> str:
    """Digest a file's content."""
    return blake2b(content, digest_size=SIZE).hexdigest()


def digest_file(path: Path, *, check: Callable[[], None] | None = None) -> str:
    """Digest a file without holding it whole; `check` is called between blocks and may raise
    (cancelling).
    """
    with open_regular(path) as stream:
        return digest_stream(stream, check=check)


def digest_stream(stream: BinaryIO, *, check: Callable[[], None] | None = None) -> str:
    """Digest an open file from its beginning. What is appended meanwhile makes another digest, but
    does not keep us reading.
    """
    state = blake2b(digest_size=SIZE)
    left = os.fstat(stream.fileno()).st_size
    while left >= 0 and (block := stream.read(1 << 20)):
        left -= len(block)
        state.update(block)
        if check:
            check()
    return state.hexdigest()


def tagged(kind: str, *parts: bytes | memoryview) -> str:
    """Digest parts under a kind. Each part is preceded by its length, so that parts cannot run into
    one another.
    """
    if len(parts) == 1 and len(parts[0]) < 4096:
        return blake2b(
            b"%s\0%s%s" % (kind.encode(), len(parts[0]).to_bytes(8, "little"), parts[0]),
            digest_size=SIZE,
        ).hexdigest()
    state = blake2b(kind.encode() + b"\0", digest_size=SIZE)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def canonical(data: Any) -> bytes:
    """Write JSON data as canonical bytes: sorted keys, no spaces, shortest floats, UTF-8.

    NaN, infinity, keys that are not text and anything that is not JSON raise.
    """
    if isinstance(data, dict | list | tuple):
        _refuse_odd_keys(data)
    return _ENCODE(data).encode("utf-8", "surrogatepass")


# Made once: json.dumps would make an encoder for every call.
_ENCODE = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def _refuse_odd_keys(data: Any) -> None:
    pending = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if type(key) is not str:
                    raise TypeError(f"a key of JSON data is text, not {type(key).__name__}")
                pending.append(value)
        elif isinstance(item, list | tuple):
            pending.extend(item)


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


def digest_value(value: Any) -> str:
    """Digest a built-in value over (kind, dtype, shape, raw bytes, sorted tags)."""
    kind = kind_of(value)
    return _DIGESTERS[kind](value)


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
    # Of its name the ending counts: it says what kind of file it is, and that is all of the name
    # that a node sees.
    "file": lambda v: tagged(
        "file",
        v.digest.encode(),
        *([v.suffix.encode("utf-8", "surrogatepass")] if v.suffix else []),
    ),
    "folder": lambda v: v.digest,
    "model": lambda v: tagged(
        "model",
        v.digest.encode(),
        *([v.called.encode("utf-8", "surrogatepass")] if v.called else []),
    ),
    "absent": lambda v: tagged("absent"),
}
