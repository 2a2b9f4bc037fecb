"""The Python API: `load`, `plan`, `execute`, `run`. The stages of the command line, as functions.

::

    import imagen_flow as flow

    outputs = flow.run("graphs/imagen.yaml", prompt="a small green star on a white background")
    outputs["picture"].to_pil().show()

An ``imagen-flow.toml`` holds here as it does on the command line, but for `out`: nothing is written unless a folder is named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from . import config
from . import spec as spec_
from .codec import Codecs
from .errors import OutputError
from .events import Event, OutputAbsent, OutputFailed, OutputWritten, StepFailed
from .filememo import FileMemo
from .graph import Graph, resolve
from .models import ModelPool, Terms
from .plan import Plan, make_plan
from .plugins import Registry, discover
from .run import execute
from .store import Store

__all__ = ["execute", "listed", "load", "plan", "run"]

_logger = logging.getLogger(__name__)

#: The store in the user's cache folder, or wherever the environment or settings say.
USERS_STORE = "user"


def load(graph: str | Path | Mapping[str, Any] | Graph, *, plugins: Iterable[str | Path] | str | Path = (), registry: Registry | None = None) -> Graph:
    """Read and resolve a graph.

    Params:
        graph: a file's path, or the same as a mapping.
        plugins: local files of nodes (or one), beside those that ``imagen-flow.toml`` names and the user trusts.
        registry: node types to resolve against; default: those of the installed plugins.
    Raises:
        GraphError: its problems, all of them, in file order.
    """
    if isinstance(graph, Graph):
        return graph
    if not isinstance(graph, str | Path | Mapping):
        raise TypeError(f"a graph is a file's path, a mapping or what `load` gave, and not {type(graph).__name__}")
    registry = registry or discover([*map(Path, listed(plugins)), *_trusted(_settings(graph))], memo=config.plugins_memo())
    read = partial(spec_.read, memo=config.words_memo())
    spec = spec_.parse_mapping(graph) if isinstance(graph, Mapping) else read(Path(graph))
    return resolve(spec, registry, read=lambda path, name: read(path, name=name))


def plan(
    graph: str | Path | Mapping[str, Any] | Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
    store: Store | str | Path | None = USERS_STORE,
    device: str | None = None,
    dtype: str | None = None,
    force: Iterable[str] | str = (),
    plugins: Iterable[str | Path] | str | Path = (),
    locked: bool = False,
    tiny: bool = False,
    allow_pickle: Iterable[str | Path] | str | Path = (),
    trust_remote_code: Iterable[str] | str = (),
    **more: Any,
) -> Plan:
    """Plan a run: say what would run and why, and run nothing.

    Params:
        inputs, more: values of the graph's inputs; one named like a parameter here goes into `inputs`.
        store: an open Store, its folder, or None to keep nothing (files and models that outputs give then lie in a temporary folder until the program ends).
        force: nodes (or one) that run even if the store holds what they give.
        locked: take of the hub only what ``imagen-flow.lock`` names.
        tiny: take small models with random weights in place of all but the embedded ones: to try a graph offline, in seconds.
        allow_pickle: pickles that may be loaded, after a look into them, each by path or as ``hf:org/name@main/FILE``.
        trust_remote_code: references of models whose own code may run.
    Raises:
        GraphError: problems of the graph or of the values.
    """
    resolved = load(graph, plugins=plugins)
    settings = _settings(graph)
    place = settings.place(resolved.settings, device=device, dtype=dtype)
    terms = _terms(resolved, locked, tiny, allow_pickle, trust_remote_code)
    # The store is open while the plan is made and while it is carried out: whoever drops a plan, or keeps it for long, leaves nothing open.
    return _made(resolved, {**(inputs or {}), **more}, open_store(store, resolved, settings), place, force, terms)


def run(
    graph: str | Path | Mapping[str, Any] | Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    store: Store | str | Path | None = USERS_STORE,
    device: str | None = None,
    dtype: str | None = None,
    force: Iterable[str] | str = (),
    plugins: Iterable[str | Path] | str | Path = (),
    locked: bool = False,
    tiny: bool = False,
    allow_pickle: Iterable[str | Path] | str | Path = (),
    trust_remote_code: Iterable[str] | str = (),
    pool: ModelPool | None = None,
    on_event: Callable[[Event], None] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Run a graph and return its outputs by name; an absent one is None.

    Params:
        out: the folder that outputs with a path are written to; None writes nothing.
        pool: a ModelPool to keep models in between runs.
        on_event: called with every event, in this thread.
        (the rest as for `plan`)
    Raises:
        GraphError: problems of the graph or of the values. Nothing has run.
        NodeError: the first node that failed, after all that does not depend on it has run.
        OutputError: an output could not be written.
    """
    with ExitStack() as stack:
        resolved = load(graph, plugins=plugins)
        settings = _settings(graph)
        opened = open_store(store, resolved, settings)
        if opened is not None:
            stack.enter_context(opened.in_use())
        made = _made(resolved, {**(inputs or {}), **more}, opened, settings.place(resolved.settings, device=device, dtype=dtype), force, _terms(resolved, locked, tiny, allow_pickle, trust_remote_code))
        outputs: dict[str, Any] = dict.fromkeys(resolved.outputs)
        failure: Exception | None = None
        for event in execute(made, out=Path(out) if out is not None else None, pool=pool):
            if on_event:
                on_event(event)
            if isinstance(event, OutputWritten):
                _collect(outputs, event.output, event.item, event.value)
            elif isinstance(event, OutputAbsent) and "[" in event.output:
                _collect(outputs, *_split(event.output), None)
            elif isinstance(event, StepFailed):
                failure = failure or event.error
            elif isinstance(event, OutputFailed):
                failure = failure or OutputError(event.message)
        if failure is not None:
            raise failure
        return outputs


def _made(graph: Graph, values: Mapping[str, Any], store: Store | None, place: Mapping[str, Any], force: Iterable[str] | str, terms: Terms) -> Plan:
    """Make the plan; without a store, digests of files are remembered in the user's cache folder."""
    with ExitStack() as stack:
        files = None
        if store is None:
            files = FileMemo(config.files_memo())
            stack.callback(files.rest)
        else:
            stack.enter_context(store.in_use())
        return make_plan(graph, values, store=store, files=files, **place, force=listed(force), terms=terms)


def listed(given: Iterable[str | Path] | str | Path) -> list[str]:
    """List what may be given as one or as several: a text would be taken letter by letter."""
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]


def _terms(graph: Graph, locked: bool, tiny: bool, pickles: Iterable[str | Path] | str | Path, remote_code: Iterable[str] | str) -> Terms:
    registry = graph.registry
    return Terms(locked=locked, pickles=tuple(listed(pickles)), remote_code=tuple(listed(remote_code)), tiny=partial(registry.tiny, folder=config.tiny_place()) if tiny and registry else None)


def open_store(store: Store | str | Path | None, graph: Graph, settings: config.Settings) -> Store | None:
    """Give the store that is meant, with the codecs of the graph's plugins: one that is given, or one that is open while it is in use."""
    if store is None or isinstance(store, Store):
        return store
    codecs = graph.registry.codecs if graph.registry else Codecs()
    return Store.on_demand(config.store_place(None, settings) if store == USERS_STORE else Path(store), codecs)


def _settings(graph: str | Path | Mapping[str, Any] | Graph) -> config.Settings:
    """Read the ``imagen-flow.toml`` that holds for a graph: from its folder upward, or from the working directory for one that is no file."""
    if isinstance(graph, Graph):
        return config.load(graph.folder)
    return config.load(Path() if isinstance(graph, Mapping) else Path(graph).parent)


def _trusted(settings: config.Settings) -> list[Path]:
    """The plugins that the settings name and that may be imported; of the others the log says why not."""
    refused = config.untrusted(settings)
    for problem in refused.values():
        _logger.warning("%s", problem)
    return [path for path in settings.plugins if path not in refused]


def _split(label: str) -> tuple[str, str]:
    name, bracket, rest = label.partition("[")
    return name, bracket + rest


def _collect(outputs: dict[str, Any], name: str, item: str, value: Any) -> None:
    """Put an output's value in its place; elements of a list arrive one by one, in any order."""
    if not item:
        outputs[name] = value
        return
    index = int(item.strip("[]"))
    listed = outputs[name] if isinstance(outputs[name], list) else []
    listed += [None] * (index + 1 - len(listed))
    listed[index] = value
    outputs[name] = listed
