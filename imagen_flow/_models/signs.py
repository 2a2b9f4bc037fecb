"""Notice that a model's files are no longer those that were digested, by what the file system says
of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .._types.models import Model
from .._types.values import FileChanged

__all__ = ["Sign", "check_unchanged", "is_unchanged", "sign_of"]

#: Device, inode, size, and the times of the last change, of content and of anything.
Sign = tuple[int, int, int, int, int]


def sign_of(path: Path | str) -> Sign:
    """Say what the file system says of a file; zeros where it says nothing."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return (0, 0, 0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_unchanged(model: Model, folders: Collection[str] = ()) -> bool:
    """Tell whether the files of a model, and of those parts of other models that stand in it, are
    what they were when they were digested, as far as that was noted.

    Params:
        folders: those directly below the model's that count; default: everything.
    """
    return all(
        sign_of(path) == sign
        for path, sign in model.signs
        if not folders or _is_in(path, model.folder, folders)
    ) and all(
        is_unchanged(part) for name, part in model.replaced_parts if not folders or name in folders
    )


def _is_in(path: str, home: Path, folders: Collection[str]) -> bool:
    place = Path(path)
    return (
        place.is_relative_to(home)
        and place.relative_to(home).parts[:1] != ()
        and place.relative_to(home).parts[0] in folders
    )


def check_unchanged(model: Model, folders: Collection[str] = ()) -> None:
    """Raise FileChanged unless `is_unchanged`."""
    if not is_unchanged(model, folders):
        raise FileChanged(
            f"the model '{model.reference or model.path.name}' has changed since it was digested"
        )
