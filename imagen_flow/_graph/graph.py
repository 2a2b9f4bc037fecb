"""What a resolved graph is made of: inputs, nodes, outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._plugins.registry import Registry
from .._system.dataclass import dataclass
from .._text.spec import GraphSpec
from .._types.node import NodeType
from .._types.ports import Port, PortType
from .._types.values import ExistsPolicy
from ..errors import Mark, Problem
from .bindings import Binding, FromInput, FromNode

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = [
    "RANDOM",
    "ROUNDS",
    "Axis",
    "FilesIn",
    "Graph",
    "Input",
    "LinesOf",
    "Node",
    "OnError",
    "Output",
    "PerItem",
    "Repeat",
    "Span",
    "Sweep",
    "TableAt",
    "Values",
]

#: The output of a node that is repeated `until` something holds: how many repetitions there were.
ROUNDS = "rounds"

#: What becomes of an element of a node that fails: the run fails; its place is empty; it is taken
# out of the list.
OnError = Literal["fail", "absent", "drop"]

#: The default of a seed input that is drawn anew for every plan.
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph. `default` is None when a value must be given."""

    name: str
    type: PortType
    default: Binding | None
    help: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Repeat:
    """How often a graph is run as a node, at most.

    Params:
        best: the output that says which repetition to keep; None keeps all, as lists.
        until: the output that ends it, where it is true.
        last: keep the last repetition alone.
    """

    times: int
    best: str | None
    until: str | None = None
    last: bool = False

    @property
    def gives_lists(self) -> bool:
        """Whether all repetitions are kept."""
        return self.best is None and not self.last

    @property
    def decides(self) -> set[str]:
        """The outputs of the graph that decide what is kept."""
        return {name for name in (self.best, self.until) if name is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A resolved node: its type, what each port is bound to, and the reserved words that it uses."""

    name: str
    type: NodeType | Graph
    bindings: dict[str, Binding]
    mark: Mark
    #: The nodes whose outputs it reads, each once, in the order in which it reads them.
    after: tuple[str, ...] = ()
    #: All that its ports read.
    reads: tuple[FromNode | FromInput, ...] = ()
    #: The ports of `each`, and how many lists deep each goes.
    each: Mapping[str, int] = field(default_factory=dict)
    when: Binding | None = None
    repeat: Repeat | None = None
    retries: int = 0
    backoff_s: float = 0.0
    timeout_s: float | None = None
    device: str | None = None
    dtype: str | None = None
    #: What else its settings say: fields of `Loading`, and ``ladder``.
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache: bool = True
    on_error: OnError = "fail"
    #: Whether it is always one step: a plugin's node without `each` and `when`.
    is_single: bool = False

    @property
    def inputs(self) -> dict[str, Port]:
        """The node's input ports; the inputs of a graph are its ports."""
        return self.type.inputs if isinstance(self.type, NodeType) else self.type.ports

    @property
    def depth(self) -> int:
        """How many lists deep it runs: 0 without `each`."""
        return max(self.each.values(), default=0)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs: those of its type and, with `until`, how many repetitions there
        were.
        """
        counts = self.repeat is not None and self.repeat.until is not None
        return (*self.type.outputs, ROUNDS) if counts else tuple(self.type.outputs)


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a graph: which value it is and, if it has a path, how it is written."""

    name: str
    source: FromNode | FromInput
    type: PortType
    path: str | None
    exists: ExistsPolicy
    provenance: str
    mark: Mark
    #: The files whose names the path uses, by how it refers to them.
    files: Mapping[str, FromNode | FromInput] = field(default_factory=dict)
    #: Whether a list is written as one file, a table.
    whole: bool = False
    #: The options of the format that it is written in.
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Values:
    """An axis whose values are listed, each with its place in the text."""

    items: tuple[tuple[Binding, Mark | None], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """An axis of evenly spaced numbers. It is a sequence that is never written out."""

    start: Fraction
    step: Fraction
    count: int
    is_whole: bool

    def __getitem__(self, index: int) -> int | float:
        value = self.start + index * self.step
        return int(value) if self.is_whole else float(value)


@dataclass(frozen=True, slots=True)
class LinesOf:
    """An axis whose values are the lines of a file."""

    path: str
    folder: Path
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class FilesIn:
    """An axis whose values are the files of a folder."""

    path: str
    pattern: str
    folder: Path
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class PerItem:
    """No axis: each item has a seed of its own, derived from the given one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An input that a sweep varies, and where its values come from."""

    name: str
    source: Values | Span | LinesOf | FilesIn | PerItem
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class TableAt:
    """A table with a column for each of several inputs."""

    path: str
    folder: Path
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which inputs of a graph vary, and how their values are combined."""

    axes: tuple[Axis | TableAt, ...]
    combine: Literal["product", "zip"] = "product"
    sample: int | None = None
    mark: Mark | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph in which everything fits. `nodes` are in topological order."""

    name: str
    spec: GraphSpec
    inputs: dict[str, Input]
    nodes: dict[str, Node]
    outputs: dict[str, Output]
    settings: dict[str, Any]
    warnings: tuple[Problem, ...] = ()
    #: Nodes that no output needs, directly or by way of another node. They are never run.
    unneeded: frozenset[str] = frozenset()
    registry: Registry | None = field(default=None, repr=False)
    #: Used only if the graph itself is run, not as a node of another.
    sweep: Sweep | None = None

    @property
    def folder(self) -> Path:
        """The folder that relative paths in this graph start from."""
        return self.spec.path.parent if self.spec.path else Path()

    @property
    def ports(self) -> dict[str, Port]:
        """The graph's inputs as ports, for its use as a node."""
        return {
            i.name: Port(
                i.name, i.type, required=i.default is None and not i.type.optional, help=i.help
            )
            for i in self.inputs.values()
        }

    def all(self) -> Iterator[Graph]:
        """Give it and all graphs that it includes, each once."""
        pending, seen = [self], {id(self)}
        while pending:
            graph = pending.pop()
            yield graph
            for node in graph.nodes.values():
                if isinstance(node.type, Graph) and id(node.type) not in seen:
                    seen.add(id(node.type))
                    pending.append(node.type)

    def on_error(self, step: str, *, is_whole: bool) -> OnError:
        """Say what becomes of a step that fails, by its full name: its node decides, or else the
        nearest graph around it that is used as a node.

        Params:
            is_whole: a node with `each` failed as a whole: that is no element of its list.
        """
        graph: NodeType | Graph = self
        found: OnError = "fail"
        names = step.split("/")
        for name in names[:-1] if is_whole else names:
            assert isinstance(graph, Graph)
            node = graph.nodes[name.partition("[")[0]]
            found = found if node.on_error == "fail" else node.on_error
            graph = node.type
        return found

    @property
    def primary(self) -> str:
        """The output that a reference without a port means."""
        return next(iter(self.outputs))
