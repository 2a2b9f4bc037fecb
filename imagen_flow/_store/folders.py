"""Keep the files, folders and models that nodes made.

What is in a scratch folder is moved into the store: the content of each file becomes an object,
``trees/DIGEST.json`` lists the files, and a folder or model is rebuilt from its objects in
``trees/DIGEST``. What is elsewhere belongs to the user: the store keeps a reference (path, size,
digest) and never a copy; if the path no longer has this content, the values that refer to it are
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
from .._types.models import Model
from .._types.values import File, FileChanged, Folder
from .file_digests import FileDigests, folder_digest, model_digest, walk
from .objects import Objects, is_intact, is_location, link_or_copy, remove, size_of

__all__ = ["FolderStore"]


_IN_FOLDER = re.compile(r"trees/[0-9a-f]{40}/.")


class FolderStore:
    """The files, folders and models of a store: `objects` keeps their content, `files` digests
    them.
    """

    def __init__(self, objects: Objects, files: FileDigests) -> None:
        self._folder = objects.root / "trees"
        self._root = objects.root
        self._scratch = objects.root / "scratch"
        self._objects = objects
        self._files = files

    # ---- moving in

    def adopt(self, value: Any) -> Any:
        """Move what is in a scratch folder into the store and digest what is outside, in lists too;
        return the value with its new paths.

        Raises:
            OSError: a file that the node named does not exist.
            FileChanged: a file outside has other content than its digest says, or is gone.
        """
        if isinstance(value, File):
            return self._adopt_file(value)
        if isinstance(value, Folder | Model):
            return self._adopt_folder(value)
        if type(value) in (list, tuple) and any(
            isinstance(item, File | Folder | Model | list | tuple) for item in value
        ):
            return [self.adopt(item) for item in value]
        return value

    def find(self, digest: str) -> Folder | None:
        """Find a folder that was rebuilt here and still has the content of this digest."""
        path = self._folder / digest
        folder = self._files.folder_value(path) if path.is_dir() else None
        return folder if folder is not None and folder.digest == digest else None

    def _is_in_store(self, path: Path) -> bool:
        return path.is_relative_to(self._root)

    def _in_scratch(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._scratch)

    def _adopt_file(self, value: File) -> File:
        in_scratch = self._in_scratch(value.path)
        if self._is_in_store(value.path) and not in_scratch:
            return value
        try:
            found = self._files.file_value(value.path, value.name or value.path.name)
        except FileNotFoundError as gone:
            if not value.digest:
                raise
            raise FileChanged(f"{value.name or value.path} is gone") from gone
        found = replace(found, significant_name=value.significant_name)
        if in_scratch:
            return replace(found, path=self._objects.path(self._move_in(found)))
        if value.digest and value.digest != found.digest:
            raise FileChanged(f"{value.name or value.path} has changed")
        return found

    def _adopt_folder(self, value: Folder | Model) -> Folder | Model:
        if not self._in_scratch(value.path):
            if self._is_in_store(value.path) or value.digest:
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
        manifest = [[file.name, file.digest, file.size, self._move_in(file)] for file in files]
        text = json.dumps({"single": single, "files": manifest}).encode()
        temporary = self._folder / f".{digest[:8]}-{os.urandom(4).hex()}.tmp"
        temporary.write_bytes(text)
        manifest_path = self._folder / f"{digest}.json"
        if manifest_path.is_dir() and not manifest_path.is_symlink():
            remove(manifest_path)
        os.replace(temporary, manifest_path)
        return self._rebuild(value, digest)

    def _move_in(self, file: File) -> str:
        return self._objects.take(file.digest, _suffix(file.name), file.path)

    # ---- reading

    def check(self, value: File | Folder | Model) -> None:
        """Raise unless a file, folder or model has the content of its digest; a folder in the store
        is repaired first if its objects are intact.

        Raises:
            ValueError, OSError, FileChanged: says what differs.
        """
        in_store = self._is_in_store(value.path)
        if isinstance(value, File):
            if in_store:
                self._check_location(value)
                if not is_intact(value.path, value.size, value.digest):
                    value.path.unlink(missing_ok=True)
                    raise ValueError(f"the content of {value.name} is missing or damaged")
            elif self._files.digest_file(value.path) != value.digest:
                raise ValueError(f"{value.path} has changed")
        elif in_store:
            self._rebuild(value, value.digest)
        elif isinstance(value, Model):
            if self._files.model_digest(value.path) != value.digest:
                raise ValueError(f"{value.path} has changed")
        elif self._files.folder_value(value.path).digest != value.digest:
            raise ValueError(f"{value.path} has changed")

    def stored_content(self, value: File | Folder | Model) -> tuple[tuple[str, int], ...]:
        """List the locations in the store that a value depends on, each with its size; empty if the
        value is outside the store.

        Raises:
            ValueError, OSError: its list of files cannot be read.
        """
        if not self._is_in_store(value.path):
            return ()
        if isinstance(value, File):
            self._check_location(value)
            return ((value.path.relative_to(self._root).as_posix(), value.size),)
        return (
            (f"trees/{value.digest}.json", 0),
            (f"trees/{value.digest}", 0),
            *((location, file.size) for file, location in self._manifest(value)[1]),
        )

    def _check_location(self, value: File) -> None:
        """Raise unless a file in the store is where files may be: under its own digest, or in a
        folder of ``trees``.
        """
        location = value.path.relative_to(self._root).as_posix()
        if not is_location(location, value.digest) and not _IN_FOLDER.match(location):
            raise ValueError(f"{location!a} is not a location of a file")

    def _rebuild(self, value: Folder | Model, digest: str) -> Folder | Model:
        """Rebuild the folder of a digest so that it is complete and has nothing else in it, and
        return the value with its path.
        """
        value = replace(value, digest=digest)
        single, listed = self._manifest(value)
        folder = self._folder / digest
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            folder.unlink()  # following the link would write elsewhere
        folder.mkdir(exist_ok=True)
        real_folder = Path(os.path.realpath(folder))
        files = []
        for file, location in listed:
            target = folder.joinpath(*inside(file.name))
            if not Path(os.path.realpath(target.parent)).is_relative_to(real_folder) or (
                os.path.lexists(target.parent) and not target.parent.is_dir()
            ):
                remove(folder)
                raise ValueError("its folder was changed")
            if target.is_symlink() or not is_intact(target, file.size, file.digest):
                source = self._objects.path(location)
                if not is_intact(source, file.size, file.digest):
                    with contextlib.suppress(OSError):
                        source.unlink(missing_ok=True)
                    raise ValueError(f"its file {file.name} is missing or damaged")
                link_or_copy(source, target)
            files.append(replace(file, path=target))
        for name in {name for name, _ in walk(folder)} - {file.name for file in files}:
            (folder / name).unlink(missing_ok=True)
        if isinstance(value, Model):
            return replace(value, path=files[0].path if single else folder)
        return Folder(folder, digest, tuple(files))

    def _manifest(self, value: Folder | Model) -> tuple[bool, list[tuple[File, str]]]:
        """Read the list of files of a folder or model: whether it is a single file, and the files,
        each with the location of its content.

        Raises:
            ValueError, OSError: the list cannot be read or belongs to another digest.
        """
        path = self._folder / f"{value.digest}.json"
        if size_of(path) < 0:
            raise FileNotFoundError(2, "it is gone", str(path))
        try:
            manifest = json.loads(path.read_bytes())
            single = manifest["single"]
            listed = [
                (File(path, digest, size, name), location)
                for name, digest, size, location in manifest["files"]
            ]
            files = tuple(file for file, _ in listed)
            for file, location in listed:
                if (
                    type(file.size) is not int
                    or not is_location(location, file.digest)
                    or not inside(file.name)
                ):
                    raise ValueError("it lists something that is not a file of the store")
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
            raise ValueError("its list of files belongs to another digest")
        return bool(single), listed


def _suffix(name: str) -> str:
    """Give a file name's suffix if it is safe in any file name, else nothing."""
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,12}", ending) else ""
