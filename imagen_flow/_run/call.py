"""Call a node's function: with checked values, leased models, its scratch folder; in time, and
again when memory ran out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from .._models import ModelPool, joined, lend_and_call
from .._plan import Frame, Keys, Step
from .._settings import devices
from .._store import Store
from .._types.artifact import Artifact
from .._types.node import NodeType
from .._types.ports import BadValue
from .._types.values import Model, Progress
from ..errors import Cancelled, ImagenFlowError
from .event_queue import Report
from .model_lookahead import Ahead
from .notes import Notes
from .unnamed import Unnamed

__all__ = ["Called", "Caller"]


class Called(NamedTuple):
    """What a call gave, what it took of the memory ladder, how long, what the node noted, and what
    it ran on.
    """

    result: Any
    rungs: tuple[str, ...]
    took_s: float
    notes: tuple[str, ...] = ()
    #: What it ran on.
    conditions: Mapping[str, Any] = MappingProxyType({})


class Caller:
    """Calls the functions of a run's steps.

    Params:
        value: gives the live value of an artifact.
        ahead: knows which models will be needed after this one.
    """

    def __init__(
        self,
        keys: Keys,
        store: Store,
        pool: ModelPool,
        report: Report,
        *,
        value: Callable[[Artifact], Any],
        ahead: Ahead,
        cancel: threading.Event,
    ) -> None:
        self.keys = keys
        self.store = store
        self.pool = pool
        self.report = report
        self.value = value
        self.ahead = ahead
        self.cancel = cancel
        #: What steps run on; empty until one that uses torch has run.
        self.conditions: dict[str, Any] = {}
        self.unnamed = Unnamed()
        self._checked: set[str] = set()

    def call(self, frame: Frame, step: Step) -> Called:
        """Call a step's function with live values.

        Raises:
            Cancelled: the run was cancelled, and the node yielded.
            TimeoutError: it took longer than its `timeout`.
            ValueError: a value that came on an edge does not fit its port.
            ImagenFlowError: the node yields what is no progress, or calls exit.
            Exception: whatever the node raises.
        """
        type_ = step.node.type
        assert isinstance(type_, NodeType) and step.slots is not None
        given: dict[str, Any] = {}
        began = time.monotonic()
        notes = Notes()
        leased: dict[str, tuple[Any, Any]] = {}
        for name, slot in step.slots.items():
            port = type_.inputs[name].type
            loader = type_.loaders.get(name)
            value = self.value(slot)
            if loader is None or not isinstance(value, Model | list):
                value = self.unnamed.hide(value)
                try:
                    value = port.check(value)
                except BadValue as error:
                    raise ValueError(f"its '{name}' {error}") from None
                if port.has_enum:
                    value = port.hand(value)
            else:
                leased[name] = (loader, value)
            given[name] = value
        for name, what in type_.injected.items():
            if what == "scratch":
                given[name] = self.store.scratch(step.key or "")
            elif what == "device":
                given[name] = self._place(step)
        if type_.uses_torch:
            self._place(step)
        ran_on = self.conditions

        def changed(names: list[str], now: dict[str, Any]) -> None:
            nonlocal ran_on
            if "number of threads" in names and ran_on:
                ran_on = {**ran_on, "threads": now["number of threads"]}
            self.report.note(
                step,
                f"{type_.name} changed torch's {' and '.join(names)} for all that comes after it;"
                " put back",
            )

        with devices.switches_held(changed):
            result, rungs = self._lent(step, type_, given, leased, frame, notes)
        return Called(
            self.unnamed.show(result), rungs, time.monotonic() - began, tuple(notes.said), ran_on
        )

    def _lent(
        self,
        step: Step,
        type_: NodeType,
        given: dict[str, Any],
        leased: dict[str, tuple[Any, Any]],
        frame: Frame,
        notes: Notes,
    ) -> tuple[Any, tuple[str, ...]]:
        """Call a step's function with the models that it leases; give what it gave, and the rungs
        of the memory ladder that were taken.
        """
        if type_.uses_torch:
            if leased:
                beside = {port: one for port, (_, one) in leased.items() if isinstance(one, Model)}
                leased.update(
                    (port, (leased[port][0], joined(leased[port][0], port, beside)))
                    for port in beside
                )
                self.pool.plan_ahead(self.ahead.identities(frame, step.node), of=self)
            policy = self.keys.policy(step.node)
            told = [name for name, what in type_.injected.items() if what == "rungs"]
            return lend_and_call(
                self.pool,
                leased,
                lambda lent, taken: self._once(
                    step, type_, {**given, **lent, **dict.fromkeys(told, taken)}, notes
                ),
                device=policy.device,
                dtype=policy.dtype,
                settings=policy.settings,
                rungs=policy.rungs,
                steps_down=type_.steps_down,
                loading=lambda what: self.report.loading(step, what),
                left_changed=lambda what: self.report.note(
                    step, f"{type_.name} left {what} changed; other steps load it anew"
                ),
            )
        return self._once(step, type_, given, notes), ()

    def _place(self, step: Step) -> str:
        """Give a step's device, once torch has agreed to it."""
        device, dtype = self.keys.place(step.node)
        if device not in self._checked:
            if "torch" not in sys.modules:
                self.report.loading(step, "torch")
            devices.check(device, dtype)
            self._checked.add(device)
            self.conditions = devices.conditions(device)
        return device

    def _once(self, step: Step, type_: NodeType, given: dict[str, Any], notes: Notes) -> Any:
        limit = step.node.timeout_s
        began = time.monotonic()
        try:
            result = type_.function(**given)
            if type_.is_generator:
                result = self._follow(step, result, notes, began, limit)
        except SystemExit as left:
            raise ImagenFlowError(
                f"it called exit({left.code if left.code is not None else ''})"
            ) from left
        except Exception as error:
            self.unnamed.tell(error, given)
            raise
        _check_time(began, limit)
        return result

    def _follow(
        self, step: Step, steps: Any, notes: Notes, began: float, limit: float | None
    ) -> Any:
        """Go through what a long node yields, and give what it returns."""
        try:
            while True:
                try:
                    said = next(steps)
                except StopIteration as stop:
                    return stop.value
                if not isinstance(said, Progress):
                    raise ImagenFlowError(f"it yielded {type(said).__name__}, not Progress")
                if self.cancel.is_set():
                    raise Cancelled
                _check_time(began, limit)
                if said.note and (note := notes.add(said.note)) is not None:
                    self.report.note(step, note)
                self.report.progress(step, said)
        finally:
            with suppress(Exception):  # what it does when it is stopped must not hide why it is
                steps.close()


def _check_time(began: float, limit: float | None) -> None:
    if limit is not None and (took := time.monotonic() - began) > limit:
        raise TimeoutError(f"it took {took:.1f} s, and its timeout is {limit:g} s")
