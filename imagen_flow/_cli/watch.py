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
    out_option,
    planning_options,
    replace_option,
    set_option,
    traceback_option,
)

if TYPE_CHECKING:
    from .._plan import Plan
    from .._plan.request import Options
    from .._watch import Happening
    from .display import Display

__all__ = ["watch"]

#: What a process that was asked to end by SIGTERM exits with, by convention.
TERMINATED = 143

#: More changed paths than this are counted, not listed.
LISTED = 4


@click.command()
@click.argument("graphs", type=PathType(), nargs=-1, required=True)
@set_option
@planning_options
@out_option
@replace_option
@click.option(
    "--on-change",
    type=click.Choice(["restart", "queue"]),
    default="restart",
    help=(
        "What to do with a run when what it depends on changes: stop it if what it works on is no"
        " longer wanted, or let it end. [default: restart]"
    ),
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0),
    default=0.1,
    metavar="SECONDS",
    help="How long to wait for further changes after one. [default: 0.1]",
)
@click.option(
    "--poll",
    is_flag=True,
    help="Poll every second instead of waiting for events, as network shares need.",
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
    settings, or the code of a local plugin. Only what a change touches is computed. A graph that
    cannot be run is reported, and waits for a fix; its last outputs stay. Ctrl-C stops (exit code
    130), and so does SIGTERM (143).
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
            for said in watch_graphs(
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
                view.show(said)
        finally:
            view.close()
    return _code(signals)


def _code(signals: list[int]) -> int:
    import signal

    return TERMINATED if signals[:1] == [signal.SIGTERM] else INTERRUPTED


class _JsonView:
    """One JSON object a line on standard output."""

    def __init__(self) -> None:
        from .streams import results

        self.stream = results()

    def show(self, said: Happening) -> None:
        from .._watch import as_json
        from .text import echo_json

        echo_json(as_json(said), stream=self.stream)

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class _View:
    """What changed, the run that it starts as `imagen-flow run` shows it, its outputs; and between
    runs, on a terminal, that watching goes on.
    """

    def __init__(self, *, quiet: bool, traceback: bool = False) -> None:
        self.quiet = quiet
        self.traceback = traceback
        self.display: Display | None = None
        self.idle: Any = None
        self.plan: Plan | None = None
        self.given: list[Any] = []
        self.places = 0

    def show(self, said: Happening) -> None:
        """Print what was said."""
        self.rest()
        with self.beside(said):
            self.tell(said)

    def tell(self, said: Happening) -> None:
        from .._watch import Changed, Noticed, Planned, Refused, Reloaded, Waiting, Warned
        from ..events import OutputAbsent, OutputWritten, RunFinished
        from .run import display_for, print_outputs, print_totals
        from .text import echo, one_line, plural, show_problems

        if isinstance(said, Waiting | Planned) and self.display is not None:
            self.display.close()  # its run ended in an error
            self.display = None
        if isinstance(said, Waiting):
            self.wait(said)
        elif isinstance(said, Changed):
            more = f" and {len(said.paths) - LISTED:,} more" if len(said.paths) > LISTED else ""
            self.say(
                "changed:"
                f" {', '.join(map(one_line, said.paths[:LISTED]))}{more}{' (stopping the run)' if said.cancels else ''}",
                hue="cyan",
            )
        elif isinstance(said, Reloaded):
            self.say(
                f"loaded anew: {', '.join(map(one_line, said.plugins)) or 'plugins'}"
                + (f"; {plural(said.dropped, 'model')} dropped" if said.dropped else "")
            )
        elif isinstance(said, Noticed):
            self.say(f"notice: {one_line(said.message)}", hue="yellow", always=True)
        elif isinstance(said, Warned):
            show_problems(said.problems)
        elif isinstance(said, Refused):
            if said.problems:
                show_problems(said.problems)
            else:
                echo(f"error: {said.error}", err=True)
            self.say(f"{one_line(said.graph)} waits for a fix; its last outputs stay", hue="yellow")
        elif isinstance(said, Planned):
            self.plan, self.given = said.plan, []
            self.display = display_for(
                json_events=False, quiet=self.quiet, traceback=self.traceback
            )
        else:
            assert self.display is not None
            self.display.show(said)
            if isinstance(said, OutputWritten | OutputAbsent):
                self.given.append(said)
            elif isinstance(said, RunFinished):
                self.display.close()
                self.display = None
                assert self.plan is not None
                print_outputs(self.plan, self.given)
                if not self.quiet:
                    print_totals(said)

    @contextmanager
    def beside(self, said: Happening) -> Iterator[None]:
        """Take the part of a run's display that moves off the terminal while something else is
        printed.
        """
        from .._watch import Changed, Noticed, Refused, Reloaded, Warned
        from .display import Live

        if isinstance(self.display, Live) and isinstance(
            said, Changed | Noticed | Refused | Reloaded | Warned
        ):
            self.display.live.stop()
            yield
            self.display.live.start()
        else:
            yield

    def say(self, words: str, *, hue: str | None = None, always: bool = False) -> None:
        from .text import echo, paint

        if always or not self.quiet:
            echo(paint(time.strftime("%H:%M:%S"), dim=True), " ", paint(words, hue), err=True)

    def wait(self, said: Any) -> None:
        """Say that watching goes on: on a terminal in a line that goes when something happens,
        elsewhere when there is more or less to watch.
        """
        from .text import plural

        words = f"watching {plural(said.places, 'path')} for changes"
        if not sys.stderr.isatty():
            if said.places != self.places:
                self.say(words)
        elif not self.quiet:
            from rich.console import Console

            self.idle = Console(stderr=True, highlight=False).status(
                f"[dim]{words} · ctrl-c stops[/dim]", spinner="dots", refresh_per_second=2
            )
            self.idle.start()
        self.places = said.places

    def rest(self) -> None:
        if self.idle is not None:
            self.idle.stop()
            self.idle = None

    def stopping(self) -> None:
        if self.display is not None:
            self.display.stopping()

    def close(self) -> None:
        self.rest()
        if self.display is not None:
            self.display.close()
