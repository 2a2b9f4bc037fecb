"""The events of watching, in addition to those of the runs: frozen values, one class each. Times
are seconds since watching began; those of a run's events are seconds since the run began.
"""

from __future__ import annotations

from typing import Any

from .. import events
from .._plan import Plan
from .._system.dataclass import dataclass
from ..errors import ImagenFlowError, Problem, as_texts

__all__ = [
    "Changed",
    "WatchEvent",
    "Noticed",
    "Planned",
    "Refused",
    "Reloaded",
    "Waiting",
    "Warned",
    "as_json",
]


@dataclass(frozen=True, slots=True)
class Waiting:
    """All results are up to date, if possible; `places` files and folders are watched."""

    graphs: tuple[str, ...]
    places: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Changed:
    """Paths that may have changed, and the graphs that depend on them. `cancels`: the current run
    is stopped.
    """

    paths: tuple[str, ...]
    graphs: tuple[str, ...]
    cancels: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class Planned:
    """A graph was planned again, and its run is about to start."""

    graph: str
    plan: Plan
    at_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A graph cannot be run as it is: its problems, or the error that ended its run. Its last
    outputs stay.
    """

    graph: str
    problems: tuple[Problem, ...]
    error: ImagenFlowError | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The code of these plugins was imported again; `dropped` of their models were removed from
    memory.
    """

    plugins: tuple[str, ...]
    dropped: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is questionable, or a plugin cannot be used as it is (its previous code stays in
    use).
    """

    problems: tuple[Problem, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Noticed:
    """Watching continues in another way, for example by polling."""

    message: str
    at_s: float


WatchEvent = events.Event | Waiting | Changed | Planned | Refused | Reloaded | Warned | Noticed


def as_json(event: WatchEvent) -> dict[str, Any]:
    """Return an event as plain data: its name, then its fields without live objects; problems as
    they are printed.
    """
    if isinstance(event, Refused | Warned):
        graph_fields = (
            {"graph": event.graph, "error": None if event.error is None else str(event.error)}
            if isinstance(event, Refused)
            else {}
        )
        return {
            "event": type(event).__name__.lower(),
            **graph_fields,
            "problems": as_texts(event.problems),
            "at_s": round(event.at_s, 4),
        }
    if isinstance(event, Planned):
        return {
            "event": "planned",
            "graph": event.graph,
            "counts": event.plan.counts,
            "at_s": round(event.at_s, 4),
        }
    if isinstance(event, Waiting | Changed | Reloaded | Noticed):
        fields = {name: getattr(event, name) for name in event.__slots__}
        return {
            "event": type(event).__name__.lower(),
            **{
                k: list(v) if isinstance(v, tuple) else round(v, 4) if isinstance(v, float) else v
                for k, v in fields.items()
            },
        }
    return events.as_json(event)
