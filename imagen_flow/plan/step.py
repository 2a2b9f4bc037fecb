"""What a plan is made of: steps, what is known of a node, and frames. Outputs are artifacts, or not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..artifact import Artifact
from ..digest import digest_value, tagged
from ..errors import ImagenFlowError, Problem
from ..graph import Graph, Node
from ..values import Absent

__all__ = ["ABSENT", "FAILED", "FailedStep", "Frame", "NodeState", "Slot", "Step", "Unknown", "is_settled", "leaves", "listed", "present"]

ABSENT = Artifact(digest_value(Absent.value), "absent")

#: The value of an output whose step failed. It flows like an absent one, but nothing takes its place.
FAILED = Artifact(tagged("failed"), "failed")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known yet: it comes `after` these nodes have run."""

    after: tuple[str, ...]


Slot = Artifact | Unknown


class FailedStep(ImagenFlowError):
    """A node's steps cannot be worked out, e.g. because its lists differ in length; `problems` are those of the files that it names."""

    step: Step

    def __init__(self, frame: Frame, node: Node, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.frame = frame
        self.node = node
        self.problems = tuple(problems)


@dataclass(slots=True, eq=False)
class Step:
    """One node for one item.

    `status`: *cached* (the store has it), *runs*, *waits* (it cannot be said yet), *absent* (it will have no value), *idle* (not cached, and not needed),
    *unresolved* (its model is not on this machine), *failed* (it cannot be worked out), *skipped* (what it needs failed); after a run also *ran*.
    """

    name: str
    item: str
    node: Node
    frame: Frame
    index: int | None
    status: str
    reason: str = ""
    key: str | None = None
    slots: dict[str, Artifact] | None = None
    outputs: dict[str, Artifact] | None = None

    @property
    def type_name(self) -> str:
        """The name of the step's node type."""
        return self.node.type.name  # of a node type, or of a graph whose steps are not known yet


@dataclass(slots=True, eq=False)
class NodeState:
    """What is known of a node in a frame: its steps or the frames below it, and its outputs as far as they are known."""

    steps: list[Step] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    #: The frames by element and repetition, counted through: elements without a value have none.
    places: dict[int, Frame] = field(default_factory=dict)
    outputs: dict[str, Slot] | None = None  # None: not known
    waits: Unknown | None = None
    many: bool = False
    done: bool = False  # nothing about it can change any more


@dataclass(slots=True, eq=False)
class Frame:
    """A graph with values for its inputs: the top one, or a graph used as a node."""

    graph: Graph
    prefix: str
    item: str
    inputs: dict[str, Slot]
    #: Inputs that were given nothing, and so have their defaults: paths in these are relative to the graph's own file.
    by_default: frozenset[str] = frozenset()
    states: dict[str, NodeState] = field(default_factory=dict)
    #: The frame around it, and the node there that it belongs to.
    parent: tuple[Frame, Node] | None = None

    def full(self, node: str) -> str:
        """A node's name as it is shown, with those of the nodes around it."""
        return self.prefix + node


def present(slot: Artifact) -> Artifact:
    """Leave absent elements out of a list that goes into one port."""
    if slot.items is not None and any(i.kind == "absent" for i in slot.items):
        kept = listed([i for i in slot.items if i.kind != "absent"])
        assert isinstance(kept, Artifact)
        return kept
    return slot


def leaves(artifact: Artifact) -> Iterator[Artifact]:
    """Give what a list holds, lists in lists gone through; a value that is no list is its own leaf."""
    if artifact.items is None:
        yield artifact
    else:
        for item in artifact.items:
            yield from leaves(item)


def listed(slots: list[Slot]) -> Slot:
    """Make a list of what is known; one unknown element leaves it unknown."""
    waits = [a for s in slots if isinstance(s, Unknown) for a in s.after]
    if waits:
        return Unknown(tuple(dict.fromkeys(waits)))
    items = tuple(s for s in slots if isinstance(s, Artifact))
    return Artifact(tagged("list", *(bytes.fromhex(i.digest) for i in items)), "list", items)


def is_settled(state: NodeState) -> bool:
    """Whether a node, and all below it, needs nothing more to run."""
    if state.outputs is None or any(s.status not in ("cached", "absent", "ran") for s in state.steps):
        return False
    return all(is_settled(state_) for f in state.frames for n, state_ in f.states.items())
