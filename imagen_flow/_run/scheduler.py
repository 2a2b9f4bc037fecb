"""Schedule the steps of a run across its items.

Each item is walked by itself, from its outputs back, until it needs a step that leases models.
Which of those steps runs next is decided here: one whose models are in memory, or fit beside those
that are, first that of the earliest item, so that results come early. Where a model would be evicted
for another, its work is done first, for as many items as may wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from .._models import Identity, ModelPool
from .._plan import Frame, State
from .._store import Damaged
from ..errors import Cancelled
from .event_queue import EventQueue
from .item_walk import ItemWalk, Ready
from .model_lookahead import leased_weights
from .output_delivery import OutputDelivery
from .step_runner import Rekey, StepRunner

__all__ = ["Scheduler"]

#: How many items may wait for a model while others go on.
WINDOW = 64

#: The share of the values in memory, of all that may be there, from which on no further item starts
#: before one is finished.
FULL = 0.5


@dataclass(eq=False, slots=True)
class _Waiting:
    """An item that waits for steps to be run, and the weights of the models that they lease."""

    position: int
    top: Frame
    walk: Generator[Ready, None, None]
    ready: Ready
    weights: dict[Identity, int]


class Scheduler:
    """Evaluates the outputs of all items of one run."""

    def __init__(
        self,
        state: State,
        runner: StepRunner,
        pool: ModelPool,
        delivery: OutputDelivery,
        queue: EventQueue,
        *,
        cancel: threading.Event,
    ) -> None:
        self.state = state
        self.runner = runner
        self.pool = pool
        self.delivery = delivery
        self.queue = queue
        self.cancel = cancel
        self._waiting: list[_Waiting] = []

    def run(self) -> None:
        """Evaluate and deliver every output.

        Raises:
            Cancelled: the run was cancelled.
        """
        coming = deque(enumerate(self.state.tops))
        while coming or self._waiting:
            evicts, chosen = self._choose()
            if coming and (chosen is None or (evicts and self._has_room())):
                self._start(*coming.popleft())
            else:
                assert chosen is not None
                self._run(chosen)

    def _choose(self) -> tuple[bool, _Waiting | None]:
        """Choose whose steps are run next, and tell whether models are evicted for them."""
        if len(self._waiting) <= 1:
            one = self._waiting[0] if self._waiting else None
            return one is not None and self.pool.would_evict(one.weights), one
        evicts: dict[tuple[Identity, ...], bool] = {}
        for one in self._waiting:
            models = tuple(one.weights)
            if models not in evicts:
                evicts[models] = self.pool.would_evict(one.weights)
        chosen = min(self._waiting, key=lambda one: (evicts[tuple(one.weights)], one.position))
        return evicts[tuple(chosen.weights)], chosen

    def _has_room(self) -> bool:
        """Whether one more item may start, and wait with its values in memory."""
        cache = self.runner.cache
        return len(self._waiting) < WINDOW and cache.total_bytes <= FULL * cache.max_bytes

    def _start(self, position: int, top: Frame) -> None:
        walk = ItemWalk(top, self.state, self.runner, self.delivery, self.queue, cancel=self.cancel)
        steps = walk.evaluate()
        self._wait(position, top, steps, next(steps, None))

    def _run(self, one: _Waiting) -> None:
        """Run the steps that an item waits for, and let it go on."""
        self._waiting.remove(one)
        restarts = self.runner.restarts
        try:
            self._run_steps(one.ready)
        except (Rekey, Damaged) as error:
            self._go_on(one, error)
        else:
            self._go_on(one)
        if restarts != self.runner.restarts:
            # What the others wait for is outdated: they settle it again.
            outdated, self._waiting = self._waiting, []
            for other in outdated:
                self._go_on(other)

    def _run_steps(self, ready: Ready) -> None:
        while ready.steps:
            if self.cancel.is_set():
                raise Cancelled
            index, step = ready.steps.popleft()
            done = self.runner.run(ready.frame, step, fresh=ready.fresh)
            ready.walk.finish_step(ready, index, done)

    def _go_on(self, one: _Waiting, error: Exception | None = None) -> None:
        try:
            ready = next(one.walk) if error is None else one.walk.throw(error)
        except StopIteration:
            ready = None
        self._wait(one.position, one.top, one.walk, ready)

    def _wait(
        self,
        position: int,
        top: Frame,
        walk: Generator[Ready, None, None],
        ready: Ready | None,
    ) -> None:
        """Have an item wait for steps; one without any is finished."""
        if ready is not None:
            weights = leased_weights(self.state, ready.node, ready.steps[0][1].slots or {})
            self._waiting.append(_Waiting(position, top, walk, ready, weights))
        elif top.item:
            self.delivery.finish(top)
            self.runner.release(top)
