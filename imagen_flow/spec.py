"""Read a graph file: text to GraphSpec, with a mark on every word. Knows no node type.

(The data model stands here; the parser follows below.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import Mark, Problem, Source

__all__ = ["GraphSpec", "InputSpec", "NodeSpec", "OutputSpec", "Pair", "Reference", "Template", "Word", "parse", "read"]


@dataclass(frozen=True, slots=True)
class Reference:
    """``${name}`` or ``${name.port}``."""

    name: str
    port: str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Template:
    """Text with references inside it: texts and references, in order."""

    parts: tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """Something written: a scalar (None, bool, int, float, str), a Reference, a Template, a tuple of Words, or a dict of Pairs."""

    value: Any
    mark: Mark


@dataclass(frozen=True, slots=True)
class Pair:
    """A key of a mapping and what stands under it."""

    key: Word
    value: Word


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of a graph as written. A bare value has neither `type` nor options: it is its own default and type."""

    name: Word
    type: Word | None
    options: dict[str, Pair]  # default, help, min, max, choices
    bare: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as written: its type, its arguments, and the reserved words that it uses."""

    name: Word
    type: Word
    arguments: dict[str, Pair]
    reserved: dict[str, Pair]  # each, when, repeat, retry, device, cache, timeout, settings
    mark: Mark


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output as written: what it gives, and where it is written."""

    name: Word
    source: Word
    options: dict[str, Pair]  # path, exists, provenance
    mark: Mark


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """A graph file as written. `problems` are those of the text itself; whoever resolves the graph adds its own and shows them all."""

    source: Source
    path: Path | None
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    outputs: dict[str, OutputSpec] = field(default_factory=dict)
    settings: dict[str, Pair] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
