"""Read and write ``imagen-flow.lock``, which pins the models of graphs: a commit of each
repository, and its files by size and digest.

It lies in the folder of the graphs that it is for, or in one above, and belongs under version
control. It is TOML, sorted, with one line a file::

    # Written by `imagen-flow models`. Keep it with your graphs.
    imagen_flow_lock = 1

    [[model]]
    reference = "hf:org/name@main"
    commit = "0123456789abcdef0123456789abcdef01234567"
    license = "openrail++"
    variant = ""
    files = [
      { name = "model_index.json", size = 541, sha256 = "…", git = "…" },
      { name = "unet/diffusion_pytorch_model.safetensors", size = 3438167540, sha256 = "…" },
    ]

An entry for a repository that completes checkpoints of one file has ``completes_with = ["vae"]``:
besides its configurations, the weights of these parts are needed, often of none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from .._system.regular_files import read_regular
from ..errors import GraphError, Mark, Problem, Source
from .references import BadReference, Reference, parse_reference

__all__ = ["Lock", "LockedFile", "LockedModel", "checked", "find_lock", "read_lock"]

NAME = "imagen-flow.lock"
FORMAT = 1

#: A larger file is not a lock.
_MAX_BYTES = 64 << 20

_HEAD = "# Written by `imagen-flow models`. Keep it with your graphs.\n"


@dataclass(frozen=True, slots=True, order=True)
class LockedFile:
    """A file of a repository: relative name, size in bytes, sha256, and the git digest of a file
    that the hub keeps in git itself.
    """

    name: str
    size: int
    sha256: str
    git: str = ""

    @property
    def blob(self) -> str:
        """Its name in the hub's cache."""
        return self.git or self.sha256


@dataclass(frozen=True, slots=True)
class LockedModel:
    """What a reference to the hub is pinned to: a commit, and the files of it that are needed."""

    reference: Reference
    commit: str
    license: str
    variant: str
    files: tuple[LockedFile, ...]

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Lock:
    """The models of a lock file, by the canonical spelling of their references. `path` is where the
    file is, or would be.
    """

    path: Path
    models: Mapping[str, LockedModel] = field(default_factory=dict)

    def get(self, reference: Reference) -> LockedModel | None:
        return self.models.get(str(reference))

    def with_models(self, models: Iterable[LockedModel]) -> Lock:
        """Return the lock with these models added, or replaced."""
        return Lock(self.path, {**self.models, **{str(model.reference): model for model in models}})

    def without(self, references: Iterable[Reference]) -> Lock:
        """Return the lock without these."""
        removed = {str(reference) for reference in references}
        return Lock(
            self.path, {name: model for name, model in self.models.items() if name not in removed}
        )

    def write(self) -> bool:
        """Write the file atomically; return whether it changed. Without models, none is created."""
        text = self.text()
        try:
            if read_regular(self.path, max_bytes=_MAX_BYTES).decode("utf-8") == text:
                return False
        except (OSError, UnicodeDecodeError):
            if not self.models:
                return False
        temporary = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
        try:
            # "x" never writes through a link that somebody put there.
            with temporary.open("x", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return True

    def text(self) -> str:
        """Format the lock: the same models give the same text."""
        lines = [_HEAD, f"imagen_flow_lock = {FORMAT}\n"]
        for _, model in sorted(self.models.items()):
            parts = (
                []
                if model.reference.parts is None
                else [f"completes_with = [{', '.join(map(_quoted, model.reference.parts))}]\n"]
            )
            lines += [
                "\n[[model]]\n",
                f"reference = {_quoted(str(replace(model.reference, parts=None)))}\n",
                *parts,
                f"commit = {_quoted(model.commit)}\n",
                f"license = {_quoted(model.license)}\n",
                f"variant = {_quoted(model.variant)}\n",
                "files = [\n",
            ]
            for file in sorted(model.files):
                git = f", git = {_quoted(file.git)}" if file.git else ""
                lines.append(
                    f"  {{ name = {_quoted(file.name)}, size = {file.size}, sha256 ="
                    f" {_quoted(file.sha256)}{git} }},\n"
                )
            lines.append("]\n")
        return "".join(lines)


def _quoted(text: str) -> str:
    # A JSON string is a basic string of TOML, except for the one control character that JSON leaves
    # unescaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def find_lock(start: Path) -> Path:
    """Return the path of the lock for graphs in the folder `start`: there or in the nearest folder
    above; if there is none, where it would be created.
    """
    start = start.absolute()
    return next(
        (file for folder in (start, *start.parents) if (file := folder / NAME).is_file()),
        start / NAME,
    )


def read_lock(path: Path) -> Lock:
    """Read a lock file; if there is none, the lock is empty.

    Raises:
        GraphError: it cannot be read, or is not a lock file.
    """
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    try:
        source = Source(shown, read_regular(path, max_bytes=_MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return Lock(path)
    except (OSError, UnicodeDecodeError) as failed:
        raise GraphError(
            [Problem("unreadable", f"{shown} cannot be read", why=str(failed))]
        ) from failed
    import tomllib

    try:
        parsed = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+), column (\d+)", str(error))
        mark = Mark(source, int(at[1]), int(at[2])) if at else Mark(source, 1, 1)
        raise GraphError(
            [Problem("bad-setting", "the lock is not TOML", mark, why=str(error), fix=_MEND)]
        ) from error
    if parsed.get("imagen_flow_lock") != FORMAT:
        why = (
            f"it says imagen_flow_lock = {parsed.get('imagen_flow_lock')!r}, and this imagen_flow"
            f" reads {FORMAT}"
        )
        raise GraphError(
            [
                Problem(
                    "bad-setting",
                    "the lock is of another format",
                    Mark(source, 1, 1),
                    why=why,
                    fix=_MEND,
                )
            ]
        )
    try:
        models = [_model(entry) for entry in parsed.get("model", [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(
            [
                Problem(
                    "bad-setting",
                    "the lock is damaged",
                    Mark(source, 1, 1),
                    why=f"{type(error).__name__}: {error}",
                    fix=_MEND,
                )
            ]
        ) from error
    return Lock(path, {str(model.reference): model for model in models})


_MEND = (
    "take it from version control again, or remove it and run `imagen-flow models resolve GRAPH`"
)
_INSIDE = re.compile(r"(?!.*(\A|/)\.{0,2}(/|\Z))[^\x00-\x1f\x7f\\]+\Z")


def _model(entry: Mapping[str, Any]) -> LockedModel:
    try:
        reference = parse_reference(entry["reference"])
    except BadReference as error:
        raise ValueError(str(error)) from error
    if (parts := entry.get("completes_with")) is not None:
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"completes_with = {parts!r}")
        reference = replace(reference, parts=tuple(parts))
    commit = entry["commit"]
    if reference.kind != "hf" or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise ValueError(f"{entry['reference']} at {commit!r}")
    return LockedModel(
        reference,
        commit,
        str(entry.get("license", "")),
        str(entry.get("variant", "")),
        tuple(sorted(_file(file) for file in entry["files"])),
    )


def _file(entry: Mapping[str, Any]) -> LockedFile:
    file = checked(LockedFile(entry["name"], entry["size"], entry["sha256"], entry.get("git", "")))
    if not file.sha256:
        raise ValueError(f"no file of a repository: {dict(entry)}")
    return file


def checked(file: LockedFile) -> LockedFile:
    """Return what a lock or a hub says of a file, if it is valid. Neither is trusted: names and
    digests become paths in the cache, and none may lead out of it.

    Raises:
        ValueError: it is not valid.
    """
    digests = [(file.sha256, r"([0-9a-f]{64})?"), (file.git, r"([0-9a-f]{40})?")]
    if not (
        isinstance(file.name, str)
        and _INSIDE.match(file.name)
        and type(file.size) is int
        and file.size >= 0
        and file.blob
        and all(isinstance(digest, str) and re.fullmatch(form, digest) for digest, form in digests)
    ):
        raise ValueError(
            f"no file of a repository: {file.name!r} of {file.size!r} bytes, {file.blob!r}"
        )
    return file
