"""Keep the files, folders and models that nodes made.

One that lies in a scratch folder is moved in: the content of each file becomes an object, and a folder or a model is laid out again from them in ``trees/DIGEST``, after the
list of its files in ``trees/DIGEST.json``. One that lies elsewhere belongs to the user: it is kept as a reference (path, size, digest), never copied; if it is no longer there
with the same content, what depends on it is damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..codec import inside
from ..filememo import FileMemo, folder_digest, model_digest, walk
from ..values import File, FileChanged, Folder, Model
from .objects import Objects, is_whole, lay_out

__all__ = ["Trees"]


class Trees:
    """Files, folders and models in a store: `objects` has their content, `files` digests them."""

    def __init__(self, objects: Objects, files: FileMemo) -> None:
        self._folder = objects.root / "trees"
        self._root = objects.root
        self._scratch = objects.root / "scratch"
        self._objects = objects
        self._files = files

    # ---- taking in

    def adopt(self, value: Any) -> Any:
        """Move in what lies in a scratch folder, digest what lies outside, in lists too, and give the value as it is to be passed on.

        Raises:
            OSError: a file that the node named is not there.
            FileChanged: a file outside has another content than its digest says, or is gone.
        """
        if isinstance(value, File):
            return self._adopt_file(value)
        if isinstance(value, Folder | Model):
            return self._adopt_tree(value)
        if type(value) in (list, tuple) and any(isinstance(item, File | Folder | Model | list | tuple) for item in value):
            return [self.adopt(item) for item in value]
        return value

    def find(self, digest: str) -> Folder | None:
        """Give a folder that was laid out here and still has the content that its digest says."""
        place = self._folder / digest
        found = self._files.folder_value(place) if place.is_dir() else None
        return found if found is not None and found.digest == digest else None

    def _is_ours(self, path: Path) -> bool:
        return path.is_relative_to(self._root)

    def _in_scratch(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._scratch)

    def _adopt_file(self, value: File) -> File:
        made = self._in_scratch(value.path)
        if self._is_ours(value.path) and not made:
            return value
        try:
            found = self._files.file_value(value.path, value.name or value.path.name)
        except FileNotFoundError as gone:
            if not value.digest:
                raise
            raise FileChanged(f"{value.name or value.path} is gone") from gone
        if made:
            return replace(found, path=self._objects.path(self._take(found)))
        if value.digest and value.digest != found.digest:
            raise FileChanged(f"{value.name or value.path} has changed")
        return found

    def _adopt_tree(self, value: Folder | Model) -> Folder | Model:
        if not self._in_scratch(value.path):
            if self._is_ours(value.path) or value.digest:
                return value
            if isinstance(value, Model):
                return replace(value, digest=self._files.model_digest(value.path))
            return self._files.folder_value(value.path)
        single = not value.path.is_dir()
        places = [(value.path.name, value.path)] if single else list(walk(value.path))
        files = tuple(self._files.file_value(place, name) for name, place in places)
        if isinstance(value, Model):
            digest = files[0].digest if single else model_digest(iter(files))
        else:
            digest = folder_digest(files)
        manifest = [[file.name, file.digest, file.size, self._take(file)] for file in files]
        text = json.dumps({"single": single, "files": manifest}).encode()
        temporary = self._folder / f".{digest[:8]}-{os.urandom(4).hex()}.tmp"
        temporary.write_bytes(text)
        os.replace(temporary, self._folder / f"{digest}.json")
        return self._lay_out(value, digest)

    def _take(self, file: File) -> str:
        return self._objects.take(file.digest, _suffix(file.name), file.path)

    # ---- reading

    def check(self, value: File | Folder | Model) -> None:
        """Raise unless a file, folder or model has the content that its digest says; a tree of ours is mended first if its objects are whole.

        Raises:
            ValueError, OSError, FileChanged: says in what it differs.
        """
        ours = self._is_ours(value.path)
        if isinstance(value, File):
            if ours:
                if not is_whole(value.path, value.size, value.digest):
                    value.path.unlink(missing_ok=True)
                    raise ValueError(f"the content of {value.name} is missing or damaged")
            elif self._files.digest_file(value.path) != value.digest:
                raise ValueError(f"{value.path} has another content now")
        elif ours:
            self._lay_out(value, value.digest)
        elif isinstance(value, Model):
            if self._files.model_digest(value.path) != value.digest:
                raise ValueError(f"{value.path} has another content now")
        elif self._files.folder_value(value.path).digest != value.digest:
            raise ValueError(f"{value.path} has another content now")

    def stands_on(self, value: File | Folder | Model) -> tuple[tuple[str, int], ...]:
        """Give the places in the store that a value stands on, each with its size; none if it lies outside.

        Raises:
            ValueError, OSError: its list of files cannot be read.
        """
        if not self._is_ours(value.path):
            return ()
        if isinstance(value, File):
            return ((value.path.relative_to(self._root).as_posix(), value.size),)
        return (
            (f"trees/{value.digest}.json", 0),
            (f"trees/{value.digest}", 0),
            *((place, size) for _, _, size, place in self._manifest(value.digest)["files"]),
        )

    def _lay_out(self, value: Folder | Model, digest: str) -> Folder | Model:
        """Make sure that the tree of a digest stands in full, and give the value that lies in it."""
        manifest = self._manifest(digest)
        tree = self._folder / digest
        tree.mkdir(exist_ok=True)
        files = []
        for name, content, size, place in manifest["files"]:
            target = tree.joinpath(*inside(name))
            if not is_whole(target, size, content):
                source = self._objects.path(place)
                if not is_whole(source, size, content):
                    with contextlib.suppress(OSError):
                        source.unlink(missing_ok=True)
                    raise ValueError(f"its file {name} is missing or damaged")
                lay_out(source, target)
            files.append(File(target, content, size, name))
        if isinstance(value, Model):
            return replace(value, path=files[0].path if manifest["single"] else tree, digest=digest)
        return Folder(tree, digest, tuple(files))

    def _manifest(self, digest: str) -> dict[str, Any]:
        data = json.loads((self._folder / f"{digest}.json").read_bytes())
        if not isinstance(data, dict) or not isinstance(data.get("files"), list):
            raise ValueError("its list of files is damaged")
        return data


def _suffix(name: str) -> str:
    """Give a file's ending in a form that is safe in any file name."""
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,12}", ending) else ""
