"""What a plan is made of: steps, what is known of a node, and frames. Outputs are artifacts, or not
known yet.

A slot is what a binding gives: an artifact, `ABSENT`, `FAILED`, or `Unknown` as long as a node that
it comes from has not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from .._graph import Graph, Node, OnError, Place
from .._types.artifact import Artifact
from .._types.digest import tagged
from .._types.value_digests import digest_value
from .._types.values import Absent

__all__ = [
    "ABSENT",
    "DROPPED",
    "FAILED",
    "Frame",
    "NodeState",
    "NodeOutput",
    "Slot",
    "Status",
    "Step",
    "Unknown",
    "at_port",
    "element_part",
    "after_error",
    "whole_after_error",
    "holds",
    "in_records",
    "item_of",
    "leaves",
    "list_of",
    "listed",
    "present",
    "record_of",
    "together",
    "without_dropped",
    "without_value",
]

ABSENT = Artifact(digest_value(Absent.value), "absent")

#: The value of an output whose step failed. It flows like an absent one, but nothing takes its
# place.
FAILED = Artifact(tagged("failed"), "failed")

#: The value of an element that failed and is to be taken out of its list. It keeps its place, so that
# what is paired with it stays so, until the list goes into a port or an output; it is otherwise
# like an absent one.
DROPPED = Artifact(tagged("dropped"), "absent")

#: *cached* (the store has it), *runs*, *waits* (what it computes from, or whether it is needed,
# depends on what runs), *absent* (it will have no value), *idle* (not in the store, and not
# needed),
#: *unresolved* (its model is not on this machine), *failed* (it cannot be worked out), *skipped*
# (what it needs failed); in a run also *ran*.
Status = Literal[
    "cached", "runs", "waits", "absent", "idle", "unresolved", "failed", "skipped", "ran"
]


class Unknown(NamedTuple):
    """A value that is not known yet: it comes `after` these nodes have run."""

    after: tuple[str, ...]


Slot = Artifact | Unknown


class Step(NamedTuple):
    """One node for one item; with `each`, for one element."""

    name: str
    #: The label of the plan's item, if it has several, followed by the element in brackets.
    item: str
    node: Node
    #: Where the element is in the lists of `each`.
    element: Place | None
    status: Status
    reason: str = ""
    key: str | None = None
    slots: dict[str, Artifact] | None = None
    outputs: dict[str, Artifact] | None = None

    @property
    def type_name(self) -> str:
        """The name of the step's node type."""
        return self.node.type.name  # of a node type, or of a graph whose steps are not known yet

    @property
    def is_open(self) -> bool:
        """Whether it stands for as many steps as a value that is not known yet will say."""
        return self.status == "waits" and self.reason.startswith("after ")


class NodeState:
    """What is known of a node in a frame. One without `each` is replaced, never changed."""

    __slots__ = ("many", "outputs", "pending", "steps", "waits")

    def __init__(
        self,
        steps: list[Step],
        outputs: Mapping[str, Artifact],
        *,
        waits: Unknown | None = None,
        pending: Mapping[str, Unknown] | None = None,
        many: bool = False,
    ) -> None:
        #: Its steps; of a graph used as a node, those of its elements that cannot be entered.
        self.steps = steps
        #: The outputs that are known for good.
        self.outputs = outputs
        #: Why its steps are not known: a flag or a list is not.
        self.waits = waits
        #: Of a graph used as a node, what its other outputs come after.
        self.pending = pending
        self.many = many


class Frame:
    """A graph with values for its inputs: the top one, or a graph used as a node (for one element,
    and one repetition).
    """

    __slots__ = (
        "below",
        "by_default",
        "element",
        "entered",
        "graph",
        "inputs",
        "item",
        "parent",
        "prefix",
        "repetition",
        "states",
    )

    def __init__(
        self,
        graph: Graph,
        prefix: str,
        item: str,
        inputs: dict[str, Artifact],
        *,
        by_default: Iterable[str] = (),
        parent: tuple[Frame, Node] | None = None,
        element: Place | None = None,
        repetition: int | None = None,
    ) -> None:
        self.graph = graph
        self.prefix = prefix
        #: The label of the plan's item that it belongs to; empty in a plan of one.
        self.item = item
        #: The values of its inputs that are known.
        self.inputs = inputs
        #: Inputs that were given nothing, and so have their defaults: paths in these are relative
        # to the graph's own file.
        self.by_default = set(by_default)
        self.states: dict[str, NodeState] = {}
        #: The frames of graphs used as nodes, by node and by the number of the element: one for each
        # repetition that was begun.
        self.below: dict[str, dict[int, list[Frame]]] = {}
        #: The frame around it, and the node there that it belongs to.
        self.parent = parent
        self.element = element
        self.repetition = repetition
        #: Whether its first inputs are known, and let it be entered.
        self.entered = parent is None

    def full(self, node: str) -> str:
        """A node's name as it is shown, with those of the nodes around it."""
        return self.prefix + node

    def copy(self, parent: tuple[Frame, Node] | None = None) -> Frame:
        """Copy it and the frames below in which anything is left to know; the others do not change
        any more.
        """
        made = Frame(
            self.graph,
            self.prefix,
            self.item,
            dict(self.inputs),
            by_default=self.by_default,
            parent=parent,
            element=self.element,
            repetition=self.repetition,
        )
        made.entered = self.entered
        made.states = {
            name: (
                NodeState(list(s.steps), s.outputs, waits=s.waits, pending=s.pending, many=True)
                if s.many
                else s
            )
            for name, s in self.states.items()
        }
        for name, elements in self.below.items():
            node = self.graph.nodes[name]
            is_known = len(self.states[name].outputs) == len(node.outputs)
            made.below[name] = (
                elements
                if is_known
                else {
                    element: [frame.copy((made, node)) for frame in frames]
                    for element, frames in elements.items()
                }
            )
        return made

    def all(self) -> Iterator[Frame]:
        """Give it and all frames below."""
        yield self
        for name in self.below:
            for frame in self.inside(name):
                yield from frame.all()

    def inside(self, node: str) -> Iterator[Frame]:
        """Give the frames of a graph used as a node, by element and repetition."""
        for _, frames in sorted(self.below.get(node, {}).items()):
            yield from frames


#: A node in a frame, and one of its outputs.
NodeOutput = tuple[Frame, Node, str]


def item_of(frame: Frame, place: Place | None) -> str:
    """Label an element of a node in a frame."""
    return frame.item + "".join([f"[{i}]" for i in place or ()])


def element_part(item: str) -> str:
    """Give what of a step's item says which element it is, without the label of the plan's item."""
    return item[item.find("[") :] if "[" in item else ""


def without_value(kind: str) -> Artifact:
    """Give what an output is when what it needs is absent, failed or dropped."""
    return {"failed": FAILED, "unfit": FAILED, "dropped": DROPPED}.get(kind, ABSENT)


def after_error(slot: Artifact, on_error: OnError) -> Artifact:
    """Put in the place of what failed, at any depth, what `on_error` says."""
    if on_error == "fail":
        return slot
    if slot.kind == "failed":
        return DROPPED if on_error == "drop" else ABSENT
    if slot.items is None or slot.kind != "list" or not holds(slot, "failed"):
        return slot
    return list_of([after_error(item, on_error) for item in slot.items])


def whole_after_error(slot: Artifact, node: Node) -> Artifact:
    """The same of a node without `each`: as a whole it is in no list that it could be taken out of."""
    is_whole = slot.kind == "failed" and node.on_error == "drop"
    return ABSENT if is_whole else after_error(slot, node.on_error)


def without_dropped(slot: Artifact) -> Artifact:
    """Leave the elements that were dropped out of a list, and of the lists in it."""
    if slot.items is None or slot.kind != "list" or not holds(slot, "absent"):
        return slot
    return list_of([without_dropped(item) for item in slot.items if item is not DROPPED])


def present(slot: Artifact) -> Artifact:
    """Leave absent elements out of a list that goes into one port, and of the lists in it."""
    if slot.items is None or not holds(slot, "absent"):
        return slot
    if slot.kind == "record":
        return record_of(zip(slot.fields, map(present, slot.items), strict=True))
    return list_of([present(i) for i in slot.items if i.kind != "absent"])


def holds(slot: Artifact, kind: str) -> bool:
    """Whether a list has an absent or failed element, at any depth."""
    return any(i.kind == kind or (i.items is not None and holds(i, kind)) for i in slot.items or ())


def leaves(artifact: Artifact) -> Iterator[Artifact]:
    """Give what a list holds, lists in lists gone through; a value that is no list is its own leaf."""
    if artifact.items is None:
        yield artifact
    else:
        for item in artifact.items:
            yield from leaves(item)


def list_of(items: Sequence[Artifact]) -> Artifact:
    """Make a list of artifacts."""
    return Artifact(tagged("list", *[bytes.fromhex(i.digest) for i in items]), "list", tuple(items))


def record_of(fields: Iterable[tuple[str, Artifact]]) -> Artifact:
    """Make a record of the values of its fields; in which order they come makes no difference."""
    named = sorted(fields)
    parts = [part for name, slot in named for part in (name.encode(), bytes.fromhex(slot.digest))]
    return Artifact(
        tagged("record", *parts),
        "record",
        tuple([slot for _, slot in named]),
        tuple([name for name, _ in named]),
    )


def at_port(slots: Mapping[str, Artifact], port: str) -> Iterator[Artifact]:
    """Give what a port receives, and of a list its elements; of a port like ``controls.model`` what
    that field of its records receives.
    """
    name, _, field = port.partition(".")
    if name in slots:
        yield from (
            leaf
            for one in (_fields(slots[name], field) if field else (slots[name],))
            for leaf in leaves(one)
        )


def _fields(slot: Artifact, field: str) -> Iterator[Artifact]:
    if slot.kind == "record":
        yield (
            slot.items[slot.fields.index(field)] if slot.items and field in slot.fields else ABSENT
        )
    else:
        for item in slot.items or ():
            yield from _fields(item, field)


def in_records(slot: Artifact, port: str) -> Iterator[tuple[str, Artifact]]:
    """Give the fields of the records that a port receives, each named with where it is:
    ``controls[1].scale``.
    """
    for i, item in enumerate(slot.items or ()):
        if slot.kind == "record":
            yield f"{port}.{slot.fields[i]}", item
        else:
            yield from in_records(item, f"{port}[{i}]")


def listed(slots: Sequence[Slot]) -> Slot:
    """Make a list of what is known; one unknown element leaves it unknown."""
    known = together(slots)
    return known if isinstance(known, Unknown) else list_of(known)


def together(slots: Sequence[Slot]) -> list[Artifact] | Unknown:
    """Give values that are needed together; one that is not known leaves all of them unknown."""
    known = [slot for slot in slots if isinstance(slot, Artifact)]
    if len(known) == len(slots):
        return known
    return Unknown(
        tuple(dict.fromkeys(a for s in slots if isinstance(s, Unknown) for a in s.after))
    )
