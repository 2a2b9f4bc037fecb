"""Carry out a plan: run what must run, keep what it gives, write the outputs, and say what happens
as it happens.

`execute` is an iterator of events. The work goes on in a thread of its own and does not wait for
whoever reads: results queue up, progress is coalesced to the latest of each
step. Execution is driven by demand, from the outputs back: a step runs when something that runs
    needs its value, and a kept value that nobody needs is never read.

A run's state (steps, values, frames) is its own, a copy of what the plan knows: the plan is not
written to, and may be carried out by several runs at once.

The modules, from the ground up: `value_cache` holds values in memory; `event_queue` is what a run
says; `model_lookahead` knows which models will be needed; `call` calls a node's function;
`step_runner` carries out one step; `output_delivery` hands over outputs; `scheduler` goes through
the plan; `execution` is the whole.
"""

from .execution import Run, execute
from .output_delivery import PlannedWrite, planned_writes

__all__ = ["Run", "PlannedWrite", "execute", "planned_writes"]
