"""Read the headers of files of weights without torch: whether the files are complete, and how much
memory the weights will take.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._system.file_signs import RememberedBySign
from .._system.regular_files import open_regular
from .references import UnresolvedModel, UnusableModel

__all__ = ["BYTES", "bytes_in_memory", "check_weights", "read_header", "tensors_in"]

#: Bytes of one number, by the name of its dtype in a safetensors header.
BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F4": 0.5,
    "F6_E2M3": 0.75,
    "F6_E3M2": 0.75,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
}

#: Bytes of one number, by the dtype that models are loaded in.
LOADED = {"float32": 4, "float16": 2, "bfloat16": 2}

_FLOATS = frozenset(name for name in BYTES if name.startswith(("F", "BF")))
_LONGEST_HEADER = 100_000_000

#: A header with more tensors, or lists and mappings, is not a model's: reading it would take
#: minutes.
MAX_TENSORS = 100_000

#: Headers are remembered up to this many tensors in all: about those of ten large checkpoints.
MAX_TENSORS_KEPT = 200_000


def check_weights(
    path: Path, reference: str, header: Callable[[Path], object] | None = None
) -> None:
    """Compare a file of weights with its header, so that a truncated download is noticed before
    anything runs.

    Params:
        header: reads it; default: `tensors_in`.
    Raises:
        UnresolvedModel: it is a dangling link.
        UnusableModel: it cannot be read, or is damaged; the message says how.
    """
    try:
        (header or tensors_in)(path)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise UnresolvedModel(
                f"unresolved: '{reference}' is not whole",
                why=f"{path.name} leads nowhere",
                fix="download it again",
            ) from error
        raise UnusableModel(f"the model '{reference}' cannot be read", why=str(error)) from error
    except _Pointer as pointer:
        raise UnusableModel(
            f"the model '{reference}' holds a pointer in place of {path.name}",
            why="it was cloned without Git LFS",
            fix="run `git lfs pull` in its folder",
        ) from pointer
    except _TooMany as many:
        raise UnusableModel(
            f"the model '{reference}' cannot be used: {path.name} says that it holds more than"
            f" {MAX_TENSORS:,} tensors",
            why="no model has as many",
            fix="see where it comes from",
        ) from many
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        kind = {".gguf": "GGUF", ".onnx": "ONNX"}.get(path.suffix.lower(), "safetensors")
        raise UnusableModel(
            f"the model '{reference}' is damaged: {path.name} is not a complete {kind} file",
            why=str(error)[:200],
            fix="copy or download it again",
        ) from error


class _Pointer(ValueError):
    """The file is a pointer that Git LFS should have replaced."""


class _TooMany(ValueError):
    """The header lists more tensors than any model has."""


def _counted() -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Return a hook that builds the mappings of a header and stops at too many, before they fill
    the memory.
    """
    count = 0

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > MAX_TENSORS + 2:  # the header itself, and its metadata
            raise _TooMany
        return dict(pairs)

    return made


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header: by tensor its ``dtype``, ``shape`` and ``data_offsets``,
    and perhaps ``__metadata__``.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is not a complete safetensors file.
    """
    size = path.stat().st_size
    with open_regular(path) as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if head.startswith(b"version "):
            raise _Pointer
        if len(head) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError("its header does not fit in it")
        text = stream.read(length)
    # Each tensor has two lists: what has no end of lists without a tensor is no header either.
    if text.count(b"[") > 4 * MAX_TENSORS or text.count(b",") > 64 * MAX_TENSORS:
        raise _TooMany
    header: dict[str, Any] = json.loads(text, object_pairs_hook=_counted())
    end = 0
    for name, entry in sorted(
        ((name, entry) for name, entry in header.items() if name != "__metadata__"),
        key=lambda item: item[1]["data_offsets"],
    ):
        first, last = entry["data_offsets"]
        if first == last and name.endswith((".weight", ".bias")):
            raise ValueError(f"its header says of '{name[:80]}' that it holds no number")
        # Estimates of memory rely on these numbers.
        if (
            first != end
            or min(entry["shape"], default=0) < 0
            or (
                entry["dtype"] in BYTES
                and last - first != math.prod(entry["shape"]) * BYTES[entry["dtype"]]
            )
        ):
            raise ValueError(
                f"its header says of '{name[:80]}' that {entry['dtype']} of {entry['shape']} lie"
                f" from byte {first} to {last}"
            )
        end = last
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes, and its header says {8 + length + end}")
    return header


def _read_tensors(path: Path) -> Mapping[str, Any]:
    ending = path.suffix.lower()
    if ending == ".onnx":
        _check_onnx(path)
        return {}
    if ending != ".gguf":
        return read_header(path)
    _check_gguf_head(path)
    if find_spec("gguf") is None:
        return {}
    import gguf

    return {
        str(tensor.name): {
            "dtype": tensor.tensor_type.name,
            "shape": [int(side) for side in reversed(tensor.shape)],
        }
        for tensor in gguf.GGUFReader(path).tensors
    }


#: Returns by tensor the ``dtype`` and ``shape`` that a file of weights says in its header, once
#: they fit the file; nothing where that cannot be told: of GGUF without the library that reads it,
#: of ONNX. It raises what reading a damaged file raises.
tensors_in: RememberedBySign[Mapping[str, Any]] = RememberedBySign(
    _read_tensors, weigh=lambda header: 16 + len(header), max_weight=MAX_TENSORS_KEPT
)


def _check_gguf_head(path: Path) -> None:
    with open_regular(path) as stream:
        head = stream.read(24)
    if head.startswith(b"version "):
        raise _Pointer
    if head[:4] != b"GGUF":
        raise ValueError("it does not begin with 'GGUF'")
    version, tensors = int.from_bytes(head[4:8], "little"), int.from_bytes(head[8:16], "little")
    if len(head) < 24 or version not in (2, 3) or not tensors:
        raise ValueError(f"it says version {version} with {tensors} tensors")
    if tensors > MAX_TENSORS or int.from_bytes(head[16:24], "little") > MAX_TENSORS:
        raise _TooMany


def _check_onnx(path: Path) -> None:
    """Check the beginning, which holds the version of the format. Nothing in the file tells its
    length: a truncated one fails when it is loaded.
    """
    with open_regular(path) as stream:
        head = stream.read(8)
    if head.startswith(b"version "):
        raise _Pointer
    if head[:1] != b"\x08":
        raise ValueError("it does not begin with the version of ONNX that it is in")


def bytes_in_memory(
    header: Mapping[str, Any],
    dtype: str | None,
    *,
    quantization: str = "none",
    layerwise_casting: str = "none",
) -> int:
    """Estimate the bytes that the tensors of a header take once they are loaded. Floating-point
    tensors are cast to `dtype`; weights of linear layers, recognised by names and shapes, are
    quantized; with `layerwise_casting`, layers are kept in 8 bits. Without a dtype, all stay as they
    are.
    """
    if dtype is None:
        return sum(
            entry["data_offsets"][1] - entry["data_offsets"][0]
            for name, entry in header.items()
            if name != "__metadata__"
        )
    each = LOADED[dtype]
    quantized = _QUANTIZED.get(quantization)
    total = 0.0
    for name, entry in header.items():
        if name != "__metadata__":
            kind, shape = entry["dtype"], entry["shape"]
            if (
                quantized is not None
                and kind in _FLOATS
                and len(shape) == 2
                and name.endswith(".weight")
                and not _TABLE.search(name)
            ):
                total += quantized(*shape) or math.prod(shape) * each
            elif kind in _FLOATS and layerwise_casting != "none" and _is_cast(header, name):
                total += math.prod(shape)
            elif kind in _FLOATS:
                total += math.prod(shape) * (
                    4 if dtype == "float16" and name.endswith(_WIDE) else each
                )
            else:
                total += math.prod(shape) * BYTES.get(kind, 1)
    return math.ceil(total)


def _is_cast(header: Mapping[str, Any], name: str) -> bool:
    """Whether a tensor belongs to a layer that layerwise casting keeps in 8 bits: linear ones,
    convolutions and embeddings, with their biases, except where precision matters.

    Source: diffusers' ``DEFAULT_SKIP_MODULES_PATTERN``; a few classes except more.
    """
    layer, _, kind = name.rpartition(".")
    weight = header.get(f"{layer}.weight")
    return (
        kind in ("weight", "bias")
        and weight is not None
        and len(weight["shape"]) > 1
        and not _UNCAST.search(layer)
    )


_UNCAST = re.compile(r"pos_embed|patch_embed|norm|\Aproj_in\Z|\Aproj_out\Z")

#: Two-dimensional weights that are not quantized: embeddings, and the last layers of text encoders.
_TABLE = re.compile(
    r"(?:\A|[._])(?:embeddings?|embedding_table|tokens|shared|relative_attention_bias|lm_head|text_projection|wte|wpe)\.weight\Z"
)

#: Weights that transformers keeps in float32 when float16 is asked for: T5's would overflow.
_WIDE = ".DenseReluDense.wo.weight"


def _int4(rows: int, columns: int) -> float:
    rows, padded = math.ceil(rows / 8) * 8, math.ceil(columns / 1024) * 1024
    return 0 if columns % 128 else rows * padded * (0.5 + 4 / 128)


#: Bytes of a linear layer's weight by quantization, with its scales, as torchao and bitsandbytes
#: store it; 0 if it is not quantized.
_QUANTIZED: Mapping[str, Callable[[int, int], float]] = {
    "int8": lambda rows, columns: rows * (columns + 5),
    "float8": lambda rows, columns: rows * (columns + 4),
    "int4": _int4,
    "nf4": lambda rows, columns: math.ceil(rows * columns / 2) + 4 * math.ceil(rows * columns / 64),
}
