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
    out_option,
    planned,
    planning_options,
    replace_option,
    set_option,
)

if TYPE_CHECKING:
    from .._outputs.writer import OutFolder
    from .._plan import Plan, Status, Step
    from .._plan.request import Options

__all__ = ["kept_by", "plan", "print_plan"]

#: More files than this are counted, not listed.
LISTED = 20


@click.command()
@graph_argument
@set_option
@planning_options
@out_option
@replace_option
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    graph: Path,
    values: dict[str, str],
    options: Options,
    out: Path | None,
    may_replace: bool,
    as_json: bool,
) -> int:
    """Show what a run would do, and why. Nothing runs."""
    with planned(graph, options, values) as (made, settings):
        folder = out_folder(out, settings, may_replace=may_replace)
        if as_json:
            from .._run import foretell
            from .text import echo_json

            writes = [
                {"output": w.output, "path": w.path, "fate": w.fate}
                for w in foretell(made, folder, most=LISTED)
            ]
            echo_json({**made.to_json(), "writes": writes}, indent=1)
        else:
            print_plan(made, folder)
    return 1 if any(p.severity == "error" for p in made.problems) else 0


def _print_writes(made: Plan, folder: OutFolder, *, err: bool) -> None:
    """Print which files a run would write, and what becomes of what lies there."""
    from .._run import foretell
    from .text import echo, plural, table

    writes = list(foretell(made, folder, most=LISTED))
    if writes:
        echo("writes", err=err)
        echo(table((w.output, w.path, w.fate) for w in writes[:LISTED]), err=err)
        if len(writes) > LISTED:
            echo(f"  and {plural(len(writes) - LISTED, 'more file')}", err=err)


def kept_by(name: str, seed: int) -> str:
    """Say what keeps a seed that the graph in a node drew for itself."""
    node, _, port = name.rpartition("/")
    return f"'{port}: {seed}' at node '{node}'"


def print_plan(made: Plan, folder: OutFolder | None, *, err: bool = False) -> None:
    """Print steps, models, files to be written to `folder`, and problems of a plan (to standard
    error if `err`); steps of one node that fare alike share a line.
    """
    from .text import echo, one_line, plural, show_problems, table

    known = [step for step in made.steps if not step.is_open]
    counts = Counter(step.status for step in known)
    said = [f"{'at least ' if made.at_least else ''}{plural(len(known), 'step')}"]
    said += [
        f"{count:,} {words}" for status, words in _COUNTED.items() if (count := counts[status])
    ]
    echo(
        f"{one_line(made.graph.spec.source.name)} on {made.device} in {made.dtype}:"
        f" {', '.join(said)}",
        err=err,
    )
    if made.steps:
        echo(table(_rows(made.steps)), err=err)
    _print_models(made, err=err)
    if folder is not None:
        _print_writes(made, folder, err=err)
    for name, seed in made.seeds.items():
        echo(f"seed {name}: {seed} (drawn; --set {name}={seed} keeps it)", err=err)
    for name, seed in made.drawn.items():
        echo(f"seed {name}: {seed} (drawn; {kept_by(name, seed)} keeps it)", err=err)
    if made.problems:
        echo(err=True)
        show_problems(made.problems)


#: How each status is counted in the first line, in this order.
_COUNTED: dict[Status, str] = {
    "cached": "cached",
    "runs": "to run",
    "waits": "waiting for what runs",
    "absent": "absent",
    "idle": "not needed",
    "unresolved": "unresolved",
    "failed": "failing",
    "skipped": "skipped",
}

_FATES: dict[Status, str] = {
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
    for (name, type_name, fate), alike in groupby(
        steps, key=lambda s: (s.name, s.type_name, _fate(s))
    ):
        items = [step.item for step in alike]
        if len(items) == 1:
            shown = name + items[0].removesuffix("[?]")
        else:
            shown = f"{name} × {len(items):,}"
        yield shown, type_name, fate


def _fate(step: Step) -> str:
    if step.is_open:
        return f"? ({step.reason})"
    return _FATES[step.status].format(reason=step.reason)


def _print_models(made: Plan, *, err: bool) -> None:
    from .text import bytes_, echo, table

    if made.models:
        echo("models", err=err)
        echo(
            table(
                (
                    m["reference"],
                    m["fault"]
                    or f"{bytes_(m['size_bytes'])} on disk, {bytes_(m['memory_bytes'])} in memory",
                )
                for m in made.models
            ),
            err=err,
        )
        if len(made.models) > 1 and (memory := made.memory):
            echo(
                "  together"
                f" {', '.join(f'{bytes_(size)} in memory on {device}' for device, size in memory.items())}",
                err=err,
            )
