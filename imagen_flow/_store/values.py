"""Store values: encode them into the index, or into an object if they are large, and read them back
with their digest checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from .._types.artifact import Artifact
from .._types.codec import Codecs
from ..errors import StoreError
from .folders import FolderStore
from .index import DamagedRow, Index, ValueRow
from .objects import Objects, size_of

__all__ = ["FILE_KINDS", "PLAIN_KINDS", "Damaged", "ValueStore"]

#: Encoded values up to this size are stored in the index.
MAX_INLINE_BYTES = 64 * 1024

#: Kinds whose encoding refers to files.
FILE_KINDS = frozenset({"file", "folder", "model"})

#: Kinds of small plain data: writing them again costs less than asking whether they are there.
PLAIN_KINDS = frozenset({"bool", "int", "float", "text", "json", "absent"})


class Damaged(StoreError):
    """A stored value is missing or damaged. It and the steps that produced it have been removed."""

    def __init__(self, artifact: Artifact, why: str) -> None:
        self.artifact = artifact
        self.why = why
        super().__init__(f"the store's {artifact.kind} {artifact.digest[:8]} {why}")


class ValueStore:
    """The values of a store that are written. Lists are not values here, their elements are."""

    def __init__(
        self,
        index: Index,
        objects: Objects,
        folders: FolderStore,
        codecs: Codecs,
        *,
        warn: Callable[[str], None],
    ) -> None:
        self.index = index
        self.objects = objects
        self.folders = folders
        self._root = objects.root
        self._codecs = codecs
        self._warn = warn

    def encode(self, artifact: Artifact, value: Any) -> ValueRow | None:
        """Encode a value, write its object if it is large, and return its row for the index; None
        if the value is there already.
        """
        if (
            artifact.kind not in PLAIN_KINDS
            and artifact.kind not in FILE_KINDS
            and self.has(artifact.digest)
        ):
            return None
        kind, suffix, data = self._codecs.encode(value, self._root)
        if kind in FILE_KINDS:
            # The digest covers the content alone; the seal covers its name and location too.
            data = (
                self.index.seals.make("value", artifact.digest, kind, data).hex().encode()
                + b"\n"
                + data
            )
        if len(data) <= MAX_INLINE_BYTES:
            return (artifact.digest, kind, len(data), "", data)
        return (
            artifact.digest,
            kind,
            len(data),
            self.objects.put(artifact.digest, suffix, data),
            None,
        )

    def has(self, digest: str) -> bool:
        """Tell cheaply whether a value is there, without checking its content."""
        try:
            row = self.index.location(digest)
        except sqlite3.Error:
            return False
        if row is None:
            return False
        location, size = row
        return not location or size_of(self._root / location) == size

    def read(self, artifact: Artifact, *, trust_any: bool = False) -> Any:
        """Read a value and check its digest. With `trust_any`, accept values that others sealed
        even where only the user's own are trusted.

        Raises:
            Damaged: the value is missing or damaged; it and the steps that produced it have been
                removed.
        """
        try:
            row = self.index.value(artifact.digest)
        except sqlite3.Error as error:
            raise Damaged(artifact, f"cannot be read: {error}") from error
        except DamagedRow as error:
            self._forget(artifact, "")
            raise Damaged(artifact, f"is damaged: {error}") from error
        if row is None:
            # A value leaves memory only after it was committed, so one that is in neither is really
            # missing.
            self._forget(artifact, "")
            raise Damaged(artifact, "is missing")
        kind, size, location, body = row
        try:
            value = self._decode(
                artifact.digest,
                kind,
                self.objects.read(location, size) if body is None else body,
                trust_any,
            )
            if kind in FILE_KINDS:
                self.folders.check(value)
            if self._codecs.digest(value) != artifact.digest:
                raise ValueError("its content has changed")
        except FileNotFoundError as gone:
            self._forget(artifact, location)
            raise Damaged(artifact, f"is missing ({gone.filename})") from gone
        except Exception as error:
            # a decoder or a digest may fail in any way on damaged data
            self._forget(artifact, location)
            raise Damaged(artifact, f"is damaged: {error}") from error
        return value

    def _decode(self, digest: str, kind: str, data: bytes, trust_any: bool) -> Any:
        if kind in FILE_KINDS:
            seal, _, data = data.partition(b"\n")
            seals = self.index.seals
            if not (seals.is_intact if trust_any else seals.is_trusted)(
                bytes.fromhex(seal.decode()), "value", digest, kind, data
            ):
                raise ValueError("its seal does not match")
        return self._codecs.decode(kind, data, self._root)

    def stored_content(self, digest: str) -> tuple[tuple[str, int], ...]:
        """List the locations in the store, with their sizes, that a file, folder or model depends
        on beside its own encoding.
        """
        try:
            row = self.index.value(digest)
            if row is None:
                return ()
            kind, size, location, body = row
            return self.folders.stored_content(
                self._decode(
                    digest, kind, self.objects.read(location, size) if body is None else body, True
                )
            )
        except Exception:  # as in `read`
            return ()

    def _forget(self, artifact: Artifact, location: str) -> None:
        try:
            self.index.forget(artifact.digest)
            if location:
                self.objects.path(location).unlink(missing_ok=True)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._warn(f"a damaged value cannot be removed from the store {self._root}: {error}")
