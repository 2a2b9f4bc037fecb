"""The events of a run: frozen values, one class each.

A run is an iterator of events. Times are seconds since the run began. `as_json` returns the data of
a line that ``imagen-flow run --json-events`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from ._system.dataclass import dataclass

__all__ = [
    "Event",
    "ItemFinished",
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
    "is_data",
    "step_title",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins. `steps` steps are known so far, `to_run` of them are not in the store. `nodes`
    is the number of steps of each node that may be needed; `took` is the seconds per step of each
    node in the previous run. A sweep has `items` items, and does not know its steps.
    """

    graph: str
    steps: int
    to_run: int
    device: str
    at_s: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)
    items: int = 0


@dataclass(frozen=True, slots=True)
class StepsKnown:
    """The number of steps of a node, now that a value determines it. RunStarted had another number,
    or none.
    """

    node: str
    steps: int
    at_s: float


@dataclass(frozen=True, slots=True)
class StepCached:
    """The result of this step is in the store."""

    node: str
    item: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins to run, for this reason."""

    node: str
    item: str
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepLoading:
    """A step waits for a model or a library to be loaded."""

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
    status: str = ""


@dataclass(frozen=True, slots=True)
class StepNote:
    """A step's warning about its result: emitted when the node gives it, and again when the result
    comes from the store. `about` names the file that an element of a list was made from.
    """

    node: str
    item: str
    message: str
    at_s: float
    about: str = ""

    def __str__(self) -> str:
        return f"{step_title(self.node, self.item, self.about)}: {self.message}"


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has its outputs; it ran for `took_s`."""

    node: str
    item: str
    took_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class StepRetried:
    """A step failed and will be retried (`attempt` counts from 1)."""

    node: str
    item: str
    attempt: int
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed for good; `error` is the NodeError. `on_error` is what its node says of that:
    with ``absent`` or ``drop`` the run goes on without it, and is not failed. `about` names the file
    that an element of a list was made from.
    """

    node: str
    item: str
    message: str
    error: Any
    at_s: float
    on_error: str = "fail"
    about: str = ""

    @property
    def is_tolerated(self) -> bool:
        """Whether the run goes on without it, and is not failed."""
        return self.on_error != "fail"

    def __str__(self) -> str:
        without = {"absent": " and is absent", "drop": " and is dropped"}.get(self.on_error, "")
        title = step_title(self.node, self.item, self.about)
        return f"{title} failed{without}: {self.message}"


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """A step cannot run because something that it needs failed."""

    node: str
    item: str
    because: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepAbsent:
    """A step has no value: its `when` is false, or something that it requires is absent."""

    node: str
    item: str
    because: str
    at_s: float


@dataclass(frozen=True, slots=True)
class StepDamaged:
    """The store had this step's result, but it is damaged or missing; the step runs again."""

    node: str
    item: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class OutputWritten:
    """An output has its value and, if it has a path, its file (`changed`: it was written now). An
    element of a list has its number in `item`, after the label of the plan's item.
    """

    output: str
    item: str
    path: str | None
    changed: bool
    value: Any
    at_s: float
    #: The digest and kind of the value; of a plan of several items also the key of the step that
    #: made it.
    digest: str = ""
    kind: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class OutputAbsent:
    """An output has no value this time. An element of a list that was `dropped` is not part of it."""

    output: str
    because: str
    at_s: float
    item: str = ""
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class OutputFailed:
    """An output has a value, but its file cannot be written."""

    output: str
    item: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class ItemFinished:
    """All outputs of one of several items have been delivered. `status` is done or failed; `message`
    says what is wrong with the values of an item that was not run.
    """

    item: str
    status: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended: `status` is done, failed or cancelled. `tolerated` steps failed too, and
    are absent or dropped by `on_error`.
    """

    status: str
    ran: int
    cached: int
    failed: int
    at_s: float
    tolerated: int = 0


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
    | ItemFinished
    | RunFinished
)

#: Fields that are live objects or internal, and left out of JSON.
_LIVE = frozenset({"preview", "value", "error", "nodes", "took", "digest", "kind", "key"})


def step_title(node: str, item: str, about: str = "") -> str:
    """Name a step in one word or two: ``base``, ``base[2]``, of the item ``seed-3`` of several
    ``base seed-3[2]``; with what it is about, ``base[2] (cat.png)``.
    """
    title = f"{node} {item}" if item and item[0] != "[" else node + item
    return f"{title} ({about})" if about else title


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as plain data: its name, then its fields without live objects."""
    name = type(event).__name__
    data: dict[str, Any] = {
        "event": "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
    }
    for field_ in fields(event):
        if field_.name not in _LIVE:
            value = getattr(event, field_.name)
            data[field_.name] = round(value, 4) if isinstance(value, float) else value
    value = getattr(event, "value", None)
    if value is not None and is_data(value):
        data["value"] = value
    return data


def is_data(value: Any) -> bool:
    """Return whether JSON can represent a value as it is."""
    if isinstance(value, list | tuple | dict):
        return all(map(is_data, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int | float | bool)
