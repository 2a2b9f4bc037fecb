"""Read the cache in which the hub's libraries keep their downloads:
``models--org--name/{refs,snapshots,blobs}``. The network is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import nearest
from .references import Reference, UnresolvedModel

__all__ = ["cached", "commit_of", "hub_cache", "recorded_digest", "repository_folder", "snapshot"]


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which the hub's libraries keep their downloads."""
    for name, below in (
        ("HF_HUB_CACHE", ()),
        ("HUGGINGFACE_HUB_CACHE", ()),
        ("HF_HOME", ("hub",)),
        ("XDG_CACHE_HOME", ("huggingface", "hub")),
    ):
        if environ.get(name):
            return Path(environ[name], *below).expanduser()
    return Path.home() / ".cache" / "huggingface" / "hub"


def repository_folder(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a repository in the cache."""
    return hub_cache(environ) / ("models--" + name.replace("/", "--"))


def commit_of(reference: Reference, environ: Mapping[str, str] = os.environ) -> str:
    """Return the commit that the cache has for a revision: a branch or tag as it was recorded, a
    commit by its first digits. Empty if it has none.

    Raises:
        UnresolvedModel: several commits begin with these digits.
    """
    repository = repository_folder(reference.name, environ)
    revision = reference.revision or "main"
    try:
        commit = (repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
        if re.fullmatch(r"[0-9a-f]{6,40}", revision):
            try:
                known = sorted(
                    entry.name
                    for entry in (repository / "snapshots").iterdir()
                    if entry.name.startswith(revision)
                )
            except OSError:
                known = []
            if len(known) > 1:
                raise UnresolvedModel(
                    f"unresolved: 'hf:{reference.name}@{revision}' names {len(known)} commits",
                    why=f"they are {', '.join(known)}",
                    fix="write more digits of the commit",
                ) from None
            commit = known[0] if known else ""
    return commit if re.fullmatch(r"[0-9a-f]{6,64}", commit) else ""


def cached(environ: Mapping[str, str] = os.environ) -> list[tuple[str, str, str, int]]:
    """List the models in the cache: repository, commit, the branches and tags that point to it, and
    the size of its files in bytes.
    """
    found = []
    for folder in sorted(hub_cache(environ).glob("models--*")):
        refs: dict[str, list[str]] = {}
        for ref in sorted(path for path in (folder / "refs").rglob("*") if path.is_file()):
            refs.setdefault(ref.read_text("ascii", errors="replace").strip(), []).append(
                ref.relative_to(folder / "refs").as_posix()
            )
        for held in sorted(
            path
            for path in (folder / "snapshots").glob("*")
            if re.fullmatch(r"[0-9a-f]{40}", path.name) and path.is_dir() and not path.is_symlink()
        ):
            size = sum(path.stat().st_size for path in held.rglob("*") if path.is_file())
            found.append(
                (
                    folder.name.removeprefix("models--").replace("--", "/"),
                    held.name,
                    ", ".join(refs.get(held.name, ())),
                    size,
                )
            )
    return found


def snapshot(
    reference: Reference, text: str, environ: Mapping[str, str] = os.environ, *, commit: str = ""
) -> Path:
    """Return the snapshot of a repository's revision, or of the `commit` that a lock pins.

    Raises:
        UnresolvedModel: it is not in the cache.
    """
    cache = hub_cache(environ)
    repository = repository_folder(reference.name, environ)
    revision = commit or reference.revision or "main"
    found = commit or commit_of(reference, environ)
    folder = repository / "snapshots" / found
    if not found or not folder.is_dir():
        held = (
            ("commit " if commit else "revision ") + revision + " of it"
            if repository.is_dir()
            else "it"
        )
        others = (
            []
            if repository.is_dir()
            else [
                folder.name.removeprefix("models--").replace("--", "/")
                for folder in cache.glob("models--*")
            ]
        )
        near = nearest(reference.name, others)
        fix = f"{near} Else run" if near.startswith("did") else "run"
        raise UnresolvedModel(
            f"unresolved: '{text}' is not on this machine",
            why=f"the hub's cache {cache} does not hold {held}",
            fix=f"{fix} `imagen-flow models pull {text}`",
        )
    return folder


def recorded_digest(path: Path) -> str:
    """Return the digest by which the hub's cache names a file: its sha256, or the git digest of a
    small one. Empty if it is not a link into the cache.
    """
    try:
        blob = Path(os.readlink(path))
    except OSError:
        return ""
    return (
        blob.name
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name)
        else ""
    )
