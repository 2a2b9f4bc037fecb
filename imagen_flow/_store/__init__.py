"""Keep the results of steps: values by digest, and for each step's key its outputs and provenance.

A folder::

    index.sqlite     keys, provenance, and every value whose encoding takes at most 64 KiB
    objects/ab/cd…   larger values and files that nodes made, content-addressed
    trees/…          folders and models that nodes made, rebuilt from objects (hard links or copies)
    scratch/KEY/     the working folder of a running step
    files.sqlite     cached digests of files outside the store (see `file_digests`)
    locks, pins/     claims of processes

**A wrong value is never served**: everything that is read is digested again. If a value is missing
or damaged, it is removed together with the steps that produced it, and `Damaged` is raised, so that
these steps run again.

**Nothing waits for the disk**: records are queued for one writer thread, which encodes and writes
them; until a record is written, it is served from memory.

**Several processes may share a store** on a local disk. `lease` claims a key that is being
computed, `pin` protects what a run is going to read; both end with their process.

The modules, bottom up: `index_file` (the database) and `index` (its rows), `objects` (content in
files) and `locks` (claims of processes) each handle one thing on the disk; `records` is the text
form of a step's outputs; `opening` checks whether a folder can be a store, and opens it; `pins`
protects entries from garbage collection; `folders` keeps files, folders and models; `values` keeps
values of every kind, using the index, the objects and the folders; `writer` writes records in a
thread of its own; `maintenance` collects garbage, verifies and reports sizes; `store` combines all
of them; `derived` keeps folders that are no results of steps.
"""

from .derived import derive_folder
from .maintenance import CleanupReport, VerificationReport
from .records import MAX_NOTE_LENGTH, MAX_NOTES, Record
from .store import Store
from .values import Damaged

__all__ = [
    "MAX_NOTE_LENGTH",
    "MAX_NOTES",
    "CleanupReport",
    "Damaged",
    "Record",
    "Store",
    "VerificationReport",
    "derive_folder",
]
