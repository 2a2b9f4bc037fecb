"""Call a node's function with checked values, leased models and its scratch folder; enforce its
timeout, and fall back when memory runs out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .._models import Identity, ModelPool, keeping, lend_and_call, with_replaced_parts
from .._plan import Frame, Keys, Step
from .._settings import devices
from .._store import Store, derive_folder
from .._types.artifact import Artifact
from .._types.digest import canonical, tagged
from .._types.models import Loader, Model
from .._types.node import Many, NodeType
from .._types.ports import BadValue, PortType, Record, describe
from .._types.values import Progress
from ..errors import Cancelled, ImagenFlowError
from .anonymous_files import AnonymousFiles
from .event_queue import EventQueue
from .model_lookahead import ModelLookahead
from .notes import Notes

__all__ = ["CallResult", "Caller"]


class CallResult(NamedTuple):
    """What a call returned, which memory fallback levels it needed, its duration, and the node's
    notes.
    """

    result: Any
    memory_levels: tuple[str, ...]
    took_s: float
    notes: tuple[str, ...] = ()
    #: The hardware and library settings that it ran with.
    conditions: Mapping[str, Any] = MappingProxyType({})


class Caller:
    """Calls the functions of a run's steps.

    Params:
        value: gives the live value of an artifact.
        lookahead: predicts which models will be needed later.
    """

    def __init__(
        self,
        keys: Keys,
        store: Store,
        pool: ModelPool,
        queue: EventQueue,
        *,
        value: Callable[[Artifact], Any],
        lookahead: ModelLookahead,
        cancel: threading.Event,
    ) -> None:
        self.keys = keys
        self.store = store
        self.pool = pool
        self.queue = queue
        self.value = value
        self.lookahead = lookahead
        self.cancel = cancel
        #: The hardware and library settings that steps run with; empty until one that uses torch
        #: has run.
        self.conditions: dict[str, Any] = {}
        self.anonymous = AnonymousFiles()
        self._checked_devices: set[str] = set()

    def call(self, frame: Frame, step: Step) -> CallResult:
        """Call a step's function with live values.

        Raises:
            Cancelled: the run was cancelled, and the node yielded.
            TimeoutError: it took longer than its `timeout`.
            ValueError: a value from an edge does not fit its port.
            ImagenFlowError: the node yields something other than Progress, or calls exit.
            Exception: whatever the node raises.
        """
        type_ = step.node.type
        assert isinstance(type_, NodeType)
        began = time.monotonic()
        notes = Notes()
        arguments, leased = self._arguments(step, type_)
        result, memory_levels, conditions = self._call_with_models(
            frame,
            step,
            arguments,
            leased,
            partial(self._call_function, step, type_, notes),
        )
        return CallResult(
            self.anonymous.restore(result),
            memory_levels,
            time.monotonic() - began,
            tuple(notes.notes),
            conditions,
        )

    def call_group(
        self, members: Sequence[tuple[Frame, Step]], many: Many
    ) -> list[CallResult] | None:
        """Call the function of a node type for many items, with steps that differ only in the ports
        that may vary; None if it cannot compute these together.

        Raises:
            Cancelled: the run was cancelled, and the node yielded.
            Exception: whatever the node raises; memory that runs out too.
        """
        frame, first = members[0]
        type_ = first.node.type
        assert isinstance(type_, NodeType)
        steps = [step for _, step in members]
        began = time.monotonic()
        notes = [Notes() for _ in steps]
        gathered = [self._arguments(step, type_) for step in steps]
        arguments, leased = gathered[0]
        for name in many.varies & arguments.keys():
            arguments[name] = [own[name] for own, _ in gathered]
        results, _, conditions = self._call_with_models(
            frame,
            first,
            arguments,
            leased,
            partial(self._call_many, steps, type_, many, notes),
            is_group=True,
        )
        if results is NotImplemented:
            return None
        if not isinstance(results, list | tuple) or len(results) != len(steps):
            raise ImagenFlowError(
                f"its function for many items returned {describe(results)}, not a list of"
                f" {len(steps)} results"
            )
        took_s = (time.monotonic() - began) / len(steps)
        return [
            CallResult(self.anonymous.restore(result), (), took_s, tuple(own.notes), conditions)
            for result, own in zip(results, notes, strict=True)
        ]

    def known_conditions(self, step: Step) -> Mapping[str, Any]:
        """Give the hardware and library settings that a step runs with."""
        assert isinstance(step.node.type, NodeType)
        if step.node.type.uses_torch:
            self._device(step)
        return self.conditions

    def _call_many(
        self,
        steps: Sequence[Step],
        type_: NodeType,
        many: Many,
        notes: Sequence[Notes],
        arguments: dict[str, Any],
        lent: Mapping[str, Any],
    ) -> Any:
        try:
            result = many.function(**_with_models(type_, arguments, lent))
            if not many.is_generator:
                return result

            def report(progress: Progress) -> None:
                for i, (step, own) in enumerate(zip(steps, notes, strict=True)):
                    if progress.item in (None, i):
                        self._take_note(step, own, progress)
                    self.queue.progress(step, progress)

            return self._run_generator(result, report, lambda: None)
        except SystemExit as error:
            raise ImagenFlowError(
                f"it called exit({error.code if error.code is not None else ''})"
            ) from error

    def _arguments(
        self, step: Step, type_: NodeType
    ) -> tuple[dict[str, Any], dict[str, tuple[Loader[Any], Any]]]:
        """Collect the arguments of a call, checked, and of those that are models to lease the
        loader and the model.
        """
        assert step.slots is not None
        arguments: dict[str, Any] = {}
        leased: dict[str, tuple[Loader[Any], Any]] = {}
        for name, slot in step.slots.items():
            port = type_.inputs[name].type
            loader = type_.loaders.get(name)
            value = self.value(slot)
            if name in type_.records:
                arguments[name] = self._checked_records(name, port, value, leased)
                continue
            if loader is None or not isinstance(value, Model | list):
                value = _checked(name, port, self.anonymous.anonymize(value))
            else:
                leased[name] = (loader, value)
            arguments[name] = value
        for name, injected in type_.injected.items():
            if injected == "scratch":
                arguments[name] = self.store.scratch(step.key or "")
            elif injected == "device":
                arguments[name] = self._device(step)
        return arguments, leased

    def _call_with_models(
        self,
        frame: Frame,
        step: Step,
        arguments: dict[str, Any],
        leased: dict[str, tuple[Loader[Any], Any]],
        call: Callable[[dict[str, Any], Mapping[str, Any]], Any],
        *,
        is_group: bool = False,
    ) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
        """Call a step's function with the models that it leases, and restore torch's settings; return
        its result, the memory fallback levels that were needed, and the hardware and library
        settings it ran with. A group has no levels: it is made smaller instead.
        """
        type_ = step.node.type
        assert isinstance(type_, NodeType)
        if type_.uses_torch:
            self._device(step)
        conditions = self.conditions

        def changed(settings: list[str], current: dict[str, Any]) -> None:
            nonlocal conditions
            if "number of threads" in settings and conditions:
                conditions = {**conditions, "threads": current["number of threads"]}
            self.queue.note(
                step,
                f"{type_.name} changed torch's {' and '.join(settings)} for the whole process;"
                " they were restored",
            )

        levels: tuple[str, ...] = ()
        with devices.RestoredSwitches(changed):
            if type_.uses_torch:
                result, levels = self._lend_and_call(
                    frame, step, type_, arguments, leased, call, is_group=is_group
                )
            else:
                result = call(arguments, {})
        return result, levels, conditions

    def _lend_and_call(
        self,
        frame: Frame,
        step: Step,
        type_: NodeType,
        arguments: dict[str, Any],
        leased: dict[str, tuple[Loader[Any], Any]],
        call: Callable[[dict[str, Any], Mapping[str, Any]], Any],
        *,
        is_group: bool,
    ) -> tuple[Any, tuple[str, ...]]:
        upcoming: list[Identity] = []
        if leased:
            companions = {
                port: model
                for port, (_, model) in leased.items()
                if isinstance(model, Model) and "[" not in port
            }
            leased.update(
                (port, (leased[port][0], with_replaced_parts(leased[port][0], port, companions)))
                for port in companions
            )
            upcoming = self.lookahead.upcoming(frame, step.node)
            self.pool.plan_ahead(upcoming, of=self)
        policy = self.keys.policy(step.node)
        level_ports = [name for name, what in type_.injected.items() if what == "memory_levels"]

        def work(lent: Mapping[str, Any], taken: tuple[str, ...]) -> Any:
            # Only now: its own models are loaded.
            self.pool.read_ahead(self.lookahead.with_models(upcoming))
            return call({**arguments, **dict.fromkeys(level_ports, taken)}, lent)

        with keeping(None if self.store.is_temporary else partial(self._derive, step)):
            return lend_and_call(
                self.pool,
                leased,
                work,
                device=policy.device,
                dtype=policy.dtype,
                settings=policy.settings,
                levels=() if is_group else policy.memory_levels,
                steps_down=type_.steps_down,
                loading=lambda what: self.queue.loading(step, what),
                left_changed=lambda what: self.queue.note(
                    step, f"{type_.name} left {what} modified; it is reloaded for other steps"
                ),
            )

    def _derive(
        self, step: Step, described: Mapping[str, Any], make: Callable[[Path], None]
    ) -> Path | None:
        """Return a folder that a loader derives from a model; None if the store cannot keep it."""
        try:
            return derive_folder(
                self.store,
                tagged("derived folder", canonical(described)),
                make,
                provenance={"derived": described},
                cancel=self.cancel,
            )
        except OSError as error:
            self.queue.note(
                step,
                f"the store {self.store.folder} cannot keep what was derived from a model"
                f" ({error.strerror or error}); it is derived again next time",
            )
            return None

    def _device(self, step: Step) -> str:
        """Give a step's device, once torch has confirmed it."""
        device, dtype = self.keys.device_and_dtype(step.node)
        if device not in self._checked_devices:
            if "torch" not in sys.modules:
                self.queue.loading(step, "torch")
            devices.check_torch(device, dtype)
            self._checked_devices.add(device)
            self.conditions = devices.conditions(device)
        return device

    def _checked_records(
        self, name: str, port: PortType, value: Any, leased: dict[str, tuple[Any, Any]]
    ) -> Any:
        """Check the records of a port, which come as mappings, and note which models they lease."""
        if value is None and port.optional:
            return None
        if port.element is not None and isinstance(value, list):
            return [
                self._checked_records(f"{name}[{i}]", port.element, item, leased)
                for i, item in enumerate(value)
            ]
        if port.record is None or not isinstance(value, dict):
            return _checked(name, port, value)
        fields: dict[str, Any] = {}
        for field in port.record.fields.values():
            at, one = f"{name}.{field.name}", value[field.name]
            if field.type.lends is not None and isinstance(one, Model | list):
                leased[at] = (field.type.lends, one)
            else:
                one = _checked(at, field.type, self.anonymous.anonymize(one))
            fields[field.name] = one
        return fields

    def _call_function(
        self,
        step: Step,
        type_: NodeType,
        notes: Notes,
        arguments: dict[str, Any],
        lent: Mapping[str, Any],
    ) -> Any:
        limit = step.node.timeout_s
        began = time.monotonic()
        try:
            result = type_.function(**_with_models(type_, arguments, lent))
            if type_.is_generator:

                def report(progress: Progress) -> None:
                    self._take_note(step, notes, progress)
                    self.queue.progress(step, progress)

                result = self._run_generator(result, report, lambda: _check_time(began, limit))
        except SystemExit as error:
            raise ImagenFlowError(
                f"it called exit({error.code if error.code is not None else ''})"
            ) from error
        except Exception as error:
            self.anonymous.restore_names(error, arguments)
            raise
        if limit is not None:
            _check_time(began, limit)
        return result

    def _take_note(self, step: Step, notes: Notes, progress: Progress) -> None:
        if progress.note and (note := notes.add(progress.note)) is not None:
            self.queue.note(step, note)

    def _run_generator(
        self, steps: Any, report: Callable[[Progress], None], check_time: Callable[[], None]
    ) -> Any:
        """Consume what a long-running node yields, and return its result."""
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as stop:
                    return stop.value
                if not isinstance(progress, Progress):
                    raise ImagenFlowError(f"it yielded {type(progress).__name__}, not Progress")
                if self.cancel.is_set():
                    raise Cancelled
                check_time()
                report(progress)
        finally:
            with suppress(
                Exception
            ):  # an error while stopping must not hide the reason for stopping
                steps.close()


def _checked(name: str, port: PortType, value: Any) -> Any:
    try:
        value = port.check(value)
    except BadValue as error:
        raise ValueError(f"its '{name}' {error}") from None
    return port.hand(value) if port.has_enum else value


def _with_models(
    type_: NodeType, arguments: dict[str, Any], lent: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete a function's arguments: insert the leased models, make instances of records, and
    leave out the optional ports of a group that are not given.
    """
    if not (lent or type_.left_out or type_.records):
        return arguments
    found = {
        name: lent.get(name, value)
        for name, value in arguments.items()
        if value is not None or name not in type_.left_out
    }
    for name, record in type_.records.items():
        if name in found:
            found[name] = _instances(record, found[name], lent, name)
    return found


def _instances(record: Record, value: Any, lent: Mapping[str, Any], at: str) -> Any:
    if isinstance(value, list):
        return [_instances(record, item, lent, f"{at}[{i}]") for i, item in enumerate(value)]
    if value is None:
        return None
    return record.cls(
        **{record.attributes[n]: lent.get(f"{at}.{n}", field) for n, field in value.items()}
    )


def _check_time(began: float, limit: float | None) -> None:
    if limit is not None and (took := time.monotonic() - began) > limit:
        raise TimeoutError(f"it took {took:.1f} s, longer than its timeout of {limit:g} s")
