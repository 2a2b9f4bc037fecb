"""Resolve a spec into a Graph: every name against the registry, every edge typed, every literal
checked. If it exists, it fits.

All problems of a file and of the graphs it includes are gathered and raised together as one
GraphError. Nodes come out in topological order, and among equals in the order in which they were
written; networkx orders and finds cycles. Edges are the bindings of the ports: a `DiGraph` would
merge two edges between the same nodes.

The modules, from the ground up: `bindings` (what a port may be given) and `graph` (what a resolved
graph is made of) are values; `suggestions` words what might be meant instead of what was written;
`binder` binds the words of one file to ports; on it stand `inputs`, `nodes`, `outputs` and `sweeps`,
which read what a graph declares, and `order`; `file_fields` finds the files that paths name; `expansion` counts how many steps a graph comes to; `resolver` is the
whole, for a file and those it includes.
"""

from .bindings import (
    Binding,
    ElementOf,
    FileAt,
    FromInput,
    FromNode,
    Given,
    Joined,
    Listed,
    Mapped,
    ModelAt,
    PerElement,
    Place,
    RecordOf,
    element_of,
    fields_of,
    parts_of,
    readings,
    rebound,
    sizing,
)
from .expansion import STEPS
from .file_fields import FileNames
from .graph import (
    RANDOM,
    ROUNDS,
    Axis,
    FilesIn,
    Graph,
    Input,
    LinesOf,
    Node,
    OnError,
    Output,
    PerItem,
    Repeat,
    Span,
    Sweep,
    TableAt,
    Values,
)
from .nodes import LOADING
from .resolver import resolve
from .sweeps import PER_ITEM, parse_span

__all__ = [
    "LOADING",
    "PER_ITEM",
    "RANDOM",
    "ROUNDS",
    "STEPS",
    "Axis",
    "Binding",
    "ElementOf",
    "FileAt",
    "FileNames",
    "FilesIn",
    "FromInput",
    "FromNode",
    "Given",
    "Graph",
    "Input",
    "Joined",
    "LinesOf",
    "Listed",
    "Mapped",
    "ModelAt",
    "Node",
    "OnError",
    "Output",
    "PerElement",
    "PerItem",
    "Place",
    "RecordOf",
    "Repeat",
    "Span",
    "Sweep",
    "TableAt",
    "Values",
    "element_of",
    "fields_of",
    "parse_span",
    "parts_of",
    "readings",
    "rebound",
    "resolve",
    "sizing",
]
