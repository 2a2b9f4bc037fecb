"""Show a run while it goes: live on a terminal, plain lines elsewhere, JSON lines for other programs.

Progress goes to standard error and results to standard output, so that a run can be piped. A display is fed every event and closed at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..events import (
    Event,
    OutputFailed,
    RunFinished,
    RunStarted,
    StepAbsent,
    StepCached,
    StepDamaged,
    StepFailed,
    StepFinished,
    StepNote,
    StepProgress,
    StepRetried,
    StepSkipped,
    StepStarted,
    as_json,
)
from .streams import NodeOutput
from .text import Painted, clock, echo, echo_json, one_line, paint, plural, safe, seconds, shorten

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["Display", "JsonLines", "Lines", "Live", "Quiet"]


class Display(Protocol):
    """What shows events."""

    def show(self, event: Event) -> None: ...

    def stopping(self) -> None:
        """The user has asked the run to stop."""

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line on standard output, for other programs."""

    def show(self, event: Event) -> None:
        echo_json(as_json(event))

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class Quiet:
    """Failures only."""

    def show(self, event: Event) -> None:
        if line := _line(event, quiet=True):
            echo(*line, err=True)

    def stopping(self) -> None:
        pass

    def close(self) -> None:
        pass


class Repeated:
    """Notes that many elements of a node have in common: shown once, then counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def is_new(self, event: StepNote) -> bool:
        key = (event.node, event.message)
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key] == 1

    def take(self) -> list[tuple[str | Painted, ...]]:
        """Give a line for each that came more than once."""
        lines: list[tuple[str | Painted, ...]] = [(paint(_glyph("!"), "yellow"), f" {node}: {message} (of {count:,} elements)") for (node, message), count in self.counts.items() if count > 1]
        self.counts.clear()
        return lines


class Lines:
    """A line for each step that ran, and one for all that did not need to."""

    def __init__(self) -> None:
        self.cached = 0
        self.repeated = Repeated()

    def show(self, event: Event) -> None:
        if isinstance(event, StepCached):
            self.cached += 1
        elif isinstance(event, StepNote) and not self.repeated.is_new(event):
            pass
        elif line := _line(event):
            self.tell_cached()
            echo(*line, err=True)
        elif isinstance(event, RunFinished):
            self.tell_cached()
            for line in self.repeated.take():
                echo(*line, err=True)

    def tell_cached(self) -> None:
        if self.cached:
            echo(f"  {plural(self.cached, 'step')} from the store", err=True)
            self.cached = 0

    def stopping(self) -> None:
        echo("stopping … (once more to exit at once)", err=True)

    def close(self) -> None:
        pass


#: Mark, colour and words of the events that leave a line behind.
_LINES: dict[type, tuple[str, str, Callable[[Any], str]]] = {
    StepNote: ("!", "yellow", lambda e: f"{_name(e)}: {e.message}"),
    StepFinished: ("✓", "green", lambda e: f"{_name(e)}  {seconds(e.took_s)}"),
    StepFailed: ("✗", "red", lambda e: f"{_name(e)} failed:\n{_indented(_failure(e))}"),
    StepSkipped: ("-", "yellow", lambda e: f"{_name(e)} skipped: {e.because}"),
    StepAbsent: ("-", "", lambda e: f"{_name(e)} absent: {e.because}"),
    StepDamaged: ("!", "yellow", lambda e: f"{_name(e)} runs again: {e.message}"),
    StepRetried: ("!", "yellow", lambda e: f"{_name(e)} tried again (attempt {e.attempt + 1}): {e.message}"),
    OutputFailed: ("✗", "red", lambda e: f"output {e.output}{e.item} is not written:\n{_indented(e.message)}"),
}
_QUIET = (StepFailed, OutputFailed)


def _line(event: Event, *, quiet: bool = False) -> tuple[str | Painted, ...] | None:
    found = _LINES.get(type(event))
    if found is None or (quiet and type(event) not in _QUIET):
        return None
    mark, hue, words = found
    return paint(_glyph(mark), hue or None), f" {words(event)}"


def _name(event: Any) -> str:
    return f"{event.node}{event.item}"


def _failure(event: StepFailed) -> str:
    """Show a failure with its place in the graph where it has one."""
    problem = getattr(event.error, "problem", None)
    if problem is None or problem.mark is None:
        return event.message
    return str(problem)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _glyph(mark: str) -> str:
    """Fall back to plain letters where the terminal's encoding has no better."""
    try:
        mark.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return {"✓": "+", "✗": "x"}.get(mark, mark)
    return mark


class Live:
    """What runs now, with bars and the time left, below a log of what ran.

    Quick steps of a large run are counted, not listed: the log has a line for each only while it can be read.
    """

    #: Above this many steps, only those that took this long get a line.
    MANY = 60
    LONG_S = 0.5

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.running: dict[str, tuple[float, StepProgress | None]] = {}
        self.steps = self.cached = self.ran = self.wrong = 0
        self.head = ""
        self.repeated = Repeated()
        self.stops = False
        self.began: float | None = None
        self.live = RichLive(self, console=self.console, refresh_per_second=8, transient=True, redirect_stdout=False, redirect_stderr=False)

    def show(self, event: Event) -> None:
        from rich.text import Text

        if isinstance(event, RunStarted):
            self.began = _monotonic()
            self.steps, self.head = event.steps, f"{one_line(event.graph)} on {event.device}"
            if isinstance(sys.stdout, NodeOutput):
                sys.stdout.print_above(lambda line: self.console.print(Text(line)))
            self.live.start()
        elif isinstance(event, StepStarted):
            self.running[_name(event)] = (event.at_s, None)
        elif isinstance(event, StepProgress):
            self.running[_name(event)] = (self.running.get(_name(event), (event.at_s, None))[0], event)
        elif isinstance(event, StepCached):
            self.cached += 1
        elif isinstance(event, RunFinished):
            for line in self.repeated.take():
                self.print(line)
            self.close()
        else:
            self.settled(event)

    def settled(self, event: Event) -> None:
        if isinstance(event, StepFinished | StepFailed | StepSkipped | StepAbsent):
            self.running.pop(_name(event), None)
            self.ran += isinstance(event, StepFinished)
            self.wrong += isinstance(event, StepFailed | StepSkipped)
        if isinstance(event, StepFinished | StepAbsent) and self.steps > self.MANY and getattr(event, "took_s", 0) < self.LONG_S:
            return
        if isinstance(event, StepNote) and not self.repeated.is_new(event):
            return
        if line := _line(event):
            self.print(line)

    def print(self, line: tuple[str | Painted, ...]) -> None:
        """Print a line above the part that moves."""
        from rich.text import Text

        self.console.print(Text.assemble(*((safe(part), "") if isinstance(part, str) else (safe(part.text), part.hue or "") for part in line)))

    def stopping(self) -> None:
        self.stops = True

    def close(self) -> None:
        if isinstance(sys.stdout, NodeOutput):
            sys.stdout.print_above(None)
        self.live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw the part that moves: a bar for each running step (the first few), then how far all have come."""
        from rich.text import Text

        now = _monotonic() - (self.began or _monotonic())
        width = options.max_width
        room = max(3, min(8, options.size.height - 4))
        names = min(28, max([8, *map(len, self.running)]))
        for name, (since, progress) in list(self.running.items())[:room]:
            yield Text.assemble("  ", (shorten(one_line(name), names).ljust(names), "bold"), "  ", *_bar(progress, now - since, width - names - 6), no_wrap=True)
        if len(self.running) > room:
            yield Text(f"  and {len(self.running) - room} more")
        said = [f"{self.ran} ran", *([f"{self.cached} from the store"] if self.cached else []), *([f"{self.wrong} failed or skipped"] if self.wrong else [])]
        done = self.ran + self.cached + self.wrong
        text = f"{self.head} · {done} of {max(self.steps, done)} steps · {', '.join(said)} · {clock(now)}"
        if self.stops:
            text = "stopping … (once more to exit at once)"
        yield Text("  " + shorten(text, width - 2), style="yellow" if self.stops else "dim", no_wrap=True)


def _monotonic() -> float:
    import time

    return time.monotonic()


def _bar(progress: StepProgress | None, ran_s: float, width: int) -> list[Any]:
    """Draw a bar, its count and the time left; without progress, how long it has been running."""
    if progress is None or progress.total <= 0:
        return [(clock(ran_s), "dim"), (f"  {one_line(progress.note)}" if progress and progress.note else "", "dim")]
    part = min(1.0, max(0.0, progress.done / progress.total))
    # The first step also loads the model, so a guess after it alone would frighten.
    left = f"{clock(ran_s / part - ran_s)} left" if part and (progress.done > 1 or progress.total == 1) else ""
    words = f"  {progress.done}/{progress.total}  {left}"
    note = f"  {one_line(progress.note)}" if progress.note else ""
    cells = max(8, min(32, width - len(words) - len(note)))
    full = round(part * cells)
    return [("━" * full, "cyan"), ("━" * (cells - full), "bright_black"), words, (note, "dim")]
