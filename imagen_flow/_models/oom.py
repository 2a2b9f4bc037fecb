"""Tell when memory ran out, and try again on the next rung of a ladder.

=========== ============
=====================================================================================================================
rung        pixels       what is done before the call is tried again
=========== ============
=====================================================================================================================
``evict``   the same     models that nobody leases are dropped
``offload`` the same     the models are loaded anew with ``offload: model``: they wait on the host
and come to the device in turn
``stream``  the same     the models are loaded anew with ``offload: layers``: their layers come to
the device one after another
``slice``   1e-6         the node decodes its pictures one by one (a convolution of several is not
bit-equal to that of each; one alone comes out the same)
``tile``    seen         the node decodes in tiles
``half``    seen         the models are loaded anew in half precision
=========== ============
=====================================================================================================================

Which rungs may be taken is the policy of the step's key; which were, is recorded with what the step
gave.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["give_back", "is_out_of_memory", "with_memory_ladder"]

T = TypeVar("T")

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough"
    r" memory|(CUDNN|CUBLAS|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED|Invalid buffer size",
    re.IGNORECASE,
)


class Evicting(Protocol):
    """What holds models that can be dropped."""

    def evict_idle(self) -> int: ...


def is_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, is that memory ran out: torch's own class, or one of
    the messages of the libraries below it.
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


def with_memory_ladder(
    call: Callable[[tuple[str, ...]], T], pool: Evicting, rungs: Sequence[str] = ("evict",)
) -> tuple[T, tuple[str, ...]]:
    """Call, and if memory runs out step down the ladder and call again.

    Params:
        call: gets the rungs taken so far; what it leased outside is not evicted under it.
        rungs: in order. Before each further try idle models are dropped; rungs other than ``evict``
            are for `call` to act on.
    Outputs: what `call` gave, and the rungs that it took.
    Raises: what `call` raised, when the last rung did not help either, or when it was not for want
        of memory.
    """
    taken: tuple[str, ...] = ()
    for rung in rungs:
        try:
            return call(taken), taken
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here, outside the except block, is the traceback gone that kept the failed call's
        # tensors alive.
        if not pool.evict_idle():
            give_back()
        taken += (rung,)
    return call(taken), taken


def give_back() -> None:
    """Free what nothing refers to any more, here and on the devices."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if hasattr(torch, "mps") and torch.backends.mps.is_available():
        torch.mps.empty_cache()
