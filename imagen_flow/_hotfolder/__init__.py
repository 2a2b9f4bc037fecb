"""Hot folders: put each file that arrives in a folder through a graph, unattended.

A **line** is a text file that names a folder, a graph and the folders for results. An **item** is
one version of a file in that folder: if the file is replaced, that is another item. The state of
every item is kept in a **journal**, and decisions depend on nothing else. Processes may be killed,
and several may share a line.

::

    in/x.png ──▶ seen ──unchanged for a while──▶ settled ──▶ running
                   ──▶ placing ──▶ placed ──▶ done      out/x.png, done/x.png
                   ──▶ failing ──▶ failed               failed/x.png, failed/x.png.failed.txt

**Exactly once, in effect.** The original stays in its folder until everything is done, so the
folder itself is the queue, and a lost journal costs work but no file. A run writes only temporary
files. Once all outputs are complete and durable, one commit of the journal records the renames that
publish them. From then on any process can carry these out, and nothing is run again however often
it is interrupted, so it does not matter whether a graph gives the same bytes twice. Then the
original is moved, and the item ends. Each of these steps can be repeated, and each can detect
whether it has been done.

**Trust.** The line file belongs to the operator and may name commands. Files and tickets may come
from anyone: a ticket sets only the inputs that the line allows, and no name leads out of a folder.

**Errors.** A failure caused by one file ends in `failed`, with the reason beside the file; other
items are not affected. A failure that every file would meet (a full disk, a missing share) makes
the line wait, and fails no item. If only a new process can help (the journal cannot be written),
the process ends with an exit code of its own.

The modules, from the lowest floor up: `ignore` (names that are never taken in); `disk` (file
operations that tests can record); `config` (text to Line); `journal`; `log`; `companions` (tickets
and sentinels beside files); `notify`; `intake` (which files belong to the line, and how to tell
their versions apart); `ticket`; `publish` (file operations for outputs and originals, durable and
in order); `recipe` (a line with its resolved graph); `archive` (finishing an item); `watcher`
(recording files); `worker` (one item from start to end); `service` (threads); `admin` (status and
retry).
"""

from .admin import is_named, retry, status
from .config import Line, check_together, read_line
from .disk import is_temporary_error
from .journal import Journal, JournalError
from .recipe import Recipe, make_recipe
from .service import Resources, RunningLine
from .worker import check_plan

__all__ = [
    "Journal",
    "JournalError",
    "Line",
    "Recipe",
    "RunningLine",
    "Resources",
    "check_plan",
    "check_together",
    "is_named",
    "is_temporary_error",
    "make_recipe",
    "read_line",
    "retry",
    "status",
]
