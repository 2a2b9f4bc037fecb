"""Key every step, ask the store, and say why the rest must run. Nothing runs here, torch is not
imported, the network is not used.

A **step** is one node for one item. Its key is over what it would compute from: see `KEY_FORMAT`.
Inputs enter by the digest of their *values*, so planning walks
as far as digests are known. Beyond a step that must run it can only say *waits*: whether the next
step runs depends on what comes out.

A **plan** is a value: nothing of a run is written into it. What is known (steps, outputs, frames:
one for each graph used as a node, by element and repetition) is a `State`. Planning settles every
node once; a run goes on with a copy of the state, runs what `demands` says is needed, and settles
again.

The modules, from the ground up: `step` holds what a plan is made of; `named_models` resolves the
models that graphs name; `values` gives what bindings give; `port_values` completes that to what a
port takes; `keys` says what computes a step; `keying` makes one step; `elements` says for which
elements a node runs; `state` settles nodes; `demand` says what must be known before an output can
be; `waiting` checks the models of nodes that wait; `explain` says what becomes of steps and why;
`edges` gives a graph's edges by name; `inputs` takes what a graph is given, `items` what it is given
for each of several items; `plan` is the whole.
"""

from .demand import demands, outputs_of
from .elements import Elements, elements, is_off
from .explain import plain_value, why
from .inputs import from_text
from .items import Item, PlannedItem
from .keying import FORCED
from .keys import KEY_FORMAT, Keys
from .plan import Plan, history_name, make_plan
from .port_values import known_models
from .state import State, is_first
from .step import (
    ABSENT,
    DROPPED,
    FAILED,
    Frame,
    NodeOutput,
    NodeState,
    Slot,
    Status,
    Step,
    Unknown,
    after_error,
    at_port,
    element_part,
    holds,
    in_records,
    leaves,
    without_dropped,
)
from .values import Values, derived_seed
from .waiting import missing_models

__all__ = [
    "ABSENT",
    "DROPPED",
    "FAILED",
    "FORCED",
    "KEY_FORMAT",
    "Elements",
    "Frame",
    "Item",
    "Keys",
    "NodeState",
    "NodeOutput",
    "Plan",
    "PlannedItem",
    "Slot",
    "State",
    "Status",
    "Step",
    "Unknown",
    "Values",
    "after_error",
    "at_port",
    "demands",
    "derived_seed",
    "element_part",
    "elements",
    "from_text",
    "history_name",
    "holds",
    "in_records",
    "is_first",
    "is_off",
    "known_models",
    "leaves",
    "make_plan",
    "missing_models",
    "outputs_of",
    "plain_value",
    "why",
    "without_dropped",
]
