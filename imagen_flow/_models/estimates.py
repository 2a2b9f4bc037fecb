"""Estimate how large a model is on the disk and how much memory its weights will take, from the
headers of its files, without torch.
"""

from __future__ import annotations

from pathlib import Path

from .._system.dataclass import dataclass
from .._types.models import Model, read_json
from ..errors import ModelError
from .contents import read_header
from .files import completing_files, is_weights, list_files, needed_files
from .weights import bytes_in_memory

__all__ = ["Estimate", "estimate", "size_of"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The size of a model's weights in bytes, on the disk and once loaded in memory. Memory that
    running it takes besides (activations) is not included.
    """

    disk_bytes: int
    memory_bytes: int
    #: Memory by the folder directly below that holds the weights. The name is empty for weights in
    #: no folder.
    parts: tuple[tuple[str, int], ...]


def size_of(model: Model, *parts: str) -> int:
    """Return the size in bytes of a model's weights on the disk, or of those in some of its folders
    (the empty name: those in no folder). Of several copies of the weights, the one that is needed
    counts.
    """
    return sum(
        path.stat().st_size
        for name, path in _weights(model)
        if not parts or _part_of(name) in parts
    )


def estimate(
    model: Model, dtype: str, *, quantization: str = "none", layerwise_casting: str = "none"
) -> Estimate:
    """Estimate the size of a model loaded in `dtype` and quantized, or with the weights of layers
    cast. Weights that were saved quantized (GGUF, parts whose configuration says so) keep their size. Parts of other models that
    replace its own are counted instead.

    Raises:
        OSError, ValueError: a file is damaged.
    """
    disk = 0
    parts: dict[str, int] = {}
    for name, path in _weights(model):
        size = path.stat().st_size
        disk += size
        header = read_header(model, path) if name.endswith(".safetensors") else None
        loaded = None if _is_quantized(model, path.parent) else dtype
        for part, beginning in (
            model.base.holds
            if model.base is not None and path == model.path
            else [(_part_of(name), "")]
        ):
            held = (
                {tensor: entry for tensor, entry in header.items() if tensor.startswith(beginning)}
                if header is not None
                else None
            )
            parts[part] = parts.get(part, 0) + (
                bytes_in_memory(
                    held, loaded, quantization=quantization, layerwise_casting=layerwise_casting
                )
                if held is not None
                else size
            )
    for name, other in model.replaced_parts:
        weighs = estimate(
            other, dtype, quantization=quantization, layerwise_casting=layerwise_casting
        )
        disk += weighs.disk_bytes
        parts[name] = dict(weighs.parts).get(name, weighs.memory_bytes)
    return Estimate(disk, sum(parts.values()), tuple(sorted(parts.items())))


def _part_of(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _is_quantized(model: Model, folder: Path) -> bool:
    """Whether the configuration beside weights says that they were saved quantized."""
    try:
        return bool(read_json(model, str(folder / "config.json")).get("quantization_config"))
    except ModelError:
        return False


def _weights(model: Model) -> list[tuple[str, Path]]:
    """List the files of weights that are needed, by names relative to the model's folder."""
    alone = [(model.path.name, model.path)] if model.path.is_file() else []
    if alone and (model.base is None or model.configurations is None):
        return alone
    files = dict(list_files(model.folder, model.reference))
    needed = (
        needed_files(files, model.variant)
        if model.base is None
        else completing_files(files, model.base.lacks, model.variant)
    )
    return (
        alone
        + [(name, files[name]) for name in needed if is_weights(name)]
        + [(name, files[name]) for name in model.pickles if name in files]
    )
