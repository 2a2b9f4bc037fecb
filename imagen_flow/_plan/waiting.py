"""Look ahead at nodes whose steps are not known yet: the models that they name are known all the
same, and what is wrong with them is messages before anything runs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .._graph import Graph, Node
from .._store import Damaged
from .._types.artifact import Artifact
from .._types.models import Model
from .._types.node import NodeType
from ..errors import GraphError, Problem
from .port_values import known_models
from .state import State
from .step import Frame, Step, at_port, leaves
from .values import Values

__all__ = ["check_waiting_models", "missing_models"]


def check_waiting_models(state: State) -> None:
    """Resolve the models of nodes that wait, here and in included graphs, and let their loaders
    refuse them.

    What is wrong becomes a problem of the plan. Where a `when` that is not known yet may leave the
    node out, a model that is only not on this machine is a warning.
    """
    walk = _Waiting(state)
    for top in state.tops:
        walk.frame(top)
    undecided, walk.undecided = walk.undecided, None
    problems = state.values.problems
    firm, certain = len(problems), list(state.problems)
    of_items = {label: list(found) for label, found in state.item_problems.items()}
    for frame, node in undecided or ():
        walk.node(frame, node)
    state.problems[:] = certain
    state.item_problems = of_items
    problems[firm:] = [
        replace(problem, severity="warning") if problem.code == "unresolved-model" else problem
        for problem in problems[firm:]
    ]


def missing_models(values: Values, steps: Collection[Step]) -> str:
    """Say in words which models these steps lack, and how to get them; else what stands against
    running them with those that they have.
    """
    lacking = [
        problem
        for step in steps
        for slot in (step.slots or {}).values()
        for leaf in leaves(slot)
        if isinstance(model := values.constants.by_digest.get(leaf.digest), Model)
        and model.digest == "unresolved"
        for (reference, _), problem in values.models.resolved.items()
        if reference == model.reference and isinstance(problem, Problem)
    ]
    messages = [
        f"{problem.message}{'; ' if problem.fix else ''}{problem.fix}" for problem in lacking
    ]
    return (
        "; ".join(
            dict.fromkeys(
                messages
                or [step.reason for step in steps if step.status == "unresolved" and step.reason]
            )
        )
        or "its model is not on this machine"
    )


class _Waiting:
    def __init__(self, state: State) -> None:
        self.state = state
        #: Nodes that may prove to be left out, put off until the others are done; None once these
        # are gone through.
        self.undecided: list[tuple[Frame, Node]] | None = []
        #: Included graphs that were looked at, each with these values of its inputs.
        self._seen: set[tuple[int, tuple[str, ...]]] = set()

    def frame(self, top: Frame) -> None:
        for frame in list(top.all()):
            for name, known in list(frame.states.items()):
                node = frame.graph.nodes[name]
                if known.waits is None:
                    continue
                if node.when is not None and self.undecided is not None:
                    self.undecided.append((frame, node))
                else:
                    self.node(frame, node)

    def node(self, frame: Frame, node: Node) -> None:
        try:
            if isinstance(node.type, Graph):
                self._graph(frame, node, node.type)
            else:
                self._models(frame, node, node.type)
        except (GraphError, ValueError, Damaged):
            return  # reported, or made again, when its steps are worked out

    def _models(self, frame: Frame, node: Node, type_: NodeType) -> None:
        values, keys = self.state.values, self.state.keys
        slots: dict[str, Artifact] = {}
        for port in dict.fromkeys(path.partition(".")[0] for path in type_.loaders):
            slot = known_models(values, frame, node, type_, port)
            if slot is not None:
                slots[port] = slot
        given = {
            port: found
            for port, slot in slots.items()
            if (found := values.model_of(slot)) is not None
        }
        for port, loader in type_.loaders.items():
            for leaf in at_port(slots, port):
                if (model := values.model_of(leaf)) is not None:
                    values.models.unusable(
                        model, leaf.digest, loader, port, given, node, keys.policy
                    )

    def _graph(self, frame: Frame, node: Node, inner: Graph) -> None:
        """Walk an included graph as if it were for one element, with what is known of its inputs."""
        child = Frame(inner, f"{frame.full(node.name)}/", frame.item, {}, parent=(frame, node))
        slots = [self.state.values.input(child, name) for name in inner.inputs]
        seen = (
            id(inner),
            tuple(slot.digest if isinstance(slot, Artifact) else "" for slot in slots),
        )
        if seen in self._seen:
            return
        self._seen.add(seen)
        self.state.walk(child)
        self.frame(child)
