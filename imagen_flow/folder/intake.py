"""Find the files of a line: which count, what tells one form of a file from another, and which ticket goes with which.

A file counts if its name fits `accept`, it is a plain file, and it lies neither in a folder that the line itself writes to nor under a hidden name. What is named as only being on its way (an editor's or a download's
temporary name) does not count, nor does what our own outputs have beside them.

A **ticket** of ``x.png`` is ``x.png.yaml`` (or ``.yml``, ``.json``), else ``x.yaml``. The second kind is for one picture: with ``x.jpg`` beside it nobody can say whose it is. A picture settles together with its ticket: once
both have stood still. A ticket alone waits for its picture for ever; a picture waits for its ticket where the line says ``ticket: required``, else only as long as it takes to settle itself: drop the ticket first.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..digest import digest_stream
from ..labels import SIDECAR
from ..watch import is_temporary
from .disk import affects_every_item
from .journal import Journal, Seen
from .linefile import Line

__all__ = ["Intake", "OURS", "digest_of"]

_TICKETS = (".yaml", ".yml", ".json")

#: What the names of our temporary files and of originals on their way begin with.
OURS = ".imagen_flow-"


#: What an integer of SQLite can hold. XFS, ZFS and others keep times beyond the years 1677 to 2262, in nanoseconds.
_LONG = 2**63

_AWAY = re.compile(rf"{re.escape(OURS)}([0-9a-f]+)--?(\d+)\.taken")


class Intake:
    """Looks at the folder of a line. Holds nothing of what it has seen."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.root = os.fspath(line.inbox)
        self._accept = [pattern.lower() for pattern in line.accept]
        self._own = {os.path.realpath(place) for place in (line.out, line.done, line.failed, line.journal)}

    # -- which files count -------------------------------------------------------------------------------------------------------

    def counts(self, name: str) -> bool:
        """Whether a file of this name is for the line."""
        low = name.lower()
        if is_temporary(name) or name.endswith(SIDECAR) or self.is_ticket(name) or (self.line.sentinel and name.endswith(self.line.sentinel)):
            return False
        return any(fnmatch.fnmatchcase(low, pattern) for pattern in self._accept)

    def is_ticket(self, name: str) -> bool:
        return self.line.ticket != "none" and name.lower().endswith(_TICKETS)

    def is_own(self, path: Path) -> bool:
        """Whether a path lies where the line itself writes."""
        real = os.path.realpath(path)
        return any(real == own or real.startswith(own + os.sep) for own in self._own)

    def walk(self, below: str = "") -> Iterator[Seen]:
        """Give every file of a folder below the watched one, and of the folders in it.

        Raises:
            OSError: the folder itself cannot be read.
        """
        pending = [below]
        first = True
        while pending:
            here = pending.pop()
            try:
                with os.scandir(os.path.join(self.root, here) if here else self.root) as entries:
                    for entry in entries:
                        path = f"{here}/{entry.name}" if here else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if self.line.folders != "ignored" and not is_temporary(entry.name) and os.path.realpath(entry.path) not in self._own:
                                pending.append(path)
                        elif self.counts(entry.name) and (seen := self.look(path)):
                            yield seen
            except OSError:
                if first:
                    raise
            first = False

    def of_change(self, path: Path) -> Iterator[Seen | str]:
        """Give what a changed path may mean: files as they are now, or the stem of files whose ticket it is."""
        try:
            relative = path.relative_to(self.line.inbox)
        except ValueError:
            return
        if self.is_own(path) or any(map(is_temporary, relative.parts)):
            return
        name = relative.as_posix()
        if self.line.folders == "ignored" and "/" in name:
            return
        if self.line.sentinel and name.endswith(self.line.sentinel):
            name = name.removesuffix(self.line.sentinel)
        elif self.is_ticket(path.name):
            yield os.path.splitext(name)[0]
            return
        if path.is_dir() and not path.is_symlink():
            if self.line.folders != "ignored":
                try:
                    yield from self.walk(name)
                except OSError:
                    return
        elif self.counts(name.rpartition("/")[2]) and (seen := self.look(name)):
            yield seen

    # -- one file ----------------------------------------------------------------------------------------------------------------

    def place(self, path: str) -> Path:
        return Path(self.root, *path.split("/"))

    def look(self, path: str) -> Seen | None:
        """Give a file as it is now, together with its ticket; None if it is not there or is none that counts."""
        found = self._stat(self.place(path))
        if found is None:
            return None
        ticket = self.ticket(path)
        beside = self._stat(ticket) if ticket is not None else None
        said: list[Any] = [found.st_size, found.st_mtime_ns, found.st_ino]
        if ticket is not None and beside is not None:
            said.append([ticket.name, beside.st_size, beside.st_mtime_ns, beside.st_ino])
        whole = bool(self.line.sentinel) and self.sentinel(path) is not None and self._has_ticket(said)
        return Seen(path, json.dumps(said), min(max(found.st_mtime_ns, -_LONG), _LONG - 1), whole)

    def _stat(self, place: Path, *, strict: bool = False) -> os.stat_result | None:
        """Give what is known of a plain file; None if there is none. A disk that does not answer counts as none, or is an OSError if `strict`."""
        try:
            found = os.lstat(place)
            if stat.S_ISLNK(found.st_mode) and self.line.links == "followed":
                found = os.stat(place)
        except (OSError, ValueError) as failed:
            if strict and affects_every_item(failed, network=True):
                raise
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def wants(self, seen: Seen) -> bool:
        """Whether a file that stands still has all that it needs beside it."""
        return (not self.line.sentinel or self.sentinel(seen.path) is not None) and self._has_ticket(json.loads(seen.sign))

    def _has_ticket(self, sign: list[Any]) -> bool:
        return self.line.ticket != "required" or len(sign) > 3

    def sentinel(self, path: str) -> Path | None:
        """Give the file that says that another is complete, if it is there."""
        place = self.place(path + self.line.sentinel) if self.line.sentinel else None
        return place if place is not None and self._stat(place) else None

    def ticket(self, path: str) -> Path | None:
        """Give the ticket of a file, if there is one."""
        if self.line.ticket == "none":
            return None
        for stem in (path, os.path.splitext(path)[0]):
            for ending in _TICKETS:
                place = self.place(stem + ending)
                if self._stat(place):
                    return place
        return None

    def is_same(self, sign: str, place: Path, digest: str | None) -> bool:
        """Whether a file is the one that a sign was taken of: by size and time, and by the file itself or its content.

        Raises:
            OSError: the disk does not answer.
        """
        found = self._stat(place, strict=True)
        if found is None:
            return False
        size, mtime, inode = json.loads(sign)[:3]
        if (size, mtime) != (found.st_size, found.st_mtime_ns):
            return False
        try:
            return inode == found.st_ino or (digest is not None and digest_of(place, links=self.line.links == "followed") == digest)
        except OSError as failed:
            if affects_every_item(failed, network=True):
                raise
            return False

    def orphans(self, journal: Journal) -> Iterator[Path]:
        """Give originals and tickets that were on their way for a journal that is lost, or for an item that is not moving any more."""
        for here, folders, names in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith(".") and os.path.realpath(os.path.join(here, f)) not in self._own]
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
    handle = os.open(place, os.O_RDONLY | (0 if links else getattr(os, "O_NOFOLLOW", 0)) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(place))
        return digest_stream(stream)
