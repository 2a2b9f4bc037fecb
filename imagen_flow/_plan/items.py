"""The items of a plan: several sets of values for the inputs of one graph.

What the values of one item cause (one does not fit, a model that it names is not there) is a
problem of that item, and the others go on. What is wrong whatever the values are refuses the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from .._graph import Graph
from .._system.dataclass import dataclass
from .._types.models import Model
from .._types.node import NodeType
from ..errors import GraphError, Problem
from .inputs import Taken, take_inputs
from .state import State, reads_inputs
from .step import Step, leaves
from .values import Values

__all__ = ["Item", "PlannedItem", "charge_models", "check_labels", "take_items"]


@dataclass(frozen=True, slots=True)
class Item:
    """Values for one of several runs of a graph through one plan.

    Params:
        label: names the item in steps, events and messages; short, unique, without brackets.
        values, texts: of inputs, live or as text; they override those that all items share.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """An item as planned: the values of its inputs, and the seeds that were drawn for it. With
    problems, it does not run.
    """

    label: str
    inputs: Mapping[str, Any]
    seeds: Mapping[str, int]
    problems: tuple[Problem, ...] = ()


def check_labels(items: Iterable[Item]) -> None:
    """See that labels can tell the items apart.

    Raises:
        ValueError: one is empty, not printable, contains brackets, or occurs twice.
    """
    seen: set[str] = set()
    for item in items:
        label = item.label
        if not label or not label.isprintable() or "[" in label or "]" in label:
            raise ValueError(
                f"the label of an item is printable text without brackets, not {label!r}"
            )
        if label in seen:
            raise ValueError(f"two items have the label {label!r}")
        seen.add(label)


def take_items(
    held: Values,
    graph: Graph,
    values: Mapping[str, Any],
    texts: Mapping[str, str],
    items: Iterable[Item],
) -> dict[str, Taken | tuple[Problem, ...]]:
    """Take the inputs of each item, or say what is wrong with its values."""
    found: dict[str, Taken | tuple[Problem, ...]] = {}
    for item in items:
        own = item.values.keys() | item.texts.keys()
        try:
            found[item.label] = take_inputs(
                held,
                graph,
                {n: v for n, v in values.items() if n not in own} | dict(item.values),
                {n: t for n, t in texts.items() if n not in own} | dict(item.texts),
                item=item.label,
            )
        except GraphError as bad:
            found[item.label] = tuple(bad.problems)
    return found


def charge_models(state: State) -> None:
    """Move what is wrong with models from the plan to the items whose values name them."""
    problems = state.values.problems
    moved: set[Problem] = set()
    common: set[Problem] = set()
    for frame, step in state.steps():
        if step.status != "unresolved":
            continue
        assert isinstance(step.node.type, NodeType)
        ports = {path.partition(".")[0] for path in step.node.type.loaders}
        faults = _faults(state.values, step)
        if frame.item and reads_inputs(frame, step.node, ports):
            state.item_problems.setdefault(frame.item, []).extend(faults)
            moved.update(faults)
        else:
            common.update(faults)
    if moved:
        problems[:] = [problem for problem in problems if problem not in moved - common]


def _faults(values: Values, step: Step) -> list[Problem]:
    """Say what is wrong with the models of a step."""
    missing = {
        model.reference
        for slot in (step.slots or {}).values()
        for leaf in leaves(slot)
        if (model := values.model_of(leaf)) is not None and model.digest == "unresolved"
    }
    found = [
        problem
        for (reference, _), problem in values.models.resolved.items()
        if reference in missing and not isinstance(problem, Model)
    ] or [
        problem
        for problem in values.problems
        if problem.severity == "error"
        and problem.mark is not None
        and problem.mark == step.node.mark
    ]
    return found or [Problem("bad-model", f"{step.name}: {step.reason}", step.node.mark)]
