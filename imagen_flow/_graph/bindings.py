"""What a port may be bound to, and what a binding reads. Edges are bindings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._types.models import Loader
from ..errors import Mark

__all__ = [
    "Binding",
    "FileAt",
    "FromInput",
    "FromNode",
    "Given",
    "Joined",
    "Listed",
    "Mapped",
    "ModelAt",
    "readings",
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


Binding = Given | FromInput | FromNode | Joined | Listed | Mapped | FileAt | ModelAt


def readings(binding: Binding | str) -> Iterator[FromNode | FromInput]:
    """Give what a binding reads: outputs of nodes and inputs of the graph."""
    if isinstance(binding, FromNode | FromInput):
        yield binding
    elif isinstance(binding, Listed):
        for item in binding.items:
            if type(item) is FromNode:
                yield item
            else:
                yield from readings(item)
    elif isinstance(binding, Joined):
        for part in binding.parts:
            yield from readings(part)
    elif isinstance(binding, Mapped):
        for _, item in binding.items:
            yield from readings(item)
