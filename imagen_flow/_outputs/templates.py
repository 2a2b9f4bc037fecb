"""Check and fill the path templates of outputs.

The fields of a template are the graph's plain inputs, ``{graph} {output} {item} {index}
{digest8}``, and the parts of a file's name, ``{photo.stem}``; ``{{`` and ``}}`` are braces. `check_template` refuses templates that cannot work when
a graph is resolved; `fill_template` makes the text of each field safe.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping

from .._provenance.embedding import SIDECAR
from .._system.dataclass import dataclass
from .._types.ports import PortType
from ..errors import nearest
from .encoding import ENDINGS, FOLDERS
from .formats import TABLES

__all__ = [
    "FIELDS",
    "HIDDEN_NAMES",
    "OWN_NAMES",
    "FILE_PARTS",
    "FileField",
    "TemplateFault",
    "check_template",
    "fields_of",
    "file_fields_of",
    "is_whole",
    "fill_template",
    "is_own_name",
]


#: Fields that every path may use.
FIELDS = ("graph", "output", "item", "index", "digest8")

#: The parts of a file's name that a path may use.
FILE_PARTS = ("name", "stem", "suffix", "folder")

#: The longest text of a field, in characters.
FIELD_LIMIT = 80

#: The longest name in a path, in bytes: the limit of file systems (255) less what a number and a
#: sidecar add to it.
NAME_LIMIT = 255 - len("-9999") - len(SIDECAR)

#: Settings files of imagen_flow, which are never outputs.
_SETTINGS_FILES = ("imagen-flow.toml", "imagen-flow.lock")

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|clock\$)\s*(\.|\Z)", re.IGNORECASE
)

_FORBIDDEN = '<>:"|?*\\'


@dataclass(frozen=True, slots=True)
class TemplateFault:
    """What is wrong with a path template, why, and how to fix it."""

    message: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class FileField:
    """A file whose name a path may use; `per_element` if each element of the output has its own."""

    per_element: bool


def check_template(
    template: str,
    *,
    fields: Collection[str],
    type: PortType,
    files: Callable[[str], FileField | TemplateFault | None] = lambda name: None,
) -> TemplateFault | None:
    """Say what is wrong with an output's path, if anything.

    Params:
        fields: names of the graph's inputs that a path may use: those that are plain values.
        type: of the output; it decides which file endings are allowed.
        files: says whether the path may use the name of a file: by its input or node.
    """
    if not template.strip():
        return TemplateFault("the path is empty", fix="write a file name such as {graph}.png")
    known = {*fields, *FIELDS}
    used: set[str] = set()
    literal = []  # the literal text, with \1 for a field, and \2 for one that may be several names
    tells_elements = False
    for piece in _split(template):
        if isinstance(piece, str):
            literal.append(piece)
            continue
        if piece.name is None:
            return TemplateFault(
                f"'{piece.text}' in the path does not belong to a field",
                fix="write {{ or }} for a brace in a name",
            )
        name, _, part = piece.name.rpartition(".")
        file = files(name) if name and piece.name not in known else None
        if isinstance(file, TemplateFault):
            return file
        if file is not None:
            if part not in FILE_PARTS:
                return TemplateFault(
                    f"the path has no field '{{{piece.name}}}'",
                    "",
                    nearest(part, FILE_PARTS, what=f"the parts of '{name}' are"),
                )
            tells_elements |= file.per_element and part in ("name", "stem")
            literal.append("\2" if part == "folder" else "\1")
            continue
        if piece.name not in known:
            word = piece.name
            why = (
                "a field is only a name, without a format"
                if any(c in word for c in ":!.[ ") and re.split(r"[:!.\[ ]", word)[0] in known
                else ""
            )
            return TemplateFault(
                f"the path has no field '{{{word}}}'", why, nearest(word, known, what="fields are")
            )
        used.add(piece.name)
        literal.append("\1")
    inner = type.element if type.kind == "list" and type.element else type
    path = "".join(literal)
    names = path.split("/")
    if any("\2" in name and name != "\2" for name in names) or names[-1] == "\2":
        return TemplateFault(
            "a folder is not a part of a name",
            "it can be several folders, or none",
            "write it between slashes: {photo.folder}/{photo.stem}.txt",
        )
    path = path.replace("\2", "\1")
    fault = _check_names(path) or _check_meaning(path, inner)
    if fault:
        return fault
    is_whole = _is_table(path) and not tells_elements and not used & {"item", "index"}
    if type.kind == "list" and is_whole:
        return _check_rows(inner)
    if type.kind == "list" and not tells_elements and not used & {"item", "index"}:
        return TemplateFault(
            "the path of a list needs {item} or {index}",
            "each element is written to its own file",
            f"write {_with_index(template)}",
        )
    return _check_ending(path.rpartition("/")[2], inner)


def _is_table(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in TABLES


def is_whole(
    template: str, type: PortType, files: Callable[[str], FileField | TemplateFault | None]
) -> bool:
    """Whether a checked path of a list is that of a table, which all of it is written to."""
    fields = fields_of(template)
    return (
        type.kind == "list"
        and _is_table(template)
        and not fields & {"item", "index"}
        and not any(
            isinstance(file := files(field.rpartition(".")[0]), FileField) and file.per_element
            for field in fields
            if field.endswith((".name", ".stem"))
        )
    )


def _check_rows(element: PortType) -> TemplateFault | None:
    """Refuse lists of what is no row of a table."""
    kinds = {m.kind for m in element.members or (element,)}
    other = next((kind for kind in sorted(kinds) if kind not in _ROWS), None)
    if other is None:
        return None
    return TemplateFault(
        f"a list of {other} cannot be written as a table",
        "a row is a mapping, a text, a number or a boolean",
        "put {index} into the path, for a file each, or make a table of names and texts",
    )


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a template; without a name, an unmatched brace."""

    text: str
    name: str | None


def _split(template: str) -> Iterator[str | _Field]:
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


def _check_names(path: str) -> TemplateFault | None:
    """Check the literal names of a path. \1 stands for a field, whose text is made safe when it is
    filled.
    """
    if "\\" in path:
        return TemplateFault(
            "the path has a backslash",
            "folders are separated by '/' on every system",
            "write '/'" if path.strip("\\") else "",
        )
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return TemplateFault(
            "the path is absolute",
            "a graph only writes to the output folder",
            "write a relative path; choose the folder with --out",
        )
    if path.startswith("~"):
        return TemplateFault(
            "the path starts with '~'",
            "a graph only writes to the output folder",
            "write a relative path; choose the folder with --out",
        )
    for name in path.split("/"):
        if name == "..":
            return TemplateFault(
                "the path has '..'",
                "a graph only writes to the output folder",
                "write a relative path; choose the folder with --out",
            )
        if name in ("", "."):
            return TemplateFault(
                (
                    "the path has an empty name"
                    if not name
                    else "the path has a name that is just '.'"
                ),
                fix="separate names by a single '/', ending with a file name",
            )
        forbidden = next(
            (c for c in name if c in _FORBIDDEN or (_is_dropped(c) and c != "\1")), None
        )
        if forbidden is not None:
            return TemplateFault(
                f"a name in the path has {_show_character(forbidden)}",
                "not every system allows such a name",
                "remove it",
            )
        if name.endswith((".", " ")):
            return TemplateFault(
                "a name in the path ends with a dot or a space",
                "not every system allows such a name",
                "remove it",
            )
        if "\1" not in name and _RESERVED.match(name):
            return TemplateFault(
                f"'{name}' is a reserved name",
                "Windows reserves it for a device",
                "choose another name",
            )
        if len(name.encode("utf-8", "replace")) > NAME_LIMIT:
            return TemplateFault(
                f"a name in the path is longer than {NAME_LIMIT} bytes", fix="shorten it"
            )
    return None


def _check_meaning(path: str, type_: PortType) -> TemplateFault | None:
    """Refuse names from which other programs, or imagen_flow, read settings."""
    hidden = next((name for name in path.split("/") if name.startswith(".")), None)
    if hidden is not None and not all(
        member.kind in _MEDIA for member in type_.members or (type_,)
    ):
        return TemplateFault(
            f"the name '{_show_literal(hidden)}' in the path starts with a dot",
            HIDDEN_NAMES,
            "remove the dot",
        )
    last = path.rpartition("/")[2]
    if is_own_name(last):
        return TemplateFault(
            f"'{_show_literal(last)}' cannot be the name of an output", OWN_NAMES, "choose another"
        )
    return None


HIDDEN_NAMES = "other programs read their settings from such files and folders"

OWN_NAMES = "imagen_flow itself reads files with such a name"


def _show_literal(literal: str) -> str:
    return literal.replace("\1", "{…}")


def is_own_name(name: str) -> bool:
    """Tell whether imagen_flow reads files of this name: settings, a lock file, a sidecar."""
    name = unicodedata.normalize("NFKC", name).casefold()
    return name in _SETTINGS_FILES or name.endswith(SIDECAR)


def _show_character(character: str) -> str:
    return f"'{character}'" if character.isprintable() else f"the character U+{ord(character):04X}"


def _with_index(template: str) -> str:
    stem, ending = os.path.splitext(template)
    return f"{stem}-{{index}}{ending}"


def _check_ending(name: str, type: PortType) -> TemplateFault | None:
    members = type.members or (type,)
    if any(m.kind == "any" for m in members):
        members = (*(PortType(kind) for kind in ENDINGS), PortType("folder"))
    if any(m.kind not in ENDINGS and m.kind not in (*FOLDERS, "list") for m in members):
        return None  # a file, or a plugin's own kind, whose ending is known only to it
    for member in members:
        inner = member
        while inner.kind == "list" and inner.element is not None:
            inner = inner.element
        if member.kind == "list" and not inner.members and inner.kind not in _ROWS:
            return TemplateFault(
                f"a list of {inner.kind} cannot be written as one file",
                "the output is a list of such lists, and each of its elements is a file",
                "make one list of all with list.flatten",
            )
    ending = os.path.splitext(name)[1].lower()
    allows_folder = any(m.kind in FOLDERS for m in members)
    endings = sorted(
        {e for m in members for e in ENDINGS.get("json" if m.kind == "list" else m.kind, ())}
    )
    if ending in endings or (allows_folder and not ending):
        return None
    if not endings:
        return TemplateFault(
            f"{type.name} is written as a folder, not as a {ending} file",
            fix=f"remove '{ending}'",
        )
    choices = f"it can be {', '.join(endings)}"
    if not ending:
        return TemplateFault(
            f"the path has no file extension, which decides how {type.name} is written", fix=choices
        )
    if "\1" in ending:
        return TemplateFault(
            "the file extension is a field",
            "the extension decides how the value is written, so it must be known before running",
            choices,
        )
    return TemplateFault(f"{type.name} cannot be written as a {ending} file", fix=choices)


def fill_template(template: str, fields: Mapping[str, object]) -> str:
    """Fill a checked template: a path relative to the output folder, with ``/``. The text of each
    field is made safe and cut to 80 characters, each name to what file systems allow.
    """
    filled = "".join(
        p if isinstance(p, str) else _fill(p.name or "", fields[p.name or ""])
        for p in _split(template)
    )
    names = unicodedata.normalize("NFC", filled).split("/")
    return "/".join(_safe_name(name) for name in names if name)


def _fill(field: str, value: object) -> str:
    part = field.rpartition(".")[2]
    text = _format(value)
    if part == "folder" and part != field:  # several names, or none
        return "/".join(_safe(name) for name in text.split("/")) if text else ""
    if part == "suffix" and part != field:  # with its dot, or none
        return f".{_safe(text[1:])}" if text.startswith(".") else ""
    return _safe(text)


def _format(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _safe(text: str) -> str:
    """Turn any text into a part of a name: characters that some system does not allow are replaced
    by '_' or removed.
    """
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
    text = " ".join("".join(out).split())  # collapse runs of spaces
    return _truncate(text.strip(". "), FIELD_LIMIT).rstrip(". ") or "_"


def _is_dropped(character: str) -> bool:
    """Tell whether a character is not allowed in a name: controls, lone surrogates, and marks that
    change the direction of writing, with which one name can look like another.
    """
    kind = unicodedata.category(character)
    return (
        kind in ("Cc", "Cs", "Zl", "Zp")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
        or character in "\u200e\u200f\ufeff"
    )


def _truncate(text: str, limit: int) -> str:
    """Cut text without splitting what looks like one character: a letter with its accents, joined
    emoji.
    """
    if len(text) <= limit:
        return text
    while limit > 1 and (_extends_previous(text[limit]) or text[limit - 1] == "\u200d"):
        limit -= 1
    return text[:limit]


def _extends_previous(character: str) -> bool:
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
        stem = _truncate(stem, keep).rstrip(". ")
    return stem + ending


#: Kinds of values that can be rows of a table.
_ROWS = ("any", "bool", "float", "int", "json", "list", "number", "text")

#: Kinds of media files, which no other program takes for settings or code.
_MEDIA = ("image", "mask", "tensor", "audio")


def fields_of(template: str) -> set[str]:
    """Name the fields of a checked template."""
    return {piece.name or "" for piece in _split(template) if isinstance(piece, _Field)}


def file_fields_of(template: str) -> list[str]:
    """Name the files whose names a template uses: what stands before the last dot of a field."""
    return sorted({field.rpartition(".")[0] for field in fields_of(template) if "." in field})
