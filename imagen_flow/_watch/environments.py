"""Keep the environments of watched graphs up to date: settings, plugins, stores and models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

from .._models import ModelPool
from .._plan.request import Options, open_store, plugin_files
from .._plugins import registry as plugins
from .._settings import config
from .._settings.config import Settings
from .._store import Store
from ..errors import Problem
from .events import Reloaded, Warned
from .reload import Reload, code_of, reload
from .targets import Environment, Target

__all__ = ["Environments"]


class Environments:
    """The environments of the watched graphs, by their settings file.

    Params:
        follow: called when the set of paths to watch may have changed, with additional paths.
        now: the time for events.
    """

    def __init__(
        self,
        options: Options,
        targets: Sequence[Target],
        pool: ModelPool | None,
        *,
        follow: Callable[[Iterable[Path]], None],
        now: Callable[[], float],
    ) -> None:
        self.options = options
        self.targets = targets
        self.pool = pool or ModelPool()
        #: An import finder for modules that must be loaded from their current source.
        self.fresh_modules = plugins.FreshModuleFinder({})
        self._owns_pool = pool is None
        self._follow = follow
        self._now = now
        self._by_settings: dict[Path | None, Environment] = {}
        self._settings_files: set[Path] = set()

    def __iter__(self) -> Iterator[Environment]:
        return iter(self._by_settings.values())

    def close(self) -> None:
        if self._owns_pool:
            self.pool.close()
        for environment in self:
            self._close_store(environment)

    def paths(self) -> set[Path]:
        """Return the settings files and the code to watch."""
        paths = {path for one in self for code in one.code.values() for path in code}
        paths |= {path.absolute() for path in self.options.plugins}
        paths |= {target.path.parent / config.NAME for target in self.targets}
        paths |= self._settings_files
        if any(environment.settings.plugins for environment in self):
            paths.add(config.trusted_path())
            paths |= {path for environment in self for path in environment.settings.plugins}
        return paths

    def update(self, target: Target) -> Iterator[Reloaded | Warned]:
        """Bring the environment of a graph up to date. If that fails, the previous one stays in
        use and the problems are reported.
        """
        file = config.find(target.path.parent)
        if file is not None:
            self._settings_files.add(file)
        environment = target.environment = self._by_settings.get(file)
        if environment is None:
            environment, problems = self._create(target, file)
        elif environment.changed_plugins or environment.settings_changed:
            problems = yield from self._refresh(environment, file)
        else:
            return
        if problems and problems != environment.problems:
            yield Warned(tuple(problems), self._now())
        environment.problems = problems

    def _create(self, target: Target, file: Path | None) -> tuple[Environment, list[Problem]]:
        self._follow(())
        settings = config.read(file) if file else Settings()
        files, problems = plugin_files(self.options, settings)
        self._follow(settings.plugins)
        registry = plugins.discover(files, cache=config.plugins_cache_file())
        environment = Environment(settings, registry, tuple(files))
        problems += [
            Problem(
                "broken-plugin",
                f"the plugin {plugin.name} cannot be used",
                why=plugin.fault,
                fix="fix the plugin",
                severity="warning",
            )
            for plugin in registry.plugins.values()
            if plugin.fault and plugin.is_file
        ]
        self._open_store(environment)
        self._by_settings[file] = target.environment = environment
        for key, unused in list(self._by_settings.items()):
            if all(t.environment not in (unused, None) for t in self.targets):
                self._close_store(unused)
                del self._by_settings[key]
        self._locate_code(environment)
        return environment, problems

    def _refresh(
        self, environment: Environment, file: Path | None
    ) -> Generator[Reloaded, None, list[Problem]]:
        """Reload changed settings and plugins; return the problems."""
        settings = environment.settings
        if environment.settings_changed and file:
            settings = config.read(file)
        found, refused = plugin_files(self.options, settings)
        files = tuple(found)
        if any(problem.code == "untrusted-plugin" for problem in refused) and any(
            path not in files for path in environment.files
        ):
            return refused  # a plugin that is no longer trusted stays in use in its previous form
        reopen = settings.store != environment.settings.store
        problems: list[Problem] = []
        if environment.changed_plugins or files != environment.files:
            changed = environment.changed_plugins
            reloaded = reload(environment.registry, changed, files, self.fresh_modules)
            problems += reloaded.problems
            if reloaded.registry is not environment.registry:
                names = changed | {str(path) for path in files}
                reopen = reopen or any(
                    registry.plugins[name].has_codecs
                    for registry in (environment.registry, reloaded.registry)
                    for name in names
                    if name in registry.plugins
                )
                environment.registry, environment.files = reloaded.registry, files
                dropped = self._drop_models(reloaded)
                if used := sorted(name for name in changed if self._is_used(environment, name)):
                    yield Reloaded(tuple(used), dropped, self._now())
        environment.changed_plugins, environment.settings_changed = set(), False
        environment.settings = settings
        if reopen:
            self._close_store(environment)
            self._open_store(environment)
        self._locate_code(environment)
        return [*refused, *problems]

    def _is_used(self, environment: Environment, plugin: str) -> bool:
        return any(
            target.plugins is None or plugin in target.plugins
            for target in self.targets
            if target.environment is environment
        )

    def _drop_models(self, reloaded: Reload) -> int:
        """Drop the loaded models whose loader was reloaded."""
        dropped = self.pool.evict_idle(reloaded.loads)
        if any(reloaded.loads(identity) for identity in self.pool.resident()):
            # An abandoned run still holds such a model, and later runs must not share it.
            pool, self.pool = self.pool, ModelPool(budget_bytes=self.pool.budget_bytes)
            pool.close()
        return dropped

    def _locate_code(self, environment: Environment) -> None:
        """Find the code of plugins, and watch it."""
        environment.code = {
            name: paths
            for name, plugin in environment.registry.plugins.items()
            if (paths := code_of(plugin, environment.registry))
        }
        self._follow(())

    def _open_store(self, environment: Environment) -> None:
        codecs = environment.registry.codecs
        environment.store = open_store(
            self.options, environment.settings, codecs
        ) or Store.temporary(codecs)

    def _close_store(self, environment: Environment) -> None:
        if environment.store is not None and environment.store is not self.options.store:
            environment.store.close()
        environment.store = None
