"""Say whether a folder can be a store, and open what lies in it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import sys
import time
from pathlib import Path

from ..errors import StoreError
from .index import Index, NewerFormat
from .locks import OPENING, Claims

__all__ = ["network_file_system", "open_folder"]

#: How long another process may take to open the store before we go ahead.
PATIENCE_S = 30

_FOLDERS = ("objects", "trees", "scratch", "pins")
_OURS = frozenset({"index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "files.sqlite", "files.sqlite-wal", "files.sqlite-shm",
                   "locks", "CACHEDIR.TAG", "lost+found", *_FOLDERS})  # fmt: skip
_NETWORK = re.compile(r"(nfs\d?|cifs|smb\w*|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|rclone|glusterfs|s3fs|gcsfuse|davfs\w*|ceph\w*)|davfs)\Z")
_OTHER = "name another folder with --store or IMAGEN_FLOW_STORE"


def open_folder(folder: Path) -> tuple[Path, Index, Claims, str]:
    """Make the folder a store if it is none yet. Gives its real path, its open index and claims, and a warning or nothing.

    Raises:
        StoreError: it cannot be one; says why, and how to mend it.
    """
    folder = Path(os.path.abspath(folder))
    _check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = Path(os.path.realpath(folder))
        for name in _FOLDERS:
            (folder / name).mkdir(exist_ok=True)
        tag = folder / "CACHEDIR.TAG"
        if not tag.exists():
            tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n# Kept by imagen_flow: can be made again, needs no backup.\n")
        claims = Claims(folder / "locks")
    except OSError as odd:
        raise _unusable(folder, f"{odd.strerror or odd}", f"make it writable, or {_OTHER}") from odd
    try:
        patience = time.monotonic() + PATIENCE_S
        while not claims.claim(OPENING) and time.monotonic() < patience:
            time.sleep(0.002)
        try:
            index, warning = _open_index(folder)
        finally:
            claims.release(OPENING)
    except BaseException:
        claims.close()
        raise
    return folder, index, claims, warning


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise _unusable(folder, "it is a file, not a folder", _OTHER)
    if sys.platform == "linux" and (kind := network_file_system(folder)):
        raise _unusable(folder, f"it lies on a network file system ({kind}), where locks cannot be relied on", f"{_OTHER} on a local disk")
    try:
        if folder.is_dir() and not (folder / "index.sqlite").exists():
            strange = sorted(e.name for e in os.scandir(folder) if e.name not in _OURS and not e.name.startswith((".", "index.damaged-")))
            if strange:
                raise _unusable(folder, f"it is no store and is not empty (it holds '{strange[0]}')", f"{_OTHER}, one that is new or empty")
    except OSError as odd:
        raise _unusable(folder, f"{odd.strerror or odd}", f"make it readable, or {_OTHER}") from odd


def network_file_system(folder: Path, mounts: str | None = None) -> str:
    """Name the network file system that a folder lies on, or nothing. `mounts` is the text of ``/proc/self/mountinfo``."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
        # Later mounts lie over earlier ones on the same place.
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, after.split()[0]
    return kind if _NETWORK.match(kind) else ""


def _open_index(folder: Path) -> tuple[Index, str]:
    """Open the index; put a damaged one aside and begin anew, and say so."""
    path = folder / "index.sqlite"
    try:
        return Index(path), ""
    except NewerFormat as newer:
        raise _unusable(folder, f"it was made by a newer imagen_flow (format {newer})", f"update imagen_flow, or {_OTHER}") from newer
    except sqlite3.OperationalError as odd:
        if not _is_damage(odd):
            raise _unusable(folder, f"its index cannot be opened: {odd}", f"make it writable, free some space, or {_OTHER}") from odd
        damage: sqlite3.Error = odd
    except sqlite3.DatabaseError as odd:
        damage = odd
    number = 1 + sum(1 for _ in folder.glob("index.damaged-*.sqlite"))
    aside = folder / f"index.damaged-{number}.sqlite"
    try:
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        index = Index(path)
    except (OSError, sqlite3.Error) as odd:
        raise _unusable(folder, f"its index is damaged ({damage}) and cannot be put aside: {odd}", _OTHER) from odd
    return index, f"the store's index was damaged ({damage}): it lies in {aside} now, and everything runs again"


def _is_damage(odd: sqlite3.Error) -> bool:
    # A table or column that is missing comes as an OperationalError, as does a disk that cannot be read.
    return "no such table" in str(odd) or "no such column" in str(odd) or "malformed" in str(odd)


def _unusable(folder: Path, why: str, fix: str) -> StoreError:
    return StoreError(f"the store '{folder}' cannot be used\n  = why: {why}\n  = fix: {fix}")
