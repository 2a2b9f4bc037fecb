"""Keep the values of a run in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

__all__ = ["CACHE_BYTES", "ValueCache"]

#: How many bytes of values stay in memory; beyond that the least recently used are read from the
#: store again.
CACHE_BYTES = 1 << 30


_SMALL = frozenset({int, float, bool, type(None)})


class ValueCache(dict[str, Any]):
    """Values by digest, least recently used first, bounded by their size."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self.total_bytes = 0
        self.sizes: OrderedDict[str, int] = OrderedDict()

    def __getitem__(self, digest: str) -> Any:
        value = dict.__getitem__(self, digest)
        self.sizes.move_to_end(digest)
        return value

    def add(self, digest: str, value: Any) -> None:
        if digest in self.sizes:
            self.sizes.move_to_end(digest)
            return
        size = _size(value)
        self[digest] = value
        self.sizes[digest] = size
        self.total_bytes += size
        while self.total_bytes > self.max_bytes and len(self.sizes) > 1:
            oldest, freed = self.sizes.popitem(last=False)
            del self[oldest]
            self.total_bytes -= freed

    def drop(self, digest: str) -> None:
        """Let go of a value that is not going to be needed, if it is here."""
        if digest in self.sizes:
            self.total_bytes -= self.sizes.pop(digest)
            del self[digest]


def _size(value: Any) -> int:
    if type(value) in _SMALL:
        return 64
    data = getattr(value, "pixels", None)
    if data is None:
        data = getattr(value, "data", getattr(value, "samples", value))
    size = getattr(data, "nbytes", None)
    return (
        int(size) if isinstance(size, int) else len(data) if isinstance(data, str | bytes) else 64
    )
