"""The provenance document: its format, and a parser for untrusted documents.

A document says how one output came to be: the graph as written (with every file it includes) and as
resolved, the values of its inputs, seeds, the fingerprints of models, the versions of plugins and
libraries, and for each step behind the output its key and the digests of its inputs and outputs. It
contains no times, no absolute paths of its own making, no environment and no secrets. At level
``keys`` the graph, the inputs and the file names are left out.

`_run.recorder` writes documents. Here they are parsed strictly and with bounds, and every fault is
reported as an error with a message.
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


class _Part(BaseModel):
    # Unknown keys are ignored: a later version of this format may add some.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class GraphText(_Part):
    """The graph as written: `files` holds the text of `file` and of all files that it includes, by
    name relative to it.
    """

    name: str
    file: str
    files: dict[str, str]


class FileSeen(_Part):
    """A file (or, with `files`, a folder) that was read: its digest and its own name."""

    kind: Literal["file", "folder"]
    digest: _Digest
    name: str
    #: The name that was part of its value, where that is another: it was listed from a folder.
    significant_name: str = ""
    size: _Count = 0
    files: dict[str, _Digest] = {}


class InputSeen(_Part):
    """The value of an input: plain data in `value`, files in `files` (for a list, one per element),
    or the last name of a local model's path (`model`).
    """

    type: str
    value: Any = None
    files: list[FileSeen] | None = None
    model: str | None = None


class ModelSeen(_Part):
    """A model: the reference as written, and its fingerprint."""

    reference: str
    fingerprint: str


class PluginSeen(_Part):
    """A plugin that provided node types."""

    name: str
    version: str


class MadeWith(_Part):
    """The code that computed a step, as it entered the step's key."""

    type: str
    version: int
    source: str
    uses: dict[str, str]
    plugin: str = ""
    determinism: dict[str, Any] | None = None


class StepSeen(_Part):
    """A step behind the output: `made_with` is an index into the document's list, `inputs` and
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
    #: The node's notes on its result.
    notes: list[str] = []


class OutputSeen(_Part):
    """The output that the document describes."""

    name: str
    kind: str
    digest: _Digest
    index: _Count | None = None
    #: The options of the file's format, as the graph gives them.
    options: dict[str, Any] = {}


class Settings(_Part):
    """The settings of the whole run."""

    device: str
    dtype: str
    #: Whether steps might be computed together by an option: ``auto`` or a number.
    batch: str = ""


class Provenance(_Part):
    """A whole document. `steps` are in an order in which they can run."""

    imagen_flow: Annotated[int, Field(ge=1)]
    version: str
    provenance: Literal["full", "keys"]
    output: OutputSeen
    settings: Settings
    steps: list[StepSeen]
    made_with: list[MadeWith]
    models: list[ModelSeen]
    plugins: list[PluginSeen]
    #: The hardware and library settings that steps ran with (libraries, threads, GPU); a step
    #: refers to its entry by index.
    conditions: list[dict[str, Any]] = []
    seeds: dict[str, Annotated[int, Field(ge=0, le=2**63 - 1)]] = {}
    graph: GraphText | None = None
    resolved: dict[str, Any] | None = None
    inputs: dict[str, InputSeen] = {}
    #: Files that the graph itself names, by their name relative to the main graph file.
    files: dict[str, FileSeen] = {}


def parse(text: str) -> Provenance:
    """Parse an untrusted document.

    Raises:
        ProvenanceError: it is not a document of imagen_flow, or its parts do not fit together.
    """
    if len(text) > SIDECAR_LIMIT:
        raise ProvenanceError(f"the provenance is longer than {SIDECAR_LIMIT} characters")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProvenanceError(
            f"the provenance is not valid JSON\n  = why: {str(error) or 'it is nested too deep'}"
        ) from error
    version = data.get("imagen_flow") if isinstance(data, dict) else None
    if type(version) is not int:
        raise ProvenanceError(
            "the provenance was not written by imagen_flow\n  = why: it does not say which version"
            " of the format it has"
        )
    if version > FORMAT:
        raise ProvenanceError(
            f"the provenance was written by a newer imagen_flow\n  = why: it has format {version},"
            f" and this version reads formats up to {FORMAT}\n  = fix: update imagen_flow"
        )
    try:
        document = Provenance.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:6])
        raise ProvenanceError(
            f"the provenance is damaged or forged\n  = why: {where}: {first['msg'].lower()}"
        ) from error
    except RecursionError as error:
        raise ProvenanceError("the provenance is nested too deep") from error
    _check(document)
    return document


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _check(document: Provenance) -> None:
    """Check that the parts fit together, so that callers need not."""
    if any(
        s.made_with >= len(document.made_with)
        or (s.conditions or 0) >= max(1, len(document.conditions))
        for s in document.steps
    ):
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: a step refers to a part that is missing"
        )
    if document.graph is not None and document.graph.file not in document.graph.files:
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: the text of its graph is missing"
        )
    if document.provenance == "full" and document.graph is None:
        raise ProvenanceError(
            "the provenance is damaged or forged\n  = why: its level is full, but it has no graph"
        )
