"""The Python API: `load`, `plan`, `execute`, `run`. The stages of the command line, as functions.

::

    import imagen_flow as flow

    outputs = flow.run("graphs/imagen.yaml", prompt="a large green star on a white background")
    outputs["picture"].to_pil().show()

An ``imagen-flow.toml`` holds here as it does on the command line, but for `out`: nothing is written
unless a folder is named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ._graph import Graph, resolve
from ._models import ModelPool
from ._outputs.writer import OutFolder
from ._plan import Plan
from ._plan.request import (
    USERS_STORE,
    Options,
    Request,
    given_path,
    open_store,
    plugin_files,
    prepare,
)
from ._plugins.registry import Registry, discover
from ._run import execute
from ._settings import config
from ._settings.config import Settings
from ._store import Store
from ._text import spec as spec_
from ._types.codec import Codecs
from .errors import OutputError
from .events import Event, OutputAbsent, OutputFailed, OutputWritten, StepFailed, StepNote

__all__ = ["execute", "load", "plan", "run"]

_logger = logging.getLogger(__name__)


def load(
    graph: str | Path | Mapping[str, Any] | Graph,
    *,
    plugins: Iterable[str | Path] | str | Path = (),
    registry: Registry | None = None,
) -> Graph:
    """Read and resolve a graph.

    Params:
        graph: a file's path, or the same as a mapping.
        plugins: local files of nodes (or one), beside those that ``imagen-flow.toml`` names and the
            user trusts.
        registry: node types to resolve against; default: those of the installed plugins.
    Raises:
        GraphError: its problems, all of them, in file order.
    """
    return _load(graph, Options.of(plugins=plugins), registry)


def _load(
    graph: str | Path | Mapping[str, Any] | Graph,
    options: Options,
    registry: Registry | None = None,
) -> Graph:
    if isinstance(graph, Graph):
        return graph
    if not isinstance(graph, str | Path | Mapping):
        raise TypeError(
            "a graph is a file's path, a mapping or what `load` gave, and not"
            f" {type(graph).__name__}"
        )
    if registry is None:
        files, refused = plugin_files(options, _settings(graph))
        for problem in refused:
            _logger.warning("%s", problem)
        registry = discover(files, memo=config.plugins_memo())
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
        inputs, more: values of the graph's inputs; one named like a parameter here goes into
            `inputs`.
        store: an open Store, its folder, or None to keep nothing (files and models that outputs
            give then lie in a temporary folder until the program ends).
        force: nodes (or one) that run even if the store holds what they give.
        locked: take of the hub only what ``imagen-flow.lock`` names.
        tiny: take small models with random weights in place of all but the embedded ones: to try a
            graph offline, in seconds.
        allow_pickle: pickles that may be loaded, after a look into them, each by path or as
            ``hf:org/name@main/FILE``.
        trust_remote_code: references of models whose own code may run.
    Raises:
        GraphError: problems of the graph or of the values.
    """
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
    # The store is open while the plan is made and while it is carried out: whoever drops a plan, or
    # keeps it for long, leaves nothing open.
    return prepare(_request(graph, options, {**(inputs or {}), **more}))


class Outputs(dict[str, Any]):
    """The outputs of a run, by name. `notes` are what its steps had to say of their results, as
    warnings: those that came from the store too.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(dict.fromkeys(names))
        self.notes: tuple[StepNote, ...] = ()


def run(
    graph: str | Path | Mapping[str, Any] | Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
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
    pool: ModelPool | None = None,
    on_event: Callable[[Event], None] | None = None,
    **more: Any,
) -> Outputs:
    """Run a graph and return its outputs by name; an absent one is None. What nodes noted of their
    results is in the `notes` of what is returned.

    Params:
        out: the folder that outputs with a path are written to; None writes nothing.
        replace: where the graph says ``exists: replace``, let also files, folders and models
            replace what no run wrote.
        pool: a ModelPool to keep models in between runs.
        on_event: called with every event, in this thread.
        (the rest as for `plan`)
    Raises:
        GraphError: problems of the graph or of the values. Nothing has run.
        NodeError: the first node that failed, after all that does not depend on it has run.
        OutputError: an output could not be written.
    """
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
    folder = OutFolder(given_path("out", out), replace=replace or None) if out is not None else None
    with ExitStack() as stack:
        request = _request(graph, options, {**(inputs or {}), **more})
        if request.store is not None:
            stack.enter_context(request.store.in_use())
        made = prepare(request)
        outputs = Outputs(made.graph.outputs)
        failure: Exception | None = None
        for event in execute(
            made,
            out=folder,
            pool=pool,
        ):
            if on_event:
                on_event(event)
            if isinstance(event, OutputWritten):
                _collect(outputs, event.output, event.item, event.value)
            elif isinstance(event, OutputAbsent) and "[" in event.output:
                _collect(outputs, *_split(event.output), None)
            elif isinstance(event, StepNote):
                outputs.notes += (event,)
            elif isinstance(event, StepFailed):
                failure = failure or event.error
            elif isinstance(event, OutputFailed):
                failure = failure or OutputError(event.message)
        if failure is not None:
            raise failure
        return outputs


def _request(
    graph: str | Path | Mapping[str, Any] | Graph, options: Options, values: Mapping[str, Any]
) -> Request:
    """Ask for a graph with these options."""
    resolved, settings = _load(graph, options), _settings(graph)
    codecs = resolved.registry.codecs if resolved.registry else Codecs()
    return Request(
        resolved,
        options,
        values,
        settings=settings,
        store=open_store(options, settings, codecs, on_demand=True),
    )


def _settings(graph: str | Path | Mapping[str, Any] | Graph) -> Settings:
    """Read the ``imagen-flow.toml`` that holds for a graph: from its folder upward, or from the
    working directory for one that is no file.
    """
    if isinstance(graph, Graph):
        return config.load(graph.folder)
    return config.load(Path() if isinstance(graph, Mapping) else Path(graph).parent)


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
