"""Show a run while it goes on: live on a terminal, as plain lines elsewhere, or as JSON lines for
other programs.

Progress goes to standard error and results to standard output, so that a run can be piped. A
display receives every event and is closed at the end.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import printable
from ..events import (
    Event,
    ItemFinished,
    OutputFailed,
    RunFinished,
    RunStarted,
    StepAbsent,
    StepCached,
    StepDamaged,
    StepFailed,
    StepFinished,
    StepLoading,
    StepNote,
    StepProgress,
    StepRetried,
    StepSkipped,
    StepsKnown,
    StepStarted,
    as_json,
    step_title,
)
from .streams import NodeOutput, results
from .text import (
    Painted,
    echo,
    echo_json,
    format_clock,
    format_seconds,
    one_line,
    paint,
    plural,
    shorten,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["Display", "JsonLines", "Lines", "Live", "Quiet"]


class Display(Protocol):
    """Something that shows the events of a run."""

    def show(self, event: Event) -> None: ...

    def stopping(self) -> None:
        """Show that the user has asked the run to stop."""

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line on standard output, for other programs."""

    def __init__(self) -> None:
        self.stream = results()

    def show(self, event: Event) -> None:
        echo_json(as_json(event), stream=self.stream)

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class Quiet:
    """Failures only."""

    def __init__(self, *, traceback: bool = False) -> None:
        self.traceback = traceback
        self.repeated_failures = RepeatedFailures()

    def show(self, event: Event) -> None:
        if self.repeated_failures.is_repeated(event):
            return
        if line := _line(event, quiet=True, traceback=self.traceback):
            echo(*line, err=True)

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class RepeatedFailures:
    """Failures that many items of a sweep have in common: shown once. All failed items are listed at
    the end.
    """

    #: So many different failures are shown.
    MOST = 20

    def __init__(self) -> None:
        self._is_sweep = False
        self._seen: set[tuple[str, str]] = set()

    def is_repeated(self, event: Event) -> bool:
        """Tell whether an event need not be shown again."""
        if isinstance(event, RunStarted):
            self._is_sweep = bool(event.items)
        if not self._is_sweep or not isinstance(event, StepFailed | OutputFailed):
            return False
        place = event.node if isinstance(event, StepFailed) else event.output
        key = (place, event.message)
        if key in self._seen or len(self._seen) >= self.MOST:
            return True
        self._seen.add(key)
        return False


class RepeatedNotes:
    """Notes that several elements of a node have in common: printed once, then counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def is_new(self, event: StepNote) -> bool:
        key = (event.node, event.message)
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key] == 1

    def take_summary(self) -> list[tuple[str | Painted, ...]]:
        """Return a line for each note that came more than once, and reset the counts."""
        lines: list[tuple[str | Painted, ...]] = [
            (paint(_printable_symbol("!"), "yellow"), f" {node}: {message} (of {count:,} elements)")
            for (node, message), count in self.counts.items()
            if count > 1
        ]
        self.counts.clear()
        return lines


class Progress:
    """The progress of a run, derived from its events."""

    def __init__(self) -> None:
        self.title = ""
        self.started_at: float | None = None
        #: By node: how many steps it has and how many of them have ended.
        self.total_steps: dict[str, int] = {}
        self.finished_steps: dict[str, int] = {}
        #: How many steps of a node ran, and their seconds altogether.
        self.durations: dict[str, tuple[int, float]] = {}
        #: Seconds per step in the previous run, by node.
        self.previous_durations: dict[str, float] = {}
        #: The steps that are running, by name.
        self.running: dict[str, RunningStep] = {}
        self.ran = self.cached = self.failed = 0
        #: In a sweep: how many items it has, and how many of them have ended and failed.
        self.items = self.ended_items = self.failed_items = 0
        #: When the first step began to run, and how many items had ended by then.
        self.first_step: tuple[float, int] | None = None

    def update(self, event: Event) -> None:
        """Update the counts from an event."""
        if isinstance(event, RunStarted):
            self.started_at = _monotonic()
            self.title = f"{one_line(event.graph)} on {event.device}"
            self.items = event.items
            self.total_steps = dict(event.nodes) or {"": event.steps}
            self.previous_durations = {
                _without_indices(node): took_s for node, took_s in event.took.items()
            }
        elif isinstance(event, StepsKnown):
            self.total_steps[event.node] = event.steps
        elif isinstance(event, ItemFinished):
            self.ended_items += 1
            self.failed_items += event.status == "failed"
        elif isinstance(event, StepStarted):
            if self.first_step is None:
                self.first_step = event.at_s, self.ended_items
            self.running[_name(event)] = RunningStep(event.node, event.at_s)
        elif isinstance(event, StepProgress | StepLoading):
            step = self.running.setdefault(_name(event), RunningStep(event.node, event.at_s))
            self.running[_name(event)] = (
                step._replace(progress=event)
                if isinstance(event, StepProgress)
                else step._replace(loading=event.what)
            )
        elif isinstance(event, StepCached | StepFinished | StepFailed | StepSkipped | StepAbsent):
            ended = self.running.pop(_name(event), None)
            self.finished_steps[event.node] = self.finished_steps.get(event.node, 0) + 1
            self.cached += isinstance(event, StepCached)
            self.failed += isinstance(event, StepFailed | StepSkipped)
            if isinstance(event, StepFinished):
                self.ran += 1
            # A step that waited for a model to load does not predict the next one.
            if isinstance(event, StepFinished) and not (ended and ended.loading):
                node = _without_indices(event.node)
                count, took_s = self.durations.get(node, (0, 0.0))
                self.durations[node] = (count + 1, took_s + event.took_s)

    def elapsed(self) -> float:
        """Return how many seconds the run has been going on."""
        return _monotonic() - self.started_at if self.started_at is not None else 0.0

    def counts(self) -> tuple[int, int]:
        """Return how many steps have ended, and how many there are as far as is known."""
        ended = sum(self.finished_steps.values())
        return ended, max(ended + len(self.running), sum(self.total_steps.values()))

    def remaining(self, elapsed: float) -> tuple[float, bool] | None:
        """Estimate the seconds left, from how long steps of each node took in this run or in the
        previous one. The second value is False if some nodes could not be estimated, so that it
        will take longer; None if none could be. In a sweep, estimate it from the items that ended
        since the first step ran: those before came from the store.
        """
        if self.items:
            began_at, ended_before = self.first_step or (elapsed, self.ended_items)
            ended = self.ended_items - ended_before
            left = self.items - self.ended_items
            return (left * (elapsed - began_at) / ended, True) if ended and left else None
        estimates: list[float | None] = []
        waiting: dict[str, int] = {}
        for name, steps in self.total_steps.items():
            node = _without_indices(name)
            ended = min(steps, self.finished_steps.get(name, 0))
            waiting[node] = waiting.get(node, 0) + steps - ended
        for step in self.running.values():
            node = _without_indices(step.node)
            waiting[node] = waiting.get(node, 0) - 1
            estimate, typical_s = step.remaining(elapsed), self.typical_step_s(node)
            if estimate is None and typical_s is not None:
                estimate = max(0.0, typical_s - (elapsed - step.started_at))
            estimates.append(estimate)
        for node, steps in waiting.items():
            if steps > 0:
                typical_s = self.typical_step_s(node)
                estimates.append(None if typical_s is None else steps * typical_s)
        known = [estimate for estimate in estimates if estimate is not None]
        return (sum(known), len(known) == len(estimates)) if known else None

    def typical_step_s(self, node: str) -> float | None:
        """Return how long a step of a node takes: on average in this run, else in the previous."""
        if node in self.durations:
            count, took_s = self.durations[node]
            return took_s / count
        return self.previous_durations.get(node)

    def summary(self, *, elapsed: float | None = None) -> list[str]:
        """Describe the progress, the most important parts first: what does not fit is cut."""
        elapsed = self.elapsed() if elapsed is None else elapsed
        ended, steps = self.counts()
        parts = [
            f"{self.ended_items:,} of {plural(self.items, 'item')}"
            if self.items
            else f"{ended:,} of {plural(steps, 'step')}"
        ]
        remaining = self.remaining(elapsed)
        if remaining is not None and remaining[0] >= 1:
            left_s, is_complete = remaining
            parts.append(f"{'about' if is_complete else 'at least'} {format_clock(left_s)} left")
        parts.append(format_clock(elapsed))
        if self.items:
            if self.failed_items:
                parts.append(f"{self.failed_items:,} failed")
        elif self.failed:
            parts.append(f"{self.failed:,} failed or skipped")
        ran = plural(self.ran, "step") if self.items else f"{self.ran:,}"
        parts.append(f"{ran} ran" + (f", {self.cached:,} from the store" if self.cached else ""))
        return [*parts, self.title]


class RunningStep(NamedTuple):
    """A step that is running, and what is known of its progress."""

    node: str
    started_at: float
    progress: StepProgress | None = None
    loading: str = ""

    def remaining(self, elapsed: float) -> float | None:
        """Estimate the seconds left from the step's own progress."""
        progress = self.progress
        if progress is None or progress.total <= 0 or progress.done <= 0:
            return None
        # The first step also loads the model, so an estimate from it alone would be far too long.
        if progress.done == 1 and progress.total > 1:
            return None
        ran_s = elapsed - self.started_at
        return max(0.0, ran_s / min(1.0, progress.done / progress.total) - ran_s)

    def summary(self, elapsed: float) -> list[str]:
        """Describe the step's progress, the most important parts first."""
        progress = self.progress
        if progress is None or progress.total <= 0:
            parts = [format_clock(elapsed - self.started_at)]
            if self.loading and progress is None:
                parts.append(f"loading {one_line(self.loading)}")
            return parts
        parts = [f"{progress.done}/{progress.total}"]
        if progress.status:
            parts.append(one_line(progress.status))
        if (left_s := self.remaining(elapsed)) is not None:
            parts.append(f"{format_clock(left_s)} left")
        return parts


def _without_indices(node: str) -> str:
    """Return a node's name without the indices of the elements around it: these take about as long
    as one another.
    """
    return re.sub(r"\[\d+\]", "", node)


class Lines:
    """A line for each step that ran and one line for all cached steps. If nothing ends for a while,
    a progress line is printed now and then.

    Params:
        silence_s: how long nothing is printed before the first progress line; the wait doubles
            after each, up to `LONGEST_S`.
        traceback: print the traceback of a failed node.
    """

    LONGEST_S = 300.0

    #: The same in a sweep, and how many items it may have to have a line for each step.
    LONGEST_SWEEP_S = 60.0
    MANY_ITEMS = 12

    def __init__(self, *, silence_s: float = 15.0, traceback: bool = False) -> None:
        self.traceback = traceback
        self.cached = 0
        self.repeated_notes = RepeatedNotes()
        self.repeated_failures = RepeatedFailures()
        self.progress = Progress()
        self.silence_s = silence_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._printed = 0
        self._announced_models: set[str] = set()
        self._thread: threading.Thread | None = None

    def show(self, event: Event) -> None:
        with self._lock:
            self.progress.update(event)
            is_repeated = self.repeated_failures.is_repeated(event)
            if isinstance(event, RunStarted):
                self._thread = threading.Thread(
                    target=self._print_progress, name="imagen_flow progress", daemon=True
                )
                self._thread.start()
            elif isinstance(event, StepCached):
                self.cached += 1
            elif is_repeated or (
                self.progress.items > self.MANY_ITEMS
                and isinstance(event, StepFinished | StepAbsent | StepSkipped)
            ):
                pass
            elif isinstance(event, StepNote):
                if self.repeated_notes.is_new(event) and (line := _line(event)) is not None:
                    self._printed += 1
                    echo(*line, err=True)
            elif isinstance(event, StepLoading):
                if event.what not in self._announced_models:
                    self._announced_models.add(event.what)
                    self.print(f"  {_name(event)}: loading {event.what}")
            elif line := _line(event, traceback=self.traceback):
                self.print(*line)
            elif isinstance(event, RunFinished):
                self.print_cached()
                for line in self.repeated_notes.take_summary():
                    self.print(*line)
        if isinstance(event, RunFinished):
            self.close()

    def print(self, *line: str | Painted) -> None:
        self.print_cached()
        self._printed += 1
        echo(*line, err=True)

    def print_cached(self) -> None:
        if self.cached and not self.progress.items:
            self._printed += 1
            echo(f"  {plural(self.cached, 'step')} from the store", err=True)
            self.cached = 0

    def _print_progress(self) -> None:
        """Print the progress whenever nothing has been printed for a while."""
        silence_s, printed = self.silence_s, self._printed
        while not self._wake.wait(silence_s):
            with self._lock:
                if self._closed:
                    return
                if self._printed != printed:
                    silence_s, printed = self.silence_s, self._printed
                    continue
                elapsed = self.progress.elapsed()
                # The step that started last is most likely the one being waited for.
                running = [
                    f"{one_line(name)} {', '.join(step.summary(elapsed))}"
                    for name, step in list(self.progress.running.items())[-1:]
                ]
                self.print(
                    "  … ", " · ".join([*self.progress.summary(elapsed=elapsed)[:-1], *running])
                )
                longest_s = self.LONGEST_SWEEP_S if self.progress.items else self.LONGEST_S
                silence_s, printed = min(longest_s, 2 * silence_s), self._printed

    def stopping(self) -> None:
        echo("stopping … (interrupt again to exit at once)", err=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


#: Symbol, colour and text of each event that is printed.
_LINES: dict[type, tuple[str, str, Callable[[Any], str]]] = {
    StepNote: ("!", "yellow", lambda e: f"{_name(e)}: {e.message}"),
    StepFinished: ("✓", "green", lambda e: f"{_name(e)}  {format_seconds(e.took_s)}"),
    StepFailed: ("✗", "red", lambda e: f"{_name(e)} failed:\n{_indented(_describe_failure(e))}"),
    StepSkipped: ("-", "yellow", lambda e: f"{_name(e)} skipped: {e.because}"),
    StepAbsent: ("-", "", lambda e: f"{_name(e)} absent: {e.because}"),
    StepDamaged: ("!", "yellow", lambda e: f"{_name(e)} runs again: {e.message}"),
    StepRetried: (
        "!",
        "yellow",
        lambda e: f"{_name(e)} tried again (attempt {e.attempt + 1}): {e.message}",
    ),
    OutputFailed: (
        "✗",
        "red",
        lambda e: f"output {step_title(e.output, e.item)} is not written:\n{_indented(e.message)}",
    ),
}
_QUIET = (StepFailed, OutputFailed)


def _line(
    event: Event, *, quiet: bool = False, traceback: bool = False
) -> tuple[str | Painted, ...] | None:
    style = _LINES.get(type(event))
    if style is None or (quiet and type(event) not in _QUIET):
        return None
    symbol, hue, describe = style
    details = ""
    if isinstance(event, StepFailed) and traceback:
        details = f"\n{_indented(_format_traceback(event.error))}"
    elif isinstance(event, StepFailed) and event.error.raised_at:
        details = "\n      = fix: pass --traceback to see the calls that led to it"
    return paint(_printable_symbol(symbol), hue or None), f" {describe(event)}{details}"


def _format_traceback(error: BaseException) -> str:
    """Format the exception that a node raised, with its causes."""
    import traceback

    cause = error.__cause__ or error
    return "".join(traceback.format_exception(cause)).rstrip("\n")


def _name(event: Any) -> str:
    return step_title(event.node, event.item, getattr(event, "about", ""))


def _describe_failure(event: StepFailed) -> str:
    """Describe a failure, with its position in the graph if it has one."""
    problem = getattr(event.error, "problem", None)
    if problem is None or problem.mark is None:
        return event.message + (
            f"\n  = why: {problem.why}" if problem is not None and problem.why else ""
        )
    return str(problem)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _printable_symbol(symbol: str) -> str:
    """Return a symbol, or an ASCII letter if the terminal's encoding lacks it."""
    try:
        symbol.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return {"✓": "+", "✗": "x"}.get(symbol, symbol)
    return symbol


class Live:
    """The running steps with progress bars and the time left, below a log of the steps that ran.

    In a large run, quick steps are counted but not logged, so that the log stays readable.
    """

    #: In runs of more steps than this, only those that took at least `LONG_S` are logged.
    MANY_STEPS = 60
    LONG_S = 0.5

    def __init__(self, console: Console | None = None, *, traceback: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.traceback = traceback
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.progress = Progress()
        self.repeated_notes = RepeatedNotes()
        self.repeated_failures = RepeatedFailures()
        self.is_stopping = False
        self.live = RichLive(
            self,
            console=self.console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, event: Event) -> None:
        self.progress.update(event)
        if self.repeated_failures.is_repeated(event):
            return
        if isinstance(event, RunStarted):
            if isinstance(sys.stdout, NodeOutput):
                sys.stdout.set_line_printer(lambda line: self.print((line,)))
            self.live.start()
        elif isinstance(event, RunFinished):
            for note in self.repeated_notes.take_summary():
                self.print(note)
            self.close()
        elif (
            isinstance(event, StepFinished | StepAbsent | StepSkipped)
            and max(self.progress.counts()[1], self.progress.items) > self.MANY_STEPS
            and getattr(event, "took_s", 0) < self.LONG_S
        ):
            return
        elif isinstance(event, StepNote) and not self.repeated_notes.is_new(event):
            return
        elif line := _line(event, traceback=self.traceback):
            self.print(line)

    def print(self, line: tuple[str | Painted, ...]) -> None:
        """Print a line above the live part."""
        from rich.text import Text

        self.console.print(
            Text.assemble(
                *(
                    (printable(part), "")
                    if isinstance(part, str)
                    else (printable(part.text), part.hue or "")
                    for part in line
                )
            )
        )

    def stopping(self) -> None:
        self.is_stopping = True

    def close(self) -> None:
        if isinstance(sys.stdout, NodeOutput):
            sys.stdout.set_line_printer(None)
        self.live.stop()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw the live part: a bar for each of the first running steps, then the progress of the
        run.
        """
        from rich.text import Text

        elapsed = self.progress.elapsed()
        width = options.max_width
        max_steps = max(3, min(8, options.size.height - 4))
        running = list(self.progress.running.items())
        name_width = max(8, min(28, width // 3, max([8, *(len(name) for name, _ in running)])))
        for name, step in running[:max_steps]:
            yield Text.assemble(
                "  ",
                (shorten(one_line(name), name_width).ljust(name_width), "bold"),
                "  ",
                *_bar(step, elapsed, width - name_width - 4),
                no_wrap=True,
            )
        if len(running) > max_steps:
            yield Text(f"  and {len(running) - max_steps} more")
        text = (
            "stopping … (interrupt again to exit at once)"
            if self.is_stopping
            else _join_to_width(self.progress.summary(elapsed=elapsed), width - 2)
        )
        yield Text(
            "  " + shorten(text, width - 2),
            style="yellow" if self.is_stopping else "dim",
            no_wrap=True,
        )


def _join_to_width(parts: list[str], width: int) -> str:
    """Join the first parts that fit; the last part may be cut if enough of it remains."""
    text = parts[0]
    for part in parts[1:]:
        space = width - len(text) - 3
        if len(part) > space:
            return f"{text} · {shorten(part, space)}" if part is parts[-1] and space >= 8 else text
        text = f"{text} · {part}"
    return text


def _monotonic() -> float:
    import time

    return time.monotonic()


def _bar(running: RunningStep, elapsed: float, width: int) -> list[Any]:
    """Draw a step's bar, count and time left in this width; without progress, how long it has been
    running and what it waits for.
    """
    summary = "  ".join(running.summary(elapsed))
    progress = running.progress
    if progress is None or progress.total <= 0:
        return [(shorten(summary, width), "dim")]
    cells = min(32, width - len(summary) - 2)
    if cells < 4:
        return [shorten(summary, width)]
    full = round(min(1.0, max(0.0, progress.done / progress.total)) * cells)
    return [("━" * full, "cyan"), ("━" * (cells - full), "bright_black"), f"  {summary}"]
