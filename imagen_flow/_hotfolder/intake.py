"""Find the files of a line: which count, what tells one form of a file from another, and which
ticket goes with which.

A file counts if its name fits `accept` and no pattern of `ignore`, it is a plain file, and it lies
neither in a folder that the line itself writes to nor under a hidden name. What is named as only
being on its way (an
editor's or a download's temporary name) does not count, nor does what our own outputs have beside
them.

A **ticket** of ``x.png`` is ``x.png.yaml`` (or ``.yml``, ``.json``), else ``x.yaml``, in any case
and in either spelling of an accent, for not every system that drops files keeps them. Of two files
that a name fits, the
one with the same case is meant. A ticket that may be meant is read, or its file fails and says why
it was not: two tickets for one file, one for two files (``x.png`` and ``x.jpg`` beside ``x.yaml``),
a link, a pipe. A
picture settles together with its ticket: once both have stood still. A ticket alone waits for its
    picture for ever; a picture waits for its ticket where the line says ``ticket: required``, else
    only as long as it
takes to settle itself: drop the ticket first.

An empty file is a promise of one: many programs create the name first and write later. It settles
only after `empty_s`, unless a sentinel says that it is complete.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import stat
import time
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
from .config import Line
from .disk import affects_every_item
from .ignore import Ignored
from .journal import Journal, Seen

__all__ = ["Intake", "Names", "OURS", "Passed", "digest_of"]

_TICKETS = (".yaml", ".yml", ".json")

#: What the names of our temporary files and of originals on their way begin with.
OURS = ".imagen_flow-"


#: What an integer of SQLite can hold. XFS, ZFS and others keep times beyond the years 1677 to 2262,
#: in nanoseconds.
_LONG = 2**63

#: In the place of a size: the ticket is a link, a pipe or another thing that is not read.
_NOT_PLAIN = -1

#: How old the last change of a folder must be before its names are remembered, and of how many
#: folders they are.
_SETTLED_S = 2.0
_FOLDERS = 256

_AWAY = re.compile(rf"{re.escape(OURS)}([0-9a-f]+)--?(\d+)\.taken")


@dataclass(slots=True)
class Passed:
    """What lies in a folder and is not for the line: how many files by ending, links, pipes and
    devices, tickets without a file; and folders that cannot be read.
    """

    endings: Counter[str] = field(default_factory=Counter)
    #: A name with each ending, the first in order.
    examples: dict[str, str] = field(default_factory=dict)
    links: int = 0
    special: int = 0
    tickets: int = 0
    #: Folders that cannot be read, each with why.
    closed: list[str] = field(default_factory=list)

    def count(self) -> int:
        return self.endings.total() + self.links + self.special + self.tickets + len(self.closed)

    def words(self) -> str:
        """Say it in one line, or nothing."""
        most = sorted(self.endings.items(), key=lambda pair: (-pair[1], pair[0] == "", pair[0]))[
            :10
        ]
        parts = [
            f"{count:,} {ending or 'without ending'}"
            f" ({self.examples[ending]}{', …' if count > 1 else ''})"
            for ending, count in most
        ]
        if more := self.endings.total() - sum(count for _, count in most):
            parts.append(f"{more:,} others")
        said = [f"not in 'accept': {', '.join(parts)}"] if parts else []
        for count, one, many in (
            (self.links, "link, and links are ignored", "links, and links are ignored"),
            (self.special, "pipe or device", "pipes or devices"),
            (self.tickets, "ticket without a file", "tickets without a file"),
        ):
            if count:
                said.append(f"{count:,} {one if count == 1 else many}")
        if self.closed:
            said.append(
                "cannot be read:"
                f" {', '.join(sorted(self.closed)[:5])}{', …' if len(self.closed) > 5 else ''}"
            )
        return "; ".join(said)


class _Listing:
    """The names in one folder as of one moment: tickets by the name that they carry, files that
    count by theirs, folded.
    """

    __slots__ = ("files", "sentinels", "stems", "tickets")

    def __init__(self) -> None:
        self.sentinels: dict[str, list[str]] = {}
        self.tickets: dict[str, list[str]] = {}
        self.files: dict[str, list[str]] = {}
        self.stems: dict[str, list[str]] = {}

    def add_ticket(self, name: str) -> None:
        self.tickets.setdefault(_fold(os.path.splitext(name)[0]), []).append(name)

    def add_file(self, name: str) -> None:
        names = self.files.setdefault(_fold(name), [])
        if name not in names:
            names.append(name)
            self.stems.setdefault(_fold(os.path.splitext(name)[0]), []).append(name)

    def of_file(self, name: str) -> list[str]:
        """Give the names of the tickets that are meant for a file: one or none, or all that may be."""
        self.add_file(name)
        return self._under(name, name) or self._under(os.path.splitext(name)[0], name)

    def _under(self, called: str, name: str) -> list[str]:
        """Give the tickets called so that are meant for a file."""
        return sorted(
            ticket
            for ticket in self.tickets.get(_fold(called), ())
            if name in self.of_ticket(ticket)
        )

    def of_sentinel(self, stem: str) -> list[str]:
        """Give the names of the files that a sentinel called so speaks of."""
        near = self.files.get(_fold(stem), [])
        return [stem] if stem in near else sorted(near)

    def of_ticket(self, ticket: str) -> list[str]:
        """Give the names of the files that a ticket is meant for: one or none, or all that it may
        be meant for.
        """
        stem = os.path.splitext(ticket)[0]
        for kind, whole in ((self.files, True), (self.stems, False)):
            # What has a ticket under its whole name needs no other.
            near = [
                name for name in kind.get(_fold(stem), ()) if whole or not self._under(name, name)
            ]
            if (
                found := [
                    name for name in near if (name if whole else os.path.splitext(name)[0]) == stem
                ]
                or near
            ):
                return sorted(found)
        return []


class Names:
    """Lists each folder of a line at most once: for looks at many files in a row."""

    def __init__(self) -> None:
        self.listings: dict[str, _Listing] = {}


class Intake:
    """Looks at the folder of a line. Remembers nothing but the names in folders that have not
    changed since.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.root = os.fspath(line.inbox)
        self._accept = [unicodedata.normalize("NFC", pattern).lower() for pattern in line.accept]
        self._ignored = Ignored(line.ignore)
        self._own = {
            os.path.realpath(place) for place in (line.out, line.done, line.failed, line.journal)
        }
        self._listed: dict[str, tuple[tuple[int, int, int], _Listing]] = {}

    # -- which files count

    def counts(self, name: str) -> bool:
        """Whether a file of this name is for the line, unless it is ignored."""
        return not self._is_beside(name) and self._fits(name)

    def _fits(self, name: str) -> bool:
        low = unicodedata.normalize("NFC", name).lower()
        return any(fnmatch.fnmatchcase(low, pattern) for pattern in self._accept)

    def _is_beside(self, name: str) -> bool:
        """Whether a name is that of something hidden, on its way, or beside a file."""
        return (
            is_temporary(name)
            or name.endswith(SIDECAR)
            or self.is_ticket(name)
            or self._is_sentinel(name)
        )

    def _is_sentinel(self, name: str) -> bool:
        return bool(self.line.sentinel) and name.lower().endswith(self.line.sentinel.lower())

    def is_ticket(self, name: str) -> bool:
        return self.line.ticket != "none" and name.lower().endswith(_TICKETS)

    def is_own(self, path: Path) -> bool:
        """Whether a path lies where the line itself writes."""
        real = os.path.realpath(path)
        return any(real == own or real.startswith(own + os.sep) for own in self._own)

    def walk(self, below: str = "", *, passed: Passed | None = None) -> Iterator[Seen]:
        """Give every file of a folder below the watched one, and of the folders in it.

        Params:
            passed: is told of what is not for the line.

        Raises:
            OSError: the folder itself cannot be read.
        """
        for path, names in self._paths(below, passed):
            if seen := self.look(path, names):
                yield seen

    def passed_over(self) -> Passed:
        """Count what lies in the folder and is not for the line. No file is looked at.

        Raises:
            OSError: the folder itself cannot be read.
        """
        passed = Passed()
        for _ in self._paths("", passed):
            pass
        return passed

    def _paths(self, below: str, passed: Passed | None) -> Iterator[tuple[str, Names]]:
        pending = [below]
        first = True
        while pending:
            here = pending.pop()
            names = Names()
            files: list[str] = []
            try:
                with os.scandir(os.path.join(self.root, here) if here else self.root) as entries:
                    for entry in entries:
                        path = f"{here}/{entry.name}" if here else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if (
                                self.line.folders != "ignored"
                                and not is_temporary(entry.name)
                                and os.path.realpath(entry.path) not in self._own
                                and not self._ignored.folder(path)
                            ):
                                pending.append(path)
                        elif self._ignored.file(path) or self._tell(entry, passed):
                            continue
                        elif self.counts(entry.name):
                            files.append(path)
            except OSError as failed:
                if first or affects_every_item(failed, network=True):
                    raise
                if passed is not None:
                    passed.closed.append(f"{here} ({(failed.strerror or str(failed)).lower()})")
            first = False
            for path in files:
                yield path, names
            if passed is not None and self.line.ticket != "none":
                listing = self._listing(here, names)
                passed.tickets += sum(
                    not listing.of_ticket(ticket)
                    for tickets in listing.tickets.values()
                    for ticket in tickets
                )

    def _tell(self, entry: os.DirEntry[str], passed: Passed | None) -> bool:
        """Count an entry that is none for the line."""
        if self._is_beside(entry.name):
            return True
        if entry.is_symlink() and self.line.links != "followed":
            if passed is not None:
                passed.links += 1
            return True
        if not self._is_plain(entry):
            if passed is not None and not os.path.isdir(entry.path):
                passed.special += 1
            return True
        if not self._fits(entry.name):
            if passed is not None:
                ending = os.path.splitext(entry.name)[1].lower()
                passed.endings[ending] += 1
                passed.examples[ending] = min(passed.examples.get(ending, entry.name), entry.name)
            return True
        return False

    def of_change(self, path: Path, names: Names | None = None) -> Iterator[Seen]:
        """Give what a changed path may mean: files as they are now, be it because their ticket is
        another.
        """
        try:
            relative = path.relative_to(self.line.inbox)
        except ValueError:
            return
        if self.is_own(path) or any(map(is_temporary, relative.parts)):
            return
        name = relative.as_posix()
        if (self.line.folders == "ignored" and "/" in name) or self._ignored.file(name):
            return
        if (self._is_sentinel(path.name) or self.is_ticket(path.name)) and not os.path.isdir(path):
            head, slash, beside = name.rpartition("/")
            listing = self._listing(head, names)
            stem = _fold(
                beside[: -len(self.line.sentinel)]
                if self._is_sentinel(beside)
                else os.path.splitext(beside)[0]
            )
            for file in sorted({*listing.files.get(stem, ()), *listing.stems.get(stem, ())}):
                if seen := self.look(f"{head}{slash}{file}", names):
                    yield seen
            return
        if os.path.isdir(path) and not path.is_symlink():
            if self.line.folders != "ignored" and not self._ignored.folder(name):
                try:
                    yield from self.walk(name)
                except OSError:
                    return
        elif seen := self.look(name, names):
            yield seen

    # -- one file

    def place(self, path: str) -> Path:
        return Path(self.root, *path.split("/"))

    def look(self, path: str, names: Names | None = None) -> Seen | None:
        """Give a file as it is now, together with its ticket; None if it is not there or is none
        that counts.

        Params:
            names: of a row of looks, in which each folder is listed once.
        """
        found = self.plain(self.place(path))
        if found is None or not self.counts(path.rpartition("/")[2]) or self._ignored.file(path):
            return None
        sign: list[Any] = [found.st_size, found.st_mtime_ns, found.st_ino]
        for ticket in self.tickets(path, names):
            beside = self.place(path).with_name(ticket)
            if plain := self.plain(beside):
                sign.append([ticket, plain.st_size, plain.st_mtime_ns, plain.st_ino])
            elif other := self._lstat(beside):
                sign.append([ticket, _NOT_PLAIN, 0, other.st_ino])
        whole = (
            bool(self.line.sentinel)
            and self.sentinel(path, names) is not None
            and self._has_ticket(sign)
        )
        return Seen(
            path,
            json.dumps(sign),
            min(max(found.st_mtime_ns, -_LONG), _LONG - 1),
            whole,
            empty=found.st_size == 0,
        )

    def plain(self, place: Path, *, strict: bool = False) -> os.stat_result | None:
        """Give what is known of a plain file; None if there is none. A disk that does not answer
        counts as none, or is an OSError if `strict`.
        """
        try:
            found = os.lstat(place)
            if stat.S_ISLNK(found.st_mode) and self.line.links == "followed":
                found = os.stat(place)
        except (OSError, ValueError) as failed:
            if strict and affects_every_item(failed, network=True):
                raise
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _lstat(self, place: Path) -> os.stat_result | None:
        try:
            return os.lstat(place)
        except (OSError, ValueError):
            return None

    def wants(self, seen: Seen, still_s: float) -> bool:
        """Whether a file that has stood still for this long has all that it needs in it and beside
        it.
        """
        if seen.empty and not seen.whole and still_s < self.line.empty_s:
            return False
        return (
            not self.line.sentinel or self.sentinel(seen.path) is not None
        ) and self._has_ticket(json.loads(seen.sign))

    def _has_ticket(self, sign: list[Any]) -> bool:
        return self.line.ticket != "required" or len(sign) > 3

    def sentinel(self, path: str, names: Names | None = None) -> Path | None:
        """Give the file that says that another is complete, if it is there; in any case, and in
        either spelling of an accent.
        """
        if not self.line.sentinel:
            return None
        place = self.place(path + self.line.sentinel)
        if self.plain(place):
            return place
        head, _, name = path.rpartition("/")
        listing = self._listing(head, names)
        listing.add_file(name)
        for other in listing.sentinels.get(_fold(name), ()):
            if name in listing.of_sentinel(other[: -len(self.line.sentinel)]) and self.plain(
                place.with_name(other)
            ):
                return place.with_name(other)
        return None

    # -- tickets

    def tickets(self, path: str, names: Names | None = None) -> list[str]:
        """Give the names of the tickets beside a file that are meant for it: one or none, or all
        that may be.
        """
        if self.line.ticket == "none":
            return []
        head, _, name = path.rpartition("/")
        return self._listing(head, names).of_file(name)

    def others(self, path: str, ticket: str) -> list[str]:
        """Give the paths of other files that the ticket of a file may be meant for as well."""
        head, slash, name = path.rpartition("/")
        listing = self._listing(head, None)
        listing.add_file(name)
        return [f"{head}{slash}{other}" for other in listing.of_ticket(ticket) if other != name]

    def _is_plain(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_file(follow_symlinks=self.line.links == "followed")
        except OSError:  # a link that leads to itself
            return False

    def beside(self, place: Path) -> list[str]:
        """Give the names of the tickets beside a file anywhere, such as one in `failed`."""
        return (
            self._list(os.fspath(place.parent), "").of_file(place.name)
            if self.line.ticket != "none"
            else []
        )

    def _listing(self, folder: str, names: Names | None) -> _Listing:
        if names is not None and folder in names.listings:
            return names.listings[folder]
        place = os.path.join(self.root, folder) if folder else self.root
        now = time.time()
        try:
            found = os.stat(place)
            sign = (found.st_dev, found.st_ino, found.st_mtime_ns)
            known = self._listed.get(folder)
            if known is not None and known[0] == sign:
                listing = known[1]
            else:
                listing = self._list(place, folder)
                if (
                    now - found.st_mtime > _SETTLED_S
                ):  # else a name may come without the folder's time telling
                    if len(self._listed) > _FOLDERS:
                        self._listed.clear()
                    self._listed[folder] = (sign, listing)
        except OSError:
            listing = _Listing()
        if names is not None:
            names.listings[folder] = listing
        return listing

    def _list(self, place: str, folder: str) -> _Listing:
        listing = _Listing()
        with os.scandir(place) as entries:
            for entry in entries:
                if self._is_sentinel(entry.name):
                    listing.sentinels.setdefault(
                        _fold(entry.name[: -len(self.line.sentinel)]), []
                    ).append(entry.name)
                elif self.is_ticket(entry.name) and not is_temporary(entry.name):
                    if not os.path.isdir(entry.path):
                        listing.add_ticket(entry.name)
                elif (
                    self.counts(entry.name)
                    and self._is_plain(entry)
                    and not self._ignored.file(f"{folder}/{entry.name}" if folder else entry.name)
                ):
                    listing.add_file(entry.name)
        return listing

    def is_same(self, sign: str, place: Path, digest: str | None) -> bool:
        """Whether a file is the one that a sign was taken of: by size and time, and by the file
        itself or its content.

        Raises:
            OSError: the disk does not answer.
        """
        found = self.plain(place, strict=True)
        if found is None:
            return False
        size, mtime, inode = json.loads(sign)[:3]
        if (size, mtime) != (found.st_size, found.st_mtime_ns):
            return False
        try:
            return inode == found.st_ino or (
                digest is not None
                and digest_of(place, links=self.line.links == "followed") == digest
            )
        except OSError as failed:
            if affects_every_item(failed, network=True):
                raise
            return False

    def orphans(self, journal: Journal) -> Iterator[Path]:
        """Give originals and tickets that were on their way for a journal that is lost, or for an
        item that is not moving any more.
        """
        for here, folders, names in os.walk(self.root):
            folders[:] = [
                f
                for f in folders
                if not f.startswith(".")
                and os.path.realpath(os.path.join(here, f)) not in self._own
            ]
            for name in names:
                found = _AWAY.match(name)
                # Asked after it was seen: an item moves before its original does.
                if found and not (found[1] == journal.name and journal.is_moving(int(found[2]))):
                    yield Path(here, name)


def digest_of(place: Path, *, links: bool) -> str:
    """Digest a file's content; a link in its place is refused unless links are followed.

    Raises:
        OSError: it cannot be read.
    """
    if links:
        with open_regular(place) as stream:
            return digest_stream(stream)
    handle = os.open(
        place,
        os.O_RDONLY
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
    )
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(place))
        return digest_stream(stream)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
