"""Parse references to models, and define the errors for those that cannot be used.

- ``embedded/NAME``: a model that comes with a plugin;
- ``hf:org/name``, ``hf:org/name@rev``: a repository of the hub, at a branch, tag or commit
  (default: ``main``);
- ``hf:org/name@rev/sub/file.safetensors``: one file of weights in it (``.safetensors``, ``.gguf``,
  ``.onnx``; a pickle if it is allowed);
- ``hf:org/name@rev/sub/``: one folder of it, with a slash at its end;
- ``./x``, ``../x``, ``/x``, ``~/x``: a folder as diffusers or transformers save it, or one file of
  weights.

After the ``@`` stands a revision, and after a slash a file of weights or a folder, if it ends like
one. In the name of a branch before a file, ``/`` is written ``%2F``; ``refs/pr/3`` needs none.
"""

from __future__ import annotations

import difflib
import re

from .._system.dataclass import dataclass
from ..errors import Mark, ModelError, Problem

__all__ = [
    "BadReference",
    "PICKLES",
    "Reference",
    "UnresolvedModel",
    "UnusableModel",
    "WEIGHTS",
    "parse_reference",
]

#: Endings of files that hold weights and no code.
WEIGHTS = (".safetensors", ".gguf", ".onnx")

#: Endings of files that can run code when they are loaded.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class BadReference(ValueError):
    """A text is not a reference to a model; `fix` says what to write instead."""

    code = "bad-model"

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix

    def problem(self, mark: Mark | None = None) -> Problem:
        return Problem(self.code, str(self), mark, why=_SPELLINGS, fix=self.fix)


class _NoModel(ModelError):
    """The model of a reference cannot be loaded on this machine; `why` and `fix` say more."""

    code: str

    def __init__(self, message: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.why = why
        self.fix = fix

    def problem(self, mark: Mark | None = None) -> Problem:
        return Problem(self.code, str(self), mark, why=self.why, fix=self.fix)


class UnresolvedModel(_NoModel):
    """A model of the hub is not on this machine, or not complete; `fix` says how to get it."""

    code = "unresolved-model"


class UnusableModel(_NoModel):
    """What a reference names is not a model that can be loaded; `why` and `fix` say more."""

    code = "bad-model"


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as written. `kind` is ``embedded``, ``hf`` or ``path``, and `name` the rest. For a
    model of the hub, `revision` is a branch, tag or commit, and `file` one file of weights in it,
    or a folder with a slash at its end.

    `parts` is never written. It is set for a repository that completes a checkpoint of one file:
    its configurations and the weights of these parts are needed.
    """

    kind: str
    name: str
    revision: str = ""
    file: str = ""
    parts: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """The canonical spelling of a reference to the hub, with all that was left out."""
        if self.kind != "hf":
            return self.name
        revision = self.revision or "main"
        if self.parts is not None:
            return f"hf:{self.name}@{revision} ({', '.join(('configurations', *self.parts))})"
        return (
            f"hf:{self.name}@{_quoted(revision)}/{self.file}"
            if self.file
            else f"hf:{self.name}@{revision}"
        )


_SPELLINGS = (
    "a model is embedded/NAME, hf:org/name@revision, or a path that starts with ./ ../ / or ~"
)
_PATH = re.compile(r"(\.{1,2}|~[^/\\]*)?[/\\]|~\Z|[A-Za-z]:[/\\]")
_EMBEDDED = re.compile(r"embedded/[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?\Z")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")
_FILE = re.compile(r"[\w][\w .+,()=-]*(/[\w][\w .+,()=-]*)*\Z")
_WEIGHTS = (*WEIGHTS, *PICKLES)


def parse_reference(text: str) -> Reference:
    """Parse a reference to a model.

    Raises:
        BadReference: it is not one; `fix` suggests what may have been meant.
    """
    shown = text if len(text) <= 80 else text[:77] + "…"
    if "\0" in text or "\n" in text:
        raise BadReference(f"{shown!r} is not a model reference", fix=_SPELLINGS)
    if _EMBEDDED.match(text):
        return Reference("embedded", text)
    if text.startswith("hf:"):
        return _on_the_hub(text[3:], shown)
    if _PATH.match(text):
        return Reference("path", text)
    page = re.match(
        r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:/(tree|blob|resolve)/([^?#]+))?",
        text,
    )
    if page and _REPOSITORY.match(page[1]):
        raise BadReference(
            f"'{shown}' is not a model reference",
            fix=f"write 'hf:{page[1]}{'@' + page[3] if page[3] else ''}'",
        )
    if text and _REPOSITORY.match(text.partition("@")[0]):
        if "/" in text:
            owner, _, name = text.partition("/")
            if difflib.get_close_matches(owner.lower(), ["embedded"], cutoff=0.75):
                raise BadReference(
                    f"'{shown}' is not a model reference", fix=f"did you mean 'embedded/{name}'?"
                )
            raise BadReference(
                f"'{shown}' may be a repository of the hub or a folder",
                fix=f"write 'hf:{text}' for the hub, or './{text}' for a folder beside the graph",
            )
        raise BadReference(
            f"'{shown}' is not a model reference",
            fix=(
                f"write 'embedded/{text}' for a model that comes with a plugin, 'hf:org/{text}' for"
                f" the hub, or './{text}' for a file or folder beside the graph"
            ),
        )
    raise BadReference(
        f"'{shown}' is not a model reference" if text else "the reference to a model is empty",
        fix=_SPELLINGS,
    )


def _on_the_hub(text: str, shown: str) -> Reference:
    name, at, rest = text.partition("@")
    file = ""
    if not at and name.count("/") > 1 and _is_weights(name):
        owner, repository, file = name.split("/", 2)
        name = f"{owner}/{repository}"
    if not _REPOSITORY.match(name) or ".." in name or "--" in name:
        raise BadReference(
            f"'{shown}' names no repository of the hub",
            fix="write it as hf:org/name or hf:org/name@revision",
        )
    if at and (_is_weights(rest) or rest.endswith("/")):
        words = 3 if rest.startswith("refs/") else 1
        parts = rest.split("/", words)
        if len(parts) <= words or not parts[words]:
            raise BadReference(
                f"'{shown}' names a file or folder and no revision",
                fix=f"it stands after a revision: hf:{name}@main/{parts[-1] or rest}",
            )
        rest, file = "/".join(parts[:words]).replace("%2F", "/").replace("%2f", "/"), parts[words]
    if at and (not _REVISION.match(rest) or ".." in rest):
        raise BadReference(
            f"'{shown}' names no revision",
            fix=f"a revision is a branch, a tag or a commit: hf:{name}@main",
        )
    if file and (not _FILE.match(file.removesuffix("/")) or ".." in file):
        raise BadReference(
            f"'{shown}' names no file of a repository",
            fix=f"write it as hf:{name}@main/folder/file.safetensors",
        )
    return Reference("hf", name, rest, file)


def _is_weights(text: str) -> bool:
    return text.lower().endswith(_WEIGHTS)


def _quoted(revision: str) -> str:
    return revision if revision.startswith("refs/") else revision.replace("/", "%2F")
