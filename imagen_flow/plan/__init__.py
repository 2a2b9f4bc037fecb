"""Key every step, ask the store, and say why the rest must run. Nothing runs here, torch is not imported, the network is not used.

A **step** is one node for one item. Its key is over what it would compute from: see `KEY_FORMAT`. Inputs enter by the digest of their *values*, so planning walks
as far as digests are known; beyond a step that must run it can only say *waits*: whether the next one runs depends on what comes out.

The same walk serves the run. `Planner.settle` works out a node's steps from what is known now; the runner runs what must run, and settles again. A graph used as a node has a
`Frame` of its own: one for each element or repetition, with its own node states.

The modules, from the ground up: `step` is what a plan is made of; `values` gives what bindings give; `keys` says what computes a step; `planner` settles nodes and keys their steps;
`explain` says why they run; `inputs` takes what a graph is given; `plan` is the whole.
"""

from .explain import why
from .inputs import from_text
from .keys import KEY_FORMAT, Keys
from .plan import Plan, history_name, make_plan
from .planner import Planner
from .step import ABSENT, FAILED, FailedStep, Frame, NodeState, Slot, Step, Unknown, leaves
from .values import Values
from .waiting import missing_models

__all__ = [
    "ABSENT",
    "FAILED",
    "KEY_FORMAT",
    "FailedStep",
    "Frame",
    "Keys",
    "NodeState",
    "Plan",
    "Planner",
    "Slot",
    "Step",
    "Unknown",
    "Values",
    "from_text",
    "history_name",
    "leaves",
    "make_plan",
    "missing_models",
    "why",
]
