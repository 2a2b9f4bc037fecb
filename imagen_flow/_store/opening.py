"""Check whether a folder can be a store, and open what is in it."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import sys
from pathlib import Path

from .._system.seals import Seals
from ..errors import StoreError
from .index import Index
from .index_file import IndexFile, NewerFormat
from .locks import Claims, InUse
from .objects import remove

__all__ = ["network_file_system", "open_folder"]

#: How long to wait for another process that is opening the store.
PATIENCE_S = 30

_FOLDERS = ("objects", "trees", "scratch", "pins")
_OURS = frozenset(
    {
        "index.sqlite",
        "index.sqlite-journal",
        "index.sqlite-wal",
        "index.sqlite-shm",
        "files.sqlite",
        "files.sqlite-journal",
        "files.sqlite-wal",
        "files.sqlite-shm",
        "locks",
        "locks.owner",
        "CACHEDIR.TAG",
        "lost+found",
        *_FOLDERS,
    }
)
_NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\w*|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|rclone|glusterfs|s3fs|gcsfuse|davfs\w*|ceph\w*)|davfs)\Z"
)
_OTHER_FOLDER = "name another folder with --store or IMAGEN_FLOW_STORE"


def open_folder(folder: Path, seals: Seals) -> tuple[Path, Index, Claims, list[str]]:
    """Open a folder as a store; create the store if there is none. Returns the folder's real path,
    the open index and claims, and warnings.

    Raises:
        StoreError: the folder cannot be used; the message says why and how to fix it.
    """
    folder = Path(os.path.abspath(folder))
    _check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = Path(os.path.realpath(folder))
        for name in _FOLDERS:
            if os.path.lexists(folder / name) and not (folder / name).is_dir():
                remove(folder / name)
            (folder / name).mkdir(exist_ok=True)
            if (folder / name).is_symlink():
                # Following the link would write and remove files elsewhere.
                raise _unusable(
                    folder,
                    f"its '{name}' is a link",
                    f"remove the link, or {_OTHER_FOLDER}",
                )
        tag = folder / "CACHEDIR.TAG"
        if not os.path.lexists(tag):
            tag.write_text(
                "Signature: 8a477f597d28d172789f06886806bc55\n# Created by imagen_flow: can be"
                " recreated, needs no backup.\n"
            )
        if os.path.lexists(folder / "locks") and not stat.S_ISREG(
            os.lstat(folder / "locks").st_mode
        ):
            remove(folder / "locks")
        claims = Claims(folder / "locks", wait_s=PATIENCE_S)
    except InUse as in_use:
        raise _unusable(
            folder, in_use.strerror or "", f"{in_use.fix}, or {_OTHER_FOLDER}"
        ) from in_use
    except OSError as error:
        raise _unusable(
            folder, f"{error.strerror or error}", f"make it writable, or {_OTHER_FOLDER}"
        ) from error
    try:
        with claims.opening(PATIENCE_S):
            index, warnings = _open_index(folder, seals=seals, exclusive=claims.exclusive)
    except BaseException:
        claims.close()
        raise
    if claims.exclusive:
        warnings.append(
            f"the file system of the store {folder} has no locks: only one process at a time can"
            " use it"
        )
    return folder, index, claims, warnings


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise _unusable(folder, "it is a file, not a folder", _OTHER_FOLDER)
    if sys.platform == "linux" and (kind := network_file_system(folder)):
        raise _unusable(
            folder,
            f"it is on a network file system ({kind}), where locks are unreliable",
            f"{_OTHER_FOLDER} on a local disk",
        )
    try:
        if folder.is_dir() and not (folder / "index.sqlite").exists():
            foreign = sorted(
                e.name
                for e in os.scandir(folder)
                if e.name not in _OURS and not e.name.startswith((".", "index.damaged-"))
            )
            if foreign:
                raise _unusable(
                    folder,
                    f"it is not a store and not empty (it contains '{foreign[0]}')",
                    f"{_OTHER_FOLDER}, a new or empty one",
                )
    except OSError as error:
        raise _unusable(
            folder, f"{error.strerror or error}", f"make it readable, or {_OTHER_FOLDER}"
        ) from error


def network_file_system(folder: Path, mounts: str | None = None) -> str:
    """Name the type of the network file system that a folder is on; empty if it is on a local one.
    `mounts` is the text of ``/proc/self/mountinfo``.
    """
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
        # Later mounts hide earlier ones on the same path.
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, after.split()[0]
    return kind if _NETWORK.match(kind) else ""


def _open_index(folder: Path, *, seals: Seals, exclusive: bool) -> tuple[Index, list[str]]:
    """Open the index. Returns it with warnings, such as that a damaged one was set aside."""
    warnings: list[str] = []
    try:
        file = IndexFile(folder / "index.sqlite", exclusive=exclusive, warn=warnings.append)
    except NewerFormat as newer:
        raise _unusable(
            folder,
            f"it was created by a newer imagen_flow (format {newer})",
            f"update imagen_flow, or {_OTHER_FOLDER}",
        ) from newer
    except (sqlite3.Error, OSError) as refused:
        raise _unusable(
            folder,
            f"its index cannot be opened: {refused}",
            f"make it writable, free disk space, or {_OTHER_FOLDER}",
        ) from refused
    return Index(file, seals), warnings


def _unusable(folder: Path, why: str, fix: str) -> StoreError:
    return StoreError(f"the store '{folder}' cannot be used\n  = why: {why}\n  = fix: {fix}")
