"""Make a plan: what a run would do, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import _models as models
from .._graph import LOADING, Binding, FromInput, Graph
from .._plugins.registry import Registry
from .._settings import devices
from .._store import Damaged, Store
from .._store.file_digests import FileDigests
from .._system.collection import paused_collection
from .._system.dataclass import dataclass
from .._types.artifact import Artifact
from .._types.models import Loader, Model
from .._types.node import NodeType
from .._types.ports import BadValue
from .._types.values import File, Folder
from ..errors import GraphError, Problem, as_texts, nearest
from .edges import edges_of
from .explain import explained
from .inputs import Taken, take_inputs
from .items import Item, PlannedItem, charge_models, check_labels, take_items
from .keying import FORCED, Keying
from .keys import Keys
from .state import State
from .step import Frame, Step
from .values import Values, is_drawn
from .waiting import check_waiting_models

__all__ = ["Plan", "history_name", "make_plan"]


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What a run would do: ordered steps, each with what the store holds or why it must run. Carry
    it out with `execute`, as often as you like; nothing of a run is written into it.
    """

    graph: Graph
    #: The folder that paths in values of inputs are relative to.
    base: Path
    device: str
    dtype: str
    #: How many steps may be computed together, if an option says so.
    batch: str | int | None
    store: Store | None
    #: What it is for: the values of the graph's inputs, of each item if there are several. The only
    #: one of a plan without items has no label.
    items: tuple[PlannedItem, ...]
    #: Seeds that included graphs drew for themselves, by node and input.
    drawn: Mapping[str, int]
    steps: tuple[Step, ...]
    problems: tuple[Problem, ...]
    #: What is known. A run goes on with a copy of it.
    state: State

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return (
            f"<Plan of {self.graph.spec.source.name} on {self.device} in {self.dtype}:"
            f" {counts or 'no steps'}>"
        )

    @property
    def has_items(self) -> bool:
        """Whether it was made for items with labels."""
        return not self.items or bool(self.items[0].label)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The values of the graph's inputs, as given or by default; those that all items share."""
        return self._shared([item.inputs for item in self.items if not item.problems])

    @property
    def seeds(self) -> Mapping[str, int]:
        """Seeds that were drawn because an input's seed is `random`; those of a plan without items."""
        return {} if self.has_items else self.items[0].seeds

    def _shared(self, inputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        if len(inputs) <= 1:
            return inputs[0] if inputs else {}
        tops = self.state.tops
        return {
            name: value
            for name, value in inputs[0].items()
            if len({top.inputs[name].digest for top in tops}) == 1
        }

    @property
    def values(self) -> Values:
        """What literals, inputs, files and models gave."""
        return self.state.values

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that the plan names: reference, size on the disk, what the weights that its
        steps lease take in memory, as they load them, and, where it is not on this machine, what is
        wrong.
        """
        found: list[dict[str, Any]] = []
        values = self.values
        for (reference, _), model in sorted(
            values.models.resolved.items(), key=lambda item: str(item[0])
        ):
            if isinstance(model, Problem):
                found.append(
                    {
                        "reference": reference,
                        "size_bytes": None,
                        "memory_bytes": None,
                        "fingerprint": None,
                        "fault": model.message,
                    }
                )
            else:
                weighs = models.estimate(model, self.dtype)
                leased = sum(
                    _weight(identity, *loading)
                    for identity, loading in values.models.leased.get(model.digest, {}).items()
                )
                found.append(
                    {
                        "reference": reference,
                        "size_bytes": weighs.disk_bytes,
                        "memory_bytes": leased or weighs.memory_bytes,
                        "fingerprint": model.digest,
                        "fault": None,
                    }
                )
        return found

    @property
    def memory(self) -> dict[str, int]:
        """What the weights of all models take together, in bytes by device, should they stay
        loaded. What several have in common is there once.
        """
        values = self.values
        weights = {
            i: _weight(i, *loading)
            for model in values.models.resolved.values()
            if isinstance(model, Model)
            for i, loading in values.models.leased.get(model.digest, {}).items()
        }
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
        return any(step.is_open for step in self.steps)

    def unread(self) -> Iterator[Artifact]:
        """Give what the steps read that are not in the store, and the outputs that are inputs, as
        far as they are known.
        """
        for frame, step in self.state.steps():
            if step.status in ("runs", "waits", "unresolved"):
                yield from self._known(frame, step.node.bindings.values())
        sources = [o.source for o in self.graph.outputs.values() if isinstance(o.source, FromInput)]
        for top in self.state.tops:
            yield from self._known(top, sources)

    def _known(self, frame: Frame, bindings: Iterable[Binding]) -> Iterator[Artifact]:
        for binding in bindings:
            slot = self.values.bind(frame, binding)
            if isinstance(slot, Artifact):
                yield slot

    @property
    def calls(self) -> dict[str, int]:
        """How many steps will, or may, ask each service outside this machine, by its name."""
        counts = Counter(
            step.node.type.calls
            for step in self.steps
            if isinstance(step.node.type, NodeType) and step.status in ("runs", "waits")
        )
        return {name: counts[name] for name in sorted(counts) if name}

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain data. Its edges name nodes without the numbers of elements and
        repetitions that steps have.
        """
        edges, outputs = edges_of(self.graph)
        return {
            "graph": self.graph.spec.source.name,
            "device": self.device,
            "dtype": self.dtype,
            "at_least": self.at_least,
            "inputs": {name: _as_data(value) for name, value in self.inputs.items()},
            "seeds": {**self.seeds, **self.drawn},
            **self._items_as_data(),
            "models": self.models,
            "memory_bytes": self.memory,
            "calls": self.calls,
            "steps": [
                {
                    "node": s.name,
                    "item": s.item,
                    "type": s.type_name,
                    "status": s.status,
                    "reason": s.reason,
                    "key": s.key,
                }
                for s in self.steps
            ],
            "edges": [
                {"from": e.origin.node, "output": e.origin.output, "to": e.node, "input": e.port}
                for e in edges
            ],
            "outputs": {
                name: [{"node": o.node, "output": o.output} for o in origins]
                for name, origins in outputs.items()
            },
            "problems": as_texts(self.problems),
        }

    def _items_as_data(self) -> dict[str, Any]:
        if not self.has_items:
            return {}
        return {
            "items": [
                {
                    "item": item.label,
                    "inputs": {name: _as_data(value) for name, value in item.inputs.items()},
                    "seeds": dict(item.seeds),
                    "problems": as_texts(item.problems),
                }
                for item in self.items
            ]
        }


def _as_data(value: Any) -> Any:
    """Give a value as plain data: of a file or folder its path and digest, of a picture its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_as_data(item) for item in value]
    kind = type(value).__name__.lower()
    if isinstance(value, File | Folder):
        return {"kind": kind, "path": value.path.as_posix(), "digest": value.digest}
    return {"kind": kind}


def _weight(identity: models.Identity, loader: Loader[Any], model: Model) -> int:
    return models.weight_of(loader, model, dtype=identity.dtype, settings=identity.settings)


@paused_collection()
def make_plan(
    graph: Graph,
    values: Mapping[str, Any] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    items: Iterable[Item] | None = None,
    registry: Registry | None = None,
    store: Store | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch: str | int | None = None,
    force: Iterable[str] = (),
    base: Path | None = None,
    files: FileDigests | None = None,
    model_policy: models.ModelPolicy = models.STRICT,
) -> Plan:
    """Plan a graph for these values of its inputs.

    Params:
        values: live values by input; a file, folder may be given by path, relative to `base`
            (default: the working directory).
        texts: values as text, as ``--set`` gives them; read by the input's type.
        items: plan the graph once for each of these, with their values beside or instead of those;
            default: plan it once.
        device, dtype: given ones win over the graph's settings; else ``auto``.
        batch: as in settings; it wins over the graph's.
        force: names of nodes that run even if the store holds them.
        model_policy: which models may be used, and how; without a lock in it, the one beside the graph or
            above it holds.

    Raises:
        GraphError: a value is missing, unknown or does not fit; a file is not there; a device does
            not exist. What is wrong with the values of one of several items is in the plan.
        ValueError: the labels of the items do not tell them apart.
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
    held = Values(
        registry,
        store,
        files or (store.files if store else FileDigests()),
        base=base,
        model_policy=replace(
            model_policy, lock=model_policy.lock or models.read_lock(models.find_lock(graph.folder))
        ),
    )
    settings = {
        name: value for name, value in graph.settings.items() if name not in ("device", "dtype")
    }
    if batch is not None:
        batch = settings["batch"] = _read_batch(batch)
    keying = Keying(
        held, Keys(held, device=resolved, dtype=in_dtype, settings=settings), force=force
    )
    included = list(graph.all())
    names = {name for one in included for name in one.nodes}
    unknown = [
        name for name in sorted(keying.force) if name not in names and not _is_path(graph, name)
    ]
    if unknown:
        raise GraphError(
            [
                Problem(
                    "unknown-reference",
                    f"there is no node '{name}' to force",
                    fix=nearest(name, graph.nodes, what="nodes are"),
                )
                for name in unknown
            ]
        )
    taken: dict[str, Taken | tuple[Problem, ...]]
    if items is None:
        taken = {"": take_inputs(held, graph, values or {}, texts or {})}
    else:
        listed = list(items)
        check_labels(listed)
        taken = take_items(held, graph, values or {}, texts or {}, listed)
    for one in included:
        for wanted in one.inputs.values():
            if one is not graph and is_drawn(wanted):
                held.default(
                    wanted
                )  # now, so that it is the same each time the plan is carried out
    history = store.history(history_name(graph)) if store is not None else {}
    with nullcontext() if store is None else store.reading_ahead(history.values()):
        while True:
            state = State(
                [
                    Frame(graph, "", label, dict(one.slots), by_default=one.by_default)
                    for label, one in taken.items()
                    if isinstance(one, Taken)
                ],
                keying,
                history,
                listing=True,
            )
            try:
                for top in state.tops:
                    state.walk(top)
                if items is not None:
                    charge_models(state)
                    state.drop_items()
                steps = tuple(explained(state))
                keying.forced.update(
                    step.key
                    for step in steps
                    if step.key and step.status == "runs" and step.reason == FORCED
                )
                if not any(
                    step.status == "cached" and step.key in keying.forced
                    for _, step in state.steps()
                ):
                    break
            except Damaged as damaged:
                keying.lost.add(
                    damaged.artifact.digest
                )  # plan anew, so that the step that gives it runs
    check_waiting_models(state)
    if state.drop_items():
        steps = tuple(explained(state))
    # What a user can mend before anything runs refuses the plan; what came out of nodes fails the
    # steps that cannot use it.
    if state.problems:
        raise GraphError(list(dict.fromkeys(state.problems)))
    return Plan(
        graph,
        base,
        resolved,
        in_dtype,
        batch,
        store,
        tuple(_planned(label, one, state) for label, one in taken.items()),
        held.drawn,
        steps,
        tuple(sorted((*graph.warnings, *held.problems), key=lambda p: p.position)),
        state,
    )


def _read_batch(given: str | int) -> str | int:
    """Read how many steps may be computed at once.

    Raises:
        GraphError: it is neither a word for it nor a number.
    """
    try:
        value = int(given) if isinstance(given, str) and given.isdecimal() else given
        checked: str | int = LOADING["batch"].check(value)
    except BadValue as error:
        raise GraphError([Problem("bad-setting", f"'batch' {error}")]) from error
    return checked


def _planned(label: str, taken: Taken | tuple[Problem, ...], state: State) -> PlannedItem:
    if isinstance(taken, Taken):
        problems = tuple(dict.fromkeys(state.item_problems.get(label, ())))
        return PlannedItem(label, taken.plain, taken.seeds, problems)
    return PlannedItem(label, {}, {}, taken)


def history_name(graph: Graph) -> str:
    """Name a graph's runs, so that the next plan can say what changed since."""
    return str(graph.spec.path.resolve()) if graph.spec.path else graph.spec.source.name


def _is_path(graph: Graph, name: str) -> bool:
    """Whether a name with slashes is that of a node in an included graph."""
    head, _, rest = name.partition("/")
    node = graph.nodes.get(head)
    return node is not None and (
        not rest or (isinstance(node.type, Graph) and _is_path(node.type, rest))
    )
