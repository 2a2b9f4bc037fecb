"""Say for which elements a node runs: `when` decides first, then the lists of `each`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .._graph import Binding, ElementOf, Listed, Node, PerElement, Place, RecordOf, sizing
from .._types.artifact import Artifact
from .._types.ports import BadValue
from .step import (
    DROPPED,
    Frame,
    Slot,
    Status,
    Step,
    Unknown,
    after_error,
    item_of,
    listed,
    whole_after_error,
    without_value,
)
from .values import Values

__all__ = ["Elements", "elements", "is_off", "off_step"]


class Off(NamedTuple):
    """An element that does not run, since something is ``absent``, ``failed`` or ``dropped``, or its
    lists are ``unfit``; and why.
    """

    kind: str
    why: str


class Elements(NamedTuple):
    """The elements of a node: where each is in its lists, and which of them do not run, by their
    numbers. `shape` is how these are nested.
    """

    places: Sequence[Place]
    off: dict[int, Off]
    shape: Shape

    def running(self, depth: int) -> Iterator[Place]:
        """Give where the elements that run are in lists that are so deep, each place once."""
        before: Place | None = None
        for i, place in enumerate(self.places):
            if i not in self.off and place[:depth] != before:
                yield (before := place[:depth])

    def nested(self, slots: Sequence[Slot]) -> Slot:
        """Nest what comes of the elements as their lists are."""
        return _nested(self.shape, slots)

    def nested_known(self, slots: Sequence[Artifact]) -> Artifact:
        """The same of what is known."""
        found = _nested(self.shape, slots)
        assert isinstance(found, Artifact)
        return found


#: Numbers of elements, in lists of lists; a single number if there are no lists, or an element is
# where others have a list.
Shape = int | Sequence["Shape"]


def _nested(shape: Shape, slots: Sequence[Slot]) -> Slot:
    if isinstance(shape, int):
        return slots[shape]
    if isinstance(shape, range):
        return listed(slots[shape.start : shape.stop])
    return listed([_nested(inner, slots) for inner in shape])


def elements(
    values: Values, frame: Frame, node: Node, looked: list[Binding] | None = None
) -> Elements | Step | Unknown:
    """Say for which elements a node runs; one without `each` has one. A Step if for none: it is
    absent or skipped.

    Params:
        looked: takes the lists that must be known for that.

    Raises:
        BadValue: a flag is no truth value, or a list is none.
        ValueError: the lists differ in length.
    """
    flags: Artifact | None = None
    if node.when is not None:
        slot = values.bind(frame, node.when)
        if isinstance(slot, Unknown):
            return slot
        if slot.items is not None and node.each:
            flags = slot
        elif not _is_on(values, slot):
            return _without(frame, node, slot.kind, _why_off(slot))
    if not node.each:
        return Elements([()], {}, 0)
    lists: dict[str, Cursor] = {}
    depths: dict[str, int] = {}
    for port, depth in node.each.items():
        for path, binding in _lists(port, node.bindings[port]):
            lists[path], depths[path] = binding, depth
    walk = _Walk(values, frame, depths, [] if looked is None else looked)
    try:
        shape = walk.level((), lists, flags)
    except _NotKnown as waits:
        return Unknown(tuple(dict.fromkeys(waits.after)))
    if isinstance(shape, Off):
        if shape.kind == "unfit":
            raise ValueError(shape.why)
        return _without(frame, node, shape.kind, shape.why)
    if walk.after:
        return Unknown(tuple(dict.fromkeys(walk.after)))
    return Elements(walk.places, walk.off, shape)


#: A list of `each`, or what one of its elements is: as written, or its value.
Cursor = Binding | Artifact


class _NotKnown(Exception):
    """The outermost lists are not known."""

    def __init__(self, after: list[str]) -> None:
        super().__init__()
        self.after = after


class _Walk:
    """Goes through the lists of a node: of each element that has lists in it, as through those of a
    node of its own.
    """

    def __init__(
        self, values: Values, frame: Frame, depths: Mapping[str, int], looked: list[Binding]
    ) -> None:
        self.values = values
        self.frame = frame
        self.depths = depths
        self.looked = looked
        self.places: list[Place] = []
        self.off: dict[int, Off] = {}
        #: What inner lists that are not known come after.
        self.after: list[str] = []

    def level(
        self, place: Place, lists: Mapping[str, Cursor], flags: Artifact | None
    ) -> Shape | Off:
        """Go through lists side by side; give how their elements are nested, or why there are none."""
        slots: dict[str, Artifact | Listed] = {}
        waits: list[str] = []
        for path, cursor in lists.items():
            if isinstance(cursor, Listed):
                slots[path] = cursor
                continue
            slot: Slot = cursor if isinstance(cursor, Artifact) else self._bind(cursor)
            if isinstance(slot, Unknown):
                waits += slot.after
            else:
                slots[path] = slot
        if waits and not place:
            raise _NotKnown(waits)
        if waits:
            self.after += waits
            return ()
        kinds = {
            path: slot.kind
            for path, slot in slots.items()
            if isinstance(slot, Artifact) and slot.items is None
        }
        for kind in ("absent", "failed"):
            if path := next((path for path in sorted(kinds) if kinds[path] == kind), ""):
                absent = kind == "absent"
                why = f"its '{path}' is absent" if absent else f"the source of its '{path}' failed"
                return Off(kind, why)
        for path, kind in sorted(kinds.items()):
            raise BadValue(f"takes a list for '{path}' of 'each', not {kind}")
        sizes = {path: len(slot.items or ()) for path, slot in slots.items()}
        if flags is not None:
            sizes["when"] = len(flags.items or ())
        if len(set(sizes.values())) > 1:
            lengths = ", ".join(f"'{path}' has {n}" for path, n in sorted(sizes.items()))
            where = f" at {''.join(f'[{i}]' for i in place)}" if place else ""
            return Off("unfit", f"the lists of 'each'{where} differ in length: {lengths}")
        return self._elements(place, slots, flags, next(iter(sizes.values())))

    def _elements(
        self,
        place: Place,
        slots: Mapping[str, Artifact | Listed],
        flags: Artifact | None,
        size: int,
    ) -> Shape:
        off: dict[int, Off] = {}
        nested = {path: slot for path, slot in slots.items() if self.depths[path] > len(place) + 1}
        for i, flag in enumerate(flags.items or () if flags is not None else ()):
            if not (nested and flag.items is not None) and not _is_on(self.values, flag):
                off[i] = Off(_kind(flag), _why_off(flag))
        for path, slot in slots.items():
            if isinstance(slot, Artifact):
                # What was dropped from one list is dropped with what is paired with it.
                off |= {
                    i: Off("dropped", f"its '{path}' was dropped")
                    for i, item in enumerate(slot.items or ())
                    if item is DROPPED
                }
        first = len(self.places)
        if not nested:
            self.places += [(*place, i) for i in range(size)]
            self.off |= {first + i: why for i, why in off.items()}
            return range(first, first + size)
        shape: list[Shape] = []
        for i in range(size):
            inner: Shape | Off | None = off.get(i)
            if inner is None:
                lists: dict[str, Cursor] = {p: (slot.items or ())[i] for p, slot in nested.items()}
                within = (flags.items or ())[i] if flags is not None else None
                is_list = within is not None and within.items is not None
                inner = self.level((*place, i), lists, within if is_list else None)
            if isinstance(inner, Off):
                self.off[len(self.places)] = inner
                inner = len(self.places)
                self.places.append((*place, i))
            shape.append(inner)
        return shape

    def _bind(self, binding: Binding) -> Slot:
        self.looked.append(binding)
        return self.values.bind(self.frame, binding)


def _lists(path: str, binding: Binding) -> Iterator[tuple[str, Binding]]:
    """Give the lists of a port of `each`, each with where it stands: the port itself, or fields of
    the records that it takes (``controls[0].image``).
    """
    if not isinstance(binding, PerElement | ElementOf | RecordOf):
        yield path, binding
    elif isinstance(binding, ElementOf):
        yield path, binding.of
    elif isinstance(binding, RecordOf):
        for name, item in binding.fields:
            if any(sizing(PerElement(item))):
                yield from _lists(f"{path}.{name}", item)
    elif isinstance(binding.each, Listed):
        for i, item in enumerate(binding.each.items):
            if any(sizing(PerElement(item))):
                yield from _lists(f"{path}[{i}]", item)
    else:
        yield from _lists(path, binding.each)


def is_off(values: Values, frame: Frame, node: Node) -> bool:
    """Whether a node's `when`, which is known, leaves all of it out."""
    slot = values.bind(frame, node.when) if node.when is not None else None
    return (
        isinstance(slot, Artifact)
        and (slot.items is None or not node.each)
        and slot.kind in ("bool", "absent", "failed")
        and not _is_on(values, slot)
    )


def off_step(frame: Frame, node: Node, found: Elements, i: int) -> Step:
    """Give the step of an element that does not run."""
    off = found.off[i]
    slot = after_error(without_value(off.kind), node.on_error)
    step = _without(frame, node, off.kind, off.why)
    return step._replace(
        item=item_of(frame, found.places[i]),
        element=found.places[i],
        outputs=dict.fromkeys(node.outputs, slot),
    )


def _is_on(values: Values, flag: Artifact) -> bool:
    """Tell whether a `when` lets its node run; an absent or failed one does not."""
    if flag.kind == "bool":
        return bool(values.value(flag))
    if flag.kind not in ("absent", "failed"):
        raise BadValue(f"takes true or false for 'when', not {flag.kind}")
    return False


def _kind(flag: Artifact) -> str:
    return "dropped" if flag is DROPPED else flag.kind


def _why_off(flag: Artifact) -> str:
    if flag.kind == "bool":
        return "its 'when' is false"
    return f"its 'when' {'was' if flag is DROPPED else 'is'} {_kind(flag)}"


#: What is told of a step that does not run; it is absent for any other reason.
_STATUS: dict[str, Status] = {"failed": "skipped", "unfit": "failed"}


def _without(frame: Frame, node: Node, kind: str, why: str) -> Step:
    """The one step of a node that has no values: its `when` is false, or a list of its `each` is
    absent or failed.
    """
    slot = without_value(kind)
    if not node.each:  # it is its own only element
        slot = whole_after_error(slot, node)
    outputs = dict.fromkeys(node.outputs, slot)
    return Step(
        frame.full(node.name),
        frame.item,
        node,
        None,
        _STATUS.get(kind, "absent"),
        why,
        outputs=outputs,
    )
