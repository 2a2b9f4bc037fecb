"""Keep folders that are derived from models or files at some cost, under a key of their own, so that
they are made once. Such a folder is a record like that of a step: verified when it is used, made
again if it is damaged, and counted, pinned and collected with the others.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._types.values import Folder
from .objects import remove
from .store import Store
from .values import Damaged

__all__ = ["derive_folder"]

_PORT = "folder"


def derive_folder(
    store: Store,
    key: str,
    make: Callable[[Path], object],
    *,
    provenance: Mapping[str, Any],
    cancel: threading.Event | None = None,
) -> Path | None:
    """Return the folder of a key; if there is none, or it is damaged, make it first. Of several
    threads and processes that want it at once, one makes it and the others wait.

    Params:
        make: fills the empty folder that it is given. What it has written is lost if it raises or
            the process ends.
    Outputs: the folder, whose files must not be changed; None if `cancel` was set while another
        process was making it.
    Raises:
        OSError: it cannot be kept.
        Exception: whatever `make` raises.
    """
    if not store.lease(key, wait_s=math.inf, cancel=cancel):
        return None
    try:
        if (found := _find(store, key)) is not None:
            return found
        scratch = store.scratch(key)
        for left in list(scratch.iterdir()):
            remove(left)
        try:
            make(scratch)
            folder = store.adopt(Folder(scratch, "", ()))
            artifact = store.codecs.artifact(folder)
            store.keep(key, {_PORT: (artifact, folder)}, provenance)
        finally:
            store.drop_scratch(key)
        found = folder.path
        assert isinstance(found, Path)
        return found
    finally:
        store.release(key)


def _find(store: Store, key: str) -> Path | None:
    record = store.lookup(key)
    artifact = record.outputs.get(_PORT) if record is not None else None
    if artifact is None:
        return None
    try:
        folder = store.load(artifact)
    except Damaged:
        return None
    return folder.path if isinstance(folder, Folder) else None
