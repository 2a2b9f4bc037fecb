"""Give each step the implementation of attention that it asks for, also where several steps compute
at once.

torch's switch is one for the whole process, and what it is set to changes the last bits of a
picture: a step that ran under another's would be kept under a key that is not its own. So steps
that ask for
the same run beside one another, and others wait for them, in the order in which they came.
A step may run a graph of its own, and waits for it: for so long it gives its hold to the steps of
    that graph.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .run_threads import STARTED_IN

__all__ = ["attending"]

#: How long those who could begin at once let others go first who came before them.
PATIENCE_S = 60.0


@dataclass(eq=False)
class _Hold:
    """A step's hold of the switch: whether it has it now, to how many steps of graphs that it runs
    it has given it, and whether it has ended.
    """

    name: str
    has: bool = False
    given: int = 0
    over: bool = False


class _Switch:
    """What torch's switch is set to, and by how many. It is torch's, one for the process, and so is
    this.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.name = "auto"
        self.count = 0
        self.queue: deque[_Hold] = deque()
        self.set = ExitStack()

    def take(self, hold: _Hold, *, at_once: bool = False) -> None:
        """Wait until it can be set as wanted, and set it; or until that is no longer wanted, when
        it is taken back.
        """
        with self.changed:
            if not at_once:
                self.queue.append(hold)
                self.changed.wait_for(
                    lambda: (
                        self._is_ready(hold) and (self.queue[0] is hold or not _is_wanted(hold))
                    ),
                    timeout=PATIENCE_S,
                )
                # Who came first may wait for one that waits for this.
                self.changed.wait_for(lambda: self._is_ready(hold))
                self.queue.remove(hold)
            if _is_wanted(hold):
                if not self.count:
                    self.name = hold.name
                    self.set.enter_context(_only(hold.name))
                self.count += 1
                hold.has = True
            self.changed.notify_all()

    def leave(self, hold: _Hold) -> None:
        """Let others have it."""
        with self.changed:
            if hold.has:
                hold.has = False
                self.count -= 1
                if not self.count:
                    self.set.close()
            self.changed.notify_all()

    def _is_ready(self, hold: _Hold) -> bool:
        return not self.count or self.name == hold.name or not _is_wanted(hold)


def _is_wanted(hold: _Hold) -> bool:
    return not (hold.has or hold.given or hold.over)


_SWITCH = _Switch()


@contextmanager
def attending(name: str) -> Iterator[None]:
    """Let torch use one implementation of attention alone, or with ``auto`` the one that it
    chooses, for as long as the context lasts; wait while others use another.

    Source: ``torch.nn.attention.sdpa_kernel``; where that implementation cannot do what is asked,
        torch raises.
    """
    outer, hold = STARTED_IN.get(), _Hold(name)
    alike = outer is None or outer.name == name
    if not alike:
        with _SWITCH.changed:
            outer.given += 1
        _SWITCH.leave(outer)
    _SWITCH.take(hold, at_once=outer is not None and alike and outer.has)
    before = STARTED_IN.set(hold)
    try:
        yield
    finally:
        STARTED_IN.reset(before)
        with _SWITCH.changed:
            hold.over = True
        _SWITCH.leave(hold)
        if not alike:
            with _SWITCH.changed:
                outer.given -= 1
            _SWITCH.take(outer)


@contextmanager
def _only(name: str) -> Iterator[None]:
    if name == "auto":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {
        "math": SDPBackend.MATH,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    with sdpa_kernel(kernels[name]):
        yield
