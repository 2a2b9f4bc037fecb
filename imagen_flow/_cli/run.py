"""``imagen-flow run``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import (
    graph_argument,
    output_options,
    planning_options,
    set_option,
    traceback_option,
)
from .sweep import execute_sweep, open_plan_or_sweep, sweep_options

if TYPE_CHECKING:
    from .._outputs.writer import OutFolder
    from .._plan import Plan
    from .._plan.request import Options
    from .._run import Run
    from ..events import OutputAbsent, OutputWritten, RunFinished, StepFailed
    from .display import Display

#: So many failures are listed at the end of a run.
MAX_FAILURES = 50

__all__ = ["execute_plan", "display_for", "print_outputs", "print_totals", "relative_path", "run"]


@click.command()
@graph_argument
@set_option
@sweep_options
@planning_options
@output_options
@click.option(
    "--index",
    type=click.Choice(["jsonl", "parquet"]),
    default="jsonl",
    help="How a sweep's items are listed: as index.jsonl, or also as index.parquet.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first step that fails.")
@click.option("--json-events", is_flag=True, help="Print events as JSON lines, and nothing else.")
@click.option("--quiet", "-q", is_flag=True, help="Print results and failures only.")
@click.option(
    "--report", "make_report", is_flag=True, help="Of a sweep, also make a page to explore it."
)
@click.option("--contact-sheet", is_flag=True, help="Of a sweep, also make a contact sheet.")
@traceback_option
def run(
    graph: Path,
    values: dict[str, str],
    axes: tuple[str, ...],
    zipped: bool,
    sample: int | None,
    options: Options,
    out: Path | None,
    may_replace: bool,
    index: str,
    fail_fast: bool,
    json_events: bool,
    quiet: bool,
    make_report: bool,
    contact_sheet: bool,
    traceback: bool,
) -> int:
    """Run a graph. Results that are already in the store are reused."""
    from .._plan import Plan
    from .session import out_folder

    with open_plan_or_sweep(graph, options, values, axes=axes, zipped=zipped, sample=sample) as (
        plan,
        settings,
    ):
        folder = out_folder(out, settings, may_replace=may_replace)
        if not isinstance(plan, Plan):
            return execute_sweep(
                plan,
                out=folder,
                parquet=index == "parquet",
                fail_fast=fail_fast,
                json_events=json_events,
                quiet=quiet,
                traceback=traceback,
                make_report=make_report,
                contact_sheet=contact_sheet,
            )
        if make_report or contact_sheet:
            raise click.UsageError(
                f"{'--report' if make_report else '--contact-sheet'} shows the items of a sweep;"
                " add --sweep NAME=VALUES"
            )
        return execute_plan(
            plan,
            out=folder,
            fail_fast=fail_fast,
            json_events=json_events,
            quiet=quiet,
            traceback=traceback,
        )


def execute_plan(
    plan: Plan,
    *,
    out: OutFolder | None,
    fail_fast: bool = False,
    json_events: bool = False,
    quiet: bool = False,
    traceback: bool = False,
    then: Callable[[Run], None] | None = None,
) -> int:
    """Execute a plan, showing its events, and return the exit code.

    Params:
        out: where outputs are written; None prints and writes none.
        then: called with the run if it finishes without a failure.
    """
    from .._run import execute
    from ..events import OutputAbsent, OutputWritten, RunFinished, StepFailed
    from .interrupt import INTERRUPTED, interruptible
    from .text import echo, show_problems

    warnings = [p for p in plan.problems if p.severity == "warning"]
    if warnings and not json_events and not quiet:
        show_problems(warnings)
        echo(err=True)
    cancel = threading.Event()
    display = display_for(json_events=json_events, quiet=quiet, traceback=traceback)
    outputs: list[OutputWritten | OutputAbsent] = []
    failures: list[StepFailed] = []
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
                    outputs.append(event)
                elif isinstance(event, StepFailed):
                    failures.append(event)
                elif isinstance(event, RunFinished):
                    finished = event
        finally:
            display.close()
    assert finished is not None
    if not json_events:
        if out is not None:
            print_outputs(plan, outputs)
        if not quiet:
            print_failures(failures)
            print_totals(finished)
    if finished.status == "cancelled":
        return INTERRUPTED
    if finished.status == "done" and then is not None:
        then(run)
    return 0 if finished.status == "done" else 1


def display_for(*, json_events: bool, quiet: bool, traceback: bool = False) -> Display:
    """Choose a display: JSON lines, failures only, live on a terminal, or plain lines."""
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


def print_outputs(plan: Plan, outputs: list[OutputWritten | OutputAbsent]) -> None:
    """Print each output's value or path in the order of the graph, then the drawn seeds."""
    from ..events import OutputWritten
    from .plan import drawn_seeds
    from .text import describe_value, echo, one_line, paint

    order = {name: i for i, name in enumerate(plan.graph.outputs)}
    outputs = sorted(outputs, key=lambda e: order.get(e.output.partition("[")[0], -1))
    drawn = drawn_seeds(plan)
    names = [e.output + getattr(e, "item", "") for e in outputs]
    width = max(map(len, [*names, *drawn]), default=0)
    for event, name in zip(outputs, names, strict=True):
        if isinstance(event, OutputWritten):
            text = (
                one_line(relative_path(event.path))
                if event.path is not None
                else describe_value(event.value)
            )
        else:
            text = f"absent: {event.because}"
        echo(paint(name.ljust(width), bold=True), f"  {text}", data=True)
    for name, (seed, setting) in drawn.items():
        echo(
            paint(name.ljust(width), bold=True),
            f"  {seed} (drawn at random; {setting} reproduces it)",
        )


def relative_path(path: str) -> str:
    """Return a path relative to the working directory if it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def print_failures(failures: Sequence[StepFailed]) -> None:
    """List at the end the steps that failed, with their places in the graph; one that ended the run
    is in sight already.
    """
    from .text import echo, plural, table

    if not any(event.is_tolerated for event in failures) and len(failures) < 2:
        return
    echo(f"{plural(len(failures), 'step')} failed", err=True)
    shown = failures[:MAX_FAILURES]
    echo(table(_failure_row(event) for event in shown), err=True)
    if more := len(failures) - len(shown):
        echo(f"  and {more:,} more; --json-events lists all", err=True)


def _failure_row(event: StepFailed) -> tuple[str, ...]:
    from ..events import step_title

    mark = event.error.problem.mark
    place = f"{mark.source.name}:{mark.line}:{mark.column}" if mark is not None else ""
    fate = {"absent": "absent: ", "drop": "dropped: "}.get(event.on_error, "")
    return step_title(event.node, event.item, event.about), place, fate + event.message


def print_totals(finished: RunFinished) -> None:
    """Print how a run ended, how long it took, and how many of its steps ran."""
    from .text import echo, format_seconds, paint, plural

    counts = [f"{plural(finished.ran, 'step')} ran", f"{finished.cached:,} from the store"]
    if finished.failed:
        counts.append(f"{finished.failed:,} failed")
    if finished.tolerated:
        counts.append(f"{finished.tolerated:,} failed and left out")
    status = {"done": "done", "failed": "failed", "cancelled": "interrupted"}[finished.status]
    colour = {"done": "green", "failed": "red", "cancelled": "yellow"}[finished.status]
    echo(
        paint(status, colour), f" in {format_seconds(finished.at_s)}: {', '.join(counts)}", err=True
    )
