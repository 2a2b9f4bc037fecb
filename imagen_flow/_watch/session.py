"""Keep the results of graphs true: run them again when what they depend on has changed.

One thread decides (that of whoever iterates); two feed it by one queue: what changes on the disk
(`Changes`), and what the run in progress says. Registry, store, settled specs and loaded models
stay in the
process between runs, so that what lies between a save and the start of a run is reading the graph
and asking the store. What a change touches is found by planning anew: what is equal has equal keys.

- **A change during a run** (`on_change`): *restart* plans at once, and stops the run as soon as it
  works on a step that the new plan has not; a step that is still wanted is let finish. *queue* lets
  the run end.
  Either way what comes next is the newest there is.
- **What cannot be run** (a problem in a graph, a missing file, a plugin that cannot be imported) is
  said, and waited out; a run in progress goes on, and no output is removed.
- **Own outputs** never start a run of the graph that wrote them, for as long as they are as it
  wrote them: they are known by path, size and time. They do start one of *another* graph that reads
  them. An
  output that lands in a folder which its own graph reads is said once, as a warning: the graph's
  next run, whatever starts it, reads it as an input. What lies in the store never counts.
- **A seed that is drawn** (``random``) is drawn once and then kept, so that a change shows what it
  changes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from .._graph import RANDOM, Given, Graph, resolve
from .._models import ModelPool, find_lock
from .._outputs.writer import OutFolder
from .._plan import Plan
from .._plan.request import (
    USERS_STORE,
    Options,
    Request,
    given_path,
    open_store,
    plugin_files,
    prepare,
)
from .._plugins import registry as plugins
from .._plugins.code import is_source
from .._plugins.registry import Registry
from .._provenance.embedding import SIDECAR
from .._run import Run, execute
from .._settings import config
from .._settings.config import Settings
from .._store import Store
from .._store.file_digests import FileDigests
from .._system.regular_files import read_regular
from .._text import spec as spec_
from .._text.spec import GraphSpec
from .._text.yaml_reader import MAX_BYTES
from ..errors import GraphError, ImagenFlowError, Problem, StoreError
from ..events import OutputWritten, RunFinished, StepFailed, StepFinished, StepStarted
from .dependencies import places_of, plugins_of
from .events import Changed, Happening, Noticed, Planned, Refused, Reloaded, Waiting, Warned
from .reload import Reload, code_of, reload
from .settled import Changes

__all__ = ["watch", "watch_graphs"]

OnChange = Literal["restart", "queue"]


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
) -> Iterator[Happening]:
    """Run graphs, and again whenever a graph, one that it includes, a file, folder or local model
    that it reads, or the code of its plugins changes. Ends when `cancel` is set.

    ::

        for said in flow.watch("graphs/imagen.yaml", out="out"):
            if isinstance(said, OutputWritten):
                show(said.value)

    Params:
        graphs: one graph file or several; of several, each input goes to those that have it.
        inputs, texts: values of inputs, live or as text (as ``--set`` gives them).
        out: the folder that outputs with a path are written to; None writes nothing.
        replace: where a graph says ``exists: replace``, let also files, folders and models replace
            what no run wrote.
        store: an open Store, its folder, or None for one that lasts as long as the watching.
        force: nodes that run even if the store holds what they give, the first time.
        locked, tiny, allow_pickle, trust_remote_code: as for `plan`.
        on_change: what becomes of a run when what it depends on changes: *restart* or *queue*.
        settle_s: how long it has to be quiet after a change.
        poll, poll_s: look every `poll_s` instead of waiting for events, as network shares need.
        pool: loaded models to share; default: a pool that lasts as long as the watching.
    Raises:
        GraphError: there is no such graph file to begin with.
        StoreError: the store cannot be opened.
    """
    given = [graphs] if isinstance(graphs, str | Path) else list(graphs)
    options = Options.of(
        device=device,
        dtype=dtype,
        force=force,
        store=store,
        plugins=plugins,
        locked=locked,
        tiny=tiny,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return watch_graphs(
        [Path(path) for path in given],
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
) -> Iterator[Happening]:
    """Watch graphs with these options; what `watch` does, for the command line as well.

    Params:
        out: the folder for outputs.
        default_out: where they go if there is no `out` and ``imagen-flow.toml`` names none; None
            writes nothing then, whatever it names.
        may_replace: where a graph says ``exists: replace``, let also files, folders and models
            replace what no run wrote.
        (the rest as for `watch`)
    Raises:
        GraphError: there is no such graph file to begin with.
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
        raise GraphError(missing or [Problem("unreadable", "there is no graph to watch")])
    wanted = _Wanted(
        options, inputs or {}, texts or {}, out, default_out, may_replace, on_change, fail_fast
    )
    return _Session(
        paths,
        wanted,
        pool,
        cancel or threading.Event(),
        settle_s=settle_s,
        poll=poll,
        poll_s=poll_s,
    ).happenings()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for, for all the graphs."""

    options: Options
    inputs: Mapping[str, Any]
    texts: Mapping[str, str]
    out: Path | None
    default_out: Path | None
    may_replace: bool
    on_change: OnChange
    fail_fast: bool


@dataclass(eq=False)
class _Bench:
    """What graphs with one settings file share: the settings, the plugins, the store."""

    settings: Settings
    registry: Registry
    #: The local files of nodes in use.
    files: tuple[Path, ...]
    store: Store | None = None
    #: Where the code of each plugin lies that may change.
    code: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    #: Plugins whose code has changed since it was imported.
    stale: set[str] = field(default_factory=set)
    #: Whether the settings, or what is trusted, may have changed.
    doubtful: bool = False
    #: What was last said to be wrong with them.
    said: list[Problem] = field(default_factory=list)


@dataclass(eq=False)
class _Target:
    """A graph that is watched."""

    path: Path
    name: str
    graph_files: set[Path] = field(default_factory=set)
    bench: _Bench | None = None
    places: set[Path] = field(default_factory=set)
    #: The plugins that it uses; None while that is not known, and any may matter.
    uses: frozenset[str] | None = None
    out: Path | None = None
    #: The same, with what may be done in it.
    out_folder: OutFolder | None = None
    #: Files that its runs wrote, each as it was then.
    wrote: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    forced: bool = False
    warned: set[str] = field(default_factory=set)


#: Stands for the settings where plugins are named.
_SETTINGS = ""

#: Stands in the queue for the end of watching.
_END = object()

#: How much of what a run says may lie unread.
_MOST = 1000


class _Session:
    def __init__(
        self,
        paths: Sequence[Path],
        wanted: _Wanted,
        pool: ModelPool | None,
        cancel: threading.Event,
        *,
        settle_s: float,
        poll: bool,
        poll_s: float,
    ) -> None:
        self.wanted = wanted
        self.options = wanted.options
        self.targets = [
            _Target(path.absolute(), str(path), {path.absolute()}) for path in dict.fromkeys(paths)
        ]
        self.own_pool = pool is None
        self.pool = pool or ModelPool()
        self.cancel = cancel
        self.base = Path.cwd()
        self.began = time.monotonic()
        self.heard: SimpleQueue[Any] = SimpleQueue()
        self.changes = Changes(
            settle_s=settle_s,
            poll=poll,
            poll_s=poll_s,
            cancel=cancel,
            ignore=self.is_kept,
            hint=self.foresee,
            notice=self.noticed,
        )
        self.texts = _Texts()
        #: Digests of files where no store remembers them: plans follow one another, and a model is
        #: some gigabytes.
        self.digests = FileDigests()
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="imagen_flow reads ahead")
        self.benches: dict[Path | None, _Bench] = {}
        self.fresh = plugins.AsWritten({})
        self.settings_files: set[Path] = set()
        self.kept: tuple[str, ...] = ()
        self.followed: set[Path] = set()

    def now(self) -> float:
        return time.monotonic() - self.began

    def happenings(self) -> Iterator[Happening]:
        pump = threading.Thread(target=self.pump, name="imagen_flow watch", daemon=True)
        with ExitStack() as stack:
            stack.callback(self.end)
            sys.meta_path.insert(0, self.fresh)
            stack.callback(sys.meta_path.remove, self.fresh)
            self.follow()
            pump.start()
            dirty, told = list(self.targets), False
            while not self.cancel.is_set():
                while dirty and not self.cancel.is_set():
                    target, told = dirty.pop(0), False
                    for more in self.renew(target):
                        if not isinstance(more, _Target):
                            yield more
                        elif more not in dirty:
                            dirty.append(more)
                if self.cancel.is_set():
                    return
                if not told and self.heard.empty():
                    told = True
                    yield Waiting(
                        tuple(t.name for t in self.targets), len(self.followed), self.now()
                    )
                said = self.heard.get()
                if said is _END:
                    return
                if isinstance(said, BaseException):
                    raise said
                if isinstance(said, Noticed):
                    yield said
                elif touched := self.touched(said):
                    yield self.changed(touched, cancels=False)
                    dirty = [t for t in self.targets if t in touched]

    def noticed(self, words: str) -> None:
        self.heard.put(Noticed(words, self.now()))

    def foresee(self, path: Path) -> None:
        """Begin to read a graph that has changed while it is waited for quiet: of all that lies
        between a save and a run, parsing takes longest.
        """
        if any(path in target.graph_files for target in self.targets):
            self.ahead.submit(self.texts.read_again, path)

    def pump(self) -> None:
        """Pass on what changes, in a thread of its own."""
        try:
            for paths in self.changes:
                self.heard.put(paths)
        except BaseException as odd:
            self.heard.put(odd)
        self.heard.put(_END)

    def end(self) -> None:
        self.changes.close()
        self.ahead.shutdown(cancel_futures=True)
        if self.own_pool:
            self.pool.close()
        for bench in self.benches.values():
            self.close_store(bench)

    # -- what a change touches

    def is_kept(self, path: Path) -> bool:
        """Whether a path lies in a store that lies in what is watched."""
        return bool(self.kept) and (os.path.realpath(path) + os.sep).startswith(self.kept)

    def touched(self, paths: Iterable[Path]) -> dict[_Target, list[Path]]:
        """Name the graphs that depend on these paths, each with the paths; note what of plugins and
        settings has changed.
        """
        found: dict[_Target, list[Path]] = {}
        for path in paths:
            code = {bench: self.note(bench, path) for bench in self.benches.values()}
            for target in self.targets:
                changed = code.get(target.bench, set()) if target.bench is not None else set()
                matters = (
                    bool(changed)
                    if target.uses is None
                    else not changed.isdisjoint(target.uses | {_SETTINGS})
                )
                if (
                    matters
                    or target.bench is None
                    or path in target.graph_files
                    or (_lies_in(path, target.places) and not self.is_own(target, path))
                ):
                    found.setdefault(target, []).append(path)
        return found

    def note(self, bench: _Bench, path: Path) -> set[str]:
        """Name the plugins that a path belongs to, and note those whose code it is; likewise the
        settings.
        """
        changed = {name for name, places in bench.code.items() if _lies_in(path, set(places))}
        bench.stale |= {
            name for name in changed if path in bench.code[name] or is_source(path.name)
        }
        if path.name == config.NAME or path == config.trusted_path():
            bench.doubtful = True
            changed.add(_SETTINGS)
        return changed

    def may_be_output(self, target: _Target, path: Path) -> bool:
        """Whether a graph's run in progress may have written this."""
        if target.out is None or not _lies_in(path, {target.out}):
            return False
        named = any(path in t.graph_files or path in t.places for t in self.targets)
        return not named and not any(
            _lies_in(path, set(places))
            for bench in self.benches.values()
            for places in bench.code.values()
        )

    @staticmethod
    def is_own(target: _Target, path: Path) -> bool:
        """Whether a path is an output of this graph, as the graph wrote it, or a folder on the way
        to outputs (what else lies in such a folder is told by itself).
        """
        if (
            target.out is not None
            and path not in target.places
            and (path in target.out.parents or _lies_in(path, {target.out}))
            and path.is_dir()
        ):
            return True
        written = target.wrote.get(os.path.realpath(path))
        return written is not None and written == _sign(path)

    def changed(self, touched: Mapping[_Target, list[Path]], *, cancels: bool) -> Changed:
        shown = sorted({_shown(path, self.base) for found in touched.values() for path in found})
        return Changed(
            tuple(shown), tuple(t.name for t in self.targets if t in touched), cancels, self.now()
        )

    # -- a graph anew

    def renew(self, target: _Target) -> Iterator[Happening | _Target]:
        """Plan a graph and run it. Gives what is said, and the graphs that have to be renewed after
        it.
        """
        try:
            yield from self.reload(target)
            plan = self.plan(target)
        except ImagenFlowError as refused:
            if isinstance(refused, StoreError) and target.bench is None:
                raise  # nothing that is watched can mend this
            yield self.refused(target, refused)
            return
        except OSError as odd:  # something went while it was read, which is told of next
            yield self.refused(target, ImagenFlowError(str(odd)))
            return
        problems = [*plan.problems, *self.doubts(target)]
        if wrong := [p for p in problems if p.severity == "error"]:
            yield Refused(target.name, tuple(wrong), None, self.now())
            return
        if fresh := [p for p in problems if str(p) not in target.warned]:
            target.warned |= {str(p) for p in fresh}
            yield Warned(tuple(fresh), self.now())
        yield Planned(target.name, plan, self.now())
        yield from self.carry_out(target, plan)

    def refused(self, target: _Target, error: ImagenFlowError) -> Refused:
        problems = tuple(error.problems) if isinstance(error, GraphError) else ()
        return Refused(target.name, problems, None if problems else error, self.now())

    def carry_out(self, target: _Target, plan: Plan) -> Iterator[Happening | _Target]:
        """Run a plan to its end, or until what it works on is no longer wanted."""
        stop = threading.Event()
        run = execute(
            plan,
            out=target.out_folder,
            cancel=stop,
            pool=self.pool,
            fail_fast=self.wanted.fail_fast,
        )
        thread = threading.Thread(
            target=self.run, args=(run, stop), name="imagen_flow watched run", daemon=True
        )
        working: dict[tuple[str, str], None] = {}
        late: list[Path] = []
        restarts = self.wanted.on_change == "restart"
        newer = over = False
        thread.start()
        try:
            while not over:
                said = self.heard.get()
                if said is _END:
                    stop.set()
                elif isinstance(said, frozenset):
                    written = {p for p in said if self.may_be_output(target, p)}
                    late += written
                    touched = self.touched(said - written)
                    refused: list[Refused] = []
                    if target in touched:
                        wanted, refused = (
                            self.still_wanted(target, run, working)
                            if restarts and not stop.is_set()
                            else (True, [])
                        )
                        newer = not refused
                        if not wanted:
                            stop.set()
                    if touched:
                        yield self.changed(touched, cancels=target in touched and stop.is_set())
                    yield from refused
                    yield from (t for t in touched if t is not target)
                elif isinstance(said, ImagenFlowError):
                    yield self.refused(target, said)
                    over = True
                elif isinstance(said, BaseException):
                    raise said
                else:
                    yield said
                    if isinstance(said, StepStarted):
                        working[said.node, said.item] = None
                        if (
                            newer
                            and restarts
                            and not stop.is_set()
                            and not self.still_wanted(target, run, working)[0]
                        ):
                            stop.set()
                    elif isinstance(said, StepFinished | StepFailed):
                        working.pop((said.node, said.item), None)
                    elif isinstance(said, OutputWritten) and said.path is not None:
                        target.wrote |= {
                            os.path.realpath(path): _sign(path)
                            for path in _files_of(Path(said.path))
                        }
                        yield from self.doubtful_output(target, said)
                    elif isinstance(said, RunFinished):
                        over = True
                        target.forced = target.forced or said.status == "done"
        finally:
            stop.set()
            thread.join(5)
        if target.bench is not None and target.bench.store is not None:
            yield from (Noticed(words, self.now()) for words in target.bench.store.take_warnings())
        # Only now is it known which of what appeared in the output folder the run itself wrote.
        if touched := self.touched(late):
            yield self.changed(touched, cancels=False)
        yield from touched
        if newer and target not in touched:
            yield target

    def run(self, run: Run, stop: threading.Event) -> None:
        """Pass on what a run says, in a thread of its own."""
        try:
            for event in run:
                self.heard.put(event)
                while self.heard.qsize() > _MOST and not stop.is_set():
                    time.sleep(
                        0.01
                    )  # whoever reads is slow; the run goes on and lets progress run together
        except BaseException as odd:
            self.heard.put(odd)

    def still_wanted(
        self, target: _Target, run: Run, working: Iterable[tuple[str, str]]
    ) -> tuple[bool, list[Refused]]:
        """Whether the newest form of the graph has the steps that its run is working on; and what
        is wrong with that form, which leaves the run alone.
        """
        bench = target.bench
        if (
            bench is None
            or bench.doubtful
            or target.uses is None
            or not bench.stale.isdisjoint(target.uses)
        ):
            return False, []
        try:
            newest = self.plan(target)
        except (ImagenFlowError, OSError) as odd:
            return True, [
                self.refused(
                    target, odd if isinstance(odd, ImagenFlowError) else ImagenFlowError(str(odd))
                )
            ]
        keys = {step.key for step in newest.steps if step.key is not None}
        steps = [run.key(name, item) for name, item in working] or [
            step.key for step in run.plan.steps if step.key is not None
        ]
        return keys.issuperset(steps), []

    # -- from files to a plan

    def reload(self, target: _Target) -> Iterator[Happening]:
        """Bring settings and plugins up to date. Where that fails what was before stays, and it is
        said why.
        """
        found = config.find(target.path.parent)
        self.settings_files |= {found} if found else set()
        bench = target.bench = self.benches.get(found)
        if bench is None:
            self.follow()
            settings = config.read(found) if found else Settings()
            files, problems = self.files(settings)
            self.follow(settings.plugins)
            bench = _Bench(settings, plugins.discover(files, memo=config.plugins_memo()), files)
            problems += [
                _broken(p.name, p.fault)
                for p in bench.registry.plugins.values()
                if p.fault and p.is_file
            ]
            self.open_store(bench)
            self.benches[found] = target.bench = bench
            for key, left in [
                (key, b)
                for key, b in self.benches.items()
                if all(t.bench not in (b, None) for t in self.targets)
            ]:
                self.close_store(left)
                del self.benches[key]
            self.learn(bench)
        elif bench.stale or bench.doubtful:
            problems = yield from self.refresh(bench, found)
        else:
            return
        if problems and problems != bench.said:
            yield Warned(tuple(problems), self.now())
        bench.said = problems

    def refresh(
        self, bench: _Bench, found: Path | None
    ) -> Generator[Reloaded, None, list[Problem]]:
        """Take changed settings and plugins anew; return what is wrong with them."""
        settings = config.read(found) if bench.doubtful and found else bench.settings
        files, refused = self.files(settings)
        if any(p.code == "untrusted-plugin" for p in refused) and any(
            file not in files for file in bench.files
        ):
            return refused  # one that is no longer trusted stays in use in the form that was
        moved = settings.store != bench.settings.store
        took = None
        if bench.stale or files != bench.files:
            took = reload(bench.registry, bench.stale, files, self.fresh)
            if took.registry is not bench.registry:
                holds_codecs = any(
                    r.plugins[n].has_codecs
                    for r in (bench.registry, took.registry)
                    for n in bench.stale | {str(f) for f in files}
                    if n in r.plugins
                )
                moved = moved or holds_codecs
                bench.registry, bench.files = took.registry, files
                dropped = self.drop(took)
                if told := sorted(
                    name
                    for name in bench.stale
                    if any(
                        t.uses is None or name in t.uses for t in self.targets if t.bench is bench
                    )
                ):
                    yield Reloaded(tuple(told), dropped, self.now())
        bench.stale, bench.doubtful, bench.settings = set(), False, settings
        if moved:
            self.close_store(bench)
            self.open_store(bench)
        self.learn(bench)
        return [*refused, *(took.problems if took else ())]

    def drop(self, took: Reload) -> int:
        """Drop loaded models whose loader is another now."""
        dropped = self.pool.evict_idle(took.loads)
        if any(took.loads(identity) for identity in self.pool.resident()):
            # A run that was left behind still holds one, and what comes must not share it.
            pool, self.pool = self.pool, ModelPool(budget_bytes=self.pool.budget_bytes)
            pool.close()
        return dropped

    def files(self, settings: Settings) -> tuple[tuple[Path, ...], list[Problem]]:
        """Name the local files of nodes to use, and say which of the settings' are not trusted."""
        files, refused = plugin_files(self.options, settings)
        return tuple(files), refused

    def learn(self, bench: _Bench) -> None:
        """Find out where the code of plugins lies, and watch it."""
        bench.code = {
            name: places
            for name, plugin in bench.registry.plugins.items()
            if (places := code_of(plugin, bench.registry))
        }
        self.follow()

    def open_store(self, bench: _Bench) -> None:
        bench.store = open_store(
            self.options, bench.settings, bench.registry.codecs
        ) or Store.temporary(bench.registry.codecs)

    def close_store(self, bench: _Bench) -> None:
        if bench.store is not None and bench.store is not self.options.store:
            bench.store.close()
        bench.store = None

    def plan(self, target: _Target) -> Plan:
        """Read, resolve and plan a graph, with all that it depends on under watch before it is
        read.
        """
        bench = target.bench
        assert bench is not None
        graph = self.resolve(target, bench)
        values = {n: v for n, v in self.wanted.inputs.items() if self.is_meant(n, target, graph)}
        texts = {n: v for n, v in self.wanted.texts.items() if self.is_meant(n, target, graph)}
        values |= {
            n: v
            for n, v in target.seeds.items()
            if n not in values and n not in texts and _is_drawn(graph, n)
        }
        target.places = {*places_of(graph, values, texts, self.base), find_lock(graph.folder)}
        self.follow()
        settings = bench.settings
        if self.wanted.out is None and self.wanted.default_out is None:
            target.out = target.out_folder = None
        else:
            place = config.out_place(self.wanted.out, settings)
            target.out = place.path.absolute()
            target.out_folder = replace(
                place, path=target.out, replace=self.wanted.may_replace or None
            )
        options = replace(self.options, force=()) if target.forced else self.options
        files = self.digests if bench.store is None else None
        made = prepare(
            Request(
                graph,
                options,
                values,
                texts,
                settings=settings,
                store=bench.store,
                files=files,
                base=self.base,
            )
        )
        target.seeds |= made.seeds
        return made

    def resolve(self, target: _Target, bench: _Bench) -> Graph:
        """Resolve a graph. Files that it includes for the first time are read once more when they
        are watched.
        """
        while True:
            read: set[Path] = {target.path}

            def reading(path: Path, name: str, read: set[Path] = read) -> GraphSpec:
                read.add(path)
                return self.texts.read(path, name)

            try:
                graph = resolve(
                    self.texts.read(target.path, target.name), bench.registry, read=reading
                )
            except GraphError:
                # What was there before may be what comes back.
                fresh = read - target.graph_files
                target.graph_files |= read
                if fresh:
                    self.follow()
                    continue
                target.uses = None
                raise
            fresh = read - target.graph_files
            target.graph_files = read
            if not fresh:
                target.uses = frozenset(plugins_of(graph, bench.registry))
                return graph
            self.follow()

    def is_meant(self, name: str, target: _Target, graph: Graph) -> bool:
        """Whether a value goes to this graph: if it has such an input, or no other of the graphs
        has.
        """
        return name in graph.inputs or not any(
            name in self.texts.read(other.path, other.name).inputs
            for other in self.targets
            if other is not target
        )

    def follow(self, more: Iterable[Path] = ()) -> None:
        """Watch all that is known to matter."""
        wanted = {path for target in self.targets for path in (*target.graph_files, *target.places)}
        wanted |= {
            path
            for bench in self.benches.values()
            for places in bench.code.values()
            for path in places
        }
        wanted |= {path.absolute() for path in (*self.options.plugins, *more)}
        wanted |= {
            target.path.parent / config.NAME for target in self.targets
        } | self.settings_files
        if any(bench.settings.plugins for bench in self.benches.values()):
            wanted |= {
                config.trusted_path(),
                *(path for bench in self.benches.values() for path in bench.settings.plugins),
            }
        stores = {
            os.path.realpath(bench.store.folder) + os.sep
            for bench in self.benches.values()
            if bench.store is not None
        }
        self.kept = tuple(
            sorted(
                store
                for store in stores
                if any(store.startswith(os.path.realpath(place) + os.sep) for place in wanted)
            )
        )
        if wanted != self.followed:
            self.changes.follow(sorted(wanted))
            self.followed = wanted

    # -- what is doubtful

    def doubts(self, target: _Target) -> list[Problem]:
        store = (
            target.bench.store.folder
            if target.bench is not None and target.bench.store is not None
            else None
        )
        if store is None or not (
            places := [
                p
                for p in target.places
                if p.is_dir() and os.path.realpath(store).startswith(os.path.realpath(p) + os.sep)
            ]
        ):
            return []
        return [
            Problem(
                "bad-path",
                f"the store lies in {_shown(places[0], self.base)}, which the graph reads",
                why="each run would read what the one before it kept",
                fix="name another folder with --store",
                severity="warning",
            )
        ]

    def doubtful_output(self, target: _Target, said: OutputWritten) -> Iterator[Warned]:
        places = [
            p
            for p in target.places
            if p.is_dir()
            and os.path.realpath(str(said.path)).startswith(os.path.realpath(p) + os.sep)
        ]
        if places and f"output {said.output}" not in target.warned:
            target.warned.add(f"output {said.output}")
            problem = Problem(
                "bad-path",
                f"output '{said.output}' is written into {_shown(places[0], self.base)}, which the"
                " graph reads",
                why="it starts no run by itself, but the next run reads it as an input",
                fix="write it elsewhere, with --out or another path",
                severity="warning",
            )
            yield Warned((problem,), self.now())


class _Texts:
    """Reads graph files; a text that is as it was is not parsed again. Any thread may ask; one that
    asks for what another is parsing waits for that.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[Path, tuple[str, bytes, GraphSpec]] = {}

    def read(self, path: Path, name: str) -> GraphSpec:
        with self.lock:
            try:
                data = read_regular(path, max_bytes=MAX_BYTES)
            except OSError:
                data = None
            if data is None:
                return spec_.read(path, name=name)
            known = self.known.get(path)
            if known is None or known[:2] != (name, data):
                known = self.known[path] = (name, data, spec_.parse(data, name=name, path=path))
            return known[2]

    def read_again(self, path: Path) -> None:
        known = self.known.get(path)
        if known is not None:
            self.read(path, known[0])


def _broken(name: str, fault: str) -> Problem:
    return Problem(
        "broken-plugin",
        f"the plugin {name} cannot be used",
        why=fault,
        fix="mend it",
        severity="warning",
    )


def _lies_in(path: Path, places: set[Path]) -> bool:
    return path in places or not places.isdisjoint(path.parents)


def _files_of(output: Path) -> Iterator[Path]:
    """Name all that an output consists of: a file and its provenance, or a folder with all in it."""
    yield output
    yield output.with_name(output.name + SIDECAR)
    if output.is_dir():
        yield from output.rglob("*")


def _sign(path: Path) -> tuple[int, ...]:
    """What tells that a file is as it was."""
    with suppress(OSError):
        found = os.stat(path)
        return (found.st_ino, found.st_size, found.st_mtime_ns)
    return ()


def _shown(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _is_drawn(graph: Graph, name: str) -> bool:
    wanted = graph.inputs.get(name)
    return (
        wanted is not None and isinstance(wanted.default, Given) and wanted.default.value == RANDOM
    )
