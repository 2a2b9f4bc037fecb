"""Predict which models the rest of a run will need, and in what order, so that the pool evicts the
model that is needed last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from .._graph import Node
from .._models import Identity, identity_of, leaves, weight_of, with_replaced_parts
from .._plan import Frame, NodeOutput, State, at_port, demands, known_models, outputs_of
from .._types.artifact import Artifact
from .._types.models import Loader, Model
from .._types.node import NodeType
from ..errors import ModelError

__all__ = ["ModelLookahead", "leased_weights"]


class ModelLookahead:
    """The models that nodes which have not run yet will lease, as far as the plan knows them.

    Computed when the first model is leased, and again when a node leases one that was not predicted
    (because a list has become known, and with it the graphs of its elements).
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._uses: dict[Identity, deque[tuple[int, Frame, Node]]] = {}
        #: What each of them is loaded from.
        self._models: dict[Identity, tuple[Loader[Any], Model]] = {}
        #: The frames are kept, so that no other takes their identity.
        self._seen: dict[tuple[int, str], Frame] = {}

    def upcoming(self, frame: Frame, node: Node) -> list[Identity]:
        """List the models that will be needed, each once, in order of first use; `node` is the one
        that leases now.
        """
        if (id(frame), node.name) not in self._seen:
            self._scan()
        next_uses: list[tuple[int, Identity]] = []
        for identity, uses in self._uses.items():
            while uses and _is_known(uses[0][1], uses[0][2]):
                uses.popleft()
            if uses:
                next_uses.append((uses[0][0], identity))
        return [identity for _, identity in sorted(next_uses)]

    def with_models(
        self, identities: Iterable[Identity]
    ) -> list[tuple[Identity, Loader[Any], Model]]:
        """Give models that are upcoming with what they are loaded from."""
        return [(identity, *self._models[identity]) for identity in identities]

    def _scan(self) -> None:
        self._uses.clear()
        self._seen.clear()
        for position, (frame, node) in enumerate(_remaining_nodes(self.state)):
            self._seen[id(frame), node.name] = frame
            for identity, loader, model in self._leased(frame, node):
                self._models[identity] = loader, model
                self._uses.setdefault(identity, deque()).append((position, frame, node))

    def _leased(self, frame: Frame, node: Node) -> Iterator[tuple[Identity, Loader[Any], Model]]:
        """Yield the models that a node will lease, if they are known yet."""
        if not isinstance(node.type, NodeType) or not node.type.uses_torch:
            return
        slots = {
            port: slot
            for port in dict.fromkeys(path.partition(".")[0] for path in node.type.loaders)
            if (slot := known_models(self.state.values, frame, node, node.type, port)) is not None
        }
        yield from _leases(self.state, node, slots)


def leased_weights(
    state: State, node: Node, slots: Mapping[str, Artifact], known: dict[Identity, int]
) -> dict[Identity, int]:
    """Give the models that a step with these inputs leases, and what each weighs in memory. What was
    worked out before is `known`, and added to.
    """
    found: dict[Identity, int] = {}
    for identity, loader, model in _leases(state, node, slots):
        if identity not in known:
            known[identity] = weight_of(
                loader, model, dtype=identity.dtype, settings=identity.settings
            )
        found[identity] = known[identity]
    return found


def _leases(
    state: State, node: Node, slots: Mapping[str, Artifact]
) -> Iterator[tuple[Identity, Loader[Any], Model]]:
    """Yield the models that a node leases of those that its ports receive, each with what loads it."""
    assert isinstance(node.type, NodeType)
    values = state.values
    named = {
        path: [
            model for leaf in at_port(slots, path) if (model := values.model_of(leaf)) is not None
        ]
        for path in node.type.loaders
    }
    policy = state.keys.policy(node)
    companions = {name: models[0] for name, models in named.items() if len(models) == 1}
    for name, models in named.items():
        for model in models:
            with suppress(ModelError):  # it is reported when the node runs
                loader = node.type.loaders[name]
                model = with_replaced_parts(loader, name, {**companions, name: model})
                for leaf in leaves(loader, model):
                    identity = identity_of(
                        leaf,
                        model,
                        device=policy.device,
                        dtype=policy.dtype,
                        settings=policy.settings,
                    )
                    yield identity, leaf, model


def _is_known(frame: Frame, node: Node) -> bool:
    """Tell whether a plugin's node has its outputs."""
    known = frame.states.get(node.name)
    return known is not None and bool(known.outputs)


def _remaining_nodes(state: State) -> list[tuple[Frame, Node]]:
    """List the nodes that a run has not evaluated yet, in the order in which it will: each after
    its dependencies, from the outputs back.
    """
    found: list[tuple[Frame, Node]] = []
    seen: set[tuple[int, str, str]] = set()
    targets = reversed([output for top in state.tops for output in outputs_of(top)])
    stack: list[tuple[NodeOutput, bool]] = [(target, False) for target in targets]
    while stack:
        target, is_open = stack.pop()
        frame, node, port = target
        identity = (id(frame), node.name, port)
        known = frame.states.get(node.name)
        if is_open:
            found.append((frame, node))
        elif identity not in seen and (known is None or port not in known.outputs):
            seen.add(identity)
            stack.append((target, True))
            later: list[NodeOutput] = []
            now = demands(state, frame, node, port, later=later)
            stack += [(t, False) for t in (*now, *later)][::-1]
    return found
