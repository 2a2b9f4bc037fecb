"""Write outputs as files: where a path template leads, and how a value becomes a file, whole or not
at all.

A path is a template. Its fields are the graph's plain inputs and ``{graph} {output} {item} {index}
{digest8}``; ``{{`` and ``}}`` are braces. `check_template` refuses
what cannot work when a graph is resolved, `fill` makes each field's text safe, and a `Writer`
carries out what is left:

* a file is made under another name in its own folder, flushed to the disk and renamed. So it is
  whole or not there, and after a power cut its name never leads to half of it.
* nothing leaves the output folder, by whatever symbolic links there are in it, also if one is put
  there while the run goes on; a link at the place itself is not followed.
* a file that holds this very value is not touched. One that this project wrote, and that nobody
  changed since, is replaced. Any other is an error, unless the graph says ``exists: number`` or
  ``replace``.
* what is written as it came (a file, a folder, a model, a plugin's own kind) replaces nothing but
  what this project wrote, whatever the graph says, unless the user asks for it. Nor do such values
  or texts get
  a name that begins with a dot: other programs take their settings from such files. No output is
      named like a settings file of ours, or like a sidecar.
* two outputs of a run with one path are an error that names both.

Whether a file is ours is told by its provenance (in a PNG, else in ``NAME.provenance.json`` beside
it) and by the seal in it. With ``provenance: none`` a file cannot be told from others.

Texts are UTF-8 and end with a newline. Numbers, truth values and JSON are JSON, with sorted keys.
Pictures are as `pictures` says, tensors safetensors, sound 16-bit WAV, models folders.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from .._provenance.embedding import SIDECAR, is_sidecar, read_label, seal_of_tree, sealed, walk_tree
from .._system.processes import sweep, temporary_name
from .._system.user_folders import config_folder
from .._types import image_files as pictures
from .._types.codec import Codecs
from .._types.models import Model
from .._types.ports import PortType
from .._types.values import Audio, ExistsPolicy, File, Folder, Image, Mask, Tensor
from ..errors import OutputError, nearest

__all__ = ["Fault", "Hands", "OutFolder", "Writer", "Written", "check_template", "fill", "files_of"]

#: Fields that every path may use.
FIELDS = ("graph", "output", "item", "index", "digest8")

#: How long a field's text may be, in characters.
FIELD_LIMIT = 80

#: How long a name in a path may be, in bytes: what file systems hold (255), less what a number and
# a sidecar add to it.
NAME_LIMIT = 255 - len("-9999") - len(SIDECAR)

_TEXTS = (".txt", ".md", ".json", ".csv", ".html", ".svg", ".xml", ".yaml")
_ENDINGS: dict[str, tuple[str, ...]] = {
    "image": pictures.ENDINGS,
    "mask": pictures.ENDINGS,
    **dict.fromkeys(("text", "bool", "int", "float", "number", "json"), _TEXTS),
    "tensor": (".safetensors",),
    "audio": (".wav",),
}
_FOLDERS = ("folder", "model")

#: Kinds that are encoded when they are written, and not written as they came.
_CODED = frozenset({*_ENDINGS, "list"})

#: Kinds that no other program takes for settings or code.
_MEDIA = ("image", "mask", "tensor", "audio")

#: Larger files are not read to foretell what becomes of them.
_QUICKLY_READ = 64 << 20

#: Files of ours that say what may be done, and so are never outputs.
_SETTINGS_FILES = ("imagen-flow.toml", "imagen-flow.lock")

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|clock\$)\s*(\.|\Z)", re.IGNORECASE
)
_FORBIDDEN = '<>:"|?*\\'


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a path template, why, and how to mend it."""

    message: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """Where an output lies, and whether the file was written this time (`changed`) or already held
    it.
    """

    path: Path
    changed: bool


@dataclass(frozen=True, slots=True)
class OutFolder:
    """A folder for outputs, and what may be done in it.

    `inside` is a folder that it must not leave by a symbolic link, where it was not the user who
    named it. `replace` says whether files that are not ours may be replaced where the
    graph says so: True all of them, None (the default) only by pictures, sounds, tensors, texts and
        data.
    """

    path: Path
    inside: Path | None = None
    replace: bool | None = None


# ---- templates


def check_template(template: str, *, fields: Collection[str], type: PortType) -> Fault | None:
    """Say what is wrong with an output's path, if anything.

    Params:
        fields: names of the graph's inputs that a path may use: those that are plain values.
        type: of the output; it decides which file endings there are.
    """
    if not template.strip():
        return Fault("the path is empty", fix="write a file's name, like {graph}.png")
    known = {*fields, *FIELDS}
    used: set[str] = set()
    literal = []  # what stands for sure, with \1 for a field
    for piece in _pieces(template):
        if isinstance(piece, str):
            literal.append(piece)
            continue
        if piece.name is None:
            return Fault(
                f"'{piece.text}' in the path opens or closes no field",
                fix="double it: {{ and }} are braces in a name",
            )
        if piece.name not in known:
            word = piece.name
            why = (
                "a field is a name alone, without a format"
                if any(c in word for c in ":!.[ ") and re.split(r"[:!.\[ ]", word)[0] in known
                else ""
            )
            return Fault(
                f"the path has no field '{{{word}}}'", why, nearest(word, known, what="fields are")
            )
        used.add(piece.name)
        literal.append("\1")
    inner = type.element if type.kind == "list" and type.element else type
    fault = _check_names("".join(literal)) or _check_meaning("".join(literal), inner)
    if fault:
        return fault
    if type.kind == "list" and not used & {"item", "index"}:
        return Fault(
            "the path of a list needs {item} or {index}",
            "each element is written as a file of its own",
            f"write {_with_index(template)}",
        )
    return _check_ending("".join(literal).rpartition("/")[2], inner)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a template; without a name, a brace that belongs to none."""

    text: str
    name: str | None


def _pieces(template: str) -> Iterator[str | _Field]:
    at = 0
    for match in _PIECE.finditer(template):
        yield template[at : match.start()]
        at = match.end()
        text = match.group()
        if text in ("{{", "}}"):
            yield text[0]
        else:
            yield _Field(text, match.group(1))
    yield template[at:]


def _check_names(path: str) -> Fault | None:
    """Check the parts of a path that are written out. \\1 stands for a field, which is made safe
    when filled.
    """
    if "\\" in path:
        return Fault(
            "the path has a backslash",
            "folders are parted by '/', on every system",
            "write '/'" if path.strip("\\") else "",
        )
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return Fault(
            "the path is absolute",
            "a graph writes only below the output folder",
            "write it relative; the folder is chosen by --out",
        )
    if path.startswith("~"):
        return Fault(
            "the path starts with '~'",
            "a graph writes only below the output folder",
            "write it relative; the folder is chosen by --out",
        )
    for name in path.split("/"):
        if name == "..":
            return Fault(
                "the path has '..'",
                "a graph writes only below the output folder",
                "write it relative; the folder is chosen by --out",
            )
        if name in ("", "."):
            return Fault(
                (
                    "the path has an empty name"
                    if not name
                    else "the path has a name that is only '.'"
                ),
                fix="write names parted by single '/', the last one a file's",
            )
        odd = next((c for c in name if c in _FORBIDDEN or (_is_dropped(c) and c != "\1")), None)
        if odd is not None:
            return Fault(
                f"a name in the path has {_shown(odd)}",
                "not every system can hold such a name",
                "leave it out",
            )
        if name.endswith((".", " ")):
            return Fault(
                "a name in the path ends with a dot or a space",
                "not every system can hold such a name",
                "leave it out",
            )
        if "\1" not in name and _RESERVED.match(name):
            return Fault(
                f"'{name}' is a reserved name", "Windows keeps it for a device", "choose another"
            )
        if len(name.encode("utf-8", "replace")) > NAME_LIMIT:
            return Fault(f"a name in the path is longer than {NAME_LIMIT} bytes", fix="shorten it")
    return None


def _check_meaning(path: str, type: PortType) -> Fault | None:
    """Refuse names that other programs, or this one, take their settings from."""
    hidden = next((name for name in path.split("/") if name.startswith(".")), None)
    if hidden is not None and not all(member.kind in _MEDIA for member in type.members or (type,)):
        return Fault(
            f"the name '{_spelt(hidden)}' in the path begins with a dot",
            _HIDDEN,
            "leave the dot out",
        )
    last = path.rpartition("/")[2]
    if _is_kept(last):
        return Fault(f"'{_spelt(last)}' is no name for an output", _KEPT, "choose another")
    return None


_HIDDEN = "other programs take their settings from such files and folders"
_KEPT = "imagen_flow itself reads what has such a name"


def _spelt(literal: str) -> str:
    return literal.replace("\1", "{…}")


def _is_kept(name: str) -> bool:
    """Whether a file of this name says something to us: a settings file, a lock, a sidecar."""
    name = unicodedata.normalize("NFKC", name).casefold()
    return name in _SETTINGS_FILES or name.endswith(SIDECAR)


def _shown(character: str) -> str:
    return f"'{character}'" if character.isprintable() else f"the character U+{ord(character):04X}"


def _with_index(template: str) -> str:
    stem, ending = os.path.splitext(template)
    return f"{stem}-{{index}}{ending}"


def _check_ending(name: str, type: PortType) -> Fault | None:
    members = type.members or (type,)
    if any(m.kind == "any" for m in members):
        members = (*(PortType(kind) for kind in _ENDINGS), PortType("folder"))
    if any(m.kind not in _ENDINGS and m.kind not in (*_FOLDERS, "list") for m in members):
        return None  # a file, or a plugin's own kind: it knows its ending, and any name will do
    ending = os.path.splitext(name)[1].lower()
    folders = any(m.kind in _FOLDERS for m in members)
    endings = sorted(
        {e for m in members for e in _ENDINGS.get("json" if m.kind == "list" else m.kind, ())}
    )
    if ending in endings or (folders and not ending):
        return None
    if not endings:
        return Fault(
            f"{type.name} is written as a folder, not as a {ending} file",
            fix=f"leave out '{ending}'",
        )
    can = f"it can be {', '.join(endings)}"
    if not ending:
        return Fault(f"the path has no file ending, which says how to write {type.name}", fix=can)
    if "\1" in ending:
        return Fault(
            "the file ending is a field",
            "the ending says how the value is written, so it is known before running",
            can,
        )
    return Fault(f"{type.name} cannot be written as a {ending} file", fix=can)


def fill(template: str, fields: Mapping[str, object]) -> str:
    """Fill a checked template: a path relative to the output folder, with ``/``. Each field is made
    safe and cut to 80 characters, each name to what file systems hold.
    """
    filled = "".join(
        p if isinstance(p, str) else _safe(_spell(fields[p.name or ""])) for p in _pieces(template)
    )
    return "/".join(map(_safe_name, unicodedata.normalize("NFC", filled).split("/")))


def _spell(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _safe(text: str) -> str:
    """Turn any text into a part of a name: what some system cannot hold becomes '_' or goes."""
    text = unicodedata.normalize(
        "NFC", text[: 8 * FIELD_LIMIT]
    )  # no more than can matter: a prompt may be a megabyte
    out = []
    for character in text:
        if character == "/" or character in _FORBIDDEN:
            out.append("_")
        elif character.isspace():
            out.append(" ")
        elif not _is_dropped(character):
            out.append(character)
    text = " ".join("".join(out).split())  # runs of space become one
    return _cut(text.strip(". "), FIELD_LIMIT).rstrip(". ") or "_"


def _is_dropped(character: str) -> bool:
    """Whether a character has no place in a name: controls, lone surrogates, and marks that turn
    the direction of writing, with which one name can look like another.
    """
    kind = unicodedata.category(character)
    return (
        kind in ("Cc", "Cs", "Zl", "Zp")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
        or character in "\u200e\u200f\ufeff"
    )


def _cut(text: str, limit: int) -> str:
    """Cut text without parting what is one character to the eye: letters from their accents, joined
    emoji from one another.
    """
    if len(text) <= limit:
        return text
    while limit > 1 and (_joins(text[limit]) or text[limit - 1] == "\u200d"):
        limit -= 1
    return text[:limit]


def _joins(character: str) -> bool:
    return (
        unicodedata.category(character).startswith("M")
        or character == "\u200d"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _safe_name(name: str) -> str:
    """Make a whole name safe after its fields were filled; its ending stays."""
    name = name.rstrip(". ")
    if not name.strip("."):
        return "_"
    if _RESERVED.match(name):
        name = "_" + name
    stem, ending = os.path.splitext(name)
    limit = NAME_LIMIT - len(ending.encode())
    if len(stem.encode()) > limit:
        keep = len(stem.encode()[:limit].decode(errors="ignore"))
        stem = _cut(stem, keep).rstrip(". ")
    return stem + ending


# ---- writing


class Hands(Protocol):
    """How a Writer changes the disk. `_AtOnce` is the usual way; a hot folder puts off what makes
    outputs seen until it has noted what it is about to do.
    """

    def taken(self, path: Path) -> str:
        """Say why this place belongs to something else, if it does."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it; one that is there is let be."""

    def put(self, path: Path, data: bytes) -> None:
        """Put a file in place whole, also in place of an older one."""

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        """Put a folder in place whole, also in place of an older one."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def refuse(self, failed: OSError) -> None:
        """Take note of an error of the file system for which an output is not written."""


class Writer:
    """Writes the outputs of one run into a folder, which is made when the first is written. Safe to
    use from several threads.

    Params:
        item: the name of what all outputs are of, where one graph is run for many files. ``{item}``
            in a path stands for it; a path that has no such field gets it in front of its name.
        ending: that of its file, without the dot. ``{ending}`` stands for it, unless an input is
            called so.
        below: a folder in the output folder that all paths start from, with ``/``.
        hands: what changes the disk.
    """

    def __init__(
        self,
        folder: Path | OutFolder,
        *,
        codecs: Codecs | None = None,
        item: str = "",
        ending: str = "",
        below: str = "",
        hands: Hands | None = None,
    ) -> None:
        place = folder if isinstance(folder, OutFolder) else OutFolder(folder)
        self.folder = place.path
        self._place = place
        self._root: Path | None = None
        #: Folders in which what killed runs left has been removed.
        self._swept: set[Path] = set()
        self._codecs = codecs or Codecs()
        self._claims: dict[str, tuple[str, str]] = {}
        self._item = item
        self._ending = ending
        self._below = below
        self._hands = hands or _AtOnce()

    def relative(self, template: str, fields: Mapping[str, object], *, element: bool) -> str:
        """Fill an output's path.

        Params:
            fields: with `item` and `index` of the element, where the output is a list.
            element: whether it is one.
        """
        if self._item:
            used = {p.name for p in _pieces(template) if isinstance(p, _Field)}
            if "item" not in used:
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
        filled = fill(template, fields)
        return f"{self._below}/{filled}" if self._below else filled

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
    ) -> Written:
        """Write a value as a file, or as a folder for models and folders.

        Params:
            relative: the path below the folder, as `fill` gives it.
            output, item: whose it is, for messages.
            provenance: the document that `provenance.document` gives; None writes none.
            digest: of the value; a file that holds it already is not touched.

        Raises:
            OutputError: it cannot be written there. Nothing has changed on the disk then, but for
                folders that were made on the way.
        """
        whose = f"output '{output}'{f' ({item})' if item else ''}"
        names = self._names(relative, whose)
        self._claim(names, output, item, whose, relative)
        target = self.folder.joinpath(*names)
        raw = not isinstance(
            value,
            str | bool | int | float | dict | list | tuple | Image | Mask | Tensor | Audio | None,
        )
        may_replace = self._place.replace if self._place.replace is not None else not raw
        try:
            folder = self._enter(names[:-1], whose)
            self._check_meaning(folder, names, value, whose)
            if folder not in self._swept:
                self._swept.add(folder)
                sweep(folder)
            return Written(
                *_place(
                    _Job(
                        self._codecs,
                        self._hands,
                        whose,
                        value,
                        provenance,
                        digest,
                        exists,
                        may_replace,
                    ),
                    folder,
                    target,
                )
            )
        except OSError as failed:
            self._hands.refuse(failed)
            raise _refusal(whose, target, failed) from failed

    def foretell(self, relative: str, *, type: PortType, exists: ExistsPolicy = "error") -> str:
        """Say in a few words what becomes of what lies at a path if an output is written there.
        Nothing is changed.
        """
        inner = type.element if type.kind == "list" and type.element else type
        kinds = {member.kind for member in inner.members or (inner,)}
        try:
            root = Path(os.path.realpath(self.folder))
            self._confine(root, "it")
            path = self.folder.joinpath(*self._names(relative, "it"))
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return "new"
        except OutputError as refused:
            return f"refused: {str(refused).partition(chr(10))[0]}"
        except OSError as failed:
            return f"refused: {(failed.strerror or str(failed)).lower()}"
        if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and path.lstat().st_size > _QUICKLY_READ):
            # Reading all of it would take longer than planning.
            if is_sidecar(path.with_name(path.name + SIDECAR)):
                return "replaces what a run wrote, unless it is equal or was changed"
        elif stat.S_ISREG(mode) and (label := read_label(path)) is not None and label.intact:
            return "replaces what a run wrote, unless it is equal"
        if exists == "number":
            return "gets a number: another file is there"
        may_replace = self._place.replace if self._place.replace is not None else kinds <= _CODED
        return (
            "replaces a file that no run wrote"
            if exists == "replace" and may_replace
            else "refused: another file is there"
        )

    def _names(self, relative: str, whose: str) -> list[str]:
        names = relative.split("/")
        if relative.startswith("/") or any(
            n in ("", ".", "..") or any(c in n for c in "\\\0") or re.match(r"[A-Za-z]:", n)
            for n in names
        ):
            raise OutputError(
                _words(
                    f"{whose} would be written to '{relative}'",
                    "that is no place below the output folder",
                    "choose another path in 'outputs:'",
                )
            )
        return names

    def _claim(self, names: list[str], output: str, item: str, whose: str, relative: str) -> None:
        path = "/".join(names)
        # Two names that differ in case alone are one file on these systems.
        path = (
            unicodedata.normalize("NFC", path).casefold()
            if sys.platform in ("darwin", "win32")
            else path
        )
        for claimed in (path, path + SIDECAR):
            other = self._claims.setdefault(claimed, (output, item))
            if other != (output, item):
                name, of = other
                there = f"output '{name}'{f' ({of})' if of else ''}"
                fix = (
                    "put {item}, {index} or {digest8} into the path"
                    if name == output
                    else "put {output} into the path, or give each its own"
                )
                raise OutputError(
                    _words(
                        f"{whose} and {there} are written to one path, '{relative}'",
                        "the second would replace the first",
                        fix,
                    )
                )

    def _check_meaning(self, folder: Path, names: list[str], value: Any, whose: str) -> None:
        """Refuse names that other programs, or this one, take their settings from. Templates were
        looked at when the graph was resolved; here are the names that came of them.
        """
        shown = self.folder.joinpath(*names)
        if not isinstance(value, Image | Mask | Tensor | Audio):
            hidden = [*names, *(self._below_inside() if self._place.inside else ())]
            if any(name.startswith(".") for name in hidden):
                raise OutputError(
                    _words(
                        f"{whose} is not written to {shown}: a name in the path begins with a dot",
                        _HIDDEN,
                        "leave the dot out, or choose another folder by --out",
                    )
                )
        if _is_kept(names[-1]) or folder.is_relative_to(os.path.realpath(config_folder())):
            raise OutputError(
                _words(
                    f"{whose} is not written to {shown}",
                    _KEPT,
                    "choose another path in 'outputs:', or another folder by --out",
                )
            )

    def _below_inside(self) -> tuple[str, ...]:
        assert self._root is not None and self._place.inside is not None
        return self._root.relative_to(os.path.realpath(self._place.inside)).parts

    def _enter(self, names: list[str], whose: str) -> Path:
        """Make the folders on the way to a file and return the real place of the last; symbolic
        links must not lead outside.
        """
        root = self._enter_root(whose)
        here = root
        for name in names:
            step = here / name
            with suppress(FileExistsError):
                self._hands.make_folder(step)
            here = Path(os.path.realpath(step))
            if not here.is_relative_to(root):
                raise OutputError(
                    _words(
                        f"{whose} would leave the output folder",
                        f"{self.folder.joinpath(*names)} leads to {here} by a symbolic link",
                        "remove the link, or choose another folder by --out",
                    )
                )
            if not here.is_dir():
                raise NotADirectoryError(
                    errno.ENOTDIR, "a file is in the place of a folder", str(step)
                )
        return here

    def _enter_root(self, whose: str) -> Path:
        """Make the output folder and return its real place, which stays the same as long as the run
        goes on.
        """
        if self._root is None:
            self._confine(
                Path(os.path.realpath(self.folder)), whose
            )  # before it is made: a link may lead to a folder that is not there yet
        self._hands.make_folder(self.folder)
        root = Path(os.path.realpath(self.folder))
        self._confine(root, whose)
        self._root = self._root or root
        if root != self._root:
            raise OutputError(
                _words(
                    f"{whose} would leave the output folder",
                    f"{self.folder} led to {self._root} when the run began, and leads to"
                    f" {root} now",
                    "see who replaces it, and run again",
                )
            )
        return root

    def _confine(self, root: Path, whose: str) -> None:
        if self._place.inside is not None and not root.is_relative_to(
            os.path.realpath(self._place.inside)
        ):
            raise OutputError(
                _words(
                    f"{whose} would leave {self._place.inside}",
                    f"{self.folder} leads to {root} by a symbolic link",
                    f"remove the link, or name the folder yourself: --out {root}",
                )
            )


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be written, and how it becomes bytes, which is put off until they are needed."""

    codecs: Codecs
    hands: Hands
    whose: str
    value: Any
    provenance: str | None
    digest: str
    exists: str
    #: Whether ``exists: replace`` reaches what is not ours.
    may_replace: bool

    @property
    def is_folder(self) -> bool:
        return isinstance(self.value, Folder | Model)

    def content(self, ending: str) -> _Content:
        """Encode the value, and its sidecar if provenance does not go into the file."""
        if self.is_folder:
            return _Content(None, self.sidecar(seal_of_tree(files_of(self.value))))
        try:
            data = _encode(self.value, ending, self.codecs)
        except (ValueError, TypeError) as odd:
            raise OutputError(
                _words(
                    f"{self.whose} cannot be written as a {ending or 'plain'} file",
                    str(odd),
                    "choose another path in 'outputs:'",
                )
            ) from odd
        if self.provenance is not None and ending == ".png" and not isinstance(self.value, File):
            try:
                return _Content(
                    pictures.embed(
                        data, sealed(self.provenance, pictures.seal_of(BytesIO(data), png=True))
                    ),
                    None,
                )
            except ValueError:
                pass  # too long for a PNG: beside it
        return _Content(data, self.sidecar(pictures.seal_of(BytesIO(data), png=False)))

    def sidecar(self, seal: str) -> bytes | None:
        return None if self.provenance is None else sealed(self.provenance, seal).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _Content:
    """The bytes of a file (None for a folder) and of the sidecar that goes with it, if one does."""

    data: bytes | None
    side: bytes | None


def _place(job: _Job, folder: Path, target: Path) -> tuple[Path, bool]:
    """Write to the target's name in a real folder, or to the next number that is free."""
    stem, ending = os.path.splitext(target.name)
    content: _Content | None = None
    for count in range(1, 10_000):
        name = target.name if count == 1 else f"{stem}-{count}{ending}"
        path = folder / name
        state, why = _look(job, path)
        if state == "same":
            return target.with_name(name), False
        content = content or job.content(ending.lower())
        if state in ("other", "ours") and _holds(job, path, content):
            state = "equal"
        if state in ("free", "ours") and (taken := job.hands.taken(path)):
            state, why = "other", taken
        if content.side is not None and _is_taken(path.with_name(name + SIDECAR)):
            state, why = "other", f"what lies at {name + SIDECAR} is no provenance of ours"
        if state == "other" and job.exists == "number":
            continue
        if state == "other" and not (job.exists == "replace" and job.may_replace):
            fix = "move it away, or say 'exists: number' or 'exists: replace' for this output"
            if job.exists == "replace":
                fix = (
                    "move it away, say 'exists: number' for this output, or let it be replaced:"
                    " --replace"
                )
                why += (
                    "; a file that is written as it came replaces nothing else because a graph"
                    " says so"
                )
            raise OutputError(
                _words(f"{job.whose} is not written to {target}: there is another file", why, fix)
            )
        if state != "equal":
            _put(job, path, content)
        _put_beside(job.hands, path.with_name(name + SIDECAR), content.side)
        return target.with_name(name), state != "equal"
    raise OutputError(
        _words(
            f"{job.whose} finds no free name at {target}",
            "it and 9,998 numbers after it are taken",
            "tidy up, or choose another path",
        )
    )


def _look(job: _Job, path: Path) -> tuple[str, str]:
    """Say what is at a place: ``free``, ``same`` (this very value, by us), ``ours``, or ``other``
    and why that.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "free", ""
    if stat.S_ISLNK(mode):
        return "other", "it is a symbolic link"
    if stat.S_ISDIR(mode) != job.is_folder:
        return "other", (
            "it is a folder" if stat.S_ISDIR(mode) else "it is a file, and the output a folder"
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return "other", "it is no plain file"
    label = read_label(path)
    if label is None:
        return "other", "it carries no provenance of ours, so it may be anyone's work"
    if not label.intact:
        return "other", "a run wrote it, and it was changed since"
    if (
        label.digest == job.digest
        and job.provenance is not None
        and label.level == json.loads(job.provenance).get("provenance")
    ):
        return "same", ""
    return "ours", ""


def _is_taken(beside: Path) -> bool:
    """Whether the place of a sidecar holds something else."""
    return os.path.lexists(beside) and not is_sidecar(beside)


def _holds(job: _Job, path: Path, content: _Content) -> bool:
    """Whether there is a plain file (or folder) with just this content."""
    mode = path.lstat().st_mode
    if content.data is None:
        return stat.S_ISDIR(mode) and seal_of_tree(walk_tree(path)) == seal_of_tree(
            files_of(job.value)
        )
    return (
        stat.S_ISREG(mode)
        and path.lstat().st_size == len(content.data)
        and path.read_bytes() == content.data
    )


def _put(job: _Job, path: Path, content: _Content) -> None:
    if content.data is not None:
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "a folder is in the place of the file", str(path))
        job.hands.put(path, content.data)
    else:
        job.hands.put_folder(path, job.value)


def _put_beside(hands: Hands, beside: Path, side: bytes | None) -> None:
    """Write a sidecar where one is due; an older one that is not wanted any more goes."""
    if side is None:
        if os.path.lexists(beside) and is_sidecar(beside):
            hands.remove(beside)
    elif not (beside.is_file() and not beside.is_symlink() and beside.read_bytes() == side):
        hands.put(beside, side)


class _AtOnce:
    """Changes the disk when it is asked to."""

    def taken(self, path: Path) -> str:
        return ""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, data: bytes) -> None:
        _replace(path, data)

    def put_folder(self, path: Path, value: Folder | Model) -> None:
        _replace_folder(path, value)

    def remove(self, path: Path) -> None:
        path.unlink()

    def refuse(self, failed: OSError) -> None:
        pass


def _replace(path: Path, data: bytes) -> None:
    """Put a file in place whole: written beside, flushed, renamed."""
    temporary = temporary_name()
    with _pinned(path.parent) as (folder, at):
        # Not mkstemp: it gives the file to its maker alone, and an output is as open as the umask
        # says.
        handle = os.open(
            folder + temporary,
            os.O_WRONLY
            | os.O_CREAT
            | os.O_EXCL
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_BINARY", 0),
            0o666,
            dir_fd=at,
        )
        try:
            with open(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                # Without this a power cut may leave the new name with nothing in it. The folder is
                # not flushed: then the old file is there, which is whole too.
                os.fsync(stream.fileno())
            os.replace(folder + temporary, folder + path.name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(folder + temporary, dir_fd=at)
            raise


@contextmanager
def _pinned(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Hold on to a folder by its real path, so that no link that is put into that path meanwhile is
    followed: what names in it begin with, and what they are relative to.
    """
    if not hasattr(os, "O_PATH"):
        yield f"{folder}{os.sep}", None
        return
    how = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(folder.anchor, how)
    try:
        for name in folder.parts[1:]:
            inner = os.open(name, how, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield "", handle
    finally:
        os.close(handle)


def files_of(value: Folder | Model) -> Iterator[tuple[str, Path]]:
    """Give the files of a folder or model, by relative name with ``/``."""
    if isinstance(value, Folder):
        yield from ((f.name, f.path) for f in value.files)
    elif value.path.is_dir():
        yield from walk_tree(value.path)
    else:
        yield value.path.name, value.path


def _replace_folder(path: Path, value: Folder | Model) -> None:
    """Put a folder in place whole; what was there goes once the new one stands."""
    with _pinned(path.parent) as (_, at):
        folder = path.parent if at is None else Path(f"/proc/self/fd/{at}")
        if not folder.is_dir():  # where there is no /proc
            folder = path.parent
        _put_whole(folder, path.name, value)


def _put_whole(folder: Path, name: str, value: Folder | Model) -> None:
    path = folder / name
    temporary = folder / temporary_name()
    old = folder / temporary_name(".old")
    try:
        temporary.mkdir()
        for inner, source in files_of(value):
            parts = inner.split("/")
            if any(
                part in ("", ".", "..") or "\\" in part or (":" in part and os.name == "nt")
                for part in parts
            ):
                raise OSError(errno.EINVAL, f"a file in it is called '{inner}'", name)
            place = temporary.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
        if os.path.lexists(path):
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            if os.path.lexists(old):
                os.rename(old, path)
            raise
    finally:
        for left in (temporary, old):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _encode(value: Any, ending: str, codecs: Codecs) -> bytes:
    kind = codecs.kind(value)
    can = _ENDINGS.get("json" if kind == "list" else kind)
    if can and ending not in can:
        raise ValueError(f"{kind} can be {', '.join(can)}")
    if kind in ("image", "mask"):
        return pictures.encode(value.pixels, ending)
    if kind == "text":
        return f"{value.removesuffix(chr(10))}\n".encode()
    if can is _TEXTS:
        return (
            json.dumps(
                value, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=2
            ).encode()
            + b"\n"
        )
    if kind == "audio":
        return _wav(value)
    if kind == "file":
        return bytes(value.read_bytes())
    data: bytes = codecs.encode(value)[2]
    return data


def _wav(sound: Audio) -> bytes:
    """Encode sound as 16-bit PCM; samples beyond -1 to 1 are clipped."""
    import wave

    import numpy as np

    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(sound.samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.rint(np.clip(sound.samples.T, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


# ---- words

_FREE = "free some space, or choose another folder by --out"
_ELSEWHERE = "choose another folder by --out, or change its permissions"
_MENDING = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit on the size of files, or make a smaller one",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: "choose another folder by --out",
    errno.ENAMETOOLONG: "shorten the path in 'outputs:', or the folder's",
    errno.ENOTDIR: "move that file away, or choose another path in 'outputs:'",
    errno.EISDIR: "move that folder away, or choose another path in 'outputs:'",
    errno.EEXIST: "move that file away, or choose another folder by --out",
}


def _words(what: str, why: str, fix: str) -> str:
    return f"{what}\n  = why: {why}\n  = fix: {fix}"


def _refusal(whose: str, target: Path, failed: OSError) -> OutputError:
    reason = (failed.strerror or str(failed) or type(failed).__name__).lower()
    about = (
        f": {failed.filename}"
        if failed.filename
        and ".imagen_flow-" not in str(failed.filename)
        and Path(str(failed.filename)) != target
        else ""
    )
    fix = _MENDING.get(
        failed.errno or 0,
        "see whether the disk is there and in order, or choose another folder by --out",
    )
    shown = str(target) if len(str(target)) <= 300 else f"{str(target)[:297]}…"
    return OutputError(_words(f"{whose} cannot be written to {shown}", (reason + about)[:400], fix))
