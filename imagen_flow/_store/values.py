"""Where values lie: encoded, small ones in the index, larger ones in an object; and read back,
digested again.
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

#: Encoded values up to this size lie in the index.
MAX_INLINE_BYTES = 64 * 1024

#: Kinds whose encoding says where their content lies.
FILE_KINDS = frozenset({"file", "folder", "model"})

#: Kinds that are plain data: written again sooner than asked whether they are there.
PLAIN_KINDS = frozenset({"bool", "int", "float", "text", "json", "absent"})


class Damaged(StoreError):
    """A kept value is missing or is not what it was. It and the steps that gave it are forgotten."""

    def __init__(self, artifact: Artifact, why: str) -> None:
        self.artifact = artifact
        self.why = why
        super().__init__(f"the store's {artifact.kind} {artifact.digest[:8]} {why}")


class ValueStore:
    """The values of a store that are written. Lists are no values here: their elements are."""

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
        """Encode a value and put it in place, and give its row for the index; None if it is there
        already.
        """
        if (
            artifact.kind not in PLAIN_KINDS
            and artifact.kind not in FILE_KINDS
            and self.has(artifact.digest)
        ):
            return None
        kind, suffix, data = self._codecs.encode(value, self._root)
        if kind in FILE_KINDS:
            # The digest is over the content alone; the seal is over its name and place too.
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
        """Tell cheaply whether a value is there (not whether it is whole)."""
        try:
            row = self.index.location(digest)
        except sqlite3.Error:
            return False
        if row is None:
            return False
        location, size = row
        return not location or size_of(self._root / location) == size

    def read(self, artifact: Artifact, *, of_anybody: bool = False) -> Any:
        """Give a value, digested again; `of_anybody`, also where only the user's own records are
        believed.

        Raises:
            Damaged: it is missing or is not what it was; what gave it is forgotten.
        """
        try:
            row = self.index.value(artifact.digest)
        except sqlite3.Error as error:
            raise Damaged(artifact, f"cannot be read: {error}") from error
        except DamagedRow as error:
            self._forget(artifact, "")
            raise Damaged(artifact, f"is damaged: {error}") from error
        if row is None:
            # It may have been committed between the look at what is live and the look at the index,
            # but never the other way round.
            self._forget(artifact, "")
            raise Damaged(artifact, "is missing")
        kind, size, location, body = row
        try:
            value = self._decode(
                artifact.digest,
                kind,
                self.objects.read(location, size) if body is None else body,
                of_anybody,
            )
            if kind in FILE_KINDS:
                self.folders.check(value)
            if self._codecs.digest(value) != artifact.digest:
                raise ValueError("is not what was kept")
        except FileNotFoundError as gone:
            self._forget(artifact, location)
            raise Damaged(artifact, f"is missing ({gone.filename})") from gone
        except (
            Exception
        ) as error:  # whatever rubbish makes a decoder or a digest stumble, the value is at fault
            self._forget(artifact, location)
            raise Damaged(artifact, f"is damaged: {error}") from error
        return value

    def _decode(self, digest: str, kind: str, data: bytes, of_anybody: bool) -> Any:
        if kind in FILE_KINDS:
            seal, _, data = data.partition(b"\n")
            seals = self.index.seals
            if not (seals.is_intact if of_anybody else seals.is_trusted)(
                bytes.fromhex(seal.decode()), "value", digest, kind, data
            ):
                raise ValueError("it is not what was written here")
        return self._codecs.decode(kind, data, self._root)

    def stored_content(self, digest: str) -> tuple[tuple[str, int], ...]:
        """Give the places in the store (and sizes) that a file, folder or model stands on, beside
        its own encoding.
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
        except Exception:  # as in reading
            return ()

    def _forget(self, artifact: Artifact, location: str) -> None:
        try:
            self.index.forget(artifact.digest)
            if location:
                self.objects.path(location).unlink(missing_ok=True)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._warn(f"a damaged value cannot be removed from the store {self._root}: {error}")
