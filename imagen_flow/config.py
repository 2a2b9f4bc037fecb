"""Know where things lie and what the user prefers: ``imagen-flow.toml``, places on this machine, and which local plugins are trusted.

A setting is taken from the first of: a flag, the graph's ``settings:``, ``imagen-flow.toml``, the default. The file is looked for upward from the graph (or
from the working directory where there is none); paths in it start from its own folder.

The file may name local files of nodes. It comes with whatever folder the user has fetched, so they are imported only after ``imagen-flow trust`` for their
present form: what is remembered is a digest of the file and of the modules beside it that it could import.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from .digest import tagged
from .errors import GraphError, Mark, Problem, Source, nearest
from .seals import Seals, read_secret

__all__ = ["NAME", "Place", "Settings", "find", "form", "is_trusted", "load", "plugins_memo", "pulls_memo", "read", "seals", "store_place", "tiny_place", "trust", "trusted_path", "untrusted", "words_memo"]

#: The name of the settings file.
NAME = "imagen-flow.toml"

_KEYS = ("device", "dtype", "out", "plugins", "store")
_DTYPES = ("auto", "float32", "float16", "bfloat16")


class Place(TypedDict):
    """Where a graph computes, and in what; None leaves it to the graph, and then to the machine."""

    device: str | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What an ``imagen-flow.toml`` says; None where it says nothing. `source` is its text, for problems."""

    device: str | None = None
    dtype: str | None = None
    out: Path | None = None
    store: Path | None = None
    plugins: tuple[Path, ...] = ()
    path: Path | None = None
    source: Source | None = None

    def mark(self, key: str) -> Mark | None:
        """Where a key stands."""
        return _mark(self.source, key) if self.source else None

    def place(self, written: Mapping[str, Any], *, device: str | None, dtype: str | None) -> Place:
        """Choose where a graph computes, and in what: as asked, else as here, unless the graph's own settings (`written`) say it."""
        return {"device": device or (None if "device" in written else self.device), "dtype": dtype or (None if "dtype" in written else self.dtype)}


def find(start: Path) -> Path | None:
    """Find the nearest ``imagen-flow.toml`` in `start` or a folder above it."""
    start = start.absolute()
    return next((file for folder in (start, *start.parents) if (file := folder / NAME).is_file()), None)


def load(start: Path) -> Settings:
    """Read the settings that hold in the folder `start`; all None if there is no file.

    Raises:
        GraphError: the problems of the file.
    """
    path = find(start)
    return read(path) if path else Settings()


def read(path: Path) -> Settings:
    """Read a settings file.

    Raises:
        GraphError: the problems of the file, all of them.
    """
    import tomllib

    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    try:
        source = Source(shown, path.read_text("utf-8"))
    except OSError as failed:
        raise GraphError([Problem("unreadable", f"{shown} cannot be read: {failed.strerror}")]) from failed
    except UnicodeDecodeError as odd:
        raise GraphError([Problem("not-utf8", f"{shown} is not UTF-8 text: byte {odd.start} is 0x{odd.object[odd.start]:02x}")]) from odd
    try:
        said = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as odd:
        raise GraphError([_syntax(source, str(odd))]) from odd
    problems: list[Problem] = []
    for key in said.keys() - set(_KEYS):
        problems.append(Problem("bad-setting", f"there is no setting '{key}'", _mark(source, key), fix=nearest(key, _KEYS, what="settings are")))
    folder = path.absolute().parent
    plugins = said.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(name, str) and name.strip() for name in plugins):
        problems.append(Problem("bad-setting", "'plugins' is a list of paths of Python files", _mark(source, "plugins"), fix='write plugins = ["./my_nodes.py"]'))
        plugins = []
    texts = {key: _text(said, key, source, problems) for key in ("device", "dtype", "out", "store")}
    dtype = texts["dtype"]
    if dtype is not None and dtype not in _DTYPES:
        problems.append(Problem("bad-setting", f"there is no dtype '{dtype}'", _mark(source, "dtype"), fix=nearest(dtype, _DTYPES, what="dtypes are")))
    device = texts["device"]
    if device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        problems.append(Problem("bad-setting", f"there is no device '{device}'", _mark(source, "device"), fix="one of: auto, cpu, cuda, cuda:N, mps"))
    if problems:
        raise GraphError(problems)
    out, store = texts["out"], texts["store"]
    return Settings(
        device=device,
        dtype=dtype,
        out=folder / Path(out).expanduser() if out else None,
        store=folder / Path(store).expanduser() if store else None,
        plugins=tuple(folder / Path(name).expanduser() for name in plugins),
        path=path,
        source=source,
    )


def _text(said: Mapping[str, Any], key: str, source: Source, problems: list[Problem]) -> str | None:
    value = said.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    problems.append(Problem("bad-setting", f"'{key}' is text, not {json.dumps(value, default=str)}", _mark(source, key)))
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


# --- places ----------------------------------------------------------------------------------------------------------------------


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("imagen-flow", appauthor=False)


def store_place(asked: Path | None = None, settings: Settings | None = None) -> Path:
    """Say where the store is: as asked, else ``IMAGEN_FLOW_STORE``, else as in the settings file, else in the user's cache folder."""
    if asked is not None:
        return asked
    if named := os.environ.get("IMAGEN_FLOW_STORE"):
        return Path(named).expanduser()
    if settings is not None and settings.store is not None:
        return settings.store
    return _cache() / "store"


def seals(asked: Path | None = None, settings: Settings | None = None) -> Seals:
    """Say how the records of the store at `store_place` are sealed, and whose are believed: all, but in a store that may have come along with the folder of a settings file only the user's own."""
    came_along = asked is None and not os.environ.get("IMAGEN_FLOW_STORE") and settings is not None and settings.store is not None and settings.path is not None
    inside = came_along and Path(os.path.realpath(settings.store)).is_relative_to(os.path.realpath(settings.path.parent))  # type: ignore[union-attr,arg-type]
    return Seals(read_secret(trusted_path().with_name("seals.key")), only_own=inside)


def tiny_place() -> Path:
    """Say where the small models are kept that ``--tiny`` takes in place of others."""
    return _cache() / "tiny"


def pulls_memo() -> Path:
    """Say in which folder it is remembered which models are being fetched that no lock names yet."""
    return _cache() / "pulls"


def plugins_memo() -> Path:
    """Say where it is remembered what each plugin offers: one file for each Python environment."""
    import sys

    return _cache() / f"plugins-{tagged('environment', sys.prefix.encode())[:12]}.json"


def words_memo() -> Path:
    """Say in which folder it is remembered how the texts of graphs were read."""
    return _cache() / "words"


def files_memo() -> Path:
    """Say in which folder the digests of files are remembered where no store does."""
    return _cache()


# --- trust -----------------------------------------------------------------------------------------------------------------------


def trusted_path() -> Path:
    """Say where it is remembered which local plugins are trusted."""
    import platformdirs

    return platformdirs.user_config_path("imagen-flow", appauthor=False) / "trusted.json"


def trust(files: Mapping[Path, str]) -> None:
    """Remember these local files of nodes, each in the form that has this digest (see `form`)."""
    place = trusted_path()
    known = {**_trusted(), **{str(path.resolve()): digest for path, digest in files.items()}}
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    aside.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")
    os.replace(aside, place)


def form(path: Path) -> str:
    """Digest the present form of a local file of nodes: the file, and the modules and packages beside it that it could import."""
    path = path.resolve()
    named = ((file.relative_to(path.parent).as_posix(), file.read_bytes()) for file in sorted({path, *_beside(path.parent)}))
    return tagged("trust", path.name.encode(), *(part for name, text in named for part in (name.encode(), text)))


def _beside(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.suffix == ".py" and entry.is_file():
            yield entry
        elif (entry / "__init__.py").is_file():
            yield from entry.rglob("*.py")


def is_trusted(path: Path) -> bool:
    """Whether the user has trusted a local file of nodes in its present form."""
    try:
        return _trusted().get(str(path.resolve())) == form(path)
    except OSError:
        return False


def _trusted() -> dict[str, str]:
    try:
        known = json.loads(trusted_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def untrusted(settings: Settings) -> dict[Path, Problem]:
    """Say for each plugin that the settings name and that may not be imported why not, as a warning."""
    found: dict[Path, Problem] = {}
    known = _trusted()
    for path in settings.plugins:
        mark = settings.mark("plugins")
        if not path.is_file():
            found[path] = Problem("missing-file", f"there is no file {path.name}", mark, why=f"it would be {path}", severity="warning")
        elif not is_trusted(path):
            changed = str(path.resolve()) in known
            why = "it, or a module beside it, has changed since you trusted it" if changed else "importing it runs its code"
            shown = settings.source.name if settings.source else NAME
            found[path] = Problem("untrusted-plugin", f"{path.name} is not loaded: it is not trusted{' in its present form' if changed else ''}", mark, why=why,
                                  fix=f"read it, then say: imagen-flow trust {shown}", severity="warning")  # fmt: skip
    return found
