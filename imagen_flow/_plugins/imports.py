"""Let modules of local plugins be imported as they were digested, and nothing else in their place.

While a local plugin lives, a finder among Python's own (`install`) sees to it that what is imported
from its folder is one of the files that count as its source (see `plugin_code`), as it was
digested. Its folder is not on Python's path, so whatever else lies there (metadata of
distributions, bytecode) is nothing. Python's bytecode of these files is never used: it is told from
its source by size and time alone, and anybody can write it.
"""

from __future__ import annotations

import importlib
import os
import sys
import weakref
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from .._system.regular_files import open_regular
from .._types.digest import digest_bytes, digest_stream
from .code import LocalCode, is_below

__all__ = ["AsWritten", "Finder", "install", "is_held", "loader_of", "local_folders"]


class AsWritten(SourceFileLoader):
    """Compiles a file as it is now. Python's own memory of compiled code goes by size and whole
    seconds, and a plugin that is worked on changes faster.
    """

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _AsDigested(AsWritten):
    """Compiles a file if it is as it was digested."""

    def __init__(self, name: str, path: str, digest: str) -> None:
        super().__init__(name, path)
        self.digest = digest

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        if digest_bytes(data) != self.digest:
            raise _changed(fullname, path)
        return self.source_to_code(data, path)


class _CompiledAsDigested(ExtensionFileLoader):
    """Loads a compiled module if it is as it was digested."""

    def __init__(self, name: str, path: str, digest: str) -> None:
        super().__init__(name, path)
        self.digest = digest

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with open_regular(self.path) as stream:
            if digest_stream(stream) != self.digest:
                raise _changed(spec.name, self.path)
        return super().create_module(spec)


def _changed(name: str, path: str) -> ImportError:
    return ImportError(
        f"'{name}' has changed since the plugin was loaded ({path}); run again",
        name=name,
        path=path,
    )


#: What a module of a local plugin holds its own `LocalCode` by.
_OWN_CODE = "__imagen_flow_code__"

_NO_MODULE = ModuleType("none")


class Finder:
    """Finds modules of local plugins: of what lies in their folders only what counts as their
    source, and that only as it was digested.
    """

    def __init__(self) -> None:
        #: The plugins, the last one first. Each is held by its module, so what nobody can call any
        # more is forgotten.
        self.known: list[weakref.ref[LocalCode]] = []
        self._real: dict[str, str] = {}

    @property
    def plugins(self) -> list[LocalCode]:
        """The plugins that live: whose module is the one of its name."""
        return [
            code
            for code in self.remembered()
            if vars(sys.modules.get(code.module, _NO_MODULE)).get(_OWN_CODE) is code
        ]

    def remembered(self) -> list[LocalCode]:
        """The plugins that anybody may still call, the last one first."""
        return [code for known in self.known if (code := known()) is not None]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, plugins = name.partition(".")[0], self.plugins
        owner = next((plugin for plugin in plugins if top in plugin.helpers), None)
        if owner is not None:
            spec = PathFinder.find_spec(
                name, [str(owner.folder), *sys.path] if path is None else path, target
            )
            if spec is None or not spec.has_location or not spec.origin:
                return spec
        elif self._may_hold(plugins, sys.path if path is None else path):
            spec = PathFinder.find_spec(name, path, target)
        else:
            return None
        if spec is None or not spec.has_location or not spec.origin:
            return None
        real = os.path.realpath(spec.origin)
        for plugin in plugins:
            digest = plugin.digests.get(real)
            if digest is not None:
                return _held(spec, name, digest)
            if (
                archive := next(
                    (str(place) for place in Path(real).parents if str(place) in plugin.digests),
                    None,
                )
            ) is not None:
                _check_archive(name, archive, plugin.digests[archive])
                return spec
        holder = next((plugin for plugin in plugins if plugin.holds(real)), None)
        if holder is not None:
            raise ImportError(
                f"'{name}' would be imported from {spec.origin}, which is not part of the plugin"
                f" {holder.path} as it was loaded",
                name=name,
                path=spec.origin,
            )
        return spec if owner is not None else None

    def _may_hold(self, plugins: list[LocalCode], places: Any) -> bool:
        """Whether one of these places lies in the folder of a plugin: if it is none where Python
        looks anyway, the plugin has added it.
        """
        for place in places:
            real = self._real.get(place)
            if real is None:
                real = self._real[place] = os.path.realpath(place or ".")
            if any(plugin.holds(real) for plugin in plugins):
                return True
        return False

    def invalidate_caches(self) -> None:
        """Python's own finders keep what can be kept."""


class LastFinder:
    """Finds what nobody else has found in the folders of plugins whose text does not tell what they
    import.
    """

    def __init__(self, first: Finder) -> None:
        self.first = first

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        for plugin in self.first.plugins if path is None else ():
            spec = (
                PathFinder.find_spec(name, [str(plugin.folder)], target) if plugin.is_open else None
            )
            if spec is not None and spec.origin is None:
                return spec
            if (
                spec is not None
                and spec.origin is not None
                and (digest := plugin.digests.get(os.path.realpath(spec.origin))) is not None
            ):
                return _held(spec, name, digest)
        return None

    def invalidate_caches(self) -> None:
        """Python's own finders keep what can be kept."""


def _check_archive(name: str, place: str, digest: str) -> None:
    """Refuse to import from an archive that is not as it was digested."""
    with open_regular(place) as stream:
        if digest_stream(stream) != digest:
            raise _changed(name, place)


def _held(spec: ModuleSpec, name: str, digest: str) -> ModuleSpec:
    assert spec.origin is not None
    if isinstance(spec.loader, ExtensionFileLoader):
        spec.loader = _CompiledAsDigested(name, spec.origin, digest)
    elif isinstance(spec.loader, SourceFileLoader):
        spec.loader = _AsDigested(name, spec.origin, digest)
    else:
        raise ImportError(
            f"'{name}' would be imported from {spec.origin}, which is neither Python source nor a"
            " compiled module",
            name=name,
            path=spec.origin,
        )
    return spec


def install(code: LocalCode, module: ModuleType) -> None:
    """Let the helpers of a local plugin be found for as long as its module is the one of its name;
    those that it would import otherwise now are taken out of Python's memory.
    """
    finder = next((finder for finder in sys.meta_path if isinstance(finder, Finder)), None)
    if finder is None:
        finder = Finder()
        sys.meta_path.insert(0, finder)
        sys.meta_path.append(LastFinder(finder))
    before = finder.remembered()
    # What an earlier look at a plugin has added to the path is still its own.
    code.elsewhere = tuple(
        place
        for place in code.elsewhere
        if all(place in other.elsewhere for other in before if other.folder == code.folder)
    )
    vars(module)[_OWN_CODE] = code
    finder.known[:] = [weakref.ref(code), *(known for known in finder.known if known() is not None)]
    importlib.invalidate_caches()
    _forget_stale(code, next((other for other in before if other.path == code.path), None))


def loader_of(code: LocalCode) -> SourceFileLoader:
    """Give the loader of the plugin's own file."""
    return _AsDigested(code.module, str(code.path), code.digests[os.path.realpath(code.path)])


def is_held(loader: Any) -> TypeGuard[_AsDigested | _CompiledAsDigested]:
    """Whether a module was loaded as it was digested."""
    return isinstance(loader, _AsDigested | _CompiledAsDigested)


def _forget_stale(code: LocalCode, last: LocalCode | None) -> None:
    """Take the modules out of Python's memory that are not what a plugin would import now; with one
    of them all, since one that is as it was may still hold on to what another was.
    """
    own = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in code.helpers or _is_ours(module, code)
    ]
    if last is not None and any(
        _digest_now(file) != digest for file, digest in last.outside.items()
    ):
        own += [
            name
            for name, module in list(sys.modules.items())
            if os.path.realpath(getattr(module, "__file__", None) or "") in last.outside
        ]
        for name in dict.fromkeys(own):
            del sys.modules[name]
    elif (last is not None and last.inner != code.inner) or any(
        _is_stale(sys.modules[name], code) for name in own
    ):
        for name in own:
            del sys.modules[name]


def _digest_now(file: str) -> str:
    try:
        with open_regular(file) as stream:
            return digest_stream(stream)
    except OSError:
        return ""


def _is_ours(module: Any, code: LocalCode) -> bool:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return (
        is_held(loader)
        and is_below(os.path.realpath(loader.path), str(code.folder))
        and os.path.realpath(loader.path) != str(code.path)
    )


def _is_stale(module: Any, code: LocalCode) -> bool:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if is_held(loader):
        return bool(code.digests.get(os.path.realpath(loader.path)) != loader.digest)
    return getattr(module, "__file__", None) is not None or not any(
        is_below(os.path.realpath(place), str(code.folder))
        for place in getattr(module, "__path__", ())
    )


def local_folders() -> list[Path]:
    """Name the folders of the local plugins that live."""
    return [
        plugin.folder
        for finder in sys.meta_path
        if isinstance(finder, Finder)
        for plugin in finder.plugins
    ]
