"""Find what installed distributions offer, and their versions.

`importlib.metadata` takes longer to import and to read every distribution than a small graph takes
to run, so the folders on Python's path are listed here, each time anew. What only it can read (an
archive on the path, a finder of somebody else's) it is asked for, as for all else that is known of a
distribution.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from typing import Any

__all__ = ["Distribution", "EntryPoint", "offered", "version_of"]


class Distribution:
    """An installed distribution, by its metadata folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """Its name, as its author spells it."""
        return self._header("Name")

    @property
    def version(self) -> str:
        """Its version."""
        return self._header("Version")

    @property
    def files(self) -> list[str] | None:
        """The paths of its files, relative to the folder that its metadata is in; None if unknown."""
        try:
            with open(os.path.join(self._folder, "RECORD"), encoding="utf-8", newline="") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError):
            return self.__getattr__("files")
        if any(line.startswith('"') for line in lines):  # a comma in a name
            import csv

            return [row[0] for row in csv.reader(lines) if row]
        return [line.partition(",")[0] for line in lines if line]

    def _header(self, key: str) -> str:
        """Give a header of its metadata; empty if there is none."""
        inside = (os.path.join(self._folder, file) for file in ("METADATA", "PKG-INFO"))
        for path in (*inside, self._folder):  # which of old is a file
            try:
                with open(path, encoding="utf-8") as lines:
                    for line in lines:
                        name, _, value = line.partition(":")
                        if name.lower() == key.lower():
                            return value.strip()
                        if not line.strip():
                            break  # the description follows
            except (OSError, UnicodeDecodeError):
                continue
        return ""

    def __getattr__(self, name: str) -> Any:
        """Give everything else, such as `requires`."""
        if name.startswith("_"):
            raise AttributeError(name)
        from importlib.metadata import PathDistribution
        from pathlib import Path

        return getattr(PathDistribution(Path(self._folder)), name)


class EntryPoint:
    """A line of a distribution's ``entry_points.txt``."""

    def __init__(self, name: str, value: str, group: str, dist: Distribution) -> None:
        self.name, self.value, self.group, self.dist = name, value, group, dist

    def load(self) -> Any:
        """Import what it names."""
        from importlib import metadata

        return metadata.EntryPoint(self.name, self.value, self.group).load()


def offered(group: str) -> Iterable[Any]:
    """List the entry points of a group, as `importlib.metadata.entry_points` does."""
    if not _is_plain():
        from importlib.metadata import entry_points

        return entry_points(group=group)
    sign, found = f"[{group}]", []
    for _, folder in _metadata_folders():
        try:
            with open(f"{folder}/entry_points.txt", "rb", buffering=0) as file:
                content = file.read()
            if sign.encode() in content:  # which is rare, and not worth parsing for otherwise
                lines = list(_section(content.decode(), sign))
                found += [EntryPoint(*line, group, Distribution(folder)) for line in lines]
        except (OSError, UnicodeDecodeError):
            continue
    return found


def version_of(distribution: str) -> str | None:
    """Give the version of an installed distribution; None if it is not installed."""
    if _is_plain():
        wanted = _normalized(distribution)
        return next(
            (
                Distribution(folder).version
                for name, folder in _metadata_folders()
                if name == wanted
            ),
            None,
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_plain() -> bool:
    """Tell whether distributions can only be in folders on Python's path."""
    return not any(
        entry.endswith(".egg") or os.path.isfile(entry) for entry in sys.path
    ) and not any(
        hasattr(finder, "find_distributions") and finder is not PathFinder
        for finder in sys.meta_path
    )


def _metadata_folders() -> Iterator[tuple[str, str]]:
    """Yield the distributions on Python's path, each by its normalised name and the folder of its
    metadata; of two with one name the first, which is the one that is imported.
    """
    seen = set()
    for location in sys.path:
        try:
            with os.scandir(location or ".") as entries:
                found = [entry for entry in entries if entry.name.lower().endswith(_SUFFIXES)]
        except OSError:
            continue
        for entry in found:
            name = _normalized(os.path.splitext(entry.name)[0].partition("-")[0])
            if name not in seen:
                seen.add(name)
                yield name, entry.path


_SUFFIXES = (".dist-info", ".egg-info")


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _section(text: str, sign: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values in a section."""
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            inside = line == sign
        elif inside and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
