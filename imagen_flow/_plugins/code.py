"""Determine the source files of a plugin, and digest them.

For a local file of nodes (`LocalCode`) these are the file itself and what it imports from its own
folder: modules, packages with all their content (data and compiled modules too, with or without an
``__init__.py``), and the data files that it names. They are determined from the text, because what
happens to be imported already says nothing. If the text is inconclusive (computed names, a changed
``sys.path``), all code in the folder counts. `imports` ensures that no other file is imported from
there.

For an installed plugin (`installed_digest`) these are its package or module, and what that imports
from the same distribution or namespace.

`code_digest` covers all code that an import from a folder can reach; it is what a user trusts.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

from .._store.file_digests import FileDigests
from .._system.dataclass import dataclass
from .._system.file_signs import RememberedBySign
from .._system.regular_files import open_regular
from .._types.digest import digest_bytes, digest_stream, tagged

__all__ = [
    "SourceDigests",
    "LocalCode",
    "UntrustableCode",
    "code_digest",
    "installed_digest",
    "is_inside",
    "is_source",
    "stamp",
]

#: Folders with more entries, or more code files, are not searched.
MAX_ENTRIES = 200_000
MAX_FILES = 20_000

#: Files above this size are digested separately, so that they are never held in memory.
_LARGE = 1 << 20

_CODE = (".py", ".pyw", ".so", ".pyd", ".dll", ".dylib", ".pth", ".zip", ".egg", ".whl")


#: The prefix of the module names of local files, followed by a digest of the path.
MODULE = "imagen_flow_local_"


#: The name of a module beside a file.
_NAME = re.compile(r"[\w-]+")


class UntrustableCode(ValueError):
    """A folder whose code can be neither trusted nor listed."""


# ---- trust


def code_digest(path: Path) -> str:
    """Digest a local file of nodes and all code that an import from its folder could reach.

    Raises:
        OSError: some of it cannot be read.
        UntrustableCode: it belongs to another user, or there is too much of it.
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
    """List all code that an import from a folder could reach: modules, compiled ones too, in it and
    in all subfolders that can be packages.

    Raises:
        UntrustableCode: there are too many files.
    """
    return list(_walk(folder, _is_code, max_entries=MAX_ENTRIES))


def _is_code(name: str) -> bool:
    return name.endswith(_CODE) or ".so." in name


def is_source(name: str) -> bool:
    """Tell whether a file in a package counts as its source: everything except what Python
    generates, editor backups, and hidden files.
    """
    return not name.startswith(".") and not name.endswith((".pyc", ".pyo", "~"))


#: What a virtual environment contains.
_ENVIRONMENT = frozenset({"pyvenv.cfg", "conda-meta"})


def _is_skipped(folder: str) -> bool:
    """Tell whether a folder contains no code of a plugin: hidden ones, bytecode, virtual
    environments. Nothing is imported from it either.
    """
    return _is_hidden(os.path.basename(folder)) or any(
        os.path.lexists(os.path.join(folder, sign)) for sign in _ENVIRONMENT
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _walk(
    folder: Path,
    wanted: Callable[[str], bool],
    *,
    without: Collection[str] = (),
    max_entries: int | None = None,
) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, without skipped ones. Links are followed, as
    by imports, but each folder only once.
    """
    for entry in _entries(str(folder), wanted, without=without, max_entries=max_entries):
        yield Path(entry.path)


def _entries(
    folder: str,
    wanted: Callable[[str], bool],
    *,
    without: Collection[str] = (),
    max_entries: int | None = None,
) -> Iterator[os.DirEntry[str]]:
    pending = [(folder, os.path.realpath(folder))]
    seen = {pending[0][1]}
    entries = files = 0
    while pending:
        location, real_location = pending.pop()
        with os.scandir(location) as found:
            for entry in found:
                entries += 1
                if max_entries is not None and (entries > max_entries or files > MAX_FILES):
                    raise UntrustableCode(
                        f"{folder} contains too many files; put the plugin into its own folder"
                    )
                if entry.is_dir():
                    real = (
                        os.path.realpath(entry.path)
                        if entry.is_symlink()
                        else os.path.join(real_location, entry.name)
                    )
                    if real not in seen and real not in without and not _is_skipped(entry.path):
                        seen.add(real)
                        pending.append((entry.path, real))
                elif wanted(entry.name) and entry.is_file():
                    files += 1
                    yield entry


# ---- a plugin's files


def _read(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read()


#: Gives the content of a source file, which every discovery asks for.
_read_source = RememberedBySign(_read, weigh=len, max_weight=32 << 20)


@dataclass
class SourceDigests:
    """The digests of source files, each computed once; those of large files are cached by `memo`."""

    memo: FileDigests = field(default_factory=FileDigests)
    digests: dict[str, str] = field(default_factory=dict)

    def content_part(self, file: Path) -> bytes:
        """Give a file's part in the digest of a source: its content, or for a large file its
        digest.
        """
        if os.stat(file).st_size > _LARGE:
            digest = self.memo.digest_file(file)
            self.digests[os.path.realpath(file)] = digest
            return f"large {digest}".encode()
        content = _read_source(file)
        self.digests[os.path.realpath(file)] = digest_bytes(content)
        return content

    def folder_parts(self, home: Path, *, without: Collection[str] = ()) -> list[bytes]:
        """List the names and contents of the files in a folder."""
        files = sorted(
            (file.relative_to(home).as_posix(), file)
            for file in _walk(home, is_source, without=without)
        )
        return [
            part
            for name, file in files
            for part in (name.encode("utf-8", "surrogateescape"), self.content_part(file))
        ]


class LocalCode:
    """A local file of nodes with all its source files, as they are now.

    Params:
        installed: names of packages that the folder cannot provide.
        others: folders of other local plugins, where Python does not look for this one's modules.
    """

    def __init__(
        self, path: Path, installed: Collection[str], others: Collection[Path] = ()
    ) -> None:
        self.path = path.resolve()
        self.folder = self.path.parent
        self._installed = installed
        self._others = others
        #: The name of its module, which does not affect keys.
        self.module = MODULE + tagged("path", str(self.path).encode())[:12]
        #: Modules and packages beside the file that count as its source: a module's file, a
        #: package's ``__init__.py``, or the folder of a package without one.
        self.helpers: dict[str, Path] = {}
        #: Data files beside it that it names.
        self.data: list[Path] = []
        #: Whether the text is inconclusive about what is imported, so that all code in the folder
        #: counts.
        self.is_open = False
        self._scan()

    def digest_files(self, memo: FileDigests) -> None:
        """Digest the files; later imports are verified against these digests.

        Params:
            memo: caches the digests of large files.

        Raises:
            OSError, UntrustableCode: they cannot be read, or there are too many.
        """
        code = SourceDigests(memo)
        parts = [b"", code.content_part(self.path)]
        self.helper_digests = {
            name: tagged("source", name.encode(), *self._parts(code, helper))
            for name, helper in sorted(self.helpers.items())
        }
        parts += [digest.encode() for digest in self.helper_digests.values()]
        for file in sorted(self.data):
            parts += [
                b"data",
                file.relative_to(self.folder).as_posix().encode(),
                code.content_part(file),
            ]
        if self.is_open:
            for file in self._all_code():
                parts += [
                    b"beside",
                    file.relative_to(self.folder).as_posix().encode("utf-8", "surrogateescape"),
                    code.content_part(file),
                ]
        #: The digest of the source, and the part of it in the plugin's own folder.
        self.digest = self.inner = tagged("source", *parts)
        self.digests: Mapping[str, str] = code.digests
        #: Modules from folders outside that the plugin has added to the path: their files and
        #: digests.
        self.outside: dict[str, str] = {}
        #: Python's path at that time: what is found there does not belong to the plugin, even if it
        #: is in the plugin's folder.
        self.elsewhere = tuple(os.path.realpath(location or ".") for location in sys.path)

    def add_imported(self) -> None:
        """Add to the source, now that the plugin is imported, what it has imported from folders
        outside its own that it added to Python's path.
        """
        added = [
            location
            for entry in sys.path
            if (location := os.path.realpath(entry or ".")) not in self.elsewhere
            and not is_inside(location, str(self.folder))
            and os.path.isdir(location)
        ]
        code = SourceDigests()
        parts = []
        imported = (
            (getattr(module, "__file__", None) for module in list(sys.modules.values()))
            if added
            else ()
        )
        for file in sorted({os.path.realpath(name) for name in imported if name}):
            where = next((folder for folder in added if is_inside(file, folder)), None)
            if where is not None and file not in self.digests:
                parts += [
                    os.path.relpath(file, where).encode("utf-8", "surrogateescape"),
                    code.content_part(Path(file)),
                ]
        if parts:
            self.outside = code.digests
            self.digest = tagged("source", self.digest.encode(), *parts)

    def _all_code(self) -> list[Path]:
        try:
            return sorted(_walk(self.folder, _is_code, max_entries=MAX_ENTRIES // 10))
        except UntrustableCode:
            return []  # then only files that the text names can be imported

    def files(self) -> list[Path]:
        """List the code files that count as its source."""
        return [
            file
            for helper in self.helpers.values()
            for file in (
                [helper]
                if not _module_or_package(helper).is_dir()
                else _walk(_module_or_package(helper), _is_code)
            )
        ]

    def source_paths(self) -> list[Path]:
        """List the files and folders where a change would change the source."""
        return [
            self.path,
            *(_module_or_package(helper) for helper in self.helpers.values()),
            *self.data,
            *(self._all_code() if self.is_open else ()),
        ]

    def _parts(self, code: SourceDigests, helper: Path) -> list[bytes]:
        if _module_or_package(helper).is_dir():
            return code.folder_parts(_module_or_package(helper))
        return [helper.name.encode(), code.content_part(helper)]

    def _scan(self) -> None:
        local = {str(self.folder), *map(str, self._others)}
        elsewhere = [
            location for location in sys.path if os.path.realpath(location or ".") not in local
        ]
        pending = [self.path]
        while pending:
            file = pending.pop()
            text = read_text(file)
            if text is None:
                continue  # importing it reports what is wrong
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
                helper = _find_module(self.folder, name)
                if (
                    helper is None
                    or not _NAME.fullmatch(name)
                    or name in self._installed
                    or name in sys.stdlib_module_names
                ):
                    continue
                other = PathFinder.find_spec(name, elsewhere)
                if other is not None and other.origin is not None:
                    # installed packages take precedence; packages without __init__.py form one
                    continue
                self.helpers[name] = helper
                pending += _modules(_module_or_package(helper))

    def _is_folder(self, name: str) -> bool:
        with suppress(OSError, ValueError):
            return name not in ("", ".", "..", "/") and (self.folder / name).is_dir()
        return False

    def _data(self, name: str) -> Path | None:
        try:
            location = self.folder / name
            if (
                location.suffix == ".py"
                or not location.is_file()
                or not Path(os.path.realpath(location)).is_relative_to(self.folder)
            ):
                return None
        except (OSError, ValueError):
            return None
        return location

    def contains(self, location: str) -> bool:
        """Tell whether a real path is in the folder of this plugin and not on Python's own path."""
        if not is_inside(location, str(self.folder)):
            return False
        return not any(
            is_inside(location, where) and is_inside(where, str(self.folder))
            for where in self.elsewhere
        )


def is_inside(location: str, folder: str) -> bool:
    return location == folder or location.startswith(folder.rstrip(os.sep) + os.sep)


def _find_module(folder: Path, name: str) -> Path | None:
    """Find the module that an import would find in a folder, in Python's order; bytecode alone is
    ignored.
    """
    home = folder / name
    is_package = home.is_dir() and not _is_skipped(str(home))
    if is_package:
        for ending in (*EXTENSION_SUFFIXES, ".py"):
            if (home / f"__init__{ending}").is_file():
                return home / f"__init__{ending}"
    for ending in (*EXTENSION_SUFFIXES, ".py"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    return home if is_package else None


def _module_or_package(helper: Path) -> Path:
    """Give a module's file, or the folder of a package."""
    return helper.parent if helper.name.startswith("__init__.") else helper


def _modules(location: Path, without: Collection[str] = ()) -> list[Path]:
    """List the Python files of a module or package."""
    return (
        [file for file in _walk(location, is_source, without=without) if file.suffix == ".py"]
        if location.is_dir()
        else [location]
    )


@dataclass(frozen=True, slots=True)
class ModuleText:
    """What the text of a module says about what it reads: names that it imports or reads data of,
    its string literals, and whether that may be incomplete.
    """

    names: frozenset[str]
    strings: frozenset[str]
    reads_files: bool
    is_open: bool


#: Functions that import the module, or read data of the package, named by their first argument.
_NAMING_CALLS = frozenset(
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
_IMPORTING_CALLS = frozenset({"import_module", "__import__", "run_module"})
#: Names that only occur in code with its own import mechanisms.
_CUSTOM_IMPORTS = frozenset(
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


def read_text(file: Path) -> ModuleText | None:
    """Read the text of a module; None if it cannot be parsed."""
    try:
        return _parse_text(_read_source(file))
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _parse_text(source: bytes) -> ModuleText | None:
    """Parse the text of a module. Cached, because every discovery reads the same hundred modules."""
    import ast

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
            is_open |= any(alias.name in _CUSTOM_IMPORTS for alias in part.names)
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
                called in _NAMING_CALLS
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                names.add(first.value)
            elif called in _IMPORTING_CALLS:
                is_open = True
            is_open |= called in ("exec", "eval") and isinstance(part.func, ast.Name)
        elif (
            isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value) < 256
        ):
            strings.add(part.value)
        elif isinstance(part, ast.Name):
            reads_files |= part.id == "__file__"
            is_open |= part.id in _CUSTOM_IMPORTS
        elif isinstance(part, ast.Attribute):
            reads_files |= part.attr in ("get_data", "files", "origin", "__file__")
            is_open |= part.attr in _CUSTOM_IMPORTS or (
                part.attr == "path" and isinstance(part.value, ast.Name) and part.value.id == "sys"
            )
    return ModuleText(frozenset(names), frozenset(strings), reads_files, is_open)


# ---- installed plugins


def installed_digest(
    target: str, distribution: Any, memo: FileDigests, *, without: Iterable[Path] = ()
) -> str:
    """Digest the source of an installed plugin that is imported: its package with all its content,
    or its module; for a package without ``__init__.py`` the folder that contains it; and what these
    import from their distribution.

    Names are relative, so moving a plugin changes no key.

    Params:
        target: the module that the entry point names.
        distribution: its distribution, as `distributions` or `importlib.metadata` gives it.
        memo: caches the digests of large files.
        without: folders with keys of their own: models that come with the plugin.
    """
    code, skipped = SourceDigests(memo), {os.path.realpath(location) for location in without}
    names = target.partition(":")[0].split(".")
    home = _source_root(names)
    if home is None:
        return ""
    if home.is_dir():
        parts = code.folder_parts(home, without=skipped)
    else:
        parts = [b"", code.content_part(home)]
    for location in _extra_folders(names[0], home):
        parts += [b"extended", *code.folder_parts(location, without=skipped)]
    known = {os.path.realpath(home)}
    pending = [home]
    own, signs = _module_finder(distribution), _mention_pattern(distribution, names[0], home)
    added: dict[str, bytes] = {}
    while pending:
        location = pending.pop()
        texts = (
            read_text(file)
            for file in _modules(location, skipped)
            if signs.search(_read_source(file))
        )
        for name in sorted({name for text in texts if text is not None for name in text.names}):
            helper = own(name, names[0], home)
            if helper is None or any(
                is_inside(os.path.realpath(helper), parent) for parent in known
            ):
                continue
            known.add(os.path.realpath(helper))
            pending.append(helper)
            added[name] = tagged(
                "source",
                *(
                    code.folder_parts(helper, without=skipped)
                    if helper.is_dir()
                    else (helper.name.encode(), code.content_part(helper))
                ),
            ).encode()
    return tagged(
        "source",
        *parts,
        *(part for name, digest in sorted(added.items()) for part in (name.encode(), digest)),
    )


def _source_root(names: list[str]) -> Path | None:
    """Give the root of a plugin's source: a package's folder, a module's file, or for a module in a
    package without ``__init__.py`` the folder that contains it.
    """
    for length in range(1, len(names) + 1):
        module = sys.modules.get(".".join(names[:length]))
        origin = getattr(module, "__file__", None)
        if origin is None:
            continue
        file = Path(origin)
        while not file.exists() and file != file.parent:
            file = file.parent  # in an archive, which counts as a whole
        if file != Path(origin):
            return file
        if file.name.startswith("__init__.") or length > 1:
            return file.parent
        return file
    return None


def _extra_folders(top: str, home: Path) -> list[Path]:
    """List the folders that a package has added to its search path."""
    source_paths = (
        [Path(location) for location in getattr(sys.modules.get(top), "__path__", ())]
        if home.is_dir() and getattr(sys.modules.get(top), "__file__", None)
        else []
    )
    real = os.path.realpath(home)
    return [
        location
        for location in dict.fromkeys(source_paths)
        if location.is_dir() and not is_inside(os.path.realpath(location), real)
    ]


def _module_finder(distribution: Any) -> Callable[[str, str, Path], Path | None]:
    """Return a function that finds a module or package by name if it belongs to a distribution or
    to the same namespace.
    """
    tops = _top_names(distribution)

    def find(name: str, top: str, home: Path) -> Path | None:
        first, *rest = name.split(".")
        if first in ("imagen_flow", "") or first in sys.stdlib_module_names:
            return None
        if first == top and rest and getattr(sys.modules.get(top), "__file__", None) is None:
            return _in_namespace(list(getattr(sys.modules.get(top), "__path__", ())), rest)
        around = home.parent
        if first == top or not (first in tops or (tops is UNKNOWN_NAMES and not _is_site(around))):
            return None
        found = _find_module(around, first)
        imported = sys.modules.get(first)
        if found is None or (
            found.is_dir()
            and imported is not None
            and str(found) not in list(getattr(imported, "__path__", ()))
        ):
            return None
        return _module_or_package(found)

    return find


def _is_site(folder: Path) -> bool:
    """Tell whether a folder is where distributions are installed."""
    import sysconfig

    paths = sysconfig.get_paths()
    return os.path.realpath(folder) in {
        os.path.realpath(paths[kind]) for kind in ("purelib", "platlib")
    }


def _mention_pattern(distribution: Any, top: str, home: Path) -> re.Pattern[bytes]:
    """Return a pattern that a text must match to name anything else of the plugin: most texts do
    not, and need not be parsed.
    """
    names = (
        {entry.name.partition(".")[0] for entry in os.scandir(home.parent)}
        if _top_names(distribution) is UNKNOWN_NAMES
        else set(_top_names(distribution))
    )
    if getattr(sys.modules.get(top), "__file__", None) is not None:
        names.discard(top)
    chosen = sorted(name for name in names if name.isidentifier() and name != "imagen_flow")
    return (
        re.compile(rb"\b(?:%s)\b" % "|".join(chosen).encode()) if chosen else re.compile(rb"(?!)")
    )


def _in_namespace(source_paths: list[str], names: list[str]) -> Path | None:
    """Find a module's file or a package's folder by its name in a package without ``__init__.py``."""
    for location in source_paths:
        here = Path(location)
        for index, name in enumerate(names):
            found = _find_module(here, name)
            if found is None or (index + 1 == len(names) and found.is_dir()):
                break
            if not found.is_dir():
                return _module_or_package(found)
            here = found
    return None


#: The top-level names of a distribution whose content is unknown.
UNKNOWN_NAMES: frozenset[str] = frozenset()


def _top_names(distribution: Any) -> frozenset[str]:
    """List the top-level modules and packages of a distribution."""
    try:
        files = list(getattr(distribution, "files", None) or ())
    except (OSError, ValueError):
        return UNKNOWN_NAMES
    found = {
        str(file).replace("\\", "/").partition("/")[0].partition(".")[0]
        for file in files
        if str(file).endswith((".py", *EXTENSION_SUFFIXES))
    }
    return frozenset(found) or UNKNOWN_NAMES


def stamp(target: str) -> str:
    """Digest the names and times of the files of an installed plugin's package without importing
    it.
    """
    try:
        spec = importlib.util.find_spec(target.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return "missing"
    if spec is None:
        return "missing"
    source_paths = list(spec.submodule_search_locations or ())
    if not source_paths and spec.origin is None:
        return "missing"
    times: list[tuple[str, int]] = []
    for location in source_paths or [str(spec.origin)]:
        if os.path.isdir(location):
            skip = len(os.path.join(location, ""))
            for entry in _entries(location, _is_code):
                with suppress(FileNotFoundError):
                    times.append((entry.path[skip:], entry.stat().st_mtime_ns))
        elif os.path.exists(location):
            times.append((".", os.stat(location).st_mtime_ns))
    return tagged("stamp", repr(sorted(times)).encode())
