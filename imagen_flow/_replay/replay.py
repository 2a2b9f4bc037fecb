r"""Run again what made a picture, from its embedded provenance, and compare the results.

::

    replay = prepare(
        Path("picture.png"), registry=registry, store=store, values={"prompt": "a red star"}
    )
    print("\\n".join(replay.describe()))  # which picture, which inputs, what is missing or changed
    ...                                 # print replay.plan, and ask
    replay.check()                      # raises GraphError if files are missing
    run = execute(replay.plan, out=out)
    for event in run: ...
    print(replay.verify(run))           # "identical", or what differs

Pictures are not trusted. The graph, and every graph that it includes, are read from the document,
never from the disk. A file, folder or model folder that the graph names is never opened by that
name: it is found in the store by its digest, or where the user says (``--set NAME=PATH``, with the
path written in the graph as the name). A missing file is not a problem as long as everything made
from it is in the store.

Planning uses the recorded device and dtype. It reads only the files that the user names, the store,
and models that plugins bring or that are in the hub's cache. With `fresh`, only files are taken
from the store and everything is computed again, so that `verify` has something to compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from .. import _models as models
from .._graph import (
    Output,
)
from .._plan import Plan
from .._plan.request import Options, Request
from .._plan.request import prepare as plan_request
from .._plugins.registry import Registry
from .._provenance import embedding
from .._provenance.document import Provenance, parse
from .._run import Run
from .._settings import devices
from .._store import Store
from .._store.file_digests import FileDigests
from ..errors import GraphError, ProvenanceError
from .comparison import Comparison, compare
from .rebuild import Missing, Rebuilder

__all__ = ["Replay", "prepare", "read"]


@dataclass(eq=False)
class Replay:
    """A picture's graph, ready to be run again: execute `plan`."""

    picture: Path
    provenance: Provenance
    #: Whether the file is unchanged since it was written.
    intact: bool
    plan: Plan
    output: Output
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]

    def describe(self) -> list[str]:
        """Describe what would be run, one line each."""
        provenance = self.provenance
        assert provenance.graph is not None
        index = "" if provenance.output.index is None else f"[{provenance.output.index}]"
        lines = [
            f"{self.picture.name}: output '{provenance.output.name}{index}' of"
            f" {provenance.graph.file}, made by"
            f" imagen_flow {provenance.version}"
        ]
        if not self.intact:
            lines.append(
                "note: the file was changed after it was written; this describes what was written"
            )
        lines += [f"note: {note}" for note in self.notes]
        return lines

    def check(self) -> None:
        """Raise GraphError if the run would have to read something that is missing."""
        if self.missing:
            raise GraphError([m.problem() for m in self.missing])

    def verify(self, run: Run) -> Comparison:
        """Compare the result of a run of the plan with what the picture records.

        Raises:
            ProvenanceError: the run gave no value to compare.
        """
        text = run.provenance(replace(self.output, provenance="full"), self.provenance.output.index)
        if text is None:
            raise ProvenanceError(
                f"there is nothing to compare: output '{self.output.name}' has no value this time"
            )
        return compare(self.provenance, parse(text))


def read(picture: Path) -> tuple[Provenance, bool]:
    """Read the provenance of a file, and whether the file is unchanged. Nothing is decoded.

    Raises:
        ProvenanceError: the file cannot be read, carries none, or its provenance is damaged.
    """
    try:
        embedded = embedding.read_embedded(picture)
    except OSError as error:
        raise ProvenanceError(
            f"{picture} cannot be read\n  = why: {(error.strerror or str(error)).lower()}"
        ) from error
    except ValueError as error:
        raise ProvenanceError(
            f"the provenance of {picture} cannot be read\n  = why: {error}"
        ) from error
    if embedded is None and embedding.mentions_provenance(picture):
        raise ProvenanceError(
            f"the provenance of {picture} cannot be read\n  = why: parts of it are in the"
            " file, but in a form written by another program (such as Exif or XMP); in a"
            " PNG, all text chunks are read\n  = fix: use the file as it was written"
        )
    if embedded is None:
        missing_sidecar = f"and there is no {picture.name}{embedding.SIDECAR} beside it"
        raise ProvenanceError(
            f"{picture} carries no provenance of imagen_flow\n  = why: there is none in"
            f" the file, {missing_sidecar}; some programs remove it when they save a"
            " picture\n  = fix: use the file as"
            " it was written"
        )
    return parse(embedded.text), embedded.intact


def prepare(
    picture: Path,
    options: Options | None = None,
    *,
    registry: Registry,
    store: Store | None = None,
    values: Mapping[str, str] | None = None,
    base: Path | None = None,
    fresh: bool = False,
    may_replace: bool = False,
) -> Replay:
    """Read a picture and plan what made it. Nothing runs.

    Params:
        options: as everywhere. Device, dtype and the use of tiny models default to what is
            recorded; if this machine does not have that device, to ``auto``.
        values: as ``--set`` gives them: inputs as text, and paths for files that the graph names
            (by the path written there).
        base: the folder that relative paths in `values` start from and where the lock is searched
            for; by default, the working directory.
        fresh: compute everything again.
        may_replace: where the picture's graph says ``exists: replace``, let outputs overwrite files
            that no run wrote.

    Raises:
        ProvenanceError: there is no provenance that can be run again.
        GraphError: the graph does not fit the installed plugins, or a value does not fit.
    """
    options = options or Options()
    provenance, intact = read(picture)
    if provenance.graph is None:
        raise ProvenanceError(
            f"{picture} cannot be run again\n  = why: it carries keys only (provenance: keys), not"
            " the graph"
        )
    tiny = options.tiny or any(models.is_tiny(model.reference) for model in provenance.models)
    rebuilder = Rebuilder(
        provenance, registry, store, dict(values or {}), base or Path.cwd(), tiny=tiny
    )
    graph, output = rebuilder.rebuild_graph(may_replace=may_replace)
    inputs = rebuilder.input_values(graph)
    notes: list[str] = []
    device, dtype = (
        options.device or provenance.settings.device,
        options.dtype or provenance.settings.dtype,
    )
    try:
        devices.resolve_device(device)
    except ValueError as error:
        notes.append(f"it was made on {device}, which is not available here ({error}); using auto")
        device, dtype = "auto", "auto"
    rebuilder.raise_problems()
    # It replaces the file digests of the plan: files that it does not know are not read.
    files = cast(FileDigests, rebuilder.files)
    if tiny and not options.tiny:
        notes.append("it was made with --tiny, so small models with random weights are used again")
    batch = options.batch or provenance.settings.batch or None
    options = replace(options, device=device, dtype=dtype, tiny=tiny, batch=batch)
    plan = plan_request(
        Request(
            graph,
            options,
            inputs,
            store=None if fresh else store,
            files=files,
            base=rebuilder.base,
            folder=rebuilder.base,
        )
    )
    return Replay(
        picture,
        provenance,
        intact,
        plan,
        output,
        tuple(rebuilder.missing_files(plan)),
        tuple(notes + rebuilder.notes),
    )
