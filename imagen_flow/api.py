"""The Python API: `load`, `plan`, `execute`, `run` and `sweep`, the stages of the command line as functions.

::

    import imagen_flow as flow

    outputs = flow.run("graphs/imagen.yaml", prompt="a large green star on a white background")
    outputs["picture"].to_pil().show()

An ``imagen-flow.toml`` applies as on the command line, except for `out`: nothing is written unless
an output folder is passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._graph import Graph, TableAt, resolve
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
from ._run import DROPPED_ELEMENT, collect, execute, leave_out_dropped
from ._settings import config
from ._settings.config import Settings
from ._store import Store
from ._text import spec as spec_
from ._types.codec import Codecs
from .errors import GraphError, OutputError, Problem
from .events import (
    Event,
    ItemFinished,
    OutputAbsent,
    OutputFailed,
    OutputWritten,
    StepFailed,
    StepNote,
)

if TYPE_CHECKING:
    from ._sweep import ItemResult, PreparedSweep, SweepPlan

__all__ = ["Sweep", "execute", "load", "plan", "run", "sweep"]


def load(
    graph: str | Path | Mapping[str, Any] | Graph,
    *,
    plugins: Iterable[str | Path] | str | Path = (),
    registry: Registry | None = None,
) -> Graph:
    """Read and resolve a graph.

    Params:
        graph: the path of a file, or the same content as a mapping.
        plugins: local plugin files (or one), in addition to those that ``imagen-flow.toml`` names
            and the user trusts.
        registry: node types to resolve against; by default, those of the installed plugins.
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
            f"a graph is a path, a mapping or the result of `load`, not {type(graph).__name__}"
        )
    if registry is None:
        files, refused = plugin_files(options, _settings(graph))
        if refused:
            from logging import getLogger

            for problem in refused:
                getLogger(__name__).warning("%s", problem)
        registry = discover(files, cache=config.plugins_cache_file())
    spec = spec_.parse_mapping(graph) if isinstance(graph, Mapping) else spec_.read(Path(graph))
    return resolve(spec, registry)


def plan(
    graph: str | Path | Mapping[str, Any] | Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
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
    **more: Any,
) -> Plan:
    """Plan a run: find out what would run and why, without running anything.

    Params:
        inputs, more: values of the graph's inputs; an input named like a parameter of this function
            has to be in `inputs`.
        store: an open Store, its folder, or None to keep nothing (files and models in outputs are
            then in a temporary folder until the program ends).
        batch: how many steps of a kind may be computed at once, where that changes pixels by at most
            one level of 8 bits: ``auto`` or a number.
        force: nodes (or one) that run even if their results are in the store.
        locked: use only hub models that are pinned in ``imagen-flow.lock``.
        tiny: replace all but the embedded models with small random ones, to try a graph offline in
            seconds.
        allow_pickle: pickle files that may be loaded after a scan, each as a path or as
            ``hf:org/name@main/FILE``.
        trust_remote_code: references of models whose own code may run.
    Raises:
        GraphError: problems of the graph or of the values.
    """
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
    # The store is only open during planning and execution, so dropping or keeping a plan leaves
    # nothing open.
    return prepare(_request(graph, options, {**(inputs or {}), **more}))


class Outputs(dict[str, Any]):
    """The outputs of a run, by name. `notes` are the warnings of its steps about their results,
    including those from the store. `failures` are the steps that failed and that their nodes do
    without (`on_error`).
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(dict.fromkeys(names))
        self.notes: tuple[StepNote, ...] = ()
        self.failures: tuple[StepFailed, ...] = ()


def run(
    graph: str | Path | Mapping[str, Any] | Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
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
    pool: ModelPool | None = None,
    on_event: Callable[[Event], None] | None = None,
    **more: Any,
) -> Outputs:
    """Run a graph and return its outputs by name; an absent output is None. The notes of nodes are
    in `notes` of the result.

    Params:
        out: the output folder; None writes nothing.
        replace: where the graph says ``exists: replace``, also overwrite files, folders and models
            that no run wrote.
        pool: a ModelPool that keeps models between runs.
        on_event: called with every event, in this thread.
        (the others as for `plan`)
    Raises:
        GraphError: problems of the graph or of the values. Nothing has run.
        NodeError: the first node that failed, after everything that does not depend on it has run.
        OutputError: an output could not be written.
    """
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
    folder = OutFolder(given_path("out", out), replace=replace or None) if out is not None else None
    with ExitStack() as stack:
        request = _request(graph, options, {**(inputs or {}), **more})
        if request.store is not None:
            stack.enter_context(request.store.in_use())
        planned = prepare(request)
        outputs = Outputs(planned.graph.outputs)
        error: Exception | None = None
        for event in execute(
            planned,
            out=folder,
            pool=pool,
        ):
            if on_event:
                on_event(event)
            if isinstance(event, OutputWritten):
                collect(outputs, event.output, event.item, event.value)
            elif isinstance(event, OutputAbsent) and "[" in event.output:
                value = DROPPED_ELEMENT if event.dropped else None
                collect(outputs, *_split(event.output), value)
            elif isinstance(event, StepNote):
                outputs.notes += (event,)
            elif isinstance(event, StepFailed) and event.is_tolerated:
                outputs.failures += (event,)
            elif isinstance(event, StepFailed):
                error = error or event.error
            elif isinstance(event, OutputFailed):
                error = error or OutputError(event.message)
        if error is not None:
            raise error
        leave_out_dropped(outputs)
        return outputs


class Sweep:
    """A sweep that was checked and counted. Iterating runs it, and yields each item as it ends:
    its `label`, `axes`, `seeds`, `status` (done or failed), `error`, `outputs`, `notes`, and the
    `row` of the index.
    """

    def __init__(
        self,
        prepared: PreparedSweep,
        *,
        out: OutFolder | None,
        fail_fast: bool,
        parquet: bool,
        pool: ModelPool | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self._prepared = prepared
        self._out = out
        self._fail_fast = fail_fast
        self._parquet = parquet
        self._pool = pool
        self._on_event = on_event

    def __len__(self) -> int:
        return len(self._prepared)

    def plan(self) -> SweepPlan:
        """Find out how many steps all items have, and how many of them would run.

        Raises:
            GraphError: problems of the values that all items share.
        """
        from ._sweep import plan_sweep

        return plan_sweep(self._prepared)

    def __iter__(self) -> Iterator[ItemResult]:
        """Run the items.

        Raises:
            GraphError: problems that all items have. Nothing has run.
            OutputError: the index cannot be written, or the disk is full.
        """
        from ._sweep import run_sweep

        running = run_sweep(
            self._prepared,
            out=self._out,
            fail_fast=self._fail_fast,
            pool=self._pool,
            parquet=self._parquet,
        )
        try:
            for event in running:
                if self._on_event:
                    self._on_event(event)
                if isinstance(event, ItemFinished) and running.last is not None:
                    yield running.last
        finally:
            running.close()
        if running.stopped:
            raise OutputError(running.stopped)


def sweep(
    graph: str | Path | Mapping[str, Any] | Graph,
    axes: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    *,
    table: str | Path | None = None,
    zip: bool = False,
    sample: int | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    parquet: bool = False,
    fail_fast: bool = False,
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
    pool: ModelPool | None = None,
    on_event: Callable[[Event], None] | None = None,
    **more: Any,
) -> Sweep:
    """Run a graph once for each combination of values. Nothing runs until the result is iterated.

    ::

        for item in flow.sweep("graph.yaml", {"seed": range(1, 5)}, out="out"):
            print(item.label, item.status)

    Params:
        axes: values for inputs, beside the graph's own `sweep:`: a sequence, or text as on the
            command line (``"1..64"``, ``"@prompts.txt"``).
        inputs, more: values that all items share.
        table: a CSV or JSONL file with a column for each of several inputs.
        zip: take the values of all axes side by side, instead of every combination.
        sample: take so many of the items, always the same ones.
        out: the folder for outputs and ``index.jsonl``; None writes nothing.
        parquet: write ``index.parquet`` beside it; needs pyarrow.
        fail_fast: stop at the first item that fails.
        (the others as for `run`)
    Raises:
        GraphError: problems of the graph or of the axes.
    """
    from ._sweep import Choice, prepare_sweep, read_axes

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
    folder = OutFolder(given_path("out", out), replace=replace or None) if out is not None else None
    request = _request(graph, options, {**(inputs or {}), **more})
    chosen = read_axes(request.graph, axes or {}, base=Path.cwd())
    if table is not None:
        chosen += (TableAt(str(given_path("table", table)), Path.cwd()),)
    if sample is not None and sample < 1:
        raise ValueError(f"a sample has at least one item, not {sample}")
    prepared = prepare_sweep(request, Choice(chosen, zip, sample))
    if prepared is None:
        raise GraphError(
            [
                Problem(
                    "bad-sweep",
                    "the sweep varies no input",
                    fix='pass axes, such as {"seed": range(1, 5)}',
                )
            ]
        )
    return Sweep(
        prepared, out=folder, parquet=parquet, fail_fast=fail_fast, pool=pool, on_event=on_event
    )


def _request(
    graph: str | Path | Mapping[str, Any] | Graph, options: Options, values: Mapping[str, Any]
) -> Request:
    """Build the request for a graph with these options."""
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
    """Read the ``imagen-flow.toml`` that applies to a graph: found from its folder upward, or from
    the working directory for a mapping.
    """
    if isinstance(graph, Graph):
        return config.load(graph.folder)
    return config.load(Path() if isinstance(graph, Mapping) else Path(graph).parent)


def _split(label: str) -> tuple[str, str]:
    name, bracket, rest = label.partition("[")
    return name, bracket + rest
