"""``imagen-flow watch``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .interrupt import INTERRUPTED
from .session import (
    PathType,
    missing_plugin,
    output_options,
    planning_options,
    set_option,
    traceback_option,
)

if TYPE_CHECKING:
    from .._plan import Plan
    from .._plan.request import Options
    from .._watch import Waiting, WatchEvent
    from ..events import Event
    from .display import Display

__all__ = ["watch"]

#: The conventional exit code after SIGTERM.
TERMINATED = 143

#: At most this many changed paths are listed; the rest are counted.
MAX_LISTED = 4


@click.command()
@click.argument("graphs", type=PathType(), nargs=-1, required=True)
@set_option
@planning_options
@output_options
@click.option(
    "--on-change",
    type=click.Choice(["restart", "queue"]),
    default="restart",
    help=(
        "What to do with a run when something it depends on changes: stop it if its current steps"
        " are no longer wanted, or let it end. [default: restart]"
    ),
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0),
    default=0.1,
    metavar="SECONDS",
    help="How long to wait for further changes after a change. [default: 0.1]",
)
@click.option(
    "--poll",
    is_flag=True,
    help="Poll every second instead of waiting for file system events; network shares need this.",
)
@click.option("--json-events", is_flag=True, help="Print events as JSON lines, and nothing else.")
@click.option("--quiet", "-q", is_flag=True, help="Print results and failures only.")
@traceback_option
def watch(
    graphs: tuple[Path, ...],
    values: dict[str, str],
    options: Options,
    out: Path | None,
    may_replace: bool,
    on_change: Literal["restart", "queue"],
    settle_s: float,
    poll: bool,
    json_events: bool,
    quiet: bool,
    traceback: bool,
) -> int:
    """Run graphs, and run them again whenever something they depend on changes.

    That is: a graph, a graph that it includes, a file, folder or local model that it reads, the
    settings, or the code of a local plugin. Only what a change affects is computed again. If a
    graph has errors, they are printed and the watcher waits for a fix; its last outputs stay.
    Ctrl-C stops watching (exit code 130), and so does SIGTERM (143).
    """
    from .._watch import watch_graphs
    from ..errors import GraphError
    from .interrupt import interruptible

    missing = [missing_plugin(path) for path in options.plugins if not path.is_file()]
    if missing:
        raise GraphError(missing)
    cancel = threading.Event()
    view = _JsonView() if json_events else _View(quiet=quiet, traceback=traceback)

    def stop() -> None:
        cancel.set()
        view.stopping()

    with interruptible(stop) as signals:
        try:
            for event in watch_graphs(
                graphs,
                options,
                texts=values,
                out=out,
                default_out=Path("out"),
                may_replace=may_replace,
                on_change=on_change,
                settle_s=settle_s,
                poll=poll,
                cancel=cancel,
            ):
                view.show(event)
        finally:
            view.close()
    return _exit_code(signals)


def _exit_code(signals: list[int]) -> int:
    import signal

    return TERMINATED if signals[:1] == [signal.SIGTERM] else INTERRUPTED


class _JsonView:
    """One JSON object per line on standard output."""

    def __init__(self) -> None:
        from .streams import results

        self.stream = results()

    def show(self, event: WatchEvent) -> None:
        from .._watch import as_json
        from .text import echo_json

        echo_json(as_json(event), stream=self.stream)

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class _View:
    """Prints changes, runs as `imagen-flow run` shows them, and outputs; between runs, on a
    terminal, an animated line says that watching continues.
    """

    def __init__(self, *, quiet: bool, traceback: bool = False) -> None:
        self.quiet = quiet
        self.traceback = traceback
        #: Shows the current run.
        self.display: Display | None = None
        #: The animated line between runs.
        self.idle_line: Any = None
        self.plan: Plan | None = None
        self.outputs: list[Any] = []
        #: How many paths are watched.
        self.watched = 0

    def show(self, event: WatchEvent) -> None:
        """Print an event."""
        self.stop_idle_line()
        with self.paused_display(event):
            self.print_event(event)

    def print_event(self, event: WatchEvent) -> None:
        from .._watch import Changed, Noticed, Planned, Refused, Reloaded, Waiting, Warned
        from .run import display_for
        from .text import echo, one_line, plural, show_problems

        if isinstance(event, Waiting | Planned) and self.display is not None:
            self.display.close()  # its run ended with an error
            self.display = None
        if isinstance(event, Waiting):
            self.print_waiting(event)
        elif isinstance(event, Changed):
            more = len(event.paths) - MAX_LISTED
            self.print_line(
                f"changed: {', '.join(map(one_line, event.paths[:MAX_LISTED]))}"
                + (f" and {more:,} more" if more > 0 else "")
                + (" (stopping the run)" if event.cancels else ""),
                colour="cyan",
            )
        elif isinstance(event, Reloaded):
            self.print_line(
                f"reloaded: {', '.join(map(one_line, event.plugins)) or 'plugins'}"
                + (f"; {plural(event.dropped, 'model')} dropped" if event.dropped else "")
            )
        elif isinstance(event, Noticed):
            self.print_line(f"notice: {one_line(event.message)}", colour="yellow", always=True)
        elif isinstance(event, Warned):
            show_problems(event.problems)
        elif isinstance(event, Refused):
            if event.problems:
                show_problems(event.problems)
            else:
                echo(f"error: {event.error}", err=True)
            self.print_line(
                f"waiting for a fix of {one_line(event.graph)}; its last outputs stay",
                colour="yellow",
            )
        elif isinstance(event, Planned):
            self.plan, self.outputs = event.plan, []
            self.display = display_for(
                json_events=False, quiet=self.quiet, traceback=self.traceback
            )
        else:
            self.print_run_event(event)

    def print_run_event(self, event: Event) -> None:
        """Print an event of the current run, and its outputs at the end."""
        from ..events import OutputAbsent, OutputWritten, RunFinished
        from .run import print_outputs, print_totals

        assert self.display is not None
        self.display.show(event)
        if isinstance(event, OutputWritten | OutputAbsent):
            self.outputs.append(event)
        elif isinstance(event, RunFinished):
            self.display.close()
            self.display = None
            assert self.plan is not None
            print_outputs(self.plan, self.outputs)
            if not self.quiet:
                print_totals(event)

    @contextmanager
    def paused_display(self, event: WatchEvent) -> Iterator[None]:
        """Hide the live display while an event that is not its own is printed."""
        from .._watch import Changed, Noticed, Refused, Reloaded, Warned
        from .display import Live

        if isinstance(self.display, Live) and isinstance(
            event, Changed | Noticed | Refused | Reloaded | Warned
        ):
            self.display.live.stop()
            yield
            self.display.live.start()
        else:
            yield

    def print_line(self, text: str, *, colour: str | None = None, always: bool = False) -> None:
        from .text import echo, paint

        if always or not self.quiet:
            echo(paint(time.strftime("%H:%M:%S"), dim=True), " ", paint(text, colour), err=True)

    def print_waiting(self, event: Waiting) -> None:
        """Print that watching continues: on a terminal as an animated line, elsewhere whenever the
        number of watched paths has changed.
        """
        from .text import plural

        text = f"watching {plural(event.places, 'path')} for changes"
        if not sys.stderr.isatty():
            if event.places != self.watched:
                self.print_line(text)
        elif not self.quiet:
            from rich.console import Console

            self.idle_line = Console(stderr=True, highlight=False).status(
                f"[dim]{text} · press Ctrl-C to stop[/dim]", spinner="dots", refresh_per_second=2
            )
            self.idle_line.start()
        self.watched = event.places

    def stop_idle_line(self) -> None:
        if self.idle_line is not None:
            self.idle_line.stop()
            self.idle_line = None

    def stopping(self) -> None:
        if self.display is not None:
            self.display.stopping()

    def close(self) -> None:
        self.stop_idle_line()
        if self.display is not None:
            self.display.close()
