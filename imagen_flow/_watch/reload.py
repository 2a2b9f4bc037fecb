"""Take the code of plugins anew while the process goes on.

All modules of a changed plugin are imported again into a fresh `Registry`. If that fails, the
modules and the registry from before are what stays.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from .._models import Identity
from .._plugins import registry as plugins
from .._plugins.registry import Plugin, Registry
from .._settings import config
from ..errors import Problem

__all__ = ["Reload", "code_of", "reload"]


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of it: the registry to use from now on, the names of the modules that are new, and
    what is wrong if it is the one from before.
    """

    registry: Registry
    modules: tuple[str, ...]
    problems: tuple[Problem, ...]

    def loads(self, identity: Identity) -> bool:
        """Whether a loaded model comes from a loader that is another now."""
        return any(identity.loader.startswith(module + ".") for module in self.modules)


def reload(
    old: Registry, changed: Collection[str], files: Iterable[Path], fresh: plugins.AsWritten
) -> Reload:
    """Import the plugins of these names anew, and give a registry of all there are now.

    Params:
        files: local files of nodes, as for `discover`.
        fresh: a finder among Python's own, which is told of the modules that it is to take as they
            are written: now, and whatever is imported of them later.
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
    before = {name: module for name, module in list(sys.modules.items()) if _below(name, roots)}
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    fresh.names |= set(roots)
    try:
        registry = plugins.discover(files, memo=config.plugins_memo())
        for plugin in list(registry.plugins.values()):
            if plugin.name in changed:
                registry.load(plugin)
        faults = {
            p.name: p.fault
            for p in registry.plugins.values()
            if p.fault
            and (p.name in changed or not (known := old.plugins.get(p.name)) or not known.fault)
        }
    except OSError as odd:  # a file went while it was read
        faults = dict.fromkeys(sorted(changed), str(odd))
    else:
        if not faults:
            return Reload(registry, roots, ())
    for name in [name for name in sys.modules if _below(name, roots)]:
        del sys.modules[name]
    sys.modules.update(before)
    return Reload(
        old,
        (),
        tuple(
            Problem(
                "broken-plugin",
                f"the plugin {name} cannot be used as it is now",
                why=fault,
                fix="mend it; until then its code from before is used",
                severity="warning",
            )
            for name, fault in faults.items()
        ),
    )


def code_of(plugin: Plugin, registry: Registry) -> tuple[Path, ...]:
    """Name the files and folders that hold a plugin's code, where a user may be changing it: those
    of a local file and its helpers, and of a package that is installed as editable.
    """
    if plugin.is_file:
        path = Path(plugin.target).absolute()
        places = registry.code_of(plugin).places()
        missing = [
            path.resolve().parent / f"{name}.py"
            for name in re.findall(r"No module named '(\w+)'", plugin.fault)
        ]
        return (path, *places, *missing)
    distribution = plugin.name.partition(":")[0]
    try:
        said = importlib.metadata.distribution(distribution).read_text("direct_url.json")
        if not said or not json.loads(said).get("dir_info", {}).get("editable"):
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
    """Name the modules that are a plugin's own; what is below them is too."""
    if not plugin.is_file:
        yield _top(plugin.target)
        return
    if plugin.module is not None:
        yield plugin.module.__name__
    yield from registry.code_of(plugin).helpers


def _below(name: str, roots: Collection[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)
