"""Plan watched graphs again and again, with everything that they depend on under watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from .._graph import RANDOM, Given, Graph, resolve
from .._models import find_lock
from .._outputs.writer import OutFolder
from .._plan import Plan
from .._plan.request import Options, Request, prepare
from .._settings import config
from .._settings.config import Settings
from .._store.file_digests import FileDigests
from .._system.dataclass import dataclass
from .._system.regular_files import read_regular
from .._text import spec as spec_
from .._text.spec import GraphSpec
from .._text.words import MAX_BYTES
from ..errors import GraphError
from .dependencies import paths_of, plugins_of
from .targets import Environment, Target

__all__ = ["OnChange", "Planner", "WatchRequest"]

OnChange = Literal["restart", "queue"]


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is asked for, for all the graphs."""

    options: Options
    inputs: Mapping[str, Any]
    texts: Mapping[str, str]
    out: Path | None
    default_out: Path | None
    may_replace: bool
    on_change: OnChange
    fail_fast: bool


class Planner:
    """Plans graphs.

    Params:
        follow: called when the set of paths to watch has changed.
        base: the folder that paths in values are relative to.
    """

    def __init__(
        self,
        request: WatchRequest,
        targets: Sequence[Target],
        *,
        follow: Callable[[Iterable[Path]], None],
        base: Path,
    ) -> None:
        self.graph_files = GraphFiles()
        self._request = request
        self._targets = targets
        self._follow = follow
        self._base = base
        # Used where no store remembers them: plans are frequent, and models large.
        self._digests = FileDigests()

    def plan(self, target: Target) -> Plan:
        """Read, resolve and plan a graph, after everything that it depends on is being watched."""
        environment = target.environment
        assert environment is not None
        request = self._request
        graph = self._resolve(target, environment)
        values = self._values_for(target, graph, request.inputs)
        texts = self._values_for(target, graph, request.texts)
        for name, seed in target.seeds.items():
            if name not in values and name not in texts and _draws_seed(graph, name):
                values[name] = seed
        target.inputs = {
            *paths_of(graph, values, texts, self._base),
            find_lock(graph.folder),
        }
        self._follow(())
        target.out = self._out_folder(environment.settings)
        plan = prepare(
            Request(
                graph,
                replace(request.options, force=()) if target.forced else request.options,
                values,
                texts,
                settings=environment.settings,
                store=environment.store,
                files=self._digests if environment.store is None else None,
                base=self._base,
            )
        )
        target.seeds |= plan.seeds
        return plan

    def _resolve(self, target: Target, environment: Environment) -> Graph:
        """Resolve a graph. If it includes a file for the first time, it is read once more after
        that file is being watched.
        """
        while True:
            read_files: set[Path] = {target.path}

            def read(path: Path, name: str, read_files: set[Path] = read_files) -> GraphSpec:
                read_files.add(path)
                return self.graph_files.read(path, name)

            try:
                spec = self.graph_files.read(target.path, target.name)
                graph = resolve(spec, environment.registry, read=read)
            except GraphError:
                new = read_files - target.graph_files
                target.graph_files |= read_files  # files of the previous form may come back
                if not new:
                    target.plugins = None
                    raise
            else:
                new = read_files - target.graph_files
                target.graph_files = read_files
                if not new:
                    target.plugins = frozenset(plugins_of(graph, environment.registry))
                    return graph
            self._follow(())

    def _values_for(
        self, target: Target, graph: Graph, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the values for a graph: for its inputs, and for those that no other graph has."""
        others = [other for other in self._targets if other is not target]
        return {
            name: value
            for name, value in values.items()
            if name in graph.inputs
            or not any(
                name in self.graph_files.read(other.path, other.name).inputs for other in others
            )
        }

    def _out_folder(self, settings: Settings) -> OutFolder | None:
        if self._request.out is None and self._request.default_out is None:
            return None
        folder = config.outputs_folder(self._request.out, settings)
        return replace(
            folder, path=folder.path.absolute(), replace=self._request.may_replace or None
        )


class GraphFiles:
    """Reads graph files, and parses a text only once. Thread-safe: a thread that asks for a file
    which another thread is parsing waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parsed: dict[Path, tuple[str, bytes, GraphSpec]] = {}

    def read(self, path: Path, name: str) -> GraphSpec:
        with self._lock:
            try:
                data = read_regular(path, max_bytes=MAX_BYTES)
            except OSError:
                data = None
            if data is None:
                return spec_.read(path, name=name)
            parsed = self._parsed.get(path)
            if parsed is None or parsed[:2] != (name, data):
                spec = spec_.parse(data, name=name, path=path)
                parsed = self._parsed[path] = (name, data, spec)
            return parsed[2]

    def reread(self, path: Path) -> None:
        """Parse a file that was read before, if it has changed."""
        parsed = self._parsed.get(path)
        if parsed is not None:
            self.read(path, parsed[0])


def _draws_seed(graph: Graph, name: str) -> bool:
    """Return whether an input is a seed that is drawn at random by default."""
    declared = graph.inputs.get(name)
    return (
        declared is not None
        and isinstance(declared.default, Given)
        and declared.default.value == RANDOM
    )
