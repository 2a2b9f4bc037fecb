"""Pass files and folders to nodes without their names: a key covers only their content, so a result
must not depend on their names.

A node gets each file through a link that is named after its content. In what it returns the
original file is restored, and in what it raises the original name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._types.values import File, Folder

if TYPE_CHECKING:
    import tempfile

__all__ = ["AnonymousFiles"]

#: Digits of the digest in a name: enough to tell files apart, and recognisable as no real name.
NAME_DIGITS = 16

#: The longest suffix, in bytes, that is kept.
MAX_SUFFIX_BYTES = 32


#: Values without files, by far the most.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _has_name(value: File | Folder) -> bool:
    return isinstance(value, File) and bool(value.significant_name)


def _shown(original: File | Folder, link: Path) -> str:
    """The name that a node sees of a file: its own if the key covers it, else that of the link."""
    return original.significant_name if _has_name(original) else link.name  # type: ignore[union-attr]


class AnonymousFiles:
    """Links to the files and folders of a run, in a temporary folder. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        #: Links by target and name, and the original value of each.
        self._links: dict[tuple[str, str], Path] = {}
        self._originals: dict[Path, File | Folder] = {}

    def close(self) -> None:
        """Remove the links."""
        with self._lock:
            folder, self._folder = self._folder, None
            if folder is not None:
                folder.cleanup()

    def anonymize(self, value: Any) -> Any:
        """Replace every file and folder in a value by a link that is named after its content."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, File) and value.significant_name:  # the key covers the name
            link = self._link(value, value.significant_name)
            return replace(value, path=link, name=value.significant_name)
        if isinstance(value, File):
            link = self._link(
                value,
                value.digest[:NAME_DIGITS]
                + (value.suffix if len(os.fsencode(value.suffix)) <= MAX_SUFFIX_BYTES else ""),
            )
            return replace(value, path=link, name=link.name)
        if isinstance(value, Folder):
            link = self._link(value, value.digest[:NAME_DIGITS])
            # Names inside a folder are part of its content.
            return Folder(
                link,
                value.digest,
                tuple(
                    replace(file, path=link / os.path.relpath(file.path, value.path))
                    for file in value.files
                ),
            )
        if type(value) in (list, tuple) and any(
            isinstance(item, File | Folder | list | tuple) for item in value
        ):
            return [self.anonymize(item) for item in value]
        return value

    def restore(self, value: Any) -> Any:
        """Replace every link in a node's result by the original file or folder."""
        if not self._originals:
            return value
        if isinstance(value, File | Folder):
            original = self._originals.get(value.path)
            if original is not None and type(original) is type(value):
                if isinstance(value, File) and value.name != _shown(original, value.path):
                    return replace(value, path=original.path)  # the node calls it otherwise
                return original
            if (
                isinstance(value, File)
                and (inside := self._original_inside(value.path)) is not None
            ):
                return replace(value, path=inside)
            return value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.restore, value))
        if type(value) in (list, tuple) and any(
            isinstance(item, File | Folder | list | tuple) for item in value
        ):
            return type(value)(map(self.restore, value))
        return value

    def restore_names(self, error: BaseException, given: Mapping[str, Any]) -> None:
        """Replace the names of links in an exception's text by the original names."""
        names: dict[str, str] = {}
        for value in given.values():
            self._collect_names(value, names)
        if not names:
            return

        def restored(text: Any) -> Any:
            for hidden, name in names.items():
                text = text.replace(hidden, name) if isinstance(text, str) else text
            return text

        error.args = tuple(restored(argument) for argument in error.args)
        for attribute in ("filename", "filename2"):
            if isinstance(getattr(error, attribute, None), str):
                with suppress(AttributeError):
                    setattr(error, attribute, restored(getattr(error, attribute)))

    def _collect_names(self, hidden: Any, names: dict[str, str]) -> None:
        """Map the names of links to the original names; whole paths before names."""
        if isinstance(hidden, File | Folder):
            original = self._originals.get(hidden.path)
            if original is not None:
                names[str(hidden.path)] = str(original.path)
                names[hidden.path.name] = (
                    original.name if isinstance(original, File) else ""
                ) or original.path.name
        elif isinstance(hidden, list | tuple | dict):
            for item in hidden.values() if isinstance(hidden, dict) else hidden:
                self._collect_names(item, names)

    def _original_inside(self, path: Path) -> Path | None:
        for parent in path.parents:
            original = self._originals.get(parent)
            if isinstance(original, Folder):
                return original.path / path.relative_to(parent)
        return None

    def _link(self, value: File | Folder, name: str) -> Path:
        target = os.path.abspath(value.path)
        with self._lock:
            link = self._links.get((target, name))
            if link is None:
                if self._folder is None:
                    import tempfile

                    self._folder = tempfile.TemporaryDirectory(
                        prefix="imagen_flow-", ignore_cleanup_errors=True
                    )
                link = Path(self._folder.name, name)
                if link in self._originals or _has_name(value):
                    # Another file of equal content, or a name that another file may have too.
                    link = Path(self._folder.name, f"{len(self._links)}", name.rpartition("/")[2])
                    link.parent.mkdir()
                try:
                    link.symlink_to(target)
                except OSError:
                    # Where symbolic links are not allowed, use a hard link.
                    try:
                        os.link(target, link)
                    except OSError:
                        link = value.path
                self._links[target, name] = link
            self._originals[link] = value
            return link
