"""Reload the code of plugins while the process is running.

All modules of a changed plugin are imported again into a fresh `Registry`. If that fails, the
previous modules and the previous registry stay in use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from .._models import Identity
from .._plugins import registry as plugins
from .._plugins.registry import Plugin, Registry
from .._settings import config
from .._system.dataclass import dataclass
from ..errors import Problem

__all__ = ["Reload", "code_of", "reload"]


@dataclass(frozen=True, slots=True)
class Reload:
    """The result of a reload: the registry to use from now on, the names of the new modules, and
    the problems if it is the previous registry.
    """

    registry: Registry
    modules: tuple[str, ...]
    problems: tuple[Problem, ...]

    def loads(self, identity: Identity) -> bool:
        """Return whether a loaded model comes from a loader that was reloaded."""
        return any(identity.loader.startswith(module + ".") for module in self.modules)


def reload(
    old: Registry, changed: Collection[str], files: Iterable[Path], fresh: plugins.FreshModuleFinder
) -> Reload:
    """Import plugins again, and return a registry of all plugins that exist now.

    Params:
        changed: the names of the changed plugins.
        files: local plugin files, as for `discover`.
        fresh: an import finder that is told which modules to load from their current source, now
            and whenever they are imported later.
    """
    roots = tuple(
        sorted(
            {
                root
                for name in changed
                if (plugin := old.plugins.get(name))
                for root in _roots(plugin, old)
            }
        )
    )
    previous_modules = {
        name: module for name, module in list(sys.modules.items()) if _below(name, roots)
    }
    for name in previous_modules:
        del sys.modules[name]
    importlib.invalidate_caches()
    fresh.names |= set(roots)
    try:
        registry = plugins.discover(files, cache=config.plugins_cache_file())
        for plugin in list(registry.plugins.values()):
            if plugin.name in changed:
                registry.load(plugin)
        errors = {
            p.name: p.fault
            for p in registry.plugins.values()
            if p.fault
            and (
                p.name in changed or not (previous := old.plugins.get(p.name)) or not previous.fault
            )
        }
    except OSError as error:  # a file disappeared while it was being read
        errors = dict.fromkeys(sorted(changed), str(error))
    else:
        if not errors:
            return Reload(registry, roots, ())
    for name in [name for name in sys.modules if _below(name, roots)]:
        del sys.modules[name]
    sys.modules.update(previous_modules)
    return Reload(
        old,
        (),
        tuple(
            Problem(
                "broken-plugin",
                f"the plugin {name} cannot be used as it is now",
                why=fault,
                fix="fix the plugin; until then its previous code is used",
                severity="warning",
            )
            for name, fault in errors.items()
        ),
    )


def code_of(plugin: Plugin, registry: Registry) -> tuple[Path, ...]:
    """List the files and folders with a plugin's code, if a user may be changing it: a local file
    and its helper modules, or a package installed in editable mode.
    """
    if plugin.is_file:
        path = Path(plugin.target).absolute()
        paths = registry.code_of(plugin).source_paths()
        missing = [
            path.resolve().parent / f"{name}.py"
            for name in re.findall(r"No module named '(\w+)'", plugin.fault)
        ]
        return (path, *paths, *missing)
    distribution = plugin.name.partition(":")[0]
    try:
        direct_url = importlib.metadata.distribution(distribution).read_text("direct_url.json")
        if not direct_url or not json.loads(direct_url).get("dir_info", {}).get("editable"):
            return ()
        spec = importlib.util.find_spec(_top(plugin.target))
    except (importlib.metadata.PackageNotFoundError, ImportError, ValueError, AttributeError):
        return ()
    if spec is None or spec.origin is None:
        return ()
    origin = Path(spec.origin)
    return (origin.parent if origin.name == "__init__.py" else origin,)


def _top(target: str) -> str:
    return target.partition(":")[0].partition(".")[0]


def _roots(plugin: Plugin, registry: Registry) -> Iterable[str]:
    """List the top modules that belong to a plugin; their submodules do too."""
    if not plugin.is_file:
        yield _top(plugin.target)
        return
    if plugin.module is not None:
        yield plugin.module.__name__
    yield from registry.code_of(plugin).helpers


def _below(name: str, roots: Collection[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)
