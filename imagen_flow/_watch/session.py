"""Keep the results of graphs up to date: run them again when something they depend on has changed.

The thread that iterates makes all decisions. Two others feed it through one queue: changes on the
disk (`Changes`), and the events of the current run. Registry, store, parsed graphs and loaded
models stay in the process between runs, so that between a save and the next run there is only
reading the graph and querying the store. What a change affects is found by planning again: equal
work has equal keys.

- **A change during a run** (`on_change`): *restart* plans at once, and stops the run as soon as it
  works on a step that the new plan does not have; a step that is still wanted may finish. *queue*
  lets the run end. Either way, the next run uses the newest files.
- **If a graph cannot be run** (a problem in it, a missing file, a plugin that cannot be imported),
  that is reported, and the watcher waits for a fix. A current run goes on; no output is removed.
- **Own outputs** never start a run of the graph that wrote them as long as they are unchanged,
  judged by path, size and time. They do start a run of *another* graph that reads them. An output
  that lands in a folder which its own graph reads causes one warning: the next run, whatever starts
  it, reads it as an input. Files of the store never count.
- **A random seed** is drawn once and then kept, so that a run shows the effect of the change.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .._models import ModelPool
from .._plan import Plan
from .._plan.request import USERS_STORE, Options, given_path
from .._run import Run, execute
from .._store import Store
from ..errors import GraphError, ImagenFlowError, Problem, StoreError
from ..events import OutputWritten, RunFinished, StepFailed, StepFinished, StepStarted
from .environments import Environments
from .events import Changed, Noticed, Planned, Refused, Waiting, Warned, WatchEvent
from .planner import OnChange, Planner, WatchRequest
from .settled import Changes
from .targets import Target, relative, store_problems

__all__ = ["watch", "watch_graphs"]


def watch(
    graphs: str | Path | Sequence[str | Path],
    inputs: Mapping[str, Any] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    store: Store | str | Path | None = USERS_STORE,
    device: str | None = None,
    dtype: str | None = None,
    batch: str | int | None = None,
    force: Iterable[str] | str = (),
    plugins: Iterable[str | Path] | str | Path = (),
    locked: bool = False,
    tiny: bool = False,
    allow_pickle: Iterable[str | Path] | str | Path = (),
    trust_remote_code: Iterable[str] | str = (),
    on_change: OnChange = "restart",
    settle_s: float = 0.1,
    poll: bool = False,
    poll_s: float = 1.0,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[WatchEvent]:
    """Run graphs, and run them again whenever something they depend on changes: a graph, one that
    it includes, a file, folder or local model that it reads, the settings, or the code of a plugin.
    Ends when `cancel` is set.

    ::

        for event in flow.watch("graphs/imagen.yaml", out="out"):
            if isinstance(event, OutputWritten):
                show(event.value)

    Params:
        graphs: one graph file or several; each input goes to the graphs that have it.
        inputs, texts: values of inputs, as objects or as text (as ``--set`` gives them).
        out: the output folder; None writes nothing.
        replace: where a graph says ``exists: replace``, also overwrite files, folders and models
            that no run wrote.
        store: an open Store, its folder, or None for a temporary store.
        batch: as for `plan`.
        force: nodes that run the first time even if their results are in the store.
        locked, tiny, allow_pickle, trust_remote_code: as for `plan`.
        on_change: what to do with a run when what it depends on changes: ``restart`` or ``queue``.
        settle_s: how long to wait for further changes after one.
        poll, poll_s: poll every `poll_s` instead of waiting for file system events; network shares
            need this.
        pool: a pool of loaded models to share; by default, one for this call.
    Raises:
        GraphError: a graph file does not exist.
        StoreError: the store cannot be opened.
    """
    paths = [graphs] if isinstance(graphs, str | Path) else list(graphs)
    options = Options.of(
        device=device,
        dtype=dtype,
        batch=batch,
        force=force,
        store=store,
        plugins=plugins,
        locked=locked,
        tiny=tiny,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return watch_graphs(
        [Path(path) for path in paths],
        options,
        inputs=inputs or {},
        texts=texts or {},
        out=given_path("out", out) if out is not None else None,
        may_replace=replace,
        on_change=on_change,
        settle_s=settle_s,
        poll=poll,
        poll_s=poll_s,
        fail_fast=fail_fast,
        pool=pool,
        cancel=cancel,
    )


def watch_graphs(
    paths: Sequence[Path],
    options: Options,
    *,
    inputs: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    out: Path | None = None,
    default_out: Path | None = None,
    may_replace: bool = False,
    on_change: OnChange = "restart",
    settle_s: float = 0.1,
    poll: bool = False,
    poll_s: float = 1.0,
    fail_fast: bool = False,
    pool: ModelPool | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[WatchEvent]:
    """Watch graphs with these options, for `watch` and for the command line.

    Params:
        out: the output folder.
        default_out: the output folder if neither `out` nor ``imagen-flow.toml`` names one. If None,
            nothing is written without `out`, whatever the settings say.
        may_replace: where a graph says ``exists: replace``, also overwrite files, folders and
            models that no run wrote.
        (the others as for `watch`)
    Raises:
        GraphError: a graph file does not exist.
        StoreError: the store cannot be opened.
    """
    missing = [
        Problem(
            "unreadable",
            (
                f"'{path}' does not exist"
                if not path.exists()
                else f"'{path}' is a folder, not a graph file"
            ),
        )
        for path in paths
        if not path.is_file()
    ]
    if missing or not paths:
        raise GraphError(missing or [Problem("unreadable", "no graph to watch")])
    request = WatchRequest(
        options, inputs or {}, texts or {}, out, default_out, may_replace, on_change, fail_fast
    )
    return _Session(
        paths,
        request,
        pool,
        cancel or threading.Event(),
        settle_s=settle_s,
        poll=poll,
        poll_s=poll_s,
    ).events()


#: Stands in the queue for the end of watching.
_END = object()

#: How many events of a run may wait in the queue.
_MAX_QUEUED = 1000


class _Session:
    """Watches graphs until it is cancelled."""

    def __init__(
        self,
        paths: Sequence[Path],
        request: WatchRequest,
        pool: ModelPool | None,
        cancel: threading.Event,
        *,
        settle_s: float,
        poll: bool,
        poll_s: float,
    ) -> None:
        self.request = request
        self.targets = [
            Target(path.absolute(), str(path), {path.absolute()}) for path in dict.fromkeys(paths)
        ]
        self.cancel = cancel
        self.base = Path.cwd()
        self.started_at = time.monotonic()
        #: Sets of changed paths, watch events, events of the current run, and exceptions.
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.changes = Changes(
            settle_s=settle_s,
            poll=poll,
            poll_s=poll_s,
            cancel=cancel,
            ignore=self.is_in_store,
            hint=self.read_ahead,
            notice=lambda message: self.queue.put(Noticed(message, self.now())),
        )
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="imagen_flow reads ahead")
        self.environments = Environments(
            request.options, self.targets, pool, follow=self.follow, now=self.now
        )
        self.planner = Planner(request, self.targets, follow=self.follow, base=self.base)
        self.followed: set[Path] = set()
        #: Stores inside folders that are watched.
        self.store_folders: tuple[str, ...] = ()

    def now(self) -> float:
        return time.monotonic() - self.started_at

    def events(self) -> Iterator[WatchEvent]:
        """Run the graphs, and again after changes, until watching ends."""
        forwarder = threading.Thread(
            target=self.forward_changes, name="imagen_flow watch", daemon=True
        )
        with ExitStack() as stack:
            stack.callback(self.close)
            sys.meta_path.insert(0, self.environments.fresh_modules)
            stack.callback(sys.meta_path.remove, self.environments.fresh_modules)
            self.follow()
            forwarder.start()
            pending, is_waiting = list(self.targets), False
            while not self.cancel.is_set():
                while pending and not self.cancel.is_set():
                    is_waiting = False
                    for more in self.renew(pending.pop(0)):
                        if not isinstance(more, Target):
                            yield more
                        elif more not in pending:
                            pending.append(more)
                if self.cancel.is_set():
                    return
                if not is_waiting and self.queue.empty():
                    is_waiting = True
                    names = tuple(target.name for target in self.targets)
                    yield Waiting(names, len(self.followed), self.now())
                message = self.queue.get()
                if message is _END:
                    return
                if isinstance(message, BaseException):
                    raise message
                if isinstance(message, Noticed):
                    yield message
                elif affected := self.affected(message):
                    yield self.changed(affected, cancels=False)
                    pending = [target for target in self.targets if target in affected]

    def close(self) -> None:
        self.changes.close()
        self.reader.shutdown(cancel_futures=True)
        self.environments.close()

    def forward_changes(self) -> None:
        """Put changes into the queue, in a thread of its own."""
        try:
            for paths in self.changes:
                self.queue.put(paths)
        except BaseException as error:
            self.queue.put(error)
        self.queue.put(_END)

    def read_ahead(self, path: Path) -> None:
        """Start parsing a changed graph while its changes settle: between a save and a run, parsing
        takes the longest.
        """
        if any(path in target.graph_files for target in self.targets):
            self.reader.submit(self.planner.graph_files.reread, path)

    # -- what a change affects

    def follow(self, more: Iterable[Path] = ()) -> None:
        """Watch all paths that are known to matter."""
        paths = {path for target in self.targets for path in (*target.graph_files, *target.inputs)}
        paths |= self.environments.paths() | {path.absolute() for path in more}
        stores = {
            os.path.realpath(environment.store.folder) + os.sep
            for environment in self.environments
            if environment.store is not None
        }
        folders = tuple(os.path.realpath(path) + os.sep for path in paths)
        self.store_folders = tuple(sorted(store for store in stores if store.startswith(folders)))
        if paths != self.followed:
            self.changes.follow(sorted(paths))
            self.followed = paths

    def is_in_store(self, path: Path) -> bool:
        """Return whether a path lies in a store inside a folder that is watched."""
        return bool(self.store_folders) and (os.path.realpath(path) + os.sep).startswith(
            self.store_folders
        )

    def affected(self, paths: Iterable[Path]) -> dict[Target, list[Path]]:
        """Return the graphs that depend on changed paths, each with these paths. Note which plugins
        and settings have changed.
        """
        affected: dict[Target, list[Path]] = {}
        for path in paths:
            changed = {one: one.note_change(path) for one in self.environments}
            for target in self.targets:
                names = changed.get(target.environment, set()) if target.environment else set()
                if target.depends_on(path, names):
                    affected.setdefault(target, []).append(path)
        return affected

    def changed(self, affected: Mapping[Target, list[Path]], *, cancels: bool) -> Changed:
        paths = {relative(path, self.base) for paths in affected.values() for path in paths}
        graphs = tuple(target.name for target in self.targets if target in affected)
        return Changed(tuple(sorted(paths)), graphs, cancels, self.now())

    # -- running a graph

    def renew(self, target: Target) -> Iterator[WatchEvent | Target]:
        """Plan a graph and run it. Yields events, and the graphs that have to be renewed next."""
        try:
            yield from self.environments.update(target)
            plan = self.planner.plan(target)
        except ImagenFlowError as error:
            if isinstance(error, StoreError) and target.environment is None:
                raise  # no change of a watched file can fix this
            yield self.refused(target, error)
            return
        except OSError as error:  # a file disappeared, which will be reported as a change
            yield self.refused(target, ImagenFlowError(str(error)))
            return
        problems = [*plan.problems, *store_problems(target, self.base)]
        if errors := [problem for problem in problems if problem.severity == "error"]:
            yield Refused(target.name, tuple(errors), None, self.now())
            return
        if new := [problem for problem in problems if str(problem) not in target.warned]:
            target.warned |= {str(problem) for problem in new}
            yield Warned(tuple(new), self.now())
        yield Planned(target.name, plan, self.now())
        yield from _WatchedRun(self, target, plan).follow()

    def refused(self, target: Target, error: ImagenFlowError) -> Refused:
        problems = tuple(error.problems) if isinstance(error, GraphError) else ()
        return Refused(target.name, problems, None if problems else error, self.now())


class _WatchedRun:
    """The run of a plan, followed until it ends or until its current steps are no longer wanted."""

    def __init__(self, session: _Session, target: Target, plan: Plan) -> None:
        self.session = session
        self.target = target
        self.stop = threading.Event()
        self.run: Run = execute(
            plan,
            out=target.out,
            cancel=self.stop,
            pool=session.environments.pool,
            fail_fast=session.request.fail_fast,
        )
        self.restarts = session.request.on_change == "restart"
        #: The steps that are running, by node and item.
        self.running: dict[tuple[str, str], None] = {}
        #: Changed paths that may be outputs of this run.
        self.possible_outputs: list[Path] = []
        #: Whether the graph has changed since the run began, and can still be planned.
        self.is_outdated = False
        self.is_over = False

    def follow(self) -> Iterator[WatchEvent | Target]:
        """Yield the run's events, reacting to changes, and the graphs to renew after it."""
        session, target = self.session, self.target
        thread = threading.Thread(
            target=self._forward_events, name="imagen_flow watched run", daemon=True
        )
        thread.start()
        try:
            while not self.is_over:
                message = session.queue.get()
                if message is _END:
                    self.stop.set()
                elif isinstance(message, frozenset):
                    yield from self._react_to_changes(message)
                elif isinstance(message, ImagenFlowError):
                    yield session.refused(target, message)
                    self.is_over = True
                elif isinstance(message, BaseException):
                    raise message
                else:
                    yield message
                    yield from self._handle_event(message)
        finally:
            self.stop.set()
            thread.join(5)
        if target.environment is not None and target.environment.store is not None:
            for warning in target.environment.store.take_warnings():
                yield Noticed(warning, session.now())
        # Only now is it known which of the new files in the output folder the run itself wrote.
        if affected := session.affected(self.possible_outputs):
            yield session.changed(affected, cancels=False)
        yield from affected
        if self.is_outdated and target not in affected:
            yield target

    def _forward_events(self) -> None:
        """Put the run's events into the queue, in a thread of its own."""
        queue = self.session.queue
        try:
            for event in self.run:
                queue.put(event)
                # Wait for a slow reader: the run goes on and merges its progress events.
                while queue.qsize() > _MAX_QUEUED and not self.stop.is_set():
                    time.sleep(0.01)
        except BaseException as error:
            queue.put(error)

    def _react_to_changes(self, paths: frozenset[Path]) -> Iterator[WatchEvent | Target]:
        session, target = self.session, self.target
        possible_outputs = {path for path in paths if self._may_be_output(path)}
        self.possible_outputs += possible_outputs
        affected = session.affected(paths - possible_outputs)
        refused: Refused | None = None
        if target in affected:
            if self.restarts and not self.stop.is_set():
                wanted, refused = self._is_still_wanted()
                if not wanted:
                    self.stop.set()
            self.is_outdated = refused is None
        if affected:
            yield session.changed(affected, cancels=target in affected and self.stop.is_set())
        if refused is not None:
            yield refused
        yield from (other for other in affected if other is not target)

    def _handle_event(self, event: WatchEvent) -> Iterator[Warned]:
        target = self.target
        if isinstance(event, StepStarted):
            self.running[event.node, event.item] = None
            if (
                self.is_outdated
                and self.restarts
                and not self.stop.is_set()
                and not self._is_still_wanted()[0]
            ):
                self.stop.set()
        elif isinstance(event, StepFinished | StepFailed):
            self.running.pop((event.node, event.item), None)
        elif isinstance(event, OutputWritten) and event.path is not None:
            path = Path(event.path)
            target.add_written(path)
            if problems := target.output_problems(event.output, path, self.session.base):
                yield Warned(tuple(problems), self.session.now())
        elif isinstance(event, RunFinished):
            self.is_over = True
            target.forced = target.forced or event.status == "done"

    def _may_be_output(self, path: Path) -> bool:
        """Return whether this run may have written a file."""
        session = self.session
        return (
            self.target.may_be_output(path)
            and not any(target.reads(path) for target in session.targets)
            and not any(environment.holds_code(path) for environment in session.environments)
        )

    def _is_still_wanted(self) -> tuple[bool, Refused | None]:
        """Return whether the newest form of the graph has the steps that are running; and what is
        wrong with that form, which does not stop the run.
        """
        target, environment = self.target, self.target.environment
        if (
            environment is None
            or environment.settings_changed
            or target.plugins is None
            or not environment.changed_plugins.isdisjoint(target.plugins)
        ):
            return False, None
        try:
            newest = self.session.planner.plan(target)
        except ImagenFlowError as error:
            return True, self.session.refused(target, error)
        except OSError as error:
            return True, self.session.refused(target, ImagenFlowError(str(error)))
        wanted = {step.key for step in newest.steps if step.key is not None}
        running = [self.run.key(name, item) for name, item in self.running] or [
            step.key for step in self.run.plan.steps if step.key is not None
        ]
        return wanted.issuperset(running), None
