"""Read and write what an output's file says of itself: its provenance and a seal.

The document is JSON (`provenance` says its shape, here it is opaque text). In a PNG it lies inside;
for other formats, and above 1 MB, beside the file as
``NAME.provenance.json``. The seal is a digest of the file's bytes but for the document: by it a
file that somebody changed is told from one that a run wrote.

Files are untrusted: nothing is decoded, and no more is read into memory than a document may take.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .._system.regular_files import open_regular
from .._types import image_files as pictures
from .._types.digest import digest_file, tagged

__all__ = [
    "FORMAT",
    "SIDECAR",
    "SIDECAR_LIMIT",
    "Label",
    "find_label",
    "holds_trace",
    "is_sidecar",
    "read_label",
    "seal_of_tree",
    "sealed",
    "walk_tree",
]

#: The version of the document's shape. A reader takes older ones and refuses newer ones.
FORMAT = 1

#: What the name of a sidecar adds to the name of its file.
SIDECAR = ".provenance.json"

#: How large a sidecar may be that is read: a graph file may be large, and carries others.
SIDECAR_LIMIT = 64 << 20

_SEAL = ',"seal":"'


@dataclass(frozen=True, slots=True)
class Label:
    """The provenance that a file carries, unchecked but for its being ours.

    `text` is the whole document. `intact` says whether the file is as it was written: its seal fits
    everything in it but the document itself.
    """

    text: str
    digest: str
    level: str
    intact: bool


def sealed(document: str, seal: str) -> str:
    """Add the seal of a file's bytes to its document, which is canonical JSON: what a file carries."""
    return f'{document[:-1]}{_SEAL}{seal}"}}'


def read_label(path: Path) -> Label | None:
    """Read what provenance a file or folder carries; None if none of ours. Damage counts as none
    (`find_label` says what is wrong).
    """
    try:
        return find_label(path)
    except ValueError:
        return None


def find_label(path: Path) -> Label | None:
    """Read what provenance a file or folder carries: in the file if it is a PNG, else in the
    sidecar; None if none of ours.

    A sidecar whose seal fits the file goes before what is inside, since a file that was only passed
    on may bring provenance of its own.

    Raises:
        OSError: the file cannot be read.
        ValueError: what it carries is damaged, in words that go on from *it*.
    """
    beside = _label(_read_beside(path), path, png=False)
    if path.is_dir() or (beside is not None and beside.intact):
        return beside
    with open_regular(path) as stream:
        text = pictures.read_embedded(stream) if stream.read(8).startswith(b"\x89PNG") else None
    if text is None:
        return beside
    found = _label(text, path, png=True)
    if found is None and beside is None:
        raise ValueError(
            "what stands in it in place of provenance is not a document of imagen_flow; another"
            " program may have changed it"
        )
    return found or beside


def holds_trace(path: Path) -> bool:
    """Whether a file that carries no provenance holds words of one all the same: another program
    may have put it into Exif or XMP, which is not read.
    """
    with open_regular(path) as stream:
        data = stream.read(SIDECAR_LIMIT)
    return any(
        all(word.encode(encoding) in data for word in ("imagen_flow", "made_with", "provenance"))
        for encoding in ("utf-8", "utf-16-le", "utf-16-be")
    )


def _read_beside(path: Path) -> str:
    beside = path.with_name(path.name + SIDECAR)
    try:
        with open_regular(beside) as stream:
            return _read_sidecar(stream)
    except FileNotFoundError:
        return ""


def _read_sidecar(stream: IO[bytes]) -> str:
    data = stream.read(SIDECAR_LIMIT + 1)
    if len(data) > SIDECAR_LIMIT:
        raise ValueError(f"its provenance is longer than {SIDECAR_LIMIT} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("its provenance is not UTF-8") from None


def is_sidecar(path: Path) -> bool:
    """Whether a file is a sidecar that we wrote."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with open_regular(path) as stream:
            return _read_ours(_read_sidecar(stream)) is not None
    except ValueError:
        return False


def _read_ours(text: str) -> tuple[str, str, str] | None:
    """The value's digest, the level and the seal of a document of ours; None if it is none."""
    try:
        data = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(data, dict)
        or "imagen_flow" not in data
        or not isinstance(data.get("output"), dict)
    ):
        return None
    digest, level, seal = data["output"].get("digest"), data.get("provenance"), data.get("seal")
    return (
        (digest, level, seal)
        if isinstance(digest, str) and isinstance(level, str) and isinstance(seal, str)
        else None
    )


def _label(text: str, path: Path, *, png: bool) -> Label | None:
    read = _read_ours(text)
    if read is None:
        return None
    digest, level, seal = read
    if path.is_dir():
        return Label(text, digest, level, seal_of_tree(walk_tree(path)) == seal)
    with open_regular(path) as stream:
        try:
            intact = pictures.seal_of(stream, png=png) == seal
        except ValueError:
            intact = False
    return Label(text, digest, level, intact)


def seal_of_tree(files: Iterable[tuple[str, Path]]) -> str:
    """Digest a folder's files by name and content."""
    return tagged(
        "tree", *(f"{name}\0{digest_file(path)}".encode() for name, path in sorted(files))
    )


def walk_tree(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files in a folder and below, by relative name with ``/``. Symbolic links to folders
    are not followed.
    """
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(where, name)
            yield path.relative_to(folder).as_posix(), path
