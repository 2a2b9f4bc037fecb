"""Walk a graph by demand, from the outputs back: a step runs when something that runs needs its
value. The walk's stack is its own, so a graph may be as deep as it likes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from .._graph import FromInput, FromNode, Graph, Listed, Node, Output, readings
from .._plan import (
    Elements,
    Frame,
    NodeState,
    Place,
    State,
    demands,
    elements,
    is_first,
    is_off,
    missing_models,
)
from .._store import Damaged
from .._types.node import NodeType
from ..errors import Cancelled, GraphError, ImagenFlowError
from .event_queue import Report
from .output_delivery import Delivery
from .step_runner import Rekey, Steps

__all__ = ["Walk"]

#: How often steps are keyed anew because a file changes under one, or a value is another each time.
REKEYS = 5


class Walk:
    """One walk through a graph."""

    def __init__(
        self,
        state: State,
        steps: Steps,
        delivery: Delivery,
        report: Report,
        *,
        cancel: threading.Event,
    ) -> None:
        self.state = state
        self.steps = steps
        self.delivery = delivery
        self.report = report
        self.cancel = cancel
        #: The outputs that have not been given yet, by what they come from.
        self._waiting: dict[FromNode, list[Output]] = {}
        #: Outputs of nodes of which it has been said what became of them.
        self._arrived: set[tuple[int, str, str]] = set()

    def go(self) -> None:
        """Bring every output to its value.

        Raises:
            Cancelled: the run was cancelled.
        """
        top = self.state.top
        for output in top.graph.outputs.values():
            if isinstance(output.source, FromNode):
                self._waiting.setdefault(output.source, []).append(output)
            else:
                self.delivery.give(output, top.inputs[output.source.name])
        for source in list(self._waiting):
            self._reach((top, top.graph.nodes[source.node], source.port))

    def _reach(self, goal: Place) -> None:
        """Bring a node to an output, and before it whatever it needs."""
        stack = [goal]
        tries: dict[str, int] = {}
        while stack:
            if self.cancel.is_set():
                raise Cancelled
            frame, node, port = stack[-1]
            state = frame.states.get(node.name)
            try:
                if state is not None and port in state.outputs:
                    self._arrive(stack[-1], state)
                    stack.pop()
                    continue
                needs = demands(self.state, frame, node, port)
                if not needs:
                    before = state
                    state = self.state.settle(frame, node)
                    if not node.is_single:
                        self._count(frame, node, state)
                    self.steps.learned(frame, state.steps)
                    if port in state.outputs:
                        continue
                    if isinstance(node.type, Graph):
                        needs = demands(self.state, frame, node, port)
                    elif self._run(frame, node, state, fresh=_is_keyed_now(state, before)):
                        continue
                if not needs:
                    raise ImagenFlowError(
                        f"{frame.full(node.name)} waits for nothing; this is a bug of imagen_flow"
                    )
                stack += reversed(needs)
            except (Rekey, Damaged) as error:
                which = str(error)
                tries[which] = tries.get(which, 0) + 1
                if tries[which] > REKEYS:
                    why = (
                        which
                        if isinstance(error, Damaged)
                        else f"{which} comes out otherwise each time, or its files keep changing"
                    )
                    frame.states[node.name] = self.state.failed(frame, node, why)
                    continue
                if isinstance(error, Damaged):
                    self.state.keying.lost.add(error.artifact.digest)
                self.steps.restart()
                self._arrived.clear()
                del stack[1:]

    def _run(self, frame: Frame, node: Node, state: NodeState, *, fresh: bool) -> bool:
        """Run the steps of a node that can run; False if there are none."""
        ran = False
        for i, step in enumerate(state.steps):
            if step.status == "unresolved":
                frame.states[node.name] = self.state.failed(
                    frame, node, missing_models(self.state.values, state.steps)
                )
                return True
            if step.status != "runs":
                continue
            if self.cancel.is_set():
                raise Cancelled
            ran = True
            done = self.steps.run(frame, step, fresh=fresh)
            self.steps.learned(frame, (done,))
            if state.many:
                state.steps[i] = done
            else:
                assert done.outputs is not None
                frame.states[node.name] = NodeState([done], done.outputs)
        return ran

    def _count(self, frame: Frame, node: Node, state: NodeState) -> None:
        """Say how many steps there are, where only now a value says it."""
        name = frame.full(node.name)
        if isinstance(node.type, NodeType):
            if state.steps:
                self.report.expects(name, len(state.steps))
        elif below := frame.below.get(node.name):
            self.report.expects(name, 0)
            for child in below.values():
                for inner in child.graph.nodes:
                    if inner not in child.graph.unneeded:
                        self.report.expects(child.full(inner), 1, at_least=True)

    # -- a node has an output
    # ----------------------------------------------------------------------------------------------------

    def _arrive(self, place: Place, state: NodeState) -> None:
        """Say what has not been said of a node that has an output, and give the outputs that the
        graph asks for.
        """
        frame, node, _ = place
        if len(state.steps) == 1 and state.steps[0].status in ("cached", "ran"):
            self.report.settled(state.steps[0])
        else:
            self._say(place)
        if frame is self.state.top:
            for port, slot in state.outputs.items():
                asked = self._waiting.get(FromNode(node.name, port))
                while asked:
                    self.delivery.give(asked[0], slot)
                    asked.pop(0)

    def _say(self, place: Place) -> None:
        """Say what became of a node's steps, after those that they are absent, skipped or failed
        because of: these may have been known when the run began.
        """
        stack = [(place, False)]
        while stack:
            place, is_open = stack.pop()
            frame, node, _ = place
            at = (id(frame), node.name, place[2])
            known = frame.states.get(node.name)
            if known is None or (at in self._arrived and not is_open):
                continue
            self._arrived.add(at)
            if is_open or all(
                step.status in ("cached", "ran")
                for step in known.steps
                if isinstance(node.type, NodeType)
            ):
                for step in known.steps:
                    self.report.settled(step)
                if is_open or not isinstance(node.type, Graph):
                    continue
            stack.append((place, True))
            stack += [(source, False) for source in self._reasons(place)][::-1]

    def _reasons(self, place: Place) -> Iterator[Place]:
        """Name what a node's output was worked out from: what `demands` asks for, in its stages.
        What nobody needed has no say, also if it is known.
        """
        frame, node, port = place
        if node.when is not None:
            yield from _sources(frame, readings(node.when))
            if is_off(self.state.values, frame, node):
                return
        for name in node.each:
            if not isinstance(node.bindings[name], Listed):
                yield from _sources(frame, readings(node.bindings[name]))
        try:
            found = elements(self.state.values, frame, node)
        except (GraphError, ValueError):
            return
        if not isinstance(found, Elements) or found.size == len(found.off):
            return
        for name, binding in node.bindings.items():
            if isinstance(node.type, Graph) and not is_first(node.type.inputs[name]):
                continue
            if name in node.each and isinstance(binding, Listed):
                for i, item in enumerate(binding.items):
                    if i not in found.off:
                        yield from _sources(frame, readings(item))
            else:
                yield from _sources(frame, readings(binding))
        if isinstance(node.type, Graph):
            yield from self._reasons_inside(frame, node, node.type, port)

    def _reasons_inside(self, frame: Frame, node: Node, inner: Graph, port: str) -> Iterator[Place]:
        """Name what the output of an included graph comes from in it: with `keep` the scores, and
        then the best repetition alone.
        """
        children = sorted(frame.below.get(node.name, {}).items())
        if node.repeat is None or node.repeat.best is None:
            for _, child in children:
                yield from _sources(child, (inner.outputs[port].source,))
            return
        groups: dict[int, list[Frame]] = {}
        for place, child in children:
            yield from _sources(child, (inner.outputs[node.repeat.best].source,))
            groups.setdefault(place // node.repeat.times, []).append(child)
        for group in groups.values():
            try:
                best = self.state.best(node, group)
            except ValueError:
                continue
            if isinstance(best, Frame):
                yield from _sources(best, (inner.outputs[port].source,))


def _is_keyed_now(state: NodeState, before: NodeState | None) -> bool:
    """Whether a node's only step was keyed, and the store asked, just now; what a plan knew may be
    old.
    """
    return len(state.steps) == 1 and not (
        before is not None and before.steps and before.steps[0] is state.steps[0]
    )


def _sources(frame: Frame, reads: Iterable[FromNode | FromInput]) -> Iterator[Place]:
    """Name the outputs of nodes that are read, beside a node or around its graph."""
    for read in reads:
        if isinstance(read, FromNode):
            yield frame, frame.graph.nodes[read.node], read.port
        elif frame.parent is not None:
            outer, node = frame.parent
            if read.name in node.bindings:
                binding = node.bindings[read.name]
                if (
                    read.name in node.each
                    and isinstance(binding, Listed)
                    and frame.element is not None
                ):
                    binding = binding.items[frame.element]
                yield from _sources(outer, readings(binding))
