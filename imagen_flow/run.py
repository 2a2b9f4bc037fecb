"""Carry out a plan: run what must run, keep what it gives, write the outputs, and say what happens as it happens.

`execute` is an iterator of events. The work goes on in a thread of its own and does not wait for whoever reads: results queue up, progress is coalesced to
the latest of each step. Execution is driven by demand, from the outputs back: a step runs when something that runs needs its value, and a kept value that nobody needs is
never read. The walk uses a stack of its own, so a graph may be as deep as it likes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from . import devices, events
from .account import Accounts
from .artifact import Artifact
from .errors import Cancelled, GraphError, ImagenFlowError, NodeError
from .events import Event
from .graph import FromInput, FromNode, Node, Output, readings, sources
from .models import ModelPool, lend_and_call
from .node import NodeType
from .outputs import Writer
from .plan import ABSENT, FAILED, FailedStep, Frame, NodeState, Plan, Planner, Slot, Step, Unknown, history_name, why
from .plan import leaves as _leaves
from .ports import BadValue
from .store import Damaged, Store
from .values import Absent, FileChanged, Model, Progress

__all__ = ["execute"]

#: How much of the values that steps gave stays in memory; beyond that the least recently used are read from the store again.
LIVE_BYTES = 1 << 30

#: How often whoever reads the events looks for new ones. Waking them up at each would cost a trivial step more than its work.
READ_S = 0.02

#: How long a cancelled run may take to stop by itself before it is left behind.
CANCEL_S = 0.7

#: How long a retry waits at most, however often the wait was doubled.
LONGEST_WAIT_S = 86_400

#: How often a step is keyed anew because a file changes under it.
REKEYS = 5


class LiveValues(dict[str, Any]):
    """Values in memory by digest, least recently used first, bounded by their size."""

    def __init__(self, limit: int = LIVE_BYTES) -> None:
        super().__init__()
        self.limit = limit
        self.total = 0
        self.sizes: OrderedDict[str, int] = OrderedDict()

    def put(self, digest: str, value: Any) -> None:
        if digest in self.sizes:
            self.sizes.move_to_end(digest)
            return
        size = _size(value)
        self[digest] = value
        self.sizes[digest] = size
        self.total += size
        while self.total > self.limit and len(self.sizes) > 1:
            oldest, freed = self.sizes.popitem(last=False)
            del self[oldest]
            self.total -= freed


def _size(value: Any) -> int:
    data = getattr(value, "pixels", None)
    if data is None:
        data = getattr(value, "data", getattr(value, "samples", value))
    size = getattr(data, "nbytes", None)
    return int(size) if isinstance(size, int) else len(data) if isinstance(data, str | bytes) else 64


def execute(
    plan: Plan,
    *,
    out: Path | Writer | None = None,
    cancel: threading.Event | None = None,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
) -> Iterator[Event]:
    """Carry out a plan and yield its events; the last is RunFinished.

    Params:
        out: the folder that outputs with a path are written to, or what writes them; None writes nothing.
        cancel: set it, from any thread or signal handler, and the run stops at the next yield, denoising step or node.
        fail_fast: stop at the first step that fails; else what does not depend on it goes on.
        pool: loaded models to share with other runs; default: the run's own.

    Raises:
        GraphError: the plan has unresolved problems. Nothing has run.
    """
    wrong = [p for p in plan.problems if p.severity == "error"]
    if wrong:
        raise GraphError(wrong)
    runner = _Runner(plan, out, cancel or threading.Event(), fail_fast, pool)
    return runner.events()


class _Rekey(Exception):
    """What a step was keyed by is no longer so: settle it again. Names the step whose value or file is another now."""


class _Runner:
    """One run of one plan."""

    def __init__(self, plan: Plan, out: Path | Writer | None, cancel: threading.Event, fail_fast: bool, pool: ModelPool | None) -> None:
        self.plan = plan
        self.planner: Planner = plan.planner
        self.out = out
        self.cancel = cancel
        self.fail_fast = fail_fast
        self.own_pool = pool is None
        self.pool = pool or ModelPool()
        self.live = LiveValues()
        self.planner.values.live = self.live
        self.began = time.monotonic()
        self.said_queue: deque[Any] = deque()
        self.over = threading.Event()
        self.latest: dict[str, events.StepProgress] = {}
        self.latest_lock = threading.Lock()
        self.said: set[int] = set()
        self.ran = self.cached = self.failed = 0
        self.keys: dict[str, str] = {}
        self.made: set[str] = set()
        self.checked: set[str] = set()
        self.waiting: dict[FromNode, list[Output]] = {}
        self.io = ThreadPoolExecutor(1, thread_name_prefix="imagen_flow outputs")
        self.writes: list[Future[None]] = []
        self.writer = Writer(out, codecs=self.planner.values.codecs) if isinstance(out, Path) else out
        self.accounts = Accounts(plan, conditions=lambda: self.conditions)
        self.conditions: dict[str, Any] = {}

    # -- the two ends of the queue -----------------------------------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        thread = threading.Thread(target=self.work, name="imagen_flow run", daemon=True)
        thread.start()
        over, patience = False, CANCEL_S
        try:
            while not over:
                over = self.over.wait(READ_S)
                while self.said_queue:
                    said = self.said_queue.popleft()
                    if type(said) is str:
                        with self.latest_lock:
                            said = self.latest.pop(said)
                    if isinstance(said, BaseException):
                        raise said
                    yield said
                if self.cancel.is_set() and not over:
                    patience -= READ_S
                    if patience < 0:
                        # A node that cannot be interrupted (an import, a load) is left behind, and finds the store closed.
                        yield events.RunFinished("cancelled", self.ran, self.cached, self.failed, self.now())
                        return
        finally:
            if not over:
                self.cancel.set()
            thread.join(max(0.0, patience))

    def now(self) -> float:
        return time.monotonic() - self.began

    def progress(self, step: Step, said: Progress) -> None:
        """Queue progress; an older one of the same step that nobody has read yet is replaced."""
        name = step.name + step.item
        event = events.StepProgress(step.name, step.item, said.done, said.total, said.note, self.now(), said.preview)
        with self.latest_lock:
            if name not in self.latest:
                self.said_queue.append(name)
            self.latest[name] = event

    def work(self) -> None:
        """The run itself, in its own thread. Whatever happens, the last thing put is RunFinished or an exception."""
        last: Any
        try:
            with ExitStack() as stack:
                if self.planner.values.store is None:
                    self.planner.values.store = stack.enter_context(Store.temporary(self.planner.values.codecs))
                    stack.callback(setattr, self.planner.values, "store", None)
                self.store: Store = self.planner.values.store
                self.pin = f"run {id(self)}"
                stack.callback(self.store.unpin, self.pin)
                self.planner.values.fetch = self.value
                stack.callback(setattr, self.planner.values, "fetch", self.planner.values.load)
                stack.callback(self.finish)
                status = self.run()
            last = events.RunFinished(status, self.ran, self.cached, self.failed, self.now())
        except _FailedFast:
            last = events.RunFinished("failed", self.ran, self.cached, self.failed, self.now())
        except Cancelled:
            last = events.RunFinished("cancelled", self.ran, self.cached, self.failed, self.now())
        except BaseException as odd:
            last = odd
        self.said_queue.append(last)
        self.over.set()

    def finish(self) -> None:
        """Let queued writes end, and write down what the next plan compares with."""
        self.io.shutdown(wait=True, cancel_futures=self.cancel.is_set())
        if self.own_pool:
            self.pool.close()
        if any(self.planner.history.get(name) != key for name, key in self.keys.items()):
            self.store.remember(history_name(self.plan.graph), {**self.planner.history, **self.keys})

    # -- the walk ----------------------------------------------------------------------------------------------------------------

    def run(self) -> str:
        plan, put = self.plan, self.said_queue.append
        todo = sum(s.status in ("runs", "waits") for s in plan.steps)
        put(events.RunStarted(plan.graph.spec.source.name, len(plan.steps), todo, plan.device, 0.0))
        at_s = self.now()
        known = [s for s in plan.steps if s.status == "cached"]
        self.said_queue.extend(events.StepCached(s.name, s.item, at_s) for s in known)
        self.cached += len(known)
        self.store.pin(self.pin, (s.key or "" for s in known))
        self.said.update(map(id, known))
        self.keys.update((s.name + s.item, s.key or "") for s in known)
        top = plan.frame
        for output in plan.graph.outputs.values():
            if isinstance(output.source, FromNode):
                self.waiting.setdefault(output.source, []).append(output)
            else:
                self.give(output, top.inputs[output.source.name])
        for source in list(self.waiting):
            self.reach(top, top.graph.nodes[source.node])
        for write in self.writes:
            write.result()
        return "failed" if self.failed else "done"

    def reach(self, frame: Frame, node: Node) -> None:
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
                    self.arrived(frame, node, state)
                    stack.pop()
                    continue
                # A node whose producers are known to be missing need not be keyed in vain.
                needs = self.first(frame, node) if state is not None and state.outputs is None and self.only_waits(state) else []
                fresh = False
                if not needs:
                    before = state.steps[0] if state is not None and state.steps else None
                    state = self.planner.settle(frame, node)
                    fresh = len(state.steps) == 1 and state.steps[0] is not before
                    if state.done:
                        continue
                    needs = self.below(state) or ([] if self.runnable(state) else self.producers(frame, node) or self.outside(frame, node, stack))
                if needs:
                    stack += reversed(needs)
                    continue
                assert state is not None
                todo = self.runnable(state)
                if not todo and any(s.status == "unresolved" for s in state.steps):
                    raise FailedStep(frame, node, "its model is not on this machine")
                if not todo:
                    raise ImagenFlowError(f"{frame.full(node.name)} waits for nothing; this is a bug of imagen_flow")
                for step in todo:
                    self.run_step(step, fresh=fresh)
                state.outputs = todo[0].outputs if not node.each and isinstance(node.type, NodeType) else None  # type: ignore[assignment]
                state.done = state.outputs is not None and node.when is None
            except FailedStep as failed:
                self.fail_node(failed)
            except (_Rekey, Damaged) as odd:
                which = str(odd)
                tries[which] = tries.get(which, 0) + 1
                if tries[which] > REKEYS:
                    self.fail_node(FailedStep(frame, node, which if isinstance(odd, Damaged) else f"{which} comes out otherwise each time, or its files keep changing"))
                    continue
                self.unsettle(frame, node)
                self.reopen_above(frame)
                # What a graph is given is worked out anew from the top.
                while stack[-1][0] is not self.plan.frame:
                    stack.pop()

    @staticmethod
    def only_waits(state: NodeState) -> bool:
        return not state.frames and all(s.status == "waits" for s in state.steps)

    @staticmethod
    def runnable(state: NodeState) -> list[Step]:
        return [s for s in state.steps if s.status == "runs" or s.status == "idle"]

    @staticmethod
    def unsettle(frame: Frame, node: Node) -> None:
        state = frame.states[node.name]
        for step in state.steps:
            if step.status in ("runs", "idle"):
                step.status = "waits"
        state.outputs, state.done = None, False

    def reopen_above(self, frame: Frame) -> None:
        """Let the nodes around a frame be settled again."""
        while frame.parent is not None:
            frame, node = frame.parent
            state = frame.states[node.name]
            state.outputs, state.done = None, False

    def first(self, frame: Frame, node: Node) -> list[tuple[Frame, Node]]:
        """Name the nodes that must come before a node is settled again: those that decide whether and how often it runs; where nothing does, all that it reads."""
        if node.when is None and not node.each:
            return self.producers(frame, node)
        nodes = frame.graph.nodes
        for binding in (node.when, *(node.bindings[p] for p in node.each)):
            if binding is not None and isinstance(self.planner.values.bind(frame, binding), Unknown):
                return [(frame, nodes[n]) for n in dict.fromkeys(sources(binding)) if not self.is_done(frame, n)]
        return []

    def producers(self, frame: Frame, node: Node) -> list[tuple[Frame, Node]]:
        """Name the nodes that a node still waits for: first those that decide about it, then all."""
        if (node.when is not None or node.each) and (first := self.first(frame, node)):
            return first
        nodes, states = frame.graph.nodes, frame.states
        return [(frame, nodes[n]) for n in node.after if n not in states or not states[n].done]

    @staticmethod
    def is_done(frame: Frame, name: str) -> bool:
        state = frame.states.get(name)
        return state is not None and state.done

    def outside(self, frame: Frame, node: Node, stack: list[tuple[Frame, Node]]) -> list[tuple[Frame, Node]]:
        """Name the nodes around a graph that give it an input that a node in it waits for. The stack is taken back to the graph, which must be settled again after them."""
        read = [source for binding in (node.when, *node.bindings.values()) if binding is not None for source in readings(binding)]
        while frame.parent is not None:
            unknown = {s.name for s in read if isinstance(s, FromInput) and isinstance(frame.inputs[s.name], Unknown)}
            frame, node = frame.parent
            while stack[-1] != (frame, node):
                stack.pop()
            read = [source for name in unknown if name in node.bindings for source in readings(node.bindings[name])]
            found = [(frame, frame.graph.nodes[s.node]) for s in read if isinstance(s, FromNode) and not self.is_done(frame, s.node)]
            if found:
                return found
        return []

    @staticmethod
    def below(state: NodeState) -> list[tuple[Frame, Node]]:
        """Name the nodes of the graphs below that their outputs need."""
        found: list[tuple[Frame, Node]] = []
        for child in state.frames:
            names = dict.fromkeys(o.source.node for o in child.graph.outputs.values() if isinstance(o.source, FromNode))
            found += [(child, child.graph.nodes[n]) for n in names if n not in child.states or not child.states[n].done]
        return found

    def arrived(self, frame: Frame, node: Node, state: NodeState) -> None:
        """A node has its outputs: say what has not been said, and give those that the graph asks for."""
        if self.planner.failed:
            self.blame(frame, node)
        if state.frames:
            self.say_below(state)
        for step in state.steps:
            self.say_settled(step)
        if frame is self.plan.frame and state.outputs:
            for port, slot in state.outputs.items():
                asked = self.waiting.get(FromNode(node.name, port))
                while asked:
                    self.give(asked[0], slot)
                    asked.pop(0)

    def say_below(self, state: NodeState) -> None:
        """Say what has not been said of the graphs below a node: a step that was found in the store there was not waited for."""
        pending = [*state.frames]
        while pending:
            for inner in pending.pop().states.values():
                for step in inner.steps:
                    self.say_settled(step)
                pending += inner.frames

    def blame(self, frame: Frame, node: Node) -> None:
        """Say which nodes could not be worked out, once somebody needs them, and what is skipped because of them."""
        pending, seen, found = [(frame, node)], {id(node)}, []
        while pending:
            frame, node = pending.pop()
            state = frame.states.get(node.name)
            if state is None or not any(leaf.kind == "failed" for slot in (state.outputs or {}).values() if isinstance(slot, Artifact) for leaf in _leaves(slot)):
                continue
            found += [s for s in state.steps if s.status in ("failed", "skipped")]
            above = [frame.graph.nodes[name] for name in node.after]
            pending += [(frame, n) for n in above if id(n) not in seen]
            seen.update(map(id, above))
            pending += [(child, n) for child in state.frames for n in child.graph.nodes.values()]
        for step in reversed(found):
            self.say_settled(step)

    def say_settled(self, step: Step) -> None:
        if id(step) in self.said or step.status not in ("cached", "absent", "skipped", "failed"):
            return
        self.said.add(id(step))
        if step.status == "cached":
            self.cached += 1
            self.said_queue.append(events.StepCached(step.name, step.item, self.now()))
            self.keys[step.name + step.item] = step.key or ""
        elif step.status == "absent":
            self.said_queue.append(events.StepAbsent(step.name, step.item, step.reason, self.now()))
        elif step.status == "failed":
            self.fail(step, ImagenFlowError(step.reason))
        else:
            self.said_queue.append(events.StepSkipped(step.name, step.item, step.reason, self.now()))

    # -- values ------------------------------------------------------------------------------------------------------------------

    def value(self, artifact: Artifact) -> Any:
        """Give a value: from memory, else from the store; one that is damaged there is made again first."""
        if artifact.items is not None:
            return [self.value(item) for item in artifact.items]
        digest = artifact.digest
        constants = self.planner.values.constants.by_digest
        if digest in constants:
            return constants[digest]
        if digest in self.live:
            return self.live[digest]
        try:
            value = self.store.load(artifact)
        except Damaged as damaged:
            value = self.remake(artifact, damaged)
        self.live.put(digest, value)
        return value

    def remake(self, artifact: Artifact, damaged: Damaged) -> Any:
        """Run again the step whose kept value is damaged, and before it those whose values it needs and that are damaged too."""
        pending = [(artifact, damaged)]
        while True:
            lost, damage = pending[-1]
            step = self.planner.makers.get(lost.digest)
            if step is None or step.slots is None:
                raise damage
            for slot in (leaf for s in step.slots.values() for leaf in _leaves(s)):
                if slot.digest in self.planner.values.constants.by_digest or slot.digest in self.live:
                    continue
                try:
                    self.live.put(slot.digest, self.store.load(slot))
                except Damaged as also:
                    pending.append((slot, also))
                    break
            else:
                self.said_queue.append(events.StepDamaged(step.name, step.item, str(damage), self.now()))
                step.reason = _DAMAGED
                self.run_step(step)
                if lost.digest not in self.live:
                    # It came out otherwise this time: whoever asked for the old value is keyed anew.
                    self.revise(step)
                    for needing, _ in pending[:-1]:
                        self.reopen(self.planner.makers[needing.digest])
                    raise _Rekey(step.name + step.item)
                pending.pop()
                if not pending:
                    return self.live[lost.digest]

    def revise(self, step: Step) -> None:
        """Let what reads a step see what it gave this time."""
        step.frame.states[step.node.name].done = False
        self.planner.settle(step.frame, step.node)
        self.reopen_above(step.frame)

    def reopen(self, step: Step) -> None:
        """Key a step anew the next time it is asked for."""
        step.status, step.outputs = "waits", None
        state = step.frame.states[step.node.name]
        state.outputs, state.done = None, False
        self.reopen_above(step.frame)

    # -- steps -------------------------------------------------------------------------------------------------------------------

    def run_step(self, step: Step, *, fresh: bool = False) -> None:
        """Run a step, or take what another process has made of it since the store was asked (unless that is `fresh`). Its failure is an event, not an exception."""
        key = step.key
        assert key is not None
        node = step.node
        leased = False
        forced = step.reason in (_FORCED, _DAMAGED)
        if key in self.made and not forced and self.planner.look_up(step):
            self.say_settled(step)  # a step of equal key has run; its claim ends only when its record is written
            return
        if node.cache:
            waited = False
            while not (leased := self.store.lease(key, wait_s=0.2 if waited else 0.0, cancel=self.cancel)):
                waited = True
                if self.cancel.is_set():
                    raise Cancelled
            if not forced and (waited or not fresh) and self.planner.look_up(step):
                self.store.release(key)
                self.say_settled(step)
                return
        if not step.reason:
            step.reason = why(self.planner, step)
        self.said_queue.append(events.StepStarted(step.name, step.item, step.reason, self.now()))
        began = time.monotonic()
        try:
            self.attempt(step)
        except (Cancelled, _Rekey, Damaged):
            raise
        except Exception as failed:
            self.fail(step, failed)
            return
        finally:
            if leased:
                self.store.release(key)
        step.status = "ran"
        self.said.add(id(step))
        if node.cache:
            self.made.add(key)
        self.ran += 1
        self.keys[step.name + step.item] = key
        self.said_queue.append(events.StepFinished(step.name, step.item, time.monotonic() - began, self.now()))

    def attempt(self, step: Step) -> None:
        """Run a step as often as its `retry` allows."""
        node = step.node
        for attempt in range(node.retries + 1):
            try:
                self.compute(step)
                return
            except (Cancelled, _Rekey, Damaged):
                raise
            except FileChanged as changed:
                self.refresh(step, changed)
                raise _Rekey(step.name + step.item) from changed
            except Exception as failed:
                if attempt == node.retries:
                    raise
                self.said_queue.append(events.StepRetried(step.name, step.item, attempt + 1, _words(failed), self.now()))
            if self.cancel.wait(min(node.backoff_s * 2**attempt, LONGEST_WAIT_S)):
                raise Cancelled

    def compute(self, step: Step) -> None:
        """Call the node's function with live values and take in what it gives."""
        node, type_ = step.node, step.node.type
        assert isinstance(type_, NodeType) and step.slots is not None and step.key is not None
        given: dict[str, Any] = {}
        began = time.monotonic()
        leased: dict[str, tuple[Any, Any]] = {}
        for name, slot in step.slots.items():
            port = type_.inputs[name].type
            loader = type_.loaders.get(name)
            value = self.value(slot)
            if loader is None or not isinstance(value, Model | list):
                try:
                    value = port.check(value)
                except BadValue as odd:
                    raise ValueError(f"its '{name}' {odd}") from None
                if port.has_enum:
                    value = port.hand(value)
            else:
                leased[name] = (loader, value)
            given[name] = value
        scratch = self.inject(step, given) if type_.injected else None
        rungs: tuple[str, ...] = ()
        if type_.uses_torch:
            self.place(node)
            policy = self.planner.keys.policy(node)
            told = [name for name, what in type_.injected.items() if what == "rungs"]
            result, rungs = lend_and_call(
                self.pool,
                leased,
                lambda lent, taken: self.call(step, type_, {**given, **lent, **dict.fromkeys(told, taken)}),
                device=policy.device,
                dtype=policy.dtype,
                settings=policy.settings,
                rungs=policy.rungs,
                steps_down=type_.steps_down,
            )
        else:
            result = self.call(step, type_, given)
        given.clear()
        self.take(step, type_, result, rungs, time.monotonic() - began)
        if scratch is not None:
            if node.cache:
                self.store.flush()
            self.store.drop_scratch(step.key)

    def place(self, node: Node) -> tuple[str, str]:
        """Give a node's device and dtype, once torch has agreed to them."""
        device, dtype = self.planner.keys.place(node)
        if device not in self.checked:
            devices.check(device, dtype)
            self.checked.add(device)
            self.conditions = devices.conditions(device)
        return device, dtype

    def inject(self, step: Step, given: dict[str, Any]) -> Path | None:
        """Fill the parameters that are no ports; give the scratch folder if there is one."""
        scratch = None
        for name, what in step.node.type.injected.items():  # type: ignore[union-attr]
            if what == "scratch":
                assert step.key is not None
                given[name] = scratch = self.store.scratch(step.key)
            elif what == "device":
                given[name] = self.place(step.node)[0]
        return scratch

    def call(self, step: Step, type_: NodeType, given: dict[str, Any]) -> Any:
        limit = step.node.timeout_s
        began = time.monotonic()
        try:
            result = type_.function(**given)
            if type_.is_generator:
                result = self.follow(step, result, began, limit)
        except SystemExit as left:
            raise RuntimeError(f"it called exit({left.code if left.code is not None else ''})") from left
        self.check_time(step, began, limit)
        return result

    def follow(self, step: Step, steps: Any, began: float, limit: float | None) -> Any:
        """Go through what a long node yields, and give what it returns."""
        try:
            while True:
                try:
                    said = next(steps)
                except StopIteration as stop:
                    return stop.value
                if not isinstance(said, Progress):
                    raise TypeError(f"it yielded {type(said).__name__}, not Progress")
                if self.cancel.is_set():
                    raise Cancelled
                self.check_time(step, began, limit)
                self.progress(step, said)
        finally:
            with suppress(Exception):  # what it does when it is stopped must not hide why it is
                steps.close()

    @staticmethod
    def check_time(step: Step, began: float, limit: float | None) -> None:
        if limit is not None and (took := time.monotonic() - began) > limit:
            raise TimeoutError(f"it took {took:.1f} s, and its timeout is {limit:g} s")

    def take(self, step: Step, type_: NodeType, result: Any, rungs: tuple[str, ...], took_s: float) -> None:
        """Check, digest and keep what a node gave."""
        names = list(type_.outputs)
        if type_.named_outputs:
            if not isinstance(result, tuple) or len(result) != len(names):
                raise TypeError(f"it gave {type(result).__name__}, not its outputs {', '.join(names)}")
            values = dict(zip(names, result, strict=True))
        else:
            values = {names[0]: result}
        kept: dict[str, tuple[Artifact, Any]] = {}
        for name, value in values.items():
            if value is Absent or value is Absent.value:
                kept[name] = (ABSENT, Absent.value)
                continue
            port = type_.outputs[name].type
            try:
                value = port.check(value)
            except BadValue as odd:
                raise TypeError(f"its output '{name}' {odd}".replace("takes", "is to be")) from None
            value = self.store.adopt(value)
            artifact = self.planner.values.codecs.artifact(value)
            kept[name] = (artifact, value)
            if artifact.items is None:
                self.live.put(artifact.digest, value)
            else:
                for leaf, item in zip(_leaves(artifact), _flat(artifact, value), strict=True):
                    self.live.put(leaf.digest, item)
        slots = step.slots or {}
        provenance = {"made_with": self.planner.keys.computes_with(step.node), "inputs": {n: s.digest for n, s in slots.items()}, "took_s": round(took_s, 6)}
        if type_.uses_torch:
            provenance |= {"conditions": self.conditions, "rungs": list(rungs)}
        if step.node.cache:
            self.store.keep(step.key, kept, provenance)  # type: ignore[arg-type]
        self.planner.gave(step, {name: artifact for name, (artifact, _) in kept.items()})

    def refresh(self, step: Step, changed: FileChanged) -> None:
        """Digest anew the files that steps read."""
        if not self.planner.values.reread(self.plan.frame, step):
            raise ValueError(str(changed)) from changed
        self.plan.inputs.update(self.planner.values.given)

    # -- failures ----------------------------------------------------------------------------------------------------------------

    def fail(self, step: Step, cause: Exception) -> None:
        error = cause if isinstance(cause, NodeError) else NodeError(step.name, _words(cause), mark=step.node.mark, item=step.item)
        error.__cause__ = cause if error is not cause else cause.__cause__
        step.status, step.reason = "failed", _words(cause)
        step.outputs = dict.fromkeys(step.node.type.outputs, FAILED)
        self.failed += 1
        self.said.add(id(step))
        self.said_queue.append(events.StepFailed(step.name, step.item, _words(cause), error, self.now()))
        if self.fail_fast:
            raise _FailedFast

    def fail_node(self, failed: FailedStep) -> None:
        self.fail(self.planner.fail(failed), failed)

    # -- outputs -----------------------------------------------------------------------------------------------------------------

    def give(self, output: Output, slot: Slot) -> None:
        """Hand over an output; its file, if it has one, is written in a thread of its own."""
        assert isinstance(slot, Artifact)
        if slot.kind in ("absent", "failed"):
            why = "what it comes from is absent" if slot.kind == "absent" else "what it comes from failed"
            self.said_queue.append(events.OutputAbsent(output.name, why, self.now()))
            return
        try:
            if output.path is None or self.writer is None or slot.items == ():
                items = slot.items or ()
                if any(i.kind in ("absent", "failed") for i in items):
                    value = [self.value(i) if i.kind not in ("absent", "failed") else None for i in items]
                else:
                    value = self.value(slot)
                self.said_queue.append(events.OutputWritten(output.name, "", None, False, value, self.now()))
                return
            elements = [(slot, "", 0)] if slot.items is None else [(item, f"[{i}]", i) for i, item in enumerate(slot.items)]
            for artifact, item, index in elements:
                if artifact.kind in ("absent", "failed"):
                    self.said_queue.append(events.OutputAbsent(output.name + item, f"what it comes from is {artifact.kind}", self.now()))
                    continue
                value = self.value(artifact)
                account = self.accounts.of(output, artifact, index if item else None)
                self.writes.append(self.io.submit(self.write, output, artifact, item, index, value, account))
        except Damaged as damaged:
            self.failed += 1
            self.said_queue.append(events.OutputFailed(output.name, "", str(damaged), self.now()))

    def write(self, output: Output, artifact: Artifact, item: str, index: int, value: Any, account: str | None) -> None:
        assert self.writer is not None and output.path is not None
        inputs = {n: v for n, v in self.plan.inputs.items() if isinstance(v, str | int | float | bool)}
        fields = {**inputs, "graph": self.plan.graph.name, "output": output.name, "item": index, "index": index, "digest8": artifact.digest[:8]}
        try:
            written = self.writer.write(
                self.writer.relative(output.path, fields, element=bool(item)), value, output=output.name, item=item, exists=output.exists, provenance=account, digest=artifact.digest
            )
            self.said_queue.append(events.OutputWritten(output.name, item, str(written.path), written.changed, value, self.now()))
        except Exception as failed:
            self.failed += 1
            said = str(failed) if isinstance(failed, ImagenFlowError) else _words(failed)
            self.said_queue.append(events.OutputFailed(output.name, item, said, self.now()))


#: Reasons for which a step runs whatever the store holds.
_FORCED = "it is forced"
_DAMAGED = "the store's copy is damaged"


class _FailedFast(Exception):
    """A step failed and the user wants no other to run."""


def _flat(artifact: Artifact, value: Any) -> Iterator[Any]:
    if artifact.items is None:
        yield value
    else:
        for item, element in zip(artifact.items, value, strict=True):
            yield from _flat(item, element)


def _words(failed: BaseException) -> str:
    """Say an exception in words: its message alone where it was raised on purpose, else with its name."""
    message = str(failed).strip()
    if isinstance(failed, ValueError | ImagenFlowError | TimeoutError | FileChanged | OSError) and message:
        return message
    return f"{type(failed).__name__}: {message}" if message else type(failed).__name__
