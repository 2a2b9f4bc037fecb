"""``imagen-flow folder``: run hot folders, inspect them, and retry failed files."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import PathType, planning_options

if TYPE_CHECKING:
    from .._hotfolder import Line, RunningLine
    from .._plan.request import Options

__all__ = ["folder"]

#: The exit code that asks for a restart: a temporary failure (EX_TEMPFAIL of sysexits.h).
RESTART = 75

lines_argument = click.argument(
    "files", metavar="LINE...", nargs=-1, required=True, type=PathType()
)
line_argument = click.argument("file", metavar="LINE", type=PathType())
json_option = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
json_events_option = click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON lines."
)


class _Commands(click.Group):
    """Commands. A line file in the place of a command gets a hint."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0].endswith((".yaml", ".yml", ".json")):
            ctx.fail(
                f"there is no command '{args[0]}'; to run a line: imagen-flow folder run {args[0]}"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
def folder() -> None:
    """Run hot folders: put each file that arrives in a folder through a graph.

    LINE is a file that names the watched folder, the graph, and the folders for outputs, originals
    and failures.
    """


@folder.command()
@lines_argument
@click.option(
    "--once",
    is_flag=True,
    help="Stop when nothing is left to do, with exit code 1 if an item failed.",
)
@click.option(
    "--poll",
    is_flag=True,
    help=(
        "Poll every few seconds instead of waiting for file system events; network shares need"
        " this."
    ),
)
@click.option(
    "--group",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Process at most N waiting files together, whatever the lines say.",
)
@planning_options
@json_events_option
def run(
    files: tuple[Path, ...],
    once: bool,
    poll: bool,
    group: int | None,
    options: Options,
    as_json: bool,
) -> int:
    """Run lines until stopped.

    Ctrl-C or SIGTERM lets running items finish for a while and returns the others to the queue; a
    second one ends the process at once, and nothing is lost either way. Exit codes: 0 stopped, 1 a
    line file is at fault (or, with --once, an item failed), 75 restart needed, for the reason in
    the log.
    """
    from dataclasses import replace

    from .._hotfolder import check_together, read_line

    with _handle_temporary_errors() as exit_code:
        lines = [read_line(file) for file in files]
        check_together(lines)
        if poll:
            lines = [replace(line, poll=True) for line in lines]
        if group is not None:
            lines = [replace(line, group=group) for line in lines]
        return _run_lines(lines, options, once=once, as_json=as_json)
    return exit_code()


@folder.command()
@line_argument
@planning_options
@json_events_option
def drain(file: Path, options: Options, as_json: bool) -> int:
    """Finish what is queued, and stop.

    Processes that run the line are told to accept no new files, and waited for; if there are none,
    the queue is processed here.
    """
    from .._hotfolder import Journal, read_line
    from .text import echo

    with _handle_temporary_errors() as exit_code:
        line = read_line(file)
        journal = Journal(line.journal)
        try:
            journal.write_note("drain", "yes")
            workers = len(journal.workers())
            while journal.workers() and journal.count_active():
                time.sleep(0.2)
            # Items left by a process that was killed meanwhile are processed here.
            remaining = journal.count_active()
        finally:
            journal.close()
        if workers:
            echo(
                f"asked {workers} {'process' if workers == 1 else 'processes'} to finish and stop",
                err=True,
            )
        elif not remaining:
            echo("nothing is queued", err=True)
        return _run_lines([line], options, drain=True, as_json=as_json) if remaining else 0
    return exit_code()


@contextlib.contextmanager
def _handle_temporary_errors() -> Iterator[Callable[[], int]]:
    """Report a disk error that keeps a line from starting. Yields a function that returns the exit
    code of that case, which asks for a restart.
    """
    from .._hotfolder import is_temporary_error
    from ..errors import GraphError, ImagenFlowError
    from .text import echo, show_click_error, show_problems

    code: list[int] = []
    try:
        yield lambda: code[0]
    except (ImagenFlowError, OSError, click.ClickException) as error:
        if not is_temporary_error(error):
            if isinstance(error, OSError):
                raise ImagenFlowError(_describe(error)) from error
            raise
        if isinstance(error, GraphError):
            show_problems(error.problems)
        elif isinstance(error, click.ClickException):
            show_click_error(error)
        else:
            echo(f"error: {_describe(error) if isinstance(error, OSError) else error}", err=True)
        code.append(RESTART)


def _describe(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def _run_lines(
    lines: list[Line], options: Options, *, once: bool = False, drain: bool = False, as_json: bool
) -> int:
    """Run lines in this process until they end or are stopped."""
    from .._hotfolder import Resources, RunningLine, check_plan, make_recipe
    from .._models import ModelPool
    from .._settings import config
    from .interrupt import interruptible
    from .session import find_plugins, open_store

    on_event = _json_printer() if as_json else _plain_printer()
    running: list[RunningLine] = []
    stopping = threading.Event()
    with ExitStack() as stack:
        recipes = []
        for line in lines:
            settings = config.load(line.graph.parent)
            recipes.append((make_recipe(line, find_plugins(options, settings)), settings))
        pool = stack.enter_context(ModelPool())
        for recipe, settings in recipes:
            store = stack.enter_context(open_store(options, settings, recipe.registry))
            check_plan(recipe, options, settings, store)
            resources = Resources(store, pool, options, settings)
            running.append(
                RunningLine(recipe, resources, once=once, drain=drain, on_event=on_event)
            )

        def stop() -> None:
            stopping.set()
            for running_line in running:
                running_line.stop()

        try:
            with interruptible(stop):
                for running_line in running:
                    running_line.start()
                while not stopping.wait(0.05 if once or drain else 0.25) and not all(
                    running_line.ended for running_line in running
                ):
                    if any(running_line.fault for running_line in running):
                        break
        finally:
            _close_lines(running)
    if any(running_line.fault for running_line in running):
        return RESTART
    return 1 if (once or drain) and any(running_line.failures for running_line in running) else 0


def _close_lines(running: list[RunningLine]) -> None:
    for line in running:
        line.stop()
    for line in running:
        line.close()


def _json_printer() -> Callable[[dict[str, Any]], None]:
    from .streams import results
    from .text import echo_json

    stream = results()

    def show(event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the reader is gone; the line goes on
            echo_json(event, stream=stream)

    return show


def _plain_printer() -> Callable[[dict[str, Any]], None]:
    from .streams import results
    from .text import Painted, echo, format_seconds, one_line, paint

    stream = results()

    colours = {
        "done": "green",
        "skipped": "green",
        "failed": "red",
        "quarantined": "red",
        "fault": "red",
        "retry": "yellow",
        "waiting": "yellow",
        "watching": "yellow",
        "warning": "yellow",
    }

    def show(event: dict[str, Any]) -> None:
        name = event["event"]
        columns: list[str | Painted] = [
            f"{event['at'][11:19]}  {one_line(event['line'])}  ",
            paint(f"{name:9}", colours.get(name)),
            "  ",
        ]
        details = []
        if "item" in event:
            details.append(str(event["item"]))
        if "took_s" in event:
            details.append(format_seconds(event["took_s"]))
        if "reason" in event:
            details.append(_first_line(str(event["reason"])))
        with contextlib.suppress(OSError, ValueError):
            echo(*columns, "  ".join(map(one_line, details)), stream=stream)
            for note in event.get("notes", ()):
                echo("  ", paint("!", "yellow"), f" {one_line(note)}", stream=stream)

    return show


@folder.command()
@lines_argument
@json_option
def status(files: tuple[Path, ...], as_json: bool) -> int:
    """Show the status of lines.

    That is: which processes run them, what is queued, and what failed last. Can be used as a health
    check. Exit codes: 0 all lines are running, 3 a line is not running, 4 a line waits for a
    temporary problem to pass (a full disk, a missing share) or its process does not respond, 1 a
    line file or a journal is at fault.
    """
    from .._hotfolder import read_line
    from .._hotfolder import status as status_of
    from .text import echo, echo_json, table

    statuses = [status_of(read_line(file, missing="in")) for file in files]
    if as_json:
        echo_json(statuses, indent=1)
    else:
        for number, status in enumerate(statuses):
            echo("\n" if number else "", table(_status_rows(status), indent=""))
    states = {status["state"] for status in statuses}
    return 3 if "stopped" in states else 4 if "waiting" in states else 0


def _status_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Lay out the status of a line for people."""
    from .text import plural

    counts, workers = status["counts"], status["workers"]
    processes = ", ".join(f"process {worker['pid']}" for worker in workers)
    rows = [
        ("line", f"{status['line']} ({status['file']})"),
        ("in", status["in"] + ("" if status["watched"] else " (missing)")),
        ("run by", processes or status.get("alone") or "no process"),
        ("items", ", ".join(f"{counts[state]:,} {state}" for state in counts) or "none yet"),
    ]
    if status["trouble"]:
        rows.append(("waiting", f"until this has passed: {status['trouble']}"))
    if unready := status.get("unready"):
        rows.append(
            (
                "not ready",
                f"{plural(unready, 'item')}: empty, or waiting for a ticket or a sentinel",
            )
        )
    if status["passed_over"]:
        rows.append(("passed over", status["passed_over"]))
    if status.get("draining"):
        rows.append(("draining", f"{plural(status['waiting'], 'item')} left"))
    rows += [("working on", f"{item['item']} ({item['state']})") for item in status["working"]]
    when = "the line is not running" if status["state"] == "stopped" else "waiting to be finished"
    rows += [("unfinished", f"{item['item']} ({item['state']}): {when}") for item in status["left"]]
    rows += [
        ("failed", f"{item['original'] or item['item']}: {_first_line(item['reason'] or '')}")
        for item in status["failed"]
    ]
    rows += [
        ("failed", f"{item['original']}: {item['reason']} (not in the journal)")
        for item in status["unknown"]
    ]
    return rows


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


@folder.command()
@line_argument
@click.argument("names", nargs=-1)
def retry(file: Path, names: tuple[str, ...]) -> int:
    """Move failed files back to try them again.

    All failed files are moved back to the watched folder, or those with these NAMES in the 'failed'
    folder (patterns may be used). Exit code 1 if one of NAMES is not there.
    """
    from .._hotfolder import is_named, read_line
    from .._hotfolder import retry as retry_files
    from .._hotfolder import status as status_of
    from ..errors import nearest
    from .text import echo, one_line, plural

    line = read_line(file)
    moved = retry_files(line, names)
    for kept, restored in moved:
        echo(one_line(kept if kept == restored else f"{kept} -> {restored}"))
    echo(f"{plural(len(moved), 'file')} moved back", err=True)
    missing = [name for name in names if not any(is_named(kept, name) for kept, _ in moved)]
    if not missing:
        return 0
    status = status_of(line)
    failed = [one["original"] for one in (*status["failed"], *status["unknown"])]
    for name in missing:
        fix = (
            nearest(name, failed, what="failed files are")
            if failed
            else "there are no failed files"
        )
        echo(f"error: there is no failed file '{name}'\n  = fix: {fix}", err=True)
    return 1
