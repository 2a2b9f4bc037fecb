"""The provenance document: its shape, and how one is read that nobody vouches for.

A document says how one output came to be: the graph as written (with every file it includes) and as
resolved, the values of its inputs, seeds, the fingerprints of models, the versions of plugins and
libraries, and of each step that the output was made by: its key, what went into it and what came
out, by digest. It holds no times, no absolute paths of its own making, no environment and no
secrets. At level ``keys`` the graph, the inputs and the file names are left out.

`_run.recorder` writes documents. Here they are parsed: strictly, with bounds, and with an error in
words for whatever is odd.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ProvenanceError
from .embedding import FORMAT, SIDECAR_LIMIT

__all__ = [
    "FileSeen",
    "GraphText",
    "InputSeen",
    "MadeWith",
    "ModelSeen",
    "OutputSeen",
    "PluginSeen",
    "Provenance",
    "StepSeen",
    "parse",
]

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _Shape(BaseModel):
    # Unknown keys are let be: a later version of this format may add some.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class GraphText(_Shape):
    """The graph as written: `files` holds the text of `file` and of all that it includes, by name
    relative to it.
    """

    name: str
    file: str
    files: dict[str, str]


class FileSeen(_Shape):
    """A file (or, with `files`, a folder) that was read: its content by digest, and its own name."""

    kind: Literal["file", "folder"]
    digest: _Digest
    name: str
    size: _Count = 0
    files: dict[str, _Digest] = {}


class InputSeen(_Shape):
    """The value of an input: plain data in `value`, files in `files` (of a list, one for each
    element), or a model's local place that is not told (`model`).
    """

    type: str
    value: Any = None
    files: list[FileSeen] | None = None
    model: str | None = None


class ModelSeen(_Shape):
    """A model: the reference as written and its fingerprint."""

    reference: str
    fingerprint: str


class PluginSeen(_Shape):
    """A plugin that node types came from."""

    name: str
    version: str


class MadeWith(_Shape):
    """What computed a step, as it entered its key."""

    type: str
    version: int
    source: str
    uses: dict[str, str]
    plugin: str = ""
    determinism: dict[str, Any] | None = None


class StepSeen(_Shape):
    """A step the output was made by: `made_with` counts in the document's list, `inputs` and
    `outputs` are digests by port.
    """

    node: str
    item: str
    key: str
    made_with: _Count
    inputs: dict[str, _Digest]
    outputs: dict[str, _Digest]
    conditions: _Count | None = None
    rungs: list[str] = []
    #: What the node had to say of its result.
    notes: list[str] = []


class OutputSeen(_Shape):
    """Which output this is."""

    name: str
    kind: str
    digest: _Digest
    index: _Count | None = None


class Settings(_Shape):
    """The policy in force for the whole run."""

    device: str
    dtype: str


class Provenance(_Shape):
    """A whole document. `steps` are in the order in which they can be run."""

    imagen_flow: Annotated[int, Field(ge=1)]
    version: str
    provenance: Literal["full", "keys"]
    output: OutputSeen
    settings: Settings
    steps: list[StepSeen]
    made_with: list[MadeWith]
    models: list[ModelSeen]
    plugins: list[PluginSeen]
    #: What steps really ran on (libraries, threads, GPU); steps say which by its place in this
    # list.
    conditions: list[dict[str, Any]] = []
    seeds: dict[str, Annotated[int, Field(ge=0, le=2**63 - 1)]] = {}
    graph: GraphText | None = None
    resolved: dict[str, Any] | None = None
    inputs: dict[str, InputSeen] = {}
    #: Files that the graph itself names, by their name relative to the main graph file.
    files: dict[str, FileSeen] = {}


def parse(text: str) -> Provenance:
    """Read a document that nobody vouches for.

    Raises:
        ProvenanceError: it is none, or none of ours, or its parts do not fit together.
    """
    if len(text) > SIDECAR_LIMIT:
        raise ProvenanceError(f"the provenance is longer than {SIDECAR_LIMIT} characters")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as odd:
        raise ProvenanceError(
            "the provenance is no JSON that can be read\n  = why:"
            f" {str(odd) or 'it is nested too deep'}"
        ) from odd
    version = data.get("imagen_flow") if isinstance(data, dict) else None
    if type(version) is not int:
        raise ProvenanceError(
            "the provenance is not of imagen_flow\n  = why: it does not say which version of the"
            " format it has"
        )
    if version > FORMAT:
        raise ProvenanceError(
            f"the provenance was written by a newer imagen_flow\n  = why: it has format {version},"
            f" and this one reads up to {FORMAT}\n  = fix: update imagen_flow"
        )
    try:
        read = Provenance.model_validate(data)
    except ValidationError as odd:
        first = odd.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:6])
        raise ProvenanceError(
            f"the provenance is damaged or forged\n  = why: {where}: {first['msg'].lower()}"
        ) from odd
    except RecursionError as odd:
        raise ProvenanceError("the provenance is nested too deep") from odd
    _check(read)
    return read


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _check(read: Provenance) -> None:
    """Check that the parts fit together, so that whoever uses them need not."""
    if any(
        s.made_with >= len(read.made_with) or (s.conditions or 0) >= max(1, len(read.conditions))
        for s in read.steps
    ):
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: a step names a part that is not there"
        )
    if read.graph is not None and read.graph.file not in read.graph.files:
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: the text of its graph is not there"
        )
    if read.provenance == "full" and read.graph is None:
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: it calls itself full, but has no graph"
        )
