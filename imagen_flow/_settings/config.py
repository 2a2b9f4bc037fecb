"""Read ``imagen-flow.toml``, locate the folders of this machine, and remember which local plugins
are trusted.

A setting comes from the first of: a flag, the graph's ``settings:``, ``imagen-flow.toml``, the
default. The file is searched upward from the graph (or from the working directory where there is no
graph); paths in it are relative to its own folder.

The file comes with whatever folder the user has fetched, so it is only partly trusted. Local
plugins that it names are imported only after ``imagen-flow trust`` for their present content: a
digest of the file and of all code that it could import from its folder is remembered. Its `out` and
`store` stay inside its own folder unless the user has trusted the path that they lead to. A file
that belongs to another user (in a shared temporary folder, for example) is ignored with a warning.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypedDict

from .._outputs.writer import OutFolder
from .._plugins.code import UntrustableCode, code_digest
from .._system.dataclass import dataclass
from .._system.regular_files import read_regular
from .._system.seals import Seals, read_secret
from .._system.user_folders import cache_folder, config_folder
from .._types.digest import tagged
from ..errors import GraphError, Mark, Problem, Source, nearest
from .devices import nearest_device, nearest_dtype

__all__ = [
    "NAME",
    "DeviceSettings",
    "Settings",
    "UntrustableCode",
    "file_digests_folder",
    "find",
    "code_digest",
    "is_trusted",
    "load",
    "outputs_folder",
    "plugins_cache_file",
    "downloads_folder",
    "read",
    "seals",
    "store_folder",
    "tiny_folder",
    "trust",
    "trusted_path",
    "untrusted",
]

#: The name of the settings file.
NAME = "imagen-flow.toml"

_KEYS = ("device", "dtype", "out", "plugins", "store")

#: Larger than any settings file.
_MAX_BYTES = 1 << 20

_DTYPES = ("auto", "float32", "float16", "bfloat16")


class DeviceSettings(TypedDict):
    """The device and dtype of a graph; None leaves the choice to the graph, and then to the
    machine.
    """

    device: str | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The content of an ``imagen-flow.toml``; None where it sets nothing or is not trusted.
    `source` is its text, for problems.

    `outside` holds the paths outside its folder that `out` and `store` lead to; `refused` says why
    those that the user has not trusted are not used. `ignored` says why the whole file is ignored.
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
        """Give the position of a key."""
        return _mark(self.source, key) if self.source else None

    def device_settings(
        self, written: Mapping[str, Any], *, device: str | None, dtype: str | None
    ) -> DeviceSettings:
        """Choose device and dtype: as given, else as set here, unless the graph's own settings
        (`written`) have them.
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
    """Read the settings that apply to the folder `start`; all None if there is no file.

    Raises:
        GraphError: the problems of the file.
    """
    path = find(start)
    return read(path) if path else Settings()


def read(path: Path) -> Settings:
    """Read a settings file. One that belongs to another user is ignored, with the reason.

    Raises:
        GraphError: the problems of the file, all of them.
    """
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    try:
        owner = _foreign_owner(path)
        if owner is not None:
            return Settings(path=path, ignored=_ignored_problem(shown, owner))
        source = Source(shown, read_regular(path, max_bytes=_MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise GraphError(
            [Problem("unreadable", f"{shown} cannot be read: {error.strerror}")]
        ) from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise GraphError(
            [Problem("not-utf8", f"{shown} is not UTF-8 text: byte {error.start} is 0x{byte:02x}")]
        ) from error
    data = _parse(source)
    folder = path.absolute().parent
    problems = _check_names(data, source)
    texts = {key: _text(data, key, source, problems) for key in ("device", "dtype", "out", "store")}
    problems += _check_choices(texts, source)
    paths = {
        key: resolved
        for key in ("out", "store")
        if (text := texts[key]) and (resolved := _resolve(folder, text, key, source, problems))
    }
    plugins = [
        plugin
        for name in _plugin_names(data, source, problems)
        if (plugin := _resolve(folder, name, "plugins", source, problems))
    ]
    if problems:
        raise GraphError(problems)
    real_folder = os.path.realpath(folder)
    outside = {
        key: real
        for key, named in paths.items()
        if not (real := Path(os.path.realpath(named))).is_relative_to(real_folder)
    }
    trusted = _trusted() if outside else {}
    refused = {
        key: _outside_problem(key, real, source)
        for key, real in outside.items()
        if trusted.get(_trust_key(folder, key)) != str(real)
    }
    return Settings(
        device=texts["device"],
        dtype=texts["dtype"],
        out=None if "out" in refused else paths.get("out"),
        store=None if "store" in refused else paths.get("store"),
        plugins=tuple(plugins),
        path=path,
        source=source,
        outside=outside,
        refused=refused,
    )


def _parse(source: Source) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise GraphError([_syntax(source, str(error))]) from error


def _check_names(data: Mapping[str, Any], source: Source) -> list[Problem]:
    return [
        Problem(
            "bad-setting",
            f"there is no setting '{key}'",
            _mark(source, key),
            fix=nearest(key, _KEYS, what="settings are"),
        )
        for key in data.keys() - set(_KEYS)
    ]


def _plugin_names(data: Mapping[str, Any], source: Source, problems: list[Problem]) -> list[str]:
    names = data.get("plugins", [])
    if isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names):
        return names
    problems.append(
        Problem(
            "bad-setting",
            "'plugins' must be a list of paths of Python files",
            _mark(source, "plugins"),
            fix='write plugins = ["./my_nodes.py"]',
        )
    )
    return []


def _check_choices(texts: Mapping[str, str | None], source: Source) -> list[Problem]:
    problems: list[Problem] = []
    dtype, device = texts["dtype"], texts["device"]
    if dtype is not None and dtype not in _DTYPES:
        problems.append(
            Problem(
                "bad-setting",
                f"there is no dtype '{dtype}'",
                _mark(source, "dtype"),
                fix=nearest_dtype(dtype),
            )
        )
    if device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        problems.append(
            Problem(
                "bad-setting",
                f"there is no device '{device}'",
                _mark(source, "device"),
                fix=nearest_device(device),
            )
        )
    return problems


def _resolve(
    folder: Path, text: str, key: str, source: Source, problems: list[Problem]
) -> Path | None:
    try:
        path = folder / Path(text).expanduser()
        os.path.realpath(path)
    except (RuntimeError, ValueError) as error:
        problems.append(
            Problem(
                "bad-setting",
                f"'{key}' is not a path: {json.dumps(text)}",
                _mark(source, key),
                why=str(error),
            )
        )
        return None
    return path


def _outside_problem(key: str, path: Path, source: Source) -> Problem:
    what = "outputs" if key == "out" else "the store"
    return Problem(
        "untrusted-setting",
        f"'{key}' leads outside the folder of {NAME}, and you have not trusted that",
        _mark(source, key),
        why=f"{what} would go to {path}, which the author of this file chose, not you",
        fix=f"read the file, then run: imagen-flow trust {source.name}; or use --{key}",
    )


def _foreign_owner(path: Path) -> str | None:
    """Name the owner of a file, or of the link that leads to it, if it is another user; the system
    administrator does not count.
    """
    if not hasattr(os, "geteuid"):
        return None
    for status in (os.lstat(path), os.stat(path)):
        if status.st_uid not in (os.geteuid(), 0):
            return _user(status.st_uid)
    return None


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _ignored_problem(shown: str, owner: str) -> Problem:
    return Problem(
        "untrusted-setting",
        f"{shown} is ignored: it belongs to another user ({owner})",
        why="its owner can change it at any time",
        severity="warning",
        fix=(
            "use --out, --store, --device, --dtype and --plugin, or copy it to a folder of your own"
        ),
    )


def _text(data: Mapping[str, Any], key: str, source: Source, problems: list[Problem]) -> str | None:
    value = data.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    problems.append(
        Problem(
            "bad-setting",
            f"'{key}' must be text, not {json.dumps(value, default=str)}",
            _mark(source, key),
        )
    )
    return None


def _mark(source: Source, key: str) -> Mark | None:
    """Find a key in the text, because the parser gives no positions."""
    for number, line in enumerate(source.text.split("\n"), 1):
        match = re.match(rf"""\s*\[*\s*["']?({re.escape(key)})["']?\s*[=.\]]""", line)
        if match:
            return Mark(source, number, match.start(1) + 1, len(key))
    return None


def _syntax(source: Source, message: str) -> Problem:
    at = re.search(r"\(at line (\d+), column (\d+)\)", message)
    mark = Mark(source, int(at[1]), int(at[2])) if at else None
    words = message[: at.start()].strip() if at else message
    return Problem("bad-setting", "the file is not TOML", mark, why=words[:1].lower() + words[1:])


# ---- folders


def store_folder(chosen: Path | None = None, settings: Settings | None = None) -> Path:
    """Give the folder of the store: as chosen, else ``IMAGEN_FLOW_STORE``, else as in the settings
    file, else in the user's cache folder.

    Raises:
        GraphError: the settings file names a path that the user has not trusted.
    """
    if chosen is not None:
        return chosen
    if named := os.environ.get("IMAGEN_FLOW_STORE"):
        return Path(named).expanduser()
    if settings is not None and "store" in settings.refused:
        raise GraphError([settings.refused["store"]])
    if settings is not None and settings.store is not None:
        return settings.store
    return cache_folder() / "store"


def outputs_folder(chosen: Path | None = None, settings: Settings | None = None) -> OutFolder:
    """Give the folder for outputs: as chosen, else as in the settings file, else ``./out``. If it
    was not the user who named it, no link may lead out of it.

    Raises:
        GraphError: the settings file names a path that the user has not trusted.
    """
    if chosen is not None:
        return OutFolder(chosen)
    if settings is not None and "out" in settings.refused:
        raise GraphError([settings.refused["out"]])
    if settings is None or settings.out is None:
        return OutFolder(Path("out"), inside=Path.cwd())
    if "out" in settings.outside:
        return OutFolder(settings.outside["out"], inside=settings.outside["out"])
    assert settings.path is not None
    return OutFolder(settings.out, inside=settings.path.absolute().parent)


def seals(chosen: Path | None = None, settings: Settings | None = None) -> Seals:
    """Say how the rows of the store at `store_folder` are sealed, and whose are trusted:
    everybody's, except in a store that may have come with the folder of a settings file, where only
    the user's own are.
    """
    inside = (
        chosen is None
        and not os.environ.get("IMAGEN_FLOW_STORE")
        and settings is not None
        and settings.store is not None
        and settings.path is not None
        and Path(os.path.realpath(settings.store)).is_relative_to(
            os.path.realpath(settings.path.parent)
        )
    )
    return Seals(read_secret(trusted_path().with_name("seals.key")), only_own=inside)


def tiny_folder() -> Path:
    """Give the folder of the tiny models that ``--tiny`` uses instead of others."""
    return cache_folder() / "tiny"


def downloads_folder() -> Path:
    """Give the folder that records which models are being downloaded that are not in a lock file
    yet.
    """
    return cache_folder() / "pulls"


def plugins_cache_file() -> Path:
    """Give the file that caches the node types of plugins: one file per Python environment."""
    import sys

    return cache_folder() / f"plugins-{tagged('environment', sys.prefix.encode())[:12]}.json"


def file_digests_folder() -> Path:
    """Give the folder of cached file digests for use without a store."""
    return cache_folder()


# ---- trust


def trusted_path() -> Path:
    """Give the file that lists the trusted local plugins and folders."""
    return config_folder() / "trusted.json"


def trust(files: Mapping[Path, str], settings: Settings | None = None) -> None:
    """Trust these local plugins, each with its present digest (see `code_digest`), and the paths
    outside its folder that a settings file leads to.
    """
    path = trusted_path()
    known = {**_trusted(), **{str(path.resolve()): digest for path, digest in files.items()}}
    if settings is not None and settings.path is not None:
        known |= {
            _trust_key(settings.path.absolute().parent, key): str(to)
            for key, to in settings.outside.items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")
    os.replace(temporary, path)


def _trust_key(folder: Path, key: str) -> str:
    """Name the entry of a path that a settings file leads to."""
    return f"{os.path.join(os.path.realpath(folder), NAME)}#{key}"


def is_trusted(path: Path) -> bool:
    """Tell whether the user has trusted a local plugin with its present content."""
    return _why_not(path, _trusted()) is None


def _why_not(path: Path, known: Mapping[str, str]) -> str | None:
    """Say why a local plugin may not be imported; None if it may."""
    trusted = known.get(str(path.resolve()))
    if trusted is None:
        return "importing it runs its code"
    try:
        return (
            None
            if code_digest(path) == trusted
            else "the file, or code beside it that it could import, has changed since you"
            " trusted it"
        )
    except (OSError, UntrustableCode) as error:
        return str(error)


def _trusted() -> dict[str, str]:
    try:
        known = json.loads(read_regular(trusted_path(), max_bytes=64 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def untrusted(settings: Settings) -> dict[Path, Problem]:
    """Say for each plugin in the settings that may not be imported why not, as a warning; likewise
    for a settings file that is ignored.
    """
    problems: dict[Path, Problem] = {}
    if settings.ignored is not None and settings.path is not None:
        problems[settings.path] = settings.ignored
    known = _trusted() if settings.plugins else {}
    for path in settings.plugins:
        mark = settings.mark("plugins")
        if not path.is_file():
            problems[path] = Problem(
                "missing-file",
                f"there is no file {path.name}",
                mark,
                why=f"it was expected at {path}",
                severity="warning",
            )
        elif why := _why_not(path, known):
            changed = " with its present content" if str(path.resolve()) in known else ""
            shown = settings.source.name if settings.source else NAME
            problems[path] = Problem(
                "untrusted-plugin",
                f"{path.name} is not loaded: it is not trusted{changed}",
                mark,
                why=why,
                fix=f"read the file, then run: imagen-flow trust {shown}",
                severity="warning",
            )
    return problems
