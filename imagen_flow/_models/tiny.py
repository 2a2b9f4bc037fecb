"""Keep tiny models that plugins make in place of others."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from .quiet import quiet_libraries

__all__ = ["keep_tiny"]


def keep_tiny(folder: Path, kind: str, make: Callable[[Path], object]) -> Path:
    """Return the path of a kept tiny model; it is made first if it is not there, with the same
    random weights everywhere. Of several processes that make one, the first that ends is kept.

    Params:
        folder: where tiny models of one make are kept; it is to be another one when the plugin or
            the library that saves the model changes.
        kind: its name there.
        make: called with a path of that name in a temporary folder; it saves the model there, as a
            folder.
    """
    kept = folder / kind
    if not kept.is_dir():
        temporary = folder / f".{kind}-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        import torch
        import transformers.utils.logging  # noqa: F401  # only what is imported can be silenced

        try:
            with quiet_libraries(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                make(temporary / kind)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(temporary / kind, kept)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return kept
