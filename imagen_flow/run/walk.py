"""Walk a plan by demand, from the outputs back: a step runs when something that runs needs its value. The walk's stack is its own, so a graph may be as deep as it likes."""

from __future__ import annotations

import threading

from ..artifact import Artifact
from ..errors import Cancelled, ImagenFlowError
from ..graph import FromNode, Node, Output
from ..node import NodeType
from ..plan import FailedStep, Frame, NodeState, Plan, Step, leaves, missing_models
from ..store import Damaged
from .delivery import Delivery
from .needs import below, first, outside, producers
from .report import Report
from .steps import Rekey, Steps, reopen_above

__all__ = ["Walk"]

#: How often a step is keyed anew because a file changes under it.
REKEYS = 5


class Walk:
    """One walk through a plan."""

    def __init__(self, plan: Plan, steps: Steps, delivery: Delivery, report: Report, *, cancel: threading.Event) -> None:
        self.plan = plan
        self.planner = plan.planner
        self.steps = steps
        self.delivery = delivery
        self.report = report
        self.cancel = cancel
        #: The outputs that have not been given yet, by what they come from.
        self._waiting: dict[FromNode, list[Output]] = {}

    def go(self) -> None:
        """Bring every output to its value.

        Raises:
            Cancelled: the run was cancelled.
        """
        top = self.plan.frame
        for output in self.plan.graph.outputs.values():
            if isinstance(output.source, FromNode):
                self._waiting.setdefault(output.source, []).append(output)
            else:
                slot = top.inputs[output.source.name]
                assert isinstance(slot, Artifact)
                self.delivery.give(output, slot)
        for source in list(self._waiting):
            self._reach(top, top.graph.nodes[source.node])

    def _reach(self, frame: Frame, node: Node) -> None:
        """Bring a node to its outputs, and before it whatever it needs."""
        stack = [(frame, node)]
        tries: dict[str, int] = {}
        while stack:
            if self.cancel.is_set():
                raise Cancelled
            frame, node = stack[-1]
            state = frame.states.get(node.name)
            try:
                if state is not None and state.done:
                    self._arrived(frame, node, state)
                    stack.pop()
                    continue
                # A node whose producers are known to be missing need not be keyed in vain.
                needs = first(self.planner.values, frame, node) if state is not None and state.outputs is None and _only_waits(state) else []
                fresh = False
                if not needs:
                    before = state.steps[0] if state is not None and state.steps else None
                    state = self.planner.settle(frame, node)
                    fresh = len(state.steps) == 1 and state.steps[0] is not before
                    if state.done:
                        continue
                    needs = below(state) or ([] if _runnable(state) else producers(self.planner.values, frame, node) or outside(frame, node, stack))
                if needs:
                    stack += reversed(needs)
                    continue
                assert state is not None
                todo = _runnable(state)
                if not todo and any(s.status == "unresolved" for s in state.steps):
                    raise FailedStep(frame, node, missing_models(self.planner.values, state.steps))
                if not todo:
                    raise ImagenFlowError(f"{frame.full(node.name)} waits for nothing; this is a bug of imagen_flow")
                for step in todo:
                    self.steps.run(step, fresh=fresh)
                state.outputs = todo[0].outputs if not node.each and isinstance(node.type, NodeType) else None  # type: ignore[assignment]
                state.done = state.outputs is not None and node.when is None
            except FailedStep as failed:
                self._fail(failed)
            except (Rekey, Damaged) as odd:
                which = str(odd)
                tries[which] = tries.get(which, 0) + 1
                if tries[which] > REKEYS:
                    self._fail(FailedStep(frame, node, which if isinstance(odd, Damaged) else f"{which} comes out otherwise each time, or its files keep changing"))
                    continue
                _unsettle(frame, node)
                # What a graph is given is worked out anew from the top.
                while stack[-1][0] is not self.plan.frame:
                    stack.pop()

    def _fail(self, failed: FailedStep) -> None:
        self.report.fail(self.planner.fail(failed), failed)

    # -- a node has its outputs --------------------------------------------------------------------------------------------------

    def _arrived(self, frame: Frame, node: Node, state: NodeState) -> None:
        """Say what has not been said of a node that has its outputs, and give those that the graph asks for."""
        if self.planner.failed:
            self._blame(frame, node)
        if state.frames:
            self._say_below(state)
        for step in state.steps:
            self.report.settled(step)
        if frame is self.plan.frame and state.outputs:
            for port, slot in state.outputs.items():
                asked = self._waiting.get(FromNode(node.name, port))
                while asked:
                    assert isinstance(slot, Artifact)
                    self.delivery.give(asked[0], slot)
                    asked.pop(0)

    def _say_below(self, state: NodeState) -> None:
        """Say what has not been said of the graphs below a node: a step that was found in the store there was not waited for."""
        pending = [*state.frames]
        while pending:
            for inner in pending.pop().states.values():
                for step in inner.steps:
                    self.report.settled(step)
                pending += inner.frames

    def _blame(self, frame: Frame, node: Node) -> None:
        """Say which nodes could not be worked out, once somebody needs them, and what is skipped because of them."""
        pending, seen, found = [(frame, node)], {id(node)}, []
        while pending:
            frame, node = pending.pop()
            state = frame.states.get(node.name)
            if state is None or not any(leaf.kind == "failed" for slot in (state.outputs or {}).values() if isinstance(slot, Artifact) for leaf in leaves(slot)):
                continue
            found += [s for s in state.steps if s.status in ("failed", "skipped")]
            above = [frame.graph.nodes[name] for name in node.after]
            pending += [(frame, n) for n in above if id(n) not in seen]
            seen.update(map(id, above))
            pending += [(child, n) for child in state.frames for n in child.graph.nodes.values()]
        for step in reversed(found):
            self.report.settled(step)


def _only_waits(state: NodeState) -> bool:
    return not state.frames and all(s.status == "waits" for s in state.steps)


def _runnable(state: NodeState) -> list[Step]:
    return [s for s in state.steps if s.status == "runs" or s.status == "idle"]


def _unsettle(frame: Frame, node: Node) -> None:
    """Let a node, and those around its frame, be settled again."""
    state = frame.states[node.name]
    for step in state.steps:
        if step.status in ("runs", "idle"):
            step.status = "waits"
    state.outputs, state.done = None, False
    reopen_above(frame)
