"""Keep what steps gave: values by their digest, and by a step's key which values it gave and how.

A folder::

    index.sqlite     keys, provenance, and every value whose encoding takes at most 64 KiB
    objects/ab/cd…   larger values, and the content of files that nodes made, under their digests
    trees/…          folders and models that nodes made, laid out again from objects (hard links, or
    copies)
    scratch/KEY/     a running step's own folder
    files.sqlite     digests of files outside, remembered (see filememo)
    locks, pins/     claims among processes

**Nothing wrong is ever served**: whatever is read is digested again. What is missing or damaged is
forgotten together with the steps that gave it, and `Damaged` is raised, so that they run again.

**Nothing waits for the disk**: a record is handed to one writer thread, which encodes and writes;
until it is written, it is served from memory.

**Several processes may share it** on a local disk. A key in the making is claimed by `lease`, what
a run is going to read by `pin`; both end with their process, however it ends.

The modules, from the ground up: `index` (the database), `objects` (content in files) and `locks`
(claims among processes) each know one thing on the disk, `records` the words of the index for what
a step gave; `opening` says whether a folder can be a store, and opens it; `pins` is what runs hold
against clean-up; `folders` keeps files, folders and models; `values` keeps values of every kind, on
the index, objects and folders; `writer` brings records there in a thread of its own; `maintenance`
cleans, verifies and counts; `store` is the whole.
"""

from .maintenance import CleanupReport, VerificationReport
from .records import LONGEST_NOTE, MOST_NOTES, Record
from .store import Store
from .values import Damaged

__all__ = [
    "LONGEST_NOTE",
    "MOST_NOTES",
    "CleanupReport",
    "Damaged",
    "Record",
    "Store",
    "VerificationReport",
]
