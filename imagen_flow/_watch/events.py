"""What watching says besides the events of the runs: frozen values, one class a happening. Times
are seconds since watching began; those of a run's events since the run began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import events
from .._plan import Plan
from ..errors import ImagenFlowError, Problem, as_texts

__all__ = [
    "Changed",
    "Happening",
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
    """Everything is as true as it can be made; so many files and folders are watched for changes."""

    graphs: tuple[str, ...]
    places: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Changed:
    """These paths may have changed, and these graphs depend on them. `cancels`: a run in progress
    is stopped for it.
    """

    paths: tuple[str, ...]
    graphs: tuple[str, ...]
    cancels: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class Planned:
    """A graph was read anew and its run is about to begin; `plan` is the Plan."""

    graph: str
    plan: Plan
    at_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A graph cannot be run as it is now: its problems, or the error that ended its run. Its last
    outputs stay.
    """

    graph: str
    problems: tuple[Problem, ...]
    error: ImagenFlowError | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The code of these plugins was imported anew; so many of their models were dropped from
    memory.
    """

    plugins: tuple[str, ...]
    dropped: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is doubtful, or a plugin cannot be used as it is now (its code from before stays in
    use).
    """

    problems: tuple[Problem, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Noticed:
    """Watching goes on by other means, e.g. by polling."""

    message: str
    at_s: float


Happening = events.Event | Waiting | Changed | Planned | Refused | Reloaded | Warned | Noticed


def as_json(said: Happening) -> dict[str, Any]:
    """Return what was said as plain data: its name, then its fields without live objects; problems
    as they are printed.
    """
    if isinstance(said, Refused | Warned):
        graph = (
            {"graph": said.graph, "error": None if said.error is None else str(said.error)}
            if isinstance(said, Refused)
            else {}
        )
        return {
            "event": type(said).__name__.lower(),
            **graph,
            "problems": as_texts(said.problems),
            "at_s": round(said.at_s, 4),
        }
    if isinstance(said, Planned):
        return {
            "event": "planned",
            "graph": said.graph,
            "counts": said.plan.counts,
            "at_s": round(said.at_s, 4),
        }
    if isinstance(said, Waiting | Changed | Reloaded | Noticed):
        fields = {name: getattr(said, name) for name in said.__slots__}
        return {
            "event": type(said).__name__.lower(),
            **{
                k: list(v) if isinstance(v, tuple) else round(v, 4) if isinstance(v, float) else v
                for k, v in fields.items()
            },
        }
    return events.as_json(said)
