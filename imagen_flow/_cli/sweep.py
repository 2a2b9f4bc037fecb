"""What `run` and `plan` do with a graph that is swept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import open_request, with_options

if TYPE_CHECKING:
    from .._outputs.writer import OutFolder
    from .._plan import Plan
    from .._plan.request import Options
    from .._settings.config import Settings
    from .._sweep import ItemResult, PreparedSweep
    from .._sweep.report.folder import Report

__all__ = ["open_plan_or_sweep", "execute_sweep", "print_sweep_plan", "sweep_options"]

#: At most this many failed items, and groups of steps, are listed; the rest are counted.
MAX_LISTED = 20

#: The outputs of so many items are printed; those of more are in the index.
MAX_PRINTED = 12

_OPTIONS = (
    click.option(
        "--sweep",
        "axes",
        multiple=True,
        metavar="NAME=VALUES",
        help=(
            'Run the graph for each of these values: a,b or JSON such as ["a, b", "c"]; a range'
            " 1..64 or 0.2..0.8..0.1; @FILE with a value on each line; for files, a folder or a"
            " pattern. @TABLE without a name reads a CSV or JSONL file with a column for each input."
            " Several axes are combined; may be repeated."
        ),
    ),
    click.option("--zip", "zipped", is_flag=True, help="Take the values of all axes side by side."),
    click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take N of the items, always the same ones.",
    ),
)


def sweep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a sweep."""
    return with_options(_OPTIONS, command)


@contextmanager
def open_plan_or_sweep(
    path: Path,
    options: Options,
    values: Mapping[str, str],
    *,
    axes: tuple[str, ...],
    zipped: bool,
    sample: int | None,
) -> Iterator[tuple[Plan | PreparedSweep, Settings]]:
    """Plan a graph as the command line asks, or prepare its sweep, and yield that and the settings.
    The store is closed on exit.
    """
    from .._plan.request import prepare

    with open_request(path, options, values) as request:
        graph, sweep = request.graph, None
        if axes or zipped or sample is not None or graph.sweep is not None:
            from .._sweep import Choice, prepare_sweep, read_axis_texts

            choice = Choice(read_axis_texts(graph, axes, base=Path.cwd()), zipped, sample)
            sweep = prepare_sweep(request, choice)
        yield prepare(request) if sweep is None else sweep, request.settings


def execute_sweep(
    sweep: PreparedSweep,
    *,
    out: OutFolder,
    parquet: bool = False,
    fail_fast: bool = False,
    json_events: bool = False,
    quiet: bool = False,
    traceback: bool = False,
    make_report: bool = False,
    contact_sheet: bool = False,
) -> int:
    """Run a sweep, showing its events, and return the exit code.

    Params:
        make_report, contact_sheet: what to make of the items that have ended, also after an
            interrupt.
    """
    from .._sweep import INDEX, run_sweep
    from ..events import ItemFinished, RunFinished, RunStarted
    from .interrupt import INTERRUPTED, interruptible
    from .report import print_report
    from .run import display_for
    from .text import echo, plural, show_problems

    cancel = threading.Event()
    display = display_for(json_events=json_events, quiet=quiet, traceback=traceback)
    failed: list[tuple[str, str]] = []
    printed: list[ItemResult] = []
    finished: RunFinished | None = None

    def stop() -> None:
        cancel.set()
        display.stopping()

    run = run_sweep(sweep, out=out, cancel=cancel, fail_fast=fail_fast, parquet=parquet)
    with interruptible(stop):
        try:
            for event in run:
                warnings = (*run.warnings, *sweep.warnings)
                if warnings and isinstance(event, RunStarted) and not (json_events or quiet):
                    show_problems(warnings)
                    echo(err=True)
                display.show(event)
                if isinstance(event, ItemFinished):
                    assert run.last is not None
                    if event.status == "failed" and len(failed) < MAX_LISTED:
                        failed.append((event.item, event.message))
                    if len(sweep) <= MAX_PRINTED:
                        printed.append(run.last)
                elif isinstance(event, RunFinished):
                    finished = event
        finally:
            display.close()
    assert finished is not None
    shown: Report | None = None
    if (make_report or contact_sheet) and run.done + run.failed:
        from .._sweep.report.folder import write_report

        shown = write_report(out.path, page=make_report, sheet=contact_sheet)
    if not json_events:
        _print_items(printed, out)
        echo(_index_line(out.path / INDEX, run.done + run.failed, len(sweep)))
        if shown is not None:
            print_report(shown)
        _print_failures(failed, run.failed)
        if run.stopped:
            echo(run.stopped, err=True)
        for line in sweep.changed_folders():
            echo(f"warning: {line}", err=True)
        if not quiet:
            _print_totals(sweep, run.done, run.failed, finished)
            if (seeds := _seed_hint(sweep)) and not quiet:
                echo(seeds, err=True)
    if finished.status == "cancelled":
        left = len(sweep) - run.done - run.failed
        if not json_events:
            echo(f"{plural(left, 'item')} left: the same command goes on with them", err=True)
        return INTERRUPTED
    return 0 if finished.status == "done" else 1


def _index_line(path: Path, ended: int, items: int) -> str:
    from .run import relative_path
    from .text import one_line, plural

    count = plural(items, "item") if ended == items else f"{ended:,} of {plural(items, 'item')}"
    return f"{one_line(relative_path(str(path)))}  {count}"


def _print_items(items: list[ItemResult], out: OutFolder) -> None:
    """Print the outputs of a few items."""
    from .run import relative_path
    from .text import describe_value, echo, one_line, paint

    for item in items:
        for name, value in item.outputs.items():
            paths = {
                part: one_line(relative_path(str(out.path / row["path"])))
                for part, row in item.row.get("outputs", {}).items()
                if part.partition("[")[0] == name and "path" in row
            }
            told = paths or {name: "absent" if value is None else describe_value(value)}
            for part, text in told.items():
                echo(paint(item.label, bold=True), f"  {part}  {text}", data=True)


def _print_failures(failed: list[tuple[str, str]], count: int) -> None:
    from .text import echo, paint, plural, table

    if not failed:
        return
    echo(paint(f"{plural(count, 'item')} failed", "red"), err=True)
    echo(table((label, message.partition("\n")[0]) for label, message in failed), err=True)
    if count > len(failed):
        echo(
            f"  and {plural(count - len(failed), 'more item')}: see 'status' in the index", err=True
        )


def _print_totals(sweep: PreparedSweep, done: int, failed: int, finished: Any) -> None:
    from .text import echo, format_seconds, paint, plural

    status = {"done": "done", "failed": "failed", "cancelled": "interrupted"}[finished.status]
    colour = {"done": "green", "failed": "red", "cancelled": "yellow"}[finished.status]
    ended = done + failed
    counts = [
        plural(len(sweep), "item")
        if ended == len(sweep)
        else f"{ended:,} of {plural(len(sweep), 'item')}",
        f"{plural(finished.ran, 'step')} ran",
        f"{finished.cached:,} from the store",
    ]
    if failed:
        counts.append(f"{plural(failed, 'item')} failed")
    if finished.tolerated:
        counts.append(f"{plural(finished.tolerated, 'step')} failed and left out")
    echo(
        paint(status, colour), f" in {format_seconds(finished.at_s)}: {', '.join(counts)}", err=True
    )


def _seed_hint(sweep: PreparedSweep) -> str:
    """Say which seeds were drawn, and how to have them again."""
    if not sweep.drawn:
        return ""
    settings = " ".join(
        f"--set {name}={sweep.seeds[name]} --sweep {name}=per-item" for name in sorted(sweep.drawn)
    )
    return f"seeds were drawn at random for each item; {settings} reproduces them"


def print_sweep_plan(sweep: PreparedSweep, *, as_json: bool) -> int:
    """Plan all items of a sweep, print what running it would do, and return the exit code."""
    from .._sweep import plan_sweep
    from .text import echo, echo_json, one_line, plural, show_problems, table

    plan = plan_sweep(sweep)
    errors = any(p.severity == "error" for p in plan.problems) or bool(plan.refused)
    if as_json:
        echo_json(plan.to_json(), indent=1)
        return int(errors)
    distinct = plan.cached + plan.runs + plan.waits
    at_least = "at least " if plan.at_least else ""
    counts = [f"{plan.cached:,} cached", f"{plan.runs:,} to run"]
    if plan.waits:
        counts.append(f"up to {plan.waits:,} after others")
    echo(
        f"{one_line(plan.graph.spec.source.name)} on {plan.device} in {plan.dtype}:"
        f" {plural(plan.items, 'item')}, {at_least}{plural(plan.steps, 'step')},"
        f" {'at most ' if plan.waits else ''}{distinct:,} of them distinct: {', '.join(counts)}"
    )
    echo(table(_axis_rows(sweep)))
    groups = sorted(plan.groups.items(), key=lambda g: (_order(plan.graph, g[0][0]), g[0]))
    echo(
        table(
            (f"{node} × {count:,}", type_, _status_text(status, reason))
            for (node, type_, status, reason), count in groups[:MAX_LISTED]
        )
    )
    if len(groups) > MAX_LISTED:
        echo(f"  and {plural(len(groups) - MAX_LISTED, 'more group')} of steps")
    if plan.first is not None:
        from .plan import print_models

        print_models(plan.first, err=False)
    for name in sweep.fixed:
        echo(f"the axis '{name}' is not swept: it is given a value")
    if seeds := _seed_hint(sweep):
        echo(seeds)
    if plan.refused:
        echo(err=True)
        _print_failures(list(plan.refused.items())[:MAX_LISTED], len(plan.refused))
    if plan.problems:
        echo(err=True)
        show_problems(plan.problems)
    return int(errors)


def _axis_rows(sweep: PreparedSweep) -> Iterator[tuple[str, ...]]:
    """Describe the axes of a sweep and how they are combined."""
    from .text import plural

    for part in sweep.rows.parts:
        yield ", ".join(part.names), plural(len(part.rows), "value"), ""
    for name in sorted(sweep.seeds):
        yield name, "a seed for each item", ""
    if sweep.rows.sample is not None:
        yield "sample", f"{len(sweep):,} of {sweep.rows.total:,} items", ""


def _order(graph: Any, node: str) -> int:
    names = list(graph.nodes)
    head = node.partition("/")[0].partition("[")[0]
    return names.index(head) if head in names else len(names)


def _status_text(status: str, reason: str) -> str:
    from .plan import STATUS_TEXTS

    return STATUS_TEXTS[status].format(reason=reason)  # type: ignore[index]
