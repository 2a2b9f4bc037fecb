"""``imagen-flow plan``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import Chosen, graph_argument, planned, planning_options

if TYPE_CHECKING:
    from ..plan import Frame, Plan, Step

__all__ = ["plan", "print_plan"]


@click.command()
@graph_argument
@planning_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(graph: Path, chosen: Chosen, as_json: bool) -> int:
    """Say what a run would do, and why. Nothing runs."""
    with planned(graph, chosen) as (made, _, _settings):
        if as_json:
            import json

            click.echo(json.dumps(made.to_json(), indent=1, ensure_ascii=False))
        else:
            print_plan(made)
    return 1 if any(p.severity == "error" for p in made.problems) else 0


def print_plan(made: Plan) -> None:
    """Print steps, models and problems of a plan; steps of one node that fare alike share a line."""
    from .text import show_problems, table

    counts = made.counts
    said = [f"{'at least ' if made.at_least else ''}{len(made.steps):,} step{'' if len(made.steps) == 1 else 's'}"]
    said += [f"{count:,} {words}" for status, words in _COUNTED.items() if (count := counts.get(status))]
    click.echo(f"{made.graph.spec.source.name} on {made.device} in {made.dtype}: {', '.join(said)}")
    click.echo(table([*_rows(made.steps), *_uncounted(made.frame)]))
    _print_models(made)
    for name, seed in made.seeds.items():
        click.echo(f"seed {name}: {seed} (drawn; --set {name}={seed} keeps it)")
    if made.problems:
        click.echo(err=True)
        show_problems(made.problems)


#: How each status is counted in the first line, in this order.
_COUNTED = {
    "cached": "cached",
    "runs": "to run",
    "waits": "may run, as what comes before them turns out",
    "absent": "absent",
    "idle": "not needed",
    "unresolved": "unresolved",
}

_FATES = {
    "cached": "cached",
    "runs": "runs because {reason}",
    "waits": "runs {reason}",
    "absent": "absent: {reason}",
    "idle": "not needed: {reason}",
    "unresolved": "unresolved: {reason}",
}


def _rows(steps: Iterable[Step]) -> Iterable[tuple[str, ...]]:
    for (name, type_name, fate), alike in groupby(steps, key=lambda s: (s.name, s.type_name, _fate(s))):
        items = [step.item for step in alike]
        if len(items) == 1:
            shown = name + items[0]
        else:
            shown = f"{name} × {len(items):,}"
        yield shown, type_name, fate


def _uncounted(frame: Frame) -> Iterator[tuple[str, ...]]:
    """Name the nodes whose number of steps depends on a value that is not known yet."""
    for name, node in frame.graph.nodes.items():
        state = frame.states.get(name)
        if state is None:
            continue
        if state.waits is not None and not state.steps and not state.frames:
            yield frame.full(name), node.type.name, f"? (after {' and '.join(state.waits.after)})"
        for child in state.frames:
            yield from _uncounted(child)


def _fate(step: Step) -> str:
    return _FATES.get(step.status, step.status).format(reason=step.reason)


def _print_models(made: Plan) -> None:
    from .text import bytes_, table

    if not made.models:
        return
    click.echo("models")
    click.echo(table((m["reference"], m["fault"] or bytes_(m["size_bytes"])) for m in made.models))
