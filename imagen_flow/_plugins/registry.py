"""Discover plugins and build a Registry: node types by name, codecs, and models that come with
plugins.

Entry points of the group ``imagen_flow`` are read from distribution metadata. The names that each
plugin offers are cached by distribution, version and file times, so that a graph with two node
types imports two plugins, and help imports none. A plugin that cannot be loaded is reported and the
others still load.

Entry points are loaded here rather than by pluggy's ``load_setuptools_entrypoints``: there one
broken import aborts all of them, and of two plugins with the same name the second disappears
silently.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pluggy

from .._store.file_digests import FileDigests
from .._system.regular_files import read_regular
from .._types.codec import Codec, Codecs
from .._types.digest import tagged
from .._types.models import BaseCheckpoint, Leased
from .._types.node import NodeFunction, NodeType
from ..errors import GraphError, ModelError, Problem, nearest
from . import hookspecs
from .code import LocalCode, installed_digest, stamp
from .distributions import offered, version_of
from .imports import FreshSourceLoader, install, is_verified, loader_of, local_folders
from .offered_loaders import OfferedLoader, with_open_loaders

__all__ = ["Plugin", "Registry", "discover"]

GROUP = "imagen_flow"


@dataclass
class Plugin:
    """A plugin as discovered: its origin, the names that it offers, and its fault, if it has one."""

    name: str  # distribution:entry-point, or the path of a local file
    version: str
    target: str  # what is imported
    node_names: tuple[str, ...] = ()
    model_names: tuple[str, ...] = ()
    #: Role and class of the checkpoints that it offers loaders for.
    loader_names: tuple[tuple[str, str], ...] = ()
    has_codecs: bool = False
    fault: str = ""
    module: ModuleType | None = None
    is_file: bool = False
    #: Its distribution, as `distributions` or `importlib.metadata` gives it.
    distribution: Any = None


@dataclass
class Registry:
    """What the discovered plugins offer. A value: several registries are independent of each other.

    A plugin is imported when one of its names is needed.
    """

    plugins: dict[str, Plugin]
    #: Caches the digests of large files that come with plugins.
    files: FileDigests = field(default_factory=FileDigests)
    _types: dict[str, NodeType] = field(default_factory=dict)
    _models: dict[str, Path | ModelError] = field(default_factory=dict)
    _codecs: list[Codec] = field(default_factory=list)
    _loaders: dict[tuple[str, str], OfferedLoader] = field(default_factory=dict)
    _manager: pluggy.PluginManager = field(default_factory=lambda: _new_manager())
    _versions: dict[str, str] = field(default_factory=dict)
    _helpers: dict[str, tuple[str, Path]] = field(default_factory=dict)

    def find(self, name: str) -> NodeType | None:
        """Return the node type of this name, importing its plugin, or None.

        Raises:
            GraphError: two plugins offer it.
        """
        owners = [p for p in self.plugins.values() if name in p.node_names]
        if len(owners) > 1:
            names = " and ".join(p.name for p in owners)
            raise GraphError(
                [
                    Problem(
                        "unknown-node-type",
                        f"two plugins provide '{name}': {names}",
                        fix="uninstall one of them, or rename its node type",
                    )
                ]
            )
        if name not in self._types and owners:
            self.load(owners[0])
        return self._types.get(name)

    def offered_by(self, name: str) -> Plugin | None:
        """Return the plugin that offers a node type, even if it cannot be loaded."""
        return next((p for p in self.plugins.values() if name in p.node_names), None)

    def names(self) -> list[str]:
        """List all known node types, without importing anything."""
        return sorted({name for p in self.plugins.values() for name in p.node_names})

    def iter_names(self) -> Iterator[str]:
        """Yield all known node types in no particular order, without importing anything."""
        return (name for plugin in self.plugins.values() for name in plugin.node_names)

    def load_all(self) -> Registry:
        """Import every plugin, so that each can be shown or reported."""
        for plugin in self.plugins.values():
            self.load(plugin)
        return self

    @property
    def node_types(self) -> dict[str, NodeType]:
        """All node types that have been loaded, by name."""
        return dict(sorted(self._types.items()))

    @property
    def faults(self) -> list[str]:
        """The faults of plugins, one line each."""
        return [f"{p.name}: {p.fault}" for p in self.plugins.values() if p.fault]

    @property
    def models(self) -> Mapping[str, Path | ModelError]:
        """Models that come with plugins: reference to folder, or why it is not there."""
        for plugin in self.plugins.values():
            if plugin.model_names:
                self.load(plugin)
        return self._models

    def tiny(self, reference: str, at: Path | None, folder: Path) -> Path | None:
        """Ask the plugins for a tiny model to use instead of another one; None if no plugin knows
        its kind.
        """
        return cast(
            "Path | None",
            self._first_answer("imagen_flow_tiny", reference=reference, at=at, folder=folder),
        )

    def base_of(self, header: Mapping[str, Any]) -> BaseCheckpoint | None:
        """Ask the plugins which repository completes a single-file checkpoint; None if no plugin
        recognises it.
        """
        return cast(
            "BaseCheckpoint | None", self._first_answer("imagen_flow_base_of", header=header)
        )

    def _first_answer(self, hook: str, **given: Any) -> Any:
        """Ask the plugins in the order of their names, whichever was imported first, and return the
        first answer that is not None.
        """
        self.load_all()
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        for one in sorted(implementations, key=lambda one: one.plugin_name):
            answer = one.function(*(given[name] for name in one.argnames))
            if answer is not None:
                return answer
        return None

    def examples_of(self, plugin: Plugin) -> Mapping[str, Mapping[str, Any]]:
        """Ask a plugin for arguments with which its node types can be tried."""
        self.load(plugin)
        found: dict[str, Mapping[str, Any]] = {}
        for implementation in self._manager.hook.imagen_flow_examples.get_hookimpls():
            if implementation.plugin_name == plugin.name:
                found.update(cast(Any, implementation.function()))
        return found

    def loader_for(self, role: str, kind: str) -> OfferedLoader | None:
        """Return the loader that a plugin offers for a class of checkpoints in a role; None if
        there is none.

        Raises:
            ModelError: two plugins offer one, or the plugin cannot be loaded.
        """
        owners = [p for p in self.plugins.values() if (role, kind) in p.loader_names]
        if not owners:
            return None
        if len(owners) > 1:
            raise ModelError(
                f"two plugins provide a loader for {kind} as {role}:"
                f" {' and '.join(p.name for p in owners)}; uninstall one of them"
            )
        self.load(owners[0])
        found = self._loaders.get((role, kind))
        if found is None:
            raise ModelError(
                f"the plugin {owners[0].name} provides a loader for {kind} as {role} but cannot be"
                f" used: {owners[0].fault}"
            )
        return found

    @property
    def codecs(self) -> Codecs:
        """The built-in codecs and those of plugins."""
        for plugin in self.plugins.values():
            if plugin.has_codecs:
                self.load(plugin)
        return Codecs(self._codecs)

    def version_of(self, distribution: str) -> str:
        """Return the installed version of a library, or ``missing``."""
        if distribution not in self._versions:
            self._versions[distribution] = version_of(distribution) or "missing"
        return self._versions[distribution]

    def is_unknown(self, node_type: NodeType, distribution: str) -> bool:
        """Tell whether a library that a node type uses is neither installed nor required by its
        plugin's distribution, not even by an extra.
        """
        if self.version_of(distribution) != "missing":
            return False
        plugin = self.plugins.get(node_type.plugin)
        asked = getattr(plugin.distribution, "requires", None) if plugin is not None else None
        return _normalized(distribution) not in {
            _normalized(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]) for line in asked or ()
        }

    @staticmethod
    def nearest_library(name: str) -> str:
        """Suggest the library for a name that no library has: the one that provides a module of
        that name, or the nearest name.
        """
        from importlib import metadata

        brought = metadata.packages_distributions().get(name)
        if brought:
            return f"'{name}' is a module; its library is '{brought[0]}'"
        near = nearest(name, (d.name for d in metadata.distributions() if d.name))
        return near if near.startswith("did") else "install it, or correct 'uses' of the node"

    def add(
        self, function: NodeFunction, *, plugin: str = "local", source_digest: str = ""
    ) -> None:
        """Add a node type directly, as tests and notebooks do."""
        node_type = replace(
            function.type,
            inputs=with_open_loaders(function.type.inputs, self.loader_for),
            plugin=plugin,
            source_digest=source_digest or _function_digest(function.type.function),
        )
        self._types[node_type.name] = node_type
        owner = self.plugins.setdefault(
            plugin, Plugin(plugin, "", "", module=sys.modules[__name__])
        )
        owner.node_names = tuple(sorted({*owner.node_names, node_type.name}))

    def load(self, plugin: Plugin) -> None:
        """Import a plugin and register what it offers; faults are kept in `plugin.fault`."""
        if plugin.module is not None or plugin.fault:
            return
        code: LocalCode | None = None
        try:
            if plugin.is_file:
                if not Path(plugin.target).is_file():
                    raise FileNotFoundError(f"there is no file {plugin.target}")
                code = self.code_of(plugin)
                self._check_helpers(plugin, code.helpers)
                try:
                    code.digest_files(self.files)
                finally:
                    self.files.suspend()
                plugin.module = _import_file(code)
            else:
                plugin.module = importlib.import_module(plugin.target)
        except Exception as error:
            # a plugin may raise anything; it must not affect the others
            where = _own_line(plugin, error)
            plugin.fault = (
                f"cannot be imported: {type(error).__name__}: {error}{where and f' ({where})'}"
            )
            return
        except SystemExit as error:
            plugin.fault = f"cannot be imported: it called exit({error.code})"
            return
        try:
            self._manager.register(plugin.module, name=plugin.name)
            self._manager.check_pending()
        except ValueError:
            plugin.fault = f"is the module {plugin.target}, which is already another plugin"
            plugin.node_names = ()
            return
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=plugin.name)
            plugin.fault = (
                f"implements an unknown hook: {error}"
                if "unknown hook" in str(error)
                else f"is not a valid plugin: {error}"
            )
            plugin.node_names = ()
            return
        self._register_offers(plugin, code)

    def code_of(self, plugin: Plugin) -> LocalCode:
        """Determine the source files of a local plugin from its present text."""
        installed = {p.target.partition(".")[0] for p in self.plugins.values() if not p.is_file}
        return LocalCode(Path(plugin.target), {"imagen_flow", *installed}, local_folders())

    def _check_helpers(self, plugin: Plugin, helpers: Mapping[str, Path]) -> None:
        """Refuse two helper modules of the same name: a process can only have one of them, so the
        second plugin would get the first one's.
        """
        for name, path in helpers.items():
            owner, other = self._helpers.setdefault(name, (plugin.name, path))
            if other != path:
                raise ImportError(
                    f"its helper {path.name} has the same name as one of another plugin ({owner});"
                    " rename"
                    " one of them"
                )

    def _register_offers(self, plugin: Plugin, code: LocalCode | None) -> None:
        implements = False
        names: list[str] = []
        models: dict[str, Path | ModelError] = {}
        digested: list[str] = []

        def source() -> str:
            if not digested:  # a model that comes with a plugin has its own key
                try:
                    digested.append(
                        code.digest
                        if code is not None
                        else installed_digest(
                            plugin.target,
                            plugin.distribution,
                            self.files,
                            without=[m for m in models.values() if isinstance(m, Path)],
                        )
                    )
                finally:
                    self.files.suspend()
            return digested[0]

        for hook, register in (
            (
                "imagen_flow_models",
                lambda given: models.update(
                    {k: v if isinstance(v, ModelError) else Path(v) for k, v in given.items()}
                ),
            ),
            (
                "imagen_flow_nodes",
                lambda given: names.extend(self._register_nodes(plugin, given, source())),
            ),
            ("imagen_flow_codecs", lambda given: self._codecs.extend(given)),
            ("imagen_flow_loaders", lambda given: self._register_loaders(plugin, given, source())),
        ):
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin_name != plugin.name:
                    continue
                implements = True
                try:
                    given = implementation.function()
                    register(given)  # type: ignore[no-untyped-call]  # a lambda
                    if hook == "imagen_flow_models":
                        plugin.model_names = tuple(sorted(given))
                    plugin.has_codecs |= hook == "imagen_flow_codecs"
                except (Exception, SystemExit) as error:
                    plugin.fault = f"its hook {hook} failed: {type(error).__name__}: {error}"
        self._models.update(models)
        if plugin.is_file and not implements:
            # A local file of nodes needs no hook: it offers its decorated functions.
            implements = True
            found = [v for v in vars(plugin.module).values() if isinstance(v, NodeFunction)]
            names.extend(self._register_nodes(plugin, found, source()))
            if not found:
                plugin.fault = "has no function decorated with @node"
        if not implements:
            plugin.fault = (
                "implements no hook of imagen_flow; mark the function that returns its nodes with"
                " @imagen_flow.hookimpl"
            )
        plugin.node_names = tuple(sorted(names))

    def _register_loaders(
        self, plugin: Plugin, offered: Mapping[str, Mapping[str, Any]], source: str
    ) -> None:
        if not isinstance(offered, Mapping) or not all(
            isinstance(kinds, Mapping) and all(isinstance(name, str) for name in (role, *kinds))
            for role, kinds in offered.items()
        ):
            raise TypeError('it must return loaders by role and class: {"editor": {"Toy": Loader}}')
        found = {
            (role, kind): OfferedLoader(Leased(loader).loader(), source)
            for role, kinds in offered.items()
            for kind, loader in kinds.items()
        }
        plugin.loader_names = tuple(sorted(found))
        for name, loader in found.items():
            self._loaders.setdefault(name, loader)

    def _register_nodes(self, plugin: Plugin, functions: Iterable[Any], source: str) -> list[str]:
        names = []
        for function in functions:
            if not isinstance(function, NodeFunction):
                raise TypeError(f"{function!r} is not decorated with @node")
            names.append(function.type.name)
            other = self._types.get(function.type.name)
            if other is not None and other.plugin != plugin.name:
                plugin.fault = (
                    f"provides '{function.type.name}', which {other.plugin} also provides; rename"
                    " one of them"
                )
                continue
            if other is not None and other.function is not function.type.function:
                plugin.fault = (
                    f"provides '{other.name}' twice, by {other.function.__qualname__} and"
                    f" {function.type.function.__qualname__}; rename one of them"
                )
            self._types[function.type.name] = replace(
                function.type,
                inputs=with_open_loaders(function.type.inputs, self.loader_for),
                plugin=plugin.name,
                source_digest=source,
            )
        return names


def _own_line(plugin: Plugin, error: BaseException) -> str:
    """Name the line of a plugin's own code at which importing it raised; empty if that is not known,
    or the message says it.
    """
    if isinstance(error, SyntaxError):
        return ""
    import traceback

    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        is_own = (
            os.path.dirname(file) == os.path.dirname(os.path.abspath(plugin.target))
            if plugin.is_file
            else module.partition(".")[0] == plugin.target.partition(".")[0]
        )
        if is_own:
            found = f"{os.path.basename(file)}:{line}"
    return found


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def discover(
    files: Iterable[Path] = (),
    *,
    cache: Path | None = None,
    entry_points: Callable[[], Iterable[Any]] | None = None,
) -> Registry:
    """Discover installed plugins and the given local files, and return their Registry.

    Params:
        files: Python files of nodes, imported at once.
        cache: a JSON file that caches what each plugin offers; without it every plugin is imported.
        entry_points: the source of entry points (for tests); default: the installed distributions.
    """
    found = entry_points() if entry_points else offered(GROUP)
    cached = _read_cache(cache)
    plugins: dict[str, Plugin] = {}
    stamps: dict[str, str] = {}
    entries = list(found)
    # Reading its name or version, a distribution reads its metadata: do it once.
    owners = {
        id(entry.dist): (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
        for entry in {id(e.dist): e for e in entries}.values()
    }
    for entry in sorted(entries, key=lambda e: (owners[id(e.dist)], e.name)):
        distribution, version = owners[id(entry.dist)]
        name = f"{distribution}:{entry.name}"
        if name in plugins:
            continue  # the same distribution seen twice on the path
        plugin = Plugin(name, version, entry.value, distribution=entry.dist)
        plugins[name] = plugin
        stamps[name] = f"{version} {entry.value} {stamp(entry.value)}"
        known = cached.get(name)
        if known is not None and known["stamp"] == stamps[name]:
            plugin.node_names = tuple(known["nodes"])
            plugin.model_names = tuple(known["models"])
            plugin.loader_names = tuple((role, kind) for role, kind in known["loaders"])
            plugin.has_codecs = known["codecs"]
    registry = Registry(plugins, FileDigests(cache.parent) if cache is not None else FileDigests())
    fresh = [p for n, p in plugins.items() if cached.get(n, {}).get("stamp") != stamps[n]]
    for plugin in fresh:
        registry.load(plugin)
    if fresh and cache is not None:
        for plugin in fresh:
            if not plugin.fault:
                offers = {
                    "nodes": plugin.node_names,
                    "models": plugin.model_names,
                    "loaders": plugin.loader_names,
                    "codecs": plugin.has_codecs,
                }
                cached[plugin.name] = {"stamp": stamps[plugin.name], **offers}
            elif plugin.name in cached:
                # A plugin that broke still shows which node types it used to offer.
                plugin.node_names = plugin.node_names or tuple(cached[plugin.name]["nodes"])
        _write_cache(cache, {k: v for k, v in cached.items() if k in plugins})
    for path in {Path(os.path.realpath(path)): path for path in files}.values():
        local = Plugin(str(path), "", str(path), is_file=True)
        plugins[local.name] = local
        registry.load(local)
        for name in local.node_names:
            others = [p.name for p in plugins.values() if name in p.node_names and p is not local]
            if others and not local.fault:
                local.fault = (
                    f"offers '{name}', which {others[0]} also provides; rename one of them"
                )
    return registry


def _read_cache(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        cached = json.loads(read_regular(cache, max_bytes=64 << 20))
    except (OSError, ValueError):
        return {}
    return (
        {k: v for k, v in cached.items() if _is_valid_entry(v)} if isinstance(cached, dict) else {}
    )


def _is_valid_entry(known: Any) -> bool:
    return (
        isinstance(known, dict)
        and isinstance(known.get("stamp"), str)
        and all(
            isinstance(known.get(key), list) and all(isinstance(name, str) for name in known[key])
            for key in ("nodes", "models")
        )
        and isinstance(known.get("loaders"), list)
        and all(
            isinstance(name, list)
            and len(name) == 2
            and all(isinstance(word, str) for word in name)
            for name in known["loaders"]
        )
        and isinstance(known.get("codecs"), bool)
    )


def _write_cache(cache: Path, cached: Mapping[str, Any]) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(cached, indent=1, sort_keys=True), "utf-8")
        os.replace(temporary, cache)
    except OSError:
        return  # a cache that cannot be written only costs time


class FreshModuleFinder:
    """Finds modules as their files are now: those of `files`, by name, regardless of other modules
    with these names, and the packages `names` with all their submodules.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self.names: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if file := self.files.get(name):
            return importlib.util.spec_from_file_location(
                name, file, loader=FreshSourceLoader(name, str(file))
            )
        if top not in self.files and top not in self.names:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, FreshModuleFinder))
        spec = next(
            (found for finder in others if (found := finder.find_spec(name, path, target))), None
        )
        if (
            spec is not None
            and spec.origin
            and isinstance(spec.loader, SourceFileLoader)
            and not is_verified(spec.loader)
        ):
            spec.loader = FreshSourceLoader(name, spec.origin)
        return spec


def _import_file(code: LocalCode) -> ModuleType:
    """Import a local file of nodes, and its helpers again if they have changed. From now on they
    are only imported as they were digested.
    """
    spec = importlib.util.spec_from_file_location(code.module, code.path, loader=loader_of(code))
    if spec is None or spec.loader is None:
        raise ImportError(f"{code.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[code.module] = module
    try:
        install(code, module)
        spec.loader.exec_module(module)
        code.add_imported()
    except BaseException:
        del sys.modules[code.module]
        raise
    return module


def _function_digest(function: Callable[..., Any]) -> str:
    """Digest a function that is in no plugin file, by its source text or else its code."""
    import inspect

    try:
        return tagged("source", inspect.getsource(function).encode())
    except (OSError, TypeError):
        code = function.__code__
        return tagged("source", code.co_code, repr(code.co_consts).encode())
