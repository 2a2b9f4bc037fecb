"""Say which files the code of a plugin consists of, and digest them.

Of a local file of nodes (`LocalCode`) those are the file itself and what it imports from its own
folder: modules, packages with all in them (data and compiled modules too, with or without an
``__init__.py``),
and files of data that it names. They are read off the text, since what happens to be imported
already says nothing. Where the text does not tell (names that are computed, ``sys.path`` that is
changed) it is all code
in the folder. `plugin_imports` sees to it that no other file is imported from there.

Of an installed plugin (`installed_digest`) they are the package, or the module, and what it imports
of its own distribution or namespace.

What may be trusted (`code_digest`) is all code that an import from a folder can reach.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

from .._store.file_digests import FileDigests
from .._system.regular_files import open_regular
from .._types.digest import digest_bytes, digest_stream, tagged

__all__ = [
    "Code",
    "LocalCode",
    "UntrustableCode",
    "code_digest",
    "installed_digest",
    "is_below",
    "is_source",
    "stamp",
]

#: More entries of a folder, or files of code, than this are not looked through.
MAX_ENTRIES = 200_000
MAX_FILES = 20_000

#: Files above this size enter a digest by their own digest, so that they are never held whole.
_LARGE = 1 << 20

_CODE = (".py", ".pyw", ".so", ".pyd", ".dll", ".dylib", ".pth", ".zip", ".egg", ".whl")


#: What the module of a local file of nodes is called, before a digest of its path.
MODULE = "imagen_flow_local_"


#: What can be the name of a module beside a file.
_NAME = re.compile(r"[\w-]+")


class UntrustableCode(ValueError):
    """A folder whose code can be neither trusted nor named."""


# ---- what can be trusted


def code_digest(path: Path) -> str:
    """Digest the present form of a local file of nodes: the file, and all code that an import from
    its folder could reach.

    Raises:
        OSError: something of it cannot be read.
        Unfit: it belongs to another user, or there is too much of it.
    """
    path = path.resolve()
    folder = path.parent
    parts = [path.name.encode()]
    try:
        files = importable(folder)
    except UntrustableCode:
        code = LocalCode(path, {"imagen_flow"})
        if code.is_open:
            raise
        files = code.files()  # no other file can be imported from there
    for file in sorted({path, *files}):
        with open_regular(file) as stream:
            if hasattr(os, "geteuid") and (owner := os.fstat(stream.fileno()).st_uid) not in (
                os.geteuid(),
                0,
            ):
                raise UntrustableCode(
                    f"{file} belongs to another user ({owner}), who may change it at any time"
                )
            parts += [
                os.path.relpath(file, folder).encode("utf-8", "surrogateescape"),
                digest_stream(stream).encode(),
            ]
    return tagged("trust", *parts)


def importable(folder: Path) -> list[Path]:
    """Name all code that an import from a folder could reach: modules, compiled ones too, in it and
    in all folders below that can be packages.

    Raises:
        Unfit: there is too much to look through.
    """
    return list(_walk(folder, _is_code, most=MAX_ENTRIES))


def _is_code(name: str) -> bool:
    return name.endswith(_CODE) or ".so." in name


def is_source(name: str) -> bool:
    """Whether a file in a package counts as its source: all but what Python makes of other files,
    what editors leave behind, and what is hidden.
    """
    return not name.startswith(".") and not name.endswith((".pyc", ".pyo", "~"))


def _is_passed_over(folder: str) -> bool:
    """Whether a folder holds no code of a plugin: hidden ones, bytecode, environments of Python.
    Nothing is imported from it either.
    """
    name = os.path.basename(folder)
    return (
        name.startswith(".")
        or name == "__pycache__"
        or any(os.path.lexists(os.path.join(folder, sign)) for sign in ("pyvenv.cfg", "conda-meta"))
    )


def _walk(
    folder: Path,
    wanted: Callable[[str], bool],
    *,
    without: Collection[str] = (),
    most: int | None = None,
) -> Iterator[Path]:
    """Give the files of a folder and of the folders below, but for those that are passed over.
    Links are followed, as importing does, but to no folder twice.
    """
    pending = [str(folder)]
    seen = {os.path.realpath(folder)}
    entries = files = 0
    while pending:
        place = pending.pop()
        with os.scandir(place) as found:
            for entry in found:
                entries += 1
                if most is not None and (entries > most or files > MAX_FILES):
                    raise UntrustableCode(
                        f"{folder} holds too many files to look through; put the plugin into a"
                        " folder of its own"
                    )
                if entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in seen and real not in without and not _is_passed_over(entry.path):
                        seen.add(real)
                        pending.append(entry.path)
                elif wanted(entry.name) and entry.is_file():
                    files += 1
                    yield Path(entry.path)


# ---- a plugin's files


@dataclass
class Code:
    """Digests of files that count as source, each taken once; of large ones `memo` remembers them."""

    memo: FileDigests = field(default_factory=FileDigests)
    digests: dict[str, str] = field(default_factory=dict)

    def part(self, file: Path) -> bytes:
        """What a file is in the digest of a source: its content, or of a large one its digest."""
        if os.stat(file).st_size > _LARGE:
            digest = self.memo.digest_file(file)
            self.digests[os.path.realpath(file)] = digest
            return f"large {digest}".encode()
        with open_regular(file) as stream:
            content = stream.read()
        self.digests[os.path.realpath(file)] = digest_bytes(content)
        return content

    def tree(self, home: Path, *, without: Collection[str] = ()) -> list[bytes]:
        """The names and contents of the files below a folder."""
        files = sorted(
            (file.relative_to(home).as_posix(), file)
            for file in _walk(home, is_source, without=without)
        )
        return [
            part
            for name, file in files
            for part in (name.encode("utf-8", "surrogateescape"), self.part(file))
        ]


class LocalCode:
    """A local file of nodes with all that counts as its source, as the files are now.

    Params:
        installed: names of packages that the folder cannot provide.
        others: folders of other local plugins, which Python does not look into for this one.
    """

    def __init__(
        self, path: Path, installed: Collection[str], others: Collection[Path] = ()
    ) -> None:
        self.path = path.resolve()
        self.folder = self.path.parent
        self._installed = installed
        self._others = others
        #: What its module is called, which says nothing to its keys.
        self.module = MODULE + tagged("path", str(self.path).encode())[:12]
        #: Modules and packages beside the file that count as its source: a module's file, a
        # package's ``__init__.py``, or the folder of a package without one.
        self.helpers: dict[str, Path] = {}
        #: Files of data beside it that it names.
        self.data: list[Path] = []
        #: Whether the text does not tell what is imported, so that all code in the folder counts.
        self.is_open = False
        self._look()

    def take(self, memo: FileDigests) -> None:
        """Digest the files; what is imported from now on is held against it.

        Params:
            memo: remembers the digests of large ones.

        Raises:
            OSError, Unfit: they cannot be read, or there are too many.
        """
        code = Code(memo)
        parts = [b"", code.part(self.path)]
        self.helper_digests = {
            name: tagged("source", name.encode(), *self._parts(code, helper))
            for name, helper in sorted(self.helpers.items())
        }
        parts += [digest.encode() for digest in self.helper_digests.values()]
        for file in sorted(self.data):
            parts += [b"data", file.relative_to(self.folder).as_posix().encode(), code.part(file)]
        if self.is_open:
            for file in self._all_code():
                parts += [
                    b"beside",
                    file.relative_to(self.folder).as_posix().encode("utf-8", "surrogateescape"),
                    code.part(file),
                ]
        #: The digest of the source, and the same of what lies in its own folder.
        self.digest = self.inner = tagged("source", *parts)
        self.digests: Mapping[str, str] = code.digests
        #: Modules from folders outside of its own that the plugin has added to the path: their
        # files, with digests.
        self.outside: dict[str, str] = {}
        #: Where else Python looked when this was taken: what is found there is no business of
        # ours, though it may lie in our folder.
        self.elsewhere = tuple(os.path.realpath(place or ".") for place in sys.path)

    def take_outside(self) -> None:
        """Count as source, now that the plugin is imported, what it has imported from folders
        outside of its own that it added to Python's path, as far as it has done so by now.
        """
        added = [
            place
            for entry in sys.path
            if (place := os.path.realpath(entry or ".")) not in self.elsewhere
            and not is_below(place, str(self.folder))
            and os.path.isdir(place)
        ]
        code = Code()
        parts = []
        imported = (
            (getattr(module, "__file__", None) for module in list(sys.modules.values()))
            if added
            else ()
        )
        for file in sorted({os.path.realpath(name) for name in imported if name}):
            where = next((folder for folder in added if is_below(file, folder)), None)
            if where is not None and file not in self.digests:
                parts += [
                    os.path.relpath(file, where).encode("utf-8", "surrogateescape"),
                    code.part(Path(file)),
                ]
        if parts:
            self.outside = code.digests
            self.digest = tagged("source", self.digest.encode(), *parts)

    def _all_code(self) -> list[Path]:
        try:
            return sorted(_walk(self.folder, _is_code, most=MAX_ENTRIES // 10))
        except UntrustableCode:
            return []  # then only what the text names can be imported

    def files(self) -> list[Path]:
        """Name the files of code that count as its source."""
        return [
            file
            for helper in self.helpers.values()
            for file in (
                [helper] if not _whole(helper).is_dir() else _walk(_whole(helper), _is_code)
            )
        ]

    def places(self) -> list[Path]:
        """Name the files and folders that a change of its source would be in."""
        return [
            self.path,
            *(_whole(helper) for helper in self.helpers.values()),
            *self.data,
            *(self._all_code() if self.is_open else ()),
        ]

    def _parts(self, code: Code, helper: Path) -> list[bytes]:
        if _whole(helper).is_dir():
            return code.tree(_whole(helper))
        return [helper.name.encode(), code.part(helper)]

    def _look(self) -> None:
        local = {str(self.folder), *map(str, self._others)}
        elsewhere = [place for place in sys.path if os.path.realpath(place or ".") not in local]
        pending = [self.path]
        while pending:
            file = pending.pop()
            text = read_text(file)
            if text is None:
                continue  # importing it says what is wrong
            self.is_open |= text.is_open
            if text.reads_files and file.parent == self.folder:
                names = sorted(name for name in text.strings if name.isprintable())[:1000]
                names += [
                    f"{below}/{name}" for below in names if self._is_folder(below) for name in names
                ]
                self.data += [
                    data
                    for name in names
                    if (data := self._data(name)) is not None and data not in self.data
                ]
            for name in sorted(
                {name.partition(".")[0] for name in text.names} - self.helpers.keys()
            ):
                helper = _beside(self.folder, name)
                if (
                    helper is None
                    or not _NAME.fullmatch(name)
                    or name in self._installed
                    or name in sys.stdlib_module_names
                ):
                    continue
                other = PathFinder.find_spec(name, elsewhere)
                if other is not None and other.origin is not None:
                    continue  # what is installed wins; packages without __init__.py are one
                self.helpers[name] = helper
                pending += _modules(_whole(helper))

    def _is_folder(self, name: str) -> bool:
        with suppress(OSError, ValueError):
            return name not in ("", ".", "..", "/") and (self.folder / name).is_dir()
        return False

    def _data(self, name: str) -> Path | None:
        try:
            place = self.folder / name
            if (
                place.suffix == ".py"
                or not place.is_file()
                or not Path(os.path.realpath(place)).is_relative_to(self.folder)
            ):
                return None
        except (OSError, ValueError):
            return None
        return place

    def holds(self, place: str) -> bool:
        """Whether a real path lies in the folder of this plugin, and not where Python looks for
        modules anyway.
        """
        if not is_below(place, str(self.folder)):
            return False
        return not any(
            is_below(place, where) and is_below(where, str(self.folder)) for where in self.elsewhere
        )


def is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _beside(folder: Path, name: str) -> Path | None:
    """Find what an import of a name would take in a folder, in Python's order; bytecode alone is
    nothing.
    """
    home = folder / name
    is_package = home.is_dir() and not _is_passed_over(str(home))
    if is_package:
        for ending in (*EXTENSION_SUFFIXES, ".py"):
            if (home / f"__init__{ending}").is_file():
                return home / f"__init__{ending}"
    for ending in (*EXTENSION_SUFFIXES, ".py"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    return home if is_package else None


def _whole(helper: Path) -> Path:
    """A module's file, or the folder of a package."""
    return helper.parent if helper.name.startswith("__init__.") else helper


def _modules(place: Path, without: Collection[str] = ()) -> list[Path]:
    """The modules that a place holds whose text can be read."""
    return (
        [file for file in _walk(place, is_source, without=without) if file.suffix == ".py"]
        if place.is_dir()
        else [place]
    )


@dataclass(frozen=True, slots=True)
class Text:
    """What the text of a module says about what it reads: names that it imports or reads data of,
    texts in it, and whether that may not be all.
    """

    names: frozenset[str]
    strings: frozenset[str]
    reads_files: bool
    is_open: bool


#: Functions that import the module, or read data of the package, that their first argument names.
_NAMING = frozenset(
    {
        "import_module",
        "__import__",
        "files",
        "open_text",
        "open_binary",
        "read_text",
        "read_binary",
        "contents",
        "is_resource",
        "get_data",
        "find_spec",
        "run_module",
        "as_file",
        "path",
    }
)
#: Those of them that import.
_IMPORTING = frozenset({"import_module", "__import__", "run_module"})
#: What is only in code that imports in ways of its own.
_OWN_WAYS = frozenset(
    {
        "spec_from_file_location",
        "SourceFileLoader",
        "SourcelessFileLoader",
        "ExtensionFileLoader",
        "exec_module",
        "load_module",
        "load_source",
        "run_path",
        "extend_path",
        "iter_modules",
        "walk_packages",
        "meta_path",
        "path_hooks",
        "addsitedir",
        "__path__",
    }
)


def read_text(file: Path) -> Text | None:
    """Read the text of a module; None if it is none."""
    try:
        with open_regular(file) as stream:
            return _parsed(stream.read())
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _parsed(source: bytes) -> Text | None:
    """Parse the text of a module. Remembered, since every search for plugins reads the same hundred
    modules.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names: set[str] = set()
    strings: set[str] = set()
    reads_files = is_open = False
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            names |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            if part.level == 0 and part.module:
                names |= {part.module, *(f"{part.module}.{alias.name}" for alias in part.names)}
            is_open |= any(alias.name in _OWN_WAYS for alias in part.names)
            is_open |= part.module == "sys" and any(alias.name == "path" for alias in part.names)
        elif isinstance(part, ast.Call):
            called = (
                part.func.attr
                if isinstance(part.func, ast.Attribute)
                else part.func.id
                if isinstance(part.func, ast.Name)
                else ""
            )
            first = part.args[0] if part.args else None
            if (
                called in _NAMING
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                names.add(first.value)
            elif called in _IMPORTING:
                is_open = True
            is_open |= called in ("exec", "eval") and isinstance(part.func, ast.Name)
        elif (
            isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value) < 256
        ):
            strings.add(part.value)
        elif isinstance(part, ast.Name):
            reads_files |= part.id == "__file__"
            is_open |= part.id in _OWN_WAYS
        elif isinstance(part, ast.Attribute):
            reads_files |= part.attr in ("get_data", "files", "origin", "__file__")
            is_open |= part.attr in _OWN_WAYS or (
                part.attr == "path" and isinstance(part.value, ast.Name) and part.value.id == "sys"
            )
    return Text(frozenset(names), frozenset(strings), reads_files, is_open)


# ---- installed plugins


def installed_digest(
    target: str, distribution: Any, memo: FileDigests, *, without: Iterable[Path] = ()
) -> str:
    """Digest the source of an installed plugin that is imported: its package with all in it, or its
    module; of a package without ``__init__.py`` the folder that it lies in; and what these import
    of their distribution.

    Names are relative, so moving a plugin changes no key.

    Params:
        target: the module that the entry point names.
        distribution: the distribution that it came with, as `importlib.metadata` gives it.
        memo: remembers the digests of large files.
        without: folders that have keys of their own: models that come with the plugin.
    """
    code, skipped = Code(memo), {os.path.realpath(place) for place in without}
    names = target.partition(":")[0].split(".")
    home = _home(names)
    if home is None:
        return ""
    if home.is_dir():
        parts = code.tree(home, without=skipped)
    else:
        parts = [b"", code.part(home)]
    for place in _extended(names[0], home):
        parts += [b"extended", *code.tree(place, without=skipped)]
    known = {os.path.realpath(home)}
    pending = [home]
    own, signs = _own(distribution), _signs(distribution, names[0], home)
    added: dict[str, bytes] = {}
    while pending:
        place = pending.pop()
        texts = (
            read_text(file) for file in _modules(place, skipped) if signs.search(file.read_bytes())
        )
        for name in sorted({name for text in texts if text is not None for name in text.names}):
            helper = own(name, names[0], home)
            if helper is None or any(is_below(os.path.realpath(helper), there) for there in known):
                continue
            known.add(os.path.realpath(helper))
            pending.append(helper)
            added[name] = tagged(
                "source",
                *(
                    code.tree(helper, without=skipped)
                    if helper.is_dir()
                    else (helper.name.encode(), code.part(helper))
                ),
            ).encode()
    return tagged(
        "source",
        *parts,
        *(part for name, digest in sorted(added.items()) for part in (name.encode(), digest)),
    )


def _home(names: list[str]) -> Path | None:
    """Where the source of a plugin lies: a package's folder, a module's file, or for a module in a
    package without ``__init__.py`` the folder that it lies in.
    """
    for length in range(1, len(names) + 1):
        module = sys.modules.get(".".join(names[:length]))
        origin = getattr(module, "__file__", None)
        if origin is None:
            continue
        file = Path(origin)
        while not file.exists() and file != file.parent:
            file = file.parent  # in an archive: that counts as a whole
        if file != Path(origin):
            return file
        if file.name.startswith("__init__.") or length > 1:
            return file.parent
        return file
    return None


def _extended(top: str, home: Path) -> list[Path]:
    """Folders that a package has added to those in which its modules are looked for."""
    places = (
        [Path(place) for place in getattr(sys.modules.get(top), "__path__", ())]
        if home.is_dir() and getattr(sys.modules.get(top), "__file__", None)
        else []
    )
    real = os.path.realpath(home)
    return [
        place
        for place in dict.fromkeys(places)
        if place.is_dir() and not is_below(os.path.realpath(place), real)
    ]


def _own(distribution: Any) -> Callable[[str, str, Path], Path | None]:
    """Give what finds a module or package by name if it belongs to a distribution, or lies in the
    same namespace.
    """
    tops = _tops(distribution)
    sites = {os.path.realpath(sysconfig.get_paths()[kind]) for kind in ("purelib", "platlib")}

    def find(name: str, top: str, home: Path) -> Path | None:
        first, *rest = name.split(".")
        if first in ("imagen_flow", "") or first in sys.stdlib_module_names:
            return None
        if first == top and rest and getattr(sys.modules.get(top), "__file__", None) is None:
            return _in_namespace(list(getattr(sys.modules.get(top), "__path__", ())), rest)
        around = home.parent
        if first == top or not (
            first in tops or (tops is NOWHERE and os.path.realpath(around) not in sites)
        ):
            return None
        found = _beside(around, first)
        imported = sys.modules.get(first)
        if found is None or (
            found.is_dir()
            and imported is not None
            and str(found) not in list(getattr(imported, "__path__", ()))
        ):
            return None
        return _whole(found)

    return find


def _signs(distribution: Any, top: str, home: Path) -> re.Pattern[bytes]:
    """Give what a text has that may name something else that is the plugin's own: most have none,
    and need not be read as Python.
    """
    names = (
        {entry.name.partition(".")[0] for entry in os.scandir(home.parent)}
        if _tops(distribution) is NOWHERE
        else set(_tops(distribution))
    )
    if getattr(sys.modules.get(top), "__file__", None) is not None:
        names.discard(top)
    chosen = sorted(name for name in names if name.isidentifier() and name != "imagen_flow")
    return (
        re.compile(rb"\b(?:%s)\b" % "|".join(chosen).encode()) if chosen else re.compile(rb"(?!)")
    )


def _in_namespace(places: list[str], names: list[str]) -> Path | None:
    """Find what lies under a name in a package without ``__init__.py``: a module's file or a
    package's folder.
    """
    for place in places:
        here = Path(place)
        for index, name in enumerate(names):
            found = _beside(here, name)
            if found is None or (index + 1 == len(names) and found.is_dir()):
                break
            if not found.is_dir():
                return _whole(found)
            here = found
    return None


#: The names of a distribution of which is not known what it brings.
NOWHERE: frozenset[str] = frozenset()


def _tops(distribution: Any) -> frozenset[str]:
    """Name the modules and packages that a distribution brings."""
    try:
        files = list(getattr(distribution, "files", None) or ())
    except (OSError, ValueError):
        return NOWHERE
    found = {
        str(file).replace("\\", "/").partition("/")[0].partition(".")[0]
        for file in files
        if str(file).endswith((".py", *EXTENSION_SUFFIXES))
    }
    return frozenset(found) or NOWHERE


def stamp(target: str) -> str:
    """Sum up the names and times of the files of an installed plugin's package without importing
    it.
    """
    try:
        spec = importlib.util.find_spec(target.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return "missing"
    if spec is None:
        return "missing"
    places = list(spec.submodule_search_locations or ())
    if not places and spec.origin is None:
        return "missing"
    times = []
    for place in places or [str(spec.origin)]:
        files = [Path(place)] if not os.path.isdir(place) else _walk(Path(place), _is_code)
        times += [
            (os.path.relpath(file, place), os.stat(file).st_mtime_ns)
            for file in files
            if file.exists()
        ]
    return tagged("stamp", repr(sorted(times)).encode())
