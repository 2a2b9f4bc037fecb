"""Encode values as files: which endings each kind of value may have, and the bytes of a file.

Text is UTF-8 and ends with a newline. Numbers, booleans and JSON are JSON with sorted keys, or tables.
Pictures are encoded by `image_files`, tensors as safetensors, sound as 16-bit WAV.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from .._types import image_files
from .._types.codec import Codecs
from .._types.values import Audio
from .formats import TABLES
from .tables import encode_table

__all__ = ["ENCODED", "ENDINGS", "FOLDERS", "encode"]


_TEXTS = (".txt", ".md", ".json", ".jsonl", ".csv", ".html", ".svg", ".xml", ".yaml")

ENDINGS: dict[str, tuple[str, ...]] = {
    "image": image_files.ENDINGS,
    "mask": image_files.ENDINGS,
    **dict.fromkeys(("text", "bool", "int", "float", "number", "json"), _TEXTS),
    "tensor": (".safetensors",),
    "audio": (".wav",),
}

FOLDERS = ("folder", "model")

#: Kinds that are encoded when they are written, rather than written as they are.
ENCODED = frozenset({*ENDINGS, "list"})


#: The endings of pictures, and one for each format.
_FORMATS = {e: {".jpeg": ".jpg", ".tiff": ".tif"}.get(e, e) for e in image_files.ENDINGS}

_NO_OPTIONS: Mapping[str, Any] = {}


def encode(
    value: Any, ending: str, codecs: Codecs, options: Mapping[str, Any] = _NO_OPTIONS
) -> bytes:
    """Encode a value as a file of this ending, with the options of its format.

    Raises:
        ValueError, TypeError: the format cannot hold the value.
    """
    kind = codecs.kind(value)
    choices = ENDINGS.get("json" if kind == "list" else kind)
    if choices and ending not in choices:
        raise ValueError(f"a value of kind {kind} can be written as {', '.join(choices)}")
    if kind in ("image", "mask"):
        return image_files.encode(value.pixels, ending, options)
    if kind == "text":
        return f"{value.removesuffix(chr(10))}\n".encode()
    if choices is _TEXTS and ending in TABLES:
        return encode_table(value, ending, options)
    if choices is _TEXTS:
        return (
            json.dumps(
                value, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=2
            ).encode()
            + b"\n"
        )
    if kind == "audio":
        return _wav(value)
    if kind == "file":
        if {ending, value.suffix} <= set(_FORMATS) and _FORMATS[ending] != _FORMATS[value.suffix]:
            raise ValueError(
                f"it is a {value.suffix} file and is written as it is; end the path so"
            )
        return bytes(value.read_bytes())
    data: bytes = codecs.encode(value)[2]
    return data


def _wav(sound: Audio) -> bytes:
    """Encode sound as 16-bit PCM; samples beyond -1 to 1 are clipped."""
    import wave

    import numpy as np

    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(sound.samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.rint(np.clip(sound.samples.T, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
