"""Keep content in files named by its digest, and lay out copies of them elsewhere in the store.

Content is written to a temporary name beside its place and then renamed, so what stands under a
digest is whole, or was damaged later. Nothing is synced to the disk: after a power
cut an object may be short, its digest then says so, and the step that made it runs again. Waiting
for the disk at every object would cost more than that ever will.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from .._types.codec import inside
from .._types.digest import digest_file

__all__ = ["Objects", "is_location", "is_intact", "link_or_copy", "remove", "size_of"]


_SUFFIX = re.compile(r"(\.[a-z0-9]{1,12})?\Z")


class Objects:
    """Content-addressed files in a store's folder `root`. Each has a *place*, which is relative to
    it: ``objects/ab/cdef….suffix``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = itertools.count()

    def path(self, location: str) -> Path:
        """Say where a place is that was read back; ValueError if it does not lie in the store."""
        return self.root.joinpath(*inside(location))

    def put(self, digest: str, suffix: str, data: bytes) -> str:
        """Keep bytes under a digest, and give their place; nothing is written if they are there."""
        location = location_of(digest, suffix)
        target = self.root / location
        if size_of(target) == len(data):
            return location
        temporary = self._temporary(target)
        try:
            with open(temporary, "xb") as out:
                out.write(data)
            _rename(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return location

    def take(self, digest: str, suffix: str, source: Path) -> str:
        """Move a file here under its digest, and give its place. It becomes read-only: it is handed
        out by its path.
        """
        location = location_of(digest, suffix)
        target = self.root / location
        if size_of(target) == source.stat().st_size:
            source.unlink()
            return location
        temporary = self._temporary(target)
        import shutil

        shutil.move(source, temporary)
        if os.name != "nt":  # there, what is read-only cannot be removed
            temporary.chmod(0o444)
        _rename(temporary, target)
        return location

    def read(self, location: str, size: int) -> bytes:
        """Give the content of a place. Raises ValueError if it is not as long as it was, OSError if
        it cannot be read.
        """
        path = self.path(location)
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("its file is not a regular file")
        if found.st_size != size:
            raise ValueError(
                f"its file is {'longer' if found.st_size > size else 'shorter'} than it was"
            )
        with open(path, "rb") as stream:
            return stream.read(size)

    def find(self, digest: str, size: int) -> Path | None:
        """Give a file here that has this content, whatever its suffix; digested again."""
        value_store = self.root / "objects" / digest[:2]
        found = sorted(value_store.glob(f"{digest[2:]}*")) if value_store.is_dir() else []
        return next((path for path in found if is_intact(path, size, digest)), None)

    def walk(self) -> Iterator[tuple[str, Path]]:
        """Give the place and the path of every object, and of temporary files too."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(os.scandir(self.root / "objects"), key=lambda e: e.name):
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder.path) as entries:
                        for entry in entries:
                            yield f"objects/{folder.name}/{entry.name}", Path(entry.path)

    def _temporary(self, target: Path) -> Path:
        folder = target.parent
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            folder.unlink()  # what is written there would be elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            remove(target)
        return target.with_name(f".{target.name[:8]}-{os.getpid()}-{next(self._count)}.tmp")


def location_of(digest: str, suffix: str) -> str:
    """Say where in a store the content of a digest lies."""
    return f"objects/{digest[:2]}/{digest[2:]}{suffix}"


def is_location(location: str, digest: str) -> bool:
    """Tell whether content of this digest may lie at a place that was read back: under its own
    digest and nowhere else.
    """
    start = location_of(digest, "")
    return location.startswith(start) and _SUFFIX.match(location[len(start) :]) is not None


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system has no hard
    links.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:32]}-{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    if target.is_dir() and not target.is_symlink():
        remove(target)
    try:
        os.link(source, temporary)
    except OSError:
        import shutil

        shutil.copyfile(source, temporary)
    _rename(temporary, target)
    # Renaming one name of a file onto another name of it does nothing, and leaves both.
    temporary.unlink(missing_ok=True)


def is_intact(path: Path, size: int, digest: str) -> bool:
    """Tell whether a file is there and has the content that its digest says."""
    try:
        found = os.stat(path)
        return stat.S_ISREG(found.st_mode) and found.st_size == size and digest_file(path) == digest
    except (OSError, ValueError):
        return False


def size_of(path: Path) -> int:
    """Give a file's size; -1 if it is not there, cannot be seen, or is not a regular file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def remove(path: Path) -> None:
    """Remove a file or a folder of our own; one that resists is left for another time."""
    import shutil

    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except PermissionError:
        # Windows, and someone has the same content open: it is there already.
        if os.name != "nt" or not target.exists():
            raise
        temporary.unlink(missing_ok=True)
