"""Follow what lies on the disk: settled changes as an iterator, and graphs whose results are kept
true.

The modules, from the ground up: `settled` gives changes once things are quiet; `events` is what
watching says; `dependencies` names what a graph depends on; `reload` takes the code of plugins
anew; `session` is the whole.
"""

from .events import (
    Changed,
    Happening,
    Noticed,
    Planned,
    Refused,
    Reloaded,
    Waiting,
    Warned,
    as_json,
)
from .session import watch, watch_graphs
from .settled import Changes, changes, is_temporary

__all__ = [
    "Changed",
    "Changes",
    "Happening",
    "Noticed",
    "Planned",
    "Refused",
    "Reloaded",
    "Waiting",
    "Warned",
    "as_json",
    "changes",
    "is_temporary",
    "watch",
    "watch_graphs",
]
