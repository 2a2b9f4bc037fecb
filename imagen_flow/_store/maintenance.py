"""Maintain a store: collect garbage, verify all values, report its size.

Each function expects that all kept records are written (`RecordWriter.flush`).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from .._types.artifact import Artifact
from ..errors import StoreError
from .locks import Claims, lock_number
from .objects import remove
from .pins import Pins
from .records import referenced_digests
from .values import FILE_KINDS, Damaged, ValueStore

__all__ = ["CleanupReport", "VerificationReport", "clean", "clear", "info", "verify"]

#: An object that no record refers to may be about to get one: it is kept until it has this age. The
#: same holds for the scratch folders of unfinished steps.
ORPHAN_S = 3600
SCRATCH_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What a garbage collection did."""

    steps_removed: int
    values_removed: int
    bytes_freed: int
    bytes_left: int
    steps_pinned: int


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a verification found: how many values were read, and which were damaged (and are now
    removed).
    """

    checked: int
    damaged: tuple[str, ...]


def info(folder: Path, value_store: ValueStore, pins: Pins) -> dict[str, Any]:
    """Report where the store is, how much it holds and how large it is: a file that is linked in
    several places counts once.
    """
    return {
        "folder": str(folder),
        **value_store.index.summary(),
        "disk_bytes": sum(dict(_all_files(folder)).values()),
        "pinned": len(pins.pinned()),
    }


def clean(
    folder: Path,
    value_store: ValueStore,
    pins: Pins,
    claims: Claims,
    *,
    now: float,
    max_size: int | None,
    older_than_s: float | None,
) -> CleanupReport:
    """Remove steps, least recently used first, until the store holds at most `max_size` bytes and
    no step unused for `older_than_s`.

    Values are removed with the last step that produced them. What running processes have pinned
    stays.
    """
    pinned = pins.pinned()
    invalid_rows = value_store.index.remove_invalid_rows()
    rows = {
        digest: (kind, size, location)
        for digest, kind, size, location in value_store.index.all_values()
    }
    stored = {
        digest: value_store.stored_content(digest)
        for digest, (kind, _, _) in rows.items()
        if kind in FILE_KINDS
    }
    steps = [
        (key, referenced_digests(outputs), used, size)
        for key, outputs, used, size in value_store.index.all_steps()
    ]
    uses = Counter(digest for _, digests, _, _ in steps for digest in digests)
    # What files and folders hold is in the store once, however many of them have it.
    content = dict(part for digest in uses for part in stored.get(digest, ()))
    content_uses = Counter(location for digest in uses for location, _ in stored.get(digest, ()))
    total_bytes = (
        sum(size for *_, size in steps)
        + sum(rows[digest][1] for digest in uses if digest in rows)
        + sum(content.values())
    )
    total_before = total_bytes
    removed: list[str] = []
    pinned_steps = 0
    for key, digests, used, size in steps:
        expired = older_than_s is not None and now - used > older_than_s
        if not expired and (max_size is None or total_bytes <= max_size):
            continue
        if key in pinned or not pinned.isdisjoint(digests):
            pinned_steps += 1
            continue
        removed.append(key)
        total_bytes -= size
        for digest in digests:
            uses[digest] -= 1
            if uses[digest] == 0 and digest in rows:
                total_bytes -= rows[digest][1]
                for location, held in stored.get(digest, ()):
                    content_uses[location] -= 1
                    if content_uses[location] == 0:
                        total_bytes -= held
    values = [digest for digest in rows if not uses[digest] and digest not in pinned]
    value_store.index.remove(
        steps=removed,
        values=values,
        history_before=0 if older_than_s is None else now - older_than_s,
    )
    removed_values = set(values)
    referenced: set[str] = set()
    unreferenced: set[str] = set()
    for digest, (_, _, location) in rows.items():
        (unreferenced if digest in removed_values else referenced).update(
            (location, *(stored_location for stored_location, _ in stored.get(digest, ())))
        )
    _sweep(folder, value_store, claims, referenced, unreferenced - referenced, now)
    value_store.index.file.shrink()
    return CleanupReport(
        len(removed) + invalid_rows,
        len(values),
        total_before - total_bytes,
        total_bytes,
        pinned_steps,
    )


def _sweep(
    folder: Path,
    value_store: ValueStore,
    claims: Claims,
    referenced: set[str],
    unreferenced: set[str],
    now: float,
) -> None:
    """Remove the unreferenced locations, and whatever nothing refers to and is old enough not to be
    in the making.
    """
    for location in sorted(unreferenced - {""}):
        with contextlib.suppress(ValueError):
            remove(value_store.objects.path(location))
    for location, path in value_store.objects.walk():
        if location not in referenced and now - _change_time(path) > ORPHAN_S:
            remove(path)
    for path in sorted((folder / "trees").iterdir()):
        if f"trees/{path.name}" not in referenced and now - _change_time(path) > ORPHAN_S:
            remove(path)
    for path in sorted((folder / "scratch").iterdir()):
        if now - _change_time(path) > SCRATCH_S and claims.is_free(lock_number(path.name)):
            remove(path)


def verify(
    value_store: ValueStore, progress: Callable[[int, int], None] | None = None
) -> VerificationReport:
    """Read all values again. What is damaged or missing is removed together with the steps that
    produced it.
    """
    value_store.index.file.check()
    damaged = (
        [f"{invalid_rows} rows of the index are invalid"]
        if (invalid_rows := value_store.index.remove_invalid_rows())
        else []
    )
    rows = value_store.index.all_values()
    for done, (digest, kind, _, _) in enumerate(rows, 1):
        try:
            value_store.read(Artifact(digest, kind), trust_any=True)
        except Damaged as found:
            damaged.append(str(found))
        if progress:
            progress(done, len(rows))
    present = {digest for digest, *_ in value_store.index.all_values()}
    incomplete = [
        key
        for key, outputs, _, _ in value_store.index.all_steps()
        if not present.issuperset(referenced_digests(outputs))
    ]
    value_store.index.remove(steps=incomplete)
    damaged += [f"step {key[:8]} lacks a value" for key in incomplete]
    return VerificationReport(len(rows), tuple(damaged))


def clear(folder: Path, value_store: ValueStore, pins: Pins) -> None:
    """Remove everything.

    Raises:
        StoreError: a run is using the store.
    """
    if pins.active():
        raise StoreError(
            f"the store {folder} is in use by a run\n  = fix: wait for the run to end, then clear"
            " it"
        )
    value_store.index.clear()
    for path in [
        path
        for name in ("objects", "trees", "scratch")
        for path in sorted((folder / name).iterdir())
    ]:
        remove(path)
    for path in sorted(folder.glob("index.damaged-*")):
        remove(path)
    value_store.index.file.shrink()


def _all_files(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Give what tells the files of a folder apart, whatever their names, and their sizes."""
    pending = [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield (status.st_dev, status.st_ino), status.st_size


def _change_time(path: Path) -> float:
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return float("inf")
