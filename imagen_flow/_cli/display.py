"""Show a run while it goes: live on a terminal, plain lines elsewhere, JSON lines for other
programs.

Progress goes to standard error and results to standard output, so that a run can be piped. A
display is fed every event and closed at the end.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
    StepLoading,
    StepNote,
    StepProgress,
    StepRetried,
    StepSkipped,
    StepsKnown,
    StepStarted,
    as_json,
)
from .streams import NodeOutput, results
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

    def show(self, event: Event) -> None:
        if line := _line(event, quiet=True, traceback=self.traceback):
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
        lines: list[tuple[str | Painted, ...]] = [
            (paint(_glyph("!"), "yellow"), f" {node}: {message} (of {count:,} elements)")
            for (node, message), count in self.counts.items()
            if count > 1
        ]
        self.counts.clear()
        return lines


class Progress:
    """How far a run has come, from its events: for what is drawn live, and for the line that is
    printed now and then.
    """

    def __init__(self) -> None:
        self.head = ""
        self.began: float | None = None
        # : How many steps each node has, how many of them are over, and how many of these ran and
        # how long.
        self.expected: dict[str, int] = {}
        self.over: dict[str, int] = {}
        self.took: dict[str, tuple[int, float]] = {}
        #: How long a step of a node took when the graph was run last.
        self.before: dict[str, float] = {}
        #: What runs: since when, how far it has come, and what it waits for.
        self.running: dict[str, Running] = {}
        self.ran = self.cached = self.wrong = 0

    def see(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, RunStarted):
            self.began = _monotonic()
            self.head = f"{one_line(event.graph)} on {event.device}"
            self.expected = dict(event.nodes) or {"": event.steps}
            self.before = {_kind(node): took_s for node, took_s in event.took.items()}
        elif isinstance(event, StepsKnown):
            self.expected[event.node] = event.steps
        elif isinstance(event, StepStarted):
            self.running[_name(event)] = Running(event.node, event.at_s)
        elif isinstance(event, StepProgress | StepLoading):
            at = self.running.setdefault(_name(event), Running(event.node, event.at_s))
            self.running[_name(event)] = (
                at._replace(progress=event)
                if isinstance(event, StepProgress)
                else at._replace(loading=event.what)
            )
        elif isinstance(event, StepCached | StepFinished | StepFailed | StepSkipped | StepAbsent):
            ran = self.running.pop(_name(event), None)
            self.over[event.node] = self.over.get(event.node, 0) + 1
            self.cached += isinstance(event, StepCached)
            self.wrong += isinstance(event, StepFailed | StepSkipped)
            if isinstance(event, StepFinished):
                self.ran += 1
            # One that waited for a model to be loaded says nothing of the next.
            if isinstance(event, StepFinished) and not (ran and ran.loading):
                kind = _kind(event.node)
                count, took_s = self.took.get(kind, (0, 0.0))
                self.took[kind] = (count + 1, took_s + event.took_s)

    def now(self) -> float:
        return _monotonic() - (self.began if self.began is not None else _monotonic())

    def count(self) -> tuple[int, int]:
        """How many steps are over, and how many there are as far as is known."""
        over = sum(self.over.values())
        return over, max(over + len(self.running), sum(self.expected.values()))

    def left(self, now: float) -> tuple[float, bool] | None:
        """Guess how long it will take, by how long steps of a node took in this run or the last;
        and say whether that is all. None where nothing can be said.
        """
        left_s, is_all, says = 0.0, True, False
        waiting: dict[str, int] = {}
        for node, steps in self.expected.items():
            waiting[_kind(node)] = (
                waiting.get(_kind(node), 0) + steps - min(steps, self.over.get(node, 0))
            )
        for running in self.running.values():
            kind = _kind(running.node)
            waiting[kind] = waiting.get(kind, 0) - 1
            if (guess := running.left(now)) is None and (usual_s := self.usual(kind)) is not None:
                guess = max(0.0, usual_s - (now - running.since))
            if guess is None:
                is_all = False
            else:
                left_s, says = left_s + guess, True
        for kind, steps in waiting.items():
            if steps > 0:
                if (usual_s := self.usual(kind)) is not None:
                    left_s, says = left_s + steps * usual_s, True
                else:
                    is_all = False
        return (left_s, is_all) if says else None

    def usual(self, kind: str) -> float | None:
        """How long a step of this kind takes: as in this run, else as in the last."""
        if kind in self.took:
            count, took_s = self.took[kind]
            return took_s / count
        return self.before.get(kind)

    def summary(self, *, now: float | None = None) -> list[str]:
        """Say how far it has come, what matters most first: what does not fit is cut."""
        now = self.now() if now is None else now
        over, steps = self.count()
        said = [f"{over:,} of {plural(steps, 'step')}"]
        left = self.left(now)
        if left is not None and left[0] >= 1:
            said.append(f"{'about' if left[1] else 'at least'} {clock(left[0])} left")
        said.append(clock(now))
        if self.wrong:
            said.append(f"{self.wrong:,} failed or skipped")
        said.append(
            f"{self.ran:,} ran" + (f", {self.cached:,} from the store" if self.cached else "")
        )
        return [*said, self.head]


class Running(NamedTuple):
    """A step that runs."""

    node: str
    since: float
    progress: StepProgress | None = None
    loading: str = ""

    def left(self, now: float) -> float | None:
        """Guess how long it will take by how far it has come."""
        said = self.progress
        # The first step also loads the model, so a guess after it alone would frighten.
        if said is None or said.total <= 0 or said.done <= 0 or (said.done == 1 and said.total > 1):
            return None
        ran_s = now - self.since
        return max(0.0, ran_s / min(1.0, said.done / said.total) - ran_s)

    def words(self, now: float) -> list[str]:
        """Say how far it has come, what matters most first."""
        said = self.progress
        if said is None or said.total <= 0:
            return [
                clock(now - self.since),
                *([f"loading {one_line(self.loading)}"] if self.loading and said is None else []),
            ]
        left = self.left(now)
        return [f"{said.done}/{said.total}", *([f"{clock(left)} left"] if left is not None else [])]


def _kind(node: str) -> str:
    """What steps take about as long as one another: those of a node, in whichever element of the
    graph around it.
    """
    return re.sub(r"\[\d+\]", "", node)


class Lines:
    """A line for each step that ran, and one for all that did not need to; and while nothing ends,
    now and then one that says how far it has come.

    Params:
        silence_s: how long nothing is printed at first; twice as long after each such line, up to
            `LONGEST_S`.
        traceback: show all of what a node raised.
    """

    LONGEST_S = 300.0

    def __init__(self, *, silence_s: float = 15.0, traceback: bool = False) -> None:
        self.traceback = traceback
        self.cached = 0
        self.repeated = Repeated()
        self.progress = Progress()
        self.silence_s = silence_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._over = False
        self._printed = 0
        self._told: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def show(self, event: Event) -> None:
        with self._lock:
            self.progress.see(event)
            if isinstance(event, RunStarted):
                self._thread = threading.Thread(
                    target=self._watch, name="imagen_flow progress", daemon=True
                )
                self._thread.start()
            elif isinstance(event, StepCached):
                self.cached += 1
            elif isinstance(event, StepNote):
                if self.repeated.is_new(event) and (noted := _line(event)) is not None:
                    self._printed += 1
                    echo(*noted, err=True)
            elif isinstance(event, StepLoading):
                if self._told.get(event.what) is None:
                    self._told[event.what] = event.node
                    self.print(f"  {_name(event)}: loading {event.what}")
            elif line := _line(event, traceback=self.traceback):
                self.print(*line)
            elif isinstance(event, RunFinished):
                self.tell_cached()
                for line in self.repeated.take():
                    self.print(*line)
        if isinstance(event, RunFinished):
            self.close()

    def print(self, *line: str | Painted) -> None:
        self.tell_cached()
        self._printed += 1
        echo(*line, err=True)

    def tell_cached(self) -> None:
        if self.cached:
            self._printed += 1
            echo(f"  {plural(self.cached, 'step')} from the store", err=True)
            self.cached = 0

    def _watch(self) -> None:
        """Print how far it has come whenever nothing has been printed for a while."""
        silence_s, printed = self.silence_s, self._printed
        while not self._wake.wait(silence_s):
            with self._lock:
                if self._over:
                    return
                if self._printed != printed:
                    silence_s, printed = self.silence_s, self._printed
                    continue
                now = self.progress.now()
                # The last that began is the likeliest to be waited for.
                running = [
                    f"{one_line(name)} {', '.join(one.words(now))}"
                    for name, one in list(self.progress.running.items())[-1:]
                ]
                self.print("  … ", " · ".join([*self.progress.summary(now=now)[:-1], *running]))
                silence_s, printed = min(self.LONGEST_S, 2 * silence_s), self._printed

    def stopping(self) -> None:
        echo("stopping … (once more to exit at once)", err=True)

    def close(self) -> None:
        with self._lock:
            self._over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


#: Mark, colour and words of the events that leave a line behind.
_LINES: dict[type, tuple[str, str, Callable[[Any], str]]] = {
    StepNote: ("!", "yellow", lambda e: f"{_name(e)}: {e.message}"),
    StepFinished: ("✓", "green", lambda e: f"{_name(e)}  {seconds(e.took_s)}"),
    StepFailed: ("✗", "red", lambda e: f"{_name(e)} failed:\n{_indented(_failure(e))}"),
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
        lambda e: f"output {e.output}{e.item} is not written:\n{_indented(e.message)}",
    ),
}
_QUIET = (StepFailed, OutputFailed)


def _line(
    event: Event, *, quiet: bool = False, traceback: bool = False
) -> tuple[str | Painted, ...] | None:
    found = _LINES.get(type(event))
    if found is None or (quiet and type(event) not in _QUIET):
        return None
    mark, hue, words = found
    more = ""
    if isinstance(event, StepFailed) and traceback:
        more = f"\n{_indented(_traced(event.error))}"
    elif isinstance(event, StepFailed) and event.error.place:
        more = "\n      = fix: --traceback shows how it came to that"
    return paint(_glyph(mark), hue or None), f" {words(event)}{more}"


def _traced(error: BaseException) -> str:
    """Show all of what a node raised."""
    import traceback

    cause = error.__cause__ or error
    return "".join(traceback.format_exception(cause)).rstrip("\n")


def _name(event: Any) -> str:
    return f"{event.node}{event.item}"


def _failure(event: StepFailed) -> str:
    """Show a failure with its place in the graph where it has one."""
    problem = getattr(event.error, "problem", None)
    if problem is None or problem.mark is None:
        return event.message + (
            f"\n  = why: {problem.why}" if problem is not None and problem.why else ""
        )
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

    Quick steps of a large run are counted, not listed: the log has a line for each only while it
    can be read.
    """

    #: Above this many steps, only those that took this long get a line.
    MANY = 60
    LONG_S = 0.5

    def __init__(self, console: Console | None = None, *, traceback: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.traceback = traceback
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.progress = Progress()
        self.repeated = Repeated()
        self.stops = False
        self.live = RichLive(
            self,
            console=self.console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, event: Event) -> None:
        self.progress.see(event)
        if isinstance(event, RunStarted):
            if isinstance(sys.stdout, NodeOutput):
                sys.stdout.print_above(lambda line: self.print((line,)))
            self.live.start()
        elif isinstance(event, RunFinished):
            for counted in self.repeated.take():
                self.print(counted)
            self.close()
        elif (
            isinstance(event, StepFinished | StepAbsent)
            and self.progress.count()[1] > self.MANY
            and getattr(event, "took_s", 0) < self.LONG_S
        ):
            return
        elif isinstance(event, StepNote) and not self.repeated.is_new(event):
            return
        elif line := _line(event, traceback=self.traceback):
            self.print(line)

    def print(self, line: tuple[str | Painted, ...]) -> None:
        """Print a line above the part that moves."""
        from rich.text import Text

        self.console.print(
            Text.assemble(
                *(
                    (safe(part), "") if isinstance(part, str) else (safe(part.text), part.hue or "")
                    for part in line
                )
            )
        )

    def stopping(self) -> None:
        self.stops = True

    def close(self) -> None:
        if isinstance(sys.stdout, NodeOutput):
            sys.stdout.print_above(None)
        self.live.stop()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw the part that moves: a bar for each running step (the first few), then how far all
        have come.
        """
        from rich.text import Text

        now = self.progress.now()
        width = options.max_width
        room = max(3, min(8, options.size.height - 4))
        running = list(self.progress.running.items())
        names = max(8, min(28, width // 3, max([8, *(len(name) for name, _ in running)])))
        for name, one in running[:room]:
            yield Text.assemble(
                "  ",
                (shorten(one_line(name), names).ljust(names), "bold"),
                "  ",
                *_bar(one, now, width - names - 4),
                no_wrap=True,
            )
        if len(running) > room:
            yield Text(f"  and {len(running) - room} more")
        text = (
            "stopping … (once more to exit at once)"
            if self.stops
            else _fitted(self.progress.summary(now=now), width - 2)
        )
        yield Text(
            "  " + shorten(text, width - 2), style="yellow" if self.stops else "dim", no_wrap=True
        )


def _fitted(parts: list[str], width: int) -> str:
    """Join what fits, the first parts first; the last of them may be cut if enough of it is left."""
    text = parts[0]
    for part in parts[1:]:
        room = width - len(text) - 3
        if len(part) > room:
            return f"{text} · {shorten(part, room)}" if part is parts[-1] and room >= 8 else text
        text = f"{text} · {part}"
    return text


def _monotonic() -> float:
    import time

    return time.monotonic()


def _bar(running: Running, now: float, width: int) -> list[Any]:
    """Draw a bar, its count and the time left, in this width; without progress, how long it has
    been running and what it waits for.
    """
    words = "  ".join(running.words(now))
    said = running.progress
    if said is None or said.total <= 0:
        return [(shorten(words, width), "dim")]
    cells = min(32, width - len(words) - 2)
    if cells < 4:
        return [shorten(words, width)]
    full = round(min(1.0, max(0.0, said.done / said.total)) * cells)
    return [("━" * full, "cyan"), ("━" * (cells - full), "bright_black"), f"  {words}"]
