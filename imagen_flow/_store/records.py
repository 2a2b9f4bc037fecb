"""Describe a step's results, and the text in which the index keeps its outputs: one line per
output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._types.artifact import Artifact

__all__ = [
    "MAX_NOTE_LENGTH",
    "MAX_NOTES",
    "Record",
    "referenced_digests",
    "leaves",
    "read_outputs",
    "write_json",
    "write_outputs",
]

#: How many notes of a step are kept, and how many characters of each.
MAX_NOTES, MAX_NOTE_LENGTH = 20, 1000

#: Write JSON without spaces. Created once, because json.dumps would create an encoder per call.
write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Record:
    """What a step produced: `outputs` by port, and its `provenance`, which is read only when
    needed.
    """

    __slots__ = ("_provenance", "key", "outputs")

    def __init__(
        self,
        key: str,
        outputs: dict[str, Artifact],
        provenance: Mapping[str, Any] | Callable[[str], Mapping[str, Any]],
    ) -> None:
        self.key = key
        self.outputs = outputs
        self._provenance = provenance

    @property
    def provenance(self) -> Mapping[str, Any]:
        if callable(self._provenance):
            self._provenance = self._provenance(self.key)
        return self._provenance

    @property
    def notes(self) -> tuple[str, ...]:
        """The node's notes on its result, shown as warnings. A record may hold anything: whatever
        is not a note is ignored.
        """
        found = self.provenance.get("notes")
        return (
            tuple(note[:MAX_NOTE_LENGTH] for note in found[:MAX_NOTES] if isinstance(note, str))
            if isinstance(found, list)
            else ()
        )


def write_outputs(outputs: Mapping[str, Artifact]) -> str:
    """Write outputs, one line each: port, kind, digest, and for a list its elements as JSON."""
    lines = []
    for port, artifact in outputs.items():
        line = f"{port} {artifact.kind} {artifact.digest}"
        lines.append(
            line if artifact.items is None else f"{line} {write_json(_plain(artifact)[2])}"
        )
    return "\n".join(lines)


def read_outputs(text: str) -> dict[str, Artifact]:
    """Read the text of `write_outputs`; ValueError for anything else."""
    outputs = {}
    try:
        for line in text.split("\n"):
            if line:
                words = line.split(" ", 3)
                if len(words) == 3:
                    outputs[words[0]] = Artifact(words[2], words[1])
                else:
                    port, kind, digest, items = words
                    outputs[port] = Artifact(digest, kind, tuple(map(_artifact, json.loads(items))))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return outputs


def referenced_digests(outputs: str) -> list[str]:
    """List the digests of all values that a record refers to: the elements of lists, not the lists
    themselves; none if the record is damaged.
    """
    try:
        return [
            leaf.digest
            for artifact in read_outputs(outputs).values()
            for leaf, _ in leaves(artifact, None)
        ]
    except ValueError:
        return []


def leaves(artifact: Artifact, value: Any) -> Iterator[tuple[Artifact, Any]]:
    """Yield the elements of nested lists, or the artifact itself if it is not a list, each with its
    live value (None if there is none).
    """
    pending = [(artifact, value)]
    while pending:
        current, live = pending.pop()
        if current.items is None:
            yield current, live
        else:
            pending.extend(
                zip(
                    current.items,
                    live if live is not None else (None,) * len(current.items),
                    strict=True,
                )
            )


def _plain(artifact: Artifact) -> list[Any]:
    if artifact.items is None:
        return [artifact.digest, artifact.kind]
    return [artifact.digest, artifact.kind, [_plain(item) for item in artifact.items]]


def _artifact(plain: list[Any]) -> Artifact:
    digest, kind, *items = plain
    if type(digest) is not str or type(kind) is not str:
        raise ValueError("an element of a list has no digest")
    return Artifact(digest, kind, tuple(map(_artifact, items[0])) if items else None)
