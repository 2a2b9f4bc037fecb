"""What is known of a graph: its steps and values, and what can be known next.

Planning makes a `State` and settles every node once; each run goes on with a copy, and settles a
node again when what it needs has come. What comes of a node depends on the graph and its values
alone, never on what happened to be known when it was asked: see "Absent and failed values" in
docs/graph-format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from .._graph import ROUNDS, STEPS, FromInput, FromNode, Graph, Input, Node, Output, Place, readings
from .._store import Record, Store
from .._types.artifact import Artifact
from .._types.node import NodeType
from .._types.ports import BadValue
from ..errors import GraphError, Problem
from .elements import Elements, elements, off_step
from .keying import Keying
from .step import (
    ABSENT,
    FAILED,
    Frame,
    NodeState,
    Slot,
    Step,
    Unknown,
    after_error,
    item_of,
    leaves,
    listed,
    whole_after_error,
    without_value,
)

__all__ = ["State", "is_first", "reads_inputs"]

_NOTHING: Mapping[str, Artifact] = {}


class _TooMany(Exception):
    """The graph comes to more steps than may be planned."""


class State:
    """What is known of a graph.

    Params:
        tops: a frame for each of the plan's items, which share all else.
        listing: settle all that may be needed, to list it; a run settles what is needed alone.
    """

    def __init__(
        self, tops: Iterable[Frame], keying: Keying, history: Mapping[str, str], *, listing: bool
    ) -> None:
        self.tops = list(tops)
        self.keying = keying
        self.values = keying.values
        self.keys = keying.keys
        #: The keys of the graph's last run, by step.
        self.history = history
        self.listing = listing
        #: What a user can mend before anything runs: nodes that cannot be worked out, whatever
        # other nodes give.
        self.problems: list[Problem] = []
        #: The same of what the values of one item cause, by its label.
        self.item_problems: dict[str, list[Problem]] = {}
        #: How many steps of included graphs there are, by item.
        self._sizes: dict[str, int] = {}
        #: What was kept of steps of the graph's last run, with which those of all items are compared.
        self._recorded: dict[str, Record | None] = {}

    def recorded(self, key: str) -> Record | None:
        """Give what the store kept of a step of the graph's last run."""
        if len(self.tops) == 1:
            return self.values.store.lookup(key) if self.values.store is not None else None
        if key not in self._recorded and self.values.store is not None:
            self._recorded[key] = self.values.store.lookup(key)
        return self._recorded.get(key)

    def copy(self, store: Store | None, live: Mapping[str, object]) -> State:
        """Copy it for a run."""
        made = State(
            [top.copy() for top in self.tops],
            self.keying.copy(self.values.copy(store, live)),
            self.history,
            listing=False,
        )
        made._sizes = dict(self._sizes)
        return made

    # -- settling ----------------------------------------------------------------------------------

    def walk(self, frame: Frame) -> None:
        """Settle every node of a frame that an output may need, in topological order."""
        unneeded = frame.graph.unneeded
        for node in frame.graph.nodes.values():
            if node.name not in unneeded:
                self.settle(frame, node)

    def settle(self, frame: Frame, node: Node) -> NodeState:
        """Work out a node's steps and outputs as far as is known now. Called again, it goes on from
        where it stood.

        Raises:
            Damaged: a value that decides about it (a flag, a number in a text) is lost.
        """
        state = frame.states.get(node.name)
        is_single = node.is_single
        if state is not None and (
            state.outputs or state.steps[0].status in ("runs", "unresolved")
            if is_single
            else len(state.outputs) == len(node.outputs)
        ):
            return state
        try:
            if is_single:
                step = self.keying.step(frame, node)
                state = NodeState([step], step.outputs or _NOTHING)
            else:
                state = self._settle_many(frame, node, state)
        except GraphError as missing:
            self.problems += missing.problems
            state = self.failed(frame, node, missing.problems[0].message)
        except _TooMany:
            reason = f"with it the graph has more than {STEPS:,} steps"
            self._add_problem(
                frame,
                node,
                Problem(
                    "too-many-steps",
                    f"{frame.full(node.name)}: {reason}",
                    node.mark,
                    fix="include fewer graphs, or shorten its lists",
                ),
            )
            state = self.failed(frame, node, reason)
        except ValueError as error:
            reason = f"it {error}" if isinstance(error, BadValue) else str(error)
            if not self._reads_nodes(frame, node):
                self._add_problem(
                    frame,
                    node,
                    Problem("bad-input", f"{frame.full(node.name)}: {reason}", node.mark),
                )
            state = self.failed(frame, node, reason)
        frame.states[node.name] = state
        return state

    def failed(self, frame: Frame, node: Node, reason: str) -> NodeState:
        """What is known of a node that cannot be worked out: its outputs are those of one that
        failed. What needs them is skipped, and the rest goes on.
        """
        slot = FAILED if node.each else whole_after_error(FAILED, node)
        outputs = dict.fromkeys(node.outputs, slot)
        frame.below.pop(node.name, None)
        return NodeState(
            [
                Step(
                    frame.full(node.name), frame.item, node, None, "failed", reason, outputs=outputs
                )
            ],
            outputs,
        )

    def _add_problem(self, frame: Frame, node: Node, problem: Problem) -> None:
        """Note a problem of a node: with its item, if the values of that may be the cause."""
        if frame.item and reads_inputs(frame, node):
            self.item_problems.setdefault(frame.item, []).append(problem)
        else:
            self.problems.append(problem)

    def _reads_nodes(self, frame: Frame, node: Node) -> bool:
        """Whether anything about a node depends on what other nodes give; where nothing does, what
        is wrong with it can be told when planning.
        """
        reads = [*node.reads, *(readings(node.when) if node.when is not None else ())]
        if any(isinstance(read, FromNode) for read in reads):
            return True
        return frame.parent is not None and any(
            self._input_reads_nodes(frame, read.name)
            for read in reads
            if isinstance(read, FromInput)
        )

    def _input_reads_nodes(self, frame: Frame, name: str) -> bool:
        assert frame.parent is not None
        outer, node = frame.parent
        binding = node.bindings.get(name)
        for read in readings(binding) if binding is not None else ():
            if isinstance(read, FromNode) or (
                outer.parent is not None and self._input_reads_nodes(outer, read.name)
            ):
                return True
        return False

    # -- nodes with each, when or repeat, and graphs -----------------------------------------------

    def _settle_many(self, frame: Frame, node: Node, state: NodeState | None) -> NodeState:
        found = elements(self.values, frame, node)
        many = bool(node.each)
        if isinstance(found, Unknown):
            return NodeState([], _NOTHING, waits=found, many=many)
        if isinstance(found, Step):
            frame.below.pop(node.name, None)
            return NodeState(
                [found] if isinstance(node.type, NodeType) else [], found.outputs or _NOTHING
            )
        if isinstance(node.type, Graph):
            return self._settle_graph(frame, node, node.type, found)
        before = state.steps if state is not None and state.many == many else []
        if not before and frame.parent is not None:
            self._count(frame, len(found.places))
        steps: list[Step] = []
        for i, place in enumerate(found.places):
            if i in found.off:
                steps.append(off_step(frame, node, found, i))
            elif i < len(before) and (
                before[i].outputs is not None or before[i].status in ("runs", "unresolved")
            ):
                steps.append(before[i])
            elif not many:
                steps.append(self.keying.step(frame, node))
            else:
                steps.append(self._element(frame, node, place))
        if any(step.outputs is None for step in steps):
            return NodeState(steps, _NOTHING, many=many)
        outputs = [step.outputs for step in steps if step.outputs is not None]
        return NodeState(
            steps,
            (
                {port: found.nested_known([o[port] for o in outputs]) for port in node.outputs}
                if many
                else outputs[0]
            ),
            many=many,
        )

    def _element(self, frame: Frame, node: Node, i: Place) -> Step:
        """Key one element of a node. What cannot be made of what is written for it fails it alone."""
        try:
            received = {port: self.values.element(frame, node, port, i) for port in node.each}
        except BadValue as error:
            return _unfit(frame, node, i, error)
        return self.keying.step(frame, node, i, received)

    def _count(self, frame: Frame, steps: int) -> None:
        self._sizes[frame.item] = size = self._sizes.get(frame.item, 0) + steps
        if size > STEPS:
            raise _TooMany

    # -- graphs used as nodes ----------------------------------------------------------------------

    def _settle_graph(self, frame: Frame, node: Node, inner: Graph, found: Elements) -> NodeState:
        """Enter a graph for each element, and take its outputs as far as they are known."""
        results: list[dict[str, Slot]] = []
        steps: list[Step] = []
        for i, place in enumerate(found.places):
            if i in found.off:
                if found.off[i].kind == "unfit":
                    steps.append(off_step(frame, node, found, i))
                results.append(dict.fromkeys(node.outputs, without_value(found.off[i].kind)))
                continue
            try:
                fate = self._enter(frame, node, inner, i, place)
                results.append(
                    self._gather(frame, node, inner, i, steps)
                    if fate is None
                    else dict.fromkeys(node.outputs, fate)
                )
            except BadValue as error:
                if not node.each:
                    raise
                results.append(dict.fromkeys(node.outputs, FAILED))
                steps.append(_unfit(frame, node, place, error))
        if node.on_error != "fail":
            results = [
                {
                    port: after_error(slot, node.on_error) if isinstance(slot, Artifact) else slot
                    for port, slot in result.items()
                }
                for result in results
            ]
        whole: dict[str, Slot] = (
            {port: found.nested([r[port] for r in results]) for port in node.outputs}
            if node.each
            else results[0]
        )
        outputs = {port: slot for port, slot in whole.items() if isinstance(slot, Artifact)}
        return NodeState(
            steps,
            outputs,
            pending={port: slot for port, slot in whole.items() if isinstance(slot, Unknown)},
        )

    def _enter(
        self, frame: Frame, node: Node, inner: Graph, element: int, place: Place
    ) -> Slot | None:
        """Make a graph's frames for an element. Its required inputs are known first, and those with
        bounds: where one is absent so are all outputs. None if it is entered.

        Raises:
            BadValue: a value is out of an input's bounds.
        """
        is_open = node.repeat is not None and node.repeat.until is not None
        frames = frame.below.setdefault(node.name, {}).setdefault(element, [])
        for _ in range(len(frames), node.repeat.times if node.repeat and not is_open else 1):
            frames.append(self._begun(frame, node, inner, place, len(frames)))
        first = [(name, wanted) for name, wanted in inner.inputs.items() if is_first(wanted)]
        waits: list[str] = []
        absent, outside = False, None
        # Those that a condition ends begin one after another, once the first was entered.
        entering = frames[:1] if is_open else frames
        for child in entering:
            for name, wanted in first:
                try:
                    # What is in the graph may have read it before another input was known, and
                    # nobody has seen whether it is within bounds.
                    known = (
                        child.inputs.get(name) if child.entered or not has_bounds(wanted) else None
                    )
                    slot: Slot = known or self.values.input(child, name, check=has_bounds(wanted))
                except BadValue as error:
                    outside = outside or error
                    continue
                if isinstance(slot, Unknown):
                    waits += slot.after
                elif slot.kind == "absent" and not wanted.type.optional:
                    absent = True
        if not waits and (absent or outside is not None):
            del frame.below[node.name][element]
            if absent or outside is None:
                return ABSENT
            raise outside
        for child in entering:
            child.entered = not waits
            if self.listing:
                self.walk(child)
        if waits:
            return Unknown(tuple(dict.fromkeys(waits)))
        if is_open:
            self._go_on(frame, node, inner, frames, place)
        return None

    def _go_on(
        self, frame: Frame, node: Node, inner: Graph, frames: list[Frame], place: Place
    ) -> None:
        """Begin repetitions as long as what ends them is known not to hold."""
        while self.is_over(node, frames) is False:
            child = self._begun(frame, node, inner, place, len(frames))
            child.entered = True
            if self.listing:
                self.walk(child)
            frames.append(child)

    def is_over(self, node: Node, frames: list[Frame]) -> bool | Unknown:
        """Whether the repetitions that were begun are all: the last one gives what is waited for, or
        there may be no more. A condition that is absent or failed does not hold.

        Raises:
            BadValue: the condition is no truth value.
        """
        repeat = node.repeat
        assert repeat is not None and repeat.until is not None and isinstance(node.type, Graph)
        if len(frames) == repeat.times:
            return True
        slot = self.values.bind(frames[-1], node.type.outputs[repeat.until].source)
        if isinstance(slot, Unknown):
            return slot
        if slot.kind not in ("bool", "absent", "failed"):
            raise BadValue(f"takes true or false for 'until', not {slot.kind}")
        return slot.kind == "bool" and bool(self.values.value(slot))

    def _begun(self, frame: Frame, node: Node, inner: Graph, place: Place, r: int) -> Frame:
        """Make the frame of a repetition."""
        self._count(frame, len(inner.nodes) - len(inner.unneeded))
        parts = [f"[{n}]" for n in (*place, *((r,) if node.repeat else ()))]
        return Frame(
            inner,
            f"{frame.full(node.name)}{''.join(parts)}/",
            frame.item,
            {},
            parent=(frame, node),
            element=place if node.each else None,
            repetition=r if node.repeat else None,
        )

    def _gather(
        self, frame: Frame, node: Node, inner: Graph, element: int, steps: list[Step]
    ) -> dict[str, Slot]:
        """Take a graph's outputs for an element: of the repetition with the best score, of the
        last, or of all as lists.
        """
        frames = frame.below[node.name][element]

        def outs(child: Frame) -> dict[str, Slot]:
            return {name: handed_on(child, output) for name, output in inner.outputs.items()}

        def handed_on(child: Frame, output: Output) -> Slot:
            try:
                return self.values.bind(child, output.source)
            except BadValue as error:  # an input that an output hands on cannot be made
                place = child.element or ()
                if not steps or steps[-1].element != place:
                    steps.append(_unfit(frame, node, place, error))
                return FAILED

        if node.repeat is None:
            return outs(frames[0])
        counted: dict[str, Slot] = {}
        if node.repeat.until is not None:
            over = self.is_over(node, frames)
            if isinstance(over, Unknown):
                return dict.fromkeys(node.outputs, over)
            counted[ROUNDS] = self.values.constants.add(len(frames))
        if node.repeat.last:
            return outs(frames[-1]) | counted
        if node.repeat.best is None:
            each = [outs(child) for child in frames]
            return {name: listed([o[name] for o in each]) for name in inner.outputs} | counted
        best = self.best(node, frames)
        if isinstance(best, Frame):
            return outs(best) | counted
        return dict.fromkeys(inner.outputs, best) | counted

    def best(self, node: Node, frames: list[Frame]) -> Frame | Slot:
        """Choose the repetition with the highest score, the first of equals; without a score, all
        outputs are failed if a score failed, else absent.

        Raises:
            BadValue: a score is no number.
        """
        assert (
            node.repeat is not None
            and node.repeat.best is not None
            and isinstance(node.type, Graph)
        )
        source = node.type.outputs[node.repeat.best].source
        scores = [self.values.bind(child, source) for child in frames]
        waits = [a for s in scores if isinstance(s, Unknown) for a in s.after]
        if waits:
            return Unknown(tuple(dict.fromkeys(waits)))
        kinds = {s.kind for s in scores if isinstance(s, Artifact)}
        if others := sorted(kinds - {"int", "float", "absent", "failed"}):
            raise BadValue(f"takes a number to say which is best, not {others[0]}")
        known = [
            (self.values.value(s), -i)
            for i, s in enumerate(scores)
            if isinstance(s, Artifact) and s.kind in ("int", "float")
        ]
        return (
            frames[-max(known)[1]]
            if known
            else without_value("failed" if "failed" in kinds else "absent")
        )

    def kept(self, node: Node, frames: list[Frame]) -> list[Frame]:
        """Give the repetitions of an element that are kept, as far as that is known."""
        if node.repeat is None or node.repeat.gives_lists:
            return frames
        if node.repeat.last:
            return frames[-1:]
        try:
            best = self.best(node, frames)
        except ValueError:  # settling it says what is wrong
            return []
        return [best] if isinstance(best, Frame) else []

    # -- looking around ----------------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[Frame, Step]]:
        """List all steps that are known, in topological order; one for those of a node whose number
        is not.
        """
        pending = [(top, iter(top.graph.nodes)) for top in reversed(self.tops)]
        while pending:
            frame, names = pending[-1]
            for name in names:
                state = frame.states.get(name)
                if state is None:
                    continue
                for step in state.steps:
                    yield frame, step
                if state.waits is not None:
                    item = f"{frame.item}[?]" if state.many else frame.item
                    yield (
                        frame,
                        Step(
                            frame.full(name),
                            item,
                            frame.graph.nodes[name],
                            None,
                            "waits",
                            f"after {' and '.join(state.waits.after)}",
                        ),
                    )
                if state.pending:
                    yield from self._open_rounds(frame, name, state)
                if below := list(frame.inside(name)):
                    pending += [(child, iter(child.graph.nodes)) for child in reversed(below)]
                    break
            else:
                pending.pop()

    def _open_rounds(
        self, frame: Frame, name: str, state: NodeState
    ) -> Iterator[tuple[Frame, Step]]:
        """Give a step that stands for the repetitions that may follow those that were begun."""
        node = frame.graph.nodes[name]
        repeat = node.repeat
        if repeat is None or repeat.until is None:
            return
        for frames in frame.below.get(name, {}).values():
            over = self.is_over(node, frames)
            if isinstance(over, Unknown):
                item = item_of(frame, frames[0].element)
                more = repeat.times - len(frames)
                why = f"after {' and '.join(over.after)}: up to {more:,} more of {repeat.times:,}"
                yield (
                    frame,
                    Step(frame.full(name), f"{item}[?]", node, None, "waits", why),
                )

    def makers(self) -> dict[str, tuple[Frame, Step]]:
        """Say of every value which step gave it: the first that did, for what comes after only
        passes it on.
        """
        found: dict[str, tuple[Frame, Step]] = {}
        for frame, step in self.steps():
            for artifact in (step.outputs or {}).values():
                for leaf in leaves(artifact):
                    found.setdefault(leaf.digest, (frame, step))
        return found

    def restart(self) -> None:
        """Forget what is known of every node: something that it was worked out from is another now."""
        for top in self.tops:
            top.states.clear()
            top.below.clear()
        self._sizes.clear()

    def drop_items(self) -> bool:
        """Leave out the items that have problems; give whether there were any."""
        kept = [top for top in self.tops if top.item not in self.item_problems]
        dropped = len(kept) < len(self.tops)
        self.tops = kept
        return dropped

    def release(self, top: Frame) -> None:
        """Let go of what is known of an item that is finished."""
        self.tops.remove(top)
        top.states.clear()
        top.below.clear()


def _unfit(frame: Frame, node: Node, place: Place, error: BadValue) -> Step:
    """The step of an element that fails because a value does not fit."""
    return Step(
        frame.full(node.name),
        item_of(frame, place),
        node,
        place,
        "failed",
        f"it {error}",
        outputs=dict.fromkeys(node.outputs, after_error(FAILED, node.on_error)),
    )


def reads_inputs(frame: Frame, node: Node, ports: Collection[str] | None = None) -> bool:
    """Whether anything about a node, or what these of its ports receive, depends on values of the
    plan's inputs.
    """
    if ports is None:
        reads = [*node.reads, *(readings(node.when) if node.when is not None else ())]
    else:
        reads = [read for p in ports if p in node.bindings for read in readings(node.bindings[p])]
    for read in reads:
        if not isinstance(read, FromInput):
            continue
        if frame.parent is None or reads_inputs(*frame.parent, (read.name,)):
            return True
    return False


def is_first(wanted: Input) -> bool:
    """Whether an included graph's input must be known before anything in the graph is: it is
    required, so that all is absent without it, or it has bounds.
    """
    return has_bounds(wanted) or (wanted.default is None and not wanted.type.optional)


def has_bounds(wanted: Input) -> bool:
    """Whether an input takes only values within bounds, or some choices."""
    inner = (
        wanted.type.element if wanted.type.kind == "list" and wanted.type.element else wanted.type
    )
    return bool(inner.range or inner.choices)
