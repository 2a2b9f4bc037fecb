"""Write outputs as files.

A path is a template: `templates` checks and fills it, `encoding` turns a value into bytes, `disk`
changes files so that each is complete or absent, and an `OutputWriter` does the rest:

* Nothing leaves the output folder, whatever symbolic links are in it, even if one is created while
the run goes on; a link at the target itself is not followed. * A file that already holds this value
is not touched. One that a run wrote, and that nobody has changed since, is replaced. Any other file
is an error, unless the graph says ``exists: number`` or ``replace``. * Values that are written as
they are (a file, a folder, a model, a plugin's own kind) only replace what a run wrote, whatever
the graph says, unless the user allows it. Neither they nor texts get a name that starts with a dot,
because other programs read their settings from such files. No output is named like a settings file
or a sidecar of imagen_flow. * Two outputs of a run with the same path are an error that names both.

Whether a run wrote a file is told by its provenance (in a PNG, else in ``NAME.provenance.json``
beside it) and by the seal in it. With ``provenance: none`` a file cannot be told from others.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._provenance.embedding import (
    SIDECAR,
    add_seal,
    folder_seal,
    is_sidecar,
    try_read_embedded,
    walk_files,
)
from .._system.dataclass import dataclass
from .._system.processes import sweep
from .._system.user_folders import config_folder
from .._types import image_files
from .._types.codec import Codecs
from .._types.models import Model
from .._types.ports import PortType
from .._types.values import Audio, ExistsPolicy, File, Folder, Image, Mask, Tensor
from ..errors import OutputError
from .disk import DiskChanges, ImmediateChanges, files_of
from .encoding import ENCODED, encode
from .templates import HIDDEN_NAMES, OWN_NAMES, fields_of, fill_template, is_own_name

__all__ = ["OutFolder", "OutputWriter", "WrittenOutput"]

#: Larger files are not read to predict what happens to them.
_MAX_PREDICTED_BYTES = 64 << 20

#: What is said of a value that is not known yet.
UNLESS_EQUAL = ", unless it is equal"


@dataclass(frozen=True, slots=True)
class WrittenOutput:
    """The path of an output, and whether the file was written this time (`changed`) or already held
    the value.
    """

    path: Path
    changed: bool


@dataclass(frozen=True, slots=True)
class OutFolder:
    """A folder for outputs, and what may be done in it.

    `inside` is a folder that it must not leave through a symbolic link, if it was not the user who
    named it. `replace` says whether ``exists: replace`` may replace files that no run wrote: True
    for any output, None (the default) only for pictures, sounds, tensors, texts and data.
    """

    path: Path
    inside: Path | None = None
    replace: bool | None = None


class OutputWriter:
    """Writes the outputs of one run into a folder, which is created with the first output. Any
    thread may use it.

    Params:
        item: the name of the item that all outputs belong to, where one graph runs for many: of a
            file, or of a row of values.
            ``{item}`` in a path stands for it; a path without that field gets it in front of its
            name.
        label: the run's name of that item, which messages leave out.
        unlabelled: the paths of the graph that tell the items apart as they are.
        ending: the suffix of that file, without the dot. ``{ending}`` stands for it, unless an
            input has that name.
        below: a subfolder of the output folder that all paths start from, with ``/``.
        changes: how the disk is changed.
    """

    def __init__(
        self,
        folder: Path | OutFolder,
        *,
        codecs: Codecs | None = None,
        item: str = "",
        label: str = "",
        ending: str = "",
        below: str = "",
        changes: DiskChanges | None = None,
        unlabelled: Collection[str] = (),
    ) -> None:
        options = folder if isinstance(folder, OutFolder) else OutFolder(folder)
        self.folder = options.path
        self._options = options
        self._root: Path | None = None
        #: Folders in which the temporary files of ended processes have been removed.
        self._swept: set[Path] = set()
        self._codecs = codecs or Codecs()
        self._claimed: dict[str, tuple[str, str]] = {}
        self._item = item
        self._label = label
        self._unlabelled = unlabelled
        self._ending = ending
        self._below = below
        self._changes = changes or ImmediateChanges()

    def relative(self, template: str, fields: Mapping[str, object], *, element: bool) -> str:
        """Fill an output's path.

        Params:
            fields: with `item` and `index` of the element, if the output is a list.
            element: whether the value is an element of a list.
        """
        if self._item and template not in self._unlabelled:
            used = fields_of(template)
            if "item" not in used and not self._names_item(used, fields):
                head, slash, name = template.rpartition("/")
                template = f"{head}{slash}{{item}}-{name}"
            fields = {
                "ending": self._ending,
                **fields,
                "item": (
                    f"{self._item}-{fields['index']}"
                    if element and "index" not in used
                    else self._item
                ),
            }
        filled = fill_template(template, fields)
        return f"{self._below}/{filled}" if self._below else filled

    def _names_item(self, used: set[str], fields: Mapping[str, object]) -> bool:
        """Whether a path says the name of the file that all outputs belong to, as a file's name."""
        return any(
            os.path.splitext(str(fields[field]))[0] == self._item
            if field.endswith(".name")
            else field.endswith(".stem") and fields[field] == self._item
            for field in used
        )

    def write(
        self,
        relative: str,
        value: Any,
        *,
        output: str,
        item: str = "",
        exists: ExistsPolicy = "error",
        provenance: str | None = None,
        digest: str,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> WrittenOutput:
        """Write a value as a file, or as a folder for models and folders.

        Params:
            relative: the path in the folder, as `relative` returns it.
            output, item: the output's name and element, for messages.
            provenance: the document of the recorder; None writes none.
            digest: of the value; a file that holds it already, written with the same options, is not
                touched.
            options: of the file's format; `provenance` has them too.

        Raises:
            OutputError: it cannot be written there. Nothing has changed on the disk then, except
                for folders that were created on the way.
        """
        item = item.removeprefix(self._label)
        subject = f"output '{output}'{f' ({item})' if item else ''}"
        names = self._names(relative, subject)
        self._claim_path(names, output, item, subject, relative)
        target = self.folder.joinpath(*names)
        raw = not isinstance(
            value,
            str | bool | int | float | dict | list | tuple | Image | Mask | Tensor | Audio | None,
        )
        may_replace = self._options.replace if self._options.replace is not None else not raw
        try:
            folder = self._make_folders(names[:-1], subject)
            self._check_meaning(folder, names, value, subject)
            if folder not in self._swept:
                self._swept.add(folder)
                sweep(folder)
            return WrittenOutput(
                *_write_to_free_path(
                    _WriteRequest(
                        self._codecs,
                        self._changes,
                        subject,
                        value,
                        provenance,
                        digest,
                        exists,
                        may_replace,
                        options,
                    ),
                    folder,
                    target,
                )
            )
        except OSError as error:
            self._changes.record_failure(error)
            raise _write_error(subject, target, error) from error

    def predict(
        self,
        relative: str,
        *,
        type: PortType,
        exists: ExistsPolicy = "error",
        digest: str = "",
        level: str = "full",
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Say in a few words what would happen to an existing file if an output is written to a
        path. Nothing is changed.

        Params:
            digest: of the value; empty if it is not known yet.
            level: how much provenance is written with it.
            options: of the file's format.
        """
        inner = type.element if type.kind == "list" and type.element else type
        kinds = {member.kind for member in inner.members or (inner,)}
        try:
            root = Path(os.path.realpath(self.folder))
            self._check_inside(root, "it")
            path = self.folder.joinpath(*self._names(relative, "it"))
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return "new"
        except OutputError as error:
            return f"refused: {str(error).partition(chr(10))[0]}"
        except OSError as error:
            return f"refused: {(error.strerror or str(error)).lower()}"
        if stat.S_ISDIR(mode) or (
            stat.S_ISREG(mode) and path.lstat().st_size > _MAX_PREDICTED_BYTES
        ):
            # Reading all of it would take longer than planning.
            if is_sidecar(path.with_name(path.name + SIDECAR)):
                return f"replaces the output of an earlier run{UNLESS_EQUAL} or was changed"
        elif (
            stat.S_ISREG(mode)
            and (embedded := try_read_embedded(path)) is not None
            and embedded.intact
        ):
            if digest == embedded.digest and _written(embedded.text) == (level, dict(options)):
                return "unchanged"
            is_other = digest and digest != embedded.digest
            return f"replaces the output of an earlier run{'' if is_other else UNLESS_EQUAL}"
        if exists == "number":
            return "gets a number: another file exists"
        may_replace = (
            self._options.replace if self._options.replace is not None else kinds <= ENCODED
        )
        return (
            "replaces a file that no run wrote"
            if exists == "replace" and may_replace
            else "refused: another file exists"
        )

    def _names(self, relative: str, subject: str) -> list[str]:
        names = relative.split("/")
        if relative.startswith("/") or any(
            n in ("", ".", "..") or any(c in n for c in "\\\0") or re.match(r"[A-Za-z]:", n)
            for n in names
        ):
            raise OutputError(
                _message(
                    f"{subject} would be written to '{relative}'",
                    "that is not a path in the output folder",
                    "choose another path in 'outputs:'",
                )
            )
        return names

    def _claim_path(
        self, names: list[str], output: str, item: str, subject: str, relative: str
    ) -> None:
        path = "/".join(names)
        # On these systems two names that differ only in case are one file.
        path = (
            unicodedata.normalize("NFC", path).casefold()
            if sys.platform in ("darwin", "win32")
            else path
        )
        for claimed in (path, path + SIDECAR):
            other = self._claimed.setdefault(claimed, (output, item))
            if other != (output, item):
                name, of = other
                other_subject = f"output '{name}'{f' ({of})' if of else ''}"
                fix = (
                    "add {item}, {index} or {digest8} to the path"
                    if name == output
                    else "add {output} to the path, or give each output its own path"
                )
                raise OutputError(
                    _message(
                        f"{subject} and {other_subject} are written to the same path, '{relative}'",
                        "the second would replace the first",
                        fix,
                    )
                )

    def _check_meaning(self, folder: Path, names: list[str], value: Any, subject: str) -> None:
        """Refuse names from which other programs, or imagen_flow, read settings. Templates were
        checked when the graph was resolved; these are the filled names.
        """
        shown = self.folder.joinpath(*names)
        if not isinstance(value, Image | Mask | Tensor | Audio):
            hidden = [*names, *(self._below_inside() if self._options.inside else ())]
            if any(name.startswith(".") for name in hidden):
                raise OutputError(
                    _message(
                        f"{subject} is not written to {shown}: a name in the path starts with a"
                        " dot",
                        HIDDEN_NAMES,
                        "remove the dot, or choose another folder with --out",
                    )
                )
        if is_own_name(names[-1]) or folder.is_relative_to(os.path.realpath(config_folder())):
            raise OutputError(
                _message(
                    f"{subject} is not written to {shown}",
                    OWN_NAMES,
                    "choose another path in 'outputs:', or another folder with --out",
                )
            )

    def _below_inside(self) -> tuple[str, ...]:
        assert self._root is not None and self._options.inside is not None
        return self._root.relative_to(os.path.realpath(self._options.inside)).parts

    def _make_folders(self, names: list[str], subject: str) -> Path:
        """Create the folders on the way to a file and return the real path of the last one;
        symbolic links must not lead outside.
        """
        root = self.make_root(subject)
        here = root
        for name in names:
            step = here / name
            with suppress(FileExistsError):
                self._changes.make_folder(step)
            here = Path(os.path.realpath(step))
            if not here.is_relative_to(root):
                raise OutputError(
                    _message(
                        f"{subject} would leave the output folder",
                        f"{self.folder.joinpath(*names)} leads to {here} through a symbolic link",
                        "remove the link, or choose another folder with --out",
                    )
                )
            if not here.is_dir():
                raise NotADirectoryError(
                    errno.ENOTDIR, "a file has the name of the folder", str(step)
                )
        return here

    def make_root(self, subject: str) -> Path:
        """Create the output folder and return its real path, which must not change during the run."""
        if self._root is None:
            self._check_inside(
                Path(os.path.realpath(self.folder)), subject
            )  # before it is created: a link may lead to a folder that does not exist yet
        self._changes.make_folder(self.folder)
        root = Path(os.path.realpath(self.folder))
        self._check_inside(root, subject)
        self._root = self._root or root
        if root != self._root:
            raise OutputError(
                _message(
                    f"{subject} would leave the output folder",
                    f"{self.folder} led to {self._root} when the run started and now leads to"
                    f" {root}",
                    "find out what replaced it, and run again",
                )
            )
        return root

    def _check_inside(self, root: Path, subject: str) -> None:
        if self._options.inside is not None and not root.is_relative_to(
            os.path.realpath(self._options.inside)
        ):
            raise OutputError(
                _message(
                    f"{subject} would leave {self._options.inside}",
                    f"{self.folder} leads to {root} through a symbolic link",
                    f"remove the link, or name the folder yourself: --out {root}",
                )
            )


@dataclass(frozen=True, slots=True)
class _WriteRequest:
    """What to write; it is encoded only when its bytes are needed."""

    codecs: Codecs
    changes: DiskChanges
    subject: str
    value: Any
    provenance: str | None
    digest: str
    exists: str
    #: Whether ``exists: replace`` may replace a file that no run wrote.
    may_replace: bool
    #: Of the file's format.
    options: Mapping[str, Any]

    @property
    def is_folder(self) -> bool:
        return isinstance(self.value, Folder | Model)

    def content(self, ending: str) -> _Content:
        """Encode the value, and its sidecar if the file cannot contain the provenance."""
        if self.is_folder:
            return _Content(None, self.sidecar(folder_seal(files_of(self.value))))
        try:
            data = encode(self.value, ending, self.codecs, self.options)
        except (ValueError, TypeError) as error:
            why, fix = str(error), "choose another path in 'outputs:'"
            if isinstance(error, UnicodeEncodeError):
                code = ord(error.object[error.start])
                why = f"it contains half a character (U+{code:04X}), which UTF-8 cannot represent"
                fix = "remove it from the text, or read the text from a file in UTF-8"
            raise OutputError(
                _message(
                    f"{self.subject} cannot be written as a {ending or 'plain'} file", why, fix
                )
            ) from error
        if self.provenance is not None and ending == ".png" and not isinstance(self.value, File):
            try:
                return _Content(
                    image_files.embed(
                        data,
                        add_seal(self.provenance, image_files.seal_of(BytesIO(data), png=True)),
                    ),
                    None,
                )
            except ValueError:
                pass  # too long for a PNG: use a sidecar
        return _Content(data, self.sidecar(image_files.seal_of(BytesIO(data), png=False)))

    def sidecar(self, seal: str) -> bytes | None:
        return None if self.provenance is None else add_seal(self.provenance, seal).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _Content:
    """The bytes of a file (None for a folder) and of its sidecar, if it has one."""

    data: bytes | None
    sidecar: bytes | None


def _write_to_free_path(request: _WriteRequest, folder: Path, target: Path) -> tuple[Path, bool]:
    """Write to the target's name in a real folder, or to the next free number."""
    stem, ending = os.path.splitext(target.name)
    content: _Content | None = None
    for count in range(1, 10_000):
        name = target.name if count == 1 else f"{stem}-{count}{ending}"
        path = folder / name
        state, why = _inspect(request, path)
        if state == "same":
            return target.with_name(name), False
        content = content or request.content(ending.lower())
        if state in ("other", "ours") and _has_content(request, path, content):
            state = "equal"
        if state in ("free", "ours") and (conflict := request.changes.conflict(path)):
            state, why = "other", conflict
        if content.sidecar is not None and _is_foreign(path.with_name(name + SIDECAR)):
            state, why = "other", f"{name + SIDECAR} exists and was not written by imagen_flow"
        if state == "other" and request.exists == "number":
            continue
        if state == "other" and not (request.exists == "replace" and request.may_replace):
            fix = "move it away, or set 'exists: number' or 'exists: replace' for this output"
            if request.exists == "replace":
                fix = (
                    "move it away, set 'exists: number' for this output, or allow replacing it with"
                    " --replace"
                )
                why += (
                    "; for outputs that are written as they are, a graph cannot allow replacing"
                    " other files"
                )
            raise OutputError(
                _message(
                    f"{request.subject} is not written to {target}: another file exists", why, fix
                )
            )
        if state != "equal":
            _put(request, path, content)
        _put_sidecar(request.changes, path.with_name(name + SIDECAR), content.sidecar)
        return target.with_name(name), state != "equal"
    raise OutputError(
        _message(
            f"{request.subject} has no free name at {target}",
            "it and the next 9,998 numbers exist already",
            "remove old files, or choose another path",
        )
    )


def _inspect(request: _WriteRequest, path: Path) -> tuple[str, str]:
    """Say what is at a path: ``free``, ``same`` (this very value, written by a run), ``ours``
    (written by a run), or ``other`` with the reason.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "free", ""
    if stat.S_ISLNK(mode):
        return "other", "it is a symbolic link"
    if stat.S_ISDIR(mode) != request.is_folder:
        return "other", (
            "it is a folder" if stat.S_ISDIR(mode) else "it is a file, and the output is a folder"
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return "other", "it is not a regular file"
    embedded = try_read_embedded(path)
    if embedded is None:
        return "other", "it has no provenance of imagen_flow, so it may be someone's work"
    if not embedded.intact:
        return "other", "a run wrote it, and it has been changed since"
    if (
        embedded.digest == request.digest
        and request.provenance is not None
        and _written(embedded.text) == _written(request.provenance)
    ):
        return "same", ""
    return "ours", ""


def _written(document: str) -> tuple[object, object]:
    """Give the level of a document, and the options that its file was written with."""
    read = json.loads(document)
    return read.get("provenance"), read["output"].get("options", {})


def _is_foreign(sidecar_path: Path) -> bool:
    """Tell whether something other than a sidecar has the name of a sidecar."""
    return os.path.lexists(sidecar_path) and not is_sidecar(sidecar_path)


def _has_content(request: _WriteRequest, path: Path, content: _Content) -> bool:
    """Tell whether there is a regular file (or a folder) with exactly this content."""
    mode = path.lstat().st_mode
    if content.data is None:
        return stat.S_ISDIR(mode) and folder_seal(walk_files(path)) == folder_seal(
            files_of(request.value)
        )
    return (
        stat.S_ISREG(mode)
        and path.lstat().st_size == len(content.data)
        and path.read_bytes() == content.data
    )


def _put(request: _WriteRequest, path: Path, content: _Content) -> None:
    if content.data is not None:
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "a folder has the name of the file", str(path))
        request.changes.put(path, content.data)
    else:
        request.changes.put_folder(path, request.value)


def _put_sidecar(changes: DiskChanges, sidecar_path: Path, sidecar: bytes | None) -> None:
    """Write a sidecar if there is one; else remove an outdated one."""
    if sidecar is None:
        if os.path.lexists(sidecar_path) and is_sidecar(sidecar_path):
            changes.remove(sidecar_path)
    elif not (
        sidecar_path.is_file()
        and not sidecar_path.is_symlink()
        and sidecar_path.read_bytes() == sidecar
    ):
        changes.put(sidecar_path, sidecar)


_FREE = "free disk space, or choose another folder with --out"

_ELSEWHERE = "choose another folder with --out, or change its permissions"

_FIXES = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit on the size of files, or make a smaller one",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: "choose another folder with --out",
    errno.ENAMETOOLONG: "shorten the path in 'outputs:', or the folder's",
    errno.ENOTDIR: "move that file away, or choose another path in 'outputs:'",
    errno.EISDIR: "move that folder away, or choose another path in 'outputs:'",
    errno.EEXIST: "move that file away, or choose another folder with --out",
}


def _message(what: str, why: str, fix: str) -> str:
    return f"{what}\n  = why: {why}\n  = fix: {fix}"


def _write_error(subject: str, target: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    about = (
        f": {error.filename}"
        if error.filename
        and ".imagen_flow-" not in str(error.filename)
        and Path(str(error.filename)) != target
        else ""
    )
    fix = _FIXES.get(
        error.errno or 0,
        "check that the disk is connected and works, or choose another folder with --out",
    )
    shown = str(target) if len(str(target)) <= 300 else f"{str(target)[:297]}…"
    return OutputError(
        _message(f"{subject} cannot be written to {shown}", (reason + about)[:400], fix)
    )
