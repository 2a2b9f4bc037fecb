"""Watch the calls of a node: what they print, write, send and leave changed."""

from __future__ import annotations

import io
import os
import random
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._types.codec import Codecs
from .._types.node import NodeType
from .._types.values import Progress
from .findings import Finding

__all__ = ["Watch", "watch_process"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Events of the interpreter that change files, and which of their arguments are paths.
_CHANGES = {
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
_SENDS = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)

#: The watch of the call that a thread is in.
_active = threading.local()


def watch_process() -> None:
    """Let the interpreter tell about files and connections. It cannot be undone."""
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    watch: Watch | None = getattr(_active, "watch", None)
    if watch is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes) and (
            (isinstance(flags, int) and flags & _WRITES)
            or (isinstance(mode, str) and set(mode) & set("wax+"))
        ):
            watch.wrote(path)
    elif event in _CHANGES:
        for index in _CHANGES[event]:
            watch.wrote(arguments[index])
    elif event in _SENDS:
        watch.sent(event, arguments)


class Watch:
    """Calls a node's function and looks at what it does besides; a function like the node's.

    Params:
        allowed: folders in which it may write: its scratch folder, and where temporary files go.
        codecs: digest its inputs.
    """

    def __init__(self, type_: NodeType, codecs: Codecs, allowed: tuple[Path, ...]) -> None:
        self.type = type_
        self.codecs = codecs
        self.allowed = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in allowed)
        self.findings: dict[Finding, None] = {}
        #: How often it yielded progress.
        self.yielded = 0
        #: Is set at the next progress, to cancel the run.
        self.stop: threading.Event | None = None
        #: How calls that were closed ended.
        self.closed = 0

    @property
    def function(self) -> Callable[..., Any]:
        """What stands in for the node's function."""
        return self._generate if self.type.is_generator else self._call

    def find(self, rule: str, message: str, fix: str = "") -> None:
        self.findings[Finding(self.type.name, rule, message, fix)] = None

    def wrote(self, path: Any) -> None:
        try:
            told = os.fsdecode(path)
        except TypeError:  # a number that names an open file
            return
        real = os.path.realpath(told)
        if told != os.devnull and not f"{real}{os.sep}".startswith(self.allowed):
            self.find(
                "files",
                f"it writes to {told}",
                "return what it writes as an output, or write to a parameter of the type Scratch",
            )

    def sent(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.type.calls:
            where = next((a for a in arguments if isinstance(a, str | tuple)), "")
            self.find(
                "network",
                f"it connects to {where}",
                f'declare it: @node("{self.type.name}", …, calls="the name of the service")',
            )

    def _call(self, **arguments: Any) -> Any:
        _stir()
        before = self._look(arguments)
        with self._inside():
            result = self.type.function(**arguments)
        self._compare(arguments, before)
        return result

    def _generate(self, **arguments: Any) -> Generator[Progress, None, Any]:
        _stir()
        before = self._look(arguments)
        steps = self.type.function(**arguments)
        done = 0.0
        try:
            while True:
                try:
                    with self._inside():
                        progress = next(steps)
                except StopIteration as end:
                    self._compare(arguments, before)
                    return end.value
                self.yielded += 1
                if isinstance(progress, Progress):
                    if not done <= progress.done <= progress.total:
                        self.find(
                            "progress",
                            f"it yields {progress.done} of {progress.total} after {done:g}",
                            "count up to the total",
                        )
                    done = max(done, progress.done)
                if self.stop is not None:
                    self.stop.set()
                yield progress
        except GeneratorExit:
            self.closed += 1
            try:
                with self._inside():
                    steps.close()
            except Exception as error:
                self.find(
                    "cancel",
                    f"when it is cancelled it raises {type(error).__name__}: {error}",
                    "let GeneratorExit pass: free what you hold in a finally block, and yield"
                    " nothing in it",
                )
            raise

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Watch what happens in this thread."""
        before = sys.stdout
        sys.stdout = printed = io.StringIO()
        _active.watch = self
        try:
            yield
        finally:
            _active.watch = None
            sys.stdout = before
            if text := printed.getvalue().strip():
                self.find(
                    "quiet",
                    f"it prints {text.splitlines()[0][:80]!r}",
                    "yield Progress(done, total, note), or log it",
                )

    def _look(self, arguments: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        ports = {name: value for name, value in arguments.items() if name in self.type.inputs}
        return self._digests(ports), _random_states()

    def _compare(
        self, arguments: Mapping[str, Any], before: tuple[dict[str, str], dict[str, Any]]
    ) -> None:
        """Compare what a call must leave as it was."""
        values, states = before
        now, states_now = self._look(arguments)
        for name, digest in now.items():
            if values.get(name) != digest:
                self.find("inputs", f"it changes its input '{name}'", f"work on a copy of {name}")
        for library, state in states_now.items():
            if library in states and states[library] != state:
                self.find(
                    "random",
                    f"it seeds or draws from the random state of {library}",
                    _OWN_GENERATOR[library],
                )

    def _digests(self, values: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        for name, value in values.items():
            try:
                found[name] = self.codecs.digest(value)
            except (TypeError, ValueError):  # a model, or a record that holds one
                continue
        return found


_OWN_GENERATOR = {
    "random": "use random.Random(seed)",
    "numpy": "use numpy.random.default_rng(seed)",
    "torch": "use torch.Generator().manual_seed(seed)",
}


def _stir() -> None:
    """Draw from each random state, so that a node that seeds one changes it in each call."""
    random.random()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].random()
    if "torch" in sys.modules:
        sys.modules["torch"].rand(1)


def _random_states() -> dict[str, Any]:
    """Give the random states of the process; only of libraries that are imported."""
    found: dict[str, Any] = {"random": random.getstate()}
    if "numpy.random" in sys.modules:
        name, keys, *more = sys.modules["numpy.random"].get_state()
        found["numpy"] = (name, keys.tobytes(), more)
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return found
