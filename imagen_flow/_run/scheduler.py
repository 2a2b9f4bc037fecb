"""Schedule the steps of a run across its items.

Each item is walked by itself, from its outputs back, until it needs a step that leases models.
Which of those steps runs next is decided here: one whose models are in memory, or fit beside those
that are, first that of the earliest item, so that results come early. Where a model would be evicted
for another, its work is done first, for as many items as may wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .._models import Identity, ModelPool
from .._plan import Frame, State, Step
from .._store import Damaged
from ..errors import Cancelled
from .event_queue import EventQueue
from .grouping import Grouping, Member
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
    """Evaluates the outputs of all items of one run.

    Params:
        has_valueless: whether the plan knows of steps that have no value.
    """

    def __init__(
        self,
        state: State,
        runner: StepRunner,
        pool: ModelPool,
        grouping: Grouping,
        delivery: OutputDelivery,
        queue: EventQueue,
        *,
        cancel: threading.Event,
        has_valueless: bool,
    ) -> None:
        self.state = state
        self.runner = runner
        self.pool = pool
        self.grouping = grouping
        self.delivery = delivery
        self.queue = queue
        self.cancel = cancel
        self.has_valueless = has_valueless
        self._waiting: list[_Waiting] = []
        self._known_weights: dict[Identity, int] = {}

    def run(self, *, stop: Callable[[], bool]) -> None:
        """Evaluate and deliver every output.

        Params:
            stop: whether no further item may start.

        Raises:
            Cancelled: the run was cancelled.
        """
        coming = deque(enumerate(self.state.tops))
        while coming or self._waiting:
            if coming and stop():
                coming.clear()
                continue
            chosen, is_pressing = self._choose()
            if coming and (chosen is None or (not is_pressing and self._has_room())):
                self._start(*coming.popleft())
            else:
                assert chosen is not None
                self._run(chosen)

    def _choose(self) -> tuple[_Waiting | None, bool]:
        """Choose whose step is run next, and tell whether it should be at once: no model is evicted
        for it, and no further item can be computed with it.
        """
        evicts: dict[tuple[Identity, ...], bool] = {}
        for one in self._waiting:
            models = tuple(one.weights)
            if models not in evicts:
                evicts[models] = self.pool.would_evict(one.weights)
        chosen = min(
            self._waiting,
            key=lambda one: (evicts[tuple(one.weights)], one.position),
            default=None,
        )
        if chosen is None or evicts[tuple(chosen.weights)]:
            return chosen, False
        step = chosen.ready.steps[0][1]
        has_group = self.grouping.group_of(step) is not None
        return chosen, not has_group or len(self._members(chosen)) >= self.grouping.largest(step)

    def _members(self, chosen: _Waiting) -> list[tuple[_Waiting, int, Step]]:
        """Give the first step that an item waits for, and those that can be computed with it."""
        index, first = chosen.ready.steps[0]
        found = [(chosen, index, first)]
        group = self.grouping.group_of(first)
        if group is None:
            return found
        keys = {first.key}
        largest = self.grouping.largest(first)
        for one in sorted(self._waiting, key=lambda one: one.position):
            for index, step in one.ready.steps:
                if len(found) >= largest:
                    return found
                if step.key not in keys and self.grouping.group_of(step) == group:
                    keys.add(step.key)
                    found.append((one, index, step))
        return found

    def _has_room(self) -> bool:
        """Whether one more item may start, and wait with its values in memory."""
        cache = self.runner.cache
        return len(self._waiting) < WINDOW and cache.total_bytes <= FULL * cache.max_bytes

    def _start(self, position: int, top: Frame) -> None:
        walk = ItemWalk(
            top,
            self.state,
            self.runner,
            self.delivery,
            self.queue,
            cancel=self.cancel,
            has_valueless=self.has_valueless,
        )
        steps = walk.evaluate()
        self._wait(position, top, steps, next(steps, None))

    def _run(self, chosen: _Waiting) -> None:
        """Run a step, together with those that can be, and let the items go on that waited for it."""
        members = self._members(chosen)
        restarts = self.runner.restarts
        current = chosen
        try:
            results: list[Step | None] = [None]
            if len(members) > 1:
                results = self.grouping.run(
                    [Member(one.ready.frame, step, one.ready.fresh) for one, _, step in members]
                )
            for (current, index, step), result in zip(members, results, strict=True):
                if self.cancel.is_set():
                    raise Cancelled
                ready = current.ready
                done = result or self.runner.run(ready.frame, step, fresh=ready.fresh)
                ready.steps = deque(entry for entry in ready.steps if entry[0] != index)
                ready.walk.finish_step(ready, index, done)
            self.grouping.review()
        except (Rekey, Damaged) as error:
            self._waiting.remove(current)
            self._go_on(current, error)
        if restarts != self.runner.restarts:
            # What the others wait for is outdated: they settle it again.
            outdated, self._waiting = self._waiting, []
            for other in outdated:
                self._go_on(other)
            return
        for one in dict.fromkeys(one for one, _, _ in members):
            if one in self._waiting and not one.ready.steps:
                self._waiting.remove(one)
                self._go_on(one)
            elif one in self._waiting:
                one.weights = self._weights(one.ready)

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
            self._waiting.append(_Waiting(position, top, walk, ready, self._weights(ready)))
        elif top.item:
            self.delivery.finish(top)
            self.runner.release(top)

    def _weights(self, ready: Ready) -> dict[Identity, int]:
        slots = ready.steps[0][1].slots or {}
        return leased_weights(self.state, ready.node, slots, self._known_weights)
