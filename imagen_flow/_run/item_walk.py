"""Evaluate the outputs of one item by demand, from the outputs back: a step runs when something
that runs needs its value. The walk has its own stack, so a graph may be arbitrarily deep.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from .._graph import (
    Binding,
    FromInput,
    FromNode,
    Graph,
    Listed,
    Node,
    Output,
    PerElement,
    element_of,
    readings,
)
from .._plan import (
    Elements,
    Frame,
    NodeOutput,
    NodeState,
    State,
    Step,
    demands,
    elements,
    is_first,
    is_off,
    missing_models,
)
from .._store import Damaged
from .._types.node import NodeType
from ..errors import Cancelled, GraphError, ImagenFlowError
from .event_queue import EventQueue
from .output_delivery import OutputDelivery
from .step_runner import Rekey, StepRunner

__all__ = ["ItemWalk", "Ready"]

#: How often steps may be re-keyed because a file keeps changing or a value is never reproduced.
REKEYS = 5


@dataclass(eq=False, slots=True)
class Ready:
    """Steps of a node that lease models, or can be computed with others, and are ready to run."""

    walk: ItemWalk
    frame: Frame
    node: Node
    state: NodeState
    #: Those that have not run, each with its place among the steps of the node.
    steps: deque[tuple[int, Step]]
    #: They were looked up in the store just now.
    fresh: bool


class ItemWalk:
    """Evaluates the outputs of one item. Steps that lease models are left to the scheduler.

    Params:
        has_valueless: whether the plan knows of steps that have no value.
    """

    def __init__(
        self,
        top: Frame,
        state: State,
        runner: StepRunner,
        delivery: OutputDelivery,
        queue: EventQueue,
        *,
        cancel: threading.Event,
        has_valueless: bool,
    ) -> None:
        self.top = top
        self.state = state
        self.runner = runner
        self.delivery = delivery
        self.queue = queue
        self.cancel = cancel
        #: The outputs that are not delivered yet, by the node output they come from.
        self._pending_outputs: dict[tuple[str, str], list[Output]] = {}
        #: Node outputs whose outcome has been reported.
        self._reported: set[tuple[int, str, str]] = set()
        #: What comes after a step that has no value may be cached, or run, without asking for it; it
        #: is reported all the same.
        self._has_valueless = has_valueless

    def evaluate(self) -> Generator[Ready, None, None]:
        """Evaluate and deliver every output. Yields steps to run, with `finish_step`, before it
        goes on; if they are not run, because steps are keyed anew, it starts again.

        Raises:
            Cancelled: the run was cancelled.
        """
        top = self.top
        for output in top.graph.outputs.values():
            if isinstance(output.source, FromNode):
                source = output.source.node, output.source.port
                self._pending_outputs.setdefault(source, []).append(output)
            else:
                self.delivery.deliver(top, output, top.inputs[output.source.name])
        for node, port in list(self._pending_outputs):
            yield from self._evaluate((top, top.graph.nodes[node], port))

    def finish_step(self, ready: Ready, index: int, done: Step) -> None:
        """Take the result of a step that was yielded."""
        self.runner.index_outputs(ready.frame, (done,))
        if ready.state.many:
            ready.state.steps[index] = done
        else:
            assert done.outputs is not None
            ready.frame.states[ready.node.name] = NodeState([done], done.outputs)

    def _evaluate(self, target: NodeOutput) -> Generator[Ready, None, None]:
        """Evaluate one output of a node, and before it whatever it depends on."""
        stack = [target]
        attempts: dict[str, int] = {}
        restarts = self.runner.restarts
        while stack:
            if self.cancel.is_set():
                raise Cancelled
            if restarts != self.runner.restarts:
                restarts = self.runner.restarts
                self._reported.clear()
                del stack[1:]
            frame, node, port = stack[-1]
            state = frame.states.get(node.name)
            try:
                if state is not None and port in state.outputs:
                    self._deliver(stack[-1], state)
                    stack.pop()
                    continue
                needs = demands(self.state, frame, node, port)
                if not needs:
                    before = state
                    state = self.state.settle(frame, node)
                    if not node.is_single:
                        self._report_step_count(frame, node, state)
                    self.runner.index_outputs(frame, state.steps)
                    if port in state.outputs:
                        continue
                    if isinstance(node.type, Graph):
                        needs = demands(self.state, frame, node, port)
                    elif (yield from self._run(frame, node, state, _is_keyed_now(state, before))):
                        continue
                if not needs:
                    raise ImagenFlowError(
                        f"{frame.full(node.name)} waits for nothing; this is a bug in imagen_flow"
                    )
                stack += reversed(needs)
            except (Rekey, Damaged) as error:
                subject = str(error)
                attempts[subject] = attempts.get(subject, 0) + 1
                if attempts[subject] > REKEYS:
                    why = (
                        subject
                        if isinstance(error, Damaged)
                        else f"{subject} gives another value each time, or its files keep changing"
                    )
                    frame.states[node.name] = self.state.failed(frame, node, why)
                    continue
                if isinstance(error, Damaged):
                    self.state.keying.lost.add(error.artifact.digest)
                self.runner.restart()

    def _run(
        self, frame: Frame, node: Node, state: NodeState, fresh: bool
    ) -> Generator[Ready, None, bool]:
        """Run the steps of a node that can run; False if there are none."""
        assert isinstance(node.type, NodeType)
        type_ = node.type
        if type_.loaders or type_.plan_check is not None or type_.many is not None:
            return (yield from self._yield_steps(frame, node, state, fresh))
        ran = False
        for i, step in enumerate(state.steps):
            if step.status != "runs":
                continue
            if self.cancel.is_set():
                raise Cancelled
            ran = True
            done = self.runner.run(frame, step, fresh=fresh)
            self.runner.index_outputs(frame, (done,))
            if state.many:
                state.steps[i] = done
            else:
                assert done.outputs is not None
                frame.states[node.name] = NodeState([done], done.outputs)
        return ran

    def _yield_steps(
        self, frame: Frame, node: Node, state: NodeState, fresh: bool
    ) -> Generator[Ready, None, bool]:
        """Leave the steps of a node that leases models to the scheduler."""
        restarts = self.runner.restarts
        runs: deque[tuple[int, Step]] = deque()
        is_unresolved = False
        for i, step in enumerate(state.steps):
            if step.status == "unresolved":
                is_unresolved = True
                break
            if step.status == "runs":
                runs.append((i, step))
        has_steps = is_unresolved or bool(runs)
        if runs:
            yield Ready(self, frame, node, state, runs, fresh)
        if is_unresolved and restarts == self.runner.restarts:
            frame.states[node.name] = self.state.failed(
                frame, node, missing_models(self.state.values, state.steps)
            )
        return has_steps

    def _report_step_count(self, frame: Frame, node: Node, state: NodeState) -> None:
        """Report how many steps a node has, if only a value that was just computed determines it."""
        name = frame.full(node.name)
        if isinstance(node.type, NodeType):
            if state.steps:
                self.queue.set_step_count(name, frame.item, len(state.steps))
        elif below := frame.below.get(node.name):
            self.queue.set_step_count(name, frame.item, 0)
            for child in itertools.chain.from_iterable(map(_new, below.values())):
                for inner in child.graph.nodes:
                    if inner not in child.graph.unneeded:
                        self.queue.set_step_count(child.full(inner), frame.item, 1, at_least=True)

    # ---- reporting and delivering

    def _deliver(self, target: NodeOutput, state: NodeState) -> None:
        """Report the outcome of a node that has an output, and deliver the graph's outputs that
        come from it.
        """
        frame, node, _ = target
        status = state.steps[0].status if len(state.steps) == 1 else ""
        if self._has_valueless or status not in ("cached", "ran"):
            self._report_outcomes(target)
        elif status == "cached":
            self.queue.settled(state.steps[0])
        if frame is self.top:
            for port, slot in state.outputs.items():
                pending = self._pending_outputs.get((node.name, port))
                while pending:
                    self.delivery.deliver(frame, pending[0], slot)
                    pending.pop(0)

    def _report_outcomes(self, target: NodeOutput) -> None:
        """Report the outcome of a node's steps, after the outcomes that it came from: these may have
        been known when the run started. So a run from the store reports what the first one did.
        """
        stack = [(target, False)]
        while stack:
            target, is_open = stack.pop()
            frame, node, port = target
            known = frame.states.get(node.name)
            if known is None:
                continue
            if is_open:
                for step in known.steps:
                    self.queue.settled(step)
                continue
            identity = (id(frame), node.name, port)
            if identity in self._reported:
                continue
            self._reported.add(identity)
            stack.append((target, True))
            if (
                self._has_valueless
                or isinstance(node.type, Graph)
                or any(step.status not in ("cached", "ran") for step in known.steps)
            ):
                stack += [(source, False) for source in self._causes(target)][::-1]

    def _causes(self, target: NodeOutput) -> Iterator[NodeOutput]:
        """Yield the node outputs that determined a node's output: what `demands` asks for, stage by
        stage. Values that nothing needed are left out, even if they are known.
        """
        frame, node, port = target
        if node.is_single:
            yield from _sources(frame, node.reads)
            return
        if node.when is not None:
            yield from _sources(frame, readings(node.when))
            if is_off(self.state.values, frame, node):
                return
        looked: list[Binding] = []
        try:
            expanded = elements(self.state.values, frame, node, looked)
        except (GraphError, ValueError):
            expanded = None
        for binding in looked:
            yield from _sources(frame, readings(binding))
        if not isinstance(expanded, Elements) or len(expanded.places) == len(expanded.off):
            return
        for name, binding in node.bindings.items():
            if isinstance(node.type, Graph) and not is_first(node.type.inputs[name]):
                continue
            if name in node.each and isinstance(binding, Listed | PerElement):
                for place in expanded.running(node.each[name]):
                    yield from _sources(frame, readings(element_of(binding, place)))
            else:
                yield from _sources(frame, readings(binding))
        if isinstance(node.type, Graph):
            yield from self._causes_inside(frame, node, node.type, port)

    def _causes_inside(
        self, frame: Frame, node: Node, inner: Graph, port: str
    ) -> Iterator[NodeOutput]:
        """Yield what the output of an included graph comes from in it: what decides about its
        repetitions, and then only those that are kept.
        """
        repeat = node.repeat
        wanted = (inner.outputs[port].source,) if port in inner.outputs else ()
        for _, group in sorted(frame.below.get(node.name, {}).items()):
            if repeat is not None:
                for child in group:
                    if repeat.until is not None and child.repetition != repeat.times - 1:
                        yield from _sources(child, (inner.outputs[repeat.until].source,))
                    if repeat.best is not None and wanted:
                        yield from _sources(child, (inner.outputs[repeat.best].source,))
                group = self.state.kept(node, group)
            for child in group:
                yield from _sources(child, wanted)


def _new(frames: list[Frame]) -> Iterator[Frame]:
    """Give those repetitions of a graph in which no node was settled yet."""
    return itertools.takewhile(lambda child: not child.states, reversed(frames))


def _is_keyed_now(state: NodeState, before: NodeState | None) -> bool:
    """Tell whether a node's only step was keyed, and looked up in the store, just now; what the
    plan knew may be outdated.
    """
    return len(state.steps) == 1 and not (
        before is not None and before.steps and before.steps[0] is state.steps[0]
    )


def _sources(frame: Frame, reads: Iterable[FromNode | FromInput]) -> Iterator[NodeOutput]:
    """Yield the node outputs that are read, in the same graph or in the one around it."""
    for read in reads:
        if isinstance(read, FromNode):
            yield frame, frame.graph.nodes[read.node], read.port
        elif frame.parent is not None:
            outer, node = frame.parent
            if read.name in node.bindings:
                binding = node.bindings[read.name]
                if read.name in node.each:
                    place = frame.element and frame.element[: node.each[read.name]]
                    binding = element_of(binding, place)
                yield from _sources(outer, readings(binding))
