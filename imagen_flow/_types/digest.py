"""Digest bytes, files and JSON data: BLAKE2b (RFC 7693) of 20 bytes, written as 40 hexadecimal
digits. A tag keeps kinds apart: the text ``1`` and the number 1 differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from .._system.regular_files import open_regular

__all__ = [
    "canonical",
    "digest_bytes",
    "digest_file",
    "digest_stream",
    "tagged",
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
        _check_keys(data)
    return _ENCODE(data).encode("utf-8", "surrogatepass")


# Made once: json.dumps would make an encoder for every call.
_ENCODE = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def _check_keys(data: Any) -> None:
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
