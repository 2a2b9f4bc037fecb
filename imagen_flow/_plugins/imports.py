"""Import modules of local plugins only as they were digested, and nothing else in their place.

While a local plugin is alive, a finder in ``sys.meta_path`` (`install`) ensures that whatever is
imported from its folder is one of its source files (see `code`), as it was digested. The folder is
not on Python's path, so nothing else in it (distribution metadata, bytecode) has any effect.
Python's bytecode of these files is never used: it is matched to its source only by size and time,
and anybody can write it.
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
from .code import LocalCode, is_inside

__all__ = ["FreshSourceLoader", "Finder", "install", "is_verified", "loader_of", "local_folders"]


class FreshSourceLoader(SourceFileLoader):
    """Compiles a file as it is now. Python's bytecode cache goes by size and whole seconds, and a
    plugin under development changes faster.
    """

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _VerifiedSourceLoader(FreshSourceLoader):
    """Compiles a file if its content still has its digest."""

    def __init__(self, name: str, path: str, digest: str) -> None:
        super().__init__(name, path)
        self.digest = digest

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        if digest_bytes(data) != self.digest:
            raise _changed(fullname, path)
        return self.source_to_code(data, path)


class _VerifiedExtensionLoader(ExtensionFileLoader):
    """Loads a compiled module if its content still has its digest."""

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


#: The attribute of a local plugin's module that refers to its `LocalCode`.
_CODE_ATTRIBUTE = "__imagen_flow_code__"

_NO_MODULE = ModuleType("none")


class Finder:
    """Finds modules of local plugins: in their folders only source files, and only as they were
    digested.
    """

    def __init__(self) -> None:
        #: The plugins, the newest first. Each is referenced by its module, so that plugins that
        #: nobody can call any more are dropped.
        self.references: list[weakref.ref[LocalCode]] = []
        self._real: dict[str, str] = {}

    @property
    def plugins(self) -> list[LocalCode]:
        """The current plugins: those whose module is in ``sys.modules``."""
        return [
            code
            for code in self.alive()
            if vars(sys.modules.get(code.module, _NO_MODULE)).get(_CODE_ATTRIBUTE) is code
        ]

    def alive(self) -> list[LocalCode]:
        """List the plugins that may still be called, the newest first."""
        return [code for references in self.references if (code := references()) is not None]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, plugins = name.partition(".")[0], self.plugins
        owner = next((plugin for plugin in plugins if top in plugin.helpers), None)
        if owner is not None:
            spec = PathFinder.find_spec(
                name, [str(owner.folder), *sys.path] if path is None else path, target
            )
            if spec is None or not spec.has_location or not spec.origin:
                return spec
        elif self._may_contain(plugins, sys.path if path is None else path):
            spec = PathFinder.find_spec(name, path, target)
        else:
            return None
        if spec is None or not spec.has_location or not spec.origin:
            return None
        real = os.path.realpath(spec.origin)
        for plugin in plugins:
            digest = plugin.digests.get(real)
            if digest is not None:
                return _verified_spec(spec, name, digest)
            if (
                archive := next(
                    (
                        str(location)
                        for location in Path(real).parents
                        if str(location) in plugin.digests
                    ),
                    None,
                )
            ) is not None:
                _check_archive(name, archive, plugin.digests[archive])
                return spec
        owner_plugin = next((plugin for plugin in plugins if plugin.contains(real)), None)
        if owner_plugin is not None:
            raise ImportError(
                f"'{name}' would be imported from {spec.origin}, which is not part of the plugin"
                f" {owner_plugin.path} as it was loaded",
                name=name,
                path=spec.origin,
            )
        return spec if owner is not None else None

    def _may_contain(self, plugins: list[LocalCode], locations: Any) -> bool:
        """Tell whether one of these locations is in the folder of a plugin: unless it is on
        Python's own path, the plugin has added it.
        """
        for location in locations:
            real = self._real.get(location)
            if real is None:
                real = self._real[location] = os.path.realpath(location or ".")
            if any(plugin.contains(real) for plugin in plugins):
                return True
        return False

    def invalidate_caches(self) -> None:
        """Do nothing: only Python's own finders have caches."""


class LastFinder:
    """Finds what nobody else has found, in the folders of plugins whose text is inconclusive about
    what they import.
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
                return _verified_spec(spec, name, digest)
        return None

    def invalidate_caches(self) -> None:
        """Do nothing: only Python's own finders have caches."""


def _check_archive(name: str, location: str, digest: str) -> None:
    """Refuse to import from an archive that has changed since it was digested."""
    with open_regular(location) as stream:
        if digest_stream(stream) != digest:
            raise _changed(name, location)


def _verified_spec(spec: ModuleSpec, name: str, digest: str) -> ModuleSpec:
    assert spec.origin is not None
    if isinstance(spec.loader, ExtensionFileLoader):
        spec.loader = _VerifiedExtensionLoader(name, spec.origin, digest)
    elif isinstance(spec.loader, SourceFileLoader):
        spec.loader = _VerifiedSourceLoader(name, spec.origin, digest)
    else:
        raise ImportError(
            f"'{name}' would be imported from {spec.origin}, which is neither Python source nor a"
            " compiled module",
            name=name,
            path=spec.origin,
        )
    return spec


def install(code: LocalCode, module: ModuleType) -> None:
    """Make the helpers of a local plugin importable while its module is current; remove outdated
    ones from ``sys.modules``.
    """
    finder = next((finder for finder in sys.meta_path if isinstance(finder, Finder)), None)
    if finder is None:
        finder = Finder()
        sys.meta_path.insert(0, finder)
        sys.meta_path.append(LastFinder(finder))
    before = finder.alive()
    # What an earlier version of the plugin added to the path still belongs to it.
    code.elsewhere = tuple(
        location
        for location in code.elsewhere
        if all(location in other.elsewhere for other in before if other.folder == code.folder)
    )
    vars(module)[_CODE_ATTRIBUTE] = code
    finder.references[:] = [
        weakref.ref(code),
        *(references for references in finder.references if references() is not None),
    ]
    importlib.invalidate_caches()
    _remove_stale_modules(code, next((other for other in before if other.path == code.path), None))


def loader_of(code: LocalCode) -> SourceFileLoader:
    """Return the loader of the plugin's own file."""
    return _VerifiedSourceLoader(
        code.module, str(code.path), code.digests[os.path.realpath(code.path)]
    )


def is_verified(loader: Any) -> TypeGuard[_VerifiedSourceLoader | _VerifiedExtensionLoader]:
    """Tell whether a module was loaded with its digest verified."""
    return isinstance(loader, _VerifiedSourceLoader | _VerifiedExtensionLoader)


def _remove_stale_modules(code: LocalCode, last: LocalCode | None) -> None:
    """Remove the modules from ``sys.modules`` that differ from what a plugin would import now; if
    one differs, all of them, because an unchanged one may still refer to it.
    """
    own = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in code.helpers or _is_local(module, code)
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


def _is_local(module: Any, code: LocalCode) -> bool:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return (
        is_verified(loader)
        and is_inside(os.path.realpath(loader.path), str(code.folder))
        and os.path.realpath(loader.path) != str(code.path)
    )


def _is_stale(module: Any, code: LocalCode) -> bool:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if is_verified(loader):
        return bool(code.digests.get(os.path.realpath(loader.path)) != loader.digest)
    return getattr(module, "__file__", None) is not None or not any(
        is_inside(os.path.realpath(location), str(code.folder))
        for location in getattr(module, "__path__", ())
    )


def local_folders() -> list[Path]:
    """List the folders of the current local plugins."""
    return [
        plugin.folder
        for finder in sys.meta_path
        if isinstance(finder, Finder)
        for plugin in finder.plugins
    ]
