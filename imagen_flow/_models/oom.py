"""Recognise that memory ran out, and try again on the next memory fallback level.

=========== ======== ====================================================================
level       pixels   what is done before the call is tried again
=========== ======== ====================================================================
``evict``   same     models that nobody leases are evicted
``offload`` same     the models are loaded again with ``offload: model``: they wait on
                     the host and come to the device in turn
``stream``  same     the models are loaded again with ``offload: layers``: their layers
                     come to the device one after another
``slice``   1e-6     the node decodes pictures one by one (a convolution of several is
                     not bit-equal to that of each; a single picture comes out the same)
``tile``    visible  the node decodes in tiles
``half``    visible  the models are loaded again in half precision
=========== ======== ====================================================================

The levels that a step may use are part of its key; the ones that it used are recorded with its
result.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["give_back", "is_out_of_memory", "with_memory_fallback"]

T = TypeVar("T")

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough"
    r" memory|(CUDNN|CUBLAS|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED|Invalid buffer size",
    re.IGNORECASE,
)


class Evicting(Protocol):
    """Holds models that can be evicted."""

    def evict_idle(self) -> int: ...


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or its cause, is that memory ran out: torch's own class, or one of the
    messages of the libraries below it.
    """
    while error is not None:
        if (
            isinstance(error, MemoryError)
            or type(error).__name__ == "OutOfMemoryError"
            or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)))
        ):
            return True
        error = error.__cause__
    return False


def with_memory_fallback(
    call: Callable[[tuple[str, ...]], T], pool: Evicting, levels: Sequence[str] = ("evict",)
) -> tuple[T, tuple[str, ...]]:
    """Call, and if memory runs out, call again on the next level.

    Params:
        call: gets the levels reached so far; what it leased outside is not evicted under it.
        levels: in order. Before each further try idle models are evicted; levels other than
            ``evict`` are for `call` to act on.
    Outputs: what `call` returned, and the levels that it needed.
    Raises: what `call` raised, if the last level did not help either, or if memory was not the
        cause.
    """
    reached: tuple[str, ...] = ()
    for level in levels:
        try:
            return call(reached), reached
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here, outside the except block, is the traceback gone that kept the failed call's
        # tensors alive.
        if not pool.evict_idle():
            give_back()
        reached += (level,)
    return call(reached), reached


def give_back() -> None:
    """Return unreferenced memory to the system and to the devices."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if hasattr(torch, "mps") and torch.backends.mps.is_available():
        torch.mps.empty_cache()
