"""Tell which process a temporary file belongs to, and remove the files of processes that ended.

A process name consists of the host, the boot id, the process id and the start time, so that a later
process with the same id has another name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from hashlib import blake2b
from pathlib import Path

__all__ = ["is_alive", "process_name", "sweep", "temporary_name"]

#: How long another host, whose processes are not visible here, may take to write a file.
STALE_S = 24 * 3600

_NAME = re.compile(r"([0-9a-f]{8})_([0-9a-f]{8})_(\d{1,10})_(\d{1,20})\Z")
# No dash: file names with a dash belong to hot folder workers, which clean up for themselves.
_TEMPORARY = re.compile(
    r"\.imagen_flow-(?:(?P<process>[0-9a-f]{8}_[0-9a-f]{8}_\d{1,10}_\d{1,20})_)?[0-9a-f]{8,16}\.(tmp|old)\Z"
)


def process_name() -> str:
    """Give the name of this process, for use in file names."""
    return f"{_host()}_{_boot_id()}_{os.getpid()}_{_start_time(os.getpid())}"


def is_alive(name: str) -> bool | None:
    """Tell whether the named process is running; None if it is unknown: the process belongs to
    another host, the system cannot tell (Windows), or the name is invalid.
    """
    found = _NAME.match(name)
    if found is None or found[1] != _host() or os.name == "nt":
        return None
    pid = int(found[3])
    if found[2] != _boot_id() or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError as gone:
        if gone.errno in (errno.ESRCH, errno.EINVAL):
            return False
        return None
    return _start_time(pid) == int(found[4])


def temporary_name(ending: str = ".tmp") -> str:
    """Name a file that this process writes and then renames or removes, so that `sweep` can
    recognise it.
    """
    return f".imagen_flow-{process_name()}_{os.urandom(4).hex()}{ending}"


def sweep(folder: Path) -> None:
    """Remove the temporary files that ended processes left in a folder. Failures are ignored."""
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
                    import shutil

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _host() -> str:
    import platform

    return _short_digest(platform.node())


def _boot_id() -> str:
    try:
        return _short_digest(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    except (OSError, ValueError):
        return "0" * 8


def _start_time(pid: int) -> int:
    """Give a process's start time in the system's own unit; 0 if it is unknown."""
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
        )
    except (OSError, ValueError, IndexError):
        return 0


def _short_digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=4).hexdigest()
