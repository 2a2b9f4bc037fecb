"""Embed provenance in output files, and read it back: a document and a seal.

The document is JSON (`document` describes its format; here it is opaque text). A PNG contains it;
for other formats, and above 1 MB, it is beside the file in ``NAME.provenance.json``. The seal is a
digest of the file's bytes without the document: it shows whether a file was changed after a run
wrote it.

Files are untrusted: no picture is decoded, and no more is read into memory than a document may
take.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from .._system.dataclass import dataclass
from .._system.regular_files import open_regular
from .._types import image_files
from .._types.digest import digest_file, tagged

__all__ = [
    "FORMAT",
    "SIDECAR",
    "SIDECAR_LIMIT",
    "EmbeddedProvenance",
    "read_embedded",
    "mentions_provenance",
    "is_sidecar",
    "try_read_embedded",
    "folder_seal",
    "add_seal",
    "walk_files",
]

#: The version of the document's format. Older versions are read, newer ones refused.
FORMAT = 1

#: What is appended to a file's name to name its sidecar.
SIDECAR = ".provenance.json"

#: The largest sidecar that is read: a document contains the graph files.
SIDECAR_LIMIT = 64 << 20

_SEAL = ',"seal":"'


@dataclass(frozen=True, slots=True)
class EmbeddedProvenance:
    """The provenance that a file carries; only checked to be a document of imagen_flow.

    `text` is the whole document. `intact` says whether the file is as it was written: its seal
    matches everything in it except the document itself.
    """

    text: str
    digest: str
    level: str
    intact: bool


def add_seal(document: str, seal: str) -> str:
    """Add the seal of a file's bytes to its document, which is canonical JSON; the result is what
    the file carries.
    """
    return f'{document[:-1]}{_SEAL}{seal}"}}'


def try_read_embedded(path: Path) -> EmbeddedProvenance | None:
    """Read the provenance of a file or folder; None if there is none or if it is damaged
    (`read_embedded` says what is wrong).
    """
    try:
        return read_embedded(path)
    except ValueError:
        return None


def read_embedded(path: Path) -> EmbeddedProvenance | None:
    """Read the provenance of a file or folder, from the file itself if it is a PNG, else from its
    sidecar; None if there is none.

    A sidecar whose seal matches the file takes precedence over what is inside, because a file that
    was only passed on may contain provenance of its own.

    Raises:
        OSError: the file cannot be read.
        ValueError: the provenance is damaged; the message continues a sentence about the file.
    """
    sidecar = _parse_embedded(_read_own_sidecar(path), path, png=False)
    if path.is_dir() or (sidecar is not None and sidecar.intact):
        return sidecar
    with open_regular(path) as stream:
        text = image_files.read_embedded(stream) if stream.read(8).startswith(b"\x89PNG") else None
    if text is None:
        return sidecar
    found = _parse_embedded(text, path, png=True)
    if found is None and sidecar is None:
        raise ValueError(
            "its provenance chunk is not a document of imagen_flow; another program may have"
            " changed"
            " it"
        )
    return found or sidecar


def mentions_provenance(path: Path) -> bool:
    """Tell whether a file without provenance contains words of a document: another program may have
    moved it to Exif or XMP, which are not read.
    """
    with open_regular(path) as stream:
        data = stream.read(SIDECAR_LIMIT)
    return any(
        all(word.encode(encoding) in data for word in ("imagen_flow", "made_with", "provenance"))
        for encoding in ("utf-8", "utf-16-le", "utf-16-be")
    )


def _read_own_sidecar(path: Path) -> str:
    sidecar = path.with_name(path.name + SIDECAR)
    try:
        with open_regular(sidecar) as stream:
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
    """Tell whether a file is a sidecar that imagen_flow wrote."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with open_regular(path) as stream:
            return _parse(_read_sidecar(stream)) is not None
    except ValueError:
        return False


def _parse(text: str) -> tuple[str, str, str] | None:
    """Give the value's digest, the level and the seal of a document; None if it is not one of ours."""
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


def _parse_embedded(text: str, path: Path, *, png: bool) -> EmbeddedProvenance | None:
    read = _parse(text)
    if read is None:
        return None
    digest, level, seal = read
    if path.is_dir():
        return EmbeddedProvenance(text, digest, level, folder_seal(walk_files(path)) == seal)
    with open_regular(path) as stream:
        try:
            intact = image_files.seal_of(stream, png=png) == seal
        except ValueError:
            intact = False
    return EmbeddedProvenance(text, digest, level, intact)


def folder_seal(files: Iterable[tuple[str, Path]]) -> str:
    """Digest a folder's files by name and content."""
    return tagged(
        "tree", *(f"{name}\0{digest_file(path)}".encode() for name, path in sorted(files))
    )


def walk_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files in a folder and its subfolders by relative name with ``/``. Links to folders
    are not followed.
    """
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(where, name)
            yield path.relative_to(folder).as_posix(), path
