"""Say which process something on the disk belongs to, and remove what processes left that have
ended.

A process is named by its host, the host's start, its number and its own start, so that a later one
with the same number is another. Nothing that runs goes by these names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import time
from hashlib import blake2b
from pathlib import Path

__all__ = ["is_alive", "process_name", "sweep", "temporary_name"]

#: How long the writing of a file may take on another host, whose processes cannot be seen from
# here.
STALE_S = 24 * 3600

_NAME = re.compile(r"([0-9a-f]{8})_([0-9a-f]{8})_(\d{1,10})_(\d{1,20})\Z")
# Without a dash: a dash stands behind the token of a hot folder's worker, which sweeps for itself.
_TEMPORARY = re.compile(
    r"\.imagen_flow-(?:(?P<process>[0-9a-f]{8}_[0-9a-f]{8}_\d{1,10}_\d{1,20})_)?[0-9a-f]{8,16}\.(tmp|old)\Z"
)


def process_name() -> str:
    """Name this process, for file names and the like."""
    return f"{_host()}_{_boot()}_{os.getpid()}_{_start(os.getpid())}"


def is_alive(name: str) -> bool | None:
    """Tell whether the process of a name lives; None if it is one of another host, if that cannot
    be seen (Windows), or if the name makes no sense.
    """
    found = _NAME.match(name)
    if found is None or found[1] != _host() or os.name == "nt":
        return None
    pid = int(found[3])
    if found[2] != _boot() or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError as gone:
        if gone.errno in (errno.ESRCH, errno.EINVAL):
            return False
        return None
    return _start(pid) == int(found[4])


def temporary_name(ending: str = ".tmp") -> str:
    """Name a file that this process writes and then renames or removes, by which `sweep` knows it."""
    return f".imagen_flow-{process_name()}_{os.urandom(4).hex()}{ending}"


def sweep(folder: Path) -> None:
    """Remove what processes that have ended left in a folder while they wrote there. What cannot be
    removed stays.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (
                not entry.name.startswith(".imagen_flow-")
                or (found := _TEMPORARY.match(entry.name)) is None
            ):
                continue
            with contextlib.suppress(OSError):
                alive = is_alive(found["process"]) if found["process"] else None
                if alive is True or (
                    alive is None
                    and time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE_S
                ):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _host() -> str:
    return _short(platform.node())


def _boot() -> str:
    try:
        return _short(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    except (OSError, ValueError):
        return "0" * 8


def _start(pid: int) -> int:
    """When a process began, in the system's own measure; 0 where that cannot be seen."""
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
        )
    except (OSError, ValueError, IndexError):
        return 0


def _short(text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=4).hexdigest()
