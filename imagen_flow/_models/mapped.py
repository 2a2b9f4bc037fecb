"""Copy loaded weights out of the files that they are mapped from.

safetensors and GGUF files are not read but mapped into memory. While a model is loaded, writing to
its file changes its weights, and truncating the file crashes the process. A copy takes the memory
that computing would have taken anyway (on the CPU all weights are read at every step), and once a
part of the time of one step.

Source: proc(5), ``/proc/self/maps``. Where that does not exist, all weights on the CPU are copied.
"""

from __future__ import annotations

import dataclasses
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["available_bytes", "objects_in", "own_tensors", "tensors_of"]

#: How deep an object is searched for modules and tensors.
_DEPTH = 6

#: The bytes of a cache line.
_LINE = 64

#: A larger container is a vocabulary, and not searched for weights.
_MAX_ITEMS = 20_000

#: Bytes of memory that copying leaves free, at least.
_SPARE = 512 << 20


def own_tensors(value: Any) -> bool:
    """Copy all weights in a loaded object that are mapped from files. Tied weights stay tied.

    Outputs: whether the object is independent of its files. False if it has no weights (it will
        read them later), or if the copies would not fit into memory, so that none was made.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    tensors = list(tensors_of(value))
    files = _Files()
    mapped = [
        tensor
        for tensor in tensors
        if tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.numel()
        and tensor.data_ptr() in files
    ]
    if (
        mapped
        and sum(tensor.numel() * tensor.element_size() for tensor in mapped) > available_bytes()
    ):
        return False
    copies: dict[tuple[Any, ...], Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for tensor in mapped:
            at = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            plain = tensor.detach()
            if at not in copies:
                copies[at] = _copy(plain)
            tensor.data = copies[at]
    return bool(tensors)


def _copy(tensor: Any) -> Any:
    """Copy a tensor to the same alignment: libraries for matrix multiplication round differently
    when the address modulo a cache line differs.
    """
    torch = sys.modules["torch"]
    size = tensor.element_size()
    extent = 1 + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    if type(tensor) is not torch.Tensor or tensor.data_ptr() % size or extent != tensor.numel():
        return tensor.clone(memory_format=torch.preserve_format)
    room = torch.empty(extent * size + _LINE, dtype=torch.uint8)
    start = (tensor.data_ptr() - room.data_ptr()) % _LINE
    copy = (
        room[start : start + extent * size]
        .view(tensor.dtype)
        .as_strided(tensor.shape, tensor.stride())
    )
    return copy.copy_(tensor)


def tensors_of(value: Any) -> Iterator[Any]:
    """Yield each tensor in a loaded object once: parameters and buffers of modules, and tensors in
    containers and attributes. Of a tensor subclass that wraps others, these.
    """
    torch = sys.modules["torch"]
    seen: set[int] = set()
    for found in objects_in(value).values():
        pending = (
            [*found.parameters(), *found.buffers()][::-1]
            if isinstance(found, torch.nn.Module)
            else [found]
            if isinstance(found, torch.Tensor)
            else []
        )
        while pending:
            tensor = pending.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if hasattr(tensor, "__tensor_flatten__"):
                pending += [
                    inner
                    for name in tensor.__tensor_flatten__()[0]
                    if isinstance(inner := getattr(tensor, name), torch.Tensor)
                ]
            else:
                yield tensor


def objects_in(value: Any) -> dict[str, Any]:
    """Return a loaded object and all that it holds in containers and attributes, by path. Modules
    are not searched, nor is anything twice.
    """
    torch = sys.modules.get("torch")
    seen: set[int] = set()
    found: dict[str, Any] = {}
    pending = [("", value, _DEPTH)]
    while pending:
        path, one, left = pending.pop()
        if (
            one is None
            or isinstance(one, str | bytes | int | float | complex | Path | type)
            or id(one) in seen
        ):
            continue
        seen.add(id(one))
        found[path] = one
        if left == 0 or (torch is not None and isinstance(one, torch.nn.Module | torch.Tensor)):
            continue
        pending += [
            (f"{path}.{name}" if path else name, inner, left - 1)
            for name, inner in reversed(list(_held(one)))
        ]
    return found


def _held(one: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(one, Mapping | list | tuple | set | frozenset):
        if len(one) <= _MAX_ITEMS:
            yield from (
                (str(name), inner)
                for name, inner in (one.items() if isinstance(one, Mapping) else enumerate(one))
            )
    elif dataclasses.is_dataclass(one):
        yield from (
            (field.name, getattr(one, field.name, None)) for field in dataclasses.fields(one)
        )
    elif not isinstance(one, FunctionType | MethodType | ModuleType):
        yield from list(getattr(one, "__dict__", {}).items())


class _Files:
    """The addresses at which files are mapped into this process."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._known = True
        try:
            lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
        except OSError:
            self._known = False
            return
        for line in lines:
            fields = line.split(None, 5)
            if len(fields) > 4 and fields[4] != "0":
                start, _, end = fields[0].partition("-")
                self._starts.append(int(start, 16))
                self._ends.append(int(end, 16))

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return not self._known or (at >= 0 and address < self._ends[at])


def available_bytes() -> int:
    """Return how many bytes of memory are available; unlimited where the system does not tell."""
    try:
        line = next(
            line
            for line in Path("/proc/meminfo").read_text("ascii").splitlines()
            if line.startswith("MemAvailable:")
        )
        return int(line.split()[1]) * 1024 - _SPARE
    except (OSError, ValueError, StopIteration, IndexError):
        return sys.maxsize
