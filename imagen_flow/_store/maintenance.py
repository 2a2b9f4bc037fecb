"""Look after a store: remove what was not used for long, read everything again, say how large it
is.

Each function expects that what was kept is written (`RecordWriter.flush`).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._types.artifact import Artifact
from ..errors import StoreError
from .locks import Claims, lock_number
from .objects import remove, size_of
from .pins import Pins
from .records import referenced_digests
from .values import FILE_KINDS, Damaged, ValueStore

__all__ = ["CleanupReport", "VerificationReport", "clean", "clear", "info", "verify"]

#: An object that no record names may be about to get one: clean-up lets it be until it is this
# old. So with the scratch folders of steps that never ended.
ORPHAN_S = 3600
SCRATCH_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What a clean-up did."""

    steps_removed: int
    values_removed: int
    bytes_freed: int
    bytes_left: int
    steps_pinned: int


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a verification found: how many values were read, and what was damaged (and is now
    forgotten).
    """

    checked: int
    damaged: tuple[str, ...]


def info(folder: Path, value_store: ValueStore, pins: Pins) -> dict[str, Any]:
    """Say where the store is, how much it holds and how large it is."""
    disk = sum(size_of(path) for path in _every_file(folder))
    return {
        "folder": str(folder),
        **value_store.index.summary(),
        "disk_bytes": disk,
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
    """Remove steps, longest unused first, until the store holds at most `max_size` bytes and none
    unused for `older_than_s`.

    Values go with the last step that gave them. What living runs have pinned stays.
    """
    pinned = pins.pinned()
    invalid = value_store.index.remove_invalid_rows()
    rows = {
        digest: (kind, size, location)
        for digest, kind, size, location in value_store.index.all_values()
    }
    content = {
        digest: value_store.stored_content(digest)
        for digest, (kind, _, _) in rows.items()
        if kind in FILE_KINDS
    }
    weights = {
        digest: size + sum(n for _, n in content.get(digest, ()))
        for digest, (_, size, _) in rows.items()
    }
    steps = [
        (key, referenced_digests(outputs), used, size)
        for key, outputs, used, size in value_store.index.all_steps()
    ]
    uses = Counter(digest for _, digests, _, _ in steps for digest in digests)
    total = sum(size for *_, size in steps) + sum(weights.get(digest, 0) for digest in uses)
    before = total
    gone: list[str] = []
    held = 0
    for key, digests, used, size in steps:
        old = older_than_s is not None and now - used > older_than_s
        if not old and (max_size is None or total <= max_size):
            continue
        if key in pinned or not pinned.isdisjoint(digests):
            held += 1
            continue
        gone.append(key)
        total -= size
        for digest in digests:
            uses[digest] -= 1
            if uses[digest] == 0:
                total -= weights.get(digest, 0)
    values = [digest for digest in rows if not uses[digest] and digest not in pinned]
    value_store.index.remove(
        steps=gone, values=values, history_before=0 if older_than_s is None else now - older_than_s
    )
    dropped = set(values)
    wanted: set[str] = set()
    loose: set[str] = set()
    for digest, (_, _, location) in rows.items():
        (loose if digest in dropped else wanted).update(
            (location, *(p for p, _ in content.get(digest, ())))
        )
    _sweep(folder, value_store, claims, wanted, loose - wanted, now)
    value_store.index.shrink()
    return CleanupReport(len(gone) + invalid, len(values), before - total, total, held)


def _sweep(
    folder: Path,
    value_store: ValueStore,
    claims: Claims,
    wanted: set[str],
    loose: set[str],
    now: float,
) -> None:
    """Remove loose places, and whatever nobody wants and is old enough not to be about to be
    wanted.
    """
    for location in sorted(loose - {""}):
        with contextlib.suppress(ValueError):
            remove(value_store.objects.path(location))
    for location, path in value_store.objects.walk():
        if location not in wanted and now - _changed(path) > ORPHAN_S:
            remove(path)
    for path in sorted((folder / "trees").iterdir()):
        if f"trees/{path.name}" not in wanted and now - _changed(path) > ORPHAN_S:
            remove(path)
    for path in sorted((folder / "scratch").iterdir()):
        if now - _changed(path) > SCRATCH_S and claims.is_free(lock_number(path.name)):
            remove(path)


def verify(
    value_store: ValueStore, progress: Callable[[int, int], None] | None = None
) -> VerificationReport:
    """Read everything again. What is damaged or missing is forgotten together with the steps that
    gave it.
    """
    value_store.index.check()
    damaged = (
        [f"{invalid} rows of the index make no sense"]
        if (invalid := value_store.index.remove_invalid_rows())
        else []
    )
    rows = value_store.index.all_values()
    for done, (digest, kind, _, _) in enumerate(rows, 1):
        try:
            value_store.read(Artifact(digest, kind), of_anybody=True)
        except Damaged as found:
            damaged.append(str(found))
        if progress:
            progress(done, len(rows))
    there = {digest for digest, *_ in value_store.index.all_values()}
    lost = [
        key
        for key, outputs, _, _ in value_store.index.all_steps()
        if not there.issuperset(referenced_digests(outputs))
    ]
    value_store.index.remove(steps=lost)
    damaged += [f"step {key[:8]} has lost a value" for key in lost]
    return VerificationReport(len(rows), tuple(damaged))


def clear(folder: Path, value_store: ValueStore, pins: Pins) -> None:
    """Remove everything kept.

    Raises:
        StoreError: a run is using it.
    """
    if pins.living():
        raise StoreError(
            f"the store {folder} is in use by a run\n  = fix: let the run end, then clear"
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
    value_store.index.shrink()


def _every_file(folder: Path) -> Iterator[Path]:
    pending = [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield Path(entry.path)


def _changed(path: Path) -> float:
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return float("inf")
