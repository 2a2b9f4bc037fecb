"""Store content in files named by its digest, and copy it to other folders of the store.

Content is written to a temporary file beside its target and then renamed, so an object is complete
unless it was damaged later. Nothing is synced to the disk: after a power cut an object may be
truncated; its digest then shows it, and the step that made it runs again. Syncing every object
would cost more than that ever will.
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
    """Content-addressed files in a store's folder `root`. Each has a *location* relative to it:
    ``objects/ab/cdef….suffix``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = itertools.count()

    def path(self, location: str) -> Path:
        """Give the path of a location that was read from the index; ValueError if it is outside the
        store.
        """
        return self.root.joinpath(*inside(location))

    def put(self, digest: str, suffix: str, data: bytes) -> str:
        """Store bytes under a digest, unless they are there, and return their location."""
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
        """Move a file into the store under its digest, and return its location. The file becomes
        read-only, because its path is given to nodes.
        """
        location = location_of(digest, suffix)
        target = self.root / location
        if size_of(target) == source.stat().st_size:
            source.unlink()
            return location
        temporary = self._temporary(target)
        import shutil

        shutil.move(source, temporary)
        if os.name != "nt":  # read-only files cannot be removed there
            temporary.chmod(0o444)
        _rename(temporary, target)
        return location

    def read(self, location: str, size: int) -> bytes:
        """Read the content of a location. Raises ValueError if it is not as long as it was, OSError
        if it cannot be read.
        """
        path = self.path(location)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("its file is not a regular file")
        if status.st_size != size:
            raise ValueError(
                f"its file is {'longer' if status.st_size > size else 'shorter'} than it was"
            )
        with open(path, "rb") as stream:
            return stream.read(size)

    def find(self, digest: str, size: int) -> Path | None:
        """Find a file with this content, whatever its suffix; its content is digested again."""
        value_store = self.root / "objects" / digest[:2]
        matches = sorted(value_store.glob(f"{digest[2:]}*")) if value_store.is_dir() else []
        return next((path for path in matches if is_intact(path, size, digest)), None)

    def walk(self) -> Iterator[tuple[str, Path]]:
        """Yield the location and path of every object and temporary file."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(os.scandir(self.root / "objects"), key=lambda e: e.name):
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder.path) as entries:
                        for entry in entries:
                            yield f"objects/{folder.name}/{entry.name}", Path(entry.path)

    def _temporary(self, target: Path) -> Path:
        folder = target.parent
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            folder.unlink()  # following the link would write elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            remove(target)
        return target.with_name(f".{target.name[:8]}-{os.getpid()}-{next(self._count)}.tmp")


def location_of(digest: str, suffix: str) -> str:
    """Give the location of the content of a digest."""
    return f"objects/{digest[:2]}/{digest[2:]}{suffix}"


def is_location(location: str, digest: str) -> bool:
    """Tell whether content of this digest may be at a location that was read from the index: under
    its own digest and nowhere else.
    """
    start = location_of(digest, "")
    return location.startswith(start) and _SUFFIX.match(location[len(start) :]) is not None


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `target` to `source`, or copy it where the file system has no hard links."""
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
    # Renaming a hard link over another link to the same file does nothing and leaves both.
    temporary.unlink(missing_ok=True)


def is_intact(path: Path, size: int, digest: str) -> bool:
    """Tell whether a file exists and has the content of this digest."""
    try:
        status = os.stat(path)
        return (
            stat.S_ISREG(status.st_mode) and status.st_size == size and digest_file(path) == digest
        )
    except (OSError, ValueError):
        return False


def size_of(path: Path) -> int:
    """Give a file's size; -1 if it is missing, inaccessible or not a regular file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def remove(path: Path) -> None:
    """Remove a file or folder of the store; failures are ignored."""
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
        # On Windows, another process has the same content open: it is there already.
        if os.name != "nt" or not target.exists():
            raise
        temporary.unlink(missing_ok=True)
