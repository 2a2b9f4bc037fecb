"""Keep content in files named by its digest, and lay out trees of them.

Content is written to a temporary name beside its place and then renamed, so what stands under a digest is whole, or was damaged later. Nothing is synced to the disk: after a power
cut an object may be short, its digest then says so, and the step that made it runs again. Waiting for the disk at every object would cost more than that ever will.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Objects"]


class Objects:
    """Content-addressed files below `folder`, at ``ab/cdef….suffix``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = itertools.count()

    def place(self, digest: str, suffix: str) -> Path:
        """Say where content lies."""
        return self.folder / digest[:2] / (digest[2:] + suffix)

    def put(self, digest: str, suffix: str, data: bytes) -> Path:
        """Keep bytes under a digest; nothing is written if they are there."""
        place = self.place(digest, suffix)
        if _size(place) == len(data):
            return place
        temporary = self._temporary(place)
        try:
            with open(temporary, "xb") as out:
                out.write(data)
            _rename(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return place

    def take(self, digest: str, suffix: str, source: Path) -> Path:
        """Move a file here under its digest. It becomes read-only: it is handed out by its path."""
        place = self.place(digest, suffix)
        if _size(place) == source.stat().st_size:
            source.unlink()
            return place
        temporary = self._temporary(place)
        import shutil

        shutil.move(source, temporary)
        if os.name != "nt":  # there, what is read-only cannot be removed
            temporary.chmod(0o444)
        _rename(temporary, place)
        return place

    def walk(self) -> Iterator[os.DirEntry[str]]:
        """Give every file below, temporary ones too."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(os.scandir(self.folder), key=lambda e: e.name):
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder.path) as entries:
                        yield from entries

    def _temporary(self, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.with_name(f".{place.name[:8]}-{os.getpid()}-{next(self._count)}.tmp")


def lay_out(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:32]}-{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        import shutil

        shutil.copyfile(source, temporary)
    _rename(temporary, target)
    # Renaming one name of a file onto another name of it does nothing, and leaves both.
    temporary.unlink(missing_ok=True)


def _rename(temporary: Path, place: Path) -> None:
    try:
        os.replace(temporary, place)
    except PermissionError:
        # Windows, and someone has the same content open: it is there already.
        if os.name != "nt" or not place.exists():
            raise
        temporary.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1
