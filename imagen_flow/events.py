"""What a run says while it goes: frozen values, one class a happening.

A run is an iterator of these. Times are seconds since the run began. `as_json` gives the line that
``imagen-flow run --json-events`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = [
    "Event",
    "OutputAbsent",
    "OutputFailed",
    "OutputWritten",
    "RunFinished",
    "RunStarted",
    "StepAbsent",
    "StepCached",
    "StepDamaged",
    "StepFailed",
    "StepFinished",
    "StepLoading",
    "StepNote",
    "StepProgress",
    "StepSkipped",
    "StepRetried",
    "StepStarted",
    "StepsKnown",
    "as_json",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A plan begins to be carried out; `steps` are known so far, `to_run` of them are not in the
    store. `nodes` says how many each node has, by name, of those that may be needed; `took` how
    many seconds one of them took when the graph was run last.
    """

    graph: str
    steps: int
    to_run: int
    device: str
    at_s: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepsKnown:
    """How many steps a node has, now that a value says it; RunStarted knew of another count, or of
    none.
    """

    node: str
    steps: int
    at_s: float


@dataclass(frozen=True, slots=True)
class StepCached:
    """The store already holds what this step would make."""

    node: str
    item: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins to run, because of `reason`."""

    node: str
    item: str
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepLoading:
    """A step waits for a model, or a library, to be loaded."""

    node: str
    item: str
    what: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A running step has come this far."""

    node: str
    item: str
    done: int
    total: int
    note: str
    at_s: float
    preview: Any = None


@dataclass(frozen=True, slots=True)
class StepNote:
    """A step has something to say of its result, as a warning: said when the node says it, and
    again when the result comes from the store.
    """

    node: str
    item: str
    message: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.node}{self.item}: {self.message}"


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has its outputs; it ran for `took_s`."""

    node: str
    item: str
    took_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class StepRetried:
    """A step failed and will be tried again (`attempt` counts from 1)."""

    node: str
    item: str
    attempt: int
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed for good; `error` is the NodeError."""

    node: str
    item: str
    message: str
    error: Any
    at_s: float


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """A step cannot run because something it needs failed."""

    node: str
    item: str
    because: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepAbsent:
    """A step has no value: its `when` is false, or something it requires is absent."""

    node: str
    item: str
    because: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepDamaged:
    """The store held this step but its object is damaged or missing; the step runs again."""

    node: str
    item: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class OutputWritten:
    """An output has its value and, if it has a path, the file is in place (`changed`: written
    anew).
    """

    output: str
    item: str
    path: str | None
    changed: bool
    value: Any
    at_s: float


@dataclass(frozen=True, slots=True)
class OutputAbsent:
    """An output has no value this time."""

    output: str
    because: str
    at_s: float


@dataclass(frozen=True, slots=True)
class OutputFailed:
    """An output's value exists but its file cannot be written."""

    output: str
    item: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over: `status` is done, failed or cancelled."""

    status: str
    ran: int
    cached: int
    failed: int
    at_s: float


Event = (
    RunStarted
    | StepsKnown
    | StepCached
    | StepStarted
    | StepLoading
    | StepProgress
    | StepNote
    | StepFinished
    | StepRetried
    | StepFailed
    | StepSkipped
    | StepAbsent
    | StepDamaged
    | OutputWritten
    | OutputAbsent
    | OutputFailed
    | RunFinished
)

#: Fields that are live objects: they have no place in a line of JSON.
_LIVE = frozenset({"preview", "value", "error", "nodes", "took"})


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as plain data: its name, then its fields without live objects."""
    name = type(event).__name__
    said: dict[str, Any] = {
        "event": "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
    }
    for one in fields(event):
        if one.name not in _LIVE:
            value = getattr(event, one.name)
            said[one.name] = round(value, 4) if isinstance(value, float) else value
    value = getattr(event, "value", None)
    if value is not None and _is_data(value):
        said["value"] = value
    return said


def _is_data(value: Any) -> bool:
    """Whether JSON can hold a value as it is."""
    if isinstance(value, list | tuple | dict):
        return all(map(_is_data, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int | float | bool)
