"""Say how large a model is on the disk and how much memory its weights will take, from the headers of its files. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..values import Model
from .files import choose, is_weights, list_files
from .weights import bytes_in_memory, read_header

__all__ = ["Estimate", "estimate", "size_of"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model weighs, in bytes: its needed weights on the disk, and in memory once loaded. What running it takes besides (activations) is not in it."""

    disk_bytes: int
    memory_bytes: int
    #: Memory by the folder directly below that holds the weights; one file, or weights beside no folder, have the empty name.
    parts: tuple[tuple[str, int], ...]


def size_of(model: Model) -> int:
    """Give the bytes of a model's weights on the disk; of several copies of the same weights, the one that is needed counts."""
    return sum(path.stat().st_size for _, path in _weights(model))


def estimate(model: Model, dtype: str, *, quantization: str = "none") -> Estimate:
    """Estimate what a model weighs when it is loaded in `dtype`, and quantized then. What was saved quantized (GGUF, parts whose configuration says so) keeps its size.

    Raises:
        OSError, ValueError: a file is not whole.
    """
    disk = 0
    parts: dict[str, int] = {}
    for name, path in _weights(model):
        size = path.stat().st_size
        disk += size
        part = name.rpartition("/")[0].partition("/")[0]
        parts[part] = parts.get(part, 0) + (bytes_in_memory(read_header(path), dtype, quantization=quantization) if name.endswith(".safetensors") and not _is_quantized(path.parent) else size)
    return Estimate(disk, sum(parts.values()), tuple(sorted(parts.items())))


def _is_quantized(folder: Path) -> bool:
    """Whether the configuration beside weights says that they were quantized before they were saved."""
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False


def _weights(model: Model) -> list[tuple[str, Path]]:
    if model.path.is_file():
        return [(model.path.name, model.path)]
    files = dict(list_files(model.path, model.reference))
    return [(name, files[name]) for name in choose(files, model.variant) if is_weights(name)] + [(name, files[name]) for name in model.pickles if name in files]
