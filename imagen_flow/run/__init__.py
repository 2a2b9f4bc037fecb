"""Carry out a plan: run what must run, keep what it gives, write the outputs, and say what happens as it happens.

`execute` is an iterator of events. The work goes on in a thread of its own and does not wait for whoever reads: results queue up, progress is coalesced to the latest of each
step. Execution is driven by demand, from the outputs back: a step runs when something that runs needs its value, and a kept value that nobody needs is never read.

The modules, from the ground up: `live` holds values in memory; `report` is what a run says; `needs` says what a node waits for; `ahead` which models will be needed; `call` calls a node's
function; `steps` carries out one step; `delivery` hands over outputs; `walk` goes through the plan; `execution` is the whole.
"""

from .delivery import Write, foretell
from .execution import execute

__all__ = ["Write", "execute", "foretell"]
