"""Make a plan: what a run would do, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import devices, models
from ..errors import GraphError, Problem, nearest
from ..filememo import FileMemo
from ..graph import Graph
from ..plugins import Registry
from ..store import Damaged, Store
from ..values import Model
from .explain import explain
from .inputs import take_inputs
from .keys import Keys
from .planner import Planner
from .step import FailedStep, Frame, Step
from .values import Values
from .waiting import check_waiting_models

__all__ = ["Plan", "history_name", "make_plan"]


@dataclass(eq=False)
class Plan:
    """What a run would do: ordered steps, each with what the store holds or why it must run. Carry it out with `execute`."""

    graph: Graph
    planner: Planner
    frame: Frame
    base: Path
    #: The values of the graph's inputs, as given or by default.
    inputs: dict[str, Any]
    #: Seeds that were drawn because an input's seed is `random`.
    seeds: dict[str, int]
    steps: list[Step]
    problems: tuple[Problem, ...]

    @property
    def device(self) -> str:
        return self.planner.keys.device

    @property
    def dtype(self) -> str:
        return self.planner.keys.dtype

    @property
    def drawn(self) -> dict[str, int]:
        """Seeds that included graphs drew for themselves so far, by node and input."""
        return self.planner.values.drawn

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that the plan names: reference, size on the disk, what the weights that its steps lease take in memory, as they load them, and, where it is not on this machine, what is wrong."""
        found: list[dict[str, Any]] = []
        values = self.planner.values
        for (reference, _), model in sorted(values.models.items(), key=lambda item: str(item[0])):
            if isinstance(model, Problem):
                found.append({"reference": reference, "size_bytes": None, "memory_bytes": None, "fingerprint": None, "fault": model.message})
            else:
                weighs = models.estimate(model, self.dtype)
                leased = sum(_weight(identity, *loading) for identity, loading in values.leased.get(model.digest, {}).items())
                found.append({"reference": reference, "size_bytes": weighs.disk_bytes, "memory_bytes": leased or weighs.memory_bytes, "fingerprint": model.digest, "fault": None})
        return found

    @property
    def memory(self) -> dict[str, int]:
        """What the weights of all models take together, in bytes by device, should they stay loaded. What several have in common is there once."""
        values = self.planner.values
        weights = {i: _weight(i, *loading) for model in values.models.values() if isinstance(model, Model) for i, loading in values.leased.get(model.digest, {}).items()}
        found: dict[str, int] = {}
        for identity, weight in sorted(weights.items()):
            found[identity.device] = found.get(identity.device, 0) + weight
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many steps have which status."""
        counts: dict[str, int] = {}
        for step in self.steps:
            counts[step.status] = counts.get(step.status, 0) + 1
        return counts

    @property
    def at_least(self) -> bool:
        """Whether there may be more steps than are listed, because a list is not known yet."""
        return any(_uncounted(frame) for frame in _frames(self.frame))

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain data."""
        return {
            "graph": self.graph.spec.source.name,
            "device": self.device,
            "dtype": self.dtype,
            "at_least": self.at_least,
            "inputs": {k: v if isinstance(v, bool | int | float | str | list) else str(v) for k, v in self.inputs.items()},
            "seeds": {**self.seeds, **self.drawn},
            "models": self.models,
            "memory_bytes": self.memory,
            "steps": [{"node": s.name, "item": s.item, "type": s.type_name, "status": s.status, "reason": s.reason, "key": s.key} for s in self.steps],
            "problems": [str(p) for p in self.problems],
        }


def _weight(identity: models.Identity, loader: Any, model: Model) -> int:
    return models.weight_of(loader, model, dtype=identity.dtype, settings=identity.settings)


def _frames(frame: Frame) -> Iterator[Frame]:
    yield frame
    for state in frame.states.values():
        for child in state.frames:
            yield from _frames(child)


def _uncounted(frame: Frame) -> bool:
    return any(s.waits is not None and not s.steps and not s.frames for s in frame.states.values())


def make_plan(
    graph: Graph,
    values: Mapping[str, Any] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    registry: Registry | None = None,
    store: Store | None = None,
    device: str | None = None,
    dtype: str | None = None,
    force: Iterable[str] = (),
    base: Path | None = None,
    files: FileMemo | None = None,
    terms: models.Terms = models.STRICT,
) -> Plan:
    """Plan a graph for these values of its inputs.

    Params:
        values: live values by input; a file, folder may be given by path, relative to `base` (default: the working directory).
        texts: values as text, as ``--set`` gives them; read by the input's type.
        device, dtype: given ones win over the graph's settings; else ``auto``.
        force: names of nodes that run even if the store holds them.
        terms: which models may be used, and how; without a lock in it, the one beside the graph or above it holds.

    Raises:
        GraphError: a value is missing, unknown or does not fit; a file is not there; a device does not exist.
    """
    base = base or Path.cwd()
    registry = registry or graph.registry
    assert registry is not None, "a resolved graph knows its registry"
    asked = device or graph.settings.get("device") or "auto"
    try:
        resolved = devices.resolve_device(asked)
        in_dtype = devices.resolve_dtype(dtype or graph.settings.get("dtype") or "auto", resolved)
    except ValueError as missing:
        raise GraphError([Problem("bad-setting", str(missing))]) from missing
    held = Values(registry, store, files or (store.files if store else FileMemo()), base=base, terms=replace(terms, lock=terms.lock or models.read_lock(models.find_lock(graph.folder))))
    planner = Planner(held, Keys(held, device=resolved, dtype=in_dtype, settings={name: value for name, value in graph.settings.items() if name not in ("device", "dtype")}), force=force)
    unknown = sorted(planner.force - _node_names(graph))
    if unknown:
        raise GraphError([Problem("unknown-reference", f"there is no node '{name}' to force", fix=nearest(name, graph.nodes, what="nodes are")) for name in unknown])
    taken = take_inputs(held, graph, values or {}, texts or {})
    if store is not None:
        planner.history = store.history(history_name(graph))
    while True:
        frame = Frame(graph, "", "", dict(taken.slots), frozenset(taken.by_default))
        planner.failed.clear()
        planner.makers.clear()
        try:
            planner.walk(frame)
            break
        except Damaged as damaged:
            planner.lost.add(damaged.artifact.digest)  # plan anew, so that the step that gives it runs
    check_waiting_models(planner, frame)
    # What a user can mend before anything runs refuses the plan; what came out of nodes fails the steps that cannot use it.
    wrong = [p for failed in planner.failed for p in failed.problems or _static(failed)]
    if wrong:
        raise GraphError(wrong)
    plan = Plan(graph, planner, frame, base, taken.plain, taken.seeds, list(_steps(frame)), (*graph.warnings, *held.problems))
    explain(planner, frame, plan.steps)
    return plan


def _static(failed: FailedStep) -> list[Problem]:
    if failed.node.after or failed.frame.prefix:
        return []
    return [Problem("bad-input", f"{failed.node.name}: {failed}", failed.node.mark)]


def history_name(graph: Graph) -> str:
    """Name a graph's runs, so that the next plan can say what changed since."""
    return str(graph.spec.path.resolve()) if graph.spec.path else graph.spec.source.name


def _node_names(graph: Graph) -> set[str]:
    names: set[str] = set()
    pending: list[tuple[str, Graph]] = [("", graph)]
    while pending:
        prefix, current = pending.pop()
        for node in current.nodes.values():
            names |= {node.name, prefix + node.name}
            if isinstance(node.type, Graph):
                pending.append((f"{prefix}{node.name}/", node.type))
    return names


def _steps(frame: Frame) -> Iterator[Step]:
    for name in frame.graph.nodes:
        state = frame.states.get(name)
        if state is not None:
            yield from state.steps
            for child in state.frames:
                yield from _steps(child)
            if state.waits is not None and not state.steps and not state.frames:
                after = " and ".join(state.waits.after)
                item = f"{frame.item}[?]" if state.many else frame.item
                yield Step(frame.full(name), item, frame.graph.nodes[name], frame, None, "waits", f"after {after}")
