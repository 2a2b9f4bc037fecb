"""Watch files and graphs: settled changes as an iterator, and graphs that are run again whenever
something they depend on changes.

The modules, from the lowest floor up: `settled` yields changes once they have settled; `events` are
what watching reports; `dependencies` lists what a graph depends on; `reload` imports changed
plugins again; `targets` is what is watched; `environments` keeps settings, plugins and stores up to
date; `planner` plans graphs; `session` runs them.
"""

from .events import (
    Changed,
    Noticed,
    Planned,
    Refused,
    Reloaded,
    Waiting,
    Warned,
    WatchEvent,
    as_json,
)
from .session import watch, watch_graphs
from .settled import Changes, changes, is_temporary

__all__ = [
    "Changed",
    "Changes",
    "WatchEvent",
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
