"""What became of each item of a run, from the events of the run."""

from __future__ import annotations

import time
from dataclasses import field, replace
from typing import Any

from .._system.dataclass import dataclass
from ..errors import NodeError
from ..events import (
    Event,
    ItemFinished,
    OutputFailed,
    OutputWritten,
    StepCached,
    StepFailed,
    StepFinished,
    StepNote,
    StepStarted,
)

__all__ = ["Failure", "RunResult"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A node or an output that failed."""

    message: str
    retryable: bool
    error: BaseException | None = None


@dataclass(slots=True)
class RunResult:
    """What became of an item. Messages do not name it: each is kept with its file.

    Params:
        label: the run's name of the item.
    """

    label: str
    failures: list[Failure] = field(default_factory=list)
    #: The paths of written outputs.
    outputs: list[str] = field(default_factory=list)
    #: Plain values of outputs without a file.
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: When its first step started.
    started_at: float | None = None
    #: Whether each of its steps ran; the others were cached.
    _ran: dict[tuple[str, str], bool] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take an event of the item."""
        element = str(getattr(event, "item", "")).removeprefix(self.label)
        if isinstance(event, StepStarted):
            self.started_at = self.started_at or time.monotonic()
        elif isinstance(event, StepFinished | StepCached):
            self._ran[event.node, element] = isinstance(event, StepFinished)
        elif isinstance(event, StepNote) or (isinstance(event, StepFailed) and event.is_tolerated):
            self.notes.append(str(replace(event, item=element)))
        elif isinstance(event, StepFailed):
            self._ran.pop((event.node, element), None)
            self.failures.append(
                Failure(
                    _describe(event.error, element), not _is_deterministic(event.error), event.error
                )
            )
        elif isinstance(event, OutputFailed):
            self.failures.append(Failure(event.message, retryable=False))
        elif isinstance(event, OutputWritten) and event.path is not None:
            self.outputs.append(event.path)
        elif isinstance(event, OutputWritten) and isinstance(event.value, str | int | float | bool):
            value = event.value[:1000] if isinstance(event.value, str) else event.value
            self.values[event.output + element] = value
        elif isinstance(event, ItemFinished) and event.status == "failed" and not self.failures:
            self.failures.append(Failure(event.message or "what it needs failed", retryable=True))

    def details(self) -> dict[str, Any]:
        """Return what the log says about the run."""
        ran = sum(self._ran.values())
        return {
            "ran": ran,
            "cached": len(self._ran) - ran,
            **({"values": self.values} if self.values else {}),
            **({"notes": self.notes} if self.notes else {}),
        }


def _describe(error: NodeError, element: str) -> str:
    return str(
        NodeError(
            error.node,
            error.message,
            mark=error.problem.mark,
            item=element,
            code=error.problem.code,
            raised_at=error.raised_at,
        )
    )


def _is_deterministic(error: BaseException) -> bool:
    """Return whether a node would fail again in the same way: it was given a wrong value. Errors of
    the system, of libraries (memory) and of services may pass.
    """
    cause = error.__cause__ or error
    return isinstance(cause, ValueError | TypeError) and not isinstance(cause, OSError)
