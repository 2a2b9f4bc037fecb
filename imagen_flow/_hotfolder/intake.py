"""Find the files of a line, tell their versions apart, and match tickets with them.

A file belongs to the line if its name matches `accept` and no pattern of `ignore`, it is a regular
file, and it lies neither in a folder that the line itself writes to nor under a hidden name. Names
of unfinished files (of an editor or a download) and companions of our own outputs are skipped.

The **ticket** of ``x.png`` is ``x.png.yaml`` (or ``.yml``, ``.json``), else ``x.yaml``, in any case
and Unicode form, since not every system that delivers files preserves these. Of two files that fit,
the one with the same case is meant. A ticket is never silently skipped: if it is ambiguous (two
tickets for one file, one for ``x.png`` and ``x.jpg``), or is a link or a pipe, its file fails and
says why. A file settles together with its ticket, once neither has changed for a while. A ticket
without a file waits indefinitely. A file waits for its ticket only with ``ticket: required``, and
otherwise only until it has settled itself: deliver the ticket first.

An empty file is treated as unfinished, since many programs create the name first and write later.
It settles only after `empty_s`, unless a sentinel says that it is complete.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._provenance.embedding import SIDECAR
from .._system.regular_files import open_regular
from .._types.digest import digest_stream
from .._watch import is_temporary
from .companions import Companions, ListingCache, fold_name
from .config import Line
from .disk import find_disk_error
from .ignore import Ignored
from .journal import FoundFile, Journal

__all__ = ["Intake", "ListingCache", "TEMPORARY_PREFIX", "PassedOver", "digest_file"]

#: Prefix of our temporary files and of originals that are being moved.
TEMPORARY_PREFIX = ".imagen_flow-"


#: The limit of an SQLite integer. XFS, ZFS and others can store times outside the years 1677 to
#: 2262, in nanoseconds.
_MAX_INTEGER = 2**63

#: Stands for the size of a ticket that is not read: a link, a pipe or the like.
_NOT_REGULAR = -1

_MOVING_NAME = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]+)--?(\d+)\.taken")


@dataclass(slots=True)
class PassedOver:
    """Counts of what lies in the folder but does not belong to the line."""

    endings: Counter[str] = field(default_factory=Counter)
    #: The first name with each ending, in alphabetical order.
    examples: dict[str, str] = field(default_factory=dict)
    links: int = 0
    special_files: int = 0
    stray_tickets: int = 0
    #: Folders that cannot be read, each with the reason.
    unreadable: list[str] = field(default_factory=list)

    def count(self) -> int:
        return (
            self.endings.total()
            + self.links
            + self.special_files
            + self.stray_tickets
            + len(self.unreadable)
        )

    def describe(self) -> str:
        """Describe the counts on one line; empty if there is nothing."""
        most_frequent = sorted(
            self.endings.items(), key=lambda pair: (-pair[1], pair[0] == "", pair[0])
        )[:10]
        parts = [
            f"{count:,} {ending or 'without an extension'}"
            f" ({self.examples[ending]}{', …' if count > 1 else ''})"
            for ending, count in most_frequent
        ]
        if remaining := self.endings.total() - sum(count for _, count in most_frequent):
            parts.append(f"{remaining:,} others")
        descriptions = [f"not in 'accept': {', '.join(parts)}"] if parts else []
        for count, singular, plural in (
            (self.links, "link, and links are ignored", "links, and links are ignored"),
            (self.special_files, "pipe or device", "pipes or devices"),
            (self.stray_tickets, "ticket without a file", "tickets without a file"),
        ):
            if count:
                descriptions.append(f"{count:,} {singular if count == 1 else plural}")
        if self.unreadable:
            shown = sorted(self.unreadable)[:5] + (["…"] if len(self.unreadable) > 5 else [])
            descriptions.append(f"cannot be read: {', '.join(shown)}")
        return "; ".join(descriptions)


class Intake:
    """Inspects the watched folder of a line. Stateless, except that listings of unchanged folders
    are cached.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.root = os.fspath(line.inbox)
        self._accept = [unicodedata.normalize("NFC", pattern).lower() for pattern in line.accept]
        self._ignored = Ignored(line.ignore)
        self._own = {
            os.path.realpath(folder) for folder in (line.out, line.done, line.failed, line.journal)
        }
        self.companions = Companions(line, self.accepts, self._ignored.matches_file)

    # -- which files belong to the line

    def accepts(self, name: str) -> bool:
        """Return whether files of this name belong to the line, unless they are ignored."""
        return not self._is_auxiliary(name) and self._matches_accept(name)

    def _matches_accept(self, name: str) -> bool:
        low = unicodedata.normalize("NFC", name).lower()
        return any(fnmatch.fnmatchcase(low, pattern) for pattern in self._accept)

    def _is_auxiliary(self, name: str) -> bool:
        """Return whether a name is hidden, temporary, or that of a companion of a file."""
        return (
            is_temporary(name)
            or name.endswith(SIDECAR)
            or self.companions.is_ticket(name)
            or self.companions.is_sentinel(name)
        )

    def is_own(self, path: Path) -> bool:
        """Return whether a path lies in a folder that the line itself writes to."""
        real = os.path.realpath(path)
        return any(real == own or real.startswith(own + os.sep) for own in self._own)

    def walk(self, below: str = "", *, skipped: PassedOver | None = None) -> Iterator[FoundFile]:
        """Find all files of the line in a folder below the watched one, and in its sub-folders.

        Params:
            skipped: receives counts of what does not belong to the line.

        Raises:
            OSError: the folder itself cannot be read.
        """
        for path, listings in self._paths(below, skipped):
            if seen := self.inspect(path, listings):
                yield seen

    def count_passed_over(self) -> PassedOver:
        """Count what lies in the folder but does not belong to the line, without inspecting files.

        Raises:
            OSError: the folder itself cannot be read.
        """
        skipped = PassedOver()
        for _ in self._paths("", skipped):
            pass
        return skipped

    def _paths(self, below: str, skipped: PassedOver | None) -> Iterator[tuple[str, ListingCache]]:
        pending = [below]
        is_first = True
        while pending:
            folder = pending.pop()
            listings = ListingCache()
            files: list[str] = []
            try:
                with os.scandir(
                    os.path.join(self.root, folder) if folder else self.root
                ) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if (
                                self.line.folders != "ignored"
                                and not is_temporary(entry.name)
                                and os.path.realpath(entry.path) not in self._own
                                and not self._ignored.matches_folder(path)
                            ):
                                pending.append(path)
                        elif self._ignored.matches_file(path) or self._is_skipped(entry, skipped):
                            continue
                        elif self.accepts(entry.name):
                            files.append(path)
            except OSError as error:
                if is_first or find_disk_error(error, network=True):
                    raise
                if skipped is not None:
                    skipped.unreadable.append(
                        f"{folder} ({(error.strerror or str(error)).lower()})"
                    )
            is_first = False
            for path in files:
                yield path, listings
            if skipped is not None and self.line.ticket != "none":
                listing = self.companions.listing(folder, listings)
                skipped.stray_tickets += sum(
                    not listing.files_for_ticket(ticket)
                    for tickets in listing.tickets.values()
                    for ticket in tickets
                )

    def _is_skipped(self, entry: os.DirEntry[str], skipped: PassedOver | None) -> bool:
        """Return whether a folder entry does not belong to the line, and count it."""
        if self._is_auxiliary(entry.name):
            return True
        if entry.is_symlink() and self.line.links != "followed":
            if skipped is not None:
                skipped.links += 1
            return True
        if not self.companions.is_regular_entry(entry):
            if skipped is not None and not os.path.isdir(entry.path):
                skipped.special_files += 1
            return True
        if not self._matches_accept(entry.name):
            if skipped is not None:
                ending = os.path.splitext(entry.name)[1].lower()
                skipped.endings[ending] += 1
                skipped.examples[ending] = min(skipped.examples.get(ending, entry.name), entry.name)
            return True
        return False

    def find_changed(self, path: Path, listings: ListingCache | None = None) -> Iterator[FoundFile]:
        """Return the files that a changed path stands for, as they are now; for a ticket or a
        sentinel, its files.
        """
        try:
            relative = path.relative_to(self.line.inbox)
        except ValueError:
            return
        if self.is_own(path) or any(map(is_temporary, relative.parts)):
            return
        name = relative.as_posix()
        if (self.line.folders == "ignored" and "/" in name) or self._ignored.matches_file(name):
            return
        if (
            self.companions.is_sentinel(path.name) or self.companions.is_ticket(path.name)
        ) and not os.path.isdir(path):
            folder, slash, companion = name.rpartition("/")
            listing = self.companions.listing(folder, listings)
            stem = fold_name(
                companion[: -len(self.line.sentinel)]
                if self.companions.is_sentinel(companion)
                else os.path.splitext(companion)[0]
            )
            for file in sorted({*listing.files.get(stem, ()), *listing.stems.get(stem, ())}):
                if seen := self.inspect(f"{folder}{slash}{file}", listings):
                    yield seen
            return
        if os.path.isdir(path) and not path.is_symlink():
            if self.line.folders != "ignored" and not self._ignored.matches_folder(name):
                try:
                    yield from self.walk(name)
                except OSError:
                    return
        elif seen := self.inspect(name, listings):
            yield seen

    # -- one file

    def absolute(self, path: str) -> Path:
        return Path(self.root, *path.split("/"))

    def inspect(self, path: str, listings: ListingCache | None = None) -> FoundFile | None:
        """Return a file as it is now, together with its ticket; None if it does not exist or does
        not belong to the line.

        Params:
            listings: shared by a series of lookups, so that each folder is read once.
        """
        stat = self.companions.stat_regular(self.absolute(path))
        if (
            stat is None
            or not self.accepts(path.rpartition("/")[2])
            or self._ignored.matches_file(path)
        ):
            return None
        fingerprint: list[Any] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        for ticket in self.companions.find_tickets(path, listings):
            ticket_path = self.absolute(path).with_name(ticket)
            if ticket_stat := self.companions.stat_regular(ticket_path):
                fingerprint.append(
                    [ticket, ticket_stat.st_size, ticket_stat.st_mtime_ns, ticket_stat.st_ino]
                )
            elif special := self._lstat(ticket_path):
                fingerprint.append([ticket, _NOT_REGULAR, 0, special.st_ino])
        is_complete = (
            bool(self.line.sentinel)
            and self.companions.find_sentinel(path, listings) is not None
            and self._has_ticket(fingerprint)
        )
        return FoundFile(
            path,
            json.dumps(fingerprint),
            min(max(stat.st_mtime_ns, -_MAX_INTEGER), _MAX_INTEGER - 1),
            is_complete,
            empty=stat.st_size == 0,
        )

    def _lstat(self, path: Path) -> os.stat_result | None:
        try:
            return os.lstat(path)
        except (OSError, ValueError):
            return None

    def is_ready(self, seen: FoundFile, unchanged_s: float) -> bool:
        """Return whether a file that has not changed for this long has content, and the ticket and
        sentinel that it needs.
        """
        if seen.empty and not seen.whole and unchanged_s < self.line.empty_s:
            return False
        return (
            not self.line.sentinel or self.companions.find_sentinel(seen.path) is not None
        ) and self._has_ticket(json.loads(seen.fingerprint))

    def _has_ticket(self, fingerprint: list[Any]) -> bool:
        return self.line.ticket != "required" or len(fingerprint) > 3

    def is_unchanged(self, fingerprint: str, path: Path, digest: str | None) -> bool:
        """Return whether a file is the version that a fingerprint was taken of: it has its size and
        time, and its inode or its content.

        Raises:
            OSError: the disk does not respond.
        """
        stat = self.companions.stat_regular(path, strict=True)
        if stat is None:
            return False
        size, mtime, inode = json.loads(fingerprint)[:3]
        if (size, mtime) != (stat.st_size, stat.st_mtime_ns):
            return False
        try:
            return inode == stat.st_ino or (
                digest is not None
                and digest_file(path, links=self.line.links == "followed") == digest
            )
        except OSError as error:
            if find_disk_error(error, network=True):
                raise
            return False

    def orphans(self, journal: Journal) -> Iterator[Path]:
        """Find originals and tickets that were being moved for a journal that was lost, or for an
        item that is not moving any more.
        """
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [
                f
                for f in subfolders
                if not f.startswith(".")
                and os.path.realpath(os.path.join(folder, f)) not in self._own
            ]
            for name in names:
                found = _MOVING_NAME.match(name)
                # Ask only now: an item changes its state before its original is renamed.
                if found and not (found[1] == journal.name and journal.is_moving(int(found[2]))):
                    yield Path(folder, name)


def digest_file(path: Path, *, links: bool) -> str:
    """Digest a file's content. A link is refused unless links are followed.

    Raises:
        OSError: the file cannot be read.
    """
    if links:
        with open_regular(path) as stream:
            return digest_stream(stream)
    handle = os.open(
        path,
        os.O_RDONLY
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
    )
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return digest_stream(stream)
