"""Hot folders: a folder in, a graph, finished assets out, unattended.

A **line** is a text file that names a folder, a graph and where things go. An **item** is one file
in that folder, in one form: replaced, it is another item. What happens to items is kept in a
**journal**, and nothing
else decides: processes may be killed, and several may share a line.

::

    in/x.png ──▶ seen ──stands still──▶ settled ──▶ running ──▶ placing ──▶ placed ──▶ done
    out/x.png, done/x.png
                                                       └──▶ failing ──▶ failed
                                                       failed/x.png, failed/x.png.failed.txt

**Exactly once, in effect.** The original stays in its folder until all is done, so the folder
itself is the queue, and a journal that is lost costs work but no file. A run leaves nothing but
temporary files that
nobody sees. Only when all outputs lie there whole and durable does one commit of the journal say
which renames make them seen; from then on whoever comes carries these out, and nothing is run
again, however
often it is interrupted: so it makes no difference whether a graph gives the same bytes twice. Then
    the original moves, then the item ends. Each of these steps can be repeated, and each can tell
    whether it has been done.

**What is trusted.** The line file is the operator's: it may name commands. Files and tickets are
anybody's: a ticket sets what the line allows, and no name leads out of a folder.

**Whose fault.** What one file causes ends in `failed`, with its reason; neighbours do not notice.
What every file would meet (a full disk, a share that is gone) makes the line wait, and costs no
item. What only a new process
can mend (a journal that cannot be written) ends the process, with an exit code of its own.

The modules, from the ground up: `ignore` (names that are never work); `disk` (the operations on
files, to be recorded in tests); `config` (text to Line); `journal`; `log` and `notify`; `intake`
(which files, and what tells one form from another); `ticket`; `publish` (outputs and originals,
durably and in order); `recipe` (a line together with its graph); `worker` (one item from beginning
to end); `service` (threads); `admin` (status and retry).
"""

from .admin import is_named, retry, status
from .config import Line, check_together, read_line
from .disk import may_pass
from .journal import Journal, JournalError
from .recipe import Recipe, prepare
from .service import RunningLine, Tools
from .worker import check_plan

__all__ = [
    "Journal",
    "JournalError",
    "Line",
    "Recipe",
    "RunningLine",
    "Tools",
    "check_plan",
    "check_together",
    "is_named",
    "may_pass",
    "prepare",
    "read_line",
    "retry",
    "status",
]
