"""Many items through one graph: which there are, what each is called, and what became of them.

A *sweep* varies inputs of a graph; each combination of values is an *item*. `axes` reads where the
values come from (`tables` for files of them), `rows` combines them without writing them out, `items`
gives each item a name and seeds that no other item changes, `planning` checks and counts all before
anything runs, `running` runs them, and `index` lists what came out. Steps with equal keys are one
step, so what items share is computed once, and a sweep that was stopped goes on where it was.
"""

from .axes import MAX_ITEMS, read_axes, read_axis_texts
from .index import read_rows
from .items import INDEX, Item
from .planning import Choice, PreparedSweep, SweepPlan, plan_sweep, prepare_sweep
from .running import ItemResult, SweepRun, run_sweep

__all__ = [
    "INDEX",
    "MAX_ITEMS",
    "Choice",
    "Item",
    "ItemResult",
    "PreparedSweep",
    "SweepPlan",
    "SweepRun",
    "plan_sweep",
    "prepare_sweep",
    "read_axes",
    "read_axis_texts",
    "read_rows",
    "run_sweep",
]
