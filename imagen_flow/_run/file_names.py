"""Give the names of files that the path of an output uses: ``{photos.stem}``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._graph import FromInput, Output
from .._outputs.templates import FILE_PARTS
from .._plan import Frame, Unknown, Values
from .._store import Damaged
from .._types.artifact import Artifact
from .._types.values import File
from ..errors import OutputError

__all__ = ["file_names", "planned_file_names"]


def file_names(
    values: Values,
    top: Frame,
    output: Output,
    index: int,
    value: Callable[[Artifact], Any],
) -> dict[str, str]:
    """Give the fields of an output's path that are parts of names.

    Params:
        index: of the element that is written, where the output is a list.
        value: gives the live value of an artifact.

    Raises:
        OutputError: there is no file, or its name is not known.
    """
    fields: dict[str, str] = {}
    for name, source in output.files.items():
        slot = values.bind(top, source)
        if isinstance(slot, Artifact) and slot.items is not None:
            slot = slot.items[index]
        kind = "absent" if isinstance(slot, Unknown) else slot.kind
        file = value(slot) if isinstance(slot, Artifact) and kind == "file" else None
        if not isinstance(file, File) or not file.significant_name:
            why = f"it is {kind}" if file is None else "it is a file whose name is not known"
            raise OutputError(
                f"the path '{output.path}' needs the name of '{name}'\n  = why: {why}\n  = fix: use"
                f" {{output}}, {{index}} or {{digest8}} instead"
            )
        fields |= _parts(name, file)
    return fields


def planned_file_names(
    values: Values, top: Frame, output: Output, index: int | str
) -> dict[str, str]:
    """Give the fields as far as they are known before the run; the others are left as they are."""
    try:
        number = index if isinstance(index, int) else -1
        if number >= 0 or all(isinstance(s, FromInput) for s in output.files.values()):
            return file_names(values, top, output, number, values.value)
    except (OutputError, Damaged, LookupError):
        pass
    return {f"{name}.{part}": f"{{{name}.{part}}}" for name in output.files for part in FILE_PARTS}


def _parts(name: str, file: File) -> dict[str, str]:
    texts = (file.significant_name.rpartition("/")[2], file.stem, file.suffix, file.folder)
    return {f"{name}.{part}": text for part, text in zip(FILE_PARTS, texts, strict=True)}
