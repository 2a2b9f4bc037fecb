"""What a port may be bound to, and what a binding reads. Edges are bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from .._types.models import Loader
from ..errors import Mark

__all__ = [
    "Binding",
    "ElementOf",
    "FileAt",
    "FromInput",
    "FromNode",
    "Given",
    "Joined",
    "Listed",
    "Mapped",
    "ModelAt",
    "PerElement",
    "Place",
    "RecordOf",
    "element_of",
    "fields_of",
    "parts_of",
    "readings",
    "rebound",
    "sizing",
]


@dataclass(frozen=True, slots=True)
class Given:
    """A literal, checked against its port."""

    value: Any


@dataclass(frozen=True, slots=True)
class FromInput:
    """The value of one of the graph's inputs."""

    name: str


@dataclass(frozen=True, slots=True)
class FromNode:
    """The value of a node's output."""

    node: str
    port: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Text with values inside it."""

    parts: tuple[str | FromInput | FromNode, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list whose elements are bound one by one."""

    items: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Mapped:
    """JSON data with references inside it."""

    items: tuple[tuple[str, Binding], ...]


@dataclass(frozen=True, slots=True)
class FileAt:
    """A file or folder named by a path, relative to `folder`; it enters keys by content."""

    path: str
    kind: str
    folder: Path
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ModelAt:
    """A model named by a reference; a relative path in it is relative to `folder`. `loader` is that
    of the port that it is given to.
    """

    reference: str
    folder: Path
    mark: Mark | None = None
    loader: Loader[Any] | None = None


@dataclass(frozen=True, slots=True)
class RecordOf:
    """A record, by those of its fields that are written."""

    fields: tuple[tuple[str, Binding], ...]


@dataclass(frozen=True, slots=True)
class ElementOf:
    """An element of a list. In a `PerElement` it is the one that the node runs for: `index` is None."""

    of: Binding
    index: int | None = None


@dataclass(frozen=True, slots=True)
class PerElement:
    """What a port of `each` is given for one element: records some fields of which go through lists
    (`ElementOf`).
    """

    each: Binding


Binding = (
    Given
    | FromInput
    | FromNode
    | Joined
    | Listed
    | Mapped
    | FileAt
    | ModelAt
    | RecordOf
    | ElementOf
    | PerElement
)


#: Where an element is in lists of lists: its number in each, from the outermost.
Place = tuple[int, ...]


def parts_of(binding: Binding) -> tuple[Binding, ...]:
    """Give the bindings that a binding is made of; none if it is a literal or a reference."""
    if isinstance(binding, Listed):
        return binding.items
    if isinstance(binding, Mapped):
        return tuple([item for _, item in binding.items])
    if isinstance(binding, RecordOf):
        return tuple([item for _, item in binding.fields])
    if isinstance(binding, ElementOf):
        return (binding.of,)
    if isinstance(binding, PerElement):
        return (binding.each,)
    if isinstance(binding, Joined):
        return tuple([part for part in binding.parts if not isinstance(part, str)])
    return ()


def rebound(binding: Binding, change: Callable[[Binding], Binding]) -> Binding:
    """Change the bindings that a binding is made of. Values inside text stay as they are."""
    if isinstance(binding, Listed):
        return Listed(tuple([change(item) for item in binding.items]))
    if isinstance(binding, Mapped):
        return Mapped(tuple([(name, change(item)) for name, item in binding.items]))
    if isinstance(binding, RecordOf):
        return RecordOf(tuple([(name, change(item)) for name, item in binding.fields]))
    if isinstance(binding, ElementOf):
        return replace(binding, of=change(binding.of))
    if isinstance(binding, PerElement):
        return PerElement(change(binding.each))
    return binding


def readings(binding: Binding | str) -> Iterator[FromNode | FromInput]:
    """Give what a binding reads: outputs of nodes and inputs of the graph."""
    if type(binding) is FromNode or type(binding) is FromInput:
        yield binding
    elif not isinstance(binding, str):
        for item in parts_of(binding):
            if type(item) is FromNode:
                yield item
            else:
                yield from readings(item)


def sizing(binding: Binding) -> Iterator[Binding]:
    """Give the lists that say how many elements a port of `each` has: one for most, several for
    records with fields that go through lists.
    """
    if not isinstance(binding, PerElement):
        yield binding
        return
    pending = [binding.each]
    while pending:
        one = pending.pop()
        if isinstance(one, ElementOf):
            yield one.of
        else:
            pending += parts_of(one)[::-1]


def fields_of(binding: Binding, field: str, *, is_first: bool) -> Iterator[Binding | None]:
    """Give what a field gets in the records that a port is bound to; None where it is left out.

    Params:
        is_first: whether values that are not written as records stand for this field.
    """
    if isinstance(binding, RecordOf):
        yield dict(binding.fields).get(field)
    elif isinstance(binding, Listed | PerElement):
        for item in parts_of(binding):
            yield from fields_of(item, field, is_first=is_first)
    else:
        yield binding if is_first else None


def element_of(binding: Binding, place: Place | None) -> Binding:
    """Give what a port of `each` is bound to for one element, as far as it is written out; a
    reference to a list stands for its elements.
    """
    if place and isinstance(binding, PerElement):
        return _for(binding.each, place[0])
    for index in place or ():
        if not isinstance(binding, Listed):
            break
        binding = binding.items[index]
    return binding


def _for(binding: Binding, index: int) -> Binding:
    if not isinstance(binding, ElementOf):
        return rebound(binding, lambda one: _for(one, index))
    if isinstance(binding.of, Listed):
        return binding.of.items[index]
    return replace(binding, index=index)
