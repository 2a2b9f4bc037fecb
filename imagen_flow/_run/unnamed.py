"""Hand files and folders to nodes without their names: a key knows of their content alone, so that
a result must not depend on what they are called.

A node gets each under a name that is made of its content, through a link; what it gives back is the
file again, and what it raises speaks of it by its name.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._types.values import File, Folder

__all__ = ["Unnamed"]

#: Digits of a digest in a name: enough to tell files apart, and to be taken for no name.
DIGITS = 16

#: Bytes of an ending that is kept.
LONGEST = 32


class Unnamed:
    """Links to the files and folders of a run, in a folder of its own. May be used by several
    threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: tempfile.TemporaryDirectory[str] | None = None
        #: Links by what they lead to, and what was handed out under each.
        self._links: dict[tuple[str, str], Path] = {}
        self._known: dict[Path, File | Folder] = {}

    def close(self) -> None:
        """Remove the links."""
        with self._lock:
            home, self._home = self._home, None
            if home is not None:
                home.cleanup()

    def hide(self, value: Any) -> Any:
        """Give a value with every file and folder in it under a name made of its content."""
        if isinstance(value, File):
            link = self._link(
                value,
                value.digest[:DIGITS]
                + (value.suffix if len(os.fsencode(value.suffix)) <= LONGEST else ""),
            )
            return replace(value, path=link, name=link.name)
        if isinstance(value, Folder):
            link = self._link(value, value.digest[:DIGITS])
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
            return [self.hide(item) for item in value]
        return value

    def show(self, value: Any) -> Any:
        """Give what a node gave with every file and folder that it was given as it is called."""
        if not self._known:
            return value
        if isinstance(value, File | Folder):
            known = self._known.get(value.path)
            if known is not None and type(known) is type(value):
                return known
            if isinstance(value, File) and (inside := self._inside(value.path)) is not None:
                return replace(value, path=inside)
            return value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.show, value))
        if type(value) in (list, tuple) and any(
            isinstance(item, File | Folder | list | tuple) for item in value
        ):
            return type(value)(map(self.show, value))
        return value

    def tell(self, error: BaseException, given: Mapping[str, Any]) -> None:
        """Let an error speak of the files that a node was given by their names."""
        names: dict[str, str] = {}
        for value in given.values():
            self._names(value, names)
        if not names:
            return

        def told(text: Any) -> Any:
            for hidden, name in names.items():
                text = text.replace(hidden, name) if isinstance(text, str) else text
            return text

        error.args = tuple(told(argument) for argument in error.args)
        for attribute in ("filename", "filename2"):
            if isinstance(getattr(error, attribute, None), str):
                with suppress(AttributeError):
                    setattr(error, attribute, told(getattr(error, attribute)))

    def _names(self, hidden: Any, names: dict[str, str]) -> None:
        """Note what hidden files and folders are called; whole paths before names."""
        if isinstance(hidden, File | Folder):
            known = self._known.get(hidden.path)
            if known is not None:
                names[str(hidden.path)] = str(known.path)
                names[hidden.path.name] = (
                    known.name if isinstance(known, File) else ""
                ) or known.path.name
        elif isinstance(hidden, list | tuple):
            for item in hidden:
                self._names(item, names)

    def _inside(self, path: Path) -> Path | None:
        for above in path.parents:
            known = self._known.get(above)
            if isinstance(known, Folder):
                return known.path / path.relative_to(above)
        return None

    def _link(self, value: File | Folder, name: str) -> Path:
        place = os.path.abspath(value.path)
        with self._lock:
            link = self._links.get((place, name))
            if link is None:
                if self._home is None:
                    self._home = tempfile.TemporaryDirectory(
                        prefix="imagen_flow-", ignore_cleanup_errors=True
                    )
                link = Path(self._home.name, name)
                if link in self._known:  # another file of equal content
                    link = Path(self._home.name, f"{len(self._links)}", name)
                    link.parent.mkdir()
                try:
                    link.symlink_to(place)
                except OSError:
                    # Where links are not allowed, a second name for the same file does it.
                    try:
                        os.link(place, link)
                    except OSError:
                        link = value.path
                self._links[place, name] = link
            self._known[link] = value
            return link
