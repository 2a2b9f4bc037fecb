"""Prepare a sweep: its rows, counted and checked, and what running all of them would do."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from .._graph import RANDOM, Axis, FilesIn, Given, Graph, Input, PerItem, Sweep, TableAt
from .._plan import Item as PlanItem
from .._plan import Plan, Step, from_text
from .._plan.request import Request, prepare
from .._system.dataclass import dataclass
from .._types.ports import BadValue
from ..errors import GraphError, Problem
from .axes import expand, list_files
from .items import Item, count_equal, iter_items
from .rows import Rows, combine

__all__ = ["Choice", "PreparedSweep", "SweepPlan", "chunks", "plan_sweep", "prepare_sweep"]

#: So many items are planned and run together. What they share is worked out once, and a model does
#: its work for all of them before another takes its place; more would take more memory.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a sweep beside what the graph says: further axes, which replace those of the
    same name, and how they are combined.
    """

    axes: tuple[Axis | TableAt, ...] = ()
    zip: bool = False
    sample: int | None = None

    def __bool__(self) -> bool:
        return bool(self.axes) or self.zip or self.sample is not None


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep whose rows are counted and checked. Nothing has run."""

    #: What all items share. The inputs that vary are not in its values.
    request: Request
    rows: Rows
    #: For inputs whose seed is derived for each item, the seed that it is derived from.
    seeds: Mapping[str, int]
    #: Those of them that were drawn at random.
    drawn: frozenset[str]
    #: Axes and columns that do not count because their inputs are given.
    fixed: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def items(self) -> Iterator[Item]:
        """Yield the items in order."""
        return iter_items(self.rows, self.seeds)

    def changed_folders(self) -> Iterator[str]:
        """Say which folders have other files now than when they were listed."""
        for part in self.rows.parts:
            if part.folder is not None:
                listed = {row[0].written for row in part.rows}
                yield from _difference(part.folder, listed)


def _difference(folder: FilesIn, listed: set[Any]) -> Iterator[str]:
    try:
        now = set(list_files(folder))
    except OSError:
        now = set()
    added, removed = len(now - listed), len(listed - now)
    if added or removed:
        counts = [f"{n:,} {word}" for n, word in ((added, "added"), (removed, "removed")) if n]
        yield (
            f"the folder '{folder.path}' has changed since the sweep began: {', '.join(counts)};"
            " run it again to include what is there now"
        )


def prepare_sweep(request: Request, choice: Choice | None = None) -> PreparedSweep | None:
    """Read, check and count the rows of a sweep; None if nothing varies.

    Raises:
        GraphError: what is wrong with the axes; nothing has been made.
    """
    choice = choice or Choice()
    graph = request.graph
    written = graph.sweep or Sweep(())
    given = request.values.keys() | request.texts.keys()
    _refuse_both(choice, given)
    chosen = {axis.name for axis in choice.axes if isinstance(axis, Axis)}
    kept = [axis for axis in written.axes if not (isinstance(axis, Axis) and axis.name in chosen)]
    # The columns of a table of the file give way to axes that are asked for.
    expanded = expand(graph, choice.axes, fixed=frozenset(given))
    asked = {name for part in expanded.parts for name in part.names}
    inherited = expand(graph, kept, fixed=frozenset(given | asked))
    parts = (*inherited.parts, *expanded.parts)
    per_item = inherited.per_item | expanded.per_item
    if not parts:
        if choice:
            raise GraphError(
                [
                    Problem(
                        "bad-sweep",
                        "the sweep varies no input",
                        fix="add --sweep NAME=VALUES, such as --sweep seed=1..4",
                    )
                ]
            )
        return None
    rows = combine(
        parts,
        "zip" if choice.zip else written.combine,
        choice.sample if choice.sample is not None else written.sample,
        mark=None if choice else written.mark,
    )
    seeds, drawn = _seeds(request, per_item, frozenset(rows.names))
    own = {*rows.names, *seeds}
    shared = replace(
        request,
        values={name: value for name, value in request.values.items() if name not in own},
        texts={name: text for name, text in request.texts.items() if name not in own},
    )
    if missing := list(_missing(shared, own, rows)):
        raise GraphError(missing)
    fixed = {axis.name for axis in kept if isinstance(axis, Axis) and axis.name in given}
    return PreparedSweep(
        shared, rows, seeds, drawn, tuple(sorted(fixed)), tuple(_warnings(rows, seeds, written))
    )


def _refuse_both(choice: Choice, given: set[str]) -> None:
    both = [
        axis.name
        for axis in choice.axes
        if isinstance(axis, Axis) and axis.name in given and not isinstance(axis.source, PerItem)
    ]
    if both:
        raise GraphError(
            [
                Problem(
                    "bad-sweep",
                    f"'{name}' is both given a value and swept",
                    fix="remove one of them; a given value replaces only an axis of the graph",
                )
                for name in both
            ]
        )


def _missing(request: Request, own: set[str], rows: Rows) -> Iterator[Problem]:
    """Report inputs that neither vary, nor are given, nor have a default."""
    given = request.values.keys() | request.texts.keys() | own
    tables = [part.title for part in rows.parts if part.title.startswith("the table")]
    for name, wanted in request.graph.inputs.items():
        if name not in given and wanted.default is None and not wanted.type.optional:
            yield Problem(
                "missing-input",
                f"input '{name}' ({wanted.type}) has no value",
                wanted.mark,
                why=f"{tables[0]} has no column '{name}'" if tables else wanted.help,
                fix=(
                    f"add the column, or pass --set {name}=…"
                    if tables
                    else f"pass --set {name}=… or --sweep {name}=…, or give it a default"
                ),
            )


def _seeds(
    request: Request, per_item: frozenset[str], varied: frozenset[str]
) -> tuple[dict[str, int], frozenset[str]]:
    """Find the inputs whose seed is derived for each item: those that are written as ``per-item``,
    and those that are random. A seed that is given or a default is the same for all items.
    """
    seeds: dict[str, int] = {}
    drawn: set[str] = set()
    for name, wanted in request.graph.inputs.items():
        if not wanted.type.seed or name in varied:
            continue
        given = _given_seed(request, wanted)
        if given == RANDOM or (given is None and name in per_item):
            drawn.add(name)
            seeds[name] = secrets.randbelow(2**32)
        elif name in per_item:
            seeds[name] = given
    return seeds, frozenset(drawn)


def _given_seed(request: Request, wanted: Input) -> Any:
    """Give the seed of an input, `RANDOM`, or None if it has none.

    Raises:
        GraphError: what was given is no seed.
    """
    try:
        if wanted.name in request.texts:
            value = from_text(wanted.type, request.texts[wanted.name])
        elif wanted.name in request.values:
            value = request.values[wanted.name]
        else:
            value = wanted.default.value if isinstance(wanted.default, Given) else None
        return value if value in (None, RANDOM) else wanted.type.check(value)
    except BadValue as error:
        raise GraphError(
            [Problem("bad-input", f"input '{wanted.name}' {error}", wanted.mark)]
        ) from None


def _warnings(rows: Rows, seeds: Mapping[str, int], written: Sweep) -> Iterator[Problem]:
    equal = count_equal(rows) if rows.sample is None and not seeds else 0
    if equal:
        yield Problem(
            "bad-sweep",
            f"{equal:,} of {len(rows):,} items equal earlier ones: they give the same results",
            written.mark,
            fix="remove the repeated values, or vary a seed: seed=per-item",
            severity="warning",
        )


@dataclass(frozen=True, repr=False)
class SweepPlan:
    """What running a sweep would do. `steps` counts the steps of all items, and `cached`, `runs` and
    `waits` the distinct ones: equal steps are computed once.
    """

    graph: Graph
    device: str
    dtype: str
    items: int
    steps: int = 0
    cached: int = 0
    runs: int = 0
    #: Whether each of these runs depends on what comes out of others.
    waits: int = 0
    at_least: bool = False
    #: The steps of each node by type, status and reason.
    groups: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)
    #: What is wrong with an item, by label; the others run.
    refused: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    #: The plan of the first item.
    first: Plan | None = None

    def __repr__(self) -> str:
        return (
            f"<SweepPlan of {self.graph.spec.source.name}: {self.items} items, {self.steps} steps,"
            f" {self.cached} cached, {self.runs + self.waits} to run>"
        )

    def to_json(self) -> dict[str, Any]:
        """Give the counts as plain data."""
        return {
            "graph": self.graph.spec.source.name,
            "device": self.device,
            "dtype": self.dtype,
            "items": self.items,
            "steps": self.steps,
            "distinct": self.cached + self.runs + self.waits,
            "cached": self.cached,
            "runs": self.runs,
            "waits": self.waits,
            "at_least": self.at_least,
            "nodes": [
                {"node": node, "type": type_, "status": status, "reason": reason, "steps": count}
                for (node, type_, status, reason), count in self.groups.items()
            ],
            "refused": dict(self.refused),
            "models": self.first.models if self.first else [],
            "problems": [str(problem) for problem in self.problems],
        }


def plan_sweep(sweep: PreparedSweep) -> SweepPlan:
    """Plan every item, and count what would run. Plans are not kept.

    Raises:
        GraphError: what is wrong whatever the values of an item are.
    """
    first: Plan | None = None
    steps = waits = 0
    at_least = False
    keys: dict[str, set[bytes]] = {"cached": set(), "runs": set()}
    groups: Counter[tuple[str, str, str, str]] = Counter()
    refused: dict[str, str] = {}
    problems: dict[Problem, None] = dict.fromkeys(sweep.warnings)
    for _, plan in chunks(sweep):
        first = first or plan
        refused.update((one.label, one.problems[0].message) for one in plan.items if one.problems)
        at_least = at_least or plan.at_least
        problems.update(dict.fromkeys(plan.problems))
        for step in plan.steps:
            if step.is_open:
                continue
            steps += 1
            groups[step.name, step.type_name, step.status, step.reason] += 1
            if step.key and step.status in keys:
                keys[step.status].add(_short(step))
            else:
                waits += step.status in ("runs", "waits")
    assert first is not None, "a sweep has items"
    return SweepPlan(
        sweep.request.graph,
        first.device,
        first.dtype,
        len(sweep),
        steps,
        len(keys["cached"]),
        len(keys["runs"]),
        waits,
        at_least,
        groups,
        refused,
        tuple(problems),
        first,
    )


def _short(step: Step) -> bytes:
    return bytes.fromhex((step.key or "")[:20])


def chunks(sweep: PreparedSweep) -> Iterator[tuple[list[Item], Plan]]:
    """Plan the items, so many at a time. What is wrong with one item is in its plan.

    Raises:
        GraphError: what is wrong with all items, or whatever their values are.
    """
    items = sweep.items()
    is_first = True
    while chunk := list(itertools.islice(items, CHUNK)):
        plan = prepare(sweep.request, items=[PlanItem(item.label, item.values) for item in chunk])
        if is_first and (everywhere := _problems_of_all(plan)):
            raise GraphError(everywhere)
        is_first = False
        yield chunk, plan


def _problems_of_all(plan: Plan) -> tuple[Problem, ...]:
    """Give the problems that every item has."""
    first = plan.items[0].problems
    texts = [str(problem) for problem in first]
    same = all([str(problem) for problem in one.problems] == texts for one in plan.items)
    return first if same else ()
