"""What is watched: graphs, and the environments that they share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._outputs.writer import OutFolder
from .._plugins.code import is_source
from .._plugins.registry import Registry
from .._provenance.embedding import SIDECAR
from .._settings import config
from .._settings.config import Settings
from .._store import Store
from ..errors import Problem

__all__ = ["SETTINGS", "Environment", "Target", "relative", "store_problems"]

#: Stands for the settings in a set of plugin names.
SETTINGS = ""


@dataclass(eq=False)
class Environment:
    """What graphs with the same settings file share: the settings, the plugins, the store."""

    settings: Settings
    registry: Registry
    #: The local plugin files in use.
    files: tuple[Path, ...]
    store: Store | None = None
    #: The files and folders with the code of each plugin, as far as it may change.
    code: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    #: Plugins whose code has changed since it was imported.
    changed_plugins: set[str] = field(default_factory=set)
    #: Whether the settings, or the list of what is trusted, may have changed.
    settings_changed: bool = False
    #: The problems that were reported last.
    problems: list[Problem] = field(default_factory=list)

    def note_change(self, path: Path) -> set[str]:
        """Return the plugins that a path belongs to, and `SETTINGS` if it is a settings file.
        Remember which plugins and whether the settings have changed.
        """
        changed = {name for name, paths in self.code.items() if _lies_in(path, paths)}
        self.changed_plugins |= {
            name for name in changed if path in self.code[name] or is_source(path.name)
        }
        if path.name == config.NAME or path == config.trusted_path():
            self.settings_changed = True
            changed.add(SETTINGS)
        return changed

    def holds_code(self, path: Path) -> bool:
        """Return whether a path is, or lies in, the code of a plugin."""
        return any(_lies_in(path, paths) for paths in self.code.values())


@dataclass(eq=False)
class Target:
    """A graph that is watched."""

    path: Path
    name: str
    #: The graph file and those that it includes.
    graph_files: set[Path] = field(default_factory=set)
    environment: Environment | None = None
    #: The files, folders and local models that the graph reads.
    inputs: set[Path] = field(default_factory=set)
    #: The plugins that the graph uses; None if that is unknown, and any may matter.
    plugins: frozenset[str] | None = None
    #: The output folder, if anything is written.
    out: OutFolder | None = None
    #: Files that its runs wrote, each with its state at that time.
    written: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: Seeds that were drawn, and are kept.
    seeds: dict[str, int] = field(default_factory=dict)
    #: Whether the nodes of ``force`` have been run once.
    forced: bool = False
    #: What has been warned about.
    warned: set[str] = field(default_factory=set)

    def depends_on(self, path: Path, changed: set[str]) -> bool:
        """Return whether a changed path matters to this graph.

        Params:
            changed: what `Environment.note_change` returned for the path.
        """
        if self.environment is None or path in self.graph_files:
            return True
        if (
            bool(changed)
            if self.plugins is None
            else not changed.isdisjoint(self.plugins | {SETTINGS})
        ):
            return True
        return _lies_in(path, self.inputs) and not self.is_own_output(path)

    def reads(self, path: Path) -> bool:
        """Return whether a path is one of the files that the graph names."""
        return path in self.graph_files or path in self.inputs

    def may_be_output(self, path: Path) -> bool:
        """Return whether a path lies in the output folder."""
        return self.out is not None and _lies_in(path, [self.out.path])

    def is_own_output(self, path: Path) -> bool:
        """Return whether a path is an output of this graph, unchanged since it was written, or a
        folder on the way to outputs (other files in such a folder are reported themselves).
        """
        if (
            self.out is not None
            and path not in self.inputs
            and (path in self.out.path.parents or _lies_in(path, [self.out.path]))
            and path.is_dir()
        ):
            return True
        state = self.written.get(os.path.realpath(path))
        return state is not None and state == _file_state(path)

    def add_written(self, output: Path) -> None:
        """Remember the files of an output as this graph wrote them."""
        self.written |= {
            os.path.realpath(path): _file_state(path) for path in _files_of_output(output)
        }

    def input_around(self, path: Path) -> Path | None:
        """Return a folder that the graph reads and that contains a path."""
        real = os.path.realpath(path)
        return next(
            (
                folder
                for folder in self.inputs
                if folder.is_dir() and real.startswith(os.path.realpath(folder) + os.sep)
            ),
            None,
        )

    def output_problems(self, output: str, path: Path, base: Path) -> list[Problem]:
        """Warn, once, of an output that is written into a folder that the graph reads."""
        folder = self.input_around(path)
        if folder is None or f"output {output}" in self.warned:
            return []
        self.warned.add(f"output {output}")
        return [
            Problem(
                "bad-path",
                f"output '{output}' is written into {relative(folder, base)}, which the graph"
                " reads",
                why="it starts no run by itself, but the next run reads it as an input",
                fix="write it elsewhere, with --out or another path",
                severity="warning",
            )
        ]


def store_problems(target: Target, base: Path) -> list[Problem]:
    """Warn of a store that lies in a folder that the graph reads."""
    environment = target.environment
    if environment is None or environment.store is None:
        return []
    folder = target.input_around(environment.store.folder)
    if folder is None:
        return []
    return [
        Problem(
            "bad-path",
            f"the store is in {relative(folder, base)}, which the graph reads",
            why="each run would read what the previous one stored",
            fix="choose another folder with --store",
            severity="warning",
        )
    ]


def relative(path: Path, base: Path) -> str:
    """Return a path relative to a folder if it lies below it."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _lies_in(path: Path, folders: Iterable[Path]) -> bool:
    folders = set(folders)
    return path in folders or not folders.isdisjoint(path.parents)


def _files_of_output(output: Path) -> Iterator[Path]:
    """List the files of an output: a file and its provenance, or a folder with its content."""
    yield output
    yield output.with_name(output.name + SIDECAR)
    if output.is_dir():
        yield from output.rglob("*")


def _file_state(path: Path) -> tuple[int, ...]:
    """Return what changes when a file changes."""
    with suppress(OSError):
        stat = os.stat(path)
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return ()
