"""``imagen-flow folder``: run hot folders, and look after them."""

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

#: The exit code that asks to be started again, as sysexits.h has it: a temporary failure.
AGAIN = 75

lines_argument = click.argument(
    "files", metavar="LINE...", nargs=-1, required=True, type=PathType()
)
line_argument = click.argument("file", metavar="LINE", type=PathType())
json_option = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
said_option = click.option(
    "--json", "as_json", is_flag=True, help="Print what happens as JSON, one object a line."
)


class _Commands(click.Group):
    """Commands; a line file in the place of one is told which it may have been meant for."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0].endswith((".yaml", ".yml", ".json")):
            ctx.fail(
                f"there is no command '{args[0]}'; to run a line: imagen-flow folder run {args[0]}"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
def folder() -> None:
    """Run hot folders: put each file that arrives in a folder through a graph.

    LINE is a file that says which folder is watched, which graph each file goes through, and where
    things go.
    """


@folder.command()
@lines_argument
@click.option(
    "--once", is_flag=True, help="Stop when nothing is left to do; exit code 1 if anything failed."
)
@click.option(
    "--poll",
    is_flag=True,
    help="Poll every few seconds instead of waiting for events, as network shares need.",
)
@planning_options
@said_option
def run(files: tuple[Path, ...], once: bool, poll: bool, options: Options, as_json: bool) -> int:
    """Run lines until stopped.

    Ctrl-C or SIGTERM lets running items finish for a while and gives back the rest; a second one
    ends the process at once, which loses nothing either. Exit codes: 0 stopped,
    1 a line file is at fault (or, with --once, an item), 75 to be started again: the log says why.
    """
    from dataclasses import replace

    from .._hotfolder import check_together, read_line

    with _temporary_failures() as failed:
        lines = [read_line(file) for file in files]
        check_together(lines)
        if poll:
            lines = [replace(line, poll=True) for line in lines]
        return _work(lines, options, once=once, as_json=as_json)
    return failed()


@folder.command()
@line_argument
@planning_options
@said_option
def drain(file: Path, options: Options, as_json: bool) -> int:
    """Finish what is queued, take in nothing new, and stop.

    Processes that run the line are told so and waited for; where there are none, the queue is
    worked off here.
    """
    from .._hotfolder import Journal, read_line
    from .text import echo

    with _temporary_failures() as failed:
        line = read_line(file)
        journal = Journal(line.journal)
        try:
            journal.write_note("drain", "yes")
            told = len(journal.workers())
            while journal.workers() and journal.active():
                time.sleep(0.2)
            # What a process that was killed in the meantime has left is for us.
            left = journal.active()
        finally:
            journal.close()
        if told:
            echo(f"{told} told to finish and stop", err=True)
        elif not left:
            echo("nothing is queued", err=True)
        return _work([line], options, drain=True, as_json=as_json) if left else 0
    return failed()


@contextlib.contextmanager
def _temporary_failures() -> Iterator[Callable[[], int]]:
    """Report an error of the disk that keeps a line from starting; what this gives is the exit code
    to end with then, which asks for a restart.
    """
    from .._hotfolder import may_pass
    from ..errors import GraphError, ImagenFlowError
    from .text import echo, show_click_error, show_problems

    code: list[int] = []
    try:
        yield lambda: code[0]
    except (ImagenFlowError, OSError, click.ClickException) as failed:
        if not may_pass(failed):
            if isinstance(failed, OSError):
                raise ImagenFlowError(_in_words(failed)) from failed
            raise
        if isinstance(failed, GraphError):
            show_problems(failed.problems)
        elif isinstance(failed, click.ClickException):
            show_click_error(failed)
        else:
            echo(f"error: {_in_words(failed) if isinstance(failed, OSError) else failed}", err=True)
        code.append(AGAIN)


def _in_words(failed: OSError) -> str:
    words = (failed.strerror or str(failed)).lower()
    return f"{failed.filename}: {words}" if failed.filename else words


def _work(
    lines: list[Line], options: Options, *, once: bool = False, drain: bool = False, as_json: bool
) -> int:
    """Run lines in this process until they end or are stopped."""
    from .._hotfolder import RunningLine, Tools, check_plan, prepare
    from .._models import ModelPool
    from .._settings import config
    from .interrupt import interruptible
    from .session import find_plugins, open_store

    listen = _json_lines() if as_json else _plain_lines()
    running: list[RunningLine] = []
    stopping = threading.Event()
    with ExitStack() as stack:
        recipes = []
        for line in lines:
            settings = config.load(line.graph.parent)
            recipes.append((prepare(line, find_plugins(options, settings)), settings))
        pool = stack.enter_context(ModelPool())
        for recipe, settings in recipes:
            opened = stack.enter_context(open_store(options, settings, recipe.registry))
            check_plan(recipe, options, settings, opened)
            tools = Tools(opened, pool, options, settings)
            running.append(RunningLine(recipe, tools, once=once, drain=drain, listen=listen))

        def stop() -> None:
            stopping.set()
            for one in running:
                one.stop()

        try:
            with interruptible(stop):
                for one in running:
                    one.start()
                while not stopping.wait(0.05 if once or drain else 0.25) and not all(
                    one.ended for one in running
                ):
                    if any(one.fault for one in running):
                        break
        finally:
            _close(running)
    if any(one.fault for one in running):
        return AGAIN
    return 1 if (once or drain) and any(one.failures for one in running) else 0


def _close(running: list[RunningLine]) -> None:
    for one in running:
        one.stop()
    for one in running:
        one.close()


def _json_lines() -> Callable[[dict[str, Any]], None]:
    from .streams import results
    from .text import echo_json

    stream = results()

    def show(said: dict[str, Any]) -> None:
        with contextlib.suppress(
            OSError, ValueError
        ):  # whoever read this has gone; the line goes on
            echo_json(said, stream=stream)

    return show


def _plain_lines() -> Callable[[dict[str, Any]], None]:
    from .streams import results
    from .text import Painted, echo, format_seconds, one_line, paint

    stream = results()

    hues = {
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

    def show(said: dict[str, Any]) -> None:
        event = said["event"]
        words: list[str | Painted] = [
            f"{said['at'][11:19]}  {one_line(said['line'])}  ",
            paint(f"{event:9}", hues.get(event)),
            "  ",
        ]
        more = []
        if "item" in said:
            more.append(str(said["item"]))
        if "took_s" in said:
            more.append(format_seconds(said["took_s"]))
        if "reason" in said:
            more.append(str(said["reason"]).partition("\n")[0])
        with contextlib.suppress(OSError, ValueError):
            echo(*words, "  ".join(map(one_line, more)), stream=stream)
            for note in said.get("notes", ()):
                echo("  ", paint("!", "yellow"), f" {one_line(note)}", stream=stream)

    return show


@folder.command()
@lines_argument
@json_option
def status(files: tuple[Path, ...], as_json: bool) -> int:
    """Show how lines stand: who works on them, what waits, and what failed last.

    Serves as a health check. Exit codes: 0 all are run, 3 one is run by nobody, 4 one waits for
    trouble to pass (a full disk, a share that is gone) or nothing was heard of its process, 1 a
    line file or a journal is at fault.
    """
    from .._hotfolder import read_line
    from .._hotfolder import status as status_of
    from .text import echo, echo_json, plural, table

    found = [status_of(read_line(file, missing="in")) for file in files]
    states = {said["state"] for said in found}
    code = 3 if "stopped" in states else 4 if "waiting" in states else 0
    if as_json:
        echo_json(found, indent=1)
        return code
    for number, said in enumerate(found):
        counts = said["counts"]
        shown = [f"{counts[state]:,} {state}" for state in counts]
        rows = [
            ("line", f"{said['line']} ({said['file']})"),
            ("in", said["in"] + ("" if said["watched"] else " (it is not there)")),
            (
                "run by",
                ", ".join(f"process {w['pid']}" for w in said["workers"])
                or said.get("alone")
                or "nobody",
            ),
            ("items", ", ".join(shown) or "none yet"),
        ]
        if said["trouble"]:
            rows.append(("waiting", f"for this to pass: {said['trouble']}"))
        if unready := said.get("unready"):
            rows.append(
                (
                    "not ready",
                    f"{plural(unready, 'item')}: to be filled, or for a ticket or sentinel to come",
                )
            )
        if said["passed_over"]:
            rows.append(("passed over", said["passed_over"]))
        if said.get("draining") and said["workers"]:
            rows.append(("draining", f"{plural(said['waiting'], 'item')} left"))
        rows += [("working on", f"{one['item']} ({one['state']})") for one in said["working"]]
        when = "nobody runs the line" if said["state"] == "stopped" else "waits to be finished"
        rows += [("unfinished", f"{one['item']} ({one['state']}): {when}") for one in said["left"]]
        rows += [
            (
                "failed",
                f"{one['original'] or one['item']}: {(one['reason'] or '').partition(chr(10))[0]}",
            )
            for one in said["failed"]
        ]
        rows += [
            ("failed", f"{one['original']}: {one['reason']} (not in the journal)")
            for one in said["unknown"]
        ]
        echo("\n" if number else "", table(rows, indent=""))
    return code


@folder.command()
@line_argument
@click.argument("names", nargs=-1)
def retry(file: Path, names: tuple[str, ...]) -> int:
    """Give failed files another try: all, or those of these NAMES in the folder for failed ones
    (patterns may be used). Exit code 1 if one of NAMES is not there.
    """
    from .._hotfolder import is_named, read_line
    from .._hotfolder import retry as again
    from .._hotfolder import status as status_of
    from ..errors import nearest
    from .text import echo, one_line, plural

    line = read_line(file)
    moved = again(line, names)
    for kept, back in moved:
        echo(one_line(kept if kept == back else f"{kept} -> {back}"))
    echo(f"{plural(len(moved), 'file')} moved back", err=True)
    missing = [name for name in names if not any(is_named(kept, name) for kept, _ in moved)]
    if not missing:
        return 0
    said = status_of(line)
    left = [one["original"] for one in (*said["failed"], *said["unknown"])]
    for name in missing:
        fix = nearest(name, left, what="failed files are") if left else "no file lies in 'failed'"
        echo(f"error: no failed file is called '{name}'\n  = fix: {fix}", err=True)
    return 1
