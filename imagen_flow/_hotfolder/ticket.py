"""Read a ticket: untrusted text that sets inputs of the graph for one item.

It may set the inputs that the line allows: by default, every plain input except the one that
receives the file and those that choose a model. Text in it is not scanned for ``${``. Paths in it
must lie in the watched folder, and not be reached through a link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .._graph import Graph
from .._plan import from_text
from .._text.words import UNREADABLE, Pair, Word
from .._text.yaml_reader import read_words
from .._types.ports import BadValue, PortType
from ..errors import GraphError, Mark, Problem, Source, nearest

__all__ = ["MAX_BYTES", "read_ticket", "read_value"]

#: The maximum size of a ticket; prompts are short.
MAX_BYTES = 64 << 10


def read_ticket(
    path: Path, graph: Graph, *, allowed: Collection[str], inbox: Path, links: bool = False
) -> dict[str, Any]:
    """Return the values that a ticket sets.

    Params:
        links: whether it may be a symbolic link.

    Raises:
        GraphError: its problems, all of them, in the order of the file.
        OSError: it cannot be read.
    """
    ticket_name = path.name
    handle = os.open(
        path,
        os.O_RDONLY
        | (0 if links else getattr(os, "O_NOFOLLOW", 0))
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
    )
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise GraphError(
                [Problem("unreadable", f"the ticket {ticket_name} is not a regular file")]
            )
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise GraphError(
            [
                Problem(
                    "too-large",
                    f"a ticket may be at most {MAX_BYTES >> 10} KiB",
                    Mark(Source(ticket_name, ""), 1, 1),
                )
            ]
        )
    written = read_words(data, name=ticket_name, references=False)
    problems = list(written.problems)
    values: dict[str, Any] = {}
    root = written.word
    if root is not None and root.value is not UNREADABLE and root.value is not None:
        if not isinstance(root.value, dict):
            problems.append(
                Problem(
                    "bad-shape",
                    "a ticket is a mapping of inputs",
                    root.mark,
                    fix="write lines such as scale: 3",
                )
            )
        else:
            pairs: dict[str, Pair] = root.value
            for name, pair in pairs.items():
                if name not in allowed:
                    why = (
                        "the line does not allow it"
                        if name in graph.inputs
                        else "the graph has no such input"
                    )
                    problems.append(
                        Problem(
                            "unknown-input",
                            f"a ticket cannot set '{name}'",
                            pair.key.mark,
                            why,
                            nearest(name, allowed, what="it can set"),
                        )
                    )
                    continue
                try:
                    values[name] = read_value(
                        pair.value, graph.inputs[name].type, base=path.parent, within=inbox
                    )
                except BadValue as error:
                    problems.append(
                        Problem(
                            "bad-input",
                            f"input '{name}' {error}",
                            pair.value.mark,
                            fix=nearest(error.given, error.known) if error.known else "",
                        )
                    )
    if problems:
        raise GraphError(problems)
    return values


def read_value(word: Word, type_: PortType, *, base: Path, within: Path | None = None) -> Any:
    """Convert a value in a ticket or a line to an input's type.

    Params:
        base: the folder that relative paths start from.
        within: the folder that paths may not leave; None allows any path.

    Raises:
        BadValue: it does not fit; the message continues after the input's name.
    """
    value = _plain(word)
    if type_.kind in ("file", "folder"):
        return _path(value, type_, base, within)
    if (
        type_.kind == "list"
        and type_.element is not None
        and type_.element.kind in ("file", "folder")
    ):
        if not isinstance(value, list):
            raise BadValue(f"takes {type_.words}")
        return [_path(item, type_.element, base, within) for item in value]
    if type_.seed and isinstance(value, str):
        return from_text(type_, value)
    return type_.check(value)


def _plain(word: Word) -> Any:
    # The parser limits the depth.
    if isinstance(word.value, dict):
        return {key: _plain(pair.value) for key, pair in word.value.items()}
    if isinstance(word.value, tuple):
        return [_plain(item) for item in word.value]
    if word.value is UNREADABLE:
        raise BadValue("cannot be read")
    return word.value


def _path(value: Any, type_: PortType, base: Path, within: Path | None) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadValue(f"takes {type_.words}")
    if within is None:
        return base / Path(value).expanduser()
    path = base / value
    resolved, root = os.path.realpath(path), os.path.realpath(within)
    if not resolved.startswith(root + os.sep):
        raise BadValue("names a path outside the watched folder")
    # With links resolved, so that the checked path is the opened path.
    return Path(resolved)
