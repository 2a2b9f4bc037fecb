"""Find the pictures that an index names.

A name that leads out of the folder of the index is refused, also by a link.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from ..._provenance.embedding import try_read_embedded, walk_files
from ..._system.dataclass import dataclass
from ..._system.regular_files import is_regular
from ..._types.image_files import ENDINGS
from .rows import Row

__all__ = ["Picture", "find_pictures"]

#: How many files are searched for those that have been moved.
_MAX_SEARCHED = 100_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of an item: where it is, or why it is missing.

    `path` is the file, `url` the same relative to the index, for a browser; neither is there if the
    file is missing. `moved` says that it was found in another place than the index says.
    """

    name: str
    listed: str
    path: Path | None = None
    url: str = ""
    missing: str = ""
    moved: bool = False


def find_pictures(rows: Iterable[Row], folder: Path) -> dict[str, tuple[Picture, ...]]:
    """Return the pictures of each item by its label. Files that were moved within the folder are
    found by the digest in their provenance.
    """
    root = folder.resolve()
    found: dict[str, list[tuple[Picture, str]]] = {}
    lost: set[str] = set()
    for row in rows:
        found[row.item] = pictures = []
        for output in row.outputs:
            listed = [p for p in output.paths if p.lower().endswith(ENDINGS)]
            # The digest of a list is not that of its elements.
            digest = output.digest if len(listed) == 1 else ""
            for number, path in enumerate(listed):
                name = output.name if len(listed) == 1 else f"{output.name}[{number}]"
                picture = _find(name, path, root)
                if picture.missing and digest:
                    lost.add(digest)
                pictures.append((picture, digest))
    moved = _search(root, lost) if lost else {}
    return {
        item: tuple(
            Picture(p.name, p.listed, moved[digest], _url(moved[digest], root), moved=True)
            if p.missing and digest in moved
            else p
            for p, digest in pictures
        )
        for item, pictures in found.items()
    }


def _find(name: str, listed: str, root: Path) -> Picture:
    try:
        path = (root / listed).resolve()
        if not path.is_relative_to(root):
            return Picture(name, listed, missing="it is outside the folder of the index")
        if not path.exists():
            return Picture(name, listed, missing="the file is missing")
        if not is_regular(path):
            return Picture(name, listed, missing="it is not a regular file")
    except (OSError, ValueError, RuntimeError):  # a loop of links, a name the system refuses
        return Picture(name, listed, missing="its name cannot be used")
    return Picture(name, listed, path, _url(path, root))


def _url(path: Path, root: Path) -> str:
    """Return a URL that cannot have a scheme or a host, whatever the names are."""
    return "./" + quote(os.fsencode(path.relative_to(root).as_posix()))


def _search(root: Path, digests: set[str]) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for count, (_, path) in enumerate(walk_files(root)):
        if count == _MAX_SEARCHED or len(found) == len(digests):
            break
        if not path.name.lower().endswith(ENDINGS):
            continue
        try:
            embedded = try_read_embedded(path)
        except OSError:
            continue
        if embedded is not None and embedded.intact and embedded.digest in digests:
            found.setdefault(embedded.digest, path.resolve())
    return {digest: path for digest, path in found.items() if path.is_relative_to(root)}
