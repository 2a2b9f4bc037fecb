"""Keep the files, folders and models that nodes made.

One that lies in a scratch folder is moved in: the content of each file becomes an object, and a
folder or a model is laid out again from them in ``trees/DIGEST``, after the list of its files in
``trees/DIGEST.json``. One that lies elsewhere belongs to the user: it is kept as a reference (path,
size, digest), never copied; if it is no longer there with the same content, what depends on it is
damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._types.codec import inside
from .._types.values import File, FileChanged, Folder, Model
from .file_digests import FileDigests, folder_digest, model_digest, walk
from .objects import Objects, is_intact, is_location, link_or_copy, remove, size_of

__all__ = ["FolderStore"]


_IN_TREE = re.compile(r"trees/[0-9a-f]{40}/.")


class FolderStore:
    """Files, folders and models in a store: `objects` has their content, `files` digests them."""

    def __init__(self, objects: Objects, files: FileDigests) -> None:
        self._folder = objects.root / "trees"
        self._root = objects.root
        self._scratch = objects.root / "scratch"
        self._objects = objects
        self._files = files

    # ---- taking in

    def adopt(self, value: Any) -> Any:
        """Move in what lies in a scratch folder, digest what lies outside, in lists too, and give
        the value as it is to be passed on.

        Raises:
            OSError: a file that the node named is not there.
            FileChanged: a file outside has another content than its digest says, or is gone.
        """
        if isinstance(value, File):
            return self._adopt_file(value)
        if isinstance(value, Folder | Model):
            return self._adopt_tree(value)
        if type(value) in (list, tuple) and any(
            isinstance(item, File | Folder | Model | list | tuple) for item in value
        ):
            return [self.adopt(item) for item in value]
        return value

    def find(self, digest: str) -> Folder | None:
        """Give a folder that was laid out here and still has the content that its digest says."""
        location = self._folder / digest
        found = self._files.folder_value(location) if location.is_dir() else None
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
        locations = [(value.path.name, value.path)] if single else list(walk(value.path))
        files = tuple(self._files.file_value(location, name) for name, location in locations)
        if isinstance(value, Model):
            digest = files[0].digest if single else model_digest(iter(files))
        else:
            digest = folder_digest(files)
        manifest = [[file.name, file.digest, file.size, self._take(file)] for file in files]
        text = json.dumps({"single": single, "files": manifest}).encode()
        temporary = self._folder / f".{digest[:8]}-{os.urandom(4).hex()}.tmp"
        temporary.write_bytes(text)
        manifest_path = self._folder / f"{digest}.json"
        if manifest_path.is_dir() and not manifest_path.is_symlink():
            remove(manifest_path)
        os.replace(temporary, manifest_path)
        return self._lay_out(value, digest)

    def _take(self, file: File) -> str:
        return self._objects.take(file.digest, _suffix(file.name), file.path)

    # ---- reading

    def check(self, value: File | Folder | Model) -> None:
        """Raise unless a file, folder or model has the content that its digest says; a tree of ours
        is mended first if its objects are whole.

        Raises:
            ValueError, OSError, FileChanged: says in what it differs.
        """
        ours = self._is_ours(value.path)
        if isinstance(value, File):
            if ours:
                self._check_place(value)
                if not is_intact(value.path, value.size, value.digest):
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

    def stored_content(self, value: File | Folder | Model) -> tuple[tuple[str, int], ...]:
        """Give the places in the store that a value stands on, each with its size; none if it lies
        outside.

        Raises:
            ValueError, OSError: its list of files cannot be read.
        """
        if not self._is_ours(value.path):
            return ()
        if isinstance(value, File):
            self._check_place(value)
            return ((value.path.relative_to(self._root).as_posix(), value.size),)
        return (
            (f"trees/{value.digest}.json", 0),
            (f"trees/{value.digest}", 0),
            *((location, file.size) for file, location in self._manifest(value)[1]),
        )

    def _check_place(self, value: File) -> None:
        """Raise unless a file in the store lies where files do: under its own digest, or in a tree."""
        location = value.path.relative_to(self._root).as_posix()
        if not is_location(location, value.digest) and not _IN_TREE.match(location):
            raise ValueError(f"{location!a} is no place of a file")

    def _lay_out(self, value: Folder | Model, digest: str) -> Folder | Model:
        """Make sure that the tree of a digest stands in full, with nothing else in it, and give the
        value that lies in it.
        """
        value = replace(value, digest=digest)
        single, listed = self._manifest(value)
        tree = self._folder / digest
        if tree.is_symlink() or (os.path.lexists(tree) and not tree.is_dir()):
            tree.unlink()  # what is laid out there would be elsewhere
        tree.mkdir(exist_ok=True)
        root = Path(os.path.realpath(tree))
        files = []
        for file, location in listed:
            target = tree.joinpath(*inside(file.name))
            if not Path(os.path.realpath(target.parent)).is_relative_to(root) or (
                os.path.lexists(target.parent) and not target.parent.is_dir()
            ):
                remove(tree)
                raise ValueError("it is not as it was laid out")
            if target.is_symlink() or not is_intact(target, file.size, file.digest):
                source = self._objects.path(location)
                if not is_intact(source, file.size, file.digest):
                    with contextlib.suppress(OSError):
                        source.unlink(missing_ok=True)
                    raise ValueError(f"its file {file.name} is missing or damaged")
                link_or_copy(source, target)
            files.append(replace(file, path=target))
        for name in {name for name, _ in walk(tree)} - {file.name for file in files}:
            (tree / name).unlink(missing_ok=True)
        if isinstance(value, Model):
            return replace(value, path=files[0].path if single else tree)
        return Folder(tree, digest, tuple(files))

    def _manifest(self, value: Folder | Model) -> tuple[bool, list[tuple[File, str]]]:
        """Give whether a tree is a single file, and its files, each with the place of its content.

        Raises:
            ValueError, OSError: the list cannot be read, or is another's.
        """
        path = self._folder / f"{value.digest}.json"
        if size_of(path) < 0:
            raise FileNotFoundError(2, "it is gone", str(path))
        try:
            said = json.loads(path.read_bytes())
            single = said["single"]
            listed = [
                (File(path, digest, size, name), location)
                for name, digest, size, location in said["files"]
            ]
            files = tuple(file for file, _ in listed)
            for file, location in listed:
                if (
                    type(file.size) is not int
                    or not is_location(location, file.digest)
                    or not inside(file.name)
                ):
                    raise ValueError("it names what is no file here")
            digest = (
                folder_digest(files)
                if isinstance(value, Folder)
                else files[0].digest
                if single
                else model_digest(iter(files))
            )
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError("its list of files is damaged") from error
        if digest != value.digest:
            raise ValueError("its list of files is another's")
        return bool(single), listed


def _suffix(name: str) -> str:
    """Give a file's ending in a form that is safe in any file name."""
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,12}", ending) else ""
