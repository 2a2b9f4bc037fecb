"""``imagen-flow run``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import (
    graph_argument,
    out_option,
    planned,
    planning_options,
    replace_option,
    set_option,
    traceback_option,
)

if TYPE_CHECKING:
    from .._outputs.writer import OutFolder
    from .._plan import Plan
    from .._plan.request import Options
    from .._run import Run
    from ..events import OutputAbsent, OutputWritten, RunFinished
    from .display import Display

__all__ = ["carry_out", "display_for", "print_outputs", "print_totals", "run"]


@click.command()
@graph_argument
@set_option
@planning_options
@out_option
@replace_option
@click.option("--fail-fast", is_flag=True, help="Stop at the first step that fails.")
@click.option(
    "--json-events", is_flag=True, help="Print events as JSON, one a line, and nothing else."
)
@click.option("--quiet", "-q", is_flag=True, help="Print results and failures only.")
@traceback_option
def run(
    graph: Path,
    values: dict[str, str],
    options: Options,
    out: Path | None,
    may_replace: bool,
    fail_fast: bool,
    json_events: bool,
    quiet: bool,
    traceback: bool,
) -> int:
    """Run a graph; what the store already holds is not computed again."""
    from .session import out_folder

    with planned(graph, options, values) as (plan, settings):
        return carry_out(
            plan,
            out=out_folder(out, settings, may_replace=may_replace),
            fail_fast=fail_fast,
            json_events=json_events,
            quiet=quiet,
            traceback=traceback,
        )


def carry_out(
    plan: Plan,
    *,
    out: OutFolder | None,
    fail_fast: bool = False,
    json_events: bool = False,
    quiet: bool = False,
    traceback: bool = False,
    then: Callable[[Run], None] | None = None,
) -> int:
    """Execute a plan before the user's eyes, print its outputs unless none are wanted (no `out`),
    and return the exit code. `then` is called with the run if it came to its end without a failure.
    """
    from .._run import execute
    from ..events import OutputAbsent, OutputWritten, RunFinished
    from .interrupt import INTERRUPTED, interruptible
    from .text import echo, show_problems

    warnings = [p for p in plan.problems if p.severity == "warning"]
    if warnings and not json_events and not quiet:
        show_problems(warnings)
        echo(err=True)
    cancel = threading.Event()
    display = display_for(json_events=json_events, quiet=quiet, traceback=traceback)
    given: list[OutputWritten | OutputAbsent] = []
    finished: RunFinished | None = None

    def stop() -> None:
        cancel.set()
        display.stopping()

    with interruptible(stop):
        try:
            run = execute(plan, out=out, cancel=cancel, fail_fast=fail_fast)
            for event in run:
                display.show(event)
                if isinstance(event, OutputWritten | OutputAbsent):
                    given.append(event)
                elif isinstance(event, RunFinished):
                    finished = event
        finally:
            display.close()
    assert finished is not None
    if not json_events:
        if out is not None:
            print_outputs(plan, given)
        if not quiet:
            print_totals(finished)
    if finished.status == "cancelled":
        return INTERRUPTED
    if finished.status == "done" and then is not None:
        then(run)
    return 0 if finished.status == "done" else 1


def display_for(*, json_events: bool, quiet: bool, traceback: bool = False) -> Display:
    """Choose what shows a run: JSON lines, failures only, live on a terminal, or plain lines."""
    from . import display

    if json_events:
        return display.JsonLines()
    if quiet:
        return display.Quiet(traceback=traceback)
    return (
        display.Live(traceback=traceback)
        if sys.stderr.isatty()
        else display.Lines(traceback=traceback)
    )


def print_outputs(plan: Plan, given: list[OutputWritten | OutputAbsent]) -> None:
    """Print what came of each output, in the order of the graph; the seeds that were drawn; and say
    what is missing.
    """
    from ..events import OutputWritten
    from .plan import kept_by
    from .text import echo, one_line, paint, value

    places = {name: i for i, name in enumerate(plan.graph.outputs)}
    given = sorted(given, key=lambda e: places.get(e.output.partition("[")[0], -1))
    names = [e.output + getattr(e, "item", "") for e in given] + [
        f"seed {name}" for name in (*plan.seeds, *plan.drawn)
    ]
    width = max(map(len, names), default=0)
    for event, name in zip(given, names, strict=False):
        if isinstance(event, OutputWritten):
            said = one_line(_shown(event.path)) if event.path is not None else value(event.value)
        else:
            said = f"absent: {event.because}"
        echo(paint(name.ljust(width), bold=True), f"  {said}", data=True)
    for name, seed in plan.seeds.items():
        echo(
            paint(f"seed {name}".ljust(width), bold=True),
            f"  {seed} (drawn; --set {name}={seed} gives the same again)",
        )
    for name, seed in plan.drawn.items():
        echo(
            paint(f"seed {name}".ljust(width), bold=True),
            f"  {seed} (drawn; {kept_by(name, seed)} gives the same again)",
        )


def _shown(path: str) -> str:
    """A path as the user can use it from here: relative where it is below the working directory."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def print_totals(finished: RunFinished) -> None:
    """Print how a run ended, how long it took, and how many of its steps ran."""
    from .text import echo, paint, plural, seconds

    said = [f"{plural(finished.ran, 'step')} ran", f"{finished.cached:,} from the store"]
    if finished.failed:
        said.append(f"{finished.failed:,} failed")
    head = {"done": "done", "failed": "failed", "cancelled": "interrupted"}[finished.status]
    hue = {"done": "green", "failed": "red", "cancelled": "yellow"}[finished.status]
    echo(paint(head, hue), f" in {seconds(finished.at_s)}: {', '.join(said)}", err=True)
