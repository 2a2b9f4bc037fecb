"""Notice that a model's files are no longer those that were digested, by what the file system says
of them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .._system.file_signs import sign_of
from .._types.models import Model
from .._types.values import FileChanged

__all__ = ["check_unchanged", "files_of", "is_unchanged"]


def is_unchanged(model: Model, folders: Collection[str] = ()) -> bool:
    """Tell whether the files of a model, and of those parts of other models that replace its own,
    are what they were when they were digested, as far as that was noted.

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


def files_of(model: Model, folders: Collection[str] = ()) -> list[str]:
    """List the files of a model, and of those parts of other models that replace its own.

    Params:
        folders: as for `is_unchanged`.
    """
    own = [path for path, _ in model.signs if not folders or _is_in(path, model.folder, folders)]
    for name, part in model.replaced_parts:
        own += files_of(part) if not folders or name in folders else []
    return own


def _is_in(path: str, home: Path, folders: Collection[str]) -> bool:
    file = Path(path)
    return (
        file.is_relative_to(home)
        and file.relative_to(home).parts[:1] != ()
        and file.relative_to(home).parts[0] in folders
    )


def check_unchanged(model: Model, folders: Collection[str] = ()) -> None:
    """Raise FileChanged unless `is_unchanged`."""
    if not is_unchanged(model, folders):
        raise FileChanged(
            f"the model '{model.reference or model.path.name}' has changed since it was digested"
        )
