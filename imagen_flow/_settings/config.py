"""Know where things lie and what the user prefers: ``imagen-flow.toml``, places on this machine,
and which local plugins are trusted.

A setting is taken from the first of: a flag, the graph's ``settings:``, ``imagen-flow.toml``, the
default. The file is looked for upward from the graph (or from the working directory where there is
none); paths in it start from its own folder.

The file comes with whatever folder the user has fetched, so it is believed only in part. Local
files of nodes that it names are imported after ``imagen-flow trust`` for their present form: what
is
remembered is a digest of the file and of all code that it could import from its folder. Its `out`
and `store` stay inside its own folder unless the user trusted the place that they lead to. A file
that
belongs to another user (of a shared temporary folder, say) is ignored, in words.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from .._outputs.writer import OutFolder
from .._plugins.code import Unfit, form
from .._system.regular_files import read_regular
from .._system.seals import Seals, read_secret
from .._system.user_folders import cache_folder, config_folder
from .._types.digest import tagged
from ..errors import GraphError, Mark, Problem, Source, nearest
from .devices import nearest_device, nearest_dtype

__all__ = [
    "NAME",
    "Place",
    "Settings",
    "Unfit",
    "files_memo",
    "find",
    "form",
    "is_trusted",
    "load",
    "out_place",
    "plugins_memo",
    "pulls_memo",
    "read",
    "seals",
    "store_place",
    "tiny_place",
    "trust",
    "trusted_path",
    "untrusted",
    "words_memo",
]

#: The name of the settings file.
NAME = "imagen-flow.toml"

_KEYS = ("device", "dtype", "out", "plugins", "store")

#: More than any file of settings has.
_MAX_BYTES = 1 << 20

_DTYPES = ("auto", "float32", "float16", "bfloat16")


class Place(TypedDict):
    """Where a graph computes, and in what; None leaves it to the graph, and then to the machine."""

    device: str | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What an ``imagen-flow.toml`` says; None where it says nothing, and where it is not believed.
    `source` is its text, for problems.

    `outside` holds the places outside its folder that `out` and `store` lead to; `refused` says why
    they do not count, of those that the user has not trusted. `ignored` says why the whole file
    does not
    count.
    """

    device: str | None = None
    dtype: str | None = None
    out: Path | None = None
    store: Path | None = None
    plugins: tuple[Path, ...] = ()
    path: Path | None = None
    source: Source | None = None
    outside: Mapping[str, Path] = field(default_factory=dict)
    refused: Mapping[str, Problem] = field(default_factory=dict)
    ignored: Problem | None = None

    def mark(self, key: str) -> Mark | None:
        """Where a key stands."""
        return _mark(self.source, key) if self.source else None

    def place(self, written: Mapping[str, Any], *, device: str | None, dtype: str | None) -> Place:
        """Choose where a graph computes, and in what: as asked, else as here, unless the graph's
        own settings (`written`) say it.
        """
        return {
            "device": device or (None if "device" in written else self.device),
            "dtype": dtype or (None if "dtype" in written else self.dtype),
        }


def find(start: Path) -> Path | None:
    """Find the nearest ``imagen-flow.toml`` in `start` or a folder above it."""
    start = start.absolute()
    return next(
        (file for folder in (start, *start.parents) if (file := folder / NAME).is_file()), None
    )


def load(start: Path) -> Settings:
    """Read the settings that hold in the folder `start`; all None if there is no file.

    Raises:
        GraphError: the problems of the file.
    """
    path = find(start)
    return read(path) if path else Settings()


def read(path: Path) -> Settings:
    """Read a settings file; one of another user's says nothing but why it is ignored.

    Raises:
        GraphError: the problems of the file, all of them.
    """
    import tomllib

    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    try:
        owner = _stranger(path)
        if owner is not None:
            return Settings(path=path, ignored=_ignored(shown, owner))
        source = Source(shown, read_regular(path, max_bytes=_MAX_BYTES).decode("utf-8"))
    except OSError as failed:
        raise GraphError(
            [Problem("unreadable", f"{shown} cannot be read: {failed.strerror}")]
        ) from failed
    except UnicodeDecodeError as odd:
        raise GraphError(
            [
                Problem(
                    "not-utf8",
                    f"{shown} is not UTF-8 text: byte {odd.start} is 0x{odd.object[odd.start]:02x}",
                )
            ]
        ) from odd
    try:
        said = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as odd:
        raise GraphError([_syntax(source, str(odd))]) from odd
    problems: list[Problem] = []
    for key in said.keys() - set(_KEYS):
        problems.append(
            Problem(
                "bad-setting",
                f"there is no setting '{key}'",
                _mark(source, key),
                fix=nearest(key, _KEYS, what="settings are"),
            )
        )
    folder = path.absolute().parent
    plugins = said.get("plugins", [])
    if not isinstance(plugins, list) or not all(
        isinstance(name, str) and name.strip() for name in plugins
    ):
        problems.append(
            Problem(
                "bad-setting",
                "'plugins' is a list of paths of Python files",
                _mark(source, "plugins"),
                fix='write plugins = ["./my_nodes.py"]',
            )
        )
        plugins = []
    texts = {key: _text(said, key, source, problems) for key in ("device", "dtype", "out", "store")}
    dtype = texts["dtype"]
    if dtype is not None and dtype not in _DTYPES:
        problems.append(
            Problem(
                "bad-setting",
                f"there is no dtype '{dtype}'",
                _mark(source, "dtype"),
                fix=nearest_dtype(dtype),
            )
        )
    device = texts["device"]
    if device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        problems.append(
            Problem(
                "bad-setting",
                f"there is no device '{device}'",
                _mark(source, "device"),
                fix=nearest_device(device),
            )
        )
    places = {
        key: place
        for key in ("out", "store")
        if (text := texts[key]) and (place := _place(folder, text, key, source, problems))
    }
    files = [
        place for name in plugins if (place := _place(folder, name, "plugins", source, problems))
    ]
    if problems:
        raise GraphError(problems)
    home = os.path.realpath(folder)
    real = {key: Path(os.path.realpath(place)) for key, place in places.items()}
    outside = {key: place for key, place in real.items() if not place.is_relative_to(home)}
    known = _trusted() if outside else {}
    refused = {
        key: _outside(key, place, source)
        for key, place in outside.items()
        if known.get(_name_of(folder, key)) != str(place)
    }
    return Settings(
        device=device,
        dtype=dtype,
        out=None if "out" in refused else places.get("out"),
        store=None if "store" in refused else places.get("store"),
        plugins=tuple(files),
        path=path,
        source=source,
        outside=outside,
        refused=refused,
    )


def _place(
    folder: Path, text: str, key: str, source: Source, problems: list[Problem]
) -> Path | None:
    try:
        place = folder / Path(text).expanduser()
        os.path.realpath(place)
    except (RuntimeError, ValueError) as unfit:
        problems.append(
            Problem(
                "bad-setting",
                f"'{key}' is no path: {json.dumps(text)}",
                _mark(source, key),
                why=str(unfit),
            )
        )
        return None
    return place


def _outside(key: str, place: Path, source: Source) -> Problem:
    what = "outputs" if key == "out" else "the store"
    return Problem(
        "untrusted-setting",
        f"'{key}' leads outside the folder of {NAME}, and you have not trusted it",
        _mark(source, key),
        why=f"{what} would go to {place}: whoever wrote this file chose that, not you",
        fix=f"read it, then run: imagen-flow trust {source.name}; or choose by --{key}",
    )


def _stranger(path: Path) -> str | None:
    """Name the owner of a file, or of the link that leads to it, if that is another user; the
    system's administrator is nobody's stranger.
    """
    if not hasattr(os, "geteuid"):
        return None
    for found in (os.lstat(path), os.stat(path)):
        if found.st_uid not in (os.geteuid(), 0):
            return _user(found.st_uid)
    return None


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _ignored(shown: str, owner: str) -> Problem:
    return Problem(
        "untrusted-setting",
        f"{shown} is ignored: it belongs to another user ({owner})",
        why="whoever owns it may change at any time what it says",
        severity="warning",
        fix=(
            "choose by --out, --store, --device, --dtype and --plugin, or copy it into a folder of"
            " your own"
        ),
    )


def _text(said: Mapping[str, Any], key: str, source: Source, problems: list[Problem]) -> str | None:
    value = said.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    problems.append(
        Problem(
            "bad-setting",
            f"'{key}' is text, not {json.dumps(value, default=str)}",
            _mark(source, key),
        )
    )
    return None


def _mark(source: Source, key: str) -> Mark | None:
    """Find a key in the text: the parser gives no positions."""
    for number, line in enumerate(source.text.split("\n"), 1):
        found = re.match(rf"""\s*\[*\s*["']?({re.escape(key)})["']?\s*[=.\]]""", line)
        if found:
            return Mark(source, number, found.start(1) + 1, len(key))
    return None


def _syntax(source: Source, message: str) -> Problem:
    at = re.search(r"\(at line (\d+), column (\d+)\)", message)
    mark = Mark(source, int(at[1]), int(at[2])) if at else None
    words = message[: at.start()].strip() if at else message
    return Problem("bad-setting", "the file is not TOML", mark, why=words[:1].lower() + words[1:])


# ---- places


def store_place(asked: Path | None = None, settings: Settings | None = None) -> Path:
    """Say where the store is: as asked, else ``IMAGEN_FLOW_STORE``, else as in the settings file,
    else in the user's cache folder.

    Raises:
        GraphError: the settings file names a place that the user has not trusted.
    """
    if asked is not None:
        return asked
    if named := os.environ.get("IMAGEN_FLOW_STORE"):
        return Path(named).expanduser()
    if settings is not None and "store" in settings.refused:
        raise GraphError([settings.refused["store"]])
    if settings is not None and settings.store is not None:
        return settings.store
    return cache_folder() / "store"


def out_place(asked: Path | None = None, settings: Settings | None = None) -> OutFolder:
    """Say where outputs go: as asked, else as in the settings file, else to ``./out``. Where it was
    not the user who named it, it must not lead elsewhere by a link.

    Raises:
        GraphError: the settings file names a place that the user has not trusted.
    """
    if asked is not None:
        return OutFolder(asked)
    if settings is not None and "out" in settings.refused:
        raise GraphError([settings.refused["out"]])
    if settings is None or settings.out is None:
        return OutFolder(Path("out"), inside=Path.cwd())
    if "out" in settings.outside:
        return OutFolder(settings.outside["out"], inside=settings.outside["out"])
    assert settings.path is not None
    return OutFolder(settings.out, inside=settings.path.absolute().parent)


def seals(asked: Path | None = None, settings: Settings | None = None) -> Seals:
    """Say how the records of the store at `store_place` are sealed, and whose are believed: all,
    but in a store that may have come along with the folder of a settings file only the user's own.
    """
    inside = (
        asked is None
        and not os.environ.get("IMAGEN_FLOW_STORE")
        and settings is not None
        and settings.store is not None
        and settings.path is not None
        and Path(os.path.realpath(settings.store)).is_relative_to(
            os.path.realpath(settings.path.parent)
        )
    )
    return Seals(read_secret(trusted_path().with_name("seals.key")), only_own=inside)


def tiny_place() -> Path:
    """Say where the small models are kept that ``--tiny`` takes in place of others."""
    return cache_folder() / "tiny"


def pulls_memo() -> Path:
    """Say in which folder it is remembered which models are being fetched that no lock names yet."""
    return cache_folder() / "pulls"


def plugins_memo() -> Path:
    """Say where it is remembered what each plugin offers: one file for each Python environment."""
    import sys

    return cache_folder() / f"plugins-{tagged('environment', sys.prefix.encode())[:12]}.json"


def words_memo() -> Path:
    """Say in which folder it is remembered how the texts of graphs were read."""
    return cache_folder() / "words"


def files_memo() -> Path:
    """Say in which folder the digests of files are remembered where no store does."""
    return cache_folder()


# ---- trust


def trusted_path() -> Path:
    """Say where it is remembered which local plugins and places are trusted."""
    return config_folder() / "trusted.json"


def trust(files: Mapping[Path, str], places: Settings | None = None) -> None:
    """Remember these local files of nodes, each in the form that has this digest (see `form`), and
    the places outside its folder that a settings file leads to.
    """
    place = trusted_path()
    known = {**_trusted(), **{str(path.resolve()): digest for path, digest in files.items()}}
    if places is not None and places.path is not None:
        known |= {
            _name_of(places.path.absolute().parent, key): str(to)
            for key, to in places.outside.items()
        }
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    aside.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")
    os.replace(aside, place)


def _name_of(folder: Path, key: str) -> str:
    """What is remembered of a place that a settings file leads to is remembered under this."""
    return f"{os.path.join(os.path.realpath(folder), NAME)}#{key}"


def is_trusted(path: Path) -> bool:
    """Whether the user has trusted a local file of nodes in its present form."""
    return _why_not(path, _trusted()) is None


def _why_not(path: Path, known: Mapping[str, str]) -> str | None:
    """Say why a local file of nodes may not be imported; nothing if it may."""
    trusted = known.get(str(path.resolve()))
    if trusted is None:
        return "importing it runs its code"
    try:
        return (
            None
            if form(path) == trusted
            else "it, or code beside it that it could import, has changed since you trusted it"
        )
    except (OSError, Unfit) as unfit:
        return str(unfit)


def _trusted() -> dict[str, str]:
    try:
        known = json.loads(read_regular(trusted_path(), max_bytes=64 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def untrusted(settings: Settings) -> dict[Path, Problem]:
    """Say for each plugin that the settings name and that may not be imported why not, as a
    warning; and of settings that are ignored as a whole, why.
    """
    found: dict[Path, Problem] = {}
    if settings.ignored is not None and settings.path is not None:
        found[settings.path] = settings.ignored
    known = _trusted() if settings.plugins else {}
    for path in settings.plugins:
        mark = settings.mark("plugins")
        if not path.is_file():
            found[path] = Problem(
                "missing-file",
                f"there is no file {path.name}",
                mark,
                why=f"it would be {path}",
                severity="warning",
            )
        elif why := _why_not(path, known):
            changed = " in its present form" if str(path.resolve()) in known else ""
            shown = settings.source.name if settings.source else NAME
            found[path] = Problem(
                "untrusted-plugin",
                f"{path.name} is not loaded: it is not trusted{changed}",
                mark,
                why=why,
                fix=f"read it, then run: imagen-flow trust {shown}",
                severity="warning",
            )
    return found
