"""Match the files of a line with their companions: tickets and sentinels beside them."""

from __future__ import annotations

import os
import stat
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

from .._watch import is_temporary
from .config import Line
from .disk import find_disk_error

__all__ = ["Companions", "ListingCache", "fold_name"]

_TICKETS = (".yaml", ".yml", ".json")

#: A folder's listing is cached only if its last change is at least this old; and how many listings
#: are cached.
_MIN_AGE_S = 2.0
_MAX_LISTINGS = 256


class _Listing:
    """The names in a folder at one moment. Keys are case-folded: tickets by the name of the file
    that they name, files by their own name (`files`) and their stem (`stems`).
    """

    __slots__ = ("files", "sentinels", "stems", "tickets")

    def __init__(self) -> None:
        self.sentinels: dict[str, list[str]] = {}
        self.tickets: dict[str, list[str]] = {}
        self.files: dict[str, list[str]] = {}
        self.stems: dict[str, list[str]] = {}

    def add_ticket(self, name: str) -> None:
        self.tickets.setdefault(fold_name(os.path.splitext(name)[0]), []).append(name)

    def add_file(self, name: str) -> None:
        names = self.files.setdefault(fold_name(name), [])
        if name not in names:
            names.append(name)
            self.stems.setdefault(fold_name(os.path.splitext(name)[0]), []).append(name)

    def tickets_for(self, name: str) -> list[str]:
        """Return the names of a file's tickets; several if it is not clear which one is meant."""
        self.add_file(name)
        return self._tickets_named(name, name) or self._tickets_named(
            os.path.splitext(name)[0], name
        )

    def _tickets_named(self, stem: str, name: str) -> list[str]:
        """Return the tickets with this stem that are meant for a file."""
        return sorted(
            ticket
            for ticket in self.tickets.get(fold_name(stem), ())
            if name in self.files_for_ticket(ticket)
        )

    def files_for_sentinel(self, stem: str) -> list[str]:
        """Return the names of the files that a sentinel with this stem belongs to."""
        candidates = self.files.get(fold_name(stem), [])
        return [stem] if stem in candidates else sorted(candidates)

    def files_for_ticket(self, ticket: str) -> list[str]:
        """Return the names of the files that a ticket is meant for; several if it is not clear
        which.
        """
        stem = os.path.splitext(ticket)[0]
        for index, is_full_name in ((self.files, True), (self.stems, False)):
            # A file with a ticket for its full name needs no other.
            candidates = [
                name
                for name in index.get(fold_name(stem), ())
                if is_full_name or not self._tickets_named(name, name)
            ]
            if (
                found := [
                    name
                    for name in candidates
                    if (name if is_full_name else os.path.splitext(name)[0]) == stem
                ]
                or candidates
            ):
                return sorted(found)
        return []


class ListingCache:
    """Caches listings during a series of lookups, so that each folder is read at most once."""

    def __init__(self) -> None:
        self.by_folder: dict[str, _Listing] = {}


class Companions:
    """Finds tickets and sentinels. Stateless, except that listings of unchanged folders are cached.

    Params:
        accepts: whether files of a name belong to the line.
        is_ignored: whether the line ignores a path.
    """

    def __init__(
        self, line: Line, accepts: Callable[[str], bool], is_ignored: Callable[[str], bool]
    ) -> None:
        self.line = line
        self.root = os.fspath(line.inbox)
        self._accepts = accepts
        self._is_ignored = is_ignored
        self._listed: dict[str, tuple[tuple[int, int, int], _Listing]] = {}

    def is_ticket(self, name: str) -> bool:
        return self.line.ticket != "none" and name.lower().endswith(_TICKETS)

    def is_sentinel(self, name: str) -> bool:
        return bool(self.line.sentinel) and name.lower().endswith(self.line.sentinel.lower())

    def find_tickets(self, path: str, listings: ListingCache | None = None) -> list[str]:
        """Return the names of a file's tickets; several if it is not clear which one is meant."""
        if self.line.ticket == "none":
            return []
        head, _, name = path.rpartition("/")
        return self.listing(head, listings).tickets_for(name)

    def other_candidates(self, path: str, ticket: str) -> list[str]:
        """Return the paths of other files that the ticket of a file may be meant for."""
        head, slash, name = path.rpartition("/")
        listing = self.listing(head, None)
        listing.add_file(name)
        return [
            f"{head}{slash}{other}" for other in listing.files_for_ticket(ticket) if other != name
        ]

    def tickets_beside(self, path: Path) -> list[str]:
        """Return the names of the tickets beside a file anywhere, such as one in `failed`."""
        return (
            self._read_folder(os.fspath(path.parent), "").tickets_for(path.name)
            if self.line.ticket != "none"
            else []
        )

    def find_sentinel(self, path: str, listings: ListingCache | None = None) -> Path | None:
        """Return the sentinel that says that a file is complete, in any case and Unicode form."""
        if not self.line.sentinel:
            return None
        sentinel = self._absolute(path + self.line.sentinel)
        if self.stat_regular(sentinel):
            return sentinel
        head, _, name = path.rpartition("/")
        listing = self.listing(head, listings)
        listing.add_file(name)
        for other in listing.sentinels.get(fold_name(name), ()):
            if name in listing.files_for_sentinel(
                other[: -len(self.line.sentinel)]
            ) and self.stat_regular(sentinel.with_name(other)):
                return sentinel.with_name(other)
        return None

    def stat_regular(self, path: Path, *, strict: bool = False) -> os.stat_result | None:
        """Return the stat of a regular file, or None. If the disk does not respond, return None
        too, or raise OSError if `strict`.
        """
        try:
            result = os.lstat(path)
            if stat.S_ISLNK(result.st_mode) and self.line.links == "followed":
                result = os.stat(path)
        except (OSError, ValueError) as error:
            if strict and find_disk_error(error, network=True):
                raise
            return None
        return result if stat.S_ISREG(result.st_mode) else None

    def is_regular_entry(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_file(follow_symlinks=self.line.links == "followed")
        except OSError:  # a link to itself
            return False

    def listing(self, folder: str, listings: ListingCache | None) -> _Listing:
        if listings is not None and folder in listings.by_folder:
            return listings.by_folder[folder]
        path = os.path.join(self.root, folder) if folder else self.root
        now = time.time()
        try:
            stat = os.stat(path)
            fingerprint = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
            cached = self._listed.get(folder)
            if cached is not None and cached[0] == fingerprint:
                listing = cached[1]
            else:
                listing = self._read_folder(path, folder)
                # In a folder that has just changed, a name could appear without changing its time.
                if now - stat.st_mtime > _MIN_AGE_S:
                    if len(self._listed) > _MAX_LISTINGS:
                        self._listed.clear()
                    self._listed[folder] = (fingerprint, listing)
        except OSError:
            listing = _Listing()
        if listings is not None:
            listings.by_folder[folder] = listing
        return listing

    def _read_folder(self, path: str, folder: str) -> _Listing:
        listing = _Listing()
        with os.scandir(path) as entries:
            for entry in entries:
                if self.is_sentinel(entry.name):
                    listing.sentinels.setdefault(
                        fold_name(entry.name[: -len(self.line.sentinel)]), []
                    ).append(entry.name)
                elif self.is_ticket(entry.name) and not is_temporary(entry.name):
                    if not os.path.isdir(entry.path):
                        listing.add_ticket(entry.name)
                elif (
                    self._accepts(entry.name)
                    and self.is_regular_entry(entry)
                    and not self._is_ignored(f"{folder}/{entry.name}" if folder else entry.name)
                ):
                    listing.add_file(entry.name)
        return listing

    def _absolute(self, path: str) -> Path:
        return Path(self.root, *path.split("/"))


def fold_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
