"""Execute a plan: run the steps that must run, store their results, write the outputs, and report
events while it happens.

`execute` returns an iterator of events. The work happens in a thread of its own and never waits for
the reader: results queue up, progress is coalesced to the latest of each step. Execution is driven
by demand, from the outputs back: a step runs when something that runs needs its value, and a stored
value that nothing needs is never read.

A run's state (steps, values, frames) is a copy of what the plan knows. The plan is not modified, so
several runs may execute it at once.

The modules, bottom up: `value_cache` holds values in memory; `notes` are a node's remarks;
`anonymous_files` hides file names from nodes; `event_queue` holds the events of a run; `lineage`
finds the steps of an output, and `recorder` writes its provenance; `model_lookahead` predicts which
models will be needed; `call` calls a node's function; `results` checks and stores what it returned;
`step_runner` runs one step, `grouping` several together; `output_delivery` delivers outputs; `scheduler` decides what runs next;
`execution` combines all of them.
"""

from .event_queue import item_label
from .execution import Run, execute
from .output_delivery import (
    DROPPED_ELEMENT,
    PlannedWrite,
    collect,
    leave_out_dropped,
    planned_writes,
)

__all__ = [
    "DROPPED_ELEMENT",
    "Run",
    "PlannedWrite",
    "collect",
    "execute",
    "item_label",
    "leave_out_dropped",
    "planned_writes",
]
