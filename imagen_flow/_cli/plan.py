"""``imagen-flow plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import (
    graph_argument,
    out_folder,
    output_options,
    planning_options,
    set_option,
)
from .sweep import open_plan_or_sweep, print_sweep_plan, sweep_options

if TYPE_CHECKING:
    from .._outputs.writer import OutFolder
    from .._plan import Plan, Status, Step
    from .._plan.request import Options

__all__ = ["STATUS_TEXTS", "drawn_seeds", "plan", "print_models", "print_plan"]

#: At most this many files are listed; the rest are counted.
MAX_LISTED = 20


@click.command()
@graph_argument
@set_option
@sweep_options
@planning_options
@output_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    graph: Path,
    values: dict[str, str],
    axes: tuple[str, ...],
    zipped: bool,
    sample: int | None,
    options: Options,
    out: Path | None,
    may_replace: bool,
    as_json: bool,
) -> int:
    """Show what a run would do, and why, without running anything."""
    from .._plan import Plan

    with open_plan_or_sweep(graph, options, values, axes=axes, zipped=zipped, sample=sample) as (
        result,
        settings,
    ):
        if not isinstance(result, Plan):
            return print_sweep_plan(result, as_json=as_json)
        folder = out_folder(out, settings, may_replace=may_replace)
        if as_json:
            from .._run import planned_writes
            from .text import echo_json

            writes = [
                {"output": w.output, "path": w.path, "fate": w.effect}
                for w in planned_writes(result, folder, limit=MAX_LISTED)
            ]
            echo_json({**result.to_json(), "writes": writes}, indent=1)
        else:
            print_plan(result, folder)
    return 1 if any(p.severity == "error" for p in result.problems) else 0


def _print_writes(plan: Plan, folder: OutFolder, *, err: bool) -> None:
    """Print which files a run would write, and what happens to files that exist already."""
    from .._run import planned_writes
    from .text import echo, plural, table

    writes = list(planned_writes(plan, folder, limit=MAX_LISTED))
    if writes:
        echo("writes", err=err)
        echo(table((w.output, w.path, w.effect) for w in writes[:MAX_LISTED]), err=err)
        if len(writes) > MAX_LISTED:
            echo(f"  and {plural(len(writes) - MAX_LISTED, 'more file')}", err=err)


def drawn_seeds(plan: Plan) -> dict[str, tuple[int, str]]:
    """Return the seeds that were drawn for a plan, by ``seed NAME``, each with its value and with
    the setting that reproduces it.
    """
    seeds = {f"seed {name}": (seed, f"--set {name}={seed}") for name, seed in plan.seeds.items()}
    for name, seed in plan.drawn.items():  # drawn by a graph that is used as a node
        node, _, port = name.rpartition("/")
        seeds[f"seed {name}"] = (seed, f"'{port}: {seed}' at node '{node}'")
    return seeds


def print_plan(plan: Plan, folder: OutFolder | None, *, err: bool = False) -> None:
    """Print a plan: its steps, models, problems, and the files it would write to `folder`.
    Consecutive steps of a node with the same status share a line.

    Params:
        err: print to standard error.
    """
    from .text import echo, one_line, plural, show_problems, table

    known = [step for step in plan.steps if not step.is_open]
    counts = Counter(step.status for step in known)
    summary = [f"{'at least ' if plan.at_least else ''}{plural(len(known), 'step')}"]
    summary += [
        f"{count:,} {label}" for status, label in _COUNT_LABELS.items() if (count := counts[status])
    ]
    echo(
        f"{one_line(plan.graph.spec.source.name)} on {plan.device} in {plan.dtype}:"
        f" {', '.join(summary)}",
        err=err,
    )
    if plan.steps:
        echo(table(_rows(plan.steps)), err=err)
    print_models(plan, err=err)
    if plan.calls:
        echo("calls services outside this machine", err=err)
        echo(
            table((one_line(name), plural(count, "step")) for name, count in plan.calls.items()),
            err=err,
        )
    if folder is not None:
        _print_writes(plan, folder, err=err)
    for name, (seed, setting) in drawn_seeds(plan).items():
        echo(f"{name}: {seed} (drawn at random; {setting} reproduces it)", err=err)
    if plan.problems:
        echo(err=True)
        show_problems(plan.problems)


#: How the first line counts each status, in this order.
_COUNT_LABELS: dict[Status, str] = {
    "cached": "cached",
    "runs": "to run",
    "waits": "waiting for other steps",
    "absent": "absent",
    "idle": "not needed",
    "unresolved": "unresolved",
    "failed": "failing",
    "skipped": "skipped",
}

STATUS_TEXTS: dict[Status, str] = {
    "cached": "cached",
    "runs": "runs because {reason}",
    "waits": "runs {reason}",
    "absent": "absent: {reason}",
    "idle": "not needed: {reason}",
    "unresolved": "unresolved: {reason}",
    "failed": "fails: {reason}",
    "skipped": "skipped: {reason}",
    "ran": "ran",
}


def _rows(steps: Iterable[Step]) -> Iterable[tuple[str, ...]]:
    for (name, type_name, status), group in groupby(
        steps, key=lambda s: (s.name, s.type_name, _status_text(s))
    ):
        items = [step.item for step in group]
        if len(items) == 1:
            label = name + items[0].removesuffix("[?]")
        else:
            label = f"{name} × {len(items):,}"
        yield label, type_name, status


def _status_text(step: Step) -> str:
    if step.is_open:
        return f"? ({step.reason})"
    return STATUS_TEXTS[step.status].format(reason=step.reason)


def print_models(plan: Plan, *, err: bool) -> None:
    from .text import echo, format_bytes, table

    if plan.models:
        echo("models", err=err)
        echo(
            table(
                (
                    m["reference"],
                    m["fault"]
                    or f"{format_bytes(m['size_bytes'])} on disk,"
                    f" {format_bytes(m['memory_bytes'])} in memory",
                )
                for m in plan.models
            ),
            err=err,
        )
        if len(plan.models) > 1 and (memory := plan.memory):
            echo(
                "  together "
                + ", ".join(
                    f"{format_bytes(size)} in memory on {device}" for device, size in memory.items()
                ),
                err=err,
            )
