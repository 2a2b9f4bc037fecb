"""What a step gave, and the text by which the index remembers it: a line for each output."""

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

#: How many notes are kept with a step, and how much of each.
MAX_NOTES, MAX_NOTE_LENGTH = 20, 1000

#: Write JSON data without spaces. Made once: json.dumps would make an encoder for every call.
write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Record:
    """What a step gave: `outputs` by port, and how, in `provenance` (read only when asked for)."""

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
        """What the node had to say of its result, as warnings. Anything may stand in a record: what
        is no note is passed over.
        """
        found = self.provenance.get("notes")
        return (
            tuple(note[:MAX_NOTE_LENGTH] for note in found[:MAX_NOTES] if isinstance(note, str))
            if isinstance(found, list)
            else ()
        )


def write_outputs(outputs: Mapping[str, Artifact]) -> str:
    """Write outputs a line each: port, kind, digest, and for a list its elements as JSON."""
    lines = []
    for port, artifact in outputs.items():
        line = f"{port} {artifact.kind} {artifact.digest}"
        lines.append(
            line if artifact.items is None else f"{line} {write_json(_plain(artifact)[2])}"
        )
    return "\n".join(lines)


def read_outputs(text: str) -> dict[str, Artifact]:
    """Read what `write_outputs` wrote. Raises ValueError for anything else."""
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
    """Give the digests of all values that a record names, those of lists' elements but not of
    lists; none if it is damaged.
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
    """Give what a list holds, lists in lists gone through, each with its live value (None if there
    is none).
    """
    pending = [(artifact, value)]
    while pending:
        here, live = pending.pop()
        if here.items is None:
            yield here, live
        else:
            pending.extend(
                zip(
                    here.items, live if live is not None else (None,) * len(here.items), strict=True
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
